"""Laws of effect hosts (contract 03 §2, §3.3, §11), for any host over any backend.

`EffectHostLaws` hold for every host, `DurableEffectHostLaws` for those that
remember. A test module subclasses them and provides the fixtures `clock` and
`open_host`: each call makes a new host, for durable ones over the same
storage, as a process started later would.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from lash_cli.core.effect import (
    EffectCommand,
    EffectEnvelope,
    EffectInvocation,
    EffectOutcome,
    ExecutionScope,
    PeekAwaitEventCommand,
    ProcessScope,
    SleepCommand,
    SleepOutcome,
    ToolAttemptCommand,
    ToolAttemptOutcome,
    TurnScope,
    ValueOutcome,
)
from lash_cli.core.protocols import EffectContext, EffectHost
from lash_cli.core.tools import ToolCall, success
from lash_cli.core.wait import (
    AwaitEventKey,
    CustomWait,
    ResolvedCancelled,
    ResolvedErr,
    ResolvedOk,
    ResolvedTimeout,
    TurnCancelGateWait,
)
from lash_cli.errors import EffectError, JournalFault, UsageError
from lash_cli.store.conformance.journal import MovableClock
from lash_cli.store.conformance.waits import SCOPE, SESSION, forgeries

TTL_S = 30
# Far enough never to pass, so that a waiter of any host sleeps and a test can tell that it waits.
FAR_MS = 3_600_000


OpenHost = Callable[[], EffectHost]


class Cancel:
    """A cancel signal set by hand."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    @property
    def is_set(self) -> bool:
        """Whether it was set."""
        return self._event.is_set()

    def set(self) -> None:
        """Fire."""
        self._event.set()

    async def wait(self) -> None:
        """Return once set."""
        await self._event.wait()


class Runs:
    """An executor that counts its runs and answers, or raises, what it was given."""

    def __init__(self, *answers: EffectOutcome | BaseException) -> None:
        self.contexts: list[EffectContext] = []
        self._answers = list(answers)

    async def __call__(self, context: EffectContext) -> EffectOutcome:
        """One run."""
        self.contexts.append(context)
        answer = self._answers[min(len(self.contexts), len(self._answers)) - 1]
        if isinstance(answer, BaseException):
            raise answer
        return answer

    @property
    def count(self) -> int:
        """How often it ran."""
        return len(self.contexts)


def envelope(command: EffectCommand, key: str = "k1", scope: ExecutionScope = SCOPE) -> EffectEnvelope:
    """An envelope with this replay key."""
    return EffectEnvelope(EffectInvocation(scope, "e1", key), command)


def tool_command(args: dict[str, Any] | None = None, call_id: str = "c1", attempt: int = 1) -> ToolAttemptCommand:
    """An attempt of three at one call."""
    return ToolAttemptCommand(ToolCall(call_id, "tool", "tool", args or {"path": "a"}), attempt, 3)


def tool_outcome(value: Any = "done") -> ToolAttemptOutcome:
    """A success."""
    return ToolAttemptOutcome(success(value), 5)


async def code_of(call: Awaitable[object]) -> str:
    """The code of the `EffectError` a call raises."""
    with pytest.raises(EffectError) as caught:
        await call
    return caught.value.code


