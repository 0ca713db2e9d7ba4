"""One attempt of one call: its time limit, its cancellation, and what runs beside it (contract 05 §3)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from support.clock import LIMIT_S, settle
from support.scripted import ScriptedCaller, calls, text
from support.tools import NamedTools

from lash_cli import OpenAgentFrameRequest
from lash_cli.api import FunctionToolProvider, LashCore, ModelSpec, Stopped, ToolContext, tool
from lash_cli.core.activity import ToolCallCompleted, ToolProgress
from lash_cli.core.content import is_safe_to_resume
from lash_cli.core.tools import ToolCall, ToolCallOutput, ToolManifest, cancelled, success
from lash_cli.effects.inline import InlineEffectHost, InlineScopedEffects
from lash_cli.system import SystemClock, SystemIds


class Number(msgspec.Struct):
    """A number to work on."""

    value: int


ONE = calls(("a", "work", '{"value":1}'))
TWO = calls(("a", "work", '{"value":1}'), ("b", "work", '{"value":2}'))


@pytest.mark.parametrize("answer", [ONE, TWO], ids=["one call", "two calls"])
async def test_a_tool_beyond_its_time_limit_is_ended_and_told_as_a_timeout(make_core, answer) -> None:
    ended: list[int] = []

    @tool(name="work", timeout_s=0.02)
    async def work(args: Number, context: object) -> int:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(args.value)
        return 1

    caller = ScriptedCaller([answer, text("too slow")])
    async with await make_core(caller, tools=[FunctionToolProvider([work])]).open_session("s1") as session:
        output = await session.turn("x").run()
    assert output.result.assistant_message() == "too slow"
    failures = [record.output.outcome.failure for record in output.result.tool_calls]
    assert {(failure.code, failure.message) for failure in failures} == {
        ("tool_timeout", "work did not finish within 20 ms.")
    }
    assert sorted(ended) == list(range(1, len(failures) + 1))


@pytest.mark.parametrize("is_plain", [True, False], ids=["a-function-in-a-thread", "a-coroutine"])
async def test_what_a_tool_says_of_its_progress_is_shown_before_its_answer(make_core, is_plain) -> None:
    def plain(args: Number, context: ToolContext) -> str:
        for step in range(args.value):
            context.progress(f"step {step}")
        return "done"

    async def coroutine(args: Number, context: ToolContext) -> str:
        return plain(args, context)

    work = tool(name="work")(plain if is_plain else coroutine)
    caller = ScriptedCaller([TWO, text("so it is")])
    async with await make_core(caller, tools=[FunctionToolProvider([work])]).open_session("s1") as session:
        output = await session.turn("x").run()
    assert [record.output.outcome.value for record in output.result.tool_calls] == ["done", "done"]
    for call_id, steps in (("a", ["step 0"]), ("b", ["step 0", "step 1"])):
        events = [activity.event for activity in output.activities if getattr(activity.event, "call_id", "") == call_id]
        assert [event.text for event in events if isinstance(event, ToolProgress)] == steps
        assert isinstance(events[-1], ToolCallCompleted)


async def test_a_tool_within_its_time_limit_answers(make_core) -> None:
    @tool(name="work", timeout_s=30.0)
    async def work(args: Number, context: object) -> int:
        await asyncio.sleep(0)
        return args.value * 2

    caller = ScriptedCaller([ONE, text("done")])
    async with await make_core(caller, tools=[FunctionToolProvider([work])]).open_session("s1") as session:
        output = await session.turn("x").run()
    assert output.result.tool_calls[0].output.outcome.value == 2


@pytest.mark.parametrize("answer", [ONE, TWO], ids=["one call", "two calls"])
@pytest.mark.parametrize("gives_up", [False, True], ids=["hangs", "looks at the token"])
async def test_a_cancelled_attempt_may_still_answer_and_is_ended_otherwise(make_core, answer, gives_up) -> None:
    started, ended = asyncio.Event(), list[int]()

    @tool(name="work")
    async def work(args: Number, context: object) -> int:
        started.set()
        try:
            await (context.cancel.wait() if gives_up else asyncio.Event().wait())
        finally:
            ended.append(args.value)
        return args.value

    caller = ScriptedCaller([answer, text("never")])
    session = await make_core(caller, tools=[FunctionToolProvider([work])]).open_session("s1")
    running = asyncio.create_task(session.turn("x").run())
    await started.wait()
    session.cancel_running_turns()
    output = await running
    assert output.result.outcome == Stopped("cancelled")
    answered = [record.output.outcome for record in output.result.tool_calls]
    assert sorted(ended) == list(range(1, len(answered) + 1))
    if gives_up:
        assert [outcome.value for outcome in answered] == sorted(ended)
    assert is_safe_to_resume(list(session.read_view().messages))
    await session.close()


async def test_a_turn_whose_task_is_cancelled_ends_the_tool_it_waits_for(make_core) -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    @tool(name="work")
    async def work(args: Number, context: object) -> int:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return 1

    caller = ScriptedCaller([ONE, text("never")])
    session = await make_core(caller, tools=[FunctionToolProvider([work])]).open_session("s1")
    running = asyncio.create_task(session.turn("x").run())
    await started.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert ended.is_set()
    assert is_safe_to_resume(list(session.read_view().messages))
    await session.close()


class Stubborn:
    """A tool that does not stop when it is told to, until it is let go; then it has much to say."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.freed = asyncio.Event()
        self.over = asyncio.Event()

        @tool(name="work")
        async def work(args: Number, context: ToolContext) -> str:
            self.started.set()
            while not self.freed.is_set():
                try:
                    await self.freed.wait()
                except asyncio.CancelledError:
                    continue
            context.progress("still here")
            self.over.set()
            return "too late"

        self.provider = FunctionToolProvider([work])


