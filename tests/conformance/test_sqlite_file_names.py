"""One database is one file, by whatever name it is opened and wherever the process goes afterwards (design D1)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lash_cli.errors import StoreReadOnly
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.clock import ManualClock
from lash_cli.store.sqlite.store import SqliteStore


async def test_a_link_to_a_database_is_that_database(tmp_path: Path, clock: ManualClock) -> None:
    real, link = tmp_path / "elsewhere" / "real.db", tmp_path / "link.db"
    real.parent.mkdir()
    link.symlink_to(real)
    with pytest.raises(StoreReadOnly):
        # To a disk that is not mounted, perhaps: nothing is made in its place.
        SqliteStore.open(link, clock)
    assert not real.exists()
    SqliteStore.open(real, clock).close()
    store = SqliteStore.open(link, clock)
    await make.create(store, clock)
    again = SqliteStore.open(real, clock)
    row = await again.session_row(make.SESSION)
    assert row is not None and row.meta.session_id == make.SESSION
    for handle in (store, again):
        await handle.aclose()
    assert link.is_symlink() and set(os.listdir(tmp_path)) == {"link.db", "elsewhere"}


async def test_a_relative_name_means_the_same_file_when_the_process_goes_elsewhere(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for directory in (here, there):
        directory.mkdir()
    monkeypatch.chdir(there)
    SqliteStore.open("lash.db", clock).close()
    monkeypatch.chdir(here)
    store = SqliteStore.open("lash.db", clock)
    monkeypatch.chdir(there)
    # Its first write, and a read of many rows, each open a connection of their own.
    await make.create(store, clock)
    assert store.live.bell_name == f"{os.stat(here / 'lash.db').st_dev:x}.{os.stat(here / 'lash.db').st_ino:x}"
    assert (await store.export_session(make.SESSION)).session_id == make.SESSION
    await store.aclose()
    other = SqliteStore.open("lash.db", clock)
    assert await other.session_row(make.SESSION) is None
    await other.aclose()
