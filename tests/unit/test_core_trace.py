"""Trace records: tags, spans, levels and limits (contract 04 §9)."""

from __future__ import annotations

import json

import msgspec
import pytest

from lash_cli.core import trace_events as traced
from lash_cli.core.codec import tag_of
from lash_cli.core.trace import (
    TRACE_SCHEMA_VERSION,
    TraceContext,
    TraceLevel,
    TraceRecord,
    moment,
    stamped,
)
from lash_cli.core.trace_limits import (
    GUARD_CHARS,
    MAX_DEPTH,
    MAX_ITEMS,
    MAX_RECORD_CHARS,
    MAX_TEXT_CHARS,
    MAX_VALUES,
    SHORT_TEXT_CHARS,
    WINDOW_CHARS,
    Cut,
    Limiter,
)
from lash_cli.core.usage import TokenUsage
from lash_cli.settings.redact import redact

REQUEST = traced.LlmRequestShown("m", (), "auto", True)
ANSWER = traced.LlmResponseShown("hi", 1)
FAULT = traced.LlmErrorShown("no", False)
SENT = traced.ProviderRequestShown("p", 0, 1, "http://x", 2, "00")
CAME = traced.ProviderStreamShown("p", 0, 1, "message_start", 2, "00")
LIVE = traced.RuntimeStreamShown(0, 1, "assistant_prose_delta", "hi")
SIDE = traced.EnvelopeShown(2, "00", {})

EVENTS = {
    "session_started": traced.SessionStarted(),
    "turn_started": traced.TurnStarted(),
    "prompt_built": traced.PromptBuilt("00", 2),
    "llm_call_started": traced.LlmCallStarted(REQUEST),
    "llm_call_completed": traced.LlmCallCompleted(ANSWER),
    "llm_call_failed": traced.LlmCallFailed(FAULT, 1),
    "provider_request": traced.ProviderRequest(SENT),
    "provider_stream_event": traced.ProviderStreamEvent(CAME),
    "runtime_stream_event": traced.RuntimeStreamEvent(LIVE),
    "tool_call_started": traced.ToolCallStarted("c", "grep", {}),
    "tool_call_completed": traced.ToolCallCompleted("c", "grep", {}, {}, 1),
    "token_usage": traced.UsageCounted(TokenUsage(1, 2)),
    "turn_completed": traced.TurnCompleted("completed", "assistant_message"),
    "effect_envelope_diff": traced.EffectEnvelopeDiff("x", SIDE, SIDE, 1, ("command.shape",)),
    "custom": traced.Custom("turn_input.claimed"),
}


def test_the_schema_version_is_pinned() -> None:
    assert TRACE_SCHEMA_VERSION == 2


def test_every_kind_is_tagged_by_kind_and_by_nothing_else() -> None:
    assert {type(event) for event in EVENTS.values()} == set(traced.TraceEvent.__args__)
    for tag, event in EVENTS.items():
        assert tag_of(event) == tag
        assert msgspec.to_builtins(event)["type"] == tag


def test_only_the_extended_level_admits_what_was_sent_streamed_and_asked_for_again() -> None:
    refused = {tag for tag, event in EVENTS.items() if not TraceLevel.STANDARD.admits(event)}
    assert refused == {"provider_request", "provider_stream_event", "runtime_stream_event", "effect_envelope_diff"}
    assert all(TraceLevel.EXTENDED.admits(event) for event in EVENTS.values())


IN_A_CALL = TraceContext(session_id="s", turn_id="t", turn_index=3, llm_call_id="c1")


@pytest.mark.parametrize(
    ("tag", "node", "parent"),
    [
        ("session_started", "session:s", None),
        ("turn_started", "turn:s:t", "session:s"),
        ("turn_completed", "turn:s:t", "session:s"),
        ("prompt_built", None, "turn:s:t"),
        ("token_usage", None, "turn:s:t"),
        ("custom", None, "turn:s:t"),
        ("llm_call_started", "llm:c1", "turn:s:t"),
        ("llm_call_completed", "llm:c1", "turn:s:t"),
        ("llm_call_failed", "llm:c1", "turn:s:t"),
        ("tool_call_started", "tool:c", "turn:s:t"),
        ("tool_call_completed", "tool:c", "turn:s:t"),
        ("provider_request", None, "llm:c1"),
        ("provider_stream_event", None, "llm:c1"),
        ("runtime_stream_event", None, "llm:c1"),
    ],
)
def test_every_kind_has_its_span_and_its_parent(tag, node, parent) -> None:
    context = stamped(EVENTS[tag], IN_A_CALL)
    assert (context.graph_node_id, context.parent_graph_node_id) == (node, parent)


def test_a_turn_without_an_id_is_named_by_its_index_and_hangs_on_what_caused_it() -> None:
    context = TraceContext(session_id="s", turn_index=3, metadata={"caused_by": "tool:c9"})
    found = stamped(EVENTS["turn_started"], context)
    assert (found.graph_node_id, found.parent_graph_node_id) == ("turn:s:idx3", "tool:c9")


