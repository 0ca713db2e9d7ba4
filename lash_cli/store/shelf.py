"""What a store offers to who keeps many sessions: search, costs, names and labels, archives (contract 08 §5.1).

Part of `store.base.RuntimePersistence`; nothing of it is on the way of a turn.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from lash_cli.core.codec import Record
from lash_cli.core.content import Role
from lash_cli.core.search import SearchTerm
from lash_cli.core.usage import TokenUsage

if TYPE_CHECKING:
    from lash_cli.core.archive import SessionArchive
    from lash_cli.store.base import SessionMeta


class SearchRequest(Record):
    """What is looked for in committed text, and where. `roles` empty means all; `cwd` the directory of the session;
    `before` continues behind an earlier page; `context` is how many messages around each are told."""

    terms: tuple[SearchTerm, ...]
    limit: int
    roles: tuple[Role, ...] = ()
    cwd: str | None = None
    since_ms: int | None = None
    before: int | None = None
    context: int = 0


class NearMessage(Record):
    """A message that stands near one that was found."""

    node_id: str
    role: Role
    at_ms: int
    text: str


class FoundMessage(Record):
    """A message that has what was looked for. `marks` are the places of `snippet` that matched, as pairs of character
    positions. `is_on_path` is False for what a rewind or another branch left behind."""

    session_id: str
    session_name: str
    node_id: str
    role: Role
    at_ms: int
    snippet: str
    marks: tuple[tuple[int, int], ...]
    is_on_path: bool
    earlier: tuple[NearMessage, ...] = ()
    later: tuple[NearMessage, ...] = ()


class SearchPage(Record):
    """What was found, newest first, and the `before` of the next page."""

    found: tuple[FoundMessage, ...]
    next_before: int | None = None


class UsageTotal(Record):
    """What one session spent on one model for one cause on one day; `day` counts days of UTC since 1970.

    `largest_prompt` is the most prompt tokens any row of the ledger has: no
    request in it was larger.
    """

    day: int
    session_id: str
    session_name: str
    source: str
    model: str
    usage: TokenUsage
    largest_prompt: int


class ShelfStore(Protocol):
    """Search, ledger, names, archives."""

    async def index_messages(self) -> int:
        """Make searchable what was committed since the last time, in small transactions; how many messages.

        Nothing else pays for the index: a commit knows nothing of it. What is
        deleted leaves it in the same transaction.
        """
        ...

    async def search_messages(self, request: SearchRequest) -> SearchPage:
        """Look for committed messages in all sessions, after `index_messages`; newest first.

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

    async def import_session(self, archive: SessionArchive, session_id: str) -> SessionMeta:
        """Make the session of an archive under `session_id`, in one transaction; its name if that is free. It is as old
        as it was.

        Raises `UsageError` (`archive_invalid`), `ConflictError` (`session_exists`) and `SessionDeleted`; then nothing
        was changed.
        """
        ...
