"""The laws of the shelf, over SQLite: search, archives, costs, names."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from lash_cli.core.frames import open_frame
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.archives import ArchiveLaws
from lash_cli.store.conformance.clock import ManualClock
from lash_cli.store.conformance.search import SearchLaws
from lash_cli.store.conformance.shelf import ShelfLaws
from lash_cli.store.sqlite.store import SqliteStore


class TestSqliteSearch(SearchLaws):
    pass


class TestSqliteArchives(ArchiveLaws):
    pass


class TestSqliteNamesAndCosts(ShelfLaws):
    pass


async def test_an_imported_frame_is_read_from_where_it_begins(
    open_store: Callable[[], SqliteStore], clock: ManualClock
) -> None:
    store = open_store()
    await make.create(store, clock)
    fence = await make.fence_of(store, clock)
    await store.commit_runtime_state(make.commit(fence, make.append(["m1", "m2"])))
    frames, _ = open_frame(make.frames(), "second", "compaction", 7)
    delta = make.append(["c1"], parent="m2", frame_id="second")
    await store.commit_runtime_state(make.commit(fence, delta, expected=1, with_frames=frames))
    await store.import_session(await store.export_session(make.SESSION), "again")

    def beginnings(connection: sqlite3.Connection) -> list[list[tuple[int, int]]]:
        statement = "SELECT ordinal, first_seq FROM frames WHERE session_key = ? ORDER BY ordinal"
        return [connection.execute(statement, (key,)).fetchall() for key in (1, 2)]

    original, imported = store.db.read(beginnings)
    assert imported == original == [(1, 1), (2, 3)]
