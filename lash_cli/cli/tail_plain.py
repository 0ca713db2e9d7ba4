"""A tail in plain lines: off a terminal, on a dumb one, for a screen reader, and for several sessions (08 §8)."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from lash_cli.cli.documents import Document, session_status
from lash_cli.cli.output import safe, say
from lash_cli.cli.tail_plan import LineTarget, TailSink
from lash_cli.cli.tail_watched import holder_words
from lash_cli.core.observation import SessionObservationEvent
from lash_cli.system import SystemClock, is_definitely_dead
from lash_cli.views.safe_text import safe_line
from lash_cli.views.tail_picture import gap_row
from lash_cli.views.tail_text import QUIET_TYPES, Row, event_row, message_row, rewind_row, row_line
from lash_cli.views.transcript import TranscriptEntry, transcript_text

if TYPE_CHECKING:
    from lash_cli.cli.tail_watched import News, Watched
    from lash_cli.runtime.observing import ObservedGap, SessionObservation
    from lash_cli.store.base import SessionRow
    from lash_cli.views.safe_text import Clean


class PlainTail(TailSink):
    """Writes the items of a tail as lines. `types` None tells what a person follows; else exactly those."""

    def __init__(self, target: LineTarget, *, types: Collection[str] | None, raw: bool, is_prefixed: bool) -> None:
        super().__init__(target)
        self._types = types
        self._clean: Clean = str if raw else safe
        self._is_prefixed = is_prefixed

    def introduce(self, watched: Watched, row: SessionRow) -> None:
        """Say on stderr what is watched."""
        status = session_status(row, SystemClock().now_ms(), is_definitely_dead)
        turn = f" turn {row.running_turn_id}" if row.running_turn_id is not None else ""
        holder = holder_words(row)
        say(f"watching {watched.name} ({watched.session_id}): {status}{turn}{f', holder {holder}' if holder else ''}")

    def snapshot(self, watched: Watched, observation: SessionObservation) -> None:
        """The committed transcript, as `lash log` prints it."""
        watched.know(observation.read_view)
        text = transcript_text(map(TranscriptEntry, observation.read_view.messages), clean=self._clean)
        if text:
            prefix = self._prefix(watched)
            self._text.extend(f"{prefix}{line}".rstrip() + "\n" for line in text.splitlines())

    def gap(self, watched: Watched, item: ObservedGap) -> None:
        """The gap, and what was committed meanwhile."""
        view = item.observation.read_view
        now_ms = SystemClock().now_ms()
        self._put(watched, now_ms, gap_row(item.gap.reason.value, view.head_revision))
        self._news(watched, watched.news_in(view), now_ms)

    async def event(self, watched: Watched, event: SessionObservationEvent, kind: str, document: Document) -> None:
        """One event; a commit tells the messages it made permanent."""
        if kind == "committed" and (self._types is None or kind in self._types):
            self._news(watched, await watched.news(event), event.at_ms)
        if kind not in QUIET_TYPES if self._types is None else kind in self._types:
            self._put(watched, event.at_ms, event_row(kind, document, event.turn_id, self._clean))

    def holder_died(self, watched: Watched, message: str) -> None:
        """A line among the others."""
        self._put(watched, SystemClock().now_ms(), Row("holder", self._clean(message)))

    def deleted(self, watched: Watched) -> None:
        """A line among the others."""
        self._put(watched, SystemClock().now_ms(), Row("session", "was deleted"))

    def _news(self, watched: Watched, news: News, at_ms: int) -> None:
        if news.left_behind:
            self._put(watched, at_ms, rewind_row(news.left_behind, news.last_kept_id))
        for message in news.messages:
            row = message_row(message, self._clean, with_tools=False)
            if row is not None:
                self._put(watched, at_ms, row)

    def _put(self, watched: Watched, at_ms: int, row: Row) -> None:
        self._text.append(row_line(at_ms, row, self._prefix(watched)) + "\n")

    def _prefix(self, watched: Watched) -> str:
        return f"{safe_line(watched.name)}  " if self._is_prefixed else ""
