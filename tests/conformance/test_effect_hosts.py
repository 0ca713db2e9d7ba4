"""The effect-host laws over the inline host and over the SQLite journal, and what a lane holder's journal does."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.clock import ManualClock
from support.made_files import lay
from support.processes import start_process

from lash_cli.core.codec import to_builtins
from lash_cli.core.effect import (
    AwaitEventCommand,
    CheckpointCommand,
    CheckpointOutcome,
    EffectOutcome,
    LlmCallCommand,
    LlmCallOutcome,
    SleepOutcome,
    TurnScope,
    ValueOutcome,
    scope_key,
)
from lash_cli.core.lease import LeaseFence, LeaseTimings
from lash_cli.core.llm import LlmCallRecord, LlmCallResult, LlmResponse
from lash_cli.core.protocols import EffectContext, EffectHost
from lash_cli.core.wait import (
    AwaitEventKey,
    CustomWait,
    ResolvedOk,
    ResolvedTimeout,
    ToolCompletionWait,
    TurnCancelGateWait,
    TurnTerminalWait,
)
from lash_cli.effects import resolver
from lash_cli.effects.host import resolution_of
from lash_cli.effects.inline import InlineEffectHost
from lash_cli.effects.journal import JournalEffectHost
from lash_cli.effects.resolver import MAX_ARCHIVED_CONTROL_KEYS
from lash_cli.errors import EffectError, JournalFault, SessionExecutionLeaseExpired, StoreError, StoreLocked
from lash_cli.store.base import JournalClaim, JournalPrepared
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.effects import (
    SCOPE,
    SESSION,
    DurableEffectHostLaws,
    EffectHostLaws,
    Runs,
    code_of,
    envelope,
    tool_command,
    tool_outcome,
)
from lash_cli.store.conformance.journal import take_lane
from lash_cli.store.sqlite.store import SqliteStore
from lash_cli.system import SystemIds

MODEL = LlmCallCommand("loopback", "m", "base", ("aa",), "shape")
OpenJournalHost = Callable[..., JournalEffectHost]


def model_outcome(call_id: str = "l1") -> LlmCallOutcome:
    return LlmCallOutcome(LlmCallResult(LlmCallRecord(call_id), LlmResponse()))


async def settled() -> None:
    """Let every task come to where it waits."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(tmp_path: Path, clock: ManualClock) -> Iterator[SqliteStore]:
    opened = SqliteStore.open(lay(tmp_path / "lash.db"), clock, SystemIds())
    yield opened
    opened.close()


@pytest.fixture
def open_journal(tmp_path: Path, clock: ManualClock) -> Iterator[OpenJournalHost]:
    opened: list[SqliteStore] = []

    def open_one(**options: Any) -> JournalEffectHost:
        opened.append(SqliteStore.open(lay(tmp_path / "lash.db"), clock, SystemIds()))
        return JournalEffectHost(opened[-1], clock, SystemIds(), **options)

    yield open_one
    for each in opened:
        each.close()


