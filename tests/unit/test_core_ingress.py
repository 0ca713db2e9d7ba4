"""The pure rules of waiting input: holding, boundaries, cancels, submissions, one turn of many (contract 02 §1, §2)."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lash_cli.core.codec import decode_any, encode, to_builtins
from lash_cli.core.content import ProtocolTurnOptions, TextItem, TurnInput
from lash_cli.core.ids import SESSION_ID_PATTERN
from lash_cli.core.ingress import (
    ActiveTurn,
    AlreadyCancelled,
    AlreadyClaimed,
    AlreadyCompleted,
    AnchorNotFound,
    ByInputId,
    BySourceKey,
    Cancelled,
    CancelVerdict,
    ClaimDiagnostics,
    InputNotFound,
    InputState,
    NextTurn,
    PendingTurnInput,
    PendingTurnInputCancelOutcome,
    PendingTurnInputCancelTarget,
    PendingTurnInputSuffixCancelOutcome,
    SuffixOutcomes,
    TurnInputClaim,
    TurnInputIngress,
    admits,
    claim_id_of_checkpoint,
    claim_id_of_row,
    claim_id_of_text,
    completion_of,
    initial_state,
    is_held,
    is_same_submission,
    judge_cancel,
    materialise,
)

HI = TurnInput((TextItem("hi"),))
NO_LANE = -1


def row(input_id: str, content: TurnInput = HI, seq: int = 1) -> PendingTurnInput:
    return PendingTurnInput(input_id, "s1", seq, NextTurn(), InputState.DEFERRED_NEXT_TURN, 7, content)


@pytest.mark.parametrize(
    ("turn_id", "claim_generation", "live_generation", "held"),
    [
        (None, None, NO_LANE, False),
        (None, None, 3, False),
        (None, 3, 3, True),
        (None, 3, NO_LANE, False),
        (None, 3, 4, False),
        ("t1", None, NO_LANE, True),
        ("t1", 3, 3, True),
        ("t1", 3, 4, True),
        ("t1", 3, NO_LANE, True),
    ],
)
def test_a_row_is_held_by_an_unfinished_turn_or_by_a_claim_of_the_live_generation(
    turn_id: str | None, claim_generation: int | None, live_generation: int, held: bool
) -> None:
    assert is_held(turn_id, claim_generation, live_generation) is held


@pytest.mark.parametrize(("state", "held"), list(itertools.product(InputState, (False, True))))
def test_a_cancel_takes_exactly_the_pending_rows_that_nobody_holds(state: InputState, held: bool) -> None:
    settled = {InputState.CANCELLED: CancelVerdict.CANCELLED, InputState.COMPLETED: CancelVerdict.COMPLETED}
    expected = settled.get(state, CancelVerdict.CLAIMED if held else CancelVerdict.CANCEL)
    assert judge_cancel(state, is_held=held) is expected


@pytest.mark.parametrize(
    ("min_boundary", "admitted_at"),
    [
        ("after_work", {"after_work", "before_completion"}),
        ("before_completion", {"before_completion"}),
        ("of_tomorrow", set()),
        ("", set()),
    ],
)
def test_a_boundary_admits_at_itself_and_later_and_an_unknown_one_never(
    min_boundary: str, admitted_at: set[str]
) -> None:
    checkpoints: tuple[Any, ...] = ("after_work", "before_completion")
    assert {checkpoint for checkpoint in checkpoints if admits(min_boundary, checkpoint)} == admitted_at


def test_a_row_starts_in_the_state_of_its_kind() -> None:
    assert initial_state(NextTurn()) is InputState.DEFERRED_NEXT_TURN
    assert initial_state(ActiveTurn("t1")) is InputState.PENDING_ACTIVE


ingresses = st.one_of(
    st.just(NextTurn()),
    st.builds(ActiveTurn, st.sampled_from(["t1", "t2"]), st.sampled_from(["after_work", "before_completion"])),
)
contents = st.builds(
    TurnInput,
    st.lists(st.builds(TextItem, st.text(max_size=3)), max_size=3).map(tuple),
    trace_turn_id=st.sampled_from([None, "t1", "t2"]),
)


@given(ingresses, contents, ingresses, contents)
def test_two_submissions_are_the_same_exactly_when_kind_and_content_are(
    one: TurnInputIngress, first: TurnInput, other: TurnInputIngress, second: TurnInput
) -> None:
    assert is_same_submission(one, first, other, second) is ((one, first) == (other, second))
    assert is_same_submission(one, first, one, first)


@given(st.lists(contents, min_size=1, max_size=5))
def test_inputs_become_one_turn_with_all_items_in_order_and_the_first_options(parts: list[TurnInput]) -> None:
    merged = materialise(tuple(row(f"i{index}", part, index) for index, part in enumerate(parts)))
    assert merged.items == tuple(item for part in parts for item in part.items)
    assert merged.trace_turn_id == next((part.trace_turn_id for part in parts if part.trace_turn_id), None)


def test_the_first_options_of_several_inputs_win_whole() -> None:
    first, second = ProtocolTurnOptions(payload={"a": 1}), ProtocolTurnOptions(payload={"b": 2})
    parts = [
        HI,
        msgspec.structs.replace(HI, protocol_turn_options=first),
        msgspec.structs.replace(HI, protocol_turn_options=second),
    ]
    merged = materialise(tuple(row(f"i{index}", part) for index, part in enumerate(parts)))
    assert merged.protocol_turn_options == first
    assert materialise((row("i"),)).protocol_turn_options is None


def test_a_completion_names_every_input_of_its_claim() -> None:
    claim = TurnInputClaim("s1", "tic:1:1", "secret", 3, "t1", (row("a"), row("b")))
    completion = completion_of(claim)
    assert (completion.claim_id, completion.claim_token, completion.input_ids) == ("tic:1:1", "secret", ("a", "b"))


session_ids = st.from_regex(SESSION_ID_PATTERN, fullmatch=True)
#: A host may give a turn an id of any form, also one like what stands around it in the id of a claim.
turn_ids = st.lists(st.sampled_from(["t", "/", ":", "c", "1", "tic:", "s/", "é", " ", "\n"]), min_size=1).map("".join)
numbers = st.integers(min_value=0, max_value=99)
claims = st.one_of(
    st.tuples(st.just(claim_id_of_row), numbers, numbers),
    st.tuples(st.sampled_from([claim_id_of_text, claim_id_of_checkpoint]), session_ids, turn_ids, numbers),
)


@given(claims, claims)
@example((claim_id_of_row, 1, 2), (claim_id_of_text, "1", "t", 2))
@example((claim_id_of_text, "s", "t:c5", 7), (claim_id_of_checkpoint, "s", "t", 5))
@example((claim_id_of_text, "s", "t", 5), (claim_id_of_checkpoint, "s", "t", 5))
@example((claim_id_of_text, "s", "t:c5", 7), (claim_id_of_checkpoint, "s", "t:c5:7", 5))
def test_two_claims_of_a_store_never_have_one_id_whatever_their_turns_are_called(one: Any, other: Any) -> None:
    (form, *named), (other_form, *other_named) = one, other
    assert (form(*named) == other_form(*other_named)) == (one == other)


SETTLED = row("a")


@pytest.mark.parametrize(
    ("value", "kind", "wire"),
    [
        (NextTurn(), TurnInputIngress, {"scope": "next_turn"}),
        (ActiveTurn("t1"), TurnInputIngress, {"scope": "active_turn", "turn_id": "t1"}),
        (
            ActiveTurn("t1", "before_completion"),
            TurnInputIngress,
            {"scope": "active_turn", "turn_id": "t1", "min_boundary": "before_completion"},
        ),
        (ByInputId("a"), PendingTurnInputCancelTarget, {"kind": "input_id", "value": "a"}),
        (BySourceKey("host:a"), PendingTurnInputCancelTarget, {"kind": "source_key", "value": "host:a"}),
        (InputNotFound(), PendingTurnInputCancelOutcome, {"outcome": "not_found"}),
        (AnchorNotFound(ByInputId("a")), PendingTurnInputSuffixCancelOutcome, None),
        (SuffixOutcomes(ByInputId("a"), (Cancelled(SETTLED),)), PendingTurnInputSuffixCancelOutcome, None),
        (Cancelled(SETTLED), PendingTurnInputCancelOutcome, None),
        (AlreadyClaimed(SETTLED, ClaimDiagnostics("c", 3, "t1")), PendingTurnInputCancelOutcome, None),
        (AlreadyCompleted(SETTLED), PendingTurnInputCancelOutcome, None),
        (AlreadyCancelled(SETTLED), PendingTurnInputCancelOutcome, None),
    ],
)
def test_every_variant_survives_its_wire_form(value: Any, kind: Any, wire: dict[str, Any] | None) -> None:
    assert decode_any(encode(value), kind) == value
    if wire is not None:
        assert to_builtins(value) == wire


@pytest.mark.parametrize(
    ("document", "kind"),
    [
        ('{"scope":"someday"}', TurnInputIngress),
        ('{"scope":"active_turn","turn_id":"t1","min_boundary":"at_noon"}', TurnInputIngress),
        ('{"scope":"active_turn"}', TurnInputIngress),
        ('{"kind":"name","value":"a"}', PendingTurnInputCancelTarget),
        ('{"outcome":"lost"}', PendingTurnInputCancelOutcome),
    ],
)
def test_an_unknown_wire_value_raises_instead_of_becoming_a_default(document: str, kind: Any) -> None:
    with pytest.raises(msgspec.ValidationError):
        decode_any(document, kind)


@pytest.mark.parametrize(
    ("outcome", "is_cancelled"),
    [(Cancelled(SETTLED), True), (AlreadyClaimed(SETTLED), False), (AlreadyCompleted(SETTLED), False),
     (AlreadyCancelled(SETTLED), False), (InputNotFound(), False)],
)  # fmt: skip
def test_every_outcome_says_whether_it_cancelled_and_what(
    outcome: PendingTurnInputCancelOutcome, is_cancelled: bool
) -> None:
    assert outcome.is_cancelled is is_cancelled
    assert outcome.input is (None if isinstance(outcome, InputNotFound) else SETTLED)


def test_what_a_cancel_tells_about_a_claim_never_contains_the_token() -> None:
    assert set(ClaimDiagnostics.__struct_fields__) == {
        "claim_id",
        "generation",
        "turn_id",
        "owner",
        "fencing_token",
        "state",
    }
