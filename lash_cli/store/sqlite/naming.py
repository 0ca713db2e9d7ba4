"""Names and labels of a session, which may change at any time: they belong to the shelf, not to the head
(contract 08 §5.1 `rename`, `label`)."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Final

import msgspec

from lash_cli.core.codec import encode
from lash_cli.errors import ConflictError
from lash_cli.store.base import SessionMeta
from lash_cli.store.sqlite.database import Database
from lash_cli.store.sqlite.queue_announcing import announce_standing
from lash_cli.store.sqlite.sessions import read_session

_NAME_OF_ANOTHER: Final = "SELECT 1 FROM sessions WHERE (name = ?1 OR session_id = ?1) AND session_key <> ?2"
_CHANGE: Final = "UPDATE sessions SET name = ?, labels = ? WHERE session_key = ?"


def _change(
    connection: sqlite3.Connection,
    session_id: str,
    name: str | None,
    labels: Mapping[str, str | None],
    now_ms: int,
) -> SessionMeta:
    stored = read_session(connection, session_id)
    meta = stored.meta()
    kept = {**meta.labels, **labels}
    changed = msgspec.structs.replace(
        meta,
        name=meta.name if name is None else name,
        labels={key: value for key, value in kept.items() if value is not None},
    )
    if changed == meta:
        return meta
    is_new = changed.name != meta.name
    if is_new and connection.execute(_NAME_OF_ANOTHER, (changed.name, stored.key)).fetchone() is not None:
        raise ConflictError(
            f"the name {changed.name!r} belongs to another session",
            code="session_name_taken",
            hint="choose another name, or see who has it: lash ls",
        )
    connection.execute(_CHANGE, (changed.name, encode(changed.labels).decode(), stored.key))
    announce_standing(connection, session_id, now_ms)
    return changed


class Naming:
    """Names and labels; the async face of this module."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def change_meta(
        self,
        session_id: str,
        *,
        name: str | None = None,
        labels: Mapping[str, str | None] | None = None,
        now_ms: int,
    ) -> SessionMeta:
        """See `shelf.ShelfStore.change_meta`. Synced before it returns."""
        return await self._db.write(
            lambda connection: _change(connection, session_id, name, labels or {}, now_ms), durable=True
        )
