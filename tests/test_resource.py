"""`make resource` writes a tested resource, refuses what it can't write, and `make resource-remove` undoes it."""

import ast
import contextlib
import json
import os
import re
import shutil
import string
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import files, free_port, get, run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

EXAMPLE = "name:str(100)! description:text(1000)? quantity:int(0..)=0"
LAMPS = """
from sqlalchemy.orm import Mapped, mapped_column

from ..chassis.database import Base


class Lamp(Base):
    __tablename__ = "lamps"

    id: Mapped[int] = mapped_column(primary_key=True)
    watts: Mapped[int]


# The chassis's tests have a table of that name too.
class Book(Base):
    __tablename__ = "books"

    id: Mapped[int] = mapped_column(primary_key=True)
"""
# Every type; optional, unique and with a default; references to a generated, a handwritten and its own table.
RESOURCES = {
    "companies": "name:str! founded:date?! seen:datetime! key:uuid! number:int(1..)! total:decimal(12,2)!",
    "order_lines": "quantity:int(0..)=0 price:decimal(12,2,0.01..)? order:bigint(5..)? due:date at:datetime? "
    "status:enum(open,part-paid)=open note:text? paid:bool=false data:json extra:json? token:uuid? "
    "share:float(0..1)=0.5 weight:float type:str(3..20)=none company_id:ref(companies) lamp_id:ref(lamps)?!",
    "categories": "title:str(3..40) parent_id:ref(categories)? first_id:ref(order_lines)?",
}
WRITTEN = ("__init__", "models", "schemas", "service", "routes")


