"""The rendered project passes its own checks, and they can fail."""

import re
import shutil
import textwrap
from pathlib import Path
from typing import Any

import pytest
from conftest import NASTY, ROOT, commit, files, make_check, run


@pytest.mark.parametrize("answers", [{}, NASTY], ids=["defaults", "nasty"])
def test_a_fresh_project_passes_make_check_with_full_coverage(
    render: Any, tmp_path: Path, answers: dict[str, str]
) -> None:
    project = Path(shutil.copytree(render(**answers), tmp_path / "project"))
    before = {name: (project / name).read_bytes() for name in files(project)}
    make_check(project, "ARGS=--cov-fail-under=100")
    run("make", "format", cwd=project)
    assert {name: (project / name).read_bytes() for name in before} == before
    commit(project, "start")
    committed = run("git", "ls-files", cwd=project).stdout.split()
    assert "uv.lock" in committed
    assert not [name for name in committed if name.startswith((".venv", ".uv/", ".coverage"))]
    assert run("git", "status", "--porcelain", cwd=project).stdout == ""


def test_the_readmes_first_resource_passes_make_check(installed: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(installed, project, symlinks=True, ignore=shutil.ignore_patterns(".venv"))
    readme = (project / "README.md").read_text()
    module, lines = re.findall(r"(?ms)^(    .*?)\n\n?(?=\S)", readme.partition("A first resource")[2])[:2]
    imported, included = textwrap.dedent(lines).splitlines()
    (project / "src/my_service/orders").mkdir()
    (project / "src/my_service/orders/__init__.py").touch()
    (project / "src/my_service/orders/routes.py").write_text(textwrap.dedent(module).rstrip("\n") + "\n")
    app = project / "src/my_service/app.py"
    text = app.read_text().replace("\n# Yours:\n", f"\n# Yours:\n{imported}\n")
    app.write_text(text.replace("    # Yours:\n", f"    # Yours:\n    {included}\n"))
    make_check(project)
    described = "from my_service.app import create_app; print(*create_app().openapi()['paths'])"
    assert "/v1/orders" in run("uv", "run", "python", "-c", described, cwd=project).stdout


@pytest.mark.parametrize(
    ("target", "file", "fault"),
    [
        ("lint", "src/my_service/health.py", "import os\n"),
        ("lint", "src/my_service/health.py", "x=1\n"),
        ("lint", "src/my_service/health.py", 'port: int = "none"\n'),
        ("test", "tests/test_health.py", "def test_wrong() -> None:\n    assert False\n"),
    ],
)
def test_make_check_finds_a_fault(installed: Path, tmp_path: Path, target: str, file: str, fault: str) -> None:
    project = tmp_path / "project"
    shutil.copytree(installed, project, symlinks=True, ignore=shutil.ignore_patterns(".venv"))
    with (project / file).open("a") as source:
        source.write(f"\n\n{fault}")
    assert run("make", target, cwd=project, check=False).returncode != 0


def test_its_files_pass_their_own_linters(render: Any) -> None:
    project = render()
    run("hadolint", "--ignore", "DL3059", "Dockerfile", cwd=project)
    run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml", cwd=project)
    run("yamllint", "--strict", "--config-data", YAML_RULES, "compose.yaml", ".pre-commit-config.yaml", cwd=project)


@pytest.mark.parametrize("answers", [{}, {"database": "sqlite", "deploy": "kubernetes"}], ids=str)
def test_its_scripts_pass_shellcheck(render: Any, answers: dict[str, str]) -> None:
    run("shellcheck", "-x", *sorted(render(**answers).glob("ops/*.sh")))


def test_its_recipes_are_short(render: Any) -> None:
    """Longer logic is a script in ops/, where a variable is text."""
    recipes = re.findall(
        r"(?m)^\S+:.*\n((?:\t.*\n)+)", (render(database="postgresql", deploy="kubernetes") / "Makefile").read_text()
    )
    assert recipes
    assert [recipe for recipe in recipes if recipe.count("\n") > 3] == []


YAML_RULES = "{extends: default, rules: {document-start: disable, line-length: {max: 100}}}"


def test_this_repositorys_workflow_passes_its_linters() -> None:
    workflows = sorted((ROOT / ".github/workflows").glob("*.yml"))
    assert workflows
    run("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *workflows)
    run("zizmor", "--offline", "--pedantic", "--no-progress", *workflows)


DEVELOP = {"help", "install", "dev", "check", "lint", "test", "format", "lock", "update", "update-check"}
TARGETS = DEVELOP | {"build", "run", "stop", "probe", "logs", "up", "down", "publish", "sign"}


def test_help_lists_every_target_that_users_call(render: Any) -> None:
    printed = run("make", cwd=render()).stdout
    listed = {line.split()[0] for line in printed.splitlines() if line.startswith("  ")}
    assert listed == TARGETS


def lines(project: Path, name: str) -> int:
    return len((project / name).read_text().splitlines())


def test_the_documents_are_short(render: Any) -> None:
    project = render(ci="none")
    assert lines(project, "README.md") <= 80
    assert lines(project, "AGENTS.md") <= 40


@pytest.mark.parametrize(
    "answer", [{"database": "postgresql"}, {"cache": "redis"}, {"auth": "api-key"}, {"auth": "jwt"}], ids=str
)
def test_an_answer_adds_few_lines_to_them(render: Any, answer: dict[str, str]) -> None:
    with_it, without = render(ci="none", **answer), render(ci="none")
    assert lines(with_it, "README.md") - lines(without, "README.md") <= 22
    assert lines(with_it, "AGENTS.md") - lines(without, "AGENTS.md") <= 5


def test_env_example_shows_every_setting_with_its_default(installed: Path) -> None:
    shown = {
        line.removeprefix("#").partition("=")[0]: line.partition("=")[2]
        for line in (installed / ".env.example").read_text().splitlines()
        if line.removeprefix("#")[:1].isupper()
    }
    for name in [name for name in shown if name.startswith("OTEL_")]:
        del shown[name]
    program = (
        "from my_service.settings import Settings as S\n"
        "for name, field in S.model_fields.items():\n"
        "    value = field.default\n"
        "    text = ','.join(value) if isinstance(value, list) else str(value).lower()\n"
        "    print(f'{name.upper()}={text}')"
    )
    defaults = dict(pair.split("=") for pair in run(installed / ".venv/bin/python", "-c", program).stdout.split())
    assert shown.keys() == defaults.keys()
    # These two follow the terminal and APP_ENV.
    assert {**shown, "LOG_FORMAT": "pydanticundefined", "SHUTDOWN_DELAY_SECONDS": "none"} == defaults
