"""Services with a database: their commands, their images and their data, on real servers."""

import asyncio
import contextlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import standins
from conftest import (
    RESERVED,
    add_to_app,
    commit,
    container,
    eventually,
    features_only,
    free_port,
    get,
    inspect,
    make_check,
    modules,
    run,
    state,
    uncompiled,
)
from test_quality import YAML_RULES

DATABASES = ["sqlite", "postgresql"]
HARDENED = ["--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
# Where a test stops a container: in production it waits for three seconds.
AT_ONCE = "SHUTDOWN_DELAY_SECONDS=0"
POSTGRES = "postgres:17"
# What the processes of the image import.
IMPORTS = {
    "service": "from my_service.app import create_app; create_app().openapi()",
    "worker": "from my_service.chassis.jobs.worker import create_worker; create_worker()",
}
MIGRATE = ("python", "-m", "my_service", "migrate")


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_env_example_shows_the_default_and_git_ignores_data(installed_with: Any, tmp_path: Path, database: str) -> None:
    installed = installed_with(database=database)
    assert_env_example_shows_the_default(installed)
    assert modules(installed) - set(RESERVED) == set()
    project = Path(shutil.copytree(installed, tmp_path / "project", ignore=shutil.ignore_patterns(".venv")))
    (project / "my_service.db").touch()
    (project / ".secrets").mkdir()
    (project / ".secrets/DATABASE_URL").touch()
    commit(project, "start")
    assert not re.findall(r"\.db|secrets", run("git", "ls-files", cwd=project).stdout)


def assert_env_example_shows_the_default(project: Path) -> None:
    shown = re.findall(r"(?m)^#DATABASE_URL=(.*)$", (project / ".env.example").read_text())
    program = "from my_service.settings import Settings as S; print(S.model_fields['database_url'].default)"
    assert shown == [run(project / ".venv/bin/python", "-c", program).stdout.strip()]


def test_dockerfile_and_compose_file_pass_their_linters(render: Any, database: str) -> None:
    project = render(database=database)
    run("hadolint", "--ignore", "DL3059", "Dockerfile", cwd=project)
    run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml", cwd=project)
    run("yamllint", "--strict", "--config-data", YAML_RULES, "compose.yaml", cwd=project)


@pytest.mark.usefixtures("one_environment")
def test_make_migration_writes_the_changes_of_the_models(render: Any, tmp_path: Path) -> None:
    project = Path(shutil.copytree(render(database="sqlite"), tmp_path / "project"))
    refused = run("make", "migration", cwd=project, check=False)
    assert refused.returncode != 0
    assert refused.stderr.startswith('what does it do? for example: make migration m="add a price"')
    models = project / "src/my_service/items/models.py"
    models.write_text(models.read_text() + '    price: Mapped[int] = mapped_column(server_default="0")\n')
    run("make", "migration", "m=it's a price, isn't it?", cwd=project)
    (written,) = set((project / "migrations/versions").glob("*.py")) - {project / "migrations/versions/0001_items.py"}
    assert '"price"' in written.read_text()
    assert "#" not in written.read_text()
    run("make", "migrate", cwd=project)

    again = run("make", "migration", "m=it's a price, isn't it?", cwd=project)
    assert "Nothing changed in the models" in again.stdout
    models.write_text(models.read_text() + '    weight: Mapped[int] = mapped_column(server_default="0")\n')
    run("make", "migration", 'm="""; open("pwned", "w"); """ \\', cwd=project)
    assert len(list((project / "migrations/versions").glob("*.py"))) == 3
    run("make", "migrate", cwd=project)
    assert not (project / "pwned").exists()
    run("make", "lint", cwd=project)
    run("make", "test", "ARGS=--no-cov -n0 tests/test_migrations.py", cwd=project)


ORDERS = """
from sqlalchemy.orm import Mapped, mapped_column

from ..chassis.database import Base


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
"""


@pytest.mark.usefixtures("one_environment")
def test_migrations_find_the_tables_of_models_and_of_imports(render: Any, tmp_path: Path) -> None:
    """In each models.py and folder models, and in imports below `# Yours:`, which no formatter moves or removes."""
    project = Path(shutil.copytree(render(database="sqlite"), tmp_path / "project"))
    modules = {
        "Order": "orders/models.py",
        "Box": "boxes/models/__init__.py",
        "Lid": "boxes/models/lids.py",
        "Customer": "customers/tables.py",
    }
    for name, path in modules.items():
        module = project / "src/my_service" / path
        module.parent.mkdir(parents=True, exist_ok=True)
        text = ORDERS.strip().replace("Order(", f"{name}(").replace("orders", f"all_{name.lower()}") + "\n"
        module.write_text(text.replace("from ..", "from my_service."))
    # No module: a copy that an editor keeps.
    copies = project / "src/my_service/boxes/models/.ipynb_checkpoints"
    copies.mkdir()
    shutil.copy(copies.parent / "lids.py", copies / "lids-checkpoint.py")
    environment = project / "migrations/env.py"
    imported = "# Yours:\nfrom my_service.customers import tables\n"
    environment.write_text(environment.read_text().replace("# Yours:\n", imported))
    run("make", "format", cwd=project)
    assert imported in environment.read_text()
    run("make", "migration", "m=orders", cwd=project)
    (written,) = set((project / "migrations/versions").glob("*.py")) - {project / "migrations/versions/0001_items.py"}
    for name in modules:
        assert f'"all_{name.lower()}"' in written.read_text()
    run("make", "lint", cwd=project)


def delete_the_example(project: Path) -> None:
    """As docs/data.md says."""
    shutil.rmtree(project / "src/my_service/items")
    (project / "tests/test_items.py").unlink()
    app = project / "src/my_service/app.py"
    lines = app.read_text().splitlines(keepends=True)
    kept = [line for line in lines if not re.search(r"\bitems\b", line)]
    assert len(kept) == len(lines) - 2
    # Only the example's routes used it.
    app.write_text("".join(kept).replace("import auth, ", "import "))


@pytest.mark.usefixtures("one_environment")
def test_make_check_passes_without_the_example_after_a_migration_that_drops_it(render: Any, tmp_path: Path) -> None:
    project = Path(shutil.copytree(render(database="sqlite"), tmp_path / "project"))
    delete_the_example(project)
    run("make", "migration", "m=drop items", cwd=project)
    make_check(project, features_only(project))


@pytest.mark.usefixtures("one_environment")
def test_make_check_passes_without_the_example_and_its_migration(render: Any, tmp_path: Path, database: str) -> None:
    """Git keeps no empty folder, so a clone must work without `migrations/versions`."""
    project = Path(shutil.copytree(render(database=database), tmp_path / "project"))
    delete_the_example(project)
    shutil.rmtree(project / "migrations/versions")
    make_check(project, features_only(project))
    if database == "sqlite":
        (project / "src/my_service/orders").mkdir()
        (project / "src/my_service/orders/models.py").write_text(ORDERS)
        run("make", "migration", "m=orders", cwd=project)
        assert len(list((project / "migrations/versions").glob("*.py"))) == 1


@pytest.mark.usefixtures("one_environment")
@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_make_migration_needs_no_server(render: Any, tmp_path: Path, database: str) -> None:
    """It ignores the server of .env."""
    project = Path(shutil.copytree(render(database=database), tmp_path / "project"))
    (project / ".env").write_text("DATABASE_URL=postgres://postgres:sesame@127.0.0.1:1/none\n")
    (project / "src/my_service/orders").mkdir()
    (project / "src/my_service/orders/models.py").write_text(ORDERS.strip() + "\n")
    run("make", "migration", "m=orders", cwd=project)
    (written,) = set((project / "migrations/versions").glob("*.py")) - {project / "migrations/versions/0001_items.py"}
    assert 'op.create_table(\n        "orders"' in written.read_text()
    run("make", "lint", cwd=project)


@pytest.mark.usefixtures("one_environment")
def test_make_migrate_reports_in_one_line_that_the_database_is_down(render: Any, tmp_path: Path) -> None:
    project = Path(shutil.copytree(render(database="postgresql"), tmp_path / "project"))
    (project / ".env").write_text(f"DATABASE_URL=postgres://postgres:sesame@localhost:{free_port()}/none\n")
    failed = run("make", "migrate", cwd=project, check=False)
    assert failed.returncode != 0
    assert failed.stderr.count("The database of DATABASE_URL does not respond: ") == 1
    told = [line for line in failed.stderr.splitlines() if line.startswith("The database of DATABASE_URL")]
    assert told[0].endswith("; 'make dev' starts one unless DATABASE_URL is set")
    assert "Traceback" not in failed.stderr
    assert "sesame" not in failed.stderr


SOCKET = """
from fastapi import WebSocket
from sqlalchemy import text

from .chassis.database import SessionDep


def add_statements(app: FastAPI) -> None:
    @app.websocket("/statements")
    async def run_each(socket: WebSocket, session: SessionDep) -> None:
        await socket.accept()
        async for statement in socket.iter_text():
            await session.execute(text(statement))
            await session.commit()
            await socket.send_text("done")
"""
TALK = """
import sys
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
insert = "INSERT INTO items (name, quantity, version) VALUES ('lamp', 1, 1)"
with connect(sys.argv[1]) as socket:
    socket.send(insert)
    print(socket.recv(timeout=30))
    socket.send(insert)
    try:
        socket.recv(timeout=30)
    except ConnectionClosed as closed:
        print(closed.rcvd.code)
"""


@pytest.fixture
def served(installed_with: Any, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """Serve a project with SQLite and one more WebSocket; yield its Python and its address."""
    installed = installed_with(database="sqlite")
    project = Path(shutil.copytree(installed, tmp_path / "project", ignore=shutil.ignore_patterns(".venv")))
    add_to_app(project, SOCKET, "add_statements(app)")
    port, python = free_port(), installed / ".venv/bin/python"
    given = {"DATABASE_URL": f"sqlite:///{tmp_path}/test.db", "PYTHONPATH": str(project / "src"), "PORT": str(port)}
    environment = {**os.environ, **given, "APP_ENV": "test"}
    run(python, "-m", "my_service", "migrate", cwd=project, env=environment)
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([python, "-m", "my_service"], cwd=project, env=environment, stdout=log, stderr=log)
        try:
            get(f"http://127.0.0.1:{port}/health/live")
            yield python, f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def test_a_websocket_writes_and_a_conflict_closes_it_with_1008(served: tuple[Path, str]) -> None:
    python, address = served
    assert run(python, "-c", TALK, f"ws://{address}/statements").stdout.split() == ["done", "1008"]
    assert [item["name"] for item in listed(f"http://{address}")] == ["lamp"]


def test_40000_tags_are_refused_within_a_second(served: tuple[Path, str]) -> None:
    _, address = served
    for count in (1_000, 40_000):
        tags = ", ".join(f'"{number}"' for number in range(1, count))
        took = []
        # On a busy machine one may take longer.
        while not took or min(took) >= 1 and len(took) < 5:
            started = time.perf_counter()
            response = httpx2.patch(
                f"http://{address}/v1/items/1", json={"quantity": 3}, headers={"If-Match": tags}, timeout=30
            )
            took.append(time.perf_counter() - started)
            assert 400 <= response.status_code < 500
        assert min(took) < 1


@pytest.fixture(scope="session")
def python_version(answers: dict[str, str]) -> str:
    return answers["python_version"]


@pytest.fixture(scope="session")
def images(render: Any, python_version: str) -> Iterator[Callable[[str], str]]:
    """Return `images(database)`: the tag of a fresh project's image."""
    tags: dict[str, str] = {}

    def built(database: str) -> str:
        if database not in tags:
            tag = f"copier-fastapi-test:{os.getpid()}-{database}"
            run("docker", "build", f"--tag={tag}", ".", cwd=render(database=database, python_version=python_version))
            tags[database] = tag
        return tags[database]

    yield built
    run("docker", "rmi", *tags.values(), check=False)


class Store:
    """A database, and the options of containers that use it."""

    def __init__(self, image: str, options: list[str], server: str | None) -> None:
        self.image = image
        self.options = [*HARDENED, f"--env={AT_ONCE}", *options]
        self.server = server

    def migrate(self) -> list[dict[str, Any]]:
        printed = run("docker", "run", "--rm", *self.options, self.image, *MIGRATE).stdout
        return [json.loads(line) for line in printed.splitlines()]

    @contextlib.contextmanager
    def service(self) -> Iterator[tuple[str, str]]:
        with container(self.image, *self.options) as (name, url):
            ready(url)
            yield name, url


def ready(url: str) -> None:
    def check() -> None:
        assert httpx2.get(f"{url}/health/ready").status_code == 200

    eventually(check, 60)


@pytest.fixture
def store(images: Callable[[str], str], database: str) -> Iterator[Store]:
    """An empty database: a volume, or a PostgreSQL in its own network."""
    name = f"copier-fastapi-test-{os.getpid()}-{free_port()}"
    with sqlite(name, images) if database == "sqlite" else postgresql(name, images) as made:
        yield made


@contextlib.contextmanager
def sqlite(name: str, images: Callable[[str], str]) -> Iterator[Store]:
    try:
        yield Store(images("sqlite"), [f"--volume={name}:/data"], None)
    finally:
        run("docker", "volume", "rm", name, check=False)


@contextlib.contextmanager
def postgresql(name: str, images: Callable[[str], str]) -> Iterator[Store]:
    standins.ensure(POSTGRES)
    url = f"postgres://postgres:sesame@{name}/orders?sslmode=disable"
    run("docker", "network", "create", name)
    try:
        settings = ("--env=POSTGRES_PASSWORD=sesame", "--env=POSTGRES_DB=orders")
        run("docker", "create", f"--name={name}", f"--network={name}", *settings, POSTGRES)
        run("docker", "start", name)
        wait_for_server(name)
        yield Store(images("postgresql"), [f"--network={name}", f"--env=DATABASE_URL={url}"], name)
    finally:
        run("docker", "rm", "--force", "--volumes", name, check=False)
        run("docker", "network", "rm", name, check=False)


def wait_for_server(name: str) -> None:
    def check() -> None:
        assert run("docker", "exec", name, "pg_isready", "--host=127.0.0.1", check=False).returncode == 0

    eventually(check, 60)


def create(url: str, name: str) -> httpx2.Response:
    return httpx2.post(f"{url}/v1/items", json={"name": name, "description": f"about {name}"}, timeout=30)


def listed(url: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        page = httpx2.get(f"{url}/v1/items", params={"limit": 100, **({"cursor": cursor} if cursor else {})}).json()
        items += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            return items


def test_the_image_starts_without_a_migrated_database_and_logs_the_command(store: Store) -> None:
    with container(store.image, *store.options) as (name, url):
        assert get(f"{url}/health/live").status_code == 200
        assert httpx2.get(f"{url}/health/ready").status_code == 503
        refused = httpx2.get(f"{url}/v1/items")
        assert refused.status_code == 503
        assert refused.headers["content-type"] == "application/problem+json"
        assert "needs: python -m my_service migrate" in run("docker", "logs", name).stdout
        run("docker", "exec", name, *MIGRATE)
        assert httpx2.get(f"{url}/health/ready").status_code == 200


def test_items_are_kept_over_a_restart(store: Store) -> None:
    store.migrate()
    with store.service() as (name, url):
        item = create(url, "lamp")
        assert item.status_code == 201
        assert create(url, "lamp").status_code == 409
        where = url + item.headers["location"]
        changed = httpx2.patch(where, json={"quantity": 3}, headers={"If-Match": item.headers["etag"]})
        assert changed.status_code == 200
        lost = httpx2.patch(where, json={"quantity": 4}, headers={"If-Match": item.headers["etag"]})
        assert lost.status_code == 412
        run("docker", "restart", name)
        ready(url)
        assert httpx2.get(where).json() == changed.json()
        gone = httpx2.delete(where)
        assert gone.status_code == 204
        assert httpx2.get(where).status_code == 404
        assert "Traceback" not in run("docker", "logs", name).stdout


def test_the_image_works_without_a_volume(images: Callable[[str], str]) -> None:
    """`docker run -p 1234:8000 IMAGE`, read-only, without further options."""
    with container(images("sqlite"), *HARDENED) as (name, url):
        get(f"{url}/health/live")
        run("docker", "exec", name, *MIGRATE)
        assert create(url, "lamp").status_code == 201


@pytest.mark.parametrize(
    ("database", "steps"),
    [
        ("sqlite", ["/data /data", "/app/migrations", "/app/src", "/app/.venv", "python -c"]),
        ("postgresql", ["/app/migrations", "/app/src", "/app/.venv", "python -c"]),
    ],
    indirect=["database"],
)
def test_the_image_has_a_layer_for_migrations(images: Callable[[str], str], database: str, steps: list[str]) -> None:
    """And with SQLite one for the folder of its volume."""
    history = run("docker", "history", "--format", "{{.CreatedBy}}", images(database)).stdout.splitlines()
    made = [line for line in history if line.startswith(("COPY", "RUN"))][: len(steps)]
    assert len(made) == len(steps)
    for step, line in zip(steps, made, strict=True):
        assert step in line


def test_two_containers_that_migrate_at_once_migrate_once(store: Store) -> None:
    command = ["docker", "run", "--rm", *store.options, store.image, *MIGRATE]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    steps = [line for line in "".join(printed).splitlines() if "Running upgrade" in line]
    assert len(steps) == 1
    assert "Running upgrade" not in json.dumps(store.migrate())


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_killed_server_gives_503_until_it_is_back(store: Store) -> None:
    store.migrate()
    with store.service() as (name, url):
        responses = asyncio.run(load_while_the_server_dies(url, str(store.server)))
        assert create(url, "afterwards").status_code == 201
        assert state(name)["Running"]
        assert inspect(name)["RestartCount"] == 0
        logged = run("docker", "logs", name)
    assert "Traceback" not in logged.stdout + logged.stderr
    assert "sesame" not in logged.stdout + logged.stderr
    assert {response.status_code for response in responses} == {200, 503}
    for response in responses:
        if response.status_code == 503:
            assert response.headers["content-type"] == "application/problem+json"
            assert response.headers["retry-after"]


async def load_while_the_server_dies(url: str, server: str) -> list[httpx2.Response]:
    """Read on ten connections; return every response. A broken connection raises."""
    responses: list[httpx2.Response] = []
    # Statuses of requests that began after the service was ready again.
    recovered: list[int] = []
    back, over = asyncio.Event(), asyncio.Event()

    async def connection() -> None:
        async with httpx2.AsyncClient(base_url=url, timeout=60) as client:
            while not over.is_set():
                late = back.is_set()
                responses.append(await client.get("/v1/items"))
                if late:
                    recovered.append(responses[-1].status_code)

    async def until(status: int, count: int) -> None:
        start = len(responses)
        async with asyncio.timeout(60):
            while [response.status_code for response in responses[start:]].count(status) < count:
                await asyncio.sleep(0.05)

    async def docker(*arguments: str) -> None:
        process = await asyncio.create_subprocess_exec("docker", *arguments, stdout=subprocess.DEVNULL)
        assert await process.wait() == 0

    clients = [asyncio.create_task(connection()) for _ in range(10)]
    await until(200, 20)
    await docker("kill", server)
    await until(503, 20)
    await docker("start", server)
    await until(200, 20)
    async with httpx2.AsyncClient(base_url=url, timeout=60) as client, asyncio.timeout(60):
        while (await client.get("/health/ready")).status_code != 200:
            await asyncio.sleep(0.05)
    back.set()
    await until(200, 50)
    over.set()
    await asyncio.gather(*clients)
    assert len(recovered) > 20
    assert set(recovered) == {200}
    return responses


def test_a_killed_service_keeps_every_acknowledged_item(store: Store) -> None:
    store.migrate()
    with store.service() as (name, url):
        acknowledged = asyncio.run(write_until_killed(url, name))
        assert state(name)["ExitCode"] == 137
        run("docker", "start", name)
        ready(url)
        kept = {item["name"]: item for item in listed(url)}
        assert len(acknowledged) > 20
        assert kept.keys() >= set(acknowledged)
        assert all(item["description"] == f"about {name}" for name, item in kept.items())
        assert create(url, "afterwards").status_code == 201


async def write_until_killed(url: str, name: str) -> list[str]:
    """Create items on four connections until the service is killed; return those that it acknowledged."""
    acknowledged: list[str] = []

    async def connection(number: int) -> None:
        async with httpx2.AsyncClient(base_url=url, timeout=60) as client:
            for count in range(100_000):
                item = f"item {number}-{count}"
                with contextlib.suppress(httpx2.TransportError):
                    response = await client.post("/v1/items", json={"name": item, "description": f"about {item}"})
                    assert response.status_code == 201
                    acknowledged.append(item)
                    continue
                return

    async def kill() -> None:
        async with asyncio.timeout(60):
            while len(acknowledged) < 50:
                await asyncio.sleep(0.01)
        process = await asyncio.create_subprocess_exec("docker", "kill", name, stdout=subprocess.DEVNULL)
        await process.wait()

    await asyncio.gather(kill(), *(connection(number) for number in range(4)))
    return acknowledged


@pytest.fixture
def compose(
    render: Any, database: str, python_version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Path, str]]:
    """A project with its own compose names, and its address."""
    if database == "postgresql":
        standins.ensure(POSTGRES)
    jobs = {"jobs": "postgresql"} if database == "postgresql" else {}
    rendered = render(database=database, python_version=python_version, **jobs)
    project = Path(shutil.copytree(rendered, tmp_path / "project"))
    port = free_port()
    (project / ".env").write_text(f"PORT={port}\nDATABASE_URL=nowhere\n{AT_ONCE}\n")
    monkeypatch.setenv("COMPOSE_PROJECT_NAME", f"t{port}")
    commit(project, "start")
    yield project, f"http://127.0.0.1:{port}"
    run("make", "down", "ARGS=--volumes", cwd=project)


def test_make_up_starts_a_hardened_system_that_keeps_its_data(compose: tuple[Path, str], database: str) -> None:
    project, url = compose
    others = "postgres service worker" if database == "postgresql" else "service"
    last = run("make", "up", cwd=project).stdout.splitlines()[-1]
    assert last == f"started {others}; it responds at {url}/docs"
    assert_each_container_is_hardened_and_only_the_service_published(project)
    run("make", "up", cwd=project)
    assert httpx2.get(f"{url}/health/ready").status_code == 200
    assert create(url, "lamp").status_code == 201
    assert run("git", "status", "--porcelain", cwd=project).stdout == ""

    run("make", "down", cwd=project)
    assert run("docker", "compose", "ps", "--all", "--quiet", cwd=project).stdout == ""
    if database == "postgresql":
        assert_a_lost_password_is_not_replaced(project)
    run("make", "up", cwd=project)
    assert [item["name"] for item in listed(url)] == ["lamp"]
    if database == "sqlite":
        assert_make_run_has_the_data_of_make_up(project, url)

    run("make", "down", "ARGS=--volumes", cwd=project)
    run("make", "up", cwd=project)
    assert listed(url) == []


def assert_each_container_is_hardened_and_only_the_service_published(project: Path) -> None:
    names = run("docker", "compose", "ps", "--all", "--quiet", cwd=project).stdout.split()
    assert len(names) >= 2
    secrets = [path.read_text() for path in project.glob(".secrets/*")]
    for name in names:
        started = inspect(name)
        assert not [secret for secret in secrets if secret in json.dumps(started)]
        assert started["HostConfig"]["ReadonlyRootfs"]
        assert started["HostConfig"]["CapDrop"] == ["ALL"]
        assert started["HostConfig"]["SecurityOpt"] == ["no-new-privileges:true"]
        assert started["HostConfig"]["Memory"] > 0
        assert started["HostConfig"]["PidsLimit"] > 0
        assert started["Config"]["User"] not in ("", "root", "0")
        service = started["Config"]["Labels"]["com.docker.compose.service"]
        assert bool(started["HostConfig"]["PortBindings"]) == (service == "service")
        if service in IMPORTS:
            assert uncompiled(started["Image"], IMPORTS[service]) == []


def assert_a_lost_password_is_not_replaced(project: Path) -> None:
    (project / ".secrets").rename(project / "elsewhere")
    refused = run("make", "up", cwd=project, check=False)
    assert refused.returncode != 0
    assert "restore it" in refused.stderr
    assert not (project / ".secrets").exists()
    (project / "elsewhere").rename(project / ".secrets")


def assert_make_run_has_the_data_of_make_up(project: Path, url: str) -> None:
    run("make", "down", cwd=project)
    name = os.environ["COMPOSE_PROJECT_NAME"]
    names = (f"NAME={name}", f"IMAGE={name}")
    try:
        run("make", "run", *names, cwd=project)
        assert [item["name"] for item in listed(url)] == ["lamp"]
    finally:
        run("make", "stop", *names, cwd=project)
        run("docker", "rmi", name, check=False)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_make_run_keeps_the_data_of_the_container_that_it_replaces(
    render: Any, tmp_path: Path, python_version: str, database: str, engine: None
) -> None:
    project = Path(shutil.copytree(render(database=database, python_version=python_version), tmp_path / "project"))
    port = str(free_port())
    names = [f"NAME=t{port}", f"IMAGE=t{port}", f"PORT={port}"]
    (project / ".env").write_text(f"DATABASE_URL=sqlite:///here.db\n{AT_ONCE}\n")
    try:
        for status in (201, 409):
            run("make", "run", *names, cwd=project)
            assert create(f"http://127.0.0.1:{port}", "lamp").status_code == status
        run("make", "stop", *names, cwd=project)
    finally:
        run("docker", "rm", "--force", f"t{port}", check=False)
        run("docker", "volume", "rm", f"t{port}-data", check=False)
        run("docker", "rmi", f"t{port}", check=False)
