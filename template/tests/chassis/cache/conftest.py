"""A Redis for the tests of the cache."""

from collections.abc import Iterator

import pytest
import redis

from .server import RedisServer, forget, running


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[str]:
    with running() as url:
        yield url


@pytest.fixture
def url(shared_redis: str) -> str:
    """Return the URL of a Redis without keys of the service."""
    forget(shared_redis)
    return shared_redis


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """Start a Redis that the test may stop, freeze and fill."""
    server = RedisServer()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def admin(server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url) as client:
        yield client
