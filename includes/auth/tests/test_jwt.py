"""Only bearers of a valid token of the issuer get in."""

import base64
import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from fastapi import FastAPI, WebSocket
from fastapi.testclient import TestClient
from starlette.testclient import WebSocketDenialResponse

from my_service import auth, health, jwks, settings
from my_service.app import chassis

from . import callers

pytestmark = pytest.mark.usefixtures("own_checks")

CHALLENGE = f'Bearer realm="{auth.__package__}"'


@pytest.fixture
def issuer(monkeypatch: pytest.MonkeyPatch) -> Iterator[callers.Issuer]:
    """An issuer of this test's own, and the settings that name it."""
    issuer = callers.Issuer("first", "rsa")
    monkeypatch.setenv("JWT_JWKS_URL", issuer.url)
    yield issuer
    issuer.stop()


@pytest.fixture
def serve() -> Iterator[Callable[[], TestClient]]:
    """Start the service when the test says so, with the settings of then."""
    clients: list[TestClient] = []

    def start() -> TestClient:
        clients.append(TestClient(chassis(settings.Settings())).__enter__())
        return clients[-1]

    yield start
    for client in clients:
        client.__exit__(None, None, None)


def ask(client: TestClient, token: str) -> Any:
    return client.get("/v1/me", headers={"Authorization": f"Bearer {token}"})


def assert_refused(answer: Any, reason: str = "The token is not valid") -> None:
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["www-authenticate"] == (
        f'{CHALLENGE}, error="invalid_token", error_description="{reason}"'
    )
    assert answer.json()["detail"] == reason


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def part(content: dict[str, Any] | bytes) -> str:
    raw = (
        content
        if isinstance(content, bytes)
        else json.dumps(content, separators=(",", ":")).encode()
    )
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@pytest.mark.parametrize("key", ["first", "rsa"])
@pytest.mark.parametrize("audience", [callers.AUDIENCE, ["https://other", callers.AUDIENCE]])
def test_a_valid_token_tells_who_calls(client: TestClient, key: str, audience: Any) -> None:
    answer = ask(client, callers.token(key, aud=audience, sub="ada", scope="read write"))
    assert answer.status_code == 200
    assert answer.json() == {"id": "ada", "scopes": ["read", "write"]}


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic YTpi", "Token x"])
def test_without_a_token_the_challenge_tells_what_is_needed(
    client: TestClient, header: str | None
) -> None:
    del client.headers["Authorization"]
    answer = client.get("/v1/me", headers={} if header is None else {"Authorization": header})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == CHALLENGE
    assert answer.headers["content-type"] == "application/problem+json"


NOW = int(time.time())


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"iss": "https://evil.example/"}, "The token is another issuer's"),
        ({"iss": callers.NAME.rstrip("/")}, "The token is another issuer's"),
        ({"iss": [callers.NAME]}, "The token is another issuer's"),
        ({"iss": None}, "The token lacks one of exp, iss, aud and sub"),
        ({"aud": "https://other"}, "The token is for another audience"),
        ({"aud": ["https://other"]}, "The token is for another audience"),
        ({"aud": {callers.AUDIENCE: True}}, "The token is for another audience"),
        ({"aud": callers.AUDIENCE + "/"}, "The token is for another audience"),
        ({"aud": None}, "The token lacks one of exp, iss, aud and sub"),
        ({"exp": NOW - 60}, "The token has expired"),
        ({"exp": 0}, "The token has expired"),
        ({"exp": None}, "The token lacks one of exp, iss, aud and sub"),
        ({"exp": "soon"}, "The token is not valid"),
        ({"exp": float("inf")}, "The token is not valid"),
        ({"nbf": NOW + 3600}, "The token is not valid yet"),
        ({"iat": NOW + 3600}, "The token is not valid yet"),
        ({"sub": None}, "The token lacks one of exp, iss, aud and sub"),
        ({"sub": 7}, "The token is not valid"),
        ({"sub": ""}, "The token is not valid"),
        ({"sub": "a\nb"}, "The token is not valid"),
        ({"sub": "\ud800"}, "The token is not valid"),
    ],
)
def test_a_token_that_says_the_wrong_thing_is_refused(
    client: TestClient, claims: dict[str, Any], reason: str
) -> None:
    usual = {"iss": callers.NAME, "aud": callers.AUDIENCE, "sub": "tests", "exp": NOW + 600}
    said = {name: value for name, value in {**usual, **claims}.items() if value is not None}
    # By hand: the library would not sign some of these.
    signed = jwt.PyJWS().encode(
        json.dumps(said).encode(), callers.private_key("first"), "ES256", {"kid": "first"}
    )
    assert_refused(ask(client, signed), reason)


