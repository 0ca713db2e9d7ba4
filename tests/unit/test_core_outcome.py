"""How a turn ended, as whoever is handed its result asks it (contract 01 §7)."""

from __future__ import annotations

import pytest

from lash_cli.api import (
    AssistantMessage,
    AssistantOutput,
    ExecutionSummary,
    FinalValue,
    Finished,
    Stopped,
    ToolValue,
    TurnOutcome,
    TurnResult,
)


@pytest.mark.parametrize(
    ("outcome", "message", "final", "tool"),
    [
        (Finished(AssistantMessage("yes")), "yes", None, None),
        (Finished(FinalValue({"n": 1})), None, {"n": 1}, None),
        (Finished(FinalValue(None)), None, None, None),
        (Finished(ToolValue("count", 3)), None, None, 3),
        (Stopped("submitted_error", value=4), None, None, None),
    ],
)
def test_a_result_has_the_one_answer_its_turn_finished_with_and_no_other(
    outcome: TurnOutcome, message: str | None, final: object, tool: object
) -> None:
    result = TurnResult("s", "t", outcome, AssistantOutput("", "", "usable"), ExecutionSummary(False, False, 0, 0))
    assert (result.assistant_message(), result.final_value(), result.tool_value()) == (message, final, tool)
    assert result.has_final_value == (isinstance(outcome, Finished) and isinstance(outcome.finish, FinalValue))


def test_a_result_says_when_its_turn_began_and_how_long_it_took() -> None:
    execution = ExecutionSummary(False, False, 1_700_000_000_250, 1_500)
    result = TurnResult("s", "t", Stopped("cancelled"), AssistantOutput("", "", "usable"), execution)
    assert result.started_at().isoformat() == "2023-11-14T22:13:20.250000+00:00"
    assert result.duration().total_seconds() == 1.5
