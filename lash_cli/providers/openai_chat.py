"""The Chat Completions wire: OpenAI, OpenRouter, Ollama, llama.cpp, vLLM (contract 06 §9.2).

A finish reason proves an answer; `[DONE]` alone does not. Requests are written
by `chat_request`, answers read by `chat_stream`, and `endpoint` does the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lash_cli.core.llm import LlmRequest
from lash_cli.providers.access import Access
from lash_cli.providers.assembling import objects_of
from lash_cli.providers.attachments import AttachmentBytes
from lash_cli.providers.chat_request import ChatEncoder, OutputCapField
from lash_cli.providers.chat_stream import ChatAssembler
from lash_cli.providers.openai_dialect import OPENAI, OpenAiDialect
from lash_cli.providers.wire import EncodedWire, Termination

PATH = "/chat/completions"


class OpenAiChatWire(EncodedWire[ChatEncoder]):
    """A Chat Completions endpoint; implements `wire.Wire`."""

    kind = "openai_chat"
    answer_name = "a chat completion"
    unproved_code = "stream_ended_before_finish_reason"
    default_termination: Termination = "require"

    def __init__(
        self,
        base_url: str,
        api_key: str | None,
        *,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        key_header: str | None = None,
        output_cap_field: OutputCapField = "max_tokens",
        dialect: OpenAiDialect = OPENAI,
        attachment_bytes: AttachmentBytes | None = None,
    ) -> None:
        """Raises `ConfigError` for an address, a key, a query or an extra field that cannot be used."""
        access = Access.checked(base_url, api_key, headers, query=query, key_header=key_header, endings=(PATH,))
        self._dialect = dialect
        encoder = ChatEncoder(
            access.base_url,
            output_cap_field=output_cap_field,
            dialect=dialect,
            attachment_bytes=attachment_bytes,
        )
        super().__init__(access, encoder)

    def url(self, request: LlmRequest) -> str:
        """See `wire.Wire.url`."""
        return self._access.url(PATH)

    def headers(self, request: LlmRequest) -> Mapping[str, str]:
        """The key, if there is one, what the dialect adds, and the configured headers."""
        return {**self._access.authentication, **self._dialect.headers(request), **self._access.headers}

    def assembler(self, request: LlmRequest, provider_request_id: str | None) -> ChatAssembler:
        """See `wire.Wire.assembler`."""
        return ChatAssembler(request.scope.request_id, self._encoder.route(request.model.id), provider_request_id)

    def failure_in(self, document: dict[str, Any]) -> Any:
        """An `error` member, of the chunk or of a choice (OpenRouter), whatever else they hold, or a whole document
        that calls itself one (vLLM)."""
        said = (place.get("error") for place in (document, *objects_of(document.get("choices"))))
        return next(filter(None, said), document if document.get("object") == "error" else None)
