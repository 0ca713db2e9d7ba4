"""`lash rm`: delete sessions for ever; their ids are never used again (contract 08 §5.1, 01 §1.4).

The middle danger level: a terminal is asked once for all of them, everybody
else needs `--yes`, and `--dry-run` only tells.
"""

from __future__ import annotations

from typing import Annotated

import typer

from lash_cli.cli.arguments import SomeSessions
from lash_cli.cli.asking import confirm
from lash_cli.cli.bulk import COLUMNS, apply_to_each, deletion_question, finish, resolve_all
from lash_cli.cli.documents import Document
from lash_cli.cli.output import emit_many
from lash_cli.cli.park_command import idle_row
from lash_cli.cli.progress import progress
from lash_cli.cli.reading import every_session, no_session_yet, reading_store, run_async
from lash_cli.cli.running import opened_core, writing_store
from lash_cli.errors import LashError
from lash_cli.store.base import RuntimePersistence, SessionMeta


def command(
    sessions: SomeSessions,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be deleted.")] = False,
    with_children: Annotated[
        bool, typer.Option("--with-children", help="And the sessions that have them as parent, and theirs.")
    ] = False,
) -> int:
    """Delete sessions with their transcripts. Asks first; --yes answers.

    Children, and forks are children, stay unless --with-children is given:
    what they share with a deleted session remains theirs.
    """
    metas = run_async(_chosen(sessions, with_children))
    if dry_run:
        rows = [{"id": meta.session_id, "name": meta.name, "outcome": "would_delete", "code": None} for meta in metas]
        emit_many("Deleted", rows, columns=COLUMNS)
        return 0
    confirm(deletion_question(metas))
    deleted, errors = run_async(_delete(metas))
    return finish("Deleted", deleted, errors)


async def _chosen(references: list[str], with_children: bool) -> list[SessionMeta]:
    """The sessions named; with their descendants, children before their parents, so that what is left after a failure
    still has its parents."""
    async with reading_store() as store:
        if store is None:
            raise no_session_yet(references[0])
        named = await resolve_all(store, references)
        if not with_children:
            return named
        with progress("looking for children"):
            return await _with_descendants(store, named)


async def _with_descendants(store: RuntimePersistence, named: list[SessionMeta]) -> list[SessionMeta]:
    children: dict[str, list[SessionMeta]] = {}
    async for row in every_session(store):
        if row.meta.parent_session_id is not None:
            children.setdefault(row.meta.parent_session_id, []).append(row.meta)
    ordered: list[SessionMeta] = []
    seen: set[str] = set()
    waiting = [(meta, False) for meta in reversed(named)]
    while waiting:
        meta, is_behind_children = waiting.pop()
        if is_behind_children:
            ordered.append(meta)
        elif meta.session_id not in seen:
            seen.add(meta.session_id)
            waiting.append((meta, True))
            waiting += [(child, False) for child in children.get(meta.session_id, ())]
    return ordered


async def _delete(metas: list[SessionMeta]) -> tuple[list[Document], list[LashError]]:
    async with opened_core(store=writing_store(), owner_label="rm") as core:

        async def delete(meta: SessionMeta) -> str:
            await idle_row(core.store, meta.session_id)
            report = await core.delete_session(meta.session_id)
            return "deleted" if report.existed else "not_found"

        with progress("deleting sessions"):
            return await apply_to_each(metas, delete)
