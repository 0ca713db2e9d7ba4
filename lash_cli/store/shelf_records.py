"""What `store.shelf` asks and answers with: imported by whoever searches or counts, not by every look (design D16)."""

from __future__ import annotations

from lash_cli.core.codec import Record
from lash_cli.core.content import Role
from lash_cli.core.search import SearchTerm
from lash_cli.core.usage import TokenUsage


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
    """What was found, newest first, and the `before` of the next page.

    `is_behind` says that messages which were committed since the last search are not in it, because the store cannot
    be written, and the index is part of it.
    """

    found: tuple[FoundMessage, ...]
    next_before: int | None = None
    is_behind: bool = False


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
