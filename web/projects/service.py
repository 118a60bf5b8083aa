"""Projects for many clients: each is rendered once, within limits of time and number."""

import asyncio
import shlex
import time
import zipfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from difflib import unified_diff
from functools import partial
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from copier.errors import UserMessageError
from pygments.lexers import TextLexer, find_lexer_class_for_filename
from pygments.token import STANDARD_TYPES

from .template import Answers, File, Release

MOST_SECONDS = 30  # for a request, and for a render, which others may wait for
MOST_RENDERS = 32  # that are kept, of at most a megabyte each


class Projects:
    def __init__(self, release: Release, pool: ThreadPoolExecutor) -> None:
        self.release = release
        self.run = partial(asyncio.get_running_loop().run_in_executor, pool)
        # By all answers; the one that was used last comes last.
        self.renders: dict[frozenset[tuple[str, str]], asyncio.Future[list[File]]] = {}
        self.clients: Counter[str] = Counter()

    async def ask(self, given: Answers) -> tuple[list[dict[str, Any]], Answers]:
        if unknown := [name for name in given if name not in self.release.names]:
            known = ", ".join(self.release.names)
            raise UserMessageError(f"There is no question {unknown[0][:80]!r}. Such as: {known}")
        return await self.run(self.release.ask, given)

    async def project(self, given: Answers) -> tuple[str, list[File]]:
        """Return the name and the files of a project; raise UserMessageError with Copier's message."""
        asked, answers = await self.ask(given)
        if messages := [it["message"] for it in asked if it["message"]]:
            raise UserMessageError(messages[0])
        return answers["project_slug"], await self.files(answers)

    async def files(self, answers: Answers) -> list[File]:
        """Return a project's files, by a render that is kept or runs already if there is one."""
        key = frozenset(answers.items())
        render = self.renders.pop(key, None)
        if not render or (render.done() and render.exception()):
            deadline = time.monotonic() + MOST_SECONDS
            render = asyncio.ensure_future(self.run(self.release.render, answers, deadline))
        self.renders[key] = render
        for oldest in [*self.renders][:-MOST_RENDERS]:
            del self.renders[oldest]
        # It continues if this request ends: others may wait for it too.
        return await asyncio.shield(render)

    def commands(self, asked: list[dict[str, Any]], slug: str) -> dict[str, str]:
        """Return what writes the same project, for a POSIX shell."""
        data = [f"{it['name']}={it['value']}" for it in asked if it["value"] != it["default"]]
        arguments = ["--defaults", *(part for pair in data for part in ("--data", pair))]
        copier = ["uvx", "copier", "copy", "--vcs-ref", self.release.commit, *arguments]
        make = f"make new DEST=../{slug} ARGS={shlex.quote(shlex.join(arguments))}"
        return {"copier": shlex.join([*copier, self.release.repository, slug]), "make": make}


def compare(before: list[File], after: list[File]) -> Iterator[dict[str, Any]]:
    """Yield the files that differ, each with its unified diff."""
    old, new = ({file.path: file.content for file in files} for files in (before, after))
    for path in sorted(path for path in old | new if old.get(path) != new.get(path)):
        status = "added" if path not in old else "changed" if path in new else "removed"
        left, right = (side.get(path, b"").decode().splitlines() for side in (old, new))
        lines = [*unified_diff(left, right, f"a/{path}", f"b/{path}", lineterm="")]
        signs = Counter(line[0] for line in lines[2:])
        counts = {"added": signs["+"], "removed": signs["-"]}
        yield {"path": path, "status": status, "diff": "\n".join(lines), **counts}


def pack(folder: str, files: list[File]) -> bytes:
    """Return a zip of a folder with the files, without a date."""
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for file in files:
            member = zipfile.ZipInfo(f"{folder}/{file.path}")
            member.external_attr = file.mode << 16
            archive.writestr(member, file.content, zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def highlight(file: File) -> list[list[tuple[str, str]]]:
    """Return the parts of each line, each with its class in the style sheets of Pygments."""
    lines: list[list[tuple[str, str]]] = [[]]
    lexer = (find_lexer_class_for_filename(file.path) or TextLexer)(stripnl=False, ensurenl=False)
    for kind, part in lexer.get_tokens(file.content.decode()):
        first, *others = [(STANDARD_TYPES.get(kind, ""), line) for line in part.split("\n")]
        lines[-1].append(first)
        lines += [[other] for other in others]
    return [[part for part in line if part[1]] for line in lines]


@asynccontextmanager
async def opened(archive: Path) -> AsyncIterator[Projects]:
    """Unpack the template, and render it once: the first time takes longer."""
    with TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        projects = Projects(Release(archive, Path(folder)), pool)
        await projects.project({})
        yield projects
