"""Watching sessions that have no store, in the process that holds them (contract 04 §1, §2, §4)."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import msgspec
import pytest
from support.scripted import ScriptedCaller, text

from lash_cli.api import (
    FunctionToolProvider,
    LashCore,
    ModelLimits,
    ModelSpec,
    ObservedEvent,
    ObservedGap,
    OpenAgentFrameRequest,
    Replayed,
    SessionConfigPatch,
    SessionCursor,
    SessionSpec,
    Subscribed,
    tool,
)
from lash_cli.core.activity import AssistantProseDelta, ModelAttemptReset, TurnFinished
from lash_cli.core.content import Message, Role, TextPart, message_text
from lash_cli.core.graph import ConversationPayload
from lash_cli.core.llm import LlmCallResult, LlmRequest, TextDelta
from lash_cli.core.observation import (
    MAX_AGE_MS,
    MAX_EVENTS,
    ActivityObserved,
    AgentFrameSwitched,
    LiveReplayGapReason,
    ResidentChanged,
    StateCommitted,
)
from lash_cli.core.protocols import CancelSignal, EventSink
from lash_cli.errors import LiveReplayClosed, SessionCursorWrongSession, SubscriberLagged
from lash_cli.store.conformance.clock import ManualClock

PATIENCE_S = 30


class Nothing(msgspec.Struct):
    """No arguments."""


@tool(name="echo")
async def echo(args: Nothing, context: object) -> str:
    """Say it again."""
    return "said"


def memory_core(*steps: Any, **options: Any) -> LashCore:
    return LashCore(provider=ScriptedCaller(steps, repeat=len(steps) == 1), model=ModelSpec("model-1"), **options)


def names(events: Any) -> list[str]:
    found = []
    for event in events:
        payload = event.payload
        found.append(type(payload.activity.event if isinstance(payload, ActivityObserved) else payload).__name__)
    return found


async def test_a_replay_holds_what_the_turn_showed_then_its_commit_then_its_end() -> None:
    async with memory_core(text("hello there")) as core:
        session = await core.open_session("s1")
        start = (await session.observe().current_observation()).cursor
        output = await session.turn("hi").run()
        replayed = await core.observe("s1").resume_from_cursor(start)
        assert isinstance(replayed, Replayed)
        assert names(replayed.events) == [
            "TurnStarted", "ModelRequestStarted", "AssistantProseDelta", "UsageShown", "StateCommitted", "TurnFinished",
        ]  # fmt: skip
        assert {event.turn_id for event in replayed.events} == {output.result.turn_id}
        assert [event.revision for event in replayed.events] == [0, 0, 0, 0, 1, 1]
        ids = [event.payload.activity.id for event in replayed.events if isinstance(event.payload, ActivityObserved)]
        assert ids == [activity.id for activity in output.activities]
        view = await session.observe().read_view()
        assert [message_text(message) for message in view.messages] == ["hi", "hello there"]
        assert (view.turn_index, (await session.observe().usage_report()).usage.total) == (1, 15)


async def test_a_watch_from_before_the_session_goes_on_across_turns_and_every_commit_finds_its_view() -> None:
    async with memory_core(text("x")) as core:
        observed = core.observe("s1")
        stream = observed.subscribe_and_recover((await observed.current_observation()).cursor)

        async def commits() -> list[tuple[int, int]]:
            seen: list[tuple[int, int]] = []
            async for item in stream:
                assert isinstance(item, ObservedEvent)
                if isinstance(item.event.payload, StateCommitted):
                    seen.append((item.event.revision, len((await observed.read_view()).messages)))
                    if len(seen) == 3:
                        return seen
            raise AssertionError("the stream ended")

        watching = asyncio.ensure_future(commits())
        await asyncio.sleep(0)
        session = await core.open_session("s1")
        for _ in range(3):
            await session.turn("hi").run()
            await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE_S):
            seen = await watching
        assert [revision for revision, _ in seen] == [1, 2, 3]
        # Never older than the commit; newer is allowed.
        assert all(messages >= 2 * revision for revision, messages in seen)
        await stream.aclose()


async def test_everything_is_read_while_a_turn_is_blocked_in_its_model() -> None:
    caller = ScriptedCaller([text("first"), text("second")])
    core = LashCore(provider=caller, model=ModelSpec("model-1"), tools=[FunctionToolProvider([echo])])
    async with core, await core.open_session("s1") as session:
        await session.turn("hi").run()
        caller.gate = asyncio.Event()
        caller.entered.clear()
        turn = asyncio.ensure_future(session.turn("again").run())
        await caller.entered.wait()
        observed = session.observe()
        async with asyncio.timeout(PATIENCE_S):
            view = (await observed.current_observation()).read_view
            assert [message_text(message) for message in view.messages] == ["hi", "first"]
            assert (await observed.policy_snapshot()).model.id == "model-1"
            assert [manifest.name for manifest in await observed.active_tool_manifests()] == ["echo"]
            assert await observed.list_process_handles() == ()
        assert not turn.done()
        caller.gate.set()
        await turn


async def test_a_change_between_turns_is_a_resident_change_and_no_commit() -> None:
    async with memory_core(text("x"), tools=[FunctionToolProvider([echo])]) as core:
        session = await core.open_session("s1")
        await session.turn("hi").run()
        observed = session.observe()
        before = await observed.current_observation()
        await session.configure(SessionConfigPatch(model=ModelSpec("model-2", limits=ModelLimits(1000, 100))))
        assert len(await observed.active_tool_manifests()) == 1
        await session.tools().set_membership("echo", False)
        await session.configure(SessionConfigPatch(model=ModelSpec("model-2", limits=ModelLimits(1000, 100))))
        replayed = await observed.resume_from_cursor(before.cursor)
        assert isinstance(replayed, Replayed)
        assert [(event.payload, event.revision, event.turn_id) for event in replayed.events] == [
            (ResidentChanged(), 1, None)
        ] * 2
        assert (await observed.read_view()).policy.model.id == "model-2"
        assert await observed.active_tool_manifests() == ()
        assert before.read_view.policy.model.id == "model-1"


async def test_a_session_command_that_is_applied_at_once_is_told_to_those_who_watch() -> None:
    async with memory_core(text("x")) as core:
        session = await core.open_session("s1")
        await session.turn("hi").run()
        observed = session.observe()
        before = await observed.current_observation()
        await session.commands().reset("start over", "key-1")
        replayed = await observed.resume_from_cursor(before.cursor)
        assert isinstance(replayed, Replayed)
        assert [(event.payload, event.revision) for event in replayed.events] == [(StateCommitted(), 2)]
        assert list((await observed.read_view()).messages) == list(session.read_view().messages) == []


async def test_a_frame_that_is_opened_between_turns_is_told_and_shown_to_those_who_watch() -> None:
    async with memory_core(text("x")) as core:
        session = await core.open_session("s1")
        await session.turn("hi").run()
        observed = session.observe()
        before = await observed.current_observation()
        note = ConversationPayload(Message("", Role.USER, (TextPart("go on from here"),)))
        await session.admin().open_agent_frame(OpenAgentFrameRequest("f2", "continue_as", (note,)))
        replayed = await observed.resume_from_cursor(before.cursor)
        assert isinstance(replayed, Replayed)
        assert [(event.payload, event.revision) for event in replayed.events] == [
            (AgentFrameSwitched("f2"), 2),
            (StateCommitted(), 2),
        ]
        assert [message_text(message) for message in (await observed.read_view()).messages] == ["go on from here"]


class Breaking(ScriptedCaller):
    """Says half of an answer and breaks in a way no provider may."""

    async def call(self, request: LlmRequest, *, sink: EventSink, cancel: CancelSignal) -> LlmCallResult:
        await sink(TextDelta("half an ans"))
        raise RuntimeError("the model is gone")


async def test_a_turn_that_ends_without_an_outcome_takes_its_text_back() -> None:
    async with LashCore(provider=Breaking([]), model=ModelSpec("model-1"), strict=True) as core:
        session = await core.open_session("s1")
        start = (await session.observe().current_observation()).cursor
        with pytest.raises(Exception, match="gone"):
            await session.turn("hi").run()
        replayed = await session.observe().resume_from_cursor(start)
        assert isinstance(replayed, Replayed)
        shown = [event.payload.activity for event in replayed.events if isinstance(event.payload, ActivityObserved)]
        rows = {one.correlation_id for one in shown if isinstance(one.event, AssistantProseDelta)}
        assert rows and shown[-1].event == ModelAttemptReset(tuple(rows))
        assert not any(isinstance(event.payload, StateCommitted) for event in replayed.events)


async def test_a_cursor_too_old_is_a_gap_with_the_state_to_go_on_from() -> None:
    async with memory_core(text("x")) as core:
        session = await core.open_session("s1")
        await session.turn("hi").run()
        observed = session.observe()
        log = session._state.log
        assert log is not None
        start = SessionCursor("0" * 16, 0, 0, "s1")
        log.publish([ResidentChanged()] * MAX_EVENTS)
        stream = observed.subscribe_and_recover(start)
        item = await stream.__anext__()
        assert isinstance(item, ObservedGap) and item.gap.reason is LiveReplayGapReason.TRIMMED
        assert item.gap.latest_cursor == item.observation.cursor == stream.cursor
        assert [message_text(message) for message in item.observation.read_view.messages] == ["hi", "x"]
        await session.turn("again").run()
        following = await stream.__anext__()
        assert isinstance(following, ObservedEvent)
        await stream.aclose()
        with pytest.raises(SessionCursorWrongSession):
            await observed.resume_from_cursor(SessionCursor("0" * 16, 0, 0, "other"))


async def test_at_the_tail_of_a_log_that_has_expired_a_subscription_waits_and_an_older_cursor_is_trimmed() -> None:
    clock = ManualClock()
    async with memory_core(text("x"), clock=clock) as core:
        session = await core.open_session("s1")
        observed = session.observe()
        start = (await observed.current_observation()).cursor
        await session.turn("hi").run()
        tail = (await observed.current_observation()).cursor
        clock.tick(MAX_AGE_MS / 1000 + 1)
        stream = observed.subscribe_and_recover(tail)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(stream.__anext__(), 0.01)
        expired = await observed.resume_from_cursor(start)
        assert isinstance(expired, ObservedGap) and expired.gap.reason is LiveReplayGapReason.TRIMMED
        await session.configure(SessionConfigPatch(model=ModelSpec("model-2", limits=ModelLimits(1000, 100))))
        item = await stream.__anext__()
        assert isinstance(item, ObservedEvent) and item.event.payload == ResidentChanged()
        await stream.aclose()


async def test_a_lagging_subscriber_is_told_once_and_a_recovering_one_gets_a_gap() -> None:
    async with memory_core(text("x")) as core:
        session = await core.open_session("s1")
        observed = session.observe()
        begun = await observed.subscribe_from_cursor((await observed.current_observation()).cursor)
        assert isinstance(begun, Subscribed)
        log = session._state.log
        assert log is not None
        log.publish([ResidentChanged()] * (MAX_EVENTS + 7))
        with pytest.raises(SubscriberLagged):
            await begun.subscription.__anext__()
        with pytest.raises(StopAsyncIteration):
            await begun.subscription.__anext__()


async def test_a_cancelled_pull_loses_no_event() -> None:
    async with memory_core(text("x")) as core:
        session = await core.open_session("s1")
        observed = session.observe()
        stream = observed.subscribe_and_recover((await observed.current_observation()).cursor)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(stream.__anext__(), 0.01)
        await session.turn("hi").run()
        items = [await stream.__anext__() for _ in range(6)]
        assert isinstance(items[-1], ObservedEvent)
        payload = items[-1].event.payload
        assert isinstance(payload, ActivityObserved) and isinstance(payload.activity.event, TurnFinished)
        await stream.aclose()


@pytest.mark.parametrize("way", ["close", "close_handle", "forget", "core"])
async def test_whoever_watches_learns_that_the_session_was_let_go(way: str) -> None:
    core = memory_core(text("x"))
    session = await core.open_session("s1")
    await session.turn("hi").run()
    observed = session.observe()
    stream = observed.subscribe_and_recover((await observed.current_observation()).cursor)
    waiting = asyncio.ensure_future(stream.__anext__())
    await asyncio.sleep(0)
    if way == "close":
        await session.close()
    elif way == "close_handle":
        session.clone().close_handle()
        await asyncio.sleep(0)
        assert not waiting.done()
        session.close_handle()
    elif way == "core":
        await core.aclose()
    else:
        del session
        gc.collect()
    with pytest.raises(LiveReplayClosed) as caught:
        async with asyncio.timeout(PATIENCE_S):
            await waiting
    assert caught.value.details["deleted"] is False
    with pytest.raises(StopAsyncIteration):
        await stream.__anext__()
    if way != "core":
        # The id is free: a later session of it starts a log of its own.
        again = await core.open_session("s1", spec=SessionSpec())
        assert (await core.observe("s1").read_view()).messages == ()
        await again.close()
        await core.aclose()


@pytest.mark.parametrize("is_opened", [True, False])
async def test_whoever_watches_a_session_of_a_core_that_is_closed_already_learns_that_too(is_opened: bool) -> None:
    core = memory_core(text("x"))
    await core.aclose()
    if is_opened:
        await core.open_session("s1")
    with pytest.raises(LiveReplayClosed):
        async with asyncio.timeout(PATIENCE_S):
            observed = core.observe("s1")
            await anext(observed.subscribe_and_recover((await observed.current_observation()).cursor))


async def test_of_two_sessions_opened_under_one_id_each_is_watched_for_itself() -> None:
    async with memory_core(text("x")) as core:
        first, second = await core.open_session("s1"), await core.open_session("s1")
        of_first = first.observe()
        await first.turn("only here").run()
        assert len((await of_first.read_view()).messages) == 2
        assert (await core.observe("s1").read_view()).messages == ()
        assert (await second.observe().read_view()).messages == ()
