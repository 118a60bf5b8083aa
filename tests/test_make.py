"""The project's commands: missing tools are reported, and variables are text."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import at_hand, run

# What `make` itself and its recipes need.
BASICS = ["sh", "sed", "tail", "awk", "git", "env", "make", "dirname", "readlink", "tr", "xargs"]


@pytest.fixture
def bare_path(tmp_path: Path) -> Path:
    """A PATH with neither Docker nor uv."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in BASICS:
        (folder / name).symlink_to(str(shutil.which(name)))
    # Not the PATH's: it may be a launcher that looks for itself there.
    (folder / "python3").symlink_to(os.path.realpath(sys.executable))
    return folder


@pytest.mark.parametrize("target", ["build", "run", "stop", "probe", "logs", "up", "down", "publish"])
def test_a_missing_docker_is_reported_in_one_line(project: Path, bare_path: Path, target: str) -> None:
    failed = run("make", target, cwd=project, env={"PATH": str(bare_path)}, check=False)
    assert failed.returncode != 0
    assert failed.stdout == ""
    assert failed.stderr.splitlines()[0].startswith("docker is not installed: see ")
    assert all(line.startswith("make") for line in failed.stderr.splitlines()[1:])


@pytest.mark.parametrize("port", ["abc", "", "0", "65536", "0.0.0.0:", "8000 --privileged"])
@pytest.mark.parametrize("target", ["run", "dev"])
def test_a_bad_port_is_reported_before_anything_happens(project: Path, bare_path: Path, target: str, port: str) -> None:
    for tool in ("docker", "uv"):
        (bare_path / tool).write_text("#!/bin/sh\n[ $1 = info ] || touch called\n")
        (bare_path / tool).chmod(0o755)
    failed = run("make", target, f"PORT={port}", cwd=project, env={"PATH": str(bare_path)}, check=False)
    assert failed.returncode != 0
    assert failed.stderr.startswith("PORT should be a number from 1 to 65535 such as 8000")
    assert not (project / "called").exists()


@pytest.mark.parametrize("name", ["a b", "", "a", "-x", "orders;id"])
@pytest.mark.parametrize("target", ["run", "stop"])
def test_a_bad_name_is_reported_before_anything_happens(project: Path, bare_path: Path, target: str, name: str) -> None:
    (bare_path / "docker").write_text("#!/bin/sh\n[ $1 = info ] || touch called\n")
    (bare_path / "docker").chmod(0o755)
    failed = run("make", target, f"NAME={name}", cwd=project, env={"PATH": str(bare_path)}, check=False)
    assert failed.returncode != 0
    assert failed.stderr.startswith("NAME should be a name for the container, such as my-service-test")
    assert not (project / "called").exists()


def test_an_engine_that_is_down_is_reported_in_one_line(project: Path, bare_path: Path) -> None:
    client = bare_path / "docker"
    client.write_text("#!/bin/sh\necho 'Cannot connect' >&2; exit 1\n")
    client.chmod(0o755)
    failed = run("make", "build", cwd=project, env={"PATH": str(bare_path)}, check=False)
    assert failed.returncode != 0
    assert failed.stderr.splitlines()[0].startswith("no Docker engine responds: ")


def test_a_missing_uv_is_installed_with_pip(project: Path, bare_path: Path) -> None:
    run("make", "lock", cwd=project, env={**os.environ, "PATH": str(bare_path)})
    assert (project / ".uv/bin/uv").exists()
    assert (project / "uv.lock").exists()


def test_a_missing_python_is_reported_in_one_line(project: Path, bare_path: Path) -> None:
    (bare_path / "python3").unlink()
    failed = run("make", "lock", cwd=project, env={"PATH": str(bare_path)}, check=False)
    assert failed.returncode != 0
    assert failed.stderr.splitlines()[0].startswith("python3 is not installed: see ")


# --- Variables are text -----------------------------------------------------------------------------------------------

