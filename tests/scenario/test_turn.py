"""Whole turns over a real store: what a caller sees, what the store keeps, what the model is sent."""

from __future__ import annotations

import asyncio
import os

import pytest
from support.clock import LIMIT_S, settle
from support.doubling import Number, doubling
from support.scripted import ScriptedCaller, calls, error, text

from lash_cli.api import (
    FunctionToolProvider,
    LashCore,
    ModelSpec,
    PromptContribution,
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
    ToolProgress,
    TurnFinished,
)
from lash_cli.core.codec import canonical_hash
from lash_cli.core.content import Message, ProsePart, Role, is_safe_to_resume, message_text
from lash_cli.core.lease import LeaseFence
from lash_cli.core.llm import LlmResponse, TerminalReason, ToolChoice
from lash_cli.core.protocols import ToolContext
from lash_cli.errors import (
    ConflictError,
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
from lash_cli.runtime import drive, model_calls
from lash_cli.runtime.model_calls import ModelCall
from lash_cli.store.base import ReadScope


async def test_a_turn_is_committed_and_read_back_by_another_core(make_core) -> None:
    caller = ScriptedCaller([text("hello there")])
    async with await make_core(caller).open_session("s1") as session:
        output = await session.turn("hi").run()
    assert output.result.assistant_message() == "hello there"
    assert output.result.head_revision == 1
    assert [call.call_id for call in output.result.llm_calls] == [f"s1:turn:{output.result.turn_id}:llm:0"]

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


async def test_a_turn_gives_its_lane_back_with_its_commit_and_writes_no_more(make_core, monkeypatch) -> None:
    core = make_core(ScriptedCaller([text("a")]))
    session, given_back = await core.open_session("s1"), list[LeaseFence]()

    async def release_lease(fence: LeaseFence) -> None:
        given_back.append(fence)

    monkeypatch.setattr(core.store, "release_lease", release_lease)
    await session.turn("one").run()
    assert ((await core.store.session_row("s1")).lease.owner, given_back) == (None, [])


async def test_a_handle_that_is_closed_twice_is_one_less(make_core) -> None:
    session = await make_core(ScriptedCaller([text("a")])).open_session("s1")
    clone, _ = session.clone(), session.clone()
    clone.close_handle()
    clone.close_handle()
    clone.close_handle()
    assert (await session.turn("one").run()).result.assistant_message() == "a"
    with pytest.raises(SessionStillInUse):
        await session.close()


async def test_cancelling_commits_a_cancelled_turn_and_the_next_turn_works(make_core) -> None:
    caller = ScriptedCaller([text("never"), text("fine")])
    caller.gate = asyncio.Event()
    session = await make_core(caller).open_session("s1")
    running = asyncio.create_task(session.turn("stop me", turn_id="t1").run())
    await caller.entered.wait()
    # No word of whoever asks keeps the turn from being committed.
    assert session.cancel_running_turns(reason="no UTF-8: \ud800") == 1
    output = await running
    assert output.result.outcome == Stopped("cancelled")
    assert output.result.cancellation.request_id == "internal:t1"
    assert output.result.cancellation.reason == "no UTF-8: \\ud800"
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


async def test_a_repeated_key_of_a_turn_that_stopped_short_answers_the_text_it_had(make_core) -> None:
    cut = LlmResponse((ProsePart("half an ans"),), terminal_reason=TerminalReason.OUTPUT_LIMIT)
    caller = ScriptedCaller([text("before"), calls(("c1", "none", "{}")), cut])
    session = await make_core(caller).open_session("s1")
    await session.turn("zero").run()
    first = (await session.turn("one", key="k").run()).result
    again = (await session.turn("one", key="k").run()).result
    assert first.assistant_output.raw_text == "half an ans"
    assert (again.assistant_output, again.errors) == (first.assistant_output, first.errors)


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


async def test_nobody_starts_over_under_a_running_turn(make_core) -> None:
    caller = ScriptedCaller([text("old"), text("new")])
    caller.gate = asyncio.Event()
    core, other = make_core(caller), make_core(caller)
    session = await core.open_session("s1")
    running = asyncio.create_task(session.turn("before").run())
    await caller.entered.wait()
    for one in (core, other):
        with pytest.raises(SessionExecutionBusy):
            await one.open_fresh("s1")
    caller.gate.set()
    await running
    fresh = await other.open_fresh("s1")
    await fresh.turn("start over").run()
    assert [message_text(message) for message in fresh.read_view().messages] == ["start over", "new"]


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


async def test_the_id_of_a_turn_of_an_adopted_state_is_refused_before_any_model_call(make_core) -> None:
    caller = ScriptedCaller([text("one"), text("two")])
    core = make_core(caller)
    async with await core.open_session("s1") as session:
        await session.turn("a", turn_id="t").run()
        state = session.export_state()
    copied = await core.open_with_state("s2", state.rebound_to("s2"))
    with pytest.raises(ConflictError) as refused:
        await copied.turn("b", turn_id="t").run()
    assert refused.value.code == "turn_inherited" and len(caller.requests) == 1
    assert (await copied.turn("b").run()).result.assistant_message() == "two"


@pytest.mark.parametrize("spec", [SessionSpec(), SessionSpec(inherit="stored")])
async def test_a_state_brings_its_prompt_and_its_provider_and_the_host_the_rest_unless_told(make_core, spec) -> None:
    core = make_core(ScriptedCaller([text("one")]))
    wanted = SessionSpec(max_turns=3).replace_prompt_slot("intro", PromptContribution("intro", "Be brief."))
    async with await core.open_session("s1", spec=wanted) as session:
        await session.turn("a").run()
        state = session.export_state()
    caller = ScriptedCaller([text("two")], provider_id="second", repeat=True)
    other = make_core(caller, model=ModelSpec("model-2"))
    copied = await other.open_with_state("s2", state.rebound_to("s2"), spec=spec)
    policy = copied.policy_snapshot
    is_stored = spec.inherit == "stored"
    assert (policy.model.id, policy.max_turns) == (("model-1", 3) if is_stored else ("model-2", None))
    assert policy.provider_id == "scripted" and copied.provider_status().code == "llm_provider"
    await copied.configure(SessionConfigPatch(provider_id="second"))
    await copied.turn("b").run()
    assert "Be brief." in caller.requests[0].system


async def test_a_handle_that_chose_nothing_takes_over_what_another_one_configures(make_core) -> None:
    here, there = make_core(ScriptedCaller([text("x")], repeat=True)), make_core(ScriptedCaller([]))
    async with await here.open_session("s1") as session:
        await session.turn("a").run()
    session, other = [await core.open_session("s1", spec=SessionSpec(inherit="stored")) for core in (here, there)]
    await other.configure(SessionConfigPatch(model=ModelSpec("model-9")))
    await session.turn("b").run()
    await other.refresh()
    assert [handle.policy_snapshot.model.id for handle in (session, other)] == ["model-9"] * 2


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


async def test_a_session_that_must_be_new_is_created_once(make_core) -> None:
    cores = [make_core(ScriptedCaller([])) for _ in range(4)]
    opened = await asyncio.gather(
        *(core.open_session("s1", must_be_new=True) for core in cores), return_exceptions=True
    )
    refused = [error for error in opened if isinstance(error, ConflictError)]
    assert len(refused) == 3 and {error.code for error in refused} == {"session_exists"}


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


async def test_a_session_without_a_store_answers_a_repeat_from_memory_and_refuses_another_text() -> None:
    caller = ScriptedCaller([text("one"), text("two")])
    async with LashCore(provider=caller, model=ModelSpec("m")) as core, await core.open_session("s1") as session:
        first = await session.turn("a", key="k").run()
        for again in (session.turn("a", key="k"), session.turn("a", turn_id=first.result.turn_id)):
            output = await again.run()
            assert output.replayed and output.turns == () and output.result == first.result
        await session.turn("b", turn_id="t").run()
        with pytest.raises(PendingTurnInputSourceKeyConflict):
            await session.turn("c", key="k").run()
        with pytest.raises(RuntimeTurnCommitConflict):
            await session.turn("c", turn_id="t").run()
        copied = await core.open_with_state("s1", session.export_state())
        with pytest.raises(RuntimeTurnCommitConflict):
            await copied.turn("b", turn_id="t").run()
        assert [message_text(message) for message in copied.read_view().messages] == ["a", "one", "b", "two"]


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
