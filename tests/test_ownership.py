"""What owners add breaks none of the template's own tests, and has a place in each list."""

import shutil
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import run

EVERYTHING = {"database": "postgresql", "cache": "redis", "auth": "jwt"}

WAREHOUSE = '''
"""What this service adds to the template's."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from . import health
from .settings import Settings


class WarehouseError(Exception): ...


@health.check("warehouse")
async def warehouse_answers(request: Request) -> None:
    """Fails in tests: there is no warehouse."""
    settings: Settings = request.app.state.settings
    raise ConnectionError(f"{settings.warehouse_url} does not answer")


class OnlyBusiness:
    """Refuse all but the API and its description, and log every request."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        structlog.get_logger().info("seen")
        app: ASGIApp = self.app
        if scope["type"] == "http" and not scope["path"].startswith(("/v1/", "/openapi")):
            app = PlainTextResponse("nothing to see here", 403)
        await app(scope, receive, send)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    structlog.get_logger().info("warehouse opened")
    yield


router = APIRouter(prefix="/v1/warehouse", lifespan=lifespan)


@router.get("/broken")
async def broken() -> None:
    raise WarehouseError


async def on_error(request: Request, error: Exception) -> Response:
    return PlainTextResponse("out of stock", 418)


async def everything(path: str) -> str:
    return path


def install(app: FastAPI) -> None:
    app.include_router(router)
    app.add_api_route("/{path:path}", everything, methods=["GET", "POST", "DELETE"])
    app.add_middleware(OnlyBusiness)
    app.add_exception_handler(WarehouseError, on_error)
    app.root_path = "/shop"
'''
OWN_TEST = '''
"""The additions are there: in the application of `client`."""

from fastapi.testclient import TestClient


def test_a_broken_warehouse_is_out_of_stock(client: TestClient) -> None:
    assert client.get("/v1/warehouse/broken").status_code == 418
    assert client.get("/health/live").status_code == 403
'''
# With these, no route of the template is where it was, and no error looks like it did.
MOUNTED = """
    from fastapi import FastAPI, HTTPException

    app.add_exception_handler(HTTPException, warehouse.on_error)
    app.add_exception_handler(Exception, warehouse.on_error)
    outer = FastAPI()
    outer.mount("/shop", app)
    return outer
"""
EDITS = [
    ("src/my_service/app.py", "# Yours:\n", "from . import warehouse\n"),
    ("src/my_service/app.py", "    # Yours:\n", "    warehouse.install(app)\n"),
    ("src/my_service/settings.py", "    # Yours:\n", "    warehouse_url: str\n    warehouse_token: SecretStr\n"),
    ("src/my_service/settings.py", "# Yours:\n", "from pydantic import SecretStr\n"),
    ("tests/conftest.py", "ENVIRONMENT: dict[str, str] = {\n", '    "WAREHOUSE_URL": "http://warehouse.test",\n'),
    ("tests/conftest.py", "ENVIRONMENT: dict[str, str] = {\n", '    "WAREHOUSE_TOKEN": "sesame",\n'),
    ("pyproject.toml", 'version = "', "1."),
]


def write(path: Path, text: str) -> None:
    path.write_text(textwrap.dedent(text).lstrip("\n"))


def insert(path: Path, anchor: str, text: str) -> None:
    """Write `text` behind the first `anchor`."""
    content = path.read_text()
    assert anchor in content, f"{path.name} has no {anchor!r}"
    path.write_text(content.replace(anchor, anchor + text, 1))


@pytest.fixture
def owned(installed_with: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Return `owned(**answers)`: a project with what owners add, to change at will."""

    def project(**answers: str) -> Path:
        folder = tmp_path / "my-service"
        shutil.copytree(installed_with(**answers), folder, symlinks=True, ignore=shutil.ignore_patterns(".venv"))
        for name, anchor, text in EDITS:
            insert(folder / name, anchor, text)
        write(folder / "src/my_service/warehouse.py", WAREHOUSE)
        write(folder / "tests/test_warehouse.py", OWN_TEST)
        run("make", "lock", cwd=folder)
        return folder

    return project


@pytest.mark.parametrize("answers", [{}, EVERYTHING], ids=["nothing", "everything"])
def test_the_templates_tests_pass_whatever_the_owner_adds(owned: Callable[..., Path], answers: dict[str, str]) -> None:
    project = owned(**answers)
    run("make", "format", cwd=project)
    run("make", "check", cwd=project)


def test_the_templates_tests_pass_with_the_service_below_another_prefix(owned: Callable[..., Path]) -> None:
    project = owned()
    insert(project / "src/my_service/app.py", "    warehouse.install(app)\n", MOUNTED)
    (project / "tests/test_warehouse.py").unlink()
    run("make", "format", cwd=project)
    run("make", "test", cwd=project)


def test_a_setting_without_a_default_passes_the_type_checker(owned: Callable[..., Path]) -> None:
    program = "from my_service.settings import load; load()"
    project = owned()
    run("make", "lint", cwd=project)
    refused = run("uv", "run", "python", "-c", program, cwd=project, check=False)
    assert refused.stderr.splitlines()[-2:] == ["WAREHOUSE_URL: Field required", "WAREHOUSE_TOKEN: Field required"]