@pytest.fixture
async def stubborn() -> AsyncIterator[Stubborn]:
    """It is let go whatever becomes of the test: its loop would not end before."""
    made = Stubborn()
    yield made
    made.freed.set()


async def test_a_tool_that_ignores_its_cancellation_is_cut_off_and_writes_no_result(
    make_core, stubborn: Stubborn
) -> None:
    core = make_core(ScriptedCaller([TWO, text("never")]), tools=[stubborn.provider])
    session = await core.open_session("s1")
    running = asyncio.create_task(session.turn("x", turn_id="t1").run())
    await stubborn.started.wait()
    session.cancel_running_turns()
    await asyncio.wait({running}, timeout=LIMIT_S)
    output = running.result()
    assert output.result.outcome == Stopped("cancelled")
    assert [record.output for record in output.result.tool_calls] == [cancelled(), cancelled()]
    before = await core.store.turn("s1", "t1")
    seen = list(output.activities)
    session.cancel_running_turns()
    closing = asyncio.create_task(session.close())
    await asyncio.wait({closing}, timeout=LIMIT_S)
    assert closing.done()
    stubborn.freed.set()
    await stubborn.over.wait()
    await settle()
    assert output.activities == tuple(seen)
    assert not any(isinstance(activity.event, ToolProgress) for activity in seen)
    assert await core.store.turn("s1", "t1") == before


async def test_a_tool_that_ignores_its_cancellation_does_not_outlast_a_second_cancel_of_its_task(
    make_core, stubborn: Stubborn
) -> None:
    session = await make_core(ScriptedCaller([ONE]), tools=[stubborn.provider]).open_session("s1")
    running = asyncio.create_task(session.turn("x").run())
    await stubborn.started.wait()
    running.cancel()
    await settle()
    running.cancel()
    await asyncio.wait({running}, timeout=LIMIT_S)
    assert running.cancelled()
    stubborn.freed.set()
    await stubborn.over.wait()
    await session.close()


async def test_the_calls_of_an_exclusive_group_run_one_after_another_and_others_beside_them(make_core) -> None:
    said: list[str] = []
    both_begun = asyncio.Event()

    @tool(name="work", exclusive_group="one at a time")
    async def work(args: Number, context: object) -> int:
        said.append(f"begin {args.value}")
        if args.value == 1:
            await both_begun.wait()
        said.append(f"end {args.value}")
        return args.value

    @tool(name="other")
    async def other(args: Number, context: object) -> int:
        both_begun.set()
        return args.value

    answer = calls(("a", "work", '{"value":1}'), ("b", "work", '{"value":2}'), ("c", "other", '{"value":3}'))
    caller = ScriptedCaller([answer, text("done")])
    async with await make_core(caller, tools=[FunctionToolProvider([work, other])]).open_session("s1") as session:
        output = await session.turn("x").run()
    assert said == ["begin 1", "end 1", "begin 2", "end 2"]
    assert [record.output.outcome.value for record in output.result.tool_calls] == [1, 2, 3]


