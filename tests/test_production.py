"""The running container under load, at its limits, and while it stops."""

import asyncio
import contextlib
import gzip
import json
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
from conftest import NASTY, add_to_app, container, free_port, get, headless_chromium, run, state
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from playwright.sync_api import BrowserContext, Route, expect

pytestmark = pytest.mark.usefixtures("engine")


async def load(url: str, until: asyncio.Event) -> tuple[int, list[str]]:
    """Send requests over 20 kept connections, and stop as a balancer does: when readiness does."""
    ready = asyncio.Event()
    failures: list[str] = []
    answered = 0

    async def connection() -> None:
        nonlocal answered
        async with httpx2.AsyncClient(base_url=url, timeout=10, verify=False) as client:
            while ready.is_set():
                try:
                    answer = await client.get("/health/live")
                except httpx2.TransportError as error:
                    failures.append(repr(error))
                    continue
                answered += 1
                if answer.status_code != 200:
                    failures.append(str(answer.status_code))

    async def balancer() -> None:
        async with httpx2.AsyncClient(base_url=url, timeout=2, verify=False) as client:
            while ready.is_set():
                await asyncio.sleep(0.25)
                try:
                    if (await client.get("/health/ready")).status_code != 200:
                        ready.clear()
                except httpx2.TransportError:
                    ready.clear()

    async def limit() -> None:
        await until.wait()
        await asyncio.sleep(20)
        ready.clear()

    ready.set()
    timeout = asyncio.create_task(limit())
    await asyncio.gather(balancer(), *(connection() for _ in range(20)))
    timeout.cancel()
    return answered, failures


def test_no_request_fails_while_it_stops(image: str) -> None:
    async def stop_under_load(name: str, url: str) -> tuple[int, list[str]]:
        stopped = asyncio.Event()
        loading = asyncio.create_task(load(url, stopped))
        await asyncio.sleep(2)
        process = await asyncio.create_subprocess_exec("docker", "stop", name, stdout=subprocess.DEVNULL)
        stopped.set()
        answered = await loading
        await process.wait()
        return answered

    with container(image) as (name, url):
        get(f"{url}/health/ready")
        answered, failures = asyncio.run(stop_under_load(name, url))
        assert failures == []
        assert answered > 100
        assert state(name)["ExitCode"] == 0


def test_a_stopping_container_says_so_and_serves_on(image: str) -> None:
    # As in production, but for the time: three seconds are few for two requests on a busy machine.
    with container(image, "--env=SHUTDOWN_DELAY_SECONDS=30") as (name, url):
        get(f"{url}/health/ready")
        run("docker", "kill", "--signal", "TERM", name)

        ready = httpx2.get(f"{url}/health/ready")
        assert ready.status_code == 503
        assert ready.json()["detail"] == "Failing: shutdown"
        alive = httpx2.get(f"{url}/health/live")
        assert alive.status_code == 200
        assert alive.headers["connection"] == "close"


def test_it_stays_within_128_mb_at_200_connections(image: str) -> None:
    """All of them open at once, each with a request in flight, again and again, and then with half a body."""
    ask = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
    half = b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 500_000

    async def answer(reader: asyncio.StreamReader) -> bytes:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.findall(rb"content-length: (\d+)", head)[0]
        await reader.readexactly(int(length))
        return head[9:12]

    async def hold(url: str) -> int:
        host, port = url.removeprefix("http://").split(":")
        kept = await asyncio.gather(*(asyncio.open_connection(host, port) for _ in range(200)))
        for _ in range(10):
            for _, writer in kept:
                writer.write(ask)
            assert set(await asyncio.gather(*(answer(reader) for reader, _ in kept))) == {b"200"}
        for _, writer in kept:
            writer.write(half)
        assert set(await asyncio.gather(*(answer(reader) for reader, _ in kept))) == {b"404"}
        opened = len((await asyncio.to_thread(run, "docker", "exec", name, "ls", "/proc/1/fd")).stdout.split())
        for _, writer in kept:
            writer.close()
        return opened

    with container(image, "--memory=128m", "--memory-swap=128m") as (name, url):
        get(f"{url}/health/ready")
        assert asyncio.run(hold(url)) > 200
        assert state(name)["Running"]
        assert not state(name)["OOMKilled"]


HOSTILE = {
    "CR LF": b"\r\nX-Injected: yes",
    "ESC": b"\x1b[31mred",
    "bidi": "\u202e".encode(),
    "encoded": b"%0d%0aX-Injected:%20yes%1b",
    "JSON": b'"}\n{"event": "forged',
    "1 MB": b"a" * 1_000_000,
}


