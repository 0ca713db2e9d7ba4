"""`lash doctor`: look at everything, change nothing, say what is wrong and what to do (contract 08 §6.8).

The report is data on stdout whatever it says; the exit status tells how bad it
is: 9 when the database cannot be used, 5 when configuration or permissions are
wrong, else 0, with warnings listed.
"""

from __future__ import annotations

import os
import platform
import sqlite3
import stat
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from lash_cli.cli.doctor_store import StoreReport, inspect_store
from lash_cli.cli.invocation import current
from lash_cli.cli.output import Document, emit_one
from lash_cli.errors import ConfigError, LashError, NotFoundError, StoreUnusable
from lash_cli.paths import Paths, shared_bits
from lash_cli.settings.redact import redact
from lash_cli.version import __version__
from lash_cli.views.tables import columns, pairs
from lash_cli.views.times import duration

OLDEST_TRUSTED_SQLITE = (3, 37, 0)  # STRICT tables


class Finding(NamedTuple):
    """Something wrong. `exit_status` 0 is a warning."""

    code: str
    message: str
    hint: str | None
    exit_status: int

    @staticmethod
    def of(error: LashError) -> Finding:
        """The finding behind an error."""
        return Finding(error.code, error.message, error.hint, error.exit_status)


def command() -> int:
    """Check paths, permissions, the database, lease holders and unfinished turns."""
    paths = current().paths
    findings: list[Finding] = []
    places = _places(paths, findings)
    configuration = _configuration(paths, findings)
    database, inside = _database(paths, findings)
    document: Document = {
        "id": paths.database,
        "healthy": not findings,
        "versions": {"lash": __version__, "python": platform.python_version(), "sqlite": sqlite3.sqlite_version},
        "paths": places,
        "configuration": configuration,
        "database": database,
        "lease_holders": inside.holders,
        "unfinished_turns": inside.unfinished,
        "held_queues": inside.held,
        "dead_batches": inside.dead,
        "unfinished_edits": _unfinished_edits(findings),
        "findings": [
            {"code": f.code, "message": redact(f.message), "hint": f.hint, "severity": _severity(f)} for f in findings
        ],
    }
    emit_one("Doctor", document, text=_text(document), name=paths.database)
    return max((finding.exit_status for finding in findings), default=0)


def _severity(finding: Finding) -> str:
    return "error" if finding.exit_status else "warning"


# --- paths and permissions --------------------------------------------------------------------


def _places(paths: Paths, findings: list[Finding]) -> list[Document]:
    wal = [(f"database{suffix}", paths.database + suffix) for suffix in ("-wal", "-shm")]
    rows = [(name, place) for name, place in paths.rows().items() if place is not None and name != "home"]
    items: list[Document] = []
    directories = {paths.config_dir, paths.data_dir, paths.state_dir}
    for name, place in [("config_dir", paths.config_dir), *rows, *wal]:
        try:
            mode: int | None = stat.S_IMODE(os.stat(place).st_mode)
        except FileNotFoundError:
            mode = None
        except OSError as error:
            mode = None
            findings.append(Finding("permissions_unsafe", f"cannot look at {place}: {error.strerror}", None, 5))
        items.append({"name": name, "path": place, "exists": mode is not None, "mode": _mode_text(mode)})
    for place in sorted({item["path"] for item in items if item["exists"]}):
        _check_place(place, place in directories, findings)
    if sqlite3.sqlite_version_info < OLDEST_TRUSTED_SQLITE:
        findings.append(
            Finding("sqlite_too_old", f"SQLite {sqlite3.sqlite_version} is too old", "3.37 or newer is needed", 5)
        )
    return items


def _mode_text(mode: int | None) -> str | None:
    return None if mode is None else f"{mode:04o}"


def _check_place(place: str, is_ours: bool, findings: list[Finding]) -> None:
    """Files must be private; a directory must be private when it is one of ours and writable in any case."""
    is_directory = os.path.isdir(place)
    if shared_bits(place) and (is_ours or not is_directory):
        wanted = "700" if is_directory else "600"
        findings.append(Finding("permissions_unsafe", f"others can read {place}", f"chmod {wanted} {place}", 5))
    if not os.access(place, os.W_OK):
        findings.append(Finding("permissions_unsafe", f"cannot write {place}", f"chmod u+w {place}", 5))


