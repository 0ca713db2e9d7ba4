"""Binds the conformance laws to SQLite: real files, one handle per `open_store()`, a manual clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.made_files import lay

from lash_cli.store.conformance.clock import ManualClock
from lash_cli.store.conformance.factory import CountingIds
from lash_cli.store.sqlite.store import SqliteStore


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def database_path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "lash.db"


@pytest.fixture
def open_store(database_path: Path, clock: ManualClock) -> Iterator[Callable[[], SqliteStore]]:
    handles: list[SqliteStore] = []

    def open_one() -> SqliteStore:
        handles.append(SqliteStore.open(lay(database_path), clock, CountingIds(), synchronous="normal"))
        return handles[-1]

    yield open_one
    for handle in handles:
        handle.close()
