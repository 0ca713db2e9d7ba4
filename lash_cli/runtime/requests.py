"""What a session is asked to run, and what it answers: a turn, a re-drive, or one pass over its queue.

A turn that ends badly is an outcome inside the answer; a pass that found
nothing to do says why (contract 02 §6.1). Only what ended without an outcome
is an exception.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal

import msgspec

from lash_cli.core.activity import TurnActivity
from lash_cli.core.content import TurnInput
from lash_cli.core.outcome import TurnResult
from lash_cli.core.policy import NO_LAYER, PromptLayer
from lash_cli.core.pricing import CostLimit
from lash_cli.core.protocols import ModelCaller
from lash_cli.core.queued_work import SessionCommandReceipt
from lash_cli.store.base import DrainSelection, IdleReason

Sink = Callable[[TurnActivity], Awaitable[None]]


DrainReason = IdleReason | Literal["lane_busy", "no_store", "commands_only"]


class TurnRequest(msgspec.Struct, frozen=True):
    """What a caller wants: a turn from `input`, one pass over the queue (`drain`), or with neither only an unfinished
    turn to be finished. `drain_id` begins the id of a turn that the pass starts. `prompt` is the prompt's
    layer of the turn that is started, over those of the core and the session; `max_turns` and `cost_limit` bound it,
    and `provider` makes its model calls in place of the session's."""

    input: TurnInput | None
    turn_id: str | None = None
    source_key: str | None = None
    max_turns: int | None = None
    busy_wait_ms: int = 0
    timeout_ms: int | None = None
    drain: DrainSelection | None = None
    drain_id: str | None = None
    prompt: PromptLayer = NO_LAYER
    cost_limit: CostLimit | None = None
    provider: ModelCaller | None = None


class TurnOutput(msgspec.Struct, frozen=True):
    """What became of a request (contract 01 §7, 02 §6.1). `result` is None when nothing was run, which never happens to
    a text; for a pass over the queue `idle` says why.

    `replayed` says the turn had been committed before; `redriven` holds the
    results of crashed turns that were finished first. `frames` are the results
    of the turns that handed on to another agent frame before `result`.
    `commands` are the session commands that were applied. `available_at_ms`
    is when a batch that only waits for its time is ready, `busy_until_ms` when
    the lease of a busy lane runs out. `has_waiting` says that something was
    waiting in the queue when the last commit was made.
    """

    result: TurnResult | None
    activities: tuple[TurnActivity, ...] = ()
    replayed: bool = False
    redriven: tuple[TurnResult, ...] = ()
    frames: tuple[TurnResult, ...] = ()
    commands: tuple[SessionCommandReceipt, ...] = ()
    idle: DrainReason | None = None
    available_at_ms: int | None = None
    busy_until_ms: int | None = None
    has_waiting: bool = False

    @property
    def turns(self) -> tuple[TurnResult, ...]:
        """Every turn that ended in this call, in order; a replayed one ended before."""
        if self.result is None or self.replayed:
            return self.redriven
        return (*self.redriven, *self.frames, self.result)


class AnsweredRequest(msgspec.Struct, frozen=True):
    """What a turn of a session without a store was asked, and what it came to: the answer of a repeat."""

    input: TurnInput
    output: TurnOutput


async def unseen(activity: TurnActivity) -> None:
    """The sink of a turn that nobody watches here; whoever wants to reads the store."""
