"""Commands in the foreground. Signals end a command, never the clean-up after it."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from types import FrameType
from typing import IO

PAUSE_SECONDS = 0.02

_stopped_by = 0
_command: subprocess.Popen[bytes] | None = None
_apart = False


def handle_signals() -> None:
    """Turn Ctrl-C, SIGTERM and a closed terminal into the end of the command, or of a pause."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    if sys.stdin.isatty():
        Thread(target=_watch_terminal, daemon=True).start()


def _watch_terminal() -> None:
    """Notice that the terminal was closed. Only its first process gets SIGHUP, maybe make."""
    poll = select.poll()
    poll.register(sys.stdin, 0)
    if any(happened & select.POLLHUP for _, happened in poll.poll()):
        os.kill(os.getpid(), signal.SIGHUP)


def _stop(number: int, _: FrameType | None) -> None:
    global _stopped_by
    _stopped_by = _stopped_by or number
    # The terminal sends SIGINT to each process that is not apart.
    if _apart or number != signal.SIGINT:
        _terminate()


def _terminate() -> None:
    """End the command, by one signal: a second one can make uvicorn's reloader wait for itself."""
    global _command
    command, _command = _command, None
    if command:
        command.terminate()


def check() -> None:
    """End the process if a signal came."""
    if _stopped_by:
        sys.exit(128 + _stopped_by)


def sleep() -> None:
    time.sleep(PAUSE_SECONDS)


def pause() -> None:
    check()
    sleep()
    check()


def pauses(seconds: float) -> Iterator[None]:
    """Yield, then pause, until the time is over."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield
        pause()


@contextmanager
def beside(commands: list[list[str]], port: int) -> Iterator[None]:
    """Run commands until the end of the block, the first one with this PORT."""
    started = [
        subprocess.Popen(command, env={**os.environ, "PORT": str(number)}, start_new_session=True)
        for number, command in enumerate(commands, port)
    ]
    try:
        yield
    finally:
        for process in started:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def run(
    command: list[str],
    *,
    apart: bool = False,
    environment: dict[str, str] | None = None,
    output: IO[bytes] | None = None,
) -> int:
    """Run a command until it ends, or until a signal ends it; return its exit status.

    A command that is `apart` can read from the terminal, but Ctrl-C does not reach it: it gets
    one SIGTERM instead. What it leaves running gets one too. End the process with one line if
    the command can't be started.
    """
    global _command, _apart
    check()
    _apart = apart
    try:
        process = _command = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, start_new_session=apart
        )
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")
    if _stopped_by:
        # The signal came before there was a command.
        _terminate()
    status = process.wait()
    if apart:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
    _command = None
    return status if status >= 0 else 128 - status
