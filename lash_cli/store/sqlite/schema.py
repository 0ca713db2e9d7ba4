"""Tables of the SQLite store and the numbered migrations that make them (contract 01 §14, design D11, D23).

A migration is a function registered under its number; the file's
`user_version` is how many were applied, so the check at every start is one
PRAGMA and sqlite-utils is imported only when something is missing. All pending
migrations run in one immediate transaction: of many processes that open a new
file at once one creates the tables and the others find them. Tables are
STRICT; what is read by ranges is clustered under an integer key per session,
`WITHOUT ROWID` or by one integer that begins with it (`places`). A blob's hash
is 64 hexadecimal digits; an attachment reference is `sha256:` and that hash.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any, Final

# "lash" in ASCII, so a foreign database is told apart by `PRAGMA application_id`.
APPLICATION_ID: Final = 0x6C617368

# D23: one integer per session keys every clustered table. The lease and the head live in this row because the lane
# transaction and the terminal commit read and write exactly one row for them.
_SESSIONS = """
CREATE TABLE sessions (
    session_key INTEGER PRIMARY KEY AUTOINCREMENT,
    session_id TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL UNIQUE,
    created_at_ms INTEGER NOT NULL,
    cwd TEXT,
    parent_session_id TEXT,
    labels TEXT NOT NULL DEFAULT '{}',
    closed_at_ms INTEGER,
    parked_at_ms INTEGER,
    last_activity_at_ms INTEGER NOT NULL,
    last_commit_at_ms INTEGER,
    config TEXT NOT NULL,
    head_revision INTEGER,
    leaf_seq INTEGER,
    next_seq INTEGER NOT NULL DEFAULT 1,
    turn_state TEXT NOT NULL DEFAULT '{}',
    components TEXT NOT NULL DEFAULT '{}',
    checkpoint_ref TEXT,
    frame_ordinal INTEGER,
    lease_fencing_token INTEGER NOT NULL DEFAULT 0,
    lease_token TEXT,
    lease_owner TEXT,
    lease_claimed_at_ms INTEGER NOT NULL DEFAULT 0,
    lease_expires_at_ms INTEGER NOT NULL DEFAULT 0
) STRICT
"""
# Listing is by latest activity; the rowid in every index entry breaks ties.
_SESSIONS_BY_ACTIVITY = "CREATE INDEX sessions_by_activity ON sessions (last_activity_at_ms)"

# Contract 01 §8: append-only. A parent always has a lower seq than its child, so one backward pass finds a path.
_NODES = """
CREATE TABLE nodes (
    session_key INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    node_id TEXT NOT NULL,
    parent_seq INTEGER,
    frame_ordinal INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    caused_by TEXT,
    body TEXT NOT NULL,
    tombstoned INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (session_key, seq)
) STRICT, WITHOUT ROWID
"""
# Unique among live nodes only: a full replacement may bring a node id back while the old row waits for `vacuum`.
_NODES_BY_ID = "CREATE UNIQUE INDEX nodes_by_id ON nodes (session_key, node_id) WHERE tombstoned = 0"
# Empty unless something is hidden, so appends do not pay for it.
_NODES_TOMBSTONED = "CREATE INDEX nodes_tombstoned ON nodes (session_key, seq) WHERE tombstoned = 1"

# Contract 01 §11. `first_seq` is where the nodes of a frame begin: loads of the active path start there.
_FRAMES = """
CREATE TABLE frames (
    session_key INTEGER NOT NULL,
    ordinal INTEGER NOT NULL,
    frame_id TEXT NOT NULL,
    first_seq INTEGER NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (session_key, ordinal)
) STRICT, WITHOUT ROWID
"""
_FRAMES_BY_ID = "CREATE UNIQUE INDEX frames_by_id ON frames (session_key, frame_id)"

# Design §3: `running` is a turn that holds or held a lane without a terminal commit. `claim_id` names the inputs it
# was started from and `plan` what it runs under, so a re-drive starts from the same; both go at commit. `result`
# answers a replayed stamp (contract 01 §9.2); what it and `summary` leave out is told in `stamps`.
_TURNS = """
CREATE TABLE turns (
    session_key INTEGER NOT NULL,
    turn_id TEXT NOT NULL,
    turn_index INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('running', 'committed')),
    origin TEXT NOT NULL,
    started_at_ms INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    claim_id TEXT,
    plan BLOB,
    content_hash TEXT,
    summary TEXT,
    result TEXT,
    head_revision INTEGER,
    first_seq INTEGER,
    last_seq INTEGER,
    committed_at_ms INTEGER,
    PRIMARY KEY (session_key, turn_id)
) STRICT, WITHOUT ROWID
"""
_TURNS_RUNNING = "CREATE INDEX turns_running ON turns (session_key, turn_index) WHERE state = 'running'"
_TURNS_BY_INDEX = "CREATE INDEX turns_by_index ON turns (session_key, turn_index)"

# D8: the cancel gate. A row exists only when a cancel was requested; completion seals it by committing the turn.
_TURN_CANCELS = """
CREATE TABLE turn_cancels (
    session_key INTEGER NOT NULL,
    turn_id TEXT NOT NULL,
    gate TEXT NOT NULL,
    requested_at_ms INTEGER NOT NULL,
    PRIMARY KEY (session_key, turn_id)
) STRICT, WITHOUT ROWID
"""

# Contract 01 §12: rows of one commit, appended and never changed.
_USAGE_DELTAS = """
CREATE TABLE usage_deltas (
    session_key INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    ordinal INTEGER NOT NULL,
    source TEXT NOT NULL,
    model TEXT NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cache_read_input_tokens INTEGER NOT NULL,
    cache_write_input_tokens INTEGER NOT NULL,
    reasoning_output_tokens INTEGER NOT NULL,
    turn_id TEXT,
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (session_key, revision, ordinal)
) STRICT, WITHOUT ROWID
"""

# Contract 02 §1: `enqueue_seq` is never reissued. `turn_id` is the turn that claimed the row, `target_turn_id` the
# one an active-turn input is addressed to; `submitted_ingress` never changes, so an exact resubmission is recognised
# after a deferral rewrote `ingress` (contract 02 §1.3).
_INPUTS = """
CREATE TABLE inputs (
    enqueue_seq INTEGER PRIMARY KEY AUTOINCREMENT,
    input_id TEXT NOT NULL UNIQUE,
    session_key INTEGER NOT NULL,
    source_key TEXT,
    ingress TEXT NOT NULL,
    submitted_ingress TEXT NOT NULL,
    target_turn_id TEXT,
    state TEXT NOT NULL CHECK (state IN ('pending_active', 'deferred_next_turn', 'cancelled', 'completed')),
    input TEXT NOT NULL,
    enqueued_at_ms INTEGER NOT NULL,
    turn_id TEXT,
    claim_id TEXT,
    claim_token TEXT,
    claim_generation INTEGER
) STRICT
"""
_INPUTS_BY_SOURCE = (
    "CREATE UNIQUE INDEX inputs_by_source ON inputs (session_key, source_key) WHERE source_key IS NOT NULL"
)
# Pending rows of a session in order; terminal ones for listings and deletion.
_INPUTS_BY_STATE = "CREATE INDEX inputs_by_state ON inputs (session_key, state, enqueue_seq)"
# Claims being settled or re-pinned; settled rows leave the index.
_INPUTS_CLAIMED = "CREATE INDEX inputs_claimed ON inputs (session_key, claim_id) WHERE claim_id IS NOT NULL"

# Contract 01 §14: content-addressed checkpoint components and attachment bytes, shared by all sessions.
_BLOBS = "CREATE TABLE blobs (hash TEXT PRIMARY KEY, content BLOB NOT NULL) STRICT"

# Contract 01 §9.7: the intent is written before the bytes; an owner has both parts or none.
_ATTACHMENTS = """
CREATE TABLE attachments (
    session_key INTEGER NOT NULL,
    attachment_ref TEXT NOT NULL,
    media_type TEXT NOT NULL,
    byte_len INTEGER NOT NULL,
    label TEXT,
    intent_at_ms INTEGER NOT NULL,
    committed_at_ms INTEGER,
    owner_kind TEXT,
    owner_id TEXT,
    PRIMARY KEY (session_key, attachment_ref),
    CHECK ((owner_kind IS NULL) = (owner_id IS NULL))
) STRICT, WITHOUT ROWID
"""
_ATTACHMENTS_UNCOMMITTED = """
CREATE INDEX attachments_uncommitted ON attachments (session_key, owner_kind, owner_id) WHERE committed_at_ms IS NULL
"""
_ATTACHMENTS_BY_REF = "CREATE INDEX attachments_by_ref ON attachments (attachment_ref)"

# Contract 03 §2.6: one row per effect under the canonical JSON of its whole scope (D5).
_EFFECTS = """
CREATE TABLE effects (
    scope_key TEXT NOT NULL,
    replay_key TEXT NOT NULL,
    session_key INTEGER,
    status TEXT NOT NULL CHECK (status IN ('in_progress', 'completed', 'failed')),
    envelope_hash TEXT NOT NULL,
    envelope BLOB NOT NULL,
    outcome BLOB,
    error BLOB,
    lease_owner TEXT,
    lease_token TEXT,
    lease_generation INTEGER,
    lease_expires_at_ms INTEGER,
    due_at_ms INTEGER,
    attempt INTEGER NOT NULL DEFAULT 1,
    created_at_ms INTEGER NOT NULL,
    PRIMARY KEY (scope_key, replay_key)
) STRICT, WITHOUT ROWID
"""

# Contract 03 §3. `session_id` is text: a wait outlives its session as evidence that it was revoked.
_WAITS = """
CREATE TABLE waits (
    key_id TEXT PRIMARY KEY,
    session_id TEXT,
    scope TEXT NOT NULL,
    wait TEXT NOT NULL,
    is_control INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'resolved', 'revoked')),
    resolution TEXT,
    deadline_ms INTEGER,
    created_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID
