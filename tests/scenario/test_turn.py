"""Whole turns over a real store: what a caller sees, what the store keeps, what the model is sent."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from support.clock import LIMIT_S, settle
from support.driving import Crash, CrashPoints
from support.scripted import ScriptedCaller, calls, error, text

from lash_cli.api import (
    FunctionToolProvider,
    LashCore,
    LeaseTimings,
    ModelSpec,
    SessionConfigPatch,
    SessionSpec,
    Stopped,
    TurnInput,
    tool,
)
from lash_cli.api.turns import STREAM_QUEUE_ITEMS
from lash_cli.core.activity import (
    AssistantProseDelta,
    Committed,
    ToolCallCompleted,
    ToolCallStarted,
    ToolProgress,
    TurnFinished,
)
from lash_cli.core.codec import canonical_hash
from lash_cli.core.content import Message, Role, ToolResultPart, is_safe_to_resume, message_text
from lash_cli.core.llm import ToolChoice
from lash_cli.core.protocols import ToolContext
from lash_cli.core.tools import ToolCallOutput, ToolContract, ToolManifest, ToolSuccess
from lash_cli.errors import (
    ConflictError,
    EffectError,
    LashRuntimeError,
    PendingTurnInputSourceKeyConflict,
    RuntimeTurnCommitConflict,
    SessionClosed,
    SessionDeleted,
    SessionExecutionBusy,
    SessionStillInUse,
    UsageError,
)
from lash_cli.modes.standard import StandardProtocol
from lash_cli.runtime import dispatch, drive, model_calls
from lash_cli.runtime.model_calls import ModelCall
from lash_cli.store.base import ReadScope
from lash_cli.store.sqlite import commit


class Number(msgspec.Struct):
    """A number to work on."""

    value: int


@tool(name="double")
async def double(args: Number, context: object) -> int:
    """Twice the number."""
    return args.value * 2


def doubling() -> FunctionToolProvider:
    return FunctionToolProvider([double])


async def test_a_turn_is_committed_and_read_back_by_another_core(make_core) -> None:
    caller = ScriptedCaller([text("hello there")])
    async with await make_core(caller).open_session("s1") as session:
        output = await session.turn("hi").run()
    assert output.result.assistant_message() == "hello there"
    assert output.result.head_revision == 1

    async with await make_core(ScriptedCaller([])).open_session("s1") as other:
        view = other.read_view()
        assert [(message.role, message_text(message)) for message in view.messages] == [
            (Role.USER, "hi"),
            (Role.ASSISTANT, "hello there"),
        ]
        assert view.turn_index == 1
        assert other.usage_report().usage.total == 15


async def test_the_next_turn_sends_the_whole_conversation(make_core) -> None:
    caller = ScriptedCaller([text("one"), text("two")])
    async with await make_core(caller).open_session("s1") as session:
        await session.turn("first").run()
        await session.turn("second").run()
    assert [message_text(message) for message in caller.requests[1].messages] == ["first", "one", "second"]


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
    answers = {"size": dispatch.MAX_RESULT_CHARS + 1}
    tools = [Offering(lambda: ToolCallOutput(ToolSuccess("x" * answers["size"])))]
    caller = ScriptedCaller([calls(("a", "t", "{}")), text("sorry"), calls(("b", "t", "{}")), text("good")])
    async with await make_core(caller, tools=tools).open_session("s1") as session:
        refused = (await session.turn("go").run()).result
        answers["size"] -= 1
        kept = (await session.turn("less").run()).result
    assert refused.tool_calls[0].output.outcome.failure.code == "tool_result_too_large"
    assert refused.assistant_message() == "sorry"
    assert kept.tool_calls[0].output.status == "success" and kept.assistant_message() == "good"


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


async def test_a_provider_failure_is_an_outcome_and_keeps_the_users_text(make_core) -> None:
    caller = ScriptedCaller([error("auth"), text("better")])
    async with await make_core(caller).open_session("s1") as session:
        output = await session.turn("keep me").run()
        assert output.result.outcome == Stopped("provider_error")
        assert output.result.errors[0].provider_failure_kind == "auth"
        await session.turn("again").run()
        assert [message_text(m) for m in session.read_view().messages] == ["keep me", "again", "better"]


async def test_a_second_opened_handle_finds_the_lane_busy_and_writes_nothing(make_core) -> None:
    caller = ScriptedCaller([text("slow")])
    caller.gate = asyncio.Event()
    first = await make_core(caller).open_session("s1")
    other_core = make_core(ScriptedCaller([text("late")]))
    second = await other_core.open_session("s1")
    running = asyncio.create_task(first.turn("one").run())
    await caller.entered.wait()
    with pytest.raises(SessionExecutionBusy) as raised:
        await second.turn("two").run()
    assert raised.value.details["holder"]["pid"] == os.getpid()
    assert len(await other_core.store.inputs("s1", pending_only=False)) == 1
    waiting = asyncio.create_task(second.turn("two", busy_wait_ms=10_000).run())
    caller.gate.set()
    await running
    assert (await waiting).result.assistant_message() == "late"
    assert [message_text(m) for m in second.read_view().messages] == ["one", "slow", "two", "late"]


async def test_turns_of_clones_run_one_after_another(make_core) -> None:
    caller = ScriptedCaller([text("a"), text("b")])
    session = await make_core(caller).open_session("s1")
    clone = session.clone()
    await asyncio.gather(session.turn("one").run(), clone.turn("two").run())
    assert len(session.read_view().messages) == 4
    clone.close_handle()
    await session.close()


async def test_cancelling_commits_a_cancelled_turn_and_the_next_turn_works(make_core) -> None:
    caller = ScriptedCaller([text("never"), text("fine")])
    caller.gate = asyncio.Event()
    session = await make_core(caller).open_session("s1")
    running = asyncio.create_task(session.turn("stop me", turn_id="t1").run())
    await caller.entered.wait()
    assert session.cancel_running_turns(reason="test") == 1
    output = await running
    assert output.result.outcome == Stopped("cancelled")
    assert output.result.cancellation.request_id == "internal:t1"
    caller.gate = None
    caller.steps = [text("fine")]
    assert (await session.turn("go on").run()).result.assistant_message() == "fine"
    assert [message_text(m) for m in session.read_view().messages] == ["stop me", "go on", "fine"]


async def test_a_request_from_another_core_cancels_with_its_own_evidence(make_core) -> None:
    caller = ScriptedCaller([text("never")])
    caller.gate = asyncio.Event()
    session = await make_core(caller).open_session("s1")
    other = make_core(ScriptedCaller([]))
    running = asyncio.create_task(session.turn("x", turn_id="t1").run())
    await caller.entered.wait()
    receipt = await other.request_turn_cancel("s1", request_id="r1", reason="enough")
    assert receipt.outcome == "requested"
    # Named, because the turn may be over by now.
    assert (await other.request_turn_cancel("s1", turn_id="t1", request_id="r2")).evidence.request_id == "r1"
    output = await running
    assert output.result.cancellation.request_id == "r1"
    again = await other.request_turn_cancel("s1", turn_id=output.result.turn_id)
    assert again.outcome in ("already_requested", "completion_won")
    with pytest.raises(ConflictError) as raised:
        await other.request_turn_cancel("s1")
    assert raised.value.code == "no_active_turn"


@pytest.mark.parametrize("by", ["its-builder", "its-session", "its-task", "its-stream"])
async def test_a_turn_that_waits_for_another_owner_is_stopped_at_once_and_wrote_nothing(make_core, by) -> None:
    caller = ScriptedCaller([text("held")])
    caller.gate = asyncio.Event()
    holding = asyncio.create_task((await make_core(caller).open_session("s1")).turn("mine").run())
    await caller.entered.wait()
    core = make_core(ScriptedCaller([]))
    session = await core.open_session("s1")
    turn = session.turn("another", busy_wait_ms=3_600_000)

    async def left() -> None:
        async with turn.stream():
            await settle()

    waiting = asyncio.create_task(left() if by == "its-stream" else turn.run())
    await settle()
    if by == "its-builder":
        turn.cancel()
    elif by == "its-session":
        assert session.cancel_running_turns() == 1
    elif by == "its-task":
        waiting.cancel()
    done, _ = await asyncio.wait({waiting}, timeout=LIMIT_S)
    assert done
    with pytest.raises(asyncio.CancelledError if by == "its-task" else SessionExecutionBusy):
        await waiting
    caller.gate.set()
    await holding
    await session.refresh()
    assert [message_text(message) for message in session.read_view().messages] == ["mine", "held"]
    assert await session.pending_turn_inputs() == ()


async def test_a_cancel_of_the_calling_task_commits_first_and_then_raises(make_core) -> None:
    caller = ScriptedCaller([text("never")])
    caller.gate = asyncio.Event()
    session = await make_core(caller).open_session("s1")
    running = asyncio.create_task(session.turn("x").run())
    await caller.entered.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert session.read_view().turn_index == 1
    assert [message_text(m) for m in session.read_view().messages] == ["x"]


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


async def test_a_key_replays_the_committed_turn_and_refuses_changed_text(make_core) -> None:
    caller = ScriptedCaller([text("once")])
    async with await make_core(caller).open_session("s1") as session:
        first = await session.turn("do it", key="k").run()
        second = await session.turn("do it", key="k").run()
        assert second.replayed
        assert second.result.turn_id == first.result.turn_id
        assert second.result.assistant_message() == "once"
        assert len(caller.requests) == 1
        with pytest.raises(PendingTurnInputSourceKeyConflict):
            await session.turn("do something else", key="k").run()
        assert len(session.read_view().messages) == 2


async def test_a_turn_id_that_was_committed_is_replayed_and_refuses_changed_text(make_core) -> None:
    caller = ScriptedCaller([text("once")])
    async with await make_core(caller).open_session("s1") as session:
        await session.turn("x", turn_id="t1").run()
        again = await session.turn("x", turn_id="t1").run()
        assert again.replayed and again.result.assistant_message() == "once"
        with pytest.raises(RuntimeTurnCommitConflict):
            await session.turn("y", turn_id="t1").run()


async def test_park_and_resume_keep_transcript_config_and_membership(make_core) -> None:
    caller = ScriptedCaller([text("one"), text("two")])
    core = make_core(caller, tools=[doubling()])
    session = await core.open_session("s1")
    await session.turn("a").run()
    await session.configure(SessionConfigPatch(model=ModelSpec("model-2")))
    await session.tools().set_membership("double", False)
    parked = await session.park()
    with pytest.raises(SessionClosed):
        session.read_view()
    resumed = await core.resume(parked)
    assert resumed.policy_snapshot.model.id == "model-2"
    assert resumed.tools().active_manifests() == ()
    await resumed.turn("b").run()
    assert caller.requests[1].model.id == "model-2" and caller.requests[1].tools == ()
    assert len(resumed.read_view().messages) == 4


async def test_configure_is_committed_before_it_returns(make_core) -> None:
    session = await make_core(ScriptedCaller([])).open_session("s1")
    await session.configure(SessionConfigPatch(model=ModelSpec("model-9")))
    other = make_core(ScriptedCaller([]))
    read = await other.store.load_session("s1", ReadScope.ACTIVE_PATH)
    assert read.config.model.id == "model-9"


async def test_a_session_in_use_refuses_to_park_and_stays_usable(make_core) -> None:
    caller = ScriptedCaller([text("slow"), text("after")])
    caller.gate = asyncio.Event()
    session = await make_core(caller).open_session("s1")
    clone = session.clone()
    with pytest.raises(SessionStillInUse):
        await session.park()
    clone.close_handle()
    running = asyncio.create_task(session.turn("x").run())
    await caller.entered.wait()
    with pytest.raises(SessionStillInUse):
        await session.close()
    caller.gate.set()
    await running
    assert (await session.turn("y").run()).result.assistant_message() == "after"
    await session.close()


async def test_open_writes_no_head_and_fresh_replaces_only_at_the_first_commit(make_core) -> None:
    core = make_core(ScriptedCaller([text("old"), text("new")]))
    async with await core.open_session("s1") as session:
        assert (await core.store.head_position("s1")).head_revision is None
        await session.turn("before").run()
    fresh = await core.open_fresh("s1")
    assert (await core.store.load_session("s1", ReadScope.ACTIVE_PATH)).head_revision == 1
    await fresh.turn("start over").run()
    read = await core.store.load_session("s1", ReadScope.ACTIVE_PATH)
    assert [message_text(node.payload.message) for node in read.nodes] == ["start over", "new"]
    await fresh.close()


async def test_open_with_state_continues_a_copied_conversation(make_core) -> None:
    caller = ScriptedCaller([text("one"), text("two")])
    core = make_core(caller)
    async with await core.open_session("s1") as session:
        await session.turn("a").run()
        state = session.export_state()
    copied = await core.open_with_state("s2", state.rebound_to("s2"))
    await copied.turn("b").run()
    assert [message_text(m) for m in caller.requests[1].messages] == ["a", "one", "b"]
    read = await core.store.load_session("s2", ReadScope.ACTIVE_PATH)
    assert len(read.nodes) == 4
    await copied.close()
    with pytest.raises(ConflictError):
        await core.open_with_state("s3", state)


async def test_a_recorded_provider_survives_another_wiring_and_fails_the_turn_before_any_write(make_core) -> None:
    async with await make_core(ScriptedCaller([text("x")], provider_id="first")).open_session("s1") as session:
        await session.turn("a").run()
    other = make_core(ScriptedCaller([text("y")], provider_id="second"))
    reopened = await other.open_session("s1")
    assert reopened.policy_snapshot.provider_id == "first"
    with pytest.raises(LashRuntimeError) as raised:
        await reopened.turn("b").run()
    assert raised.value.code == "llm_provider"
    assert len(await other.store.inputs("s1", pending_only=False)) == 1
    await reopened.configure(SessionConfigPatch(provider_id="second"))
    assert (await reopened.turn("b").run()).result.assistant_message() == "y"


async def test_a_deleted_id_is_never_used_again(make_core) -> None:
    core = make_core(ScriptedCaller([text("x")]))
    async with await core.open_session("s1") as session:
        await session.turn("a").run()
    assert (await core.delete_session("s1")).existed
    assert not (await core.delete_session("never")).existed
    with pytest.raises(SessionDeleted):
        await core.open_session("s1")


async def test_the_iteration_limit_stops_the_turn_with_a_valid_transcript(make_core) -> None:
    caller = ScriptedCaller(
        [lambda request: calls((f"c{len(request.messages)}", "double", '{"value":1}'))], repeat=True
    )
    async with await make_core(caller, tools=[doubling()]).open_session("s1") as session:
        output = await session.turn("loop", max_turns=3).run()
        assert output.result.outcome == Stopped("max_turns")
        assert len(caller.requests) == 3
        assert is_safe_to_resume(list(session.read_view().messages))


async def test_the_one_call_beyond_the_limit_is_told_the_tools_it_may_not_call(make_core, monkeypatch) -> None:
    """Without them the provider would read the whole prompt anew, and thinking that is bound to them would be lost."""
    monkeypatch.setattr(drive, "_WITHOUT_OUTPUT", StandardProtocol(has_grace=True))
    caller = ScriptedCaller([calls(("c1", "double", '{"value": 1}')), text("two, and no more")])
    async with await make_core(caller, tools=[doubling()]).open_session("s1") as session:
        output = await session.turn("double", max_turns=1).run()
    assert output.result.assistant_output.raw_text == "two, and no more"
    first, last = caller.requests
    assert (first.tool_choice, last.tool_choice) == (ToolChoice.AUTO, ToolChoice.NONE)
    assert [tool.name for tool in first.tools] == ["double"] and last.tools == first.tools


async def test_a_call_is_told_from_others_by_all_messages_of_its_turn_and_each_is_hashed_once(
    make_core, monkeypatch
) -> None:
    made: list[ModelCall] = []
    hashed: list[str] = []

    class Kept(ModelCall):
        def __init__(self, *args: object, **options: object) -> None:
            super().__init__(*args, **options)
            made.append(self)

    def counted(value: object) -> str:
        if isinstance(value, Message):
            hashed.append(value.id)
        return canonical_hash(value)

    monkeypatch.setattr(drive, "ModelCall", Kept)
    monkeypatch.setattr(model_calls, "canonical_hash", counted)
    script = [calls((f"c{number}", "double", '{"value": 1}')) for number in range(4)]
    async with await make_core(ScriptedCaller([*script, text("done")]), tools=[doubling()]).open_session(
        "s1"
    ) as session:
        await session.turn("go").run()
    assert [len(call.command.tail) for call in made] == [1, 3, 5, 7, 9]
    for call in made:
        assert call.command.tail == tuple(canonical_hash(message)[:32] for message in call.request.messages.tail)
    assert hashed == [message.id for message in made[-1].request.messages.tail]


async def test_a_streamed_turn_ends_with_its_commit_and_its_outcome(make_core) -> None:
    session = await make_core(ScriptedCaller([text("word")])).open_session("s1")
    async with session.turn("x").stream() as stream:
        events = [item.event async for item in stream]
        output = await stream.result()
    assert [event.text for event in events if isinstance(event, AssistantProseDelta)] == ["word"]
    assert isinstance(events[-2], Committed) and isinstance(events[-1], TurnFinished)
    assert output.result.is_success


async def test_leaving_a_stream_early_cancels_the_turn_and_waits_for_its_commit(make_core) -> None:
    caller = ScriptedCaller([text("never")])
    caller.gate = asyncio.Event()
    session = await make_core(caller).open_session("s1")
    async with session.turn("x").stream() as stream:
        await anext(stream)
    assert session.read_view().turn_index == 1
    assert (await stream.result()).result.outcome == Stopped("cancelled")


@pytest.mark.parametrize("asks", [False, True], ids=["leaves", "asks-for-the-result"])
async def test_a_reader_that_stops_holds_nothing_up_however_much_there_was_to_read(make_core, asks) -> None:
    @tool(name="talk")
    async def talk(args: Number, context: ToolContext) -> int:
        for number in range(args.value):
            context.progress(f"step {number}")
        return args.value

    tools = [FunctionToolProvider([talk])]
    caller = ScriptedCaller([calls(("a", "talk", f'{{"value": {3 * STREAM_QUEUE_ITEMS}}}')), text("done")])
    session = await make_core(caller, tools=tools).open_session("s1")
    async with session.turn("x").stream() as stream:
        async for activity in stream:
            if isinstance(activity.event, ToolProgress):
                break
        await settle()
        if asks:
            assert (await stream.result()).result.assistant_message() == "done"
    assert session.read_view().turn_index == 1


async def test_a_time_limit_cancels_the_turn_and_says_so(make_core) -> None:
    caller = ScriptedCaller([text("never")])
    caller.gate = asyncio.Event()
    session = await make_core(caller).open_session("s1")
    output = await session.turn("x", timeout_ms=50).run()
    assert output.result.cancellation.reason == "timeout"


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


@pytest.mark.parametrize("fault", [RuntimeError("no such terminal"), asyncio.CancelledError()])
async def test_a_policy_that_fails_has_not_allowed_the_call_and_does_not_end_the_turn(
    make_core, fault: BaseException
) -> None:
    ran: list[int] = []

    @tool(name="danger", approval="execute")
    async def danger(args: Number, context: object) -> int:
        ran.append(args.value)
        return 1

    class Broken:
        async def decide(self, manifest: object, call: object) -> str | None:
            raise fault

    caller = ScriptedCaller([calls(("a", "danger", '{"value":1}')), text("ok")])
    core = make_core(caller, tools=[FunctionToolProvider([danger])], approval=Broken())
    async with await core.open_session("s1") as session:
        output = await session.turn("x").run()
    assert ran == []
    assert not isinstance(output.result.outcome, Stopped)
    failure = output.result.tool_calls[0].output.outcome.failure
    assert failure.code == "tool_denied"
    assert failure.message.startswith("the approval policy")


async def test_a_cancel_withdraws_an_open_question_and_the_tool_never_runs(make_core) -> None:
    asked = asyncio.Event()
    ran: list[int] = []

    @tool(name="danger", approval="execute")
    async def danger(args: Number, context: object) -> int:
        ran.append(args.value)
        return 1

    class AskForever:
        async def decide(self, manifest: object, call: object) -> str | None:
            asked.set()
            await asyncio.Event().wait()
            return None

    caller = ScriptedCaller([calls(("a", "danger", '{"value":1}')), text("never")])
    core = make_core(caller, tools=[FunctionToolProvider([danger])], approval=AskForever())
    session = await core.open_session("s1")
    running = asyncio.create_task(session.turn("x").run())
    await asked.wait()
    session.cancel_running_turns()
    assert (await running).result.outcome == Stopped("cancelled")
    assert ran == []
    assert is_safe_to_resume(list(session.read_view().messages))


async def test_a_session_that_must_be_new_is_created_once(make_core) -> None:
    cores = [make_core(ScriptedCaller([])) for _ in range(4)]
    opened = await asyncio.gather(
        *(core.open_session("s1", must_be_new=True) for core in cores), return_exceptions=True
    )
    refused = [error for error in opened if isinstance(error, ConflictError)]
    assert len(refused) == 3 and {error.code for error in refused} == {"session_exists"}


async def test_a_lane_lost_in_mid_turn_commits_nothing_and_the_turn_is_finished_by_the_next_owner(make_core) -> None:
    caller = ScriptedCaller([text("from the first")])
    caller.gate = asyncio.Event()
    first_core = make_core(caller, lease_timings=LeaseTimings(300, 100))
    first = await first_core.open_session("s1")
    running = asyncio.create_task(first.turn("x").run())
    await caller.entered.wait()
    fence = (await first_core.store.session_row("s1")).lease
    await _expire(first_core, fence)
    caller.gate.set()
    with pytest.raises(Exception) as raised:
        await running
    assert raised.value.code == "session_execution_lease_lost"
    second = await make_core(ScriptedCaller([text("from the second")])).open_session("s1")
    output = await second.redrive().run()
    assert output.result.assistant_message() == "from the second"
    assert [message_text(m) for m in second.read_view().messages] == ["x", "from the second"]


async def _expire(core: LashCore, lease: object) -> None:
    """Release the lane behind the owner's back, as an expiry does."""
    from lash_cli.core.lease import LeaseFence

    owner = lease.owner
    await core.store.release_lease(
        LeaseFence("s1", owner.owner_id, owner.incarnation_id, lease.token, lease.fencing_token)
    )


