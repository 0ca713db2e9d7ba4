"""The journal laws over SQLite, and how results are stored there."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clock import ManualClock

from lash_cli.errors import StoreUnusable
from lash_cli.store.conformance.journal import JournalLaws, claim_of, create_session, take_lane
from lash_cli.store.sqlite.journal import COMPRESS_FROM_BYTES, pack, unpack
from lash_cli.store.sqlite.store import SqliteStore
from lash_cli.system import SystemIds

OpenStore = Callable[[], SqliteStore]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def open_store(tmp_path: Path, clock: ManualClock) -> Iterator[OpenStore]:
    opened: list[SqliteStore] = []

    def open_one() -> SqliteStore:
        opened.append(SqliteStore.open(tmp_path / "lash.db", clock, SystemIds()))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


class TestSqliteJournal(JournalLaws):
    """SQLite keeps every law."""


@given(st.binary(max_size=4 * COMPRESS_FROM_BYTES))
def test_a_packed_result_unpacks_to_itself(data: bytes) -> None:
    assert unpack(pack(data)) == data


def test_results_from_half_a_kilobyte_on_are_stored_compressed() -> None:
    assert len(pack(b"a" * (COMPRESS_FROM_BYTES - 1))) == COMPRESS_FROM_BYTES
    assert len(pack(b"a" * COMPRESS_FROM_BYTES)) < COMPRESS_FROM_BYTES


@pytest.mark.parametrize("stored", [b"", b"\x02x", b"\x01not deflate"])
def test_a_damaged_result_is_an_error_and_never_an_answer(stored: bytes) -> None:
    with pytest.raises(StoreUnusable):
        unpack(stored)


async def test_a_row_names_the_key_of_its_session(open_store: OpenStore, clock: ManualClock, tmp_path: Path) -> None:
    store = open_store()
    await create_session(store, clock)
    fence = await take_lane(store, clock, "one")
    await store.journal_record(claim_of(clock, "a", fence=fence), outcome=b"x", error=None)
    with sqlite3.connect(tmp_path / "lash.db") as connection:
        rows = connection.execute("SELECT session_key, lease_generation, lease_token FROM effects").fetchall()
    connection.close()
    assert rows == [(1, fence.fencing_token, None)]
