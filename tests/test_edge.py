"""What hostile and slow clients do to a container of 256 MB: it lives, and liveness answers at once."""

import contextlib
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from conftest import add_to_app, container, get, state

pytestmark = pytest.mark.usefixtures("engine")

ORDERS = """
import asyncio
from collections.abc import AsyncIterator

from fastapi import APIRouter, Depends
from pydantic import BaseModel

router = APIRouter(prefix="/v1/orders", tags=["orders"])


class Order(BaseModel, extra="forbid"):
    customer: str


async def session() -> AsyncIterator[None]:
    # Waits, as for a database, while other bodies are read.
    try:
        await asyncio.sleep(0.1)
        yield
    finally:
        await asyncio.sleep(0.1)


@router.post("", dependencies=[Depends(session)])
async def create_order(order: Order) -> Order:
    return order
"""

HEAD = b"POST /v1/orders HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
ENDLESS = {
    "field": HEAD + b"X-Endless: ",
    "URL": b"GET /",
    "trailer": HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX-Trailer: ",
    "chunk extension": HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;",
}


@pytest.fixture(scope="module")
def source(render: Any, answers: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Source with a route that reads a body, to be mounted over the image's."""
    source = Path(shutil.copytree(render(**answers) / "src", tmp_path_factory.mktemp("edge") / "src"))
    (source / "nasty_service/orders.py").write_text(ORDERS)
    add_to_app(source, "from . import orders", "app.include_router(orders.router)")
    return source


@contextlib.contextmanager
def small(image: str, source: Path, *options: str) -> Iterator[tuple[str, int]]:
    """Run a container of 256 MB, which has to live until the end of the block.

    Liveness has to respond within 1.5 s of the process's own time, whatever else runs, and within 9 s:
    then Kubernetes would end the container.
    """
    limits = ("--memory=256m", "--memory-swap=256m", f"--volume={source}:/app/src:ro")
    with container(image, *limits, *options) as (name, url):
        get(f"{url}/health/live")
        done = threading.Event()
        slowest = [0.0]
        watching = threading.Thread(target=watch, args=(url, state(name)["Pid"], done, slowest))
        watching.start()
        try:
            yield name, int(url.rpartition(":")[2])
        finally:
            done.set()
            watching.join()
        assert slowest[0] < 1.5
        assert state(name)["Running"]
        assert not state(name)["OOMKilled"]


def watch(url: str, process: int, done: threading.Event, slowest: list[float]) -> None:
    while not done.wait(0.1):
        started = processor_seconds(process)
        try:
            alive = httpx2.get(f"{url}/health/live", timeout=9).status_code == 200
        except httpx2.TransportError:
            alive = False
        slowest[0] = max(slowest[0], processor_seconds(process) - started if alive else 99)


def processor_seconds(process: int) -> float:
    """Return how long a process has run; if the engine is elsewhere, the time."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return time.monotonic()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def connect(port: int, start: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), 20)
    with contextlib.suppress(ConnectionError):
        connection.sendall(start)
    return connection


def rest(connection: socket.socket) -> bytes:
    received = b""
    with contextlib.suppress(ConnectionError), connection:
        while part := connection.recv(65536):
            received += part
    return received


ENDLESSLY = 300_000_000


def flood(connection: socket.socket, piece: int) -> int:
    """Send pieces of `piece` bytes until the server closes; return the bytes sent, at most ENDLESSLY."""
    sent = 0
    with contextlib.suppress(ConnectionError):
        while sent < ENDLESSLY:
            connection.sendall(b"x" * piece)
            sent += piece
    return sent


def connect_deaf(port: int, start: bytes) -> socket.socket:
    """Connect with a small buffer for what is received, and never read."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(20)
    connection.connect(("127.0.0.1", port))
    with contextlib.suppress(ConnectionError):
        connection.sendall(start)
    return connection


def test_responses_that_nobody_reads_and_requests_behind_them_leave_memory(image: str, source: Path) -> None:
    page = b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
    behind = b"GET /v1/orders HTTP/1.1\r\nHost: localhost\r\n" + b"a:\r\n" * 98 + b"\r\n"
    with small(image, source) as (_, port), contextlib.ExitStack() as stack:
        for _ in range(490):
            stack.enter_context(connect_deaf(port, page + behind * 32))
            time.sleep(0.01)
        time.sleep(3)


@pytest.mark.parametrize("start", ENDLESS.values(), ids=ENDLESS)
def test_endless_input_is_a_431_problem(image: str, source: Path, start: bytes) -> None:
    with small(image, source) as (_, port):
        connection = connect(port, start)
        assert flood(connection, 1_000_000) < ENDLESSLY
        assert rest(connection).startswith(b"HTTP/1.1 431 ")


def test_200_slow_connections_are_closed_by_their_deadlines(image: str, source: Path) -> None:
    starts = [b"", HEAD, HEAD + b"Content-Length: 1000000\r\n\r\n" + b"x" * 500_000, b"GET /health/live HT"]
    deadlines = ("--env=REQUEST_HEAD_TIMEOUT_SECONDS=5", "--env=STALL_TIMEOUT_SECONDS=8")
    with small(image, source, *deadlines) as (_, port):
        started = time.monotonic()
        slow = [connect(port, starts[number % 4]) for number in range(200)]
        while time.monotonic() - started < 3:
            for connection in slow[1::4]:
                with contextlib.suppress(ConnectionError):
                    connection.sendall(b"x")
            time.sleep(0.2)
        with ThreadPoolExecutor(50) as pool:
            heads = [received.partition(b"\r\n")[0] for received in pool.map(rest, slow)]
        assert time.monotonic() - started < 20
        assert set(heads[::4]) == {b""}
        assert set(heads[1::4]) == set(heads[3::4]) == {b"HTTP/1.1 408 Request Timeout"}
        # Of half a megabyte each, not all are held at once.
        assert {head[9:12] for head in heads[2::4]} <= {b"408", b"503"}


KEYS = b"{" + b",".join(b'"%x":0' % (65_536 + number) for number in range(99_999)) + b"}"
OBJECTS = b"[" + b",".join([b'{"":0}'] * 142_000) + b"]"


@pytest.mark.parametrize(
    ("number", "body"),
    [(260, b"x" * 1_000_000), (60, KEYS), (60, OBJECTS)],
    ids=["260, no JSON", "60, JSON of many keys", "60, JSON of many objects"],
)
def test_uploads_of_1_mb_at_once_are_served_or_refused(image: str, source: Path, number: int, body: bytes) -> None:
    head = HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    with small(image, source) as (_, port):
        with ThreadPoolExecutor(number) as pool:
            uploads = list(pool.map(lambda _: connect(port, head + body[:900_000]), range(number)))
            for connection in uploads:
                with contextlib.suppress(OSError):
                    connection.sendall(body[900_000:])
            statuses = [received[9:12] for received in pool.map(rest, uploads)]
        # Empty: reset, since it went on sending after its 503.
        assert set(statuses) <= {b"422", b"503", b""}
        assert b"422" in statuses


@pytest.mark.parametrize(
    "head",
    [
        HEAD.replace(b" HTTP", b"?" + b"&".join(b"%x" % number for number in range(11_000)) + b" HTTP"),
        HEAD + b"Cookie: " + b";".join(b"%x=1" % number for number in range(9000)) + b"\r\n",
    ],
    ids=["query parameters", "cookies"],
)
def test_thousands_of_values_are_refused_before_they_take_memory(image: str, source: Path, head: bytes) -> None:
    request = head + b'Connection: close\r\nContent-Length: 16\r\n\r\n{"customer":"me"}'
    with small(image, source) as (_, port), ThreadPoolExecutor(50) as pool:
        connections = list(pool.map(lambda _: connect(port, request), range(490)))
        assert {received[9:12] for received in pool.map(rest, connections)} == {b"431"}


def test_bodies_of_tiny_chunks_leave_liveness_its_turn(image: str, source: Path) -> None:
    chunks = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 10_900
    with small(image, source) as (_, port), ThreadPoolExecutor(50) as pool:
        connections = list(pool.map(lambda _: connect(port, chunks), range(250)))
        time.sleep(3)
        for connection in connections:
            connection.close()


def test_four_objects_of_100000_unknown_keys_get_a_short_response(image: str, source: Path) -> None:
    keys = json.dumps({f"k{number:05}": 0 for number in range(100_000)}, separators=(",", ":"))[:-1]
    body = (keys + "}").encode()
    assert len(body) > 1_000_000
    # All four are read, though commas count as 17 bytes.
    limits = ("--env=MAX_BODY_BYTES=2000000", "--env=MAX_TOTAL_BODY_BYTES=16000000")
    with small(image, source, *limits) as (_, port), ThreadPoolExecutor(4) as pool:

        def post(_: int) -> httpx2.Response:
            url = f"http://127.0.0.1:{port}/v1/orders"
            return httpx2.post(url, content=body, headers={"Content-Type": "application/json"}, timeout=20)

        responses = list(pool.map(post, range(4)))
    for response in responses:
        assert response.status_code == 422
        assert response.json()["errors"] == [
            {"pointer": "/body", "detail": "There are 100001 errors, too many to list"}
        ]
        assert len(response.content) < 10_000


@pytest.mark.parametrize(
    "fields", [b"Content-Length: 300000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n11e1a300\r\n"]
)
def test_the_rest_of_a_body_that_is_too_large_is_not_read(image: str, source: Path, fields: bytes) -> None:
    with small(image, source) as (_, port):
        connection = connect(port, HEAD + fields)
        assert flood(connection, 100_000) < 100_000_000
        received = rest(connection)
        assert received.startswith(b"HTTP/1.1 413 ")
        assert b"\r\nconnection: close\r\n" in received


def test_a_head_and_a_half_close_get_a_response(image: str, source: Path) -> None:
    with small(image, source) as (_, port):
        for _ in range(50):
            connection = connect(port, b"HEAD /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
            connection.shutdown(socket.SHUT_WR)
            assert rest(connection).startswith(b"HTTP/1.1 200 ")


def test_40000_tags_in_if_match_are_refused_at_once(image: str, source: Path) -> None:
    tags = b", ".join(b'"%d"' % number for number in range(40_000))
    with small(image, source) as (_, port):
        started = time.monotonic()
        received = rest(connect(port, HEAD + b"If-Match: " + tags + b"\r\n\r\n"))
        assert time.monotonic() - started < 5
        assert received.startswith(b"HTTP/1.1 431 ")
