"""What a caller is told about a finished turn (contract 01 §7.1)."""

import pytest
from support.machine_driving import OPENING, answer, call, drive, failed, machine, user

from lash_cli.core.content import Message, PluginOrigin, ProsePart, Role
from lash_cli.core.machine_assembly import assemble_outcome, assistant_output
from lash_cli.core.machine_records import DoneEffect
from lash_cli.core.outcome import (
    AssistantMessage,
    AssistantOutput,
    Finished,
    Stopped,
    ToolValue,
    TurnCancellationEvidence,
    TurnIssue,
)
from lash_cli.errors import LashRuntimeError

EVIDENCE = TurnCancellationEvidence("r1")
ANSWERED = Finished(AssistantMessage("hi"))


def said(text: str, message_id: str = "m") -> Message:
    return Message(message_id, Role.ASSISTANT, (ProsePart(text),))


@pytest.mark.parametrize("done", [None, DoneEffect(ANSWERED), DoneEffect(Stopped("cancelled"))])
def test_cancellation_evidence_decides_whatever_the_machine_said(done: DoneEffect | None) -> None:
    assert assemble_outcome(done, EVIDENCE) == (Stopped("cancelled"), ())


def test_without_evidence_nothing_is_cancelled() -> None:
    with pytest.raises(LashRuntimeError) as raised:
        assemble_outcome(DoneEffect(Stopped("cancelled")), None)
    assert raised.value.code == "turn_cancellation_evidence_missing"


def test_the_machines_outcome_and_issues_stand() -> None:
    issue = TurnIssue("llm_provider", "x")
    done = DoneEffect(Stopped("provider_error"), issues=(issue,))
    assert assemble_outcome(done, None) == (Stopped("provider_error"), (issue,))


def test_a_machine_that_never_finished_is_a_runtime_error() -> None:
    outcome, issues = assemble_outcome(None, None)
    assert (outcome, issues[0].code) == (Stopped("runtime_error"), "missing_done")


def test_a_prose_answer_is_its_own_text() -> None:
    assert assistant_output(ANSWERED, ()) == (AssistantOutput("hi", "hi", "usable"), ())
    assert assistant_output(Finished(AssistantMessage(" ")), ())[0].state == "empty_output"


def test_text_is_recovered_across_tool_results_and_says_so() -> None:
    done = drive(machine(), [answer("Looking.", call()), answer("More.", call("b")), failed()]).done
    output, issues = assistant_output(done.outcome, done.messages)
    assert output == AssistantOutput("Looking.\n\nMore.", "Looking.\n\nMore.", "recovered_from_error")
    assert (issues[0].code, issues[0].blocking) == ("assistant_output_recovered_from_state", False)


def test_text_before_the_latest_user_message_is_never_recovered() -> None:
    messages = (*OPENING, said("old"), user("u2"))
    assert assistant_output(Stopped("provider_error"), messages) == (AssistantOutput("", "", "empty_output"), ())


def test_streamed_text_of_a_failed_call_is_not_salvaged() -> None:
    done = drive(machine(), [failed()]).done
    assert assistant_output(done.outcome, done.messages)[0].state == "empty_output"


def test_prose_beside_a_tool_value_is_usable_and_transient_text_is_not_shown() -> None:
    hint = Message("x", Role.ASSISTANT, (ProsePart("hint"),), PluginOrigin("p", transient=True))
    output, _ = assistant_output(Finished(ToolValue("submit", 1)), (*OPENING, said("Done."), hint))
    assert (output.raw_text, output.state) == ("Done.", "usable")


def test_safe_text_has_no_character_that_drives_a_terminal() -> None:
    raw = "a\x1b[31mb\x07\x9b\x7f\r\n\tc é"
    output, _ = assistant_output(Finished(AssistantMessage(raw)), ())
    assert (output.safe_text, output.raw_text) == ("a[31mb\n\tc é", raw)
