"""Gate and terminal of a turn as promises: what a waiter anywhere learns from the commit itself (contract 03 §3.4)."""

from __future__ import annotations

import asyncio

import pytest
from support.clock import LIMIT_S
from support.scripted import ScriptedCaller, text

from lash_cli.api import LashCore, Stopped
from lash_cli.core.codec import to_builtins
from lash_cli.core.effect import TurnScope
from lash_cli.core.lease import LeaseFence, LeaseTimings
from lash_cli.core.llm import LlmCallResult, LlmRequest
from lash_cli.core.outcome import (
    AssistantMessage,
    CancelRequested,
    CompletionSealed,
    Finished,
    TerminalCommitted,
    TurnAddress,
    TurnCancellationEvidence,
)
from lash_cli.core.protocols import CancelSignal, EventSink
from lash_cli.core.wait import AwaitEventKey, Resolution, ResolvedErr, ResolvedOk, TurnCancelGateWait, TurnTerminalWait
from lash_cli.effects.inline import InlineEffectHost
from lash_cli.errors import (
    EffectError,
    SessionDeleted,
    SessionExecutionLeaseExpired,
    StoreError,
    UsageError,
    WaitTimeout,
)
from lash_cli.runtime.lane import LaneGuard
from lash_cli.system import SystemClock, SystemIds

SCOPE = TurnScope("s1", "t1")
EVIDENCE = TurnCancellationEvidence("r1", "elsewhere", "enough")


def ok(value: object) -> Resolution:
    return ResolvedOk(to_builtins(value))


async def control_keys(core: LashCore) -> tuple[AwaitEventKey, AwaitEventKey]:
    effects = core.host.effects
    gate = await effects.await_event_key(SCOPE, TurnCancelGateWait())
    return gate, await effects.await_event_key(SCOPE, TurnTerminalWait())


async def test_waiters_of_another_core_learn_completion_and_answer_from_the_commit(make_core) -> None:
    caller = ScriptedCaller([text("hello there")])
    caller.gate = asyncio.Event()
    session = await make_core(caller).open_session("s1")
    watcher = make_core(ScriptedCaller([]))
    gate, terminal = await control_keys(watcher)
    waiting = [asyncio.create_task(watcher.host.effects.await_await_event(key)) for key in (gate, terminal)]
    running = asyncio.create_task(session.turn("hi", turn_id="t1").run())
    await caller.entered.wait()
    assert [await watcher.host.effects.peek_await_event(key) for key in (gate, terminal)] == [None, None]
    assert not any(task.done() for task in waiting)
    caller.gate.set()
    output = await running
    ended = TerminalCommitted(Finished(AssistantMessage("hello there")), None, output.result.head_revision)
    assert await asyncio.gather(*waiting) == [ok(CompletionSealed()), ok(ended)]
    late = await watcher.host.effects.resolve_await_event(gate, ok(CancelRequested(EVIDENCE)))
    assert (late.kind, late.terminal) == ("already_resolved", ok(CompletionSealed()))


async def test_whoever_awaits_a_turn_through_its_core_is_told_the_words_of_its_answer(make_core) -> None:
    async with await make_core(ScriptedCaller([text("hello there")])).open_session("s1") as session:
        output = await session.turn("hi", turn_id="t1").run()
    elsewhere = make_core(ScriptedCaller([]))
    ended = TerminalCommitted(output.result.outcome, None, output.result.head_revision)
    assert ended.outcome == Finished(AssistantMessage("hello there"))
    assert await elsewhere.await_terminal(TurnAddress("s1", "t1")) == ended


async def test_a_turn_that_does_not_end_in_time_is_left_to_run(make_core) -> None:
    caller = ScriptedCaller([text("late")])
    caller.gate = asyncio.Event()
    core = make_core(caller)
    async with await core.open_session("s1") as session:
        running = asyncio.ensure_future(session.turn("go", turn_id="t1").run())
        await asyncio.wait_for(caller.entered.wait(), 30)
        with pytest.raises(WaitTimeout) as late:
            await make_core(caller).await_terminal(TurnAddress("s1", "t1"), timeout_ms=1)
        assert (late.value.code, late.value.exit_status) == ("turn_terminal_await_timeout", 124)
        caller.gate.set()
        assert (await running).result.assistant_message() == "late"


