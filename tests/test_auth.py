"""Who may call: API keys and tokens, in containers and through make."""

import contextlib
import datetime
import http.server
import ipaddress
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import jwt
import pytest
import standins
from conftest import (
    RESERVED,
    ROOT,
    add_to_app,
    commit,
    container,
    copy,
    eventually,
    files,
    free_port,
    get,
    inspect,
    modules,
    run,
    uncompiled,
)
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from test_quality import YAML_RULES

CHASSIS, TESTS = "src/my_service/chassis/auth", "tests/chassis/auth"
COMMON = {
    "docs/auth.md",
    *(f"{CHASSIS}/{name}.py" for name in ("__init__", "callers", "feature", "unread_bodies")),
    *(f"{TESTS}/{name}.py" for name in ("__init__", "callers", "test_callers")),
}
ADDED = {
    "api-key": {
        *COMMON,
        "ops/dev/api_key.py",
        f"{CHASSIS}/api_key.py",
        f"{TESTS}/keys.py",
        f"{TESTS}/test_api_key.py",
    },
    "jwt": {
        *COMMON,
        "docs/runbooks/jwt.md",
        "ops/dev/jwt.py",
        "ops/issuer.py",
        "ops/observe/alerts/jwt.yaml",
        f"{CHASSIS}/jwks.py",
        f"{CHASSIS}/jwt.py",
        *(f"{TESTS}/{name}.py" for name in ("tokens", "test_jwks", "test_jwt")),
    },
}
OPEN_PATHS = ("/health/live", "/health/ready", "/metrics", "/docs", "/openapi.json")
AUDIENCE = "https://api.example.com"
NAME = "https://login.example.com/"

both = pytest.mark.parametrize("auth", ["api-key", "jwt"])


@both
def test_an_answer_adds_its_own_modules_tests_and_page_only(render: Any, auth: str) -> None:
    assert set(files(render(auth=auth))) - set(files(render())) == ADDED[auth]


@both
@pytest.mark.parametrize("package", ["x", "a" * 40])
def test_the_files_are_formatted_with_short_and_long_package_names(render: Any, auth: str, package: str) -> None:
    project = render(auth=auth, package_name=package)
    run("ruff", "format", "--check", "--no-cache", ".", cwd=project)
    run("ruff", "check", "--no-cache", ".", cwd=project)
    for path in (project / TESTS).iterdir():
        assert "my_service" not in path.read_text(), path


def test_the_files_of_the_development_issuer_pass_their_linters(installed_with: Any) -> None:
    project = installed_with(auth="jwt")
    run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml", cwd=project)
    run("yamllint", "--strict", "--config-data", YAML_RULES, "compose.yaml", cwd=project)
    run(project / ".venv/bin/mypy", "--strict", "ops/issuer.py", cwd=project)


@both
def test_every_module_that_an_answer_installs_is_reserved(installed_with: Any, auth: str) -> None:
    names = modules(installed_with(auth=auth))
    assert names - set(RESERVED) == set()
    assert ("jwt" in names) == (auth == "jwt")


@both
def test_env_example_shows_the_settings_with_their_defaults(installed_with: Any, auth: str) -> None:
    project = installed_with(auth=auth)
    program = (
        "from my_service.settings import Settings as S\n"
        "print(*(f'#{n.upper()}=' for n, f in S.model_fields.items() if n[:4] in ('api_', 'jwt_') and not f.default))"
    )
    shown = run(project / ".venv/bin/python", "-c", program).stdout.split()
    assert len(shown) == (1 if auth == "api-key" else 3)
    assert set(shown) <= set((project / ".env.example").read_text().splitlines())


@both
def test_make_help_lists_the_commands_of_the_answer(render: Any, auth: str) -> None:
    listed = re.findall(r"(?m)^  (\S+) ", run("make", cwd=render(auth=auth)).stdout)
    assert ("api-key" in listed) == (auth == "api-key")
    assert ("token" in listed) == (auth == "jwt")
    assert listed.index("api-key") < listed.index("build") if auth == "api-key" else True


