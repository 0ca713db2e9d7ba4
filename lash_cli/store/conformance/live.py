"""What every store's live log promises (contract 04 §3, §4, §10)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from lash_cli.core.activity import (
    AssistantProseDelta,
    ModelAttemptReset,
    ReasoningShown,
    TurnActivity,
    TurnEvent,
    TurnFinished,
)
from lash_cli.core.commit import ReplaceFull
from lash_cli.core.frames import open_frame
from lash_cli.core.lease import LeaseFence
from lash_cli.core.observation import (
    GENESIS,
    MAX_AGE_MS,
    MAX_EVENTS,
    REPLAY_BATCH,
    ActivityObserved,
    AgentFrameSwitched,
    LiveReplayGapReason,
    SessionCursor,
    SessionObservationEvent,
    StateCommitted,
)
from lash_cli.core.outcome import AssistantMessage, Finished
from lash_cli.core.protocols import Clock
from lash_cli.errors import ConflictError, SessionDeleted
from lash_cli.store.base import ReadScope, RuntimePersistence
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.factory import MovableClock, OpenStore

TRIMMED, UNAVAILABLE = LiveReplayGapReason.TRIMMED, LiveReplayGapReason.UNAVAILABLE
TURN = "t1"


def prose(text: str, row: str = "row", session_id: str = make.SESSION) -> TurnActivity:
    """A piece of visible text."""
    return TurnActivity(session_id, TURN, row, AssistantProseDelta(text), 1, f"a-{text}")


async def show(
    store: RuntimePersistence, clock: Clock, fence: LeaseFence, activities: Sequence[TurnActivity]
) -> list[BaseException]:
    """Append previews and wait for them; the failures that were reported."""
    failures: list[BaseException] = []
    store.live.append_previews(
        fence.session_id, lambda: activities, generation=fence.fencing_token, on_failed=failures.append
    )
    # Writes keep their order: after any later one, even one that changes nothing, the previews are settled.
    await store.release_lease(msgspec.structs.replace(fence, lease_token="of nobody"))
    return failures


async def started(store: RuntimePersistence, clock: Clock, session_id: str = make.SESSION) -> LeaseFence:
    """A session whose lane is held."""
    await make.create(store, clock, session_id)
    return await make.fence_of(store, clock, session_id=session_id)


async def cursor_of(store: RuntimePersistence, session_id: str = make.SESSION) -> SessionCursor:
    """Where a session's log stands."""
    return (await store.live.cut(session_id, ReadScope.HEAD)).cursor


async def after(store: RuntimePersistence, cursor: SessionCursor) -> tuple[SessionObservationEvent, ...]:
    """Everything after a cursor that must be continuous."""
    events: list[SessionObservationEvent] = []
    while True:
        found = await store.live.replay(events[-1].cursor if events else cursor)
        assert found.gap is None, found.gap
        events.extend(found.events)
        if len(found.events) < REPLAY_BATCH:
            return tuple(events)


async def gap_of(store: RuntimePersistence, cursor: SessionCursor) -> LiveReplayGapReason | None:
    """The gap a cursor meets."""
    return (await store.live.replay(cursor)).gap


def texts(events: Sequence[SessionObservationEvent]) -> list[str]:
    """The visible text of events."""
    return [event.text for event in activities(events) if isinstance(event, AssistantProseDelta)]


def activities(events: Sequence[SessionObservationEvent]) -> list[TurnEvent]:
    """The turn events among events."""
    return [event.payload.activity.event for event in events if isinstance(event.payload, ActivityObserved)]


