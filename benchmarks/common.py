"""What the measurements share: two images on one base, the machine, and where a table goes."""

import contextlib
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import copier

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests/standins"))
import standins  # noqa: E402

PYTHON_IMAGE = "python:3.14-slim"
UV_IMAGE = "ghcr.io/astral-sh/uv:0.13.9"
HARDENED = ["--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--cpus=1"]

# The route that both serve: in the generated service as its README shows.
ROUTE = """from fastapi import APIRouter

router = APIRouter(prefix="/v1/hello", tags=["hello"])


@router.get("/{name}")
async def hello(name: str) -> dict[str, str]:
    return {"hello": name}
"""


def docker(*arguments: str, folder: Path | None = None) -> str:
    done = subprocess.run(["docker", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"docker {' '.join(arguments)} failed:\n{done.stderr}")
    return done.stdout.strip()


def build(folder: Path, tag: str) -> float:
    """Build the image in `folder`; return the seconds it took."""
    started = time.perf_counter()
    docker("build", "--quiet", f"--build-arg=PYTHON_IMAGE={PYTHON_IMAGE}", f"--tag={tag}", ".", folder=folder)
    return time.perf_counter() - started


def template(work: Path) -> Path:
    """Copy what Copier reads of this repository, committed or not, into `work`; return where it is."""
    folder = work / "template"
    folder.mkdir(exist_ok=True)
    for name in ("copier.yml", "CHANGELOG.md", "template", "includes"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    return folder


def projects(work: Path, **answers: str) -> dict[str, Path]:
    """Render a service into `work`, and the bare application beside it; have the base images."""
    for image in (PYTHON_IMAGE, UV_IMAGE):
        standins.ensure(image)
    folders = {"ours": work / "ours", "bare": work / "bare"}
    copier.run_copy(str(template(work)), folders["ours"], data=answers, defaults=True, quiet=True)
    shutil.copytree(ROOT / "benchmarks/bare", folders["bare"])
    return folders


def add_route(project: Path) -> None:
    """Give a generated service the route that the bare application has."""
    package = project / "src/my_service"
    (package / "hello.py").write_text(ROUTE)
    app = (package / "app.py").read_text()
    app = app.replace("\n# Yours:\n", "\n# Yours:\nfrom . import hello\n", 1)
    app = app.replace("    # Yours:\n", "    # Yours:\n    app.include_router(hello.router)\n", 1)
    (package / "app.py").write_text(app)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def container(image: str, *options: str) -> Iterator[tuple[str, int]]:
    """Run a hardened container of `image` until it responds; yield its id and its port."""
    port = free_port()
    name = docker("run", "--detach", f"--publish=127.0.0.1:{port}:8000", *HARDENED, *options, image)
    try:
        while not answers(port):
            time.sleep(0.005)
        yield name, port
    finally:
        docker("rm", "--force", name)


def answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as connection:
            connection.sendall(b"GET /health/live HTTP/1.0\r\nHost: localhost\r\n\r\n")
            return b" 200 " in connection.recv(99)
    except OSError:
        return False


def medians(measure: Callable[[str], float], rounds: int) -> tuple[float, float]:
    """Return the medians of `measure("ours")` and `measure("bare")`, alternated."""
    seen = [(measure("ours"), measure("bare")) for _ in range(rounds)]
    ours, bare = zip(*seen, strict=True)
    return statistics.median(ours), statistics.median(bare)


def machine() -> str:
    names = re.findall(r"(?m)^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text())
    engine = docker("version", "--format={{.Server.Version}}")
    label = docker("image", "inspect", f'--format={{{{index .Config.Labels "{standins.LABEL}"}}}}', PYTHON_IMAGE)
    base = "a stand-in for " + PYTHON_IMAGE if label == "true" else PYTHON_IMAGE
    cores = len(os.sched_getaffinity(0))
    processor = names[0] if names else "unknown processor"
    return f"{cores} cores of {processor}, Docker {engine}, on {base}, {time.strftime('%Y-%m-%d')}"


def report(section: str, rows: list[tuple[str, ...]], after: str = "") -> None:
    """Print a table, its first row the head, and write it into README.md below the section's marker."""
    head, *body = rows
    lines = [head, ("---",) * len(head), *body]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    where = machine()
    print(f"{where}\n\n{table}\n")
    readme = ROOT / "benchmarks/README.md"
    text = f"<!-- {section} -->\n\nMeasured on {where}.\n\n{table}\n{after}\n"
    pattern = re.compile(rf"<!-- {section} -->\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    readme.write_text(pattern.sub(lambda _: text, readme.read_text()).rstrip("\n") + "\n")
