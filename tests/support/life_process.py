"""One process in the random lives of a store: a core, its handles, and the turn under way in it.

Everything of it is moved by hand: its clock stands still, a model call waits
until it is answered, its database fails when it is told to, and it dies at the
named point that it is armed with.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Literal

import msgspec
from support.clock import LIMIT_S, ManualClock, settle
from support.driving import Crash
from support.scripted import ScriptedCaller, SteppedCaller, text
from support.switching import Switching

from lash_cli.api import (
    AfterToolCall,
    AwaitEventKey,
    BeforeToolCall,
    FailureClass,
    FunctionToolProvider,
    LashCore,
    LashSession,
    ModelSpec,
    PendingCompletion,
    ShortCircuitTool,
    SqliteStore,
    tool,
)
from lash_cli.core.content import is_safe_to_resume, message_text
from lash_cli.core.tools import SafeRetry, failure
from lash_cli.errors import StoreError, StoreLocked
from lash_cli.store.sqlite.database import Database
from lash_cli.system import SystemIds

# What a model is asked beside the turns, which is answered at once.
BESIDE = "beside"
TOKENS_BESIDE = (10, 5)
DENIED = ShortCircuitTool(failure(FailureClass.PERMISSION_DENIED, "denied", "not that", source="plugin"))

# Somebody else writes for too long; the disk is full; or it refuses the sync behind a commit that stands all the same.
Fault = Literal["locked", "full", "unsure"]


class SourceDown(Exception):
    """What a source of tools raises that cannot be asked just now."""

    code = "source_down"


class Empty(msgspec.Struct):
    """No arguments."""


class World:
    """What is outside of all processes: which calls were run how often, and the keys of those left to somebody else."""

    def __init__(self) -> None:
        self.ran: Counter[str] = Counter()
        self.keys: list[AwaitEventKey] = []

    def tools(self, is_down: Callable[[], bool] = lambda: False) -> list[Any]:
        """Tools of every kind: one that may be repeated, one that may not, one that is answered from outside, and one
        that hands on to another frame, whose source is down as long as `is_down` says."""

        class Source(Switching):
            def manifests(self) -> Any:
                if is_down():
                    raise SourceDown
                return super().manifests()

        @tool(name="safe", retry=SafeRetry(2, 0, 0))
        async def safe(args: Empty, context: Any) -> str:
            """May be repeated."""
            return "done"

        @tool(name="never")
        async def never(args: Empty, context: Any) -> str:
            """May not be repeated."""
            self.ran[context.call_id] += 1
            return "done"

        @tool(name="later")
        async def later(args: Empty, context: Any) -> PendingCompletion:
            """Is answered by somebody outside, or by nobody for a minute."""
            self.keys.append(await context.completion_key())
            return PendingCompletion(timeout_ms=60_000)

        return [FunctionToolProvider([safe, never, later]), Source()]


class Guard:
    """A hook that forbids one call in eight, always the same ones, and has something to say about others."""

    hook_id = "guard"

    async def before_tool_call(self, call: BeforeToolCall) -> list[Any] | None:
        return [DENIED] if _drawn(call.call_id) == 0 else None

    async def after_tool_call(self, call: AfterToolCall) -> list[Any] | None:
        return [DENIED] if _drawn(call.call_id) == 1 else None


def _drawn(call_id: str) -> int:
    return hashlib.sha256(call_id.encode()).digest()[0] % 8


class LifeCaller(SteppedCaller):
    """Answers at once what is asked beside turns."""

    async def call(self, request: Any, *, sink: Any, cancel: Any) -> Any:
        assert is_safe_to_resume(list(request.messages)), "no provider would take this"
        if message_text(request.messages[-1]) == BESIDE:
            self.steps = [text("said beside", tokens=TOKENS_BESIDE)]
            return await ScriptedCaller.call(self, request, sink=sink, cancel=cancel)
        return await super().call(request, sink=sink, cancel=cancel)


class FaultyDatabase(Database):
    """A database whose writes fail when they are told to: `fault`, as often as `times`, behind `spared` others."""

    fault: Fault | None = None
    times = 0
    spared = 0
    has_failed = False

    def _due(self) -> Fault | None:
        if self.times == 0 or self.spared > 0:
            self.spared = max(0, self.spared - 1)
            return None
        self.times -= 1
        self.has_failed = True
        return self.fault

    def _error(self, due: Fault) -> StoreError:
        return StoreLocked("stayed locked") if due == "locked" else StoreError(f"the disk: {due}")

    async def write(self, job: Any, *, durable: bool) -> Any:
        due = self._due()
        if due is None:
            return await super().write(job, durable=durable)
        if due == "unsure":
            await super().write(job, durable=durable)
        raise self._error(due)

    async def write_brief(self, job: Any) -> Any:
        due = self._due()
        if due is None:
            return await super().write_brief(job)
        if due == "unsure":
            await super().write_brief(job)
        raise self._error(due)

    def write_later(self, job: Any, **options: Any) -> Any:
        due = self._due()
        if due is None:
            return super().write_later(job, **options)
        if due == "unsure":
            super().write_later(job, **options)
        failed = asyncio.get_running_loop().create_future()
        failed.set_exception(self._error(due))
        failed.exception()
        return failed

    def write_at_once(self, job: Any, *, is_brief: Any) -> bool:
        return self.times == 0 and super().write_at_once(job, is_brief=is_brief)


class Process:
    """One core, the handles it has, and the turn under way in it: `drive` on `driven`, behind which `others` wait."""

    def __init__(self, path: Path, now_ms: int, world: World, chance: random.Random) -> None:
        self.clock = ManualClock(now_ms)
        self.db = FaultyDatabase.open(path, clock=self.clock, synchronous="normal")
        self.store = SqliteStore(self.db, SystemIds())
        self.caller = LifeCaller()
        self.armed: str | None = None
        # While it is stopped its time stands still, and it is behind that of everybody else.
        self.is_stopped = False
        self.behind_s = 0.0
        self.is_source_down = False
        self.core = LashCore(
            provider=self.caller,
            model=ModelSpec("m"),
            store=self.store,
            tools=world.tools(lambda: self.is_source_down),
            tool_hooks=[Guard()],
            clock=self.clock,
            crash_point=self._reach,
            queue_driver="none",
            residency="keep_all" if chance.random() < 0.5 else "active_path_only",
        )
        self.handles: dict[str, LashSession] = {}
        self.drive: asyncio.Task[Any] | None = None
        self.driven: LashSession | None = None
        self.others: list[asyncio.Task[Any]] = []

    def _reach(self, point: str) -> None:
        if point == self.armed:
            self.armed = None
            raise Crash(point)

    def tick(self, seconds: float) -> None:
        """Time passes for everybody."""
        if self.is_stopped:
            self.behind_s += seconds
        else:
            self.clock.tick(seconds)

    def catch_up(self) -> None:
        """Know what time it is."""
        behind_s, self.behind_s = self.behind_s, 0.0
        self.clock.tick(behind_s)

    @property
    def owners(self) -> set[str]:
        """Under which ids it holds lanes."""
        return {shared.owner.owner_id for shared in self.core._opened_sessions}

    def begin(self, session: LashSession | None, work: Coroutine[Any, Any, Any]) -> None:
        """Drive `work` on `session`, or on whichever it opens itself, behind what is driven already."""
        task = asyncio.create_task(work)
        if self.drive is None:
            self.drive, self.driven = task, session
        else:
            self.others.append(task)

    async def pause(self) -> asyncio.Task[Any] | None:
        """Let the drive go on until a model call waits, somebody waits for his time, or it is over: then the drive,
        and the next one is under way."""
        assert self.drive is not None
        await settle()
        waiting = {
            asyncio.ensure_future(self.caller.parked.wait()),
            asyncio.ensure_future(self.clock.wait_for_sleepers()),
        }
        done, _ = await asyncio.wait({self.drive, *waiting}, timeout=LIMIT_S, return_when=asyncio.FIRST_COMPLETED)
        for one in waiting:
            one.cancel()
        assert done, "a drive is neither over nor does it wait for anybody"
        if not self.drive.done():
            return None
        over, self.drive = self.drive, self.others.pop(0) if self.others else None
        if self.drive is None:
            self.driven = None
        return over

    async def close(self) -> None:
        """End as a process should. Who waits for a claim that nobody could give back hears of nothing before it runs
        out, so time passes here."""
        closing = asyncio.ensure_future(self.core.aclose())
        while not closing.done():
            sleeper = asyncio.ensure_future(self.clock.wait_for_sleepers())
            await asyncio.wait({closing, sleeper}, timeout=LIMIT_S, return_when=asyncio.FIRST_COMPLETED)
            assert closing.done() or sleeper.done(), "a core does not close"
            sleeper.cancel()
            self.clock.tick(60.0)
        closing.result()

    async def stop(self) -> None:
        """Nothing of it runs on."""
        self.db.times = 0
        tasks = [self.drive, *self.others] if self.drive is not None else []
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                task.exception()
        self.drive, self.others = None, []
        await self.core.aclose()
