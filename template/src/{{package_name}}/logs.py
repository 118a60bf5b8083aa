"""One form for every log line, the service's own and its libraries': JSON, or text to read."""

import asyncio
import json
import logging
import sys
from typing import Any, BinaryIO, Literal, cast

import orjson
import structlog
from structlog.typing import Processor


def configure(level: str, form: Literal["json", "console"]) -> None:
    """Send everything logged at `level` or above, by structlog or by logging, to stdout."""
    threshold = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    logger_factory: structlog.BytesLoggerFactory | structlog.PrintLoggerFactory
    if form == "json":
        shared.append(structlog.processors.format_exc_info)
        logger_factory = structlog.BytesLoggerFactory()
        render: Processor = structlog.processors.JSONRenderer(serializer=_dumps)
        render_text: Processor = structlog.processors.JSONRenderer(
            serializer=lambda event, **options: _dumps(event, **options).decode()
        )
    else:
        logger_factory = structlog.PrintLoggerFactory()
        render = render_text = structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty())
    structlog.configure(
        processors=[*shared, render],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=logger_factory,
    )

    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render_text],
        )
    )
    logging.basicConfig(handlers=[handler], level=threshold, force=True)


def request_logger(form: Literal["json", "console"]) -> structlog.typing.FilteringBoundLogger:
    """Return the logger for the line of each request, once `configure` was called."""
    if form == "console":
        return cast(structlog.typing.FilteringBoundLogger, structlog.get_logger().bind())
    output = structlog.BytesLogger(cast(BinaryIO, HeldOutput(sys.stdout.buffer)))
    return cast(structlog.typing.FilteringBoundLogger, structlog.wrap_logger(output).bind())


class HeldOutput:
    """A file that writes the lines of one turn of the event loop together, by one system call."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.lines: list[bytes] = []

    def write(self, line: bytes) -> None:
        self.lines.append(line)
        if len(self.lines) == 1:
            asyncio.get_running_loop().call_soon(self.release)

    def flush(self) -> None:
        """Nothing: structlog asks for it after each line."""

    def release(self) -> None:
        left = memoryview(b"".join(self.lines))
        self.lines.clear()
        # A signal may cut a write short.
        while left:
            left = left[self.file.write(left) :]
        self.file.flush()


def _dumps(event: Any, **options: Any) -> bytes:
    try:
        return orjson.dumps(event, **options)
    except TypeError:
        # What orjson refuses: lone surrogates, integers of more than 64 bits, keys of other types.
        return json.dumps(event, skipkeys=True, **options).encode()
