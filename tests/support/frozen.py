"""Processes that stand still in the middle of their work, and leases that run out while nobody renews them.

A process that is stopped inside a transaction keeps every other one out of the
store, which is an error of its own (`store_locked`); here it is stopped between
two. And a lease short enough for a test to wait for is lost by an owner on a
busy machine too, so it is long at first and cut once its owner stands still.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from support.warm import WarmProcess

PATIENCE_S = 60


def wait_until_frozen(process: subprocess.Popen[Any]) -> None:
    """Until the process, a child of this one or a warm one, was stopped with all its threads."""
    if isinstance(process, WarmProcess):
        process.wait_stopped(PATIENCE_S)
        return
    deadline = time.monotonic() + PATIENCE_S
    while True:
        pid, status = os.waitpid(process.pid, os.WUNTRACED | os.WNOHANG)
        if pid:
            assert os.WIFSTOPPED(status), "the process ended instead of standing still"
            return
        assert time.monotonic() < deadline, "the process did not stop"
        time.sleep(0.01)


def freeze(process: subprocess.Popen[Any], database: Path) -> None:
    """Stop a process at a moment at which it does not hold the write lock. `SIGCONT` lets it go on."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        process.send_signal(signal.SIGSTOP)
        wait_until_frozen(process)
        if can_write(database):
            return
        process.send_signal(signal.SIGCONT)
        assert time.monotonic() < deadline, "the process never let go of the store"
        time.sleep(0.01)


def can_write(database: Path) -> bool:
    """Whether nobody holds the write lock."""
    with closing(sqlite3.connect(database, timeout=1, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        connection.execute("ROLLBACK")
        return True


def cut_lease(database: Path, session: str, *, left_ms: int = 500) -> None:
    """Let the lease of a session that is held run out `left_ms` from now."""
    until = time.time_ns() // 1_000_000 + left_ms
    with closing(sqlite3.connect(database, timeout=PATIENCE_S)) as connection, connection:
        changed = connection.execute(
            "UPDATE sessions SET lease_expires_at_ms = ? WHERE session_id = ? AND lease_token IS NOT NULL",
            (until, session),
        ).rowcount
        assert changed == 1, "nobody holds the lease"
