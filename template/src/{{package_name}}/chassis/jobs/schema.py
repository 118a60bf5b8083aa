"""The tables of the queue, in a schema of their own; `migrations/env.py` calls `migrate`."""

from typing import Any

import asyncpg
from pgqueuer.adapters.drivers.asyncpg import AsyncpgDriver
from sqlalchemy import Connection

from .queue import queries

__all__ = ["migrate"]

# PgQueuer gives a job whose worker ended to another worker, but does not count the attempt.
COUNT_CRASHES = (
    """
    CREATE OR REPLACE FUNCTION jobs.count_crash() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        NEW.attempts := OLD.attempts + 1;
        RETURN NEW;
    END $$
    """,
    # Only once: it needs a lock on the table, for which it would wait for each transaction that
    # enqueued, while the migrations hold locks that such a transaction may wait for.
    """
    DO $$ BEGIN
        IF NOT EXISTS (SELECT FROM pg_trigger
            WHERE tgname = 'count_crash' AND tgrelid = 'jobs.pgqueuer'::regclass)
        THEN
            CREATE TRIGGER count_crash BEFORE UPDATE OF status ON jobs.pgqueuer FOR EACH ROW
            WHEN (OLD.status = 'picked' AND NEW.status = 'picked'
                AND OLD.queue_manager_id IS DISTINCT FROM NEW.queue_manager_id)
            EXECUTE FUNCTION jobs.count_crash();
        END IF;
    END $$
    """,
)


def migrate(connection: Connection) -> None:
    """Create the tables that the installed PgQueuer needs, or change them to what it needs.

    It runs with the migrations, in their transaction. So a newer PgQueuer needs no migration of
    yours, only `make migrate`.
    """
    driver_connection: Any = connection.connection.dbapi_connection
    driver_connection.run_async(_converge)


async def _converge(connection: asyncpg.Connection) -> None:
    # asyncpg alone runs several statements at once, and what PgQueuer plans may contain them.
    plan = await queries(AsyncpgDriver(connection)).plan_upgrade()
    for statement in (*plan.statements, *COUNT_CRASHES):
        await connection.execute(statement)
