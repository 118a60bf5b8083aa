"""Jobs with a cron, each enqueued once per tick by whichever worker is first; and pruning."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from croniter import croniter
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from .job import Job, Run, job

# Rows that one statement deletes; it has ten seconds.
BATCH = 10_000
# Until a worker looks again: another release may have changed a schedule, or somebody the clock.
LONGEST_PAUSE_SECONDS = 60.0

NOW = text("SELECT now()")
FORGET = text(
    "DELETE FROM jobs.pgqueuer_schedules WHERE entrypoint = :name AND expression <> :cron"
)
ADD = text(
    "INSERT INTO jobs.pgqueuer_schedules (entrypoint, expression, next_run) VALUES (:name, :cron, :next)"
    " ON CONFLICT DO NOTHING"
)
READ = text(
    "SELECT id, entrypoint, expression, next_run, now() AS now FROM jobs.pgqueuer_schedules"
    " ORDER BY id"
)
# Of several workers, one finds the row as it was.
ADVANCE = text(
    "UPDATE jobs.pgqueuer_schedules SET next_run = :next, last_run = next_run"
    " WHERE id = :id AND next_run = :due RETURNING id"
)
PRUNE_LOG = text(
    "DELETE FROM jobs.pgqueuer_log WHERE id IN (SELECT id FROM jobs.pgqueuer_log"
    " WHERE created < now() - interval '7 days' LIMIT :most) RETURNING id"
)
PRUNE_FAILED = text(
    "DELETE FROM jobs.pgqueuer WHERE id IN (SELECT id FROM jobs.pgqueuer"
    " WHERE status = 'failed' AND updated < now() - interval '30 days' LIMIT :most) RETURNING id"
)

Sessions = async_sessionmaker[AsyncSession]


async def begin(sessions: Sessions, jobs: Sequence[Job[Any]]) -> None:
    """Add the schedules that are missing, and delete those of crons that a job no longer has."""
    async with sessions() as session:
        now = await session.scalar(NOW)
        for name, cron in _crons(jobs):
            await session.execute(FORGET, {"name": name, "cron": cron})
            values = {"name": name, "cron": cron, "next": _next(cron, now)}
            await session.execute(ADD, values)
        await session.commit()


async def tick(sessions: Sessions, jobs: Sequence[Job[Any]]) -> float:
    """Enqueue the jobs that are due, and return the seconds until the next tick.

    One transaction moves the schedule on and enqueues the job. Missed ticks make one job together.
    """
    crons = {(job.name, job.cron): job for job in jobs}
    pause = LONGEST_PAUSE_SECONDS
    async with sessions() as session:
        for row in (await session.execute(READ)).all():
            due = crons.get((row.entrypoint, row.expression))
            if due is None:
                continue
            later = _next(row.expression, row.now)
            is_due = row.next_run <= row.now
            # Later than the next tick, if the database's clock was ahead.
            if is_due or row.next_run > later:
                values = {"id": row.id, "due": row.next_run, "next": later}
                if await session.scalar(ADVANCE, values) and is_due:
                    await due.enqueue(session)
            pause = min(pause, (later - row.now).total_seconds())
        await session.commit()
    return pause


@job(name="jobs.prune", cron="27 * * * *", timeout=600)
async def prune(run: Run) -> None:
    """Delete what nobody needs any more: the log after 7 days, failed jobs after 30."""
    for statement in (PRUNE_LOG, PRUNE_FAILED):
        deleted = BATCH
        while deleted == BATCH:
            async with run.sessions() as session:
                deleted = len((await session.execute(statement, {"most": BATCH})).all())
                await session.commit()


def _crons(jobs: Sequence[Job[Any]]) -> list[tuple[str, str]]:
    return [(job.name, job.cron) for job in jobs if job.cron]


def _next(cron: str, after: datetime) -> datetime:
    following: datetime = croniter(cron, after.astimezone(UTC)).get_next(datetime)
    return following
