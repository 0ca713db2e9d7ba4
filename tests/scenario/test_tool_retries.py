"""The attempts of one call: who may try again, when, and what a crash between them leaves (contract 05 §3.2, §3.5)."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

import msgspec
import pytest
from support.driving import Crash, CrashPoints
from support.scripted import ScriptedCaller, calls, text

from lash_cli.api import FunctionToolProvider, Stopped, ToolContext, tool
from lash_cli.core.effect import EffectEnvelope, SleepCommand, ToolAttemptCommand, TurnScope, scope_key
from lash_cli.core.tools import (
    FailureClass,
    IdempotentRetry,
    NeverRetry,
    RetryHint,
    SafeRetry,
    ToolCall,
    ToolCallOutput,
    ToolContract,
    ToolManifest,
    ToolRetryPolicy,
    failure,
    interrupted,
    success,
)
from lash_cli.runtime.attempts import MOST_BEGUN
from lash_cli.system import SystemClock


class Nothing(msgspec.Struct):
    """No arguments."""


SAFE = RetryHint("safe")
ASKS = calls(("a", "work", "{}"))


class Scripted:
    """The tool `work`, whose attempts answer with what is written down; the last answer repeats."""

    def __init__(self, policy: ToolRetryPolicy, answers: Sequence[ToolCallOutput]) -> None:
        self.seen: list[tuple[int, int, str]] = []
        self.tried = asyncio.Event()
        self._answers = list(answers)

        @tool(name="work", retry=policy)
        async def work(arguments: Nothing, context: ToolContext) -> ToolCallOutput:
            self.seen.append((context.attempt, context.max_attempts, context.replay_key))
            self.tried.set()
            return self._answers[0] if len(self._answers) == 1 else self._answers.pop(0)

        self.provider = FunctionToolProvider([work])


def broken(hint: RetryHint) -> ToolCallOutput:
    return failure(FailureClass.EXECUTION, "broken", "it broke", retry=hint)


async def recorded(core: object, turn_id: str) -> list[EffectEnvelope]:
    """The envelopes of a turn's tool attempts and sleeps, in order of their keys."""
    rows = await core.store.journal_rows(scope_key(TurnScope("s1", turn_id)))  # type: ignore[attr-defined]
    envelopes = [msgspec.json.decode(row.envelope.json, type=EffectEnvelope) for row in rows]
    return [envelope for envelope in envelopes if isinstance(envelope.command, SleepCommand | ToolAttemptCommand)]


@pytest.mark.parametrize(
    ("policy", "hint"),
    [(NeverRetry(), SAFE), (SafeRetry(3), RetryHint()), (IdempotentRetry(3), RetryHint())],
    ids=["the tool says never", "the failure says never", "an idempotent tool, but the failure says never"],
)
async def test_a_call_is_tried_again_only_when_tool_and_failure_both_allow_it(make_core, policy, hint) -> None:
    work = Scripted(policy, [broken(hint)])
    caller = ScriptedCaller([ASKS, text("done")])
    async with await make_core(caller, tools=[work.provider]).open_session("s1") as session:
        result = (await session.turn("go").run()).result
    assert len(work.seen) == 1
    assert result.tool_calls[0].output.outcome.failure.retry == hint


async def test_attempts_end_with_the_first_success_and_share_one_replay_key(make_core) -> None:
    work = Scripted(SafeRetry(5), [broken(SAFE), broken(SAFE), success("there")])
    caller = ScriptedCaller([ASKS, text("done")])
    async with await make_core(caller, tools=[work.provider]).open_session("s1") as session:
        result = (await session.turn("go").run()).result
    assert [(attempt, most) for attempt, most, _ in work.seen] == [(1, 5), (2, 5), (3, 5)]
    assert len({key for _, _, key in work.seen}) == 1
    assert result.tool_calls[0].output == success("there")


async def test_the_last_failure_says_that_its_attempts_are_used_up(make_core) -> None:
    work = Scripted(SafeRetry(3), [broken(SAFE)])
    caller = ScriptedCaller([ASKS, text("done")])
    async with await make_core(caller, tools=[work.provider]).open_session("s1") as session:
        result = (await session.turn("go").run()).result
    assert len(work.seen) == 3
    assert result.tool_calls[0].output == broken(RetryHint("exhausted", attempts=3))


