"""${d.title} over HTTP."""

from fastapi import APIRouter, HTTPException, Response

from ..chassis.database import ReadSessionDep, SessionDep, etags, pagination
from ..chassis.database.etags import IfMatch, IfNoneMatch, Responses
from . import models, service
from .schemas import ${d.cls}, ${d.cls}Change, ${d.cls}Id, ${d.cls}Page, New${d.cls}

router = APIRouter(prefix="${d.path}", tags=["${d.path[4:]}"])

NOT_FOUND: Responses = {404: {**etags.PROBLEM, "description": "There is no such ${d.words}"}}
% if d.unique:
# A database error for a value that is taken becomes this problem: see `chassis/database/faults.py`.
TAKEN: Responses = {409: {**etags.PROBLEM, "description": "${d.taken}"}}
% endif


@router.post("", status_code=201${", responses=TAKEN" if d.unique else ""})
async def create_${d.one}(session: SessionDep, response: Response, ${d.one}: New${d.cls}) -> ${d.cls}:
    """Create ${d.an}; `Location` is its address."""
    created = await service.create(session, ${d.one}.model_dump())
    # Before the response, so that it never reports ${d.an} that was not kept.
    await session.commit()
    response.headers["Location"] = f"{router.prefix}/{created.id}"
    return _body(created, response)


@router.get("")
async def list_${d.name}(
    session: ReadSessionDep, limit: pagination.Limit = 50, cursor: pagination.Cursor | None = None
) -> ${d.cls}Page:
    """List ${d.many} in the order in which they were created, one page at a time."""
    rows = await service.list_after(session, pagination.decode(cursor), limit + 1)
    return ${d.cls}Page.of(rows, limit)


@router.get("/{${d.one}_id}", responses={**NOT_FOUND, **etags.NOT_MODIFIED})
async def read_${d.one}(
    session: ReadSessionDep, response: Response, ${d.one}_id: ${d.cls}Id, if_none_match: IfNoneMatch = None
) -> ${d.cls}:
    """Read ${d.an}; 304 if you have its newest version."""
    ${d.one} = await service.read(session, ${d.one}_id)
    if ${d.one} is None:
        raise HTTPException(404)
    etags.unless_known(${d.one}.version, if_none_match)
    return _body(${d.one}, response)


@router.patch("/{${d.one}_id}", responses={**NOT_FOUND, ${"**TAKEN, " if d.unique else ""}**etags.CHANGED, **etags.NO_IF_MATCH})
async def change_${d.one}(
    session: SessionDep,
    response: Response,
    ${d.one}_id: ${d.cls}Id,
    change: ${d.cls}Change,
    if_match: IfMatch = None,
) -> ${d.cls}:
    """Change some fields of ${d.an}, unless somebody else changed it since you read it."""
    versions = etags.required(if_match)
    values = change.model_dump(exclude_unset=True)
    try:
        ${d.one} = await service.change(session, ${d.one}_id, values, versions)
    except service.ChangedError:
        raise etags.changed() from None
    if ${d.one} is None:
        raise HTTPException(404)
    await session.commit()
    return _body(${d.one}, response)


@router.delete("/{${d.one}_id}", status_code=204, responses={**NOT_FOUND, **etags.CHANGED})
async def delete_${d.one}(session: SessionDep, ${d.one}_id: ${d.cls}Id, if_match: IfMatch = None) -> None:
    """Delete ${d.an}; with `If-Match` only if it is in the version you know."""
    try:
        found = await service.remove(session, ${d.one}_id, etags.versions(if_match))
    except service.ChangedError:
        raise etags.changed() from None
    if not found:
        raise HTTPException(404)
    await session.commit()


def _body(${d.one}: models.${d.cls}, response: Response) -> ${d.cls}:
    response.headers["ETag"] = etags.etag(${d.one}.version)
    return ${d.cls}.model_validate(${d.one})
