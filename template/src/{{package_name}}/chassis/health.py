"""Liveness and readiness, as an orchestrator probes them."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from fastapi import APIRouter, HTTPException, Request
from pydantic import BaseModel

logger = structlog.get_logger()

Check = Callable[[Request], Awaitable[None]]
CHECK_TIMEOUT_SECONDS = 2.0

router = APIRouter(prefix="/health", tags=["health"])
checks: dict[str, Check] = {}


class NotReadyError(Exception):
    """Why a check fails, in words that /health/ready may show to anybody."""


class Health(BaseModel):
    status: str = "ok"
    checks: list[str] | None = None


def check(name: str) -> Callable[[Check], Check]:
    """Make the decorated function part of readiness: while it raises, the service is not ready."""

    def register(function: Check) -> Check:
        checks[name] = function
        return function

    return register


@router.head("/live", include_in_schema=False)
@router.get("/live", response_model_exclude_none=True)
async def live() -> Health:
    """Answers while the process serves."""
    return Health()


@router.head("/ready", include_in_schema=False)
@router.get("/ready")
async def ready(request: Request) -> Health:
    """Answers 503, naming what fails, while the service should get no requests."""
    reasons: dict[str, str] = {}
    passed = await asyncio.gather(*(_passes(name, request, reasons) for name in checks))
    failing = [
        name + reasons.get(name, "") for name, ok in zip(checks, passed, strict=True) if not ok
    ]
    if failing:
        raise HTTPException(503, f"Failing: {', '.join(failing)}")
    return Health(checks=list(checks))


async def _passes(name: str, request: Request, reasons: dict[str, str]) -> bool:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
            await checks[name](request)
    except NotReadyError as reason:
        logger.warning("readiness check failed", check=name, error=str(reason))
        reasons[name] = f" ({reason})"
        return False
    except Exception as error:
        logger.warning("readiness check failed", check=name, error=repr(error))
        return False
    return True
