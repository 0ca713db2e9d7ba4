"""The durable queue of one session, without opening it (contract 02 §1–§3; design D3).

Everything here goes straight to the store: no lane is taken and no writer lock
is waited for, so any process may add, look, cut and hold while a turn runs
elsewhere. An acknowledged call is synced. `LashSession` offers the same verbs
under the names the project was founded on; `LashCore.queue` hands one out for
a session that need not be opened.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import msgspec

from lash_cli.core.attachments import AttachmentPolicy, has_bytes
from lash_cli.core.codec import reread
from lash_cli.core.content import TurnInput
from lash_cli.core.ids import require_named
from lash_cli.core.ingress import (
    HOST_PREFIX,
    ActiveTurn,
    ByInputId,
    BySourceKey,
    InputDraft,
    NextTurn,
    PendingTurnInput,
    PendingTurnInputCancelOutcome,
    PendingTurnInputCancelResult,
    PendingTurnInputCancelTarget,
    PendingTurnInputSuffixCancelOutcome,
    TurnInputClaim,
    TurnInputIngress,
)
from lash_cli.core.queued_work import (
    BatchState,
    QueuedWorkBatch,
    QueuedWorkBatchDraft,
    QueuedWorkClaim,
    QueuedWorkReceipt,
    SessionCommand,
    SessionCommandReceipt,
    command_draft,
    command_source_key,
    readable_draft,
)
from lash_cli.errors import LashRuntimeError, UsageError, WaitTimeout

if TYPE_CHECKING:
    from lash_cli.core.protocols import Clock, Ids
    from lash_cli.store.base import RuntimePersistence

BATCH_POLL_FIRST_S = 0.025
BATCH_POLL_MAX_S = 0.4
# How long a cancelled caller waits for the write that was under way; behind that whoever drives is told anyway.
DECIDED_WITHIN_S = 1.0

T = TypeVar("T")

# Tells whoever drives this session's queue that something came in: (session id, reason).
Notify = Callable[[str, str], None]


class BatchSettlement(NamedTuple):
    """How a batch ended; `state` is None for one that never was, or was vacuumed since (contract 02 §3.4)."""

    batch_id: str
    state: BatchState | None


def require_key(key: str) -> str:
    """`key`; raises `UsageError` (`invalid_key`) unless it is printable text."""
    if not isinstance(key, str) or not key.strip() or not key.isprintable():
        raise UsageError("a key must be printable text and not blank", code="invalid_key")
    return key


def source_key_of(key: str) -> str:
    """The stored source key of a caller's key; raises `UsageError` (`invalid_key`) unless it is printable text."""
    return HOST_PREFIX + require_key(key)


def require_addressee(ingress: TurnInputIngress) -> None:
    """Raise `UsageError`: `invalid_turn_input` for an address that could not be read again (`codec.reread`), and
    `missing_execution_scope_id` for a turn without a name: none could ever take the input."""
    if isinstance(ingress, NextTurn):
        return
    try:
        if not isinstance(ingress, ActiveTurn):
            raise ValueError(f"not for {type(ingress).__name__}")
        reread(ingress, ActiveTurn)
    except ValueError as error:
        raise UsageError(f"an input is for ActiveTurn or NextTurn: {error}", code="invalid_turn_input") from error
    require_named("the id of the turn an input is for", ingress.turn_id)


def require_command_key(key: str) -> str:
    """`key`; raises `LashRuntimeError` (`session_command_idempotency_key`) for a blank one."""
    if not isinstance(key, str) or not key.strip():
        raise LashRuntimeError("session_command_idempotency_key", "a session command needs an idempotency key")
    return key


def _require_target(given: PendingTurnInputCancelTarget) -> None:
    if not isinstance(given, ByInputId | BySourceKey):
        raise UsageError(
            f"an input to cancel is named by ByInputId or BySourceKey, not by {type(given).__name__}",
            hint="one is cancelled by its id with: cancel_input",
        )


