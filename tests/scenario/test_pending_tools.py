"""Calls that somebody outside completes: keys, waits, deadlines, cancels and crashes (contract 05 §1.7, 03 §2.9)."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from support.driving import Crash, CrashPoints
from support.scripted import ScriptedCaller, calls, text
from support.tools import ShyTools

from lash_cli.api import (
    AwaitEventKey,
    FunctionToolProvider,
    LashCore,
    LashSession,
    LeaseFence,
    LeaseTimings,
    PendingCompletion,
    Resolution,
    ResolvedCancelled,
    ResolvedErr,
    ResolvedOk,
    Stopped,
    ToolCall,
    ToolCallRecord,
    ToolContext,
    TurnOutput,
    tool,
)
from lash_cli.core.content import is_safe_to_resume
from lash_cli.core.tools import cancelled, failure, success
from lash_cli.effects.inline import InlineEffectHost
from lash_cli.errors import UsageError
from lash_cli.system import SystemClock, SystemIds


class Job(msgspec.Struct):
    """What is left to somebody outside."""

    name: str = "job"


class Outside:
    """The world outside: the tool `hand_over` gives it keys, as the text that crosses to another process."""

    def __init__(self, pending: PendingCompletion | None = None, *, asks: bool = True) -> None:
        self.keys: dict[str, bytes] = {}
        self.ran = 0
        self.told: list[tuple[str, AwaitEventKey]] = []
        self.handed = asyncio.Event()
        self.expected = 1

        @tool(name="hand_over")
        async def hand_over(job: Job, context: ToolContext) -> PendingCompletion:
            self.ran += 1
            if asks:
                self.keys[job.name] = msgspec.json.encode(await context.completion_key())
            if self.ran == self.expected:
                self.handed.set()
            return pending or PendingCompletion()

        self.provider = FunctionToolProvider([hand_over], on_cancel=self._forget)

    async def _forget(self, call: ToolCall, key: AwaitEventKey) -> None:
        self.told.append((call.args["name"], key))

    def key(self, name: str = "job") -> AwaitEventKey:
        return msgspec.json.decode(self.keys[name], type=AwaitEventKey)


JOB = calls(("a", "hand_over", '{"name":"job"}'))
DONE = text("done")


def only_record(output: TurnOutput) -> ToolCallRecord:
    (record,) = output.result.tool_calls
    return record


async def started(core: LashCore, outside: Outside) -> tuple[LashSession, asyncio.Task[TurnOutput]]:
    session = await core.open_session("s1")
    running = asyncio.create_task(session.turn("go").run())
    await outside.handed.wait()
    return session, running


@pytest.mark.parametrize(
    ("resolution", "expected"),
    [
        (ResolvedOk({"b": 1, "a": [None]}), success({"a": [None], "b": 1})),
        (ResolvedOk(), success(None)),
        (ResolvedErr("no_such_job", "there is none"), failure("execution", "no_such_job", "there is none")),
        (ResolvedErr("x", "y", {"z": 1}), failure("execution", "x", "y", raw={"z": 1})),
    ],
    ids=["a value", "nothing", "an error", "an error with more"],
)
async def test_whoever_holds_the_key_gives_the_result(make_core, resolution: Resolution, expected: object) -> None:
    outside = Outside()
    caller = ScriptedCaller([JOB, DONE])
    session, running = await started(make_core(caller, tools=[outside.provider]), outside)
    elsewhere = make_core(ScriptedCaller([]))
    assert (await elsewhere.effect_host.resolve_await_event(outside.key(), resolution)).kind == "accepted"
    output = await running
    assert only_record(output).output == expected
    assert output.result.assistant_message() == "done"
    assert outside.ran == 1
    again = await elsewhere.effect_host.resolve_await_event(outside.key(), ResolvedOk("late"))
    assert (again.kind, again.terminal) == ("already_resolved", resolution)
    await session.close()


async def test_a_result_that_comes_before_anybody_waits_is_kept_for_the_call(make_core) -> None:
    @tool(name="hand_over")
    async def hand_over(job: Job, context: ToolContext) -> PendingCompletion:
        await core.effect_host.resolve_await_event(await context.completion_key(), ResolvedOk("early"))
        return PendingCompletion()

    core = make_core(ScriptedCaller([JOB, DONE]), tools=[FunctionToolProvider([hand_over])])
    async with await core.open_session("s1") as session:
        assert only_record(await session.turn("go").run()).output == success("early")


async def test_pending_calls_of_one_answer_wait_together_and_are_answered_in_source_order(make_core) -> None:
    outside = Outside()
    outside.expected = 2
    both = calls(("a", "hand_over", '{"name":"first"}'), ("b", "hand_over", '{"name":"second"}'))
    session, running = await started(make_core(ScriptedCaller([both, DONE]), tools=[outside.provider]), outside)
    for name in ("second", "first"):
        await session.effect_host.resolve_await_event(outside.key(name), ResolvedOk(name))
    output = await running
    assert [record.output for record in output.result.tool_calls] == [success("first"), success("second")]
    await session.close()


async def test_a_call_left_pending_without_a_key_is_a_failure(make_core) -> None:
    outside = Outside(asks=False)
    core = make_core(ScriptedCaller([JOB, DONE]), tools=[outside.provider])
    async with await core.open_session("s1") as session:
        reason = only_record(await session.turn("go").run()).output.outcome.failure
    assert (reason.failure_class, reason.code) == ("internal", "pending_tool_missing_completion_key")


async def test_keys_that_would_die_with_the_process_are_refused_unless_the_host_says_so() -> None:
    from lash_cli.api import ModelSpec

    for allowed in (False, True):
        outside = Outside()
        host = InlineEffectHost(SystemClock(), SystemIds(), allow_process_lifetime_completion_keys=allowed)
        caller = ScriptedCaller([JOB, DONE])
        core = LashCore(provider=caller, model=ModelSpec("m"), tools=[outside.provider], effect_host=host)
        async with core, await core.open_session("s1") as session:
            running = asyncio.create_task(session.turn("go").run())
            if allowed:
                await outside.handed.wait()
                await core.effect_host.resolve_await_event(outside.key(), ResolvedOk("there"))
            output = only_record(await running).output
        if allowed:
            assert output == success("there")
        else:
            reason = output.outcome.failure
            assert (reason.failure_class, reason.code) == ("internal", "tool_completion_key_process_lifetime")


async def test_a_call_nobody_completes_in_time_fails_and_the_model_is_told(make_core) -> None:
    outside = Outside(PendingCompletion(timeout_ms=20))
    core = make_core(ScriptedCaller([JOB, DONE]), tools=[outside.provider])
    async with await core.open_session("s1") as session:
        output = await session.turn("go").run()
        reason = only_record(output).output.outcome.failure
        assert (reason.failure_class, reason.code) == ("timeout", "tool_completion_timeout")
        assert reason.message == "hand_over was not completed within 20 ms."
        assert output.result.assistant_message() == "done"
        late = await core.effect_host.resolve_await_event(outside.key(), ResolvedOk("late"))
        assert late.kind == "already_resolved"
    assert outside.told == []


@pytest.mark.parametrize("timeout_ms", [sys.maxsize, 2**64 - 1], ids=["a signed number", "an unsigned one"])
async def test_a_time_longer_than_a_store_can_hold_is_waited_for_without_end(make_core, timeout_ms: int) -> None:
    outside = Outside(PendingCompletion(timeout_ms=timeout_ms))
    core = make_core(ScriptedCaller([JOB, DONE]), tools=[outside.provider])
    _, running = await started(core, outside)
    await asyncio.sleep(0.05)
    await core.effect_host.resolve_await_event(outside.key(), ResolvedOk("there"))
    assert only_record(await running).output == success("there")


async def test_a_call_nobody_completes_in_time_stops_the_turn_when_its_tool_says_so(make_core) -> None:
    outside = Outside(PendingCompletion(timeout_ms=20, on_timeout="fail_turn"))
    caller = ScriptedCaller([JOB, text("never")])
    async with await make_core(caller, tools=[outside.provider]).open_session("s1") as session:
        outcome = (await session.turn("go").run()).result.outcome
        assert is_safe_to_resume(list(session.read_view().messages))
    assert (outcome.reason, outcome.tool_name) == ("tool_error", "hand_over")
    assert (outcome.value["code"], outcome.value["failure_class"]) == ("tool_completion_timeout", "timeout")


def cancel_turn(session: LashSession) -> None:
    session.cancel_running_turns()


async def sweep(session: LashSession) -> None:
    assert await session.revoke_durable_waits() == 1


@pytest.mark.parametrize("told", [True, False], ids=["cancel_external_work", "ignore"])
@pytest.mark.parametrize("by", [cancel_turn, sweep], ids=["the turn is cancelled", "the waits of the session are"])
async def test_a_cancelled_call_is_answered_and_its_source_hears_of_it(
    make_core, by: Callable[[LashSession], object], told: bool
) -> None:
    outside = Outside(PendingCompletion(on_cancel="cancel_external_work" if told else "ignore"))
    core = make_core(ScriptedCaller([JOB, DONE]), tools=[outside.provider])
    session, running = await started(core, outside)
    await until_pending(core)
    made = by(session)
    if made is not None:
        await made  # type: ignore[misc]
    output = await running
    assert only_record(output).output == cancelled("pending tool completion cancelled")
    assert output.result.outcome == Stopped("cancelled") if by is cancel_turn else output.result.assistant_message()
    assert outside.told == ([("job", outside.key())] if told else [])
    late = await core.effect_host.resolve_await_event(outside.key(), ResolvedOk("late"))
    assert late.terminal == ResolvedCancelled()
    await session.close()


async def until_pending(core: LashCore) -> None:
    """Return once the wait of the call is registered."""
    pending = "SELECT 1 FROM waits WHERE state = 'pending'"
    for _ in range(3000):
        if core.store.db.read(lambda connection: connection.execute(pending).fetchone()) is not None:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("nobody waits")


async def test_a_source_that_cannot_cancel_does_not_hold_the_cancel_up(make_core) -> None:
    outside = Outside()

    async def broken(call: ToolCall, key: AwaitEventKey) -> None:
        raise RuntimeError("the outside is gone")

    outside.provider._on_cancel = broken
    core = make_core(ScriptedCaller([JOB]), tools=[outside.provider])
    session, running = await started(core, outside)
    await until_pending(core)
    session.cancel_running_turns()
    assert (await running).result.outcome == Stopped("cancelled")
    await session.close()


@pytest.mark.parametrize("resolved", ["while nobody runs", "after somebody waits again"])
async def test_a_crash_while_a_call_waits_runs_the_tool_once_and_the_wait_goes_on(make_core, resolved: str) -> None:
    before = Outside()
    points = CrashPoints("after:tool_recorded")
    doomed = await make_core(ScriptedCaller([JOB]), tools=[before.provider], crash_point=points).open_session("s1")
    with pytest.raises(Crash):
        await doomed.turn("go").run()
    after = Outside()
    core = make_core(ScriptedCaller([DONE]), tools=[after.provider])
    if resolved == "while nobody runs":
        await core.effect_host.resolve_await_event(before.key(), ResolvedOk("there"))
    session = await core.open_session("s1")
    running = asyncio.create_task(session.redrive().run())
    if resolved != "while nobody runs":
        await until_pending(core)
        await core.effect_host.resolve_await_event(before.key(), ResolvedOk("there"))
    output = await running
    assert (only_record(output).output, after.ran) == (success("there"), 0)
    assert output.result.assistant_message() == "done"
    await session.close()


async def test_the_deadline_is_that_of_the_attempt_whoever_waits_for_it(make_core) -> None:
    before = Outside(PendingCompletion(timeout_ms=1))
    points = CrashPoints("after:tool_recorded")
    doomed = await make_core(ScriptedCaller([JOB]), tools=[before.provider], crash_point=points).open_session("s1")
    with pytest.raises(Crash):
        await doomed.turn("go").run()
    after = Outside(PendingCompletion(timeout_ms=3_600_000))
    session = await make_core(ScriptedCaller([DONE]), tools=[after.provider]).open_session("s1")
    reason = only_record(await session.redrive().run()).output.outcome.failure
    assert (reason.code, reason.message) == ("tool_completion_timeout", "hand_over was not completed within 1 ms.")
    await session.close()


async def test_an_owner_that_lost_its_lane_leaves_the_promise_to_the_next(make_core) -> None:
    outside = Outside()
    first_core = make_core(ScriptedCaller([JOB]), tools=[outside.provider], lease_timings=LeaseTimings(60_000, 100))
    _, running = await started(first_core, outside)
    await until_pending(first_core)
    lease = (await first_core.store.session_row("s1")).lease
    owner = lease.owner
    await first_core.store.release_lease(
        LeaseFence("s1", owner.owner_id, owner.incarnation_id, lease.token, lease.fencing_token)
    )
    with pytest.raises(Exception) as lost:
        await running
    assert lost.value.code == "session_execution_lease_lost"
    core = make_core(ScriptedCaller([DONE]), tools=[outside.provider])
    assert await core.effect_host.peek_await_event(outside.key()) is None
    await core.effect_host.resolve_await_event(outside.key(), ResolvedOk("there"))
    second = await core.open_session("s1")
    assert only_record(await second.redrive().run()).output == success("there")
    assert (outside.ran, outside.told) == (1, [])


async def test_a_completion_that_nothing_could_keep_is_a_failure(make_core) -> None:
    outside = Outside()
    session, running = await started(make_core(ScriptedCaller([JOB, DONE]), tools=[outside.provider]), outside)
    value: object = 1
    for _ in range(200):
        value = [value]
    await session.effect_host.resolve_await_event(outside.key(), ResolvedOk(value))
    assert only_record(await running).output.outcome.failure.code == "tool_result_too_large"
    await session.close()


NO_RESOLUTIONS = {
    "text": "yes",
    "nothing": None,
    "its class": ResolvedOk,
    "a number for a code": ResolvedErr(404, "there is none"),  # type: ignore[arg-type]
    "a value that is no JSON": ResolvedOk(object()),
    "keys that are no text": ResolvedOk({1: "a"}),
    "no UTF-8": ResolvedOk(["\ud800"]),
    "not a number": ResolvedOk({"share": float("nan")}),
    "an infinite reason": ResolvedErr("x", "y", float("inf")),
}


@pytest.mark.parametrize("nonsense", NO_RESOLUTIONS.values(), ids=NO_RESOLUTIONS)
async def test_a_completion_that_could_not_be_read_again_is_refused_and_the_call_goes_on_waiting(
    make_core, nonsense: Any
) -> None:
    """Stored, it would be acknowledged, and the turn could neither be finished nor be cancelled any more."""
    outside = Outside()
    core = make_core(ScriptedCaller([JOB, DONE]), tools=[outside.provider])
    session, running = await started(core, outside)
    with pytest.raises(UsageError) as refused:
        await core.effect_host.resolve_await_event(outside.key(), nonsense)
    assert refused.value.code == "invalid_await_event_resolution"
    assert (await core.effect_host.resolve_await_event(outside.key(), ResolvedOk("there"))).kind == "accepted"
    assert only_record(await running).output == success("there")
    await session.close()


@pytest.mark.parametrize("stored", ["'\"yes\"'", "CAST(x'ff' AS TEXT)"], ids=["no completion", "no UTF-8"])
async def test_a_completion_that_cannot_be_read_any_more_is_a_failure_and_the_turn_ends(make_core, stored: str) -> None:
    outside = Outside()
    core = make_core(ScriptedCaller([JOB, DONE]), tools=[outside.provider])
    session, running = await started(core, outside)
    await until_pending(core)
    damage = f"UPDATE waits SET state = 'resolved', resolution = {stored}"
    await core.store.db.write(lambda connection: connection.execute(damage), durable=True)
    reason = only_record(await running).output.outcome.failure
    assert (reason.failure_class, reason.code) == ("execution", "await_event_unreadable")
    late = await core.effect_host.resolve_await_event(outside.key(), ResolvedOk("late"))
    assert late.kind == "already_resolved"
    await session.close()


async def test_a_key_that_was_altered_completes_nothing(make_core) -> None:
    outside = Outside(PendingCompletion(timeout_ms=50))
    core = make_core(ScriptedCaller([JOB, DONE]), tools=[outside.provider])
    session, running = await started(core, outside)
    forged = msgspec.structs.replace(outside.key(), signature="0" * 64)
    assert (await core.effect_host.resolve_await_event(forged, ResolvedOk("mine"))).kind == "unknown_or_revoked"
    assert only_record(await running).output.outcome.failure.code == "tool_completion_timeout"
    await session.close()


@pytest.mark.parametrize("told", [True, False], ids=["cancel_external_work", "ignore"])
async def test_a_cancel_ends_what_a_crashed_turn_had_left_pending(make_core, told: bool) -> None:
    pending = PendingCompletion(on_cancel="cancel_external_work" if told else "ignore")
    before = Outside(pending)
    points = CrashPoints("after:tool_recorded")
    doomed = await make_core(ScriptedCaller([JOB]), tools=[before.provider], crash_point=points).open_session("s1")
    with pytest.raises(Crash):
        await doomed.turn("go", turn_id="t1").run()
    after = Outside(pending)
    core = make_core(ScriptedCaller([]), tools=[after.provider])
    await core.request_turn_cancel("s1", turn_id="t1", request_id="r1")
    async with await core.open_session("s1") as session:
        output = await session.redrive().run()
    assert (output.result.outcome, after.ran) == (Stopped("cancelled"), 0)
    late = await core.effect_host.resolve_await_event(before.key(), ResolvedOk("late"))
    assert (late.kind, late.terminal) == ("already_resolved", ResolvedCancelled())
    assert after.told == ([("job", before.key())] if told else [])


async def test_the_source_of_a_call_that_was_found_hears_of_the_cancel_of_a_crashed_turn(make_core) -> None:
    class Shy(ShyTools):
        def __init__(self) -> None:
            super().__init__(("t.job", "hand_over"))
            self.told: list[str] = []

        async def execute(self, call: ToolCall, context: ToolContext) -> PendingCompletion:
            await context.completion_key()
            return PendingCompletion()

        async def cancel_external_work(self, call: ToolCall, key: object) -> None:
            self.told.append(call.tool_id)

    points = CrashPoints("after:tool_recorded")
    doomed = await make_core(ScriptedCaller([JOB]), tools=[Shy()], crash_point=points).open_session("s1")
    with pytest.raises(Crash):
        await doomed.turn("go", turn_id="t1").run()
    after = Shy()
    core = make_core(ScriptedCaller([]), tools=[after])
    await core.request_turn_cancel("s1", turn_id="t1", request_id="r1")
    async with await core.open_session("s1") as session:
        assert (await session.redrive().run()).result.outcome == Stopped("cancelled")
    assert after.told == ["t.job"]


async def test_what_came_before_the_cancel_of_a_crashed_turn_stands(make_core) -> None:
    before = Outside()
    points = CrashPoints("after:tool_recorded")
    doomed = await make_core(ScriptedCaller([JOB]), tools=[before.provider], crash_point=points).open_session("s1")
    with pytest.raises(Crash):
        await doomed.turn("go", turn_id="t1").run()
    after = Outside()
    core = make_core(ScriptedCaller([]), tools=[after.provider])
    await core.effect_host.resolve_await_event(before.key(), ResolvedOk("there"))
    await core.request_turn_cancel("s1", turn_id="t1", request_id="r1")
    async with await core.open_session("s1") as session:
        assert (await session.redrive().run()).result.outcome == Stopped("cancelled")
    assert await core.effect_host.peek_await_event(before.key()) == ResolvedOk("there")
    assert after.told == []
