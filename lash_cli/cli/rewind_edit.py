"""`lash rewind --edit`: a message of the user, edited and said anew beside the old one (contract 08 §5.1).

The editor comes first: while it is open, and when it fails, the session is as
it was. The edited text is in a private file until its turn has taken it.
"""

from __future__ import annotations

from lash_cli.cli.cut_off import refuse_cut_off
from lash_cli.cli.editor import editor_command
from lash_cli.cli.invocation import current
from lash_cli.cli.reading import named_session, reading_store, run_async, run_inline
from lash_cli.cli.running import opened_core, working_directory, writing_store
from lash_cli.cli.say_again import go_before, items_of, user_message_at
from lash_cli.cli.turn_command import TurnPlan, run_planned_turn, terminal_asker
from lash_cli.cli.turn_run import Showing
from lash_cli.cli.written import written_text
from lash_cli.core.content import Message, message_text
from lash_cli.store.base import SessionMeta


def edit_and_run(reference: str | None, node_id: str) -> int:
    """Edit the message at `node_id` and run a turn with it; the exit status of the turn."""
    editor_command(current().environment)  # before anything is read for it
    meta, message = run_inline(lambda: _read(reference, node_id))
    with written_text(message_text(message), "the session is as it was") as text:
        return run_async(_say(meta, message, text))


async def _read(reference: str | None, node_id: str) -> tuple[SessionMeta, Message]:
    async with named_session(reading_store(), reference) as (store, row):
        await refuse_cut_off(store, row.meta.session_id, node_id)
        return row.meta, await user_message_at(store, row.meta.session_id, node_id)


async def _say(meta: SessionMeta, message: Message, text: str) -> int:
    from lash_cli.core.policy import SessionSpec

    asker = terminal_asker()
    async with opened_core(
        store=writing_store(), cwd=working_directory(meta), asker=asker, owner_label="rewind"
    ) as core:
        await go_before(core, meta.session_id, message.id)
        session = await core.open_session(meta.session_id, spec=SessionSpec(inherit="stored"), create=False)
        plan = TurnPlan(reference=meta.session_id, items=items_of(message, text), showing=Showing())
        return await run_planned_turn(core, session, plan, asker)
