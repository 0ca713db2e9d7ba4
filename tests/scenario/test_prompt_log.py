"""Who keeps a log of everything does not keep what is said to sessions, unless they say so (contract 08 §6.7)."""

from __future__ import annotations

import logging

import msgspec
import pytest
from support.scripted import ScriptedCaller, calls, text

from lash_cli.api import FunctionToolProvider, LashCore, ModelSpec, tool


class Nothing(msgspec.Struct):
    """No arguments."""


async def test_a_host_that_logs_everything_logs_no_text_unless_it_turns_that_on(
    make_core, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    holder: dict[str, LashCore] = {}

    @tool(name="work")
    async def work(args: Nothing, context) -> str:
        await holder["core"].inject_turn_input("s1", context.turn_id, f"{context.turn_id}-steer", "that\ntoo")
        return "worked"

    answers = [calls(("a", "work", "{}")), text("1"), calls(("a", "work", "{}")), text("2")]
    core = holder["core"] = make_core(ScriptedCaller(answers), tools=[FunctionToolProvider([work])])
    async with await core.open_session("s1") as session:
        await session.turn("secret", turn_id="t1").run()
        assert "secret" not in caplog.text and "too" not in caplog.text
        caplog.set_level(logging.INFO, "lash.prompts")
        await session.turn("no secret", turn_id="t2").run()
    told = [record.getMessage() for record in caplog.records if record.name == "lash.prompts"]
    assert told == ['turn t2 of session s1: "no secret"', 'turn t2 of session s1: "that\\ntoo"']


async def test_a_turn_without_a_session_is_told_the_same_way(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "lash.prompts")
    async with (
        LashCore(provider=ScriptedCaller([text("1")]), model=ModelSpec("m")) as core,
        await core.open_session("s1") as session,
    ):
        await session.turn("hello", turn_id="t1").run()
    assert [record.getMessage() for record in caplog.records] == ['turn t1 of session s1: "hello"']
