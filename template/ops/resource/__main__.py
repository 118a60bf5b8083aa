"""Writes a tested resource for `make resource`, or removes it for `make resource-remove`."""

import fcntl
import os
import sys
from pathlib import Path

from .definition import EXAMPLE, Definition
from .kind import RefusedError
from .project import Project
from .writing import formatted, migration, modules, write


def add(project: Project, name: str, fields: str, singular: str) -> None:
    if not name:
        raise RefusedError(f"which resource? Such as make resource NAME=orders {EXAMPLE}")
    definition = Definition(name, fields, singular)
    project.check_new(definition)
    texts = modules(project, definition) | migration(project, definition, drops=False)
    parts = [part for part in ("auth", "cache") if project.has(part)]
    texts[project.app] = project.application().with_router(name, parts)
    write(project.root, formatted(project, texts))
    print(f"{definition.title} are at {definition.path}, and one of them is {definition.an}:\n")
    for path in texts:
        print(f"  {'changed' if path == project.app else 'wrote'} {path}")
    print("\nNext: `make migrate`, or start `make dev`, which migrates too. Then `make check`.")


def remove(project: Project, name: str) -> None:
    if not name:
        raise RefusedError("which resource? Such as make resource-remove NAME=orders")
    path = project.folder(name) / "__init__.py"
    if not (project.root / path).exists():
        raise RefusedError(f"there is no {path}: give the NAME of a resource, such as NAME=orders")
    definition = Definition.recorded(project.read(path))
    if not definition or definition.name != name:
        raise RefusedError(f"{path} does not say that `make resource` wrote it: nothing is removed")
    expected = formatted(project, modules(project, definition))
    edited = [
        str(path)
        for path, text in expected.items()
        if not (project.root / path).exists() or project.read(path) != text
    ]
    if edited:
        raise RefusedError(
            f"{', '.join(edited)}: edited since `make resource` wrote it. Delete {name} and its lines in "
            f'{project.app} yourself, then run: make migration m="drop {name}"'
        )
    added = [
        str(found.relative_to(project.root))
        for found in sorted((project.root / project.folder(name)).rglob("*"))
        if found.is_file()
        and found.suffix != ".pyc"
        and found.relative_to(project.root) not in expected
    ]
    if added:
        raise RefusedError(
            f"{', '.join(added)}: not written by `make resource`. Delete or move it, its tests and its lines in "
            f"{project.app}, then try again"
        )
    if users := project.users(definition):
        raise RefusedError(f"{name} is still used in {', '.join(users)}: remove that first")
    changed = migration(project, definition, drops=True)
    changed[project.app] = project.application().without_router(name)
    written = formatted(project, changed)
    write(project.root, {**dict.fromkeys(expected), **written})
    for path in expected:
        print(f"  removed {path}")
    for path in changed:
        print(f"  {'changed' if path == project.app else 'wrote'} {path}")
    print(
        "\nNext: `make migrate`, which drops the table and its rows. Then `make check`.\n"
        "If the table was never created anywhere, delete both migrations instead."
    )


def main() -> None:
    name = os.environ.get("NAME", "")
    project = Project(Path.cwd())
    try:
        with (project.root / project.app).open("r+") as app:
            # Of two at once, one would lose its lines in app.py.
            fcntl.flock(app, fcntl.LOCK_EX)
            if sys.argv[1:] == ["remove"]:
                remove(project, name)
            else:
                add(project, name, os.environ.get("FIELDS", ""), os.environ.get("SINGULAR", ""))
    except RefusedError as refused:
        sys.exit(str(refused))
    except OSError as error:
        sys.exit(f"{error.filename}: {error.strerror}; nothing was written")


if __name__ == "__main__":
    main()
