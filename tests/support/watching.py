"""Processes that work on a session while a test watches it, and processes that watch.

    python tests/support/watching.py turns DATABASE SESSION COUNT [POINT]
    python tests/support/watching.py enqueue DATABASE SESSION INPUT_ID
    python tests/support/watching.py tails DATABASE SESSION ROUNDS SEED

`turns` runs COUNT turns of a model that streams; at POINT of the first one it
kills itself: `mid-turn` (text was shown), `before-commit` (inside the terminal
transaction), `before-ring` (committed, nobody told). `tails` watches with one
process after another, each killed at a random moment and followed by one that
goes on from the last cursor that came through whole; it prints every line they
printed, then `last`, and ends with the tail that sees the session deleted.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import select
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

from lash_cli.api import LashCore, ModelSpec, ObservedEvent, SessionCursor, SqliteStore
from lash_cli.core.activity import AssistantProseDelta, ModelAttemptReset
from lash_cli.core.codec import tag_of
from lash_cli.core.content import ProsePart
from lash_cli.core.llm import AttemptRecord, LlmCallRecord, LlmCallResult, LlmRequest, LlmResponse, TextDelta
from lash_cli.core.observation import ActivityObserved, QueueChanged, SessionObservationEvent
from lash_cli.core.protocols import CancelSignal, EventSink
from lash_cli.core.usage import TokenUsage
from lash_cli.errors import LiveReplayClosed
from lash_cli.store.sqlite import live, live_commits
from lash_cli.store.sqlite.announcing import WriterConnection
from lash_cli.system import SystemClock, SystemIds

PIECES = tuple(f"piece {number} " for number in range(8))
LONGEST_LIFE_S = 0.12
# One in so many tails lives until it has shown something, however long the machine takes for that.
ONE_IN = 4


class StreamingCaller:
    """A model that streams its pieces, with a pause and a hook after each."""

    provider_id = "streaming"

    def __init__(
        self,
        pieces: tuple[str, ...] = PIECES,
        *,
        pause_s: float = 0.002,
        after_piece: Callable[[int], Awaitable[None]] | None = None,
    ) -> None:
        self._pieces = pieces
        self._pause_s = pause_s
        self._after_piece = after_piece

    async def call(self, request: LlmRequest, *, sink: EventSink, cancel: CancelSignal) -> LlmCallResult:
        for number, piece in enumerate(self._pieces):
            await sink(TextDelta(piece))
            if self._pause_s:
                await asyncio.sleep(self._pause_s)
            if self._after_piece is not None:
                await self._after_piece(number)
        attempt = AttemptRecord(1, 0, 0, "completed", "terminal_observed", usage=TokenUsage(10, 5))
        response = LlmResponse((ProsePart("".join(self._pieces)),), TokenUsage(10, 5))
        return LlmCallResult(LlmCallRecord(request.scope.request_id, (attempt,)), response=response, text_streamed=True)

    async def aclose(self) -> None:
        pass


def fold(events: Iterable[SessionObservationEvent]) -> str:
    """The text a consumer shows of events: pieces by row, retracted by row."""
    rows: dict[str, str] = {}
    for event in events:
        if not isinstance(event.payload, ActivityObserved):
            continue
        activity = event.payload.activity
        match activity.event:
            case AssistantProseDelta(text=piece):
                rows[activity.correlation_id] = rows.get(activity.correlation_id, "") + piece
            case ModelAttemptReset(assistant_prose_correlation_ids=gone):
                for row in gone:
                    rows.pop(row, None)
    return "".join(rows.values())


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(point: str) -> None:
    """Die inside the transaction of the first terminal commit, or between its COMMIT and the ring."""
    is_due = False
    append_commit, execute, announce = live_commits.append_commit, WriterConnection.execute, WriterConnection.announce

    def note(*arguments: Any, **options: Any) -> None:
        nonlocal is_due
        append_commit(*arguments, **options)
        is_due = True

    def die_before(self: WriterConnection, statement: str, *values: Any) -> Any:
        if is_due and point == "before-commit" and statement == "COMMIT":
            die()
        return execute(self, statement, *values)

    def die_after(self: WriterConnection, *arguments: Any, **options: Any) -> None:
        if is_due and point == "before-ring":
            die()
        announce(self, *arguments, **options)

    live_commits.append_commit = note
    WriterConnection.execute = die_before  # type: ignore[method-assign,assignment]
    WriterConnection.announce = die_after  # type: ignore[method-assign]


async def turns(database: str, session_id: str, count: int, point: str | None) -> None:
    store = SqliteStore.open(Path(database), SystemClock(), SystemIds())

    async def after_piece(number: int) -> None:
        if point == "mid-turn" and number == len(PIECES) - 1:
            # Another write behind them: what was shown is in the log now.
            await store.live.trim_session(session_id)
            die()

    if point is not None:
        arm(point)
    caller = StreamingCaller(after_piece=after_piece)
    async with (
        LashCore(provider=caller, model=ModelSpec("m"), store=store) as core,
        await core.open_session(session_id) as session,
    ):
        for number in range(count):
            await session.turn(f"question {number}").run()


async def enqueue(database: str, session_id: str, input_id: str) -> None:
    store = SqliteStore.open(Path(database), SystemClock(), SystemIds())
    async with LashCore(provider=StreamingCaller(), model=ModelSpec("m"), store=store):
        event = QueueChanged("enqueued", (input_id,))
        await store.db.write(
            lambda connection: live.announce_in(connection, session_id, event, SystemClock().now_ms()), durable=True
        )


async def tail(database: str, session_id: str, cursor: str) -> None:
    """One line per item: the cursor after it, and what it was."""
    store = SqliteStore.open(Path(database), SystemClock(), SystemIds(), read_only=True)
    core = LashCore(provider=StreamingCaller(), model=ModelSpec("m"), store=store)
    stream = core.observe(session_id).subscribe_and_recover(SessionCursor.from_store_token(cursor))
    with contextlib.suppress(LiveReplayClosed):
        async for item in stream:
            kind = tag_of(item.event.payload) if isinstance(item, ObservedEvent) else "gap"
            os.write(1, f"{stream.cursor} {kind}\n".encode())
    os.write(1, b"closed\n")


def one_life(
    database: str, session_id: str, cursor: str, life_s: float | None, *, after_first: bool = False
) -> list[str]:
    """The whole lines of one tail that is killed after `life_s` seconds, of its life or of what it shows; None to let
    it end."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(writing, 1)
        os.close(reading)
        os.close(writing)
        asyncio.run(tail(database, session_id, cursor))
        os._exit(0)
    os.close(writing)
    received = bytearray()
    deadline = None if life_s is None or after_first else time.monotonic() + life_s
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not select.select([reading], [], [], left)[0]:
            break
        chunk = os.read(reading, 65_536)
        if not chunk:
            break
        received += chunk
        if deadline is None and life_s is not None:
            deadline = time.monotonic() + life_s
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while chunk := os.read(reading, 65_536):
        received += chunk
    os.close(reading)
    return received.decode().splitlines() if received.endswith(b"\n") else received.decode().splitlines()[:-1]


def tails(database: str, session_id: str, rounds: int, seed: int) -> None:
    moments = random.Random(seed)
    cursor = f"lashsc2:{'0' * 16}:0:0:{session_id}"
    for number in range(rounds + 1):
        if number == rounds:
            print("last", flush=True)
        life_s = None if number == rounds else moments.random() * LONGEST_LIFE_S
        for line in one_life(database, session_id, cursor, life_s, after_first=number % ONE_IN == 0):
            print(line, flush=True)
            if line != "closed":
                cursor = line.partition(" ")[0]


if __name__ == "__main__":
    kind, *arguments = sys.argv[1:]
    match kind:
        case "turns":
            asyncio.run(turns(arguments[0], arguments[1], int(arguments[2]), (arguments[3:] or [None])[0]))
        case "enqueue":
            asyncio.run(enqueue(*arguments))
        case "tails":
            tails(arguments[0], arguments[1], int(arguments[2]), int(arguments[3]))
