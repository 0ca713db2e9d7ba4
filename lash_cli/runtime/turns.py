"""One turn from lane to commit (design §3, contract 01 §5.4).

A turn's text becomes safe in the lane transaction, its effects are journalled
while it runs, and everything it said is written by one terminal commit. A turn
that a crash cut off is driven again under its own id: finished effects are
read, the unfinished one runs again, and the commit is the same.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

import msgspec

from lash_cli.core.activity import Committed, TurnActivity, TurnEvent, TurnFinished, TurnStarted
from lash_cli.core.codec import decode, encode, from_builtins
from lash_cli.core.commit import RuntimeCommit, TurnStamp, TurnState, TurnSummary, turn_content_hash
from lash_cli.core.content import (
    AttachmentItem,
    AttachmentSource,
    Inline,
    InputItem,
    Message,
    Stored,
    TextItem,
    TurnInput,
    user_message,
)
from lash_cli.core.effect import (
    EffectEnvelope,
    EffectInvocation,
    EffectOutcome,
    LlmCallOutcome,
    TurnScope,
    turn_replay_key,
)
from lash_cli.core.graph import ConversationPayload, SessionNode, chain
from lash_cli.core.ingress import InputDraft, TurnInputClaim, completion_of, materialise
from lash_cli.core.lease import LeaseOwnerIdentity
from lash_cli.core.llm import LlmCallResult
from lash_cli.core.machine import (
    CheckpointDelivery,
    CheckpointEffect,
    DoneEffect,
    EmitEffect,
    EnvironmentSynced,
    ExecCodeEffect,
    ExecCompleted,
    LlmCallEffect,
    LlmComplete,
    MachineConfig,
    ProgressEffect,
    SyncEnvironmentEffect,
    ToolCallsEffect,
    ToolResults,
    TurnMachine,
)
from lash_cli.core.machine_assembly import assemble_outcome
from lash_cli.core.outcome import (
    CancelRequested,
    Stopped,
    TurnCancellationEvidence,
    TurnIssue,
    TurnOutcome,
    TurnResult,
)
from lash_cli.core.policy import SessionPolicy
from lash_cli.core.protocols import EffectContext, ModelCaller, ScopedEffects
from lash_cli.core.usage import TokenLedgerEntry, prompt_usage
from lash_cli.errors import (
    EffectError,
    LashError,
    LashRuntimeError,
    SessionExecutionLeaseExpired,
    TurnCancelWon,
)
from lash_cli.modes.standard import StandardProtocol
from lash_cli.runtime.cancellation import CancelCause, CancelToken
from lash_cli.runtime.dispatch import ToolDispatcher
from lash_cli.runtime.host import RuntimeHost
from lash_cli.runtime.lane import LaneGuard, take_lane
from lash_cli.runtime.model_calls import ModelCall, ModelEnvironment
from lash_cli.runtime.results import replayed_outcome, result_of, summarise
from lash_cli.runtime.session import ResidentSession, TurnPlan, policy_of_plan
from lash_cli.store.base import LaneGranted, LaneRequest, RuntimePersistence, TurnRecord

GATE_POLL_S = 0.05
USAGE_SOURCE = "turn"

Sink = Callable[[TurnActivity], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class TurnRequest:
    """What a caller wants. `input` None asks only for an unfinished turn to be finished."""

    input: TurnInput | None
    turn_id: str | None = None
    source_key: str | None = None
    max_turns: int | None = None
    busy_wait_ms: int = 0
    timeout_ms: int | None = None


@dataclass(frozen=True, slots=True)
class TurnOutput:
    """What became of a request. `result` is None when a re-drive found nothing to finish.

    `replayed` says the turn had been committed before; `redriven` holds the
    results of crashed turns that were finished first.
    """

    result: TurnResult | None
    activities: tuple[TurnActivity, ...] = ()
    replayed: bool = False
    redriven: tuple[TurnResult, ...] = ()


@dataclass(frozen=True, slots=True)
class _Drive:
    """One physical drive of one turn: everything about it that does not change while it runs."""

    turn_id: str
    turn_index: int
    policy: SessionPolicy
    max_turns: int | None
    input: TurnInput
    message_id: str
    input_ids: tuple[str, ...]
    effects: ScopedEffects
    caller: ModelCaller
    is_redrive: bool
    started_at_ms: int
    started_monotonic: float


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
        return await _EphemeralTurn(host, session, request, token, sink).run()
    return await _DurableTurn(host, session, owner, request, token, sink, host.store).run()


class _TurnBase:
    """Driving the machine; how a turn begins and ends is the subclasses' matter."""

    def __init__(
        self, host: RuntimeHost, session: ResidentSession, request: TurnRequest, token: CancelToken, sink: Sink
    ) -> None:
        self.host = host
        self.session = session
        self.request = request
        self.token = token
        self.sink = sink

    async def emit(self, drive: _Drive, event: TurnEvent, correlation: str) -> None:
        """Show one event of a drive."""
        activity = TurnActivity(self.session.session_id, drive.turn_id, correlation, event, self.host.clock.now_ms())
        await self.sink(activity)

    async def normalised(self, drive: _Drive) -> TurnInput | TurnIssue:
        """The input with attachment bytes replaced by references, or why it cannot be used (contract 01 §5.1)."""
        items: list[InputItem] = []
        for item in drive.input.items:
            if isinstance(item, AttachmentItem):
                try:
                    items.append(AttachmentItem(await self.stored(item.attachment, drive.turn_id)))
                except LashError as error:
                    return TurnIssue("input_validation", error.message, "invalid_turn_input")
            else:
                items.append(item)
        return msgspec.structs.replace(drive.input, items=tuple(items))

    async def stored(self, source: AttachmentSource, turn_id: str) -> AttachmentSource:
        """An attachment as it may be persisted."""
        store = self.host.store
        if isinstance(source, Inline):
            if store is None:
                return source
            ref = await store.put_attachment(
                self.session.session_id,
                source.data,
                media_type=source.media_type,
                owner=("turn", turn_id),
                now_ms=self.host.clock.now_ms(),
            )
            return Stored(ref, source.media_type, len(source.data))
        if isinstance(source, Stored) and store is not None:
            await store.get_attachment(self.session.session_id, source.attachment_ref)
        return source

    async def drive_machine(self, drive: _Drive, opening: Message) -> DoneEffect:
        """Feed the machine until it is done. Raises only what must end the turn without an outcome."""
        environment = ModelEnvironment(self.session, drive.policy)
        scope = TurnScope(self.session.session_id, drive.turn_id)
        counter = 0

        async def emit(event: TurnEvent, correlation: str) -> None:
            await self.emit(drive, event, correlation)

        dispatcher = ToolDispatcher(
            registry=self.session.registry,
            approval=self.host.approval,
            effects=drive.effects,
            clock=self.host.clock,
            scope=scope,
            turn_index=drive.turn_index,
            cancel=self.token,
            emit=emit,
            store_attachment=self._attachment_writer(drive),
        )
        config = MachineConfig(drive.turn_id, drive.max_turns, drive.policy.model.limits.context_window_tokens)
        machine = TurnMachine(config, StandardProtocol(), (opening,))
        while True:
            if self.token.is_set:
                self._stop(machine)
            effect = machine.poll()
            match effect:
                case EmitEffect(event=event):
                    counter += 1
                    await emit(event, f"{drive.turn_id}:{counter}")
                case SyncEnvironmentEffect(effect_id=effect_id):
                    environment.sync()
                    machine.respond(effect_id, EnvironmentSynced())
                case LlmCallEffect(effect_id=effect_id):
                    machine.respond(effect_id, LlmComplete(await self._call_model(drive, environment, effect)))
                case ToolCallsEffect(effect_id=effect_id, iteration=iteration, calls=calls):
                    records = await dispatcher.run_batch(calls, iteration=iteration, effect_id=effect_id)
                    machine.respond(effect_id, ToolResults(records))
                case CheckpointEffect(effect_id=effect_id):
                    machine.respond(effect_id, CheckpointDelivery())
                case ExecCodeEffect(effect_id=effect_id):
                    machine.respond(effect_id, ExecCompleted(error="this session's mode runs no code"))
                case DoneEffect():
                    return effect
                case ProgressEffect():
                    pass
                case None:
                    raise LashRuntimeError("turn_machine_stalled", "the turn machine waits for nothing")

    def _stop(self, machine: TurnMachine) -> None:
        if not self.token.is_cancellation:
            raise SessionExecutionLeaseExpired(f"the lane of session {self.session.session_id} was lost")
        machine.cancel(self.token.reason or "")

    def _attachment_writer(self, drive: _Drive) -> Callable[[Inline], Awaitable[AttachmentSource]] | None:
        if self.host.store is None:
            return None

        async def write(source: Inline) -> AttachmentSource:
            return await self.stored(source, drive.turn_id)

        return write

    async def _call_model(self, drive: _Drive, environment: ModelEnvironment, effect: LlmCallEffect) -> LlmCallResult:
        async def emit(event: TurnEvent, correlation: str) -> None:
            await self.emit(drive, event, correlation)

        call = ModelCall(
            self.session,
            drive.policy,
            environment,
            turn_id=drive.turn_id,
            iteration=effect.iteration,
            tail=effect.tail,
            tools_allowed=effect.tools_allowed,
            emit=emit,
        )
        scope = TurnScope(self.session.session_id, drive.turn_id)
        key = turn_replay_key(scope, drive.turn_index, effect.iteration, "llm_call", effect.effect_id)
        envelope = EffectEnvelope(EffectInvocation(scope, str(effect.effect_id), key), call.command)

        async def run(context: EffectContext) -> EffectOutcome:
            result = await drive.caller.call(call.request, sink=call.sink, cancel=self.token)
            if self.token.cause is CancelCause.LEASE_LOST:
                raise SessionExecutionLeaseExpired(f"the lane of session {self.session.session_id} was lost")
            return LlmCallOutcome(result)

        outcome = await drive.effects.execute(envelope, run)
        if not isinstance(outcome, LlmCallOutcome):
            raise EffectError("runtime_effect_wrong_outcome", "a model call recorded another kind of outcome")
        if outcome.result.text_streamed != call.streamed:
            # Read from the journal: nobody has seen the text of this attempt yet.
            return msgspec.structs.replace(outcome.result, text_streamed=call.streamed)
        return outcome.result

    def turn_state(self, drive: _Drive, done: DoneEffect | None) -> TurnState:
        """The checkpoint's turn state after this turn."""
        before = self.session.turn_state
        if done is None or not done.last_usage.total:
            return msgspec.structs.replace(before, turn_index=drive.turn_index)
        return TurnState(drive.turn_index, done.last_usage, prompt_usage(done.last_usage), before.protocol_turn_options)

    def elapsed_ms(self, drive: _Drive) -> int:
        """Milliseconds since the drive began."""
        return round((self.host.clock.monotonic() - drive.started_monotonic) * 1000)


