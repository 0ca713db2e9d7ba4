"""A database as the first opening of a store leaves it, made once for all tests whose subject begins behind that.

Making one takes a store thirty times as long as opening one that is there, since every migration is run and recorded.
What an opening makes of no file, an old one or a broken one is the subject of tests that do not use this.
"""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from lash_cli.api import SqliteStore
from lash_cli.system import SystemClock, SystemIds


def lay(path: Path) -> Path:
    """Puts an empty, migrated database at `path`, with the directory it lies in, where there is no file yet; returns
    `path`."""
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_bytes(_made())
    return path


@functools.cache
def _made() -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "lash.db"
        SqliteStore.open(path, clock=SystemClock(), ids=SystemIds()).close()
        assert [made.name for made in Path(directory).iterdir() if made.name.endswith("-wal")] == []
        return path.read_bytes()
