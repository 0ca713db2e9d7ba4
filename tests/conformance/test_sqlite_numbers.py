"""Contract 02 §1: a number of the queue is given out once in the life of a file, whatever becomes of its row."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

import pytest

from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.clock import ManualClock
from lash_cli.store.sqlite.store import SqliteStore

OpenStore = Callable[[], SqliteStore]
S = make.SESSION


async def removed(store: SqliteStore, statement: str) -> int:
    def job(connection: sqlite3.Connection) -> int:
        return connection.execute(statement).rowcount

    return await store.db.write(job, durable=False)


@pytest.mark.parametrize("order", ["5 4 3", "3 4 5", "4 5 3", "5 3 4"])
async def test_numbers_go_on_behind_rows_that_went_in_any_order(
    open_store: OpenStore, clock: ManualClock, order: str
) -> None:
    store = await make.opened(open_store, clock)
    given = [(await make.enqueue(store, f"i{number}")).enqueue_seq for number in range(1, 6)]
    assert given == [1, 2, 3, 4, 5]
    for number in order.split():
        assert await removed(store, f"DELETE FROM inputs WHERE enqueue_seq = {number}") == 1
    assert (await make.enqueue(store, "next")).enqueue_seq == 6
    assert await removed(store, "DELETE FROM inputs") == 3
    store.close()
    assert (await make.enqueue(open_store(), "after all")).enqueue_seq == 7


async def test_numbers_go_on_behind_a_session_that_was_deleted(open_store: OpenStore, clock: ManualClock) -> None:
    store = await make.opened(open_store, clock)
    await make.create(store, clock, "other")
    await make.enqueue(store, "a", session_id="other")
    await make.put(store, make.wake(1), make.wake(2))
    last = await make.enqueue(store, "b")
    assert await store.delete_session(S, clock.now_ms())
    assert (await make.enqueue(store, "c", session_id="other")).enqueue_seq == last.enqueue_seq + 1
    (batch_id,) = await make.put(store, make.wake(3, session_id="other"))
    batch = await store.queued_work_batch("other", batch_id)
    assert batch is not None and batch.enqueue_seq == 3
