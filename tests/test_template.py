"""The template itself: it stays readable, and the documents know it."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, commit, run

TEMPLATE = ROOT / "template"
CONFIG = yaml.safe_load((ROOT / "copier.yml").read_text())
SOURCES = [path for path in TEMPLATE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]


def test_about_a_dozen_files_hold_a_condition() -> None:
    conditional = [path for path in SOURCES if re.search(r"{%-?\s*if", path.read_text())]
    assert len(conditional) <= 14


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(TEMPLATE)))
def test_jinja_is_easy_to_read(path: Path) -> None:
    text = path.read_text()
    assert "{%" not in str(path.relative_to(TEMPLATE))
    if path.suffix != ".jinja":
        assert not re.search(r"(?<!\$){{(?!\.)|{%|{#", text), "Jinja in a file that is not rendered"
        return
    assert re.search(r"{{|{%", text), "the suffix, and nothing to render"
    assert "{%-" not in text
    assert not re.search(r"{%-?\s*elif", text)
    depth = 0
    for line in text.splitlines():
        if "{%" in line:
            assert re.fullmatch(r"\s*{% .* %}", line), f"a tag shares its line: {line}"
            depth += ("{% if" in line) - ("{% endif" in line)
            assert depth <= 1, "conditions are nested"


def test_python_modules_read_without_rendering() -> None:
    run(
        "ruff", "check", "--isolated", "--select=E,F,I,B,UP,SIM", "--ignore=E501", "--line-length=100", TEMPLATE / "src"
    )


def test_the_template_runs_no_code_that_needs_trust() -> None:
    assert not {"_tasks", "_migrations", "_jinja_extensions"} & CONFIG.keys()


def test_every_excluded_path_exists() -> None:
    for entry in CONFIG["_exclude"]:
        for name in re.sub(r"{%.*?%}|{{.*?}}", "", entry).split():
            found = [*TEMPLATE.glob(name.strip("/")), *TEMPLATE.glob(name.strip("/") + ".jinja")]
            assert found, entry


def test_the_readme_lists_every_question() -> None:
    readme = (ROOT / "README.md").read_text()
    for name, question in CONFIG.items():
        if not name.startswith("_") and question.get("when") is not False:
            assert f"| `{name}` |" in readme


def test_no_lock_and_no_address_of_a_registry_is_committed() -> None:
    tracked = run("git", "ls-files", cwd=ROOT).stdout.split()
    assert not [name for name in tracked if name.endswith("uv.lock")]
    hosts = ("pypi" + ".org", "files." + "pythonhosted", "deb." + "debian", "registry." + "npmjs")
    for name in tracked:
        text = (ROOT / name).read_text(errors="ignore") if (ROOT / name).exists() else ""
        assert not [host for host in hosts if host in text], name


def test_each_release_without_a_tag_gets_one(tmp_path: Path) -> None:
    """At the commit that brought its heading; what has a tag keeps it, and a second run changes nothing."""
    work, tag = tmp_path / "work", ROOT / ".ci/tag-releases"
    run("git", "init", "--quiet", "--bare", tmp_path / "hub.git")
    run("git", "clone", "--quiet", tmp_path / "hub.git", work)
    commits = {}
    for version in ("1.0.0", "1.1.0", "1.10.0"):
        older = (work / "CHANGELOG.md").read_text() if commits else ""
        (work / "CHANGELOG.md").write_text(f"## {version}\n\n- News of {version}\n\n{older}")
        commit(work, f"Release {version}")
        commits[f"v{version}"] = run("git", "rev-parse", "HEAD", cwd=work).stdout.strip()
        (work / "CHANGELOG.md").write_text((work / "CHANGELOG.md").read_text() + "\n")
        commit(work, "Later work")
    commits["v1.0.0"] = run("git", "rev-parse", "HEAD", cwd=work).stdout.strip()
    run("git", "tag", "v1.0.0", cwd=work)
    run("git", "push", "--quiet", "origin", "HEAD", "v1.0.0", cwd=work)
    assert len(run(tag, cwd=work).stdout.splitlines()) == 2
    assert run(tag, cwd=work).stdout == ""
    listed = run(
        "git", "for-each-ref", "--format=%(refname:short) %(objectname)", "refs/tags", cwd=tmp_path / "hub.git"
    )
    assert dict(line.split() for line in listed.stdout.splitlines()) == commits


def test_every_file_of_tests_is_run() -> None:
    """`testpaths` names them in the order in which a user meets things."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        named = tomllib.load(file)["tool"]["pytest"]["testpaths"]
    assert sorted(named) == sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("tests/test_*.py"))
