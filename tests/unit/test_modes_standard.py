"""The standard protocol, seen through whole turns (contract 06 §10, §17; 05 §1.3)."""

import pytest
from support.machine_driving import OPENING, answer, call, drive, failed, machine, results, user

from lash_cli.core.activity import ErrorShown, ValueShown
from lash_cli.core.content import (
    AttachmentPart,
    Message,
    ProsePart,
    ReasoningPart,
    ReasoningReplay,
    Role,
    Stored,
    TextPart,
    ToolResultPart,
    is_safe_to_resume,
)
from lash_cli.core.llm import TerminalReason
from lash_cli.core.machine_records import CheckpointDelivery, ExecCompleted, ToolCallsEffect, TurnView
from lash_cli.core.outcome import AgentFrameSwitch, AssistantMessage, Finished, Stopped, ToolValue
from lash_cli.core.tools import (
    FailControl,
    FailureClass,
    FinishControl,
    SwitchAgentFrameControl,
    ToolCallOutput,
    ToolControl,
    ToolFailure,
    ToolSuccess,
    cancelled,
    failure,
    success,
)
from lash_cli.errors import LashRuntimeError
from lash_cli.modes.standard import StandardProtocol


def batch(*outputs: ToolCallOutput):  # type: ignore[no-untyped-def]
    """A tool runner that answers every batch with these outputs."""
    return lambda effect: results(effect, *outputs)


def controlled(control: ToolControl) -> ToolCallOutput:
    return ToolCallOutput(ToolSuccess("done"), control)


def test_the_answer_is_one_message_with_its_parts_in_wire_order() -> None:
    parts = (
        ReasoningPart("first", ReasoningReplay(item_id="r1")),
        ProsePart("Let me look."),
        ReasoningPart("then"),
        call("a"),
        call("b"),
    )
    run = drive(machine(), [answer(parts[0], "Let me look.", *parts[2:]), answer("hi")])
    assert run.done.messages[1] == Message("t_1.m1", Role.ASSISTANT, parts)


def test_blank_prose_beside_a_call_is_not_kept() -> None:
    run = drive(machine(), [answer("\n\n", call("a")), answer("hi")])
    assert run.done.messages[1].parts == (call("a"),)


def test_reasoning_without_text_completes_with_an_empty_answer() -> None:
    run = drive(machine(), [answer(ReasoningPart("hm"))])
    assert run.done.outcome == Finished(AssistantMessage(""))
    assert run.kinds()[-1] == "before_completion"
    assert run.done.messages[-1].parts == (ReasoningPart("hm"),)


@pytest.mark.parametrize("nothing", [(), ("",), (" \n",), (ReasoningPart(""),)])
def test_an_empty_answer_is_a_provider_failure_without_a_checkpoint(nothing: tuple[object, ...]) -> None:
    run = drive(machine(), [answer(*nothing)])  # type: ignore[arg-type]
    assert run.done.outcome == Stopped("provider_error")
    assert (run.done.issues[0].kind, run.done.issues[0].code) == ("llm_provider", "empty_response")
    assert run.kinds() == ["sync", "llm"]
    assert run.events[-1] == ErrorShown(run.done.issues[0])
    assert run.done.messages == OPENING


def test_an_empty_answer_after_tool_results_finishes_through_the_checkpoint() -> None:
    run = drive(machine(), [answer(call()), answer()])
    assert run.done.outcome == Finished(AssistantMessage(""))
    assert run.kinds()[-1] == "before_completion"
    assert isinstance(run.done.messages[-1].parts[0], ToolResultPart)


def test_an_empty_answer_after_a_user_message_that_followed_results_is_a_failure() -> None:
    run = drive(machine(), [answer(call()), answer()], deliveries=[CheckpointDelivery((user("u1"),))])
    assert run.done.outcome == Stopped("provider_error")


def test_a_message_before_completion_re_enters_the_loop_also_after_an_empty_answer() -> None:
    deliveries = [CheckpointDelivery(), CheckpointDelivery((user("u1"),))]
    run = drive(machine(), [answer(call()), answer(), answer("hi")], deliveries=deliveries)
    assert run.done.outcome == Finished(AssistantMessage("hi"))


def test_a_provider_error_after_work_keeps_the_work() -> None:
    done = drive(machine(), [answer(call()), failed()]).done
    assert done.outcome == Stopped("provider_error")
    assert len(done.messages) == 3 and is_safe_to_resume(done.messages)


@pytest.mark.parametrize("reason", [TerminalReason.STOP, TerminalReason.UNKNOWN])
def test_calls_run_whatever_reason_the_provider_gave(reason: TerminalReason) -> None:
    run = drive(machine(), [answer(call(), reason=reason), answer("hi")])
    assert len(run.of(ToolCallsEffect)) == 1


def test_a_batch_is_answered_in_one_user_message_in_source_order_with_one_checkpoint() -> None:
    outputs = (success({"n": [1]}), failure(FailureClass.EXECUTION, "boom", "it broke"), cancelled())
    run = drive(machine(), [answer(call("a"), call("b", "write"), call("c")), answer("hi")], tools=batch(*outputs))
    assert run.done.messages[2] == Message(
        "t_1.m2",
        Role.USER,
        (
            ToolResultPart("a", "read", '{"n":[1]}'),
            ToolResultPart("b", "write", "[Tool execution failed]\nit broke", "failure"),
            ToolResultPart("c", "read", "[Tool execution cancelled]\ntool call cancelled", "cancelled"),
        ),
    )
    assert run.kinds().count("after_work") == 1
    assert [record.call_id for record in run.done.tool_calls] == ["a", "b", "c"]


