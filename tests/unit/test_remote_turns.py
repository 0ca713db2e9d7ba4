"""Turns that cross a wire have pinned shapes, matched versions, and come back as they went (contract 04 §6.3)."""

from __future__ import annotations

import asyncio
import json

import jsonschema_rs
import pytest

from lash_cli.cli.schemas import KINDS
from lash_cli.cli.schemas.generate import closed, schema_of
from lash_cli.core.activity import AssistantProseDelta, ToolCallStarted, TurnActivity
from lash_cli.core.content import (
    AttachmentItem,
    ExternalUrl,
    Inline,
    ProtocolTurnOptions,
    ProviderFile,
    Stored,
    TextItem,
    TurnInput,
)
from lash_cli.core.outcome import (
    AgentFrameSwitch,
    AssistantMessage,
    AssistantOutput,
    ExecutionSummary,
    FinalValue,
    Finished,
    Stopped,
    ToolValue,
    TurnAddress,
    TurnCancellationEvidence,
    TurnCancelReceipt,
    TurnCancelRequest,
    TurnIssue,
    TurnResult,
)
from lash_cli.core.remote import REMOTE_PROTOCOL_VERSION, RemoteTurnActivity
from lash_cli.core.remote_input import RemoteTurnInput
from lash_cli.core.remote_tools import RemoteToolGrant
from lash_cli.core.remote_turns import (
    RemoteTurnCancelReceipt,
    RemoteTurnCancelRequest,
    RemoteTurnRequest,
    RemoteTurnResult,
)
from lash_cli.core.tools import ToolCallRecord, ToolContract, ToolManifest, success
from lash_cli.core.usage import TokenLedgerEntry, TokenUsage
from lash_cli.errors import (
    ActivitySerialization,
    ActivityWrite,
    InvalidAttachmentData,
    InvalidAttachmentRef,
    InvalidEnvelope,
    MismatchedNestedProtocolVersion,
    MissingRequiredField,
    RemoteProtocolError,
    UnsupportedProtocolVersion,
)
from lash_cli.remote.sink import RemoteTurnActivitySink

V = REMOTE_PROTOCOL_VERSION
INPUT = TurnInput(
    items=(
        TextItem("look", "stdin"),
        AttachmentItem(Inline("image/png", b"\x00\xff")),
        AttachmentItem(Stored("sha", "text/plain", 4, "notes")),
        AttachmentItem(ExternalUrl("text/html; charset=utf-8", "https://example.com")),
        AttachmentItem(ProviderFile("openai", "default", "file-1")),
    ),
    protocol_turn_options=ProtocolTurnOptions(payload={"a": 1}),
    trace_turn_id="tr",
)
EVIDENCE = TurnCancellationEvidence("r1", "cli", "enough")
REQUEST = TurnCancelRequest(TurnAddress("s", "t"), "r1", "cli", "enough")


def result(outcome=Finished(AssistantMessage("hi")), **changes) -> TurnResult:  # noqa: B008 - immutable
    fields = {
        "session_id": "s",
        "turn_id": "t",
        "outcome": outcome,
        "assistant_output": AssistantOutput("hi", "hi", "usable"),
        "execution": ExecutionSummary(False, False, 5, 7),
    }
    return TurnResult(**{**fields, **changes})


