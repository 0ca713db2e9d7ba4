"""What tests of the hooks of tool calls begin with: a tool, hooks and a projector that answer as a function
does, and what came of a turn with them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from support.scripted import ScriptedCaller, calls, text

from lash_cli.api import (
    AfterToolCall,
    BeforeToolCall,
    FailureClass,
    FunctionToolProvider,
    LashSession,
    ShortCircuitTool,
    ToolContext,
    ToolProjection,
    TurnOutput,
    tool,
)
from lash_cli.core.content import ToolResultPart
from lash_cli.core.tools import ToolCallOutput, failure
from lash_cli.runtime.tracing import Tracer
from lash_cli.system import SystemClock, SystemIds

ONE = calls(("a", "work", '{"name":"first"}'))
BOTH = calls(("a", "work", '{"name":"first"}'), ("b", "work", '{"name":"second"}'))
DENIED = ShortCircuitTool(failure(FailureClass.PERMISSION_DENIED, "denied", "not that", source="plugin"))


class Job(msgspec.Struct):
    """What is asked for."""

    name: str


class Work:
    """A tool that says what it was called with, and how often it was."""

    def __init__(self, **options: Any) -> None:
        self.ran: list[str] = []
        self.answer: Callable[[Job, ToolContext], Awaitable[Any]] | None = None

        @tool(name="work", **options)
        async def work(job: Job, context: ToolContext) -> Any:
            self.ran.append(job.name)
            return f"did {job.name}" if self.answer is None else await self.answer(job, context)

        self.provider = FunctionToolProvider([work])


class Asked:
    """Somebody who remembers what he was asked and answers as a function of it does."""

    def __init__(self, decide: Callable[[Any], Any]) -> None:
        self.asked: list[Any] = []
        self.is_asked = asyncio.Event()
        self._decide = decide

    async def _answer(self, question: Any) -> Any:
        self.asked.append(question)
        self.is_asked.set()
        answer = self._decide(question)
        return await answer if asyncio.iscoroutine(answer) else answer


class Before(Asked):
    """A hook of what comes before a call."""

    def __init__(self, decide: Callable[[BeforeToolCall], Any], hook_id: str = "guard") -> None:
        super().__init__(decide)
        self.hook_id = hook_id

    async def before_tool_call(self, call: BeforeToolCall) -> Any:
        return await self._answer(call)


class After(Asked):
    """A hook of what comes after a call."""

    def __init__(self, decide: Callable[[AfterToolCall], Any], hook_id: str = "clerk") -> None:
        super().__init__(decide)
        self.hook_id = hook_id

    async def after_tool_call(self, call: AfterToolCall) -> Any:
        return await self._answer(call)


class Projector(Asked):
    """A projector of results."""

    async def project(self, result: ToolProjection) -> Any:
        return await self._answer(result)


class Sink:
    """A trace sink that keeps its records."""

    def __init__(self) -> None:
        self.records: list[Any] = []

    def append(self, record: Any) -> None:
        self.records.append(record)

    def flush(self) -> None:
        return

    def close(self) -> None:
        return

    def named(self, suffix: str) -> list[Any]:
        return [
            record.payload["payload"]
            for record in self.records
            if record.type == "custom" and record.payload["name"] == suffix
        ]


def always(*directives: object) -> Callable[[Any], Any]:
    return lambda call: directives


def outputs(output: TurnOutput) -> list[Any]:
    assert output.result is not None
    return [record.output for record in output.result.tool_calls]


def code_of(output: ToolCallOutput) -> str:
    outcome: Any = output.outcome
    return str(outcome.failure.code)


def told(session: LashSession) -> list[str]:
    """What the model read of results."""
    parts = [part for message in session.read_view().messages for part in message.parts]
    return [part.content for part in parts if isinstance(part, ToolResultPart)]


async def one_turn(make_core: Any, work: Work, *steps: Any, **options: Any) -> tuple[TurnOutput, list[str]]:
    core = make_core(ScriptedCaller([*(steps or (ONE,)), text("done")]), tools=[work.provider], **options)
    async with await core.open_session("s1") as session:
        return await session.turn("go").run(), told(session)


def breaks(call: object) -> Any:
    raise RuntimeError("a bug")


async def cancels_itself(call: object) -> Any:
    raise asyncio.CancelledError


def tracer_of(sink: Sink) -> Tracer:
    return Tracer(sink, clock=SystemClock(), ids=SystemIds(), redact=lambda text: text)
