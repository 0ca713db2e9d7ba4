"""The classification table of contract 06 §3.3 and the redaction of what it shows."""

from __future__ import annotations

import json
import re

import pytest
from support.regex_steps import steps

from lash_cli.core.llm import TerminalReason
from lash_cli.providers import classify
from lash_cli.providers.classify import (
    MAX_ERROR_CHARS,
    classify_error_object,
    classify_http,
    presentable,
    retry_after_ms,
)

NOW_MS = 1_445_412_400_000  # Wed, 21 Oct 2015 07:26:40 GMT


def judge(status: int, body: object = None, headers: dict[str, str] | None = None):
    text = body if isinstance(body, str) else json.dumps(body) if body is not None else ""
    return classify_http(status, headers or {}, text, now_ms=NOW_MS)


def error(message: str, **fields: object) -> dict[str, object]:
    return {"error": {"message": message, **fields}}


@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [
        *((status, "http", True) for status in (408, 409, 425, 500, 502, 503, 504, 529)),
        (429, "quota", True),
        (402, "quota", False),
        *((status, "auth", False) for status in (401, 403)),
        *((status, "validation", False) for status in (400, 413, 422)),
        *((status, "http", False) for status in (404, 405, 418, 302)),
    ],
)
def test_the_status_decides_when_nothing_else_does(status: int, kind: str, retryable: bool) -> None:
    verdict = judge(status)
    assert (verdict.kind, verdict.retryable, verdict.status) == (kind, retryable, status)


@pytest.mark.parametrize(
    ("status", "body", "kind", "retryable", "reason"),
    [
        (429, error("try later", code="insufficient_quota"), "quota", False, "provider_error"),
        (429, error("Your credit balance is too low"), "quota", False, "provider_error"),
        (429, error("x", type="usage_limit_reached"), "quota", False, "provider_error"),
        (400, error("too long", code="context_length_exceeded"), "validation", False, "context_overflow"),
        (500, error("This model's maximum context length is 8192"), "validation", False, "context_overflow"),
        (400, error("the request exceeds the available context size"), "validation", False, "context_overflow"),
        (429, error("Rate limit: context window tokens per minute"), "quota", True, "provider_error"),
        (400, error("bad", code="content_filter"), "validation", False, "content_filter"),
        (404, error("x", code="model_not_found"), "unsupported", False, "provider_error"),
        (404, error('model "llama9" not found, try pulling it first'), "unsupported", False, "provider_error"),
        (500, error("Jinja Exception: Conversation roles must alternate"), "validation", False, "provider_error"),
        (400, error("Unexpected role 'user' after role 'tool'"), "validation", False, "provider_error"),
        (
            400,
            error("Tool call id was c1 but must be a-z, A-Z, 0-9, with a length of 9."),
            "validation",
            False,
            "provider_error",
        ),
        (
            500,
            error("Tool call IDs should be alphanumeric strings with length 9!"),
            "validation",
            False,
            "provider_error",
        ),
        (404, "404 page not found", "http", False, "provider_error"),
        (404, error("model: big-2", type="not_found_error"), "unsupported", False, "provider_error"),
        (
            400,
            error("API key not valid", status="INVALID_ARGUMENT", details=[{"reason": "API_KEY_INVALID"}]),
            "auth",
            False,
            "provider_error",
        ),
        (
            400,
            error("prompt is too long: 9 tokens > 8 maximum", type="invalid_request_error"),
            "validation",
            False,
            "context_overflow",
        ),
        (400, error("Your credit balance is too low", type="invalid_request_error"), "quota", False, "provider_error"),
        (429, error("maximum context length; limited to 9 tokens per minute (TPM)"), "quota", True, "provider_error"),
        (529, error("Overloaded", type="overloaded_error"), "http", True, "provider_error"),
        # The model wrote a call that the server could not read: it is asked again.
        (
            400,
            error("Failed to call a function. Please adjust your prompt.", code="tool_use_failed"),
            "stream",
            True,
            "provider_error",
        ),
    ],
)
def test_codes_and_markers_beat_the_status(status: int, body: object, kind: str, retryable: bool, reason: str) -> None:
    verdict = judge(status, body)
    assert (verdict.kind, verdict.retryable, verdict.terminal_reason) == (kind, retryable, TerminalReason(reason))


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, error("The input token count (1196265) exceeds the maximum number of tokens allowed (1048576).")),
        (400, {"code": "invalid argument", "error": "This model's maximum prompt length is 131072"}),
        (400, error("Invalid request: Your request exceeded model token limit: 262144 (requested: 300000)")),
        (400, error("prompt token count of 9 exceeds the limit of 8", code="model_max_prompt_tokens_exceeded")),
        (400, error("The decoder prompt (length 5000) is longer than the maximum model length of 4096.")),
        (422, error("Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4097. Given: 5000")),
        (422, error("Input validation error: `inputs` must have less than 4096 tokens. Given: 5000")),
        (400, error("Prompt exceeds max length", code="1261")),
    ],
    ids=["gemini", "xai", "moonshot", "copilot", "vllm", "tgi", "tgi alone", "zhipu"],
)
def test_a_conversation_that_is_too_long_is_known_in_the_words_of_many(status: int, body: object) -> None:
    verdict = judge(status, body)
    assert (verdict.kind, verdict.retryable, verdict.terminal_reason) == (
        "validation",
        False,
        TerminalReason.CONTEXT_OVERFLOW,
    )


