"""Durable ingress: the rows user text enters through, and who may use them (contract 02 §1, §2, §4).

A claim has no time limit of its own: it is live iff the generation pinned to
the row is the generation that holds the session lease now. Everything about
visibility, cancelling and re-claiming follows from that sentence.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from lash_cli.core.codec import Record, encode
from lash_cli.core.content import TurnInput
from lash_cli.core.lease import LeaseRow, is_row_live

Boundary = Literal["after_work", "before_completion"]


class ActiveTurn(Record, tag="active_turn", tag_field="scope"):
    """For the named running turn, at a boundary the row admits."""

    turn_id: str
    min_boundary: Boundary = "after_work"


class NextTurn(Record, tag="next_turn", tag_field="scope"):
    """For the next turn of the session."""


TurnInputIngress = ActiveTurn | NextTurn


class InputState(StrEnum):
    """Stored state of an input; `accepted` is derived from a live claim, never stored (contract 01 §9.4)."""

    PENDING_ACTIVE = "pending_active"
    DEFERRED_NEXT_TURN = "deferred_next_turn"
    CANCELLED = "cancelled"
    COMPLETED = "completed"


class PendingTurnInput(Record):
    """One input row as a caller sees it."""

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
    """A claim on inputs for one turn under one lease generation."""

    session_id: str
    claim_id: str
    claim_token: str
    generation: int
    turn_id: str
    inputs: tuple[PendingTurnInput, ...]


class TurnInputCompletion(Record):
    """What a commit presents to settle a claim."""

    claim_id: str
    claim_token: str
    input_ids: tuple[str, ...]


def completion_of(claim: TurnInputClaim) -> TurnInputCompletion:
    """The completion that settles every input of `claim`."""
    return TurnInputCompletion(claim.claim_id, claim.claim_token, tuple(item.input_id for item in claim.inputs))


def initial_state(ingress: TurnInputIngress) -> InputState:
    """The state a row is inserted with."""
    return InputState.PENDING_ACTIVE if isinstance(ingress, ActiveTurn) else InputState.DEFERRED_NEXT_TURN


def is_same_submission(
    stored_ingress: TurnInputIngress, stored_input: TurnInput, ingress: TurnInputIngress, turn_input: TurnInput
) -> bool:
    """Whether a reused source key carries the same submission; ids, state and times do not count."""
    return stored_ingress == ingress and encode(stored_input) == encode(turn_input)


def is_claim_live(claim_generation: int | None, lease: LeaseRow, now_ms: int) -> bool:
    """Whether a row's claim still counts: its generation holds the lane right now."""
    return claim_generation is not None and is_row_live(lease, now_ms) and lease.fencing_token == claim_generation


def materialise(inputs: tuple[PendingTurnInput, ...]) -> TurnInput:
    """Several inputs as the input of one turn: items concatenated in order, first options win (contract 02 §1.6)."""
    return TurnInput(
        items=tuple(item for row in inputs for item in row.input.items),
        protocol_turn_options=next(
            (row.input.protocol_turn_options for row in inputs if row.input.protocol_turn_options is not None), None
        ),
        trace_turn_id=next((row.input.trace_turn_id for row in inputs if row.input.trace_turn_id), None),
    )