async def test_a_request_put_at_the_gate_stops_the_turn_and_is_what_every_waiter_learns(make_core) -> None:
    caller = ScriptedCaller([text("never")])
    caller.gate = asyncio.Event()
    session = await make_core(caller).open_session("s1")
    other = make_core(ScriptedCaller([]))
    gate, terminal = await control_keys(other)
    waiting = asyncio.create_task(other.host.effects.await_await_event(terminal))
    running = asyncio.create_task(session.turn("stop me", turn_id="t1").run())
    await caller.entered.wait()
    assert (await other.host.effects.resolve_await_event(gate, ok(CancelRequested(EVIDENCE)))).kind == "accepted"
    second = CancelRequested(TurnCancellationEvidence("r2"))
    loser = await other.host.effects.resolve_await_event(gate, ok(second))
    assert (loser.kind, loser.terminal) == ("already_resolved", ok(CancelRequested(EVIDENCE)))
    output = await running
    assert output.result.outcome == Stopped("cancelled")
    assert output.result.cancellation == EVIDENCE
    ended = TerminalCommitted(Stopped("cancelled"), EVIDENCE, output.result.head_revision)
    assert await waiting == ok(ended)
    assert await session.effect_host.peek_await_event(gate) == ok(CancelRequested(EVIDENCE))


async def test_of_many_running_turns_only_the_one_that_is_named_stops(make_core) -> None:
    caller = ScriptedCaller([text("never")])
    caller.gate = asyncio.Event()
    core = make_core(caller)
    sessions = [await core.open_session(f"s{index}") for index in range(3)]
    running = []
    for session in sessions:
        running.append(asyncio.create_task(session.turn("go", turn_id="t1").run()))
        await caller.entered.wait()
        caller.entered.clear()
    other = make_core(ScriptedCaller([]))
    await other.request_turn_cancel("s1", turn_id="t1", request_id="r1")
    stopped = await running[1]
    assert stopped.result.cancellation is not None and stopped.result.cancellation.request_id == "r1"
    assert [task.done() for task in running] == [False, True, False]
    await other.request_turn_cancel("s0", turn_id="t1", request_id="r2")
    await other.request_turn_cancel("s2", turn_id="t1", request_id="r3")
    assert [(await task).result.cancellation.request_id for task in running] == ["r2", "r1", "r3"]


async def test_a_request_reaches_the_drive_that_has_the_lane_also_when_the_one_before_ends_after_it_began(
    make_core,
) -> None:
    caller = ScriptedCaller([text("late"), text("never")])
    core = make_core(caller)
    first, second = await core.open_session("s1"), await core.open_session("s1")
    caller.gate = of_the_first = asyncio.Event()
    lost = asyncio.create_task(first.turn("go", turn_id="t1").run())
    await caller.entered.wait()
    caller.entered.clear()
    lease = (await core.store.session_row("s1")).lease
    await core.store.release_lease(
        LeaseFence("s1", lease.owner.owner_id, lease.owner.incarnation_id, lease.token, lease.fencing_token)
    )
    caller.gate = asyncio.Event()
    driven = asyncio.create_task(second.redrive().run())
    await caller.entered.wait()
    of_the_first.set()
    with pytest.raises(SessionExecutionLeaseExpired):
        await lost
    await core.request_turn_cancel("s1", turn_id="t1", request_id="r1")
    async with asyncio.timeout(LIMIT_S):
        assert (await driven).result.cancellation.request_id == "r1"


