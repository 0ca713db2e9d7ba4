"""Turns that ended before, whoever ran them: outcome and result, read from their rows (contract 01 §7).

The stamp of a turn leaves the text of its answer to the node that holds it;
here both are put together again.
"""

from __future__ import annotations

from typing import Final

import msgspec

from lash_cli.core.commit import TurnSummary
from lash_cli.core.content import Message, is_user_input
from lash_cli.core.graph import ConversationPayload
from lash_cli.core.outcome import AgentFrameSwitch, Finished, TurnIssue, TurnOutcome, TurnResult
from lash_cli.runtime.frames import FrameChain
from lash_cli.runtime.results import replayed_outcome, result_of
from lash_cli.store.base import RuntimePersistence, TurnRecord

_NOT_KEPT: Final = TurnIssue(
    "runtime",
    "the answer of this turn is not in the session any more",
    code="answer_not_kept",
    retryable=False,
    blocking=False,
)


async def stored_outcome(store: RuntimePersistence, session_id: str, summary: TurnSummary) -> TurnOutcome:
    """How a committed turn ended, with the text of its answer; without it when its node is not shown any more."""
    return replayed_outcome(summary, await _answer(store, session_id, summary))


async def _answer(store: RuntimePersistence, session_id: str, summary: TurnSummary) -> Message | None:
    node = None if summary.answer_node_id is None else await store.load_node(session_id, summary.answer_node_id)
    payload = None if node is None else node.payload
    return payload.message if isinstance(payload, ConversationPayload) else None


async def stored_result(store: RuntimePersistence, session_id: str, turn_id: str) -> TurnResult | None:
    """The result of a committed turn; None for one that is unknown or not committed. An answer whose node is not shown
    any more is missing in it, and an issue says so."""
    turn = await store.turn(session_id, turn_id)
    if turn is None or turn.summary is None:
        return None
    answer = await _answer(store, session_id, turn.summary)
    outcome = replayed_outcome(turn.summary, answer)
    said = () if isinstance(outcome, Finished | AgentFrameSwitch) else await _said_last(store, turn)
    result = result_of(session_id, turn_id, outcome, turn.summary, None, turn.head_revision, said)
    if turn.summary.answer_node_id is None or answer is not None:
        return result
    return msgspec.structs.replace(result, errors=(*result.errors, _NOT_KEPT))


async def stored_results(store: RuntimePersistence, session_id: str, turn_id: str) -> tuple[TurnResult, ...]:
    """The results of a committed turn and of those it handed on to in other agent frames, as far as they are
    committed, in order; empty for one that is unknown or not committed."""
    results: list[TurnResult] = []
    chain = FrameChain(turn_id)
    following = await stored_result(store, session_id, turn_id)
    while following is not None:
        results.append(following)
        if not isinstance(following.outcome, AgentFrameSwitch):
            break
        following = await stored_result(store, session_id, chain.next_turn_id)
        chain = FrameChain(turn_id, chain.switches + 1)
    return tuple(results)


async def _said_last(store: RuntimePersistence, turn: TurnRecord) -> tuple[Message, ...]:
    """The messages of a turn behind the last words it was given, that one first: where the text of one that stopped
    short is looked for."""
    messages: list[Message] = []
    node_id = turn.last_node_id
    while node_id is not None:
        node = await store.load_node(turn.session_id, node_id)
        if node is None:
            break
        if isinstance(node.payload, ConversationPayload):
            messages.append(node.payload.message)
            if is_user_input(node.payload.message):
                break
        node_id = None if node_id == turn.first_node_id else node.parent_node_id
    return tuple(reversed(messages))
