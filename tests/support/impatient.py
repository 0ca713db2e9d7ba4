"""Runs `lash` with a store that waits for a lock for a moment only.

    python tests/support/impatient.py ARGS...

What comes after the wait is what a user is told; how long the wait is, is one
constant that everything which takes a lock is given.
"""

from __future__ import annotations

import sys

# Before everything that takes the constant as the default of a parameter.
import lash_cli.store.sqlite.connections

WAIT_SECONDS = 0.5

assert lash_cli.store.sqlite.connections.LOCK_TIMEOUT_SECONDS > WAIT_SECONDS
assert "lash_cli.store.sqlite.writer" not in sys.modules
lash_cli.store.sqlite.connections.LOCK_TIMEOUT_SECONDS = WAIT_SECONDS  # type: ignore[misc]

from lash_cli.__main__ import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
