"""A real Prometheus with the project's own rules, which scrapes real containers while faults are injected."""

import contextlib
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import standins
import yaml
from conftest import EVERYTHING, add_to_app, eventually, free_port, get, run
from test_alerts import rules

PROMETHEUS = "prom/prometheus:v3.13.2"
# What takes minutes, in seconds.
SHORT = {"5m": "10s", "15m": "15s", "30m": "15s", "1h": "20s", "6h": "25s", "3d": "40s"}

FAULTS = '''
"""Routes and a job that fail on demand."""

import asyncio
from datetime import timedelta

from fastapi import APIRouter, Request

from .chassis import state_of
from .chassis.cache import Cache, cached
from .chassis.database import SessionDep
from .chassis.jobs import Run, job

router = APIRouter()


@cached(ttl=timedelta(minutes=1))
async def known(number: int) -> int:
    return number


@job(attempts=1)
async def fails(run: Run) -> None:
    raise LookupError("no such order")


@router.get("/v1/faults/none")
async def none(request: Request) -> int:
    return await known(state_of(request, Cache), 1)


@router.get("/v1/faults/slow")
async def slow() -> None:
    await asyncio.sleep(0.7)


@router.get("/v1/faults/error")
async def error() -> None:
    raise RuntimeError("as the test wants")


@router.get("/v1/faults/job")
async def enqueue(session: SessionDep) -> None:
    await fails.enqueue(session)
    await session.commit()
'''

# Not published by `make observe`: only Grafana is.
PUBLISHED = """
services:
  prometheus:
    ports: ["127.0.0.1:{port}:9090"]
"""


def shorten(project: Path) -> None:
    """Let alerts look at seconds instead of minutes."""
    for file in [*(project / "ops/observe/alerts").glob("[!k]*.yaml"), project / "ops/observe/prometheus.yaml"]:
        text = re.sub(
            r"\[(\w+)\]", lambda found: f"[{SHORT[found[1]]}]" if found[1] in SHORT else found[0], file.read_text()
        )
        file.write_text(
            re.sub(
                r"(?m)(for|_interval): \w+$", lambda found: f"{found[1]}: {'2s' if found[1] == 'for' else '1s'}", text
            )
        )


class System:
    """The containers, what Prometheus knows of them, and requests that go on in the background."""

    def __init__(self, project: Path, service: str, prometheus: str) -> None:
        self.project, self.service, self.prometheus = project, service, prometheus
        self.paths: list[str] = []
        self.ended = threading.Event()
        self.threads = [threading.Thread(target=self._ask) for _ in range(4)]

    def _ask(self) -> None:
        with httpx2.Client(base_url=self.service, timeout=10) as client:
            while not self.ended.wait(0.05):
                for path in list(self.paths):
                    with contextlib.suppress(httpx2.HTTPError):
                        client.get(path)

    def compose(self, *command: str) -> None:
        run("docker", "compose", *command, cwd=self.project)

    def query(self, expression: str) -> list[dict[str, Any]]:
        response = httpx2.get(f"{self.prometheus}/api/v1/query", params={"query": expression}).json()
        assert response["status"] == "success", (expression, response)
        found: list[dict[str, Any]] = response["data"]["result"]
        return found

    def firing(self) -> set[str]:
        return {found["metric"]["alertname"] for found in self.query('ALERTS{alertstate="firing"}')}

    def until_firing(self, *wanted: str, allowed: tuple[str, ...] = ()) -> float:
        """Wait until exactly the `wanted` alerts fire; those `allowed` may, others must not."""
        started = time.monotonic()
        while True:
            firing = self.firing()
            if set(wanted) <= firing <= {*wanted, *allowed}:
                return time.monotonic() - started
            assert time.monotonic() - started < 90, f"{sorted(firing)} fire, wanted {wanted}"
            time.sleep(0.5)


def assert_ready(url: str) -> None:
    assert httpx2.get(url).status_code == 200


