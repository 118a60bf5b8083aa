"""${d.title} in the database."""

import datetime as dt
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, BigInteger, CheckConstraint, ForeignKey, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from ..chassis.database import Base
from ..chassis.database.types import ExactNumeric, Id, UtcDateTime
% for imported in sorted(imports):
${imported}
% endfor


class ${d.cls}(Base):
    __tablename__ = "${d.name}"
% if d.conditions:
    __table_args__ = (
% for name, text in d.conditions:
        CheckConstraint(${repr(text)}, name="${name}"),
% endfor
        # Else SQLite gives the id of a deleted row to the next one.
        {"sqlite_autoincrement": True},
    )
% else:
    # Else SQLite gives the id of a deleted row to the next one.
    __table_args__ = {"sqlite_autoincrement": True}
% endif

    id: Mapped[int] = mapped_column(Id, primary_key=True)
% for field in d.fields:
    ${field.name}: Mapped[${field.model}]${f" = mapped_column({field.column})" if field.column else ""}
% endfor
    version: Mapped[int] = mapped_column(default=1)
