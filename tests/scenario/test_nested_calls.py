"""Calls that a running tool makes: part of its attempt, and not where those are journalled (contract 05 §1.6, §3.2)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from support.clock import LIMIT_S
from support.scripted import ScriptedCaller, calls, text
from support.tools import GrantedTools

from lash_cli.api import (
    FunctionToolProvider,
    LashCore,
    ModelSpec,
    NestedCall,
    SafeRetry,
    ToolCallCompleted,
    ToolCallRecord,
    ToolCallStarted,
    ToolCatalogEntry,
    ToolContext,
    ToolExecutionGrant,
    ToolFault,
    Tracer,
    TraceRecord,
    TurnActivity,
    TurnOutput,
    tool,
)
from lash_cli.core.codec import decode
from lash_cli.core.effect import EffectEnvelope
from lash_cli.core.tools import FailureClass, RetryHint, failure, success
from lash_cli.errors import PluginRegistrationError
from lash_cli.settings.redact import redact
from lash_cli.system import SystemClock, SystemIds


class Nothing(msgspec.Struct):
    """No arguments."""


class Number(msgspec.Struct):
    """A number."""

    n: int


OUTER = calls(("a", "outer", "{}"))
Work = Callable[[ToolContext], Awaitable[Any]]


def provider(work: Work, **options: Any) -> FunctionToolProvider:
    """A source with `outer`, which does `work`, and `double`."""

    @tool(name="outer", **options)
    async def outer(args: Nothing, context: ToolContext) -> Any:
        return await work(context)

    @tool(name="double")
    async def double(args: Number, context: ToolContext) -> int:
        await asyncio.sleep(0.01 if args.n == 1 else 0)
        return 2 * args.n

    @tool(name="hang")
    async def hang(args: Nothing, context: ToolContext) -> None:
        await asyncio.Event().wait()

    return FunctionToolProvider([outer, double, hang])


def core_of(*tools: Any, **options: Any) -> LashCore:
    """A core without a store."""
    caller = ScriptedCaller([OUTER, text("done")])
    return LashCore(provider=caller, model=ModelSpec("m"), tools=tools, **options)


async def run(core: LashCore, on_end: Callable[[str], None] = lambda call_id: None) -> tuple[TurnOutput, list[Any]]:
    """One turn, and what was shown of its calls; `on_end` is told of each that is over."""
    shown: list[Any] = []

    async def watch(activity: TurnActivity) -> None:
        if isinstance(activity.event, ToolCallStarted | ToolCallCompleted):
            shown.append(activity.event)
        if isinstance(activity.event, ToolCallCompleted):
            on_end(activity.event.call_id)

    async with core:
        session = await core.open_session("s1")
        output = await session.turn("go").stream_to(watch)
        assert [
            entry.manifest.id for entry in session.tools().state().tools.values() if "deferred" in entry.manifest.id
        ] == []
    return output, shown


def told(records: tuple[ToolCallRecord, ...]) -> list[Any]:
    return [[record.call_id, record.tool, record.output.status] for record in records]


def values(output: TurnOutput) -> list[Any]:
    return [record.output.outcome.value for record in output.result.tool_calls]


async def test_a_tool_calls_others_and_has_their_results_in_order() -> None:
    granted = GrantedTools(source_id="plugins:1")

    async def work(context: ToolContext) -> Any:
        assert context.dispatch.manifest("double").name == "double"
        assert context.dispatch.manifest("deep") is None
        batch = [
            NestedCall("double", {"n": 1}),
            NestedCall("double", {"n": 2}),
            NestedCall("double", {"n": "x"}),
            NestedCall("nobody"),
            NestedCall(granted.grant("deep"), {"n": 3}),
        ]
        records = await context.dispatch.batch(batch)
        more = await context.dispatch.batch(batch[:1])
        assert await context.dispatch.batch([]) == ()
        return [*told(records), *told(more), records[1].output.outcome.value, records[4].output.outcome.value]

    output, shown = await run(core_of(provider(work), granted))
    assert values(output) == [
        [
            ["a.1.1", "double", "success"],
            ["a.1.2", "double", "success"],
            ["a.1.3", "double", "failure"],
            ["a.1.4", "nobody", "failure"],
            ["a.1.5", "deep", "success"],
            ["a.1.6", "double", "success"],
            4,
            [3, [1, {"route": "deep"}], {"route": "deep"}],
        ]
    ]
    assert [record.call_id for record in output.result.tool_calls] == ["a"], "the transcript has the calls of the model"
    nested = [event for event in shown if event.call_id != "a"]
    for kind in (ToolCallStarted, ToolCallCompleted):
        ids = sorted(event.call_id for event in nested if isinstance(event, kind))
        assert ids == [f"a.1.{number}" for number in range(1, 7)]
    assert {event.parent_call_id for event in nested} == {"a"}
    assert [event.parent_call_id for event in shown if event.call_id == "a"] == [None, None]


async def test_a_session_that_journals_refuses_them_and_runs_nothing(make_core) -> None:
    granted = GrantedTools(source_id="plugins:1")

    async def work(context: ToolContext) -> Any:
        return told(await context.dispatch.batch([NestedCall("double", {"n": 1}), NestedCall(granted.grant("deep"))]))

    core = make_core(ScriptedCaller([OUTER, text("done")]), tools=[provider(work), granted])
    async with await core.open_session("s1") as session:
        output = await session.turn("go").run()
    failed = output.result.tool_calls[0].output.outcome.failure
    assert (failed.failure_class, failed.code) == ("unavailable", "nested_tool_batch_refused")
    assert (output.result.assistant_message(), granted.ran) == ("done", [])


async def test_a_tool_sees_what_may_be_called_and_how_also_where_it_may_not_call_it(make_core) -> None:
    seen: list[Any] = []

    async def work(context: ToolContext) -> Any:
        seen.extend(context.dispatch.catalog())
        return context.dispatch.manifest("double").id

    source = provider(work)
    core = make_core(ScriptedCaller([OUTER, text("done")]), tools=[source])
    async with await core.open_session("s1") as session:
        await session.tools().set_membership("hang", False)
        assert values(await session.turn("go").run()) == ["double"]
    assert seen == [
        ToolCatalogEntry(tool_id, tool_id, "", contract=source.contract(tool_id)) for tool_id in ("double", "outer")
    ]


async def test_functions_that_are_not_offered_run_for_who_holds_a_grant() -> None:
    async def mint(args: Number, context: ToolContext) -> Any:
        return f"minted for {context.tool_execution_binding}"

    @tool(name="triple", prepare=mint)
    async def triple(args: Number, context: ToolContext) -> Any:
        return [3 * args.n, context.prepared_payload, context.tool_execution_binding]

    async def work(context: ToolContext) -> Any:
        assert context.dispatch.manifest("triple") is None and context.tool_execution_binding is None
        grants = [
            ToolExecutionGrant.of(source.definition(), source_id="plugins:1", execution_binding="here")
            for source in (triple, plain)
        ]
        records = await context.dispatch.batch([NestedCall(grant, {"n": 2}) for grant in grants])
        return [records[0].output.outcome.value, records[1].output.outcome.failure.code]

    @tool(name="plain")
    async def plain(args: Number, context: ToolContext) -> int:
        return args.n

    output, _ = await run(core_of(provider(work), FunctionToolProvider([plain], deferred=[triple])))
    assert values(output) == [[[6, "minted for here", "here"], "tool_unavailable"]]
    for tools, deferred in (([plain], [plain]), ([], [plain, plain])):
        with pytest.raises(PluginRegistrationError):
            FunctionToolProvider(tools, deferred=[msgspec.structs.replace(each) for each in deferred])


async def test_an_attempt_that_is_made_again_makes_its_calls_again(tmp_path) -> None:
    seen: list[str] = []

    async def work(context: ToolContext) -> Any:
        (record,) = await context.dispatch.batch([NestedCall("double", {"n": 1})])
        seen.append(record.call_id)
        if context.attempt == 1:
            raise ToolFault(FailureClass.EXECUTION, "again", "not yet", retry=RetryHint("safe"))
        return record.output.outcome.value

    output, shown = await run(core_of(provider(work, retry=SafeRetry(2))))
    assert (values(output), seen) == ([2], ["a.1.1", "a.2.1"])
    assert [event.call_id for event in shown if isinstance(event, ToolCallStarted)] == ["a", "a.1.1", "a.2.1"]


async def test_a_call_does_not_outlive_the_attempt_that_made_it() -> None:
    late: list[Any] = []

    async def work(context: ToolContext) -> Any:
        async def behind() -> None:
            try:
                await context.dispatch.batch([NestedCall("hang")])
            finally:
                with pytest.raises(ToolFault, match="over"):
                    await context.dispatch.batch([NestedCall("double", {"n": 1})])
                late.append("refused")

        late.append(asyncio.create_task(behind()))
        await asyncio.sleep(0.01)
        return "left"

    output, shown = await run(core_of(provider(work)))
    assert (values(output), late[1:], late[0].cancelled()) == (["left"], ["refused"], True)
    (ended,) = [event for event in shown if isinstance(event, ToolCallCompleted) and event.call_id == "a.1.1"]
    assert ended.output.status == "cancelled"


async def test_calls_of_a_tool_that_takes_too_long_are_told_to_be_over(pass_time: Callable[[], None]) -> None:
    async def work(context: ToolContext) -> Any:
        return told(await context.dispatch.batch([NestedCall("hang"), NestedCall("double", {"n": 2})]))

    def on_end(call_id: str) -> None:
        if call_id == "a.1.2":
            pass_time()

    output, shown = await run(core_of(provider(work, timeout_s=LIMIT_S)), on_end)
    assert output.result.tool_calls[0].output.outcome.failure.code == "tool_timeout"
    ended = {event.call_id: event.output.status for event in shown if isinstance(event, ToolCallCompleted)}
    assert ended == {"a": "failure", "a.1.1": "cancelled", "a.1.2": "success"}


async def test_a_tool_of_the_host_is_called_by_tools_and_not_by_a_model_that_guesses_its_name() -> None:
    async def work(context: ToolContext) -> Any:
        (record,) = await context.dispatch.batch([NestedCall("secret", {"n": 4})])
        return record.output.outcome.value

    @tool(name="secret")
    async def secret(args: Number, context: ToolContext) -> int:
        return args.n

    manifest = msgspec.structs.replace(secret.manifest, activation="internal")
    source = FunctionToolProvider([msgspec.structs.replace(secret, manifest=manifest)])
    caller = ScriptedCaller([calls(("a", "outer", "{}"), ("b", "secret", '{"n":1}')), text("done")])
    core = LashCore(provider=caller, model=ModelSpec("m"), tools=[provider(work), source])
    output, _ = await run(core)
    first, second = output.result.tool_calls
    text_of = "There is no tool named 'secret'."
    assert first.output == success(4)
    assert second.output == failure(FailureClass.UNAVAILABLE, "tool_unavailable", text_of, source="runtime")
    assert "secret" not in [offered.name for offered in caller.requests[0].tools]


async def test_a_trace_says_which_call_made_a_call() -> None:
    async def work(context: ToolContext) -> Any:
        return told(await context.dispatch.batch([NestedCall("double", {"n": 2})]))

    written: list[dict[str, Any]] = []

    class Sink:
        def append(self, record: TraceRecord) -> None:
            written.append(json.loads(record.line()))

        def flush(self) -> None:
            return None

        def close(self) -> None:
            return None

    await run(core_of(provider(work), tracer=Tracer(Sink(), clock=SystemClock(), ids=SystemIds(), redact=redact)))
    of_calls = [record for record in written if record["type"].startswith("tool_call_")]
    pairs = [(record["call_id"], record.get("parent_call_id")) for record in of_calls]
    assert pairs == [("a", None), ("a.1.1", "a"), ("a.1.1", "a"), ("a", None)]


def test_what_was_journalled_before_there_were_grants_is_what_is_asked_for_now() -> None:
    stored = (
        b'{"invocation":{"scope":{"type":"turn","session_id":"s","turn_id":"t"},"effect_id":"a",'
        b'"replay_key":"0:0:tool_batch:2:child:0:a:attempt:1"},'
        b'"command":{"kind":"tool_attempt","call":{"call_id":"a","tool_id":"t.a","tool_name":"a","args":{"n":1}},'
        b'"attempt":1,"max_attempts":2}}'
    )
    envelope = decode(stored, EffectEnvelope)
    assert (msgspec.json.encode(envelope, order="deterministic"), envelope.command.grant) == (stored, None)
