"""What a trace tells of whole turns, and that it costs none of them anything (contract 04 §9)."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.clock import ManualClock
from support.driving import Crash, CrashPoints
from support.scripted import ScriptedCaller, calls, error, text
from support.switching import Switching, switch
from support.wire import Reply, ScriptedTransport, text_reply, tool_calls_reply

from lash_cli.api import FunctionToolProvider, LashCore, ModelSpec, TraceContext, TraceLevel, Tracer, TraceRecord, tool
from lash_cli.core.outcome import Stopped
from lash_cli.core.policy import ProviderDefault, ReasoningDisabled, ReasoningEffort, SessionConfigPatch
from lash_cli.core.trace_events import Custom
from lash_cli.core.trace_limits import MAX_TEXT_CHARS
from lash_cli.errors import EffectDiverged, LashRuntimeError, SessionExecutionLeaseExpired
from lash_cli.providers.catalog import ProviderSettings, build_caller
from lash_cli.runtime.trace_documents import MAX_MESSAGES
from lash_cli.settings import redact as redactor
from lash_cli.system import SystemClock, SystemIds

KEY = "key-that-nobody-may-see"


class Kept:
    """A sink that keeps what it is given, as lines would be read back."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.closed = 0

    def append(self, record: TraceRecord) -> None:
        self.records.append(json.loads(record.line()))

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed += 1

    def of(self, *kinds: str) -> list[dict[str, Any]]:
        return [record for record in self.records if record["type"] in kinds]

    @property
    def kinds(self) -> list[str]:
        return [record["type"] for record in self.records]


class Broken(Kept):
    """A sink that takes nothing."""

    def append(self, record: TraceRecord) -> None:
        raise OSError("no room left")

    def flush(self) -> None:
        raise OSError("no disk")

    def close(self) -> None:
        raise OSError("no handle")


def tracer_of(sink: Kept, level: TraceLevel = TraceLevel.STANDARD, **options: Any) -> Tracer:
    return Tracer(sink, clock=SystemClock(), ids=SystemIds(), redact=redactor.redact, level=level, **options)


class Number(msgspec.Struct):
    """A number to work on."""

    value: int


@tool(name="double")
async def double(args: Number, context: object) -> int:
    """Twice the number."""
    return args.value * 2


@tool(name="spill")
async def spill(args: Number, context: object) -> str:
    """Tells a secret and a long story."""
    return f"the key is {KEY}, and https://me:hunter2@host/ " + "x" * (MAX_TEXT_CHARS * args.value)


def tools() -> list[FunctionToolProvider]:
    return [FunctionToolProvider([double, spill])]


def retrying(transport: ScriptedTransport, tracer: Tracer) -> Any:
    """A real provider behind a real ladder that waits on a manual clock."""
    settings = ProviderSettings("wire", "openai_chat", "http://127.0.0.1:9/v1", KEY, {})

    def on_request(url: str, body: bytes) -> None:
        tracer.provider_request("wire", url, body)

    return build_caller(
        settings,
        clock=ManualClock(auto_advance=True),
        ids_bits=lambda _: 0,
        transport=transport,
        on_request=on_request,
        on_event=lambda data: tracer.provider_event("wire", data),
    )


async def test_two_parallel_tools_and_a_retry_leave_one_pair_each_under_their_turn(make_core) -> None:
    sink = Kept()
    tracer = tracer_of(sink)
    transport = ScriptedTransport(
        tool_calls_reply([("double", {"value": 1}), ("double", {"value": 2})]),
        Reply((b"busy",), status=503, headers={"content-type": "text/plain"}),
        text_reply("2 and 4"),
    )
    core = make_core(retrying(transport, tracer), tools=tools(), tracer=tracer)
    async with await core.open_session("s1") as session:
        output = await session.turn("go", turn_id="t1").run()
    assert output.result.assistant_message() == "2 and 4"

    assert Counter(sink.kinds) == {
        "session_started": 1,
        "turn_started": 1,
        "turn_completed": 1,
        "prompt_built": 1,
        "llm_call_started": 2,
        "llm_call_completed": 2,
        "tool_call_started": 2,
        "tool_call_completed": 2,
        "token_usage": 2,
        "custom": 2,
    }
    spans = Counter(
        (record["context"]["graph_node_id"], record["type"].rpartition("_")[2])
        for record in sink.of("llm_call_started", "llm_call_completed", "tool_call_started", "tool_call_completed")
    )
    assert set(spans.values()) == {1} and len(spans) == 8
    assert {record["context"].get("parent_graph_node_id") for record in sink.records} == {
        None,
        "session:s1",
        "turn:s1:t1",
    }
    assert [record["type"] for record in sink.records if "parent_graph_node_id" not in record["context"]] == [
        "session_started"
    ]
    attempts = [[attempt["outcome"] for attempt in record["attempts"]] for record in sink.of("llm_call_completed")]
    assert attempts == [["completed"], ["failed", "completed"]]
    assert {record["schema_version"] for record in sink.records} == {2}
    assert len({record["id"] for record in sink.records}) == len(sink.records)


