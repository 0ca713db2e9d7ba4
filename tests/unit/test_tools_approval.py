"""Approval modes and what a refusal says (issue 2, part 7)."""

from __future__ import annotations

import asyncio

import pytest

from lash_cli.core.tools import ApprovalClass, ToolCall, ToolManifest
from lash_cli.tools.approval import ApprovalMode, StandardApproval


def manifest(approval: ApprovalClass, name: str = "tool") -> ToolManifest:
    return ToolManifest(f"t.{name}", name, "", approval=approval)


CALL = ToolCall("c", "t.tool", "tool", {})


class Person:
    """Answers from a list and remembers what was asked."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, asked: ToolManifest, call: ToolCall) -> str:
        self.asked.append(asked.name)
        await asyncio.sleep(0)
        return self.answers.pop(0)


async def test_by_default_only_reading_is_allowed_unasked() -> None:
    approval = StandardApproval()
    assert await approval.decide(manifest("read"), CALL) is None
    for refused in ("write", "execute", "network"):
        assert await approval.decide(manifest(refused), CALL) is not None  # type: ignore[arg-type]


async def test_a_refusal_without_anyone_to_ask_names_both_ways_to_allow() -> None:
    reason = await StandardApproval().decide(manifest("execute"), CALL)
    assert reason is not None
    assert "--approve execute=auto" in reason
    assert '[approval] execute = "auto"' in reason


async def test_auto_allows_and_never_refuses_without_asking() -> None:
    person = Person()
    approval = StandardApproval({"write": ApprovalMode.AUTO, "read": ApprovalMode.NEVER}, person)
    assert await approval.decide(manifest("write"), CALL) is None
    assert "switched off" in (await approval.decide(manifest("read"), CALL) or "")
    assert person.asked == []


async def test_once_is_asked_again_and_always_is_remembered_per_tool() -> None:
    person = Person("once", "always", "no")
    approval = StandardApproval(asker=person)
    for _ in range(4):
        assert await approval.decide(manifest("write"), CALL) is None
    assert await approval.decide(manifest("write", "other"), CALL) is not None
    assert person.asked == ["tool", "tool", "other"]


@pytest.mark.parametrize(
    ("answer", "part"), [("no", "refused"), ("", "refused"), ("use git instead", "use git instead")]
)
async def test_a_refusal_carries_the_reason_given(answer: str, part: str) -> None:
    refusal = await StandardApproval(asker=Person(answer)).decide(manifest("write"), CALL) or ""
    assert part in refusal and not refusal.endswith(": ")


async def test_an_always_answers_the_calls_of_the_same_batch() -> None:
    person = Person("always")
    approval = StandardApproval(asker=person)
    assert await asyncio.gather(*(approval.decide(manifest("write"), CALL) for _ in range(5))) == [None] * 5
    assert person.asked == ["tool"]
