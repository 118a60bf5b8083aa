"""WebSockets: a refused handshake gets a problem document, an open socket a close code."""

import contextlib
import logging
from typing import Any

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from .errors import problem

# How long a client may read the close code before its connection ends.
LINGER_SECONDS = 1.0

# RFC 6455, section 7.4.1.
NORMAL = 1000
POLICY_VIOLATION = 1008
INTERNAL_ERROR = 1011

logger = logging.getLogger(__name__)
# `telemetry` has a line for each socket. uvicorn's and websockets' have queries and messages.
logger.setLevel(logging.WARNING)


class Protocol(WebSocketsSansIOProtocol):
    """uvicorn's protocol, which also sends the client the refusals of `websockets` itself."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.logger = self.conn.logger = logger
        self.conn.debug = False

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # A head that is too large: uvicorn would leave the response unsent.
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.transport.close()

    async def send(self, message: Any) -> None:
        await super().send(message)
        # uvicorn would log that a refused handshake was not completed.
        self.handshake_complete |= self.close_sent

    def handle_parser_exception(self) -> None:
        """Close with the code of the fault, such as 1009 for a message that is too large."""
        close = self.conn.close_sent
        code = close.code if close else 1006
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": ""})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = self.disconnected = True
        # Closing with unread data resets the connection, and the reset may overtake the code.
        self.transport.resume_reading()
        self.close_timer = self.loop.call_later(LINGER_SECONDS, self.transport.close)


class Ending:
    """ASGI wrapper around the handling of sockets: each ends in a way that its client understands.

    A handshake that is not accepted gets a problem document. An open socket gets a code: 1000
    when its route returns, 1008 or 1011 for an HTTPException, 1011 for any other exception.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
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
            # The router closes what nothing serves.
            status = status or (403 if "route" in self.scope else 404)
            response = problem(HTTPConnection(self.scope), status, detail or None)
            await response(self.scope, self.receive, self.pass_on)
