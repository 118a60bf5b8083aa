"""What a resource consists of: its files, from templates, as the project's ruff formats them."""

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from uuid import uuid4

from mako.lookup import TemplateLookup

from .definition import Definition
from .kind import RefusedError
from .project import Project

TEMPLATES = TemplateLookup([str(Path(__file__).parent / "templates")], strict_undefined=True)
MODULES = ("__init__", "models", "schemas", "service", "routes")


def render(template: str, definition: Definition, **values: object) -> str:
    text: str = TEMPLATES.get_template(f"/{template}.mako").render_unicode(d=definition, **values)
    return text


def modules(project: Project, definition: Definition) -> dict[Path, str]:
    """Return the files of a resource, not yet formatted."""
    imports = project.refer(definition)
    folder = project.folder(definition.name)
    found = {folder / f"{name}.py": render(name, definition, imports=imports) for name in MODULES}
    return {**found, project.test(definition.name): render("test", definition)}


def migration(project: Project, definition: Definition, *, drops: bool) -> dict[Path, str]:
    now = datetime.now()  # noqa: DTZ005
    slug = f"drop_{definition.name}" if drops else definition.name
    text = render(
        "migration",
        definition,
        message=f"Drop {definition.many}" if drops else definition.title,
        drops=drops,
        revision=uuid4().hex[-12:],
        down_revision=project.head(),
    )
    return {project.migrations / f"{now:%Y_%m_%d_%H%M%S}_{slug}.py": text}


def formatted(project: Project, texts: Mapping[Path, str]) -> dict[Path, str]:
    """Return the files as `make format` would leave them."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "pyproject.toml").write_text(project.read(Path("pyproject.toml")), encoding="utf-8")
        for path, text in texts.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text, encoding="utf-8")
        # The templates import whatever some resource needs.
        ruff(
            "check", "--quiet", "--fix-only", "--extend-select=I,F401", "--unfixable=F841,RET", root
        )
        ruff("format", "--quiet", root)
        return {path: (root / path).read_text(encoding="utf-8") for path in texts}


def ruff(command: str, *arguments: str | Path) -> None:
    try:
        program = [sys.executable, "-m", "ruff", command, "--no-cache"]
        subprocess.run([*program, *arguments], check=True)  # noqa: S603
    except subprocess.CalledProcessError:
        raise RefusedError("ruff failed: see above; nothing was written") from None


def write(root: Path, texts: Mapping[Path, str | None]) -> None:
    """Write all files, or delete those that are None; on an error, leave all as they were."""
    before = {
        path: (root / path).read_bytes() if (root / path).exists() else None for path in texts
    }
    try:
        for path, text in texts.items():
            put(root / path, None if text is None else text.encode())
    except BaseException:
        for path, content in before.items():
            put(root / path, content)
        raise


def put(path: Path, content: bytes | None) -> None:
    if content is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return
    path.unlink(missing_ok=True)
    # The folder of a resource goes with its last file.
    cached = path.parent / "__pycache__"
    for found in cached.glob(f"{path.stem}.*.pyc"):
        found.unlink()
    for folder in (cached, path.parent):
        if folder.exists() and not any(folder.iterdir()):
            folder.rmdir()
