"""`make add` and `make remove`: one feature, at the release that the project has."""

import runpy
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import CHOICES, ROOT, commit, quick_update, run
from test_update import EVERYTHING, NEXT, fresh, git_tree, next_release, released, start, tree, upstream

# Fixtures, by name.
__all__ = ["released", "start", "upstream"]
QUESTIONS = {name: [choice for choice in choices if choice != "none"] for name, choices in CHOICES.items()}
QUESTIONS = {name: choices for name, choices in QUESTIONS.items() if "none" in CHOICES[name]}


def make(project: Path, command: str, feature: str = "", arguments: str = "") -> subprocess.CompletedProcess[str]:
    given = (f"FEATURE={feature}", f"ARGS={arguments}")
    return run("make", command, *given, cwd=project, check=False, stdin=subprocess.DEVNULL, env=quick_update())


def test_every_question_with_the_choice_none_is_a_feature(render: Any) -> None:
    features = runpy.run_path(str(ROOT / "template/ops/feature.py"))["FEATURES"]
    assert {name: list(brings) for name, (_, brings) in features.items()} == {
        name: sorted(choices, key=list(features[name][1]).index) for name, choices in QUESTIONS.items()
    }
    for page, _ in features.values():
        assert (render(**EVERYTHING) / f"docs/{page}.md").exists()


def test_make_add_lists_what_the_project_has_and_a_command_for_all_else(render: Any) -> None:
    project = render(database="sqlite")
    told = run("make", "add", cwd=project).stdout
    present, absent = told.split("It can add:\n")
    assert {line.split()[2] for line in present.splitlines()[1:]} == {"FEATURE=sqlite", "FEATURE=github"}
    everything = {f"FEATURE={choice}" for choices in QUESTIONS.values() for choice in choices}
    assert {line.split()[2] for line in absent.splitlines()} == everything - {"FEATURE=sqlite", "FEATURE=github"} | {
        "FEATURE=jobs"
    }
    assert "instead of sqlite" in absent
    assert run("make", "remove", cwd=project).stdout == present


@pytest.mark.parametrize(
    ("command", "feature", "line"),
    [
        ("add", "database", "can be sqlite or postgresql, such as: make add FEATURE=postgresql"),
        ("add", "cache=none", "can be redis, such as: make add FEATURE=redis"),
        ("add", "license=MIT", "There is no feature 'license=MIT'; `make add` lists all, such as: make add FEATURE="),
        ("add", "$(touch pwned)\n`touch pwned`;", "`make add` lists all, such as: make add FEATURE=redis"),
        ("add", "jobs", "Jobs are rows of a PostgreSQL database: first run make add FEATURE=postgresql"),
        ("remove", "items", "There is no feature 'items'; `make remove` lists all, such as: make remove FEATURE="),
        ("remove", "auth=redis", "can be api-key or jwt, such as: make remove FEATURE=jwt"),
    ],
)
def test_an_unknown_or_ambiguous_feature_is_refused_in_one_line(
    render: Any, command: str, feature: str, line: str
) -> None:
    project = render(database="sqlite")
    before = tree(project)
    told = make(project, command, feature)
    assert told.returncode != 0
    [refusal] = [printed for printed in told.stderr.splitlines() if not printed.startswith("make: ")]
    assert line in refusal
    assert told.stdout == ""
    assert tree(project) == before


@pytest.mark.parametrize(
    ("command", "feature", "line"),
    [
        ("add", "sqlite", "This project already has database=sqlite."),
        ("remove", "cache", "This project has no cache."),
        ("remove", "postgresql", "This project has no postgresql."),
    ],
)
def test_what_is_there_already_or_not_there_is_no_error(render: Any, command: str, feature: str, line: str) -> None:
    told = make(render(database="sqlite"), command, feature)
    assert (told.returncode, told.stdout) == (0, f"{line}\n")


