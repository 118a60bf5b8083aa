"""What a job is: a function, its typed arguments, and how often and how long it may run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Concatenate, Generic, NoReturn, ParamSpec

import structlog
from croniter import CroniterError, croniter
from opentelemetry import propagate
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from ..database.postgresql import ReadSession
from .arguments import Arguments
from .queue import SessionDriver, queries

if TYPE_CHECKING:
    from ..service import Service

P = ParamSpec("P")

# Longer ones don't fit into an index together with the job's name.
LONGEST_KEY = 500
# asyncpg reads no time after the year 9999.
LONGEST_DELAY = timedelta(days=36_500)
# What PostgreSQL's integer takes.
HIGHEST_PRIORITY = 2**31 - 1


@dataclass(frozen=True)
class Run:
    """The first argument of a job's function.

    `id` stays the same when the job is retried, `attempt` counts from 1. `sessions()` opens a
    session; `state_of(run.service, ...)` returns the state of a feature.
    """

    id: int
    attempt: int
    sessions: async_sessionmaker[AsyncSession]
    service: Service


Function = Callable[Concatenate[Run, P], Awaitable[None]]


@dataclass(kw_only=True, eq=False)
class Job(Generic[P]):
    """A function that a worker calls; `job` makes one."""

    function: Function[P]
    name: str
    attempts: int
    timeout: float
    queue: str
    priority: int
    cron: str | None
    arguments: Arguments = field(init=False)

    def __post_init__(self) -> None:
        if self.attempts < 1 or not self.timeout > 0:
            raise ValueError(f"The job {self.name} needs at least one attempt, and time to run")
        if abs(self.priority) > HIGHEST_PRIORITY:
            raise ValueError(f"The job {self.name} needs a priority up to {HIGHEST_PRIORITY}")
        self.arguments = Arguments(self.name, self.function)
        if self.cron is not None:
            self._check_cron(self.cron)

    async def enqueue(
        self,
        session: AsyncSession,
        /,
        delay: timedelta | None = None,
        key: str | None = None,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> int:
        """Enqueue the job in the transaction of `session`, and return its id.

        Pass the arguments of the function by name. The job runs `delay` after the transaction
        began, at the earliest. If one with the same `key` waits already, there is no second one:
        the one that waits starts after this transaction has ended, with its own arguments.

        Raise TypeError for a wrong argument.
        """
        if isinstance(session, ReadSession):
            raise TypeError(f"{self.name} needs a session with a transaction, such as SessionDep")
        if args or not isinstance(delay, timedelta | None) or not isinstance(key, str | None):
            raise TypeError(f"{self.name} takes arguments by name; delay is a timedelta, key a str")
        if key is not None and not _is_key(key):
            raise TypeError(f"{self.name}: key should have 1 to {LONGEST_KEY} bytes and no NUL")
        if delay and delay > LONGEST_DELAY:
            raise TypeError(f"{self.name}: delay should be at most {LONGEST_DELAY.days} days")
        (row_id,) = await queries(SessionDriver(session)).enqueue(
            self.name,
            self.arguments.dump(kwargs),
            self.priority,
            # One that is negative would count as time that the job has waited.
            execute_after=delay and max(delay, timedelta(0)),
            dedupe_key=None if key is None else f"{self.name}:{key}",
            headers=_headers(key),
            # Locks the row with the key until this transaction ends, so that its job does not
            # start before, and does not miss what this transaction writes.
            on_conflict="update_priority",
        )
        return row_id

    async def run(self, run: Run, payload: bytes) -> None:
        """Call the function; raise what it raises, or ValueError if the arguments don't fit it."""
        await self.function(run, **self.arguments.load(payload))  # type: ignore[call-arg]

    def _check_cron(self, cron: str) -> None:
        fault = f'The job {self.name} needs a cron such as "0 3 * * *", not {cron!r}'
        if len(cron.split()) != 5 or not croniter.is_valid(cron):
            raise ValueError(fault)
        try:
            croniter(cron).get_next()
        except CroniterError:
            raise ValueError(f"{fault}, which never comes") from None
        if self.arguments.are_required:
            raise TypeError(f"The job {self.name} has a cron, so each argument needs a default")


def job(
    *without_parentheses: NoReturn,
    attempts: int = 5,
    timeout: float = 30,
    queue: str = "default",
    priority: int = 0,
    cron: str | None = None,
    name: str = "",
) -> Callable[[Function[P]], Job[P]]:
    """Make a job of an async function, whose first parameter is a `Run`: `@job()`, `@job(cron=...)`.

    It runs at most `attempts` times, and `timeout` seconds each time. A higher `priority` runs
    first. `cron` has five fields, in UTC. `name` is the function's: jobs that wait under a name
    that no release knows any more are never run.
    """

    if without_parentheses:
        raise TypeError("Write @job() with parentheses, for example @job(attempts=5)")

    def decorate(function: Function[P]) -> Job[P]:
        return Job(
            function=function,
            name=name or function.__name__,
            attempts=attempts,
            timeout=timeout,
            queue=queue,
            priority=priority,
            cron=cron,
        )

    return decorate


def _is_key(key: str) -> bool:
    try:
        return 0 < len(key.encode()) <= LONGEST_KEY and "\0" not in key
    except UnicodeEncodeError:
        return False


def _headers(key: str | None) -> dict[str, str]:
    """Return what the job's log lines and spans need, and whether it has a key."""
    headers: dict[str, str] = {} if key is None else {"key": key}
    request_id = structlog.contextvars.get_contextvars().get("request_id")
    if request_id is not None:
        headers["request_id"] = request_id
    propagate.inject(headers)
    return headers
