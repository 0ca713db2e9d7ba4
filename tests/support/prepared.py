"""Homes that many tests begin with: made once by the command itself, and copied for each.

A test that is about something else than opening a session pays a copy of a few
files for it, and no process. What is copied is as a command leaves it that has
ended: everything in one database file, and no lease.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

from support.cli import run_lash

Command = tuple[str, ...]
OPEN: Command = ("open", "s")


def prepare(home: Path, *commands: Command) -> Path:
    """Let `home`, which must not exist, be as these commands leave a new home; returns it. All of them must end with 0.

    The sessions of it remember the directory that the commands ran in, which is not the parent of `home`.
    """
    shutil.copytree(_made(*commands), home, copy_function=shutil.copy2)
    return home


@functools.cache
def _made(*commands: Command) -> Path:
    """A home that nobody but `prepare` reads; each list of commands goes on from the one that is shorter by one."""
    directory = Path(tempfile.mkdtemp(prefix="lash-prepared-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    home = directory / "lash-home"
    if len(commands) > 1:
        shutil.copytree(_made(*commands[:-1]), home, copy_function=shutil.copy2)
    done = run_lash(commands[-1], home=home)
    assert done.code == 0, done.err
    return home