def test_an_answer_that_may_not_be_so_long_is_no_conversation_that_is() -> None:
    verdict = judge(422, error("Input validation error: `max_new_tokens` must be <= 512. Given: 4096"))
    assert (verdict.kind, verdict.terminal_reason) == ("validation", TerminalReason.PROVIDER_ERROR)


@pytest.mark.parametrize("is_within", [False, True], ids=["fastapi", "mistral"])
def test_what_a_server_quotes_of_the_conversation_says_nothing_of_the_failure(is_within: bool) -> None:
    quoted = [{"role": "user", "content": "How long is your context window, and what is your content policy?"}]
    field = {"type": "missing", "loc": ["body", "messages", 0, "id"], "msg": "Field required", "input": quoted}
    refused = {"detail": [field, {**field, "loc": [], "msg": "Extra inputs are not permitted"}]}
    verdict = judge(422, {"object": "error", "message": refused} if is_within else refused)
    assert (verdict.kind, verdict.terminal_reason) == ("validation", TerminalReason.PROVIDER_ERROR)
    assert verdict.message == "HTTP 422: body.messages.0.id: Field required; Extra inputs are not permitted"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, error("Output blocked by content filtering policy", type="invalid_request_error")),
        (400, error("Content Exists Risk", code="invalid_request_error")),
        (400, error("Input data may contain inappropriate content.", code="data_inspection_failed")),
        (403, {"code": "no permission", "error": "Content violates usage guidelines. Failed check: X"}),
    ],
    ids=["anthropic", "deepseek", "qwen", "xai"],
)
def test_a_filter_is_known_in_the_words_of_many(status: int, body: object) -> None:
    verdict = judge(status, body)
    assert (verdict.kind, verdict.retryable, verdict.terminal_reason) == (
        "validation",
        False,
        TerminalReason.CONTENT_FILTER,
    )


@pytest.mark.parametrize(
    "body",
    [
        error('model "llama3.2" not found, try pulling it first', type="not_found_error"),
        error("The model `Qwen/Qwen2.5-7B` does not exist.", type="NotFoundError"),
    ],
    ids=["ollama", "vllm"],
)
def test_a_model_whose_name_has_a_dot_can_be_missing_too(body: object) -> None:
    assert judge(404, body).kind == "unsupported"


def test_what_two_sentences_say_does_not_make_a_model_missing() -> None:
    assert judge(404, error("This model is fine. The file was not found.")).kind == "http"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (
            429,
            error("Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 44532.", type="tokens"),
        ),
        (413, error("Request too large for model `llama` on tokens per minute (TPM)", code="rate_limit_exceeded")),
        (429, error("Your account is suspended, please check your plan", type="exceeded_current_quota_error")),
        (429, {"code": "exhausted", "error": "Your team has either used all available credits or reached its limit."}),
    ],
    ids=["openai", "groq", "moonshot", "xai"],
)
def test_a_limit_that_no_wait_helps_with_is_not_waited_for(status: int, body: object) -> None:
    verdict = judge(status, body)
    assert (verdict.kind, verdict.retryable) == ("quota", False)


def test_a_key_that_is_refused_as_a_bad_argument_is_a_refused_key() -> None:
    assert judge(400, {"code": "invalid argument", "error": "Incorrect API key provided: xa***."}).kind == "auth"


def test_a_structured_code_beats_a_text_marker() -> None:
    verdict = judge(429, error("content_filter insufficient_quota context window", code="rate_limit_exceeded"))
    assert (verdict.kind, verdict.retryable) == ("quota", True)


