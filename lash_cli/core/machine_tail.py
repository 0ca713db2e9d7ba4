"""The tail of a running turn: its own messages, their ids, its calls and what they returned (contract 01 §6.3).

Append-only. Ids the machine gives are `{turn_id}.m{n}` from 1, a function of
the order of messages only; `close` guards the invariant that no call is left
without a result when a turn ends.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from lash_cli.core.content import Message, are_answered, calls_and_results
from lash_cli.core.machine_rules import record_of, tool_results_message
from lash_cli.core.tools import ToolCallRecord, cancelled

_CANCEL_MESSAGE = "tool call cancelled"


def own_message_id(turn_id: str, number: int) -> str:
    """The id of a message a turn makes itself, counted from 1; what it is given has ids already."""
    return f"{turn_id}.m{number}"


def is_own_message_id(turn_id: str, message_id: str) -> bool:
    """Whether the turn itself made the message of that id."""
    return message_id.startswith(f"{turn_id}.m")


class TurnTail:
    """The `messages` of one turn so far, opening first.

    Raises `ValueError` if `opening` has a repeated or empty id or an open call.
    """

    def __init__(self, turn_id: str, opening: tuple[Message, ...]) -> None:
        self.messages = opening
        self._turn_id = turn_id
        self._ids = {message.id for message in opening}
        self._last_number = 0
        self._calls, self._answered = calls_and_results(opening)
        if len(self._ids) != len(opening) or "" in self._ids or not are_answered(self._calls, self._answered):
            raise ValueError("the opening of a turn needs unique non-empty message ids and no open tool call")

    @classmethod
    def restored(cls, turn_id: str, messages: tuple[Message, ...], next_number: int) -> TurnTail:
        """A tail that stood at `messages`, calls without a result included, and goes on counting from `next_number`.

        Raises `ValueError` for a repeated or empty id.
        """
        tail = cls(turn_id, ())
        tail.messages = messages
        tail._ids = {message.id for message in messages}
        tail._calls, tail._answered = calls_and_results(messages)
        tail._last_number = next_number - 1
        if len(tail._ids) != len(messages) or "" in tail._ids:
            raise ValueError("the messages of a turn need unique non-empty ids")
        return tail

    @property
    def next_number(self) -> int:
        """What the next message id of the turn's own counts from."""
        return self._last_number + 1

    @property
    def call_ids(self) -> set[str]:
        """The ids of all calls."""
        return {call.tool_call_id for call in self._calls}

    def append(self, messages: Sequence[Message]) -> None:
        """Add messages; one without an id gets the turn's next one that is not taken."""
        calls, answered = calls_and_results(messages)
        self._calls += calls
        self._answered += answered
        for message in messages:
            if not message.id:
                message = msgspec.structs.replace(message, id=self._new_id())
            self._ids.add(message.id)
            self.messages += (message,)

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
        calls, answered = calls_and_results(messages)
        return are_answered(self._calls + calls, self._answered + answered)

    def close(self, reason: str) -> tuple[ToolCallRecord, ...]:
        """Answer every open call as cancelled, in one message; returns their records."""
        if not self._calls:
            return ()
        answered = set(self._answered)
        open_calls = [call for call in self._calls if call.tool_call_id not in answered]
        if not open_calls:
            return ()
        text = f"{_CANCEL_MESSAGE}: {reason}" if reason else _CANCEL_MESSAGE
        records = tuple(record_of(call, cancelled(text)) for call in open_calls)
        self.append((tool_results_message(records),))
        return records
