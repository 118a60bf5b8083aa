"""What `make migration` runs: compares the models with a migrated database of the tests."""

import os
import sys

from alembic.config import main

from .support import migrated_database

if __name__ == "__main__":
    with migrated_database() as url:
        os.environ["DATABASE_URL"] = url
        main(["revision", "--autogenerate", f"--message={sys.argv[1]}"])
