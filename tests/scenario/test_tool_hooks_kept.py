"""What hooks of tool calls decided stands behind a crash, a kill and a change of the hooks, and a cancel does not wait
for them (contract 05 §1.4, §3.1, §3.4)."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from support.clock import LIMIT_S
from support.driving import Crash, CrashPoints
from support.scripted import ScriptedCaller, text
from support.tool_hooks import BOTH, DENIED, ONE, After, Before, Projector, Work, always, breaks, outputs, told
from support.unadvertised import Unadvertised

from lash_cli.api import (
    ReplaceToolArgs,
    ShortCircuitTool,
    Stopped,
)
from lash_cli.core.tools import cancelled, success


@pytest.mark.parametrize("point", ["before", "after", "project"])
@pytest.mark.parametrize("crash", ["before:hook_{}_recorded", "after:hook_{}_recorded", "after:hook_{}_started"])
async def test_a_turn_that_crashed_around_a_hook_ends_as_that_hook_decided(make_core, point: str, crash: str) -> None:
    work = Work()

    def plugged() -> dict[str, Any]:
        counted = iter(range(10))
        return {
            "before": {"tool_hooks": [Before(lambda call: (ReplaceToolArgs({"name": f"n{next(counted)}"}),))]},
            "after": {"tool_hooks": [After(lambda call: (ShortCircuitTool(success(next(counted))),))]},
            "project": {"tool_result_projector": Projector(lambda result: f"p{next(counted)}")},
        }[point]

    options = plugged()
    doomed = make_core(
        ScriptedCaller([ONE]), tools=[work.provider], crash_point=CrashPoints(crash.format(point)), **options
    )
    with pytest.raises(Crash):
        await (await doomed.open_session("s1")).turn("go").run()
    asked = 1 if crash == "after:hook_{}_recorded" else 2 if crash.startswith("before") else 1
    async with await make_core(ScriptedCaller([text("done")]), tools=[work.provider], **options).open_session(
        "s1"
    ) as session:
        output = await session.redrive().run()
        texts = told(session)
    plugin: Any = options.get("tool_result_projector") or options["tool_hooks"][0]
    assert len(plugin.asked) == asked
    number = asked - 1
    expected = {"before": f"did n{number}", "after": f"{number}", "project": f"p{number}"}
    assert (texts, len(work.ran)) == ([expected[point]], 1)
    assert output.result is not None and output.result.assistant_message() == "done"


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from support.scripted import ScriptedCaller, calls
import msgspec
from lash_cli import FunctionToolProvider, LashCore, ModelSpec, ReplaceToolArgs, SqliteStore, ToolContext, tool

class Job(msgspec.Struct):
    'What is asked for.'
    name: str

@tool(name="work")
async def work(job: Job, context: ToolContext):
    with Path(sys.argv[2]).open("a") as log:
        log.write(job.name + "\\n")
    return f"did {job.name}"

class Hook:
    hook_id = "guard"

    async def before_tool_call(self, call):
        return [ReplaceToolArgs({"name": f"by {os.getpid()}"})]

    async def after_tool_call(self, call):
        os.kill(os.getpid(), signal.SIGKILL)

async def main():
    store = SqliteStore.open(sys.argv[1])
    caller = ScriptedCaller([calls(("a", "work", '{"name":"first"}'))])
    core = LashCore(
        provider=caller,
        model=ModelSpec("model-1"),
        store=store,
        tools=[FunctionToolProvider([work])],
        tool_hooks=[Hook()],
        queue_driver="none",
    )
    await (await core.open_session("s1")).turn("go").run()

asyncio.run(main())
"""


async def test_what_hooks_decided_outlives_a_process_that_is_killed(make_core, tmp_path: Path) -> None:
    core = make_core(ScriptedCaller([text("done")]), tools=[Work().provider])
    database, log = tmp_path / "home" / "lash.db", tmp_path / "ran"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED, database, log, env=environment)
    assert await child.wait() == -signal.SIGKILL
    async with await core.open_session("s1") as session:
        output = await session.redrive().run()
    assert log.read_text().splitlines() == [f"by {child.pid}"]
    assert outputs(output) == [success(f"did by {child.pid}")]


