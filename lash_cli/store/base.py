"""What a store must offer (contract 01 §9, 02 §1–§5, 03 §2.6 and §3).

One object implements all of these protocols over one transactional domain that
holds many sessions. Every method names its session; every time is passed in or
comes from the store's injected clock, in epoch milliseconds. All errors are
classes of `lash_cli.errors`. A store applies rules, it does not invent them:
the judgements live in `core`. A store makes the records here from its rows and
never decodes one, so most of their types are imported for the type checker
only: a look at a session loads what it shows (design D16).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

import msgspec

from lash_cli.core.claim_limits import MAX_CLAIMED_BATCHES, MAX_CLAIMED_INPUTS
from lash_cli.core.codec import Record
from lash_cli.core.head_state import TurnState
from lash_cli.core.lease import LocalProcess
from lash_cli.errors import SessionExecutionBusy
from lash_cli.store.queueing import QueuedWorkStore, TurnInputStore
from lash_cli.store.shelf import ShelfStore

if TYPE_CHECKING:
    import asyncio

    from lash_cli.core.activity import TurnActivity
    from lash_cli.core.commit import RuntimeCommit, RuntimeCommitResult, TurnSummary
    from lash_cli.core.content import Message
    from lash_cli.core.effect import CanonicalEnvelope, ExecutionScope
    from lash_cli.core.frames import AgentFrame
    from lash_cli.core.graph import SessionNode
    from lash_cli.core.ingress import InputDraft, TurnInputClaim
    from lash_cli.core.lease import LeaseFence, LeaseOwnerIdentity, LeaseRow, SessionExecutionLease
    from lash_cli.core.outcome import CancelGate, TurnCancellationEvidence
    from lash_cli.core.policy import PersistedSessionConfig
    from lash_cli.core.queued_work import QueuedWorkClaim
    from lash_cli.core.usage import TokenLedgerEntry
    from lash_cli.core.wait import AwaitEventKey, Resolution, ResolveOutcome, WaitIdentity
    from lash_cli.store.live import LiveStore

DurabilityTier = Literal["inline", "durable"]


class SessionMeta(Record):
    """What identifies a session before and beside its head; written once, except `name`, `labels`, `closed`, `parked`
    and `held` (contract 01 §1.4). While `held_at_ms` is set nothing is taken from the session's queue."""

    session_id: str
    name: str
    created_at_ms: int
    cwd: str | None = None
    parent_session_id: str | None = None
    labels: dict[str, str] = {}
    closed_at_ms: int | None = None
    parked_at_ms: int | None = None
    held_at_ms: int | None = None
    hold_reason: str | None = None


class SessionCreate(Record):
    """A request to create a session; idempotent by id unless it `must_be_new`.

    `name` None lets the store pick a free readable one.
    """

    session_id: str
    config: PersistedSessionConfig
    now_ms: int
    name: str | None = None
    cwd: str | None = None
    parent_session_id: str | None = None
    labels: dict[str, str] = {}
    must_be_new: bool = False


class SessionFork(Record):
    """A request for a new session that goes on from a node of another: from its head, or from `at_node_id`.

    The new session shares the path to that node instead of copying it, takes
    over configuration, frames and checkpoint, and starts with no turns and no
    cost of its own. `name` None lets the store pick a free one; `cwd` None
    takes the source's.
    """

    source_session_id: str
    session_id: str
    now_ms: int
    at_node_id: str | None = None
    name: str | None = None
    cwd: str | None = None
    labels: dict[str, str] = {}


class SessionRow(Record):
    """A session as listings see it: meta, head, lease and what is waiting. One indexed read per session."""

    meta: SessionMeta
    config: PersistedSessionConfig
    lease: LeaseRow
    head_revision: int | None = None
    leaf_node_id: str | None = None
    turn_state: TurnState = TurnState()
    last_commit_at_ms: int | None = None
    running_turn_id: str | None = None
    pending_inputs: int = 0
    pending_batches: int = 0
    # Whether the running turn waits for something outside: for a promise of its own that is not kept yet.
    is_waiting: bool = False
    # When it came in from an archive, None for one that was made here.
    imported_at_ms: int | None = None


