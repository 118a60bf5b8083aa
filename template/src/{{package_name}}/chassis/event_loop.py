"""How late the event loop runs: a sign of code that blocks it, or of too little processor time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prometheus_client import Histogram

from .feature import Feature
from .metrics import REGISTRY
from .service import Service

INTERVAL_SECONDS = 0.5

LAG = Histogram(
    "event_loop_lag_seconds",
    "How much later than asked the event loop woke a task; asked twice a second.",
    buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
    registry=REGISTRY,
)


@asynccontextmanager
async def lifespan(service: Service) -> AsyncIterator[None]:
    measuring = asyncio.create_task(_measure())
    yield
    measuring.cancel()


async def _measure() -> None:
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + INTERVAL_SECONDS
        await asyncio.sleep(INTERVAL_SECONDS)
        LAG.observe(max(0.0, loop.time() - due))


feature = Feature(name="event_loop", lifespan=lifespan)
