"""What a copy writes, and what it does not need."""

import filecmp
import re
import runpy
import shutil
from pathlib import Path
from typing import Any

import copier
import pytest
import yaml
from conftest import EVERYTHING, NASTY, ROOT, commit, files, run, snapshot

EVERY_PROJECT = [
    ".copier-answers.yml",
    ".dockerignore",
    ".editorconfig",
    ".env.example",
    ".gitignore",
    ".pre-commit-config.yaml",
    "AGENTS.md",
    "Dockerfile",
    "Makefile",
    "README.md",
    "compose.yaml",
    "pyproject.toml",
    "update.py",
    "docs/first-resource.md",
    "docs/limits.md",
    "docs/operations.md",
    "docs/recipes.md",
    "docs/runbooks/service.md",
    "docs/streams.md",
    "docs/updates.md",
    "ops/.gitattributes",
    "ops/check.sh",
    "ops/compose.sh",
    "ops/container.sh",
    "ops/dev/__main__.py",
    "ops/dev/environment.py",
    "ops/dev/processes.py",
    "ops/dev/servers.py",
    "ops/feature.py",
    "ops/observe/alerts/service.yaml",
    "ops/observe/compose.yaml",
    "ops/observe/dashboard/dashboard.json",
    "ops/observe/grafana/dashboards/dashboards.yaml",
    "ops/observe/grafana/datasources/datasources.yaml",
    "ops/observe/prometheus.sh",
    "ops/observe/prometheus.yaml",
    "ops/observe/tempo.yaml",
    "ops/project.sh",
    "ops/publish.sh",
    "ops/with-args.sh",
    "ops/words.sh",
    "src/my_service/__init__.py",
    "src/my_service/__main__.py",
    "src/my_service/app.py",
    "src/my_service/chassis/README.md",
    "src/my_service/chassis/__init__.py",
    "src/my_service/chassis/app.py",
    "src/my_service/chassis/buffers.py",
    "src/my_service/chassis/docs.py",
    "src/my_service/chassis/errors.py",
    "src/my_service/chassis/event_loop.py",
    "src/my_service/chassis/feature.py",
    "src/my_service/chassis/health.py",
    "src/my_service/chassis/limits.py",
    "src/my_service/chassis/logs.py",
    "src/my_service/chassis/main.py",
    "src/my_service/chassis/metrics.py",
    "src/my_service/chassis/operations.py",
    "src/my_service/chassis/security.py",
    "src/my_service/chassis/server.py",
    "src/my_service/chassis/service.py",
    "src/my_service/chassis/settings.py",
    "src/my_service/chassis/shutdown.py",
    "src/my_service/chassis/sockets.py",
    "src/my_service/chassis/telemetry.py",
    "src/my_service/settings.py",
    "tests/__init__.py",
    "tests/chassis/__init__.py",
    "tests/chassis/conftest.py",
    "tests/chassis/desk.py",
    "tests/chassis/fixtures.py",
    "tests/chassis/support.py",
    "tests/chassis/test_app.py",
    "tests/chassis/test_docs.py",
    "tests/chassis/test_errors.py",
    "tests/chassis/test_event_loop.py",
    "tests/chassis/test_health.py",
    "tests/chassis/test_logs.py",
    "tests/chassis/test_main.py",
    "tests/chassis/test_security.py",
    "tests/chassis/test_server.py",
    "tests/chassis/test_settings.py",
    "tests/chassis/test_shutdown.py",
    "tests/chassis/test_sockets.py",
    "tests/chassis/test_telemetry.py",
    "tests/chassis/test_wall.py",
    "tests/conftest.py",
    "tests/test_app.py",
    # ci is github by default.
    ".github/dependabot.yml",
    ".github/workflows/check-service.yml",
    ".github/workflows/publish-image.yml",
    ".github/workflows/update-from-template.yml",
    "docs/ci.md",
]


