"""Watching sessions through the public surface: what is seen, in which order, and what a gap hands over (contract 04).

The watching core has connections of its own, as another process would.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.driving import Crash, CrashPoints
from support.scripted import ScriptedCaller, calls, text
from support.watching import fold

from lash_cli.api import (
    FunctionToolProvider,
    LashCore,
    LashSession,
    ModelLimits,
    ModelSpec,
    ObservableSession,
    ObservedEvent,
    ObservedGap,
    Replayed,
    SessionConfigPatch,
    SessionCursor,
    Subscribed,
    tool,
)
from lash_cli.core.content import message_text
from lash_cli.core.llm import AttemptReset, TextDelta
from lash_cli.core.observation import (
    MAX_EVENTS,
    ActivityObserved,
    LiveReplayGapReason,
    QueueChanged,
    SessionObservationEvent,
    StateCommitted,
)
from lash_cli.core.remote import RemoteSessionCursor, RemoteSessionObservationEvent
from lash_cli.errors import (
    LiveReplayClosed,
    LiveReplayError,
    SessionCursorMalformed,
    SessionCursorWrongSession,
    StoreError,
    SubscriberLagged,
    UnsupportedProtocolVersion,
    UsageError,
)
from lash_cli.runtime.phases import TurnPhase
from lash_cli.store.sqlite import live

pytestmark = pytest.mark.usefixtures("runtime_dir")
PATIENCE_S = 30


class Nothing(msgspec.Struct):
    """No arguments."""


@tool(name="echo")
async def echo(args: Nothing, context: object) -> str:
    """Say it again."""
    return "said"


@pytest.fixture
async def watcher(make_core) -> AsyncIterator[ObservableSession]:
    yield make_core(ScriptedCaller([])).observe("s1")


async def opened(make_core, *steps, **options) -> LashSession:
    session: LashSession = await make_core(ScriptedCaller(steps, repeat=len(steps) == 1), **options).open_session("s1")
    return session


async def pull(stream: Any, until: type, count: int = 1) -> list[Any]:
    """Items of a stream up to the `count`-th event with a payload of type `until`."""
    items: list[Any] = []
    async with asyncio.timeout(PATIENCE_S):
        async for item in stream:
            items.append(item)
            event = item.event if isinstance(item, ObservedEvent) else item
            if isinstance(getattr(event, "payload", None), until):
                count -= 1
                if count == 0:
                    return items
    raise AssertionError("the stream ended")


def tags(events: Any) -> list[str]:
    """What happened, by the name of the payload or of the turn's event."""
    names = []
    for event in events:
        payload = event.payload
        record = payload.activity.event if isinstance(payload, ActivityObserved) else payload
        names.append(type(record).__name__)
    return names


async def test_a_replay_holds_what_the_turn_showed_then_its_commit_then_its_end(make_core, watcher) -> None:
    start = (await watcher.current_observation()).cursor
    session = await opened(make_core, text("hello there"))
    output = await session.turn("hi").run()
    replayed = await watcher.resume_from_cursor(start)
    assert isinstance(replayed, Replayed)
    assert tags(replayed.events) == [
        "TurnStarted",
        "ModelRequestStarted",
        "AssistantProseDelta",
        "UsageShown",
        "StateCommitted",
        "TurnFinished",
    ]
    assert {event.turn_id for event in replayed.events} == {output.result.turn_id}
    assert [event.revision for event in replayed.events] == [0, 0, 0, 0, 1, 1]
    ids = [event.payload.activity.id for event in replayed.events if isinstance(event.payload, ActivityObserved)]
    assert all(ids) and len(set(ids)) == len(ids)
    assert await watcher.resume_from_cursor(replayed.events[-1].cursor) == Replayed(())
    await session.close()


async def test_a_subscription_replays_and_then_goes_on_across_turns(make_core, watcher) -> None:
    start = (await watcher.current_observation()).cursor
    session = await opened(make_core, text("one"), text("two"))
    await session.turn("first").run()
    begun = await watcher.subscribe_from_cursor(start)
    assert isinstance(begun, Subscribed)
    async with begun.subscription as subscription:
        first = await pull(subscription, StateCommitted)
        assert fold(first) == "one"
        later = asyncio.ensure_future(pull(subscription, StateCommitted))
        await session.turn("second").run()
        assert fold(await later) == "two"
    await session.close()


