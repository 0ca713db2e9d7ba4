"""Shapes of the envelopes that cross a wire (contract 04 §6).

Unlike documents they leave out what is absent. The kinds of an activity are
those of the core, whose records name their fields; only what travels in another
form than it is recorded in is written out here.
"""

from __future__ import annotations

import functools
import operator
from typing import Any, get_args

import msgspec

from lash_cli.cli.schemas.shape import enveloped
from lash_cli.core import activity as shown
from lash_cli.core.remote import RemoteLiveReplayGap, RemoteSessionCursor
from lash_cli.core.remote_input import RemoteTurnInput
from lash_cli.core.remote_tools import RemoteToolGrant
from lash_cli.core.remote_turns import (
    RemoteTurnCancelReceipt,
    RemoteTurnCancelRequest,
    RemoteTurnRequest,
    RemoteTurnResult,
)
from lash_cli.core.usage import TokenUsage


class RemoteUsage(msgspec.Struct, kw_only=True):
    """Token counts, zeros included."""

    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int
    cache_write_input_tokens: int
    reasoning_output_tokens: int


class RemoteSessionObservation(msgspec.Struct, kw_only=True):
    """Where a session stands."""

    protocol_version: int
    session_id: str
    cursor: str
    turn_index: int
    usage: RemoteUsage


class _Activity(msgspec.Struct, kw_only=True):
    protocol_version: int
    sequence: int
    id: str
    correlation_id: str


class RetryStatus(_Activity, tag="retry_status", tag_field="type", kw_only=True):
    """A wait before another attempt."""

    wait_seconds: float
    attempt: int
    max_attempts: int
    reason: str


class ErrorActivity(_Activity, tag="error", tag_field="type", kw_only=True):
    """Something went wrong that the turn reports."""

    message: str


class RemoteToolOutcome(msgspec.Struct, kw_only=True):
    """What a call returned. `status`: success, failure or cancelled."""

    status: str
    payload: Any


class RemoteToolOutput(msgspec.Struct, kw_only=True):
    """The output of a tool."""

    outcome: RemoteToolOutcome
    control: dict[str, Any] | None = None


class ToolCallCompleted(_Activity, tag="tool_call_completed", tag_field="type", kw_only=True):
    """A call ended."""

    call_id: str
    name: str
    args: Any = None
    output: RemoteToolOutput
    duration_ms: int
    parent_call_id: str | None = None


class RuntimeDiagnostic(_Activity, tag="runtime_diagnostic", tag_field="type", kw_only=True):
    """Something that only means something to the host it comes from."""

    kind: str
    data: dict[str, Any]


_WRITTEN_OUT = (RetryStatus, ErrorActivity, ToolCallCompleted, RuntimeDiagnostic)
_OTHERWISE = (
    shown.RetryWait,
    shown.ErrorShown,
    shown.ToolCallCompleted,
    shown.QueuedWorkStarted,
    shown.QueuedInputAccepted,
    shown.PluginRuntime,
)

# A name that was printed is never changed.
_PRINTED: dict[type[msgspec.Struct], str] = {shown.FinalValueShown: "FinalValue"}


def _variant(record: type[msgspec.Struct]) -> Any:
    """The envelope of one kind of activity: its own fields beside those of every activity."""
    fields: list[Any] = []
    for field in msgspec.structs.fields(record):
        kind = RemoteUsage if field.type is TokenUsage else field.type
        can_be_absent = field.default is None or type(None) in get_args(kind) or kind is Any
        fields.append((field.encode_name, kind, None) if can_be_absent else (field.encode_name, kind))
    return enveloped(record, f"{_PRINTED.get(record, record.__name__)}Activity", _Activity, fields)


_KINDS = [_variant(record) for record in get_args(shown.TurnEvent) if record not in _OTHERWISE]
RemoteTurnActivity: Any = functools.reduce(operator.or_, (*_KINDS, *_WRITTEN_OUT))


class _Event(msgspec.Struct, kw_only=True):
    protocol_version: int
    session_id: str
    revision: int
    cursor: str
    replay_incarnation_id: str
    turn_id: str | None = None


class ActivityEvent(_Event, tag="turn_activity", tag_field="type", kw_only=True):
    """A turn showed something."""

    activity: RemoteTurnActivity


class CommittedEvent(_Event, tag="committed", tag_field="type", kw_only=True):
    """The head moved: replace every preview of the turn."""


class ResidentEvent(_Event, tag="resident_changed", tag_field="type", kw_only=True):
    """Something changed without a new revision."""


class FrameEvent(_Event, tag="agent_frame_switched", tag_field="type", kw_only=True):
    """The commit that follows makes `frame_id` the current frame."""

    frame_id: str


class QueueEvent(_Event, tag="queue_changed", tag_field="type", kw_only=True):
    """Inputs or batches came or went. `kind`: enqueued or cancelled."""

    kind: str
    batch_ids: list[str]


class ProcessEvent(_Event, tag="process_changed", tag_field="type", kw_only=True):
    """Background processes were started or cancelled. `kind`: started or cancelled."""

    kind: str
    process_ids: list[str]


RemoteSessionObservationEvent: Any = (
    ActivityEvent | CommittedEvent | ResidentEvent | FrameEvent | QueueEvent | ProcessEvent
)

KINDS: dict[str, Any] = {
    "RemoteSessionCursor": RemoteSessionCursor,
    "RemoteSessionObservation": RemoteSessionObservation,
    "RemoteSessionObservationEvent": RemoteSessionObservationEvent,
    "RemoteLiveReplayGap": RemoteLiveReplayGap,
    "RemoteTurnActivity": RemoteTurnActivity,
    "RemoteTurnInput": RemoteTurnInput,
    "RemoteToolGrant": RemoteToolGrant,
    "RemoteTurnRequest": RemoteTurnRequest,
    "RemoteTurnResult": RemoteTurnResult,
    "RemoteTurnCancelRequest": RemoteTurnCancelRequest,
    "RemoteTurnCancelReceipt": RemoteTurnCancelReceipt,
}
# What a union of records cannot say of itself.
TEXTS: dict[str, str] = {
    "RemoteTurnActivity": "One activity of a turn, by its `type`. `sequence` orders within one stream.",
    "RemoteSessionObservationEvent": "One event of a session's live log, by its `type`.",
}
