"""The in-process driver against a queue of numbers: signals, looks, rests and errors under a manual clock (02 §6.3)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable

import pytest
from support.clock import LIMIT_S, ManualClock, settle

from lash_cli.core.lease import LeaseOwnerIdentity, LeaseRow
from lash_cli.core.outcome import AssistantMessage, AssistantOutput, ExecutionSummary, Finished, TurnResult
from lash_cli.errors import ConfigError, SessionDeleted, StoreLocked
from lash_cli.runtime.demand import PASSES_IN_A_ROW
from lash_cli.runtime.drivers import LONGEST_WAIT_S, QueueDriver
from lash_cli.runtime.requests import TurnOutput
from lash_cli.store.queueing import SessionDemand


def result_of(number: int) -> TurnResult:
    answer = AssistantMessage(str(number))
    shown = AssistantOutput("", "", "usable")
    return TurnResult("s", f"t{number}", Finished(answer), shown, ExecutionSummary(False, False, 0, 0))


class World:
    """Queues of numbers, who holds which lane, and what a pass may raise."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.waiting: Counter[str] = Counter()
        self.commands: Counter[str] = Counter()
        self.held: set[str] = set()
        self.later: dict[str, int] = {}
        self.busy: set[str] = set()
        self.errors: list[Exception] = []
        self.looks: Counter[str] = Counter()
        self.opened: Counter[str] = Counter()
        self.open_now = self.most_open = 0
        self.gate: asyncio.Event | None = None
        self.ended = 0
        self.on_pass: Callable[[str], None] | None = None

    async def demand(self, session_id: str) -> SessionDemand:
        self.looks[session_id] += 1
        if session_id == "deleted":
            raise SessionDeleted("gone")
        lease = LeaseRow()
        if session_id in self.busy:
            lease = LeaseRow(1, "token", LeaseOwnerIdentity("other", "1"), 0, self.clock.now_ms() + 1_000_000)
        due = self.later.get(session_id)
        if due is not None and due <= self.clock.now_ms():
            del self.later[session_id]
            self.waiting[session_id] += 1
            due = None
        has_any = self.waiting[session_id] + self.commands[session_id] > 0
        return SessionDemand(session_id, has_any, None, lease, available_at_ms=due, is_held=session_id in self.held)

    def opener(self, session_id: str):
        world = self

        class Session:
            async def drain_once(self, sink) -> TurnOutput:
                if world.on_pass is not None:
                    world.on_pass(session_id)
                if world.errors:
                    raise world.errors.pop(0)
                if world.gate is not None:
                    await world.gate.wait()
                if world.commands[session_id]:
                    world.commands[session_id] -= 1
                    return TurnOutput(None, idle="commands_only")
                if not world.waiting[session_id]:
                    return TurnOutput(None, idle="empty")
                world.waiting[session_id] -= 1
                world.ended += 1
                return TurnOutput(result_of(world.ended))

            def cancel_running_turns(self, *, origin=None, reason=None) -> int:
                raise AssertionError("a driver never cancels a turn")

        @contextlib.asynccontextmanager
        async def open_one():
            world.opened[session_id] += 1
            world.open_now += 1
            world.most_open = max(world.most_open, world.open_now)
            try:
                yield Session()
            finally:
                world.open_now -= 1

        return open_one()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def world(clock) -> World:
    return World(clock)


@pytest.fixture
async def driver(world, clock):
    made = QueueDriver(world, clock, world.opener, concurrency=2)
    yield made
    await made.aclose()


async def test_a_burst_of_signals_is_one_drive_and_one_rerun(world, driver) -> None:
    world.waiting["a"] = 3
    for _ in range(100):
        driver.notify("a", "queued_turn_input")
    await driver.settled()
    assert world.ended == 3
    assert world.opened["a"] == 1
    assert world.looks["a"] <= 4


