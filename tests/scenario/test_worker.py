"""The foreground worker over a real store: what it takes, when it ends, what it reports (contract 08 §5.2)."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial

import msgspec
import pytest
from support.driving import Crash, CrashPoints, S, later_wake, opener, said
from support.scripted import ScriptedCaller, error, text
from support.switching import Switching, switch

from lash_cli.api import LashCore, LeaseTimings, QueueWorker, Stopped, WorkOptions
from lash_cli.core.lease import LeaseOwnerIdentity, LocalProcess
from lash_cli.errors import ConfigError, NotFoundError, QueueHeld, SessionClosed, SessionDeleted, StoreLocked
from lash_cli.runtime.demand import MAX_ATTEMPTS
from lash_cli.runtime.requests import DrainReason, TurnOutput
from lash_cli.runtime.work_events import (
    ActivityShown,
    HeldAfterFailure,
    LaneGivenUp,
    PassFailed,
    SessionLeft,
    SessionTaken,
    TurnEnded,
)
from lash_cli.system import SystemClock, boot_id, host_id


def answering() -> ScriptedCaller:
    return ScriptedCaller([lambda request: text(f"answer to {said(request.messages)[-1]}")], repeat=True)


class Telling:
    """Remembers events and lets a test wait for one."""

    def __init__(self) -> None:
        self.events: list[object] = []
        self._more = asyncio.Event()

    async def __call__(self, event: object) -> None:
        self.events.append(event)
        self._more.set()

    async def until(self, kind: type, count: int = 1) -> None:
        while sum(isinstance(event, kind) for event in self.events) < count:
            self._more.clear()
            await self._more.wait()

    def kinds(self) -> list[str]:
        return [type(event).__name__ for event in self.events if not isinstance(event, ActivityShown)]


def worker_of(core: LashCore, told: Telling | None = None, open_one=None, **options) -> QueueWorker:
    return QueueWorker(core.store, SystemClock(), open_one or opener(core), WorkOptions(**options), on_event=told)


async def sessions(core: LashCore, *names: str) -> None:
    for name in names:
        (await core.open_session(name)).close_handle()


async def test_a_worker_drains_every_session_and_ends_when_all_are_empty(make_core) -> None:
    core = make_core(answering())
    await sessions(core, "a", "b", "c")
    for name in "ab":
        await core.queue(name).enqueue(f"to {name}")
    await core.queue("b").enqueue_work(_draft("b", 1))
    told = Telling()
    report = await worker_of(core, told, until_empty=True, concurrency=4).run()
    assert (report.turns, report.failed, report.errors, report.stopped_by) == (3, 0, 0, "empty")
    assert sorted(report.sessions) == ["a", "b"]
    assert sorted(told.kinds()) == sorted(["SessionTaken", "TurnEnded", "SessionLeft"] * 2 + ["TurnEnded"])
    assert any(isinstance(event, ActivityShown) for event in told.events)


async def test_only_the_named_sessions_are_worked_on(make_core) -> None:
    core = make_core(answering())
    await sessions(core, "a", "b")
    for name in "ab":
        await core.queue(name).enqueue("hello")
    report = await worker_of(core, until_empty=True).run(["b"])
    assert report.sessions == ("b",)
    assert len(await core.queue("a").pending_inputs()) == 1


async def test_a_session_that_cannot_be_worked_on_is_refused_before_anything_is_taken(make_core) -> None:
    core = make_core(answering())
    await sessions(core, "fine", "held", "closed", "deleted")
    await core.queue("fine").enqueue("hello")
    await core.queue("held").hold()
    await core.store.set_session_flags("closed", closed_at_ms=1, parked_at_ms=None)
    await core.delete_session("deleted")
    for name, kind in (
        ("held", QueueHeld),
        ("closed", SessionClosed),
        ("deleted", SessionDeleted),
        ("missing", NotFoundError),
    ):
        with pytest.raises(kind):
            await worker_of(core, until_empty=True).run(["fine", name])
    assert len(await core.queue("fine").pending_inputs()) == 1


async def test_once_gives_every_session_one_pass(make_core) -> None:
    core = make_core(answering())
    await sessions(core, "a", "b")
    for name in "ab":
        for number in range(2):
            await core.queue(name).enqueue_work(_draft(name, number))
    report = await worker_of(core, once=True).run()
    assert (report.turns, report.stopped_by) == (2, "once")
    assert [len(await core.queue(name).pending_batches()) for name in "ab"] == [1, 1]


def _draft(session_id: str, number: int):
    return msgspec.structs.replace(later_wake(number), session_id=session_id)


async def test_a_worker_ends_after_its_number_of_turns_and_starts_no_more(make_core) -> None:
    core = make_core(answering())
    names = [f"s{number}" for number in range(6)]
    await sessions(core, *names)
    for name in names:
        await core.queue(name).enqueue("hello")
    report = await worker_of(core, max_turns=4, concurrency=3).run()
    assert (report.turns, report.stopped_by) == (4, "max_turns")
    assert sum([len(await core.queue(name).pending_inputs()) for name in names]) == 2


async def test_a_turn_that_went_on_in_other_frames_is_one_of_the_number(make_core) -> None:
    core = make_core(ScriptedCaller([switch("f2", "go on"), text("one")]), tools=[Switching()])
    await sessions(core, S)
    await core.queue(S).enqueue("begin")
    told = Telling()
    report = await worker_of(core, told, max_turns=1).run()
    assert (report.turns, report.stopped_by) == (1, "max_turns")
    ended = [event.result.assistant_message() for event in told.events if isinstance(event, TurnEnded)]
    assert ended == [None, "one"]


async def test_an_idle_worker_ends_when_told_to_and_not_before(make_core) -> None:
    core = make_core(answering())
    await sessions(core, S)
    report = await worker_of(core, idle_exit_ms=1).run()
    assert (report.turns, report.stopped_by) == (0, "idle")


async def test_a_waiting_worker_sees_what_another_process_enqueues(make_core) -> None:
    core, other = make_core(answering()), make_core(answering())
    await sessions(core, S)
    told = Telling()
    worker = worker_of(core, told)
    running = asyncio.create_task(worker.run())
    await other.queue(S).enqueue("hello")
    await told.until(TurnEnded)
    worker.stop(10)
    report = await running
    assert (report.turns, report.stopped_by) == (1, "stopped")


async def test_stopping_lets_running_turns_finish_and_takes_nothing_new(make_core) -> None:
    caller = answering()
    caller.gate = asyncio.Event()
    core = make_core(caller)
    await sessions(core, "a", "b")
    for name in "ab":
        await core.queue(name).enqueue("hello")
    worker = worker_of(core)
    running = asyncio.create_task(worker.run())
    await caller.entered.wait()
    worker.stop(30)
    await asyncio.sleep(0)
    caller.gate.set()
    report = await running
    assert (report.turns, report.failed, report.stopped_by) == (1, 0, "stopped")
    assert sum([len(await core.queue(name).pending_inputs()) for name in "ab"]) == 1


@pytest.mark.parametrize("until_empty", [False, True])
async def test_a_worker_that_is_stopped_while_it_looks_for_work_takes_nothing(make_core, until_empty: bool) -> None:
    core = make_core(answering())
    await sessions(core, S)
    await core.queue(S).enqueue("hello")
    told = Telling()
    worker = worker_of(core, told, until_empty=until_empty)
    look = core.store.change_mark

    async def meanwhile() -> int:
        mark = await look()
        worker.stop(30)
        return mark

    core.store.change_mark = meanwhile
    report = await worker.run()
    assert (report.turns, report.stopped_by, told.events) == (0, "stopped", [])
    assert len(await core.queue(S).pending_inputs()) == 1


async def test_after_the_grace_running_turns_are_cancelled_and_committed(make_core) -> None:
    caller = answering()
    caller.gate = asyncio.Event()
    core = make_core(caller)
    await sessions(core, S)
    await core.queue(S).enqueue("hello")
    told = Telling()
    worker = worker_of(core, told)
    running = asyncio.create_task(worker.run())
    await caller.entered.wait()
    worker.stop(0)
    worker.stop(60)  # who asks again does not make it wait longer
    report = await asyncio.wait_for(running, 30)
    (ended,) = [event for event in told.events if isinstance(event, TurnEnded)]
    assert (ended.result.outcome, ended.is_failure) == (Stopped("cancelled"), False)
    assert ended.result.cancellation.origin == "worker"
    assert (report.turns, report.failed, report.held) == (1, 0, ())
    assert await core.running_turn(S) is None


@pytest.mark.parametrize("way", ["stop", "abandon"])
async def test_a_worker_is_stopped_from_any_thread(make_core, way: str) -> None:
    loop = asyncio.get_running_loop()
    loop.set_debug(True)  # what must not be called from there is refused, rather than noticed late
    caller = answering()
    caller.gate = asyncio.Event()
    core = make_core(caller)
    await sessions(core, S)
    worker = worker_of(core)
    running = asyncio.create_task(worker.run())
    await core.queue(S).enqueue("hello")
    await caller.entered.wait()
    await asyncio.to_thread(worker.abandon if way == "abandon" else partial(worker.stop, 0))
    report = await asyncio.wait_for(running, 30)
    assert report.stopped_by == ("abandoned" if way == "abandon" else "stopped")
    worker.stop(0)  # it is over


async def test_an_abandoned_turn_is_left_to_the_next_worker(make_core) -> None:
    caller = answering()
    caller.gate = asyncio.Event()
    core = make_core(caller)
    await sessions(core, S)
    await core.queue(S).enqueue("hello")
    worker = worker_of(core)
    running = asyncio.create_task(worker.run())
    await caller.entered.wait()
    worker.abandon()
    assert (await running).stopped_by == "abandoned"
    left = await core.running_turn(S)
    assert left is not None
    told = Telling()
    report = await worker_of(make_core(answering()), told, until_empty=True).run()
    (ended,) = [event for event in told.events if isinstance(event, TurnEnded)]
    assert (ended.result.turn_id, report.turns) == (left.turn_id, 1)


async def test_a_failed_turn_holds_its_queue_and_the_others_go_on(make_core) -> None:
    def answer(request):
        return error("auth") if "bad" in said(request.messages)[-1] else text("fine")

    core = make_core(ScriptedCaller([answer], repeat=True))
    await sessions(core, "a", "b")
    await core.queue("a").enqueue("bad")
    await core.queue("a").enqueue_work(_draft("a", 1))
    await core.queue("b").enqueue("good")
    told = Telling()
    report = await worker_of(core, told, until_empty=True).run()
    assert (report.turns, report.failed, report.held) == (2, 1, ("a",))
    (paused,) = [event for event in told.events if isinstance(event, HeldAfterFailure)]
    assert paused.reason == "turn_failed:provider_error"
    row = await core.store.session_row("a")
    assert row.meta.hold_reason == "turn_failed:provider_error"
    assert len(await core.queue("a").pending_batches()) == 1
    assert (await worker_of(core, until_empty=True).run()).turns == 0
    await core.queue("a").release()
    assert (await worker_of(core, until_empty=True).run()).turns == 1


async def test_failures_can_be_passed_over(make_core) -> None:
    core = make_core(ScriptedCaller([error("auth"), text("fine")]))
    await sessions(core, S)
    await core.queue(S).enqueue_work(_draft(S, 1))
    await core.queue(S).enqueue_work(_draft(S, 2))
    report = await worker_of(core, until_empty=True, on_failure="continue").run()
    assert (report.turns, report.failed, report.held) == (2, 1, ())


async def test_a_provider_that_cannot_be_used_ends_a_worker_on_named_sessions_only(make_core) -> None:
    core = make_core(answering())
    await sessions(core, S)
    await core.queue(S).enqueue("hello")

    def broken(session_id: str):
        raise ConfigError("no key", code="key_missing")

    with pytest.raises(ConfigError):
        await worker_of(core, open_one=broken, until_empty=True).run([S])
    told = Telling()
    report = await worker_of(core, told, open_one=broken, until_empty=True).run()
    assert (report.turns, report.errors, report.held, report.stopped_by) == (0, 1, (), "empty")
    assert [event.error.code for event in told.events if isinstance(event, PassFailed)] == ["key_missing"]
    assert len(await core.queue(S).pending_inputs()) == 1


async def test_a_fault_of_one_session_does_not_end_the_others(make_core) -> None:
    core = make_core(answering())
    await sessions(core, "a", "b")
    for name in "ab":
        await core.queue(name).enqueue("hello")
    good = opener(core)

    def sometimes(session_id: str):
        if session_id == "a":
            raise RuntimeError("a fault")
        return good(session_id)

    report = await worker_of(core, open_one=sometimes, until_empty=True).run()
    assert (report.turns, report.errors, report.held) == (1, 1, ("a",))


async def test_a_queue_that_was_held_since_a_pass_failed_is_drained_as_soon_as_it_is_released(make_core) -> None:
    core = make_core(answering())
    await sessions(core, S)
    await core.queue(S).enqueue("hello")
    failures, good = [RuntimeError("a fault")], opener(core)

    def once_at_fault(session_id: str):
        if failures:
            raise failures.pop()
        return good(session_id)

    class Repairing(Telling):
        async def __call__(self, event: object) -> None:
            await super().__call__(event)
            if isinstance(event, HeldAfterFailure):
                await core.queue(S).release()

    report = await worker_of(core, Repairing(), open_one=once_at_fault, until_empty=True).run()
    assert (report.turns, report.errors, report.held) == (1, 1, (S,))


@pytest.mark.parametrize("way", ["closed", "deleted"])
async def test_a_session_that_goes_while_it_is_drained_is_no_fault_of_its_queue(make_core, way: str) -> None:
    core = make_core(answering())
    await sessions(core, "a", "b")
    for number in range(3):
        await core.queue("a").enqueue_work(_draft("a", number))
    await core.queue("b").enqueue("hello")

    class Going(Telling):
        async def __call__(self, event: object) -> None:
            await super().__call__(event)
            if isinstance(event, TurnEnded) and self.kinds().count("TurnEnded") == 1:
                if way == "deleted":
                    await core.delete_session("a")
                else:
                    await core.store.set_session_flags("a", closed_at_ms=1, parked_at_ms=None)
            if isinstance(event, PassFailed) and way == "closed":
                await core.store.set_session_flags("a", closed_at_ms=None, parked_at_ms=None)

    told = Going()
    report = await worker_of(core, told, until_empty=True, concurrency=1).run()
    (gone,) = {event.error.code for event in told.events if isinstance(event, PassFailed)}
    assert gone == f"session_{way}"
    assert (report.errors, report.held) == (0, ())
    # Whoever opens it again does not wait for the worker.
    assert report.turns == (2 if way == "deleted" else 4)


class Skipping(SystemClock):
    """A clock on which time passes for who sleeps only, and is over at once."""

    skipped_s = 0.0

    def monotonic(self) -> float:
        return self.skipped_s

    async def sleep(self, seconds: float) -> None:
        self.skipped_s += seconds
        await asyncio.sleep(0)


async def test_a_store_that_stays_locked_is_tried_again_and_holds_no_queue(make_core) -> None:
    core = make_core(answering())
    await sessions(core, S)
    await core.queue(S).enqueue("hello")
    failures = [StoreLocked("busy")] * 9
    good = opener(core)

    def locked(session_id: str):
        if failures:
            raise failures.pop()
        return good(session_id)

    told, clock = Telling(), Skipping()
    report = await QueueWorker(core.store, clock, locked, WorkOptions(until_empty=True), on_event=told).run()
    failed = [event for event in told.events if isinstance(event, PassFailed)]
    assert [event.retry_in_ms for event in failed] == [25, 50, 100, 200, 400, 800, 1000, None]
    assert clock.skipped_s >= sum(event.retry_in_ms or 0 for event in failed) / 1000
    assert (report.turns, report.errors, report.held) == (0, 1, ())
    assert len(await core.queue(S).pending_inputs()) == 1


class SetBack(SystemClock):
    """A wall clock that somebody sets back by an hour."""

    offset_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.offset_ms


async def test_a_clock_that_is_set_back_does_not_prolong_a_workers_rest(make_core) -> None:
    core = make_core(answering())
    await sessions(core, S)
    await core.queue(S).enqueue("hello")
    clock, good, failures = SetBack(), opener(core), [StoreLocked("busy")]

    def locked(session_id: str):
        if failures:
            raise failures.pop()
        return good(session_id)

    class Watching(Telling):
        async def __call__(self, event: object) -> None:
            await super().__call__(event)
            if isinstance(event, PassFailed):
                clock.offset_ms = -3_600_000

    worker = QueueWorker(core.store, clock, locked, WorkOptions(until_empty=True), on_event=Watching())
    async with asyncio.timeout(30):
        assert (await worker.run()).turns == 1


async def test_a_lane_somebody_holds_is_waited_for(make_core) -> None:
    caller = answering()
    caller.gate = asyncio.Event()
    busy = make_core(caller)
    session = await busy.open_session(S)
    running = asyncio.create_task(session.turn("now").run())
    await caller.entered.wait()
    await session.enqueue("later")
    core = make_core(answering())
    working = asyncio.create_task(worker_of(core, until_empty=True).run())
    caller.gate.set()
    await running
    report = await working
    assert report.turns == 1
    await session.refresh()
    assert said(session.read_view().messages) == ["now", "answer to now", "later", "answer to later"]


async def test_a_lane_that_stays_busy_too_long_is_left_to_its_holder(make_core) -> None:
    caller = answering()
    caller.gate = asyncio.Event()
    busy = make_core(caller)
    session = await busy.open_session(S)
    running = asyncio.create_task(session.turn("now").run())
    await caller.entered.wait()
    await session.enqueue("later")
    told = Telling()
    report = await worker_of(make_core(answering()), told, until_empty=True, lease_wait_ms=1).run()
    assert (report.turns, report.stopped_by) == (0, "empty")
    assert [type(event) for event in told.events] == [LaneGivenUp]
    assert len(await session.pending_turn_inputs()) == 1
    caller.gate.set()
    await running


@pytest.mark.parametrize("idle", ["lane_busy", "empty"])
async def test_a_session_that_others_are_always_faster_to_serve_is_never_given_up(make_core, idle: DrainReason) -> None:
    """Each look finds the lane free and something to do, between two turns of somebody else, and each pass finds the
    lane taken, or that it was done."""
    core = make_core(answering())
    await sessions(core, S)
    await core.queue(S).enqueue("hello")
    lost = 0

    @contextlib.asynccontextmanager
    async def open_one(session_id: str):
        async with opener(core)(session_id) as session:
            yield OftenTooLate(session)

    class OftenTooLate:
        def __init__(self, session) -> None:
            self._session = session

        async def drain_once(self, sink):
            nonlocal lost
            if lost < 2 * MAX_ATTEMPTS:
                lost += 1
                return TurnOutput(None, idle=idle)
            return await self._session.drain_once(sink)

    report = await QueueWorker(core.store, Skipping(), open_one, WorkOptions(until_empty=True)).run()
    assert (report.turns, report.errors, report.stopped_by) == (1, 0, "empty")
    assert await core.queue(S).pending_inputs() == ()


async def test_a_turn_of_a_dead_process_is_finished_at_once(make_core) -> None:
    """Its lease would last for hours; that its process is gone can be proved."""
    dead = LeaseOwnerIdentity("dead", "1", LocalProcess(host_id(), boot_id(), 2**22 - 1, "1"))
    hours = LeaseTimings(7_200_000, 2_400_000)
    first = make_core(answering(), crash_point=CrashPoints("before:commit"), lease_timings=hours)
    session = await first.open_session(S, owner=dead)
    release = first.store.release_lease

    async def keep(fence) -> bool:
        return False

    first.store.release_lease = keep
    await session.enqueue("hello")
    with pytest.raises(Crash):
        await session.queued_turn().run()
    first.store.release_lease = release
    assert (await first.store.session_row(S)).lease.token is not None
    report = await worker_of(make_core(answering()), until_empty=True).run()
    assert report.turns == 1


async def test_a_worker_notices_that_a_holder_died_although_nothing_was_written(make_core, monkeypatch) -> None:
    alive = [True]
    monkeypatch.setattr("lash_cli.runtime.lane.is_definitely_dead", lambda holder: not alive[0])
    hours = LeaseTimings(7_200_000, 2_400_000)
    first = make_core(answering(), crash_point=CrashPoints("before:commit"), lease_timings=hours)
    session = await first.open_session(S)

    async def keep(fence) -> bool:
        return False

    first.store.release_lease = keep
    await session.enqueue("hello")
    with pytest.raises(Crash):
        await session.queued_turn().run()
    told = Telling()
    core = make_core(answering())
    worker = worker_of(core, told)
    running = asyncio.create_task(worker.run())
    await asyncio.sleep(0.02)
    assert told.events == []
    alive[0] = False
    await told.until(TurnEnded)
    worker.stop(10)
    assert (await running).turns == 1


async def test_a_long_backlog_gives_its_slot_to_others(make_core) -> None:
    core = make_core(answering())
    await sessions(core, "long", "short")
    for number in range(40):
        await core.queue("long").enqueue_work(_draft("long", number))
    await core.queue("short").enqueue("hello")
    told = Telling()
    report = await worker_of(core, told, until_empty=True).run()
    assert report.turns == 41
    order = [event.session_id for event in told.events if isinstance(event, TurnEnded)]
    assert order.index("short") < 40
    assert sum(isinstance(event, SessionTaken) for event in told.events) == sum(
        isinstance(event, SessionLeft) for event in told.events
    )


async def test_several_workers_use_every_input_once(make_core) -> None:
    core = make_core(answering())
    names = [f"s{number}" for number in range(5)]
    await sessions(core, *names)
    for name in names:
        for number in range(8):
            await core.queue(name).enqueue_work(_draft(name, number))
    workers = [worker_of(make_core(answering()), until_empty=True, concurrency=2) for _ in range(3)]
    reports = await asyncio.gather(*(worker.run() for worker in workers))
    assert sum(report.turns for report in reports) == 40
    assert sum(report.errors for report in reports) == 0
    for name in names:
        assert await core.queue(name).batches() == ()
        session = await core.open_session(name)
        assert len(session.read_view().messages) == 16
        session.close_handle()


class Counted:
    """A store that counts how many sessions its looks for work return."""

    def __init__(self, store) -> None:
        self._store = store
        self.seen = 0

    def __getattr__(self, name: str):
        return getattr(self._store, name)

    async def sessions_with_demand(self, *, limit: int):
        found = await self._store.sessions_with_demand(limit=limit)
        self.seen += len(found)
        return found


@pytest.mark.parametrize("options", [{"until_empty": True}, {"once": True}])
async def test_what_a_worker_looks_at_grows_with_the_sessions_and_not_with_their_square(make_core, options) -> None:
    core = make_core(answering())
    looked_at = []
    for round_, count in enumerate((40, 200)):
        names = [f"r{round_}n{number}" for number in range(count)]
        await sessions(core, *names)
        for name in names:
            await core.queue(name).enqueue("hello")
        store = Counted(core.store)
        report = await QueueWorker(store, SystemClock(), opener(core), WorkOptions(**options)).run()
        assert (report.turns, len(report.sessions)) == (count, count)
        looked_at.append(store.seen / count)
    # Seventy sessions a look and a look for every session is what a worker may need on a slow machine.
    assert looked_at[1] <= max(looked_at[0] * 1.5, 75), looked_at


async def test_the_workers_of_a_core_use_each_text_once_however_many_there_are(make_core) -> None:
    cores = [make_core(answering()), make_core(answering())]
    await sessions(cores[0], "a", "b", "c")
    for name in "abc":
        await cores[0].queue(name).enqueue(f"to {name}")
    told = Telling()
    workers = [core.worker(WorkOptions(until_empty=True), on_event=told) for core in (*cores, cores[0])]
    reports = await asyncio.gather(*(worker.run() for worker in workers))
    assert sum(report.turns for report in reports) == 3
    ended = [event for event in told.events if isinstance(event, TurnEnded)]
    assert sorted(event.session_id for event in ended) == ["a", "b", "c"]
    assert not any([await cores[1].queue(name).pending_inputs() for name in "abc"])
