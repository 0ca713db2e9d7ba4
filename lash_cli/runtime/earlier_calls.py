"""Which ids the calls of a conversation have (contract 06 §9: some wires refuse a conversation with one twice)."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from lash_cli.core.content import Message, calls_and_results


class CallIds:
    """The ids of the calls in a list of messages. The list only grows at its end, and what was looked at is not looked
    at again: what a turn pays does not grow with the conversation."""

    __slots__ = ("_ids", "_looked_at", "_messages")

    def __init__(self) -> None:
        self._messages: list[Message] | None = None
        self._looked_at = 0
        self._ids: set[str] = set()

    def of(self, messages: list[Message]) -> AbstractSet[str]:
        """The ids in `messages`; a view that the next question may extend."""
        if messages is not self._messages:
            self._messages, self._looked_at, self._ids = messages, 0, set()
        calls, _ = calls_and_results(messages[self._looked_at :])
        self._ids.update([call.tool_call_id for call in calls])
        self._looked_at = len(messages)
        return self._ids
