"""What waits in a session, read, made documents and printed (contract 08 §5.2 `queue ls|show|batches`).

Shared by the commands and by the way around the parser, so it imports no
parser, and it reads without an event loop. Read-only: no lane is taken and no
database is made.
"""

from __future__ import annotations

from typing import NamedTuple

from lash_cli.cli.documents import Document
from lash_cli.cli.invocation import current
from lash_cli.cli.output import emit_many, emit_one, safe, say, tell
from lash_cli.cli.queue_access import find_input, is_input_held
from lash_cli.cli.queue_documents import (
    PENDING_INPUT_STATES,
    batch_document,
    batch_item,
    held_batch_ids,
    input_item,
)
from lash_cli.cli.reading import named_session, reading_store, run_inline
from lash_cli.store.base import RuntimePersistence, SessionRow
from lash_cli.system import SystemClock
from lash_cli.views.queue import batches_cells, item_text, queue_text
from lash_cli.views.shell_words import shell_word
from lash_cli.views.times import rfc3339

QUEUE_COLUMNS = ("id", "type", "delivery", "state", "enqueued_at", "preview")
BATCH_COLUMNS = ("id", "state", "class", "attempts", "enqueued_at", "last_error", "preview")


class QueueRead(NamedTuple):
    """A session and the items of its queue, in the order they will be used."""

    session: SessionRow
    items: list[Document]


def show_queue(reference: str | None = None, *, with_all: bool = False) -> int:
    """Print the queue of the session `reference` names; returns the exit status. Raises what `resolve_session` does."""
    read = run_inline(lambda: _read_queue(reference, with_all=with_all))
    now_ms = SystemClock().now_ms()
    running = read.session.running_turn_id
    text = queue_text(read.items, running_turn=running, now_ms=now_ms, clean=safe)
    emit_many("QueueList", read.items, columns=QUEUE_COLUMNS, text=text)
    _tell(read)
    return 0


def _tell(read: QueueRead) -> None:
    """What a person should know beside the items."""
    if current().output.is_machine:
        return
    from lash_cli.cli.edit_journal import cut_off_note

    meta = read.session.meta
    if not read.items:
        say(f"nothing waits in {meta.name}")
    if meta.held_at_ms is not None:
        reason = f": {meta.hold_reason}" if meta.hold_reason else ""
        release = current().commands_here(f"lash queue release {shell_word(meta.name)}")
        tell(f"held since {rfc3339(meta.held_at_ms)}{reason}; let it go on with: {release}")
    if (note := cut_off_note(meta.session_id)) is not None:
        say(note)


async def _read_queue(reference: str | None, *, with_all: bool) -> QueueRead:
    async with named_session(reading_store(), reference) as (store, session):
        items = [*await _input_items(store, session, with_all), *await _batch_items(store, session, with_all)]
        return QueueRead(session, items)


async def _input_items(store: RuntimePersistence, session: SessionRow, with_all: bool) -> list[Document]:
    session_id, running = session.meta.session_id, session.running_turn_id
    free = await store.inputs(session_id, pending_only=True)
    if not with_all:
        items = [input_item(row, session.meta, turn_id=None, running_turn_id=running) for row in free]
        # What enters the running turn comes first, whenever it was queued.
        return sorted(items, key=lambda item: item["delivery"] != "this_turn")
    free_ids = {row.input_id for row in free}
    rows = await store.inputs(session_id, pending_only=False)
    turns = await store.turns_of_inputs(session_id)
    items = []
    for row in rows:
        is_held = row.state in PENDING_INPUT_STATES and row.input_id not in free_ids
        turn_id = turns.get(row.input_id, running if is_held else None)
        items.append(input_item(row, session.meta, turn_id=turn_id, running_turn_id=running, is_held=is_held))
    return items


async def _batch_items(store: RuntimePersistence, session: SessionRow, with_all: bool) -> list[Document]:
    session_id = session.meta.session_id
    free = await store.queued_work(session_id, pending_only=True)
    if not with_all:
        return [batch_item(batch, session.meta) for batch in free]
    unsettled = await store.queued_work(session_id, pending_only=False)
    held = held_batch_ids(unsettled, free)
    return [batch_item(batch, session.meta, is_held=batch.batch_id in held) for batch in unsettled]


def show_input(input_id: str, reference: str | None = None) -> int:
    """Print one input in whatever state; returns the exit status. Raises what `find_input` raises."""
    document = run_inline(lambda: _read_input(input_id, reference))
    emit_one("QueueItem", document, text=item_text(document, clean=safe))
    return 0


async def _read_input(input_id: str, reference: str | None) -> Document:
    async with reading_store() as store:
        found = await find_input(store, input_id, reference)
        assert store is not None, "without a store no input was found"
        return input_item(
            found.row,
            found.meta,
            turn_id=found.turn_id,
            running_turn_id=found.session.running_turn_id,
            is_held=await is_input_held(store, found),
        )


def show_batches(reference: str | None = None, *, with_all: bool = False) -> int:
    """Print the batches of a session: what waits and what is dead, with `with_all` also what is in use."""
    items = run_inline(lambda: _read_batches(reference, with_all=with_all))
    now_ms = SystemClock().now_ms()
    emit_many("BatchList", items, columns=BATCH_COLUMNS, cells=lambda item: batches_cells(item, now_ms))
    return 0


async def _read_batches(reference: str | None, *, with_all: bool) -> list[Document]:
    async with named_session(reading_store(), reference) as (store, session):
        session_id = session.meta.session_id
        free = await store.queued_work(session_id, pending_only=True)
        unsettled = await store.queued_work(session_id, pending_only=False)
        held = held_batch_ids(unsettled, free)
        return [
            batch_document(batch, is_held=batch.batch_id in held)
            for batch in unsettled
            if with_all or batch.batch_id not in held
        ]
