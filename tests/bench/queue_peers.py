"""Queues on SQLite to measure ours beside: by hand, huey, litequeue and persist-queue, all over one small interface.

The libraries are optional (`pip install huey litequeue persist-queue`); one
that is not installed is left out with a note. `durability` says what a
returned `put` or `ack` has survived: FULL is a synced commit, NORMAL is not.
"""

from __future__ import annotations

import importlib.util
import json
import sqlite3
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol


class Peer(Protocol):
    """One queue in one directory."""

    def put(self, item: str) -> None:
        """Add one item and return when it is stored."""
        ...

    def fill(self, items: list[str]) -> None:
        """Add many at once, as fast as the queue allows."""
        ...

    def take(self) -> bool:
        """Claim one item and settle it; False when there is none."""
        ...

    def close(self) -> None:
        """Let go of the file."""
        ...


class ByHand:
    """A table with a claim under `BEGIN IMMEDIATE` and a settlement by token: two transactions an item."""

    def __init__(self, directory: Path, synchronous: str) -> None:
        self._connection = sqlite3.connect(directory / "queue.db", isolation_level=None, timeout=30)
        for statement in (
            "PRAGMA journal_mode = WAL",
            f"PRAGMA synchronous = {synchronous}",
            "CREATE TABLE IF NOT EXISTS items (seq INTEGER PRIMARY KEY, state INTEGER NOT NULL, body TEXT, token TEXT)",
            "CREATE INDEX IF NOT EXISTS items_ready ON items (seq) WHERE state = 0",
        ):
            self._connection.execute(statement)
        self._token = uuid.uuid4().hex

    def put(self, item: str) -> None:
        self._connection.execute("INSERT INTO items (state, body) VALUES (0, ?)", (item,))

    def fill(self, items: list[str]) -> None:
        self._connection.execute("BEGIN")
        self._connection.executemany("INSERT INTO items (state, body) VALUES (0, ?)", [(item,) for item in items])
        self._connection.execute("COMMIT")

    def take(self) -> bool:
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        row = execute("SELECT seq FROM items WHERE state = 0 ORDER BY seq LIMIT 1").fetchone()
        if row is not None:
            execute("UPDATE items SET state = 1, token = ? WHERE seq = ?", (self._token, row[0]))
        execute("COMMIT")
        if row is None:
            return False
        execute("UPDATE items SET state = 2 WHERE seq = ? AND token = ?", (row[0], self._token))
        return True

    def close(self) -> None:
        self._connection.close()


class Huey:
    """huey's SQLite storage: an item is gone when it is taken, so a claimer that dies loses it."""

    def __init__(self, directory: Path) -> None:
        from huey import SqliteHuey

        self._huey = SqliteHuey("bench", filename=str(directory / "queue.db"), results=False)
        self._task = self._huey.task(name="item")(lambda item: None)

    def put(self, item: str) -> None:
        self._task(item)

    def fill(self, items: list[str]) -> None:
        for item in items:
            self._task(item)

    def take(self) -> bool:
        return self._huey.dequeue() is not None

    def close(self) -> None:
        self._huey.storage.close()


class LiteQueue:
    """litequeue: WAL without sync; a claimed item of a dead claimer is not offered again."""

    def __init__(self, directory: Path) -> None:
        from litequeue import LiteQueue as Library

        self._queue: Any = Library(str(directory / "queue.db"))

    def put(self, item: str) -> None:
        self._queue.put(item)

    def fill(self, items: list[str]) -> None:
        self._queue.conn.execute("BEGIN")
        for item in items:
            self._queue.put(item)
        self._queue.conn.execute("COMMIT")

    def take(self) -> bool:
        message = self._queue.pop()
        if message is not None:
            self._queue.done(message.message_id)
        return message is not None

    def close(self) -> None:
        self._queue.conn.close()


class PersistQueue:
    """persist-queue with acknowledgements."""

    def __init__(self, directory: Path) -> None:
        from persistqueue import SQLiteAckQueue

        # It makes its directory after it looked for it, so that of two processes one fails.
        place = directory / "queue"
        place.mkdir(exist_ok=True)
        self._queue: Any = SQLiteAckQueue(str(place), auto_commit=True, multithreading=True)

    def put(self, item: str) -> None:
        self._queue.put(item)

    def fill(self, items: list[str]) -> None:
        for item in items:
            self._queue.put(item)

    def take(self) -> bool:
        from persistqueue import Empty

        try:
            item = self._queue.get(block=False, raw=True)
        except Empty:
            return False
        self._queue.ack(id=item["pqid"])
        return True

    def close(self) -> None:
        self._queue.close()


# Name, durability, library, constructor, and whether a deep backlog can be made in bearable time.
PEERS: tuple[tuple[str, str, str | None, Callable[[Path], Peer], bool], ...] = (
    ("by_hand_full", "FULL", None, lambda directory: ByHand(directory, "FULL"), True),
    ("by_hand_normal", "NORMAL", None, lambda directory: ByHand(directory, "NORMAL"), True),
    ("huey", "FULL", "huey", Huey, False),
    ("litequeue", "NORMAL", "litequeue", LiteQueue, False),
    ("persist_queue", "FULL", "persistqueue", PersistQueue, False),
)


def is_installed(library: str | None) -> bool:
    """Whether a peer can be measured here."""
    return library is None or importlib.util.find_spec(library) is not None


def body(index: int, text: str) -> str:
    """What every queue is given: 200 characters and a number."""
    return json.dumps({"i": index, "text": text})
