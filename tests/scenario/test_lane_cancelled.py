"""A task that is cancelled while it takes or gives back a lane leaves none held (contract 02 §5, 01 §13).

The holder is a living process, so nobody else could have the session before the lease expires.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from support.driving import AtPoint, S, unseen
from support.scripted import ScriptedCaller, text

from lash_cli.api import LashCore, LashSession, LeaseTimings, SessionConfigPatch
from lash_cli.core.ingress import BySourceKey
from lash_cli.core.lease import LeaseFence, LeaseOwnerIdentity, SessionExecutionLease
from lash_cli.errors import SessionExecutionBusy, StoreLocked
from lash_cli.runtime import lane
from lash_cli.runtime.cancellation import CancelToken
from lash_cli.runtime.demand import Standing, standing_of
from lash_cli.runtime.gate import keeper_of
from lash_cli.system import SystemClock

CLOCK = SystemClock()
OFTEN = LeaseTimings(600_000, 1)
WAIT_S = 30


class AnswerLost:
    """The store does what it is asked, or with `is_dropped` does not, and its answer never comes."""

    def __init__(self, core: LashCore, name: str, *, is_dropped: bool = False) -> None:
        self.reached = asyncio.Event()
        self._store, self._name = core.store, name
        self._ask = getattr(core.store, name)
        self._is_dropped = is_dropped
        setattr(core.store, name, self)

    async def __call__(self, *arguments: Any, **options: Any) -> Any:
        setattr(self._store, self._name, self._ask)
        if not self._is_dropped:
            await self._ask(*arguments, **options)
        self.reached.set()
        await asyncio.Event().wait()


async def a_pass(session: LashSession) -> None:
    await session.drain_once(unseen)


async def a_command(session: LashSession) -> None:
    await session.cancel_pending_turn_input_suffix(BySourceKey("host:first"))
    await session.commands().reset("why", "k")
    await session.drain_once(unseen)


async def a_change(session: LashSession) -> None:
    await session.configure(SessionConfigPatch(max_turns=3))


@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
@pytest.mark.parametrize(
    ("work", "name", "is_dropped"),
    [
        (a_pass, "open_lane", False),
        (a_pass, "open_lane", True),
        (a_pass, "commit_runtime_state", True),
        (a_pass, "claim_checkpoint_work", False),
        (a_command, "release_lease", True),
        (a_change, "try_claim_lease", False),
        (a_change, "try_claim_lease", True),
        (a_change, "release_lease", True),
    ],
)
async def test_a_cancelled_task_leaves_no_lane_held(
    make_core, work: Callable[[LashSession], Awaitable[None]], name: str, is_dropped: bool, times: int
) -> None:
    core = make_core(ScriptedCaller([text("said")], repeat=True), lease_timings=LeaseTimings(600_000, 200_000))
    session = await core.open_session(S)
    await session.enqueue("hello", id="first")
    lost = AnswerLost(core, name, is_dropped=is_dropped)
    task = asyncio.create_task(work(session))
    await lost.reached.wait()
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await core.store.session_row(S)).lease.token is None

    other = await make_core(ScriptedCaller([text("said")], repeat=True)).open_session(S)
    await other.queued_turn().run()
    assert await other.pending_turn_inputs() == ()


@pytest.mark.parametrize(("work", "names"), [(a_pass, ["open_lane", "try_claim_lease"]), (a_change, ["release_lease"])])
async def test_a_cancelled_task_ends_although_the_store_answers_nobody(
    make_core, monkeypatch, work: Callable[[LashSession], Awaitable[None]], names: list[str]
) -> None:
    monkeypatch.setattr(lane, "CLEANING_S", 0.01)
    core = make_core(ScriptedCaller([text("said")], repeat=True))
    session = await core.open_session(S)
    await session.enqueue("hello")
    reached = asyncio.Event()

    async def never(*arguments: Any, **options: Any) -> Any:
        reached.set()
        await asyncio.Event().wait()

    for name in names:
        monkeypatch.setattr(core.store, name, never)
    task = asyncio.create_task(work(session))
    await reached.wait()
    task.cancel()
    async with asyncio.timeout(30):
        with pytest.raises(asyncio.CancelledError):
            await task
    monkeypatch.undo()


class SlowToEnd:
    """A call that never returns, and takes its time to end when it is cancelled."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.is_ending = asyncio.Event()
        self.may_end = asyncio.Event()

    async def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.reached.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.is_ending.set()
            await self.may_end.wait()

    async def cancels(self, task: asyncio.Task[Any]) -> None:
        """Cancel `task` while it waits for the end of this call."""
        async with asyncio.timeout(WAIT_S):
            await self.is_ending.wait()
            task.cancel()
            await asyncio.sleep(0)
            self.may_end.set()
            with pytest.raises(asyncio.CancelledError):
                await task