def test_a_quota_that_names_its_return_is_a_throttle() -> None:
    details = [{"@type": "RetryInfo", "retryDelay": "1.5s"}]
    verdict = judge(429, error("You exceeded your current quota", status="RESOURCE_EXHAUSTED", details=details))
    assert (verdict.retryable, verdict.retry_after_ms) == (True, 1500)
    assert judge(429, error("You exceeded your current quota")).retryable is False
    assert judge(429, error("You exceeded your current quota of requests per day")).retryable is False


def test_what_is_refused_for_what_it_holds_stays_refused_whatever_it_says_of_waiting() -> None:
    too_long = judge(400, error("the maximum context length is 8 tokens", retryDelay="2s"))
    assert (too_long.terminal_reason, too_long.retryable) == (TerminalReason.CONTEXT_OVERFLOW, False)
    filtered = judge(400, error("stopped by our content policy; 3 requests per minute may be"))
    assert (filtered.terminal_reason, filtered.retryable) == (TerminalReason.CONTENT_FILTER, False)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"retry-after": "7"}, 7000),
        ({"retry-after": "0"}, 0),
        ({"retry-after-ms": "250", "retry-after": "7"}, 250),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 80_000),
        ({"retry-after": "Wed, 21 Oct 2015 07:00:00 GMT"}, 0),
        # The answer's own date is what counts, however wrong our clock is.
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT", "date": "Wed, 21 Oct 2015 07:27:55 GMT"}, 5_000),
        ({"retry-after": "Wednesday, 21-Oct-15 07:28:00 GMT"}, 80_000),
        ({"retry-after": "Wed, 21 Oct 2015 09:28:00 +0200"}, 80_000),
        ({"retry-after": "99999999999"}, 99_999_999_999_000),
        ({"retry-after": "1.5"}, 1500),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_read_as_seconds_milliseconds_or_a_date(headers: dict[str, str], expected: int | None) -> None:
    assert retry_after_ms(headers, None, now_ms=NOW_MS) == expected


@pytest.mark.parametrize(("delay", "expected"), [("1.5s", 1500), ("200ms", 200), (300, 300), ("later", None)])
def test_retry_delay_in_the_body_is_honoured(delay: object, expected: int | None) -> None:
    assert judge(503, error("busy", retryDelay=delay)).retry_after_ms == expected


def test_retry_delay_is_found_beside_the_error_and_in_its_details() -> None:
    assert judge(503, {"error": {"message": "busy"}, "retryDelay": "2s"}).retry_after_ms == 2000
    assert judge(503, [error("busy", details=[{"retryDelay": "36.123456789s"}])]).retry_after_ms == 36_123
    assert judge(503, error("busy", retryDelay="2s"), {"retry-after": "soon"}).retry_after_ms == 2000
    assert judge(503, error("busy", retryDelay="2s"), {"retry-after": "3"}).retry_after_ms == 3000


def test_an_error_body_without_an_instruction_produces_none() -> None:
    assert judge(429, error("Please retry in 20 seconds", code="rate_limit_exceeded")).retry_after_ms is None


def test_a_failure_that_is_not_retried_carries_no_delay() -> None:
    assert judge(401, error("no"), {"retry-after": "5"}).retry_after_ms is None


def test_an_error_object_without_any_hint_is_retryable() -> None:
    verdict = classify_error_object({"message": "something odd"})
    assert (verdict.kind, verdict.retryable, verdict.message) == (
        "unknown",
        True,
        "the provider reported: something odd",
    )


@pytest.mark.parametrize(
    ("fields", "kind", "retryable"),
    [
        ({"type": "overloaded_error"}, "http", True),
        ({"type": "invalid_request_error"}, "validation", False),
        ({"status": "RESOURCE_EXHAUSTED"}, "quota", True),
        ({"code": "invalid_prompt"}, "validation", False),
        ({"code": "never_heard_of"}, "unknown", True),
        ({"type": "invalid_request_error", "message": "Rate limit reached for requests"}, "quota", True),
    ],
)
def test_an_error_in_a_stream_is_judged_by_its_code(fields: dict[str, str], kind: str, retryable: bool) -> None:
    verdict = classify_error_object({"message": "x"} | fields)
    assert (verdict.kind, verdict.retryable) == (kind, retryable)