class ReadScope(StrEnum):
    """How much of the graph a load brings: every branch, the path of the current frame, only what was said on it, or
    no node at all."""

    FULL_GRAPH = "full_graph"
    ACTIVE_PATH = "active_path"
    CONVERSATION = "conversation"
    HEAD = "head"


class PersistedSessionRead(Record):
    """A loaded session. With `ACTIVE_PATH`, `nodes` is the path root to leaf of the current frame; with `CONVERSATION`
    and `HEAD` it is empty and everything else is as with the others. With `CONVERSATION`, `messages` is what
    `core.graph.messages_on` makes of that path; with the others it is empty.

    With `FULL_GRAPH`, `nodes` are those that lead to a root, the path of the head among them, and `cut_off` those that
    do not, because a node above them is gone or hidden: to be shown as such and never gone on from. One of them names
    a parent only where that is cut off too."""

    session_id: str
    head_revision: int
    config: PersistedSessionConfig
    frames: tuple[AgentFrame, ...]
    nodes: tuple[SessionNode, ...]
    leaf_node_id: str | None
    turn_state: TurnState
    checkpoint_ref: str
    component_refs: dict[str, str] = {}
    token_ledger: tuple[TokenLedgerEntry, ...] = ()
    messages: tuple[Message, ...] = ()
    cut_off: tuple[SessionNode, ...] = ()


class HeadPosition(Record):
    """Just enough of the head to tell whether memory is stale."""

    head_revision: int | None
    leaf_node_id: str | None
    checkpoint_ref: str | None


class TurnRecord(Record):
    """A turn row (contract 01 §9). `running` means it holds or held a lane and has no terminal commit yet."""

    session_id: str
    turn_id: str
    state: Literal["running", "committed"]
    turn_index: int
    started_at_ms: int
    origin: Literal["prompt", "queue", "wake"] = "prompt"
    summary: TurnSummary | None = None
    head_revision: int | None = None
    first_node_id: str | None = None
    last_node_id: str | None = None
    generation: int = 0
    plan: bytes | None = None


class TurnSpan(Record):
    """Which nodes a turn committed, first and last; None while it committed none, or none that is stored any more."""

    turn_id: str
    turn_index: int
    head_revision: int | None
    first_node_id: str | None
    last_node_id: str | None


class LaneGranted(Record, tag="granted", tag_field="kind"):
    """The lane is ours and the turn's text is safe: from here no crash can lose it.

    `claim` and `work` are what the turn was started from. `redrive` is set when
    an unfinished turn of this session must be finished first; then nothing of
    the new request was written and the claims are those of *that* turn.
    `commands_due` is set when session commands must be drained first; then only
    the lease was taken, and the same request is made again afterwards.
    `refresh_due` is set when the head is another one than the request knew:
    then, too, only the lease was taken, for a request made from the new head.
    `committed` is set when the requested turn id was committed before: nothing
    was written and no lease is held. `turn` is None when commands are due, or
    when only an unfinished turn was asked for and there is none; the lease is
    held all the same and the caller releases it.
    """

    lease: SessionExecutionLease | None
    head: HeadPosition
    turn: TurnRecord | None = None
    claim: TurnInputClaim | None = None
    work: QueuedWorkClaim | None = None
    redrive: bool = False
    committed: bool = False
    commands_due: bool = False
    refresh_due: bool = False


class LaneBusy(Record, tag="busy", tag_field="kind"):
    """Somebody else holds the lane; nothing was written."""

    holder: LeaseOwnerIdentity
    expires_at_ms: int
    fencing_token: int
    turn_id: str | None = None


def busy_error(session_id: str, busy: LaneBusy) -> SessionExecutionBusy:
    """The error that names who holds the lane and until when."""
    holder = {
        "owner_id": busy.holder.owner_id,
        "label": busy.holder.label,
        "turn_id": busy.turn_id,
        "fencing_token": busy.fencing_token,
        "expires_at_ms": busy.expires_at_ms,
        "pid": None,
        "host_id": None,
    }
    who = busy.holder.owner_id
    if isinstance(busy.holder.liveness, LocalProcess):
        holder["pid"] = busy.holder.liveness.pid
        holder["host_id"] = busy.holder.liveness.host_id
        who = f"pid {busy.holder.liveness.pid}"
    label = f" ({busy.holder.label})" if busy.holder.label else ""
    return SessionExecutionBusy(
        f"session {session_id} is held by {who}{label}",
        hint=None if busy.turn_id is not None else f"wait for its end: lash wait {session_id}",  # nothing to cancel
        details={"session": session_id, "holder": holder},
    )


