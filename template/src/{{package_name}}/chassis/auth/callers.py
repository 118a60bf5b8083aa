"""Who calls, and a middleware that leaves the body of an unknown caller unread."""

from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from fastapi.requests import HTTPConnection
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Identity(BaseModel):
    """Who calls: `id` is the name of the key or the token's subject, `scopes` what it grants."""

    id: str
    scopes: list[str]


def known(connection: HTTPConnection) -> Identity | None:
    """Return who calls, if this connection was authenticated before."""
    identity: Identity | None = getattr(connection.state, "identity", None)
    return identity


def remember(connection: HTTPConnection, identity: Identity) -> Identity:
    """Keep who calls for the rest of the request, its log line included."""
    connection.state.identity = identity
    connection.state.caller = identity.id
    structlog.contextvars.bind_contextvars(caller=identity.id)
    return identity


class AuthenticateFirst:
    """ASGI middleware that authenticates a request before its body is read.

    FastAPI reads the body before it calls any dependency. So, on a route that depends on
    `identify`, the first read of the body calls `authenticate`; what that raises is the response,
    and the connection closes instead of receiving the rest.
    """

    def __init__(
        self,
        app: ASGIApp,
        identify: Callable[..., Awaitable[Identity]],
        authenticate: Callable[[HTTPConnection], Awaitable[Identity]],
    ) -> None:
        self.app = app
        self.identify = identify
        self.authenticate = authenticate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        settled = False

        async def receive_authenticated() -> Message:
            nonlocal settled
            if not settled:
                await self._authenticate(scope)
                settled = True
            return await receive()

        await self.app(scope, receive_authenticated, send)

    async def _authenticate(self, scope: Scope) -> None:
        connection = HTTPConnection(scope)
        if known(connection) is None and self._is_needed(scope):
            try:
                await self.authenticate(connection)
            except HTTPException as refusal:
                refusal.headers = {**(refusal.headers or {}), "Connection": "close"}
                raise

    def _is_needed(self, scope: Scope) -> bool:
        # A test that replaces a dependency decides for itself who calls.
        if scope["app"].dependency_overrides:
            return False
        route = scope.get("route")
        # What `include_router(dependencies=...)` adds to a route, FastAPI keeps beside it.
        included = scope.get("fastapi", {}).get("effective_route_context")
        if getattr(included, "original_route", None) is route:
            route = included
        return self._depends(getattr(route, "dependant", None))

    def _depends(self, dependant: Any) -> bool:
        return dependant is not None and (
            dependant.call is self.identify or any(map(self._depends, dependant.dependencies))
        )
