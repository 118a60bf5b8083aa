"""An API server that keeps what kubectl gives it, and plays the controllers that `make deploy` waits for."""

import copy
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

# Group and version, then (resource, kind, whether it is in a namespace).
KINDS = {
    "v1": [
        ("namespaces", "Namespace", False),
        ("serviceaccounts", "ServiceAccount", True),
        ("configmaps", "ConfigMap", True),
        ("secrets", "Secret", True),
        ("services", "Service", True),
        ("pods", "Pod", True),
        ("persistentvolumeclaims", "PersistentVolumeClaim", True),
        ("events", "Event", True),
    ],
    "apps/v1": [("deployments", "Deployment", True), ("replicasets", "ReplicaSet", True)],
    "batch/v1": [("jobs", "Job", True)],
    "policy/v1": [("poddisruptionbudgets", "PodDisruptionBudget", True)],
    "networking.k8s.io/v1": [("networkpolicies", "NetworkPolicy", True)],
    "autoscaling/v2": [("horizontalpodautoscalers", "HorizontalPodAutoscaler", True)],
}
COUNTS = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")
HASH, COMPONENT = "pod-template-hash", "app.kubernetes.io/component"
KIND_OF = {resource: kind for kinds in KINDS.values() for resource, kind, _ in kinds}


