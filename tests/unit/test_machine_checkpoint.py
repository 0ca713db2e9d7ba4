"""Freezing a turn and going on elsewhere (contract 01 §6.2, §6.3)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from support.machine_driving import answer, call, drive, machine, results, run_to
from support.machine_worlds import Move, fresh, play, scripts, settings_of

from lash_cli.core.activity import AssistantProseDelta
from lash_cli.core.codec import decode, encode
from lash_cli.core.machine import TurnMachine
from lash_cli.core.machine_checkpoint import TurnCheckpoint
from lash_cli.core.machine_records import (
    CheckpointEffect,
    DoneEffect,
    Emit,
    EmitEffect,
    EnvironmentSynced,
    ExecCodeEffect,
    ExecCompleted,
    Finish,
    LlmCallEffect,
    MachineEffect,
    ProtocolAction,
    StartExec,
    SyncEnvironmentEffect,
    ToolCallsEffect,
    TurnView,
)
from lash_cli.core.machine_table import MachineState
from lash_cli.core.outcome import AssistantMessage, FinalValue, Finished, Stopped, TurnOutcome
from lash_cli.core.pricing import BucketPrices, CostLimit, Prices
from lash_cli.modes.standard import StandardProtocol

ANSWERED = Finished(AssistantMessage("hi"))


def elsewhere(turn: TurnMachine, driver: StandardProtocol | None = None) -> TurnMachine:
    """The turn in another process: only the JSON of its checkpoint is carried over."""
    frozen = turn.checkpoint()
    read = decode(encode(frozen), TurnCheckpoint)
    assert read == frozen
    moved = TurnMachine.restore(read, driver or StandardProtocol())
    assert moved.checkpoint() == frozen, "nothing is lost on the way"
    assert (moved.state, moved.messages, moved.finished) == (turn.state, turn.messages, turn.finished)
    return moved


def moving_at(steps: Callable[[int], bool], driver: StandardProtocol) -> Callable[[TurnMachine], TurnMachine]:
    count = itertools.count()
    return lambda turn: elsewhere(turn, driver) if steps(next(count)) else turn


@given(scripts, settings_of, st.integers(0, 120))
def test_a_turn_that_is_moved_at_any_step_ends_as_one_that_is_not(
    script: list[Move], limits: tuple[int | None, bool, int | None], step: int
) -> None:
    driver = StandardProtocol(has_grace=limits[1])
    whole = play(fresh(*limits), script)
    assert play(fresh(*limits), script, moving_at(lambda at: at == step, driver)) == whole
    assert play(fresh(*limits), script, moving_at(lambda at: True, driver)) == whole


def test_a_call_of_a_moved_turn_gets_no_id_that_an_earlier_turn_gave() -> None:
    turn = machine()
    run_to(turn, LlmCallEffect)
    moved = TurnMachine.restore(turn.checkpoint(), StandardProtocol(), lambda: frozenset({"c1"}))
    asked = run_to(moved, ToolCallsEffect, [answer("look", call("c1"), call("c2"))])
    first, second = (made.tool_call_id for made in asked.calls)
    assert first != "c1" and second == "c2"


def test_what_is_awaited_is_handed_out_again_before_anything_else() -> None:
    turn = machine()
    asked = run_to(turn, ToolCallsEffect, [answer("look", call("c1"), call("c2"))])
    moved = elsewhere(turn)
    assert not moved.respond(asked.effect_id, results(asked)), "it is not handed out yet"
    assert moved.poll() == asked
    assert moved.poll() is None
    assert not moved.respond(asked.effect_id - 1, EnvironmentSynced())
    assert moved.respond(asked.effect_id, results(asked))
    here = drive(machine(), [answer("look", call("c1"), call("c2")), answer("done")])
    assert drive(moved, [answer("done")]).done == here.done


def test_what_was_not_handed_out_yet_keeps_its_place() -> None:
    turn = machine()
    run_to(turn, SyncEnvironmentEffect)
    turn.respond(1, EnvironmentSynced())
    moved = elsewhere(turn)
    assert not moved.respond(2, answer("hi"))
    assert [moved.poll(), moved.poll()] == [turn.poll(), turn.poll()]
    assert moved.respond(2, answer("hi"))


@pytest.mark.parametrize("limit, outcome", [(40, Stopped("max_cost")), (41, ANSWERED)])
def test_what_a_turn_has_cost_counts_on_where_it_moves_to(limit: int, outcome: TurnOutcome) -> None:
    prices = Prices(BucketPrices(input=1_000_000, output=2_000_000))
    turn = machine(cost_limit=CostLimit(limit, prices))
    run_to(turn, ToolCallsEffect, [answer(call("a"))])
    moved = elsewhere(turn)
    assert drive(moved, [answer(call("b")), answer("hi")]).done.outcome == outcome


class Running(StandardProtocol):
    """Runs one program and ends with its outcome."""

    def begin_iteration(self, turn: TurnView) -> Sequence[ProtocolAction]:
        return (StartExec("return 1"), Emit(AssistantProseDelta("running")))

    def exec_answered(self, turn: TurnView, completed: ExecCompleted) -> Sequence[ProtocolAction]:
        return (Finish(Finished(FinalValue(completed.output))),)


def test_a_program_is_asked_for_again_before_what_is_shown_behind_it() -> None:
    turn = machine(Running())
    asked = run_to(turn, ExecCodeEffect)
    moved = elsewhere(turn, Running())
    assert moved.poll() == asked
    assert moved.poll() == EmitEffect(AssistantProseDelta("running"))
    assert moved.respond(asked.effect_id, ExecCompleted("1"))
    done = drive(moved).done
    assert (done.outcome, done.had_code_execution) == (Finished(FinalValue("1")), True)


def test_a_checkpoint_is_a_picture_that_its_turn_does_not_change() -> None:
    turn = machine()
    run_to(turn, LlmCallEffect)
    frozen, before = turn.checkpoint(), encode(turn.checkpoint())
    assert turn.respond(2, answer("done"))
    assert turn.checkpoint() != frozen
    assert encode(frozen) == before


def at(kind: type) -> TurnCheckpoint:
    turn = machine()
    run_to(turn, kind, [answer("look", call("c1")), answer("done")])
    return turn.checkpoint()


def with_pending(frozen: TurnCheckpoint, *more: MachineEffect) -> TurnCheckpoint:
    return replace(frozen, pending_effects=(*frozen.pending_effects, *more))


UNSOUND: dict[str, Callable[[], TurnCheckpoint]] = {
    "a wait for nothing": lambda: replace(at(LlmCallEffect), pending_effects=()),
    "a wait for something else": lambda: replace(
        at(LlmCallEffect), pending_effects=at(SyncEnvironmentEffect).pending_effects
    ),
    "two waits": lambda: replace(at(LlmCallEffect), pending_effects=at(LlmCallEffect).pending_effects * 2),
    "an older effect": lambda: replace(at(ToolCallsEffect), next_effect_id=9),
    "nothing waited for": lambda: replace(at(CheckpointEffect), state=MachineState.PREPARE_ITERATION),
    "not over": lambda: with_pending(at(LlmCallEffect), DoneEffect(ANSWERED)),
    "a message twice": lambda: replace(at(LlmCallEffect), messages=at(LlmCallEffect).messages * 2),
}


@pytest.mark.parametrize("what", UNSOUND)
def test_a_checkpoint_that_no_turn_can_have_left_is_refused(what: str) -> None:
    with pytest.raises(ValueError):
        TurnMachine.restore(UNSOUND[what](), StandardProtocol())
