"""Observation as it crosses a wire: JSON shapes with an exactly matched version (contract 04 §6.1, §6.2).

Every envelope carries `protocol_version`; a decoder looks at it before it looks
at anything else, so a newer peer is told apart from a broken one. An activity
inside an event carries the version too, and both must agree. Absent optionals
and empty collections are left out. The read view never crosses: a remote
observer learns that it changed and asks for what it needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Self

import msgspec

from lash_cli.core.activity import (
    ErrorShown,
    RetryWait,
    ToolCallCompleted,
    TurnActivity,
)
from lash_cli.core.codec import decode_any, encode, from_builtins, tag_of
from lash_cli.core.observation import (
    ActivityObserved,
    AgentFrameSwitched,
    LiveReplayGap,
    ProcessChanged,
    QueueChanged,
    ResidentChanged,
    SessionCursor,
    SessionObservationEvent,
    StateCommitted,
)
from lash_cli.core.remote_checks import (
    COUNTERS,
    DIAGNOSTIC_KINDS,
    DIAGNOSTIC_TYPE,
    require_activity,
    require_usage,
)
from lash_cli.core.tools import ToolCallOutput, ToolCancelled, ToolFailed, ToolSuccess
from lash_cli.core.usage import TokenUsage
from lash_cli.errors import (
    InvalidEnvelope,
    MismatchedNestedProtocolVersion,
    MissingRequiredField,
    UnsupportedProtocolVersion,
)

# Raised with every change of meaning, a new kind of event included.
REMOTE_PROTOCOL_VERSION: Final = 1


class _Signal(msgspec.Struct, frozen=True):
    """Nothing: that it came is all that is said."""


# What an event of each type brings beside it; an activity has an envelope of its own.
_OBSERVATION_PAYLOADS: Final[Mapping[str, type[msgspec.Struct] | None]] = {
    "turn_activity": None,
    "committed": _Signal,
    "resident_changed": ResidentChanged,
    "agent_frame_switched": AgentFrameSwitched,
    "queue_changed": QueueChanged,
    "process_changed": ProcessChanged,
}


class RemoteEnvelope(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of every envelope: validated as a whole, written and read as one JSON object."""

    # No default, so that it is written always.
    protocol_version: int

    def validate(self) -> None:
        """Raise `UnsupportedProtocolVersion` or `MissingRequiredField`."""
        if self.protocol_version != REMOTE_PROTOCOL_VERSION:
            raise UnsupportedProtocolVersion(self.protocol_version, REMOTE_PROTOCOL_VERSION)
        self._validate_fields()

    def _validate_fields(self) -> None:
        """What a subclass demands of its own fields."""

    def document(self) -> dict[str, Any]:
        """The envelope as plain JSON types."""
        document: dict[str, Any] = plain(self)
        return document

    def to_json(self) -> bytes:
        """The envelope as one line of JSON, without the line's end."""
        return encode(self.document())

    @classmethod
    def from_json(cls, data: bytes | str) -> Self:
        """Read and validate. Raises as `validate` does, and `InvalidEnvelope` for anything that is not this shape."""
        try:
            document = decode_any(data, dict[str, Any])
        except msgspec.MsgspecError as error:
            raise InvalidEnvelope(cls.__name__, str(error)) from error
        return cls.from_document(document)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """As `from_json`, from plain JSON types."""
        require_version(cls.__name__, document)
        envelope = cls._parse(document)
        envelope.validate()
        return envelope

    @classmethod
    def _parse(cls, document: Mapping[str, Any]) -> Self:
        try:
            return from_builtins(dict(document), cls)
        except msgspec.ValidationError as error:
            raise InvalidEnvelope(cls.__name__, str(error)) from error


def require_version(type_name: str, document: Mapping[str, Any]) -> None:
    """Check that `document` speaks our version; the rest of it is not looked at.

    Raises `UnsupportedProtocolVersion`, `MissingRequiredField` without a version, `InvalidEnvelope` for one that is no
    number.
    """
    version = document.get("protocol_version")
    if version is None:
        raise MissingRequiredField(type_name, "protocol_version")
    if not isinstance(version, int) or isinstance(version, bool):
        raise InvalidEnvelope(type_name, "protocol_version is not a number")
    if version != REMOTE_PROTOCOL_VERSION:
        raise UnsupportedProtocolVersion(version, REMOTE_PROTOCOL_VERSION)


