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
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from lash_cli.core.codec import encode
from lash_cli.store.sqlite.connections import WRITER_PRAGMAS, connect
from lash_cli.store.sqlite.file_names import StrPath
from lash_cli.system import boot_id

if TYPE_CHECKING:
    from lash_cli.store.sqlite.live_rows import PackedRow

_EPOCH_BYTES = 8

# Shorter than the smallest limit of a datagram (2 KiB on macOS), and with what Linux adds to each still within one
# kibibyte of the sender's allowance, which observers that were stopped use up.
LONGEST_RING: Final = 640
# How a message begins that carries something; nothing else begins so.
RING_OF_ACTIVITIES: Final = b"[1,"
RING_OF_CHANGES: Final = b"[2,"


def store_stamp(path: StrPath) -> str:
    """The boot and the file: what changes when a database is copied, restored or survives a power cut."""
    status = os.stat(path)
    return f"{boot_id()}:{status.st_dev}:{status.st_ino}"


def new_epoch() -> str:
    """A random name for a generation of a log."""
    return os.urandom(_EPOCH_BYTES).hex()


class LogNews:
    """What one transaction appended to one session's log; implements `store.live.LiveNews`.

    `rows`, each with its revision, begin right behind the position `before`; none when they must not be told.
    """

    __slots__ = ("_at_ms", "_before", "_epoch", "_rows", "tail")

    def __init__(
        self,
        tail: int,
        epoch: str = "",
        before: int = 0,
        at_ms: int = 0,
        rows: Sequence[tuple[int, PackedRow]] = (),
    ) -> None:
        self.tail = tail
        self._epoch = epoch
        self._before = before
        self._at_ms = at_ms
        self._rows = rows

    def message(self) -> bytes:
        """See `LiveNews.message`."""
        told = self._told()
        return b"%d" % self.tail if told is None or len(told) > LONGEST_RING else told

    def _told(self) -> bytes | None:
        # Of one transaction that is no commit, all rows are of one turn or of none, at one revision.
        kinds = {(revision, row.turn_id is not None) for revision, row in self._rows}
        is_long = sum(len(row.body) for _, row in self._rows) > LONGEST_RING
        if is_long or len(kinds) != 1 or any(row.is_commit for _, row in self._rows):
            return None
        ((revision, are_activities),) = kinds
        begin = RING_OF_ACTIVITIES if are_activities else RING_OF_CHANGES
        bodies = ",".join(f"[{encode(row.turn_id).decode()},{row.body}]" for _, row in self._rows)
        return begin + f'"{self._epoch}",{self._before},{revision},{self._at_ms},[{bodies}]]'.encode()


# Tells observers that something was committed, by session id.
Ring = Callable[[Mapping[str, LogNews]], None]


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
    news: dict[str, LogNews]
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
        if not self.news:
            return
        news, self.news = self.news, {}
        if ring is None:
            return
        if not is_whole:
            # Some of it may have been undone: that something is there is told, and what it is must be read.
            news = {session_id: LogNews(appended.tail) for session_id, appended in news.items()}
        try:
            ring(news)
        except Exception:
            import logging  # which costs a command that says nothing more than its commit (design D16)

            logging.getLogger("lash.live").info("observers could not be woken", exc_info=True)

    def forget(self) -> None:
        """The transaction was undone."""
        self.holes.clear()
        self.news.clear()


def open_writing(path: StrPath, lost: dict[str, object]) -> WriterConnection:
    """The connection of the writer thread."""
    connection = connect(path, WRITER_PRAGMAS, factory=WriterConnection)
    assert isinstance(connection, WriterConnection)
    connection.stamp = store_stamp(path)
    connection.lost = lost
    connection.news = {}
    connection.holes = {}
    return connection
