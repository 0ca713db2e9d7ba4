"""The turn machine under random answers: wrong ids, late and mistyped replies, odd batches, cancels anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from support.machine_driving import OPENING, answer, call, failed, machine, results, user

from lash_cli.core.content import (
    Message,
    PluginOrigin,
    ReasoningPart,
    Role,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    is_safe_to_resume,
)
from lash_cli.core.llm import TerminalReason
from lash_cli.core.machine import (
    AwaitedEffect,
    CheckpointDelivery,
    CheckpointEffect,
    DoneEffect,
    EnvironmentSynced,
    ExecCompleted,
    LlmCallEffect,
    LlmComplete,
    MachineEffect,
    MachineState,
    SyncEnvironmentEffect,
    ToolCallsEffect,
    ToolResults,
    TurnMachine,
)
from lash_cli.core.outcome import Stopped, TurnIssue
from lash_cli.core.tools import (
    FailControl,
    FailureClass,
    FinishControl,
    SwitchAgentFrameControl,
    ToolCallOutput,
    ToolFailure,
    ToolSuccess,
    cancelled,
    failure,
    success,
)
from lash_cli.core.usage import TokenUsage
from lash_cli.modes.standard import StandardProtocol

call_ids = st.sampled_from(["a", "b", "c", "", " ", "t_1.i0.c0", "t_1.i1.c1", "t_1.m1"])
parts = st.one_of(
    st.sampled_from(["", " \n", "hello"]),
    st.builds(call, call_ids, st.just("read"), st.sampled_from(["{}", "{broken", ""])),
    st.builds(ReasoningPart, st.sampled_from(["", "hm"])),
)
usages = st.builds(TokenUsage, st.integers(0, 100), st.integers(0, 3), st.integers(0, 50))
calls = st.builds(call, call_ids, st.just("read"), st.sampled_from(["{}", "{broken", ""]))


def answers_of(some_parts: st.SearchStrategy[list[Any]], reasons: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(
        lambda given, reason, usage, streamed: answer(*given, reason=reason, usage=usage, streamed=streamed),
        some_parts,
        reasons,
        usages,
        st.booleans(),
    )


# Weighted towards answers with calls: only those keep a turn going long enough to meet limits and checkpoints.
working = answers_of(st.tuples(parts, calls, parts).map(list), st.none())
any_answer = answers_of(st.lists(parts, max_size=4), st.none() | st.sampled_from(TerminalReason))
any_failure = st.builds(
    failed, reason=st.sampled_from([TerminalReason.PROVIDER_ERROR, TerminalReason.CANCELLED]), usage=usages
)
llm_answers = st.one_of(working, working, working, working, working, any_answer, any_answer, any_failure)
outputs = st.sampled_from(
    [
        *[success("fine"), success({"n": 1})] * 6,
        failure(FailureClass.EXECUTION, "boom", "it broke"),
        cancelled(),
        ToolCallOutput(ToolSuccess(1), FinishControl(1)),
        ToolCallOutput(ToolSuccess(1), FailControl(ToolFailure(FailureClass.EXTERNAL, "x", "y"))),
        ToolCallOutput(ToolSuccess(1), SwitchAgentFrameControl("f", "task")),
        ToolCallOutput(ToolSuccess(1), SwitchAgentFrameControl("f")),
    ]
)
delivered = st.sampled_from(
    [
        *[user("u1"), user("u2"), user("")] * 4,
        user("t_1.m2"),
        Message("x1", Role.SYSTEM, (TextPart("hint"),), PluginOrigin("p", transient=True)),
        Message("bad", Role.ASSISTANT, (call("zz"),)),
        Message("bad2", Role.USER, (ToolResultPart("a", "read", "?"),)),
    ]
)
deliveries = st.builds(
    CheckpointDelivery,
    st.lists(delivered, max_size=3).map(tuple),
    st.sampled_from([*[None] * 7, TurnIssue("plugin", "no")]),
)


@dataclass(frozen=True)
class Move:
    """One step of the world: an answer of some kind, aimed well or badly, or a cancel."""

    aim: str
    llm: LlmComplete
    outputs: tuple[ToolCallOutput, ...]
    drop: int
    reverse: bool
    delivery: CheckpointDelivery
    error: str | None


moves = st.builds(
    Move,
    st.sampled_from(["hit"] * 20 + ["future", "past", "mistyped", "again", "cancel"]),
    llm_answers,
    st.lists(outputs, max_size=4).map(tuple),
    st.sampled_from([*[0] * 11, 1]),
    st.booleans(),
    deliveries,
    st.sampled_from([*[None] * 15, "gone"]),
)


def proper_answer(effect: AwaitedEffect, move: Move) -> Any:
    match effect:
        case SyncEnvironmentEffect():
            return EnvironmentSynced(move.error)
        case LlmCallEffect():
            return move.llm
        case ToolCallsEffect():
            given_results = results(effect, *move.outputs)
            records = given_results.records[: len(given_results.records) - move.drop]
            return ToolResults(records[::-1] if move.reverse else records)
        case CheckpointEffect():
            return move.delivery
    raise AssertionError(effect)


def play(turn: TurnMachine, script: list[Move]) -> list[MachineEffect]:
    """Let the world happen to a turn; whatever is still awaited at the end is cancelled."""
    effects: list[MachineEffect] = []
    remaining = iter(script)
    while (effect := turn.poll()) is not None:
        effects.append(effect)
        if not isinstance(effect, AwaitedEffect):
            continue
        assert turn.poll() is None
        for move in remaining:
            state, messages = turn.state, turn.messages
            if move.aim == "hit":
                assert turn.respond(effect.effect_id, proper_answer(effect, move))
                assert not turn.respond(effect.effect_id, proper_answer(effect, move)), "answered twice"
                break
            if move.aim == "cancel":
                turn.cancel("user")
                assert not turn.respond(effect.effect_id, proper_answer(effect, move)), "late answer taken"
                break
            if move.aim == "mistyped":
                assert not turn.respond(effect.effect_id, ExecCompleted())
            else:
                offset = {"future": 1, "past": -1, "again": -effect.effect_id}[move.aim]
                assert not turn.respond(effect.effect_id + offset, proper_answer(effect, move))
            assert (turn.state, turn.messages) == (state, messages)
        else:
            turn.cancel("the script ended")
    return effects


def fresh(limit: int | None, grace: bool, window: int | None) -> TurnMachine:
    return machine(StandardProtocol(has_grace=grace), max_turns=limit, context_window_tokens=window)


scripts = st.lists(moves, max_size=6) | st.lists(moves, min_size=10, max_size=25)
settings_of = st.tuples(st.sampled_from([None, 1, 2, 3]), st.booleans(), st.sampled_from([None, 100]))


@given(scripts, settings_of)
def test_every_turn_ends_once_with_a_transcript_that_is_safe_to_resume(
    script: list[Move], limits: tuple[int | None, bool, int | None]
) -> None:
    turn = fresh(*limits)
    effects = play(turn, script)
    done = effects[-1]
    assert isinstance(done, DoneEffect) and turn.state is MachineState.FINISHED and turn.poll() is None
    assert sum(isinstance(effect, DoneEffect) for effect in effects) == 1
    assert is_safe_to_resume(done.messages)
    assert done.messages[: len(OPENING)] == OPENING
    ids = [message.id for message in done.messages]
    assert all(ids) and len(set(ids)) == len(ids)


@given(scripts, settings_of)
def test_every_call_of_the_transcript_is_recorded_and_only_handed_out_calls_ran(
    script: list[Move], limits: tuple[int | None, bool, int | None]
) -> None:
    effects = play(fresh(*limits), script)
    done = effects[-1]
    assert isinstance(done, DoneEffect)
    calls = [part for message in done.messages for part in message.parts if isinstance(part, ToolCallPart)]
    shown = [part for message in done.messages for part in message.parts if isinstance(part, ToolResultPart)]
    assert [part.tool_call_id for part in calls] == [record.call_id for record in done.tool_calls]
    assert [(part.tool_call_id, part.status) for part in shown] == [
        (record.call_id, record.output.status) for record in done.tool_calls
    ]
    handed_out = {p.tool_call_id for effect in effects if isinstance(effect, ToolCallsEffect) for p in effect.calls}
    ran = {record.call_id for record in done.tool_calls if record.output.status != "cancelled"}
    assert ran <= handed_out


@given(scripts, settings_of)
def test_effect_ids_grow_iterations_stay_within_the_limit_and_costs_add_up(
    script: list[Move], limits: tuple[int | None, bool, int | None]
) -> None:
    effects = play(fresh(*limits), script)
    done = effects[-1]
    assert isinstance(done, DoneEffect)
    awaited = [effect for effect in effects if isinstance(effect, AwaitedEffect)]
    ids = [effect.effect_id for effect in awaited]
    assert ids == sorted(set(ids)) and ids[:1] == [1]
    calls = sum(isinstance(effect, LlmCallEffect) for effect in awaited)
    limit, grace, _ = limits
    assert calls <= done.iterations <= (limit + grace if limit is not None else len(effects))
    assert len(done.llm_calls) <= calls
    assert done.usage == sum((record.usage for record in done.llm_calls), TokenUsage())


@given(scripts, settings_of)
def test_replaying_the_same_answers_gives_the_same_turn(
    script: list[Move], limits: tuple[int | None, bool, int | None]
) -> None:
    assert play(fresh(*limits), script) == play(fresh(*limits), script)


@given(scripts)
def test_no_turn_is_cancelled_unless_it_was_asked_to(script: list[Move]) -> None:
    hits = [move for move in script if move.aim == "hit"]
    turn = machine(max_turns=2)
    effects = play(turn, hits)
    done = effects[-1]
    assert isinstance(done, DoneEffect)
    asked = any(
        (move.llm.result.response is not None and move.llm.result.response.terminal_reason is TerminalReason.CANCELLED)
        or (move.llm.result.error is not None and move.llm.result.error.terminal_reason is TerminalReason.CANCELLED)
        for move in hits
    )
    ran_out = len(hits) < sum(isinstance(effect, AwaitedEffect) for effect in effects)
    if not asked and not ran_out:
        assert done.outcome != Stopped("cancelled")