"""
_WAITS_BY_SESSION = "CREATE INDEX waits_by_session ON waits (session_id, state)"
# The key that signs wait keys: made once, with the file.
_WAIT_SECRET = """
CREATE TABLE wait_secret (
    singleton INTEGER PRIMARY KEY CHECK (singleton = 1),
    secret BLOB NOT NULL
) STRICT
"""
_WAIT_SECRET_ROW = "INSERT INTO wait_secret (singleton, secret) VALUES (1, randomblob(32))"

# D7: ids are used once. Never vacuumed.
_DELETED_SESSIONS = """
CREATE TABLE deleted_sessions (
    session_id TEXT PRIMARY KEY,
    deleted_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID
"""

# Contract 04 §10.1: one row per session that was ever written to since there is a live log. `epoch` names the
# generation of the log, `generation` counts them; `stamp` is the boot and the file it was written under, `tail` the
# last position given out, `floor` the last one dropped, `hole` the last one lost.
_LIVE_LOG = """
CREATE TABLE live_log (
    session_key INTEGER PRIMARY KEY,
    epoch TEXT NOT NULL,
    generation INTEGER NOT NULL DEFAULT 1,
    stamp TEXT NOT NULL,
    tail INTEGER NOT NULL DEFAULT 0,
    floor INTEGER NOT NULL DEFAULT 0,
    hole INTEGER NOT NULL DEFAULT 0
) STRICT
"""
# A ring of at most 2048 events of 120 seconds; slack rows wait to be trimmed and are never shown.
_LIVE_EVENT = """
CREATE TABLE live_event (
    session_key INTEGER NOT NULL,
    pos INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    turn_id TEXT,
    type TEXT NOT NULL,
    body TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (session_key, pos)
) STRICT, WITHOUT ROWID
"""


# The same with a row for every transaction instead of one for every event: a row holds the `count` events that end at
# its position, `committed` says that it announces a commit. The tail is the end of the newest row, which is never
# trimmed, so appending changes one page. `place` is the session key above 40 bits of position: clustered like D23
# wants it, in a table that keeps a row of four thousand bytes on its page where `WITHOUT ROWID` keeps one thousand.
_DROP_LIVE = ("DROP TABLE live_event", "DROP TABLE live_log")
_LIVE_LOG_BY_ROWS = """
CREATE TABLE live_log (
    session_key INTEGER PRIMARY KEY,
    epoch TEXT NOT NULL,
    generation INTEGER NOT NULL DEFAULT 1,
    stamp TEXT NOT NULL,
    floor INTEGER NOT NULL DEFAULT 0,
    hole INTEGER NOT NULL DEFAULT 0
) STRICT
"""
_LIVE_ROW = """
CREATE TABLE live_row (
    place INTEGER PRIMARY KEY,
    count INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    turn_id TEXT,
    committed INTEGER NOT NULL,
    body TEXT NOT NULL,
    at_ms INTEGER NOT NULL
) STRICT
"""


# A ring without its rows and its generation: what any cursor of before finds is a gap.
FORGET_OBSERVED: Final = ("DELETE FROM live_row", "DELETE FROM live_log")

# A fork reads the nodes up to `upto_seq` in the cluster of `origin_key` (see `lineage`); `leaf_key` is the cluster that
# holds the leaf, NULL for the session's own. Only the first row of a run is in the index of branchings, so that a plain
# append does not touch it.
_NODE_ORIGINS = """
CREATE TABLE node_origins (
    session_key INTEGER NOT NULL,
    upto_seq INTEGER NOT NULL,
    origin_key INTEGER NOT NULL,
    PRIMARY KEY (session_key, upto_seq)
) STRICT, WITHOUT ROWID
"""
_NODE_ORIGINS_BY_ORIGIN = "CREATE INDEX node_origins_by_origin ON node_origins (origin_key)"
_NODES_BRANCHING = (
    "CREATE INDEX nodes_branching ON nodes (session_key, seq, parent_seq) WHERE parent_seq IS NOT seq - 1"
)
_SESSIONS_LEAF_KEY = "ALTER TABLE sessions ADD COLUMN leaf_key INTEGER"

# When a session came in from an archive, NULL for one that was made here: retention counts from then, while everything
# else about it is as old as it was where it came from.
_SESSIONS_IMPORTED = "ALTER TABLE sessions ADD COLUMN imported_at_ms INTEGER"


def _first_tables(connection: sqlite3.Connection) -> None:
    for statement in (
        _SESSIONS,
        _SESSIONS_BY_ACTIVITY,
        _NODES,
        _NODES_BY_ID,
        _NODES_TOMBSTONED,
        _FRAMES,
        _FRAMES_BY_ID,
        _TURNS,
        _TURNS_RUNNING,
        _TURNS_BY_INDEX,
        _TURN_CANCELS,
        _USAGE_DELTAS,
        _INPUTS,
        _INPUTS_BY_SOURCE,
        _INPUTS_BY_STATE,
        _INPUTS_CLAIMED,
        _BLOBS,
        _ATTACHMENTS,
        _ATTACHMENTS_UNCOMMITTED,
        _ATTACHMENTS_BY_REF,
        _EFFECTS,
        _WAITS,
        _WAITS_BY_SESSION,
        _WAIT_SECRET,
        _WAIT_SECRET_ROW,
        _DELETED_SESSIONS,
    ):
        connection.execute(statement)


def _queue_tables(connection: sqlite3.Connection) -> None:
    from lash_cli.store.sqlite.queue_tables import create_queue_tables

    create_queue_tables(connection)


def _live_log(connection: sqlite3.Connection) -> None:
    for statement in (_LIVE_LOG, _LIVE_EVENT):
        connection.execute(statement)


def _live_rows(connection: sqlite3.Connection) -> None:
    """Previews are not worth converting: observers of before find a gap and read the state again."""
    for statement in (*_DROP_LIVE, _LIVE_LOG_BY_ROWS, _LIVE_ROW):
        connection.execute(statement)


def _shared_nodes(connection: sqlite3.Connection) -> None:
    for statement in (_NODE_ORIGINS, _NODE_ORIGINS_BY_ORIGIN, _NODES_BRANCHING, _SESSIONS_LEAF_KEY):
        connection.execute(statement)


def _search(connection: sqlite3.Connection) -> None:
    from lash_cli.store.sqlite.search_tables import create_search_tables

    create_search_tables(connection)


def _search_inside_sentences(connection: sqlite3.Connection) -> None:
    from lash_cli.store.sqlite.search_tables import empty_search_tables

    empty_search_tables(connection)


def _rows_say_things_once(connection: sqlite3.Connection) -> None:
    """Changes nothing: rows of before say more than they need to and are read as they stand (`stamps`, `inputs`).
    The number keeps an older lash from rows that it could not read."""


def _placed_nodes(connection: sqlite3.Connection) -> None:
    from lash_cli.store.sqlite.node_tables import place_nodes

    place_nodes(connection)


def _held_rows(connection: sqlite3.Connection) -> None:
    from lash_cli.store.sqlite.queue_tables import index_what_is_held

    index_what_is_held(connection)


def _checks_by_value(connection: sqlite3.Connection) -> None:
    from lash_cli.store.sqlite.checked_tables import check_by_value

    check_by_value(connection)


def _numbers_by_rows(connection: sqlite3.Connection) -> None:
    from lash_cli.store.sqlite.numbered_tables import number_by_rows

    number_by_rows(connection)


def _imported_sessions(connection: sqlite3.Connection) -> None:
    connection.execute(_SESSIONS_IMPORTED)


# In order; the position is the version the file has afterwards. Published entries never change.
MIGRATIONS: Final[tuple[tuple[str, Callable[[sqlite3.Connection], None]], ...]] = (
    ("0001_first_tables", _first_tables),
    ("0002_queue_tables", _queue_tables),
    ("0003_live_log", _live_log),
    ("0004_live_rows", _live_rows),
    ("0005_shared_nodes", _shared_nodes),
    ("0006_search", _search),
    ("0007_search_inside_sentences", _search_inside_sentences),
    ("0008_rows_say_things_once", _rows_say_things_once),
    ("0009_placed_nodes", _placed_nodes),
    ("0010_held_rows", _held_rows),
    ("0011_checks_by_value", _checks_by_value),
    ("0012_numbers_by_rows", _numbers_by_rows),
    ("0013_imported_sessions", _imported_sessions),
)

SCHEMA_VERSION: Final = len(MIGRATIONS)

# Says today's version by the name of its column, so that a statement which names it is prepared against this schema
# only.
_FORGET_TODAY: Final = "DROP VIEW IF EXISTS schema_of_today"
# To stand in a condition of what a write reads first. SQLite looks the name up as it prepares the statement, which it
# does again after every change of the schema, and leaves the rest out of what it runs: who has the file open while a
# newer lash brings it up to date is refused, and until then it costs nothing.
IS_OF_TODAY: Final = f"(1 OR EXISTS (SELECT version_{SCHEMA_VERSION} FROM schema_of_today))"

READ_USER_VERSION: Final = "PRAGMA user_version"
READ_APPLICATION_ID: Final = "PRAGMA application_id"
# PRAGMA takes no parameters; the value is a constant of this module.
_WRITE_APPLICATION_ID: Final = f"PRAGMA application_id = {APPLICATION_ID}"
HAS_ANY_TABLE: Final = "SELECT EXISTS (SELECT 1 FROM sqlite_master)"


def is_blank(connection: sqlite3.Connection) -> bool:
    """Whether nobody has made anything of the file yet. One without our stamp that holds anything at all, if only the
    number of a version, is somebody else's."""
    marks = (READ_APPLICATION_ID, READ_USER_VERSION, HAS_ANY_TABLE)
    return not any(connection.execute(mark).fetchone()[0] for mark in marks)


def migrate(connection: sqlite3.Connection) -> None:
    """Apply every pending migration and stamp the file; the caller holds an immediate transaction and commits it."""
    from sqlite_utils import Database
    from sqlite_utils.migrations import Migrations

    migrations = Migrations("lash")
    for name, apply in MIGRATIONS:
        migrations(name=name)(_bound(apply))
    database = Database(connection, recursive_triggers=False, execute_plugins=False)
    migrations.apply(database)
    version = len(MIGRATIONS)
    connection.execute(_FORGET_TODAY)
    # Neither takes parameters.
    connection.execute(f"CREATE VIEW schema_of_today AS SELECT NULL AS version_{version}")
    connection.execute(f"PRAGMA user_version = {version}")
    connection.execute(_WRITE_APPLICATION_ID)


def _bound(apply: Callable[[sqlite3.Connection], None]) -> Callable[..., None]:
    def run(database: Any, /) -> None:
        apply(database.conn)

    return run