def send(url: str, request: bytes) -> bytes:
    """Send bytes that no well-behaved client would; return the answer's head, empty if the server hung up."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 20) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(request)
        try:
            return connection.recv(65536).partition(b"\r\n\r\n")[0]
        except ConnectionResetError:
            return b""


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_every_line_stays_one_json_object_whatever_a_client_sends(image: str, text: bytes) -> None:
    end = b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    with container(image, "--env", "LOG_LEVEL=debug") as (name, url):
        get(f"{url}/health/ready")
        in_body = send(url, b"POST /in-body" + end + b"Content-Length: %d\r\n\r\n%s" % (len(text), text))
        answers = [
            in_body,
            send(url, b"GET /in-path" + text + end + b"\r\n"),
            send(url, b"GET /in-query?q=" + text + end + b"\r\n"),
            send(url, b"GET /in-header" + end + b"X-Request-ID: " + text + b"\r\nUser-Agent: " + text + b"\r\n\r\n"),
        ]
        assert httpx2.get(f"{url}/health/live").status_code == 200
        logged = run("docker", "logs", name).stdout.splitlines()
    for answer in answers:
        # Empty: the server's parser hung up, before the application.
        assert re.match(rb"HTTP/1.1 4\d\d ", answer) or answer == b""
        assert b"x-injected" not in answer.lower()
    # A body reaches the application whatever it holds; up to the limit it is an unknown path like any.
    assert in_body.startswith(b"HTTP/1.1 404 ")
    lines = [json.loads(line) for line in logged]
    assert "/in-body" in [line.get("path") for line in lines]
    assert "forged" not in [line["event"] for line in lines]
    assert max(len(line) for line in logged) < 10_000


ORDERS = """
from typing import Annotated

from fastapi import FastAPI, HTTPException, Path, Query, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel, Field


class Order(BaseModel, extra="forbid", strict=True):
    customer: str = Field(min_length=1, max_length=50)
    amounts: list[int]


def install(app: FastAPI) -> None:
    @app.get("/v1/orders")
    async def list_orders(limit: Annotated[int, Query(ge=1, le=100)] = 10) -> list[Order]:
        return []

    @app.post("/v1/orders", status_code=201)
    async def create_order(order: Order) -> Order:
        return order

    @app.get("/v1/orders/{number}")
    async def read_order(number: Annotated[int, Path(ge=1)]) -> Order:
        raise HTTPException(404)
"""


@pytest.fixture
def with_orders(render: Any, answers: dict[str, str], tmp_path: Path) -> Path:
    """Source with a resource that takes a path, a query and a body, to be mounted over the image's."""
    # Not its bytecode: the image's is believed unchecked.
    source = Path(shutil.copytree(render(**answers) / "src", tmp_path / "src"))
    (source / "nasty_service/orders.py").write_text(ORDERS)
    add_to_app(source, "from . import orders", "orders.install(app)")
    return source


def examine(image: str, source: Path) -> subprocess.CompletedProcess[str]:
    """Send what schemathesis makes of the API's description, fit and unfit, the same each time."""
    with container(image, f"--volume={source}:/app/src:ro", "--env=LOG_LEVEL=warning") as (_, url):
        get(f"{url}/health/ready")
        command = ["schemathesis", "--no-color", "run", f"{url}/openapi.json", "--seed=1", "--max-examples=50"]
        return run(*command, "--workers=1", "--warnings=off", cwd=source.parent, check=False)


def test_it_does_what_its_description_says_whatever_is_sent(image: str, with_orders: Path) -> None:
    """No 500, no undocumented status or content type, no answer outside its schema, nothing unfit accepted."""
    examined = examine(image, with_orders)
    assert examined.returncode == 0, examined.stdout
    assert "6 selected / 6 total" in examined.stdout
    (generated,) = re.findall(r"(\d+) generated, (\d+) passed", examined.stdout)
    assert generated[0] == generated[1]
    assert int(generated[0]) > 200


FAULTS = [
    ("return []", "return 1 // (limit - 17)", "Server error"),
    ("return order", "return Response(status_code=202) if order.amounts else order", "Undocumented status code"),
    ("if order.amounts else order", "if order.amounts else JSONResponse([], 201)", "Response violates schema"),
    ("raise HTTPException(404)", "return PlainTextResponse(str(number), 404)", "Undocumented Content-Type"),
    (", strict=True", "", "Schema-violating request accepted"),
]


def test_what_it_does_otherwise_is_found(image: str, with_orders: Path) -> None:
    source = ORDERS
    for right, wrong, _ in FAULTS:
        assert right in source
        source = source.replace(right, wrong, 1)
    (with_orders / "nasty_service/orders.py").write_text(source)
    examined = examine(image, with_orders)
    assert examined.returncode == 1
    for *_, finding in FAULTS:
        assert finding in examined.stdout


@pytest.fixture
def browser() -> Iterator[BrowserContext]:
    with headless_chromium() as chromium:
        yield chromium.new_context()


