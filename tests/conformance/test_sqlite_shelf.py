"""The laws of the shelf, over SQLite: search, archives, costs, names."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path

from lash_cli.core.frames import open_frame
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.archives import ArchiveLaws
from lash_cli.store.conformance.clock import ManualClock
from lash_cli.store.conformance.search import SearchLaws, found, say
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
    store, fence = await make.held(open_store, clock)
    await store.commit_runtime_state(make.commit(fence, make.append(["m1", "m2"])))
    frames, _ = open_frame(make.frames(), "second", "compaction", 7)
    delta = make.append(["c1"], parent="m2", frame_id="second")
    await store.commit_runtime_state(make.commit(fence, delta, expected=1, with_frames=frames))
    await store.import_sessions([(await store.export_session(make.SESSION), "again")])

    def beginnings(connection: sqlite3.Connection) -> list[list[tuple[int, int]]]:
        statement = "SELECT ordinal, first_seq FROM frames WHERE session_key = ? ORDER BY ordinal"
        return [connection.execute(statement, (key,)).fetchall() for key in (1, 2)]

    original, imported = store.db.read(beginnings)
    assert imported == original == [(1, 1), (2, 3)]


async def test_a_message_that_is_no_text_any_more_is_not_found_and_all_others_are(
    open_store: Callable[[], SqliteStore], clock: ManualClock
) -> None:
    store = open_store()
    first, second, third = await say(store, clock, "needle one", "needle two", "needle three")
    damage = "UPDATE nodes SET body = CAST(x'7bff' AS TEXT) WHERE node_id = ?"
    await store.db.write(lambda connection: connection.execute(damage, (second,)).rowcount, durable=False)
    assert await found(store, "needle", context=1) == [third, first]
    await store.db.write(lambda connection: connection.execute(damage, (first,)).rowcount, durable=False)
    assert await found(store, "needle", context=1) == [third]


async def test_a_file_that_was_searched_by_an_older_lash_is_indexed_again(
    open_store: Callable[[], SqliteStore], clock: ManualClock, database_path: Path
) -> None:
    store = open_store()
    sentence, plain = await say(store, clock, "今日は天気がいい", "plain words")
    assert await found(store, "天気") == [sentence]
    store.close()
    with contextlib.closing(sqlite3.connect(database_path, isolation_level=None)) as connection:
        for statement in (
            "UPDATE message_text SET text = replace(text, char(4), '')",  # as the older one indexed it
            "DELETE FROM _sqlite_migrations WHERE name = '0007_search_inside_sentences'",
            "PRAGMA user_version = 6",
        ):
            connection.execute(statement)
    again = open_store()
    assert await found(again, "天気") == [sentence]
    assert await found(again, "plain") == [plain]
    with contextlib.closing(sqlite3.connect(database_path, isolation_level=None)) as connection:
        connection.execute("INSERT INTO message_text_fts (message_text_fts) VALUES ('integrity-check')")