async def test_whoever_receives_a_commit_reads_the_new_view(make_core, watcher) -> None:
    session = await opened(make_core, text("answer"))
    stream = watcher.subscribe_and_recover((await watcher.current_observation()).cursor)
    seen = []
    for number in range(5):
        turn = asyncio.ensure_future(session.turn(f"question {number}").run())
        items = await pull(stream, StateCommitted)
        view = await watcher.read_view()
        assert view.head_revision is not None and view.head_revision >= items[-1].event.revision
        seen.append(len(view.messages))
        await turn
    assert seen == [2, 4, 6, 8, 10]
    await stream.aclose()
    await session.close()


async def test_a_snapshot_taken_at_any_moment_neither_misses_nor_repeats_a_commit(make_core, watcher) -> None:
    session = await opened(make_core, text("answer"))
    cuts: list[Any] = []
    turns = 0

    async def work() -> None:
        nonlocal turns
        while turns < 20 or len(cuts) <= 5:
            turns += 1
            await session.turn(str(turns)).run()

    task = asyncio.ensure_future(work())
    while not task.done():
        cuts.append(await watcher.current_observation())
        await asyncio.sleep(0.001)
    await task
    for cut in cuts:
        replayed = await watcher.resume_from_cursor(cut.cursor)
        assert isinstance(replayed, Replayed)
        committed = [event.revision for event in replayed.events if isinstance(event.payload, StateCommitted)]
        assert committed == list(range((cut.read_view.head_revision or 0) + 1, turns + 1))
    await session.close()


async def test_everything_is_read_while_a_turn_is_blocked_in_its_model(make_core, watcher) -> None:
    caller = ScriptedCaller([text("first"), text("second")])
    session = await make_core(caller, tools=[FunctionToolProvider([echo])]).open_session("s1")
    await session.turn("hi").run()
    caller.gate = asyncio.Event()
    caller.entered.clear()
    turn = asyncio.ensure_future(session.turn("again").run())
    await caller.entered.wait()
    for observed in (watcher, session.observe()):
        async with asyncio.timeout(PATIENCE_S):
            observation = await observed.current_observation()
            assert [message_text(message) for message in observation.read_view.messages] == ["hi", "first"]
            assert (await observed.policy_snapshot()).model.id == "model-1"
            assert (await observed.usage_report()).usage.total == 15
            assert [manifest.name for manifest in await observed.active_tool_manifests()] == ["echo"]
            assert await observed.list_process_handles() == await observed.list_all_process_handles() == ()
            assert observed.process_scope() == {"session_id": "s1"} and observed.session_id == "s1"
    assert not turn.done()
    caller.gate.set()
    await turn
    await session.close()


async def test_a_configuration_change_is_a_commit_of_no_turn(make_core, watcher) -> None:
    session = await opened(make_core, text("x"))
    await session.turn("hi").run()
    start = (await watcher.current_observation()).cursor
    await session.configure(SessionConfigPatch(model=ModelSpec("model-2", limits=ModelLimits(1000, 100))))
    replayed = await watcher.resume_from_cursor(start)
    assert isinstance(replayed, Replayed)
    ((payload, turn_id),) = [(event.payload, event.turn_id) for event in replayed.events]
    assert (payload, turn_id) == (StateCommitted(session.read_view().messages[-1].id), None)
    assert (await watcher.policy_snapshot()).model.id == "model-2"
    await session.close()


async def test_a_change_of_the_tools_is_published_at_once(make_core, watcher) -> None:
    session = await opened(make_core, text("x"), tools=[FunctionToolProvider([echo])])
    await session.turn("hi").run()
    start = (await watcher.current_observation()).cursor
    assert [manifest.name for manifest in await watcher.active_tool_manifests()] == ["echo"]
    await session.tools().set_membership("echo", False)
    replayed = await watcher.resume_from_cursor(start)
    assert isinstance(replayed, Replayed)
    head = session.read_view().messages[-1].id
    assert [(event.payload, event.turn_id) for event in replayed.events] == [(StateCommitted(head), None)]
    assert await watcher.active_tool_manifests() == ()
    await session.close()


