"""Puts the service together; every request passes `pipeline`, from top to bottom."""

from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version as version_of
from typing import Any

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from . import (
    docs,
    errors,
    event_loop,
    health,
    limits,
    logs,
    metrics,
    security,
    shutdown,
    sockets,
    telemetry,
)
from .feature import Feature
from .service import Service
from .settings import DISTRIBUTION, Settings

# What every service has.
BUILT_IN = (shutdown.feature, event_loop.feature)


def pipeline(settings: Settings, features: Sequence[Feature]) -> list[Middleware]:
    """List the middleware that requests and WebSockets pass, outermost first."""
    return [
        # The id, the log line, the metrics; headers of every response.
        Middleware(telemetry.Telemetry, security.HEADERS, settings.log_format),
        # 400 unless ALLOWED_HOSTS lists the Host.
        Middleware(security.AllowedHosts, settings.allowed_hosts),
        # CORS_ORIGINS: 403 to a WebSocket handshake of another origin, CORS headers for requests.
        Middleware(security.HandshakeOrigins, settings.cors_origins),
        *_cors(settings),
        # WebSockets end with a code or, before they are open, with a problem document.
        Middleware(sockets.Ending),
        # 413 to a body that is too large, 503 while there are too many requests.
        Middleware(limits.RequestLimits, settings),
        *(layer for feature in features for layer in feature.middleware),
    ]


def create_app(
    settings: Settings,
    *,
    title: str,
    description: str = "",
    version: str | None = None,
    features: Sequence[Feature] = (),
    **options: Any,
) -> Service:
    """Build the service; `options` are FastAPI's.

    Raise TypeError if `settings` lacks what a feature needs, ValueError if two features or
    checks have one name.
    """
    features = [*BUILT_IN, *features]
    _check(settings, features)
    logs.configure(settings.log_level, settings.log_format)
    service = Service(
        settings,
        features,
        pipeline(settings, features),
        [
            health.router,
            metrics.router(health.assess),
            *([docs.router(title)] if settings.docs_enabled else []),
        ],
        title=title,
        description=description,
        version=version or version_of(DISTRIBUTION),
        openapi_url="/openapi.json" if settings.docs_enabled else None,
        docs_url=None,
        redoc_url=None,
        telemetry=telemetry.tracing(),
        **options,
    )
    errors.install(service)
    metrics.BUILD.labels(service.version, settings.revision).set(1)
    return service


def _cors(settings: Settings) -> list[Middleware]:
    if not settings.cors_origins:
        return []
    cors = Middleware(
        CORSMiddleware,
        allow_origins=settings.cors_origins,
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=["X-Request-ID"],
    )
    return [cors]


def _check(settings: Settings, features: Sequence[Feature]) -> None:
    for feature in features:
        if not isinstance(settings, feature.settings):
            needed = f"{feature.settings.__module__}.{feature.settings.__name__}"
            raise TypeError(f"The feature {feature.name!r} needs Settings to derive from {needed}")
    names = Counter(feature.name for feature in features)
    names.update(name for feature in features for name in feature.checks.keys() - {feature.name})
    if twice := [name for name, count in names.items() if count > 1]:
        raise ValueError(f"Two features or checks are called {twice[0]!r}")
