"""The application: FastAPI inside a pipeline of middleware, with typed state."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar, cast

from fastapi import APIRouter, FastAPI
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from . import errors
from .feature import Feature
from .operations import Operations
from .settings import EnvironmentSettings, Settings

T = TypeVar("T")
S = TypeVar("S", bound=EnvironmentSettings)
# The readiness checks that fail, and those without which the service works.
Assessment = tuple[list[str], list[str]]


class Service(FastAPI):
    """FastAPI with the settings, the features, and the state of each feature by its type."""

    def __init__(
        self,
        settings: Settings,
        features: Sequence[Feature],
        pipeline: Sequence[Middleware],
        operations: Sequence[APIRouter],
        **options: Any,
    ) -> None:
        self.settings = settings
        self.features = features
        self.pipeline = pipeline
        self.states: dict[type, object] = {}
        self.operations = Operations(operations)
        # Set when a stop begins, so that streams and sockets can end.
        self.stop = asyncio.Event()
        # The newest run of the readiness checks: probes at the same time share it.
        self.assessment: asyncio.Task[Assessment] | None = None
        self.described: dict[str, Any] | None = None
        super().__init__(lifespan=_lifespan, responses=errors.RESPONSES, **options)
        # Before all other routes.
        self.router.routes.insert(0, self.operations)
        for feature in features:
            for router in feature.routers:
                self.include_router(router)

    @classmethod
    def of(cls, source: Service | HTTPConnection) -> Service:
        """Return the service that `source` is, or that handles this request or WebSocket."""
        return source if isinstance(source, Service) else cast(Service, source.scope["service"])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # A mounted application replaces scope["app"].
        scope["service"] = self
        await super().__call__(scope, receive, send)

    def build_middleware_stack(self) -> ASGIApp:
        app = super().build_middleware_stack()
        for layer in reversed(self.pipeline):
            app = layer.cls(app, *layer.args, **layer.kwargs)
        return app

    def openapi(self) -> dict[str, Any]:
        document = super().openapi()
        if document is not self.described:
            self.operations.describe(document)
            errors.describe(document)
            for feature in self.features:
                if feature.describe:
                    feature.describe(document)
            self.described = document
        return document


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service = cast(Service, app)
    async with AsyncExitStack() as stack:
        for feature in service.features:
            if feature.lifespan:
                state = await stack.enter_async_context(feature.lifespan(service))
                service.states[type(state)] = state
        yield


def state_of(source: Service | HTTPConnection, kind: type[T]) -> T:
    """Return what the lifespan of a feature yielded, found by its type `kind`.

    `source` is the service, or a request or WebSocket that it handles.
    """
    try:
        return cast(T, Service.of(source).states[kind])
    except KeyError:
        raise RuntimeError(
            f"No feature keeps a {kind.__module__}.{kind.__name__}: "
            "list its feature in create_app(features=[...]), and enter the lifespan"
        ) from None


def settings_of(source: Service | HTTPConnection, kind: type[S]) -> S:
    """Return the settings as `kind`, one of the classes that your `Settings` derives from."""
    settings = Service.of(source).settings
    if not isinstance(settings, kind):
        raise TypeError(f"Settings has to derive from {kind.__module__}.{kind.__name__}")
    return settings
