"""What a job is: a function, its typed arguments, and how often and how long it may run."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, get_type_hints

import structlog
from croniter import CroniterError, croniter
from opentelemetry import propagate
from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from ..database.postgresql import ReadSession
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
# What pydantic writes instead of a SecretStr.
MASKED = b'"**********"'
# What `enqueue` takes besides the arguments of the function.
OPTIONS = {"delay", "key"}


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
    arguments: type[BaseModel] = field(init=False)

    def __post_init__(self) -> None:
        if self.attempts < 1 or not self.timeout > 0:
            raise ValueError(f"The job {self.name} needs at least one attempt, and time to run")
        if abs(self.priority) > HIGHEST_PRIORITY:
            raise ValueError(f"The job {self.name} needs a priority up to {HIGHEST_PRIORITY}")
        self.arguments = _arguments(self.name, self.function)
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
            self.dump(kwargs),
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

    def dump(self, arguments: dict[str, Any]) -> bytes:
        """Return the arguments as JSON; raise TypeError if they don't fit the function."""
        try:
            values = self.arguments(**arguments)
            # Without defaults: the release that runs the job decides on them.
            payload = values.model_dump_json(exclude_unset=True).encode()
            self._load(payload)
        except ValidationError as error:
            faults = [f"{_path(fault['loc'])}: {fault['msg']}" for fault in error.errors()]
            raise TypeError(f"{self.name} can't be enqueued: {'; '.join(faults)}") from None
        except ValueError as error:
            raise TypeError(f"{self.name} can't be enqueued: {error}") from None
        if MASKED in payload:
            raise TypeError(f"{self.name} can't be enqueued with a secret: the queue shows it")
        return payload

    async def run(self, run: Run, payload: bytes) -> None:
        """Call the function; raise what it raises, or ValueError if the arguments don't fit it."""
        values = self._load(payload)
        arguments = {name: getattr(values, name) for name in values.model_fields_set}
        await self.function(run, **arguments)  # type: ignore[call-arg]

    def _load(self, payload: bytes) -> BaseModel:
        return self.arguments.model_validate_json(payload, by_alias=True, by_name=True)

    def _check_cron(self, cron: str) -> None:
        fault = f'The job {self.name} needs a cron such as "0 3 * * *", not {cron!r}'
        if len(cron.split()) != 5 or not croniter.is_valid(cron):
            raise ValueError(fault)
        try:
            croniter(cron).get_next()
        except CroniterError:
            raise ValueError(f"{fault}, which never comes") from None
        if any(field.is_required() for field in self.arguments.model_fields.values()):
            raise TypeError(f"The job {self.name} has a cron, so each argument needs a default")


def job(
    *,
    attempts: int = 5,
    timeout: float = 30,
    queue: str = "default",
    priority: int = 0,
    cron: str | None = None,
    name: str = "",
) -> Callable[[Function[P]], Job[P]]:
    """Make a job of an async function, whose first parameter is a `Run`.

    It runs at most `attempts` times, and `timeout` seconds each time. A higher `priority` runs
    first. `cron` has five fields, in UTC. `name` is the function's: jobs that wait under a name
    that no release knows any more are never run.
    """

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


def _arguments(name: str, function: Callable[..., Any]) -> type[BaseModel]:
    parameters = list(inspect.signature(function).parameters.values())
    if not parameters or not inspect.iscoroutinefunction(function):
        raise TypeError(f"The job {name} should be: async def {name}(run: Run, ...) -> None")
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    for parameter in parameters[1:]:
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(f"The job {name} can't have the parameter {parameter}")
        if parameter.name in OPTIONS or parameter.name not in hints:
            raise TypeError(f"The job {name}: rename or annotate the parameter {parameter.name}")
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[parameter.name] = (hints[parameter.name], default)
    strict = ConfigDict(
        strict=True,
        extra="forbid",
        # What a queue may contain is not for logs.
        hide_input_in_errors=True,
        ser_json_inf_nan="constants",
        ser_json_bytes="base64",
        val_json_bytes="base64",
    )
    model: type[BaseModel] = create_model(name, __config__=strict, **fields)
    return model


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


def _path(location: tuple[int | str, ...]) -> str:
    return ".".join(map(str, location))
