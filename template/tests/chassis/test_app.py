"""How the service is put together."""

from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.testclient import TestClient


@pytest.fixture
def app(bare: FastAPI) -> FastAPI:
    return bare


def test_business_routes_come_before_the_probes(app: FastAPI) -> None:
    router = APIRouter(prefix="/v1/test-of-the-order")

    @router.get("")
    async def answer() -> list[str]:
        return []

    app.include_router(router)
    client = TestClient(app)
    assert client.get("/v1/test-of-the-order").json() == []
    paths = list(client.get("/openapi.json").json()["paths"])
    assert paths.index("/v1/test-of-the-order") < paths.index("/health/live")


def test_a_catch_all_route_hides_no_probe(app: FastAPI) -> None:
    @app.get("/{path:path}")
    async def everything(path: str) -> dict[str, Any]:
        return {"path": path}

    client = TestClient(app)
    assert client.get("/health/live").json() == {"status": "ok"}
    assert client.get("/v1/nothing-else").json() == {"path": "v1/nothing-else"}
