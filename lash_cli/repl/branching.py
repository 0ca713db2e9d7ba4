"""Going back in a chat: fork, rewind, retry and edit (contract 08 §7.2).

Nothing that was said is deleted: a rewind moves the head, what is said next
stands beside the old branch, and the way back is told. Everything that can fail
without a move is done before it.
"""

from __future__ import annotations

from collections.abc import Callable

from lash_cli.core.content import AttachmentPart, Message, TurnInput, is_user_input, message_text
from lash_cli.errors import ConflictError, LashError, UsageError
from lash_cli.repl.client import ChatClient
from lash_cli.repl.panels import Choice, Panel
from lash_cli.runtime.history import HeadMove
from lash_cli.views.safe_text import preview, safe_text

PICKED = 9
PREVIEW_CHARS = 60


class Branching:
    """The commands of one chat that move its head, and the fork. All of them wait for idle, except the fork."""

    def __init__(self, client: ChatClient) -> None:
        self._client = client

    async def fork(self, at: str) -> None:
        """Make a new session that goes on from here, or from `at`; this chat stays where it is."""
        client = self._client
        meta = await client.core.fork_session(client.watch.session_id, at=at or None)
        client.tell(f"forked into {meta.name} ({meta.session_id}): go there with /switch {meta.name}")

    async def rewind(self, steps: int) -> None:
        """Go back to before the `steps`-th last message of the person, which becomes the draft.

        Raises `UsageError` when there are fewer.
        """
        said = await self._said()
        if steps > len(said):
            raise UsageError(f"/rewind {steps} goes back too far", hint=f"there are {len(said)} messages of yours")
        await self.rewind_to(said[-steps])

    async def rewind_to(self, message: Message) -> None:
        """Go back to before `message`, which becomes the draft; what was typed is put aside."""
        client = self._client
        move = await self._move_before(message.id)
        client.stash()
        text = message_text(message)
        client.outbox.typed(text)
        client.face.set_text(text)
        self._tell_move(move)
        if any(isinstance(part, AttachmentPart) for part in message.parts):
            client.tell("its attachments are not in the draft; /retry says a message again with them")
        await client.watch.look()

    async def retry(self) -> None:
        """Say the last message again, beside its answer."""
        client = self._client
        node_id, content = await client.desk.last_said(client.core.store, client.watch.session_id)
        move = await self._move_before(node_id)
        self._tell_move(move)
        if client.turns.is_active:
            client.tell("another turn of this chat began first; /retry says the message when it ended")
        else:
            client.turns.send(None, content)

    async def edit(self) -> None:
        """Edit the last message and say it beside the old one; until the editor ended well nothing is moved.

        Raises `ConflictError` (`nothing_to_retry`) when nothing was said yet.
        """
        client = self._client
        said = await self._said()
        if not said:
            raise ConflictError("nothing was said yet that could be edited", code="nothing_to_retry")
        text = await client.edit_text(message_text(said[-1]))
        if text is None or not text.strip():
            client.tell("nothing was changed")
            return
        key = client.outbox.take(text)
        try:
            move = await self._move_before(said[-1].id)
        except LashError:
            client.outbox.refused(key)
            client.face.set_text(client.outbox.draft.text)
            raise
        self._tell_move(move)
        await client.send_taken(key, TurnInput.text(text))

    async def pick(self) -> None:
        """Ask which message to go back to."""
        said = (await self._said())[-PICKED:]
        if not said:
            return

        def going(message: Message) -> Callable[[], None]:
            return lambda: self._client.call(self.rewind_to(message))

        choices = {
            str(number): Choice(safe_text(preview(message_text(message), PREVIEW_CHARS)), going(message))
            for number, message in enumerate(reversed(said), start=1)
        }
        self._client.face.choose(Panel("go back to before which of your messages?", choices, is_list=True))

    async def _move_before(self, node_id: str) -> HeadMove:
        watch = self._client.watch
        async with watch.own_move():
            return await self._client.core.branch_before_node(watch.session_id, node_id)

    async def _said(self) -> list[Message]:
        """The messages of the person on the present branch, newest last."""
        view = await self._client.watch.read_view()
        return [message for message in view.messages if is_user_input(message)]

    def _tell_move(self, move: HeadMove) -> None:
        if move.is_moved:
            self._client.tell(f"the old branch is kept; back to it: {self._client.desk.undo(move)}")