def test_an_input_has_its_pinned_shape_and_comes_back_as_it_went() -> None:
    document = RemoteTurnInput.of(INPUT).document()
    assert document == {
        "protocol_version": V,
        "items": [
            {"type": "text", "text": "look", "label": "stdin"},
            {"type": "attachment", "source": {"source": "inline", "media_type": "image/png", "data_base64": "AP8="}},
            {
                "type": "attachment",
                "source": {
                    "source": "stored",
                    "attachment_ref": {"id": "sha", "media_type": "text/plain", "byte_len": 4, "label": "notes"},
                },
            },
            {
                "type": "attachment",
                "source": {
                    "source": "external_url",
                    "media_type": "text/html; charset=utf-8",
                    "url": "https://example.com",
                },
            },
            {
                "type": "attachment",
                "source": {
                    "source": "provider_file",
                    "provider_scope": {"provider": "openai", "credential_scope": "default"},
                    "id": "file-1",
                },
            },
        ],
        "protocol_turn_options": {"payload": {"a": 1}},
        "trace_turn_id": "tr",
    }
    assert RemoteTurnInput.from_json(json.dumps(document)).to_core() == INPUT


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ({"source": "inline", "media_type": "png", "data_base64": ""}, InvalidAttachmentData),
        ({"source": "inline", "media_type": "image/png", "data_base64": "?"}, InvalidAttachmentData),
        (
            {"source": "stored", "attachment_ref": {"id": " ", "media_type": "a/b", "byte_len": 1}},
            InvalidAttachmentRef,
        ),
        ({"source": "stored", "attachment_ref": {"id": "x", "media_type": "a", "byte_len": 1}}, InvalidAttachmentRef),
        ({"source": "external_url", "media_type": "a/b", "url": ""}, MissingRequiredField),
        (
            {"source": "provider_file", "provider_scope": {"provider": "", "credential_scope": ""}, "id": "x"},
            MissingRequiredField,
        ),
        ({"source": "carrier_pigeon"}, InvalidEnvelope),
    ],
)
def test_an_attachment_that_cannot_be_is_refused(source, error) -> None:
    document = {"protocol_version": V, "items": [{"type": "attachment", "source": source}]}
    with pytest.raises(error) as raised:
        RemoteTurnInput.from_document(document)
    assert isinstance(raised.value, RemoteProtocolError) and raised.value.exit_status == 2


def envelopes():
    remote_input = RemoteTurnInput.of(INPUT)
    return [
        remote_input,
        RemoteTurnRequest(protocol_version=V, session_id="s", turn_id="t", input=remote_input, idempotency_key="k"),
        RemoteToolGrant.of(ToolManifest("t1", "find", "Finds."), ToolContract()),
        RemoteTurnResult.of(result()),
        RemoteTurnCancelRequest.of(REQUEST),
        RemoteTurnCancelReceipt.of(REQUEST, TurnCancelReceipt(REQUEST.address, "requested", "durable")),
    ]


@pytest.mark.parametrize("envelope", envelopes(), ids=lambda envelope: type(envelope).__name__)
def test_every_envelope_survives_json_and_refuses_another_version_before_anything_else(envelope) -> None:
    kind = type(envelope)
    assert kind.from_json(envelope.to_json()) == envelope
    newer = {**envelope.document(), "protocol_version": V + 1, "items": "a shape of the future", "outcome": 3}
    with pytest.raises(UnsupportedProtocolVersion) as raised:
        kind.from_document(newer)
    assert (raised.value.actual, raised.value.expected) == (V + 1, V)
    with pytest.raises(MissingRequiredField):
        kind.from_document({key: value for key, value in envelope.document().items() if key != "protocol_version"})
    with pytest.raises(InvalidEnvelope):
        kind.from_json("[]")


@pytest.mark.parametrize("envelope", envelopes(), ids=lambda envelope: type(envelope).__name__)
def test_every_envelope_has_the_shape_that_its_schema_prints(envelope) -> None:
    schema = closed(schema_of(KINDS[type(envelope).__name__]))
    jsonschema_rs.Draft202012Validator(schema).validate(envelope.document())


def test_a_nested_envelope_of_another_version_is_refused() -> None:
    request = RemoteTurnRequest(protocol_version=V, session_id="s", turn_id="t", input=RemoteTurnInput.of(INPUT))
    document = request.document()
    document["input"]["protocol_version"] = V + 1
    with pytest.raises(MismatchedNestedProtocolVersion):
        RemoteTurnRequest.from_document(document)
    activity = RemoteTurnActivity.of(TurnActivity("s", "t", "row", AssistantProseDelta("x"), 1, "a"), 0)
    ended = RemoteTurnResult.of(result(), activities=(activity,)).document()
    RemoteTurnResult.from_document(ended)
    ended["activities"][0]["protocol_version"] = V + 1
    with pytest.raises(MismatchedNestedProtocolVersion):
        RemoteTurnResult.from_document(ended)


@pytest.mark.parametrize("field", ["session_id", "turn_id", "idempotency_key"])
def test_blank_fields_of_a_request_are_missing(field: str) -> None:
    document = {**envelopes()[1].document(), field: "  "}
    with pytest.raises(MissingRequiredField):
        RemoteTurnRequest.from_document(document)


