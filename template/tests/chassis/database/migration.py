"""What `make migration` runs: compares the models with a migrated database of the tests."""

import os
import sys

from alembic.config import main

from .conftest import ENVIRONMENT
from .database import migrated_database

if __name__ == "__main__":
    os.environ |= ENVIRONMENT
    with migrated_database() as url:
        os.environ["DATABASE_URL"] = url
        main(["revision", "--autogenerate", f"--message={sys.argv[1]}"])
