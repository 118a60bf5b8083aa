"""The id and the log line of each request."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import structlog
from fastapi import FastAPI, WebSocket
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient


@pytest.fixture
def app(app: FastAPI) -> FastAPI:
    @app.get("/v1/orders/{order_id}")
    async def read_order(order_id: str) -> str:
        structlog.get_logger().info("order read")
        return order_id

    @app.get("/v1/crash")
    async def crash() -> None:
        raise RuntimeError("out of paper")

    @app.get("/v1/half")
    async def half() -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"half"
            raise RuntimeError("out of paper")

        return StreamingResponse(chunks())

    @app.websocket("/v1/socket")
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("hello")

    return app


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_one_line_tells_of_a_request(app: FastAPI, capsys: pytest.CaptureFixture[str]) -> None:
    client = TestClient(app)
    answer = client.get("/v1/orders/a%0Ab", headers={"X-Request-ID": "the-id.7"})
    assert answer.headers["x-request-id"] == "the-id.7"
    own, request = lines(capsys)
    assert own["event"] == "order read"
    assert own["request_id"] == request["request_id"] == "the-id.7"
    assert request["event"] == "request"
    assert request["level"] == "info"
    assert request["method"] == "GET"
    assert request["path"] == "/v1/orders/a%0Ab"
    assert request["route"] == "/v1/orders/{order_id}"
    assert request["status"] == 200
    assert request["duration_ms"] > 0
    assert request["client"] == "testclient"


@pytest.mark.parametrize("unfit", ["", "a b", "ü", "x" * 129, '"}'])
def test_an_unfit_id_is_replaced(client: TestClient, unfit: str) -> None:
    answer = client.get("/health/live", headers={b"X-Request-ID": unfit.encode()})
    assert len(answer.headers["x-request-id"]) == 32


def test_each_request_has_its_own_id(client: TestClient) -> None:
    ids = {client.get("/health/live").headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3


def test_a_crash_is_logged_once_with_its_traceback(
    app: FastAPI, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = TestClient(app).get("/v1/crash")
    (line,) = lines(capsys)
    assert line["level"] == "error"
    assert line["status"] == 500
    assert line["request_id"] == answer.json()["request_id"]
    assert "RuntimeError: out of paper" in line["exception"]


def test_half_an_answer_is_left_to_the_server_to_cut(
    app: FastAPI, capsys: pytest.CaptureFixture[str]
) -> None:
    client = TestClient(app)
    with pytest.raises(RuntimeError, match="out of paper"):
        client.get("/v1/half")
    assert "out of paper" in lines(capsys)[0]["exception"]


def test_probes_are_no_news(app: FastAPI, capsys: pytest.CaptureFixture[str]) -> None:
    TestClient(app).get("/health/live")
    assert [line["level"] for line in lines(capsys)] == ["debug"]


def test_websockets_pass_through(client: TestClient) -> None:
    with client.websocket_connect("/v1/socket") as websocket:
        assert websocket.receive_text() == "hello"
