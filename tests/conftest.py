"""What the tests share: renders made once a run, a Docker engine or a reason, small helpers."""

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import copier
import httpx2
import pytest
import quick_renders
import standins
import yaml
from playwright.sync_api import Browser, expect, sync_playwright

ROOT = Path(__file__).parent.parent
RESERVED = (ROOT / "includes/reserved.txt").read_text().split()
quick_renders.install()
# The choices of each question that has some, the first one being its default.
CHOICES = {
    name: list(question["choices"].values() if isinstance(question["choices"], dict) else question["choices"])
    for name, question in yaml.safe_load((ROOT / "copier.yml").read_text()).items()
    if isinstance(question, dict) and "choices" in question
}

# Answers with each feature.
EVERYTHING = {"database": "postgresql", "cache": "redis", "auth": "jwt", "jobs": "postgresql", "deploy": "kubernetes"}

# Text that breaks what quotes it carelessly. The image tests build with it too.
NASTY = {
    "project_name": 'The "Nasty" $HOME \\ #1 {{ 7*7 }} Service',
    "package_name": "nasty_service",
    "project_description": "It's \"quoted\", $(id) `id` ${X} \\n %s #! & <b> 'ü' 😀 : - [x]",
    "author_name": 'Ada, "A" O\'Neil ☃',
    "author_email": "ada+x@example.com",
    "license": "MIT",
}


def run(*command: str | Path, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command as a user would, and show what it printed if it fails."""
    arguments = [str(part) for part in command]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, **options)
    # Seen once in some hundred starts, before the image's own process is there: runc loses its helper.
    if "read init-p" in done.stderr:
        warnings.warn(f"the engine failed to start a container, once more: {' '.join(arguments)}", stacklevel=2)
        done = subprocess.run(arguments, capture_output=True, text=True, check=False, **options)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(arguments)} -> {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def make_check(project: Path, *arguments: str, target: str = "check", **options: Any) -> None:
    """Run `make check`, or a part of it; once more if CPython 3.11 hung.

    Its tracing, which measures coverage, loops forever when the end of a thread that used greenlets is
    handled within another pending call: seen once in some hundred runs with a database, never on 3.12.
    Within a test pytest ends such a run, between two tests nothing does.
    """
    for _ in range(2):
        status, printed = _until_it_hangs("make", target, *arguments, cwd=project, **options)
        if status is not None and "Timeout (0:05:00)!" not in printed:
            break
        warnings.warn(f"a test hung in {project}:\n{printed[-3000:]}", stacklevel=2)
    assert status == 0, printed


def features_only(project: Path, measured: str = "--no-cov") -> str:
    """Return the ARGS with which `make check` leaves out tests of code that is the same for every answer.

    That code is tested, and its coverage measured, in `tests/test_quality.py` and `tests/test_combinations.py`.
    """
    same = sorted(path.relative_to(project) for path in (project / "tests/chassis").glob("test_*.py"))
    return f"ARGS={measured} -n0 {' '.join(f'--ignore={path}' for path in same if path.name != 'test_wall.py')}"


def _until_it_hangs(*command: str, **options: Any) -> tuple[int | None, str]:
    """Run a command for at most ten minutes; return its exit status, or None, and what it printed."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, **options
    )
    try:
        printed, _ = process.communicate(timeout=600)
        return process.returncode, printed
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return None, process.communicate()[0]


def quick_update() -> dict[str, str]:
    """Return an environment in which the renders of an update are quick ones."""
    return {**os.environ, "PYTHONPATH": str(ROOT / "tests/quick")}


def files(folder: Path) -> list[str]:
    """List the files below `folder`, as sorted paths relative to it."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def add_to_app(project: Path, imported: str, *lines: str) -> None:
    """Add an import and lines to the owner's app.py where owners do: below its two `# Yours:`."""
    [app] = [*project.glob("src/*/app.py"), *project.glob("*/app.py")]
    text = app.read_text().replace("\n# Yours:\n", f"\n# Yours:\n{imported}\n")
    app.write_text(
        text.replace("\n    # Yours:\n", "".join(["\n    # Yours:\n", *(f"    {line}\n" for line in lines)]))
    )


