"""uvicorn's HTTP protocol with limits on connections: how long, how slow, how many.

A request over a limit gets a problem document if one can still be sent, then its connection
ends. Limits without a setting are the constants below.
"""

import asyncio
import math
import uuid
from contextlib import suppress
from contextvars import Context
from functools import partial
from typing import Any, cast

import httptools
import structlog
from starlette.requests import HTTPConnection
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from . import errors, security
from .buffers import Buffers
from .settings import Settings

# Everything but the body: request line and header fields; a chunk's extensions; trailers.
LONGEST_HEAD = 65_536
TOO_LONG = f"The request line and header fields may have at most {LONGEST_HEAD} bytes"
# Header fields and trailers of one request, or of all requests that wait for the response to an
# earlier one. Each takes memory, however short it is.
MOST_FIELDS = 100
# How many bytes are read at once: if they are tiny chunks, others wait for a millisecond.
MOST_READ = 8192
# How many bytes are parsed at once: those that cause no callback are counted per piece.
PIECE = 2048
# Digits of a Content-Length. Python refuses to convert thousands of them.
LONGEST_NUMBER = 19
# Requests that a connection may send before the first one has its response.
LONGEST_PIPELINE = 16
# Fewer bytes a second than this are no progress, in a body or while a client reads a response.
SLOWEST = 1000
# How often each connection is checked, in seconds.
TICK = 1.0
# Longer writes leave at once: the head of a response is shorter.
LONGEST_HELD = 8192
# How long a client that is still sending has to read why its connection ends, in seconds.
LINGER = 1.0

logger = structlog.get_logger()


class Transport:
    """A transport that holds the head of a response, to send it with the body in one system call.

    What is held leaves with the next write, or else in the next turn of the event loop. `close`
    lets a client that is still sending read the response first.
    """

    def __init__(self, transport: asyncio.Transport, protocol: "Protocol") -> None:
        self.transport = transport
        self.protocol = protocol
        self.held = b""
        self.written = 0
        self.lingering = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)

    def write(self, data: bytes) -> None:
        if self.held:
            data, self.held = self.held + data, b""
        elif len(data) <= LONGEST_HELD:
            self.held = data
            self.protocol.loop.call_soon(self.flush)
            return
        self.written += len(data)
        self.transport.write(data)

    def flush(self) -> None:
        if self.held:
            self.written += len(self.held)
            self.transport.write(self.held)
            self.held = b""

    def is_closing(self) -> bool:
        return self.lingering or self.transport.is_closing()

    def close(self) -> None:
        self.flush()
        if self.is_closing() or not self.protocol.is_receiving():
            self.transport.close()
            return
        # Closing a socket that has unread bytes resets it, and the response may be lost.
        self.lingering = True
        self.transport.pause_reading()
        with suppress(OSError):
            self.transport.write_eof()
        self.protocol.linger()