class TestInlineHost(EffectHostLaws):
    """The inline host forgets, and keeps every other law."""

    @pytest.fixture
    def open_host(self, clock: ManualClock) -> Callable[[], EffectHost]:
        return lambda: InlineEffectHost(clock, SystemIds())

    async def test_it_runs_an_effect_every_time(self, open_host: Callable[[], EffectHost]) -> None:
        runs, effects = Runs(tool_outcome()), open_host().scoped(SCOPE)
        for _ in range(2):
            await effects.execute(envelope(tool_command()), runs)
        assert runs.count == 2

    async def test_two_hosts_never_share_a_promise(self, open_host: Callable[[], EffectHost]) -> None:
        first, second = open_host(), open_host()
        key = await first.await_event_key(SCOPE, CustomWait("x"))
        assert (await second.resolve_await_event(key, ResolvedOk(1))).kind == "unknown_or_revoked"
        assert await first.peek_await_event(key) is None

    async def test_completion_keys_are_refused_unless_they_may_die_with_the_process(self, clock: ManualClock) -> None:
        wait = ToolCompletionWait("c1")
        refusing = InlineEffectHost(clock, SystemIds())
        assert await code_of(refusing.await_event_key(SCOPE, wait)) == "tool_completion_key_process_lifetime"
        allowing = InlineEffectHost(clock, SystemIds(), allow_process_lifetime_completion_keys=True)
        key = await allowing.await_event_key(SCOPE, wait)
        assert (await allowing.resolve_await_event(key, ResolvedOk(1))).kind == "accepted"

    async def test_finished_turn_control_is_remembered_up_to_a_bound(self, clock: ManualClock) -> None:
        host = InlineEffectHost(clock, SystemIds())
        turns = MAX_ARCHIVED_CONTROL_KEYS // 2 + 1
        keys = []
        for number in range(turns):
            scope = TurnScope(SESSION, f"t{number}")
            gate, terminal = [
                await host.await_event_key(scope, wait) for wait in (TurnCancelGateWait(), TurnTerminalWait())
            ]
            await host.resolve_await_event(gate, ResolvedOk("gate"))
            await host.resolve_await_event(terminal, ResolvedOk(number))
            keys.append((gate, terminal))
        oldest, latest = keys[0], keys[-1]
        assert [await host.peek_await_event(key) for key in oldest] == [None, None]
        assert [await host.peek_await_event(key) for key in latest] == [ResolvedOk("gate"), ResolvedOk(turns - 1)]

    async def test_a_later_waiter_does_not_move_the_deadline(self, clock: ManualClock) -> None:
        host = InlineEffectHost(clock, SystemIds())
        key = await host.await_event_key(SCOPE, CustomWait("x"))
        first, second = [
            asyncio.create_task(host.await_await_event(key, clock.now_ms() + after_ms)) for after_ms in (1_000, 9_000)
        ]
        await clock.wait_for_sleepers(2)
        assert sorted(clock.slept) == [1.0, 1.0]
        await clock.advance(1)
        assert (await first, await second) == (ResolvedTimeout(), ResolvedTimeout())

    async def test_revoked_sessions_are_remembered_up_to_a_bound(self, clock: ManualClock, monkeypatch) -> None:
        monkeypatch.setattr(resolver, "MAX_REVOKED_SESSIONS", 2)
        host = InlineEffectHost(clock, SystemIds())
        keys = [await host.await_event_key(TurnScope(session, "t"), CustomWait("x")) for session in "abc"]
        for session in "abc":
            await host.revoke_await_events_for_session(session)
        outcomes = [(await host.resolve_await_event(key, ResolvedOk(1))).kind for key in keys]
        assert outcomes == ["accepted", "unknown_or_revoked", "unknown_or_revoked"]


async def test_a_waiter_that_gives_up_too_late_is_told_what_stands(clock: ManualClock) -> None:
    """Somebody may resolve the promise between the waiter's look and its giving up."""
    host = InlineEffectHost(clock, SystemIds())
    key = await host.await_event_key(SCOPE, CustomWait("x"))

    class Board:
        async def peek_await_event(self, key: AwaitEventKey) -> None:
            await host.resolve_await_event(key, ResolvedOk("first"))

        resolve_await_event = host.resolve_await_event

    stands = await resolver.wait_for_terminal(
        Board(), key, clock=clock, bell=asyncio.Event(), polls=False, deadline_ms=clock.now_ms(), cancel=None
    )
    assert stands == ResolvedOk("first")


class TestSqliteJournalHost(DurableEffectHostLaws):
    """The SQL-journalled host over SQLite."""

    @pytest.fixture
    def open_host(self, open_journal: OpenJournalHost) -> OpenJournalHost:
        return open_journal

    @pytest.fixture
    def lease_lost_code(self) -> str:
        return "sqlite_effect_replay_lease_lost"

    @pytest.fixture
    def hash_conflict_code(self) -> str:
        return "sqlite_effect_replay_hash_conflict"


def test_a_wait_hands_over_its_resolution_and_no_other_outcome_has_one() -> None:
    assert resolution_of(ValueOutcome(None)) is None
    assert resolution_of(ValueOutcome(to_builtins(ResolvedOk({"n": 1})))) == ResolvedOk({"n": 1})
    with pytest.raises(EffectError):
        resolution_of(SleepOutcome())


