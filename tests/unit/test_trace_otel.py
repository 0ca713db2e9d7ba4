"""Trace records as spans of a real OpenTelemetry provider (contract 04 §9)."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from lash_cli.api import OpenTelemetryTraceSink, TraceContext, TraceLevel, Tracer
from lash_cli.core import trace_events as traced
from lash_cli.core.usage import TokenUsage
from lash_cli.errors import ConfigError
from lash_cli.runtime.trace_otel import MAX_OPEN_SPANS
from lash_cli.store.conformance.clock import ManualClock
from lash_cli.system import SystemIds

TURN = TraceContext(session_id="s", turn_id="t1", turn_index=0, metadata={"team": "blue", "list": [1]})
CALL = TraceContext(session_id="s", turn_id="t1", llm_call_id="c1")
MS = 1_000_000
SECRET = "what only the two of us know"


class World:
    """A provider that keeps what is exported, and a tracer of ours before it."""

    def __init__(self, **options: Any) -> None:
        self.provider = TracerProvider(shutdown_on_exit=False)
        self._exporter = InMemorySpanExporter()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.otel = self.provider.get_tracer("test")
        self.sink = OpenTelemetryTraceSink(self.otel, **options)
        self.clock = ManualClock()
        self.tracer = Tracer(
            self.sink, clock=self.clock, ids=SystemIds(), redact=lambda text: text, level=TraceLevel.EXTENDED
        )

    def emit(self, event: traced.TraceEvent, context: TraceContext = TURN, *, after_s: float = 0.01) -> None:
        self.clock.tick(after_s)
        self.tracer.emit(event, context)

    def spans(self) -> dict[str, ReadableSpan]:
        assert self.tracer.lost == 0
        return {span.name: span for span in self._exporter.get_finished_spans()}

    def count(self) -> int:
        return len(self._exporter.get_finished_spans())

    def close(self) -> None:
        self.sink.close()
        self.provider.shutdown()


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


REQUEST = traced.LlmRequestShown("m", ({"text": SECRET},), "auto", True)
ANSWER = traced.LlmResponseShown(SECRET, 20, "stop")
OUTPUT = {"outcome": {"status": "success", "payload": SECRET}}


def one_turn(world: World) -> None:
    world.emit(traced.SessionStarted(), TraceContext(session_id="s"))
    world.emit(traced.TurnStarted())
    world.emit(traced.PromptBuilt("00", 7))
    world.emit(traced.LlmCallStarted(REQUEST), CALL)
    world.emit(traced.ProviderStreamEvent(traced.ProviderStreamShown("p", 0, 1, "message_start", 9, "00")), CALL)
    world.emit(traced.RuntimeStreamEvent(traced.RuntimeStreamShown(0, 1, "assistant_prose_delta", SECRET)), CALL)
    world.emit(traced.LlmCallCompleted(ANSWER, TokenUsage(5, 2)), CALL)
    world.emit(traced.ToolCallStarted("a", "grep", {"q": SECRET}))
    world.emit(traced.ToolCallCompleted("a", "grep", {"q": SECRET}, OUTPUT, 10))
    world.emit(traced.UsageCounted(TokenUsage(5, 2)))
    world.emit(traced.Custom("turn_input.claimed", {"ids": [SECRET]}))
    world.emit(traced.TurnCompleted("completed", "assistant_message"))


def parent(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def test_a_turn_is_a_tree_of_spans_as_long_as_they_took(world: World) -> None:
    one_turn(world)
    spans = world.spans()
    assert set(spans) == {
        "lash.session", "lash.prompt", "lash.llm", "lash.tool", "lash.token_usage", "lash.custom", "lash.turn",
    }  # fmt: skip
    turn = spans["lash.turn"]
    assert parent(turn) is None and parent(spans["lash.session"]) is None
    for name in ("lash.prompt", "lash.llm", "lash.tool", "lash.token_usage", "lash.custom"):
        assert parent(spans[name]) == turn.context.span_id, name
    lengths = {name: (span.end_time - span.start_time) // MS for name, span in spans.items()}
    assert lengths == {**dict.fromkeys(spans, 0), "lash.turn": 100, "lash.llm": 30, "lash.tool": 10}
    assert [(event.name, event.attributes["lash.event_name"]) for event in spans["lash.llm"].events] == [
        ("lash.provider_stream_event", "message_start"), ("lash.runtime_stream_event", "assistant_prose_delta"),
    ]  # fmt: skip
    assert all(span.status.status_code is StatusCode.UNSET for span in spans.values())


def test_spans_say_what_they_are_and_no_word_of_the_conversation(world: World) -> None:
    one_turn(world)
    spans = world.spans()
    turn, call, tool = (dict(spans[name].attributes or {}) for name in ("lash.turn", "lash.llm", "lash.tool"))
    assert (turn["lash.session_id"], turn["lash.turn_id"], turn["lash.status"]) == ("s", "t1", "completed")
    assert (turn["lash.metadata.team"], turn["lash.metadata.list"]) == ("blue", "[1]")
    assert (call["lash.model"], call["lash.usage.input_tokens"], call["lash.terminal_reason"]) == ("m", 5, "stop")
    assert (tool["lash.name"], tool["lash.status"], tool["lash.duration_ms"]) == ("grep", "success", 10)
    assert SECRET not in "".join(span.to_json() for span in spans.values())


def test_what_was_said_is_in_them_only_when_the_host_wants_it() -> None:
    world = World(include_event_json=True, include_payload_json=True, include_context_metadata=False)
    one_turn(world)
    spans = world.spans()
    tool = dict(spans["lash.tool"].attributes or {})
    assert json.loads(str(tool["lash.args_json"])) == {"q": SECRET}
    assert json.loads(str(tool["lash.output_json"])) == OUTPUT
    assert json.loads(str(dict(spans["lash.llm"].attributes or {})["lash.event_json"]))["response"]["text"] == SECRET
    assert not any(name.startswith("lash.metadata") for span in spans.values() for name in span.attributes or {})
    world.close()


def test_what_failed_has_the_status_of_an_error(world: World) -> None:
    world.emit(traced.TurnStarted())
    world.emit(traced.LlmCallStarted(REQUEST), CALL)
    world.emit(traced.LlmCallFailed(traced.LlmErrorShown("too busy", True), 10), CALL)
    world.emit(traced.ToolCallStarted("a", "grep", {}))
    failed = {"outcome": {"status": "failure", "payload": {"code": "no"}}}
    world.emit(traced.ToolCallCompleted("a", "grep", {}, failed, 10))
    world.emit(traced.TurnCompleted("failed", "provider_error"))
    statuses = {name: (span.status.status_code, span.status.description) for name, span in world.spans().items()}
    assert statuses == {
        "lash.llm": (StatusCode.ERROR, "too busy"),
        "lash.tool": (StatusCode.ERROR, "grep"),
        "lash.turn": (StatusCode.ERROR, "provider_error"),
    }


def test_an_end_without_its_start_is_as_long_as_it_took(world: World) -> None:
    world.emit(traced.ToolCallCompleted("a", "grep", {}, OUTPUT, 40))
    world.emit(traced.LlmCallCompleted(ANSWER), CALL)
    assert [(span.end_time - span.start_time) // MS for span in world.spans().values()] == [40, 20]


def test_calls_of_two_turns_under_one_id_are_two_spans(world: World) -> None:
    other = TraceContext(session_id="s", turn_id="t2")
    for context in (TURN, other):
        world.emit(traced.TurnStarted(), context)
        world.emit(traced.ToolCallStarted("a", "grep", {}), context)
    for context in (TURN, other):
        world.emit(traced.ToolCallCompleted("a", "grep", {}, OUTPUT, 1), context)
        world.emit(traced.TurnCompleted("completed", "x"), context)
    assert world.count() == 4


def test_a_turn_stands_below_what_the_host_is_in_the_middle_of(world: World) -> None:
    with world.otel.start_as_current_span("request") as request:
        one_turn(world)
    assert parent(world.spans()["lash.turn"]) == request.get_span_context().span_id


def test_turns_that_never_end_do_not_gather(world: World) -> None:
    for number in range(MAX_OPEN_SPANS + 3):
        world.emit(traced.TurnStarted(), TraceContext(session_id="s", turn_id=f"t{number}"))
    assert world.count() == 3 and world.spans()["lash.turn"].status.description == "unfinished"
    world.sink.close()
    assert world.count() == MAX_OPEN_SPANS + 3


def test_without_the_extra_the_sink_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", None)
    with pytest.raises(ConfigError) as refused:
        OpenTelemetryTraceSink(object())  # type: ignore[arg-type]
    assert "otel" in str(refused.value.hint)
