"""Secrets at rest: where they stand in a database, and taking them out of what was committed (contract 08 §6.8).

What a secret looks like is the caller's business: it brings the function that
finds them in a text. Every text and every blob of every table is looked at,
JSON string by string, so that a match never crosses the border of a value.

`scrub` writes only where nothing depends on the bytes: transcripts, settled
inputs and batches, the results of turns, frames, system prompts, labels. A blob is named by its hash
and a pending input will still be said, so they are left and named. What was
overwritten is zeroed in the file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import msgspec

from lash_cli.core.codec import decode_json, decoder, encode
from lash_cli.core.content import TurnInput
from lash_cli.core.frames import AgentFrame
from lash_cli.core.graph import NodePayload
from lash_cli.core.policy import PersistedSessionConfig
from lash_cli.store.sqlite.maintenance import prune_journal
from lash_cli.store.sqlite.places import POSITION_BITS
from lash_cli.store.sqlite.schema import FORGET_OBSERVED


class Finder(NamedTuple):
    """What a secret looks like. `find` gives kind, start and end of every one in a text, in order and without overlaps;
    `suspects` says quickly of a text or of a JSON document as it is stored whether there may be any."""

    suspects: Callable[[str], bool]
    find: Callable[[str], Sequence[tuple[str, int, int]]]


_TAIL_SHOWN: Final = 4
_MINIMUM_TO_SHOW_TAIL: Final = 12
_TEXTUAL: Final = frozenset({"TEXT", "BLOB", ""})
# Random by design, or made by ourselves: they would only look like a secret.
_NEVER_LOOKED_AT: Final = frozenset({"wait_secret", "sqlite_sequence", "_sqlite_migrations"})
# What a row is known by, the first of these that it has; else its primary key.
_ROW_NAMES: Final[tuple[str, ...]] = ("node_id", "input_id", "batch_id", "turn_id", "frame_id", "attachment_ref")
# The columns that tell whose a row is.
_OWNERS: Final = ("session_key", "session_id", "place")
_SESSION_NAMES = "SELECT session_key, session_id FROM sessions"
_REWRITE = "VACUUM"
_ZERO_WHAT_IS_OVERWRITTEN = "PRAGMA secure_delete = ON"


class Hit(NamedTuple):
    """One secret at rest: in which row and column it stands how often, and its end for recognising it."""

    table: str
    column: str
    session_id: str | None
    row: str
    kind: str
    times: int
    tail: str


class Scrubbed(NamedTuple):
    """What was taken out and what was left where it is."""

    taken: tuple[Hit, ...]
    left: tuple[Hit, ...]


class _Place(NamedTuple):
    """A column whose text may be changed: how its rows are read and written, and what it must still decode as."""

    select: str
    update: str
    kind: Any


def _place(table: str, column: str, *keys: str, kind: Any, where: str = "true") -> _Place:
    """The column of the rows that `keys` name, as far as `where` is true of them."""
    named = " AND ".join(f"{key} = ?" for key in keys)
    return _Place(
        f"SELECT {', '.join((column, *keys))} FROM {table} WHERE {where}",
        f"UPDATE {table} SET {column} = ? WHERE {named}",
        kind,
    )


_SETTLED: Final = "state IN ('cancelled', 'completed', 'dead')"
_COMMITTED: Final = "state = 'committed'"
_PLACES: Final = (
    _place("nodes", "body", "place", kind=NodePayload),
    _place("frames", "record", "session_key", "ordinal", kind=AgentFrame),
    _place("inputs", "input", "enqueue_seq", kind=TurnInput, where=_SETTLED),
    _place("queued_work", "payloads", "enqueue_seq", kind=Any, where=_SETTLED),
    _place("queued_work", "last_error", "enqueue_seq", kind=None),
    _place("turns", "summary", "session_key", "turn_id", kind=Any, where=_COMMITTED),
    _place("turns", "result", "session_key", "turn_id", kind=Any, where=_COMMITTED),
    # What people write about a session. A name and an id are what it is found by, and stay.
    _place("sessions", "config", "session_key", kind=PersistedSessionConfig),
    _place("sessions", "labels", "session_key", kind=dict[str, str]),
    _place("sessions", "hold_reason", "session_key", kind=None),
    _place("attachments", "label", "session_key", "attachment_ref", kind=None),
)


def scan(connection: sqlite3.Connection, finder: Finder) -> Iterator[Hit]:
    """Every secret in the database, by table. The caller's read transaction keeps it one moment."""
    import sqlite_utils

    database = sqlite_utils.Database(connection, recursive_triggers=False, execute_plugins=False)
    with _damaged_text_as_bytes(connection):
        names = dict(connection.execute(_SESSION_NAMES).fetchall())
        for table in database.tables:
            if table.name not in _NEVER_LOOKED_AT and table.virtual_table_using is None:
                yield from _scan_table(connection, _table_of(table), names, finder)


@contextmanager
def _damaged_text_as_bytes(connection: sqlite3.Connection) -> Iterator[None]:
    """What is no text any more is read as the bytes it is: it may hold a secret all the same."""

    def as_stored(data: bytes) -> str | bytes:
        try:
            return data.decode()
        except UnicodeDecodeError:
            return data

    before, connection.text_factory = connection.text_factory, as_stored
    try:
        yield
    finally:
        connection.text_factory = before


class _Table(NamedTuple):
    """A table, the columns to look at, and those that name a row."""

    name: str
    texts: tuple[str, ...]
    keys: tuple[str, ...]
    columns: frozenset[str]


def _table_of(table: Any) -> _Table:
    texts = tuple(column.name for column in table.columns if column.type.upper() in _TEXTUAL)
    return _Table(table.name, texts, tuple(table.pks), frozenset(column.name for column in table.columns))


