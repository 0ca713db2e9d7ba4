"""Saying something anew beside what was said: the head goes back, a turn is run (contract 08 §5.1, §7.2).

The old message and everything below it stay as a branch, and the way back is
printed before the turn begins, so that nobody has to look for it afterwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lash_cli.cli.head_moves import undo_command
from lash_cli.cli.output import safe, say
from lash_cli.core.content import AttachmentItem, AttachmentPart, InputItem, Message, TextItem, TextPart, is_user_input
from lash_cli.core.graph import message_of
from lash_cli.core.policy import SessionSpec
from lash_cli.errors import ConflictError
from lash_cli.runtime.history import find_node
from lash_cli.store.base import ReadScope, RuntimePersistence

if TYPE_CHECKING:
    from lash_cli.api import LashCore

TURNS_LOOKED_AT = 20


def items_of(message: Message, text: str | None = None) -> tuple[InputItem, ...]:
    """The input that makes such a message; with `text` it says that and keeps the attachments."""
    items: list[InputItem] = [] if text is None else [TextItem(text)]
    for part in message.parts:
        if isinstance(part, AttachmentPart):
            items.append(AttachmentItem(part.attachment))
        elif isinstance(part, TextPart) and text is None:
            items.append(TextItem(part.content, part.label))
    return tuple(items)


async def last_said(store: RuntimePersistence, session_id: str) -> Message:
    """The message the last turn began with: the newest one, when the head stands right before it, as a retry that was
    cut off leaves it; else the last one on the active path.

    Raises `ConflictError` (`nothing_to_retry`) when no turn stands there, or one that no input began.
    """
    read = await store.load_session(session_id, ReadScope.CONVERSATION)
    messages = read.messages if read is not None else ()
    by_id = {message.id: message for message in messages}
    turns = await store.turns(session_id, limit=TURNS_LOOKED_AT)
    if turns and turns[0].first_node_id is not None and turns[0].first_node_id not in by_id:
        newest = await store.load_node(session_id, turns[0].first_node_id)
        stands_before = newest is not None and read is not None and newest.parent_node_id == read.leaf_node_id
        if newest is not None and stands_before and (said := message_of(newest)) is not None and is_user_input(said):
            return said
    for record in turns:
        first = by_id.get(record.first_node_id or "")
        if first is not None:
            break
    else:
        # A fork has no turns of its own yet, and a head moved far back leaves none of the newest on its path.
        first = next((message for message in reversed(messages) if is_user_input(message)), None)
    if first is None or not is_user_input(first):
        what = "nothing was said yet" if first is None else "the last turn was not begun by an input"
        raise ConflictError(
            f"there is no turn to retry in session {session_id}: {what}",
            code="nothing_to_retry",
            details={"session": session_id, "node": None if first is None else first.id},
        )
    return first


async def go_before(core: LashCore, session_id: str, node_id: str, spec: SessionSpec | None = None) -> None:
    """Move the head to where `node_id` was said, and tell the way back; `spec` is what the turn there changes.

    A provider that cannot be called leaves everything as it is. Raises as `LashCore.branch_before_node`.
    """
    row = await core.store.session_row(session_id)
    if row is not None:
        policy = (spec or SessionSpec(inherit="stored")).resolve_against(core.policy, row.config)
        core.host.providers.resolve(policy.provider_id)
    move = await core.branch_before_node(session_id, node_id)
    if move.is_moved:
        say(safe(f"the old branch is kept; back to it: {undo_command(move)}"))


async def user_message_at(store: RuntimePersistence, session_id: str, node_id: str) -> Message:
    """The user's message at a node; raises `NotFoundError` (`node_not_found`) and `ConflictError`
    (`node_not_editable`) for one that no person wrote."""
    message = message_of(await find_node(store, session_id, node_id))
    if message is None or not is_user_input(message):
        raise ConflictError(
            f"node {node_id} is not a message of yours",
            code="node_not_editable",
            hint=f"see which ones are: lash tree {session_id}",
            details={"session": session_id, "node": node_id},
        )
    return message