def commit(project: Path, message: str) -> None:
    """Commit all that is in `project`, and make a repository of it first where there is none."""
    if not (project / ".git").exists():
        run("git", "init", "--quiet", cwd=project)
    run("git", "add", "--all", cwd=project)
    run("git", "commit", "--quiet", "--allow-empty", "--message", message, cwd=project)


def snapshot(folder: Path) -> None:
    """Clone this repository to `folder`, and commit the working tree on top of its history."""
    run("git", "clone", "--quiet", ROOT, folder)
    for name in run("git", "ls-files", cwd=folder).stdout.splitlines():
        (folder / name).unlink()
    for name in run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).stdout.splitlines():
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    commit(folder, "The working tree")


def modules(project: Path) -> set[str]:
    """Name what an installed project brings, as import and as distribution, and the standard library."""
    program = (
        "import importlib.metadata as m, sys\n"
        "print(*m.packages_distributions(), *sys.stdlib_module_names,"
        "*(d.metadata['Name'].replace('-', '_').lower() for d in m.distributions()))"
    )
    listed = run(project / ".venv/bin/python", "-c", program).stdout.split()
    names = {name for name in listed if name == name.strip("_").lower() and name.isidentifier()}
    return names - {"my_service", "this"}


def uncompiled(image: str, imports: str) -> list[str]:
    """List the standard library's modules that `imports`, a program, loads in an image and that have no bytecode there."""
    program = (
        f"{imports}\n"
        "import os, sys\n"
        "library = os.path.dirname(os.__file__)\n"
        "for module in list(sys.modules.values()):\n"
        "    source, cached = getattr(module, '__file__', None) or '', module.__spec__ and module.__spec__.cached\n"
        "    if source.startswith(library) and source.endswith('.py') and cached and not os.path.exists(cached): print(module)"
    )
    printed = run("docker", "run", "--rm", image, "python", "-c", program).stdout
    # Not to be named in a Dockerfile: what another Python may not have, and what Debian adds in stand-ins.
    private = ("importlib.metadata._", "importlib.resources.", "importlib.readers", "sitecustomize")
    return [line for line in printed.splitlines() if not any(name in line for name in private)]


def inspect(name: str) -> dict[str, Any]:
    """Return what the engine knows of a container or an image."""
    found: list[dict[str, Any]] = json.loads(run("docker", "inspect", name).stdout)
    return found[0]


def state(name: str) -> dict[str, Any]:
    found: dict[str, Any] = inspect(name)["State"]
    return found


