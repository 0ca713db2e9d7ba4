"""`lash close`: close sessions durably; they keep their transcript and take no more turns (contract 08 §5.1)."""

from __future__ import annotations

from lash_cli.cli.arguments import SomeSessions
from lash_cli.cli.bulk import apply_to_each, finish, resolve_all
from lash_cli.cli.documents import Document
from lash_cli.cli.park_command import idle_row
from lash_cli.cli.progress import progress
from lash_cli.cli.reading import run_async
from lash_cli.cli.running import store_having
from lash_cli.errors import LashError
from lash_cli.store.base import SessionMeta
from lash_cli.system import SystemClock


def command(
    sessions: SomeSessions,
) -> int:
    """Close sessions. lash resume opens them again."""
    rows, errors = run_async(_run(sessions))
    return finish("Closed", rows, errors)


async def _run(references: list[str]) -> tuple[list[Document], list[LashError]]:
    store = store_having(references[0])

    async def close(meta: SessionMeta) -> str:
        row = await idle_row(store, meta.session_id)
        if row.meta.closed_at_ms is not None:
            return "already_closed"
        await store.set_session_flags(
            meta.session_id, closed_at_ms=SystemClock().now_ms(), parked_at_ms=row.meta.parked_at_ms
        )
        return "closed"

    try:
        metas = await resolve_all(store, references)
        with progress("closing sessions"):
            return await apply_to_each(metas, close)
    finally:
        await store.aclose()
