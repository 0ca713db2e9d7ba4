"""A few lines at the bottom of a terminal that are redrawn in place, under what scrolls (contract 08 §8).

No alternate screen: what is settled is printed once, above. The region never
writes into the last column and knows how many lines it drew, so it takes back
exactly those, also after the terminal changed its size. Rich makes the styles;
where the text goes is decided by whoever writes it.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from lash_cli.views.tail_picture import Line

_ERASE_BELOW = "\x1b[J"
# A picture may reach a terminal that has just become narrower: what does not fit is cut off there instead of making
# lines that nobody counted.
_CUT_OFF = "\x1b[?7l"
_WRAP = "\x1b[?7h"


class Region:
    """The lines at the bottom. Every method returns what is to be written to the terminal."""

    def __init__(self, *, color: bool) -> None:
        from rich.console import Console

        self._buffer = io.StringIO()
        self._console: Any = Console(file=self._buffer, force_terminal=True, no_color=not color, highlight=False)
        self._height = 0

    def take_back(self) -> str:
        """Remove the region; the cursor stands where it began."""
        height, self._height = self._height, 0
        if not height:
            return ""
        up = f"\x1b[{height - 1}A" if height > 1 else ""
        return f"\r{up}{_ERASE_BELOW}"

    def leave(self) -> None:
        """The region stays where it is, as text: somebody else has written to the terminal since."""
        self._height = 0

    def drawn(self, lines: Sequence[Line]) -> str:
        """The region with these lines, drawn at the cursor; each must fit into the terminal."""
        from rich.text import Text

        self._height = len(lines)
        self._console.width = 1 + max((len(line.text) * 2 for line in lines), default=0)
        for line in lines:
            self._console.print(Text(line.text, style=line.style), no_wrap=True, overflow="ignore", crop=False)
        return _CUT_OFF + self._take().removesuffix("\n") + _WRAP

    def settled(self, text: str, style: str = "") -> str:
        """Text for above the region, wrapped by the terminal itself."""
        from rich.text import Text

        self._console.print(Text(text, style=style), soft_wrap=True)
        return self._take()

    def _take(self) -> str:
        text = self._buffer.getvalue()
        self._buffer.seek(0)
        self._buffer.truncate()
        return text
