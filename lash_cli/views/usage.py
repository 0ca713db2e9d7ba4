"""What was spent, as a table with a bar for each row (contract 08 §5.1 `usage`).

Pure: UsageRow documents go in, lines come out. The bars are for a terminal;
without them the rows read the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lash_cli.views.tables import GAP, columns, display_width

MICROS = 1_000_000
BAR_CELLS = 24
_FEWEST_CELLS = 4
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_KEYS = ("day", "model", "session_name", "source")
_COUNTS = ("input_tokens", "cache_read_input_tokens", "output_tokens", "total_tokens")
_HEADERS = {
    "session_name": "SESSION",
    "input_tokens": "IN",
    "cache_read_input_tokens": "CACHED",
    "output_tokens": "OUT",
    "total_tokens": "TOKENS",
}


def money(micros: int | None, currency: str | None, *, is_estimate: bool = False) -> str:
    """`$0.13`, `0.13 EUR`, `~$0.13` for an estimate, `<$0.01` for less, `-` when it is not known."""
    if micros is None or currency is None:
        return "-"
    cents = -(-micros * 100 // MICROS)
    least = "<" if 0 < micros < MICROS // 100 else "~" if is_estimate else ""
    amount = f"{cents // 100}.{cents % 100:02d}"
    return f"{least}${amount}" if currency == "USD" else f"{least}{amount} {currency}"


def usage_table(
    rows: Sequence[dict[str, Any]],
    total: dict[str, Any],
    *,
    width: int | None = None,
    bars: bool = False,
    ascii_only: bool = False,
) -> str:
    """The rows and their sum, aligned; with `bars` how much of the largest row each is. Empty for no rows."""
    if not rows:
        return ""
    keys = [key for key in _KEYS if any(row[key] is not None for row in rows)]
    header = [_HEADERS.get(key, key.upper()) for key in (*keys, *_COUNTS)] + ["COST"]
    cells = [[str(row[key]) for key in keys] + _figures(row) for row in rows]
    cells.append(["total", *[""] * (len(keys) - 1), *_figures(total)])
    figures = range(len(keys), len(header))
    table = columns(header, cells, width=width, ascii_only=ascii_only, figures=figures)
    return _with_bars(table, rows, width, ascii_only=ascii_only) if bars else table


def _with_bars(table: str, rows: Sequence[dict[str, Any]], width: int | None, *, ascii_only: bool) -> str:
    """The table with a bar behind each row, on a scale for what is left of the width; without if that is too little."""
    head, *lines, last = table.split("\n")
    # A figure ends every line, so that all are as long.
    cells = BAR_CELLS if width is None else min(BAR_CELLS, width - display_width(last) - len(GAP))
    if cells < _FEWEST_CELLS:
        return table
    largest = max(row["total_tokens"] for row in rows)
    barred = [
        f"{line}{GAP}{bar(row['total_tokens'], largest, cells, ascii_only=ascii_only)}".rstrip()
        for line, row in zip(lines, rows, strict=True)
    ]
    return "\n".join((head, *barred, last))


def bar(value: int, largest: int, cells: int = BAR_CELLS, *, ascii_only: bool = False) -> str:
    """A bar of `value` on a scale of `cells` that ends at `largest`; something that is not nothing shows."""
    if value <= 0 or largest <= 0:
        return ""
    eighths = max(1, round(value / largest * cells * 8))
    if ascii_only:
        return "#" * max(1, round(eighths / 8))
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def _figures(row: dict[str, Any]) -> list[str]:
    cost = money(row["cost_micros"], row["currency"], is_estimate=row["cost_is_estimate"])
    return [f"{row[count]:,}" for count in _COUNTS] + [cost]
