"""A running turn's look at its queue (contract 02 §1.5, §5; 01 §6.4).

What a checkpoint takes is one journalled effect: the messages it delivered and
the claims the turn's commit has to settle. A checkpoint that found nothing
leaves no row; a re-drive knows that it was passed empty when the journal has
rows of the iteration after it, and then nothing enters there any more.
"""

from __future__ import annotations

from collections.abc import Awaitable

import msgspec

from lash_cli.core.activity import QueuedInputAccepted, QueuedWorkStarted
from lash_cli.core.content import ErrorPart, Message, user_message
from lash_cli.core.delivery import work_causes, work_messages
from lash_cli.core.effect import (
    CheckpointCommand,
    CheckpointOutcome,
    EffectEnvelope,
    EffectInvocation,
    EffectOutcome,
    iteration_replay_prefix,
    turn_replay_key,
)
from lash_cli.core.ingress import PendingTurnInput, claim_id_of_checkpoint, completion_of, ingress_message_id
from lash_cli.core.lease import LeaseFence
from lash_cli.core.machine_records import CheckpointDelivery, CheckpointEffect
from lash_cli.core.outcome import TurnIssue
from lash_cli.core.protocols import EffectContext
from lash_cli.core.queued_work import work_completion_of
from lash_cli.errors import EffectError
from lash_cli.runtime.drive import Drive, TurnDriver, text_only
from lash_cli.store.queueing import CheckpointClaims, CheckpointRequest, TurnInputStore


class Checkpoints(msgspec.Struct, eq=False):
    """The checkpoints of one drive of one turn. The drive's claims learn what they take."""

    _driver: TurnDriver
    _drive: Drive
    _store: TurnInputStore
    _fence: LeaseFence

    async def pass_one(self, effect: CheckpointEffect) -> CheckpointDelivery:
        """What enters at a checkpoint, in the order the model reads it: user inputs, then work.

        Raises what the store raises, `SessionExecutionLeaseExpired` among it.
        """
        drive = self._drive
        is_known = False
        if drive.is_redrive:
            # Only an earlier drive can have been here before.
            is_known = await drive.effects.is_known(self._key(effect))
            following = iteration_replay_prefix(drive.turn_index, effect.iteration + 1)
            if not is_known and await drive.effects.has_any(following):
                return CheckpointDelivery()
        claimed: CheckpointClaims | None = None
        if not is_known:
            claimed = await self._claim(effect)
            if claimed.inputs is None and claimed.work is None:
                return CheckpointDelivery()
            self._driver.host.reach("after:checkpoint_claimed")
        outcome = await self._recorded(effect, claimed)
        self._driver.host.reach("after:checkpoint_recorded")
        drive.claims.add(outcome.inputs, outcome.work)
        await self._show(effect, outcome)
        return CheckpointDelivery(outcome.messages)

    def _claim(self, effect: CheckpointEffect) -> Awaitable[CheckpointClaims]:
        """Claim what is admissible; asking again takes no more."""
        self._driver.host.reach("before:checkpoint_claimed")
        return self._store.claim_checkpoint_work(
            self._fence,
            CheckpointRequest(
                turn_id=self._drive.turn_id,
                checkpoint=effect.checkpoint,
                claim_id=claim_id_of_checkpoint(self._fence.session_id, self._drive.turn_id, effect.effect_id),
                claim_token=self._driver.host.ids.token(),
            ),
        )

    def _key(self, effect: CheckpointEffect) -> str:
        return turn_replay_key(self._drive.turn_index, effect.iteration, "checkpoint", effect.effect_id)

    async def _recorded(self, effect: CheckpointEffect, claimed: CheckpointClaims | None) -> CheckpointOutcome:
        invocation = EffectInvocation(self._drive.effects.scope, str(effect.effect_id), self._key(effect))
        envelope = EffectEnvelope(invocation, CheckpointCommand(effect.checkpoint))

        async def run(context: EffectContext) -> EffectOutcome:
            return await self._outcome(claimed if claimed is not None else await self._claim(effect))

        outcome = await self._drive.effects.execute(envelope, run)
        if not isinstance(outcome, CheckpointOutcome):
            raise EffectError("runtime_effect_wrong_outcome", "a checkpoint recorded another kind of outcome")
        return outcome

    async def _outcome(self, claimed: CheckpointClaims) -> CheckpointOutcome:
        messages = [await self._message(row) for row in claimed.inputs.inputs] if claimed.inputs is not None else []
        batches = claimed.work.batches if claimed.work is not None else ()
        return CheckpointOutcome(
            (*messages, *work_messages(batches)),
            completion_of(claimed.inputs) if claimed.inputs is not None else None,
            work_completion_of(claimed.work) if claimed.work is not None else None,
            work_causes(batches),
        )

    async def _message(self, row: PendingTurnInput) -> Message:
        """The message of an accepted input. One that cannot be used as a whole still says its text, and why: ending
        the turn for it would lose the work under way."""
        usable = await self._driver.normalised(row.input, self._drive)
        message_id = ingress_message_id(row.input_id)
        if not isinstance(usable, TurnIssue):
            return user_message(message_id, usable)
        message = user_message(message_id, text_only(row.input))
        return Message(message.id, message.role, (*message.parts, ErrorPart(usable.message)))

    async def _show(self, effect: CheckpointEffect, outcome: CheckpointOutcome) -> None:
        row = f"{self._drive.turn_id}:checkpoint:{effect.effect_id}"
        if outcome.inputs is not None:
            accepted = QueuedInputAccepted(effect.checkpoint, outcome.inputs.input_ids)
            await self._driver.emit(self._drive, accepted, row)
        if outcome.work is not None:
            started = QueuedWorkStarted("active_turn_checkpoint", outcome.work.batch_ids, outcome.causes)
            await self._driver.emit(self._drive, started, row)
