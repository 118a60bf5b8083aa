"""What `deploy.sh` does in the cluster, with kubectl and Python's standard library alone.

A failure shows what Kubernetes says about the new pods, and ends soon: `kubectl rollout status`
would wait, and say only that it waited.
"""

# ruff: noqa: S603, S607 (it runs kubectl)

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

NAME, COMPONENT = "app.kubernetes.io/name", "app.kubernetes.io/component"
REVISION, HASH = "deployment.kubernetes.io/revision", "pod-template-hash"
# The label of a ReplicaSet that served. Kubernetes would copy an annotation to other ReplicaSets.
SERVED = "served"
# Reasons for which a container waits until somebody changes the image's name or the settings.
# A registry that is down for a moment gets the grace.
HOPELESS = {
    "CreateContainerConfigError",
    "CreateContainerError",
    "ErrImageNeverPull",
    "ErrImagePull",
    "FailedCreate",
    "ImageInspectError",
    "ImagePullBackOff",
    "InvalidImageName",
    "RunContainerError",
}
GRACE_SECONDS = 15
# Without any progress. A pod may have to wait for a node that is being added, or for a volume.
DEADLINE_SECONDS = 120
PROGRESS_SECONDS = 10
POLL_SECONDS = 2
LOOP, RESTARTS = "CrashLoop", 3
SHOWN_PODS, SHOWN_EVENTS, SHOWN_LINES = 3, 5, 20

Object = dict[str, Any]


class State(NamedTuple):
    """How far something is: the counts that progress line and deadline go by, and its new pods."""

    progress: str
    pods: Sequence[Object] = ()
    # The ReplicaSet or Job, which events may be about too: it may not be allowed to create a pod.
    owners: Sequence[Object] = ()
    is_done: bool = False
    failure: str = ""
    # A migration may take long once it runs.
    is_at_work: bool = False
    problems: Sequence[tuple[str, str]] = ()


def fail(line: str) -> NoReturn:
    sys.exit(line)


@cache
def warn(line: str) -> None:
    """Print a line, once: each Deployment may lack the same right."""
    print(line, file=sys.stderr)


class UnreadableError(Exception):
    """kubectl printed an error: no right to read it, or the API server did not respond."""


def kubectl(*arguments: str, stdin: str | None = None) -> None:
    done = subprocess.run(["kubectl", *arguments], input=stdin, text=True)
    if done.returncode:
        fail(f"kubectl {arguments[0]} failed, so nothing after it was done")


def read(*arguments: str) -> str:
    # A log may contain any bytes.
    command = ["kubectl", *arguments]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode:
        raise UnreadableError(one_line(done.stderr))
    return done.stdout


