"""A home whose queue is in a known state: rows put there through the store, judged through the real command."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from support.cli import Result, run_lash, spawn_lash
from support.prepared import prepare

from lash_cli.api.queue import SessionQueue
from lash_cli.core.lease import LeaseOwnerIdentity
from lash_cli.core.queued_work import (
    AgentFrameTask,
    DeliveryPolicy,
    ProcessWake,
    QueuedWorkBatchDraft,
    SlotPolicy,
    wake_draft,
)
from lash_cli.paths import resolve_paths
from lash_cli.store.base import DrainSelection, LaneGranted, LaneRequest, RuntimePersistence
from lash_cli.system import SystemClock, SystemIds, this_process
from lash_cli.wiring import open_store

T = TypeVar("T")
Work = Callable[[RuntimePersistence], Awaitable[T]]


class QueuedHome:
    """One home with a session `s` called `work`."""

    def __init__(self, home: Path) -> None:
        self.home = prepare(home, ("open", "s", "--name", "work"))

    def lash(self, *args: str, **options: Any) -> Result:
        """Run one command to its end."""
        return run_lash(args, home=self.home, **options)

    def spawn(self, *args: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start one command."""
        return spawn_lash(args, home=self.home, **options)

    def ended(self, process: subprocess.Popen[bytes], timeout: float = 60) -> Result:
        """How a started command ended."""
        out, err = process.communicate(timeout=timeout)
        return Result(process.returncode, out.decode(), err.decode())

    def add(self, text: str, *options: str, session: str = "s") -> str:
        """Queue a text as `lash enqueue` does; its input id. With no option but a key that takes no process."""
        if session == "s" and (not options or options[0] == "--key"):
            key = options[1] if options else None
            return self.queue(lambda queue: queue.enqueue(text, key=key)).input_id
        done = self.lash("enqueue", session, text, *options, "-q")
        assert done.code == 0, done.err
        return done.out.strip()

    def store(self, work: Work[T]) -> T:
        """Run `work` over the store of this home."""

        async def run() -> T:
            store = open_store(resolve_paths({"LASH_HOME": str(self.home)}))
            try:
                return await work(store)
            finally:
                await store.aclose()

        return asyncio.run(run())

    def queue(self, work: Callable[[SessionQueue], Awaitable[T]], session: str = "s") -> T:
        """Run `work` over the queue of a session."""
        return self.store(lambda store: work(SessionQueue(store, SystemClock(), SystemIds(), session)))

    def states(self, session: str = "s") -> dict[str, str]:
        """Text to stored state of every input, in order; a text that stands twice is told by `#2`."""

        async def read(store: RuntimePersistence) -> dict[str, str]:
            found: dict[str, str] = {}
            for row in await store.inputs(session, pending_only=False):
                text = " ".join(getattr(item, "text", "[attachment]") for item in row.input.items)
                while text in found:
                    text += "#2"
                found[text] = row.state.value
            return found

        return self.store(read)

    def waiting(self, session: str = "s") -> list[str]:
        """The texts that wait, in order."""

        async def read(store: RuntimePersistence) -> list[str]:
            rows = await store.inputs(session, pending_only=True)
            return ["".join(getattr(item, "text", "") for item in row.input.items) for row in rows]

        return self.store(read)

    def take(self, *, session: str = "s", turn_id: str = "t_taken", max_inputs: int = 64, is_alive: bool = True) -> str:
        """Start a turn from the queue and leave it unfinished; its claim's id. With `is_alive` this process holds the
        lane, else the lease is over."""

        async def take(store: RuntimePersistence) -> str:
            clock, ids = SystemClock(), SystemIds()
            granted = await store.open_lane(
                LaneRequest(
                    session_id=session,
                    owner=LeaseOwnerIdentity(ids.token(), ids.token(), this_process(), "test"),
                    ttl_ms=600_000 if is_alive else 3,
                    now_ms=clock.now_ms() - (0 if is_alive else 1000),
                    lease_token=ids.token(),
                    claim_token=ids.token(),
                    turn_id=turn_id,
                    drain=DrainSelection(max_inputs=max_inputs),
                    is_new_turn=True,
                )
            )
            assert isinstance(granted, LaneGranted), granted
            claim = granted.claim or granted.work
            assert claim is not None
            return claim.claim_id

        return self.store(take)

    def garble(self, input_id: str) -> None:
        """Make the text of an input undecodable, as a damaged file or a newer program might leave it."""
        connection = sqlite3.connect(self.home / "lash.db")
        with connection:
            changed = connection.execute("UPDATE inputs SET input = '[]' WHERE input_id = ?", (input_id,))
            assert changed.rowcount == 1
        connection.close()

    def add_wake(self, sequence: int = 1, *, session: str = "s") -> str:
        """Queue the wake of a process; its batch id."""
        wake = ProcessWake(f"w_{sequence}", "p_1", sequence, "done")
        return self.queue(lambda queue: _batch_id(queue, wake_draft(session, wake)), session)

    def add_task(self, task: str = "tidy up", *, session: str = "s", available_at_ms: int = 0) -> str:
        """Queue a frame's task; its batch id."""
        draft = QueuedWorkBatchDraft(
            session,
            (AgentFrameTask("f_1", task),),
            DeliveryPolicy.AFTER_CURRENT_TURN_COMMIT,
            SlotPolicy.EXCLUSIVE,
            available_at_ms=available_at_ms,
        )
        return self.queue(lambda queue: _batch_id(queue, draft), session)


async def _batch_id(queue: SessionQueue, draft: QueuedWorkBatchDraft) -> str:
    return (await queue.enqueue_work(draft)).batch_id
