"""What crosses a wire has pinned shapes and an exactly matched version (contract 04 §6.1, §6.2)."""

from __future__ import annotations

import json

import pytest

from lash_cli.core.activity import (
    AssistantProseDelta,
    ErrorShown,
    ModelAttemptReset,
    PluginRuntime,
    PluginStatus,
    QueuedInputAccepted,
    RetryWait,
    ToolCallCompleted,
    TurnActivity,
    UsageShown,
)
from lash_cli.core.observation import (
    ActivityObserved,
    AgentFrameSwitched,
    LiveReplayGap,
    LiveReplayGapReason,
    ProcessChanged,
    QueueChanged,
    ResidentChanged,
    SessionCursor,
    SessionObservationEvent,
    StateCommitted,
)
from lash_cli.core.outcome import TurnIssue
from lash_cli.core.remote import (
    REMOTE_PROTOCOL_VERSION,
    RemoteLiveReplayGap,
    RemoteSessionCursor,
    RemoteSessionObservation,
    RemoteSessionObservationEvent,
    RemoteTurnActivity,
    remote_observation,
)
from lash_cli.core.tools import cancelled, success
from lash_cli.core.usage import TokenUsage
from lash_cli.errors import (
    InvalidEnvelope,
    MismatchedNestedProtocolVersion,
    MissingRequiredField,
    UnsupportedProtocolVersion,
)

V = REMOTE_PROTOCOL_VERSION
CURSOR = SessionCursor("e", 4, 9, "s")


def activity(event):
    return TurnActivity("s", "t1", "row-1", event, 5, "a-1")


def remote(event, sequence=3):
    return RemoteTurnActivity.of(activity(event), sequence).document()


def observed(payload, turn_id=None):
    return SessionObservationEvent("s", 4, CURSOR, payload, turn_id)


def test_a_reset_has_its_pinned_shape():
    assert remote(ModelAttemptReset(("p",), ("r",))) == {
        "protocol_version": V,
        "sequence": 3,
        "id": "a-1",
        "correlation_id": "row-1",
        "type": "model_attempt_reset",
        "assistant_prose_correlation_ids": ["p"],
        "reasoning_correlation_ids": ["r"],
    }


@pytest.mark.parametrize(
    ("event", "fields"),
    [
        (AssistantProseDelta("x"), {"type": "assistant_prose_delta", "text": "x"}),
        (
            RetryWait(1500, 1, 3, "busy"),
            {"type": "retry_status", "wait_seconds": 1.5, "attempt": 1, "max_attempts": 3, "reason": "busy"},
        ),
        (ErrorShown(TurnIssue("provider", "it broke")), {"type": "error", "message": "it broke"}),
        (
            ToolCallCompleted("c", "echo", {"a": 1}, success("v"), 7),
            {
                "type": "tool_call_completed",
                "call_id": "c",
                "name": "echo",
                "args": {"a": 1},
                "output": {"outcome": {"status": "success", "payload": "v"}},
                "duration_ms": 7,
            },
        ),
        (
            PluginRuntime("p", PluginStatus("k", "working")),
            {
                "type": "runtime_diagnostic",
                "kind": "plugin_runtime",
                "data": {"plugin_id": "p", "event": {"kind": "status", "key": "k", "label": "working"}},
            },
        ),
        (
            QueuedInputAccepted("after_work", ("in_1",)),
            {
                "type": "runtime_diagnostic",
                "kind": "queued_input_accepted",
                "data": {"checkpoint": "after_work", "input_ids": ["in_1"]},
            },
        ),
    ],
)
def test_an_activity_has_the_fields_of_its_kind(event, fields):
    document = remote(event)
    assert {name: document[name] for name in document if name not in ("protocol_version", "sequence", "id", "correlation_id")} == fields  # fmt: skip  # noqa: E501


def test_usage_has_all_five_counters_even_when_they_are_zero():
    document = remote(UsageShown(0, TokenUsage(input_tokens=2), TokenUsage()))
    assert len(document["usage"]) == len(document["cumulative"]) == 5
    assert document["usage"]["input_tokens"] == 2 and document["cumulative"]["output_tokens"] == 0


def test_a_cancelled_output_is_plain_json():
    document = remote(ToolCallCompleted("c", "t", {}, cancelled(), 1))
    assert document["output"]["outcome"]["status"] == "cancelled"
    json.dumps(document)


@pytest.mark.parametrize(
    ("payload", "fields"),
    [
        (StateCommitted(), {"type": "committed"}),
        (StateCommitted("n1"), {"type": "committed"}),
        (ResidentChanged(), {"type": "resident_changed"}),
        (AgentFrameSwitched("f2"), {"type": "agent_frame_switched", "frame_id": "f2"}),
        (QueueChanged("enqueued"), {"type": "queue_changed", "kind": "enqueued", "batch_ids": []}),
        (ProcessChanged("started", ("p1",)), {"type": "process_changed", "kind": "started", "process_ids": ["p1"]}),
    ],
)
def test_an_event_has_its_pinned_shape_and_survives_the_wire(payload, fields):
    envelope = RemoteSessionObservationEvent.of(observed(payload), 0)
    expected = {
        "protocol_version": V,
        "session_id": "s",
        "revision": 4,
        "cursor": str(CURSOR),
        "replay_incarnation_id": "e",
        **fields,
    }
    assert envelope.document() == expected
    assert RemoteSessionObservationEvent.from_json(envelope.to_json()) == envelope