async def test_a_session_without_a_store_runs_turns_and_cannot_be_parked() -> None:
    caller = ScriptedCaller([calls(("a", "double", '{"value":3}')), text("six"), text("again")])
    core = LashCore(provider=caller, model=ModelSpec("m"), tools=[doubling()])
    session = await core.open_session("s1")
    assert (await session.turn("x").run()).result.assistant_message() == "six"
    await session.turn("y").run()
    assert len(caller.requests[2].messages) == 5
    with pytest.raises(LashRuntimeError):
        await session.park()
    await session.close()


async def test_bad_arguments_of_the_api_change_nothing(make_core) -> None:
    core = make_core(ScriptedCaller([]))
    with pytest.raises(UsageError):
        await core.open_session("no spaces allowed")
    session = await core.open_session("s1")
    for wrong in ({"turn_id": " "}, {"key": ""}, {"max_turns": 0}):
        with pytest.raises(UsageError):
            session.turn("x", **wrong)
    with pytest.raises(LashRuntimeError):
        session.turn(TurnInput(trace_turn_id="a"), turn_id="b")
    assert await core.store.inputs("s1", pending_only=False) == ()


async def test_explicit_choices_win_at_open_and_are_stored_with_the_next_commit(make_core) -> None:
    caller = ScriptedCaller([text("a"), text("b")])
    core = make_core(caller)
    async with await core.open_session("s1") as session:
        await session.turn("x").run()
    spec = SessionSpec(inherit="stored", model=ModelSpec("model-7"))
    async with await core.open_session("s1", spec=spec) as session:
        await session.turn("y").run()
    async with await core.open_session("s1", spec=SessionSpec(inherit="stored")) as session:
        assert session.policy_snapshot.model.id == "model-7"


