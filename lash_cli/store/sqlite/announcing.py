"""What a write transaction has to tell observers, carried by the writing connection (contract 04 §10.2, §10.4).

Whoever appends live events inside a transaction notes the session here; the
writer rings the bells after COMMIT and never before, and forgets the note when
the transaction is undone. A note too many only wakes a tail that finds nothing.
Imported by the writer thread when it opens its connection, so that a command
that only reads does not pay for it (design D16).
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Mapping

from lash_cli.store.sqlite.connections import WRITER_PRAGMAS, connect
from lash_cli.store.sqlite.file_names import StrPath
from lash_cli.system import boot_id

_EPOCH_BYTES = 8

# Tells observers that something was committed: the new tail of each session, by session id.
Ring = Callable[[Mapping[str, int]], None]


def store_stamp(path: StrPath) -> str:
    """The boot and the file: what changes when a database is copied, restored or survives a power cut."""
    status = os.stat(path)
    return f"{boot_id()}:{status.st_dev}:{status.st_ino}"


def new_epoch() -> str:
    """A random name for a generation of a log."""
    return os.urandom(_EPOCH_BYTES).hex()


class WriterConnection(sqlite3.Connection):
    """The writing connection of a process, and what its transactions mean to observers.

    `lost` names the sessions of which a preview could not be written, each
    with a token of its latest loss; their next append leaves a hole first. It
    is shared with whoever may learn of a loss, on any thread. A session stays
    in it until the commit that records the hole, and longer if it lost
    something again meanwhile.
    """

    stamp: str
    lost: dict[str, object]
    tails: dict[str, int]
    holes: dict[str, object]

    def announce(self, ring: Ring | None, *, is_whole: bool) -> None:
        """The transaction was committed: wake the observers of what it wrote. Never raises.

        `is_whole` says that no job of the group was undone; otherwise a recorded hole may have been undone with it,
        and it is kept in mind, because a hole too many costs a re-read and one too few an unnoticed loss.
        """
        if is_whole:
            for session_id, loss in self.holes.items():
                latest = self.lost.pop(session_id, loss)
                if latest is not loss:
                    self.lost.setdefault(session_id, latest)
        self.holes.clear()
        if not self.tails:
            return
        tails, self.tails = self.tails, {}
        if ring is None:
            return
        try:
            ring(tails)
        except Exception:
            import logging  # which costs a command that says nothing more than its commit (design D16)

            logging.getLogger("lash.live").info("observers could not be woken", exc_info=True)

    def forget(self) -> None:
        """The transaction was undone."""
        self.holes.clear()
        self.tails.clear()


def open_writing(path: StrPath, lost: dict[str, object]) -> WriterConnection:
    """The connection of the writer thread."""
    connection = connect(path, WRITER_PRAGMAS, factory=WriterConnection)
    assert isinstance(connection, WriterConnection)
    connection.stamp = store_stamp(path)
    connection.lost = lost
    connection.tails = {}
    connection.holes = {}
    return connection