IdleReason = Literal[
    "held", "empty", "not_yet_available", "command_at_head", "unclaimable_together", "already_satisfied"
]


class LaneIdle(Record, tag="idle", tag_field="kind"):
    """A drain found nothing to do; nothing was written and no lease is held.

    `already_satisfied` answers named batches that are all settled;
    `available_at_ms` is when the first batch that only waits for its time is ready.
    """

    reason: IdleReason
    available_at_ms: int | None = None


LaneOutcome = LaneGranted | LaneBusy | LaneIdle


class DrainSelection(msgspec.Struct, frozen=True, kw_only=True):
    """What one drain pass may take (contract 02 §6.1): the named batches, or what stands first in the queue."""

    batch_ids: tuple[str, ...] = ()
    max_inputs: int = MAX_CLAIMED_INPUTS
    max_batches: int = MAX_CLAIMED_BATCHES


# The revision of no stored head: what a handle starts over with is stored before a turn begins on it.
NOT_STORED: Final = -1


class LaneRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Take the lane for a turn in one transaction (design §3 step 2).

    With `draft` the text is inserted as an input row already claimed by the
    turn (or, if its source key exists with the same content, that row is
    used); session commands at the head of the queue go first. With `drain` the
    turn is started from the queue instead (contract 02 §6.1): under the first
    `trace_turn_id` of the inputs it takes while no turn has that id, here or in
    the history the session began with, else under `turn_id`; its origin is
    `wake` when it takes process wakes only. With neither only an unfinished
    turn is looked for: the re-drive of `lash resume`.
    `dead_holder_fencing_token` names an observed holder that the caller proved
    dead (contract 01 §13 reclaim). `plan` is opaque to the store: what the turn
    was started with (model, limits), kept with the turn row until it commits so
    that a re-drive runs under the same policy. `is_new_turn` promises that the
    turn id was made for this request, so no committed turn has to be looked for.
    `known_head_revision` is the head the plan was made from, 0 for none: on
    another one no turn is begun, with `NOT_STORED` on no stored one at all;
    None begins it on any.
    """

    session_id: str
    owner: LeaseOwnerIdentity
    ttl_ms: int
    now_ms: int
    lease_token: str
    claim_token: str
    turn_id: str | None = None
    draft: InputDraft | None = None
    drain: DrainSelection | None = None
    plan: bytes | None = None
    is_new_turn: bool = False
    origin: Literal["prompt", "queue", "wake"] = "prompt"
    known_head_revision: int | None = None
    dead_holder_fencing_token: int | None = None


class JournalRow(msgspec.Struct, frozen=True):
    """One effect of the journal (contract 03 §2.6)."""

    replay_key: str
    status: Literal["in_progress", "completed", "failed"]
    envelope: CanonicalEnvelope
    outcome: bytes | None
    error: bytes | None
    lease_owner: str | None
    lease_token: str | None
    lease_expires_at_ms: int | None
    due_at_ms: int | None
    attempt: int = 1


class JournalClaim(msgspec.Struct, frozen=True, kw_only=True):
    """A request to run an effect. With `fence` the row belongs to the session lane: a row left in progress by
    another generation is taken over at once, because that generation can write nothing any more."""

    scope_key: str
    session_id: str | None
    replay_key: str
    envelope: CanonicalEnvelope
    owner: str
    token: str
    ttl_ms: int
    now_ms: int
    due_at_ms: int | None = None
    fence: LeaseFence | None = None


class JournalRecording(msgspec.Struct, frozen=True):
    """A finished effect that was never claimed: exactly one of `outcome` and `error` is its result."""

    claim: JournalClaim
    outcome: bytes | None = None
    error: bytes | None = None


class JournalPrepared(msgspec.Struct, frozen=True):
    """What `journal_prepare` found. `claimed`: run it (`taken_over` says an earlier attempt was cut off).
    `recorded`: `row` holds outcome or error, or an envelope that differs. `held`: somebody else runs it."""

    kind: Literal["claimed", "recorded", "held"]
    row: JournalRow | None = None
    taken_over: bool = False
    due_at_ms: int | None = None


class SessionStore(Protocol):
    """Sessions, heads and graphs (contract 01 §9.1, §9.2, §9.6, §9.8)."""

    @property
    def durability_tier(self) -> DurabilityTier:
        """Whether what is acknowledged outlives this process."""
        ...

    async def create_session(self, request: SessionCreate) -> SessionMeta:
        """Create, or return the existing meta of the same id. Raises `SessionDeleted` for a tombstoned id and
        `ConflictError`: `session_name_taken` when an explicit name belongs to another session, `session_exists` when
        it had to be new."""
        ...

    async def fork_session(self, request: SessionFork) -> SessionMeta:
        """Create a session that goes on from a node of another, in one transaction whose cost does not depend on how
        much was said. What the fork shows stays whatever becomes of the source, deletion included.

        Raises `NotFoundError` and `SessionDeleted` for the source, `SessionDeleted` for an id used before, and
        `ConflictError`: `node_unknown`, `session_exists`, `session_name_taken`.
        """
        ...

    async def session_row(self, session_id: str) -> SessionRow | None:
        """One session, None when absent. Raises `SessionDeleted` when tombstoned."""
        ...

    async def load_session(self, session_id: str, scope: ReadScope) -> PersistedSessionRead | None:
        """The committed state; None when never committed. Raises `CorruptNode`, `MissingCheckpointComponent`."""
        ...

    async def load_component(self, ref: str) -> bytes:
        """The bytes of a checkpoint component; raises `MissingCheckpointComponent`."""
        ...

    async def load_node(self, session_id: str, node_id: str) -> SessionNode | None:
        """Any live node, also off the active path; None when absent or tombstoned."""
        ...

    async def is_cut_off(self, session_id: str, node_id: str) -> bool:
        """Whether a live node leads to no root, because one above it is missing or hidden; False when it is absent.
        Takes longer the more was said above it. Raises `SessionDeleted` when the session is tombstoned."""
        ...

    async def head_position(self, session_id: str) -> HeadPosition:
        """The head without its content."""
        ...

    async def commit_runtime_state(
        self, commit: RuntimeCommit, *, shown: Sequence[TurnActivity] = ()
    ) -> RuntimeCommitResult:
        """Apply one commit in one transaction in the order of contract 01 §9.2.

        `shown` is what the turn has shown and nobody wrote yet: it goes into the live log in the same transaction, in
        front of what the commit announces. A commit that was applied before adds nothing.

        Raises `SessionBindingMismatch`, `RuntimeTurnCommitConflict`,
        `SessionExecutionLeaseExpired`, `HeadRevisionConflict`,
        `TurnInputClaimSuperseded`, `QueuedWorkClaimSuperseded`, or `TurnCancelWon` when a cancel request
        reached the gate first and the commit does not carry its evidence. Any
        error leaves everything as it was.
        """
        ...

    async def delete_session(self, session_id: str, now_ms: int) -> bool:
        """Remove the session and leave a tombstone; False when it never existed. Raises `SessionExecutionBusy`
        while a live lease is held."""
        ...

    async def set_session_flags(self, session_id: str, *, closed_at_ms: int | None, parked_at_ms: int | None) -> None:
        """Record that a session is closed or parked, or clear both."""
        ...

    async def tombstone_nodes(self, session_id: str, node_ids: Sequence[str]) -> int:
        """Hide nodes at once, from this session only: a fork still shows what it shares. Refuses (`ConflictError`) ids
        on the active path (`node_on_active_path`) and those of the session this one was forked from
        (`node_inherited`)."""
        ...

    async def vacuum(self, session_id: str | None) -> dict[str, int]:
        """Delete tombstoned nodes, settled inputs and batches, and the promises of calls of committed turns, of one
        session (None: all). Counts by kind."""
        ...

    async def gc_unreachable(self) -> dict[str, int]:
        """Delete unreferenced blobs and journal rows of committed turns. An undecodable head aborts the sweep."""
        ...


class LaneStore(Protocol):
    """Leases, turn rows and claims (contract 01 §13, 02 §4, design §3). The store's clock says which lease lives."""

    async def open_lane(self, request: LaneRequest) -> LaneOutcome:
        """Take or extend the lease, claim what the turn starts from and insert the running turn row, in one
        transaction. Only a request with `drain` can be answered by `LaneIdle`.

        Raises `PendingTurnInputSourceKeyConflict` for a key and
        `RuntimeTurnCommitConflict` for a turn id of another text,
        `SessionDeleted`, `NotFoundError`, `SessionClosed`.
        """
        ...

    async def try_claim_lease(
        self, session_id: str, owner: LeaseOwnerIdentity, *, ttl_ms: int, token: str
    ) -> SessionExecutionLease | LaneBusy:
        """Contract 01 §13 `try_claim`."""
        ...

    async def reclaim_lease(
        self,
        session_id: str,
        owner: LeaseOwnerIdentity,
        *,
        observed_fencing_token: int,
        ttl_ms: int,
        token: str,
    ) -> SessionExecutionLease | LaneBusy:
        """Contract 01 §13 `reclaim`: the caller proved the observed holder dead."""
        ...

    async def renew_lease(self, fence: LeaseFence, *, ttl_ms: int) -> SessionExecutionLease:
        """Extend; raises `SessionExecutionLeaseExpired`."""
        ...

    async def release_lease(self, fence: LeaseFence) -> bool:
        """Release if still held; False and no effect when the fence is not current."""
        ...

    async def turn(self, session_id: str, turn_id: str) -> TurnRecord | None:
        """One turn row."""
        ...

    async def turns(self, session_id: str, *, limit: int, before: int | None = None) -> tuple[TurnRecord, ...]:
        """Newest first, by turn index."""
        ...

    async def turn_spans(self, session_id: str, *, limit: int, before: int | None = None) -> tuple[TurnSpan, ...]:
        """As `turns`, of each only which nodes it committed: what a transcript needs."""
        ...

    async def unfinished_turns(self, session_id: str | None = None) -> tuple[TurnRecord, ...]:
        """Turn rows still `running`, whoever holds the lane."""
        ...

    async def request_turn_cancel(
        self, session_id: str, turn_id: str, evidence: TurnCancellationEvidence, now_ms: int
    ) -> CancelGate | None:
        """Put a cancel request at the gate; returns what stands there before, None when this request won.

        A committed turn answers `CompletionSealed`. Raises `SessionDeleted`.
        """
        ...

    async def cancel_gate(self, session_id: str, turn_id: str) -> CancelGate | None:
        """What stands at the gate of a turn."""
        ...

    async def cancel_requests(self) -> tuple[tuple[str, str, TurnCancellationEvidence], ...]:
        """Session, turn and request of every turn that runs and was asked to stop."""
        ...


