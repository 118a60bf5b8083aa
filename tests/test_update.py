"""What an update brings, and what it leaves alone: from every release to the working tree."""

import contextlib
import importlib.util
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import copier
import pytest
import yaml
from conftest import CHOICES, NASTY, ROOT, commit, features_only, files, make_check, quick_update, run, snapshot
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jinja2.exceptions import UndefinedError

HEADING = re.compile(r"(?m)^## (\d+\.\d+\.\d+)$")
# Later than each release: the version under which the working tree is released to these tests.
NEXT = "v999.0.0"
AFTER_NEXT = "v999.1.0"
NEEDED = {"jobs": {"database": "postgresql"}}
SINGLE_ANSWERS = [{**NEEDED.get(name, {}), name: choice} for name, choices in CHOICES.items() for choice in choices[1:]]


# Each feature once: what a project with everything has.
EVERYTHING = {
    "database": "postgresql",
    "cache": "redis",
    "auth": "jwt",
    "jobs": "postgresql",
    "deploy": "kubernetes",
    "license": "MIT",
}


def releases() -> dict[str, str]:
    """Map each release to its commit: its tag's, else the one that brought its heading to the changelog."""
    found: dict[str, str] = {}
    log = run("git", "log", "--reverse", "--format=%H", "--", "CHANGELOG.md", cwd=ROOT).stdout.split()
    for revision in log:
        for version in HEADING.findall(run("git", "show", f"{revision}:CHANGELOG.md", cwd=ROOT).stdout):
            found.setdefault(version, revision)
    for tag in run("git", "tag", "--list", "v*.*.*", cwd=ROOT).stdout.split():
        found[tag.removeprefix("v")] = tag
    return found


RELEASES = releases()


def test_there_are_releases_to_update_from() -> None:
    """A shallow clone has none, and every test below would pass."""
    assert "1.0.0" in RELEASES
    assert set(HEADING.findall((ROOT / "CHANGELOG.md").read_text())) >= RELEASES.keys()


@pytest.fixture(scope="session")
def upstream(shared: Any) -> Path:
    """A clone of this repository with the working tree on top, as the next release."""

    def release_tree(folder: Path) -> None:
        snapshot(folder)
        changelog = folder / "CHANGELOG.md"
        changelog.write_text(changelog.read_text().replace("\n## Unreleased: ", "\n## "))
        commit(folder, "Release what is unreleased")
        run("git", "tag", NEXT, cwd=folder)

    return shared("upstream", release_tree)


@pytest.fixture(scope="session")
def released(shared: Any, upstream: Path) -> Callable[..., Path]:
    """Return `released(ref, **answers)`: a project from that commit. Each is made once a run: change a copy only."""

    def project(ref: str, **answers: str) -> Path:
        key = re.sub(r"\W+", "-", f"{ref[:12]} {sorted(answers.items())}")[:80]

        def make(folder: Path) -> None:
            copier.run_copy(str(upstream), folder, data=answers, defaults=True, quiet=True, vcs_ref=ref)
            commit(folder, "start")

        return shared(f"released-{key}", make)

    return project


@pytest.fixture
def start(released: Any, tmp_path: Path) -> Callable[..., Path]:
    """Return `start(ref, **answers)`: a committed project from that commit, to change at will."""

    def project(ref: str, **answers: str) -> Path:
        return Path(shutil.copytree(released(ref, **answers), tmp_path / "project"))

    return project


def fork(upstream: Path, template: Path) -> None:
    run("git", "clone", "--quiet", upstream, template)


def release(template: Path, message: str) -> None:
    """Commit what was changed in a fork of the template, as the release after `NEXT`."""
    commit(template, message)
    run("git", "tag", AFTER_NEXT, cwd=template)


def update(project: Path, **data: str) -> None:
    """Update as Renovate does: by plain `copier update`, without this project's `make update`."""
    copier.run_update(str(project), data=data, defaults=True, overwrite=True, quiet=True)


@pytest.fixture(scope="session")
def updater() -> ModuleType:
    """The script behind `make update`, as a module."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    spec = importlib.util.spec_from_file_location("updater", ROOT / "template/{{update_script}}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Bytecode beside it would be rendered.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", True)
        spec.loader.exec_module(module)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    return module


@pytest.fixture
def merge_into(updater: ModuleType, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Return `merge_into(project, old, new)`: update by the renders `old` and `new`, and return the merge."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    patterns = yaml.safe_load((ROOT / "copier.yml").read_text())["_skip_if_exists"]

    def merge_into(project: Path, old: Path, new: Path) -> Any:
        folder = tmp_path / f"merge-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        (folder / "old").symlink_to(old)
        (folder / "new").symlink_to(new)
        here = updater.Project(project)
        scratch = updater.Scratch(folder / "scratch", here)
        told = {"moves": moves(updater, old), "owned": updater.owned(patterns, folder)}
        merged = updater.merge_releases(scratch, folder, here, told)
        here.write(scratch, merged)
        return merged

    yield merge_into
    for number, handler in handlers.items():
        signal.signal(number, handler)


def moves(updater: ModuleType, old: Path) -> list[list[str]]:
    """List what releases after that of the render `old` moved."""
    before = yaml.safe_load((old / ".copier-answers.yml").read_text())
    listed = SimpleNamespace(file=lambda commit, name: (ROOT / name).read_text())
    found: list[list[str]] = updater.Template.moves(listed, {"template_release": "1.0.0", **before}, {"_commit": ""})
    return found


def content(path: Path) -> bytes:
    return os.fsencode(path.readlink()) if path.is_symlink() else path.read_bytes()


def tree_of_all(project: Path) -> dict[str, bytes]:
    return {name: content(project / name) for name in files(project) if not name.startswith(".git/")}


def tree(project: Path) -> dict[str, bytes]:
    """Read every file but git's own and the one line that names the template's commit."""
    contents = tree_of_all(project)
    contents[".copier-answers.yml"] = re.sub(rb"(?m)^_commit: .*\n", b"", contents[".copier-answers.yml"])
    return contents


def conflicts(project: Path) -> list[str]:
    """List files that git holds as unmerged, rejected hunks, and files with a conflict's marker."""
    unmerged = run("git", "ls-files", "--unmerged", cwd=project).stdout.splitlines()
    marked = [name for name, content in tree(project).items() if b"<<<<<<< before updating" in content]
    return unmerged + marked + [name for name in files(project) if name.endswith(".rej")]


OLDEST_AND_NEWEST = [list(RELEASES)[0], list(RELEASES)[-1]]
# Each release with much and with little; each answer alone from the oldest, the last 1.x and the newest.
ALONE = sorted({*OLDEST_AND_NEWEST, [version for version in RELEASES if version.startswith("1.")][-1]})
UNEDITED = [
    *((version, answers) for version in RELEASES for answers in ({}, NASTY, EVERYTHING, {"package_name": "update"})),
    *((version, answers) for version in ALONE for answers in SINGLE_ANSWERS),
]


def named(answers: dict[str, str]) -> str:
    return "-".join(answers.values())[-40:] or "defaults"


def known_then(version: str, answers: dict[str, str]) -> dict[str, str]:
    """Return those of `answers` that a release can take: later ones have more questions and more choices."""
    questions = yaml.safe_load(run("git", "show", f"{RELEASES[version]}:copier.yml", cwd=ROOT).stdout)
    asked = {name: question for name, question in questions.items() if isinstance(question, dict)}
    return {name: answer for name, answer in answers.items() if name in asked and offers(asked[name], answer)}


def offers(question: dict[str, Any], answer: str) -> bool:
    choices = question.get("choices", [answer])
    return answer in (choices.values() if isinstance(choices, dict) else choices)


def owned_by(project: Path) -> dict[str, bytes]:
    """Read what no update touches: the example and the migrations, once made."""
    owned = ("src/my_service/items/", "migrations/versions/", "tests/test_items.py", "tests/test_item_jobs.py")
    return {name: text for name, text in tree(project).items() if name.startswith(owned)}


def fresh(project: Path, expected: Path) -> dict[str, bytes]:
    """Return a fresh copy of the next release, but with what `project` owns once made."""
    owned, brought = owned_by(project), owned_by(expected)
    # What jobs bring to the example comes with them, not with the database.
    brought = {name: text for name, text in brought.items() if "jobs" not in name}
    kept = {name: text for name, text in tree(expected).items() if not owned or name not in brought}
    return {**kept, **owned}


@pytest.mark.parametrize(
    ("version", "answers"), UNEDITED, ids=lambda given: given if isinstance(given, str) else named(given)
)
def test_an_unedited_project_becomes_a_fresh_copy(
    start: Any, released: Any, merge_into: Any, version: str, answers: dict[str, str]
) -> None:
    then = known_then(version, answers)
    project = start(RELEASES[version], **then)
    expected = fresh(project, released(NEXT, **answers))
    merged = merge_into(project, released(RELEASES[version], **then), released(NEXT, **answers))
    assert (merged.conflicts, merged.kept_both, merged.left_alone) == ({}, [], [])
    assert tree(project) == expected
    assert run("git", "diff", "--name-only", cwd=project).stdout == ""