async def test_a_cancel_after_somebody_else_has_finished_the_turn_tells_that_the_lane_was_lost(make_core) -> None:
    caller = ScriptedCaller([])
    caller.gate = asyncio.Event()
    core = make_core(caller)
    session = await core.open_session("s1")
    running = asyncio.create_task(session.turn("hello").run())
    await caller.entered.wait()
    lease = (await core.store.session_row("s1")).lease
    await core.store.release_lease(
        LeaseFence("s1", lease.owner.owner_id, lease.owner.incarnation_id, lease.token, lease.fencing_token)
    )
    async with await make_core(ScriptedCaller([text("done")])).open_session("s1") as other:
        assert (await other.redrive().run()).result.assistant_message() == "done"
    assert session.cancel_running_turns() == 1
    with pytest.raises(SessionExecutionLeaseExpired) as lost:
        await running
    assert lost.value.hint == "look before retrying: lash show s1"


async def test_a_turn_that_was_cancelled_commits_nothing_once_its_lane_is_known_to_be_lost(
    make_core, monkeypatch
) -> None:
    is_cancelled, is_lost = asyncio.Event(), asyncio.Event()

    class Late(ScriptedCaller):
        """Stops when the lane is lost."""

        checks_answers = True

        async def call(self, request: LlmRequest, *, sink: EventSink, cancel: CancelSignal) -> LlmCallResult:
            self.entered.set()
            await is_lost.wait()
            return await super().call(request, sink=sink, cancel=cancel)

    async def refused(*_: object, **__: object) -> None:
        await is_cancelled.wait()
        raise SessionExecutionLeaseExpired("somebody else has it")

    def lose(guard: LaneGuard) -> None:
        told(guard)
        is_lost.set()

    told = LaneGuard._lose
    monkeypatch.setattr(LaneGuard, "_lose", lose)
    caller = Late([])
    core = make_core(caller, lease_timings=LeaseTimings(30_000, 1))
    monkeypatch.setattr(core.store, "renew_lease", refused)
    session = await core.open_session("s1")
    running = asyncio.create_task(session.turn("stop me", turn_id="t1").run())
    await caller.entered.wait()
    session.cancel_running_turns()
    is_cancelled.set()
    with pytest.raises(SessionExecutionLeaseExpired):
        await running
    assert [turn.turn_id for turn in await core.store.unfinished_turns("s1")] == ["t1"]
    assert isinstance(await core.store.cancel_gate("s1", "t1"), CancelRequested)


async def test_a_request_put_before_the_turn_begins_cancels_it_before_any_model_call(make_core) -> None:
    caller = ScriptedCaller([text("never")])
    core = make_core(caller)
    session = await core.open_session("s1")
    gate, _ = await control_keys(core)
    assert (await core.host.effects.resolve_await_event(gate, ok(CancelRequested(EVIDENCE)))).kind == "accepted"
    output = await session.turn("stop me", turn_id="t1").run()
    assert output.result.cancellation == EVIDENCE
    assert caller.requests == []


@pytest.mark.parametrize("failures", [2, 3])
async def test_the_gate_of_a_turn_that_begins_is_read_three_times_before_the_turn_fails(
    make_core, monkeypatch, failures: int
) -> None:
    core = make_core(ScriptedCaller([text("never")]))
    session = await core.open_session("s1")
    await core.request_turn_cancel("s1", turn_id="t1", request_id="r1")
    read, left = core.store.cancel_gate, [None] * failures

    async def failing(*address: str) -> object:
        if left:
            left.pop()
            raise StoreError("the disk had a moment")
        return await read(*address)

    monkeypatch.setattr(core.store, "cancel_gate", failing)
    turn = session.turn("stop me", turn_id="t1")
    if failures == 3:
        with pytest.raises(StoreError):
            await turn.run()
        turn = session.redrive()
    assert (await turn.run()).result.cancellation.request_id == "r1"


