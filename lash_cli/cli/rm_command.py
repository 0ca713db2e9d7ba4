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
from lash_cli.errors import LashError
from lash_cli.store.base import SessionMeta

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
            await idle_row(core.store, meta.session_id)
            report = await core.delete_session(meta.session_id)
            return "deleted" if report.existed else "not_found"

        return await apply_to_each(metas, delete)
