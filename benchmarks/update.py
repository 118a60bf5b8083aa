"""How long `make update` takes: this release's script against that of 1.3.0, in the same projects."""

import os
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import copier
from common import ROOT, report

ANSWERS = {
    "default answers": {},
    "everything": {"database": "postgresql", "cache": "redis", "auth": "jwt", "deploy": "kubernetes", "license": "MIT"},
}
EDITED = ["Makefile", "README.md", ".gitignore", "src/my_service/chassis/health.py", "src/my_service/settings.py"]
ROUNDS = 5


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=bench", "-c", "user.email=bench@example.com", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def upstream(work: Path) -> Path:
    """Clone this repository, with what is not committed yet as its next release."""
    folder = work / "template"
    git(work, "clone", "--quiet", str(ROOT), str(folder))
    for name in ("copier.yml", "includes", "template"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        options = {"dirs_exist_ok": True} if (ROOT / name).is_dir() else {}
        copy(ROOT / name, folder / name, **options)
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", "next")
    git(folder, "tag", "v999.0.0")
    return folder


def project(work: Path, template: Path, answers: dict[str, str]) -> Path:
    """Render release 1.3.0, and edit it as an owner would."""
    folder = work / f"project-{len(answers)}"
    release = git(template, "log", "--format=%H", "--grep=^Release 1.3.0", "-1")
    copier.run_copy(str(template), folder, data=answers, defaults=True, quiet=True, vcs_ref=release)
    for name in EDITED:
        with (folder / name).open("a") as file:
            file.write("# ours\n")
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "start")
    return folder


def seconds(script: Path, original: Path, work: Path) -> float:
    """Update a copy of a project, and return what that took."""
    copy = Path(shutil.copytree(original, work / "copy"))
    started = time.perf_counter()
    command = ["uv", "run", "--quiet", "--script", str(script)]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    took = time.perf_counter() - started
    assert "No conflicts." in done.stdout or "changed the same lines" in done.stdout, done.stdout + done.stderr
    shutil.rmtree(copy)
    return took


def main() -> None:
    rows = [("", "this release", "1.3.0", "ratio", "at most")]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        os.environ["GIT_CONFIG_GLOBAL"] = "/dev/null"
        template = upstream(work)
        ours = ROOT / "template/{{update_script}}.py"
        for name, answers in ANSWERS.items():
            original = project(work, template, answers)
            scripts = (ours, original / "update.py")
            seen = [[seconds(script, original, work) for script in scripts] for _ in range(ROUNDS + 1)][1:]
            new, old = (statistics.median(column) for column in zip(*seen, strict=True))
            rows.append((name, f"{new:.1f} s", f"{old:.1f} s", f"{new / old:.2f}", "5 s"))
    report("update", rows)


if __name__ == "__main__":
    main()
