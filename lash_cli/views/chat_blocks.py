"""Settled blocks of a chat as terminal text (contract 08 §7.1).

Rich makes the text and this hands it on as a string: whoever owns the terminal
writes it. In plain form every block begins with who says it, in words, and
holds no escape sequence.
"""

from __future__ import annotations

import io
from typing import Any

from lash_cli.views.chat_lines import ChatGlyphs
from lash_cli.views.chat_picture import Block

_LABELS = {"user": "you", "assistant": "assistant"}
_STYLES = {"user": "bold cyan", "assistant": "bold", "tool": "dim", "note": "yellow", "error": "bold red"}


def plain_block(block: Block) -> str:
    """The block as lines for a terminal without redraw or for a screen reader."""
    if block.continues:
        return f"{block.text}\n"
    return f"{block.kind}: {block.text}\n"


def rich_block(block: Block, glyphs: ChatGlyphs, *, color: bool, width: int) -> str:
    """The block as text with escape sequences for a terminal of `width` columns; answers are Markdown."""
    from rich.console import Console
    from rich.markdown import Markdown
    from rich.padding import Padding
    from rich.text import Text

    file = io.StringIO()
    console = Console(
        file=file, force_terminal=True, no_color=not color, highlight=False, width=max(20, width), legacy_windows=False
    )
    style = _STYLES[block.kind]
    if block.kind == "assistant":
        if not block.continues:
            console.print(Text(f"{_LABELS['assistant']} {glyphs.says}", style=style))
        console.print(Padding(Markdown(block.text, hyperlinks=False), (0, 0, 0, 2)))
    elif block.kind == "user":
        console.print()
        _print_labelled(console, f"{_LABELS['user']} {glyphs.says} ", block.text, style)
    else:
        mark = f"  {glyphs.says} " if block.kind == "tool" else "  "
        said = f"error: {block.text}" if block.kind == "error" else block.text
        first, *rest = said.split("\n")
        console.print(Text("\n".join([mark + first, *(" " * len(mark) + line for line in rest)]), style=style))
    return file.getvalue()


def _print_labelled(console: Any, label: str, text: str, style: str) -> None:
    from rich.text import Text

    first, *rest = text.split("\n")
    line = Text(label, style=style)
    line.append(first, style="not bold")
    console.print(line)
    for other in rest:
        console.print(Text(" " * len(label) + other))