@pytest.mark.parametrize("version", [version for version in RELEASES if version.startswith("1.")])
def test_a_plain_copier_update_from_1_x_is_refused_and_says_what_to_run(start: Any, version: str) -> None:
    """It would lose edits in the files that 2.0.0 moved. Renovate and older releases run it."""
    project = start(RELEASES[version])
    before = tree_of_all(project)
    with pytest.raises(UndefinedError, match="Release 2[.]0[.]0 moves files.* run `make update`"):
        update(project)
    assert tree_of_all(project) == before


@pytest.mark.parametrize("answers", [{}, NASTY, EVERYTHING], ids=named)
def test_a_plain_copier_update_brings_the_same_as_make_update(
    start: Any, released: Any, upstream: Path, tmp_path: Path, answers: dict[str, str]
) -> None:
    """Renovate runs this."""
    project = start(NEXT, **answers)
    next_release(project, upstream, tmp_path)
    expected = Path(shutil.copytree(project, tmp_path / "expected"))
    told = make_update(expected)
    assert told.returncode == 0, told.stdout + told.stderr
    update(project)
    assert conflicts(project) == []
    assert tree(project) == tree(expected)


def texts(project: Path) -> list[str]:
    """List the files that hold lines, the answers file aside, which is Copier's."""
    listed = [name for name in files(project) if not name.startswith(".git/") and name != ".copier-answers.yml"]
    return [name for name in listed if (project / name).read_bytes()]


REWRITTEN = ("src/my_service/", "tests/")


@pytest.mark.parametrize("version", RELEASES)
@pytest.mark.parametrize("answers", [{}, EVERYTHING], ids=named)
def test_a_line_at_the_end_of_every_file_merges_or_is_in_a_conflict(
    start: Any, released: Any, merge_into: Any, version: str, answers: dict[str, str]
) -> None:
    """What owners do most. Only in what 2.0 wrote anew, the template's own modules and tests, may it conflict."""
    then = known_then(version, answers)
    project = start(RELEASES[version], **then)
    appended = texts(project)
    for name in appended:
        with (project / name).open("a") as file:
            file.write(f"# the owner's line in {name}\n")
    commit(project, "our lines")
    merged = merge_into(project, released(RELEASES[version], **then), released(NEXT, **answers))
    everything = b"\n".join(tree(project).values()).decode()
    assert [name for name in appended if f"# the owner's line in {name}\n" not in everything] == []
    assert [name for name in sorted(merged.conflicts) if not name.startswith(REWRITTEN)] == []


# Up to 1.3.0 an import has no place of its own.
IMPORTED = "    telemetry,\n)\n"
# What owners do in their first weeks: (file, the line after which it goes, what they write).
EDITS = [
    ("src/my_service/settings.py", "    # Yours:\n", "    warehouse_url: str = 'http://localhost'\n"),
    ("src/my_service/app.py", IMPORTED, "from .orders import routes as orders\n"),
    ("src/my_service/app.py", "    # Yours:\n", "    app.include_router(orders.router)\n"),
    ("Makefile", "# Yours:\n", "\n.PHONY: seed\nseed: ## Fill the warehouse\n\techo seeded\n"),
    ("compose.yaml", "      # Yours:\n", "      WAREHOUSE_URL: http://warehouse\n"),
    (".env.example", "# Yours:\n", "WAREHOUSE_URL=http://localhost\n"),
    ("README.md", "", "\n## Our warehouse\n\nIs in Linz.\n"),
    ("Dockerfile", "# What runs: nothing of the above but Python, the dependencies and the project.\nFROM python\n", "RUN apt-get update && apt-get install --yes libpq5\n"),
    (".pre-commit-config.yaml", "", "      - id: spelling\n        name: spelling\n        entry: codespell\n        language: system\n"),
]  # fmt: skip
ORDERS = '''"""Orders."""

from fastapi import APIRouter

router = APIRouter(prefix="/v1/orders", tags=["orders"])


@router.get("")
async def list_orders() -> list[str]:
    """List every order."""
    return []
'''


def edit(project: Path) -> None:
    for name, anchor, text in EDITS:
        content = (project / name).read_text()
        if anchor == IMPORTED and anchor not in content:
            anchor = "# isort: split\n# Yours:\n"
        assert anchor in content, f"{name} has no line {anchor!r}"
        before, found, after = content.partition(anchor) if anchor else (content, "", "")
        (project / name).write_text(before + found + text + after)
    (project / "src/my_service/orders").mkdir()
    (project / "src/my_service/orders/__init__.py").touch()
    (project / "src/my_service/orders/routes.py").write_text(ORDERS)
    run("uv", "add", "--quiet", "tenacity", "arrow", cwd=project)
    run("uv", "add", "--quiet", "--dev", "respx", cwd=project)
    run("make", "format", cwd=project)


@pytest.mark.usefixtures("one_environment")
@pytest.mark.parametrize("version", RELEASES)
def test_an_edited_project_keeps_every_edit(start: Any, released: Any, merge_into: Any, version: str) -> None:
    project = start(RELEASES[version])
    edit(project)
    commit(project, "our work")
    before = tree(project)
    merged = merge_into(project, released(RELEASES[version]), released(NEXT))
    assert merged.conflicts == {}
    after = tree(project)
    for name, _, text in EDITS:
        kept = after[name].decode().replace('"', "'")
        assert text.replace('"', "'") in kept, name
    for name in ("src/my_service/orders/__init__.py", "src/my_service/orders/routes.py"):
        assert after[name] == before[name]
    assert after["uv.lock"] == before["uv.lock"]
    for dependency in ("tenacity", "arrow", "respx"):
        assert f'"{dependency}>='.encode() in after["pyproject.toml"]
    if version in OLDEST_AND_NEWEST:
        # `make update` does, where the template's dependencies changed.
        run("make", "lock", cwd=project)
        make_check(project, features_only(project))
        assert "seeded" in run("make", "seed", cwd=project).stdout


@pytest.mark.parametrize(("name", "choice"), [(name, choice) for name in CHOICES for choice in CHOICES[name][1:]])
def test_an_answer_changes_there_and_back(start: Any, released: Any, merge_into: Any, name: str, choice: str) -> None:
    needed = NEEDED.get(name, {})
    project, default = start(NEXT, **needed), released(NEXT, **needed)
    chosen = released(NEXT, **needed, **{name: choice})
    assert merge_into(project, default, chosen).conflicts == {}
    assert tree(project) == tree(chosen)
    commit(project, "there")
    assert merge_into(project, chosen, default).conflicts == {}
    assert tree(project) == tree(default)


EXAMPLE = ["src/my_service/items/routes.py", "migrations/versions/0001_items.py", "tests/test_items.py"]


def next_example(upstream: Path, template: Path) -> None:
    """Release an example and a migration that differ from those of the release before."""
    fork(upstream, template)
    for name in EXAMPLE:
        path = template / "template" / name.replace("my_service", "{{package_name}}")
        path = path if path.exists() else path.with_name(f"{path.name}.jinja")
        path.write_text(f"{path.read_text()}\n\nTHEIRS = True\n")
    (template / "template/src/{{package_name}}/items/later.py").touch()
    (template / "template/src/{{package_name}}/chassis/database/__init__.py").open("a").write("\n\nTHEIRS = True\n")
    release(template, "another example")


@pytest.mark.parametrize(("before", "after"), [("sqlite", "sqlite"), ("sqlite", "postgresql")])
def test_example_and_migrations_are_the_owners_once_made(
    upstream: Path, start: Any, tmp_path: Path, before: str, after: str
) -> None:
    next_example(upstream, tmp_path / "template")
    project = start(NEXT, database=before)
    point_to(project, str(tmp_path / "template"))
    routes, migration, test = (project / name for name in EXAMPLE)
    routes.write_text(f"{routes.read_text()}\n\nOURS = True\n")
    (project / "migrations/versions/2026_11_25_price.py").write_text("OURS = True\n")
    (project / "src/my_service/items/service.py").unlink()
    test.unlink()
    commit(project, "our work")
    owned = ("src/my_service/items/", "migrations/versions/", "tests/test_items.py", "tests/test_item_jobs.py")
    kept = {name: content for name, content in tree(project).items() if name.startswith(owned)}
    assert "THEIRS" not in migration.read_text()

    told = make_update(project, f"--data database={after} --yes")
    assert told.returncode == 0, told.stdout + told.stderr
    assert "MissingFileWarning" not in told.stdout + told.stderr
    assert {name: content for name, content in tree(project).items() if name.startswith(owned)} == kept
    # All else is the template's, as ever.
    assert "THEIRS" in (project / "src/my_service/chassis/database/__init__.py").read_text()
    assert (project / f"src/my_service/chassis/database/{after}.py").exists()


