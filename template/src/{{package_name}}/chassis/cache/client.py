"""Redis for what may be lost: while it is away, the service does without."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, TypeVar

import structlog
from fastapi import APIRouter, FastAPI, Request
from prometheus_client import Counter
from pydantic import AfterValidator, SecretStr
from pydantic_core import PydanticCustomError
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.maint_notifications import MaintNotificationsConfig

from . import health

logger = structlog.get_logger()

# Of each key: services may share a Redis.
PREFIX = f"{__package__}:"
CONNECTIONS = 50
TIMEOUT_SECONDS = 1.0
PAUSE_SECONDS = 1.0

FAILURES = Counter("cache_failures", "What was done without Redis: it was away.", ["operation"])

T = TypeVar("T")


def _readable(url: SecretStr) -> SecretStr:
    try:
        pool = BlockingConnectionPool.from_url(url.get_secret_value())
        pool.make_connection()  # type: ignore[no-untyped-call]
    except (TypeError, ValueError):
        # Not what the client says: it may quote the password.
        raise PydanticCustomError(
            "redis_url",
            "Starts with redis://, rediss:// or unix://, such as redis://:password@cache:6379/0; "
            "in a password each of @ : / ? # % is written as %40 and so on",
        ) from None
    return url


RedisUrl = Annotated[SecretStr, AfterValidator(_readable)]


class Cache:
    """A client of Redis that gives up quickly and, while Redis is away, seldom tries."""

    def __init__(self, url: str) -> None:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS,
            timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
            socket_timeout=TIMEOUT_SECONDS,
            # Once and at once: a connection may have been closed while it was idle.
            retry=Retry(NoBackoff(), 1, (RedisConnectionError,)),
            # A question at each connect that only Redis Enterprise answers.
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
        )
        self.redis = Redis.from_pool(pool)
        # Under load a request waits here, which is no failure: else a crowd would end each limit.
        self._turns = asyncio.Semaphore(CONNECTIONS)
        self._retry_at = 0.0

    async def attempt(self, operation: str, command: Callable[[Redis], Awaitable[T]]) -> T | None:
        """Return what `command` gets from Redis, or None while Redis is away.

        After a failure one attempt in PAUSE_SECONDS reaches Redis, until one succeeds; the
        others return at once. Each None is counted as a failure of `operation`.
        """
        result = None
        if not self._is_paused():
            async with self._turns:
                result = await self._ask(command)
        if result is None:
            FAILURES.labels(operation).inc()
        return result

    async def _ask(self, command: Callable[[Redis], Awaitable[T]]) -> T | None:
        # Redis may have gone while this one waited for its turn.
        if self._is_paused():
            return None
        was_away = self._retry_at > 0
        if was_away:
            self._pause()
        try:
            result = await command(self.redis)
        except (RedisError, OSError) as error:
            if not self._retry_at:
                logger.warning("redis is away", error=str(error))
            self._pause()
            return None
        if was_away:
            self._retry_at = 0.0
            logger.info("redis is back")
        return result

    def _is_paused(self) -> bool:
        return time.monotonic() < self._retry_at

    def _pause(self) -> None:
        self._retry_at = time.monotonic() + PAUSE_SECONDS


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.cache = Cache(app.state.settings.redis_url.get_secret_value())
    yield
    await app.state.cache.redis.aclose()


router = APIRouter(lifespan=lifespan)


@health.check("cache")
async def redis_answers(request: Request) -> None:
    cache: Cache = request.app.state.cache
    if not await cache.attempt("ping", lambda redis: redis.ping()):
        raise RuntimeError("redis is away")