@pytest.mark.parametrize(
    ("question", "value", "told"),
    [
        ("jobs", "postgresql", "Afterwards delete items/jobs.py, tests/test_item_jobs.py and their lines in app.py"),
        ("auth", "jwt", "includes items.router, which this project has removed"),
    ],
)
def test_adding_to_a_project_without_items_says_what_to_delete(
    render: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    question: str,
    value: str,
    told: str,
) -> None:
    announce = runpy.run_path(str(ROOT / "template/ops/feature.py"))["announce"]
    for project in (render(), render(database="postgresql")):
        monkeypatch.chdir(project)
        announce(question, value, "none")
        assert told not in capsys.readouterr().out
    (tmp_path / "migrations").mkdir()
    monkeypatch.chdir(tmp_path)
    announce(question, value, "none")
    assert told in capsys.readouterr().out


def test_adding_authentication_says_that_the_owners_routes_stay_open(capsys: pytest.CaptureFixture[str]) -> None:
    announce = runpy.run_path(str(ROOT / "template/ops/feature.py"))["announce"]
    told = "Your own routes stay open until each router has `dependencies=[auth.required]`."
    announce("auth", "jwt", "none")
    assert told in capsys.readouterr().out
    announce("auth", "jwt", "api-key")
    assert told not in capsys.readouterr().out


def test_each_step_gives_what_a_fresh_copy_with_that_answer_gives(start: Any, released: Any) -> None:
    project = start(NEXT, database="sqlite")
    for command, feature, answers in (
        ("add", "database=postgresql", {"database": "postgresql"}),
        ("remove", "database", {}),
    ):
        told = make(project, command, feature, "--yes")
        assert told.returncode == 0, told.stdout + told.stderr
        assert told.stdout.endswith("run `make check` and `make dev`, then commit.\n")
        assert tree(project) == fresh(project, released(NEXT, **answers))
        commit(project, f"{command} {feature}")


def test_a_feature_is_added_to_an_edited_project_without_the_newer_release(
    upstream: Path, start: Any, tmp_path: Path
) -> None:
    project = start(NEXT)
    news = next_release(project, upstream, tmp_path)
    edits = {"README.md": "Ours.\n", "src/my_service/app.py": "OURS = 1\n", "src/my_service/orders.py": "OURS = 2\n"}
    for name, line in edits.items():
        with (project / name).open("a") as file:
            file.write(line)
    commit(project, "our work")
    typed = run("script", "-qec", "make add FEATURE=redis", "/dev/null", cwd=project, input="y\n").stdout
    assert "cached results and rate limits" in typed
    assert typed.index("  src/my_service/chassis/cache/") < typed.index("  README.md") < typed.index("Go on? [y/N]")
    assert news not in typed
    assert all((project / name).read_text().endswith(line) for name, line in edits.items())
    assert '"redis' in (project / "pyproject.toml").read_text()
    assert '"idna' not in (project / "pyproject.toml").read_text()


def test_removing_lists_files_and_imports_and_changes_nothing_unless_agreed_to(start: Any) -> None:
    project = start(NEXT, cache="redis")
    (project / "src/my_service/orders").mkdir()
    (project / "src/my_service/orders/routes.py").write_text("from ..chassis import (\n    cache,\n)\n")
    (project / "src/my_service/orders/cache.py").write_text('"""Says cache, and imports nothing."""\n')
    with (project / "src/my_service/app.py").open("a") as file:
        file.write('LIMITS = [cache.rate_limit("all", 1, seconds=1)]\n')
    commit(project, "our work")
    before = git_tree(project)
    told = make(project, "remove", "cache")
    assert told.returncode != 0
    assert "  src/my_service/chassis/cache/client.py\n" in told.stdout
    imports = told.stdout.split("These files use modules that are deleted or moved")[1]
    assert imports.splitlines()[1:] == ["  src/my_service/app.py", "  src/my_service/orders/routes.py"]
    assert 'To agree beforehand: make remove FEATURE=redis ARGS="--yes"' in told.stderr
    assert git_tree(project) == before
    assert run("git", "status", "--porcelain", cwd=project).stdout == ""