EVIL = [
    "x; touch pwned; $(shell touch pwned) $(touch pwned) `touch pwned` && touch pwned | touch pwned",
    "x'; touch pwned; $(shell touch pwned) '",
    'x"; touch pwned; `touch pwned`; $(shell touch pwned) "',
    "x\ntouch pwned\n",
]
VARIABLES = {
    "build": ["IMAGE", "ARGS", "VERSION", "REVISION", "DOCKER"],
    "run": ["NAME", "PORT", "IMAGE", "ARGS", "APP_ENV", "LOG_LEVEL", "DOCKER", "DATABASE_URL"],
    "stop": ["NAME", "DOCKER"],
    "probe": ["NAME", "DOCKER"],
    "logs": ["NAME", "DOCKER"],
    "up": ["PORT", "APP_ENV", "LOG_LEVEL", "DOCKER"],
    "down": ["ARGS", "DOCKER"],
    "publish": ["ARGS", "TAG", "SOURCE", "VERSION", "REPOSITORY", "DOCKER"],
    "sign": ["REPOSITORY"],
    "deploy": ["OVERLAY", "IMAGE"],
    "rollback": ["OVERLAY"],
    "test": ["ARGS"],
    "test-own": ["ARGS"],
    "lock": ["ARGS"],
    "add": ["FEATURE", "ARGS"],
    "remove": ["FEATURE", "ARGS"],
    "update": ["ARGS"],
    "dev": ["PORT", "SCOPES", "DATABASE_URL"],
    "seed": ["APP_ENV"],
    "migration": ["m"],
    "api-key": ["NAME"],
}
STUB = """#!/bin/sh
for argument; do printf '%s\\0' "$argument"; done >>"$CALLS"
printf '\\n' >>"$CALLS"
case $1 in ps) echo 1a2b ;; get) echo '{"minor": "34"}' ;; exec) echo '{"status":"ok"}' ;; esac
"""


@pytest.fixture
def called(bare_path: Path, render: Callable[..., Path]) -> Callable[..., list[list[str]]]:
    """Return `called(target, way, NAME=…)`: what make calls, by stand-ins for each tool, in a folder with a bad name."""
    for name in ("docker", "uv", "kubectl", "cosign"):
        (bare_path / name).write_text(STUB)
        (bare_path / name).chmod(0o755)
    for name in ("sleep", "seq", "head", "mkdir", "chmod", "mktemp", "rm", "cat", "touch", "cp", "grep"):
        (bare_path / name).symlink_to(str(shutil.which(name)))
    folder = bare_path.parent / 'o\'neil "x" ;touch pwned; $(touch pwned) ü'
    shutil.copytree(render(database="postgresql", auth="api-key", deploy="kubernetes"), folder)
    (folder / "dist").mkdir()
    (folder / "dist/image.json").write_text('{"containerimage.digest": "sha256:ab"}')
    calls = bare_path.parent / "calls"

    def make(target: str, way: str = "command line", **variables: str) -> list[list[str]]:
        calls.write_text("")
        given = [f"{name}={value}" for name, value in variables.items()] if way == "command line" else []
        environment = {**(variables if way == "environment" else {}), "PATH": str(bare_path), "CALLS": str(calls)}
        run("make", target, *given, cwd=folder, env=environment, check=False)
        assert not list(bare_path.parent.rglob("pwned"))
        return [line.split("\0") for line in calls.read_text().split("\0\n") if line]

    return make


@pytest.mark.parametrize("way", ["command line", "environment"])
@pytest.mark.parametrize(("target", "variable"), [(target, name) for target in VARIABLES for name in VARIABLES[target]])
def test_no_variable_runs_a_command(called: Any, target: str, variable: str, way: str) -> None:
    for value in EVIL:
        called(target, way, **{variable: value})


@pytest.mark.parametrize("way", ["command line", "environment"])
def test_a_variable_reaches_the_command_unchanged(called: Any, way: str) -> None:
    text = """it's "a price"; $(x) `y` $z *"""
    assert called("migration", way, m=text)[0][-1] == text
    assert called("build", way, IMAGE=text)[-1][1:3] == ["--tag", text]
    assert ["--env", "APP_ENV"] in [
        line[i : i + 2] for line in called("run", way, APP_ENV=text) for i in range(len(line))
    ]
    assert "-it's" in called("api-key", "command line", NAME="-it's")[-1]
    assert called("api-key", "environment", NAME="the machine's")[-1][-1] == ""


