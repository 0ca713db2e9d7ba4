"""What a store must offer for durable ingress: inputs and queued work (contract 02).

Part of `store.base.RuntimePersistence`. Whatever takes a fence validates it in
the same transaction as its writes; whatever takes none is judged by the lease
row it reads there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

from lash_cli.core.claim_limits import MAX_CLAIMED_BATCHES, MAX_CLAIMED_INPUTS
from lash_cli.core.codec import Record

if TYPE_CHECKING:
    from lash_cli.core.ingress import (
        Boundary,
        InputDraft,
        PendingTurnInput,
        PendingTurnInputCancelResult,
        PendingTurnInputCancelTarget,
        PendingTurnInputSuffixCancelOutcome,
        TurnInputClaim,
    )
    from lash_cli.core.lease import LeaseFence, LeaseRow
    from lash_cli.core.queued_work import (
        QueuedWorkBatch,
        QueuedWorkBatchDraft,
        QueuedWorkClaim,
        QueuedWorkClaimBoundary,
        QueuedWorkReceipt,
    )


class CheckpointClaims(Record):
    """What a running turn took at one checkpoint; both None when nothing was admissible."""

    inputs: TurnInputClaim | None = None
    work: QueuedWorkClaim | None = None


class CheckpointRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A running turn's look at its queue (contract 02 §1.5).

    `claim_id` is a function of the turn and its checkpoint, so a repeated
    request (a crash lost the answer) gets exactly what the first one claimed.
    """

    turn_id: str
    checkpoint: Boundary
    claim_id: str
    claim_token: str
    max_inputs: int = MAX_CLAIMED_INPUTS
    max_batches: int = MAX_CLAIMED_BATCHES


class TurnInputStore(Protocol):
    """Pending turn inputs (contract 02 §1, §2). Enqueue and cancel hold no lease and are synced before they answer."""

    async def enqueue_turn_input(self, draft: InputDraft) -> PendingTurnInput:
        """Store an input, or return the row that stands under its source key with its present state.

        Raises `PendingTurnInputSourceKeyConflict`, `ConflictError` (`input_exists`) for a used input id,
        `NotFoundError`, `SessionDeleted`, `SessionClosed`.
        """
        ...

    async def enqueue_turn_inputs(self, drafts: Sequence[InputDraft]) -> tuple[PendingTurnInput, ...]:
        """As `enqueue_turn_input` for each of them, in order and in one transaction: all or, when it raises, none."""
        ...

    async def turn_input(self, session_id: str, input_id: str) -> tuple[PendingTurnInput, str | None] | None:
        """One input of the session in whatever state, and the turn that took or used it."""
        ...

    async def find_input(self, input_id: str) -> tuple[PendingTurnInput, str | None] | None:
        """As `turn_input`, in whichever session it is: for a caller that names nothing but the input."""
        ...

    async def session_of_input(self, input_id: str) -> str | None:
        """The session an input belongs to, also when its text does not decode."""
        ...

    async def input_of_key(self, session_id: str, source_key: str) -> str | None:
        """The id of the input that stands under a source key of the session, in whatever state."""
        ...

    async def inputs(self, session_id: str, *, pending_only: bool) -> tuple[PendingTurnInput, ...]:
        """Input rows by `enqueue_seq`; `pending_only` hides settled and held ones."""
        ...

    async def turns_of_inputs(self, session_id: str) -> dict[str, str]:
        """The turn that took or used an input, by input id; inputs that none did are left out."""
        ...

    async def unsettled_inputs(self, session_id: str, *, from_seq: int) -> tuple[PendingTurnInput, ...]:
        """What is neither used nor cancelled, held or not, from a place in the line on."""
        ...

    async def cancel_turn_inputs(
        self, session_id: str, targets: Sequence[PendingTurnInputCancelTarget], *, by: str | None = None
    ) -> tuple[PendingTurnInputCancelResult, ...]:
        """Judge every target in one transaction; results in the order given. `by` is kept with what this cancels."""
        ...

    async def inputs_cancelled_by(self, session_id: str, by: str) -> frozenset[str]:
        """Ids of the inputs that a cancel under the name `by` took out and `vacuum` has not removed since."""
        ...

    async def cancel_turn_input_suffix(
        self, session_id: str, anchor: PendingTurnInputCancelTarget
    ) -> PendingTurnInputSuffixCancelOutcome:
        """Judge every row from the anchor on in one transaction; outcomes by `enqueue_seq`."""
        ...

    async def claim_next_turn_inputs(
        self, fence: LeaseFence, *, claim_token: str, max_inputs: int = MAX_CLAIMED_INPUTS
    ) -> TurnInputClaim | None:
        """Claim what waits for the next turn, oldest first, outside of a turn; for hosts that run turns themselves.

        Raises `SessionExecutionLeaseExpired`.
        """
        ...

    async def claim_checkpoint_work(self, fence: LeaseFence, request: CheckpointRequest) -> CheckpointClaims:
        """Claim what may enter a running turn now, of both families in one transaction; opens none when a read finds
        nothing. Raises `SessionExecutionLeaseExpired`."""
        ...

    async def abandon_turn_input_claims(self, claims: Sequence[TurnInputClaim]) -> tuple[str, ...]:
        """Give rows back that these claims still own under their generation; the ids of all rows given back. An
        unfinished turn that took one of them is dropped, with everything else it took: its journal would deliver
        those rows again."""
        ...

    async def defer_orphaned_active_turn_inputs(self, fence: LeaseFence, *, turn_id: str | None = None) -> int:
        """Move active-turn inputs that no turn will take to the next turn, at their old place: those of `turn_id`, or
        (None) of every turn that does not run. Raises `SessionExecutionLeaseExpired`."""
        ...


