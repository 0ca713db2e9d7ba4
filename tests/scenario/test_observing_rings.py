"""What rings carry is only ever a short cut: with rings lost, doubled, late, in any order and made up, a stream hands
over the log, each event once and in order (contract 04 §0 rules 3 and 4, §10.4)."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lash_cli.api import ObservableSession, ObservedEvent, SessionCursor, SqliteStore
from lash_cli.core.observation import GENESIS, QueueChanged, SessionObservationEvent
from lash_cli.core.policy import ModelSpec, SessionPolicy
from lash_cli.paths import resolve_paths
from lash_cli.runtime import bells
from lash_cli.runtime.bells import BellRinger
from lash_cli.runtime.observing import RecoveringStream
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.live import StoredLog, prose, show
from lash_cli.store.sqlite import live
from lash_cli.system import SystemClock, SystemIds
from lash_cli.wiring import open_store

S = make.SESSION
START = SessionCursor(GENESIS, 0, 0, S)
pytestmark = pytest.mark.usefixtures("runtime_dir")
PATIENCE_S = 30
STEPS = 250


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[list[SqliteStore]]:
    """Three handles on one file: two that write and one that is watched through."""
    opened = [SqliteStore.open(tmp_path / "lash.db", SystemClock(), SystemIds()) for _ in range(3)]
    yield opened
    for store in opened:
        await store.aclose()


def stream_of(store: SqliteStore, cursor: SessionCursor) -> RecoveringStream:
    policy = SessionPolicy(ModelSpec("m"), "scripted", S)
    return ObservableSession.of_store(store, S, policy).subscribe_and_recover(cursor)


async def queue_change(store: SqliteStore, input_id: str) -> None:
    event = QueueChanged("enqueued", (input_id,))

    def job(connection: sqlite3.Connection) -> None:
        live.announce_in(connection, S, event, store.db.clock.now_ms())

    await store.db.write(job, durable=False)


class Careless(BellRinger):
    """Loses, doubles, keeps back and makes up rings."""

    def __init__(self, name: str, chance: random.Random) -> None:
        super().__init__(name)
        self._chance = chance
        self._kept: list[tuple[str, bytes]] = []

    def _send(self, address: str, message: bytes) -> None:
        match self._chance.randrange(8):
            case 0:
                return
            case 1:
                super()._send(address, message)
                super()._send(address, message)
            case 2 | 3:
                self._kept.append((address, message))
            case 4:
                super()._send(address, message[: self._chance.randrange(len(message))] + b"]")
            case _:
                super()._send(address, message)
        if self._kept and self._chance.random() < 0.3:
            super()._send(*self._kept.pop(self._chance.randrange(len(self._kept))))


@pytest.mark.parametrize("seed", range(6))
async def test_careless_rings_skip_nothing_and_repeat_nothing(
    stores: list[SqliteStore], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(bells, "BACKSTOP_SECONDS", 0.02)
    chance = random.Random(seed)
    *writers, reader = stores
    log = StoredLog(writers[0], SystemClock(), S)
    await log.begin()
    ringers = [Careless(store.live.bell_name, chance) for store in writers]
    for store, ringer in zip(writers, ringers, strict=True):
        store.live.ring_with(ringer)
    stream = stream_of(reader, START)
    seen: list[SessionObservationEvent] = []

    async def watch() -> None:
        async for item in stream:
            assert isinstance(item, ObservedEvent), item
            seen.append(item.event)
            if isinstance(item.event.payload, QueueChanged) and item.event.payload.batch_ids == ("last",):
                return
            if chance.random() < 0.05:
                await asyncio.sleep(chance.random() * 0.01)

    watching = asyncio.ensure_future(watch())
    for number in range(STEPS):
        store = chance.choice(writers)
        match chance.randrange(8):
            case 0 | 1 | 2 | 3:
                await queue_change(store, f"in_{number}")
            case 4 | 5 | 6:
                await show(store, SystemClock(), log._held, [prose("x" * chance.choice((1, 30, 700)))])
            case 7:
                await log.commit()
        if chance.random() < 0.3:
            await asyncio.sleep(chance.random() * 0.004)
    await queue_change(writers[0], "last")
    async with asyncio.timeout(PATIENCE_S):
        await watching
    await stream.aclose()
    for ringer in ringers:
        ringer.close()
    written: list[SessionObservationEvent] = []
    while found := (await reader.live.replay(written[-1].cursor if written else START)).events:
        written.extend(found)
    assert seen == written


async def test_events_that_come_one_by_one_are_handed_over_without_a_look_and_a_commit_is_not(
    stores: list[SqliteStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bells, "BACKSTOP_SECONDS", 3_600.0)
    writer, _, reader = stores
    log = StoredLog(writer, SystemClock(), S)
    await log.begin()
    ringer = BellRinger(writer.live.bell_name)
    writer.live.ring_with(ringer)
    looks = 0
    replay = live.LiveEvents.replay

    async def counted(self: live.LiveEvents, cursor: SessionCursor) -> object:
        nonlocal looks
        looks += 1
        return await replay(self, cursor)

    monkeypatch.setattr(live.LiveEvents, "replay", counted)
    stream = stream_of(reader, START)

    async def next_after(change: object) -> int:
        """How many looks it took to be handed what `change` announces."""
        before = looks
        pull = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0.05)
        await change  # type: ignore[misc]
        async with asyncio.timeout(PATIENCE_S):
            await pull
        return looks - before

    # The first one also looks where it begins; what was never written has no epoch yet.
    assert await next_after(queue_change(writer, "in_0")) == 2
    assert [await next_after(queue_change(writer, f"in_{number}")) for number in (1, 2)] == [0, 0]
    assert await next_after(show(writer, SystemClock(), log._held, [prose("a")])) == 0
    assert await next_after(log.commit()) == 1
    assert await next_after(queue_change(writer, "in_3")) == 0
    await stream.aclose()
    ringer.close()


async def test_the_socket_that_rings_goes_with_the_store_that_was_opened_for_a_command(tmp_path: Path) -> None:
    paths = resolve_paths({"LASH_HOME": str(tmp_path / "home")})
    ringing, watched = open_store(paths), open_store(paths)
    assert isinstance(ringing, SqliteStore) and isinstance(watched, SqliteStore)
    await StoredLog(ringing, SystemClock(), S).begin()
    stream = stream_of(watched, START)
    await queue_change(ringing, "in_0")
    async with asyncio.timeout(PATIENCE_S):
        await anext(stream)  # watched from here on
        await queue_change(ringing, "in_1")
        await anext(stream)
    await stream.aclose()
    ring = ringing.db.writer.ring
    assert isinstance(ring, BellRinger) and ring._socket is not None
    socket = ring._socket
    for store in (ringing, watched):
        await store.aclose()
    del ringing, watched, store, ring
    # The thread that closed them lets go of them behind the answer.
    await asyncio.get_running_loop().shutdown_default_executor()
    assert socket.fileno() == -1
