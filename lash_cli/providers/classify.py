"""What a provider failure means (contract 06 §3.3): pure functions from evidence to a verdict.

Structured codes beat text markers, and both beat the status. A verdict is a
`NormalizedError`: redacted of secrets and cut to 1 024 characters, so it can be
stored and shown as it is. Unknown failures count as retryable.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from lash_cli.core.codec import decode_json, storable
from lash_cli.core.llm import LlmResponse, NormalizedError, TerminalReason
from lash_cli.core.redaction import redact
from lash_cli.errors import LlmTransportError

MAX_ERROR_CHARS = 1024
#: How much of a body that is no error document an error quotes.
MAX_QUOTED_CHARS = 300

# What may stand as a code: anything else a server says there is no word for programs.
_CODE = re.compile(r"[A-Za-z0-9_.:/-]{1,80}")
# What ends at the next tag: a search for the end of each title would take a page of beginnings seconds to read.
_TITLE = re.compile(r"<title[^<>]*>([^<]*)</title>", re.IGNORECASE)
_SECONDS = re.compile(r"[0-9]{1,12}(\.[0-9]+)?")


class _Verdict(NamedTuple):
    kind: str
    retryable: bool
    terminal_reason: TerminalReason = TerminalReason.PROVIDER_ERROR


_CONTEXT = _Verdict("validation", False, TerminalReason.CONTEXT_OVERFLOW)
_FILTER = _Verdict("validation", False, TerminalReason.CONTENT_FILTER)
_HARD_QUOTA = _Verdict("quota", False)
_THROTTLED = _Verdict("quota", True)
_AUTH = _Verdict("auth", False)
_UNSUPPORTED = _Verdict("unsupported", False)
_INVALID = _Verdict("validation", False)
_TRANSIENT = _Verdict("http", True)
_REFUSED = _Verdict("http", False)
_UNREADABLE = _Verdict("stream", True)

_BY_CODE: dict[str, _Verdict] = {
    "context_length_exceeded": _CONTEXT,
    "exceed_context_size_error": _CONTEXT,
    "model_context_window_exceeded": _CONTEXT,
    "model_max_prompt_tokens_exceeded": _CONTEXT,
    "insufficient_quota": _HARD_QUOTA,
    "usage_limit_reached": _HARD_QUOTA,
    "usage_not_included": _HARD_QUOTA,
    "billing_hard_limit_reached": _HARD_QUOTA,
    "billing_not_active": _HARD_QUOTA,
    "exceeded_current_quota_error": _HARD_QUOTA,
    "rate_limit_exceeded": _THROTTLED,
    "rate_limit_error": _THROTTLED,
    "content_filter": _FILTER,
    "content_policy_violation": _FILTER,
    "data_inspection_failed": _FILTER,
    "model_not_found": _UNSUPPORTED,
    "invalid_api_key": _AUTH,
    "authentication_error": _AUTH,
    "permission_error": _AUTH,
    "API_KEY_INVALID": _AUTH,
    "UNAUTHENTICATED": _AUTH,
    "PERMISSION_DENIED": _AUTH,
    "billing_error": _HARD_QUOTA,
    "RATE_LIMIT_EXCEEDED": _THROTTLED,
    "invalid_prompt": _INVALID,
    "data_residency_mismatch": _INVALID,
    "invalid_image": _INVALID,
    "invalid_image_format": _INVALID,
    "invalid_base64_image": _INVALID,
    "invalid_image_url": _INVALID,
    "invalid_image_mode": _INVALID,
    "image_too_large": _INVALID,
    "image_too_small": _INVALID,
    "image_parse_error": _INVALID,
    "image_file_too_large": _INVALID,
    "image_file_not_found": _INVALID,
    "empty_image_file": _INVALID,
    "unsupported_image_media_type": _INVALID,
    "image_content_policy_violation": _FILTER,
    "bio_policy": _FILTER,
    "misalignment_policy_violation": _FILTER,
    "request_too_large": _INVALID,
    "timeout_error": _TRANSIENT,
    "UNAVAILABLE": _TRANSIENT,
    "DEADLINE_EXCEEDED": _TRANSIENT,
    "INTERNAL": _TRANSIENT,
    "overloaded_error": _TRANSIENT,
    # The model wrote a call that Groq could not read: it may well write another one.
    "tool_use_failed": _UNREADABLE,
}
# Codes that say no more than that there was an error: the text and a status that refuses say more. Ollama sends
# api_error with each of its refusals, llama.cpp server_error with a prompt that outgrew its context.
_GENERIC_CODES = frozenset({"server_error", "internal_server_error", "api_error"})

# Codes that say too little to beat a text marker; they decide only where there is no status either.
_BY_VAGUE_CODE: dict[str, _Verdict] = {
    "invalid_request_error": _INVALID,
    "INVALID_ARGUMENT": _INVALID,
    "FAILED_PRECONDITION": _INVALID,
    "OUT_OF_RANGE": _INVALID,
    "NOT_FOUND": _UNSUPPORTED,
    "not_found_error": _UNSUPPORTED,
    "RESOURCE_EXHAUSTED": _THROTTLED,
}

_RATE_WORDS = re.compile(
    r"rate.?limit|too many requests|throttl|\bper[ -](?:second|minute|hour|day)\b|\b[rt]p[smd]\b", re.IGNORECASE
)
_MARKERS: tuple[tuple[tuple[str, ...], str, _Verdict], ...] = (
    (
        (
            "context_length_exceeded",
            "maximum context length",
            "context window",
            "context size",
            "context length",
            "exceed context limit",
            "prompt is too long",
            "input is too long",
            "reduce the length of the messages",
            # Gemini, xAI, Moonshot, vLLM, TGI, Zhipu
            "exceeds the maximum number of tokens",
            "maximum prompt length",
            "exceeded model token limit",
            "longer than the maximum model length",
            "`inputs` tokens + `max_new_tokens` must be <=",
            "`inputs` must have less than",
            "prompt exceeds max length",
        ),
        "context_length_exceeded",
        _CONTEXT,
    ),
    (
        (
            "insufficient_quota",
            "usage_limit_reached",
            "usage_not_included",
            "credit balance",
            "insufficient credits",
            "insufficient balance",
            "exceeded your current quota",
            "all available credits",
        ),
        "insufficient_quota",
        _HARD_QUOTA,
    ),
    (
        (
            "content_filter",
            "content management policy",
            "content policy",
            "safety system",
            "input was flagged",
            # Anthropic, DeepSeek, xAI
            "content filtering policy",
            "content exists risk",
            "content violates usage guidelines",
        ),
        "content_filter",
        _FILTER,
    ),
    # xAI and Gemini tell a bad key as a bad argument.
    (("incorrect api key", "api key not valid"), "invalid_api_key", _AUTH),
    # What chat templates, under a status of 500, and Mistral say of whose turn it is, or of the ids of past calls.
    (
        ("roles must alternate", "after role 'tool'", "9, with a length of 9", "strings with length 9"),
        "conversation_refused",
        _INVALID,
    ),
)
# Within one sentence; a dot inside of a word is one of the model's name.
_MODEL_MISSING = re.compile(
    r"model_not_found|\bmodel\b(?:[^.]|\.(?=\S)){0,120}\b(not found|does not exist)", re.IGNORECASE
)


def presentable(text: str, secrets: tuple[str, ...] = ()) -> str:
    """`text` redacted first and cut second, so that no half of a secret survives; what no UTF-8 can hold is escaped."""
    clean = storable(redact(text, secrets))
    return clean if len(clean) <= MAX_ERROR_CHARS else clean[: MAX_ERROR_CHARS - 1] + "…"


def classify_http(
    status: int, headers: Mapping[str, str], body: str, *, now_ms: int, secrets: tuple[str, ...] = ()
) -> NormalizedError:
    """The verdict on an answer whose status is not one of success. Header names are lower case."""
    document = _json_or_none(body)
    message, codes = _message_and_codes(document)
    hint = retry_after_ms(headers, document, now_ms=now_ms)
    is_page = body.lstrip().startswith("<")
    verdict, code = _judge(codes, "" if is_page else message or body, status, hint)
    if not message:
        message = described_body(body, secrets)
    if is_page and status < 500:
        code = code or "unexpected_html"
    if 300 <= status < 400:
        code = "unexpected_redirect"
        message = f"the endpoint redirects to {headers.get('location', 'elsewhere')}; set base_url to the final address"
    return _normalized(verdict, code, f"HTTP {status}: {message}", status, hint, secrets)


def classify_error_object(error: Any, *, secrets: tuple[str, ...] = ()) -> NormalizedError:
    """The verdict on an error object inside a successful answer or a stream event."""
    document = {"error": error}
    message, codes = _message_and_codes(document)
    status = _embedded_status(error)
    hint = retry_after_ms({}, document, now_ms=0)
    verdict, code = _judge(codes, message, status, hint)
    said = f"the provider reported: {message or 'an error without a message'}"
    return _normalized(verdict, code, said, status, hint, secrets)


def _normalized(
    verdict: _Verdict, code: str | None, message: str, status: int | None, hint: int | None, secrets: tuple[str, ...]
) -> NormalizedError:
    return NormalizedError(
        kind=verdict.kind,
        message=presentable(message, secrets),
        code=code if code is None else presentable(code, secrets),
        status=status,
        retryable=verdict.retryable,
        terminal_reason=verdict.terminal_reason,
        retry_after_ms=hint if verdict.retryable else None,
    )


def retry_after_ms(headers: Mapping[str, str], document: Any, *, now_ms: int) -> int | None:
    """What the provider asked us to wait, from `retry-after-ms`, `retry-after` (seconds or a date) or `retryDelay`."""
    exact = headers.get("retry-after-ms", "").strip()
    if _SECONDS.fullmatch(exact):
        return int(float(exact))
    text = headers.get("retry-after", "").strip()
    if _SECONDS.fullmatch(text):
        return int(float(text) * 1000)
    until = _milliseconds_until(text, headers.get("date", ""), now_ms)
    return _retry_delay(document) if until is None else until


def to_exception(
    error: NormalizedError,
    *,
    protocol_position: str = "response_observed",
    partial: LlmResponse | None = None,
    raw: str | None = None,
) -> LlmTransportError:
    """The exception a provider raises for a verdict."""
    return LlmTransportError(
        error.message,
        kind=error.kind,
        code=error.code,
        status=error.status,
        retryable=error.retryable,
        retry_after_ms=error.retry_after_ms,
        terminal_reason=error.terminal_reason.value,
        protocol_position=protocol_position,
        partial=partial,
        raw=raw,
    )


def from_exception(error: LlmTransportError, secrets: tuple[str, ...] = ()) -> NormalizedError:
    """The verdict an exception carries, redacted and cut once more: the last gate before anything is recorded."""
    return NormalizedError(
        kind=error.kind,
        message=presentable(error.message, secrets),
        code=presentable(error.code, secrets),
        status=error.status,
        retryable=error.retryable,
        terminal_reason=TerminalReason(error.terminal_reason),
        retry_after_ms=error.retry_after_ms,
    )


def _judge(codes: tuple[str, ...], text: str, status: int | None, hint: int | None) -> tuple[_Verdict, str | None]:
    first = codes[0] if codes else None
    lowered = text.lower()
    is_about_rate = _RATE_WORDS.search(text) is not None
    if is_about_rate and "request too large" in lowered:
        return _HARD_QUOTA, first  # it alone is more than its limit for a minute: no wait makes it fit
    for code in codes:
        if code in _BY_CODE:
            return _BY_CODE[code], code
    for markers, code, verdict in _MARKERS:
        if not any(marker in lowered for marker in markers):
            continue
        if verdict is _CONTEXT and is_about_rate:
            continue
        if verdict is _HARD_QUOTA and hint is not None:
            continue  # a quota that comes back at a stated time is a throttle
        return verdict, code
    if status in (None, 400, 404) and _names_missing_model(codes, text):
        return _UNSUPPORTED, "model_not_found" if first is None or first in _GENERIC_CODES else first
    generic = next((code for code in codes if code in _GENERIC_CODES), None)
    if generic is not None and (status is None or not 400 <= status < 500):
        return _TRANSIENT, generic
    if status is None:
        vague = next((_BY_VAGUE_CODE[code] for code in codes if code in _BY_VAGUE_CODE), _Verdict("unknown", True))
        return (_THROTTLED if is_about_rate else vague), first
    return _by_status(status), first


def _names_missing_model(codes: tuple[str, ...], text: str) -> bool:
    """Whether the model is what was not found; some say no more than `model: NAME` under a code for missing things."""
    is_named = "not_found_error" in codes and text.lower().startswith("model:")
    return is_named or _MODEL_MISSING.search(text) is not None


def _by_status(status: int) -> _Verdict:
    if status in (408, 409, 425) or status >= 500:
        return _TRANSIENT
    if status == 429:
        return _THROTTLED
    if status == 402:
        return _HARD_QUOTA
    if status in (401, 403):
        return _AUTH
    if status in (400, 413, 422):
        return _INVALID
    return _REFUSED


def _json_or_none(body: str) -> Any:
    try:
        return decode_json(body)
    except msgspec.DecodeError:
        return None


def _message_and_codes(document: Any) -> tuple[str, tuple[str, ...]]:
    """The human text and the structured codes of an error document, whatever its nesting."""
    if isinstance(document, list) and document:
        document = document[0]
    if not isinstance(document, dict):
        return "", ()
    error = document.get("error", document)
    if isinstance(error, str):
        return error, ()
    if not isinstance(error, dict):
        return "", ()
    text = next(filter(None, (_words_of(error.get(name)) for name in ("message", "detail", "msg"))), "")
    said = (error.get(name) for name in ("code", "type", "status"))
    codes = tuple(code for code in said if isinstance(code, str) and _CODE.fullmatch(code))
    passed_on, passed_codes = _passed_on(error)
    return ": ".join(filter(None, (text, passed_on))), (*_detail_reasons(error), *codes, *passed_codes)


def _words_of(said: Any) -> str:
    """What is said in a text, or of each field by servers that check what they are sent (FastAPI, and Mistral within
    another object): without the `input` they quote, whose words are those of the conversation."""
    if isinstance(said, dict):
        return _words_of(said.get("detail"))
    if not isinstance(said, list):
        return said if isinstance(said, str) else ""
    fields = [field for field in said if isinstance(field, dict) and isinstance(field.get("msg"), str)]
    return "; ".join(f"{_place_of(field)}{field['msg']}" for field in fields)


def _place_of(field: dict[str, Any]) -> str:
    place = field.get("loc")
    return f"{'.'.join(map(str, place))}: " if isinstance(place, list) and place else ""


def _passed_on(error: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    """The error of another provider that OpenRouter wraps as it came, under words that say nothing."""
    metadata = error.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, dict) else None
    if not isinstance(raw, str):
        return "", ()
    document = _json_or_none(raw)
    return _message_and_codes(document) if isinstance(document, dict | list) else (raw, ())


def _detail_reasons(error: dict[str, Any]) -> tuple[str, ...]:
    """The reasons in an error's details: the only place where some endpoints tell a bad key from a bad argument."""
    details = error.get("details")
    found = (
        (detail.get("reason") for detail in details if isinstance(detail, dict)) if isinstance(details, list) else ()
    )
    return tuple(reason for reason in found if isinstance(reason, str) and reason in _BY_CODE)


