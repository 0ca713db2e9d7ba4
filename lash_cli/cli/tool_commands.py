"""`lash tool ls`, `on` and `off`: which tools a session may call (contract 08 §5.4, 05 §2.4).

A switched-off tool stays known and is not offered to the model. A change is
committed before it is told; while a turn runs, or waits to be finished after
it was cut off, it is refused.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Annotated

import typer

from lash_cli.cli.arguments import OneSession, SessionArgument
from lash_cli.cli.documents import Document, tool_document
from lash_cli.cli.output import emit_many
from lash_cli.cli.reading import run_async
from lash_cli.cli.running import opened_at
from lash_cli.core.nearest import did_you_mean
from lash_cli.core.policy import SessionSpec
from lash_cli.core.tools import ToolStateEntry
from lash_cli.errors import NotFoundError
from lash_cli.views.safe_text import preview

if TYPE_CHECKING:
    from lash_cli.api import LashSession

_COLUMNS = ("name", "state", "approval", "description")
_DESCRIPTION_CHARS = 80


def list_tools(
    session: SessionArgument = None,
) -> int:
    """List the tools of a session, those that are switched off too.

    gone: what offered it is not there any more.
    """
    return _print(run_async(_tools(session, (), None)))


def on(
    session: OneSession,
    names: Annotated[list[str], typer.Argument(metavar="TOOL...", help="Names, as lash tool ls shows them.")],
) -> int:
    """Let a session call these tools from its next turn on: all of them, or none if one is unknown."""
    return _print(run_async(_tools(session, names, True)))


def off(
    session: OneSession,
    names: Annotated[list[str], typer.Argument(metavar="TOOL...", help="Names, as lash tool ls shows them.")],
) -> int:
    """Offer these tools to the model no more: all of them stay if one is unknown."""
    return _print(run_async(_tools(session, names, False)))


async def _tools(reference: str | None, names: Collection[str], present: bool | None) -> list[Document]:
    """The tools of `names`, or all of them, after they were switched; None only looks."""
    async with opened_at(reference, "tool") as (core, meta):
        stored = SessionSpec(inherit="stored")
        async with await core.open_session(meta.session_id, spec=stored, create=False) as session:
            _require_known(session, names)
            if present is not None:
                await session.tools().set_membership_many([(name, present) for name in names])
            return [_document(entry) for entry in _entries(session) if not names or entry.manifest.name in names]


def _entries(session: LashSession) -> list[ToolStateEntry]:
    return sorted(session.tools().state().tools.values(), key=lambda entry: entry.manifest.name)


def _require_known(session: LashSession, names: Collection[str]) -> None:
    known = [entry.manifest.name for entry in _entries(session)]
    for name in names:
        if name not in known:
            hint, nearest = did_you_mean(name, known, f"there are: {', '.join(known)}")
            raise NotFoundError(
                f"session {session.session_id} has no tool {name!r}",
                code="tool_unknown",
                hint=hint,
                details={"session": session.session_id, "tool": name, "nearest": nearest},
            )


def _document(entry: ToolStateEntry) -> Document:
    state = "gone" if entry.orphaned else "on" if entry.member else "off"
    return {**tool_document(entry.manifest), "state": state}


def _print(rows: list[Document]) -> int:
    emit_many("ToolList", rows, columns=_COLUMNS, id_field="name", cells=_cells)
    return 0


def _cells(row: Document) -> list[str]:
    return [row["name"], row["state"], row["approval"], preview(row["description"], _DESCRIPTION_CHARS)]
