"""`ChatClient`: what a chat does about a session when its person says so (contract 08 §7).

Keys become decisions in `rules`, decisions become calls here, and calls are
carried out one after another in the order they were made, so Enter and Tab keep
their order. What a call changes is seen through the observation stream.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, Literal

import msgspec

from lash_cli.api.core import LashCore
from lash_cli.api.session import LashSession
from lash_cli.core.outcome import TurnOutcome
from lash_cli.errors import ConflictError, LashError, SessionExecutionBusy
from lash_cli.repl import rules
from lash_cli.repl.asides import Asides
from lash_cli.repl.desk import Desk, Face
from lash_cli.repl.driving import Ending, OwnTurns, ending_of
from lash_cli.repl.outbox import Outbox
from lash_cli.repl.questions import leaving_panel
from lash_cli.repl.rules import Do, Moment, TurnStanding
from lash_cli.repl.sending import HELD_HERE, UNKNOWN, Sending
from lash_cli.repl.spawning import END_SECONDS
from lash_cli.repl.watching import Watch
from lash_cli.views.chat_picture import Block
from lash_cli.views.safe_text import safe_text

ORIGIN = "lash chat"
LOOK_SECONDS = 1.0
# How long a face may take to give the terminal back, also where another program has it.
FACE_SECONDS = 2 * END_SECONDS
EndReason = Literal["quit", "abandoned", "switched", "signal"]


class ChatOptions(msgspec.Struct, frozen=True):
    """How a chat behaves; the settings of `[repl]` under the options of the command."""

    replay: int = 20
    history: int = 5000
    cwd: str = "."
    ctrl_c: rules.CtrlCOrder = "draft-first"
    after_interrupt: Literal["hold", "continue"] = "hold"


class ChatEnd(msgspec.Struct):
    """Why a chat ended; `go_to` is the session to go on in, "" for a new one."""

    reason: EndReason = "quit"
    status: int = 0
    go_to: str | None = None


class ChatClient(Sending):
    """One chat of one opened session."""

    def __init__(
        self, core: LashCore, session: LashSession, watch: Watch, outbox: Outbox, desk: Desk, options: ChatOptions
    ) -> None:
        self.core = core
        self.session = session
        self.watch = watch
        self.outbox = outbox
        self.desk = desk
        self.options = options
        self.end: ChatEnd | None = None
        self.turns = OwnTurns(
            session,
            on_taken=outbox.arrived,
            on_end=self._own_turn_ended,
            on_error=self._own_turn_failed,
            on_done=_raise_unexpected(self),
        )
        self.is_cancelling = False
        self._face: Face | None = None
        self._queue = core.queue(watch.session_id)
        self._calls: asyncio.Queue[Coroutine[Any, Any, None]] = asyncio.Queue()
        # What may take long and needs no order with what is sent: shell verbs, the editor.
        self.asides = Asides(self.tell, self.tell_error, lambda: self.face.refresh())
        # What does not wait its turn; the loop alone keeps no task alive.
        self._spawned: set[asyncio.Task[None]] = set()
        self._stopped = asyncio.Event()
        self._interrupts = 0
        self._interrupted_at = float("-inf")
        self._holds_for_cancel = False
        self._is_leaving = False
        self._leaving = leaving_panel(self)
        self._patient = None
        self.attachments = ()
        watch.on_turn_end = self._turn_ended

    @property
    def face(self) -> Face:
        """Whoever shows this chat."""
        assert self._face is not None, "attached before the chat runs"
        return self._face

    async def run(self, face: Face) -> ChatEnd:
        """Chat until the person leaves, the terminal goes away, or something fails; raises what failed."""
        self._face = self.watch.face = face
        draft = await self.outbox.begin()
        await self.watch.begin(self.options.replay)
        self.outbox.on_failure = self.tell_error
        self.outbox.sync = face.save_now
        self._tell_beginning()
        self._attach_again()
        if draft.text:
            face.set_text(draft.text)
        for text in draft.stash:
            face.stash_changed(text)
        work = [
            asyncio.create_task(job)
            for job in (
                face.run(),
                self.watch.follow(),
                self._keep_looking(),
                self._carry_out(),
                self.asides.run(),
                self._until_stopped(),
            )
        ]
        try:
            done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                self._note_end_of(task)
        finally:
            self._is_leaving = True
            face.stop()
            await asyncio.wait(work[:1], timeout=FACE_SECONDS)
            await self._leave()
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
            while not self._calls.empty():
                # What it would have sent is still on its way: the next chat finds it.
                self._calls.get_nowait().close()
            self.asides.close()
            self._leave_texts()
        for task in done:
            if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, EOFError):
                raise error
        return self.end or ChatEnd()

    def _leave_texts(self) -> None:
        """Hand what was not sent to the next chat; what cannot be kept stays on the screen at least."""
        try:
            self.outbox.leave()
        except LashError:
            for text in self.outbox.unsent:
                self.tell(f"not sent, and kept nowhere: {text}")
            raise

    def _note_end_of(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and isinstance(task.exception(), EOFError):
            # The terminal is gone: as if it had hung up.
            self.stop("signal", status=129)

    async def _leave(self) -> None:
        """A turn of ours that still runs ends as cancelled and is committed, unless it was abandoned; none begins any
        more."""
        self.turns.close()
        if self.end is not None and self.end.reason == "abandoned":
            return
        if self.turns.is_active:
            self.face.withdraw()
            self.session.cancel_running_turns(origin=ORIGIN, reason="the chat ended")
        # Also of a turn that is over: its end is still being looked after, and so is a cancel of it.
        await self.turns.join()
        if self._spawned:
            await asyncio.wait(self._spawned)

    def stop(self, reason: EndReason, *, status: int = 0, go_to: str | None = None) -> None:
        """End the chat."""
        if self.end is None:
            self.end = ChatEnd(reason, status, go_to)
            self._stopped.set()

    async def _until_stopped(self) -> None:
        await self._stopped.wait()

    async def _carry_out(self) -> None:
        while True:
            call = await self._calls.get()
            try:
                await call
            except LashError as error:
                self.tell_error(error)
            self.face.refresh()

    async def _keep_looking(self) -> None:
        """A lease runs down, a holder dies without a word, and the end of a turn may be among what was missed."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self.watch.running is not None or self.watch.row.running_turn_id is not None or self.watch.waiting:
                try:
                    await self.watch.look()
                except LashError as error:
                    if not error.retryable:
                        raise
                    self.watch.tell_busy(error)
                    continue
            if self.is_cancelling and self.turn_standing() in ("none", "stuck"):
                self._turn_is_over()
            await self._send_patient()

    def call(self, work: Coroutine[Any, Any, None]) -> None:
        """Have `work` done after everything that was asked for before it."""
        self._calls.put_nowait(work)

    def tell(self, text: str) -> None:
        """A note on this screen."""
        self.face.show([Block("note", safe_text(text))])

    def tell_error(self, error: LashError) -> None:
        """An error on this screen; the chat goes on."""
        self.face.show([Block("error", self.desk.error_text(error))])

    def _tell_beginning(self) -> None:
        row = self.watch.row
        if self.watch.status == "stuck":
            who = self.desk.holder(row) or "whoever ran it"
            self.tell(
                f"turn {row.running_turn_id} was cut off: {who} is gone. Nothing of it is lost; Enter finishes it, "
                "and so does your next message"
            )
        try:
            note = self.desk.cut_off_edit(self.watch.session_id)
        except LashError as error:
            self.tell_error(error)
        else:
            if note is not None:
                self.tell(note)

    def turn_standing(self) -> TurnStanding:
        """Who runs a turn."""
        if self.turns.is_active:
            return "own"
        running = self.watch.row.running_turn_id
        if running is None or running == self.turns.ended_turn_id:
            # The row may be of a moment ago, when our turn was not yet over.
            return "none"
        return "stuck" if self.watch.status == "stuck" else "foreign"

    @property
    def is_leaving(self) -> bool:
        """Whether the chat is about to end, or ending."""
        return self.end is not None or self._is_leaving

    @property
    def asks_nobody(self) -> bool:
        """Whether a tool that asks now gets no answer: its turn is to stop."""
        return self.is_cancelling or self.is_leaving

    def moment(self, *, has_draft: bool, has_popup: bool = False, has_panel: bool = False) -> Moment:
        """What the next decision depends on."""
        now = asyncio.get_running_loop().time()
        return Moment(
            has_draft=has_draft,
            has_popup=has_popup,
            has_panel=has_panel,
            turn=self.turn_standing(),
            is_cancelling=self.is_cancelling,
            interrupts=self._interrupts,
            since_interrupt_s=now - self._interrupted_at,
            waiting=len(self.watch.waiting),
            own_next=len(self._own_next()),
            has_aside=self.asides.is_running,
        )

    @property
    def waiting_notice(self) -> str | None:
        """What can be done about a queue that nobody works on; None when there is nothing to say."""
        waiting = len(self.watch.waiting)
        if self.turn_standing() != "none" or not waiting:
            return None
        return f"{waiting} queued: Enter send now · Alt-Q edit · /queue cut"

    def cancel(self, reason: str | None = None) -> None:
        """Give a text that waits for the turn of another process back; without one, as `cancel_turn`."""
        if not self.stop_waiting():
            self.cancel_turn(reason)

    def cancel_turn(self, reason: str | None = None) -> None:
        """Ask the running turn to stop, whoever runs it; what waits is held first if the settings say so."""
        self.is_cancelling = True
        self._note_interrupt()
        self.face.withdraw()
        self.face.refresh()
        # Not behind what was asked for before: stopping does not wait its turn.
        self._spawn(self._cancel(reason))

    async def _cancel(self, reason: str | None) -> None:
        await self.turns.begun_or_over()
        await self.watch.look()
        if self.watch.waiting and self.turns.is_active and self.options.after_interrupt == "hold":
            self._holds_for_cancel = await self._queue.hold(f"a turn was cancelled {HELD_HERE}")
        try:
            receipt = await self.core.request_turn_cancel(self.watch.session_id, origin=ORIGIN, reason=reason)
        except ConflictError:
            self.is_cancelling = False
            self.tell("no turn runs that could be cancelled")
            await self._let_go_of_hold()
            return
        except LashError:
            self.is_cancelling = False
            raise
        self.tell(f"cancel {receipt.outcome}: turn {receipt.address.turn_id}")
        if receipt.outcome == "completion_won":
            self.is_cancelling = False
            await self._let_go_of_hold()

    async def _let_go_of_hold(self) -> None:
        """What waits was held for a cancel, and the turn was over before it: go on as after any turn."""
        if self._holds_for_cancel and not self.turns.is_active:
            self._holds_for_cancel = False
            await self._drain()

    def insist(self) -> None:
        """Ctrl-C again while a turn is being cancelled: say what one more does."""
        self._note_interrupt()
        self.face.withdraw()
        self.session.cancel_running_turns(origin=ORIGIN, reason="interrupted again")
        self.tell("still cancelling; Ctrl-C once more leaves at once, and the turn to recovery")

    def warn_quit(self) -> None:
        """The first of two Ctrl-C that quit."""
        self._note_interrupt()
        self.tell("Ctrl-C again within 2 s to quit")

    def _note_interrupt(self) -> None:
        self._interrupts += 1
        self._interrupted_at = asyncio.get_running_loop().time()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        async def guarded() -> None:
            try:
                await work
            except LashError as error:
                self.tell_error(error)

        task = asyncio.get_running_loop().create_task(guarded())
        self._spawned.add(task)
        task.add_done_callback(self._spawned.discard)
        task.add_done_callback(_raise_unexpected(self))

    def _turn_is_over(self) -> None:
        self.is_cancelling = False
        self._interrupts = 0
        self._interrupted_at = float("-inf")
        self.face.refresh()

    async def _turn_ended(self, turn_id: str, outcome: TurnOutcome) -> None:
        """A turn ended, seen on the stream; of our own turns the driver says more."""
        if self.turns.is_active:
            return
        self._turn_is_over()
        await self._send_patient()
        is_ours = bool(self._own_next()) and self.watch.row.meta.held_at_ms is None
        if is_ours and ending_of(outcome) == "finished" and not self.turns.is_active:
            self.turns.drain()

    async def _own_turn_ended(self, ending: Ending | None) -> None:
        self._turn_is_over()
        was_held, self._holds_for_cancel = self._holds_for_cancel, False
        await self.watch.look()
        if ending is None or self.is_leaving:
            return
        if was_held and ending == "finished":
            await self._queue.release()
            await self.watch.look()
        then = rules.after_turn(
            ending,
            waiting=len(self.watch.waiting) + self.watch.row.pending_batches,
            after_interrupt=self.options.after_interrupt,
        )
        is_held = self.watch.row.meta.held_at_ms is not None
        if then == "hold" and not is_held:
            await self._queue.hold(f"a turn {ending} {HELD_HERE}")
            await self.watch.look()
        elif then == "drain" and not is_held and not self.turns.is_active:
            # While it was looked around, the end may have been seen on the stream too, or somebody pressed Enter.
            self.turns.drain()
        elif then == "nothing" and was_held:
            await self.let_go_of_empty_hold()

    async def _own_turn_failed(self, error: LashError, key: str | None) -> None:
        self._turn_is_over()
        with contextlib.suppress(LashError):  # what failed is told below, and the stream looks again
            await self.watch.look()
        text = next((leaving.text for leaving in self.outbox.draft.leaving if leaving.key == key), None)
        if key is None or text is None or error.ambiguous:
            self.tell_error(error)
            if text is not None:
                self.tell(UNKNOWN)
            return
        self.outbox.refused(key)
        self._text_came_back()
        if isinstance(error, SessionExecutionBusy) and self.outbox.draft.text == text:
            self.face.offer(text)
        else:
            self.tell_error(error)

    def ask_leave(self) -> None:
        """Ask what becomes of the turn of ours that runs."""
        self.face.choose(self._leaving)

    def carry_out(self, do: Do, text: str) -> None:
        """Do what a key decided, as far as it is not the face's own matter."""
        acts: dict[Do, Callable[[], None]] = {
            Do.STASH: self.stash,
            Do.CANCEL: self.cancel,
            Do.INSIST: self.insist,
            Do.ABANDON: lambda: self.stop("abandoned", status=130),
            Do.STOP_ASIDE: self.asides.stop,
            Do.WARN_QUIT: self.warn_quit,
            Do.QUIT: lambda: self.stop("quit"),
            Do.ASK_LEAVE: self.ask_leave,
            Do.SEND: lambda: self.submit(text),
            Do.INJECT: lambda: self.submit(text),
            Do.QUEUE_NEXT: lambda: self.queue_next(text),
            Do.DRAIN: self.drain,
            Do.FINISH: self.finish_interrupted,
            Do.PULL_BACK: self.pull_back,
            Do.OFFER: lambda: self.face.offer(text),
        }
        act = acts.get(do)
        if act is not None:
            act()


def _raise_unexpected(client: ChatClient) -> Callable[[asyncio.Task[None]], None]:
    """What a task of a chat raised ends the chat instead of being lost."""

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:

            async def fail() -> None:
                raise error

            client.call(fail())

    return ended
