"""The Chat Completions wire: OpenAI, OpenRouter, Ollama, llama.cpp, vLLM (contract 06 §9.2).

A finish reason proves an answer; `[DONE]` alone does not. Requests are written
by `chat_request`, answers read by `chat_stream`, and `endpoint` does the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lash_cli.core.llm import LlmRequest
from lash_cli.providers.assembling import objects_of
from lash_cli.providers.chat_request import ChatEncoder
from lash_cli.providers.chat_stream import ChatAssembler
from lash_cli.providers.wire import Wire


class OpenAiChatWire(Wire[ChatEncoder]):
    """A Chat Completions endpoint."""

    kind = "openai_chat"
    answer_name = "a chat completion"
    unproved_code = "stream_ended_before_finish_reason"
    paths = ("/chat/completions",)
    assembles = ChatAssembler

    def _own_headers(self, request: LlmRequest) -> Mapping[str, str]:
        return self._encoder.dialect.headers(request)

    def failure_in(self, document: dict[str, Any]) -> Any:
        """An `error` member, of the chunk or of a choice (OpenRouter), whatever else they hold, or a whole document
        that calls itself one (vLLM)."""
        said = (place.get("error") for place in (document, *objects_of(document.get("choices"))))
        return next(filter(None, said), document if document.get("object") == "error" else None)
