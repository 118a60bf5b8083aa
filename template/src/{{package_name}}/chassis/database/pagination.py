"""Pages of a list, each with a cursor that gets the next one."""

import base64
from collections.abc import Sequence
from typing import Annotated, Any, Generic, Self, TypeVar

from fastapi import Query
from pydantic import BaseModel

T = TypeVar("T")

Limit = Annotated[int, Query(ge=1, le=100)]
# Any such text is a cursor: eight bytes in base64url.
Cursor = Annotated[str, Query(pattern=r"^[A-Za-z0-9_-]{11}$")]


class Page(BaseModel, Generic[T]):
    """`next_cursor` gets the next page; null on the last one."""

    items: list[T]
    next_cursor: str | None

    @classmethod
    def of(cls, rows: Sequence[Any], limit: int) -> Self:
        """Make a page of the first `limit` of `rows`, of which the database was asked for one more.

        Each row has an `id`, by which they are in order.
        """
        items = rows[:limit]
        next_cursor = encode(items[-1].id) if len(rows) > limit else None
        # All at once, in pydantic's own code.
        return cls.model_validate({"items": items, "next_cursor": next_cursor})


def encode(last_id: int) -> str:
    """Return the cursor of the page after the row of that id (64 bits)."""
    return base64.urlsafe_b64encode(last_id.to_bytes(8, "big", signed=True)).decode().rstrip("=")


def decode(cursor: str | None) -> int:
    """Return the id after which the page begins; 0 without a cursor, for the first page."""
    if cursor is None:
        return 0
    return int.from_bytes(base64.urlsafe_b64decode(f"{cursor}="), "big", signed=True)
