"""PgQueuer on the connections of SQLAlchemy: its names in the database, its drivers."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import asyncpg
import structlog
from pgqueuer.adapters.persistence.qb import (
    QueryBuilderEnvironment,
    QueryQueueBuilder,
    QuerySchedulerBuilder,
)
from pgqueuer.adapters.persistence.queries import Queries
from pgqueuer.domain.models import TableChangedEvent, utc_now
from pgqueuer.domain.settings import DBSettings, Durability
from pgqueuer.domain.types import Channel
from sqlalchemy import exc
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

from ..database import faults, postgresql

# In a schema of its own, which `alembic check` does not look at. Each name is given: PgQueuer
# would read the others from variables such as CHANNEL and FUNCTION.
SCHEMA = "jobs"
NAMES = DBSettings(
    prefix="",
    db_schema=SCHEMA,
    channel=Channel(SCHEMA),
    function="fn_pgqueuer_changed",
    trigger="tg_pgqueuer_changed",
    statistics_table="pgqueuer_statistics",
    queue_status_type="pgqueuer_status",
    queue_table="pgqueuer",
    queue_table_log="pgqueuer_log",
    schedules_table="pgqueuer_schedules",
    durability=Durability.durable,
    widen_id=True,
)
# Between two attempts to reach a database that is down.
PAUSE_SECONDS = 0.5
# A worker need not look for jobs that often, however many are announced.
LEAST_SECONDS_BETWEEN_NOTICES = 0.02
LONGEST_LINE = 1000
# How often a connection that only listens is checked.
LISTEN_SECONDS = 30.0
# asyncpg's own, which SQLAlchemy does not wrap here. A standby server, for example, can't listen.
RAW_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError)

Rows = list[dict[str, Any]]
Notice = Callable[[str | bytes | bytearray], None]

logger = structlog.get_logger()


def queries(driver: Any) -> Queries:
    """Return PgQueuer's statements for its tables in the schema `jobs`."""
    return Queries(driver, *builders())


def builders() -> tuple[QueryBuilderEnvironment, QueryQueueBuilder, QuerySchedulerBuilder]:
    return QueryBuilderEnvironment(NAMES), QueryQueueBuilder(NAMES), QuerySchedulerBuilder(NAMES)


async def run(connection: AsyncConnection, statement: str, args: tuple[object, ...]) -> Rows:
    """Run a statement with parameters as asyncpg writes them: $1, $2."""
    # Not asyncpg's own connection: SQLAlchemy begins the transaction with its first statement.
    result = await connection.exec_driver_sql(statement, args or None)
    return [dict(row) for row in result.mappings()] if result.returns_rows else []


def in_one_line(text: str) -> str:
    """Return the beginning of `text`, without characters that a terminal or PostgreSQL refuses."""
    printable = "".join(c if c.isprintable() else " " for c in text[:LONGEST_LINE])
    return " ".join(printable.split())


class Driver(ABC):
    """What PgQueuer calls to run statements."""

    @abstractmethod
    async def fetch(self, query: str, *args: object) -> Rows: ...

    async def execute(self, query: str, *args: object) -> str:
        await self.fetch(query, *args)
        return ""

    async def notify(self, channel: str, payload: str) -> None:
        await self.fetch("SELECT pg_notify($1, $2)", channel, payload)


class SessionDriver(Driver):
    """Runs statements in the transaction of a session."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def fetch(self, query: str, *args: object) -> Rows:
        return await run(await self.session.connection(), query, args)


async def announce(driver: Driver) -> None:
    """Make all workers look for jobs: PgQueuer announces only new and deleted rows."""
    event = TableChangedEvent(
        type="table_changed_event",
        channel=NAMES.channel,
        operation="update",
        table=NAMES.queue_table,
        sent_at=utc_now(),
    )
    await driver.notify(NAMES.channel, event.model_dump_json())


class WorkerDriver(Driver):
    """Runs each statement by itself, and waits for the database while that is down."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = postgresql.reading(engine)
        self.stopped = asyncio.Event()
        self.is_down = False
        self.listening: list[asyncio.Task[None]] = []

    async def fetch(self, query: str, *args: object) -> Rows:
        while True:
            try:
                async with self.engine.connect() as connection:
                    rows = await run(connection, query, args)
                self.is_down = False
                return rows
            except (exc.DBAPIError, exc.TimeoutError) as error:
                if not _is_down(error) or self.stopped.is_set():
                    raise
                # Once: each job that ended would write two lines a second.
                if not self.is_down:
                    logger.warning("database is down", error=faults.reason(error))
                self.is_down = True
            with suppress(TimeoutError):
                await asyncio.wait_for(self.stopped.wait(), PAUSE_SECONDS)

    async def add_listener(self, channel: str, callback: Notice) -> None:
        listening = self._listen(channel, Notices(callback))
        self.listening.append(asyncio.create_task(listening))

    async def _listen(self, channel: str, notices: Notices) -> None:
        while True:
            with suppress(exc.DBAPIError, exc.TimeoutError, *RAW_ERRORS):
                async with self.engine.connect() as connection:
                    raw: Any = (await connection.get_raw_connection()).driver_connection
                    closed = asyncio.Event()
                    raw.add_termination_listener(lambda _, closed=closed: closed.set())
                    await raw.add_listener(channel, notices)
                    # What was announced while nobody listened is found by polling.
                    try:
                        while True:
                            with suppress(TimeoutError):
                                await asyncio.wait_for(closed.wait(), LISTEN_SECONDS)
                            # Raises if it is closed, or if the network was cut.
                            await raw.execute("SELECT 1")
                    finally:
                        # Else the pool keeps the connection, which would go on listening.
                        await connection.invalidate()
            await asyncio.sleep(PAUSE_SECONDS)

    async def __aenter__(self) -> WorkerDriver:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self.listening:
            task.cancel()
        await asyncio.gather(*self.listening, return_exceptions=True)
        self.listening.clear()


class Notices:
    """Passes on what PostgreSQL announces; of many changes only the first and the last."""

    def __init__(self, callback: Notice) -> None:
        self.callback = callback
        self.timer: asyncio.TimerHandle | None = None
        self.held: str | None = None

    def __call__(self, connection: object, pid: int, channel: str, payload: str) -> None:
        if "table_changed_event" not in payload:
            self.callback(payload)
        elif self.timer:
            self.held = payload
        else:
            self.callback(payload)
            loop = asyncio.get_running_loop()
            self.timer = loop.call_later(LEAST_SECONDS_BETWEEN_NOTICES, self._resume)

    def _resume(self) -> None:
        self.timer = None
        if self.held:
            self.callback(self.held)
            self.held = None


def _is_down(error: exc.DBAPIError | exc.TimeoutError) -> bool:
    return isinstance(error, exc.TimeoutError) or postgresql.is_down(error)
