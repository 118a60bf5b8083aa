"""The database: one engine for the process, one session for a request, a problem for each fault."""

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated

import structlog
from fastapi import (
    APIRouter,
    Depends,
    FastAPI,
    HTTPException,
    Request,
    WebSocket,
    WebSocketException,
)
from fastapi.requests import HTTPConnection
from sqlalchemy import MetaData, exc, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase
from starlette.websockets import WebSocketState

from . import health
from .{{ database }} import create_engine, is_away, is_missing, is_reference, is_taken, reading

__all__ = [
    "Base",
    "ReadSessionDep",
    "SessionDep",
    "create_engine",
    "is_away",
    "is_reference",
    "is_taken",
    "open_read_session",
    "open_session",
    "reason",
    "router",
]

logger = structlog.get_logger()

RETRY_AFTER_SECONDS = 2
# Exists once the database was migrated for the first time.
MIGRATED = text("SELECT version_num FROM alembic_version")


class Base(DeclarativeBase):
    """What the class of every table derives from."""

    # Without names of their own, constraints can't be dropped by a migration.
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_N_label)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Make the engine, which connects when it is first needed: the service starts without it."""
    engine = create_engine(app.state.settings.database_url.get_secret_value())
    app.state.engine = engine
    app.state.sessions = _session_maker(engine)
    app.state.read_sessions = _session_maker(reading(engine))
    yield
    await engine.dispose()


router = APIRouter(lifespan=lifespan)


def _session_maker(engine: AsyncEngine) -> async_sessionmaker[AsyncSession]:
    # A closed session raises: else it would reopen, and keep a connection that nobody returns.
    return async_sessionmaker(engine, expire_on_commit=False, close_resets_only=False)


def open_session(connection: HTTPConnection) -> AsyncSession:
    """Return a session of your own, for what outlives a route's `SessionDep`.

    That is a streamed body, a background task, each message of a WebSocket:

        async with open_session(request) as session:
            await service.create(session, values)
            await session.commit()

    Faults of the database are raised as SQLAlchemy's.
    """
    session: AsyncSession = connection.app.state.sessions()
    return session


def open_read_session(connection: HTTPConnection) -> AsyncSession:
    """Return a session of your own, as `open_session` does, but for reading only."""
    session: AsyncSession = connection.app.state.read_sessions()
    return session


Open = Callable[[HTTPConnection], AsyncSession]


def _dependency(open_one: Open) -> Callable[[HTTPConnection], AsyncIterator[AsyncSession]]:
    async def session(connection: HTTPConnection) -> AsyncIterator[AsyncSession]:
        try:
            async with open_one(connection) as session:
                yield session
        except (exc.DBAPIError, exc.TimeoutError) as error:
            problem = await _problem(error, connection.app.state.engine)
            if problem is None:
                raise
            raise _for_sockets(problem, connection) from None

    return session


# `scope`: the connection is back in the pool before a slow client has its response.
SessionDep = Annotated[AsyncSession, Depends(_dependency(open_session), scope="function")]
"""A transaction. What is not committed by the end of the route is rolled back.

On a WebSocket route the end is that of the socket: commit after each message, or better, take
`open_session` for each, since a session keeps its connection until it is committed or closed.
"""

ReadSessionDep = Annotated[AsyncSession, Depends(_dependency(open_read_session), scope="function")]
"""For reading: each statement by itself, without the round trips that begin and end one."""


async def _problem(
    error: exc.DBAPIError | exc.TimeoutError, engine: AsyncEngine
) -> HTTPException | None:
    """Return the problem that `error` is to the client; None if it is a fault of the service."""
    if isinstance(error, exc.TimeoutError) or await _is_down(error, engine):
        logger.warning("database is away", error=reason(error))
        headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
        return HTTPException(503, "The database is unavailable", headers)
    if is_taken(error):
        return HTTPException(409, "There is one like it already")
    if is_reference(error):
        # Which row is at fault, no database reports in the same words in every language.
        verb = re.search(r"\b(insert|update|delete)\b", error.statement or "", re.IGNORECASE)
        if verb and verb[1].lower() != "delete":
            return HTTPException(422, "It refers to something that does not exist")
        return HTTPException(409, "Something else still refers to it")
    return None


async def _is_down(error: exc.DBAPIError, engine: AsyncEngine) -> bool:
    """Check whether the same request may succeed later."""
    if is_missing(error):
        # A misspelt table, unless no table exists yet.
        return not await _was_migrated(engine)
    return is_away(error)


async def _was_migrated(engine: AsyncEngine) -> bool:
    try:
        async with reading(engine).connect() as connection:
            await connection.execute(MIGRATED)
    except (exc.DBAPIError, exc.TimeoutError):
        return False
    return True


def _for_sockets(
    problem: HTTPException, connection: HTTPConnection
) -> HTTPException | WebSocketException:
    """Return what an accepted WebSocket gets in place of a status: "try again later", or policy."""
    accepted = isinstance(connection, WebSocket) and (
        connection.application_state is WebSocketState.CONNECTED
    )
    if not accepted:
        return problem
    return WebSocketException(1013 if problem.status_code == 503 else 1008, problem.detail)


def reason(error: exc.DBAPIError | exc.TimeoutError) -> str:
    """Say in one line why the database is down; never the statement and its values."""
    cause = error.orig if isinstance(error, exc.DBAPIError) else error
    return " ".join(str(cause).split())


@health.check("database")
async def database_answers(request: Request) -> None:
    """Readiness needs a database that answers, and that was ever migrated."""
    engine = request.app.state.engine
    try:
        async with reading(engine).connect() as connection:
            await connection.execute(MIGRATED)
    except (exc.DBAPIError, exc.TimeoutError) as error:
        told = reason(error)
        if "alembic_version" in told:
            told += f"; a new database needs: python -m {__package__} migrate"
        raise RuntimeError(told) from None
