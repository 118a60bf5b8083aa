"""Rows to try a service with: `make seed` adds those that are missing."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from textwrap import shorten
from typing import Any, TypeVar, cast

import structlog
from fastapi import FastAPI
from sqlalchemy import JSON, Table, exc, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from .. import logs
from ..service import Service, state_of
from ..settings import Settings, load
from .base import Base
from .faults import is_missing, reason
from .sessions import Database, open_session

__all__ = ["insert_missing", "run"]

S = TypeVar("S", bound=Settings)

logger = structlog.get_logger()


async def insert_missing(
    session: AsyncSession, table: str, rows: Sequence[Mapping[str, Any]]
) -> int:
    """Insert those of `rows` that the table lacks; return how many.

    A row counts as present if another has the same values, or the same value in a unique column.
    Columns that a row leaves out get the defaults of the model. Raise `LookupError` for an unknown
    table or column.
    """
    found = _table(table)
    on_sqlite = session.get_bind().dialect.name == "sqlite"
    insert = sqlite.insert if on_sqlite else postgresql.insert
    inserted = 0
    for row in rows:
        if unknown := row.keys() - found.c.keys():
            raise LookupError(f"The table {table} has no column {sorted(unknown)[0]}")
        # PostgreSQL can't compare JSON.
        same = [
            found.c[name].is_not_distinct_from(value)
            for name, value in row.items()
            if not isinstance(found.c[name].type, JSON)
        ]
        if await session.scalar(select(1).select_from(found).where(*same).limit(1)) is None:
            statement = insert(found).values(**row).on_conflict_do_nothing()
            added = await session.execute(statement.returning(*found.primary_key))
            inserted += len(added.all())
    logger.info("rows inserted", table=table, inserted=inserted, present=len(rows) - inserted)
    return inserted


def _table(name: str) -> Table:
    if name in Base.metadata.tables:
        return Base.metadata.tables[name]
    known = ", ".join(sorted(Base.metadata.tables)) or "none"
    raise LookupError(f"There is no table {name}; the models have: {known}")


def run(
    seed: Callable[[AsyncSession], Awaitable[None]],
    create_app: Callable[[S], FastAPI],
    settings: type[S],
) -> None:
    """Call `seed` with a session of the application, and commit; refuse to in production.

    End the process with one line for an unknown table or column, a value that the database refuses,
    a database that is down, or one that was not migrated.
    """
    config = load(settings)
    if config.app_env == "production":
        sys.exit("Seed data is for development, but APP_ENV is production")
    logs.configure(config.log_level, config.log_format)
    app = cast(Service, create_app(config))
    try:
        asyncio.run(_seed(seed, app))
    except LookupError as error:
        sys.exit(str(error))
    except exc.StatementError as error:
        if isinstance(error, exc.DBAPIError):
            if is_missing(error):
                sys.exit(f"The database was not migrated: {reason(error)}; run 'make migrate'")
            if state_of(app, Database).driver.is_down(error):
                sys.exit(f"The database of DATABASE_URL does not respond: {reason(error)}")
        # The statement has placeholders for the values.
        sys.exit(f"Nothing was inserted: {reason(error)}, in {shorten(str(error.statement), 200)}")


async def _seed(seed: Callable[[AsyncSession], Awaitable[None]], app: Service) -> None:
    async with app.router.lifespan_context(app), open_session(app) as session:
        try:
            await seed(session)
            await session.commit()
        except exc.DBAPIError:
            # aiosqlite's thread still reports to this loop if it can't open the file.
            await asyncio.sleep(0.1)
            raise
