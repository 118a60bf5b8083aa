"""What differs between databases; `sqlite` and `postgresql` each have a `driver`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pydantic import SecretStr
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from ..settings import EnvironmentSettings


class DatabaseSettings(EnvironmentSettings):
    database_url: SecretStr


class CreateEngine(Protocol):
    def __call__(self, url: str, *, migrating: bool = False) -> AsyncEngine: ...


@dataclass(frozen=True, kw_only=True)
class Driver:
    settings: type[DatabaseSettings]
    create_engine: CreateEngine
    reading: Callable[[AsyncEngine], AsyncEngine]
    """Return an engine over the same pool that runs each statement without a transaction."""
    read_session: type[AsyncSession] = AsyncSession
    is_down: Callable[[DBAPIError], bool]
    """Check whether the database is at fault, so that the same request may succeed later."""