class SessionQueue:
    """The queue of one session, from `LashCore.queue` (contract 02 §1 to §3). Every verb raises `NotFoundError`,
    `SessionDeleted`, and `StoreError` when the store fails; those that add raise `SessionClosed` for a closed session.
    What is acknowledged is synced."""

    def __init__(
        self,
        store: RuntimePersistence,
        clock: Clock,
        ids: Ids,
        session_id: str,
        notify: Notify | None = None,
        attachments: AttachmentPolicy = AttachmentPolicy(),  # noqa: B008 - an immutable record
    ) -> None:
        self.session_id = session_id
        self._store = store
        self._clock = clock
        self._ids = ids
        self._notify = notify
        self._attachments = attachments

    def _wake(self, reason: str) -> None:
        if self._notify is not None:
            self._notify(self.session_id, reason)

    async def _written(self, write: Awaitable[T], reason: str) -> T:
        """Await `write`. One that was under way when its caller was cancelled is done all the same: whoever drives the
        queue is told once it is decided."""
        try:
            return await write
        except BaseException as error:
            if self._notify is None:
                raise
            import asyncio  # who drives in the background has it; who only enqueues does without (design D16)

            if isinstance(error, asyncio.CancelledError):
                from lash_cli.runtime.ending import tidied

                try:
                    # Nothing is abandoned; but writes keep their order.
                    await tidied(self._store.abandon_turn_input_claims(()), within_s=DECIDED_WITHIN_S)
                finally:
                    self._wake(reason)
            raise

    async def enqueue(
        self,
        turn_input: TurnInput | str,
        *,
        key: str | None = None,
        ingress: TurnInputIngress = NextTurn(),  # noqa: B008 - an immutable record
        input_id: str | None = None,
    ) -> PendingTurnInput:
        """Store an input durably and return it; with a `key` seen before, what stands there with its present state.

        Raises `PendingTurnInputSourceKeyConflict` for a key of another text,
        `ConflictError` (`input_exists`) for a used `input_id` and `UsageError`
        (`invalid_key`, `missing_execution_scope_id`) for a blank or unprintable
        key and a blank turn id, and (`invalid_turn_input`, `prompt_not_utf8`) for an input that cannot be read.
        """
        require_addressee(ingress)
        content = TurnInput.of(turn_input)
        source_key = None if key is None else source_key_of(key)
        if has_bytes(content):
            content = await self.stored(content)
        draft = InputDraft(
            self.session_id,
            input_id or self._ids.new("in"),
            content,
            ingress,
            source_key,
        )
        stored = await self._written(self._store.enqueue_turn_input(draft), "queued_turn_input")
        if isinstance(ingress, NextTurn):
            self._wake("queued_turn_input")
        return stored

    async def enqueue_all(self, drafts: Sequence[InputDraft]) -> tuple[PendingTurnInput, ...]:
        """Store inputs in their order: all of them or, when it raises, none. A draft whose key was seen before is
        answered as `enqueue` answers it, which raises the same; its `source_key` is the stored one, and without an
        `input_id` it gets one. `UsageError` for a draft of another session."""
        if not drafts:
            return ()
        ready = [self._checked(draft) for draft in drafts]
        for index, draft in enumerate(ready):
            if has_bytes(draft.input):
                ready[index] = msgspec.structs.replace(draft, input=await self.stored(draft.input))
        stored = await self._written(self._store.enqueue_turn_inputs(ready), "queued_turn_input")
        if any(isinstance(draft.ingress, NextTurn) for draft in ready):
            self._wake("queued_turn_input")
        return stored

    def _checked(self, draft: InputDraft) -> InputDraft:
        """`draft` as it may be stored; raises as `enqueue_all`."""
        if not isinstance(draft, InputDraft):
            raise UsageError(
                f"inputs are enqueued as InputDraft, not as {type(draft).__name__}", hint="one text: enqueue"
            )
        if draft.session_id != self.session_id:
            raise UsageError(f"the input belongs to session {draft.session_id!r}", code="session_binding_mismatch")
        require_addressee(draft.ingress)
        if draft.source_key is not None:
            require_key(draft.source_key.removeprefix(HOST_PREFIX))
        content = TurnInput.of(draft.input)
        return msgspec.structs.replace(draft, input=content, input_id=draft.input_id or self._ids.new("in"))

    async def stored(self, turn_input: TurnInput) -> TurnInput:
        """`turn_input` as a row may hold it: attachment bytes are put into the store and named by reference.

        Raises `UsageError` (`attachment_source_policy_denied`, `attachment_media_type_invalid`).
        """
        from lash_cli.runtime.attachments import stored_input

        return await stored_input(
            self._store, self.session_id, turn_input, now_ms=self._clock.now_ms(), policy=self._attachments
        )

    async def pending_inputs(self) -> tuple[PendingTurnInput, ...]:
        """What waits and nobody holds, oldest first."""
        return await self._store.inputs(self.session_id, pending_only=True)

    async def find_input(self, input_id: str) -> tuple[PendingTurnInput, str | None] | None:
        """One input in whatever state, and the turn that took or used it; None when the session has none such."""
        return await self._store.turn_input(self.session_id, input_id)

    async def cancel_input(self, input_id: str) -> PendingTurnInputCancelOutcome:
        """Cancel one input by id."""
        (result,) = await self.cancel_inputs([ByInputId(input_id)])
        return result.outcome

    async def cancel_inputs(
        self, targets: Sequence[PendingTurnInputCancelTarget], *, by: str | None = None
    ) -> tuple[PendingTurnInputCancelResult, ...]:
        """Cancel a set: no reader ever sees half of it. One result per target, in order; a repeated target was
        cancelled already the second time. With `by`, who was killed before the answer can tell its own work from
        that of others (`TurnInputStore.inputs_cancelled_by`)."""
        targets = tuple(targets)
        for target in targets:
            _require_target(target)
        return await self._store.cancel_turn_inputs(self.session_id, targets, by=by) if targets else ()

    async def cancel_suffix(self, anchor: PendingTurnInputCancelTarget) -> PendingTurnInputSuffixCancelOutcome:
        """Cancel everything from the anchor on, the anchor included."""
        _require_target(anchor)
        return await self._store.cancel_turn_input_suffix(self.session_id, anchor)

    async def abandon_inputs(self, claim: TurnInputClaim) -> tuple[str, ...]:
        """Give back what a claim still owns; the ids given back, none for a claim that is settled or superseded."""
        ids = await self._store.abandon_turn_input_claims([claim])
        if ids:
            self._wake("abandoned_claim")
        return ids

    async def enqueue_work(self, draft: QueuedWorkBatchDraft, *, reason: str = "queued_work") -> QueuedWorkReceipt:
        """Store a batch durably. Raises `InvalidQueuedWorkBatch`, and `UsageError` for a draft of another session."""
        draft = readable_draft(draft)
        if draft.session_id != self.session_id:
            raise UsageError(f"the batch belongs to session {draft.session_id!r}", code="session_binding_mismatch")
        receipt = await self._written(self._store.enqueue_queued_work(draft), reason)
        if not receipt.already_settled:
            self._wake(reason)
        return receipt

    async def submit_command(self, command: SessionCommand, idempotency_key: str) -> SessionCommandReceipt:
        """Store a session command; the receipt proves that it is durable, not that it was applied.

        Raises `LashRuntimeError` (`session_command_idempotency_key`) for a blank key.
        """
        key = require_command_key(idempotency_key)
        draft = command_draft(self.session_id, command, command_source_key(command, key))
        receipt = await self.enqueue_work(draft, reason="session_command")
        return SessionCommandReceipt(self.session_id, receipt.batch_id, receipt.source_key or receipt.batch_id)

    async def pending_batches(self) -> tuple[QueuedWorkBatch, ...]:
        """Batches nobody holds, oldest first, those not yet available included."""
        return await self._store.queued_work(self.session_id, pending_only=True)

    async def batches(self) -> tuple[QueuedWorkBatch, ...]:
        """Every unsettled batch: pending, held and dead."""
        return await self._store.queued_work(self.session_id, pending_only=False)

    async def cancel_batch(self, batch_id: str) -> QueuedWorkBatch | None:
        """Cancel a batch nobody holds; None means already claimed, done, or not of this session."""
        return await self._store.cancel_queued_work_batch(self.session_id, batch_id)

    async def await_batch(self, batch_id: str, *, timeout_ms: int | None = None) -> BatchSettlement:
        """Wait until a batch is settled or parked as dead, whoever drains it, without end unless `timeout_ms` is given.

        A batch that never was, or is no more, is settled at once. Raises `WaitTimeout`; the batch is left as it is.
        """
        deadline = None if timeout_ms is None else self._clock.monotonic() + timeout_ms / 1000
        delay = BATCH_POLL_FIRST_S
        while True:
            batch = await self._store.queued_work_batch(self.session_id, batch_id)
            if batch is None or batch.state is not BatchState.PENDING:
                return BatchSettlement(batch_id, None if batch is None else batch.state)
            if deadline is not None:
                left = deadline - self._clock.monotonic()
                if left <= 0:
                    raise WaitTimeout(f"batch {batch_id} was not settled in time", details={"batch": batch_id})
                delay = min(delay, left)
            await self._clock.sleep(delay)
            delay = min(delay * 2, BATCH_POLL_MAX_S)

    async def abandon_work(self, claim: QueuedWorkClaim) -> tuple[str, ...]:
        """As `abandon_inputs`, for batches."""
        ids = await self._store.abandon_queued_work_claims([claim])
        if ids:
            self._wake("abandoned_claim")
        return ids

    async def hold(self, reason: str | None = None) -> bool:
        """Let nothing be taken from this queue until it is released; False when it was held before."""
        return await self._store.set_queue_hold(self.session_id, held_at_ms=self._clock.now_ms(), reason=reason)

    async def release(self) -> bool:
        """Let the queue go on; False when it was not held."""
        was_held = await self._written(self._store.set_queue_hold(self.session_id, held_at_ms=None), "queue_released")
        if was_held:
            self._wake("queue_released")
        return was_held
