"""Who may call: holders of an API key, of which only the hash is known here."""

import hashlib
import hmac
import re
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import structlog
from fastapi import APIRouter, Depends, FastAPI, HTTPException
from fastapi.requests import HTTPConnection
from fastapi.security import APIKeyHeader
from pydantic import AfterValidator, BaseModel
from pydantic_core import PydanticCustomError

logger = structlog.get_logger()

CHALLENGE = {"WWW-Authenticate": "ApiKey"}

ENTRY = re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,63}:[0-9a-f]{64}")

header = APIKeyHeader(name="X-API-Key", auto_error=False)


class Identity(BaseModel):
    """Who calls: `id` is the name of the key."""

    id: str


def check_entries(entries: list[str]) -> list[str]:
    if not all(ENTRY.fullmatch(entry) for entry in entries):
        raise PydanticCustomError(
            "api_keys",
            "Each entry is name:hash, the hash being the key's SHA-256 in 64 of 0-9 and a-f, "
            "such as the one that `make api-key NAME=ci` prints",
        )
    parts = [part for entry in entries for part in entry.split(":")]
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


async def identify(
    connection: HTTPConnection, key: Annotated[str | None, Depends(header)]
) -> Identity:
    """Tell whose key a request brings; 401 where it is nobody's."""
    if key is None:
        raise HTTPException(401, "An API key is needed, as X-API-Key", CHALLENGE)
    entries: list[str] = connection.app.state.settings.api_keys
    digest = hashlib.sha256(key.encode()).hexdigest()
    known = [entry.split(":") for entry in entries]
    # All are compared, each in constant time: how long it takes tells nothing of them.
    names = [name for name, known_digest in known if hmac.compare_digest(known_digest, digest)]
    if not names:
        raise HTTPException(401, "The API key is not known", CHALLENGE)
    connection.state.caller = names[0]
    structlog.contextvars.bind_contextvars(caller=names[0])
    return Identity(id=names[0])


# In `dependencies=[...]` of a route or a router: only known callers.
required = Depends(identify)
# In a route's signature, `caller: Caller`: the same, and who it is.
Caller = Annotated[Identity, required]


@router.get("")
async def read_me(caller: Caller) -> Identity:
    """Tells who calls: a way to try a key."""
    return caller


def main(name: str) -> None:
    """Print a new key and its entry in API_KEYS; nothing keeps the key."""
    key = f"{__package__}_{secrets.token_urlsafe(32)}"
    entry = f"{name}:{hashlib.sha256(key.encode()).hexdigest()}"
    if not ENTRY.fullmatch(entry):
        sys.exit(
            "NAME tells whose key it is, in 1 to 64 of a-z, A-Z, 0-9, '.', '_' and '-', "
            "such as: make api-key NAME=ci"
        )
    print(f"The key, shown only now; {name} sends it as X-API-Key:\n\n    {key}\n")
    print(f"Its entry in API_KEYS, which is no secret:\n\n    {entry}\n")
    print("In .env: API_KEYS= and the entry, several with commas between them; then start again.")


if __name__ == "__main__":
    main("".join(sys.argv[1:]))
