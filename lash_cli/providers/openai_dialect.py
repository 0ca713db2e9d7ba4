"""What endpoints that follow OpenAI differ in, as data (contract 06 §4, §6, §8, §9.1–§9.2).

Both OpenAI wires are spoken by many servers: OpenAI, Azure, OpenRouter, Ollama,
llama.cpp, vLLM. None of them is known by its name here; the configuration says
what an endpoint understands, and the defaults are OpenAI's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from lash_cli.core.codec import encode, sha256_hex
from lash_cli.core.llm import LlmRequest, LlmToolSpec
from lash_cli.providers.caching import CacheDialect, CacheRetention, affinity_key, fitted
from lash_cli.providers.extra_body import checked_extra_body, overlaid
from lash_cli.providers.generation import GenerationWords, Spoken, spoken
from lash_cli.providers.reasoning import ReasoningDialect
from lash_cli.providers.schemas import project

ConversationDialect = Literal["openai", "mistral"]
#: What the model says where Mistral wants it to have spoken: it was interrupted, or had nothing to say.
NO_ANSWER = "[no answer]"
_MISTRAL_ID_CHARS = 9
_MISTRAL_ID = re.compile(f"[A-Za-z0-9]{{{_MISTRAL_ID_CHARS}}}")


class OpenAiDialect(NamedTuple):
    """The dialect of one endpoint.

    `reasoning` is how its `reasoning` object is written. `strict_tools` asks
    for arguments that are sure to fit. `cache_control` is the dialect of cache
    marks it reads, if any. `cache_session_affinity` tells it which calls belong
    together. `replay_reasoning` is off for an address whose machines cannot read
    each other's encrypted reasoning. `reasoning_text_field` is where a Chat Completions server wants the words of
    earlier reasoning back. `conversation` is whose rules a past conversation has to keep: with those of Mistral the
    model speaks between the results of its tools and the user, and its calls have ids of nine characters.
    `extra_body` is laid over every body, and what `omit_body` names by dotted paths is left out of it.
    """

    reasoning: ReasoningDialect = "openai"
    strict_tools: bool = False
    cache_retention: CacheRetention = "short"
    cache_control: CacheDialect | None = None
    cache_session_affinity: bool = False
    replay_reasoning: bool = True
    reasoning_text_field: str | None = None
    conversation: ConversationDialect = "openai"
    extra_body: Mapping[str, Any] = {}
    omit_body: tuple[str, ...] = ()

    def checked(self) -> OpenAiDialect:
        """Itself, what to omit made part of `extra_body`; raises `ConfigError` for changes to what a call is about."""
        return self._replace(extra_body=checked_extra_body(self.extra_body, self.omit_body), omit_body=())

    def parameters(self, tool: LlmToolSpec) -> dict[str, Any]:
        """The schema of a tool's arguments as this endpoint is shown it."""
        if self.strict_tools:
            return project(tool.input_schema, "openai_strict_tool_parameters", tool.projection)
        return project(tool.input_schema, "openai_tool_parameters", tool.projection)

    def call_id(self, identity: str, most_chars: int) -> str:
        """The id of a past call as this endpoint takes it; what is another provider's gets one in its place."""
        if self.conversation == "openai":
            return fitted(identity, most_chars)
        return identity if _MISTRAL_ID.fullmatch(identity) else sha256_hex(identity.encode())[:_MISTRAL_ID_CHARS]

    def headers(self, request: LlmRequest) -> dict[str, str]:
        """Headers that keep the calls of a conversation together."""
        return {"x-client-request-id": affinity_key(request.scope)} if self.cache_session_affinity else {}

    def encoded(self, options: dict[str, Any], request: LlmRequest, words: GenerationWords) -> bytes:
        """The options of a body as JSON, with what the endpoint is told beside them and the intent in `words`."""
        if self.cache_session_affinity:
            options = options | {"session_id": affinity_key(request.scope)}
        return encode(overlaid(options, self.extra_body) | self.spoken(request, words).fields)

    def spoken(self, request: LlmRequest, words: GenerationWords) -> Spoken:
        """The generation intent as this endpoint is told it."""
        return spoken(request.generation, words, self.extra_body)


#: The dialect of OpenAI's own endpoints.
OPENAI = OpenAiDialect()
