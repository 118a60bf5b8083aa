"""Middleware: the body of a request without valid credentials is not read."""

from typing import Any

from fastapi.requests import HTTPConnection
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .callers import authenticate, identify


class AuthenticateFirst:
    """ASGI middleware that authenticates a request before its body is read.

    FastAPI reads the body before it calls any dependency. So, if the route depends on `identify`,
    the first read of the body authenticates; if that raises, the error is the response, and the
    connection closes instead of receiving the body.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        settled = False

        async def receive_authenticated() -> Message:
            nonlocal settled
            if not settled:
                await _authenticate(scope)
                settled = True
            return await receive()

        await self.app(scope, receive_authenticated, send)


async def _authenticate(scope: Scope) -> None:
    if _is_protected(scope):
        try:
            await authenticate(HTTPConnection(scope))
        except HTTPException as refusal:
            refusal.headers = {**(refusal.headers or {}), "Connection": "close"}
            raise


def _is_protected(scope: Scope) -> bool:
    # A test that replaces a dependency decides who calls.
    if scope["service"].dependency_overrides:
        return False
    route = scope.get("route")
    # FastAPI keeps what `include_router(dependencies=...)` adds to a route beside the route.
    included = scope.get("fastapi", {}).get("effective_route_context")
    if getattr(included, "original_route", None) is route:
        route = included
    return _depends(getattr(route, "dependant", None))


def _depends(dependant: Any) -> bool:
    return dependant is not None and (
        dependant.call is identify or any(map(_depends, dependant.dependencies))
    )
