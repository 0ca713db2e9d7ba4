"""The `attachments` manifest and the bytes behind it (contract 01 §9.7, 05 §1.5).

Bytes are content-addressed and shared by all sessions; a session reaches only
what its own manifest names, and a fork what that of its origin does. Intent and bytes land in one transaction, so a
reference never dangles. The commit of a turn turns intents into references;
intents nobody committed are forgotten with age, and bytes nobody names are the
business of `gc`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Any, Final, Literal

from lash_cli.core.attachments import require_media_type
from lash_cli.core.codec import sha256_hex
from lash_cli.errors import NotFoundError
from lash_cli.store.sqlite.database import Database, running_loop
from lash_cli.store.sqlite.inputs import CANCELLED_AT_MS
from lash_cli.store.sqlite.sessions import key_of

REF_PREFIX: Final = "sha256:"
# Above this, hashing takes milliseconds and would hold up the event loop.
HASH_ELSEWHERE_FROM_BYTES: Final = 1024 * 1024

OwnerKind = Literal["turn", "process"]

# Contract 01 §9.7: an uncommitted intent passes to whoever puts the same bytes again; a committed one stays.
_RECORD_INTENT = """
INSERT INTO attachments (session_key, attachment_ref, media_type, byte_len, label, intent_at_ms, owner_kind, owner_id)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (session_key, attachment_ref) DO UPDATE
SET intent_at_ms = excluded.intent_at_ms, owner_kind = excluded.owner_kind, owner_id = excluded.owner_id
WHERE committed_at_ms IS NULL
"""
_STORE_BYTES = "INSERT INTO blobs (hash, content) VALUES (?, ?) ON CONFLICT DO NOTHING"
# Only a session whose manifest names the bytes may read them.
_LOAD = """
SELECT blobs.content FROM attachments JOIN blobs ON blobs.hash = substr(attachments.attachment_ref, 8)
WHERE attachments.session_key = ? AND attachments.attachment_ref = ?
"""
# ... or a fork whose shared path may name them.
_LOAD_SHARED = """
SELECT blobs.content FROM node_origins
JOIN attachments ON attachments.session_key = node_origins.origin_key
JOIN blobs ON blobs.hash = substr(attachments.attachment_ref, 8)
WHERE node_origins.session_key = ? AND attachments.attachment_ref = ? LIMIT 1
"""
_LIST = """
SELECT attachment_ref, media_type, byte_len, label, intent_at_ms, committed_at_ms, owner_kind, owner_id
FROM attachments WHERE session_key = ?1 AND (committed_at_ms IS NULL OR NOT ?2) ORDER BY intent_at_ms, attachment_ref
"""
# Contract 01 §9.2 `committed_attachment_ids`: an update only, so an id without an intent is ignored.
_COMMIT_REF = """
UPDATE attachments SET committed_at_ms = ?
WHERE session_key = ? AND attachment_ref = ? AND committed_at_ms IS NULL
"""
# ... and whatever the turn owns.
_COMMIT_OWNED = """
UPDATE attachments INDEXED BY attachments_uncommitted SET committed_at_ms = ?
WHERE session_key = ? AND owner_kind = 'turn' AND owner_id = ? AND committed_at_ms IS NULL
"""
# One conditional operation: an owner that still runs keeps its intents, and so does an input that waits, or that was
# cancelled of late: who edits a queue puts it back. Whether a process runs is not known here.
_FORGET_AGED = f"""
DELETE FROM attachments
WHERE committed_at_ms IS NULL AND intent_at_ms < ?1 AND owner_kind IS NOT 'process' AND NOT EXISTS (
    SELECT 1 FROM turns
    WHERE turns.session_key = attachments.session_key AND owner_kind = 'turn' AND turns.turn_id = attachments.owner_id
          AND turns.state = 'running'
) AND NOT EXISTS (
    SELECT 1 FROM inputs
    WHERE inputs.session_key = attachments.session_key
          AND (inputs.state IN ('pending_active', 'deferred_next_turn')
               OR inputs.state = 'cancelled' AND {CANCELLED_AT_MS} >= ?1)
          AND instr(inputs.input, attachments.attachment_ref) > 0
)
"""


def commit_refs(
    connection: sqlite3.Connection,
    session_key: int,
    attachment_refs: Iterable[str],
    owner_turn_id: str | None,
    now_ms: int,
) -> None:
    """Stamp the named intents and those the turn owns, inside the caller's commit transaction."""
    for attachment_ref in attachment_refs:
        connection.execute(_COMMIT_REF, (now_ms, session_key, attachment_ref))
    if owner_turn_id is not None:
        connection.execute(_COMMIT_OWNED, (now_ms, session_key, owner_turn_id))


