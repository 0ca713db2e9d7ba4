"""Handing a turn on to another agent frame: atomically, recoverably, and not for ever (contract 01 §5.4, §11)."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from support.driving import AtPoint, Crash, CrashPoints, S, from_afar, said
from support.scripted import ScriptedCaller, calls, text
from support.switching import SUMMARY, Switching, switch

from lash_cli.api import (
    AgentFrameSwitch,
    FunctionToolProvider,
    LashCore,
    ModelSpec,
    Replayed,
    Stopped,
    ToolContext,
    tool,
)
from lash_cli.core.activity import TurnActivity, TurnStarted
from lash_cli.core.frames import FrameStatus, current_frame
from lash_cli.core.observation import ActivityObserved, AgentFrameSwitched, QueueChanged, StateCommitted
from lash_cli.core.policy import ModelLimits, SessionPolicy
from lash_cli.core.queued_work import BatchState
from lash_cli.core.usage import TokenUsage
from lash_cli.plugins.rolling_history import RollingHistory
from lash_cli.runtime.frame_opening import OpenAgentFrameRequest
from lash_cli.runtime.frames import MAX_FRAME_SWITCHES
from lash_cli.store.base import ReadScope


async def test_a_switch_opens_the_frame_and_goes_on_with_the_task(make_core) -> None:
    caller = ScriptedCaller([switch("f2", "finish it"), text("finished")])
    core = make_core(caller, tools=[Switching((SUMMARY,))])
    session = await core.open_session(S)
    output = await session.turn("begin", turn_id="root").run()
    assert output.result.assistant_message() == "finished"
    assert [result.turn_id for result in output.turns] == ["root", "root:agent-frame:1"]
    (switched,) = output.frames
    assert isinstance(switched.outcome, AgentFrameSwitch) and switched.outcome.frame_id == "f2"
    assert said(caller.requests[1].messages) == ["what happened so far", "finish it"]
    frames = session.read_view().frames
    assert [(frame.status, frame.reason) for frame in frames] == [
        (FrameStatus.SUPERSEDED, "initial"),
        (FrameStatus.ACTIVE, "continue_as"),
    ]
    assert (frames[1].frame_id, frames[1].previous_frame_id, frames[1].caused_by.id) == (
        "f2",
        frames[0].frame_id,
        "root",
    )
    assert await session.queued_turn().run() is None
    assert (await core.store.session_row(S)).lease.token is None


class Nothing(msgspec.Struct):
    """No arguments."""


async def test_a_tool_is_told_the_frame_it_is_called_in(make_core) -> None:
    seen: list[str] = []

    @tool(name="where")
    async def where(arguments: Nothing, context: ToolContext) -> None:
        seen.append(context.agent_frame_id)

    asks = [calls((f"w{number}", "where", "{}")) for number in range(2)]
    caller = ScriptedCaller([asks[0], switch("f2", "finish it"), asks[1], text("finished")])
    session = await make_core(caller, tools=[Switching(), FunctionToolProvider([where])]).open_session(S)
    await session.turn("begin").run()
    assert seen == [frame.frame_id for frame in session.read_view().frames] != []
    await session.close()


@pytest.mark.parametrize("has_store", [True, False])
async def test_how_full_the_frame_before_was_is_no_matter_in_the_new_one(make_core, has_store: bool) -> None:
    class Noting(RollingHistory):
        def prepare_turn(self, messages, moment):
            fills.append(moment.fill)
            return messages

    fills: list[float | None] = []
    policy = SessionPolicy(ModelSpec("model-1", limits=ModelLimits(context_window_tokens=50_000)), "scripted")
    full = msgspec.structs.replace(switch("f2", "finish it"), usage=TokenUsage(40_000, 1_000))
    caller = ScriptedCaller([full, text("finished", tokens=(5_000, 0)), text("later")])
    wiring = {"tools": [Switching((SUMMARY,))], "context": [Noting()], "policy": policy, "model": None}
    core = make_core(caller, **wiring) if has_store else LashCore(provider=caller, **wiring)
    session = await core.open_session(S)
    await session.turn("begin").run()
    await session.turn("go on").run()
    assert fills == [None, None, 0.1]


async def test_another_process_reads_the_new_frame_and_the_old_one_stays(make_core) -> None:
    core = make_core(ScriptedCaller([switch("f2", "finish it"), text("finished")]), tools=[Switching((SUMMARY,))])
    session = await core.open_session(S)
    await session.turn("begin").run()
    other = await make_core(ScriptedCaller([text("more")]), tools=[Switching()]).open_session(S)
    assert said(other.read_view().messages) == said(session.read_view().messages)
    assert said(other.read_view().messages) == ["what happened so far", "finish it", "finished"]
    await other.turn("go on").run()
    whole = await core.store.load_session(S, ReadScope.FULL_GRAPH)
    texts = said(node.payload.message for node in whole.nodes)
    assert texts == ["begin", "what happened so far", "finish it", "finished", "go on", "more"]
    assert current_frame(whole.frames).frame_id == "f2"


async def test_a_view_taken_before_a_switch_keeps_what_it_showed(make_core) -> None:
    core = make_core(ScriptedCaller([text("one"), switch("f2", "finish it"), text("finished")]), tools=[Switching()])
    session = await core.open_session(S)
    await session.turn("first").run()
    view = session.read_view()
    await session.turn("second").run()
    assert said(view.messages) == ["first", "one"]


async def test_a_repeated_key_answers_what_the_last_frame_said(make_core) -> None:
    caller = ScriptedCaller([switch("f2", "on"), switch("f3", "on and on"), text("finished")])
    session = await make_core(caller, tools=[Switching((SUMMARY,))]).open_session(S)
    first = await session.turn("begin", key="k").run()
    again = await session.turn("begin", key="k").run()
    assert again.replayed and again.turns == ()
    assert again.result.assistant_message() == first.result.assistant_message() == "finished"
    assert [frame.turn_id for frame in again.frames] == [frame.turn_id for frame in first.frames]
    assert len(caller.requests) == 3


async def test_a_queued_turn_follows_its_switches_too(make_core) -> None:
    core = make_core(ScriptedCaller([switch("f2", "finish it"), text("finished")]), tools=[Switching()])
    session = await core.open_session(S)
    await session.enqueue("begin")
    output = await session.queued_turn().run()
    assert (output.result.assistant_message(), len(output.frames)) == ("finished", 1)
    assert await session.queued_turn().run() is None


async def test_a_handoff_whose_owner_died_is_finished_by_the_next_pass(make_core) -> None:
    points = CrashPoints("before:lane", 2)
    first = make_core(ScriptedCaller([switch("f2", "finish it")]), tools=[Switching()], crash_point=points)
    with pytest.raises(Crash):
        await (await first.open_session(S)).turn("begin", turn_id="root").run()
    core = make_core(ScriptedCaller([text("finished")]), tools=[Switching()])
    session = await core.open_session(S)
    (batch,) = await session.queued_work()
    assert batch.source_key == "agent-frame-handoff:root"
    output = await session.queued_turn().run()
    assert output.result.assistant_message() == "finished"
    assert said(session.read_view().messages) == ["finish it", "finished"]
    assert await session.queued_work() == ()


@pytest.mark.parametrize("point", ["before:commit", "after:model_recorded"])
async def test_a_turn_of_the_chain_that_crashed_is_driven_again_and_the_chain_goes_on(make_core, point) -> None:
    script = [switch("f2", "go on"), switch("f3", "go further", "b"), text("finished")]
    first = make_core(ScriptedCaller(script[:2]), tools=[Switching()], crash_point=CrashPoints(point, 2))
    with pytest.raises(Crash):
        await (await first.open_session(S)).turn("begin", turn_id="root").run()
    core = make_core(ScriptedCaller(script[2:]), tools=[Switching()])
    session = await core.open_session(S)
    output = await session.redrive().run()
    assert [result.turn_id for result in output.turns] == ["root:agent-frame:1", "root:agent-frame:2"]
    assert output.result.assistant_message() == "finished"
    assert [frame.frame_id for frame in session.read_view().frames][1:] == ["f2", "f3"]


async def test_a_chain_stops_after_its_last_switch_and_settles_its_handoff(make_core) -> None:
    caller = ScriptedCaller([lambda request: switch(f"f{len(caller.requests)}", "on and on")], repeat=True)
    core = make_core(caller, tools=[Switching()])
    session = await core.open_session(S)
    output = await session.turn("begin", turn_id="root").run()
    assert len(output.frames) == MAX_FRAME_SWITCHES == 16
    assert output.result.outcome == Stopped("runtime_error")
    assert output.result.errors[0].code == "agent_frame_switch_limit"
    assert output.result.turn_id == "root:agent-frame:16"
    assert await session.queued_work() == ()
    assert (await core.store.session_row(S)).lease.token is None


async def test_a_chain_cut_by_a_crash_counts_on_from_where_it_was(make_core) -> None:
    caller = ScriptedCaller([lambda request: switch(f"f{len(caller.requests)}", "on and on")], repeat=True)
    first = make_core(caller, tools=[Switching()], crash_point=CrashPoints("before:lane", 11))
    with pytest.raises(Crash):
        await (await first.open_session(S)).turn("begin", turn_id="root").run()
    core = make_core(caller, tools=[Switching()])
    output = await (await core.open_session(S)).queued_turn().run()
    assert len(output.frames) == 6
    assert output.result.errors[0].code == "agent_frame_switch_limit"


async def test_the_lane_is_kept_from_one_turn_to_the_next(make_core, tmp_path) -> None:
    """Between a switch and what follows it nobody else gets in."""
    seen: list[tuple[bool, int]] = []

    async def look(store) -> None:
        lease = (await store.session_row(S)).lease
        seen.append((lease.token is not None, lease.fencing_token))

    hook = AtPoint("after:commit", lambda: from_afar(tmp_path / "home" / "lash.db", look))
    core = make_core(ScriptedCaller([switch("f2", "go"), text("done")]), tools=[Switching()], crash_point=hook)
    session = await core.open_session(S)
    await session.turn("begin").run()
    assert seen == [(True, 1)]
    assert (await core.store.session_row(S)).lease.fencing_token == 1


async def test_a_cancel_in_mid_chain_settles_the_handoff(make_core) -> None:
    caller = ScriptedCaller([switch("f2", "finish it"), text("never")])
    core = make_core(caller, tools=[Switching()])
    session = await core.open_session(S)
    stall = asyncio.Event()

    class Stalling(ScriptedCaller):
        async def call(self, request, *, sink, cancel):
            if len(self.requests) == 1:
                self.gate = asyncio.Event()
                stall.set()
            return await super().call(request, sink=sink, cancel=cancel)

    core = make_core(Stalling([switch("f2", "finish it"), text("never")]), tools=[Switching()])
    session = await core.open_session(S)
    running = asyncio.create_task(session.turn("begin").run())
    await stall.wait()
    session.cancel_running_turns()
    output = await running
    assert output.result.outcome == Stopped("cancelled")
    assert len(output.frames) == 1
    assert await session.queued_work() == ()
    assert await core.store.unfinished_turns(S) == ()
    assert said(session.read_view().messages) == ["finish it"]


async def test_a_turn_that_follows_and_was_asked_to_stop_before_it_begins_asks_no_model(make_core) -> None:
    caller = ScriptedCaller([switch("f2", "finish it"), text("never")])
    core = make_core(caller, tools=[Switching()])
    session = await core.open_session(S)

    async def stop_the_next_one(activity: TurnActivity) -> None:
        if isinstance(activity.event, TurnStarted) and ":agent-frame:" not in activity.turn_id:
            await core.request_turn_cancel(S, turn_id=f"{activity.turn_id}:agent-frame:1", request_id="r1")

    output = await session.turn("begin").stream_to(stop_the_next_one)
    assert output.result.cancellation.request_id == "r1"
    assert len(caller.requests) == 1


async def test_a_task_cancelled_between_two_turns_ends_the_chain(make_core, tmp_path) -> None:
    async def cancel(store) -> None:
        (batch,) = await store.queued_work(S, pending_only=False)
        await store.cancel_queued_work_batch(S, batch.batch_id)

    points = []

    def hook(point: str) -> None:
        points.append(point)
        if points.count("before:lane") == 2 and point == "before:lane":
            from_afar(tmp_path / "home" / "lash.db", cancel)

    core = make_core(ScriptedCaller([switch("f2", "finish it")]), tools=[Switching()], crash_point=hook)
    session = await core.open_session(S)
    output = await session.turn("begin").run()
    assert isinstance(output.result.outcome, AgentFrameSwitch) and output.frames == ()
    assert (await core.store.session_row(S)).lease.token is None


async def test_a_hold_between_two_turns_leaves_the_task_in_the_queue(make_core, tmp_path) -> None:
    async def hold(store) -> None:
        await store.set_queue_hold(S, held_at_ms=1)

    hook = AtPoint("after:commit", lambda: from_afar(tmp_path / "home" / "lash.db", hold))
    caller = ScriptedCaller([switch("f2", "finish it"), text("finished")])
    core = make_core(caller, tools=[Switching()], crash_point=hook)
    session = await core.open_session(S)
    output = await session.turn("begin").run()
    assert isinstance(output.result.outcome, AgentFrameSwitch)
    assert len(await session.queued_work()) == 1
    await core.queue(S).release()
    assert (await session.queued_turn().run()).result.assistant_message() == "finished"


async def test_a_session_closed_between_two_turns_leaves_the_task_in_the_queue(make_core, tmp_path) -> None:
    async def close(store) -> None:
        await store.set_session_flags(S, closed_at_ms=1, parked_at_ms=None)

    hook = AtPoint("after:commit", lambda: from_afar(tmp_path / "home" / "lash.db", close))
    core = make_core(ScriptedCaller([switch("f2", "finish it")]), tools=[Switching()], crash_point=hook)
    session = await core.open_session(S)
    output = await session.turn("begin").run()
    assert isinstance(output.result.outcome, AgentFrameSwitch)
    assert len(await core.store.queued_work(S, pending_only=True)) == 1


@pytest.mark.parametrize(
    ("frame", "nodes", "code"),
    [
        (f"{S}:frame:initial", (), None),
        ("f2", ({"kind": "nonsense"},), "agent_frame_nodes_invalid"),
        ("f2", (SUMMARY,) * 257, "agent_frame_nodes_invalid"),
    ],
    ids=["current", "unreadable", "too many"],
)
async def test_a_switch_that_cannot_be_made_ends_the_turn_and_says_why(make_core, frame, nodes, code) -> None:
    caller = ScriptedCaller([switch(frame, "finish it"), text("finished")])
    session = await make_core(caller, tools=[Switching(nodes)]).open_session(S)
    output = await session.turn("begin").run()
    if code is None:
        assert output.result.assistant_message() == "finished"
        assert len(session.read_view().frames) == 1
        assert said(session.read_view().messages)[0] == "begin"
        return
    assert output.result.outcome == Stopped("runtime_error")
    assert [issue.code for issue in output.result.errors] == [code]
    assert len(session.read_view().frames) == 1


async def test_the_id_of_an_older_frame_is_never_used_again(make_core) -> None:
    caller = ScriptedCaller([switch("f2", "go"), switch(f"{S}:frame:initial", "back", "b")])
    session = await make_core(caller, tools=[Switching()]).open_session(S)
    output = await session.turn("begin").run()
    assert output.result.errors[0].code == "agent_frame_reused"
    assert current_frame(session.read_view().frames).frame_id == "f2"


async def test_without_a_store_frames_are_switched_in_memory() -> None:
    caller = ScriptedCaller([switch("f2", "finish it"), text("finished")])
    session = await LashCore(provider=caller, model=ModelSpec("m"), tools=[Switching((SUMMARY,))]).open_session(S)
    output = await session.turn("begin", turn_id="root").run()
    assert [result.turn_id for result in output.turns] == ["root", "root:agent-frame:1"]
    assert said(session.read_view().messages) == ["what happened so far", "finish it", "finished"]


async def test_the_settled_handoff_keeps_its_key(make_core) -> None:
    core = make_core(ScriptedCaller([switch("f2", "finish it"), text("finished")]), tools=[Switching()])
    session = await core.open_session(S)
    output = await session.turn("begin", turn_id="root").run()
    handed = [item.event.batch_ids for item in output.activities if hasattr(item.event, "batch_ids")]
    batch = await core.store.queued_work_batch(S, handed[0][0])
    assert (batch.state, batch.source_key) == (BatchState.COMPLETED, "agent-frame-handoff:root")


async def test_without_a_store_a_switch_is_watched_right_before_its_commit() -> None:
    caller = ScriptedCaller([switch("f2", "finish it"), text("finished")])
    async with LashCore(provider=caller, model=ModelSpec("model-1"), tools=[Switching((SUMMARY,))]) as core:
        session = await core.open_session(S)
        start = (await session.observe().current_observation()).cursor
        await session.turn("begin", turn_id="root").run()
        replayed = await session.observe().resume_from_cursor(start)
        assert isinstance(replayed, Replayed)
        told = [event for event in replayed.events if not isinstance(event.payload, ActivityObserved)]
        assert [(event.payload, event.revision, event.turn_id) for event in told] == [
            (AgentFrameSwitched("f2"), 1, "root"),
            (StateCommitted(), 1, "root"),
            (StateCommitted(), 2, "root:agent-frame:1"),
        ]
        view = await session.observe().read_view()
        assert said(view.messages) == ["what happened so far", "finish it", "finished"]


async def test_a_first_turn_that_switches_is_watched_in_the_order_in_which_it_went(make_core) -> None:
    caller = ScriptedCaller([switch("f2", "finish it"), text("finished")])
    core = make_core(caller, tools=[Switching((SUMMARY,))])
    async with await core.open_session(S) as session:
        start = (await session.observe().current_observation()).cursor
        await session.turn("begin", turn_id="root").run()
        replayed = await session.observe().resume_from_cursor(start)
        assert isinstance(replayed, Replayed)
        revisions = [event.revision for event in replayed.events]
        assert revisions == sorted(revisions), "what led to a commit is told before all of it"
        told = [
            event.payload
            if not isinstance(event.payload, ActivityObserved)
            else type(event.payload.activity.event).__name__
            for event in replayed.events
            if event.revision < 2
        ]
        enqueued = next(payload for payload in told if isinstance(payload, QueueChanged))
        at = told.index(enqueued)
        switched = [enqueued, AgentFrameSwitched("f2"), StateCommitted(), "TurnFinished"]
        assert [told[at - 1], *told[at : at + 4]] == ["ToolCallCompleted", *switched]


@pytest.mark.parametrize("is_first", [True, False], ids=["the first commit", "a later one"])
async def test_a_frame_that_a_program_opens_is_told_right_before_its_commit(make_core, is_first: bool) -> None:
    core = make_core(ScriptedCaller([text("one")]))
    async with await core.open_session(S) as session:
        if not is_first:
            await session.turn("begin").run()
        start = (await session.observe().current_observation()).cursor
        await session.admin().open_agent_frame(OpenAgentFrameRequest("f2", "test"))
        replayed = await session.observe().resume_from_cursor(start)
        assert isinstance(replayed, Replayed)
        assert [type(event.payload) for event in replayed.events] == [AgentFrameSwitched, StateCommitted]


@pytest.mark.parametrize("is_stored", [True, False], ids=["stored", "in memory"])
async def test_the_turns_of_a_frame_are_booked_to_the_source_it_was_assigned(make_core, is_stored: bool) -> None:
    caller = ScriptedCaller([text("one"), switch("f2", "finish it"), text("finished")])
    tools = [Switching((SUMMARY,))]
    core = (
        make_core(caller, tools=tools)
        if is_stored
        else LashCore(provider=caller, model=ModelSpec("model-1"), tools=tools)
    )
    async with await core.open_session(S) as session:
        state = session.export_state()
    (first,) = state.frames
    assignment = msgspec.structs.replace(first.assignment, usage_source="nightly")
    state = msgspec.structs.replace(state, frames=(msgspec.structs.replace(first, assignment=assignment),))
    async with await core.open_with_state(S, state) as session:
        await session.turn("a").run()
        await session.turn("begin").run()
        assert {source: usage.total for source, usage in session.usage_report().by_source.items()} == {"nightly": 45}
    if not is_stored:
        await core.aclose()
