"""Turns that ended before, whoever ran them: outcome and result, read from their rows (contract 01 §7).

The stamp of a turn leaves the text of its answer to the node that holds it;
here both are put together again.
"""

from __future__ import annotations

from lash_cli.core.commit import TurnSummary
from lash_cli.core.graph import ConversationPayload
from lash_cli.core.outcome import TurnOutcome, TurnResult
from lash_cli.runtime.results import replayed_outcome, result_of
from lash_cli.store.base import RuntimePersistence


async def stored_outcome(store: RuntimePersistence, session_id: str, summary: TurnSummary) -> TurnOutcome:
    """How a committed turn ended, with the text of its answer; without it when its node is not shown any more."""
    node = None if summary.answer_node_id is None else await store.load_node(session_id, summary.answer_node_id)
    payload = None if node is None else node.payload
    return replayed_outcome(summary, payload.message if isinstance(payload, ConversationPayload) else None)


async def stored_result(store: RuntimePersistence, session_id: str, turn_id: str) -> TurnResult | None:
    """The result of a committed turn; None for one that is unknown or not committed."""
    turn = await store.turn(session_id, turn_id)
    if turn is None or turn.summary is None:
        return None
    outcome = await stored_outcome(store, session_id, turn.summary)
    return result_of(session_id, turn_id, outcome, turn.summary, None, turn.head_revision)
