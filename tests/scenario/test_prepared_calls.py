"""What a source of tools mints for a call before its first attempt: once, whatever happens (contract 05 §1.6, §3.1)."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import msgspec
import pytest
from support.clock import LIMIT_S
from support.driving import Crash, CrashPoints
from support.nesting import nested
from support.scripted import ScriptedCaller, calls, text

from lash_cli.api import (
    FailureClass,
    FunctionToolProvider,
    RetryHint,
    SafeRetry,
    Stopped,
    ToolCall,
    ToolContext,
    ToolFault,
    TurnOutput,
    tool,
)
from lash_cli.core.codec import MAX_KEPT_DEPTH
from lash_cli.core.tools import cancelled, success
from lash_cli.errors import EffectError


class Job(msgspec.Struct):
    """What is asked for."""

    name: str = "job"


ONE = calls(("a", "work", '{"name":"first"}'))


class Minting:
    """Mints a number for every call, and says what its attempts got."""

    def __init__(self, failures: int = 0) -> None:
        self.numbers = itertools.count(1)
        self.minted: list[tuple[str, str]] = []
        self.seen: list[tuple[int, Any]] = []
        self.failures = failures

        @tool(name="work", retry=SafeRetry(3), prepare=self._prepare)
        async def work(job: Job, context: ToolContext) -> Any:
            self.seen.append((context.attempt, context.prepared_payload))
            if len(self.seen) <= self.failures:
                raise ToolFault(FailureClass.EXECUTION, "again", "not yet", retry=RetryHint("safe"))
            return context.prepared_payload

        self.provider = FunctionToolProvider([work])

    async def _prepare(self, job: Job, context: ToolContext) -> dict[str, int]:
        self.minted.append((job.name, context.call_id))
        return {"child": next(self.numbers)}


def outputs(output: TurnOutput) -> list[Any]:
    return [record.output for record in output.result.tool_calls]


async def test_every_attempt_of_a_call_has_what_was_minted_for_it_once(make_core) -> None:
    minting = Minting(failures=2)
    core = make_core(ScriptedCaller([ONE, text("done")]), tools=[minting.provider])
    async with await core.open_session("s1") as session:
        assert outputs(await session.turn("go").run()) == [success({"child": 1})]
    assert minting.minted == [("first", "a")]
    assert minting.seen == [(1, {"child": 1}), (2, {"child": 1}), (3, {"child": 1})]


@pytest.mark.parametrize("point", ["after:tool_started", "before:tool_recorded", "after:tool_recorded"])
async def test_whoever_finishes_a_turn_uses_what_was_minted_before_the_crash(make_core, point: str) -> None:
    minting = Minting()
    doomed = make_core(ScriptedCaller([ONE]), tools=[minting.provider], crash_point=CrashPoints(point))
    with pytest.raises(Crash):
        await (await doomed.open_session("s1")).turn("go").run()
    async with await make_core(ScriptedCaller([text("done")]), tools=[minting.provider]).open_session("s1") as session:
        output = await session.redrive().run()
    assert outputs(output) == [success({"child": 1})]
    assert minting.minted == [("first", "a")]


async def test_a_turn_whose_minted_number_cannot_be_read_mints_no_other_and_can_be_ended(make_core) -> None:
    minting = Minting()
    doomed = make_core(ScriptedCaller([ONE]), tools=[minting.provider], crash_point=CrashPoints("after:tool_started"))
    with pytest.raises(Crash):
        await (await doomed.open_session("s1")).turn("go").run()
    core = make_core(ScriptedCaller([]), tools=[minting.provider])
    damage = "UPDATE effects SET envelope = x'00' WHERE status = 'in_progress'"
    assert await core.store.db.write(lambda connection: connection.execute(damage).rowcount, durable=True) == 1
    async with await core.open_session("s1") as session:
        with pytest.raises(EffectError) as raised:
            await session.redrive().run()
        assert raised.value.code == "sqlite_effect_replay_corrupt_row"
        assert raised.value.hint.endswith("lash cancel s1 --wait")
        await core.request_turn_cancel("s1")
        assert (await session.redrive().run()).result.outcome == Stopped("cancelled")
    assert (minting.minted, minting.seen) == ([("first", "a")], [])


async def test_attempts_behind_a_crash_have_what_was_minted_before_it(make_core) -> None:
    before, after = Minting(failures=1), Minting()
    points = CrashPoints("after:tool_recorded")
    doomed = make_core(ScriptedCaller([ONE]), tools=[before.provider], crash_point=points)
    with pytest.raises(Crash):
        await (await doomed.open_session("s1")).turn("go").run()
    async with await make_core(ScriptedCaller([text("done")]), tools=[after.provider]).open_session("s1") as session:
        assert outputs(await session.redrive().run()) == [success({"child": 1})]
    assert (after.minted, after.seen) == ([], [(2, {"child": 1})])


async def test_what_a_preparation_answers_is_the_result_and_the_tool_is_not_run(make_core) -> None:
    ran: list[int] = []

    async def refuse(job: Job, context: ToolContext) -> Any:
        raise ToolFault(FailureClass.UNAVAILABLE, "full", "there is no room")

    @tool(name="work", prepare=refuse)
    async def work(job: Job, context: ToolContext) -> str:
        ran.append(1)
        return "never"

    core = make_core(ScriptedCaller([ONE, text("done")]), tools=[FunctionToolProvider([work])])
    async with await core.open_session("s1") as session:
        (output,) = outputs(await session.turn("go").run())
    assert (output.outcome.failure.code, ran) == ("full", [])


@pytest.mark.parametrize("point", [None, "after:tool_recorded"])
async def test_a_preparation_that_may_be_tried_again_is(make_core, point: str | None) -> None:
    minting = Minting()
    mint = minting._prepare

    async def fails_once(job: Job, context: ToolContext) -> Any:
        if not await mint(job, context) or len(minting.minted) == 1:
            raise ToolFault(FailureClass.UNAVAILABLE, "full", "there is no room yet", retry=RetryHint("safe"))
        return {"child": len(minting.minted)}

    work = msgspec.structs.replace(minting.provider._tools["work"], prepare=fails_once)
    source = FunctionToolProvider([work])
    core = make_core(
        ScriptedCaller([ONE, text("done")]), tools=[source], crash_point=CrashPoints(point) if point else None
    )
    session = await core.open_session("s1")
    if point is None:
        output = await session.turn("go").run()
    else:
        with pytest.raises(Crash):
            await session.turn("go").run()
        session = await make_core(ScriptedCaller([text("done")]), tools=[source]).open_session("s1")
        output = await session.redrive().run()
    assert (outputs(output), minting.seen) == ([success({"child": 2})], [(2, {"child": 2})])
    await session.close()


class Source(FunctionToolProvider):
    """A source that prepares its calls as `prepared` says."""

    def __init__(self, prepared: Any) -> None:
        @tool(name="work")
        async def work(job: Job, context: ToolContext) -> Any:
            return [job.name, context.prepared_payload]

        super().__init__([work])
        self.prepared = prepared

    async def prepare_tool_call(self, call: ToolCall, context: ToolContext) -> Any:
        return self.prepared(call)


def raising(call: ToolCall) -> Any:
    raise RuntimeError("a bug")


def without_number(call: ToolCall) -> Any:
    call.args["share"] = float("nan")
    return call


@pytest.mark.parametrize(
    ("prepared", "code"),
    [
        (lambda call: msgspec.structs.replace(call, tool_id="other"), "prepared_tool_id_mismatch"),
        (lambda call: msgspec.structs.replace(call, call_id="b"), "prepared_tool_id_mismatch"),
        (lambda call: msgspec.structs.replace(call, prepared_payload=object()), "tool_panicked"),
        (lambda call: msgspec.structs.replace(call, prepared_payload=float("nan")), "tool_panicked"),
        (lambda call: msgspec.structs.replace(call, prepared_payload=nested(MAX_KEPT_DEPTH)), "tool_panicked"),
        (without_number, "tool_panicked"),
        (lambda call: "what?", "tool_panicked"),
        (raising, "tool_panicked"),
    ],
)
async def test_a_preparation_that_cannot_be_used_is_a_failure(make_core, prepared: Any, code: str) -> None:
    core = make_core(ScriptedCaller([ONE, text("done")]), tools=[Source(prepared)])
    async with await core.open_session("s1") as session:
        output = await session.turn("go").run()
    (failed,) = outputs(output)
    assert (failed.outcome.failure.failure_class, failed.outcome.failure.code) == ("internal", code)
    assert output.result.assistant_message() == "done"


async def test_a_preparation_may_put_other_arguments_in_place(make_core) -> None:
    source = Source(lambda call: msgspec.structs.replace(call, args={"name": "second"}, prepared_payload=7))
    core = make_core(ScriptedCaller([ONE, text("done")]), tools=[source])
    async with await core.open_session("s1") as session:
        assert outputs(await session.turn("go").run()) == [success(["second", 7])]


async def test_a_call_that_is_refused_or_invalid_is_not_prepared(make_core) -> None:
    class Refuse:
        async def decide(self, manifest: object, call: object) -> str | None:
            return "no"

    minting = Minting()
    invalid = calls(("b", "work", '{"name":1}'))
    core = make_core(ScriptedCaller([ONE, invalid, text("done")]), tools=[minting.provider], approval=Refuse())
    async with await core.open_session("s1") as session:
        codes = [output.outcome.failure.code for output in outputs(await session.turn("go").run())]
    assert (codes, minting.minted) == (["tool_denied", "invalid_tool_args"], [])


async def test_a_cancel_does_not_wait_for_a_preparation(make_core) -> None:
    started = asyncio.Event()

    async def prepare(job: Job, context: ToolContext) -> Any:
        started.set()
        await asyncio.Event().wait()

    @tool(name="work", prepare=prepare)
    async def work(job: Job, context: ToolContext) -> str:
        return "never"

    session = await make_core(ScriptedCaller([ONE]), tools=[FunctionToolProvider([work])]).open_session("s1")
    running = asyncio.create_task(session.turn("go").run())
    await started.wait()
    session.cancel_running_turns()
    async with asyncio.timeout(LIMIT_S):
        output = await running
    assert (output.result.outcome, outputs(output)) == (Stopped("cancelled"), [cancelled()])
    await session.close()


async def test_a_call_that_is_ready_as_its_turn_is_cancelled_is_not_made(make_core) -> None:
    started, ran = asyncio.Event(), list[str]()

    async def prepare(job: Job, context: ToolContext) -> str:
        started.set()
        await context.cancel.wait()
        return "ready all the same"

    @tool(name="work", prepare=prepare)
    async def work(job: Job, context: ToolContext) -> str:
        ran.append(job.name)
        return "done"

    session = await make_core(ScriptedCaller([ONE]), tools=[FunctionToolProvider([work])]).open_session("s1")
    running = asyncio.create_task(session.turn("go").run())
    await started.wait()
    session.cancel_running_turns()
    output = await running
    assert (ran, outputs(output)) == ([], [cancelled()])
    await session.close()
