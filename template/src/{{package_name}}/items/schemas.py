"""Items in requests and responses."""

from typing import Annotated, Any

from fastapi import Path
from pydantic import BaseModel, ConfigDict, Field

from ..chassis.database.pagination import Page

# What the columns can hold.
ItemId = Annotated[int, Path(ge=1, le=2**63 - 1)]
Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")]
Description = Annotated[str, Field(max_length=1000, pattern=r"^[^\x00]*$")]
Quantity = Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)]
# In a change; a factory keeps the default out of the schema, where it would seem to be set.
LEFT_OUT: Any = Field(default_factory=lambda: None)


class NewItem(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Name
    description: Description | None = None
    quantity: Quantity = 0


class ItemChange(BaseModel):
    """A field that is left out stays as it is (JSON Merge Patch, RFC 7396)."""

    model_config = ConfigDict(extra="forbid")

    name: Name = LEFT_OUT
    description: Description | None = LEFT_OUT
    quantity: Quantity = LEFT_OUT


class Item(BaseModel):
    """`version` in quotes is the item's ETag."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    name: str
    description: str | None
    quantity: int
    version: int


class ItemPage(Page[Item]):
    """Pass `next_cursor` as `cursor` to get the next page; it is null on the last one."""
