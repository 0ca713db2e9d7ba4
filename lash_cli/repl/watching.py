"""What a chat sees of its session: the observation stream, the queue and the lane (contract 08 §7.1, 04 §5).

An ordinary client: everything that is shown comes from the same stream that
`lash tail` reads, whichever process works on the session, so nothing is
printed twice and nothing only because it was typed here. Reads only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, NamedTuple, TypeVar

from lash_cli.api.core import LashCore
from lash_cli.core.activity import QueuedInputAccepted, ToolCallCompleted, TurnActivity, TurnFinished, TurnStarted
from lash_cli.core.content import AttachmentItem, Message, message_text
from lash_cli.core.frames import current_frame
from lash_cli.core.ingress import ActiveTurn
from lash_cli.core.observation import (
    ActivityObserved,
    AgentFrameSwitched,
    QueueChanged,
    ResidentChanged,
    SessionCursor,
    SessionObservationEvent,
    StateCommitted,
)
from lash_cli.core.outcome import Stopped, TurnOutcome
from lash_cli.errors import LashError, NotFoundError
from lash_cli.repl.desk import Desk, Face, Recorder
from lash_cli.runtime.observing import ObservedEvent, ObservedGap, SessionObservation
from lash_cli.runtime.state import SessionReadView
from lash_cli.runtime.stored_turns import stored_result
from lash_cli.store.base import SessionRow, TurnRecord
from lash_cli.views.chat_history import answers_in, input_text, message_blocks, user_block
from lash_cli.views.chat_lines import Waiting
from lash_cli.views.chat_picture import Block, ChatPicture, whole_tool
from lash_cli.views.safe_text import preview, safe_text
from lash_cli.views.turn_text import answer_of

T = TypeVar("T")

KEPT_ANSWERS = 50
# How long a store that is busy is left alone.
_BUSY_SECONDS: Final = 0.25


class Running(NamedTuple):
    """The turn that is under way, in whatever process."""

    turn_id: str
    turn_index: int | None
    started_at_ms: int


OnTurnEnd = Callable[[str, TurnOutcome], Awaitable[None]]


class Watch:
    """One session as its chat sees it. `row`, `waiting` and `running` are what was known at the last look."""

    def __init__(self, core: LashCore, row: SessionRow, desk: Desk) -> None:
        self._core = core
        self._desk = desk
        self.session_id = row.meta.session_id
        self.row = row
        self.waiting: tuple[Waiting, ...] = ()
        self.running: Running | None = None
        self.picture = ChatPicture(safe_text)
        self.cost: str | None = None
        # Answers, those from before the chat too, newest last, for the clipboard.
        self.answers: list[str] = []
        # The newest tool call that ended, in full.
        self.last_tool: str | None = None
        self.face: Face
        self.on_turn_end: OnTurnEnd
        self.recorder: Recorder | None = None
        self._observed = core.observe(self.session_id)
        self._cursor: SessionCursor | None = None
        self._last_node_id: str | None = None
        # The head that the next text is known to follow; `row` may know of a move whose event is still to come.
        self._head: str | None = None
        self._counted: int | None = None
        self._own_moves = 0
        self._has_switched = False
        self._is_busy_told = False

    @property
    def status(self) -> str:
        """The status word of the session at the last look."""
        return self._desk.status(self.row, self.now_ms())

    def now_ms(self) -> int:
        """The present, in epoch milliseconds."""
        return self._core.host.clock.now_ms()

    async def begin(self, replay: int) -> None:
        """Show the last `replay` messages and remember where the stream goes on."""
        observation = await self._observed.current_observation()
        self._cursor, self._head = observation.cursor, observation.read_view.leaf_node_id
        if self.recorder is not None:
            self.recorder.begin(self._core.store, self.row, observation.cursor)
        messages = observation.read_view.messages
        self._last_node_id = messages[-1].id if messages else None
        self.answers = answers_in(messages)[-KEPT_ANSWERS:]
        if replay > 0 and messages:
            left_out = len(messages) - replay
            blocks = message_blocks(messages[-replay:], safe_text)
            if left_out > 0:
                blocks.insert(0, Block("note", f"{left_out} earlier messages: /log shows them"))
            self.face.show(blocks)
        await self._tell_last()
        await self.look()
        running = await self._core.running_turn(self.session_id)
        if running is not None and self.status in ("running", "waiting"):
            self.running = Running(running.turn_id, running.turn_index, running.started_at_ms)

    async def follow(self) -> None:
        """Show what happens until the caller cancels; a store that is busy is waited for. Raises `LiveReplayClosed`
        when the session is deleted."""
        await self._patiently(self._follow)

    async def _follow(self) -> None:
        assert self._cursor is not None, "begun before"
        stream = self._observed.subscribe_and_recover(self._cursor)
        try:
            async for item in stream:
                # Whoever begins again after a failure shows nothing twice.
                self._cursor = stream.cursor
                await self._record(item)
                if isinstance(item, ObservedGap):
                    await self._resync(item.observation, item.gap.reason.value)
                else:
                    await self._event(item.event)
        finally:
            await stream.aclose()

    async def _record(self, item: ObservedEvent | ObservedGap) -> None:
        if self.recorder is None:
            return
        if isinstance(item, ObservedGap):
            await self.recorder.gap(item)
        else:
            await self._patiently(partial(self.recorder.event, item.event))

    async def _patiently(self, read: Callable[[], Awaitable[T]]) -> T:
        """What `read` answers; while the store is busy it is asked again. Raises what will not pass by itself."""
        while True:
            try:
                answer = await read()
            except LashError as error:
                if not error.retryable:
                    raise
                self.tell_busy(error)
            else:
                self._is_busy_told = False
                return answer
            await asyncio.sleep(_BUSY_SECONDS)

    def tell_busy(self, error: LashError) -> None:
        """Say that the store is busy, once until it answers again."""
        if not self._is_busy_told:
            self._is_busy_told = True
            said = f"{error.message}; what happens meanwhile is shown as soon as it is free"
            self.face.show([Block("error", safe_text(said))])

    async def read_view(self) -> SessionReadView:
        """The committed transcript of the present branch."""
        return await self._observed.read_view()

    @asynccontextmanager
    async def own_move(self) -> AsyncIterator[None]:
        """The head is moved by this chat inside the block, which says so itself."""
        self._own_moves += 1
        try:
            yield
            await self.look()
            self._head = self.row.leaf_node_id
        finally:
            self._own_moves -= 1

    async def look(self) -> None:
        """Read who works on the session and what waits. Raises `NotFoundError` for a session that is gone."""
        row = await self._core.store.session_row(self.session_id)
        if row is None:
            raise NotFoundError(f"session {self.session_id} is gone")
        self.row = row
        if row.pending_inputs:
            inputs = await self._core.queue(self.session_id).pending_inputs()
            self.waiting = tuple(
                Waiting(
                    waiting.input_id,
                    isinstance(waiting.ingress, ActiveTurn) and waiting.ingress.turn_id == row.running_turn_id,
                    input_text(waiting.input),
                    any(isinstance(item, AttachmentItem) for item in waiting.input.items),
                )
                for waiting in inputs
            )
        else:
            self.waiting = ()
        if self.running is not None and row.running_turn_id != self.running.turn_id:
            # Its end was not observed: its process died and somebody else settled it, or the event is still to come.
            self.running = None
        if row.head_revision != self._counted:
            self.cost = await self._desk.cost(self._core.store, self.session_id)
            self._counted = row.head_revision
        self._is_busy_told = False
        self.face.refresh()

    async def _event(self, event: SessionObservationEvent) -> None:
        payload = event.payload
        if isinstance(payload, ActivityObserved):
            await self._activity(payload.activity)
        elif isinstance(payload, AgentFrameSwitched):
            self._has_switched = True
        elif isinstance(payload, StateCommitted):
            before, has_switched = self._head, self._has_switched
            self._has_switched = False
            # Asked before the look: the move may be over when it is done.
            is_ours = event.turn_id is not None or self._own_moves > 0
            await self._patiently(self.look)
            self._head = self.row.leaf_node_id
            if not is_ours and self._head != before:
                await self._tell_move(has_switched)
        elif isinstance(payload, QueueChanged | ResidentChanged):
            await self._patiently(self.look)

    async def _activity(self, activity: TurnActivity) -> None:
        event = activity.event
        if isinstance(event, TurnStarted):
            record = await self._turn(activity.turn_id)
            self.running = Running(activity.turn_id, record.turn_index if record else None, activity.at_ms)
            if event.redriven:
                self.face.show([Block("note", f"finishing interrupted turn {activity.turn_id}")])
            await self._show_inputs(event.input_ids)
        elif isinstance(event, QueuedInputAccepted):
            await self._show_inputs(event.input_ids)
        elif isinstance(event, ToolCallCompleted):
            self.last_tool = whole_tool(event, safe_text)
        blocks = self.picture.fold(activity)
        if blocks:
            self.face.show(blocks)
        if isinstance(event, TurnStarted | QueuedInputAccepted | TurnFinished):
            await self._patiently(self.look)
        if isinstance(event, TurnFinished):
            await self._finished(activity.turn_id, event.outcome)
        self.face.refresh()

    async def _finished(self, turn_id: str, outcome: TurnOutcome) -> None:
        self.running = None
        record = await self._turn(turn_id)
        if record is not None and record.last_node_id is not None:
            self._last_node_id = record.last_node_id
        answer = answer_of(outcome)
        if answer is not None:
            self.answers = [*self.answers, answer][-KEPT_ANSWERS:]
        if isinstance(outcome, Stopped) and outcome.reason != "cancelled":
            await self._tell_stop(turn_id, outcome)
        await self.on_turn_end(turn_id, outcome)

    async def _tell_stop(self, turn_id: str, outcome: Stopped) -> None:
        """Why a turn stopped, and what can be done about it."""
        if outcome.reason == "cancelled":
            self.face.show([Block("note", "turn cancelled")])
            return
        result = await self._patiently(partial(stored_result, self._core.store, self.session_id, turn_id))
        error = self._desk.turn_error(result, self.row.config.provider_id) if result is not None else None
        said = f"turn stopped: {outcome.reason}" if error is None else self._desk.error_text(error)
        self.face.show([Block("error", said)])

    async def _tell_last(self) -> None:
        """Why the turn stopped that stands at the head: no message says it."""
        for last in await self._patiently(partial(self._core.store.turns, self.session_id, limit=1)):
            outcome = last.summary.outcome if last.summary is not None and last.last_node_id == self._head else None
            if isinstance(outcome, Stopped):
                await self._tell_stop(last.turn_id, outcome)

    async def _show_inputs(self, input_ids: tuple[str, ...]) -> None:
        for input_id in input_ids:
            found = await self._patiently(partial(self._core.store.turn_input, self.session_id, input_id))
            if found is not None:
                self.face.show([user_block(input_text(found[0].input), safe_text)])

    async def _tell_move(self, has_switched: bool) -> None:
        """No turn and nobody here moved the head: what stands on the screen is not what the next text follows."""
        view = await self._patiently(self.read_view)
        last = next((message for message in reversed(view.messages) if message_text(message).strip()), None)
        if has_switched and current_frame(view.frames).reason == "compaction":
            said = f"the conversation was compacted: {len(view.messages)} messages are left of it"
        elif last is None:
            said = "the head was moved: what is said next stands at the beginning"
        else:
            said = f"the head was moved: what is said next follows {last.role}: {preview(message_text(last), 60)}"
        self.face.show([Block("note", safe_text(said))])

    async def _resync(self, observation: SessionObservation, reason: str) -> None:
        """Live events were missed: what they said stands in the transcript."""
        self.picture.forget()
        self._head = observation.read_view.leaf_node_id
        self.answers = answers_in(observation.read_view.messages)[-KEPT_ANSWERS:]
        news = _after(observation.read_view.messages, self._last_node_id)
        self.face.show([Block("note", f"some live events were missed ({reason})"), *message_blocks(news, safe_text)])
        if news:
            self._last_node_id = news[-1].id
            await self._tell_last()
        await self._patiently(self.look)

    async def _turn(self, turn_id: str) -> TurnRecord | None:
        return await self._patiently(partial(self._core.store.turn, self.session_id, turn_id))


def _after(messages: Sequence[Message], node_id: str | None) -> Sequence[Message]:
    """The messages behind the one of this id; all of them when none is known, or it is on another branch."""
    for index, message in enumerate(messages):
        if message.id == node_id:
            return messages[index + 1 :]
    return messages
