"""Cached functions and rate limits in Redis; while Redis is down, the service works without."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends
from fastapi.requests import HTTPConnection
from pydantic import SecretStr

from ..feature import DegradedError, Feature, NotReadyError
from ..service import Service, settings_of, state_of
from ..settings import EnvironmentSettings
from .client import Cache, RedisUrl
from .functions import cached, invalidate
from .limits import client_of, rate_limit
from .responses import NOT_MODIFIED, IfChanged

__all__ = [
    "NOT_MODIFIED",
    "Cache",
    "CacheDep",
    "IfChanged",
    "Settings",
    "cached",
    "client_of",
    "feature",
    "invalidate",
    "rate_limit",
]


class Settings(EnvironmentSettings):
    """Where Redis is, and whether the service is ready without it."""

    redis_url: RedisUrl = SecretStr("redis://localhost:6379/0")
    redis_required: bool = False


@asynccontextmanager
async def _lifespan(service: Service) -> AsyncIterator[Cache]:
    cache = Cache(settings_of(service, Settings).redis_url.get_secret_value())
    yield cache
    await cache.close()


async def _check(service: Service) -> None:
    cache = state_of(service, Cache)
    await cache.attempt("ping", lambda redis: redis.ping())
    if cache.is_down:
        required = settings_of(service, Settings).redis_required
        raise (NotReadyError if required else DegradedError)("redis is down")


async def _cache(connection: HTTPConnection) -> Cache:
    return state_of(connection, Cache)


CacheDep = Annotated[Cache, Depends(_cache)]
feature = Feature(name="cache", settings=Settings, lifespan=_lifespan, checks={"cache": _check})
