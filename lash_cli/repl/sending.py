"""How a text leaves a chat, and how it comes back (contract 08 §7.4).

Every way out begins with `Outbox.take`, which writes down what leaves under its
key, and is carried out in the order it was asked for.
"""

from __future__ import annotations

import os
from collections.abc import Coroutine, Iterable
from typing import TYPE_CHECKING, Any

from lash_cli.core.content import AttachmentItem, TextItem, TurnInput
from lash_cli.core.ingress import ActiveTurn, NextTurn
from lash_cli.errors import LashError
from lash_cli.repl.spawning import private_copy, text_of

if TYPE_CHECKING:
    from lash_cli.api.core import LashCore
    from lash_cli.api.queue import SessionQueue
    from lash_cli.repl.desk import Desk, Face
    from lash_cli.repl.driving import OwnTurns
    from lash_cli.repl.outbox import Outbox
    from lash_cli.repl.rules import TurnStanding
    from lash_cli.repl.watching import Watch
    from lash_cli.views.chat_lines import Waiting


# What a hold of a chat ends with.
HELD_HERE = "in lash chat"
# Said where nobody knows whether a text arrived.
UNKNOWN = "if the text did not arrive, the next chat of this session begins with it as its draft"


class Sending:
    """The part of `ChatClient` that moves texts."""

    core: LashCore
    watch: Watch
    outbox: Outbox
    desk: Desk
    turns: OwnTurns
    _queue: SessionQueue
    # A text that waits for another process's turn to end, and its key.
    _patient: tuple[str, TurnInput] | None
    # What goes with the next text.
    attachments: tuple[AttachmentItem, ...]

    if TYPE_CHECKING:

        @property
        def face(self) -> Face: ...

        @property
        def is_leaving(self) -> bool: ...

        def call(self, work: Coroutine[Any, Any, None]) -> None: ...

        def tell(self, text: str) -> None: ...

        def tell_error(self, error: LashError) -> None: ...

        def turn_standing(self) -> TurnStanding: ...

    def submit(self, text: str) -> None:
        """Send `text`: as a turn, or into the one of ours that runs."""
        content = self._content(text)
        self.call(self.send_taken(self.outbox.take(text), content))

    def _content(self, text: str) -> TurnInput:
        """The text and what goes with it, which is none of the next text's."""
        attachments, self.attachments = self.attachments, ()
        return TurnInput(items=(TextItem(text), *attachments))

    async def send_taken(self, key: str, content: TurnInput) -> None:
        """Send what was taken out of the draft under `key`: as a turn, or into the one of ours that runs."""
        try:
            await self.let_go_of_empty_hold()
        except LashError as error:
            # Whether it ends now or with the next text: this one is on its way.
            self.tell_error(error)
        await self.turns.begun_or_over()
        if self.turns.is_active:
            await self._enqueue(key, content, into_running=True)
        else:
            self.turns.send(key, content)

    def queue_next(self, text: str) -> None:
        """Queue `text` for the next turn, whoever runs one."""
        content = self._content(text)
        self.call(self._enqueue(self.outbox.take(text), content, into_running=False))

    def inject(self, text: str) -> None:
        """Put `text` into the turn that runs, whoever runs it."""
        content = self._content(text)
        self.call(self._enqueue(self.outbox.take(text), content, into_running=True))

    async def _enqueue(self, key: str, content: TurnInput, *, into_running: bool) -> None:
        await self.turns.begun_or_over()
        record = await self.core.running_turn(self.watch.session_id) if into_running else None
        try:
            await self.outbox.enqueue(key, content, NextTurn() if record is None else ActiveTurn(record.turn_id))
        except LashError as error:
            if not error.ambiguous:
                self._text_came_back()
                raise
            self.tell_error(error)
            self.tell(UNKNOWN)
            return
        await self.watch.look()
        if self.turn_standing() == "none" and self.watch.row.meta.held_at_ms is None:
            # The turn it was meant for ended meanwhile.
            self.turns.drain()

    def drain(self) -> None:
        """Send what waits now."""
        self.call(self._drain())

    async def _drain(self) -> None:
        await self._queue.release()
        if not self.turns.is_active:
            self.turns.drain()
        await self.watch.look()

    async def let_go_of_empty_hold(self) -> None:
        """End a hold of a chat once nothing is left that it keeps back; one of a person is theirs to end."""
        if self.watch.row.meta.held_at_ms is None or self.turns.is_active:
            return
        await self.watch.look()
        row = self.watch.row
        if (row.meta.hold_reason or "").endswith(HELD_HERE) and not row.pending_inputs and not row.pending_batches:
            await self._queue.release()
            await self.watch.look()

    def finish_interrupted(self) -> None:
        """Finish a turn that a crash cut off."""

        async def finish() -> None:
            if not self.turns.is_active:
                self.turns.finish()

        self.call(finish())

    def wait_then_send(self, text: str) -> None:
        """Send `text` when the turn of the other process ended."""
        if self._patient is not None:
            # One text waits already: the other stands behind it.
            self.queue_next(text)
            return
        content = self._content(text)
        self._patient = (self.outbox.take(text), content)
        self.tell("waiting for the other process's turn to end; Esc or /cancel gives the text back")
        self.call(self._send_patient())

    def stop_waiting(self) -> bool:
        """Give the text that waits back to the draft; False when none does."""
        if self._patient is None:
            return False
        key, _ = self._patient
        self._patient = None
        self.outbox.refused(key)
        self._text_came_back()
        return True

    async def _send_patient(self) -> None:
        if self._patient is not None and self.turn_standing() in ("none", "stuck"):
            (key, content), self._patient = self._patient, None
            self.turns.send(key, content)

    def attach(self, references: Iterable[str]) -> None:
        """Have these, and no others, go with the next text. Raises `UsageError` for what cannot be attached."""
        present = tuple(references)
        self.attachments = self.desk.attachments(present) if present else ()
        self.outbox.attach(present)

    def _attach_again(self) -> None:
        """Read what goes with a text that came back; what cannot be read any more does not go with it."""
        try:
            self.attach(self.outbox.draft.attached)
        except LashError as error:
            self.attach(())
            self.tell_error(error)

    def _text_came_back(self) -> None:
        self._attach_again()
        self.face.set_text(self.outbox.draft.text)
        for text in self.outbox.draft.stash[-1:]:
            self.face.stash_changed(text)

    async def edit_text(self, text: str) -> str | None:
        """Let the person edit `text` in their editor; None when that failed, which is told. When the chat ends
        meanwhile, what they saved is the draft, which the next chat has, and nothing else.

        Raises `ConfigError` (`editor_missing`), `StoreReadOnly` and `LashRuntimeError` (`command_not_started`).
        """
        command = self.desk.editor()
        with private_copy(text, self.outbox.directory) as path, self.outbox.editing(path, text):
            status = await self.face.run_verb([*command, path], is_interactive=True)
            edited = text_of(path) if status == 0 or self.is_leaving else None
        if self.is_leaving:
            if edited is not None and edited.strip():
                self.face.set_text(edited)
            return None
        if edited is None:
            self.tell(f"{os.path.basename(command[0])} ended with status {status}; the draft is unchanged")
        return edited

    def pull_back(self) -> None:
        """Take the newest own next-turn input back into the draft, if nobody uses it; with none, what was put aside
        last."""
        self.call(self._pull_back())

    async def _pull_back(self) -> None:
        own = self._own_next()
        if not own:
            if self.outbox.unstash():
                self.face.set_text(self.outbox.draft.text)
            else:
                self.tell("nothing of yours waits for the next turn")
            return
        newest = own[-1]
        if newest.has_attachment:
            self.tell(f"{newest.input_id} has an attachment: /queue cancel {newest.input_id} takes it out")
            return
        outcome = await self.outbox.pull_back(newest.input_id, newest.text)
        if outcome == "cancelled":
            self.face.set_text(self.outbox.draft.text)
        else:
            self.tell(f"{newest.input_id} was not taken back: {outcome}")
        await self.watch.look()
        await self.let_go_of_empty_hold()

    def stash(self) -> None:
        """Put the draft aside."""
        self.face.save_now()
        text = self.outbox.draft.text
        self.outbox.stash()
        self.face.set_text("")
        if text.strip():
            self.face.stash_changed(text)
            self.tell("draft put aside: /back brings it back, and Up where lines can be edited")

    def _own_next(self) -> list[Waiting]:
        own = set(self.outbox.draft.own)
        return [waiting for waiting in self.watch.waiting if waiting.input_id in own and not waiting.is_now]
