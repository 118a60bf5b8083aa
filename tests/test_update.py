"""What an update brings, and what it leaves alone: from every release to the working tree."""

import importlib.util
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import copier
import pytest
import yaml
from conftest import CHOICES, NASTY, ROOT, commit, files, run, snapshot
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

HEADING = re.compile(r"(?m)^## (\d+\.\d+\.\d+)$")
# Later than each release: the version under which the working tree is released to these tests.
NEXT = "v999.0.0"
AFTER_NEXT = "v999.1.0"
SINGLE_ANSWERS = [{name: choice} for name, choices in CHOICES.items() for choice in choices[1:]]


# Each feature once: what a project with everything has.
EVERYTHING = {"database": "postgresql", "cache": "redis", "auth": "jwt", "deploy": "kubernetes", "license": "MIT"}


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
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    spec = importlib.util.spec_from_file_location("updater", ROOT / "template/{{update_script}}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    return module


@pytest.fixture
def merge_into(updater: ModuleType, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Return `merge_into(project, old, new)`: update by the renders `old` and `new`, and return the merge."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    patterns = yaml.safe_load((ROOT / "copier.yml").read_text())["_skip_if_exists"]

    def merge_into(project: Path, old: Path, new: Path) -> Any:
        folder = tmp_path / f"merge-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        (folder / "old").symlink_to(old)
        (folder / "new").symlink_to(new)
        here = updater.Project(project)
        scratch = updater.Scratch(folder / "scratch", here)
        told = {"moves": [], "owned": updater.owned(patterns, folder)}
        merged = updater.merge_releases(scratch, folder, here, told)
        here.write(scratch, merged)
        return merged

    yield merge_into
    for number, handler in handlers.items():
        signal.signal(number, handler)


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


ALL_ANSWERS = [{}, NASTY, EVERYTHING, {"package_name": "update"}, *SINGLE_ANSWERS]
OLDEST_AND_NEWEST = [list(RELEASES)[0], list(RELEASES)[-1]]


def named(answers: dict[str, str]) -> str:
    return "-".join(answers.values())[-40:] or "defaults"


def newly_asked(project: Path, answers: dict[str, str]) -> dict[str, str]:
    recorded = yaml.safe_load((project / ".copier-answers.yml").read_text())
    return {name: answer for name, answer in answers.items() if name not in recorded}


@pytest.mark.parametrize("version", RELEASES)
@pytest.mark.parametrize("answers", ALL_ANSWERS, ids=named)
def test_an_unedited_project_becomes_a_fresh_copy(
    start: Any, released: Any, merge_into: Any, version: str, answers: dict[str, str]
) -> None:
    project = start(RELEASES[version], **answers)
    merged = merge_into(project, released(RELEASES[version], **answers), released(NEXT, **answers))
    assert (merged.conflicts, merged.kept_both, merged.left_alone) == ({}, [], [])
    assert tree(project) == tree(released(NEXT, **answers))
    assert run("git", "diff", "--name-only", cwd=project).stdout == ""


@pytest.mark.parametrize("version", OLDEST_AND_NEWEST)
@pytest.mark.parametrize("answers", [{}, NASTY, EVERYTHING], ids=named)
def test_a_plain_copier_update_brings_the_same(
    start: Any, released: Any, version: str, answers: dict[str, str]
) -> None:
    """Renovate and the `make update` of older releases run this."""
    project = start(RELEASES[version], **answers)
    # What that release did not ask yet is answered now.
    update(project, **newly_asked(project, answers))
    assert conflicts(project) == []
    assert tree(project) == tree(released(NEXT, **answers))


def texts(project: Path) -> list[str]:
    """List the files that hold lines, the answers file aside, which is Copier's."""
    listed = [name for name in files(project) if not name.startswith(".git/") and name != ".copier-answers.yml"]
    return [name for name in listed if (project / name).read_bytes()]


@pytest.mark.parametrize("version", RELEASES)
@pytest.mark.parametrize("answers", [{}, EVERYTHING], ids=named)
def test_a_line_at_the_end_of_every_file_merges(
    start: Any, released: Any, merge_into: Any, version: str, answers: dict[str, str]
) -> None:
    """What owners do most."""
    project = start(RELEASES[version], **answers)
    appended = texts(project)
    for name in appended:
        with (project / name).open("a") as file:
            file.write("# a line of the owner's\n")
    commit(project, "our lines")
    merged = merge_into(project, released(RELEASES[version], **answers), released(NEXT, **answers))
    lost = [name for name in appended if "# a line of the owner's" not in (project / name).read_text()]
    assert (lost, sorted(merged.conflicts)) == ([], [])


# What owners do in their first weeks: (file, the line after which it goes, what they write).
EDITS = [
    ("src/my_service/settings.py", "    # Yours:\n", "    warehouse_url: str = 'http://localhost'\n"),
    ("src/my_service/app.py", "    telemetry,\n)\n", "from .orders import routes as orders\n"),
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
        assert anchor in content, f"{name} has no line {anchor!r}"
        before, found, after = content.partition(anchor) if anchor else (content, "", "")
        (project / name).write_text(before + found + text + after)
    (project / "src/my_service/orders").mkdir()
    (project / "src/my_service/orders/__init__.py").touch()
    (project / "src/my_service/orders/routes.py").write_text(ORDERS)
    run("uv", "add", "--quiet", "tenacity", "arrow", cwd=project)
    run("uv", "add", "--quiet", "--dev", "respx", cwd=project)
    run("make", "format", cwd=project)


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
        run("make", "check", cwd=project)
        assert "seeded" in run("make", "seed", cwd=project).stdout


@pytest.mark.parametrize(("name", "choice"), [(name, choice) for name in CHOICES for choice in CHOICES[name][1:]])
def test_an_answer_changes_there_and_back(
    start: Any, released: Any, merge_into: Any, name: str, choice: str
) -> None:
    project, default, chosen = start(NEXT), released(NEXT), released(NEXT, **{name: choice})
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
    (template / "template/src/{{package_name}}/database.py.jinja").open("a").write("\n\nTHEIRS = True\n")
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
    owned = ("src/my_service/items/", "migrations/versions/", "tests/test_items.py")
    kept = {name: content for name, content in tree(project).items() if name.startswith(owned)}
    assert "THEIRS" not in migration.read_text()

    told = make_update(project, f"--data database={after} --yes")
    assert told.returncode == 0, told.stdout + told.stderr
    assert "MissingFileWarning" not in told.stdout + told.stderr
    assert {name: content for name, content in tree(project).items() if name.startswith(owned)} == kept
    # All else is the template's, as ever.
    assert "THEIRS" in (project / "src/my_service/database.py").read_text()
    assert (project / f"src/my_service/{after}.py").exists()


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


def test_an_owners_pipeline_of_the_same_name_is_a_conflict(start: Any) -> None:
    """`ci` is github by default, so a project of before it was asked gets workflows."""
    project = start(RELEASES["1.1.0"])
    own_pipelines(project)
    update(project)
    unmerged = {line.split("\t")[1] for line in run("git", "ls-files", "--unmerged", cwd=project).stdout.splitlines()}
    assert unmerged == {".github/workflows/check-service.yml", ".github/dependabot.yml"}
    for name, text in OWN_PIPELINES.items():
        assert text in (project / name).read_text()
    assert "make check" in (project / ".github/workflows/check-service.yml").read_text()


def test_an_owners_pipelines_stay_where_none_is_asked_for(start: Any) -> None:
    project = start(RELEASES["1.1.0"])
    own_pipelines(project)
    update(project, ci="none")
    assert conflicts(project) == []
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


def test_two_sides_that_meet_show_a_conflict(upstream: Path, start: Any, tmp_path: Path) -> None:
    template = tmp_path / "template"
    fork(upstream, template)
    rewrite(
        template / "template/src/{{package_name}}/settings.py.jinja",
        "port: int = Field(default=8000",
        "port: int = Field(default=8080",
    )
    release(template, "another port")
    project = start(NEXT)
    point_to(project, str(template))
    rewrite(project / "src/my_service/settings.py", "port: int = Field(default=8000", "port: int = Field(default=9000")
    commit(project, "our port")
    told = make_update(project)
    assert told.returncode != 0
    assert "src/my_service/settings.py" in told.stdout
    assert "git add" in told.stdout
    text = (project / "src/my_service/settings.py").read_text()
    assert "default=8080" in text
    assert "default=9000" in text
    assert run("git", "ls-files", "--unmerged", cwd=project).stdout
    assert make_update(project).stderr.startswith("Commit your work first")


def rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def point_to(project: Path, source: str) -> None:
    answers = project / ".copier-answers.yml"
    answers.write_text(re.sub(r"(?m)^_src_path: .*$", f"_src_path: {source}", answers.read_text()))
    commit(project, "the template moved")


def make_update(project: Path, arguments: str = "", target: str = "update") -> subprocess.CompletedProcess[str]:
    return run("make", target, f"ARGS={arguments}", cwd=project, check=False, stdin=subprocess.DEVNULL)


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
    assert run("git", "status", "--porcelain", cwd=project).stdout == ""
    agreed = make_update(project, "--data license=proprietary --yes")
    assert agreed.returncode == 0
    assert not (project / "LICENSE").exists()


@pytest.mark.parametrize(("answer", "kept"), [("n", True), ("", True), ("y", False)])
def test_make_update_asks_at_the_terminal(start: Any, answer: str, kept: bool) -> None:
    project = start(NEXT, license="MIT")
    command = "make update ARGS='--data license=proprietary'; echo status $?"
    typed = run("script", "--quiet", "--return", "--command", command, "/dev/null", cwd=project, input=f"{answer}\n")
    assert "Go on? [y/N]" in typed.stdout
    assert (project / "LICENSE").exists() == kept


BAD_SITUATIONS: list[tuple[str, Callable[[Path], None], str]] = [
    ("no git", lambda project: shutil.rmtree(project / ".git"), "git init && git add ."),
    ("uncommitted work", lambda project: (project / "new.txt").touch(), "Commit your work first"),
    ("no answers", lambda project: forget(project), "git checkout HEAD -- .copier-answers.yml"),
    ("spoilt answers", lambda project: spoil(project), "has no _src_path and _commit"),
    ("relative template", lambda project: point_to(project, "../template"), "relative path: ../template"),
    ("template gone", lambda project: point_to(project, "/nowhere/template"), "no longer at /nowhere/template"),
    ("address gone", lambda project: point_to(project, "file:///nowhere.git"), "fatal: "),
    ("unknown commit", lambda project: forge(project, "0123456"), "nothing was changed"),
    ("older target", lambda project: forge(project, "v1000.0.0"), "nothing was changed"),
]


def forget(project: Path) -> None:
    (project / ".copier-answers.yml").unlink()
    commit(project, "forgot")


def spoil(project: Path) -> None:
    (project / ".copier-answers.yml").write_text("<<<<<<< ours\n")
    commit(project, "spoilt")


def forge(project: Path, ref: str) -> None:
    answers = project / ".copier-answers.yml"
    answers.write_text(re.sub(r"(?m)^_commit: .*$", f"_commit: {ref}", answers.read_text()))
    commit(project, "forged")


@pytest.mark.parametrize(
    ("spoilt", "line"), [pytest.param(spoilt, line, id=name) for name, spoilt, line in BAD_SITUATIONS]
)
def test_a_bad_situation_gets_a_clear_line(start: Any, spoilt: Callable[[Path], None], line: str) -> None:
    project = start(NEXT)
    spoilt(project)
    before = tree_of_all(project)
    told = make_update(project)
    assert told.returncode != 0
    assert line in told.stderr
    assert "Traceback" not in told.stdout + told.stderr
    assert tree_of_all(project) == before


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
