"""`lash queue ls|show|batches|hold|release`: look at a queue, stop it, let it go on (contract 08 §5.2)."""

from __future__ import annotations

from typing import Annotated

import typer

from lash_cli.cli.arguments import OfSession, SessionArgument
from lash_cli.cli.documents import Document
from lash_cli.cli.head_moves import command_here
from lash_cli.cli.output import emit_one, safe
from lash_cli.cli.queue_access import existing_store, queue_of
from lash_cli.cli.queue_detail import show_batches, show_input, show_queue
from lash_cli.cli.reading import named_session, run_at_once
from lash_cli.views.times import rfc3339


def list_queue(
    session: SessionArgument = None,
    everything: Annotated[bool, typer.Option("--all", help="Also what is in use, used or cancelled.")] = False,
) -> int:
    """List what waits: inputs in order, then background work.

    What enters the running turn, what the next turn takes and background work
    are told apart. Used and cancelled inputs stay listed with --all.
    """
    return show_queue(session, with_all=everything)


def show_one(
    input_id: Annotated[str, typer.Argument(metavar="IN", help="The id of an input.")],
    session: OfSession = None,
) -> int:
    """Show one input: its text, its state, and the turn that took it."""
    return show_input(input_id, session)


def list_batches(
    session: SessionArgument = None,
    everything: Annotated[bool, typer.Option("--all", help="Also what is in use.")] = False,
) -> int:
    """List background work and session commands: what waits, and what failed too often.

    A dead batch blocks nothing. Drop it with lash queue cancel-batch.
    """
    return show_batches(session, with_all=everything)


def hold(
    session: SessionArgument = None,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="Why; shown to whoever looks.")] = None,
) -> int:
    """Let nothing be taken from a queue until it is released. A turn that runs goes on."""
    return _show_hold(run_at_once(_hold(session, held=True, reason=reason)))


def release(session: SessionArgument = None) -> int:
    """Let a held queue go on."""
    return _show_hold(run_at_once(_hold(session, held=False)))


async def _hold(reference: str | None, *, held: bool, reason: str | None = None) -> Document:
    async with named_session(existing_store(), reference) as (store, session):
        queue = queue_of(store, session.meta.session_id)
        has_changed = await (queue.hold(reason) if held else queue.release())
        row = await store.session_row(session.meta.session_id)
        meta = row.meta if row is not None else session.meta
        return {
            "id": meta.session_id,
            "name": meta.name,
            "held": held,
            "changed": has_changed,
            "held_at": rfc3339(meta.held_at_ms),
            "hold_reason": meta.hold_reason,
            "pending_inputs": session.pending_inputs,
            "pending_batches": session.pending_batches,
        }


def _show_hold(document: Document) -> int:
    name = safe(document["name"])
    state = "held" if document["held"] else "released"
    already = "" if document["changed"] else "already "
    reason = f": {safe(document['hold_reason'])}" if document["hold_reason"] else ""
    following = command_here(*(("queue", "release") if document["held"] else ("work",)), name)
    text = f"{already}{state} {name} ({document['id']}){reason}; next: {following}"
    emit_one("QueueHold", document, text=text)
    return 0
