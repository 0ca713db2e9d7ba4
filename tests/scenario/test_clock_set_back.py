"""A wall clock that is set back, by a little or to the beginning of time: nothing waits for it to come round again.

Order comes from sequence numbers and patience from the monotonic clock; only what people read is a date.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.driving import Crash, CrashPoints, opener
from support.scripted import ScriptedCaller, calls, text

from lash_cli.api import (
    FunctionToolProvider,
    LashCore,
    QueueWorker,
    Replayed,
    SessionCursor,
    SqliteStore,
    Stopped,
    ToolContext,
    WorkOptions,
    tool,
)
from lash_cli.core.activity import TurnFinished
from lash_cli.core.observation import GENESIS, ActivityObserved
from lash_cli.core.policy import ModelSpec
from lash_cli.core.tools import FailureClass, RetryHint, SafeRetry, ToolCallOutput, failure
from lash_cli.errors import SessionExecutionBusy
from lash_cli.system import SystemClock, SystemIds

S = "s"
DAY_MS = 86_400_000
BACK = pytest.mark.parametrize("back_ms", [3_600_000, 20_000 * DAY_MS], ids=["an hour", "to 1970"])


class Nothing(msgspec.Struct):
    """No arguments."""


class SetBack(SystemClock):
    """A wall clock that somebody sets back."""

    back_ms = 0

    def now_ms(self) -> int:
        return max(0, super().now_ms() - self.back_ms)


def core_of(tmp_path: Path, clock: SetBack, caller: ScriptedCaller, **options: Any) -> LashCore:
    store = SqliteStore.open(tmp_path / "home" / "lash.db", clock=clock, ids=SystemIds())
    return LashCore(
        provider=caller, store=store, clock=clock, queue_driver="none", model=ModelSpec("model-1"), **options
    )


@BACK
async def test_a_turn_during_which_the_clock_is_set_back_is_kept_and_so_is_its_lane(
    tmp_path: Path, back_ms: int
) -> None:
    clock, caller = SetBack(), ScriptedCaller([text("one"), text("two")])
    other = ScriptedCaller([text("never")])
    async with core_of(tmp_path, clock, caller) as core, core_of(tmp_path, clock, other) as stranger:
        session = await core.open_session(S)
        await session.turn("before").run()
        caller.gate = asyncio.Event()
        caller.entered.clear()
        running = asyncio.create_task(session.turn("during").run())
        await caller.entered.wait()
        clock.back_ms = back_ms
        with pytest.raises(SessionExecutionBusy):
            await (await stranger.open_session(S)).turn("in between").run()
        caller.gate.set()
        output = await running
        assert output.result is not None and output.result.assistant_message() == "two"
        view = await session.observe().read_view()
        assert [message.role for message in view.messages] == ["user", "assistant", "user", "assistant"]
        turns = await core.store.turns(S, limit=10)
        assert [turn.turn_index for turn in turns] == sorted((turn.turn_index for turn in turns), reverse=True)
        assert (await core.store.session_row(S)).lease.token is None


@BACK
async def test_a_wait_that_had_ended_before_a_crash_is_one_that_a_cancel_ends(tmp_path: Path, back_ms: int) -> None:
    @tool(name="work", retry=SafeRetry(3, 1))
    async def work(arguments: Nothing, context: ToolContext) -> ToolCallOutput:
        return failure(FailureClass.EXECUTION, "broken", "it broke", retry=RetryHint("safe"))

    clock, asks = SetBack(), ScriptedCaller([calls(("a", "work", "{}"))])
    options = {"tools": [FunctionToolProvider([work])]}
    async with core_of(tmp_path, clock, asks, crash_point=CrashPoints("after:tool_recorded", 2), **options) as crashing:
        with pytest.raises(Crash):
            await (await crashing.open_session(S)).turn("go").run()
    clock.back_ms = back_ms
    async with core_of(tmp_path, clock, ScriptedCaller([text("never")]), **options) as core, asyncio.timeout(10):
        session = await core.open_session(S)
        finishing = asyncio.create_task(session.redrive(busy_wait_ms=60_000).run())
        await asyncio.sleep(0.2)
        assert not finishing.done()
        session.cancel_running_turns()
        assert (await finishing).result.outcome == Stopped("cancelled")


@BACK
async def test_who_watches_sees_everything_once_and_in_order(tmp_path: Path, back_ms: int) -> None:
    clock, caller = SetBack(), ScriptedCaller([text("one")], repeat=True)
    async with core_of(tmp_path, clock, caller) as core, core_of(tmp_path, clock, caller) as watcher:
        session = await core.open_session(S)
        stream = watcher.observe(S).subscribe_and_recover(SessionCursor(GENESIS, 0, 0, S))
        await session.turn("before").run()
        clock.back_ms = back_ms
        await session.turn("after").run()
        ended, cursors = 0, []
        async with asyncio.timeout(30):
            while ended < 2:
                event = (await anext(stream)).event
                cursors.append(event.cursor)
                payload = event.payload
                ended += isinstance(payload, ActivityObserved) and isinstance(payload.activity.event, TurnFinished)
        positions = [cursor.position for cursor in cursors]
        assert positions == list(range(1, len(positions) + 1))
        again = await watcher.observe(S).resume_from_cursor(cursors[0])
        assert (
            isinstance(again, Replayed) and [event.cursor for event in again.events][: len(cursors) - 1] == cursors[1:]
        )
        await stream.aclose()


@BACK
async def test_a_queue_keeps_its_order_and_a_worker_drains_it(tmp_path: Path, back_ms: int) -> None:
    clock, caller = SetBack(), ScriptedCaller([text("done")], repeat=True)
    async with core_of(tmp_path, clock, caller) as core:
        (await core.open_session(S)).close_handle()
        await core.queue(S).enqueue("first", input_id="in_1")
        clock.back_ms = back_ms
        await core.queue(S).enqueue("second", input_id="in_2")
        assert [row.input_id for row in await core.queue(S).pending_inputs()] == ["in_1", "in_2"]

        async with asyncio.timeout(30):
            report = await QueueWorker(core.store, clock, opener(core), WorkOptions(until_empty=True)).run()
        assert report.turns == 1 and await core.queue(S).pending_inputs() == ()


@BACK
async def test_no_session_is_missing_from_a_listing_by_pages(tmp_path: Path, back_ms: int) -> None:
    clock, caller = SetBack(), ScriptedCaller([text("done")], repeat=True)
    async with core_of(tmp_path, clock, caller) as core:
        for number in range(6):
            clock.back_ms = back_ms if number % 2 else 0
            session = await core.open_session(f"s{number}")
            await session.turn("hi").run()
        seen: list[str] = []
        cursor: str | None = None
        while True:
            rows, cursor = await core.store.list_sessions(limit=2, cursor=cursor)
            seen += [row.meta.session_id for row in rows]
            if cursor is None:
                break
        assert sorted(seen) == [f"s{number}" for number in range(6)]
