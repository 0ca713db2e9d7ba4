"""Plain columns: the listing format that needs no library (contract 08 §6.1, §9).

Columns are as wide as their widest cell and separated by two spaces; nothing
wraps. On a terminal the last columns give way, with a mark, so that a row stays
one line; in a pipe every cell is complete.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from lash_cli.views.safe_text import ascii_text, safe_line

GAP = "  "
_ELLIPSIS = "…"
_MINIMUM_COLUMN = 4
# Marks that stand on the character before them, and format characters.
_NO_CELL = frozenset({"Mn", "Me", "Cf"})


def display_width(text: str) -> int:
    """How many terminal cells `text` takes: wide characters take two, combining marks none."""
    if text.isascii():
        return len(text)
    from unicodedata import category, east_asian_width  # a library of its own; most text does without (design D16)

    return sum(0 if category(c) in _NO_CELL else 2 if east_asian_width(c) in "WF" else 1 for c in text)


def truncate(text: str, width: int, mark: str = _ELLIPSIS) -> str:
    """`text` cut to `width` cells, ending with `mark` when something was cut."""
    if display_width(text) <= width:
        return text
    kept: list[str] = []
    room = width - display_width(mark)
    for character in text:
        room -= display_width(character)
        if room < 0:
            break
        kept.append(character)
    return "".join(kept) + mark if width >= display_width(mark) else mark[:width]


def columns(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    width: int | None = None,
    ascii_only: bool = False,
    figures: Collection[int] = (),
) -> str:
    """Aligned lines with the header first; no trailing newline. `width` None never truncates. The columns of these
    numbers hold `figures`, which stand against their right edge."""
    mark = "..." if ascii_only else _ELLIPSIS
    # What `--ascii` makes of a character is longer than it, so it is made before anything is measured.
    shown = (lambda cell: ascii_text(safe_line(cell))) if ascii_only else safe_line
    cells = [[shown(cell) for cell in row] for row in (header, *rows)]
    widths = [max(display_width(row[index]) for row in cells) for index in range(len(header))]
    if width is not None and width > 0:
        _shrink(widths, width)
    lines = []
    for row in cells:
        padded = [
            _padded(truncate(cell, size, mark), size, is_figure=index in figures)
            for index, (cell, size) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(GAP.join(padded).rstrip())
    return "\n".join(lines)


def _padded(cell: str, size: int, *, is_figure: bool) -> str:
    blanks = " " * (size - display_width(cell))
    return blanks + cell if is_figure else cell + blanks


def _shrink(widths: list[int], available: int) -> None:
    """Take what is too much from the widest column first, so that short ones stay complete."""
    excess = sum(widths) + len(GAP) * (len(widths) - 1) - available
    while excess > 0:
        widest = max(range(len(widths)), key=lambda index: widths[index])
        if widths[widest] <= _MINIMUM_COLUMN:
            return
        widths[widest] -= 1
        excess -= 1


def pairs(rows: Sequence[tuple[str, str]]) -> str:
    """`name   value` lines with aligned values; the text form of one thing. Line feeds in a value stay visible."""
    if not rows:
        return ""
    size = max(display_width(name) for name, _ in rows)
    return "\n".join(
        f"{safe_line(name)}{' ' * (size - display_width(name))}{GAP}{safe_line(value)}".rstrip() for name, value in rows
    )