@pytest.mark.usefixtures("one_environment")
def test_resources_and_edits_of_them_are_left_alone(upstream: Path, start: Any, tmp_path: Path) -> None:
    next_example(upstream, tmp_path / "template")
    app = tmp_path / "template/template/src/{{package_name}}/app.py.jinja"
    app.write_text(app.read_text().replace("# isort: split\n", "# Moved here.\n# isort: split\n"))
    run("git", "commit", "--quiet", "--all", "--amend", "--no-edit", cwd=tmp_path / "template")
    run("git", "tag", "--force", AFTER_NEXT, cwd=tmp_path / "template")
    project = start(NEXT, database="sqlite")
    point_to(project, str(tmp_path / "template"))
    for name, fields in (("customers", "name:str!"), ("orders", "due:date customer_id:ref(customers)")):
        run("make", "resource", f"NAME={name}", f"FIELDS={fields}", cwd=project)
    service = project / "src/my_service/orders/service.py"
    service.write_text(f"{service.read_text()}\n\nOURS = True\n")
    commit(project, "our work")
    owned = re.compile("(orders|customers)[/.]")
    kept = {name: content for name, content in tree(project).items() if owned.search(name)}
    assert len(kept) == 14

    told = make_update(project, "--yes")
    assert "No conflicts." in told.stdout, told.stdout + told.stderr
    assert {name: content for name, content in tree(project).items() if owned.search(name)} == kept
    text = (project / "src/my_service/app.py").read_text()
    assert "# Moved here." in text
    assert "app.include_router(orders.router)" in text


def test_switching_on_again_makes_what_was_switched_off(start: Any, released: Any, merge_into: Any) -> None:
    project = start(NEXT, database="sqlite")
    for before, after in (("sqlite", "none"), ("none", "postgresql")):
        merge_into(project, released(NEXT, database=before), released(NEXT, database=after))
        assert tree(project) == tree(released(NEXT, database=after))
        commit(project, after)


# What an owner may have had of their own before the template brought a file of that name.
OWN_PIPELINES = {
    ".github/workflows/check-service.yml": "name: ours\n",
    ".github/workflows/ours.yml": "name: ours too\n",
    ".github/dependabot.yml": "version: 2\nupdates: []\n",
}


def own_pipelines(project: Path) -> None:
    for name, text in OWN_PIPELINES.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(text)
    commit(project, "our pipelines")


def test_an_owners_pipeline_of_the_same_name_is_a_conflict(start: Any, released: Any, merge_into: Any) -> None:
    """`ci` is github by default, so a project of before it was asked gets workflows."""
    project = start(RELEASES["1.1.0"])
    own_pipelines(project)
    merged = merge_into(project, released(RELEASES["1.1.0"]), released(NEXT))
    assert merged.conflicts.keys() == {".github/workflows/check-service.yml", ".github/dependabot.yml"}
    for name, text in OWN_PIPELINES.items():
        assert text in (project / name).read_text()
    assert "make check" in (project / ".github/workflows/check-service.yml").read_text()


def test_an_owners_pipelines_stay_where_none_is_asked_for(start: Any, released: Any, merge_into: Any) -> None:
    project = start(RELEASES["1.1.0"])
    own_pipelines(project)
    assert merge_into(project, released(RELEASES["1.1.0"]), released(NEXT, ci="none")).conflicts == {}
    github = {name: text.decode() for name, text in tree(project).items() if name.startswith(".github/")}
    assert github == OWN_PIPELINES


def test_switching_ci_off_leaves_an_owners_pipeline(start: Any) -> None:
    project = start(NEXT)
    own = project / ".github/workflows/ours.yml"
    own.write_text("name: ours\n")
    commit(project, "our pipeline")
    listed = make_update(project, "--data ci=none").stdout
    assert "  .github/workflows/check-service.yml\n" in listed
    assert "ours.yml" not in listed
    told = make_update(project, "--data ci=none --yes")
    assert told.returncode == 0, told.stderr
    assert [name for name in files(project) if name.startswith(".github/")] == [".github/workflows/ours.yml"]


# --- Random edits of both sides ----------------------------------------------

# Lines that differ from each other, so that a lost one is noticed.
BASE = {f"folder/file{index}.txt": [f"{index}.{line}" for line in range(12)] for index in range(4)}
PLACE = st.tuples(st.sampled_from(sorted(BASE)), st.integers(0, 11))
OURS = st.tuples(
    st.sampled_from(["insert", "delete", "change", "move", "remove", "rename", "symlink", "mode", "crlf", "append"]),
    PLACE,
)
THEIRS = st.tuples(st.sampled_from(["insert", "delete", "change", "remove", "rename", "append"]), PLACE)


def write_base(folder: Path) -> None:
    for name, lines in BASE.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("".join(f"{line}\n" for line in lines))
    (folder / ".copier-answers.yml").write_text("_commit: v1\n")


def act(folder: Path, kind: str, name: str, position: int, token: str) -> str:
    """Do one edit of a folder, if its file is still a file; return the line that it added."""
    path = folder / name
    if not path.is_file() or path.is_symlink():
        return ""
    lines = path.read_bytes().splitlines(keepends=True)
    position = min(position, len(lines))
    line = f"{token}\n".encode()
    if kind in ("insert", "append"):
        lines.insert(len(lines) if kind == "append" else position, line)
    elif kind == "change":
        lines[position : position + 1] = [line]
    elif kind == "delete":
        lines[position : position + 1] = []
    elif kind == "move" and lines:
        lines.append(lines.pop(min(position, len(lines) - 1)))
    elif kind == "crlf":
        lines = [part.rstrip(b"\r\n") + b"\r\n" for part in lines]
    path.write_bytes(b"".join(lines))
    if kind == "mode":
        path.chmod(0o755)
    elif kind == "rename":
        path.rename(path.with_name(f"{token}.txt"))
    elif kind in ("remove", "symlink"):
        path.unlink()
        if kind == "symlink":
            path.symlink_to(token)
    return token if kind in ("insert", "append", "change") else ""


def git_tree(folder: Path, tree: str = "") -> dict[str, str]:
    """Map each path of a tree, else of the index, to its mode and object."""
    command = ("ls-tree", "-r", "-z", tree) if tree else ("ls-files", "--stage", "-z")
    entries = run("git", *command, cwd=folder).stdout.split("\0")
    return {entry.partition("\t")[2]: entry.partition("\t")[0].replace("blob ", "") for entry in entries if entry}


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(
    ours=st.lists(OURS, min_size=1, max_size=6),
    theirs=st.lists(THEIRS, min_size=1, max_size=6),
)
def test_every_edit_is_kept_or_in_a_conflict(
    merge_into: Any, tmp_path_factory: pytest.TempPathFactory, ours: list[Any], theirs: list[Any]
) -> None:
    folder = tmp_path_factory.mktemp("random")
    old, new, project = (folder / name for name in ("old", "new", "project"))
    for side in (old, new, project):
        side.mkdir()
        write_base(side)
    commit(project, "base")
    run("git", "branch", "base", cwd=project)
    added = [act(project, kind, *place, f"ours-{index}") for index, (kind, place) in enumerate(ours)]
    for index, (kind, place) in enumerate(theirs):
        act(new, kind, *place, f"theirs-{index}")
    commit(project, "our work")
    before = tree_of_all(project)
    mine = git_tree(project, "HEAD")

    merged = merge_into(project, old, new)

    after = tree_of_all(project)
    everything = b"\n".join(after.values())
    for token in filter(None, added):
        if token.encode() in b"\n".join(before.values()):
            assert token.encode() in everything, f"lost: {token}"
    links = {name for name in before if (project / name).is_symlink()}
    assert links >= {name for name, about in mine.items() if about.startswith("120000") and name in after}
    unmerged = run("git", "ls-files", "--unmerged", "--full-name", cwd=project).stdout.splitlines()
    assert {line.split("\t")[1] for line in unmerged} == merged.conflicts.keys()

    # What git itself makes of it, by a merge of three commits in a clone.
    clone = folder / "clone"
    run("git", "clone", "--quiet", project, clone)
    run("git", "checkout", "--quiet", "-b", "template", "origin/base", cwd=clone)
    for path in clone.rglob("*.txt"):
        path.unlink()
    shutil.copytree(new, clone, dirs_exist_ok=True)
    commit(clone, "template")
    run("git", "checkout", "--quiet", "main", cwd=clone)
    done = run("git", "-c", "merge.directoryRenames=true", "merge", "--quiet", "template", cwd=clone, check=False)
    gits = {line.split("\t")[1] for line in run("git", "ls-files", "--unmerged", cwd=clone).stdout.splitlines()}
    # Ours are git's conflicts but for those that need no choice, which are reported.
    assert merged.conflicts.keys() <= gits
    settled = {name.removesuffix("~template") for name in gits - merged.conflicts.keys()}
    assert settled == {*merged.kept_both, *merged.left_alone} - merged.conflicts.keys()
    if done.returncode == 0:
        assert git_tree(project) == git_tree(clone)