def usage_of(policy: SessionPolicy, done: DoneEffect | None) -> tuple[TokenLedgerEntry, ...]:
    """What a turn adds to the ledger."""
    if done is None or not done.usage.total:
        return ()
    return (TokenLedgerEntry(USAGE_SOURCE, policy.model.id, done.usage),)


def text_only(turn_input: TurnInput) -> TurnInput:
    """What of an unusable input can stand in a transcript."""
    return TurnInput(items=tuple(item for item in turn_input.items if isinstance(item, TextItem)))


class _EphemeralTurn(_TurnBase):
    """A turn of a session without a store: nothing is claimed, journalled or kept beyond this process."""

    async def run(self) -> TurnOutput:
        if self.request.input is None:
            return TurnOutput(None)
        turn_id = self.request.turn_id or self.host.ids.new("t")
        scope = TurnScope(self.session.session_id, turn_id)
        drive = _Drive(
            turn_id=turn_id,
            turn_index=self.session.turn_state.turn_index + 1,
            policy=self.session.policy,
            max_turns=self.request.max_turns or self.session.policy.max_turns,
            input=self.request.input,
            message_id=f"m_{turn_id}",
            input_ids=(),
            effects=self.host.effects.scoped(scope),
            caller=self.host.providers.resolve(self.session.policy.provider_id),
            is_redrive=False,
            started_at_ms=self.host.clock.now_ms(),
            started_monotonic=self.host.clock.monotonic(),
        )
        await self.emit(drive, TurnStarted("prompt"), f"{turn_id}:turn")
        opening = user_message(drive.message_id, drive.input)
        with _time_limit(self.request.timeout_ms, self.token):
            done = await self.drive_machine(drive, opening)
        evidence = self.token.evidence_for(turn_id) if self.token.is_cancellation else None
        outcome, issues = assemble_outcome(done, evidence)
        kept = tuple(message for message in done.messages if not message.is_transient)
        self.session.messages.extend(kept)
        self.session.turn_state = self.turn_state(drive, done)
        self.session.ledger = (*self.session.ledger, *usage_of(drive.policy, done))
        summary = summarise(
            outcome=outcome,
            evidence=evidence,
            issues=issues,
            done=done,
            messages=kept,
            started_at_ms=drive.started_at_ms,
            duration_ms=self.elapsed_ms(drive),
            input_ids=(),
        )
        await self.emit(drive, TurnFinished(outcome), f"{turn_id}:turn")
        return TurnOutput(result_of(self.session.session_id, turn_id, outcome, summary, done, None))


