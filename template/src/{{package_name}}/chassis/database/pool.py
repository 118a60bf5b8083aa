"""The pool of connections, and its metrics."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Gauge
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry

from ..metrics import REGISTRY

# Names and labels: OpenTelemetry's semantic conventions for database clients, as Prometheus
# writes them.
PENDING = Gauge(
    "db_client_connection_pending_requests",
    "Sessions that wait for a connection.",
    registry=REGISTRY,
)
# As SQLAlchemy sets its own loggers: at info, a pool reports its end.
logging.getLogger(__name__).setLevel(logging.WARNING)
# The engines of the services in this process.
ENGINES: set[AsyncEngine] = set()


class Pool(AsyncAdaptedQueuePool):
    """SQLAlchemy's pool for asyncio, which counts who waits for a connection."""

    def _do_get(self) -> ConnectionPoolEntry:
        with PENDING.track_inprogress():
            return super()._do_get()


def is_exhausted(engine: AsyncEngine) -> bool:
    """Check whether all connections are in use."""
    pool = engine.pool
    return isinstance(pool, Pool) and pool.checkedout() >= pool.size()


@contextmanager
def measured(engine: AsyncEngine) -> Iterator[None]:
    """Count the connections of `engine` in the metrics."""
    ENGINES.add(engine)
    try:
        yield
    finally:
        ENGINES.remove(engine)


class _Connections(Collector):
    def collect(self) -> Iterator[GaugeMetricFamily]:
        pools = [engine.pool for engine in ENGINES]
        queues = [pool for pool in pools if isinstance(pool, Pool)]
        count = GaugeMetricFamily(
            "db_client_connection_count",
            "Open connections, by their state.",
            labels=["db_client_connection_state"],
        )
        count.add_metric(["used"], sum(queue.checkedout() for queue in queues))
        count.add_metric(["idle"], sum(queue.checkedin() for queue in queues))
        yield count
        limit = sum(queue.size() for queue in queues)
        yield GaugeMetricFamily("db_client_connection_max", "Connections allowed at once.", limit)


REGISTRY.register(_Connections())
