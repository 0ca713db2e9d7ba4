"""What the queue verbs conclude: the exit of a cancel, conditions, the rows of an edit (contract 08 §5.1, §5.3)."""

from __future__ import annotations

from typing import Any

import pytest

from lash_cli.cli.edit_rows import editable_text, edited_input, originals, returning_blocks
from lash_cli.cli.queue_cancel import cancel_error
from lash_cli.cli.turn_command import IfBusy, busy_policy
from lash_cli.cli.wait_command import Condition, parse_condition
from lash_cli.core.content import AttachmentItem, ExternalUrl, TextItem, TurnInput
from lash_cli.core.ingress import ActiveTurn, InputState, NextTurn, PendingTurnInput
from lash_cli.errors import UsageError
from lash_cli.views.edit_text import Block

C, A, CLAIMED, USED, MISSING = "cancelled", "already_cancelled", "already_claimed", "already_completed", "not_found"


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([C], None),
        ([C, A], None),
        ([A, A], None),
        ([C, CLAIMED], (8, "partial_outcome")),
        ([A, USED], (8, "partial_outcome")),
        ([C, MISSING], (8, "partial_outcome")),
        ([CLAIMED], (4, "input_already_claimed")),
        ([CLAIMED, USED], (4, "input_already_claimed")),
        ([CLAIMED, MISSING], (4, "input_already_claimed")),
        ([USED], (4, "input_already_completed")),
        ([USED, MISSING], (4, "input_already_completed")),
        ([MISSING], (3, "input_not_found")),
        ([MISSING, MISSING], (3, "input_not_found")),
    ],
)
def test_outcomes_add_up_to_one_exit_status(outcomes: list[str], expected: tuple[int, str] | None) -> None:
    items = [{"outcome": outcome} for outcome in outcomes]
    error = cancel_error(items)
    assert (None if error is None else (error.exit_status, error.code)) == expected
    assert error is None or error.details["items"] == items


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("idle", Condition("idle")),
        ("queue-empty", Condition("queue-empty")),
        ("turn=t_1", Condition("turn", "t_1")),
        ("input=in=1", Condition("input", "in=1")),
    ],
)
def test_conditions_are_words_and_subjects(text: str, expected: Condition) -> None:
    assert parse_condition(text) == expected and str(expected) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fail", IfBusy()),
        ("enqueue", IfBusy(0, True)),
        ("wait=2s", IfBusy(2_000)),
    ],
)
def test_a_busy_session_is_failed_on_waited_for_or_queued_into(text: str, expected: IfBusy) -> None:
    assert busy_policy(text) == expected
    assert busy_policy("wait").wait_ms > 1_000_000
    with pytest.raises(UsageError, match="--if-busy"):
        busy_policy("enqueue=1s")


PICTURE = AttachmentItem(ExternalUrl("image/png", "https://example.org/p"))
PIPED = TextItem("piped", "stdin")


def content(*items: Any) -> TurnInput:
    return TurnInput(items=items)


@pytest.mark.parametrize(
    ("before", "text", "after"),
    [
        (content(TextItem("a")), "b", content(TextItem("b"))),
        (content(TextItem("a\n\n")), "a", content(TextItem("a\n\n"))),
        (content(TextItem("a")), "  ", None),
        (content(TextItem("a"), PIPED, PICTURE), "b", content(TextItem("b"), PIPED, PICTURE)),
        (content(PIPED), "", content(PIPED)),
        (content(PIPED), "added", content(TextItem("added"), PIPED)),
        (content(PICTURE), "added", content(TextItem("added"), PICTURE)),
        (content(), "new", content(TextItem("new"))),
        (content(), "", None),
    ],
)
def test_an_edit_changes_typed_text_and_nothing_else(before: TurnInput, text: str, after: TurnInput | None) -> None:
    assert edited_input(before, text) == after


def test_the_typed_text_is_the_first_without_a_label() -> None:
    assert editable_text(content(PIPED, TextItem("typed"), TextItem("later"))) == "typed"
    assert editable_text(content(PICTURE)) == ""


def row(number: int, *, turn: str | None = None) -> PendingTurnInput:
    ingress = NextTurn() if turn is None else ActiveTurn(turn)
    return PendingTurnInput(
        f"in_{number}", "s", number, ingress, InputState.PENDING_ACTIVE, 0, TurnInput.text(f"{number}")
    )


def test_what_goes_back_has_keys_of_the_edit_in_the_order_of_the_file() -> None:
    rows = [row(1), row(2), row(3)]
    blocks = [Block("in_3", "3"), Block("other", "new"), Block("in_1", ""), Block("in_2", "2, edited")]
    returning = returning_blocks("qe_1", blocks, rows, None)
    assert [(entry.key, editable_text(entry.input)) for entry in returning] == [
        ("queue-edit:qe_1:0", "3"),
        ("queue-edit:qe_1:1", "new"),
        ("queue-edit:qe_1:2", "2, edited"),
    ]
    assert [entry.input for entry in originals("qe_1", rows, None)] == [one.input for one in rows]


def test_text_goes_back_into_its_turn_only_while_that_runs() -> None:
    rows = [row(1, turn="t_1"), row(2, turn="t_0")]
    assert [entry.ingress for entry in originals("qe_1", rows, "t_1")] == [ActiveTurn("t_1"), NextTurn()]
    assert [entry.ingress for entry in originals("qe_1", rows, None)] == [NextTurn(), NextTurn()]
