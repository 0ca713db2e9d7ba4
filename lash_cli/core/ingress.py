"""Durable ingress: the rows user text enters through, and who may use them (contract 02 §1, §2, §4).

A claim has no time limit of its own. A row is *held* while the generation
pinned to it holds the session lane, or while the turn that took it is
unfinished: such a turn is always driven again under its own id, so its inputs
are used already (design §3). Everything about visibility, cancelling and
re-claiming follows from `is_held`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from lash_cli.core.codec import Record, encode
from lash_cli.core.content import TurnInput
from lash_cli.core.lease import LeaseOwnerIdentity

# What the key of a caller is stored behind; keys that lash makes itself begin otherwise.
HOST_PREFIX = "host:"

Boundary = Literal["after_work", "before_completion"]


class ActiveTurn(Record, tag="active_turn", tag_field="scope"):
    """For the named running turn, at a boundary the row admits (contract 02 §1.1)."""

    turn_id: str
    min_boundary: Boundary = "after_work"


class NextTurn(Record, tag="next_turn", tag_field="scope"):
    """For the next turn of the session (contract 02 §1.1)."""


TurnInputIngress = ActiveTurn | NextTurn


class InputState(StrEnum):
    """Stored state of an input; `accepted` is derived from who holds the row, never stored (contract 01 §9.4)."""

    PENDING_ACTIVE = "pending_active"
    DEFERRED_NEXT_TURN = "deferred_next_turn"
    CANCELLED = "cancelled"
    COMPLETED = "completed"


class PendingTurnInput(Record):
    """One input row as a caller sees it (contract 02 §1.1)."""

    input_id: str
    session_id: str
    enqueue_seq: int
    ingress: TurnInputIngress
    state: InputState
    enqueued_at_ms: int
    input: TurnInput
    source_key: str | None = None


class InputDraft(Record):
    """An input to be stored. `source_key` makes the submission idempotent (contract 02 §1.3)."""

    session_id: str
    input_id: str
    input: TurnInput
    ingress: TurnInputIngress = NextTurn()
    source_key: str | None = None


class TurnInputClaim(Record):
    """A claim on inputs under one lease generation; `turn_id` is the turn it was made for, None outside of one
    (contract 02 §1.6).

    `claim_token` proves ownership to a completion or an abandon. `fencing_token`
    is one above that of every earlier claim on the first row.
    """

    session_id: str
    claim_id: str
    claim_token: str
    generation: int
    turn_id: str | None
    inputs: tuple[PendingTurnInput, ...]
    fencing_token: int = 1


# A claim has another id than every claim of its store: who only knows that finds it by it (`lash queue abandon`). Two
# sessions may have a turn of one id, and a session id has no slash; a checkpoint is told from a generation by its `c`.


def claim_id_of_row(enqueue_seq: int, fencing_token: int) -> str:
    """The id of the claim with this `fencing_token` on rows that begin with `enqueue_seq`, which no other session
    has."""
    return f"tic:{enqueue_seq}:{fencing_token}"


def claim_id_of_text(session_id: str, turn_id: str, generation: int) -> str:
    """The id of the claim that a turn is begun with on its own text, under a lease of this `generation`."""
    return f"tic:{session_id}/{turn_id}:{generation}"


def claim_id_of_checkpoint(session_id: str, turn_id: str, effect_id: int) -> str:
    """The id of what one checkpoint of a turn claims: a function of the checkpoint, so that asking again takes no
    more."""
    return f"tic:{session_id}/{turn_id}:c{effect_id}"


class TurnInputCompletion(Record):
    """What a commit presents to settle a claim."""

    claim_id: str
    claim_token: str
    input_ids: tuple[str, ...]


class ClaimDiagnostics(Record):
    """Who holds a row: enough to find the turn and its process, never the token (contract 02 §1.1).

    `owner` has the lane under `generation`, or had it last; None when it gave
    the lane back, or somebody else has it by now.
    """

    claim_id: str | None
    generation: int | None
    turn_id: str | None = None
    owner: LeaseOwnerIdentity | None = None
    fencing_token: int | None = None
    state: InputState | None = None


def completion_of(claim: TurnInputClaim) -> TurnInputCompletion:
    """The completion that settles every input of `claim`."""
    return TurnInputCompletion(claim.claim_id, claim.claim_token, tuple([item.input_id for item in claim.inputs]))


def is_held(turn_id: str | None, claim_generation: int | None, live_generation: int) -> bool:
    """Whether a pending row belongs to somebody: to an unfinished turn, or to a claim of the live generation.

    `turn_id` is the turn that took the row; a commit settles or gives back every row of its turn, so a pending row
    that names a turn names an unfinished one.
    """
    return turn_id is not None or claim_generation == live_generation


class ByInputId(Record, tag="input_id", tag_field="kind"):
    """Names an input by its id."""

    value: str


class BySourceKey(Record, tag="source_key", tag_field="kind"):
    """Names an input by its whole stored source key, `host:` prefix included."""

    value: str


PendingTurnInputCancelTarget = ByInputId | BySourceKey


class _CancelOutcome(Record):
    """What the outcomes of a cancel can be asked alike."""

    @property
    def is_cancelled(self) -> bool:
        """Whether this call cancelled it, and nobody else will use it."""
        return isinstance(self, Cancelled)


class Cancelled(_CancelOutcome, tag="cancelled", tag_field="outcome"):
    """Cancelled by this call; only these may be edited and submitted again."""

    input: PendingTurnInput


class AlreadyClaimed(_CancelOutcome, tag="already_claimed", tag_field="outcome"):
    """A turn or a live claim holds it."""

    input: PendingTurnInput
    claim: ClaimDiagnostics | None = None


class AlreadyCompleted(_CancelOutcome, tag="already_completed", tag_field="outcome"):
    """A committed turn used it."""

    input: PendingTurnInput


class AlreadyCancelled(_CancelOutcome, tag="already_cancelled", tag_field="outcome"):
    """It was cancelled before."""

    input: PendingTurnInput


class InputNotFound(_CancelOutcome, tag="not_found", tag_field="outcome"):
    """No input of this session has that id or key."""

    @property
    def input(self) -> None:
        """There is none."""
        return None


PendingTurnInputCancelOutcome = Cancelled | AlreadyClaimed | AlreadyCompleted | AlreadyCancelled | InputNotFound


class PendingTurnInputCancelResult(Record):
    """What became of one target of a set (contract 02 §2)."""

    target: PendingTurnInputCancelTarget
    outcome: PendingTurnInputCancelOutcome


class AnchorNotFound(Record, tag="anchor_not_found", tag_field="outcome"):
    """The anchor is no input of the session; nothing was changed."""

    anchor: PendingTurnInputCancelTarget


class SuffixOutcomes(Record, tag="outcomes", tag_field="outcome"):
    """One outcome for every row from the anchor on, by `enqueue_seq`, rows settled before included."""

    anchor: PendingTurnInputCancelTarget
    outcomes: tuple[PendingTurnInputCancelOutcome, ...]


PendingTurnInputSuffixCancelOutcome = AnchorNotFound | SuffixOutcomes


class CancelVerdict(StrEnum):
    """What a cancel does with one row."""

    CANCEL = "cancel"
    CLAIMED = "claimed"
    COMPLETED = "completed"
    CANCELLED = "cancelled"


def judge_cancel(state: InputState, *, is_held: bool) -> CancelVerdict:
    """The common rule of every cancel (contract 02 §2): settled rows say so, held rows are left, the rest goes."""
    if state is InputState.CANCELLED:
        return CancelVerdict.CANCELLED
    if state is InputState.COMPLETED:
        return CancelVerdict.COMPLETED
    return CancelVerdict.CLAIMED if is_held else CancelVerdict.CANCEL


def ingress_message_id(input_id: str) -> str:
    """The id of the message an input becomes."""
    return f"m_ingress_{input_id}"


def initial_state(ingress: TurnInputIngress) -> InputState:
    """The state a row is inserted with."""
    return InputState.PENDING_ACTIVE if isinstance(ingress, ActiveTurn) else InputState.DEFERRED_NEXT_TURN


def admits(min_boundary: str, checkpoint: Boundary) -> bool:
    """Whether a row with `min_boundary` may enter at `checkpoint`; one of a newer program's boundaries never may."""
    return min_boundary in ("after_work", checkpoint)


def is_same_submission(
    stored_ingress: TurnInputIngress, stored_input: TurnInput, ingress: TurnInputIngress, turn_input: TurnInput
) -> bool:
    """Whether a reused source key carries the same submission; ids, state and times do not count."""
    return stored_ingress == ingress and encode(stored_input) == encode(turn_input)


def materialise(inputs: tuple[PendingTurnInput, ...]) -> TurnInput:
    """Several inputs as the input of one turn: items concatenated in order, first options win (contract 02 §1.6)."""
    if len(inputs) == 1:
        return inputs[0].input
    return TurnInput(
        items=tuple(item for row in inputs for item in row.input.items),
        protocol_turn_options=next(
            (row.input.protocol_turn_options for row in inputs if row.input.protocol_turn_options is not None), None
        ),
        trace_turn_id=next((row.input.trace_turn_id for row in inputs if row.input.trace_turn_id), None),
    )
