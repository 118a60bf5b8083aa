"""What each source of metrics costs a request, in process, against the same application without.

They take turns, each in each round, and each round counts the processor time of
its requests; what counts is the ratio of the best rounds, which noise only raises.
"""

import asyncio
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from common import report
from fastapi import FastAPI
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_fastapi_instrumentator import Instrumentator

ROUNDS = 40
REQUESTS = 300
OFF = {"tracing": False, "metrics": False, "logs": False}
Application = Callable[..., Any]


def application(**options: Any) -> FastAPI:
    app = FastAPI(**options)

    @app.get("/v1/hello/{name}")
    async def hello(name: str) -> dict[str, str]:
        return {"hello": name}

    return app


class Prometheus:
    """As the generated service has it: one histogram with its labels kept, one gauge; an exemplar if traced."""

    def __init__(self, app: Application, exemplar: dict[str, str] | None = None) -> None:
        self.app, self.exemplar = app, exemplar
        registry = CollectorRegistry()
        histogram = Histogram("duration", "Seconds.", ["method", "route", "status"], registry=registry)
        self.active = Gauge("active", "In flight.", registry=registry)
        self.child = lru_cache(maxsize=1024)(histogram.labels)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        status = 0

        async def watched(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        started = time.perf_counter()
        self.active.inc()
        try:
            await self.app(scope, receive, watched)
        finally:
            self.active.dec()
            seconds = time.perf_counter() - started
            self.child(scope["method"], scope["route"].path, status).observe(seconds, self.exemplar)


def applications() -> dict[str, Application]:
    instrumented = application(telemetry=OFF)
    Instrumentator(registry=CollectorRegistry()).instrument(instrumented)
    provider = MeterProvider([InMemoryMetricReader()])
    return {
        "no metrics": application(telemetry=OFF),
        "prometheus-client, as generated": Prometheus(application(telemetry=OFF)),
        "the same for traced requests, with exemplars": Prometheus(application(telemetry=OFF), {"trace_id": "0" * 32}),
        "prometheus-fastapi-instrumentator": instrumented,
        "FastAPI's own, through the OpenTelemetry SDK": application(
            telemetry={**OFF, "metrics": True, "meter_provider": provider}
        ),
    }


async def request(app: Application) -> None:
    scope = {
        **{"type": "http", "http_version": "1.1", "method": "GET", "scheme": "http", "path": "/v1/hello/world"},
        **{"raw_path": b"/v1/hello/world", "query_string": b"", "root_path": "", "asgi": {"version": "3.0"}},
        **{"headers": [(b"host", b"localhost")], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8000)},
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None: ...

    await app(scope, receive, send)


async def microseconds() -> dict[str, float]:
    apps = applications()
    best = dict.fromkeys(apps, float("inf"))
    for _ in range(ROUNDS):
        for name, app in apps.items():
            started = time.process_time()
            for _ in range(REQUESTS):
                await request(app)
            best[name] = min(best[name], (time.process_time() - started) / REQUESTS * 1e6)
    return best


def rows() -> list[tuple[str, ...]]:
    best = asyncio.run(microseconds())
    without = best["no metrics"]
    return [
        ("source of metrics", "a request", "requests/s of the same without"),
        *((name, f"{spent:.0f} µs", f"{without / spent:.2f}") for name, spent in best.items()),
    ]


if __name__ == "__main__":
    report("metrics", rows())
