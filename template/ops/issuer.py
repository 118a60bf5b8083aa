# /// script
# requires-python = ">=3.11"
# dependencies = ["pyjwt[crypto]>=2.15"]
# ///
"""The development issuer: signs tokens for `make up` and `make dev`, never for production.

Its key is in .secrets/issuer, where `make` copies it for compose. The image has neither.
"""

import hashlib
import json
import os
import re
import signal
import sys
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

# The service refuses an issuer of this name in production.
ISSUER = "urn:development-issuer"
AUDIENCE = "development"
LIFETIME_SECONDS = 12 * 3600
SETTINGS = ("JWT_ISSUER", "JWT_AUDIENCE", "JWT_JWKS_URL")
_FOLDER = Path(__file__).parent
KEY = (_FOLDER if _FOLDER.name == "issuer" else _FOLDER.parent / ".secrets/issuer") / "key"
# The order of the curve's group, SEC 2: a private key is a number below it.
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def private_key() -> ec.EllipticCurvePrivateKey:
    """Derive the key from the random text in KEY, which a shell can make."""
    number = int.from_bytes(hashlib.sha512(KEY.read_bytes()).digest(), "big")
    return ec.derive_private_key(number % (ORDER - 1) + 1, ec.SECP256R1())


def public_key() -> dict[str, Any]:
    """Return the public key as a JWK (RFC 7517), with an id that depends on the key alone."""
    jwk = ECAlgorithm.to_jwk(private_key().public_key(), as_dict=True)
    key_id = hashlib.sha256(json.dumps(jwk, sort_keys=True).encode()).hexdigest()[:16]
    return {**jwk, "kid": key_id, "use": "sig", "alg": "ES256"}


def token() -> str:
    """Sign a token for SUBJECT that grants SCOPES."""
    subject = os.environ.get("SUBJECT") or "developer"
    scopes = os.environ.get("SCOPES", "").split()
    if not subject.isprintable() or not all(re.fullmatch(r"[!#-\[\]-~]+", s) for s in scopes):
        sys.exit(
            "SUBJECT is printable text, SCOPES are ASCII without quotes or backslashes, separated by "
            """spaces, such as: make token SUBJECT=ada SCOPES="orders:read orders:write\""""
        )
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": subject, "scope": " ".join(scopes)}
    times = {"iat": now, "exp": now + LIFETIME_SECONDS}
    headers = {"kid": public_key()["kid"]}
    return jwt.encode(claims | times, private_key(), algorithm="ES256", headers=headers)


def print_token() -> None:
    issuer = os.environ.get("JWT_ISSUER") or ISSUER
    if issuer != ISSUER:
        sys.exit(f"JWT_ISSUER names {issuer}: get a token there, or leave the JWT_ settings unset")
    print(token())


def key_server(host: str, port: int) -> ThreadingHTTPServer:
    """Make a server that responds to every path with the key set, health checks included."""
    body = json.dumps({"keys": [public_key()]}).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            # A health check may look at the status only.
            with suppress(ConnectionError):
                self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    return ThreadingHTTPServer((host, port), Handler)


def serve() -> None:
    """Serve the key set to compose's network until SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    key_server("0.0.0.0", 8000).serve_forever()  # noqa: S104


if __name__ == "__main__":
    {"token": print_token, "serve": serve}[sys.argv[1]]()
