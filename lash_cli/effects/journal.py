"""The host that remembers: every effect is a row of a SQL journal (contract 03 §2.6, design D5).

An effect runs at least once and is observed exactly once: what the journal
recorded first is the answer, whoever computed something else discards it. The
executor's `EffectError` is an answer too and is raised again on every replay.
Faults of the journal itself, cancellation and everything unexpected are never
recorded, so they cannot become permanent.

A turn that holds its session lane (`fence`) pays less than the general loop:
no other writer can exist, so a row of an earlier generation is taken over at
once, and the first drive of a turn (`fresh`) records an effect that is safe to
repeat with one insert, without claiming it first and without waiting for it:
the row is written in passing, within milliseconds and before any later effect
starts, or not at all when the turn is committed before that (`superseded`). A tool
attempt is always claimed before it runs: that row is how a re-drive knows that it may have
happened.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Literal, Protocol

import msgspec

from lash_cli.core.codec import decode
from lash_cli.core.effect import (
    CheckpointCommand,
    EffectEnvelope,
    EffectOutcome,
    ExecutionScope,
    LlmCallCommand,
    PeekAwaitEventCommand,
    SleepCommand,
    ToolAttemptCommand,
    ToolAttemptOutcome,
    ToolHookCommand,
    canonical,
    mismatch_error,
    scope_key,
    scope_session_id,
    validate_envelope,
    validate_scope,
)
from lash_cli.core.lease import LeaseFence, LeaseTimings, lane_lost
from lash_cli.core.protocols import Clock, EffectContext, EffectExecutor, Ids
from lash_cli.effects.host import (
    MS_PER_S,
    decode_error,
    decode_outcome,
    due_at_ms,
    encode_error,
    encode_outcome,
    require_outcome_kind,
    sleep_until,
)
from lash_cli.effects.resolver import StoreResolver
from lash_cli.errors import EffectDiverged, EffectError, JournalFault, LashError
from lash_cli.store.base import JournalClaim, JournalRecording, JournalRow, JournalStore, WaitStore

_log = logging.getLogger("lash.effects")

MAX_HELD_WAIT_MS = 25

# What a call waits for may take a day, so who has begun it is named before its end.
_OTHER_PROGRAM = (
    "the turn was begun with other tools, or another prompt or model; let the program that began it go on with it, "
    "or end it with: "
)
_UNFINISHABLE = "the turn cannot be finished as it was begun; end it with: "

CrashPoint = Callable[[str], None]
MakeRecording = Callable[[], JournalRecording]

# Commands whose repetition nobody can tell: only their outcome is worth a row.
_SAFE_TO_REPEAT = (LlmCallCommand, CheckpointCommand, PeekAwaitEventCommand)


class EffectStore(JournalStore, WaitStore, Protocol):
    """What the host needs of a store."""


class _InPassing(msgspec.Struct, frozen=True, eq=False):
    """A result on its way into the journal."""

    make: MakeRecording
    written: asyncio.Future[bool]


class _Superseded(msgspec.Struct, eq=False):
    """A block that makes results on their way into the journal needless, unless it raises."""

    _unsettled: list[_InPassing]
    _record_later: Callable[[MakeRecording], None]
    _withdrawn: list[MakeRecording] = []

    def __enter__(self) -> None:
        self._withdrawn = [passing.make for passing in self._unsettled if passing.written.cancel()]
        self._unsettled.clear()

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: object) -> None:
        if kind is not None:
            for make in self._withdrawn:
                self._record_later(make)


class JournalEffectHost(StoreResolver):
    """Effects and promises over one store."""

    def __init__(
        self,
        store: EffectStore,
        clock: Clock,
        ids: Ids,
        timings: LeaseTimings | None = None,
        *,
        crash_point: CrashPoint | None = None,
        strict_replay: bool = False,
    ) -> None:
        """`crash_point` is called by name around the writes of model and tool effects. With `strict_replay` an
        effect that has no row is an error (`*_effect_replay_missing`) instead of being run."""
        super().__init__(store, clock)
        self.store = store
        self.ids = ids
        self.clock = clock
        self.timings = timings or LeaseTimings()
        self.owner = ids.new("host")
        self.strict_replay = strict_replay
        self._crash_point = crash_point

    def scoped(
        self, scope: ExecutionScope, *, fence: LeaseFence | None = None, fresh: bool = False
    ) -> JournalScopedEffects:
        """Effects of one scope; see `EffectHost`. `fresh` counts only together with `fence`."""
        return JournalScopedEffects(self, scope, fence, fresh=fresh and fence is not None)

    @property
    def has_crash_point(self) -> bool:
        """Whether somebody wants to be told where the host is."""
        return self._crash_point is not None

    def fault(self, what: str, message: str) -> JournalFault:
        """A fault of the journal under this backend's code."""
        return JournalFault(f"{self.store.effect_code_prefix}_effect_replay_{what}", message)

    def crash_point(self, when: Literal["before", "after"], envelope: EffectEnvelope, what: str) -> None:
        """Tell the injected hook where the host is; model and tool effects, and those of tool hooks, only."""
        if self._crash_point is None:
            return
        if isinstance(envelope.command, ToolAttemptCommand):
            self._crash_point(f"{when}:tool_{what}")
        elif isinstance(envelope.command, ToolHookCommand):
            self._crash_point(f"{when}:hook_{envelope.command.point}_{what}")
        elif isinstance(envelope.command, LlmCallCommand) and what == "recorded":
            self._crash_point(f"{when}:model_{what}")


