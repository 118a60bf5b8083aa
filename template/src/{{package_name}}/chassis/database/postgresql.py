"""PostgreSQL: how to connect, how long to wait, and how to tell that it is away."""

import re
from typing import Annotated

import asyncpg
from pydantic import AfterValidator, SecretStr
from pydantic_core import PydanticCustomError
from sqlalchemy import Connection, event, exc
from sqlalchemy.engine.interfaces import DBAPIConnection, ExceptionContext
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, NullPool, PoolProxiedConnection

# Connections of a process; the server has 100 for all of them unless it was told otherwise.
POOL_SIZE = 10
POOL_WAIT_SECONDS = 2
CONNECT_SECONDS = 3
COMMAND_SECONDS = 10
# SQLSTATE classes and codes (PostgreSQL, appendix A): connection, transaction rolled back for
# another's sake, resources, operator; standing by.
AWAY = ("08", "40", "53", "57", "25006")
UNDEFINED_TABLE = "42P01"
UNIQUE_VIOLATION = "23505"
REFERENCE_VIOLATIONS = ("23001", "23503")
# Of all that migrate this database at once, one holds it.
MIGRATION_LOCK = 5_738_204_196

_HOST = r"(\[[0-9a-fA-F:.]+\]|[^\s/?#@:,\[\]]*)(:[0-9]{1,5})?"
_URL = re.compile(
    rf"postgres(?:ql)?(?:\+\w+)?(://([^\s/?#@]*@)?{_HOST}(,{_HOST})*(/[^\s?#]*)?(\?[^\s#]*)?)"
)


def _for_asyncpg(value: SecretStr) -> SecretStr:
    """Accept an address as providers give it, and as SQLAlchemy writes it."""
    found = _URL.fullmatch(value.get_secret_value())
    if not found:
        raise PydanticCustomError(
            "database_url",
            "Should be such as postgresql://user:password@host:5432/name, with %23 for # and so on",
        )
    # libpq's parameter, which asyncpg would hand to the server.
    address = re.sub(r"(?<=[?&])channel_binding=\w*&?", "", found[1]).rstrip("?&")
    return SecretStr(f"postgresql{address}")


DatabaseUrl = Annotated[SecretStr, AfterValidator(_for_asyncpg)]


def create_engine(url: str, *, migrating: bool = False) -> AsyncEngine:
    """Make an engine for `url`, which asyncpg reads: its `sslmode` and other parameters hold.

    `migrating`: without a pool and a limit of time, and only one at once.
    """
    limit = None if migrating else COMMAND_SECONDS

    async def connect() -> asyncpg.Connection:
        try:
            return await asyncpg.connect(url, timeout=CONNECT_SECONDS, command_timeout=limit)
        except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise asyncpg.ConnectionFailureError(f"{type(error).__name__}: {error}") from None

    address = "postgresql+asyncpg://"
    if migrating:
        engine = create_async_engine(address, async_creator=connect, poolclass=NullPool)
        event.listen(engine.sync_engine, "begin", _wait_for_the_lock)
        return engine
    engine = create_async_engine(
        address,
        async_creator=connect,
        pool_size=POOL_SIZE,
        max_overflow=0,
        pool_timeout=POOL_WAIT_SECONDS,
        pool_recycle=1800,
    )
    event.listen(engine.sync_engine, "checkout", _replace_closed)
    event.listen(engine.sync_engine, "handle_error", _name_the_timeout)
    return engine


def reading(engine: AsyncEngine) -> AsyncEngine:
    """Return the engine for statements by themselves, over the same pool."""
    return engine.execution_options(isolation_level="AUTOCOMMIT")


def is_away(error: exc.DBAPIError) -> bool:
    """Tell whether the server is at fault, so that the same request may do later."""
    if isinstance(getattr(error.orig, "__cause__", None), asyncpg.InvalidCachedStatementError):
        # A migration changed a table under a prepared statement; SQLAlchemy prepares it anew.
        return True
    return error.connection_invalidated or _state(error).startswith(AWAY)


def is_missing(error: exc.DBAPIError) -> bool:
    """Check for a table that does not exist."""
    return _state(error) == UNDEFINED_TABLE


def is_taken(error: exc.DBAPIError) -> bool:
    """Tell whether another row has what is to be unique."""
    return _state(error) == UNIQUE_VIOLATION


def is_reference(error: exc.DBAPIError) -> bool:
    """Check for a foreign key that refers to no row, or would after this statement."""
    return _state(error) in REFERENCE_VIOLATIONS


def _state(error: exc.DBAPIError) -> str:
    return getattr(error.orig, "sqlstate", None) or ""


def _replace_closed(
    connection: DBAPIConnection, entry: ConnectionPoolEntry, proxy: PoolProxiedConnection
) -> None:
    # A server that stops says good-bye. To look costs nothing, pool_pre_ping three round trips.
    driver: asyncpg.Connection = entry.driver_connection
    if driver.is_closed():
        raise exc.DisconnectionError


def _name_the_timeout(context: ExceptionContext) -> None:
    # Not a DBAPI error, so SQLAlchemy would keep the connection, whose answer may still come.
    if isinstance(context.original_exception, OSError):
        context.is_disconnect = True
        context.invalidate_pool_on_disconnect = False
        raise exc.TimeoutError(f"no answer within {COMMAND_SECONDS} s")


def _wait_for_the_lock(connection: Connection) -> None:
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")
