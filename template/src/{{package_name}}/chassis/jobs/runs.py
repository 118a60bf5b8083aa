"""One run of a job: its context, its time, and what follows from its end."""

from __future__ import annotations

import asyncio
import random
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import structlog
from anyio import CancelScope
from anyio.lowlevel import checkpoint_if_cancelled
from opentelemetry import propagate, trace
from pgqueuer.core.executors import AbstractEntrypointExecutor, EntrypointExecutorParameters
from pgqueuer.domain import errors, models
from sqlalchemy import exc

from ..database import Database
from ..logs import mark_as_logged
from ..service import Service, state_of
from .job import Job, Run
from .metrics import DURATION, OUTCOMES, RUNNING
from .queue import WorkerDriver, in_one_line

FIRST_RETRY_SECONDS = 2.0
LONGEST_RETRY_SECONDS = 3600.0

RELEASE_KEY = "UPDATE jobs.pgqueuer SET dedupe_key = NULL WHERE id = $1"
# PgQueuer counts each attempt whose job it puts back: also of one that was given back, but not the
# last one of a job that fails.
COUNT = "UPDATE jobs.pgqueuer SET attempts = $3 WHERE id = $1 AND queue_manager_id = $2"
UNCOUNT = "UPDATE jobs.pgqueuer SET attempts = attempts - 1 WHERE id = $1 AND queue_manager_id = $2"

logger = structlog.get_logger()
tracer = trace.get_tracer(__name__)


class CrashedError(Exception):
    """The workers that ran the job ended before it did, as often as it may run."""


class FailedError(Exception):
    """The exception that the queue records, whatever the job raised: PostgreSQL can keep its text."""


class Running:
    """The jobs that a worker runs, so that a stop can give them back."""

    def __init__(self) -> None:
        self.scopes: set[CancelScope] = set()
        self.ended = False

    @contextmanager
    def track(self, scope: CancelScope) -> Iterator[None]:
        self.scopes.add(scope)
        if self.ended:
            scope.cancel()
        try:
            with RUNNING.track_inprogress(), scope:
                yield
        finally:
            self.scopes.discard(scope)

    def give_back(self) -> None:
        """Cancel the jobs that run, and those that have yet to begin."""
        self.ended = True
        for scope in self.scopes:
            scope.cancel()


class Executor(AbstractEntrypointExecutor):
    """Runs a job for PgQueuer: RetryRequested puts it back, any other exception fails it."""

    def __init__(
        self, job: Job[Any], service: Service, driver: WorkerDriver, running: Running
    ) -> None:
        # Only PgQueuer's own executors call the function in here.
        super().__init__(EntrypointExecutorParameters(0, self.execute, on_failure="hold"))
        self.job = job
        self.service = service
        self.driver = driver
        self.running = running
        self.sessions = state_of(service, Database).sessions
        for outcome in OUTCOMES:
            # It counts from 0: for Prometheus, a new metric that is 1 has not increased.
            DURATION.labels(job.name, outcome)

    async def execute(self, row: models.Job, context: models.Context) -> None:
        run = Run(row.id, row.attempts + 1, self.sessions, self.service)
        headers = {name: str(value) for name, value in (row.headers or {}).items()}
        with _context(self.job, run, headers):
            started = time.perf_counter()
            error: BaseException | None = None
            try:
                with self.running.track(context.cancellation):
                    await self._run(run, row.payload or b"{}", "key" in headers)
            except BaseException as raised:
                # CancelledError would make PgQueuer delete the job, SystemExit would end the worker.
                error = raised
            outcome = self._outcome(run, error, context.cancellation)
            seconds = time.perf_counter() - started
            text = in_one_line("".join(traceback.format_exception_only(error)))
            if outcome in ("retried", "failed"):
                trace.get_current_span().set_status(trace.StatusCode.ERROR, text)
            DURATION.labels(self.job.name, outcome).observe(seconds)
            pause = backoff(run.attempt) if outcome == "retried" else None
            _log(outcome, seconds, error, pause)
        if outcome == "returned":
            with suppress(exc.DBAPIError, exc.TimeoutError):
                await self.driver.fetch(UNCOUNT, row.id, row.queue_manager_id)
            raise errors.RetryRequested(reason="the worker stops")
        if pause:
            raise errors.RetryRequested(pause, text) from None
        if outcome == "failed":
            used = min(run.attempt, self.job.attempts)
            await self.driver.fetch(COUNT, row.id, row.queue_manager_id, used)
            failed = FailedError(text)
            mark_as_logged(failed)
            raise failed from None

    async def _run(self, run: Run, payload: bytes, has_key: bool) -> None:
        await checkpoint_if_cancelled()
        if has_key:
            # From here on, a job with this key is another one: it sees what this one may miss.
            await self.driver.fetch(RELEASE_KEY, run.id)
        if run.attempt > self.job.attempts:
            raise CrashedError(f"the worker ended during each of {self.job.attempts} attempts")
        async with asyncio.timeout(self.job.timeout):
            await self.job.run(run, payload)

    def _outcome(self, run: Run, error: BaseException | None, scope: CancelScope) -> str:
        # What a job raises while it is cancelled says nothing about its work.
        if scope.cancelled_caught or (error and scope.cancel_called):
            return "returned" if self.running.ended else "cancelled"
        if error is None:
            return "done"
        return "retried" if run.attempt < self.job.attempts else "failed"


def backoff(attempt: int) -> timedelta:
    """Return how long to wait after an attempt: 2 s, then twice as long each time, at most 1 h.

    Up to a quarter less, so that jobs that failed together are not retried together.
    """
    seconds = min(FIRST_RETRY_SECONDS * 2 ** min(attempt - 1, 20), LONGEST_RETRY_SECONDS)
    return timedelta(seconds=seconds * random.uniform(0.75, 1))  # noqa: S311


@contextmanager
def _context(job: Job[Any], run: Run, headers: Mapping[str, str]) -> Iterator[None]:
    """Put the job, and the request that enqueued it, into log lines and a span."""
    parent = propagate.extract(headers)
    with tracer.start_as_current_span(job.name, parent, trace.SpanKind.CONSUMER) as span:
        names = {"job": job.name, "job_id": run.id, "attempt": run.attempt}
        if "request_id" in headers:
            names["request_id"] = headers["request_id"]
        if span.get_span_context().is_valid:
            names["trace_id"] = trace.format_trace_id(span.get_span_context().trace_id)
        with structlog.contextvars.bound_contextvars(**names):
            yield


def _log(
    outcome: str, seconds: float, error: BaseException | None, pause: timedelta | None
) -> None:
    log = {"failed": logger.error, "retried": logger.warning}.get(outcome, logger.info)
    details = {"retry_in_seconds": round(pause.total_seconds(), 2)} if pause else {}
    log("job", outcome=outcome, duration_ms=round(seconds * 1000, 2), **details, exc_info=error)
