"""What the model calls of a turn may cost together, through the public API (contract 08 §5.1 `--max-cost`)."""

from __future__ import annotations

import msgspec
import pytest
from support.driving import Crash, CrashPoints
from support.scripted import ScriptedCaller, calls, text

from lash_cli.api import (
    BucketPrices,
    CostLimit,
    FunctionToolProvider,
    LashCore,
    ModelSpec,
    Prices,
    SessionSpec,
    Stopped,
    ToolContext,
    tool,
)
from lash_cli.core.content import message_text

# Any call costs more than this.
LIMIT = CostLimit(1, Prices(BucketPrices(input=1_000_000, output=1_000_000)))
NOTE = ("a", "note", "{}")


class Nothing(msgspec.Struct):
    """A tool's arguments."""


@tool(name="note")
async def note(args: Nothing, context: ToolContext) -> str:
    return "noted"


TOOLS = [FunctionToolProvider([note])]


@pytest.mark.parametrize("is_stored", [True, False])
async def test_no_call_follows_the_one_that_cost_the_limit(make_core, is_stored: bool) -> None:
    caller = ScriptedCaller([calls(NOTE), text("never asked for")])
    async with (
        make_core(caller, tools=TOOLS) if is_stored else LashCore(provider=caller, model=ModelSpec("m"), tools=TOOLS)
    ) as core:
        session = await core.open_session("s1")
        output = await session.turn("go", cost_limit=LIMIT).run()
        assert output.result.outcome == Stopped("max_cost")
        assert message_text(session.read_view().messages[-1]).startswith("Cost limit reached (0.000001 USD).")
    assert len(caller.requests) == 1 and [record.tool for record in output.result.tool_calls] == ["note"]


async def test_a_turn_that_was_cut_off_is_finished_within_its_own_limit(make_core) -> None:
    with pytest.raises(Crash):
        core = make_core(
            ScriptedCaller([calls(NOTE)]), tools=TOOLS, crash_point=CrashPoints("after:model_recorded")
        )  # fmt: skip
        session = await core.open_session("s1")
        await session.turn("go", cost_limit=LIMIT).run()
    caller = ScriptedCaller([text("never asked for")])
    core = make_core(caller, tools=TOOLS)
    async with await core.open_session("s1", spec=SessionSpec(inherit="stored")) as session:
        output = await session.redrive(busy_wait_ms=120_000).run()
    assert output.result is not None and output.result.outcome == Stopped("max_cost")
    assert caller.requests == []
