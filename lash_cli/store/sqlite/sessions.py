"""Session rows: creation, listing, lookup and flags (contract 01 §1.4, §9.1, §9.8, design D7).

A session is one row of `sessions`; head and lease live in it, so every other
family starts with `read_session`. Ids are used once: deletion leaves a
tombstone that is never removed, and every access to a tombstoned id raises
`SessionDeleted`.
"""

from __future__ import annotations

import sqlite3
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import msgspec

from lash_cli.core.codec import decode, decode_any, encode
from lash_cli.core.head_state import TurnState
from lash_cli.core.ids import readable_name
from lash_cli.core.lease import LeaseOwnerIdentity, LeaseRow, is_row_live
from lash_cli.core.policy import PersistedSessionConfig
from lash_cli.errors import (
    ConflictError,
    SessionClosed,
    SessionDeleted,
    SessionNotFound,
    UsageError,
)
from lash_cli.store.base import HeadPosition, SessionCreate, SessionMeta, SessionRow
from lash_cli.store.sqlite.database import Database
from lash_cli.store.sqlite.places import sql_place
from lash_cli.store.sqlite.schema import IS_OF_TODAY

if TYPE_CHECKING:
    from lash_cli.core.protocols import Ids

_NAME_BITS: Final = 64
_NAME_ATTEMPTS: Final = 32
_MAX_CANDIDATES: Final = 50
# Every number of fewer digits is one to SQLite.
_CURSOR_DIGITS: Final = 19
# No live lease has this generation, so no claim is hidden.
NO_GENERATION: Final = -1

# What every turn reads of its session: standing, head, lease and leaf in one lookup, in the order of `StoredHead`. A
# read of more appends the columns of its own kind of head.
HEAD_COLUMNS = f"""
    s.session_key, s.session_id, s.closed_at_ms, s.held_at_ms, s.head_revision, s.leaf_seq, s.leaf_key, s.next_seq,
    s.turn_state, s.components, s.checkpoint_ref, s.frame_ordinal, s.lease_fencing_token, s.lease_token, s.lease_owner,
    s.lease_claimed_at_ms, s.lease_expires_at_ms,
    (SELECT n.node_id FROM nodes n
        WHERE n.place = {sql_place("coalesce(s.leaf_key, s.session_key)", "s.leaf_seq")} AND {IS_OF_TODAY})
"""
# The whole row, in the order of `StoredSession`.
SESSION_COLUMNS = (
    HEAD_COLUMNS
    + """,
    s.name, s.created_at_ms, s.cwd, s.parent_session_id, s.labels, s.parked_at_ms, s.last_activity_at_ms,
    s.last_commit_at_ms, s.config, s.hold_reason, s.imported_at_ms
"""
)
_READ = "SELECT" + SESSION_COLUMNS + "FROM sessions s WHERE s.session_id = ?"
# Listing, newest activity first; ties by key, so a cursor never skips or repeats (contract 08 lists).
_PAGE = (
    "SELECT"
    + SESSION_COLUMNS
    + """FROM sessions s
    WHERE (s.last_activity_at_ms, s.session_key) < (?, ?)
    ORDER BY s.last_activity_at_ms DESC, s.session_key DESC LIMIT ?"""
)
_BY_NAME = "SELECT" + SESSION_COLUMNS + "FROM sessions s WHERE s.name = ?"
_BY_PREFIX = (
    "SELECT"
    + SESSION_COLUMNS
    + "FROM sessions s WHERE s.session_id >= ? AND s.session_id < ? ORDER BY s.session_id LIMIT ?"
)
_KEY = f"SELECT session_key FROM sessions WHERE session_id = ? AND {IS_OF_TODAY}"
# D7: an id is used once.
_IS_DELETED = "SELECT 1 FROM deleted_sessions WHERE session_id = ?"
# An id is found before a name: a name that is the id of another session would never mean its own.
_NAME_IS_TAKEN = "SELECT 1 FROM sessions WHERE name = ?1 OR session_id = ?1"
_INSERT = """
INSERT INTO sessions (session_id, name, created_at_ms, cwd, parent_session_id, labels, last_activity_at_ms, config)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""
_SET_FLAGS = "UPDATE sessions SET closed_at_ms = ?, parked_at_ms = ? WHERE session_id = ?"
_RUNNING_TURN = """
SELECT turn_id FROM turns INDEXED BY turns_running
WHERE session_key = ? AND state = 'running' ORDER BY turn_index LIMIT 1
"""
# Contract 03 §3: a promise somebody waits for, made for this turn. Most sessions have none, and the index says so.
_IS_WAITING = """
SELECT EXISTS (SELECT 1 FROM waits INDEXED BY waits_by_session
    WHERE session_id = ? AND state = 'pending' AND json_extract(scope, '$.turn_id') = ?)