def _scan_table(connection: sqlite3.Connection, table: _Table, names: dict[int, str], finder: Finder) -> Iterator[Hit]:
    keys = next(((name,) for name in _ROW_NAMES if name in table.columns), table.keys)
    owner = next((name for name in _OWNERS if name in table.columns), None)
    wanted = dict.fromkeys((*table.texts, *keys, *((owner,) if owner else ())))
    # Names of tables and columns of this very file, quoted; no value becomes part of a statement.
    statement = f"SELECT {', '.join(_quoted(name) for name in wanted)} FROM {_quoted(table.name)}"
    for values in connection.execute(statement):
        row = dict(zip(wanted, values, strict=True))
        for column in table.texts:
            for kind, secrets in _by_kind(row[column], finder).items():
                session = None if owner is None else _session_of(owner, row[owner], names)
                named = "/".join(str(row[key]) for key in keys)
                yield Hit(table.name, column, session, named, kind, len(secrets), _tail(secrets[0]))


def _session_of(owner: str, value: Any, names: dict[int, str]) -> str | None:
    """The id of the session that a row belongs to, by what its column `owner` says."""
    if owner == "session_id":
        return None if value is None else str(value)
    return names.get(value >> POSITION_BITS if owner == "place" else value)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _tail(secret: str) -> str:
    return f"…{secret[-_TAIL_SHOWN:]}" if len(secret) >= _MINIMUM_TO_SHOW_TAIL and "\n" not in secret else "…"


def _by_kind(value: Any, finder: Finder) -> dict[str, list[str]]:
    """The secrets in one stored value, by kind."""
    found: dict[str, list[str]] = {}
    for text in _texts(value, finder):
        for kind, start, end in finder.find(text):
            found.setdefault(kind, []).append(text[start:end])
    return found


def _texts(value: Any, finder: Finder) -> Iterator[str]:
    """Every text in a stored value that may hold a secret: the strings of JSON, keys included, or all of it as one."""
    if value is None or isinstance(value, int | float):
        return
    # Bytes that are no text still spell an ASCII key as it is.
    stored = value if isinstance(value, str) else bytes(value).decode("latin-1")
    if not finder.suspects(stored):
        return
    try:
        document = decode_json(value)
    except msgspec.DecodeError:
        yield stored
        return
    yield from _strings(document)


def _strings(document: Any) -> Iterator[str]:
    if isinstance(document, str):
        yield document
    elif isinstance(document, dict):
        for key, item in document.items():
            yield key
            yield from _strings(item)
    elif isinstance(document, list):
        for item in document:
            yield from _strings(item)


def scrub(connection: sqlite3.Connection, finder: Finder, mask: str) -> Scrubbed:
    """Put `mask` in the place of every secret that may be changed, inside the caller's write transaction.

    Journal rows of committed turns and previews are removed instead, as `gc`
    and time would. A row that would not decode afterwards is left as it is.
    """
    connection.execute(_ZERO_WHAT_IS_OVERWRITTEN)
    before = list(scan(connection, finder))
    with _damaged_text_as_bytes(connection):
        for place in _PLACES:
            _scrub_place(connection, place, finder, mask)
    touched = {hit.table for hit in before}
    if "effects" in touched:
        prune_journal(connection)
    if "live_row" in touched:
        # Previews are no history: an observer that comes back reads the state (contract 04 §10.2).
        for statement in FORGET_OBSERVED:
            connection.execute(statement)
    _merge_indices(connection)
    left = list(scan(connection, finder))
    remaining = set(left)
    return Scrubbed(tuple(hit for hit in before if hit not in remaining), tuple(left))


def rewrite(connection: sqlite3.Connection) -> None:
    """Leave no copy of what was overwritten in the file: outside a transaction, after the change was committed."""
    connection.execute(_REWRITE)


def _merge_indices(connection: sqlite3.Connection) -> None:
    """A full-text index keeps the words of deleted rows until its parts are merged."""
    import sqlite_utils

    database = sqlite_utils.Database(connection, recursive_triggers=False, execute_plugins=False)
    for table in database.tables:
        if (table.virtual_table_using or "").upper() == "FTS5":
            name = _quoted(table.name)
            connection.execute(f"INSERT INTO {name} ({name}) VALUES ('optimize')")


def _scrub_place(connection: sqlite3.Connection, place: _Place, finder: Finder, mask: str) -> None:
    for text, *keys in connection.execute(place.select).fetchall():
        if text is None or not _by_kind(text, finder):
            continue
        after = _masked(text, place.kind, finder, mask)
        if after is not None:
            connection.execute(place.update, (after, *keys))


def _masked(text: str | bytes, kind: Any, finder: Finder, mask: str) -> str | None:
    """`text` with `mask` for every secret; None when it could not be read again afterwards, or is none."""
    if isinstance(text, bytes):
        return None
    if kind is None:
        return _mask_text(text, finder, mask)
    try:
        after = encode(_mask_tree(decode_json(text), finder, mask)).decode()
        if kind is not Any:
            decoder(kind).decode(after)
    except msgspec.DecodeError:
        return None
    return after if not _by_kind(after, finder) else None


def _mask_tree(document: Any, finder: Finder, mask: str) -> Any:
    if isinstance(document, str):
        return _mask_text(document, finder, mask)
    if isinstance(document, dict):
        return {_mask_text(key, finder, mask): _mask_tree(item, finder, mask) for key, item in document.items()}
    if isinstance(document, list):
        return [_mask_tree(item, finder, mask) for item in document]
    return document


def _mask_text(text: str, finder: Finder, mask: str) -> str:
    parts: list[str] = []
    position = 0
    for _, start, end in finder.find(text):
        parts += (text[position:start], mask)
        position = end
    return "".join((*parts, text[position:]))
