"""The project's commands with Podman: `DOCKER=podman make …`, and plain `podman build`."""

import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import standins
from conftest import copy, free_port, get, run

# What a machine without systemd and nftables needs; elsewhere the engine's own settings would do too.
CONFIGURATION = """
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=1024:1024"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
[network]
firewall_driver = "iptables"
"""


@pytest.fixture
def podman(answers: dict[str, str], template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project, a Podman with its base images, and DOCKER=podman; skipped without Podman unless REQUIRE_PODMAN=1."""
    if not shutil.which("podman"):
        if os.environ.get("REQUIRE_PODMAN") == "1":
            pytest.fail("REQUIRE_PODMAN=1, and podman is not installed")
        pytest.skip("podman is not installed")
    (tmp_path / "containers.conf").write_text(CONFIGURATION)
    if os.getuid() == 0 and shutil.which("runc"):
        monkeypatch.setenv("CONTAINERS_CONF", str(tmp_path / "containers.conf"))
    monkeypatch.setenv("PODMAN_IGNORE_CGROUPSV1_WARNING", "1")
    monkeypatch.setenv("DOCKER", "podman")
    copy(template, tmp_path / "my orders", python_version=answers["python_version"], package_name="podman_orders")
    project = tmp_path / "my orders"
    # One at a time: Podman removes layers of an image that another build is about to use.
    with (standins.CACHE / "podman.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for image in re.findall(r"(?m)^ARG \w+_IMAGE=(.*)$", (project / "Dockerfile").read_text()):
            saved = subprocess.run(["docker", "save", image], capture_output=True, check=True).stdout
            subprocess.run(["podman", "load", "--quiet"], input=saved, capture_output=True, check=True)
        yield project
        remove()


def remove() -> None:
    run("podman", "rm", "--force", "--time=0", "podman-orders", check=False)
    run("podman", "rmi", "--force", "podman-orders", "podman-orders:plain", check=False)


def test_every_command_for_one_container_works_with_podman(podman: Path) -> None:
    port = free_port()
    run("make", "build", cwd=podman)
    assert "HEALTHCHECK" in run("podman", "history", "--no-trunc", "podman-orders").stdout
    for _ in range(2):
        told = run("make", "run", f"PORT={port}", "APP_ENV=test", cwd=podman).stdout
        assert f"started podman-orders; it responds at http://127.0.0.1:{port}/docs" in told
    assert get(f"http://127.0.0.1:{port}/health/ready").status_code == 200
    names = run("podman", "ps", "--all", "--format", "{{.Names}}", "--filter", "name=podman-orders").stdout
    assert names == "podman-orders\n"
    run("podman", "healthcheck", "run", "podman-orders")
    assert '"status":"ok"' in run("make", "probe", cwd=podman).stdout
    shown = run("podman", "inspect", "--format", "{{.HostConfig.ReadonlyRootfs}} {{.Config.User}}", "podman-orders")
    assert shown.stdout == "true 10001:10001\n"
    following = subprocess.Popen(["make", "logs"], cwd=podman, stdout=subprocess.PIPE, text=True)
    run("podman", "stop", "podman-orders")
    assert "Application startup complete" in following.communicate(timeout=60)[0]
    assert run("podman", "inspect", "--format", "{{.State.ExitCode}}", "podman-orders").stdout == "0\n"
    assert run("make", "stop", cwd=podman).stdout == "podman-orders stopped\n"
    assert run("make", "stop", cwd=podman).stdout == ""


def test_a_plain_podman_build_gives_an_image_that_serves(podman: Path) -> None:
    run("podman", "build", "--tag", "podman-orders:plain", ".", cwd=podman)
    port = free_port()
    published = f"127.0.0.1:{port}:8000"
    run("podman", "run", "--detach", "--name", "podman-orders", "--publish", published, "podman-orders:plain")
    assert get(f"http://127.0.0.1:{port}/health/ready").status_code == 200
    assert httpx2.get(f"http://127.0.0.1:{port}/docs").status_code == 200


def test_compose_commands_say_what_podman_lacks(podman: Path, tmp_path: Path) -> None:
    """`podman compose` needs a provider, which may be missing; `make up` names it."""
    (tmp_path / "bin").mkdir()
    for name in ("make", "sh", "sed", "tail", "tr"):
        (tmp_path / "bin" / name).symlink_to(str(shutil.which(name)))
    (tmp_path / "bin/podman").write_text("#!/bin/sh\n[ $1 != compose ]\n")
    (tmp_path / "bin/podman").chmod(0o755)
    environment: dict[str, Any] = {"PATH": str(tmp_path / "bin"), "DOCKER": "podman"}
    failed = run("make", "up", cwd=podman, env=environment, check=False)
    assert failed.returncode != 0
    assert failed.stderr.startswith("podman compose is missing: see ")