class _DurableTurn(_TurnBase):
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
            async with _GateWatch(self.store, self.session.session_id, granted.turn.turn_id, self.token) as gate:
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
        drive = _Drive(
            turn_id=turn.turn_id,
            turn_index=turn.turn_index,
            policy=session.policy,
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
        await self.emit(drive, TurnStarted(turn.origin, drive.input_ids, granted.redrive), f"{turn.turn_id}:turn")
        result = await self._run_and_commit(drive, claim, guard)
        if granted.redrive and session.is_policy_explicit:
            session.set_policy(wanted)
        return result

    def _limit(self) -> int | None:
        return self.request.max_turns or self.session.policy.max_turns

    async def _run_and_commit(self, drive: _Drive, claim: TurnInputClaim, guard: LaneGuard) -> TurnResult:
        usable = await self.normalised(drive)
        done: DoneEffect | None = None
        if isinstance(usable, TurnIssue):
            opening = user_message(drive.message_id, text_only(drive.input))
            done = DoneEffect(Stopped("invalid_input"), (opening,), (usable,))
        else:
            with _time_limit(self.request.timeout_ms if not drive.is_redrive else None, self.token):
                done = await self.drive_machine(drive, user_message(drive.message_id, usable))
        guard.check()
        evidence = self.token.evidence_for(drive.turn_id) if self.token.is_cancellation else None
        return await self._commit(drive, done, evidence, claim, guard)

    async def _commit(
        self,
        drive: _Drive,
        done: DoneEffect,
        evidence: TurnCancellationEvidence | None,
        claim: TurnInputClaim,
        guard: LaneGuard,
    ) -> TurnResult:
        """The one terminal commit. When a cancel request won the gate meanwhile, the turn is committed as cancelled."""
        outcome, issues = assemble_outcome(done, evidence)
        commit, summary, nodes = self._terminal_commit(drive, done, outcome, issues, evidence, claim, guard)
        self.host.reach("before:commit")
        try:
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
        await self.emit(drive, TurnFinished(outcome), turn_row)
        return result_of(self.session.session_id, drive.turn_id, outcome, summary, done, result.head_revision)

    def _terminal_commit(
        self,
        drive: _Drive,
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


@contextlib.contextmanager
def _time_limit(timeout_ms: int | None, token: CancelToken) -> Iterator[None]:
    """Trip the token as a local cancel with reason `timeout` when the caller's limit passes."""
    if timeout_ms is None:
        yield
        return
    loop = asyncio.get_running_loop()
    handle = loop.call_later(timeout_ms / 1000, lambda: token.trip(CancelCause.LOCAL, reason="timeout"))
    try:
        yield
    finally:
        handle.cancel()


class _GateWatch:
    """Looks at a turn's cancel gate while the turn runs (contract 02 §7). Costs nothing for a turn under 50 ms."""

    def __init__(self, store: RuntimePersistence, session_id: str, turn_id: str, token: CancelToken) -> None:
        self._store = store
        self._session_id = session_id
        self._turn_id = turn_id
        self._token = token
        self._handle: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    async def look(self) -> None:
        """Trip the token when a cancel request stands at the gate."""
        gate = await self._store.cancel_gate(self._session_id, self._turn_id)
        if isinstance(gate, CancelRequested):
            self._token.trip(CancelCause.REQUESTED, evidence=gate.cancellation, reason=gate.cancellation.reason)

    async def _watch(self) -> None:
        while not self._token.is_set:
            with contextlib.suppress(LashError):
                await self.look()
            await asyncio.sleep(GATE_POLL_S)

    async def __aenter__(self) -> _GateWatch:
        loop = asyncio.get_running_loop()

        def begin() -> None:
            self._task = loop.create_task(self._watch())

        self._handle = loop.call_later(GATE_POLL_S, begin)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._handle is not None:
            self._handle.cancel()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
