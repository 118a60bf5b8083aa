"""The Kubernetes manifests: what kustomize makes of them holds together, and `make deploy` applies it in order."""

import copy
import functools
import importlib.util
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cluster as played
import httpx2
import kubernetes_validate
import pytest
import yaml
from conftest import EVERYTHING, ROOT, at_hand, eventually, files, free_port, get, run

Manifest = dict[str, Any]

OVERLAYS = ["test", "production"]
DATABASES, CACHES, AUTHS = ["none", "sqlite", "postgresql"], ["none", "redis"], ["none", "api-key", "jwt"]
ANSWERS = [
    {"deploy": "kubernetes", "database": database, "cache": cache, "auth": auth}
    for database, cache, auth in itertools.product(DATABASES, CACHES, AUTHS)
]
ONE_FILE = {"deploy": "kubernetes", "database": "sqlite", "cache": "none", "auth": "api-key"}
KUBERNETES = ["1.31", kubernetes_validate.latest_version()]
NAME, COMPONENT = "app.kubernetes.io/name", "app.kubernetes.io/component"


@pytest.fixture(scope="session")
def kubectl() -> str:
    return at_hand("kubectl")


def build(folder: Path) -> list[Manifest]:
    """Return what kustomize makes of `folder`."""
    return [manifest for manifest in yaml.safe_load_all(run("kubectl", "kustomize", folder).stdout) if manifest]


@pytest.fixture(scope="session")
def built(kubectl: str, render: Any) -> Callable[..., list[Manifest]]:
    """Return `built(overlay, **answers)`: that overlay's manifests, to change at will."""

    @functools.cache
    def once(overlay: str, answers: tuple[tuple[str, str], ...]) -> list[Manifest]:
        return build(render(**dict(answers)) / "deploy/overlays" / overlay)

    return lambda overlay, **answers: copy.deepcopy(once(overlay, tuple(answers.items())))


def kind_of(manifest: Manifest) -> str:
    """Return its kind, which the service and its worker may each have one of."""
    return ("worker's " if manifest["metadata"]["name"].endswith("-worker") else "") + str(manifest["kind"])


def only(manifests: list[Manifest], kind: str) -> Manifest:
    found = [manifest for manifest in manifests if kind_of(manifest) == kind]
    assert len(found) == 1, f"{len(found)} of {kind}"
    return found[0]


def kinds(manifests: list[Manifest]) -> set[str]:
    return {kind_of(manifest) for manifest in manifests}


def pods(manifests: list[Manifest]) -> dict[str, Manifest]:
    """Map each workload's kind to its pod template."""
    return {
        kind_of(manifest): manifest["spec"]["template"]
        for manifest in manifests
        if "template" in manifest.get("spec", {})
    }


def whose(manifests: list[Manifest]) -> list[str]:
    """Return what the kinds of the service, and of its worker if it has one, begin with."""
    return ["", "worker's "] if "worker's Deployment" in kinds(manifests) else [""]


def containers(pod: Manifest) -> list[Manifest]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


@functools.cache
def validate(manifest: str, version: str) -> None:
    """Fail where a manifest is not as that version of Kubernetes has it; most sets of answers share most manifests."""
    kubernetes_validate.validate(json.loads(manifest), version, strict=True)


# --- What belongs together --------------------------------------------------------------------------------------------


def selectors_choose_their_own_pods_and_no_others(manifests: list[Manifest], project: Path) -> Iterator[str]:
    labels = {kind: pod["metadata"]["labels"].items() for kind, pod in pods(manifests).items()}

    def chosen_by(selector: Manifest) -> list[str]:
        return [kind for kind in labels if selector.items() <= labels[kind]]

    for manifest in manifests:
        kind, spec = kind_of(manifest), manifest.get("spec", {})
        selector = spec.get("selector") or spec.get("podSelector") or {}
        own = "worker's Deployment" if kind.startswith("worker's") else "Deployment"
        chosen = chosen_by(selector if kind == "Service" else selector.get("matchLabels", {}))
        if selector and chosen != (list(labels) if kind == "NetworkPolicy" else [own]):
            yield f"{kind} chooses the pods of {chosen}"
    for kind in (f"{owner}Deployment" for owner in whose(manifests)):
        for spread in pods(manifests)[kind]["spec"]["topologySpreadConstraints"]:
            if chosen_by(spread["labelSelector"]["matchLabels"]) != [kind]:
                yield f"the spread over {spread['topologyKey']} counts other pods"


