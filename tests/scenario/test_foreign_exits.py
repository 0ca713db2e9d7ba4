"""Foreign code that ends the program does, from wherever it is called, and in good order (contract 05 §3.6).

`SystemExit` and `KeyboardInterrupt` are no failures of a tool. They leave the
event loop, so that whoever runs it is told, the driver and a worker in the
background no less than a turn that is waited for.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
WHERES = ("task", "thread", "policy", "model")
KINDS = ("exit", "interrupt")

# Importing takes most of the time of such a program: all that are alike begin as forks of one, and each ends by itself,
# as the interpreter ends a program.
PROGRAM = """
import asyncio, logging, os, sys
from pathlib import Path
import msgspec
import lash_cli.runtime.turn_commit, lash_cli.runtime.turns
from lash_cli.api import FunctionToolProvider, LashCore, ModelSpec, SqliteStore, ToolContext, WorkOptions, tool
from support.made_files import lay
from support.scripted import ScriptedCaller, calls

logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
directory, way, *cases = sys.argv[1:]
for case in cases:
    where, kind = case.split("-")
    path = lay(Path(directory, f"{case}.db"))
    child = os.fork()
    if child == 0:
        for descriptor, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{directory}/{case}.{name}", os.O_WRONLY | os.O_CREAT), descriptor)
        break
    with open(f"{directory}/{case}.status", "w") as file:
        file.write(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
else:
    sys.exit()


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
    # Under PYTHONASYNCIODEBUG, which would be told how long the machine takes.
    asyncio.get_running_loop().slow_callback_duration = 600
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


@pytest.mark.parametrize("way", ["turn", "driver", "worker"])
def test_what_ends_the_program_leaves_the_event_loop_and_nothing_is_complained_of(tmp_path: Path, way: str) -> None:
    cases = ["-".join(case) for case in itertools.product(WHERES, KINDS)]
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), way, *cases]
    subprocess.run(command, timeout=120, check=True, env={**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}"})
    for case in cases:
        out, err, status = ((tmp_path / f"{case}.{name}").read_text() for name in ("out", "err", "status"))
        assert out.splitlines() == ["left the block", "left the loop"], (case, err)
        assert "never retrieved" not in err, case
        if case.endswith("-exit"):
            assert (int(status), err) == (7, ""), case
        else:
            assert int(status) == -2, (case, err)
            assert err.rstrip().endswith("KeyboardInterrupt"), case