def test_clocks_may_differ_by_the_leeway(client: TestClient) -> None:
    late = callers.token(exp=NOW - 5)
    early = callers.token(iat=NOW + 20, nbf=NOW + 20)
    assert ask(client, late).status_code == 200
    assert ask(client, early).status_code == 200


def said_by(token: str) -> dict[str, Any]:
    return jwt.decode(token, options={"verify_signature": False})


def unsigned(algorithm: str) -> str:
    return f"{part({'alg': algorithm, 'kid': 'first'})}.{part(said_by(callers.token()))}."


def signed_with_what_is_public(form: serialization.PublicFormat) -> str:
    """HS256 with the issuer's public key as its secret: whoever trusts `alg` lets it in."""
    public = callers.private_key("rsa").public_key()
    secret = public.public_bytes(serialization.Encoding.PEM, form)
    claims = said_by(callers.token("rsa"))
    signed = f"{part({'alg': 'HS256', 'kid': 'rsa', 'typ': 'JWT'})}.{part(claims)}"
    return f"{signed}.{part(hmac.digest(secret, signed.encode(), 'sha256'))}"


def signed_by_a_key_of_its_own(**header: Any) -> str:
    claims = said_by(callers.token())
    return jwt.encode(claims, callers.private_key("evil"), "ES256", {"kid": "first", **header})


def tampered(**claims: Any) -> str:
    token = callers.token()
    header, _, signature = token.split(".")
    return f"{header}.{part({**said_by(token), **claims})}.{signature}"


def with_header(**header: Any) -> str:
    claims = said_by(callers.token())
    signed = f"{part({'alg': 'ES256', 'kid': 'first', **header})}.{part(claims)}"
    algorithm = jwt.get_algorithm_by_name("ES256")
    return f"{signed}.{part(algorithm.sign(signed.encode(), callers.private_key('first')))}"


ATTACKS = {
    "alg none": unsigned("none"),
    "alg None": unsigned("None"),
    "no signature": unsigned("ES256"),
    "HS256 with the public key": signed_with_what_is_public(
        serialization.PublicFormat.SubjectPublicKeyInfo
    ),
    "HS256 with the public key in PKCS1": signed_with_what_is_public(
        serialization.PublicFormat.PKCS1
    ),
    "another's key": signed_by_a_key_of_its_own(),
    "another's key, brought along": signed_by_a_key_of_its_own(jwk=callers.public("evil")),
    "another's key set": signed_by_a_key_of_its_own(jku="https://evil.example/jwks.json"),
    "a key of another type": signed_by_a_key_of_its_own(kid="rsa"),
    "an unknown key": signed_by_a_key_of_its_own(kid="evil"),
    "another algorithm of the key": jwt.encode(
        said_by(callers.token()), callers.private_key("rsa"), "PS256", {"kid": "rsa"}
    ),
    "other claims": tampered(sub="root"),
    "a spoilt signature": callers.token()[:-9] + "AAAAAAAAA",
    "no key id": with_header(kid=None),
    "a key id that is no text": with_header(kid=["first"]),
    "an algorithm that is no text": with_header(alg=["ES256"]),
    "an unknown extension": with_header(crit=["x"], x=1),
    "an unencoded payload": with_header(b64=False, crit=["b64"]),
    "a huge token": callers.token(filler="x" * 20_000),
    "nested too deep": f"{part(b'[' * 5_000)}.{part({})}.",
    "no JSON": f"{part(b'x')}.{part(b'x')}.{part(b'x')}",
    "not three parts": "a.b",
    "not even ASCII": "ü.ü.ü",
}


