"""What the sweep takes, what it never takes, and deletion after a revocation (contract 01 §9.6, 03 §3.3, design D5)."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from lash_cli.core.codec import sha256_hex
from lash_cli.core.commit import CheckpointComponent
from lash_cli.core.effect import (
    CanonicalEnvelope,
    ExecutionScope,
    ProcessScope,
    QueueDrainScope,
    RuntimeOperationScope,
    SessionDeleteScope,
    TurnScope,
    scope_key,
)
from lash_cli.core.frames import FrameStatus, initial_frame
from lash_cli.core.lease import LeaseFence, LeaseOwnerIdentity
from lash_cli.core.wait import AwaitEventKey, CustomWait, ResolvedOk, ToolCompletionWait
from lash_cli.errors import (
    EffectError,
    MissingCheckpointComponent,
    NotFoundError,
    SessionDeleted,
    SessionStillInUse,
    StoreUnusable,
)
from lash_cli.store.base import JournalClaim, SessionCreate
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.clock import ManualClock
from lash_cli.store.sqlite.maintenance import Maintenance
from lash_cli.store.sqlite.ownership import refuse_held
from lash_cli.store.sqlite.store import SqliteStore
from lash_cli.system import this_process

OpenStore = Callable[[], SqliteStore]
S = make.SESSION
PNG = "image/png"


async def execute(store: SqliteStore, statement: str, values: tuple[Any, ...] = ()) -> int:
    """Change the file behind the store's back."""

    def job(connection: sqlite3.Connection) -> int:
        return connection.execute(statement, values).rowcount

    return await store.db.write(job, durable=True)


async def journal(store: SqliteStore, clock: ManualClock, scope: str, session_id: str | None) -> None:
    """One finished effect in a scope."""
    claim = JournalClaim(
        scope_key=scope,
        session_id=session_id,
        replay_key="k",
        envelope=CanonicalEnvelope(b"{}", sha256_hex(b"{}")),
        owner="o",
        token="t",
        ttl_ms=make.TTL_MS,
        now_ms=clock.now_ms(),
    )
    assert await make.record(store, claim, b"{}")


async def start_turn(store: SqliteStore, clock: ManualClock, session_id: str, turn_id: str = "t1") -> LeaseFence:
    """A running turn row and the fence it runs under."""
    await make.create(store, clock, session_id)
    lane = await store.open_lane(make.lane_request(clock, session_id=session_id, turn_id=turn_id, input_id=session_id))
    return make.fence_of_lane(make.granted(lane))


async def test_only_the_journal_of_committed_turns_is_pruned(open_store: OpenStore, clock: ManualClock) -> None:
    store = open_store()
    committed = await start_turn(store, clock, "done")
    await start_turn(store, clock, "running")
    await make.create(store, clock, "other")
    scopes: list[tuple[str, str | None, bool]] = [
        (scope_key(TurnScope("done", "t1")), "done", False),
        (scope_key(TurnScope("done", "t2")), "done", True),
        (scope_key(TurnScope("running", "t1")), "running", True),
        # The same turn id in a session where no such turn was committed.
        (scope_key(TurnScope("other", "t1")), "other", True),
        (scope_key(QueueDrainScope("done", "t1")), "done", True),
        (scope_key(RuntimeOperationScope("t1")), None, True),
    ]
    for scope, session_id, _ in scopes:
        await journal(store, clock, scope, session_id)
    await store.commit_runtime_state(
        make.commit(committed, make.append(["m1"], frame_id="done:frame:initial"), turn=make.stamp("t1"), release=True)
    )
    assert (await store.gc_unreachable())["journal_rows"] == 1
    for scope, _, is_kept in scopes:
        assert len(await store.journal_rows(scope)) == is_kept, scope
    assert (await store.gc_unreachable())["journal_rows"] == 0


