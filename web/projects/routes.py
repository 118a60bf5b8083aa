"""The page and its API."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from mimetypes import guess_type
from pathlib import Path
from typing import Annotated, Any

import orjson
from copier.errors import UserMessageError
from fastapi import APIRouter, Body, Depends, HTTPException, Request, Response
from fastapi.responses import StreamingResponse

from ..chassis import Feature, state_of
from . import service
from .template import File

FOLDER = Path(__file__).parent
PAGE = {path.name: path.read_bytes() for path in FOLDER.glob("page/*")}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# Without it, browsers keep the files of an older release.
HEADERS = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}
MOST_OF_A_CLIENT, MOST = 16, 100  # requests at once
RETRY_AFTER = {"Retry-After": "1"}
# Longer than any rule allows, so that Copier refuses it; short enough for any regular expression.
Text = Annotated[str, Body(max_length=1000)]
Answers = Annotated[dict[Text, Text], Body(max_length=50, embed=True)]

router = APIRouter(tags=["projects"])
feature = Feature(name="projects", lifespan=lambda _: service.opened(FOLDER / "template.tar.gz"))


async def admit(request: Request) -> AsyncIterator[service.Projects]:
    """Yield the projects, unless too many requests run; turn refusals into responses."""
    projects = state_of(request, service.Projects)
    client = request.client.host if request.client else ""
    if projects.clients[client] >= MOST_OF_A_CLIENT:
        raise HTTPException(429, f"At most {MOST_OF_A_CLIENT} requests at once", RETRY_AFTER)
    if projects.clients.total() >= MOST:
        raise HTTPException(503, "Too many requests at once", RETRY_AFTER)
    projects.clients[client] += 1
    try:
        yield projects
    except UserMessageError as refused:
        raise HTTPException(422, str(refused)) from None
    except TimeoutError:
        raise HTTPException(503, "Other projects took too long", RETRY_AFTER) from None
    finally:
        projects.clients -= Counter([client])


async def within_time(
    projects: Annotated[service.Projects, Depends(admit)],
) -> AsyncIterator[service.Projects]:
    """Stop a request that takes too long; sending its response may take longer."""
    async with asyncio.timeout(service.MOST_SECONDS):
        yield projects


ProjectsDep = Annotated[service.Projects, Depends(within_time, scope="function")]


@router.get("/", include_in_schema=False)
@router.get("/page/{name}", include_in_schema=False)
async def read_page(name: str = "index.html") -> Response:
    if name not in PAGE:
        raise HTTPException(404)
    return Response(PAGE[name], headers=HEADERS, media_type=guess_type(name)[0])


@router.get("/v1/questions")
async def read_questions(projects: ProjectsDep) -> dict[str, Any]:
    asked, answers = await projects.ask({})
    about = {"release": answers["newest_release"], "repository": projects.release.repository}
    refused, _ = await projects.ask(dict.fromkeys(projects.release.names, "\n"))  # by each rule
    questions = [{**it, "rule": no["message"]} for it, no in zip(asked, refused, strict=True)]
    return {**about, "questions": questions}


@router.post("/v1/previews")
async def preview(projects: ProjectsDep, answers: Answers) -> Response:
    asked, complete = await projects.ask(answers)
    files = [] if any(it["message"] for it in asked) else await projects.files(complete)
    commands = projects.commands(asked, complete["project_slug"])
    head = orjson.dumps({"questions": asked, "commands": commands})
    return StreamingResponse(_parts(head, files), media_type="application/json")


async def _parts(head: bytes, files: list[File]) -> AsyncIterator[bytes]:
    """Yield a file at a time, so that slow clients don't fill the memory."""
    yield head[:-1] + b',"files":['
    for number, (path, content, mode) in enumerate(files):
        file = {"path": path, "size": len(content), "mode": f"{mode:o}", "text": content.decode()}
        yield (b"," if number else b"") + orjson.dumps(file)
    yield b"]}"


@router.post("/v1/comparisons")
async def compare(projects: ProjectsDep, before: Answers, after: Answers) -> dict[str, Any]:
    (_, old), (_, new) = await projects.project(before), await projects.project(after)
    return {"files": await projects.run(lambda: [*service.compare(old, new)])}


@router.post("/v1/archives")
async def archive(projects: ProjectsDep, answers: Answers) -> Response:
    slug, files = await projects.project(answers)
    headers = {"Content-Disposition": f'attachment; filename="{slug}.zip"'}
    packed = await projects.run(service.pack, slug, files)
    return Response(packed, headers=headers, media_type="application/zip")


@router.post("/v1/highlights")
async def highlight(projects: ProjectsDep, answers: Answers, path: Text) -> dict[str, Any]:
    # Not any text: for some, the lexers take minutes.
    files = {file.path: file for file in (await projects.project(answers))[1]}
    if path not in files:
        raise HTTPException(404, "The project has no such file")
    return {"lines": await projects.run(service.highlight, files[path])}