class WatchedStore:
    """A store that tells when a claim was made or renewed, and may keep the news of a claim to itself."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self.renewed = asyncio.Event()
        self.claimed = asyncio.Event()
        self.answers_claims = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def journal_prepare(self, claim: JournalClaim) -> JournalPrepared:
        prepared = await self._store.journal_prepare(claim)
        self.claimed.set()
        if not self.answers_claims:
            await asyncio.Event().wait()
        return prepared

    async def journal_renew(self, scope_key: str, replay_key: str, token: str, expires_at_ms: int) -> bool:
        is_ours = await self._store.journal_renew(scope_key, replay_key, token, expires_at_ms)
        self.renewed.set()
        return is_ours


async def test_a_long_effect_outlives_its_first_lease_because_it_is_renewed(
    store: SqliteStore, clock: ManualClock
) -> None:
    watched = WatchedStore(store)
    host = JournalEffectHost(watched, clock, SystemIds(), LeaseTimings(ttl_ms=30, renew_interval_ms=10))

    async def long(context: EffectContext) -> EffectOutcome:
        clock.tick(0.025)
        await watched.renewed.wait()
        clock.tick(0.025)
        return tool_outcome()

    assert await host.scoped(SCOPE).execute(envelope(tool_command()), long) == tool_outcome()
    (row,) = await store.journal_rows(scope_key(SCOPE))
    assert (row.status, row.attempt) == ("completed", 1)


async def test_an_effect_whose_claim_is_lost_is_cut_off_and_its_outcome_discarded(
    store: SqliteStore, clock: ManualClock
) -> None:
    host = JournalEffectHost(store, clock, SystemIds(), LeaseTimings(ttl_ms=30, renew_interval_ms=10))
    was_cut_off = asyncio.Event()

    async def endless(context: EffectContext) -> EffectOutcome:
        clock.tick(0.030)
        try:
            await asyncio.Event().wait()
        finally:
            was_cut_off.set()
        return tool_outcome()

    with pytest.raises(JournalFault) as caught:
        await host.scoped(SCOPE).execute(envelope(tool_command()), endless)
    assert caught.value.code == "sqlite_effect_replay_lease_lost"
    assert was_cut_off.is_set()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    assert (await store.journal_rows(scope_key(SCOPE)))[0].status == "in_progress"


@pytest.mark.parametrize("ends_by_itself", [True, False])
async def test_who_loses_a_claim_within_a_lane_has_lost_the_lane(
    store: SqliteStore, clock: ManualClock, ends_by_itself: bool
) -> None:
    """A machine that slept while a tool ran lost both, and that is told as everywhere else."""
    await make.create(store, clock, SESSION)
    fence = await take_lane(store, "one", SESSION)
    host = JournalEffectHost(store, clock, SystemIds(), LeaseTimings(ttl_ms=30, renew_interval_ms=10))

    async def asleep(context: EffectContext) -> EffectOutcome:
        clock.tick(0.030)
        if not ends_by_itself:
            await asyncio.Event().wait()
        return tool_outcome()

    with pytest.raises(SessionExecutionLeaseExpired) as caught:
        await host.scoped(SCOPE, fence=fence).execute(envelope(tool_command()), asleep)
    assert caught.value.details == {"session": SESSION}
    assert (await store.journal_rows(scope_key(SCOPE)))[0].status == "in_progress"


async def test_an_effect_that_swallows_its_being_cut_off_records_nothing_either(
    store: SqliteStore, clock: ManualClock
) -> None:
    host = JournalEffectHost(store, clock, SystemIds(), LeaseTimings(ttl_ms=30, renew_interval_ms=10))

    async def stubborn(context: EffectContext) -> EffectOutcome:
        clock.tick(0.030)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return tool_outcome()

    with pytest.raises(JournalFault) as caught:
        await host.scoped(SCOPE).execute(envelope(tool_command()), stubborn)
    assert caught.value.code == "sqlite_effect_replay_lease_lost"
    task = asyncio.current_task()
    assert task is not None and task.cancelling() == 0


async def test_a_renewal_that_fails_does_not_cut_its_effect_off(
    store: SqliteStore, clock: ManualClock, monkeypatch
) -> None:
    host = JournalEffectHost(store, clock, SystemIds(), LeaseTimings(ttl_ms=30, renew_interval_ms=10))
    has_failed = asyncio.Event()

    async def fail(*_: object) -> bool:
        has_failed.set()
        raise StoreLocked("busy")

    async def waiting(context: EffectContext) -> EffectOutcome:
        await has_failed.wait()
        await asyncio.sleep(0)
        return tool_outcome()

    monkeypatch.setattr(store, "journal_renew", fail)
    assert await host.scoped(SCOPE).execute(envelope(tool_command()), waiting) == tool_outcome()


async def test_a_cancelled_effect_stays_cancelled_and_can_be_run_again_at_once(open_journal: OpenJournalHost) -> None:
    started = asyncio.Event()

    async def endless(context: EffectContext) -> EffectOutcome:
        started.set()
        await asyncio.Event().wait()
        return tool_outcome()

    running = asyncio.create_task(open_journal().scoped(SCOPE).execute(envelope(tool_command()), endless))
    await started.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    runs = Runs(tool_outcome())
    await open_journal().scoped(SCOPE).execute(envelope(tool_command()), runs)
    assert runs.contexts == [EffectContext(2, True, None)]


async def test_a_cancel_that_arrives_after_the_claim_was_written_holds_up_no_retry(
    store: SqliteStore, clock: ManualClock
) -> None:
    watched = WatchedStore(store)
    watched.answers_claims = False
    host = JournalEffectHost(watched, clock, SystemIds())
    running = asyncio.create_task(host.scoped(SCOPE).execute(envelope(tool_command()), Runs(tool_outcome())))
    await watched.claimed.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    watched.answers_claims = True
    runs = Runs(tool_outcome())
    assert await host.scoped(SCOPE).execute(envelope(tool_command()), runs) == tool_outcome()
    assert runs.contexts == [EffectContext(1, False, None)], "it had not begun"


async def test_an_effect_that_did_not_begin_for_what_could_not_be_recorded_before_it_was_not_cut_off(
    store: SqliteStore, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make.create(store, clock, SESSION)
    fence = await take_lane(store, "one", SESSION)
    host, runs = JournalEffectHost(store, clock, SystemIds()), Runs(tool_outcome())
    unrecorded = asyncio.get_running_loop().create_future()
    unrecorded.set_exception(StoreError("the disk is full"))
    monkeypatch.setattr(store, "journal_record_later", lambda make: unrecorded)
    effects = host.scoped(SCOPE, fence=fence, fresh=True)
    await effects.execute(envelope(MODEL, "k1"), Runs(model_outcome()))
    with pytest.raises(StoreError, match="full"):
        await effects.execute(envelope(tool_command(), "k2"), runs)
    assert await host.scoped(SCOPE, fence=fence).execute(envelope(tool_command(), "k2"), runs) == tool_outcome()
    assert runs.contexts == [EffectContext(1, False, None)]


@pytest.mark.parametrize("is_done", [False, True], ids=["running", "being-recorded"])
async def test_however_often_an_effect_is_cancelled_it_can_be_run_again_at_once(
    store: SqliteStore, clock: ManualClock, is_done: bool
) -> None:
    """Also where the writer has begun with neither its result nor its release as the last cancel comes."""
    may_write, running_one, started = threading.Event(), asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def occupy(connection: object) -> None:
        loop.call_soon_threadsafe(running_one.set)
        may_write.wait()

    async def effect(context: EffectContext) -> EffectOutcome:
        busy.append(asyncio.ensure_future(store.db.write(occupy, durable=False)))
        await running_one.wait()
        started.set()
        await (asyncio.sleep(0) if is_done else asyncio.Event().wait())
        return tool_outcome()

    busy: list[asyncio.Future[None]] = []
    host = JournalEffectHost(store, clock, SystemIds())
    running = asyncio.create_task(host.scoped(SCOPE).execute(envelope(tool_command()), effect))
    await started.wait()
    try:
        for _ in range(3):
            await settled()
            running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    finally:
        may_write.set()
    await asyncio.gather(*busy)
    runs = Runs(tool_outcome())
    again = JournalEffectHost(store, clock, SystemIds()).scoped(SCOPE).execute(envelope(tool_command()), runs)
    assert await asyncio.wait_for(again, 30) == tool_outcome()
    assert runs.contexts == [EffectContext(2, True, None)]


def test_an_effect_whose_event_loop_was_closed_over_it_can_be_run_again_at_once(
    store: SqliteStore, clock: ManualClock
) -> None:
    async def effect(context: EffectContext) -> EffectOutcome:
        started.set()
        await asyncio.Event().wait()
        return tool_outcome()

    def execute(run: Callable[[EffectContext], Any]) -> Coroutine[Any, Any, EffectOutcome]:
        return JournalEffectHost(store, clock, SystemIds()).scoped(SCOPE).execute(envelope(tool_command()), run)

    started = asyncio.Event()
    loop = asyncio.new_event_loop()
    left = execute(effect)
    loop.create_task(left)._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.run_until_complete(started.wait())
    loop.close()
    left.close()  # as the garbage collector does
    runs = Runs(tool_outcome())
    assert asyncio.run(asyncio.wait_for(execute(runs), 30)) == tool_outcome()
    assert runs.contexts == [EffectContext(2, True, None)]


@pytest.mark.parametrize("damage", ["outcome = NULL", "outcome = x'007b'", "status = 'failed'"])
async def test_a_row_that_contradicts_itself_is_a_fault_and_never_an_answer(
    store: SqliteStore, open_journal: OpenJournalHost, damage: str
) -> None:
    runs = Runs(tool_outcome())
    await open_journal().scoped(SCOPE).execute(envelope(tool_command()), runs)
    await store.db.write(lambda connection: connection.execute(f"UPDATE effects SET {damage}").rowcount, durable=False)
    call = open_journal().scoped(SCOPE).execute(envelope(tool_command()), runs)
    assert await code_of(call) == "sqlite_effect_replay_corrupt_row"
    assert runs.count == 1


async def test_strict_replay_never_runs_what_the_journal_does_not_hold(open_journal: OpenJournalHost) -> None:
    runs = Runs(tool_outcome())
    await open_journal().scoped(SCOPE).execute(envelope(tool_command()), runs)
    strict = open_journal(strict_replay=True).scoped(SCOPE)
    assert await strict.execute(envelope(tool_command()), runs) == tool_outcome()
    missing = strict.execute(envelope(tool_command(), "k2"), runs)
    assert await code_of(missing) == "sqlite_effect_replay_missing"
    assert runs.count == 1


class Crash(BaseException):
    """The process dies here."""


def crash_at(point: str) -> Callable[[str], None]:
    def hook(name: str) -> None:
        if name == point:
            raise Crash(point)

    return hook


async def next_lane(store: SqliteStore, old: LeaseFence) -> LeaseFence:
    await store.release_lease(old)
    return await take_lane(store, "next", SESSION)


async def test_a_fresh_turn_writes_one_row_per_model_call_and_claims_tools_before_they_run(
    store: SqliteStore, clock: ManualClock
) -> None:
    await make.create(store, clock, SESSION)
    fence = await take_lane(store, "one", SESSION)
    names: list[str] = []
    effects = JournalEffectHost(store, clock, SystemIds(), crash_point=names.append).scoped(
        SCOPE, fence=fence, fresh=True
    )
    seen: list[tuple[str, ...]] = []

    async def look(outcome: EffectOutcome) -> EffectOutcome:
        seen.append(tuple(row.status for row in await store.journal_rows(scope_key(SCOPE))))
        return outcome

    await effects.execute(envelope(MODEL, "k1"), lambda context: look(model_outcome()))
    await effects.execute(envelope(tool_command(), "k2"), lambda context: look(tool_outcome()))
    await effects.execute(envelope(CheckpointCommand("after_work"), "k3"), lambda context: look(CheckpointOutcome()))
    assert seen == [(), ("completed", "in_progress"), ("completed", "completed")]
    assert [row.status for row in await store.journal_rows(scope_key(SCOPE))] == ["completed"] * 3
    assert names == [
        "before:model_recorded",
        "after:model_recorded",
        "before:tool_started",
        "after:tool_started",
        "before:tool_recorded",
        "after:tool_recorded",
    ]


@pytest.mark.parametrize("is_fresh", [True, False])
async def test_one_key_asked_twice_in_a_turn_is_answered_from_its_row(
    store: SqliteStore, clock: ManualClock, is_fresh: bool
) -> None:
    await make.create(store, clock, SESSION)
    fence = await take_lane(store, "one", SESSION)
    runs = Runs(model_outcome())
    effects = JournalEffectHost(store, clock, SystemIds()).scoped(SCOPE, fence=fence, fresh=is_fresh)
    for _ in range(2):
        assert await effects.execute(envelope(MODEL), runs) == model_outcome()
    assert runs.count == 1


@pytest.mark.parametrize(
    ("point", "model_runs", "tool_contexts"),
    [
        ("before:model_recorded", 1, [(1, False)]),
        ("after:model_recorded", 0, [(1, False)]),
        ("before:tool_started", 0, [(1, False)]),
        ("after:tool_started", 0, [(2, True)]),
        ("before:tool_recorded", 0, [(2, True)]),
        ("after:tool_recorded", 0, []),
    ],
)
async def test_a_re_drive_repeats_only_what_was_not_recorded_and_says_what_was_cut_off(
    store: SqliteStore, clock: ManualClock, point: str, model_runs: int, tool_contexts: list[tuple[int, bool]]
) -> None:
    await make.create(store, clock, SESSION)
    fence = await take_lane(store, "one", SESSION)
    crashing = JournalEffectHost(store, clock, SystemIds(), crash_point=crash_at(point))
    effects = crashing.scoped(SCOPE, fence=fence, fresh=True)
    with pytest.raises(Crash):
        await effects.execute(envelope(MODEL, "k1"), Runs(model_outcome()))
        await effects.execute(envelope(tool_command(), "k2"), Runs(tool_outcome()))
    fence = await next_lane(store, fence)
    model, tool = Runs(model_outcome()), Runs(tool_outcome())
    effects = JournalEffectHost(store, clock, SystemIds()).scoped(SCOPE, fence=fence)
    assert await effects.execute(envelope(MODEL, "k1"), model) == model_outcome()
    assert await effects.execute(envelope(tool_command(), "k2"), tool) == tool_outcome()
    assert model.count == model_runs
    assert [(context.attempt, context.taken_over) for context in tool.contexts] == tool_contexts


async def test_a_generation_that_lost_its_lane_records_nothing(store: SqliteStore, clock: ManualClock) -> None:
    await make.create(store, clock, SESSION)
    old = await take_lane(store, "one", SESSION)
    effects = JournalEffectHost(store, clock, SystemIds()).scoped(SCOPE, fence=old, fresh=True)

    async def lose_the_lane(context: EffectContext) -> EffectOutcome:
        await next_lane(store, old)
        return model_outcome()

    await effects.execute(envelope(MODEL), lose_the_lane)
    with pytest.raises(SessionExecutionLeaseExpired):
        await effects.settle()
    with pytest.raises(SessionExecutionLeaseExpired):
        await effects.execute(envelope(tool_command(), "k2"), Runs(tool_outcome()))
    assert await store.journal_rows(scope_key(SCOPE)) == ()


async def test_an_error_of_a_fresh_model_call_is_recorded_and_raised_again(
    store: SqliteStore, clock: ManualClock
) -> None:
    await make.create(store, clock, SESSION)
    fence = await take_lane(store, "one", SESSION)
    host, runs = JournalEffectHost(store, clock, SystemIds()), Runs(EffectError("model_gone", "gone"))
    for is_fresh in (True, False):
        call = host.scoped(SCOPE, fence=fence, fresh=is_fresh).execute(envelope(MODEL), runs)
        assert await code_of(call) == "model_gone"
    assert runs.count == 1


async def test_a_fault_within_a_fresh_model_call_is_not_recorded(store: SqliteStore, clock: ManualClock) -> None:
    await make.create(store, clock, SESSION)
    fence = await take_lane(store, "one", SESSION)
    effects = JournalEffectHost(store, clock, SystemIds()).scoped(SCOPE, fence=fence, fresh=True)
    assert await code_of(effects.execute(envelope(MODEL), Runs(JournalFault("store_gone", "gone")))) == "store_gone"
    await effects.settle()
    assert await store.journal_rows(scope_key(SCOPE)) == ()


async def test_no_tool_starts_once_the_journal_turns_out_not_to_have_been_empty(
    store: SqliteStore, clock: ManualClock
) -> None:
    await make.create(store, clock, SESSION)
    fence = await take_lane(store, "one", SESSION)
    host, tool = JournalEffectHost(store, clock, SystemIds()), Runs(tool_outcome())
    first = host.scoped(SCOPE, fence=fence, fresh=True)
    await first.execute(envelope(MODEL), Runs(model_outcome("first")))
    await first.settle()
    second = host.scoped(SCOPE, fence=fence, fresh=True)
    await second.execute(envelope(MODEL), Runs(model_outcome("second")))
    assert await code_of(second.execute(envelope(tool_command(), "k2"), tool)) == "sqlite_effect_replay_corrupt_row"
    assert tool.count == 0


async def test_a_scope_promised_empty_that_is_not_keeps_its_first_record_and_says_so(
    store: SqliteStore, clock: ManualClock
) -> None:
    await make.create(store, clock, SESSION)
    fence = await take_lane(store, "one", SESSION)
    host = JournalEffectHost(store, clock, SystemIds())
    first = host.scoped(SCOPE, fence=fence, fresh=True)
    await first.execute(envelope(MODEL), Runs(model_outcome("first")))
    await first.settle()
    second = host.scoped(SCOPE, fence=fence, fresh=True)
    await second.execute(envelope(MODEL), Runs(model_outcome("second")))
    assert await code_of(second.settle()) == "sqlite_effect_replay_corrupt_row"
    replayed = await host.scoped(SCOPE, fence=fence).execute(envelope(MODEL), Runs(model_outcome("third")))
    assert replayed == model_outcome("first")


async def test_no_later_effect_starts_while_a_record_in_passing_is_refused(
    store: SqliteStore, clock: ManualClock
) -> None:
    await make.create(store, clock, SESSION)
    old = await take_lane(store, "one", SESSION)
    effects = JournalEffectHost(store, clock, SystemIds()).scoped(SCOPE, fence=old, fresh=True)
    await effects.execute(envelope(MODEL), Runs(model_outcome()))
    await effects.settle()
    await next_lane(store, old)
    tool = Runs(tool_outcome())
    with pytest.raises(SessionExecutionLeaseExpired):
        await effects.execute(envelope(tool_command(), "k2"), tool)
    assert tool.count == 0


async def test_a_commit_withdraws_what_is_only_on_its_way_and_leaves_what_is_written(
    store: SqliteStore, clock: ManualClock
) -> None:
    await make.create(store, clock, SESSION)
    fence = await take_lane(store, "one", SESSION)
    effects = JournalEffectHost(store, clock, SystemIds()).scoped(SCOPE, fence=fence, fresh=True)
    await effects.execute(envelope(MODEL), Runs(model_outcome("written")))
    await effects.settle()
    await effects.execute(envelope(MODEL, "k2"), Runs(model_outcome("withdrawn")))
    with effects.superseded():
        await store.renew_lease(fence, ttl_ms=30_000)
    await effects.settle()
    assert [row.replay_key for row in await store.journal_rows(scope_key(SCOPE))] == ["k1"]


async def test_a_commit_that_fails_leaves_the_journal_as_if_it_had_not_been_tried(
    store: SqliteStore, clock: ManualClock
) -> None:
    await make.create(store, clock, SESSION)
    fence = await take_lane(store, "one", SESSION)
    host, runs = JournalEffectHost(store, clock, SystemIds()), Runs(model_outcome("kept"))
    effects = host.scoped(SCOPE, fence=fence, fresh=True)
    await effects.execute(envelope(MODEL), runs)
    with pytest.raises(ValueError, match="no commit"), effects.superseded():
        raise ValueError("no commit")
    await effects.settle()
    assert await host.scoped(SCOPE, fence=fence).execute(envelope(MODEL), runs) == model_outcome("kept")
    assert runs.count == 1


PARKED_OWNER = """
import asyncio, sys
from pathlib import Path
from lash_cli.core.effect import AwaitEventCommand
from lash_cli.core.wait import CustomWait
from lash_cli.effects.journal import JournalEffectHost
from lash_cli.store.conformance.effects import SCOPE, Runs, envelope, tool_command, tool_outcome
from lash_cli.store.sqlite.store import SqliteStore
from lash_cli.system import SystemClock, SystemIds

