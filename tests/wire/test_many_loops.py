"""One provider in several event loops at a time: a core may be used from as many as a program has (contract 06 §3.4,
§11)."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
import warnings
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.clock import LIMIT_S, ManualCancel
from support.wire import ThreadedChatServer, text_reply
from support.wires import HELLO

from lash_cli.core.llm import LlmRequest, StreamEvent
from lash_cli.core.protocols import ModelCaller
from lash_cli.providers.attachments import RequestAttachments
from lash_cli.providers.catalog import ProviderSettings, build_caller
from lash_cli.providers.limiter import RateLimiter, RateLimits
from lash_cli.system import SystemClock

pytestmark = pytest.mark.usefixtures("no_proxy")

LOOPS, CALLS = 3, 5


async def _ignored(event: StreamEvent) -> None: ...


def in_loops_of_their_own(*works: Callable[[], Awaitable[object]]) -> None:
    """Run each in a loop and a thread of its own; raises what one of them raised, or that one did not end."""

    async def limited(work: Callable[[], Awaitable[object]]) -> None:
        async with asyncio.timeout(LIMIT_S):
            await work()

    with ThreadPoolExecutor(len(works)) as threads:
        list(threads.map(lambda work: asyncio.run(limited(work)), works))


async def until_in_line(limiter: RateLimiter, count: int) -> None:
    while limiter.waiting < count:  # noqa: ASYNC110 - it is another loop that they wait in
        await asyncio.sleep(0.001)


def caller_of(server: ThreadedChatServer) -> ModelCaller:
    settings = ProviderSettings("test", "openai_chat", server.base_url, None, {"max_attempts": 1})
    return build_caller(settings, clock=SystemClock(), ids_bits=lambda _: 0)


def test_each_loop_keeps_its_connection_whatever_the_others_do() -> None:
    with ThreadedChatServer([text_reply("hi")] * LOOPS * CALLS) as server:
        caller = caller_of(server)
        together = threading.Barrier(LOOPS)

        async def work() -> None:
            for _ in range(CALLS):
                together.wait(LIMIT_S)
                result = await caller.call(HELLO, sink=_ignored, cancel=ManualCancel())
                assert result.error is None
            await caller.aclose()

        in_loops_of_their_own(*[work] * LOOPS)
        assert server.connections == LOOPS


def test_requests_are_written_one_after_another() -> None:
    """What is kept of conversations between calls belongs to whoever writes, for as long as that takes."""
    writing: list[int] = []

    class Writer:
        def body(self, request: LlmRequest) -> bytes:
            writing.append(threading.get_ident())
            time.sleep(0.02)
            assert set(writing) == {threading.get_ident()}
            writing.clear()
            return b""

    attachments = RequestAttachments()

    async def work() -> None:
        for _ in range(CALLS):
            await attachments.body(Writer(), HELLO)

    in_loops_of_their_own(*[work] * LOOPS)


def in_a_child(work: Callable[[], Awaitable[object]]) -> str:
    """What becomes of work in a forked child."""

    async def limited() -> None:
        async with asyncio.timeout(LIMIT_S / 6):
            await work()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of newer Pythons, for the threads of this one
        child = os.fork()
    if child == 0:
        signal.alarm(round(LIMIT_S / 3))  # a lock of another thread is waited for without the loop
        try:
            asyncio.run(limited())
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    return "done" if status == 0 else f"status {status}"


def test_a_child_writes_requests_although_its_parent_did_when_it_forked() -> None:
    attachments = RequestAttachments()
    writing, forked = threading.Event(), threading.Event()

    class Slow:
        def body(self, request: LlmRequest) -> bytes:
            writing.set()
            forked.wait(LIMIT_S)
            return b""

    class Quick:
        def body(self, request: LlmRequest) -> bytes:
            return b""

    thread = threading.Thread(target=lambda: asyncio.run(attachments.body(Slow(), HELLO)))
    thread.start()
    writing.wait(LIMIT_S)
    became = in_a_child(lambda: attachments.body(Quick(), HELLO))
    forked.set()
    thread.join()
    assert became == "done"


def test_a_child_does_not_wait_for_the_calls_of_its_parent() -> None:
    limiter = RateLimiter(RateLimits(max_concurrent=1), SystemClock())
    loop = asyncio.new_event_loop()
    permit = loop.run_until_complete(limiter.acquire())
    assert in_a_child(limiter.acquire) == "done"
    assert limiter.in_flight == 1
    permit.release()
    loop.close()


def test_a_place_that_one_loop_gives_back_is_taken_in_another() -> None:
    limiter = RateLimiter(RateLimits(max_concurrent=1), SystemClock())
    held, waiting = threading.Event(), threading.Event()

    async def holds() -> None:
        permit = await limiter.acquire()
        held.set()
        await asyncio.to_thread(waiting.wait)
        await until_in_line(limiter, 1)
        permit.release()

    async def waits() -> None:
        await asyncio.to_thread(held.wait)
        waiting.set()
        # The loop has nothing else to do: only the call from the other one can wake it before its limit does.
        began = time.monotonic()
        (await limiter.acquire()).release()
        assert time.monotonic() - began < LIMIT_S / 2

    in_loops_of_their_own(holds, waits)
    assert (limiter.in_flight, limiter.waiting) == (0, 0)


def test_the_next_in_line_may_wait_in_another_loop_than_the_one_who_gave_up() -> None:
    limiter = RateLimiter(RateLimits(max_concurrent=2, requests_per_window=1, window_seconds=0.5), SystemClock())
    first_waits = threading.Event()

    async def gives_up() -> None:
        (await limiter.acquire()).release()
        acquiring = asyncio.create_task(limiter.acquire())
        await asyncio.sleep(0)
        first_waits.set()
        await until_in_line(limiter, 2)
        acquiring.cancel()
        await asyncio.wait([acquiring])

    async def is_next() -> None:
        await asyncio.to_thread(first_waits.wait)
        (await limiter.acquire()).release()

    in_loops_of_their_own(gives_up, is_next)
    assert (limiter.in_flight, limiter.waiting) == (0, 0)


@pytest.mark.parametrize("how", ["in flight", "in line"])
def test_who_went_with_a_closed_loop_is_in_nobodys_way(how: str) -> None:
    limiter = RateLimiter(RateLimits(max_concurrent=1), SystemClock())
    loop = asyncio.new_event_loop()
    left = [loop.run_until_complete(limiter.acquire())]
    if how == "in line":
        waiting = loop.create_task(limiter.acquire())
        loop.run_until_complete(asyncio.sleep(0))
        left[0].release()
    loop.close()

    in_loops_of_their_own(limiter.acquire)
    if how == "in line":
        waiting._log_destroy_pending = False  # type: ignore[attr-defined]


def test_who_waits_for_a_loop_that_is_closed_meanwhile_is_served_though_nobody_calls() -> None:
    limiter = RateLimiter(RateLimits(max_concurrent=1), SystemClock())
    loop = asyncio.new_event_loop()
    held = loop.run_until_complete(limiter.acquire())

    async def closes() -> None:
        await until_in_line(limiter, 1)
        loop.close()

    in_loops_of_their_own(limiter.acquire, closes)
    held.release()


def test_a_loop_that_closes_while_its_first_in_line_is_called_fails_nobody() -> None:
    class Closing(asyncio.SelectorEventLoop):
        closes_when_looked_at = False

        def is_closed(self) -> bool:
            was_closed = super().is_closed()
            if self.closes_when_looked_at:
                self.closes_when_looked_at = False
                self.close()
            return was_closed

    limiter = RateLimiter(RateLimits(max_concurrent=1), SystemClock())
    loop = Closing()

    async def gives_back() -> None:
        permit = await limiter.acquire()
        waiting = loop.create_task(limiter.acquire())
        await asyncio.to_thread(loop.run_until_complete, asyncio.sleep(0))
        waiting._log_destroy_pending = False  # type: ignore[attr-defined]
        loop.closes_when_looked_at = True
        permit.release()
        assert loop.is_closed()
        (await limiter.acquire()).release()

    in_loops_of_their_own(gives_back)
    assert (limiter.in_flight, limiter.waiting) == (0, 0)
