"""What a driver or a worker concludes from a look at a session's queue, and what it works through (contract 02 §6.3).

A look is cheap and conservative: it decides whether to open a session at all.
Truth is in the rows; a wrong conclusion costs an empty pass, never a loss.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from typing import Protocol

from lash_cli.core.lease import is_row_live
from lash_cli.errors import (
    BusyError,
    JournalFault,
    LashError,
    SessionExecutionLeaseExpired,
    StoreError,
    WaitTimeout,
)
from lash_cli.runtime.lane import is_provably_dead
from lash_cli.runtime.requests import Sink, TurnOutput
from lash_cli.store.queueing import SessionDemand

FIRST_BACKOFF_S = 0.025
LONGEST_BACKOFF_S = 1.0
MAX_ATTEMPTS = 8
# Passes one session gets in a row before its slot is offered to others.
PASSES_IN_A_ROW = 16


class Drainable(Protocol):
    """An opened session as a driver sees it."""

    async def drain_once(self, sink: Sink) -> TurnOutput:
        """One pass over the queue; a cancelled task commits nothing."""
        ...

    def cancel_running_turns(self, *, origin: str | None = None, reason: str | None = None) -> int:
        """Ask its turns to stop and commit as cancelled; how many."""
        ...


SessionOpener = Callable[[str], AbstractAsyncContextManager[Drainable]]


class Standing(StrEnum):
    """What stands in a session's queue: nothing to do, something to do, or something that another owner's lane keeps
    us from."""

    NOTHING = "nothing"
    DUE = "due"
    CONTENDED = "contended"


def standing_of(demand: SessionDemand, now_ms: int) -> Standing:
    """What to do about a session. An unfinished turn is due once its owner is gone; while that lives it is no work."""
    if demand.is_held or demand.is_closed or not (demand.has_claimable or demand.unfinished_turn_id):
        return Standing.NOTHING
    if is_lane_taken(demand, now_ms):
        return Standing.CONTENDED if demand.has_claimable else Standing.NOTHING
    return Standing.DUE


def is_lane_taken(demand: SessionDemand, now_ms: int) -> bool:
    """Whether somebody holds the lane who is not provably dead."""
    owner = demand.lease.owner
    return is_row_live(demand.lease, now_ms) and owner is not None and not is_provably_dead(demand.session_id, owner)


def is_passing(error: LashError) -> bool:
    """Whether another attempt may succeed where this one failed."""
    if error.terminal:
        return False
    return isinstance(error, BusyError | StoreError | SessionExecutionLeaseExpired | JournalFault | WaitTimeout)


def backoff_s(attempt: int) -> float:
    """How long to rest after attempt `attempt` (from 1) found the lane busy or failed."""
    return min(FIRST_BACKOFF_S * float(1 << min(attempt - 1, 16)), LONGEST_BACKOFF_S)
