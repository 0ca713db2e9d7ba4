"""What must be true of the rows of a sound database, beyond what SQLite itself keeps (contract 01 §8, §9.7, §14, D23).

The tables have no foreign keys, because a commit would pay for them; every rule
that links them is here, as a statement or a walk that finds what breaks it.
Read-only, in the caller's transaction. Each rule gives at most `SHOWN` examples.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

import msgspec

from lash_cli.core.codec import UNDECODABLE, decode, decode_any, decoder, sha256_hex
from lash_cli.core.content import TurnInput
from lash_cli.core.frames import AgentFrame
from lash_cli.core.graph import CausalRef, NodePayload
from lash_cli.core.head_state import TurnState
from lash_cli.core.ingress import TurnInputIngress
from lash_cli.core.lease import LeaseOwnerIdentity
from lash_cli.core.outcome import CancelGate
from lash_cli.core.policy import PersistedSessionConfig
from lash_cli.core.queued_work import MergeKey, QueuedWorkPayload
from lash_cli.core.wait import Resolution
from lash_cli.errors import CorruptNode
from lash_cli.store.sqlite.deletion import OWNED
from lash_cli.store.sqlite.journal import unpack
from lash_cli.store.sqlite.lineage import HIDDEN_OF_RUN, Run, Segment, is_whole, key_at, runs_to_root, segments_of
from lash_cli.store.sqlite.places import place_at, places, sql_place, sql_places
from lash_cli.store.sqlite.schema import IS_OF_TODAY
from lash_cli.store.sqlite.stamps import StoredResult, StoredSummary

SHOWN: Final = 20
_INTEGRITY = f"PRAGMA integrity_check({SHOWN})"
_OWNERLESS: Final = {
    table: f"SELECT DISTINCT session_key FROM {table} WHERE session_key NOT IN (SELECT session_key FROM sessions)"
    for table in OWNED
}
_SESSIONS = f"""
SELECT session_key, session_id, next_seq, leaf_seq, CAST(components AS BLOB) FROM sessions WHERE {IS_OF_TODAY}
ORDER BY 1
"""
_SEQS_OF_RUN = "SELECT seq FROM nodes WHERE place BETWEEN ? AND ? ORDER BY place"
_ID_AT = "SELECT node_id FROM nodes WHERE place = ?"
# Contract 01 §8.2: a parent is there, and older. The parents that live rows between two places of one cluster name and
# that are not so in it; those of a fork may be in another. Asked for what is beside the path only: the rest is counted.
_WITHOUT_PARENT = """
SELECT DISTINCT n.parent_seq FROM nodes n
WHERE n.place BETWEEN ? AND ? AND n.tombstoned = 0 AND n.parent_seq IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM nodes p WHERE p.place = n.place - n.seq + n.parent_seq AND p.place < n.place AND p.tombstoned = 0)
ORDER BY n.parent_seq
"""
# A leaf is a node, and the frame it is in exists.
_LEAF_MISSING = f"""
SELECT s.session_id, 'leaf ' || s.leaf_seq FROM sessions s WHERE s.leaf_seq IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM nodes n WHERE n.place = {sql_place("coalesce(s.leaf_key, s.session_key)", "s.leaf_seq")})
"""
_FRAME_MISSING = """
SELECT s.session_id, 'frame ' || s.frame_ordinal FROM sessions s WHERE s.frame_ordinal IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM frames f WHERE f.session_key = s.session_key AND f.ordinal = s.frame_ordinal)
"""
# A number that was given out is never given out again.
_SEQ_REUSED = f"""
SELECT s.session_id, 'next ' || s.next_seq FROM sessions s
WHERE EXISTS (SELECT 1 FROM nodes n WHERE n.place {sql_places("s.session_key")}
    AND n.place >= {sql_place("s.session_key", "s.next_seq")})
