"""The running container under load, at its limits, and while it stops."""

import asyncio
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx2
import pytest
from conftest import container, free_port, get, run

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
        assert json.loads(run("docker", "inspect", name).stdout)[0]["State"]["ExitCode"] == 0


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
        state = json.loads(run("docker", "inspect", name).stdout)[0]["State"]
        assert state["Running"]
        assert not state["OOMKilled"]


HOSTILE = ["\r\nX-Injected: yes", "\x1b[31mred", "\u202e", "%0d%0aX: y", '"}\n{"event": "forged', "a" * 1_000_000]


@pytest.mark.parametrize("text", HOSTILE, ids=["crlf", "esc", "bidi", "encoded", "json", "1 MB"])
def test_every_line_stays_one_json_object_whatever_a_client_sends(image: str, text: str) -> None:
    with container(image, "--env", "LOG_LEVEL=debug") as (name, url):
        get(f"{url}/health/ready")
        with httpx2.Client(base_url=url, timeout=30) as client:
            for request in (
                lambda: client.get("/v1/" + text[:50_000]),
                lambda: client.get("/nowhere", params={"q": text[:50_000]}),
                lambda: client.get("/nowhere", headers={"X-Request-ID": text[:50_000].encode(), "User-Agent": "x"}),
                lambda: client.post("/nowhere", content=text.encode()),
            ):
                try:
                    answer = request()
                except (httpx2.TransportError, httpx2.InvalidURL, ValueError):
                    # Refused by the client or by the server's parser, before the application.
                    continue
                assert answer.status_code in (400, 404, 413)
                assert "X-Injected" not in answer.headers
        assert httpx2.get(f"{url}/health/live").status_code == 200
        logged = run("docker", "logs", name).stdout.splitlines()
    events = [json.loads(line)["event"] for line in logged]
    assert "request" in events
    assert "forged" not in events
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


def test_traces_arrive_where_an_endpoint_is_set(image: str) -> None:
    """And the log line of a request names its trace."""
    port = free_port()
    endpoint = f"--env=OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:{port}"
    with container(image, endpoint, "--env=OTEL_BSP_SCHEDULE_DELAY=100") as (name, url):
        get(f"{url}/health/ready")
        trace = "0af7651916cd43dd8448eb211c80319c"
        httpx2.get(f"{url}/nowhere", headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"})
        logged: list[dict[str, Any]] = [json.loads(line) for line in run("docker", "logs", name).stdout.splitlines()]
    assert [line["trace_id"] for line in logged if line.get("path") == "/nowhere"] == [trace]
