"""`lash fork`: a new session that goes on from another one (contract 08 §5.1, §3 item 19).

A fork leaves its source alone; `rewind` is the verb that moves within one
session. Nothing is copied, so the size of the source is no matter.
"""

from __future__ import annotations

from typing import Annotated

import typer

from lash_cli.cli.arguments import SessionArgument
from lash_cli.cli.cut_off import refuse_cut_off
from lash_cli.cli.documents import bare_session_document
from lash_cli.cli.invocation import current
from lash_cli.cli.names import require_name
from lash_cli.cli.output import emit_one, say
from lash_cli.cli.reading import present_row, run_async
from lash_cli.cli.running import opened_at
from lash_cli.errors import UsageError
from lash_cli.store.base import SessionRow
from lash_cli.system import SystemClock, is_definitely_dead


def command(
    session: SessionArgument = None,
    at: Annotated[str | None, typer.Option(metavar="NODE|TURN", help="Go on from there instead of the head.")] = None,
    name: Annotated[str | None, typer.Option(help="Its name; a readable one is made up otherwise.")] = None,
    opens: Annotated[bool, typer.Option("--open", help="Chat in it at once.")] = False,
) -> int:
    """Make a new session that goes on from another, and print its id.

    It has the same history up to there, the same configuration and directory,
    and the other session as its parent; neither notices what the other does
    from then on. A turn that is running in the source is not waited for: what
    it has not committed yet is not part of the fork.
    """
    require_name(name)
    if opens and not current().can_ask:
        raise UsageError(
            "--open needs a terminal",
            code="not_a_tty",
            hint="without it the id of the fork is printed; nothing was done",
        )
    row, source = run_async(_run(session, at, name))
    if opens:
        from lash_cli.cli.table import dispatch

        return dispatch(["chat", row.meta.session_id])
    say(f"forked {source} into {row.meta.name}")
    document = bare_session_document(row, SystemClock().now_ms(), is_definitely_dead)
    emit_one("Session", document, text=row.meta.session_id)
    return 0


async def _run(reference: str | None, at: str | None, name: str | None) -> tuple[SessionRow, str]:
    async with opened_at(reference, "fork") as (core, source):
        if at is not None:
            turn = await core.store.turn(source.session_id, at)
            node_id = at if turn is None or turn.last_node_id is None else turn.last_node_id
            await refuse_cut_off(core.store, source.session_id, node_id)
        meta = await core.fork_session(source.session_id, at=at, name=name)
        return await present_row(core.store, meta.session_id), source.name
