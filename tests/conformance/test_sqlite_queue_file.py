"""What only a file has: queues of an older schema, and rows that do not decode (contract 02 §1.1, §3.3, design D20)."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.old_files import with_two_indexes_of_what_is_held

from lash_cli.core.codec import encode
from lash_cli.core.ingress import ActiveTurn, AlreadyClaimed, ByInputId, Cancelled, InputState, NextTurn, TurnInputClaim
from lash_cli.core.lease import LeaseOwnerIdentity
from lash_cli.core.queued_work import BatchState
from lash_cli.errors import ConflictError, StoreUnusable
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.clock import ManualClock
from lash_cli.store.conformance.factory import CountingIds
from lash_cli.store.sqlite import schema
from lash_cli.store.sqlite.invariants import broken_rules, integrity
from lash_cli.store.sqlite.store import SqliteStore

OpenStore = Callable[[], SqliteStore]
S = make.SESSION
TTL_SECONDS = make.TTL_MS / 1000
NEXT = encode(NextTurn()).decode()
TEXT = encode(make.text_input("old")).decode()


async def execute(store: SqliteStore, statement: str, *values: object) -> int:
    """Change the file behind the store's back."""
    return await store.db.write(lambda connection: connection.execute(statement, values).rowcount, durable=True)


INPUT = """
INSERT INTO inputs (input_id, session_key, source_key, ingress, submitted_ingress, target_turn_id, state, input,
    enqueued_at_ms, turn_id, claim_id, claim_token, claim_generation)
VALUES (?, 1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
TURN = """
INSERT INTO turns (session_key, turn_id, turn_index, state, origin, started_at_ms, generation, claim_id)
VALUES (1, ?, ?, ?, 'prompt', 3, 4, ?)
"""


SESSION = """
INSERT INTO sessions (session_id, name, created_at_ms, last_activity_at_ms, config, lease_fencing_token, lease_token,
    lease_owner, lease_claimed_at_ms, lease_expires_at_ms)
