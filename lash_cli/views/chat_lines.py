"""The few lines around the prompt of a chat: what waits, and the toolbar (contract 08 §7.1).

Pure: a standing goes in, text comes out, never wider than the terminal. What a
person wrote is cut to one line and made safe by the caller's `clean`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from lash_cli.views.counts import short_count
from lash_cli.views.safe_text import Clean, preview, safe_line
from lash_cli.views.tables import display_width, truncate
from lash_cli.views.times import stopwatch

PREVIEW_CHARS = 48


class ChatGlyphs(NamedTuple):
    """The marks that are not letters."""

    now: str = "◆"
    later: str = "◇"
    arrow: str = "↳"
    prompt: str = "❯"
    says: str = "▸"
    running: str = "▶"
    bar: str = " │ "
    dot: str = " · "
    ellipsis: str = "…"


ASCII_CHAT_GLYPHS = ChatGlyphs("now:", "next:", "-", ">", ">", "*", " | ", " - ", "...")


class Waiting(NamedTuple):
    """One input that waits: whether it enters the running turn, and what it says."""

    input_id: str
    is_now: bool
    text: str
    has_attachment: bool = False


class ToolbarStanding(NamedTuple):
    """What the toolbar may say. Nothing is shown of what is None."""

    model: str
    context_tokens: int | None = None
    context_window: int | None = None
    turn: int | None = None
    step: int | None = None
    elapsed_ms: int | None = None
    status: str = "idle"
    waits_now: int = 0
    waits_next: int = 0
    background: int = 0
    is_held: bool = False
    lease_ms: int | None = None
    holder: str | None = None
    cost: str | None = None
    hint: str = ""


def waiting_lines(waits: Sequence[Waiting], glyphs: ChatGlyphs, clean: Clean, *, width: int) -> list[str]:
    """One line for what enters the running turn and one for what the next turn takes; none for an empty queue."""
    lines = []
    sections = ((True, glyphs.now, "will send in this turn"), (False, glyphs.later, "queued for next turn"))
    for is_now, mark, words in sections:
        texts = [waiting.text for waiting in waits if waiting.is_now is is_now]
        if texts:
            more = f"   +{len(texts) - 1} more" if len(texts) > 1 else ""
            first = clean(preview(texts[0], PREVIEW_CHARS))
            line = f"  {mark} {words}{glyphs.dot}{len(texts)}   {glyphs.arrow} {first}{more}"
            lines.append(truncate(safe_line(line), max(1, width), glyphs.ellipsis))
    return lines


# What gives way first where not everything fits: the highest number.
_GIVES_WAY = {"turn": 0, "queue": 1, "hint": 2, "model": 3, "ctx": 4, "lease": 5, "cost": 6}


def toolbar_text(standing: ToolbarStanding, slots: Sequence[str], glyphs: ChatGlyphs, *, width: int) -> str:
    """The slots in their order, the turn behind the first two, and the hint; what does not fit gives way."""
    made = {
        "model": standing.model,
        "ctx": _context(standing),
        "turn": _turn(standing, glyphs),
        "queue": _queue(standing),
        "lease": _lease(standing),
        "cost": standing.cost,
        "hint": standing.hint,
    }
    shown = [name for name in (*slots[:2], "turn", *slots[2:], "hint") if made.get(name)]
    while True:
        text = " " + glyphs.bar.join(safe_line(made[name] or "") for name in shown)
        if len(shown) <= 1 or display_width(text) <= width:
            return truncate(text, max(1, width), glyphs.ellipsis)
        shown.remove(max(shown, key=lambda name: _GIVES_WAY[name]))


def _context(standing: ToolbarStanding) -> str | None:
    tokens, window = standing.context_tokens, standing.context_window
    if tokens is None:
        return None
    return f"ctx {round(100 * tokens / window)}%" if window else f"ctx {short_count(tokens)}"


def _queue(standing: ToolbarStanding) -> str | None:
    if not (standing.waits_now or standing.waits_next or standing.background or standing.is_held):
        return None
    text = f"queue {standing.waits_now}+{standing.waits_next}"
    if standing.background:
        text += f" +{standing.background} background"
    return f"{text} held" if standing.is_held else text


def _lease(standing: ToolbarStanding) -> str | None:
    if standing.lease_ms is None:
        return None
    lease = f"lease {max(0, standing.lease_ms) // 1000}s"
    return f"{lease} {standing.holder}" if standing.holder else lease


def _turn(standing: ToolbarStanding, glyphs: ChatGlyphs) -> str | None:
    if standing.elapsed_ms is None:
        return standing.status
    step = f" step {standing.step}" if standing.step else ""
    turn = f" turn {standing.turn}" if standing.turn is not None else ""
    word = "" if standing.status == "running" else f" {standing.status}"
    return f"{glyphs.running}{turn}{step}{word} {stopwatch(standing.elapsed_ms)}"