async def test_a_signal_during_a_drive_is_remembered_once(world, driver) -> None:
    world.gate = asyncio.Event()
    world.waiting["a"] = 1
    driver.notify("a", "first")
    await settle()
    for _ in range(10):
        driver.notify("a", "second")
    world.waiting["a"] += 1
    world.gate.set()
    await driver.settled()
    assert world.waiting["a"] == 0
    looks = world.looks["a"]
    driver.notify("a", "again")
    await driver.settled()
    assert world.looks["a"] == looks + 1


async def test_a_signal_at_the_very_end_of_a_drive_is_not_lost(world, driver) -> None:
    def arrive(session_id: str) -> None:
        if not world.waiting[session_id] and world.ended == 1:
            world.on_pass = None
            driver.notify(session_id, "late")
            asyncio.get_running_loop().call_soon(world.waiting.update, {session_id: 1})

    world.on_pass = arrive
    world.waiting["a"] = 1
    driver.notify("a", "first")
    await driver.settled()
    assert world.ended == 2


async def test_without_demand_no_session_is_opened(world, driver) -> None:
    driver.notify("a", "session_open")
    await driver.settled()
    assert (world.opened["a"], world.looks["a"]) == (0, 1)


async def test_at_most_so_many_sessions_are_open_at_once(world, driver) -> None:
    world.gate = asyncio.Event()
    for name in "abcdef":
        world.waiting[name] = 1
        driver.notify(name, "x")
    await settle()
    assert world.open_now == 2
    world.gate.set()
    await driver.settled()
    assert (world.ended, world.most_open) == (6, 2)


async def test_a_queue_that_never_ends_gives_its_slot_to_others(world, clock) -> None:
    driver = QueueDriver(world, clock, world.opener, concurrency=1)
    passes: list[str] = []

    def on_pass(session_id: str) -> None:
        passes.append(session_id)
        if session_id == "endless" and len(passes) < 100:
            world.waiting["endless"] += 1  # as by a tool of its own turn

    world.on_pass = on_pass
    world.waiting["endless"] = world.waiting["other"] = 1
    driver.notify("endless", "x")
    driver.notify("other", "x")
    await driver.settled()
    assert passes.index("other") == PASSES_IN_A_ROW
    assert (world.waiting.total(), world.most_open) == (0, 1)
    await driver.aclose()


async def test_a_busy_lane_is_looked_at_ever_more_rarely_and_never_given_up(world, driver, clock, caplog) -> None:
    caplog.set_level(logging.WARNING, "lash.driver")
    world.waiting["a"] = 1
    world.busy.add("a")
    driver.notify("a", "queued_turn_input")
    await clock.advance(10)
    assert world.looks["a"] <= 16 and world.opened["a"] == 0
    before = world.looks["a"]
    for _ in range(50):
        driver.notify("a", "queued_turn_input")
    await clock.advance(10)
    assert world.looks["a"] - before <= 11, "signals do not make it look more often"
    await clock.advance(60)
    assert [record.message.split()[0] for record in caplog.records] == ["wake_contended"] * 2
    world.busy.clear()
    await clock.advance(1)
    await driver.settled()
    assert world.ended == 1


async def test_contention_costs_nothing_of_the_error_budget(world, driver, clock, caplog) -> None:
    world.waiting["a"] = 1
    world.busy.add("a")
    driver.notify("a", "x")
    await clock.advance(30)
    world.busy.clear()
    world.errors = [StoreLocked("busy") for _ in range(7)]
    await clock.advance(10)
    await driver.settled()
    assert world.ended == 1 and not world.errors


async def test_a_lane_given_back_ends_the_rest_at_once(world, driver, clock) -> None:
    world.waiting["a"] = 1
    world.busy.add("a")
    driver.notify("a", "queued_turn_input")
    await clock.advance(20)
    world.busy.clear()
    driver.notify("a", "turn_completed")
    await driver.settled()
    assert world.ended == 1


