"""What a ring may carry, and what is made of it: never an event that a look would not find (contract 04 §0, §10.4)."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections.abc import Callable

import pytest

from lash_cli.core.observation import GENESIS, QueueChanged, SessionCursor, SessionObservationEvent
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.clock import ManualClock
from lash_cli.store.conformance.live import StoredLog, after, cursor_of, prose, show, started, texts
from lash_cli.store.sqlite import live
from lash_cli.store.sqlite.announcing import LONGEST_RING
from lash_cli.store.sqlite.store import SqliteStore

OpenStore = Callable[[], SqliteStore]
S = make.SESSION
START = SessionCursor(GENESIS, 0, 0, S)
STEPS = 60


def rung_by(store: SqliteStore, session_id: str = S) -> list[bytes]:
    """The messages of a store's rings for a session, as they come."""
    messages: list[bytes] = []
    store.live.ring_with(lambda news: messages.append(news[session_id].message()) if session_id in news else None)
    return messages


async def queue_changes(store: SqliteStore, clock: ManualClock, *ids: str) -> None:
    """One transaction that announces changes of the queue."""

    def job(connection: sqlite3.Connection) -> None:
        for input_id in ids:
            live.announce_in(connection, S, QueueChanged("enqueued", (input_id,)), clock.now_ms())

    await store.db.write(job, durable=False)


async def test_a_ring_carries_what_a_look_behind_its_cursor_finds(open_store: OpenStore, clock: ManualClock) -> None:
    store, fence = await make.held(open_store, clock)
    await queue_changes(store, clock, "first")
    messages = rung_by(store)
    for change in (
        lambda: queue_changes(store, clock, "in_1"),
        lambda: show(store, clock, fence, [prose("a"), prose('bé\n"\x1b')]),
    ):
        before = await cursor_of(store)
        clock.tick(0.007)
        await change()
        found = await after(store, before)
        assert found and store.live.carried(messages[-1], before) == found
    assert texts(found) == ["a", 'bé\n"\x1b']


async def test_events_are_taken_only_right_behind_the_cursor_in_its_epoch_and_at_its_revision(
    open_store: OpenStore, clock: ManualClock
) -> None:
    store = open_store()
    await started(store, clock)
    await queue_changes(store, clock, "first")
    messages = rung_by(store)
    here = await cursor_of(store)
    await queue_changes(store, clock, "in_1")
    (message,) = messages
    epoch, revision, position = here.epoch, here.revision, here.position
    assert store.live.carried(message, here)
    for elsewhere in (
        SessionCursor(epoch, revision, position - 1, S),
        SessionCursor(epoch, revision, position + 1, S),
        SessionCursor(epoch, revision + 1, position, S),
        SessionCursor("0123456789abcdef", revision, position, S),
        START,
    ):
        assert store.live.carried(message, elsewhere) is None


@pytest.mark.parametrize("message", [b"", b"7", b"[1,", b"[2,", b"[3,4]", b"{}", b'[2,"\xff"', b"[" * 900])
async def test_whatever_else_a_ring_says_is_a_reason_to_look(
    open_store: OpenStore, clock: ManualClock, message: bytes
) -> None:
    store = open_store()
    await started(store, clock)
    await queue_changes(store, clock, "first")
    assert store.live.carried(message, await cursor_of(store)) is None


async def test_a_message_cut_anywhere_carries_nothing(open_store: OpenStore, clock: ManualClock) -> None:
    store = open_store()
    await started(store, clock)
    await queue_changes(store, clock, "first")
    messages = rung_by(store)
    here = await cursor_of(store)
    await queue_changes(store, clock, "in_1")
    (message,) = messages
    assert all(store.live.carried(message[:length], here) is None for length in range(len(message)))


async def test_a_commit_and_what_it_takes_along_are_not_carried(open_store: OpenStore, clock: ManualClock) -> None:
    store = open_store()
    log = StoredLog(store, clock, S)
    await log.begin()
    await log.commit()
    messages = rung_by(store)
    here = await cursor_of(store)
    await log.commit("t1")
    assert messages and all(store.live.carried(message, here) is None for message in messages)


async def test_what_stands_behind_a_hole_is_not_carried(open_store: OpenStore, clock: ManualClock) -> None:
    store, fence = await make.held(open_store, clock)
    await show(store, clock, fence, [prose("a")])
    messages = rung_by(store)
    here = await cursor_of(store)
    store.live.lose_previews(S)
    await show(store, clock, fence, [prose("b")])
    behind = SessionCursor(here.epoch, here.revision, here.position + 1, S)
    assert messages and [store.live.carried(messages[-1], cursor) for cursor in (here, behind)] == [None, None]


