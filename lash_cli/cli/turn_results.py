"""The result of a turn that somebody else ran, read from its row (contract 01 §7)."""

from __future__ import annotations

from lash_cli.core.content import Message
from lash_cli.core.graph import ConversationPayload
from lash_cli.core.outcome import TurnResult
from lash_cli.runtime.results import replayed_outcome, result_of
from lash_cli.store.base import RuntimePersistence


async def stored_result(store: RuntimePersistence, session_id: str, turn_id: str) -> TurnResult | None:
    """The result of a committed turn, with its answer; None for one that is unknown or not committed."""
    turn = await store.turn(session_id, turn_id)
    if turn is None or turn.summary is None:
        return None
    answer: Message | None = None
    if turn.summary.answer_node_id is not None:
        node = await store.load_node(session_id, turn.summary.answer_node_id)
        if node is not None and isinstance(node.payload, ConversationPayload):
            answer = node.payload.message
    outcome = replayed_outcome(turn.summary, answer)
    return result_of(session_id, turn_id, outcome, turn.summary, None, turn.head_revision)