@pytest.fixture(scope="session")
def generator(render: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """The modules of `ops/resource`, and a project of SQLite to write to in memory."""
    folder = tmp_path_factory.mktemp("generator")
    shutil.copytree(render(database="sqlite"), folder / "project")
    sys.path.insert(0, str(folder / "project"))
    from ops.resource import definition, kind, project, writing

    yield SimpleNamespace(
        Definition=definition.Definition,
        RefusedError=kind.RefusedError,
        project=project.Project(folder / "project"),
        writing=writing,
    )
    sys.path.remove(str(folder / "project"))


def test_the_example_is_what_the_generator_writes(generator: Any) -> None:
    definition, project = generator.Definition("items", EXAMPLE), generator.project
    migration = project.migrations / "0001_items.py"
    values = {"message": "Items", "drops": False, "revision": "0001", "down_revision": None}
    texts = generator.writing.modules(project, definition)
    texts[migration] = generator.writing.render("migration", definition, **values)
    for path, text in generator.writing.formatted(project, texts).items():
        assert project.read(path) == text, path


# --- Any definition ----------------------------------------------------------

WORDS = ["order", "select", "item", "page", "type", "date", "datetime", "field", "path", "day", "new", "user", "none"]
NAMES = st.one_of(st.sampled_from(WORDS), st.from_regex(r"[a-z][a-z0-9]{0,9}(_[a-z0-9]{1,9}){0,2}", fullmatch=True))
SMALL = st.integers(-2000, 2000)


def ranges(numbers: st.SearchStrategy[Any]) -> st.SearchStrategy[str]:
    def shown(ends: list[Any], form: int) -> str:
        low, high = sorted(ends)
        return [f"{low}..", f"..{high}", f"{low}..{high}"][form]

    return st.builds(shown, st.lists(numbers, min_size=2, max_size=2), st.integers(0, 2))


def decimals(digits: int, places: int, bounds: str) -> str:
    places = min(places, digits)
    return f"decimal({digits},{places},{bounds})" if bounds and digits - places > 3 else f"decimal({digits},{places})"


ENUMS = st.lists(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,8}", fullmatch=True), min_size=1, max_size=4, unique=True)
TYPES = st.one_of(
    st.sampled_from(["str", "text", "int", "bigint", "float", "decimal", "bool", "date", "datetime", "uuid", "json"]),
    st.sampled_from(["ref(items)", "ref(things)", "str(1)", "str(4)", "str(600)", "text(7)"]),
    st.builds("{}({})".format, st.sampled_from(["int", "bigint", "float"]), ranges(SMALL)),
    st.builds("{}({})".format, st.sampled_from(["str", "text"]), ranges(st.integers(1, 300))),
    st.builds(decimals, st.integers(1, 15), st.integers(0, 15), st.one_of(st.just(""), ranges(st.integers(-900, 900)))),
    st.builds("enum({})".format, ENUMS.map(",".join)),
)
FLAGS = st.sampled_from(["", "?", "!", "?!"])
DEFAULTS = st.sampled_from(
    ["int=0", "int(0..)?=5", "str=word", "bool=true", "decimal=-1.5", "float?=0.25", "enum(a,b)=b"]
)
FIELDS = st.one_of(
    st.builds("{}:{}".format, NAMES, TYPES),
    st.builds("{}:{}{}".format, NAMES, TYPES, FLAGS),
    st.builds("{}:{}".format, NAMES, DEFAULTS),
)


@pytest.mark.usefixtures("one_environment")
def test_whatever_is_accepted_is_formatted_and_typed_and_migrates(generator: Any, tmp_path: Path) -> None:
    """Every definition is refused in one line, or gives code that ruff, mypy and Alembic accept as it is."""
    texts: dict[Path, str] = {}
    accepted: list[Any] = []

    @settings(max_examples=30, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(FIELDS, min_size=1, max_size=8))
    def write(fields: list[str]) -> None:
        name = f"things{len(accepted)}"
        try:
            definition = generator.Definition(
                name, " ".join(fields).replace("ref(things)", f"ref({name})"), f"thing{len(accepted)}"
            )
        except generator.RefusedError:
            return
        modules = generator.writing.modules(generator.project, definition)
        recorded = generator.Definition.recorded(modules[generator.project.folder(name) / "__init__.py"])
        assert recorded.command == definition.command
        values = {"drops": False, "revision": name, "down_revision": accepted[-1].name if accepted else "0001"}
        texts.update(modules)
        migration = generator.writing.render("migration", definition, message=definition.title, **values)
        texts[generator.project.migrations / f"{name}.py"] = migration
        accepted.append(definition)

    write()
    assert len(accepted) > 9
    project = Path(shutil.copytree(generator.project.root, tmp_path / "project", ignore=no_bytecode))
    generator.writing.write(project, generator.writing.formatted(generator.project, texts))
    run("make", "lint", cwd=project)
    run("make", "test", "ARGS=--no-cov -n0 tests/test_migrations.py", cwd=project)


def no_bytecode(_: str, names: list[str]) -> list[str]:
    return [name for name in names if name == "__pycache__"]


@pytest.mark.usefixtures("generator")
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.text(string.printable, max_size=40), st.text(string.printable, max_size=60))
def test_any_other_text_is_refused_in_one_line(name: str, fields: str) -> None:
    from ops.resource.definition import Definition
    from ops.resource.kind import RefusedError

    for given_name, given_fields in ((name, "a:str"), ("orders", fields), ("orders", f"a:{fields}")):
        try:
            written = Definition(given_name, given_fields).command
        except RefusedError as refused:
            written = str(refused)
        assert written.isprintable()


REFUSED = {
    "a": "'a' is not a valid field: name:type, such as",
    "a:strr": "a: the types are str, text, int,",
    "a:str, b:int": "a: spaces separate fields, not commas",
    "a:str a:int": "there are two fields a",
    "class:str": "class has a meaning in",
    "metadata:str": "metadata has a meaning in",
    "model_x:str": "model_x has a meaning in",
    "count:int": "count has a meaning in",
    "id:int": "id has a meaning in",
    "A:str": "'A' is not a valid name",
    "a:int(5..1)": "a: '5..1' is an empty range: such as int(0..)",
    "a:int(0..)=-1": "a: the default -1 is out of its bounds",
    "a:int(0..99999999999)": "a: 99999999999 does not fit",
    "a:str(0)": "a: the maximum length is from 1 to 10000: such as str(100)",
    "a:str(2)=abc": "a: the default 'abc' has not 1 to 2 characters",
    "a:str='\"'": "a: a default is one word of",
    "a:decimal(2,5)": "a: a decimal has 1 to 28 digits",
    "a:decimal(20,2)": "a: SQLite keeps 15 digits",
    "a:enum": "a: enum lists different words",
    "a:enum(a,a)": "a: enum lists different words",
    "a:enum(a,b)=c": "a: the default 'c' is none of a, b",
    "a:ref(nobody)": "a: no model has the table nobody; there are: items",
    "a:ref(orders)": "a: the first of orders could refer to none",
    "a:bool!": "a: unique are str(4) to str(600)",
    "a:int(1..9)!": "a: unique are str(4) to str(600)",
    "a:int!=3": "a: a unique field has no default",
    "a:bool=maybe": "a: a default of bool is =true or =false",
    "a:json={}": "a: a json has no default",
    "a:str??": "'a:str??' has a flag twice",
    "": "FIELDS is empty: such as",
}
BAD_NAMES = {
    "Orders": "'Orders' is not a valid name",
    "order-lines": "'order-lines' is not a valid name",
    "class": "NAME=class has a meaning in Python",
    "sheep": "sheep has no known singular: give one, such as NAME=people SINGULAR=person",
    "responses": "response is a name in the code that would be written",
    "chassis": "src/my_service/chassis is there already",
    "items": "src/my_service/items is there already: `make resource-remove NAME=items` removes it",
}


