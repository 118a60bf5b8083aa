"""Stopping without a failed request: not ready at once, no longer serving only later."""

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

import structlog
from fastapi import APIRouter, FastAPI, Request

from . import health

# From the end of the grace to the end of the process: `docker stop` kills after 10 seconds.
TIDY_UP_SECONDS = 0.5


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Hold SIGTERM back for SHUTDOWN_DELAY_SECONDS, in which balancers learn to look elsewhere."""
    # Test clients run elsewhere, where no signal arrives.
    if threading.current_thread() is threading.main_thread():
        loop = asyncio.get_running_loop()
        seconds = app.state.settings.shutdown_delay
        at_most = seconds + app.state.settings.shutdown_grace_seconds + TIDY_UP_SECONDS
        stop = cast(Callable[[int, None], object], signal.getsignal(signal.SIGTERM))

        def delay(number: int, frame: object) -> None:
            app.state.stopping = True
            loop.call_soon_threadsafe(lambda: loop.call_later(seconds, stop, number, None))
            app.state.deadline = threading.Timer(at_most, leave)
            app.state.deadline.daemon = True
            app.state.deadline.start()

        signal.signal(signal.SIGTERM, delay)
    yield


def leave() -> None:
    """End the process, whatever still holds it up, such as a collector of traces that is away."""
    structlog.get_logger().warning("stopped before everything was tidied up")
    os._exit(0)


router = APIRouter(lifespan=lifespan)


@health.check("shutdown")
async def is_not_stopping(request: Request) -> None:
    """Readiness ends when a stop was asked for."""
    if request.app.state.stopping:
        raise RuntimeError("the service is stopping")
