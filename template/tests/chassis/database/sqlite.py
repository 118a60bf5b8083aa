"""SQLite files for the tests."""

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

UNREACHABLE = "sqlite:////nowhere/test.db"


@contextmanager
def empty_database() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="sqlite-") as folder:
        yield f"sqlite:///{folder}/test.db"


def execute(url: str, statement: str) -> Any:
    """Run a statement without the service; return the first value, if there is one."""
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection, connection:
        row = connection.execute(statement).fetchone()
        return row[0] if row else None


@contextmanager
def locked(url: str) -> Iterator[None]:
    """Hold the lock that writers wait for."""
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
