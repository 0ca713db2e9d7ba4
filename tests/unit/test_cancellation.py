"""The token of a turn: who waits for it, and who is only told (runtime.cancellation)."""

from __future__ import annotations

import asyncio
import threading

from lash_cli.runtime.cancellation import CancelCause, CancelToken


def test_a_block_is_told_of_a_trip_once_and_never_after_its_end() -> None:
    token, told = CancelToken(), list[str]()
    with token.telling(lambda: told.append("outer")):
        with token.telling(lambda: told.append("inner")):
            pass
        assert told == []
        assert token.trip(CancelCause.LOCAL)
        assert not token.trip(CancelCause.REQUESTED)
        assert told == ["outer"]
    token.forget_request()
    assert told == ["outer"]


async def test_another_thread_wakes_who_waits_and_tells_in_their_own_loop() -> None:
    token, told = CancelToken(), list[threading.Thread]()
    with token.telling(lambda: told.append(threading.current_thread())):
        waiting = asyncio.ensure_future(token.wait())
        await asyncio.sleep(0)
        # Nothing else wakes this loop.
        other = threading.Timer(0.05, token.trip, (CancelCause.LOCAL,))
        other.start()
        async with asyncio.timeout(20):
            await waiting
        other.join()
        assert told == [threading.main_thread()]


def test_a_loop_that_was_closed_is_told_nothing() -> None:
    token, told = CancelToken(), list[str]()

    async def leave() -> None:
        asyncio.get_running_loop().create_task(token.wait())
        token.tell(lambda: told.append("x"))
        await asyncio.sleep(0)

    asyncio.run(leave())
    assert token.trip(CancelCause.LOCAL) and token.is_set and told == []


def test_a_block_that_begins_after_the_trip_is_told_at_once() -> None:
    token, told = CancelToken(), list[str]()
    token.trip(CancelCause.LEASE_LOST)
    with token.telling(lambda: told.append("late")):
        assert told == ["late"]


def test_a_token_armed_again_tells_the_block_that_is_still_open() -> None:
    token, told = CancelToken(), list[str]()
    with token.telling(lambda: told.append("x")):
        token.trip(CancelCause.REQUESTED)
        token.forget_request()
        token.trip(CancelCause.LOCAL)
    assert told == ["x", "x"]
