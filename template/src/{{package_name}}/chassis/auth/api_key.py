"""Who may call: holders of an API key, of which only the hash is known here."""

import hashlib
import hmac
import re
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.requests import HTTPConnection
from fastapi.security import APIKeyHeader
from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from . import health
from .identity import Identity as Identity
from .identity import known, remember

logger = structlog.get_logger()

CHALLENGE = {"WWW-Authenticate": "ApiKey"}

NAME = "[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
DIGEST = "[0-9a-f]{64}"
# Of what RFC 6749 allows, what needs no quotes in a shell, in .env or in an entry.
SCOPE = "[A-Za-z0-9][A-Za-z0-9._:/*-]*"
ENTRY = re.compile(f"{NAME}:{DIGEST}(:{SCOPE}([+]{SCOPE})*)?")

header = APIKeyHeader(name="X-API-Key", auto_error=False)


def check_entries(entries: list[str]) -> list[str]:
    if not all(ENTRY.fullmatch(entry) for entry in entries):
        raise PydanticCustomError(
            "api_keys",
            "Each entry is name:hash or name:hash:scope+scope, the hash being the key's SHA-256 "
            "in 64 of 0-9 and a-f, such as the one that `make api-key NAME=ci` prints",
        )
    parts = [part for entry in entries for part in entry.split(":")[:2]]
    if len(set(parts)) < len(parts):
        raise PydanticCustomError(
            "api_keys",
            "Each name and each hash is there once; two keys of one caller are called "
            "such as ci-1 and ci-2",
        )
    return entries


# What the settings ask of API_KEYS.
key_entries = AfterValidator(check_entries)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    if not app.state.settings.api_keys:
        logger.warning("API_KEYS is not set: every caller is refused")
    yield


router = APIRouter(prefix="/v1/me", tags=["auth"], lifespan=lifespan)


@health.check("auth")
async def keys_are_set(request: Request) -> None:
    """In production, not ready without a key: every caller would be refused."""
    settings = request.app.state.settings
    if settings.app_env == "production" and not settings.api_keys:
        raise health.NotReadyError("API_KEYS is not set")


async def authenticate(connection: HTTPConnection) -> Identity:
    """Return whose key a connection brings; raise a 401 if nobody has that key."""
    if identity := known(connection):
        return identity
    key = await header(connection)
    if key is None:
        raise HTTPException(401, "An API key is needed, as X-API-Key", CHALLENGE)
    digest = hashlib.sha256(key.encode()).hexdigest()
    entries = [entry.split(":", 2) for entry in connection.app.state.settings.api_keys]
    # Each is compared, and in constant time: how long it takes says nothing about them.
    found = [entry for entry in entries if hmac.compare_digest(entry[1], digest)]
    if not found:
        raise HTTPException(401, "The API key is not known", CHALLENGE)
    name, _, *scopes = found[0]
    granted = sorted({scope for joined in scopes for scope in joined.split("+")})
    return remember(connection, Identity(id=name, scopes=granted))


async def identify(
    connection: HTTPConnection, scheme: Annotated[object, Depends(header)]
) -> Identity:
    """Authenticate; `scheme` puts into /docs how that is done."""
    return await authenticate(connection)


# In `dependencies=[...]` of a route or a router: only known callers.
required = Depends(identify)
# In a route's signature, `caller: Caller`: the same, and who it is.
Caller = Annotated[Identity, required]


def scopes(*needed: str) -> Any:
    """Where `required` goes: only callers whose key's entry grants all of `needed`."""

    async def authorize(caller: Caller) -> None:
        if not set(needed) <= set(caller.scopes):
            raise HTTPException(403, f"The API key needs: {' '.join(needed)}")

    return Depends(authorize)


@router.get("")
async def read_me(caller: Caller) -> Identity:
    """Reports who calls: a way to try a key."""
    return caller


def main(name: str, scopes: str = "") -> None:
    """Print a new key and its entry in API_KEYS; nothing keeps the key."""
    if not re.fullmatch(NAME, name):
        sys.exit(
            "NAME is whose key it is, in 1 to 64 of a-z, A-Z, 0-9, '.', '_' and '-', "
            "such as: make api-key NAME=ci"
        )
    if not all(re.fullmatch(SCOPE, scope) for scope in scopes.split()):
        sys.exit(
            "SCOPES are what the key grants, separated by spaces, each of a-z, A-Z, 0-9 and "
            """'.', '_', ':', '/', '*', '-', such as: make api-key NAME=ci SCOPES="orders:write\""""
        )
    key = f"{__package__}_{secrets.token_urlsafe(32)}"
    entry = f"{name}:{hashlib.sha256(key.encode()).hexdigest()}"
    if scopes.split():
        entry += f":{'+'.join(scopes.split())}"
    print(f"The key, shown only now; {name} sends it as X-API-Key:\n\n    {key}\n")
    print(f"Its entry in API_KEYS, which is no secret:\n\n    {entry}\n")
    print("In .env: API_KEYS= and the entry, several with commas between them; then start again.")


if __name__ == "__main__":
    main(*sys.argv[1:3])