class JournalStore(Protocol):
    """The effect journal (contract 03 §2.6)."""

    @property
    def effect_code_prefix(self) -> str:
        """The backend's name in error codes, such as `sqlite`."""
        ...

    def journal_record_later(self, recording: Callable[[], JournalRecording]) -> asyncio.Future[bool]:
        """Insert a finished row without a claim, for a caller that goes on: applied in order with every other write,
        within milliseconds. False when the key has a row already, `SessionExecutionLeaseExpired` when the fence is
        dead.

        `recording` is called when the row is written, on whatever thread writes it. Cancelling the future before that
        withdraws the row; afterwards it changes nothing.
        """
        ...

    async def journal_release(self, scope_key: str, replay_key: str, token: str, *, has_begun: bool = True) -> None:
        """Give a claim up without a result: the row stays as evidence of the attempt and anyone may take it over; of
        one that has not begun only an earlier attempt is evidence. Done although the caller is cancelled meanwhile."""
        ...

    async def journal_prepare(self, claim: JournalClaim) -> JournalPrepared:
        """Find or claim a row, in one transaction. Raises `SessionExecutionLeaseExpired` when `fence` is dead."""
        ...

    async def journal_renew(self, scope_key: str, replay_key: str, token: str, expires_at_ms: int) -> bool:
        """Extend a held row; False when it is no longer ours."""
        ...

    async def journal_finish(
        self,
        scope_key: str,
        replay_key: str,
        token: str,
        *,
        outcome: bytes | None,
        error: bytes | None,
        fence: LeaseFence | None = None,
    ) -> bool:
        """Record the result if the row is still ours and unexpired; False otherwise."""
        ...

    async def journal_rows(self, scope_key: str) -> tuple[JournalRow, ...]:
        """Every row of a scope, for a re-drive."""
        ...


