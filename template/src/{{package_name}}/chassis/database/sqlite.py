"""SQLite: how to open the file, how long to wait, and when it counts as down."""

import re
import sqlite3
from time import monotonic, sleep
from typing import Annotated, Any

from pydantic import AfterValidator, Field, SecretStr
from pydantic_core import PydanticCustomError
from sqlalchemy import Connection, event
from sqlalchemy.engine.interfaces import DBAPIConnection, DBAPICursor
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from ..settings import PACKAGE
from . import sessions
from .driver import DatabaseSettings, Driver
from .pool import Pool

__all__ = ["Settings", "driver", "feature"]

# Each connection is a thread; only one writes at a time.
POOL_SIZE = 5
POOL_WAIT_SECONDS = 2
WAIT_SECONDS = 5
MIGRATION_WAIT_SECONDS = 300
# Locked by another process, read-only, unreadable, full, or it can't be opened.
DOWN = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
}


def _for_aiosqlite(value: SecretStr) -> SecretStr:
    found = re.fullmatch(r"sqlite(?:\+\w+)?(:///[^?#:]+)", value.get_secret_value())
    if not found:
        rule = "Should look like sqlite:///file.db, or sqlite:////folder/file.db"
        raise PydanticCustomError("database_url", rule)
    return SecretStr("sqlite+aiosqlite" + found[1])


class Settings(DatabaseSettings):
    database_url: Annotated[SecretStr, AfterValidator(_for_aiosqlite)] = Field(
        default=f"sqlite:///{PACKAGE}.db", validate_default=True
    )


def create_engine(url: str, *, migrating: bool = False) -> AsyncEngine:
    """Create an engine for `url`; for `migrating` it waits longer, and sets up the file."""
    timeout = MIGRATION_WAIT_SECONDS if migrating else WAIT_SECONDS

    def configure(connection: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
        cursor = connection.cursor()
        if migrating:
            _keep_a_write_ahead_log(cursor)
        # Off for migrations: while one replaces a table, references to it are broken.
        cursor.execute(f"PRAGMA foreign_keys = {'OFF' if migrating else 'ON'}")
        cursor.close()

    engine = create_async_engine(
        url,
        # None: transactions begin in `_begin`, not in sqlite3.
        connect_args={"timeout": timeout, "isolation_level": None},
        poolclass=Pool,
        pool_size=POOL_SIZE,
        max_overflow=0,
        pool_timeout=POOL_WAIT_SECONDS,
        # Errors are logged, and values may be secrets.
        hide_parameters=True,
    )
    event.listen(engine.sync_engine, "connect", configure)
    event.listen(engine.sync_engine, "begin", _begin)
    if migrating:
        event.listen(engine.sync_engine, "do_connect", _open_once)
    return engine


def _open_once(dialect: Any, entry: Any, arguments: Any, parameters: Any) -> None:
    # If aiosqlite can't open the file, its thread reports that to a loop that is closed by then.
    sqlite3.connect(*arguments, **parameters).close()


def _keep_a_write_ahead_log(cursor: DBAPICursor) -> None:
    """Switch the file over for good: readers then don't wait for writers."""
    deadline = monotonic() + MIGRATION_WAIT_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            # SQLite does not wait for this lock by itself.
            if monotonic() > deadline:
                raise
            sleep(0.05)
        else:
            return


def reading(engine: AsyncEngine) -> AsyncEngine:
    return engine.execution_options(reading=True)


def is_down(error: DBAPIError) -> bool:
    return getattr(error.orig, "sqlite_errorcode", 0) & 0xFF in DOWN


def _begin(connection: Connection) -> None:
    # IMMEDIATE: a transaction that reads before it writes would fail if another wrote in between.
    if not connection.get_execution_options().get("reading"):
        connection.exec_driver_sql("BEGIN IMMEDIATE")


driver = Driver(settings=Settings, create_engine=create_engine, reading=reading, is_down=is_down)
feature = sessions.feature(driver)
