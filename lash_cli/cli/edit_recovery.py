"""`lash queue edit --recover`: put back what an edit had taken out when its process died (contract 08 §5.3).

Every journal that nobody holds is finished: what had been decided is queued
under its old keys, which does nothing for what is there already; where nothing
had been decided, the original texts that the edit cancelled go back. What the
editor had saved meanwhile is kept beside them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from lash_cli.cli.bulk import failed
from lash_cli.cli.documents import Document
from lash_cli.cli.edit_journal import (
    EditJournal,
    drop_unborn,
    forget_text,
    journal_paths,
    text_path,
    write_text,
)
from lash_cli.cli.edit_rows import editable_text, originals, put_back
from lash_cli.cli.editor import held_signals
from lash_cli.cli.output import emit_many, say
from lash_cli.cli.queue_access import existing_store, queue_of
from lash_cli.cli.reading import run_at_once
from lash_cli.core.ingress import InputState, PendingTurnInput
from lash_cli.errors import LashError, SessionDeleted
from lash_cli.store.base import RuntimePersistence, SessionRow
from lash_cli.views.edit_text import Block, parse_blocks, render_blocks

COLUMNS = ("id", "session_name", "outcome", "inputs", "file")


def recover_edits() -> int:
    """Finish every edit that was cut off, print what became of each, return the exit status.

    Raises the error of the first that could not be put back when none could,
    `PartialOutcomeError` when some could.
    """
    drop_unborn()
    errors: list[LashError] = []
    with held_signals() as held:
        rows = run_at_once(_recover(errors))
    if not errors:
        if not rows:
            say("no edit was cut off")
        emit_many("QueueEditList", rows, columns=COLUMNS)
        return held.exit_status
    raise failed(rows, errors, "edits were put back")


async def _recover(errors: list[LashError]) -> list[Document]:
    rows: list[Document] = []
    async with existing_store() as store:
        for path in journal_paths():
            journal = EditJournal.take_over(path)
            if journal is not None:
                rows.append(await _recover_one(store, journal, errors))
    return rows


async def _recover_one(store: RuntimePersistence | None, journal: EditJournal, errors: list[LashError]) -> Document:
    """Put one edit back. A session that is gone keeps its texts in a file; any other failure leaves the journal."""
    plan = journal.plan
    document: Document = {
        "id": plan.edit_id,
        "session": plan.session_id,
        "session_name": plan.session_name,
        "outcome": "put_back",
        "inputs": [],
        "file": None,
        "code": None,
    }
    session = await _session(store, plan.session_id)
    if store is None or session is None:
        document.update(outcome="session_gone", file=_save_texts(journal))
        journal.finish()
        return document
    try:
        returning = originals(plan.edit_id, await _missing(store, journal), session.running_turn_id)
        stored = await put_back(queue_of(store, plan.session_id), journal, returning)
    except LashError as error:
        errors.append(error)
        document.update(outcome="failed", code=error.code)
        return document
    document.update(inputs=[row.input_id for row in stored], file=_keep_what_was_typed(plan.edit_id, stored))
    return document


async def _session(store: RuntimePersistence | None, session_id: str) -> SessionRow | None:
    try:
        return await store.session_row(session_id) if store is not None else None
    except SessionDeleted:
        return None


async def _missing(store: RuntimePersistence, journal: EditJournal) -> list[PendingTurnInput]:
    """The rows the edit took out, by its own word or by that of the store.

    An edit that did not sign what it cancelled is of an older program: of its plan, what is cancelled now counts. A
    row that was vacuumed since tells nothing any more, and a text rather stands twice than nowhere.
    """
    plan = journal.plan
    if journal.taken is not None:
        return [row for row in plan.rows if row.input_id in journal.taken.input_ids]
    own = await store.inputs_cancelled_by(plan.session_id, plan.edit_id)
    missing = []
    for row in plan.rows:
        found = await store.turn_input(row.session_id, row.input_id)
        is_cancelled = found is not None and found[0].state is InputState.CANCELLED
        if found is None or row.input_id in own or (is_cancelled and not plan.is_signed):
            missing.append(row)
    return missing


def _save_texts(journal: EditJournal) -> str:
    """Write what should have gone back into the editor's file, before what was typed there meanwhile; its path."""
    texts = [Block(row.input_id, editable_text(row.input)) for row in journal.plan.rows]
    if journal.decided is not None:
        texts = [Block(entry.key, editable_text(entry.input)) for entry in journal.decided.returning]
    explanation = (f"Texts of the queue of {journal.plan.session_name}, a session that is deleted.",)
    typed = _typed(journal.plan.edit_id, [block.text for block in texts])
    beside = "" if typed is None else f"\n# What was in the editor when the edit was cut off:\n\n{typed}"
    return write_text(journal.plan.edit_id, render_blocks(explanation, texts) + beside)


def _keep_what_was_typed(edit_id: str, stored: Sequence[PendingTurnInput]) -> str | None:
    """The path of the editor's file if it says something else than what went back; otherwise the file goes."""
    if _typed(edit_id, [editable_text(row.input) for row in stored]) is not None:
        return text_path(edit_id)
    forget_text(edit_id)
    return None


def _typed(edit_id: str, texts: Iterable[str]) -> str | None:
    """What the editor's file holds if it says something else than `texts`; None without such a file."""
    path = text_path(edit_id)
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8", errors="replace", newline="") as file:
        typed = file.read()
    said = [block.text for block in parse_blocks(typed) if block.text.strip()]
    return typed if said != [text for given in texts if (text := given.rstrip("\n")).strip()] else None
