"""The alerts: each fires when it should and only then, on metrics that the service has, with a runbook."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import EVERYTHING, run

SERVICE = 'job="my-service",namespace="production",instance="a"'
WORKER = 'job="production/my-service-worker",namespace="production",instance="b"'

# The severity of a critical alert.
CRITICAL = '{{ if match "-test$" $labels.namespace }}warning{{ else }}critical{{ end }}'

# Over days, promtool takes a sample every two minutes and evaluates every ten.
LONG = 1000

Series = dict[str, str]


def groups(project: Path) -> list[dict[str, Any]]:
    """Read what Prometheus itself reads: the specs of all PrometheusRules."""
    files = sorted((project / "ops/observe/alerts").glob("[!k]*.yaml"))
    return [group for file in files for group in yaml.safe_load(file.read_text())["spec"]["groups"]]


def rules(project: Path) -> list[dict[str, Any]]:
    return [rule for group in groups(project) for rule in group["rules"]]


def alerts(project: Path) -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for rule in rules(project) if "alert" in rule}


def requests(*, failed: str = "0x4400", good: str = "0+60x4400", slow: str = "0x4400") -> Series:
    """Write the counters of requests a minute: those that fail, those that succeed, and those that are also slow."""
    route = 'http_request_method="GET",http_route="/v1/items"'
    name = "http_server_request_duration_seconds_bucket"
    made = {}
    for status, fast, every in (("200", good, good), ("500", failed, failed)):
        labels = f'{SERVICE},{route},http_response_status_code="{status}"'
        made[f'{name}{{{labels},le="0.5"}}'] = fast
        made[f'{name}{{{labels},le="+Inf"}}'] = every
    labels = f'{SERVICE},{route},http_response_status_code="202"'
    made[f'{name}{{{labels},le="0.5"}}'] = "0x4400"
    made[f'{name}{{{labels},le="+Inf"}}'] = slow
    return made


def gauge(name: str, values: str, labels: str = SERVICE) -> Series:
    return {f"{name}{{{labels}}}": values}


def check(name: str, values: str) -> Series:
    return gauge("readiness_check_passed", values, f'{SERVICE},check="{name}"')


def deployment(name: str, *, wanted: str, available: str) -> Series:
    labels = f'namespace="production",deployment="{name}"'
    return {
        **gauge("kube_deployment_spec_replicas", wanted, labels),
        **gauge("kube_deployment_status_replicas_available", available, labels),
    }


REPLICAS = "kube_deployment_spec_replicas"
SCALED_DOWN = gauge(REPLICAS, "0x20", 'namespace="test",deployment="my-service"')
WORKER_SCALED_DOWN = gauge(REPLICAS, "0x20", 'namespace="test",deployment="my-service-worker"')


def pool(used: str, pending: str) -> Series:
    count = gauge("db_client_connection_count", used, f'{SERVICE},db_client_connection_state="used"')
    most = gauge("db_client_connection_max", "10x60")
    return {**count, **most, **gauge("db_client_connection_pending_requests", pending)}


def lag(values: str) -> Series:
    """Count what came more than a quarter of a second late."""
    buckets = (("0.25", "0x60"), ("0.5", values), ("+Inf", values))
    return {
        name: counts
        for bound, values in buckets
        for name, counts in gauge("event_loop_lag_seconds_bucket", values, f'{SERVICE},le="{bound}"').items()
    }


UP = {**gauge("up", "1x4400"), **gauge("service_ready", "1x4400")}
WORKER_UP = {**gauge("up", "1x60", WORKER), **gauge("service_ready", "1x60", WORKER)}
POD = 'namespace="production",pod="my-service-7c9f8d6b5c-x2x7q"'
OTHER_POD = 'namespace="production",pod="my-service-admin-7c9f8d6b5c-x2x7q"'
KEPT_JOBS = f'{WORKER},job_name="send_receipt"'
FAILED_JOB = f'{WORKER},job_name="send_receipt",outcome="failed"'

# The alert; at how many minutes; what makes it fire; what does not.
CASES: list[tuple[str, int, list[Series], list[Series]]] = [
    (
        "ErrorBudgetBurn",
        70,
        # 2 % for an hour. All, for five minutes.
        [requests(failed="0+1.2x80", good="0+58.8x80"), requests(failed="0x64 0+60x10", good="0+60x64 3840x10")],
        # Nothing fails; half a percent does; it ended 40 minutes ago; one of few.
        [
            requests(),
            requests(failed="0+0.3x80", good="0+59.7x80"),
            requests(failed="0+6x29 174x60", good="0+60x80"),
            requests(failed="0x60 1x20", good="0+0.1x80"),
        ],
    ),
    ("ErrorBudgetBurn", 400, [requests(failed="0+0.42x420")], [requests(failed="0+0.3x420")]),
    (
        "ErrorBudgetBurnSlowly",
        4390,
        [requests(failed="0+0.09x4400")],
        [requests(failed="0+0.03x4400"), requests(failed="0+0.9x2000 1800x2400")],
    ),
    ("LatencyBudgetBurn", 70, [requests(slow="0+1.2x80")], [requests(), requests(slow="0+0.3x80")]),
    ("LatencyBudgetBurnSlowly", 4390, [requests(slow="0+0.09x4400")], [requests(slow="0+0.03x4400")]),
    (
        "NoReadyInstance",
        10,
        [
            {},
            {**UP, **gauge("service_ready", "1x5 0x10")},
            {**UP, **gauge("up", "1x5 0x10")},
            {**UP, **deployment("my-service", wanted="2x20", available="0x20")},
            deployment("my-service", wanted="2x20", available="2x20"),
            # Nobody scrapes it; that of another namespace was scaled to zero.
            {**deployment("my-service", wanted="2x20", available="2x20"), **SCALED_DOWN},
        ],
        # Another instance is not ready; it was scaled to zero.
        [
            UP,
            {**UP, **gauge("service_ready", "0x20", SERVICE.replace('"a"', '"other"'))},
            deployment("my-service", wanted="0x20", available="0x20"),
        ],
    ),
    (
        "RestartLoop",
        20,
        [
            gauge("process_start_time_seconds", "1x8 2x3 3x3 4x10"),
            gauge("kube_pod_container_status_restarts_total", "0x8 1x3 2x3 4x10", POD),
        ],
        [
            gauge("process_start_time_seconds", "1x8 2x20"),
            gauge("kube_pod_container_status_restarts_total", "0x8 1x3 2x3 4x10", OTHER_POD),
        ],
    ),
    ("EventLoopBlocked", 20, [lag("0+120x60")], [lag("0x60"), lag("0x8 0+120x5 600x20")]),
    (
        "LogLinesDropped",
        40,
        [gauge("log_lines_dropped_total", "0+5x60")],
        [gauge("log_lines_dropped_total", "7x60"), gauge("log_lines_dropped_total", "0x38 7x60")],
    ),
    (
        "DatabaseDown",
        10,
        [check("database", "1x5 0x20")],
        [check("database", "1x60"), check("cache", "0x60"), check("database", "1x8 0 1x20")],
    ),
    (
        "DatabasePoolExhausted",
        20,
        [pool("10x60", "3x60")],
        [pool("10x60", "0x60"), pool("9x60", "3x60"), pool("10x60", "3x17 0 3x20")],
    ),
    (
        "MigrationFailed",
        5,
        [gauge("kube_job_failed", "1x20", 'namespace="production",job_name="my-service-migrate",condition="true"')],
        [
            gauge("kube_job_failed", "0x20", 'namespace="production",job_name="my-service-migrate",condition="true"'),
            gauge("kube_job_failed", "1x20", 'namespace="production",job_name="other-migrate",condition="true"'),
        ],
    ),
    ("CacheDown", 20, [check("cache", "0x60")], [check("cache", "1x60"), check("cache", "1x16 0x60")]),
    (
        "CacheRefuses",
        30,
        [gauge("cache_failures_total", "0+9x60", f'{SERVICE},operation="write",reason="error"')],
        [gauge("cache_failures_total", "0+9x60", f'{SERVICE},operation="write",reason="down"')],
    ),
    ("NoIssuerKeys", 10, [check("auth", "0x60")], [check("auth", "1x60"), check("auth", "1x8 0 1x20")]),
    (
        "IssuerKeysOld",
        60,
        [gauge("jwt_keys_fetched_timestamp_seconds", "60x90")],
        [gauge("jwt_keys_fetched_timestamp_seconds", values) for values in ("0+60x90", "0x90")],
    ),
    (
        "NoWorker",
        10,
        [
            {},
            {**WORKER_UP, **gauge("service_ready", "0x60", WORKER)},
            {**WORKER_UP, **deployment("my-service-worker", wanted="1x20", available="0x20")},
            {**deployment("my-service-worker", wanted="1x20", available="1x20"), **WORKER_SCALED_DOWN},
        ],
        [WORKER_UP, deployment("my-service-worker", wanted="0x20", available="0x20")],
    ),
    (
        "JobsLate",
        20,
        [gauge("jobs_oldest_due_seconds", "0+60x60", WORKER)],
        [gauge("jobs_oldest_due_seconds", "200x60", WORKER)],
    ),
    (
        "JobsFail",
        20,
        [gauge("job_duration_seconds_count", "0x15 1x20", FAILED_JOB)],
        [gauge("job_duration_seconds_count", "0+9x60", FAILED_JOB.replace('"failed"', '"retried"'))],
    ),
    # It failed before the first scrape of a new worker.
    (
        "JobsFail",
        40,
        [
            {
                **gauge("jobs_failed", "0x15", KEPT_JOBS),
                **gauge("jobs_failed", "_x17 1x60", KEPT_JOBS.replace('"b"', '"c"')),
            }
        ],
        [gauge("jobs_failed", values, KEPT_JOBS) for values in ("2x60", "2x20 1x40")],
    ),
]


def question(alert: str, minutes: int, series: Series, fires: bool) -> dict[str, Any]:
    firing = f'count(ALERTS{{alertname="{alert}", alertstate="firing"}})'
    expected = [{"labels": "{}", "value": 1}] if fires else []
    return {
        "interval": "2m" if minutes > LONG else "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [{"expr": firing, "eval_time": f"{minutes}m", "exp_samples": expected}],
    }


@pytest.fixture
def asked(promtool: str, render: Any, tmp_path: Path) -> Callable[..., str]:
    """Return a function that asks promtool, and returns what it finds wrong."""

    def ask(questions: list[dict[str, Any]], change: Callable[[str], str] = str) -> str:
        rendered = groups(render(**EVERYTHING))
        (tmp_path / "rules.yaml").write_text(change(yaml.safe_dump({"groups": rendered})))
        content = {
            "rule_files": ["rules.yaml"],
            "evaluation_interval": "10m" if "2m" in [each["interval"] for each in questions] else "1m",
            # A series of the evaluation before, ten minutes ago, is too old to be seen.
            "group_eval_order": [group["name"] for group in rendered],
            "tests": questions,
        }
        (tmp_path / "tests.yaml").write_text(yaml.safe_dump(content))
        done = run(promtool, "test", "rules", tmp_path / "tests.yaml", check=False)
        return "" if done.returncode == 0 else done.stdout + done.stderr

    return ask


@pytest.mark.parametrize(("alert", "minutes", "fires", "silent"), CASES, ids=[f"{case[0]}-{case[1]}" for case in CASES])
def test_each_alert_fires_when_it_should_and_only_then(
    asked: Callable[..., str], alert: str, minutes: int, fires: list[Series], silent: list[Series]
) -> None:
    assert asked([question(alert, minutes, series, True) for series in fires]) == ""
    assert asked([question(alert, minutes, series, False) for series in silent]) == ""


def test_each_alert_has_a_case(render: Any) -> None:
    assert {case[0] for case in CASES} == alerts(render(**EVERYTHING)).keys()


def test_a_wrong_alert_is_found(asked: Callable[..., str]) -> None:
    down = [question("DatabaseDown", 10, check("database", "1x5 0x20"), True)]
    assert asked(down) == ""
    renamed = asked(down, lambda text: text.replace("readiness_check_passed", "readiness_check_ok"))
    assert "DatabaseDown" in renamed
    assert "FAILED" in renamed


def test_a_critical_alert_from_a_test_namespace_is_a_warning(asked: Callable[..., str]) -> None:
    down = check("database", "0x20")
    down |= {name.replace("production", "my-service-test"): values for name, values in down.items()}
    severity = 'count by (namespace, severity) (ALERTS{alertname="DatabaseDown", alertstate="firing"})'
    expected = [
        {"labels": f'{{namespace="{namespace}",severity="{severity}"}}', "value": 1}
        for namespace, severity in (("production", "critical"), ("my-service-test", "warning"))
    ]
    asks = {**question("DatabaseDown", 10, down, True)}
    asks["promql_expr_test"] = [{"expr": severity, "eval_time": "10m", "exp_samples": expected}]
    assert asked([asks]) == ""


@pytest.mark.parametrize("answers", [{"deploy": "kubernetes"}, EVERYTHING], ids=["nothing", "everything"])
def test_the_rules_are_valid_and_belong_to_what_the_service_has(
    promtool: str, render: Any, tmp_path: Path, answers: dict[str, str]
) -> None:
    project = render(**answers)
    listed = yaml.safe_load((project / "ops/observe/alerts/kustomization.yaml").read_text())["resources"]
    found = {path.name for path in (project / "ops/observe/alerts").iterdir()} - {"kustomization.yaml"}
    assert set(listed) == found
    assert len(found) == (6 if answers is EVERYTHING else 1)
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": groups(project)}))
    run(promtool, "check", "rules", "--lint-fatal", tmp_path / "rules.yaml")


@pytest.mark.parametrize("answers", [{}, EVERYTHING], ids=["nothing", "everything"])
def test_each_alert_says_how_bad_it_is_what_it_means_and_where_its_runbook_is(
    render: Any, answers: dict[str, str]
) -> None:
    project = render(**answers)
    headings = {
        f"{page.name}#{heading.lower()}"
        for page in (project / "docs/runbooks").iterdir()
        for heading in re.findall(r"(?m)^## (\w+)$", page.read_text())
    }
    linked = set()
    for name, alert in alerts(project).items():
        assert alert["labels"]["severity"] in (CRITICAL, "warning")
        assert "my-service" in alert["annotations"]["summary"]
        address = alert["annotations"]["runbook_url"]
        assert address.startswith("https://github.com/example/my-service/blob/main/docs/runbooks/")
        assert address.endswith(f"#{name.lower()}")
        linked.add(address.rpartition("/")[2])
    assert linked == headings


def test_a_runbook_of_another_forge_is_named_by_its_path(render: Any) -> None:
    project = render(ci="gitlab", image_repository="registry.example.com/team/desk")
    assert {alert["annotations"]["runbook_url"].partition("#")[0] for alert in alerts(project).values()} == {
        "docs/runbooks/service.md"
    }
