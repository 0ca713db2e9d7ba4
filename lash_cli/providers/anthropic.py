"""The Anthropic Messages wire (contract 06 §9.3).

`message_stop` proves an answer. Requests are written by `anthropic_request`,
answers read by `anthropic_stream`, and `endpoint` does the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lash_cli.core.llm import LlmRequest
from lash_cli.providers.anthropic_request import AnthropicEncoder
from lash_cli.providers.anthropic_stream import AnthropicAssembler
from lash_cli.providers.wire import Wire

VERSION = "2023-06-01"
FINE_GRAINED_TOOLS = "fine-grained-tool-streaming-2025-05-14"
INTERLEAVED_THINKING = "interleaved-thinking-2025-05-14"
THINKING_BINDING = "thinking-binding-controls-2026-08-01"
FILES = "files-api-2025-04-14"


class AnthropicWire(Wire[AnthropicEncoder]):
    """A Messages endpoint."""

    kind = "anthropic"
    answer_name = "a message"
    unproved_code = "stream_ended_before_message_stop"
    paths = ("/v1/messages", "/v1")
    key_header = "x-api-key"
    assembles = AnthropicAssembler

    def _own_headers(self, request: LlmRequest) -> Mapping[str, str]:
        """The version, and what of the interface is in beta."""
        betas = [FINE_GRAINED_TOOLS]
        thinking = self._encoder.thinking(request.model) or {}
        if "budget_tokens" in thinking:
            betas.append(INTERLEAVED_THINKING)
        if "block_binding" in thinking:
            betas.append(THINKING_BINDING)
        if self._encoder.has_files:
            betas.append(FILES)
        return {"anthropic-version": VERSION, "anthropic-beta": ",".join(betas)}

    def failure_in(self, document: dict[str, Any]) -> Any:
        """The error of an `error` event, or of a document that is nothing else."""
        if document.get("type") == "error":
            return document.get("error") or "an error event that says nothing"
        return document.get("error")
