"""`lash rm`: delete sessions for ever; their ids are never used again (contract 08 §5.1, 01 §1.4).

The middle danger level: a terminal is asked once for all of them, everybody
else needs `--yes`, and `--dry-run` only tells.
"""

from __future__ import annotations

from typing import Annotated

import typer

from lash_cli.cli.asking import confirm
from lash_cli.cli.bulk import COLUMNS, apply_to_each, finish, resolve_all
from lash_cli.cli.documents import Document
from lash_cli.cli.output import emit_many
from lash_cli.cli.park_command import idle_row
from lash_cli.cli.reading import run_async
from lash_cli.cli.running import opened_core, writing_store
from lash_cli.core.lease import DEFAULT_TTL_MS, LeaseOwnerIdentity, is_row_live
from lash_cli.errors import LashError
from lash_cli.store.base import LaneBusy, RuntimePersistence, SessionMeta, SessionRow
from lash_cli.system import SystemClock, SystemIds, this_process

_NAMED_IN_QUESTION = 5


def command(
    sessions: Annotated[list[str], typer.Argument(metavar="SESSION...", help="Ids or names.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be deleted.")] = False,
) -> int:
    """Delete sessions with their transcripts. Asks first; --yes answers."""
    if dry_run:
        metas = run_async(_resolve(sessions))
        rows = [{"id": meta.session_id, "name": meta.name, "outcome": "would_delete", "code": None} for meta in metas]
        emit_many("Deleted", rows, columns=COLUMNS)
        return 0
    metas = run_async(_resolve(sessions))
    confirm(_question(metas))
    deleted, errors = run_async(_delete(metas))
    return finish("Deleted", deleted, errors)


def _question(metas: list[SessionMeta]) -> str:
    named = ", ".join(f"{meta.name} ({meta.session_id})" for meta in metas[:_NAMED_IN_QUESTION])
    more = f" and {len(metas) - _NAMED_IN_QUESTION} more" if len(metas) > _NAMED_IN_QUESTION else ""
    return f"delete {named}{more} for ever?"


async def _resolve(references: list[str]) -> list[SessionMeta]:
    store = writing_store()
    try:
        return await resolve_all(store, references)
    finally:
        await store.aclose()


async def _delete(metas: list[SessionMeta]) -> tuple[list[Document], list[LashError]]:
    async with opened_core(store=writing_store(), owner_label="rm") as core:

        async def delete(meta: SessionMeta) -> str:
            row = await idle_row(core.store, meta.session_id)
            await _free_dead_lane(core.store, row)
            report = await core.delete_session(meta.session_id)
            return "deleted" if report.existed else "not_found"

        return await apply_to_each(metas, delete)


async def _free_dead_lane(store: RuntimePersistence, row: SessionRow) -> None:
    """Give back the lane of a holder that provably runs no more, so that nobody has to wait for its expiry."""
    now_ms = SystemClock().now_ms()
    if not is_row_live(row.lease, now_ms):
        return
    ids = SystemIds()
    lease = await store.reclaim_lease(
        row.meta.session_id,
        LeaseOwnerIdentity(ids.token(), ids.token(), this_process(), "rm"),
        observed_fencing_token=row.lease.fencing_token,
        ttl_ms=DEFAULT_TTL_MS,
        now_ms=now_ms,
        token=ids.token(),
    )
    if not isinstance(lease, LaneBusy):
        await store.release_lease(lease.fence())