def test_what_can_not_be_written_is_refused_and_nothing_changes(generator: Any) -> None:
    before = {name: (generator.project.root / name).read_bytes() for name in files(generator.project.root)}
    cases = [("orders", fields, told) for fields, told in REFUSED.items()]
    cases += [(name, "a:str", told) for name, told in BAD_NAMES.items()]
    from ops.resource.__main__ import add

    for name, fields, told in cases:
        with pytest.raises(generator.RefusedError) as refused:
            add(generator.project, name, fields, "chassi" if name == "chassis" else "")
        assert str(refused.value).startswith(told), (name, fields)
        assert "\n" not in str(refused.value)
    after = {name: (generator.project.root / name).read_bytes() for name in files(generator.project.root)}
    assert {name for name in after if "__pycache__" not in name} == {
        name for name in before if "__pycache__" not in name
    }
    assert after["src/my_service/app.py"] == before["src/my_service/app.py"]


def test_a_resource_stays_while_it_has_jobs_of_its_owner(generator: Any, tmp_path: Path) -> None:
    from ops.resource.__main__ import remove

    project = type(generator.project)(Path(shutil.copytree(generator.project.root, tmp_path / "project")))
    package = project.root / project.package
    (package / "seed.py").unlink()
    (package / "items/jobs.py").touch()
    app = package / "app.py"
    imported = "from .items import routes as items\n"
    edited = app.read_text().replace(imported, f"from .items import jobs as item_jobs\n{imported}\nitem_jobs.restock\n")
    app.write_text(edited)
    with pytest.raises(generator.RefusedError, match=r"^src/my_service/items/jobs\.py: not written by `make resource`"):
        remove(project, "items")
    (package / "items/jobs.py").unlink()
    with pytest.raises(generator.RefusedError, match=r"^src/my_service/app\.py uses item_jobs in one more place"):
        remove(project, "items")
    assert (app.read_text(), (package / "items/models.py").exists()) == (edited, True)
    app.write_text(edited.replace("item_jobs.restock\n", ""))
    remove(project, "items")
    assert (".items" in app.read_text(), (package / "items").exists()) == (False, False)


def test_a_resource_can_not_take_a_name_that_the_written_code_uses(generator: Any) -> None:
    types = "text bigint(1..) decimal(9,2,0.01..) uuid json str! date datetime enum(a) ref(items) float bool int(1..)"
    from ops.resource.app import identifiers

    fields = " ".join(f"gadget{number}:{kind}" for number, kind in enumerate(types.split()))
    definition = generator.Definition("gadgets", fields)
    texts = generator.writing.formatted(generator.project, generator.writing.modules(generator.project, definition))
    # In its test a resource is only part of longer names.
    modules = [ast.parse(text) for path, text in texts.items() if "tests" not in path.parts]
    used = set().union(*map(identifiers, modules))
    snakes = {re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower() for name in used if "adget" not in name} - {"item"}
    singulars = sorted(name for name in snakes if name.isidentifier() and not name.startswith(("_", "test_")))
    assert len(singulars) > 60
    accepted = []
    for singular in singulars:
        with contextlib.suppress(generator.RefusedError):
            accepted.append(generator.Definition(f"many_{singular}", "a:str", singular).one)
    assert " ".join(accepted) == ""