def require_text(envelope: RemoteEnvelope, *fields: str) -> None:
    """Raise `MissingRequiredField` for a text that is blank."""
    for field in fields:
        if not getattr(envelope, field).strip():
            raise MissingRequiredField(type(envelope).__name__, field)


def require_counts(envelope: RemoteEnvelope, *fields: str) -> None:
    """Raise `InvalidEnvelope` for a number below zero."""
    for field in fields:
        if getattr(envelope, field) < 0:
            raise InvalidEnvelope(type(envelope).__name__, f"{field} is negative")


class RemoteSessionCursor(RemoteEnvelope, frozen=True, kw_only=True):
    """A cursor (contract 04 §6.1). Its token is checked where it is used, not here."""

    cursor: str

    def _validate_fields(self) -> None:
        require_text(self, "cursor")

    @classmethod
    def of(cls, cursor: SessionCursor) -> RemoteSessionCursor:
        """The envelope of a cursor."""
        return cls(protocol_version=REMOTE_PROTOCOL_VERSION, cursor=str(cursor))


class RemoteSessionObservation(RemoteEnvelope, frozen=True, kw_only=True):
    """Where a session stands (contract 04 §6.1). `usage` has all five counters."""

    session_id: str
    cursor: str
    turn_index: int
    usage: dict[str, int]

    def _validate_fields(self) -> None:
        require_text(self, "session_id", "cursor")
        require_counts(self, "turn_index")
        require_usage(self.usage)


class _KindEnvelope(RemoteEnvelope, frozen=True, kw_only=True):
    """An envelope in which the `fields` of its kind stand beside its own."""

    fields: dict[str, Any] = {}

    def document(self) -> dict[str, Any]:
        """See `RemoteEnvelope.document`."""
        document = super().document()
        document.update(document.pop("fields", {}))
        return document

    @classmethod
    def _parse(cls, document: Mapping[str, Any]) -> Self:
        own = {name: value for name, value in document.items() if name in cls.__struct_fields__ and name != "fields"}
        rest = {name: value for name, value in document.items() if name not in own}
        return super()._parse({**own, "fields": rest})


class RemoteTurnActivity(_KindEnvelope, frozen=True, kw_only=True):
    """One activity; the fields of its kind stand beside `type` (contract 04 §6.2). `sequence` orders within one stream
    and resumes nothing."""

    sequence: int
    id: str
    correlation_id: str
    type: str

    def _validate_fields(self) -> None:
        require_text(self, "id", "correlation_id", "type")
        require_activity(type(self).__name__, self.type, self.fields)

    @classmethod
    def of(cls, activity: TurnActivity, sequence: int) -> RemoteTurnActivity:
        """The envelope of an activity."""
        kind, fields = _activity_fields(activity)
        return cls(
            protocol_version=REMOTE_PROTOCOL_VERSION,
            sequence=sequence,
            id=activity.id,
            correlation_id=activity.correlation_id,
            type=kind,
            fields=fields,
        )


class RemoteSessionObservationEvent(_KindEnvelope, frozen=True, kw_only=True):
    """One event; the fields of its kind stand beside `type` (contract 04 §6.1)."""

    session_id: str
    revision: int
    cursor: str
    type: str
    replay_incarnation_id: str = ""
    turn_id: str | None = None

    def _validate_fields(self) -> None:
        require_text(self, "session_id", "cursor")
        require_counts(self, "revision")
        if self.type not in _OBSERVATION_PAYLOADS:
            raise InvalidEnvelope(type(self).__name__, f"unknown type {self.type!r}")
        payload = _OBSERVATION_PAYLOADS[self.type]
        if payload is not None:
            _require_payload(self, payload)
            return
        activity = self.fields.get("activity")
        if not isinstance(activity, Mapping):
            raise MissingRequiredField(type(self).__name__, "activity")
        child = activity.get("protocol_version")
        if child != self.protocol_version:
            raise MismatchedNestedProtocolVersion(
                type(self).__name__, "RemoteTurnActivity", self.protocol_version, child
            )
        RemoteTurnActivity.from_document(activity)

    @classmethod
    def of(cls, event: SessionObservationEvent, sequence: int) -> RemoteSessionObservationEvent:
        """The envelope of an event; `sequence` is given to the activity inside."""
        if isinstance(event.payload, ActivityObserved):
            fields: dict[str, Any] = {"activity": RemoteTurnActivity.of(event.payload.activity, sequence).document()}
        elif isinstance(event.payload, StateCommitted):
            fields = {}  # what its reader goes on from is the view
        else:
            fields = _fields_of(event.payload)
        return cls(
            protocol_version=REMOTE_PROTOCOL_VERSION,
            session_id=event.session_id,
            revision=event.revision,
            cursor=str(event.cursor),
            type=tag_of(event.payload),
            replay_incarnation_id=event.replay_incarnation_id,
            turn_id=event.turn_id,
            fields=fields,
        )