def make_key(project: Path, name: str, scopes: str = "") -> tuple[str, str]:
    """Return a new key and its entry, as `make api-key` prints them."""
    printed = run("make", "api-key", f"NAME={name}", f"SCOPES={scopes}", cwd=project).stdout
    key, entry = re.findall(r"(?m)^    (\S+)$", printed)
    return key, entry


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["NAME="],
        ["NAME=it's"],
        ['NAME="a b"'],
        ["NAME=a:b"],
        ["NAME=$$(touch x)"],
        ["NAME=ci", "SCOPES=a,b"],
        ["NAME=ci", "SCOPES=$$(touch x)"],
        ["NAME=ci", 'SCOPES=";touch x;"'],
    ],
)
def test_make_api_key_refuses_an_invalid_name_or_scope_with_an_example(
    installed_with: Any, arguments: list[str]
) -> None:
    project = installed_with(auth="api-key")
    refused = run("make", "api-key", *arguments, cwd=project, check=False)
    assert refused.returncode != 0
    assert refused.stdout == ""
    assert "such as: make api-key NAME=ci" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (project / "x").exists()


@pytest.fixture(scope="session")
def image_with(answers: dict[str, str], template: Path, tmp_path_factory: Any) -> Iterator[Callable[[str], str]]:
    """Return `image_with(auth)`: an image of a project with that answer, whose orders need the scope orders:write."""
    built: dict[str, str] = {}

    def image(auth: str) -> str:
        if auth not in built:
            project = tmp_path_factory.mktemp("image") / "project"
            copy(template, project, auth=auth, python_version=answers["python_version"])
            add_orders(project)
            tag = f"copier-fastapi-test:{os.getpid()}-{auth}"
            run("docker", "build", f"--tag={tag}", ".", cwd=project)
            built[auth] = tag
        return built[auth]

    yield image
    for tag in built.values():
        run("docker", "rmi", tag, check=False)


def add_orders(project: Path) -> None:
    """Write what docs/auth.md shows: a router that is closed, and a route that needs a scope, the same for both."""
    (project / "src/my_service/orders.py").write_text(
        "from fastapi import APIRouter, Body\nfrom .chassis import auth\n"
        'router = APIRouter(prefix="/v1/orders")\n'
        '@router.post("", dependencies=[auth.scopes("orders:write")])\n'
        "async def create_order(caller: auth.Caller) -> str:\n    return caller.id\n"
        '@router.post("/notes")\n'
        "async def create_note(note: str = Body()) -> str:\n    return note\n"
    )
    imported = "from . import orders\nfrom .chassis import auth"
    add_to_app(project, imported, "app.include_router(orders.router, dependencies=[auth.required])")


GRANT = """
@pytest.fixture(autouse=True)
def granted(app: FastAPI) -> None:
    caller = auth.Identity(id="tests", scopes=["orders:write"])
    app.dependency_overrides[auth.identify] = lambda: caller


"""


@pytest.mark.usefixtures("one_environment")
@both
def test_a_resource_with_a_scope_passes_its_tests(installed_with: Any, tmp_path: Path, auth: str) -> None:
    project = tmp_path / "project"
    shutil.copytree(installed_with(database="sqlite", auth=auth), project, ignore=shutil.ignore_patterns(".venv"))
    run("make", "resource", "NAME=orders", "FIELDS=number:int!", cwd=project)
    routes, tests = project / "src/my_service/orders/routes.py", project / "tests/test_orders.py"
    text = routes.read_text().replace("\nfrom ..chassis.", "\nfrom ..chassis import auth\nfrom ..chassis.", 1)
    routes.write_text(text.replace("=201,", '=201, dependencies=[auth.scopes("orders:write")],'))
    imports = "\nfrom fastapi import FastAPI\nfrom my_service.chassis import auth\n\nURL"
    text = tests.read_text().replace("\nURL", imports, 1)
    tests.write_text(text.replace("\n\ndef body(", f"{GRANT}def body(", 1))
    run("make", "format", "lint", cwd=project)
    run("make", "test", "ARGS=--no-cov -n0 tests/test_orders.py tests/test_migrations.py", cwd=project)


