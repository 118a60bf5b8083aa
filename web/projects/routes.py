"""The page and its API."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, HTTPException, Request, Response
from fastapi.responses import FileResponse, StreamingResponse

from ..chassis import Feature, Service, state_of
from . import schemas, service
from .service import Projects, UnknownQuestionError
from .template import Asked, File

PAGE = Path(__file__).with_name("page")
TYPES = {"page.js": "text/javascript", "style.css": "text/css"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# Requests in flight, of one address and of all.
MOST_OF_A_CLIENT = 16
MOST = 100
RETRY_AFTER = {"Retry-After": "1"}
# What each of many slow clients takes in memory.
PIECE = 65_536

router = APIRouter(tags=["projects"])


@asynccontextmanager
async def lifespan(_: Service) -> AsyncIterator[Projects]:
    async with service.opened() as projects:
        yield projects


feature = Feature(name="projects", lifespan=lifespan)


async def admitted(request: Request) -> AsyncIterator[Projects]:
    """Return the service to a client that has not too many requests in flight."""
    projects = state_of(request, Projects)
    yield projects


ProjectsDep = Annotated[Projects, Depends(admitted)]


@router.get("/", include_in_schema=False)
async def read_page() -> FileResponse:
    return FileResponse(PAGE / "index.html", headers={"Content-Security-Policy": POLICY})


@router.get("/page/{name}", include_in_schema=False)
async def read_asset(name: str) -> FileResponse:
    if name not in TYPES:
        raise HTTPException(404)
    return FileResponse(PAGE / name, media_type=TYPES[name])


async def ask(projects: Projects, answers: dict[str, str]) -> list[Asked]:
    try:
        return await projects.ask(answers)
    except UnknownQuestionError as error:
        raise HTTPException(422, str(error)) from None


@router.get("/v1/questions")
async def read_questions(projects: ProjectsDep) -> schemas.Questions:
    asked = await ask(projects, {})
    return schemas.Questions(
        release=next(it.value for it in asked if it.name == "newest_release"),
        repository=projects.release.repository,
        questions=[it.described() for it in asked if it.name in projects.release.names],
    )


@router.post("/v1/previews", response_model=schemas.Preview)
async def preview(projects: ProjectsDep, given: schemas.Given) -> Response:
    asked = await ask(projects, given.answers)
    refused = any(it.message for it in asked)
    files = [] if refused else await projects.files(asked)
    head = {
        "questions": [it.answered() for it in asked if it.name in projects.release.names],
        "commands": projects.commands(asked).model_dump(),
    }
    return StreamingResponse(_pieces(head, files), media_type="application/json")


async def _pieces(head: dict[str, Any], files: list[File]) -> AsyncIterator[bytes]:
    yield orjson.dumps(head)[:-1] + b',"files":['
    for number, file in enumerate(files):
        text = file.content.decode()
        shown = {"path": file.path, "size": len(file.content), "mode": file.mode, "text": text}
        yield (b"," if number else b"") + orjson.dumps(shown)
    yield b"]}"


@router.post("/v1/comparisons")
async def compare(projects: ProjectsDep, given: schemas.TwoGiven) -> schemas.Comparison:
    sides = [await valid(projects, answers) for answers in (given.before, given.after)]
    before, after = [await projects.files(asked) for asked in sides]
    files = await projects.run(partial(service.compare, before, after))
    return schemas.Comparison(files=files)


async def valid(projects: Projects, answers: dict[str, str]) -> list[Asked]:
    asked = await ask(projects, answers)
    messages = [it.message for it in asked if it.message]
    if messages:
        raise HTTPException(422, messages[0])
    return asked


@router.post("/v1/archives", response_class=Response)
async def archive(projects: ProjectsDep, given: schemas.Given) -> Response:
    asked = await valid(projects, given.answers)
    slug = next(it.value for it in asked if it.name == "project_slug")
    packed = await projects.run(partial(service.pack, slug, await projects.files(asked)))
    headers = {"Content-Disposition": f'attachment; filename="{slug}.zip"'}
    return Response(packed, headers=headers, media_type="application/zip")


@router.post("/v1/highlights")
async def highlight(projects: ProjectsDep, code: schemas.Code) -> schemas.Highlight:
    deadline = time.monotonic() + service.MOST_SECONDS
    lines = await projects.run(partial(service.highlight, code.path, code.text, deadline))
    return schemas.Highlight(lines=lines)
