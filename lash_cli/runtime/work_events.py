"""What a worker is told to do and what it tells: options, events, report (contract 08 §5.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from lash_cli.core.activity import TurnActivity
from lash_cli.core.outcome import TurnResult
from lash_cli.core.queued_work import SessionCommandReceipt
from lash_cli.errors import LashError

OnFailure = Literal["pause", "continue"]
StoppedBy = Literal["once", "empty", "max_turns", "idle", "stopped", "abandoned"]


class WorkOptions(msgspec.Struct, frozen=True):
    """How long and how a worker works (contract 08 §5.2).

    `once` gives each session at most one pass; it and `until_empty` end the
    worker when nothing can be drained any more, waiting for busy lanes but not
    for work that is due later. `max_turns` counts turns of this worker.
    `idle_exit_ms` ends it after that long without anything to do. `on_failure`
    says what a failed turn means for its session: its queue is held (`pause`)
    or goes on. `lease_wait_ms` is how long a busy lane is waited for before
    its session is left to its holder; None: as long as it takes.
    """

    concurrency: int = 1
    once: bool = False
    until_empty: bool = False
    max_turns: int | None = None
    idle_exit_ms: int | None = None
    on_failure: OnFailure = "pause"
    lease_wait_ms: int | None = None


class SessionTaken(msgspec.Struct, frozen=True):
    """The worker opened a session to drain it."""

    session_id: str


class SessionLeft(msgspec.Struct, frozen=True):
    """The worker closed a session again."""

    session_id: str


class ActivityShown(msgspec.Struct, frozen=True):
    """What a running turn shows; `TurnStarted` and `TurnFinished` are among it."""

    session_id: str
    activity: TurnActivity


class TurnEnded(msgspec.Struct, frozen=True):
    """A turn was committed. `is_failure` says that it stopped short without having been cancelled."""

    session_id: str
    result: TurnResult
    is_failure: bool


class CommandsApplied(msgspec.Struct, frozen=True):
    """Session commands were applied."""

    session_id: str
    receipts: tuple[SessionCommandReceipt, ...]


class PassFailed(msgspec.Struct, frozen=True):
    """A pass ended without a commit. It is tried again after `retry_in_ms`; None: its session is left alone for a good
    while, unless its queue is held."""

    session_id: str
    error: LashError
    retry_in_ms: int | None = None


class HeldAfterFailure(msgspec.Struct, frozen=True):
    """The queue of a session was held after a failure; it goes on once it is released."""

    session_id: str
    reason: str


class LaneGivenUp(msgspec.Struct, frozen=True):
    """A lane stayed busy longer than the worker waits; its session is left to its holder."""

    session_id: str


WorkEvent = (
    SessionTaken
    | SessionLeft
    | ActivityShown
    | TurnEnded
    | CommandsApplied
    | PassFailed
    | HeldAfterFailure
    | LaneGivenUp
)
OnWorkEvent = Callable[[WorkEvent], object]


class WorkReport(msgspec.Struct, frozen=True):
    """What a worker did (contract 08 §5.2): turns it committed, how many of them failed, passes that ended without a
    commit for good, the sessions it worked on and those it held, in order, and why it ended."""

    turns: int
    failed: int
    errors: int
    sessions: tuple[str, ...]
    held: tuple[str, ...]
    stopped_by: StoppedBy
