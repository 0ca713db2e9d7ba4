"""The sessions of a store as one screen that is drawn again and again (contract 08 §8 `ls --watch`).

Pure: documents go in, lines come out, no wider than the terminal and no more
than it has rows. What needs a person stands first, then what runs, what waits,
and what rests; within one status the newest activity comes first. Every status
is a word, so colour only repeats it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from lash_cli.views.counts import counted
from lash_cli.views.tables import columns, truncate
from lash_cli.views.times import age_since

HEADER = ("STATUS", "NAME", "MODEL", "TURNS", "QUEUE", "ACTIVE", "ID")
# From what somebody must look at to what nobody will.
ORDER = ("waiting", "stuck", "running", "queued", "idle", "parked", "closed")

_COLOURS = {"waiting": "33", "stuck": "31", "running": "32", "queued": "36", "closed": "2", "parked": "2"}
_LINES_AROUND = 3  # the summary, an empty line, the header
# A lower terminal shows the summary and rows without a header.
_LOWEST_TABLE = 5

Session = dict[str, Any]


def in_order(items: Iterable[Session]) -> list[Session]:
    """The sessions as a watch lists them; a status it does not know comes last."""

    def rank(item: Session) -> int:
        return ORDER.index(item["status"]) if item["status"] in ORDER else len(ORDER)

    newest_first = sorted(items, key=lambda item: item["last_activity_at"], reverse=True)
    return sorted(newest_first, key=rank)


def watch_lines(
    items: Sequence[Session],
    *,
    total: int,
    now_ms: int,
    width: int | None,
    height: int | None,
    color: bool = False,
    ascii_only: bool = False,
) -> list[str]:
    """The screen. `items` are sorted, `total` counts those that were left out too; without `height` all are shown."""
    is_low = height is not None and height < _LOWEST_TABLE
    room = len(items) if height is None else max(0, height - (1 if is_low else _LINES_AROUND))
    if height is not None and (len(items) > room or total > len(items)):
        room = max(0, room - 1)
    shown = items[:room]
    lines = [_cut(_summary(items, total), width)]
    if not is_low:
        lines.append("")
    if shown:
        table = columns(HEADER, [_cells(item, now_ms) for item in shown], width=width, ascii_only=ascii_only)
        head, *rows = (_cut(line, width) for line in table.split("\n"))
        if not is_low:
            lines.append(head)
        lines += [_coloured(row, item["status"]) if color else row for row, item in zip(rows, shown, strict=True)]
    if total > len(shown) and len(lines) != height:
        lines.append(_cut(f"and {total - len(shown)} more", width))
    return lines


def _summary(items: Sequence[Session], total: int) -> str:
    counts = {status: sum(item["status"] == status for item in items) for status in ORDER}
    told = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    sessions = counted(total, "session")
    return f"{sessions}: {told}" if told else sessions


def _cells(item: Session, now_ms: int) -> tuple[str, ...]:
    waiting = item["pending_inputs"] + item["pending_batches"]
    held = " held" if item["held_at"] is not None else ""
    return (
        item["status"],
        item["name"],
        item["model"],
        str(item["turns"]),
        f"{waiting or '-'}{held}",
        age_since(item["last_activity_at"], now_ms),
        item["id"],
    )


def _coloured(row: str, status: str) -> str:
    code = _COLOURS.get(status)
    if code is None or not row.startswith(status):
        return row
    return f"\x1b[{code}m{status}\x1b[0m{row[len(status) :]}"


def _cut(line: str, width: int | None) -> str:
    # A table is as narrow as it can be read, which may be wider than the terminal.
    return line if width is None else truncate(line, width, "")
