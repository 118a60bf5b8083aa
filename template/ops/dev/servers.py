"""Servers for development. Their data is in .dev, and every process of the project shares them.

A process that uses them holds a shared lock; the last one to let go stops them. A server holds a
lock for as long as any of its processes lives. The kernel releases locks, so no crash leaves one.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple

from . import processes

FOLDER = Path(__file__).parents[2] / ".dev"
# A socket's address has room for 104 bytes on macOS and 108 on Linux, with a NUL at the end.
LONGEST_ADDRESS = 103
START_SECONDS = 60

_started: dict[int, subprocess.Popen[bytes]] = {}


class Provided(NamedTuple):
    """What a part of the development environment gives to the service and to the developer."""

    variables: dict[str, str] = {}
    runs: str = ""
    """The server that was started."""
    header: str = ""
    """A header with a credential."""
    hint: str = ""


def given(name: str) -> bool:
    """Check whether a variable of the service is set: nothing is started in its place."""
    return bool(os.environ.get(name)) or Path("/run/secrets", name).exists()


def in_production() -> bool:
    return os.environ.get("APP_ENV", "").lower() == "production"


@contextmanager
def sharing() -> Iterator[None]:
    """Keep servers running until the end of the block; the last process stops them."""
    FOLDER.mkdir(mode=0o700, exist_ok=True)
    with (FOLDER / "lock").open("a") as users:
        _lock(users, fcntl.LOCK_SH)
        try:
            yield
        finally:
            if _try_lock(users, fcntl.LOCK_EX):
                _stop_all()


@contextmanager
def starting() -> Iterator[None]:
    """Let one process at a time start servers, and write files that all of them share."""
    with (FOLDER / "starting").open("a") as lock:
        _lock(lock, fcntl.LOCK_EX)
        yield


def reset() -> None:
    """Delete what is in .dev, unless a process uses it."""
    if FOLDER.exists():
        with (FOLDER / "lock").open("a") as users:
            if not _try_lock(users, fcntl.LOCK_EX):
                sys.exit("the data in .dev is in use: end 'make dev', or what else uses it, first")
            _stop_all()
            for path in FOLDER.iterdir():
                # Not the lock, for which another process may wait.
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name != "lock":
                    path.unlink()
    print("deleted the development data in .dev")


def sockets_of(folder: Path) -> Path | None:
    """Return the folder of a server's socket, or None if the server does not run."""
    if not _runs(folder):
        return None
    return Path((folder / "sockets").read_text())


def start(
    folder: Path, socket: str, command: Callable[[Path], list[str]], ready: Callable[[Path], bool]
) -> Path:
    """Start the server of `folder`, wait until it is ready, return the folder of its `socket`.

    End the process with one line if the server ends instead.
    """
    folder.mkdir(exist_ok=True)
    sockets = _folder_for(folder / socket)
    (folder / "sockets").write_text(str(sockets))
    log = folder / "log"
    with (folder / "pid").open("w") as pid, log.open("wb") as output:
        fcntl.flock(pid, fcntl.LOCK_EX)
        process = subprocess.Popen(
            command(sockets),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            # Ctrl-C is for the command that uses the server.
            start_new_session=True,
            # The server inherits the lock.
            pass_fds=[pid.fileno()],
        )
        pid.write(str(process.pid))
    _started[process.pid] = process
    for _ in processes.pauses(START_SECONDS):
        if ready(sockets):
            return sockets
        if process.poll() is not None:
            break
    stop(folder)
    last = log.read_text(errors="replace").strip().splitlines()[-2:]
    sys.exit(f"{folder.name} does not start: {' '.join(last)} (see {log})")


def stop(folder: Path) -> None:
    """Stop the server of `folder`, if it runs, and wait until all of its processes have ended."""
    if not _runs(folder):
        return
    sockets = Path((folder / "sockets").read_text())
    pid = int((folder / "pid").read_text())
    with suppress(ProcessLookupError):
        # PostgreSQL's fast shutdown, which does not wait for clients.
        os.kill(pid, signal.SIGINT)
    while _runs(folder):
        processes.sleep()
    if process := _started.pop(pid, None):
        process.wait()
    if sockets != folder:
        shutil.rmtree(sockets, ignore_errors=True)


def _stop_all() -> None:
    for pid in FOLDER.glob("*/pid"):
        stop(pid.parent)


def _runs(folder: Path) -> bool:
    with suppress(FileNotFoundError), (folder / "pid").open() as pid:
        return not _try_lock(pid, fcntl.LOCK_SH)
    return False


def _folder_for(socket: Path) -> Path:
    # A comma separates hosts in the address of PostgreSQL.
    if len(os.fsencode(socket)) <= LONGEST_ADDRESS and "," not in str(socket):
        return socket.parent
    return Path(tempfile.mkdtemp(prefix="dev-"))


def _try_lock(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock(file: IO[str], kind: int) -> None:
    while not _try_lock(file, kind):
        processes.pause()
