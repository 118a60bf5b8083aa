"""What can be done with items, without HTTP.

Nothing here commits: the route does, or whoever opened the session. So one transaction can
consist of several calls.
"""

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Row, bindparam, delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from .models import Item

# Built once, and it returns rows: objects that the session tracks take a fifth of the request.
PAGE = (
    select(Item.__table__)
    .where(Item.id > bindparam("after"))
    .order_by(Item.id)
    .limit(bindparam("limit"))
)


class ChangedError(Exception):
    """The item is no longer in a version that the caller knows."""


async def create(session: AsyncSession, values: dict[str, Any]) -> Item:
    item = Item(**values)
    session.add(item)
    await session.flush()
    return item


async def read(session: AsyncSession, item_id: int) -> Item | None:
    return await session.get(Item, item_id)


async def list_after(session: AsyncSession, item_id: int, limit: int) -> Sequence[Row[Any]]:
    """Return up to `limit` items in the order of their ids, starting after `item_id`."""
    return (await session.execute(PAGE, {"after": item_id, "limit": limit})).all()


async def change(
    session: AsyncSession, item_id: int, values: dict[str, Any], versions: Collection[int] | None
) -> Item | None:
    """Change an item that is in one of `versions` (None: any), in one statement.

    Return None if there is no such item; raise `ChangedError`.
    """
    statement = update(Item).where(Item.id == item_id).returning(Item)
    if versions is not None:
        statement = statement.where(Item.version.in_(versions))
    item = await session.scalar(statement.values(**values, version=Item.version + 1))
    if item is None and await read(session, item_id):
        raise ChangedError
    return item


async def remove(session: AsyncSession, item_id: int, versions: Collection[int] | None) -> bool:
    """Delete an item that is in one of `versions` (None: any).

    Return whether there was one; raise `ChangedError`.
    """
    statement = delete(Item).where(Item.id == item_id).returning(Item.id)
    if versions is not None:
        statement = statement.where(Item.version.in_(versions))
    removed = await session.scalar(statement)
    if removed is None and await read(session, item_id):
        raise ChangedError
    return removed is not None