async def test_what_comes_in_meanwhile_does_not_shorten_the_rest_on_a_busy_lane(world, driver) -> None:
    world.waiting["a"], world.busy = 1, {"a"}
    driver.notify("a", "x")
    await settle()
    for _ in range(10):
        world.waiting["a"] += 1
        driver.notify("a", "queued_turn_input")
        await settle()
    assert world.looks["a"] == 1
    world.busy.clear()
    driver.notify("a", "turn_completed")
    await driver.settled()
    assert world.waiting["a"] == 0


async def test_errors_that_pass_are_tried_eight_times_and_a_new_signal_arms_it_again(
    world, driver, clock, caplog
) -> None:
    caplog.set_level(logging.WARNING, "lash.driver")
    world.waiting["a"] = 1
    world.errors = [StoreLocked("busy") for _ in range(20)]
    driver.notify("a", "x")
    await clock.advance(60)
    await driver.settled()
    assert len(world.errors) == 12
    assert caplog.records[-1].message.startswith("wake_exhausted a (x)")
    world.errors.clear()
    driver.notify("a", "y")
    await driver.settled()
    assert world.ended == 1


async def test_progress_gives_the_error_budget_back(world, driver, clock) -> None:
    world.waiting["a"] = 20
    calls = 0

    def fail_every_second(session_id: str) -> None:
        nonlocal calls
        calls += 1
        if calls % 2 == 0:
            world.errors = [StoreLocked("busy")]

    world.on_pass = fail_every_second
    driver.notify("a", "x")
    await clock.advance(60)
    await driver.settled()
    assert world.ended == 20


@pytest.mark.parametrize("error", [ConfigError("no key", code="key_missing"), RuntimeError("a fault")])
async def test_an_error_that_will_not_pass_ends_the_drive_after_one_attempt(world, driver, caplog, error) -> None:
    caplog.set_level(logging.WARNING, "lash.driver")
    world.waiting.update(a=1, b=1)
    world.errors = [error]
    driver.notify("a", "x")
    await driver.settled()
    assert [record.message.split()[0] for record in caplog.records] == ["wake_terminal"]
    driver.notify("b", "x")
    await driver.settled()
    assert world.ended == 1


async def test_a_deleted_session_is_forgotten_in_silence(world, driver, caplog) -> None:
    caplog.set_level(logging.WARNING, "lash.driver")
    driver.notify("deleted", "x")
    await driver.settled()
    assert caplog.records == []


async def test_a_slow_drain_is_told_and_never_cut_off(world, driver, clock, caplog) -> None:
    caplog.set_level(logging.WARNING, "lash.driver")
    world.gate = asyncio.Event()
    world.waiting["a"] = 1
    driver.notify("a", "x")
    await settle()
    await clock.advance(61)
    assert [record.message.split()[0] for record in caplog.records] == ["wake_slow"] * 2
    world.gate.set()
    await driver.settled()
    assert world.ended == 1


async def test_work_that_is_due_later_is_drained_when_its_time_comes(world, driver, clock) -> None:
    world.later["a"] = clock.now_ms() + 5_000
    driver.notify("a", "x")
    await clock.advance(4)
    assert world.opened["a"] == 0
    await clock.advance(2)
    await driver.settled()
    assert world.ended == 1


async def test_a_signal_during_the_wait_for_what_is_due_later_is_followed_at_once(world, driver, clock) -> None:
    world.later["a"] = clock.now_ms() + 5_000
    driver.notify("a", "x")
    await settle()
    world.waiting["a"] = 1
    driver.notify("a", "y")
    await settle()
    assert world.ended == 1
    await clock.advance(6)
    await driver.settled()
    assert world.ended == 2


async def test_what_is_due_in_many_days_is_looked_at_from_time_to_time(world, driver, clock) -> None:
    """The clock that it is due by may be set forward."""
    world.later["a"] = clock.now_ms() + 86_400_000
    driver.notify("a", "x")
    await settle()
    assert clock.slept == [LONGEST_WAIT_S]


