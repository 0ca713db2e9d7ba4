"""A newer lash brings the file up to date while this one has it open (contract 01 §14, design D11)."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from lash_cli.errors import StoreUnusable
from lash_cli.store.base import LaneGranted
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.clock import ManualClock
from lash_cli.store.conformance.journal import claim_of
from lash_cli.store.sqlite import schema
from lash_cli.store.sqlite.store import SqliteStore

OpenStore = Callable[[], SqliteStore]


def migrate_as_a_newer_lash(path: Path) -> None:
    """What the next lash does whose only migration changes nothing that a statement of this one would fall over."""
    with pytest.MonkeyPatch.context() as future:
        future.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, ("9999_of_the_future", lambda connection: None)))
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            schema.migrate(connection)
            connection.execute("COMMIT")


def stored(path: Path) -> list[Any]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1").fetchall()
        return [(name, connection.execute(f"SELECT * FROM {name}").fetchall()) for (name,) in tables]


Write = Callable[[SqliteStore, ManualClock, LaneGranted], Awaitable[object]]
WRITES: dict[str, Write] = {
    "create": lambda store, clock, lane: make.create(store, clock, "new"),
    "enqueue": lambda store, clock, lane: make.enqueue(store, "in-2"),
    "work": lambda store, clock, lane: make.put(store, make.command()),
    "turn": lambda store, clock, lane: make.start(store, clock, "t2", name="b", session_id="other"),
    "effect": lambda store, clock, lane: make.record(
        store, claim_of(clock, "a", fence=make.fence_of_lane(lane)), b"done"
    ),
    "claimed effect": lambda store, clock, lane: store.journal_prepare(
        claim_of(clock, "a", fence=make.fence_of_lane(lane))
    ),
    "commit": lambda store, clock, lane: store.commit_runtime_state(
        make.ending(lane, make.append(["m1"], parent="m0"), expected=1)
    ),
    "delete": lambda store, clock, lane: store.delete_session("other", clock.now_ms()),
}


@pytest.mark.parametrize("name", WRITES)
async def test_who_has_the_file_open_while_a_newer_lash_changes_it_writes_nothing_more(
    database_path: Path, open_store: OpenStore, clock: ManualClock, name: str
) -> None:
    store = await make.opened(open_store, clock, make.SESSION, "other")
    # What they say was prepared before.
    first = await make.start(store, clock, "t0")
    await store.commit_runtime_state(make.ending(first, make.append(["m0"])))
    lane = await make.start(store, clock)
    migrate_as_a_newer_lash(database_path)
    before = stored(database_path)
    with pytest.raises(StoreUnusable) as refused:
        await WRITES[name](store, clock, lane)
    assert refused.value.code == "schema_too_new", refused.value
    assert f"has schema {schema.SCHEMA_VERSION + 1}" in str(refused.value)
    assert stored(database_path) == before


async def test_the_name_of_todays_schema_costs_no_step_of_a_statement(open_store: OpenStore) -> None:
    store = open_store()

    def steps(statement: str) -> list[Any]:
        explain = f"EXPLAIN SELECT session_key FROM sessions WHERE session_id = ?{statement}"
        rows = store.db.read(lambda connection: connection.execute(explain, ("s",)).fetchall())
        return [operation for _, operation, *_ in rows]

    assert steps(f" AND {schema.IS_OF_TODAY}") == steps("")
