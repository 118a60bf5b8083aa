"""The edge: security headers, allowed hosts and CORS."""

import re
from ipaddress import AddressValueError, IPv6Address

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from .errors import problem
from .operations import PROBES

# For an API; a page that needs more brings a policy of its own, as `docs.py` does.
# OWASP REST Security Cheat Sheet, "Security Headers".
HEADERS = [
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]
DEFAULT_PORTS = {"http": ":80", "https": ":443"}

# A name or an address, and perhaps a port (RFC 9110, 7.2); a dot at the end is the DNS root.
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_-]+(?:\.[a-z0-9_-]+)*)\.?(?::[0-9]{0,5})?")


def host_of(scope: Scope) -> str | None:
    """Return the host that a request or a WebSocket handshake is for, in lower case, without port.

    An IPv6 address keeps its brackets. Empty if there is no Host, None if there is more than one
    or a malformed one.
    """
    fields = [value for name, value in scope["headers"] if name == b"host"]
    if not any(fields):
        return ""
    parts = _HOST.fullmatch(fields[0].decode("latin-1").lower())
    if parts is None or len(fields) > 1:
        return None
    host = parts[1]
    return host if host[0] != "[" or _is_ipv6(host[1:-1]) else None


def _is_ipv6(address: str) -> bool:
    try:
        IPv6Address(address)
    except AddressValueError:
        return False
    return True


class AllowedHosts:
    """ASGI middleware: 400 if a Host is malformed, or if ALLOWED_HOSTS does not list it."""

    def __init__(self, app: ASGIApp, hosts: list[str]) -> None:
        self.app = app
        self.any = "*" in hosts
        self.hosts = frozenset(host.lower() for host in hosts if not host.startswith("*."))
        self.suffixes = tuple(host[1:].lower() for host in hosts if host.startswith("*."))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self.app
        # Probes call a container by its address.
        if scope["type"] != "lifespan" and not scope["path"].startswith(PROBES):
            host = host_of(scope)
            if host is None:
                app = problem(HTTPConnection(scope), 400, "The Host header is malformed")
            elif not (self.any or host in self.hosts or host.endswith(self.suffixes)):
                app = problem(HTTPConnection(scope), 400, "This host is not served here")
        await app(scope, receive, send)


class HandshakeOrigins:
    """ASGI middleware: 403 to the WebSocket handshake of a page that CORS_ORIGINS does not list.

    Browsers let any page connect, with the user's cookies, and leave it to the server to check
    the Origin (RFC 6455, 10.2). Pages of the service's own host, and clients other than browsers,
    may connect.
    """

    def __init__(self, app: ASGIApp, origins: list[str]) -> None:
        self.app = app
        self.origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self.app
        if scope["type"] != "websocket":
            await app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        if not (origin is None or origin in self.origins or "*" in self.origins):
            scheme, _, authority = origin.partition("://")
            # Behind a proxy that ends TLS, the scheme may look like ws.
            port = DEFAULT_PORTS.get(scheme, "")
            if authority.removesuffix(port) != headers.get("host", "").lower().removesuffix(port):
                app = problem(HTTPConnection(scope), 403, "Pages of this origin may not connect")
        await app(scope, receive, send)
