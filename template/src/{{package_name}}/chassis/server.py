"""The limits of connections and requests: how large, how slow, how many; nothing waits forever.

A request over a limit gets a problem document where one can still be sent, then its connection
ends. Limits without a setting are the constants below.
"""

import asyncio
import json
import math
import uuid
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from functools import partial
from http import HTTPStatus
from typing import Any, cast

import httptools
import structlog
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from . import errors, security
from .buffers import Buffers
from .operations import PROBES
from .settings import Settings

# All that is not body: request line and header fields; a chunk's extensions; trailers.
LONGEST_HEAD = 65_536
TOO_LONG = f"The request line and header fields may have at most {LONGEST_HEAD} bytes"
# Header fields and trailers of one request, or of all that wait for the responses before them:
# each takes memory, however short it is.
MOST_FIELDS = 100
# How many bytes are read at once.
MOST_READ = 65_536
# More is read at once in pieces of this size: what has no callback is counted by the piece.
PIECE = 2048
# Digits of a Content-Length. Python refuses to read thousands of them.
LONGEST_NUMBER = 19
# Requests that a connection may send before the first one is answered.
LONGEST_PIPELINE = 16
# Fewer bytes a second than this are no progress, in a body or while a client reads a response.
SLOWEST = 1000
# How often each connection is checked, in seconds.
TICK = 1.0
# After this many seconds, a body that is still arriving makes room for others that need it.
SLOW_BODY = 10.0
# What is longer leaves at once: no head of a response is.
LONGEST_HELD = 8192
# How long a client that is still sending has to read why its connection ends, in seconds.
LINGER = 1.0
RETRY_AFTER = {"Retry-After": "1", "Connection": "close"}

logger = structlog.get_logger()