class Fixed(list[tuple[bytes, bytes]]):
    """Header fields that stay as they are: uvicorn would append trailers to them."""

    def append(self, field: tuple[bytes, bytes]) -> None:
        """Drop a trailer: it is no header (RFC 9110, 6.5.1)."""


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol, with limits. One timer per connection, none per request."""

    transport: Transport  # type: ignore[assignment]

    def __init__(self, settings: Settings, buffers: Buffers, **given: Any) -> None:
        super().__init__(**given)
        self.settings = settings
        self.buffers = buffers
        # Bytes since the last piece of a body, or the last end of a head or a request.
        self.overhead = 0
        self.in_body = False
        self.deaf = False
        self.keep_alive_after_body = False
        # What the client has to do, and by when (in the event loop's time).
        self.waits_for: str | None = None
        self.deadline = math.inf
        self.patience = 0.0
        self.sent = 0
        self.read_deadline = math.inf
        self.fault = 400, "Malformed HTTP"
        self.fields = 0
        self.running: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        # An attribute of asyncio's transport; without it, 256 KB of each connection may wait.
        transport.max_size = MOST_READ  # type: ignore[attr-defined]
        super().connection_made(cast(asyncio.Transport, Transport(transport, self)))
        self._wait("head", self.settings.request_head_timeout_seconds)
        self.timer = self.loop.call_later(TICK, self._tick)
        if len(self.connections) > self.settings.max_connections:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self.timer.cancel()
        self.buffers.release(self)
        if self.running is not None and self.running is not self.cycle:
            # uvicorn ends only the newest request.
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

    def eof_received(self) -> None:
        # After this, asyncio closes the transport.
        self.transport.flush()

    def data_received(self, data: bytes) -> None:
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
            # The client has to read this response before the next one takes memory.
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
        # The WebSocket protocol takes the connection over, with deadlines of its own.
        self.timer.cancel()
        self.deaf = True
        self.transport.flush()
        self.transport = self.transport.transport  # type: ignore[assignment]
        self.scope["method"] = self.parser.get_method().decode()
        super().handle_websocket_upgrade()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self.running = cycle
        # The previous request's task may start this one, and must not pass its log context on.
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
            self._refuse(400, "A WebSocket handshake has to wait for the response before it")
        else:
            self.handle_websocket_upgrade()

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Parse the request again without `Upgrade`, so that it is served (RFC 9110, 7.8)."""
        version = self.parser.get_http_version().encode()
        head = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
        head += [b"%s: %s" % field for field in self.headers if field[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._feed(b"\r\n".join(head) + b"\r\n\r\n" + rest)

    def _is_busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def is_receiving(self) -> bool:
        """Whether the client may still be sending: the rest of a request, or more than is read."""
        return self.deaf or self.in_body or self.overhead > 0

    def linger(self) -> None:
        """Close the connection once the client has had time to read the response."""
        self.deaf = True
        self._wait("end", LINGER)

    def _wait(self, for_: str | None, seconds: float) -> None:
        if self.waits_for != for_:
            self.waits_for = for_
            self.patience = seconds
            self.deadline = self.loop.time() + seconds

    def _watch(self, received: int) -> None:
        """Set the deadline after `received` bytes have arrived or a response was sent."""
        if self.in_body:
            self._watch_body(received)
        elif self._is_busy():
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
                # If the response is sent first, the rest is not read.
                self.cycle.keep_alive = False

    def _is_long(self) -> bool:
        fields = dict(self.cycle.scope["headers"])
        return int(fields.get(b"content-length", LONGEST_HEAD + 1)) > LONGEST_HEAD

    def _tick(self) -> None:
        self.timer = self.loop.call_later(TICK, self._tick)
        now = self.loop.time()
        self._watch_reader(now)
        if not self.transport.lingering and self._is_service_slow():
            self.deadline += TICK
        if now < self.deadline:
            return
        self.deadline = math.inf
        if self.is_receiving() and not self.transport.lingering:
            self._refuse(408, f"The {self.waits_for} took too long")
        else:
            self.transport.close()

    def _is_service_slow(self) -> bool:
        waits_for_consent = self.cycle is not None and self.cycle.waiting_for_100_continue
        return self.flow.read_paused or waits_for_consent

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
        """Cut the connection that has been idle or without progress for longest.

        The newest one, which may be a probe's, is cut only if all others have requests in flight.
        """
        # They include WebSockets, which have a deadline while they are closing.
        others = cast(set[Protocol], self.connections - {self})
        waiting = [one for one in others if one.deadline < math.inf]
        cut = min(waiting, key=lambda one: one.deadline - one.patience, default=self)
        cut.deadline = math.inf
        cut.transport.abort()

    def _refuse(self, status: int, detail: str) -> None:
        self.deaf = True
        running = self.running
        if self.in_body and running is not None and self.cycle is not running:
            # This request has not started, and its body is at fault.
            self.pipeline.popleft()
            self.cycle = self.pipeline[0][0] if self.pipeline else running
            self.in_body = False
        cycle = self.cycle
        busy = self._is_busy()
        if busy and not self.in_body:
            # The fault is in a request behind others, which still get their responses.
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
        request = HTTPConnection({"type": "http", "state": {"request_id": request_id}})
        response = errors.problem(request, status, detail, headers={"Connection": "close"})
        fields = [
            *self.server_state.default_headers,
            *security.HEADERS,
            (b"x-request-id", request_id.encode()),
            *response.raw_headers,
        ]
        head = STATUS_LINE[status] + b"".join(b"%s: %s\r\n" % field for field in fields)
        return head + b"\r\n" + response.body


def _disconnect(cycle: RequestResponseCycle) -> None:
    cycle.disconnected = True
    cycle.message_event.set()


def protocol(settings: Settings, buffers: Buffers) -> type[asyncio.Protocol]:
    """Return what uvicorn takes as `http`: the protocol with the limits of `settings`."""
    return cast(type[asyncio.Protocol], partial(Protocol, settings, buffers))
