"""A wire as the configuration builds it, without the ladder around its provider; the least request of one, and what a
call of it shows."""

from __future__ import annotations

import asyncio
from typing import Any

from lash_cli.core.content import Message, Role, TextPart
from lash_cli.core.llm import AttemptReset, LlmRequest, LlmScope, StreamEvent, TextDelta
from lash_cli.core.policy import ModelSpec
from lash_cli.providers import catalog
from lash_cli.providers.attachments import RequestAttachments
from lash_cli.providers.wire import Wire

HELLO = LlmRequest(
    model=ModelSpec("test-model"),
    messages=(Message("m", Role.USER, (TextPart("hello"),)),),
    scope=LlmScope("s", "s:turn:t:llm:0"),
)


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