@pytest.fixture(scope="module")
def system(render: Any, answers: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    for image in ("postgres:17", "redis:8", PROMETHEUS):
        standins.ensure(image)
    everything = {**EVERYTHING, "auth": "none", "python_version": answers["python_version"]}
    project = Path(shutil.copytree(render(**everything), tmp_path_factory.mktemp("observe") / "project"))
    shorten(project)
    (project / "src/my_service/faults.py").write_text(FAULTS.strip() + "\n")
    add_to_app(project, "from . import faults", "app.include_router(faults.router)")
    app = project / "src/my_service/app.py"
    app.write_text(app.read_text().replace("item_jobs.report_low_stock", "item_jobs.report_low_stock, faults.fails"))
    port, published = free_port(), free_port()
    (project / "published.yaml").write_text(PUBLISHED.format(port=published))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMPOSE_PROJECT_NAME", f"t{port}")
        patch.setenv("COMPOSE_FILE", "compose.yaml:ops/observe/compose.yaml:published.yaml")
        (project / ".env").write_text(f"PORT={port}\n")
        made = System(project, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{published}")
        for thread in made.threads:
            thread.start()
        try:
            run("make", "up", cwd=project, env={**os.environ, "COMPOSE_FILE": "compose.yaml"})
            made.compose("up", "--detach", "prometheus")
            yield made
        finally:
            made.ended.set()
            for thread in made.threads:
                thread.join()
            run("make", "down", "ARGS=--volumes", cwd=project)


def test_the_right_alerts_fire_while_faults_are_injected(system: System) -> None:
    """And the wrong ones don't, nor any while nothing is wrong, or nobody asks for anything."""
    eventually(lambda: assert_ready(f"{system.prometheus}/-/ready"))
    system.until_firing(allowed=("NoWorker", "NoReadyInstance"))
    system.paths = ["/v1/faults/none", "/v1/items"]
    time.sleep(5)
    system.until_firing()

    system.compose("stop", "redis")
    system.until_firing("CacheDown")
    system.compose("start", "redis")
    system.until_firing()

    system.paths = ["/v1/faults/none", "/v1/faults/slow"]
    system.until_firing("LatencyBudgetBurn", allowed=("LatencyBudgetBurnSlowly",))
    get(f"{system.service}/v1/faults/job")
    system.until_firing("LatencyBudgetBurn", "JobsFail", allowed=("LatencyBudgetBurnSlowly",))

    system.compose("stop", "worker")
    slow = ("LatencyBudgetBurn", "LatencyBudgetBurnSlowly", "JobsFail")
    system.until_firing("NoWorker", allowed=slow)
    system.compose("start", "worker")

    system.paths = ["/v1/items", "/v1/faults/error"]
    system.until_firing("ErrorBudgetBurn", allowed=(*slow, "ErrorBudgetBurnSlowly"))

    system.compose("stop", "postgres")
    system.until_firing(
        "DatabaseDown", "NoReadyInstance", "NoWorker", "ErrorBudgetBurn", allowed=(*slow, "ErrorBudgetBurnSlowly")
    )
    system.compose("start", "postgres")
    system.paths = ["/v1/faults/none", "/v1/items"]
    system.until_firing(allowed=(*slow, "ErrorBudgetBurnSlowly", "ErrorBudgetBurn"))


def test_each_metric_of_a_rule_is_one_that_the_service_has(system: System) -> None:
    """But for those of kube-state-metrics, and of tokens, which this service does not have."""
    known = {found["metric"]["__name__"] for found in system.query('{job=~"my-service.*"}')}
    known |= {found["metric"]["__name__"] for found in system.query('{__name__=~"slo:.*"}')}
    used = set()
    for rule in rules(system.project):
        # Without labels, groupings and ranges.
        bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\b(by|on) \([^)]*\)", " ", rule["expr"])
        used |= {name for name in re.findall(r"\b[a-z_]+(?::\w+)*\b", bare) if re.search("[_:]|^up$", name)}
    functions = {"histogram_quantile", "avg_over_time", "min_over_time"}
    elsewhere = {name for name in used if name.startswith("kube_")} | {"jwt_keys_fetched_timestamp_seconds"}
    assert used - functions - elsewhere - known == set()
    assert len(used & known) > 20


def test_each_query_of_the_dashboard_returns_data(system: System) -> None:
    dashboard = json.loads((system.project / "ops/observe/dashboard/dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    queries += [annotation["expr"] for annotation in dashboard["annotations"]["list"]]
    assert len(queries) > 25
    system.paths = ["/v1/faults/none", "/v1/faults/error"]
    get(f"{system.service}/v1/faults/job")
    empty = []
    for query in queries:
        asked = query.replace("$namespace", ".*").replace("$__rate_interval", "2m").replace("offset 2m", "offset 1d")
        if not system.query(asked):
            empty.append(query)
    assert empty == []


def test_compose_accepts_what_make_observe_adds(system: System) -> None:
    shown = yaml.safe_load(run("docker", "compose", "config", cwd=system.project).stdout)["services"]
    assert {"grafana", "prometheus", "tempo", "service", "worker"} <= shown.keys()
    for name in ("grafana", "prometheus", "tempo"):
        assert shown[name]["read_only"]
        assert shown[name]["cap_drop"] == ["ALL"]
        assert re.search(r":v?\d+\.\d+\.\d+$", shown[name]["image"])
    [published] = shown["grafana"]["ports"]
    assert published["host_ip"] == "127.0.0.1"
