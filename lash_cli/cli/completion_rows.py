"""Ids that only the database and the configuration know, for completion (contract 08 §10).

Only the standard library, a read-only connection and a short wait: a database
that is not there, not ours or locked has no candidates, and none is made. What
people wrote is shown only with `completion.previews = true`. Tests hold the
places against `lash_cli.paths` and what is offered against the store.
"""

from __future__ import annotations

import os
import sys
import time

from lash_cli.cli.completing import MOST, Candidate

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Mapping

_BUSY_SECONDS = 0.15
_APPLICATION_ID = 0x6C617368  # as `schema.APPLICATION_ID`, whose module brings more with it than this one may
# As in `places`: a node stands at the key of its session above these bits of its seq.
_PLACE_BITS = 40
_LAST_SEQ = (1 << _PLACE_BITS) - 1
_GENERATED = "s_"
_PREFIX = 4
# Behind every text that begins with a prefix.
_LAST = "\U0010ffff"
_MOST_SESSIONS_LOOKED_AT = 200

# As `documents.session_status`, but a holder counts as alive until its lease ends. Every look is into an index that
# holds only what is looked for, so a session with a long past costs no more than another.
_STATUS = """
CASE
    WHEN EXISTS (SELECT 1 FROM turns t INDEXED BY turns_running
        WHERE t.session_key = s.session_key AND t.state = 'running')
        THEN iif(s.lease_token IS NOT NULL AND :now < s.lease_expires_at_ms, 'running', 'stuck')
    WHEN s.closed_at_ms IS NOT NULL THEN 'closed'
    WHEN EXISTS (SELECT 1 FROM inputs i INDEXED BY inputs_next
            WHERE i.session_key = s.session_key AND i.state = 'deferred_next_turn' AND i.turn_id IS NULL)
        OR EXISTS (SELECT 1 FROM inputs i INDEXED BY inputs_active
            WHERE i.session_key = s.session_key AND i.state = 'pending_active' AND i.turn_id IS NULL)
        OR EXISTS (SELECT 1 FROM queued_work q INDEXED BY queued_work_ready WHERE q.session_key = s.session_key
            AND q.state = 'pending' AND q.turn_id IS NULL AND q.waits_until_ms IS NULL)
        OR EXISTS (SELECT 1 FROM queued_work q INDEXED BY queued_work_waiting
            WHERE q.session_key = s.session_key AND q.state = 'pending' AND q.waits_until_ms IS NOT NULL)
        THEN 'queued'
    WHEN s.parked_at_ms IS NOT NULL THEN 'parked'
    ELSE 'idle'
END
"""
_FIRST_WORDS = """
(SELECT substr(json_extract(i.input, '$.items[0].text'), 1, 80) FROM inputs i
    WHERE i.session_key = s.session_key ORDER BY i.enqueue_seq LIMIT 1)
"""
# Newest first, as far as the limit goes: right for a prefix that many sessions have.
_SESSIONS_BY_ACTIVITY = f"""
SELECT s.session_id, s.name, {_STATUS}, iif(:previews, {_FIRST_WORDS}, NULL) FROM sessions s
WHERE substr(s.session_id, 1, length(:typed)) = :typed OR substr(s.name, 1, length(:typed)) = :typed
ORDER BY s.last_activity_at_ms DESC, s.session_key DESC LIMIT :most
"""
# By the two unique indices: right for a prefix that few have.
_SESSIONS_BY_PREFIX = """
SELECT session_key FROM sessions WHERE session_id >= :typed AND session_id < :last
UNION SELECT session_key FROM sessions WHERE name >= :typed AND name < :last LIMIT :most
"""
_SESSIONS_OF_KEYS = f"""
SELECT s.session_id, s.name, {_STATUS}, iif(:previews, {_FIRST_WORDS}, NULL) FROM sessions s
WHERE s.session_key IN (SELECT value FROM json_each(:keys))
ORDER BY s.last_activity_at_ms DESC, s.session_key DESC
"""
_SESSION_OF = """
SELECT session_key FROM sessions WHERE session_id = :reference OR name = :reference
ORDER BY session_id = :reference DESC LIMIT 1
"""
_SESSIONS_OF_PREFIX = "SELECT session_key FROM sessions WHERE session_id >= :typed AND session_id < :last LIMIT 2"
_NEWEST = """
SELECT session_key FROM sessions WHERE :cwd IS NULL OR cwd = :cwd
ORDER BY last_commit_at_ms IS NULL, last_activity_at_ms DESC, session_key DESC LIMIT 1
"""
# What can still be cancelled, in the order of the queue.
_INPUTS = """
SELECT w.input_id, (SELECT name FROM sessions WHERE session_key = :session),
    iif(:previews, substr(json_extract(w.input, '$.items[0].text'), 1, 80), NULL)
FROM (
    SELECT * FROM (SELECT enqueue_seq, input_id, input FROM inputs INDEXED BY inputs_next
        WHERE session_key = :session AND state = 'deferred_next_turn' AND turn_id IS NULL
            AND substr(input_id, 1, length(:typed)) = :typed
        ORDER BY enqueue_seq LIMIT :most)
    UNION ALL
    SELECT * FROM (SELECT enqueue_seq, input_id, input FROM inputs INDEXED BY inputs_active
        WHERE session_key = :session AND state = 'pending_active' AND turn_id IS NULL
            AND substr(input_id, 1, length(:typed)) = :typed
        ORDER BY enqueue_seq LIMIT :most)
) w
ORDER BY w.enqueue_seq LIMIT :most
"""
_BATCHES = """
SELECT q.batch_id, s.name || ', ' || q.state || ', ' || q.work_class, NULL
FROM queued_work q JOIN sessions s ON s.session_key = q.session_key
WHERE q.session_key = :session AND q.state IN ('pending', 'dead') AND q.turn_id IS NULL
    AND substr(q.batch_id, 1, length(:typed)) = :typed
ORDER BY q.enqueue_seq LIMIT :most
"""
# By the partial indices of what waits, which hold nothing else.
_SESSIONS_WITH_INPUTS = """
SELECT session_key FROM inputs INDEXED BY inputs_next WHERE state = 'deferred_next_turn' AND turn_id IS NULL
UNION SELECT session_key FROM inputs INDEXED BY inputs_active WHERE state = 'pending_active' AND turn_id IS NULL
ORDER BY session_key DESC LIMIT :most
"""
_SESSIONS_WITH_BATCHES = """
SELECT session_key FROM queued_work INDEXED BY queued_work_ready
    WHERE state = 'pending' AND turn_id IS NULL AND waits_until_ms IS NULL
UNION SELECT session_key FROM queued_work INDEXED BY queued_work_waiting
    WHERE state = 'pending' AND waits_until_ms IS NOT NULL
UNION SELECT session_key FROM queued_work INDEXED BY queued_work_dead WHERE state = 'dead'
ORDER BY session_key DESC LIMIT :most
"""
_TURNS = """
SELECT turn_id, iif(state = 'running', 'running', 'committed') || ', turn ' || turn_index FROM turns
WHERE session_key = :session AND substr(turn_id, 1, length(:typed)) = :typed
ORDER BY turn_index DESC LIMIT :most
"""
# Newest first; by the index of node ids when a part of one is given.
_NODES = f"""
SELECT node_id, coalesce(json_extract(body, '$.message.role'), json_extract(body, '$.kind'), '') FROM nodes
WHERE place BETWEEN (:cluster << {_PLACE_BITS}) AND (:cluster << {_PLACE_BITS}) + :upto AND tombstoned = 0
ORDER BY place DESC LIMIT :most
"""
_NODES_BY_PREFIX = """
SELECT node_id, coalesce(json_extract(body, '$.message.role'), json_extract(body, '$.kind'), '')
FROM nodes INDEXED BY nodes_by_id
WHERE session_key = :cluster AND node_id >= :typed AND node_id < :last AND tombstoned = 0 AND seq <= :upto LIMIT :most
"""
# A fork has its older nodes in the clusters of others; the newest cluster first.
_CLUSTERS = "SELECT upto_seq, origin_key FROM node_origins WHERE session_key = :session ORDER BY upto_seq DESC"
_LABELS = """
SELECT DISTINCT l.key FROM (SELECT labels FROM sessions ORDER BY last_activity_at_ms DESC LIMIT :looked) s,
    json_each(s.labels) l
WHERE substr(l.key, 1, length(:typed)) = :typed ORDER BY l.key LIMIT :most
"""