async def main(path):
    clock = SystemClock()
    host = JournalEffectHost(SqliteStore.open(Path(path), clock, SystemIds()), clock, SystemIds())
    effects = host.scoped(SCOPE)
    await effects.execute(envelope(tool_command(), "k1"), Runs(tool_outcome("before the kill")))
    key = await host.await_event_key(SCOPE, CustomWait("x"))
    async def park(context):
        print("parked", flush=True)
        await host.await_await_event(key)
    await effects.execute(envelope(AwaitEventCommand(key.key_id), "k2"), park)

asyncio.run(main(sys.argv[1]))
"""


def start(script: str, path: Path) -> subprocess.Popen[str]:
    return start_process([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True)


async def test_a_replay_resumes_and_finishes_what_a_killed_process_was_parked_in(tmp_path: Path) -> None:
    path = tmp_path / "lash.db"
    owner = start(PARKED_OWNER, path)
    assert owner.stdout is not None
    assert await asyncio.to_thread(owner.stdout.readline) == "parked\n"
    clock = ManualClock(4_000_000_000_000)
    store = SqliteStore.open(path, clock, SystemIds())
    owner.send_signal(signal.SIGKILL)
    assert await asyncio.to_thread(owner.wait) == -signal.SIGKILL
    owner.stdout.close()
    host = JournalEffectHost(store, clock, SystemIds())
    key = await host.await_event_key(SCOPE, CustomWait("x"))
    await host.resolve_await_event(key, ResolvedOk("after the kill"))
    effects, tool = host.scoped(SCOPE), Runs(tool_outcome("again"))
    assert await effects.execute(envelope(tool_command(), "k1"), tool) == tool_outcome("before the kill")

    async def wait(context: EffectContext) -> EffectOutcome:
        return ValueOutcome(to_builtins(await host.await_await_event(key)))

    awaited = await effects.execute(envelope(AwaitEventCommand(key.key_id), "k2"), wait)
    assert resolution_of(awaited) == ResolvedOk("after the kill")
    assert tool.count == 0
    await store.aclose()


async def test_a_redrive_sees_whether_the_turn_was_in_an_iteration_before(
    store: SqliteStore, clock: ManualClock
) -> None:
    """Rows of an earlier drive count, finished or not; a fresh drive sees only what it began itself."""
    await make.create(store, clock, SESSION)
    fence = await take_lane(store, "one", SESSION)
    host = JournalEffectHost(store, clock, SystemIds())
    first = host.scoped(SCOPE, fence=fence, fresh=True)
    assert not await first.has_any("1:1:")
    await first.execute(envelope(MODEL, "1:1:llm_call:2"), Runs(model_outcome()))
    assert await first.has_any("1:1:") and not await first.has_any("1:2:")
    await first.settle()
    begun = host.scoped(SCOPE, fence=fence)
    assert await begun.has_any("1:1:") and not await begun.has_any("1:2:")
    claim = begun._claim(envelope(tool_command(), "1:2:tool_batch:3"), clock.now_ms(), "token")
    await store.journal_prepare(claim)
    later = host.scoped(SCOPE, fence=await next_lane(store, fence))
    assert await later.has_any("1:2:")
    assert not await later.has_any("1:20:")


async def test_an_inline_host_never_knows_of_an_earlier_drive(clock: ManualClock) -> None:
    effects = InlineEffectHost(clock, SystemIds()).scoped(SCOPE)
    await effects.execute(envelope(MODEL, "1:1:llm_call:2"), Runs(model_outcome()))
    assert not await effects.has_any("1:1:") and not await effects.is_known("1:1:llm_call:2")
    assert await effects.recorded("1:1:llm_call:2") is None


async def test_what_an_earlier_drive_recorded_can_be_read_without_asking_for_it_again(
    store: SqliteStore, clock: ManualClock
) -> None:
    await make.create(store, clock, SESSION)
    fence = await take_lane(store, "one", SESSION)
    host = JournalEffectHost(store, clock, SystemIds())
    first = host.scoped(SCOPE, fence=fence)
    asked = envelope(tool_command(), "done")
    await first.execute(asked, Runs(tool_outcome("there")))
    await store.journal_prepare(first._claim(envelope(tool_command(), "begun"), clock.now_ms(), "token"))
    later = host.scoped(SCOPE, fence=await next_lane(store, fence))
    assert await later.recorded("done") == (asked, tool_outcome("there"))
    assert await later.recorded("begun") is None
    assert await later.recorded("never") is None
