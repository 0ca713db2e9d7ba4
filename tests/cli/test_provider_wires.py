"""`lash provider test` on every wire: what was served, and a refused key, an empty account and haste told apart."""

from __future__ import annotations

import pytest
from support.wire import Reply, ThreadedChatServer, error_reply, stream_reply

SECRET = "sk-canary-0123456789abcdef"

ANTHROPIC = [
    {"type": "message_start", "message": {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x",
                                          "content": [], "usage": {"input_tokens": 9, "output_tokens": 1}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "ready"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}},
    {"type": "message_stop"},
]  # fmt: skip
GOOGLE = [
    {"candidates": [{"content": {"role": "model", "parts": [{"text": "ready"}]}, "finishReason": "STOP", "index": 0}],
     "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 2, "totalTokenCount": 11},
     "modelVersion": "gemini-x", "responseId": "msg_1"},
]  # fmt: skip
_MESSAGE = {"type": "message", "id": "m_1", "role": "assistant", "status": "completed",
            "content": [{"type": "output_text", "text": "ready", "annotations": []}]}  # fmt: skip
RESPONSES = [
    {"type": "response.created", "response": {"id": "msg_1", "model": "gpt-x", "status": "in_progress", "output": []}},
    {"type": "response.output_item.added", "output_index": 0, "item": {**_MESSAGE, "content": []}},
    {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "item_id": "m_1", "delta": "ready"},
    {"type": "response.output_item.done", "output_index": 0, "item": _MESSAGE},
    {"type": "response.completed", "response": {"id": "msg_1", "model": "gpt-x", "status": "completed",
                                                "output": [_MESSAGE],
                                                "usage": {"input_tokens": 9, "output_tokens": 2, "total_tokens": 11}}},
]  # fmt: skip


def anthropic_error(status: int, kind: str, message: str, headers: dict[str, str] | None = None) -> Reply:
    return error_reply(status, {"type": "error", "error": {"type": kind, "message": message}}, headers)


def openai_error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> Reply:
    return error_reply(status, {"error": {"message": message, "code": code}}, headers)


def google_error(code: int, status: str, message: str, *details: dict[str, str]) -> Reply:
    return error_reply(code, {"error": {"code": code, "message": message, "status": status, "details": list(details)}})


_REASON = "type.googleapis.com/google.rpc.ErrorInfo"
_RETRY = "type.googleapis.com/google.rpc.RetryInfo"
WIRES = {
    "anthropic": (ANTHROPIC, "x-api-key", SECRET, {
        5: anthropic_error(401, "authentication_error", "invalid x-api-key"),
        6: anthropic_error(400, "invalid_request_error", "Your credit balance is too low to access the API."),
        75: anthropic_error(429, "rate_limit_error", "This request would exceed your rate limit", {"retry-after": "7"}),
    }),
    "google": (GOOGLE, "x-goog-api-key", SECRET, {
        5: google_error(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.",
                        {"@type": _REASON, "reason": "API_KEY_INVALID"}),
        6: google_error(429, "RESOURCE_EXHAUSTED", "You exceeded your current quota, please check your plan."),
        75: google_error(429, "RESOURCE_EXHAUSTED", "Quota exceeded", {"@type": _RETRY, "retryDelay": "7s"}),
    }),
    "openai_responses": (RESPONSES, "authorization", f"Bearer {SECRET}", {
        5: openai_error(401, "invalid_api_key", f"Incorrect API key provided: {SECRET}."),
        6: openai_error(429, "insufficient_quota", "You exceeded your current quota, check your plan."),
        75: openai_error(429, "rate_limit_exceeded", "Rate limit reached", {"retry-after": "7"}),
    }),
}  # fmt: skip


def call(lash, server, kind):
    url = server.base_url.removesuffix("/v1") if kind == "anthropic" else server.base_url
    env = {"NO_PROXY": "127.0.0.1", "MY_KEY": SECRET, "LASH_CFG__providers__mine__kind": kind,
           "LASH_CFG__providers__mine__key": "env:MY_KEY", "LASH_CFG__providers__mine__base_url": url}  # fmt: skip
    return lash("provider", "test", "mine", "--model", "x", "-o", "json", env=env)


@pytest.mark.parametrize("kind", WIRES)
def test_every_wire_says_what_it_served(lash, kind):
    documents, header, value, _ = WIRES[kind]
    with ThreadedChatServer([stream_reply(*documents, done=False)]) as server:
        done = call(lash, server, kind)
    assert done.code == 0, done.err
    assert server.requests[0].headers[header] == value
    document = done.json
    assert (document["provider_kind"], document["text"], document["response_id"]) == (kind, "ready", "msg_1")
    assert document["served_model"] in ("claude-x", "gemini-x", "gpt-x")
    assert (document["usage"]["input_tokens"], document["usage"]["output_tokens"]) == (9, 2)


@pytest.mark.parametrize("kind", WIRES)
@pytest.mark.parametrize(
    ("status", "code"), [(5, "key_rejected"), (6, "quota_exhausted"), (75, "provider_rate_limited")]
)
def test_every_wire_tells_a_refused_key_an_empty_account_and_haste_apart(lash, kind, status, code):
    with ThreadedChatServer([WIRES[kind][3][status]]) as server:
        done = call(lash, server, kind)
    assert (done.code, done.out, done.error["code"]) == (status, "", code)
    assert done.error["hint"]
    if status == 75:
        assert "in 7 s" in done.error["hint"]
    assert "canary" not in done.err
