"""The Gemini wire: `generateContent` and `streamGenerateContent` of Google's API (contract 06 §9.4).

The end of a stream is accepted in place of a finish reason, because the API
documents none for every stream; a finish reason that comes decides. The key
travels in a header and never in the address. Requests are written by
`google_request`, answers read by `google_stream`, and `endpoint` does the rest.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from lash_cli.core.llm import LlmRequest
from lash_cli.providers.google_request import GoogleEncoder
from lash_cli.providers.google_stream import GoogleAssembler, unwrapped
from lash_cli.providers.wire import Wire

WHOLE = ":generateContent"
STREAMED = ":streamGenerateContent"


class GoogleWire(Wire[GoogleEncoder]):
    """A Gemini endpoint."""

    kind = "google"
    answer_name = "a generated content"
    unproved_code = "stream_ended_before_finish_reason"
    default_termination = "tolerate_eof"
    paths = (WHOLE, STREAMED)
    key_header = "x-goog-api-key"
    assembles = GoogleAssembler

    def url(self, request: LlmRequest) -> str:
        """The method of the model's resource; an id with a slash is a resource name itself (`tunedModels/…`)."""
        identity = quote(request.model.id, safe="/@")
        resource = identity if "/" in identity else f"models/{identity}"
        if not request.stream:
            return self._access.url(f"/{resource}{WHOLE}")
        # Without it the API streams a JSON array instead of events.
        return self._access.url(f"/{resource}{STREAMED}", alt="sse")

    def failure_in(self, document: dict[str, Any]) -> Any:
        """An `error` member, whatever else the document holds."""
        return document.get("error") or unwrapped(document).get("error")
