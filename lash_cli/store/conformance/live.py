"""What every store's live log promises (contract 04 §3, §4, §10): the laws of a log, and those of its transactions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import pytest

from lash_cli.core.activity import AssistantProseDelta, ModelAttemptReset, ReasoningShown, TurnActivity
from lash_cli.core.commit import ReplaceFull, Unchanged
from lash_cli.core.frames import initial_frame_id, open_frame
from lash_cli.core.lease import LeaseFence
from lash_cli.core.observation import (
    GENESIS,
    MAX_AGE_MS,
    LiveReplayGapReason,
    ResidentChanged,
    SessionCursor,
    SessionObservationEvent,
    StateCommitted,
)
from lash_cli.core.protocols import Clock
from lash_cli.errors import ConflictError, SessionDeleted
from lash_cli.store.base import ReadScope, RuntimePersistence
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.factory import StoreLaws
from lash_cli.store.conformance.live_log import (
    ANSWER,
    TURN,
    UNAVAILABLE,
    LogLaws,
    OpenLog,
    activities,
    events_after,
    prose,
    texts,
)
from lash_cli.store.live import LiveNews, LiveStore


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
    return await make.fence_of(store, session_id=session_id)


async def cursor_of(store: RuntimePersistence, session_id: str = make.SESSION) -> SessionCursor:
    """Where a session's log stands."""
    return (await store.live.cut(session_id, ReadScope.HEAD)).cursor


async def after(store: RuntimePersistence, cursor: SessionCursor) -> tuple[SessionObservationEvent, ...]:
    """Everything after a cursor that must be continuous."""
    return await events_after(store.live, cursor)


async def gap_of(store: RuntimePersistence, cursor: SessionCursor) -> LiveReplayGapReason | None:
    """The gap a cursor meets."""
    return (await store.live.replay(cursor)).gap


class StoredLog:
    """The log of a stored session; implements `LogUnderTest`."""

    def __init__(self, store: RuntimePersistence, clock: Clock, session_id: str) -> None:
        self.session_id = session_id
        self._store = store
        self._clock = clock
        self._fence: LeaseFence | None = None
        self._commits = 0
        self._leaf: str | None = None

    @property
    def live(self) -> LiveStore:
        """See `LogUnderTest.live`."""
        return self._store.live

    @property
    def _held(self) -> LeaseFence:
        assert self._fence is not None, "begin first"
        return self._fence

    async def begin(self) -> None:
        """See `LogUnderTest.begin`."""
        self._fence = await started(self._store, self._clock, self.session_id)

    async def show(self, activities: Sequence[TurnActivity]) -> None:
        """See `LogUnderTest.show`."""
        assert not await show(self._store, self._clock, self._held, activities)

    def lose(self) -> None:
        """See `LogUnderTest.lose`."""
        self._store.live.lose_previews(self.session_id)

    async def commit(self, turn_id: str | None = None, frame_id: str | None = None) -> None:
        """See `LogUnderTest.commit`."""
        ids = [f"{who}{self._commits + 1}" for who in "ua"]
        stamp = make.stamp(turn_id) if turn_id is not None else None
        if stamp is not None:
            summary = msgspec.structs.replace(stamp.summary, outcome=ANSWER, answer_node_id=ids[1])
            stamp = msgspec.structs.replace(stamp, summary=summary)
        expected = self._commits or None
        delta = make.append(ids, parent=self._leaf, frame_id=frame_id or initial_frame_id(self.session_id))
        commit = make.commit(self._held, delta, expected=expected, turn=stamp)
        if frame_id is not None:
            frames, _ = open_frame(make.frames(self.session_id), frame_id, "continue_as", 2)
            commit = msgspec.structs.replace(commit, frames=frames)
        await self._store.commit_runtime_state(commit)
        self._commits += 1
        self._leaf = ids[1]

    async def trim(self) -> int:
        """See `LogUnderTest.trim`."""
        return await self._store.live.trim_session(self.session_id)

    def on_ring(self, ring: Callable[[], None]) -> None:
        """See `LogUnderTest.on_ring`."""
        self._store.live.ring_with(lambda news: ring())

    async def end(self) -> None:
        """See `LogUnderTest.end`."""
        await self._store.release_lease(self._held)
        await self._store.delete_session(self.session_id, self._clock.now_ms())

    def gone(self) -> tuple[type[Exception], str]:
        """See `LogUnderTest.gone`."""
        return SessionDeleted, SessionDeleted.default_code


