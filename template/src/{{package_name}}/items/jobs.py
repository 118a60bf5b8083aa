"""Work on items that happens later: an example to copy for your own jobs."""

import structlog
from sqlalchemy import select, update

from ..chassis.jobs import Run, job
from .models import Item

LOW = 3

logger = structlog.get_logger()


@job(attempts=5, timeout=30)
async def restock(run: Run, item_id: int, quantity: int) -> None:
    """Add what a supplier delivered; twice, if the worker ends after the commit."""
    async with run.sessions() as session:
        added = update(Item).where(Item.id == item_id).values(quantity=Item.quantity + quantity)
        await session.execute(added)
        await session.commit()


@job(cron="0 3 * * *")
async def report_low_stock(run: Run) -> None:
    """Log the names of the items to order, each night at three (UTC)."""
    async with run.sessions() as session:
        names = await session.scalars(select(Item.name).where(Item.quantity < LOW))
        logger.info("items are low", names=names.all())
