"""One verb applied to several sessions: each row gets an outcome, the exit status sums up (contract 08 §5.3, §6.4).

All done is 0, some done is 8, none done is the first failure's own status. A
row that failed never keeps the others from being tried.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from lash_cli.cli.documents import Document
from lash_cli.cli.output import emit_many, say
from lash_cli.errors import LashError, PartialOutcomeError
from lash_cli.store.base import RuntimePersistence, SessionMeta

COLUMNS = ("name", "id", "outcome")
_NAMED_IN_QUESTION = 5

Action = Callable[[SessionMeta], Awaitable[str]]


async def resolve_all(store: RuntimePersistence, references: Sequence[str]) -> list[SessionMeta]:
    """The sessions named, each once, in order; raises for the first that is not found, before anything is done."""
    from lash_cli.cli.references import resolve_session

    found: dict[str, SessionMeta] = {}
    for reference in references:
        meta = await resolve_session(store, reference)
        found.setdefault(meta.session_id, meta)
    return list(found.values())


def deletion_question(metas: Sequence[SessionMeta]) -> str:
    """What a person is asked before sessions are deleted: the first few by name, how many more by number."""
    named = ", ".join(f"{meta.name} ({meta.session_id})" for meta in metas[:_NAMED_IN_QUESTION])
    more = f" and {len(metas) - _NAMED_IN_QUESTION} more" if len(metas) > _NAMED_IN_QUESTION else ""
    return f"delete {named}{more} for ever?"


async def apply_to_each(metas: Sequence[SessionMeta], action: Action) -> tuple[list[Document], list[LashError]]:
    """Run `action` on every session; the rows in order, and the errors of those that failed."""
    rows: list[Document] = []
    errors: list[LashError] = []
    for meta in metas:
        code: str | None = None
        try:
            outcome = await action(meta)
        except LashError as error:
            errors.append(error)
            outcome, code = "failed", error.code
        rows.append({"id": meta.session_id, "name": meta.name, "outcome": outcome, "code": code})
    return rows, errors


def finish(kind: str, rows: list[Document], errors: list[LashError]) -> int:
    """Print the rows, or raise: the first error when every row failed, `PartialOutcomeError` when some did."""
    if not errors:
        emit_many(kind, rows, columns=COLUMNS)
        return 0
    if len(errors) < len(rows):
        for row in rows:
            say(f"{row['name']} ({row['id']}): {row['outcome']}{' ' + row['code'] if row['code'] else ''}")
    raise failed(rows, errors, "were done")


def failed(rows: list[Document], errors: list[LashError], done: str) -> LashError:
    """What to raise for `errors`: the first when every row failed, else how many rows were `done`."""
    if len(errors) == len(rows):
        errors[0].details.setdefault("items", rows)
        return errors[0]
    return PartialOutcomeError(
        f"{len(rows) - len(errors)} of {len(rows)} {done}; first failure: {errors[0].message}",
        hint=errors[0].hint,
        details={"items": rows},
    )
