"""The Responses wire: OpenAI, Azure, and servers that follow them (contract 06 §9.1).

A terminal event proves an answer. Requests are written by `responses_request`,
answers read by `responses_stream`, and `endpoint` does the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lash_cli.core.llm import LlmRequest
from lash_cli.providers.responses_request import ResponsesEncoder
from lash_cli.providers.responses_stream import ResponsesAssembler
from lash_cli.providers.wire import Wire


class OpenAiResponsesWire(Wire[ResponsesEncoder]):
    """A Responses endpoint."""

    kind = "openai_responses"
    answer_name = "a response"
    unproved_code = "stream_ended_before_terminal_response"
    paths = ("/responses",)
    assembles = ResponsesAssembler

    def _own_headers(self, request: LlmRequest) -> Mapping[str, str]:
        return self._encoder.dialect.headers(request)

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
