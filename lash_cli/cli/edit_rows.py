"""What an edit does with the rows it took out, and the one way they get back into the queue (contract 08 §5.3).

An edit changes the typed text of an input and nothing else of it: piped text,
attachments and options go back as they were. What goes back is fixed in the
journal first, under keys made from the edit's id, so that a second attempt
after a crash queues nothing twice.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from lash_cli.api.queue import SessionQueue, source_key_of
from lash_cli.cli.edit_journal import EditJournal, Returning
from lash_cli.core.content import TextItem, TurnInput
from lash_cli.core.ingress import ActiveTurn, InputDraft, NextTurn, PendingTurnInput, TurnInputIngress
from lash_cli.errors import LashError
from lash_cli.system import SystemIds
from lash_cli.views.edit_text import Block

KEY_PREFIX = "queue-edit"


def editable_text(content: TurnInput) -> str:
    """The text of an input that a person typed: its first item without a label, "" when there is none."""
    place = _typed_place(content)
    item = content.items[place] if place is not None else None
    return item.text if isinstance(item, TextItem) else ""


def _typed_place(content: TurnInput) -> int | None:
    for place, item in enumerate(content.items):
        if isinstance(item, TextItem) and item.label is None:
            return place
    return None


def edited_input(content: TurnInput, text: str) -> TurnInput | None:
    """`content` with its typed text replaced; None when nothing of it is left. Line feeds at the end do not count."""
    before = editable_text(content)
    if text.rstrip("\n") == before.rstrip("\n"):
        return content if content.items else None
    if not text.strip():
        return None
    items = list(content.items)
    place = _typed_place(content)
    if place is None:
        items.insert(0, TextItem(text))
    else:
        items[place] = TextItem(text)
    return msgspec.structs.replace(content, items=tuple(items))


def originals(edit_id: str, rows: Sequence[PendingTurnInput], running_turn_id: str | None) -> list[Returning]:
    """Every row as it was."""
    return _keyed(edit_id, [(_address(row, running_turn_id), row.input) for row in rows])


def returning_blocks(
    edit_id: str, blocks: Sequence[Block], rows: Sequence[PendingTurnInput], running_turn_id: str | None
) -> list[Returning]:
    """What goes back when a person left these blocks, in their order. A block of no row is new text."""
    by_id = {row.input_id: row for row in rows}
    wanted: list[tuple[TurnInputIngress, TurnInput]] = []
    for block in blocks:
        row = by_id.get(block.id)
        content = edited_input(row.input if row is not None else TurnInput(), block.text)
        if content is not None:
            wanted.append((_address(row, running_turn_id), content))
    return _keyed(edit_id, wanted)


def _keyed(edit_id: str, wanted: Sequence[tuple[TurnInputIngress, TurnInput]]) -> list[Returning]:
    return [
        Returning(f"{KEY_PREFIX}:{edit_id}:{index}", ingress, content)
        for index, (ingress, content) in enumerate(wanted)
    ]


def _address(row: PendingTurnInput | None, running_turn_id: str | None) -> TurnInputIngress:
    """Where a row goes: into the turn it was for while that runs, else into the next one."""
    if row is not None and isinstance(row.ingress, ActiveTurn) and row.ingress.turn_id == running_turn_id:
        return row.ingress
    return NextTurn()


async def put_back(queue: SessionQueue, journal: EditJournal, returning: Sequence[Returning]) -> list[PendingTurnInput]:
    """Queue what goes back, all of it at once, and end the journal.

    What the journal decided before stands. When the disk or the store refuses,
    the journal stays and the error says how to go on.
    """
    try:
        if journal.decided is None:
            journal.decide(returning)
        assert journal.decided is not None
        ids = SystemIds()
        drafts = [
            InputDraft(queue.session_id, ids.new("in"), entry.input, entry.ingress, source_key_of(entry.key))
            for entry in journal.decided.returning
        ]
        stored = await queue.enqueue_all(drafts)
    except LashError as error:
        journal.leave()
        error.hint = f"{len(journal.plan.rows)} texts are safe on disk; put them back with: lash queue edit --recover"
        error.details["edit_id"] = journal.plan.edit_id
        raise
    journal.finish()
    return list(stored)