async def test_a_crashed_turn_is_finished_under_the_model_it_was_started_with(make_core) -> None:
    class Crash(BaseException):
        """Ends the first process."""

    def reach(point: str) -> None:
        if point == "before:commit":
            raise Crash

    first_caller = ScriptedCaller([text("recorded")])
    first = make_core(first_caller, crash_point=reach)
    spec = SessionSpec(inherit="stored", model=ModelSpec("special"))
    session = await first.open_session("s1", spec=spec)
    with pytest.raises(Crash):
        await session.turn("x").run()
    second_caller = ScriptedCaller([text("next")])
    second = make_core(second_caller)
    reopened = await second.open_session("s1", spec=SessionSpec(inherit="stored"))
    output = await reopened.turn("y").run()
    assert [result.assistant_message() for result in output.redriven] == ["recorded"]
    assert output.result.assistant_message() == "next"
    assert [request.model.id for request in second_caller.requests] == ["special"]
    assert [message_text(m) for m in reopened.read_view().messages] == ["x", "recorded", "y", "next"]


@pytest.mark.parametrize("point", ["after:model_recorded", "before:commit"])
@pytest.mark.parametrize("opened", ["fresh", "with-a-state"])
async def test_a_handle_that_starts_over_finishes_a_crashed_turn_on_the_history_it_began_on(
    make_core, opened, point
) -> None:
    first = await make_core(ScriptedCaller([text("one")])).open_session("s1")
    await first.turn("a").run()
    await first.tools().add_provider(doubling())
    points = CrashPoints(point)
    doomed = await make_core(ScriptedCaller([text("two")]), crash_point=points, tools=[doubling()]).open_session("s1")
    with pytest.raises(Crash):
        await doomed.turn("b").run()
    core = make_core(ScriptedCaller([text("three")]), tools=[doubling()])
    other = await make_core(ScriptedCaller([text("elsewhere")])).open_session("s2")
    await other.turn("of another").run()
    if opened == "fresh":
        session, kept = await core.open_fresh("s1"), []
    else:
        session = await core.open_with_state("s1", other.export_state().rebound_to("s1"))
        kept = ["of another", "elsewhere"]
    output = await session.turn("c").run()
    assert [result.assistant_message() for result in output.turns] == ["two", "three"]
    assert [message_text(message) for message in session.read_view().messages] == [*kept, "c", "three"]
    again = await make_core(ScriptedCaller([])).open_session("s1")
    assert [message_text(message) for message in again.read_view().messages] == [*kept, "c", "three"]


