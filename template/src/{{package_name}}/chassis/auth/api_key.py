"""Authentication with API keys, of which the service stores only hashes."""

import hashlib
import hmac
import re
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import structlog
from fastapi import HTTPException
from fastapi.requests import HTTPConnection
from fastapi.security import APIKeyHeader
from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from ..feature import NotReadyError
from ..service import Service, settings_of
from ..settings import PACKAGE, CommaList, EnvironmentSettings
from .callers import Authenticator, Identity
from .feature import authentication

__all__ = ["Settings", "feature"]

logger = structlog.get_logger()

CHALLENGE = {"WWW-Authenticate": "ApiKey"}

NAME = "[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
DIGEST = "[0-9a-f]{64}"
# Those scopes of RFC 6749 that need no quotes in a shell, in .env or in an entry.
SCOPE = "[A-Za-z0-9][A-Za-z0-9._:/*-]*"
ENTRY = re.compile(f"{NAME}:{DIGEST}(:{SCOPE}([+]{SCOPE})*)?")

header = APIKeyHeader(name="X-API-Key", auto_error=False)


def check_entries(entries: list[str]) -> list[str]:
    if not all(ENTRY.fullmatch(entry) for entry in entries):
        raise PydanticCustomError(
            "api_keys",
            "Each entry is name:hash or name:hash:scope+scope; the hash is the key's SHA-256 "
            "in 64 of 0-9 and a-f, such as the one that `make api-key NAME=ci` prints",
        )
    parts = [part for entry in entries for part in entry.split(":")[:2]]
    if len(set(parts)) < len(parts):
        raise PydanticCustomError(
            "api_keys",
            "Each name and each hash may occur only once; give two keys of one caller names "
            "such as ci-1 and ci-2",
        )
    return entries


class Settings(EnvironmentSettings):
    """API_KEYS: the entries of the keys that are accepted."""

    api_keys: Annotated[CommaList, AfterValidator(check_entries)] = Field(default=[], repr=False)


def find(key: str, entries: list[str]) -> Identity | None:
    """Return whose key this is, or None if it is unknown."""
    digest = hashlib.sha256(key.encode()).hexdigest()
    parts = [entry.split(":", 2) for entry in entries]
    # Compares all of them, each in constant time: the duration reveals nothing about them.
    found = [part for part in parts if hmac.compare_digest(part[1], digest)]
    if not found:
        return None
    name, _, *scopes = found[0]
    return Identity(id=name, scopes=sorted({s for joined in scopes for s in joined.split("+")}))


def forbidden(scopes: str) -> HTTPException:
    return HTTPException(403, f"The API key needs: {scopes}")


@asynccontextmanager
async def lifespan(service: Service) -> AsyncIterator[Authenticator]:
    settings = settings_of(service, Settings)
    if not settings.api_keys:
        logger.warning("API_KEYS is not set: every caller is refused")

    async def authenticate(connection: HTTPConnection) -> Identity:
        key = await header(connection)
        if key is None:
            raise HTTPException(401, "An API key is needed, as X-API-Key", CHALLENGE)
        if identity := find(key, settings.api_keys):
            return identity
        raise HTTPException(401, "The API key is not known", CHALLENGE)

    async def check() -> None:
        if settings.app_env == "production" and not settings.api_keys:
            raise NotReadyError("API_KEYS is not set")

    yield Authenticator(authenticate, forbidden, check)


feature = authentication(Settings, lifespan, header)


def main(name: str, scopes: str = "") -> None:
    """Print a new key and its entry for API_KEYS; the key is stored nowhere."""
    if not re.fullmatch(NAME, name):
        sys.exit(
            "NAME is the caller's name, in 1 to 64 of a-z, A-Z, 0-9, '.', '_' and '-', "
            "such as: make api-key NAME=ci"
        )
    if not all(re.fullmatch(SCOPE, scope) for scope in scopes.split()):
        sys.exit(
            "SCOPES are what the key grants, separated by spaces, each of a-z, A-Z, 0-9 and "
            """'.', '_', ':', '/', '*', '-', such as: make api-key NAME=ci SCOPES="orders:write\""""
        )
    key = f"{PACKAGE}_{secrets.token_urlsafe(32)}"
    entry = f"{name}:{hashlib.sha256(key.encode()).hexdigest()}"
    if scopes.split():
        entry += f":{'+'.join(scopes.split())}"
    print(f"The key, shown only now; {name} sends it as X-API-Key:\n\n    {key}\n")
    print(f"Its entry for API_KEYS, which is no secret:\n\n    {entry}\n")
    print("In .env, add it to API_KEYS=, separated by commas, then start the service again.")


if __name__ == "__main__":
    main(*sys.argv[1:3])