async def test_tool_rows_come_in_pairs_under_their_calls_id(make_core, watcher) -> None:
    start = (await watcher.current_observation()).cursor
    session = await opened(make_core, calls(("c1", "echo", "{}")), text("done"), tools=[FunctionToolProvider([echo])])
    await session.turn("hi").run()
    replayed = await watcher.resume_from_cursor(start)
    assert isinstance(replayed, Replayed)
    rows = [
        (event.payload.activity.correlation_id, name)
        for event, name in zip(replayed.events, tags(replayed.events), strict=True)
        if name.startswith("ToolCall")
    ]
    assert rows == [("tool:c1", "ToolCallStarted"), ("tool:c1", "ToolCallCompleted")]
    await session.close()


class Stuttering(ScriptedCaller):
    """Shows text twice before the attempt that counts."""

    async def call(self, request, *, sink, cancel):
        for failed in ("wrong one", "wrong two"):
            await sink(TextDelta(failed))
            await sink(AttemptReset())
        return await super().call(request, sink=sink, cancel=cancel)


async def test_two_retracted_attempts_fold_to_the_third_live_and_in_replay(make_core, watcher) -> None:
    start = (await watcher.current_observation()).cursor
    stream = watcher.subscribe_and_recover(start)
    session = await make_core(Stuttering([text("right")])).open_session("s1")
    turn = asyncio.ensure_future(session.turn("hi").run())
    followed = [item.event for item in await pull(stream, StateCommitted)]
    await turn
    replayed = await watcher.resume_from_cursor(start)
    assert isinstance(replayed, Replayed)
    for events in (followed, replayed.events):
        assert fold(events) == "right"
        assert tags(events).count("ModelAttemptReset") == 2
    behind = next(event for event in replayed.events if tags([event]) == ["ModelAttemptReset"])
    rest = await watcher.resume_from_cursor(behind.cursor)
    assert isinstance(rest, Replayed) and "wrong one" not in fold(rest.events[:1])
    await stream.aclose()
    await session.close()


async def test_what_a_drive_showed_that_a_crash_cut_off_is_retracted_by_the_next_one(make_core, watcher) -> None:
    start = (await watcher.current_observation()).cursor
    doomed = make_core(ScriptedCaller([text("what nobody recorded")]), crash_point=CrashPoints("before:model_recorded"))
    with pytest.raises(Crash):
        await (await doomed.open_session("s1")).turn("hi").run()
    session = await opened(make_core, text("right"))
    assert (await session.redrive().run()).result.assistant_message() == "right"
    replayed = await watcher.resume_from_cursor(start)
    assert isinstance(replayed, Replayed)
    assert fold(replayed.events) == "right"
    assert tags(replayed.events).count("AssistantProseDelta") == 2
    await session.close()


async def test_a_change_of_the_queue_is_seen_between_turns(make_core, watcher) -> None:
    session = await opened(make_core, text("x"))
    await session.turn("hi").run()
    stream = watcher.subscribe_and_recover((await watcher.current_observation()).cursor)
    waiting = asyncio.ensure_future(pull(stream, QueueChanged))
    event = QueueChanged("enqueued", ("in_1",))
    database = session._core.host.store.db
    await database.write(
        lambda connection: live.announce_in(connection, "s1", event, database.clock.now_ms()), durable=True
    )
    assert [item.event.payload for item in await waiting] == [event]
    await stream.aclose()
    await session.close()