async def test_the_records_say_what_was_asked_answered_called_and_spent(make_core) -> None:
    sink = Kept()
    caller = ScriptedCaller([calls(("a", "double", '{"value":4}'), tokens=(7, 3)), text("eight", tokens=(9, 1))])
    core = make_core(caller, tools=tools(), tracer=tracer_of(sink, context=TraceContext(run_id="r1")))
    async with await core.open_session("s1", name="numbers") as session:
        await session.turn("double four", turn_id="t1").run()

    assert sink.records[0]["metadata"] == {"name": "numbers", "provider": "scripted", "model": "model-1", "messages": 0}
    first, second = sink.of("llm_call_started")
    assert [message["role"] for message in first["request"]["messages"]] == ["user"]
    assert first["request"]["messages"][0]["parts"] == [{"kind": "text", "content": "double four"}]
    assert {offered["name"] for offered in first["request"]["tools"]} == {"double", "spill"}
    assert [message["role"] for message in second["request"]["messages"]] == ["user", "assistant", "user"]
    assert sink.of("llm_call_completed")[1]["response"]["text"] == "eight"
    (started,) = sink.of("tool_call_started")
    (completed,) = sink.of("tool_call_completed")
    assert (started["call_id"], started["name"], started["args"]) == ("a", "double", {"value": 4})
    assert completed["output"] == {"outcome": {"status": "success", "payload": 8}}
    usages = sink.of("token_usage")
    assert usages[0]["usage"] == {"input_tokens": 7, "output_tokens": 3}
    assert usages[1]["cumulative"] == {"input_tokens": 16, "output_tokens": 4}
    assert [record["context"]["protocol_iteration"] for record in usages] == [0, 1]
    (ended,) = sink.of("turn_completed")
    assert (ended["status"], ended["done_reason"]) == ("completed", "assistant_message")
    assert {record["context"]["run_id"] for record in sink.records} == {"r1"}
    assert [record["name"] for record in sink.of("custom")] == ["turn_input.claimed", "turn_input.completed"]


async def test_the_shape_that_was_asked_of_an_answer_is_traced_with_the_request(make_core) -> None:
    sink = Kept()
    core = make_core(ScriptedCaller([text('{"n": 2}'), text("two")]), tracer=tracer_of(sink))
    shape = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    async with await core.open_session("s1") as session:
        await session.turn("how many", output=shape).run()
        await session.turn("and in words").run()
    shaped, free = (record["request"] for record in sink.of("llm_call_started"))
    assert (shaped["output_spec"]["type"], shaped["output_spec"]["schema"]) == ("json_schema", shape)
    assert "output_spec" not in free


async def test_the_effort_that_was_asked_of_a_model_is_traced_by_its_name(make_core) -> None:
    sink = Kept()
    core = make_core(ScriptedCaller([text("1"), text("2"), text("3")]), tracer=tracer_of(sink))
    async with await core.open_session("s1") as session:
        for variant in (ReasoningEffort("high"), ReasoningDisabled(), ProviderDefault()):
            await session.configure(SessionConfigPatch(model=ModelSpec("m", variant)))
            await session.turn("hi").run()
    asked = [record["request"].get("model_variant") for record in sink.of("llm_call_started")]
    assert asked == ["high", "off", None]


async def test_work_is_traced_from_the_commit_that_left_it_to_the_one_that_settles_it(make_core) -> None:
    sink = Kept()
    caller = ScriptedCaller([switch("f2", "finish it"), text("finished")])
    core = make_core(caller, tools=[Switching()], tracer=tracer_of(sink))
    async with await core.open_session("s1") as session:
        await session.turn("begin", turn_id="root").run()
    told = {record["name"]: record for record in sink.of("custom") if record["name"].startswith("queued_work.")}
    assert list(told) == ["queued_work.enqueued", "queued_work.claimed", "queued_work.completed"]
    assert [record["context"]["turn_id"] for record in told.values()] == ["root", *["root:agent-frame:1"] * 2]
    (batch_ids,) = {tuple(record["payload"]["batch_ids"]) for record in told.values()}
    assert len(batch_ids) == 1


