"""`lash park`: write everything down and release a session (contract 08 §5.1, 01 §4.3).

A parked session costs nothing but its rows. While a turn runs it cannot be
parked; `--wait` lets the turn finish first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from lash_cli.cli.arguments import SessionArgument
from lash_cli.cli.documents import Document, is_lease_live, lease_document
from lash_cli.cli.durations import WaitCommand, duration_ms
from lash_cli.cli.head_moves import command_here
from lash_cli.cli.output import emit_one, warn
from lash_cli.cli.reading import present_row, run_async
from lash_cli.cli.running import opened_at
from lash_cli.errors import SessionClosed, SessionStillInUse, WaitTimeout
from lash_cli.system import SystemClock, is_definitely_dead
from lash_cli.views.shell_words import shell_word
from lash_cli.views.times import rfc3339

if TYPE_CHECKING:
    from lash_cli.api import LashCore
    from lash_cli.store.base import RuntimePersistence, SessionRow

POLL_SECONDS = 0.1

command_class = WaitCommand


def command(
    session: SessionArgument = None,
    wait: Annotated[str | None, typer.Option(metavar="[=DUR]", help="Let a running turn finish first.")] = None,
) -> int:
    """Write everything down and release a session until lash resume."""
    wait_ms = duration_ms(wait) if wait is not None else 0
    document = run_async(_run(session, wait_ms))
    emit_one(
        "Parked",
        document,
        text=f"parked {document['name']} ({document['id']}); next: {command_here('resume', document['name'])}",
    )
    return 0


async def _run(reference: str | None, wait_ms: int) -> Document:
    from lash_cli.cli.following import while_read

    async with opened_at(reference, "park") as (core, meta):
        row = await while_read(idle_row(core.store, meta.session_id, wait_ms))
        if row.meta.closed_at_ms is not None:
            raise SessionClosed(
                f"session {meta.name} ({meta.session_id}) is closed", details={"session": meta.session_id}
            )
        if row.running_turn_id is not None:
            warn(f"turn {row.running_turn_id} was interrupted; lash resume {shell_word(meta.name)} finishes it")
        return await _park(core, row)


async def _park(core: LashCore, row: SessionRow) -> Document:
    from lash_cli.core.policy import SessionSpec

    session_id = row.meta.session_id
    session = await core.open_session(session_id, spec=SessionSpec(inherit="stored"), create=False)
    await session.park()
    parked_at_ms = SystemClock().now_ms()
    await core.store.set_session_flags(session_id, closed_at_ms=None, parked_at_ms=parked_at_ms)
    return {
        "id": session_id,
        "name": row.meta.name,
        "parked_at": rfc3339(parked_at_ms),
        "head_revision": row.head_revision,
        "turns": row.turn_state.turn_index,
        "pending_inputs": row.pending_inputs,
        "unfinished_turn": row.running_turn_id,
    }


async def idle_row(store: RuntimePersistence, session_id: str, wait_ms: int = 0) -> SessionRow:
    """The row of a session that nobody alive works on.

    Raises `SessionStillInUse` naming the holder, or `WaitTimeout` when it is
    still in use after `wait_ms`; `NotFoundError` and `SessionDeleted` when it is gone.
    """
    import asyncio

    clock = SystemClock()
    deadline = clock.monotonic() + wait_ms / 1000
    while True:
        row = await present_row(store, session_id)
        if not is_lease_live(row.lease, clock.now_ms(), is_definitely_dead):
            return row
        if clock.monotonic() >= deadline:
            details = {
                "session": session_id,
                "turn_id": row.running_turn_id,
                "lease": lease_document(row.lease, clock.now_ms(), is_definitely_dead),
            }
            if wait_ms:
                raise WaitTimeout(f"session {row.meta.name} is still in use", details=details)
            raise SessionStillInUse(f"session {row.meta.name} ({session_id}) is in use", details=details)
        await asyncio.sleep(POLL_SECONDS)
