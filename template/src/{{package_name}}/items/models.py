"""Items in the database."""

from sqlalchemy import BigInteger, CheckConstraint, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from ..chassis.database import Base

# SQLite generates ids for INTEGER columns only, which hold 64 bits there.
Id = BigInteger().with_variant(Integer(), "sqlite")


class Item(Base):
    __tablename__ = "items"
    __table_args__ = (
        CheckConstraint("quantity >= 0", name="quantity_not_negative"),
        # Else SQLite gives the id of a deleted row to the next one.
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(String(100), unique=True)
    description: Mapped[str | None] = mapped_column(String(1000))
    quantity: Mapped[int]
    version: Mapped[int] = mapped_column(default=1)