async def test_a_gap_hands_over_the_state_and_where_to_go_on(make_core, watcher) -> None:
    session = await opened(make_core, text("x"))
    await session.turn("hi").run()
    now = await watcher.current_observation()
    lost = SessionCursor("another", 0, 1, "s1")
    stream = watcher.subscribe_and_recover(lost)
    gap = await anext(stream)
    assert isinstance(gap, ObservedGap)
    assert gap.gap.reason is LiveReplayGapReason.UNAVAILABLE and gap.gap.requested_cursor == lost
    assert gap.gap.latest_cursor == gap.observation.cursor == stream.cursor == now.cursor
    assert gap.gap.latest_revision == gap.observation.read_view.head_revision == 1
    await session.turn("again").run()
    assert tags(item.event for item in await pull(stream, StateCommitted))[-1] == "StateCommitted"
    await stream.aclose()
    assert isinstance(await watcher.resume_from_cursor(lost), ObservedGap)
    assert isinstance(await watcher.subscribe_from_cursor(lost), ObservedGap)
    await session.close()


async def test_a_change_of_the_queue_behind_a_gap_is_replayed_from_its_cursor(make_core, watcher) -> None:
    session = await opened(make_core, text("x"))
    await session.turn("hi").run()
    found = await watcher.resume_from_cursor(SessionCursor("another", 0, 1, "s1"))
    assert isinstance(found, ObservedGap)
    queued = await session.enqueue("later")
    replayed = await watcher.resume_from_cursor(found.gap.latest_cursor)
    assert isinstance(replayed, Replayed)
    assert [event.payload for event in replayed.events] == [QueueChanged("enqueued", (queued.input_id,))]
    await session.close()


async def test_a_turn_whose_previews_are_all_lost_commits_and_a_cursor_from_before_it_gaps_while_all_is_quiet(
    make_core, watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = ScriptedCaller([text("x")])
    caller.gate = asyncio.Event()
    session = await make_core(caller).open_session("s1")
    start = (await watcher.current_observation()).cursor
    refused = asyncio.Event()

    def refuse(self: object, *args: object, **options: object) -> None:
        refused.set()
        raise StoreError("the log takes nothing")

    monkeypatch.setattr(live.LiveEvents, "append_previews", refuse)
    turn = asyncio.ensure_future(session.turn("hi").run())
    async with asyncio.timeout(PATIENCE_S):
        await refused.wait()
    caller.gate.set()
    output = await turn
    assert output.result.assistant_message() == "x"
    gap = await watcher.resume_from_cursor(start)
    assert isinstance(gap, ObservedGap) and gap.gap.reason is LiveReplayGapReason.UNAVAILABLE
    assert [message_text(message) for message in gap.observation.read_view.messages] == ["hi", "x"]
    await session.close()


async def test_a_subscription_left_behind_lags_once_and_the_recovering_stream_reports_a_gap(make_core, watcher) -> None:
    session = await opened(make_core, text("x"))
    await session.turn("hi").run()
    start = (await watcher.current_observation()).cursor
    begun = await watcher.subscribe_from_cursor(start)
    assert isinstance(begun, Subscribed)
    stream = watcher.subscribe_and_recover(start)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(stream), 0.01)
    database = session._core.host.store.db

    def flood(connection: sqlite3.Connection) -> None:
        for _ in range(MAX_EVENTS + 1):
            live.announce_in(connection, "s1", QueueChanged("enqueued"), database.clock.now_ms())

    await database.write(flood, durable=True)
    with pytest.raises(SubscriberLagged) as caught:
        await begun.subscription.next_event()
    assert caught.value.missed == MAX_EVENTS + 1
    with pytest.raises(StopAsyncIteration):
        await anext(begun.subscription)
    with pytest.raises(LiveReplayClosed):
        await begun.subscription.next_event()
    gap = await anext(stream)
    assert isinstance(gap, ObservedGap) and gap.gap.reason is LiveReplayGapReason.TRIMMED
    await stream.aclose()
    await session.close()


async def test_a_commit_whose_event_is_missing_is_no_quiet_session(make_core, watcher, tmp_path: Path) -> None:
    session = await opened(make_core, text("x"))
    start = (await watcher.current_observation()).cursor
    begun = watcher.subscribe_and_recover(start)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(begun), 0.01)
    await session.turn("hi").run()
    connection = sqlite3.connect(tmp_path / "home" / "lash.db", isolation_level=None)
    connection.execute("DELETE FROM live_row")
    connection.close()
    async with asyncio.timeout(PATIENCE_S):
        gap = await anext(begun)
    assert isinstance(gap, ObservedGap) and gap.gap.reason is LiveReplayGapReason.UNAVAILABLE
    await begun.aclose()
    await session.close()


