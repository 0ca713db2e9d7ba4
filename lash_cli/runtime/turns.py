"""One turn from lane to commit (design §3, contract 01 §5.4).

A turn's text becomes safe in the lane transaction, its effects are journalled
while it runs, and everything it said is written by one terminal commit. A turn
that a crash cut off is driven again under its own id: finished effects are
read, the unfinished one runs again, and the commit is the same.
"""

from __future__ import annotations

import msgspec

from lash_cli.core.activity import Committed, TurnFinished, TurnStarted, finished_id
from lash_cli.core.codec import decode, encode, from_builtins
from lash_cli.core.commit import RuntimeCommit, TurnStamp, TurnSummary, turn_content_hash
from lash_cli.core.content import (
    Message,
    Stored,
    user_message,
)
from lash_cli.core.effect import (
    TurnScope,
)
from lash_cli.core.graph import ConversationPayload, SessionNode, chain
from lash_cli.core.ingress import InputDraft, TurnInputClaim, completion_of, materialise
from lash_cli.core.lease import LeaseOwnerIdentity
from lash_cli.core.machine import (
    DoneEffect,
)
from lash_cli.core.machine_assembly import assemble_outcome
from lash_cli.core.outcome import (
    Stopped,
    TurnCancellationEvidence,
    TurnIssue,
    TurnOutcome,
    TurnResult,
)
from lash_cli.errors import (
    LashError,
    LashRuntimeError,
    TurnCancelWon,
)
from lash_cli.runtime.cancellation import CancelCause, CancelToken
from lash_cli.runtime.drive import Drive, Sink, TurnDriver, TurnOutput, TurnRequest, text_only, time_limit, usage_of
from lash_cli.runtime.ephemeral import EphemeralTurn
from lash_cli.runtime.gate import GateWatch
from lash_cli.runtime.host import RuntimeHost
from lash_cli.runtime.lane import LaneGuard, take_lane
from lash_cli.runtime.phases import TurnPhase, in_phase
from lash_cli.runtime.previews import PreviewPublisher
from lash_cli.runtime.results import replayed_outcome, result_of, summarise
from lash_cli.runtime.session import ResidentSession, TurnPlan, policy_of_plan
from lash_cli.store.base import LaneGranted, LaneRequest, RuntimePersistence, TurnRecord


async def run_turn(
    host: RuntimeHost,
    session: ResidentSession,
    owner: LeaseOwnerIdentity,
    request: TurnRequest,
    token: CancelToken,
    sink: Sink,
) -> TurnOutput:
    """Run a request to its end while the caller holds the session's writer lock.

    Raises `SessionExecutionBusy` (nothing written), `ConfigError` for an
    unusable provider (nothing written), `SessionExecutionLeaseExpired` when
    the lane was lost, `StoreError` when the commit's outcome is unknown, and
    `EffectError` when a crashed turn cannot be replayed faithfully. Everything
    else a turn can meet is an outcome.
    """
    if host.store is None:
        return await EphemeralTurn(host, session, request, token, sink).run()
    return await DurableTurn(host, session, owner, request, token, sink, host.store).run()


