"""The rendered service as a process: it starts, responds, logs and stops."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import eventually, free_port, get, run


@contextmanager
def serve(project: Path, *command: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    port = free_port()
    process = subprocess.Popen(
        [*(command or (".venv/bin/python", "-m", "my_service"))],
        cwd=project,
        env={**os.environ, "PORT": str(port), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process, f"http://127.0.0.1:{port}"
    finally:
        # What make dev starts has a session of its own: it ends only if make dev can end it.
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def test_the_service_responds_and_prints_only_json_lines(installed: Path) -> None:
    with serve(installed) as (process, url):
        assert get(f"{url}/health/ready").json() == {"status": "ok", "checks": ["shutdown"]}
        assert get(f"{url}/docs").status_code == 200
        assert get(f"{url}/openapi.json").json()["info"]["title"] == "My Service"
        problem = get(f"{url}/nowhere", headers={"X-Request-ID": "find-me"})
        process.terminate()
        printed, _ = process.communicate(timeout=60)
    assert problem.headers["content-type"] == "application/problem+json"
    assert problem.json()["request_id"] == "find-me"
    lines = [json.loads(line) for line in printed.splitlines()]
    assert [line["path"] for line in lines if line.get("request_id") == "find-me"] == ["/nowhere"]
    assert any("Uvicorn running" in line["event"] for line in lines)
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("peers", "client", "scheme"),
    [("127.0.0.1", "203.0.113.9", "https"), ("10.0.0.0/8,127.0.0.2", "127.0.0.1", "http")],
    ids=["listed", "not listed"],
)
def test_forwarded_headers_count_from_listed_proxies_only(
    installed: Path, peers: str, client: str, scheme: str
) -> None:
    forwarded = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}
    with serve(installed, FORWARDED_ALLOW_IPS=peers, LOG_LEVEL="debug") as (process, url):
        redirect = get(f"{url}/health/live/", headers=forwarded)
        process.terminate()
        printed, _ = process.communicate(timeout=60)
    assert redirect.status_code == 307
    assert redirect.headers["location"].startswith(f"{scheme}://127.0.0.1:")
    lines = [json.loads(line) for line in printed.splitlines()]
    assert [line["client"] for line in lines if line.get("path") == "/health/live/"] == [client]


@pytest.mark.parametrize("request_line", [b"NONSENSE", b"GET /health/live HTTP/1.1", b"BREW / HTTP/1.1"])
def test_no_response_names_the_server(installed: Path, request_line: bytes) -> None:
    """Neither a response of the application, nor one of uvicorn before it."""
    with serve(installed) as (_, url):
        get(f"{url}/health/live")
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 20) as connection:
            connection.sendall(request_line + b"\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            response = b"".join(iter(lambda: connection.recv(65536), b"")).lower()
    assert response.startswith(b"http/1.1 ")
    assert b"\r\nserver:" not in response
    assert b"uvicorn" not in response


@pytest.mark.parametrize(("endpoint", "imported"), [("", False), ("http://127.0.0.1:9", True)])
def test_the_tracing_library_is_imported_only_if_an_endpoint_is_set(
    installed: Path, endpoint: str, imported: bool
) -> None:
    command = [".venv/bin/python", "-X", "importtime", "-m", "my_service"]
    with serve(installed, *command, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, SHUTDOWN_GRACE_SECONDS="0") as (process, url):
        get(f"{url}/nowhere")
        process.terminate()
        printed, _ = process.communicate(timeout=60)
    assert "opentelemetry.trace" in printed
    assert ("opentelemetry.sdk" in printed) is imported


def test_ctrl_c_stops_the_service_without_a_traceback(installed: Path) -> None:
    with serve(installed) as (process, url):
        get(f"{url}/health/live")
        process.send_signal(signal.SIGINT)
        printed, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in printed


@pytest.mark.usefixtures("one_environment")
def test_make_dev_reloads_on_an_edit(project: Path) -> None:
    run("make", "install", cwd=project)
    module = project / "src/my_service/chassis/health.py"
    with serve(project, "make", "dev") as (_, url):
        assert get(f"{url}/health/live").json() == {"status": "ok"}
        module.write_text(module.read_text().replace('status: str = "ok"', 'status: str = "edited"'))

        def edited() -> None:
            assert get(f"{url}/health/live").json() == {"status": "edited"}

        eventually(edited)


@pytest.mark.parametrize(
    ("variable", "value", "line"),
    [
        ("PORT", "hunter2", "PORT: Input should be a valid integer"),
        ("PORT", "0", "PORT: Input should be greater than or equal to 1"),
        ("APP_ENV", "hunter2", "APP_ENV: Input should be 'development', 'test' or 'production'"),
        ("LOG_LEVEL", "hunter2", "LOG_LEVEL: Input should be 'debug', 'info', 'warning' or 'error'"),
        ("LOG_FORMAT", "hunter2", "LOG_FORMAT: Input should be 'json' or 'console'"),
        ("MAX_BODY_BYTES", "-1", "MAX_BODY_BYTES: Input should be greater than or equal to 0"),
        ("MAX_CONNECTIONS", "0", "MAX_CONNECTIONS: Input should be greater than or equal to 1"),
        ("STALL_TIMEOUT_SECONDS", "0", "STALL_TIMEOUT_SECONDS: Input should be greater than 0"),
    ],
)
def test_a_bad_setting_ends_the_process_with_one_line(installed: Path, variable: str, value: str, line: str) -> None:
    stopped = run(installed / ".venv/bin/python", "-m", "my_service", env={**os.environ, variable: value}, check=False)
    assert stopped.returncode != 0
    assert stopped.stdout == ""
    assert stopped.stderr.startswith(line)
    assert len(stopped.stderr.splitlines()) == 1
    assert "hunter2" not in stopped.stderr


def test_a_port_in_use_is_reported_without_a_traceback(installed: Path) -> None:
    with serve(installed) as (_, url):
        get(f"{url}/health/live")
        second = run(
            installed / ".venv/bin/python",
            "-m",
            "my_service",
            env={**os.environ, "PORT": url.rpartition(":")[2]},
            check=False,
        )
    assert second.returncode != 0
    assert "address already in use" in second.stdout
    assert "Traceback" not in second.stdout + second.stderr
