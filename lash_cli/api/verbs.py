"""The queue verbs of a session handle, under the names the project was founded on (contract 02 §1–§3).

With a store all of them go straight to it: none takes the lane or waits for a
running turn, except a pass over the queue. Without one there is no queue.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING

from lash_cli.api.turns import QueuedTurnBuilder, require_limits
from lash_cli.core.content import TurnInput
from lash_cli.core.ids import require_named
from lash_cli.core.ingress import (
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
    QueuedWorkBatch,
    QueuedWorkClaim,
    SessionCommand,
    SessionCommandReceipt,
    command_source_key,
)
from lash_cli.errors import LashRuntimeError, UsageError
from lash_cli.runtime.requests import Sink, TurnOutput, TurnRequest, unseen
from lash_cli.store.base import DrainSelection

if TYPE_CHECKING:
    from lash_cli.api.commands import SessionCommands
    from lash_cli.api.core import LashCore
    from lash_cli.api.queue import BatchSettlement, SessionQueue
    from lash_cli.api.shared import SharedSession
    from lash_cli.core.lease import LeaseFence
    from lash_cli.runtime.cancellation import CancelToken
    from lash_cli.runtime.session import ResidentSession

NO_QUEUE = "queued turn input requires a persistent runtime store"


class QueueVerbs:
    """What `LashSession` offers of its queue. Every verb raises `NotFoundError`, `SessionDeleted` and `SessionClosed`.
    Without a store there is none: what adds to it, looks at it or cuts it raises `LashRuntimeError`
    (`store_commit_failed`), a pass over it has nothing to run, and a session command is applied at once."""

    _core: LashCore
    _shared: SharedSession

    if TYPE_CHECKING:

        @property
        def session_id(self) -> str: ...

        @property
        def _state(self) -> ResidentSession: ...

        def _check_open(self) -> None: ...

        async def _run(self, request: TurnRequest, token: CancelToken, sink: Sink) -> TurnOutput: ...

    def _queue(self) -> SessionQueue:
        from lash_cli.api.queue import SessionQueue  # a session that only takes turns needs none of it

        self._check_open()
        host = self._core.host
        if host.store is None:
            raise LashRuntimeError("store_commit_failed", NO_QUEUE)
        return SessionQueue(host.store, host.clock, host.ids, self.session_id, self._shared.notify, host.attachments)

    async def enqueue(
        self,
        turn_input: TurnInput | str,
        *,
        id: str | None = None,
        ingress: TurnInputIngress = NextTurn(),  # noqa: B008 - an immutable record
    ) -> PendingTurnInput:
        """Store an input durably. `id` makes the submission idempotent, under the source key `host:{id}`; what stands
        there already is returned with its present state. Raises as `SessionQueue.enqueue`."""
        return await self._queue().enqueue(turn_input, key=id, ingress=ingress)

    async def pending_turn_inputs(self) -> tuple[PendingTurnInput, ...]:
        """Inputs that wait and that nobody holds, oldest first."""
        return await self._queue().pending_inputs()

    async def cancel_pending_turn_input(self, input_id: str) -> PendingTurnInputCancelOutcome:
        """Cancel one input."""
        return await self._queue().cancel_input(input_id)

    async def cancel_pending_turn_inputs(
        self, targets: Sequence[PendingTurnInputCancelTarget]
    ) -> tuple[PendingTurnInputCancelResult, ...]:
        """Cancel a set in one transaction; one result per target, in order."""
        return await self._queue().cancel_inputs(targets)

    async def cancel_pending_turn_input_suffix(
        self, anchor: PendingTurnInputCancelTarget
    ) -> PendingTurnInputSuffixCancelOutcome:
        """Cancel everything from the anchor on, the anchor included."""
        return await self._queue().cancel_suffix(anchor)

    async def abandon_turn_input_claim(self, claim: TurnInputClaim) -> tuple[str, ...]:
        """Give back what a claim still owns; the ids given back."""
        return await self._queue().abandon_inputs(claim)

    async def queued_work(self) -> tuple[QueuedWorkBatch, ...]:
        """Batches that nobody holds, oldest first, those not yet available included."""
        return await self._queue().pending_batches()

    async def cancel_queued_work_batch(self, batch_id: str) -> QueuedWorkBatch | None:
        """Cancel a batch; None means already claimed, done, or not of this session."""
        return await self._queue().cancel_batch(batch_id)

    async def abandon_queued_work_claim(self, claim: QueuedWorkClaim) -> tuple[str, ...]:
        """Give back what a claim still owns; the ids given back."""
        return await self._queue().abandon_work(claim)

    async def await_queued_work_batch(self, batch_id: str, *, timeout_ms: int | None = None) -> BatchSettlement:
        """Wait until a batch is settled or parked as dead, whoever drains it; at once for one that never was. Raises
        `WaitTimeout` when that takes longer than `timeout_ms`."""
        return await self._queue().await_batch(batch_id, timeout_ms=timeout_ms)

    def commands(self) -> SessionCommands:
        """Session commands by name."""
        from lash_cli.api.commands import SessionCommands

        self._check_open()
        return SessionCommands(self)

    async def submit_session_command(self, command: SessionCommand, key: str) -> SessionCommandReceipt:
        """Queue a command durably under an idempotency key; without a store apply it at once.

        The receipt proves that it is durable, not that it was applied: see
        `await_queued_work_batch`. Raises `LashRuntimeError`
        (`session_command_idempotency_key`) for a blank key.
        """
        if self._core.host.store is not None:
            return await self._queue().submit_command(command, key)
        from lash_cli.api.queue import require_command_key
        from lash_cli.runtime.commands import apply_command
        from lash_cli.runtime.ephemeral import publish_commit

        source_key = command_source_key(command, require_command_key(key))
        async with self._shared.lock:
            apply_command(self._state, command, self._core.host.clock.now_ms())
            publish_commit(self._state)
        return SessionCommandReceipt(self.session_id, f"inline-command:{self._core.host.ids.token()}", source_key)

    async def drain_next_session_command(self, fence: LeaseFence | None = None) -> SessionCommandReceipt | None:
        """Apply the session command at the head of the queue; None when none stands there, or it failed and waits for
        its next attempt.

        With `fence` the caller holds the lane. Without one it is taken, and a
        turn that a crash cut off is finished first. Raises
        `SessionExecutionBusy` while another owner holds it.
        """
        self._check_open()
        from lash_cli.runtime.cancellation import CancelToken
        from lash_cli.runtime.drains import run_next_command

        host, shared = self._core.host, self._shared
        store = host.store
        if store is None:
            return None

        def look() -> Awaitable[tuple[bool, SessionCommandReceipt | None]]:
            return run_next_command(host, store, self._state, shared.owner, fence)

        is_free, receipt = False, None
        while not is_free:
            if fence is None:
                # As any other turn, which can be stopped and knows the tools that would wait for it.
                await self._run(TurnRequest(None), CancelToken(), unseen)
            async with shared.lock:
                is_free, receipt = await self._core._beside_driver(self.session_id, look)
        return receipt

    def queued_turn(
        self,
        batch_ids: Sequence[str] = (),
        *,
        drain_id: str | None = None,
        max_turns: int | None = None,
        timeout_ms: int | None = None,
    ) -> QueuedTurnBuilder:
        """Describe one pass over the queue: exactly the named batches, or what stands first (contract 02 §6.1).

        `drain_id` begins the id of the turn that is started. Raises
        `UsageError` for a blank id or a limit below 1.
        """
        self._check_open()
        if isinstance(batch_ids, str):
            raise UsageError("the batches of a queued turn are a list of their ids, not one of them")
        named = tuple(batch_ids)
        for given in (*named, drain_id):
            require_named("an id of a queued turn", given)
        require_limits(max_turns, timeout_ms=timeout_ms)
        selection = DrainSelection(batch_ids=named)
        request = TurnRequest(None, max_turns=max_turns, timeout_ms=timeout_ms, drain=selection, drain_id=drain_id)
        return QueuedTurnBuilder(self._run, request)

    async def revoke_durable_waits(self) -> int:
        """End every pending wait of the session as cancelled, except turn control, and say how many; the session stays
        usable."""
        self._check_open()
        return await self._core.host.effects.cancel_await_events_for_session(self.session_id)
