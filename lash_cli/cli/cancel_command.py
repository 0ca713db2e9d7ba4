"""`lash cancel`: ask the running turn of a session to stop, from any process (contract 08 §5.1, 02 §7).

The answer is a receipt: `requested` or `already_requested`. A turn that had
finished before is a conflict, one that never was is not found. A turn whose
process died, before or during the wait, is finished here, as cancelled, when
the caller waits for it.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from lash_cli.cli.arguments import SessionArgument
from lash_cli.cli.documents import Document, is_lease_live
from lash_cli.cli.durations import WaitCommand, duration_ms
from lash_cli.cli.output import emit_one, say
from lash_cli.cli.reading import run_async
from lash_cli.cli.running import opened_at
from lash_cli.cli.turn_documents import outcome_document, receipt_document
from lash_cli.errors import ConflictError, SessionExecutionBusy, WaitTimeout
from lash_cli.system import SystemClock, is_definitely_dead

if TYPE_CHECKING:
    from lash_cli.api import LashCore
    from lash_cli.core.outcome import TurnCancelReceipt

ORIGIN = "lash cancel"
# How often to ask whether the driver of the turn still lives: it dies without a word.
DRIVER_LOOK_MS = 1_000

command_class = WaitCommand


def command(
    session: SessionArgument = None,
    turn: Annotated[str | None, typer.Option(metavar="TURN", help="That turn, not whichever runs.")] = None,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="Why; kept with the turn.")] = None,
    wait: Annotated[str | None, typer.Option(metavar="[=DUR]", help="Wait until it ended (exit 124 if not).")] = None,
) -> int:
    """Ask the running turn to stop and print the receipt."""
    wait_ms = duration_ms(wait) if wait is not None else None
    document = run_async(request_cancel(session, turn, reason, wait_ms))
    text = f"{document['outcome']}: turn {document['turn_id']} of session {document['session']}"
    if document["terminal"] is not None:
        terminal = document["terminal"]
        text += f" ended as {terminal['reason'] or terminal['type']}"
    emit_one("CancelReceipt", document, text=text, name=document["turn_id"])
    return 0


async def request_cancel(
    reference: str | None, turn_id: str | None, reason: str | None, wait_ms: int | None, *, origin: str = ORIGIN
) -> Document:
    """Ask the turn to stop and, with `wait_ms`, wait for its end; the CancelReceipt document. Raises `ConflictError`
    (`completion_won`) and what `resolve_session` raises."""
    from lash_cli.cli.session_detail import find_turn

    async with opened_at(reference, "cancel") as (core, meta):
        session_id = meta.session_id
        if turn_id is not None:
            await find_turn(core.store, session_id, turn_id)
        receipt = await core.request_turn_cancel(session_id, turn_id=turn_id, origin=origin, reason=reason)
        document = {**receipt_document(receipt), "terminal": None}
        if receipt.outcome == "completion_won":
            raise ConflictError(
                f"turn {receipt.address.turn_id} had ended before the request",
                code="completion_won",
                hint=f"look at it with: lash show {session_id} --turn {receipt.address.turn_id}",
                details={"receipt": document},
            )
        if wait_ms is not None:
            document["terminal"] = await _await_end(core, receipt, wait_ms)
        elif not await _is_driven(core, session_id):
            say(f"nobody runs this turn; it ends as cancelled with the next use: lash resume {session_id}")
        return document


async def _is_driven(core: LashCore, session_id: str) -> bool:
    """Whether somebody alive holds the lane of the session."""
    row = await core.store.session_row(session_id)
    return row is not None and is_lease_live(row.lease, SystemClock().now_ms(), is_definitely_dead)


async def _await_end(core: LashCore, receipt: TurnCancelReceipt, wait_ms: int) -> Document | None:
    """Wait for the turn's end; a turn that nobody drives, or that loses its driver meanwhile, is finished here.

    Raises `WaitTimeout`, and `BrokenPipeError` when the reader of stdout leaves meanwhile.
    """
    from lash_cli.cli.following import while_read
    from lash_cli.core.outcome import TerminalCommitted

    address, clock = receipt.address, SystemClock()
    deadline = clock.monotonic() + wait_ms / 1000
    while True:
        left_ms = max(0, round((deadline - clock.monotonic()) * 1000))
        if not await _is_driven(core, address.session_id):
            session = await core.open_session(address.session_id, create=False)
            # Who took the lane between the look and now finishes the turn, and is waited for like any driver.
            with suppress(SessionExecutionBusy):
                await while_read(session.redrive().run())
            session.close_handle()
        try:
            terminal = await while_read(core.await_terminal(address, timeout_ms=min(left_ms, DRIVER_LOOK_MS)))
        except WaitTimeout as late:
            if clock.monotonic() >= deadline:
                raise WaitTimeout(late.message, details=late.details) from late  # of a command as of any other
            continue
        return outcome_document(terminal.outcome) if isinstance(terminal, TerminalCommitted) else None
