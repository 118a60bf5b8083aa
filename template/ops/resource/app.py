"""The lines of a resource in the project's app.py."""

import ast
import re
from collections.abc import Sequence
from pathlib import Path

from .kind import RefusedError

IMPORTS = "# isort: split\n# Yours:\n"
ROUTERS = "    # Yours:\n"


class App:
    """The text of app.py, which is at `path`."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.text = text
        self.names = identifiers(ast.parse(text))

    def with_router(self, name: str, parts: Sequence[str]) -> str:
        """Return the text with a resource's two lines; `parts` of the chassis guard its router."""
        imported = f"from .{name} import routes as {name}\n"
        if missing := [part for part in parts if part not in self.names]:
            imported = f"from .chassis import {', '.join(missing)}\n{imported}"
        given = []
        if "auth" in parts:
            given.append("auth.required")
        if "cache" in parts:
            given.append(f'cache.rate_limit("{name}", 600, seconds=60)')
        dependencies = f", dependencies=[{', '.join(given)}]" if given else ""
        added = f"    app.include_router({name}.router{dependencies})\n"
        before, mark, after = self.text.partition(IMPORTS)
        body, router_mark, end = after.partition(ROUTERS)
        if not router_mark:
            raise RefusedError(
                f"{self.path} has no `# Yours:` below its imports and in create_app any more: put them back, for the lines that would be added"
            )
        below = _below(end)
        return before + mark + imported + body + router_mark + end[:below] + added + end[below:]

    def without_router(self, name: str) -> str:
        """Return the text without a resource's lines."""
        gone: set[int] = set()
        names = {name}
        for node in ast.walk(ast.parse(self.text)):
            if _imports(node, name):
                names |= {alias.asname or alias.name for alias in node.names}  # type: ignore[attr-defined]
            if _imports(node, name) or _includes(node, name):
                gone |= {*range(node.lineno - 1, (node.end_lineno or node.lineno))}  # type: ignore[attr-defined]
        lines = self.text.splitlines(keepends=True)
        left = "".join(line for number, line in enumerate(lines) if number not in gone)
        for node in ast.walk(ast.parse(left)):
            if isinstance(node, ast.Name) and node.id in names:
                raise RefusedError(
                    f"{self.path} uses {node.id} in one more place: remove that first"
                )
        return left


def identifiers(module: ast.Module) -> set[str]:
    """Name what a module defines, imports or refers to, other than attributes."""
    found: set[str] = set()
    for node in ast.walk(module):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.alias):
            found.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
    return found


def _below(text: str) -> int:
    """Return where the routers that are there end, so that a new one is the last."""
    include = r"    app\.include_router\((?:.*\)\n|\n(?:.*\n)*?    \)\n)"
    found = re.match(f"(?:{include})*", text)
    return found.end() if found else 0


def _imports(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.ImportFrom) and bool(node.level) and node.module == name


def _includes(node: ast.AST, name: str) -> bool:
    if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and node.value.args):
        return False
    call = ast.unparse(node.value.func)
    return call.endswith(".include_router") and ast.unparse(node.value.args[0]) == f"{name}.router"
