"""The Gemini wire: `generateContent` and `streamGenerateContent` of Google's API (contract 06 §9.4).

The end of a stream is accepted in place of a finish reason, because the API
documents none for every stream; a finish reason that comes decides. The key
travels in a header and never in the address. Requests are written by
`google_request`, answers read by `google_stream`, and `endpoint` does the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from lash_cli.core.llm import LlmRequest
from lash_cli.providers.access import Access
from lash_cli.providers.attachments import AttachmentBytes
from lash_cli.providers.google_request import GoogleEncoder
from lash_cli.providers.google_stream import GoogleAssembler, unwrapped
from lash_cli.providers.wire import EncodedWire, Termination

WHOLE = ":generateContent"
STREAMED = ":streamGenerateContent"
KEY_HEADER = "x-goog-api-key"


class GoogleWire(EncodedWire[GoogleEncoder]):
    """A Gemini endpoint; implements `wire.Wire`."""

    kind = "google"
    answer_name = "a generated content"
    unproved_code = "stream_ended_before_finish_reason"
    default_termination: Termination = "tolerate_eof"

    def __init__(
        self,
        base_url: str,
        api_key: str | None,
        *,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        key_header: str | None = None,
        expose_thinking: bool = False,
        replay_reasoning: bool = True,
        credential_scope: str = "",
        extra_body: Mapping[str, Any] | None = None,
        omit_body: Sequence[str] = (),
        attachment_bytes: AttachmentBytes | None = None,
    ) -> None:
        """Options are those of `Access` and `GoogleEncoder`; the key goes into `x-goog-api-key` unless told otherwise.

        Raises `ConfigError` for an address, a key, a query or an extra field that cannot be used.
        """
        access = Access.checked(
            base_url, api_key, headers, query=query, key_header=key_header or KEY_HEADER, endings=(WHOLE, STREAMED)
        )
        encoder = GoogleEncoder(
            access.base_url,
            expose_thinking=expose_thinking,
            replay_reasoning=replay_reasoning,
            credential_scope=credential_scope,
            extra_body=extra_body,
            omit_body=omit_body,
            attachment_bytes=attachment_bytes,
        )
        super().__init__(access, encoder)

    def url(self, request: LlmRequest) -> str:
        """The method of the model's resource; an id with a slash is a resource name itself (`tunedModels/…`)."""
        identity = quote(request.model.id, safe="/@")
        resource = identity if "/" in identity else f"models/{identity}"
        if not request.stream:
            return self._access.url(f"/{resource}{WHOLE}")
        # Without it the API streams a JSON array instead of events.
        return self._access.url(f"/{resource}{STREAMED}", alt="sse")

    def headers(self, request: LlmRequest) -> Mapping[str, str]:
        """The key, if there is one, and the configured headers."""
        return {**self._access.authentication, **self._access.headers}

    def assembler(self, request: LlmRequest, provider_request_id: str | None) -> GoogleAssembler:
        """See `wire.Wire.assembler`."""
        route = self._encoder.route(request.model.id)
        return GoogleAssembler(request.scope.request_id, route, provider_request_id)

    def failure_in(self, document: dict[str, Any]) -> Any:
        """An `error` member, whatever else the document holds."""
        return document.get("error") or unwrapped(document).get("error")