class WaitStore(Protocol):
    """Durable waits (contract 03 §3)."""

    async def wait_key(self, scope: ExecutionScope, wait: WaitIdentity) -> AwaitEventKey:
        """Mint a key; raises `EffectError` (`await_event_unknown_or_revoked`) for a deleted session."""
        ...

    async def resolve_wait(self, key: AwaitEventKey, resolution: Resolution, now_ms: int) -> ResolveOutcome:
        """First writer wins."""
        ...

    async def peek_wait(self, key: AwaitEventKey) -> Resolution | None:
        """What stands, None while missing or pending; raises `EffectError` when forged or revoked."""
        ...

    async def register_wait(self, key: AwaitEventKey, deadline_ms: int | None, now_ms: int) -> Resolution | None:
        """Mark a wait pending and keep its first deadline; returns what stands if it is resolved already."""
        ...

    async def wait_deadline(self, key: AwaitEventKey) -> int | None:
        """The deadline registered first, epoch milliseconds; None without one."""
        ...

    async def revoke_session_waits(self, session_id: str, now_ms: int) -> None:
        """End every wait of a deleted session; its keys never work again."""
        ...

    async def cancel_session_waits(self, session_id: str) -> int:
        """Resolve every pending wait of a session as cancelled, except turn control."""
        ...


