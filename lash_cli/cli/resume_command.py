"""`lash resume`: reopen a session and finish what a crash cut off (contract 08 §5.1, design §3).

Finished effects of an interrupted turn are read from the journal, not
repeated. With a PROMPT the next turn runs right after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from lash_cli.cli.arguments import Approvals, IfBusyText, Raw, SessionArgument
from lash_cli.cli.documents import bare_session_document
from lash_cli.cli.output import emit_one
from lash_cli.cli.reading import present_row, run_async
from lash_cli.cli.running import opened_core, store_having, working_directory
from lash_cli.cli.stdin import read_prompt
from lash_cli.cli.turn_command import TurnPlan, approvals, busy_policy, run_planned_turn, terminal_asker
from lash_cli.errors import UsageError
from lash_cli.system import SystemClock, is_definitely_dead

if TYPE_CHECKING:
    from lash_cli.api import LashCore


def command(
    session: SessionArgument = None,
    prompt: Annotated[str | None, typer.Argument(metavar="[PROMPT]", help="Run this turn next; - is stdin.")] = None,
    key: Annotated[str | None, typer.Option(help="Submit PROMPT once under this key.")] = None,
    if_busy: IfBusyText = None,
    approve: Approvals = None,
    raw: Raw = False,
) -> int:
    """Reopen a parked, closed or interrupted session.

    A turn that was interrupted is finished first, without repeating what it
    had done. Without a PROMPT nothing else runs.
    """
    from lash_cli.cli.turn_run import Showing

    if key is not None and prompt is None:
        raise UsageError(
            "--key is for a PROMPT, and none was given", hint="nothing was done; give a PROMPT, or leave out --key"
        )
    plan = TurnPlan(
        reference=session,
        showing=Showing(raw=raw),
        key=key,
        if_busy=busy_policy(if_busy),
        approve=tuple(approvals(approve).items()),
        items=read_prompt(prompt) if prompt is not None else (),
    )
    return run_async(_run(plan))


async def _run(plan: TurnPlan) -> int:
    from lash_cli.cli.references import resolve_session
    from lash_cli.core.policy import SessionSpec

    store = store_having(plan.reference)
    try:
        meta = await resolve_session(store, plan.reference)
    except BaseException:
        await store.aclose()
        raise
    asker = terminal_asker()
    async with opened_core(
        store=store, cwd=working_directory(meta), approve=dict(plan.approve), asker=asker, owner_label="resume"
    ) as core:
        if meta.closed_at_ms is not None or meta.parked_at_ms is not None:
            await core.store.set_session_flags(meta.session_id, closed_at_ms=None, parked_at_ms=None)
        session = await core.open_session(meta.session_id, spec=SessionSpec(inherit="stored"), create=False)
        if plan.items:
            return await run_planned_turn(core, session, plan, asker)
        if await core.store.unfinished_turns(meta.session_id):
            from lash_cli.cli.turn_run import TurnRun

            run = TurnRun(session, plan.showing, asker, store=core.store)
            return await run.drive(session.redrive(busy_wait_ms=plan.if_busy.wait_ms), finishes_earlier=True)
        session.close_handle()
        await _show(core, meta.session_id)
        return 0


async def _show(core: LashCore, session_id: str) -> None:
    row = await present_row(core.store, session_id)
    document = bare_session_document(row, SystemClock().now_ms(), is_definitely_dead)
    emit_one("Session", document, text=f"{document['name']} ({document['id']}) is ready: {document['status']}")