def forget_aged(connection: sqlite3.Connection, cutoff_ms: int) -> int:
    """`Attachments.forget_aged_uncommitted` inside the caller's transaction."""
    return connection.execute(_FORGET_AGED, (cutoff_ms,)).rowcount


async def _hashed_elsewhere(data: bytes) -> str:
    import asyncio

    return await asyncio.to_thread(sha256_hex, data)


class Attachments:
    """`store.base.AttachmentStore` over one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put_attachment(
        self,
        session_id: str,
        data: bytes,
        *,
        media_type: str,
        owner: tuple[OwnerKind, str] | None,
        now_ms: int,
        label: str | None = None,
    ) -> str:
        """Record the intent, store the bytes, return `sha256:` and 64 hexadecimal digits.

        Bytes owned by a turn are synced with its commit, others at once.
        Raises `UsageError` (`attachment_media_type_invalid`), `NotFoundError`,
        `SessionDeleted`.
        """
        require_media_type(media_type)
        is_large = len(data) >= HASH_ELSEWHERE_FROM_BYTES and running_loop() is not None
        digest = await _hashed_elsewhere(data) if is_large else sha256_hex(data)
        attachment_ref = REF_PREFIX + digest
        owner_kind, owner_id = owner or (None, None)

        def put(connection: sqlite3.Connection) -> None:
            session_key = key_of(connection, session_id)
            connection.execute(
                _RECORD_INTENT,
                (session_key, attachment_ref, media_type.lower(), len(data), label, now_ms, owner_kind, owner_id),
            )
            connection.execute(_STORE_BYTES, (digest, data))

        await self._database.write(put, durable=owner is None)
        return attachment_ref

    async def get_attachment(self, session_id: str, attachment_ref: str) -> bytes:
        """The bytes. Raises `NotFoundError` (`attachment_not_found`) unless this session references them, and
        `NotFoundError` or `SessionDeleted` for the session itself."""

        def load(connection: sqlite3.Connection) -> bytes:
            wanted = (key_of(connection, session_id), attachment_ref)
            row = connection.execute(_LOAD, wanted).fetchone() or connection.execute(_LOAD_SHARED, wanted).fetchone()
            if row is None:
                raise NotFoundError(f"session {session_id} has no {attachment_ref}", code="attachment_not_found")
            return bytes(row[0])

        return await self._database.read_bulk(load)

    async def list_attachments(self, session_id: str, *, uncommitted_only: bool = False) -> tuple[dict[str, Any], ...]:
        """Manifest rows, oldest first: `attachment_ref`, `media_type`, `byte_len`, `label`, `intent_at_ms`,
        `committed_at_ms`, `owner_kind`, `owner_id`. Raises `NotFoundError`, `SessionDeleted`."""

        def load(connection: sqlite3.Connection) -> tuple[dict[str, Any], ...]:
            cursor = connection.execute(_LIST, (key_of(connection, session_id), uncommitted_only))
            names = [column[0] for column in cursor.description]
            return tuple(dict(zip(names, row, strict=True)) for row in cursor)

        return self._database.read(load)

    async def forget_aged_uncommitted(self, cutoff_ms: int) -> int:
        """Drop intents made before `cutoff_ms` that nobody committed and whose turn does not run; how many.

        Intents of processes stay: no table here tells whether a process runs.
        """
        return await self._database.write(lambda connection: forget_aged(connection, cutoff_ms), durable=True)
