"""The worker's metrics."""

from prometheus_client import Gauge, Histogram

from ..metrics import REGISTRY
from .queue import WorkerDriver

OUTCOMES = ("done", "retried", "failed", "returned", "cancelled")
# Not `job`: Prometheus gives each metric a label of that name.
DURATION = Histogram(
    "job_duration_seconds",
    "Duration of the runs of jobs, by their outcome; its count is their number.",
    ["job_name", "outcome"],
    buckets=(0.01, 0.1, 1, 10, 60, 600),
    registry=REGISTRY,
)
RUNNING = Gauge("jobs_running", "Jobs that this worker runs.", registry=REGISTRY)
# Each worker reports the same numbers of the whole queue: use max, not sum.
QUEUED = Gauge(
    "jobs_queued", "Jobs that wait, delayed ones included.", ["job_name"], registry=REGISTRY
)
FAILED = Gauge("jobs_failed", "Failed jobs, kept to be retried.", ["job_name"], registry=REGISTRY)
UNKNOWN = Gauge(
    "jobs_unknown",
    "Jobs that wait, and that the release of this worker does not know.",
    registry=REGISTRY,
)
OLDEST_DUE = Gauge(
    "jobs_oldest_due_seconds",
    "How long the oldest job that is due has been waiting; 0 if none is.",
    registry=REGISTRY,
)

STATE = """
SELECT entrypoint, count(*) FILTER (WHERE status = 'queued') AS queued,
    count(*) FILTER (WHERE status = 'failed') AS failed,
    extract(epoch FROM now() - min(execute_after) FILTER (WHERE status = 'queued'))::float AS due
FROM jobs.pgqueuer GROUP BY entrypoint
"""


async def measure(driver: WorkerDriver, names: set[str]) -> None:
    """Count the jobs of the whole queue; `names` are those that the release knows."""
    rows = {row["entrypoint"]: row for row in await driver.fetch(STATE)}
    for gauge, column in ((QUEUED, "queued"), (FAILED, "failed")):
        gauge.clear()
        for name in names | rows.keys():
            gauge.labels(name).set(rows.get(name, {}).get(column, 0))
    UNKNOWN.set(sum(row["queued"] for name, row in rows.items() if name not in names))
    OLDEST_DUE.set(max([0.0, *(row["due"] or 0.0 for row in rows.values())]))