"""
# D7: an id is used once.
_USED_TWICE = (
    "SELECT session_id, 'deleted before' FROM sessions WHERE session_id IN (SELECT session_id FROM deleted_sessions)"
)
# Design §3: a turn that is committed has ended, and its summary says how.
_SUMMARY_MISSING = """
SELECT s.session_id, t.turn_id FROM turns t JOIN sessions s ON s.session_key = t.session_key
WHERE t.state = 'committed' AND t.summary IS NULL
"""
# Contract 02 §1, §3: a pending row that names a turn is held by it, so the turn is there and unfinished.
_HELD_BY_NOBODY = """
SELECT s.session_id, r.{name} FROM {table} r JOIN sessions s ON s.session_key = r.session_key
WHERE r.state IN ('pending_active', 'deferred_next_turn', 'pending') AND r.turn_id IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM turns t WHERE t.session_key = r.session_key AND t.turn_id = r.turn_id AND t.state = 'running')
"""
# Contract 01 §9.7: a reference has bytes behind it.
_BYTES_MISSING = """
SELECT coalesce(s.session_id, '-'), a.attachment_ref FROM attachments a
LEFT JOIN sessions s ON s.session_key = a.session_key
WHERE NOT EXISTS (SELECT 1 FROM blobs b WHERE b.hash = substr(a.attachment_ref, 8))
"""
_BLOBS = "SELECT hash, content FROM blobs"
_HAS_BLOB = "SELECT 1 FROM blobs WHERE hash = ?"
# What somebody waited for outlives its session, as evidence; it says which one that was.
_RESOLUTIONS = (
    "SELECT coalesce(session_id, '-'), key_id, CAST(resolution AS BLOB) FROM waits WHERE resolution IS NOT NULL"
)


def _stored(table: str, name: str, column: str, where: str = "1") -> str:
    """The statement that finds a record as the bytes that are stored, with its session and by what it is named."""
    return f"""
