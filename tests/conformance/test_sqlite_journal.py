"""The journal laws over SQLite, and how results are stored there."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lash_cli.core.codec import decode_any
from lash_cli.store.base import JournalClaim, JournalPrepared
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.clock import ManualClock
from lash_cli.store.conformance.journal import SESSION, JournalLaws, claim_of, envelope_of, take_lane
from lash_cli.store.sqlite import journal
from lash_cli.store.sqlite.journal import BRIEF_BYTES, COMPRESS_FROM_BYTES, pack, prepare, unpack
from lash_cli.store.sqlite.store import SqliteStore
from lash_cli.system import SystemIds

OpenStore = Callable[[], SqliteStore]


class TestSqliteJournal(JournalLaws):
    """SQLite keeps every law."""


async def test_only_a_brief_claim_is_written_on_the_thread_of_the_event_loop(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []

    def noted(connection: sqlite3.Connection, claim: JournalClaim, now_ms: int) -> JournalPrepared:
        threads.append(threading.get_ident())
        return prepare(connection, claim, now_ms)

    monkeypatch.setattr(journal, "prepare", noted)
    store = SqliteStore.open(tmp_path / "lash.db", clock, SystemIds())
    await make.create(store, clock, SESSION)
    await store.journal_prepare(claim_of(clock, "a", replay_key="brief"))
    long = envelope_of(b'"%s"' % (b"x" * BRIEF_BYTES))
    await store.journal_prepare(claim_of(clock, "a", replay_key="long", envelope=long))
    await store.aclose()
    assert [thread == threading.get_ident() for thread in threads] == [True, False]


@given(st.binary(max_size=4 * COMPRESS_FROM_BYTES))
def test_a_packed_result_unpacks_to_itself(data: bytes) -> None:
    assert unpack(pack(data)) == data


def test_results_from_half_a_kilobyte_on_are_stored_compressed() -> None:
    assert len(pack(b"a" * (COMPRESS_FROM_BYTES - 1))) == COMPRESS_FROM_BYTES
    assert len(pack(b"a" * COMPRESS_FROM_BYTES)) < COMPRESS_FROM_BYTES


@pytest.mark.parametrize("stored", [b"", b"\x02x", b"\x01not deflate", b'{"kind": "llm_call"}', b"1"])
def test_a_damaged_result_decodes_as_nothing(stored: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_any(unpack(stored), object)


async def test_a_row_names_the_key_of_its_session(
    open_store: OpenStore, clock: ManualClock, database_path: Path
) -> None:
    store = await make.opened(open_store, clock, SESSION)
    fence = await take_lane(store, "one")
    await make.record(store, claim_of(clock, "a", fence=fence), b"x")
    with contextlib.closing(sqlite3.connect(database_path)) as connection, connection:
        rows = connection.execute("SELECT session_key, lease_generation, lease_token FROM effects").fetchall()
    connection.close()
    assert rows == [(1, fence.fencing_token, None)]
