"""Jobs in containers: PostgreSQL, and workers that are killed, stopped, cut off and of two releases."""

import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from conftest import add_to_app, commit, container, free_port, get, run, state
from test_database import Store, postgresql, python_version, ready
from test_production import PARENT, TRACE, collector
from test_update import NEXT, fresh, make_update, released, start, tree, upstream

# Fixtures, by name.
__all__ = ["collector", "python_version", "released", "start", "upstream"]

ANSWERS = {"database": "postgresql", "jobs": "postgresql"}
WORKER = ("python", "-m", "my_service", "worker")

JOBS = '''
"""What the tests run: jobs that leave a row, one that ends its worker, and a route that enqueues them."""

import asyncio
import os
from datetime import timedelta
from typing import Any

from fastapi import APIRouter
from sqlalchemy import text

from .chassis.database import SessionDep
from .chassis.jobs import Run, job, worker

# Else the tests would wait for half a minute after each kill.
worker.LEASE = timedelta(seconds=5)
# The first release lacks a job, and has another cron.
RELEASE = int(os.environ.get("RELEASE", "2"))
EFFECT = text("INSERT INTO effects (name, number, release) VALUES (:name, :number, :release)")

router = APIRouter(prefix="/v1/trial")


async def leave(run: Run, name: str, number: int) -> None:
    async with run.sessions() as session:
        await session.execute(EFFECT, {"name": name, "number": number, "release": RELEASE})
        await session.commit()


@job(attempts=30)
async def effect(run: Run, number: int, seconds: float = 0) -> None:
    await asyncio.sleep(seconds)
    await leave(run, "effect", number)


@job(attempts=2)
async def poison(run: Run, number: int) -> None:
    await leave(run, "poison", run.attempt)
    os._exit(137)


@job()
async def later(run: Run, number: int) -> None:
    await leave(run, "later", number)


@job(cron="* * * * *", attempts=30)
async def tick(run: Run) -> None: ...


# With seconds, which owners can't have: else the tests would take minutes.
tick.cron = "* * * * * */2" if RELEASE > 1 else "* * * * * 1-59/2"
JOBS = [effect, poison, tick, *([later] if RELEASE > 1 else [])]


@router.post("/{name}")
async def enqueue(session: SessionDep, name: str, jobs: list[dict[str, Any]]) -> None:
    for arguments in jobs:
        await globals()[name].enqueue(session, **arguments)
    await session.commit()
'''

# `moves`: each tick that some worker saw, and the time of the transaction that moved the schedule on.
TABLES = """
CREATE TABLE effects (name text, number bigint, release int);
CREATE TABLE moves (due timestamptz, at timestamptz DEFAULT now());
CREATE FUNCTION move() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO moves (due) VALUES (OLD.next_run); RETURN NULL; END $$;
CREATE TRIGGER move AFTER UPDATE OF next_run ON jobs.pgqueuer_schedules
    FOR EACH ROW WHEN (OLD.entrypoint = 'tick') EXECUTE FUNCTION move();
"""
LEFT = "SELECT count(*) FROM jobs.pgqueuer WHERE status <> 'failed' AND entrypoint <> 'tick'"


class Worker:
    """The container of a worker, and the times between which it was ready."""

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self.url = url
        self.ready = False
        self.lives: list[list[float]] = []

    def look(self) -> bool:
        now = time.time()
        was_ready, self.ready = self.ready, is_ready(self.url)
        if self.ready and not was_ready:
            self.lives.append([now, now])
        elif self.ready:
            self.lives[-1][1] = now
        return self.ready

    def kill(self) -> None:
        """Kill it, and start it again, as an orchestrator would."""
        self.ready = False
        run("docker", "kill", self.name)
        run("docker", "start", self.name)


