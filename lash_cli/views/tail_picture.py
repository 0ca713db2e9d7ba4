"""The live picture of one session: events go in, at most ten lines come out (contract 08 §8).

Pure. What a turn shows stands here under its correlation id until it is
settled: a retraction removes exactly the text it names, and a commit removes
all of it, because then the read view says what became of it. A picture never
says that a writer thinks when its holder is known to be dead.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from lash_cli.views.counts import short_count
from lash_cli.views.safe_text import Clean, preview, safe_line
from lash_cli.views.tables import display_width, truncate
from lash_cli.views.tail_text import LABEL_WIDTH, Row, clock, event_row, tool_words, whole_tool_text
from lash_cli.views.times import stopwatch

MAX_LINES = 10
_FRAME_LINES = 5  # header, rule, queue, usage, gap
_KEPT_ROWS = 32
_KEPT_TEXT = 4_000
_MINIMUM_WIDTH = 20
_INDENT = len("12:03:11") + LABEL_WIDTH + 2
_QUEUED_PREVIEW = 40


class Glyphs(NamedTuple):
    """The few marks that are not letters."""

    rule: str = "─"
    now: str = "◆"
    later: str = "◇"
    caret: str = "▌"
    ellipsis: str = "…"
    dot: str = " · "
    arrow: str = "→"


ASCII_GLYPHS = Glyphs("-", "now", "next", "_", "...", " | ", "->")


class Line(NamedTuple):
    """One line of the picture and the style it is shown in."""

    text: str
    style: str = ""


class QueueStanding(NamedTuple):
    """What waits: for the turn that runs, for the next one (id and preview), and background work."""

    this_turn: int = 0
    next_turn: tuple[tuple[str, str], ...] = ()
    batches: int = 0
    is_held: bool = False


class SessionStanding(NamedTuple):
    """What the session's row says at this moment."""

    name: str
    session_id: str
    model: str
    status: str
    turn_id: str | None = None
    turn_started_at_ms: int | None = None
    holder: str | None = None
    is_holder_dead: bool = False
    lease_ms: int = 0
    queue: QueueStanding = QueueStanding()
    is_paused: bool = False


class _Shown:
    """One row of live text or of a tool; `whole` is what an expanded picture shows of it, "" when that is `text`."""

    __slots__ = ("at_ms", "is_growing", "label", "text", "whole")

    def __init__(self, at_ms: int, label: str, text: str, *, whole: str = "") -> None:
        self.at_ms = at_ms
        self.label = label
        self.text = text
        self.whole = whole
        self.is_growing = False


