"""One model call outside a turn: what is asked and what comes back (contract 06 §15).

No tools, no protocol and no transcript: messages go in, text or a JSON value
comes out. Nothing is journalled, so a caller that is cut off asks again.
"""

from __future__ import annotations

from typing import Any

import msgspec

from lash_cli.core.codec import Record
from lash_cli.core.content import Message, ProsePart, TextPart
from lash_cli.core.llm import LlmCallRecord, LlmResponse, LlmScope, OutputSpec
from lash_cli.core.policy import NO_GENERATION, Generation, ModelSpec
from lash_cli.core.usage import TokenUsage


class DirectRequest(Record):
    """A completion as a host asks for it; model and provider default to those of the session, or of the core (contract
    06 §15).

    `session_id` names whose attachments may be read. `caused_by` is what the
    cost is booked to in the session's ledger, `direct` if unset.
    """

    messages: tuple[Message, ...]
    system: str = ""
    model: ModelSpec | None = None
    provider_id: str | None = None
    output: OutputSpec | None = None
    output_token_cap: int | None = None
    generation: Generation = NO_GENERATION
    session_id: str | None = None
    caused_by: str | None = None


class DirectCompletion(Record):
    """What is left of a completion for a caller who only wants the words (contract 06 §15)."""

    text: str
    usage: TokenUsage


class DirectLlmCompletion(Record):
    """A whole completion (contract 06 §15): `record` holds every attempt, `usage` what all of them cost, `value` the
    JSON that was asked for."""

    response: LlmResponse
    usage: TokenUsage
    record: LlmCallRecord
    value: Any = None

    @property
    def text(self) -> str:
        """The answer's text."""
        return self.response.full_text

    @property
    def short(self) -> DirectCompletion:
        """Text and cost."""
        return DirectCompletion(self.text, self.usage)


def substantial_messages(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The messages that say something, without their empty texts."""
    kept = []
    for message in messages:
        parts = tuple(
            part for part in message.parts if not isinstance(part, TextPart | ProsePart) or part.content.strip()
        )
        if parts:
            kept.append(message if len(parts) == len(message.parts) else msgspec.structs.replace(message, parts=parts))
    return tuple(kept)


def direct_scope(session_id: str | None, fresh_id: str) -> LlmScope:
    """Who asks: the session, or nobody but this one call."""
    if session_id is None:
        return LlmScope(f"direct:{fresh_id}", f"direct:{fresh_id}")
    return LlmScope(session_id, f"{session_id}:direct", f"{session_id}:frame:direct")
