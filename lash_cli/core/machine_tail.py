"""The tail of a running turn: its own messages, their ids, its calls and what they returned (contract 01 §6.3).

Append-only. Ids the machine gives are `{turn_id}.m{n}` from 1, a function of
the order of messages only; `close` guards the invariant that no call is left
without a result when a turn ends.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from lash_cli.core.content import Message, is_safe_to_resume, tool_calls_of
from lash_cli.core.machine_rules import record_of, tool_results_message, unanswered_calls
from lash_cli.core.tools import ToolCallRecord, cancelled

_CANCEL_MESSAGE = "tool call cancelled"


def own_message_id(turn_id: str, number: int) -> str:
    """The id of a message a turn makes itself, counted from 1; what it is given has ids already."""
    return f"{turn_id}.m{number}"


class TurnTail:
    """The messages of one turn so far; `ValueError` if `opening` has a repeated or empty id or an open call."""

    def __init__(self, turn_id: str, opening: tuple[Message, ...]) -> None:
        self._turn_id = turn_id
        self._messages = list(opening)
        self._ids = {message.id for message in opening}
        self._last_number = 0
        self.call_ids = {call.tool_call_id for message in opening for call in tool_calls_of(message)}
        if len(self._ids) != len(opening) or "" in self._ids or not is_safe_to_resume(opening):
            raise ValueError("the opening of a turn needs unique non-empty message ids and no open tool call")

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def messages(self) -> tuple[Message, ...]:
        """All messages, opening first."""
        return tuple(self._messages)

    def append(self, messages: Sequence[Message]) -> None:
        """Add messages; one without an id gets the turn's next one that is not taken."""
        for message in messages:
            if not message.id:
                message = msgspec.structs.replace(message, id=self._new_id())
            self._ids.add(message.id)
            self.call_ids.update(call.tool_call_id for call in tool_calls_of(message))
            self._messages.append(message)

    def _new_id(self) -> str:
        while True:
            self._last_number += 1
            message_id = own_message_id(self._turn_id, self._last_number)
            if message_id not in self._ids:
                return message_id

    def undelivered(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """The messages that are new to this turn, each id once, in order."""
        seen = set(self._ids)
        fresh: list[Message] = []
        for message in messages:
            if not message.id or message.id not in seen:
                seen.add(message.id)
                fresh.append(message)
        return tuple(fresh)

    def admits(self, messages: Sequence[Message]) -> bool:
        """Whether the tail stays safe to resume with `messages` added."""
        return is_safe_to_resume([*self._messages, *messages])

    def close(self, reason: str) -> tuple[ToolCallRecord, ...]:
        """Answer every open call as cancelled, in one message; returns their records."""
        open_calls = unanswered_calls(self._messages)
        if not open_calls:
            return ()
        text = f"{_CANCEL_MESSAGE}: {reason}" if reason else _CANCEL_MESSAGE
        records = tuple(record_of(call, cancelled(text)) for call in open_calls)
        self.append((tool_results_message(records),))
        return records