class Service:
    """The service in one namespace."""

    def __init__(self, namespace: str, name: str) -> None:
        self.namespace, self.name = namespace, name
        self.here = ["--namespace", namespace]

    def get(self, *what: str) -> list[Object]:
        printed = read("get", *what, *self.here, "--ignore-not-found", "--output", "json")
        found: Object = json.loads(printed) if printed else {}
        items: list[Object] = found.get("items", [found] if found else [])
        return items

    def of(self, kind: str, component: str) -> list[Object]:
        return self.get(kind, "--selector", f"{NAME}={self.name},{COMPONENT}={component}")

    def replica_sets(self, component: str) -> list[Object]:
        """Return those of a component's Deployment, the newest first."""
        return sorted(self.of("replicasets", component), key=revision, reverse=True)

    def record(self, component: str) -> str:
        """Label the newest ReplicaSet if all pods are its own and one serves; return its id."""
        newest = ""
        try:
            sets = self.replica_sets(component)
            newest = str(sets[0]["metadata"]["uid"]) if sets else ""
            used = [each for each in sets if each.get("status", {}).get("replicas")]
            if used and used == sets[:1] and used[0]["status"].get("availableReplicas"):
                name = used[0]["metadata"]["name"]
                read("label", "replicaset", name, f"{SERVED}=true", "--overwrite", *self.here)
        except UnreadableError as error:
            warn(f"`make rollback` may not find the image that serves now: {error}")
        return newest

    def rollout(self, component: str, deployment: str) -> State:
        """Return how far a Deployment is, with the pods of its newest ReplicaSet."""
        [found] = self.get("deployment", deployment) or fail(f"there is no Deployment {deployment}")
        status, metadata = found.get("status", {}), found["metadata"]
        replicas = found["spec"].get("replicas", 1)
        # The autoscaler sets its minimum soon after it finds a new Deployment.
        scalers = self.get("horizontalpodautoscaler", deployment) if replicas else []
        wanted = max([replicas, *(scaler["spec"].get("minReplicas", 1) for scaler in scalers)])
        updated, available = (status.get(f"{name}Replicas", 0) for name in ("updated", "available"))
        old = status.get("replicas", 0) - updated
        is_seen = status.get("observedGeneration", 0) >= metadata["generation"]
        if is_seen and updated >= wanted and old <= 0 and available >= updated:
            return State("done", is_done=True)
        sets = self.replica_sets(component)[:1] if is_seen else []
        # The Deployment's own count includes old pods, so it hardly changes while they are replaced.
        ready = sum(each.get("status", {}).get("availableReplicas", 0) for each in sets)
        progress = f"{ready} of {wanted} ready"
        new = {each["metadata"]["labels"][HASH] for each in sets}
        pods = [
            pod for pod in self.of("pods", component) if pod["metadata"]["labels"].get(HASH) in new
        ]
        # A quota, for example; some pods may have been created before.
        refused = [
            reason_of(each)
            for each in status.get("conditions", [])
            if each["type"] == "ReplicaFailure" and each["status"] == "True"
        ]
        return State(progress, pods, sets, problems=refused)

    def migration(self, job: str) -> State:
        """Return how far the Job is. Pods that were evicted don't count: it starts another."""
        [found] = self.get("job", job) or fail(f"the Job {job} was deleted")
        status = found.get("status", {})
        ended = {
            each["type"]: each.get("message", "")
            for each in status.get("conditions", [])
            if each["status"] == "True"
        }
        pods = self.of("pods", "migration")
        phases = sorted(pod.get("status", {}).get("phase", "Pending") for pod in pods)
        progress = ", ".join(phases) or "no pod yet"
        failure = (ended.get("Failed") or "it failed") if "Failed" in ended else ""
        return State(progress, pods, [found], "Complete" in ended, failure, "Running" in phases)

    def events(self, state: State) -> list[Object]:
        """Return the Warning events about new pods, their owner and their volumes, the newest last."""
        if not state.owners:
            return []
        # By their ids: the Job of an earlier deployment had the same name.
        uids = {each["metadata"]["uid"] for each in [*state.pods, *state.owners]}
        claims = {
            volume["persistentVolumeClaim"]["claimName"]
            for pod in state.pods
            for volume in pod["spec"].get("volumes", [])
            if "persistentVolumeClaim" in volume
        }
        warnings: list[Object] = []
        with suppress(UnreadableError):
            warnings = self.get("events", "--field-selector", "type=Warning")
        found = [
            event
            for event in warnings
            for about in [event["involvedObject"]]
            if about.get("uid") in uids
            or (about.get("kind") == "PersistentVolumeClaim" and about.get("name") in claims)
        ]
        return sorted(found, key=lambda it: it.get("lastTimestamp") or it.get("eventTime") or "")

    def show(self, state: State, events: list[Object]) -> None:
        """Print why the new pods are not ready: events, and the last lines of each container."""
        for event in events[-SHOWN_EVENTS:]:
            name = event["involvedObject"]["name"]
            warn(f"{name}: {event['reason']}: {one_line(event.get('message'))}")
        unready = [pod for pod in state.pods if not is_ready(pod)]
        for pod in unready[-SHOWN_PODS:]:
            options = ["--all-containers", "--prefix", "--ignore-errors", f"--tail={SHOWN_LINES}"]
            with suppress(UnreadableError):
                sys.stderr.write(read("logs", pod["metadata"]["name"], *self.here, *options))

    def wait(self, what: str, look: Callable[[], State], before: str = "") -> str:
        """Wait until `what` is done; otherwise show why not, and return the reason.

        `before` is the id of the ReplicaSet that was the newest. If it still is, what looks hopeless is
        old and may have been repaired: the image pushed, the quota raised.
        """
        started = moved = time.monotonic()
        last, printed, hopeless_since = "unknown", started, 0.0
        while True:
            now = time.monotonic()
            try:
                state = look()
            except UnreadableError as error:
                state = State(last, problems=[("kubectl", str(error))])
            if state.is_done:
                print(f"{what}: done")
                return ""
            events = self.events(state)
            problems = [problem for pod in state.pods for problem in problems_of(pod, events)]
            problems += state.problems
            if not problems and not state.pods:
                problems += [reason_of(event) for event in events[-1:]]
            if state.progress != last or state.is_at_work:
                moved, last = now, state.progress
            is_new = before not in [owner["metadata"]["uid"] for owner in state.owners]
            reasons = {reason for reason, _ in problems} if is_new else set()
            is_hopeless = bool(reasons & HOPELESS)
            hopeless_since = (hopeless_since or now) if is_hopeless else 0.0
            reason = "; ".join(dict.fromkeys(": ".join(problem) for problem in problems))
            failure = state.failure
            if LOOP in reasons or (is_hopeless and now - hopeless_since >= GRACE_SECONDS):
                failure = failure or reason
            elif now - moved >= DEADLINE_SECONDS:
                failure = failure or f"no progress for {DEADLINE_SECONDS} s"
            if failure:
                self.show(state, events)
                return "; ".join(dict.fromkeys(filter(None, [failure, reason])))
            if now - printed >= PROGRESS_SECONDS:
                printed = now
                parts = [f"{what}: {state.progress} after {now - started:.0f} s", reason]
                print("; ".join(filter(None, parts)))
            time.sleep(POLL_SECONDS)


