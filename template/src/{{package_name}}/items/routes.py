"""Items over HTTP: the example to copy for a resource of your own."""

import base64
import re
from typing import Annotated, Any

from fastapi import APIRouter, Header, HTTPException, Query, Response

from .. import errors
from ..database import ReadSessionDep, SessionDep
from . import models, service
from .schemas import Cursor, Item, ItemChange, ItemId, ItemPage, NewItem

router = APIRouter(prefix="/v1/items", tags=["items"])

PROBLEM = errors.RESPONSES["4XX"]
Responses = dict[int | str, dict[str, Any]]
NOT_FOUND: Responses = {404: {**PROBLEM, "description": "There is no such item"}}
TAKEN: Responses = {409: {**PROBLEM, "description": "Another item has that name"}}
CHANGED: Responses = {412: {**PROBLEM, "description": "The item has changed; read it again"}}
NO_IF_MATCH: Responses = {428: {**PROBLEM, "description": "If-Match is missing"}}

IfMatch = Annotated[str | None, Header(description="The ETag of the version you know, or `*`")]
IfNoneMatch = Annotated[str | None, Header(description="The ETag of the version you have")]
# Entity tags (RFC 9110, 8.8.3) that can be one of ours.
TAG = re.compile(r'(W/)?"([1-9][0-9]{0,8})"')


@router.post("", status_code=201, responses=TAKEN)
async def create_item(session: SessionDep, response: Response, item: NewItem) -> Item:
    """Create an item; `Location` tells where it is."""
    try:
        created = await service.create(session, item.model_dump())
    except service.NameTakenError:
        raise _taken() from None
    response.headers["Location"] = f"{router.prefix}/{created.id}"
    return _answer(created, response)


@router.get("")
async def list_items(
    session: ReadSessionDep,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
    cursor: Cursor | None = None,
) -> ItemPage:
    """List items in the order in which they were created, a page at a time."""
    after = _decode(cursor) if cursor else 0
    found = await service.list_after(session, after, limit + 1)
    items = found[:limit]
    next_cursor = _encode(items[-1].id) if len(found) > limit else None
    # All at once, in pydantic's own code.
    return ItemPage.model_validate({"items": items, "next_cursor": next_cursor})


@router.get("/{item_id}", responses={**NOT_FOUND, 304: {"description": "You have this version"}})
async def read_item(
    session: ReadSessionDep, response: Response, item_id: ItemId, if_none_match: IfNoneMatch = None
) -> Item:
    """Read an item, or learn that you have it (304)."""
    item = await service.read(session, item_id)
    if item is None:
        raise HTTPException(404)
    if if_none_match:
        known = _versions(if_none_match, weak=True)
        if known is None or item.version in known:
            raise HTTPException(304, headers={"ETag": _etag(item)})
    return _answer(item, response)


@router.patch("/{item_id}", responses={**NOT_FOUND, **TAKEN, **CHANGED, **NO_IF_MATCH})
async def change_item(
    session: SessionDep,
    response: Response,
    item_id: ItemId,
    change: ItemChange,
    if_match: IfMatch = None,
) -> Item:
    """Change some fields of an item that nobody else has changed since you read it."""
    if if_match is None:
        raise HTTPException(428, "If-Match is missing: send the ETag of the version you know")
    values = change.model_dump(exclude_unset=True)
    try:
        item = await service.change(session, item_id, values, _versions(if_match))
    except service.NameTakenError:
        raise _taken() from None
    except service.ChangedError:
        raise _changed() from None
    if item is None:
        raise HTTPException(404)
    return _answer(item, response)


@router.delete("/{item_id}", status_code=204, responses={**NOT_FOUND, **CHANGED})
async def delete_item(session: SessionDep, item_id: ItemId, if_match: IfMatch = None) -> None:
    """Delete an item; with `If-Match` only in the version you know."""
    try:
        found = await service.remove(session, item_id, _versions(if_match or "*"))
    except service.ChangedError:
        raise _changed() from None
    if not found:
        raise HTTPException(404)


def _answer(item: models.Item, response: Response) -> Item:
    response.headers["ETag"] = _etag(item)
    return Item.model_validate(item)


def _etag(item: models.Item) -> str:
    return f'"{item.version}"'


def _versions(tags: str, *, weak: bool = False) -> set[int] | None:
    """Return the versions that an If-Match or If-None-Match names; None for `*`, which is any.

    Weak tags count only for `weak` comparison (RFC 9110, 8.8.3.2).
    """
    if tags.strip() == "*":
        return None
    return {int(tag[2]) for tag in TAG.finditer(tags) if weak or not tag[1]}


def _taken() -> HTTPException:
    return HTTPException(409, "Another item has that name")


def _changed() -> HTTPException:
    return HTTPException(412, "The item has changed: read it again")


def _encode(item_id: int) -> str:
    return base64.urlsafe_b64encode(item_id.to_bytes(8, "big", signed=True)).decode().rstrip("=")


def _decode(cursor: str) -> int:
    return int.from_bytes(base64.urlsafe_b64decode(f"{cursor}="), "big", signed=True)