def test_app_py_without_its_anchors_and_two_newest_migrations_are_refused(generator: Any, tmp_path: Path) -> None:
    from ops.resource.__main__ import add
    from ops.resource.project import Project

    root = Path(shutil.copytree(generator.project.root, tmp_path / "project", ignore=no_bytecode))
    app, migration = root / "src/my_service/app.py", root / "migrations/versions/0001_items.py"
    text = app.read_text()
    for anchor in ("# isort: split\n# Yours:\n", "    # Yours:\n"):
        app.write_text(text.replace(anchor, ""))
        with pytest.raises(generator.RefusedError, match="app.py has no `# Yours:`"):
            add(Project(root), "orders", "a:str", "")
    app.write_text(text)
    migration.with_name("other.py").write_text(migration.read_text().replace('"0001"', '"0002"'))
    with pytest.raises(generator.RefusedError, match="several newest migrations, 0001, 0002: merge them"):
        add(Project(root), "orders", "a:str", "")
    assert not (root / "src/my_service/orders").exists()


def test_nothing_is_left_of_files_that_could_not_all_be_written(generator: Any, tmp_path: Path) -> None:
    (tmp_path / "kept.py").write_text("kept")
    texts = {Path("orders/new.py"): "new", Path("kept.py"): "changed", Path("kept.py/below.py"): "impossible"}
    with pytest.raises(NotADirectoryError):
        generator.writing.write(tmp_path, texts)
    assert files(tmp_path) == ["kept.py"]
    assert (tmp_path / "kept.py").read_text() == "kept"


