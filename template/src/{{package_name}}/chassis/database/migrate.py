"""The command `migrate`: applies the migrations in `migrations/` to the database."""

import logging
import os
import signal
import sys
from functools import partial
from pathlib import Path
from textwrap import shorten
from threading import Thread

import structlog
from sqlalchemy.exc import DBAPIError

from ..main import Command
from ..settings import EnvironmentSettings
from .driver import Driver
from .faults import reason

__all__ = ["command"]

# Beside `src`, in the project as in the image.
MIGRATIONS = Path(__file__).parents[4] / "migrations"


def command(driver: Driver) -> Command[EnvironmentSettings]:
    """Return the command. It may run repeatedly, and several times at once."""
    return Command("migrate", "bring the database to the newest migration", partial(run, driver))


def run(driver: Driver, settings: EnvironmentSettings) -> None:
    # A thread waits for the signal, since Python's own handler may miss it while the event loop
    # waits for a lock. A migration that was stopped did not succeed: no exit status 0.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    Thread(target=lambda: os._exit(128 + signal.sigwait({signal.SIGTERM})), daemon=True).start()
    upgrade(driver, settings)


def upgrade(driver: Driver, settings: EnvironmentSettings) -> None:
    """Migrate; end the process with one line and exit status 1 if the database is down.

    Outside of development, a database at a revision that this image does not have is left alone:
    somebody went back to this older image.
    """
    # Alembic logs the names of its plugins when it is imported.
    logging.getLogger("alembic.runtime.plugins").setLevel(logging.WARNING)
    from alembic import command, config, script, util

    # `migrations/env.py` connects with these settings.
    configuration = config.Config(attributes={"settings": settings})
    configuration.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    try:
        revision = script.ScriptDirectory.from_config(configuration).get_current_head()
        command.upgrade(configuration, "head")
    except util.CommandError as error:
        cause = error.__cause__
        is_in_use = settings.app_env != "development"
        if is_in_use and isinstance(cause, script.revision.ResolutionError):
            line = "the database is ahead of this image"
            structlog.get_logger().warning(line, revision=cause.argument, newest=revision)
            return
        sys.exit(f"The database can't be migrated: {error}")
    except DBAPIError as error:
        if error.statement and not error.connection_invalidated:
            sys.exit(f"The migration failed: {reason(error)}, in {shorten(error.statement, 200)}")
        if not driver.is_down(error):
            raise
        line = f"The database of DATABASE_URL does not respond: {reason(error)}"
        if settings.app_env == "development":
            line += "; 'make dev' starts one unless DATABASE_URL is set"
        sys.exit(line)
    structlog.get_logger().info("database is migrated", revision=revision)