def _ports() -> Iterator[int]:
    """Yield every other port of those that no other process of this run asks for, and the kernel gives to nobody."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    own = range(20_000 + worker % 10 * 1000, 21_000 + worker % 10 * 1000, 2)
    start = os.getpid() % len(own)
    return itertools.cycle([*own[start:], *own[:start]])


PORTS = _ports()


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """Return a port that is free, as the next one is, and is given to nobody else."""
    return next(port for port in PORTS if is_free(port) and is_free(port + 1))


def eventually(attempt: Callable[[], Any], seconds: float = 90) -> Any:
    """Return what `attempt` returns, once it no longer raises."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return attempt()
        except (httpx2.TransportError, AssertionError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def run_folder(factory: pytest.TempPathFactory) -> Path:
    """Return the folder that all processes of this run share."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session", autouse=True)
def _isolated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the settings of the machine's user out of every render and every git command."""
    folder = tmp_path_factory.mktemp("isolated")
    compiled = run_folder(tmp_path_factory) / "compiled"
    compiled.mkdir(exist_ok=True)
    (folder / "settings.yml").write_text("{}")
    (folder / "gitconfig").write_text("[user]\nname = Test\nemail = test@example.com\n[init]\ndefaultBranch = main\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COPIER_SETTINGS_PATH", str(folder / "settings.yml"))
        patch.setenv("COPIER_CACHE_DIR", str(folder / "cache"))
        patch.setenv("GIT_CONFIG_GLOBAL", str(folder / "gitconfig"))
        patch.setenv(quick_renders.FOLDER, str(compiled))
        settings = re.findall(r"(?m)^#?([A-Z_]+)=", (ROOT / "template/.env.example.jinja").read_text())
        for name in (*settings, "NAME", "IMAGE", "VERSION", "VIRTUAL_ENV"):
            patch.delenv(name, raising=False)
        # Else every process that the tests start compiles all that it imports.
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        # Else the tests of a project take the rights to the folders above it away from its PostgreSQL.
        patch.setenv("PYTEST_DEBUG_TEMPROOT", str(folder))
        # Else mypy reads the libraries anew for each project. It compares each file with what it knows.
        patch.setenv("MYPY_CACHE_DIR", str(folder / "mypy"))
        # Tests compare modes, and containers read what the tests write.
        os.umask(0o022)
        # Whoever starts the tests in the background may ignore Ctrl-C, and all processes below would too.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # `make test` itself hands these on to every `make` below it.
        for name in ("ARGS", "MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "MFLAGS"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """Return `make_once(name, make)`: a folder that one of all test processes filled by `make(folder)`."""
    base = run_folder(tmp_path_factory)

    def make_once(name: str, make: Callable[[Path], None]) -> Path:
        folder = base / f"shared-{name}"
        with (base / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                partial = base / f"partial-{name}"
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir()
                make(partial)
                partial.rename(folder)
        return folder

    return make_once


@pytest.fixture(scope="session")
def template(shared: Any) -> Path:
    """What Copier reads of this repository, without its history: renders of it are quick."""

    def export(folder: Path) -> None:
        for name in ("copier.yml", "CHANGELOG.md", "template", "includes"):
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)

    return shared("template", export)


@pytest.fixture(scope="session")
def render(shared: Any, template: Path) -> Callable[..., Path]:
    """Return `render(**answers)`: a project with them. Each is made once a run: change a copy only."""

    def rendered(**answers: str) -> Path:
        key = hashlib.sha256(json.dumps(answers, sort_keys=True).encode()).hexdigest()[:12]
        return shared(f"render-{key}", lambda folder: copy(template, folder, **answers))

    return rendered


def copy(template: Path, destination: Path, **answers: str) -> None:
    copier.run_copy(str(template), destination, data=answers, defaults=True, quiet=True)


@pytest.fixture
def project(render: Callable[..., Path], tmp_path: Path) -> Path:
    """A fresh project of default answers, to change at will."""
    return Path(shutil.copytree(render(), tmp_path / "my-service"))


@pytest.fixture(scope="session")
def installed_with(shared: Any, render: Callable[..., Path]) -> Callable[..., Path]:
    """Return `installed_with(**answers)`: a project with them after `make install`; not to be changed."""

    def project(**answers: str) -> Path:
        key = "-".join(["installed", *answers.values()])
        made = shared(key, lambda folder: shutil.copytree(render(**answers), folder / "my-service")) / "my-service"
        # Not in the making: a virtual environment can't be moved.
        with made.parent.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (made / ".venv").exists():
                environment = {name: value for name, value in os.environ.items() if name != "UV_PROJECT_ENVIRONMENT"}
                run("make", "install", cwd=made, env=environment)
        return Path(made)

    return project


@pytest.fixture(scope="session")
def installed(installed_with: Callable[..., Path]) -> Path:
    """A project of default answers after `make install`; not to be changed."""
    return installed_with()


@pytest.fixture(scope="session")
def start_page_project(shared: Any, upstream: Path) -> Path:
    """The service of `web/` after `make install`, built by a clone whose commit is a release; not to be changed."""
    command = [sys.executable, upstream / "web/build.py"]
    project: Path = shared("start-page", lambda folder: run(*command, folder / "web", upstream)) / "web"
    # Not in the making: a virtual environment can't be moved.
    with project.parent.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run("make", "install", cwd=project)
    return project


@pytest.fixture(scope="session")
def start_page(start_page_project: Path) -> Iterator[str]:
    """The address at which that service is served."""
    port = free_port()
    command = [start_page_project / ".venv/bin/python", "-m", "start_page"]
    environment = {**os.environ, "PORT": str(port), "LOG_LEVEL": "error"}
    process = subprocess.Popen(command, cwd=start_page_project, env=environment)
    try:
        get(f"http://127.0.0.1:{port}/health/ready")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def one_environment(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the project of each test that asks for this into the same environment, one after the other.

    What a project and the one before it need stays there, compiled; `uv run` changes the rest.
    """
    monkeypatch.setenv("UV_PROJECT_ENVIRONMENT", str(tmp_path_factory.getbasetemp() / "environment"))


@pytest.fixture(scope="session")
def engine() -> None:
    """A Docker engine answers; else the test is skipped, or fails under REQUIRE_DOCKER=1."""
    if shutil.which("docker") and run("docker", "info", check=False).returncode == 0:
        return
    without_engine("no Docker engine responds")


def without_engine(reason: str) -> NoReturn:
    """Skip the test for `reason`, or fail it under REQUIRE_DOCKER=1."""
    if os.environ.get("REQUIRE_DOCKER") == "1":
        pytest.fail(f"REQUIRE_DOCKER=1, and {reason}")
    pytest.skip(reason)


def at_hand(command: str, *others: str) -> str:
    """Return where a command is, by one of its names; without it the test is skipped, or fails under REQUIRE_DOCKER=1.

    For what .ci/prepare installs.
    """
    found = next(filter(None, map(shutil.which, (command, *others))), None)
    if not found:
        without_engine(f"{command} is not installed")
    return found


@contextlib.contextmanager
def headless_chromium() -> Iterator[Browser]:
    """A Chromium of this machine, not for a whole run: while it is open, nothing else can start an event loop."""
    found = at_hand("chromium", "chromium-browser", "google-chrome")
    # It waits for a condition, and fails late: 5 seconds are few on a busy machine.
    expect.set_options(timeout=60_000)
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=found) as browser:
        yield browser


@pytest.fixture(scope="session")
def promtool() -> str:
    return at_hand("promtool")


@pytest.fixture(scope="session")
def answers(engine: None, render: Any) -> dict[str, str]:
    """Answers whose base images are at hand; for another Python where the default one's is not."""
    for version in ("3.14", "3.13"):
        project = render(**NASTY, python_version=version)
        dockerfile = (project / "Dockerfile").read_text()
        try:
            for image in re.findall(r"(?m)^ARG \w+_IMAGE=(.*)$", dockerfile):
                standins.ensure(image)
        except standins.UnavailableError as reason:
            warnings.warn(f"no image tests with Python {version}: {reason}", stacklevel=1)
        else:
            return {**NASTY, "python_version": version}
    without_engine("no base image can be had")


@pytest.fixture(scope="session")
def image(render: Any, answers: dict[str, str]) -> Iterator[str]:
    """The image of a fresh render, built by the first command that ever ran in it."""
    project = render(**answers)
    before = files(project)
    tag = f"copier-fastapi-test:{os.getpid()}"
    run("docker", "build", f"--tag={tag}", ".", cwd=project)
    assert files(project) == before
    assert "uv.lock" not in before
    yield tag
    run("docker", "rmi", tag, check=False)


@contextlib.contextmanager
def container(image: str, *options: str, command: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """Run a container of `image`; yield its id and, where it serves, its address."""
    port = free_port()
    created = run("docker", "create", "--publish", f"127.0.0.1:{port}:8000", *options, image, *command)
    identifier = created.stdout.strip()
    try:
        run("docker", "start", identifier)
        yield identifier, f"http://127.0.0.1:{port}"
    finally:
        run("docker", "rm", "--force", "--volumes", identifier)


def get(url: str, **options: Any) -> httpx2.Response:
    """GET `url`, waiting until the service is up."""
    return eventually(lambda: httpx2.get(url, **options))
