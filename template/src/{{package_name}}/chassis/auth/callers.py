"""Who calls: authenticated once per request, in the same way for API keys and tokens."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

import structlog
from fastapi import Depends, HTTPException
from fastapi.openapi.models import HTTPBase
from fastapi.requests import HTTPConnection
from fastapi.security.base import SecurityBase
from pydantic import BaseModel

from ..service import state_of


class Identity(BaseModel):
    """Who calls: `id` is the API key's name or the token's subject, `scopes` is what it grants."""

    id: str
    scopes: list[str]


@dataclass(frozen=True)
class Authenticator:
    """How the service finds out who calls: the state of the feature.

    `authenticate` raises HTTPException, usually a 401. `forbidden` makes the 403 for a caller
    without the given scopes. `check` raises NotReadyError while nobody can be authenticated.
    """

    authenticate: Callable[[HTTPConnection], Awaitable[Identity]]
    forbidden: Callable[[str], HTTPException]
    check: Callable[[], Awaitable[None]]


class Scheme(SecurityBase):
    """Marks protected operations in OpenAPI; `feature.describe` inserts the real scheme."""

    scheme_name = "caller"
    model = HTTPBase(scheme="caller")

    async def __call__(self) -> None: ...


SCHEME = Scheme()


async def authenticate(connection: HTTPConnection) -> Identity:
    """Return who calls, and keep it for the request's log lines and rate limits."""
    identity: Identity | None = getattr(connection.state, "identity", None)
    if identity is None:
        identity = await state_of(connection, Authenticator).authenticate(connection)
        connection.state.identity = identity
        connection.state.caller = identity.id
        structlog.contextvars.bind_contextvars(caller=identity.id)
    return identity


async def identify(
    connection: HTTPConnection, scheme: Annotated[None, Depends(SCHEME)]
) -> Identity:
    """Authenticate; `scheme` puts it into the OpenAPI document."""
    return await authenticate(connection)