async def test_a_foreign_cursor_is_refused_before_anything_is_read(make_core, watcher) -> None:
    class NeverRead:
        bell_name = "store"

        def __getattr__(self, name: str) -> Any:
            raise AssertionError(f"{name} was consulted")

    watcher._reader._live = NeverRead()
    foreign = SessionCursor("e", 0, 0, "other")
    with pytest.raises(SessionCursorWrongSession):
        await watcher.resume_from_cursor(foreign)
    with pytest.raises(SessionCursorWrongSession):
        await watcher.subscribe_from_cursor(foreign)
    stream = watcher.subscribe_and_recover(foreign)
    with pytest.raises(SessionCursorWrongSession):
        await anext(stream)
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


@pytest.mark.parametrize("given", ["lashsc2:e:0:0:s1", None, 5])
async def test_what_is_no_cursor_is_refused_as_one_that_cannot_be_used(watcher, given: Any) -> None:
    with pytest.raises(SessionCursorMalformed) as caught:
        await watcher.resume_from_cursor(given)
    assert "from_store_token" in str(caught.value.hint)
    with pytest.raises(SessionCursorMalformed):
        await watcher.subscribe_from_cursor(given)
    with pytest.raises(SessionCursorMalformed):
        await anext(watcher.subscribe_and_recover(given))


async def test_watching_says_what_helps_as_the_store_does_and_nothing_of_writes() -> None:
    from lash_cli.store.sqlite.connections import closed_error

    forked, failed = closed_error("lash.db", is_forked=True), StoreError("the disk")
    failed.happened_in("s1")
    assert LiveReplayError("", cause=forked).hint == forked.hint and "spawn" in str(forked.hint)
    assert LiveReplayError("", cause=failed).hint is None


async def test_a_pull_that_was_cancelled_loses_no_event(make_core, watcher) -> None:
    session = await opened(make_core, text("x"))
    stream = watcher.subscribe_and_recover((await watcher.current_observation()).cursor)
    start = stream.cursor

    async def work() -> None:
        for number in range(30):
            await session.turn(str(number)).run()

    task = asyncio.ensure_future(work())
    seen: list[SessionObservationEvent] = []
    async with asyncio.timeout(PATIENCE_S * 3):
        while len([event for event in seen if isinstance(event.payload, StateCommitted)]) < 30:
            try:
                item = await asyncio.wait_for(anext(stream), 0.0005)
            except TimeoutError:
                continue
            assert isinstance(item, ObservedEvent)
            seen.append(item.event)
    await task
    replayed = await watcher.resume_from_cursor(start)
    assert isinstance(replayed, Replayed) and list(replayed.events[: len(seen)]) == seen
    await stream.aclose()
    await session.close()


async def test_a_subscription_racing_an_append_sees_it_exactly_once(make_core, watcher) -> None:
    session = await opened(make_core, text("x"))
    database = session._core.host.store.db
    for number in range(64):
        cursor = (await watcher.current_observation()).cursor
        event = QueueChanged("enqueued", (str(number),))

        async def append(announced: QueueChanged = event) -> None:
            await database.write(
                lambda connection: live.announce_in(connection, "s1", announced, database.clock.now_ms()), durable=False
            )

        begun, _ = await asyncio.gather(watcher.subscribe_from_cursor(cursor), append())
        assert isinstance(begun, Subscribed)
        async with begun.subscription as subscription, asyncio.timeout(PATIENCE_S):
            assert (await anext(subscription)).payload == event
            assert (await watcher.current_observation()).cursor == subscription.cursor
    await session.close()


async def test_deleting_the_session_ends_a_waiting_stream(make_core, watcher) -> None:
    session = await opened(make_core, text("x"))
    await session.turn("hi").run()
    await session.close()
    stream = watcher.subscribe_and_recover((await watcher.current_observation()).cursor)
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0.05)
    await session._core.delete_session("s1")
    with pytest.raises(LiveReplayClosed) as caught:
        await asyncio.wait_for(waiting, PATIENCE_S)
    assert (caught.value.code, caught.value.exit_status) == ("live_replay", 3)
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    with pytest.raises(LiveReplayClosed):
        await watcher.current_observation()


