"""The text of an answer, which a turn's stamp and its live event leave to the node that holds it (contract 01 §9)."""

from __future__ import annotations

import sqlite3
from typing import Final

from lash_cli.core.codec import decode_any
from lash_cli.core.commit import TurnSummary
from lash_cli.core.content import message_text
from lash_cli.core.graph import ConversationPayload, NodePayload
from lash_cli.core.outcome import AssistantMessage, Finished, TurnOutcome

_ANSWER = "SELECT body FROM nodes WHERE session_key = ? AND node_id = ? AND tombstoned = 0"
_SUMMARY = "SELECT summary, started_at_ms FROM turns WHERE session_key = ? AND turn_id = ? AND state = 'committed'"
# How almost every turn ends: with a message whose text stands in its node.
LEFT_TO_ITS_NODE: Final = Finished(AssistantMessage(""))


def whole_outcome(connection: sqlite3.Connection, session_key: int, summary: TurnSummary) -> TurnOutcome:
    """How a turn ended, with the text of its answer; without it when its node is not shown any more."""
    outcome = summary.outcome
    if summary.answer_node_id is not None and isinstance(outcome, Finished):
        row = connection.execute(_ANSWER, (session_key, summary.answer_node_id)).fetchone()
        payload = None if row is None else decode_any(row[0], NodePayload)
        if isinstance(payload, ConversationPayload):
            return Finished(AssistantMessage(message_text(payload.message)))
    return outcome


def outcome_of(connection: sqlite3.Connection, session_key: int, turn_id: str, told: TurnOutcome) -> TurnOutcome:
    """`told`, with the text that the stamp of its turn names where `told` leaves the answer to its node."""
    if told != LEFT_TO_ITS_NODE:
        return told
    from lash_cli.store.sqlite.stamps import decode_summary  # who is told of no ending needs no records (design D16)

    row = connection.execute(_SUMMARY, (session_key, turn_id)).fetchone()
    return told if row is None else whole_outcome(connection, session_key, decode_summary(*row))
