"""A generation intent on each wire, and the receipt for it (contract 06 §4)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.clock import ManualCancel, ManualClock
from support.sent import BASE, HTTP_KINDS, assistant, request, sent, user
from support.wire import Reply, ScriptedTransport, chunk, sse

from lash_cli.core.content import ProsePart
from lash_cli.core.llm import GenerationReceipt, LlmCallResult
from lash_cli.core.policy import (
    Generation,
    ModelCapability,
    ModelSpec,
    ReasoningCapability,
    ReasoningDisabled,
    ReasoningEffort,
    ReasoningSelection,
)
from lash_cli.providers.catalog import ProviderSettings, build_caller

INTENT = Generation(temperature=0.25, seed=7, stop_sequences=("END", "\n\n"))
BEYOND = Generation(temperature=9.0, stop_sequences=("a", "b", "c", "d", "e", "f"))
THINKS = ReasoningCapability(("low", "high"), disable="native")

ANSWERS = {
    "openai_chat": sse(chunk({"content": "hi"}), chunk({}, "stop")),
    "openai_responses": sse(
        {"type": "response.output_text.delta", "output_index": 0, "delta": "hi"},
        {"type": "response.completed", "response": {"status": "completed"}},
        done=False,
    ),
    "anthropic": sse(
        {"type": "message_start", "message": {"model": "served"}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "hi"}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
        {"type": "message_stop"},
        done=False,
    ),
    "google": sse({"candidates": [{"content": {"parts": [{"text": "hi"}]}, "finishReason": "STOP"}]}, done=False),
}


def drawn_fields(body: dict[str, Any]) -> dict[str, Any]:
    """What a body says about how the answer is drawn."""
    place = body.get("generationConfig", body)
    words = ("temperature", "seed", "stop", "stop_sequences", "stopSequences")
    return {word: place[word] for word in words if word in place}


async def answered(kind: str, generation: Generation, **options: Any) -> tuple[dict[str, Any], LlmCallResult]:
    """What was sent and what came of it, at a provider of `kind` that answers."""
    transport = ScriptedTransport(Reply((ANSWERS.get(kind, b""),)))
    settings = ProviderSettings("p", kind, BASE, None, options)
    caller = build_caller(settings, clock=ManualClock(), ids_bits=lambda _: 0, transport=transport)

    async def ignore(event: object) -> None: ...

    result = await caller.call(request(user("hi"), generation=generation), sink=ignore, cancel=ManualCancel())
    return json.loads(transport.requests[0].body) if transport.requests else {}, result


@pytest.mark.parametrize(
    ("kind", "fields", "receipt"),
    [
        (
            "openai_chat",
            {"temperature": 0.25, "seed": 7, "stop": ["END", "\n\n"]},
            GenerationReceipt("applied", "applied", "applied"),
        ),
        ("openai_responses", {"temperature": 0.25}, GenerationReceipt("applied", "omitted", "omitted")),
        (
            "anthropic",
            {"temperature": 0.25, "stop_sequences": ["END", "\n\n"]},
            GenerationReceipt("applied", "omitted", "applied"),
        ),
        (
            "google",
            {"temperature": 0.25, "seed": 7, "stopSequences": ["END", "\n\n"]},
            GenerationReceipt("applied", "applied", "applied"),
        ),
        ("loopback", {}, GenerationReceipt("omitted", "omitted", "omitted")),
    ],
)
async def test_each_wire_says_what_it_has_words_for_and_the_answer_and_its_attempt_tell(
    kind: str, fields: dict[str, Any], receipt: GenerationReceipt
) -> None:
    body, result = await answered(kind, INTENT)
    assert drawn_fields(body) == fields
    assert result.response is not None and result.response.generation == receipt
    assert [attempt.generation for attempt in result.record.attempts] == [receipt]


@pytest.mark.parametrize(
    ("kind", "fields", "receipt"),
    [
        ("openai_chat", {"temperature": 2.0, "stop": ["a", "b", "c", "d"]}, ("clamped", "clamped")),
        ("openai_responses", {"temperature": 2.0}, ("clamped", "omitted")),
        ("anthropic", {"temperature": 1.0, "stop_sequences": ["a", "b", "c", "d", "e", "f"]}, ("clamped", "applied")),
        ("google", {"temperature": 2.0, "stopSequences": ["a", "b", "c", "d", "e"]}, ("clamped", "clamped")),
    ],
)
async def test_what_lies_beyond_a_wires_bounds_is_sent_as_far_as_it_goes(
    kind: str, fields: dict[str, Any], receipt: tuple[Any, Any]
) -> None:
    body, result = await answered(kind, BEYOND)
    assert drawn_fields(body) == fields
    assert result.response is not None
    assert result.response.generation == GenerationReceipt(receipt[0], None, receipt[1])


@pytest.mark.parametrize("kind", [*HTTP_KINDS, "loopback"])
@pytest.mark.parametrize("nothing", [Generation(), Generation(stop_sequences=())])
async def test_without_an_intent_nothing_is_said_and_there_is_no_receipt(kind: str, nothing: Generation) -> None:
    body, result = await answered(kind, nothing)
    assert drawn_fields(body) == {}
    assert result.response is not None and result.response.generation is None


@pytest.mark.parametrize("kind", HTTP_KINDS)
async def test_an_intent_replaces_the_endpoints_default_and_cannot_bring_back_what_it_takes_away(kind: str) -> None:
    def placed(**fields: Any) -> dict[str, Any]:
        return {"generationConfig": fields} if kind == "google" else fields

    body, result = await answered(kind, INTENT, extra_body=placed(temperature=1.5, top_p=0.5))
    assert drawn_fields(body)["temperature"] == 0.25
    assert body.get("generationConfig", body)["top_p"] == 0.5
    assert result.response is not None and result.response.generation is not None
    assert result.response.generation.temperature == "applied"
    prefix = "generationConfig." if kind == "google" else ""
    body, result = await answered(kind, INTENT, omit_body=[prefix + "temperature"])
    assert "temperature" not in drawn_fields(body)
    assert result.response is not None and result.response.generation is not None
    assert result.response.generation.temperature == "omitted"


async def test_an_endpoint_without_the_object_the_options_go_into_is_told_none_of_them() -> None:
    body, result = await answered("google", INTENT, omit_body=["generationConfig"])
    assert "generationConfig" not in body
    assert result.response is not None
    assert result.response.generation == GenerationReceipt("omitted", "omitted", "omitted")


@pytest.mark.parametrize(
    ("variant", "reasoning", "is_sent"),
    [
        (ReasoningEffort("low"), THINKS, False),
        (ReasoningDisabled(), THINKS, True),
        (None, THINKS, True),
        (None, ReasoningCapability(("low",), default_effort="low"), False),
        (None, ReasoningCapability(("low",), mandatory=True), False),
        (None, None, True),
    ],
)
async def test_anthropic_is_told_no_temperature_where_the_model_thinks(
    variant: ReasoningSelection | None, reasoning: ReasoningCapability | None, is_sent: bool
) -> None:
    capability = ModelCapability(reasoning)
    model = ModelSpec("m", capability=capability) if variant is None else ModelSpec("m", variant, capability=capability)
    body = (await sent("anthropic", request(user("hi"), model=model, generation=INTENT))).body
    assert ("temperature" in body) == is_sent
    assert body["stop_sequences"] == ["END", "\n\n"]


@pytest.mark.parametrize("kind", HTTP_KINDS)
async def test_the_conversation_is_written_the_same_whatever_the_intent(kind: str) -> None:
    """What a provider keeps of the beginning of a prompt stays warm when only the drawing changes."""
    conversation = (user("hi"), assistant(ProsePart("yes")), user("on", "u2"))
    plain = (await sent(kind, request(*conversation))).body
    drawn = (await sent(kind, request(*conversation, generation=INTENT))).body
    assert {"messages", "input", "contents"} & plain.keys()
    for member in ("messages", "input", "contents", "system", "instructions"):
        assert plain.get(member) == drawn.get(member)
