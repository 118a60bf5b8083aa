"""WebSockets and streams in the container: through the real server, up to its stop."""

import asyncio
import contextlib
import hashlib
import json
import os
import re
import socket
import subprocess
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import standins
from conftest import add_to_app, container, copy, eventually, get, run, state, without_engine
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

pytestmark = pytest.mark.usefixtures("engine")

ROUTES = """
import asyncio
from collections.abc import AsyncIterator

from fastapi import APIRouter, HTTPException, Request, WebSocket
from fastapi.sse import EventSourceResponse

from ..chassis import Stop, until

router = APIRouter(prefix="/v1")


@router.websocket("/echo")
async def echo(websocket: WebSocket, stop: Stop) -> None:
    await websocket.accept()
    async for text in until(stop, websocket.iter_text()):
        await websocket.send_text(text)
    await websocket.close(1001)


@router.websocket("/crash")
async def crash(websocket: WebSocket) -> None:
    await websocket.accept()
    raise RuntimeError("out of paper")


async def ticks() -> AsyncIterator[int]:
    for number in range(1_000_000):
        yield number
        await asyncio.sleep(0.5)


@router.get("/ticks", response_class=EventSourceResponse)
async def stream(stop: Stop) -> AsyncIterator[int]:
    async for number in until(stop, ticks()):
        yield number


@router.post("/body")
async def body(request: Request) -> int:
    return len(await request.body())
"""

TOGETHER = """
from fastapi import APIRouter, WebSocket
from sqlalchemy import func, select

from ..chassis.auth import Caller
from ..chassis.database import ReadSessionDep, SessionDep
from ..items.models import Item
from ..chassis.cache import rate_limit

router = APIRouter(prefix="/v1")


@router.websocket("/together", dependencies=[rate_limit("together", 3, seconds=600)])
async def together(
    websocket: WebSocket, caller: Caller, session: SessionDep, reading: ReadSessionDep
) -> None:
    await websocket.accept()
    session.add(Item(name=websocket.state.request_id, quantity=1))
    await session.commit()
    count = await reading.scalar(select(func.count()).select_from(Item))
    await websocket.send_json([caller.id, count])
"""


def build(template: Path, project: Path, tag: str, routes: str, **answers: str) -> None:
    """Build the image of a project with `routes`, added as an owner adds a router."""
    copy(template, project, **answers)
    package = project / "src" / answers["package_name"]
    (package / "talk").mkdir()
    (package / "talk/__init__.py").touch()
    (package / "talk/routes.py").write_text(routes)
    add_to_app(project, "from .talk import routes as talk", "app.include_router(talk.router)")
    run("docker", "build", f"--tag={tag}", ".", cwd=project)