@pytest.mark.parametrize("token", ATTACKS.values(), ids=ATTACKS)
def test_a_forged_token_is_refused(client: TestClient, token: str) -> None:
    answer = client.get("/v1/me", headers={b"Authorization": f"Bearer {token}".encode()})
    assert_refused(answer)


def test_the_forged_ones_differ_from_a_valid_one_in_one_thing(client: TestClient) -> None:
    """Else they would be refused for something else."""
    assert ask(client, with_header()).status_code == 200
    assert ask(client, tampered()).status_code == 200
    assert ask(client, callers.token(filler="x" * 5_000)).status_code == 200


def test_what_is_for_everybody_stays_open(client: TestClient) -> None:
    del client.headers["Authorization"]
    for path in ("/health/live", "/health/ready", "/metrics", "/docs", "/openapi.json"):
        assert client.get(path).status_code == 200


@pytest.fixture
def app(bare: FastAPI) -> FastAPI:
    app = bare

    @app.get("/v1/test-orders", dependencies=[auth.required])
    async def list_orders() -> list[str]:
        return []

    @app.post("/v1/test-orders", dependencies=[auth.scopes("orders:read", "orders:write")])
    async def create_order(caller: auth.Caller) -> str:
        return caller.id

    @app.websocket("/v1/socket", dependencies=[auth.required])
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text(websocket.state.caller)

    return app


def test_a_router_that_requires_it_is_closed_websockets_too(client: TestClient) -> None:
    assert client.get("/v1/test-orders").status_code == 200
    with client.websocket_connect("/v1/socket") as websocket:
        assert websocket.receive_text() == "tests"
    del client.headers["Authorization"]
    assert client.get("/v1/test-orders").status_code == 401
    with pytest.raises(WebSocketDenialResponse), client.websocket_connect("/v1/socket"):
        pass


@pytest.mark.parametrize(
    ("claims", "status"),
    [
        ({"scope": "orders:read orders:write"}, 200),
        ({"scope": ["orders:write", "orders:read", 7]}, 200),
        ({"scp": ["orders:read", "orders:write", "more"]}, 200),
        ({"scp": "orders:write orders:read"}, 200),
        ({"scope": "orders:read"}, 403),
        ({"scope": "orders:reads orders:write"}, 403),
        ({"scope": 7, "scp": {"orders:write": True}}, 403),
        ({}, 403),
    ],
)
def test_scopes_are_what_the_token_grants(
    client: TestClient, claims: dict[str, Any], status: int
) -> None:
    answer = client.post("/v1/test-orders", headers=callers.credential(**claims))
    assert answer.status_code == status
    if status == 403:
        assert answer.headers["www-authenticate"] == (
            f'{CHALLENGE}, error="insufficient_scope", scope="orders:read orders:write"'
        )
        assert answer.json()["detail"] == "The token needs: orders:read orders:write"


def test_what_no_scope_can_be_is_not_granted(client: TestClient) -> None:
    answer = client.get("/v1/me", headers=callers.credential(scope=["read", "\ud800", 7]))
    assert answer.json()["scopes"] == ["read"]


def test_scopes_need_a_token_in_the_first_place(client: TestClient) -> None:
    del client.headers["Authorization"]
    assert client.post("/v1/test-orders").status_code == 401