def test_an_embedded_status_is_used() -> None:
    assert classify_error_object({"message": "no credits left?", "code": 402}).retryable is False
    assert classify_error_object({"message": "slow down", "code": 429}).kind == "quota"
    assert classify_error_object({"message": "no route to the model: not found", "code": 503}).retryable is True
    assert classify_error_object({"message": "no such thing", "code": 200}).status is None
    assert classify_error_object({"message": "no", "code": 401, "retryDelay": "5s"}).retry_after_ms is None


def test_an_html_error_page_is_described_not_quoted() -> None:
    verdict = judge(502, "<html><head><title>Bad gateway</title></head><body>content_filter</body></html>")
    assert (verdict.kind, verdict.retryable) == ("http", True)
    assert verdict.message == "HTTP 502: the endpoint answered with an HTML page titled 'Bad gateway'"


@pytest.mark.parametrize("body", ["<title>" * 9000, "<title" * 10_000, "<title>" + "x " * 30_000])
def test_a_page_made_to_be_slow_to_read_is_described_at_once(body: str) -> None:
    assert "HTML page" in judge(502, body).message
    short, twice = body[: len(body) // 40], body[: len(body) // 20]
    for pattern in vars(classify).values():  # nothing else runs while a body is looked at
        if isinstance(pattern, re.Pattern):
            assert steps(pattern, twice) <= 2.1 * steps(pattern, short), pattern.pattern


def test_a_redirect_names_the_address_to_configure() -> None:
    assert "https://new.example/v1" in judge(301, "", {"location": "https://new.example/v1"}).message


def test_secrets_are_removed_before_the_text_is_cut() -> None:
    key = "very-private-key"
    text = "a" * (MAX_ERROR_CHARS - 8) + key
    shown = presentable(text, (key,))
    assert len(shown) <= MAX_ERROR_CHARS
    assert "very" not in shown


@pytest.mark.parametrize("before", range(280, 302, 3))
def test_a_body_that_is_no_document_is_cut_behind_the_redaction_too(before: int) -> None:
    key = "very-private-key"
    verdict = classify_http(500, {}, "x" * before + key, now_ms=0, secrets=(key,))
    assert not any(key[:length] in verdict.message for length in range(2, len(key)))


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer abc.def-123",
        "key sk-proj-abcdef1234567890 is wrong",
        "x-api-key: abcdef123",
        "api_key=zzz123",
        '{"api_key": "zzz123"}',
        "https://host/v1?key=zzz123&alt=sse",
        "x-goog-api-key: abcdef123",
        "AIzaabcdef1234567890abcdef1234567890",
    ],
)
def test_anything_shaped_like_a_credential_is_removed(text: str) -> None:
    shown = presentable(text)
    assert "[redacted]" in shown
    assert not any(part in shown for part in ("abc.def", "abcdef123", "zzz123"))


def test_a_secret_that_begins_like_another_leaves_no_rest() -> None:
    assert presentable("it was secretpart-two", ("secret", "secretpart-two")) == "it was [redacted]"


@pytest.mark.parametrize("code", ["", "x" * 2000, "two words", 'a"b', "line\nbreak", "\x1b[31m", "é", 7, None, {}])
def test_a_code_no_program_could_test_for_is_none(code: object) -> None:
    assert judge(400, {"error": {"message": "no", "code": code}}).code is None


def test_a_page_and_a_redirect_have_codes_of_their_own() -> None:
    page = "<html><title>Welcome</title></html>"
    assert judge(404, page).code == "unexpected_html"
    assert judge(502, page).code is None
    assert judge(302, page, {"location": "/login"}).code == "unexpected_redirect"


@pytest.mark.parametrize(
    ("code", "reason", "retryable"),
    [
        ("image_too_large", TerminalReason.PROVIDER_ERROR, False),
        ("image_file_not_found", TerminalReason.PROVIDER_ERROR, False),
        ("data_residency_mismatch", TerminalReason.PROVIDER_ERROR, False),
        ("image_content_policy_violation", TerminalReason.CONTENT_FILTER, False),
        ("bio_policy", TerminalReason.CONTENT_FILTER, False),
        ("vector_store_timeout", TerminalReason.PROVIDER_ERROR, True),
        ("failed_to_download_image", TerminalReason.PROVIDER_ERROR, True),
        ("a_code_of_next_year", TerminalReason.PROVIDER_ERROR, True),
    ],
)
def test_what_a_failed_response_says_of_the_request_is_not_asked_again(
    code: str, reason: TerminalReason, retryable: bool
) -> None:
    verdict = classify_error_object({"code": code, "message": "no"})
    assert (verdict.code, verdict.terminal_reason, verdict.retryable) == (code, reason, retryable)
