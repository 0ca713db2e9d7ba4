"""Random worlds for turn-machine tests: scripts of answers, good and bad, and who plays them to a turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from support.machine_driving import answer, call, failed, machine, results, user

from lash_cli.core.content import (
    Message,
    PluginOrigin,
    ReasoningPart,
    Role,
    TextPart,
    ToolResultPart,
)
from lash_cli.core.llm import TerminalReason
from lash_cli.core.machine import TurnMachine
from lash_cli.core.machine_records import (
    AwaitedEffect,
    CheckpointDelivery,
    CheckpointEffect,
    EnvironmentSynced,
    ExecCompleted,
    LlmCallEffect,
    LlmComplete,
    MachineEffect,
    SyncEnvironmentEffect,
    ToolCallsEffect,
    ToolResults,
)
from lash_cli.core.outcome import TurnIssue
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

    @classmethod
    def plain(cls) -> Move:
        """An answer without anything odd about it."""
        return cls("hit", answer("fine"), (), 0, False, CheckpointDelivery(), None)


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
    """What `move` answers to `effect`."""
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


def as_it_is(turn: TurnMachine) -> TurnMachine:
    """The turn goes on where it is."""
    return turn


def play(
    turn: TurnMachine, script: list[Move], moved: Callable[[TurnMachine], TurnMachine] = as_it_is
) -> list[MachineEffect]:
    """Let the world happen to a turn; whatever is still awaited at the end is cancelled. `moved` is asked after every
    step which machine goes on with the turn; another one hands out again what is awaited."""
    effects: list[MachineEffect] = []
    remaining = iter(script)
    while (effect := (turn := moved(turn)).poll()) is not None:
        effects.append(effect)
        if not isinstance(effect, AwaitedEffect):
            continue
        goes_on = moved(turn)
        if goes_on is not turn:
            turn = goes_on
            assert not turn.respond(effect.effect_id, proper_answer(effect, Move.plain())), "answered too early"
            assert turn.poll() == effect
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
    """A turn under the given limits."""
    return machine(StandardProtocol(has_grace=grace), max_turns=limit, context_window_tokens=window)


scripts = st.lists(moves, max_size=6) | st.lists(moves, min_size=10, max_size=25)
settings_of = st.tuples(st.sampled_from([None, 1, 2, 3]), st.booleans(), st.sampled_from([None, 100]))
