"""The jobs as a feature of the service: which there are, and the worker's settings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from ..database.postgresql import POOL_SIZE
from ..feature import Feature
from ..settings import CommaList, EnvironmentSettings
from .job import Job

# Connections of the worker that no job can have: for announcements and for the queue.
RESERVED = 2


class Settings(EnvironmentSettings):
    worker_concurrency: int = Field(default=POOL_SIZE - RESERVED, ge=1, le=POOL_SIZE - RESERVED)
    worker_queues: CommaList = []
    worker_poll_seconds: float = Field(default=5, ge=0.1, le=60)


@dataclass(frozen=True, kw_only=True)
class Jobs(Feature):
    """The feature; the service enqueues jobs, and its worker runs them."""

    jobs: Sequence[Job[Any]]


def feature(*jobs: Job[Any]) -> Feature:
    """List jobs that the worker runs; there may be several such features."""
    names = ", ".join(job.name for job in jobs)
    return Jobs(name=f"jobs: {names}", settings=Settings, jobs=jobs)


def jobs_of(features: Sequence[Feature]) -> list[Job[Any]]:
    """Return the jobs that are listed; raise ValueError if two have one name."""
    jobs = [job for feature in features if isinstance(feature, Jobs) for job in feature.jobs]
    names = [job.name for job in jobs]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"Two jobs are called {twice.pop()!r}: give one another name=")
    return jobs
