"""Rows to try the service with: `make seed` adds those that are missing.

To use your services in place of tables, call them with the session, and skip what they refuse:

    if not (await items.list_after(session, 0, 1)):
        await items.create(session, {"name": "lamp", "quantity": 3})
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
