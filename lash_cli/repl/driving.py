"""The turns a chat runs itself: one at a time, held by this process only while they run (contract 08 §7.1).

What they show comes through the observation stream like everybody's; here is
only when one begins, that it was begun, and how it ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Literal

from lash_cli.api.session import LashSession
from lash_cli.core.activity import TurnActivity, TurnStarted
from lash_cli.core.content import TurnInput
from lash_cli.core.outcome import Stopped, TurnOutcome
from lash_cli.errors import LashError

if TYPE_CHECKING:
    from lash_cli.runtime.requests import TurnOutput

Ending = Literal["finished", "cancelled", "failed"]


def ending_of(outcome: TurnOutcome) -> Ending:
    """How a turn ended, as far as the queue behind it cares."""
    if isinstance(outcome, Stopped):
        return "cancelled" if outcome.reason == "cancelled" else "failed"
    return "finished"


class OwnTurns:
    """Starts turns and tells how they ended. `on_end` gets the ending, None when there was nothing to run; `on_error`
    gets what ended without an outcome, and the key of the text that was not taken, if it was not. `on_done` gets the
    task when all of that is through. `is_active` says that a turn of ours runs, or is about to."""

    def __init__(
        self,
        session: LashSession,
        *,
        on_taken: Callable[[str], None],
        on_end: Callable[[Ending | None], Awaitable[None]],
        on_error: Callable[[LashError, str | None], Awaitable[None]],
        on_done: Callable[[asyncio.Task[None]], None],
    ) -> None:
        self._session = session
        self._on_taken = on_taken
        self._on_end = on_end
        self._on_error = on_error
        self._on_done = on_done
        self._task: asyncio.Task[None] | None = None
        self.is_active = False
        self._is_closed = False
        # The newest turn of ours that ended.
        self.ended_turn_id: str | None = None
        self._begun = asyncio.Event()

    async def begun_or_over(self) -> None:
        """Return once the turn holds its lane, or there is none."""
        if self.is_active:
            await self._begun.wait()

    def send(self, key: str | None, content: TurnInput | str) -> None:
        """Run a turn from `content`, under `key` if it has one. A turn that a crash cut off is finished first."""
        self._start(lambda sink: self._session.turn(content, key=key).stream_to(sink), key)

    def drain(self) -> None:
        """Run what stands first in the queue."""
        self._start(lambda sink: self._session.queued_turn().stream_to(sink), None)

    def finish(self) -> None:
        """Finish a turn that a crash cut off."""
        self._start(lambda sink: self._session.redrive().stream_to(sink), None)

    def close(self) -> None:
        """Begin no more turns: what was to be sent or finished is left to whoever comes next."""
        self._is_closed = True

    async def join(self) -> None:
        """Wait until the turn under way, and what its end started, is over; raises what that raised. Of a turn that was
        over before, it was told then."""
        waited_for: asyncio.Task[None] | None = None
        while self._task is not None and not self._task.done():
            waited_for = self._task
            await asyncio.wait({waited_for})
        if waited_for is not None:
            waited_for.result()

    def _start(
        self, run: Callable[[Callable[[TurnActivity], Awaitable[None]]], Awaitable[TurnOutput | None]], key: str | None
    ) -> None:
        if self._is_closed:
            return
        assert not self.is_active, "turns of a chat run one after another"
        self._begun = asyncio.Event()
        self.is_active = True
        self._task = asyncio.get_running_loop().create_task(self._run(run, key, self._begun))
        self._task.add_done_callback(self._on_done)

    async def _run(
        self,
        run: Callable[[Callable[[TurnActivity], Awaitable[None]]], Awaitable[TurnOutput | None]],
        key: str | None,
        begun: asyncio.Event,
    ) -> None:
        is_taken = False

        async def note(activity: TurnActivity) -> None:
            nonlocal is_taken
            event = activity.event
            if isinstance(event, TurnStarted):
                if key is not None and not is_taken and not event.redriven:
                    is_taken = True
                    self._on_taken(key)
                begun.set()

        output: TurnOutput | None = None
        failure: LashError | None = None
        try:
            output = await run(note)
        except LashError as error:
            failure = error
        finally:
            # Before anybody is told, and never again: whoever is told may begin the next turn.
            self.is_active = False
            begun.set()
        if failure is not None:
            await self._on_error(failure, None if is_taken else key)
            return
        if key is not None and not is_taken:
            self._on_taken(key)
        turns = output.turns if output is not None else ()
        if turns:
            self.ended_turn_id = turns[-1].turn_id
        await self._on_end(ending_of(turns[-1].outcome) if turns else None)
