"""WebSockets: a refused handshake gets a problem document, an open socket a close code."""

import asyncio
import contextlib
import logging
import math
from functools import partial
from typing import Any, cast

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

from .buffers import Buffers
from .errors import problem
from .server import SLOWEST
from .settings import Settings

# How many bytes are parsed at a time: the messages in them may wait in memory.
PIECE = 1024
# How long a socket is parsed before others get their turn: a kilobyte may be 170 messages.
TURN_SECONDS = 0.001
# How long a client may read the close code before its connection ends.
LINGER_SECONDS = 1.0

# RFC 6455, section 7.4.1.
NORMAL = 1000
POLICY_VIOLATION = 1008
INTERNAL_ERROR = 1011

logger = logging.getLogger(__name__)
# `telemetry` logs each socket. Lines of uvicorn and websockets contain queries and messages.
logger.setLevel(logging.WARNING)
# This is the client's fault; the socket's own line has the code, 1007.
logger.addFilter(lambda record: not record.getMessage().startswith("Invalid UTF-8"))


class Protocol(WebSocketsSansIOProtocol):
    """uvicorn's protocol, but it limits what a socket may hold, and sends every refusal.

    Bytes are parsed piece by piece. They wait while the route has messages to receive, while the
    client has messages to read, and until the handshake is accepted.
    """

    def __init__(self, settings: Settings, buffers: Buffers, **given: Any) -> None:
        super().__init__(**given)
        self.buffers = buffers
        self.logger = self.conn.logger = logger
        self.conn.debug = False
        self.stall = settings.stall_timeout_seconds
        self.unparsed = bytearray()
        self.scheduled = False
        # Bytes of messages that the route has not received yet.
        self.queued = 0
        self.failed = False
        # How many bytes the client had not read at the last check.
        self.unsent = math.inf
        # When its place may be given to another connection.
        self.deadline = math.inf
        self.patience = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.timer = self.loop.call_later(self.stall, self._watch_reader)

    def connection_lost(self, exc: Exception | None) -> None:
        self.timer.cancel()
        self.buffers.release(self)
        # Otherwise only the garbage collector would free this memory.
        self.unparsed.clear()
        self.frames.clear()
        self.conn.reader.buffer.clear()
        self.conn.parser.close()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        # After a fault, the client has only the close code to read.
        if not self.failed:
            self.unparsed += data
            self._parse()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._count()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.unsent = math.inf
        self._parse()

    async def receive(self) -> Any:
        message = await super().receive()
        if self.queue.empty():
            self.queued = 0
            self.buffers.release(self)
        self._parse_soon()
        return message

    async def send(self, message: Any) -> None:
        await super().send(message)
        # uvicorn would log that a refused handshake was not completed.
        self.handshake_complete |= self.close_sent
        if self.close_timer is not None:
            self.deadline = self.loop.time()
        self._parse_soon()

    def send_receive_event_to_app(self) -> None:
        self.queued += sum(map(len, self.frames))
        super().send_receive_event_to_app()

    def handle_cont(self, event: Frame) -> None:
        """Join the fragments: uvicorn would keep each one, even if it is empty."""
        if len(self.frames) == 1:
            self.frames.append(bytearray())  # type: ignore[arg-type]
        self.frames[1] += event.data
        if event.fin:
            self.send_receive_event_to_app()

    def handle_parser_exception(self) -> None:
        """Close with the code of the fault, such as 1009 for a message that is too large."""
        close = self.conn.close_sent
        code = close.code if close else 1006
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": ""})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = self.disconnected = self.failed = True
        self.unparsed.clear()
        # Closing with unread data resets the connection, and the reset may overtake the code.
        self.transport.resume_reading()
        self.close_timer = self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def _parse_soon(self) -> None:
        if not self.scheduled:
            self.scheduled = True
            self.loop.call_soon(self._parse_now)

    def _parse_now(self) -> None:
        self.scheduled = False
        self._parse()

    def _parse(self) -> None:
        end = self.loop.time() + TURN_SECONDS
        while self.unparsed and not self._waits():
            if self.loop.time() > end:
                self._parse_soon()
                break
            piece = bytes(self.unparsed[:PIECE])
            del self.unparsed[:PIECE]
            super().data_received(piece)
            # A head that is too large: uvicorn would leave the response unsent.
            if self.conn.handshake_exc is not None and not self.handshake_initiated:
                self.transport.write(b"".join(self.conn.data_to_send()))
                self.transport.close()
        if self.transport.is_closing():
            return
        self._count()
        if self.unparsed:
            self.transport.pause_reading()
        elif not self.read_paused:
            self.transport.resume_reading()

    def _count(self) -> None:
        unsent = 0 if self.writable.is_set() else self.transport.get_write_buffer_size()
        unfinished = len(self.conn.reader.buffer) + sum(map(len, self.frames))
        held = len(self.unparsed) + unfinished + self.queued + unsent
        if held > PIECE:
            self.buffers.hold(self, held)
        else:
            self.buffers.release(self)

    def _waits(self) -> bool:
        handshaking = self.handshake_initiated and not self.handshake_complete
        behind = self.read_paused or not self.writable.is_set()
        return handshaking or behind or self.transport.is_closing()

    def _watch_reader(self) -> None:
        """Cut the connection of a client that does not read what it was sent."""
        self.timer = self.loop.call_later(self.stall, self._watch_reader)
        if self.writable.is_set() and not self.transport.is_closing():
            return
        unsent = self.transport.get_write_buffer_size()
        if unsent > self.unsent - SLOWEST * self.stall:
            self.transport.abort()
        self.unsent = unsent


def protocol(settings: Settings, buffers: Buffers) -> type[asyncio.Protocol]:
    """Return what uvicorn takes as `ws`: the protocol with the limits of `settings`."""
    return cast(type[asyncio.Protocol], partial(Protocol, settings, buffers))


class Ending:
    """ASGI middleware for WebSockets: each ends in a way that its client understands.

    A handshake that is not accepted gets a problem document. An open socket gets a code: 1000
    when its route returns, 1008 or 1011 for an HTTPException, 1011 for any other exception.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            await self.app(scope, receive, send)
            return
        socket = _Socket(scope, receive, send)
        try:
            await self.app(scope, receive, socket.send)
        except Exception as error:
            if not isinstance(error, WebSocketDisconnect):
                await socket.end(INTERNAL_ERROR, 500)
            raise
        await socket.end(NORMAL)


class _Socket:
    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.receive = receive
        self.pass_on = send
        self.accepted = False
        self.ended = False

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.close" and not self.accepted:
            await self.end(NORMAL, detail=message.get("reason"))
        elif kind == "websocket.http.response.start" and self.accepted:
            await self.end(INTERNAL_ERROR if message["status"] >= 500 else POLICY_VIOLATION)
        elif kind != "websocket.http.response.body" or not self.accepted:
            self.accepted |= kind == "websocket.accept"
            self.ended |= kind in ("websocket.close", "websocket.http.response.start")
            await self.pass_on(message)

    async def end(self, code: int, status: int | None = None, detail: str | None = None) -> None:
        """Close an open socket with `code`, refuse a handshake with the HTTP status `status`."""
        if self.ended:
            return
        self.ended = True
        with contextlib.suppress(WebSocketDisconnect):
            if self.accepted:
                await self.pass_on({"type": "websocket.close", "code": code})
                return
            # Without a route, the router closed the handshake.
            status = status or (403 if "route" in self.scope else 404)
            response = problem(HTTPConnection(self.scope), status, detail or None)
            await response(self.scope, self.receive, self.pass_on)