def assert_merges(updater: ModuleType, base: str, ours: str, theirs: str, merged: str | None) -> None:
    hunk = updater.Hunk(*(side.encode().splitlines(keepends=True) for side in (ours, base, theirs)))
    settled = updater.without_choice(hunk)
    assert settled is hunk if merged is None else settled is not hunk and b"".join(settled) == merged.encode()


@pytest.mark.parametrize(
    ("base", "ours", "theirs", "merged"),
    [
        ("from . import auth, cache\n", "from . import cache\n", "from . import auth\n", ""),
        (
            "from . import auth, cache, jobs\n",
            "from . import cache, jobs, orders\n",
            "from . import auth, jobs\n",
            "from . import jobs, orders\n",
        ),
        (
            "from . import auth, cache\nfrom .auth import jwt\n",
            "from . import cache\nfrom .auth import jwt\n",
            "from . import cache\n",
            "from . import cache\n",
        ),
        ("from . import auth, cache\n", "from . import auth as a, cache\n", "from . import cache\n", None),
        ("use(auth, cache)\n", "use(cache)\n", "use(auth)\n", None),
        # One side sorts, and the other deletes a name.
        ("from . import cache, auth\n", "from . import auth, cache\n", "from . import cache\n", None),
        ("from . import cache, auth\n", "from . import cache\n", "from . import auth, cache\n", None),
        # `if TYPE_CHECKING:` needs a line.
        ("    from . import auth, cache\n", "    from . import cache\n", "    from . import auth\n", None),
        # `ruff` wants these on lines of their own.
        (
            "from . import auth, cache\n",
            "from . import auth, cache\nfrom . import orders as o\nfrom . import jobs as j\n",
            "from . import cache\n",
            "from . import cache\nfrom . import orders as o\nfrom . import jobs as j\n",
        ),
        # Two lines of one module stay two.
        (
            "from . import auth, cache\n",
            "from . import auth, cache\nfrom . import orders\n",
            "from . import cache\n",
            "from . import cache\nfrom . import orders\n",
        ),
    ],
)
def test_names_of_one_import_are_merged_unless_both_sides_changed_the_same_name(
    updater: ModuleType, base: str, ours: str, theirs: str, merged: str | None
) -> None:
    assert_merges(updater, base, ours, theirs, merged)


@pytest.mark.parametrize(
    ("base", "ours", "theirs", "merged"),
    [
        ("", "def a():\n    return 1\n", "def b():\n    return 1\n", None),
        ("", "@get\ndef a(): ...\n", "@get\ndef b(): ...\n", None),
        ("", "\na:\n\tdo\n", "\nb:\n\tmake\n", "\nb:\n\tmake\n\na:\n\tdo\n"),
        ("", "use(\n    a\n)\n", "use(\n    b\n)\n", None),
        ("", "a = (\n    1\n)\n", "b = (\n    2\n)\n", "b = (\n    2\n)\na = (\n    1\n)\n"),
        ("", "a\n", "a\nb\n", "a\nb\n"),
        ("use(a)\n", "use(b)\nuse(c)\nuse(d)\n", "use(a)\nuse(c)\n", None),
        ("use(b)\nuse(a)\n", "use(a)\nuse(b)\n", "use(b)\n", None),
    ],
)
def test_a_line_that_both_sides_insert_or_move_is_neither_lost_nor_doubled(
    updater: ModuleType, base: str, ours: str, theirs: str, merged: str | None
) -> None:
    assert_merges(updater, base, ours, theirs, merged)


def test_two_sides_that_meet_show_a_conflict(upstream: Path, start: Any, tmp_path: Path) -> None:
    template = tmp_path / "template"
    fork(upstream, template)
    rewrite(
        template / "template/src/{{package_name}}/chassis/settings.py",
        "port: int = Field(default=8000",
        "port: int = Field(default=8080",
    )
    release(template, "another port")
    project = start(NEXT)
    point_to(project, str(template))
    rewrite(
        project / "src/my_service/chassis/settings.py",
        "port: int = Field(default=8000",
        "port: int = Field(default=9000",
    )
    commit(project, "our port")
    told = make_update(project)
    assert told.returncode != 0
    assert "src/my_service/chassis/settings.py" in told.stdout
    assert "git add" in told.stdout
    text = (project / "src/my_service/chassis/settings.py").read_text()
    assert "default=8080" in text
    assert "default=9000" in text
    assert run("git", "ls-files", "--unmerged", cwd=project).stdout
    assert make_update(project).stderr.startswith("A merge is not finished")


def rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def point_to(project: Path, source: str) -> None:
    answers = project / ".copier-answers.yml"
    answers.write_text(re.sub(r"(?m)^_src_path: .*$", f"_src_path: {source}", answers.read_text()))
    commit(project, "the template moved")


def make_update(project: Path, arguments: str = "", target: str = "update") -> subprocess.CompletedProcess[str]:
    return run(
        "make", target, f"ARGS={arguments}", cwd=project, check=False, stdin=subprocess.DEVNULL, env=quick_update()
    )


def next_release(project: Path, upstream: Path, tmp_path: Path) -> str:
    """Point a project at a template with one release more than it has; return that release's news."""
    template = tmp_path / "template"
    fork(upstream, template)
    rewrite(template / "CHANGELOG.md", "newest first.\n", "newest first.\n\n## 999.1.0\n\n- A tamer warehouse.\n")
    rewrite(template / "template/pyproject.toml.jinja", '    "fastapi', '    "idna>=3",\n    "fastapi')
    release(template, "Release 999.1.0")
    point_to(project, str(template))
    return "A tamer warehouse."


def test_make_update_tells_the_news_and_locks_again(upstream: Path, start: Any, tmp_path: Path) -> None:
    project = start(NEXT)
    news = next_release(project, upstream, tmp_path)
    run("make", "lock", cwd=project)
    commit(project, "lock")
    told = make_update(project)
    assert told.returncode == 0, told.stdout + told.stderr
    assert news in told.stdout
    assert "## 1.0.0" not in told.stdout
    assert "to 999.1.0." in told.stdout
    assert "No conflicts." in told.stdout
    run("uv", "lock", "--check", cwd=project)
    assert 'name = "idna"' in (project / "uv.lock").read_text()
    commit(project, "updated")
    again = make_update(project)
    assert again.returncode == 0
    assert again.stdout == "Up to date with template release 999.1.0.\n"


def test_make_update_check_tells_the_release_to_come(upstream: Path, start: Any, tmp_path: Path) -> None:
    project = start(NEXT)
    assert make_update(project, target="update-check").returncode == 0
    next_release(project, upstream, tmp_path)
    (project / "unsaved.txt").write_text("a check needs no clean tree")
    told = make_update(project, target="update-check")
    assert told.returncode != 0
    assert "Template release 999.1.0 is out" in told.stderr
    assert run("git", "status", "--porcelain", cwd=project).stdout == "?? unsaved.txt\n"


