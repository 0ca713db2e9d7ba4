"""`lash search`: what was said, in every session (contract 08 §5.1).

The index is brought up to date first, by the search and by nobody else; where
the store cannot be written, what is in it is searched. What is told is
committed text only: live text of a running turn is not part of it.
"""

from __future__ import annotations

from typing import Annotated

import typer

from lash_cli.cli.documents import Document
from lash_cli.cli.durations import moment_ms
from lash_cli.cli.invocation import current
from lash_cli.cli.log_command import named_roles
from lash_cli.cli.output import emit_many, safe, warn
from lash_cli.cli.progress import progress
from lash_cli.cli.queue_access import existing_store
from lash_cli.cli.reading import run_async
from lash_cli.core.search import parse_query
from lash_cli.errors import UsageError
from lash_cli.paths import current_place
from lash_cli.store.shelf_records import FoundMessage, NearMessage, SearchPage, SearchRequest
from lash_cli.system import SystemClock
from lash_cli.views.times import rfc3339

DEFAULT_LIMIT = 20
COLUMNS = ("session_name", "role", "at", "snippet", "id")
# Of the numbers a place is counted by: 64 bits with a sign.
_END = 1 << 63
_BOLD, _NORMAL = "\x1b[1m", "\x1b[0m"


def command(
    query: Annotated[list[str], typer.Argument(metavar="QUERY...", help='Words, "a phrase", begin*, -without.')],
    here: Annotated[bool, typer.Option("--here", help="Only sessions made in this directory.")] = False,
    role: Annotated[list[str] | None, typer.Option(metavar="ROLE", help="user, assistant, system or event.")] = None,
    since: Annotated[str | None, typer.Option(metavar="WHEN", help="Said since: 2h, 7d or a date.")] = None,
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, help="How many.")] = DEFAULT_LIMIT,
    context: Annotated[int, typer.Option(metavar="N", min=0, help="Show N messages before and after each.")] = 0,
    cursor: Annotated[str | None, typer.Option(help="Go on behind an earlier page.")] = None,
) -> int:
    """Find messages in which all words of QUERY occur, newest first.

    What people and models said is searched, not what tools returned. Sessions
    are told by name and id; the last word of a line is the node, which lash
    fork and lash rewind take. The first search takes longer: it reads what was
    said so far.
    """
    now_ms = SystemClock().now_ms()
    request = SearchRequest(
        parse_query(" ".join(query)),
        limit,
        roles=tuple(sorted(named_roles(role) or ())),
        cwd=current_place() if here else None,
        since_ms=moment_ms(since, now_ms),
        before=_position(cursor),
        context=context,
    )
    page = run_async(_search(request))
    if page.is_behind:
        warn(
            f"{current().paths.database} cannot be written: what was said since the last search is not searched; make"
            " it writable, make room, or copy it and name the copy with --db FILE",
            "index_behind",
        )
    hits = [_document(hit) for hit in page.found]
    emit_many(
        "SearchHitList",
        hits,
        columns=COLUMNS,
        next_cursor=None if page.next_before is None else str(page.next_before),
        text=None if current().output.is_machine else _text(hits, page, now_ms),
        is_paged=True,
    )
    return 0


def _position(cursor: str | None) -> int | None:
    if cursor is None:
        return None
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) <= 19 and int(cursor) < _END):
        raise UsageError(
            f"{cursor!r} is not a cursor of this search",
            code="cursor_invalid",
            hint="a cursor is what `next` of an earlier page says",
        )
    return int(cursor)


async def _search(request: SearchRequest) -> SearchPage:
    async with existing_store() as store:
        if store is None:
            return SearchPage(())
        with progress("reading what was said since the last search"):
            return await store.search_messages(request)


def _document(hit: FoundMessage) -> Document:
    return {
        "id": hit.node_id,
        "session": hit.session_id,
        "session_name": hit.session_name,
        "role": hit.role.value,
        "at": rfc3339(hit.at_ms),
        "on_path": hit.is_on_path,
        "snippet": hit.snippet,
        "matches": [list(span) for span in hit.marks],
        "before": [_near(message) for message in hit.earlier],
        "after": [_near(message) for message in hit.later],
    }


def _near(message: NearMessage) -> Document:
    return {"id": message.node_id, "role": message.role.value, "at": rfc3339(message.at_ms), "text": message.text}


def _text(hits: list[Document], page: SearchPage, now_ms: int) -> str:
    from lash_cli.views.search import search_text

    is_bold = current().output.color
    return search_text(
        hits,
        clean=safe,
        mark=lambda words: f"{_BOLD}{words}{_NORMAL}" if is_bold else words,
        now_ms=now_ms,
        at_ms=[hit.at_ms for hit in page.found],
    )
