"""The `waits` table and the promises of turn control (contract 03 §3, design D8).

A key is a signed capability: any process of this file can check it, because
the secret is a row. Turn control has no rows here: its gate is the cancel
request or the committed turn, its terminal is the committed turn, so they can
never disagree with what the session did. A deleted session answers no key any
more, because the tombstone is looked up in every transaction; nor does a call
of a committed turn whose row is gone, because turns stay.
"""

from __future__ import annotations

import sqlite3
from typing import Final

import msgspec

from lash_cli.core.codec import decode_any, encode, from_builtins_any, to_builtins
from lash_cli.core.effect import ExecutionScope, TurnScope, scope_session_id
from lash_cli.core.outcome import (
    CancelGate,
    CancelRequested,
    CompletionSealed,
    TerminalCommitted,
)
from lash_cli.core.wait import (
    AwaitEventKey,
    Resolution,
    ResolvedCancelled,
    ResolvedErr,
    ResolvedOk,
    ResolveOutcome,
    ToolCompletionWait,
    TurnCancelGateWait,
    WaitIdentity,
    WaitState,
    is_authentic,
    is_turn_control,
    judge_resolve,
    mint,
    unknown_or_revoked,
)
from lash_cli.errors import EffectError, StoreUnusable
from lash_cli.store.sqlite.answers import whole_outcome
from lash_cli.store.sqlite.database import Database
from lash_cli.store.sqlite.lanes import write_gate
from lash_cli.store.sqlite.sessions import is_deleted
from lash_cli.store.sqlite.stamps import decode_summary

_SECRET = "SELECT secret FROM wait_secret WHERE singleton = 1"
_WAIT = "SELECT state, CAST(resolution AS BLOB), deadline_ms FROM waits WHERE key_id = ?"
# Contract 03 §3.3: a resolution that comes first is kept for the waiter, so missing and pending end alike.
_RESOLVE = """
INSERT INTO waits (key_id, session_id, scope, wait, is_control, state, resolution, created_at_ms)
VALUES (?, ?, ?, ?, 0, 'resolved', ?, ?)
ON CONFLICT (key_id) DO UPDATE SET state = 'resolved', resolution = excluded.resolution WHERE state = 'pending'
"""
# The first deadline stays: a crash or a second waiter does not restart a time-out.
_REGISTER = """
INSERT INTO waits (key_id, session_id, scope, wait, is_control, state, deadline_ms, created_at_ms)
VALUES (?, ?, ?, ?, 0, 'pending', ?, ?)
ON CONFLICT (key_id) DO UPDATE SET deadline_ms = coalesce(deadline_ms, excluded.deadline_ms) WHERE state = 'pending'
"""
# Contract 03 §3.3 "cancel sweep": pending only; what is not registered yet may still be signalled, and
# turn control is spared because it has no rows here.
_CANCEL_SESSION = """
UPDATE waits SET state = 'resolved', resolution = ? WHERE session_id = ? AND state = 'pending'
"""
# Contract 03 §3.3 "revoke": the tombstone first, then the rows.
_BURY_SESSION = "INSERT INTO deleted_sessions (session_id, deleted_at_ms) VALUES (?, ?) ON CONFLICT DO NOTHING"
_DELETE_WAITS = "DELETE FROM waits WHERE session_id = ?"
# Another turn under the same id must not find what completed a call of a turn that was dropped.
_DELETE_OF_SCOPE = "DELETE FROM waits WHERE session_id = ? AND scope = ?"
# Contract 03 §3, 05 §1.7: nobody waits any more for a call of a turn that is committed. Turns stay when promises are
# swept, so what was completed once is not completed again.
_IS_COMMITTED = """
SELECT 1 FROM sessions s JOIN turns t ON t.session_key = s.session_key
WHERE s.session_id = ? AND t.turn_id = ? AND t.state = 'committed'
"""
# Promises that a host made in the scope of a turn are its own to keep: only calls of tools end with it. One row that is
# no JSON must not stop the sweep.
_SWEEP = """
DELETE FROM waits
WHERE session_id = coalesce(?1, session_id) AND CASE WHEN json_valid(scope) AND json_valid(wait) THEN
    json_extract(wait, '$.kind') = 'tool_completion' AND json_extract(scope, '$.type') = 'turn' AND EXISTS (
        SELECT 1 FROM sessions s JOIN turns t ON t.session_key = s.session_key
        WHERE s.session_id = waits.session_id AND t.turn_id = json_extract(waits.scope, '$.turn_id')
            AND t.state = 'committed' AND t.committed_at_ms < ?2
    )
ELSE 0 END
"""
_FOR_EVER: Final = (1 << 63) - 1
# D8: what the turn tables say about the two promises of a turn.
_TURN_CONTROL = """
SELECT sessions.session_key, turn_cancels.gate, turns.summary, turns.started_at_ms, turns.head_revision
FROM sessions
LEFT JOIN turn_cancels ON turn_cancels.session_key = sessions.session_key AND turn_cancels.turn_id = :turn_id
LEFT JOIN turns ON turns.session_key = sessions.session_key AND turns.turn_id = :turn_id AND turns.state = 'committed'
WHERE sessions.session_id = :session_id
"""
# Session key, gate, and of a committed turn its summary, its start and its revision.
_ControlRow = tuple[int, str | None, str | None, int | None, int | None]

