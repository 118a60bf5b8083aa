"""Draws docs/first-minutes.svg: runs the first commands of a new user in a terminal, and shows what they print.

python docs/first_minutes.py: needs Docker, and port 8000 to be free. Builds print their result only.
Of long outputs the middle is left out, marked with `...`; the folder in which it all happens is shown as `~`.
"""

import html
import os
import pty
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
PICTURE = ROOT / "docs/first-minutes.svg"
COMMANDS = [
    """make new DEST=../docs-shelf ARGS="--defaults --data project_name='Docs Shelf'\"""",
    "cd ../docs-shelf",
    "make run",
    "curl http://localhost:8000/health/ready",
    "curl http://localhost:8000/v1/books",
    "make stop",
]
WIDTH, LONGEST = 110, 9


def record(command: str, folder: Path) -> list[str]:
    """Return the lines that a command prints in a terminal; raise CalledProcessError if it fails."""
    terminal, other = pty.openpty()
    environment = {**os.environ, "BUILDKIT_PROGRESS": "quiet", "NO_COLOR": "1", "COLUMNS": str(WIDTH)}
    for name in ("MAKEFLAGS", "MAKELEVEL", "VIRTUAL_ENV"):
        environment.pop(name, None)
    process = subprocess.Popen(
        ["sh", "-c", command], cwd=folder, env=environment, stdin=other, stdout=other, stderr=other
    )
    os.close(other)
    printed = b""
    while piece := _read(terminal):
        printed += piece
    os.close(terminal)
    if process.wait():
        raise subprocess.CalledProcessError(process.returncode, command, printed)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", printed.decode())
    return [line.rstrip().rpartition("\r")[2] for line in plain.replace("\r\n", "\n").split("\n")]


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:
        # The last process closed it.
        return b""


def shown(lines: list[str], home: Path) -> list[str]:
    """Leave out blank lines at both ends, and the middle of a long output."""
    text = "\n".join(lines).strip("\n").replace(str(home), "~")
    kept = text.split("\n") if text else []
    if len(kept) > LONGEST:
        kept = [*kept[:2], "    ...", *kept[-LONGEST + 3 :]]
    return [line[start : start + WIDTH] for line in kept for start in range(0, max(len(line), 1), WIDTH)]


def draw(lines: list[str]) -> str:
    """Draw a terminal; lines that begin with `$ ` are commands."""
    height = 20 * len(lines) + 30
    bold = ' font-weight="bold"'
    rows = "\n".join(
        f'<text x="20" y="{20 * row + 32}"{bold if line.startswith("$ ") else ""}>{html.escape(line, quote=False)}</text>'
        for row, line in enumerate(lines)
        if line
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {8 * WIDTH + 40} {height}" style="white-space: pre" '
        'font-family="ui-monospace, Menlo, Consolas, monospace" font-size="13" fill="#e6e6e6">\n'
        f'<rect width="100%" height="100%" rx="8" fill="#1e1e1e"/>\n{rows}\n</svg>\n'
    )


def main() -> None:
    home = Path(tempfile.mkdtemp())
    folder = home / "copier-fastapi"
    subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
    lines: list[str] = []
    try:
        for command in COMMANDS:
            lines.append(f"$ {command}")
            if command.startswith("cd "):
                folder = (folder / command.removeprefix("cd ")).resolve()
            else:
                lines += [*shown(record(command, folder), home), ""]
    finally:
        subprocess.run(["docker", "rm", "--force", "docs-shelf"], capture_output=True, check=False)
        subprocess.run(["docker", "rmi", "docs-shelf"], capture_output=True, check=False)
        shutil.rmtree(home)
    PICTURE.write_text(draw(lines[:-1]))


if __name__ == "__main__":
    main()
