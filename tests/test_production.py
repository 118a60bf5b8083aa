"""The running container under load, at its limits, and while it stops."""

import asyncio
import contextlib
import json
import re
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import httpx2
import pytest
from conftest import container, free_port, get, run, state

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
    with container(image) as (name, url):
        get(f"{url}/health/ready")
        run("docker", "kill", "--signal", "TERM", name)

        ready = httpx2.get(f"{url}/health/ready")
        assert ready.status_code == 503
        assert ready.json()["detail"] == "Failing: shutdown"
        alive = httpx2.get(f"{url}/health/live")
        assert alive.status_code == 200
        assert alive.headers["connection"] == "close"


def test_it_stays_within_128_mb_at_200_connections(image: str) -> None:
    async def burst(url: str) -> list[int]:
        limits = httpx2.Limits(max_connections=200)
        async with httpx2.AsyncClient(base_url=url, timeout=60, limits=limits) as client:
            answers = await asyncio.gather(*(client.get("/openapi.json") for _ in range(1000)))
        return [answer.status_code for answer in answers]

    with container(image, "--memory=128m", "--memory-swap=128m") as (name, url):
        get(f"{url}/health/ready")
        assert set(asyncio.run(burst(url))) == {200}
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


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
def test_the_docs_page_works_in_a_browser_without_internet(image: str, tmp_path: Path) -> None:
    with container(image) as (_, url):
        get(f"{url}/docs")
        shown = subprocess.run(
            [
                *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
                *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
                *("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--enable-logging=stderr", "--v=0"),
                *(f"--user-data-dir={tmp_path}", "--virtual-time-budget=10000", "--dump-dom", f"{url}/docs"),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    # Swagger UI has read the description and shows its operations.
    assert 'id="operations-health-' in shown.stdout
    assert [line for line in shown.stderr.splitlines() if "CONSOLE" in line] == []


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


def test_a_log_line_names_its_trace_where_an_endpoint_is_set(image: str) -> None:
    """Nothing listens there: what is exported is not looked at, and the service goes on without."""
    port = free_port()
    endpoint = f"--env=OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:{port}"
    with container(image, endpoint, "--env=OTEL_BSP_SCHEDULE_DELAY=100") as (name, url):
        get(f"{url}/health/ready")
        trace = "0af7651916cd43dd8448eb211c80319c"
        httpx2.get(f"{url}/nowhere", headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"})
        logged: list[dict[str, Any]] = [json.loads(line) for line in run("docker", "logs", name).stdout.splitlines()]
    assert [line["trace_id"] for line in logged if line.get("path") == "/nowhere"] == [trace]