async def test_what_was_sent_and_streamed_is_traced_at_the_extended_level_only(make_core) -> None:
    for level, expected in ((TraceLevel.STANDARD, 0), (TraceLevel.EXTENDED, 1)):
        sink = Kept()
        tracer = tracer_of(sink, level)
        transport = ScriptedTransport(text_reply("one two three"))
        core = make_core(retrying(transport, tracer), tracer=tracer)
        async with await core.open_session(f"s-{level}") as session:
            await session.turn("hi", turn_id="t1").run()
        sent = sink.of("provider_request")
        assert len(sent) == expected
        assert len(sink.of("runtime_stream_event")) == 3 * expected
        assert (len(sink.of("provider_stream_event")) > 0) == bool(expected)
        if expected:
            event = sent[0]["event"]
            body = transport.requests[0].body
            assert (event["body_len"], event["body_sha256"]) == (len(body), hashlib.sha256(body).hexdigest())
            assert event["body_json"] == json.loads(body)
            assert event["endpoint"] == "http://127.0.0.1:9/v1/chat/completions"
            (call,) = sink.of("llm_call_started")
            assert sent[0]["context"]["parent_graph_node_id"] == call["context"]["graph_node_id"]
            assert "graph_node_id" not in sent[0]["context"]


async def test_every_event_a_provider_streamed_is_traced_as_it_came_over_all_attempts(make_core) -> None:
    sink = Kept()
    tracer = tracer_of(sink, TraceLevel.EXTENDED)
    broken = Reply((b'data: {"object":"first"}\n\n', b"data: not json\n\n"))
    whole = text_reply("z" * 2_500)
    core = make_core(retrying(ScriptedTransport(broken, whole), tracer), tracer=tracer)
    async with await core.open_session("s1") as session:
        output = await session.turn("hi").run()
    assert output.result.assistant_message() == "z" * 2_500
    records = sink.of("provider_stream_event")
    events = [record["event"] for record in records]
    assert [event["sequence"] for event in events] == list(range(len(events)))
    datas = [line[6:] for line in b"".join((*broken.chunks, *whole.chunks)).splitlines() if line.startswith(b"data: ")]
    assert [(event["raw_len"], event["raw_sha256"]) for event in events] == [
        (len(data), hashlib.sha256(data).hexdigest()) for data in datas
    ]
    assert events[0]["event_name"] == "first" and events[0]["raw_json"] == {"object": "first"}
    assert events[1]["event_name"] == "data" and "raw_json" not in events[1]
    (long,) = [event for event in events if event["raw_len"] > 2_500]
    assert long["event_name"] == "chat.completion.chunk" and "raw_json" not in long
    (call,) = sink.of("llm_call_started")
    assert {record["context"]["parent_graph_node_id"] for record in records} == {call["context"]["graph_node_id"]}


async def test_a_long_request_is_named_by_length_and_hash_instead_of_being_embedded(make_core) -> None:
    sink = Kept()
    tracer = tracer_of(sink, TraceLevel.EXTENDED)
    transport = ScriptedTransport(text_reply("ok"))
    core = make_core(retrying(transport, tracer), tracer=tracer)
    async with await core.open_session("s1") as session:
        await session.turn("y" * 3_000).run()
    event = sink.of("provider_request")[0]["event"]
    assert event["body_json_omitted_reason"] == "size_limit"
    assert "body_json" not in event
    assert event["body_len"] == len(transport.requests[0].body) > 3_000


def test_an_address_is_traced_without_credentials_and_query_and_a_body_that_is_no_json_is_not_embedded() -> None:
    sink = Kept()
    tracer = tracer_of(sink, TraceLevel.EXTENDED)
    tracer.provider_request("p", "https://me:pw@host:8443/v1/x?key=abc", b"\xff\x00")
    event = sink.records[0]["event"]
    assert event["endpoint"] == "https://host:8443/v1/x"
    assert event["body_json_omitted_reason"] == "invalid_json"