def test_a_result_has_its_pinned_shape() -> None:
    call = ToolCallRecord("c1", "grep", {"q": 1}, success([1]), 3)
    ended = result(
        usage=TokenUsage(1, 2),
        children_usage=(TokenLedgerEntry("subagent", "m", TokenUsage(3, 4)),),
        tool_calls=(call,),
        errors=(TurnIssue("tool", "slow", code="late", raw="very"),),
    )
    none = {"cache_read_input_tokens": 0, "cache_write_input_tokens": 0, "reasoning_output_tokens": 0}
    assert RemoteTurnResult.of(ended, metadata={"m": 1}).document() == {
        "protocol_version": V,
        "session_id": "s",
        "turn_id": "t",
        "status": "completed",
        "outcome": {"type": "finished", "finish": {"type": "assistant_message", "text": "hi"}},
        "assistant_output": {"safe_text": "hi", "raw_text": "hi", "state": "usable"},
        "usage": {
            "parent": {"input_tokens": 1, "output_tokens": 2, **none},
            "total": {"input_tokens": 4, "output_tokens": 6, **none},
            "children": [
                {"source": "subagent", "model": "m", "usage": {"input_tokens": 3, "output_tokens": 4, **none}}
            ],
        },
        "execution": {"had_tool_calls": False, "had_code_execution": False, "started_at_ms": 5, "duration_ms": 7},
        "tool_calls": [
            {
                "call_id": "c1",
                "tool_name": "grep",
                "args": {"q": 1},
                "outcome": {"status": "success", "payload": [1]},
                "duration_ms": 3,
            }
        ],
        "issues": [{"kind": "tool", "code": "late", "message": "slow", "raw": "very"}],
        "metadata": {"m": 1},
    }
    assert RemoteTurnResult.of(ended).to_usage() == TokenUsage(1, 2)


@pytest.mark.parametrize(
    ("outcome", "status", "shape"),
    [
        (Finished(FinalValue({"a": 1})), "completed", {"type": "finished", "finish": {"type": "final_value"}}),
        (Finished(ToolValue("done", 2)), "completed", {"type": "finished", "finish": {"type": "tool_value"}}),
        (AgentFrameSwitch("f", "go"), "completed", {"type": "agent_frame_switch", "frame_id": "f", "task": "go"}),
        (Stopped("max_turns"), "failed", {"type": "stopped", "stop": {"type": "max_turns"}}),
        (Stopped("submitted_error", 3), "failed", {"type": "stopped", "stop": {"type": "submitted_error", "value": 3}}),
        (Stopped("tool_error", 3, "x"), "failed", {"type": "stopped"}),
        (Stopped("cancelled"), "cancelled", {"type": "stopped", "stop": {"type": "cancelled"}}),
    ],
)
def test_a_status_follows_from_the_outcome_and_the_outcome_comes_back(outcome, status, shape) -> None:
    ended = result(outcome, cancellation=EVIDENCE if status == "cancelled" else None)
    remote = RemoteTurnResult.from_json(RemoteTurnResult.of(ended).to_json())
    assert remote.status == status and remote.to_outcome() == outcome
    assert shape.items() <= remote.outcome.items() or shape["finish"].items() <= remote.outcome["finish"].items()
    other = "completed" if status != "completed" else "failed"
    with pytest.raises(InvalidEnvelope):
        RemoteTurnResult.from_document({**remote.document(), "status": other})


def test_a_cancellation_is_there_if_and_only_if_the_turn_was_cancelled() -> None:
    cancelled = RemoteTurnResult.of(result(Stopped("cancelled"), cancellation=EVIDENCE)).document()
    assert cancelled["cancellation"] == {"request_id": "r1", "origin": "cli", "reason": "enough"}
    with pytest.raises(InvalidEnvelope):
        RemoteTurnResult.from_document({key: value for key, value in cancelled.items() if key != "cancellation"})
    finished = RemoteTurnResult.of(result()).document()
    with pytest.raises(InvalidEnvelope):
        RemoteTurnResult.from_document({**finished, "cancellation": {"request_id": "r"}})


@pytest.mark.parametrize(
    "change",
    [
        {"outcome": {"type": "in_progress"}},
        {"outcome": {"type": "stopped", "stop": {"type": "bored"}}},
        {"outcome": {}},
        {"assistant_output": {"safe_text": "", "raw_text": "", "state": "odd"}},
        {"llm_calls": [{"call_id": "a"}, {"call_id": "a"}]},
        {"usage": "much"},
        {"tool_calls": [{"tool_name": "t", "args": {}, "outcome": {"status": "odd", "payload": 1}, "duration_ms": 1}]},
    ],
)
def test_a_result_that_cannot_be_is_refused(change) -> None:
    with pytest.raises(InvalidEnvelope):
        RemoteTurnResult.from_document({**RemoteTurnResult.of(result()).document(), **change})


