"""What an update brings, and what it leaves alone: from every release to the working tree."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
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
    copier.run_update(str(project), data=data, defaults=True, overwrite=True, quiet=True)


def tree_of_all(project: Path) -> dict[str, bytes]:
    return {name: (project / name).read_bytes() for name in files(project) if not name.startswith(".git/")}


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


@pytest.mark.parametrize("version", RELEASES)
@pytest.mark.parametrize(
    "answers",
    [{}, NASTY, {"package_name": "update"}, *SINGLE_ANSWERS],
    ids=lambda answers: "-".join(answers.values())[-40:],
)
def test_an_unedited_project_becomes_a_fresh_copy(
    start: Any, released: Any, version: str, answers: dict[str, str]
) -> None:
    project = start(RELEASES[version], **answers)
    recorded = yaml.safe_load((project / ".copier-answers.yml").read_text())
    # What that release did not ask yet is answered now.
    update(project, **{name: answer for name, answer in answers.items() if name not in recorded})
    assert conflicts(project) == []
    assert tree(project) == tree(released(NEXT, **answers))


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
def test_an_edited_project_keeps_every_edit(start: Any, version: str) -> None:
    project = start(RELEASES[version])
    edit(project)
    commit(project, "our work")
    before = tree(project)
    update(project)
    assert conflicts(project) == []
    after = tree(project)
    for name, _, text in EDITS:
        kept = after[name].decode().replace('"', "'")
        assert text.replace('"', "'") in kept, name
    for name in ("src/my_service/orders/__init__.py", "src/my_service/orders/routes.py"):
        assert after[name] == before[name]
    assert after["uv.lock"] == before["uv.lock"]
    for dependency in ("tenacity", "arrow", "respx"):
        assert f'"{dependency}>='.encode() in after["pyproject.toml"]
    # `make update` does, where the template's dependencies changed.
    run("make", "lock", cwd=project)
    run("make", "check", cwd=project)
    assert "seeded" in run("make", "seed", cwd=project).stdout


@pytest.mark.parametrize(("name", "choice"), [(name, choice) for name in CHOICES for choice in CHOICES[name][1:]])
def test_an_answer_changes_there_and_back(start: Any, released: Any, name: str, choice: str) -> None:
    project = start(NEXT)
    update(project, **{name: choice})
    assert conflicts(project) == []
    assert tree(project) == tree(released(NEXT, **{name: choice}))
    commit(project, "there")
    update(project, **{name: CHOICES[name][0]})
    assert tree(project) == tree(released(NEXT))


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


def test_switching_on_again_makes_what_was_switched_off(start: Any, released: Any) -> None:
    project = start(NEXT, database="sqlite")
    for database in ("none", "postgresql"):
        update(project, database=database)
        assert tree(project) == tree(released(NEXT, database=database))
        commit(project, database)


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


# Files of one form on both sides: plain, so that a line of the template is the project's line.
PLAIN = [
    ".gitignore",
    "src/{{package_name}}/health.py",
    "src/{{package_name}}/errors.py",
    "src/{{package_name}}/shutdown.py",
    ".editorconfig",
]
CHANGE = st.tuples(st.sampled_from(PLAIN), st.sampled_from(["insert", "replace", "delete"]), st.integers(0, 10_000))


def change(path: Path, kind: str, position: int, token: str) -> tuple[str, str]:
    """Change one line of a file; return the line that came and the one that went, where there is one."""
    lines = path.read_text().splitlines()
    position %= len(lines)
    gone = "" if kind == "insert" else lines[position]
    lines[position : position + (kind != "insert")] = [] if kind == "delete" else [token]
    path.write_text("\n".join(lines) + "\n")
    return ("" if kind == "delete" else token), gone


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(
    theirs=st.lists(CHANGE, min_size=1, max_size=6),
    ours=st.lists(CHANGE, min_size=1, max_size=6),
    removed=st.sampled_from(["", "AGENTS.md", "tests/test_logs.py"]),
)
def test_no_edit_is_ever_lost_in_silence(
    upstream: Path,
    released: Any,
    tmp_path_factory: pytest.TempPathFactory,
    theirs: list[Any],
    ours: list[Any],
    removed: str,
) -> None:
    folder = tmp_path_factory.mktemp("random")
    template = folder / "template"
    fork(upstream, template)
    for index, (name, kind, position) in enumerate(theirs):
        change(template / "template" / name, kind, position, f"# theirs {index}")
    release(template, "template's changes")

    project = Path(shutil.copytree(released(NEXT), folder / "project"))
    answers = project / ".copier-answers.yml"
    answers.write_text(answers.read_text().replace(str(upstream), str(template)))
    edited: list[tuple[str, str, str]] = []
    for index, (name, kind, position) in enumerate(ours):
        local = name.replace("{{package_name}}", "my_service")
        edited.append((local, *change(project / local, kind, position, f"# ours {index}")))
    (project / "src/my_service/mine.py").write_text("# mine\n")
    if removed:
        (project / removed).unlink()
    commit(project, "our work")
    before = tree(project)

    update(project)
    after = tree(project)
    assert after["src/my_service/mine.py"] == b"# mine\n"
    assert removed not in after
    for name, came, gone in edited:
        was, now = before[name].decode().splitlines(), after[name].decode().splitlines()
        if came in was:
            assert came in now, f"lost: {came} of {name}"
        if gone and gone not in was and gone in now:
            assert "<<<<<<< before updating" in now, f"came back: {gone} in {name}"


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