class LiveLaws:
    """Laws of `store.live.LiveStore`."""

    async def test_a_cursor_is_exclusive_and_events_come_in_order_each_once(
        self, open_store: OpenStore, clock: MovableClock
    ) -> None:
        store = open_store()
        fence = await started(store, clock)
        start = await cursor_of(store)
        assert await after(store, start) == ()
        assert not await show(store, clock, fence, [prose("a"), prose("b"), prose("c")])
        events = await after(store, start)
        assert texts(events) == ["a", "b", "c"]
        assert len({event.cursor for event in events}) == 3
        assert {event.turn_id for event in events} == {TURN}
        assert texts(await after(store, events[0].cursor)) == ["b", "c"]
        assert await after(store, events[-1].cursor) == ()
        assert await cursor_of(store) == events[-1].cursor

    async def test_sessions_do_not_see_each_other(self, open_store: OpenStore, clock: MovableClock) -> None:
        store = open_store()
        ours, theirs = await started(store, clock), await started(store, clock, "s2")
        start = await cursor_of(store)
        await show(store, clock, theirs, [prose("theirs", session_id="s2")])
        assert await after(store, start) == ()
        await show(store, clock, ours, [prose("ours")])
        assert texts(await after(store, start)) == ["ours"]

    async def test_an_unknown_session_is_quiet_at_its_beginning_and_unavailable_anywhere_else(
        self, open_store: OpenStore, clock: MovableClock
    ) -> None:
        store = open_store()
        start = await cursor_of(store, "nobody")
        assert await after(store, start) == ()
        assert await gap_of(store, SessionCursor(GENESIS, 0, 1, "nobody")) is UNAVAILABLE
        assert await gap_of(store, SessionCursor("e", 0, 0, "nobody")) is UNAVAILABLE
        assert await store.session_row("nobody") is None

    async def test_a_watch_that_began_before_the_session_sees_it_whole(
        self, open_store: OpenStore, clock: MovableClock
    ) -> None:
        store = open_store()
        start = await cursor_of(store)
        fence = await started(store, clock)
        await show(store, clock, fence, [prose("first")])
        assert texts(await after(store, start)) == ["first"]

    async def test_a_cursor_ahead_of_the_log_or_of_another_epoch_is_unavailable(
        self, open_store: OpenStore, clock: MovableClock
    ) -> None:
        store = open_store()
        fence = await started(store, clock)
        await show(store, clock, fence, [prose("a"), prose("b")])
        tail = await cursor_of(store)
        ahead = SessionCursor(tail.epoch, tail.revision, tail.position + 1, tail.session_id)
        assert await gap_of(store, ahead) is UNAVAILABLE
        colliding = SessionCursor("0123", tail.revision, 1, tail.session_id)
        assert await gap_of(store, colliding) is UNAVAILABLE

    async def test_a_log_that_was_kept_goes_on_for_old_cursors(
        self, open_store: OpenStore, clock: MovableClock
    ) -> None:
        store = open_store()
        fence = await started(store, clock)
        await show(store, clock, fence, [prose("a"), prose("b")])
        start = (await after(store, SessionCursor(GENESIS, 0, 0, make.SESSION)))[0].cursor
        await store.aclose()
        again = open_store()
        await show(again, clock, fence, [prose("c")])
        assert texts(await after(again, start)) == ["b", "c"]

    async def test_one_event_too_many_drops_the_oldest_and_only_that(
        self, open_store: OpenStore, clock: MovableClock
    ) -> None:
        store = open_store()
        fence = await started(store, clock)
        start = await cursor_of(store)
        await show(store, clock, fence, [prose(str(number)) for number in range(MAX_EVENTS)])
        first = (await store.live.replay(start)).events[0].cursor
        assert len(await after(store, start)) == MAX_EVENTS
        await show(store, clock, fence, [prose("one more")])
        assert await gap_of(store, start) is TRIMMED
        events = await after(store, first)
        assert len(events) == MAX_EVENTS and texts(events)[-1] == "one more"

    async def test_one_read_is_a_bounded_batch(self, open_store: OpenStore, clock: MovableClock) -> None:
        store = open_store()
        fence = await started(store, clock)
        start = await cursor_of(store)
        await show(store, clock, fence, [prose(str(number)) for number in range(REPLAY_BATCH + 1)])
        found = await store.live.replay(start)
        assert len(found.events) == REPLAY_BATCH
        assert len((await store.live.replay(found.events[-1].cursor)).events) == 1

    async def test_events_expire_when_strictly_older_than_the_age_and_the_tail_stays_clean(
        self, open_store: OpenStore, clock: MovableClock
    ) -> None:
        store = open_store()
        fence = await started(store, clock)
        start = await cursor_of(store)
        await show(store, clock, fence, [prose("a")])
        tail = await cursor_of(store)
        clock.tick(MAX_AGE_MS / 1000)
        assert texts(await after(store, start)) == ["a"]
        clock.tick(0.001)
        assert await gap_of(store, start) is TRIMMED
        assert await after(store, tail) == ()
        assert await store.live.trim_session(make.SESSION) == 1
        assert await gap_of(store, start) is TRIMMED
        assert await cursor_of(store) == tail and await after(store, tail) == ()

    async def test_a_commit_announces_itself_with_its_state_and_how_the_turn_ended(
        self, open_store: OpenStore, clock: MovableClock
    ) -> None:
        store = open_store()
        fence = await started(store, clock)
        start = await cursor_of(store)
        delta = make.append(["u1", "a1"])
        summary = msgspec.structs.replace(make.stamp().summary, answer_node_id="a1")
        stamp = msgspec.structs.replace(make.stamp(), summary=summary)
        await store.commit_runtime_state(make.commit(fence, delta, turn=stamp))
        committed, finished = await after(store, start)
        assert (committed.payload, committed.revision, committed.turn_id) == (StateCommitted(), 1, TURN)
        assert activities([finished]) == [TurnFinished(Finished(AssistantMessage("text of a1")))]
        cut = await store.live.cut(make.SESSION, ReadScope.ACTIVE_PATH)
        assert cut.read is not None and cut.read.head_revision == cut.cursor.revision == 1
        assert cut.cursor == finished.cursor

    async def test_a_commit_answered_from_its_stamp_announces_nothing(
        self, open_store: OpenStore, clock: MovableClock
    ) -> None:
        store = open_store()
        fence = await started(store, clock)
        await store.commit_runtime_state(make.commit(fence, make.append(["u1"]), turn=make.stamp()))
        tail = await cursor_of(store)
        again = await store.commit_runtime_state(make.commit(fence, make.append(["u1"]), turn=make.stamp()))
        assert again.replayed and await after(store, tail) == ()

    async def test_a_commit_that_fails_announces_nothing(self, open_store: OpenStore, clock: MovableClock) -> None:
        store = open_store()
        fence = await started(store, clock)
        start = await cursor_of(store)
        with pytest.raises(ConflictError):
            await store.commit_runtime_state(make.commit(fence, make.append(["u1"], parent="nobody")))
        assert await cursor_of(store) == start and await after(store, start) == ()

    async def test_a_frame_switch_stands_right_before_its_commit(
        self, open_store: OpenStore, clock: MovableClock
    ) -> None:
        store = open_store()
        fence = await started(store, clock)
        await store.commit_runtime_state(make.commit(fence, make.append(["u1"])))
        tail = await cursor_of(store)
        frames, _ = open_frame(make.frames(), "f2", "continue_as", 2)
        await store.commit_runtime_state(
            make.commit(fence, make.append(["u2"], parent="u1", frame_id="f2"), expected=1, with_frames=frames)
        )
        switched, committed = await after(store, tail)
        assert switched.payload == AgentFrameSwitched("f2")
        assert committed.payload == StateCommitted()
        assert committed.cursor.position == switched.cursor.position + 1

    async def test_a_replaced_history_continues_nothing(self, open_store: OpenStore, clock: MovableClock) -> None:
        store = open_store()
        fence = await started(store, clock)
        start = await cursor_of(store)
        await store.commit_runtime_state(make.commit(fence, make.append(["u1"])))
        tail = await cursor_of(store)
        fresh = ReplaceFull(make.nodes(["n1"]), "n1")
        await store.commit_runtime_state(make.commit(fence, fresh, expected=1, with_frames=make.frames()))
        assert await gap_of(store, tail) is UNAVAILABLE
        assert await gap_of(store, start) is UNAVAILABLE
        assert await after(store, await cursor_of(store)) == ()

    async def test_a_cursor_whose_revision_is_not_proven_gaps(self, open_store: OpenStore, clock: MovableClock) -> None:
        store = open_store()
        fence = await started(store, clock)
        await store.commit_runtime_state(make.commit(fence, make.append(["u1"])))
        await show(store, clock, fence, [prose("later")])
        tail = await cursor_of(store)
        for revision in (0, 2):
            claimed = SessionCursor(tail.epoch, revision, tail.position - 1, tail.session_id)
            assert await gap_of(store, claimed) is UNAVAILABLE
        proven = SessionCursor(tail.epoch, 0, 0, tail.session_id)
        assert len(await after(store, proven)) == 2

    async def test_previews_carry_the_revision_from_before_the_turn(
        self, open_store: OpenStore, clock: MovableClock
    ) -> None:
        store = open_store()
        fence = await started(store, clock)
        start = await cursor_of(store)
        await show(store, clock, fence, [prose("a")])
        await store.commit_runtime_state(make.commit(fence, make.append(["u1"])))
        await show(store, clock, fence, [prose("b")])
        assert [event.revision for event in await after(store, start)] == [0, 1, 1]

    async def test_what_a_holder_shows_that_lost_its_lane_is_dropped(
        self, open_store: OpenStore, clock: MovableClock
    ) -> None:
        store = open_store()
        old = await started(store, clock)
        clock.tick(make.TTL_MS / 1000 + 1)
        new = await make.fence_of(store, clock, "b")
        start = await cursor_of(store)
        assert not await show(store, clock, old, [prose("stale")])
        await show(store, clock, new, [prose("fresh")])
        assert texts(await after(store, start)) == ["fresh"]

    async def test_a_lost_preview_is_a_hole_that_no_cursor_crosses(
        self, open_store: OpenStore, clock: MovableClock
    ) -> None:
        store = open_store()
        fence = await started(store, clock)
        start = await cursor_of(store)
        await show(store, clock, fence, [prose("a")])
        before = await cursor_of(store)
        store.live.lose_previews(make.SESSION)
        await store.commit_runtime_state(make.commit(fence, make.append(["u1"])))
        assert await gap_of(store, before) is UNAVAILABLE
        assert await gap_of(store, start) is UNAVAILABLE
        tail = await cursor_of(store)
        await show(store, clock, fence, [prose("b")])
        assert texts(await after(store, tail)) == ["b"]

    async def test_a_loss_before_the_first_event_is_a_hole_too(
        self, open_store: OpenStore, clock: MovableClock
    ) -> None:
        store = open_store()
        fence = await started(store, clock)
        start = await cursor_of(store)
        store.live.lose_previews(make.SESSION)
        await show(store, clock, fence, [prose("a")])
        assert await gap_of(store, start) is UNAVAILABLE

    async def test_a_take_over_retracts_exactly_what_stands_of_the_turn(
        self, open_store: OpenStore, clock: MovableClock
    ) -> None:
        store = open_store()
        fence = await started(store, clock)
        other = TurnActivity(make.SESSION, "t0", "other", AssistantProseDelta("earlier turn"), 1, "a0")
        thought = TurnActivity(make.SESSION, TURN, "thought", ReasoningShown("hm"), 1, "a1")
        reset = TurnActivity(make.SESSION, TURN, "reset", ModelAttemptReset(("gone",)), 1, "a2")
        shown = [other, prose("x", "gone"), reset, prose("y", "kept"), prose("z", "kept"), thought]
        await show(store, clock, fence, shown)
        tail = await cursor_of(store)
        assert await store.live.retract_attempt(make.SESSION, TURN, generation=fence.fencing_token, activity_id="a3")
        assert activities(await after(store, tail)) == [ModelAttemptReset(("kept",), ("thought",))]
        assert not await store.live.retract_attempt(
            make.SESSION, TURN, generation=fence.fencing_token, activity_id="a4"
        )

    async def test_a_deleted_session_has_nothing_left_to_watch(
        self, open_store: OpenStore, clock: MovableClock
    ) -> None:
        store = open_store()
        fence = await started(store, clock)
        await show(store, clock, fence, [prose("a")])
        tail = await cursor_of(store)
        await store.release_lease(fence)
        await store.delete_session(make.SESSION, clock.now_ms())
        with pytest.raises(SessionDeleted):
            await store.live.replay(tail)
        with pytest.raises(SessionDeleted):
            await store.live.cut(make.SESSION, ReadScope.HEAD)

    async def test_whoever_commits_rings_once_per_commit_and_only_then(
        self, open_store: OpenStore, clock: MovableClock
    ) -> None:
        store, reader = open_store(), open_store()
        rung: list[dict[str, int]] = []
        store.live.ring_with(lambda tails: rung.append(dict(tails)))
        fence = await started(store, clock)
        assert rung == []
        await show(store, clock, fence, [prose("a"), prose("b")])
        with pytest.raises(ConflictError):
            await store.commit_runtime_state(make.commit(fence, make.append(["u1"], parent="nobody")))
        await store.commit_runtime_state(make.commit(fence, make.append(["u1"])))
        assert [sorted(tails) for tails in rung] == [[make.SESSION]] * len(rung)
        assert rung[-1][make.SESSION] == (await cursor_of(reader)).position == 3