def assert_probes_metrics_and_docs_are_open(url: str) -> None:
    for path in OPEN_PATHS:
        assert get(f"{url}{path}").status_code == 200, path


def assert_refused(answer: httpx2.Response, status: int, challenge: str) -> None:
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["www-authenticate"] == challenge
    assert answer.json()["request_id"]


def lines(container: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run("docker", "logs", container).stdout.splitlines()]


def lines_of_orders(container: str, expected: list[tuple[int, str | None]]) -> list[dict[str, Any]]:
    """Return all lines once those of the orders are as expected: a line may follow its response a little later."""

    def found() -> list[dict[str, Any]]:
        logged = lines(container)
        told = [(line["status"], line.get("caller")) for line in logged if line.get("path") == "/v1/orders"]
        assert told == expected
        return logged

    logged: list[dict[str, Any]] = eventually(found, 20)
    return logged


NOT_SET = {"api-key": "API_KEYS is not set", "jwt": "JWT_ISSUER, JWT_AUDIENCE and JWT_JWKS_URL are not set"}


@both
def test_in_production_a_container_without_a_setting_is_not_ready_and_says_why(image_with: Any, auth: str) -> None:
    with container(image_with(auth)) as (_, url):
        answer = get(f"{url}/health/ready")
        assert (answer.status_code, answer.json()["detail"]) == (503, f"Failing: auth ({NOT_SET[auth]})")
        assert httpx2.get(f"{url}/health/live").status_code == 200


@both
def test_a_container_without_a_setting_starts_warns_once_and_refuses(image_with: Any, auth: str) -> None:
    with container(image_with(auth), "--env=APP_ENV=development") as (name, url):
        assert_probes_metrics_and_docs_are_open(url)
        for headers in ({}, {"X-API-Key": "x"}, {"Authorization": "Bearer a.b.c"}):
            assert httpx2.get(f"{url}/v1/me", headers=headers).status_code == 401
            assert httpx2.post(f"{url}/v1/orders", headers=headers).status_code == 401
        assert [line["level"] for line in lines(name) if "refused" in line["event"]] == ["warning"]


def test_keys_of_make_api_key_open_the_service(image_with: Any, installed_with: Any) -> None:
    """Two at once: while a caller changes keys, both are known."""
    project = installed_with(auth="api-key")
    old, old_entry = make_key(project, "ci-1", "orders:read orders:write")
    new, new_entry = make_key(project, "ci-2", "orders:write")
    poor, poor_entry = make_key(project, "ci-3")
    with container(image_with("api-key"), f"--env=API_KEYS={old_entry},{new_entry},{poor_entry}") as (name, url):
        assert_probes_metrics_and_docs_are_open(url)
        for key, caller in ((old, "ci-1"), (new, "ci-2")):
            headers = {"X-API-Key": key}
            assert httpx2.get(f"{url}/v1/me", headers=headers).json()["id"] == caller
            assert httpx2.post(f"{url}/v1/orders", headers=headers).json() == caller
        for headers in ({}, {"X-API-Key": old[:-1]}, {"X-API-Key": old_entry.split(":")[1]}):
            assert_refused(httpx2.post(f"{url}/v1/orders", headers=headers), 401, "ApiKey")
        lacking = httpx2.post(f"{url}/v1/orders", headers={"X-API-Key": poor})
        assert (lacking.status_code, lacking.json()["detail"]) == (403, "The API key needs: orders:write")
        logged = lines_of_orders(
            name, [(200, "ci-1"), (200, "ci-2"), (401, None), (401, None), (401, None), (403, "ci-3")]
        )
        assert not any(secret in json.dumps(logged) for secret in (old, new, old[:-1]))
        shown = json.dumps([inspect(image_with("api-key")), inspect(name)])
        assert old not in shown
        assert new not in shown
        assert "API_KEYS" not in json.dumps(inspect(image_with("api-key")))
    with container(image_with("api-key"), f"--env=API_KEYS={new_entry}") as (_, url):
        assert get(f"{url}/v1/me", headers={"X-API-Key": old}).status_code == 401
        assert get(f"{url}/v1/me", headers={"X-API-Key": new}).status_code == 200


