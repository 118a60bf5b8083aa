"""The chassis is plain Python: it is linted, typed and run where it lies in this repository."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, run

HERE = ROOT / "template/src/{{package_name}}"


@pytest.fixture(scope="session")
def everything(installed_with: Callable[..., Path]) -> Path:
    """A project with the libraries of every answer."""
    project = installed_with(database="postgresql", cache="redis", auth="jwt", jobs="postgresql")
    run("uv", "pip", "install", "--quiet", "aiosqlite", cwd=project)
    return project


def test_the_chassis_is_linted_and_typed_in_place(everything: Path) -> None:
    tools, config = everything / ".venv/bin", everything / "pyproject.toml"
    # N999: the folder above has the name of a question.
    run(tools / "ruff", "check", "--config", config, "--ignore=N999", HERE / "chassis")
    run(tools / "ruff", "format", "--check", "--config", config, HERE / "chassis")
    environment = {**os.environ, "MYPYPATH": str(HERE)}
    typed = ("--explicit-package-bases", "--python-executable", tools / "python", HERE / "chassis")
    run(tools / "mypy", "--config-file", config, *typed, env=environment)


def test_the_chassis_serves_where_it_lies(everything: Path) -> None:
    program = (
        "import chassis; from fastapi.testclient import TestClient\n"
        "app = chassis.create_app(chassis.Settings(log_level='error'), title='Here', version='1')\n"
        "print(TestClient(app).get('/health/ready').json())"
    )
    environment = {**os.environ, "PYTHONPATH": str(HERE), "PYTHONDONTWRITEBYTECODE": "1"}
    told = run(everything / ".venv/bin/python", "-c", program, env=environment)
    assert told.stdout == "{'status': 'ok', 'checks': ['shutdown']}\n"


def test_the_chassis_contains_no_template_language_and_no_answer() -> None:
    for path in sorted((HERE / "chassis").rglob("*")):
        assert path.suffix != ".jinja", path
        if path.suffix == ".py":
            text = path.read_text()
            assert "{{" not in text.replace("{{}}", ""), path
            assert "{%" not in text, path


def test_two_services_fit_into_one_process(everything: Path, render: Any, tmp_path: Path) -> None:
    """As in a workspace, or in the tests of a third."""
    folders = [render(package_name=name) / "src" for name in ("first_desk", "second_desk")]
    program = (
        "from fastapi import FastAPI; from fastapi.testclient import TestClient\n"
        "import first_desk.chassis, second_desk.chassis\n"
        "for chassis in (first_desk.chassis, second_desk.chassis):\n"
        "    app = chassis.create_app(chassis.Settings(log_level='error'), title='Desk', version='1')\n"
        "    print(TestClient(app).get('/metrics').text.count('build_info{'))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders)), "PYTHONDONTWRITEBYTECODE": "1"}
    assert run(everything / ".venv/bin/python", "-c", program, env=environment).stdout == "1\n1\n"
