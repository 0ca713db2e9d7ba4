"""The name of a database file, as SQLite takes it (contract 08 §6.7).

By the standard library's smallest means, because a listing for a program comes
through here and nowhere else in this package but `listing` (design D16).
"""

from __future__ import annotations

import os
import stat

# Not `Path` alone: its module costs a look at a session more than opening the file does.
StrPath = str | os.PathLike[str]


def is_in_the_way(path: StrPath) -> bool:
    """Whether something else than a file stands where a database is named. It is not to be opened: SQLite would wait
    at a pipe for whoever writes to it, and read of a device."""
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False  # whoever opens it says why not


def file_uri(path: StrPath) -> str:
    """The URI of a file: absolute, and with what would end the name or begin an escape in it escaped."""
    name = os.fspath(path)
    if not os.path.isabs(name):
        name = os.path.join(os.getcwd(), name)
    return "file://" + name.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
