"""Stops without a failed request: the service is not ready at once, but serves a while longer."""

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, TypeVar, cast

import structlog
from fastapi import Depends
from starlette.requests import HTTPConnection

from .feature import Feature
from .service import Service

# From the end of the grace to the end of the process: `docker stop` kills after 10 seconds.
TIDY_UP_SECONDS = 0.5

Item = TypeVar("Item")
Handler = Callable[[int, object], object]


def _stop(connection: HTTPConnection) -> asyncio.Event:
    return Service.of(connection).stop


# Set when a stop begins, by SIGTERM or Ctrl-C, so that streams and sockets can end.
Stop = Annotated[asyncio.Event, Depends(_stop)]


async def until(stop: asyncio.Event, source: AsyncIterable[Item]) -> AsyncIterator[Item]:
    """Yield what `source` yields, and end as soon as `stop` is set."""
    items = aiter(source)
    stopped = asyncio.ensure_future(stop.wait())
    item: asyncio.Future[Item] | None = None
    try:
        while not stop.is_set():
            item = asyncio.ensure_future(anext(items))
            await asyncio.wait((item, stopped), return_when=asyncio.FIRST_COMPLETED)
            if item.done():
                yield item.result()
    except StopAsyncIteration:
        pass
    finally:
        for task in (stopped, item):
            if task and task.cancel():
                # Not `gather`: it loses the message by which anyio knows its own cancellations.
                await asyncio.wait([task])


@asynccontextmanager
async def lifespan(service: Service) -> AsyncIterator[None]:
    """Hold SIGTERM back for SHUTDOWN_DELAY_SECONDS, so that balancers stop sending requests."""
    service.stop = asyncio.Event()
    # Test clients run elsewhere, where no signal arrives.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    loop = asyncio.get_running_loop()
    delay = service.settings.shutdown_delay
    at_most = delay + service.settings.shutdown_grace_seconds + TIDY_UP_SECONDS

    def begin(number: int, frame: object) -> None:
        loop.call_soon_threadsafe(service.stop.set)
        # Whoever presses Ctrl-C is waiting.
        seconds = delay if number == signal.SIGTERM else 0
        stop = cast(Handler, handlers[signal.Signals(number)])
        loop.call_soon_threadsafe(lambda: loop.call_later(seconds, stop, number, None))
        deadline = threading.Timer(at_most, leave)
        deadline.daemon = True
        deadline.start()

    for number in handlers:
        signal.signal(number, begin)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def leave() -> None:
    """End the process even if something holds it up, such as a trace collector that is down."""
    structlog.get_logger().warning("stopped before everything was tidied up")
    os._exit(0)


async def is_not_stopping(service: Service) -> None:
    """Raise an error once a stop has begun: the service is no longer ready."""
    if service.stop.is_set():
        raise RuntimeError("the service is stopping")


feature = Feature(name="shutdown", lifespan=lifespan, checks={"shutdown": is_not_stopping})
