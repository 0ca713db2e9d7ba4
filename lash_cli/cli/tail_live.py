"""A tail on a terminal: a live picture under what is settled, and the keys that act on it (contract 08 §8).

The picture is drawn at most twelve times a second, whatever happens, and once a
second while nothing does, because a lease runs down and a holder can die
without a word. Picture and settled text leave in one piece, so they stay in
order on the screen. A paused picture stands still: what happens meanwhile waits
where it is read from, so nothing is missed that the live log still has.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from lash_cli.cli.documents import Document, session_status, usage_document
from lash_cli.cli.head_moves import command_here
from lash_cli.cli.invocation import current
from lash_cli.cli.output import safe
from lash_cli.cli.queue_documents import input_preview
from lash_cli.cli.signals import handling
from lash_cli.cli.tail_keys import clipboard_sequence, terminal_keys
from lash_cli.cli.tail_plan import TailSink
from lash_cli.cli.tail_watched import holder_words
from lash_cli.core.ingress import ActiveTurn
from lash_cli.core.observation import ActivityObserved, SessionObservationEvent
from lash_cli.errors import LashError
from lash_cli.system import SystemClock, is_definitely_dead
from lash_cli.views.tail_picture import ASCII_GLYPHS, Glyphs, QueueStanding, SessionStanding, TailPicture, gap_row
from lash_cli.views.tail_region import Region
from lash_cli.views.tail_text import Row, message_row, outcome_words, rewind_row, row_line, turn_end_row
from lash_cli.views.transcript import TranscriptEntry, transcript_text

if TYPE_CHECKING:
    from lash_cli.cli.following import Following
    from lash_cli.cli.tail_watched import News, Watched
    from lash_cli.runtime.observing import ObservedGap, SessionObservation
    from lash_cli.store.base import SessionRow
    from lash_cli.views.safe_text import Clean

FRAMES_PER_SECOND = 12
_RESTING_SECONDS = 1.0


class LiveTail(TailSink):
    """Shows one session on a terminal."""

    def __init__(self, following: Following, watched: Watched, *, types: Collection[str] | None, raw: bool) -> None:
        options = current().output
        super().__init__(following)
        self._following = following
        self._watched = watched
        self._types = types
        self._clean: Clean = str if raw else safe
        self._picture = TailPicture(self._clean, ASCII_GLYPHS if options.ascii else Glyphs())
        self._region = Region(color=options.color)
        self._above: list[str] = []
        # For the terminal itself: takes no place on the screen.
        self._unseen = ""
        self._now_ms = SystemClock().now_ms()
        self._changed = asyncio.Event()
        # Set once it is decided where the tail begins: whoever sees a picture misses nothing from then on.
        self._has_begun = asyncio.Event()
        # Writing waits for the terminal, so two of them could overlap.
        self._drawing = asyncio.Lock()
        self._has_ended = False
        self._going = asyncio.Event()
        self._going.set()
        self._standing = SessionStanding(watched.name, watched.session_id, "", "")
        self._turn_started: tuple[str, int | None] | None = None
        # The revision whose cost is known.
        self._counted: int | None = None

    def snapshot(self, watched: Watched, observation: SessionObservation) -> None:
        """Print the committed transcript above."""
        view = observation.read_view
        watched.know(view)
        self._picture.settle()
        text = transcript_text(map(TranscriptEntry, view.messages), clean=self._clean)
        if text:
            self._above.append(self._region.settled(text))

    def gap(self, watched: Watched, item: ObservedGap) -> None:
        """What was previewed is void; print the gap and what was committed meanwhile."""
        view, reason = item.observation.read_view, item.gap.reason.value
        now_ms = SystemClock().now_ms()
        self._picture.settle()
        self._picture.note_gap(reason, view.head_revision)
        self._print(now_ms, gap_row(reason, view.head_revision), "yellow")
        self._news(watched.news_in(view), now_ms)

    async def event(self, watched: Watched, event: SessionObservationEvent, kind: str, document: Document) -> None:
        """Fold one event; a commit prints what it made permanent and empties the picture."""
        is_wanted = self._types is None or kind in self._types
        if kind == "committed":
            news = await watched.news(event)
            self._picture.settle()
            if is_wanted:
                self._news(news, event.at_ms)
        elif kind == "turn_finished":
            if is_wanted and outcome_words(document["outcome"]) != "finished":
                self._print(event.at_ms, turn_end_row(event.turn_id, document), "yellow")
        elif is_wanted:
            key = str(event.cursor)
            if isinstance(event.payload, ActivityObserved):
                key = event.payload.activity.correlation_id
            self._picture.fold(kind, document, event.turn_id, event.at_ms, key)
            if kind in ("turn_started", "input_accepted"):
                await self._show_inputs(document["input_ids"], event.at_ms, is_accepted=kind == "input_accepted")

    async def ready(self) -> None:
        """Return when the picture is not paused."""
        await self._going.wait()

    async def flush(self) -> None:
        """What is settled is on the screen; the picture follows within a frame."""
        self._has_begun.set()
        self._changed.set()
        if self._above:
            await self._draw()

    async def end(self, watched: Sequence[Watched], reason: str, exit_status: int, error: LashError | None) -> None:
        """Take the picture back; what is settled stays."""
        async with self._drawing:
            self._has_ended = True
            above = "".join(self._above)
            self._above.clear()
            await self._following.write(self._region.take_back() + above)

    def _print(self, at_ms: int, row: Row, style: str = "") -> None:
        self._above.append(self._region.settled(row_line(at_ms, row), style))

    def _news(self, news: News, at_ms: int) -> None:
        if news.left_behind:
            self._print(at_ms, rewind_row(news.left_behind, news.last_kept_id), "yellow")
        for message in news.messages:
            row = message_row(message, self._clean, with_tools=True)
            if row is not None:
                self._print(at_ms, row)

    async def _show_inputs(self, input_ids: Sequence[str], at_ms: int, *, is_accepted: bool) -> None:
        for input_id in input_ids:
            found = await self._watched.store.turn_input(self._watched.session_id, input_id)
            if found is not None:
                self._picture.show_input(input_id, input_preview(found[0]), at_ms, is_accepted=is_accepted)

    async def run(self) -> None:
        """Draw when something changed, and once a second; take keys meanwhile."""
        with handling({signal.SIGWINCH: self._changed.set}), terminal_keys(self._key, self._resumed):
            await self._has_begun.wait()
            while True:
                self._changed.clear()
                await self._draw()
                await asyncio.sleep(1 / FRAMES_PER_SECOND)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_RESTING_SECONDS):
                        await self._changed.wait()

    def _key(self, key: str) -> None:
        """q quits, space pauses and goes on, e expands, c copies the command that cancels the turn; none of them
        changes anything but this view."""
        match key:
            case "q":
                self._following.stop()
            case " " if self._going.is_set():
                self._going.clear()
            case " ":
                self._going.set()
            case "e":
                self._picture.is_expanded = not self._picture.is_expanded
            case "c":
                self._copy_cancel()
            case _:
                return
        self._changed.set()

    def _resumed(self) -> None:
        self._region.leave()
        self._changed.set()

    def _copy_cancel(self) -> None:
        turn_id = self._standing.turn_id
        if turn_id is None:
            self._picture.note("no turn runs that could be cancelled")
            return
        # That turn and no later one.
        command = command_here("cancel", self._standing.session_id, "--turn", turn_id)
        sequence = clipboard_sequence(command)
        # No terminal says whether it took it.
        copied = "" if sequence is None else "   (copied, if this terminal allows it)"
        self._picture.note(f"cancel with: {command}{copied}")
        if sequence is not None:
            self._unseen += sequence

    async def _draw(self) -> None:
        async with self._drawing:
            if self._has_ended:
                return
            if self._going.is_set():
                self._now_ms = SystemClock().now_ms()
                await self._look()
            size = shutil.get_terminal_size()
            # One column stays free: a line that fills the last one leaves the cursor where no terminal agrees.
            standing = self._standing._replace(is_paused=not self._going.is_set())
            lines = self._picture.lines(standing, self._now_ms, width=size.columns - 1, height=size.lines)
            above, unseen = "".join(self._above), self._unseen
            self._above.clear()
            self._unseen = ""
            await self._following.write(unseen + self._region.take_back() + above + self._region.drawn(lines))

    async def _look(self) -> None:
        """Read who works on the session and what waits."""
        row = await self._watched.row()
        if row is None:
            return
        if row.head_revision != self._counted:
            self._counted = row.head_revision
            self._picture.spent(usage_document((await self._watched.observed.usage_report()).usage))
        now_ms = SystemClock().now_ms()
        status = session_status(row, now_ms, is_definitely_dead)
        self._standing = SessionStanding(
            name=row.meta.name,
            session_id=row.meta.session_id,
            model=row.config.model.id,
            status=status,
            turn_id=row.running_turn_id,
            turn_started_at_ms=await self._started_at(row.running_turn_id),
            holder=holder_words(row) if row.running_turn_id is not None or status == "running" else None,
            is_holder_dead=status == "stuck",
            lease_ms=row.lease.expires_at_ms - now_ms,
            queue=await self._queue(row),
        )

    async def _started_at(self, turn_id: str | None) -> int | None:
        if turn_id is None:
            return None
        if self._turn_started is None or self._turn_started[0] != turn_id:
            record = await self._watched.store.turn(self._watched.session_id, turn_id)
            self._turn_started = (turn_id, record.started_at_ms if record is not None else None)
        return self._turn_started[1]

    async def _queue(self, row: SessionRow) -> QueueStanding:
        is_held = row.meta.held_at_ms is not None
        if not row.pending_inputs:
            return QueueStanding(batches=row.pending_batches, is_held=is_held)
        inputs = await self._watched.store.inputs(row.meta.session_id, pending_only=True)
        enters = [
            isinstance(waiting.ingress, ActiveTurn) and waiting.ingress.turn_id == row.running_turn_id is not None
            for waiting in inputs
        ]
        later = tuple(
            (waiting.input_id, input_preview(waiting))
            for waiting, is_now in zip(inputs, enters, strict=True)
            if not is_now
        )
        return QueueStanding(sum(enters), later, row.pending_batches, is_held)