class Trial:
    """A project's image with the jobs above, its database, and a service that enqueues them."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.server = str(store.server)
        self.service = ""

    def sql(self, statement: str) -> list[str]:
        command = ("docker", "exec", self.server, "psql", "--username=postgres", "--dbname=orders", "-Atqc", statement)
        return run(*command).stdout.splitlines()

    def enqueue(self, name: str, *jobs: dict[str, Any], **options: Any) -> None:
        response = httpx2.post(f"{self.service}/v1/trial/{name}", json=jobs, timeout=60, **options)
        assert response.status_code == 200, response.text

    @contextmanager
    def worker(self, *options: str, **variables: str) -> Iterator[Worker]:
        environment = [f"--env={name}={value}" for name, value in variables.items()]
        # Each probe is a process of Python.
        given = [*self.store.options, *environment, "--no-healthcheck", *options]
        with container(self.store.image, *given, command=WORKER) as (name, url):
            yield Worker(name, url)


@pytest.fixture(scope="module")
def image(render: Any, python_version: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    made = render(**ANSWERS, python_version=python_version)
    project = Path(shutil.copytree(made, tmp_path_factory.mktemp("jobs") / "project"))
    (project / "src/my_service/trial.py").write_text(JOBS.strip() + "\n")
    app = project / "src/my_service/app.py"
    listed = "item_jobs.report_low_stock"
    app.write_text(app.read_text().replace(listed, f"{listed}, *trial.JOBS"))
    add_to_app(project, "from . import trial", "app.include_router(trial.router)")
    tag = f"copier-fastapi-test:{os.getpid()}-jobs"
    run("docker", "build", f"--tag={tag}", ".", cwd=project)
    yield tag
    run("docker", "rmi", tag, check=False)


@pytest.fixture(scope="module")
def trial(image: str) -> Iterator[Trial]:
    with postgresql(f"copier-fastapi-test-{os.getpid()}-{free_port()}", lambda _: image) as store:
        store.migrate()
        made = Trial(store)
        made.sql(TABLES)
        with store.service() as (_, made.service):
            yield made


@pytest.fixture(autouse=True)
def empty(request: pytest.FixtureRequest) -> None:
    if "trial" in request.fixturenames:
        made: Trial = request.getfixturevalue("trial")
        made.sql("TRUNCATE effects, moves, jobs.pgqueuer, jobs.pgqueuer_log, jobs.pgqueuer_schedules")


def is_ready(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/health/ready").status_code == 200
    except httpx2.TransportError:
        return False


def until(seconds: float, is_done: Callable[[], bool]) -> float:
    """Wait until `is_done`, at most so long; return how long it took."""
    started = time.monotonic()
    while not is_done():
        assert time.monotonic() - started < seconds
        time.sleep(0.1)
    return time.monotonic() - started


def test_the_image_has_the_library_without_its_event_loop(image: str) -> None:
    """And without its command line, which needs typer."""
    program = (
        "import importlib.util as util; print([util.find_spec(it) is None for it in ('pgqueuer', 'uvloop', 'typer')])"
    )
    assert run("docker", "run", "--rm", image, "python", "-c", program).stdout == "[False, True, True]\n"


def test_no_job_is_lost_while_workers_are_killed_and_postgresql_restarts(trial: Trial) -> None:
    trial.enqueue("poison", {"number": 0})
    trial.enqueue("effect", *({"number": number, "seconds": 0.3} for number in range(1000)))
    with ExitStack() as stack:
        workers = [stack.enter_context(trial.worker("--restart=always", LOG_LEVEL="error")) for _ in range(3)]

        def look() -> list[Worker]:
            return [worker for worker in workers if worker.look()]

        until(60, lambda: bool(look()))
        hits = 0
        for kill in range(10):
            begun = time.monotonic()
            # Rather one that runs jobs than one that starts.
            killed = random.choice(look() or workers)
            hits += killed.ready
            killed.kill()
            if kill == 5:
                for worker in workers:
                    worker.ready = False
                run("docker", "restart", trial.server)
            while time.monotonic() < begun + (1 if look() else 3):
                time.sleep(0.1)
        drained = until(120, lambda: bool(look()) and trial.sql(LEFT) == ["0"])
        listed = run("docker", "exec", workers[0].name, *WORKER[:3], "jobs", "list").stdout
    duplicates = int(trial.sql("SELECT count(*) - count(DISTINCT number) FROM effects WHERE name = 'effect'")[0])
    print(f"{duplicates} duplicates, 10 kills, {hits} of a ready worker, drained {drained:.0f} s after the last one")
    assert trial.sql("SELECT count(DISTINCT number) FROM effects WHERE name = 'effect'") == ["1000"]
    # Each attempt ended its worker, or a kill did; then it failed, and can be retried.
    assert trial.sql("SELECT count(*) <= 2 FROM effects WHERE name = 'poison'") == ["t"]
    assert ' poison{"number":0} failed attempts=' in listed
    assert listed.count("\n") == 1
    assert_each_tick_has_one_job(trial, workers)


def assert_each_tick_has_one_job(trial: Trial, workers: list[Worker]) -> None:
    """And each tick during which a worker was ready was seen."""
    queued = "SELECT created FROM jobs.pgqueuer_log WHERE entrypoint = 'tick' AND status = 'queued' ORDER BY 1"
    # In the same transaction.
    assert trial.sql(queued) == trial.sql("SELECT at FROM moves ORDER BY 1")
    seen = [int(due) for due in trial.sql("SELECT extract(epoch FROM due)::bigint FROM moves ORDER BY 1")]
    lives = [life for worker in workers for life in worker.lives]
    ready = [due for due in range(seen[0], seen[-1], 2) if any(a < due - 2 and due + 2 < b for a, b in lives)]
    print(f"{len(seen)} ticks; a worker was ready during {len(ready)}")
    assert len(ready) > 2
    assert set(ready) <= set(seen)
    assert len(set(seen)) == len(seen)


def test_a_stopped_worker_finishes_within_the_grace_and_gives_the_rest_back(trial: Trial) -> None:
    """At once, and without counting the attempt; the process ends with status 0."""
    with trial.worker(SHUTDOWN_GRACE_SECONDS="6") as worker:
        ready(worker.url)
        # The first one ends between what it takes to see both run, and the end of the grace.
        trial.enqueue("effect", {"number": 1, "seconds": 4}, {"number": 2, "seconds": 40})
        picked = "SELECT count(*) FROM jobs.pgqueuer WHERE status = 'picked' AND entrypoint = 'effect'"
        until(20, lambda: trial.sql(picked) == ["2"])
        started = time.monotonic()
        run("docker", "stop", "--time=30", worker.name)
        assert time.monotonic() - started < 12
        assert state(worker.name)["ExitCode"] == 0
    waiting = "SELECT status, attempts, execute_after <= now() FROM jobs.pgqueuer WHERE entrypoint = 'effect'"
    assert trial.sql(waiting) == ["queued|0|t"]
    assert trial.sql("SELECT number FROM effects") == ["1"]


def test_the_worker_waits_while_postgresql_is_down_and_recovers_by_itself(trial: Trial) -> None:
    with trial.worker() as worker:
        ready(worker.url)
        run("docker", "stop", trial.server)
        down = time.monotonic()
        assert httpx2.post(f"{trial.service}/v1/items", json={"name": "lamp"}, timeout=30).status_code == 503
        until(30, lambda: not is_ready(worker.url))
        while time.monotonic() < down + 20:
            assert get(f"{worker.url}/health/live").status_code == 200
            time.sleep(0.5)
        run("docker", "start", trial.server)
        ready(worker.url)
        ready(trial.service)
        trial.enqueue("effect", {"number": 7})
        until(30, lambda: trial.sql("SELECT number FROM effects") == ["7"])
        assert state(worker.name)["Running"]
        assert state(worker.name)["StartedAt"] < state(trial.server)["StartedAt"]


def test_two_releases_share_the_jobs_that_both_know(trial: Trial) -> None:
    """What the older one does not know waits for the newer one, whose cron holds from its start."""
    effects = "SELECT DISTINCT name, release FROM effects ORDER BY 1, 2"
    later = "SELECT count(*), min(status::text), max(attempts) FROM jobs.pgqueuer WHERE entrypoint = 'later'"
    # Of odd seconds, as the older one has it, or of even ones.
    ticks = "SELECT DISTINCT extract(epoch FROM due)::bigint % 2 FROM moves"
    with trial.worker(RELEASE="1") as old:
        ready(old.url)
        trial.enqueue("later", *({"number": number} for number in range(3)))
        trial.enqueue("effect", {"number": 0})
        until(30, lambda: trial.sql(effects) == ["effect|1"])
        until(30, lambda: trial.sql(ticks) == ["1"])
        assert trial.sql(later) == ["3|queued|0"]
        with trial.worker(RELEASE="2") as new:
            ready(new.url)
            until(
                30,
                lambda: (
                    trial.sql("SELECT number FROM effects WHERE name = 'later' AND release = 2 ORDER BY 1")
                    == ["0", "1", "2"]
                ),
            )
            trial.sql("TRUNCATE moves")
            # The older one alone would take seconds: the newer one gets some of them.
            trial.enqueue("effect", *({"number": number, "seconds": 0.5} for number in range(40)))
            until(60, lambda: trial.sql(LEFT) == ["0"])
            assert trial.sql(effects) == ["effect|1", "effect|2", "later|2"]
            assert trial.sql("SELECT count(DISTINCT number) FROM effects WHERE name = 'effect'") == ["40"]
            until(30, lambda: trial.sql("SELECT count(*) > 1 FROM moves") == ["t"])
            assert trial.sql(ticks) == ["0"]
    assert trial.sql("SELECT count(*) FROM jobs.pgqueuer WHERE status = 'failed'") == ["0"]


def test_the_span_of_a_job_belongs_to_the_trace_of_its_request(trial: Trial, collector: tuple[str, list[Any]]) -> None:
    address, arrived = collector
    options = [f"--env=OTEL_EXPORTER_OTLP_ENDPOINT={address}", "--add-host=host.docker.internal:host-gateway"]
    with (
        container(trial.store.image, *trial.store.options, *options) as (service, url),
        trial.worker(*options) as worker,
    ):
        ready(url)
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
        httpx2.post(f"{url}/v1/trial/effect", json=[{"number": 1}], headers=headers)
        until(60, lambda: trial.sql(LEFT) == ["0"])
        run("docker", "stop", service, worker.name)
    (request,) = [span for span in arrived if span.name == "POST /v1/trial/{name}"]
    (job,) = [span for span in arrived if span.name == "effect"]
    assert job.trace_id.hex() == request.trace_id.hex() == TRACE
    assert job.parent_span_id == request.span_id


def test_jobs_are_switched_on_and_off_by_an_update(start: Any, released: Any) -> None:
    """Each step gives what a fresh copy gives; the example belongs to the owner, and is added once."""
    project = start(NEXT, database="postgresql")
    models = project / "src/my_service/items/models.py"
    models.write_text(models.read_text() + "# Ours.\n")
    commit(project, "our work")
    for answers in ({"jobs": "postgresql"}, {}):
        value = answers.get("jobs", "none")
        told = make_update(project, f"--yes --data jobs={value}")
        assert told.returncode == 0, told.stdout + told.stderr
        assert tree(project) == fresh(project, released(NEXT, database="postgresql", **answers))
        assert models.read_text().endswith("# Ours.\n")
        for name in ("src/my_service/items/jobs.py", "tests/test_item_jobs.py"):
            assert (project / name).exists() == (value != "none")
        commit(project, f"jobs={value}")