class TailPicture:
    """What is not settled yet, and the counts beside it."""

    def __init__(self, clean: Clean, glyphs: Glyphs) -> None:
        self._clean = clean
        self._glyphs = glyphs
        self._rows: dict[str, _Shown] = {}
        self._step: int | None = None
        self._retries = 0
        self._committed: dict[str, Any] = {}
        self._running: dict[str, Any] = {}
        self._children = 0
        self._gap: str | None = None
        self._note: str | None = None
        self.is_expanded = False

    def fold(self, kind: str, document: dict[str, Any], turn_id: str | None, at_ms: int, key: str) -> None:
        """Take one event; `key` is its correlation id, or something as unique."""
        match kind:
            case "text_delta":
                self._grow(key, at_ms, "assistant", document["text"])
            case "reasoning_delta":
                self._grow(key, at_ms, "reasoning", document["text"])
            case "attempt_reset":
                for gone in (*document["text_ids"], *document["reasoning_ids"]):
                    self._rows.pop(gone, None)
            case "model_request_started":
                self._stop_growing()
                self._step = document["iteration"] + 1
            case "tool_progress":
                self._progress(document)
            case "tool_started" | "tool_completed":
                self._stop_growing()
                running = f" {self._glyphs.ellipsis}" if kind == "tool_started" else ""
                words = tool_words(kind, document, self._clean) + running
                whole = self._clean(whole_tool_text(document))[:_KEPT_TEXT]
                self._put(f"tool:{document['call_id']}", at_ms, "tool", words, whole)
            case "usage":
                self._running = document["cumulative"]
            case "child_usage":
                self._children += document["usage"]["total_tokens"]
            case "committed" | "resident_changed" | "turn_finished":
                return
            case _:
                self._other(kind, document, turn_id, at_ms, key)

    def _other(self, kind: str, document: dict[str, Any], turn_id: str | None, at_ms: int, key: str) -> None:
        if kind == "turn_started":
            self._step, self._retries, self._children, self._running = None, 0, 0, {}
        elif kind == "retry":
            self._retries += 1
        row = event_row(kind, document, turn_id, self._clean)
        self._put(key, at_ms, row.label, row.text)

    def show_input(self, input_id: str, text: str, at_ms: int, *, is_accepted: bool) -> None:
        """The text of an input that the turn took."""
        note = ""
        if is_accepted:
            note = f"   (queued input {input_id} accepted" + (f" at step {self._step})" if self._step else ")")
        self._put(f"input:{input_id}", at_ms, "user", self._clean(text) + note)

    def settle(self) -> None:
        """Everything shown so far is settled or void."""
        self._rows.clear()
        self._running = {}
        self._step = None
        self._gap = None
        self._note = None

    def note(self, text: str) -> None:
        """Say something beside what happens, until the next commit."""
        self._note = text

    def spent(self, usage: dict[str, Any]) -> None:
        """What the session has cost, as far as it is committed."""
        self._committed = usage

    def note_gap(self, reason: str, revision: int | None) -> None:
        """Live text was missed; the picture starts again from `revision`."""
        at = "nothing committed" if revision is None else f"revision {revision}"
        self._gap = f"!! gap ({reason}) {self._glyphs.arrow} resynced at {at}"

    def _put(self, key: str, at_ms: int, label: str, text: str, whole: str = "") -> None:
        known = self._rows.get(key)
        self._rows[key] = _Shown(known.at_ms if known else at_ms, label, text, whole=whole)
        while len(self._rows) > _KEPT_ROWS:
            del self._rows[next(iter(self._rows))]

    def _grow(self, key: str, at_ms: int, label: str, text: str) -> None:
        known = self._rows.get(key)
        if known is None:
            self._stop_growing()
            self._put(key, at_ms, label, "")
            known = self._rows[key]
        known.text = (known.text + self._clean(text))[-_KEPT_TEXT:]
        known.is_growing = True

    def _stop_growing(self) -> None:
        for shown in self._rows.values():
            shown.is_growing = False

    def _progress(self, document: dict[str, Any]) -> None:
        shown = self._rows.get(f"tool:{document['call_id']}")
        if shown is not None:
            said = self._clean(preview(document["text"], _QUEUED_PREVIEW))
            shown.text = f"{shown.text.partition(' | ')[0]} | {said}"

    def lines(self, standing: SessionStanding, now_ms: int, *, width: int, height: int) -> list[Line]:
        """The picture for a terminal of this size: never wider, and fewer lines than it has; at most ten unless it is
        expanded."""
        width = max(_MINIMUM_WIDTH, width)
        room = max(2, height - 1 if self.is_expanded else min(MAX_LINES, height - 1))
        ends: list[Line] = []
        ends.append(Line(self._queue_line(standing.queue), "dim"))
        ends.append(Line(self._usage_line(), "dim"))
        if self._gap is not None:
            ends.insert(0, Line(self._gap, "bold yellow"))
        if self._note is not None:
            ends.append(Line(self._note))
        head = [self._header(standing, now_ms, width), Line(self._glyphs.rule * width, "dim")]
        if room < _FRAME_LINES + 1:
            # Too low for everything: who works, and the newest row, or what somebody has just asked for.
            newest = self._row_lines(standing, room - 1, width) if self._note is None else [Line(self._note)]
            return self._cut([head[0], *newest], width)
        rows = self._row_lines(standing, room - len(head) - len(ends), width)
        return self._cut([*head, *rows, *ends], width)

    def _cut(self, lines: list[Line], width: int) -> list[Line]:
        mark = self._glyphs.ellipsis
        return [Line(truncate(safe_line(line.text), width, mark), line.style) for line in lines]

    def _header(self, standing: SessionStanding, now_ms: int, width: int) -> Line:
        """The slots in their order; where they do not all fit, the less important ones give way."""
        dead, started_at_ms = standing.is_holder_dead, standing.turn_started_at_ms
        turn = standing.turn_id and f"turn {standing.turn_id}" + (f" step {self._step}" if self._step else "")
        slots: list[tuple[float, str | None]] = [
            (0, self._clean(standing.name)),
            (6, standing.session_id),
            (5, self._clean(standing.model)),
            (1, standing.status),
            (0.7, "paused" if standing.is_paused else None),
            (3, turn),
            (4, None if dead or started_at_ms is None else stopwatch(now_ms - started_at_ms)),
            # That nobody works on it any more is the last thing to give way.
            (0.5 if dead else 2, _holder(standing)),
            (4.5, None if dead or standing.holder is None else f"lease {max(0, standing.lease_ms) // 1000}s"),
        ]
        chosen = {slot for slot in slots if slot[1]}
        while len(chosen) > 1 and _slots_width(chosen) > width:
            chosen.discard(max(chosen, key=lambda slot: slot[0]))
        text = "  ".join(str(slot[1]) for slot in slots if slot in chosen)
        return Line(text, "bold red" if dead else "bold")

    def _row_lines(self, standing: SessionStanding, room: int, width: int) -> list[Line]:
        """The newest rows; text that still grows takes the lines the others leave."""
        shown = [row for row in self._rows.values() if row.text.strip()]
        if not shown or room < 1:
            return []
        newest = shown[-1]
        is_alive = newest.is_growing and not standing.is_holder_dead
        if self.is_expanded:
            caret = self._glyphs.caret if is_alive else ""
            whole = [(row, (row.whole or row.text).rstrip() + (caret if row is newest else "")) for row in shown]
            return [line for row, text in whole for line in self._whole_lines(row, text, width)][-room:]
        text = newest.text.rstrip() + (self._glyphs.caret if is_alive else "")
        pieces = _wrapped(text, max(1, width - _INDENT)) if newest.is_growing else [preview(text, 1_000)]
        others = shown[:-1][-max(0, room - min(len(pieces), max(1, room - 1))) :] if room > 1 else []
        pieces = pieces[-max(1, room - len(others)) :]
        lines = [self._row_line(row.at_ms, row.label, preview(row.text, 1_000)) for row in others]
        lines.append(self._row_line(newest.at_ms, newest.label, pieces[0]))
        lines.extend(Line(" " * _INDENT + piece) for piece in pieces[1:])
        return lines

    def _whole_lines(self, row: _Shown, text: str, width: int) -> list[Line]:
        first, *rest = _wrapped(text, max(1, width - _INDENT))
        return [self._row_line(row.at_ms, row.label, first), *(Line(" " * _INDENT + piece) for piece in rest)]

    def _row_line(self, at_ms: int, label: str, text: str) -> Line:
        return Line(f"{clock(at_ms)} {label:<{LABEL_WIDTH}} {text}", "dim" if label == "reasoning" else "")

    def _queue_line(self, queue: QueueStanding) -> str:
        glyphs = self._glyphs
        counts = f"queue   {glyphs.now} {queue.this_turn}   {glyphs.later} {len(queue.next_turn)}"
        if queue.batches:
            counts += f"   background {queue.batches}"
        if queue.is_held:
            counts += "   held"
        waiting = glyphs.dot.join(
            f'{input_id} "{self._clean(preview(text, _QUEUED_PREVIEW))}"' for input_id, text in queue.next_turn[:3]
        )
        return f"{counts}  {waiting}".rstrip()

    def _usage_line(self) -> str:
        def total(key: str) -> int:
            return int(self._committed.get(key, 0)) + int(self._running.get(key, 0))

        cached = total("cache_read_input_tokens")
        entered = total("input_tokens") + cached + total("cache_write_input_tokens")
        cache = f" (cache {short_count(cached)})" if cached else ""
        return (
            f"usage   in {short_count(entered)}{cache} out {short_count(total('output_tokens'))}"
            f"   children {short_count(self._children)}   retries {self._retries}"
        )


def gap_row(reason: str, revision: int | None) -> Row:
    """A gap as a row of its own."""
    at = "nothing committed" if revision is None else f"revision {revision}"
    return Row("gap", f"({reason}) some live events were missed; resynced at {at}")


def _holder(standing: SessionStanding) -> str | None:
    if standing.is_holder_dead:
        return f"dead: {standing.holder or 'its holder'}"
    return None if standing.holder is None else f"holder {standing.holder}"


def _slots_width(slots: set[tuple[float, str | None]]) -> int:
    return sum(display_width(str(text)) for _, text in slots) + 2 * (len(slots) - 1)


def _wrapped(text: str, width: int) -> list[str]:
    """`text` cut into pieces of at most `width` cells, at spaces where there are some."""
    pieces: list[str] = []
    for line in text.splitlines() or [""]:
        piece = ""
        for word in line.split(" "):
            joined = f"{piece} {word}" if piece else word
            if display_width(joined) <= width:
                piece = joined
                continue
            if piece:
                pieces.append(piece)
            while display_width(word) > width:
                head = truncate(word, width, "") or word[:1]
                pieces.append(head)
                word = word[len(head) :]
            piece = word
        pieces.append(piece)
    return pieces
