"""The attachment laws over SQLite, and what a turn's commit does to intents."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

import pytest

from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.attachments import PNG, SESSION, AttachmentLaws
from lash_cli.store.conformance.clock import ManualClock
from lash_cli.store.sqlite.attachments import commit_refs
from lash_cli.store.sqlite.sessions import key_of
from lash_cli.store.sqlite.store import SqliteStore

OpenStore = Callable[[], SqliteStore]


class TestSqliteAttachments(AttachmentLaws):
    """SQLite keeps every law."""


@pytest.mark.parametrize("is_named", [False, True])
@pytest.mark.parametrize("is_owned", [False, True])
async def test_the_commit_of_a_turn_adopts_what_it_stored_and_what_it_names_each_without_the_other(
    open_store: OpenStore, clock: ManualClock, is_named: bool, is_owned: bool
) -> None:
    store = await make.opened(open_store, clock)
    named = await store.put_attachment(make.SESSION, b"1", media_type=PNG, owner=None, now_ms=1)
    if is_owned:
        await store.put_attachment(make.SESSION, b"2", media_type=PNG, owner=("turn", "t1"), now_ms=1)
    fence = await make.fence_of(store)
    await store.commit_runtime_state(
        make.commit(fence, make.append(["m1"]), turn=make.stamp("t1"), attachments=(named,) if is_named else ())
    )
    rows = await store.list_attachments(make.SESSION)
    assert sum(row["committed_at_ms"] is not None for row in rows) == is_named + is_owned


async def test_a_commit_adopts_named_intents_and_those_of_its_turn_and_no_others(
    open_store: OpenStore, clock: ManualClock
) -> None:
    store = await make.opened(open_store, clock, SESSION)

    async def put(data: bytes, owner: str | None) -> str:
        turn = None if owner is None else ("turn", owner)
        return await store.put_attachment(SESSION, data, media_type=PNG, owner=turn, now_ms=1)  # type: ignore[arg-type]

    named, owned, foreign = await put(b"1", None), await put(b"2", "t1"), await put(b"3", "t2")
    absent = "sha256:" + "0" * 64
    await store.db.write(
        lambda connection: commit_refs(connection, key_of(connection, SESSION), (named, absent), "t1", 50),
        durable=True,
    )
    committed = {row["attachment_ref"]: row["committed_at_ms"] for row in await store.list_attachments(SESSION)}
    assert committed == {named: 50, owned: 50, foreign: None}
    assert await store.forget_aged_uncommitted(1000) == 1
    await store.put_attachment(SESSION, b"1", media_type=PNG, owner=("turn", "t9"), now_ms=60)
    (row,) = [row for row in await store.list_attachments(SESSION) if row["attachment_ref"] == named]
    assert (row["committed_at_ms"], row["owner_id"]) == (50, None)


async def test_intents_of_a_running_turn_do_not_age(open_store: OpenStore, clock: ManualClock) -> None:
    store = await make.opened(open_store, clock, SESSION)
    await store.put_attachment(SESSION, b"1", media_type=PNG, owner=("turn", "t1"), now_ms=1)

    def start_turn(connection: sqlite3.Connection) -> None:
        connection.execute(
            "INSERT INTO turns (session_key, turn_id, turn_index, state, origin, started_at_ms, generation)"
            " VALUES (1, 't1', 1, 'running', 'prompt', 1, 1)"
        )

    await store.db.write(start_turn, durable=True)
    assert await store.forget_aged_uncommitted(1000) == 0

    def end_turn(connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE turns SET state = 'committed'")

    await store.db.write(end_turn, durable=True)
    assert await store.forget_aged_uncommitted(1000) == 1
