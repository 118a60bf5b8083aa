"""The command `migrate`: brings the database to the newest revision in `migrations/`."""

import logging
import os
import signal
import sys
from pathlib import Path
from threading import Thread

import structlog
from sqlalchemy.exc import DBAPIError

from .database import is_away, reason
from .settings import Settings

# Beside `src`, in the project as in the image.
MIGRATIONS = Path(__file__).parents[2] / "migrations"


def command(settings: Settings) -> None:
    """Migrate, as often as you like and from several places at once; exit status 1 if it can't."""
    # A migration that was stopped is not done: no exit status 0 for it. A thread waits for the
    # signal, since Python's own handler may miss it while the event loop waits for a lock.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    Thread(target=lambda: os._exit(128 + signal.sigwait({signal.SIGTERM})), daemon=True).start()
    # Alembic tells of its own plugins as soon as it is imported.
    logging.getLogger("alembic.runtime.plugins").setLevel(logging.WARNING)
    from alembic import command, config, script, util

    configuration = config.Config()
    configuration.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    try:
        command.upgrade(configuration, "head")
    except util.CommandError as error:
        sys.exit(f"The database can't be migrated: {error}")
    except DBAPIError as error:
        if not is_away(error):
            raise
        hint = "; 'make up' starts and migrates one of its own"
        told = f"The database of DATABASE_URL does not answer: {reason(error)}"
        sys.exit(told + (hint if settings.app_env == "development" else ""))
    revision = script.ScriptDirectory.from_config(configuration).get_current_head()
    structlog.get_logger().info("database is migrated", revision=revision)
