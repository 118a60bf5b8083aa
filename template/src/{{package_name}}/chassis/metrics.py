"""The service's metrics, and the route at which Prometheus collects them."""

from collections.abc import Awaitable, Callable, Iterator

from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Gauge,
    Histogram,
    Metric,
    generate_latest,
)
from prometheus_client import REGISTRY as DEFAULT_REGISTRY
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from . import errors

# For the chassis's metrics, so that two services fit into one process. Yours go to the default
# registry of prometheus-client.
REGISTRY = CollectorRegistry()

# Names and labels: OpenTelemetry's semantic conventions for HTTP, as Prometheus writes them.
DURATION = Histogram(
    "http_server_request_duration_seconds",
    "Duration of HTTP requests; its count is their number.",
    ["http_request_method", "http_route", "http_response_status_code"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
    registry=REGISTRY,
)
ACTIVE = Gauge("http_server_active_requests", "HTTP requests in flight.", registry=REGISTRY)
# OpenTelemetry has no conventions for WebSockets.
SOCKET_DURATION = Histogram(
    "websocket_server_connection_duration_seconds",
    "Duration of WebSockets, by the status of their handshake; its count is their number.",
    ["http_route", "http_response_status_code"],
    buckets=(0.1, 1, 10, 60, 600, 3600, 36000),
    registry=REGISTRY,
)
ACTIVE_SOCKETS = Gauge(
    "websocket_server_active_connections", "WebSockets that are open.", registry=REGISTRY
)
BUILD = Gauge(
    "build_info",
    "Always 1; the labels say what runs.",
    ["version", "revision"],
    registry=REGISTRY,
)

OPENMETRICS = "application/openmetrics-text"


class _All(Collector):
    """The metrics of both registries."""

    def collect(self) -> Iterator[Metric]:
        yield from REGISTRY.collect()
        yield from DEFAULT_REGISTRY.collect()


def router(assess: Callable[..., Awaitable[object]]) -> APIRouter:
    """Serve the metrics; before each scrape, `assess` sets those of the readiness checks.

    So alerts don't depend on who probes the service, and how often.
    """
    router = APIRouter(tags=["metrics"], responses=errors.RESPONSES, dependencies=[Depends(assess)])

    @router.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}, OPENMETRICS: {}}}},
    )
    async def metrics(request: Request) -> Response:
        """Metrics in Prometheus' text format, or in OpenMetrics, which also has trace ids."""
        # Not the library's choice: it fails on versions that are no numbers.
        if OPENMETRICS in request.headers.get("accept", ""):
            content = openmetrics.generate_latest(_All())  # type: ignore[no-untyped-call]
            kind = openmetrics.CONTENT_TYPE_LATEST
        else:
            content, kind = generate_latest(_All()), CONTENT_TYPE_LATEST
        return Response(content, media_type=kind, headers={"Vary": "Accept"})

    return router
