"""An API key for development, in .dev: its scopes are SCOPES, separated by spaces."""

import hashlib
import os
import secrets

from . import servers
from .servers import FOLDER, Provided


def provide() -> Provided:
    if servers.given("API_KEYS") or servers.in_production():
        return Provided(header="X-API-Key: KEY", hint="KEY: one of those in API_KEYS")
    key = _key()
    entry = f"developer:{hashlib.sha256(key.encode()).hexdigest()}"
    hint = """the key has no scopes: make dev SCOPES="orders:write" gives it some"""
    if scopes := os.environ.get("SCOPES", "").split():
        entry += f":{'+'.join(scopes)}"
        hint = ""
    return Provided({"API_KEYS": entry}, header=f"X-API-Key: {key}", hint=hint)


def _key() -> str:
    path = FOLDER / "api-key"
    with servers.starting():
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text(f"dev_{secrets.token_urlsafe(32)}")
        return path.read_text()
