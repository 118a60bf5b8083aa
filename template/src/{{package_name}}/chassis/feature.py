"""A feature: one value with everything that it adds to the service."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from starlette.middleware import Middleware

from .settings import EnvironmentSettings

if TYPE_CHECKING:
    from .service import Service

# Raises while the service is not ready.
Check = Callable[["Service"], Awaitable[None]]


class NotReadyError(Exception):
    """Raised by a check that fails; /health/ready shows the message to anybody."""


class DegradedError(Exception):
    """Raised by a check if the service works without it all the same; /health/ready shows why."""


@dataclass(frozen=True, kw_only=True)
class Feature:
    """What `create_app` adds to the service for each value in its `features`.

    What the lifespan yields is the feature's state; `state_of` finds it by its type. The
    middleware is the innermost of the pipeline. `describe` may change the OpenAPI document.
    """

    name: str
    settings: type[EnvironmentSettings] = EnvironmentSettings
    lifespan: Callable[[Service], AbstractAsyncContextManager[object]] | None = None
    checks: Mapping[str, Check] = field(default_factory=dict)
    routers: Sequence[APIRouter] = ()
    middleware: Sequence[Middleware] = ()
    describe: Callable[[dict[str, Any]], None] | None = None