_SEALED: Final = ResolvedOk(to_builtins(CompletionSealed()))


def _is_deleted(connection: sqlite3.Connection, scope: ExecutionScope) -> bool:
    """D7: the tombstone ends every promise of a session."""
    session_id = scope_session_id(scope)
    return session_id is not None and is_deleted(connection, session_id)


def revoke_waits(connection: sqlite3.Connection, session_id: str, now_ms: int) -> None:
    """Bury a session's promises inside the caller's transaction: tombstone, then rows. Idempotent."""
    connection.execute(_BURY_SESSION, (session_id, now_ms))
    connection.execute(_DELETE_WAITS, (session_id,))


def drop_waits(connection: sqlite3.Connection, scope: TurnScope) -> None:
    """Forget the promises of a turn that is dropped, inside the caller's transaction."""
    connection.execute(_DELETE_OF_SCOPE, (scope.session_id, encode(scope).decode()))


def sweep_waits(connection: sqlite3.Connection, *, session_id: str | None = None, before_ms: int = _FOR_EVER) -> int:
    """Forget the calls of turns that were committed before `before_ms`, of one session or of all, inside the caller's
    transaction; how many. Their keys stay used: see `_is_over`."""
    return connection.execute(_SWEEP, (session_id, before_ms)).rowcount


def _look(connection: sqlite3.Connection, key: AwaitEventKey) -> tuple[WaitState, Resolution | None]:
    """State and terminal of an authentic key; the caller checked the signature."""
    if _is_deleted(connection, key.scope):
        return WaitState.REVOKED, None
    if is_turn_control(key.wait):
        standing = _standing_control(connection, key)
        return (WaitState.PENDING, None) if standing is None else (WaitState.RESOLVED, standing)
    row = connection.execute(_WAIT, (key.key_id,)).fetchone()
    if row is None:
        return WaitState.REVOKED if _is_over(connection, key) else WaitState.MISSING, None
    state, resolution, _deadline_ms = row
    return WaitState(state), None if resolution is None else _stored(resolution)


def _stored(resolution: bytes) -> Resolution:
    """What completed a wait. What cannot be read has completed it all the same: nobody can put something else in its
    place, and the turn that waits for it must come to an end, by a cancel at least."""
    try:
        kept: Resolution = decode_any(resolution, Resolution)
    except msgspec.DecodeError:
        return ResolvedErr("await_event_unreadable", "what completed this cannot be read")
    return kept


def _is_over(connection: sqlite3.Connection, key: AwaitEventKey) -> bool:
    """Whether the key completes a call of a turn that is committed."""
    scope = key.scope
    if not isinstance(scope, TurnScope) or not isinstance(key.wait, ToolCompletionWait):
        return False
    return connection.execute(_IS_COMMITTED, (scope.session_id, scope.turn_id)).fetchone() is not None


def _identity(key: AwaitEventKey) -> tuple[str, str | None, str, str]:
    return key.key_id, scope_session_id(key.scope), encode(key.scope).decode(), encode(key.wait).decode()


def _resolve(connection: sqlite3.Connection, key: AwaitEventKey, resolution: Resolution, now_ms: int) -> ResolveOutcome:
    outcome = judge_resolve(*_look(connection, key))
    if outcome.kind != "accepted":
        return outcome
    if is_turn_control(key.wait):
        return _request_cancel(connection, key, resolution, now_ms)
    connection.execute(_RESOLVE, (*_identity(key), encode(resolution).decode(), now_ms))
    return outcome


def _control_row(connection: sqlite3.Connection, key: AwaitEventKey) -> _ControlRow | None:
    """What `_TURN_CONTROL` selects; None without such a session or turn scope."""
    if not isinstance(key.scope, TurnScope):
        return None
    row: _ControlRow | None = connection.execute(
        _TURN_CONTROL, {"session_id": key.scope.session_id, "turn_id": key.scope.turn_id}
    ).fetchone()
    return row


def _standing_control(connection: sqlite3.Connection, key: AwaitEventKey) -> Resolution | None:
    """What stands at the gate, or how the turn ended; a cancel request stands before the completion it caused."""
    row = _control_row(connection, key)
    if row is None:
        return None
    session_key, gate, summary, started_at_ms, head_revision = row
    if isinstance(key.wait, TurnCancelGateWait):
        if gate is not None:
            return ResolvedOk(to_builtins(decode_any(gate, CancelGate)))
        return _SEALED if summary is not None else None
    if summary is None or started_at_ms is None:
        return None
    ended = decode_summary(summary, started_at_ms)
    outcome = whole_outcome(connection, session_key, ended)
    return ResolvedOk(to_builtins(TerminalCommitted(outcome, ended.cancellation, head_revision)))


