"""How the bytes of attachments get into a session's store and out again (contract 05 §1.5, 06 §7).

In: the bytes stand, synced, under the session's manifest before the input that
names them is acknowledged; an input that never follows leaves an intent that
ages away. Out: a stored attachment is read when its message is first written
for a wire, under the session that names it and no other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import msgspec

from lash_cli.core.attachments import AttachmentPolicy, has_bytes
from lash_cli.core.content import AttachmentItem, Inline, InputItem, Stored, TurnInput
from lash_cli.store.base import AttachmentStore


async def stored_input(
    store: AttachmentStore, session_id: str, turn_input: TurnInput, *, now_ms: int, policy: AttachmentPolicy
) -> TurnInput:
    """`turn_input` with references in place of bytes; itself when it carries none.

    Raises `UsageError` (`attachment_source_policy_denied`,
    `attachment_media_type_invalid`) and what the store raises.
    """
    if not has_bytes(turn_input):
        return turn_input
    items: list[InputItem] = []
    for item in turn_input.items:
        if isinstance(item, AttachmentItem) and isinstance(item.attachment, Inline):
            policy.check(item.attachment)
            item = AttachmentItem(await put_inline(store, session_id, item.attachment, turn_id=None, now_ms=now_ms))
        items.append(item)
    return msgspec.structs.replace(turn_input, items=tuple(items))


async def put_inline(
    store: AttachmentStore, session_id: str, source: Inline, *, turn_id: str | None, now_ms: int
) -> Stored:
    """Store the bytes of one attachment; `turn_id` is the running turn that makes it, None for what a user brings."""
    reference = await store.put_attachment(
        session_id,
        source.data,
        media_type=source.media_type,
        owner=None if turn_id is None else ("turn", turn_id),
        now_ms=now_ms,
        label=source.label,
    )
    return Stored(reference, source.media_type.lower(), len(source.data), source.label)


def reader_of(store: AttachmentStore, session_id: str) -> Callable[[Stored], Awaitable[bytes]]:
    """Reads stored attachments of one session."""
    return partial(_read, store, session_id)


async def _read(store: AttachmentStore, session_id: str, source: Stored) -> bytes:
    return await store.get_attachment(session_id, source.attachment_ref)