class DurableTurn(TurnDriver):
    """A turn of a stored session."""

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

    async def run(self) -> TurnOutput:
        if self.request.input is not None:
            self.host.providers.resolve(self.session.policy.provider_id)
        turn_id = self.request.turn_id or self.host.ids.new("t")
        input_id = self.host.ids.new("in")
        redriven: list[TurnResult] = []
        while True:
            self.host.reach("before:lane")
            granted = await take_lane(
                self.store,
                self.host.clock,
                self._lane_request(turn_id, input_id),
                busy_wait_ms=self.request.busy_wait_ms,
            )
            self.host.reach("after:lane")
            if granted.committed:
                return TurnOutput(await self._replayed(granted.turn), replayed=True, redriven=tuple(redriven))
            result = await self._drive_granted(granted)
            if result is None:
                return TurnOutput(None, redriven=tuple(redriven))
            if not granted.redrive or self.request.input is None or result.turn_id == turn_id:
                return TurnOutput(result, redriven=tuple(redriven))
            redriven.append(result)
            self.token.forget_request()

    def _lane_request(self, turn_id: str, input_id: str) -> LaneRequest:
        request = self.request
        draft = None
        plan = None
        if request.input is not None:
            key = f"host:{request.source_key}" if request.source_key is not None else None
            draft = InputDraft(self.session.session_id, input_id, request.input, source_key=key)
            plan = encode(self.session.plan(request.max_turns or self.session.policy.max_turns))
        return LaneRequest(
            session_id=self.session.session_id,
            owner=self.owner,
            ttl_ms=self.host.timings.ttl_ms,
            now_ms=self.host.clock.now_ms(),
            lease_token=self.host.ids.token(),
            claim_token=self.host.ids.token(),
            turn_id=turn_id if draft is not None else None,
            draft=draft,
            plan=plan,
            is_new_turn=request.turn_id is None,
        )

    async def _drive_granted(self, granted: LaneGranted) -> TurnResult | None:
        """Drive the turn a lane was granted for and give the lane back; None when there is no turn."""
        if granted.lease is None:
            raise LashRuntimeError("lane_without_lease", "the store granted a lane without a lease")
        guard = LaneGuard(self.store, self.host.clock, self.host.timings, granted.lease, lambda: self._lane_lost())
        guard.start()
        try:
            if granted.turn is None or granted.claim is None:
                return None
            async with GateWatch(self.store, self.session.session_id, granted.turn.turn_id, self.token) as gate:
                if granted.redrive or self.request.turn_id is not None:
                    await gate.look()
                return await self._drive_turn(granted, granted.turn, granted.claim, guard)
        except LashError as error:
            if error.ambiguous:
                # The commit may have landed: the lane stays until it expires, and the stamp decides.
                guard.is_released = True
            raise
        finally:
            await guard.release()

    def _lane_lost(self) -> None:
        self.token.trip(CancelCause.LEASE_LOST)

    async def _drive_turn(
        self, granted: LaneGranted, turn: TurnRecord, claim: TurnInputClaim, guard: LaneGuard
    ) -> TurnResult:
        session = self.session
        if session.is_behind(granted.head):
            await session.refresh()
        wanted = session.policy
        plan = decode(turn.plan, TurnPlan) if granted.redrive and turn.plan else session.plan(self._limit())
        if granted.redrive:
            session.set_policy(policy_of_plan(session.policy, plan))
        drive = Drive(
            turn_id=turn.turn_id,
            turn_index=turn.turn_index,
            policy=session.policy,
            core_prompt=plan.core_prompt,
            max_turns=plan.max_turns,
            input=materialise(claim.inputs),
            message_id=f"m_ingress_{claim.inputs[0].input_id}",
            input_ids=tuple(row.input_id for row in claim.inputs),
            effects=self.host.effects.scoped(
                TurnScope(session.session_id, turn.turn_id), fence=guard.fence, fresh=not granted.redrive
            ),
            caller=self.host.providers.resolve(session.policy.provider_id),
            is_redrive=granted.redrive,
            started_at_ms=turn.started_at_ms,
            started_monotonic=self.host.clock.monotonic(),
        )
        self.previews = PreviewPublisher(self.store.live, session.session_id, guard.fence.fencing_token)
        if granted.redrive:
            await self.previews.take_over(turn.turn_id, self.host.ids.new("a"))
        await self.emit(drive, TurnStarted(turn.origin, drive.input_ids, granted.redrive), f"{turn.turn_id}:turn")
        is_superseded = granted.redrive and plan.head_revision != session.head_revision
        is_done = False
        try:
            result = await self._run_and_commit(drive, claim, guard)
            is_done = True
        finally:
            self.previews.flush()
            # What the caller of this open asked for, or somebody configured after the crash, comes back.
            if granted.redrive and (session.is_policy_explicit or is_superseded or not is_done):
                session.set_policy(wanted)
        return result

    def _limit(self) -> int | None:
        return self.request.max_turns or self.session.policy.max_turns

    async def _run_and_commit(self, drive: Drive, claim: TurnInputClaim, guard: LaneGuard) -> TurnResult:
        usable = await self.normalised(drive)
        done: DoneEffect | None = None
        if isinstance(usable, TurnIssue):
            opening = user_message(drive.message_id, text_only(drive.input))
            done = DoneEffect(Stopped("invalid_input"), (opening,), (usable,))
        else:
            with (
                in_phase(self.session.phase_probe, TurnPhase.EFFECT_LOOP),
                time_limit(self.request.timeout_ms if not drive.is_redrive else None, self.token),
            ):
                done = await self.drive_machine(drive, user_message(drive.message_id, usable))
        guard.check()
        evidence = self.token.evidence_for(drive.turn_id) if self.token.is_cancellation else None
        return await self._commit(drive, done, evidence, claim, guard)

    async def _commit(
        self,
        drive: Drive,
        done: DoneEffect,
        evidence: TurnCancellationEvidence | None,
        claim: TurnInputClaim,
        guard: LaneGuard,
    ) -> TurnResult:
        """The one terminal commit. When a cancel request won the gate meanwhile, the turn is committed as cancelled."""
        probe = self.session.phase_probe
        with in_phase(probe, TurnPhase.FINALIZE_TURN):
            outcome, issues = assemble_outcome(done, evidence)
            commit, summary, nodes = self._terminal_commit(drive, done, outcome, issues, evidence, claim, guard)
        self.host.reach("before:commit")
        try:
            if self.previews is not None:
                self.previews.flush()
            with in_phase(probe, TurnPhase.PERSIST_TURN), in_phase(probe, TurnPhase.FINAL_COMMIT):
                result = await self.store.commit_runtime_state(commit)
        except TurnCancelWon as won:
            if evidence is not None and evidence == _evidence_of(won):
                raise
            return await self._commit(drive, done, _evidence_of(won), claim, guard)
        self.host.reach("after:commit")
        guard.is_released = True
        messages = [node.payload.message for node in nodes if isinstance(node.payload, ConversationPayload)]
        self.session.adopt_commit(commit, result, messages)
        turn_row = f"{drive.turn_id}:turn"
        await self.emit(drive, Committed(result.head_revision, result.leaf_node_id), turn_row)
        await self.emit(drive, TurnFinished(outcome), turn_row, finished_id(drive.turn_id))
        return result_of(self.session.session_id, drive.turn_id, outcome, summary, done, result.head_revision)

    def _terminal_commit(
        self,
        drive: Drive,
        done: DoneEffect,
        outcome: TurnOutcome,
        issues: tuple[TurnIssue, ...],
        evidence: TurnCancellationEvidence | None,
        claim: TurnInputClaim,
        guard: LaneGuard,
    ) -> tuple[RuntimeCommit, TurnSummary, tuple[SessionNode, ...]]:
        session = self.session
        now_ms = self.host.clock.now_ms()
        nodes = chain(done.messages, parent_node_id=session.leaf_node_id, agent_frame_id=session.frame_id, at_ms=now_ms)
        usage = usage_of(drive.policy, done)
        summary = summarise(
            outcome=outcome,
            evidence=evidence,
            issues=issues,
            done=done,
            messages=done.messages,
            started_at_ms=drive.started_at_ms,
            duration_ms=self.elapsed_ms(drive),
            input_ids=drive.input_ids,
        )
        content_hash = turn_content_hash(
            turn_id=drive.turn_id, outcome=outcome, nodes=nodes, usage_deltas=usage, input_ids=drive.input_ids
        )
        commit = session.commit(
            fence=guard.fence,
            now_ms=now_ms,
            nodes=nodes,
            turn_state=self.turn_state(drive, done),
            usage_deltas=usage,
        )
        commit = msgspec.structs.replace(
            commit,
            turn=TurnStamp(drive.turn_id, content_hash, summary),
            completed_inputs=(completion_of(claim),),
            defer_inputs_of_turn=drive.turn_id,
            committed_attachment_ids=_attachment_refs(done.messages),
        )
        return commit, summary, nodes

    async def _replayed(self, turn: TurnRecord | None) -> TurnResult:
        """The result of a turn that was committed before, read from its stamp and its answer's node."""
        if turn is None or turn.summary is None:
            raise LashRuntimeError("turn_summary_missing", "a committed turn has no stored summary")
        summary = turn.summary
        answer: Message | None = None
        if summary.answer_node_id is not None:
            node = await self.store.load_node(self.session.session_id, summary.answer_node_id)
            if node is not None and isinstance(node.payload, ConversationPayload):
                answer = node.payload.message
        outcome = replayed_outcome(summary, answer)
        return result_of(self.session.session_id, turn.turn_id, outcome, summary, None, turn.head_revision)


def _evidence_of(won: TurnCancelWon) -> TurnCancellationEvidence:
    evidence = won.details.get("evidence")
    if isinstance(evidence, TurnCancellationEvidence):
        return evidence
    converted: TurnCancellationEvidence = from_builtins(evidence, TurnCancellationEvidence)
    return converted


def _attachment_refs(messages: tuple[Message, ...]) -> tuple[str, ...]:
    refs: list[str] = []
    for message in messages:
        for part in message.parts:
            source = getattr(part, "attachment", None)
            if isinstance(source, Stored) and source.attachment_ref not in refs:
                refs.append(source.attachment_ref)
    return tuple(refs)
