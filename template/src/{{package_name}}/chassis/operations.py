"""Probes, metrics and docs: found with one look-up, before any route of yours."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, cast

from fastapi import APIRouter
from fastapi.openapi.utils import get_openapi
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Receive, Scope, Send

# Any host may call these; they are left out of the log unless LOG_LEVEL=debug, and of the traces.
PROBES = ("/health/", "/metrics")


class Operations(BaseRoute):
    """The routes of several routers; none may have a parameter in its path."""

    def __init__(self, routers: Iterable[APIRouter]) -> None:
        self.router = APIRouter(routes=[route for router in routers for route in router.routes])
        self.by_path: dict[str, list[BaseRoute]] = defaultdict(list)
        for route in cast(list[Route], self.router.routes):
            self.by_path[route.path].append(route)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        path = scope["path"]
        if path not in self.by_path:
            # Behind a proxy that strips no prefix, or mounted in another application.
            path = path.removeprefix(scope.get("root_path", ""))
        best: tuple[Match, Scope] = Match.NONE, {}
        for route in self.by_path.get(path, ()):
            match, child = route.matches(scope)
            if match is not Match.NONE and best[0] is not Match.FULL:
                best = match, child
        return best

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        # FastAPI's router, so that traces name the route too.
        await self.router.app(scope, receive, send)

    def describe(self, document: dict[str, Any]) -> None:
        """Add these routes to an OpenAPI document, below the others."""
        described = get_openapi(title="", version="", routes=self.router.routes)
        document["paths"].update(described["paths"])
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas.update(described.get("components", {}).get("schemas", {}))
