"""What a turn's requests show of the committed messages (contract 05 §4.6).

Worked out once, when a turn begins to be driven, from the head and the plugins
alone: a re-drive shows the same, and the digest of a view is part of what
identifies a request. Without a view the committed list itself is shown, so
that nothing is copied and its encoding stays cached (design D21).
"""

from __future__ import annotations

import msgspec

from lash_cli.core.codec import canonical_hash
from lash_cli.core.context import ContextMoment, is_compaction_due, prepared
from lash_cli.core.llm import MessageSequence
from lash_cli.core.policy import SessionPolicy
from lash_cli.runtime.host import RuntimeHost
from lash_cli.runtime.session import ResidentSession

_DIGEST_CHARS = 32


class ShownConversation(msgspec.Struct, frozen=True):
    """The messages before the turn's own, and what names them in the envelope of a call: the frame, the leaf and how
    many they are, and for a view what tells it from the committed ones."""

    messages: MessageSequence
    base: str


def moment_of(session: ResidentSession, policy: SessionPolicy) -> ContextMoment:
    """How full the context of a session is for a turn under `policy`."""
    return ContextMoment(policy.model.limits, session.turn_state.last_prompt_usage)


def is_room_due(host: RuntimeHost, session: ResidentSession) -> bool:
    """Whether a plugin says that the session must be compacted before its next turn."""
    if not session.messages:
        return False
    return is_compaction_due(host.context, moment_of(session, session.policy))


def shown_conversation(host: RuntimeHost, session: ResidentSession, policy: SessionPolicy) -> ShownConversation:
    """What the context plugins make of the current frame for a turn under `policy`."""
    whole = session.conversation()
    moment = moment_of(session, policy)
    base = f"{session.frame_id}:{session.leaf_node_id or ''}:{whole.length}"
    shown = prepared(host.context, whole, moment)
    if shown is whole:
        return ShownConversation(whole, base)
    changed = [
        (index, canonical_hash(message))
        for index, (message, committed) in enumerate(zip(shown, whole, strict=True))
        if message is not committed
    ]
    if not changed:
        return ShownConversation(whole, base)
    digest = canonical_hash(changed)[:_DIGEST_CHARS]
    return ShownConversation(MessageSequence(list(shown), len(shown)), f"{base}:view={digest}")
