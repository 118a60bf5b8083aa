"""The project that a resource is written to: its tables, its migrations, its app.py."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .decimals import Decimals
from .definition import Definition
from .kind import RefusedError

IMPORTS = "# isort: split\n# Yours:\n"
ROUTERS = "    # Yours:\n"


class Project:
    """The folder in which the command runs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        settings = tomllib.loads((root / "pyproject.toml").read_text())
        self.name = settings["tool"]["uv"]["build-backend"]["module-name"]
        self.package = Path("src") / self.name
        self.app = self.package / "app.py"
        self.migrations = Path("migrations/versions")

    def has(self, part: str) -> bool:
        """Check for a part of the chassis that an answer brings."""
        return (self.root / self.package / "chassis" / part).exists()

    def folder(self, name: str) -> Path:
        return self.package / name

    def test(self, name: str) -> Path:
        return Path(f"tests/test_{name}.py")

    def check_new(self, definition: Definition) -> None:
        """Refuse what is there already."""
        name = definition.name
        init = self.folder(name) / "__init__.py"
        if (self.root / init).exists() and Definition.recorded(self.read(init)):
            raise RefusedError(
                f"{self.folder(name)} is there already: `make resource-remove NAME={name}` removes it"
            )
        for path in (self.folder(name), self.folder(name).with_suffix(".py"), self.test(name)):
            if (self.root / path).exists():
                raise RefusedError(f"{path} is there already: choose another NAME")
        if name in self.tables():
            where = self.tables()[name][0]
            raise RefusedError(f"{where} has a table {name} already: choose another NAME")
        if self.app_uses(name):
            raise RefusedError(
                f"{self.app} uses the name {name}: choose another, such as NAME=stock_{name}"
            )
        if self.has("database/sqlite.py"):
            for field in definition.fields:
                if isinstance(field.kind, Decimals) and field.kind.digits > 15:
                    raise RefusedError(
                        f"{field.name}: SQLite keeps 15 digits of a decimal exactly: such as decimal(15,2)"
                    )

    def app_uses(self, name: str) -> bool:
        return name in self.names_of_app()

    def names_of_app(self) -> set[str]:
        """Return every name that app.py uses."""
        found: set[str] = set()
        for node in ast.walk(ast.parse(self.read(self.app))):
            if isinstance(node, ast.Name):
                found.add(node.id)
            elif isinstance(node, ast.arg):
                found.add(node.arg)
            elif isinstance(node, ast.alias):
                found.add((node.asname or node.name).split(".")[0])
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found.add(node.name)
        return found

    def read(self, path: Path) -> str:
        return (self.root / path).read_text(encoding="utf-8")

    def sources(self, *folders: Path) -> Iterator[tuple[Path, ast.Module]]:
        for folder in folders:
            for path in sorted((self.root / folder).rglob("*.py")):
                try:
                    yield path.relative_to(self.root), ast.parse(path.read_text(encoding="utf-8"))
                except SyntaxError as error:
                    raise RefusedError(f"{path.relative_to(self.root)}: {error.msg}") from None

    def tables(self) -> dict[str, tuple[Path, str, str]]:
        """Return of each table its file, its class, and how the class annotates the id."""
        found = {}
        for path, module in self.sources(self.package):
            for node in module.body:
                if isinstance(node, ast.ClassDef) and (table := _table(node)):
                    found[table] = (path, node.name, _annotation(node, "id"))
        return found

    def refer(self, definition: Definition) -> list[str]:
        """Point each reference to its model; return the imports of the models."""
        imports = set()
        tables = self.tables()
        for ref in definition.refs:
            if ref.table == definition.name:
                continue
            if ref.table not in tables:
                known = ", ".join(sorted(tables)) or "none yet"
                raise RefusedError(
                    f"{ref.name}: no model has the table {ref.table}; there are: {known}"
                )
            path, name, annotation = tables[ref.table]
            if annotation != "Mapped[int]":
                raise RefusedError(
                    f"{ref.name}: ref needs a number as id: {name} in {path} has no `id: Mapped[int]`"
                )
            if name == definition.cls:
                raise RefusedError(
                    f"{ref.name}: {path} has a class {name} too: give another SINGULAR, such as SINGULAR=stock_{definition.one}"
                )
            ref.target = f"{name}.id"
            module = ".".join(path.relative_to(self.package).with_suffix("").parts)
            imports.add(f"from ..{module} import {name}")
        return sorted(imports)

    def head(self) -> str | None:
        """Return the newest migration."""
        known: set[str] = set()
        followed: set[str] = set()
        for _, module in self.sources(self.migrations):
            values = _values(module)
            if "revision" not in values:
                continue
            known.add(values["revision"])
            for name in ("down_revision", "depends_on"):
                below = values.get(name) or ()
                followed |= {below} if isinstance(below, str) else {*below}
        heads = sorted(known - followed)
        if len(heads) > 1:
            raise RefusedError(
                f"there are several newest migrations, {', '.join(heads)}: "
                "merge them with `uv run alembic merge heads`"
            )
        return heads[0] if heads else None

    def with_router(self, name: str) -> str:
        """Return app.py with the resource's two lines."""
        text = self.read(self.app)
        imported = f"from .{name} import routes as {name}\n"
        given = []
        if self.has("auth"):
            given.append("auth.required")
        if self.has("cache"):
            given.append(f'cache.rate_limit("{name}", 600, seconds=60)')
        missing = [part for part in ("auth", "cache") if self.has(part) and not self.app_uses(part)]
        if missing:
            imported = f"from .chassis import {', '.join(missing)}\n{imported}"
        dependencies = f", dependencies=[{', '.join(given)}]" if given else ""
        added = f"    app.include_router({name}.router{dependencies})\n"
        if IMPORTS not in text or ROUTERS not in text.partition(IMPORTS)[2]:
            raise RefusedError(
                f"{self.app} has no `# Yours:` below its imports and in create_app any more: put them back, for the lines that would be added"
            )
        before, mark, after = text.partition(IMPORTS)
        body, router_mark, end = after.partition(ROUTERS)
        below = _below(end, "    app.include_router(")
        return before + mark + imported + body + router_mark + end[:below] + added + end[below:]

    def without_router(self, name: str) -> str:
        """Return app.py without the resource's lines."""
        text = self.read(self.app)
        lines = text.splitlines(keepends=True)
        gone: set[int] = set()
        module = ast.parse(text)
        for node in ast.walk(module):
            if (
                isinstance(node, ast.ImportFrom)
                and node.level
                and node.module == name
                or _includes(node, name)
            ):
                gone |= {*range(node.lineno - 1, (node.end_lineno or node.lineno))}  # type: ignore[attr-defined]
        left = "".join(line for number, line in enumerate(lines) if number not in gone)
        for node in ast.walk(ast.parse(left)):
            if isinstance(node, ast.Name) and node.id == name:
                raise RefusedError(f"{self.app} uses {name} in one more place: remove that first")
        return left

    def users(self, definition: Definition) -> list[str]:
        """Return the files that use a resource's modules or its table."""
        own = {self.folder(definition.name), self.test(definition.name)}
        found = []
        for path, module in self.sources(self.package, Path("tests")):
            if own & {path, *path.parents} or path == self.app:
                continue
            if any(self._uses(path, node, definition.name) for node in ast.walk(module)):
                found.append(str(path))
        return found

    def _uses(self, path: Path, node: ast.AST, name: str) -> bool:
        if isinstance(node, ast.Call):
            named = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
            called = ast.unparse(node.func).split(".")[-1]
            if called in ("insert", "insert_missing"):
                return name in named
            return called == "ForeignKey" and any(
                str(text).startswith(f"{name}.") for text in named
            )
        if isinstance(node, ast.Import):
            return any(f"{alias.name}.".startswith(f"{self.name}.{name}.") for alias in node.names)
        if not isinstance(node, ast.ImportFrom):
            return False
        module = node.module or ""
        if node.level:
            if self.package not in path.parents:
                return False
            above = path.relative_to(self.package).parts[: -node.level]
            module = ".".join([self.name, *above, *filter(None, [node.module])])
        return any(
            f"{module}.{alias.name}.".startswith(f"{self.name}.{name}.") for alias in node.names
        )


