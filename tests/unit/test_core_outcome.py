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
