"""How a command names a session (contract 08 §4).

In order: `@last` (newest commit made in this directory, never a global guess),
`@any` (newest overall), the exact id, the exact name, a unique id prefix of at
least four characters. Positions such as "the third one" are not references:
they shift between two commands. A missing session is an error with the nearest
matches, never silently a new one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lash_cli.cli.invocation import current
from lash_cli.cli.output import say
from lash_cli.cli.reading import every_session
from lash_cli.core.ids import is_session_id
from lash_cli.errors import NotFoundError, UsageError
from lash_cli.paths import current_place, path_text

if TYPE_CHECKING:
    from lash_cli.store.base import RuntimePersistence, SessionMeta, SessionRow

LAST = "@last"
_NEWEST = (LAST, "@any")
MINIMUM_PREFIX = 4
_SUGGESTION_POOL = 500
_CANDIDATES_SHOWN = 10


async def resolve_session(store: RuntimePersistence, reference: str | None) -> SessionMeta:
    """The session `reference` names; None takes `LASH_SESSION`. One that was not named itself is said on stderr.

    Raises `NotFoundError` (`session_not_found`), `SessionDeleted` for an id
    that was deleted, `UsageError` (`session_ambiguous`, or `usage` when nothing
    was named).
    """
    if reference is None:
        reference = current().environment.get("LASH_SESSION") or None
        if reference is None:
            raise UsageError("a SESSION is needed", hint="name one, or set LASH_SESSION; list them with: lash ls")
        meta = await _named(store, reference)
        say(f"session {meta.name} ({meta.session_id}) from LASH_SESSION")
        return meta
    meta = await _named(store, reference)
    if reference in _NEWEST:
        say(f"session {meta.name} ({meta.session_id}) is {reference}")
    return meta


async def _named(store: RuntimePersistence, reference: str) -> SessionMeta:
    """The session of a reference; raises as `resolve_session`."""
    if reference in _NEWEST:
        return await _newest(store, current_place() if reference == LAST else None)
    if not reference.isascii() and path_text(reference) != reference:
        raise UsageError(f"{path_text(reference)!r} is not valid UTF-8, and no session is named so")
    # The store gives the best kind only: what is called exactly so, else prefixes.
    candidates = await store.find_sessions(reference)
    if len(reference) < MINIMUM_PREFIX and not any(reference in (meta.session_id, meta.name) for meta in candidates):
        candidates = ()
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        raise _ambiguous(reference, candidates)
    if is_session_id(reference):
        await store.session_row(reference)  # raises SessionDeleted for a tombstone
    raise await _not_found(store, reference)


async def _newest(store: RuntimePersistence, cwd: str | None) -> SessionMeta:
    """The session with the newest commit, made in `cwd` if given; one never committed only if there is no other."""
    first: SessionRow | None = None
    async for row in every_session(store):
        if cwd is not None and row.meta.cwd != cwd:
            continue
        if row.last_commit_at_ms is not None:
            return row.meta  # newest activity first, and a commit is the last activity of whoever made one
        first = first or row
    if first is not None:
        return first.meta
    if cwd is None:
        raise NotFoundError("there is no session yet", hint="make one with: lash open")
    raise NotFoundError(f"no session was used in {cwd}", hint="@any is the newest overall; list them with: lash ls")


def _ambiguous(reference: str, candidates: tuple[SessionMeta, ...]) -> UsageError:
    shown = candidates[:_CANDIDATES_SHOWN]
    listed = ", ".join(f"{meta.session_id} ({meta.name})" for meta in shown)
    more = f" and {len(candidates) - len(shown)} more" if len(candidates) > len(shown) else ""
    return UsageError(
        f"{reference!r} names {len(candidates)} sessions",
        code="session_ambiguous",
        hint=f"one of: {listed}{more}",
        details={"candidates": [{"id": meta.session_id, "name": meta.name} for meta in shown]},
    )


async def _not_found(store: RuntimePersistence, reference: str) -> NotFoundError:
    pool: dict[str, str] = {}
    async for row in every_session(store):
        pool[row.meta.name] = row.meta.name
        pool[row.meta.session_id] = row.meta.session_id
        if len(pool) >= _SUGGESTION_POOL:
            break
    from lash_cli.core.nearest import did_you_mean

    hint, nearest = did_you_mean(reference, pool, "list them with: lash ls", most=3)
    if not nearest and len(reference) < MINIMUM_PREFIX:
        hint = f"an id prefix needs at least {MINIMUM_PREFIX} characters; list them with: lash ls"
    return NotFoundError(f"no session {reference!r}", hint=hint, details={"reference": reference, "nearest": nearest})
