"""The edge: security headers, allowed hosts and CORS."""

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from .errors import on_http_exception, problem
from .settings import Settings
from .telemetry import PROBES

# For an API; a page that needs more brings a policy of its own, as `docs.py` does.
# OWASP REST Security Cheat Sheet, "Security Headers".
HEADERS = [
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]


class AllowedHosts:
    """ASGI middleware that answers 400 to a Host header that ALLOWED_HOSTS does not list."""

    def __init__(self, app: ASGIApp, hosts: list[str]) -> None:
        self.app = app
        self.hosts = frozenset(host.lower() for host in hosts if not host.startswith("*."))
        self.suffixes = tuple(host[1:].lower() for host in hosts if host.startswith("*."))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self.app
        # Probes name a container by its address.
        if scope["type"] == "http" and not scope["path"].startswith(PROBES):
            host = Headers(scope=scope).get("host", "").lower().rsplit(":", 1)[0]
            if host not in self.hosts and not host.endswith(self.suffixes):
                app = problem(Request(scope), 400, "This host is not served here")
        await app(scope, receive, send)


class NamedOrigins(CORSMiddleware):
    """Starlette's CORS, but the refusal of a preflight is a problem document."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except HTTPException as refusal:
            answer = await on_http_exception(Request(scope), refusal)
            await answer(scope, receive, send)

    def preflight_response(self, request_headers: Headers) -> Response:
        answer = super().preflight_response(request_headers)
        if answer.status_code >= 400:
            vary = {"Vary": answer.headers["vary"]}
            raise HTTPException(answer.status_code, bytes(answer.body).decode(), vary)
        return answer


def protect(app: ASGIApp, settings: Settings) -> ASGIApp:
    """Put around `app` what the settings ask for; by default no host is refused, each origin is."""
    if settings.cors_origins:
        app = NamedOrigins(
            app,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["X-Request-ID"],
        )
    if "*" not in settings.allowed_hosts:
        app = AllowedHosts(app, settings.allowed_hosts)
    return app