class Sources:
    """Where the database and the configuration of this command line are."""

    def __init__(self, environment: Mapping[str, str], *, home: str | None, database: str | None) -> None:
        self._environment = environment
        root = home or environment.get("LASH_HOME") or None
        data, config = (root, root) if root else _system_directories(environment)
        chosen = database or environment.get("LASH_DB") or os.path.join(data, "lash.db")
        self.database = os.path.abspath(os.path.expanduser(chosen))
        file = environment.get("LASH_CONFIG") or os.path.join(config, "config.toml")
        self.config_file = os.path.abspath(os.path.expanduser(file))

    @property
    def previews(self) -> bool:
        """Whether what people wrote may be shown: `completion.previews`."""
        said = self._environment.get("LASH_CFG__completion__previews")
        if said is not None:
            return said == "true"
        return bool(self.configuration(b"previews").get("completion", {}).get("previews"))

    def configuration(self, mark: bytes) -> dict[str, dict[str, object]]:
        """The user's file; empty without reading it as TOML when `mark` is nowhere in it."""
        try:
            if not os.path.isfile(self.config_file):
                return {}
            with open(self.config_file, "rb") as file:
                text = file.read()
        except OSError:
            return {}
        if mark not in text:
            return {}
        import tomllib  # costs more than a look into the database

        return tomllib.loads(text.decode())

    def rows(self, statement: str, **values: object) -> list[tuple[str, ...]]:
        """What the database answers; nothing when it cannot at once."""
        connection = self._connection()
        if connection is None:
            return []
        return connection.execute(statement, {"most": MOST, **values}).fetchall()

    def _connection(self) -> sqlite3.Connection | None:
        if not hasattr(self, "_opened"):
            self._opened = _open(self.database)
        return self._opened

    def session_key(self, reference: str) -> object | None:
        """The key of the session a reference names, as `references.resolve_session` finds it; None for none."""
        if reference in ("@last", "@any"):
            found = self.rows(_NEWEST, cwd=_here() if reference == "@last" else None)
        else:
            found = self.rows(_SESSION_OF, reference=reference)
            if not found and len(reference) >= _PREFIX:
                found = self.rows(_SESSIONS_OF_PREFIX, typed=reference, last=reference + _LAST)
        return found[0][0] if len(found) == 1 else None


