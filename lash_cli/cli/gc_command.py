"""`lash gc`: remove what nothing needs any more, when the user says so (contract 01 §0 law 12, 08 §6.7, design D5).

Nothing is ever removed by a timer. What is settled stays for
`retention.min_age`; sessions are touched only when `retention.max_age` says
after which time of disuse they may go, and then only after a confirmation.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lash_cli.cli.asking import confirm
from lash_cli.cli.bulk import deletion_question
from lash_cli.cli.db_files import sweep_copies
from lash_cli.cli.invocation import current
from lash_cli.cli.output import Document, emit_one, say
from lash_cli.cli.progress import progress
from lash_cli.cli.reading import every_session, reading_store, run_async
from lash_cli.cli.running import opened_core, writing_store
from lash_cli.errors import ConfigError, SessionStillInUse, StoreReadOnly
from lash_cli.system import SystemClock, is_definitely_dead
from lash_cli.views.tables import columns, pairs
from lash_cli.views.times import rfc3339

if TYPE_CHECKING:
    from lash_cli.store.base import RuntimePersistence, SessionRow
    from lash_cli.store.sqlite.maintenance import Collected, Maintenance
    from lash_cli.tools.spilling import Spilled


def command(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be removed.")] = False,
) -> int:
    """Remove what nothing needs any more.

    That is: journals of turns that are committed, settled inputs, batches and
    waits, nodes and attachments nothing leads to, bytes nobody names, and the files
    with whole outputs of commands. What was settled or written less than
    retention.min_age ago stays. If retention.max_age is set,
    sessions that were not used for so long are deleted too, after a question;
    --yes answers. Make the file smaller afterwards with: lash db vacuum
    """
    from lash_cli.store.sqlite.inspection import looking
    from lash_cli.tools.spilling import DIRECTORY_NAME, forget_spilled

    with looking(Path(current().paths.database)):
        pass
    now_ms = SystemClock().now_ms()
    settings = current().settings
    cutoff_ms = max(0, now_ms - round(settings.retention_min_age * 1000))
    idle_since_ms = _idle_since(now_ms)
    with progress("looking for sessions that nobody uses"):
        expired = run_async(_expired(idle_since_ms, now_ms)) if idle_since_ms is not None else []
    if expired and not dry_run:
        confirm(f"retention.max_age: {deletion_question([row.meta for row in expired])}")
        run_async(_delete(expired, idle_since_ms or 0))
    with progress("looking for what nothing needs" if dry_run else "removing what nothing needs"):
        collected = run_async(_would_collect(cutoff_ms) if dry_run else _collect(cutoff_ms))
        spilled = forget_spilled(Path(current().paths.state_dir) / DIRECTORY_NAME, cutoff_ms, dry_run=dry_run)
        if not dry_run:
            sweep_copies()
    document = _document(dry_run, cutoff_ms, idle_since_ms, expired, collected, spilled)
    emit_one("Collection", document, text=_text(document))
    if not dry_run and (collected.blobs or collected.journal_rows or expired):
        say("make the file smaller with: lash db vacuum")
    return 0


def _idle_since(now_ms: int) -> int | None:
    """The last use of a session that expires now; None when none does. Raises `ConfigError`."""
    settings = current().settings
    max_age, min_age = settings.retention_max_age, settings.retention_min_age
    if max_age is None:
        return None
    if max_age < min_age:
        raise ConfigError(
            f"retention.max_age ({settings.origin('retention.max_age')}) is less than retention.min_age"
            f" ({settings.origin('retention.min_age')})",
            hint="nothing was removed; make max_age the longer one",
        )
    return max(0, now_ms - round(max_age * 1000))


async def _expired(idle_since_ms: int, now_ms: int) -> list[SessionRow]:
    """The sessions that were not used since, with nothing that waits or runs in them."""
    async with reading_store() as store:
        if store is None:
            return []
        return [row async for row in every_session(store) if _is_expired(row, idle_since_ms, now_ms)]


def _is_expired(row: SessionRow, idle_since_ms: int, now_ms: int) -> bool:
    from lash_cli.cli.documents import is_lease_live

    # An import is a use: an archive is brought back to be looked at, however old it is.
    used_at_ms = max(row.meta.created_at_ms, row.last_commit_at_ms or 0, row.imported_at_ms or 0)
    is_busy = row.running_turn_id is not None or is_lease_live(row.lease, now_ms, is_definitely_dead)
    return used_at_ms < idle_since_ms and not is_busy and not row.pending_inputs and not row.pending_batches


async def _delete(expired: list[SessionRow], idle_since_ms: int) -> None:
    """Delete them; one that was used since it was found is in use and ends this with `SessionStillInUse`."""
    async with opened_core(store=writing_store(), owner_label="gc") as core:
        with progress("deleting sessions"):
            for row in expired:
                await _refuse_used(core.store, row, idle_since_ms)
                await core.delete_session(row.meta.session_id)


async def _refuse_used(store: RuntimePersistence, row: SessionRow, idle_since_ms: int) -> None:
    now = await store.session_row(row.meta.session_id)
    if now is not None and not _is_expired(now, idle_since_ms, SystemClock().now_ms()):
        raise SessionStillInUse(
            f"session {row.meta.name} ({row.meta.session_id}) was used meanwhile",
            details={"session": row.meta.session_id},
        )


async def _collect(cutoff_ms: int) -> Collected:
    async with _maintenance(read_only=False) as maintenance:
        return await maintenance.collect(cutoff_ms)


async def _would_collect(cutoff_ms: int) -> Collected:
    """What `_collect` would remove. The file need not be writable, unless it is an old one."""
    try:
        async with _maintenance(read_only=True) as maintenance:
            return await maintenance.try_collect(cutoff_ms)
    except StoreReadOnly:
        async with _maintenance(read_only=False) as maintenance:
            return await maintenance.try_collect(cutoff_ms)


@asynccontextmanager
async def _maintenance(*, read_only: bool) -> AsyncIterator[Maintenance]:
    from lash_cli.store.sqlite.database import Database
    from lash_cli.store.sqlite.maintenance import Maintenance

    database = Database.open(Path(current().paths.database), clock=SystemClock(), read_only=read_only)
    try:
        yield Maintenance(database)
    finally:
        await database.aclose()


def _document(
    dry_run: bool,
    cutoff_ms: int,
    idle_since_ms: int | None,
    expired: list[SessionRow],
    collected: Collected,
    spilled: Spilled,
) -> Document:
    return {
        "id": current().paths.database,
        "dry_run": dry_run,
        "settled_before": rfc3339(cutoff_ms),
        "idle_since": rfc3339(idle_since_ms),
        "sessions": [
            {"id": row.meta.session_id, "name": row.meta.name, "last_commit_at": rfc3339(row.last_commit_at_ms)}
            for row in expired
        ],
        "nodes": collected.nodes,
        "inputs": collected.inputs,
        "batches": collected.queued_work,
        "waits": collected.waits,
        "attachments": collected.attachments,
        "blobs": collected.blobs,
        "blob_bytes": collected.blob_bytes,
        "journal_rows": collected.journal_rows,
        "spilled_files": spilled.files,
        "spilled_bytes": spilled.bytes,
    }


def _text(document: Document) -> str:
    rows = [
        ("would remove" if document["dry_run"] else "removed", f"settled before {document['settled_before']}"),
        ("sessions", str(len(document["sessions"]))),
        ("hidden nodes", str(document["nodes"])),
        ("settled inputs", str(document["inputs"])),
        ("settled batches", str(document["batches"])),
        ("settled waits", str(document["waits"])),
        ("attachments", f"{document['attachments']} that were never committed"),
        ("blobs", f"{document['blobs']}, {document['blob_bytes']} bytes"),
        ("journal rows", str(document["journal_rows"])),
        ("whole outputs", f"{document['spilled_files']}, {document['spilled_bytes']} bytes"),
    ]
    if not document["sessions"]:
        return pairs(rows)
    listed = [(one["name"], one["id"], one["last_commit_at"] or "-") for one in document["sessions"]]
    return f"{pairs(rows)}\n\n{columns(('EXPIRED', 'ID', 'LAST COMMIT'), listed)}"