async def test_closing_the_store_ends_a_waiting_stream(make_core) -> None:
    core: LashCore = make_core(ScriptedCaller([]))
    stream = core.observe("s1").subscribe_and_recover(SessionCursor("0" * 16, 0, 0, "s1"))
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0.05)
    await core.aclose()
    with pytest.raises(LiveReplayError) as caught:
        await asyncio.wait_for(waiting, PATIENCE_S)
    assert isinstance(caught.value, LiveReplayClosed) and caught.value.exit_status == 1


async def test_closing_a_stream_ends_its_pull_and_no_turn(make_core, watcher) -> None:
    caller = ScriptedCaller([text("x")])
    caller.gate = asyncio.Event()
    session = await make_core(caller).open_session("s1")
    stream = watcher.subscribe_and_recover((await watcher.current_observation()).cursor)
    turn = asyncio.ensure_future(session.turn("hi").run())
    await pull(stream, ActivityObserved, 2)
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0.02)
    await stream.aclose()
    with pytest.raises(StopAsyncIteration):
        await asyncio.wait_for(waiting, PATIENCE_S)
    caller.gate.set()
    assert (await turn).result.assistant_message() == "x"
    await session.close()


@pytest.mark.parametrize("way", ["loop left", "task cancelled", "other thread"])
async def test_a_stream_that_nobody_reads_any_more_listens_no_more(make_core, watcher, way: str) -> None:
    session = await opened(make_core, text("done"))
    start = (await watcher.current_observation()).cursor
    await session.turn("go").run()

    async def read(most: int) -> None:
        async for _ in watcher.subscribe_and_recover(start):
            most -= 1
            if not most:
                break

    if way == "loop left":
        await read(1)
    elif way == "task cancelled":
        reading = asyncio.create_task(read(1_000))
        await until_listening(1)
        reading.cancel()
        await asyncio.wait({reading})
        del reading
    else:
        left = watcher.subscribe_and_recover(start)
        await left.__anext__()
        await until_listening(1)
        holder = [left]
        del left
        await asyncio.to_thread(holder.clear)
    await until_listening(0)


async def until_listening(count: int) -> None:
    """Wait until so many observers have a bell."""
    async with asyncio.timeout(PATIENCE_S):
        while listening() != count:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.005)


def listening() -> int:
    return len(list(Path(os.environ["XDG_RUNTIME_DIR"]).glob("lash/*/*/*")))


async def test_watching_writes_nothing_and_takes_no_lane(make_core, watcher, tmp_path: Path) -> None:
    await watcher.current_observation()
    begun = await watcher.subscribe_from_cursor((await watcher.current_observation()).cursor)
    assert isinstance(begun, Subscribed)
    connection = sqlite3.connect(tmp_path / "home" / "lash.db")
    for table in ("sessions", "live_log", "live_row"):
        assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
    connection.close()
    await begun.subscription.aclose()


async def test_what_cannot_be_observed_says_so(make_core) -> None:
    with pytest.raises(UsageError):
        make_core(ScriptedCaller([])).observe("not an id")


async def test_the_remote_stream_numbers_its_events_and_heals_itself(make_core, watcher) -> None:
    session = await opened(make_core, text("x"))
    observation = await watcher.current_remote_observation()
    assert (observation.session_id, observation.turn_index, len(observation.usage)) == ("s1", 0, 5)
    cursor = RemoteSessionCursor(protocol_version=1, cursor=observation.cursor)
    await session.turn("hi").run()
    begun = await watcher.subscribe_from_remote_cursor(cursor)
    events = [await begun.subscription.next_event() for _ in range(6)]
    assert [event.fields["activity"]["sequence"] for event in events if event.type == "turn_activity"] == [
        0, 1, 2, 3, 5,
    ]  # fmt: skip
    assert [event.type for event in events].index("committed") == 4
    assert all(RemoteSessionObservationEvent.from_json(event.to_json()) == event for event in events)
    await begun.subscription.aclose()
    stream = watcher.subscribe_and_recover_remote(
        RemoteSessionCursor(protocol_version=1, cursor="lashsc2:another:0:3:s1")
    )
    gap = await anext(stream)
    assert gap.gap.latest_cursor == gap.observation.cursor == stream.cursor().cursor == events[-1].cursor
    await session.turn("again").run()
    first = await anext(stream)
    assert first.fields["activity"]["sequence"] == 0
    await stream.aclose()
    await session.close()


