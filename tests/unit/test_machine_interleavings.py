"""The turn machine under random answers: wrong ids, late and mistyped replies, odd batches, cancels anywhere."""

from __future__ import annotations

from hypothesis import given
from support.machine_driving import OPENING, machine
from support.machine_worlds import Move, fresh, play, scripts, settings_of

from lash_cli.core.content import (
    ToolCallPart,
    ToolResultPart,
    is_safe_to_resume,
)
from lash_cli.core.llm import TerminalReason
from lash_cli.core.machine_records import AwaitedEffect, DoneEffect, LlmCallEffect, ToolCallsEffect
from lash_cli.core.machine_table import MachineState
from lash_cli.core.outcome import Stopped
from lash_cli.core.usage import TokenUsage


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
