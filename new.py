"""`make new`: render this clone's template, and record where its updates come from."""

import argparse
import re
import subprocess
import sys
from pathlib import Path

import yaml
from copier.__main__ import CopierApp

CLONE = Path(__file__).resolve().parent


def main(destination: str, *arguments: str) -> int:
    """Render into `destination` with Copier's own `arguments`; return the exit status."""
    project = Path(destination).expanduser().resolve()
    if project.is_file() or (project.is_dir() and any(project.iterdir())):
        sys.exit(f"{project} is not empty: name a new folder, such as DEST=../my-service")
    questions = yaml.safe_load((CLONE / "copier.yml").read_text(encoding="utf-8"))
    for name in _answered(arguments):
        if name.startswith("_") or name not in questions:
            sys.exit(f"Nothing was written. There is no question {name}: see README.md")
    command = ["copier", "copy", "--vcs-ref", "HEAD", *arguments, str(CLONE), str(project)]
    try:
        _, status = CopierApp.run(command, exit=False)
    except ValueError as refused:
        # If a rule refuses an answer, Copier shows that at the end of a traceback.
        sys.exit(f"Nothing was written. {refused}")
    if status == 0:
        _record_origin(project / ".copier-answers.yml")
    return status


def _answered(arguments: tuple[str, ...]) -> list[str]:
    """List the names that `arguments` give an answer to, in any way that Copier takes."""
    parser = argparse.ArgumentParser("make new", usage="make new ARGS=...", add_help=False, allow_abbrev=False)
    parser.add_argument("-d", "--data", action="append", nargs="?", const="", default=[])
    parser.add_argument("--data-file", type=Path)
    given, _ = parser.parse_known_args(arguments)
    if not all(re.match("[^=]+=", entry) for entry in given.data):
        sys.exit("Nothing was written. --data takes a name and a value, such as license=MIT")
    names = [entry.partition("=")[0] for entry in given.data]
    if not given.data_file:
        return names
    try:
        return [*names, *map(str, {**yaml.safe_load(given.data_file.read_text(encoding="utf-8"))})]
    except (OSError, ValueError, TypeError, yaml.YAMLError):
        sys.exit(f"Nothing was written. {given.data_file} can't be read, or has no lines such as license: MIT")


def _record_origin(answers: Path) -> None:
    """Record the repository that this clone came from, so that colleagues can update too."""
    origin = _git("remote", "get-url", "origin")
    if not answers.exists():
        return
    recorded = answers.read_text(encoding="utf-8")
    if origin:
        recorded = re.sub(r"(?m)^_src_path: .*$", lambda _: f"_src_path: {origin}", recorded)
        answers.write_text(recorded, encoding="utf-8")
    # There is no commit if the template was unpacked from an archive.
    commit = yaml.safe_load(recorded).get("_commit")
    if commit and not _git("branch", "--remotes" if origin else "--all", "--contains", commit):
        place = origin or CLONE
        print(f"The template's commit {commit} is not in {place}: until it is, updates fail.", file=sys.stderr)


def _git(*arguments: str) -> str:
    """Return what git prints about this clone, or nothing if it fails."""
    return subprocess.run(["git", "-C", CLONE, *arguments], capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
