"""Turns of sessions without a store: nothing is claimed, journalled or kept beyond this process (design D5)."""

from __future__ import annotations

from lash_cli.core.activity import TurnFinished, TurnStarted
from lash_cli.core.content import (
    user_message,
)
from lash_cli.core.effect import (
    TurnScope,
)
from lash_cli.core.machine_assembly import assemble_outcome
from lash_cli.runtime.drive import Drive, TurnDriver, TurnOutput, time_limit, usage_of
from lash_cli.runtime.results import result_of, summarise


class EphemeralTurn(TurnDriver):
    """A turn of a session without a store: nothing is claimed, journalled or kept beyond this process."""

    async def run(self) -> TurnOutput:
        if self.request.input is None:
            return TurnOutput(None)
        turn_id = self.request.turn_id or self.host.ids.new("t")
        scope = TurnScope(self.session.session_id, turn_id)
        drive = Drive(
            turn_id=turn_id,
            turn_index=self.session.turn_state.turn_index + 1,
            policy=self.session.policy,
            core_prompt=self.session.core_policy.prompt,
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
        with time_limit(self.request.timeout_ms, self.token):
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
