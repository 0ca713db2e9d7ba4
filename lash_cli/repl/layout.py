"""The few windows around the prompt, top to bottom: what grows, what waits, the question, the draft, the toolbar."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from prompt_toolkit.filters import Condition, is_done
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.layout import (
    BufferControl,
    ConditionalContainer,
    Dimension,
    Float,
    FloatContainer,
    FormattedTextControl,
    HSplit,
    Layout,
    Window,
)
from prompt_toolkit.layout.menus import CompletionsMenu
from prompt_toolkit.layout.processors import BeforeInput, HighlightIncrementalSearchProcessor
from prompt_toolkit.layout.screen import Char
from prompt_toolkit.styles import Style
from prompt_toolkit.widgets import SearchToolbar

from lash_cli.repl.panels import Panel, panel_lines
from lash_cli.views.chat_lines import ToolbarStanding, toolbar_text, waiting_lines
from lash_cli.views.safe_text import safe_line, safe_text
from lash_cli.views.tables import truncate

if TYPE_CHECKING:
    from lash_cli.repl.terminal import PromptFace

# What reorders the text around it, or ends its line. prompt_toolkit shows control characters as such, but not these.
_MARKS = (0x61C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A))

Fragments = Callable[[], list[tuple[str, str]]]

MENU_ROWS = 6
_GROWING_SHARE = 3
# A terminal of fewer rows has none for what grows while a question stands.
_ROWS_FOR_BOTH = 10


def chat_style() -> Style:
    """Colours of the terminal's own palette; where there is no colour the words say it all."""
    return Style.from_dict(
        {
            "prompt": "bold",
            "waits": "ansicyan",
            "notice": "ansiyellow",
            "panel": "bold",
            "tool": "ansibrightblack",
            "dim": "ansibrightblack italic",
            "bar": "ansibrightblack",
        }
    )


def chat_layout(face: PromptFace) -> Layout:
    """The layout of a face. Has this process show every mark that it would not draw as a character."""
    Char.display_mappings.update({chr(mark): safe_line(chr(mark)) for mark in _MARKS})
    search = SearchToolbar()
    prompt = Window(
        BufferControl(
            buffer=face.buffer,
            input_processors=[
                HighlightIncrementalSearchProcessor(),
                BeforeInput(lambda: [("class:prompt", face.prompt)]),
            ],
            search_buffer_control=search.control,
            preview_search=True,
        ),
        wrap_lines=True,
        # Below it there is the toolbar.
        height=lambda: Dimension(min=min(1 + MENU_ROWS, _size(face)[1] - 1) if face.has_suggestions else 1),
    )
    body = HSplit(
        [
            _lines(face, lambda: _growing(face)),
            # Of a list the first ones are the newest.
            _lines(face, lambda: _around(face), from_top=lambda: _is_list(face.questions.panel)),
            prompt,
            search,
            ConditionalContainer(
                Window(FormattedTextControl(lambda: [("class:bar", face.shown(toolbar(face)))]), height=1), ~is_done
            ),
        ]
    )
    menu = Float(CompletionsMenu(max_height=MENU_ROWS, scroll_offset=1), xcursor=True, ycursor=True)
    return Layout(FloatContainer(body, [menu]), focused_element=face.buffer)


def _lines(face: PromptFace, make: Fragments, from_top: Callable[[], bool] = lambda: False) -> ConditionalContainer:
    """Lines of which the last ones are shown where there is no room for all, or the first ones."""

    def text() -> StyleAndTextTuples:
        joined: StyleAndTextTuples = []
        for style, line in make():
            joined += [("", "\n")] if joined else []
            joined.append((f"class:{style}" if style else "", face.shown(line)))
        return joined if from_top() else [*joined, ("[SetCursorPosition]", "")]

    window = Window(FormattedTextControl(text), wrap_lines=True, dont_extend_height=True)
    return ConditionalContainer(window, Condition(lambda: bool(make())) & ~is_done)


def _is_list(panel: Panel | None) -> bool:
    return panel is not None and panel.is_list


def _size(face: PromptFace) -> tuple[int, int]:
    size = face.app.output.get_size()
    return max(20, size.columns), max(4, size.rows)


def _growing(face: PromptFace) -> list[tuple[str, str]]:
    _, rows = _size(face)
    if rows < _ROWS_FOR_BOTH and face.questions.panel is not None:
        return []
    watch, mark = face.client.watch, face.options.glyphs.says
    lines = watch.picture.lines(watch.now_ms(), room=max(1, rows // _GROWING_SHARE))
    return [(style, f"  {mark} {line}" if style == "tool" else f"  {line}") for style, line in lines]


def _around(face: PromptFace) -> list[tuple[str, str]]:
    client, glyphs = face.client, face.options.glyphs
    columns, _ = _size(face)
    waiting = waiting_lines(client.watch.waiting, glyphs, safe_text, width=columns - 1)
    lines = [("waits", line) for line in waiting]
    if client.attachments:
        names = ", ".join(os.path.basename(name) for name in client.outbox.draft.attached)
        lines.append(("waits", truncate(f"  + {safe_line(names)}", columns - 1, glyphs.ellipsis)))
    if client.is_cancelling:
        lines.append(("notice", f"  cancelling{glyphs.ellipsis}"))
    elif client.waiting_notice is not None:
        lines.append(("notice", f"  {client.waiting_notice}"))
    if (panel := face.questions.panel) is not None:
        lines += [
            ("panel", line)
            for line in panel_lines(
                panel, is_open=face.questions.is_answerable, has_draft=bool(face.buffer.text.strip())
            )
        ]
    return lines


def toolbar(face: PromptFace) -> str:
    """The toolbar at this moment."""
    client, watch = face.client, face.client.watch
    row, now_ms = watch.row, watch.now_ms()
    turn = client.turn_standing()
    running = watch.running if turn in ("own", "foreign") else None
    prompt_usage = row.turn_state.last_prompt_usage
    hints = {
        "own": "Esc stop · Tab queue",
        "foreign": "Esc stop · Tab queue",
        "stuck": "Enter finishes the interrupted turn",
        "none": "/help",
    }
    variant = getattr(row.config.model.variant, "effort", None)
    waits_now = sum(waiting.is_now for waiting in watch.waiting)
    standing = ToolbarStanding(
        model=row.config.model.id + (f" {variant}" if variant else ""),
        context_tokens=prompt_usage.context_budget_tokens if prompt_usage is not None else None,
        context_window=row.config.model.limits.context_window_tokens,
        turn=running.turn_index if running is not None else None,
        step=watch.picture.step if running is not None else None,
        elapsed_ms=now_ms - running.started_at_ms if running is not None else None,
        status="cancelling" if client.is_cancelling else "running" if turn in ("own", "foreign") else watch.status,
        waits_now=waits_now,
        waits_next=len(watch.waiting) - waits_now,
        background=row.pending_batches,
        is_held=row.meta.held_at_ms is not None,
        lease_ms=row.lease.expires_at_ms - now_ms if running is not None else None,
        holder=client.desk.holder(row) if turn in ("foreign", "stuck") else None,
        cost=watch.cost,
        hint=hints[turn],
    )
    columns, _ = _size(face)
    return toolbar_text(standing, face.options.toolbar, face.options.glyphs, width=columns - 1)