@pytest.mark.parametrize("opened", ["fresh", "with-a-state"])
async def test_a_turn_that_crashed_as_it_started_over_is_finished_where_it_began(make_core, opened) -> None:
    first = await make_core(ScriptedCaller([text("one"), text("more")])).open_session("s1")
    await first.turn("a").run()
    state = first.export_state()
    await first.turn("a again").run()
    core = make_core(ScriptedCaller([text("two")]), crash_point=CrashPoints("after:model_recorded"))
    doomed = await (core.open_fresh("s1") if opened == "fresh" else core.open_with_state("s1", state))
    with pytest.raises(Crash):
        await doomed.turn("b").run()
    session = await make_core(ScriptedCaller([])).open_session("s1")
    output = await session.redrive().run()
    assert output.result.assistant_message() == "two"
    kept = [] if opened == "fresh" else ["a", "one"]
    assert [message_text(message) for message in session.read_view().messages] == [*kept, "b", "two"]
    assert session.read_view().turn_index == 3


async def test_turns_keep_counting_over_a_history_that_was_replaced(make_core) -> None:
    core = make_core(ScriptedCaller([text("one"), text("two")]))
    first = await core.open_session("s1")
    await first.turn("a").run()
    await (await core.open_fresh("s1")).close()
    session = await core.open_session("s1")
    assert (list(session.read_view().messages), session.read_view().turn_index) == ([], 1)
    await session.turn("b").run()
    assert [turn.turn_index for turn in await core.store.turns("s1", limit=9)] == [2, 1]