def _require_payload(event: RemoteSessionObservationEvent, payload: type[msgspec.Struct]) -> None:
    """Raise `MissingRequiredField` or `InvalidEnvelope` unless the fields of `event` make a `payload`; others may stand
    beside them."""
    known = payload.__struct_fields__
    for name in known:
        said = event.fields.get(name)
        if name not in event.fields or (isinstance(said, str) and not said.strip()):
            raise MissingRequiredField(type(event).__name__, name)
    try:
        from_builtins({name: event.fields[name] for name in known}, payload)
    except msgspec.ValidationError as error:
        raise InvalidEnvelope(type(event).__name__, str(error)) from error


class RemoteLiveReplayGap(RemoteEnvelope, frozen=True, kw_only=True):
    """A gap; the observation to start again from comes beside it (contract 04 §6.1)."""

    session_id: str
    requested_cursor: str
    latest_cursor: str
    latest_revision: int
    reason: str

    def _validate_fields(self) -> None:
        require_text(self, "session_id", "requested_cursor", "latest_cursor")
        require_counts(self, "latest_revision")
        if self.reason not in ("trimmed", "unavailable"):
            raise InvalidEnvelope(type(self).__name__, f"unknown reason {self.reason!r}")

    @classmethod
    def of(cls, gap: LiveReplayGap) -> RemoteLiveReplayGap:
        """The envelope of a gap."""
        return cls(
            protocol_version=REMOTE_PROTOCOL_VERSION,
            session_id=gap.session_id,
            requested_cursor=str(gap.requested_cursor),
            latest_cursor=str(gap.latest_cursor),
            latest_revision=gap.latest_revision,
            reason=gap.reason.value,
        )


def remote_observation(
    session_id: str, cursor: SessionCursor, turn_index: int, usage: TokenUsage
) -> RemoteSessionObservation:
    """The envelope of an observation."""
    return RemoteSessionObservation(
        protocol_version=REMOTE_PROTOCOL_VERSION,
        session_id=session_id,
        cursor=str(cursor),
        turn_index=turn_index,
        usage=remote_usage(usage),
    )


def remote_usage(usage: TokenUsage) -> dict[str, int]:
    """All five counters, zeros included."""
    return {counter: getattr(usage, counter) for counter in COUNTERS}


def plain(value: Any) -> Any:
    """`value` as what JSON gives back: lists, not tuples."""
    return decode_any(encode(value), Any)


def _fields_of(record: msgspec.Struct) -> dict[str, Any]:
    """The fields of a tagged record by name; absent optionals are left out."""
    fields: dict[str, Any] = {}
    for name in record.__struct_fields__:
        value = getattr(record, name)
        if value is not None:
            fields[name] = remote_usage(value) if isinstance(value, TokenUsage) else plain(value)
    return fields


def _activity_fields(activity: TurnActivity) -> tuple[str, dict[str, Any]]:
    event = activity.event
    tag = tag_of(event)
    if tag in DIAGNOSTIC_KINDS:
        return DIAGNOSTIC_TYPE, {"kind": tag, "data": _fields_of(event)}
    match event:
        case RetryWait(wait_ms=wait_ms):
            fields = _fields_of(event)
            del fields["wait_ms"]
            return tag, {**fields, "wait_seconds": wait_ms / 1000}
        case ErrorShown(issue=issue):
            return tag, {"message": issue.message}
        case ToolCallCompleted(output=output):
            return tag, {**_fields_of(event), "output": output_document(output)}
    return tag, _fields_of(event)


def output_document(output: ToolCallOutput) -> dict[str, Any]:
    """A tool's output as plain JSON: what it says, and the control only as data."""
    match output.outcome:
        case ToolSuccess(value=value):
            payload: Any = plain(value)
        case ToolFailed(failure=failure):
            payload = plain(failure)
        case ToolCancelled(cancellation=cancellation):
            payload = plain(cancellation)
    document: dict[str, Any] = {"outcome": {"status": output.status, "payload": payload}}
    if output.control is not None:
        document["control"] = plain(output.control)
    return document
