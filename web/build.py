"""`make web`: render this clone's template, and add the folder `projects` as an owner would."""

import io
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import yaml
from projects.template import Release

CLONE = Path(__file__).resolve().parent.parent
READ = ["copier.yml", "CHANGELOG.md", "includes", "template"]  # by Copier


def main(destination: str, origin: str = "") -> None:
    """Build the service in `destination`; its projects get their updates from `origin`."""
    service, package = Path(destination), Path(destination, "src/start_page")
    shutil.copytree(CLONE / "web/projects", package / "projects", ignore=shutil.ignore_patterns("__pycache__"))
    archive = pack(package / "projects/template.tar.gz", origin or _origin())
    answers = yaml.safe_load((CLONE / "web/answers.yml").read_text())
    with tempfile.TemporaryDirectory() as folder:
        for path, content, _ in Release(archive, Path(folder)).render(answers, float("inf")):
            (service / path).parent.mkdir(parents=True, exist_ok=True)
            (service / path).write_bytes(content)
    shutil.copy(CLONE / "web/tests/test_projects.py", service / "tests")
    _insert(package / "app.py", "\n# Yours:\n", "from .projects import routes as projects\n")
    _insert(package / "app.py", "features=[", "projects.feature")
    _insert(package / "app.py", "\n    # Yours:\n", "    app.include_router(projects.router)\n")
    [copier] = re.findall(r'"copier==.*?"', (CLONE / "pyproject.toml").read_text())
    _insert(service / "pyproject.toml", "`uv add` writes below this line.\n", f"    {copier},\n")
    _insert(service / "pyproject.toml", "--dev` writes below this line.\n", '    "types-pygments>=2.19",\n')


def pack(archive: Path, origin: str) -> Path:
    """Write the template of the working tree, with its origin and its commit in the header."""
    commit = _git("describe", "--tags", "--always") or sys.exit(f"{CLONE} is not a git clone, or has no commit")
    if _git("status", "--porcelain", "--", *READ):
        print(f"Projects will name the commit {commit}, which lacks what you changed in the template", file=sys.stderr)
    elif _git("remote") and not _git("for-each-ref", "--contains=HEAD", "refs/remotes", "refs/tags"):
        print(f"Projects will name the commit {commit}: push it, or they can't be updated", file=sys.stderr)
    names = _git("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *READ).split("\0")
    with tarfile.open(archive, "w:gz", pax_headers={"repository": origin, "commit": commit}) as tar:
        for path in sorted(CLONE / name for name in names if name and (CLONE / name).exists()):
            member = tar.gettarinfo(path, path.relative_to(CLONE))
            member.mode = 0o755 if member.mode & 0o100 else 0o644  # whatever the umask was
            tar.addfile(member, io.BytesIO(path.read_bytes()))
    return archive


def _origin() -> str:
    # Without the password that a pipeline clones with.
    if origin := re.sub(r"^(https?://)[^@/]*@", r"\1", _git("remote", "get-url", "origin")):
        return origin
    print(f"There is no git remote origin: projects will look for updates in {CLONE}", file=sys.stderr)
    return str(CLONE)


def _insert(path: Path, place: str, text: str) -> None:
    before, after = path.read_text().split(place)
    path.write_text(before + place + text + after)


def _git(*arguments: str) -> str:
    return subprocess.run(["git", "-C", CLONE, *arguments], capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    main(*sys.argv[1:])
