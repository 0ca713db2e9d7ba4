"""Where a turn stands in its session's live log, looked up beside the turn (contract 04 §1, 08 §6.5).

Reads only, after the commit or before the turn, so nothing here can delay or
fail it: a place that cannot be told is None. A cursor is exact or absent; one
that lies behind the event it stands for would skip what came in between.
"""

from __future__ import annotations

from lash_cli.cli.turn_stream import Settled
from lash_cli.core.activity import TurnFinished
from lash_cli.core.observation import ActivityObserved, SessionCursor, SessionObservationEvent, StateCommitted
from lash_cli.errors import LashError
from lash_cli.store.base import ReadScope
from lash_cli.store.live import LiveStore

# How many events before the end of the log are looked at. Behind a commit there is only what others did since.
_LOOK_BACK = 64


class TurnCursors:
    """Looks up cursors for the stream of one session; without a live log every answer is None."""

    def __init__(self, live: LiveStore | None, session_id: str) -> None:
        self._live = live
        self._session_id = session_id

    async def present(self) -> SessionCursor | None:
        """Everything that happens from now on comes after it."""
        if self._live is None:
            return None
        try:
            return (await self._live.cut(self._session_id, ReadScope.HEAD)).cursor
        except LashError:
            return None

    async def settled(self, turn_id: str) -> Settled:
        """Where the commit of `turn_id` stands; call it when the turn has just been committed."""
        tail = await self.present()
        if tail is None or self._live is None:
            return Settled(turn_id)
        back = max(0, tail.position - _LOOK_BACK)
        begin = SessionCursor(tail.epoch, tail.revision, back, self._session_id)
        try:
            events = (await self._live.replay(begin)).events
        except LashError:
            return Settled(turn_id)
        committed = finished = None
        for event in events:
            if event.turn_id == turn_id and isinstance(event.payload, StateCommitted):
                committed = event.cursor
            elif _is_end(event, turn_id):
                finished = event.cursor
        return Settled(turn_id, committed, finished)


def _is_end(event: SessionObservationEvent, turn_id: str) -> bool:
    payload = event.payload
    is_finish = isinstance(payload, ActivityObserved) and isinstance(payload.activity.event, TurnFinished)
    return is_finish and event.turn_id == turn_id