def test_the_workflow_updates_a_shallow_clone_without_an_identity(
    upstream: Path, start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a runner has it: one commit deep, and no user's settings of git."""
    project = start(NEXT)
    next_release(project, upstream, tmp_path)
    run("git", "clone", "--quiet", "--depth=1", f"file://{project}", tmp_path / "checkout")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    workflow = yaml.safe_load((project / ".github/workflows/update-from-template.yml").read_text())
    [command] = [step["run"] for step in workflow["jobs"]["update"]["steps"] if "run" in step]
    told = run("bash", "-eo", "pipefail", "-c", command, cwd=tmp_path / "checkout", stdin=subprocess.DEVNULL)
    assert "to 999.1.0." in told.stdout
    assert '"idna>=3"' in (tmp_path / "checkout/pyproject.toml").read_text()


def test_make_update_lists_what_it_would_delete_and_asks(start: Any) -> None:
    project = start(NEXT, license="MIT")
    refused = make_update(project, "--data license=proprietary")
    assert refused.returncode != 0
    assert "  LICENSE\n" in refused.stdout
    assert (project / "LICENSE").exists()
    assert 'make update ARGS="--data license=proprietary --yes"' in refused.stderr
    assert run("git", "status", "--porcelain", cwd=project).stdout == ""
    agreed = make_update(project, "--data license=proprietary --yes")
    assert agreed.returncode == 0
    assert not (project / "LICENSE").exists()


def test_the_command_that_agrees_gives_the_same_arguments_in_a_shell(updater: ModuleType) -> None:
    given = ["--data", """project_description=it's "ours": $HOME `id` $(id) \\ \\\\"""]
    command = updater.agreement("make update", *given)
    printed = run("sh", "-c", f'make() {{ printf %s "$2"; }}; {command}').stdout
    assert shlex.split(printed.removeprefix("ARGS=")) == [*given, "--yes"]


@pytest.mark.parametrize(("answer", "kept"), [("n", True), ("", True), ("y", False)])
def test_make_update_asks_at_the_terminal(start: Any, answer: str, kept: bool) -> None:
    project = start(NEXT, license="MIT")
    command = "make update ARGS='--data license=proprietary'; echo status $?"
    terminal = ("script", "--quiet", "--return", "--command", command, "/dev/null")
    typed = run(*terminal, cwd=project, input=f"{answer}\n", env=quick_update())
    assert "Go on? [y/N]" in typed.stdout
    assert (project / "LICENSE").exists() == kept


BAD_SITUATIONS: list[tuple[str, Callable[[Path], object], str]] = [
    ("no git", lambda project: shutil.rmtree(project / ".git"), "git init && git add ."),
    ("no commit", lambda project: no_commit(project), "  git add . && git commit"),
    ("uncommitted work", lambda project: (project / "new.txt").touch(), "Commit your work first"),
    ("half merged", lambda project: half_merged(project), "A merge is not finished"),
    ("committed markers", lambda project: markers(project), "are committed: resolve them in Makefile"),
    ("hidden edit", lambda project: hidden(project), "git was told to overlook your edits of: .copier-answers.yml"),
    ("folder for a file", lambda project: folder_for_file(project), "AGENTS.md is a folder in the project and a file"),
    ("file for a folder", lambda project: file_for_folder(project), "tests is a folder in the template and a file"),
    ("no answers", lambda project: forget(project), "git checkout HEAD -- .copier-answers.yml"),
    ("spoilt answers", lambda project: spoil(project), "has no _src_path and _commit"),
    ("answers edited by hand", lambda project: answer_by_hand(project), 'make update ARGS="--data NAME=VALUE"'),
    ("relative template", lambda project: point_to(project, "../template"), "relative path: ../template"),
    ("template gone", lambda project: point_to(project, "/nowhere/template"), "no longer at /nowhere/template"),
    ("address gone", lambda project: point_to(project, "file:///nowhere.git"), "fatal: "),
    ("host gone", lambda project: point_to(project, "https://nobody.invalid/t.git"), "nobody.invalid"),
    ("deleted release", lambda project: forge(project, "v0.0.7"), "The template no longer has v0.0.7"),
    ("unknown commit", lambda project: forge(project, "0123abc"), "The template no longer has 0123abc"),
    ("older newest release", lambda project: older(project), "This project has template release 1000.0.0, and that"),
]


def no_commit(project: Path) -> None:
    shutil.rmtree(project / ".git")
    run("git", "init", "--quiet", cwd=project)


def half_merged(project: Path) -> None:
    run("git", "checkout", "--quiet", "-b", "other", cwd=project)
    rewrite(project / "Makefile", "# Yours:", "# Theirs:")
    commit(project, "theirs")
    run("git", "checkout", "--quiet", "main", cwd=project)
    rewrite(project / "Makefile", "# Yours:", "# Mine:")
    commit(project, "mine")
    assert run("git", "merge", "other", cwd=project, check=False).returncode == 1


def markers(project: Path) -> None:
    rewrite(project / "Makefile", "# Yours:\n", "<<<<<<< before updating\n# a\n=======\n# b\n>>>>>>> after updating\n")
    commit(project, "resolved, or so we thought")


def hidden(project: Path) -> None:
    run("git", "update-index", "--assume-unchanged", ".copier-answers.yml", cwd=project)
    with (project / ".copier-answers.yml").open("a") as file:
        file.write("# ours\n")


def folder_for_file(project: Path) -> None:
    (project / "AGENTS.md").unlink()
    (project / "AGENTS.md").mkdir()
    (project / "AGENTS.md/index.md").write_text("ours\n")
    commit(project, "several agents")


def file_for_folder(project: Path) -> None:
    shutil.rmtree(project / "tests")
    (project / "tests").write_text("none\n")
    commit(project, "no tests")


def forget(project: Path) -> None:
    (project / ".copier-answers.yml").unlink()
    commit(project, "forgot")


def spoil(project: Path) -> None:
    (project / ".copier-answers.yml").write_text("<<<<<<< ours\n")
    commit(project, "spoilt")


def answer_by_hand(project: Path) -> None:
    rewrite(project / ".copier-answers.yml", "license: proprietary", "license: MIT")
    commit(project, "a licence")


def forge(project: Path, ref: str) -> None:
    answers = project / ".copier-answers.yml"
    answers.write_text(re.sub(r"(?m)^_commit: .*$", f"_commit: {ref}", answers.read_text()))
    commit(project, "forged")


def older(project: Path) -> None:
    answers = project / ".copier-answers.yml"
    answers.write_text(re.sub(r"(?m)^template_release: .*$", "template_release: 1000.0.0", answers.read_text()))
    commit(project, "from the future")


@pytest.mark.parametrize(
    ("spoilt", "line"), [pytest.param(spoilt, line, id=name) for name, spoilt, line in BAD_SITUATIONS]
)
def test_a_bad_situation_gets_a_clear_line(
    upstream: Path, start: Any, tmp_path: Path, spoilt: Callable[[Path], None], line: str
) -> None:
    project = start(NEXT)
    next_release(project, upstream, tmp_path)
    spoilt(project)
    before = tree_of_all(project)
    told = run_update(project)
    assert told.returncode == 1
    assert line in told.stderr
    assert len(told.stderr.splitlines()) <= 2
    assert "Traceback" not in told.stdout + told.stderr
    assert tree_of_all(project) == before


def test_a_sub_folder_names_the_projects(start: Any) -> None:
    project = start(NEXT)
    told = run_update(project / "src")
    assert (told.returncode, told.stderr) == (1, f"The project is in a folder above this one: cd '{project}'\n")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a repository to another user")
def test_another_users_repository_gets_gits_own_advice(start: Any) -> None:
    project = start(NEXT)
    run("chown", "-R", "12345", project)
    told = run_update(project)
    assert told.returncode == 1
    assert f"git config --global --add safe.directory {project}" in told.stderr
    assert "git init" not in told.stderr


def test_without_copier_at_hand_one_line_says_so(start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline, and uv has nothing in its cache."""
    project = start(NEXT)
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "empty"))
    told = run_update(project)
    assert told.returncode == 1
    assert told.stderr.startswith("Nothing was changed, since Copier can't be run (are you offline?):\n")
    assert len(told.stderr.splitlines()) == 2


def test_a_lock_that_fails_leaves_a_complete_update(upstream: Path, start: Any, tmp_path: Path) -> None:
    project = start(NEXT)
    next_release(project, upstream, tmp_path)
    (project / "uv.lock").write_text("spoilt")
    rewrite(project / "pyproject.toml", "# Yours", '"no-such-distribution-anywhere>=1",\n    # Yours')
    commit(project, "a lock")
    told = run_update(project)
    assert told.returncode == 1
    assert told.stderr.startswith("The update is complete, but uv.lock is not up to date: ")
    assert "make lock" in told.stderr
    assert '"idna>=3"' in (project / "pyproject.toml").read_text()


def test_a_file_that_git_ignores_is_never_overwritten(upstream: Path, start: Any, tmp_path: Path) -> None:
    project = start(NEXT)
    template = tmp_path / "template"
    fork(upstream, template)
    (template / "template/.env").write_text("THEIRS=1\n")
    (template / "template/.venv").mkdir()
    (template / "template/.venv/notes.txt").write_text("theirs\n")
    run("git", "add", "--force", "template/.env", "template/.venv", cwd=template)
    release(template, "a file that owners have")
    point_to(project, str(template))
    (project / ".env").write_text("SECRET=1\n")
    told = run_update(project)
    assert told.returncode == 0, told.stderr
    assert "Ignored by git and yours, so not written:\n  .env\n" in told.stdout
    assert (project / ".env").read_text() == "SECRET=1\n"
    assert (project / ".venv/notes.txt").exists()
    assert ".env" not in run("git", "ls-files", cwd=project).stdout.splitlines()


def test_an_ignored_link_stays_where_the_template_brings_a_folder(upstream: Path, start: Any, tmp_path: Path) -> None:
    project = start(NEXT)
    template = tmp_path / "template"
    fork(upstream, template)
    (template / "template/build").mkdir()
    (template / "template/build/notes.txt").write_text("theirs\n")
    release(template, "a folder that owners have")
    point_to(project, str(template))
    (project / ".git/info/exclude").write_text("build\n")
    (project / "build").symlink_to("../outside")
    told = run_update(project)
    assert told.returncode == 0, told.stderr
    assert "  build/notes.txt\n" in told.stdout.partition("so not written:")[2]
    assert (project / "build").readlink() == Path("../outside")


@pytest.mark.parametrize("sign", ["=", ">", "<", "|"])
@pytest.mark.parametrize("length", [7, 110, 250, 251])
def test_lines_that_look_like_markers_are_kept(merge_into: Any, tmp_path: Path, sign: str, length: int) -> None:
    old, new, project = (tmp_path / name for name in ("old", "new", "project"))
    for side in (old, new, project):
        side.mkdir()
        write_base(side)
    name = next(iter(BASE))
    heading = f"Our heading\n{sign * length}\nour text\n"
    with (project / name).open("a") as file:
        file.write(heading)
    with (new / name).open("a") as file:
        file.write("theirs\n")
    commit(project, "our work")
    merge_into(project, old, new)
    text = (project / name).read_text()
    assert all(f"{line}\n" in text for line in [*heading.splitlines(), "theirs"])


def test_an_edit_saved_while_it_asks_is_kept(start: Any) -> None:
    project = start(NEXT, license="MIT")
    command = [
        "script",
        "--quiet",
        "--return",
        "--command",
        "make update ARGS='--data license=proprietary'",
        "/dev/null",
    ]
    pipe = subprocess.PIPE
    terminal = subprocess.Popen(command, cwd=project, stdin=pipe, stdout=pipe, env=quick_update())
    assert terminal.stdout
    shown = b""
    while b"Go on? [y/N]" not in shown:
        part = os.read(terminal.stdout.fileno(), 4096)
        assert part, shown
        shown += part
    for name in ("README.md", "LICENSE"):
        with (project / name).open("a") as file:
            file.write("precious\n")
    told, _ = terminal.communicate(b"y\n")
    assert terminal.returncode != 0
    assert b"Commit your work first" in told
    for name in ("README.md", "LICENSE"):
        assert (project / name).read_text().endswith("precious\n")


def test_a_failing_last_step_takes_back_what_it_wrote_and_nothing_else(
    worked_on: Path,
    released: Any,
    merge_into: Any,
    updater: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    project = Path(shutil.copytree(worked_on, tmp_path / "project"))
    before = tree_of_all(project)
    precious = ".editorconfig"

    def fail_late(self: Any, merged: Any) -> None:
        with (project / precious).open("a") as file:
            file.write("# saved meanwhile\n")
        raise subprocess.CalledProcessError(1, "git", stderr=b"fatal: disk full")

    monkeypatch.setattr(updater.Project, "_mark_conflicts", fail_late)
    old = released(RELEASES[OLDEST_AND_NEWEST[1]])
    try:
        with pytest.raises(SystemExit, match="disk full"):
            merge_into(project, old, released(NEXT))
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, updater.SIGNALS)
    after = tree_of_all(project)
    assert after.pop(precious).endswith(b"# saved meanwhile\n")
    before.pop(precious)
    assert after == before


def test_deletions_are_listed_and_edited_files_stay_as_conflicts(start: Any) -> None:
    project = start(NEXT, cache="redis")
    with (project / "src/my_service/chassis/cache/client.py").open("a") as file:
        file.write("OURS = True\n")
    (project / "tests/chassis/cache/test_client.py").unlink()
    commit(project, "our work")
    told = run_update(project, "--data", "cache=none", "--yes")
    assert told.returncode == 1
    assert "This update deletes:\n" in told.stdout
    assert "  src/my_service/chassis/cache/limits.py\n" in told.stdout
    assert "  src/my_service/chassis/cache/client.py (you edited it: it stays, as a conflict)\n" in told.stdout
    assert "tests/chassis/cache/test_client.py" not in told.stdout
    assert "OURS = True" in (project / "src/my_service/chassis/cache/client.py").read_text()
    assert not (project / "src/my_service/chassis/cache/limits.py").exists()
    unmerged = run("git", "ls-files", "--unmerged", cwd=project).stdout
    assert unmerged.count("src/my_service/chassis/cache/client.py") == 2


def test_a_bare_repository_without_tags_serves_updates(
    upstream: Path, released: Any, start: Any, tmp_path: Path
) -> None:
    """As on a server of one's own: Copier itself can't render the HEAD of a bare folder."""
    bare = tmp_path / "template.git"
    run("git", "clone", "--quiet", "--bare", upstream, bare)
    for tag in run("git", "tag", "--list", cwd=bare).stdout.split():
        run("git", "tag", "--delete", tag, cwd=bare)
    project = start(RELEASES[OLDEST_AND_NEWEST[1]])
    point_to(project, str(bare))
    told = run_update(project)
    assert told.returncode == 0, told.stderr
    assert (project / "Makefile").read_bytes() == (released(NEXT) / "Makefile").read_bytes()
    commit(project, "updated")
    assert run_update(project).stdout.startswith("Up to date")


def test_a_repository_whose_head_names_no_branch_gets_a_clear_line(upstream: Path, start: Any, tmp_path: Path) -> None:
    """As `git init --bare` leaves it, if another branch than its default one is pushed."""
    bare = tmp_path / "template.git"
    run("git", "init", "--quiet", "--bare", "--initial-branch=nothing", bare)
    run("git", "push", "--quiet", bare, "HEAD:refs/heads/next", cwd=upstream)
    project = start(NEXT)
    commit_of_next = run("git", "rev-parse", "HEAD", cwd=upstream).stdout.strip()
    forge(project, commit_of_next)
    point_to(project, str(bare))
    told = run_update(project)
    assert told.returncode == 1
    assert "its HEAD names no branch" in told.stderr
    assert run_update(project, "--vcs-ref", "next").returncode == 0


def test_a_reference_that_looks_like_a_number_is_no_conflict(upstream: Path, start: Any, tmp_path: Path) -> None:
    """YAML quotes it: a tag such as 1.5, or a commit of digits."""
    project = start(NEXT)
    next_release(project, upstream, tmp_path)
    run("git", "tag", "1.5", f"{NEXT}^{{}}", cwd=tmp_path / "template")
    forge(project, "'1.5'")
    told = run_update(project)
    assert told.returncode == 0, told.stdout + told.stderr
    assert "No conflicts." in told.stdout


# --- From 1.x to 2.0 ---------------------------------------------------------


IMPORTS = ROOT / "upgrade/imports_2_0.py"


def own_domain(project: Path) -> None:
    """Write a domain as owners of 1.x did: a copy of the example, its routes, table, migration and tests."""

    def renamed(text: str) -> str:
        for old in ("/v1/items", '__tablename__ = "items"', 'tags=["items"]', "my_service.items"):
            text = text.replace(old, old.replace("items", "orders"))
        return text

    (project / "src/my_service/orders").mkdir()
    for path in (project / "src/my_service/items").glob("*.py"):
        (project / "src/my_service/orders" / path.name).write_text(renamed(path.read_text()))
    test = (project / "tests/test_items.py").read_text()
    (project / "tests/test_orders.py").write_text(renamed(test))
    migration = (project / "migrations/versions/0001_items.py").read_text().replace("items", "orders")
    migration = migration.replace('revision: str = "0001"', 'revision: str = "0002"').replace(
        "| None = None", '| None = "0001"', 1
    )
    (project / "migrations/versions/0002_orders.py").write_text(migration)
    rewrite(project / "src/my_service/app.py", "\n# Yours:\n", "\n# Yours:\nfrom .orders import routes as orders\n")
    routed = "    app.include_router(orders.router, dependencies=[auth.required])\n"
    rewrite(project / "src/my_service/app.py", "    # Yours:\n", f"    # Yours:\n{routed}")


@pytest.mark.usefixtures("one_environment")
def test_an_owners_domain_of_1_4_0_passes_make_check_after_the_update(start: Any, released: Any) -> None:
    answers = known_then("1.4.0", EVERYTHING)
    project = start(RELEASES["1.4.0"], **answers)
    own_domain(project)
    commit(project, "orders")
    told = make_update(project, "--yes")
    assert told.returncode == 0, told.stdout + told.stderr
    expected, brought = tree(released(NEXT, **answers)), tree(project)
    assert [name for name in expected if "/chassis/" in name and brought.get(name) != expected[name]] == []
    rewritten = run("python3", IMPORTS, cwd=project)
    assert "src/my_service/orders/routes.py\n" in rewritten.stdout
    run("make", "format", cwd=project)
    # Their code and their tests are those of a fresh copy, and use no table.
    others = [f"--ignore=tests/chassis/{name}" for name in ("auth", "cache")]
    make_check(project, " ".join([features_only(project), *others]))
    assert "/v1/orders" in run("uv", "run", "python", "-c", PATHS, cwd=project).stdout


PATHS = "from my_service.app import create_app; print(*create_app().openapi()['paths'])"


@pytest.mark.parametrize("version", [version for version in RELEASES if version.startswith("1.")])
def test_an_edit_in_every_infrastructure_module_is_kept_or_in_a_conflict(
    start: Any, released: Any, merge_into: Any, version: str
) -> None:
    answers = known_then(version, EVERYTHING)
    project = start(RELEASES[version], **answers)
    edited = sorted((project / "src/my_service").glob("*.py"))
    for path in edited:
        lines = path.read_text().splitlines(keepends=True)
        lines.insert(len(lines) // 2, f"# ours, in {path.name}\n")
        path.write_text("".join(lines))
    commit(project, "our edits")
    merged = merge_into(project, released(RELEASES[version], **answers), released(NEXT, **EVERYTHING))
    everything = b"\n".join(tree(project).values()).decode()
    assert [path.name for path in edited if f"# ours, in {path.name}\n" not in everything] == []
    assert merged.moved


def test_the_imports_of_1_x_are_rewritten_and_what_is_left_is_reported(start: Any, tmp_path: Path) -> None:
    project = start(RELEASES["1.4.0"], **EVERYTHING)
    own = project / "src/my_service/desk.py"
    own.write_text(
        "from . import etags, items, pagination as pages\n"
        "from .database import (\n    SessionDep,  # for writing\n)\n"
        "from my_service.errors import problem\n"
        "from .rate_limit import rate_limit\n"
        "from .settings import Settings\n"
        "from .http_cache import cached\n"
        "from . import health\n\n\n"
        '@health.check("desk")\n'
        "async def desk_is_open() -> None: ...\n"
    )
    commit(project, "a desk")
    assert make_update(project, "--yes").returncode == 0
    done = run("python3", IMPORTS, cwd=project, check=False)
    assert done.returncode == 1
    assert own.read_text().splitlines()[:9] == [
        "from . import items",
        "from .chassis.database import etags, pagination as pages",
        "from .chassis.database import (",
        "    SessionDep,  # for writing",
        ")",
        "from my_service.chassis.errors import problem",
        "from .chassis.cache import rate_limit",
        "from .settings import Settings",
        "from .http_cache import cached",
    ]
    assert "src/my_service/desk.py:9: chassis.cache caches functions; see docs/cache.md" in done.stderr
    assert "src/my_service/desk.py:13: a check is part of a Feature; see docs/operations.md" in done.stderr


def test_every_move_has_a_target(released: Any) -> None:
    renders = [released(NEXT, **answers) for answers in (EVERYTHING, {"database": "sqlite", "auth": "api-key"})]
    there = {name for project in renders for name in files(project)}
    listed = [line.split()[2] for line in (ROOT / "includes/moves.txt").read_text().splitlines() if line[0].isdigit()]
    assert [path for path in listed if path.replace("<package>", "my_service") not in there] == []


# --- A release that moves files ----------------------------------------------


def test_a_release_that_moves_files_keeps_edits_in_them(upstream: Path, start: Any, tmp_path: Path) -> None:
    project = start(NEXT)
    rewrite(project / "src/my_service/chassis/health.py", "CHECK_TIMEOUT_SECONDS = 2.0", "CHECK_TIMEOUT_SECONDS = 7.0")
    (project / "src/my_service/chassis/docs.py").unlink()
    moving_release(upstream, project, tmp_path)
    before = tree_of_all(project)

    # Plain Copier would lose the edit, so the release refuses it, and says what to run.
    refused = run("copier", "update", "--defaults", ".", cwd=project, check=False)
    assert refused.returncode != 0
    assert "run `make update`" in refused.stderr.splitlines()[-1]
    assert tree_of_all(project) == before

    told = run_update(project)
    assert told.returncode == 0, told.stdout + told.stderr
    assert "  src/my_service/chassis/health.py -> src/my_service/chassis/inner/probes.py\n" in told.stdout
    moved = (project / "src/my_service/chassis/inner/probes.py").read_text()
    assert "CHECK_TIMEOUT_SECONDS = 7.0" in moved
    assert moved.count("# rewritten") > 20
    assert not (project / "src/my_service/chassis/health.py").exists()
    assert not (project / "src/my_service/chassis/inner/docs.py").exists()
    assert "  src/my_service/chassis/inner/docs.py\n" in told.stdout.partition("stay as they are:")[2]


def test_an_update_of_1_3_0_shows_what_to_run_for_a_release_that_moves_files(
    upstream: Path, start: Any, tmp_path: Path
) -> None:
    project = start(RELEASES["1.3.0"])
    moving_release(upstream, project, tmp_path)
    before = tree_of_all(project)
    told = make_update(project)
    assert told.returncode != 0
    assert 'make update ARGS="--vcs-ref v1.4.0"' in told.stderr
    assert tree_of_all(project) == before


def moving_release(upstream: Path, project: Path, tmp_path: Path) -> None:
    """Point a project at a template whose next release moves two files and rewrites most of one."""
    template = tmp_path / "moving"
    fork(upstream, template)
    package = template / "template/src/{{package_name}}/chassis"
    (package / "inner").mkdir()
    text = (package / "health.py").read_text().splitlines()
    # So much that git itself sees no rename.
    kept = next(index for index, line in enumerate(text) if line.startswith("CHECK_TIMEOUT"))
    rewritten = [line if abs(index - kept) < 3 else f"# rewritten {index}" for index, line in enumerate(text)]
    (package / "inner/probes.py").write_text("\n".join(rewritten) + "\n")
    (package / "health.py").unlink()
    (package / "docs.py").rename(package / "inner/docs.py")
    with (package / "inner/docs.py").open("a") as file:
        file.write("# changed too\n")
    with (template / "includes/moves.txt").open("a") as file:
        for old, new in (("health.py", "inner/probes.py"), ("docs.py", "inner/docs.py")):
            file.write(f"999.1.0 src/<package>/chassis/{old} src/<package>/chassis/{new}\n")
    rewrite(template / "CHANGELOG.md", "newest first.\n", "newest first.\n\n## 999.1.0\n\n- Two files move.\n")
    release(template, "Release 999.1.0")
    point_to(project, str(template))


def test_a_refused_answer_gets_a_clear_line(start: Any) -> None:
    project = start(NEXT)
    told = make_update(project, "--data license=GPL")
    assert told.returncode != 0
    assert "license" in told.stderr
    assert "Traceback" not in told.stderr
    assert run("git", "status", "--porcelain", cwd=project).stdout == ""


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        ("nosuch=1", "There is no question nosuch"),
        ("_commit=1", "There is no question _commit"),
        ("package_name=other", "package_name can't change"),
    ],
)
def test_an_answer_that_no_update_can_change_is_refused(start: Any, answer: str, line: str) -> None:
    project = start(NEXT)
    told = make_update(project, f"--yes --data {answer}")
    assert told.returncode != 0
    assert told.stderr.startswith(line)
    assert run("git", "status", "--porcelain", cwd=project).stdout == ""


def test_defaults_may_be_asked_for_though_they_are_kept_anyway(start: Any) -> None:
    project = start(NEXT)
    assert make_update(project, "--defaults").returncode == 0


# --- Any setting of git, any shape of a repository ---------------------------

EDITED = ["Makefile", "README.md", ".gitignore", "src/my_service/health.py", "src/my_service/settings.py"]


def work_on(project: Path) -> None:
    """Edit a few files, delete one, and have an ignored file that a release might bring."""
    for name in EDITED:
        with (project / name).open("a") as file:
            file.write("# ours\n")
    (project / "AGENTS.md").unlink()
    (project / ".env").write_text("SECRET=1\n")
    commit(project, "our work")


def run_update(project: Path, *arguments: str, quick: bool = True) -> subprocess.CompletedProcess[str]:
    """Run this release's script in a project of any release."""
    script = ROOT / "template/{{update_script}}.py"
    command = ("uv", "run", "--quiet", "--script", script, *arguments)
    environment = quick_update() if quick else None
    return run(*command, cwd=project, check=False, stdin=subprocess.DEVNULL, env=environment)


def git_state(project: Path) -> dict[str, str]:
    """Return what git would commit of a project, without what one of the cases adds to it."""
    return {name: about for name, about in git_tree(project).items() if name not in (".gitattributes", "library")}


@pytest.fixture(scope="session")
def worked_on(shared: Any, released: Any) -> Path:
    """A project of the newest release with an owner's work in it; not to be changed."""

    def make(folder: Path) -> None:
        shutil.copytree(released(RELEASES[OLDEST_AND_NEWEST[1]]), folder, dirs_exist_ok=True)
        work_on(folder)

    return Path(shared("worked-on", make))


@pytest.fixture(scope="session")
def as_usual(shared: Any, worked_on: Path) -> Path:
    """That project after an update under no settings but an identity."""

    def make(folder: Path) -> None:
        shutil.copytree(worked_on, folder, dirs_exist_ok=True)
        done = run_update(folder)
        assert done.returncode == 0, done.stdout + done.stderr

    return Path(shared("as-usual", make))


SETTINGS = {
    "whitespace errors": "[apply]\nwhitespace = error\n[core]\nwhitespace = trailing-space,tab-in-indent",
    "whitespace fixed": "[apply]\nwhitespace = fix",
    "ignored everywhere": "[core]\nexcludesFile = {folder}/ignore",
    "untracked hidden": "[status]\nshowUntrackedFiles = no",
    "autocrlf": "[core]\nautocrlf = true\nsafecrlf = true",
    "failing hooks": "[core]\nhooksPath = {folder}/hooks",
    "template with failing hooks": "[init]\ntemplateDir = {folder}",
    "signed commits": "[commit]\ngpgSign = true\n[gpg]\nprogram = /bin/false\n[user]\nname = A\nemail = a@example.com",
    "no identity": "[user]\nuseConfigOnly = true",
    "zdiff3": "[merge]\nconflictStyle = zdiff3\nrenames = false\n[rerere]\nenabled = true",
    "odd diffs": "[diff]\nnoprefix = true\nmnemonicPrefix = true\nexternal = /bin/false\n[color]\nui = always",
    "odd names": "[core]\nquotePath = true\n[grep]\npatternType = fixed\nfullName = true\n[status]\nshort = true\nbranch = true",
    "lazy index": "[core]\nuntrackedCache = true\nfsmonitor = /bin/false\ncheckStat = minimal\n[index]\nversion = 4",
}


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS.keys())
def test_no_setting_of_git_changes_an_update(
    worked_on: Path, as_usual: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    project = Path(shutil.copytree(worked_on, tmp_path / "project"))
    (tmp_path / "ignore").write_text(".env*\nMakefile\n*.md\nsrc/\n")
    (tmp_path / "hooks").mkdir()
    for hook in ("post-checkout", "post-index-change", "reference-transaction", "pre-commit", "pre-merge-commit"):
        (tmp_path / "hooks" / hook).write_text("#!/bin/sh\necho no >&2\nexit 1\n")
        (tmp_path / "hooks" / hook).chmod(0o755)
    (tmp_path / "gitconfig").write_text(setting.format(folder=tmp_path) + "\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    # The quick renders leave git out.
    done = run_update(project, quick=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No conflicts." in done.stdout
    assert git_state(project) == git_state(as_usual)
    assert run("git", "-c", "core.fsmonitor=false", "diff", "--no-ext-diff", "--stat", cwd=project).stdout == ""
    assert (project / ".env").read_text() == "SECRET=1\n"
    assert b"\r" not in (project / "ops/check.sh").read_bytes()


def crlf(project: Path, folder: Path) -> Path:
    (project / ".gitattributes").write_text("* text=auto eol=crlf\n")
    commit(project, "line endings")
    for name in EDITED:
        (project / name).unlink()
    run("git", "checkout", "--", ".", cwd=project)
    assert b"\r\n" in (project / "Makefile").read_bytes()
    return project


def worktree(project: Path, folder: Path) -> Path:
    run("git", "worktree", "add", "--quiet", "-b", "desk", folder / "work tree", cwd=project)
    return folder / "work tree"


def shallow(project: Path, folder: Path) -> Path:
    run("git", "clone", "--quiet", "--depth=1", f"file://{project}", folder / "shallow")
    return folder / "shallow"


def borrowed(project: Path, folder: Path) -> Path:
    run("git", "clone", "--quiet", "--shared", project, folder / "borrowed")
    return folder / "borrowed"


def sparse(project: Path, folder: Path) -> Path:
    # A copy's files look changed until git has looked at them.
    run("git", "update-index", "--refresh", cwd=project)
    run("git", "sparse-checkout", "set", "--no-cone", "/*", "!/tests/", cwd=project)
    assert not (project / "tests").exists()
    return project


def submodule(project: Path, folder: Path) -> Path:
    library = folder / "library"
    library.mkdir()
    commit(library, "library")
    run("git", "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(library), "library", cwd=project)
    run("git", "rm", "--quiet", "--cached", ".gitmodules", cwd=project)
    (project / ".git/info/exclude").write_text(".gitmodules\n")
    commit(project, "library")
    return project


def monorepo(project: Path, folder: Path) -> Path:
    top = folder / "mono\nrepo"
    place = top / "services/our desk"
    shutil.copytree(project, place, ignore=shutil.ignore_patterns(".git"))
    (top / "other").mkdir()
    (top / "other/file").write_text("theirs\n")
    commit(top, "all")
    # Their work is not ours to commit.
    (top / "other/file").write_text("not committed\n")
    (top / "other/new").write_text("not committed\n")
    run("git", "add", "other/file", cwd=top)
    return place


@pytest.mark.parametrize("shape", [crlf, worktree, shallow, borrowed, sparse, submodule, monorepo])
def test_no_shape_of_a_repository_changes_an_update(
    worked_on: Path, as_usual: Path, tmp_path: Path, shape: Callable[[Path, Path], Path]
) -> None:
    project = shape(Path(shutil.copytree(worked_on, tmp_path / "project")), tmp_path)
    done = run_update(project)
    assert done.returncode == 0, done.stdout + done.stderr
    assert git_state(project) == git_state(as_usual)
    assert run("git", "diff", "--stat", "--", ".", cwd=project).stdout == ""
    if shape is monorepo:
        status = run("git", "status", "--porcelain", "--", "../../other", cwd=project).stdout
        assert status == "M  other/file\n?? other/new\n"
    if shape is crlf:
        assert b"\r\n" in (project / ".copier-answers.yml").read_bytes()


@pytest.mark.parametrize("shape", [sparse, monorepo])
def test_conflicts_are_entries_of_the_index_in_any_shape(
    worked_on: Path, tmp_path: Path, shape: Callable[[Path, Path], Path]
) -> None:
    project = Path(shutil.copytree(worked_on, tmp_path / "project"))
    first_line(project / "tests/conftest.py", '"""Ours."""')
    rewrite(project / "Makefile", "MAKEFLAGS += --no-print-directory", "MAKEFLAGS += --silent")
    commit(project, "our names")
    template = clash(tmp_path, project)
    project = shape(project, tmp_path)
    done = run_update(project)
    assert done.returncode == 1, done.stderr
    assert "tests/conftest.py" in done.stdout
    unmerged = run("git", "ls-files", "--unmerged", cwd=project).stdout
    assert {line.split()[2] for line in unmerged.splitlines()} == {"1", "2", "3"}
    assert template.exists()
    text = (project / "Makefile").read_text()
    both = r"<<<<<<< before updating\n(?s:.*?)MAKEFLAGS \+= --silent\n(?s:.*?)=======\n(?s:.*?)MAKEFLAGS \+= --quiet\n(?s:.*?)>>>>>>>"
    assert re.search(both, text)
    assert "<<<<<<< before updating\n" in (project / "tests/conftest.py").read_text()
    run("git", "checkout", "--conflict=diff3", "--", "Makefile", cwd=project)
    assert "||||||| base" in (project / "Makefile").read_text()
    undo = done.stdout.partition("take the whole update back: ")[2].strip()
    run("sh", "-c", undo, cwd=project)
    assert run("git", "status", "--porcelain", "--", ".", cwd=project).stdout == ""


def first_line(path: Path, line: str) -> None:
    path.write_text("\n".join([line, *path.read_text().splitlines()[1:]]) + "\n")


def clash(folder: Path, project: Path) -> Path:
    """Release a template that changes what the owner changed; point the project at it."""
    template = folder / "clash"
    run("git", "clone", "--quiet", yaml.safe_load((project / ".copier-answers.yml").read_text())["_src_path"], template)
    [conftest] = (template / "template/tests").glob("conftest.py*")
    first_line(conftest, '"""Theirs."""')
    rewrite(template / "template/Makefile.jinja", "MAKEFLAGS += --no-print-directory", "MAKEFLAGS += --quiet")
    release(template, "clash")
    point_to(project, str(template))
    return template


# --- Interrupted at any moment -----------------------------------------------


@pytest.mark.parametrize("moment", range(20))
def test_an_interrupted_update_is_done_or_not_begun(
    worked_on: Path, as_usual: Path, tmp_path: Path, moment: int
) -> None:
    project = Path(shutil.copytree(worked_on, tmp_path / "project"))
    before = tree_of_all(project)
    script = ROOT / "template/{{update_script}}.py"
    (tmp_path / "temporary").mkdir()
    process = subprocess.Popen(
        ["uv", "run", "--quiet", "--script", script],
        cwd=project,
        env={**quick_update(), "TMPDIR": str(tmp_path / "temporary")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait = random.Random(moment).uniform(0, 1)
    # Half of them while it renders, half while it merges and writes: a signal before that is uv's.
    begun, seconds = ("update.*/scratch", 0.8) if moment % 2 else ("update.*", 1.2)
    while not list(tmp_path.glob(f"temporary/{begun}")) and process.poll() is None:
        time.sleep(0.002)
    time.sleep(seconds * wait)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    printed, error = process.communicate(timeout=60)
    assert "Traceback" not in printed + error
    if tree_of_all(project) == before:
        assert run("git", "status", "--porcelain", cwd=project).stdout == ""
        assert "nothing was changed" in error
    else:
        assert git_state(project) == git_state(as_usual)
        assert run("git", "diff", "--stat", cwd=project).stdout == ""
        assert "complete" in error or "No conflicts." in printed
