"""Faults of the database as HTTP problems and WebSocket close codes."""

import re

import structlog
from fastapi import HTTPException, WebSocket, WebSocketException
from fastapi.requests import HTTPConnection
from prometheus_client import Gauge
from sqlalchemy import exc, text
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.websockets import WebSocketState

from ..metrics import REGISTRY
from .driver import Driver

RETRY_AFTER_SECONDS = 2
# SQLSTATEs of PostgreSQL (appendix A), and what SQLite has instead: result codes for UNIQUE and
# PRIMARY KEY; otherwise texts, since ON DELETE RESTRICT has the code of a trigger.
TAKEN = {"23505", 2067, 1555}
REFERENCE = {"23001", "23503"}
REFERENCE_TEXT = "FOREIGN KEY constraint failed"
MISSING = "42P01"
MISSING_TEXT = "no such table"
# The table exists once the database was migrated for the first time.
MIGRATED = text("SELECT version_num FROM alembic_version")
# RFC 6455 and its registry: the request is at fault; the client may try again later.
POLICY_VIOLATION = 1008
TRY_AGAIN_LATER = 1013

REVISION = Gauge(
    "database_revision_info",
    "Always 1; the label is the migration that the database is at.",
    ["revision"],
    registry=REGISTRY,
)

logger = structlog.get_logger()


def is_taken(error: exc.DBAPIError) -> bool:
    """Check whether another row has a value that must be unique."""
    return _code(error) in TAKEN


def is_reference(error: exc.DBAPIError) -> bool:
    """Check for a foreign key that refers to no row, or would after this statement."""
    return _code(error) in REFERENCE or REFERENCE_TEXT in str(error.orig)


def is_missing(error: exc.DBAPIError) -> bool:
    """Check for a table that does not exist."""
    return _code(error) == MISSING or MISSING_TEXT in str(error.orig)


def _code(error: exc.DBAPIError) -> str | int | None:
    state: str | None = getattr(error.orig, "sqlstate", None)
    return state or getattr(error.orig, "sqlite_errorcode", None)


def reason(error: exc.StatementError | exc.TimeoutError) -> str:
    """Say in one line why the database failed, without the statement and its values."""
    cause = error.orig if isinstance(error, exc.StatementError) else error
    return " ".join(str(cause).split())


async def check_migrated(engine: AsyncEngine, driver: Driver) -> None:
    """Raise SQLAlchemy's error unless the database responds and was ever migrated."""
    async with driver.reading(engine).connect() as connection:
        found = await connection.execute(MIGRATED)
    REVISION.clear()
    for (revision,) in found:
        REVISION.labels(revision).set(1)


async def problem(
    error: exc.DBAPIError | exc.TimeoutError, engine: AsyncEngine, driver: Driver
) -> HTTPException | None:
    """Return the problem for the client; None if the service is at fault."""
    if isinstance(error, exc.TimeoutError) or await _is_down(error, engine, driver):
        logger.warning("database is down", error=reason(error))
        headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
        return HTTPException(503, "The database is unavailable", headers)
    if is_taken(error):
        return HTTPException(409, "There is one like it already")
    if is_reference(error):
        # Which row is at fault, databases report only in messages that may be translated.
        verb = re.search(r"\b(insert|update|delete)\b", error.statement or "", re.IGNORECASE)
        if verb and verb[1].lower() != "delete":
            return HTTPException(422, "It refers to something that does not exist")
        return HTTPException(409, "Something else still refers to it")
    return None


async def _is_down(error: exc.DBAPIError, engine: AsyncEngine, driver: Driver) -> bool:
    if not is_missing(error):
        return driver.is_down(error)
    # A misspelt table is the service's fault, unless no table exists yet.
    try:
        await check_migrated(engine, driver)
    except (exc.DBAPIError, exc.TimeoutError):
        return True
    return False


def for_connection(
    problem: HTTPException, connection: HTTPConnection
) -> HTTPException | WebSocketException:
    """Return `problem`, or the close code in its place for a WebSocket that was accepted."""
    if not isinstance(connection, WebSocket):
        return problem
    if connection.application_state is not WebSocketState.CONNECTED:
        return problem
    code = TRY_AGAIN_LATER if problem.status_code == 503 else POLICY_VIOLATION
    return WebSocketException(code, problem.detail)