def _here() -> str:
    """The current directory as sessions remember it."""
    here = os.getcwd()
    if here.isascii():
        return here
    from lash_cli.paths import path_text

    return path_text(here)


def _open(path: str) -> sqlite3.Connection | None:
    """The database for reading, None when there is none or it is not one of ours.

    A reader of a database that nobody has open would make the two files beside it that its users share. Without a
    `-wal` file everything is in the database itself, and then it is read as one that does not change; where only the
    second file is missing, there is no way to read without making it.
    """
    if not os.path.isfile(path):
        return None
    try:
        import _sqlite3 as sqlite3  # all that is needed; the module over it brings what makes it twice as slow
    except ImportError:
        import sqlite3  # type: ignore[no-redef]  # another interpreter

    uri = "file:" + path.replace("%", "%25").replace("?", "%3f").replace("#", "%23") + "?mode=ro"
    real = os.path.realpath(path)
    if not os.path.exists(real + "-wal"):
        uri += "&immutable=1"
    elif not os.path.exists(real + "-shm"):
        return None
    connection: sqlite3.Connection = sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS, isolation_level=None)
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    return connection if application == _APPLICATION_ID else None


def _system_directories(environment: Mapping[str, str]) -> tuple[str, str]:
    """The data and the configuration directory where no home is named, without importing what looks them up."""
    if "linux" in sys.platform:
        user = environment.get("HOME", "")
        data = environment.get("XDG_DATA_HOME", "").strip() or os.path.join(user, ".local", "share")
        config = environment.get("XDG_CONFIG_HOME", "").strip() or os.path.join(user, ".config")
        if os.path.isabs(data) and os.path.isabs(config):
            return os.path.join(data, "lash"), os.path.join(config, "lash")
    import platformdirs

    return platformdirs.user_data_dir("lash"), platformdirs.user_config_dir("lash")


