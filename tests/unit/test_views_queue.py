"""A queue as text: the kinds of demand apart, receipts in one line, nothing that steers a terminal."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from lash_cli.cli.queue_documents import batch_document, batch_item, input_item
from lash_cli.core.content import AttachmentItem, ExternalUrl, TextItem, TurnInput
from lash_cli.core.ingress import ActiveTurn, InputState, NextTurn, PendingTurnInput
from lash_cli.core.queued_work import (
    BatchState,
    CommandWork,
    DeliveryPolicy,
    NeverMerge,
    ProcessWake,
    QueuedWorkBatch,
    QueuedWorkClass,
    ResetSession,
    SlotPolicy,
)
from lash_cli.store.base import SessionMeta
from lash_cli.views.queue import batches_cells, item_text, queue_text, receipt_text
from lash_cli.views.safe_text import safe_text

NOW = 1_700_000_000_000
META = SessionMeta("s_1", "quiet-fjord", NOW)


def stored(number: int, text: str, *, turn: str | None = None, state: InputState | None = None) -> PendingTurnInput:
    ingress = NextTurn() if turn is None else ActiveTurn(turn)
    initial = InputState.DEFERRED_NEXT_TURN if turn is None else InputState.PENDING_ACTIVE
    return PendingTurnInput(
        f"in_{number}", "s_1", number, ingress, state or initial, NOW - 5_000, TurnInput.text(text), "host:k"
    )


def item(row: PendingTurnInput, **changes: Any) -> dict[str, Any]:
    return input_item(row, META, **{"turn_id": None, "running_turn_id": "t_1", **changes})


def batch(state: BatchState = BatchState.PENDING, payload: Any = None) -> QueuedWorkBatch:
    payloads = (payload or ProcessWake("w", "p_1", 4, "done"),)
    work_class = QueuedWorkClass.SESSION_COMMAND if payload is not None else QueuedWorkClass.TURN_WORK
    policy, slot = DeliveryPolicy.EARLIEST_SAFE_BOUNDARY, SlotPolicy.EXCLUSIVE
    return QueuedWorkBatch(
        "qwb:1", "s_1", 9, work_class, policy, slot, NeverMerge(), 0, NOW - 60_000, payloads, None, state, 3, "boom"
    )


def text_of(items: list[dict[str, Any]], running: str | None = "t_1") -> list[list[str]]:
    shown = queue_text(items, running_turn=running, now_ms=NOW, clean=safe_text)
    return [block.splitlines() for block in shown.split("\n\n")] if shown else []


def test_the_three_kinds_of_demand_are_rendered_apart() -> None:
    items = [item(stored(1, "now", turn="t_1")), item(stored(2, "next")), batch_item(batch(), META)]
    assert text_of(items) == [
        ["enters turn t_1, which runs", "  in_1  5s ago  now"],
        ["next turn", "  in_2  5s ago  next"],
        ["background work", "  qwb:1  1m ago  wake of process p_1: done (event 4)"],
    ]
    assert text_of([]) == []


def test_text_for_a_turn_that_does_not_run_belongs_to_the_next_one() -> None:
    orphan = item(stored(1, "late", turn="t_0"))
    assert orphan["delivery"] == "next_turn"
    assert text_of([orphan])[0][0] == "next turn"
    assert item(stored(1, "x", turn="t_0"), running_turn_id=None)["delivery"] == "next_turn"


def test_what_is_held_dead_and_settled_comes_last() -> None:
    items = [
        item(stored(1, "used", state=InputState.COMPLETED)),
        item(stored(2, "taken"), is_held=True, turn_id="t_1"),
        batch_item(batch(BatchState.DEAD), META),
        item(stored(3, "waits")),
    ]
    assert [block[0] for block in text_of(items)] == [
        "next turn",
        "dead, waits for you",
        "in use by turn t_1",
        "settled",
    ]
    assert text_of(items)[-1][1].split() == ["in_1", "5s", "ago", "completed", "used"]


def test_no_text_can_steer_the_terminal() -> None:
    evil = item(stored(1, "a\x1b[2Jb\u202ec"))
    evil["session_name"] = "n\x1b"
    for shown in (
        queue_text([evil], running_turn=None, now_ms=NOW, clean=safe_text),
        item_text(evil, clean=safe_text),
        receipt_text({**evil, "replayed": False, "outcome": None}, clean=safe_text),
    ):
        assert "\x1b" not in shown and "\u202e" not in shown


def test_an_item_has_every_key_whatever_it_is() -> None:
    assert list(item(stored(1, "x"))) == list(batch_item(batch(), META))


def test_an_input_is_shown_in_full_with_its_labels() -> None:
    row = stored(1, "")
    content = TurnInput(
        items=(TextItem("look"), TextItem("data", "stdin"), AttachmentItem(ExternalUrl("image/png", "u")))
    )
    document = item(msgspec.structs.replace(row, input=content))
    assert item_text(document, clean=safe_text).split("\n\n")[1] == "look\n[stdin]\ndata\n[attachment u]"
    assert document["preview"] == "look data [attachment u]"
    assert document["key"] == "k", "the key as its caller gave it"


def test_a_preview_is_one_line_and_not_endless() -> None:
    preview = item(stored(1, "word\n" * 100))["preview"]
    assert len(preview) == 80 and "\n" not in preview and preview.endswith("…")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "in_1  queued for the next turn of quiet-fjord"),
        ({"replayed": True}, "in_1  queued for the next turn of quiet-fjord (queued before)"),
        ({"state": "accepted", "turn_id": "t_2", "replayed": True}, "in_1  accepted by turn t_2 (queued before)"),
        ({"state": "cancelled", "replayed": True}, "in_1  cancelled (queued before)"),
        ({"state": "completed", "turn_id": "t_2"}, "in_1  completed by turn t_2"),
        (
            {"state": "completed", "turn_id": "t_2", "outcome": {"type": "stopped", "reason": "max_turns"}},
            "in_1  completed by turn t_2: max_turns",
        ),
    ],
)
def test_a_receipt_says_what_became_of_the_text(changes: dict[str, Any], expected: str) -> None:
    document = {**item(stored(1, "x")), "replayed": False, "outcome": None, **changes}
    assert receipt_text(document, clean=safe_text) == expected


def test_a_receipt_for_a_running_turn_names_it() -> None:
    document = {**item(stored(1, "x", turn="t_1")), "replayed": False, "outcome": None}
    assert receipt_text(document, clean=safe_text) == "in_1  enters turn t_1 of quiet-fjord"


def test_a_batch_tells_what_it_is_and_what_went_wrong() -> None:
    document = batch_document(batch(BatchState.DEAD, CommandWork(ResetSession("start over"))))
    assert batches_cells(document, NOW) == (
        "qwb:1", "dead", "session_command", "3", "1m ago", "boom", "reset_session: start over",
    )  # fmt: skip
