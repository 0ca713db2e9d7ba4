"""What a core can do to sessions it has not opened, in whatever process they run (contract 01 §1.4, §6.6, 02 §1, §2).

Everything goes through the store: their queues, early injection, cancelling a
turn and waiting for its end, deletion.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from lash_cli.api.shared import SharedSession, outside_of_turns
from lash_cli.core.attachments import has_bytes
from lash_cli.core.codec import reread
from lash_cli.core.content import TurnInput
from lash_cli.core.ids import is_session_id, require_named
from lash_cli.core.ingress import ActiveTurn, InputDraft, NextTurn, PendingTurnInput, TurnInputIngress
from lash_cli.core.lease import LeaseOwnerIdentity, is_row_live
from lash_cli.core.outcome import (
    CancelRequested,
    TerminalCommitted,
    TurnAddress,
    TurnCancellationEvidence,
    TurnCancelReceipt,
    TurnTerminal,
)
from lash_cli.errors import ConflictError, LashRuntimeError, NotFoundError, SessionDeleted, UsageError, WaitTimeout
from lash_cli.runtime.cancellation import FAILURES
from lash_cli.runtime.drivers import Driver
from lash_cli.runtime.host import RuntimeHost
from lash_cli.runtime.lane import free_dead_lane
from lash_cli.store.base import LaneBusy, RuntimePersistence, TurnRecord, busy_error
from lash_cli.system import this_process

if TYPE_CHECKING:
    from weakref import WeakSet

    from lash_cli.api.queue import Notify, SessionQueue

_log = logging.getLogger("lash.driver")

TERMINAL_POLL_FIRST_S = 0.025
TERMINAL_POLL_MAX_S = 0.25
INJECTION_PREFIX = "injection:"


class SessionDeleteReport(msgspec.Struct, frozen=True):
    """What a deletion did; `existed` is False for an id that was never used (contract 01 §1.4)."""

    session_id: str
    existed: bool


def require_session_id(session_id: str) -> None:
    """Raise `UsageError` for an id of the wrong shape."""
    if not is_session_id(session_id):
        raise UsageError(
            f"{session_id!r} is not a session id",
            hint="use 1 to 128 letters, digits, '.', '_', ':' or '-', beginning with a letter or digit",
        )


def require_kind(given: object, kind: type, *, hint: str | None = None, code: str = "usage") -> None:
    """Raise `UsageError` for what was handed in where a `kind` belongs; `hint` says how one is made, or what takes what
    is most often given in its place."""
    if not isinstance(given, kind):
        raise UsageError(f"this takes a {kind.__name__}, not {type(given).__name__}", hint=hint, code=code)


def require_readable(value: object, kind: Any, what: str) -> None:
    """Raise `UsageError` for what was handed in and could not be read again where it is stored (`codec.reread`)."""
    try:
        reread(value, kind)
    except ValueError as error:
        raise UsageError(f"that cannot be {what}: {error}") from error


def require_described(name: str | None, cwd: str | None, parent: str | None, labels: dict[str, str] | None) -> None:
    """Raise `UsageError` for what a session cannot be described by, such as a label that is a number."""
    if name is not None or cwd is not None or parent is not None or labels:
        described = (name, cwd, parent, labels or {})
        require_readable(
            described, tuple[str | None, str | None, str | None, dict[str, str]], "how a session is described"
        )


class AcrossProcesses:
    """The part of `LashCore` that needs no opened session. Every verb raises `LashRuntimeError`
    (`missing_session_store_factory`) for a core without a store."""

    host: RuntimeHost
    _owner_label: str
    _opened_sessions: WeakSet[SharedSession]
    _driver: Driver | None
    # What ends as soon as a lane is given back that is held without a handle.
    _borrowed: set[asyncio.Future[None]]

    @property
    def store(self) -> RuntimePersistence:
        """The store; raises `LashRuntimeError` for a core without one."""
        if self.host.store is None:
            raise LashRuntimeError("missing_session_store_factory", "this core keeps its sessions in memory only")
        return self.host.store

    @property
    def _notify(self) -> Notify | None:
        return None if self._driver is None else self._tell_driver

    def _tell_driver(self, session_id: str, reason: str) -> None:
        """What is to be driven is durable whoever hears of it: a driver that fails fails nobody's call."""
        assert self._driver is not None, "there is one to tell"
        try:
            outside_of_turns(self._driver.notify, session_id, reason)
        except FAILURES:
            if self.host.is_strict:
                raise
            _log.exception("the queue driver could not be told of %s (%s)", session_id, reason)

    def _new_owner(self) -> LeaseOwnerIdentity:
        token = self.host.ids.token()
        return LeaseOwnerIdentity(token, token, this_process(), self._owner_label)

    def _owner_of(self, session_id: str, given: LeaseOwnerIdentity | None) -> LeaseOwnerIdentity:
        """`given`, or a new one.

        Another incarnation of it while a handle of the session has that very identity: whoever asks for a lane under
        the identity of its holder gets the holder's own lease, and would give it back in the middle of its turn, or
        drive that turn a second time (contract 01 §4, §13).
        """
        if given is None:
            return self._new_owner()
        require_kind(given, LeaseOwnerIdentity, hint="it is made by LeaseOwnerIdentity(owner_id, incarnation_id)")
        identity = (given.owner_id, given.incarnation_id)
        for shared in tuple(self._opened_sessions):
            holder = (shared.owner.owner_id, shared.owner.incarnation_id)
            if shared.state.session_id == session_id and holder == identity and not shared.is_gone:
                return msgspec.structs.replace(given, incarnation_id=self.host.ids.token())
        return given

    def queue(self, session_id: str) -> SessionQueue:
        """The durable queue of a session, which need not be opened. What enters it is driven by this core's driver.

        Raises `LashRuntimeError` for a core without a store.
        """
        from lash_cli.api.queue import SessionQueue

        return SessionQueue(self.store, self.host.clock, self.host.ids, session_id, self._notify, self.host.attachments)

    async def enqueue_turn_input(
        self,
        session_id: str,
        turn_input: TurnInput | str,
        ingress: TurnInputIngress = NextTurn(),  # noqa: B008 - an immutable record
        id: str | None = None,
    ) -> PendingTurnInput:
        """`LashSession.enqueue` for a session that is not opened here, so that nobody competes for its writer lock
        (contract 02 §1.2). Raises as `SessionQueue.enqueue`."""
        return await self.queue(session_id).enqueue(turn_input, key=id, ingress=ingress)

    async def inject_turn_input(
        self, session_id: str, turn_id: str, id: str, message: TurnInput | str
    ) -> PendingTurnInput:
        """Early injection: an input for a running turn, taken at its next checkpoint, or by the next turn when it
        comes too late (contract 02 §1.2). Idempotent by `id`.

        Raises as `SessionQueue.enqueue` and `SessionQueue.stored`.
        """
        from lash_cli.api.queue import require_addressee, require_key

        ingress = ActiveTurn(turn_id)
        require_addressee(ingress)
        content = TurnInput.of(message)
        key = INJECTION_PREFIX + require_key(id)
        if has_bytes(content):
            content = await self.queue(session_id).stored(content)
        draft = InputDraft(session_id, self.host.ids.new("in"), content, ingress, key)
        return await self.store.enqueue_turn_input(draft)

    async def running_turn(self, session_id: str) -> TurnRecord | None:
        """The turn that is under way in a session, in whatever process, or that a crash left unfinished; None when
        there is none. An input addressed to it is used by it or by the turn after it."""
        unfinished = await self.store.unfinished_turns(session_id)
        return unfinished[-1] if unfinished else None

    async def request_turn_cancel(
        self,
        session_id: str,
        *,
        turn_id: str | None = None,
        request_id: str | None = None,
        origin: str | None = None,
        reason: str | None = None,
    ) -> TurnCancelReceipt:
        """Ask a turn to stop, in whatever process it runs (contract 01 §6.6).

        Without `turn_id` the running turn is meant. Raises `ConflictError`
        (`no_active_turn`) when none runs, `UsageError` for a blank request id
        (`invalid_turn_cancel_request`) or turn id (`missing_execution_scope_id`), and for what is no text.
        """
        if request_id is not None and (not isinstance(request_id, str) or not request_id.strip()):
            raise UsageError("a cancel request id is text and not blank", code="invalid_turn_cancel_request")
        require_named("the id of the turn to cancel", turn_id)
        store = self.store
        if turn_id is None:
            running = await self.running_turn(session_id)
            if running is None:
                raise ConflictError(
                    f"no turn of session {session_id} is running",
                    code="no_active_turn",
                    hint=f"see what it did last: lash show {session_id}",
                )
            turn_id = running.turn_id
        evidence = TurnCancellationEvidence(request_id or self.host.ids.new("c"), origin, reason)
        require_readable(evidence, TurnCancellationEvidence, "what a turn is cancelled with")
        stands = await store.request_turn_cancel(session_id, turn_id, evidence, self.host.clock.now_ms())
        address = TurnAddress(session_id, turn_id)
        match stands:
            case None:
                return TurnCancelReceipt(address, "requested", "durable", evidence)
            case CancelRequested(cancellation=first):
                return TurnCancelReceipt(address, "already_requested", "durable", first)
            case _:
                return TurnCancelReceipt(address, "completion_won", "durable")

    async def await_terminal(self, address: TurnAddress, *, timeout_ms: int | None = None) -> TurnTerminal:
        """Wait until a turn has ended, wherever it runs; its outcome has the text of the answer.

        Raises `WaitTimeout` (`turn_terminal_await_timeout`), which changes nothing, and `NotFoundError`
        (`turn_unknown`).
        """
        from lash_cli.runtime.stored_turns import stored_outcome  # only whoever waits needs it (design D16)

        require_kind(address, TurnAddress, hint="it is made by TurnAddress(session_id, turn_id)")
        deadline = None if timeout_ms is None else self.host.clock.monotonic() + timeout_ms / 1000
        delay = TERMINAL_POLL_FIRST_S
        while True:
            turn = await self.store.turn(address.session_id, address.turn_id)
            if turn is None:
                raise NotFoundError(f"there is no turn {address.turn_id!r}", code="turn_unknown")
            if turn.state == "committed" and turn.summary is not None:
                outcome = await stored_outcome(self.store, address.session_id, turn.summary)
                return TerminalCommitted(outcome, turn.summary.cancellation, turn.head_revision)
            if deadline is not None and self.host.clock.monotonic() >= deadline:
                raise WaitTimeout(
                    f"turn {address.turn_id} did not end in time",
                    code="turn_terminal_await_timeout",
                    details={"turn": address.turn_id},
                )
            await self.host.clock.sleep(delay)
            delay = min(delay * 2, TERMINAL_POLL_MAX_S)

    @contextlib.contextmanager
    def _borrowing(self) -> Iterator[None]:
        """While a lane is held without a handle: whoever closes the core waits, because a closed store takes nothing
        back."""
        loop = asyncio._get_running_loop()
        if loop is None:
            yield  # nor can anybody close it meanwhile
            return
        given_back = loop.create_future()
        self._borrowed.add(given_back)
        try:
            yield
        finally:
            self._borrowed.discard(given_back)
            if not loop.is_closed():
                given_back.set_result(None)

    async def _borrowed_is_given_back(self) -> None:
        loop = asyncio.get_running_loop()
        while here := [given_back for given_back in tuple(self._borrowed) if given_back.get_loop() is loop]:
            await asyncio.wait(here)

    async def _free_dead_lane(self, session_id: str) -> None:
        row = await self.store.session_row(session_id)
        if row is not None:
            with self._borrowing():
                await free_dead_lane(self.host, self.store, self._new_owner(), session_id, row.lease)

    async def _require_free_lane(self, session_id: str) -> None:
        """Raise `SessionExecutionBusy` while somebody holds the lane who does not provably run no more."""
        await self._free_dead_lane(session_id)
        row = await self.store.session_row(session_id)
        if row is None or row.lease.owner is None or not is_row_live(row.lease, self.host.clock.now_ms()):
            return
        busy = LaneBusy(row.lease.owner, row.lease.expires_at_ms, row.lease.fencing_token, row.running_turn_id)
        raise busy_error(session_id, busy)

    async def delete_session(self, session_id: str) -> SessionDeleteReport:
        """Delete a session for ever (contract 01 §1.4). Its waits are revoked and its id is never used again.

        Raises `SessionExecutionBusy` while somebody holds the lane; a holder
        that provably runs no more does not count. Raises `SessionDeleted` for
        one that was deleted before, whose waits are revoked then at the latest.
        """
        try:
            await self._free_dead_lane(session_id)
            existed = await self.store.delete_session(session_id, self.host.clock.now_ms())
        except SessionDeleted:
            # Whoever deleted it may have been stopped before the next step.
            await self.host.effects.revoke_await_events_for_session(session_id)
            raise
        if existed:
            await self.host.effects.revoke_await_events_for_session(session_id)
        return SessionDeleteReport(session_id, existed)
