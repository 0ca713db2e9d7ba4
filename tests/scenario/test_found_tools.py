"""Tools that a source does not advertise: found when they are called, and known from then on (contract 05 §2.2)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from support.driving import Crash, CrashPoints
from support.scripted import ScriptedCaller, calls, text
from support.tools import ShyTools

from lash_cli.api import (
    FunctionToolProvider,
    LashCore,
    ModelSpec,
    NestedCall,
    ToolContext,
    ToolManifest,
    TurnOutput,
    tool,
)
from lash_cli.core.activity import Committed, TurnActivity
from lash_cli.core.tools import success


class Nothing(msgspec.Struct):
    """No arguments."""


DEEP = calls(("a", "deep", "{}"))


def shy() -> ShyTools:
    return ShyTools(("t.deep", "deep"), advertised=(("t.a", "a"),))


def outputs(output: TurnOutput) -> list[Any]:
    return [record.output for record in output.result.tool_calls]


def offered(caller: ScriptedCaller) -> list[list[str]]:
    return [[tool.name for tool in request.tools] for request in caller.requests]


async def test_a_tool_that_is_called_is_found_and_stays_with_the_session(make_core) -> None:
    caller = ScriptedCaller([DEEP, text("done")])
    async with await make_core(caller, tools=[shy()]).open_session("s1") as session:
        assert outputs(await session.turn("go").run()) == [success("t.deep")]
        assert session.tools().state().generation == 2
    assert offered(caller) == [["a"], ["a", "deep"]]
    later = ScriptedCaller([text("hello")])
    async with await make_core(later, tools=[shy()]).open_session("s1") as session:
        assert session.tools().state().generation == 2
        await session.turn("again").run()
    assert offered(later) == [["a", "deep"]]


@pytest.mark.parametrize("point", ["after:tool_recorded", "after:model_recorded", "before:commit"])
@pytest.mark.parametrize("where", ["in the same session", "elsewhere"])
async def test_a_turn_that_found_a_tool_and_crashed_is_finished_alike(make_core, where: str, point: str) -> None:
    nth = 2 if point == "after:model_recorded" else 1
    points = CrashPoints(point, nth)
    caller = ScriptedCaller([DEEP, text("done"), text("done")])
    session = await make_core(caller, tools=[shy()], crash_point=points).open_session("s1")
    with pytest.raises(Crash):
        await session.turn("go").run()
    if where == "elsewhere":
        session = await make_core(ScriptedCaller([text("done")]), tools=[shy()]).open_session("s1")
    output = await session.redrive().run()
    assert (outputs(output), output.result.assistant_message()) == ([success("t.deep")], "done")
    assert session.tools().state().generation == 2
    await session.close()


async def test_a_tool_that_was_found_stays_when_whoever_watches_fails_behind_the_commit(make_core) -> None:
    session = await make_core(ScriptedCaller([DEEP, text("done")]), tools=[shy()]).open_session("s1")

    async def watch(activity: TurnActivity) -> None:
        if isinstance(activity.event, Committed):
            raise RuntimeError("nobody looks any more")

    with pytest.raises(RuntimeError):
        await session.turn("go").stream_to(watch)
    assert session.tools().state().generation == 2
    await session.close()


async def test_a_source_that_fails_to_say_has_no_such_tool(make_core) -> None:
    class Broken(ShyTools):
        def resolve_manifest(self, name: str) -> Any:
            raise RuntimeError("a bug")

    core = make_core(ScriptedCaller([DEEP, text("done")]), tools=[Broken()])
    async with await core.open_session("s1") as session:
        (output,) = outputs(await session.turn("go").run())
    assert output.outcome.failure.code == "tool_unavailable"


@pytest.mark.parametrize(
    "answer", [KeyError("t.deep"), RuntimeError("a bug"), None], ids=["unknown", "raises", "no contract"]
)
async def test_a_tool_whose_contract_cannot_be_had_is_not_run_and_the_turn_goes_on(make_core, answer: Any) -> None:
    class Broken(ShyTools):
        def contract(self, tool_id: str) -> Any:
            if tool_id != "t.deep":
                return super().contract(tool_id)
            if answer is not None:
                raise answer

    @tool(name="outer")
    async def outer(args: Nothing, context: ToolContext) -> Any:
        (record,) = await context.dispatch.batch([NestedCall("deep")])
        return record.output.outcome.failure.code

    source = Broken(ToolManifest("t.deep", "deep", "", activation="internal"), advertised=())
    tools = [source, FunctionToolProvider([outer])]
    async with LashCore(
        provider=ScriptedCaller([calls(("a", "outer", "{}")), text("done")]), model=ModelSpec("m"), tools=tools
    ) as core:
        output = await (await core.open_session("s1")).turn("go").run()
    assert outputs(output) == [success("tool_contract_unavailable")]
