"""The pure rules of queued work: admission, head of the line, named batches, back-off (contract 02 §3, design D20)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lash_cli.core.claim_limits import MAX_CLAIMED_BATCHES
from lash_cli.core.codec import decode_any, encode, to_builtins
from lash_cli.core.queued_work import (
    FIRST_RETRY_MS,
    LONGEST_RETRY_MS,
    MAX_ATTEMPTS,
    AgentFrameTask,
    Candidate,
    CommandWork,
    DeliveryPolicy,
    MergeGroup,
    MergeKey,
    NeverMerge,
    PayloadDefault,
    ProcessWake,
    QueuedWorkBatchDraft,
    QueuedWorkClass,
    QueuedWorkPayload,
    RefreshToolCatalog,
    Refused,
    ResetSession,
    Selected,
    SessionCommand,
    SlotPolicy,
    class_of,
    command_draft,
    command_source_key,
    followed_turn_id,
    following_turn_id,
    frame_task_draft,
    retry_at_ms,
    select_leading_command,
    select_named,
    select_turn_work,
    validate_draft,
    wake_draft,
)
from lash_cli.errors import InvalidQueuedWorkBatch

COMMAND, WORK = QueuedWorkClass.SESSION_COMMAND, QueuedWorkClass.TURN_WORK
EARLIEST, AFTER = DeliveryPolicy.EARLIEST_SAFE_BOUNDARY, DeliveryPolicy.AFTER_CURRENT_TURN_COMMIT
JOIN, EXCLUSIVE = SlotPolicy.JOIN, SlotPolicy.EXCLUSIVE
WAKE = ProcessWake("w", "p", 1, "done")
TASK = AgentFrameTask("f", "go on")
RESET, REFRESH = CommandWork(ResetSession("r")), CommandWork(RefreshToolCatalog("r"))
G1, G2 = MergeGroup("g1"), MergeGroup("g2")
BOUNDARIES: tuple[Any, ...] = ("idle", "active_turn_checkpoint")


def one(
    batch_id: str,
    work_class: QueuedWorkClass = WORK,
    delivery: DeliveryPolicy = EARLIEST,
    slot: SlotPolicy = JOIN,
    merge: MergeKey = G1,
) -> Candidate:
    return Candidate(batch_id, work_class, delivery, slot, merge)


def command(batch_id: str) -> Candidate:
    return one(batch_id, COMMAND, AFTER, EXCLUSIVE, NeverMerge())


candidates = st.builds(
    Candidate,
    batch_id=st.just(""),
    work_class=st.sampled_from([WORK, WORK, WORK, COMMAND]),
    delivery_policy=st.sampled_from(DeliveryPolicy),
    slot_policy=st.sampled_from([JOIN, JOIN, EXCLUSIVE]),
    merge_key=st.sampled_from([NeverMerge(), PayloadDefault(), G1, G2]),
)
lines = st.lists(candidates, max_size=6).map(
    lambda line: [msgspec.structs.replace(item, batch_id=f"b{index}") for index, item in enumerate(line)]
)


@pytest.mark.parametrize(
    ("payloads", "slot", "expected"),
    [
        ((WAKE,), JOIN, WORK),
        ((WAKE, TASK, WAKE), EXCLUSIVE, WORK),
        ((RESET,), EXCLUSIVE, COMMAND),
        ((REFRESH,), EXCLUSIVE, COMMAND),
        ((), JOIN, None),
        ((), EXCLUSIVE, None),
        ((RESET,), JOIN, None),
        ((RESET, REFRESH), EXCLUSIVE, None),
        ((WAKE, RESET), EXCLUSIVE, None),
        ((RESET, TASK), JOIN, None),
    ],
)
def test_only_a_batch_a_claim_can_use_is_admitted(
    payloads: tuple[QueuedWorkPayload, ...], slot: SlotPolicy, expected: QueuedWorkClass | None
) -> None:
    draft = QueuedWorkBatchDraft("s1", payloads, AFTER, slot)
    if expected is None:
        with pytest.raises(InvalidQueuedWorkBatch):
            validate_draft(draft)
    else:
        assert validate_draft(draft) is expected is class_of(payloads)


def test_the_id_of_a_turn_that_follows_says_what_it_follows() -> None:
    assert followed_turn_id(following_turn_id("root", 3)) == ("root", 3)
    nested = following_turn_id("a", 1)
    assert followed_turn_id(following_turn_id(nested, 2)) == (nested, 2)
    for other in ("root", ":agent-frame:1", "root:agent-frame:", "root:agent-frame:x", "root:agent-frame:\u0661"):
        assert followed_turn_id(other) is None


def test_every_producer_makes_an_exclusive_batch_under_its_own_key() -> None:
    drafts = {
        "wake": wake_draft("s1", ProcessWake("w", "p1", 7, "done")),
        "command": command_draft("s1", ResetSession("r"), command_source_key(ResetSession("r"), "k")),
        "task": frame_task_draft("s1", "t1", TASK),
    }
    assert {name: draft.source_key for name, draft in drafts.items()} == {
        "wake": "process:p1:event:7:wake",
        "command": "command:reset_session:k",
        "task": "agent-frame-handoff:t1",
    }
    assert {draft.slot_policy for draft in drafts.values()} == {EXCLUSIVE}
    assert {name for name, draft in drafts.items() if draft.delivery_policy is EARLIEST} == {"wake"}
    assert [validate_draft(draft) for draft in drafts.values()] == [WORK, COMMAND, WORK]
    assert command_source_key(RefreshToolCatalog("r"), "k") == "command:refresh_tool_catalog:k"


@given(lines)
def test_a_leading_command_is_the_head_or_nothing(line: list[Candidate]) -> None:
    expected = line[0].batch_id if line and line[0].work_class is COMMAND else None
    assert select_leading_command(line) == expected


@pytest.mark.parametrize(
    ("line", "boundary", "limit", "expected"),
    [
        ([], "idle", 9, "empty"),
        ([one("a")], "idle", 0, "empty"),
        ([command("a"), one("b")], "idle", 9, "command_at_head"),
        ([command("a")], "active_turn_checkpoint", 9, "command_at_head"),
        ([one("a", delivery=AFTER), one("b")], "active_turn_checkpoint", 9, "boundary_blocked"),
        ([one("a", delivery=AFTER)], "idle", 9, ("a",)),
        ([one("a", slot=EXCLUSIVE), one("b", slot=EXCLUSIVE)], "idle", 9, ("a",)),
        ([one("a"), one("b"), one("c")], "idle", 9, ("a", "b", "c")),
        ([one("a"), one("b"), one("c")], "active_turn_checkpoint", 2, ("a", "b")),
        ([one("a"), one("b", merge=G2), one("c")], "idle", 9, ("a",)),
        ([one("a"), one("b", delivery=AFTER), one("c")], "idle", 9, ("a",)),
        ([one("a"), one("b", slot=EXCLUSIVE), one("c")], "idle", 9, ("a",)),
        ([one("a"), command("b"), one("c")], "idle", 9, ("a",)),
        ([one("a", merge=NeverMerge()), one("b", merge=NeverMerge())], "idle", 9, ("a",)),
        ([one("a", merge=PayloadDefault()), one("b", merge=PayloadDefault())], "idle", 9, ("a", "b")),
        ([one("a", merge=PayloadDefault()), one("b", merge=MergeGroup("payload_default"))], "idle", 9, ("a",)),
    ],
)
def test_the_head_decides_what_is_taken(
    line: list[Candidate], boundary: Any, limit: int, expected: str | tuple[str, ...]
) -> None:
    selection = select_turn_work(line, boundary, limit)
    assert selection == (Refused(expected) if isinstance(expected, str) else Selected(expected))  # type: ignore[arg-type]


@given(lines, st.sampled_from(BOUNDARIES), st.integers(0, 6))
def test_a_selection_is_a_run_from_the_head_that_could_not_be_longer(
    line: list[Candidate], boundary: Any, limit: int
) -> None:
    selection = select_turn_work(line, boundary, limit)
    if isinstance(selection, Refused):
        head = line[0] if line and limit else None
        assert head is None or head.work_class is COMMAND or (boundary != "idle" and head.delivery_policy is AFTER)
        return
    taken = line[: len(selection.batch_ids)]
    assert selection.batch_ids == tuple(item.batch_id for item in taken)
    assert 1 <= len(taken) <= limit
    assert all(item.work_class is WORK for item in taken)
    if len(taken) > 1:
        alike = {(item.slot_policy, item.delivery_policy, encode(item.merge_key)) for item in taken}
        assert len(alike) == 1 and taken[0].slot_policy is JOIN and not isinstance(taken[0].merge_key, NeverMerge)
    if len(taken) < min(limit, len(line)):
        following = line[len(taken)]
        assert isinstance(select_named([*taken, following], boundary, limit), Refused), "the group ended for a reason"


@given(lines, st.sampled_from(BOUNDARIES))
def test_what_stands_further_back_never_changes_what_the_head_takes(line: list[Candidate], boundary: Any) -> None:
    selection = select_turn_work(line, boundary, 6)
    taken = len(selection.batch_ids) if isinstance(selection, Selected) else 1
    assert select_turn_work(line[: taken + 1], boundary, 6) == selection


@pytest.mark.parametrize(
    ("named", "boundary", "limit", "expected"),
    [
        ([], "idle", 9, None),
        ([None], "idle", 9, None),
        ([one("a"), None], "idle", 9, None),
        ([one("a"), one("a")], "idle", 9, None),
        ([command("a")], "idle", 9, None),
        ([one("a"), command("b")], "idle", 9, None),
        ([one("a", slot=EXCLUSIVE), one("b", slot=EXCLUSIVE)], "idle", 9, None),
        ([one("a"), one("b", slot=EXCLUSIVE)], "idle", 9, None),
        ([one("a"), one("b", merge=G2)], "idle", 9, None),
        ([one("a", delivery=AFTER)], "active_turn_checkpoint", 9, None),
        ([one("a"), one("b")], "idle", 1, None),
        ([one("b"), one("a")], "idle", 9, ("b", "a")),
        ([one("a", slot=EXCLUSIVE, merge=NeverMerge())], "idle", 9, ("a",)),
        ([one("a", delivery=AFTER), one("b", delivery=AFTER)], "idle", 9, ("a", "b")),
        ([one("a"), one("b")], "active_turn_checkpoint", 9, ("a", "b")),
    ],
)
def test_named_batches_form_one_legal_group_or_none_is_taken(
    named: list[Candidate | None], boundary: Any, limit: int, expected: tuple[str, ...] | None
) -> None:
    selection = select_named(named, boundary, limit)
    if expected is None:
        assert selection == Refused("empty" if not named else "unclaimable_together")
    else:
        assert selection == Selected(expected)


@given(lines, st.sampled_from(BOUNDARIES))
def test_what_the_head_takes_may_always_be_named(line: list[Candidate], boundary: Any) -> None:
    selection = select_turn_work(line, boundary, MAX_CLAIMED_BATCHES)
    if isinstance(selection, Selected):
        taken: list[Candidate | None] = list(line[: len(selection.batch_ids)])
        assert select_named(taken, boundary) == selection
        reordered = select_named(taken[::-1], boundary)
        assert reordered == Selected(selection.batch_ids[::-1]), "order is the caller's"


def test_a_failure_waits_twice_as_long_each_time_and_the_last_is_the_end() -> None:
    waits = [retry_at_ms(attempts, 1_000) for attempts in range(1, MAX_ATTEMPTS + 2)]
    assert waits[: MAX_ATTEMPTS - 1] == [1_000 + (FIRST_RETRY_MS << step) for step in range(MAX_ATTEMPTS - 1)]
    assert waits[MAX_ATTEMPTS - 1 :] == [None, None]


@given(st.integers(1, MAX_ATTEMPTS - 1), st.integers(0, 2**41))
def test_no_wait_is_longer_than_the_longest(attempts: int, now_ms: int) -> None:
    again_at_ms = retry_at_ms(attempts, now_ms)
    assert again_at_ms is not None and now_ms < again_at_ms <= now_ms + LONGEST_RETRY_MS


@pytest.mark.parametrize(
    ("value", "kind", "wire"),
    [
        (ResetSession("r"), SessionCommand, {"kind": "reset_session", "reason": "r"}),
        (RefreshToolCatalog("r"), SessionCommand, {"kind": "refresh_tool_catalog", "reason": "r"}),
        (
            RESET,
            QueuedWorkPayload,
            {"type": "session_command", "command": {"kind": "reset_session", "reason": "r"}},
        ),
        (TASK, QueuedWorkPayload, {"type": "agent_frame_task", "frame_id": "f", "task": "go on"}),
        (
            ProcessWake("w", "p", 3, "done", {"a": [1]}),
            QueuedWorkPayload,
            {
                "type": "process_wake",
                "wake_id": "w",
                "process_id": "p",
                "sequence": 3,
                "event_type": "done",
                "input": {"a": [1]},
            },
        ),
        (NeverMerge(), MergeKey, {"kind": "never"}),
        (PayloadDefault(), MergeKey, {"kind": "payload_default"}),
        (G1, MergeKey, {"kind": "group", "key": "g1"}),
    ],
)
def test_every_variant_survives_its_wire_form(value: Any, kind: Any, wire: dict[str, Any]) -> None:
    assert to_builtins(value) == wire
    assert decode_any(encode(value), kind) == value


@pytest.mark.parametrize(
    ("document", "kind"),
    [
        ('{"type":"of_tomorrow"}', QueuedWorkPayload),
        ('{"type":"session_command","command":{"kind":"of_tomorrow"}}', QueuedWorkPayload),
        ('{"kind":"sometimes"}', MergeKey),
        ('{"kind":"group"}', MergeKey),
    ],
)
def test_an_unknown_wire_value_raises_instead_of_becoming_a_default(document: str, kind: Any) -> None:
    with pytest.raises(msgspec.ValidationError):
        decode_any(document, kind)