async def test_a_call_took_as_long_as_all_of_its_attempts(make_core) -> None:
    class Watch(SystemClock):
        ahead_s = 0

        def monotonic(self) -> float:
            return super().monotonic() + self.ahead_s

    watch = Watch()

    @tool(name="work", retry=SafeRetry(3))
    async def work(arguments: Nothing, context: ToolContext) -> ToolCallOutput:
        watch.ahead_s += 1
        return broken(SAFE)

    core = make_core(ScriptedCaller([ASKS, text("done")]), tools=[FunctionToolProvider([work])], clock=watch)
    async with await core.open_session("s1") as session:
        result = (await session.turn("go").run()).result
    assert result.tool_calls[0].duration_ms >= 3000


async def test_each_wait_between_attempts_is_an_effect_of_its_own_and_grows_up_to_a_limit(make_core) -> None:
    hinted = RetryHint("safe", after_ms=7)
    work = Scripted(SafeRetry(6, 2, 9), [*[broken(SAFE)] * 4, broken(hinted), success("there")])
    core = make_core(ScriptedCaller([ASKS, text("done")]), tools=[work.provider])
    async with await core.open_session("s1") as session:
        result = (await session.turn("go").run()).result
        envelopes = await recorded(core, result.turn_id)
    keys = {envelope.invocation.replay_key.partition("child:")[2]: envelope.command for envelope in envelopes}
    attempts = [f"0:a:attempt:{number}" for number in range(1, 7)]
    assert sorted(keys) == sorted([*attempts, *(f"{attempt}:sleep" for attempt in attempts[:-1])])
    assert [keys[f"{attempt}:sleep"].duration_ms for attempt in attempts[:-1]] == [2, 4, 8, 9, 7]


async def test_a_cancel_ends_the_wait_for_the_next_attempt(make_core) -> None:
    work = Scripted(SafeRetry(2, 600_000), [broken(SAFE)])
    session = await make_core(ScriptedCaller([ASKS, text("never")]), tools=[work.provider]).open_session("s1")
    running = asyncio.create_task(session.turn("go").run())
    await work.tried.wait()
    session.cancel_running_turns()
    result = (await running).result
    assert (result.outcome, len(work.seen)) == (Stopped("cancelled"), 1)
    assert result.tool_calls[0].output.status == "cancelled"
    await session.close()


async def test_a_wait_longer_than_a_store_can_hold_is_one_that_a_cancel_ends(make_core) -> None:
    work = Scripted(SafeRetry(2), [broken(RetryHint("safe", after_ms=sys.maxsize))])
    session = await make_core(ScriptedCaller([ASKS, text("never")]), tools=[work.provider]).open_session("s1")
    running = asyncio.create_task(session.turn("go").run())
    await work.tried.wait()
    await asyncio.sleep(0.05)
    session.cancel_running_turns()
    assert (await running).result.outcome == Stopped("cancelled")
    await session.close()


async def test_a_wait_that_a_crash_cut_off_ends_when_it_was_to_end(make_core) -> None:
    class Later(SystemClock):
        def __init__(self, ahead_s: float) -> None:
            self.ahead_s = ahead_s
            self.waits_s: list[float] = []

        def now_ms(self) -> int:
            return super().now_ms() + round(self.ahead_s * 1000)

        async def sleep(self, seconds: float) -> None:
            if seconds > 100:
                self.waits_s.append(seconds)
                if self.ahead_s == 0:
                    raise Crash("in the wait")

    work = Scripted(SafeRetry(2, 600_000), [broken(SAFE), success("there")])
    options = {"tools": [work.provider]}
    with pytest.raises(Crash):
        await (await make_core(ScriptedCaller([ASKS]), clock=Later(0), **options).open_session("s1")).turn("go").run()
    clock = Later(200)
    session = await make_core(ScriptedCaller([text("done")]), clock=clock, **options).open_session("s1")
    result = (await session.redrive().run()).result
    (waited,) = clock.waits_s
    assert waited <= 400
    assert (result.tool_calls[0].output, len(work.seen)) == (success("there"), 2)


@pytest.mark.parametrize("nth", [1, 2, 3], ids=["first attempt", "second attempt", "third attempt"])
async def test_an_attempt_that_was_recorded_is_not_made_again(make_core, nth: int) -> None:
    before = Scripted(SafeRetry(4, 1), [broken(SAFE)])
    points = CrashPoints("after:tool_recorded", nth)
    core = make_core(ScriptedCaller([ASKS]), tools=[before.provider], crash_point=points)
    doomed = await core.open_session("s1")
    with pytest.raises(Crash):
        await doomed.turn("go").run()
    after = Scripted(SafeRetry(4, 1), [success("there")])
    session = await make_core(ScriptedCaller([text("done")]), tools=[after.provider]).open_session("s1")
    result = (await session.redrive().run()).result
    assert [attempt for attempt, _, _ in after.seen] == [nth + 1]
    assert {key for _, _, key in (*before.seen, *after.seen)} == {before.seen[0][2]}
    assert result.tool_calls[0].output == success("there")


