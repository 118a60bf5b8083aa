"""An issuer of tokens for the tests."""

import base64
import json
import threading
import time
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

AUDIENCE = "https://api.example.com"
NAME = "https://login.example.com/"

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@cache
def private_key(name: str) -> PrivateKey:
    """Return the key of that name: for RS256 if the name starts with rsa, else for ES256."""
    if name.startswith("rsa"):
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return ec.generate_private_key(ec.SECP256R1())


def public(name: str) -> dict[str, Any]:
    """Return the key as the issuer publishes it, a JWK (RFC 7517)."""
    key = private_key(name)
    if isinstance(key, rsa.RSAPrivateKey):
        jwk = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    else:
        jwk = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return {**jwk, "kid": name, "use": "sig"}


class Issuer:
    """Publishes `keys` at `url` over HTTP, from `start` to `stop`."""

    def __init__(self, *names: str) -> None:
        self.keys: Any = [public(name) for name in names]
        self.status = 200
        self.fetches = 0
        self.agent = ""
        self.port = 0
        self.start()

    def start(self) -> None:
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.fetches += 1
                issuer.agent = self.headers["User-Agent"]
                issuer.respond(self)

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def respond(self, request: BaseHTTPRequestHandler) -> None:
        body = json.dumps({"keys": self.keys}).encode()
        request.send_response(self.status)
        request.send_header("Location", f"{self.url}/elsewhere")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def token(key: str = "first", **claims: Any) -> str:
    """Sign a token with the usual claims; `claims` replace some of them, or remove them with None."""
    now = int(time.time())
    usual = {"iss": NAME, "aud": AUDIENCE, "sub": "tests", "iat": now, "exp": now + 600}
    given = {name: value for name, value in {**usual, **claims}.items() if value is not None}
    algorithm = "RS256" if key.startswith("rsa") else "ES256"
    return jwt.encode(given, private_key(key), algorithm, {"kid": key})


@cache
def issuer() -> Issuer:
    return Issuer("first", "rsa")


def environment(url: str = "") -> dict[str, str]:
    """Return the settings with which the service knows the caller "tests"."""
    return {
        "JWT_ISSUER": NAME,
        "JWT_AUDIENCE": AUDIENCE,
        "JWT_JWKS_URL": url or issuer().url,
    }


def credential(**claims: Any) -> dict[str, str]:
    """Return the header that proves who calls, with claims such as `scope="a b"`."""
    return {"Authorization": f"Bearer {token(**claims)}"}


def part(content: dict[str, Any] | bytes) -> str:
    """Return a part of a token in base64url: JSON as compact as the library's, or any bytes."""
    if not isinstance(content, bytes):
        content = json.dumps(content, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def claims_of(token: str) -> dict[str, Any]:
    return jwt.decode(token, options={"verify_signature": False})


def forged(**header: Any) -> str:
    """Sign a token that names the issuer's key, with another key."""
    key = private_key("evil")
    return jwt.encode(claims_of(token()), key, "ES256", {"kid": "first", **header})
