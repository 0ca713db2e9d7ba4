"""The umask of the user, which is not ours: the command makes private files, and works in the user's project.

What lash keeps is readable by its user alone (contract 08 §6.8). What the model writes there, and what its commands
and the user's own make, is to be what the user's shell would have made.
"""

from __future__ import annotations

import os

PRIVATE = 0o077

_of_user: int | None = None


def make_private() -> None:
    """Take a private umask for this process, and remember the one it was started with."""
    global _of_user
    before = os.umask(PRIVATE)
    if _of_user is None:
        _of_user = before


def of_user() -> int | None:
    """The umask this process was started with; None where it still has it, as in a program of somebody else's."""
    return _of_user