@both
def test_the_body_of_an_unknown_caller_is_not_read(image_with: Any, auth: str) -> None:
    """The response is there before the body was sent, and the connection closes."""
    with container(image_with(auth)) as (_, url):
        get(f"{url}/health/live")
        host, port = url.removeprefix("http://").split(":")
        for length in ("Content-Length: 1000000", "Transfer-Encoding: chunked"):
            with socket.create_connection((host, int(port)), 10) as client:
                client.settimeout(10)
                head = f"POST /v1/orders/notes HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
                client.sendall(f"{head}Expect: 100-continue\r\n{length}\r\n\r\n".encode())
                received = b"".join(iter(lambda client=client: client.recv(65_536), b"")).lower()
            assert received.startswith(b"http/1.1 401 unauthorized\r\n")
            assert b"\r\nconnection: close\r\n" in received


def test_keys_may_come_from_a_secrets_file(image_with: Any, installed_with: Any, tmp_path: Path) -> None:
    key, entry = make_key(installed_with(auth="api-key"), "ci")
    (tmp_path / "api_keys").write_text(f"{entry}\n")
    tmp_path.chmod(0o755)
    with container(image_with("api-key"), f"--volume={tmp_path}:/run/secrets:ro") as (_, url):
        assert get(f"{url}/v1/me", headers={"X-API-Key": key}).json() == {"id": "ci", "scopes": []}


@pytest.mark.parametrize(
    ("auth", "variables", "told"),
    [
        ("api-key", {"API_KEYS": "ci:hunter2"}, ["API_KEYS"]),
        ("jwt", {"JWT_ISSUER": "hunter2"}, ["JWT_AUDIENCE", "JWT_JWKS_URL"]),
        ("jwt", {"JWT_JWKS_URL": "ftp://hunter2/"}, ["JWT_ISSUER", "JWT_AUDIENCE", "JWT_JWKS_URL"]),
    ],
)
def test_an_invalid_setting_is_one_line_with_variable_rule_and_example(
    image_with: Any, auth: str, variables: dict[str, str], told: list[str]
) -> None:
    given = [f"--env={name}={value}" for name, value in variables.items()]
    stopped = run("docker", "run", "--rm", *given, image_with(auth), check=False)
    assert stopped.returncode != 0
    assert stopped.stdout == ""
    assert [line.split(":")[0] for line in stopped.stderr.splitlines()] == told
    assert all("such as" in line for line in stopped.stderr.splitlines())
    assert "hunter2" not in stopped.stderr