# --- configuration ----------------------------------------------------------------------------


def _configuration(paths: Paths, findings: list[Finding]) -> Document:
    from lash_cli.settings.keys import read_keys
    from lash_cli.settings.providers import default_provider, provider_names

    report: Document = {"valid": True, "providers": [], "default_provider": None, "keys": []}
    try:
        report["keys"] = sorted(read_keys(paths))
    except ConfigError as error:
        if error.code != "permissions_unsafe":  # the places above already say so
            findings.append(Finding.of(error))
    try:
        settings = current().settings
    except ConfigError as error:
        report["valid"] = False
        findings.append(Finding.of(error))
        return report
    report["providers"] = provider_names(settings, os.environ)
    report["default_provider"] = default_provider(settings, os.environ)
    if report["default_provider"] not in report["providers"]:
        message = f"the default provider {report['default_provider']!r} is not configured"
        findings.append(Finding("provider_unconfigured", message, "lash config set defaults.provider NAME", 5))
    return report


# --- database ---------------------------------------------------------------------------------


def _database(paths: Paths, findings: list[Finding]) -> tuple[Document, StoreReport]:
    report: Document = {"path": paths.database, "state": "ok", "bytes": None, "sessions": None}
    try:
        report["bytes"] = os.stat(paths.database).st_size
    except OSError:
        report["state"] = "absent"
        return report, StoreReport()
    try:
        _check_integrity(paths.database)
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
            message = f"turn {turn['turn']} of {turn['name']} was cut off"
            yield Finding("turn_unfinished", message, f"finish it with: lash resume {turn['session']}", 0)
    for queue in inside.held:
        reason = f": {queue['reason']}" if queue["reason"] else ""
        message = f"the queue of {queue['name']} is held since {queue['held_at']}{reason}"
        yield Finding("queue_held", message, f"let it go on with: lash queue release {queue['session']}", 0)
    for batch in inside.dead:
        message = f"batch {batch['id']} of {batch['name']} failed {batch['attempts']} times: {batch['last_error']}"
        yield Finding("batch_dead", message, f"drop it with: lash queue cancel-batch {batch['id']}", 0)


def _check_integrity(path: str) -> None:
    """Raises `StoreUnusable` (`store_corrupt`) when SQLite finds the file damaged."""
    from urllib.parse import quote

    try:
        connection = sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True, timeout=5)
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

    edits = unfinished_edits()
    for edit in edits:
        findings.append(
            Finding(
                "queue_edit_unfinished",
                f"an edit of the queue of {edit.session_name} was cut off; {edit.texts} inputs may be missing from it",
                "put them back with: lash queue edit --recover",
                0,
            )
        )
    for path in kept_texts():
        findings.append(
            Finding("queue_edit_kept", f"{path} holds what was typed in an edit that failed", "delete it when done", 0)
        )
    return [
        {"id": edit.edit_id, "session": edit.session_id, "name": edit.session_name, "inputs": edit.texts}
        for edit in edits
    ]


# --- text -------------------------------------------------------------------------------------


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
    blocks.append(_findings_text(document["findings"]))
    return "\n\n".join(blocks)


def _summary(document: Document) -> list[tuple[str, str]]:
    database, configuration = document["database"], document["configuration"]
    size = "" if database["bytes"] is None else f", {database['bytes']} bytes, {database['sessions'] or 0} sessions"
    return [
        ("database", f"{database['state']}{size}"),
        ("configuration", "valid" if configuration["valid"] else "invalid"),
        ("provider", f"{configuration['default_provider'] or '-'} of {', '.join(configuration['providers']) or '-'}"),
    ]


def _holder_cells(holder: Document) -> tuple[str, ...]:
    who: Any = f"pid {holder['pid']}" if holder["pid"] else holder["owner"]
    label = f" ({holder['label']})" if holder["label"] else ""
    return (holder["name"], f"{who}{label}", holder["state"], f"in {duration(holder['expires_in_ms'])}")


def _findings_text(findings: list[Document]) -> str:
    from lash_cli.views.safe_text import safe_text

    if not findings:
        return "nothing is wrong"
    lines = []
    for finding in findings:
        lines.append(f"{finding['severity']}: {finding['message']} ({finding['code']})")
        if finding["hint"]:
            lines.append(f"  hint: {finding['hint']}")
    return safe_text("\n".join(lines))
