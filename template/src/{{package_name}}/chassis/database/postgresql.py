"""PostgreSQL: how to connect, how long to wait, and when it counts as down."""

import re
from typing import Annotated, Any

import asyncpg
from pydantic import AfterValidator, Field, SecretStr
from pydantic_core import PydanticCustomError
from sqlalchemy import Connection, event, exc
from sqlalchemy.engine.interfaces import DBAPIConnection, ExceptionContext
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, NullPool, PoolProxiedConnection

from ..settings import PACKAGE
from . import sessions
from .driver import DatabaseSettings, Driver
from .pool import Pool

__all__ = ["Settings", "driver", "feature"]

# Connections of one process. A server has 100 for all processes by default.
POOL_SIZE = 10
POOL_WAIT_SECONDS = 2
CONNECT_SECONDS = 3
COMMAND_SECONDS = 10
# SQLSTATE classes and codes (PostgreSQL, appendix A): lost connection, rollback in favour of
# another transaction, lack of resources, operator intervention; a standby server.
DOWN = ("08", "40", "53", "57", "25006")
# Held by the one process that migrates the database; others wait for it.
MIGRATION_LOCK = 5_738_204_196

_HOST = r"(\[[0-9a-fA-F:.]+\]|[^\s/?#@:,\[\]]*)(:[0-9]{1,5})?"
_URL = re.compile(
    rf"postgres(?:ql)?(?:\+\w+)?(://([^\s/?#@]*@)?{_HOST}(,{_HOST})*(/[^\s?#]*)?(\?[^\s#]*)?)"
)


def _for_asyncpg(value: SecretStr) -> SecretStr:
    """Accept a URL as providers give it, and as SQLAlchemy writes it."""
    found = _URL.fullmatch(value.get_secret_value())
    if not found:
        raise PydanticCustomError(
            "database_url",
            "Should look like postgresql://user:password@host:5432/name, with %23 for # and so on",
        )
    # A parameter of libpq, which asyncpg would pass on to the server.
    address = re.sub(r"(?<=[?&])channel_binding=\w*&?", "", found[1]).rstrip("?&")
    return SecretStr(f"postgresql{address}")


class Settings(DatabaseSettings):
    database_url: Annotated[SecretStr, AfterValidator(_for_asyncpg)] = Field(
        default=f"postgresql://postgres@localhost:5432/{PACKAGE}", validate_default=True
    )


def create_engine(url: str, *, migrating: bool = False) -> AsyncEngine:
    """Create an engine for `url`. asyncpg reads it, with `sslmode` and other parameters.

    For `migrating` it has no pool and no time limit, and waits for other migrations.
    """
    limit = None if migrating else COMMAND_SECONDS

    async def connect() -> asyncpg.Connection:
        try:
            return await asyncpg.connect(url, timeout=CONNECT_SECONDS, command_timeout=limit)
        except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise asyncpg.ConnectionFailureError(f"{type(error).__name__}: {error}") from None

    address = "postgresql+asyncpg://"
    if migrating:
        engine = create_async_engine(
            address, async_creator=connect, poolclass=NullPool, hide_parameters=True
        )
        event.listen(engine.sync_engine, "begin", _wait_for_the_lock)
        return engine
    engine = create_async_engine(
        address,
        async_creator=connect,
        poolclass=Pool,
        pool_size=POOL_SIZE,
        max_overflow=0,
        pool_timeout=POOL_WAIT_SECONDS,
        pool_recycle=1800,
        # Errors are logged, and values may be secrets.
        hide_parameters=True,
    )
    event.listen(engine.sync_engine, "checkout", _replace_closed)
    event.listen(engine.sync_engine, "handle_error", _name_the_timeout)
    return engine


def reading(engine: AsyncEngine) -> AsyncEngine:
    return engine.execution_options(isolation_level="AUTOCOMMIT")


def is_down(error: exc.DBAPIError) -> bool:
    if isinstance(getattr(error.orig, "__cause__", None), asyncpg.InvalidCachedStatementError):
        # A migration changed a table under a prepared statement; SQLAlchemy prepares it again.
        return True
    state = getattr(error.orig, "sqlstate", None) or ""
    return error.connection_invalidated or state.startswith(DOWN)


def _replace_closed(
    connection: DBAPIConnection, entry: ConnectionPoolEntry, proxy: PoolProxiedConnection
) -> None:
    # A server that stops closes its connections. This check costs nothing, `pool_pre_ping` three
    # round trips.
    driver: asyncpg.Connection = entry.driver_connection
    if driver.is_closed():
        raise exc.DisconnectionError


def _name_the_timeout(context: ExceptionContext) -> None:
    # Not a DBAPI error: SQLAlchemy would keep the connection, on which the result may still come.
    if isinstance(context.original_exception, OSError):
        context.is_disconnect = True
        context.invalidate_pool_on_disconnect = False
        raise exc.TimeoutError(f"no response within {COMMAND_SECONDS} s")


def _wait_for_the_lock(connection: Connection) -> None:
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")


class ReadSession(AsyncSession):
    """A session without a transaction, in which asyncpg can't stream rows."""

    async def stream(self, *_: Any, **__: Any) -> Any:
        # Tests run in a transaction: there it would work.
        raise TypeError(
            "A read session can't stream rows: read them page by page, or use open_session"
        )


driver = Driver(
    settings=Settings,
    create_engine=create_engine,
    reading=reading,
    read_session=ReadSession,
    is_down=is_down,
)
feature = sessions.feature(driver)
