"""The Anthropic Messages wire (contract 06 §9.3).

`message_stop` proves an answer. Requests are written by `anthropic_request`,
answers read by `anthropic_stream`, and `endpoint` does the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lash_cli.core.llm import LlmRequest
from lash_cli.providers.access import Access
from lash_cli.providers.anthropic_request import DEFAULT_MAX_OUTPUT_TOKENS, AnthropicEncoder, PrefixMismatch
from lash_cli.providers.anthropic_stream import AnthropicAssembler
from lash_cli.providers.attachments import AttachmentBytes
from lash_cli.providers.caching import CacheRetention
from lash_cli.providers.wire import EncodedWire, Termination

PATH = "/v1/messages"
KEY_HEADER = "x-api-key"
VERSION = "2023-06-01"
FINE_GRAINED_TOOLS = "fine-grained-tool-streaming-2025-05-14"
INTERLEAVED_THINKING = "interleaved-thinking-2025-05-14"
THINKING_BINDING = "thinking-binding-controls-2026-08-01"
FILES = "files-api-2025-04-14"


class AnthropicWire(EncodedWire[AnthropicEncoder]):
    """A Messages endpoint; implements `wire.Wire`."""

    kind = "anthropic"
    answer_name = "a message"
    unproved_code = "stream_ended_before_message_stop"
    default_termination: Termination = "require"

    def __init__(
        self,
        base_url: str,
        api_key: str | None,
        *,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        key_header: str | None = None,
        credential_scope: str = "",
        max_output_tokens: int = DEFAULT_MAX_OUTPUT_TOKENS,
        cache_retention: CacheRetention = "short",
        expose_thinking: bool = False,
        thinking_prefix_mismatch: PrefixMismatch | None = None,
        extra_body: Mapping[str, Any] | None = None,
        omit_body: Sequence[str] = (),
        attachment_bytes: AttachmentBytes | None = None,
    ) -> None:
        """Options are those of `Access` and `AnthropicEncoder`; the key goes into `x-api-key` unless told otherwise.

        Raises `ConfigError` for an address, a key, a query or an extra field that cannot be used.
        """
        access = Access.checked(
            base_url, api_key, headers, query=query, key_header=key_header or KEY_HEADER, endings=(PATH, "/v1")
        )
        self._route = access.base_url + PATH  # another wire at the same address cannot read its signatures
        encoder = AnthropicEncoder(
            self._route,
            credential_scope=credential_scope,
            max_output_tokens=max_output_tokens,
            cache_retention=cache_retention,
            expose_thinking=expose_thinking,
            thinking_prefix_mismatch=thinking_prefix_mismatch,
            extra_body=extra_body,
            omit_body=omit_body,
            attachment_bytes=attachment_bytes,
        )
        super().__init__(access, encoder)

    def url(self, request: LlmRequest) -> str:
        """See `wire.Wire.url`."""
        return self._access.url(PATH)

    def headers(self, request: LlmRequest) -> Mapping[str, str]:
        """The key, the version, what of the interface is in beta, and the configured headers."""
        betas = [FINE_GRAINED_TOOLS]
        thinking = self._encoder.thinking(request.model) or {}
        if "budget_tokens" in thinking:
            betas.append(INTERLEAVED_THINKING)
        if "block_binding" in thinking:
            betas.append(THINKING_BINDING)
        if self._encoder.has_files:
            betas.append(FILES)
        own = {"anthropic-version": VERSION, "anthropic-beta": ",".join(betas)}
        return {**self._access.authentication, **own, **self._access.headers}

    def assembler(self, request: LlmRequest, provider_request_id: str | None) -> AnthropicAssembler:
        """See `wire.Wire.assembler`."""
        return AnthropicAssembler(request.scope.request_id, self._route, provider_request_id)

    def failure_in(self, document: dict[str, Any]) -> Any:
        """The error of an `error` event, or of a document that is nothing else."""
        if document.get("type") == "error":
            return document.get("error") or "an error event that says nothing"
        return document.get("error")
