# /// script
# requires-python = ">=3.11"
# dependencies = ["copier>=9.18"]
# ///
"""`make update`: bring the template's news into this project, and lose nothing.

Copier merges what changed in the template with what you changed here. This script
tries it in a copy first: so nothing is touched where it can't work, and what a
switched-off feature would delete is listed before it is gone.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

import yaml

ANSWERS = ".copier-answers.yml"
# The first words of the template's closing message: what stands before them is news.
CLOSING = "Review what changed"


def main(*arguments: str) -> int:
    """Update, or with `--check` only tell; the rest of `arguments` is for `copier update`."""
    check = "--check" in arguments
    agreed = "--yes" in arguments
    ours = ("--check", "--yes", "--defaults")
    arguments = tuple(argument for argument in arguments if argument not in ours)

    top = repository()
    before = answers()
    if not check:
        refuse_uncommitted()
    with tempfile.TemporaryDirectory(prefix="update.") as folder:
        trial = Path(folder) / "trial"
        git("clone", "--quiet", "--shared", "--no-tags", str(top), str(trial))
        trial /= Path.cwd().relative_to(top)
        news = copier_update(trial, arguments)
        after = answers(trial)
        refuse_unasked(arguments, {**before, **after}, before.get("package_name"))
        deleted = git("diff", "--name-only", "--diff-filter=D", "HEAD", at=trial).splitlines()
        changed = git("status", "--porcelain", at=trial)

    old, new = before.get("template_release", "?"), after.get("template_release", "?")
    if check and old != new:
        fail(f"Template release {new} is out, this project has {old}: `make update` brings it.")
    if check or not changed:
        print(f"Up to date with template release {new}.")
        return 0

    if news:
        print(news.strip(), end="\n\n")
    if deleted and not agreed:
        confirm(deleted)
    copier_update(Path.cwd(), arguments)
    return report(old, new)


def report(old: str, new: str) -> int:
    conflicts = sorted({line.split("\t")[1] for line in git("ls-files", "--unmerged").splitlines()})
    rejected = git("ls-files", "--others", "--", "*.rej").splitlines()
    print(f"Updated from template release {old} to {new}." if old != new else "Updated.")
    if conflicts or rejected:
        print(
            "Both sides changed the same lines of:",
            *(f"  {name}" for name in conflicts + rejected),
            sep="\n",
        )
        lock = " `make lock`," if Path("uv.lock").exists() else ""
        print(
            "Choose between the markers `<<<<<<<` and `>>>>>>>`, `git add` the files,"
            f"{lock} then commit."
        )
        print("Or take it all back: git reset --hard && git clean -d --force --interactive")
        return 1
    if Path("uv.lock").exists():
        subprocess.run([os.environ.get("UV", "uv"), "lock", "--quiet"], check=True)
    print("No conflicts. Look through it with `git diff`, run `make check`, then commit.")
    return 0


def repository() -> Path:
    """Return the top folder of the git repository around this project."""
    found = subprocess.run(
        ["git", "rev-parse", "--show-toplevel", "--verify", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode != 0:
        fail(
            "An update tells your work from the template's by git, and nothing is committed here:",
            "  git init && git add . && git commit -m 'Start the service'",
        )
    return Path(found.stdout.splitlines()[0])


def refuse_uncommitted() -> None:
    if changed := git("status", "--porcelain").splitlines():
        shown = [f"  {line}" for line in changed[:10]]
        fail(
            "Commit your work first, so that the update can be looked through and taken back:",
            *shown,
        )


def refuse_unasked(arguments: tuple[str, ...], known: dict[str, Any], package: str | None) -> None:
    for flag, argument in zip(arguments, arguments[1:], strict=False):
        name, _, answer = argument.partition("=")
        if flag not in ("--data", "-d"):
            continue
        if name == "package_name" and answer != package:
            fail("package_name can't change: Copier would delete the old package with your edits.")
        if name not in known or name.startswith("_"):
            fail(f"There is no question {name}, or it is not asked with these answers.")


def answers(project: Path | None = None) -> dict[str, Any]:
    """Read the answers file; fail where it can't tell which template this project came from."""
    path = (project or Path()) / ANSWERS
    if not path.exists():
        fail(
            f"{ANSWERS} is missing: without it nobody knows the template. Restore it: git checkout HEAD -- {ANSWERS}"
        )
    try:
        recorded = yaml.safe_load(path.read_text(encoding="utf-8"))
        source, _ = str(recorded["_src_path"]), recorded["_commit"]
    except (yaml.YAMLError, KeyError, TypeError):
        fail(
            f"{ANSWERS} has no _src_path and _commit: restore it with git, it is not to be edited by hand."
        )
    if ":" not in source and not Path(source).expanduser().is_absolute():
        fail(
            f"The template's place is a relative path: {source}",
            f"Write its absolute path or its URL after _src_path in {ANSWERS}, and commit.",
        )
    if ":" not in source and not Path(source).expanduser().exists():
        fail(
            f"The template is no longer at {source}",
            f"Write its new path or its URL after _src_path in {ANSWERS}, and commit.",
        )
    return recorded


def copier_update(project: Path, arguments: tuple[str, ...]) -> str:
    """Run `copier update` with the recorded answers; return what the template says is new."""
    command = [sys.executable, "-m", "copier", "update", "--defaults", *arguments, "."]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = done.stderr or done.stdout
        lines = [line.strip(" |") for line in said.splitlines() if line.strip(" |")]
        told = [line for line in lines if line.startswith("fatal: ")] or lines[-1:]
        untouched = project != Path.cwd()
        fail(
            "Copier can't update this project, and nothing was changed:"
            if untouched
            else "Copier stopped half-way; take back what it did with `git reset --hard`:",
            *(f"  {line.removeprefix('ValueError: ')}" for line in told),
        )
    _, heading, news = done.stderr.partition(CLOSING)[0].partition("\n## ")
    return heading + news


def confirm(deleted: list[str]) -> None:
    print("This deletes, edited or not:", *(f"  {name}" for name in deleted), sep="\n")
    if not sys.stdin.isatty():
        fail('Nothing was changed. To agree beforehand: make update ARGS="--yes"')
    if input("Go on? [y/N] ").strip().lower() not in ("y", "yes"):
        fail("Nothing was changed.")


def git(*arguments: str, at: Path | None = None) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=at, capture_output=True, text=True, check=True
    ).stdout


def fail(*lines: str) -> NoReturn:
    sys.exit("\n".join(lines))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