class Issuer:
    """Publishes its key over HTTPS at the bridge's gateway, which containers reach, from `start` to `stop`."""

    def __init__(self, folder: Path) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        template = "{{(index .IPAM.Config 0).Gateway}}"
        self.host = run("docker", "network", "inspect", "bridge", f"--format={template}").stdout.strip()
        self.port = 0
        self.certificate = folder / "issuer.pem"
        self._certify()
        self.start()

    def _certify(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "issuer")])
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(self.host))]), False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(x509.KeyUsage(True, False, False, False, False, True, True, False, False), True)
            .sign(key, hashes.SHA256())
        )
        self.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        self.certificate.with_suffix(".key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )

    def start(self) -> None:
        jwk = jwt.algorithms.ECAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
        content = json.dumps({"keys": [{**jwk, "kid": "first"}]}).encode()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None: ...

        self.server = http.server.ThreadingHTTPServer((self.host, self.port), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.certificate.with_suffix(".key"))
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def options(self, certificate: bool = True) -> list[str]:
        """Return the options of a container that trusts this issuer."""
        return [
            f"--env=JWT_ISSUER={NAME}",
            f"--env=JWT_AUDIENCE={AUDIENCE}",
            f"--env=JWT_JWKS_URL=https://{self.host}:{self.port}/jwks.json",
            *(
                ["--env=SSL_CERT_FILE=/issuer.pem", f"--volume={self.certificate}:/issuer.pem:ro"]
                if certificate
                else []
            ),
        ]

    def bearer(self, key: ec.EllipticCurvePrivateKey | None = None, **claims: Any) -> dict[str, str]:
        usual = {"iss": NAME, "aud": AUDIENCE, "sub": "ada", "exp": int(time.time()) + 600}
        token = jwt.encode({**usual, **claims}, key or self.key, "ES256", {"kid": "first"})
        return {"Authorization": f"Bearer {token}"}


@pytest.fixture
def issuer(engine: None, tmp_path: Path) -> Iterator[Issuer]:
    tmp_path.chmod(0o755)
    issuer = Issuer(tmp_path)
    yield issuer
    with contextlib.suppress(OSError):
        issuer.stop()


CHALLENGE = 'Bearer realm="my_service"'


def test_tokens_of_the_issuer_open_the_service(image_with: Any, issuer: Issuer) -> None:
    forged = issuer.bearer(ec.generate_private_key(ec.SECP256R1()))
    poor, rich = issuer.bearer(scope="orders:read"), issuer.bearer(scope="orders:read orders:write")
    with container(image_with("jwt"), *issuer.options()) as (name, url):
        assert_probes_metrics_and_docs_are_open(url)
        orders = f"{url}/v1/orders"
        assert httpx2.get(f"{url}/v1/me", headers=poor).json() == {"id": "ada", "scopes": ["orders:read"]}
        assert httpx2.post(orders, headers=rich).json() == "ada"
        assert_refused(httpx2.post(orders), 401, CHALLENGE)
        invalid = f'{CHALLENGE}, error="invalid_token", error_description='
        assert_refused(httpx2.post(orders, headers=forged), 401, f'{invalid}"The token is not valid"')
        late = issuer.bearer(exp=int(time.time()) - 300)
        assert_refused(httpx2.post(orders, headers=late), 401, f'{invalid}"The token has expired"')
        lacking = f'{CHALLENGE}, error="insufficient_scope", scope="orders:write"'
        assert_refused(httpx2.post(orders, headers=poor), 403, lacking)
        logged = json.dumps(lines_of_orders(name, [(200, "ada"), (401, None), (401, None), (401, None), (403, "ada")]))
        for headers in (forged, poor, rich, late):
            assert headers["Authorization"].rpartition(".")[2] not in logged
        assert "JWT_" not in json.dumps(inspect(image_with("jwt")))


def test_tokens_stay_valid_while_the_issuer_is_down_and_a_new_container_waits_for_it(
    image_with: Any, issuer: Issuer
) -> None:
    with container(image_with("jwt"), *issuer.options()) as (_, url):
        assert get(f"{url}/health/ready").status_code == 200
        issuer.stop()
        assert httpx2.get(f"{url}/v1/me", headers=issuer.bearer()).status_code == 200
        assert httpx2.get(f"{url}/health/ready").status_code == 200
        # A container that starts now has no key, reports that, and becomes ready by itself.
        with container(image_with("jwt"), *issuer.options()) as (second, second_url):
            assert get(f"{second_url}/health/live").status_code == 200
            answer = httpx2.get(f"{second_url}/v1/me", headers=issuer.bearer())
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) > 0
            assert answer.headers["content-type"] == "application/problem+json"
            assert httpx2.get(f"{second_url}/v1/me").status_code == 401
            assert httpx2.get(f"{second_url}/health/ready").json()["detail"].startswith("Failing: auth (")
            issuer.start()

            def ready() -> None:
                assert httpx2.get(f"{second_url}/health/ready").status_code == 200

            eventually(ready)
            assert httpx2.get(f"{second_url}/v1/me", headers=issuer.bearer()).json()["id"] == "ada"
            logged = run("docker", "logs", second).stdout
        assert httpx2.get(f"{url}/v1/me", headers=issuer.bearer()).status_code == 200
    assert "the issuer's keys can't be fetched" in logged
    assert "Traceback" not in logged


