"""`make dev`: a running system without Docker, by one command, in a real terminal."""

import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from conftest import ROOT, commit, eventually, free_port, run
from test_database import ready

ALL = {"database": "postgresql", "cache": "redis", "auth": "jwt", "jobs": "postgresql"}
SMALL = {"database": "sqlite", "auth": "api-key"}
# What make and its recipes need; as root, PostgreSQL runs through setpriv.
TOOLS = [
    "sh",
    "sed",
    "tail",
    "awk",
    "env",
    "make",
    "uv",
    "curl",
    "tr",
    "head",
    "cat",
    "mkdir",
    "chmod",
    "xargs",
    "git",
    "python3",
    "setpriv",
]


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a PATH without Docker."""
    folder = tmp_path_factory.mktemp("tools")
    for name in TOOLS:
        if found := shutil.which(name):
            (folder / name).symlink_to(found)
    assert not shutil.which("docker", path=str(folder))
    return str(folder)


class Terminal:
    """A terminal in which `make dev` runs."""

    def __init__(self, project: Path, environment: dict[str, str]) -> None:
        self.project = project
        self.port = free_port()
        self.url = f"http://localhost:{self.port}"
        self.output = ""
        self.master, slave = os.openpty()
        os.set_blocking(self.master, False)
        self.process = subprocess.Popen(
            ["make", "dev", f"PORT={self.port}"],
            cwd=project,
            env=environment,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)

    def read(self) -> str:
        """Return all that it printed until now."""
        try:
            while read := os.read(self.master, 65536):
                self.output += read.decode(errors="replace").replace("\r\n", "\n")
        except (BlockingIOError, OSError):
            pass
        return self.output

    def wait_for(self, pattern: str) -> str:
        """Wait until it prints what the pattern matches, and return that."""

        deadline = time.monotonic() + 120
        while not (match := re.search(pattern, self.read(), re.MULTILINE)):
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.02)
        return match[0]

    def press_ctrl_c(self) -> None:
        os.write(self.master, b"\x03")

    def close(self) -> None:
        os.close(self.master)
        self.master = -1

    def wait(self) -> int:
        """Wait until `make dev` ends; return its exit status."""
        deadline = time.monotonic() + 60
        while self.process.poll() is None and time.monotonic() < deadline:
            if self.master >= 0:
                self.read()
            time.sleep(0.02)
        assert self.process.poll() is not None, self.output
        if self.master >= 0:
            self.read()
        return int(self.process.returncode)


Serve = Callable[..., Terminal]


def processes(project: Path) -> list[str]:
    """List the processes that run in a project's folder, or a program of it."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_text().replace("\0", " ")
            if str(project) in line or str(project) in str((folder / "cwd").readlink()):
                found.append(line)
        except OSError:
            continue
    return found


def ended(project: Path) -> None:
    eventually(lambda: _assert_none(processes(project)), 60)


def _assert_none(found: list[str]) -> None:
    assert found == []


@pytest.fixture
def serve(tools: str) -> Iterator[Serve]:
    """Return `serve(project, NAME=…)`: `make dev` in a terminal."""
    terminals: list[Terminal] = []

    def start(project: Path, **variables: str) -> Terminal:
        terminals.append(Terminal(project, {**os.environ, "PATH": tools, **variables}))
        return terminals[-1]

    yield start
    for terminal in terminals:
        if terminal.process.poll() is None:
            os.killpg(terminal.process.pid, signal.SIGTERM)
            terminal.wait()


