"""Alarms: a timer per delay instead of a timer per turn (alarms)."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref

from lash_cli.alarms import _MAX_ROWS, _ROWS, alarm_after

SOON_S = 0.002


async def test_alarms_ring_once_in_the_order_they_were_set_and_cancelled_ones_never() -> None:
    rung: list[str] = []
    over = asyncio.Event()
    alarm_after(SOON_S, lambda: rung.append("a"))
    taken_back = alarm_after(SOON_S, lambda: rung.append("b"))
    alarm_after(SOON_S, lambda: rung.append("c"))
    alarm_after(SOON_S * 3, over.set)
    taken_back.cancel()
    taken_back.cancel()
    await over.wait()
    assert rung == ["a", "c"]
    again = asyncio.Event()
    alarm_after(SOON_S, again.set)
    await again.wait()
    assert rung == ["a", "c"]


async def test_an_alarm_that_raises_is_reported_and_the_others_ring() -> None:
    reported: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reported.append(context.get("exception")))
    rung = asyncio.Event()

    def fail() -> None:
        raise ValueError("no")

    alarm_after(SOON_S, fail)
    alarm_after(SOON_S, rung.set)
    await rung.wait()
    assert [type(error) for error in reported] == [ValueError]


async def test_what_was_taken_back_is_not_kept() -> None:
    first, *held = [alarm_after(60.0, lambda: None) for _ in range(100)]
    queue = first._queue
    for alarm in held:
        alarm.cancel()
    assert list(queue) == [first]
    first.cancel()
    assert not queue


async def test_an_alarm_that_is_taken_back_when_it_is_due_does_not_ring() -> None:
    rung: list[str] = []
    over = asyncio.Event()

    def ring_first() -> None:
        rung.append("first")
        second.cancel()

    alarm_after(SOON_S, ring_first)
    second = alarm_after(SOON_S, lambda: rung.append("second"))
    alarm_after(SOON_S, over.set)
    asyncio.get_running_loop().call_soon(time.sleep, SOON_S)  # all are due at once
    await over.wait()
    assert rung == ["first"]


def test_each_event_loop_has_its_own() -> None:
    async def wait_for_one() -> None:
        rung = asyncio.Event()
        alarm_after(SOON_S, rung.set)
        assert await asyncio.wait_for(rung.wait(), 30)

    for _ in range(2):
        asyncio.run(wait_for_one())


def test_a_loop_that_is_closed_is_let_go_of_with_what_its_alarms_were_to_call() -> None:
    class Session:
        def renew(self) -> None:
            """What an alarm calls."""

    kept: list[weakref.ref[object]] = []

    async def leave_one_behind() -> None:
        session = Session()
        kept.extend([weakref.ref(asyncio.get_running_loop()), weakref.ref(session)])
        alarm_after(60.0, session.renew)

    for _ in range(5):
        asyncio.run(leave_one_behind())
    gc.collect()
    assert [item() is not None for item in kept[:-2]] == [False] * 8


async def test_many_delays_are_not_all_kept_and_those_let_go_of_ring_all_the_same() -> None:
    rung: list[int] = []
    over = asyncio.Event()
    for number in range(2 * _MAX_ROWS):
        alarm_after(SOON_S + number / 10_000, lambda number=number: rung.append(number))  # type: ignore[misc]
    alarm_after(10 * SOON_S, over.set)
    assert len(_ROWS) <= _MAX_ROWS
    await over.wait()
    assert sorted(rung) == list(range(2 * _MAX_ROWS))
