"""`lash doctor`: look at everything, say what is wrong and what to do about it (contract 08 §6.8).

Nothing is changed but modes, and those only with `--fix`. The report is data on
stdout whatever it says; the exit status tells how bad it is: 9 when the
database cannot be used, 5 when configuration or permissions are wrong, else 0,
with warnings listed.
"""

from __future__ import annotations

import os
import platform
import sqlite3
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from lash_cli.cli.doctor_places import Finding, places, repair
from lash_cli.cli.doctor_settings import configuration
from lash_cli.cli.doctor_store import StoreReport, inspect_store
from lash_cli.cli.invocation import current
from lash_cli.cli.output import Document, emit_one
from lash_cli.cli.session_detail import again
from lash_cli.errors import LashError, NotFoundError, StoreUnusable
from lash_cli.paths import Paths
from lash_cli.settings.redact import redact
from lash_cli.version import __version__
from lash_cli.views.counts import counted
from lash_cli.views.safe_text import safe_text
from lash_cli.views.tables import columns, pairs
from lash_cli.views.times import duration

OLDEST_TRUSTED_SQLITE = (3, 37, 0)  # STRICT tables


def command(
    fix: Annotated[bool, typer.Option("--fix", help="Make what others can read private.")] = False,
) -> int:
    """Check paths, permissions, configuration, the database, holders and what is unfinished.

    Nothing is changed without --fix, and with it only the modes of your own
    files. Read the whole database with: lash db check
    """
    current().stand_alone()
    paths = current().paths
    findings: list[Finding] = []
    fixed = repair(paths) if fix else []
    looked_at = places(paths, findings)
    if sqlite3.sqlite_version_info < OLDEST_TRUSTED_SQLITE:
        message = f"SQLite {sqlite3.sqlite_version} is too old"
        findings.append(Finding("sqlite_too_old", message, "3.37 or newer is needed", 5))
    settings = configuration(paths, findings)
    database, inside = _database(paths, findings)
    document: Document = {
        "id": paths.database,
        "healthy": not findings,
        "versions": {"lash": __version__, "python": platform.python_version(), "sqlite": sqlite3.sqlite_version},
        "paths": looked_at,
        "fixed": fixed,
        "configuration": settings,
        "database": database,
        "lease_holders": inside.holders,
        "unfinished_turns": inside.unfinished,
        "held_queues": inside.held,
        "dead_batches": inside.dead,
        "unfinished_edits": _unfinished_edits(findings),
        "findings": [
            {
                "code": f.code,
                "message": redact(f.message),
                "hint": f.hint and current().commands_here(f.hint),
                "severity": _severity(f),
            }
            for f in findings
        ],
    }
    emit_one("Doctor", document, text=_text(document), name=paths.database)
    return max((finding.exit_status for finding in findings), default=0)


def _severity(finding: Finding) -> str:
    return "error" if finding.exit_status else "warning"


def _database(paths: Paths, findings: list[Finding]) -> tuple[Document, StoreReport]:
    report: Document = {"path": paths.database, "state": "ok", "bytes": None, "sessions": None}
    try:
        report["bytes"] = os.stat(paths.database).st_size
    except OSError:
        report["state"] = "absent"
        return report, StoreReport()
    try:
        _check_integrity(paths.database)
        pending = _pending_migrations(paths)
        if pending:
            report["state"] = "schema_old"
            message = f"the database has not had: {', '.join(pending)}"
            findings.append(Finding("schema_old", message, "bring it up to date with: lash db migrate", 0))
            return report, StoreReport()
        inside = inspect_store(paths)
    except NotFoundError:
        report["state"] = "absent"
        return report, StoreReport()
    except LashError as error:
        report["state"] = error.code
        findings.append(Finding.of(error))
        return report, StoreReport()
    report["sessions"] = inside.sessions
    findings.extend(_waiting_for_somebody(inside))
    return report, inside


def _waiting_for_somebody(inside: StoreReport) -> Iterator[Finding]:
    """What goes on only when a person says so."""
    for turn in inside.unfinished:
        if turn["holder"] is None:
            message = f"turn {turn['turn']} of {turn['name']} was cut off{again(turn['begun'])}"
            session = turn["session"]
            hint = f"finish it with: lash resume {session}; or end it with: lash cancel {session}"
            yield Finding("turn_unfinished", message, hint, 0)
    for lease in inside.from_the_future:
        message = (
            f"{lease['name']} is held until {lease['expires_at']} by an owner of another boot or machine,"
            " since a time that is yet to come: the clock was set back"
        )
        hint = f"set the clock right, or go on in a copy: lash fork {lease['session']}"
        yield Finding("lease_from_the_future", message, hint, 0)
    for queue in inside.held:
        reason = f": {queue['reason']}" if queue["reason"] else ""
        message = f"the queue of {queue['name']} is held since {queue['held_at']}{reason}"
        yield Finding("queue_held", message, f"let it go on with: lash queue release {queue['session']}", 0)
    for batch in inside.dead:
        message = f"batch {batch['id']} of {batch['name']} failed {batch['attempts']} times: {batch['last_error']}"
        yield Finding("batch_dead", message, f"drop it with: lash queue cancel-batch {batch['id']}", 0)