class SessionDemand(Record):
    """Whether a session has something to drain: cheap, conservative, and read without a lease (contract 02 §6.3).

    `lease` lets the caller tell a busy lane from one whose holder died.
    `has_claimable` covers inputs for the next turn, ready work and commands;
    `available_at_ms` is when a batch that waits for its time is ready.
    """

    session_id: str
    has_claimable: bool
    unfinished_turn_id: str | None
    lease: LeaseRow
    is_held: bool = False
    is_closed: bool = False
    available_at_ms: int | None = None


class QueuedWorkStore(Protocol):
    """Queued work (contract 02 §3). Enqueue and cancel hold no lease and are synced before they answer."""

    async def enqueue_queued_work(self, draft: QueuedWorkBatchDraft) -> QueuedWorkReceipt:
        """Store a batch, or return what stands under its source key. A wake at or below the highest sequence settled
        for its process answers as settled.

        Raises `InvalidQueuedWorkBatch`, `NotFoundError`, `SessionDeleted`, `SessionClosed`.
        """
        ...

    async def queued_work(self, session_id: str, *, pending_only: bool) -> tuple[QueuedWorkBatch, ...]:
        """Batches by `enqueue_seq`, those not yet available included. `pending_only` hides held, dead and settled
        ones; otherwise held and dead ones are listed too."""
        ...

    async def queued_work_batch(self, session_id: str, batch_id: str) -> QueuedWorkBatch | None:
        """One batch in whatever state; None when it never was or was vacuumed. A settled one has no payloads."""
        ...

    async def find_batch(self, batch_id: str) -> QueuedWorkBatch | None:
        """As `queued_work_batch`, in whichever session it is: for a caller that names nothing but the batch."""
        ...

    async def cancel_queued_work_batch(self, session_id: str, batch_id: str) -> QueuedWorkBatch | None:
        """Cancel a batch nobody holds, a dead one too, and return it as it was; None when it is held, settled or not
        of this session."""
        ...

    async def claim_leading_session_command(self, fence: LeaseFence, *, claim_token: str) -> QueuedWorkClaim | None:
        """Claim the session command at the head of the queue; None when something else or nothing stands there."""
        ...

    async def claim_ready_queued_work(
        self,
        fence: LeaseFence,
        boundary: QueuedWorkClaimBoundary,
        *,
        claim_token: str,
        max_batches: int = MAX_CLAIMED_BATCHES,
        batch_ids: Sequence[str] = (),
    ) -> QueuedWorkClaim | None:
        """Claim the group at the head of the queue, or exactly the named batches, outside of a turn.

        Raises `SessionExecutionLeaseExpired`.
        """
        ...

    async def abandon_queued_work_claims(self, claims: Sequence[QueuedWorkClaim]) -> tuple[str, ...]:
        """As `abandon_turn_input_claims`, for batches."""
        ...

    async def fail_queued_work(self, fence: LeaseFence, claim: QueuedWorkClaim, error: str) -> tuple[str, ...]:
        """Give a claim's batches back after a failure: each waits for its next attempt or is parked as dead (design
        D20); observers learn of all of them as of what is given back. Returns the ids of those parked. Raises
        `SessionExecutionLeaseExpired`."""
        ...

    async def demand(self, session_id: str) -> SessionDemand:
        """What waits in one session."""
        ...

    async def sessions_with_demand(self, *, limit: int) -> tuple[SessionDemand, ...]:
        """Sessions in which something waits or is unfinished, neither held nor closed, oldest demand first as far as
        that is cheap; its cost does not grow with how much waits."""
        ...

    async def set_queue_hold(self, session_id: str, *, held_at_ms: int | None, reason: str | None = None) -> bool:
        """Hold the queue of a session, or let it go on (None); False when it was so before. The first reason stands."""
        ...

    async def find_claim(self, claim_id: str) -> TurnInputClaim | QueuedWorkClaim | None:
        """An open claim of any session, for an administrator."""
        ...