@pytest.mark.parametrize("asked", ["here", "from-afar"])
async def test_a_turn_that_crashed_on_its_way_to_stop_is_stopped_or_finished_by_whoever_comes_next(
    make_core, asked
) -> None:
    caller = ScriptedCaller([])
    caller.gate = asyncio.Event()
    doomed = await make_core(caller, crash_point=CrashPoints("before:commit")).open_session("s1")
    running = asyncio.ensure_future(doomed.turn("first", turn_id="t1").run())
    await caller.entered.wait()
    if asked == "here":
        doomed.cancel_running_turns()
    else:
        await doomed.request_turn_cancel("t1", "r1")
    with pytest.raises(Crash):
        await running
    next_caller = ScriptedCaller([text("first answer"), text("second answer")])
    session = await make_core(next_caller).open_session("s1")
    output = await session.turn("second").run()
    # A request that stands in the store outlives the process; nobody else knows of one that does not.
    first = "first answer" if asked == "here" else None
    assert output.redriven[0].assistant_message() == first
    assert (output.redriven[0].outcome == Stopped("cancelled")) == (asked == "from-afar")
    assert output.result.assistant_message() == ("second answer" if asked == "here" else "first answer")


async def test_a_turn_that_cannot_be_replayed_says_where_and_can_be_ended_by_a_cancel(make_core) -> None:
    class Crash(BaseException):
        """Ends the first process."""

    def reach(point: str) -> None:
        if point == "before:commit":
            raise Crash

    first = await make_core(ScriptedCaller([text("x")]), tools=[doubling()], crash_point=reach).open_session("s1")
    with pytest.raises(Crash):
        await first.turn("begin").run()
    without_tools = make_core(ScriptedCaller([text("y")]))
    second = await without_tools.open_session("s1")
    with pytest.raises(EffectError) as raised:
        await second.redrive().run()
    assert raised.value.details["first_divergent_paths"] == ["command.shape"]
    assert "lash cancel" in (raised.value.hint or "")
    await without_tools.request_turn_cancel("s1")
    output = await second.redrive().run()
    assert output.result.outcome == Stopped("cancelled")
    assert (await second.turn("go on").run()).result.assistant_message() == "y"
    assert [message_text(m) for m in second.read_view().messages] == ["begin", "go on", "y"]


