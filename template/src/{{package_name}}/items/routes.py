"""Items over HTTP."""

from fastapi import APIRouter, HTTPException, Response

from ..chassis.database import ReadSessionDep, SessionDep, etags, pagination
from ..chassis.database.etags import IfMatch, IfNoneMatch, Responses
from . import models, service
from .schemas import Item, ItemChange, ItemId, ItemPage, NewItem

router = APIRouter(prefix="/v1/items", tags=["items"])

NOT_FOUND: Responses = {404: {**etags.PROBLEM, "description": "There is no such item"}}
# A database error for a value that is taken becomes this problem: see `chassis/database/faults.py`.
TAKEN: Responses = {409: {**etags.PROBLEM, "description": "Another item has that name"}}


@router.post("", status_code=201, responses=TAKEN)
async def create_item(session: SessionDep, response: Response, item: NewItem) -> Item:
    """Create an item; `Location` is its address."""
    created = await service.create(session, item.model_dump())
    # Before the response, so that it never reports an item that was not kept.
    await session.commit()
    response.headers["Location"] = f"{router.prefix}/{created.id}"
    return _body(created, response)


@router.get("")
async def list_items(
    session: ReadSessionDep, limit: pagination.Limit = 50, cursor: pagination.Cursor | None = None
) -> ItemPage:
    """List items in the order in which they were created, one page at a time."""
    rows = await service.list_after(session, pagination.decode(cursor), limit + 1)
    return ItemPage.of(rows, limit)


@router.get("/{item_id}", responses={**NOT_FOUND, **etags.NOT_MODIFIED})
async def read_item(
    session: ReadSessionDep, response: Response, item_id: ItemId, if_none_match: IfNoneMatch = None
) -> Item:
    """Read an item; 304 if you have its newest version."""
    item = await service.read(session, item_id)
    if item is None:
        raise HTTPException(404)
    etags.unless_known(item.version, if_none_match)
    return _body(item, response)


@router.patch("/{item_id}", responses={**NOT_FOUND, **TAKEN, **etags.CHANGED, **etags.NO_IF_MATCH})
async def change_item(
    session: SessionDep,
    response: Response,
    item_id: ItemId,
    change: ItemChange,
    if_match: IfMatch = None,
) -> Item:
    """Change some fields of an item, unless somebody else changed it since you read it."""
    versions = etags.required(if_match)
    values = change.model_dump(exclude_unset=True)
    try:
        item = await service.change(session, item_id, values, versions)
    except service.ChangedError:
        raise etags.changed() from None
    if item is None:
        raise HTTPException(404)
    await session.commit()
    return _body(item, response)


@router.delete("/{item_id}", status_code=204, responses={**NOT_FOUND, **etags.CHANGED})
async def delete_item(session: SessionDep, item_id: ItemId, if_match: IfMatch = None) -> None:
    """Delete an item; with `If-Match` only if it is in the version you know."""
    try:
        found = await service.remove(session, item_id, etags.versions(if_match))
    except service.ChangedError:
        raise etags.changed() from None
    if not found:
        raise HTTPException(404)
    await session.commit()


def _body(item: models.Item, response: Response) -> Item:
    response.headers["ETag"] = etags.etag(item.version)
    return Item.model_validate(item)
