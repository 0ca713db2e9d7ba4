"""`lash ls` for programs, answered with the standard library alone (contract 08 §9).

A status bar or a completion asks for the list many times; the parser, the
record types and an event loop would cost ten times the query. This is the same
listing as `ls_command`, for exactly the plain forms of it; whatever is not
plain — a filter, another schema, a database that does not answer at once —
is left to the real command. A test compares the two word for word.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time

from lash_cli.cli.globals import GlobalOptions
from lash_cli.paths import resolve_paths
from lash_cli.views.safe_text import safe_json
from lash_cli.views.times import rfc3339

# The schema these statements are written for; any other is left to the store.
SCHEMA_VERSION = 1
APPLICATION_ID = 0x6C617368
DEFAULT_LIMIT = 20
_FORMATS = ("json", "jsonl", "name")
_BUSY_SECONDS = 0.15

_LIST = """
SELECT s.session_key, s.session_id, s.name, s.created_at_ms, s.cwd, s.parent_session_id, s.labels, s.closed_at_ms,
    s.parked_at_ms, s.last_activity_at_ms, s.last_commit_at_ms, s.config, s.head_revision, s.turn_state,
    s.lease_fencing_token, s.lease_token, s.lease_owner, s.lease_claimed_at_ms, s.lease_expires_at_ms,
    (SELECT turn_id FROM turns t WHERE t.session_key = s.session_key AND t.state = 'running'
        ORDER BY t.turn_index LIMIT 1) AS running_turn,
    (SELECT count(*) FROM inputs i WHERE i.session_key = s.session_key
        AND i.state IN ('pending_active', 'deferred_next_turn') AND i.claim_generation IS NOT
            (CASE WHEN s.lease_token IS NOT NULL AND :now < s.lease_expires_at_ms
                THEN s.lease_fencing_token ELSE -1 END)) AS pending
FROM sessions s ORDER BY s.last_activity_at_ms DESC, s.session_key DESC LIMIT :limit
"""


def serve(options: GlobalOptions, rest: list[str]) -> str | None:
    """What to print for this command line, or None when the real command must answer it."""
    limit = _plain_limit(options, rest)
    if limit is None:
        return None
    paths = resolve_paths(os.environ, home=options.home, database=options.database, log_file=options.log_file)
    now_ms = time.time_ns() // 1_000_000
    rows: list[sqlite3.Row] = []
    if os.path.exists(paths.database):
        try:
            found = _read(paths.database, limit, now_ms)
        except sqlite3.Error:
            return None
        if found is None:
            return None
        rows = found
    elif not os.path.isdir(os.path.dirname(paths.database)) and os.path.lexists(os.path.dirname(paths.database)):
        return None
    following = None
    if len(rows) > limit:
        rows = rows[:limit]
        following = f"{rows[-1]['last_activity_at_ms']}.{rows[-1]['session_key']}"
    return _render(options, rows, now_ms, following)


def _plain_limit(options: GlobalOptions, rest: list[str]) -> int | None:
    """How many to list, None unless the command line is a plain listing for a program."""
    is_plain = (
        options.output in _FORMATS
        and options.problem is None
        and options.fields is None
        and options.template is None
        and not (options.debug or options.version or options.ascii or options.profile or options.overrides)
        and not os.environ.get("LASH_ASCII")
    )
    if not is_plain or not rest or rest[0] not in ("ls", "list"):
        return None
    if len(rest) == 1:
        return DEFAULT_LIMIT
    if len(rest) == 3 and rest[1] in ("-n", "--limit") and rest[2].isascii() and rest[2].isdigit():
        return int(rest[2]) or None
    return None


def _read(path: str, limit: int, now_ms: int) -> list[sqlite3.Row] | None:
    """One row more than `limit`, to know whether there is a next page; None for another schema."""
    from urllib.parse import quote

    connection = sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True, timeout=_BUSY_SECONDS, isolation_level=None)
    try:
        connection.row_factory = sqlite3.Row
        is_ours = connection.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
        if not is_ours or connection.execute("PRAGMA user_version").fetchone()[0] != SCHEMA_VERSION:
            return None
        return connection.execute(_LIST, {"limit": limit + 1, "now": now_ms}).fetchall()
    finally:
        connection.close()


def _render(options: GlobalOptions, rows: list[sqlite3.Row], now_ms: int, following: str | None) -> str:
    if options.output == "name":
        return "".join(f"{row['session_id']}\n" for row in rows)
    items = [_document(row, now_ms) for row in rows]
    if options.output == "jsonl":
        return "".join(_json(item) for item in items)
    return _json({"schema": "lash/1", "kind": "SessionList", "items": items, "next": following})


def _json(document: object) -> str:
    return safe_json(json.dumps(document, ensure_ascii=False, separators=(",", ":"))) + "\n"


def _document(row: sqlite3.Row, now_ms: int) -> dict[str, object]:
    """As `documents.session_document`."""
    config = json.loads(row["config"])
    state = json.loads(row["turn_state"])
    context = state.get("last_prompt_usage")
    lease = _lease(row, now_ms)
    return {
        "id": row["session_id"],
        "name": row["name"],
        "status": _status(row, lease),
        "provider": config["provider_id"],
        "model": config["model"]["id"],
        "turns": state.get("turn_index", 0),
        "pending_inputs": row["pending"],
        "running_turn": row["running_turn"],
        "head_revision": row["head_revision"],
        "created_at": rfc3339(row["created_at_ms"]),
        "last_activity_at": rfc3339(row["last_commit_at_ms"] or row["created_at_ms"]),
        "closed_at": rfc3339(row["closed_at_ms"]),
        "parked_at": rfc3339(row["parked_at_ms"]),
        "cwd": row["cwd"],
        "parent": row["parent_session_id"],
        "labels": json.loads(row["labels"]),
        "context_tokens": context["context_budget_tokens"] if context else None,
        "lease": lease,
    }


def _status(row: sqlite3.Row, lease: dict[str, object] | None) -> str:
    if row["running_turn"] is not None:
        return "running" if lease is not None and lease["live"] else "stuck"
    if row["closed_at_ms"] is not None:
        return "closed"
    if row["pending"]:
        return "queued"
    return "parked" if row["parked_at_ms"] is not None else "idle"


def _lease(row: sqlite3.Row, now_ms: int) -> dict[str, object] | None:
    if row["lease_token"] is None:
        return None
    owner = json.loads(row["lease_owner"]) if row["lease_owner"] else None
    process = owner.get("liveness", {}) if owner else {}
    is_process = process.get("kind") == "local_process"
    is_live = now_ms < row["lease_expires_at_ms"]
    if is_live and is_process:
        from lash_cli.core.lease import LocalProcess
        from lash_cli.system import is_definitely_dead

        holder = LocalProcess(process["host_id"], process["boot_id"], process["pid"], process["process_start"])
        is_live = not is_definitely_dead(holder)
    return {
        "holder": owner
        and {
            "owner_id": owner["owner_id"],
            "label": owner.get("label") or None,
            "pid": process["pid"] if is_process else None,
            "host": process["host_id"] if is_process else None,
        },
        "generation": row["lease_fencing_token"],
        "claimed_at": rfc3339(row["lease_claimed_at_ms"]),
        "expires_at": rfc3339(row["lease_expires_at_ms"]),
        "expires_in_ms": max(0, row["lease_expires_at_ms"] - now_ms),
        "live": is_live,
    }
