"""From configuration to a callable model (contract 06 §3.1, design D13).

What is known about each kind of provider is data in `KINDS`. Settings are
checked here, before anything is sent, and the key they carry never shows up in
their `repr`. Wires are imported only when one of their providers is built.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from lash_cli.core.codec import Record, from_builtins
from lash_cli.core.protocols import Clock, ModelCaller
from lash_cli.errors import ConfigError

if TYPE_CHECKING:
    from lash_cli.core.content import Stored
    from lash_cli.providers.access import Access
    from lash_cli.providers.http import HttpTransport, Timeouts
    from lash_cli.providers.limiter import RateLimiter
    from lash_cli.providers.metadata import AllowList
    from lash_cli.providers.openai_dialect import OpenAiDialect
    from lash_cli.providers.retry import RetryPolicy
    from lash_cli.providers.wire import Wire


class ProviderKind(Record):
    """What a kind of provider needs; `keyed_base_url` is the address that refuses calls without a key."""

    default_base_url: str | None = None
    keyed_base_url: str | None = None
    key_variable: str | None = None
    default_options: dict[str, Any] = {}
    keyed_options: dict[str, Any] = {}


KINDS: dict[str, ProviderKind] = {
    "anthropic": ProviderKind(
        default_base_url="https://api.anthropic.com",
        keyed_base_url="https://api.anthropic.com",
        key_variable="ANTHROPIC_API_KEY",
        # A session whose tools or prompt change must go on; refusing it for its old thinking would end it for good.
        keyed_options={"thinking_prefix_mismatch": "drop_block"},
    ),
    "openai_chat": ProviderKind(
        default_base_url="https://api.openai.com/v1",
        keyed_base_url="https://api.openai.com/v1",
        key_variable="OPENAI_API_KEY",
        keyed_options={"output_cap_field": "max_completion_tokens"},
    ),
    "openai_responses": ProviderKind(
        default_base_url="https://api.openai.com/v1",
        keyed_base_url="https://api.openai.com/v1",
        key_variable="OPENAI_API_KEY",
    ),
    "google": ProviderKind(
        default_base_url="https://generativelanguage.googleapis.com/v1beta",
        keyed_base_url="https://generativelanguage.googleapis.com/v1beta",
        key_variable="GEMINI_API_KEY",
    ),
    # It says the same every time, so what it showed can be asked for again; and no other client waits with it.
    "loopback": ProviderKind(
        default_options={"base_delay_ms": 100, "max_delay_ms": 1_000, "jitter": 0.0, "retry_after_output": "reset"}
    ),
}


_OPENAI = ("openai_chat", "openai_responses")
#: The options that not every kind has words for, and the kinds that have.
SPOKEN_BY: dict[str, tuple[str, ...]] = {
    "output_cap_field": ("openai_chat",),
    "max_output_tokens": ("anthropic",),
    "thinking_prefix_mismatch": ("anthropic",),
    "cache_retention": ("anthropic", *_OPENAI),
    "cache_control": ("openai_chat",),
    "conversation_dialect": _OPENAI,
    "reasoning_text_field": ("openai_chat",),
    "cache_session_affinity": _OPENAI,
    "reasoning_dialect": _OPENAI,
    "replay_reasoning": (*_OPENAI, "google"),
    "strict_tools": _OPENAI,
}


class ProviderSettings(Record):
    """One configured provider, its key already resolved."""

    name: str
    kind: str
    base_url: str | None = None
    key: str | None = None
    options: dict[str, Any] = {}

    def __repr__(self) -> str:
        shown = "None" if self.key is None else "'[redacted]'"
        return f"ProviderSettings(name={self.name!r}, kind={self.kind!r}, base_url={self.base_url!r}, key={shown})"


class ProviderOptions(Record):
    """What `options` of a provider may hold; times as named. Unset ones take the defaults of contract 06 §3.2."""

    max_attempts: int = 4
    base_delay_ms: int = 2_000
    max_delay_ms: int = 10_000
    jitter: float = 1.0
    retry_after_cap_ms: int = 60_000
    throttle_wait_budget_ms: int = 90_000
    retry_after_output: Literal["reset", "refuse"] = "refuse"
    max_concurrent_requests: int | None = None
    requests_per_window: int | None = None
    tokens_per_window: int | None = None
    rate_window_seconds: float = 60.0
    response_metadata: tuple[str, ...] = ()
    request_timeout_seconds: float | None = 300.0
    chunk_timeout_seconds: float = 120.0
    connect_timeout_seconds: float = 10.0
    expose_thinking: bool = False
    stream_termination: Literal["require", "tolerate_eof"] | None = None
    output_cap_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    max_output_tokens: Annotated[int, msgspec.Meta(ge=1)] = 32_768
    cache_retention: Literal["none", "short", "long"] = "short"
    thinking_prefix_mismatch: Literal["drop_block", "error"] | None = None
    cache_control: Literal["anthropic", "gemini"] | None = None
    cache_session_affinity: bool = False
    reasoning_dialect: Literal["openai", "openrouter"] = "openai"
    replay_reasoning: bool = True
    conversation_dialect: Literal["openai", "mistral"] = "openai"
    reasoning_text_field: Annotated[str, msgspec.Meta(pattern="^[a-z_]+$")] | None = None
    strict_tools: bool = False
    extra_body: dict[str, Any] = {}
    omit_body: tuple[str, ...] = ()
    headers: dict[str, str] = {}
    query: dict[str, str] = {}
    key_header: str | None = None


def build_caller(
    settings: ProviderSettings,
    *,
    clock: Clock,
    ids_bits: Callable[[int], int],
    transport: HttpTransport | None = None,
    on_request: Callable[[str, bytes], None] | None = None,
    on_event: Callable[[str], None] | None = None,
) -> ModelCaller:
    """The provider of `settings` behind its retry ladder. Opens nothing.

    `transport` replaces the network. `on_request` is told the address
    and the bytes of every request; then `on_event` is told the data of every
    event that is streamed back. Raises `ConfigError` (`config_invalid`,
    `invalid_provider_endpoint` or `key_missing`).
    """
    from lash_cli.providers.retry import RetryingCaller

    kind = KINDS.get(settings.kind)
    if kind is None:
        valid = ", ".join(sorted(KINDS))
        raise ConfigError(f"provider {settings.name!r} has the unknown kind {settings.kind!r}; valid kinds: {valid}")
    options = _options(settings, kind)
    try:
        policy = _retry_policy(options)
        limiter = _limiter(options, clock)
        allowed = _allow_list(options)
        timeouts = _timeouts(options)
    except ValueError as error:
        raise ConfigError(f"provider {settings.name!r}: {error}") from error
    if settings.kind == "loopback":
        from lash_cli.providers.loopback import Loopback

        return RetryingCaller(
            Loopback(clock),
            provider_id=settings.name,
            clock=clock,
            random_bits=ids_bits,
            policy=policy,
            limiter=limiter,
        )

    from lash_cli.providers.attachments import RequestAttachments
    from lash_cli.providers.endpoint import HttpProvider
    from lash_cli.providers.http import Httpx2Transport

    attachments = RequestAttachments()
    provider = HttpProvider(
        _wire(settings, kind, options, attachments.bytes_of),
        _watched(transport or Httpx2Transport(timeouts), on_request, on_event, allowed),
        clock=clock,
        timeouts=timeouts,
        expose_thinking=options.expose_thinking,
        termination=options.stream_termination,
        attachments=attachments,
        credential_scope=settings.name,
    )
    return RetryingCaller(
        provider,
        provider_id=settings.name,
        clock=clock,
        random_bits=ids_bits,
        policy=policy,
        secrets=provider.secrets,
        limiter=limiter,
        captures_metadata=allowed is not None,
    )


def _retry_policy(options: ProviderOptions) -> RetryPolicy:
    """The ladder of a provider; raises `ValueError`."""
    from lash_cli.providers.retry import RetryPolicy

    return RetryPolicy(
        max_attempts=options.max_attempts,
        base_delay_ms=options.base_delay_ms,
        max_delay_ms=options.max_delay_ms,
        jitter=options.jitter,
        retry_after_cap_ms=options.retry_after_cap_ms,
        throttle_wait_budget_ms=options.throttle_wait_budget_ms,
        retry_after_output=options.retry_after_output,
    )


def _watched(
    transport: HttpTransport,
    on_request: Callable[[str, bytes], None] | None,
    on_event: Callable[[str], None] | None,
    allowed: AllowList | None,
) -> HttpTransport:
    """`transport` that tells `on_request` what is sent and `on_event` what is streamed, and keeps what is `allowed` of
    what comes back."""
    if on_request is not None:
        from lash_cli.providers.traced import TracedTransport

        transport = TracedTransport(transport, on_request, on_event)
    if allowed is not None:
        from lash_cli.providers.metadata import CapturingTransport

        transport = CapturingTransport(transport, allowed)
    return transport


def _timeouts(options: ProviderOptions) -> Timeouts:
    """The limits of a call; raises `ValueError`."""
    from lash_cli.providers.http import Timeouts

    return Timeouts(
        request=options.request_timeout_seconds,
        chunk=options.chunk_timeout_seconds,
        connect=options.connect_timeout_seconds,
    )


def _limiter(options: ProviderOptions, clock: Clock) -> RateLimiter | None:
    """The line in front of the provider, None when nothing limits it; raises `ValueError`."""
    limits = (options.max_concurrent_requests, options.requests_per_window, options.tokens_per_window)
    if limits == (None, None, None):
        return None
    from lash_cli.providers.limiter import RateLimiter, RateLimits

    return RateLimiter(RateLimits(*limits, options.rate_window_seconds), clock)


def _allow_list(options: ProviderOptions) -> AllowList | None:
    """What of responses is kept with each attempt, None when nothing is; raises `ValueError`."""
    if not options.response_metadata:
        return None
    from lash_cli.providers.metadata import parse_allow_list

    return parse_allow_list(options.response_metadata)


def _wire(
    settings: ProviderSettings,
    kind: ProviderKind,
    options: ProviderOptions,
    attachment_bytes: Callable[[Stored], bytes],
) -> Wire[Any]:
    """The wire of a kind; its module is imported now."""
    match settings.kind:
        case "anthropic":
            from lash_cli.providers.anthropic import AnthropicWire
            from lash_cli.providers.anthropic_request import AnthropicEncoder

            access = _access(settings, kind, options, AnthropicWire)
            return AnthropicWire(
                access,
                AnthropicEncoder(
                    access.base_url,
                    credential_scope=settings.name,
                    max_output_tokens=options.max_output_tokens,
                    cache_retention=options.cache_retention,
                    expose_thinking=options.expose_thinking,
                    thinking_prefix_mismatch=options.thinking_prefix_mismatch,
                    extra_body=options.extra_body,
                    omit_body=options.omit_body,
                    attachment_bytes=attachment_bytes,
                ),
            )
        case "openai_chat":
            from lash_cli.providers.chat_request import ChatEncoder
            from lash_cli.providers.openai_chat import OpenAiChatWire

            access = _access(settings, kind, options, OpenAiChatWire)
            return OpenAiChatWire(
                access,
                ChatEncoder(
                    access.base_url,
                    output_cap_field=options.output_cap_field,
                    dialect=_openai_dialect(options),
                    attachment_bytes=attachment_bytes,
                ),
            )
        case "openai_responses":
            from lash_cli.providers.openai_responses import OpenAiResponsesWire
            from lash_cli.providers.responses_request import ResponsesEncoder

            access = _access(settings, kind, options, OpenAiResponsesWire)
            return OpenAiResponsesWire(
                access,
                ResponsesEncoder(
                    access.base_url,
                    credential_scope=settings.name,
                    expose_thinking=options.expose_thinking,
                    dialect=_openai_dialect(options),
                    attachment_bytes=attachment_bytes,
                ),
            )
        case "google":
            from lash_cli.providers.google import GoogleWire
            from lash_cli.providers.google_request import GoogleEncoder

            access = _access(settings, kind, options, GoogleWire)
            return GoogleWire(
                access,
                GoogleEncoder(
                    access.base_url,
                    expose_thinking=options.expose_thinking,
                    replay_reasoning=options.replay_reasoning,
                    credential_scope=settings.name,
                    extra_body=options.extra_body,
                    omit_body=options.omit_body,
                    attachment_bytes=attachment_bytes,
                ),
            )
        case unknown:
            raise ValueError(f"{unknown!r} is not spoken over HTTP")


def _openai_dialect(options: ProviderOptions) -> OpenAiDialect:
    from lash_cli.providers.openai_dialect import OpenAiDialect

    return OpenAiDialect(
        reasoning=options.reasoning_dialect,
        strict_tools=options.strict_tools,
        cache_retention=options.cache_retention,
        cache_control=options.cache_control,
        cache_session_affinity=options.cache_session_affinity,
        replay_reasoning=options.replay_reasoning,
        reasoning_text_field=options.reasoning_text_field,
        conversation=options.conversation_dialect,
        extra_body=options.extra_body,
        omit_body=options.omit_body,
    )


def _access(settings: ProviderSettings, kind: ProviderKind, options: ProviderOptions, wire: type[Wire[Any]]) -> Access:
    """Where a wire goes, and with what; raises `ConfigError` when that cannot be used, or a key is needed and there is
    none."""
    from lash_cli.providers.access import Access

    access = Access.checked(
        settings.base_url or kind.default_base_url or "",
        settings.key,
        options.headers,
        query=options.query,
        key_header=options.key_header or wire.key_header,
        endings=wire.paths,
    )
    if _is_keyed(settings, kind) and not settings.key:
        raise ConfigError(
            f"provider {settings.name!r} needs an API key for {access.base_url}",
            code="key_missing",
            hint=f"set {kind.key_variable}, or give the provider a base_url of a server that needs no key",
        )
    return access


def _is_keyed(settings: ProviderSettings, kind: ProviderKind) -> bool:
    if kind.keyed_base_url is None:
        return False
    from urllib.parse import urlsplit

    try:
        given = urlsplit(settings.base_url or kind.default_base_url or "")
    except ValueError:
        return False
    return given.hostname == urlsplit(kind.keyed_base_url).hostname


def _options(settings: ProviderSettings, kind: ProviderKind) -> ProviderOptions:
    known = kind.default_options | (kind.keyed_options if _is_keyed(settings, kind) else {})
    try:
        options: ProviderOptions = from_builtins(known | settings.options, ProviderOptions)
    except msgspec.ValidationError as error:
        raise ConfigError(f"provider {settings.name!r} has bad options: {error}") from error
    for name in settings.options:
        if settings.kind not in SPOKEN_BY.get(name, (settings.kind,)):
            kinds = " and ".join(SPOKEN_BY[name])
            raise ConfigError(
                f"provider {settings.name!r}: {name} is an option of {kinds}, and says nothing to {settings.kind}"
            )
    return options