class Cluster:
    """What is there, by resource, namespace and name; and every change, in order."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.changes: list[str] = []
        # What the next migrations come to.
        self.migrations = "Complete"
        # The status of the pods that a Deployment or a Job creates next; none is created for None.
        self.states: dict[str, dict[str, Any] | None] = {}
        self.minor = "34"
        # What every container logged.
        self.logged = ""
        # What a Role does not allow, such as "delete configmaps".
        self.forbidden: set[str] = set()
        # What a Role would have to allow: group, resource, verb.
        self.requests: set[tuple[str, str, str]] = set()

    def manifests(self) -> list[dict[str, Any]]:
        """Return what kubectl gave."""
        return [found for key, found in self.objects.items() if key[0] not in ("pods", "replicasets", "events")]

    def put(self, verb: str, key: tuple[str, str, str], given: dict[str, Any], dry: bool) -> dict[str, Any]:
        """Store what was given, with the status that its controller would give it."""
        if key[0] == "replicasets":
            self.objects[key] = given
            return given
        before = self.objects.get(key, {})
        if before and all(
            before.get(field) == value for field, value in given.items() if field not in ("metadata", "status")
        ):
            return before
        resource, namespace, name = key
        generation = before.get("metadata", {}).get("generation", 0) + 1
        meta = {"uid": f"{resource}-{name}", "generation": generation, "resourceVersion": str(len(self.changes) + 1)}
        stored = {**given, "metadata": {**given["metadata"], **meta}}
        if namespace:
            stored["metadata"]["namespace"] = namespace
        if resource == "jobs":
            template = stored["spec"]["template"]
            stored["spec"] = {**stored["spec"], "selector": {"matchLabels": template["metadata"]["labels"]}}
            ended = [] if name in self.states else [{"type": self.migrations, "status": "True"}]
            stored["status"] = {"conditions": ended}
        if resource == "deployments":
            stored["spec"] = {"replicas": 1, **stored["spec"]}
            ready = 0 if name in self.states else stored["spec"]["replicas"]
            counts = dict.fromkeys(COUNTS, ready)
            stored["status"] = {"observedGeneration": generation, **counts}
        if not dry:
            self.objects[key] = stored
            self.changes.append(f"{verb} {KIND_OF[resource]} {name}")
            labels = self.replicate(stored, generation, ready) if resource == "deployments" else {}
            # The new pod is there before the old ones go: somebody may ask in between.
            old = self.pods_of(namespace, labels) if labels and ready else []
            if resource in ("deployments", "jobs"):
                self.start(stored, f"{name}-{generation}", labels, resource == "deployments" and bool(ready))
            for pod in old:
                del self.objects[pod]
        return stored

    def pods_of(self, namespace: str, labels: dict[str, str]) -> list[tuple[str, str, str]]:
        return [
            key
            for key, found in list(self.objects.items())
            if key[:2] == ("pods", namespace)
            and found["metadata"].get("labels", {}).get(COMPONENT) == labels[COMPONENT]
        ]

    def replicate(self, owner: dict[str, Any], generation: int, ready: int) -> dict[str, str]:
        """Store the ReplicaSet of a Deployment's template, or make an earlier one the newest; return its labels."""
        meta, template = owner["metadata"], copy.deepcopy(owner["spec"]["template"])
        hashed = hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:10]
        template["metadata"]["labels"][HASH] = hashed
        name = f"{meta['name']}-{hashed}"
        labels: dict[str, str] = template["metadata"]["labels"]
        key = ("replicasets", meta["namespace"], name)
        others = [found for each, found in self.objects.items() if each[:2] == key[:2] and each != key]
        for other in others:
            if ready and other["metadata"]["labels"][COMPONENT] == labels[COMPONENT]:
                other["status"] = {"replicas": 0}
        self.objects[key] = {
            "kind": "ReplicaSet",
            "apiVersion": "apps/v1",
            "metadata": {
                "name": name,
                "uid": name,
                "namespace": meta["namespace"],
                # Somebody may have added one to an earlier one.
                "labels": {**self.objects.get(key, owner)["metadata"]["labels"], **labels},
                "annotations": {"deployment.kubernetes.io/revision": str(generation)},
            },
            "spec": {"template": template},
            "status": {"replicas": ready or 1, "availableReplicas": ready},
        }
        return labels

    def start(self, owner: dict[str, Any], name: str, labels: dict[str, str], is_ready: bool) -> None:
        """Store a pod of a Deployment or a Job, in the state that was asked for."""
        namespace, template = owner["metadata"]["namespace"], owner["spec"]["template"]
        container = template["spec"]["containers"][0]["name"]
        status: dict[str, Any] | None = {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": str(is_ready)}],
            "containerStatuses": [{"name": container, "ready": is_ready}],
        }
        status = self.states.get(owner["metadata"]["name"], status)
        if status is None:
            return
        self.objects["pods", namespace, name] = {
            "kind": "Pod",
            "apiVersion": "v1",
            "metadata": {
                "labels": labels or template["metadata"]["labels"],
                "name": name,
                "uid": name,
                "namespace": namespace,
            },
            "spec": template["spec"],
            "status": status,
        }

    def replace(self, namespace: str, name: str) -> dict[str, Any]:
        """Store another pod in the place of one that was evicted or deleted, as its ReplicaSet does."""
        old = self.objects["pods", namespace, name]
        new = {**old, "metadata": {**old["metadata"], "name": f"{name}x", "uid": f"{name}x"}}
        self.objects["pods", namespace, f"{name}x"] = new
        return self.objects.pop(("pods", namespace, name))

    def scale(self, found: dict[str, Any]) -> None:
        """Set the autoscaler's minimum, as its controller does some time after the Deployment was created."""
        namespace, name = found["metadata"]["namespace"], found["metadata"]["name"]
        scaler = self.objects.get(("horizontalpodautoscalers", namespace, name))
        if scaler and found["status"].get("readyReplicas"):
            least = scaler["spec"]["minReplicas"]
            asked = found["metadata"].setdefault("annotations", {}).get("asked")
            if asked and found["spec"]["replicas"] < least:
                found["spec"]["replicas"] = least
            elif asked:
                found["status"].update(dict.fromkeys(COUNTS, found["spec"]["replicas"]))
            found["metadata"]["annotations"]["asked"] = "yes"

    def warn(self, namespace: str, kind: str, name: str, reason: str, message: str, uid: str = "") -> None:
        """Store a Warning event about an object, or about an earlier one of that name."""
        event = f"{name}.{len(self.objects)}"
        uid = uid or (f"jobs-{name}" if kind == "Job" else name)
        self.objects["events", namespace, event] = {
            "kind": "Event",
            "apiVersion": "v1",
            "metadata": {"name": event, "namespace": namespace},
            "involvedObject": {"kind": kind, "name": name, "uid": uid, "namespace": namespace},
            "type": "Warning",
            "reason": reason,
            "message": message,
            "lastTimestamp": "2026-11-29T00:00:00Z",
        }


def _merge(old: Any, patch: Any) -> Any:
    """Merge as far as the manifests need it: lists of what has a name by that name, other lists as a whole."""
    if isinstance(old, dict) and isinstance(patch, dict):
        changed = {key: _merge(old.get(key), value) for key, value in patch.items() if not key.startswith("$")}
        return {key: value for key, value in {**old, **changed}.items() if value is not None}
    if isinstance(old, list) and isinstance(patch, list) and all("name" in item for item in [*old, *patch]):
        named = {item["name"]: item for item in patch}
        return [_merge(item, named.pop(item["name"], {})) for item in old] + list(named.values())
    return patch