def test_a_span_set_by_the_caller_stays_and_nothing_is_its_own_parent() -> None:
    mine = TraceContext(session_id="s", turn_id="t", graph_node_id="mine", parent_graph_node_id="theirs")
    kept = stamped(EVENTS["tool_call_started"], mine)
    assert (kept.graph_node_id, kept.parent_graph_node_id) == ("mine", "theirs")
    knot = TraceContext(session_id="s", turn_id="t", metadata={"caused_by": "turn:s:t"})
    assert stamped(EVENTS["turn_started"], knot).parent_graph_node_id is None


def test_outside_a_turn_and_outside_a_call_the_next_span_up_is_the_parent() -> None:
    assert stamped(EVENTS["custom"], TraceContext(session_id="s")).parent_graph_node_id == "session:s"
    assert stamped(EVENTS["provider_request"], TraceContext(session_id="s", turn_id="t")).parent_graph_node_id == (
        "turn:s:t"
    )


def test_an_overlay_wins_field_by_field_and_metadata_merges() -> None:
    base = TraceContext(run_id="r", split="train", metadata={"a": 1, "b": 1})
    over = base.overlaid_by(TraceContext(split="test", session_id="s", metadata={"b": 2}))
    assert over == TraceContext(run_id="r", split="test", session_id="s", metadata={"a": 1, "b": 2})


def test_a_record_is_one_flat_line_that_names_its_version_and_kind() -> None:
    record = TraceRecord("i", moment(1_700_000_000_005), {"session_id": "s"}, "custom", {"name": "a\nb"})
    line = record.line()
    assert b"\n" not in line
    assert json.loads(line) == {
        "schema_version": 2,
        "id": "i",
        "timestamp": "2023-11-14T22:13:20.005Z",
        "type": "custom",
        "context": {"session_id": "s"},
        "name": "a\nb",
    }


def plain(text: str) -> str:
    return text


def test_a_long_text_keeps_its_beginning_and_says_how_long_it_was() -> None:
    limiter = Limiter(plain)
    value = limiter.limited({"output": [{"text": "x" * (MAX_TEXT_CHARS + 1)}]}, "tool")
    assert value["output"][0]["text"] == "x" * MAX_TEXT_CHARS
    assert limiter.cuts == (Cut("tool.output[0].text", MAX_TEXT_CHARS, MAX_TEXT_CHARS + 1, "characters"),)


def test_a_text_at_the_limit_is_whole() -> None:
    limiter = Limiter(plain)
    assert limiter.limited("x" * MAX_TEXT_CHARS) == "x" * MAX_TEXT_CHARS
    assert limiter.cuts == ()


def test_a_record_is_bounded_whatever_its_shape() -> None:
    leaf = {str(number): "y" * MAX_TEXT_CHARS for number in range(300)}
    limiter = Limiter(plain)
    value = limiter.limited([leaf] * 300)
    size = len(json.dumps(value))
    assert size < MAX_RECORD_CHARS + MAX_TEXT_CHARS + MAX_VALUES * (2 * SHORT_TEXT_CHARS)
    assert Cut("", MAX_ITEMS, 300, "items") in limiter.cuts


def test_nested_beyond_the_limit_is_dropped_and_named() -> None:
    value: object = "deep"
    for _ in range(MAX_DEPTH + 5):
        value = [value]
    limiter = Limiter(plain)
    json.dumps(limiter.limited(value))
    assert [cut.unit for cut in limiter.cuts] == ["levels"]


def test_bytes_are_counted_and_never_written() -> None:
    limiter = Limiter(plain)
    assert limiter.limited({"data": b"secret"}) == {"data": None}
    assert limiter.cuts == (Cut("data", 0, 6, "bytes"),)


def test_a_secret_is_masked_in_values_keys_and_paths() -> None:
    secret = "sk-abcdefghijklmnop"
    limiter = Limiter(redact)
    value = limiter.limited({"url": "https://me:pw@host/x", secret: "z" * (MAX_TEXT_CHARS + 1), "k": [secret]})
    everything = json.dumps(value) + repr(limiter.cuts)
    assert secret not in everything and "pw@" not in everything
    assert "[redacted]" in everything


@pytest.mark.parametrize("place", [MAX_TEXT_CHARS - 10, WINDOW_CHARS - 10, WINDOW_CHARS - 30])
def test_no_part_of_a_secret_survives_a_cut_through_it(place) -> None:
    secret = "sk-" + "q" * 60
    text = "x" * (place - 1) + " " + secret + " tail" * 10
    assert "q" not in Limiter(redact).limited(text)


def test_a_text_made_of_secrets_leaves_none_of_the_one_the_window_cuts() -> None:
    secret = "sk-" + "q" * 997
    text = " ".join([secret] * (WINDOW_CHARS // 1_000 + 50))
    assert len(text) > WINDOW_CHARS + GUARD_CHARS
    assert "q" not in Limiter(redact).limited(text)


def test_a_lone_surrogate_becomes_visible_instead_of_losing_the_record() -> None:
    value = Limiter(plain).limited({"name\udcff": "bad\udcff"})
    json.dumps(value).encode()
    assert value == {"name\\udcff": "bad\\udcff"}