def test_keys_of_an_issuer_with_an_untrusted_certificate_are_not_used(image_with: Any, issuer: Issuer) -> None:
    """Its certificate is not among those that the image trusts."""
    with container(image_with("jwt"), *issuer.options(certificate=False)) as (name, url):
        assert get(f"{url}/v1/me", headers=issuer.bearer()).status_code == 503
        assert "CERTIFICATE_VERIFY_FAILED" in run("docker", "logs", name).stdout


def test_the_standard_library_that_tokens_need_is_compiled_in_the_image(image_with: Any) -> None:
    imports = (
        "import uvicorn.lifespan.on, uvicorn.protocols.http.httptools_impl\n"
        "import asyncio\n"
        "from my_service import app, settings\n"
        "from my_service.chassis.auth import jwks\n"
        "app.create_app(settings.Settings(log_level='error')).openapi()\n"
        "async def fetch():\n"
        "    async with jwks.IssuerKeys.of('https://localhost:1/') as keys: await keys.fetched()\n"
        "asyncio.run(fetch())"
    )
    assert uncompiled(image_with("jwt"), imports) == []


def test_tokens_add_at_most_20_mb_to_the_image_and_api_keys_nothing(image_with: Any, image: str) -> None:
    plain = inspect(image)["Size"]
    assert inspect(image_with("api-key"))["Size"] - plain < 1_000_000
    assert inspect(image_with("jwt"))["Size"] - plain < 20_000_000


