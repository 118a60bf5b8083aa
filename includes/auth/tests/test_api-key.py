"""Only holders of a key get in."""

import json
import re
import subprocess
import sys

import pytest
from fastapi import FastAPI, WebSocket
from fastapi.testclient import TestClient
from starlette.testclient import WebSocketDenialResponse

from my_service import auth, health, settings
from my_service.app import chassis

from . import callers

pytestmark = pytest.mark.usefixtures("own_checks")


@pytest.fixture
def app(bare: FastAPI) -> FastAPI:
    return bare


@pytest.fixture
def anonymous(client: TestClient) -> TestClient:
    for name in callers.credential():
        del client.headers[name]
    return client


def test_a_known_key_tells_who_calls(client: TestClient) -> None:
    answer = client.get("/v1/me")
    assert answer.status_code == 200
    assert answer.json() == {"id": "tests", "scopes": []}


@pytest.mark.parametrize("key", [None, "", "wrong", callers.KEY + "x", "ü", "x" * 10_000])
def test_without_a_known_key_nobody_gets_in(anonymous: TestClient, key: str | None) -> None:
    headers = {} if key is None else {b"X-API-Key": key.encode()}
    answer = anonymous.get("/v1/me", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "ApiKey"
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["title"] == "Unauthorized"


def test_no_other_key_gets_in(anonymous: TestClient) -> None:
    for number in range(200):
        answer = anonymous.get("/v1/me", headers=callers.credential(f"my_key_{number}"))
        assert answer.status_code == 401


def test_the_hash_is_no_key(anonymous: TestClient) -> None:
    _, digest = callers.environment()["API_KEYS"].split(":")
    assert anonymous.get("/v1/me", headers=callers.credential(digest)).status_code == 401


def test_what_is_for_everybody_stays_open(anonymous: TestClient) -> None:
    for path in ("/health/live", "/health/ready", "/metrics", "/docs", "/openapi.json"):
        assert anonymous.get(path).status_code == 200


def test_a_router_that_requires_it_is_closed_websockets_too(
    app: FastAPI, anonymous: TestClient
) -> None:
    @app.get("/v1/test-orders", dependencies=[auth.required])
    async def list_orders() -> list[str]:
        return []

    @app.websocket("/v1/socket", dependencies=[auth.required])
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text(websocket.state.caller)

    assert anonymous.get("/v1/test-orders").status_code == 401
    assert anonymous.get("/v1/test-orders", headers=callers.credential()).json() == []
    with pytest.raises(WebSocketDenialResponse), anonymous.websocket_connect("/v1/socket"):
        pass
    with anonymous.websocket_connect("/v1/socket", headers=callers.credential()) as websocket:
        assert websocket.receive_text() == "tests"


def test_keys_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a caller changes keys, both are known, each by its name."""
    entries = f"{callers.entry('ci-1', 'old')}, {callers.entry('ci-2', 'new')}"
    monkeypatch.setenv("API_KEYS", entries)
    client = TestClient(chassis(settings.Settings()))
    for key, name in (("old", "ci-1"), ("new", "ci-2")):
        assert client.get("/v1/me", headers=callers.credential(key)).json()["id"] == name
    monkeypatch.setenv("API_KEYS", callers.entry("ci-2", "new"))
    client = TestClient(chassis(settings.Settings()))
    assert client.get("/v1/me", headers=callers.credential("old")).status_code == 401


@pytest.mark.parametrize(
    ("scopes", "status"),
    [
        (["orders:read", "orders:write"], 200),
        (["orders:write", "https://api.example.com/*", "orders:read"], 200),
        (["orders:read"], 403),
        (["orders:reads", "orders:write"], 403),
        ([], 403),
    ],
)
def test_scopes_are_what_the_entry_grants(
    monkeypatch: pytest.MonkeyPatch, scopes: list[str], status: int
) -> None:
    monkeypatch.setenv("API_KEYS", callers.entry("ci", "key", *scopes))
    app = chassis(settings.Settings())

    @app.post("/v1/test-orders", dependencies=[auth.scopes("orders:read", "orders:write")])
    async def create_order(caller: auth.Caller) -> list[str]:
        return caller.scopes

    client = TestClient(app)
    assert client.post("/v1/test-orders").status_code == 401
    answer = client.post("/v1/test-orders", headers=callers.credential("key"))
    assert answer.status_code == status
    if status == 200:
        assert answer.json() == sorted(scopes)
    else:
        assert answer.json()["detail"] == "The API key needs: orders:read orders:write"


def test_no_keys_is_warned_of_and_lets_nobody_in(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("API_KEYS", "")
    with TestClient(chassis(settings.Settings())) as client:
        assert "API_KEYS is not set" in capsys.readouterr().out
        for headers in ({}, {"X-API-Key": ""}, callers.credential()):
            assert client.get("/v1/me", headers=headers).status_code == 401
        assert client.get("/health/ready").status_code == 200


def test_in_production_no_keys_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_ENV", "production")
    monkeypatch.setattr(health, "checks", {"auth": health.checks["auth"]})
    assert TestClient(chassis(settings.Settings())).get("/health/ready").status_code == 200
    monkeypatch.setenv("API_KEYS", "")
    answer = TestClient(chassis(settings.Settings())).get("/health/ready")
    assert answer.status_code == 503
    assert answer.json()["detail"] == "Failing: auth (API_KEYS is not set)"


def test_log_lines_tell_who_called_and_never_the_key(
    app: FastAPI, capsys: pytest.CaptureFixture[str]
) -> None:
    client = TestClient(app)
    client.get("/v1/me", headers=callers.credential())
    client.get("/v1/me", headers=callers.credential("wrong-key"))
    printed = capsys.readouterr().out
    known, unknown = (json.loads(line) for line in printed.splitlines())
    assert known["caller"] == "tests"
    assert "caller" not in unknown
    assert callers.KEY not in printed
    assert "wrong-key" not in printed


def test_the_api_description_asks_for_the_key(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    operation = document["paths"]["/v1/me"]["get"]
    (scheme,) = (name for requirement in operation["security"] for name in requirement)
    told = document["components"]["securitySchemes"][scheme]
    assert {name: told[name] for name in ("type", "in", "name")} == {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
    }
    assert "4XX" in operation["responses"]
    assert "security" not in document["paths"]["/health/live"]["get"]


HASH = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


@pytest.mark.parametrize(
    ("entries", "rule"),
    [
        ("hunter2", "Each entry is name:hash"),
        ("ci:hunter2", "Each entry is name:hash"),
        (HASH, "Each entry is name:hash"),
        (f":{HASH}", "Each entry is name:hash"),
        (f"c i:{HASH}", "Each entry is name:hash"),
        (f"ci:{HASH}0", "Each entry is name:hash"),
        (f"ci:{HASH.upper()}", "Each entry is name:hash"),
        (f"ci:{HASH}:", "Each entry is name:hash"),
        (f"ci:{HASH}:hunter2+", "Each entry is name:hash"),
        (f"ci:{HASH}:hunter2 b", "Each entry is name:hash"),
        (f"ci:{HASH},ci:{HASH[::-1]}", "Each name and each hash is there once"),
        (f"ci:{HASH}:a,cd:{HASH}:b", "Each name and each hash is there once"),
    ],
)
def test_a_fault_in_the_keys_is_told_in_one_line_without_them(
    monkeypatch: pytest.MonkeyPatch, entries: str, rule: str
) -> None:
    monkeypatch.setenv("API_KEYS", entries)
    with pytest.raises(SystemExit) as stopped:
        settings.load()
    (line,) = str(stopped.value).splitlines()
    assert line.startswith(f"API_KEYS: {rule}")
    assert ", such as " in line or " such as " in line
    assert "hunter2" not in line
    assert HASH not in line.lower()


def test_the_settings_do_not_show_the_hashes() -> None:
    _, digest = callers.environment()["API_KEYS"].split(":")
    assert digest not in repr(settings.load())


def test_a_new_key_is_printed_once_with_its_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-m", f"{auth.__package__}.auth", "ci"]
    made = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(2)]
    (key, entry), (other, _) = (re.findall(r"(?m)^    (\S+)$", done.stdout) for done in made)
    assert key != other
    assert key.startswith(f"{auth.__package__}_")
    assert len(key) > 40
    assert key not in entry
    monkeypatch.setenv("API_KEYS", entry)
    client = TestClient(chassis(settings.Settings()))
    assert client.get("/v1/me", headers=callers.credential(key)).json()["id"] == "ci"
    assert client.get("/v1/me", headers=callers.credential(other)).status_code == 401


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a,b", "a\n", "-a", "a" * 65, "ü"])
def test_a_name_that_will_not_do_is_refused_with_an_example(
    capsys: pytest.CaptureFixture[str], name: str
) -> None:
    with pytest.raises(SystemExit, match="such as: make api-key NAME=ci"):
        auth.main(name)
    assert capsys.readouterr().out == ""


def test_a_new_key_may_grant_scopes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    auth.main("ci", " orders:write  orders:read ")
    key, entry = re.findall(r"(?m)^    (\S+)$", capsys.readouterr().out)
    assert entry.endswith(":orders:write+orders:read")
    monkeypatch.setenv("API_KEYS", entry)
    answer = TestClient(chassis(settings.Settings())).get("/v1/me", headers=callers.credential(key))
    assert answer.json() == {"id": "ci", "scopes": ["orders:read", "orders:write"]}


@pytest.mark.parametrize("scopes", ["a,b", "a+b", "ü", "a b $(id)", '"a"'])
def test_invalid_scopes_are_refused_with_an_example(
    capsys: pytest.CaptureFixture[str], scopes: str
) -> None:
    with pytest.raises(SystemExit, match='such as: make api-key NAME=ci SCOPES="orders:write"'):
        auth.main("ci", scopes)
    assert capsys.readouterr().out == ""
