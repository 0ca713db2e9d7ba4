"""What a ring carries: the few events of one transaction, so that who has everything before them need not look.

A ring may be lost, doubled, late, or meant for somebody else, and none of that
matters: events are taken from it only when they begin right behind the cursor,
in its epoch and at its revision. A position is given out once in an epoch, so
what is adjacent is also next; anything else is looked for in the store
(contract 04 §0 rule 4, §10.4). A commit is never carried: it is read with the
head it moved and the answer it stored.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from lash_cli.core.codec import decoder
from lash_cli.core.observation import ObservationPayload, SessionCursor, SessionObservationEvent
from lash_cli.store.sqlite.announcing import RING_OF_ACTIVITIES, RING_OF_CHANGES
from lash_cli.store.sqlite.live_rows import ActivityBody


class _Message(msgspec.Struct, frozen=True, gc=False, array_like=True, forbid_unknown_fields=True):
    """What stands in a message before its rows."""

    form: int
    epoch: str
    before: int
    revision: int
    at_ms: int


class _Activities(_Message, frozen=True, gc=False, array_like=True, forbid_unknown_fields=True):
    rows: tuple[tuple[str, tuple[tuple[Literal["turn_activity"], ActivityBody], ...]], ...]


class _Changes(_Message, frozen=True, gc=False, array_like=True, forbid_unknown_fields=True):
    rows: tuple[tuple[None, tuple[tuple[str, ObservationPayload], ...]], ...]


# By name, because to find one by its type costs as much as an event does.
_activities_in = decoder(_Activities).decode
_changes_in = decoder(_Changes).decode


def carried_after(message: bytes, cursor: SessionCursor) -> tuple[SessionObservationEvent, ...] | None:
    """See `LiveReading.carried`."""
    told: _Activities | _Changes
    try:
        if message.startswith(RING_OF_ACTIVITIES):
            told = _activities_in(message)
        elif message.startswith(RING_OF_CHANGES):
            told = _changes_in(message)
        else:
            return None
    except (msgspec.MsgspecError, UnicodeDecodeError):
        # Of another version of this program; the store speaks for both.
        return None
    epoch, position, revision = told.epoch, told.before, told.revision
    if position != cursor.position or epoch != cursor.epoch or revision != cursor.revision:
        return None
    session_id, at_ms = cursor.session_id, told.at_ms
    events: list[SessionObservationEvent] = []
    for turn_id, row in told.rows:
        for _, stored in row:
            position += 1
            place = SessionCursor(epoch, revision, position, session_id)
            payload = stored.whole(session_id, turn_id or "") if isinstance(stored, ActivityBody) else stored
            events.append(SessionObservationEvent(session_id, revision, place, payload, turn_id, at_ms))
    return tuple(events) or None