@pytest.fixture
def alone(engine: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Return a port for a compose project of this test's own."""
    port = free_port()
    monkeypatch.setenv("COMPOSE_PROJECT_NAME", f"t{port}")
    yield port
    for kind in ("container", "volume", "network"):
        found = run("docker", kind, "ls", "--quiet", f"--filter=name=^t{port}[-_]").stdout.split()
        if found:
            run("docker", kind, "rm", *(["--force"] if kind != "network" else []), *found)


def test_four_commands_lead_from_nothing_to_an_authenticated_post(
    answers: dict[str, str], tmp_path: Path, alone: int
) -> None:
    """Those of this README; then three of the project's docs/auth.md. In production its issuer is refused."""
    for image in ("postgres:17", "redis:8"):
        standins.ensure(image)
    chosen = f"python_version={answers['python_version']} --data package_name=four_commands"
    project = tmp_path / "desk"

    def commands(text: str, after: str) -> list[str]:
        """Return the first four commands, for the port and the folder of this test."""
        lines = re.findall(r"(?m)^(?: {4})?((?:\S*python3?|cd|make|curl) .*?)(?:   *#.*)?$", text.partition(after)[2])[
            :4
        ]
        return [line.replace("localhost:8000", f"localhost:{alone}").replace("../desk", str(project)) for line in lines]

    new, up, token, curl = commands((ROOT / "README.md").read_text(), "four commands lead to a first row")
    run("sh", "-c", new.replace("--defaults", f"--defaults --data {chosen}"), cwd=ROOT)
    (project / ".env").write_text(f"PORT={alone}\n")
    try:
        run("sh", "-c", up, cwd=ROOT)
        assert run("sh", "-c", token, cwd=project).stdout.count(".") == 2
        assert json.loads(run("sh", "-c", curl, cwd=project).stdout)["name"] == "pen"
        up, token, curl = commands((project / "docs/auth.md").read_text(), "# Who may call it")[:3]
        assert up == "make up"
        assert run("sh", "-c", token, cwd=project).stdout.count(".") == 2
        assert json.loads(run("sh", "-c", curl, cwd=project).stdout) == {"id": "developer", "scopes": []}
        assert "Traceback" not in run("docker", "compose", "logs", "issuer", cwd=project).stdout
        assert get(f"http://localhost:{alone}/health/ready").status_code == 200
        assert httpx2.post(f"http://localhost:{alone}/v1/items", json={"name": "ink"}).status_code == 401
        shown = run("docker", "compose", "exec", "-T", "service", "ls", "-R", "/app", "/run", cwd=project).stdout
        assert "api_key.py" not in shown
        assert "jwt.py" in shown
        assert "issuer" not in shown
        refused = run("make", "up", cwd=project, check=False, env={**os.environ, "APP_ENV": "production"})
        assert refused.returncode != 0
        assert "JWT_ISSUER: The development issuer is not for production" in refused.stdout + refused.stderr
    finally:
        run("make", "down", "ARGS=--volumes", cwd=project)


@pytest.fixture
def served(
    render: Any, tmp_path: Path, one_environment: None
) -> Iterator[Callable[..., tuple[Path, str, subprocess.Popen[str]]]]:
    """Return `served(**environment)`: what `make dev` of a jwt project serves, until the test ends."""
    project = Path(shutil.copytree(render(auth="jwt"), tmp_path / "project"))
    processes: list[subprocess.Popen[str]] = []

    def serve(**environment: str) -> tuple[Path, str, subprocess.Popen[str]]:
        port = free_port()
        processes.append(
            subprocess.Popen(
                ["make", "dev", f"PORT={port}"],
                cwd=project,
                env={**os.environ, **environment},
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        )
        return project, f"http://127.0.0.1:{port}", processes[-1]

    yield serve
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=60)


def test_make_dev_has_the_development_issuer_until_it_ends(served: Any) -> None:
    project, url, process = served()
    bearer = f"Bearer {run('make', '-s', 'token', 'SUBJECT=ada', 'SCOPES=a:b c', cwd=project).stdout.strip()}"
    me = eventually(lambda: httpx2.get(f"{url}/v1/me", headers={"Authorization": bearer}), 90)
    assert me.json() == {"id": "ada", "scopes": ["a:b", "c"]}
    os.killpg(process.pid, signal.SIGINT)
    # The issuer's process has the output open too: this ends when both have ended.
    output, _ = process.communicate(timeout=60)
    assert "Traceback" not in output
    assert oct((project / ".secrets").stat().st_mode)[-3:] == "700"
    commit(project, "start")
    assert not re.findall(r"secrets", run("git", "ls-files", cwd=project).stdout)


@pytest.mark.parametrize(
    ("variables", "detail"),
    [
        ({"APP_ENV": "production"}, f"Failing: auth ({NOT_SET['jwt']})"),
        (
            {"JWT_ISSUER": "https://a.example/", "JWT_AUDIENCE": "a", "JWT_JWKS_URL": "http://127.0.0.1:1/"},
            "Failing: auth (the issuer's keys can't be fetched)",
        ),
    ],
    ids=["production", "another-issuer"],
)
def test_make_dev_has_no_development_issuer(served: Any, variables: dict[str, str], detail: str) -> None:
    _, url, _ = served(**variables)
    assert eventually(lambda: httpx2.get(f"{url}/health/ready"), 90).json()["detail"] == detail


@pytest.mark.parametrize(
    ("arguments", "variables", "reason"),
    [
        (['SCOPES="a"'], {}, "separated by spaces, such as: make token"),
        (["SUBJECT=a\tb"], {}, "SUBJECT is printable text"),
        ([], {"JWT_ISSUER": "https://a.example/"}, "JWT_ISSUER names https://a.example/: get a token there"),
    ],
)
def test_make_token_refuses_invalid_input_with_the_reason(
    render: Any, tmp_path: Path, arguments: list[str], variables: dict[str, str], reason: str
) -> None:
    project = Path(shutil.copytree(render(auth="jwt"), tmp_path / "project"))
    refused = run("make", "token", *arguments, cwd=project, check=False, env={**os.environ, **variables})
    assert refused.returncode != 0
    assert refused.stdout == ""
    assert reason in refused.stderr
    assert "Traceback" not in refused.stderr
