"""Telling observers that a session changed although its head did not move, from inside the transaction that changed it
(contract 04 §1, §10.1): its queue, or what it stands as.

A module of its own because the queue is loaded by whoever looks at sessions,
and the live log only by whoever changes something (design D16).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Literal

from lash_cli.store.sqlite.sessions import StoredHead


def announce(
    connection: sqlite3.Connection,
    session: StoredHead,
    kind: Literal["enqueued", "cancelled"],
    ids: Sequence[str],
    now_ms: int,
) -> None:
    """Announce inputs or batches that came or went, at the revision of `session`; nothing for no ids. Rows given back
    count as enqueued."""
    if not ids:
        return
    from lash_cli.core.observation import QueueChanged
    from lash_cli.store.sqlite.live import append_in
    from lash_cli.store.sqlite.live_rows import change_row

    row = change_row(QueueChanged(kind, tuple(ids)))
    append_in(connection, session.key, session.session_id, row, revision=session.head_revision or 0, now_ms=now_ms)


def announce_standing(connection: sqlite3.Connection, session_id: str, now_ms: int) -> None:
    """Announce that a session was closed, parked or opened again, or that its queue was held or released."""
    from lash_cli.core.observation import ResidentChanged
    from lash_cli.store.sqlite.live import announce_in

    announce_in(connection, session_id, ResidentChanged(), now_ms)
