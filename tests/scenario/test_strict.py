"""A strict core: what foreign code raises comes out where it happened, for the tests of a host (contract 05 §3.6)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from support.scripted import ScriptedCaller, calls, text
from support.tools import ShyTools

from lash_cli.api import (
    FunctionToolProvider,
    LashCore,
    LashSession,
    ModelSpec,
    PendingCompletion,
    SqliteStore,
    TeeTraceSink,
    ToolContext,
    tool,
)
from lash_cli.core.llm import LlmRequest, LlmResponse
from lash_cli.core.protocols import EventSink
from lash_cli.core.queued_work import BatchState
from lash_cli.core.trace import TraceSink
from lash_cli.errors import LashRuntimeError, StoreError
from lash_cli.providers.retry import RetryingCaller
from lash_cli.runtime.drivers import QueueDriver
from lash_cli.runtime.tracing import Tracer
from lash_cli.system import SystemClock, SystemIds


class Broken(Exception):
    """What foreign code raises."""


class Nothing(msgspec.Struct):
    """No arguments."""


def tools(function: Callable[..., Awaitable[Any]], **options: Any) -> FunctionToolProvider:
    return FunctionToolProvider([tool(name="work", **options)(function)])


async def breaks(args: Nothing, context: ToolContext) -> str:
    raise Broken("in a tool")


async def works(args: Nothing, context: ToolContext) -> str:
    return "done"


ONE = calls(("a", "work", "{}"))
BOTH = calls(("a", "work", "{}"), ("b", "work", "{}"))


class Policy:
    """An approval policy with a bug."""

    async def decide(self, manifest: object, call: object) -> str | None:
        raise Broken("in a policy")


class Driver:
    """A driver with a bug."""

    def notify(self, session_id: str, reason: str) -> None:
        raise Broken("in a driver")

    async def aclose(self) -> None:
        return


class Sink:
    """A trace sink with a bug."""

    def append(self, record: object) -> None:
        raise Broken("in a sink")

    def flush(self) -> None:
        return

    def close(self) -> None:
        return


class Provider:
    """A provider with a bug."""

    kind = "broken"

    async def complete(self, request: LlmRequest, sink: EventSink) -> LlmResponse:
        raise Broken("in a provider")

    async def aclose(self) -> None:
        return


class Counting:
    """A trace sink that counts its records."""

    count = 0

    def append(self, record: object) -> None:
        self.count += 1

    def flush(self) -> None:
        return

    def close(self) -> None:
        return


class Source(FunctionToolProvider):
    """A source of tools that gets a bug."""

    is_broken = False

    def manifests(self) -> Any:
        if self.is_broken:
            raise Broken("in a source")
        return super().manifests()


def tracer(sink: TraceSink | None = None) -> Tracer:
    return Tracer(sink or Sink(), clock=SystemClock(), ids=SystemIds(), redact=lambda text: text)


@pytest.mark.parametrize("answer", [ONE, BOTH], ids=["one call", "two calls"])
async def test_what_a_tool_raises_comes_out_of_its_turn_which_can_be_finished_later(make_core, answer) -> None:
    session = await make_core(ScriptedCaller([answer]), tools=[tools(breaks)], strict=True).open_session("s1")
    with pytest.raises(Broken, match="in a tool"):
        await session.turn("go").run()
    await session.close()
    async with await make_core(ScriptedCaller([text("so be it")]), tools=[tools(works)]).open_session("s1") as again:
        assert (await again.redrive().run()).result.assistant_message() == "so be it"


async def test_what_one_tool_raises_comes_out_and_not_that_it_ended_the_one_beside_it(make_core) -> None:
    async def breaks_second(args: Nothing, context: ToolContext) -> str:
        if context.call_id == "a":
            await asyncio.Event().wait()
        raise Broken("in the second")

    async with await make_core(ScriptedCaller([BOTH]), tools=[tools(breaks_second)], strict=True).open_session(
        "s1"
    ) as session:
        with pytest.raises(Broken, match="in the second"):
            await session.turn("go").run()


async def test_what_a_source_raises_that_is_asked_for_a_tool_comes_out(make_core) -> None:
    class Asked(ShyTools):
        def resolve_manifest(self, name: str) -> Any:
            raise Broken("in a source")

    async with await make_core(ScriptedCaller([ONE]), tools=[Asked()], strict=True).open_session("s1") as session:
        with pytest.raises(Broken, match="in a source"):
            await session.turn("go").run()


async def test_without_a_store_it_comes_out_too() -> None:
    async with LashCore(
        provider=ScriptedCaller([ONE]), model=ModelSpec("m"), tools=[tools(breaks)], strict=True
    ) as core:
        with pytest.raises(Broken, match="in a tool"):
            await (await core.open_session("s1")).turn("go").run()


async def test_what_a_policy_raises_comes_out(make_core) -> None:
    core = make_core(ScriptedCaller([ONE]), tools=[tools(works)], approval=Policy(), strict=True)
    with pytest.raises(Broken, match="in a policy"):
        await (await core.open_session("s1")).turn("go").run()


async def test_what_a_driver_raises_comes_out(make_core) -> None:
    core = make_core(ScriptedCaller([]), queue_driver=Driver(), strict=True)
    session = await core.open_session("s1")
    with pytest.raises(Broken, match="in a driver"):
        await session.enqueue("later")


async def test_what_a_trace_sink_raises_comes_out(make_core) -> None:
    with pytest.raises(Broken, match="in a sink"):
        await make_core(ScriptedCaller([]), tracer=tracer(), strict=True).open_session("s1")


async def test_what_a_sink_behind_a_tee_raises_comes_out_once_every_sink_was_tried(make_core) -> None:
    first, last = Counting(), Counting()
    tee = TeeTraceSink([first, TeeTraceSink([Sink(), last])])
    with pytest.raises(Broken, match="in a sink"):
        await make_core(ScriptedCaller([]), tracer=tracer(tee), strict=True).open_session("s1")
    assert first.count == last.count == 1


async def test_a_tee_contains_what_its_sinks_raise_in_every_other_core(make_core) -> None:
    last = Counting()
    await make_core(ScriptedCaller([]), tracer=tracer(TeeTraceSink([Sink(), last]))).open_session("s1")
    assert last.count == 1


@pytest.mark.parametrize("way", ["drain", "turn", "step"])
async def test_what_a_source_raises_in_a_command_of_the_queue_comes_out_and_the_command_still_waits(
    make_core, way
) -> None:
    source = Source([tool(name="work")(works)])
    session = await make_core(ScriptedCaller([]), tools=[source], strict=True).open_session("s1")
    source.is_broken = True
    receipt = await session.commands().refresh_tool_catalog("look again", "k1")
    with pytest.raises(Broken, match="in a source"):
        if way == "drain":
            await session.queued_turn().run()
        elif way == "turn":
            await session.turn("go").run()
        else:
            await session.drain_next_session_command()
    assert [(batch.state, batch.last_error) for batch in await session.queued_work()] == [(BatchState.PENDING, None)]
    await session.close()
    async with await make_core(ScriptedCaller([]), tools=[tools(works)]).open_session("s1") as again:
        await again.queued_turn().run()
        assert (await again.await_queued_work_batch(receipt.batch_id)).state is BatchState.COMPLETED


async def test_what_a_provider_raises_comes_out_as_what_it_was(make_core) -> None:
    core = make_core(RetryingCaller(Provider()), strict=True)
    with pytest.raises(LashRuntimeError, match="Broken: in a provider") as raised:
        await (await core.open_session("s1")).turn("go").run()
    assert raised.value.code == "provider_panicked"


def in_a_tool() -> dict[str, Any]:
    return {"provider": ScriptedCaller([ONE], repeat=True), "tools": [tools(breaks)]}


def in_a_provider() -> dict[str, Any]:
    return {"provider": RetryingCaller(Provider()), "tools": []}


IN_THE_BACKGROUND = pytest.mark.parametrize(
    ("options", "kind", "match"),
    [(in_a_tool, Broken, "in a tool"), (in_a_provider, LashRuntimeError, "Broken: in a provider")],
)


@IN_THE_BACKGROUND
async def test_what_is_raised_in_the_background_comes_out_as_the_core_is_closed(
    tmp_path, options, kind, match, caplog
) -> None:
    store = SqliteStore.open(tmp_path / "lash.db")
    core = LashCore(store=store, model=ModelSpec("m"), queue_driver="inline", strict=True, **options())
    await (await core.open_session("s1")).enqueue("go")
    await (await core.open_session("s2")).enqueue("go")
    assert isinstance(core._driver, QueueDriver)
    await core._driver.settled()
    assert "wake_terminal s1" in caplog.text, "and is told at once"
    with pytest.raises(kind, match=match):
        await core.aclose()
    with pytest.raises(StoreError, match="closed"):
        await store.session_row("s1")
    async with LashCore(
        provider=ScriptedCaller([text("well")]), store=SqliteStore.open(store.db.path), model=ModelSpec("m")
    ) as again:
        assert await again.running_turn("s1") is not None, "its turn is left unfinished"


@IN_THE_BACKGROUND
async def test_what_is_raised_in_a_worker_ends_it(make_core, options, kind, match) -> None:
    given = options()
    core = make_core(given.pop("provider"), strict=True, **given)
    session = await core.open_session("s1")
    await session.enqueue("go")
    with pytest.raises(kind, match=match):
        await core.worker().run()
    row = await core.store.session_row("s1")
    assert row is not None and row.meta.held_at_ms is None
    assert await core.running_turn("s1") is not None


async def test_what_ends_external_work_and_raises_comes_out(make_core) -> None:
    handed = asyncio.Event()

    @tool(name="work")
    async def hand_over(args: Nothing, context: ToolContext) -> PendingCompletion:
        await context.completion_key()
        handed.set()
        return PendingCompletion()

    async def gone(call: object, key: object) -> None:
        raise Broken("outside")

    provider = FunctionToolProvider([hand_over], on_cancel=gone)
    session = await make_core(ScriptedCaller([ONE]), tools=[provider], strict=True).open_session("s1")
    running = asyncio.create_task(session.turn("go").run())
    await handed.wait()
    session.cancel_running_turns()
    with pytest.raises(Broken, match="outside"):
        await running


async def test_what_a_source_of_tools_raises_comes_out(make_core) -> None:
    class Unreadable(FunctionToolProvider):
        def contract(self, tool_id: str) -> Any:
            raise Broken("in a source")

    source = Unreadable([tool(name="work")(works)])
    session = await make_core(ScriptedCaller([]), tools=[source], strict=True).open_session("s1")
    with pytest.raises(Broken, match="in a source"):
        await session.turn("go").run()


async def test_every_other_core_contains_them_all(make_core) -> None:
    async def run(session: LashSession) -> str | None:
        return (await session.turn("go").run()).result.assistant_message()

    core = make_core(ScriptedCaller([ONE, text("well")]), tools=[tools(breaks)], queue_driver=Driver(), tracer=tracer())
    async with await core.open_session("s1") as session:
        assert await run(session) == "well"
