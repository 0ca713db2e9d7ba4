"""The `effects` table: claims, takeovers and recorded results of effects (contract 03 §2.6, design D5, D22).

Every method is one transaction. A write that carries a lane fence checks it in
that same transaction, so a generation that lost its lane records nothing; such
a write may also take over what an earlier generation left in progress, because
that generation can write nothing any more. Results of half a kilobyte and more
are stored compressed; the first byte tells.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from lash_cli.core.effect import CanonicalEnvelope
from lash_cli.core.lease import LeaseFence, is_fence_live
from lash_cli.errors import SessionExecutionLeaseExpired
from lash_cli.store.base import JournalClaim, JournalPrepared, JournalRecording, JournalRow
from lash_cli.store.sqlite.database import Database, running_loop
from lash_cli.store.sqlite.schema import IS_OF_TODAY
from lash_cli.store.sqlite.sessions import lease_row

if TYPE_CHECKING:
    import asyncio

COMPRESS_FROM_BYTES: Final = 512
# Above this, compressing takes milliseconds and would hold up the event loop.
COMPRESS_ELSEWHERE_FROM_BYTES: Final = 128 * 1024
# A longer result takes milliseconds to write.
BRIEF_BYTES: Final = 64 * 1024
_COMPRESSION_LEVEL: Final = 1
_WINDOW_BITS: Final = 10
_MEMORY_LEVEL: Final = 1
_PLAIN: Final = b"\x00"
_DEFLATED: Final = b"\x01"

# Contract 01 §13: what a fence is checked against, and the key of the session.
_FENCED_SESSION = f"""
SELECT session_key, lease_fencing_token, lease_token, lease_owner, lease_claimed_at_ms, lease_expires_at_ms
FROM sessions WHERE session_id = ? AND {IS_OF_TODAY}
"""
_SESSION_KEY = f"SELECT session_key FROM sessions WHERE session_id = ? AND {IS_OF_TODAY}"
# Contract 03 §2.6 "nothing": claim a new row. An existing one stays as it is.
_CLAIM_NEW = """
INSERT INTO effects (scope_key, replay_key, session_key, status, envelope_hash, envelope, lease_owner, lease_token,
                     lease_generation, lease_expires_at_ms, due_at_ms, created_at_ms)
