"""Envelopes as they are really made have the shapes that `lash schema` prints for them."""

from __future__ import annotations

from typing import Any, get_args

import jsonschema_rs
import pytest

from lash_cli.cli.schemas import KINDS
from lash_cli.cli.schemas.generate import closed, schema_of
from lash_cli.core import activity as shown
from lash_cli.core.graph import CausalRef
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
from lash_cli.core.outcome import AssistantMessage, Finished, Stopped, TurnIssue
from lash_cli.core.remote import (
    RemoteLiveReplayGap,
    RemoteSessionCursor,
    RemoteSessionObservationEvent,
    RemoteTurnActivity,
    remote_observation,
)
from lash_cli.core.tools import success
from lash_cli.core.usage import TokenUsage

CURSOR = SessionCursor("e", 4, 9, "s")
EVENTS = [
    shown.TurnStarted("prompt", ("in_1",)),
    shown.TurnStarted("queue", redriven=True),
    shown.ModelRequestStarted(0),
    shown.AssistantProseDelta("a"),
    shown.ReasoningShown("b"),
    shown.ModelAttemptReset(("p",), ("r",)),
    shown.RetryWait(1500, 2, 3, "busy"),
    shown.ToolCallStarted("c", "grep", {"q": 1}),
    shown.ToolCallStarted("c", "grep", None, "parent"),
    shown.ToolProgress("c", "…"),
    shown.ToolCallCompleted("c", "grep", {"q": 1}, success([1]), 3),
    shown.UsageShown(0, TokenUsage(1), TokenUsage(2)),
    shown.ChildUsage("s2", "subagent", "m", 0, TokenUsage(1), TokenUsage(2)),
    shown.CodeBlockStarted("lua", "x=1"),
    shown.CodeBlockCompleted("lua", "", False, 3, "no", ("c",)),
    shown.PluginRuntime("p", shown.PluginStatus("k", "l")),
    shown.FinalValueShown({"a": 1}),
    shown.QueuedInputAccepted("after_work", ("in_1",)),
    shown.QueuedWorkStarted("idle", ("b",), (CausalRef("process", "p"),)),
    shown.ValueShown("t", 1),
    shown.ErrorShown(TurnIssue("k", "m")),
    shown.Committed(3, "n"),
    shown.Committed(3, None),
    shown.TurnFinished(Finished(AssistantMessage("a"))),
    shown.TurnFinished(Stopped("max_turns")),
]
PAYLOADS = [
    StateCommitted(),
    ResidentChanged(),
    AgentFrameSwitched("f"),
    QueueChanged("enqueued", ("b",)),
    QueueChanged("cancelled"),
    ProcessChanged("started", ("p",)),
]


def check(name: str, document: Any) -> None:
    schema = schema_of(KINDS[name])
    jsonschema_rs.Draft202012Validator(closed(schema)).validate(document)


def activity(event: Any) -> shown.TurnActivity:
    return shown.TurnActivity("s", "t", "row", event, 5, "a")


def test_every_kind_of_activity_is_tried() -> None:
    assert {type(event) for event in EVENTS} == set(get_args(shown.TurnEvent))


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_an_activity_has_its_shape_alone_and_inside_an_event_and_is_read_back(event: Any) -> None:
    envelope = RemoteTurnActivity.of(activity(event), 0)
    assert RemoteTurnActivity.from_json(envelope.to_json()) == envelope
    check("RemoteTurnActivity", envelope.document())
    observed = SessionObservationEvent("s", 4, CURSOR, ActivityObserved(activity(event)), "t")
    check("RemoteSessionObservationEvent", RemoteSessionObservationEvent.of(observed, 0).document())


@pytest.mark.parametrize("payload", PAYLOADS, ids=lambda payload: type(payload).__name__)
def test_an_event_has_its_shape(payload: Any) -> None:
    observed = SessionObservationEvent("s", 4, CURSOR, payload)
    check("RemoteSessionObservationEvent", RemoteSessionObservationEvent.of(observed, 0).document())


def test_observations_cursors_and_gaps_have_their_shapes() -> None:
    check("RemoteSessionObservation", remote_observation("s", CURSOR, 3, TokenUsage()).document())
    check("RemoteSessionCursor", RemoteSessionCursor.of(CURSOR).document())
    gap = LiveReplayGap("s", CURSOR, CURSOR, 4, LiveReplayGapReason.TRIMMED)
    check("RemoteLiveReplayGap", RemoteLiveReplayGap.of(gap).document())


def test_another_version_and_another_kind_are_refused_by_the_schema_too() -> None:
    document = RemoteTurnActivity.of(activity(EVENTS[0]), 0).document()
    for bad in ({**document, "protocol_version": 2}, {**document, "type": "new"}, {**document, "more": 1}):
        with pytest.raises(jsonschema_rs.ValidationError):
            check("RemoteTurnActivity", bad)
