"""Projects for many clients: each is rendered once, within limits of time, number and size."""

import asyncio
import re
import shlex
import time
import zipfile
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from difflib import unified_diff
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from pygments.lexers import get_lexer_for_filename
from pygments.token import STANDARD_TYPES
from pygments.util import ClassNotFound

from .schemas import Commands, ComparedFile
from .template import Answers, Asked, File, LateError, Release

T = TypeVar("T")

ARCHIVE = Path(__file__).with_name("template.tar.gz")
# Seconds from a request to the end of its render, those before it included.
MOST_SECONDS = 30
# Of the files of all renders that are kept.
MOST_BYTES = 32_000_000


class UnknownQuestionError(Exception):
    """An answer to a question that the template does not ask."""


class Projects:
    def __init__(self, release: Release, pool: ThreadPoolExecutor) -> None:
        self.release = release
        self.pool = pool
        # By the answers to all questions; the one that was used last is at the end.
        self.renders: OrderedDict[frozenset[tuple[str, str]], asyncio.Task[list[File]]]
        self.renders = OrderedDict()

    async def ask(self, answers: Answers) -> list[Asked]:
        for name in answers:
            if name not in self.release.names:
                known = ", ".join(self.release.names)
                raise UnknownQuestionError(
                    f"There is no question {name[:80]!r}; those that there are: {known}"
                )
        return await self.run(lambda: self.release.ask(answers))

    async def files(self, asked: list[Asked]) -> list[File]:
        """Return the files of a project, from a render that is kept or runs already if possible."""
        answers = {it.name: it.value for it in asked if it.name in self.release.names}
        key = frozenset(answers.items())
        render = self.renders.pop(key, None)
        if not render:
            deadline = time.monotonic() + MOST_SECONDS
            job = self.run(lambda: self.release.render(answers, deadline))
            render = asyncio.create_task(job)
        self.renders[key] = render
        try:
            # A client that goes takes nothing away from others.
            files = await asyncio.shield(render)
        except Exception:
            self.renders.pop(key, None)
            raise
        self._forget()
        return files

    def _forget(self) -> None:
        room = MOST_BYTES
        for key, render in reversed([*self.renders.items()]):
            if render.done() and not render.exception():
                room -= sum(len(file.content) for file in render.result())
            if room < 0:
                del self.renders[key]

    async def run(self, job: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.pool, job)

    def commands(self, asked: list[Asked]) -> Commands:
        """Return the commands that write the same project, for a POSIX shell."""
        slug = next(it.value for it in asked if it.name == "project_slug")
        arguments = ["--defaults"]
        for it in asked:
            if it.value != it.default:
                arguments += ["--data", f"{it.name}={it.value}"]
        commit = self.release.commit
        # Else Copier takes the newest release.
        exact = [] if re.fullmatch(r"v[0-9.]+", commit) else ["--vcs-ref", commit]
        copier = ["uvx", "copier", "copy", *arguments, *exact, self.release.repository, slug]
        make = f"make new DEST=../{slug} ARGS={shlex.quote(shlex.join(arguments))}"
        return Commands(copier=shlex.join(copier), make=make)


def compare(before: list[File], after: list[File]) -> list[ComparedFile]:
    old, new = ({file.path: file.content for file in files} for files in (before, after))
    compared = []
    for path in sorted(old.keys() | new.keys()):
        if old.get(path) == new.get(path):
            continue
        status = "changed" if path in old and path in new else "added" if path in new else "removed"
        left, right = (files.get(path, b"").decode().splitlines() for files in (old, new))
        lines = [*unified_diff(left, right, f"a/{path}", f"b/{path}", lineterm="")]
        signs = [line[:1] for line in lines[2:]]
        compared.append(
            ComparedFile(
                path=path,
                status=status,
                diff="\n".join(lines),
                added=signs.count("+"),
                removed=signs.count("-"),
            )
        )
    return compared


def pack(folder: str, files: list[File]) -> bytes:
    """Return a zip of the files below `folder`; the same files give the same bytes."""
    with BytesIO() as packed:
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in files:
                member = zipfile.ZipInfo(f"{folder}/{file.path}")
                member.external_attr = int(file.mode, 8) << 16
                archive.writestr(member, file.content, zipfile.ZIP_DEFLATED)
        return packed.getvalue()


def highlight(path: str, text: str, deadline: float) -> list[list[tuple[str, str]]]:
    """Return the parts of each line, each with its class in the style sheets of Pygments."""
    try:
        lexer = get_lexer_for_filename(path, stripnl=False, ensurenl=False)
    except ClassNotFound:
        return [[("", line)] for line in text.split("\n")]
    lines: list[list[tuple[str, str]]] = [[]]
    for kind, part in lexer.get_tokens(text):
        if time.monotonic() > deadline:
            raise LateError
        first, *others = part.split("\n")
        lines[-1].append((STANDARD_TYPES.get(kind, ""), first))
        lines += ([(STANDARD_TYPES.get(kind, ""), other)] for other in others)
    return [[(kind, part) for kind, part in line if part] for line in lines]


@asynccontextmanager
async def opened() -> AsyncIterator[Projects]:
    """Unpack the template, and render with the defaults so that it is compiled."""
    with TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        projects = Projects(Release(ARCHIVE, Path(folder)), pool)
        yield projects
        pool.shutdown(cancel_futures=True)