def test_two_resources_at_once_are_both_written(generator: Any, tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(generator.project.root, project, ignore=no_bytecode)
    command = [sys.executable, "-m", "ops.resource"]
    both = [
        subprocess.Popen(command, cwd=project, env={**os.environ, "NAME": name, "FIELDS": "a:str"})
        for name in ("alphas", "betas")
    ]
    assert [one.wait(60) for one in both] == [0, 0]
    app = (project / "src/my_service/app.py").read_text()
    assert "alphas.router" in app
    assert "betas.router" in app


def test_singulars_follow_from_plurals(generator: Any) -> None:
    plurals = (
        "companies statuses people boxes order_lines houses addresses heroes analyses days buses categories shelves"
    )
    from ops.resource.names import singular

    assert " ".join(str(singular(plural)) for plural in plurals.split()) == (
        "company status person box order_line house address hero analysis day bus category shelf"
    )


# --- The whole thing ---------------------------------------------------------


def make_resource(project: Path, name: str, fields: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return run("make", "resource", f"NAME={name}", f"FIELDS={fields}", cwd=project, check=check)


SERVE = """
import json, os, subprocess, sys
from tests.chassis.database.support import migrated_database
credential, variables = {}, {}
if os.path.exists("tests/chassis/auth"):
    from tests.chassis.auth import callers
    credential, variables = callers.credential(), callers.environment()
with migrated_database() as url:
    service = [sys.executable, "-m", "my_service"]
    child = subprocess.Popen(service, env={**os.environ, **variables, "DATABASE_URL": url}, stdout=sys.stderr)
    print(json.dumps(credential), flush=True)
    sys.stdin.read()
    child.terminate()
    child.wait()
"""


@contextlib.contextmanager
def serving(project: Path, log: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Serve a project on a migrated database, as its tests make them; yield its address and a credential."""
    port = free_port()
    environment = {**os.environ, "PORT": str(port), "APP_ENV": "test", "LOG_LEVEL": "warning"}
    command = ["uv", "run", "--quiet", "python", "-c", SERVE]
    pipe = subprocess.PIPE
    with log.open("w") as err:
        process = subprocess.Popen(
            command, cwd=project, env=environment, stdin=pipe, stdout=pipe, stderr=err, text=True
        )
        try:
            assert process.stdout
            credential = json.loads(process.stdout.readline())
            get(f"http://127.0.0.1:{port}/health/live")
            yield f"http://127.0.0.1:{port}", credential
        finally:
            process.communicate()


def examine(url: str, credential: dict[str, str], folder: Path) -> None:
    """Send what schemathesis makes of the API's description, valid and invalid.

    Its check that valid requests succeed knows nothing of stale tags and unknown references.
    """
    command = ["schemathesis", "--no-color", "run", f"{url}/openapi.json", "--seed=1", "--max-examples=5"]
    command += [f"--header={name}:{value}" for name, value in credential.items()]
    command += ["--exclude-checks=positive_data_acceptance", "--phases=examples,coverage,fuzzing", "--warnings=off"]
    command += ["--include-path-regex=^/v1/(companies|order-lines|categories)", "--workers=1"]
    examined = run(*command, cwd=folder, check=False)
    assert examined.returncode == 0, examined.stdout
    assert re.search(r"\d{3,} generated", examined.stdout)


def contents(project: Path) -> dict[str, bytes]:
    listed = run(
        "git", "ls-files", "--others", "--exclude-standard", "--exclude=uv.lock", cwd=project
    ).stdout.splitlines()
    return {name: (project / name).read_bytes() for name in listed}


@pytest.mark.usefixtures("one_environment")
@pytest.mark.parametrize("answers", [{"database": "sqlite"}, {"database": "postgresql", "auth": "api-key"}], ids=str)
def test_three_resources_pass_every_check_and_can_be_removed(
    render: Any, tmp_path: Path, answers: dict[str, str]
) -> None:
    project = Path(shutil.copytree(render(**answers), tmp_path / "project"))
    run("git", "init", "--quiet", cwd=project)
    (project / "src/my_service/lamps").mkdir()
    (project / "src/my_service/lamps/__init__.py").touch()
    (project / "src/my_service/lamps/models.py").write_text(LAMPS.lstrip())
    run("make", "migration", "m=lamps", cwd=project)
    before = contents(project)
    for name, fields in RESOURCES.items():
        printed = make_resource(project, name, fields).stdout
        assert f"wrote src/my_service/{name}/models.py" in printed
    again = make_resource(project, "companies", "name:str", check=False)
    assert again.stderr.startswith("src/my_service/companies is there already")
    assert ("dependencies=[auth.required]" in (project / "src/my_service/app.py").read_text()) == ("auth" in answers)

    run("make", "lint", cwd=project)
    tests = " ".join(f"tests/test_{name}.py" for name in (*RESOURCES, "items", "migrations"))
    tests += " tests/chassis/database/test_faults.py tests/chassis/database/test_seeding.py"
    # Measured once: that takes as long as the tests themselves.
    measured = "--cov" if "auth" not in answers else "--no-cov"
    tested = run("make", "test", f"ARGS={tests} {measured} -n0", cwd=project)
    assert not re.search(rf"src/my_service/({'|'.join(RESOURCES)})/", tested.stdout)
    with serving(project, tmp_path / "log") as (url, credential):
        examine(url, credential, tmp_path)
    assert "Traceback" not in (tmp_path / "log").read_text()

    refused = run("make", "resource-remove", "NAME=companies", cwd=project, check=False)
    assert "companies is still used in src/my_service/order_lines/models.py" in refused.stderr
    routes = project / "src/my_service/categories/routes.py"
    text = routes.read_text()
    routes.write_text(f"{text}\n# Edited.\n")
    refused = run("make", "resource-remove", "NAME=categories", cwd=project, check=False)
    assert refused.stderr.startswith("src/my_service/categories/routes.py: edited since")
    routes.write_text(text)
    for name in reversed(RESOURCES):
        run("make", "resource-remove", f"NAME={name}", cwd=project)
    left = contents(project)
    migrations = {name for name in left if name.startswith("migrations/versions/")} - before.keys()
    assert len(migrations) == 6
    assert {name: text for name, text in left.items() if name not in migrations} == before
    run("make", "test", "ARGS=--no-cov -n0 tests/test_migrations.py", cwd=project)


def test_a_resource_needs_a_database(render: Any) -> None:
    for target in ("resource", "resource-remove"):
        refused = run("make", target, "NAME=orders", "FIELDS=a:str", cwd=render(), check=False)
        assert refused.returncode != 0
        assert refused.stderr.startswith(f"'make {target}' needs a database: add one with 'make add FEATURE=sqlite'")