async def test_what_is_due_later_in_a_queue_that_is_held_is_not_waited_for(world, driver, clock) -> None:
    world.later["a"] = clock.now_ms() + 5_000
    world.held.add("a")
    driver.notify("a", "x")
    await asyncio.wait_for(driver.settled(), LIMIT_S)
    assert world.looks["a"] == 1


async def test_commands_are_progress_however_often_they_are_all_there_is(world, driver) -> None:
    world.commands["a"] = 5
    driver.notify("a", "x")
    await driver.settled()
    assert world.commands["a"] == 0


async def test_a_look_that_is_wrong_twice_is_not_believed(world, driver) -> None:
    async def always(session_id: str) -> SessionDemand:
        world.looks[session_id] += 1
        return SessionDemand(session_id, True, None, LeaseRow())

    world.demand = always
    driver._store = world
    driver.notify("a", "x")
    await driver.settled()
    assert world.looks["a"] == 2


async def test_closing_ends_every_drive_where_it_stands(world, driver) -> None:
    world.gate = asyncio.Event()
    world.waiting.update(a=1, b=1, c=1)
    for name in "abc":
        driver.notify(name, "x")
    await settle()
    await driver.aclose()
    assert (world.ended, world.open_now) == (0, 0)
    assert sum(world.waiting.values()) == 3
    driver.notify("a", "too late")
    await driver.settled()
    assert world.looks["a"] == 1


async def test_a_paused_session_is_not_driven_and_goes_on_afterwards(world, driver) -> None:
    world.gate = asyncio.Event()
    world.waiting["a"] = 3
    driver.notify("a", "x")
    await settle()
    entered = asyncio.Event()
    leave = asyncio.Event()

    async def hold() -> None:
        async with driver.paused("a"):
            entered.set()
            await leave.wait()

    holding = asyncio.create_task(hold())
    await settle()
    assert not entered.is_set(), "the pass under way ends first"
    world.gate.set()
    await entered.wait()
    await settle()
    assert world.ended == 1
    leave.set()
    await holding
    await driver.settled()
    assert world.ended == 3


async def test_a_session_that_is_paused_takes_no_slot_from_others(world, clock) -> None:
    """Whoever paused it may wait for one of them."""
    driver = QueueDriver(world, clock, world.opener, concurrency=1)
    world.waiting["a"], world.waiting["b"] = 2, 1
    async with driver.paused("a"):
        driver.notify("a", "x")
        await settle()
        driver.notify("b", "x")
        await settle()
        assert (world.waiting["a"], world.waiting["b"], world.open_now) == (2, 0, 0)
    world.gate = asyncio.Event()
    await settle()
    assert world.open_now == 1, "a pass of it is under way"

    async def hold() -> None:
        async with driver.paused("a"):
            world.waiting["b"] += 1
            driver.notify("b", "x")
            await settle()
            assert (world.waiting["a"], world.waiting["b"], world.open_now) == (1, 0, 0)

    holding = asyncio.create_task(hold())
    await settle()
    world.gate.set()
    await holding
    await driver.settled()
    assert world.waiting["a"] == 0
    await driver.aclose()


def test_a_driver_serves_one_event_loop_after_another(clock) -> None:
    """As a program has it that keeps its core and runs each of its tasks in a loop of its own."""
    world = World(clock)
    driver = QueueDriver(world, clock, world.opener, concurrency=1)

    async def one_loop(*, is_cut_off: bool) -> None:
        world.gate = asyncio.Event()
        async with driver.paused("a"):
            for session_id in ("a", "b", "c"):
                world.waiting[session_id] += 1
                driver.notify(session_id, "x")
            await settle()  # one waits for the end of the pause, one has the slot, and one waits for it
        if is_cut_off:
            return
        world.gate.set()
        await driver.settled()

    asyncio.run(one_loop(is_cut_off=False))
    asyncio.run(one_loop(is_cut_off=True))
    asyncio.run(one_loop(is_cut_off=False))
    assert sum(world.waiting.values()) == 0
    assert world.ended == 9
    asyncio.run(driver.aclose())