def _request_cancel(
    connection: sqlite3.Connection, key: AwaitEventKey, resolution: Resolution, now_ms: int
) -> ResolveOutcome:
    """Put a cancel request at an open gate; completion and terminal are written by the commit alone."""
    row = _control_row(connection, key)
    if row is None:
        return ResolveOutcome("unknown_or_revoked")
    gate = _cancel_request(resolution) if isinstance(key.wait, TurnCancelGateWait) else None
    if gate is None or not isinstance(key.scope, TurnScope):
        raise EffectError(
            "turn_control_resolved_by_commit", "only a cancel request can be put here; the rest is the turn's commit"
        )
    write_gate(connection, row[0], key.scope.turn_id, gate.cancellation, now_ms)
    return ResolveOutcome("accepted")


def _cancel_request(resolution: Resolution) -> CancelRequested | None:
    if not isinstance(resolution, ResolvedOk):
        return None
    try:
        gate = from_builtins_any(resolution.payload, CancelGate)
    except msgspec.ValidationError:
        return None
    return gate if isinstance(gate, CancelRequested) else None


class Waits:
    """`store.base.WaitStore` over one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._secret: bytes | None = None

    def _secret_of(self, connection: sqlite3.Connection) -> bytes:
        if self._secret is None:
            row = connection.execute(_SECRET).fetchone()
            if row is None:
                raise StoreUnusable("the database has no wait secret", code="store_corrupt")
            self._secret = bytes(row[0])
        return self._secret

    def _standing(self, connection: sqlite3.Connection, key: AwaitEventKey) -> tuple[WaitState, Resolution | None]:
        """As `_look`; raises `EffectError` (`await_event_unknown_or_revoked`) when forged or revoked."""
        if is_authentic(self._secret_of(connection), key):
            state, resolution = _look(connection, key)
            if state is not WaitState.REVOKED:
                return state, resolution
        raise unknown_or_revoked()

    async def wait_key(self, scope: ExecutionScope, wait: WaitIdentity) -> AwaitEventKey:
        """Mint a key; writes nothing.

        Raises `EffectError`: `missing_execution_scope_id`, `invalid_await_event_wait_identity`, or
        `await_event_unknown_or_revoked` for a deleted session.
        """

        def make(connection: sqlite3.Connection) -> AwaitEventKey:
            key = mint(self._secret_of(connection), scope, wait)
            if _is_deleted(connection, scope):
                raise unknown_or_revoked()
            return key

        return self._database.read(make)

    async def resolve_wait(self, key: AwaitEventKey, resolution: Resolution, now_ms: int) -> ResolveOutcome:
        """Offer a terminal; the first one stands, and an accepted one is synced before this returns.

        A forged key is `unknown_or_revoked`, and so is that of a call which was
        open, or whose promise was swept, when its turn is committed. The gate of a turn takes a cancel
        request only: anything else raises `EffectError`
        (`turn_control_resolved_by_commit`).
        """

        def resolve(connection: sqlite3.Connection) -> ResolveOutcome:
            if not is_authentic(self._secret_of(connection), key):
                return ResolveOutcome("unknown_or_revoked")
            return _resolve(connection, key, resolution, now_ms)

        return await self._database.write(resolve, durable=True)

    async def peek_wait(self, key: AwaitEventKey) -> Resolution | None:
        """What stands. Raises `EffectError` (`await_event_unknown_or_revoked`) when forged or revoked."""

        def peek(connection: sqlite3.Connection) -> Resolution | None:
            return self._standing(connection, key)[1]

        return self._database.read(peek)

    async def register_wait(self, key: AwaitEventKey, deadline_ms: int | None, now_ms: int) -> Resolution | None:
        """Mark a wait pending with its first deadline; returns what stands if it is resolved already.

        Raises `EffectError` (`await_event_unknown_or_revoked`). Turn control
        needs no row and takes no deadline.
        """

        def register(connection: sqlite3.Connection) -> Resolution | None:
            state, resolution = self._standing(connection, key)
            if state is not WaitState.RESOLVED:
                connection.execute(_REGISTER, (*_identity(key), deadline_ms, now_ms))
            return resolution

        if is_turn_control(key.wait):
            return await self.peek_wait(key)
        return await self._database.write(register, durable=False)

    async def wait_deadline(self, key: AwaitEventKey) -> int | None:
        """The deadline that was registered first, None without one."""

        def load(connection: sqlite3.Connection) -> int | None:
            row = connection.execute(_WAIT, (key.key_id,)).fetchone()
            return None if row is None else row[2]

        return self._database.read(load)

    async def cancel_session_waits(self, session_id: str) -> int:
        """Resolve every pending wait of a session as cancelled, except turn control; how many there were."""

        def cancel(connection: sqlite3.Connection) -> int:
            return connection.execute(_CANCEL_SESSION, (encode(ResolvedCancelled()).decode(), session_id)).rowcount

        return await self._database.write(cancel, durable=True)

    async def revoke_session_waits(self, session_id: str, now_ms: int) -> None:
        """End every promise of a session for ever; its id counts as deleted from here on.

        Writes nothing for one that was deleted: what it awaited went in that same transaction.
        """
        if self._database.read(lambda connection: is_deleted(connection, session_id)):
            return
        await self._database.write(lambda connection: revoke_waits(connection, session_id, now_ms), durable=True)
