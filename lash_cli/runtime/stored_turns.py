"""Turns that ended before, whoever ran them: outcome and result, read from their rows (contract 01 §7).

The stamp of a turn leaves the text of its answer to the node that holds it;
here both are put together again.
"""

from __future__ import annotations

from typing import Final

import msgspec

from lash_cli.core.commit import TurnSummary
from lash_cli.core.content import Message
from lash_cli.core.delivery import frame_task_of
from lash_cli.core.graph import ConversationPayload, message_of
from lash_cli.core.outcome import (
    ANSWER_NOT_KEPT,
    AgentFrameSwitch,
    AssistantMessage,
    FinalValue,
    Finished,
    TurnIssue,
    TurnOutcome,
    TurnResult,
)
from lash_cli.core.queued_work import BatchState, followed_turn_id, frame_task_key
from lash_cli.core.tools import ToolCallRecord
from lash_cli.runtime.frames import FrameChain, handed_on_name
from lash_cli.runtime.results import replayed_outcome, result_of
from lash_cli.store.base import RuntimePersistence, TurnRecord

_ANSWER_NOT_KEPT: Final = TurnIssue(
    "runtime",
    "the answer of this turn is not in the session any more",
    code=ANSWER_NOT_KEPT,
    retryable=False,
    blocking=False,
)
_CALLS_NOT_KEPT: Final = TurnIssue(
    "runtime",
    "tool calls of this turn are not in the session any more",
    code="tool_calls_not_kept",
    retryable=False,
    blocking=False,
)


async def stored_outcome(store: RuntimePersistence, session_id: str, summary: TurnSummary) -> TurnOutcome:
    """How a committed turn ended, with the text of its answer; without it when its node is not shown any more."""
    return replayed_outcome(summary, await _answer(store, session_id, summary))


async def _answer(store: RuntimePersistence, session_id: str, summary: TurnSummary) -> Message | None:
    node = None if summary.answer_node_id is None else await store.load_node(session_id, summary.answer_node_id)
    return None if node is None else message_of(node)


async def stored_result(store: RuntimePersistence, session_id: str, turn_id: str) -> TurnResult | None:
    """The result of a committed turn; None for one that is unknown or not committed.

    It is that of the turn when it ended, as far as the store has it: how whole its tool calls are says `stored_calls`.
    An answer and calls whose nodes are not shown any more are missing in it, and issues say so.
    """
    turn = await store.turn(session_id, turn_id)
    if turn is None or turn.summary is None:
        return None
    summary = turn.summary
    answer = await _answer(store, session_id, summary)
    outcome = replayed_outcome(summary, answer)
    messages = await _messages(store, turn) if summary.tool_call_count or not _tells_its_answer(outcome) else ()
    calls: tuple[ToolCallRecord, ...] = ()
    if summary.tool_call_count:
        from lash_cli.runtime.stored_calls import stored_calls  # many a turn makes none

        calls = await stored_calls(store, session_id, turn_id, messages)
    result = result_of(session_id, turn_id, outcome, summary, None, turn.head_revision, messages, calls)
    missing: list[TurnIssue] = []
    if summary.answer_node_id is not None and answer is None:
        missing.append(_ANSWER_NOT_KEPT)
    if len(calls) < summary.tool_call_count:
        missing.append(_CALLS_NOT_KEPT)
    return msgspec.structs.replace(result, errors=(*result.errors, *missing)) if missing else result


async def stored_results(store: RuntimePersistence, session_id: str, turn_id: str) -> tuple[TurnResult, ...]:
    """The results of a committed turn and of those it handed on to in other agent frames, as far as they are
    committed, in order; empty for one that is unknown or not committed. The turn may be one in the middle of a
    chain."""
    results: list[TurnResult] = []
    chain = FrameChain(turn_id)
    following = await stored_result(store, session_id, turn_id)
    while following is not None:
        results.append(following)
        if not isinstance(following.outcome, AgentFrameSwitch):
            break
        following = await stored_result(store, session_id, chain.next_turn_id)
        if following is None and len(results) == 1 and (followed := followed_turn_id(turn_id)) is not None:
            chain = FrameChain(*followed)
            following = await stored_result(store, session_id, chain.next_turn_id)
        chain = FrameChain(chain.root_turn_id, chain.switches + 1)
    return tuple(results)


async def ended_results(store: RuntimePersistence, session_id: str, turn_id: str) -> tuple[TurnResult, ...] | None:
    """`stored_results` of a turn whose request is over; None while it goes on, or is about to, in another frame.

    It is over as well where nobody goes on: when the task was cancelled or is dead, or the queue is held.
    """
    results = await stored_results(store, session_id, turn_id)
    while results and isinstance(results[-1].outcome, AgentFrameSwitch):
        handoff = await open_handoff(store, session_id, results[-1])
        if handoff is not None:
            return None if await _is_followed(store, session_id, *handoff) else results
        # Somebody may have gone on with it meanwhile.
        later = await stored_results(store, session_id, turn_id)
        if len(later) == len(results):
            break
        results = later
    return results


async def _is_followed(store: RuntimePersistence, session_id: str, turn_id: str, batch_id: str) -> bool:
    """Whether a turn that was handed on to runs, or will without anybody's decision."""
    if await store.turn(session_id, turn_id) is not None:
        return True
    row, batch = await store.session_row(session_id), await store.queued_work_batch(session_id, batch_id)
    is_held = row is not None and row.meta.held_at_ms is not None
    return not is_held and batch is not None and batch.state is not BatchState.DEAD


async def open_handoff(store: RuntimePersistence, session_id: str, result: TurnResult) -> tuple[str, str] | None:
    """Where a turn handed on and the next one did not end yet: the id of that one, and the batch it starts from. None
    when it ended, or its task was cancelled."""
    if not isinstance(result.outcome, AgentFrameSwitch):
        return None
    key = frame_task_key(result.turn_id)
    for batch in await store.queued_work(session_id, pending_only=False):
        task = frame_task_of((batch,)) if batch.source_key == key else None
        if task is not None and task.turn_id is not None:
            return task.turn_id, batch.batch_id
    return None


def _tells_its_answer(outcome: TurnOutcome) -> bool:
    """Whether the answer of a turn stands in its outcome; else it is what it said last."""
    return isinstance(outcome, Finished) and isinstance(outcome.finish, AssistantMessage | FinalValue)


async def _messages(store: RuntimePersistence, turn: TurnRecord) -> tuple[Message, ...]:
    """The messages of a turn, without those it handed on to another frame; only the last ones where a node between
    them is not shown any more."""
    messages: list[Message] = []
    handed_on = handed_on_name(turn.turn_id)
    node_id = turn.last_node_id
    while node_id is not None:
        node = await store.load_node(turn.session_id, node_id)
        if node is None:
            break
        if isinstance(node.payload, ConversationPayload) and not node_id.startswith(handed_on):
            messages.append(node.payload.message)
        node_id = None if node_id == turn.first_node_id else node.parent_node_id
    return tuple(reversed(messages))
