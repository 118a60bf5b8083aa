"""One engine for the process, one session for each request."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from fastapi import Depends
from fastapi.requests import HTTPConnection
from sqlalchemy import exc
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from ..feature import Feature
from ..service import Service, settings_of, state_of
from ..settings import PACKAGE
from . import faults
from .driver import Driver
from .pool import is_exhausted, measured


@dataclass(frozen=True)
class Database:
    """The state of the feature: `state_of(connection, Database)`."""

    driver: Driver
    engine: AsyncEngine
    create_spare: Callable[[], AsyncEngine]
    """Create another engine, for a check while requests use all connections of `engine`."""
    sessions: async_sessionmaker[AsyncSession]
    read_sessions: async_sessionmaker[AsyncSession]


def feature(driver: Driver) -> Feature:
    @asynccontextmanager
    async def lifespan(service: Service) -> AsyncIterator[Database]:
        # It connects when it is first used, so the service starts even while the database is down.
        url = settings_of(service, driver.settings).database_url.get_secret_value()
        create = partial(driver.create_engine, url)
        engine = create()
        reading = _session_maker(driver.reading(engine), driver.read_session)
        with measured(engine):
            yield Database(driver, engine, create, _session_maker(engine), reading)
        await engine.dispose()

    return Feature(
        name="database", settings=driver.settings, lifespan=lifespan, checks={"database": check}
    )


def _session_maker(
    engine: AsyncEngine, kind: type[AsyncSession] = AsyncSession
) -> async_sessionmaker[AsyncSession]:
    # A closed session raises. Otherwise it would reopen, with a connection that is never returned.
    return async_sessionmaker(engine, class_=kind, expire_on_commit=False, close_resets_only=False)


async def check(service: Service) -> None:
    """Raise unless the database responds and was migrated.

    It passes while requests use all connections: the database responds, and other instances
    would be worse off with more requests.
    """
    database = state_of(service, Database)
    engine = database.engine
    if is_exhausted(engine):
        engine = database.create_spare()
    try:
        await faults.check_migrated(engine, database.driver)
    except (exc.DBAPIError, exc.TimeoutError) as error:
        reason = faults.reason(error)
        if "alembic_version" in reason:
            reason += f"; a new database needs: python -m {PACKAGE} migrate"
        raise RuntimeError(reason) from None
    finally:
        if engine is not database.engine:
            await engine.dispose()


def open_session(source: HTTPConnection | Service) -> AsyncSession:
    """Return a session of your own, for code that outlives a route's `SessionDep`.

    Use it in streamed bodies, background tasks and for each message of a WebSocket:

        async with open_session(request) as session:
            await service.create(session, values)
            await session.commit()

    It raises SQLAlchemy's errors, not HTTP problems.
    """
    return state_of(source, Database).sessions()


def open_read_session(source: HTTPConnection | Service) -> AsyncSession:
    """Return a session of your own, as `open_session` does, but for reading only."""
    return state_of(source, Database).read_sessions()


Open = Callable[[HTTPConnection], AsyncSession]


def _dependency(open_one: Open) -> Callable[[HTTPConnection], AsyncIterator[AsyncSession]]:
    async def session(connection: HTTPConnection) -> AsyncIterator[AsyncSession]:
        try:
            async with open_one(connection) as session:
                yield session
        except (exc.DBAPIError, exc.TimeoutError) as error:
            database = state_of(connection, Database)
            problem = await faults.problem(error, database.engine, database.driver)
            if problem is None:
                raise
            raise faults.for_connection(problem, connection) from None

    return session


# `scope`: the connection returns to the pool before a slow client has read the response.
SessionDep = Annotated[AsyncSession, Depends(_dependency(open_session), scope="function")]
"""A transaction. It is rolled back at the end of the route unless the route commits.

On a WebSocket route that is the end of the socket: commit after each message, or better, use
`open_session` for each, since a session keeps its connection until it is committed or closed.
"""

ReadSessionDep = Annotated[AsyncSession, Depends(_dependency(open_read_session), scope="function")]
"""For reading: each statement by itself, without the round trips that begin and end one."""
