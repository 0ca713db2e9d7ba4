"""A queue as text: what enters the running turn, what the next one takes, what is background work (contract 08 §5.2).

Pure: documents go in, one string comes out. The three kinds of demand are
rendered apart, because they are used at different moments; what is held or
settled comes last, and only where it was asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from lash_cli.views.safe_text import Clean
from lash_cli.views.tables import display_width
from lash_cli.views.times import age_since

Document = dict[str, Any]

_WAITING = ("pending_active", "deferred_next_turn", "pending")
_SETTLED = ("completed", "cancelled")


def receipt_text(document: Document, *, clean: Clean) -> str:
    """One line for a PendingInput document."""
    name = clean(document["session_name"])
    state = document["state"]
    if state in ("cancelled", "completed", "accepted"):
        what = clean(_state_words(document))
    elif document["delivery"] == "this_turn":
        what = f"enters turn {clean(document['ingress']['turn_id'])} of {name}"
    else:
        what = f"queued for the next turn of {name}"
    before = " (queued before)" if document["replayed"] else ""
    return f"{clean(document['id'])}  {what}{before}"


def _state_words(document: Document) -> str:
    turn = f" by turn {document['turn_id']}" if document["turn_id"] else ""
    state = document["state"]
    if state != "completed" or document["outcome"] is None:
        return f"{state}{turn}"
    outcome = document["outcome"]
    return f"{state}{turn}: {outcome['reason'] or outcome['type']}"


def queue_text(items: Sequence[Document], *, running_turn: str | None, now_ms: int, clean: Clean) -> str:
    """The sections of a queue that have something in them; "" for an empty one."""
    waiting = [item for item in items if item["state"] in _WAITING]
    running_turn = clean(running_turn) if running_turn is not None else None
    sections = [
        (f"enters turn {running_turn}, which runs", _of(waiting, "this_turn")),
        ("next turn", _of(waiting, "next_turn")),
        ("background work", _of(waiting, "background")),
        ("dead, waits for you", [item for item in items if item["state"] == "dead"]),
        (f"in use by turn {running_turn}" if running_turn else "in use", _in_state(items, ("accepted",))),
        ("settled", _in_state(items, _SETTLED)),
    ]
    blocks = [
        "\n".join((title, *_rows(rows, now_ms=now_ms, clean=clean, with_state=title == "settled")))
        for title, rows in sections
        if rows
    ]
    return "\n\n".join(blocks)


def _of(items: Iterable[Document], delivery: str) -> list[Document]:
    return [item for item in items if item["delivery"] == delivery]


def _in_state(items: Iterable[Document], states: tuple[str, ...]) -> list[Document]:
    return [item for item in items if item["state"] in states]


def _rows(items: Sequence[Document], *, now_ms: int, clean: Clean, with_state: bool) -> list[str]:
    """Aligned lines: id, age, state where it differs, what it says."""
    cells = [
        (clean(item["id"]), age_since(item["enqueued_at"], now_ms), *((item["state"],) if with_state else ()))
        for item in items
    ]
    widths = [max(display_width(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = []
    for item, row in zip(items, cells, strict=True):
        aligned = "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        lines.append(f"  {aligned}  {clean(item['preview'])}".rstrip())
    return lines


def batches_cells(batch: Document, now_ms: int) -> tuple[str, ...]:
    """The table row of a batch: id, state, class, attempts, age, last error, what it is."""
    return (
        batch["id"],
        batch["state"],
        batch["class"],
        str(batch["attempts"]),
        age_since(batch["enqueued_at"], now_ms),
        batch["last_error"] or "-",
        batch["preview"],
    )


def item_text(item: Document, *, clean: Clean) -> str:
    """One input in full: what is known about it, then its text."""
    where = "the turn that runs" if item["delivery"] == "this_turn" else "the next turn"
    rows = [
        ("session", f"{clean(item['session_name'])}  {clean(item['session'])}"),
        ("state", item["state"]),
        ("for", where if item["state"] in _WAITING else None),
        ("turn", clean(item["turn_id"]) if item["turn_id"] else None),
        ("key", clean(item["key"]) if item["key"] else None),
        ("enqueued", item["enqueued_at"]),
    ]
    head = [f"{label:<10}{value}" for label, value in rows if value is not None]
    return "\n".join((clean(item["id"]), *head, "", *(_item_lines(part, clean) for part in item["items"])))


def _item_lines(part: Document, clean: Clean) -> str:
    if part["type"] != "text":
        source = part["attachment"]
        name = source.get("label") or source.get("url")
        return f"[attachment {clean(name)}]" if name else "[attachment]"
    label = f"[{clean(part['label'])}]\n" if part["label"] else ""
    return label + clean(part["text"])
