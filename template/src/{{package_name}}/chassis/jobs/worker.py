"""The worker: a process that runs jobs, with probes and metrics of its own."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from importlib import import_module
from typing import Any

import structlog
from pgqueuer.adapters.persistence.queries import Queries
from pgqueuer.core.qm import QueueManager
from pgqueuer.domain import models, types
from pgqueuer.ports.repository import EntrypointExecutionParameter
from sqlalchemy import exc

from .. import app as chassis_app
from .. import settings as chassis_settings
from ..database import Database
from ..feature import Feature
from ..service import Service, settings_of, state_of
from . import metrics, schedule
from .feature import Settings, jobs_of
from .job import Job
from .queue import NAMES, WorkerDriver, announce, builders
from .runs import Executor, Running

# A worker that was not heard from for this long has ended: others run its jobs.
LEASE = timedelta(seconds=30)
MEASURE_SECONDS = 10.0
PAUSE_SECONDS = 1.0
# The end of the grace, in which the worker gives back what still runs.
GIVE_BACK_SECONDS = 0.5
# A worker that is this late to look for jobs is not ready.
STUCK_SECONDS = 30.0

# It checks and renews in one statement: after an outage, all workers look for jobs at once.
RENEW_LEASE = """
UPDATE jobs.pgqueuer SET heartbeat = now() WHERE id = $1 AND queue_manager_id = $2 RETURNING id
"""

logger = structlog.get_logger()


class WorkerQueries(Queries):
    """Claims as many jobs as the worker has room for."""

    def __init__(self, worker: Worker) -> None:
        driver: Any = worker.driver
        super().__init__(driver, *builders())
        self.worker = worker

    async def dequeue(
        self,
        batch_size: int,
        entrypoints: dict[types.QueueEntrypoint, EntrypointExecutionParameter],
        queue_manager_id: types.QueueManagerId,
        global_concurrency_limit: int | None,
        heartbeat_timeout: timedelta,
    ) -> list[models.Job]:
        jobs: list[models.Job] = []
        if room := await self.worker.room():
            jobs = await super().dequeue(
                room, entrypoints, queue_manager_id, None, heartbeat_timeout
            )
        self.worker.looked_at = time.monotonic()
        return jobs

    async def retry_job(
        self, job: models.Job, delay: timedelta, traceback_record: models.TracebackRecord | None
    ) -> None:
        # After a delay or an outage, another run may have begun: in another worker, or in this one.
        is_ours = await self.driver.fetch(RENEW_LEASE, job.id, job.queue_manager_id)
        if is_ours and job.id not in self.worker.manager.job_context:
            await super().retry_job(job, delay, traceback_record)
            # An error here would mark the job as failed.
            with suppress(exc.DBAPIError, exc.TimeoutError):
                await announce(self.worker.driver)


class Manager(QueueManager):
    """Reports when a job has ended, so that the next one begins at once."""

    def __init__(self, worker: Worker) -> None:
        super().__init__(WorkerQueries(worker), NAMES.channel)
        self.worker = worker

    def forget_job(
        self, job_id: types.JobId, context: models.Context, task: asyncio.Task[None]
    ) -> None:
        super().forget_job(job_id, context, task)
        self.worker.ended.set()


class Worker:
    """The state of the worker's feature."""

    def __init__(self, service: Service, jobs: Sequence[Job[Any]]) -> None:
        self.service = service
        self.settings = settings_of(service, Settings)
        self.database = state_of(service, Database)
        self.driver = WorkerDriver(self.database.engine)
        chosen = self.settings.worker_queues
        if unknown := set(chosen) - {job.queue for job in jobs}:
            # No reason to end: another release may have jobs in them.
            logger.warning("no job has these WORKER_QUEUES", queues=sorted(unknown))
        self.names = {job.name for job in [schedule.prune, *jobs]}
        # Whatever its queues are: otherwise nobody might prune.
        self.jobs = [schedule.prune, *(job for job in jobs if not chosen or job.queue in chosen)]
        self.running = Running()
        self.looked_at = 0.0
        self.ended = asyncio.Event()
        self.manager: Manager

    async def room(self) -> int:
        """Return how many jobs may begin; if none may, wait a while for one to end."""
        most, running = self.settings.worker_concurrency, self.manager.job_context
        if len(running) >= most:
            self.ended.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self.ended.wait(), self.settings.worker_poll_seconds)
        return 0 if self.driver.stopped.is_set() else max(0, most - len(running))

    async def run(self) -> None:
        """Run jobs until the service stops, then finish within the grace or give them back."""
        working = asyncio.create_task(self._repeat(self._work))
        others = [
            asyncio.create_task(self._repeat(self._tick)),
            asyncio.create_task(self._repeat(self._measure)),
        ]
        await self.service.stop.wait()
        self.driver.stopped.set()
        for task in others:
            task.cancel()
        grace = max(0.0, self.service.settings.shutdown_grace_seconds - GIVE_BACK_SECONDS)
        await asyncio.wait([working], timeout=grace)
        self.running.give_back()
        await asyncio.wait([working, *others])

    async def _repeat(self, step: Callable[[], Awaitable[float]]) -> None:
        while not self.driver.stopped.is_set():
            try:
                pause = await step()
            except Exception as error:
                logger.warning("the worker pauses", step=step.__name__, error=repr(error))
                pause = PAUSE_SECONDS
            with suppress(TimeoutError):
                await asyncio.wait_for(self.driver.stopped.wait(), pause)

    async def _work(self) -> float:
        # A manager runs once.
        self.manager = Manager(self)
        self.manager.shutdown = self.driver.stopped
        for job in self.jobs:
            executor = Executor(job, self.service, self.driver, self.running)
            self.manager.register_executor(job.name, executor)
        await self.manager.run(
            dequeue_timeout=timedelta(seconds=self.settings.worker_poll_seconds),
            batch_size=self.settings.worker_concurrency,
            heartbeat_timeout=LEASE,
            # Prometheus keeps statistics.
            log_aggregation_interval=timedelta(0),
        )
        return 0

    async def _tick(self) -> float:
        # Waits while the database is down.
        await self.driver.fetch("SELECT 1")
        await schedule.begin(self.database.sessions, self.jobs)
        while True:  # noqa: ASYNC110 - it waits for a time, not for an event
            await asyncio.sleep(await schedule.tick(self.database.sessions, self.jobs))

    async def _measure(self) -> float:
        started = time.monotonic()
        await metrics.measure(self.driver, self.names)
        # It reads the whole queue, however long that is: in a twentieth of the time.
        return max(MEASURE_SECONDS, 20 * (time.monotonic() - started))


