"""Sessions with a bit of everything, for laws that look at all that a store shows of a session."""

from __future__ import annotations

from typing import Final

import msgspec

from lash_cli.core.codec import sha256_hex
from lash_cli.core.commit import CheckpointComponent
from lash_cli.core.effect import CanonicalEnvelope, TurnScope, scope_key
from lash_cli.core.frames import open_frame
from lash_cli.core.ingress import ActiveTurn, ByInputId, TurnInputClaim
from lash_cli.core.lease import LeaseFence
from lash_cli.core.queued_work import BatchState, DeliveryPolicy, QueuedWorkClaim
from lash_cli.core.wait import CustomWait, ResolvedOk
from lash_cli.store.base import JournalClaim, LaneGranted, ReadScope, RuntimePersistence, SessionCreate
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.factory import MovableClock
from lash_cli.store.queueing import CheckpointRequest

# When the batch of a lived session that waits for its time is ready.
LATER_MS: Final = 5_000
# The attachments of a lived session: committed, and owned by the turn that runs.
ONE: Final = f"sha256:{sha256_hex(b'one')}"
TWO: Final = f"sha256:{sha256_hex(b'two')}"


class Lived(msgspec.Struct, frozen=True):
    """A session in the middle of turn `t1`, which took a text and a wake at a checkpoint."""

    lane: LaneGranted
    inputs: TurnInputClaim
    work: QueuedWorkClaim

    @property
    def fence(self) -> LeaseFence:
        """The fence of its turn."""
        return make.fence_of_lane(self.lane)


def journal_claim(clock: MovableClock, session_id: str, replay_key: str) -> JournalClaim:
    """A claim of an effect of the running turn."""
    return JournalClaim(
        scope_key=scope_key(TurnScope(session_id, "t1")),
        session_id=session_id,
        replay_key=replay_key,
        envelope=CanonicalEnvelope(b"{}", sha256_hex(b"{}")),
        owner="o",
        token=f"token of {replay_key}",
        ttl_ms=make.TTL_MS,
        now_ms=clock.now_ms(),
    )


def checkpoint_of(session_id: str) -> CheckpointRequest:
    """The checkpoint at which the running turn took something; its claim has the same id in every session."""
    return msgspec.structs.replace(make.checkpoint_request(), claim_token=f"token of {session_id}")


