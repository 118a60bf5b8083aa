"""The development environment: `make dev`, or any command with the same servers and variables.

`python -m ops.dev` serves, `python -m ops.dev COMMAND...` runs a command; with `--migrated`
before it, the development database is migrated first. `--reset` deletes the data.
"""

import signal
import sys

# Ctrl-C during the imports below: no traceback.
signal.signal(signal.SIGINT, signal.SIG_DFL)

if sys.platform == "win32":
    sys.exit("'make dev' needs Linux or macOS: on Windows work in WSL, or use 'make up'")

from .environment import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