def test_the_docs_page_works_in_a_browser_without_internet(image: str, browser: BrowserContext) -> None:
    outside: list[str] = []
    told: list[tuple[str, str]] = []

    def refuse(route: Route) -> None:
        outside.append(route.request.url)
        route.abort()

    with container(image) as (_, url):
        get(f"{url}/docs")
        browser.route(lambda asked: not asked.startswith(f"{url}/"), refuse)
        page = browser.new_page()
        page.on("console", lambda message: told.append((message.type, message.text)))
        page.on("pageerror", lambda error: told.append(("error", str(error))))
        page.goto(f"{url}/docs")
        expect(page.locator(".info .title")).to_contain_text(NASTY["project_name"])
        expect(page.locator(".opblock")).to_have_count(3)
        live = page.locator(".opblock", has=page.locator('[data-path="/health/live"]'))
        live.locator(".opblock-summary-control").click()
        live.get_by_role("button", name="Try it out").click()
        live.get_by_role("button", name="Execute").click()
        answered = live.locator(".live-responses-table")
        expect(answered.locator(".response-col_status").last).to_contain_text("200")
        expect(answered).to_contain_text('"status": "ok"')
        assert outside == []
        assert [text for kind, text in told if kind in ("error", "warning")] == []
        # What counts them can count.
        browser.new_page().set_content('<img src="https://cdn.example.com/x.png">')
        assert outside == ["https://cdn.example.com/x.png"]


def test_a_secret_of_a_file_is_read_and_never_shown(image: str, tmp_path: Path) -> None:
    (tmp_path / "PORT").write_text("hunter2")
    tmp_path.chmod(0o755)
    stopped = run("docker", "run", "--rm", "--env=PORT=", "--volume", f"{tmp_path}:/run/secrets:ro", image, check=False)
    assert stopped.returncode != 0
    assert stopped.stderr.startswith("PORT: ")
    assert "hunter2" not in stopped.stdout + stopped.stderr
    tmp_path.chmod(0o700)
    unreadable = run("docker", "run", "--rm", "--volume", f"{tmp_path}:/run/secrets:ro", image, check=False)
    assert unreadable.returncode != 0
    assert unreadable.stderr.startswith("/run/secrets can't be read: ")
    assert len(unreadable.stderr.splitlines()) == 1


TRACE = "0af7651916cd43dd8448eb211c80319c"
UNSAMPLED = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "b7ad6b7169203331"


@pytest.fixture
def collector() -> Iterator[tuple[str, list[Span]]]:
    """An OTLP/HTTP collector: its address as a container sees it, and the spans that arrived."""
    arrived: list[Span] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            assert self.path == "/v1/traces"
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    arrived.extend(scope.spans)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with ThreadingHTTPServer(("", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://host.docker.internal:{server.server_port}", arrived
        server.shutdown()


def test_sampled_spans_arrive_at_a_collector_the_last_ones_by_the_stop(
    image: str, collector: tuple[str, list[Span]]
) -> None:
    address, arrived = collector
    options = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": address,
        "OTEL_SERVICE_NAME": "orders",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0",
        # Nothing leaves before the stop.
        "OTEL_BSP_SCHEDULE_DELAY": "600000",
    }
    environment = [f"--env={name}={value}" for name, value in options.items()]
    with container(image, *environment, "--add-host=host.docker.internal:host-gateway") as (name, url):
        get(f"{url}/health/ready")
        for sampled, trace in (("00", UNSAMPLED), ("01", TRACE)):
            httpx2.get(f"{url}/docs?{trace}", headers={"traceparent": f"00-{trace}-{PARENT}-{sampled}"})
        assert arrived == []
        run("docker", "stop", name)
        assert state(name)["ExitCode"] == 0
        assert "Traceback" not in run("docker", "logs", name).stdout
    assert {span.trace_id.hex() for span in arrived} == {TRACE}
    (server,) = [span for span in arrived if span.kind == Span.SPAN_KIND_SERVER]
    assert server.name == "GET /docs"
    assert server.parent_span_id.hex() == PARENT


def test_a_log_line_names_its_trace_where_an_endpoint_is_set(image: str) -> None:
    """Nothing listens there: the service goes on without, and stops as ever."""
    port = free_port()
    endpoint = f"--env=OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:{port}"
    periods = ["--env=SHUTDOWN_DELAY_SECONDS=0", "--env=SHUTDOWN_GRACE_SECONDS=1"]
    with container(image, endpoint, *periods) as (name, url):
        get(f"{url}/health/ready")
        httpx2.get(f"{url}/nowhere", headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
        # Less than the exporter goes on trying.
        run("docker", "stop", "--time=4", name)
        assert state(name)["ExitCode"] == 0
        logged: list[dict[str, Any]] = [json.loads(line) for line in run("docker", "logs", name).stdout.splitlines()]
    assert [line["trace_id"] for line in logged if line.get("path") == "/nowhere"] == [TRACE]