"""
# Contract 02 §1.7, §3.4: waiting means pending, not taken by an unfinished turn and not under a live claim.
_PENDING_COUNTS = """
SELECT
    (SELECT count(*) FROM inputs INDEXED BY inputs_next
        WHERE session_key = ?1 AND state = 'deferred_next_turn' AND turn_id IS NULL AND claim_generation IS NOT ?2)
    + (SELECT count(*) FROM inputs INDEXED BY inputs_active
        WHERE session_key = ?1 AND state = 'pending_active' AND turn_id IS NULL),
    (SELECT count(*) FROM queued_work INDEXED BY queued_work_ready
        WHERE session_key = ?1 AND state = 'pending' AND turn_id IS NULL AND waits_until_ms IS NULL
        AND claim_generation IS NOT ?2)
    + (SELECT count(*) FROM queued_work INDEXED BY queued_work_waiting
        WHERE session_key = ?1 AND state = 'pending' AND waits_until_ms IS NOT NULL)
"""


class StoredHead(msgspec.Struct, frozen=True, gc=False):
    """What a turn looks at of its row of `sessions`, undecoded, and the id of its leaf; fields in the order of the
    columns. `leaf_key` is the session whose row the leaf is, None for this one."""

    key: int
    session_id: str
    closed_at_ms: int | None
    held_at_ms: int | None
    head_revision: int | None
    leaf_seq: int | None
    leaf_key: int | None
    next_seq: int
    turn_state: str
    components: str
    checkpoint_ref: str | None
    frame_ordinal: int | None
    lease_fencing_token: int
    lease_token: str | None
    lease_owner: str | None
    lease_claimed_at_ms: int
    lease_expires_at_ms: int
    leaf_node_id: str | None

    def lease(self) -> LeaseRow:
        """The lease part of the row."""
        return LeaseRow(
            self.lease_fencing_token,
            self.lease_token,
            _owner_of(self.lease_owner),
            self.lease_claimed_at_ms,
            self.lease_expires_at_ms,
        )

    def position(self) -> HeadPosition:
        """The head without its content."""
        return HeadPosition(self.head_revision, self.leaf_node_id, self.checkpoint_ref)

    def component_refs(self) -> dict[str, str]:
        """Checkpoint components by name."""
        refs: dict[str, str] = decode_any(self.components, dict[str, str])
        return refs


class StoredSession(StoredHead, frozen=True, gc=False):
    """One whole row of `sessions`: behind the head come the fields for people."""

    name: str
    created_at_ms: int
    cwd: str | None
    parent_session_id: str | None
    labels: str
    parked_at_ms: int | None
    last_activity_at_ms: int
    last_commit_at_ms: int | None
    config: str
    hold_reason: str | None
    imported_at_ms: int | None

    def meta(self) -> SessionMeta:
        """What identifies the session."""
        return SessionMeta(
            self.session_id,
            self.name,
            self.created_at_ms,
            self.cwd,
            self.parent_session_id,
            decode_any(self.labels, dict[str, str]),
            self.closed_at_ms,
            self.parked_at_ms,
            self.held_at_ms,
            self.hold_reason,
        )


Head = TypeVar("Head", bound=StoredHead)


@lru_cache(maxsize=64)
def _owner_of(record: str | None) -> LeaseOwnerIdentity | None:
    """The owner of a lease; the few that use a file at a time are read again and again."""
    return None if record is None else decode(record, LeaseOwnerIdentity)


def lease_row(
    fencing_token: int, token: str | None, owner: str | None, claimed_at_ms: int, expires_at_ms: int
) -> LeaseRow:
    """The lease that the `lease_…` columns of a session say."""
    return LeaseRow(fencing_token, token, _owner_of(owner), claimed_at_ms, expires_at_ms)


def find_session(connection: sqlite3.Connection, session_id: str) -> StoredSession | None:
    """The row of `session_id`, None when absent; raises `SessionDeleted` for a tombstoned id."""
    row = connection.execute(_READ, (session_id,)).fetchone()
    if row is not None:
        return StoredSession(*row)
    refuse_deleted(connection, session_id)
    return None


def is_deleted(connection: sqlite3.Connection, session_id: str) -> bool:
    """Whether the id has a tombstone."""
    return connection.execute(_IS_DELETED, (session_id,)).fetchone() is not None


def refuse_deleted(connection: sqlite3.Connection, session_id: str) -> None:
    """Raise `SessionDeleted` for a tombstoned id."""
    if is_deleted(connection, session_id):
        raise SessionDeleted(f"session {session_id!r} was deleted")


def refuse_missing(connection: sqlite3.Connection, session_id: str) -> NoReturn:
    """Raise `SessionDeleted` for a tombstoned id and `SessionNotFound` for one that never was."""
    refuse_deleted(connection, session_id)
    raise SessionNotFound(f"session {session_id!r} does not exist")


def refuse_closed(session_id: str) -> NoReturn:
    """Raise `SessionClosed`."""
    raise SessionClosed(f"session {session_id!r} is closed", details={"session": session_id})


def read_session(connection: sqlite3.Connection, session_id: str) -> StoredSession:
    """The row of `session_id`; raises `SessionNotFound` or `SessionDeleted`."""
    return read_session_as(StoredSession, connection, _READ, (session_id,), session_id)


def read_session_as(
    kind: type[Head], connection: sqlite3.Connection, statement: str, values: tuple[Any, ...], session_id: str
) -> Head:
    """The row of a session as a `kind` whose fields `statement` selects in their order; raises like `read_session`."""
    row = connection.execute(statement, values).fetchone()
    if row is None:
        refuse_missing(connection, session_id)
    return kind(*row)


def key_of(connection: sqlite3.Connection, session_id: str) -> int:
    """The integer key of `session_id`; raises like `read_session`."""
    row = connection.execute(_KEY, (session_id,)).fetchone()
    if row is None:
        refuse_missing(connection, session_id)
    return int(row[0])


def live_generation(lease: LeaseRow, now_ms: int) -> int:
    """The generation whose claims are live now, `NO_GENERATION` while nobody holds the lane."""
    return lease.fencing_token if is_row_live(lease, now_ms) else NO_GENERATION


def running_turn(connection: sqlite3.Connection, session_key: int) -> str | None:
    """The turn that holds or held the lane without a terminal commit; the oldest if an older program left more."""
    row = connection.execute(_RUNNING_TURN, (session_key,)).fetchone()
    return None if row is None else str(row[0])


def _row_of(connection: sqlite3.Connection, stored: StoredSession, now_ms: int) -> SessionRow:
    lease = stored.lease()
    running_turn_id = running_turn(connection, stored.key)
    values = (stored.key, live_generation(lease, now_ms))
    pending_inputs, pending_batches = connection.execute(_PENDING_COUNTS, values).fetchone()
    is_waiting = False
    if running_turn_id is not None:
        is_waiting = bool(connection.execute(_IS_WAITING, (stored.session_id, running_turn_id)).fetchone()[0])
    return SessionRow(
        stored.meta(),
        decode(stored.config, PersistedSessionConfig),
        lease,
        stored.head_revision,
        stored.leaf_node_id,
        decode(stored.turn_state, TurnState),
        stored.last_commit_at_ms,
        running_turn_id,
        pending_inputs,
        pending_batches,
        is_waiting,
        stored.imported_at_ms,
    )


def _create(connection: sqlite3.Connection, request: SessionCreate, ids: Ids) -> SessionMeta:
    existing = find_session(connection, request.session_id)
    if existing is not None:
        if request.must_be_new:
            raise ConflictError(f"session {request.session_id!r} exists", code="session_exists")
        return existing.meta()
    name = usable_name(connection, ids, request.name)
    values = (
        request.session_id,
        name,
        request.now_ms,
        request.cwd,
        request.parent_session_id,
        encode(request.labels).decode(),
        request.now_ms,
        encode(request.config).decode(),
    )
    connection.execute(_INSERT, values)
    return SessionMeta(request.session_id, name, request.now_ms, request.cwd, request.parent_session_id, request.labels)


def usable_name(connection: sqlite3.Connection, ids: Ids, wanted: str | None) -> str:
    """The name a new session gets: `wanted`, or a free readable one. Raises `ConflictError` (`session_name_taken`)."""
    name = wanted if wanted is not None else _free_name(connection, ids)
    if name_is_taken(connection, name):
        raise ConflictError(
            f"the name {name!r} belongs to another session",
            code="session_name_taken",
            hint="choose another name, or see who has it: lash ls",
        )
    return name


def name_is_taken(connection: sqlite3.Connection, name: str) -> bool:
    """Whether a session has that name, or that id."""
    return connection.execute(_NAME_IS_TAKEN, (name,)).fetchone() is not None


def _free_name(connection: sqlite3.Connection, ids: Ids) -> str:
    for attempt in range(_NAME_ATTEMPTS):
        name = readable_name(ids.bits(_NAME_BITS), attempt)
        if not name_is_taken(connection, name):
            return name
    raise ConflictError("no free session name was found; give one", code="session_name_taken")


def _set_flags(
    connection: sqlite3.Connection, session_id: str, closed_at_ms: int | None, parked_at_ms: int | None, now_ms: int
) -> None:
    stored = read_session(connection, session_id)
    connection.execute(_SET_FLAGS, (closed_at_ms, parked_at_ms, session_id))
    was = (stored.closed_at_ms is None, stored.parked_at_ms is None)
    if was != (closed_at_ms is None, parked_at_ms is None):
        from lash_cli.store.sqlite.queue_announcing import announce_standing

        announce_standing(connection, session_id, now_ms)


def _parse_cursor(cursor: str | None) -> tuple[int, int]:
    if cursor is None:
        return (1 << 62, 1 << 62)
    activity, separator, key = cursor.partition(".")
    if not (separator and all(len(number) < _CURSOR_DIGITS and number.isdecimal() for number in (activity, key))):
        raise UsageError(
            f"{cursor!r} is not a cursor of this listing",
            code="cursor_invalid",
            hint="a cursor is what `next` of an earlier page says",
        )
    return int(activity), int(key)


def _find(connection: sqlite3.Connection, reference: str) -> tuple[SessionMeta, ...]:
    for statement, values in (
        (_READ, (reference,)),
        (_BY_NAME, (reference,)),
        (_BY_PREFIX, (reference, f"{reference}\U0010ffff", _MAX_CANDIDATES)),
    ):
        found = tuple(StoredSession(*row).meta() for row in connection.execute(statement, values))
        if found:
            return found
    return ()


class SessionTable:
    """Sessions as rows; the async face of this module."""

    def __init__(self, db: Database, ids: Ids) -> None:
        self._db = db
        self._ids = ids

    async def create_session(self, request: SessionCreate) -> SessionMeta:
        """See `base.SessionStore.create_session`. A session that exists is found without a write."""
        if not request.must_be_new:
            existing = self._db.read(lambda connection: find_session(connection, request.session_id))
            if existing is not None:
                return existing.meta()
        return await self._db.write(lambda connection: _create(connection, request, self._ids), durable=True)

    async def session_row(self, session_id: str) -> SessionRow | None:
        """See `base.SessionStore.session_row`."""

        def job(connection: sqlite3.Connection) -> SessionRow | None:
            stored = find_session(connection, session_id)
            return None if stored is None else _row_of(connection, stored, self._db.clock.now_ms())

        return self._db.read(job)

    async def head_position(self, session_id: str) -> HeadPosition:
        """See `base.SessionStore.head_position`."""
        return self._db.read(lambda connection: read_session(connection, session_id).position())

    async def set_session_flags(self, session_id: str, *, closed_at_ms: int | None, parked_at_ms: int | None) -> None:
        """See `base.SessionStore.set_session_flags`."""
        now_ms = self._db.clock.now_ms()
        await self._db.write(
            lambda connection: _set_flags(connection, session_id, closed_at_ms, parked_at_ms, now_ms), durable=True
        )

    async def delete_session(self, session_id: str, now_ms: int) -> bool:
        """See `base.SessionStore.delete_session`; also True for an id that was deleted before."""
        from lash_cli.store.sqlite.deletion import delete  # a look at a session does not wait for it (design D16)

        return await self._db.write(
            lambda connection: delete(connection, session_id, now_ms, self._db.clock.now_ms()), durable=True
        )

    async def list_sessions(
        self, *, limit: int, cursor: str | None = None
    ) -> tuple[tuple[SessionRow, ...], str | None]:
        """See `base.RuntimePersistence.list_sessions`; raises `UsageError` (`cursor_invalid`)."""
        position = _parse_cursor(cursor)

        def job(connection: sqlite3.Connection) -> tuple[tuple[SessionRow, ...], str | None]:
            now_ms = self._db.clock.now_ms()
            # One row more than asked for tells whether there is another page.
            page = [StoredSession(*row) for row in connection.execute(_PAGE, (*position, limit + 1)).fetchall()]
            rows = tuple(_row_of(connection, stored, now_ms) for stored in page[:limit])
            last = page[limit - 1] if len(page) > limit > 0 else None
            return rows, None if last is None else f"{last.last_activity_at_ms}.{last.key}"

        return self._db.read(job)

    async def find_sessions(self, reference: str) -> tuple[SessionMeta, ...]:
        """See `base.RuntimePersistence.find_sessions`: exact id, else exact name, else id prefix."""
        return self._db.read(lambda connection: _find(connection, reference))
