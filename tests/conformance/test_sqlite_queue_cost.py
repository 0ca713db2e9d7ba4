"""What the queue costs: which statements search, how many rows are looked at, which calls write and sync.

Nothing is timed. A look is flat when the virtual machine of SQLite takes no
more steps for it with thousands of rows waiting than with a few, and a plan is
good when it only searches.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lash_cli.core.ingress import ActiveTurn, ByInputId, InputDraft, NextTurn
from lash_cli.core.queued_work import DeliveryPolicy, QueuedWorkBatchDraft, validate_draft
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.clock import ManualClock
from lash_cli.store.conformance.factory import CountingIds
from lash_cli.store.sqlite import (
    batches,
    claims,
    demand,
    drain,
    enqueueing,
    inputs,
    lanes,
    line,
    opening,
    pending_inputs,
    turn_start,
)
from lash_cli.store.sqlite.sessions import read_session
from lash_cli.store.sqlite.store import SqliteStore

OpenStore = Callable[[], SqliteStore]
S = make.SESSION

FEW, MANY = 20, 4_000


# Statements that are made of others, and parts that are none.
FRAGMENTS = {"COLUMNS", "NEWEST", "_TURN_COLUMNS", "SESSION_COLUMNS"}
# Listings for people, whose answer is as long as what they look at.
LISTINGS = {"_TURNS", "_UNFINISHED", "_ALL_UNFINISHED"}
# Every cancel gate and a claim of any session are looked for by walking an index of what is under way or held, which
# holds that and no other row.
WALKS = {"_REQUESTS", "_FIND_INPUTS", "_FIND_WORK"}
WALK = re.compile(r"SCAN \w+ USING (COVERING )?INDEX (turns_running|inputs_held|queued_work_held)")
# A claim's own rows in the order its caller named them: sixty-four at most.
SORTED_CLAIMS = {"_OF_CLAIM"}
NUMBERED = re.compile(r"\?\d+")


def statements() -> Iterator[tuple[str, str]]:
    """Every statement of the modules that claim, probe, cancel, settle and look for demand."""
    modules: tuple[ModuleType, ...] = (
        batches,
        claims,
        demand,
        drain,
        enqueueing,
        inputs,
        lanes,
        line,
        opening,
        pending_inputs,
        turn_start,
    )
    for module in modules:
        for name, value in vars(module).items():
            is_statement = isinstance(value, str) and value.lstrip().startswith(("SELECT", "UPDATE", "DELETE"))
            if is_statement and name not in FRAGMENTS | LISTINGS:
                yield f"{module.__name__.rpartition('.')[2]}.{name}", value


def plan_of(connection: sqlite3.Connection, statement: str) -> list[str]:
    numbered = len(set(NUMBERED.findall(statement)))
    values = (1,) * (numbered or statement.count("?"))
    return [row[3] for row in connection.execute("EXPLAIN QUERY PLAN " + statement, values)]


@pytest.mark.parametrize(("name", "statement"), list(statements()), ids=lambda value: str(value)[:40])
def test_every_statement_of_the_queue_only_searches(open_store: OpenStore, name: str, statement: str) -> None:
    plan = open_store().db.read(lambda connection: plan_of(connection, statement))
    short_name = name.rpartition(".")[2]
    for step in plan:
        is_walk = short_name in WALKS and WALK.fullmatch(step)
        assert is_walk or not step.startswith("SCAN") or step == "SCAN CONSTANT ROW", (name, plan)
        if short_name not in SORTED_CLAIMS:
            assert "TEMP B-TREE" not in step, (name, plan)
    assert plan or statement.lstrip().startswith("INSERT")


class Steps:
    """Counts what the virtual machine does for one call, on both connections of a store.

    Beginning and ending transactions is left out: waiting for a lock is begun again and again.
    """

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self._is_counting = False
        self.count = 0

    def _enter(self, statement: str) -> None:
        self._is_counting = statement.lstrip().startswith(("SELECT", "INSERT", "UPDATE", "DELETE"))

    def _tick(self) -> int:
        self.count += self._is_counting
        return 0

    async def of(self, call: Callable[[], Awaitable[Any]]) -> int:
        """The steps of `call`; statements are prepared already when it was made before."""

        def attach(connection: sqlite3.Connection) -> None:
            connection.set_trace_callback(self._enter)
            connection.set_progress_handler(self._tick, 1)

        def detach(connection: sqlite3.Connection) -> None:
            connection.set_trace_callback(None)
            connection.set_progress_handler(None, 0)

        self._store.db.read(attach)
        await self._store.db.write(attach, durable=False)
        self.count = 0
        await call()
        steps = self.count
        self._store.db.read(detach)
        await self._store.db.write(detach, durable=False)
        return steps


def filler(kind: str, index: int, session_id: str, soon: int) -> QueuedWorkBatchDraft:
    if kind == "later":
        return make.work(f"{session_id}-{index}", available_at_ms=soon, session_id=session_id)
    return make.wake(index + 1, process_id=f"{kind}-{session_id}", session_id=session_id)


async def fill(store: SqliteStore, clock: ManualClock, count: int, session_id: str = S) -> None:
    """Rows of every kind in one session, in one transaction."""
    ids = CountingIds()
    soon = clock.now_ms() + 3_600_000

    def job(connection: sqlite3.Connection) -> None:
        session = read_session(connection, session_id)
        for index in range(count):
            for kind, ingress in (
                ("next", NextTurn()),
                ("steer", ActiveTurn("t1")),
                ("late", ActiveTurn("t1", "before_completion")),
            ):
                draft = InputDraft(session_id, f"{kind}-{session_id}-{index}", make.text_input(), ingress)
                inputs.insert(connection, session.key, draft, clock.now_ms())
            for kind in ("wake", "later"):
                batch = filler(kind, index, session_id, soon)
                batches.insert(connection, session, batch, validate_draft(batch), ids, clock.now_ms())

    await store.db.write(job, durable=False)


async def steps_with(store: SqliteStore, clock: ManualClock, waiting: int) -> dict[str, int]:
    """The steps of every call a driver or a turn makes, with `waiting` rows of each kind in the session."""
    await make.create(store, clock)
    lane = make.granted(await store.open_lane(make.lane_request(clock, "a", turn_id="t1")))
    fence = make.fence_of_lane(lane)
    await fill(store, clock, waiting)
    steps = Steps(store)
    seen: dict[str, int] = {}
    seen["demand"] = await steps.of(lambda: store.demand(S))
    seen["sessions_with_demand"] = await steps.of(lambda: store.sessions_with_demand(limit=5))
    seen["checkpoint"] = await steps.of(
        lambda: store.claim_checkpoint_work(fence, make.checkpoint_request("t1", limit=8))
    )
    request = make.checkpoint_request("t1", "before_completion", name="c2", limit=8)
    seen["last checkpoint"] = await steps.of(lambda: store.claim_checkpoint_work(fence, request))
    seen["cancel input"] = await steps.of(lambda: store.cancel_turn_inputs(S, [ByInputId(f"next-{S}-{waiting - 1}")]))
    newest = (await store.queued_work(S, pending_only=True))[-2].batch_id
    seen["cancel batch"] = await steps.of(lambda: store.cancel_queued_work_batch(S, newest))
    seen["enqueue"] = await steps.of(lambda: make.enqueue(store, "fresh", key="k"))
    seen["enqueue work"] = await steps.of(lambda: make.put(store, make.wake(1, process_id="fresh")))
    seen["claim inputs"] = await steps.of(lambda: store.claim_next_turn_inputs(fence, claim_token="ct", max_inputs=8))
    seen["claim work"] = await steps.of(lambda: store.claim_ready_queued_work(fence, "idle", claim_token="ct"))
    again = [
        await store.claim_checkpoint_work(fence, make.checkpoint_request("t1", name=name)) for name in ("c1", "c2")
    ]
    commit = make.commit(
        fence,
        make.append(["m1"]),
        turn=make.stamp("t1"),
        claim=lane.claim,
        claims=[one.inputs for one in again],
        work=[one.work for one in again],
        release=True,
    )
    seen["commit"] = await steps.of(lambda: store.commit_runtime_state(commit))
    await store.db.write(
        lambda connection: connection.execute("DELETE FROM inputs WHERE state = 'pending_active'").rowcount,
        durable=False,
    )
    drain_request = make.drain_request(clock, max_inputs=8)
    seen["drain"] = await steps.of(lambda: store.open_lane(drain_request))
    clock.tick(make.TTL_MS / 1000)
    seen["redrive"] = await steps.of(lambda: store.open_lane(make.drain_request(clock, "b", turn_id="d2")))
    return seen


async def test_no_call_of_a_driver_or_a_turn_looks_at_more_rows_when_more_wait(
    open_store: OpenStore, clock: ManualClock, tmp_path: Path
) -> None:
    few = await steps_with(open_store(), clock, FEW)
    path = tmp_path / "many" / "lash.db"
    with contextlib.closing(SqliteStore.open(path, clock, CountingIds(), synchronous="normal")) as store:
        many = await steps_with(store, clock, MANY)
    assert many == few


async def test_the_look_over_all_sessions_leaps_from_one_with_demand_to_the_next(
    open_store: OpenStore, clock: ManualClock
) -> None:
    store = open_store()
    steps = Steps(store)

    async def add(first: int, last: int) -> None:
        def job(connection: sqlite3.Connection) -> None:
            connection.executemany(
                "INSERT INTO sessions (session_id, name, created_at_ms, last_activity_at_ms, config)"
                " VALUES (?, ?, 1, 1, '{}')",
                [(f"idle-{index}", f"idle-{index}") for index in range(first, last)],
            )

        await store.db.write(job, durable=False)

    for number in range(3):
        await make.create(store, clock, f"busy-{number}")
        await fill(store, clock, FEW, f"busy-{number}")
        await add(number * 10, number * 10 + 10)
    assert len(await store.sessions_with_demand(limit=10)) == 3
    few = await steps.of(lambda: store.sessions_with_demand(limit=10))
    await add(1_000, 5_000)
    await make.create(store, clock, "busy-3")
    await make.enqueue(store, "x", session_id="busy-3")
    many = await steps.of(lambda: store.sessions_with_demand(limit=10))
    assert len(await store.sessions_with_demand(limit=10)) == 4
    assert many <= few * 4 / 3, (few, many)


class Writes:
    """Notes every write transaction a store asks for and whether it is synced."""

    def __init__(self, store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[bool] = []
        write, write_brief = store.db.write, store.db.write_brief

        async def noted(job: Callable[[sqlite3.Connection], Any], *, durable: bool) -> Any:
            self.seen.append(durable)
            return await write(job, durable=durable)

        async def noted_brief(job: Callable[[sqlite3.Connection], Any]) -> Any:
            seen_before = len(self.seen)
            result = await write_brief(job)
            self.seen[seen_before:] = [False]
            return result

        monkeypatch.setattr(store.db, "write", noted)
        monkeypatch.setattr(store.db, "write_brief", noted_brief)

    async def of(self, call: Awaitable[Any]) -> list[bool]:
        self.seen.clear()
        await call
        return list(self.seen)


async def test_a_look_that_finds_nothing_opens_no_write_transaction(
    open_store: OpenStore, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await make.opened(open_store, clock)
    fence = make.fence_of_lane(await make.start(store, clock, "t1"))
    await make.put(store, make.work("a", delivery=DeliveryPolicy.AFTER_CURRENT_TURN_COMMIT))
    writes = Writes(store, monkeypatch)
    for call in (
        store.claim_checkpoint_work(fence, make.checkpoint_request()),
        store.claim_checkpoint_work(fence, make.checkpoint_request("t1", "before_completion")),
        store.claim_next_turn_inputs(fence, claim_token="ct"),
        store.claim_next_turn_inputs(fence, claim_token="ct", max_inputs=0),
        store.claim_leading_session_command(fence, claim_token="ct"),
        store.claim_ready_queued_work(fence, "active_turn_checkpoint", claim_token="ct"),
        store.claim_ready_queued_work(fence, "idle", claim_token="ct", max_batches=0),
        store.claim_ready_queued_work(fence, "idle", claim_token="ct", batch_ids=["qwb:unknown"]),
        store.open_lane(make.drain_request(clock, "b")),
    ):
        assert await writes.of(call) == []
    await make.create(store, clock, "s2")
    assert await writes.of(store.open_lane(make.drain_request(clock, session_id="s2"))) == []


async def test_no_commit_asks_when_the_log_was_written_last(
    open_store: OpenStore, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await make.opened(open_store, clock)
    asked: list[str] = []
    stat = os.stat

    def noted(path: Any, **options: Any) -> os.stat_result:
        asked.append(str(path))
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", noted)
    for number in range(8):
        await make.enqueue(store, f"i{number}")
    monkeypatch.undo()
    assert f"{store.db.path}-wal" not in asked, "a kernel that was asked makes the next sync dearer"


async def test_what_may_take_long_is_never_written_by_the_event_loop(
    open_store: OpenStore, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    brief: list[str] = []
    write_brief = store.db.write_brief

    async def noted(job: Callable[[sqlite3.Connection], Any]) -> Any:
        brief.append("brief")
        return await write_brief(job)

    monkeypatch.setattr(store.db, "write_brief", noted)
    for session_id, text, expected in (("short", "x" * 65_536, 1), ("long", "x" * 65_537, 0)):
        await make.create(store, clock, session_id)
        brief.clear()
        make.granted(
            await store.open_lane(make.lane_request(clock, session_id=session_id, turn_id=session_id, text=text))
        )
        assert len(brief) == expected
    await make.create(store, clock, "drained")
    await make.enqueue(store, "i1", session_id="drained")
    brief.clear()
    make.granted(await store.open_lane(make.drain_request(clock, session_id="drained")))
    assert not brief


async def test_what_is_acknowledged_is_synced_and_what_only_holds_is_not(
    open_store: OpenStore, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await make.opened(open_store, clock)
    writes = Writes(store, monkeypatch)
    assert await writes.of(make.enqueue(store, "i1")) == [True]
    assert await writes.of(make.enqueue(store, "i2")) == [True]
    assert await writes.of(store.enqueue_queued_work(make.wake())) == [True]
    assert await writes.of(store.cancel_turn_inputs(S, [ByInputId("i2")])) == [True]
    assert await writes.of(store.cancel_turn_input_suffix(S, ByInputId("i2"))) == [True]
    assert await writes.of(store.set_queue_hold(S, held_at_ms=1)) == [True]
    assert await writes.of(store.set_queue_hold(S, held_at_ms=None)) == [True]
    fence = await make.fence_of(store)
    assert await writes.of(store.claim_next_turn_inputs(fence, claim_token="ct")) == [False]
    claim = await store.claim_ready_queued_work(fence, "idle", claim_token="ct")
    assert claim is not None
    assert await writes.of(store.fail_queued_work(fence, claim, "boom")) == [False]
    assert await writes.of(store.abandon_queued_work_claims([claim])) == [False]
    assert await writes.of(store.cancel_queued_work_batch(S, claim.batches[0].batch_id)) == [True]
    await store.release_lease(fence)
    assert await writes.of(store.open_lane(make.drain_request(clock))) == [False]
