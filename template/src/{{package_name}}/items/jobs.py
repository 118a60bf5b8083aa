"""Work on items that happens later: an example to copy for your own jobs."""

import structlog
from sqlalchemy import select

from ..chassis.jobs import Run, job
from . import service
from .models import Item

LOW = 3

logger = structlog.get_logger()


@job(attempts=5, timeout=30)
async def restock(run: Run, item_id: int, quantity: int) -> None:
    """Fill the stock of an item up to a quantity.

    A job may run twice: the second time, this one changes nothing. If somebody changes the item
    at the same moment, `ChangedError` makes the worker run it again.
    """
    async with run.sessions() as session:
        item = await service.read(session, item_id)
        if item and item.quantity < quantity:
            await service.change(session, item_id, {"quantity": quantity}, [item.version])
            await session.commit()


@job(cron="0 3 * * *")
async def report_low_stock(run: Run) -> None:
    """Log the names of the items to order, each night at three (UTC)."""
    async with run.sessions() as session:
        names = await session.scalars(select(Item.name).where(Item.quantity < LOW))
        logger.info("items are low", names=names.all())
