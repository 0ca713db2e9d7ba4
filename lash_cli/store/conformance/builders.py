"""Small builders for what the laws write: sessions, owners, lanes, nodes, commits.

Everything has a default; a law names only what it is about.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

import msgspec

from lash_cli.core.commit import (
    Append,
    Checkpoint,
    CheckpointComponent,
    GraphDelta,
    RuntimeCommit,
    TurnStamp,
    TurnSummary,
)
from lash_cli.core.content import Message, Role, TextItem, TextPart, TurnInput
from lash_cli.core.frames import AgentFrame, initial_frame, initial_frame_id
from lash_cli.core.graph import SessionNode, chain
from lash_cli.core.head_state import TurnState
from lash_cli.core.ingress import (
    Boundary,
    InputDraft,
    NextTurn,
    PendingTurnInput,
    TurnInputClaim,
    TurnInputIngress,
    completion_of,
)
from lash_cli.core.lease import LeaseFence, LeaseOwnerIdentity, SessionExecutionLease
from lash_cli.core.outcome import AssistantMessage, Finished, TurnCancellationEvidence
from lash_cli.core.policy import ModelSpec, PersistedSessionConfig, SessionPolicy
from lash_cli.core.protocols import Clock
from lash_cli.core.queued_work import (
    DeliveryPolicy,
    MergeGroup,
    MergeKey,
    NeverMerge,
    ProcessWake,
    QueuedWorkBatchDraft,
    QueuedWorkClaim,
    RefreshToolCatalog,
    SlotPolicy,
    command_draft,
    command_source_key,
    wake_draft,
    work_completion_of,
)
from lash_cli.core.usage import TokenLedgerEntry, TokenUsage
from lash_cli.store.base import (
    DrainSelection,
    JournalClaim,
    JournalRecording,
    LaneBusy,
    LaneGranted,
    LaneIdle,
    LaneOutcome,
    LaneRequest,
    ReadScope,
    RuntimePersistence,
    SessionCreate,
)
from lash_cli.store.queueing import CheckpointRequest

SESSION = "s1"
TTL_MS = 30_000
MODEL = ModelSpec("model-1")
CONFIG = PersistedSessionConfig("loopback", MODEL)
POLICY = SessionPolicy(MODEL, "loopback")

Store = TypeVar("Store", bound=RuntimePersistence)


def owner(name: str = "a", incarnation: str = "1") -> LeaseOwnerIdentity:
    """An owner about whose life nothing is known."""
    return LeaseOwnerIdentity(name, incarnation)


async def create(store: RuntimePersistence, clock: Clock, session_id: str = SESSION) -> None:
    """A session with the default configuration."""
    await store.create_session(SessionCreate(session_id, CONFIG, clock.now_ms()))


async def opened(open_store: Callable[[], Store], clock: Clock, *session_ids: str) -> Store:
    """A handle of a storage that has these sessions, or the usual one."""
    store = open_store()
    for session_id in session_ids or (SESSION,):
        await create(store, clock, session_id)
    return store


async def held(open_store: Callable[[], Store], clock: Clock) -> tuple[Store, LeaseFence]:
    """As `opened`, and the fence of the session's lane."""
    store = await opened(open_store, clock)
    return store, await fence_of(store)


async def branched(open_store: Callable[[], Store], clock: Clock) -> tuple[Store, LeaseFence]:
    """As `held`, with m1 - m2 - m3 and, active, m1 - b2."""
    store, fence = await held(open_store, clock)
    await store.commit_runtime_state(commit(fence, append(["m1", "m2", "m3"])))
    await store.commit_runtime_state(commit(fence, append(["b2"], parent="m1"), expected=1))
    return store, fence


async def running(open_store: Callable[[], Store], clock: Clock) -> tuple[Store, LaneGranted]:
    """As `opened`, and the lane of a foreground turn `t1` that runs."""
    store = await opened(open_store, clock)
    return store, await start(store, clock)


