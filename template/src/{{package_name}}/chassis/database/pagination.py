"""Lists in pages, each with a cursor for the next one."""

import base64
from collections.abc import Sequence
from typing import Annotated, Any, Generic, Self, TypeVar

from fastapi import Query
from pydantic import BaseModel

__all__ = ["Cursor", "Limit", "Page", "decode", "encode"]

T = TypeVar("T")

Limit = Annotated[int, Query(ge=1, le=100)]
# Eight bytes in base64url; any such text is a cursor.
Cursor = Annotated[str, Query(pattern=r"^[A-Za-z0-9_-]{11}$")]


class Page(BaseModel, Generic[T]):
    """Pass `next_cursor` as `cursor` to get the next page; it is null on the last one."""

    items: list[T]
    next_cursor: str | None

    @classmethod
    def of(cls, rows: Sequence[Any], limit: int) -> Self:
        """Make a page of the first `limit` of `rows`; one more row means that there is a next page.

        The rows are in the order of their `id`.
        """
        items = rows[:limit]
        next_cursor = encode(items[-1].id) if len(rows) > limit else None
        # One call validates all rows in pydantic's compiled code.
        return cls.model_validate({"items": items, "next_cursor": next_cursor})


def encode(last_id: int) -> str:
    """Return the cursor of the page after the row of that id (64 bits)."""
    return base64.urlsafe_b64encode(last_id.to_bytes(8, "big", signed=True)).decode().rstrip("=")


def decode(cursor: str | None) -> int:
    """Return the id after which the page begins; 0 without a cursor, for the first page."""
    if cursor is None:
        return 0
    return int.from_bytes(base64.urlsafe_b64decode(f"{cursor}="), "big", signed=True)
