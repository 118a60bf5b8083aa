"""What owners add breaks none of the chassis's tests, and has a place in each list."""

import os
import re
import shutil
import subprocess
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, copy, features_only, files, make_check, run

EVERYTHING = {"database": "postgresql", "cache": "redis", "auth": "jwt", "jobs": "postgresql"}
# Together they render every file.
SETS = [
    {},
    {**EVERYTHING, "license": "MIT", "deploy": "kubernetes"},
    {"database": "sqlite", "auth": "api-key", "ci": "gitlab", "deploy": "kubernetes"},
    {"cache": "redis", "ci": "none"},
]

PYTHON = "import sys; print('%d.%d' % sys.version_info[:2])"
IMPORTS = "# isort: split\n# Yours:\n"
WAREHOUSE = '''
"""What this service adds to the template's."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from . import chassis
from .settings import Settings


class WarehouseError(Exception): ...


async def warehouse_answers(service: chassis.Service) -> None:
    """Fails in tests: there is no warehouse."""
    settings = chassis.settings_of(service, Settings)
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
async def lifespan(service: chassis.Service) -> AsyncIterator[None]:
    structlog.get_logger().info("warehouse opened")
    yield


router = APIRouter(prefix="/v1/warehouse")
feature = chassis.Feature(
    name="warehouse",
    settings=Settings,
    lifespan=lifespan,
    checks={"warehouse": warehouse_answers},
    routers=[router],
)


@router.get("/broken")
async def broken() -> None:
    raise WarehouseError


async def on_error(request: Request, error: Exception) -> Response:
    return PlainTextResponse("out of stock", 418)


async def everything(path: str) -> str:
    return path


def install(app: FastAPI) -> None:
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
    from fastapi import HTTPException

    app.add_exception_handler(HTTPException, warehouse.on_error)
    app.add_exception_handler(Exception, warehouse.on_error)
    outer = FastAPI()
    outer.mount("/shop", app)
    return outer
"""
EDITS = [
    ("src/my_service/app.py", "# Yours:\n", "from . import warehouse\n"),
    ("src/my_service/app.py", "        features=[", "warehouse.feature, "),
    ("src/my_service/app.py", "\n    # Yours:\n", "    warehouse.install(app)\n"),
    ("src/my_service/settings.py", "\n    # Yours:\n", "    warehouse_url: str\n    warehouse_token: SecretStr\n"),
    ("src/my_service/settings.py", "# Yours:\n", "from pydantic import SecretStr\n"),
    ("tests/conftest.py", "ENVIRONMENT: dict[str, str] = {\n", '    "WAREHOUSE_URL": "http://warehouse.test",\n'),
    ("tests/conftest.py", "ENVIRONMENT: dict[str, str] = {\n", '    "WAREHOUSE_TOKEN": "sesame",\n'),
    # The chassis's own tests are about its defaults.
    ("tests/conftest.py", "ENVIRONMENT: dict[str, str] = {\n", '    "LOG_FORMAT": "console",\n'),
    ("tests/conftest.py", "ENVIRONMENT: dict[str, str] = {\n", '    "SHUTDOWN_DELAY_SECONDS": "1",\n'),
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


@pytest.mark.usefixtures("one_environment")
def test_the_features_tests_pass_whatever_the_owner_adds(
    owned: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And whatever their shell exports, such as their .env."""
    monkeypatch.setenv("ALLOWED_HOSTS", "shop.example")
    project = owned(**EVERYTHING)
    run("make", "format", cwd=project)
    assert f"\n{IMPORTS}from . import warehouse\n" in (project / "src/my_service/app.py").read_text()
    assert f"\n{IMPORTS}from pydantic import SecretStr\n" in (project / "src/my_service/settings.py").read_text()
    make_check(project, features_only(project))


@pytest.mark.usefixtures("one_environment")
def test_the_other_tests_pass_whatever_the_owner_adds_and_below_another_prefix(owned: Callable[..., Path]) -> None:
    project = owned()
    insert(project / "src/my_service/app.py", "    warehouse.install(app)\n", MOUNTED)
    for name in ("test_app", "test_warehouse"):
        (project / f"tests/{name}.py").unlink()
    run("make", "format", cwd=project)
    run("make", "test", "ARGS=--no-cov -n0", cwd=project)


@pytest.mark.usefixtures("one_environment")
def test_a_setting_without_a_default_passes_the_type_checker(owned: Callable[..., Path]) -> None:
    program = "from my_service.chassis import load; from my_service.settings import Settings; load(Settings)"
    project = owned()
    run("make", "format", cwd=project)
    run("make", "lint", cwd=project)
    refused = run("uv", "run", "python", "-c", program, cwd=project, check=False)
    assert refused.stderr.splitlines()[-2:] == ["WAREHOUSE_URL: Field required", "WAREHOUSE_TOKEN: Field required"]


@pytest.mark.usefixtures("one_environment")
@pytest.mark.parametrize("version", ["3.99", "same", ""])
def test_make_check_warns_in_one_line_if_the_image_runs_another_python(
    installed: Path, tmp_path: Path, version: str
) -> None:
    project = tmp_path / "my-service"
    shutil.copytree(installed, project, symlinks=True, ignore=shutil.ignore_patterns(".venv"))
    environment = {name: value for name, value in os.environ.items() if name != "UV_PYTHON"}
    here = run("uv", "run", "python", "-c", PYTHON, cwd=project, env=environment).stdout.strip()
    image = f"python:{here if version == 'same' else version}-slim" if version else "registry.test/base:1"
    dockerfile = re.sub(r"(?m)^ARG PYTHON_IMAGE=.*$", f"ARG PYTHON_IMAGE={image}", (project / "Dockerfile").read_text())
    (project / "Dockerfile").write_text(dockerfile)
    printed = run("make", "check", "ARGS=--collect-only --no-cov -n0", cwd=project, env=environment).stderr
    said = [line for line in printed.splitlines() if "The image runs" in line]
    expected = (
        f"The image runs Python 3.99, but these checks ran on {here}: to check with 3.99, run UV_PYTHON=3.99 make check"
    )
    assert said == ([expected] if version == "3.99" else [])


# Files with lists: after which line owners add to one.
LISTS = {
    ".dockerignore": ["!migrations/\n# Yours: such as !data/\n"],
    ".env.example": ["\n# Yours:\n"],
    ".gitignore": ["dist/\n# Yours:\n"],
    ".pre-commit-config.yaml": ["repos:\n  # Yours:\n"],
    "Makefile": ["\n# Yours:\n"],
    "compose.yaml": ["services:\n  # Yours:\n", "      # Yours:\n    read_only: true\n"],
    "src/my_service/__main__.py": ["    # isort: split\n    # Yours:\n", "        # Yours:\n    ]\n"],
    "src/my_service/app.py": [IMPORTS, "\n    # Yours:\n    return app\n"],
    "src/my_service/settings.py": [IMPORTS, "\n    # Yours:\n"],
    "tests/conftest.py": [IMPORTS, "ENVIRONMENT: dict[str, str] = {\n    # Yours: "],
}


@pytest.mark.parametrize("answers", SETS, ids=lambda answers: "-".join(answers.values()))
def test_each_list_has_a_place_for_the_owners_lines(render: Any, answers: dict[str, str]) -> None:
    for name, places in LISTS.items():
        text = (render(**answers) / name).read_text()
        assert [place for place in places if place not in text] == [], name
    for name in re.findall(r"(?m)^(volumes|secrets):$", (render(**answers) / "compose.yaml").read_text()):
        assert f"\n{name}:\n  # Yours:\n" in (render(**answers) / "compose.yaml").read_text()


@pytest.fixture(scope="session")
def release(shared: Any) -> Path:
    """The template as release 1.3.0 shipped it."""

    def export(folder: Path) -> None:
        log = run("git", "log", "--reverse", "--format=%H", "-S\n## 1.3.0\n", "--", "CHANGELOG.md", cwd=ROOT)
        archive = subprocess.run(
            ["git", "archive", log.stdout.split()[0]], cwd=ROOT, capture_output=True, check=True
        ).stdout
        subprocess.run(["tar", "--extract", f"--directory={folder}"], input=archive, check=True)

    return Path(shared("release-1.3.0", export))


@pytest.mark.parametrize("answers", SETS, ids=lambda answers: "-".join(answers.values()))
def test_the_last_line_of_each_file_is_that_of_the_last_release(
    render: Any, release: Path, tmp_path: Path, answers: dict[str, str]
) -> None:
    """Owners append to files: a line of the template below it would meet theirs in every update."""
    copy(release, tmp_path / "before", **answers)
    before, after = tmp_path / "before", render(**answers)
    common = sorted({*files(before)} & {*files(after)} - {".copier-answers.yml"})
    # The example is the owner's once made: no update touches it. The others were rewritten, server.py
    # for 1.4.0 and the rest for 2.0.0.
    left_out = "/items/|/test_(items|migrations|app)[.]py$|/versions/|/(server|settings|conftest)[.]py$|^AGENTS.md$"
    merged = [name for name in common if not re.search(left_out, name)]
    moved = [name for name in merged if last_line(before / name) != last_line(after / name)]
    assert moved == []


def last_line(path: Path) -> str:
    return "".join(path.read_text().splitlines()[-1:])
