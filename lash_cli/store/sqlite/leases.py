"""The session execution lease in its row (contract 01 §13, 02 §4).

`core.lease` judges; this module reads the row, applies the verdict and writes,
always inside the write transaction of what it guards. Liveness is judged with
the store's clock at that moment, never with a time computed before queueing.
"""

from __future__ import annotations

import sqlite3

from lash_cli.core.codec import encode
from lash_cli.core.lease import (
    ClaimVerdict,
    LeaseFence,
    LeaseOwnerIdentity,
    LeaseRow,
    SessionExecutionLease,
    granted_lease,
    is_fence_live,
    judge_claim,
)
from lash_cli.errors import SessionExecutionLeaseExpired
from lash_cli.store.base import LaneBusy
from lash_cli.store.sqlite.database import Database
from lash_cli.store.sqlite.sessions import StoredHead, find_session, read_session, running_turn

_WRITE = """
UPDATE sessions SET lease_fencing_token = ?, lease_token = ?, lease_owner = ?, lease_claimed_at_ms = ?,
    lease_expires_at_ms = ?
WHERE session_key = ?
"""
_EXTEND = "UPDATE sessions SET lease_expires_at_ms = ? WHERE session_key = ?"
# The fencing token stays: it only ever grows.
_CLEAR = """
UPDATE sessions SET lease_token = NULL, lease_owner = NULL, lease_claimed_at_ms = 0, lease_expires_at_ms = 0
WHERE session_key = ?
"""


def take(
    connection: sqlite3.Connection,
    stored: StoredHead,
    owner: LeaseOwnerIdentity,
    *,
    token: str,
    ttl_ms: int,
    now_ms: int,
    dead_fencing_token: int | None,
) -> SessionExecutionLease | LaneBusy:
    """Grant or extend the lease of a session just read, or say who holds it; a busy answer writes nothing."""
    row = stored.lease()
    verdict = judge_claim(row, owner, now_ms, dead_fencing_token)
    if verdict is ClaimVerdict.BUSY:
        return busy(connection, stored, row)
    if verdict is ClaimVerdict.EXTEND and row.token is not None:
        lease = SessionExecutionLease(
            stored.session_id,
            owner,
            row.token,
            row.fencing_token,
            row.claimed_at_ms,
            max(row.expires_at_ms, now_ms + ttl_ms),
        )
        connection.execute(_EXTEND, (lease.expires_at_ms, stored.key))
        return lease
    lease = granted_lease(stored.session_id, row, owner, token, now_ms, ttl_ms)
    connection.execute(
        _WRITE,
        (lease.fencing_token, token, encode(owner).decode(), lease.claimed_at_ms, lease.expires_at_ms, stored.key),
    )
    return lease


def require_live(stored: StoredHead, fence: LeaseFence, now_ms: int) -> LeaseRow:
    """The lease row that `fence`, one of this session, proves ownership of; raises `SessionExecutionLeaseExpired`."""
    row = stored.lease()
    if not is_fence_live(row, fence, now_ms):
        raise SessionExecutionLeaseExpired(
            f"the lane of session {stored.session_id!r} is no longer held by this owner",
            details={
                "session": stored.session_id,
                "fencing_token": fence.fencing_token,
                "current_fencing_token": row.fencing_token,
            },
        )
    return row


def release(connection: sqlite3.Connection, stored: StoredHead, fence: LeaseFence) -> bool:
    """Clear the lease if `fence` is the one stored, expired or not; a successor's lease is left alone."""
    row = stored.lease()
    is_ours = (
        row.owner is not None
        and (row.token, row.fencing_token) == (fence.lease_token, fence.fencing_token)
        and (row.owner.owner_id, row.owner.incarnation_id) == (fence.owner_id, fence.incarnation_id)
    )
    if is_ours:
        connection.execute(_CLEAR, (stored.key,))
    return is_ours


def busy(connection: sqlite3.Connection, stored: StoredHead, row: LeaseRow) -> LaneBusy:
    """Who holds a lane that is not free, and the turn it runs."""
    assert row.owner is not None, "a live lease has an owner"
    return LaneBusy(row.owner, row.expires_at_ms, row.fencing_token, running_turn(connection, stored.key))


class Leases:
    """Lease operations on their own; the async face of this module. All survive `kill -9`; none is synced (D22)."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def try_claim_lease(
        self, session_id: str, owner: LeaseOwnerIdentity, *, ttl_ms: int, token: str
    ) -> SessionExecutionLease | LaneBusy:
        """See `base.LaneStore.try_claim_lease`."""
        return await self._take(session_id, owner, ttl_ms=ttl_ms, token=token, dead_fencing_token=None)

    async def reclaim_lease(
        self,
        session_id: str,
        owner: LeaseOwnerIdentity,
        *,
        observed_fencing_token: int,
        ttl_ms: int,
        token: str,
    ) -> SessionExecutionLease | LaneBusy:
        """See `base.LaneStore.reclaim_lease`."""
        return await self._take(
            session_id, owner, ttl_ms=ttl_ms, token=token, dead_fencing_token=observed_fencing_token
        )

    async def renew_lease(self, fence: LeaseFence, *, ttl_ms: int) -> SessionExecutionLease:
        """See `base.LaneStore.renew_lease`."""

        def job(connection: sqlite3.Connection) -> SessionExecutionLease:
            stored = read_session(connection, fence.session_id)
            now = self._db.clock.now_ms()
            row = require_live(stored, fence, now)
            assert row.owner is not None, "a live fence has an owner"
            connection.execute(_EXTEND, (now + ttl_ms, stored.key))
            return SessionExecutionLease(
                stored.session_id, row.owner, fence.lease_token, row.fencing_token, row.claimed_at_ms, now + ttl_ms
            )

        return await self._db.write(job, durable=False)

    async def release_lease(self, fence: LeaseFence) -> bool:
        """See `base.LaneStore.release_lease`; False too for a session that is gone."""

        def job(connection: sqlite3.Connection) -> bool:
            stored = find_session(connection, fence.session_id)
            return stored is not None and release(connection, stored, fence)

        return await self._db.write(job, durable=False)

    async def _take(
        self, session_id: str, owner: LeaseOwnerIdentity, *, ttl_ms: int, token: str, dead_fencing_token: int | None
    ) -> SessionExecutionLease | LaneBusy:
        def job(connection: sqlite3.Connection) -> SessionExecutionLease | LaneBusy:
            return take(
                connection,
                read_session(connection, session_id),
                owner,
                token=token,
                ttl_ms=ttl_ms,
                now_ms=self._db.clock.now_ms(),
                dead_fencing_token=dead_fencing_token,
            )

        return await self._db.write(job, durable=False)