async def test_a_choice_made_after_a_crash_outlives_the_redrive_of_the_crashed_turn(make_core) -> None:
    class Crash(BaseException):
        """Ends the first process."""

    def reach(point: str) -> None:
        if point == "before:commit":
            raise Crash

    stored = SessionSpec(inherit="stored")
    first = await make_core(ScriptedCaller([text("x")]), crash_point=reach).open_session("s1")
    with pytest.raises(Crash):
        await first.turn("begin").run()
    second = await make_core(ScriptedCaller([])).open_session("s1", spec=stored)
    await second.configure(SessionConfigPatch(model=ModelSpec("chosen")))
    caller = ScriptedCaller([text("y")])
    third = await make_core(ScriptedCaller([])).open_session("s1", spec=stored)
    await third.redrive().run()
    # The commit of the crashed turn did not write its own model over the choice: a process that opens next finds it.
    fourth = await make_core(caller).open_session("s1", spec=stored)
    await fourth.turn("go on").run()
    assert [request.model.id for request in caller.requests] == ["chosen"]


@pytest.mark.parametrize("point", ["after:model_recorded", "before:commit"])
async def test_a_crashed_turn_of_a_handle_that_fell_behind_is_finished_under_what_it_ran_with(make_core, point) -> None:
    stored = SessionSpec(inherit="stored")
    caller = ScriptedCaller([text("x")])
    behind = await make_core(caller, crash_point=CrashPoints(point)).open_session("s1")
    await behind.configure(SessionConfigPatch(max_turns=3))
    other = await make_core(ScriptedCaller([])).open_session("s1", spec=stored)
    await other.configure(SessionConfigPatch(model=ModelSpec("chosen")))
    with pytest.raises(Crash):
        await behind.turn("begin").run()
    assert [request.model.id for request in caller.requests] == ["chosen"]
    after = await make_core(ScriptedCaller([])).open_session("s1", spec=stored)
    output = await after.redrive().run()
    assert output.result is not None and output.result.assistant_message() == "x"
    assert after.policy_snapshot.model.id == "chosen"


