"""The Responses wire: OpenAI, Azure, and servers that follow them (contract 06 §9.1).

A terminal event proves an answer. Requests are written by `responses_request`,
answers read by `responses_stream`, and `endpoint` does the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lash_cli.core.llm import LlmRequest
from lash_cli.providers.access import Access
from lash_cli.providers.attachments import AttachmentBytes
from lash_cli.providers.openai_dialect import OPENAI, OpenAiDialect
from lash_cli.providers.responses_request import ResponsesEncoder
from lash_cli.providers.responses_stream import ResponsesAssembler
from lash_cli.providers.wire import EncodedWire, Termination

PATH = "/responses"


class OpenAiResponsesWire(EncodedWire[ResponsesEncoder]):
    """A Responses endpoint; implements `wire.Wire`."""

    kind = "openai_responses"
    answer_name = "a response"
    unproved_code = "stream_ended_before_terminal_response"
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
        expose_thinking: bool = False,
        dialect: OpenAiDialect = OPENAI,
        attachment_bytes: AttachmentBytes | None = None,
    ) -> None:
        """Raises `ConfigError` for an address, a key, a query or an extra field that cannot be used."""
        access = Access.checked(base_url, api_key, headers, query=query, key_header=key_header, endings=(PATH,))
        self._dialect = dialect
        encoder = ResponsesEncoder(
            access.base_url,
            credential_scope=credential_scope,
            expose_thinking=expose_thinking,
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

    def assembler(self, request: LlmRequest, provider_request_id: str | None) -> ResponsesAssembler:
        """See `wire.Wire.assembler`."""
        route = self._encoder.route(request.model.id)
        return ResponsesAssembler(request.scope.request_id, route, provider_request_id)

    def failure_in(self, document: dict[str, Any]) -> Any:
        """The error of an `error` event, of a failed response, or of an answer that is an error document."""
        if document.get("type") == "error":
            nested = document.get("error")
            return nested or {name: document.get(name) for name in ("code", "message")}
        response = document.get("response") if "type" in document else document
        if not isinstance(response, dict):
            return None
        if response.get("status") == "failed":
            return response.get("error") or {"message": "the response failed and says no more"}
        return response.get("error")