async def live(store: RuntimePersistence, clock: MovableClock, session_id: str) -> Lived:
    """A session with a bit of everything."""
    await store.create_session(SessionCreate(session_id, make.CONFIG, clock.now_ms(), labels={"kind": "lived"}))
    ref = await store.put_attachment(session_id, b"one", media_type="image/png", owner=None, now_ms=1)
    first = make.granted(
        await store.open_lane(
            make.lane_request(clock, turn_id="t0", session_id=session_id, key="k0", input_id=f"{session_id}-first")
        )
    )
    await store.commit_runtime_state(
        make.commit(
            make.fence_of_lane(first),
            make.append(["m1", "m2", "m3"], frame_id=make.frames(session_id)[0].frame_id),
            turn=make.stamp("t0"),
            turn_index=1,
            claim=first.claim,
            usage_deltas=(make.usage(), make.usage(5, "compaction")),
            components={"tool_state": CheckpointComponent(body=b"tools")},
            attachments=(ref,),
        )
    )
    frames, _ = open_frame(make.frames(session_id), "f2", "compaction", 9)
    fence = make.fence_of_lane(first)
    delta = make.append(["n1"], parent="m2", frame_id="f2")
    await store.commit_runtime_state(make.commit(fence, delta, expected=1, turn_index=1, with_frames=frames))
    delta = make.append(["n2"], parent="m2", frame_id="f2")
    await store.commit_runtime_state(make.commit(fence, delta, expected=2, turn_index=1, release=True))

    await make.put(
        store,
        make.wake(1, session_id=session_id),
        make.work("later", session_id=session_id, source_key="w1", available_at_ms=clock.now_ms() + LATER_MS),
        make.work("after", session_id=session_id, source_key="w2", delivery=DeliveryPolicy.AFTER_CURRENT_TURN_COMMIT),
        make.command(session_id=session_id),
    )
    for number, ingress in enumerate((ActiveTurn("t1"), None, ActiveTurn("t1", "before_completion"), None)):
        await make.enqueue(
            store, f"{session_id}-{number}", key=f"k{number + 1}", ingress=ingress, session_id=session_id
        )
    await store.cancel_turn_inputs(session_id, [ByInputId(f"{session_id}-3")], by="somebody")
    request = make.lane_request(clock, turn_id="t1", session_id=session_id, input_id=f"{session_id}-typed")
    lane = make.granted(await store.open_lane(request))
    assert lane.turn is not None and lane.turn.turn_id == "t1"
    claims = await store.claim_checkpoint_work(make.fence_of_lane(lane), checkpoint_of(session_id))
    assert claims.inputs is not None and claims.work is not None
    await make.record(store, journal_claim(clock, session_id, "done"), session_id.encode())
    await store.journal_prepare(journal_claim(clock, session_id, "open"))
    for name in ("kept", "open"):
        key = await store.wait_key(TurnScope(session_id, "t1"), CustomWait(name))
        await store.register_wait(key, 77, clock.now_ms())
        if name == "kept":
            await store.resolve_wait(key, ResolvedOk(1), clock.now_ms())
    await store.put_attachment(session_id, b"two", media_type="image/png", owner=("turn", "t1"), now_ms=2)
    return Lived(lane, claims.inputs, claims.work)


async def picture(store: RuntimePersistence, session_id: str) -> tuple[object, ...]:
    """Everything a store shows of a session."""
    scope = TurnScope(session_id, "t1")
    waits = [await store.wait_key(scope, CustomWait(name)) for name in ("kept", "open")]
    return (
        await store.session_row(session_id),
        await store.load_session(session_id, ReadScope.FULL_GRAPH),
        await store.load_session(session_id, ReadScope.ACTIVE_PATH),
        [await store.load_node(session_id, name) for name in ("m1", "m2", "m3", "n1", "n2")],
        await store.inputs(session_id, pending_only=False),
        await store.inputs(session_id, pending_only=True),
        await store.turns_of_inputs(session_id),
        await store.inputs_cancelled_by(session_id, "somebody"),
        await store.queued_work(session_id, pending_only=False),
        await store.queued_work(session_id, pending_only=True),
        await store.demand(session_id),
        await store.turns(session_id, limit=10),
        await store.turn_spans(session_id, limit=10),
        await store.unfinished_turns(session_id),
        await store.cancel_gate(session_id, "t1"),
        await store.journal_rows(scope_key(scope)),
        [(await store.peek_wait(key), await store.wait_deadline(key)) for key in waits],
        await store.list_attachments(session_id),
        await store.usage_totals(session_id=session_id),
        await store.live.cut(session_id, ReadScope.HEAD),
        await store.export_session(session_id),
    )


async def park_for_good(store: RuntimePersistence, clock: MovableClock, session_id: str) -> None:
    """A session with a batch that failed as often as any may."""
    await make.create(store, clock, session_id)
    (batch_id,) = await make.put(store, make.wake(session_id=session_id))
    fence = await make.fence_of(store, session_id=session_id)
    parked: tuple[str, ...] = ()
    while not parked:
        claim = await store.claim_ready_queued_work(fence, "idle", claim_token="x")
        if claim is None:
            clock.tick(1)
            await store.renew_lease(fence, ttl_ms=make.TTL_MS)
            continue
        parked = await store.fail_queued_work(fence, claim, "boom")
    assert parked == (batch_id,)
    (dead,) = await store.queued_work(session_id, pending_only=False)
    assert dead.state is BatchState.DEAD
