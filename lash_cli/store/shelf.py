"""What a store offers to who keeps many sessions: search, costs, names and labels, archives (contract 08 §5.1).

Part of `store.base.RuntimePersistence`; nothing of it is on the way of a turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from lash_cli.core.archive import SessionArchive
    from lash_cli.store.base import SessionMeta
    from lash_cli.store.shelf_records import SearchPage, SearchRequest, UsageTotal


class ShelfStore(Protocol):
    """Search, ledger, names, archives."""

    async def index_messages(self) -> int:
        """Make searchable what was committed since the last time, in small transactions; how many messages.

        Nothing else pays for the index: a commit knows nothing of it. What is
        deleted leaves it in the same transaction.
        """
        ...

    async def search_messages(self, request: SearchRequest) -> SearchPage:
        """Look for committed messages in all sessions, after `index_messages`; newest first. Where that cannot be
        written, in those that it has already.

        Every message is told once, for the session that wrote it, or for a fork
        that still shows it when that session does not.
        """
        ...

    async def usage_totals(
        self, *, session_id: str | None = None, since_ms: int | None = None
    ) -> tuple[UsageTotal, ...]:
        """The ledger of one session, or of all, oldest day first. Raises `NotFoundError` and `SessionDeleted`."""
        ...

    async def change_meta(
        self,
        session_id: str,
        *,
        name: str | None = None,
        labels: Mapping[str, str | None] | None = None,
        now_ms: int,
    ) -> SessionMeta:
        """Rename, and set labels or, where the value is None, remove them; all in one transaction, no matter who holds
        the lane. Raises `NotFoundError`, `SessionDeleted` and `ConflictError` (`session_name_taken`)."""
        ...

    async def export_session(self, session_id: str) -> SessionArchive:
        """Everything that was committed, as of one moment. Raises `NotFoundError`, `SessionDeleted`, `CorruptNode`,
        `MissingCheckpointComponent`."""
        ...

    async def import_sessions(self, archives: Sequence[tuple[SessionArchive, str]]) -> tuple[SessionMeta, ...]:
        """Make the session of every archive under the id beside it, each under its name if that is free and as old as
        it was, all in one transaction: an import that was cut off made all of them or none.

        Raises `UsageError` (`archive_invalid`), `ConflictError` (`session_exists`) and `SessionDeleted`; then nothing
        was changed.
        """
        ...