def _sessions(sources: Sources, typed: str, _: str | None) -> list[Candidate]:
    special = [("@last", "the newest of this directory"), ("@any", "the newest of all")]
    if typed.startswith("@"):
        return [(value, text) for value, text in special if value.startswith(typed)]
    shown = {"now": time.time_ns() // 1_000_000, "previews": sources.previews}
    few = sources.rows(_SESSIONS_BY_PREFIX, typed=typed, last=typed + _LAST, most=MOST + 1) if typed else None
    if few is None or len(few) > MOST:
        rows = sources.rows(_SESSIONS_BY_ACTIVITY, typed=typed, **shown)
    else:
        keys = "[" + ",".join(str(row[0]) for row in few) + "]"
        rows = sources.rows(_SESSIONS_OF_KEYS, keys=keys, **shown)
    return [_session(typed, *row) for row in rows]


def _session(typed: str, session_id: str, name: str, status: str, words: str | None) -> Candidate:
    """By its id, unless only the name fits or the id is one nobody chose."""
    is_by_name = not session_id.startswith(typed) or (session_id.startswith(_GENERATED) and name.startswith(typed))
    value, other = (name, session_id) if is_by_name else (session_id, name)
    return value, " ".join(part for part in (f"{status},", other, words) if part)


def _session_keys(sources: Sources, session: str | None, otherwise: str) -> list[object]:
    """The session that is named, else those that have something."""
    if session is None:
        return [row[0] for row in sources.rows(otherwise)]
    key = sources.session_key(session)
    return [] if key is None else [key]


def _inputs(sources: Sources, typed: str, session: str | None) -> list[Candidate]:
    found: list[Candidate] = []
    previews = sources.previews
    for key in _session_keys(sources, session, _SESSIONS_WITH_INPUTS):
        for input_id, name, words in sources.rows(_INPUTS, session=key, typed=typed, previews=previews):
            found.append((input_id, words or name))
    return found[:MOST]


def _batches(sources: Sources, typed: str, session: str | None) -> list[Candidate]:
    found: list[Candidate] = []
    for key in _session_keys(sources, session, _SESSIONS_WITH_BATCHES):
        found += [(row[0], row[1]) for row in sources.rows(_BATCHES, session=key, typed=typed)]
    return found[:MOST]


def _turns(sources: Sources, typed: str, session: str | None) -> list[Candidate]:
    key = _named(sources, session)
    return [] if key is None else [(row[0], row[1]) for row in sources.rows(_TURNS, session=key, typed=typed)]


def _nodes(sources: Sources, typed: str, session: str | None) -> list[Candidate]:
    key = _named(sources, session)
    if key is None:
        return []
    found: list[Candidate] = []
    clusters = [(_LAST_SEQ, key), *sources.rows(_CLUSTERS, session=key)]
    for upto, cluster in clusters:
        statement = _NODES_BY_PREFIX if typed else _NODES
        rows = sources.rows(statement, cluster=cluster, upto=upto, typed=typed, last=typed + _LAST)
        found += [(row[0], row[1]) for row in rows]
        if len(found) >= MOST:
            break
    return found[:MOST]


def _named(sources: Sources, session: str | None) -> object | None:
    """The session an id belongs to: the one on the line, else `LASH_SESSION`."""
    return sources.session_key(session or os.environ.get("LASH_SESSION", ""))


def _labels(sources: Sources, typed: str, _: str | None) -> list[Candidate]:
    rows = sources.rows(_LABELS, typed=typed, looked=_MOST_SESSIONS_LOOKED_AT)
    return [(row[0] + "=", "label") for row in rows]


def _configured(section: str) -> Callable[[Sources, str, str | None], list[Candidate]]:
    def names(sources: Sources, typed: str, _: str | None) -> list[Candidate]:
        table = sources.configuration(section.encode()).get(section, {})
        return [(name, "of the configuration") for name in table if name.startswith(typed)]

    return names


def _config_keys(sources: Sources, typed: str, _: str | None) -> list[Candidate]:
    """The keys of a table that the user named: the fixed words hold those of the others."""
    section, dot, rest = typed.partition(".")
    if not dot or section not in ("models", "providers"):
        return []
    return [(f"{section}.{name}.", text) for name, text in _configured(section)(sources, rest.partition(".")[0], None)]


KINDS: dict[str, Callable[[Sources, str, str | None], list[Candidate]]] = {
    "session": _sessions,
    "input": _inputs,
    "batch": _batches,
    "turn": _turns,
    "node": _nodes,
    "label": _labels,
    "model": _configured("models"),
    "provider": _configured("providers"),
    "profile": _configured("profiles"),
    "config-key": _config_keys,
}