def _embedded_status(error: Any) -> int | None:
    if isinstance(error, dict):
        for name in ("status", "code", "status_code"):
            value = error.get(name)
            if isinstance(value, int) and not isinstance(value, bool) and 400 <= value <= 599:
                return value
    return None


def described_body(body: str, secrets: tuple[str, ...]) -> str:
    """One line about a body that is not an error document, without any of `secrets` before it is cut."""
    text = " ".join(body.split())
    if not text:
        return "the answer has no body"
    if text.startswith("<"):
        title = _TITLE.search(text)
        return f"the endpoint answered with an HTML page{f' titled {title[1].strip()!r}' if title else ''}"
    return redact(text, secrets)[:MAX_QUOTED_CHARS]


def _milliseconds_until(text: str, answered_at: str, now_ms: int) -> int | None:
    """From the answer's own `date`, where it has one, so that a clock of ours that is wrong does not matter."""
    moment = _date_ms(text)
    if moment is None:
        return None
    answered_ms = _date_ms(answered_at)
    return max(0, moment - (now_ms if answered_ms is None else answered_ms))


def _date_ms(text: str) -> int | None:
    """An HTTP date in epoch milliseconds, None when it is none."""
    from datetime import UTC
    from email.utils import parsedate_to_datetime

    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1000)


def _retry_delay(document: Any) -> int | None:
    """`retryDelay` of the error object or of one of its details; a number is milliseconds."""
    if isinstance(document, list) and document:
        document = document[0]
    if not isinstance(document, dict):
        return None
    error = document.get("error")
    details = error.get("details") if isinstance(error, dict) else None
    for place in (error, document, *(details if isinstance(details, list) else ())):
        value = place.get("retryDelay") if isinstance(place, dict) else None
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e12:
            return int(value)
        if isinstance(value, str) and (match := re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]+)?)(ms|s)", value.strip())):
            return int(float(match[1]) * (1 if match[2] == "ms" else 1000))
    return None
