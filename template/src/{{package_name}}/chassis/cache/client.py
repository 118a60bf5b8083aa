"""A client for Redis that gives up quickly and, while Redis is down, does not even try."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from contextvars import Context
from typing import Annotated, Any, TypeVar
from uuid import uuid4

import structlog
from prometheus_client import Counter
from pydantic import AfterValidator, SecretStr
from pydantic_core import PydanticCustomError
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.maint_notifications import MaintNotificationsConfig

from ..metrics import REGISTRY
from ..settings import PACKAGE

logger = structlog.get_logger()

# How each key begins: services may share a Redis.
PREFIX = f"{PACKAGE}:"
CONNECTIONS = 50
TIMEOUT_SECONDS = 1.0
PAUSE_SECONDS = 1.0
# The time between two log lines about refused commands.
REPORT_SECONDS = 60.0

FAILURES = Counter(
    "cache_failures",
    "Operations done without Redis: it was down, or it refused the command (error).",
    ["operation", "reason"],
    registry=REGISTRY,
)

T = TypeVar("T")


def _readable(url: SecretStr) -> SecretStr:
    try:
        pool = BlockingConnectionPool.from_url(url.get_secret_value())
        pool.make_connection()  # type: ignore[no-untyped-call]
    except (TypeError, ValueError):
        # Not the library's message: it may quote the password.
        raise PydanticCustomError(
            "redis_url",
            "Should start with redis://, rediss:// or unix://, such as redis://:password@cache:6379/0; "
            "in a password each of @ : / ? # % is written as %40 and so on",
        ) from None
    return url


RedisUrl = Annotated[SecretStr, AfterValidator(_readable)]


class Cache:
    """The state of the feature: the client, and what this process computes right now."""

    def __init__(self, url: str) -> None:
        pool = BlockingConnectionPool.from_url(
            url,
            # One more than requests may use: the ping after an outage does not wait for them.
            max_connections=CONNECTIONS + 1,
            timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
            socket_timeout=TIMEOUT_SECONDS,
            # One retry, at once: a connection may have been closed while it was idle.
            retry=Retry(NoBackoff(), 1, (RedisConnectionError,)),
            # Otherwise each connection begins with a command that only Redis Enterprise supports.
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
        )
        self.redis = Redis.from_pool(pool)
        self.process = uuid4().hex
        self.computing: dict[tuple[str, bytes], asyncio.Task[bytes]] = {}
        # Under load, requests wait here. If that were a failure, a crowd would not be limited.
        self._turns = asyncio.Semaphore(CONNECTIONS)
        self._watch: asyncio.Task[None] | None = None
        self._report_at = 0.0

    @property
    def is_down(self) -> bool:
        """Whether the last attempt to reach Redis failed; then it is pinged once a second."""
        return self._watch is not None

    async def attempt(self, operation: str, command: Callable[[Redis], Awaitable[T]]) -> T | None:
        """Return what `command` gets from Redis, or None if Redis is down or refuses it.

        Each None is counted as a failure of `operation`. A refusal, such as of a write to a full
        Redis, concerns this command alone. While Redis is down, None comes at once.
        """
        reason = "down"
        if not self.is_down:
            async with self._turns:
                # Redis may have gone down while this one waited for its turn.
                if not self.is_down:
                    try:
                        return await command(self.redis)
                    except (RedisConnectionError, RedisTimeoutError, OSError) as error:
                        self._lose(error)
                    except RedisError as error:
                        reason = "error"
                        self._report(operation, str(error))
        FAILURES.labels(operation, reason).inc()
        return None

    async def script(
        self, operation: str, lua: str, keys: Sequence[str], args: Sequence[str | bytes | int]
    ) -> list[Any] | None:
        """Run a Lua script that returns a list, as `attempt` does."""

        async def run(redis: Redis) -> list[Any]:
            found: list[Any] = await redis.register_script(lua)(keys=keys, args=args)
            return found

        return await self.attempt(operation, run)

    async def close(self) -> None:
        for task in filter(None, [self._watch, *self.computing.values()]):
            task.cancel()
        await self.redis.aclose()

    def _report(self, operation: str, error: str) -> None:
        # A full Redis refuses every write: one line is enough, and the metric counts all.
        if time.monotonic() >= self._report_at:
            self._report_at = time.monotonic() + REPORT_SECONDS
            logger.warning("redis refused a command", operation=operation, error=error)

    def _lose(self, error: Exception) -> None:
        if self._watch is None:
            logger.warning("redis is down", error=str(error))
            # Not in the request's context, whose id the line "redis is back" would carry.
            self._watch = asyncio.create_task(self._wait(), context=Context())

    async def _wait(self) -> None:
        back = False
        while not back:
            await asyncio.sleep(PAUSE_SECONDS)
            with suppress(RedisError, OSError):
                back = await self.redis.ping()
        self._watch = None
        logger.info("redis is back")
