"""`lash queue edit`: take the rest of a queue out, change it, put it back (contract 08 §5.3).

Nothing can be claimed while it is being edited, because it is cancelled first;
and nothing can be lost, because `edit_journal` has every text on disk before
that. Whatever goes wrong, the original texts go back: here, or with `--recover`
after the process died.
"""

from __future__ import annotations

from typing import Annotated

import typer

from lash_cli.api.queue import SessionQueue
from lash_cli.cli.arguments import OfSession
from lash_cli.cli.documents import Document
from lash_cli.cli.edit_journal import EditJournal, Planned, forget_text, keep_typed, text_path, write_text
from lash_cli.cli.edit_rows import editable_text, originals, put_back, returning_blocks
from lash_cli.cli.editor import HeldSignals, editor_command, held_signals, run_editor
from lash_cli.cli.invocation import current
from lash_cli.cli.output import emit_one, safe, say
from lash_cli.cli.queue_access import FoundInput, existing_store, find_input, queue_of
from lash_cli.cli.queue_documents import PENDING_INPUT_STATES, input_item, input_preview
from lash_cli.cli.reading import run_at_once
from lash_cli.core.ingress import ByInputId, Cancelled, PendingTurnInput
from lash_cli.errors import ConflictError, LashError, SessionClosed, UsageError
from lash_cli.paths import only_regular, regular_or_given
from lash_cli.store.base import RuntimePersistence, SessionRow
from lash_cli.system import SystemClock, SystemIds
from lash_cli.views.edit_text import Block, parse_blocks, render_blocks
from lash_cli.views.queue import queue_text

LARGEST_FILE_BYTES = 256 * 1024 * 1024


def command(
    input_id: Annotated[str | None, typer.Argument(metavar="[IN]", help="The first input to edit.")] = None,
    file: Annotated[
        str | None, typer.Option("--file", metavar="FILE", help="Take the new text from there, without an editor.")
    ] = None,
    session: OfSession = None,
    recover: Annotated[bool, typer.Option("--recover", help="Put back what a killed edit had taken out.")] = False,
) -> int:
    """Edit an input and everything queued behind it.

    They leave the queue first, so nothing is used while you type. Each is a
    block: change it, move it, or delete it. When the editor fails or nothing
    changed, everything goes back as it was.
    """
    if recover:
        from lash_cli.cli.edit_recovery import recover_edits

        if input_id is not None or file is not None:
            raise UsageError(
                "--recover takes no IN and no --file", hint="it puts back everything: lash queue edit --recover"
            )
        return recover_edits()
    if input_id is None:
        raise UsageError("an input is needed", hint="list them with: lash queue ls SESSION")
    if file is not None:
        return _edit_from(_read_file(file), input_id, session)
    if not current().can_ask:
        raise UsageError(
            "an editor needs a terminal", code="not_a_tty", hint="give the new text with --file FILE; nothing was done"
        )
    return _edit_with(editor_command(current().environment), input_id, session)


