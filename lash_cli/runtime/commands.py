"""Session commands: claimed at the head of the queue, applied to the newest head, settled by one commit each.

A command never becomes prompt text (contract 02 §0.9, §6.2). It runs under the
lane its caller holds and leaves it held. One that fails goes back to the queue
with its error, to be tried again later or parked: it never blocks what stands
behind it (design D20).
"""

from __future__ import annotations

import logging

import msgspec

from lash_cli.core.codec import described, storable, tag_of
from lash_cli.core.commit import require_settled
from lash_cli.core.lease import LeaseFence
from lash_cli.core.protocols import Clock, Ids
from lash_cli.core.queued_work import (
    CommandWork,
    QueuedWorkClaim,
    RefreshToolCatalog,
    ResetSession,
    SessionCommand,
    SessionCommandReceipt,
    SlotPolicy,
    work_completion_of,
)
from lash_cli.errors import LashError, LashRuntimeError, SessionExecutionLeaseExpired
from lash_cli.runtime.ending import seen_through
from lash_cli.runtime.session import ResidentSession, Undo
from lash_cli.store.base import RuntimePersistence

_log = logging.getLogger("lash.commands")

_CODES = {RefreshToolCatalog: "session_command_refresh_tools", ResetSession: "session_command_reset"}


class CommandRunner:
    """Applies the commands at the head of one session's queue, under a fence its caller keeps alive."""

    def __init__(
        self,
        store: RuntimePersistence,
        clock: Clock,
        ids: Ids,
        session: ResidentSession,
        fence: LeaseFence,
        *,
        is_strict: bool = False,
    ) -> None:
        """With `is_strict` what a tool source raises passes through, and its command waits on as if never tried."""
        self._store = store
        self._clock = clock
        self._ids = ids
        self._session = session
        self._fence = fence
        self._is_strict = is_strict

    async def run_next(self) -> tuple[SessionCommandReceipt, bool] | None:
        """Take and apply the command at the head; its receipt and whether it was applied, None when none stands there.

        A failure of the command itself is recorded with its batch. Raises
        `LashRuntimeError` (`session_command_claim`) for a claim that is not one
        command, `SessionExecutionLeaseExpired`, and a `LashError` that is
        ambiguous when the outcome of the commit is unknown.
        """
        claim = await self._store.claim_leading_session_command(self._fence, claim_token=self._ids.token())
        if claim is None:
            return None
        receipt, command = _command_of(claim)
        try:
            await self._apply(claim, command)
        except SessionExecutionLeaseExpired:
            raise
        except LashError as error:
            if error.ambiguous:
                raise
            await self._fail(claim, command, error.code, error.message)
            return receipt, False
        except Exception as error:
            if self._is_strict:
                raise
            # A tool source is foreign code, and must not block the queue.
            _log.exception("session command of batch %s raised", receipt.batch_id)
            await self._fail(claim, command, _CODES[type(command)], described(error))
            return receipt, False
        return receipt, True

    async def _apply(self, claim: QueuedWorkClaim, command: SessionCommand) -> None:
        session = self._session
        await session.catch_up()
        undo = apply_command(session, command, self._clock.now_ms())
        try:
            completion = work_completion_of(claim)
            commit = msgspec.structs.replace(
                session.commit(fence=self._fence, now_ms=self._clock.now_ms(), release_lease=False),
                completed_work=(completion,),
            )
            require_settled(commit, (), (completion,))
        except BaseException:
            undo()
            raise
        await seen_through(session.committed(self._store, commit, undo=undo))

    async def _fail(self, claim: QueuedWorkClaim, command: SessionCommand, code: str, message: str) -> None:
        parked = await self._store.fail_queued_work(self._fence, claim, storable(f"{code}: {message}"))
        kind = tag_of(command)
        if parked:
            _log.warning("session command %s of %s is parked: %s", kind, claim.session_id, message)
        else:
            _log.warning("session command %s of %s failed, will be tried again: %s", kind, claim.session_id, message)


def apply_command(session: ResidentSession, command: SessionCommand, now_ms: int) -> Undo:
    """Change the resident session as `command` says; nothing is written. Returns how to take it back."""
    match command:
        case RefreshToolCatalog():
            return session.refresh_tools()
        case ResetSession():
            return session.reset(now_ms)


def _command_of(claim: QueuedWorkClaim) -> tuple[SessionCommandReceipt, SessionCommand]:
    batch = claim.batches[0] if len(claim.batches) == 1 else None
    if batch is None or batch.slot_policy is not SlotPolicy.EXCLUSIVE or len(batch.payloads) != 1:
        raise LashRuntimeError("session_command_claim", "a claimed session command is not one exclusive batch")
    payload = batch.payloads[0]
    if not isinstance(payload, CommandWork):
        raise LashRuntimeError("session_command_claim", "the head of the queue is not a session command")
    receipt = SessionCommandReceipt(claim.session_id, batch.batch_id, batch.source_key or batch.batch_id)
    return receipt, payload.command
