"""The token of a turn: who waits for it, and who is only told (runtime.cancellation)."""

from __future__ import annotations

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