def test_a_failing_tool_is_fed_back_and_the_turn_goes_on() -> None:
    run = drive(
        machine(), [answer(call()), answer("sorry")], tools=batch(failure(FailureClass.TIMEOUT, "tool_timeout", "late"))
    )
    assert run.done.outcome == Finished(AssistantMessage("sorry"))
    assert run.done.issues == ()


def test_projected_text_replaces_the_default_but_not_the_record() -> None:
    run = drive(
        machine(),
        [answer(call("a")), answer("hi")],
        tools=lambda effect: results(effect, success("x" * 100), projections=("x… (cut)",)),
    )
    assert run.done.messages[2].parts == (ToolResultPart("a", "read", "x… (cut)"),)
    assert run.done.tool_calls[0].output == success("x" * 100)


def test_attachments_of_results_follow_all_results_under_the_name_of_their_call() -> None:
    image = Stored("sha256:1", "image/png", 3)
    outputs = (ToolCallOutput(ToolSuccess("see", (image,))), success("b"))
    run = drive(machine(), [answer(call("a"), call("b")), answer("hi")], tools=batch(*outputs))
    assert run.done.messages[2].parts == (
        ToolResultPart("a", "read", "see"),
        ToolResultPart("b", "read", "b"),
        TextPart("Attached by read (a):"),
        AttachmentPart(image),
    )


def test_a_finish_control_ends_the_turn_with_its_value() -> None:
    run = drive(machine(), [answer(call("a", "submit"))], tools=batch(controlled(FinishControl({"x": 1}))))
    assert run.done.outcome == Finished(ToolValue("submit", {"x": 1}))
    assert run.kinds() == ["sync", "llm", "tools"]
    assert run.events[-1] == ValueShown("submit", {"x": 1})
    assert is_safe_to_resume(run.done.messages)


def test_a_fail_control_ends_the_turn_with_its_failure() -> None:
    control = FailControl(ToolFailure(FailureClass.EXTERNAL, "no_quota", "nothing left"))
    done = drive(machine(), [answer(call("a", "submit"))], tools=batch(controlled(control))).done
    assert isinstance(done.outcome, Stopped)
    assert (done.outcome.reason, done.outcome.tool_name) == ("tool_error", "submit")
    assert done.outcome.value == {"failure_class": "external", "code": "no_quota", "message": "nothing left"}
    assert (done.issues[0].code, done.issues[0].message) == ("no_quota", "submit: nothing left")


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (None, None),
        ("nothing left", None),
        ("quota of 5 used", "quota of 5 used"),
        ({"limit": 5, "token": "canary"}, '{"limit":5,"token":"[redacted]"}'),
    ],
)
def test_what_a_failing_tool_said_to_programs_is_told_of_the_turn(raw: object, told: str | None) -> None:
    control = FailControl(ToolFailure(FailureClass.EXTERNAL, "no_quota", "nothing left", raw=raw))
    done = drive(machine(), [answer(call("a", "submit"))], tools=batch(controlled(control))).done
    assert (done.issues[0].message, done.issues[0].raw) == ("submit: nothing left", told)


def test_a_frame_switch_ends_the_turn_in_favour_of_the_frame() -> None:
    control = SwitchAgentFrameControl("f2", "go on", ({"n": 1},))
    done = drive(machine(), [answer(call())], tools=batch(controlled(control))).done
    assert done.outcome == AgentFrameSwitch("f2", "go on", ({"n": 1},))


def test_a_frame_switch_without_a_task_is_not_terminal() -> None:
    run = drive(machine(), [answer(call()), answer("hi")], tools=batch(controlled(SwitchAgentFrameControl("f2"))))
    assert run.done.outcome == Finished(AssistantMessage("hi"))


@pytest.mark.parametrize("control", [SwitchAgentFrameControl(" ", "go"), SwitchAgentFrameControl("f2", " ")])
def test_a_frame_switch_with_a_blank_id_or_task_is_a_tool_error(control: ToolControl) -> None:
    done = drive(machine(), [answer(call())], tools=batch(controlled(control))).done
    assert isinstance(done.outcome, Stopped) and done.outcome.reason == "tool_error"


def test_the_first_control_in_source_order_wins() -> None:
    outputs = (
        success("no control"),
        controlled(SwitchAgentFrameControl("f2")),
        controlled(FinishControl(2)),
        controlled(FinishControl(3)),
    )
    calls = [call(i, f"tool_{i}") for i in "abcd"]
    done = drive(machine(), [answer(*calls)], tools=batch(*outputs)).done
    assert done.outcome == Finished(ToolValue("tool_c", 2))


def test_a_control_counts_only_on_success() -> None:
    broken = failure(FailureClass.EXECUTION, "boom", "it broke")
    output = ToolCallOutput(broken.outcome, FinishControl(1))
    run = drive(machine(), [answer(call()), answer("hi")], tools=batch(output))
    assert run.done.outcome == Finished(AssistantMessage("hi"))


def test_a_control_in_the_last_iteration_beats_the_turn_limit() -> None:
    done = drive(machine(max_turns=1), [answer(call("a", "submit"))], tools=batch(controlled(FinishControl(1)))).done
    assert done.outcome == Finished(ToolValue("submit", 1))


def test_the_protocol_runs_no_programs() -> None:
    with pytest.raises(LashRuntimeError) as raised:
        StandardProtocol().exec_answered(TurnView("t", 0, ()), ExecCompleted())
    assert raised.value.code == "protocol_without_code"
