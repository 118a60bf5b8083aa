"""SQLite: how to open the file, how long to wait, and how to tell that it is away."""

import re
import sqlite3
from time import monotonic, sleep
from typing import Annotated, Any

from pydantic import AfterValidator, SecretStr
from pydantic_core import PydanticCustomError
from sqlalchemy import Connection, event
from sqlalchemy.engine.interfaces import DBAPIConnection, DBAPICursor
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

# Each is a thread; only one writes at a time.
POOL_SIZE = 5
POOL_WAIT_SECONDS = 2
WAIT_SECONDS = 5
MIGRATION_WAIT_SECONDS = 300
# Locked by another, read-only, unreadable, full, not to be opened.
AWAY = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
}
TAKEN = {sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY}


def _for_aiosqlite(value: SecretStr) -> SecretStr:
    found = re.fullmatch(r"sqlite(?:\+\w+)?(:///[^?#:]+)", value.get_secret_value())
    if not found:
        rule = "Should be such as sqlite:///file.db, or sqlite:////folder/file.db"
        raise PydanticCustomError("database_url", rule)
    return SecretStr("sqlite+aiosqlite" + found[1])


DatabaseUrl = Annotated[SecretStr, AfterValidator(_for_aiosqlite)]


def create_engine(url: str, *, migrating: bool = False) -> AsyncEngine:
    """Make an engine for `url`; `migrating`: it waits longer, and sets the file up."""
    timeout = MIGRATION_WAIT_SECONDS if migrating else WAIT_SECONDS

    def configure(connection: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
        cursor = connection.cursor()
        if migrating:
            _keep_a_write_ahead_log(cursor)
        # Off where a migration replaces a table: its rows are referred to in the meantime.
        cursor.execute(f"PRAGMA foreign_keys = {'OFF' if migrating else 'ON'}")
        cursor.close()

    engine = create_async_engine(
        url,
        # None: sqlite3 begins no transaction of its own accord, `_begin` does.
        connect_args={"timeout": timeout, "isolation_level": None},
        pool_size=POOL_SIZE,
        max_overflow=0,
        pool_timeout=POOL_WAIT_SECONDS,
    )
    event.listen(engine.sync_engine, "connect", configure)
    event.listen(engine.sync_engine, "begin", _begin)
    if migrating:
        event.listen(engine.sync_engine, "do_connect", _open_once)
    return engine


def _open_once(dialect: Any, entry: Any, arguments: Any, parameters: Any) -> None:
    # Where aiosqlite can't, its thread tells an event loop that the command has closed by then.
    sqlite3.connect(*arguments, **parameters).close()


def _keep_a_write_ahead_log(cursor: DBAPICursor) -> None:
    """Switch the file over, for good: then who reads need not wait for who writes."""
    deadline = monotonic() + MIGRATION_WAIT_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            # For this lock alone SQLite does not wait.
            if monotonic() > deadline:
                raise
            sleep(0.05)
        else:
            return


def reading(engine: AsyncEngine) -> AsyncEngine:
    """Return the engine for statements by themselves, over the same pool."""
    return engine.execution_options(reading=True)


def is_away(error: DBAPIError) -> bool:
    """Tell whether the file is at fault, so that the same request may do later."""
    return _code(error) & 0xFF in AWAY


def is_missing(error: DBAPIError) -> bool:
    """Check for a table that does not exist."""
    return "no such table" in str(error.orig)


def is_taken(error: DBAPIError) -> bool:
    """Tell whether another row has what is to be unique."""
    return _code(error) in TAKEN


def is_reference(error: DBAPIError) -> bool:
    """Check for a foreign key that refers to no row, or would after this statement."""
    # By its text: ON DELETE RESTRICT has a trigger's code.
    return "FOREIGN KEY constraint failed" in str(error.orig)


def _code(error: DBAPIError) -> int:
    code: int = getattr(error.orig, "sqlite_errorcode", 0)
    return code


def _begin(connection: Connection) -> None:
    # IMMEDIATE: a transaction that reads before it writes would fail where another wrote between.
    if not connection.get_execution_options().get("reading"):
        connection.exec_driver_sql("BEGIN IMMEDIATE")
