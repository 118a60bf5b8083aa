"""Rows to try the service with: `make seed` adds those that are missing.

A service works too, with `from .items import service`:

    if not await service.list_after(session, 0, 1):
        await service.create(session, {"name": "lamp", "quantity": 3})
"""

from sqlalchemy.ext.asyncio import AsyncSession

from .app import create_app
from .chassis.database.seeding import insert_missing, run
from .settings import Settings

ITEMS = [{"name": "lamp", "quantity": 3}, {"name": "chair", "quantity": 10}]


async def seed(session: AsyncSession) -> None:
    await insert_missing(session, "items", ITEMS)


if __name__ == "__main__":
    run(seed, create_app, Settings)