async def check(service: Service) -> None:
    """Raise if the worker has not looked for jobs for much longer than it may wait."""
    worker = state_of(service, Worker)
    longest = worker.settings.worker_poll_seconds + STUCK_SECONDS
    if time.monotonic() - worker.looked_at > longest:
        raise RuntimeError("the worker does not reach its queue")


def create_worker(settings: chassis_settings.Settings | None = None) -> Service:
    """Build the worker of the application: its features without their routes and checks."""
    application = import_module(f"{chassis_settings.PACKAGE}.app").create_app(settings)
    return worker_of(application)


def worker_of(application: Service) -> Service:
    jobs = jobs_of(application.features)
    if not jobs:
        # No error: a service without jobs of its own starts too, with its worker beside it.
        logger.warning("create_app has no jobs.feature(...) in its features")
    # At info, PgQueuer writes a line of its own for each retry.
    logging.getLogger("pgqueuer").setLevel(logging.WARNING)
    inner = [_inner(it) for it in application.features if it not in chassis_app.BUILT_IN]
    # No balancer sends requests to a worker, so it need not wait for one.
    changes = {"shutdown_delay_seconds": 0, "docs_enabled": False}
    return chassis_app.create_app(
        application.settings.model_copy(update=changes),
        title=f"{application.title}: worker",
        version=application.version,
        features=[*inner, _worker(jobs)],
    )


def _inner(feature: Feature) -> Feature:
    checks = feature.checks if feature.name == "database" else {}
    return replace(feature, checks=checks, routers=(), middleware=(), describe=None)


def _worker(jobs: Sequence[Job[Any]]) -> Feature:
    @asynccontextmanager
    async def lifespan(service: Service) -> AsyncIterator[Worker]:
        worker = Worker(service, jobs)
        running = asyncio.create_task(worker.run())
        yield worker
        service.stop.set()
        await running

    return Feature(name="worker", settings=Settings, lifespan=lifespan, checks={"worker": check})
