"""The commands `worker` and `jobs`."""

import asyncio
import json
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from datetime import UTC
from importlib import import_module
from typing import Any

from pgqueuer.domain.types import JobId
from pydantic import ValidationError
from sqlalchemy import exc, text
from sqlalchemy.ext.asyncio import AsyncSession

from ..database import faults, postgresql
from ..database.driver import DatabaseSettings
from ..main import Command, serve
from ..settings import PACKAGE, Settings
from . import schedule
from .feature import jobs_of
from .job import Job
from .queue import SessionDriver, announce, in_one_line, queries

WORKER = f"{__package__}.worker:create_worker"

STATUS = ["failed", "queued", "picked", "all"]
LIST = text(
    """
    SELECT id, entrypoint AS name, payload AS arguments, status::text, attempts, execute_after,
        dedupe_key AS key,
        (SELECT traceback ->> 'exception_message' FROM jobs.pgqueuer_log log
        WHERE log.job_id = job.id AND traceback IS NOT NULL
        ORDER BY created DESC, id DESC LIMIT 1) AS error
    FROM jobs.pgqueuer job WHERE status::text = :status OR :status = 'all'
    ORDER BY id DESC LIMIT :most
    """
)
UNKNOWN = text(
    "SELECT entrypoint AS name, count(*) AS number FROM jobs.pgqueuer"
    " WHERE status = 'queued' AND entrypoint <> ALL(:known) GROUP BY entrypoint ORDER BY entrypoint"
)
FAILED = text("SELECT id FROM jobs.pgqueuer WHERE status = 'failed'")
FOUND = text("SELECT id FROM jobs.pgqueuer WHERE id = ANY(:ids)")
MOST = 100
# PostgreSQL's notices have at most 8,000 bytes.
MOST_IN_A_NOTICE = 300
# The column has 64 bits.
LONGEST_ID = 19


def commands() -> tuple[Command[Settings], Command[DatabaseSettings]]:
    """Return `worker`, which runs jobs until SIGTERM, and `jobs`, which lists and changes them."""
    return (
        Command("worker", "run jobs until SIGTERM", call=_work),
        Command("jobs", "list, enqueue, retry or cancel jobs", call=_jobs, arguments=_arguments),
    )


def _work(settings: Settings, arguments: Namespace) -> None:
    serve(settings, WORKER, reload=arguments.reload)


def _arguments(parser: ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="action")
    listing = actions.add_parser("list", help=f"print the newest {MOST} jobs of a status")
    listing.add_argument("status", nargs="?", default="failed", choices=STATUS)
    enqueue = actions.add_parser("enqueue", help="enqueue a job, such as one with a cron")
    enqueue.add_argument("name", help="the job's name")
    enqueue.add_argument("values", nargs="*", type=_value, metavar="argument=value", default=[])
    retry = actions.add_parser("retry", help="run failed jobs again, with all their attempts")
    retry.add_argument("ids", nargs="*", type=_id, metavar="id", help="without one: all")
    cancel = actions.add_parser("cancel", help="delete jobs, and stop those that run")
    cancel.add_argument("ids", nargs="+", type=_id, metavar="id")


def _id(given: str) -> int:
    if not (given.isascii() and given.isdigit() and len(given) < LONGEST_ID):
        raise ArgumentTypeError(f"{given!r} is no id, such as 7: list prints them")
    return int(given)


def _value(given: str) -> tuple[str, Any]:
    """Read argument=value; the value is JSON, else text."""
    name, separator, value = given.partition("=")
    if not separator:
        raise ArgumentTypeError(f"{given!r} is no argument=value, such as order_id=7")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _jobs(settings: DatabaseSettings, arguments: Namespace) -> None:
    try:
        asyncio.run(_with_session(settings, arguments))
    except (exc.DBAPIError, exc.TimeoutError) as error:
        sys.exit(f"The queue can't be read: {faults.reason(error)}")


async def _with_session(settings: DatabaseSettings, arguments: Namespace) -> None:
    known = _known() if arguments.action in ("list", "enqueue") else {}
    engine = postgresql.create_engine(settings.database_url.get_secret_value())
    async with AsyncSession(engine) as session:
        if arguments.action == "list":
            await _list(session, arguments.status)
            await _list_unknown(session, [*known])
        elif arguments.action == "enqueue":
            await _enqueue(session, known, arguments.name, dict(arguments.values))
            await session.commit()
        else:
            await _change(session, arguments.action, arguments.ids)
            await session.commit()
    await engine.dispose()


async def _list(session: AsyncSession, status: str) -> None:
    rows = (await session.execute(LIST, {"status": status, "most": MOST})).all()
    if not rows:
        print("no jobs" if status == "all" else f"no {status} jobs")
    for row in rows:
        due = row.execute_after.astimezone(UTC).isoformat(" ", "seconds")
        arguments = (row.arguments or b"{}").decode(errors="replace")
        line = f"{row.id} {row.name}{arguments} {row.status} attempts={row.attempts} due={due}"
        line += f" key={row.key.removeprefix(f'{row.name}:')}" if row.key else ""
        print(in_one_line(line) + (f" error={in_one_line(row.error)}" if row.error else ""))


async def _list_unknown(session: AsyncSession, known: list[str]) -> None:
    rows = (await session.execute(UNKNOWN, {"known": known})).all()
    if rows:
        names = ", ".join(f"{row.name} ({row.number})" for row in rows)
        print(f"no worker of this release runs these queued jobs: {in_one_line(names)}")


def _known() -> dict[str, Job[Any]]:
    """Return the jobs that this release lists, by name."""
    application = import_module(f"{PACKAGE}.app").create_app()
    return {job.name: job for job in (*jobs_of(application.features), schedule.prune)}


async def _enqueue(
    session: AsyncSession, known: dict[str, Job[Any]], name: str, values: dict[str, Any]
) -> None:
    if name not in known:
        sys.exit(f"There is no job {name!r}, only {', '.join(sorted(known))}")
    job = known[name]
    try:
        # As a worker reads them: JSON has no dates.
        number = await job.enqueue(session, **job.arguments.load(json.dumps(values).encode()))
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, it['loc']))}: {it['msg']}" for it in error.errors())
        sys.exit(f"{name} can't be enqueued: {'; '.join(faults)}")
    print(f"{number} {name} is queued")


async def _change(session: AsyncSession, action: str, chosen: list[int]) -> None:
    driver = SessionDriver(session)
    statements = queries(driver)
    if action == "retry":
        failed = set(await session.scalars(FAILED))
        ids = sorted(failed.intersection(chosen) if chosen else failed)
        await statements.requeue_jobs([JobId(number) for number in ids])
        await announce(driver)
    else:
        ids = sorted(await session.scalars(FOUND, {"ids": chosen}))
        for start in range(0, len(ids), MOST_IN_A_NOTICE):
            some = ids[start : start + MOST_IN_A_NOTICE]
            await statements.mark_job_as_cancelled([JobId(number) for number in some])
    if unknown := sorted(set(chosen) - set(ids)):
        hint = " that failed" if action == "retry" else ""
        await session.rollback()
        sys.exit(f"There is no job{hint} with the id {', '.join(map(str, unknown))}")
    done = {"retry": "will run again", "cancel": "cancelled"}[action]
    print(f"{len(ids)} {done}")
