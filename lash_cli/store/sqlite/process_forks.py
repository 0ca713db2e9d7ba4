"""What becomes of the open databases of a process that forks (design D1).

SQLite keeps in memory which locks a process has on a file. A child that
inherits that takes none of its own there: what it commits with a store of its
own is lost when the parent closes the file, and a lock that somebody held at
that moment is held for ever. So whoever forks has every connection closed
first, each after the write or read under way; who needs one next opens it
again, in the parent. What could not be closed in time is not opened in the
child at all. A program that is started in the usual way, which calls no hooks,
inherits nothing and costs nothing.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from _weakrefset import WeakSet  # by `threading` anyway; `weakref` itself would be one import more (design D16)
from typing import Final, Protocol

from lash_cli.store.sqlite.connections import closed_error
from lash_cli.store.sqlite.file_names import StrPath

#: How long a fork waits for what is under way, for all databases together.
QUIET_WITHIN_S: Final = 5.0

FileId = tuple[int, int]


class Forkable(Protocol):
    """An open database."""

    path: StrPath

    def rest(self, deadline: float) -> bool:
        """Close every connection once nobody uses it and let nobody open one before `go_on`; False when somebody uses
        one at `deadline`, a moment of `time.monotonic`."""
        ...

    def go_on(self) -> None:
        """Let everybody in again who was kept out, whatever `rest` came to."""
        ...

    def lose(self) -> list[sqlite3.Connection]:
        """Refuse everything from now on with `store_forked`, in the child; the connections that are the parent's."""
        ...


_open: WeakSet[Forkable] = WeakSet()
# One fork at a time, and what belongs to it: the databases that were asked to rest, and whether they do.
_forking = threading.Lock()
_forker: int | None = None
_resting: dict[Forkable, bool] = {}
# In a child: the files that are not opened there, and the connections to them, which are neither used nor closed.
_lost: set[FileId] = set()
_of_parent: list[sqlite3.Connection] = []


def watch(database: Forkable) -> None:
    """Look after `database`, as long as it lives, when the process forks."""
    _open.add(database)


def refuse_lost(path: StrPath) -> None:
    """Raise `StoreError` (`store_forked`) for a file that the parent of this process could not let go of."""
    if _lost and _file_id(path) in _lost:
        raise closed_error(path, is_forked=True)


def _file_id(path: StrPath) -> FileId | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _before() -> None:
    global _forker
    deadline = time.monotonic() + QUIET_WITHIN_S
    if not _forking.acquire(timeout=QUIET_WITHIN_S):
        return
    _forker = threading.get_ident()
    for database in _opened():
        _resting[database] = False  # until it does, whatever ends this, such as Ctrl-C
        _resting[database] = database.rest(deadline)


def _opened() -> tuple[Forkable, ...]:
    while True:
        try:
            return tuple(_open)
        except RuntimeError:
            continue  # another thread opened one meanwhile


def _in_parent() -> None:
    global _forker
    if _forker != threading.get_ident():
        return  # another thread forks, which was waited for in vain
    for database in _resting:
        database.go_on()
    _resting.clear()
    _forker = None
    _forking.release()


def _in_child() -> None:
    global _forking, _forker
    is_ours = _forker == threading.get_ident()
    for database in tuple(_open):
        # One that was opened while others were waited for does not rest either.
        is_quiet = is_ours and _resting.get(database)
        if not is_quiet and (found := _file_id(database.path)) is not None:
            _lost.add(found)
        _of_parent.extend(database.lose())
    _resting.clear()
    _forking, _forker = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