def test_a_plain_copy_writes_these_files(tmp_path: Path) -> None:
    """By Copier alone, without trust."""
    copier.run_copy(str(ROOT), tmp_path / "project", defaults=True, quiet=True, vcs_ref="HEAD")
    assert files(tmp_path / "project") == sorted(EVERY_PROJECT)


@pytest.mark.parametrize("name", ["MIT", "Apache-2.0", "BSD-3-Clause"])
def test_an_open_licence_adds_its_text(render: Any, name: str) -> None:
    project = render(license=name)
    assert files(project) == sorted([*EVERY_PROJECT, "LICENSE"])
    words = {"MIT": "MIT License", "Apache-2.0": "Apache License", "BSD-3-Clause": "BSD 3-Clause"}
    assert words[name] in (project / "LICENSE").read_text()
    assert f'license = "{name}"' in (project / "pyproject.toml").read_text()


@pytest.mark.parametrize("version", ["3.15", "3.13", "3.12", "3.11"])
def test_the_python_version_is_the_images(render: Any, version: str) -> None:
    project = render(python_version=version)
    assert f"PYTHON_IMAGE=python:{version}-slim\n" in (project / "Dockerfile").read_text()
    assert 'requires-python = ">=3.11"' in (project / "pyproject.toml").read_text()


@pytest.mark.parametrize("answers", [{}, EVERYTHING], ids=["default", "everything"])
def test_nothing_is_left_unrendered(render: Any, answers: dict[str, str]) -> None:
    for path in render(**answers).rglob("*"):
        assert "{{" not in str(path)
        if path.is_file():
            # Expressions of workflows stay, ${{ ... }}, of Docker, {{.Name}}, of Grafana, {{label}},
            # and of Prometheus, {{ if ... $labels ... }}.
            text = re.sub(r"'{{ if .* \$labels.*{{ end }}'", "", path.read_text())
            assert not re.search(r"(?<!\$){{(?!\.|\w+}})|{%|{#", text), path


def test_a_plain_copy_is_what_the_tests_render(template: Path, render: Any, tmp_path: Path) -> None:
    """By Copier's own command: the renders of the tests are quicker."""
    answers = {**NASTY, **EVERYTHING}
    first, second = render(**answers), tmp_path / "second"
    given = [f"--data={name}={answer}" for name, answer in answers.items()]
    run("copier", "copy", "--quiet", "--defaults", *given, template, second)
    assert files(first) == files(second)
    assert all(filecmp.cmp(first / name, second / name, shallow=False) for name in files(first))


def test_the_answers_name_the_release(render: Any) -> None:
    newest = re.search(r"(?m)^## (\d+\.\d+\.\d+)$", (ROOT / "CHANGELOG.md").read_text())
    assert newest
    assert f"\ntemplate_release: {newest[1]}\n" in (render() / ".copier-answers.yml").read_text()


def make_new(clone: Path, destination: Path | str, arguments: str = "", check: bool = True) -> Any:
    return run("make", "new", f"DEST={destination}", f"ARGS={arguments}", cwd=clone, check=check)


