"""Your migrations, on a database of their own."""

from collections.abc import Iterator

import pytest
from alembic import command

from .chassis.database.support import alembic, empty_database


@pytest.fixture
def empty() -> Iterator[str]:
    with empty_database() as url:
        yield url


def test_migrations_and_models_agree(empty: str) -> None:
    """If they don't: `make migration m="..."`."""
    command.upgrade(alembic(empty), "head")
    command.check(alembic(empty))


def test_every_migration_upgrades_downgrades_and_upgrades_again(empty: str) -> None:
    command.upgrade(alembic(empty), "head")
    command.downgrade(alembic(empty), "base")
    command.upgrade(alembic(empty), "head")