async def test_a_failed_model_call_and_the_turn_it_ends_are_recorded(make_core) -> None:
    sink = Kept()
    core = make_core(ScriptedCaller([error("auth", code="invalid_api_key")]), tracer=tracer_of(sink))
    async with await core.open_session("s1") as session:
        output = await session.turn("hi").run()
    assert output.result.outcome == Stopped("provider_error")
    (failed,) = sink.of("llm_call_failed")
    assert (failed["error"]["code"], failed["error"]["retryable"]) == ("invalid_api_key", False)
    assert not sink.of("llm_call_completed")
    (ended,) = sink.of("turn_completed")
    assert (ended["status"], ended["done_reason"]) == ("failed", "provider_error")
    assert ended["errors"][0]["code"] == "invalid_api_key"


async def test_a_turn_that_raises_closes_its_spans_with_the_code_of_the_error(make_core) -> None:
    sink = Kept()

    def lost(request: object) -> Any:
        raise SessionExecutionLeaseExpired("the lane was lost")

    core = make_core(ScriptedCaller([lost]), tracer=tracer_of(sink), strict=True)
    session = await core.open_session("s1")
    with pytest.raises(SessionExecutionLeaseExpired):
        await session.turn("hi").run()
    (failed,) = sink.of("llm_call_failed")
    (ended,) = sink.of("turn_completed")
    code = SessionExecutionLeaseExpired.default_code
    assert (failed["error"]["code"], ended["status"], ended["done_reason"]) == (code, "failed", code)


@pytest.mark.parametrize("level", list(TraceLevel))
@pytest.mark.parametrize("length", [1, 3000], ids=["short", "long"])
async def test_both_sides_of_a_replay_that_diverged_are_traced_at_the_extended_level_only(
    make_core, level: TraceLevel, length: int
) -> None:
    model = ModelSpec("m" * length)
    caller = ScriptedCaller([calls(("a", "double", '{"value":4}'))])
    first = make_core(caller, model=model, tools=tools(), crash_point=CrashPoints("after:tool_recorded"))
    with pytest.raises(Crash):
        await (await first.open_session("s1")).turn("go").run()
    sink = Kept()
    core = make_core(ScriptedCaller([]), model=model, tracer=tracer_of(sink, level))
    session = await core.open_session("s1")
    with pytest.raises(EffectDiverged) as diverged:
        await session.redrive().run()
    await core.aclose()
    shown = sink.of("effect_envelope_diff")
    if level is TraceLevel.STANDARD:
        assert shown == []
        return
    (record,) = shown
    assert sink.kinds[-2:] == ["effect_envelope_diff", "turn_completed"]
    assert (record["code"], record["first_divergent_paths"]) == (diverged.value.code, ["command.shape"])
    for side, hashed in (("stored", "stored_hash"), ("rebuilt", "rebuilt_hash")):
        assert record[side]["sha256"] == diverged.value.details[hashed]
        if length == 1:
            assert record[side]["value"]["command"]["kind"] == "llm_call"
            assert "omitted" not in record[side]
        else:
            assert record[side]["json_len"] > length
            assert (record[side]["omitted"], record[side].get("value")) == ("size_limit", None)
    if length == 1:
        assert record["stored"]["value"]["command"]["shape"] != record["rebuilt"]["value"]["command"]["shape"]


async def test_a_turn_whose_task_is_cancelled_closes_its_spans(make_core) -> None:
    sink = Kept()
    caller = ScriptedCaller([text("never")])
    caller.gate = asyncio.Event()
    session = await make_core(caller, tracer=tracer_of(sink)).open_session("s1")
    running = asyncio.ensure_future(session.turn("hi").run())
    await caller.entered.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert Counter(sink.kinds)["llm_call_started"] == len(sink.of("llm_call_failed", "llm_call_completed")) == 1
    assert len(sink.of("turn_completed")) == 1


async def test_a_call_read_from_the_journal_says_so(make_core) -> None:
    session = await make_core(ScriptedCaller([text("once")]), crash_point=CrashPoints("before:commit")).open_session(
        "s1"
    )
    with pytest.raises(Crash):
        await session.turn("hi", turn_id="t1").run()
    sink = Kept()
    async with await make_core(ScriptedCaller([]), tracer=tracer_of(sink)).open_session("s1") as other:
        output = await other.redrive().run()
    assert [result.turn_id for result in (*output.redriven, output.result) if result is not None] == ["t1"]
    (completed,) = sink.of("llm_call_completed")
    assert completed["replayed"] is True
    assert sink.of("turn_started")[0]["metadata"]["redriven"] is True