async def test_an_attempt_that_ends_its_process_each_time_is_given_up_and_the_model_is_told(make_core) -> None:
    work = Scripted(SafeRetry(2), [success("there")])
    for nth in range(MOST_BEGUN):
        points = CrashPoints("before:tool_recorded")
        doomed = make_core(ScriptedCaller([] if nth else [ASKS]), tools=[work.provider], crash_point=points)
        session = await doomed.open_session("s1")
        with pytest.raises(Crash):
            await (session.redrive() if nth else session.turn("go")).run()
    last = make_core(ScriptedCaller([text("I was told")]), tools=[work.provider])
    result = (await (await last.open_session("s1")).redrive().run()).result
    assert len(work.seen) == MOST_BEGUN
    assert result.tool_calls[0].output == interrupted("work")
    assert result.assistant_message() == "I was told"


@pytest.mark.parametrize(
    ("policy", "attempts"),
    [(NeverRetry(), 1), (SafeRetry(2), 1), (IdempotentRetry(2), 2)],
    ids=["never", "safe", "idempotent"],
)
async def test_a_call_that_took_too_long_is_tried_again_only_by_an_idempotent_tool(
    make_core, policy: ToolRetryPolicy, attempts: int
) -> None:
    seen: list[int] = []

    @tool(name="work", retry=policy, timeout_s=0.01)
    async def work(arguments: Nothing, context: ToolContext) -> str:
        seen.append(context.attempt)
        await asyncio.Event().wait()
        return "never"

    caller = ScriptedCaller([ASKS, text("done")])
    async with await make_core(caller, tools=[FunctionToolProvider([work])]).open_session("s1") as session:
        result = (await session.turn("go").run()).result
    reason = result.tool_calls[0].output.outcome.failure
    assert (seen, reason.code) == (list(range(1, attempts + 1)), "tool_timeout")
    assert reason.retry == (RetryHint() if attempts == 1 else RetryHint("exhausted", attempts=attempts))


class Rewriting:
    """A source whose tool, and a policy that, writes over the arguments of the call it is given."""

    def __init__(self, who: str) -> None:
        self.seen: list[tuple[object, object]] = []
        self._who = who

    def manifests(self) -> Sequence[ToolManifest]:
        return (ToolManifest(id="work", name="work", description="works", retry_policy=SafeRetry(2)),)

    def contract(self, tool_id: str) -> ToolContract:
        return ToolContract()

    async def prepare_tool_call(self, call: ToolCall, context: ToolContext) -> ToolCall:
        readied = msgspec.structs.replace(call, args=msgspec.to_builtins(call.args), prepared_payload={"child": "c1"})
        self._write_over("preparation", call)
        return readied

    async def decide(self, manifest: ToolManifest, call: ToolCall) -> None:
        self._write_over("policy", call)

    async def execute(self, call: ToolCall, context: ToolContext) -> ToolCallOutput:
        self.seen.append((msgspec.to_builtins(call.args), dict(context.prepared_payload)))
        self._write_over("tool", call)
        if self._who == "tool":
            context.prepared_payload.clear()
        return broken(SAFE)

    def _write_over(self, who: str, call: ToolCall) -> None:
        if self._who == who:
            call.args["where"]["path"].append("changed")
            call.args["more"] = len(self.seen)

    async def aclose(self) -> None:
        pass


@pytest.mark.parametrize("who", ["policy", "preparation", "tool"])
async def test_what_is_done_to_the_arguments_of_a_call_reaches_no_other_attempt_and_no_journal(
    make_core, who: str
) -> None:
    asks = calls(("a", "work", '{"where": {"path": ["home"]}}'))
    work = Rewriting(who)
    crashed = make_core(
        ScriptedCaller([asks, text("done")]), tools=[work], approval=work, crash_point=CrashPoints("before:commit")
    )
    session = await crashed.open_session("s1")
    with pytest.raises(Crash):
        await session.turn("go").run()
    assert work.seen == [({"where": {"path": ["home"]}}, {"child": "c1"})] * 2
    again = Rewriting(who)
    next_core = make_core(ScriptedCaller([]), tools=[again], approval=again)
    output = await (await next_core.open_session("s1")).redrive().run()
    assert output.result.is_success and again.seen == []
