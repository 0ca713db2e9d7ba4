"""The ids that the calls of a conversation have, however it grows."""

from __future__ import annotations

import pytest

from lash_cli.core.content import Message, ProsePart, Role, ToolCallPart, ToolResultPart
from lash_cli.runtime import earlier_calls
from lash_cli.runtime.earlier_calls import CallIds


def called(call_id: str) -> Message:
    return Message(f"m-{call_id}", Role.ASSISTANT, (ProsePart("look"), ToolCallPart(call_id, "look", "{}")))


def answered(call_id: str) -> Message:
    return Message(f"r-{call_id}", Role.USER, (ToolResultPart(call_id, "look", "seen"),))


def test_what_was_looked_at_is_not_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    look = earlier_calls.calls_and_results

    def counting(messages: list[Message]) -> tuple[list[ToolCallPart], list[str]]:
        looked.append(len(messages))
        return look(messages)

    monkeypatch.setattr(earlier_calls, "calls_and_results", counting)
    seen, messages = CallIds(), [called("a"), answered("a")]
    assert seen.of(messages) == {"a"}
    messages += [called("b"), answered("b"), called("c")]
    assert seen.of(messages) == {"a", "b", "c"}
    assert seen.of(messages) == {"a", "b", "c"}
    assert looked == [2, 3, 0]


def test_another_list_is_another_conversation() -> None:
    seen, messages = CallIds(), [called("a"), called("b")]
    assert seen.of(messages) == {"a", "b"}
    assert seen.of(messages[:1]) == {"a"}
    assert seen.of([]) == set()
    assert seen.of([called("c")]) == {"c"}