def owner(name: str) -> LeaseOwnerIdentity:
    return LeaseOwnerIdentity(name, name)


async def claimed(core: LashCore, name: str) -> SessionExecutionLease:
    lease = await core.store.try_claim_lease(S, owner(name), ttl_ms=600_000, token=name)
    assert isinstance(lease, SessionExecutionLease)
    return lease


@pytest.fixture
async def core(make_core) -> LashCore:
    core = make_core(ScriptedCaller([text("said")], repeat=True))
    session = await core.open_session(S)
    await session.turn("hello").run()
    return core


@pytest.fixture
def renewing(core: LashCore, monkeypatch: pytest.MonkeyPatch) -> SlowToEnd:
    slow = SlowToEnd()
    monkeypatch.setattr(core.store, "renew_lease", slow)
    return slow


async def test_a_task_cancelled_while_a_renewal_ends_is_cancelled_and_gives_its_lane_back(
    core: LashCore, renewing: SlowToEnd
) -> None:
    guard = lane.LaneGuard(core.store, CLOCK, OFTEN, await claimed(core, "a"), lambda: None)
    guard.start()
    await asyncio.wait_for(renewing.reached.wait(), WAIT_S)
    await renewing.cancels(asyncio.create_task(guard.release()))
    assert (await core.store.session_row(S)).lease.token is None


def refuse_releases(core: LashCore, monkeypatch: pytest.MonkeyPatch) -> None:
    async def locked(fence: LeaseFence) -> bool:
        raise StoreLocked("stayed locked")

    monkeypatch.setattr(core.store, "release_lease", locked)


async def a_block(session: LashSession, core: LashCore) -> None:
    async with lane.claimed_lane(core.host, core.store, owner("us"), S):
        raise OSError("the host")


async def a_failing_pass(session: LashSession, core: LashCore) -> None:
    await session.drain_once(unseen)


async def a_cancelled_pass(session: LashSession, core: LashCore) -> None:
    lost = AnswerLost(core, "open_lane")
    task = asyncio.create_task(session.drain_once(unseen))
    await asyncio.wait_for(lost.reached.wait(), WAIT_S)
    task.cancel()
    await task


@pytest.mark.parametrize("work", [a_block, a_failing_pass, a_cancelled_pass])
async def test_a_lane_that_could_not_be_given_back_is_nobodys_in_this_process(
    make_core, monkeypatch: pytest.MonkeyPatch, work: Callable[[LashSession, LashCore], Awaitable[None]]
) -> None:
    def fail() -> None:
        raise OSError("the host")

    monkeypatch.setattr(lane, "_LOOPS", {})
    timings = LeaseTimings(600_000, 200_000)
    caller = ScriptedCaller([text("said")], repeat=True)
    core = make_core(caller, lease_timings=timings, crash_point=AtPoint("before:commit", fail))
    session = await core.open_session(S)
    await session.enqueue("hello", id="first")
    refuse_releases(core, monkeypatch)
    with pytest.raises((OSError, asyncio.CancelledError)):
        await work(session, core)
    assert (await core.store.session_row(S)).lease.token is not None
    assert standing_of(await core.store.demand(S), CLOCK.now_ms()) is Standing.DUE, "nor does a worker wait for it"

    other = await make_core(ScriptedCaller([text("said")], repeat=True), lease_timings=timings).open_session(S)
    await other.queued_turn().run()
    assert await other.pending_turn_inputs() == ()
    assert (await core.store.session_row(S)).lease.token is None
    assert not lane._LOOPS


async def test_who_could_not_give_a_lane_back_may_hold_it_again(make_core, monkeypatch: pytest.MonkeyPatch) -> None:
    timings = LeaseTimings(600_000, 200_000)
    caller = ScriptedCaller([text("said")], repeat=True)
    core = make_core(caller, lease_timings=timings)
    session = await core.open_session(S)
    await session.enqueue("hello", id="first")
    refuse_releases(core, monkeypatch)
    with pytest.raises(asyncio.CancelledError):
        await a_cancelled_pass(session, core)
    monkeypatch.undo()
    caller.gate = asyncio.Event()
    running = asyncio.create_task(session.queued_turn().run())
    await asyncio.wait_for(caller.entered.wait(), WAIT_S)
    other = await make_core(ScriptedCaller([text("other")]), lease_timings=timings).open_session(S)
    with pytest.raises(SessionExecutionBusy):
        await other.turn("mine").run()
    caller.gate.set()
    assert (await running).result.assistant_message() == "said"


