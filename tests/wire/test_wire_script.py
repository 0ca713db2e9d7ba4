"""Wire scripts: what is refused in one, what a player checks, and when things happen (contract 06 §16)."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from support.clock import ManualClock
from support.wire_player import Schedule, WireScriptTransport
from support.wire_script import SCHEMA, WireScript, load_script

from lash_cli.core.codec import decode
from lash_cli.errors import LlmTransportError
from lash_cli.providers.http import HttpRequest

START = {"type": "response_start", "at": 0, "status": 200, "headers": {"Content-Type": "text/event-stream"}}
END = {"type": "end", "at": 0}


def document(*timeline: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "name": "one",
        "provider_kind": "openai_chat",
        "endpoint": {"method": "POST", "path": "/v1/chat/completions"},
        "timeline": list(timeline or (START, END)),
        "provenance": {"kind": "provider_documentation", "source": "https://example.invalid"},
        **more,
    }


def script(*timeline: dict[str, Any], **more: Any) -> WireScript:
    return decode(json.dumps(document(*timeline, **more)), WireScript)


def request(body: Any = None, **fields: Any) -> HttpRequest:
    known = {"method": "POST", "url": "http://x/v1/chat/completions", "headers": {}}
    return HttpRequest(**known | fields, body=json.dumps(body or {}).encode())


@pytest.mark.parametrize(
    "bad",
    [
        document(START, END, extra=1),
        document(START, END, request_match={"body": {}, "query": {}}),
        document(START, END, request_match={"body": {"/model": {"equal": "x"}}}),
        document(START, END, request_match={"body": {"model": {"present": True}}}),
        document(START, END, request_match={"headers": {"Accept": {"present": True}}}),
        document(START, END, schema="lash.provider-wire-script.v2"),
        document(START, {"type": "sse", "at": 0, "data": {}, "event": "x"}, END),
        document(START, {"type": "pause", "at": 0}, END),
        document(START, {"type": "chunk", "at": 0}, END),
        document(START, {"type": "chunk", "at": 0, "data": "x", "bytes": "eA=="}, END),
        document(START, {"type": "sse", "at": 5, "data": {}}, {"type": "end", "at": 4}),
        document(START, END, END),
        document(START),
        document(START, START, END),
        document({"type": "sse", "at": 0, "data": {}}, START, END),
        document(END),
        document(START, {"type": "http_error", "at": 0, "status": 400}),
        document(START, END, expected_provider={}),
        {**document(), "timeline": []},
    ],
)
def test_a_script_that_says_something_else_than_it_can_is_refused(bad: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(bad))
    with pytest.raises(ValueError, match=r"bad\.json"):
        load_script(path)


async def failure(transport: WireScriptTransport, sent: HttpRequest) -> LlmTransportError:
    with pytest.raises(LlmTransportError) as caught:
        await transport.send(sent, start_timeout=None)
    assert not caught.value.retryable
    return caught.value


BODY = {"model": "m", "messages": [{"role": "user", "content": "a secret plan"}], "stream": True}


@pytest.mark.parametrize(
    ("match", "field"),
    [
        ({"body": {"/model": {"equals": "n"}}}, "request_match.body./model"),
        ({"body": {"/model": {"present": False}}}, "request_match.body./model"),
        ({"body": {"/tools": {"present": True}}}, "request_match.body./tools"),
        ({"body": {"/tools": {"min_len": 1}}}, "request_match.body./tools"),
        ({"body": {"/messages": {"min_len": 2}}}, "request_match.body./messages"),
        ({"body": {"/messages": {"contains_role": "tool"}}}, "request_match.body./messages"),
        ({"body": {"/messages/0/content": {"contains": "public"}}}, "request_match.body./messages/0/content"),
        ({"body": {"/messages/0": {"contains": {"role": "tool"}}}}, "request_match.body./messages/0"),
        ({"headers": {"x-key": {"present": True}}}, "request_match.headers.x-key"),
        ({"headers": {"accept": {"equals": "text/plain"}}}, "request_match.headers.accept"),
        ({"headers": {"accept": {"contains": "xml"}}}, "request_match.headers.accept"),
        ({"headers": {"accept": {"present": False}}}, "request_match.headers.accept"),
    ],
)
async def test_a_request_that_does_not_match_names_script_and_field(match: dict[str, Any], field: str) -> None:
    transport = WireScriptTransport([script(request_match=match)])
    error = await failure(transport, request(BODY, headers={"accept": "application/json"}))
    assert (error.kind, error.code) == ("validation", "wire_script_mismatch")
    assert error.message.startswith(f"script 'one', field {field}: ")
    assert "secret plan" not in error.message
    assert transport.remaining_scripts() == 1


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"method": "GET"}, "endpoint.method"),
        ({"url": "http://x/v1/chat"}, "endpoint.path"),
        ({"url": "http://x/v1/chat/completions?key=1"}, "endpoint.path"),
    ],
)
async def test_another_endpoint_is_a_mismatch(fields: dict[str, Any], field: str) -> None:
    error = await failure(WireScriptTransport([script()]), request(**fields))
    assert f"field {field}: " in error.message


async def test_a_body_that_is_no_json_is_a_mismatch() -> None:
    transport = WireScriptTransport([script(request_match={"body": {"/model": {"present": False}}})])
    error = await failure(transport, HttpRequest("POST", "http://x/v1/chat/completions", {}, b"{"))
    assert error.message == "script 'one', field request_match.body: is not JSON"


async def test_a_request_that_fits_every_rule_is_answered_and_recorded_without_its_text() -> None:
    match = {
        "body": {
            "/messages": {"contains_role": "user", "min_len": 1},
            "/messages/0/content": {"contains": "plan"},
            "/messages/0": {"contains": {"role": "user"}},
            "/stream": {"equals": True, "present": True},
            "/a~1b": {"present": False},
        },
        "headers": {"x-goog-api-key": {"present": True}},
    }
    transport = WireScriptTransport([script(request_match=match)])
    response = await transport.send(
        request(BODY, headers={"X-Goog-Api-Key": "k1", "x-goog-api-key": "k2"}), start_timeout=1
    )
    assert [piece async for piece in response.body] == []
    assert response.headers == {"content-type": "text/event-stream"}
    (exchange,) = transport.exchanges
    assert exchange.body_shape == {
        "model": "string(1)",
        "messages": [{"role": "string(4)", "content": "string(13)"}],
        "stream": True,
    }
    assert exchange.headers == {"x-goog-api-key": "[redacted]"}
    assert transport.remaining_scripts() == 0


async def test_a_request_without_a_script_is_a_transport_error() -> None:
    transport = WireScriptTransport([])
    error = await failure(transport, request())
    assert (error.kind, error.code) == ("transport", "wire_script_exhausted")


TIMELINE = (
    START,
    {"type": "sse", "at": 10, "data": {"b": 1, "a": "é"}},
    {"type": "sse", "at": 10, "data": "two\nlines"},
    {"type": "chunk", "at": 20, "bytes": "w6k="},
    {"type": "chunk", "at": 20, "data": "é"},
    {"type": "body", "at": 20, "data": [1]},
)
EXPECTED = ['data: {"a":"é","b":1}\n\n', "data: two\ndata: lines\n\n", "é", "é", "[1]"]


async def collect(transport: WireScriptTransport) -> list[bytes]:
    response = await transport.send(request(), start_timeout=None)
    return [piece async for piece in response.body]


async def test_events_are_written_as_the_bytes_they_stand_for() -> None:
    assert await collect(WireScriptTransport([script(*TIMELINE, {"type": "end", "at": 20})])) == [
        text.encode() for text in EXPECTED
    ]


async def test_a_body_cut_elsewhere_has_the_same_bytes_and_the_same_end() -> None:
    whole = script(*TIMELINE, {"type": "disconnect", "at": 20, "message": "gone"})
    assert whole.body == "".join(EXPECTED).encode()
    response = await WireScriptTransport([whole], cuts=(3, 1, 1)).send(request(), start_timeout=None)
    pieces: list[bytes] = []
    with pytest.raises(LlmTransportError, match="gone"):
        async for piece in response.body:
            pieces.append(piece)
    assert pieces == [whole.body[:1], whole.body[1:3], whole.body[3:]]


@pytest.mark.parametrize(
    ("timeline", "kind", "code", "position"),
    [
        ([{"type": "transport_error", "at": 0, "message": "refused"}], "transport", "connect_error", "no_response"),
        ([{"type": "disconnect", "at": 0}], "transport", "read_error", "no_response"),
        ([{"type": "timeout", "at": 0}], "timeout", "response_start_timeout", "no_response"),
        ([START, {"type": "timeout", "at": 0}], "timeout", "read_timeout", "response_observed"),
        ([START, {"type": "disconnect", "at": 0}], "transport", "read_error", "response_observed"),
    ],
)
async def test_faults_are_those_of_a_real_transport(
    timeline: list[dict[str, Any]], kind: str, code: str, position: str
) -> None:
    with pytest.raises(LlmTransportError) as caught:
        await collect(WireScriptTransport([script(*timeline)]))
    error = caught.value
    assert (error.kind, error.code, error.retryable, error.protocol_position) == (kind, code, True, position)


async def test_a_refusal_is_a_whole_answer() -> None:
    refused = script({"type": "http_error", "at": 0, "status": 400, "headers": {"A": "b"}, "body": {"error": "x"}})
    response = await WireScriptTransport([refused]).send(request(), start_timeout=None)
    assert (response.status, response.headers) == (400, {"a": "b"})
    assert [piece async for piece in response.body] == [b'{"error":"x"}']


async def test_events_happen_at_their_virtual_time() -> None:
    clock = ManualClock(auto_advance=True)
    transport = WireScriptTransport([script(*TIMELINE, {"type": "end", "at": 50})], clock=clock)
    await collect(transport)
    assert [round(seconds, 6) for seconds in clock.slept] == [0.01, 0.01, 0.03]


async def test_exchanges_under_one_schedule_wait_for_themselves() -> None:
    schedule = Schedule()
    transport = WireScriptTransport([script(), script()], schedule=schedule)
    reading = [asyncio.create_task(collect(transport)) for _ in range(2)]
    await schedule.wait_until_blocked(0, 0)
    await schedule.wait_until_blocked(1, 0)
    for event in range(2):
        await schedule.release(1, event)
    assert await reading[1] == []
    assert not reading[0].done()
    for event in range(2):
        await schedule.release(0, event)
    assert await reading[0] == []


async def test_a_schedule_lets_a_test_act_between_two_events() -> None:
    schedule = Schedule()
    transport = WireScriptTransport([script(*TIMELINE, {"type": "end", "at": 20})], schedule=schedule)
    seen: list[bytes] = []

    async def read() -> None:
        response = await transport.send(request(), start_timeout=None)
        async for piece in response.body:
            seen.append(piece)

    await schedule.release(0, 1)  # early: kept until its event comes
    reading = asyncio.create_task(read())
    await schedule.wait_until_blocked(0, 0)
    assert transport.exchanges and not seen
    await schedule.release(0, 0)
    await schedule.wait_until_blocked(0, 2)
    assert seen == [EXPECTED[0].encode()]
    for event in range(2, 7):
        await schedule.release(0, event)
    await reading
    assert b"".join(seen).decode() == "".join(EXPECTED)