def revision(replica_set: Object) -> int:
    return int(replica_set["metadata"].get("annotations", {}).get(REVISION, 0))


def one_line(text: str | None) -> str:
    """Return the text without line breaks, and without what would control a terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text or "").split())


def reason_of(condition: Object, where: str = "") -> tuple[str, str]:
    return condition.get("reason", ""), where + one_line(condition.get("message"))


def is_ready(pod: Object) -> bool:
    status = pod.get("status", {})
    conditions = {each["type"]: each["status"] for each in status.get("conditions", [])}
    return conditions.get("Ready") == "True" or status.get("phase") == "Succeeded"


def problems_of(pod: Object, events: list[Object]) -> list[tuple[str, str]]:
    """Return why a pod does not get ready, as reasons with a text; none while it just starts."""
    status, name = pod.get("status", {}), pod["metadata"]["name"]
    found = []
    if status.get("reason") == "Evicted":
        return [reason_of(status, f"{name}: ")]
    for each in status.get("conditions", []):
        if each["type"] == "PodScheduled" and each["status"] == "False":
            found.append(reason_of(each, f"{name}: "))
    kinds = ("initContainerStatuses", "containerStatuses")
    for container in [each for kind in kinds for each in status.get(kind, [])]:
        where = f"{name}, container {container['name']}"
        waiting = container.get("state", {}).get("waiting", {})
        ended = container.get("lastState", {}).get("terminated", {})
        if container.get("restartCount", 0) >= RESTARTS and not container.get("ready"):
            code = f"{ended.get('reason', 'Error')}, exit status {ended.get('exitCode', 'unknown')}"
            found.append((LOOP, f"{where} ended {container['restartCount']} times: {code}"))
        elif waiting.get("reason") in HOPELESS:
            found.append(reason_of(waiting, f"{where}: "))
    if not found and status.get("phase", "Pending") == "Pending":
        # A volume, or the pod's network: only events say so.
        own = [event for event in events if event["involvedObject"]["name"] == name]
        found += [reason_of(event, f"{name}: ") for event in own[-1:]]
    return found


# --- The steps --------------------------------------------------------------------------------

FAILED = {
    "worker": "the new workers don't get ready, so the service was left as it is",
    "server": "the new pods don't serve",
}
# What the chassis logs.
AHEAD = "the database is ahead of this image"
# The alphabet of Kustomize's hashes.
GENERATED = "-[2456789bcdfghkmt]{10}"
# What makes the Secret during the deployment, so that its keys can't be checked before.
MAKE_SECRETS = {"ExternalSecret", "SealedSecret", "SecretStore", "Secret"}


def kind_of(document: str) -> str:
    found = re.search(r"(?m)^kind: (\w+)$", document)
    return found[1] if found else ""


def name_of(document: str) -> str:
    found = re.search(r"(?ms)^metadata:$.*?^  name: (\S+)$", document)
    return found[1].strip("\"'") if found else ""


def apply(documents: list[str], selector: str = "") -> None:
    chosen = ["--selector", selector] if selector else []
    kubectl("apply", "--filename", "-", *chosen, stdin="\n---\n".join(documents))


def check_secret(service: Service, overlay: str, keys: list[str]) -> None:
    """Fail if the Secret lacks a variable: the new pods would wait for it, or end at once."""
    make = f"kubectl create secret generic {service.name} --namespace {service.namespace} --from-env-file=FILE"
    try:
        found = service.get("secret", service.name)
    except UnreadableError:
        print(f"the secret {service.name} can't be read, so its keys are not checked")
        return
    if not found:
        fail(
            f"there is no secret yet; with {' '.join(keys)} in a file: kubectl apply --filename"
            f" deploy/overlays/{overlay}/namespace.yaml && {make}"
        )
    missing = [key for key in keys if key not in found[0].get("data", {})]
    if missing:
        fail(
            f"the secret {service.name} lacks {' '.join(missing)}; with all that it contains in a file:"
            f" {make} --dry-run=client --output=yaml | kubectl replace --filename -"
        )


def prune(service: Service, documents: list[str]) -> None:
    """Delete the ConfigMaps of earlier settings, but for those that a rollback would need."""
    try:
        users = "\n".join([*documents, json.dumps(service.get("replicasets,jobs"))])
        names = [each["metadata"]["name"] for each in service.get("configmaps")]
        generated = re.compile(re.escape(service.name) + GENERATED)
        old = [name for name in names if generated.fullmatch(name) and name not in users]
        if old:
            read("delete", "configmap", *old, *service.here)
    except UnreadableError as error:
        warn(f"the ConfigMaps of earlier settings were not deleted: {error}")


def images(service: Service) -> tuple[str, list[str]]:
    """Return the newest image, and those that served, the newest first."""

    def image(replica_set: Object) -> str:
        found = replica_set["spec"]["template"]["spec"]["containers"]
        # By name: Kustomize puts the sidecar of a patch before it.
        own = [each for each in found if each["name"] in ("service", "worker")]
        return str((own or found)[0]["image"])

    server = service.replica_sets("server")
    # Workers are rolled out first: if those failed, the service still has the image to go back to.
    newest = (service.replica_sets("worker") or server)[:1]
    served = [image(each) for each in server if SERVED in each["metadata"]["labels"]]
    return "".join(map(image, newest)), served


def previous(service: Service, overlay: str) -> str:
    """Return the image that served before the newest one."""
    current, served = images(service)
    return next((image for image in served if image != current), "") or fail(
        f"no other image is known to have served; choose one from 'kubectl get replicasets --output"
        f" wide --namespace {service.namespace}': make deploy OVERLAY={overlay} IMAGE=..."
    )


def deploy(
    service: Service, rendered: str, overlay: str, secret: str, *, is_back: bool = False
) -> None:
    text = Path(rendered).read_text()
    documents = re.split(r"(?m)^---\n", text)
    kinds = {kind_of(document) for document in documents}
    if secret and not kinds & MAKE_SECRETS:
        check_secret(service, overlay, secret.split())
    job = f"{service.name}-migrate"
    jobs = {name_of(each): each for each in documents if kind_of(each) == "Job"}
    migration = jobs.get(job)
    # An older image finds its migrations, and newer ones, in the database.
    if migration and not is_back:
        apply([each for each in documents if is_needed(each, migration)])
        # A Job can't be changed, only replaced.
        kubectl("delete", "job", job, *service.here, "--ignore-not-found", "--cascade=foreground")
        apply([migration])
        reason = service.wait("the migration", lambda: service.migration(job))
        if reason:
            fail(f"the migration failed, so the service was left as it is: {reason}")
        # An older image, or one of another branch, whose own migrations are missing then.
        with suppress(UnreadableError):
            if AHEAD in read("logs", f"job/{job}", *service.here):
                warn(f"{AHEAD}: it has a migration that the image lacks, so none was applied")
    apply(documents, f"{COMPONENT} notin (server, worker, migration)")
    # Workers first: jobs of the new service then find no older worker, which may not know them.
    if f"{COMPONENT}: worker" in text:
        roll_out(service, documents, "worker", f"{service.name}-worker", overlay)
    roll_out(service, documents, "server", service.name, overlay)
    prune(service, documents)


def is_needed(document: str, migration: str) -> bool:
    """Return whether the pod of the migration needs it to start."""
    kind = kind_of(document)
    return kind in {"Namespace", *MAKE_SECRETS} or (
        kind in {"ServiceAccount", "ConfigMap"} and name_of(document) in migration
    )


def roll_out(
    service: Service, documents: list[str], component: str, deployment: str, overlay: str
) -> None:
    before = service.record(component)
    apply(documents, f"{COMPONENT}={component}")
    reason = service.wait(
        f"deployment {deployment}", lambda: service.rollout(component, deployment), before
    )
    if reason:
        fail(f"{FAILED[component]}: {reason}{way_back(service, overlay)}")
    service.record(component)


def way_back(service: Service, overlay: str) -> str:
    try:
        current, served = images(service)
    except UnreadableError:
        return ""
    if current in served:
        return f"; {current} served before: compare its settings and secrets"
    return f"; to go back to {served[0]}: make rollback OVERLAY={overlay}" if served else ""


def main(command: str, namespace: str, name: str, *rest: str) -> None:
    service = Service(namespace, name)
    if command == "previous":
        print(previous(service, *rest))
    else:
        deploy(service, *rest, is_back=command == "rollback")


if __name__ == "__main__":
    # In order with what kubectl prints, in a pipe too.
    sys.stdout.reconfigure(line_buffering=True, errors="replace")  # type: ignore[union-attr]
    try:
        main(*sys.argv[1:])
    except UnreadableError as unreadable:
        fail(str(unreadable))
    except KeyboardInterrupt:
        sys.exit(130)
