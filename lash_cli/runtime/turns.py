"""One turn from lane to commit (design §3, contract 01 §5.4).

A turn's text becomes safe in the lane transaction, its effects are journalled
while it runs, and everything it said is written by one terminal commit. A turn
that a crash cut off is driven again under its own id: finished effects are
read, the unfinished one runs again, and the commit is the same. A turn that
hands on to another agent frame keeps the lane, and the next one starts from
the task it left in the queue.
"""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine
from typing import Any

import msgspec

from lash_cli.core.activity import Committed, QueuedWorkStarted, TurnFinished, TurnStarted, finished_id
from lash_cli.core.attachments import has_bytes
from lash_cli.core.codec import from_builtins
from lash_cli.core.commit import COMMIT_TOO_LARGE
from lash_cli.core.content import Message, TurnInput, options_over, user_message
from lash_cli.core.delivery import TurnClaims, turn_options, work_causes, work_messages
from lash_cli.core.effect import TurnScope
from lash_cli.core.ingress import ingress_message_id, materialise
from lash_cli.core.lease import LeaseOwnerIdentity, lane_lost
from lash_cli.core.machine_assembly import assemble_outcome
from lash_cli.core.machine_records import CheckpointDelivery, CheckpointEffect, DoneEffect
from lash_cli.core.outcome import Stopped, TurnCancellationEvidence, TurnIssue, TurnResult
from lash_cli.core.policy import SessionPolicy
from lash_cli.core.protocols import ModelCaller
from lash_cli.errors import (
    LashError,
    LashRuntimeError,
    RuntimeTurnCommitConflict,
    SessionClosed,
    SessionDeleted,
    StoreClosed,
    TurnCancelWon,
)
from lash_cli.runtime.attachments import stored_input
from lash_cli.runtime.cancellation import CancelCause, CancelToken
from lash_cli.runtime.checkpoints import Checkpoints
from lash_cli.runtime.context import is_room_due
from lash_cli.runtime.drive import Drive, TurnDriver, text_only, time_limit
from lash_cli.runtime.entering import LaneEntry
from lash_cli.runtime.frames import chain_of
from lash_cli.runtime.gate import LocalCancel, keeper_of
from lash_cli.runtime.host import RuntimeHost
from lash_cli.runtime.lane import LaneGuard
from lash_cli.runtime.phases import START_GATE, TurnPhase, in_named, in_phase
from lash_cli.runtime.previews import PreviewPublisher
from lash_cli.runtime.requests import DrainReason, Sink, TurnOutput, TurnRequest
from lash_cli.runtime.results import result_of
from lash_cli.runtime.session import ResidentSession, is_refused
from lash_cli.runtime.state import TurnPlan, plan_of, policy_of_plan
from lash_cli.runtime.turn_commit import is_cut, terminal_commit, what_fits
from lash_cli.store.base import LaneBusy, LaneGranted, LaneIdle, RuntimePersistence, TurnRecord, busy_error


def run_turn(
    host: RuntimeHost,
    session: ResidentSession,
    owner: LeaseOwnerIdentity,
    request: TurnRequest,
    token: CancelToken,
    sink: Sink,
) -> Awaitable[TurnOutput]:
    """Run a request to its end while the caller holds the session's writer lock.

    Raises `SessionExecutionBusy` (nothing written; a pass over the queue
    answers `lane_busy` instead), `ConfigError` for an unusable provider
    (nothing written), `SessionExecutionLeaseExpired` when the lane was lost,
    `StoreError` when the commit's outcome is unknown, and `EffectError` when a
    crashed turn cannot be replayed faithfully. Everything else a turn can meet
    is an outcome.
    """
    if host.store is not None:
        return DurableTurn(host, session, owner, request, token, sink, host.store).run_traced()
    from lash_cli.runtime.ephemeral import EphemeralTurn  # with a store nobody asks for it

    return EphemeralTurn(host, session, request, token, sink).run_traced()


class _Ended(msgspec.Struct, frozen=True):
    """A physical turn that committed: its result, and the next one with the batch that hands on to it."""

    result: TurnResult
    handoff: tuple[str, str] | None = None


