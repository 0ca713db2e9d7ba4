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

# How many events before the end of the log are looked at, at most. Behind a commit there is only what others did since.
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
        events = () if tail is None else await self._newest(tail)
        committed = finished = None
        for event in events:
            if event.turn_id == turn_id and isinstance(event.payload, StateCommitted):
                committed = event.cursor
            elif _is_end(event, turn_id):
                finished = event.cursor
        return Settled(turn_id, committed, finished)

    async def _newest(self, tail: SessionCursor) -> tuple[SessionObservationEvent, ...]:
        """The last events before `tail`. What stands close before a turn may be too old to be read, and is no gap in
        what is looked for."""
        assert self._live is not None, "without a log there is no end of it"
        back = _LOOK_BACK
        while back > 0:
            begin = SessionCursor(tail.epoch, tail.revision, max(0, tail.position - back), self._session_id)
            try:
                found = await self._live.replay(begin)
            except LashError:
                return ()
            if found.gap is None:
                return found.events
            back //= 2
        return ()


def _is_end(event: SessionObservationEvent, turn_id: str) -> bool:
    payload = event.payload
    is_finish = isinstance(payload, ActivityObserved) and isinstance(payload.activity.event, TurnFinished)
    return is_finish and event.turn_id == turn_id