class LiveLaws(StoreLaws, LogLaws):
    """Laws of `store.live.LiveStore`."""

    @pytest.fixture
    def open_log(self) -> OpenLog:
        """Logs of one store."""
        store = self.open_store()
        return lambda session_id: StoredLog(store, self.clock, session_id)

    async def test_looking_for_a_session_creates_nothing(self) -> None:
        store = self.open_store()
        await store.live.replay(await cursor_of(store, "nobody"))
        assert await store.session_row("nobody") is None

    async def test_a_log_that_was_kept_goes_on_for_old_cursors(self) -> None:
        store, fence = await make.held(self.open_store, self.clock)
        await show(store, self.clock, fence, [prose("a"), prose("b")])
        start = (await after(store, SessionCursor(GENESIS, 0, 0, make.SESSION)))[0].cursor
        await store.aclose()
        again = self.open_store()
        await show(again, self.clock, fence, [prose("c")])
        assert texts(await after(again, start)) == ["b", "c"]

    async def test_a_commit_takes_along_what_its_turn_has_shown_in_front_of_what_it_announces(self) -> None:
        store, fence = await make.held(self.open_store, self.clock)
        await store.commit_runtime_state(make.commit(fence, make.append(["u1"])))
        start = await cursor_of(store)
        rings: list[int] = []
        store.live.ring_with(lambda news: rings.append(news[make.SESSION].tail))
        shown = [prose("a"), prose("b")]
        commit = make.commit(fence, make.append(["u2"], parent="u1"), expected=1, turn=make.stamp())
        await store.commit_runtime_state(commit, shown=shown)
        told = await after(store, start)
        assert texts(told) == ["a", "b"]
        assert [event.revision for event in told] == [1, 1, 2, 2]
        assert [event.cursor.position for event in told] == [start.position + place for place in range(1, 5)]
        assert [await after(store, event.cursor) for event in told] == [told[place:] for place in range(1, 5)]
        assert rings == [start.position + 4]
        again = await store.commit_runtime_state(commit, shown=shown)
        assert again.replayed and len(await after(store, start)) == 4

    async def test_a_commit_of_no_turn_names_the_head_it_leaves(self) -> None:
        store, fence = await make.held(self.open_store, self.clock)
        await store.commit_runtime_state(make.commit(fence, make.append(["u1", "u2"])))
        start = await cursor_of(store)
        for revision, leaf in enumerate(("u1", None), start=1):
            await store.commit_runtime_state(make.commit(fence, Unchanged(leaf), expected=revision))
        told = [event.payload for event in await after(store, start)]
        assert told == [StateCommitted("u1"), StateCommitted()]

    async def test_what_follows_the_last_commit_is_what_is_not_committed_or_a_gap(self) -> None:
        store = self.open_store()
        assert await store.live.after_last_commit("nobody") == await cursor_of(store, "nobody")
        fence = await started(store, self.clock)
        await show(store, self.clock, fence, [prose("a")])
        assert texts(await after(store, await store.live.after_last_commit(make.SESSION))) == ["a"]
        commit = make.commit(fence, make.append(["u1"]), turn=make.stamp())
        await store.commit_runtime_state(commit, shown=[prose("b")])
        behind = await store.live.after_last_commit(make.SESSION)
        assert behind == await cursor_of(store)
        self.clock.tick(MAX_AGE_MS / 1000 + 1)
        assert await after(store, behind) == ()
        fence = await make.fence_of(store)
        await show(store, self.clock, fence, [prose("c"), prose("d")])
        assert await store.live.after_last_commit(make.SESSION) == behind
        assert texts(await after(store, behind)) == ["c", "d"]
        await store.live.trim_session(make.SESSION)
        assert await gap_of(store, await store.live.after_last_commit(make.SESSION)) is LiveReplayGapReason.TRIMMED

    async def test_a_commit_that_is_refused_shows_nothing_of_what_it_would_have_taken_along(self) -> None:
        store, fence = await make.held(self.open_store, self.clock)
        start = await cursor_of(store)
        with pytest.raises(ConflictError):
            await store.commit_runtime_state(
                make.commit(fence, make.append(["u1"], parent="nobody")), shown=[prose("a")]
            )
        assert await after(store, start) == ()
        await show(store, self.clock, fence, [prose("b")])
        assert texts(await after(store, start)) == ["b"]

    async def test_a_commit_answered_from_its_stamp_announces_nothing(self) -> None:
        store, fence = await make.held(self.open_store, self.clock)
        await store.commit_runtime_state(make.commit(fence, make.append(["u1"]), turn=make.stamp()))
        tail = await cursor_of(store)
        again = await store.commit_runtime_state(make.commit(fence, make.append(["u1"]), turn=make.stamp()))
        assert again.replayed and await after(store, tail) == ()

    async def test_a_commit_that_fails_announces_nothing(self) -> None:
        store, fence = await make.held(self.open_store, self.clock)
        start = await cursor_of(store)
        with pytest.raises(ConflictError):
            await store.commit_runtime_state(make.commit(fence, make.append(["u1"], parent="nobody")))
        assert await cursor_of(store) == start and await after(store, start) == ()

    async def test_what_a_session_stands_as_is_told_when_it_changes_and_moves_no_revision(self) -> None:
        store, fence = await make.held(self.open_store, self.clock)
        await store.commit_runtime_state(make.commit(fence, make.append(["u1"])))
        start = await cursor_of(store)
        for closed_at_ms, parked_at_ms in ((None, 1), (None, 2), (3, None), (None, None), (None, None)):
            await store.set_session_flags(make.SESSION, closed_at_ms=closed_at_ms, parked_at_ms=parked_at_ms)
        for held_at_ms in (4, 5, None, None):
            await store.set_queue_hold(make.SESSION, held_at_ms=held_at_ms)
        told = await after(store, start)
        assert [(event.payload, event.revision, event.turn_id) for event in told] == [(ResidentChanged(), 1, None)] * 5

    async def test_a_commit_beyond_what_one_look_brings_is_not_missed(self) -> None:
        store, fence = await make.held(self.open_store, self.clock)
        await show(store, self.clock, fence, [prose("first")])
        start = await cursor_of(store)
        # Two turns by turns have a row for each of theirs.
        shown = [msgspec.structs.replace(prose(str(index)), turn_id=f"t{index % 2}") for index in range(257)]
        await show(store, self.clock, fence, shown)
        await store.commit_runtime_state(make.commit(fence, make.append(["u1"])))
        looked = await store.live.replay(start)
        assert (looked.gap, texts(looked.events)) == (None, [str(index) for index in range(256)])
        assert [event.revision for event in await after(store, looked.events[-1].cursor)] == [0, 1]

    async def test_a_first_history_replaces_none(self) -> None:
        store, fence = await make.held(self.open_store, self.clock)
        await show(store, self.clock, fence, [prose("before")])
        start = await cursor_of(store)
        commit = make.commit(fence, ReplaceFull(make.nodes(["n1"]), "n1"), turn=make.stamp(), outbox=[make.wake()])
        await store.commit_runtime_state(commit, shown=[prose("with it")])
        told = await after(store, start)
        assert texts(told) == ["with it"]
        # What was shown stands before what is enqueued with it, the commit and the end of its turn.
        assert [event.revision for event in told] == [0, 1, 1, 1]

    async def test_a_replaced_history_continues_nothing(self) -> None:
        store, fence = await make.held(self.open_store, self.clock)
        start = await cursor_of(store)
        await store.commit_runtime_state(make.commit(fence, make.append(["u1"])))
        tail = await cursor_of(store)
        fresh = ReplaceFull(make.nodes(["n1"]), "n1")
        await store.commit_runtime_state(make.commit(fence, fresh, expected=1, with_frames=make.frames()))
        assert await gap_of(store, tail) is UNAVAILABLE
        assert await gap_of(store, start) is UNAVAILABLE
        assert await after(store, await cursor_of(store)) == ()

    async def test_what_a_holder_shows_that_lost_its_lane_is_dropped(self) -> None:
        store = self.open_store()
        old = await started(store, self.clock)
        self.clock.tick(make.TTL_MS / 1000 + 1)
        new = await make.fence_of(store, "b")
        start = await cursor_of(store)
        assert not await show(store, self.clock, old, [prose("stale")])
        await show(store, self.clock, new, [prose("fresh")])
        assert texts(await after(store, start)) == ["fresh"]

    async def test_a_take_over_retracts_exactly_what_stands_of_the_turn(self) -> None:
        store, fence = await make.held(self.open_store, self.clock)
        other = TurnActivity(make.SESSION, "t0", "other", AssistantProseDelta("earlier turn"), 1, "a0")
        thought = TurnActivity(make.SESSION, TURN, "thought", ReasoningShown("hm"), 1, "a1")
        reset = TurnActivity(make.SESSION, TURN, "reset", ModelAttemptReset(("gone",)), 1, "a2")
        shown = [other, prose("x", "gone"), reset, prose("y", "kept"), prose("z", "kept"), thought]
        await show(store, self.clock, fence, shown)
        tail = await cursor_of(store)
        stale = fence.fencing_token - 1
        assert not await store.live.retract_attempt(make.SESSION, TURN, generation=stale, activity_id="a3")
        assert await store.live.retract_attempt(make.SESSION, TURN, generation=fence.fencing_token, activity_id="a3")
        assert activities(await after(store, tail)) == [ModelAttemptReset(("kept",), ("thought",))]
        assert not await store.live.retract_attempt(
            make.SESSION, TURN, generation=fence.fencing_token, activity_id="a4"
        )

    async def test_whoever_commits_rings_once_per_commit_and_only_then(self) -> None:
        store, reader = self.open_store(), self.open_store()
        rung: list[dict[str, LiveNews]] = []
        store.live.ring_with(lambda news: rung.append(dict(news)))
        fence = await started(store, self.clock)
        assert rung == []
        await show(store, self.clock, fence, [prose("a"), prose("b")])
        with pytest.raises(ConflictError):
            await store.commit_runtime_state(make.commit(fence, make.append(["u1"], parent="nobody")))
        await store.commit_runtime_state(make.commit(fence, make.append(["u1"])))
        assert [sorted(news) for news in rung] == [[make.SESSION]] * len(rung)
        assert rung[-1][make.SESSION].tail == (await cursor_of(reader)).position == 3
