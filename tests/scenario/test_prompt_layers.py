"""Prompt layers of core, session and turn, as the model sees them (contract 06 §12)."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from support.driving import Crash, CrashPoints
from support.frozen import cut_lease
from support.scripted import ScriptedCaller, text

from lash_cli.api import (
    FunctionToolProvider,
    PromptContribution,
    PromptLayer,
    SessionConfigPatch,
    SessionSpec,
    tool,
)
from lash_cli.core.prompt import PromptBuiltins

CORE = PromptLayer().prompt_contribution(PromptContribution("intro", "core"))
SESSION = PromptLayer().prompt_contribution(PromptContribution("guidance", "session"))
WHOLE = "core\n\n## Guidance\n\nsession"


async def test_layers_stack_and_the_turns_own_is_for_one_turn(make_core) -> None:
    caller = ScriptedCaller([text("1"), text("2"), text("3")])
    async with await make_core(caller, prompt=CORE).open_session("s1", spec=SessionSpec(prompt=SESSION)) as session:
        await session.turn("a").run()
        await session.turn("b").replace_prompt_slot("intro", PromptContribution("intro", "turn")).run()
        await session.turn("c").run()
    assert [request.system for request in caller.requests] == [WHOLE, "turn\n\n## Guidance\n\nsession", WHOLE]


async def test_a_turn_that_was_cut_off_is_finished_under_its_own_prompt(make_core, tmp_path: Path) -> None:
    builtins = PromptBuiltins(main_agent_intro="old release")
    with pytest.raises(Crash):
        core = make_core(
            ScriptedCaller([text("1")]),
            crash_point=CrashPoints("after:lane"),
            builtins=builtins,
        )
        session = await core.open_session("s1")
        await session.turn("a").prompt_contribution(PromptContribution("guidance", "just now")).run()
    cut_lease(tmp_path / "home" / "lash.db", "s1", left_ms=0)
    caller = ScriptedCaller([text("1"), text("2")])
    core = make_core(caller, builtins=PromptBuiltins(main_agent_intro="new release"))
    async with await core.open_session("s1", spec=SessionSpec(inherit="stored")) as session:
        await session.redrive(busy_wait_ms=120_000).run()
        await session.turn("b").run()
    assert [request.system for request in caller.requests] == [
        "old release\n\n## Guidance\n\njust now",
        "new release",
    ]


async def test_the_core_layer_is_never_stored_and_a_reopened_session_keeps_its_own(make_core) -> None:
    caller = ScriptedCaller([text("1")])
    async with await make_core(caller, prompt=CORE).open_session("s1", spec=SessionSpec(prompt=SESSION)) as session:
        await session.turn("a").run()
    later = ScriptedCaller([text("2"), text("3")])
    async with await make_core(later).open_session("s1") as session:
        await session.turn("b").run()
        await session.configure(SessionConfigPatch(prompt=PromptLayer()))
        await session.turn("c").run()
    assert [request.system for request in later.requests] == ["## Guidance\n\nsession", ""]
    again = ScriptedCaller([text("4")])
    async with await make_core(again, prompt=CORE).open_session("s1") as session:
        await session.turn("d").run()
    assert again.requests[0].system == "core"


class Question(msgspec.Struct):
    """A question."""

    text: str


@tool(name="ask")
async def ask(args: Question, context: object) -> str:
    """Ask the user."""
    return "yes"


async def test_the_model_is_told_to_ask_while_it_has_the_tool_for_it(make_core) -> None:
    caller = ScriptedCaller([text("1"), text("2")])
    builtins = PromptBuiltins(core_guidance="Care.", ask_guidance="Ask.")
    core = make_core(caller, builtins=builtins, tools=[FunctionToolProvider([ask])])
    async with await core.open_session("s1") as session:
        await session.turn("a").run()
        await session.tools().set_membership("ask", False)
        await session.turn("b").run()
    assert [request.system for request in caller.requests] == ["## Guidance\n\nCare.\nAsk.", "## Guidance\n\nCare."]
