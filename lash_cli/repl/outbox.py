"""Texts on their way between the draft and the queue, each step written down first (contract 08 §7.4; `drafts`).

What is on its way has an idempotency key, so a process that died in between
finds out afterwards on which side the text is. Nothing here decides anything.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

from lash_cli.api.queue import SessionQueue
from lash_cli.core.codec import tag_of
from lash_cli.core.content import TurnInput
from lash_cli.core.ingress import (
    HOST_PREFIX,
    Cancelled,
    InputState,
    TurnInputIngress,
)
from lash_cli.core.protocols import Ids
from lash_cli.errors import LashError
from lash_cli.repl import drafts
from lash_cli.repl.drafts import Draft, Editing
from lash_cli.repl.memory import ReplMemory
from lash_cli.repl.spawning import text_of
from lash_cli.store.base import RuntimePersistence


class Outbox:
    """The draft of one chat and what leaves it."""

    def __init__(self, store: RuntimePersistence, queue: SessionQueue, memory: ReplMemory, ids: Ids) -> None:
        self._store = store
        self._queue = queue
        self._memory = memory
        self._ids = ids
        self.draft = Draft()
        # What kept the last step from being written down, and who is told when that begins.
        self.failure: LashError | None = None
        self.on_failure: Callable[[LashError], None] | None = None
        # Has the face hand over what was typed since it last did, before something else becomes the draft.
        self.sync: Callable[[], None] = lambda: None

    async def begin(self) -> Draft:
        """Take over what ended chats of this session left; what had reached the store is not brought back."""
        adopted = self._memory.left_behind()
        stored, cancelled = set[str](), set[str]()
        for left in adopted.drafts:
            for leaving in left.leaving:
                if await self._store.input_of_key(self._queue.session_id, HOST_PREFIX + leaving.key) is not None:
                    stored.add(leaving.key)
            for pull in left.pulling:
                found = await self._queue.find_input(pull.input_id)
                if found is not None and found[0].state is InputState.CANCELLED:
                    cancelled.add(pull.input_id)
        open_files = [left.editing.path for left in adopted.drafts if left.editing is not None]
        left_drafts = [drafts.edited(left, _saved(left.editing)) for left in adopted.drafts]
        self.draft = drafts.recovered(left_drafts, stored_keys=stored, cancelled_ids=cancelled)
        self._memory.take_over(adopted, self.draft)
        for path in open_files:
            with suppress(OSError):
                os.unlink(path)
        return self.draft

    @property
    def directory(self) -> str:
        """Where what chats remember stands, which nobody else can read."""
        return self._memory.directory

    @contextmanager
    def editing(self, path: str, text: str) -> Iterator[None]:
        """Meanwhile `text` is in an editor as the file `path`, where the next chat looks should this process die."""
        self.sync()
        self._become(drafts.in_editor(self.draft, Editing(path, text)))
        try:
            yield
        finally:
            self._become(drafts.in_editor(self.draft, None))

    def _become(self, draft: Draft) -> None:
        if draft == self.draft:
            return
        self.draft = draft
        try:
            self._memory.save(draft)
        except LashError as error:
            # What a person does goes on; that it would not survive this process is said once.
            if self.failure is None and self.on_failure is not None:
                self.on_failure(error)
            self.failure = error
        else:
            self.failure = None

    def typed(self, text: str) -> None:
        """The draft says `text`."""
        self._become(drafts.typed(self.draft, text))

    def stash(self) -> None:
        """Put the draft aside."""
        self.sync()
        self._become(drafts.stashed(self.draft))

    def unstash(self) -> bool:
        """Make what was put aside last the draft again; False when nothing was."""
        self.sync()
        before = self.draft
        self._become(drafts.unstashed(before))
        return self.draft != before

    def take(self, text: str) -> str:
        """`text` leaves the draft; the key it goes under."""
        key = f"chat-{self._ids.token()}"
        self._become(drafts.sending(self.draft, key, text))
        return key

    def attach(self, references: Iterable[str]) -> None:
        """These, and no others, go with the text."""
        self._become(drafts.attached(self.draft, references))

    def arrived(self, key: str, input_id: str | None = None) -> None:
        """The store has the text."""
        self._become(drafts.arrived(self.draft, key, input_id))

    def refused(self, key: str) -> None:
        """The store did not take the text: it is the draft again."""
        self.sync()
        self._become(drafts.refused(self.draft, key))

    async def enqueue(self, key: str, content: TurnInput, ingress: TurnInputIngress) -> str:
        """Put a text that was taken into the queue; the id of its row. Raises what the store raises, and then the
        text is the draft again, unless it may have arrived: then the next chat asks the store."""
        try:
            stored = await self._queue.enqueue(content, key=key, ingress=ingress)
        except LashError as error:
            if not error.ambiguous:
                self.refused(key)
            raise
        self.arrived(key, stored.input_id)
        return stored.input_id

    async def pull_back(self, input_id: str, text: str) -> str:
        """Cancel an input of ours; the draft again only if that succeeded. The word of the outcome."""
        self._become(drafts.pulling(self.draft, input_id, text))
        outcome = await self._queue.cancel_input(input_id)
        self.sync()
        self._become(drafts.pulled(self.draft, input_id, is_cancelled=isinstance(outcome, Cancelled)))
        return tag_of(outcome)

    @property
    def unsent(self) -> list[str]:
        """What was typed and, as far as is known, not sent."""
        texts = (*self.draft.stash, *(leaving.text for leaving in self.draft.leaving), self.draft.text)
        return [text for text in texts if text.strip()]

    def put_into_history(self, cwd: str, limit: int) -> bool:
        """Keep what was typed and not sent where every chat finds it: no other chat of this session will come. False
        when there is nothing to keep."""
        for text in self.unsent:
            self._memory.remember(text, cwd, limit, is_sent=False)
        return bool(self.unsent)

    def leave(self) -> None:
        """The chat ends; what was not sent waits for the next one. Raises `StoreReadOnly` when it could not be kept."""
        self._memory.leave(self.draft)


def _saved(editing: Editing | None) -> str | None:
    """What an editor saved that outlived its chat; None where there is nothing to read."""
    try:
        return None if editing is None else text_of(editing.path)
    except OSError:
        return None
