"""What a state may be is checked in the file (contract 02 §1, §3), and what the check costs."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.old_files import with_checks_by_list

from lash_cli.core.ingress import ByInputId
from lash_cli.errors import StoreUnusable
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.clock import ManualClock
from lash_cli.store.sqlite import batches, inputs, line, stamps, turn_start
from lash_cli.store.sqlite.checked_tables import CHECKS
from lash_cli.store.sqlite.invariants import broken_rules, integrity
from lash_cli.store.sqlite.store import SqliteStore

OpenStore = Callable[[], SqliteStore]
S = make.SESSION

TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%' ORDER BY name"
MADE = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name"
ROWS = {
    "inputs": "INSERT INTO inputs (input_id, session_key, ingress, submitted_ingress, input, enqueued_at_ms, state)"
    " VALUES ('odd', 1, '', '', '', 1, ?)",
    "queued_work": "INSERT INTO queued_work (batch_id, session_key, work_class, delivery_policy, slot_policy,"
    " merge_key, available_at_ms, enqueued_at_ms, payloads, state) VALUES ('odd', 1, '', '', '', '', 1, 1, '', ?)",
    "effects": "INSERT INTO effects (scope_key, replay_key, envelope_hash, envelope, created_at_ms, status)"
    " VALUES ('', '', '', x'', 1, ?)",
    "waits": "INSERT INTO waits (key_id, scope, wait, is_control, created_at_ms, state) VALUES ('', '', '', 0, 1, ?)",
}


def selected(store: SqliteStore, statement: str) -> list[Any]:
    return store.db.read(lambda connection: connection.execute(statement).fetchall())


def test_no_row_is_checked_by_making_a_table(open_store: OpenStore) -> None:
    store = open_store()
    tables = [name for (name,) in selected(store, TABLES)]
    assert {check.table for check in CHECKS} <= set(tables)
    for table in tables:
        program = [step[1] for step in selected(store, f"EXPLAIN INSERT INTO {table} DEFAULT VALUES")]
        assert "MakeRecord" in program and "OpenEphemeral" not in program, table


@pytest.mark.parametrize(
    "statement",
    [
        inputs._INSERT,
        inputs._INSERT_CLAIMED,
        inputs._CLAIM_ONE,
        inputs._COMPLETE,
        batches._INSERT,
        line._CLAIM,
        batches._COMPLETE,
        turn_start._INSERT,
        stamps._COMPLETE,
    ],
    ids=lambda statement: str(statement.split("(")[0]),
)
def test_what_every_turn_writes_is_written_without_making_a_table(open_store: OpenStore, statement: str) -> None:
    values = (1,) * statement.count("?")
    program = open_store().db.read(lambda connection: connection.execute(f"EXPLAIN {statement}", values).fetchall())
    assert "OpenEphemeral" not in [step[1] for step in program]


@pytest.mark.parametrize("table", ROWS)
async def test_a_state_that_is_none_is_refused_by_the_file(open_store: OpenStore, table: str) -> None:
    store = open_store()
    by_list = next(check.by_list for check in CHECKS if check.table == table)
    states = by_list.split("'")[1::2]
    assert len(states) > 2

    def write(connection: sqlite3.Connection, state: str) -> None:
        connection.execute("SAVEPOINT one")
        try:
            connection.execute(ROWS[table], (state,))
        finally:
            connection.execute("ROLLBACK TO one")

    def job(connection: sqlite3.Connection) -> None:
        for state in states:
            write(connection, state)
        for state in ("of_tomorrow", "", states[0].upper()):
            with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
                write(connection, state)

    await store.db.write(job, durable=False)


async def test_a_file_that_checks_against_lists_is_brought_up_to_date_with_every_row_and_number(
    open_store: OpenStore, clock: ManualClock, database_path: Path
) -> None:
    store = open_store()
    made = selected(store, MADE)
    await make.create(store, clock)
    lane = await make.start(store, clock, "t1")
    for input_id in ("a", "b", "last"):
        await make.enqueue(store, input_id, key=f"key-{input_id}")
    first_batch, last_batch = await make.put(store, make.wake(1), make.wake(2))
    await store.cancel_turn_inputs(S, [ByInputId("last")])
    await store.cancel_queued_work_batch(S, last_batch)
    assert await store.vacuum(None) == {"nodes": 0, "inputs": 1, "queued_work": 1, "waits": 0}
    rows = {table: selected(store, f"SELECT * FROM {table}") for table in (*ROWS, "numbers_gone")}
    store.close()
    with contextlib.closing(sqlite3.connect(database_path, isolation_level=None)) as connection:
        with_checks_by_list(connection)
        was = connection.execute(MADE).fetchall()
    assert was != made

    again = open_store()
    assert selected(again, MADE) == made
    for table in ROWS:
        assert selected(again, f"SELECT * FROM {table}") == rows[table]
    assert selected(again, "SELECT name FROM sqlite_sequence") == [("sessions",)]
    assert selected(again, "SELECT * FROM numbers_gone") == rows["numbers_gone"]
    assert again.db.read(integrity) == [] and again.db.read(broken_rules) == []
    fresh = await make.enqueue(again, "fresh")
    assert fresh.enqueue_seq == 5, "a number is not given out again when its row is gone"
    assert await make.pending_ids(again) == ["a", "b", "fresh"]
    assert (await make.enqueue(again, "twice", key="key-a")).input_id == "a"
    clock.tick(make.TTL_MS / 1000)
    redriven = make.granted(await again.open_lane(make.drain_request(clock, "b")))
    assert redriven.redrive and lane.claim is not None and make.ids_of(redriven.claim) == make.ids_of(lane.claim)
    assert await make.pending_batch_ids(again) == [first_batch]


async def test_a_file_that_lacks_one_of_the_tables_is_brought_up_to_date_as_far_as_it_goes(
    open_store: OpenStore, clock: ManualClock, database_path: Path
) -> None:
    store = await make.opened(open_store, clock)
    await make.enqueue(store, "kept")
    store.close()
    with contextlib.closing(sqlite3.connect(database_path, isolation_level=None)) as connection:
        with_checks_by_list(connection)
        connection.execute("DROP TABLE waits")
    again = open_store()
    assert await make.pending_ids(again) == ["kept"]
    with pytest.raises(StoreUnusable):
        await again.cancel_session_waits(S)