class DurableTurn(TurnDriver):
    """A request over a stored session."""

    previews: PreviewPublisher | None

    def __init__(
        self,
        host: RuntimeHost,
        session: ResidentSession,
        owner: LeaseOwnerIdentity,
        request: TurnRequest,
        token: CancelToken,
        sink: Sink,
        store: RuntimePersistence,
    ) -> None:
        super().__init__(host, session, request, token, sink)
        self.owner = owner
        self.store = store
        # Without the provider of the request: a turn that is finished first has nothing to do with it.
        self._shared_host = host
        # Knows the token and not this object: in a circle with its lane a turn, and all it has shown, would outlive its
        # end until the garbage collector comes by.
        self._entry = LaneEntry(
            self.host, store, session, owner, request, lambda: token.trip(CancelCause.LEASE_LOST), token
        )
        self._redriven: list[TurnResult] = []
        self._has_waiting = False

    async def run(self) -> TurnOutput:
        """Run the request; whatever happens, the lane is not left held, unless a commit's outcome is unknown."""
        request, session = self.request, self.session
        try:
            await self._entry.find_provider()
            if request.input is not None and has_bytes(request.input):
                self._entry.hand_in(await self._with_stored_bytes(request.input))
            before: tuple[TurnResult, ...] = ()
            while True:
                outcome = await self._entry.enter()
                if not isinstance(outcome, LaneGranted):
                    return self._nothing(outcome)
                if outcome.committed:
                    before, following = await self._answered(outcome.turn)
                    if following is None:
                        return self._replayed(before)
                    outcome = following
                if outcome.turn is None:
                    return self._output(None)
                is_other = outcome.redrive and outcome.turn.turn_id != self._entry.turn_id
                if outcome.redrive and session.replaces_graph:
                    # It began on what this handle is to replace with its next commit, and ends there, with all that it
                    # leads to.
                    self._drive_on(session.unloaded(self.host.clock.now_ms()))
                own_host = self.host
                try:
                    if is_other:
                        self.host = self._shared_host
                    with time_limit(request.timeout_ms if not outcome.redrive else None, self.token):
                        results = await self._drive_chain(outcome, outcome.turn)
                finally:
                    self.host = own_host
                    self._drive_on(session)
                if not outcome.redrive or self._is_whole_wish(outcome.turn.turn_id):
                    return self._output(results[-1], frames=(*before, *results[:-1]))
                self._redriven += results
                self.token.forget_request()
        finally:
            await self._entry.leave()

    def _drive_on(self, session: ResidentSession) -> None:
        self.session = session
        self._entry.drive_on(session)

    def _is_whole_wish(self, finished_turn_id: str) -> bool:
        """Whether finishing an unfinished turn was all there was to do: a re-drive, the very turn asked for, or a
        pass over the queue that named no batch."""
        if self.request.drain is not None:
            return not self.request.drain.batch_ids
        return self.request.input is None or finished_turn_id == self._entry.turn_id

    async def _with_stored_bytes(self, turn_input: TurnInput) -> TurnInput:
        """The input as its row may hold it: attachment bytes stand in the store first."""
        return await stored_input(
            self.store,
            self.session.session_id,
            turn_input,
            now_ms=self.host.clock.now_ms(),
            policy=self.host.attachments,
        )

    def _output(
        self, result: TurnResult | None, *, frames: tuple[TurnResult, ...] = (), replayed: bool = False
    ) -> TurnOutput:
        return TurnOutput(
            result,
            replayed=replayed,
            redriven=tuple(self._redriven),
            frames=frames,
            commands=tuple(self._entry.commands),
            has_waiting=self._has_waiting,
        )

    def _nothing(self, outcome: LaneIdle | LaneBusy) -> TurnOutput:
        """What a pass over the queue answers when it starts no turn."""
        nothing = self._output(None)
        if isinstance(outcome, LaneBusy):
            return msgspec.structs.replace(nothing, idle="lane_busy", busy_until_ms=outcome.expires_at_ms)
        reason: DrainReason = "commands_only" if nothing.commands and outcome.reason == "empty" else outcome.reason
        return msgspec.structs.replace(nothing, idle=reason, available_at_ms=outcome.available_at_ms)

    async def _drive_chain(self, granted: LaneGranted, turn: TurnRecord) -> tuple[TurnResult, ...]:
        """Drive the granted turn, and those of the frames it hands on to, under one lane; their results in order."""
        results: list[TurnResult] = []
        while True:
            ended = await self._drive_granted(granted, turn)
            results.append(ended.result)
            following = None if ended.handoff is None else await self._follow(*ended.handoff)
            if following is None or following.turn is None:
                return tuple(results)
            granted, turn = following, following.turn

    async def _follow(self, turn_id: str, batch_id: str) -> LaneGranted | None:
        """The turn a handoff starts; None when the queue was held or the task cancelled meanwhile: then the handoff is
        ordinary queued work, or none any more."""
        try:
            outcome = await self._entry.follow(turn_id, batch_id)
        except (SessionClosed, SessionDeleted):
            return None
        return outcome if isinstance(outcome, LaneGranted) and not outcome.committed else None

    async def _drive_granted(self, granted: LaneGranted, turn: TurnRecord) -> _Ended:
        if granted.claim is None and granted.work is None:
            raise LashRuntimeError("turn_without_claim", f"turn {turn.turn_id} was started from nothing")
        gates, address = keeper_of(self.store), (self.session.session_id, turn.turn_id)
        cancel = LocalCancel(self.store, address, self.token, self.host.clock)
        gates.enter(address, self.token)
        try:
            with self.token.telling(cancel.record):
                # Whose id was drawn just now is known to nobody; any other turn may have been asked to stop.
                is_known = self.request.turn_id is not None or self.request.drain is not None
                if granted.redrive or is_known or granted.work is not None:
                    with in_named(self.session.phase_probe, START_GATE):
                        await gates.look(address, self.token)
                return await self._drive_turn(granted, turn)
        except StoreClosed as closed:
            # It refused what came last; the turn stands there begun.
            closed.ambiguous = True
            closed.hint = closed.hint or "open the store again: whoever uses the session next finishes the turn"
            raise
        finally:
            try:
                await gates.leave(address, self.token)
            finally:
                await cancel.settle()

    async def _drive_turn(self, granted: LaneGranted, turn: TurnRecord) -> _Ended:
        session = self.session
        if not granted.redrive:
            return await self._drive_planned(granted, turn, self._entry.plan, session.policy)
        if session.is_behind(granted.head):
            await session.refresh()
        wanted = session.policy
        began = granted.claim or granted.work
        plan = plan_of(turn, None if began is None else began.claim_id) or self._entry.planned()
        policy = policy_of_plan(wanted, plan)
        # What somebody configured after the crash stands: the commit of the old turn must not write over it.
        if plan.head_revision == session.head_revision:
            session.set_policy(policy)
        is_done = False
        try:
            ended = await self._drive_planned(granted, turn, plan, policy)
            is_done = True
        finally:
            # What the caller of this open asked for comes back.
            if session.is_policy_explicit or not is_done:
                session.set_policy(wanted)
        return ended

    async def _drive_planned(
        self, granted: LaneGranted, turn: TurnRecord, plan: TurnPlan, policy: SessionPolicy
    ) -> _Ended:
        session, guard = self.session, self._entry.lane.guard
        effects = self.host.effects.scoped(
            TurnScope(session.session_id, turn.turn_id), fence=guard.fence, fresh=not granted.redrive
        )
        # A turn that is to stop asks no model. A re-drive must see what its journal saw, so it makes room only where
        # the turn has done nothing yet.
        is_due = not self.token.is_set and is_room_due(self.host, session)
        if is_due and not (granted.redrive and await effects.has_any("")):
            await self._make_room(guard)
        drive = Drive(
            turn_id=turn.turn_id,
            turn_index=turn.turn_index,
            policy=policy,
            core_prompt=plan.core_prompt,
            max_turns=plan.max_turns,
            cost_limit=plan.cost_limit,
            claims=TurnClaims(granted.claim, granted.work),
            chain=chain_of(turn.turn_id, granted.work),
            effects=effects,
            caller=self._caller(policy, is_redrive=granted.redrive),
            is_redrive=granted.redrive,
            started_at_ms=turn.started_at_ms,
            started_monotonic=guard.granted_at,
            turn_prompt=plan.turn_prompt,
            builtins=plan.builtins,
            options=options_over(plan.frame_options, turn_options(granted.claim, granted.work)),
        )
        previews = self.previews = PreviewPublisher(self.store.live, session.session_id, guard.fence.fencing_token)
        if granted.redrive:
            await previews.take_over(turn.turn_id, self.host.ids.new("a"))
        row = f"{turn.turn_id}:turn"
        await self.emit(drive, TurnStarted(turn.origin, drive.claims.input_ids, granted.redrive), row)
        if granted.work is not None:
            causes = work_causes(granted.work.batches)
            await self.emit(drive, QueuedWorkStarted("idle", drive.claims.batch_ids, causes), row)
        surface = session.registry.surface
        try:
            return await self._run_and_commit(granted, drive, guard)
        except BaseException:
            if session.saved_tool_generation != session.registry.generation:
                # Tools that it found and did not commit: who drives it again offers the model what it was offered, and
                # finds them again.
                session.registry.roll_back(surface)
            raise
        finally:
            previews.flush()

    def _caller(self, policy: SessionPolicy, *, is_redrive: bool) -> ModelCaller | None:
        """Who is asked. A turn that is to stop asks nobody, and ends although its provider is gone."""
        try:
            return self.host.providers.resolve(policy.provider_id)
        except LashError as error:
            if self.token.is_cancellation:
                return None
            if is_redrive:
                # Another choice would not reach it: a turn keeps its plan (docs/decisions/0004).
                end = f"lash cancel {self.session.session_id} --wait"
                error.hint = f"the turn that was cut off needs that provider; end it without with: {end}"
            raise

    async def _make_room(self, guard: LaneGuard) -> None:
        """Compact the context first: there is hardly room for another turn."""
        from lash_cli.runtime.compaction import make_room  # hardly any turn of a session needs it

        try:
            await make_room(self.host, self.store, self.session, guard.fence, self.token)
        except LashError as error:
            if error.ambiguous:
                guard.withhold()
            raise

    def pass_checkpoint(self, drive: Drive, effect: CheckpointEffect) -> Coroutine[Any, Any, CheckpointDelivery]:
        """What the queue has for the running turn, taken and recorded."""
        return Checkpoints(self, drive, self.store, self._entry.lane.guard.fence).pass_one(effect)

    async def _opening(self, granted: LaneGranted, drive: Drive) -> tuple[tuple[Message, ...], TurnIssue | None]:
        """The messages a turn begins with: its inputs as one user message, then its work; and why the inputs cannot
        be used, if they cannot."""
        work = work_messages(granted.work.batches) if granted.work is not None else ()
        if granted.claim is None:
            return work, None
        given = materialise(granted.claim.inputs)
        message_id = ingress_message_id(granted.claim.inputs[0].input_id)
        usable = await self.normalised(given, drive)
        if isinstance(usable, TurnIssue):
            return (user_message(message_id, text_only(given)), *work), usable
        return (user_message(message_id, usable), *work), None

    async def _run_and_commit(self, granted: LaneGranted, drive: Drive, guard: LaneGuard) -> _Ended:
        opening, issue = await self._opening(granted, drive)
        if drive.options is not None and issue is None:
            from lash_cli.runtime.structured import options_issue

            issue = options_issue(drive.options)
        if issue is not None:
            done = DoneEffect(Stopped("invalid_input"), opening, (issue,))
        else:
            with in_phase(self.session.phase_probe, TurnPhase.EFFECT_LOOP):
                done = await self.drive_machine(drive, opening)
        guard.check()
        evidence = self.token.evidence_for(drive.turn_id) if self.token.is_cancellation else None
        return await self._commit(drive, done, evidence, guard)

    async def _commit(
        self, drive: Drive, done: DoneEffect, evidence: TurnCancellationEvidence | None, guard: LaneGuard
    ) -> _Ended:
        """The one terminal commit. When a cancel request won the gate meanwhile, the turn is committed as cancelled."""
        probe = self.session.phase_probe
        with in_phase(probe, TurnPhase.FINALIZE_TURN):
            outcome, issues = assemble_outcome(done, evidence)
            terminal = terminal_commit(
                self.session,
                drive,
                done,
                outcome,
                issues,
                evidence,
                fence=guard.fence,
                turn_state=self.turn_state(drive, done),
                duration_ms=self.elapsed_ms(drive),
                now_ms=self.host.clock.now_ms(),
            )
        self.host.reach("before:commit")
        assert self.previews is not None, "a drive that commits has shown that it started"
        try:
            with (
                in_phase(probe, TurnPhase.PERSIST_TURN, TurnPhase.FINAL_COMMIT),
                drive.effects.superseded(),
                self.previews.taken_along() as shown,
            ):
                result = await self.store.commit_runtime_state(terminal.commit, shown=shown)
        except TurnCancelWon as won:
            if evidence is not None and evidence == _evidence_of(won):
                raise
            return await self._commit(drive, done, _evidence_of(won), guard)
        except RuntimeTurnCommitConflict as other:
            # Somebody else finished it, who had the lane since; what stands is how it ended there.
            raise lane_lost(self.session.session_id) from other
        except LashError as error:
            if error.code == COMMIT_TOO_LARGE and not is_cut(done):
                return await self._commit(drive, what_fits(done), evidence, guard)
            if error.ambiguous:
                guard.withhold()
            if not is_refused(error):
                self.session.doubt(terminal.commit)
            raise
        self.host.reach("after:commit")
        guard.is_released = terminal.commit.release_lease
        terminal.adopt(self.session, result)
        self.previews = None  # how the turn ended is told by its commit itself
        if self.trace is not None and result.enqueued_batches:
            self.trace.enqueued(drive, result.enqueued_batches)
        row = f"{drive.turn_id}:turn"
        await self.emit(drive, Committed(result.head_revision, result.leaf_node_id), row)
        await self.emit(drive, TurnFinished(terminal.outcome), row, finished_id(drive.turn_id))
        turn = result_of(
            self.session.session_id, drive.turn_id, terminal.outcome, terminal.summary, done, result.head_revision
        )
        self._has_waiting = result.has_waiting
        if terminal.handoff is None:
            return _Ended(turn)
        return _Ended(turn, (drive.chain.next_turn_id, result.enqueued_batches[0]))

    async def _answered(self, turn: TurnRecord | None) -> tuple[tuple[TurnResult, ...], LaneGranted | None]:
        """What a turn that was committed before, and the frames it handed on to, came to; with the turn that goes on
        where a crash left the next frame in the queue, because what was asked for is not over before. Nobody goes on
        while the queue is held or when the task was cancelled.

        Raises `SessionExecutionBusy` while somebody else has the lane.
        """
        from lash_cli.runtime.stored_turns import open_handoff, stored_results  # hardly any request is a repeat

        store, session_id = self.store, self.session.session_id
        results = () if turn is None else await stored_results(store, session_id, turn.turn_id)
        if turn is None or not results:
            raise LashRuntimeError("turn_summary_missing", "a committed turn has no stored summary")
        handoff = await open_handoff(store, session_id, results[-1])
        if handoff is None:
            return results, None
        outcome = await self._entry.follow(*handoff)
        if isinstance(outcome, LaneBusy):
            raise busy_error(session_id, outcome)
        if isinstance(outcome, LaneGranted) and outcome.turn is not None and not outcome.committed:
            return results, outcome
        # Somebody may have gone on with it meanwhile.
        return await stored_results(store, session_id, turn.turn_id), None

    def _replayed(self, results: tuple[TurnResult, ...]) -> TurnOutput:
        """The answer of turns that were committed before this call; what of them it finished itself is named too."""
        return self._output(results[-1], frames=results[:-1], replayed=True)


def _evidence_of(won: TurnCancelWon) -> TurnCancellationEvidence:
    evidence = won.details.get("evidence")
    if isinstance(evidence, TurnCancellationEvidence):
        return evidence
    converted: TurnCancellationEvidence = from_builtins(evidence, TurnCancellationEvidence)
    return converted