@pytest.fixture
def make(tools: str) -> Callable[..., subprocess.CompletedProcess[str]]:
    def make(project: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PATH": tools, **variables}
        return run("make", *arguments, cwd=project, env=environment, check=False)

    return make


@pytest.fixture
def desk(render: Any, tmp_path: Path) -> Path:
    """A fresh project with PostgreSQL, Redis and tokens, in a folder with a bad name, too long for sockets."""
    return Path(shutil.copytree(render(**ALL), tmp_path / f"o'neil x, ü {'long' * 20}"))


@pytest.fixture(scope="module")
def other(render: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with PostgreSQL that only these tests use."""
    project = Path(shutil.copytree(render(database="postgresql"), tmp_path_factory.mktemp("other") / "desk"))
    run("make", "install", cwd=project)
    return project


def names(url: str, curl: str) -> list[str]:
    """List the items that the service has, with the credential of a printed command."""
    header = re.search(r"-H '(Authorization|X-API-Key): (.*?)'", curl)
    assert header
    items = httpx2.get(f"{url}/v1/items", headers={header[1]: header[2]}).json()["items"]
    return [item["name"] for item in items]


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    """Return the one line that says why a command failed; make adds another."""
    assert done.returncode != 0
    *lines, of_make = done.stderr.splitlines()
    assert of_make.startswith("make: ***"), done.stderr
    assert "Traceback" not in done.stderr
    return lines[-1]


def test_one_command_and_one_curl_lead_from_a_fresh_project_to_a_row_that_stays(
    desk: Path, serve: Serve, make: Any
) -> None:
    commit(desk, "start")
    first = serve(desk)
    curl = first.wait_for("^curl .*$")
    assert f"{first.url}/docs shows the API" in first.output
    assert httpx2.get(f"{first.url}/docs").status_code == 200
    assert json.loads(run("sh", "-c", curl, cwd=desk).stdout)["name"] == "pen"
    assert httpx2.get(f"{first.url}/health/ready").status_code == 200
    # The worker, which ends with it.
    assert f"the worker started too; its probes and metrics are on port {first.port + 1}\n" in first.output
    ready(f"http://localhost:{first.port + 1}")
    token = make(desk, "-s", "token", "SUBJECT=ada").stdout.strip()
    me = httpx2.get(f"{first.url}/v1/me", headers={"Authorization": f"Bearer {token}"})
    assert me.json()["id"] == "ada"
    assert oct((desk / ".dev").stat().st_mode)[-3:] == "700"
    assert run("git", "status", "--porcelain", cwd=desk).stdout in ("", "?? uv.lock\n")
    first.press_ctrl_c()
    assert first.wait() == -signal.SIGINT
    assert "Traceback" not in first.output
    ended(desk)

    second = serve(desk)
    curl = second.wait_for("^curl .*$")
    assert names(second.url, curl) == ["pen"]
    # Others share its servers, and leave the data and the servers to it.
    assert make(desk, "seed").returncode == 0
    assert names(second.url, curl) == ["pen", "lamp", "chair"]
    tested = make(desk, "test-own", "ARGS=tests/test_migrations.py")
    assert tested.returncode == 0, tested.stdout
    assert names(second.url, curl) == ["pen", "lamp", "chair"]
    # Else a worker that can't start would go unnoticed.
    for port, use, number, reason in (
        (second.port, "serve", second.port, "Address already in use"),
        (second.port - 1, "run the worker", second.port, "Address already in use"),
        (65535, "run the worker", 65536, "the last one is 65535"),
    ):
        taken, _, advised = last_line(make(desk, "dev", f"PORT={port}")).rpartition("; for another one: make dev PORT=")
        assert taken == f"can't {use} on port {number}: {reason}"
        for free in (int(advised), int(advised) + 1):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", free))
    assert last_line(make(desk, "dev-reset")) == (
        "the data in .dev is in use: end 'make dev', or what else uses it, first"
    )
    second.close()
    second.wait()
    ended(desk)
    assert make(desk, "dev-reset").returncode == 0
    assert [path.name for path in (desk / ".dev").iterdir()] == ["lock"]


def test_two_projects_run_side_by_side_and_an_address_wins(desk: Path, other: Path, serve: Serve) -> None:
    terminals = [serve(desk), serve(other)]
    for terminal in terminals:
        created = json.loads(run("sh", "-c", terminal.wait_for("^curl .*$")).stdout)
        assert created["id"] == 1
    for terminal in terminals:
        os.kill(terminal.process.pid, signal.SIGTERM)
    for terminal in terminals:
        terminal.wait()
        assert "Traceback" not in terminal.output, terminal.output
        ended(terminal.project)

    shutil.rmtree(desk / ".dev")
    (desk / ".env").write_text("DATABASE_URL=postgresql://127.0.0.1:1/x\nREDIS_URL=redis://127.0.0.1:1/0\n")
    terminal = serve(desk, JWT_ISSUER="https://a.example/", JWT_AUDIENCE="a", JWT_JWKS_URL="http://127.0.0.1:1/")
    assert "Bearer TOKEN" in terminal.wait_for("^curl .*$")
    detail = httpx2.get(f"{terminal.url}/health/ready").json()["detail"]
    assert all(name in detail for name in ("database", "auth"))
    assert {path.name for path in (desk / ".dev").iterdir()} <= {"lock", "starting"}
    terminal.press_ctrl_c()
    terminal.wait()
    ended(desk)


def test_a_key_and_a_file_are_made_once_and_the_default_file_is_kept(
    render: Any, tmp_path: Path, serve: Serve, make: Any
) -> None:
    project = Path(shutil.copytree(render(**SMALL), tmp_path / "desk"))
    for _ in range(2):
        seeded = make(project, "seed")
        assert seeded.returncode == 0, seeded.stderr
    assert "production" in last_line(make(project, "seed", APP_ENV="production"))
    key = (project / ".dev/api-key").read_text()
    assert oct((project / ".dev/api-key").stat().st_mode)[-3:] == "600"
    # As an owner has it who used an older release.
    (project / ".dev/my_service.db").rename(project / "my_service.db")
    terminal = serve(project, SCOPES="orders:write")
    curl = terminal.wait_for("^curl .*$")
    assert f"'X-API-Key: {key}'" in curl
    assert json.loads(run("sh", "-c", curl).stdout)["name"] == "pen"
    assert names(terminal.url, curl) == ["lamp", "chair", "pen"]
    me = httpx2.get(f"{terminal.url}/v1/me", headers={"X-API-Key": key}).json()
    assert me == {"id": "developer", "scopes": ["orders:write"]}
    terminal.press_ctrl_c()
    terminal.wait()
    ended(project)

    (project / "migrations/versions/0002_broken.py").write_text(
        'revision, down_revision = "0002", "0001"\n\n\ndef upgrade():\n    raise RuntimeError("broken")\n'
    )
    failed = make(project, "dev", f"PORT={free_port()}")
    *_, of_dev, of_make = failed.stderr.splitlines()
    assert of_dev == "the development database was not migrated; 'make dev-reset' deletes it"
    assert of_make.startswith("make: ***")
    ended(project)


@pytest.mark.parametrize("moment", ["postgresql/new", "postgresql/pid", "Started reloader process"])
def test_ctrl_c_during_the_start_leaves_no_process(other: Path, serve: Serve, moment: str) -> None:
    """While the folder of the data is made, the server starts, and the service is imported."""
    shutil.rmtree(other / ".dev", ignore_errors=True)
    terminal = serve(other)
    deadline = time.monotonic() + 120
    while moment not in terminal.read() and not (other / ".dev" / moment).exists():
        assert time.monotonic() < deadline, terminal.output
        time.sleep(0.01)
    terminal.press_ctrl_c()
    terminal.wait()
    assert "Traceback" not in terminal.output, terminal.output
    ended(other)


def test_a_killed_run_is_cleaned_up_by_the_next(other: Path) -> None:
    """Its server goes on, and has a database of a test."""
    leave = (
        "import os, signal, asyncio, asyncpg\n"
        "async def create():\n"
        "    connection = await asyncpg.connect(os.environ['DATABASE_URL'])\n"
        "    await connection.execute('CREATE DATABASE test_0123456789abcdef')\n"
        "asyncio.run(create())\n"
        "os.kill(os.getppid(), signal.SIGKILL)\n"
    )
    count = "SELECT count(*) FROM pg_database WHERE datname = 'test_0123456789abcdef'"
    ask = (
        "import os, asyncio, asyncpg\n"
        "async def ask():\n"
        "    connection = await asyncpg.connect(os.environ['DATABASE_URL'])\n"
        f'    print("found", await connection.fetchval("{count}"))\n'
        "asyncio.run(ask())\n"
    )
    command = [other / ".venv/bin/python", "-m", "ops.dev", other / ".venv/bin/python", "-c"]
    run(*command, leave, cwd=other, check=False)
    assert processes(other)
    assert "found 1" in run(*command, ask, cwd=other).stdout
    ended(other)
    assert "found 0" in run(*command, ask, cwd=other).stdout
    ended(other)


def test_a_package_called_ops_is_no_obstacle(
    installed_with: Callable[..., Path], render: Callable[..., Path], tmp_path: Path
) -> None:
    """The folder ops/ has the same name."""
    python = installed_with(**SMALL) / ".venv/bin/python"
    project = tmp_path / "project"
    shutil.copytree(render(package_name="ops", **SMALL), project)
    environment = {**os.environ, "PYTHONPATH": str(project / "src")}
    command = [python, "-m", "ops.dev", "--migrated", python, "-m", "ops", "migrate"]
    migrated = run(*command, cwd=project, env=environment)
    assert "database is migrated" in migrated.stdout


def test_a_command_gets_one_signal_whatever_comes() -> None:
    """A closed terminal, make and uv all send one, and uvicorn's reloader can't stand a second."""
    count = (
        "import signal, time\n"
        "came = []\n"
        "signal.signal(signal.SIGTERM, lambda *_: came.append(time.monotonic()))\n"
        "print('ready', flush=True)\n"
        "while not came or time.monotonic() < came[0] + 0.5: time.sleep(0.01)\n"
        "print(len(came), flush=True)\n"
    )
    serve = (
        "import sys, processes\n"
        "processes.handle_signals()\n"
        "sys.exit(processes.run([sys.executable, '-c', sys.argv[1]], apart=True))\n"
    )
    command = [sys.executable, "-B", "-c", serve, count]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "template/ops/dev")}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
            process.send_signal(number)
            time.sleep(0.1)
        assert process.stdout.read() == "1\n"