async def test_a_lane_granted_while_the_renewal_of_the_one_before_ends_is_given_back_by_who_is_cancelled(
    core: LashCore, renewing: SlowToEnd
) -> None:
    holder = lane.LaneHolder(core.store, CLOCK, OFTEN, lambda: None)
    first = await holder.take(await claimed(core, "a"))
    await asyncio.wait_for(renewing.reached.wait(), WAIT_S)
    await core.store.release_lease(first.fence)
    second = await claimed(core, "b")
    await renewing.cancels(asyncio.create_task(holder.take(second)))
    assert (await core.store.session_row(S)).lease.token == "b"
    await holder.give_back()
    assert (await core.store.session_row(S)).lease.token is None


@pytest.mark.parametrize(("name", "is_dropped"), [("reclaim_lease", False), ("release_lease", True)])
async def test_a_task_cancelled_while_it_frees_the_lane_of_the_dead_does_not_hold_it_instead(
    core: LashCore, monkeypatch: pytest.MonkeyPatch, name: str, is_dropped: bool
) -> None:
    monkeypatch.setattr(lane, "is_provably_dead", lambda session_id, owner: True)
    await claimed(core, "the dead")
    row = await core.store.session_row(S)
    lost = AnswerLost(core, name, is_dropped=is_dropped)
    task = asyncio.create_task(lane.free_dead_lane(core.host, core.store, owner("us"), S, row.lease))
    await asyncio.wait_for(lost.reached.wait(), WAIT_S)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await core.store.session_row(S)).lease.token is None


async def test_a_task_cancelled_while_the_look_at_its_gate_ends_is_cancelled(
    core: LashCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking = SlowToEnd()
    monkeypatch.setattr(core.store, "cancel_requests", looking)

    async def watch() -> None:
        gates, address = keeper_of(core.store), (S, "t")
        token = CancelToken()
        gates.enter(address, token)
        await looking.reached.wait()
        await gates.leave(address, token)

    await looking.cancels(asyncio.create_task(watch()))


async def test_a_cancel_that_is_being_recorded_is_waited_for_by_who_is_cancelled_while_the_look_at_its_gate_ends(
    make_core, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking, may_record, recording = SlowToEnd(), asyncio.Event(), asyncio.Event()
    caller = ScriptedCaller([text("said")], repeat=True)
    caller.gate = asyncio.Event()
    core = make_core(caller)
    session = await core.open_session(S)
    await session.enqueue("hello")
    monkeypatch.setattr(core.store, "cancel_requests", looking)

    async def record(*request: object) -> None:
        recording.set()
        await may_record.wait()

    monkeypatch.setattr(core.store, "request_turn_cancel", record)
    draining = asyncio.create_task(session.drain_once(unseen))
    await asyncio.wait_for(looking.reached.wait(), WAIT_S)
    session.cancel_running_turns()
    await asyncio.wait_for(recording.wait(), WAIT_S)
    await asyncio.wait_for(looking.is_ending.wait(), WAIT_S)
    draining.cancel()
    await asyncio.sleep(0)
    looking.may_end.set()
    for _ in range(20):
        await asyncio.sleep(0)
    assert not draining.done()
    may_record.set()
    with pytest.raises(asyncio.CancelledError):
        await draining
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_clock_that_fails_as_a_lane_was_granted_leaves_none_held(make_core) -> None:
    is_broken = False

    class Broken(SystemClock):
        def monotonic(self) -> float:
            if is_broken:
                raise OSError("no clock")
            return super().monotonic()

    def break_clock() -> None:
        nonlocal is_broken
        is_broken = True

    caller = ScriptedCaller([text("said")], repeat=True)
    core = make_core(caller, clock=Broken(), crash_point=AtPoint("after:lane", break_clock))
    session = await core.open_session(S)
    with pytest.raises(OSError, match="no clock"):
        await session.turn("hello").run()
    is_broken = False
    assert (await core.store.session_row(S)).lease.token is None
    output = await session.turn("and then").run()
    assert [len(output.redriven), output.result.assistant_message()] == [1, "said"]
