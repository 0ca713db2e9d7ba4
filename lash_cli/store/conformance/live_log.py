"""What every live log promises, of a stored session and of one in memory alike (contract 04 §3, §4).

A backend provides a fixture `open_log`: called with a session id it gives a
`LogUnderTest` of a session that does not exist yet. The `clock` is the log's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from lash_cli.core.activity import AssistantProseDelta, TurnActivity, TurnEvent, TurnFinished
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
from lash_cli.store.base import ReadScope
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.factory import MovableClock
from lash_cli.store.live import LiveCut, LiveReading

TRIMMED, UNAVAILABLE = LiveReplayGapReason.TRIMMED, LiveReplayGapReason.UNAVAILABLE
TURN = "t1"
ANSWER = Finished(AssistantMessage("text of a1"))


class LogUnderTest(Protocol):
    """One session, what is done to it, and its log."""

    session_id: str

    @property
    def live(self) -> LiveReading:
        """The log as its watchers read it."""
        ...

    async def begin(self) -> None:
        """The session comes to be, with nothing in it."""
        ...

    async def show(self, activities: Sequence[TurnActivity]) -> None:
        """A turn shows something."""
        ...

    def lose(self) -> None:
        """Something that was shown does not reach the log."""
        ...

    async def commit(self, turn_id: str | None = None, frame_id: str | None = None) -> None:
        """The head moves by one revision: by a turn that answered with `ANSWER`, into another frame, or neither."""
        ...

    async def trim(self) -> int:
        """Apply the bounds; the number of events dropped."""
        ...

    def on_ring(self, ring: Callable[[], None]) -> None:
        """Call `ring` whenever watchers are woken."""
        ...

    async def end(self) -> None:
        """The session is gone."""
        ...

    def gone(self) -> tuple[type[Exception], str]:
        """The error, and its code, of reading a session that is gone."""
        ...


OpenLog = Callable[[str], LogUnderTest]


def prose(text: str, row: str = "row", session_id: str = make.SESSION) -> TurnActivity:
    """A piece of visible text."""
    return TurnActivity(session_id, TURN, row, AssistantProseDelta(text), 1, f"a-{text}")


def texts(events: Sequence[SessionObservationEvent]) -> list[str]:
    """The visible text of events."""
    return [event.text for event in activities(events) if isinstance(event, AssistantProseDelta)]


def activities(events: Sequence[SessionObservationEvent]) -> list[TurnEvent]:
    """The turn events among events."""
    return [event.payload.activity.event for event in events if isinstance(event.payload, ActivityObserved)]


async def events_after(live: LiveReading, cursor: SessionCursor) -> tuple[SessionObservationEvent, ...]:
    """Everything after a cursor that must be continuous."""
    events: list[SessionObservationEvent] = []
    while True:
        found = await live.replay(events[-1].cursor if events else cursor)
        assert found.gap is None, found.gap
        events.extend(found.events)
        if len(found.events) < REPLAY_BATCH:
            return tuple(events)


async def _cut(log: LogUnderTest, scope: ReadScope = ReadScope.HEAD) -> LiveCut:
    return await log.live.cut(log.session_id, scope)


async def _cursor(log: LogUnderTest) -> SessionCursor:
    return (await _cut(log)).cursor


async def _gap(log: LogUnderTest, cursor: SessionCursor) -> LiveReplayGapReason | None:
    return (await log.live.replay(cursor)).gap


async def _begun(open_log: OpenLog, session_id: str = make.SESSION) -> LogUnderTest:
    log = open_log(session_id)
    await log.begin()
    return log


class LogLaws:
    """Laws of a live log."""

    async def test_a_cursor_is_exclusive_and_events_come_in_order_each_once(self, open_log: OpenLog) -> None:
        log = await _begun(open_log)
        start = await _cursor(log)
        assert await events_after(log.live, start) == ()
        await log.show([prose("a"), prose("b"), prose("c")])
        events = await events_after(log.live, start)
        assert texts(events) == ["a", "b", "c"]
        assert len({event.cursor for event in events}) == 3
        assert {event.turn_id for event in events} == {TURN}
        assert texts(await events_after(log.live, events[0].cursor)) == ["b", "c"]
        assert await events_after(log.live, events[-1].cursor) == ()
        assert await _cursor(log) == events[-1].cursor

    async def test_sessions_do_not_see_each_other(self, open_log: OpenLog) -> None:
        ours, theirs = await _begun(open_log), await _begun(open_log, "s2")
        start = await _cursor(ours)
        await theirs.show([prose("theirs", session_id="s2")])
        assert await events_after(ours.live, start) == ()
        await ours.show([prose("ours")])
        assert texts(await events_after(ours.live, start)) == ["ours"]

    async def test_an_unknown_session_is_quiet_at_its_beginning_and_unavailable_anywhere_else(
        self, open_log: OpenLog
    ) -> None:
        log = open_log("nobody")
        start = await _cursor(log)
        assert await events_after(log.live, start) == ()
        assert await _gap(log, SessionCursor(GENESIS, 0, 1, "nobody")) is UNAVAILABLE
        assert await _gap(log, SessionCursor("e", 0, 0, "nobody")) is UNAVAILABLE
        cut = await _cut(log)
        assert cut.read is None and cut.config is None

    async def test_a_watch_that_began_before_the_session_sees_it_whole(self, open_log: OpenLog) -> None:
        log = open_log(make.SESSION)
        start = await _cursor(log)
        await log.begin()
        await log.show([prose("first")])
        assert texts(await events_after(log.live, start)) == ["first"]

    async def test_a_cursor_ahead_of_the_log_or_of_another_epoch_is_unavailable(self, open_log: OpenLog) -> None:
        log = await _begun(open_log)
        await log.show([prose("a"), prose("b")])
        tail = await _cursor(log)
        ahead = SessionCursor(tail.epoch, tail.revision, tail.position + 1, tail.session_id)
        assert await _gap(log, ahead) is UNAVAILABLE
        colliding = SessionCursor("0123", tail.revision, 1, tail.session_id)
        assert await _gap(log, colliding) is UNAVAILABLE

    async def test_one_event_too_many_drops_the_oldest_and_only_that(self, open_log: OpenLog) -> None:
        log = await _begun(open_log)
        start = await _cursor(log)
        await log.show([prose(str(number)) for number in range(MAX_EVENTS)])
        first = (await log.live.replay(start)).events[0].cursor
        assert len(await events_after(log.live, start)) == MAX_EVENTS
        await log.show([prose("one more")])
        assert await _gap(log, start) is TRIMMED
        events = await events_after(log.live, first)
        assert len(events) == MAX_EVENTS and texts(events)[-1] == "one more"

    async def test_one_read_is_a_bounded_batch(self, open_log: OpenLog) -> None:
        log = await _begun(open_log)
        start = await _cursor(log)
        await log.show([prose(str(number)) for number in range(REPLAY_BATCH + 1)])
        found = await log.live.replay(start)
        assert len(found.events) == REPLAY_BATCH
        assert len((await log.live.replay(found.events[-1].cursor)).events) == 1

    async def test_events_expire_when_strictly_older_than_the_age_and_the_tail_stays_clean(
        self, open_log: OpenLog, clock: MovableClock
    ) -> None:
        log = await _begun(open_log)
        start = await _cursor(log)
        await log.show([prose("a")])
        await log.show([prose("b")])
        tail = await _cursor(log)
        clock.tick(MAX_AGE_MS / 1000)
        assert texts(await events_after(log.live, start)) == ["a", "b"]
        clock.tick(0.001)
        assert await _gap(log, start) is TRIMMED
        assert await events_after(log.live, tail) == ()
        assert await log.trim() >= 1
        assert await _gap(log, start) is TRIMMED
        assert await _cursor(log) == tail and await events_after(log.live, tail) == ()

    async def test_a_commit_announces_itself_with_its_state_and_how_the_turn_ended(self, open_log: OpenLog) -> None:
        log = await _begun(open_log)
        start = await _cursor(log)
        await log.commit(TURN)
        committed, finished = await events_after(log.live, start)
        assert (committed.payload, committed.revision, committed.turn_id) == (StateCommitted(), 1, TURN)
        assert activities([finished]) == [TurnFinished(ANSWER)] and finished.turn_id == TURN
        cut = await _cut(log, ReadScope.ACTIVE_PATH)
        assert cut.read is not None and cut.read.head_revision == cut.cursor.revision == 1
        assert [node.node_id for node in cut.read.nodes] == ["u1", "a1"] and cut.read.leaf_node_id == "a1"
        assert cut.cursor == finished.cursor

    async def test_a_frame_switch_stands_right_before_its_commit(self, open_log: OpenLog) -> None:
        log = await _begun(open_log)
        await log.commit()
        tail = await _cursor(log)
        await log.commit(frame_id="f2")
        switched, committed = await events_after(log.live, tail)
        assert switched.payload == AgentFrameSwitched("f2")
        assert isinstance(committed.payload, StateCommitted)
        assert committed.cursor.position == switched.cursor.position + 1

    async def test_a_cursor_whose_revision_is_not_proven_gaps(self, open_log: OpenLog) -> None:
        log = await _begun(open_log)
        await log.commit()
        await log.show([prose("later")])
        tail = await _cursor(log)
        for revision in (0, 2):
            claimed = SessionCursor(tail.epoch, revision, tail.position - 1, tail.session_id)
            assert await _gap(log, claimed) is UNAVAILABLE
        proven = SessionCursor(tail.epoch, 0, 0, tail.session_id)
        assert len(await events_after(log.live, proven)) == 2

    async def test_previews_carry_the_revision_from_before_the_turn(self, open_log: OpenLog) -> None:
        log = await _begun(open_log)
        start = await _cursor(log)
        await log.show([prose("a")])
        await log.commit()
        await log.show([prose("b")])
        assert [event.revision for event in await events_after(log.live, start)] == [0, 1, 1]

    async def test_a_lost_preview_is_a_hole_that_no_cursor_crosses(self, open_log: OpenLog) -> None:
        log = await _begun(open_log)
        start = await _cursor(log)
        await log.show([prose("a")])
        before = await _cursor(log)
        log.lose()
        await log.commit()
        assert await _gap(log, before) is UNAVAILABLE
        assert await _gap(log, start) is UNAVAILABLE
        tail = await _cursor(log)
        await log.show([prose("b")])
        assert texts(await events_after(log.live, tail)) == ["b"]

    async def test_a_loss_before_the_first_event_is_a_hole_too(self, open_log: OpenLog) -> None:
        log = await _begun(open_log)
        start = await _cursor(log)
        log.lose()
        await log.show([prose("a")])
        assert await _gap(log, start) is UNAVAILABLE

    async def test_a_session_that_is_gone_has_nothing_left_to_watch(self, open_log: OpenLog) -> None:
        log = await _begun(open_log)
        await log.show([prose("a")])
        tail = await _cursor(log)
        await log.end()
        error, code = log.gone()
        for read in (log.live.replay(tail), log.live.cut(log.session_id, ReadScope.HEAD)):
            try:
                await read
            except error as caught:
                assert getattr(caught, "code", None) == code
            else:
                raise AssertionError("a session that is gone was read")

    async def test_whoever_changes_something_rings_behind_it(self, open_log: OpenLog) -> None:
        log = await _begun(open_log)
        rung: list[str] = []
        log.on_ring(lambda: rung.append("ring"))
        await log.show([prose("a"), prose("b")])
        assert rung == ["ring"] * len(rung) != []
        rung.clear()
        await log.commit()
        assert rung == ["ring"]
