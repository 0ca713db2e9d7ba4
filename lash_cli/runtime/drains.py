"""Taking one thing from a session's queue for a host that drives step by step (contract 02 §6.2).

A session command must never run beside an unfinished turn: that turn is driven
again over the conversation it began with, so it comes first.
"""

from __future__ import annotations

from lash_cli.core.lease import LeaseFence, LeaseOwnerIdentity
from lash_cli.core.queued_work import SessionCommandReceipt
from lash_cli.runtime.commands import CommandRunner
from lash_cli.runtime.host import RuntimeHost
from lash_cli.runtime.lane import borrowed_lane
from lash_cli.runtime.session import ResidentSession
from lash_cli.store.base import RuntimePersistence


async def run_next_command(
    host: RuntimeHost,
    store: RuntimePersistence,
    session: ResidentSession,
    owner: LeaseOwnerIdentity,
    fence: LeaseFence | None = None,
) -> tuple[bool, SessionCommandReceipt | None]:
    """Apply the command at the head of the queue; no receipt when none stands there, or it failed and waits for its
    next attempt. Nothing was looked at, which is what the first of both says, while a turn is unfinished.

    With `fence` the caller holds the lane and has none. Raises `SessionExecutionBusy` while another owner holds the
    lane.
    """
    if fence is not None:
        return True, await _run(host, store, session, fence)
    async with borrowed_lane(host, store, owner, session) as own:
        if await store.unfinished_turns(session.session_id):
            return False, None
        return True, await _run(host, store, session, own)


async def _run(
    host: RuntimeHost, store: RuntimePersistence, session: ResidentSession, fence: LeaseFence
) -> SessionCommandReceipt | None:
    ran = await CommandRunner(store, host.clock, host.ids, session, fence, is_strict=host.is_strict).run_next()
    return ran[0] if ran is not None and ran[1] else None