async def test_a_call_whose_turn_was_cancelled_before_it_began_is_not_made(make_core) -> None:
    begun: list[int] = []

    class Cancelling(NamedTools):
        async def execute(self, call: ToolCall, context: Any) -> ToolCallOutput:
            begun.append(call.args["value"])
            session.cancel_running_turns()
            return success(None)

    source = Cancelling(ToolManifest("work", "work", "works", exclusive_group="one at a time"))
    session = await make_core(ScriptedCaller([TWO]), tools=[source]).open_session("s1")
    output = await session.turn("x").run()
    assert output.result.outcome == Stopped("cancelled")
    assert begun == [1]
    assert [record.output.status for record in output.result.tool_calls] == ["success", "cancelled"]
    await session.close()


async def test_a_tool_whose_attempt_is_over_has_no_progress_to_show_any_more(make_core) -> None:
    late: list[asyncio.Task[None]] = []

    @tool(name="work")
    async def work(args: Number, context: ToolContext) -> int:
        async def report() -> None:
            await over.wait()
            context.progress("late")
            shown.set()

        context.progress("in time")
        late.append(asyncio.create_task(report()))
        return args.value

    @tool(name="other")
    async def other(args: Number, context: ToolContext) -> int:
        await settle()
        over.set()
        await shown.wait()
        await settle()
        return args.value

    over, shown = asyncio.Event(), asyncio.Event()
    answer = calls(("a", "work", '{"value":1}'), ("b", "other", '{"value":2}'))
    caller = ScriptedCaller([answer, text("done")])
    async with await make_core(caller, tools=[FunctionToolProvider([work, other])]).open_session("s1") as session:
        output = await session.turn("x").run()
    events = [activity.event for activity in output.activities]
    assert [event.text for event in events if isinstance(event, ToolProgress)] == ["in time"]


async def test_a_host_that_runs_one_effect_at_a_time_is_never_asked_for_two() -> None:
    class OneByOne(InlineEffectHost):
        def scoped(self, *args: Any, **options: Any) -> InlineScopedEffects:
            effects = super().scoped(*args, **options)
            effects.supports_concurrent_effects = False
            return effects

    said: list[str] = []

    async def running(args: Number, context: object) -> int:
        said.append(f"begin {args.value}")
        await asyncio.sleep(0)
        said.append(f"end {args.value}")
        return args.value

    alone, other = tool(name="work", exclusive_group="one at a time")(running), tool(name="other")(running)
    answer = calls(("a", "work", '{"value":1}'), ("b", "other", '{"value":2}'), ("c", "work", '{"value":3}'))
    options = {"provider": ScriptedCaller([answer, text("done")]), "model": ModelSpec("m")}
    host = OneByOne(SystemClock(), SystemIds())
    async with LashCore(tools=[FunctionToolProvider([alone, other])], effect_host=host, **options) as core:
        await (await core.open_session("s1")).turn("x").run()
    assert said == ["begin 1", "end 1", "begin 2", "end 2", "begin 3", "end 3"]


async def test_calls_of_two_turns_under_one_id_have_replay_keys_of_their_own(make_core) -> None:
    keys: list[str] = []

    @tool(name="work")
    async def work(args: Number, context: ToolContext) -> int:
        keys.append(context.replay_key)
        return args.value

    # Some models count their calls from zero in every answer.
    caller = ScriptedCaller([ONE, text("paid"), ONE, text("paid again")])
    async with await make_core(caller, tools=[FunctionToolProvider([work])]).open_session("s1") as session:
        first = await session.turn("x").run()
        # In one conversation the second would get an id of its own.
        await session.admin().open_agent_frame(OpenAgentFrameRequest("second", "test"))
        second = await session.turn("x").run()
    assert [record.call_id for output in (first, second) for record in output.result.tool_calls] == ["a", "a"]
    assert len(set(keys)) == 2
