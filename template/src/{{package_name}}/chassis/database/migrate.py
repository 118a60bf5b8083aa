"""The command `migrate`: applies the migrations in `migrations/` to the database."""

import logging
import os
import signal
import sys
from functools import partial
from pathlib import Path
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
    """Migrate; end the process with one line and exit status 1 if the database is down."""
    # Alembic logs the names of its plugins when it is imported.
    logging.getLogger("alembic.runtime.plugins").setLevel(logging.WARNING)
    from alembic import command, config, script, util

    # `migrations/env.py` connects with these settings.
    configuration = config.Config(attributes={"settings": settings})
    configuration.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    try:
        command.upgrade(configuration, "head")
    except util.CommandError as error:
        sys.exit(f"The database can't be migrated: {error}")
    except DBAPIError as error:
        if not driver.is_down(error):
            raise
        line = f"The database of DATABASE_URL does not respond: {reason(error)}"
        if settings.app_env == "development":
            line += "; 'make dev' starts one unless DATABASE_URL is set"
        sys.exit(line)
    revision = script.ScriptDirectory.from_config(configuration).get_current_head()
    structlog.get_logger().info("database is migrated", revision=revision)