@pytest.fixture(scope="module")
def talking(template: Path, answers: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The image of a project with sockets and streams of its own."""
    tag = f"copier-fastapi-test:sockets-{os.getpid()}"
    build(template, tmp_path_factory.mktemp("talking") / "project", tag, ROUTES, **answers)
    yield tag
    run("docker", "rmi", tag, check=False)


def lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run("docker", "logs", name).stdout.splitlines()]


def address(url: str, path: str) -> str:
    return url.replace("http://", "ws://") + path


def line_of(name: str, **members: object) -> dict[str, Any]:
    """Return the one line of a container's log that has these members."""

    def found() -> dict[str, Any]:
        (line,) = [line for line in lines(name) if members.items() <= line.items()]
        return line

    line: dict[str, Any] = eventually_found(found)
    return line


def eventually_found(attempt: Callable[[], Any]) -> Any:
    def asserting() -> Any:
        try:
            return attempt()
        except ValueError as error:
            raise AssertionError(error) from None

    return eventually(asserting, 10)


def test_a_socket_talks_and_leaves_an_id_a_line_and_metrics(talking: str) -> None:
    with container(talking, "--read-only", "--cap-drop=ALL") as (name, url):
        get(f"{url}/health/live")
        with connect(address(url, "/v1/echo")) as websocket:
            websocket.send("hello")
            assert websocket.recv() == "hello"
            assert websocket.response
            request_id = websocket.response.headers["X-Request-ID"]
        line = line_of(name, request_id=request_id)
        assert (line["event"], line["route"], line["status"], line["code"]) == ("websocket", "/v1/echo", 101, 1000)
        assert 'http_response_status_code="101",http_route="/v1/echo"' in httpx2.get(f"{url}/metrics").text


def send_and_receive(url: str, text: str) -> None:
    with connect(url, compression=None) as websocket:
        websocket.send(text)
        websocket.recv()


def test_a_crash_closes_with_1011_and_a_large_message_with_1009(talking: str) -> None:
    with container(talking) as (name, url):
        get(f"{url}/health/live")
        with connect(address(url, "/v1/crash")) as websocket, pytest.raises(ConnectionClosed) as closed:
            websocket.recv()
        assert closed.value.rcvd
        assert closed.value.rcvd.code == 1011
        with pytest.raises(ConnectionClosed) as closed:
            send_and_receive(address(url, "/v1/echo"), "x" * 20_000_000)
        assert closed.value.rcvd
        assert closed.value.rcvd.code == 1009
        (crash,) = [line for line in lines(name) if line["level"] == "error"]
        assert "RuntimeError: out of paper" in crash["exception"]
        assert get(f"{url}/health/live").status_code == 200


@pytest.mark.parametrize(
    ("options", "path", "status"),
    [
        ({"host": "evil.com"}, "/v1/echo", 400),
        ({"origin": "https://evil.com"}, "/v1/echo", 403),
        ({"host": "shop.example.com", "origin": "https://shop.example.com"}, "/v1/echo", 101),
        ({"origin": "https://pages.example.com"}, "/v1/echo", 101),
        ({}, "/v1/echo", 101),
        ({}, "/nowhere", 404),
    ],
)
def test_handshakes_meet_the_same_edge_as_requests(
    talking: str, options: dict[str, str], path: str, status: int
) -> None:
    edge = ["--env=ALLOWED_HOSTS=shop.example.com", "--env=CORS_ORIGINS=https://pages.example.com"]
    head = (
        f"GET {path} HTTP/1.1\r\nHost: {options.get('host', 'shop.example.com')}\r\nConnection: Upgrade\r\n"
        "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        "X-Request-ID: the-handshake\r\n"
    )
    if "origin" in options:
        head += f"Origin: {options['origin']}\r\n"
    with container(talking, *edge) as (name, url):
        get(f"{url}/health/live")
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 10) as connection:
            connection.sendall(f"{head}\r\n".encode())
            response = connection.recv(4000).decode().lower()
        assert response.startswith(f"http/1.1 {status} ")
        assert "\r\nx-request-id: the-handshake\r\n" in response
        line = line_of(name, request_id="the-handshake")
        assert (line["level"], line["status"]) == ("info", status)


def test_100_streams_and_100_sockets_end_cleanly_with_the_stop(talking: str) -> None:
    ended: Counter[object] = Counter()

    async def listen(client: httpx2.AsyncClient, opened: asyncio.Semaphore) -> None:
        async with client.stream("GET", "/v1/ticks") as response:
            opened.release()
            async for _ in response.aiter_bytes():
                pass
        ended["stream"] += 1

    async def talk(url: str, opened: asyncio.Semaphore) -> None:
        async with connect_async(address(url, "/v1/echo")) as websocket:
            opened.release()
            with contextlib.suppress(ConnectionClosed):
                await websocket.recv()
        ended[websocket.close_code] += 1

    async def stop(name: str, url: str) -> float:
        opened = asyncio.Semaphore(0)
        async with httpx2.AsyncClient(base_url=url, timeout=30, limits=httpx2.Limits(max_connections=200)) as client:
            listening = [asyncio.create_task(listen(client, opened)) for _ in range(100)]
            talking = [asyncio.create_task(talk(url, opened)) for _ in range(100)]
            for _ in range(200):
                await opened.acquire()
            started = time.monotonic()
            stopping = await asyncio.create_subprocess_exec("docker", "stop", name, stdout=subprocess.DEVNULL)
            await asyncio.gather(*listening, *talking)
            seconds = time.monotonic() - started
            await stopping.wait()
            return seconds

    with container(talking) as (name, url):
        get(f"{url}/health/live")
        # The delay is 3 seconds.
        assert asyncio.run(stop(name, url)) < 3
        assert ended == {"stream": 100, 1001: 100}
        assert state(name)["ExitCode"] == 0
        assert not [line for line in lines(name) if "exception" in line or line["level"] == "error"]


def frame(first: int, payload: bytes) -> bytes:
    """Return a masked frame; `first` is its flags and its opcode."""
    length = len(payload)
    size = bytes([128 | length]) if length < 126 else bytes([128 | 126, *length.to_bytes(2)])
    return bytes([first]) + size + bytes(4) + payload


