"""What an update of a project that keeps data brings: its example and models are the owner's."""

import re
from typing import Any

import pytest
from conftest import commit, make_check, run
from test_database import delete_the_example
from test_update import NEXT, RELEASES, conflicts, released, start, tree, update, upstream

# Fixtures, by name.
__all__ = ["released", "start", "upstream"]
OLDER = RELEASES["1.3.0"]
OWNED = ("src/my_service/items/", "migrations/versions/", "tests/test_items.py")


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_the_example_of_1_3_0_passes_make_check_after_an_update(start: Any, database: str) -> None:
    """Its services commit by themselves, and it has ETags and cursors of its own."""
    project = start(OLDER, database=database)
    kept = {name: content for name, content in tree(project).items() if name.startswith(OWNED)}
    assert b"session.commit()" in kept["src/my_service/items/service.py"]
    update(project)
    assert conflicts(project) == []
    assert {name: content for name, content in tree(project).items() if name.startswith(OWNED)} == kept
    make_check(project)


def test_models_that_1_3_0_listed_are_still_found_after_an_update(start: Any) -> None:
    project = start(OLDER, database="sqlite")
    package, environment = project / "src/my_service", project / "migrations/env.py"
    (package / "orders").mkdir()
    (package / "orders/__init__.py").touch()
    (package / "orders/tables.py").write_text((package / "items/models.py").read_text().replace("Item", "Order"))
    (package / "orders/tables.py").write_text((package / "orders/tables.py").read_text().replace('"items"', '"orders"'))
    line = "from my_service.orders import tables  # noqa: F401\n"
    environment.write_text(environment.read_text().replace("# Yours:\n", f"# Yours:\n{line}"))
    run("make", "format", cwd=project)
    commit(project, "our table")
    update(project)
    assert conflicts(project) == []
    assert line in environment.read_text()
    run("make", "lock", cwd=project)
    run("make", "lint", cwd=project)
    run("make", "migration", "m=orders", cwd=project)
    written = [path.read_text() for path in (project / "migrations/versions").glob("*.py")]
    assert any('"orders"' in text for text in written)


def test_redis_goes_without_a_conflict_where_the_example_is_gone(start: Any) -> None:
    project = start(NEXT, database="sqlite", cache="redis")
    delete_the_example(project)
    commit(project, "our work")
    update(project, cache="none")
    assert conflicts(project) == []
    app = (project / "src/my_service/app.py").read_text()
    assert not re.findall(r"items|\bcache\b", app)
    for name in ("src/my_service/items", "tests/test_items.py", "src/my_service/cache.py"):
        assert not (project / name).exists()
    run("make", "lint", cwd=project)