@pytest.mark.parametrize(
    ("field", "part"),
    [
        ("assistant_output", "raw_text"),
        ("execution", "had_code_execution"),
        ("usage", "total"),
    ],
)
def test_a_result_that_says_less_than_it_must_is_refused(field: str, part: str) -> None:
    document = RemoteTurnResult.of(result()).document()
    del document[field][part]
    with pytest.raises(MissingRequiredField):
        RemoteTurnResult.from_document(document)


def test_what_stands_in_a_result_has_all_of_its_parts() -> None:
    document = RemoteTurnResult.of(result(Stopped("cancelled"), cancellation=EVIDENCE)).document()
    for change in (
        {"cancellation": {"request_id": " "}},
        {"usage": {**document["usage"], "parent": {"input_tokens": 1}}},
        {"usage": {**document["usage"], "children": [{"source": "s", "model": "m"}]}},
        {"tool_calls": [{"tool_name": "t"}]},
        {"issues": [{"kind": "k"}]},
    ):
        with pytest.raises(MissingRequiredField):
            RemoteTurnResult.from_document({**document, **change})


@pytest.mark.parametrize(
    ("word", "evidence", "outcome"),
    [
        ("requested", None,
         {"outcome": "requested", "cancellation": {"request_id": "r1", "origin": "cli", "reason": "enough"}}),
        ("already_requested", TurnCancellationEvidence("r0"),
         {"outcome": "already_requested", "cancellation": {"request_id": "r0"}}),
        ("completion_won", None, {"outcome": "completion_won_race"}),
        ("unknown", None, {"outcome": "unknown_or_revoked"}),
    ],
)  # fmt: skip
def test_a_receipt_says_what_became_of_the_request(word, evidence, outcome) -> None:
    receipt = RemoteTurnCancelReceipt.of(REQUEST, TurnCancelReceipt(REQUEST.address, word, "durable", evidence))
    assert receipt.outcome == outcome and receipt.durability_tier == "durable"
    assert RemoteTurnCancelReceipt.from_json(receipt.to_json()) == receipt
    with pytest.raises(InvalidEnvelope):
        RemoteTurnCancelReceipt.from_document({**receipt.document(), "outcome": {"outcome": "perhaps"}})


def test_a_cancel_request_comes_back_as_it_went() -> None:
    assert RemoteTurnCancelRequest.from_json(RemoteTurnCancelRequest.of(REQUEST).to_json()).to_core() == REQUEST


class Writer:
    def __init__(self, failing: int = -1) -> None:
        self.writes: list[bytes] = []
        self._failing = failing

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        if len(self.writes) == self._failing:
            raise OSError("gone")


def shown(*texts: str) -> list[TurnActivity]:
    return [TurnActivity("s", "t", "row", AssistantProseDelta(text), 1, f"a{text}") for text in texts]


def test_a_sink_writes_each_activity_as_one_whole_line() -> None:
    writer = Writer()
    sink = RemoteTurnActivitySink(writer, 7)

    async def run() -> None:
        async with asyncio.TaskGroup() as group:
            for activity in shown("1", "2\n", "3"):
                group.create_task(sink(activity))

    asyncio.run(run())
    assert [line.count(b"\n") for line in writer.writes] == [1, 1, 1]
    assert [json.loads(line)["sequence"] for line in writer.writes] == [7, 8, 9]
    assert sink.take_errors() == ()


def test_a_write_that_fails_is_kept_and_never_reaches_the_turn() -> None:
    writer = Writer(failing=2)
    sink = RemoteTurnActivitySink(writer)
    bad = TurnActivity("s", "t", "row", ToolCallStarted("c", "x", {"not": object()}), 1, "bad")
    for activity in (*shown("1", "2"), bad, *shown("3")):
        asyncio.run(sink(activity))
    errors = sink.take_errors()
    assert [type(error) for error in errors] == [ActivityWrite, ActivitySerialization]
    assert sink.take_errors() == ()
    assert json.loads(writer.writes[-1])["sequence"] == 3
