"""What a running tool may ask of its session: a completion of its own, and a place for bytes (contract 05 §1.6)."""

from __future__ import annotations

from typing import Any

import msgspec
from support.scripted import ScriptedCaller, calls, error, text

from lash_cli.api import (
    DirectRequest,
    FunctionToolProvider,
    Inline,
    LashCore,
    LashSession,
    ModelSpec,
    Stored,
    ToolContext,
    ToolFault,
    TurnInput,
    tool,
)
from lash_cli.core.codec import sha256_hex
from lash_cli.core.content import user_message
from lash_cli.core.tools import success
from lash_cli.tools.context import SimpleToolContext

PNG = b"\x89PNG\r\n\x1a\n" + b"pixels"


class Nothing(msgspec.Struct):
    """No arguments."""


ONE = calls(("a", "work", "{}"))


def tools(function: Any) -> FunctionToolProvider:
    return FunctionToolProvider([tool(name="work")(function)])


async def asks(args: Nothing, context: ToolContext) -> Any:
    completion = await context.direct_completion(DirectRequest((user_message("q", TurnInput.text("what is it?")),)))
    return completion.text


def costs(session: LashSession) -> dict[str, int]:
    return {entry.source: entry.usage.total for entry in session.usage_report().by_source_model}


async def test_a_tool_is_told_which_call_it_runs_under_a_key_that_every_attempt_of_it_has(make_core) -> None:
    told: list[tuple[str, ...]] = []

    @tool(name="work", tool_id="own.work")
    async def work(args: Nothing, context: ToolContext) -> None:
        told.append((context.session_id, context.turn_id, context.call_id, context.replay_key))

    core = make_core(ScriptedCaller([ONE, text("done")]), tools=[FunctionToolProvider([work])])
    async with await core.open_session("s1") as session:
        await session.turn("go", turn_id="t1").run()
    assert told == [("s1", "t1", "a", "lash-tool:s1:t1.a:own.work")]


async def test_a_tool_asks_the_model_of_its_session_and_the_cost_is_the_sessions(make_core) -> None:
    caller = ScriptedCaller([ONE, text("a cat", tokens=(3, 4)), text("done")])
    async with await make_core(caller, tools=[tools(asks)]).open_session("s1") as session:
        output = await session.turn("go").run()
        assert output.result.tool_calls[0].output == success("a cat")
        assert costs(session)["tool:work"] > 0
    question = caller.requests[1]
    assert (question.model, question.scope.session_id, question.tools) == (caller.requests[0].model, "s1", ())
    async with await make_core(ScriptedCaller([])).open_session("s1") as again:
        assert costs(again)["tool:work"] > 0


async def test_a_completion_that_fails_is_the_failure_of_a_tool_that_does_not_mind_it(make_core) -> None:
    core = make_core(ScriptedCaller([ONE, error("auth"), text("done")]), tools=[tools(asks)])
    async with await core.open_session("s1") as session:
        output = await session.turn("go").run()
    assert output.result.tool_calls[0].output.outcome.failure.code == "tool_panicked"
    assert output.result.assistant_message() == "done"


async def test_without_a_store_a_tool_asks_too() -> None:
    caller = ScriptedCaller([ONE, text("a cat", tokens=(3, 4)), text("done")])
    async with LashCore(provider=caller, model=ModelSpec("m"), tools=[tools(asks)]) as core:
        session = await core.open_session("s1")
        assert (await session.turn("go").run()).result.tool_calls[0].output == success("a cat")
        assert costs(session)["tool:work"] > 0


async def test_bytes_that_a_tool_puts_down_are_its_sessions(make_core) -> None:
    async def work(args: Nothing, context: ToolContext) -> Any:
        stored = await context.put_attachment(Inline("image/png", PNG, "cat.png"))
        assert isinstance(stored, Stored)
        return stored.attachment_ref

    core = make_core(ScriptedCaller([ONE, text("done")]), tools=[tools(work)])
    async with await core.open_session("s1") as session:
        ref = (await session.turn("go").run()).result.tool_calls[0].output.outcome.value
    assert ref == "sha256:" + sha256_hex(PNG)
    assert await core.store.get_attachment("s1", ref) == PNG


async def test_a_plain_context_says_that_it_has_neither() -> None:
    class Never:
        is_set = False

        async def wait(self) -> None:
            return

    context = SimpleToolContext("s", "t", "c", Never())
    for asked in (context.put_attachment(Inline("image/png", PNG)), context.direct_completion(DirectRequest(()))):
        try:
            await asked
        except ToolFault as fault:
            assert fault.code == "tool_context_unavailable"
        else:
            raise AssertionError("it answered")
