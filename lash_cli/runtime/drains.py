"""Taking one thing from a session's queue for a host that drives step by step (contract 02 §6.2).

A session command must never run beside an unfinished turn: that turn is driven
again over the conversation it began with, so it comes first.
"""

from __future__ import annotations

from lash_cli.core.lease import LeaseFence, LeaseOwnerIdentity
from lash_cli.core.queued_work import SessionCommandReceipt
from lash_cli.runtime.cancellation import CancelToken
from lash_cli.runtime.commands import CommandRunner
from lash_cli.runtime.host import RuntimeHost
from lash_cli.runtime.lane import borrowed_lane
from lash_cli.runtime.requests import TurnRequest, unseen
from lash_cli.runtime.session import ResidentSession
from lash_cli.runtime.turns import run_turn
from lash_cli.store.base import RuntimePersistence


async def run_next_command(
    host: RuntimeHost,
    store: RuntimePersistence,
    session: ResidentSession,
    owner: LeaseOwnerIdentity,
    fence: LeaseFence | None = None,
) -> SessionCommandReceipt | None:
    """Apply the command at the head of the queue; None when none stands there, or it failed and waits for its next
    attempt.

    With `fence` the caller holds the lane and has no turn unfinished. Raises
    what `run_turn` raises for the turn that comes first, and
    `SessionExecutionBusy` while another owner holds the lane.
    """
    if fence is not None:
        return await _run(host, store, session, fence)
    while True:
        await run_turn(host, session, owner, TurnRequest(None), CancelToken(), unseen)
        async with borrowed_lane(store, host.clock, host.ids, host.timings, owner, session) as own:
            if not await store.unfinished_turns(session.session_id):
                return await _run(host, store, session, own)


async def _run(
    host: RuntimeHost, store: RuntimePersistence, session: ResidentSession, fence: LeaseFence
) -> SessionCommandReceipt | None:
    ran = await CommandRunner(store, host.clock, host.ids, session, fence, is_strict=host.is_strict).run_next()
    return ran[0] if ran is not None and ran[1] else None
