"""`lash rewind`: move the head of a session to another of its nodes (contract 08 §5.1, §3 item 19).

Nothing is deleted: the way back is printed. With `--edit` the text of a user
message is edited and said anew beside the old one; until the editor has ended
well nothing is moved, and the text is on disk until its turn has it.
"""

from __future__ import annotations

from typing import Annotated

import typer

from lash_cli.cli.arguments import SessionArgument
from lash_cli.cli.cut_off import refuse_cut_off
from lash_cli.cli.documents import Document
from lash_cli.cli.head_moves import ROOT, rewind_document, rewind_text
from lash_cli.cli.invocation import current
from lash_cli.cli.output import emit_one, safe
from lash_cli.cli.reading import run_async
from lash_cli.cli.running import opened_at
from lash_cli.errors import UsageError


def command(
    session: SessionArgument = None,
    to: Annotated[
        str | None, typer.Option(metavar="NODE", help="The message to go on from; root is before all of them.")
    ] = None,
    edit: Annotated[
        bool, typer.Option("--edit", help="Edit that message of yours and say it anew, beside the old one.")
    ] = False,
) -> int:
    """Move the head of a session; what is said next makes a branch there.

    Every message is kept, and the command that undoes the move is printed. To
    try something without touching this session, see lash fork. Messages and
    their ids: lash tree.
    """
    if to is None:
        raise UsageError("--to NODE is needed", hint="see the messages of the session: lash tree SESSION")
    if edit:
        from lash_cli.cli.rewind_edit import edit_and_run

        if not current().can_ask:
            raise UsageError(
                "an editor needs a terminal",
                code="not_a_tty",
                hint="move the head without --edit and give the text to: lash turn; nothing was done",
            )
        return edit_and_run(session, to)
    document = run_async(_move(session, None if to == ROOT else to))
    emit_one("Rewind", document, text=safe(rewind_text(document)), name=document["node"] or ROOT)
    return 0


async def _move(reference: str | None, node_id: str | None) -> Document:
    async with opened_at(reference, "rewind") as (core, meta):
        if node_id is not None:
            await refuse_cut_off(core.store, meta.session_id, node_id)
        return rewind_document(await core.branch_to_node(meta.session_id, node_id), meta)
