"""What an image costs: size, start, memory, rebuilds; and what a copy costs.

Each measure alternates between the generated service and a bare FastAPI
application in an ordinary image (`bare/`), on the same base, in the same run;
what counts is the ratio or the difference of the two medians.
"""

import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import copier

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests/standins"))
import standins  # noqa: E402

PYTHON_IMAGE = "python:3.14-slim"
UV_IMAGE = "ghcr.io/astral-sh/uv:0.13.9"
ROUNDS = 7
HARDENED = ["--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--cpus=1"]


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


def start(tag: str) -> tuple[float, float]:
    """Run a container; return the seconds to its first answer and its memory (RSS) in MB."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = time.perf_counter()
    container = docker("run", "--detach", f"--publish=127.0.0.1:{port}:8000", *HARDENED, tag)
    while not answers(port):
        time.sleep(0.005)
    seconds = time.perf_counter() - started
    status = docker("exec", container, "cat", "/proc/1/status")
    docker("rm", "--force", container)
    (resident,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
    return seconds, int(resident) * 1024 / 1e6


def answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as connection:
            connection.sendall(b"GET /health/live HTTP/1.0\r\nHost: localhost\r\n\r\n")
            return b" 200 " in connection.recv(99)
    except OSError:
        return False


def edit(folder: Path, package: str) -> None:
    with (folder / "src" / package / "__init__.py").open("a") as module:
        module.write(f"# {time.time_ns()}\n")


def add_dependency(folder: Path, name: str) -> None:
    project = folder / "pyproject.toml"
    # The comment is new each time: else the engine has this very layer from an earlier run.
    added = f'dependencies = [\n    "{name}",  # {time.time_ns()}\n'
    project.write_text(project.read_text().replace("dependencies = [\n", added, 1))


def copy_seconds(template: Path, destination: Path) -> float:
    started = time.perf_counter()
    command = [sys.executable, "-m", "copier", "copy", "--quiet", "--defaults", str(template), str(destination)]
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def medians(measure: Callable[[str], float], rounds: int = ROUNDS) -> tuple[float, float]:
    """Return the medians of `measure("ours")` and `measure("bare")`, alternated."""
    seen = [(measure("ours"), measure("bare")) for _ in range(rounds)]
    ours, bare = zip(*seen, strict=True)
    return statistics.median(ours), statistics.median(bare)


def rows(work: Path) -> list[tuple[str, str, str, str, str]]:
    for image in (PYTHON_IMAGE, UV_IMAGE):
        standins.ensure(image)
    template = work / "template"
    for name in ("copier.yml", "CHANGELOG.md", "template", "includes"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        template.mkdir(exist_ok=True)
        copy(ROOT / name, template / name)
    folders = {"ours": work / "ours", "bare": work / "bare"}
    packages = {"ours": "my_service", "bare": "bare"}
    copier.run_copy(str(template), folders["ours"], defaults=True, quiet=True)
    shutil.copytree(ROOT / "benchmarks/bare", folders["bare"])

    found = []
    tags = {name: f"copier-fastapi-bench-{name}" for name in folders}
    for name, folder in folders.items():
        build(folder, tags[name])
    base = int(docker("image", "inspect", "--format={{.Size}}", PYTHON_IMAGE))
    sizes = {n: (int(docker("image", "inspect", "--format={{.Size}}", t)) - base) / 1e6 for n, t in tags.items()}
    found.append(("image above its base", f"{sizes['ours']:.1f} MB", f"{sizes['bare']:.1f} MB", "", "40 MB"))

    memory: dict[str, list[float]] = {"ours": [], "bare": []}

    def first_answer(name: str) -> float:
        seconds, resident = start(tags[name])
        memory[name].append(resident)
        return seconds

    ours, bare = medians(first_answer)
    found.append(("`docker run` to first answer", f"{ours:.2f} s", f"{bare:.2f} s", f"{ours / bare:.2f}", "0.75"))
    resident = {name: statistics.median(values) for name, values in memory.items()}
    above = resident["ours"] - resident["bare"]
    found.append(
        ("memory", f"{resident['ours']:.0f} MB", f"{resident['bare']:.0f} MB", f"{above:+.0f} MB", "+10 MB"),
    )

    nothing, nothing_bare = medians(lambda name: build(folders[name], tags[name]))

    def rebuild(name: str) -> float:
        edit(folders[name], packages[name])
        return build(folders[name], tags[name])

    edited, edited_bare = medians(rebuild)
    found.append(("rebuild, nothing changed", f"{nothing:.2f} s", f"{nothing_bare:.2f} s", "", ""))
    found.append(
        (
            "rebuild, one line changed, above that",
            f"{edited - nothing:.2f} s",
            f"{edited_bare - nothing_bare:.2f} s",
            "",
            "0.4 s",
        )
    )

    # Each round adds another small one that is pure Python and needs nothing.
    names = {"ours": list(SMALL), "bare": list(SMALL)}

    def add(name: str) -> float:
        add_dependency(folders[name], names[name].pop())
        # As `uv add` does, and outside what is measured.
        subprocess.run(["uv", "lock", "--quiet"], cwd=folders[name], check=True)
        return build(folders[name], tags[name])

    more, more_bare = medians(add, len(SMALL))
    found.append(
        ("rebuild, one dependency more", f"{more:.2f} s", f"{more_bare:.2f} s", f"{more / more_bare:.2f}", "1.5")
    )

    single = work / "single"
    single.mkdir()
    (single / "copier.yml").write_text("name:\n  type: str\n  default: x\n")
    (single / "file.txt.jinja").write_text("{{ name }}\n")
    sources = {"ours": template, "bare": single}
    count = iter(range(1000))
    ours, bare = medians(lambda name: copy_seconds(sources[name], work / f"copy-{next(count)}"))
    found.append(("`copier copy` (bare: one file)", f"{ours:.2f} s", f"{bare:.2f} s", f"{ours / bare:.2f}", "1.5"))
    for tag in tags.values():
        docker("rmi", "--force", tag)
    return found


SMALL = ["tomli", "toolz", "sortedcontainers", "iniconfig", "tenacity"]


def machine() -> str:
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        "unknown processor",
    )
    engine = docker("version", "--format={{.Server.Version}}")
    image = docker("image", "inspect", f'--format={{{{index .Config.Labels "{standins.LABEL}"}}}}', PYTHON_IMAGE)
    base = "a stand-in for " + PYTHON_IMAGE if image == "true" else PYTHON_IMAGE
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores of {model}, Docker {engine}, on {base}, {time.strftime('%Y-%m-%d')}"


def main() -> None:
    with tempfile.TemporaryDirectory() as work:
        table = [("", "generated", "bare", "ratio", "at most"), ("---",) * 5, *rows(Path(work))]
    report = "\n".join("| " + " | ".join(row) + " |" for row in table)
    print(f"{machine()}\n\n{report}")
    readme = ROOT / "benchmarks/README.md"
    before, marker, _ = readme.read_text().partition("<!-- image -->\n")
    readme.write_text(f"{before}{marker}\nMeasured on {machine()}.\n\n{report}\n")


if __name__ == "__main__":
    main()
