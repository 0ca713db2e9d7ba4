"""Turns of sessions without a store: nothing is claimed, journalled or kept beyond this process (design D5)."""

from __future__ import annotations

from lash_cli.core.activity import TurnFinished, TurnStarted
from lash_cli.core.content import TurnInput, user_message
from lash_cli.core.delivery import TurnClaims
from lash_cli.core.effect import TurnScope
from lash_cli.core.graph import messages_on
from lash_cli.core.machine_assembly import assemble_outcome
from lash_cli.core.outcome import AgentFrameSwitch, Stopped, TurnIssue, TurnResult
from lash_cli.runtime.drive import Drive, TurnDriver, time_limit, usage_of
from lash_cli.runtime.frames import FrameChain, FrameHandoff, plan_handoff
from lash_cli.runtime.requests import TurnOutput
from lash_cli.runtime.results import result_of, summarise


class EphemeralTurn(TurnDriver):
    """A turn of a session without a store, and those of the frames it hands on to, in memory."""

    async def run(self) -> TurnOutput:
        """Run the request to its end; without an input there is nothing to finish."""
        following = self.request.input
        if following is None:
            return TurnOutput(None)
        turn_id = self.request.turn_id or self.host.ids.new("t")
        chain = FrameChain(turn_id)
        results: list[TurnResult] = []
        with time_limit(self.request.timeout_ms, self.token):
            while following is not None:
                result, handoff = await self._run_one(turn_id, chain, following)
                results.append(result)
                following = None
                if handoff is not None:
                    following = TurnInput.text(handoff.task.task)
                    turn_id, chain = chain.next_turn_id, FrameChain(chain.root_turn_id, chain.switches + 1)
        return TurnOutput(results[-1], frames=tuple(results[:-1]))

    async def _run_one(
        self, turn_id: str, chain: FrameChain, turn_input: TurnInput
    ) -> tuple[TurnResult, FrameHandoff | None]:
        session = self.session
        drive = Drive(
            turn_id=turn_id,
            turn_index=session.turn_state.turn_index + 1,
            policy=session.policy,
            core_prompt=session.core_policy.prompt,
            max_turns=self.request.max_turns or session.policy.max_turns,
            claims=TurnClaims(),
            chain=chain,
            effects=self.host.effects.scoped(TurnScope(session.session_id, turn_id)),
            caller=self.host.providers.resolve(session.policy.provider_id),
            is_redrive=False,
            started_at_ms=self.host.clock.now_ms(),
            started_monotonic=self.host.clock.monotonic(),
        )
        await self.emit(drive, TurnStarted("prompt"), f"{turn_id}:turn")
        done = await self.drive_machine(drive, (user_message(f"m_{turn_id}", turn_input),))
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
            )
            if isinstance(planned, TurnIssue):
                outcome, issues = Stopped("runtime_error"), (*issues, planned)
            else:
                handoff = planned
        kept = tuple(message for message in done.messages if not message.is_transient)
        session.messages.extend(kept)
        session.turn_state = self.turn_state(drive, done)
        session.ledger = (*session.ledger, *usage_of(drive.policy, done))
        if handoff is not None:
            first = messages_on(handoff.nodes)
            session.enter_frame(handoff.frames, first if handoff.is_opened else (*session.messages, *first))
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
        return result_of(session.session_id, turn_id, outcome, summary, done, None), handoff
