"""The project that a resource is written to: its tables, its migrations, what uses a resource."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .app import App
from .decimals import Decimals
from .definition import Definition
from .kind import RefusedError


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

    def application(self) -> App:
        return App(self.app, self.read(self.app))

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
        if found := self.tables().get(name):
            raise RefusedError(f"{found[0]} has a table {name} already: choose another NAME")
        if name in self.application().names:
            raise RefusedError(
                f"{self.app} uses the name {name}: choose another, such as NAME=stock_{name}"
            )
        if self.has("database/sqlite.py"):
            for field in definition.fields:
                if isinstance(field.kind, Decimals) and field.kind.digits > 15:
                    raise RefusedError(
                        f"{field.name}: SQLite keeps 15 digits of a decimal exactly: such as decimal(15,2)"
                    )

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
