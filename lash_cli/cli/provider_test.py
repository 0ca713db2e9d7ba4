"""`lash provider test NAME` (contract 08 §5.4): one small real call, and what it says about the provider.

The call goes through the ordinary caller, once and without the ladder's waits,
so that an answer comes at once. What is printed was served, not asked for. A
failure names the next step; nothing is stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from lash_cli.cli.exit_status import NO_NETWORK, WRONG_ADDRESS
from lash_cli.cli.invocation import current
from lash_cli.cli.key_hint import key_hint
from lash_cli.cli.output import Document, emit_one
from lash_cli.cli.provider_commands import shown_address
from lash_cli.errors import (
    ConfigError,
    LashError,
    ProviderFailed,
    ProviderRateLimited,
    ProviderUnavailable,
    UsageError,
)
from lash_cli.settings.providers import AvailableProvider, available_provider, default_model

if TYPE_CHECKING:
    from lash_cli.core.llm import LlmCallResult, LlmResponse, NormalizedError
    from lash_cli.core.policy import ModelSpec

PROMPT = "Reply with one word: ready"
# Small, but enough for a model that thinks before it answers.
OUTPUT_TOKENS = 256
_ONE_ATTEMPT = {"max_attempts": 1, "throttle_wait_budget_ms": 0}
_UNREACHABLE = frozenset({"transport", "timeout"})


def command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `lash provider ls` shows it.")],
    model: Annotated[str | None, typer.Option(help="The model or an alias; the default one otherwise.")] = None,
) -> int:
    """Call a provider once, for real, and show what was served or what to do next.

    A refused key exits with 5, an exhausted quota and an unknown model with 6,
    a rate limit and a server that cannot be reached with 75.
    """
    from lash_cli.cli.reading import run_async
    from lash_cli.cli.running import named_model
    from lash_cli.wiring import known_model, model_spec

    settings, environment = current().settings, current().environment
    provider = available_provider(settings, environment, name)
    chosen = default_model(settings, environment, name) if model is None else model
    if chosen is None:
        raise UsageError(
            f"nothing says which model of {name!r} to call", hint=f"name one: lash provider test {name} --model ID"
        )
    spec = model_spec(settings, chosen) if model is None else named_model(model)
    result = run_async(_call(provider, spec))
    if result.response is None:
        assert result.error is not None  # a result is one or the other
        raise explained(provider, spec.id, result.error, _duration_ms(result))
    prices = known_model(settings, chosen).prices
    cost = None if prices is None else prices.cost_micros(result.response.usage)
    document = _document(provider, spec.id, result, result.response)
    document["cost_micros"] = cost
    document["currency"] = None if cost is None or prices is None else prices.currency
    emit_one("ProviderTest", document, text=_text(document))
    return 0


async def _call(provider: AvailableProvider, spec: ModelSpec) -> LlmCallResult:
    from msgspec.structs import replace

    from lash_cli.core.content import Message, Role, TextPart
    from lash_cli.core.llm import LlmRequest, LlmScope, StreamEvent
    from lash_cli.core.policy import ProviderDefault
    from lash_cli.runtime.cancellation import CancelToken
    from lash_cli.system import SystemClock, SystemIds
    from lash_cli.wiring import build_provider

    once = provider._replace(options={**provider.options, **_ONE_ATTEMPT})
    clock, ids = SystemClock(), SystemIds()
    caller = build_provider(once, current().paths, current().environment, clock=clock, ids=ids)
    request_id = ids.new("test")
    request = LlmRequest(
        # Whatever variant an alias asks for is left out: it is the provider that is tested, as cheaply as can be.
        model=replace(spec, variant=ProviderDefault()),
        messages=(Message("m_test", Role.USER, (TextPart(PROMPT),)),),
        scope=LlmScope("provider-test", request_id),
        output_token_cap=OUTPUT_TOKENS,
        is_shown=False,
    )

    async def ignore(event: StreamEvent) -> None:
        return None

    try:
        return await caller.call(request, sink=ignore, cancel=CancelToken())
    finally:
        await caller.aclose()


def _duration_ms(result: LlmCallResult) -> int:
    return sum(attempt.duration_ms for attempt in result.record.attempts)


def _document(provider: AvailableProvider, model: str, result: LlmCallResult, response: LlmResponse) -> Document:
    from lash_cli.cli.documents import usage_document

    evidence = response.evidence
    return {
        "id": provider.name,
        "provider": provider.name,
        "provider_kind": provider.kind,
        "base_url": shown_address(provider),
        "model": model,
        "served_model": evidence.served_model if evidence else None,
        "response_id": evidence.provider_response_id if evidence else None,
        "request_id": evidence.provider_request_id if evidence else None,
        "finish_reason": evidence.provider_finish_reason if evidence else None,
        "terminal_reason": response.terminal_reason.value,
        "text": response.full_text,
        "latency_ms": _duration_ms(result),
        "usage": usage_document(response.usage),
    }


def _text(document: Document) -> str:
    from lash_cli.views.safe_text import preview
    from lash_cli.views.tables import pairs

    usage = document["usage"]
    cost = document["cost_micros"]
    rows = [
        ("provider", f"{document['provider']} ({document['provider_kind']}) {document['base_url'] or ''}".rstrip()),
        ("asked for", document["model"]),
        ("served", document["served_model"] or "it did not say"),
        ("answer", preview(document["text"], 200) or f"nothing ({document['terminal_reason']})"),
        ("finish", document["finish_reason"] or document["terminal_reason"]),
        ("latency", f"{document['latency_ms']} ms"),
        ("tokens", f"{usage['input_tokens']} in, {usage['cache_read_input_tokens']} cached, "
                   f"{usage['output_tokens']} out, {usage['reasoning_output_tokens']} of them reasoning"),
        ("cost", "unknown" if cost is None else f"{cost / 1_000_000:.6f} {document['currency']}"),
        ("ids", ", ".join(filter(None, (document["response_id"], document["request_id"]))) or "-"),
    ]  # fmt: skip
    return pairs(rows)


def explained(provider: AvailableProvider, model: str, error: NormalizedError, duration_ms: int) -> LashError:
    """The error of a failed test call, with the next step as its hint."""
    details: dict[str, Any] = {
        "provider": provider.name,
        "model": model,
        "failure": error.kind,
        "failure_code": error.code,
        "status": error.status,
        "retry_after_ms": error.retry_after_ms,
        "latency_ms": duration_ms,
    }
    again = f"lash provider test {provider.name}"
    if error.kind == "auth":
        return ConfigError(error.message, code="key_rejected", hint=key_hint(provider), details=details)
    if error.kind == "quota" and error.retryable:
        wait = error.retry_after_ms
        when = "in a while" if wait is None else f"in {-(-wait // 1000)} s"
        return ProviderRateLimited(error.message, hint=f"the key works; ask again {when}: {again}", details=details)
    if error.kind == "quota":
        hint = f"add credit or raise the limit of the account behind {provider.key or 'this provider'}, then: {again}"
        return ProviderFailed(error.message, code="quota_exhausted", hint=hint, details=details)
    if error.kind in _UNREACHABLE:
        return ProviderUnavailable(error.message, hint=_unreachable_hint(provider), details=details)
    if error.retryable:
        hint = f"the server is there but did not answer properly; ask again: {again}"
        return ProviderUnavailable(error.message, hint=hint, details=details)
    if error.kind == "unsupported":
        hint = f"name a model this server has: {again} --model ID"
        return ProviderFailed(error.message, code="model_not_found", hint=hint, details=details)
    return ProviderFailed(error.message, code=error.code, hint=_refusal_hint(provider, error), details=details)


def _unreachable_hint(provider: AvailableProvider) -> str:
    address = shown_address(provider)
    change = f"lash config set providers.{provider.name}.base_url URL"
    return f"is the server at {address} running, and the address right? change it with: {change}"


def _refusal_hint(provider: AvailableProvider, error: NormalizedError) -> str:
    if error.status in (404, 405) or error.code in WRONG_ADDRESS:
        return (
            f"check the address {shown_address(provider)} (most end in /v1) and the kind {provider.kind}:"
            f" lash config set providers.{provider.name}.base_url URL"
        )
    if error.code == NO_NETWORK:
        return f"set that right or unset it, then: lash provider test {provider.name}"
    return "the provider refused the request itself; see the message, and try another model with --model ID"
