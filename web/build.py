"""Builds the start page: renders this template, and adds the folder `projects` to the render."""

import argparse
import io
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import yaml
from projects.template import Release

WEB = Path(__file__).resolve().parent
CLONE = WEB.parent
# What Copier reads of this repository.
READ = ["copier.yml", "CHANGELOG.md", "includes", "template"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("destination", nargs="?", type=Path, default=CLONE / "build/web")
    parser.add_argument("--repository", help="where projects get their updates from (default: the remote origin)")
    given = parser.parse_args()
    archive = pack(given.repository or repository(), _git("describe", "--tags", "--always"))
    with tempfile.TemporaryDirectory() as folder:
        (packed := Path(folder, "template.tar.gz")).write_bytes(archive)
        release = Release(packed, Path(folder, "template"))
        answers = yaml.safe_load((WEB / "answers.yml").read_text(encoding="utf-8"))
        files = release.render(answers, deadline=time.monotonic() + 60)
    clear(given.destination)
    for file in files:
        path = given.destination / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.content)
        path.chmod(int(file.mode, 8) & 0o777)
    add_projects(given.destination, given.destination / "src" / answers["package_name"], archive)


def repository() -> str:
    """Return the address that this clone came from, without a password, else the clone's folder."""
    if origin := _git("remote", "get-url", "origin"):
        return re.sub(r"(?<=^http)(s?://)[^@/]*@", r"\1", origin)
    print(f"There is no git remote origin: projects will look for updates in {CLONE}", file=sys.stderr)
    return str(CLONE)


def pack(repository: str, commit: str) -> bytes:
    """Return an archive of the working tree, with the repository and the commit in its header."""
    if _git("status", "--porcelain", "--", *READ):
        print(f"The template has changes that are not committed: projects will name {commit}", file=sys.stderr)
    names = _git("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *READ).split("\0")
    headers = {"repository": repository, "commit": commit}
    with io.BytesIO() as packed:
        with tarfile.open(fileobj=packed, mode="w:gz", format=tarfile.PAX_FORMAT, pax_headers=headers) as tar:
            for name in sorted(name for name in names if name and (CLONE / name).exists()):
                tar.add(CLONE / name, name, filter=_of_nobody)
        return packed.getvalue()


def _of_nobody(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o755 if member.mode & 0o100 else 0o644
    return member


def clear(destination: Path) -> None:
    """Delete an earlier build, but for its environment and its lock."""
    if not destination.exists():
        return
    if not [*destination.glob("src/*/projects/page")] and any(destination.iterdir()):
        sys.exit(f"{destination} is not empty: name a new folder, such as build/web")
    for path in destination.iterdir():
        if path.name not in (".venv", "uv.lock"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def add_projects(service: Path, package: Path, archive: bytes) -> None:
    """Do what an owner does to add a domain."""
    shutil.copytree(WEB / "projects", package / "projects", ignore=shutil.ignore_patterns("__pycache__"))
    (package / "projects/template.tar.gz").write_bytes(archive)
    shutil.copy(WEB / "tests/test_projects.py", service / "tests")
    [pinned] = re.findall(r'"copier==.*?"', (CLONE / "pyproject.toml").read_text(encoding="utf-8"))
    _insert(package / "app.py", "# Yours:\n", "from .projects import routes as projects\n")
    _insert(package / "app.py", "\n    # Yours:\n", "    app.include_router(projects.router)\n")
    _insert(package / "app.py", "features=[", "projects.feature")
    _insert(service / "pyproject.toml", "# Yours: `uv add` writes below this line.\n", f"    {pinned},\n")
    _insert(
        service / "pyproject.toml", "# Yours: `uv add --dev` writes below this line.\n", '    "types-pygments>=2.19",\n'
    )


def _insert(path: Path, place: str, text: str) -> None:
    before, found, after = path.read_text(encoding="utf-8").partition(place)
    if not found:
        sys.exit(f"{path.name} has no {place.strip()!r}")
    path.write_text(before + place + text + after, encoding="utf-8")


def _git(*arguments: str) -> str:
    return subprocess.run(["git", "-C", CLONE, *arguments], capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    main()
