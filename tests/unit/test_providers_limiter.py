"""The line in front of a provider: never too much at once, in order, and nothing is lost (contract 06 §3.4)."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.clock import ManualClock, settle

from lash_cli.core.content import Message, ProsePart, Role, TextPart, ToolCallPart
from lash_cli.core.llm import LlmRequest, LlmScope
from lash_cli.core.policy import ModelSpec
from lash_cli.providers.limiter import Permit, RateLimiter, RateLimits, estimated_tokens


class Asked:
    """One request of a plan: when it comes, how large it is, how long it holds, when it gives up."""

    def __init__(self, at: int, tokens: int, holds: int, gives_up_after: int | None) -> None:
        self.at, self.tokens, self.holds, self.gives_up_after = at, tokens, holds, gives_up_after

    def __repr__(self) -> str:
        return f"Asked({self.at}, {self.tokens}, {self.holds}, {self.gives_up_after})"


plans = st.lists(
    st.builds(
        Asked,
        st.integers(0, 30),
        st.integers(0, 60),
        st.integers(0, 25),
        st.none() | st.integers(0, 40),
    ),
    max_size=14,
).map(lambda plan: sorted(plan, key=lambda asked: asked.at))
limits = st.builds(
    RateLimits,
    st.none() | st.integers(1, 3),
    st.none() | st.integers(1, 4),
    st.none() | st.integers(20, 50),
    st.sampled_from((5.0, 10.0)),
)


class World:
    """Plays a plan against a limiter on a clock moved by hand, and writes down what happened."""

    def __init__(self, limits: RateLimits) -> None:
        self.clock = ManualClock()
        self.limits = limits
        self.limiter = RateLimiter(limits, self.clock)
        self.arrived: list[int] = []
        self.admitted: list[tuple[float, int]] = []
        self.most_in_flight = 0

    async def acquire(self, position: int, tokens: int) -> Permit:
        self.arrived.append(position)
        permit = await self.limiter.acquire(tokens)
        self.admitted.append((self.clock.monotonic(), position))
        self.most_in_flight = max(self.most_in_flight, self.limiter.in_flight)
        return permit

    async def serve(self, position: int, asked: Asked) -> None:
        await self.clock.sleep(asked.at)
        acquiring = asyncio.ensure_future(self.acquire(position, asked.tokens))
        if asked.gives_up_after is not None:
            giving_up = asyncio.ensure_future(self.clock.sleep(asked.gives_up_after))
            await asyncio.wait([acquiring, giving_up], return_when=asyncio.FIRST_COMPLETED)
            giving_up.cancel()
            await asyncio.gather(giving_up, return_exceptions=True)
            if not acquiring.done():
                acquiring.cancel()
        try:
            permit = await acquiring
        except asyncio.CancelledError:
            return
        with permit:
            await self.clock.sleep(asked.holds)

    async def play(self, plan: list[Asked]) -> None:
        tasks = [asyncio.create_task(self.serve(position, asked)) for position, asked in enumerate(plan)]
        for _ in range(600):
            if all(task.done() for task in tasks):
                break
            await self.clock.advance(1)
        assert all(task.done() for task in tasks), "somebody waits for ever"
        await asyncio.gather(*tasks)


@settings(max_examples=30, deadline=None)
@given(limits, plans)
def test_no_limit_is_ever_exceeded_and_everybody_is_served_in_order(limits: RateLimits, plan: list[Asked]) -> None:
    world = World(limits)
    asyncio.run(world.play(plan))
    assert (world.limiter.in_flight, world.limiter.waiting) == (0, 0)
    served = [position for _, position in world.admitted]
    assert served == [position for position in world.arrived if position in served], "first come, first served"
    assert {position for position, asked in enumerate(plan) if asked.gives_up_after is None} <= set(served)
    if limits.max_concurrent is not None:
        assert world.most_in_flight <= limits.max_concurrent
    for window in _windows(world.admitted, limits.window_seconds):
        sizes = [plan[position].tokens for _, position in window]
        assert limits.requests_per_window is None or len(window) <= limits.requests_per_window
        if limits.tokens_per_window is not None and sum(sizes) > limits.tokens_per_window:
            assert len([size for size in sizes if size]) == 1, "only what could never fit goes alone"


def _windows(admitted: list[tuple[float, int]], seconds: float) -> list[list[tuple[float, int]]]:
    """Fixed windows: one begins with the first admission after the last one ended."""
    windows: list[list[tuple[float, int]]] = []
    ends = float("-inf")
    for at, position in admitted:
        if at >= ends:
            ends = at + seconds
            windows.append([])
        windows[-1].append((at, position))
    return windows


async def test_without_waiting_a_permit_is_there_at_once() -> None:
    clock = ManualClock()
    limiter = RateLimiter(RateLimits(max_concurrent=2, requests_per_window=2, tokens_per_window=10), clock)
    with await limiter.acquire(5), await limiter.acquire(5):
        assert limiter.in_flight == 2
    assert (limiter.in_flight, clock.slept) == (0, [])


async def test_a_small_request_does_not_overtake_a_large_one() -> None:
    clock = ManualClock()
    limiter = RateLimiter(RateLimits(tokens_per_window=10), clock)
    (await limiter.acquire(8)).release()
    large, small = (asyncio.create_task(limiter.acquire(tokens)) for tokens in (5, 1))
    await settle()
    assert (limiter.waiting, small.done()) == (2, False)
    await clock.advance(60)
    assert large.done() and small.done()


async def test_a_cancelled_waiter_leaves_the_line_to_the_next() -> None:
    limiter = RateLimiter(RateLimits(max_concurrent=1), ManualClock())
    first = await limiter.acquire()
    second, third = (asyncio.create_task(limiter.acquire()) for _ in range(2))
    await settle()
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    first.release()
    permit = await asyncio.wait_for(third, 30)
    assert (limiter.in_flight, limiter.waiting) == (1, 0)
    permit.release()


async def test_a_waiter_cancelled_in_the_moment_it_is_called_calls_the_next() -> None:
    limiter = RateLimiter(RateLimits(max_concurrent=1), ManualClock())
    first = await limiter.acquire()
    second, third = (asyncio.create_task(limiter.acquire()) for _ in range(2))
    await settle()
    first.release()
    second.cancel()
    permit = await asyncio.wait_for(third, 30)
    assert (second.cancelled(), limiter.in_flight) == (True, 1)
    permit.release()


async def test_a_request_too_large_for_any_window_goes_alone() -> None:
    clock = ManualClock()
    limiter = RateLimiter(RateLimits(tokens_per_window=10), clock)
    (await limiter.acquire(1)).release()
    huge = asyncio.create_task(limiter.acquire(1_000))
    await clock.advance(59)
    assert not huge.done()
    await clock.advance(1)
    assert huge.done()
    later = asyncio.create_task(limiter.acquire(1))
    await clock.advance(59)
    assert not later.done()
    await clock.advance(1)
    (await later).release()


def test_a_permit_is_given_back_once() -> None:
    given_back: list[bool] = []
    permit = Permit(lambda: given_back.append(True))
    with permit:
        permit.release()
    permit.release()
    assert given_back == [True]


def test_a_token_is_four_characters_of_everything_that_is_sent() -> None:
    messages = (
        Message("m1", Role.USER, (TextPart("12345"),)),
        Message("m2", Role.ASSISTANT, (ProsePart("67"), ToolCallPart("c", "t", '{"a":1}'))),
    )
    request = LlmRequest(model=ModelSpec("m"), messages=messages, scope=LlmScope("s", "r"), system="sys")
    assert estimated_tokens(request) == 5  # 17 characters, rounded up


@pytest.mark.parametrize(
    "bad", [{"max_concurrent": 0}, {"requests_per_window": -1}, {"tokens_per_window": 0}, {"window_seconds": 0}]
)
def test_limits_that_make_no_sense_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        RateLimits(**bad)
