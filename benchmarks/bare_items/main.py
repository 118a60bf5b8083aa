"""The list of items as FastAPI's and SQLAlchemy's own tutorials would write it."""

import os
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, FastAPI, Query
from pydantic import BaseModel, ConfigDict
from sqlalchemy import BigInteger, String, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

engine = create_async_engine(os.environ["DATABASE_URL"], pool_size=10, max_overflow=0)
sessions = async_sessionmaker(engine, expire_on_commit=False)
app = FastAPI()


class Base(DeclarativeBase):
    pass


class ItemRow(Base):
    __tablename__ = "items"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    description: Mapped[str | None] = mapped_column(String(1000))
    quantity: Mapped[int]
    version: Mapped[int]


class Item(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    name: str
    description: str | None
    quantity: int
    version: int


class ItemPage(BaseModel):
    items: list[Item]
    next_cursor: str | None


async def get_session() -> AsyncIterator[AsyncSession]:
    async with sessions() as session:
        yield session


@app.get("/v1/items")
async def list_items(
    session: Annotated[AsyncSession, Depends(get_session)], limit: Annotated[int, Query(ge=1, le=100)] = 50
) -> ItemPage:
    query = select(ItemRow).where(ItemRow.id > 0).order_by(ItemRow.id).limit(limit + 1)
    found = (await session.scalars(query)).all()
    items = [Item.model_validate(item) for item in found[:limit]]
    return ItemPage(items=items, next_cursor=str(items[-1].id) if len(found) > limit else None)