@pytest.mark.parametrize("then", ["none", "others"])
async def test_what_hooks_decided_before_a_crash_stands_whoever_finishes_the_turn(make_core, then: str) -> None:
    work = Work()
    hooks = [Before(always(ReplaceToolArgs({"name": "other"}))), After(always(ShortCircuitTool(success("seen"))))]
    doomed = make_core(
        ScriptedCaller([ONE, text("done")]),
        tools=[work.provider],
        tool_hooks=hooks,
        tool_result_projector=Projector(lambda result: "short"),
        crash_point=CrashPoints("after:model_recorded", 2),
    )
    with pytest.raises(Crash):
        await (await doomed.open_session("s1")).turn("go").run()
    others: dict[str, Any] = {"tool_hooks": [Before(breaks), After(breaks)], "tool_result_projector": Projector(breaks)}
    core = make_core(ScriptedCaller([]), tools=[work.provider], **(others if then == "others" else {}))
    async with await core.open_session("s1") as session:
        output = await session.redrive().run()
        assert (told(session), outputs(output), work.ran) == (["short"], [success("seen")], ["other"])


@pytest.mark.parametrize("crash", ["after:tool_recorded", "after:hook_after_recorded"])
async def test_what_hooks_decide_stands_though_the_tool_is_gone(make_core, crash: str) -> None:
    work = Work()
    after = After(always(ShortCircuitTool(success("seen"))))
    hooks = [Before(lambda call: (DENIED,) if call.call_id == "b" else ()), after]
    doomed = make_core(
        ScriptedCaller([BOTH]),
        tools=[Unadvertised(work.provider)],
        tool_hooks=hooks,
        crash_point=CrashPoints(crash),
    )
    with pytest.raises(Crash):
        await (await doomed.open_session("s1")).turn("go").run()
    core = make_core(ScriptedCaller([text("done")]), tool_hooks=hooks)
    async with await core.open_session("s1") as session:
        assert outputs(await session.redrive().run()) == [success("seen"), DENIED.output]
    assert (work.ran, len(after.asked)) == (["first"], 1)


@pytest.mark.parametrize("crash", ["after:tool_recorded", "after:model_recorded"])
async def test_hooks_that_were_added_since_the_crash_change_nothing_that_was_told(make_core, crash: str) -> None:
    work = Work()
    nth = 2 if crash.startswith("after:model") else 1
    doomed = make_core(ScriptedCaller([ONE, text("done")]), tools=[work.provider], crash_point=CrashPoints(crash, nth))
    with pytest.raises(Crash):
        await (await doomed.open_session("s1")).turn("go").run()
    before, after = Before(always(DENIED)), After(always())
    core = make_core(
        ScriptedCaller([text("done")] if nth == 1 else []),
        tools=[work.provider],
        tool_hooks=[before, after],
        tool_result_projector=Projector(lambda result: "short"),
    )
    async with await core.open_session("s1") as session:
        output = await session.redrive().run()
        texts = told(session)
    assert (outputs(output), before.asked, work.ran) == ([success("did first")], [], ["first"])
    # Where the model has not been told yet, what comes after the attempt is still to be decided.
    assert (texts, len(after.asked)) == ((["short"], 1) if nth == 1 else (["did first"], 0))


def waits_for_ever(freed: asyncio.Event) -> Callable[[object], Awaitable[Any]]:
    async def decide(call: object) -> Any:
        await freed.wait()

    return decide


def takes_no_notice(freed: asyncio.Event) -> Callable[[object], Awaitable[Any]]:
    async def decide(call: object) -> Any:
        while not freed.is_set():
            try:
                await freed.wait()
            except asyncio.CancelledError:
                continue

    return decide


@pytest.mark.parametrize("deciding", [waits_for_ever, takes_no_notice])
@pytest.mark.parametrize("point", ["before", "after", "project"])
async def test_a_cancel_does_not_wait_for_a_hook(make_core, deciding: Any, point: str) -> None:
    work, freed = Work(), asyncio.Event()
    decide = deciding(freed)
    plugins: dict[str, Any] = {
        "before": {"tool_hooks": [Before(decide)]},
        "after": {"tool_hooks": [After(decide)]},
        "project": {"tool_result_projector": Projector(decide)},
    }[point]
    plugin = next(iter(plugins.values()))
    plugin = plugin[0] if isinstance(plugin, list) else plugin
    session = await make_core(ScriptedCaller([ONE]), tools=[work.provider], **plugins).open_session("s1")
    running = asyncio.create_task(session.turn("go").run())
    await plugin.is_asked.wait()
    session.cancel_running_turns()
    await asyncio.wait({running}, timeout=LIMIT_S)
    freed.set()
    output = running.result()
    assert output.result is not None and output.result.outcome == Stopped("cancelled")
    # What no hook had agreed to is not kept; a projector only says what the model reads of it.
    assert outputs(output) == [success("did first") if point == "project" else cancelled()]
    assert work.ran == ([] if point == "before" else ["first"])
    if point == "project":
        assert told(session) == ["[Tool result projection failed]\nThe turn was cancelled before it was done."]
    await session.close()