async def test_what_a_head_a_frame_or_an_attachment_names_is_kept_and_the_rest_goes(
    open_store: OpenStore, clock: ManualClock
) -> None:
    store, fence = await make.held(open_store, clock)

    def named(**bodies: bytes) -> dict[str, CheckpointComponent]:
        return {name: CheckpointComponent(body=body) for name, body in bodies.items()}

    first = await store.commit_runtime_state(
        make.commit(
            fence, make.append(["m1"]), components=named(tool_state=b"old tools", execution_state=b"frame state")
        )
    )
    # A superseded frame names the execution state that no head names any more.
    old = msgspec.structs.replace(
        initial_frame(S, make.POLICY, 1),
        status=FrameStatus.SUPERSEDED,
        execution_state_ref=first.component_refs["execution_state"],
    )
    current = msgspec.structs.replace(initial_frame(S, make.POLICY, 2), frame_id="f2", previous_frame_id=old.frame_id)
    second = await store.commit_runtime_state(
        make.commit(
            fence,
            make.append(["m2"], parent="m1", frame_id="f2"),
            expected=1,
            components=named(tool_state=b"new tools", execution_state=b"new state"),
            with_frames=(old, current),
        )
    )
    uncommitted = await store.put_attachment(S, b"pixels", media_type=PNG, owner=("turn", "t1"), now_ms=1)
    await execute(store, "INSERT INTO blobs (hash, content) VALUES ('aa', x'00')")

    counts = await store.gc_unreachable()
    assert counts["blobs"] == 2, "the old tools and the bytes nobody names"
    for ref, body in (
        (second.component_refs["tool_state"], b"new tools"),
        (second.component_refs["execution_state"], b"new state"),
        (first.component_refs["execution_state"], b"frame state"),
    ):
        assert await store.load_component(ref) == body
    assert await store.get_attachment(S, uncommitted) == b"pixels"
    for ref in (first.component_refs["tool_state"], "aa"):
        with pytest.raises(MissingCheckpointComponent):
            await store.load_component(ref)


async def test_bytes_of_two_sessions_live_as_long_as_one_of_them_names_them(
    open_store: OpenStore, clock: ManualClock
) -> None:
    store = open_store()
    for session_id in ("a", "b"):
        await make.create(store, clock, session_id)
        ref = await store.put_attachment(session_id, b"shared", media_type=PNG, owner=None, now_ms=1)
    assert await store.delete_session("a", 1)
    assert (await store.gc_unreachable())["blobs"] == 0
    assert await store.get_attachment("b", ref) == b"shared"
    assert await store.delete_session("b", 1)
    assert (await store.gc_unreachable())["blobs"] == 1


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE sessions SET components = '{\"tool_state\"' WHERE session_id = 'sick'",
        "UPDATE sessions SET components = '[1]' WHERE session_id = 'sick'",
        "UPDATE frames SET record = '{}'",
    ],
)
async def test_one_live_head_that_does_not_decode_aborts_the_whole_sweep(
    open_store: OpenStore, clock: ManualClock, damage: str
) -> None:
    store = open_store()
    fence = await start_turn(store, clock, S)
    await journal(store, clock, scope_key(TurnScope(S, "t1")), S)
    await store.commit_runtime_state(make.commit(fence, make.append(["m1"]), turn=make.stamp(), release=True))
    await make.create(store, clock, "sick")
    await execute(store, "INSERT INTO blobs (hash, content) VALUES ('aa', x'00')")
    assert await execute(store, damage) == 1
    with pytest.raises(StoreUnusable):
        await store.gc_unreachable()
    assert await store.load_component("aa") == b"\0"
    assert len(await store.journal_rows(scope_key(TurnScope(S, "t1")))) == 1


async def test_a_journal_row_whose_scope_does_not_decode_is_kept_and_does_not_stop_the_sweep(
    open_store: OpenStore, clock: ManualClock
) -> None:
    store = await make.opened(open_store, clock)
    await journal(store, clock, "not json", None)
    await store.gc_unreachable()
    assert len(await store.journal_rows("not json")) == 1


