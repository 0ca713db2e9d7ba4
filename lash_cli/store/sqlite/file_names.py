"""The name of a database file, as SQLite takes it (contract 08 §6.7).

By the standard library's smallest means, because a listing for a program comes
through here and nowhere else in this package but `listing` (design D16).
"""

from __future__ import annotations

import os
import stat

from lash_cli.errors import StoreReadOnly

# Not `Path` alone: its module costs a look at a session more than opening the file does.
StrPath = str | os.PathLike[str]


def is_in_the_way(path: StrPath) -> bool:
    """Whether something else than a file stands where a database is named. It is not to be opened: SQLite would wait
    at a pipe for whoever writes to it, and read of a device."""
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False  # whoever opens it says why not


def is_there(path: StrPath) -> bool:
    """Whether there is a database, or something in its way. Raises `StoreReadOnly` where that cannot be looked at: it
    is not to be taken for a place where there is none yet."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise StoreReadOnly(
            f"{os.fspath(path)} cannot be looked at: {error.strerror}",
            hint="choose a place of yours with --db FILE, --home DIR or LASH_HOME, or see: lash doctor",
        ) from error
    return True


def file_uri(path: StrPath) -> str:
    """The URI of a file: absolute, and with what would end the name or begin an escape in it escaped."""
    name = os.fspath(path)
    if not os.path.isabs(name):
        name = os.path.join(os.getcwd(), name)
    return "file://" + name.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