async def test_a_handle_that_fell_behind_finishes_a_turn_that_crashed_on_the_head_it_does_not_know(make_core) -> None:
    caller = ScriptedCaller([])
    behind = await make_core(caller).open_session("s1")
    other = make_core(ScriptedCaller([text("one"), text("two")]), crash_point=CrashPoints("before:commit", nth=2))
    session = await other.open_session("s1")
    await session.turn("a").run()
    with pytest.raises(Crash):
        await session.turn("b").run()
    output = await behind.redrive().run()
    assert output.result is not None and output.result.assistant_message() == "two"
    assert [message_text(message) for message in behind.read_view().messages] == ["a", "one", "b", "two"]
    assert caller.requests == []


async def test_a_handle_that_fell_behind_keeps_what_others_configured(make_core) -> None:
    caller = ScriptedCaller([text("one"), text("two")])
    core = make_core(caller)
    behind = await core.open_session("s1")
    await behind.turn("a").run()
    other = await make_core(ScriptedCaller([])).open_session("s1")
    await other.configure(SessionConfigPatch(model=ModelSpec("chosen")))
    await behind.configure(SessionConfigPatch(max_turns=3))
    assert (behind.policy_snapshot.model.id, behind.policy_snapshot.max_turns) == ("chosen", 3)
    await other.configure(SessionConfigPatch(model=ModelSpec("chosen-again")))
    await behind.turn("b").run()
    assert caller.requests[1].model.id == "chosen-again"
    assert other.policy_snapshot.model.id == "chosen-again"


