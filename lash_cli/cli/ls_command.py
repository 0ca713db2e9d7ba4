"""`lash ls`: sessions, newest commit first, filtered and paged by a cursor (contract 08 §5.1, §6.1).

Read-only and cheap: it creates no database and imports no terminal library.
A page is filled by reading on through the store's own cursor, so the cursor it
hands out stands exactly behind the last session that was looked at.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Annotated, NamedTuple

import typer

from lash_cli.cli.documents import STATUSES, Document, session_document, session_status
from lash_cli.cli.durations import moment_ms
from lash_cli.cli.output import emit_many
from lash_cli.cli.reading import reading_store, run_inline
from lash_cli.cli.word_lists import words_of
from lash_cli.errors import UsageError
from lash_cli.paths import current_place
from lash_cli.store.base import RuntimePersistence, SessionRow
from lash_cli.system import SystemClock, is_definitely_dead
from lash_cli.views.times import age_since

PAGE_ROWS = 200
DEFAULT_LIMIT = 20
COLUMNS = ("name", "status", "model", "turns", "last_activity_at", "id")
SortKey = tuple[int | str, str]
# The id breaks ties, so that a key names one place in the order.
_SORTS: dict[str, Callable[[SessionRow], SortKey]] = {
    "created": lambda row: (-row.meta.created_at_ms, row.meta.session_id),
    "name": lambda row: (row.meta.name, row.meta.session_id),
    "turns": lambda row: (-row.turn_state.turn_index, row.meta.session_id),
}

_BY_ACTIVITY = "activity"
ORDERS = (_BY_ACTIVITY, *_SORTS)


class Filter(NamedTuple):
    """What a session must be to be listed; None admits everything."""

    statuses: frozenset[str] | None = None
    cwd: str | None = None
    name: str | None = None
    model: str | None = None
    labels: tuple[tuple[str, str | None], ...] = ()
    parent: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None

    def admits(self, row: SessionRow, now_ms: int) -> bool:
        """Whether `row` is listed."""
        meta = row.meta
        active_ms = row.last_commit_at_ms or meta.created_at_ms
        return (
            (self.cwd is None or meta.cwd == self.cwd)
            and (self.name is None or fnmatchcase(meta.name, self.name))
            and (self.model is None or fnmatchcase(row.config.model.id, self.model))
            and (self.parent is None or meta.parent_session_id == self.parent)
            and (self.since_ms is None or active_ms >= self.since_ms)
            and (self.until_ms is None or active_ms <= self.until_ms)
            and all(key in meta.labels and (value is None or meta.labels[key] == value) for key, value in self.labels)
            and (self.statuses is None or session_status(row, now_ms, is_definitely_dead) in self.statuses)
        )


def command(
    status: Annotated[list[str] | None, typer.Option(help="Only these: " + ", ".join(STATUSES) + ".")] = None,
    here: Annotated[bool, typer.Option("--here", help="Only sessions made in this directory.")] = False,
    name: Annotated[str | None, typer.Option(metavar="GLOB", help="Only names like this.")] = None,
    model: Annotated[str | None, typer.Option(metavar="GLOB", help="Only models like this.")] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="K[=V]", help="Only with this label.")] = None,
    parent: Annotated[str | None, typer.Option(metavar="SESSION", help="Only children of it.")] = None,
    since: Annotated[str | None, typer.Option(metavar="WHEN", help="Active since: 2h, 7d or a date.")] = None,
    until: Annotated[str | None, typer.Option(metavar="WHEN", help="Active until.")] = None,
    limit: Annotated[
        int | None, typer.Option("-n", "--limit", min=0, help="How many: 20 if not given; 0 lists all.")
    ] = None,
    cursor: Annotated[str | None, typer.Option(help="Go on behind an earlier page.")] = None,
    sort: Annotated[str, typer.Option(help="activity, created, name or turns.")] = _BY_ACTIVITY,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show them as they change.")] = False,
) -> int:
    """List sessions, newest activity first.

    A session is running, waiting (its turn waits for somebody outside), stuck
    (a turn was interrupted and nobody runs it), closed, queued, parked or idle.
    The last activity is the last commit. --watch draws them again whenever
    something changed, what needs somebody first; without a terminal it prints
    JSON lines of what changed.
    """
    if sort not in ORDERS:
        raise UsageError(f"unknown order {sort!r}", hint=f"choose one of: {', '.join(ORDERS)}")
    for option, glob in (("--name", name), ("--model", model)):
        if glob == "":
            raise UsageError(f"{option} is empty, which nothing is like", hint=f"leave it out, or: {option} '*'")
    after = None if cursor is None or sort == _BY_ACTIVITY else _place(cursor, sort)
    now_ms = SystemClock().now_ms()
    wanted = Filter(
        statuses=_statuses(status),
        cwd=current_place() if here else None,
        name=name,
        model=model,
        labels=tuple(_label(text) for text in label or ()),
        since_ms=moment_ms(since, now_ms),
        until_ms=moment_ms(until, now_ms),
    )
    if watch:
        if cursor is not None or sort != _BY_ACTIVITY:
            raise UsageError("--watch has its own order", hint="leave out --cursor and --sort")
        return _watch(wanted, parent, limit or 0)
    count = DEFAULT_LIMIT if limit is None else limit
    rows, following = run_inline(lambda: _list(wanted, parent, count, after or cursor, sort, now_ms))
    emit_many(
        "SessionList",
        [session_document(row, now_ms, is_definitely_dead) for row in rows],
        columns=COLUMNS,
        next_cursor=following,
        cells=lambda item: _cells(item, now_ms),
    )
    return 0


def _watch(wanted: Filter, parent: str | None, limit: int) -> int:
    """Show the admitted sessions until told to stop."""
    from lash_cli.cli.ls_watch import watch_sessions
    from lash_cli.cli.reading import run_watching

    async def listing(store: RuntimePersistence) -> list[Document]:
        now_ms = SystemClock().now_ms()
        rows, _ = await _take(store, await _of_parent(store, wanted, parent), 0, None, now_ms)
        return [session_document(row, now_ms, is_definitely_dead) for row in rows]

    return run_watching(watch_sessions(listing, limit))


async def _of_parent(store: RuntimePersistence, wanted: Filter, parent: str | None) -> Filter:
    """The filter with the session id of the parent that was named. Raises what `resolve_session` raises."""
    if parent is None:
        return wanted
    from lash_cli.cli.references import resolve_session

    return wanted._replace(parent=(await resolve_session(store, parent)).session_id)


async def _list(
    wanted: Filter, parent: str | None, limit: int, cursor: SortKey | str | None, sort: str, now_ms: int
) -> tuple[list[SessionRow], str | None]:
    async with reading_store() as store:
        if store is None:
            return [], None
        wanted = await _of_parent(store, wanted, parent)
        if not isinstance(cursor, tuple) and sort == _BY_ACTIVITY:
            return await _take(store, wanted, limit, cursor, now_ms)
        rows, _ = await _take(store, wanted, 0, None, now_ms)
        key = _SORTS[sort]
        rows.sort(key=key)
        if isinstance(cursor, tuple):
            rows = [row for row in rows if key(row) > cursor]
        if not limit or len(rows) <= limit:
            return rows, None
        return rows[:limit], _cursor(key(rows[limit - 1]), sort)


def _cursor(key: SortKey, sort: str) -> str:
    """Where a sorted page ends: its order and the key of its last session, in one word."""
    import base64

    return base64.urlsafe_b64encode(json.dumps([sort, *key], separators=(",", ":")).encode()).decode().rstrip("=")


def _place(cursor: str, sort: str) -> SortKey:
    """The key that `_cursor` wrote. Raises `UsageError` (`cursor_invalid`), also for a cursor of another order."""
    import base64

    try:
        found = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except ValueError:
        found = None
    kind = str if sort == "name" else int
    match found:
        case [word, value, str(session_id)] if word == sort and type(value) is kind:
            return value, session_id
    raise UsageError(
        f"{cursor!r} is not a cursor of this listing",
        code="cursor_invalid",
        hint=f"a cursor is what `next` of an earlier page with --sort {sort} says",
    )


async def _take(
    store: RuntimePersistence, wanted: Filter, limit: int, cursor: str | None, now_ms: int
) -> tuple[list[SessionRow], str | None]:
    """The first `limit` admitted rows behind `cursor` (0: all), and the cursor behind the last one taken."""
    taken: list[SessionRow] = []
    while True:
        page_rows = min(PAGE_ROWS, limit) if limit and wanted == Filter() else PAGE_ROWS
        page, following = await store.list_sessions(limit=page_rows, cursor=cursor)
        for position, row in enumerate(page, start=1):
            if not wanted.admits(row, now_ms):
                continue
            taken.append(row)
            if limit and len(taken) == limit:
                if position < len(page):
                    _, following = await store.list_sessions(limit=position, cursor=cursor)
                return taken, following
        if following is None:
            return taken, None
        cursor = following


def _cells(item: Document, now_ms: int) -> tuple[str, ...]:
    return (
        item["name"],
        item["status"],
        item["model"],
        str(item["turns"]),
        age_since(item["last_activity_at"], now_ms),
        item["id"],
    )


def _statuses(texts: list[str] | None) -> frozenset[str] | None:
    return frozenset(words_of("--status", texts, STATUSES, "unknown status")) if texts else None


def _label(text: str) -> tuple[str, str | None]:
    key, equals, value = text.partition("=")
    if not key:
        raise UsageError(f"a label filter is KEY or KEY=VALUE, got {text!r}")
    return key, value if equals else None
