"""A turn costs the same however long the conversation is (design §5): its lines are counted, nothing is timed."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from support.doubling import doubling
from support.driving import S
from support.scripted import ScriptedCaller, calls, text

import lash_cli
from lash_cli import AppendSessionNodesRequest, LashCore, LashSession, Message, SessionAppendNode
from lash_cli.core.content import ProsePart, Role, TextPart, ToolCallPart, ToolResultPart
from lash_cli.core.graph import ConversationPayload

MakeCore = Callable[..., LashCore]
OURS = str(Path(lash_cli.__file__).parent)
SHORT, LONG = 8, 400
# Half of what one line for each message would be. Turns differ by a timer that is due, a lock that is waited for, a row
# of the ring that goes.
SLACK = 800


class Lines:
    """Counts the lines of lash that run, on every thread that is started meanwhile too; a loop's at each pass."""

    def __init__(self) -> None:
        self.count = 0

    def enter(self, frame: FrameType, event: str, argument: Any) -> Callable[..., Any] | None:
        return self.step if frame.f_code.co_filename.startswith(OURS) else None

    def step(self, frame: FrameType, event: str, argument: Any) -> Callable[..., Any]:
        self.count += event == "line"
        return self.step


@pytest.fixture
def lines() -> Iterator[Lines]:
    before, before_in_threads = sys.gettrace(), threading.gettrace()
    counted = Lines()
    sys.settrace(counted.enter)
    threading.settrace(counted.enter)
    try:
        yield counted
    finally:
        sys.settrace(before)
        threading.settrace(before_in_threads)  # type: ignore[arg-type]


def round_of(number: int) -> list[SessionAppendNode]:
    """A question, a call, what it found and an answer."""
    call = ToolCallPart(f"call-{number}", "look", "{}")
    said = (
        Message(f"q{number}", Role.USER, (TextPart("what is there?"),)),
        Message(f"c{number}", Role.ASSISTANT, (call,)),
        Message(f"r{number}", Role.USER, (ToolResultPart(f"call-{number}", "look", "seen"),)),
        Message(f"a{number}", Role.ASSISTANT, (ProsePart("something"),)),
    )
    return [SessionAppendNode(ConversationPayload(message)) for message in said]


async def grown(session: LashSession, first: int, rounds: int) -> None:
    nodes = [node for number in range(first, first + rounds) for node in round_of(number)]
    await session.admin().append_session_nodes(AppendSessionNodesRequest(tuple(nodes)))


async def lines_of_a_turn(session: LashSession, lines: Lines, *, of: int = 5) -> int:
    """The least of a few turns: what came in between is in the others."""
    least = []
    for _ in range(of):
        before = lines.count
        await session.turn("go on").run()
        least.append(lines.count - before)
    return min(least)


@pytest.mark.parametrize("calls_a_tool", [False, True], ids=["answer", "tool"])
async def test_a_turn_runs_as_many_lines_in_a_long_conversation_as_in_a_short_one(
    make_core: MakeCore, lines: Lines, *, calls_a_tool: bool
) -> None:
    asked = 0

    def answer(request: object) -> Any:
        nonlocal asked
        asked += 1
        return calls((f"new-{asked}", "double", '{"value": 1}')) if calls_a_tool and asked % 2 else text("fine")

    core = make_core(ScriptedCaller([answer], repeat=True), tools=[doubling()])
    async with await core.open_session(S) as session:
        await grown(session, 0, SHORT)
        short = await lines_of_a_turn(session, lines)
        await grown(session, SHORT, LONG)
        long = await lines_of_a_turn(session, lines)
    assert short > 500
    assert long <= short + SLACK, (short, long)