@pytest.fixture
def clone(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone of this repository as it stands, with work that is not committed yet, and an environment for all tests."""
    monkeypatch.setenv("UV_PROJECT_ENVIRONMENT", str(tmp_path_factory.getbasetemp() / "environment-of-the-template"))
    snapshot(tmp_path / "snapshot")
    run("git", "clone", "--quiet", tmp_path / "snapshot", tmp_path / "clone")
    return tmp_path / "clone"


def test_make_new_records_the_clones_origin(clone: Path, tmp_path: Path) -> None:
    printed = make_new(clone, tmp_path / "orders", "--defaults --data project_name='Order Desk'")
    answers = yaml.safe_load((tmp_path / "orders/.copier-answers.yml").read_text())
    assert answers["project_name"] == "Order Desk"
    assert answers["_src_path"] == str(tmp_path / "snapshot")
    assert answers["_commit"]
    assert f"cd {tmp_path}/orders" in printed.stderr
    assert "Answer a few questions" not in printed.stderr
    assert f"Order Desk, from release {answers['template_release']} of the template, is in" in printed.stderr
    assert "make run" in printed.stderr
    assert "updates fail" not in printed.stderr


def test_make_new_says_that_the_origin_lacks_the_commit(clone: Path, tmp_path: Path) -> None:
    commit(clone, "not pushed")
    assert f"is not in {tmp_path}/snapshot: until it is" in make_new(clone, "../orders", "--defaults").stderr
    run("git", "push", "--quiet", "origin", "HEAD:next", cwd=clone)
    assert "updates fail" not in make_new(clone, "../shop", "--defaults").stderr


def test_make_new_works_in_an_unpacked_archive(clone: Path, tmp_path: Path) -> None:
    shutil.rmtree(clone / ".git")
    make_new(clone, tmp_path / "orders", "--defaults")
    assert (tmp_path / "orders/Dockerfile").exists()


def test_a_package_called_like_the_script_that_updates_it_works(render: Any) -> None:
    project = render(package_name="update")
    assert not (project / "update.py").exists()
    assert run("make", "-n", "update", cwd=project).stdout.rstrip().endswith("--script update_template.py")
    assert run("make", "-n", "add", cwd=project).stdout.rstrip().endswith("feature.py add update_template.py")
    assert (project / "update_template.py").read_text() == (render() / "update.py").read_text()


def test_make_new_without_an_origin_records_the_clone(clone: Path, tmp_path: Path) -> None:
    run("git", "remote", "remove", "origin", cwd=clone)
    make_new(clone, "../orders", "--defaults")
    assert yaml.safe_load((tmp_path / "orders/.copier-answers.yml").read_text())["_src_path"] == str(clone)


def test_make_new_refuses_in_one_line(clone: Path, tmp_path: Path) -> None:
    refused = make_new(clone, tmp_path / "orders", "--defaults --data package_name=Order", check=False)
    assert refused.returncode != 0
    assert "Such as: order_desk" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / "orders").exists()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("--data licence=MIT", "There is no question licence"),
        ("--data=licence=MIT", "There is no question licence"),
        ("-dlicence=MIT", "There is no question licence"),
        ("-d _commit=1", "There is no question _commit"),
        ("--data-file answers.yml", "There is no question licence"),
        ("--data-file none.yml", "none.yml can't be read"),
        ("--data-file words.yml", "words.yml can't be read, or has no lines such as"),
        ("--data-file number.yml", "There is no question 1"),
        ("--data license", "--data takes a name and a value"),
        ("--data =MIT", "--data takes a name and a value"),
        ("--data", "--data takes a name and a value"),
    ],
)
def test_make_new_refuses_what_answers_no_question(
    arguments: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "answers.yml").write_text("project_name: Shop\nlicence: MIT\n")
    (tmp_path / "number.yml").write_text("1: MIT\n")
    (tmp_path / "words.yml").write_text("license MIT\n")
    monkeypatch.chdir(tmp_path)
    main = runpy.run_path(str(ROOT / "new.py"))["main"]
    with pytest.raises(SystemExit, match=f"^Nothing was written. {line}.*$"):
        main("orders", "--defaults", *arguments.split())
    assert files(tmp_path) == ["answers.yml", "number.yml", "words.yml"]


def test_make_new_keeps_what_is_there(clone: Path, tmp_path: Path) -> None:
    (tmp_path / "orders").mkdir()
    (tmp_path / "orders/README.md").write_text("mine")
    refused = make_new(clone, tmp_path / "orders", "--defaults", check=False)
    assert refused.returncode != 0
    assert "is not empty" in refused.stderr
    assert files(tmp_path / "orders") == ["README.md"]


def test_make_new_needs_a_destination(clone: Path) -> None:
    refused = run("make", "new", cwd=clone, check=False)
    assert refused.returncode != 0
    assert "make new DEST=../my-service" in refused.stderr
