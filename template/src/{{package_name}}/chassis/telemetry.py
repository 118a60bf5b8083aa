"""The id, the log line and the metrics of each request, and its trace if that is switched on."""

import asyncio
import os
import re
import time
import uuid
from typing import Literal

import structlog
from fastapi.telemetry import TelemetryConfig
from opentelemetry import trace
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from . import logs
from .metrics import ACTIVE, ACTIVE_SOCKETS, DURATION, SOCKET_DURATION
from .operations import PROBES
from .service import Service
from .settings import DISTRIBUTION

VALID_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
LONGEST_PATH = 2000
# An X-Forwarded-For may contain anything.
LONGEST_CLIENT = 64
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY"})


def tracing() -> TelemetryConfig:
    """Configure FastAPI's OpenTelemetry: traces if an OTLP endpoint is set."""
    names = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    on = any(os.environ.get(name) for name in names)
    # The SDK reads the name from the environment; without one it is unknown_service:python.
    attributes = os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    if on and not re.search(r"(^|,)\s*service\.name\s*=", attributes):
        os.environ["OTEL_SERVICE_NAME"] = os.environ.get("OTEL_SERVICE_NAME") or DISTRIBUTION
    return {
        "auto_configure": on,
        "tracing": on,
        # A span for each dependency and serialization costs more than the request's own.
        "operation_spans": False,
        "metrics": False,
        "logs": False,
        "exclude": lambda scope: scope["path"].startswith(PROBES),
    }


class Telemetry:
    """ASGI middleware around the whole service, so that it sees a 500 and a 413 too.

    Each response also gets those of `headers` that it does not have.
    """

    def __init__(
        self,
        app: ASGIApp,
        headers: list[tuple[bytes, bytes]],
        log_format: Literal["json", "console"],
    ) -> None:
        self.app = app
        self.headers = headers
        self.logger = logs.request_logger(log_format)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return

        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        context = {"request_id": request_id}
        # Leads from a duration to its trace, if the trace is recorded.
        exemplar = None
        if (span := trace.get_current_span()) is not trace.INVALID_SPAN:
            traced = span.get_span_context()
            context["trace_id"] = trace.format_trace_id(traced.trace_id)
            if traced.trace_flags.sampled:
                exemplar = {"trace_id": context["trace_id"]}
        tokens = structlog.contextvars.bind_contextvars(**context)
        header = (b"x-request-id", request_id.encode())
        try:
            if scope["type"] == "http":
                await self._http(scope, receive, send, header, exemplar)
            else:
                await self._websocket(scope, receive, send, header)
        finally:
            structlog.contextvars.reset_contextvars(**tokens)

    async def _http(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        request_id: tuple[bytes, bytes],
        exemplar: dict[str, str] | None,
    ) -> None:
        status: int | None = None
        complete = False
        failure: BaseException | None = None

        async def send_with_headers(message: Message) -> None:
            nonlocal status, complete
            if message["type"] == "http.response.start":
                status = message["status"]
                self._add_headers(scope, message, request_id)
            else:
                complete = not message.get("more_body", False)
            await send(message)

        started = time.perf_counter()
        ACTIVE.inc()
        try:
            await self.app(scope, receive, send_with_headers)
        except asyncio.CancelledError as error:
            failure = error
            raise
        except Exception as error:
            failure = error
            # Half a response: only the server can cut the connection.
            if not complete:
                raise
        finally:
            seconds = time.perf_counter() - started
            ACTIVE.dec()
            route = getattr(scope.get("route"), "path", None)
            method = scope["method"] if scope["method"] in METHODS else "_OTHER"
            DURATION.labels(method, route or "", status or 0).observe(seconds, exemplar)
            self._log("request", scope, route, status, seconds, failure, method=scope["method"])

    async def _websocket(
        self, scope: Scope, receive: Receive, send: Send, request_id: tuple[bytes, bytes]
    ) -> None:
        status: int | None = None
        code: int | None = None
        failure: BaseException | None = None

        async def receive_with_code() -> Message:
            nonlocal code
            message = await receive()
            if message["type"] == "websocket.disconnect" and code is None:
                code = message["code"]
            return message

        async def send_with_headers(message: Message) -> None:
            nonlocal status, code
            if message["type"] == "websocket.accept":
                status = 101
                message["headers"] = [*message.get("headers", ()), request_id]
            elif message["type"] == "websocket.http.response.start":
                status = message["status"]
                self._add_headers(scope, message, request_id)
            elif message["type"] == "websocket.close" and code is None:
                code = message["code"]
            try:
                await send(message)
            except OSError:
                # Starlette raises this itself only once the socket is open.
                raise WebSocketDisconnect(1006) from None

        started = time.perf_counter()
        ACTIVE_SOCKETS.inc()
        try:
            await self.app(scope, receive_with_code, send_with_headers)
        except WebSocketDisconnect:
            # The client is gone; routes need not handle that.
            pass
        except asyncio.CancelledError as error:
            failure = error
            raise
        except Exception as error:
            failure = error
        finally:
            seconds = time.perf_counter() - started
            ACTIVE_SOCKETS.dec()
            route = getattr(scope.get("route"), "path", None)
            SOCKET_DURATION.labels(route or "", status or 0).observe(seconds)
            self._log("websocket", scope, route, status, seconds, failure, code=code)

    def _add_headers(self, scope: Scope, message: Message, request_id: tuple[bytes, bytes]) -> None:
        headers = list(message.get("headers", ()))
        names = [name for name, _ in headers]
        headers += [header for header in self.headers if header[0] not in names]
        headers.append(request_id)
        service: Service = scope["service"]
        if service.stop.is_set():
            headers.append((b"connection", b"close"))
        message["headers"] = headers

    def _log(
        self,
        event: str,
        scope: Scope,
        route: str | None,
        status: int | None,
        seconds: float,
        failure: BaseException | None,
        **details: object,
    ) -> None:
        if failure is not None:
            # The server would log it again.
            logs.mark_as_logged(failure)
            log = self.logger.error
            if isinstance(failure, asyncio.CancelledError):
                # The grace period of a stop has ended.
                log, failure, details["cancelled"] = self.logger.warning, None, True
        elif scope["path"].startswith(PROBES):
            log = self.logger.debug
        else:
            log = self.logger.info
        log(
            event,
            **details,
            path=scope["raw_path"][:LONGEST_PATH].decode("latin-1"),
            route=route,
            status=status,
            duration_ms=round(seconds * 1000, 2),
            client=scope["client"][0][:LONGEST_CLIENT] if scope.get("client") else None,
            exc_info=failure,
        )


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and VALID_REQUEST_ID.fullmatch(value):
            return str(value, "ascii")
    return uuid.uuid4().hex
