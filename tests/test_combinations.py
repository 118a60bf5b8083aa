"""Every answer works with every other: all combinations are clean, sets that pair all pass their own checks."""

import ast
import itertools
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import CHOICES, features_only, files, make_check, run
from covertable import make

# The answers that decide what Python code a project has.
NEEDS = ("database", "jobs", "cache", "auth")


def allowed(answers: dict[str, str]) -> bool:
    return answers["jobs"] in ("none", answers["database"])


COMBINATIONS = [
    answers
    for values in itertools.product(*(CHOICES[name] for name in NEEDS))
    if allowed(answers := dict(zip(NEEDS, values, strict=True)))
]
EVERYTHING = {"database": "postgresql", "jobs": "postgresql", "cache": "redis", "auth": "jwt"}
NOTHING = dict.fromkeys(NEEDS, "none")
# Each module of a feature is in one of these two; `tests/test_quality.py` tests the project without any.
OTHERS = {"database": "sqlite", "jobs": "none", "cache": "redis", "auth": "api-key"}


def with_pairs(chosen: list[dict[str, str]]) -> list[dict[str, str]]:
    """Add combinations until each choice of a question meets each choice of each other at least once."""

    def pairs(answers: dict[str, str]) -> set[Any]:
        return {*itertools.combinations(answers.items(), 2)}

    missing = set().union(*map(pairs, COMBINATIONS)).difference(*map(pairs, chosen))
    if not missing:
        return chosen
    return with_pairs([*chosen, max(COMBINATIONS, key=lambda answers: len(pairs(answers) & missing))])


# These pass their tests in `tests/test_database_update.py`, and without the example in `tests/test_database.py`.
DATABASES = [{**NOTHING, "database": name} for name in CHOICES["database"] if name != "none"]
ELSEWHERE = [NOTHING, EVERYTHING, OTHERS, *DATABASES]
PAIRS = with_pairs(ELSEWHERE)


def pairwise(choices: dict[str, Any]) -> list[dict[str, str]]:
    """Return sets of answers in which each choice of a question meets each choice of each other."""
    return make(choices, constraints=[{"operator": "fn", "requires": ["database", "jobs"], "evaluate": allowed}])


SETS = pairwise(CHOICES)


def named(answers: dict[str, str]) -> str:
    return "-".join(answers.values())


def code(project: Path) -> dict[str, bytes]:
    """Read all that `make check` looks at, but for the licence's name."""
    read = [name for name in files(project) if re.match("(src|tests|migrations)/.*[.]py$|pyproject.toml$", name)]
    return {name: re.sub(rb'(?m)^license = ".*"$', b"", (project / name).read_bytes()) for name in read}


@pytest.fixture(scope="session")
def tools(installed_with: Callable[..., Path]) -> Path:
    """Where the commands of a project with everything are: its libraries are all that another imports."""
    project = installed_with(**EVERYTHING)
    run("uv", "pip", "install", "--quiet", "aiosqlite", cwd=project)
    return project / ".venv/bin"


@pytest.mark.parametrize("answers", COMBINATIONS, ids=named)
def test_each_combination_parses_and_is_clean(
    render: Any, tmp_path: Path, tools: Path, answers: dict[str, str]
) -> None:
    project = Path(shutil.copytree(render(**answers), tmp_path / "project"))
    for name in files(project):
        if name.endswith(".py"):
            ast.parse((project / name).read_text())
        elif name.endswith((".yaml", ".yml")):
            list(yaml.safe_load_all((project / name).read_text()))
    run(tools / "ruff", "check", cwd=project)
    run(tools / "ruff", "format", "--check", cwd=project)
    environment = {**os.environ, "MYPYPATH": "src"}
    run(tools / "mypy", "--python-executable", tools / "python", cwd=project, env=environment)


@pytest.mark.usefixtures("one_environment")
def test_everything_passes_its_tests_with_full_coverage(render: Any, tmp_path: Path) -> None:
    """The rest of `make check` is done above."""
    project = Path(shutil.copytree(render(**EVERYTHING), tmp_path / "project"))
    make_check(project, "ARGS=--cov-fail-under=100", target="test")


@pytest.mark.usefixtures("one_environment")
def test_what_everything_lacks_passes_its_tests_with_full_coverage(render: Any, tmp_path: Path) -> None:
    project = Path(shutil.copytree(render(**OTHERS), tmp_path / "project"))
    # Its __main__.py has another list of commands.
    chosen = features_only(project, "--cov-fail-under=0").replace("--ignore=tests/chassis/test_main.py", "")
    make_check(project, chosen, target="test")
    tested = {name: text for name, text in code(render(**EVERYTHING)).items() if name.startswith("src/")}
    left = [name for name, text in code(project).items() if name.startswith("src/") and tested.get(name) != text]
    assert {"api_key.py", "sqlite.py"} <= {Path(name).name for name in left}
    run("uv", "run", "coverage", "report", "--fail-under=100", f"--include={','.join(left)}", cwd=project)


@pytest.mark.usefixtures("one_environment")
@pytest.mark.parametrize("answers", PAIRS[len(ELSEWHERE) :], ids=named)
def test_the_features_of_each_pair_pass_their_tests(render: Any, tmp_path: Path, answers: dict[str, str]) -> None:
    """The rest of the chassis is the same code for every answer, and is tested with the sets that are left out."""
    project = Path(shutil.copytree(render(**answers), tmp_path / "project"))
    run("make", "test", features_only(project), cwd=project)


@pytest.mark.parametrize("answers", SETS, ids=named)
def test_other_answers_do_not_change_the_code(render: Any, answers: dict[str, str]) -> None:
    needs = {name: answers[name] for name in NEEDS}
    assert code(render(**answers)) == code(render(**needs))
