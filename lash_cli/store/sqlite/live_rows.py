"""How live events stand in rows (contract 04 §10.1): what one transaction appends is one row.

A row holds the events at `pos - count + 1 … pos` as one JSON list of pairs of
type and body. An activity leaves out what its row says anyway, because most of
them are a few characters of text.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

from lash_cli.core.activity import TurnActivity, TurnEvent
from lash_cli.core.codec import decode_any, encode
from lash_cli.core.observation import ActivityObserved, ObservationPayload, payload_type

ACTIVITY: Final = "turn_activity"
_COMMITTED: Final = "committed"
# One row stays a few pages long, so that reading a piece of the log decodes little else.
_MAX_ROW_EVENTS: Final = 64


class PreparedEvent(msgspec.Struct, frozen=True, gc=False):
    """An event encoded before the transaction that appends it."""

    type: str
    body: str
    turn_id: str | None = None


class PackedRow(NamedTuple):
    """Consecutive events of one transaction, as they are stored."""

    size: int
    turn_id: str | None
    is_commit: bool
    body: str


class ActivityBody(msgspec.Struct, frozen=True, gc=False, array_like=True, forbid_unknown_fields=True):
    """An activity without session and turn."""

    id: str
    correlation_id: str
    at_ms: int
    event: TurnEvent


_StoredEvents = tuple[tuple[str, msgspec.Raw], ...]


def prepare_event(payload: ObservationPayload, turn_id: str | None = None) -> PreparedEvent:
    """The stored form of a payload; `turn_id` is that of its activity, or the turn a commit settles."""
    kind = payload_type(payload)
    if not isinstance(payload, ActivityObserved):
        return PreparedEvent(kind, f'["{kind}",{encode(payload).decode()}]', turn_id)
    activity = payload.activity
    body = ActivityBody(activity.id, activity.correlation_id, activity.at_ms, activity.event)
    return PreparedEvent(kind, f'["{kind}",{encode(body).decode()}]', activity.turn_id)


def pack(events: Sequence[PreparedEvent]) -> Iterator[PackedRow]:
    """The rows of `events` in order: one for each turn in a row of them, and for each 64."""
    for turn_id, group in itertools.groupby(events, key=lambda event: event.turn_id):
        run = list(group)
        for start in range(0, len(run), _MAX_ROW_EVENTS):
            piece = run[start : start + _MAX_ROW_EVENTS]
            is_commit = any(event.type == _COMMITTED for event in piece)
            yield PackedRow(len(piece), turn_id, is_commit, f"[{','.join(event.body for event in piece)}]")


def payloads_of(session_id: str, turn_id: str | None, body: str, skip: int = 0) -> list[ObservationPayload]:
    """The payloads of a row without its first `skip`. Raises `msgspec.DecodeError` for a body that is none."""
    return [_payload_of(session_id, turn_id, kind, raw) for kind, raw in _stored(body)[skip:]]


def activities_of(body: str) -> Iterator[ActivityBody]:
    """The activities of a row."""
    for kind, raw in _stored(body):
        if kind == ACTIVITY:
            yield decode_any(raw, ActivityBody)


def _stored(body: str) -> _StoredEvents:
    stored: _StoredEvents = decode_any(body, _StoredEvents)
    return stored


def _payload_of(session_id: str, turn_id: str | None, kind: str, raw: msgspec.Raw) -> ObservationPayload:
    if kind != ACTIVITY:
        payload: ObservationPayload = decode_any(raw, ObservationPayload)
        return payload
    stored: ActivityBody = decode_any(raw, ActivityBody)
    return ActivityObserved(
        TurnActivity(session_id, turn_id or "", stored.correlation_id, stored.event, stored.at_ms, stored.id)
    )
