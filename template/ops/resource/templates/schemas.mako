"""${d.title} in requests and responses."""

import datetime as dt
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Path
from pydantic import BaseModel, ConfigDict, Field

from ..chassis.database.pagination import Page
from ..chassis.database.types import Day, Json, Key, Moment, places

# What the columns can hold.
${d.cls}Id = Annotated[int, Path(ge=1, le=2**63 - 1)]
% for field in d.fields:
% if field.is_aliased:
${field.alias} = ${field.kind.value}
% endif
% endfor
# In a change; a factory keeps the default out of the schema, where it would seem to be set.
LEFT_OUT: Any = Field(default_factory=lambda: None)


class New${d.cls}(BaseModel):
    model_config = ConfigDict(extra="forbid")

% for field in d.fields:
    ${field.name}: ${field.value}${f" = {field.default}" if field.may_be_left_out else ""}
% endfor


class ${d.cls}Change(BaseModel):
    """A field that is left out stays as it is (JSON Merge Patch, RFC 7396)."""

    model_config = ConfigDict(extra="forbid")

% for field in d.fields:
    ${field.name}: ${field.value} = LEFT_OUT
% endfor


class ${d.cls}(BaseModel):
    """`version` in quotes is the ${d.words}'s ETag."""

    model_config = ConfigDict(from_attributes=True)

    id: int
% for field in d.fields:
    ${field.name}: ${field.read}
% endfor
    version: int


class ${d.cls}Page(Page[${d.cls}]):
    """Pass `next_cursor` as `cursor` to get the next page; it is null on the last one."""
