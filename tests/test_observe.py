"""`make observe`: a real Prometheus with the project's own rules scrapes real containers while faults are injected.

Grafana and Tempo are real if a registry responds, else stand-ins that read the same configuration.
"""

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

IMAGES = ("postgres:17", "redis:8", "prom/prometheus:v3.13.2", "grafana/grafana:12.3.2", "grafana/tempo:2.9.0")
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

# What promtool says of names that follow OpenTelemetry's conventions: docs/decisions/telemetry.md.
CONVENTION = 'db_client_connection_count non-histogram and non-summary metrics should not have "_count" suffix'


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
    """The containers, what Grafana's data sources know of them, and requests that go on in the background."""

    def __init__(self, project: Path, service: str, grafana: str) -> None:
        self.project, self.service, self.grafana = project, service, grafana
        self.paths: list[str] = []
        self.ended = threading.Event()
        self.threads = [threading.Thread(target=self._ask) for _ in range(4)]

    def _ask(self) -> None:
        with httpx2.Client(base_url=self.service, timeout=10) as client:
            while not self.ended.wait(0.05):
                for path in list(self.paths):
                    with contextlib.suppress(httpx2.HTTPError):
                        client.get(path)

    def compose(self, *command: str) -> str:
        return run("docker", "compose", *command, cwd=self.project).stdout

    def source(self, name: str) -> str:
        """Return the address of a data source, as the dashboard's page reaches it."""
        return f"{self.grafana}/api/datasources/proxy/uid/{name}"

    def ask(self, what: str, **parameters: str) -> Any:
        response = httpx2.get(f"{self.source('prometheus')}/api/v1/{what}", params=parameters, timeout=30).json()
        assert response["status"] == "success", (parameters, response)
        return response["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("query", query=expression)["result"]
        return found

    def metrics(self, container: str) -> str:
        """Return what Prometheus reads of a container, in the text format."""
        program = "import urllib.request as r; print(r.urlopen('http://localhost:8000/metrics').read().decode())"
        return self.compose("exec", "-T", container, "python", "-c", program)

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


def assert_responds(url: str) -> None:
    assert httpx2.get(url).status_code == 200


@pytest.fixture(scope="module")
def system(render: Any, answers: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    for image in IMAGES:
        standins.ensure(image)
    everything = render(**EVERYTHING, python_version=answers["python_version"])
    project = Path(shutil.copytree(everything, tmp_path_factory.mktemp("observe") / "project"))
    shorten(project)
    (project / "src/my_service/faults.py").write_text(FAULTS.strip() + "\n")
    add_to_app(project, "from . import faults", "app.include_router(faults.router)")
    app = project / "src/my_service/app.py"
    app.write_text(app.read_text().replace("item_jobs.report_low_stock", "item_jobs.report_low_stock, faults.fails"))
    port, grafana = free_port(), free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMPOSE_PROJECT_NAME", f"t{port}")
        patch.setenv("COMPOSE_FILE", "compose.yaml:ops/observe/compose.yaml")
        patch.setenv("GRAFANA_PORT", str(grafana))
        (project / ".env").write_text(f"PORT={port}\n")
        made = System(project, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{grafana}")
        for thread in made.threads:
            thread.start()
        try:
            printed = run("make", "observe", cwd=project).stdout
            assert printed.endswith(f"its dashboard, traces and alerts are at {made.grafana}\n")
            yield made
        finally:
            made.ended.set()
            for thread in made.threads:
                thread.join()
            run("make", "down", "ARGS=--volumes", cwd=project, env={**os.environ, "COMPOSE_FILE": "compose.yaml"})
            assert made.compose("ps", "--all", "--quiet") == ""


def test_the_right_alerts_fire_while_faults_are_injected(system: System) -> None:
    """And the wrong ones don't, nor does any while nothing is wrong, or while there are no requests."""
    # Grafana may take a while to set up its database.
    eventually(lambda: assert_responds(f"{system.source('prometheus')}/api/v1/status/buildinfo"), 120)
    system.until_firing(allowed=("NoWorker", "NoReadyInstance"))
    system.paths = ["/v1/faults/none", "/v1/items"]
    time.sleep(5)
    system.until_firing()

    system.compose("stop", "redis")
    system.until_firing("CacheDown")
    system.compose("start", "redis")
    system.paths = ["/v1/faults/none", "/v1/faults/slow"]
    system.until_firing("LatencyBudgetBurn", allowed=("LatencyBudgetBurnSlowly",))
    get(f"{system.service}/v1/faults/job")
    system.until_firing("LatencyBudgetBurn", "JobsFail", allowed=("LatencyBudgetBurnSlowly",))

    system.compose("stop", "worker")
    system.paths = ["/v1/items", "/v1/faults/error"]
    slow = ("LatencyBudgetBurn", "LatencyBudgetBurnSlowly", "JobsFail")
    system.until_firing("NoWorker", "ErrorBudgetBurn", allowed=(*slow, "ErrorBudgetBurnSlowly"))
    system.compose("start", "worker")
    system.until_firing("ErrorBudgetBurn", allowed=(*slow, "ErrorBudgetBurnSlowly"))

    system.compose("stop", "postgres")
    system.until_firing(
        "DatabaseDown", "NoReadyInstance", "NoWorker", "ErrorBudgetBurn", allowed=(*slow, "ErrorBudgetBurnSlowly")
    )
    system.compose("start", "postgres")
    system.paths = ["/v1/faults/none", "/v1/items"]
    system.until_firing(allowed=(*slow, "ErrorBudgetBurnSlowly", "ErrorBudgetBurn"))


def test_each_metric_and_label_of_a_rule_is_one_that_the_service_has(system: System) -> None:
    """But for those of kube-state-metrics; after the faults, which some metrics count."""
    grouped, selected = set(), set()
    for rule in rules(system.project):
        groupings = r"\b(?:by|on) \(([^)]*)\)"
        grouped |= {name for names in re.findall(groupings, rule["expr"]) for name in re.findall(r"\w+", names)}
        # Also without ranges.
        bare = re.sub(rf"{groupings}|\[[^]]*\]", " ", rule["expr"])
        for name, matchers in re.findall(r"\b([a-z_]+(?::\w+)*)\b(?:{([^}]*)})?", bare):
            if re.search("[_:]|^up$", name) and not name.startswith("kube_"):
                selected.add((name, *re.findall(r"(\w+)[!=~]+\"", matchers)))
    selected = {
        metric for metric in selected if metric[0] not in ("histogram_quantile", "avg_over_time", "min_over_time")
    }
    assert len(selected) > 25

    def all_are_known() -> None:
        series = [found["metric"] for found in system.query('{__name__=~".+"}')]
        assert grouped - {name for metric in series for name in metric} == {"pod"}
        known = {
            (metric["__name__"], *labels) for metric in series for _, *labels in selected if {*labels} <= {*metric}
        }
        assert selected - known == set()

    # A scrape that takes too long leaves none for a moment.
    eventually(all_are_known)


def test_each_query_of_the_dashboard_returns_data(system: System) -> None:
    dashboard = json.loads((system.project / "ops/observe/dashboard/dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    queries += [annotation["expr"] for annotation in dashboard["annotations"]["list"]]
    assert len(queries) > 25
    system.paths = ["/v1/faults/none", "/v1/faults/error"]
    get(f"{system.service}/v1/faults/job")

    def all_return_data() -> None:
        asked = [query.replace("$namespace", ".*").replace("$__rate_interval", "2m") for query in queries]
        assert [query for query in asked if not system.query(query.replace("offset 2m", "offset 1d"))] == []

    eventually(all_return_data)


def test_names_of_metrics_are_as_prometheus_wants_them_but_for_a_convention(system: System, promtool: str) -> None:
    for container in ("service", "worker"):
        linted = run(promtool, "check", "metrics", input=system.metrics(container), check=False)
        assert linted.stderr.splitlines() == [CONVENTION]


def test_grafana_opens_with_the_dashboard_of_the_service(system: System) -> None:
    dashboard = json.loads((system.project / "ops/observe/dashboard/dashboard.json").read_text())
    for place in ("home", f"uid/{dashboard['uid']}"):
        shown = httpx2.get(f"{system.grafana}/api/dashboards/{place}").json()["dashboard"]
        assert [panel["title"] for panel in shown["panels"]] == [panel["title"] for panel in dashboard["panels"]]


def test_a_duration_leads_to_its_trace_and_to_its_log_line(system: System) -> None:
    dashboard = json.loads((system.project / "ops/observe/dashboard/dashboard.json").read_text())
    targets = [target for panel in dashboard["panels"] for target in panel.get("targets", [])]
    [query] = [target["expr"] for target in targets if target.get("exemplar")]
    source = httpx2.get(f"{system.grafana}/api/datasources/uid/prometheus").json()
    [linked] = source["jsonData"]["exemplarTraceIdDestinations"]
    system.paths = ["/v1/faults/slow"]

    def newest() -> tuple[str, dict[str, str]]:
        asked = query.replace("$namespace", ".*").replace("$__rate_interval", "2m")
        now = time.time()
        found = system.ask("query_exemplars", query=asked, start=str(now - 60), end=str(now))
        slow = [series for series in found if series["seriesLabels"].get("http_route") == "/v1/faults/slow"]
        assert slow
        exemplar = max(slow[-1]["exemplars"], key=lambda exemplar: exemplar["timestamp"])
        assert float(exemplar["value"]) > 0.7
        return exemplar["labels"][linked["name"]], slow[-1]["seriesLabels"]

    trace, labels = eventually(newest)
    assert labels["__name__"] == "http_server_request_duration_seconds_bucket"
    address = f"{system.source(linked['datasourceUid'])}/api/traces/{trace}"
    eventually(lambda: assert_responds(address))
    assert httpx2.get(address.replace(trace, "0" * 31 + "1")).status_code == 404
    lines = [line for line in system.compose("logs", "service").splitlines() if trace in line]
    assert [json.loads(line[line.index("{") :])["route"] for line in lines] == ["/v1/faults/slow"]


def test_compose_accepts_what_make_observe_adds(system: System) -> None:
    shown = yaml.safe_load(run("docker", "compose", "config", cwd=system.project).stdout)["services"]
    assert {"grafana", "prometheus", "tempo", "service", "worker"} <= shown.keys()
    for name in ("grafana", "prometheus", "tempo"):
        assert shown[name]["read_only"]
        assert shown[name]["cap_drop"] == ["ALL"]
        assert shown[name]["image"] in IMAGES
    [published] = shown["grafana"]["ports"]
    assert published["host_ip"] == "127.0.0.1"