async def test_a_second_change_of_one_transaction_is_not_carried_without_the_first(
    open_store: OpenStore, clock: ManualClock
) -> None:
    store = open_store()
    await started(store, clock)
    await queue_changes(store, clock, "first")
    messages = rung_by(store)
    here = await cursor_of(store)
    await queue_changes(store, clock, "in_1", "in_2")
    (message,) = messages
    for place in range(3):
        cursor = SessionCursor(here.epoch, here.revision, here.position + place, S)
        assert store.live.carried(message, cursor) is None


async def test_nothing_of_a_job_that_was_undone_is_carried_by_the_ring_of_its_group(
    open_store: OpenStore, clock: ManualClock
) -> None:
    store = open_store()
    await started(store, clock)
    await queue_changes(store, clock, "first")
    messages = rung_by(store)
    here = await cursor_of(store)

    def undone(connection: sqlite3.Connection) -> None:
        live.announce_in(connection, S, QueueChanged("enqueued", ("never",)), clock.now_ms())
        raise ValueError("the transition fails after its event")

    def slow(connection: sqlite3.Connection) -> None:
        # What is asked for meanwhile is one group.
        time.sleep(0.05)

    def of_another(connection: sqlite3.Connection) -> None:
        live.announce_in(connection, "s2", QueueChanged("enqueued"), clock.now_ms())

    await make.create(store, clock, "s2")
    group = (slow, undone, of_another)
    outcomes = await asyncio.gather(*(store.db.write(job, durable=False) for job in group), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [type(None), ValueError, type(None)]
    assert await after(store, here) == ()
    assert [store.live.carried(message, here) for message in messages] == [None] * len(messages)
    await queue_changes(store, clock, "kept")
    (event,) = await after(store, here)
    assert store.live.carried(messages[-1], here) == (event,)


async def test_what_is_too_long_for_a_ring_is_looked_for(open_store: OpenStore, clock: ManualClock) -> None:
    store, fence = await make.held(open_store, clock)
    await show(store, clock, fence, [prose("a")])
    messages = rung_by(store)
    carried = []
    for length in (10, 2 * LONGEST_RING // 5, LONGEST_RING):
        here = await cursor_of(store)
        await show(store, clock, fence, [prose("é" * length)])
        assert len(messages[-1]) <= LONGEST_RING
        carried.append(store.live.carried(messages[-1], here) is not None)
    assert carried == [True, False, False]


@pytest.mark.parametrize("seed", range(8))
async def test_whichever_ring_meets_whichever_cursor_only_what_the_log_says_next_is_taken(
    open_store: OpenStore, clock: ManualClock, seed: int
) -> None:
    """Everything that can happen to a log in random order, by two writers; then every ring against every place."""
    chance = random.Random(seed)
    stores = [open_store(), open_store()]
    log = StoredLog(stores[0], clock, S)
    await log.begin()
    fence = log._held
    messages = [rung_by(store) for store in stores]
    places: set[SessionCursor] = {START}
    for number in range(STEPS):
        store = chance.choice(stores)
        clock.tick(chance.randrange(100) / 1000)
        match chance.randrange(6):
            case 0 | 1:
                await queue_changes(
                    store, clock, *(f"in_{number}_{which}" for which in range(chance.choice((1, 1, 2))))
                )
            case 2 | 3:
                shown = [prose("x" * chance.choice((1, 20, 400))) for _ in range(chance.randrange(1, 4))]
                await show(store, clock, fence, shown)
            case 4:
                await log.commit()
            case 5:
                store.live.lose_previews(S)
        places.add(await cursor_of(store))
    whole: dict[tuple[str, int], SessionObservationEvent] = {}
    for place in places:
        found = await stores[0].live.replay(place)
        whole.update({(event.cursor.epoch, event.cursor.position): event for event in found.events})
    places.update(event.cursor for event in whole.values())
    taken = 0
    for message in (*messages[0], *messages[1]):
        for place in places:
            carried = stores[0].live.carried(message, place)
            for distance, event in enumerate(carried or (), 1):
                assert event.cursor.position == place.position + distance
                assert whole.get((place.epoch, event.cursor.position), event) == event
                assert event.revision == place.revision
                taken += 1
    assert taken > 10
