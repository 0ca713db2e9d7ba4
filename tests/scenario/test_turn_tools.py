"""Tools inside of whole turns: what the model reads of them, and who may stop them (contract 05 §3, §6)."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from support.doubling import Number, double, doubling
from support.driving import Crash, CrashPoints
from support.nesting import nested
from support.scripted import ScriptedCaller, calls, text
from support.tools import NamedTools

from lash_cli.api import (
    FunctionToolProvider,
    LashCore,
    ModelSpec,
    Stopped,
    tool,
)
from lash_cli.core.activity import (
    ToolCallCompleted,
    ToolCallStarted,
)
from lash_cli.core.codec import MAX_ERROR_CHARS, MAX_WRITTEN_DEPTH
from lash_cli.core.content import ToolResultPart, is_safe_to_resume, message_text
from lash_cli.core.llm import LlmResponse
from lash_cli.core.tools import (
    FailureClass,
    FinishControl,
    ToolCallOutput,
    ToolContract,
    ToolManifest,
    ToolSuccess,
    failure,
)
from lash_cli.errors import ReconfigureError
from lash_cli.runtime import attempts, containment
from lash_cli.store.sqlite import commit


async def test_parallel_calls_are_answered_in_source_order_in_one_message(make_core) -> None:
    caller = ScriptedCaller([calls(("a", "double", '{"value":1}'), ("b", "double", '{"value":2}')), text("2 and 4")])
    async with await make_core(caller, tools=[doubling()]).open_session("s1") as session:
        output = await session.turn("go").run()
        messages = session.read_view().messages
    assert [record.call_id for record in output.result.tool_calls] == ["a", "b"]
    results = [part for part in messages[2].parts if isinstance(part, ToolResultPart)]
    assert [(part.tool_call_id, part.content) for part in results] == [("a", "2"), ("b", "4")]
    assert is_safe_to_resume(list(messages))
    started = [item.event.call_id for item in output.activities if isinstance(item.event, ToolCallStarted)]
    completed = [item.event.call_id for item in output.activities if isinstance(item.event, ToolCallCompleted)]
    assert sorted(started) == sorted(completed) == ["a", "b"]


@pytest.mark.parametrize(
    ("arguments", "name", "code"),
    [
        ("{broken", "double", "invalid_tool_args"),
        ('{"value":"x"}', "double", "invalid_tool_args"),
        ("{}", "nothing", "tool_unavailable"),
    ],
)
async def test_a_bad_call_is_a_failed_result_and_the_turn_goes_on(make_core, arguments, name, code) -> None:
    caller = ScriptedCaller([calls(("a", name, arguments)), text("sorry")])
    async with await make_core(caller, tools=[doubling()]).open_session("s1") as session:
        output = await session.turn("go").run()
    assert output.result.assistant_message() == "sorry"
    assert output.result.tool_calls[0].output.outcome.failure.code == code


@pytest.mark.parametrize(
    "schema", ["text", {"type": "object", "properties": []}, {"$ref": "https://elsewhere.test/schema"}]
)
async def test_a_tool_whose_schema_cannot_be_used_is_unavailable_whatever_the_model_says(make_core, schema) -> None:
    class Unusable(NamedTools):
        def contract(self, tool_id: str) -> ToolContract:
            return ToolContract(schema)

    caller = ScriptedCaller([calls(("a", "work", '{"value":1}')), text("done")])
    async with await make_core(caller, tools=[Unusable(("t.work", "work"))]).open_session("s1") as session:
        result = (await session.turn("go").run()).result
    told = result.tool_calls[0].output.outcome.failure
    assert (told.failure_class, told.code) == (FailureClass.UNAVAILABLE, "tool_contract_unavailable")
    assert result.assistant_message() == "done"


@pytest.mark.parametrize(("written", "shown"), [("", {}), (" ", {}), ('{"n":1}', {"n": 1}), ("{broken", "{broken")])
async def test_the_arguments_of_a_call_are_shown_as_json_or_as_the_model_wrote_them(make_core, written, shown) -> None:
    caller = ScriptedCaller([calls(("a", "work", written)), text("done")])
    async with await make_core(caller, tools=[NamedTools(("t.work", "work"))]).open_session("s1") as session:
        output = await session.turn("go").run()
    told = [
        item.event.args for item in output.activities if isinstance(item.event, ToolCallStarted | ToolCallCompleted)
    ]
    assert told == [shown, shown]


class Failing(NamedTools):
    """A source whose tools cannot be described while it is broken."""

    failure: Exception | None = None

    def contract(self, tool_id: str) -> ToolContract:
        if self.failure is not None:
            raise self.failure
        return super().contract(tool_id)


@pytest.mark.parametrize("broken", [ValueError("no \ud800"), ReconfigureError("no contract")])
@pytest.mark.parametrize("has_store", [True, False])
async def test_a_source_that_fails_ends_the_turn_and_not_the_session(make_core, broken, has_store: bool) -> None:
    source, caller = Failing(("look", "look")), ScriptedCaller([text("fine")])
    core = (
        make_core(caller, tools=[source])
        if has_store
        else LashCore(provider=caller, model=ModelSpec("m"), tools=[source])
    )
    session = await core.open_session("s1")
    source.failure = broken
    result = (await session.turn("one").run()).result
    assert result.outcome == Stopped("runtime_error") and caller.requests == []
    assert [(issue.code, "the tools cannot be described" in issue.message) for issue in result.errors] == [
        ("reconfigure_failed", True)
    ]
    source.failure = None
    assert (await session.turn("two").run()).result.assistant_message() == "fine"
    assert caller.requests[0].tools[0].name == "look"
    await core.aclose()


async def test_a_tool_that_raises_leaves_its_siblings_and_the_turn_intact(make_core) -> None:
    @tool(name="crash")
    async def crash(args: Number, context: object) -> int:
        raise RuntimeError("boom")

    caller = ScriptedCaller([calls(("a", "crash", '{"value":1}'), ("b", "double", '{"value":2}')), text("ok")])
    tools = [FunctionToolProvider([crash, double])]
    async with await make_core(caller, tools=tools).open_session("s1") as session:
        output = await session.turn("go").run()
    first, second = output.result.tool_calls
    assert first.output.outcome.failure.code == "tool_panicked"
    assert second.output.outcome.value == 4


async def test_a_crash_whose_text_cannot_be_stored_is_a_failed_result_all_the_same(make_core) -> None:
    @tool(name="look")
    async def look(args: Number, context: object) -> str:
        """Look at a file whose name is no UTF-8."""
        with open(os.fsdecode(b"/gone/\xff")) as file:  # noqa: ASYNC230
            return file.read()

    caller = ScriptedCaller([calls(("c1", "look", '{"value": 1}')), text("done")])
    session = await make_core(caller, tools=[FunctionToolProvider([look])]).open_session("s1")
    result = (await session.turn("go").run()).result
    assert result.assistant_message() == "done"
    assert "/gone/\\udcff" in result.tool_calls[0].output.outcome.failure.message


class Offering:
    """Offers one tool, `t`, that answers with what `answer` returns or raises."""

    def __init__(self, answer: Callable[[], Any]) -> None:
        self._answer = answer

    def manifests(self) -> tuple[ToolManifest, ...]:
        return (ToolManifest("t", "t", "does t"),)

    def contract(self, tool_id: str) -> ToolContract:
        return ToolContract()

    async def execute(self, call: object, context: object) -> Any:
        return self._answer()

    async def aclose(self) -> None:
        pass


class Speechless(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


def raise_speechless() -> None:
    raise Speechless


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda: None, "NoneType"),
        (lambda: {"a": 1}, "dict"),
        (lambda: ToolCallOutput("done"), "ValidationError"),  # type: ignore[arg-type]
        (lambda: ToolCallOutput(ToolSuccess("done"), "finish"), "ValidationError"),  # type: ignore[arg-type]
        (raise_speechless, "Speechless"),
    ],
    ids=["nothing", "a-bare-value", "no-outcome", "no-control", "an-exception-without-text"],
)
async def test_whatever_a_tool_answers_or_raises_is_a_result_the_journal_can_hold(make_core, answer, said) -> None:
    caller = ScriptedCaller([calls(("a", "t", "{}")), text("sorry")])
    async with await make_core(caller, tools=[Offering(answer)]).open_session("s1") as session:
        output = await session.turn("go").run()
    assert output.result.assistant_message() == "sorry"
    failure = output.result.tool_calls[0].output.outcome.failure
    assert failure.code == "tool_panicked"
    assert said in failure.message


@pytest.mark.parametrize(
    "value",
    [{"summary": "made it", "path": "/a", "bytes": 3}, b"bytes", datetime(2026, 1, 2, tzinfo=UTC), float("nan")],
    ids=["keys-in-an-order-of-their-own", "bytes", "a-date", "not-a-number"],
)
async def test_a_turn_that_crashed_after_a_tool_is_finished_whatever_the_tool_had_answered(make_core, value) -> None:
    tools = [Offering(lambda: ToolCallOutput(ToolSuccess(value)))]
    caller = ScriptedCaller([calls(("a", "t", "{}")), text("done")])
    points = CrashPoints("after:model_recorded", 2)
    doomed = await make_core(caller, tools=tools, crash_point=points).open_session("s1")
    with pytest.raises(Crash):
        await doomed.turn("go").run()
    session = await make_core(ScriptedCaller([]), tools=tools).open_session("s1")
    assert (await session.redrive().run()).result.assistant_message() == "done"


async def test_a_result_no_transcript_can_hold_is_a_failure_the_model_reads(make_core) -> None:
    answers = {"size": containment.MAX_RESULT_CHARS + 1}
    tools = [Offering(lambda: ToolCallOutput(ToolSuccess("x" * answers["size"])))]
    caller = ScriptedCaller([calls(("a", "t", "{}")), text("sorry"), calls(("b", "t", "{}")), text("good")])
    async with await make_core(caller, tools=tools).open_session("s1") as session:
        refused = (await session.turn("go").run()).result
        answers["size"] -= 1
        kept = (await session.turn("less").run()).result
    assert refused.tool_calls[0].output.outcome.failure.code == "tool_result_too_large"
    assert refused.assistant_message() == "sorry"
    assert kept.tool_calls[0].output.status == "success" and kept.assistant_message() == "good"


@pytest.mark.parametrize("in_what", ["tool", "preparation"])
async def test_the_text_of_an_exception_is_kept_as_far_as_anybody_reads_it(make_core, in_what: str) -> None:
    async def broken(arguments: Number, context: object) -> str:
        raise ValueError("x" * (containment.MAX_RESULT_CHARS + 1))

    async def sound(arguments: Number, context: object) -> str:
        return "fine"

    made = tool(name="t")(broken) if in_what == "tool" else tool(name="t", prepare=broken)(sound)
    caller = ScriptedCaller([calls(("a", "t", '{"value": 1}')), text("sorry")])
    async with await make_core(caller, tools=[FunctionToolProvider([made])]).open_session("s1") as session:
        result = (await session.turn("go").run()).result
    reason = result.tool_calls[0].output.outcome.failure
    assert reason.code == "tool_panicked" and reason.message.startswith("t crashed: ValueError: xxx")
    assert len(reason.message) < MAX_ERROR_CHARS + 100


@pytest.mark.parametrize("depth", [MAX_WRITTEN_DEPTH + 1, 900, 975, 980, 985, 5000])
@pytest.mark.parametrize("of", ["value", "raw", "control"])
async def test_a_result_nested_without_end_is_a_failure_the_model_reads(make_core, of: str, depth: int) -> None:
    answers = {
        "value": lambda: ToolCallOutput(ToolSuccess(nested(depth))),
        "raw": lambda: failure(FailureClass.EXECUTION, "broken", "it broke", raw=nested(depth)),
        "control": lambda: ToolCallOutput(ToolSuccess("done"), FinishControl(nested(depth))),
    }
    caller = ScriptedCaller([calls(("a", "t", "{}")), text("sorry")])
    async with await make_core(caller, tools=[Offering(answers[of])]).open_session("s1") as session:
        result = (await session.turn("go").run()).result
    assert result.tool_calls[0].output.outcome.failure.code == "tool_result_too_large"
    assert result.assistant_message() == "sorry"


async def test_a_result_nested_as_deep_as_arguments_may_be_is_kept(make_core) -> None:
    caller = ScriptedCaller([calls(("a", "t", "{}")), text("good")])
    tools = [Offering(lambda: ToolCallOutput(ToolSuccess(nested(MAX_WRITTEN_DEPTH))))]
    async with await make_core(caller, tools=tools).open_session("s1") as session:
        result = (await session.turn("go").run()).result
    assert result.tool_calls[0].output.outcome == ToolSuccess(nested(MAX_WRITTEN_DEPTH))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("of", ["value", "inner", "raw", "control"])
async def test_a_number_that_is_none_is_no_result_and_is_not_called_null(make_core, of: str, number: float) -> None:
    answers = {
        "value": lambda: ToolCallOutput(ToolSuccess(number)),
        "inner": lambda: ToolCallOutput(ToolSuccess({"mean": [None, (1, number)]})),
        "raw": lambda: failure(FailureClass.EXECUTION, "broken", "it broke", raw={"mean": number}),
        "control": lambda: ToolCallOutput(ToolSuccess("done"), FinishControl({"mean": number})),
    }
    caller = ScriptedCaller([calls(("a", "t", "{}")), text("sorry")])
    async with await make_core(caller, tools=[Offering(answers[of])]).open_session("s1") as session:
        result = (await session.turn("go").run()).result
    said = result.tool_calls[0].output.outcome.failure
    assert (said.code, result.assistant_message()) == ("tool_panicked", "sorry")
    assert "NaN or Infinity, which JSON cannot hold" in said.message


async def test_a_turn_may_call_its_tools_for_as_long_as_it_takes(make_core) -> None:
    caller = ScriptedCaller([*[calls((f"c{index}", "t", "{}")) for index in range(400)], text("there")])
    tools = [Offering(lambda: ToolCallOutput(ToolSuccess("ok")))]
    async with await make_core(caller, tools=tools).open_session("s1") as session:
        assert (await session.turn("go").run()).result.assistant_message() == "there"
        assert len(session.read_view().messages) == 802


async def test_a_turn_that_said_more_than_a_commit_holds_ends_with_what_it_was_given(make_core, monkeypatch) -> None:
    monkeypatch.setattr(commit, "MAX_COMMIT_BYTES", 200_000)
    caller = ScriptedCaller([text("x" * 250_000), text("short")])
    points = CrashPoints("before:commit")
    doomed = await make_core(caller, crash_point=points).open_session("s1")
    with pytest.raises(Crash):
        await doomed.turn("y" * 150_000).run()
    session = await make_core(caller).open_session("s1")
    output = await session.turn("and now?").run()
    (ended,) = output.redriven
    assert ended.outcome == Stopped("runtime_error")
    assert [issue.code for issue in ended.errors] == ["commit_too_large"]
    assert ended.usage.total == 15, "what it cost was spent"
    assert output.result.assistant_message() == "short"
    first, *rest = [message_text(message) for message in session.read_view().messages]
    assert rest == ["and now?", "short"]
    assert first.startswith("y" * 60_000) and "more characters" in first


async def test_a_cancelled_batch_answers_every_call(make_core) -> None:
    started = asyncio.Event()

    @tool(name="hang")
    async def hang(args: Number, context: object) -> int:
        started.set()
        await asyncio.Event().wait()
        return 1

    caller = ScriptedCaller([calls(("a", "hang", '{"value":1}'), ("b", "double", '{"value":2}')), text("never")])
    session = await make_core(caller, tools=[FunctionToolProvider([hang, double])]).open_session("s1")
    running = asyncio.create_task(session.turn("x").run())
    await started.wait()
    session.cancel_running_turns()
    output = await running
    assert output.result.outcome == Stopped("cancelled")
    assert is_safe_to_resume(list(session.read_view().messages))


async def test_a_call_that_a_cancel_overtook_is_shown_like_every_other(make_core) -> None:
    def asked_to_stop(request: object) -> LlmResponse:
        session.cancel_running_turns(reason="enough")
        return calls(("a", "double", '{"value":1}'), ("b", "double", '{"value":2}'))

    core = make_core(ScriptedCaller([calls(("a0", "double", '{"value":0}')), asked_to_stop]), tools=[doubling()])
    session = await core.open_session("s1")
    output = await session.turn("x").run()
    assert output.result.outcome == Stopped("cancelled")
    records = [(record.call_id, record.output.status) for record in output.result.tool_calls]
    assert records == [("a0", "success"), ("a", "cancelled"), ("b", "cancelled")]
    told = [
        (event.call_id, event.output.status if isinstance(event, ToolCallCompleted) else "started")
        for event in (activity.event for activity in output.activities)
        if isinstance(event, ToolCallStarted | ToolCallCompleted)
    ]
    assert told == [pair for call_id, status in records for pair in ((call_id, "started"), (call_id, status))]
    await session.close()


async def test_a_refused_tool_tells_the_model_and_never_runs(make_core) -> None:
    ran: list[int] = []

    @tool(name="danger", approval="execute")
    async def danger(args: Number, context: object) -> int:
        ran.append(args.value)
        return 1

    class Refuse:
        async def decide(self, manifest: object, call: object) -> str:
            return "not allowed here"

    caller = ScriptedCaller([calls(("a", "danger", '{"value":1}')), text("ok")])
    core = make_core(caller, tools=[FunctionToolProvider([danger])], approval=Refuse())
    async with await core.open_session("s1") as session:
        output = await session.turn("x").run()
    assert ran == []
    outcome = output.result.tool_calls[0].output.outcome
    assert (outcome.failure.code, outcome.failure.message) == ("tool_denied", "not allowed here")


@pytest.mark.parametrize(
    "fault",
    [RuntimeError("no such terminal"), OSError("no \udcff"), asyncio.CancelledError(), True, object()],
    ids=["raises", "raises what no UTF-8 can hold", "cancels itself", "answers a boolean", "answers no JSON"],
)
async def test_a_policy_that_fails_has_not_allowed_the_call_and_does_not_end_the_turn(
    make_core, monkeypatch, fault: object
) -> None:
    # What the tests keep of a log has to be UTF-8.
    monkeypatch.setattr(logging.getLogger("lash.dispatch"), "disabled", True)
    ran: list[int] = []

    @tool(name="danger", approval="execute")
    async def danger(args: Number, context: object) -> int:
        ran.append(args.value)
        return 1

    class Broken:
        async def decide(self, manifest: object, call: object) -> Any:
            if isinstance(fault, BaseException):
                raise fault
            return fault

    caller = ScriptedCaller([calls(("a", "danger", '{"value":1}')), text("ok")])
    core = make_core(caller, tools=[FunctionToolProvider([danger])], approval=Broken())
    async with await core.open_session("s1") as session:
        output = await session.turn("x").run()
    assert ran == []
    assert not isinstance(output.result.outcome, Stopped)
    failure = output.result.tool_calls[0].output.outcome.failure
    assert failure.code == "tool_denied"
    assert failure.message.startswith("the approval policy")


async def test_a_policy_is_not_asked_again_about_a_call_that_was_recorded(make_core) -> None:
    class Asked:
        count = 0

        async def decide(self, manifest: object, call: object) -> str | None:
            self.count += 1
            return "not any more" if self.count > 1 else None

    policy, answer = Asked(), calls(("a", "double", '{"value":1}'))
    doomed = make_core(
        ScriptedCaller([answer]), tools=[doubling()], approval=policy, crash_point=CrashPoints("after:tool_recorded")
    )
    with pytest.raises(Crash):
        await (await doomed.open_session("s1")).turn("x").run()
    core = make_core(ScriptedCaller([text("ok")]), tools=[doubling()], approval=policy)
    async with await core.open_session("s1") as session:
        output = await session.redrive().run()
    assert (policy.count, output.result.tool_calls[0].output.status) == (1, "success")


async def test_a_policy_that_nobody_can_wait_for_has_not_allowed_the_call(make_core) -> None:
    class Plain:
        def decide(self, manifest: object, call: object) -> None:
            return None

    caller = ScriptedCaller([calls(("a", "double", '{"value":1}')), text("ok")])
    core = make_core(caller, tools=[FunctionToolProvider([double])], approval=Plain())
    async with await core.open_session("s1") as session:
        output = await session.turn("x").run()
    failure = output.result.tool_calls[0].output.outcome.failure
    assert (failure.code, "TypeError" in failure.message) == ("tool_denied", True)


async def test_why_a_policy_refuses_is_told_as_far_as_it_can_be_stored(make_core) -> None:
    class Refusing:
        async def decide(self, manifest: object, call: object) -> str | None:
            return "not in \udcff"

    caller = ScriptedCaller([calls(("a", "double", '{"value":1}')), text("ok")])
    core = make_core(caller, tools=[FunctionToolProvider([double])], approval=Refusing())
    async with await core.open_session("s1") as session:
        output = await session.turn("x").run()
    assert output.result.tool_calls[0].output.outcome.failure.message == "not in \\udcff"
    assert output.result.assistant_message() == "ok"


async def test_why_a_policy_refuses_is_kept_as_long_as_a_result_may_be(make_core, monkeypatch) -> None:
    monkeypatch.setattr(attempts, "MAX_RESULT_CHARS", 100)
    reasons = ["x" * 100, "y" * 101]

    class Refusing:
        async def decide(self, manifest: object, call: object) -> str | None:
            return reasons.pop(0)

    both = calls(("a", "double", '{"value":1}'), ("b", "double", '{"value":1}'))
    caller = ScriptedCaller([both, text("ok")])
    core = make_core(caller, tools=[FunctionToolProvider([double])], approval=Refusing())
    async with await core.open_session("s1") as session:
        output = await session.turn("x").run()
    kept, left = (record.output.outcome.failure for record in output.result.tool_calls)
    assert (kept.code, left.code) == ("tool_denied", "tool_denied")
    assert (kept.message, left.message) == (
        "x" * 100,
        "the approval policy refused it in a text of 101 characters, more than the 100 that are kept",
    )


async def test_a_cancel_withdraws_an_open_question_and_the_tool_never_runs(make_core) -> None:
    asked, withdrawn = asyncio.Event(), asyncio.Event()
    ran: list[int] = []

    async def note(args: Number, context: object) -> int:
        ran.append(args.value)
        return 1

    danger = tool(name="danger", approval="execute", prepare=note)(note)

    class AskForever:
        async def decide(self, manifest: object, call: object) -> str | None:
            asked.set()
            try:
                await asyncio.Event().wait()
            finally:
                withdrawn.set()
            return None

    caller = ScriptedCaller([calls(("a", "danger", '{"value":1}')), text("never")])
    core = make_core(caller, tools=[FunctionToolProvider([danger])], approval=AskForever())
    session = await core.open_session("s1")
    running = asyncio.create_task(session.turn("x").run())
    await asked.wait()
    session.cancel_running_turns()
    assert (await running).result.outcome == Stopped("cancelled")
    assert withdrawn.is_set()
    assert ran == []
    assert is_safe_to_resume(list(session.read_view().messages))