async def test_a_session_whose_waits_were_revoked_first_is_deleted_completely(
    open_store: OpenStore, clock: ManualClock
) -> None:
    store = open_store()
    fence = await start_turn(store, clock, S)
    await journal(store, clock, scope_key(TurnScope(S, "t1")), S)
    key = await store.wait_key(TurnScope(S, "t1"), CustomWait("x"))
    await store.register_wait(key, None, clock.now_ms())
    await store.put_attachment(S, b"pixels", media_type=PNG, owner=None, now_ms=1)
    await make.put(store, make.wake(1), make.wake(2))
    claims = await store.claim_checkpoint_work(fence, make.checkpoint_request())
    commit = make.commit(fence, make.append(["m1"]), turn=make.stamp(), work=[claims.work], release=True)
    await store.commit_runtime_state(commit)
    await store.revoke_session_waits(S, 1)
    assert await store.delete_session(S, 2)
    assert await store.delete_session(S, 3), "deleting is idempotent"
    with pytest.raises(SessionDeleted):
        await store.session_row(S)
    with pytest.raises(SessionDeleted):
        await make.create(store, clock)
    assert await store.journal_rows(scope_key(TurnScope(S, "t1"))) == ()
    assert (await store.resolve_wait(key, ResolvedOk(1), 1)).kind == "unknown_or_revoked"
    left = {
        table: store.db.read(
            lambda connection, table=table: connection.execute(f"SELECT count(*) FROM {table}")
        ).fetchone()[0]
        for table in (
            "sessions",
            "nodes",
            "frames",
            "turns",
            "inputs",
            "queued_work",
            "wake_fences",
            "usage_deltas",
            "waits",
            "effects",
            "attachments",
        )
    }
    assert set(left.values()) == {0}, left
    assert (await store.list_sessions(limit=5))[0] == ()


async def test_a_session_takes_its_journals_along_and_nobody_elses(open_store: OpenStore, clock: ManualClock) -> None:
    store = open_store()
    await make.create(store, clock, S)
    own = [TurnScope(S, "t1"), QueueDrainScope(S, "d1"), SessionDeleteScope(S)]
    # Ids that stand beside it in any order, and a turn that has its name.
    others: list[ExecutionScope] = [TurnScope("other", S), RuntimeOperationScope(S), ProcessScope(S)]
    for name in (f"{S}!", f"{S}-", f"{S}0", S[:-1], f'{S}","turn_id":"t1'):
        others += [TurnScope(name, "t1"), QueueDrainScope(name, "d1"), SessionDeleteScope(name)]
    for scope in (*own, *others):
        await journal(store, clock, scope_key(scope), S)
    assert await store.delete_session(S, 2)
    assert [len(await store.journal_rows(scope_key(scope))) for scope in own] == [0] * len(own)
    assert [len(await store.journal_rows(scope_key(scope))) for scope in others] == [1] * len(others)


async def test_a_vacuum_of_an_absent_session_is_not_found(open_store: OpenStore, clock: ManualClock) -> None:
    with pytest.raises(NotFoundError):
        await open_store().vacuum("nobody")


async def test_a_settled_input_is_kept_for_its_own_turn_and_for_no_other(
    open_store: OpenStore, clock: ManualClock
) -> None:
    store = open_store()
    await start_turn(store, clock, "beside")
    await make.create(store, clock, S)
    lane = await make.start(store, clock, "t1")
    clock.tick(1)
    committed_ms = clock.now_ms()
    await store.commit_runtime_state(
        make.commit(
            make.fence_of_lane(lane),
            make.append(["m1"]),
            turn=make.stamp("t1"),
            turn_index=1,
            claim=lane.claim,
            now_ms=committed_ms,
            release=True,
        )
    )
    clock.tick(1)
    await make.start(store, clock, "t2")
    maintenance = Maintenance(store.db)
    # A turn of that id runs in another session, and another turn in this one.
    assert (await maintenance.collect(committed_ms)).inputs == 0, "the turn was committed too lately"
    assert (await maintenance.collect(committed_ms + 1)).inputs == 1
    assert [row.input_id for row in await store.inputs(S, pending_only=False)] == ["in-t2"]
    assert [row.input_id for row in await store.inputs("beside", pending_only=False)] == ["beside"]


async def test_what_was_settled_or_hidden_of_late_is_kept_however_old_it_is(
    open_store: OpenStore, clock: ManualClock
) -> None:
    store, fence = await make.held(open_store, clock)
    await store.commit_runtime_state(make.commit(fence, make.append(["m1", "m2"])))
    await store.commit_runtime_state(make.commit(fence, make.append(["b2"], parent="m1"), expected=1))
    await store.tombstone_nodes(make.SESSION, ["m2"])
    (batch,) = await make.put(store, make.wake())
    clock.tick(1)
    await store.cancel_queued_work_batch(make.SESSION, batch)
    settled_ms = clock.now_ms()
    maintenance = Maintenance(store.db)
    # The nodes are of the moment 1.
    assert (await maintenance.collect(1))[:3] == (0, 0, 0)
    assert (await maintenance.collect(settled_ms))[:3] == (1, 0, 0)
    assert (await maintenance.collect(settled_ms + 1))[:3] == (0, 0, 1)


