"""The project's commands where a tool is missing."""

import os
import shutil
import sys
from pathlib import Path

import pytest
from conftest import run

# What `make` itself and its recipes need.
BASICS = ["sh", "sed", "tail", "awk", "git", "env", "make", "dirname", "readlink", "tr"]


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
def test_no_docker_is_told_in_one_line(project: Path, bare_path: Path, target: str) -> None:
    failed = run("make", target, cwd=project, env={"PATH": str(bare_path)}, check=False)
    assert failed.returncode != 0
    assert failed.stdout == ""
    assert failed.stderr.splitlines()[0].startswith("docker is not installed: see ")
    assert all(line.startswith("make") for line in failed.stderr.splitlines()[1:])


@pytest.mark.parametrize("port", ["abc", "", "0", "65536", "0.0.0.0:", "8000 --privileged"])
@pytest.mark.parametrize("target", ["run", "dev"])
def test_a_bad_port_is_told_before_anything_happens(project: Path, bare_path: Path, target: str, port: str) -> None:
    for tool in ("docker", "uv"):
        (bare_path / tool).write_text("#!/bin/sh\n[ $1 = info ] || touch called\n")
        (bare_path / tool).chmod(0o755)
    failed = run("make", target, f"PORT={port}", cwd=project, env={"PATH": str(bare_path)}, check=False)
    assert failed.returncode != 0
    assert failed.stderr.startswith("PORT is a number such as 8000")
    assert not (project / "called").exists()


@pytest.mark.parametrize("name", ["a b", "", "a", "-x", "orders;id"])
@pytest.mark.parametrize("target", ["run", "stop"])
def test_a_bad_name_is_told_before_anything_happens(project: Path, bare_path: Path, target: str, name: str) -> None:
    (bare_path / "docker").write_text("#!/bin/sh\n[ $1 = info ] || touch called\n")
    (bare_path / "docker").chmod(0o755)
    failed = run("make", target, f"NAME={name}", cwd=project, env={"PATH": str(bare_path)}, check=False)
    assert failed.returncode != 0
    assert failed.stderr.startswith("NAME is the container's name, such as my-service-test")
    assert not (project / "called").exists()


def test_no_engine_is_told_in_one_line(project: Path, bare_path: Path) -> None:
    client = bare_path / "docker"
    client.write_text("#!/bin/sh\necho 'Cannot connect' >&2; exit 1\n")
    client.chmod(0o755)
    failed = run("make", "build", cwd=project, env={"PATH": str(bare_path)}, check=False)
    assert failed.returncode != 0
    assert failed.stderr.splitlines()[0].startswith("no Docker engine answers: ")


def test_no_uv_is_mended_by_pip(project: Path, bare_path: Path) -> None:
    run("make", "lock", cwd=project, env={**os.environ, "PATH": str(bare_path)})
    assert (project / ".uv/bin/uv").exists()
    assert (project / "uv.lock").exists()


def test_no_uv_and_no_python_is_told_in_one_line(project: Path, bare_path: Path) -> None:
    (bare_path / "python3").unlink()
    failed = run("make", "lock", cwd=project, env={"PATH": str(bare_path)}, check=False)
    assert failed.returncode != 0
    assert failed.stderr.splitlines()[0].startswith("python3 is not installed: see ")
