"""Homes that many tests begin with: made once by the command itself, and copied for each.

A test that is about something else than opening a session pays a copy of a few
files for it, and no process. What is copied is as a command leaves it that has
ended: everything in one database file, and no lease.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

from support.cli import run_lash

from lash_cli.store.sqlite.announcing import store_stamp

Command = tuple[str, ...]
OPEN: Command = ("open", "s")


def prepare(home: Path, *commands: Command) -> Path:
    """Let `home`, which must not exist, be as these commands leave a new home; returns it. All of them must end with 0.

    The sessions of it were opened in its parent, as those that `run_lash` opens, and their logs written in this file:
    cursors of before go on.
    """
    made = _made(*commands)
    shutil.copytree(made, home, copy_function=shutil.copy2)
    database = home / "lash.db"
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("UPDATE sessions SET cwd = ? WHERE cwd = ?", (str(home.parent), str(made.parent)))
        stamps = (store_stamp(database), store_stamp(made / "lash.db"))
        connection.execute("UPDATE live_log SET stamp = ? WHERE stamp = ?", stamps)
    return home


@functools.cache
def _made(*commands: Command) -> Path:
    """A home that nobody but `prepare` reads; each list of commands goes on from the one that is shorter by one."""
    directory = Path(tempfile.mkdtemp(prefix="lash-prepared-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    home = directory / "lash-home"
    if len(commands) > 1:
        prepare(home, *commands[:-1])
    done = run_lash(commands[-1], home=home)
    assert done.code == 0, done.err
    return home
