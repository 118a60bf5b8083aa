"""The SQLite file for development."""

from . import servers
from .servers import FOLDER, Provided


def provide() -> Provided:
    if servers.given("DATABASE_URL"):
        return Provided()
    # Relative: an address can't contain some characters that a folder's name can.
    return Provided({"DATABASE_URL": f"sqlite:///{_file()}"})


def _file() -> str:
    """Return the file in .dev, unless the project has data in the default file only."""
    [package] = (path.parent.name for path in FOLDER.parent.glob("src/*/chassis"))
    name = f"{package}.db"
    if not (FOLDER / name).exists() and (FOLDER.parent / name).exists():
        return name
    return f".dev/{name}"