def the_policy_covers_every_pod(manifests: list[Manifest], project: Path) -> Iterator[str]:
    policy = only(manifests, "NetworkPolicy")["spec"]
    if set(policy["policyTypes"]) != {"Ingress", "Egress"}:
        yield "a direction is open"
    for kind, pod in pods(manifests).items():
        if not policy["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items():
            yield f"{kind} is not covered"


def the_policy_lets_out_what_the_answers_need(manifests: list[Manifest], project: Path) -> Iterator[str]:
    answers = yaml.safe_load((project / ".copier-answers.yml").read_text())
    wanted = {("UDP", 53), ("TCP", 53), ("TCP", 4318)}
    wanted |= {("TCP", 5432)} if answers["database"] == "postgresql" else set()
    wanted |= {("TCP", 6379)} if answers["cache"] == "redis" else set()
    wanted |= {("TCP", 443)} if answers["auth"] == "jwt" else set()
    rules = only(manifests, "NetworkPolicy")["spec"]["egress"]
    out = {
        (port.get("protocol", "TCP"), port["port"]) for rule in rules for port in rule.get("ports", [{"port": "any"}])
    }
    if out != wanted:
        yield f"out go {out}, needed are {wanted}"


def names_name_what_is_there(manifests: list[Manifest], project: Path) -> Iterator[str]:
    there = {(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests}
    if "HorizontalPodAutoscaler" in kinds(manifests):
        target = only(manifests, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
        if (target["kind"], target["name"]) not in there or target["apiVersion"] != only(manifests, "Deployment")[
            "apiVersion"
        ]:
            yield f"the autoscaler scales {target}"
    for kind, pod in pods(manifests).items():
        spec = pod["spec"]
        wanted = {("ServiceAccount", spec["serviceAccountName"])}
        for container in containers(pod):
            wanted |= {("ConfigMap", source["configMapRef"]["name"]) for source in container["envFrom"]}
            volumes = {volume["name"] for volume in spec["volumes"]}
            if not {mount["name"] for mount in container["volumeMounts"]} <= volumes:
                yield f"{kind} mounts what is no volume"
        claims = [volume["persistentVolumeClaim"] for volume in spec["volumes"] if "persistentVolumeClaim" in volume]
        wanted |= {("PersistentVolumeClaim", claim["claimName"]) for claim in claims}
        yield from (f"{kind} names {missing}, which is not there" for missing in wanted - there)


def everything_is_in_the_one_namespace(manifests: list[Manifest], project: Path) -> Iterator[str]:
    namespace = only(manifests, "Namespace")["metadata"]["name"]
    for manifest in manifests:
        if manifest["kind"] != "Namespace" and manifest["metadata"].get("namespace") != namespace:
            yield f"{manifest['kind']} is elsewhere"


def one_image_runs_everywhere(manifests: list[Manifest], project: Path) -> Iterator[str]:
    images = {container["image"] for pod in pods(manifests).values() for container in containers(pod)}
    if len(images) != 1 or not re.search(r"[^/]:[^:/]+$", images.pop()):
        yield "the images differ, or have no tag"


def ports_name_container_ports(manifests: list[Manifest], project: Path) -> Iterator[str]:
    exposed = re.findall(r"(?m)^EXPOSE (\d+)$", (project / "Dockerfile").read_text())
    shared = [port["targetPort"] for port in only(manifests, "Service")["spec"]["ports"]]
    ingress = only(manifests, "NetworkPolicy")["spec"]["ingress"]
    shared += [port["port"] for rule in ingress for port in rule["ports"]]
    for owner in whose(manifests):
        server = pods(manifests)[f"{owner}Deployment"]["spec"]["containers"][0]
        named = {port["name"]: port["containerPort"] for port in server["ports"]}
        if [str(port) for port in named.values()] != exposed:
            yield f"the image exposes {exposed}, not {named}"
        pointed = [server[probe]["httpGet"]["port"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")]
        yield from (f"{port} is no port of the container" for port in pointed + shared if port not in named)


def config_keys_are_settings(manifests: list[Manifest], project: Path) -> Iterator[str]:
    # A test of the project compares this file with the settings' fields.
    settings = set(re.findall(r"(?m)^#?([A-Z_]+)=", (project / ".env.example").read_text()))
    yield from (f"{key} is no setting" for key in set(only(manifests, "ConfigMap")["data"]) - settings)


def no_secret_is_in_the_config(manifests: list[Manifest], project: Path) -> Iterator[str]:
    if "Secret" in kinds(manifests):
        yield "a Secret is written down"
    for key, value in only(manifests, "ConfigMap")["data"].items():
        if key in ("REDIS_URL", "API_KEYS") or "@" in value:
            yield f"{key} is a secret"


def the_secret_has_to_be_there_where_it_is_needed(manifests: list[Manifest], project: Path) -> Iterator[str]:
    answers = yaml.safe_load((project / ".copier-answers.yml").read_text())
    needed = answers["database"] == "postgresql" or answers["cache"] == "redis" or answers["auth"] == "api-key"
    for kind, pod in pods(manifests).items():
        secrets = [volume["secret"] for volume in pod["spec"]["volumes"] if "secret" in volume]
        name = only(manifests, "Deployment")["metadata"]["name"]
        if [secret["secretName"] for secret in secrets] != [name]:
            yield f"{kind} has no secret {name}"
        elif secrets[0].get("optional", False) == needed:
            yield f"{kind} would start without its secret, or wait for one that it does not need"
        for container in containers(pod):
            if "/run/secrets" not in [mount["mountPath"] for mount in container["volumeMounts"]]:
                yield f"{kind} does not see the secret"


def the_grace_covers_delay_and_drain(manifests: list[Manifest], project: Path) -> Iterator[str]:
    config = only(manifests, "ConfigMap")["data"]
    taken = sum(float(config[f"SHUTDOWN_{part}_SECONDS"]) for part in ("DELAY", "GRACE"))
    if float(config["SHUTDOWN_DELAY_SECONDS"]) < 3:
        yield "balancers send on for some seconds"
    for owner in whose(manifests):
        spec = pods(manifests)[f"{owner}Deployment"]["spec"]
        if spec["terminationGracePeriodSeconds"] < taken + 3:
            yield f"a stop takes {taken} seconds and more"
        if any("preStop" in container.get("lifecycle", {}) for container in spec["containers"]):
            yield "the service waits by itself"


def probes_ask_what_they_should(manifests: list[Manifest], project: Path) -> Iterator[str]:
    [module] = project.glob("src/*/chassis/health.py")
    [limit] = re.findall(r"CHECK_TIMEOUT_SECONDS = ([\d.]+)", module.read_text())
    wanted = {"startupProbe": "/health/live", "livenessProbe": "/health/live", "readinessProbe": "/health/ready"}
    for owner in whose(manifests):
        server = pods(manifests)[f"{owner}Deployment"]["spec"]["containers"][0]
        paths = {probe: server[probe]["httpGet"]["path"] for probe in wanted}
        if paths != wanted:
            yield f"the probes ask {paths}"
        if server["readinessProbe"]["timeoutSeconds"] <= float(limit):
            yield "a slow check would look like a dead service"


def a_rollout_never_goes_below_the_wanted_count(manifests: list[Manifest], project: Path) -> Iterator[str]:
    spec = only(manifests, "Deployment")["spec"]
    if "PersistentVolumeClaim" in kinds(manifests):
        if spec["strategy"] != {"type": "Recreate"} or spec["replicas"] != 1:
            yield "two pods would write one file"
        if kinds(manifests) & {"HorizontalPodAutoscaler", "PodDisruptionBudget", "Job"}:
            yield "one pod is one pod"
        return
    for owner in whose(manifests):
        strategy = only(manifests, f"{owner}Deployment")["spec"]["strategy"]
        if strategy.get("rollingUpdate", {}).get("maxUnavailable") != 0:
            yield "a rollout may go below the wanted count"
        if only(manifests, f"{owner}PodDisruptionBudget")["spec"]["maxUnavailable"] < 1:
            yield "no node could ever be drained"
    if "replicas" in spec:
        yield "each deployment would undo the autoscaler"
    scale = only(manifests, "HorizontalPodAutoscaler")["spec"]
    if not scale["minReplicas"] < scale["maxReplicas"]:
        yield "the autoscaler has nothing to do"


def memory_has_a_limit_and_cpu_has_none(manifests: list[Manifest], project: Path) -> Iterator[str]:
    for kind, pod in pods(manifests).items():
        for container in containers(pod):
            resources = container["resources"]
            if set(resources["requests"]) != {"cpu", "memory"} or set(resources["limits"]) != {"memory"}:
                yield f"{kind} has the resources {resources}"


def commands_run_the_project(manifests: list[Manifest], project: Path) -> Iterator[str]:
    answers = yaml.safe_load((project / ".copier-answers.yml").read_text())
    commands = [
        container["command"]
        for pod in pods(manifests).values()
        for container in containers(pod)
        if "command" in container
    ]
    needed = {"migrate": answers["database"] != "none", "worker": answers.get("jobs", "none") != "none"}
    wanted = [["python", "-m", answers["package_name"], command] for command, is_needed in needed.items() if is_needed]
    if sorted(commands) != wanted:
        yield f"these commands run: {commands}"
    if "Job" in kinds(manifests):
        job = only(manifests, "Job")["spec"]
        if not {"activeDeadlineSeconds", "ttlSecondsAfterFinished", "backoffLimit"} <= job.keys():
            yield "a migration has no end"


RULES = [
    selectors_choose_their_own_pods_and_no_others,
    the_policy_covers_every_pod,
    the_policy_lets_out_what_the_answers_need,
    names_name_what_is_there,
    everything_is_in_the_one_namespace,
    one_image_runs_everywhere,
    ports_name_container_ports,
    config_keys_are_settings,
    no_secret_is_in_the_config,
    the_secret_has_to_be_there_where_it_is_needed,
    the_grace_covers_delay_and_drain,
    probes_ask_what_they_should,
    a_rollout_never_goes_below_the_wanted_count,
    memory_has_a_limit_and_cpu_has_none,
    commands_run_the_project,
]


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("answers", [*ANSWERS, EVERYTHING], ids=lambda answers: "-".join(list(answers.values())[1:]))
def test_every_set_of_answers_holds_together(built: Any, render: Any, answers: dict[str, str], overlay: str) -> None:
    manifests, project = built(overlay, **answers), render(**answers)
    assert [fault for rule in RULES for fault in rule(manifests, project)] == []
    for manifest, version in itertools.product(manifests, KUBERNETES):
        validate(json.dumps(manifest), version)


def test_workers_run_as_the_service_does(built: Any) -> None:
    """But for their names, their command, and their number, which no autoscaler sets."""
    service, worker = (only(built("production", **EVERYTHING), f"{owner}Deployment") for owner in ("", "worker's "))
    assert worker["spec"].pop("replicas") > 1
    containers(worker["spec"]["template"])[0].pop("command")
    containers(worker["spec"]["template"])[0]["name"] = "service"
    worker["metadata"]["name"] = worker["metadata"]["name"].removesuffix("-worker")
    assert json.loads(json.dumps(worker).replace('"worker"', '"server"')) == service


def put(kind: str, path: str, value: Any) -> Callable[[list[Manifest]], None]:
    """Return a change of the manifest of `kind`: `value` at `path`, or nothing there where it is `...`."""

    def change(manifests: list[Manifest]) -> None:
        place: Any = only(manifests, kind)
        *way, last = [int(step) if step.isdigit() else step for step in path.split("|")]
        for step in way:
            place = place[step]
        if value is ...:
            del place[last]
        else:
            place[last] = value

    return change


POD, SERVER = "spec|template|spec", "spec|template|spec|containers|0"
UNFIT = [
    (RULES[0], "Service", f"spec|selector|{NAME}", "other"),
    (RULES[0], "Service", f"spec|selector|{COMPONENT}", ...),
    (RULES[0], "Deployment", f"spec|selector|matchLabels|{NAME}", "other"),
    (RULES[0], "PodDisruptionBudget", f"spec|selector|matchLabels|{COMPONENT}", ...),
    (RULES[0], "PodDisruptionBudget", f"spec|selector|matchLabels|{NAME}", "other"),
    (RULES[0], "NetworkPolicy", f"spec|podSelector|matchLabels|{NAME}", "other"),
    (RULES[0], "Deployment", f"{POD}|topologySpreadConstraints|0|labelSelector|matchLabels|{NAME}", "other"),
    (RULES[1], "NetworkPolicy", "spec|policyTypes", ["Ingress"]),
    (RULES[1], "NetworkPolicy", f"spec|podSelector|matchLabels|{COMPONENT}", "server"),
    (RULES[2], "NetworkPolicy", "spec|egress|2", ...),
    (RULES[2], "NetworkPolicy", "spec|egress|0", {}),
    (RULES[3], "HorizontalPodAutoscaler", "spec|scaleTargetRef|name", "other"),
    (RULES[3], "HorizontalPodAutoscaler", "spec|scaleTargetRef|apiVersion", "apps/v2"),
    (RULES[3], "ServiceAccount", "metadata|name", "other"),
    (RULES[3], "ConfigMap", "metadata|name", "my-service"),
    (RULES[3], "Job", f"{SERVER}|envFrom|0|configMapRef|name", "other"),
    (RULES[3], "Deployment", f"{POD}|volumes|0", ...),
    (RULES[4], "NetworkPolicy", "metadata|namespace", "default"),
    (RULES[5], "Job", f"{SERVER}|image", "ghcr.io/example/my-service:0.0.9"),
    (RULES[6], "Deployment", f"{SERVER}|ports|0|containerPort", 8080),
    (RULES[6], "Deployment", f"{SERVER}|livenessProbe|httpGet|port", "web"),
    (RULES[6], "Deployment", f"{SERVER}|readinessProbe|httpGet|port", "web"),
    (RULES[6], "Deployment", f"{SERVER}|startupProbe|httpGet|port", "web"),
    (RULES[6], "Service", "spec|ports|0|targetPort", "web"),
    (RULES[6], "NetworkPolicy", "spec|ingress|0|ports|0|port", "web"),
    (RULES[7], "ConfigMap", "data|LOGLEVEL", "info"),
    (RULES[8], "ConfigMap", "data|REDIS_URL", "redis://redis"),
    (RULES[8], "ConfigMap", "data|DATABASE_URL", "postgresql://me:password@db/orders"),
    (RULES[9], "Deployment", f"{POD}|volumes|1|secret|optional", True),
    (RULES[9], "Job", f"{POD}|volumes|1|secret|secretName", "other"),
    (RULES[9], "Job", f"{SERVER}|volumeMounts|1", ...),
    (RULES[10], "Deployment", f"{POD}|terminationGracePeriodSeconds", 25),
    (RULES[10], "ConfigMap", "data|SHUTDOWN_GRACE_SECONDS", "60"),
    (RULES[10], "ConfigMap", "data|SHUTDOWN_DELAY_SECONDS", "0"),
    (RULES[10], "Deployment", f"{SERVER}|lifecycle", {"preStop": {"sleep": {"seconds": 5}}}),
    (RULES[11], "Deployment", f"{SERVER}|livenessProbe|httpGet|path", "/health/ready"),
    (RULES[11], "Deployment", f"{SERVER}|readinessProbe|timeoutSeconds", 1),
    (RULES[12], "Deployment", "spec|strategy|rollingUpdate|maxUnavailable", 1),
    (RULES[12], "Deployment", "spec|replicas", 3),
    (RULES[12], "PodDisruptionBudget", "spec|maxUnavailable", 0),
    (RULES[12], "HorizontalPodAutoscaler", "spec|maxReplicas", 1),
    (RULES[13], "Deployment", f"{SERVER}|resources|limits|cpu", "1"),
    (RULES[13], "Job", f"{SERVER}|resources|limits|memory", ...),
    (RULES[14], "Job", f"{SERVER}|command", ["alembic", "upgrade", "head"]),
    (RULES[14], "Job", "spec|activeDeadlineSeconds", ...),
    (RULES[14], "worker's Deployment", f"{SERVER}|command", ...),
]
# What has to be right for the service has to be for its worker too.
UNFIT += [
    (rule, f"worker's {kind}", path, value)
    for rule, kind, path, value in UNFIT
    if kind in ("Deployment", "PodDisruptionBudget") and path != "spec|replicas"
]


@pytest.mark.parametrize(("rule", "kind", "path", "value"), UNFIT, ids=lambda part: getattr(part, "__name__", ""))
def test_each_rule_finds_what_breaks_it(built: Any, render: Any, rule: Any, kind: str, path: str, value: Any) -> None:
    manifests, project = built("production", **EVERYTHING), render(**EVERYTHING)
    assert list(rule(manifests, project)) == []
    put(kind, path, value)(manifests)
    assert list(rule(manifests, project)) != []


def test_each_rule_has_something_that_breaks_it() -> None:
    assert {rule for rule, *_ in UNFIT} == set(RULES)


def test_two_pods_on_one_file_are_found(built: Any, render: Any) -> None:
    rule, project = a_rollout_never_goes_below_the_wanted_count, render(**ONE_FILE)
    for path, value in (("spec|replicas", 2), ("spec|strategy", {"type": "RollingUpdate"})):
        manifests = built("production", **ONE_FILE)
        put("Deployment", path, value)(manifests)
        assert list(rule(manifests, project))


def test_the_probes_paths_are_routes(built: Any, installed: Path) -> None:
    described = "from my_service.app import create_app; print(*create_app().openapi()['paths'])"
    routes = run(installed / ".venv/bin/python", "-c", described).stdout.split()
    server = pods(built("test", **EVERYTHING))["Deployment"]["spec"]["containers"][0]
    probes = [server[probe]["httpGet"]["path"] for probe in server if probe.endswith("Probe")]
    assert len(probes) == 3
    assert set(probes) <= set(routes)


def test_the_overlays_differ_in_settings_and_size_and_in_nothing_else(built: Any) -> None:
    test, production = (built(overlay, **EVERYTHING) for overlay in OVERLAYS)
    assert only(test, "ConfigMap")["data"]["APP_ENV"] == "test"
    assert only(test, "ConfigMap")["data"]["LOG_LEVEL"] == "debug"
    assert only(production, "ConfigMap")["data"]["APP_ENV"] == "production"
    scales = [only(manifests, "HorizontalPodAutoscaler")["spec"] for manifests in (test, production)]
    assert scales[0]["minReplicas"] < scales[1]["minReplicas"]
    assert scales[1]["minReplicas"] > 1

    def rest(manifests: list[Manifest]) -> str:
        different = {"ConfigMap", "HorizontalPodAutoscaler", "Namespace"}
        text = json.dumps([manifest for manifest in manifests if manifest["kind"] not in different])
        return re.sub(r"my-service-(test|production|[a-z0-9]{10})\b", "", text)

    assert rest(test) == rest(production)


@pytest.mark.parametrize("name", ["true", "null", "yes", "on"])
def test_a_name_that_yaml_reads_otherwise_stays_a_name(built: Any, render: Any, name: str) -> None:
    answers = {**EVERYTHING, "package_name": name}
    manifests = built("test", **answers)
    assert only(manifests, "Deployment")["metadata"]["name"] == name
    assert [fault for rule in RULES for fault in rule(manifests, render(**answers))] == []
    for manifest in manifests:
        kubernetes_validate.validate(manifest, KUBERNETES[-1], strict=True)


def test_a_misspelt_field_is_found(built: Any) -> None:
    manifests = built("test", **EVERYTHING)
    put("Deployment", f"{SERVER}|readynessProbe", {})(manifests)
    with pytest.raises(kubernetes_validate.ValidationError, match="readynessProbe"):
        kubernetes_validate.validate(only(manifests, "Deployment"), KUBERNETES[-1], strict=True)


def test_prometheus_finds_the_metrics_by_one_line(kubectl: str, render: Any, tmp_path: Path) -> None:
    project = Path(shutil.copytree(render(**EVERYTHING), tmp_path / "project"))
    overlay = project / "deploy/overlays/production/kustomization.yaml"
    overlay.write_text(overlay.read_text().replace("# components:", "components:"))
    manifests = build(overlay.parent)
    monitor, service = only(manifests, "ServiceMonitor"), only(manifests, "Service")
    assert monitor["metadata"]["namespace"] == service["metadata"]["namespace"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    [endpoint] = monitor["spec"]["endpoints"]
    assert endpoint["path"] == "/metrics"
    assert endpoint["port"] in [port["name"] for port in service["spec"]["ports"]]
    # Workers have no Service.
    workers, pod = only(manifests, "worker's PodMonitor")["spec"], pods(manifests)["worker's Deployment"]
    assert (
        workers["selector"]["matchLabels"] == only(manifests, "worker's Deployment")["spec"]["selector"]["matchLabels"]
    )
    assert workers["podMetricsEndpoints"] == [endpoint]
    assert endpoint["port"] in [port["name"] for port in containers(pod)[0]["ports"]]


@pytest.fixture
def extended(kubectl: str, render: Any, tmp_path: Path) -> Callable[[str], list[Manifest]]:
    """Return `extended(component)`: the manifests of the production overlay with that component."""

    def build_with(component: str) -> list[Manifest]:
        project = Path(shutil.copytree(render(**EVERYTHING), tmp_path / component))
        overlay = project / "deploy/overlays/production/kustomization.yaml"
        line = "# components: [../../components/servicemonitor]"
        assert line in overlay.read_text()
        overlay.write_text(overlay.read_text().replace(line, f"components: [../../components/{component}]"))
        return build(overlay.parent)

    return build_with


def faults(manifests: list[Manifest], project: Path) -> list[str]:
    return [fault for rule in RULES for fault in rule(manifests, project)]


def test_routes_lead_to_the_service_but_not_to_its_metrics(extended: Any, render: Any) -> None:
    manifests = extended("ingress")
    [unpublished] = [each for each in manifests if each["metadata"]["name"] == "my-service-unpublished"]
    assert "selector" not in unpublished["spec"]
    manifests.remove(unpublished)
    assert faults(manifests, render(**EVERYTHING)) == []
    [rule] = only(manifests, "Ingress")["spec"]["rules"]
    assert {path["path"]: path["backend"]["service"] for path in rule["http"]["paths"]} == {
        "/": {"name": "my-service", "port": {"name": "http"}},
        "/metrics": {"name": "my-service-unpublished", "port": {"name": "http"}},
    }
    kubernetes_validate.validate(only(manifests, "Ingress"), KUBERNETES[-1], strict=True)

    manifests = extended("httproute")
    assert faults(manifests, render(**EVERYTHING)) == []
    every, metrics = only(manifests, "HTTPRoute")["spec"]["rules"]
    assert [rule["matches"][0]["path"]["value"] for rule in (every, metrics)] == ["/", "/metrics"]
    ports = [port["port"] for port in only(manifests, "Service")["spec"]["ports"]]
    assert [(backend["name"], [backend["port"]]) for backend in every["backendRefs"]] == [("my-service", ports)]
    assert metrics["filters"][0]["urlRewrite"]["path"]["replaceFullPath"] == "/unpublished"


def test_openshift_chooses_the_user_and_its_dns_is_reachable(extended: Any, render: Any) -> None:
    manifests = extended("openshift")
    for pod in pods(manifests).values():
        assert pod["spec"]["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        assert restricted(pod) == set()
    dns = only(manifests, "NetworkPolicy")["spec"]["egress"].pop()
    assert dns["ports"] == [{"port": 5353, "protocol": protocol} for protocol in ("UDP", "TCP")]
    assert faults(manifests, render(**EVERYTHING)) == []


def test_slow_balancers_get_more_time(extended: Any, render: Any) -> None:
    """The grace still covers delay and drain, which is one of the rules."""
    manifests = extended("balancer")
    assert faults(manifests, render(**EVERYTHING)) == []
    assert only(manifests, "ConfigMap")["data"]["SHUTDOWN_DELAY_SECONDS"] == "30"
    assert only(manifests, "Deployment")["spec"]["minReadySeconds"] == 15
    assert only(manifests, "HorizontalPodAutoscaler")["spec"]["behavior"]["scaleDown"]["policies"][0]["value"] == 1
    for manifest in manifests:
        kubernetes_validate.validate(manifest, KUBERNETES[-1], strict=True)


def test_the_cluster_finds_alerts_and_dashboard_by_their_labels(extended: Any) -> None:
    manifests = extended("alerts")
    rules = [each["metadata"] for each in manifests if each["kind"] == "PrometheusRule"]
    assert {each["name"] for each in rules} == {
        f"my-service-{part}" for part in ("service", "database", "migration", "cache", "jwt", "jobs")
    }
    assert {each["labels"]["release"] for each in rules} == {"kube-prometheus-stack"}
    assert "release" not in only(manifests, "Deployment")["metadata"]["labels"]
    [dashboard] = [each for each in extended("dashboard") if each["metadata"]["name"] == "my-service-dashboard"]
    assert dashboard["metadata"]["labels"] == {"grafana_dashboard": "1"}
    assert json.loads(dashboard["data"]["my-service.json"])["uid"] == "my-service"


def test_argo_cd_migrates_between_settings_and_deployments(extended: Any, render: Any) -> None:
    manifests = extended("argocd")
    assert faults(manifests, render(**EVERYTHING)) == []
    prefix = "argocd.argoproj.io/"
    waves = {
        kind_of(each): int(each["metadata"].get("annotations", {}).get(f"{prefix}sync-wave", 0)) for each in manifests
    }
    first = {"Namespace": -3, "ServiceAccount": -3, "ConfigMap": -3, "Job": -2}
    early = {"NetworkPolicy": -1, "worker's Deployment": -1}
    # The rest is one wave: in one before the Deployment's, volume and autoscaler would wait for it in vain.
    assert {kind: wave for kind, wave in waves.items() if wave} == {**first, **early}
    job = only(manifests, "Job")["metadata"]["annotations"]
    assert (job[f"{prefix}hook"], job[f"{prefix}hook-delete-policy"]) == ("Sync", "BeforeHookCreation")


def test_flux_migrates_before_it_applies_the_rest(built: Any, render: Any, tmp_path: Path) -> None:
    """As the page says; Flux adds the patches to the overlay's own kustomization.yaml."""
    project = render(**EVERYTHING)
    [block] = re.findall(r"(?s)`deploy/flux.yaml`:\n\n```yaml\n(.*?)```", (project / "docs/kubernetes.md").read_text())
    found = {each["metadata"]["name"]: each["spec"] for each in yaml.safe_load_all(block)}
    assert found["my-service"]["dependsOn"] == [{"name": "my-service-migrate"}]
    assert found["my-service-migrate"]["wait"]
    applied = {}
    for name, spec in found.items():
        overlay = Path(shutil.copytree(project, tmp_path / name)) / spec["path"] / "kustomization.yaml"
        overlay.write_text(yaml.safe_dump({**yaml.safe_load(overlay.read_text()), "patches": spec["patches"]}))
        applied[name] = build(overlay.parent)
    everything = built("production", **EVERYTHING)
    job = only(everything, "Job")
    assert applied["my-service"] == [each for each in everything if each != job]
    job["metadata"]["annotations"] = {"kustomize.toolkit.fluxcd.io/force": "enabled"}
    del job["spec"]["ttlSecondsAfterFinished"]
    needed = ["Namespace", "ServiceAccount", "ConfigMap", "Job"]
    assert applied["my-service-migrate"] == [each for each in everything if each["kind"] in needed]


# --- Pod Security "restricted" ----------------------------------------------------------------------------------------

VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}


def restricted(pod: Manifest) -> set[str]:
    """Name what of the standard's `restricted` profile a pod's spec does not keep (Kubernetes, Pod Security Standards)."""
    spec = pod["spec"]
    own = spec.get("securityContext", {})
    broken = {field for field in ("hostNetwork", "hostPID", "hostIPC") if spec.get(field)}
    for volume in spec.get("volumes", []):
        broken |= {"volume types"} if not set(volume) - {"name"} <= VOLUMES else set()
    broken |= {"sysctls"} if own.get("sysctls") else set()
    for container in containers(pod):
        context = container.get("securityContext", {})
        either = {**own, **context}
        capabilities = context.get("capabilities", {})
        faults = {
            "privileged": context.get("privileged"),
            "hostPort": any(port.get("hostPort") for port in container.get("ports", [])),
            "drop ALL": "ALL" not in capabilities.get("drop", []),
            "add": set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"},
            "allowPrivilegeEscalation": context.get("allowPrivilegeEscalation") is not False,
            "runAsNonRoot": either.get("runAsNonRoot") is not True,
            "runAsUser": either.get("runAsUser") == 0,
            "seccompProfile": either.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"),
            "procMount": context.get("procMount", "Default") != "Default",
            "seLinuxOptions": either.get("seLinuxOptions"),
            "appArmorProfile": either.get("appArmorProfile", {}).get("type") == "Unconfined",
            "windowsOptions": either.get("windowsOptions", {}).get("hostProcess"),
        }
        broken |= {fault for fault, is_so in faults.items() if is_so}
    return broken


@pytest.mark.parametrize("answers", [EVERYTHING, ONE_FILE], ids=["several pods", "one pod"])
def test_every_pod_is_restricted_read_only_and_has_no_token(built: Any, answers: dict[str, str]) -> None:
    for overlay in OVERLAYS:
        manifests = built(overlay, **answers)
        for pod in pods(manifests).values():
            assert restricted(pod) == set()
            assert pod["spec"]["automountServiceAccountToken"] is False
            assert pod["spec"]["securityContext"]["runAsUser"] == 10001
            for container in containers(pod):
                assert container["securityContext"]["readOnlyRootFilesystem"] is True
                assert "/tmp" in [mount["mountPath"] for mount in container["volumeMounts"]]
        assert only(manifests, "Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


CONTEXT = f"{SERVER}|securityContext"
UNSAFE = [
    ("hostNetwork", f"{POD}|hostNetwork", True),
    ("hostPID", f"{POD}|hostPID", True),
    ("hostIPC", f"{POD}|hostIPC", True),
    ("volume types", f"{POD}|volumes|0", {"name": "tmp", "hostPath": {"path": "/tmp"}}),
    ("sysctls", f"{POD}|securityContext|sysctls", [{"name": "kernel.msgmax", "value": "1"}]),
    ("privileged", f"{CONTEXT}|privileged", True),
    ("hostPort", f"{SERVER}|ports|0|hostPort", 80),
    ("drop ALL", f"{CONTEXT}|capabilities", {}),
    ("add", f"{CONTEXT}|capabilities|add", ["SYS_ADMIN"]),
    ("allowPrivilegeEscalation", f"{CONTEXT}|allowPrivilegeEscalation", ...),
    ("runAsNonRoot", f"{POD}|securityContext|runAsNonRoot", ...),
    ("runAsNonRoot", f"{CONTEXT}|runAsNonRoot", False),
    ("runAsUser", f"{CONTEXT}|runAsUser", 0),
    ("seccompProfile", f"{POD}|securityContext|seccompProfile", ...),
    ("seccompProfile", f"{CONTEXT}|seccompProfile", {"type": "Unconfined"}),
    ("procMount", f"{CONTEXT}|procMount", "Unmasked"),
    ("seLinuxOptions", f"{POD}|securityContext|seLinuxOptions", {"user": "system_u"}),
    ("appArmorProfile", f"{CONTEXT}|appArmorProfile", {"type": "Unconfined"}),
    ("windowsOptions", f"{CONTEXT}|windowsOptions", {"hostProcess": True}),
]


@pytest.mark.parametrize(("fault", "path", "value"), UNSAFE)
def test_each_rule_of_pod_security_finds_what_breaks_it(built: Any, fault: str, path: str, value: Any) -> None:
    manifests = built("production", **EVERYTHING)
    put("Deployment", path, value)(manifests)
    assert restricted(pods(manifests)["Deployment"]) == {fault}


# --- checkov ----------------------------------------------------------------------------------------------------------

ACCEPTED = {
    "CKV_K8S_11": "A limit of CPU throttles a pod beside idle cores; requests share a busy node fairly.",
    "CKV_K8S_15": "No tag is ever pushed twice, and a pod has to start while the registry is down.",
    "CKV_K8S_43": "`make deploy IMAGE=name@sha256:...` pins a digest; a file can only name a version.",
}


def test_checkov_finds_nothing_but_what_is_accepted(built: Any, tmp_path: Path) -> None:
    """Its own environment, since it pins nearly a hundred packages. Nothing is downloaded but the package."""
    sets = {"everything": EVERYTHING, "one-file": ONE_FILE, "nothing": ANSWERS[0]}
    for (name, answers), overlay in itertools.product(sets.items(), OVERLAYS):
        (tmp_path / f"{name}-{overlay}.yaml").write_text(yaml.safe_dump_all(built(overlay, **answers)))
    unsafe = built("test", **EVERYTHING)
    put("Deployment", f"{CONTEXT}|privileged", True)(unsafe)
    put("Deployment", f"{POD}|automountServiceAccountToken", True)(unsafe)
    (tmp_path / "unsafe.yaml").write_text(yaml.safe_dump_all(unsafe))
    checked = run(
        *("uv", "tool", "run", "--quiet", "checkov@3.3.30", "--framework", "kubernetes", "--skip-download"),
        *("--compact", "--quiet", "--output", "json", "--soft-fail", "--directory", tmp_path),
    )
    found: dict[str, set[str]] = {}
    for failed in json.loads(checked.stdout)["results"]["failed_checks"]:
        found.setdefault(Path(failed["file_path"]).name, set()).add(failed["check_id"])
    assert found.pop("unsafe.yaml") == {*ACCEPTED, "CKV_K8S_16", "CKV_K8S_38"}
    assert len(found) == 6
    assert set().union(*found.values()) == set(ACCEPTED)


# --- make deploy ------------------------------------------------------------------------------------------------------


@pytest.fixture
def cluster(kubectl: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[played.Cluster]:
    """What kubectl, the real one, finds: a server that keeps what it gets, and makes no pods."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    # Where kubectl keeps what it learnt of clusters.
    monkeypatch.setenv("KUBECACHEDIR", str(tmp_path / "cache"))
    with played.serve(tmp_path / "kubeconfig") as served:
        yield served


def make(project: Path, target: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return run("make", target, *(f"{name}={value}" for name, value in variables.items()), cwd=project, check=False)


def make_secret(project: Path, told: str) -> None:
    """Make a Secret by the commands that were told, as far as the server that is played understands them."""
    [namespace] = re.findall(r"kubectl apply --filename deploy/overlays/\w+/namespace.yaml", told)
    run(*namespace.split(), cwd=project)
    [command] = re.findall(r"kubectl create secret generic .*--from-env-file=FILE", told)
    (project / "FILE").write_text("DATABASE_URL=postgresql://db\nREDIS_URL=redis://cache\n")
    run("sh", "-c", f"{command} --dry-run=client --output=json | kubectl apply --filename -", cwd=project)
    (project / "FILE").unlink()


SECRET = {
    "kind": "Secret",
    "metadata": {"name": "my-service"},
    "data": dict.fromkeys(("DATABASE_URL", "REDIS_URL", "API_KEYS"), "eA=="),
}
SHARED = ["Namespace", "ServiceAccount", "ConfigMap", "PodDisruptionBudget", "HorizontalPodAutoscaler", "NetworkPolicy"]


def changed(cluster: played.Cluster) -> list[str]:
    """Return what was changed since the last call, but for what every environment has."""
    changes = [change for change in cluster.changes if change.split()[1] not in SHARED]
    cluster.changes.clear()
    return changes


def test_deploy_asks_for_the_secret_then_migrates_then_rolls_out(
    cluster: played.Cluster, render: Any, tmp_path: Path
) -> None:
    project = Path(shutil.copytree(render(**EVERYTHING), tmp_path / "project"))
    before = {name: (project / name).read_bytes() for name in files(project)}
    first, second = "registry.test:5000/orders:1.2.3", "registry.test:5000/orders:1.2.4"

    missing = make(project, "deploy", OVERLAY="test", IMAGE=first)
    assert missing.returncode != 0
    assert missing.stderr.startswith("there is no secret yet; with DATABASE_URL REDIS_URL in a file: kubectl apply ")
    assert cluster.changes == []
    make_secret(project, missing.stderr)
    cluster.changes.clear()

    done = make(project, "deploy", OVERLAY="test", IMAGE=first)
    assert done.returncode == 0, done.stderr
    created = ["Job my-service-migrate", "Deployment my-service-worker", "Service my-service", "Deployment my-service"]
    assert changed(cluster) == [f"create {each}" for each in created]
    waited = ["the migration", "deployment my-service-worker", "deployment my-service"]
    assert [line for line in done.stdout.splitlines() if line.endswith(": done")] == [
        f"{each}: done" for each in waited
    ]
    assert set(SHARED) <= kinds(cluster.manifests())

    # Once more: the migration alone is made anew.
    anew = ["delete Job my-service-migrate", "create Job my-service-migrate"]
    again = make(project, "deploy", OVERLAY="test", IMAGE=first)
    assert again.returncode == 0
    assert changed(cluster) == anew
    ahead = "the database is ahead of this image"
    assert ahead not in again.stderr
    # With quotes, as the chassis logs it.
    assert f'"{ahead}"' in (ROOT / "template/src/{{package_name}}/chassis/database/migrate.py").read_text()

    cluster.logged = f'{{"event":"{ahead}"}}\n'
    older = make(project, "deploy", OVERLAY="test", IMAGE=first)
    assert f"{ahead}: it has a migration that the image lacks, so none was applied\n" in older.stderr
    assert changed(cluster) == anew

    assert make(project, "deploy", OVERLAY="test", IMAGE=second).returncode == 0
    assert changed(cluster) == [*anew, "change Deployment my-service-worker", "change Deployment my-service"]
    images = [container["image"] for pod in pods(cluster.manifests()).values() for container in containers(pod)]
    assert images == [second] * 3
    assert only(cluster.manifests(), "ConfigMap")["data"]["APP_ENV"] == "test"
    assert {name: (project / name).read_bytes() for name in files(project)} == before


def test_deploy_needs_neither_secret_nor_migration_where_nothing_does(cluster: played.Cluster, render: Any) -> None:
    done = make(render(**ANSWERS[0]), "deploy", OVERLAY="production", IMAGE="orders:1")
    assert done.returncode == 0, done.stderr
    assert changed(cluster) == ["create Service my-service", "create Deployment my-service"]


def test_a_deployment_that_is_stopped_deletes_its_temporary_files(
    cluster: played.Cluster, render: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.states = {"my-service": {"phase": "Running"}}
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))

    def is_waiting() -> None:
        assert "create Deployment my-service" in cluster.changes

    command = ["make", "deploy", "OVERLAY=test", "IMAGE=orders:1"]
    deploying = subprocess.Popen(command, cwd=render(**ANSWERS[0]), start_new_session=True)
    try:
        eventually(is_waiting)
        assert list(folder.iterdir())
    finally:
        # To all processes, as Ctrl-C does.
        os.killpg(deploying.pid, signal.SIGTERM)
    assert deploying.wait(10) != 0
    assert list(folder.iterdir()) == []


def test_a_failed_migration_leaves_service_and_worker_as_they_were(cluster: played.Cluster, render: Any) -> None:
    cluster.objects["secrets", "my-service-test", "my-service"] = SECRET
    cluster.migrations = "Failed"
    failed = make(render(**EVERYTHING), "deploy", OVERLAY="test", IMAGE="orders:1")
    assert failed.returncode != 0
    log = "[pod/my-service-migrate-1/migrate] the log of my-service-migrate-1\n"
    assert f"{log}the migration failed, so the service was left as it is: " in failed.stderr
    # What its pod needs, and nothing else.
    created = [change.split()[1] for change in cluster.changes]
    assert sorted(created) == ["ConfigMap", "Job", "Namespace", "ServiceAccount"]


def hasty(project: Path, folder: Path) -> Path:
    """Return a copy of the project whose `make deploy` gives a registry no grace, and does not sleep."""
    copied = Path(shutil.copytree(project, folder))
    script = copied / "deploy/rollout.py"
    hurried = re.sub(r"(?m)^(GRACE|POLL)_SECONDS = \d+$", r"\1_SECONDS = 0", script.read_text())
    assert hurried.count("SECONDS = 0") == 2
    script.write_text(hurried)
    return copied


def test_a_stuck_rollout_shows_the_log_of_the_new_pods_and_the_way_back(
    cluster: played.Cluster, render: Any, tmp_path: Path
) -> None:
    """A worker's leaves the service as it was; the log is not that of a pod that still runs."""
    cluster.objects["secrets", "my-service-test", "my-service"] = SECRET
    project = hasty(render(**EVERYTHING), tmp_path / "project")
    assert make(project, "deploy", OVERLAY="test", IMAGE="orders:1").returncode == 0
    for name, image in (("my-service-worker", "orders:2"), ("my-service", "orders:3")):
        cluster.states = {name: pending("ErrImagePull")}
        cluster.changes.clear()
        failed = make(project, "deploy", OVERLAY="test", IMAGE=image)
        assert failed.returncode != 0
        assert "no such thing; to go back to orders:1: make rollback OVERLAY=test" in failed.stderr
        assert set(re.findall("the log of (.*)", failed.stderr)) == {f"{name}-2"}
        assert changed(cluster)[-1] == f"change Deployment {name}"


# --- What a failure says ----------------------------------------------------------------------------------------------

HERE = "my-service-test"


class Clock:
    """Time for the module that waits: it passes only while that sleeps, in steps of ten seconds."""

    def __init__(self) -> None:
        self.now, self.step = 0, 10
        self.then: dict[int, Callable[[], object]] = {}

    def monotonic(self) -> float:
        return self.now

    def sleep(self, _: float) -> None:
        self.now += self.step
        for due in [due for due in self.then if due <= self.now]:
            self.then.pop(due)()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def rollout(cluster: played.Cluster, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module that `make deploy` waits with."""
    # A render would copy what Python compiles beside it.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    spec = importlib.util.spec_from_file_location("rollout", ROOT / "template/deploy/rollout.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    vars(module)["time"] = clock
    cluster.objects["namespaces", "", HERE] = {"kind": "Namespace", "metadata": {"name": HERE}}
    return module


def start(cluster: played.Cluster, owner: str, image: str = "orders:1", **spec: Any) -> None:
    """Create a Deployment or a Job as its manifest would, or change its image."""
    component = {"my-service-migrate": "migration", "my-service-worker": "worker"}.get(owner, "server")
    labels = {NAME: "my-service", COMPONENT: component}
    pod = {"containers": [{"name": component, "image": image}], **spec}
    resource, kind = ("jobs", "Job") if component == "migration" else ("deployments", "Deployment")
    given = {
        "kind": kind,
        "apiVersion": "batch/v1" if kind == "Job" else "apps/v1",
        "metadata": {"name": owner, "labels": labels},
        "spec": {"template": {"metadata": {"labels": labels}, "spec": pod}},
    }
    cluster.put("create", (resource, HERE, owner), given, dry=False)


def wait(rollout: Any, owner: str, before: str = "") -> str:
    service = rollout.Service(HERE, "my-service")
    if owner == "my-service-migrate":
        return str(service.wait("the migration", lambda: service.migration(owner)))
    component = "worker" if owner == "my-service-worker" else "server"
    return str(service.wait(f"deployment {owner}", lambda: service.rollout(component, owner), before))


def pending(reason: str, message: str = "no such thing", name: str = "server") -> Manifest:
    waiting = {
        "name": name,
        "ready": False,
        "restartCount": 0,
        "state": {"waiting": {"reason": reason, "message": message}},
    }
    return {"phase": "Pending", "containerStatuses": [waiting]}


@pytest.mark.parametrize(
    ("owner", "reason"),
    [
        ("my-service", "ImagePullBackOff"),
        ("my-service-worker", "CreateContainerConfigError"),
        ("my-service-migrate", "ImagePullBackOff"),
    ],
)
def test_a_container_that_cannot_start_ends_the_wait_with_its_reason(
    cluster: played.Cluster, rollout: Any, clock: Clock, capfd: Any, owner: str, reason: str
) -> None:
    """Within 30 seconds, with the events."""
    clock.step = 8
    cluster.states[owner] = pending(reason, "orders:2 is\nunknown")
    start(cluster, owner)
    cluster.warn(HERE, "Pod", f"{owner}-1", "Failed", "Failed to pull orders:2")
    cluster.warn(HERE, "Pod", "another-1", "Failed", "what is this to us?")
    assert wait(rollout, owner) == f"{reason}: {owner}-1, container server: orders:2 is unknown"
    assert 10 < clock.now < 30
    told = capfd.readouterr()
    assert f"{owner}-1: Failed: Failed to pull orders:2\n" in told.err
    assert "what is this to us?" not in told.err
    assert f"; {reason}: " in told.out


def test_reasons_that_no_waiting_changes_are_hopeless(rollout: Any) -> None:
    pod = {"metadata": {"name": "my-service-1"}}
    for reason in (
        "ErrImagePull",
        "InvalidImageName",
        "CreateContainerError",
        "ErrImageNeverPull",
        "RunContainerError",
    ):
        [(why, text)] = rollout.problems_of({**pod, "status": pending(reason)}, [])
        assert why == reason
        assert text == "my-service-1, container server: no such thing"
    assert rollout.problems_of({**pod, "status": pending("ContainerCreating")}, []) == []


def test_a_registry_that_responds_again_ends_no_wait(cluster: played.Cluster, rollout: Any, clock: Clock) -> None:
    cluster.states["my-service"] = pending("ErrImagePull")
    start(cluster, "my-service")
    clock.then[10] = lambda: (cluster.states.clear(), start(cluster, "my-service", "orders:2"))
    assert wait(rollout, "my-service") == ""


def test_new_pods_that_replace_old_ones_one_by_one_are_progress(
    cluster: played.Cluster, rollout: Any, clock: Clock, capfd: Any
) -> None:
    """Meanwhile as many pods are ready as before."""
    start(cluster, "my-service")
    cluster.states["my-service"] = {"phase": "Running"}
    start(cluster, "my-service", "orders:2")
    deployment = cluster.objects["deployments", HERE, "my-service"]
    deployment["spec"]["replicas"] = 3
    deployment["status"].update(replicas=4, availableReplicas=3, updatedReplicas=1)
    [newest] = [
        found
        for key, found in cluster.objects.items()
        if key[0] == "replicasets" and rollout.revision(found) == deployment["metadata"]["generation"]
    ]
    clock.step = 100
    clock.then = {
        100: lambda: newest.update(status={"availableReplicas": 1}),
        200: lambda: newest.update(status={"availableReplicas": 2}),
        300: lambda: deployment["status"].update(replicas=3, updatedReplicas=3),
    }
    assert wait(rollout, "my-service") == ""
    told = [f"{ready} of 3 ready after {ready}00 s" for ready in (1, 2)]
    assert capfd.readouterr().out.splitlines() == [
        *(f"deployment my-service: {line}" for line in told),
        "deployment my-service: done",
    ]


UNSCHEDULABLE = {
    "type": "PodScheduled",
    "status": "False",
    "reason": "Unschedulable",
    "message": "0/3 nodes: no memory",
}


@pytest.mark.parametrize("owner", ["my-service", "my-service-migrate"])
def test_a_pod_without_a_node_is_reported_while_one_may_still_come(
    cluster: played.Cluster, rollout: Any, clock: Clock, capfd: Any, owner: str
) -> None:
    clock.step = 30
    cluster.states[owner] = {"phase": "Pending", "conditions": [UNSCHEDULABLE]}
    start(cluster, owner)
    reason = f"Unschedulable: {owner}-1: 0/3 nodes: no memory"
    assert wait(rollout, owner) == f"no progress for 120 s; {reason}"
    progress = "the migration: Pending" if owner == "my-service-migrate" else "deployment my-service: 0 of 1 ready"
    assert capfd.readouterr().out.splitlines() == [f"{progress} after {now} s; {reason}" for now in (30, 60, 90)]


def test_a_volume_that_does_not_come_is_reported_with_its_claim(
    cluster: played.Cluster, rollout: Any, clock: Clock, capfd: Any
) -> None:
    clock.step = 60
    cluster.states["my-service"] = pending("ContainerCreating", "")
    start(cluster, "my-service", volumes=[{"name": "data", "persistentVolumeClaim": {"claimName": "orders-data"}}])
    cluster.warn(HERE, "PersistentVolumeClaim", "orders-data", "ProvisioningFailed", "no such storage class")
    cluster.warn(HERE, "Pod", "my-service-1", "FailedMount", "the volume is not attached")
    assert wait(rollout, "my-service").endswith("FailedMount: my-service-1: the volume is not attached")
    assert "orders-data: ProvisioningFailed: no such storage class\n" in capfd.readouterr().err


@pytest.mark.parametrize("owner", ["my-service", "my-service-migrate"])
def test_a_quota_that_allows_no_pod_ends_the_wait(cluster: played.Cluster, rollout: Any, owner: str) -> None:
    cluster.states[owner] = None
    start(cluster, owner)
    [name] = [name for resource, _, name in cluster.objects if resource in ("replicasets", "jobs")]
    kind = "Job" if name == owner else "ReplicaSet"
    cluster.warn(HERE, kind, name, "FailedCreate", "exceeded\x1b\nquota: small")
    cluster.warn(HERE, kind, name, "FailedCreate", "the Job of an earlier deployment", uid="earlier")
    assert wait(rollout, owner) == "FailedCreate: exceeded quota: small"


def test_a_quota_that_allows_some_pods_ends_the_wait(cluster: played.Cluster, rollout: Any) -> None:
    cluster.states["my-service"] = {"phase": "Running"}
    start(cluster, "my-service")
    refused = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota: small"}
    cluster.objects["deployments", HERE, "my-service"]["status"]["conditions"] = [refused]
    assert wait(rollout, "my-service") == "FailedCreate: exceeded quota: small"


def test_a_crash_loop_ends_the_wait_on_the_third_restart(
    cluster: played.Cluster, rollout: Any, clock: Clock, capfd: Any
) -> None:
    """The logs are those of the new pod, each container's: not of one that still runs, nor of one that never did."""
    start(cluster, "my-service")
    cluster.states["my-service"] = pending("ErrImagePull")
    start(cluster, "my-service", "orders:2x")
    ended = {"terminated": {"reason": "OOMKilled", "exitCode": 137}}
    looping = {"name": "migrate", "ready": False, "restartCount": 0, "lastState": ended}
    waiting = {"name": "server", "ready": False, "restartCount": 0}
    status = {"phase": "Pending", "initContainerStatuses": [looping], "containerStatuses": [waiting]}
    cluster.states["my-service"] = status
    start(cluster, "my-service", "orders:2", initContainers=[{"name": "migrate", "image": "orders:2"}])
    clock.then = {10: lambda: looping.update(restartCount=2), 20: lambda: looping.update(restartCount=3)}
    reason = "CrashLoop: my-service-3, container migrate ended 3 times: OOMKilled, exit status 137"
    assert wait(rollout, "my-service") == reason
    assert clock.now == 20
    log = re.findall(r"\[pod/(\S+)\] the log", capfd.readouterr().err)
    assert sorted(log) == ["my-service-3/migrate", "my-service-3/server"]


@pytest.mark.parametrize(
    "state",
    [
        {"phase": "Running", "containerStatuses": [{"name": "server", "ready": False, "restartCount": 5}]},
        None,
    ],
    ids=["the database is there again", "the quota was raised"],
)
def test_a_second_deployment_waits_for_what_may_heal(
    cluster: played.Cluster, rollout: Any, clock: Clock, state: Manifest | None
) -> None:
    """The image is the same, so Kubernetes changes nothing."""
    cluster.states["my-service"] = state
    start(cluster, "my-service")
    before = rollout.Service(HERE, "my-service").record("server")
    cluster.warn(HERE, "ReplicaSet", before, "FailedCreate", "exceeded quota: small")
    clock.step = 20
    clock.then[60] = lambda: (cluster.states.clear(), start(cluster, "my-service", "orders:2"))
    assert wait(rollout, "my-service", before) == ""


def test_a_cluster_that_does_not_respond_is_reported_and_waited_for(
    cluster: played.Cluster, rollout: Any, clock: Clock, capfd: Any
) -> None:
    start(cluster, "my-service")
    cluster.forbidden = {"get deployments"}
    clock.then[20] = cluster.forbidden.clear
    assert wait(rollout, "my-service") == ""
    refused = "kubectl: Error from server (Forbidden): "
    assert f"deployment my-service: unknown after 10 s; {refused}" in capfd.readouterr().out
    cluster.forbidden = {"get deployments"}
    assert wait(rollout, "my-service").startswith(f"no progress for 120 s; {refused}")


def complete(cluster: played.Cluster) -> None:
    """End the migration."""
    done = {"conditions": [{"type": "Complete", "status": "True"}]}
    cluster.objects["jobs", HERE, "my-service-migrate"]["status"] = done


def test_an_evicted_migration_is_reported_and_goes_on(
    cluster: played.Cluster, rollout: Any, clock: Clock, capfd: Any, built: Any
) -> None:
    [rule] = only(built("test", **EVERYTHING), "Job")["spec"]["podFailurePolicy"]["rules"]
    assert rule == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    cluster.states["my-service-migrate"] = {"phase": "Failed", "reason": "Evicted", "message": "The node had no disk."}
    start(cluster, "my-service-migrate")
    clock.then[20] = lambda: complete(cluster)
    assert wait(rollout, "my-service-migrate") == ""
    assert "; Evicted: my-service-migrate-1: The node had no disk." in capfd.readouterr().out


def test_a_migration_that_runs_may_take_long(cluster: played.Cluster, rollout: Any, clock: Clock) -> None:
    cluster.states["my-service-migrate"] = {"phase": "Running"}
    start(cluster, "my-service-migrate")
    clock.step = 100
    clock.then[300] = lambda: complete(cluster)
    assert wait(rollout, "my-service-migrate") == ""


# --- Before, and back -------------------------------------------------------------------------------------------------


def test_deploy_names_missing_keys_of_the_secret_before_it_applies_anything(
    cluster: played.Cluster, render: Any
) -> None:
    cluster.objects["secrets", "my-service-test", "my-service"] = {**SECRET, "data": {"DATABASE_URL": "eA=="}}
    failed = make(render(**EVERYTHING), "deploy", OVERLAY="test", IMAGE="orders:1")
    assert failed.returncode != 0
    assert failed.stderr.startswith("the secret my-service lacks REDIS_URL; with all that it contains in a file: ")
    assert cluster.changes == []


def test_deploy_applies_what_makes_the_secret_before_the_migration(
    cluster: played.Cluster, rollout: Any, extended: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifests = extended("external-secrets")
    rendered = tmp_path / "rendered.yaml"
    rendered.write_text("---\n".join(yaml.safe_dump(each) for each in manifests))
    applied: list[list[str]] = []
    monkeypatch.setattr(rollout, "apply", lambda documents, _="": applied.append(list(map(rollout.kind_of, documents))))
    cluster.states["my-service-migrate"] = None
    with pytest.raises(SystemExit, match="there is no Job|was deleted"):
        rollout.deploy(rollout.Service(HERE, "my-service"), str(rendered), "production", "DATABASE_URL")
    assert sorted(applied[0]) == ["ConfigMap", "ExternalSecret", "Namespace", "ServiceAccount"]
    assert applied[1:] == [["Job"]]


def test_deploy_refuses_a_cluster_that_is_too_old(cluster: played.Cluster, render: Any) -> None:
    cluster.minor = "26+"
    for target in ("deploy", "deploy-diff", "rollback"):
        failed = make(render(**ANSWERS[0]), target, OVERLAY="test", IMAGE="orders:1")
        assert failed.returncode != 0
        assert failed.stderr.startswith("the cluster has Kubernetes 1.26, and the manifests need 1.27 or newer\n")
    cluster.minor = "27"
    assert make(render(**ANSWERS[0]), "deploy-diff", OVERLAY="test", IMAGE="orders:1").returncode == 0


def test_deploy_refuses_an_overlay_without_a_namespace(cluster: played.Cluster, render: Any) -> None:
    refused = make(render(**ANSWERS[0]), "deploy", OVERLAY="../base", IMAGE="orders:1")
    assert refused.returncode != 0
    assert "has no namespace, such as: namespace: my-service-test\n" in refused.stderr
    assert cluster.changes == []


# Kustomize puts it before the service's own container.
SIDECAR = """
patches:
  - patch: |-
      apiVersion: apps/v1
      kind: Deployment
      metadata: { name: my-service }
      spec: { template: { spec: { containers: [{ name: proxy, image: "proxy:1" }] } } }
"""


def test_rollback_returns_to_the_image_before_by_name_and_does_not_migrate(
    cluster: played.Cluster, render: Any, tmp_path: Path
) -> None:
    project = hasty(render(**EVERYTHING), tmp_path / "project")
    cluster.objects["secrets", "my-service-test", "my-service"] = SECRET
    first, second = "registry.test:5000/orders:1", "orders@sha256:" + "b" * 64
    with (project / "deploy/overlays/test/kustomization.yaml").open("a") as overlay:
        overlay.write(SIDECAR)
    none = make(project, "rollback", OVERLAY="test")
    assert none.returncode != 0
    assert none.stderr.startswith("no other image is known to have served; choose one from ")
    assert ": make deploy OVERLAY=test IMAGE=...\n" in none.stderr
    for image in (first, second):
        assert make(project, "deploy", OVERLAY="test", IMAGE=image).returncode == 0
    cluster.changes.clear()

    back = make(project, "rollback", OVERLAY="test")
    assert back.returncode == 0, back.stderr
    assert f"namespace my-service-test goes back to {first}; its database is not migrated back\n" in back.stdout
    assert changed(cluster) == ["change Deployment my-service-worker", "change Deployment my-service"]
    images = {
        kind: [each["image"] for each in pod["spec"]["containers"]]
        for kind, pod in pods(cluster.manifests()).items()
        if kind != "Job"
    }
    assert images == {"Deployment": ["proxy:1", first], "worker's Deployment": [first]}

    # Workers that don't start: the service still has the image to go back to.
    cluster.states = {"my-service-worker": pending("ErrImagePull")}
    assert "to go back to registry.test:5000/orders:1: make rollback OVERLAY=test" in (
        make(project, "deploy", OVERLAY="test", IMAGE="orders:3").stderr
    )
    cluster.states.clear()
    cluster.changes.clear()
    again = make(project, "rollback", OVERLAY="test")
    assert again.returncode == 0, again.stderr
    assert f"goes back to {first};" in again.stdout
    assert changed(cluster) == ["change Deployment my-service-worker"]
    assert make(project, "deploy-diff", OVERLAY="test", IMAGE="orders:4").returncode == 0

    # What CI needs, deploy/role.yaml allows, and hardly more.
    [role] = [each for each in yaml.safe_load_all((project / "deploy/role.yaml").read_text()) if each["kind"] == "Role"]
    allowed = {
        (rule["apiGroups"][0], resource, verb)
        for rule in role["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    # The namespace is made before, with the Role.
    requests = {each for each in cluster.requests if each[1]} - {("", "namespaces", "create")}
    assert requests - allowed == set()
    # With SQLite there are volumes.
    assert {each[:2] for each in allowed} - {each[:2] for each in requests} == {("", "persistentvolumeclaims")}


def test_the_first_deployment_waits_for_the_autoscalers_minimum(
    cluster: played.Cluster, rollout: Any, clock: Clock, built: Any
) -> None:
    least = only(built("production", **EVERYTHING), "HorizontalPodAutoscaler")
    cluster.objects["horizontalpodautoscalers", HERE, "my-service"] = least
    start(cluster, "my-service")
    assert wait(rollout, "my-service") == ""
    assert cluster.objects["deployments", HERE, "my-service"]["status"]["readyReplicas"] == 3
    assert clock.now == 20


def test_an_image_served_once_all_pods_are_its_own(cluster: played.Cluster, rollout: Any) -> None:
    service = rollout.Service(HERE, "my-service")
    start(cluster, "my-service")
    cluster.states["my-service"] = {"phase": "Running"}
    start(cluster, "my-service", "orders:2")
    before, newest = (each for key, each in cluster.objects.items() if key[0] == "replicasets")
    newest["status"] = {"replicas": 2, "availableReplicas": 1}
    service.record("server")
    assert rollout.images(service) == ("orders:2", [])
    before["status"] = {"replicas": 0}
    service.record("server")
    assert rollout.images(service) == ("orders:2", ["orders:2"])


def test_settings_that_no_replicaset_names_are_deleted(cluster: played.Cluster, rollout: Any, capfd: Any) -> None:
    names = [f"my-service-{each * 10}" for each in "bcd"] + ["my-service-settings", "my-service"]
    for name in names:
        cluster.objects["configmaps", HERE, name] = {
            "kind": "ConfigMap",
            "apiVersion": "v1",
            "metadata": {"name": name, "namespace": HERE},
        }
    source = {"configMapRef": {"name": names[1]}}
    start(cluster, "my-service", containers=[{"name": "server", "image": "orders:1", "envFrom": [source]}])
    start(cluster, "my-service", "orders:2")
    current = "name: " + names[2]
    service = rollout.Service(HERE, "my-service")

    # What CI may not do ends no deployment, and is reported once, in a line each.
    cluster.forbidden = {"delete configmaps", "patch replicasets"}
    newest = service.record("server")
    assert newest == service.record("server") == service.replica_sets("server")[0]["metadata"]["uid"]
    rollout.prune(service, [current])
    served, settings = capfd.readouterr().err.splitlines()
    assert served.startswith("`make rollback` may not find the image that serves now: Error from server (Forbidden): ")
    assert settings.startswith("the ConfigMaps of earlier settings were not deleted: Error from server (Forbidden): ")

    cluster.forbidden.clear()
    rollout.prune(service, [current])
    assert [name for name in names if ("configmaps", HERE, name) not in cluster.objects] == names[:1]


@pytest.mark.parametrize(
    ("answers", "image", "deployed"),
    [
        (ANSWERS[0], "orders:1.2", "orders:1.2"),
        (ONE_FILE, "registry.test:5000/orders:1e3", "registry.test:5000/orders:1e3"),
        (ONE_FILE, "orders@sha256:" + "a" * 64, "orders@sha256:" + "a" * 64),
        (ANSWERS[0], "localhost:5000/a/b:1@sha256:" + "a" * 64, "localhost:5000/a/b@sha256:" + "a" * 64),
    ],
)
def test_deploy_takes_any_image(
    cluster: played.Cluster, render: Any, answers: dict[str, str], image: str, deployed: str
) -> None:
    cluster.objects["secrets", "my-service-production", "my-service"] = SECRET
    done = make(render(**answers), "deploy", OVERLAY="production", IMAGE=image)
    assert done.returncode == 0, done.stderr
    images = [container["image"] for pod in pods(cluster.manifests()).values() for container in containers(pod)]
    # With SQLite the migration is a container of the same pod.
    assert images == [deployed] * (2 if answers == ONE_FILE else 1)


def test_diff_shows_what_would_change_and_changes_nothing(cluster: played.Cluster, render: Any) -> None:
    project = render(deploy="kubernetes", database="postgresql")
    migrates = "before the rollout, the Job my-service-migrate migrates the database with orders:"
    new = make(project, "deploy-diff", OVERLAY="test", IMAGE="orders:1")
    assert new.returncode == 0
    assert "\n+kind: Deployment\n" in new.stdout
    assert new.stdout.endswith(f"\nthere is no namespace my-service-test yet: everything above is new\n{migrates}1\n")
    cluster.objects["secrets", "my-service-test", "my-service"] = SECRET
    assert make(project, "deploy", OVERLAY="test", IMAGE="orders:1").returncode == 0
    cluster.changes.clear()
    same = make(project, "deploy-diff", OVERLAY="test", IMAGE="orders:1")
    assert (same.returncode, same.stdout) == (0, f"nothing would change\n{migrates}1\n"), same.stderr
    # The Job is left out: a cluster refuses to change it, and `make deploy` makes a new one.
    other = make(project, "deploy-diff", OVERLAY="test", IMAGE="orders:2")
    assert other.returncode == 0, other.stderr
    assert re.search(r"(?m)^-.* image: orders:1$", other.stdout)
    assert re.search(r"(?m)^\+.* image: orders:2$", other.stdout)
    assert cluster.changes == []
    # With a session that expired, for example.
    cluster.forbidden = {"get namespaces"}
    refused = make(project, "deploy-diff", OVERLAY="test", IMAGE="orders:2")
    assert (refused.returncode != 0, refused.stdout) == (True, "")
    assert "kubectl can't read the namespace my-service-test, so nothing is compared\n" in refused.stderr


@pytest.mark.parametrize("target", ["deploy", "deploy-diff"])
@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({}, "which overlay? for example: make TARGET OVERLAY=test IMAGE=ghcr.io/example/my-service:0.1.0"),
        ({"OVERLAY": "staging", "IMAGE": "orders:1"}, "there is no overlay staging: OVERLAY is production or test"),
        ({"OVERLAY": "..", "IMAGE": "orders:1"}, "there is no overlay ..: OVERLAY is production or test"),
        ({"OVERLAY": "test"}, "which image? for example: make TARGET OVERLAY=test IMAGE="),
        ({"OVERLAY": "test", "IMAGE": "orders 1:2"}, "which image? for example: "),
        ({"OVERLAY": "test", "IMAGE": "localhost:5000/orders"}, "IMAGE needs a tag or a digest, for example "),
        ({"OVERLAY": "test", "IMAGE": "orders:1"}, "kubectl reaches no cluster: choose one with "),
    ],
)
def test_a_bad_call_is_told_in_one_line(
    kubectl: str, render: Any, monkeypatch: pytest.MonkeyPatch, target: str, variables: dict[str, str], line: str
) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nowhere/kubeconfig")
    failed = make(render(**EVERYTHING), target, **variables)
    assert failed.returncode != 0
    assert failed.stdout == ""
    assert failed.stderr.splitlines()[0].startswith(line.replace("TARGET", target))
    assert all(told.startswith("make") for told in failed.stderr.splitlines()[1:])


def test_a_missing_tool_is_reported_in_one_line(kubectl: str, render: Any, tmp_path: Path) -> None:
    for name in ("sh", "make", "sed", "git", "tail", "tr"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))

    def told() -> str:
        called = ["make", "deploy", "OVERLAY=test", "IMAGE=orders:1"]
        environment = {"PATH": str(tmp_path), "KUBECONFIG": "/nowhere/kubeconfig"}
        failed = run(*called, cwd=render(**EVERYTHING), env=environment, check=False)
        assert failed.returncode != 0
        return failed.stderr.splitlines()[0]

    assert told().startswith("kubectl is not installed: see ")
    (tmp_path / "kubectl").symlink_to(kubectl)
    python = tmp_path / "python3"
    assert told().startswith("there is no python3 of version 3.9 or newer: see ")
    # An older one fails the check like this.
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    assert told().startswith("there is no python3 of version 3.9 or newer: see ")
    python.unlink()
    python.symlink_to(sys.executable)
    assert told().startswith("kubectl reaches no cluster: ")


# A list that owners add to ends in a comment that is no deeper than its items.
YAML_RULES = """
extends: default
rules:
  document-start: disable
  comments-indentation: disable
  line-length: {max: 110}
  braces: {max-spaces-inside: 1}
"""


def test_its_files_pass_their_linters(render: Any) -> None:
    for answers in (EVERYTHING, ONE_FILE):
        folder = render(**answers) / "deploy"
        run("shellcheck", folder / "deploy.sh")
        run("yamllint", "--strict", "--config-data", YAML_RULES, folder)


def test_the_image_reads_a_secret_as_kubernetes_mounts_it(image: str, tmp_path: Path) -> None:
    """Under what the manifests allow a pod: links to a folder of files, which a new version of the Secret replaces."""
    folder = tmp_path / "secrets"
    version = folder / "..2026_11_24_06_35_00.1234567890"
    version.mkdir(parents=True)
    (version / "LOG_LEVEL").write_text("error\n")
    (folder / "..data").symlink_to(version.name)
    (folder / "LOG_LEVEL").symlink_to("..data/LOG_LEVEL")
    for path in (tmp_path, folder, version):
        path.chmod(0o755)
    pod = ["--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--user=10001:10001"]
    shown = "from nasty_service.chassis import Settings, load; print(load(Settings).log_level)"
    read = run("docker", "run", "--rm", *pod, f"--volume={folder}:/run/secrets:ro", image, "python", "-c", shown)
    assert read.stdout == "error\n"


# --- A real cluster ---------------------------------------------------------------------------------------------------


@contextmanager
def load(url: str, clients: int) -> Iterator[list[str]]:
    """Send requests all the time, and return the statuses and errors so far."""
    told: list[str] = []
    ended = threading.Event()

    def ask() -> None:
        with httpx2.Client(timeout=10) as client:
            while not ended.wait(0.01):
                try:
                    # A new connection each: the Service chooses a pod by connection.
                    told.append(str(client.get(url, headers={"Connection": "close"}).status_code))
                except httpx2.TransportError as error:
                    told.append(repr(error))

    with ThreadPoolExecutor(clients) as pool:
        asking = [pool.submit(ask) for _ in range(clients)]
        try:
            yield told
        finally:
            ended.set()
    for each in asking:
        each.result()


REAL = pytest.mark.skipif(
    "DEPLOY_IMAGES" not in os.environ, reason="no cluster: KUBECONFIG, and DEPLOY_IMAGES='first second'"
)


@pytest.mark.parametrize("where", ["stand-in", pytest.param("real", marks=REAL)])
def test_no_request_fails_whatever_goes_wrong_in_a_deployment(
    where: str, request: pytest.FixtureRequest, render: Any, kubectl: str, tmp_path: Path
) -> None:
    """The stand-in tests the steps themselves; a real cluster, such as kind, is opt-in.

    That pulls, or already has, the two images under these names, built from a render with deploy=kubernetes.
    """
    cluster: played.Cluster | None = request.getfixturevalue("cluster") if where == "stand-in" else None
    first, second = ["orders:1", "orders:2"] if cluster else os.environ["DEPLOY_IMAGES"].split()
    project = (hasty if cluster else shutil.copytree)(render(deploy="kubernetes"), tmp_path / "project")
    migrating = render(deploy="kubernetes", database="postgresql")
    namespace, port = "my-service-production", free_port()
    api = f"http://127.0.0.1:{port}/api/v1/namespaces/{namespace}"
    overlay = project / "deploy/overlays/production/kustomization.yaml"
    settings = overlay.read_text()
    answers: list[str] = []
    failures: dict[str, list[str]] = {}
    counted = 0

    def step(name: str, target: str, image: str = "", folder: Path = project, state: Manifest | None = None) -> str:
        """Call `make`; return what it printed if it failed. Keep the requests that failed since the last step."""
        nonlocal counted
        if cluster:
            cluster.states = {"my-service": state} if state else {}
        done = make(folder, target, OVERLAY="production", **({"IMAGE": image} if image else {}))
        failures[name] = [answer for answer in answers[counted:] if answer != "200"]
        assert name == "start" or len(answers) > counted
        counted = len(answers)
        return "" if done.returncode == 0 else done.stderr

    def evict(pod: str) -> None:
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": namespace}}
        # 429 while the disruption budget has not learnt that the pod before was replaced.
        assert httpx2.post(f"{api}/pods/{pod}/eviction", json=eviction).status_code in (201, 404)

    def servers() -> list[str]:
        chosen = ["--namespace", namespace, f"--selector={COMPONENT}=server", "--output=json"]
        found = [pod["metadata"] for pod in json.loads(run("kubectl", "get", "pods", *chosen).stdout)["items"]]
        return [each["name"] for each in found if "deletionTimestamp" not in each]

    proxy = None
    try:
        assert step("start", "deploy", first) == ""
        # Through the API server: it reaches the Service from any machine that kubectl works on.
        proxy = subprocess.Popen([kubectl, "proxy", f"--port={port}"], stdout=subprocess.DEVNULL)
        url = f"{api}/services/my-service:http/proxy/health/live"
        get(url)
        with load(url, 1 if cluster else 8) as answers:
            assert step("rollout", "deploy", second) == ""

            mistyped = step("bad image", "deploy", f"{second}x", state=pending("ErrImagePull"))
            assert re.search(r"the new pods don't serve: (ErrImagePull|ImagePullBackOff): ", mistyped)
            assert f"; to go back to {second}: make rollback OVERLAY=production\n" in mistyped

            overlay.write_text(settings.replace("LOG_LEVEL=info", "LOG_LEVEL=loud"))
            looping = pending("CrashLoopBackOff")
            told = step("bad setting", "deploy", second, state=looping)
            assert "the new pods don't serve: CrashLoop: " in told
            assert f"; {second} served before: compare its settings and secrets\n" in told
            overlay.write_text(settings)

            # The image does not know the command.
            (tmp_path / "secret").write_text(json.dumps({"apiVersion": "v1", **SECRET}))
            run("kubectl", "apply", "--namespace", namespace, "--filename", tmp_path / "secret")
            if cluster:
                cluster.migrations = "Failed"
            told = step("failing migration", "deploy", second, migrating)
            assert "the migration failed, so the service was left as it is: " in told
            run("kubectl", "delete", "secret", "my-service", "--namespace", namespace)

            assert step("rollback", "rollback") == ""
            image = "--output=jsonpath={.items[*].spec.template.spec.containers[*].image}"
            assert run("kubectl", "get", "deployment", "--namespace", namespace, image).stdout == first

            # What a drain does with the pods of a node; here on clusters with a single node too.
            for pod in servers():
                eventually(functools.partial(evict, pod))
                assert step(f"drain {pod}", "deploy", first) == ""

            run("kubectl", "delete", "pod", servers()[0], "--namespace", namespace, "--force", "--grace-period=0")
            assert step("kill", "deploy", first) == ""
    finally:
        if proxy:
            proxy.terminate()
            proxy.wait()
        run("kubectl", "delete", "namespace", namespace, "--wait=false")
    # Requests that a killed pod had accepted are lost.
    failures.pop("kill")
    assert {name: failed for name, failed in failures.items() if failed} == {}
