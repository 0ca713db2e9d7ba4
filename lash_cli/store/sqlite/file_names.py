"""The name of a database file, as SQLite takes it (contract 08 §6.7).

By the standard library's smallest means, because a listing for a program comes
through here and nowhere else in this package but `listing` (design D16).
"""

from __future__ import annotations

import os

# Not `Path` alone: its module costs a look at a session more than opening the file does.
StrPath = str | os.PathLike[str]


def file_uri(path: StrPath) -> str:
    """The URI of a file: absolute, and with what would end the name or begin an escape in it escaped."""
    name = os.fspath(path)
    if not os.path.isabs(name):
        name = os.path.join(os.getcwd(), name)
    return "file://" + name.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
