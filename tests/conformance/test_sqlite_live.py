"""The live log in its file: losses, identities of the file, slack rows, and what is announced (contract 04 §10)."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlite_utils import Database as SqliteUtilsDatabase
from sqlite_utils.migrations import Migrations

from lash_cli.core.activity import TurnActivity
from lash_cli.core.commit import ReplaceFull
from lash_cli.core.observation import (
    GENESIS,
    MAX_AGE_MS,
    MAX_EVENTS,
    LiveReplayGapReason,
    QueueChanged,
    SessionCursor,
    StateCommitted,
)
from lash_cli.errors import StoreLocked, StoreReadOnly
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.clock import ManualClock
from lash_cli.store.conformance.factory import CountingIds
from lash_cli.store.conformance.live import after, cursor_of, gap_of, prose, show, started, texts
from lash_cli.store.sqlite import live, schema
from lash_cli.store.sqlite.store import SqliteStore

OpenStore = Callable[[], SqliteStore]
UNAVAILABLE = LiveReplayGapReason.UNAVAILABLE
S = make.SESSION
START = SessionCursor(GENESIS, 0, 0, S)


def sql(path: Path, statement: str, *values: object) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        return connection.execute(statement, values).fetchall()
    finally:
        connection.close()


async def test_a_log_written_under_another_boot_begins_a_new_epoch(
    open_store: OpenStore, clock: ManualClock, database_path: Path
) -> None:
    store, fence = await make.held(open_store, clock)
    await show(store, clock, fence, [prose("a"), prose("b")])
    tail = await cursor_of(store)
    sql(database_path, "UPDATE live_log SET stamp = 'another boot' || stamp")
    await show(store, clock, fence, [prose("c"), prose("d"), prose("e")])
    assert await gap_of(store, tail) is UNAVAILABLE
    assert await gap_of(store, START) is UNAVAILABLE
    now = await cursor_of(store)
    assert now.epoch != tail.epoch and now.position == 3
    assert sql(database_path, "SELECT sum(count) FROM live_row") == [(3,)]


async def test_a_copied_file_continues_no_cursor_of_the_original(
    open_store: OpenStore, clock: ManualClock, database_path: Path
) -> None:
    store, fence = await make.held(open_store, clock)
    await show(store, clock, fence, [prose("a")])
    tail = await cursor_of(store)
    store.close()
    copied = database_path.with_name("restored.db")
    shutil.copy(database_path, copied)
    restored = SqliteStore.open(copied, clock, CountingIds())
    await show(restored, clock, fence, [prose("x"), prose("y")])
    assert await gap_of(restored, tail) is UNAVAILABLE
    restored.close()


async def test_what_was_shown_of_a_history_that_its_commit_replaces_is_not_in_the_new_log(
    open_store: OpenStore, clock: ManualClock
) -> None:
    store, fence = await make.held(open_store, clock)
    await store.commit_runtime_state(make.commit(fence, make.append(["m1"])))
    await show(store, clock, fence, [prose("a")])
    before = await cursor_of(store)
    replacing = make.commit(fence, ReplaceFull(make.nodes(["n1"]), "n1"))
    await store.commit_runtime_state(replacing, shown=[prose("b")])
    assert await gap_of(store, before) is UNAVAILABLE
    now = await cursor_of(store)
    (event,) = await after(store, SessionCursor(now.epoch, now.revision, 0, S))
    assert isinstance(event.payload, StateCommitted)


async def test_an_event_that_does_not_decode_is_a_gap_behind_which_watching_goes_on(
    open_store: OpenStore, clock: ManualClock, database_path: Path
) -> None:
    store, fence = await make.held(open_store, clock)
    await show(store, clock, fence, [prose("a")])
    before = await cursor_of(store)
    await show(store, clock, fence, [prose("b")])
    newer = '[["turn_activity",["id","c",1,{"type":"kind_of_a_later_version"}]]]'
    sql(database_path, "UPDATE live_row SET body = ? WHERE place = (SELECT max(place) FROM live_row)", newer)
    assert await gap_of(store, before) is UNAVAILABLE
    assert await gap_of(store, START) is UNAVAILABLE
    behind = await cursor_of(store)
    await show(store, clock, fence, [prose("c")])
    assert texts(await after(store, behind)) == ["c"]


async def test_a_preview_that_cannot_be_written_is_reported_and_leaves_a_hole(
    clock: ManualClock, database_path: Path
) -> None:
    store = SqliteStore.open(database_path, clock, CountingIds(), lock_timeout_s=0.05)
    fence = await started(store, clock)
    await show(store, clock, fence, [prose("a")])
    before = await cursor_of(store)
    blocker = sqlite3.connect(database_path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    failure: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
    store.live.append_previews(S, lambda: [prose("b")], generation=fence.fencing_token, on_failed=failure.set_result)
    assert isinstance(await failure, StoreLocked)
    blocker.execute("ROLLBACK")
    blocker.close()
    await show(store, clock, fence, [prose("c")])
    assert await gap_of(store, before) is UNAVAILABLE
    hole_is_closed = await cursor_of(store)
    await show(store, clock, fence, [prose("d")])
    assert texts(await after(store, hole_is_closed)) == ["d"]
    store.close()


@pytest.fixture
def written_by(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """On which threads rows of events were appended, in order."""
    append, threads = live.append_rows_in, []

    def noted(*arguments: object, **options: object) -> None:
        threads.append(threading.get_ident())
        append(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(live, "append_rows_in", noted)
    return threads


async def test_previews_nobody_is_in_the_way_of_are_in_the_log_before_the_caller_goes_on(
    open_store: OpenStore, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, written_by: list[int]
) -> None:
    monkeypatch.setattr(live, "_APART_SECONDS", 0.0)
    store, fence = await make.held(open_store, clock)
    for text in ("a", "b"):
        store.live.append_previews(
            S, lambda text=text: [prose(text)], generation=fence.fencing_token, on_failed=pytest.fail
        )
        assert written_by.pop() == threading.get_ident() and not written_by
    assert texts(await after(store, START)) == ["a", "b"]


async def test_an_event_loop_writes_no_long_previews_and_none_right_behind_others(
    open_store: OpenStore, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, written_by: list[int]
) -> None:
    here = threading.get_ident()
    store, fence = await make.held(open_store, clock)
    await show(store, clock, fence, [prose("x" * 65_536)])
    assert here not in written_by
    monkeypatch.setattr(live, "_APART_SECONDS", 3_600.0)
    for text in ("a", "b", "c"):
        await show(store, clock, fence, [prose(text)])
    assert [thread == here for thread in written_by] == [False, True, False, False]
    assert texts(await after(store, START))[1:] == ["a", "b", "c"]


async def test_previews_that_meet_a_lock_hold_up_nobody_and_keep_their_place(
    open_store: OpenStore, clock: ManualClock, database_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "_APART_SECONDS", 0.0)
    store, fence = await make.held(open_store, clock)
    with contextlib.closing(sqlite3.connect(database_path, isolation_level=None)) as blocker:
        blocker.execute("BEGIN IMMEDIATE")
        for text in ("a", "b"):
            store.live.append_previews(
                S, lambda text=text: [prose(text)], generation=fence.fencing_token, on_failed=pytest.fail
            )
        blocker.execute("ROLLBACK")
    await show(store, clock, fence, [prose("c")])
    assert texts(await after(store, START)) == ["a", "b", "c"]


async def test_previews_that_were_taken_as_ctrl_c_struck_leave_a_hole(
    open_store: OpenStore, clock: ManualClock
) -> None:
    store, fence = await make.held(open_store, clock)
    before = await cursor_of(store)

    def struck() -> list[TurnActivity]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.live.append_previews(S, struck, generation=fence.fencing_token, on_failed=pytest.fail)
    await show(store, clock, fence, [prose("b")])
    assert await gap_of(store, before) is UNAVAILABLE


async def test_a_loss_right_before_a_commit_of_the_same_group_is_a_hole_before_it(
    open_store: OpenStore, clock: ManualClock
) -> None:
    store, fence = await make.held(open_store, clock)
    before = await cursor_of(store)

    batches: list[list[object]] = [[prose("fine"), object()]]

    def broken() -> list[object]:
        return batches.pop() if batches else []

    failures: list[BaseException] = []
    store.live.append_previews(S, broken, generation=fence.fencing_token, on_failed=failures.append)  # type: ignore[arg-type]
    await store.commit_runtime_state(make.commit(fence, make.append(["u1"])))
    assert failures and await gap_of(store, before) is UNAVAILABLE


async def test_previews_beside_a_job_that_fails_are_written_all_the_same(
    open_store: OpenStore, clock: ManualClock
) -> None:
    store, fence = await make.held(open_store, clock)
    batches = [[prose("a"), prose("b")]]

    def broken(connection: sqlite3.Connection) -> None:
        raise ValueError("another job of the group")

    store.live.append_previews(
        S,
        lambda: batches.pop() if batches else [],
        generation=fence.fencing_token,
        on_failed=pytest.fail,
    )
    with pytest.raises(ValueError, match="another job"):
        await store.db.write(broken, durable=True)
    assert texts(await after(store, START)) == ["a", "b"]


async def test_a_hole_that_was_undone_is_left_again(open_store: OpenStore, clock: ManualClock) -> None:
    store, fence = await make.held(open_store, clock)
    await show(store, clock, fence, [prose("a")])
    before = await cursor_of(store)
    store.live.lose_previews(S)

    def undone(connection: sqlite3.Connection) -> None:
        live.announce_in(connection, S, QueueChanged("enqueued"), clock.now_ms())
        raise ValueError("the transition fails after its event")

    with pytest.raises(ValueError, match="fails after"):
        await store.db.write(undone, durable=True)
    assert await after(store, before) == ()
    await show(store, clock, fence, [prose("b")])
    assert await gap_of(store, before) is UNAVAILABLE


async def test_slack_rows_are_never_shown_and_are_deleted_in_time(
    open_store: OpenStore, clock: ManualClock, database_path: Path
) -> None:
    store, fence = await make.held(open_store, clock)
    for number in range(MAX_EVENTS + 200):
        store.live.append_previews(
            S, lambda text=str(number): [prose(text)], generation=fence.fencing_token, on_failed=pytest.fail
        )
    await show(store, clock, fence, [])
    tail = await cursor_of(store)
    (kept,) = sql(database_path, "SELECT sum(count) FROM live_row")[0]
    assert MAX_EVENTS <= kept < MAX_EVENTS + 64  # type: ignore[operator]
    oldest = SessionCursor(tail.epoch, 0, tail.position - MAX_EVENTS, S)
    assert len(await after(store, oldest)) == MAX_EVENTS
    older = SessionCursor(tail.epoch, 0, oldest.position - 1, S)
    assert await gap_of(store, older) is LiveReplayGapReason.TRIMMED


async def test_a_queue_change_is_announced_with_the_transaction_that_made_it(
    open_store: OpenStore, clock: ManualClock
) -> None:
    store, watcher = open_store(), open_store()
    await make.create(store, clock)
    event = QueueChanged("enqueued", ("in_1",))
    await store.db.write(lambda connection: live.announce_in(connection, S, event, clock.now_ms()), durable=True)
    assert [found.payload for found in await after(watcher, START)] == [event]
    assert watcher.live.bell_name == store.live.bell_name


async def test_deletion_leaves_no_row_of_a_log(open_store: OpenStore, clock: ManualClock, database_path: Path) -> None:
    store, fence = await make.held(open_store, clock)
    await show(store, clock, fence, [prose("a")])
    await store.release_lease(fence)
    await store.delete_session(S, 1)
    assert sql(database_path, "SELECT count(*) FROM live_row") == [(0,)]
    assert sql(database_path, "SELECT count(*) FROM live_log") == [(0,)]


async def test_watching_needs_no_right_to_write(open_store: OpenStore, clock: ManualClock, database_path: Path) -> None:
    store, fence = await make.held(open_store, clock)
    watcher = SqliteStore.open(database_path, clock, CountingIds(), read_only=True)
    await show(store, clock, fence, [prose("a")])
    assert texts(await after(watcher, START)) == ["a"]
    with pytest.raises(StoreReadOnly):
        watcher.live.append_previews(S, lambda: [], generation=1, on_failed=pytest.fail)
    watcher.close()


def of_version(path: Path, version: int) -> None:
    """A file as an earlier release left it, with one session that was committed once."""
    path.parent.mkdir(parents=True)
    connection = sqlite3.connect(path)
    known = Migrations("lash")
    for name, apply in schema.MIGRATIONS[:version]:
        known(name=name)(lambda database, apply=apply: apply(database.conn))
    known.apply(SqliteUtilsDatabase(connection))
    connection.execute(
        "INSERT INTO sessions (session_id, name, created_at_ms, last_activity_at_ms, config, head_revision)"
        " VALUES (?, 'old-oak', 1, 1, ?, 1)",
        (S, '{"provider_id":"p","model":{"id":"m"}}'),
    )
    connection.commit()
    connection.execute(f"PRAGMA user_version = {version}")
    connection.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
    connection.close()


async def announced(store: SqliteStore, clock: ManualClock, event: QueueChanged) -> None:
    await store.db.write(lambda connection: live.announce_in(connection, S, event, clock.now_ms()), durable=True)


async def test_an_old_database_gets_its_log_and_keeps_everything_else(
    open_store: OpenStore, clock: ManualClock, database_path: Path
) -> None:
    of_version(database_path, 2)
    store = open_store()
    start = await cursor_of(store)
    assert (start.epoch, start.revision) == (GENESIS, 1)
    assert (await store.session_row(S)).meta.name == "old-oak"
    await announced(store, clock, QueueChanged("enqueued", ("in_1",)))
    (event,) = await after(store, start)
    assert event.payload == QueueChanged("enqueued", ("in_1",))


async def test_a_log_with_a_row_for_each_event_is_begun_anew(
    open_store: OpenStore, clock: ManualClock, database_path: Path
) -> None:
    of_version(database_path, 3)
    sql(database_path, "INSERT INTO live_log (session_key, epoch, stamp, tail) VALUES (1, 'before', 'x', 1)")
    store = open_store()
    assert await gap_of(store, SessionCursor("before", 1, 1, S)) is UNAVAILABLE
    await announced(store, clock, QueueChanged("enqueued", ("in_1",)))
    (event,) = await after(store, SessionCursor(GENESIS, 1, 0, S))
    assert event.payload == QueueChanged("enqueued", ("in_1",))


async def test_what_one_transaction_appends_is_one_row_and_can_be_read_from_its_middle(
    open_store: OpenStore, clock: ManualClock, database_path: Path
) -> None:
    store, fence = await make.held(open_store, clock)
    shown = [prose(str(number)) for number in range(5)]
    await show(store, clock, fence, shown)
    assert sql(database_path, "SELECT place & 0xffffffffff, count FROM live_row") == [(5, 5)]
    everything = await after(store, START)
    for place, event in enumerate(everything):
        assert await after(store, event.cursor) == everything[place + 1 :]


async def test_the_newest_row_is_never_trimmed_so_that_no_position_comes_twice(
    open_store: OpenStore, clock: ManualClock, database_path: Path
) -> None:
    store, fence = await make.held(open_store, clock)
    await show(store, clock, fence, [prose("a")])
    await show(store, clock, fence, [prose("b")])
    clock.tick(MAX_AGE_MS / 1000 + 1)
    assert await store.live.trim_session(S) == 1
    assert sql(database_path, "SELECT place & 0xffffffffff FROM live_row") == [(2,)]
    tail = await cursor_of(store)
    await show(store, clock, fence, [prose("c")])
    assert [(event.cursor.position, event.cursor.epoch) for event in await after(store, tail)] == [(3, tail.epoch)]
    assert await gap_of(store, START) is LiveReplayGapReason.TRIMMED
