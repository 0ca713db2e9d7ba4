"""What a turn is told by its queue: ids and texts that are functions of the rows (contract 02 §1.5, 03 §4.8)."""

from __future__ import annotations

from lash_cli.core.content import Message, ProcessOrigin, Role, TextPart, TurnInput, message_text
from lash_cli.core.delivery import TurnClaims, frame_task_of, work_causes, work_messages
from lash_cli.core.graph import CausalRef
from lash_cli.core.ingress import (
    InputState,
    NextTurn,
    PendingTurnInput,
    TurnInputClaim,
    TurnInputCompletion,
    ingress_message_id,
)
from lash_cli.core.queued_work import (
    AgentFrameTask,
    CommandWork,
    DeliveryPolicy,
    NeverMerge,
    ProcessWake,
    QueuedWorkBatch,
    QueuedWorkClaim,
    QueuedWorkClass,
    QueuedWorkCompletion,
    QueuedWorkPayload,
    RefreshToolCatalog,
    SlotPolicy,
)


def batch(batch_id: str, *payloads: QueuedWorkPayload) -> QueuedWorkBatch:
    return QueuedWorkBatch(
        batch_id,
        "s1",
        1,
        QueuedWorkClass.TURN_WORK,
        DeliveryPolicy.EARLIEST_SAFE_BOUNDARY,
        SlotPolicy.EXCLUSIVE,
        NeverMerge(),
        0,
        0,
        payloads,
    )


def input_claim(claim_id: str, *input_ids: str) -> TurnInputClaim:
    rows = tuple(
        PendingTurnInput(input_id, "s1", 1, NextTurn(), InputState.DEFERRED_NEXT_TURN, 0, TurnInput.text("x"))
        for input_id in input_ids
    )
    return TurnInputClaim("s1", claim_id, "token", 1, "t1", rows)


def test_a_wake_speaks_as_an_event_and_a_task_as_the_user() -> None:
    wake = ProcessWake("w1", "p1", 4, "progress", {"b": 1, "a": [2]})
    event, task = work_messages([batch("qwb:1", wake), batch("qwb:2", AgentFrameTask("f2", "finish it"))])
    assert event == Message(
        "m_work_qwb:1_0",
        Role.EVENT,
        (TextPart('Background process wake\nprocess: p1\nevent: progress #4\ninput: {"a":[2],"b":1}'),),
        ProcessOrigin("p1"),
    )
    assert (task.id, task.role, message_text(task), task.origin) == ("m_work_qwb:2_0", Role.USER, "finish it", None)


def test_every_payload_of_a_batch_has_a_message_of_its_own_and_none_has_a_blank_one() -> None:
    wakes = [ProcessWake(f"w{n}", "p1", n, "done") for n in (1, 2)]
    messages = work_messages([batch("b", *wakes)])
    assert [message.id for message in messages] == ["m_work_b_0", "m_work_b_1"]
    assert all("input:" not in message_text(message) for message in messages)
    assert work_messages([batch("b", CommandWork(RefreshToolCatalog("never prompt text")))]) == ()


def test_text_of_a_wake_is_shown_as_it_is() -> None:
    (message,) = work_messages([batch("b", ProcessWake("w", "p", 1, "done", "two\nlines"))])
    assert message_text(message).endswith("input: two\nlines")


def test_causes_name_the_event_or_the_turn_work_came_from() -> None:
    batches = [
        batch("b1", ProcessWake("w1", "p1", 4, "done")),
        batch("b2", AgentFrameTask("f2", "go", root_turn_id="t1")),
    ]
    assert work_causes(batches) == (CausalRef("process_event", "p1", 4), CausalRef("turn", "t1"))


def test_a_frame_task_is_found_among_work() -> None:
    task = AgentFrameTask("f2", "go", root_turn_id="t1", switches=3)
    assert frame_task_of([batch("b", task)]) == task
    assert frame_task_of([batch("b", ProcessWake("w", "p", 1, "done"))]) is None


def test_claims_are_noted_once_and_in_the_order_they_were_made() -> None:
    work = QueuedWorkClaim("s1", "qwc:1", "token", 1, "t1", (batch("b1", ProcessWake("w", "p", 1, "done")),))
    claims = TurnClaims(input_claim("tic:1", "in1", "in2"), work)
    taken = TurnInputCompletion("tic:t1:c4", "token", ("in3",))
    claims.add(taken, None)
    claims.add(taken, QueuedWorkCompletion("qwc:2", "token", ("b2",)))
    assert claims.input_ids == ("in1", "in2", "in3")
    assert claims.batch_ids == ("b1", "b2")
    assert len(claims.inputs) == 2 and len(claims.work) == 2
    assert TurnClaims().input_ids == ()


def test_the_message_of_an_input_is_named_after_its_row() -> None:
    assert ingress_message_id("in_1") == "m_ingress_in_1"