class AttachmentStore(Protocol):
    """Content-addressed bytes and the session-scoped manifest (contract 01 §9.7, 05 §1.5)."""

    async def put_attachment(
        self,
        session_id: str,
        data: bytes,
        *,
        media_type: str,
        owner: tuple[Literal["turn", "process"], str] | None,
        now_ms: int,
        label: str | None = None,
    ) -> str:
        """Record the intent, store the bytes, return the reference `sha256:…`."""
        ...

    async def get_attachment(self, session_id: str, attachment_ref: str) -> bytes:
        """The bytes; raises `NotFoundError` (`attachment_not_found`) unless this session references them."""
        ...

    async def list_attachments(self, session_id: str, *, uncommitted_only: bool = False) -> tuple[dict[str, Any], ...]:
        """Manifest rows."""
        ...

    async def forget_aged_uncommitted(self, cutoff_ms: int) -> int:
        """Drop uncommitted intents older than the cutoff whose owner no longer runs, and which no input waits with, or
        did until it was cancelled since the cutoff; how many."""
        ...


class RuntimePersistence(
    SessionStore,
    LaneStore,
    TurnInputStore,
    QueuedWorkStore,
    JournalStore,
    WaitStore,
    AttachmentStore,
    ShelfStore,
    Protocol,
):
    """Everything a durable runtime needs of one store (contract 01 §9)."""

    @property
    def live(self) -> LiveStore:
        """The live logs of the sessions."""
        ...

    def expect_turns(self) -> None:
        """Load what a turn needs, so that the first one does not wait for it; a store may have nothing to load."""
        ...

    async def list_sessions(
        self, *, limit: int, cursor: str | None = None
    ) -> tuple[tuple[SessionRow, ...], str | None]:
        """Sessions, newest activity first, and the cursor of the next page."""
        ...

    async def find_sessions(self, reference: str) -> tuple[SessionMeta, ...]:
        """Candidates for an exact id, an exact name or an id prefix, best kind only."""
        ...

    def finish_writes(self) -> None:
        """Return once all that was handed over is committed, so that this process holds nobody up; blocks."""
        ...

    async def change_mark(self) -> int:
        """A number that stays the same until anybody, in whatever process, commits; cheaper than any query. Raises
        `StoreUnusable` (`store_replaced`) where nobody would be heard of any more, and `StoreReadOnly` where that may
        not be looked at."""
        ...

    async def aclose(self) -> None:
        """Drain the writer and close every connection."""
        ...
