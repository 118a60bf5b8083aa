"""What can be done with ${d.many}, without HTTP.

Nothing here commits: the route does, or whoever opened the session. So one transaction can
consist of several calls.
"""

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Row, bindparam, delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from .models import ${d.cls}

# Built once, and it returns rows: objects that the session tracks take a fifth of the request.
PAGE = (
    select(${d.cls}.__table__)
    .where(${d.cls}.id > bindparam("after"))
    .order_by(${d.cls}.id)
    .limit(bindparam("limit"))
)


class ChangedError(Exception):
    """The ${d.words} is no longer in a version that the caller knows."""


async def create(session: AsyncSession, values: dict[str, Any]) -> ${d.cls}:
    ${d.one} = ${d.cls}(**values)
    session.add(${d.one})
    await session.flush()
    return ${d.one}


async def read(session: AsyncSession, ${d.one}_id: int) -> ${d.cls} | None:
    return await session.get(${d.cls}, ${d.one}_id)


async def list_after(session: AsyncSession, ${d.one}_id: int, limit: int) -> Sequence[Row[Any]]:
    """Return up to `limit` ${d.many} in the order of their ids, starting after `${d.one}_id`."""
    return (await session.execute(PAGE, {"after": ${d.one}_id, "limit": limit})).all()


async def change(
    session: AsyncSession, ${d.one}_id: int, values: dict[str, Any], versions: Collection[int] | None
) -> ${d.cls} | None:
    """Change ${d.an} that is in one of `versions` (None: any), in one statement.

    Return None if there is no such ${d.words}; raise `ChangedError`.
    """
    statement = update(${d.cls}).where(${d.cls}.id == ${d.one}_id).returning(${d.cls})
    if versions is not None:
        statement = statement.where(${d.cls}.version.in_(versions))
    ${d.one} = await session.scalar(statement.values(**values, version=${d.cls}.version + 1))
    if ${d.one} is None and await read(session, ${d.one}_id):
        raise ChangedError
    return ${d.one}


async def remove(session: AsyncSession, ${d.one}_id: int, versions: Collection[int] | None) -> bool:
    """Delete ${d.an} that is in one of `versions` (None: any).

    Return whether there was one; raise `ChangedError`.
    """
    statement = delete(${d.cls}).where(${d.cls}.id == ${d.one}_id).returning(${d.cls}.id)
    if versions is not None:
        statement = statement.where(${d.cls}.version.in_(versions))
    removed = await session.scalar(statement)
    if removed is None and await read(session, ${d.one}_id):
        raise ChangedError
    return removed is not None