async def take(
    store: RuntimePersistence, name: str = "a", *, session_id: str = SESSION, incarnation: str = "1"
) -> SessionExecutionLease:
    """A lane that must be free (or held by the same owner)."""
    lease = await store.try_claim_lease(
        session_id, owner(name, incarnation), ttl_ms=TTL_MS, token=f"lease-{name}-{incarnation}"
    )
    assert not isinstance(lease, LaneBusy), lease
    return lease


async def fence_of(store: RuntimePersistence, name: str = "a", session_id: str = SESSION) -> LeaseFence:
    """The fence of a lane that must be free."""
    return (await take(store, name, session_id=session_id)).fence()


def message(message_id: str, text: str = "hello", role: Role = Role.USER) -> Message:
    """A message of one text part."""
    return Message(message_id, role, (TextPart(text),))


def nodes(
    ids: Sequence[str], *, parent: str | None = None, frame_id: str | None = None, session_id: str = SESSION
) -> tuple[SessionNode, ...]:
    """Message nodes one under another below `parent`."""
    return chain(
        [message(node_id, f"text of {node_id}") for node_id in ids],
        parent_node_id=parent,
        agent_frame_id=frame_id or initial_frame_id(session_id),
        at_ms=1,
    )


def append(ids: Sequence[str], *, parent: str | None = None, frame_id: str | None = None) -> Append:
    """A delta that appends message nodes and moves the leaf to the last."""
    return Append(nodes(ids, parent=parent, frame_id=frame_id), ids[-1])


def frames(session_id: str = SESSION) -> tuple[AgentFrame, ...]:
    """The initial frame alone."""
    return (initial_frame(session_id, POLICY, 1),)


def usage(tokens: int = 1, source: str = "turn") -> TokenLedgerEntry:
    """A ledger row."""
    return TokenLedgerEntry(source, MODEL.id, TokenUsage(input_tokens=tokens, output_tokens=1))


def evidence(request_id: str = "r1") -> TurnCancellationEvidence:
    """A cancel request's evidence."""
    return TurnCancellationEvidence(request_id, "cli", "stop")


def stamp(
    turn_id: str = "t1", content_hash: str = "h1", *, cancellation: TurnCancellationEvidence | None = None
) -> TurnStamp:
    """The stamp of a turn that answered."""
    summary = TurnSummary(Finished(AssistantMessage("")), 1, 2, cancellation=cancellation)
    return TurnStamp(turn_id, content_hash, summary)


def commit(
    fence: LeaseFence,
    graph: GraphDelta,
    *,
    expected: int | None = None,
    turn: TurnStamp | None = None,
    turn_index: int = 0,
    components: dict[str, CheckpointComponent] | None = None,
    usage_deltas: tuple[TokenLedgerEntry, ...] = (),
    claim: TurnInputClaim | None = None,
    claims: Sequence[TurnInputClaim | None] = (),
    work: Sequence[QueuedWorkClaim | None] = (),
    outbox: Sequence[QueuedWorkBatchDraft] = (),
    with_frames: tuple[AgentFrame, ...] | Literal["auto"] | None = "auto",
    release: bool = False,
    defer: str | None = None,
    attachments: tuple[str, ...] = (),
    now_ms: int = 5,
) -> RuntimeCommit:
    """A commit; the initial frame is named by the first one only unless said otherwise."""
    if with_frames == "auto":
        with_frames = frames(fence.session_id) if expected is None else None
    return RuntimeCommit(
        session_id=fence.session_id,
        fence=fence,
        config=CONFIG,
        graph=graph,
        checkpoint=Checkpoint(TurnState(turn_index=turn_index), components or {}),
        now_ms=now_ms,
        expected_head_revision=expected,
        release_lease=release,
        frames=with_frames,
        usage_deltas=usage_deltas,
        turn=turn,
        completed_inputs=tuple(completion_of(one) for one in (claim, *claims) if one is not None),
        completed_work=tuple(work_completion_of(one) for one in work if one is not None),
        outbox=tuple(outbox),
        defer_inputs_of_turn=defer,
        committed_attachment_ids=attachments,
    )


