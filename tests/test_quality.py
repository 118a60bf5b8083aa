"""The rendered project passes its own checks, and they can fail."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import EVERYTHING, NASTY, ROOT, commit, features_only, files, make_check, run


def test_a_fresh_project_passes_make_check_with_full_coverage(
    render: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Path(shutil.copytree(render(), tmp_path / "project"))
    before = {name: (project / name).read_bytes() for name in files(project)}
    make_check(project, "ARGS=--cov-fail-under=100")
    monkeypatch.delenv("MYPY_CACHE_DIR")
    run("uv", "run", "mypy", "src/my_service/__init__.py", cwd=project)
    assert (project / ".mypy_cache").exists()
    run("make", "format", cwd=project)
    assert {name: (project / name).read_bytes() for name in before} == before
    commit(project, "start")
    committed = run("git", "ls-files", cwd=project).stdout.split()
    assert "uv.lock" in committed
    assert not [name for name in committed if name.startswith((".venv", ".uv/", ".coverage"))]
    assert run("git", "status", "--porcelain", cwd=project).stdout == ""


@pytest.mark.usefixtures("one_environment")
def test_a_project_with_any_text_in_its_answers_passes_make_check(render: Any, tmp_path: Path) -> None:
    """Its other tests run in `tests/test_image.py`, in the image's Python."""
    project = Path(shutil.copytree(render(**NASTY), tmp_path / "project"))
    before = {name: (project / name).read_bytes() for name in files(project)}
    make_check(project, features_only(project))
    run("make", "format", cwd=project)
    assert {name: (project / name).read_bytes() for name in before} == before


@pytest.mark.usefixtures("one_environment")
@pytest.mark.parametrize(
    ("target", "file", "fault"),
    [
        ("lint", "src/my_service/chassis/health.py", "import os\n"),
        ("lint", "src/my_service/chassis/health.py", "x=1\n"),
        ("lint", "src/my_service/app.py", 'port: int = "none"\n'),
        ("test", "tests/test_app.py", "def test_wrong() -> None:\n    assert False\n"),
        ("test", "src/my_service/chassis/health.py", "from .. import __main__ as main\n"),
        ("test", "src/my_service/app.py", "from .chassis.health import live as live\n"),
    ],
)
def test_make_check_fails_for_a_fault_in_style_types_tests_or_imports(
    installed: Path, tmp_path: Path, target: str, file: str, fault: str
) -> None:
    project = tmp_path / "project"
    shutil.copytree(installed, project, symlinks=True, ignore=shutil.ignore_patterns(".venv"))
    with (project / file).open("a") as source:
        source.write(f"\n\n{fault}")
    quick = "ARGS=--no-cov -n0 tests/test_app.py tests/chassis/test_wall.py"
    assert run("make", target, quick, cwd=project, check=False).returncode != 0


def test_its_files_pass_their_own_linters(render: Any) -> None:
    project = render()
    run("hadolint", "--ignore", "DL3059", "Dockerfile", cwd=project)
    run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml", cwd=project)
    run("yamllint", "--strict", "--config-data", YAML_RULES, "compose.yaml", ".pre-commit-config.yaml", cwd=project)


@pytest.mark.parametrize("answers", [{}, {"database": "sqlite", "deploy": "kubernetes"}], ids=str)
def test_its_scripts_pass_shellcheck(render: Any, answers: dict[str, str]) -> None:
    project = render(**answers)
    run("shellcheck", "-x", *sorted(project.glob("ops/*.sh")), *sorted(project.glob("deploy/*.sh")))


@pytest.mark.parametrize(("answers", "most"), [({}, 110), (EVERYTHING, 145)], ids=["nothing", "everything"])
def test_the_makefile_and_its_recipes_are_short(render: Any, answers: dict[str, str], most: int) -> None:
    """Longer logic is a script in ops/, where a variable is text."""
    makefile = (render(**answers) / "Makefile").read_text()
    recipes = re.findall(r"(?m)^\S[^:=\n]*:.*\n((?:\t.*\n)+)", makefile)
    assert recipes
    assert [recipe for recipe in recipes if recipe.count("\n") > 3] == []
    assert makefile.count("\n") <= most


YAML_RULES = "{extends: default, rules: {document-start: disable, line-length: {max: 100}}}"


def test_this_repositorys_workflow_passes_its_linters() -> None:
    workflows = sorted((ROOT / ".github/workflows").glob("*.yml"))
    assert workflows
    run("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *workflows)
    run("zizmor", "--offline", "--pedantic", "--no-progress", *workflows)


DEVELOP = {"help", "install", "dev", "dev-reset", "check", "lint", "test", "test-own", "format", "lock"}
UPDATE = {"add", "remove", "update", "update-check"}
TARGETS = DEVELOP | UPDATE | {"build", "run", "stop", "probe", "logs", "up", "observe", "down", "publish", "sign"}


def test_help_lists_every_target_that_users_call(render: Any) -> None:
    printed = run("make", cwd=render()).stdout
    listed = {line.split()[0] for line in printed.splitlines() if line.startswith("  ")}
    assert listed == TARGETS


def lines(project: Path, name: str) -> int:
    return len((project / name).read_text().splitlines())


@pytest.mark.parametrize(("answers", "most"), [({}, 60), (EVERYTHING, 80)], ids=["nothing", "everything"])
def test_the_documents_that_everybody_reads_are_short(render: Any, answers: dict[str, str], most: int) -> None:
    assert lines(render(**answers), "README.md") <= most
    assert lines(render(**answers), "AGENTS.md") <= 40


def test_the_owners_side_of_a_default_project_is_at_most_60_lines(render: Any) -> None:
    project = render()
    owned = [name for name in files(project) if re.match("(src/my_service|tests)/[^/]+[.]py$", name)]
    assert sum(bool(line.strip()) for name in owned for line in (project / name).read_text().splitlines()) <= 60


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