@pytest.mark.parametrize("spec", [SessionSpec(), SessionSpec(inherit="stored")], ids=["core", "stored"])
async def test_a_handle_opened_before_the_first_commit_follows_what_others_chose_before_its_own(
    make_core, spec
) -> None:
    behind = await make_core(ScriptedCaller([text("ok")])).open_session("s1", spec=spec)
    mine = await make_core(ScriptedCaller([])).open_session("s1", spec=SessionSpec(model=ModelSpec("my-model")))
    other = await make_core(ScriptedCaller([text("ok")])).open_session("s1", spec=SessionSpec(inherit="stored"))
    await other.configure(SessionConfigPatch(model=ModelSpec("model-2")))
    await behind.turn("one").run()
    assert behind.policy_snapshot.model.id == "model-2"
    await mine.flush()
    await mine.refresh()
    assert mine.policy_snapshot.model.id == "my-model", "what was asked for at its open is a choice of its own"


async def test_a_stream_raises_what_its_turn_raised_wherever_it_is_looked_for_first(make_core) -> None:
    caller = ScriptedCaller([text("first")])
    caller.gate = asyncio.Event()
    session = await make_core(caller).open_session("s1")
    running = asyncio.create_task(session.turn("x").run())
    await caller.entered.wait()
    second = await make_core(ScriptedCaller([])).open_session("s1")
    with pytest.raises(SessionExecutionBusy):
        async with second.turn("y").stream() as stream:
            async for _ in stream:
                raise AssertionError
    with pytest.raises(SessionExecutionBusy):
        async with second.turn("y").stream():
            pass
    with pytest.raises(SessionExecutionBusy):
        async with second.turn("y").stream() as stream:
            await stream.result()
    with pytest.raises(ZeroDivisionError):
        async with second.turn("y").stream():
            raise ZeroDivisionError
    caller.gate.set()
    assert (await running).result.assistant_message() == "first"


async def test_a_stream_that_was_not_entered_says_so_instead_of_waiting_for_ever(make_core) -> None:
    async with await make_core(ScriptedCaller([])).open_session("s1") as session:
        with pytest.raises(LashRuntimeError) as caught:
            await anext(session.turn("x").stream())
    assert caught.value.code == "turn_stream_join"