VALUES (?, ?, ?, 'in_progress', ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING
"""
# An effect that is safe to repeat is recorded without a claim; what was recorded first stands.
_RECORD_NEW = """
INSERT INTO effects (scope_key, replay_key, session_key, status, envelope_hash, envelope, outcome, error,
                     lease_generation, due_at_ms, created_at_ms)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING
"""
_COLUMNS = """
SELECT replay_key, status, envelope, envelope_hash, outcome, error, lease_owner, lease_token, lease_expires_at_ms,
       due_at_ms, attempt, lease_generation
FROM effects WHERE scope_key = ?
"""
_ROW = _COLUMNS + "AND replay_key = ?"
_ROWS = _COLUMNS + "ORDER BY replay_key"
# Contract 03 §2.6 "in_progress, lease expired": a new token, one more attempt, the old due time.
_TAKE_OVER = """
UPDATE effects SET lease_owner = ?, lease_token = ?, lease_generation = ?, lease_expires_at_ms = ?,
                   attempt = attempt + 1
WHERE scope_key = ? AND replay_key = ? AND status = 'in_progress'
"""
# A claim that ran out is not revived: somebody may be taking it over.
_RENEW = """
UPDATE effects SET lease_expires_at_ms = ?
WHERE scope_key = ? AND replay_key = ? AND lease_token = ? AND status = 'in_progress' AND lease_expires_at_ms > ?
"""
# Finalise only what is still ours and unexpired.
_FINISH = """
UPDATE effects SET status = ?, outcome = ?, error = ?, lease_owner = NULL, lease_token = NULL,
                   lease_expires_at_ms = NULL
WHERE scope_key = ? AND replay_key = ? AND lease_token = ? AND status = 'in_progress' AND lease_expires_at_ms > ?
"""
# A released claim is an expired one: the row stays as evidence that the effect was attempted. What is finished has no
# token any more.
_RELEASE = """
UPDATE effects SET lease_expires_at_ms = 0
WHERE scope_key = ? AND replay_key = ? AND lease_token = ?
"""
# Of a first attempt that has not begun there is nothing to tell.
_WITHDRAW = "DELETE FROM effects WHERE scope_key = ? AND replay_key = ? AND lease_token = ? AND attempt = 1"


def pack(data: bytes) -> bytes:
    """The stored form of a result: a format byte, then the bytes, compressed when that is worth it."""
    if len(data) < COMPRESS_FROM_BYTES:
        return _PLAIN + data
    # A small window and little memory: the set-up of a default stream costs nine times the compression of an answer.
    stream = zlib.compressobj(_COMPRESSION_LEVEL, zlib.DEFLATED, _WINDOW_BITS, _MEMORY_LEVEL)
    return b"".join((_DEFLATED, stream.compress(data), stream.flush()))


def unpack(stored: bytes) -> bytes:
    """The bytes given to `pack`. Of a damaged form there are none, which do not decode: who reads them knows what of,
    and what helps."""
    if stored[:1] == _PLAIN:
        return stored[1:]
    try:
        return zlib.decompress(stored[1:]) if stored[:1] == _DEFLATED else b""
    except zlib.error:
        return b""


def _packed_here(data: bytes | None) -> bytes | None:
    return None if data is None else pack(data)


async def _packed(data: bytes | None) -> bytes | None:
    if data is None:
        return None
    if len(data) < COMPRESS_ELSEWHERE_FROM_BYTES:
        return pack(data)
    import asyncio

    return await asyncio.to_thread(pack, data)


def require_fence(connection: sqlite3.Connection, fence: LeaseFence, now_ms: int) -> int:
    """The key of the fenced session; raises `SessionExecutionLeaseExpired` unless the fence holds the lane now."""
    row = connection.execute(_FENCED_SESSION, (fence.session_id,)).fetchone()
    if row is not None:
        session_key, *lease = row
        if is_fence_live(lease_row(*lease), fence, now_ms):
            return int(session_key)
    raise SessionExecutionLeaseExpired(f"the lane of session {fence.session_id} is no longer ours")


def _session_key(connection: sqlite3.Connection, claim: JournalClaim, now_ms: int) -> int | None:
    """The session a row belongs to, None for scopes without one; checks the fence."""
    if claim.fence is not None:
        return require_fence(connection, claim.fence, now_ms)
    if claim.session_id is None:
        return None
    row = connection.execute(_SESSION_KEY, (claim.session_id,)).fetchone()
    return None if row is None else int(row[0])


def _journal_row(row: tuple[Any, ...]) -> JournalRow:
    replay_key, status, envelope, envelope_hash, outcome, error, *claim, _generation = row
    return JournalRow(
        replay_key,
        status,
        CanonicalEnvelope(envelope, envelope_hash),
        None if outcome is None else unpack(outcome),
        None if error is None else unpack(error),
        *claim,
    )


def prepare(connection: sqlite3.Connection, claim: JournalClaim, now_ms: int) -> JournalPrepared:
    """Find or claim a row inside the caller's transaction; `now_ms` is the store's clock in it."""
    session_key = _session_key(connection, claim, now_ms)
    generation = None if claim.fence is None else claim.fence.fencing_token
    expires_at_ms = now_ms + claim.ttl_ms
    key = (claim.scope_key, claim.replay_key)
    envelope = claim.envelope
    inserted = connection.execute(
        _CLAIM_NEW,
        (*key, session_key, envelope.hash, envelope.json, claim.owner, claim.token, generation, expires_at_ms,
         claim.due_at_ms, claim.now_ms),
    )  # fmt: skip
    if inserted.rowcount == 1:
        return JournalPrepared("claimed", due_at_ms=claim.due_at_ms)
    stored = connection.execute(_ROW, key).fetchone()
    row = _journal_row(stored)
    if row.status != "in_progress" or row.envelope.hash != envelope.hash:
        return JournalPrepared("recorded", row)
    is_unexpired = row.lease_expires_at_ms is not None and now_ms < row.lease_expires_at_ms
    is_of_dead_generation = generation is not None and stored[-1] != generation
    if is_unexpired and not is_of_dead_generation:
        return JournalPrepared("held", row)
    connection.execute(_TAKE_OVER, (claim.owner, claim.token, generation, expires_at_ms, *key))
    taken = _journal_row(connection.execute(_ROW, key).fetchone())
    return JournalPrepared("claimed", taken, taken_over=True, due_at_ms=taken.due_at_ms)


def _status(outcome: bytes | None, error: bytes | None) -> str:
    if (outcome is None) == (error is None):
        raise ValueError("a finished effect has either an outcome or an error")
    return "completed" if error is None else "failed"


class Journal:
    """`store.base.JournalStore` over one database."""

    # What error codes of this backend's journal begin with (contract 03 §2.4).
    effect_code_prefix: Final = "sqlite"

    def __init__(self, database: Database) -> None:
        self._database = database

    async def journal_prepare(self, claim: JournalClaim) -> JournalPrepared:
        """Find or claim a row. Raises `SessionExecutionLeaseExpired` when `claim.fence` is dead."""
        database = self._database

        def claimed(connection: sqlite3.Connection) -> JournalPrepared:
            return prepare(connection, claim, database.clock.now_ms())

        if len(claim.envelope.json) <= BRIEF_BYTES:
            return await database.write_brief(claimed)
        return await database.write(claimed, durable=False)

    def journal_record_later(self, recording: Callable[[], JournalRecording]) -> asyncio.Future[bool]:
        """See `base.JournalStore`. What is recorded is made, and compressed, by whoever writes: a row that is withdrawn
        costs nothing."""
        made: JournalRecording | None = None

        def recorded() -> JournalRecording:
            nonlocal made
            if made is None:
                made = recording()
            return made

        def record(connection: sqlite3.Connection) -> bool:
            row = recorded()
            claim, envelope = row.claim, row.claim.envelope
            status = _status(row.outcome, row.error)
            session_key = _session_key(connection, claim, self._database.clock.now_ms())
            generation = None if claim.fence is None else claim.fence.fencing_token
            inserted = connection.execute(
                _RECORD_NEW,
                (claim.scope_key, claim.replay_key, session_key, status, envelope.hash, envelope.json,
                 _packed_here(row.outcome), _packed_here(row.error), generation, claim.due_at_ms, claim.now_ms),
            )  # fmt: skip
            return inserted.rowcount == 1

        def is_brief() -> bool:
            try:
                row = recorded()
            except Exception:  # noqa: BLE001 - raised again where the row is written, for whoever asks for that
                return False
            return len(row.claim.envelope.json) + len(row.outcome or row.error or b"") <= BRIEF_BYTES

        return self._database.write_later(record, is_brief=is_brief)

    async def journal_renew(self, scope_key: str, replay_key: str, token: str, expires_at_ms: int) -> bool:
        """Extend a held claim; False when it is no longer ours or ran out."""

        def renew(connection: sqlite3.Connection) -> bool:
            now_ms = self._database.clock.now_ms()
            return connection.execute(_RENEW, (expires_at_ms, scope_key, replay_key, token, now_ms)).rowcount == 1

        return await self._database.write(renew, durable=False)

    async def journal_finish(
        self,
        scope_key: str,
        replay_key: str,
        token: str,
        *,
        outcome: bytes | None,
        error: bytes | None,
        fence: LeaseFence | None = None,
    ) -> bool:
        """Record the result if the claim is still ours and unexpired; False otherwise.

        Raises `SessionExecutionLeaseExpired` when `fence` is given and dead,
        `ValueError` unless exactly one of `outcome` and `error` is given.
        """
        status = _status(outcome, error)
        stored_outcome, stored_error = await _packed(outcome), await _packed(error)

        def finish(connection: sqlite3.Connection) -> bool:
            judged_at_ms = self._database.clock.now_ms()
            if fence is not None:
                require_fence(connection, fence, judged_at_ms)
            finished = connection.execute(
                _FINISH, (status, stored_outcome, stored_error, scope_key, replay_key, token, judged_at_ms)
            )
            return finished.rowcount == 1

        size = len(stored_outcome or stored_error or b"")
        if size <= BRIEF_BYTES:
            return await self._database.write_brief(finish)
        return await self._database.write(finish, durable=False)

    async def journal_release(self, scope_key: str, replay_key: str, token: str, *, has_begun: bool = True) -> None:
        """Give a claim up without a result, so that a retry need not wait for the lease to run out; also where the
        caller, who is as a rule cancelled already, is cancelled once more before the writer comes to it, or its event
        loop was closed over it."""
        import asyncio

        def release(connection: sqlite3.Connection) -> None:
            if not has_begun:
                connection.execute(_WITHDRAW, (scope_key, replay_key, token))
            connection.execute(_RELEASE, (scope_key, replay_key, token))

        if running_loop() is None:
            self._database.write_sync(release, durable=False)
            return
        await asyncio.shield(self._database.write_later(release, waits_for_company=False))

    async def journal_rows(self, scope_key: str) -> tuple[JournalRow, ...]:
        """Every row of a scope."""

        def load(connection: sqlite3.Connection) -> tuple[JournalRow, ...]:
            return tuple(_journal_row(row) for row in connection.execute(_ROWS, (scope_key,)))

        return self._database.read(load)
