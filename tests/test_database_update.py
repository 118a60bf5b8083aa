"""Updates of projects with a database: the example, the models and the migrations are the owner's."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, commit, features_only, make_check, run
from test_database import delete_the_example
from test_update import NEXT, RELEASES, conflicts, merge_into, released, start, updater, upstream

# Fixtures, by name.
__all__ = ["merge_into", "released", "start", "updater", "upstream"]
OLDER = RELEASES["1.3.0"]
OWN_TABLES = "from my_service.orders import tables  # noqa: F401\n"


def update_from_1_3_0(
    start: Any, released: Any, merge_into: Any, database: str, prepare: Callable[[Path], None]
) -> Path:
    """Merge this release into an edited project of 1.3.0, as the updater of 1.4.0 does, and rewrite its imports."""
    project: Path = start(OLDER, database=database)
    prepare(project)
    commit(project, "our work")
    merge_into(project, released(OLDER, database=database), released(NEXT, database=database))
    assert conflicts(project) == []
    run("python3", ROOT / "upgrade/imports_2_0.py", cwd=project)
    run("make", "lock", "format", cwd=project)
    return project


@pytest.mark.usefixtures("one_environment")
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_the_example_of_1_3_0_passes_make_check_after_an_update(
    start: Any, released: Any, merge_into: Any, database: str
) -> None:
    """Its services commit by themselves, and it has ETags and cursors of its own."""
    project = update_from_1_3_0(start, released, merge_into, database, lambda _: None)
    assert "session.commit()" in (project / "src/my_service/items/service.py").read_text()
    make_check(project, features_only(project))


def own_tables(project: Path) -> None:
    package, environment = project / "src/my_service", project / "migrations/env.py"
    (package / "orders").mkdir()
    (package / "orders/__init__.py").touch()
    tables = (package / "items/models.py").read_text().replace("Item", "Order").replace('"items"', '"orders"')
    (package / "orders/tables.py").write_text(tables)
    environment.write_text(environment.read_text().replace("# Yours:\n", f"# Yours:\n{OWN_TABLES}"))
    run("make", "format", cwd=project)


@pytest.mark.usefixtures("one_environment")
def test_tables_that_env_py_of_1_3_0_imports_are_still_found_after_an_update(
    start: Any, released: Any, merge_into: Any
) -> None:
    project = update_from_1_3_0(start, released, merge_into, "sqlite", own_tables)
    assert OWN_TABLES in (project / "migrations/env.py").read_text()
    run("make", "lint", cwd=project)
    run("make", "migration", "m=orders", cwd=project)
    written = [path.read_text() for path in (project / "migrations/versions").glob("*.py")]
    assert any('"orders"' in text for text in written)


@pytest.mark.usefixtures("one_environment")
def test_switching_the_cache_off_has_no_conflict_without_the_example(
    start: Any, released: Any, merge_into: Any
) -> None:
    """One line of app.py imports both what only the example used, and the cache."""
    before = {"database": "sqlite", "cache": "redis", "auth": "jwt"}
    project = start(NEXT, **before)
    delete_the_example(project)
    commit(project, "our work")
    merge_into(project, released(NEXT, **before), released(NEXT, **{**before, "cache": "none"}))
    assert conflicts(project) == []
    app = (project / "src/my_service/app.py").read_text()
    assert not re.findall(r"items|\bcache\b|import auth", app)
    for name in ("src/my_service/items", "tests/test_items.py", "src/my_service/chassis/cache"):
        assert not (project / name).exists()
    run("make", "lint", cwd=project)