def test_a_token_is_verified_once_a_request(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    verify = auth.verify

    async def counted(token: str, *rest: Any) -> dict[str, Any]:
        calls.append(token)
        return await verify(token, *rest)

    monkeypatch.setattr(auth, "verify", counted)
    headers = callers.credential(scope="orders:read orders:write")
    assert client.post("/v1/test-orders", headers=headers).status_code == 200
    assert len(calls) == 1


def test_log_lines_tell_who_called_and_never_the_token(
    app: FastAPI, capsys: pytest.CaptureFixture[str]
) -> None:
    valid, forged = callers.token(sub="ada"), tampered(sub="root")
    with TestClient(app) as client:
        ask(client, valid)
        ask(client, forged)
    printed = capsys.readouterr().out
    known, unknown = (json.loads(line) for line in printed.splitlines())
    assert known["caller"] == "ada"
    assert "caller" not in unknown
    for token in (valid, forged):
        assert token.split(".")[1] not in printed


def test_the_api_description_asks_for_a_token(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    operation = document["paths"]["/v1/test-orders"]["post"]
    (scheme,) = (name for requirement in operation["security"] for name in requirement)
    told = document["components"]["securitySchemes"][scheme]
    assert (told["type"], told["scheme"], told["bearerFormat"]) == ("http", "bearer", "JWT")
    assert "4XX" in operation["responses"]
    assert "security" not in document["paths"]["/health/live"]["get"]


def test_a_new_key_of_the_issuer_is_fetched_when_a_token_names_it(
    issuer: callers.Issuer, serve: Callable[[], TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "REFRESH_SECONDS", 0)
    client = serve()
    assert ask(client, callers.token()).status_code == 200
    assert_refused(ask(client, callers.token("second")))
    issuer.keys = [callers.public("second")]
    assert ask(client, callers.token("second")).status_code == 200
    assert_refused(ask(client, callers.token("first")))


def test_unknown_keys_cost_the_issuer_one_fetch_in_a_while(
    issuer: callers.Issuer, serve: Callable[[], TestClient]
) -> None:
    client = serve()
    for number in range(20):
        assert_refused(ask(client, signed_by_a_key_of_its_own(kid=f"evil-{number}")))
    assert issuer.fetches == 1


def test_who_asks_during_a_fetch_waits_for_it(
    issuer: callers.Issuer, serve: Callable[[], TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    answer = issuer.answer

    def slow(request: BaseHTTPRequestHandler) -> None:
        begun.set()
        go_on.wait(20)
        answer(request)

    monkeypatch.setattr(issuer, "answer", slow)
    monkeypatch.setattr(health, "CHECK_TIMEOUT_SECONDS", 0.01)
    client = serve()
    statuses: list[int] = []
    asking = [
        threading.Thread(target=lambda: statuses.append(ask(client, callers.token()).status_code))
        for _ in range(5)
    ]
    assert begun.wait(20)
    for thread in asking:
        thread.start()
    # The service answers others meanwhile, and one who gives up ends the wait of nobody else.
    assert client.get("/health/live").status_code == 200
    assert client.get("/health/ready").status_code == 503
    assert statuses == []
    go_on.set()
    for thread in asking:
        thread.join(20)
    assert statuses == [200] * 5
    assert issuer.fetches == 1


def test_a_revoked_key_goes_when_the_keys_are_fetched_again(
    issuer: callers.Issuer, serve: Callable[[], TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "LIFETIME_SECONDS", 0.01)
    monkeypatch.setattr(jwks, "REFRESH_SECONDS", 0)
    client = serve()
    assert ask(client, callers.token()).status_code == 200
    issuer.keys = [callers.public("second")]
    eventually(lambda: ask(client, callers.token("first")).status_code == 401)


def test_the_keys_stay_in_use_while_the_issuer_is_away(
    issuer: callers.Issuer, serve: Callable[[], TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "REFRESH_SECONDS", 0)
    monkeypatch.setattr(jwks, "RETRY_SECONDS", 0)
    client = serve()
    assert ask(client, callers.token()).status_code == 200
    issuer.stop()
    assert_refused(ask(client, callers.token("second")))
    assert ask(client, callers.token()).status_code == 200
    assert client.get("/health/ready").status_code == 200
    issuer.keys = [callers.public("second")]
    issuer.start()
    assert ask(client, callers.token("second")).status_code == 200


def test_before_the_first_fetch_no_token_can_be_judged(
    issuer: callers.Issuer,
    serve: Callable[[], TestClient],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(jwks, "RETRY_SECONDS", 0.01)
    issuer.stop()
    client = serve()
    answer = ask(client, callers.token())
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "0.01"
    assert answer.headers["content-type"] == "application/problem+json"
    assert client.get("/health/live").status_code == 200
    assert client.get("/health/ready").json()["detail"].startswith("Failing: auth (")
    assert client.get("/v1/me").status_code == 401
    issuer.start()
    eventually(lambda: client.get("/health/ready").status_code == 200)
    assert ask(client, callers.token()).status_code == 200
    printed = capsys.readouterr().out
    assert "the issuer's keys can't be fetched" in printed
    assert "Traceback" not in printed


def test_the_issuer_is_looked_for_without_a_request_and_then_left_alone(
    issuer: callers.Issuer, serve: Callable[[], TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "RETRY_SECONDS", 0.01)
    issuer.status = 500
    client = serve()
    eventually(lambda: issuer.fetches > 2)
    issuer.status = 200
    eventually(lambda: client.get("/health/ready").status_code == 200)
    fetches = issuer.fetches
    for number in range(20):
        assert_refused(ask(client, signed_by_a_key_of_its_own(kid=f"evil-{number}")))
    assert issuer.fetches == fetches
    # Some issuers refuse what Python calls itself.
    assert issuer.agent == auth.__package__


def test_after_a_failed_fetch_the_issuer_is_left_alone_for_a_while(
    issuer: callers.Issuer, serve: Callable[[], TestClient]
) -> None:
    issuer.status = 500
    client = serve()
    assert {ask(client, callers.token()).status_code for _ in range(10)} == {503}
    assert ask(client, callers.token()).headers["retry-after"] == "5"
    assert issuer.fetches == 1


SECRET = {"kty": "oct", "kid": "secret", "k": part(b"x" * 32)}
third: Any = callers.private_key("third")
PRIVATE = {**jwt.algorithms.ECAlgorithm.to_jwk(third, as_dict=True), "kid": "third"}
OTHERS = {
    "no object": "key",
    "nothing": None,
    "an empty object": {},
    "a shared secret": SECRET,
    "a shared secret for RS256": {**SECRET, "alg": "RS256"},
    "another curve": {**callers.public("second"), "crv": "P-384"},
    "another algorithm": {**callers.public("rsa"), "kid": "second", "alg": "RS512"},
    "for encryption": {**callers.public("second"), "use": "enc"},
    "a private key": PRIVATE,
    "spoilt": {**callers.public("second"), "x": "!"},
    "numbers as numbers": {**callers.public("second"), "x": 7},
    "lists": {"kty": ["RSA"], "kid": ["second"]},
    "a list as its id": {**callers.public("second"), "kid": ["second"]},
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_other_keys_of_the_set_are_passed_over(
    issuer: callers.Issuer, serve: Callable[[], TestClient], other: Any
) -> None:
    issuer.keys = [other, callers.public("first")]
    client = serve()
    assert ask(client, callers.token()).status_code == 200
    for kid, key in (("second", "second"), ("third", "third"), ("second", "rsa")):
        claims = said_by(callers.token())
        algorithm = "RS256" if key == "rsa" else "ES256"
        signed = jwt.encode(claims, callers.private_key(key), algorithm, {"kid": kid})
        assert_refused(ask(client, signed))


def test_a_key_that_is_too_short_verifies_nothing(
    issuer: callers.Issuer, serve: Callable[[], TestClient]
) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    public = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    issuer.keys = [{**public, "kid": "weak"}]
    with pytest.warns(jwt.InsecureKeyLengthWarning):
        signed = jwt.encode(said_by(callers.token()), key, "RS256", {"kid": "weak"})
    assert_refused(ask(serve(), signed))


def test_one_key_without_an_id_is_for_tokens_without_one(
    issuer: callers.Issuer, serve: Callable[[], TestClient]
) -> None:
    issuer.keys = [
        {name: value for name, value in callers.public("first").items() if name != "kid"}
    ]
    claims = said_by(callers.token())
    client = serve()
    assert ask(client, jwt.encode(claims, callers.private_key("first"), "ES256")).status_code == 200
    assert_refused(ask(client, callers.token()))


def send(body: bytes, status: int = 200, length: int | None = None) -> Callable[..., None]:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        request.send_header("Location", f"http://{request.headers['Host']}/")
        request.send_header("Content-Length", str(len(body) if length is None else length))
        request.end_headers()
        request.wfile.write(body)

    return answer


GOOD = json.dumps({"keys": [callers.public("second")]}).encode()
BROKEN = {
    "no JSON": send(b"<html>"),
    "nothing": send(b""),
    "a list": send(b"[]"),
    "no keys": send(b"{}"),
    "keys that are no list": send(b'{"keys": 7}'),
    "nested too deep": send(b'{"keys":' + b"[" * 100_000),
    "too much": send(GOOD + b" " * 300_000),
    "too little": send(GOOD[:-1], length=len(GOOD)),
    "an error": send(GOOD, 500),
    "a redirect": send(GOOD, 302),
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_an_answer_that_is_no_key_set_changes_nothing(
    issuer: callers.Issuer,
    serve: Callable[[], TestClient],
    monkeypatch: pytest.MonkeyPatch,
    broken: Callable[..., None],
) -> None:
    monkeypatch.setattr(jwks, "REFRESH_SECONDS", 0)
    client = serve()
    assert ask(client, callers.token()).status_code == 200
    monkeypatch.setattr(issuer, "answer", broken)
    assert_refused(ask(client, callers.token("second")))
    assert issuer.fetches == 2
    assert ask(client, callers.token()).status_code == 200


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 ", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\n\r\n"]
)
def test_an_issuer_that_never_finishes_is_not_waited_for_and_asked_again(
    issuer: callers.Issuer,
    serve: Callable[[], TestClient],
    monkeypatch: pytest.MonkeyPatch,
    head: bytes,
) -> None:
    ended = threading.Event()

    def drip(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(head)
        with suppress(OSError):
            while not ended.wait(0.01):
                request.wfile.write(b"2")
        ended.set()

    monkeypatch.setattr(jwks, "FETCH_SECONDS", 0.2)
    monkeypatch.setattr(jwks, "RETRY_SECONDS", 0)
    answer = issuer.answer
    monkeypatch.setattr(issuer, "answer", drip)
    client = serve()
    assert ask(client, callers.token()).status_code == 503
    # The service has closed the connection: what drips ends.
    assert ended.wait(10)
    monkeypatch.setattr(issuer, "answer", answer)
    monkeypatch.setattr(jwks, "FETCH_SECONDS", 10)
    # A fetch that began before may still fail.
    deadline = time.monotonic() + 10
    while ask(client, callers.token()).status_code != 200:
        assert time.monotonic() < deadline


def test_a_stop_does_not_wait_for_an_issuer_that_never_finishes(
    issuer: callers.Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, ended = threading.Event(), threading.Event()

    def hang(request: BaseHTTPRequestHandler) -> None:
        asked.set()
        ended.wait(60)

    monkeypatch.setattr(jwks, "FETCH_SECONDS", 60)
    monkeypatch.setattr(issuer, "answer", hang)
    with TestClient(chassis(settings.Settings())):
        assert asked.wait(10)
        stopped = time.monotonic()
    assert time.monotonic() - stopped < 10
    ended.set()


def test_no_issuer_is_warned_of_and_lets_nobody_in(
    serve: Callable[[], TestClient],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in callers.environment():
        monkeypatch.delenv(name)
    client = serve()
    printed = capsys.readouterr().out
    assert printed.count("every token is refused") == 1
    assert all(name in printed for name in callers.environment())
    assert_refused(ask(client, callers.token()))
    assert client.get("/health/ready").status_code == 200


def test_in_production_no_issuer_is_not_ready(
    serve: Callable[[], TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APP_ENV", "production")
    monkeypatch.setattr(health, "checks", {"auth": health.checks["auth"]})
    for name in callers.environment():
        monkeypatch.delenv(name)
    answer = serve().get("/health/ready")
    assert answer.status_code == 503
    assert answer.json()["detail"] == (
        "Failing: auth (JWT_ISSUER, JWT_AUDIENCE and JWT_JWKS_URL are not set)"
    )


@pytest.mark.parametrize(("environment", "status"), [("production", 503), ("test", 200)])
def test_in_production_an_empty_key_set_is_not_ready(
    issuer: callers.Issuer,
    serve: Callable[[], TestClient],
    monkeypatch: pytest.MonkeyPatch,
    environment: str,
    status: int,
) -> None:
    monkeypatch.setenv("APP_ENV", environment)
    monkeypatch.setattr(health, "checks", {"auth": health.checks["auth"]})
    issuer.keys = [SECRET]
    answer = serve().get("/health/ready")
    assert answer.status_code == status
    if status == 503:
        reason = "the issuer's key set has no key for RS256 or ES256"
        assert answer.json()["detail"] == f"Failing: auth ({reason})"


def test_an_issuer_that_is_down_is_why_the_service_is_not_ready(
    issuer: callers.Issuer, serve: Callable[[], TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "checks", {"auth": health.checks["auth"]})
    issuer.status = 500
    answer = serve().get("/health/ready")
    assert answer.status_code == 503
    assert answer.json()["detail"] == "Failing: auth (the issuer's keys can't be fetched)"


def test_the_development_issuer_is_refused_in_production(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JWT_ISSUER", auth.DEVELOPMENT_ISSUER)
    assert settings.load().jwt_issuer == auth.DEVELOPMENT_ISSUER
    monkeypatch.setenv("APP_ENV", "production")
    with pytest.raises(SystemExit) as stopped:
        settings.load()
    assert str(stopped.value).startswith("JWT_ISSUER: The development issuer is not for production")
    assert "such as https://login.example.com/" in str(stopped.value)


def test_the_three_settings_are_set_together(monkeypatch: pytest.MonkeyPatch) -> None:
    given = callers.environment()
    for missing in (["JWT_ISSUER"], ["JWT_AUDIENCE", "JWT_JWKS_URL"], ["JWT_JWKS_URL"]):
        for name, value in given.items():
            monkeypatch.setenv(name, "" if name in missing else value)
        monkeypatch.setenv("PORT", "none")
        with pytest.raises(SystemExit) as stopped:
            settings.load()
        lines = str(stopped.value).splitlines()
        assert {line.split(":")[0] for line in lines} == {"PORT", *missing}
        assert all("such as https://" in line for line in lines if line.startswith("JWT_"))


@pytest.mark.parametrize(
    ("url", "good"),
    [
        ("https://login.example.com/jwks.json?a=b", True),
        ("https://[::1]:8443", True),
        ("http://keycloak:8080/realms/x/certs", True),
        ("https://user:hunter2@login.example.com/", False),
        ("file:///etc/passwd", False),
        ("ftp://login.example.com/jwks.json", False),
        ("login.example.com/hunter2", False),
        ("https://", False),
        ("https://a b/", False),
    ],
)
def test_keys_come_by_http_alone(monkeypatch: pytest.MonkeyPatch, url: str, good: bool) -> None:
    monkeypatch.setenv("JWT_JWKS_URL", url)
    if good:
        assert settings.load().jwt_jwks_url == url
        return
    with pytest.raises(SystemExit) as stopped:
        settings.load()
    (line,) = str(stopped.value).splitlines()
    assert line.startswith("JWT_JWKS_URL: Starts with https:// or http://, such as ")
    assert "hunter2" not in line
