"""How live events stand in rows (contract 04 §10.1): what one transaction appends is one row.

A row holds the events at `pos - count + 1 … pos` as one JSON list of pairs of
type and body. An activity leaves out what its row says anyway, because most of
them are a few characters of text. A row's place is the session key above 40 bits
of position.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Final

import msgspec

from lash_cli.core.activity import AssistantProseDelta, ModelAttemptReset, ReasoningShown, TurnActivity, TurnEvent
from lash_cli.core.codec import decoder, encode, tag_of
from lash_cli.core.observation import (
    ActivityObserved,
    AgentFrameSwitched,
    ObservationPayload,
    ProcessChanged,
    QueueChanged,
    ResidentChanged,
)
from lash_cli.store.sqlite.places import LAST_POSITION, POSITION_BITS

ACTIVITY: Final = "turn_activity"

# Where the newest row of the session `s` ends, in a statement that reads `sessions s`; NULL while it has none.
NEWEST: Final = f"""
SELECT place & {LAST_POSITION} FROM live_row
WHERE place BETWEEN (s.session_key << {POSITION_BITS}) AND (s.session_key << {POSITION_BITS}) + {LAST_POSITION}
ORDER BY place DESC LIMIT 1
"""

# One row stays a few pages long, so that reading a piece of the log decodes little else.
_MAX_ROW_EVENTS: Final = 64

# Behind what the next event is appended: the generation of the log, the last position lost in it, and the end of its
# newest row, None when it has no row.
LogEnd = tuple[str, int, int | None]


class PackedRow(msgspec.Struct, frozen=True, gc=False):
    """Consecutive events of one transaction, encoded as they are stored."""

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

    def whole(self, session_id: str, turn_id: str) -> ActivityObserved:
        """The activity with its session and turn."""
        activity = TurnActivity(session_id, turn_id, self.correlation_id, self.event, self.at_ms, self.id)
        return ActivityObserved(activity)


_turn_of: Final = operator.attrgetter("turn_id")

# An event as its row holds it, and as it is read from there.
StoredEvent = tuple[str, ActivityBody | ObservationPayload]
_RawEvents = tuple[tuple[str, msgspec.Raw], ...]


def packed(events: Sequence[StoredEvent], turn_id: str | None, *, is_commit: bool = False) -> PackedRow:
    """The row of `events`; `turn_id` is that of their activities, or the turn a commit settles."""
    return PackedRow(len(events), turn_id, is_commit, encode(events).decode())


def joined(first: PackedRow, second: PackedRow) -> PackedRow:
    """One row of the events of both, which settles what `second` does."""
    body = f"{first.body[:-1]},{second.body[1:]}"
    return PackedRow(first.size + second.size, second.turn_id, second.is_commit, body)


def change_row(change: QueueChanged | ProcessChanged | ResidentChanged | AgentFrameSwitched) -> PackedRow:
    """The row of a change that is of no turn."""
    return packed(((tag_of(change), change),), None)


def activity_rows(activities: Sequence[TurnActivity]) -> list[PackedRow]:
    """The rows of activities in order: one for each turn in a row of them, and for each 64."""
    rows: list[PackedRow] = []
    for turn_id, group in itertools.groupby(activities, _turn_of):
        bodies = [
            (ACTIVITY, ActivityBody(activity.id, activity.correlation_id, activity.at_ms, activity.event))
            for activity in group
        ]
        for start in range(0, len(bodies), _MAX_ROW_EVENTS):
            rows.append(packed(bodies[start : start + _MAX_ROW_EVENTS], turn_id))
    return rows


def payloads_of(session_id: str, turn_id: str | None, body: str, skip: int = 0) -> list[ObservationPayload]:
    """The payloads of a row without its first `skip`. Raises `msgspec.DecodeError` for a body that is none."""
    return [_payload_of(session_id, turn_id, kind, raw) for kind, raw in _stored(body)[skip:]]


def _activities_of(body: str) -> Iterator[ActivityBody]:
    """The activities of a row."""
    for kind, raw in _stored(body):
        if kind == ACTIVITY:
            yield _activity_decoder().decode(raw)


def standing_text(bodies: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Correlation ids of prose and of reasoning that were shown and not retracted since, in order."""
    prose: dict[str, None] = {}
    reasoning: dict[str, None] = {}
    for stored in itertools.chain.from_iterable(map(_activities_of, bodies)):
        match stored.event:
            case AssistantProseDelta():
                prose[stored.correlation_id] = None
            case ReasoningShown():
                reasoning[stored.correlation_id] = None
            case ModelAttemptReset(assistant_prose_correlation_ids=gone, reasoning_correlation_ids=gone_reasoning):
                for correlation_id in gone:
                    prose.pop(correlation_id, None)
                for correlation_id in gone_reasoning:
                    reasoning.pop(correlation_id, None)
    return tuple(prose), tuple(reasoning)


def _stored(body: str) -> _RawEvents:
    stored: _RawEvents = _events_decoder().decode(body)
    return stored


# Made at first use, and kept by name: to find one by its type costs as much as a short event does.
@cache
def _events_decoder() -> msgspec.json.Decoder[_RawEvents]:
    return decoder(_RawEvents)


@cache
def _payload_decoder() -> msgspec.json.Decoder[ObservationPayload]:
    return decoder(ObservationPayload)


@cache
def _activity_decoder() -> msgspec.json.Decoder[ActivityBody]:
    return decoder(ActivityBody)


def _payload_of(session_id: str, turn_id: str | None, kind: str, raw: msgspec.Raw) -> ObservationPayload:
    if kind != ACTIVITY:
        payload: ObservationPayload = _payload_decoder().decode(raw)
        return payload
    return _activity_decoder().decode(raw).whole(session_id, turn_id or "")