VALUES (?, 'old', 1, 2, ?, 4, 'x', ?, 1, 2)
"""


def write_schema_1(path: Path) -> None:
    """A file as the first schema left it: a crashed turn with its claimed text, and input in every state."""
    path.parent.mkdir(mode=0o700)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("BEGIN")
    with pytest.MonkeyPatch.context() as past:
        past.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:1])
        schema.migrate(connection)
    owner = encode(LeaseOwnerIdentity("gone", "1")).decode()
    connection.execute(SESSION, (S, encode(make.CONFIG).decode(), owner))
    for turn in (("t0", 1, "committed", None), ("t1", 2, "running", "tic:t1:4")):
        connection.execute(TURN, turn)
    steer = encode(ActiveTurn("t1", "before_completion")).decode()
    early = encode(ActiveTurn("t1")).decode()
    claimed = ("t1", "tic:t1:4", "token", 4)
    stale = ("t0", "tic:t0:3", "token", 3)
    free = (None, None, None, None)
    rows: list[tuple[object, ...]] = [
        ("founding", "host:k", NEXT, NEXT, None, "deferred_next_turn", TEXT, 10, *claimed),
        ("stale", None, NEXT, NEXT, None, "deferred_next_turn", TEXT, 11, *stale),
        ("waiting", None, NEXT, NEXT, None, "deferred_next_turn", TEXT, 12, *free),
        ("steer", None, steer, steer, "t1", "pending_active", TEXT, 13, *free),
        ("early", None, early, early, "t1", "pending_active", TEXT, 14, *free),
        ("done", "host:d", NEXT, NEXT, None, "completed", TEXT, 15, "t0", None, None, None),
        ("cut", None, NEXT, NEXT, None, "cancelled", TEXT, 16, *free),
    ]
    connection.executemany(INPUT, rows)
    connection.execute("COMMIT")
    connection.close()


async def test_a_file_of_the_first_schema_opens_with_every_row_intact(
    database_path: Path, open_store: OpenStore, clock: ManualClock
) -> None:
    write_schema_1(database_path)
    store = open_store()
    rows = {row.input_id: row for row in await store.inputs(S, pending_only=False)}
    assert list(rows) == ["founding", "stale", "waiting", "steer", "early", "done", "cut"]
    assert [row.enqueued_at_ms for row in rows.values()] == list(range(10, 17))
    assert {row.input for row in rows.values()} == {make.text_input("old")}
    assert rows["steer"].ingress == ActiveTurn("t1", "before_completion")
    assert (rows["done"].state, rows["cut"].state) == (InputState.COMPLETED, InputState.CANCELLED)
    assert await make.pending_ids(store) == ["stale", "waiting", "steer", "early"], "only a running turn holds its text"
    assert (await make.enqueue(store, "again", "old", key="host:d")).input_id == "done"
    (result,) = await store.cancel_turn_inputs(S, [ByInputId("founding")])
    assert isinstance(result.outcome, AlreadyClaimed)
    demand = await store.demand(S)
    assert (demand.unfinished_turn_id, demand.has_claimable, demand.is_held) == ("t1", True, False)


async def test_a_turn_of_the_first_schema_is_driven_to_its_end_with_its_text_and_what_was_addressed_to_it(
    database_path: Path, open_store: OpenStore, clock: ManualClock
) -> None:
    write_schema_1(database_path)
    store = open_store()
    lane = make.granted(await store.open_lane(make.drain_request(clock)))
    assert lane.redrive and lane.turn is not None and lane.claim is not None
    assert (lane.turn.turn_id, lane.claim.claim_id, make.ids_of(lane.claim)) == ("t1", "tic:t1:4", ["founding"])
    fence = make.fence_of_lane(lane)
    early = await store.claim_checkpoint_work(fence, make.checkpoint_request("t1", name="c1"))
    last = await store.claim_checkpoint_work(fence, make.checkpoint_request("t1", "before_completion", name="c2"))
    assert (make.ids_of(early.inputs), make.ids_of(last.inputs)) == (["early"], ["steer"])
    await store.commit_runtime_state(
        make.commit(
            fence,
            make.append(["m1"]),
            turn=make.stamp("t1"),
            claim=lane.claim,
            claims=[early.inputs, last.inputs],
            release=True,
        )
    )
    following = make.granted(await store.open_lane(make.drain_request(clock)))
    assert make.ids_of(following.claim) == ["stale", "waiting"]


async def test_what_is_held_in_a_file_with_two_indexes_of_it_is_found_driven_to_its_end_and_given_back(
    database_path: Path, open_store: OpenStore, clock: ManualClock
) -> None:
    store = open_store()
    for session_id in (S, "dead", "other"):
        await make.create(store, clock, session_id)
    lane = await make.start(store, clock, "t1")
    await make.enqueue(store, "steer", ingress=ActiveTurn("t1"))
    (wake,) = await make.put(store, make.wake())
    fence = make.fence_of_lane(lane)
    taken = await store.claim_checkpoint_work(fence, make.checkpoint_request())
    assert lane.claim is not None and make.ids_of(taken.inputs) == ["steer"] and make.ids_of(taken.work) == [wake]
    await make.enqueue(store, "left", session_id="dead")
    (left_wake,) = await make.put(store, make.wake(session_id="dead"))
    dead_fence = await make.fence_of(store, session_id="dead")
    left = await store.claim_next_turn_inputs(dead_fence, claim_token="ct")
    left_work = await store.claim_ready_queued_work(dead_fence, "idle", claim_token="ct")
    other = await make.start(store, clock, "t2", session_id="other")
    await make.enqueue(store, "cut")
    await store.cancel_turn_inputs(S, [ByInputId("cut")], by="me")
    store.close()
    with contextlib.closing(sqlite3.connect(database_path, isolation_level=None)) as connection:
        with_two_indexes_of_what_is_held(connection)
    again = open_store()
    assert again.db.read(integrity) == [] and again.db.read(broken_rules) == []
    assert left is not None and left_work is not None and other.claim is not None
    for claim in (lane.claim, left, left_work, other.claim):
        assert await again.find_claim(claim.claim_id) == claim
    assert await again.inputs_cancelled_by(S, "me") == {"cut"}

    clock.tick(TTL_SECONDS)
    redriven = make.granted(await again.open_lane(make.drain_request(clock, "b", turn_id="d1")))
    assert redriven.redrive and redriven.turn is not None and redriven.turn.turn_id == "t1"
    assert make.ids_of(redriven.claim) == ["in-t1"]
    fence = make.fence_of_lane(redriven)
    repeated = await again.claim_checkpoint_work(fence, make.checkpoint_request())
    assert (make.ids_of(repeated.inputs), make.ids_of(repeated.work)) == (["steer"], [wake])
    await again.commit_runtime_state(
        make.commit(
            fence,
            make.append(["m1"]),
            turn=make.stamp("t1"),
            claim=redriven.claim,
            claims=[repeated.inputs],
            work=[repeated.work],
            release=True,
        )
    )
    assert await again.find_claim(lane.claim.claim_id) is None
    assert await again.abandon_turn_input_claims([other.claim]) == ("in-t2",)
    assert await again.unfinished_turns() == ()
    drained = make.granted(await again.open_lane(make.drain_request(clock, "b", session_id="dead")))
    assert make.ids_of(drained.claim) == ["left"]
    following = await again.claim_ready_queued_work(make.fence_of_lane(drained), "idle", claim_token="ct2")
    assert make.ids_of(following) == [left_wake]
    assert again.db.read(integrity) == [] and again.db.read(broken_rules) == []


async def test_what_a_dropped_turn_gives_back_is_told_in_the_order_it_came(
    open_store: OpenStore, clock: ManualClock
) -> None:
    store, lane = await make.running(open_store, clock)
    fence = make.fence_of_lane(lane)
    for name, input_id in (("c2", "first"), ("c1", "second")):
        await make.enqueue(store, input_id, ingress=ActiveTurn("t1"))
        taken = await store.claim_checkpoint_work(fence, make.checkpoint_request(name=name))
        assert make.ids_of(taken.inputs) == [input_id]
    assert lane.claim is not None
    assert await store.abandon_turn_input_claims([lane.claim]) == ("in-t1", "first", "second")


def test_migrations_add_up_to_the_schema_of_a_new_file(
    database_path: Path, tmp_path: Path, open_store: OpenStore, clock: ManualClock
) -> None:
    def tables(store: SqliteStore) -> list[Any]:
        return store.db.read(
            lambda connection: connection.execute(
                "SELECT type, name, tbl_name FROM sqlite_master ORDER BY 1, 2, 3"
            ).fetchall()
        )

    write_schema_1(database_path)
    old = tables(open_store())
    fresh = SqliteStore.open(tmp_path / "fresh" / "lash.db", clock, CountingIds())
    try:
        new = tables(fresh)
    finally:
        fresh.close()
    assert old == new
    assert len(schema.MIGRATIONS) == schema.SCHEMA_VERSION


DAMAGE = "UPDATE inputs SET input = '{\"items\": nonsense' WHERE input_id = ?"


NO_TEXT = "UPDATE inputs SET input = CAST(x'7bff' AS TEXT) WHERE input_id = ?"


@pytest.mark.parametrize("damage", [DAMAGE, NO_TEXT, "UPDATE inputs SET ingress = '{}' WHERE input_id = ?"])
async def test_an_input_that_does_not_decode_is_named_and_never_skipped(
    open_store: OpenStore, clock: ManualClock, damage: str
) -> None:
    store = await make.opened(open_store, clock)
    await make.enqueue(store, "bad", key="k")
    await make.enqueue(store, "good")
    await execute(store, damage, "bad")
    fence = await make.fence_of(store)
    for attempt in (
        store.inputs(S, pending_only=True),
        store.inputs(S, pending_only=False),
        store.turn_input(S, "bad"),
        store.find_input("bad"),
        store.claim_next_turn_inputs(fence, claim_token="ct"),
        store.open_lane(make.drain_request(clock)),
        make.enqueue(store, "again", key="k"),
    ):
        with pytest.raises(StoreUnusable) as caught:
            await attempt
        assert (caught.value.code, caught.value.details["input_id"]) == ("store_corrupt", "bad")
    assert await store.unfinished_turns(S) == ()


@pytest.mark.parametrize(("damage", "shown"), [(DAMAGE, '{"items": nonsense'), (NO_TEXT, "{\ufffd")])
async def test_an_input_that_does_not_decode_is_cancelled_by_its_id_and_shows_what_is_stored(
    open_store: OpenStore, clock: ManualClock, damage: str, shown: str
) -> None:
    store = await make.opened(open_store, clock)
    await make.enqueue(store, "bad")
    await make.enqueue(store, "good")
    await execute(store, damage, "bad")
    (result,) = await store.cancel_turn_inputs(S, [ByInputId("bad")])
    assert isinstance(result.outcome, Cancelled)
    assert result.outcome.input.input == make.text_input(shown)
    lane = make.granted(await store.open_lane(make.drain_request(clock)))
    assert make.ids_of(lane.claim) == ["good"]


async def test_a_turn_whose_text_no_longer_decodes_can_be_given_back_and_cut(
    open_store: OpenStore, clock: ManualClock
) -> None:
    store, lane = await make.running(open_store, clock)
    await execute(store, DAMAGE, "in-t1")
    clock.tick(TTL_SECONDS)
    with pytest.raises(StoreUnusable):
        await store.open_lane(make.drain_request(clock, "b"))
    assert lane.claim is not None
    found = await store.find_claim(lane.claim.claim_id)
    assert isinstance(found, TurnInputClaim)
    assert await store.abandon_turn_input_claims([found]) == ("in-t1",)
    (result,) = await store.cancel_turn_inputs(S, [ByInputId("in-t1")])
    assert isinstance(result.outcome, Cancelled)
    assert make.idle(await store.open_lane(make.drain_request(clock, "b"))).reason == "empty"


async def test_a_boundary_of_another_program_is_left_waiting_and_goes_to_the_next_turn(
    open_store: OpenStore, clock: ManualClock
) -> None:
    store, lane = await make.running(open_store, clock)
    await make.enqueue(store, "odd", ingress=ActiveTurn("t1"))
    await make.enqueue(store, "plain", ingress=ActiveTurn("t1"))
    odd = '{"scope":"active_turn","turn_id":"t1","min_boundary":"at_noon"}'
    await execute(
        store,
        "UPDATE inputs SET ingress = ?, submitted_ingress = ?, min_boundary = 'at_noon' WHERE input_id = 'odd'",
        odd,
        odd,
    )
    fence = make.fence_of_lane(lane)
    for checkpoint, name, expected in (("after_work", "c1", ["plain"]), ("before_completion", "c2", [])):
        claims = await store.claim_checkpoint_work(
            fence,
            make.checkpoint_request("t1", checkpoint, name=name),  # type: ignore[arg-type]
        )
        assert make.ids_of(claims.inputs) == expected
    taken = await store.claim_checkpoint_work(fence, make.checkpoint_request("t1", name="c1"))
    await store.commit_runtime_state(
        make.commit(
            fence,
            make.append(["m1"]),
            turn=make.stamp("t1"),
            claim=lane.claim,
            claims=[taken.inputs],
            release=True,
            defer="t1",
        )
    )
    assert make.ids_of(make.granted(await store.open_lane(make.drain_request(clock))).claim) == ["odd"]


BAD_BATCHES = [
    'UPDATE queued_work SET payloads = \'[{"type":"of_tomorrow"}]\' WHERE batch_id = ?',
    "UPDATE queued_work SET payloads = 'nonsense' WHERE batch_id = ?",
    "UPDATE queued_work SET work_class = 'of_tomorrow' WHERE batch_id = ?",
    "UPDATE queued_work SET slot_policy = 'of_tomorrow' WHERE batch_id = ?",
    "UPDATE queued_work SET merge_key = '{}' WHERE batch_id = ?",
    "UPDATE queued_work SET payloads = CAST(x'5bff' AS TEXT) WHERE batch_id = ?",
]


@pytest.mark.parametrize("damage", BAD_BATCHES)
@pytest.mark.parametrize("where", ["drain", "claim", "checkpoint", "group", "command"])
async def test_a_batch_that_does_not_decode_is_parked_and_what_stands_behind_it_goes(
    open_store: OpenStore, clock: ManualClock, damage: str, where: str
) -> None:
    store = await make.opened(open_store, clock)
    if where == "command":
        bad, good = await make.put(store, make.command("bad"), make.command("good"))
    elif where == "group":
        good, bad = await make.put(store, make.work("good"), make.work("bad"))
    else:
        bad, good = await make.put(store, make.wake(1), make.wake(2))
    await execute(store, damage, bad)
    listed = await store.queued_work(S, pending_only=True)
    assert {batch.batch_id for batch in listed} == {good, bad}, "what cannot be read is shown all the same"
    if where in ("drain", "group"):
        taken = make.ids_of(make.granted(await store.open_lane(make.drain_request(clock))).work)
    elif where == "checkpoint":
        lane = await make.start(store, clock, "t1")
        taken = make.ids_of(
            (await store.claim_checkpoint_work(make.fence_of_lane(lane), make.checkpoint_request())).work
        )
    else:
        fence = await make.fence_of(store)
        taken = make.ids_of(
            await store.claim_leading_session_command(fence, claim_token="ct")
            if where == "command"
            else await store.claim_ready_queued_work(fence, "idle", claim_token="ct")
        )
    assert taken == [good]
    parked = await store.queued_work_batch(S, bad)
    assert parked is not None and (parked.state, parked.attempts) == (BatchState.DEAD, 1)
    assert parked.last_error is not None and "does not decode" in parked.last_error
    assert bad in [batch.batch_id for batch in await store.queued_work(S, pending_only=False)]
    assert await store.cancel_queued_work_batch(S, bad) is not None


@pytest.mark.parametrize("damage", BAD_BATCHES)
async def test_a_line_of_nothing_but_rubbish_is_parked_and_the_pass_is_idle(
    open_store: OpenStore, clock: ManualClock, damage: str
) -> None:
    store = await make.opened(open_store, clock)
    ids = await make.put(store, make.wake(1), make.work("a"), make.work("b"))
    for batch_id in ids:
        await execute(store, damage, batch_id)
    assert make.idle(await store.open_lane(make.drain_request(clock))).reason == "empty"
    row = await store.session_row(S)
    assert row is not None and (row.lease.fencing_token, row.pending_batches) == (0, 0)
    states = {batch.state for batch in await store.queued_work(S, pending_only=False)}
    assert states == {BatchState.DEAD}
    mark = await store.change_mark()
    assert make.idle(await store.open_lane(make.drain_request(clock))).reason == "empty"
    assert await store.change_mark() == mark


async def test_commands_behind_rubbish_go_in_the_same_pass(open_store: OpenStore, clock: ManualClock) -> None:
    store = await make.opened(open_store, clock)
    bad, _ = await make.put(store, make.wake(), make.command())
    await execute(store, BAD_BATCHES[0], bad)
    assert make.granted(await store.open_lane(make.drain_request(clock))).commands_due


async def test_a_named_batch_that_does_not_decode_is_refused(open_store: OpenStore, clock: ManualClock) -> None:
    store = await make.opened(open_store, clock)
    (bad,) = await make.put(store, make.wake())
    await execute(store, BAD_BATCHES[0], bad)
    idle = make.idle(await store.open_lane(make.drain_request(clock, batch_ids=(bad,))))
    assert idle.reason == "unclaimable_together"
    parked = await store.queued_work_batch(S, bad)
    assert parked is not None and parked.state is BatchState.DEAD


async def test_a_claimed_batch_that_no_longer_decodes_can_be_found_and_given_back(
    open_store: OpenStore, clock: ManualClock
) -> None:
    store = await make.opened(open_store, clock)
    (bad,) = await make.put(store, make.wake())
    lane = make.granted(await store.open_lane(make.drain_request(clock)))
    assert lane.work is not None
    await execute(store, BAD_BATCHES[0], bad)
    clock.tick(TTL_SECONDS)
    with pytest.raises(StoreUnusable):
        await store.open_lane(make.drain_request(clock, "b"))
    found = await store.find_claim(lane.work.claim_id)
    assert found is not None and not isinstance(found, TurnInputClaim)
    assert await store.abandon_queued_work_claims([found]) == (bad,)
    assert make.idle(await store.open_lane(make.drain_request(clock, "b"))).reason == "empty"


class StuckIds(CountingIds):
    """A maker of ids whose tokens are all the same."""

    def token(self) -> str:
        return "same"


async def test_work_for_which_there_is_no_id_is_refused(
    open_store: OpenStore, database_path: Path, clock: ManualClock
) -> None:
    await make.opened(open_store, clock)
    with contextlib.closing(SqliteStore.open(database_path, clock, StuckIds())) as stuck:
        (first,) = await make.put(stuck, make.work("a"))
        with pytest.raises(ConflictError) as refused:
            await make.put(stuck, make.work("b"))
        assert refused.value.code == "batch_exists"
        assert [batch.batch_id for batch in await stuck.queued_work(S, pending_only=True)] == [first]