def text_input(text: str = "hi") -> TurnInput:
    """A turn input of one text."""
    return TurnInput((TextItem(text),))


def lane_request(
    clock: Clock,
    name: str = "a",
    *,
    turn_id: str | None = "t1",
    text: str | None = "hi",
    key: str | None = None,
    session_id: str = SESSION,
    input_id: str | None = None,
    ingress: TurnInputIngress | None = None,
    dead: int | None = None,
) -> LaneRequest:
    """A request for a lane; `text` None asks for an unfinished turn only."""
    draft = None
    if text is not None:
        draft = InputDraft(session_id, input_id or f"in-{turn_id}", text_input(text), ingress or NextTurn(), key)
    return LaneRequest(
        session_id=session_id,
        owner=owner(name),
        ttl_ms=TTL_MS,
        now_ms=clock.now_ms(),
        lease_token=f"lease-{name}",
        claim_token=f"claim-{name}",
        turn_id=turn_id,
        draft=draft,
        dead_holder_fencing_token=dead,
    )


def granted(outcome: LaneOutcome) -> LaneGranted:
    """The outcome of a lane that must have been granted."""
    assert isinstance(outcome, LaneGranted), outcome
    return outcome


def fence_of_lane(lane: LaneGranted) -> LeaseFence:
    """The fence of a lane that must be held."""
    assert lane.lease is not None
    return lane.lease.fence()


def ending(
    lane: LaneGranted,
    graph: GraphDelta | None = None,
    *,
    expected: int | None = None,
    turn_index: int = 0,
    usage_deltas: tuple[TokenLedgerEntry, ...] = (),
    claims: Sequence[TurnInputClaim | None] = (),
    work: Sequence[QueuedWorkClaim | None] = (),
    outbox: Sequence[QueuedWorkBatchDraft] = (),
    release: bool = False,
    defer: str | None = None,
) -> RuntimeCommit:
    """The commit of the turn of a lane, with all it started from; it says `m1` unless another delta is given."""
    assert lane.turn is not None
    return commit(
        fence_of_lane(lane),
        graph or append(["m1"]),
        expected=expected,
        turn=stamp(lane.turn.turn_id),
        turn_index=turn_index,
        usage_deltas=usage_deltas,
        claims=(lane.claim, *claims),
        work=(lane.work, *work),
        outbox=outbox,
        release=release,
        defer=defer,
    )


def input_draft(
    input_id: str,
    text: str = "hi",
    *,
    key: str | None = None,
    ingress: TurnInputIngress | None = None,
    session_id: str = SESSION,
) -> InputDraft:
    """An input that is to wait."""
    return InputDraft(session_id, input_id, text_input(text), ingress or NextTurn(), key)


async def enqueue(
    store: RuntimePersistence,
    input_id: str,
    text: str = "hi",
    *,
    key: str | None = None,
    ingress: TurnInputIngress | None = None,
    session_id: str = SESSION,
) -> PendingTurnInput:
    """An input that waits."""
    return await store.enqueue_turn_input(input_draft(input_id, text, key=key, ingress=ingress, session_id=session_id))


def wake(sequence: int = 1, *, process_id: str = "p1", session_id: str = SESSION) -> QueuedWorkBatchDraft:
    """A wake: exclusive turn work for the earliest boundary."""
    return wake_draft(session_id, ProcessWake(f"wake-{process_id}-{sequence}", process_id, sequence, "done"))


def command(key: str = "c1", *, session_id: str = SESSION) -> QueuedWorkBatchDraft:
    """A session command."""
    refresh = RefreshToolCatalog("law")
    return command_draft(session_id, refresh, command_source_key(refresh, key))