async def test_a_session_that_is_held_is_found_behind_one_whose_holder_is_dead(
    open_store: OpenStore, clock: ManualClock
) -> None:
    store = open_store()
    gone = msgspec.structs.replace(this_process(), pid=2**22 + 1)
    for session_id, owner in (("s1", LeaseOwnerIdentity("dead", "1", gone)), ("s2", make.owner())):
        await store.create_session(SessionCreate(session_id, make.CONFIG, 1, name=f"name of {session_id}"))
        await store.try_claim_lease(session_id, owner, ttl_ms=make.TTL_MS, token="t")
    with pytest.raises(SessionStillInUse) as caught:
        store.db.read(lambda connection: refuse_held(connection, clock.now_ms()))
    assert caught.value.details["session"] == "s2"
    clock.tick(make.TTL_MS / 1000)
    store.db.read(lambda connection: refuse_held(connection, clock.now_ms()))


async def completed_calls(store: SqliteStore, clock: ManualClock) -> dict[str, AwaitEventKey]:
    """Calls that somebody outside completed, of a turn that is committed at 5 and of one that runs, and a promise of
    the host in the committed one."""
    keys: dict[str, AwaitEventKey] = {}
    for session_id in ("done", "running"):
        fence = await start_turn(store, clock, session_id)
        keys[session_id] = await store.wait_key(TurnScope(session_id, "t1"), ToolCompletionWait("c1"))
        await store.register_wait(keys[session_id], None, 1)
        await store.resolve_wait(keys[session_id], ResolvedOk(session_id), 1)
        if session_id == "done":
            keys["own"] = await store.wait_key(TurnScope(session_id, "t1"), CustomWait("x"))
            await store.resolve_wait(keys["own"], ResolvedOk("mine"), 1)
            keys["late"] = await store.wait_key(TurnScope(session_id, "t1"), ToolCompletionWait("never waited for"))
            nodes = make.append(["m1"], frame_id="done:frame:initial")
            await store.commit_runtime_state(make.commit(fence, nodes, turn=make.stamp("t1"), now_ms=5))
    return keys


@pytest.mark.parametrize("sweep", ["vacuum", "vacuum of the session", "collect"])
async def test_the_promises_of_calls_go_with_their_turn_and_are_not_kept_twice(
    open_store: OpenStore, clock: ManualClock, sweep: str
) -> None:
    store = open_store()
    keys = await completed_calls(store, clock)
    maintenance = Maintenance(store.db)
    assert (await maintenance.collect(5)).waits == 0, "settled too lately"
    assert (await store.vacuum("running"))["waits"] == 0
    match sweep:
        case "collect":
            assert (await maintenance.try_collect(6)).waits == 1
            assert (await maintenance.collect(6)).waits == 1
        case "vacuum":
            assert (await store.vacuum(None))["waits"] == 1
        case _:
            assert (await store.vacuum("done"))["waits"] == 1
    assert await store.peek_wait(keys["running"]) == ResolvedOk("running")
    assert await store.peek_wait(keys["own"]) == ResolvedOk("mine")
    again = await open_store().resolve_wait(keys["done"], ResolvedOk("again"), 9)
    assert (again.kind, again.terminal) == ("unknown_or_revoked", None)
    with pytest.raises(EffectError) as gone:
        await store.register_wait(keys["done"], None, 9)
    assert gone.value.code == "await_event_unknown_or_revoked"


async def test_nobody_completes_a_call_of_a_turn_that_is_over(open_store: OpenStore, clock: ManualClock) -> None:
    store = open_store()
    keys = await completed_calls(store, clock)
    assert (await store.resolve_wait(keys["late"], ResolvedOk("late"), 9)).kind == "unknown_or_revoked"


async def test_a_wait_that_is_no_json_stays_and_does_not_stop_the_sweep(
    open_store: OpenStore, clock: ManualClock
) -> None:
    store = open_store()
    await completed_calls(store, clock)
    statement = """
    INSERT INTO waits (key_id, session_id, scope, wait, is_control, state, created_at_ms)
    VALUES ('bad', 'done', 'no', 'json', 0, 'resolved', 1)
    """
    await execute(store, statement)
    assert (await store.vacuum(None))["waits"] == 1
