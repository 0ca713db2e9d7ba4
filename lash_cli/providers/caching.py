"""What a request says to a provider's prompt cache (contract 06 §6).

Providers that cache on request are told by marks where a part ends that the
next call will repeat. Which dialect of marks an endpoint reads is data of the
model or of the endpoint, never guessed. Two rules keep a cache warm: what
precedes a mark has the same bytes in the next call, and what changes from call
to call stands behind the last mark.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from lash_cli.core.codec import sha256_hex
from lash_cli.core.llm import LlmRequest, LlmScope, MessageSequence
from lash_cli.core.policy import ModelSpec
from lash_cli.providers.prefix import Marks

CacheRetention = Literal["none", "short", "long"]
CacheDialect = Literal["anthropic", "gemini"]

#: What endpoints take as a cache key and as an affinity key, in characters; a longer one refuses the request.
MAX_CACHE_KEY_CHARS = 64
MAX_AFFINITY_CHARS = 256
_DIGEST_CHARS = 16

_SHORT = b',"cache_control":{"type":"ephemeral"}'
_LONG = b',"cache_control":{"ttl":"1h","type":"ephemeral"}'


class CacheMarks(NamedTuple):
    """The marks of one request, each the last member of the object it goes into; empty where there is to be none.

    The anthropic dialect allows four: on the last tool, on the system prompt,
    on the last text, and on whatever ends the conversation. The fourth is what
    keeps tool results, which are most of an agent's input, from being read
    anew at every step; the third is near when one step brings more blocks than
    a provider looks back. The gemini dialect takes one, on the last text.
    """

    tool: bytes = b""
    system: bytes = b""
    messages: Marks = Marks()


def marks_of(request: LlmRequest, retention: CacheRetention, dialect: CacheDialect | None = None) -> CacheMarks:
    """The marks of `request`; `dialect` is the endpoint's, and the model's own data wins over it."""
    spoken = dialect_of(request.model, dialect)
    if retention == "none" or spoken is None:
        return CacheMarks()
    reach = _reach(request)
    if spoken == "gemini":
        return CacheMarks(messages=Marks(text=_SHORT, reach=reach))
    mark = _LONG if retention == "long" else _SHORT
    return CacheMarks(mark, mark, Marks(mark, mark, reach))


def dialect_of(model: ModelSpec, dialect: CacheDialect | None) -> CacheDialect | None:
    """The dialect spoken to `model` at an endpoint whose own is `dialect`."""
    return (model.capability.cache_control if model.capability else None) or dialect


def marked_last(items: Sequence[bytes], mark: bytes) -> bytes:
    """JSON objects separated by commas, the last one with `mark` as its last member."""
    joined = b",".join(items)
    return joined[:-1] + mark + joined[-1:]


def continuation_key(scope: LlmScope) -> str:
    """What calls have in common that continue each other: session and frame."""
    return f"{scope.session_id}::{scope.agent_frame_id or ''}"


def prompt_cache_fields(request: LlmRequest, retention: CacheRetention) -> dict[str, Any]:
    """The body fields of a wire that caches by key instead of by marks."""
    if retention == "none":
        return {}
    kept = {"prompt_cache_retention": "24h"} if retention == "long" else {}
    return {"prompt_cache_key": fitted(continuation_key(request.scope), MAX_CACHE_KEY_CHARS)} | kept


def affinity_key(scope: LlmScope) -> str:
    """What an endpoint of many machines is told, so that calls of one conversation reach the same warm cache."""
    return fitted(continuation_key(scope), MAX_AFFINITY_CHARS)


def fitted(identity: str, limit: int) -> str:
    """`identity`, or where it is longer than `limit` what stays of it with a digest of the whole."""
    if len(identity) <= limit:
        return identity
    return f"{identity[: limit - _DIGEST_CHARS - 1]}_{sha256_hex(identity.encode())[:_DIGEST_CHARS]}"


def _reach(request: LlmRequest) -> int | None:
    """How many messages the next call repeats: as the request says, else all before the first transient one.

    Only this turn's messages can be transient; committed ones are not looked at.
    """
    if request.cache_breakpoint is not None:
        return request.cache_breakpoint
    messages = request.messages
    start = messages.length if isinstance(messages, MessageSequence) else 0
    return next((i for i in range(start, len(messages)) if messages[i].is_transient), None)
