"""The laws of a live log, over one that only memory holds, and what is special about it (contract 04 §3)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

import msgspec
import pytest

from lash_cli.core.activity import TurnActivity, TurnFinished
from lash_cli.core.frames import open_frame
from lash_cli.core.head_state import TurnState
from lash_cli.core.observation import (
    GENESIS,
    MAX_EVENTS,
    ActivityObserved,
    AgentFrameSwitched,
    ObservationPayload,
    ResidentChanged,
    SessionCursor,
    StateCommitted,
)
from lash_cli.core.tools import ToolState
from lash_cli.errors import StoreError
from lash_cli.runtime.resident_bell import ResidentBell
from lash_cli.store.base import PersistedSessionRead, ReadScope
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.clock import ManualClock
from lash_cli.store.conformance.live_log import ANSWER, LogLaws, OpenLog, events_after, prose, texts
from lash_cli.store.resident_log import ResidentLog, ResidentState


class ResidentLogUnderTest:
    """A session in memory, done by hand."""

    def __init__(self, clock: ManualClock, session_id: str, epoch: str = "e1") -> None:
        self.session_id = session_id
        self.log = self.live = ResidentLog(session_id, clock, epoch)
        self._revision = 0
        self._frames = make.frames(session_id)
        self._messages: list = []

    def _state(self) -> ResidentState:
        read = PersistedSessionRead(
            self.session_id, self._revision, make.CONFIG, self._frames, (), None, TurnState(self._revision), "",
            {"tool_state": "tools:1"},
        )  # fmt: skip
        return ResidentState(read, tuple(self._messages), ("tools:1", ToolState(generation=1)))

    async def begin(self) -> None:
        self.log.publish((), state=self._state())

    async def show(self, activities: Sequence[TurnActivity]) -> None:
        for activity in activities:
            self.log.publish((ActivityObserved(activity),), turn_id=activity.turn_id)

    def lose(self) -> None:
        self.log.lose()

    async def commit(self, turn_id: str | None = None, frame_id: str | None = None) -> None:
        self._revision += 1
        self._messages += [make.message(f"{who}{self._revision}") for who in "ua"]
        payloads: list[ObservationPayload] = [StateCommitted()]
        if frame_id is not None:
            self._frames, _ = open_frame(self._frames, frame_id, "continue_as", 2)
            payloads.insert(0, AgentFrameSwitched(frame_id))
        if turn_id is not None:
            activity = TurnActivity(self.session_id, turn_id, "turn", TurnFinished(ANSWER), 1, "finished")
            payloads.append(ActivityObserved(activity))
        self.log.publish(payloads, turn_id=turn_id, state=self._state())

    async def trim(self) -> int:
        return self.log.trim()

    def on_ring(self, ring: Callable[[], None]) -> None:
        self.log.listen(ring)

    async def end(self) -> None:
        self.log.close()

    def gone(self) -> tuple[type[Exception], str]:
        return StoreError, "store_closed"


class TestResidentLog(LogLaws):
    @pytest.fixture
    def open_log(self, clock: ManualClock) -> OpenLog:
        return lambda session_id: ResidentLogUnderTest(clock, session_id)


async def test_a_session_opened_again_continues_no_cursor_of_before(clock: ManualClock) -> None:
    first, second = (ResidentLogUnderTest(clock, "s1", epoch) for epoch in ("e1", "e2"))
    for session in (first, second):
        await session.begin()
        await session.show([prose("a"), prose("b")])
    cursor = (await events_after(first.live, SessionCursor(GENESIS, 0, 0, "s1")))[0].cursor
    assert (await second.live.replay(cursor)).gap is not None
    assert texts(await events_after(first.live, cursor)) == ["b"]


async def test_a_resident_change_moves_no_revision_and_proves_no_commit(clock: ManualClock) -> None:
    session = ResidentLogUnderTest(clock, "s1")
    await session.begin()
    await session.commit()
    cursor = (await session.live.cut("s1", ReadScope.HEAD)).cursor
    session.log.publish((ResidentChanged(),))
    (changed,) = await events_after(session.live, cursor)
    assert (changed.payload, changed.revision, changed.turn_id) == (ResidentChanged(), 1, None)
    behind = SessionCursor(cursor.epoch, 0, cursor.position, "s1")
    assert (await session.live.replay(behind)).gap is not None


async def test_64_times_a_subscription_and_an_append_race_and_the_event_is_seen_once(clock: ManualClock) -> None:
    for number in range(64):
        session = ResidentLogUnderTest(clock, "s1")
        await session.begin()
        start = (await session.live.cut("s1", ReadScope.HEAD)).cursor
        barrier = threading.Barrier(2)

        def append(barrier=barrier, session=session) -> None:
            barrier.wait()
            session.log.publish((ActivityObserved(prose("raced")),), turn_id="t1")

        thread = threading.Thread(target=append)
        thread.start()
        barrier.wait()
        bell = ResidentBell(session.log.listen)
        seen = texts(await events_after(session.live, start))
        if not seen:
            async with asyncio.timeout(30):
                await bell.wait(is_busy=True)
            seen = texts(await events_after(session.live, start))
        thread.join()
        bell.close()
        assert seen == ["raced"], number


async def test_nobody_listens_once_the_last_bell_is_closed_and_a_dead_loop_is_no_matter(clock: ManualClock) -> None:
    session = ResidentLogUnderTest(clock, "s1")
    await session.begin()
    bell, other = ResidentBell(session.log.listen), ResidentBell(session.log.listen)
    await session.show([prose("a")])
    await bell.wait(is_busy=True)
    await other.wait(is_busy=True)
    for one in (bell, other):
        one.close()
        one.close()
        await one.wait(is_busy=True)
    assert session.log._listeners == {}

    async def listen() -> None:
        ResidentBell(session.log.listen)

    await asyncio.to_thread(asyncio.run, listen())
    await session.show([prose("b")])


async def test_memory_is_bounded_and_a_closed_log_keeps_nothing(clock: ManualClock) -> None:
    session = ResidentLogUnderTest(clock, "s1")
    await session.begin()
    await session.show([prose(str(number)) for number in range(MAX_EVENTS + 300)])
    assert len(session.log._events) == MAX_EVENTS
    assert msgspec.json.decode(await session.log.load_component("tools:1"))["generation"] == 1
    with pytest.raises(StoreError):
        await session.log.load_component("tools:2")
    session.log.close()
    await session.show([prose("late")])
    await session.commit()
    assert not session.log._events and session.log.state is None