def _selector(text: str) -> dict[str, str]:
    """Read a selector of labels or fields, such as a=b,c=d."""
    return dict(part.split("=", 1) for part in text.split(",") if part)


def _resources(version: str) -> dict[str, Any]:
    verbs = ["create", "delete", "get", "list", "patch", "watch"]
    listed = [
        {"name": name, "singularName": "", "kind": kind, "namespaced": inside, "verbs": verbs}
        for name, kind, inside in KINDS[version]
    ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": listed}


def _openapi(version: str) -> dict[str, Any]:
    """What kubectl looks for: that a server checks fields and knows dry runs."""
    group, _, number = version.rpartition("/")
    parameters = [{"name": name, "in": "query", "schema": {"type": "string"}} for name in ("dryRun", "fieldValidation")]
    paths = {
        f"/{resource}/{{name}}": {
            "patch": {
                "parameters": parameters,
                "responses": {},
                "x-kubernetes-group-version-kind": {"group": group, "version": number, "kind": kind},
            }
        }
        for resource, kind, _ in KINDS[version]
    }
    return {"openapi": "3.0.0", "info": {"title": "", "version": ""}, "paths": paths}


class Handler(BaseHTTPRequestHandler):
    cluster: Cluster
    protocol_version = "HTTP/1.1"
    # An answer in one packet: a second one would wait for the first one's receipt.
    wbufsize = 65536

    def log_message(self, *args: Any) -> None:
        pass

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def answer(self, content: dict[str, Any], status: int = 200) -> None:
        self.write(json.dumps(content).encode(), "application/json", status)

    def write(self, body: bytes, kind: str, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def refuse(self, status: int, reason: str, message: str) -> None:
        told = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status}
        self.answer({**told, "reason": reason, "message": message}, status)

    def body(self) -> dict[str, Any]:
        given: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        return given

    def place(self) -> tuple[str, str, str, str]:
        """Return version, resource, namespace and name of the path."""
        parts = urlsplit(self.path).path.strip("/").split("/")
        version, rest = ("v1", parts[2:]) if parts[0] == "api" else ("/".join(parts[1:3]), parts[3:])
        namespace, rest = "", rest or [""]
        if rest[0] == "namespaces" and len(rest) > 2:
            namespace, rest = rest[1], rest[2:]
        return version, rest[0], namespace, "/".join(rest[1:])

    def note(self, verb: str) -> None:
        version, resource, _, name = self.place()
        kind = f"{resource}/log" if name.endswith("/log") else resource
        self.cluster.requests.add((version.rpartition("/")[0], kind, verb))

    def is_forbidden(self, verb: str, resource: str) -> bool:
        found = f"{verb} {resource}" in self.cluster.forbidden
        if found:
            self.refuse(403, "Forbidden", f"you may not {verb} {resource}")
        return found

    def do_GET(self) -> None:
        path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
        groups = [version for version in KINDS if "/" in version]
        if path == "/version":
            minor = self.cluster.minor
            self.answer({"major": "1", "minor": minor, "gitVersion": f"v1.{minor}.0"})
        elif path == "/api":
            self.answer({"kind": "APIVersions", "versions": ["v1"]})
        elif path == "/apis":
            listed = [
                {"name": version.split("/")[0], "versions": [named], "preferredVersion": named}
                for version in groups
                for named in [{"groupVersion": version, "version": version.split("/")[1]}]
            ]
            self.answer({"kind": "APIGroupList", "apiVersion": "v1", "groups": listed})
        elif path == "/openapi/v3":
            known = {("apis/" if "/" in version else "api/") + version: version for version in KINDS}
            self.answer({"paths": {name: {"serverRelativeURL": f"/openapi/v3/{name}"} for name in known}})
        elif path.startswith("/openapi/v3/"):
            self.answer(_openapi(path.removeprefix("/openapi/v3/").partition("/")[2]))
        elif path.removeprefix("/apis/").removeprefix("/api/") in KINDS:
            self.answer(_resources(path.removeprefix("/apis/").removeprefix("/api/")))
        else:
            self.read(query)

    def read(self, query: dict[str, list[str]]) -> None:
        version, resource, namespace, name = self.place()
        verb = "get" if name else "watch" if "watch" in query else "list"
        self.note(verb)
        if self.is_forbidden(verb, resource):
            return
        if resource not in KIND_OF:
            self.refuse(404, "NotFound", f"there is no {resource}")
        elif "/proxy/" in name:
            ready = [{"type": "Ready", "status": "True"}]
            pods = [each for key, each in list(self.cluster.objects.items()) if key[:2] == ("pods", namespace)]
            is_up = any(each["status"].get("conditions") == ready for each in pods)
            self.write(b"", "text/plain", 200 if is_up else 503)
        elif name.endswith("/log"):
            # A log may contain any bytes.
            self.write(
                b"\xff\n" + f"the log of {name.removesuffix('/log')}\n{self.cluster.logged}".encode(), "text/plain"
            )
        elif name:
            found = self.cluster.objects.get((resource, namespace, name))
            if found and resource == "deployments":
                self.cluster.scale(found)
            self.answer(found) if found else self.refuse(404, "NotFound", f'{resource} "{name}" not found')
        elif "watch" in query:
            # Nothing changes while somebody watches.
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            chosen = _selector(query.get("labelSelector", [""])[0]), _selector(query.get("fieldSelector", [""])[0])
            items = [
                found
                for key, found in list(self.cluster.objects.items())
                if key[:2] == (resource, namespace)
                and chosen[0].items() <= found["metadata"].get("labels", {}).items()
                and chosen[1].get("metadata.name", key[2]) == key[2]
                and chosen[1].get("type") in (None, found.get("type"))
            ]
            for container in [each for found in items for each in found.get("status", {}).get("containerStatuses", [])]:
                # It crashes whenever somebody looks.
                if container.get("state", {}).get("waiting", {}).get("reason") == "CrashLoopBackOff":
                    container["restartCount"] += 1
            meta = {"resourceVersion": str(len(self.cluster.changes))}
            self.answer({"kind": f"{KIND_OF[resource]}List", "apiVersion": version, "metadata": meta, "items": items})

    def do_POST(self) -> None:
        self.note("create")
        _, resource, namespace, name = self.place()
        if name.endswith("/eviction"):
            self.body()
            self.cluster.replace(namespace, name.removesuffix("/eviction"))
            self.answer({"kind": "Status", "apiVersion": "v1", "status": "Success"}, 201)
            return
        given, query = self.body(), parse_qs(urlsplit(self.path).query)
        if namespace and ("namespaces", "", namespace) not in self.cluster.objects:
            self.refuse(404, "NotFound", f'namespaces "{namespace}" not found')
            return
        key = (resource, namespace, given["metadata"]["name"])
        self.answer(self.cluster.put("create", key, given, "dryRun" in query), 201)

    def do_PATCH(self) -> None:
        self.note("patch")
        _, resource, namespace, name = self.place()
        key, patch, query = (resource, namespace, name), self.body(), parse_qs(urlsplit(self.path).query)
        if self.is_forbidden("patch", resource):
            return
        if resource == "jobs" and "spec" in patch:
            self.refuse(422, "Invalid", "spec.template: field is immutable")
            return
        given = _merge(self.cluster.objects[key], patch)
        self.answer(self.cluster.put("change", key, given, "dryRun" in query))

    def do_DELETE(self) -> None:
        self.note("delete")
        _, resource, namespace, name = self.place()
        if self.headers["Content-Length"]:
            self.body()
        if self.is_forbidden("delete", resource):
            return
        if resource == "pods":
            self.answer(self.cluster.replace(namespace, name))
            return
        found = self.cluster.objects.pop((resource, namespace, name), None)
        if found:
            self.cluster.changes.append(f"delete {KIND_OF[resource]} {name}")
            self.answer(found)
        else:
            self.refuse(404, "NotFound", f'{resource} "{name}" not found')


@contextmanager
def serve(kubeconfig: Path) -> Iterator[Cluster]:
    """Serve an empty cluster, and write the file by which kubectl finds it."""
    cluster = Cluster()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Serving", (Handler,), {"cluster": cluster}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "played", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "contexts": [{"name": "played", "context": {"cluster": "played", "user": "played"}}],
        "users": [{"name": "played", "user": {"token": "played"}}],
        "current-context": "played",
    }
    kubeconfig.write_text(json.dumps(config))
    try:
        yield cluster
    finally:
        server.shutdown()
        server.server_close()
