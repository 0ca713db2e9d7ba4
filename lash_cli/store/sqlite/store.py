"""`SqliteStore`: every table family behind the protocols of `store.base`, over one `Database` (design D1).

Delegation only. Each family owns its statements; this class says which family
answers which method, in the order of the protocols. A family is imported when
it is first asked, sessions apart, which everybody asks: a look at one family
does not wait for the others (design D16).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from lash_cli.core.claim_limits import MAX_CLAIMED_BATCHES, MAX_CLAIMED_INPUTS
from lash_cli.store.sqlite.connections import LOCK_TIMEOUT_SECONDS
from lash_cli.store.sqlite.database import Database
from lash_cli.store.sqlite.sessions import SessionTable
from lash_cli.system import clock_of, ids_of

if TYPE_CHECKING:
    import asyncio

    from lash_cli.core.activity import TurnActivity
    from lash_cli.core.archive import SessionArchive
    from lash_cli.core.commit import RuntimeCommit, RuntimeCommitResult
    from lash_cli.core.effect import ExecutionScope
    from lash_cli.core.graph import SessionNode
    from lash_cli.core.ingress import (
        InputDraft,
        PendingTurnInput,
        PendingTurnInputCancelResult,
        PendingTurnInputCancelTarget,
        PendingTurnInputSuffixCancelOutcome,
        TurnInputClaim,
    )
    from lash_cli.core.lease import LeaseFence, LeaseOwnerIdentity, SessionExecutionLease
    from lash_cli.core.outcome import CancelGate, TurnCancellationEvidence
    from lash_cli.core.protocols import Clock, Ids
    from lash_cli.core.queued_work import (
        QueuedWorkBatch,
        QueuedWorkBatchDraft,
        QueuedWorkClaim,
        QueuedWorkClaimBoundary,
        QueuedWorkReceipt,
    )
    from lash_cli.core.wait import AwaitEventKey, Resolution, ResolveOutcome, WaitIdentity
    from lash_cli.store.base import (
        DurabilityTier,
        HeadPosition,
        JournalClaim,
        JournalPrepared,
        JournalRecording,
        JournalRow,
        LaneBusy,
        LaneOutcome,
        LaneRequest,
        PersistedSessionRead,
        ReadScope,
        SessionCreate,
        SessionFork,
        SessionMeta,
        SessionRow,
        TurnRecord,
        TurnSpan,
    )
    from lash_cli.store.queueing import CheckpointClaims, CheckpointRequest, SessionDemand
    from lash_cli.store.shelf_records import SearchPage, SearchRequest, UsageTotal
    from lash_cli.store.sqlite.archives import Archives
    from lash_cli.store.sqlite.attachments import Attachments
    from lash_cli.store.sqlite.batches import Batches
    from lash_cli.store.sqlite.claims import Claims
    from lash_cli.store.sqlite.commit import Commits
    from lash_cli.store.sqlite.database import Synchronous
    from lash_cli.store.sqlite.demand import Demand
    from lash_cli.store.sqlite.file_names import StrPath
    from lash_cli.store.sqlite.forking import Forks
    from lash_cli.store.sqlite.graph import GraphTable
    from lash_cli.store.sqlite.journal import Journal
    from lash_cli.store.sqlite.lanes import Lanes
    from lash_cli.store.sqlite.leases import Leases
    from lash_cli.store.sqlite.ledger import Ledger
    from lash_cli.store.sqlite.live import LiveEvents
    from lash_cli.store.sqlite.maintenance import Maintenance
    from lash_cli.store.sqlite.naming import Naming
    from lash_cli.store.sqlite.opening import Opening
    from lash_cli.store.sqlite.pending_inputs import PendingInputs
    from lash_cli.store.sqlite.searching import MessageSearch
    from lash_cli.store.sqlite.turn_spans import TurnSpans
    from lash_cli.store.sqlite.waits import Waits


class SqliteStore:
    """`RuntimePersistence` in one SQLite file: `SqliteStore.open(PATH)`, for any number of processes (contract 01 §9).
    Every method raises as its protocol says, and `StoreLocked`, `StoreReadOnly`, `StoreUnusable` or `StoreError` when
    the file itself fails."""

    def __init__(self, db: Database, ids: Ids) -> None:
        self.db = db
        self._sessions = SessionTable(db, ids)
        self._ids = ids

    @cached_property
    def _graph(self) -> GraphTable:
        from lash_cli.store.sqlite.graph import GraphTable

        return GraphTable(self.db)

    @cached_property
    def _lanes(self) -> Lanes:
        from lash_cli.store.sqlite.lanes import Lanes

        return Lanes(self.db)

    @cached_property
    def _spans(self) -> TurnSpans:
        from lash_cli.store.sqlite.turn_spans import TurnSpans

        return TurnSpans(self.db)

    @cached_property
    def _leases(self) -> Leases:
        from lash_cli.store.sqlite.leases import Leases

        return Leases(self.db)

    @cached_property
    def _inputs(self) -> PendingInputs:
        from lash_cli.store.sqlite.pending_inputs import PendingInputs

        return PendingInputs(self.db)

    @cached_property
    def _commits(self) -> Commits:
        from lash_cli.store.sqlite.commit import Commits

        return Commits(self.db, self._ids)

    @cached_property
    def _forks(self) -> Forks:
        from lash_cli.store.sqlite.forking import Forks

        return Forks(self.db, self._ids)

    @cached_property
    def _opening(self) -> Opening:
        from lash_cli.store.sqlite.opening import Opening

        return Opening(self.db)

    @cached_property
    def _claims(self) -> Claims:
        from lash_cli.store.sqlite.claims import Claims

        return Claims(self.db)

    @cached_property
    def _batches(self) -> Batches:
        from lash_cli.store.sqlite.batches import Batches

        return Batches(self.db, self._ids)

    @cached_property
    def _demand(self) -> Demand:
        from lash_cli.store.sqlite.demand import Demand

        return Demand(self.db)

    @cached_property
    def _maintenance(self) -> Maintenance:
        from lash_cli.store.sqlite.maintenance import Maintenance

        return Maintenance(self.db)

    @cached_property
    def _journal(self) -> Journal:
        from lash_cli.store.sqlite.journal import Journal

        return Journal(self.db)

    @cached_property
    def _waits(self) -> Waits:
        from lash_cli.store.sqlite.waits import Waits

        return Waits(self.db)

    @property
    def live(self) -> LiveEvents:
        """See `base.RuntimePersistence`."""
        return self._live  # to some type checkers a cached property is not the property of the protocol

    @cached_property
    def _live(self) -> LiveEvents:
        from lash_cli.store.sqlite.live import LiveEvents

        return LiveEvents(self.db)

    @cached_property
    def _attachments(self) -> Attachments:
        from lash_cli.store.sqlite.attachments import Attachments

        return Attachments(self.db)

    @cached_property
    def _search(self) -> MessageSearch:
        from lash_cli.store.sqlite.searching import MessageSearch

        return MessageSearch(self.db)

    @cached_property
    def _ledger(self) -> Ledger:
        from lash_cli.store.sqlite.ledger import Ledger

        return Ledger(self.db)

    @cached_property
    def _naming(self) -> Naming:
        from lash_cli.store.sqlite.naming import Naming

        return Naming(self.db)

    @cached_property
    def _archives(self) -> Archives:
        from lash_cli.store.sqlite.archives import Archives

        return Archives(self.db, self._ids)

    @classmethod
    def open(
        cls,
        path: StrPath,
        clock: Clock | None = None,
        ids: Ids | None = None,
        *,
        synchronous: Synchronous = "full",
        read_only: bool = False,
        lock_timeout_s: float = LOCK_TIMEOUT_SECONDS,
    ) -> SqliteStore:
        """Open or create the file, with the clock and the ids of the machine unless given; raises like
        `Database.open`, and `ConfigError` for a clock that tells no time."""
        clock, ids = clock_of(clock), ids_of(ids)
        database = Database.open(
            path, clock=clock, read_only=read_only, synchronous=synchronous, lock_timeout_s=lock_timeout_s
        )
        return cls(database, ids)

    async def aclose(self) -> None:
        """Commit what is queued and close every connection."""
        await self.db.aclose()

    def finish_writes(self) -> None:
        """See `RuntimePersistence.finish_writes`."""
        self.db.write_sync(lambda connection: None, durable=False)

    def close(self) -> None:
        """`aclose` for callers without an event loop; blocks."""
        self.db.close()

    def expect_turns(self) -> None:
        """See `base.RuntimePersistence.expect_turns`: who only looks at a store loads none of it (design D16)."""
        _ = self._opening, self._claims, self._commits, self._journal

    @property
    def durability_tier(self) -> DurabilityTier:
        """What is acknowledged outlives the process."""
        return "durable"

    async def create_session(self, request: SessionCreate) -> SessionMeta:
        """See `base.SessionStore`."""
        return await self._sessions.create_session(request)

    async def fork_session(self, request: SessionFork) -> SessionMeta:
        """See `base.SessionStore`."""
        return await self._forks.fork_session(request)

    async def session_row(self, session_id: str) -> SessionRow | None:
        """See `base.SessionStore`."""
        return await self._sessions.session_row(session_id)

    async def load_session(self, session_id: str, scope: ReadScope) -> PersistedSessionRead | None:
        """See `base.SessionStore`."""
        return await self._graph.load_session(session_id, scope)

    async def load_component(self, ref: str) -> bytes:
        """See `base.SessionStore`."""
        return await self._graph.load_component(ref)

    async def load_node(self, session_id: str, node_id: str) -> SessionNode | None:
        """See `base.SessionStore`."""
        return await self._graph.load_node(session_id, node_id)

    async def is_cut_off(self, session_id: str, node_id: str) -> bool:
        """See `base.SessionStore`."""
        return await self._graph.is_cut_off(session_id, node_id)

    async def head_position(self, session_id: str) -> HeadPosition:
        """See `base.SessionStore`."""
        return await self._sessions.head_position(session_id)

    async def commit_runtime_state(
        self, commit: RuntimeCommit, *, shown: Sequence[TurnActivity] = ()
    ) -> RuntimeCommitResult:
        """See `base.SessionStore` and `commit.Commits` for the errors of malformed deltas."""
        return await self._commits.commit_runtime_state(commit, shown)

    async def delete_session(self, session_id: str, now_ms: int) -> bool:
        """See `base.SessionStore`."""
        return await self._sessions.delete_session(session_id, now_ms)

    async def set_session_flags(self, session_id: str, *, closed_at_ms: int | None, parked_at_ms: int | None) -> None:
        """See `base.SessionStore`."""
        await self._sessions.set_session_flags(session_id, closed_at_ms=closed_at_ms, parked_at_ms=parked_at_ms)

    async def tombstone_nodes(self, session_id: str, node_ids: Sequence[str]) -> int:
        """See `base.SessionStore`; nodes below a hidden one are hidden with it."""
        return await self._graph.tombstone_nodes(session_id, node_ids)

    async def vacuum(self, session_id: str | None) -> dict[str, int]:
        """See `base.SessionStore`."""
        return await self._maintenance.vacuum(session_id)

    async def gc_unreachable(self) -> dict[str, int]:
        """See `base.SessionStore`."""
        return await self._maintenance.gc_unreachable()

    async def list_sessions(
        self, *, limit: int, cursor: str | None = None
    ) -> tuple[tuple[SessionRow, ...], str | None]:
        """See `base.RuntimePersistence`."""
        return await self._sessions.list_sessions(limit=limit, cursor=cursor)

    async def find_sessions(self, reference: str) -> tuple[SessionMeta, ...]:
        """See `base.RuntimePersistence`."""
        return await self._sessions.find_sessions(reference)

    async def change_mark(self) -> int:
        """See `base.RuntimePersistence`."""
        return self.db.change_mark()

    async def open_lane(self, request: LaneRequest) -> LaneOutcome:
        """See `base.LaneStore` and `opening.Opening`."""
        return await self._opening.open_lane(request)

    async def try_claim_lease(
        self, session_id: str, owner: LeaseOwnerIdentity, *, ttl_ms: int, token: str
    ) -> SessionExecutionLease | LaneBusy:
        """See `base.LaneStore`."""
        return await self._leases.try_claim_lease(session_id, owner, ttl_ms=ttl_ms, token=token)

    async def reclaim_lease(
        self,
        session_id: str,
        owner: LeaseOwnerIdentity,
        *,
        observed_fencing_token: int,
        ttl_ms: int,
        token: str,
    ) -> SessionExecutionLease | LaneBusy:
        """See `base.LaneStore`."""
        return await self._leases.reclaim_lease(
            session_id, owner, observed_fencing_token=observed_fencing_token, ttl_ms=ttl_ms, token=token
        )

    async def renew_lease(self, fence: LeaseFence, *, ttl_ms: int) -> SessionExecutionLease:
        """See `base.LaneStore`."""
        return await self._leases.renew_lease(fence, ttl_ms=ttl_ms)

    async def release_lease(self, fence: LeaseFence) -> bool:
        """See `base.LaneStore`."""
        return await self._leases.release_lease(fence)

    async def turn(self, session_id: str, turn_id: str) -> TurnRecord | None:
        """See `base.LaneStore`."""
        return await self._lanes.turn(session_id, turn_id)

    async def turns(self, session_id: str, *, limit: int, before: int | None = None) -> tuple[TurnRecord, ...]:
        """See `base.LaneStore`."""
        return await self._lanes.turns(session_id, limit=limit, before=before)

    async def turn_spans(self, session_id: str, *, limit: int, before: int | None = None) -> tuple[TurnSpan, ...]:
        """See `base.LaneStore`."""
        return await self._spans.turn_spans(session_id, limit=limit, before=before)

    async def unfinished_turns(self, session_id: str | None = None) -> tuple[TurnRecord, ...]:
        """See `base.LaneStore`."""
        return await self._lanes.unfinished_turns(session_id)

    async def request_turn_cancel(
        self, session_id: str, turn_id: str, evidence: TurnCancellationEvidence, now_ms: int
    ) -> CancelGate | None:
        """See `base.LaneStore`."""
        return await self._lanes.request_turn_cancel(session_id, turn_id, evidence, now_ms)

    async def cancel_gate(self, session_id: str, turn_id: str) -> CancelGate | None:
        """See `base.LaneStore`."""
        return await self._lanes.cancel_gate(session_id, turn_id)

    async def cancel_requests(self) -> tuple[tuple[str, str, TurnCancellationEvidence], ...]:
        """See `base.LaneStore`."""
        return await self._lanes.cancel_requests()

    async def enqueue_turn_input(self, draft: InputDraft) -> PendingTurnInput:
        """See `queueing.TurnInputStore`."""
        return await self._inputs.enqueue_turn_input(draft)

    async def enqueue_turn_inputs(self, drafts: Sequence[InputDraft]) -> tuple[PendingTurnInput, ...]:
        """See `queueing.TurnInputStore`."""
        return await self._inputs.enqueue_turn_inputs(drafts)

    async def turn_input(self, session_id: str, input_id: str) -> tuple[PendingTurnInput, str | None] | None:
        """See `queueing.TurnInputStore`."""
        return await self._inputs.turn_input(session_id, input_id)

    async def find_input(self, input_id: str) -> tuple[PendingTurnInput, str | None] | None:
        """See `queueing.TurnInputStore`."""
        return await self._inputs.find_input(input_id)

    async def session_of_input(self, input_id: str) -> str | None:
        """See `queueing.TurnInputStore`."""
        return await self._inputs.session_of_input(input_id)

    async def input_of_key(self, session_id: str, source_key: str) -> str | None:
        """See `queueing.TurnInputStore`."""
        return await self._inputs.input_of_key(session_id, source_key)

    async def inputs(self, session_id: str, *, pending_only: bool) -> tuple[PendingTurnInput, ...]:
        """See `queueing.TurnInputStore`."""
        return await self._inputs.inputs(session_id, pending_only=pending_only)

    async def turns_of_inputs(self, session_id: str) -> dict[str, str]:
        """See `queueing.TurnInputStore`."""
        return await self._inputs.turns_of_inputs(session_id)

    async def unsettled_inputs(self, session_id: str, *, from_seq: int) -> tuple[PendingTurnInput, ...]:
        """See `queueing.TurnInputStore`."""
        return await self._inputs.unsettled_inputs(session_id, from_seq=from_seq)

    async def cancel_turn_inputs(
        self, session_id: str, targets: Sequence[PendingTurnInputCancelTarget], *, by: str | None = None
    ) -> tuple[PendingTurnInputCancelResult, ...]:
        """See `queueing.TurnInputStore`."""
        return await self._inputs.cancel_turn_inputs(session_id, targets, by=by)

    async def inputs_cancelled_by(self, session_id: str, by: str) -> frozenset[str]:
        """See `queueing.TurnInputStore`."""
        return await self._inputs.inputs_cancelled_by(session_id, by)

    async def cancel_turn_input_suffix(
        self, session_id: str, anchor: PendingTurnInputCancelTarget
    ) -> PendingTurnInputSuffixCancelOutcome:
        """See `queueing.TurnInputStore`."""
        return await self._inputs.cancel_turn_input_suffix(session_id, anchor)

    async def claim_next_turn_inputs(
        self, fence: LeaseFence, *, claim_token: str, max_inputs: int = MAX_CLAIMED_INPUTS
    ) -> TurnInputClaim | None:
        """See `queueing.TurnInputStore`."""
        return await self._claims.claim_next_turn_inputs(fence, claim_token=claim_token, max_inputs=max_inputs)

    async def claim_checkpoint_work(self, fence: LeaseFence, request: CheckpointRequest) -> CheckpointClaims:
        """See `queueing.TurnInputStore` and `claims.Claims`."""
        return await self._claims.claim_checkpoint_work(fence, request)

    async def abandon_turn_input_claims(self, claims: Sequence[TurnInputClaim]) -> tuple[str, ...]:
        """See `queueing.TurnInputStore`."""
        return await self._claims.abandon(claims)

    async def defer_orphaned_active_turn_inputs(self, fence: LeaseFence, *, turn_id: str | None = None) -> int:
        """See `queueing.TurnInputStore`."""
        return await self._claims.defer_orphaned_active_turn_inputs(fence, turn_id=turn_id)

    async def enqueue_queued_work(self, draft: QueuedWorkBatchDraft) -> QueuedWorkReceipt:
        """See `queueing.QueuedWorkStore`."""
        return await self._batches.enqueue_queued_work(draft)

    async def queued_work(self, session_id: str, *, pending_only: bool) -> tuple[QueuedWorkBatch, ...]:
        """See `queueing.QueuedWorkStore`."""
        return await self._batches.queued_work(session_id, pending_only=pending_only)

    async def queued_work_batch(self, session_id: str, batch_id: str) -> QueuedWorkBatch | None:
        """See `queueing.QueuedWorkStore`."""
        return await self._batches.queued_work_batch(session_id, batch_id)

    async def find_batch(self, batch_id: str) -> QueuedWorkBatch | None:
        """See `queueing.QueuedWorkStore`."""
        return await self._batches.find_batch(batch_id)

    async def cancel_queued_work_batch(self, session_id: str, batch_id: str) -> QueuedWorkBatch | None:
        """See `queueing.QueuedWorkStore`."""
        return await self._batches.cancel_queued_work_batch(session_id, batch_id)

    async def claim_leading_session_command(self, fence: LeaseFence, *, claim_token: str) -> QueuedWorkClaim | None:
        """See `queueing.QueuedWorkStore`."""
        return await self._claims.claim_leading_session_command(fence, claim_token=claim_token)

    async def claim_ready_queued_work(
        self,
        fence: LeaseFence,
        boundary: QueuedWorkClaimBoundary,
        *,
        claim_token: str,
        max_batches: int = MAX_CLAIMED_BATCHES,
        batch_ids: Sequence[str] = (),
    ) -> QueuedWorkClaim | None:
        """See `queueing.QueuedWorkStore`."""
        return await self._claims.claim_ready_queued_work(
            fence, boundary, claim_token=claim_token, max_batches=max_batches, batch_ids=batch_ids
        )

    async def abandon_queued_work_claims(self, claims: Sequence[QueuedWorkClaim]) -> tuple[str, ...]:
        """See `queueing.QueuedWorkStore`."""
        return await self._claims.abandon(claims)

    async def fail_queued_work(self, fence: LeaseFence, claim: QueuedWorkClaim, error: str) -> tuple[str, ...]:
        """See `queueing.QueuedWorkStore` and `claims.Claims`."""
        return await self._claims.fail_queued_work(fence, claim, error)

    async def demand(self, session_id: str) -> SessionDemand:
        """See `queueing.QueuedWorkStore`."""
        return await self._demand.demand(session_id)

    async def sessions_with_demand(self, *, limit: int) -> tuple[SessionDemand, ...]:
        """See `queueing.QueuedWorkStore` and `demand.Demand`."""
        return await self._demand.sessions_with_demand(limit=limit)

    async def set_queue_hold(self, session_id: str, *, held_at_ms: int | None, reason: str | None = None) -> bool:
        """See `queueing.QueuedWorkStore`."""
        return await self._demand.set_queue_hold(session_id, held_at_ms=held_at_ms, reason=reason)

    async def find_claim(self, claim_id: str) -> TurnInputClaim | QueuedWorkClaim | None:
        """See `queueing.QueuedWorkStore`."""
        return await self._claims.find_claim(claim_id)

    @property
    def effect_code_prefix(self) -> str:
        """What error codes of this backend's journal begin with (contract 03 §2.4)."""
        return self._journal.effect_code_prefix

    async def journal_prepare(self, claim: JournalClaim) -> JournalPrepared:
        """See `base.JournalStore`."""
        return await self._journal.journal_prepare(claim)

    async def journal_renew(self, scope_key: str, replay_key: str, token: str, expires_at_ms: int) -> bool:
        """See `base.JournalStore`."""
        return await self._journal.journal_renew(scope_key, replay_key, token, expires_at_ms)

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
        """See `base.JournalStore`."""
        return await self._journal.journal_finish(
            scope_key, replay_key, token, outcome=outcome, error=error, fence=fence
        )

    def journal_record_later(self, recording: Callable[[], JournalRecording]) -> asyncio.Future[bool]:
        """See `journal.Journal.journal_record_later`."""
        return self._journal.journal_record_later(recording)

    async def journal_release(self, scope_key: str, replay_key: str, token: str, *, has_begun: bool = True) -> None:
        """See `journal.Journal.journal_release`."""
        await self._journal.journal_release(scope_key, replay_key, token, has_begun=has_begun)

    async def journal_rows(self, scope_key: str) -> tuple[JournalRow, ...]:
        """See `base.JournalStore`."""
        return await self._journal.journal_rows(scope_key)

    async def wait_key(self, scope: ExecutionScope, wait: WaitIdentity) -> AwaitEventKey:
        """See `base.WaitStore`."""
        return await self._waits.wait_key(scope, wait)

    async def resolve_wait(self, key: AwaitEventKey, resolution: Resolution, now_ms: int) -> ResolveOutcome:
        """See `base.WaitStore`."""
        return await self._waits.resolve_wait(key, resolution, now_ms)

    async def peek_wait(self, key: AwaitEventKey) -> Resolution | None:
        """See `base.WaitStore`."""
        return await self._waits.peek_wait(key)

    async def register_wait(self, key: AwaitEventKey, deadline_ms: int | None, now_ms: int) -> Resolution | None:
        """See `base.WaitStore`."""
        return await self._waits.register_wait(key, deadline_ms, now_ms)

    async def wait_deadline(self, key: AwaitEventKey) -> int | None:
        """See `waits.Waits.wait_deadline`."""
        return await self._waits.wait_deadline(key)

    async def cancel_session_waits(self, session_id: str) -> int:
        """See `base.WaitStore`."""
        return await self._waits.cancel_session_waits(session_id)

    async def revoke_session_waits(self, session_id: str, now_ms: int) -> None:
        """See `waits.Waits.revoke_session_waits`."""
        await self._waits.revoke_session_waits(session_id, now_ms)

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
        """See `base.AttachmentStore`."""
        return await self._attachments.put_attachment(
            session_id, data, media_type=media_type, owner=owner, now_ms=now_ms, label=label
        )

    async def get_attachment(self, session_id: str, attachment_ref: str) -> bytes:
        """See `base.AttachmentStore`."""
        return await self._attachments.get_attachment(session_id, attachment_ref)

    async def list_attachments(self, session_id: str, *, uncommitted_only: bool = False) -> tuple[dict[str, Any], ...]:
        """See `base.AttachmentStore`."""
        return await self._attachments.list_attachments(session_id, uncommitted_only=uncommitted_only)

    async def forget_aged_uncommitted(self, cutoff_ms: int) -> int:
        """See `base.AttachmentStore`."""
        return await self._attachments.forget_aged_uncommitted(cutoff_ms)

    async def index_messages(self) -> int:
        """See `shelf.ShelfStore`."""
        return await self._search.index_messages()

    async def search_messages(self, request: SearchRequest) -> SearchPage:
        """See `shelf.ShelfStore`."""
        return await self._search.search_messages(request)

    async def usage_totals(
        self, *, session_id: str | None = None, since_ms: int | None = None
    ) -> tuple[UsageTotal, ...]:
        """See `shelf.ShelfStore`."""
        return await self._ledger.usage_totals(session_id=session_id, since_ms=since_ms)

    async def change_meta(
        self,
        session_id: str,
        *,
        name: str | None = None,
        labels: Mapping[str, str | None] | None = None,
        now_ms: int,
    ) -> SessionMeta:
        """See `shelf.ShelfStore`."""
        return await self._naming.change_meta(session_id, name=name, labels=labels, now_ms=now_ms)

    async def export_session(self, session_id: str) -> SessionArchive:
        """See `shelf.ShelfStore`."""
        return await self._archives.export_session(session_id)

    async def import_sessions(self, archives: Sequence[tuple[SessionArchive, str]]) -> tuple[SessionMeta, ...]:
        """See `shelf.ShelfStore`."""
        return await self._archives.import_sessions(archives)
