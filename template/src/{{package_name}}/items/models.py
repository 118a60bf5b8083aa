"""Items in the database."""

from sqlalchemy import CheckConstraint, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from ..chassis.database import Base
from ..chassis.database.types import Id


class Item(Base):
    __tablename__ = "items"
    __table_args__ = (
        CheckConstraint("quantity >= 0", name="quantity_range"),
        # Else SQLite gives the id of a deleted row to the next one.
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(String(100), unique=True)
    description: Mapped[str | None] = mapped_column(Text)
    quantity: Mapped[int]
    version: Mapped[int] = mapped_column(default=1)
