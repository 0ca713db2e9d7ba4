"""`lash db path|info|check|vacuum|migrate` (contract 08 §5.4, design D11): look at the database and keep it well.

The report of `check` is data on stdout whatever it says; the exit status is 9
when the file is damaged or a rule between its rows does not hold.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Final

import typer

from lash_cli.cli.db_files import copy_place, copy_told
from lash_cli.cli.invocation import current
from lash_cli.cli.output import Document, emit_one, say
from lash_cli.cli.progress import progress
from lash_cli.errors import StoreUnusable
from lash_cli.views.tables import columns, pairs

EXIT_DAMAGED = StoreUnusable.exit_status


def path() -> int:
    """Print where the database is, whether it exists or not."""
    current().stand_alone()
    place = current().paths.database
    emit_one("DatabasePath", {"id": place, "path": place, "exists": os.path.exists(place)}, text=place)
    return 0


def info() -> int:
    """Show how large the database is, which schema it has, and what is in its tables."""
    current().stand_alone()
    from lash_cli.store.sqlite import schema
    from lash_cli.store.sqlite.inspection import facts, looking, pending_migrations

    place = Path(current().paths.database)
    with looking(place) as connection:
        found = facts(connection, place)
    document: Document = {
        "id": str(place),
        "path": str(place),
        "bytes": found.bytes,
        "log_bytes": found.log_bytes,
        "free_bytes": found.free_pages * found.page_size,
        "page_size": found.page_size,
        "journal_mode": found.journal_mode,
        "schema_version": found.schema_version,
        "known_schema_version": schema.SCHEMA_VERSION,
        "migrations": list(found.migrations),
        "pending": list(pending_migrations(found.schema_version)),
        "sessions": found.sessions,
        "deleted_sessions": found.deleted_sessions,
        "tables": [{"name": name, "rows": rows} for name, rows in found.tables.items()],
    }
    emit_one("DatabaseInfo", document, text=_info_text(document))
    return 0


def _info_text(document: Document) -> str:
    schema = f"{document['schema_version']} of {document['known_schema_version']}"
    rows = [
        ("path", document["path"]),
        ("size", f"{document['bytes']} bytes, {document['free_bytes']} of them unused"),
        ("log", f"{document['log_bytes']} bytes ({document['journal_mode']})"),
        ("schema", f"{schema}, pending: {', '.join(document['pending'])}" if document["pending"] else schema),
        ("sessions", f"{document['sessions']}, {document['deleted_sessions']} deleted"),
    ]
    tables = columns(("TABLE", "ROWS"), [(item["name"], str(item["rows"])) for item in document["tables"]])
    return f"{pairs(rows)}\n\n{tables}"


def check() -> int:
    """Read the whole database and say whether it is sound.

    SQLite checks the file and its indices; lash checks what its tables say of
    one another: that every leaf leads to a root, every reference has bytes
    whose hash it is, every record can be read. Nothing is changed. Exits with 9
    when something is wrong.
    """
    current().stand_alone()
    from lash_cli.store.sqlite import schema
    from lash_cli.store.sqlite.inspection import looking, schema_version
    from lash_cli.store.sqlite.invariants import broken_rules, integrity

    place = Path(current().paths.database)
    with looking(place) as connection, progress("checking the database"):
        damage = integrity(connection)
        # Rules are about today's tables, and a damaged index would only make them lie.
        are_checked = not damage and schema_version(connection) == schema.SCHEMA_VERSION
        broken = broken_rules(connection) if are_checked else []
    document: Document = {
        "id": str(place),
        "healthy": not damage and not broken,
        "integrity": damage,
        "rules_checked": are_checked,
        "broken": [
            {"code": one.code, "session": one.session_id, "detail": one.detail, "whole_until": one.whole_until}
            for one in broken
        ],
    }
    emit_one("DatabaseCheck", document, text=_check_text(document))
    return 0 if document["healthy"] else EXIT_DAMAGED


# The head of a session names no message, and all the messages are there (contract 01 §10).
_LOST_HEAD: Final = "leaf_missing"


def _check_text(document: Document) -> str:
    from lash_cli.cli.cut_off import CUT_OFF
    from lash_cli.cli.head_moves import command_here
    from lash_cli.views.safe_text import safe_text

    lines = [f"damaged: {text}" for text in document["integrity"]]
    lines += [f"{one['code']}: {one['session'] or '-'}: {one['detail']}" for one in document["broken"]]
    if document["healthy"]:
        lines.append("the database is sound")
        if not document["rules_checked"]:
            lines.append(f"its rules were not checked: bring it up to date first with {command_here('db', 'migrate')}")
    else:
        lines.append(f"put a sound copy back with: {command_here('db', 'restore', 'FILE')}")
        lost = sorted({one["session"] for one in document["broken"] if one["code"] == _LOST_HEAD})
        lines += [
            f"or go on from a message of {command_here('tree', one)}: {command_here('rewind', one, '--to', 'NODE')}"
            for one in lost
        ]
        whole = {one["session"]: one["whole_until"] for one in document["broken"] if one["whole_until"] is not None}
        lines += [
            f"or go on in a fork from before what is missing: {command_here('fork', one, '--at', whole[one])}"
            for one in sorted(whole)
        ]
        cut_off = sorted({one["session"] for one in document["broken"] if one["code"] == CUT_OFF})
        lines += [f"or leave what is cut off behind in a fork: {command_here('fork', one)}" for one in cut_off]
    return safe_text("\n".join(lines))


def vacuum() -> int:
    """Give unused space back: the file is rewritten without it.

    lash gc finds what nothing needs any more; this makes the file smaller
    afterwards. It needs as much free space as the database is large.
    """
    from lash_cli.store.sqlite.inspection import compact, looking

    place = Path(current().paths.database)
    with looking(place):
        pass
    with progress("writing the database without unused space"):
        before, after = compact(place)
    emit_one("DatabaseVacuum", {"id": str(place), "bytes_before": before, "bytes_after": after}, text="")
    say(f"{place}: {before} bytes before, {after} now")
    return 0


def migrate(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what is missing.")] = False,
    no_backup: Annotated[bool, typer.Option("--no-backup", help="Make no copy first.")] = False,
) -> int:
    """Bring the database up to date with this program, after a copy of it was made.

    Every command that writes does the same by itself; this one keeps a copy.
    """
    from lash_cli.store.sqlite import schema
    from lash_cli.store.sqlite.backup import back_up
    from lash_cli.store.sqlite.inspection import looking, pending_migrations, schema_version
    from lash_cli.store.sqlite.inspection import migrate as apply
    from lash_cli.system import SystemClock

    place = Path(current().paths.database)
    with looking(place) as connection:
        version = schema_version(connection)
    pending = pending_migrations(version)
    copy = None
    if pending and not dry_run:
        if not no_backup:
            with progress("copying the database"):
                copy = str(back_up(place, copy_place("before-migration")).file)
        with copy_told(copy), progress("bringing the database up to date"):
            apply(place, SystemClock())
    document: Document = {
        "id": str(place),
        "dry_run": dry_run,
        "from_version": version,
        "to_version": max(version, schema.SCHEMA_VERSION),
        "migrations": list(pending),
        "backup": copy,
    }
    emit_one("DatabaseMigration", document, text="\n".join(pending))
    if not pending:
        say("the database is up to date")
    elif copy is not None:
        say(f"as it was before: {copy}")
    return 0