class EffectHostLaws:
    """What holds for every host, also for one that forgets."""

    async def test_an_effect_runs_and_its_outcome_is_returned(self, open_host: OpenHost) -> None:
        runs = Runs(tool_outcome())
        outcome = await open_host().scoped(SCOPE).execute(envelope(tool_command()), runs)
        assert outcome == tool_outcome()
        assert runs.contexts == [EffectContext(attempt=1, taken_over=False, due_at_ms=None)]

    async def test_an_invalid_envelope_is_refused_before_it_runs(self, open_host: OpenHost) -> None:
        runs, effects = Runs(tool_outcome()), open_host().scoped(SCOPE)
        cases = {
            "runtime_effect_replay_required": envelope(tool_command(), key=" "),
            "runtime_effect_tool_attempt_index": envelope(tool_command(attempt=4)),
            "runtime_effect_tool_attempt_call_id": envelope(tool_command(call_id="")),
            "runtime_effect_scope_mismatch": envelope(tool_command(), scope=TurnScope("other", "t1")),
        }
        for code, invalid in cases.items():
            assert await code_of(effects.execute(invalid, runs)) == code
        assert runs.count == 0

    async def test_a_scope_with_a_blank_id_is_refused(self, open_host: OpenHost) -> None:
        with pytest.raises(EffectError) as caught:
            open_host().scoped(TurnScope(SESSION, " "))
        assert caught.value.code == "missing_execution_scope_id"

    async def test_an_outcome_of_another_kind_is_refused(self, open_host: OpenHost) -> None:
        runs = Runs(SleepOutcome())
        call = open_host().scoped(SCOPE).execute(envelope(tool_command()), runs)
        assert await code_of(call) == "runtime_effect_wrong_outcome"

    async def test_a_sleep_is_due_after_its_duration(self, open_host: OpenHost, clock: MovableClock) -> None:
        runs = Runs(SleepOutcome())
        due = clock.now_ms() + 700
        await open_host().scoped(SCOPE).execute(envelope(SleepCommand(700)), runs)
        assert [context.due_at_ms for context in runs.contexts] == [due]

    async def test_an_early_resolution_is_buffered_and_a_duplicate_learns_the_first(self, open_host: OpenHost) -> None:
        host = open_host()
        key = await host.await_event_key(SCOPE, CustomWait("x"))
        assert (await host.resolve_await_event(key, ResolvedOk(1))).kind == "accepted"
        duplicate = await host.resolve_await_event(key, ResolvedOk(2))
        assert (duplicate.kind, duplicate.terminal) == ("already_resolved", ResolvedOk(1))
        assert await host.await_await_event(key) == ResolvedOk(1)
        assert await host.peek_await_event(key) == ResolvedOk(1)

    async def test_a_resolution_is_held_as_it_is_read_again_or_refused_and_nothing_stands(
        self, open_host: OpenHost
    ) -> None:
        host = open_host()
        key = await host.await_event_key(SCOPE, CustomWait("x"))
        broken: tuple[Any, ...] = ("yes", ResolvedErr(404, ""), ResolvedOk(object()), ResolvedOk([float("nan")]))  # type: ignore[arg-type]
        for nonsense in broken:
            with pytest.raises(UsageError) as refused:
                await host.resolve_await_event(key, nonsense)
            assert refused.value.code == "invalid_await_event_resolution"
            assert await host.peek_await_event(key) is None
        await host.resolve_await_event(key, ResolvedOk({"b": (1, 2), "a": -0.0}))
        assert await host.await_await_event(key) == ResolvedOk({"a": -0.0, "b": [1, 2]})

    async def test_a_waiter_of_this_process_is_woken_without_time_passing(
        self, open_host: OpenHost, clock: MovableClock
    ) -> None:
        host = open_host()
        key = await host.await_event_key(SCOPE, CustomWait("x"))
        waiter = asyncio.create_task(host.await_await_event(key, clock.now_ms() + FAR_MS))
        await clock.wait_for_sleepers()
        await host.resolve_await_event(key, ResolvedOk("now"))
        assert await waiter == ResolvedOk("now")

    async def test_a_cancelled_waiter_ends_the_promise_for_everybody(self, open_host: OpenHost) -> None:
        host, cancel = open_host(), Cancel()
        key = await host.await_event_key(SCOPE, CustomWait("x"))
        cancel.set()
        assert await host.await_await_event(key, None, cancel) == ResolvedCancelled()
        late = await host.resolve_await_event(key, ResolvedOk(1))
        assert (late.kind, late.terminal) == ("already_resolved", ResolvedCancelled())

    async def test_a_passed_deadline_ends_the_promise_for_everybody(
        self, open_host: OpenHost, clock: MovableClock
    ) -> None:
        host = open_host()
        key = await host.await_event_key(SCOPE, CustomWait("x"))
        waiter = asyncio.create_task(host.await_await_event(key, clock.now_ms() + 100))
        await clock.wait_for_sleepers()
        clock.tick(0.1)
        assert await waiter == ResolvedTimeout()
        assert (await host.resolve_await_event(key, ResolvedOk(1))).kind == "already_resolved"

    async def test_turn_control_is_never_poisoned_by_a_waiter(self, open_host: OpenHost, clock: MovableClock) -> None:
        host, cancel = open_host(), Cancel()
        key = await host.await_event_key(SCOPE, TurnCancelGateWait())
        assert await code_of(host.await_await_event(key, clock.now_ms())) == "turn_control_wait_timeout"
        cancel.set()
        assert await code_of(host.await_await_event(key, None, cancel)) == "turn_control_wait_cancelled"
        assert await host.peek_await_event(key) is None

    async def test_a_session_cancel_ends_its_pending_waits_and_the_session_stays_usable(
        self, open_host: OpenHost, clock: MovableClock
    ) -> None:
        host = open_host()
        key = await host.await_event_key(SCOPE, CustomWait("x"))
        elsewhere = await host.await_event_key(ProcessScope("p1"), CustomWait("x"))
        waiters = [
            asyncio.create_task(host.await_await_event(each, clock.now_ms() + FAR_MS)) for each in (key, elsewhere)
        ]
        await clock.wait_for_sleepers(2)
        assert await host.cancel_await_events_for_session(SESSION) == 1
        assert await waiters[0] == ResolvedCancelled()
        assert not waiters[1].done()
        fresh = await host.await_event_key(SCOPE, CustomWait("y"))
        assert (await host.resolve_await_event(fresh, ResolvedOk(1))).kind == "accepted"
        await host.resolve_await_event(elsewhere, ResolvedOk(2))
        assert await waiters[1] == ResolvedOk(2)

    async def test_a_revocation_fails_waiters_and_every_key_of_the_session(
        self, open_host: OpenHost, clock: MovableClock
    ) -> None:
        host = open_host()
        key = await host.await_event_key(SCOPE, CustomWait("x"))
        waiter = asyncio.create_task(host.await_await_event(key, clock.now_ms() + FAR_MS))
        await clock.wait_for_sleepers()
        await host.revoke_await_events_for_session(SESSION)
        assert await code_of(waiter) == "await_event_unknown_or_revoked"
        await self._refuses(host, key)
        assert await code_of(host.await_event_key(SCOPE, CustomWait("y"))) == "await_event_unknown_or_revoked"

    @pytest.mark.parametrize("part", range(4), ids=["scope", "wait", "key_id", "signature"])
    async def test_a_key_altered_in_any_part_is_refused(self, open_host: OpenHost, part: int) -> None:
        host = open_host()
        await self._refuses(host, forgeries(await host.await_event_key(SCOPE, CustomWait("x")))[part])

    async def _refuses(self, host: EffectHost, key: AwaitEventKey) -> None:
        assert (await host.resolve_await_event(key, ResolvedOk(1))).kind == "unknown_or_revoked"
        assert await code_of(host.peek_await_event(key)) == "await_event_unknown_or_revoked"
        assert await code_of(host.await_await_event(key)) == "await_event_unknown_or_revoked"


