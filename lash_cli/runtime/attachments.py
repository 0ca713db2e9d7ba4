"""How the bytes of attachments get into a session's store and out again (contract 05 §1.5, 06 §7).

In: the bytes stand, synced, under the session's manifest before the input that
names them is acknowledged; an input that never follows leaves an intent that
ages away. What is added from outside a turn is judged like what a turn brings.
Out: a stored attachment is read when its message is first written for a wire,
under the session that names it and no other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import msgspec

from lash_cli.core.attachments import AttachmentPolicy, has_bytes, require_media_type
from lash_cli.core.content import (
    AttachmentItem,
    AttachmentPart,
    AttachmentSource,
    Inline,
    InputItem,
    Message,
    Stored,
    TurnInput,
)
from lash_cli.core.graph import ConversationPayload, NodePayload, attached_to
from lash_cli.runtime.host import RuntimeHost
from lash_cli.runtime.session import ResidentSession
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


async def kept_messages(
    host: RuntimeHost, session: ResidentSession, messages: Sequence[Message]
) -> tuple[Message, ...]:
    """`messages` from outside a turn, with references in place of attachment bytes. What the current frame shows
    already is not judged again; the lane is held.

    Raises `UsageError` (`attachment_source_policy_denied`, `attachment_media_type_invalid`) and `NotFoundError`
    (`attachment_not_found`) for bytes that are not the session's: in the transcript they would stop every later turn.
    """
    shown: set[AttachmentSource] | None = None
    kept = []
    for message in messages:
        parts = message.parts
        for index, part in enumerate(parts):
            if not isinstance(part, AttachmentPart):
                continue
            if shown is None:
                shown = set(attached_to(session.messages))
            if part.attachment not in shown:
                host.attachments.check(part.attachment)
                source = await kept_source(
                    host.store, session.session_id, part.attachment, turn_id=None, now_ms=host.clock.now_ms()
                )
                parts = (*parts[:index], AttachmentPart(source), *parts[index + 1 :])
        kept.append(message if parts is message.parts else msgspec.structs.replace(message, parts=parts))
    return tuple(kept)


async def kept_payloads(
    host: RuntimeHost, session: ResidentSession, payloads: Sequence[NodePayload]
) -> tuple[NodePayload, ...]:
    """`payloads` whose messages are those that `kept_messages` makes of them; raises as it."""
    said = [payload.message for payload in payloads if isinstance(payload, ConversationPayload)]
    kept = iter(await kept_messages(host, session, said))
    return tuple(
        ConversationPayload(next(kept)) if isinstance(payload, ConversationPayload) else payload for payload in payloads
    )


async def kept_source(
    store: AttachmentStore | None, session_id: str, source: AttachmentSource, *, turn_id: str | None, now_ms: int
) -> AttachmentSource:
    """An attachment as it may be persisted; `turn_id` as in `put_inline`. Without a store the bytes stay in memory.

    Raises `UsageError` (`attachment_media_type_invalid`) and, for one that the session has not, `NotFoundError`.
    """
    if isinstance(source, Inline):
        if store is not None:
            return await put_inline(store, session_id, source, turn_id=turn_id, now_ms=now_ms)
        require_media_type(source.media_type)
    elif isinstance(source, Stored) and store is not None:
        await store.get_attachment(session_id, source.attachment_ref)
    return source


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