@pytest.mark.parametrize(
    ("spoilt", "error"),
    [
        ({"type": "queue_changed", "kind": "grown", "batch_ids": []}, InvalidEnvelope),
        ({"type": "queue_changed", "kind": "enqueued", "batch_ids": [5]}, InvalidEnvelope),
        ({"type": "queue_changed", "batch_ids": []}, MissingRequiredField),
        ({"type": "queue_changed", "kind": "enqueued"}, MissingRequiredField),
        ({"type": "agent_frame_switched", "frame_id": " "}, MissingRequiredField),
        ({"type": "process_changed", "kind": "completed", "process_ids": []}, InvalidEnvelope),
        ({"type": "agent_frame_switched"}, MissingRequiredField),
        ({"type": "committed", "revision": -1}, InvalidEnvelope),
    ],
)
def test_an_event_that_says_what_no_session_does_is_refused(spoilt, error):
    whole = RemoteSessionObservationEvent.of(observed(StateCommitted()), 0).document()
    with pytest.raises(error):
        RemoteSessionObservationEvent.from_document({**whole, **spoilt})


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ({"type": "of_the_future"}, InvalidEnvelope),
        ({"type": "queued_work_started", "boundary": "idle", "batch_ids": []}, InvalidEnvelope),
        ({"type": "assistant_prose_delta"}, MissingRequiredField),
        ({"type": "assistant_prose_delta", "text": 5}, InvalidEnvelope),
        (
            {"type": "usage", "protocol_iteration": 0, "usage": {"input_tokens": 1}, "cumulative": {}},
            MissingRequiredField,
        ),
        ({"type": "retry_status", "wait_seconds": 1, "attempt": 1, "reason": "x"}, MissingRequiredField),
        ({"type": "error"}, MissingRequiredField),
        ({"type": "runtime_diagnostic", "kind": "plugin_runtime"}, MissingRequiredField),
        ({"type": "tool_call_completed", "call_id": "c", "name": "grep", "duration_ms": 1}, MissingRequiredField),
    ],
)
def test_an_activity_that_says_less_than_its_kind_is_refused(said, error):
    whole = {"protocol_version": V, "sequence": 0, "id": "a", "correlation_id": "c"}
    with pytest.raises(error):
        RemoteTurnActivity.from_document({**whole, **said})


@pytest.mark.parametrize("count", [-1, True, "1", None])
def test_a_counter_is_a_count(count):
    whole = remote_observation("s", CURSOR, 1, TokenUsage()).document()
    with pytest.raises(InvalidEnvelope):
        RemoteSessionObservation.from_document({**whole, "usage": {**whole["usage"], "output_tokens": count}})


def test_an_activity_inside_an_event_survives_the_wire_with_its_turn():
    event = observed(ActivityObserved(activity(AssistantProseDelta("x"))), "t1")
    envelope = RemoteSessionObservationEvent.of(event, 8)
    again = RemoteSessionObservationEvent.from_json(envelope.to_json())
    assert again == envelope and again.turn_id == "t1"
    assert RemoteTurnActivity.from_document(again.fields["activity"]).sequence == 8


def test_observation_gap_and_cursor_survive_the_wire():
    for envelope in (
        remote_observation("s", CURSOR, 3, TokenUsage(1, 2)),
        RemoteLiveReplayGap.of(LiveReplayGap("s", CURSOR, CURSOR, 4, LiveReplayGapReason.TRIMMED)),
        RemoteSessionCursor.of(CURSOR),
    ):
        assert type(envelope).from_json(envelope.to_json()) == envelope


@pytest.mark.parametrize(
    "kind",
    [
        RemoteSessionCursor,
        RemoteSessionObservation,
        RemoteSessionObservationEvent,
        RemoteLiveReplayGap,
        RemoteTurnActivity,
    ],
)
def test_a_newer_peer_is_a_version_error_whatever_else_it_says(kind):
    for version in (0, V + 1):
        with pytest.raises(UnsupportedProtocolVersion) as caught:
            kind.from_json(json.dumps({"protocol_version": version, "type": "from_the_future"}))
        assert (caught.value.actual, caught.value.expected) == (version, V)
    with pytest.raises(MissingRequiredField):
        kind.from_json("{}")
    for broken in ("[]", "{", json.dumps({"protocol_version": V, "nothing": "else"}), '{"protocol_version": "1"}'):
        with pytest.raises(InvalidEnvelope):
            kind.from_json(broken)


def test_a_nested_version_must_be_the_parents():
    event = RemoteSessionObservationEvent.of(observed(ActivityObserved(activity(AssistantProseDelta("x")))), 0)
    document = event.document()
    document["activity"] = {**document["activity"], "protocol_version": V + 1}
    with pytest.raises(MismatchedNestedProtocolVersion):
        RemoteSessionObservationEvent.from_document(document)


def test_blank_is_as_good_as_missing_and_unknown_kinds_are_refused():
    with pytest.raises(MissingRequiredField):
        RemoteSessionCursor.from_document({"protocol_version": V, "cursor": " \t"})
    with pytest.raises(InvalidEnvelope):
        RemoteSessionObservationEvent.from_document(
            {**RemoteSessionObservationEvent.of(observed(StateCommitted()), 0).document(), "type": "news"}
        )
    gap = RemoteLiveReplayGap.of(LiveReplayGap("s", CURSOR, CURSOR, 4, LiveReplayGapReason.TRIMMED)).document()
    with pytest.raises(InvalidEnvelope):
        RemoteLiveReplayGap.from_document({**gap, "reason": "bored"})


def test_a_malformed_token_is_not_this_layers_matter():
    RemoteSessionCursor(protocol_version=V, cursor="nonsense").validate()
