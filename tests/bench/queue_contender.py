"""One queue in a process of its own, told over its standard input what to do: `put N`, `fill N` or `drain`.

    python queue_contender.py NAME STYLE WIDTH DIRECTORY SESSION

`queues.py` starts one for each queue of a comparison and lets them work in
short turns. STYLE is how the program calls the queue: `blocking` on its own
threads, WIDTH of them; `loop` from an event loop that is never held up, with
WIDTH calls in flight, for which the queues of others take a thread. `put` adds
one by one; a drain claims and settles until nothing is left, for ours with up
to WIDTH inputs to a turn. Every answer is one line: `{"items": N, "seconds": S}`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from measuring import clock, user_text
from queue_peers import PEERS, Peer, body

from lash_cli.api.queue import SessionQueue
from lash_cli.core.commit import Unchanged
from lash_cli.core.content import TurnInput
from lash_cli.core.ingress import InputDraft
from lash_cli.store.base import DrainSelection, LaneGranted, LaneRequest
from lash_cli.store.conformance import builders as make
from lash_cli.store.sqlite.store import SqliteStore
from lash_cli.system import SystemClock, SystemIds

OURS = "lash"
_FILLED_AT_ONCE = 1_000


class Contender(Protocol):
    """What a process can be told to do."""

    def put(self, count: int) -> None: ...

    def fill(self, count: int) -> None: ...

    def drain(self) -> int: ...

    def close(self) -> None: ...


def open_store(directory: Path) -> SqliteStore:
    """The store of a directory, at FULL."""
    return SqliteStore.open(directory / "lash.db", clock=SystemClock(), ids=SystemIds())


def finish(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that never suspends, as a program without an event loop does."""
    try:
        work.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waited")


async def fill(store: SqliteStore, session_id: str, count: int) -> None:
    """Put `count` inputs into a queue, as many at once as the writer takes."""
    ids = SystemIds()
    for first in range(0, count, _FILLED_AT_ONCE):
        drafts = [
            InputDraft(session_id, ids.new("in"), TurnInput.text(user_text(index)))
            for index in range(first, min(first + _FILLED_AT_ONCE, count))
        ]
        await asyncio.gather(*(store.enqueue_turn_input(draft) for draft in drafts))


class Drain:
    """Drains one session turn by turn, saying nothing: what a queue costs without a model."""

    def __init__(self, store: SqliteStore, session_id: str, per_claim: int) -> None:
        self._store = store
        self._session_id = session_id
        self._selection = DrainSelection(max_inputs=per_claim)
        self._ids = SystemIds()
        self._owner = make.owner(self._ids.token())

    async def once(self) -> int:
        """One turn; how many inputs it settled."""
        now_ms = SystemClock().now_ms()
        request = LaneRequest(
            session_id=self._session_id,
            owner=self._owner,
            ttl_ms=make.TTL_MS,
            now_ms=now_ms,
            lease_token=self._ids.token(),
            claim_token=self._ids.token(),
            turn_id=self._ids.new("t"),
            drain=self._selection,
            is_new_turn=True,
        )
        granted = await self._store.open_lane(request)
        if not isinstance(granted, LaneGranted):
            return 0
        assert granted.turn is not None and granted.claim is not None and granted.lease is not None
        commit = make.commit(
            granted.lease.fence(),
            Unchanged(None),
            expected=granted.head.head_revision,
            turn=make.stamp(granted.turn.turn_id),
            claim=granted.claim,
            release=True,
            now_ms=now_ms,
        )
        await self._store.commit_runtime_state(commit)
        return len(granted.claim.inputs)

    async def all(self) -> int:
        """Turns until nothing is left; how many inputs they settled."""
        settled = 0
        while count := await self.once():
            settled += count
        return settled


class OursBlocking:
    """Ours in a program without an event loop, as `lash enqueue` calls it."""

    def __init__(self, directory: Path, session_id: str, width: int) -> None:
        self._store = open_store(directory)
        finish(make.create(self._store, SystemClock(), session_id))
        self._session_id = session_id
        self._queue = SessionQueue(self._store, SystemClock(), SystemIds(), session_id)
        self._drain = Drain(self._store, session_id, width)
        self._pool = Pool(width, lambda: lambda index: finish(self._queue.enqueue(user_text(index))))

    def put(self, count: int) -> None:
        self._pool.run(count)

    def fill(self, count: int) -> None:
        asyncio.run(fill(self._store, self._session_id, count))

    def drain(self) -> int:
        return int(finish(self._drain.all()))

    def close(self) -> None:
        self._pool.close()
        self._store.close()


