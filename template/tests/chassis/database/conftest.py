"""The database that tests of the chassis write to and take down."""

from collections.abc import Iterator

import pytest

from .support import database_with_notes


@pytest.fixture(scope="module")
def notes_url() -> Iterator[str]:
    with database_with_notes() as url:
        yield url
