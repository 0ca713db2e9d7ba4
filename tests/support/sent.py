"""What a configured provider sends for a request, whatever its wire, and short ways to write a conversation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from support.clock import ManualCancel, ManualClock
from support.wire import ScriptedTransport

from lash_cli.core.content import Message, Part, Role, TextPart
from lash_cli.core.llm import LlmRequest, LlmScope, NormalizedError
from lash_cli.core.policy import ModelSpec
from lash_cli.core.protocols import EventSink
from lash_cli.errors import LlmTransportError
from lash_cli.providers.catalog import KINDS, ProviderSettings, build_caller

HTTP_KINDS = sorted(KINDS.keys() - {"loopback"})
BASE = "http://test.invalid/base"
SCOPE = LlmScope("s", "s:turn:t:llm:0", "f")


def user(text: str, identity: str = "u") -> Message:
    return Message(identity, Role.USER, (TextPart(text),))


def assistant(*parts: Part, identity: str = "a") -> Message:
    return Message(identity, Role.ASSISTANT, parts)


def request(*messages: Message, **fields: Any) -> LlmRequest:
    """A request over `messages`; any field may be given by its name, a sequence of messages too."""
    return LlmRequest(**{"model": ModelSpec("test-model"), "messages": messages, "scope": SCOPE} | fields)


def request_over(messages: Sequence[Message], **fields: Any) -> LlmRequest:
    """`request` over a sequence of messages, such as a view of a longer conversation."""
    return request(**{"messages": messages} | fields)


class Sent(NamedTuple):
    """One request as it would go out."""

    url: str
    headers: dict[str, str]
    body: dict[str, Any]


async def sent_or_refused(
    kind: str, of: LlmRequest, *, key: str | None = None, base_url: str = BASE, **options: Any
) -> Sent | NormalizedError:
    """What a provider of `kind` sends for a request, or why it sends nothing."""
    silence = LlmTransportError("nobody is there", kind="transport", code="nobody")
    transport = ScriptedTransport(silence)
    settings = ProviderSettings("p", kind, base_url, key, {"max_attempts": 1} | options)
    caller = build_caller(settings, clock=ManualClock(), ids_bits=lambda _: 0, transport=transport)
    result = await caller.call(of, sink=_ignored, cancel=ManualCancel())
    assert result.error is not None
    if not transport.requests:
        return result.error
    (outgoing,) = transport.requests
    return Sent(outgoing.url, dict(outgoing.headers), json.loads(outgoing.body))


async def sent(kind: str, of: LlmRequest, **options: Any) -> Sent:
    """What a provider of `kind` sends for a request; fails where it refuses to send it."""
    outcome = await sent_or_refused(kind, of, **options)
    assert isinstance(outcome, Sent), outcome
    return outcome


async def assert_refused(kind: str, code: str, of: LlmRequest, **options: Any) -> None:
    """Fails unless a provider of `kind` sends nothing for a request, for good and with this code."""
    outcome = await sent_or_refused(kind, of, **options)
    assert isinstance(outcome, NormalizedError), outcome
    assert (outcome.code, outcome.retryable) == (code, False)


async def _nothing(event: object) -> None: ...


_ignored: EventSink = _nothing
