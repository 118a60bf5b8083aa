"""What an image costs: size, start, memory, rebuilds; and what a copy costs.

Each measure alternates between the generated service and a bare FastAPI
application in an ordinary image (`bare/`), on the same base, in the same run;
what counts is the ratio or the difference of the two medians.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import PYTHON_IMAGE, build, container, docker, medians, projects, report

ROUNDS = 7
# Each round of one dependency more adds another: small, pure Python, and in need of nothing.
SMALL = ["tomli", "toolz", "sortedcontainers", "iniconfig", "tenacity"]


def start(tag: str) -> tuple[float, float]:
    """Run a container; return the seconds to its first response and its memory (RSS) in MB."""
    started = time.perf_counter()
    with container(tag) as (name, _):
        seconds = time.perf_counter() - started
        status = docker("exec", name, "cat", "/proc/1/status")
    (resident,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
    return seconds, int(resident) * 1024 / 1e6


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


def rows(work: Path) -> list[tuple[str, ...]]:
    folders = projects(work)
    packages = {"ours": "my_service", "bare": "bare"}
    found: list[tuple[str, ...]] = [("", "generated", "bare", "ratio", "at most")]
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

    ours, bare = medians(first_answer, ROUNDS)
    found.append(("`docker run` to first response", f"{ours:.2f} s", f"{bare:.2f} s", f"{ours / bare:.2f}", "0.75"))
    resident = {name: statistics.median(values) for name, values in memory.items()}
    above = resident["ours"] - resident["bare"]
    found.append(
        ("memory", f"{resident['ours']:.0f} MB", f"{resident['bare']:.0f} MB", f"{above:+.0f} MB", "+15 MB"),
    )

    nothing, nothing_bare = medians(lambda name: build(folders[name], tags[name]), ROUNDS)

    def rebuild(name: str) -> float:
        edit(folders[name], packages[name])
        return build(folders[name], tags[name])

    edited, edited_bare = medians(rebuild, ROUNDS)
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
    sources = {"ours": work / "template", "bare": single}
    count = iter(range(1000))
    ours, bare = medians(lambda name: copy_seconds(sources[name], work / f"copy-{next(count)}"), ROUNDS)
    found.append(("`copier copy` (bare: one file)", f"{ours:.2f} s", f"{bare:.2f} s", f"{ours / bare:.2f}", "1.5"))
    for tag in tags.values():
        docker("rmi", "--force", tag)
    return found


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as work:
        report("image", rows(Path(work)))
