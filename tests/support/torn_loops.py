"""A program whose event loops are torn down at any step of what they run, over one core that is used again at once.

`python -m support.torn_loops DATABASES SEED…` prints what was lost, done twice or left behind for each seed, and
nothing where all is well. In a process of its own: what a closed loop leaves behind complains when it is collected.
"""

from __future__ import annotations

import asyncio
import gc
import random
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
from support.driving import S, said
from support.made_files import lay
from support.scripted import ScriptedCaller, calls, text

from lash_cli.api import FunctionToolProvider, LashCore, LashSession, ModelSpec, SqliteStore, ToolContext, tool
from lash_cli.core.content import ToolResultPart
from lash_cli.core.policy import SessionConfigPatch
from lash_cli.runtime.work_events import WorkOptions

LOOPS = 6
MOST_STEPS = (8, 30, 80)


class Nothing(msgspec.Struct):
    """No arguments."""


class World:
    """A core with a tool that is to be run once for a call, and what was asked of it and confirmed."""

    def __init__(self, path: Path) -> None:
        self.ran: list[tuple[str, str]] = []
        self.wanted: list[str] = []
        self.opened: LashSession | None = None

        @tool(name="once")
        async def once(arguments: Nothing, context: ToolContext) -> str:
            self.ran.append((context.turn_id, context.call_id))
            await asyncio.sleep(0)
            return "did"

        def answer(request):
            is_done = any(isinstance(part, ToolResultPart) for part in request.messages[-1].parts)
            return text("done") if is_done else calls(("c1", "once", "{}"))

        self.core = LashCore(
            provider=ScriptedCaller([answer], repeat=True),
            store=SqliteStore.open(lay(path)),
            queue_driver="none",
            model=ModelSpec("m"),
            tools=[FunctionToolProvider([once])],
        )

    async def turn(self, session: LashSession, name: str) -> None:
        await session.turn(name, key=name).run()
        self.wanted.append(name)

    async def stream(self, session: LashSession, name: str) -> None:
        async with session.turn(name, key=name).stream() as stream:
            async for _ in stream:
                pass
        self.wanted.append(name)

    async def queued(self, session: LashSession, name: str) -> None:
        await self.core.queue(S).enqueue(name)
        self.wanted.append(name)
        await session.queued_turn().run()

    async def worked(self, session: LashSession, name: str) -> None:
        await self.core.queue(S).enqueue(name)
        self.wanted.append(name)
        await self.core.worker(WorkOptions(until_empty=True)).run()

    async def cancelled(self, session: LashSession, name: str) -> None:
        running = asyncio.ensure_future(session.turn(name, key=name).run())
        await asyncio.sleep(0)
        session.cancel_running_turns()
        await running
        self.wanted.append(name)

    async def configured(self, session: LashSession, name: str) -> None:
        await session.configure(SessionConfigPatch(max_turns=len(name) + 5))

    async def closed(self, session: LashSession, name: str) -> None:
        await self.turn(session, name)
        await session.close()

    async def went_on(self, session: LashSession, name: str) -> None:
        await self.turn(self.opened or session, name)

    async def begin(self, act: Callable[[LashSession, str], object], name: str) -> None:
        session = await self.core.open_session(S)
        if act != self.closed:
            self.opened = session
        await act(session, name)  # type: ignore[misc]

    async def finish(self) -> list[str]:
        """What is wrong when everything was finished, as nobody waits for a lease of 30 s to run out."""
        async with asyncio.timeout(20):
            session = await self.core.open_session(S)
            await session.turn("last", key="last").run()
            while await session.queued_turn().run() is not None:
                pass
            messages = (await self.core.open_session(S)).read_view().messages
            row = await self.core.store.session_row(S)
            await self.core.aclose()
        spoken = [line for message in said(messages) for line in message.splitlines()]
        texts = [line for line in spoken if line.startswith("text-") or line == "last"]
        wrong = [f"lost {name}" for name in (*self.wanted, "last") if name not in texts]
        wrong += [f"twice {name}" for name in sorted(set(texts)) if texts.count(name) > 1]
        wrong += [f"ran twice {call}" for call in sorted(set(self.ran)) if self.ran.count(call) > 1]
        if row is None or row.running_turn_id is not None or row.pending_inputs:
            wrong.append("something is left to do")
        return wrong


def torn(seed: int, path: Path) -> list[str]:
    """Begin something in one loop after another, and tear each down somewhere; what is wrong afterwards."""
    choices = random.Random(seed)
    world = World(path)
    acts = [
        world.turn,
        world.stream,
        world.queued,
        world.worked,
        world.cancelled,
        world.configured,
        world.closed,
        world.went_on,
    ]
    left: list[object] = []
    for number in range(LOOPS):
        loop = asyncio.new_event_loop()
        task = loop.create_task(world.begin(choices.choice(acts), f"text-{number}"))
        for _ in range(choices.randrange(choices.choice(MOST_STEPS))):
            loop.call_soon(loop.stop)
            loop.run_forever()
        match choices.choice(["closed", "cancelled", "ended", "collected"]):
            case "closed":
                left.append(task)
            case "cancelled":
                task.cancel()
                loop.run_until_complete(asyncio.wait({task}))
            case "ended":  # as `asyncio.run` does when it is left
                tasks = asyncio.all_tasks(loop)
                for one in tasks:
                    one.cancel()
                loop.run_until_complete(asyncio.wait(tasks) if tasks else asyncio.sleep(0))
            case _:
                left.clear()
        del task
        loop.close()
        gc.collect()
    return asyncio.run(world.finish())


if __name__ == "__main__":
    for given in sys.argv[2:]:
        for fault in torn(int(given), Path(sys.argv[1], f"{given}.db")):
            print(f"seed {given}: {fault}")
