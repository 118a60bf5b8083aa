"""Liveness and readiness, as an orchestrator probes them."""

import asyncio

import structlog
from fastapi import APIRouter, HTTPException, Request
from prometheus_client import Gauge
from pydantic import BaseModel

from . import errors
from .feature import Check, DegradedError, NotReadyError
from .metrics import REGISTRY
from .service import Assessment, Service

logger = structlog.get_logger()

CHECK_TIMEOUT_SECONDS = 2.0

READY = Gauge("service_ready", "1 if the service is ready, 0 if not.", registry=REGISTRY)
PASSED = Gauge(
    "readiness_check_passed",
    "1 if the check passes; 0 if it fails, or the service does without.",
    ["check"],
    registry=REGISTRY,
)

router = APIRouter(tags=["health"], responses=errors.RESPONSES)


class Health(BaseModel):
    status: str = "ok"
    checks: list[str] | None = None
    degraded: list[str] | None = None


@router.head("/health/live", include_in_schema=False)
@router.get("/health/live", response_model_exclude_none=True)
async def live() -> Health:
    """Responds while the process serves."""
    return Health()


@router.head("/health/ready", include_in_schema=False)
@router.get("/health/ready", response_model_exclude_none=True)
async def ready(request: Request) -> Health:
    """Responds with 503 and the failing checks while the service should get no requests."""
    checks = list(_checks(Service.of(request)))
    failing, degraded = await assess(request)
    if failing:
        raise HTTPException(503, f"Failing: {', '.join(sorted(failing))}")
    if degraded:
        return Health(status="degraded", checks=checks, degraded=sorted(degraded))
    return Health(checks=checks)


async def assess(request: Request) -> Assessment:
    """Run the readiness checks, and set the metrics that report them.

    Return the checks that fail, and those without which the service works, each with its reason.
    Requests at the same time share one run, so many probes cost no more than one.
    """
    service = Service.of(request)
    if service.assessment is None or service.assessment.done():
        service.assessment = asyncio.create_task(_assess(service))
    # A request that is cancelled does not end the run for the others.
    return await asyncio.shield(service.assessment)


async def _assess(service: Service) -> Assessment:
    checks = _checks(service)
    failing: list[str] = []
    degraded: list[str] = []
    await asyncio.gather(
        *(_run(name, check, service, failing, degraded) for name, check in checks.items())
    )
    READY.set(not failing)
    return failing, degraded


def _checks(service: Service) -> dict[str, Check]:
    return {name: check for feature in service.features for name, check in feature.checks.items()}


async def _run(
    name: str, check: Check, service: Service, failing: list[str], degraded: list[str]
) -> None:
    passed = False
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
            await check(service)
        passed = True
    except DegradedError as reason:
        degraded.append(f"{name} ({reason})")
    except NotReadyError as reason:
        failing.append(f"{name} ({reason})")
        logger.warning("readiness check failed", check=name, error=str(reason))
    except Exception as error:
        failing.append(name)
        logger.warning("readiness check failed", check=name, error=repr(error))
    finally:
        PASSED.labels(name).set(passed)