class DurableEffectHostLaws(EffectHostLaws):
    """What holds for a host that remembers (contract 03 §2.6). Needs the fixture `lease_lost_code` and
    `hash_conflict_code`, the backend's names of two faults."""

    async def test_a_replay_answers_from_the_journal_on_any_instance_without_running(self, open_host: OpenHost) -> None:
        runs = Runs(tool_outcome({"big": "x" * 5000}))
        first = await open_host().scoped(SCOPE).execute(envelope(tool_command()), runs)
        again = await open_host().scoped(SCOPE).execute(envelope(tool_command()), runs)
        assert first == again == tool_outcome({"big": "x" * 5000})
        assert runs.count == 1

    async def test_an_effect_error_is_recorded_and_raised_again(self, open_host: OpenHost) -> None:
        runs = Runs(EffectError("tool_broke", "it broke", retryable=True, details={"n": 1}))
        for _ in range(2):
            with pytest.raises(EffectError) as caught:
                await open_host().scoped(SCOPE).execute(envelope(tool_command()), runs)
            assert (caught.value.code, caught.value.message) == ("tool_broke", "it broke")
            assert (caught.value.retryable, caught.value.details) == (True, {"n": 1})
        assert runs.count == 1

    @pytest.mark.parametrize(
        "fault", [JournalFault("store_gone", "gone"), ValueError("a bug"), asyncio.CancelledError()], ids=repr
    )
    async def test_faults_bugs_and_cancellation_are_never_recorded(
        self, open_host: OpenHost, fault: BaseException
    ) -> None:
        runs = Runs(fault, tool_outcome())
        with pytest.raises(type(fault)):
            await open_host().scoped(SCOPE).execute(envelope(tool_command()), runs)
        assert await open_host().scoped(SCOPE).execute(envelope(tool_command()), runs) == tool_outcome()
        assert [(context.attempt, context.taken_over) for context in runs.contexts] == [(1, False), (2, True)]

    async def test_a_wrong_outcome_is_not_recorded(self, open_host: OpenHost) -> None:
        runs, effects = Runs(SleepOutcome(), tool_outcome()), open_host().scoped(SCOPE)
        assert await code_of(effects.execute(envelope(tool_command()), runs)) == "runtime_effect_wrong_outcome"
        assert await effects.execute(envelope(tool_command()), runs) == tool_outcome()

    async def test_a_divergence_names_the_path_hides_the_values_and_runs_nothing(
        self, open_host: OpenHost, hash_conflict_code: str
    ) -> None:
        runs = Runs(tool_outcome())
        await open_host().scoped(SCOPE).execute(envelope(tool_command({"path": "recorded-secret"})), runs)
        with pytest.raises(EffectError) as caught:
            await open_host().scoped(SCOPE).execute(envelope(tool_command({"path": "rebuilt-secret"})), runs)
        assert caught.value.code == hash_conflict_code
        assert caught.value.details["first_divergent_paths"] == ["command.call.args.path"]
        assert "secret" not in caught.value.message + repr(caught.value.details)
        assert runs.count == 1
        assert (
            await open_host().scoped(SCOPE).execute(envelope(tool_command({"path": "recorded-secret"})), runs)
            == tool_outcome()
        )

    async def test_concurrent_replays_of_one_key_run_it_once(self, open_host: OpenHost, clock: MovableClock) -> None:
        release, started = asyncio.Event(), asyncio.Event()
        contexts: list[EffectContext] = []

        async def run(context: EffectContext) -> EffectOutcome:
            contexts.append(context)
            started.set()
            await release.wait()
            return tool_outcome()

        first = asyncio.create_task(open_host().scoped(SCOPE).execute(envelope(tool_command()), run))
        await started.wait()
        second = asyncio.create_task(open_host().scoped(SCOPE).execute(envelope(tool_command()), run))
        await clock.wait_for_sleepers()
        release.set()
        assert await first == tool_outcome()
        await clock.advance(1)
        assert await second == tool_outcome()
        assert len(contexts) == 1

    async def test_children_of_a_fan_out_replay_one_by_one(self, open_host: OpenHost) -> None:
        first = [Runs(tool_outcome(index)) for index in range(4)]
        effects = open_host().scoped(SCOPE)
        for index in (0, 2):
            await effects.execute(envelope(tool_command(call_id=f"c{index}"), f"k{index}"), first[index])
        second = [Runs(tool_outcome(f"again {index}")) for index in range(4)]
        replayed = open_host().scoped(SCOPE)
        outcomes = await asyncio.gather(
            *(
                replayed.execute(envelope(tool_command(call_id=f"c{index}"), f"k{index}"), second[index])
                for index in range(4)
            )
        )
        assert outcomes == [tool_outcome(0), tool_outcome("again 1"), tool_outcome(2), tool_outcome("again 3")]
        assert [runs.count for runs in second] == [0, 1, 0, 1]

    async def test_a_result_computed_after_its_claim_expired_is_discarded(
        self, open_host: OpenHost, clock: MovableClock, lease_lost_code: str
    ) -> None:
        async def slow(context: EffectContext) -> EffectOutcome:
            clock.tick(TTL_S)
            return tool_outcome("late")

        assert await code_of(open_host().scoped(SCOPE).execute(envelope(tool_command()), slow)) == lease_lost_code
        runs = Runs(tool_outcome("second"))
        assert await open_host().scoped(SCOPE).execute(envelope(tool_command()), runs) == tool_outcome("second")
        assert [(context.attempt, context.taken_over) for context in runs.contexts] == [(2, True)]

    async def test_a_reclaimed_sleep_keeps_its_due_time_and_a_replay_waits_for_it(
        self, open_host: OpenHost, clock: MovableClock
    ) -> None:
        due = clock.now_ms() + 600_000
        with pytest.raises(ValueError, match="cut off"):
            await open_host().scoped(SCOPE).execute(envelope(SleepCommand(600_000)), Runs(ValueError("cut off")))
        clock.tick(400)
        runs = Runs(SleepOutcome())
        await open_host().scoped(SCOPE).execute(envelope(SleepCommand(600_000)), runs)
        assert [context.due_at_ms for context in runs.contexts] == [due]
        replay = asyncio.create_task(open_host().scoped(SCOPE).execute(envelope(SleepCommand(600_000)), runs))
        await clock.wait_for_sleepers()
        await clock.advance(199.9)
        assert not replay.done()
        await clock.advance(0.2)
        assert await replay == SleepOutcome()
        assert runs.count == 1

    async def test_a_replayed_peek_sees_what_the_first_look_saw(self, open_host: OpenHost) -> None:
        host = open_host()
        key = await host.await_event_key(SCOPE, CustomWait("x"))
        look = envelope(PeekAwaitEventCommand(key.key_id))
        assert await host.scoped(SCOPE).execute(look, Runs(ValueOutcome(None))) == ValueOutcome(None)
        await host.resolve_await_event(key, ResolvedOk(1))
        assert await open_host().scoped(SCOPE).execute(look, Runs(ValueOutcome(1))) == ValueOutcome(None)

    async def test_keys_are_equal_and_resolutions_seen_across_instances(
        self, open_host: OpenHost, clock: MovableClock
    ) -> None:
        waiting, resolving = open_host(), open_host()
        key = await waiting.await_event_key(SCOPE, CustomWait("x"))
        assert key == await resolving.await_event_key(SCOPE, CustomWait("x"))
        waiter = asyncio.create_task(waiting.await_await_event(key))
        await clock.wait_for_sleepers()
        await resolving.resolve_await_event(key, ResolvedOk("over there"))
        await clock.advance(1)
        assert await waiter == ResolvedOk("over there")

    async def test_a_waiter_after_a_crash_keeps_the_first_deadline(
        self, open_host: OpenHost, clock: MovableClock
    ) -> None:
        host = open_host()
        key = await host.await_event_key(SCOPE, CustomWait("x"))
        deadline_ms = clock.now_ms() + 60_000
        crashed = asyncio.create_task(host.await_await_event(key, deadline_ms))
        await clock.wait_for_sleepers()
        crashed.cancel()
        await asyncio.gather(crashed, return_exceptions=True)
        clock.tick(60)
        assert await open_host().await_await_event(key, clock.now_ms() + 60_000) == ResolvedTimeout()

    async def test_equal_keys_of_two_sessions_are_two_effects(self, open_host: OpenHost) -> None:
        other = TurnScope("s-other", "t1")
        host, mine, theirs = open_host(), Runs(tool_outcome("mine")), Runs(tool_outcome("theirs"))
        assert await host.scoped(SCOPE).execute(envelope(tool_command()), mine) == tool_outcome("mine")
        outcome = await host.scoped(other).execute(envelope(tool_command(), scope=other), theirs)
        assert outcome == tool_outcome("theirs")
