"""`lash tree`: every message of a session, the branches it left included (contract 08 §5.1).

JSON has all of them, flat and in order; people see long stretches folded. What
leads to no root is shown apart from the rest: nobody can go on from there.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lash_cli.cli.arguments import SessionArgument
from lash_cli.cli.cut_off import warn_of_cut_off
from lash_cli.cli.documents import Document, frame_document
from lash_cli.cli.invocation import current
from lash_cli.cli.output import emit_one, safe
from lash_cli.cli.reading import named_session, reading_store, run_inline
from lash_cli.core.content import Message, ToolCallPart, ToolResultPart, message_text
from lash_cli.core.history import TreeEntry, message_tree
from lash_cli.store.base import ReadScope
from lash_cli.views.safe_text import preview
from lash_cli.views.times import rfc3339

PREVIEW_CHARS = 200


def command(
    session: SessionArgument = None,
    depth: Annotated[int | None, typer.Option(min=0, metavar="N", help="Follow so many levels of branches.")] = None,
) -> int:
    """Show the message tree of a session, with its head marked.

    A message stands below the one it follows; where history went more than one
    way, each branch is indented. The head is where the next turn goes on. Long
    stretches are folded; -v shows every message.
    """
    document = run_inline(lambda: _read(session, depth))
    text: Any = None
    if not current().output.is_machine:
        text = _shown(document)
    names = "\n".join(item["id"] for item in document["items"])
    warn_of_cut_off(document["session_name"], len(document["cut_off"]), "they are shown apart")
    emit_one("Tree", document, text=text, name=names, is_paged=True)
    return 0


def _shown(document: Document) -> Any:
    from lash_cli.views.tree import tree_picture, tree_text

    invocation = current()
    is_whole = invocation.options.verbose > 0
    if invocation.output.plain or invocation.output.ascii:
        return tree_text(document, clean=safe, is_whole=is_whole)
    return tree_picture(document, clean=safe, is_whole=is_whole)


async def _read(reference: str | None, depth: int | None) -> Document:
    async with named_session(reading_store(), reference) as (store, row):
        read = await store.load_session(row.meta.session_id, ReadScope.FULL_GRAPH)
    entries = () if read is None else message_tree(read.nodes, read.leaf_node_id, read.cut_off)
    rooted = [entry for entry in entries if not entry.is_cut_off]
    shown = [entry for entry in rooted if depth is None or entry.branch <= depth]
    return {
        "session": row.meta.session_id,
        "session_name": row.meta.name,
        "head_revision": row.head_revision,
        "head_node": row.leaf_node_id,
        "frames": [frame_document(frame) for frame in read.frames] if read is not None else [],
        "hidden": len(rooted) - len(shown),
        "items": [_item(entry) for entry in shown],
        "cut_off": [_item(entry) for entry in entries if entry.is_cut_off],
    }


def _item(entry: TreeEntry) -> Document:
    return {
        "id": entry.node_id,
        "parent": entry.parent_node_id,
        "frame": entry.agent_frame_id,
        "role": entry.message.role.value,
        "at": rfc3339(entry.at_ms),
        "preview": preview(_line(entry.message), PREVIEW_CHARS),
        "branch": entry.branch,
        "children": entry.children,
        "active": entry.is_active,
        "head": entry.is_head,
    }


def _line(message: Message) -> str:
    """What a message says in one line: its text, or which tools it is about."""
    text = message_text(message).strip()
    calls = [f"[call {part.tool_name}]" for part in message.parts if isinstance(part, ToolCallPart)]
    results = [f"[result {part.tool_name} {part.status}]" for part in message.parts if isinstance(part, ToolResultPart)]
    return " ".join([*([text] if text else []), *calls, *results]) or f"[{len(message.parts)} parts]"