@pytest.mark.parametrize("resolution", [ok(CompletionSealed()), ok({"nonsense": 1}), ResolvedErr("x", "y")])
async def test_nobody_but_the_commit_completes_a_turn(make_core, resolution: Resolution) -> None:
    core = make_core(ScriptedCaller([text("fine")]))
    session = await core.open_session("s1")
    for key in await control_keys(core):
        with pytest.raises(EffectError) as caught:
            await core.host.effects.resolve_await_event(key, resolution)
        assert caught.value.code == "turn_control_resolved_by_commit"
    assert (await session.turn("go", turn_id="t1").run()).result.assistant_message() == "fine"


async def test_a_waiter_that_gives_up_leaves_turn_control_as_it_was(make_core) -> None:
    core = make_core(ScriptedCaller([text("fine")]))
    session = await core.open_session("s1")
    gate, terminal = await control_keys(core)
    for key in (gate, terminal):
        with pytest.raises(EffectError) as caught:
            await core.host.effects.await_await_event(key, deadline_ms=core.host.clock.now_ms() - 1)
        assert caught.value.code == "turn_control_wait_timeout"
    assert await core.host.effects.cancel_await_events_for_session("s1") == 0
    assert (await session.turn("go", turn_id="t1").run()).result.is_success
    assert await core.host.effects.peek_await_event(gate) == ok(CompletionSealed())


async def test_deleting_a_session_whose_waits_were_revoked_first_ends_its_promises_for_ever(make_core) -> None:
    core = make_core(ScriptedCaller([text("fine")]))
    session = await core.open_session("s1")
    await session.turn("go", turn_id="t1").run()
    gate, terminal = await control_keys(core)
    await core.host.effects.revoke_await_events_for_session("s1")
    report = await core.delete_session("s1")
    assert report.existed
    for key in (gate, terminal):
        with pytest.raises(EffectError) as caught:
            await core.host.effects.peek_await_event(key)
        assert caught.value.code == "await_event_unknown_or_revoked"
        assert (await core.host.effects.resolve_await_event(key, ok(None))).kind == "unknown_or_revoked"


async def test_a_deletion_that_was_stopped_halfway_is_ended_by_the_next(make_core, monkeypatch) -> None:
    core = make_core(ScriptedCaller([]), effect_host=InlineEffectHost(SystemClock(), SystemIds()))
    await core.open_session("s1")
    _, terminal = await control_keys(core)
    delete = core.store.delete_session

    async def stopped(*names: object) -> bool:
        await delete(*names)
        raise asyncio.CancelledError

    monkeypatch.setattr(core.store, "delete_session", stopped)
    with pytest.raises(asyncio.CancelledError):
        await core.delete_session("s1")
    with pytest.raises(SessionDeleted):
        await core.delete_session("s1")
    with pytest.raises(EffectError) as caught:
        await core.effect_host.peek_await_event(terminal)
    assert caught.value.code == "await_event_unknown_or_revoked"


async def test_a_model_call_that_a_cancel_ended_is_no_fault_of_its_provider(make_core) -> None:
    caller = ScriptedCaller([text("never")])
    caller.gate = asyncio.Event()
    session = await make_core(caller).open_session("s1")
    running = asyncio.create_task(session.turn("x").run())
    await caller.entered.wait()
    session.cancel_running_turns()
    result = (await running).result
    assert (result.outcome, result.errors) == (Stopped("cancelled"), ())
    await session.close()


@pytest.mark.parametrize(
    ("turn_id", "request_id", "code"),
    [("t1", " ", "invalid_turn_cancel_request"), (" ", "r1", "missing_execution_scope_id")],
)
async def test_a_request_without_a_name_or_for_a_turn_without_one_is_refused(
    make_core, turn_id: str, request_id: str, code: str
) -> None:
    core = make_core(ScriptedCaller([]))
    await core.open_session("s1")
    with pytest.raises(UsageError) as refused:
        await core.request_turn_cancel("s1", turn_id=turn_id, request_id=request_id)
    assert refused.value.code == code
    assert await core.store.cancel_gate("s1", turn_id) is None