def work(
    name: str,
    *,
    delivery: DeliveryPolicy = DeliveryPolicy.EARLIEST_SAFE_BOUNDARY,
    slot: SlotPolicy = SlotPolicy.JOIN,
    merge: MergeKey | str | None = "g",
    available_at_ms: int = 0,
    source_key: str | None = None,
    session_id: str = SESSION,
) -> QueuedWorkBatchDraft:
    """Turn work of one wake under the policies a law is about; joins its group `g` unless said otherwise."""
    if merge is None:
        merge = NeverMerge()
    elif isinstance(merge, str):
        merge = MergeGroup(merge)
    payload = ProcessWake(f"wake-{name}", f"process-{name}", 1, "done")
    return QueuedWorkBatchDraft(session_id, (payload,), delivery, slot, merge, source_key, available_at_ms)


async def put(store: RuntimePersistence, *drafts: QueuedWorkBatchDraft) -> list[str]:
    """Store drafts in order; their batch ids."""
    return [(await store.enqueue_queued_work(draft)).batch_id for draft in drafts]


def drain_request(
    clock: Clock,
    name: str = "a",
    *,
    turn_id: str = "d1",
    batch_ids: tuple[str, ...] = (),
    max_inputs: int = 64,
    max_batches: int = 64,
    session_id: str = SESSION,
    dead: int | None = None,
) -> LaneRequest:
    """A request for one drain pass."""
    selection = DrainSelection(batch_ids=batch_ids, max_inputs=max_inputs, max_batches=max_batches)
    request = lane_request(clock, name, turn_id=turn_id, text=None, session_id=session_id, dead=dead)
    return msgspec.structs.replace(request, drain=selection)


def checkpoint_request(
    turn_id: str = "t1", checkpoint: Boundary = "after_work", *, name: str = "c1", limit: int = 64
) -> CheckpointRequest:
    """A running turn's look at its queue; `name` stands for the place of the checkpoint in the turn."""
    return CheckpointRequest(
        turn_id=turn_id,
        checkpoint=checkpoint,
        claim_id=f"tic:{turn_id}:{name}",
        claim_token=f"token-{name}",
        max_inputs=limit,
        max_batches=limit,
    )


async def start(
    store: RuntimePersistence, clock: Clock, turn_id: str = "t1", *, name: str = "a", session_id: str = SESSION
) -> LaneGranted:
    """A foreground turn that runs."""
    return granted(await store.open_lane(lane_request(clock, name, turn_id=turn_id, session_id=session_id)))


async def pending_ids(store: RuntimePersistence, session_id: str = SESSION) -> list[str]:
    """What waits and nobody holds, in order."""
    return [row.input_id for row in await store.inputs(session_id, pending_only=True)]


async def pending_batch_ids(store: RuntimePersistence, session_id: str = SESSION) -> list[str]:
    """Batches nobody holds, in order."""
    return [batch.batch_id for batch in await store.queued_work(session_id, pending_only=True)]


def ids_of(claim: TurnInputClaim | QueuedWorkClaim | None) -> list[str]:
    """The ids a claim holds, in its order; none without a claim."""
    if claim is None:
        return []
    if isinstance(claim, TurnInputClaim):
        return [row.input_id for row in claim.inputs]
    return [batch.batch_id for batch in claim.batches]


def idle(outcome: LaneOutcome) -> LaneIdle:
    """The outcome of a drain that must have found nothing to do."""
    assert isinstance(outcome, LaneIdle), outcome
    return outcome


async def record(store: RuntimePersistence, claim: JournalClaim, outcome: bytes) -> bool:
    """An effect that was never claimed, in the journal by now; False where its key had a row already."""
    return await store.journal_record_later(lambda: JournalRecording(claim, outcome=outcome))


async def snapshot(store: RuntimePersistence) -> object:
    """Everything a failed commit must leave as it was."""
    return (
        await store.load_session(SESSION, ReadScope.FULL_GRAPH),
        await store.session_row(SESSION),
        await store.inputs(SESSION, pending_only=False),
        await store.queued_work(SESSION, pending_only=False),
        await store.turns(SESSION, limit=10),
    )