def _pending_migrations(paths: Paths) -> tuple[str, ...]:
    from pathlib import Path

    from lash_cli.store.sqlite.inspection import looking, pending_migrations, schema_version

    with looking(Path(paths.database)) as connection:
        return pending_migrations(schema_version(connection))


def _check_integrity(path: str) -> None:
    """Raises `StoreUnusable` (`store_corrupt`) when SQLite finds the file damaged."""
    from urllib.parse import quote

    from lash_cli.store.sqlite.file_names import is_in_the_way

    if is_in_the_way(path):
        return  # as below
    try:
        connection = sqlite3.connect(f"file:{quote(os.fsencode(path))}?mode=ro", uri=True, timeout=5)
        try:
            verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        finally:
            connection.close()
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            return  # locked or not readable: opening the store says so in its own words
        raise StoreUnusable(f"{path} is damaged or not a database: {error}", hint="restore it from a backup") from error
    if verdict != "ok":
        raise StoreUnusable(f"{path} is damaged: {verdict}", hint="restore it from a backup")


def _unfinished_edits(findings: list[Finding]) -> list[Document]:
    """Edits of queues that were cut off, and the files of those that went wrong."""
    from lash_cli.cli.edit_journal import kept_texts, unfinished_edits

    try:
        edits, kept = unfinished_edits(), kept_texts()
    except LashError as error:
        findings.append(Finding.of(error))
        return []
    for edit in edits:
        findings.append(
            Finding(
                "queue_edit_unfinished",
                f"an edit of the queue of {edit.session_name} was cut off; {edit.texts} inputs may be missing from it",
                "put them back with: lash queue edit --recover",
                0,
            )
        )
    for path in kept:
        findings.append(
            Finding("queue_edit_kept", f"{path} holds what was typed in an edit that failed", "delete it when done", 0)
        )
    return [
        {"id": edit.edit_id, "session": edit.session_id, "name": edit.session_name, "inputs": edit.texts}
        for edit in edits
    ]


def _text(document: Document) -> str:
    versions = document["versions"]
    blocks = [
        f"lash {versions['lash']}, Python {versions['python']}, SQLite {versions['sqlite']}, {sys.platform}",
        columns(
            ("PLACE", "MODE", "PATH"),
            [(item["name"], item["mode"] or "absent", item["path"]) for item in document["paths"]],
        ),
        pairs(_summary(document)),
    ]
    if document["lease_holders"]:
        rows = [_holder_cells(holder) for holder in document["lease_holders"]]
        blocks.append(columns(("LEASE OF", "HELD BY", "STATE", "EXPIRES"), rows))
    if document["unfinished_turns"]:
        turns = document["unfinished_turns"]
        rows = [(str(turn["name"]), turn["turn"], turn["started_at"], str(turn["holder"] or "-")) for turn in turns]
        blocks.append(columns(("UNFINISHED IN", "TURN", "STARTED", "HELD BY"), rows))
    if document["fixed"]:
        blocks.append(safe_text("\n".join(f"made private: {place}" for place in document["fixed"])))
    blocks.append(_findings_text(document["findings"]))
    return "\n\n".join(blocks)


def _summary(document: Document) -> list[tuple[str, str]]:
    database, configuration = document["database"], document["configuration"]
    project = configuration["project"]
    sessions = counted(database["sessions"] or 0, "session")
    size = "" if database["bytes"] is None else f", {database['bytes']} bytes, {sessions}"
    return [
        ("database", f"{database['state']}{size}"),
        ("configuration", "valid" if configuration["valid"] else "invalid"),
        ("provider", f"{configuration['default_provider'] or '-'} of {', '.join(configuration['providers']) or '-'}"),
        *([("project", f"{project['file']} ({project['state']})")] if project is not None else []),
    ]


def _holder_cells(holder: Document) -> tuple[str, ...]:
    who: Any = f"pid {holder['pid']}" if holder["pid"] else holder["owner"]
    label = f" ({holder['label']})" if holder["label"] else ""
    return (holder["name"], f"{who}{label}", holder["state"], f"in {duration(holder['expires_in_ms'])}")


def _findings_text(findings: list[Document]) -> str:
    if not findings:
        return "nothing is wrong"
    lines = []
    for finding in findings:
        lines.append(f"{finding['severity']}: {finding['message']} ({finding['code']})")
        if finding["hint"]:
            lines.append(f"  hint: {finding['hint']}")
    return safe_text("\n".join(lines))
