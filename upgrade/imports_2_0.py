"""Rewrite the imports of release 1.x to those of 2.0: run it in a project, after the update.

It changes the owner's modules and tests only, and reports what has to be rewritten by hand. It can be repeated.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path


def package() -> str:
    """Return the name of the project's package, which has a chassis since the update."""
    found = [path.parent.name for path in Path("src").glob("*/chassis")]
    if len(found) != 1:
        sys.exit("Run this in the folder of a project that was updated to 2.0: src/<package>/chassis is missing.")
    return found[0]


PACKAGE = package()
# Where each module went, seen from the package that it was in.
MOVED = {
    PACKAGE: {
        "auth": "chassis.auth",
        "buffers": "chassis.buffers",
        "cache": "chassis.cache",
        "database": "chassis.database",
        "docs": "chassis.docs",
        "errors": "chassis.errors",
        "etags": "chassis.database.etags",
        "health": "chassis.health",
        "identity": "chassis.auth",
        "jwks": "chassis.auth.jwks",
        "logs": "chassis.logs",
        "migrate": "chassis.database.migrate",
        "pagination": "chassis.database.pagination",
        "postgresql": "chassis.database.postgresql",
        "rate_limit": "chassis.cache",
        "security": "chassis.security",
        "server": "chassis.server",
        "shutdown": "chassis.shutdown",
        "sockets": "chassis.sockets",
        "sqlite": "chassis.database.sqlite",
        "telemetry": "chassis.telemetry",
    },
    "tests": {
        "callers": "chassis.auth.callers",
        "database": "chassis.database.support",
        "postgresql_database": "chassis.database.postgresql",
        "redis_server": "chassis.cache.server",
        "sqlite_database": "chassis.database.sqlite",
    },
}
REMOVED = {
    f"{PACKAGE}.http_cache": "chassis.cache caches functions; see docs/cache.md",
    f"{PACKAGE}.health.check": "a check is part of a Feature; see docs/operations.md",
    f"{PACKAGE}.settings.CommaList": "import it from chassis",
    f"{PACKAGE}.app.chassis": "it is chassis.create_app now",
}
# Lines other than imports, and what replaces them.
LINES = {
    r"\s*@health\.check\(": REMOVED[f"{PACKAGE}.health.check"],
    r".*\bapp\.state\.settings\b": "it is settings_of(request, Settings), from chassis",
    r".*\bapp\.state\.(engine|sessions|read_sessions)\b": "it is open_session(request), or "
    "state_of(request, Database).engine; see docs/data.md",
}
# In the tests of the example.
OLD_SESSION = "client.app.state.sessions() as session:  # type: ignore[attr-defined]"
NEW_SESSION = "open_session(client.app) as session:  # type: ignore[arg-type]"


def main() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "src", "tests", "migrations"],
        capture_output=True,
        text=True,
        check=True,
    )
    left: list[str] = []
    for path in map(Path, listed.stdout.splitlines()):
        if path.suffix == ".py" and "chassis" not in path.parts and path.is_file():
            left += rewrite(path)
    if left:
        sys.exit("\n".join([*left, "Change these by hand, then run this again."]))
    print("All imports are those of release 2.0. Run `make format check`, then commit.")


def rewrite(path: Path) -> list[str]:
    """Rewrite the imports of one module; return what is left to do by hand."""
    source = path.read_text(encoding="utf-8")
    try:
        lines = source.splitlines(keepends=True)
        for node, module in reversed(list(imports(path, source))):
            span = slice(node.lineno - 1, node.end_lineno)
            if not removed(node, module):
                lines[span] = [replaced(node, module, "".join(lines[span]))]
        changed = opened("".join(lines))
        left = [
            f"{path}:{node.lineno}: {told}" for node, module in imports(path, changed) for told in removed(node, module)
        ]
    except SyntaxError as error:
        return [f"{path}:{error.lineno}: not valid Python; resolve the conflicts first"]
    for number, line in enumerate(changed.splitlines(), 1):
        left += [f"{path}:{number}: {told}" for old, told in LINES.items() if re.match(old, line)]
    if changed != source:
        path.write_text(changed, encoding="utf-8")
        print(path)
    return left


def opened(source: str) -> str:
    """Open the sessions of the example's tests with `open_session`, and import it."""
    if OLD_SESSION not in source:
        return source
    lines = source.replace(OLD_SESSION, NEW_SESSION).splitlines(keepends=True)
    statements = [node for node in ast.parse(source).body if isinstance(node, ast.ImportFrom)]
    imported = f"from {PACKAGE}.chassis.database import open_session\n"
    lines.insert(statements[-1].end_lineno or 0, imported)
    return "".join(lines)


def imports(path: Path, source: str) -> Iterator[tuple[ast.ImportFrom, str]]:
    """Yield each `from` import in the order of its line, with the absolute name of its module."""
    parts = (path.relative_to("src") if path.parts[0] == "src" else path).with_suffix("").parts
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
    for node in sorted(nodes, key=lambda node: node.lineno):
        package = ".".join(parts[: -node.level]) if node.level else ""
        yield node, ".".join(filter(None, [package, node.module]))


def removed(node: ast.ImportFrom, module: str) -> list[str]:
    """Return what replaces each of the imports that 2.0 no longer has."""
    names = [module, *(f"{module}.{alias.name}" for alias in node.names)]
    return [REMOVED[name] for name in names if name in REMOVED]


def replaced(node: ast.ImportFrom, module: str, statement: str) -> str:
    """Return what an import statement has to be now; most stay as they are."""
    top, _, below = module.partition(".")
    moved = MOVED.get(top, {})
    written = "." * node.level + (node.module or "")
    if not below:
        indent = " " * node.col_offset
        separator = "" if written.endswith(".") else "."
        stay = [alias for alias in node.names if alias.name not in moved]
        by_folder: dict[str, list[str]] = {}
        for alias in node.names:
            if alias.name in moved:
                folder, _, name = moved[alias.name].rpartition(".")
                by_folder.setdefault(folder, []).append(
                    f"{name} as {alias.asname or alias.name}" if (alias.asname or alias.name) != name else name
                )
        if not by_folder:
            return statement
        new = [(written, [ast.unparse(alias) for alias in stay])] if stay else []
        new += [(f"{written}{separator}{folder}", names) for folder, names in by_folder.items()]
        return "".join(f"{indent}from {source} import {', '.join(names)}\n" for source, names in new)
    first, _, rest = below.partition(".")
    if first not in moved:
        return statement
    target = ".".join(filter(None, [moved[first], rest]))
    # A relative import of a module of this release has just the dots before the old name.
    prefix = "." * node.level if node.level else f"{top}."
    return statement.replace(f"from {written}", f"from {prefix}{target}", 1)


if __name__ == "__main__":
    main()