@pytest.mark.parametrize("level", list(TraceLevel))
async def test_a_sink_that_fails_at_everything_fails_no_turn_and_is_named_once(make_core, caplog, level) -> None:
    caller = ScriptedCaller([calls(("a", "double", '{"value":4}')), text("eight")])
    core = make_core(caller, tools=tools(), tracer=tracer_of(Broken(), level))
    with caplog.at_level(logging.WARNING, "lash.trace"):
        async with await core.open_session("s1") as session:
            output = await session.turn("hi").run()
        core.host.tracer.close()
    assert output.result.assistant_message() == "eight"
    messages = [record.getMessage() for record in caplog.records]
    with pytest.raises(LashRuntimeError) as caught:
        core.flush_trace_sink()
    assert caught.value.code == "trace_flush"
    assert messages[0] == "the trace is incomplete: OSError: no room left"
    assert len(messages) == 2 and messages[1].endswith("trace records were lost")


async def test_an_event_that_cannot_be_written_loses_only_itself(make_core, caplog) -> None:
    sink = Kept()
    tracer = tracer_of(sink)
    tracer.emit(Custom("bad", object()))
    tracer.emit(Custom("good", 1))
    assert [record["name"] for record in sink.records] == ["good"]


async def test_no_key_reaches_a_trace_by_prompt_tool_answer_error_or_request(make_core, tmp_path: Path) -> None:
    redactor.remember(KEY)
    sink = Kept()
    tracer = tracer_of(sink, TraceLevel.EXTENDED)
    transport = ScriptedTransport(
        tool_calls_reply([("spill", {"value": 1}), ("double", f'{{"value": "{KEY}"}}')], text=f"let me use {KEY}"),
        text_reply(f"it was {KEY}, sk-proj-abcdefgh12345678"),
        Reply((json.dumps({"error": {"message": f"bad key {KEY}"}}).encode(),), status=401),
    )
    core = make_core(retrying(transport, tracer), tools=tools(), tracer=tracer)
    async with await core.open_session("s1") as session:
        await session.turn(f"my key is {KEY} and sk-live-0123456789abcdef").run()
        await session.turn("again").run()
    trace = json.dumps(sink.records)
    for secret in (KEY, "sk-live-0123456789abcdef", "sk-proj-abcdefgh12345678", "hunter2"):
        assert secret not in trace
    assert trace.count(redactor.MASK) >= 6
    spilled = next(record for record in sink.of("tool_call_completed") if record["name"] == "spill")
    (cut,) = spilled["cut"]
    assert (cut["path"], cut["kept"], cut["unit"]) == ("output.outcome.payload", MAX_TEXT_CHARS, "characters")
    assert cut["length"] > MAX_TEXT_CHARS


async def test_of_a_long_conversation_the_newest_messages_are_shown_and_the_rest_is_counted(make_core) -> None:
    sink = Kept()
    core = make_core(ScriptedCaller([text("ok")], repeat=True), tracer=tracer_of(sink))
    turns = MAX_MESSAGES // 2 + 2
    async with await core.open_session("s1") as session:
        for number in range(turns):
            await session.turn(f"number {number}").run()
    request = sink.of("llm_call_started")[-1]["request"]
    assert request["messages_total"] == 2 * turns - 1
    assert len(request["messages"]) == MAX_MESSAGES
    assert request["messages"][-1]["parts"][0]["content"] == f"number {turns - 1}"


async def test_a_session_without_a_store_is_traced_alike() -> None:
    sink = Kept()
    core = LashCore(provider=ScriptedCaller([text("hi")]), model=ModelSpec("m"), tracer=tracer_of(sink))
    async with core, await core.open_session("s1") as session:
        await session.turn("hello").run()
    assert sink.kinds == [
        "session_started",
        "turn_started",
        "prompt_built",
        "llm_call_started",
        "llm_call_completed",
        "token_usage",
        "turn_completed",
    ]
    assert sink.closed == 1


async def test_a_program_needs_no_more_than_a_sink_and_keys_are_masked() -> None:
    sink = Kept()
    core = LashCore(provider=ScriptedCaller([text("ok")]), model=ModelSpec("m"), tracer=Tracer(sink))
    async with core, await core.open_session("s") as session:
        await session.turn("my key is sk-abcdefghijklmnop").run()
    (started,) = sink.of("llm_call_started")
    assert started["timestamp"] and started["id"]
    said = json.dumps(sink.records)
    assert "my key is [redacted]" in said and "sk-abcdefghijklmnop" not in said
