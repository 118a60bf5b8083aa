"""What every request leaves behind: its id, in the answer and the logs, and its log line."""

import re
import time
import uuid

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = structlog.get_logger()

VALID_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")


class RequestTelemetry:
    """ASGI wrapper around the whole application, so that it sees a 500 and a 413 too."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return

        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        if scope["type"] == "websocket":
            with structlog.contextvars.bound_contextvars(request_id=request_id):
                await self.app(scope, receive, send)
            return

        status: int | None = None
        complete = False
        failure: Exception | None = None

        async def send_with_id(message: Message) -> None:
            nonlocal status, complete
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
                message = {**message, "headers": headers}
            else:
                complete = not message.get("more_body", False)
            await send(message)

        started = time.perf_counter()
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self.app(scope, receive, send_with_id)
            except Exception as error:
                failure = error
                # Half an answer: only the server can cut the connection.
                if not complete:
                    raise
            finally:
                _log(scope, status, (time.perf_counter() - started) * 1000, failure)


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and VALID_REQUEST_ID.fullmatch(value):
            return str(value, "ascii")
    return uuid.uuid4().hex


def _log(scope: Scope, status: int | None, duration_ms: float, failure: Exception | None) -> None:
    if failure is not None:
        log = logger.error
    elif scope["path"].startswith("/health/"):
        log = logger.debug
    else:
        log = logger.info
    log(
        "request",
        method=scope["method"],
        path=scope["raw_path"].decode("latin-1"),
        route=getattr(scope.get("route"), "path", None),
        status=status,
        duration_ms=round(duration_ms, 2),
        client=scope["client"][0] if scope.get("client") else None,
        exc_info=failure,
    )
