"""Who awaits a turn and is cancelled in any phase of it (contract 01 §5.2, §6.6; api.turns)."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from lash_cli.api.turns import TurnBuilder
from lash_cli.runtime.cancellation import CancelToken
from lash_cli.runtime.requests import Sink, TurnOutput, TurnRequest

Work = Callable[[CancelToken], Coroutine[Any, Any, None]]


class Turn:
    """A turn that does `work`, and the task of its caller, which has not taken its first step. It waits for the turn,
    or reads it as a stream."""

    def __init__(self, work: Work, *, is_streamed: bool = False) -> None:
        self._work = work
        self.output = TurnOutput(None)
        self.task: asyncio.Task[TurnOutput] | None = None
        self.token: CancelToken | None = None
        self.has_ended = False
        self.reported: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, told: self.reported.append(told["message"]))
        self.seen: list[object] = []
        builder = TurnBuilder(self._run, TurnRequest(None))
        self.caller = asyncio.ensure_future(self._read(builder) if is_streamed else builder.stream_to(_unseen))

    async def _run(self, request: TurnRequest, token: CancelToken, sink: Sink) -> TurnOutput:
        self.task, self.token = asyncio.current_task(), token
        try:
            await sink("first")  # type: ignore[arg-type]
            await self._work(token)
            await sink("last")  # type: ignore[arg-type]
        finally:
            self.has_ended = True
        return self.output

    async def _read(self, builder: TurnBuilder) -> TurnOutput:
        async with builder.stream() as stream:
            async for activity in stream:
                self.seen.append(activity)
            return await stream.result()

    async def ends(self) -> BaseException | TurnOutput:
        """What the caller got, once the turn is over too."""
        await asyncio.wait({self.caller}, timeout=30)
        assert self.caller.done() and self.has_ended
        return asyncio.CancelledError() if self.caller.cancelled() else self.caller.exception() or self.caller.result()

    def is_reported(self) -> list[str]:
        """What the event loop had to tell once nothing of the turn is left."""
        return are_reported([self])


def are_reported(turns: Sequence[Turn]) -> list[str]:
    """What the event loop had to tell once nothing of the turns is left."""
    for turn in turns:
        turn.task = None
        del turn.caller
    gc.collect()
    return [message for turn in turns for message in turn.reported]


async def _unseen(activity: object) -> None:
    return None


async def at_once(token: CancelToken) -> None:
    """End in the first step."""


async def until_stopped(token: CancelToken) -> None:
    """End a while after the token was tripped."""
    await token.wait()
    await asyncio.sleep(0)


async def fail(token: CancelToken) -> None:
    await asyncio.sleep(0)
    raise ValueError("its own")


async def fail_when_stopped(token: CancelToken) -> None:
    await until_stopped(token)
    raise ValueError("its own")


async def a_while(token: CancelToken) -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def passes(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_the_caller_gets_what_the_turn_answers_and_raises_what_it_raises() -> None:
    turn = Turn(a_while)
    assert await turn.ends() is turn.output
    failed = Turn(fail)
    failure = await failed.ends()
    assert isinstance(failure, ValueError) and failure.__cause__ is None
    assert failed.is_reported() == []


async def test_the_reader_of_a_stream_gets_every_activity_and_then_what_the_turn_answers_or_raises() -> None:
    turn = Turn(a_while, is_streamed=True)
    assert await turn.ends() is turn.output
    assert turn.seen == ["first", "last"]
    failed = Turn(fail, is_streamed=True)
    assert isinstance(await failed.ends(), ValueError)
    assert failed.seen == ["first"]
    assert failed.is_reported() == []


async def test_a_stream_runs_its_turn_in_the_one_task_it_starts() -> None:
    before = asyncio.all_tasks()
    turn = Turn(a_while, is_streamed=True)
    await passes(3)
    assert asyncio.all_tasks() - before == {turn.caller, turn.task}
    await turn.ends()


async def test_a_caller_goes_on_in_the_pass_after_the_last_one_of_its_turn() -> None:
    turn = Turn(at_once)
    await passes(2)
    assert turn.has_ended and not turn.caller.done()
    await passes(1)
    assert turn.caller.done()


@pytest.mark.parametrize("after", [1, 2, 3, 4])
async def test_a_caller_that_is_cancelled_stops_the_turn_and_goes_once_it_is_over(after: int) -> None:
    turn = Turn(until_stopped)
    await passes(after)
    turn.caller.cancel()
    assert isinstance(await turn.ends(), asyncio.CancelledError)
    assert turn.token is not None and turn.token.reason == "task cancelled"
    assert turn.is_reported() == []


async def test_a_caller_that_is_cancelled_before_its_first_step_starts_no_turn() -> None:
    turn = Turn(until_stopped)
    turn.caller.cancel()
    await asyncio.wait({turn.caller}, timeout=30)
    await passes(3)
    assert turn.caller.cancelled() and turn.task is None


async def test_the_cancellation_of_a_caller_tells_what_the_turn_failed_with() -> None:
    turn = Turn(fail_when_stopped)
    await passes(2)
    turn.caller.cancel()
    with pytest.raises(asyncio.CancelledError) as raised:
        await asyncio.wait_for(turn.caller, 30)
    assert isinstance(raised.value.__cause__, ValueError)
    assert turn.has_ended


@pytest.mark.parametrize("is_streamed", [False, True], ids=["awaited", "streamed"])
@pytest.mark.parametrize("work", [at_once, a_while, fail, until_stopped])
async def test_a_caller_may_be_cancelled_in_every_pass_of_the_loop_and_waits_for_the_turn(
    work: Work, is_streamed: bool
) -> None:
    turns: list[Turn] = []
    for after in range(1, 20):
        turns.append(turn := Turn(work, is_streamed=is_streamed))
        await passes(after)
        was_over = turn.caller.done()
        turn.caller.cancel()
        got = await turn.ends()
        assert was_over or isinstance(got, asyncio.CancelledError), after
        if was_over:
            break
    else:
        assert work is until_stopped, "the turn never ended"
    # What a task that nobody asks has to tell is told when it goes; all of them go in one collection.
    assert are_reported(turns) == []


async def test_a_caller_that_is_cancelled_again_waits_for_the_turn_all_the_same() -> None:
    may_end = asyncio.Event()

    async def slow(token: CancelToken) -> None:
        await may_end.wait()

    turn = Turn(slow)
    await passes(2)
    for _ in range(3):
        turn.caller.cancel()
        await passes(2)
        assert not turn.caller.done() and not turn.has_ended
    may_end.set()
    await asyncio.wait({turn.caller}, timeout=30)
    assert turn.caller.cancelled() and turn.has_ended
    assert turn.task is not None and turn.task.done() and not turn.task.cancelled()
    assert turn.is_reported() == []


async def test_what_a_turn_fails_with_whose_caller_was_cancelled_is_the_cause_of_that() -> None:
    may_end = asyncio.Event()

    async def slow(token: CancelToken) -> None:
        await may_end.wait()
        raise ValueError("its own")

    turn = Turn(slow)
    await passes(2)
    for _ in range(2):
        turn.caller.cancel()
        await passes(2)
    may_end.set()
    with pytest.raises(asyncio.CancelledError) as raised:
        await turn.caller
    assert isinstance(raised.value.__cause__, ValueError)
    assert turn.is_reported() == []


@pytest.mark.parametrize("after", range(7))
async def test_a_caller_ends_when_the_task_of_its_turn_is_cancelled_itself(after: int) -> None:
    before = asyncio.all_tasks()
    turn = Turn(a_while)
    await passes(1)
    (work,) = asyncio.all_tasks() - before - {turn.caller}
    await passes(after)
    work.cancel()
    await asyncio.wait({turn.caller}, timeout=30)
    assert turn.caller.done()
    assert turn.caller.cancelled() == (not work.done() or work.cancelled())
    assert turn.is_reported() == []


async def test_a_task_cancelled_before_it_begins_ends_its_caller() -> None:
    before = asyncio.all_tasks()
    loop = asyncio.get_running_loop()
    turn = Turn(a_while)
    # Between the caller's first step and that of the turn's task.
    loop.call_soon(lambda: [work.cancel() for work in asyncio.all_tasks() - before - {turn.caller}])
    await asyncio.wait({turn.caller}, timeout=30)
    assert turn.caller.cancelled() and turn.task is None and not turn.has_ended
    assert turn.token is None
    assert turn.is_reported() == []


@pytest.mark.parametrize("is_streamed", [False, True], ids=["awaited", "streamed"])
@pytest.mark.parametrize("after", range(12))
async def test_a_loop_that_cancels_every_task_is_not_held_up(after: int, is_streamed: bool) -> None:
    before = asyncio.all_tasks()
    turn = Turn(a_while, is_streamed=is_streamed)
    await passes(after)
    for task in asyncio.all_tasks() - before:
        task.cancel()
    await asyncio.wait({turn.caller}, timeout=30)
    assert turn.caller.done()
    await passes(2)
    assert asyncio.all_tasks() == before
    assert turn.is_reported() == []


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_within_a_turn_ends_the_loop_and_is_told_once(interrupt: type[BaseException]) -> None:
    reported: list[str] = []

    async def strike(token: CancelToken) -> None:
        await asyncio.sleep(0)
        raise interrupt

    async def run(request: TurnRequest, token: CancelToken, sink: Sink) -> TurnOutput:
        await strike(token)
        return TurnOutput(None)

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, told: reported.append(told["message"]))
        await TurnBuilder(run, TurnRequest(None)).run()

    with pytest.raises(interrupt):
        asyncio.run(main())
    gc.collect()
    assert reported == []


async def test_a_turn_that_raises_leaves_nothing_to_the_garbage_collector() -> None:
    async def run(request: TurnRequest, token: CancelToken, sink: Sink) -> TurnOutput:
        await asyncio.sleep(0)
        raise ValueError("its own")

    async def fail_once() -> None:
        with contextlib.suppress(ValueError):
            await TurnBuilder(run, TurnRequest(None)).run()

    flags = gc.get_debug()
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        await fail_once()
        gc.collect()
        assert gc.garbage == []
    finally:
        gc.set_debug(flags)
        gc.garbage.clear()
        gc.enable()
