"""Limits on requests: how many at once, how long their bodies, how many cookies."""

import asyncio
import math

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import errors
from .operations import PROBES
from .settings import Settings

# Query parameters and cookies of one request together; parsed, each takes 200 bytes.
MOST_VALUES = 500
# After this many seconds, a body that is still arriving has to make room for others.
SLOW_BODY = 10.0
# How many more bytes a [, { or comma in a body counts as: parsed, values take more memory.
VALUE = 16
RETRY_AFTER = {"Retry-After": "1", "Connection": "close"}


class RequestLimits:
    """ASGI middleware that bounds bodies, and requests and WebSockets in flight.

    413: a body of more than MAX_BODY_BYTES. 503: MAX_CONCURRENT_REQUESTS are in flight, or
    their bodies are MAX_TOTAL_BODY_BYTES together; but if a body is slow, it gets a 408 instead.
    Probes are always served. FastAPI's own limit on bodies is not used: its response is plain
    text, which no exception handler sees.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.settings = settings
        self.requests = 0
        self.body_bytes = 0
        # The bodies that are arriving.
        self.waiting: dict[_Body, asyncio.Timeout] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return

        body = _Body(self, receive)
        app = self.app
        self.requests += 1
        try:
            try:
                receive = self._admit(scope, receive, body)
            except HTTPException as refusal:
                detail, headers = refusal.detail, dict(refusal.headers or {})
                request = HTTPConnection(scope)
                app = errors.problem(request, refusal.status_code, detail, headers=headers)
            await app(scope, receive, send)
        finally:
            self.requests -= 1
            body.release()

    def _admit(self, scope: Scope, receive: Receive, body: "_Body") -> Receive:
        full = self.requests > self.settings.max_concurrent_requests
        if full and not scope["path"].startswith(PROBES):
            self.make_room("requests", "MAX_CONCURRENT_REQUESTS")
        values = scope["query_string"].count(b"&")
        for name, value in scope["headers"]:
            if name == b"cookie":
                values += value.count(b";") + 1
            elif name == b"content-length":
                body.check(int(value))
                receive = body.begin()
            elif name == b"transfer-encoding":
                receive = body.begin()
        if values > MOST_VALUES:
            raise HTTPException(431, f"At most {MOST_VALUES} query parameters and cookies")
        return receive

    def make_room(self, what: str, setting: str) -> None:
        """End the oldest body that is arriving if it is slow, else raise a 503."""
        oldest = min(self.waiting, key=lambda body: body.since, default=None)
        if oldest is None or oldest.since > asyncio.get_running_loop().time() - SLOW_BODY:
            raise HTTPException(503, f"Too many {what} at once ({setting})", RETRY_AFTER)
        self.waiting.pop(oldest).reschedule(0)
        oldest.release()


class _Body:
    """The body of one request: how much of the limits it takes."""

    def __init__(self, limits: RequestLimits, receive: Receive) -> None:
        self.limits = limits
        self.receive = receive
        self.length = 0
        self.reserved = 0
        # When it began to arrive; infinite before that, and once it is complete.
        self.since = math.inf

    def begin(self) -> Receive:
        self.since = asyncio.get_running_loop().time()
        return self.receive_part

    def check(self, length: int) -> None:
        """Raise a 413 if a body is too long."""
        most = self.limits.settings.max_body_bytes
        if length > most:
            raise HTTPException(413, f"At most {most} bytes", {"Connection": "close"})

    def reserve(self, part: bytes) -> None:
        """Count what arrived, or raise a 413 or a 503 if that is too much."""
        self.length += len(part)
        self.check(self.length)
        size = len(part) + VALUE * sum(part.count(byte) for byte in (b"[", b"{", b","))
        most = self.limits.settings.max_total_body_bytes
        # A single body in flight is read even if it is longer.
        while self.limits.body_bytes + size > most and self.limits.body_bytes > self.reserved:
            self.limits.make_room("long requests", "MAX_TOTAL_BODY_BYTES")
        self.reserved += size
        self.limits.body_bytes += size

    def release(self) -> None:
        self.limits.body_bytes -= self.reserved
        self.reserved = 0

    async def receive_part(self) -> Message:
        try:
            async with asyncio.timeout(None) as self.limits.waiting[self]:
                message = await self.receive()
        except TimeoutError:
            detail = "The body took too long, and others need its place"
            raise HTTPException(408, detail, {"Connection": "close"}) from None
        finally:
            self.limits.waiting.pop(self, None)
        self.reserve(message.get("body", b""))
        if not message.get("more_body"):
            self.since = math.inf
        return message
