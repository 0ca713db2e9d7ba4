"""A wire as the configuration builds it, without the ladder around its provider; what it is asked with, and what a
call of it shows."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support.clock import ManualClock
from support.wire import Reply, ScriptedTransport

from lash_cli.core.content import Message, Role, TextPart
from lash_cli.core.llm import AttemptReset, LlmRequest, LlmResponse, LlmScope, StreamEvent, TextDelta
from lash_cli.core.policy import ModelSpec
from lash_cli.errors import LlmTransportError
from lash_cli.providers import catalog
from lash_cli.providers.attachments import RequestAttachments
from lash_cli.providers.endpoint import HttpProvider
from lash_cli.providers.wire import Wire

KEY = "top-secret-key-0001"


def request(*messages: Message, **fields: Any) -> LlmRequest:
    """A request for a test model; without messages a user says hello."""
    hello = Message("m1", Role.USER, (TextPart("hello"),))
    scope = LlmScope("s", "s:turn:t:llm:0")
    known: dict[str, Any] = {"model": ModelSpec("test-model"), "messages": messages or (hello,), "scope": scope}
    return LlmRequest(**known | fields)


HELLO = request()


def wire(kind: str, base_url: str, key: str | None = None, *, name: str = "p", **options: Any) -> Wire[Any]:
    """The wire of a provider called `name`; raises `ConfigError`."""
    settings = catalog.ProviderSettings(name, kind, base_url, key, options)
    known = catalog.KINDS[kind]
    return catalog._wire(settings, known, catalog._options(settings, known), RequestAttachments().bytes_of)


class Shown:
    """What a call shows; `heard` is set when the first text was."""

    def __init__(self) -> None:
        self.events: list[StreamEvent] = []
        self.heard = asyncio.Event()

    async def sink(self, event: StreamEvent) -> None:
        self.events.append(event)
        if isinstance(event, TextDelta):
            self.heard.set()

    @property
    def text(self) -> str:
        """The text a terminal would show in the end."""
        text = ""
        for event in self.events:
            if isinstance(event, AttemptReset):
                text = ""
            elif isinstance(event, TextDelta):
                text += event.text
        return text


class Endpoint:
    """An endpoint of one kind, called with `KEY`; each attempt is made by a provider of its own."""

    def __init__(self, kind: str, base_url: str) -> None:
        self._kind = kind
        self._base_url = base_url

    async def ask(
        self, *replies: Reply | LlmTransportError, of: LlmRequest = HELLO, **options: Any
    ) -> tuple[LlmResponse, list[StreamEvent]]:
        """One attempt: the answer and what it showed."""
        shown = Shown()
        made = wire(self._kind, self._base_url, KEY)
        provider = HttpProvider(made, ScriptedTransport(*replies), clock=ManualClock(), **options)
        return await provider.complete(of, shown.sink), shown.events

    async def failure(self, *replies: Reply | LlmTransportError, **options: Any) -> LlmTransportError:
        """One attempt that fails, without the key in what it says."""
        with pytest.raises(LlmTransportError) as caught:
            await self.ask(*replies, **options)
        assert KEY not in repr((caught.value, caught.value.message, caught.value.raw))
        return caught.value