async def test_a_remote_cursor_is_checked_in_two_steps(make_core, watcher) -> None:
    newer = RemoteSessionCursor(protocol_version=2, cursor="x")
    with pytest.raises(UnsupportedProtocolVersion):
        watcher.subscribe_and_recover_remote(newer)
    with pytest.raises(UnsupportedProtocolVersion):
        await watcher.subscribe_from_remote_cursor(newer)
    stream = watcher.subscribe_and_recover_remote(RemoteSessionCursor(protocol_version=1, cursor="nonsense"))
    with pytest.raises(SessionCursorMalformed):
        await anext(stream)
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


class Probe:
    """Writes down phases, and fails where it is told to."""

    def __init__(self, fails_at: TurnPhase | None = None) -> None:
        self.steps: list[str] = []
        self.open: list[TurnPhase | str] = []
        self.fails_at = fails_at

    def begin(self, phase: TurnPhase) -> None:
        self.steps.append(phase.value)
        if phase is self.fails_at:
            raise RuntimeError("the probe stops the turn")
        self.open.append(phase)

    def end(self, phase: TurnPhase) -> None:
        assert self.open.pop() is phase

    def begin_named(self, name: str) -> None:
        self.steps.append(name)
        self.open.append(name)

    def end_named(self, name: str) -> None:
        assert self.open.pop() == name


async def test_phases_nest_and_balance_in_the_order_of_the_turn(make_core) -> None:
    session = await opened(make_core, text("x"))
    probe = Probe()
    await session.set_turn_phase_probe(probe)
    await session.turn("hi").run()
    assert probe.steps == [
        "effect_loop",
        "context_transform",
        "prompt_build",
        "finalize_turn",
        "persist_turn",
        "final_commit",
    ]
    assert probe.open == []
    await session.set_turn_phase_probe(None)
    await session.turn("again").run()
    assert len(probe.steps) == 6
    await session.set_turn_phase_probe(probe)
    await session.turn("under a name that somebody may have cancelled", turn_id="t1").run()
    assert probe.steps[6:8] == ["turn_cancel.start_gate", "effect_loop"] and probe.open == []
    await session.close()


@pytest.mark.parametrize("phase", [TurnPhase.PROMPT_BUILD, TurnPhase.FINAL_COMMIT])
async def test_a_fault_in_a_phase_leaves_no_phase_open_and_the_turn_is_finished_later(make_core, phase) -> None:
    session = await opened(make_core, text("x"))
    probe = Probe(fails_at=phase)
    await session.set_turn_phase_probe(probe)
    with pytest.raises(RuntimeError, match="the probe stops"):
        await session.turn("hi").run()
    assert probe.open == []
    await session.set_turn_phase_probe(None)
    output = await session.redrive().run()
    assert output.result is not None and output.result.assistant_message() == "x"
    await session.close()


async def test_a_stream_ends_with_what_is_wrong_with_the_database(make_core, watcher) -> None:
    session = await opened(make_core, text("x"))
    await session.turn("hi").run()
    await session.close()
    database = Path(session._core.store.db.path)
    stream = watcher.subscribe_and_recover((await watcher.current_observation()).cursor)
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    os.rename(database, database.with_name("elsewhere.db"))
    with pytest.raises(LiveReplayError) as caught:
        await asyncio.wait_for(waiting, PATIENCE_S)
    error = caught.value
    assert (error.details, error.exit_status, error.retryable) == ({"code": "store_replaced"}, 9, False)
    assert error.hint is not None and "lash db restore" in error.hint
    os.rename(database.with_name("elsewhere.db"), database)
