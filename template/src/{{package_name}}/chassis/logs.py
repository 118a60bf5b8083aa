"""One format for the log lines of the service and its libraries: JSON, or text for people."""

import asyncio
import json
import logging
import os
import select
import sys
import threading
import time
from contextlib import suppress
from functools import lru_cache
from typing import Any, BinaryIO, Literal, cast

import orjson
import structlog
from prometheus_client import Counter
from structlog.typing import FilteringBoundLogger, Processor

from .metrics import REGISTRY

DROPPED = Counter("log_lines_dropped", "Log lines that stdout did not take.", registry=REGISTRY)

# How many bytes may wait while stdout stalls; lines beyond that are dropped.
MOST_WAITING_BYTES = 4 * 1024 * 1024
# How long the line of a request waits for others: each write wakes whoever reads the pipe.
HOLD_SECONDS = 0.01
RETRY_SECONDS = 0.02
# How long the end of the process waits for stdout.
END_SECONDS = 1.0


def configure(level: str, form: Literal["json", "console"]) -> None:
    """Send everything logged at `level` or above, by structlog or by logging, to stdout."""
    threshold = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if form == "json":
        shared.append(structlog.processors.format_exc_info)
        render: Processor = structlog.processors.JSONRenderer(serializer=_dumps)
    else:
        render = structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty())

    handler = LineHandler(stdout())
    structlog.configure(
        processors=[*shared, render, _encode],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=lambda *_: structlog.BytesLogger(cast(BinaryIO, stdout())),
    )
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                render,
                lambda logger, name, line: _encode(logger, name, line).decode(),
            ],
        )
    )
    handler.addFilter(_is_worth_a_line)
    logging.basicConfig(handlers=[handler], level=threshold, force=True)


def request_logger(form: Literal["json", "console"]) -> FilteringBoundLogger:
    """Return the logger for the line of each request; call `configure` first."""
    logger = structlog.get_logger()
    if form == "json":
        logger = structlog.wrap_logger(HeldLogger(stdout()))
    return cast(FilteringBoundLogger, logger.bind())


def mark_as_logged(error: BaseException) -> None:
    """Keep the line that the server would write for `error` out of the log."""
    vars(error)["is_logged"] = True


class Output:
    """Writes lines to a file, and never waits for one that is full or closed."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.lines: list[bytes] = []
        self.waiting = bytearray()
        self.lock = threading.Lock()
        self.timer: asyncio.TimerHandle | None = None
        try:
            self.descriptor: int | None = file.fileno()
        except OSError:
            # What tests use in place of stdout.
            self.descriptor = None

    def write(self, line: bytes) -> None:
        self.lines.append(line)

    def flush(self) -> None:
        """Write what the file takes at once; the rest follows."""
        with self.lock:
            self._collect()
            try:
                self._write()
            except (OSError, ValueError):
                # The reader is gone, or the file is closed.
                DROPPED.inc(self.waiting.count(b"\n"))
                self.waiting.clear()
            if self.waiting:
                self.flush_in(RETRY_SECONDS)

    def flush_in(self, seconds: float) -> None:
        """Flush after `seconds`, unless a flush is due already."""
        if self.timer is None:
            # In a thread without an event loop, the rest leaves with the next line.
            with suppress(RuntimeError):
                self.timer = asyncio.get_running_loop().call_later(seconds, self._flush_due)

    def _flush_due(self) -> None:
        self.timer = None
        self.flush()

    def finish(self) -> None:
        """Write everything, but give up after END_SECONDS."""
        deadline = time.monotonic() + END_SECONDS
        self.flush()
        while self.waiting and time.monotonic() < deadline:
            time.sleep(0.01)
            self.flush()

    def _collect(self) -> None:
        # Other threads may append meanwhile.
        count = len(self.lines)
        new = b"".join(self.lines[:count])
        del self.lines[:count]
        if self.waiting and len(self.waiting) + len(new) > MOST_WAITING_BYTES:
            DROPPED.inc(count)
        else:
            self.waiting += new

    def _write(self) -> None:
        if self.descriptor is None:
            if self.waiting:
                self.file.write(self.waiting)
            self.waiting.clear()
            return
        # A pipe that is ready takes this much without blocking.
        while self.waiting and select.select([], [self.descriptor], [], 0)[1]:
            del self.waiting[: os.write(self.descriptor, self.waiting[: select.PIPE_BUF])]


@lru_cache(maxsize=1)
def _output_to(file: BinaryIO) -> Output:
    return Output(file)


def stdout() -> Output:
    """Return the one output to stdout; tests put something else in its place."""
    return _output_to(sys.stdout.buffer)


class HeldLogger:
    """Writes each line with others that follow within HOLD_SECONDS, in one system call.

    If stdout is not a file, as in tests, they are written in the next turn of the event loop.
    """

    def __init__(self, output: Output) -> None:
        self.output = output
        self.delay = 0 if output.descriptor is None else HOLD_SECONDS

    def msg(self, line: bytes) -> None:
        self.output.write(line + b"\n")
        self.output.flush_in(self.delay)

    debug = info = warning = error = msg


class LineHandler(logging.Handler):
    """Writes what libraries log."""

    def __init__(self, output: Output) -> None:
        super().__init__()
        self.output = output

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.output.write(self.format(record).encode() + b"\n")
            self.output.flush()
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """Write the rest; logging calls this when the process ends."""
        self.output.finish()
        super().close()


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    # asyncio logs this for each write to a connection that is closed.
    if record.name == "asyncio" and record.msg.startswith("socket.send() raised"):
        return False
    error = record.exc_info[1] if record.exc_info else None
    return error is None or "is_logged" not in vars(error)


def _encode(logger: Any, name: str, line: Any) -> bytes:
    return line if isinstance(line, bytes) else line.encode(errors="backslashreplace")


def _dumps(event: Any, **options: Any) -> bytes:
    try:
        return orjson.dumps(event, **options)
    except TypeError:
        # What orjson refuses: lone surrogates, integers of more than 64 bits, keys of other types.
        return json.dumps(event, skipkeys=True, **options).encode()