class JournalScopedEffects:
    """The journal loop for one scope."""

    durability_tier: Literal["inline", "durable"] = "durable"
    supports_concurrent_effects: bool = True

    def __init__(self, host: JournalEffectHost, scope: ExecutionScope, fence: LeaseFence | None, *, fresh: bool):
        validate_scope(scope)
        self.scope = scope
        self._host = host
        self._fence = fence
        self._fresh = fresh
        self._started: set[str] = set()
        self._rows: dict[str, JournalRow] | None = None
        self._unsettled: list[_InPassing] = []

    @cached_property
    def _scope_key(self) -> str:
        """The key of the journal's rows; a turn whose commit supersedes them all never needs it."""
        return scope_key(self.scope)

    async def execute(self, envelope: EffectEnvelope, run: EffectExecutor) -> EffectOutcome:
        """See `ScopedEffects`."""
        validate_envelope(envelope, self.scope)
        key = envelope.invocation.replay_key
        is_first = self._fresh and key not in self._started and not self._host.strict_replay
        if is_first:
            self._started.add(key)
            if isinstance(envelope.command, _SAFE_TO_REPEAT):
                return await self._run_unclaimed(envelope, run)
        claim = self._claim(envelope, self._host.clock.now_ms(), self._host.ids.token())
        if not is_first:
            row = await self._known_row(key)
            if row is not None and row.status != "in_progress":
                return await self._answer(row, claim, envelope)
        return await self._prepare_and_run(claim, envelope, run)

    async def settle(self) -> None:
        """Wait until what was recorded in passing stands in the journal.

        Raises `SessionExecutionLeaseExpired` when the lane was lost meanwhile,
        `JournalFault` when a journal that was promised to be empty was not.
        """
        while self._unsettled:
            if not await self._unsettled.pop(0).written:
                raise self._host.fault("corrupt_row", f"the journal of {self._scope_key} was not empty")

    def superseded(self) -> AbstractContextManager[None]:
        """See `ScopedEffects`. A row the writer has begun with is written all the same, and nobody reads it."""
        return _Superseded(self._unsettled, self._record_later)

    async def is_known(self, replay_key: str) -> bool:
        """See `ScopedEffects`; without a fence only what this object itself started is known."""
        if replay_key in self._started:
            return True
        return self._fence is not None and not self._fresh and replay_key in await self._journal()

    async def recorded(self, replay_key: str) -> tuple[EffectEnvelope, EffectOutcome] | None:
        """See `ScopedEffects`; without a fence nothing is known of earlier drives."""
        if self._fence is None or self._fresh:
            return None
        row = (await self._journal()).get(replay_key)
        return None if row is None else self._read(row)

    async def asked(self, replay_key: str) -> EffectEnvelope | None:
        """See `ScopedEffects`; without a fence nothing is known of earlier drives."""
        if self._fence is None or self._fresh:
            return None
        row = (await self._journal()).get(replay_key)
        if row is None:
            return None
        try:
            return decode(row.envelope.json, EffectEnvelope)
        except msgspec.DecodeError as error:
            raise self._corrupt(replay_key) from error

    async def left_pending(self) -> tuple[tuple[str, ToolAttemptCommand, ToolAttemptOutcome], ...]:
        """See `ScopedEffects`; without a fence nothing is known of earlier drives."""
        if self._fence is None or self._fresh:
            return ()
        found = []
        for row in (await self._journal()).values():
            try:
                known = self._read(row)
            except JournalFault as error:
                # Whoever asks ends the turn, and that must be possible whatever became of its journal.
                _log.warning("a call that was left pending may go on: %s", error)
                continue
            if known is None or not isinstance(known[0].command, ToolAttemptCommand):
                continue
            command, outcome = known[0].command, known[1]
            if isinstance(outcome, ToolAttemptOutcome) and outcome.pending is not None:
                found.append((row.replay_key, command, outcome))
        return tuple(found)

    def _read(self, row: JournalRow) -> tuple[EffectEnvelope, EffectOutcome] | None:
        """What a finished row was asked for and answered; raises `JournalFault` when it cannot be read."""
        if row.status != "completed" or row.outcome is None:
            return None
        try:
            envelope = decode(row.envelope.json, EffectEnvelope)
            return envelope, decode_outcome(row.outcome, envelope.command)
        except msgspec.DecodeError as error:
            raise self._corrupt(row.replay_key) from error

    def _corrupt(self, replay_key: str, problem: str = "does not decode") -> JournalFault:
        """The fault of a row that cannot be used: nor will it be the next time."""
        error = self._host.fault("corrupt_row", f"what the journal has of effect {replay_key} {problem}")
        error.terminal, error.hint = True, self._way_out(_UNFINISHABLE)
        return error

    def _way_out(self, what: str) -> str | None:
        """The hint of an error that stands against finishing the turn; only a session has a turn."""
        session_id = scope_session_id(self.scope)
        return None if session_id is None else f"{what}lash cancel {session_id} --wait"

    async def has_any(self, key_prefix: str) -> bool:
        """See `ScopedEffects`."""
        if any(key.startswith(key_prefix) for key in self._started):
            return True
        return not self._fresh and any(key.startswith(key_prefix) for key in await self._journal())

    def _record_later(self, make: MakeRecording) -> None:
        self._unsettled.append(_InPassing(make, self._host.store.journal_record_later(make)))

    def _claim(self, envelope: EffectEnvelope, now_ms: int, token: str) -> JournalClaim:
        host = self._host
        return JournalClaim(
            scope_key=self._scope_key,
            session_id=scope_session_id(self.scope),
            replay_key=envelope.invocation.replay_key,
            envelope=canonical(envelope),
            owner=host.owner,
            token=token,
            ttl_ms=host.timings.ttl_ms,
            now_ms=now_ms,
            due_at_ms=due_at_ms(envelope, now_ms),
            fence=self._fence,
        )

    async def _journal(self) -> dict[str, JournalRow]:
        """The rows of earlier drives, as they were when the scope was first looked at."""
        if self._rows is None:
            rows = await self._host.store.journal_rows(self._scope_key) if not self._fresh else ()
            self._rows = {row.replay_key: row for row in rows}
        return self._rows

    async def _known_row(self, replay_key: str) -> JournalRow | None:
        """The row of an earlier drive: a lane holder reads its journal once, anybody else asks row by row."""
        if self._fence is None and not self._host.strict_replay:
            return None
        row = (await self._journal()).get(replay_key)
        if row is None and self._host.strict_replay:
            raise self._host.fault("missing", f"the journal has no row for {replay_key}")
        return row

    async def _answer(self, row: JournalRow, claim: JournalClaim, envelope: EffectEnvelope) -> EffectOutcome:
        """What a finished row says; raises the recorded error, or the divergence of the envelope."""
        if row.envelope.hash != claim.envelope.hash:
            code = f"{self._host.store.effect_code_prefix}_effect_replay_hash_conflict"
            error = mismatch_error(code, row.envelope, claim.envelope)
            error.hint = self._way_out(_OTHER_PROGRAM if isinstance(error, EffectDiverged) else _UNFINISHABLE)
            raise error
        recorded = row.outcome if row.status == "completed" else row.error
        if recorded is None:
            raise self._corrupt(row.replay_key, f"is {row.status} and holds no result")
        try:
            answer = decode_outcome(recorded, envelope.command) if row.status == "completed" else decode_error(recorded)
        except msgspec.DecodeError as error:
            raise self._corrupt(row.replay_key) from error
        if isinstance(answer, EffectError):
            raise answer
        if isinstance(envelope.command, SleepCommand) and row.due_at_ms is not None:
            await sleep_until(self._host.clock, row.due_at_ms)
        return answer

    async def _run_unclaimed(self, envelope: EffectEnvelope, run: EffectExecutor) -> EffectOutcome:
        """Run an effect that is safe to repeat and record it with one insert."""
        started_at_ms = self._host.clock.now_ms()
        failure: EffectError | None = None
        outcome: EffectOutcome | None = None
        try:
            outcome = await run(EffectContext())
        except JournalFault:
            raise
        except EffectError as error:
            failure = error
        else:
            require_outcome_kind(envelope.command, outcome)
        self._host.crash_point("before", envelope, "recorded")

        def make() -> JournalRecording:
            return JournalRecording(
                self._claim(envelope, started_at_ms, ""),
                outcome=None if outcome is None else encode_outcome(outcome),
                error=None if failure is None else encode_error(failure),
            )

        self._record_later(make)
        if self._host.has_crash_point:
            await self.settle()
            self._host.crash_point("after", envelope, "recorded")
        if outcome is None:
            assert failure is not None
            raise failure
        return outcome

    async def _prepare_and_run(
        self, claim: JournalClaim, envelope: EffectEnvelope, run: EffectExecutor
    ) -> EffectOutcome:
        """The loop of contract 03 §2.6: until the row is ours or holds the answer."""
        host = self._host
        while True:
            host.crash_point("before", envelope, "started")
            try:
                prepared = await host.store.journal_prepare(claim)
            except asyncio.CancelledError:
                # The write may be under way all the same; writes keep their order, so this one undoes it.
                await self._release(claim, has_begun=False)
                raise
            try:
                # Writes keep their order: what was recorded in passing is settled by now. No effect starts on doubt.
                await self.settle()
            except BaseException:
                await self._release(claim, has_begun=False)
                raise
            host.crash_point("after", envelope, "started")
            row = prepared.row
            match prepared.kind:
                case "claimed":
                    attempt = 1 if row is None else row.attempt
                    context = EffectContext(attempt, prepared.taken_over, prepared.due_at_ms)
                    return await self._run_claimed(claim, envelope, context, run)
                case "recorded":
                    assert row is not None
                    return await self._answer(row, claim, envelope)
                case "held":
                    expires_at_ms = None if row is None else row.lease_expires_at_ms
                    left_ms = MAX_HELD_WAIT_MS if expires_at_ms is None else expires_at_ms - host.clock.now_ms()
                    await host.clock.sleep(max(1, min(MAX_HELD_WAIT_MS, left_ms)) / MS_PER_S)

    async def _run_claimed(
        self, claim: JournalClaim, envelope: EffectEnvelope, context: EffectContext, run: EffectExecutor
    ) -> EffectOutcome:
        from lash_cli.effects.renewal import Renewal  # a turn without tools claims nothing

        host = self._host
        outcome: EffectOutcome | None = None
        failure: EffectError | None = None
        try:
            renewal = Renewal(host.store, host.clock, host.timings, claim, lambda: _lease_lost(host, claim))
            outcome = await renewal.keep(run, context)
            require_outcome_kind(envelope.command, outcome)
            data = encode_outcome(outcome)
        except EffectError as error:
            # A fault or a wrong kind of outcome says nothing about the effect, so it must not stand for it.
            if isinstance(error, JournalFault) or outcome is not None:
                await self._release(claim)
                raise
            failure = error
        except BaseException:
            await self._release(claim)
            raise
        if failure is not None:
            await self._finish(claim, envelope, error=encode_error(failure))
            raise failure
        await self._finish(claim, envelope, outcome=data)
        assert outcome is not None
        return outcome

    async def _finish(
        self, claim: JournalClaim, envelope: EffectEnvelope, *, outcome: bytes | None = None, error: bytes | None = None
    ) -> None:
        """Record; raises the error of `_lease_lost` when the row is no longer ours."""
        host = self._host
        host.crash_point("before", envelope, "recorded")
        try:
            is_ours = await host.store.journal_finish(
                claim.scope_key,
                claim.replay_key,
                claim.token,
                outcome=outcome,
                error=error,
                fence=self._fence,
            )
        except BaseException:
            # What was recorded all the same is not held any more.
            await self._release(claim)
            raise
        host.crash_point("after", envelope, "recorded")
        if not is_ours:
            raise _lease_lost(host, claim)

    async def _release(self, claim: JournalClaim, *, has_begun: bool = True) -> None:
        """Let a retry start at once instead of after the lease; if even that fails, the lease runs out."""
        try:
            await self._host.store.journal_release(claim.scope_key, claim.replay_key, claim.token, has_begun=has_begun)
        except LashError:
            return


def _lease_lost(host: JournalEffectHost, claim: JournalClaim) -> LashError:
    """What is raised for a claim that is not ours any more: within a lane, who loses one has lost the other too."""
    if claim.fence is not None:
        return lane_lost(claim.fence.session_id)
    return host.fault("lease_lost", f"the claim on {claim.replay_key} was lost; its outcome is discarded")