class OursInLoop:
    """Ours in a program with an event loop."""

    def __init__(self, directory: Path, session_id: str, width: int) -> None:
        self._loop = asyncio.new_event_loop()
        self._store = open_store(directory)
        self._loop.run_until_complete(make.create(self._store, SystemClock(), session_id))
        self._session_id = session_id
        self._queue = SessionQueue(self._store, SystemClock(), SystemIds(), session_id)
        self._drain = Drain(self._store, session_id, width)
        self._width = width

    def put(self, count: int) -> None:
        async def produce(first: int) -> None:
            for index in range(first, count, self._width):
                await self._queue.enqueue(user_text(index))

        async def all_of_them() -> None:
            await asyncio.gather(*(produce(first) for first in range(self._width)))

        self._loop.run_until_complete(all_of_them() if self._width > 1 else produce(0))

    def fill(self, count: int) -> None:
        self._loop.run_until_complete(fill(self._store, self._session_id, count))

    def drain(self) -> int:
        return self._loop.run_until_complete(self._drain.all())

    def close(self) -> None:
        self._loop.run_until_complete(self._store.aclose())
        self._loop.close()


class Pool:
    """`width` threads that share a number of calls; one is the thread of the caller itself."""

    def __init__(self, width: int, make_call: Callable[[], Callable[[int], object]]) -> None:
        self._width = width
        self._make_call = make_call
        self._of_thread = threading.local()
        self._threads = ThreadPoolExecutor(width) if width > 1 else None

    def _run(self, first: int, count: int) -> None:
        call = getattr(self._of_thread, "call", None)
        if call is None:
            call = self._of_thread.call = self._make_call()
        for index in range(first, count, self._width):
            call(index)

    def run(self, count: int) -> None:
        """Make calls number 0 to `count` - 1."""
        if self._threads is None:
            self._run(0, count)
        else:
            list(self._threads.map(self._run, range(self._width), [count] * self._width))

    def close(self) -> None:
        """End the threads."""
        if self._threads is not None:
            self._threads.shutdown()


class Other:
    """The queue of somebody else; every thread has a connection of its own."""

    def __init__(self, name: str, style: str, directory: Path, width: int) -> None:
        make_peer = next(peer[3] for peer in PEERS if peer[0] == name)
        self._peer: Peer = make_peer(directory)
        self._width = width
        self._threads = ThreadPoolExecutor(width) if style == "loop" else None
        self._loop = asyncio.new_event_loop() if style == "loop" else None
        self._of_thread = threading.local()

        def new_call() -> Callable[[int], object]:
            peer = self._peer if width == 1 else make_peer(directory)
            return lambda index: peer.put(body(index, user_text(index)))

        self._make_peer = make_peer
        self._directory = directory
        self._pool = Pool(width, new_call)

    def _put_in_thread(self, index: int) -> None:
        peer = getattr(self._of_thread, "peer", None)
        if peer is None:
            peer = self._of_thread.peer = self._make_peer(self._directory)
        peer.put(body(index, user_text(index)))

    def put(self, count: int) -> None:
        if self._loop is None:
            self._pool.run(count)
            return
        loop = self._loop

        async def produce(first: int) -> None:
            for index in range(first, count, self._width):
                await loop.run_in_executor(self._threads, self._put_in_thread, index)

        async def all_of_them() -> None:
            await asyncio.gather(*(produce(first) for first in range(self._width)))

        loop.run_until_complete(all_of_them())

    def fill(self, count: int) -> None:
        self._peer.fill([body(index, user_text(index)) for index in range(count)])

    def drain(self) -> int:
        settled = 0
        while self._peer.take():
            settled += 1
        return settled

    def close(self) -> None:
        self._pool.close()
        if self._threads is not None:
            self._threads.shutdown()
        if self._loop is not None:
            self._loop.close()
        self._peer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("style", choices=["blocking", "loop"])
    parser.add_argument("width", type=int)
    parser.add_argument("directory", type=Path)
    parser.add_argument("session")
    options = parser.parse_args()
    contender: Contender
    if options.name != OURS:
        contender = Other(options.name, options.style, options.directory, options.width)
    else:
        kind = OursInLoop if options.style == "loop" else OursBlocking
        contender = kind(options.directory, options.session, options.width)
    print("ready", flush=True)
    for line in sys.stdin:
        word, *number = line.split()
        items = int(number[0]) if number else 0
        started = clock()
        if word == "put":
            contender.put(items)
        elif word == "fill":
            contender.fill(items)
        else:
            items = contender.drain()
        print(json.dumps({"items": items, "seconds": clock() - started}), flush=True)
    contender.close()


if __name__ == "__main__":
    main()