def compression_bomb() -> bytes:
    """250 messages that take 250 KB on the wire and 250 MB once they are decoded."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    payload = (deflate.compress(b"a" * 1_000_000) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]
    return frame(0xC1, payload) * 250


def pings() -> bytes:
    return frame(0x89, b"x" * 125) * 3_000_000


def unfinished() -> bytes:
    return frame(0x01, b"x" * 60_000) + frame(0x00, b"x" * 60_000) * 15


@pytest.mark.parametrize(("flood", "count"), [(compression_bomb, 4), (pings, 1), (unfinished, 300)])
def test_a_flood_from_sockets_does_not_take_the_memory(talking: str, flood: Callable[[], bytes], count: int) -> None:
    head = (
        "GET /v1/echo HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        "Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
    )
    limits = ("--memory=256m", "--memory-swap=256m", "--env=STALL_TIMEOUT_SECONDS=2")
    with container(talking, *limits) as (name, url):
        get(f"{url}/health/live")
        with contextlib.ExitStack() as stack:
            connections = [stack.enter_context(socket.socket()) for _ in range(count)]
            for connection in connections:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                connection.settimeout(10)
                connection.connect(("127.0.0.1", int(url.rpartition(":")[2])))
                connection.sendall(head.encode())
                assert connection.recv(12) == b"HTTP/1.1 101"
            # Nothing is read: the service stops to read too, or cuts the connection.
            for connection in connections:
                with contextlib.suppress(OSError):
                    connection.sendall(flood())
            assert httpx2.get(f"{url}/health/live", timeout=10).status_code == 200
        assert state(name)["Running"]
        assert not state(name)["OOMKilled"]
        assert not [line for line in lines(name) if line["level"] == "error"]


def test_a_client_that_leaves_during_its_upload_is_no_error(talking: str) -> None:
    head = b"POST /v1/body HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: leaves\r\nContent-Length: 1000\r\n\r\nhalf"
    with container(talking) as (name, url):
        get(f"{url}/health/live")
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 10) as connection:
            connection.sendall(head)
            time.sleep(0.3)
        line = line_of(name, request_id="leaves")
        assert (line["level"], line["status"]) == ("info", 499)


@pytest.mark.parametrize("fault", ["nobody reads it", "it is gone"])
def test_requests_go_on_whatever_becomes_of_stdout(talking: str, fault: str) -> None:
    program = (
        "import os, runpy; reader, writer = os.pipe(); os.dup2(writer, 1)\n"
        f"if {fault == 'it is gone'}: os.close(reader)\n"
        "runpy.run_module('nasty_service', run_name='__main__', alter_sys=True)"
    )
    tag = f"{talking}-stdout"
    dockerfile = f"FROM {talking}\nCMD {json.dumps(['python', '-c', program])}\n"
    run("docker", "build", f"--tag={tag}", "-", input=dockerfile)
    with container(tag) as (name, url), httpx2.Client(base_url=url, timeout=10) as client:
        get(f"{url}/health/live")
        # More than may wait: lines of 2 KB.
        for _ in range(2500):
            assert client.get("/" + "x" * 2000).status_code == 404
        (dropped,) = re.findall(r"(?m)^log_lines_dropped_total (.*)$", client.get("/metrics").text)
        assert float(dropped) > 100
        run("docker", "stop", name)
        assert state(name)["ExitCode"] == 0
    run("docker", "rmi", tag, check=False)


def test_a_socket_uses_database_limits_and_callers_like_a_request(
    template: Path, answers: dict[str, str], tmp_path: Path
) -> None:
    try:
        standins.ensure("redis:8")
    except standins.UnavailableError as reason:
        without_engine(str(reason))
    tag = f"copier-fastapi-test:together-{os.getpid()}"
    options = {"database": "sqlite", "cache": "redis", "auth": "api-key"}
    build(template, tmp_path / "project", tag, TOGETHER, **answers, **options)
    entry = f"desk:{hashlib.sha256(b'the-key').hexdigest()}"
    run("docker", "network", "create", tag.replace(":", "-"))
    try:
        network = f"--network={tag.replace(':', '-')}"
        volume = f"--volume={tag.replace(':', '-')}:/data"
        run("docker", "run", "--rm", volume, tag, "python", "-m", answers["package_name"], "migrate")
        environment = ["--env=REDIS_URL=redis://redis:6379/0", f"--env=API_KEYS={entry}"]
        with (
            container("redis:8", network, "--network-alias=redis"),
            container(tag, network, volume, *environment) as (_, url),
        ):
            get(f"{url}/health/live")
            path = address(url, "/v1/together")
            with pytest.raises(InvalidStatus) as refused, connect(path):
                pass
            assert refused.value.response.status_code == 401
            key = {"X-API-Key": "the-key"}
            for count in (1, 2):
                with connect(path, additional_headers=key) as websocket:
                    assert json.loads(websocket.recv()) == ["desk", count]
            with pytest.raises(InvalidStatus) as refused:
                connect(path, additional_headers=key)
            assert refused.value.response.status_code == 429
    finally:
        run("docker", "network", "rm", tag.replace(":", "-"), check=False)
        run("docker", "volume", "rm", tag.replace(":", "-"), check=False)
        run("docker", "rmi", tag, check=False)
