"""Turns of sessions without a store: nothing is claimed, journalled or kept beyond this process (design D5).

They are watched like any other (contract 04 §4): what a turn shows is in the
log before the caller has it, and its new state is installed together with the
events that tell of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from lash_cli.core.activity import (
    AssistantProseDelta,
    ModelAttemptReset,
    ReasoningShown,
    TurnActivity,
    TurnEvent,
    TurnFinished,
    TurnStarted,
    finished_id,
)
from lash_cli.core.content import TextItem, TurnInput, options_over, user_message
from lash_cli.core.delivery import TurnClaims
from lash_cli.core.effect import TurnScope
from lash_cli.core.frames import current_frame
from lash_cli.core.graph import messages_on
from lash_cli.core.ingress import HOST_PREFIX
from lash_cli.core.machine_assembly import assemble_outcome
from lash_cli.core.machine_records import DoneEffect
from lash_cli.core.observation import (
    ActivityObserved,
    AgentFrameSwitched,
    ObservationPayload,
    ResidentChanged,
    StateCommitted,
)
from lash_cli.core.outcome import AgentFrameSwitch, Stopped, TurnIssue, TurnOutcome, TurnResult
from lash_cli.core.policy import persisted_config
from lash_cli.core.usage import merge_ledger
from lash_cli.errors import PendingTurnInputSourceKeyConflict, RuntimeTurnCommitConflict
from lash_cli.runtime.context import is_room_due
from lash_cli.runtime.drive import Drive, TurnDriver, text_only, time_limit, usage_of
from lash_cli.runtime.frames import FrameChain, FrameHandoff, plan_handoff
from lash_cli.runtime.requests import AnsweredRequest, TurnOutput
from lash_cli.runtime.results import result_of, summarise
from lash_cli.runtime.session import TOOL_STATE, ResidentSession
from lash_cli.store.base import PersistedSessionRead
from lash_cli.store.resident_log import ResidentLog, ResidentState


def publish_state(
    session: ResidentSession, payloads: Sequence[ObservationPayload] = (), *, turn_id: str | None = None
) -> None:
    """Make what the session is now what its observers read, and tell them `payloads`. A `StateCommitted` among them
    moves the revision, which begins with the turns the session was opened with."""
    log = session.log
    if log is None:
        return
    ref = f"{TOOL_STATE}:{session.registry.generation}"
    known = log.state
    is_commit = any(isinstance(payload, StateCommitted) for payload in payloads)
    revision = session.turn_state.turn_index if known is None else known.read.head_revision + is_commit
    tools = known.tools if known is not None and known.tools[0] == ref else (ref, session.registry.export_state())
    read = PersistedSessionRead(
        session.session_id,
        revision,
        persisted_config(session.policy),
        session.frames,
        nodes=(),
        leaf_node_id=None,
        turn_state=session.turn_state,
        checkpoint_ref="",
        component_refs={TOOL_STATE: ref},
        token_ledger=session.ledger,
    )
    log.publish(payloads, turn_id=turn_id, state=ResidentState(read, session.conversation(), tools, session.superseded))


def publish_commit(session: ResidentSession, payloads: Sequence[ObservationPayload] = ()) -> None:
    """Tell observers of what a stored session would commit outside of a turn: `payloads`, then that it stands."""
    publish_state(session, (*payloads, StateCommitted()))


def publish_change(session: ResidentSession) -> None:
    """Tell observers that policy or tools changed between turns: nothing was committed, so no revision moved."""
    publish_state(session, (ResidentChanged(),))


class ResidentPreviews:
    """Shows what one turn does in the log of its session, and takes it back if the turn ends without an outcome."""

    def __init__(self, log: ResidentLog) -> None:
        self._log = log
        self._prose: dict[str, None] = {}
        self._reasoning: dict[str, None] = {}

    def publish(self, activity: TurnActivity) -> None:
        """Show one activity of the running turn."""
        match activity.event:
            case AssistantProseDelta():
                self._prose[activity.correlation_id] = None
            case ReasoningShown():
                self._reasoning[activity.correlation_id] = None
            case ModelAttemptReset(assistant_prose_correlation_ids=prose, reasoning_correlation_ids=reasoning):
                for gone in prose:
                    self._prose.pop(gone, None)
                for gone in reasoning:
                    self._reasoning.pop(gone, None)
        self._log.publish((ActivityObserved(activity),), turn_id=activity.turn_id)

    @property
    def retraction(self) -> ModelAttemptReset | None:
        """What takes all standing text back; None when none stands."""
        if not self._prose and not self._reasoning:
            return None
        return ModelAttemptReset(tuple(self._prose), tuple(self._reasoning))


def _opening_id(turn_id: str) -> str:
    """The id of the message a turn begins with."""
    return f"m_{turn_id}"


class EphemeralTurn(TurnDriver):
    """A turn of a session without a store, and those of the frames it hands on to, in memory."""

    async def run(self) -> TurnOutput:
        """Run the request to its end; without an input there is nothing to finish, and no queue."""
        following = self.request.input
        if following is None:
            return TurnOutput(None, idle=None if self.request.drain is None else "no_store")
        asked, key = following, None if self.request.source_key is None else f"{HOST_PREFIX}{self.request.source_key}"
        if (before := self._answered_before(asked, key)) is not None:
            return before
        turn_id = self.request.turn_id or self.host.ids.new("t")
        chain = FrameChain(turn_id)
        results: list[TurnResult] = []
        with time_limit(self.request.timeout_ms, self.token):
            while following is not None:
                result, handoff = await self._run_one(turn_id, chain, following)
                results.append(result)
                following = None
                if handoff is not None:
                    task = handoff.task
                    following = TurnInput((TextItem(task.task),), task.protocol_turn_options)
                    turn_id, chain = chain.next_turn_id, FrameChain(chain.root_turn_id, chain.switches + 1)
        output = TurnOutput(results[-1], frames=tuple(results[:-1]))
        for name in (chain.root_turn_id, key):
            if name is not None:
                self.session.answered[name] = AnsweredRequest(asked, output)
        return output

    def _answered_before(self, asked: TurnInput, key: str | None) -> TurnOutput | None:
        """The answer of the turn that the key, or the turn id, was given to first; None when they are new.

        Raises `PendingTurnInputSourceKeyConflict` and `RuntimeTurnCommitConflict` when that was asked something else.
        """
        turn_id, answered = self.request.turn_id, self.session.answered
        if key is not None and (by_key := answered.get(key)) is not None:
            if by_key.input != asked:
                raise PendingTurnInputSourceKeyConflict(f"key {self.request.source_key!r} was used for another text")
            return msgspec.structs.replace(by_key.output, replayed=True)
        if turn_id is None:
            return None
        by_id = answered.get(turn_id)
        if by_id is not None and by_id.input == asked:
            return msgspec.structs.replace(by_id.output, replayed=True)
        opening = _opening_id(turn_id)
        is_used = any(message.id == opening for message in self.session.messages)
        if by_id is not None or is_used or any(node.node_id == opening for node in self.session.superseded.nodes):
            raise RuntimeTurnCommitConflict(
                f"turn {turn_id!r} was asked something else",
                hint="choose another turn id, or leave it out",
                details={"turn_id": turn_id},
            )
        return None

    async def _run_one(
        self, turn_id: str, chain: FrameChain, turn_input: TurnInput
    ) -> tuple[TurnResult, FrameHandoff | None]:
        session = self.session
        if is_room_due(self.host, session):
            from lash_cli.runtime.compaction import make_room  # hardly any turn of a session needs it

            await make_room(self.host, None, session, None, self.token)
        drive = Drive(
            turn_id=turn_id,
            turn_index=session.turn_state.turn_index + 1,
            policy=session.policy,
            core_prompt=session.core_policy.prompt,
            turn_prompt=self.request.prompt,
            builtins=self.host.builtins,
            max_turns=self.request.max_turns or session.policy.max_turns,
            cost_limit=self.request.cost_limit,
            claims=TurnClaims(),
            chain=chain,
            effects=self.host.effects.scoped(TurnScope(session.session_id, turn_id)),
            caller=self.host.providers.resolve(session.policy.provider_id),
            is_redrive=False,
            started_at_ms=self.host.clock.now_ms(),
            started_monotonic=self.host.clock.monotonic(),
            options=options_over(current_frame(session.frames).protocol_turn_options, turn_input.protocol_turn_options),
        )
        previews = self.previews = None if session.log is None else ResidentPreviews(session.log)
        await self.emit(drive, TurnStarted("prompt"), f"{turn_id}:turn")
        try:
            done = await self._drive_input(drive, _opening_id(turn_id), turn_input)
        except BaseException:
            if previews is not None and previews.retraction is not None:
                previews.publish(self._activity(drive, previews.retraction, self.host.ids.new("a")))
            raise
        evidence = self.token.evidence_for(turn_id) if self.token.is_cancellation else None
        outcome, issues = assemble_outcome(done, evidence)
        handoff: FrameHandoff | None = None
        if isinstance(outcome, AgentFrameSwitch):
            planned = plan_handoff(
                session.frames,
                outcome,
                chain,
                turn_id=turn_id,
                leaf_node_id=None,
                now_ms=self.host.clock.now_ms(),
                options=drive.options,
            )
            if isinstance(planned, TurnIssue):
                outcome, issues = Stopped("runtime_error"), (*issues, planned)
            else:
                handoff = planned
        kept = tuple(message for message in done.messages if not message.is_transient)
        session.messages.extend(kept)
        session.turn_state = self.turn_state(drive, done)
        session.ledger = merge_ledger((*session.ledger, *usage_of(session, drive.policy, done)))
        if handoff is not None:
            first = messages_on(handoff.nodes)
            if handoff.is_opened:
                session.turn_state = session.turn_state.elsewhere()
            session.enter_frame(handoff.frames, first if handoff.is_opened else (*session.messages, *first))
        self._publish_end(drive, outcome, handoff)
        self.previews = None  # how the turn ended was told together with its state
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
        await self.emit(drive, TurnFinished(outcome), f"{turn_id}:turn", finished_id(turn_id))
        return result_of(session.session_id, turn_id, outcome, summary, done, None), handoff

    async def _drive_input(self, drive: Drive, message_id: str, turn_input: TurnInput) -> DoneEffect:
        """Drive the machine, unless the input or its options cannot be used: then that is the outcome."""
        usable = await self.normalised(turn_input, drive)
        if isinstance(usable, TurnIssue):
            return DoneEffect(Stopped("invalid_input"), (user_message(message_id, text_only(turn_input)),), (usable,))
        opening = user_message(message_id, usable)
        if drive.options is not None:
            from lash_cli.runtime.structured import options_issue

            issue = options_issue(drive.options)
            if issue is not None:
                return DoneEffect(Stopped("invalid_input"), (opening,), (issue,))
        return await self.drive_machine(drive, (opening,))

    def _publish_end(self, drive: Drive, outcome: TurnOutcome, handoff: FrameHandoff | None) -> None:
        """Install the state after the turn, with the events a stored session's commit leaves."""
        finished = self._activity(drive, TurnFinished(outcome), finished_id(drive.turn_id))
        payloads: list[ObservationPayload] = [StateCommitted(), ActivityObserved(finished)]
        if handoff is not None and handoff.is_opened:
            payloads.insert(0, AgentFrameSwitched(self.session.frame_id))
        publish_state(self.session, payloads, turn_id=drive.turn_id)

    def _activity(self, drive: Drive, event: TurnEvent, activity_id: str) -> TurnActivity:
        session_id, row = self.session.session_id, f"{drive.turn_id}:turn"
        return TurnActivity(session_id, drive.turn_id, row, event, self.host.clock.now_ms(), activity_id)