class OneWrite:
    """A transport that holds the head of a response until its body follows: one system call.

    What is held leaves with the next write, else in the next turn of the event loop. `unread`
    is whether the client may still be sending: `close` then lets it read the response first.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        unread: Callable[[], bool],
    ) -> None:
        self.transport = transport
        self.loop = loop
        self.unread = unread
        self.held = b""
        self.written = 0
        self.closing = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)

    def write(self, data: bytes) -> None:
        if self.closing:
            # Of a response that was refused after its start.
            return
        if self.held:
            data, self.held = self.held + data, b""
        elif len(data) <= LONGEST_HELD:
            self.held = data
            self.loop.call_soon(self.flush)
            return
        self.written += len(data)
        self.transport.write(data)

    def flush(self) -> None:
        if self.held:
            self.written += len(self.held)
            self.transport.write(self.held)
            self.held = b""

    def is_closing(self) -> bool:
        return self.closing or self.transport.is_closing()

    def close(self) -> None:
        self.flush()
        if self.is_closing() or not self.unread():
            self.transport.close()
            return
        # Closing a socket that has unread bytes resets it, and the response may be lost.
        self.closing = True
        self.transport.pause_reading()
        with suppress(OSError):
            self.transport.write_eof()
        self.loop.call_later(LINGER, self.transport.close)


class Fixed(list[tuple[bytes, bytes]]):
    """Header fields that stay as they are: uvicorn would append trailers to them."""

    def append(self, field: tuple[bytes, bytes]) -> None:
        """Drop a trailer: it is no header (RFC 9110, 6.5.1)."""


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol, with limits. One timer per connection, none per request."""

    transport: OneWrite  # type: ignore[assignment]

    def __init__(self, settings: Settings, buffers: Buffers, **given: Any) -> None:
        super().__init__(**given)
        self.settings = settings
        self.buffers = buffers
        # Bytes since the last piece of a body, or the last end of a head or a request.
        self.overhead = 0
        self.in_body = False
        self.deaf = False
        self.keep_alive_after_body = False
        # What the client has to send, and by when (in the event loop's time).
        self.waits_for: str | None = None
        self.deadline = math.inf
        self.patience = 0.0
        self.sent = 0
        self.read_deadline = math.inf
        self.fault = 400, "Malformed HTTP"
        self.fields = 0
        self.running: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        # Of asyncio's transport; without it, 256 KB of each connection may wait.
        transport.max_size = MOST_READ  # type: ignore[attr-defined]
        one = OneWrite(transport, self.loop, self._is_unread)
        super().connection_made(cast(asyncio.Transport, one))
        self._wait("head", self.settings.request_head_timeout_seconds)
        self.timer = self.loop.call_later(TICK, self._tick)
        if len(self.connections) > self.settings.max_connections:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self.timer.cancel()
        self.buffers.release(self)
        if self.running is not None and self.running is not self.cycle:
            # uvicorn ends only the request that came last.
            _disconnect(self.running)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.buffers.hold(self, self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        super().resume_writing()
        self.buffers.release(self)
        if self.running is not None and self.running.response_complete:
            self._go_on()

    def cut(self) -> None:
        self.transport.abort()

    def eof_received(self) -> None:
        # The transport closes itself now.
        self.transport.flush()

    def data_received(self, data: bytes) -> None:
        if len(data) <= PIECE:
            self._feed(data)
            return
        for start in range(0, len(data), PIECE):
            self._feed(data[start : start + PIECE])

    def _feed(self, data: bytes) -> None:
        if self.deaf:
            return
        self.overhead += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._refuse(*self.fault)
        else:
            if self.overhead > LONGEST_HEAD:
                self._refuse(431, TOO_LONG)
            else:
                self._watch(len(data))

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields += 1
        if self.fields > MOST_FIELDS:
            self.fault = 431, f"At most {MOST_FIELDS} header fields"
            raise ValueError("too many fields")
        if len(value) > LONGEST_NUMBER and name.lower() == b"content-length":
            raise ValueError("too many digits")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= LONGEST_PIPELINE:
            raise ValueError("too many requests at once")
        if self.parser.should_upgrade():
            # `_upgrade` follows.
            return
        super().on_headers_complete()
        self.headers = Fixed(self.headers)
        self.overhead = 0
        self.in_body = True

    def on_body(self, body: bytes) -> None:
        self.overhead = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self.overhead = 0
        if not self.pipeline:
            self.fields = 0
        if self.parser.should_upgrade():
            return
        self.in_body = False
        if self.keep_alive_after_body:
            self.keep_alive_after_body = False
            self.cycle.keep_alive = not self.cycle.response_started
        super().on_message_complete()

    def on_response_complete(self) -> None:
        # Instead of uvicorn's, which starts and cancels a timer for each request.
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.flow.write_paused:
            # The client reads this response before the next one takes memory.
            self.flow.pause_reading()
        else:
            self._go_on()
        self._watch(0)

    def _go_on(self) -> None:
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self.fields = 0

    def handle_websocket_upgrade(self) -> None:
        # Its own protocol has the connection now, with its own deadlines.
        self.timer.cancel()
        self.deaf = True
        self.deadline = math.inf
        self.transport.flush()
        self.transport = self.transport.transport  # type: ignore[assignment]
        self.scope["method"] = self.parser.get_method().decode()
        super().handle_websocket_upgrade()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self.running = cycle
        # The task of the response before may be the one that starts it, with all that it bound.
        Context().run(super()._start_asgi_task, cycle, app)

    def _upgrade(self, rest: bytes) -> None:
        fields = dict(self.headers)
        if b"upgrade" not in fields:
            self._refuse(400, "CONNECT is for proxies")
        elif not self._should_upgrade():
            self._ignore_upgrade(rest)
        elif fields.keys() & {b"content-length", b"transfer-encoding"}:
            self._refuse(400, "A WebSocket handshake has no body")
        elif self._is_busy():
            self._refuse(400, "A WebSocket handshake waits for the response before it")
        else:
            self.handle_websocket_upgrade()

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Read the request again as one without `Upgrade`, which is then served (RFC 9110, 7.8)."""
        version = self.parser.get_http_version().encode()
        head = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
        head += [b"%s: %s" % field for field in self.headers if field[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._feed(b"\r\n".join(head) + b"\r\n\r\n" + rest)

    def _is_busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _is_unread(self) -> bool:
        return self.in_body or self.overhead > 0

    def _wait(self, for_: str, seconds: float) -> None:
        if self.waits_for != for_:
            self.waits_for = for_
            self.patience = seconds
            self.deadline = self.loop.time() + seconds

    def _watch(self, received: int) -> None:
        """Set the deadline after `received` bytes have arrived or a response was sent."""
        if self.in_body:
            self._watch_body(received)
        elif self.cycle is not None and not self.cycle.response_complete:
            self.waits_for = None
            self.deadline = math.inf
        elif self.overhead:
            self._wait("head", self.settings.request_head_timeout_seconds)
        else:
            self._wait("next request", self.timeout_keep_alive)

    def _watch_body(self, received: int) -> None:
        stall = self.settings.stall_timeout_seconds
        if self.cycle.response_complete:
            self._wait("rest of the body", stall)
        elif self.waits_for == "body":
            self.deadline = min(self.loop.time() + stall, self.deadline + received / SLOWEST)
        else:
            self._wait("body", stall)
            self.keep_alive_after_body = self.cycle.keep_alive and self._is_long()
            if self.keep_alive_after_body:
                # Not to be read if the response comes first.
                self.cycle.keep_alive = False

    def _is_long(self) -> bool:
        fields = dict(self.cycle.scope["headers"])
        return int(fields.get(b"content-length", LONGEST_HEAD + 1)) > LONGEST_HEAD

    def _tick(self) -> None:
        self.timer = self.loop.call_later(TICK, self._tick)
        now = self.loop.time()
        self._watch_reader(now)
        if self.flow.read_paused or (self.cycle and self.cycle.waiting_for_100_continue):
            # The delay is the service's.
            self.deadline += TICK
        if now < self.deadline:
            return
        self.deadline = math.inf
        if self.in_body or self.overhead:
            self._refuse(408, f"The {self.waits_for} took too long")
        else:
            self.transport.close()

    def _watch_reader(self, now: float) -> None:
        """Cut the connection of a client that does not read its response."""
        left = self.transport.get_write_buffer_size()
        sent = self.transport.written - left
        if not left:
            self.read_deadline = math.inf
        else:
            most = now + self.settings.stall_timeout_seconds
            self.read_deadline = min(most, self.read_deadline + (sent - self.sent) / SLOWEST)
        self.sent = sent
        if now > self.read_deadline:
            self.transport.abort()

    def _make_room(self) -> None:
        """Cut a connection: an idle one, else the one that waits longest without progress.

        The newest one, which may be a probe's, is cut only if all others have requests in flight.
        """
        others = [one for one in self.connections if isinstance(one, Protocol) and one is not self]
        waiting = [one for one in others if one.deadline < math.inf]
        cut = min(waiting, key=Protocol._patience_left, default=self)
        cut.deadline = math.inf
        cut.transport.abort()

    def _patience_left(self) -> tuple[bool, float]:
        return self.waits_for != "next request", self.deadline - self.patience

    def _refuse(self, status: int, detail: str) -> None:
        self.deaf = True
        running = self.running
        if self.in_body and running is not None and self.cycle is not running:
            # Never begun: its body is at fault.
            self.pipeline.popleft()
            self.cycle = self.pipeline[0][0] if self.pipeline else running
            self.in_body = False
        cycle = self.cycle
        busy = self._is_busy()
        if busy and not self.in_body:
            # The fault is in a request that came too early: those before it get their responses.
            cycle.keep_alive = False
            return
        if not self.in_body or (busy and not cycle.response_started):
            self.transport.write(self._problem(status, detail))
        if busy:
            _disconnect(cycle)
        self.transport.close()

    def _problem(self, status: int, detail: str) -> bytes:
        request_id = uuid.uuid4().hex
        client = self.client[0] if self.client else None
        logger.warning(
            "request refused", request_id=request_id, status=status, detail=detail, client=client
        )
        title = HTTPStatus(status).phrase
        members = {"title": title, "status": status, "detail": detail, "request_id": request_id}
        body = json.dumps({"type": "about:blank", **members}).encode()
        fields = [
            *self.server_state.default_headers,
            *security.HEADERS,
            (b"x-request-id", request_id.encode()),
            (b"content-type", errors.ProblemResponse.media_type.encode()),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        head = b"HTTP/1.1 %d %s\r\n" % (status, title.encode())
        return head + b"".join(b"%s: %s\r\n" % field for field in fields) + b"\r\n" + body


def _disconnect(cycle: RequestResponseCycle) -> None:
    cycle.disconnected = True
    cycle.message_event.set()


def protocol(settings: Settings, buffers: Buffers) -> type[asyncio.Protocol]:
    """Return what uvicorn takes as `http`: the protocol with the limits of `settings`."""
    return cast(type[asyncio.Protocol], partial(Protocol, settings, buffers))


class RequestLimits:
    """ASGI middleware that bounds bodies, and requests and WebSockets in flight.

    413: a body of more than MAX_BODY_BYTES. 503: MAX_CONCURRENT_REQUESTS are in flight, or
    their bodies are MAX_TOTAL_BODY_BYTES together. Probes are always served. FastAPI's own
    limit of a body answers in plain text that no exception handler sees.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.settings = settings
        self.requests = 0
        self.body_bytes = 0
        # The bodies that wait for their clients.
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
                app = _refusal(scope, refusal)
            await app(scope, receive, send)
        finally:
            self.requests -= 1
            body.release()

    def _admit(self, scope: Scope, receive: Receive, body: "_Body") -> Receive:
        full = self.requests > self.settings.max_concurrent_requests
        if full and not scope["path"].startswith(PROBES):
            detail = "Too many requests at once (MAX_CONCURRENT_REQUESTS)"
            raise HTTPException(503, detail, RETRY_AFTER)
        for name, value in scope["headers"]:
            if name == b"content-length":
                body.check(int(value))
                receive = body.begin()
            elif name == b"transfer-encoding":
                receive = body.begin()
        return receive

    def make_room(self) -> None:
        """End the oldest body that waits if it is slow, or raise what another's client gets."""
        oldest = min(self.waiting, key=lambda body: body.since, default=None)
        if oldest is None or oldest.since > asyncio.get_running_loop().time() - SLOW_BODY:
            detail = "Too many long requests at once (MAX_TOTAL_BODY_BYTES)"
            raise HTTPException(503, detail, RETRY_AFTER)
        self.waiting.pop(oldest).reschedule(0)
        oldest.release()


class _Body:
    """The body of one request: how much of the limits it takes."""

    def __init__(self, limits: RequestLimits, receive: Receive) -> None:
        self.limits = limits
        self.receive = receive
        self.reserved = 0
        # When it began to arrive; never, once it is whole.
        self.since = math.inf

    def begin(self) -> Receive:
        self.since = asyncio.get_running_loop().time()
        return self.receive_part

    def check(self, length: int) -> None:
        """Raise what the client gets if the body is too long; a promise takes no memory yet."""
        most = self.limits.settings.max_body_bytes
        if length > most:
            raise HTTPException(413, f"At most {most} bytes", {"Connection": "close"})

    def reserve(self, size: int) -> None:
        """Take `size` bytes that arrived, or raise what the client gets instead."""
        self.check(self.reserved + size)
        most = self.limits.settings.max_total_body_bytes
        # The only body in flight is read, even if it is longer than that.
        while self.limits.body_bytes + size > most and self.limits.body_bytes > self.reserved:
            self.limits.make_room()
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
            detail = "The body took too long, and others need its place (MAX_TOTAL_BODY_BYTES)"
            raise HTTPException(408, detail, {"Connection": "close"}) from None
        finally:
            self.limits.waiting.pop(self, None)
        self.reserve(len(message.get("body", b"")))
        if not message.get("more_body"):
            self.since = math.inf
        return message


def _refusal(scope: Scope, error: HTTPException) -> ASGIApp:
    headers = dict(error.headers or {})
    return errors.problem(HTTPConnection(scope), error.status_code, error.detail, headers=headers)
