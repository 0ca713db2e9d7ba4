"""What tests of queues share: cores over one file that crash at named points, wakes, and inputs from another thread."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec

from lash_cli.api import LashCore, LashSession, SessionSpec, SqliteStore
from lash_cli.core.activity import TurnActivity
from lash_cli.core.content import Message, message_text
from lash_cli.core.queued_work import DeliveryPolicy, ProcessWake, QueuedWorkBatchDraft, wake_draft
from lash_cli.system import SystemClock, SystemIds

S = "s1"


class Crash(BaseException):
    """Ends a core where it stands; nothing of the runtime may catch it."""


class CrashPoints:
    """A crash hook that remembers the points it saw and raises at the n-th of one name."""

    def __init__(self, point: str | None = None, nth: int = 1) -> None:
        self.trace: list[str] = []
        self._point = point
        self._left = nth

    def __call__(self, point: str) -> None:
        self.trace.append(point)
        if point != self._point:
            return
        self._left -= 1
        if self._left == 0:
            raise Crash(point)


class AtPoint:
    """A hook that does something once, when a point is reached."""

    def __init__(self, point: str, action: Callable[[], None]) -> None:
        self._point: str | None = point
        self._action = action

    def __call__(self, point: str) -> None:
        if point == self._point:
            self._point = None
            self._action()


def from_afar(path: Path, work: Callable[[SqliteStore], Coroutine[Any, Any, Any]]) -> None:
    """Run `work` over a store of its own in another thread, and wait for it: another process, as far as SQLite sees."""
    failures: list[BaseException] = []

    async def run() -> None:
        store = SqliteStore.open(path, clock=SystemClock(), ids=SystemIds())
        try:
            await work(store)
        finally:
            await store.aclose()

    def guarded() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            failures.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def wake(sequence: int = 1, process_id: str = "p1", *, text: str | None = None) -> QueuedWorkBatchDraft:
    """A wake of a background process."""
    return wake_draft(S, ProcessWake(f"w{process_id}{sequence}", process_id, sequence, "done", text or sequence))


def later_wake(sequence: int = 1, process_id: str = "p1") -> QueuedWorkBatchDraft:
    """A wake that no running turn takes."""
    return msgspec.structs.replace(wake(sequence, process_id), delivery_policy=DeliveryPolicy.AFTER_CURRENT_TURN_COMMIT)


def said(messages: Any) -> list[str]:
    """The texts of a conversation, messages without text left out."""
    return [message_text(message) for message in messages if message_text(message)]


def last_user_text(messages: Any) -> str:
    """The text the model answers to."""
    texts = said(messages)
    return texts[-1] if texts else ""


def opener(core: LashCore) -> Callable[[str], Any]:
    """Opens sessions as a worker does: stored policy, an owner of their own."""

    @contextlib.asynccontextmanager
    async def open_one(session_id: str) -> AsyncIterator[LashSession]:
        session = await core.open_session(session_id, create=False, spec=SessionSpec(inherit="stored"))
        try:
            yield session
        finally:
            session.close_handle()

    return open_one


async def unseen(activity: TurnActivity) -> None:
    """A sink nobody reads."""


def ids_of(messages: list[Message]) -> list[str]:
    """Message ids in order."""
    return [message.id for message in messages]
