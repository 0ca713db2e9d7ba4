"""Foreign code that ends the program does, from wherever it is called, and in good order (contract 05 §3.6).

`SystemExit` and `KeyboardInterrupt` are no failures of a tool. They leave the
event loop, so that whoever runs it is told, the driver and a worker in the
background no less than a turn that is waited for.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent

PROGRAM = """
import asyncio, logging, sys
import msgspec
from lash_cli.api import FunctionToolProvider, LashCore, ModelSpec, SqliteStore, ToolContext, WorkOptions, tool
from support.scripted import ScriptedCaller, calls

logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
path, way, where, kind = sys.argv[1:]


class Nothing(msgspec.Struct):
    pass


def leave():
    raise SystemExit(7) if kind == "exit" else KeyboardInterrupt


async def awaited(args: Nothing, context: ToolContext) -> str:
    leave()


def threaded(args: Nothing, context: ToolContext) -> str:
    leave()


def answer(request):
    return leave() if where == "model" else calls(("a", "work", "{}"), ("b", "work", "{}"))


class Policy:
    async def decide(self, manifest, call):
        if where == "policy":
            leave()


async def main():
    core = LashCore(
        provider=ScriptedCaller([answer], repeat=True),
        model=ModelSpec("m"),
        store=SqliteStore.open(path),
        tools=[FunctionToolProvider([tool(name="work")(threaded if where == "thread" else awaited)])],
        approval=Policy(),
        queue_driver="inline" if way == "driver" else "none",
    )
    try:
        async with core, await core.open_session("s1") as session:
            if way == "turn":
                await session.turn("go").run()
            await session.enqueue("go")
            if way == "worker":
                await core.worker().run()
            await asyncio.sleep(30)
    finally:
        print("left the block")


try:
    asyncio.run(main())
finally:
    print("left the loop")
"""


@pytest.mark.parametrize("kind", ["exit", "interrupt"])
@pytest.mark.parametrize("where", ["task", "thread", "policy", "model"])
@pytest.mark.parametrize("way", ["turn", "driver", "worker"])
def test_what_ends_the_program_leaves_the_event_loop_and_nothing_is_complained_of(
    tmp_path: Path, way: str, where: str, kind: str
) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "lash.db"), way, where, kind]
    ran = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, "PYTHONPATH": str(TESTS)}
    )
    assert ran.stdout.splitlines() == ["left the block", "left the loop"], ran.stderr
    assert "never retrieved" not in ran.stderr
    if kind == "exit":
        assert (ran.returncode, ran.stderr) == (7, "")
    else:
        assert ran.returncode == -2, ran.stderr
        assert ran.stderr.rstrip().endswith("KeyboardInterrupt")