def _read_file(path: str) -> str:
    """The text of `--file`, before anything is touched; raises `UsageError`."""
    try:
        with open(path, "rb", opener=regular_or_given) as file:
            data = file.read(LARGEST_FILE_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", hint="nothing was done") from error
    if len(data) > LARGEST_FILE_BYTES:
        raise UsageError(f"{path} is larger than {LARGEST_FILE_BYTES // 2**20} MiB", hint="nothing was done")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not valid UTF-8 at byte {error.start}", hint="nothing was done") from error
    if not text.strip():
        raise UsageError(
            f"{path} is empty", code="empty_prompt", hint="to drop inputs: lash queue cancel-suffix SESSION IN"
        )
    return text


def _edit_from(text: str, input_id: str, reference: str | None) -> int:
    """With the new text at hand: blocks as an editor would leave them, or the one text of the named input."""
    blocks = parse_blocks(text)

    async def work() -> Document:
        async with existing_store() as store:
            found = await find_input(store, input_id, reference)
            assert store is not None, "without a store no input was found"
            if not blocks and found.row.state not in PENDING_INPUT_STATES:
                raise _nothing_to_edit(found)
            edit = await _begin(store, found)
            if not blocks and all(row.input_id != input_id for row in edit.rows):
                await edit.restore()
                raise _nothing_to_edit(found)
            return await edit.apply(blocks or edit.blocks(input_id, text))

    with held_signals() as held:
        _show(run_at_once(work()))
    return held.exit_status


def _edit_with(editor: list[str], input_id: str, reference: str | None) -> int:
    """With an editor: its failure, an empty file and an unchanged one put the original texts back."""

    async def work(held: HeldSignals) -> Document:
        async with existing_store() as store:
            found = await find_input(store, input_id, reference)
            assert store is not None, "without a store no input was found"
            edit = await _begin(store, found)
            try:
                write_text(edit.id, edit.text())
                run_editor(editor, edit.path, held)
                blocks = _edited(edit.path)
            except LashError as error:
                await edit.restore(keeps_text=True)
                keep_typed(error, edit.id, edit.text(), "everything is back in the queue as it was")
                error.details.update(edit_id=edit.id)
                raise
            return await edit.apply(blocks)

    with held_signals() as held:
        _show(run_at_once(work(held)))
    return held.exit_status


def _edited(path: str) -> list[Block]:
    """The blocks an editor left; raises `UsageError` (`queue_edit_invalid`) for a file that holds none."""
    try:
        with open(path, encoding="utf-8", newline="", opener=only_regular) as file:
            blocks = parse_blocks(file.read())
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the edited file cannot be read: {error}", code="queue_edit_invalid") from error
    if not blocks:
        raise UsageError("the edited file holds no block", code="queue_edit_invalid")
    return blocks


def _show(document: Document) -> None:
    now_ms = SystemClock().now_ms()
    text = queue_text(document["items"], running_turn=document["running_turn"], now_ms=now_ms, clean=safe)
    emit_one("QueueEdit", document, text=text)
    counts = f"{len(document['items'])} back in the queue, {len(document['dropped'])} dropped"
    say(counts if document["changed"] else "nothing was changed; everything is back in the queue")


class Edit:
    """What was taken out of one queue, and the way back."""

    def __init__(
        self,
        queue: SessionQueue,
        journal: EditJournal,
        session: SessionRow,
        rows: tuple[PendingTurnInput, ...],
        in_use: tuple[PendingTurnInput, ...],
    ) -> None:
        self._queue = queue
        self._journal = journal
        self._session = session
        self._in_use = in_use
        self.rows = rows
        self.id = journal.plan.edit_id
        self.path = text_path(self.id)

    def text(self) -> str:
        """What an editor opens."""
        meta = self._session.meta
        explanation = [
            f"The queue of {meta.name} ({meta.session_id}): one block per input, in order.",
            "Change a text, move a block, delete a block to drop it; a block with another head is added.",
            "Nothing of this is in the queue while you edit. Leave the file as it is to put it all back.",
        ]
        if self._in_use:
            explanation.append("In use, not to be edited:")
            explanation.extend(f"    {row.input_id}  {input_preview(row)}" for row in self._in_use)
        return render_blocks(explanation, self.blocks())

    def blocks(self, input_id: str | None = None, text: str = "") -> list[Block]:
        """The blocks as they are; the text of `input_id`, if it is one of them, is `text`."""
        return [
            Block(row.input_id, text if row.input_id == input_id else editable_text(row.input)) for row in self.rows
        ]

    async def restore(self, *, keeps_text: bool = False) -> None:
        """Put everything back as it was."""
        await put_back(self._queue, self._journal, originals(self.id, self.rows, self._session.running_turn_id))
        if not keeps_text:
            forget_text(self.id)

    async def apply(self, blocks: list[Block]) -> Document:
        """Put back what the blocks say; the QueueEdit document."""
        running = self._session.running_turn_id
        stored = await put_back(self._queue, self._journal, returning_blocks(self.id, blocks, self.rows, running))
        forget_text(self.id)
        meta = self._session.meta
        left = {block.id for block in blocks if block.text.strip()}
        return {
            "id": self.id,
            "session": meta.session_id,
            "session_name": meta.name,
            "running_turn": running,
            "changed": [row.input for row in stored] != [row.input for row in self.rows],
            "items": [input_item(row, meta, turn_id=None, running_turn_id=running) for row in stored],
            "cancelled": [row.input_id for row in self.rows],
            "dropped": [row.input_id for row in self.rows if row.input_id not in left],
            "in_use": [row.input_id for row in self._in_use],
        }


async def _begin(store: RuntimePersistence, found: FoundInput) -> Edit:
    """Take the suffix out: texts to disk first, then the cancel.

    Raises `ConflictError` when nothing of it can be edited, `SessionClosed`
    for a session into which nothing could be put back.
    """
    session = found.session
    session_id, anchor = session.meta.session_id, found.row.enqueue_seq
    if session.meta.closed_at_ms is not None:
        raise SessionClosed(f"session {session.meta.name} is closed; nothing was done", details={"session": session_id})
    queue = queue_of(store, session_id)
    free = {row.input_id: row for row in await queue.pending_inputs() if row.enqueue_seq >= anchor}
    unsettled = await store.unsettled_inputs(session_id, from_seq=anchor)
    in_use = [row for row in unsettled if row.input_id not in free]
    if not free:
        raise _nothing_to_edit(found)
    plan = Planned(SystemIds().new("qe"), session_id, session.meta.name, tuple(free.values()), is_signed=True)
    journal = EditJournal.create(plan)
    try:
        results = await queue.cancel_inputs([ByInputId(input_id) for input_id in free], by=plan.edit_id)
        gone = {result.outcome.input.input_id for result in results if isinstance(result.outcome, Cancelled)}
        journal.record_taken(tuple(gone))
    except LashError as error:
        journal.leave()
        error.hint = "see whether something is missing, and put it back, with: lash queue edit --recover"
        raise
    in_use.extend(free[key] for key in free if key not in gone)
    if not gone:
        journal.finish()
        raise _nothing_to_edit(found)
    return Edit(queue, journal, session, tuple(row for row in plan.rows if row.input_id in gone), tuple(in_use))


def _nothing_to_edit(found: FoundInput) -> ConflictError:
    """The error for an input that is not editable any more."""
    state = found.row.state
    settled = None if state in PENDING_INPUT_STATES else state.value
    what = f"was {settled}" if settled else "is in use"
    turn = f" by turn {found.turn_id}" if found.turn_id else ""
    return ConflictError(
        f"input {found.row.input_id} {what}{turn}; there is nothing to edit",
        code=f"input_already_{settled or 'claimed'}",
        hint="see what waits with: lash queue ls SESSION",
        details={"input": found.row.input_id, "turn_id": found.turn_id},
    )
