"""Hooks of tool calls and the projector of their results in whole turns (contract 05 §1.4, §3.1, §4.4)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from support.driving import Crash, CrashPoints, said
from support.nesting import nested
from support.scripted import ScriptedCaller, calls, text
from support.tool_hooks import (
    BOTH,
    DENIED,
    ONE,
    After,
    Before,
    Job,
    Projector,
    Sink,
    Work,
    always,
    breaks,
    cancels_itself,
    code_of,
    one_turn,
    outputs,
    told,
    tracer_of,
)

from lash_cli.api import (
    AbortTurn,
    AfterToolCall,
    AwaitEventKey,
    BeforeToolCall,
    EmitRuntimeEvents,
    EmitTrace,
    EnqueueMessages,
    FailureClass,
    Inline,
    LashCore,
    ModelSpec,
    NestedCall,
    PendingCompletion,
    PluginCustom,
    PluginMessage,
    PluginRuntime,
    ReplaceToolArgs,
    ResolvedOk,
    RetryHint,
    SafeRetry,
    ShortCircuitTool,
    Stored,
    ToolCallCompleted,
    ToolCallStarted,
    ToolContext,
    ToolFault,
)
from lash_cli.core.codec import MAX_KEPT_DEPTH
from lash_cli.core.content import PluginOrigin, ToolResultPart
from lash_cli.core.tools import ToolCallOutput, ToolSuccess, failure, success
from lash_cli.errors import PluginRegistrationError


def left_pending(work: Work) -> asyncio.Queue[AwaitEventKey]:
    """Have calls of the tool completed from outside; their keys come here."""
    keys: asyncio.Queue[AwaitEventKey] = asyncio.Queue()

    async def leaves_pending(job: Job, context: ToolContext) -> Any:
        keys.put_nowait(await context.completion_key())
        return PendingCompletion()

    work.answer = leaves_pending
    return keys


async def test_a_hook_sees_the_call_before_it_is_validated_and_its_arguments_are_validated(make_core) -> None:
    work = Work()
    hook = Before(always(ReplaceToolArgs({"name": 7})))
    output, _ = await one_turn(make_core, work, calls(("a", "work", '{"wrong":1}')), tool_hooks=[hook])
    (seen,) = hook.asked
    assert (seen.session_id, seen.call_id, seen.tool_name, seen.args) == ("s1", "a", "work", {"wrong": 1})
    assert (code_of(outputs(output)[0]), work.ran) == ("invalid_tool_args", [])


async def test_a_hook_mends_arguments_that_are_no_json(make_core) -> None:
    work = Work()
    hook = Before(lambda call: (ReplaceToolArgs({"name": call.args.strip("{")}),))
    output, _ = await one_turn(make_core, work, calls(("a", "work", "{mended")), tool_hooks=[hook])
    assert (outputs(output), work.ran) == ([success("did mended")], ["mended"])


async def test_a_call_is_made_with_the_arguments_a_hook_put_in_place(make_core) -> None:
    work = Work()
    guard = Before(always())
    after = After(always())
    hooks = [guard, Before(always(ReplaceToolArgs({"name": "other"})), "mender"), after]
    output, texts = await one_turn(make_core, work, tool_hooks=hooks)
    assert (work.ran, texts) == (["other"], ["did other"])
    assert [(call.args, call.is_inspection) for call in guard.asked] == [
        ({"name": "first"}, False),
        ({"name": "other"}, True),
    ]
    assert after.asked[0].args == {"name": "other"}
    # A record tells what the model asked for, as the transcript does.
    assert output.result is not None and output.result.tool_calls[0].args == {"name": "first"}


@pytest.mark.parametrize(
    ("directives", "expected"),
    [
        ((ShortCircuitTool(success("from memory")),), success("from memory")),
        ((DENIED, ShortCircuitTool(success("from memory"))), DENIED.output),
    ],
)
async def test_an_answer_of_a_hook_is_the_result_and_the_tool_is_not_run(
    make_core, directives: Sequence[object], expected: ToolCallOutput
) -> None:
    work = Work()
    after = After(always())
    hooks = [Before(always(directive), f"h{index}") for index, directive in enumerate(directives)]
    output, _ = await one_turn(make_core, work, tool_hooks=[*hooks, after])
    assert (outputs(output), work.ran, after.asked) == ([expected], [], [])


async def test_an_abort_fails_the_call_and_not_the_turn(make_core) -> None:
    work = Work()
    output, texts = await one_turn(make_core, work, tool_hooks=[Before(always(AbortTurn("stop", "not that one")))])
    assert (code_of(outputs(output)[0]), work.ran) == ("tool_error", [])
    assert texts == ["[Tool execution failed]\nnot that one"]
    assert output.result is not None and output.result.assistant_message() == "done"


@pytest.mark.parametrize(
    "decide",
    [
        breaks,
        cancels_itself,
        always("no directive"),
        lambda call: "no list",
        lambda call: DENIED,
        always(ReplaceToolArgs({"name": object()})),
        always(ReplaceToolArgs({"name": "first", "more": nested(MAX_KEPT_DEPTH)})),
        always(ShortCircuitTool("no output")),  # type: ignore[arg-type]
        always(DENIED, 7),
    ],
)
@pytest.mark.parametrize("point", ["before", "after"])
async def test_a_hook_that_fails_is_the_failed_result_of_its_call(make_core, decide: Any, point: str) -> None:
    work = Work()
    hook: Any = Before(decide) if point == "before" else After(decide)
    output, _ = await one_turn(make_core, work, tool_hooks=[hook])
    (failed,) = outputs(output)
    assert (failed.outcome.failure.failure_class, failed.outcome.failure.source) == ("internal", "plugin")
    assert failed.outcome.failure.code == f"{point}_tool_call_failed"
    assert hook.hook_id in failed.outcome.failure.message
    assert (work.ran, output.result.assistant_message()) == ([] if point == "before" else ["first"], "done")


async def test_a_directive_that_has_no_place_behind_a_call_is_named(make_core) -> None:
    output, texts = await one_turn(make_core, Work(), tool_hooks=[After(always(ReplaceToolArgs({"name": "x"})))])
    assert code_of(outputs(output)[0]) == "after_tool_call_failed"
    assert "replace_tool_args is no directive of after_tool_call" in texts[0]


async def test_two_replacements_of_arguments_fail_the_call_and_are_traced(make_core) -> None:
    work, sink = Work(), Sink()
    hooks = [Before(always(ReplaceToolArgs({"name": name})), name) for name in ("x", "y")]
    output, _ = await one_turn(make_core, work, tool_hooks=hooks, tracer=tracer_of(sink))
    assert (code_of(outputs(output)[0]), work.ran) == ("before_tool_call_replacement_conflict", [])
    (conflict,) = sink.named("before_tool_call.directive_conflict")
    assert (conflict["winner"], conflict["ignored"], conflict["call_id"]) == ("x", "y", "a")


async def test_what_a_tool_answered_is_replaced_and_of_two_replacements_the_first_stands(make_core) -> None:
    sink = Sink()
    hooks = [After(always(ShortCircuitTool(success(name))), name) for name in ("y", "x")]
    output, texts = await one_turn(make_core, Work(), tool_hooks=hooks, tracer=tracer_of(sink))
    assert (outputs(output), texts) == ([success("y")], ["y"])
    assert [hook.asked[0].output for hook in hooks] == [success("did first")] * 2
    (conflict,) = sink.named("after_tool_call.directive_conflict")
    assert conflict["code"] == "after_tool_call_replacement_conflict"


async def test_hooks_show_and_trace_what_they_have_to_say_under_their_id(make_core) -> None:
    sink = Sink()
    event = PluginCustom("seen", {"n": 1})
    said = (EmitRuntimeEvents((event,)), EmitTrace("noted", {"n": 2}))
    hooks = [Before(always(*said)), After(always(*said))]
    core = make_core(
        ScriptedCaller([ONE, text("done")]), tools=[Work().provider], tool_hooks=hooks, tracer=tracer_of(sink)
    )
    async with await core.open_session("s1") as session, session.turn("go").stream() as stream:
        shown = [activity.event async for activity in stream]
    kinds = (ToolCallStarted, PluginRuntime, ToolCallCompleted)
    assert [item if isinstance(item, PluginRuntime) else type(item) for item in shown if isinstance(item, kinds)] == [
        ToolCallStarted,
        PluginRuntime("guard", event),
        PluginRuntime("clerk", event),
        ToolCallCompleted,
    ]
    assert (sink.named("plugin.guard.noted"), sink.named("plugin.clerk.noted")) == ([{"n": 2}], [{"n": 2}])


@pytest.mark.parametrize("crash", [None, "after:hook_after_recorded", "after:model_recorded"])
async def test_the_model_reads_what_hooks_enqueue_behind_the_results_in_the_order_of_the_calls(
    make_core, crash: str | None
) -> None:
    async def sleeps(job: Job, context: ToolContext) -> str:
        await asyncio.sleep(0.05 if job.name == "first" else 0)
        return job.name

    work = Work()
    work.answer = sleeps
    after = After(lambda call: (EnqueueMessages((PluginMessage("user", f"mind {call.args['name']}"),)),))
    caller = ScriptedCaller([BOTH, text("done"), text("done")])
    points = CrashPoints(crash, 2) if crash is not None else None
    core = make_core(caller, tools=[work.provider], tool_hooks=[after], crash_point=points)
    session = await core.open_session("s1")
    if crash is None:
        await session.turn("go").run()
    else:
        with pytest.raises(Crash):
            await session.turn("go").run()
        session = await make_core(caller, tools=[work.provider], tool_hooks=[after]).open_session("s1")
        await session.redrive().run()
    assert said(session.read_view().messages) == ["go", "mind first", "mind second", "done"]
    assert said(caller.requests[1].messages) == ["go", "mind first", "mind second"]
    origins = [message.origin for message in session.read_view().messages if message.origin is not None]
    assert (origins, len(after.asked)) == ([PluginOrigin("clerk")] * 2, 2)
    await session.close()


async def test_hooks_are_asked_after_every_attempt_and_decide_whether_there_is_another(make_core) -> None:
    async def fails(job: Job, context: ToolContext) -> Any:
        raise ToolFault(FailureClass.EXECUTION, "again", "not yet", retry=RetryHint("safe"))

    work = Work(retry=SafeRetry(5))
    work.answer = fails
    after = After(lambda call: (ShortCircuitTool(success("enough")),) if call.attempt == 3 else ())
    output, _ = await one_turn(make_core, work, tool_hooks=[after])
    assert ([call.attempt for call in after.asked], outputs(output)) == ([1, 2, 3], [success("enough")])
    assert len(work.ran) == 3


async def test_a_call_that_is_completed_from_outside_is_shown_to_hooks_once_it_is(make_core) -> None:
    work = Work()
    keys = left_pending(work)
    after = After(always(ShortCircuitTool(success("seen"))))
    core = make_core(ScriptedCaller([ONE, text("done")]), tools=[work.provider], tool_hooks=[after])
    async with await core.open_session("s1") as session:
        running = asyncio.create_task(session.turn("go").run())
        key = await keys.get()
        assert after.asked == []
        await core.effect_host.resolve_await_event(key, ResolvedOk("from outside"))
        output = await running
    assert ([call.output for call in after.asked], outputs(output)) == ([success("from outside")], [success("seen")])


async def test_a_call_that_is_completed_from_outside_is_not_made_again_whatever_a_hook_makes_of_it(make_core) -> None:
    work = Work(retry=SafeRetry(5))
    keys = left_pending(work)
    broken = failure(FailureClass.EXECUTION, "broken", "it broke", retry=RetryHint("safe"))
    core = make_core(
        ScriptedCaller([ONE, text("done")]), tools=[work.provider], tool_hooks=[After(always(ShortCircuitTool(broken)))]
    )
    async with await core.open_session("s1") as session:
        running = asyncio.create_task(session.turn("go").run())
        await core.effect_host.resolve_await_event(await keys.get(), ResolvedOk("from outside"))
        output = await running
    assert (outputs(output), len(work.ran)) == ([broken], 1)


async def test_bytes_that_a_hook_attaches_are_stored_like_those_of_a_tool(make_core) -> None:
    attached = ToolCallOutput(ToolSuccess("look", (Inline("text/plain", b"bytes"),)))
    output, _ = await one_turn(make_core, Work(), tool_hooks=[Before(always(ShortCircuitTool(attached)))])
    (source,) = outputs(output)[0].attachments
    assert isinstance(source, Stored)


async def test_no_hook_changes_what_another_is_shown_in_passing(make_core) -> None:
    def changes(call: BeforeToolCall) -> None:
        call.args["name"] = "changed"

    async def listing(job: Job, context: ToolContext) -> Any:
        return {"items": [job.name]}

    def changes_result(call: AfterToolCall) -> None:
        call.output.outcome.value["items"].clear()

    work = Work()
    work.answer = listing
    seen, after = Before(always(), "seen"), After(always(), "after")
    hooks = [Before(changes), seen, After(changes_result), after]
    output, _ = await one_turn(make_core, work, tool_hooks=hooks)
    assert (seen.asked[0].args, work.ran) == ({"name": "first"}, ["first"])
    assert after.asked[0].output == outputs(output)[0] == success({"items": ["first"]})


async def test_a_call_of_an_unknown_tool_asks_no_hook_and_is_projected(make_core) -> None:
    hook, projector = Before(always()), Projector(lambda result: "short")
    unknown = calls(("a", "unknown", "{}"))
    _, texts = await one_turn(make_core, Work(), unknown, tool_hooks=[hook], tool_result_projector=projector)
    assert (hook.asked, texts) == ([], ["short"])


async def test_a_projector_changes_what_the_model_reads_and_nothing_else(make_core) -> None:
    work = Work()
    projector = Projector(lambda result: f"{result.text[:3]}…" if result.call_id == "a" else result.text)
    caller = ScriptedCaller([BOTH, text("done")])
    core = make_core(caller, tools=[work.provider], tool_result_projector=projector)
    async with await core.open_session("s1") as session:
        async with session.turn("go", key="once").stream() as stream:
            shown = [activity.event async for activity in stream]
            output = await stream.result()
        assert told(session) == ["did…", "did second"]
        # Who asks for the turn again gets the whole results too.
        again = await session.turn("go", key="once").run()
    assert outputs(output) == outputs(again) == [success("did first"), success("did second")]
    # Both calls run at once: which of them ends first is nobody's promise.
    ended = {event.call_id: event.output for event in shown if isinstance(event, ToolCallCompleted)}
    assert [ended["a"], ended["b"]] == outputs(output)
    sent = [
        part.content
        for message in caller.requests[1].messages
        for part in message.parts
        if isinstance(part, ToolResultPart)
    ]
    assert sent == ["did…", "did second"]


@pytest.mark.parametrize(
    ("project", "expected"),
    [
        (breaks, "[Tool result projection failed]\nRuntimeError: a bug"),
        (lambda result: 7, "[Tool result projection failed]\nTypeError: it answered int, no text"),
        (cancels_itself, "[Tool result projection failed]\nit cancelled itself"),
    ],
)
async def test_the_error_of_a_projector_is_what_the_model_reads(make_core, project: Any, expected: str) -> None:
    output, texts = await one_turn(make_core, Work(), tool_result_projector=Projector(project))
    assert (texts, outputs(output)) == ([expected], [success("did first")])


async def test_who_asks_for_a_turn_again_gets_the_whole_of_what_completed_a_call_from_outside(make_core) -> None:
    work = Work()
    keys = left_pending(work)
    core = make_core(
        ScriptedCaller([ONE, text("done")]),
        tools=[work.provider],
        tool_result_projector=Projector(lambda result: "short"),
    )
    async with await core.open_session("s1") as session:
        running = asyncio.create_task(session.turn("go", key="once").run())
        await core.effect_host.resolve_await_event(await keys.get(), ResolvedOk({"rows": [1, 2]}))
        first = await running
        again = await session.turn("go", key="once").run()
        assert told(session) == ["short"]
    assert outputs(first) == outputs(again) == [success({"rows": [1, 2]})]


async def test_who_asks_for_a_turn_again_gets_the_results_that_hooks_left(make_core) -> None:
    hooks = [
        Before(lambda call: (ShortCircuitTool(success("from memory")),) if call.call_id == "a" else ()),
        After(always(ShortCircuitTool(success("seen")))),
    ]
    core = make_core(ScriptedCaller([BOTH, text("done")]), tools=[Work().provider], tool_hooks=hooks)
    async with await core.open_session("s1") as session:
        first = await session.turn("go", key="once").run()
        again = await session.turn("go", key="once").run()
    assert outputs(first) == outputs(again) == [success("from memory"), success("seen")]


async def test_a_strict_core_lets_out_what_a_hook_raises(make_core) -> None:
    for plugins in (
        {"tool_hooks": [Before(breaks)]},
        {"tool_hooks": [After(breaks)]},
        {"tool_result_projector": Projector(breaks)},
    ):
        core = make_core(ScriptedCaller([ONE]), tools=[Work().provider], strict=True, **plugins)
        session = await core.open_session(f"s-{next(iter(plugins))}-{id(core)}")
        with pytest.raises(RuntimeError, match="a bug"):
            await session.turn("go").run()


async def test_hooks_work_in_a_core_without_a_store() -> None:
    work = Work()
    hooks = [Before(always(ReplaceToolArgs({"name": "other"}))), After(always(ShortCircuitTool(success("seen"))))]
    caller = ScriptedCaller([ONE, text("done")])
    async with (
        LashCore(
            provider=caller,
            model=ModelSpec("model-1"),
            tools=[work.provider],
            tool_hooks=hooks,
            tool_result_projector=Projector(lambda result: "short"),
        ) as core,
        await core.open_session("s1") as session,
    ):
        output = await session.turn("go").run()
        assert (told(session), outputs(output), work.ran) == (["short"], [success("seen")], ["other"])


async def test_a_call_that_a_tool_makes_has_its_hooks_and_no_projection() -> None:
    work = Work()

    async def asks_another(job: Job, context: ToolContext) -> Any:
        if job.name != "first":
            return f"did {job.name}"
        records = await context.dispatch.batch([NestedCall("work", {"name": name}) for name in ("one", "two")])
        return [record.output.status for record in records]

    work.answer = asks_another
    guard = Before(lambda call: (DENIED,) if call.args["name"] == "two" else ())
    projector = Projector(lambda result: result.text)
    async with (
        LashCore(
            provider=ScriptedCaller([ONE, text("done")]),
            model=ModelSpec("model-1"),
            tools=[work.provider],
            tool_hooks=[guard],
            tool_result_projector=projector,
        ) as core,
        await core.open_session("s1") as session,
    ):
        output = await session.turn("go").run()
    assert (outputs(output), work.ran) == ([success(["success", "failure"])], ["first", "one"])
    assert [result.call_id for result in projector.asked] == ["a"]


async def test_a_turn_without_hooks_leaves_no_row_of_them(make_core) -> None:
    points = CrashPoints()
    await one_turn(make_core, Work(), crash_point=points)
    assert not [point for point in points.trace if "hook" in point]


class Nameless:
    async def before_tool_call(self, call: BeforeToolCall) -> None:
        return None


class Idle:
    hook_id = "idle"


@pytest.mark.parametrize(
    "plugins",
    [
        {"tool_hooks": [Before(always()), After(always(), "guard")]},
        {"tool_hooks": [Before(always(), "  ")]},
        {"tool_hooks": [Before(always(), 7)]},  # type: ignore[arg-type]
        {"tool_hooks": [Before(always(), "\ud800")]},
        {"tool_hooks": [Nameless()]},
        {"tool_hooks": [Idle()]},
        {"tool_result_projector": object()},
    ],
)
def test_a_core_refuses_hooks_that_nobody_could_tell_apart_or_ask(plugins: dict[str, Any]) -> None:
    with pytest.raises(PluginRegistrationError):
        LashCore(provider=ScriptedCaller([]), model=ModelSpec("model-1"), **plugins)
