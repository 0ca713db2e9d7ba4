"""What chats remember on this machine: history and drafts, in one private SQLite file (contract 08 §7.3).

History is one per user, with session and directory. A draft is a row of its
own per chat; the row of a chat that ended is taken over by the next chat of
that session, so a text survives `kill -9`. A write returns when it is in the
file; it is not synced, because it has to survive the process and not the power
supply. The file is made with mode 0600 before SQLite opens it.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import msgspec

from lash_cli.core.codec import decode, encode
from lash_cli.core.lease import LocalProcess
from lash_cli.errors import StoreReadOnly
from lash_cli.paths import PRIVATE_FILE_MODE, ensure_private_directory, unusable_path
from lash_cli.repl.drafts import Draft
from lash_cli.system import is_definitely_dead, this_process

FILE_NAME = "chat.db"
BUSY_SECONDS = 5.0
# A longer line is a file that was pasted: nobody looks for it in the history, and every chat would read it.
MAX_LINE_CHARS = 64 * 1024
# What all lines together may have: a chat reads them as it begins.
MAX_HISTORY_CHARS = 4 * 1024 * 1024
# What SQLite says of a disk and not of the file.
_OF_THE_DISK = {sqlite3.SQLITE_FULL: errno.ENOSPC, sqlite3.SQLITE_IOERR: errno.EIO}

_SCHEMA = """
CREATE TABLE IF NOT EXISTS history (
    id INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, session_id TEXT NOT NULL, cwd TEXT NOT NULL, line TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS drafts (
    id INTEGER PRIMARY KEY, session_id TEXT NOT NULL, at_ms INTEGER NOT NULL, owner BLOB, draft BLOB NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS drafts_by_session ON drafts (session_id);
"""
_ADD_LINE = "INSERT INTO history (at_ms, session_id, cwd, line) VALUES (?, ?, ?, ?)"
# Of equal lines only the newest stays, and of all only so many, unless newer ones have all the room.
_DROP_EQUAL = "DELETE FROM history WHERE line = ?"
_DROP_OLD = "DELETE FROM history WHERE id <= (SELECT max(id) FROM history) - ?"
_DROP_BEYOND = """DELETE FROM history WHERE id <= (
    SELECT max(id) FROM (SELECT id, sum(length(line)) OVER (ORDER BY id DESC) - length(line) AS newer FROM history)
    WHERE newer >= ?
)"""
_LINES = "SELECT line FROM history ORDER BY id DESC LIMIT ?"
_LEFT_DRAFTS = "SELECT id, owner, draft FROM drafts WHERE session_id = ? ORDER BY at_ms, id"
_NEW_DRAFT = "INSERT INTO drafts (session_id, at_ms, owner, draft) VALUES (?, ?, ?, ?)"
_SET_DRAFT = "UPDATE drafts SET at_ms = ?, owner = ?, draft = ? WHERE id = ?"
_DROP_DRAFT = "DELETE FROM drafts WHERE id = ?"


class Adopted(NamedTuple):
    """The rows of chats of a session that ended, oldest first."""

    row_ids: tuple[int, ...]
    drafts: tuple[Draft, ...]


class ReplMemory:
    """The file, opened by one chat. Not thread-safe; a call takes some milliseconds at most."""

    def __init__(
        self, directory: str, session_id: str, *, is_dead: Callable[[LocalProcess], bool] = is_definitely_dead
    ) -> None:
        """Open or make `chat.db` in `directory`. Raises as `unusable_path`, and `StoreReadOnly` for one that cannot be
        used."""
        path = os.path.join(directory, FILE_NAME)
        ensure_private_directory(directory)
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, PRIVATE_FILE_MODE))
            self._database = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
        except OSError as error:
            raise unusable_path(path, error, "open") from error
        except sqlite3.Error as error:
            raise StoreReadOnly(f"cannot open {path}: {error}", details={"path": path}) from error
        self._path = path
        self.directory = directory
        self._session_id = session_id
        self._is_dead = is_dead
        self._row_id: int | None = None
        self._owner = encode(this_process())
        try:
            self._database.executescript(f"PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; {_SCHEMA}")
        except sqlite3.Error as error:
            self._database.close()
            number = _OF_THE_DISK.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)
            if number is not None:
                raise unusable_path(path, OSError(number, str(error)), "use") from error
            raise StoreReadOnly(
                f"cannot use {path}: {error}",
                hint=f"it holds the history and the drafts of lash chat; move it away: mv {path} {path}.bad",
                details={"path": path},
            ) from error

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction; raises `StoreReadOnly` when the file cannot be written now."""
        try:
            with self._database:
                self._database.execute("BEGIN IMMEDIATE")
                yield
        except sqlite3.Error as error:
            raise StoreReadOnly(
                f"history and drafts are not saved: {error}",
                hint=f"what is not sent does not survive the chat; see {self._path}",
                details={"path": self._path},
            ) from error

    def remember(self, line: str, cwd: str, limit: int, *, is_sent: bool = True) -> None:
        """Keep a line as the newest of at most `limit` that have `MAX_HISTORY_CHARS` together. One that begins with a
        space is not kept, nor one of more than `MAX_LINE_CHARS` that was sent: the transcript has it."""
        if not line.strip() or line.startswith(" ") or limit < 1 or (is_sent and len(line) > MAX_LINE_CHARS):
            return
        with self._writing():
            self._database.execute(_DROP_EQUAL, (line,))
            self._database.execute(_ADD_LINE, (_now_ms(), self._session_id, cwd, line))
            self._database.execute(_DROP_OLD, (limit,))
            self._database.execute(_DROP_BEYOND, (MAX_HISTORY_CHARS,))

    def lines(self, limit: int) -> list[str]:
        """The newest lines, newest first, as many as have room."""
        lines, room = [], MAX_HISTORY_CHARS
        for (line,) in self._database.execute(_LINES, (limit,)):
            lines.append(line)
            room -= len(line)
            if room <= 0:
                break
        return lines

    def left_behind(self) -> Adopted:
        """What ended chats of this session left. They stay until `take_over`; living chats keep theirs."""
        row_ids, drafts = [], []
        for row_id, owner, draft in self._database.execute(_LEFT_DRAFTS, (self._session_id,)).fetchall():
            try:
                is_free = owner is None or self._is_dead(decode(owner, LocalProcess))
                left = decode(draft, Draft)
            except msgspec.MsgspecError:
                continue  # written by a newer lash: not ours to judge
            if is_free:
                row_ids.append(int(row_id))
                drafts.append(left)
        return Adopted(tuple(row_ids), tuple(drafts))

    def take_over(self, adopted: Adopted, draft: Draft) -> None:
        """Make `draft` the row of this chat, in the place of the adopted ones, in one transaction."""
        with self._writing():
            for row_id in adopted.row_ids:
                self._database.execute(_DROP_DRAFT, (row_id,))
            values = (self._session_id, _now_ms(), self._owner, encode(draft))
            self._row_id = self._database.execute(_NEW_DRAFT, values).lastrowid

    def save(self, draft: Draft) -> None:
        """Write the draft down; it survives the process from here on."""
        assert self._row_id is not None, "taken over before"
        with self._writing():
            self._database.execute(_SET_DRAFT, (_now_ms(), self._owner, encode(draft), self._row_id))

    def leave(self, draft: Draft) -> None:
        """End this chat: the next one of the session may take its draft; an empty one is dropped."""
        if self._row_id is None:
            return
        with self._writing():
            if draft.is_empty and not draft.own:
                self._database.execute(_DROP_DRAFT, (self._row_id,))
            else:
                self._database.execute(_SET_DRAFT, (_now_ms(), None, encode(draft), self._row_id))
        self._row_id = None

    def close(self) -> None:
        """Close the file. May be repeated."""
        self._database.close()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