def _below(text: str, start: str) -> int:
    """Return where the routers that are there end, so that a new one is the last."""
    end = 0
    for found in re.finditer(rf"(?m)^{re.escape(start)}(?:.*\)\n|\n(?:.*\n)*?    \)\n)", text):
        if found.start() == end:
            end = found.end()
    return end


def _includes(node: ast.AST, name: str) -> bool:
    if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and node.value.args):
        return False
    call = ast.unparse(node.value.func)
    return call.endswith(".include_router") and ast.unparse(node.value.args[0]) == f"{name}.router"


def _table(node: ast.ClassDef) -> str | None:
    return _values(node).get("__tablename__")


def _values(node: ast.Module | ast.ClassDef) -> dict[str, Any]:
    """Return the constants that are assigned in a module or a class."""
    values = {}
    for statement in node.body:
        if isinstance(statement, ast.Assign):
            targets = statement.targets
        elif isinstance(statement, ast.AnnAssign) and statement.value:
            targets = [statement.target]
        else:
            continue
        try:
            value = ast.literal_eval(statement.value)  # type: ignore[arg-type]
        except ValueError:
            continue
        values.update({target.id: value for target in targets if isinstance(target, ast.Name)})
    return values


def _annotation(node: ast.ClassDef, name: str) -> str:
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and ast.unparse(statement.target) == name:
            return ast.unparse(statement.annotation)
    return ""
