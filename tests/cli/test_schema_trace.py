"""What a trace file really holds has the shape that `lash schema TraceRecord` prints (contract 04 §9)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import jsonschema_rs
import msgspec
import pytest

from lash_cli.cli.schemas import KINDS
from lash_cli.cli.schemas.generate import closed, schema_of
from lash_cli.core.trace import TRACE_SCHEMA_VERSION, TraceRecord
from lash_cli.core.trace_events import (
    Custom,
    EffectEnvelopeDiff,
    EnvelopeShown,
    ProviderRequest,
    ProviderRequestShown,
    ProviderStreamEvent,
    ProviderStreamShown,
    TraceEvent,
)

# Nothing of the loopback model goes over a wire, and no turn here is replayed.
UNSEEN = {"provider_request", "provider_stream_event", "effect_envelope_diff"}


@pytest.fixture(scope="module")
def validator() -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator(closed(schema_of(KINDS["TraceRecord"])))


def tags() -> set[str]:
    return {str(event.__struct_config__.tag) for event in get_args(TraceEvent)}


def test_every_line_of_a_real_trace_is_what_the_schema_says(lash, tmp_path: Path, validator) -> None:
    trace = tmp_path / "trace.jsonl"
    long = "x" * 200_000
    for prompt in (
        '!tool exec_command {"cmd":"echo hi"}\n!then\n!text done',
        "!fail stream_cut 1\n!text again",
        "!fail auth",
        long,
    ):
        lash("open", "s")
        lash("turn", "s", "-", "--approve", "execute=auto", "--trace", str(trace), "-c", "trace.level=extended",
             input=prompt)  # fmt: skip
    records = [json.loads(line) for line in trace.read_text().splitlines()]
    for record in records:
        problems = [f"{record['type']}: {error.message}" for error in validator.iter_errors(record)]
        assert not problems, problems[:3]
    assert any("cut" in record for record in records)
    assert {record["type"] for record in records} == tags() - UNSEEN


@pytest.mark.parametrize("event", [
    ProviderRequest(ProviderRequestShown("wire", 0, 3, "http://h/v1", 2, "ab", {})),
    ProviderRequest(ProviderRequestShown("wire", 1, 3, "http://h/v1", 2, "ab", None, "size_limit")),
    ProviderStreamEvent(ProviderStreamShown("wire", 0, 3, "message_start", 2, "ab", "item", 0, {})),
    ProviderStreamEvent(ProviderStreamShown("wire", 1, 3, "data", 2, "ab")),
    EffectEnvelopeDiff("x", EnvelopeShown(2, "ab", {}), EnvelopeShown(9999, "cd", None, "size_limit"), 1, ("a[0].b",)),
    Custom("turn_input.claimed", {"ids": ["in_1"]}),
])  # fmt: skip
def test_what_is_not_seen_here_has_its_shape_too(event: Any, validator) -> None:
    payload = msgspec.to_builtins(event)
    kind = payload.pop("type")
    record = TraceRecord("id", "2024-01-01T00:00:00.000Z", {"session_id": "s"}, kind, payload)
    validator.validate(json.loads(record.line()))
    bad = {**json.loads(record.line()), "more": 1}
    with pytest.raises(jsonschema_rs.ValidationError):
        validator.validate(bad)


def test_the_schema_names_the_version_that_is_written_and_every_kind() -> None:
    schema = schema_of(KINDS["TraceRecord"])
    lines = [schema["$defs"][one["$ref"].rpartition("/")[2]]["properties"] for one in schema["anyOf"]]
    assert {line["schema_version"]["const"] for line in lines} == {TRACE_SCHEMA_VERSION}
    assert {line["type"]["const"] for line in lines} == tags()