def test_args_are_split_into_arguments_and_quotes_group_them(called: Any) -> None:
    words = ["-k", "a or b", "it's", "$(id)", ";", "`id`", "*", "", "ü"]
    given = """-k 'a or b' "it's" $(id) ; `id` * '' ü"""
    assert called("test", ARGS=given) == [["run", "pytest", "-n", "auto", "--dist", "loadfile", *words]]
    assert called("test-own", ARGS=given) == [["run", "pytest", "--no-cov", "--ignore=tests/chassis", *words]]
    assert called("lock", ARGS=given) == [["lock", *words]]
    assert called("build", ARGS=given)[-1][-len(words) - 1 :] == [*words, "."]
    ran = [line for line in called("run", IMAGE="desk:1", ARGS=given) if line[0] == "run"]
    assert [line[-len(words) - 1 :] for line in ran] == [[*words, "desk:1"]]
    assert called("down", ARGS=given)[-1] == ["compose", "down", "--remove-orphans", *words]


def test_the_tests_run_in_one_process_if_redis_url_names_a_redis(installed_with: Any) -> None:
    """Each process needs a Redis of its own."""
    installed = installed_with(database="sqlite", cache="redis", auth="api-key")
    program = "from tests.chassis.fixtures import pytest_xdist_auto_num_workers as workers; print(workers())"
    told = [
        run(installed / ".venv/bin/python", "-c", program, cwd=installed, env={**os.environ, **given}).stdout
        for given in ({}, {"REDIS_URL": "redis://127.0.0.1"})
    ]
    assert told == [f"{min(os.cpu_count() or 1, 4)}\n", "0\n"]


@pytest.mark.parametrize("text", ["-k 'a", 'a "b', "it's"])
def test_args_with_an_unclosed_quote_are_refused(project: Path, text: str) -> None:
    refused = run("make", "test", f"ARGS={text}", cwd=project, check=False)
    assert refused.returncode != 0
    assert (
        refused.stderr.splitlines()[0]
        == f"""ARGS has an unclosed quote or a lone backslash, unlike ARGS="-k 'a or b'": {text}"""
    )


def test_a_port_in_env_is_text(project: Path, bare_path: Path) -> None:
    for tool in ("docker", "uv"):
        (bare_path / tool).write_text("#!/bin/sh\n[ $1 = info ] || echo called\n")
        (bare_path / tool).chmod(0o755)
    for value in ("$(touch pwned)", "`touch pwned`", ";touch pwned", "'8000;touch pwned'", '"$(shell touch pwned)"'):
        (project / ".env").write_text(f"PORT={value}\nAPP_ENV={value}\n")
        for target in ("run", "dev"):
            failed = run("make", target, cwd=project, env={"PATH": str(bare_path)}, check=False)
            assert failed.stderr.startswith("PORT should be a number from 1 to 65535 such as 8000")
        assert not (project / "pwned").exists()


def test_make_works_if_the_folder_of_uv_has_a_space(project: Path, tmp_path: Path) -> None:
    tools = tmp_path / "my tools"
    tools.mkdir()
    (tools / "uv").symlink_to(str(shutil.which("uv")))
    run("make", "lock", cwd=project, env={**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"})
    assert (project / "uv.lock").exists()
    assert not (project / ".uv").exists()


def test_a_project_in_a_folder_with_any_name_passes_its_checks(render: Any, tmp_path: Path) -> None:
    project = Path(shutil.copytree(render(), tmp_path / 'o\'neil "x" ;$(id) ü'))
    run("make", "check", "ARGS=-k 'health or settings' --no-cov -n0", cwd=project)


def test_make_observe_replaces_prometheus_once_a_rule_was_edited(project: Path, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    real = at_hand("docker")
    # What compose would start; no engine is asked.
    shim = f"#!/bin/sh\ncase $* in *--build*) exec '{real}' compose config --output '{tmp_path}/shown' ;; esac\n"
    (tools / "docker").write_text(shim)
    (tools / "docker").chmod(0o755)

    def prometheus() -> Any:
        run("make", "observe", cwd=project, env={**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"})
        return yaml.safe_load((tmp_path / "shown").read_text())["services"]["prometheus"]

    before = prometheus()
    assert prometheus() == before
    rules = project / "ops/observe/alerts/service.yaml"
    rules.write_text(rules.read_text().replace("vector(0.999)", "vector(0.99)"))
    assert prometheus() != before