SELECT coalesce(s.session_id, '-'), r.{name}, CAST(r.{column} AS BLOB) FROM {table} r
LEFT JOIN sessions s ON s.session_key = r.session_key WHERE r.{column} IS NOT NULL AND {where}
"""


# A batch that was found not to decode is parked, and told of where the queue is; a settled one has no content.
_IN_LINE: Final = "r.state = 'pending'"
# Records that must decode: what they are read as, and how they are found. The plan of a turn belongs to the runtime.
_RECORDS: Final[tuple[tuple[str, Any, str], ...]] = (
    ("node", NodePayload, _stored("nodes", "node_id", "body")),
    ("cause of node", CausalRef, _stored("nodes", "node_id", "caused_by")),
    ("frame", AgentFrame, _stored("frames", "frame_id", "record")),
    ("input", TurnInput, _stored("inputs", "input_id", "input")),
    ("address of input", TurnInputIngress, _stored("inputs", "input_id", "ingress")),
    # Empty for the next turn.
    (
        "first address of input",
        TurnInputIngress,
        _stored("inputs", "input_id", "submitted_ingress", "r.submitted_ingress <> ''"),
    ),
    ("content of batch", tuple[QueuedWorkPayload, ...], _stored("queued_work", "batch_id", "payloads", _IN_LINE)),
    ("group of batch", MergeKey, _stored("queued_work", "batch_id", "merge_key", _IN_LINE)),
    ("configuration", PersistedSessionConfig, _stored("sessions", "session_id", "config")),
    ("turn state", TurnState, _stored("sessions", "session_id", "turn_state")),
    ("labels", dict[str, str], _stored("sessions", "session_id", "labels")),
    ("lease owner", LeaseOwnerIdentity, _stored("sessions", "session_id", "lease_owner")),
    ("plan of turn", dict[str, Any], _stored("turns", "turn_id", "plan")),
    ("summary of turn", StoredSummary, _stored("turns", "turn_id", "summary")),
    ("result of turn", StoredResult, _stored("turns", "turn_id", "result")),
    ("cancel gate of turn", CancelGate, _stored("turn_cancels", "turn_id", "gate")),
    ("resolution of wait", Resolution, _RESOLUTIONS),
)
# Of what an effect brought only the effect itself knows what it must be.
_PACKED: Final = tuple(_stored("effects", "replay_key", column) for column in ("outcome", "error"))


class Broken(NamedTuple):
    """One place where a rule does not hold. `session_id` None means it belongs to none.

    `whole_until` is the id of the last message before a hole in a path, from which the session can go on; None where
    there is no hole, or no message before it.
    """

    code: str
    session_id: str | None
    detail: str
    whole_until: str | None = None


def integrity(connection: sqlite3.Connection) -> list[str]:
    """What SQLite finds wrong with the file and its indices; empty when it is sound."""
    found = [str(text) for (text,) in connection.execute(_INTEGRITY)]
    return [] if found == ["ok"] else found


def broken_rules(connection: sqlite3.Connection) -> list[Broken]:
    """Every rule that does not hold, by rule."""
    return [broken for rule in _RULES for broken in islice(rule(connection), SHOWN)]


def _ownerless(connection: sqlite3.Connection) -> Iterator[Broken]:
    for table, statement in _OWNERLESS.items():
        for (key,) in connection.execute(statement):
            yield Broken("session_missing", None, f"{table} of session key {key}")


def _selected(code: str, statement: str) -> Callable[[sqlite3.Connection], Iterator[Broken]]:
    def find(connection: sqlite3.Connection) -> Iterator[Broken]:
        for session_id, detail in connection.execute(statement):
            yield Broken(code, session_id, detail)

    return find


def _broken_paths(connection: sqlite3.Connection) -> Iterator[Broken]:
    """From the leaf of every session one can walk to the root; and of one where that is so, from every other node.

    What a broken path hides besides is told once the head stands elsewhere.
    """
    for key, session_id, next_seq, leaf_seq, _ in connection.execute(_SESSIONS).fetchall():
        segments = segments_of(connection, key, next_seq)
        try:
            path = list(runs_to_root(connection, segments, leaf_seq))
        except CorruptNode as error:
            yield Broken("path_broken", session_id, error.message)
            continue
        # Root first: what is before the first hole is what the session can go on from.
        holes = [run for run in reversed(path) if not is_whole(connection, run, key)]
        whole_until = _last_before_hole(connection, segments, holes[0]) if holes else None
        for run in holes:
            detail = f"a node between {run.low} and {run.high} is missing"
            yield Broken("path_broken", session_id, detail, whole_until)
        if not holes:
            for detail in _cut_off(connection, segments, path):
                yield Broken("node_cut_off", session_id, detail)


def _cut_off(connection: sqlite3.Connection, segments: Sequence[Segment], path: Sequence[Run]) -> Iterator[str]:
    """Where nodes beside a path that is whole lead to no root, one sentence for each parent that is not there."""
    own, inherited = segments[0], segments[1:]
    shared: Sequence[Run] = path
    # The path ends in the nodes of its own fork or goes back into those it shares: then the rest of these is beside it.
    if inherited and not _holds(path, inherited[0].top):
        try:
            shared = list(runs_to_root(connection, inherited, inherited[0].top))
        except CorruptNode as error:
            yield error.message
            return
        for run in shared:
            if not is_whole(connection, run, own.key):
                yield f"a shared node between {run.low} and {run.high} is missing"
    for places_beside in _beside(own, path):
        for (parent,) in connection.execute(_WITHOUT_PARENT, places_beside):
            if parent > own.floor or not _holds(shared, parent):
                yield f"what hangs below node {parent} leads to no root: that is missing or hidden"


def _holds(runs: Sequence[Run], seq: int) -> bool:
    return any(run.low <= seq <= run.high for run in runs)


def _beside(own: Segment, path: Sequence[Run]) -> Iterator[tuple[int, int]]:
    """The first and the last place of every stretch of the own rows that a path, leaf first, does not take."""
    first, last = places(own.key)
    for run in reversed(path):
        if run.key == own.key:
            if first < run.places[0]:
                yield first, run.places[0] - 1
            first = run.places[1] + 1
    yield first, last


def _last_before_hole(connection: sqlite3.Connection, segments: Sequence[Segment], run: Run) -> str | None:
    """The id of the node below which `run` lacks its first row; None when that is the first of the path."""
    hidden = {seq for (seq,) in connection.execute(HIDDEN_OF_RUN, run.places)} if run.key == segments[0].key else ()
    last, following = run.parent_seq, run.low
    for (seq,) in connection.execute(_SEQS_OF_RUN, run.places):
        if seq != following or seq in hidden:
            break
        last, following = seq, seq + 1
    if last is None:
        return None
    row = connection.execute(_ID_AT, (place_at(key_at(segments, last), last),)).fetchone()
    return None if row is None else str(row[0])


def _undecodable(connection: sqlite3.Connection) -> Iterator[Broken]:
    for what, kind, statement in _RECORDS:
        read = decoder(kind).decode
        for session_id, name, text in connection.execute(statement):
            try:
                read(text)
            except UNDECODABLE as error:
                yield Broken("record_undecodable", session_id, f"{what} {name}: {error}")


def _damaged_results(connection: sqlite3.Connection) -> Iterator[Broken]:
    for statement in _PACKED:
        for session_id, name, stored in connection.execute(statement):
            try:
                decode_any(unpack(stored), object)
            except UNDECODABLE as error:
                yield Broken("record_undecodable", session_id, f"result of effect {name}: {error}")


def _missing_components(connection: sqlite3.Connection) -> Iterator[Broken]:
    for _, session_id, *_, components in connection.execute(_SESSIONS).fetchall():
        try:
            refs = decode_any(components, dict[str, str])
        except msgspec.DecodeError as error:
            yield Broken("record_undecodable", session_id, f"components: {error}")
            continue
        for name, ref in refs.items():
            if not _has_blob(connection, ref):
                yield Broken("blob_missing", session_id, f"{name} {ref}")


def _missing_states(connection: sqlite3.Connection) -> Iterator[Broken]:
    for session_id, name, record in connection.execute(_stored("frames", "frame_id", "record")).fetchall():
        try:
            ref = decode(record, AgentFrame).execution_state_ref
        except UNDECODABLE:
            continue  # told as a record
        if ref is not None and not _has_blob(connection, ref):
            yield Broken("blob_missing", session_id, f"execution state of frame {name} {ref}")


def _has_blob(connection: sqlite3.Connection, ref: str) -> bool:
    return connection.execute(_HAS_BLOB, (ref,)).fetchone() is not None


def _changed_blobs(connection: sqlite3.Connection) -> Iterator[Broken]:
    for name, content in connection.execute(_BLOBS):
        if sha256_hex(bytes(content)) != name:
            yield Broken("blob_changed", None, str(name))


_RULES: Final[tuple[Callable[[sqlite3.Connection], Iterator[Broken]], ...]] = (
    _ownerless,
    _selected("leaf_missing", _LEAF_MISSING),
    _selected("frame_missing", _FRAME_MISSING),
    _selected("seq_reused", _SEQ_REUSED),
    _selected("id_used_twice", _USED_TWICE),
    _selected("summary_missing", _SUMMARY_MISSING),
    _selected("input_stuck", _HELD_BY_NOBODY.format(table="inputs", name="input_id")),
    _selected("batch_stuck", _HELD_BY_NOBODY.format(table="queued_work", name="batch_id")),
    _selected("blob_missing", _BYTES_MISSING),
    _broken_paths,
    _undecodable,
    _damaged_results,
    _missing_components,
    _missing_states,
    _changed_blobs,
)
