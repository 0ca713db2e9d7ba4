"""What a model did before, as providers take it back (contract 06 §9).

Providers check the whole conversation with every call, and refuse it for one
name, one id or one argument text that is not of their form. A model may write
any of these, and what is committed stays; so whatever was said is sent in a
form that is always taken, the same in every call, and says no less to the model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from lash_cli.core.codec import decode_written, encode
from lash_cli.core.content import CodePart, ErrorPart, OutputPart, Part, ProsePart, Role, TextPart
from lash_cli.core.llm import LlmRequest, LlmToolSpec

#: What Gemini takes in place of the signature of a call that it did not make itself.
SIGNATURE_PLACEHOLDER = "skip_thought_signature_validator"
MAX_NAME_CHARS = 64
_NAME = re.compile(f"[A-Za-z0-9_-]{{1,{MAX_NAME_CHARS}}}")
_NO_NAME = "unnamed"


def odd_names(tools: Iterable[LlmToolSpec]) -> frozenset[str]:
    """The names of `tools` that not every provider takes. Who is offered one is told of its past calls by it, too: a
    model calls again what it is told that it called."""
    return frozenset(tool.name for tool in tools if not _NAME.fullmatch(tool.name))


def past_name(name: str, odd: frozenset[str]) -> str:
    """The name of a past call: itself where every provider takes it or it is one of the `odd` ones that the request
    offers, else what is left of it."""
    if name in odd or _NAME.fullmatch(name):
        return name
    return re.sub("[^A-Za-z0-9_-]", "_", name)[:MAX_NAME_CHARS] or _NO_NAME


def past_arguments(raw: str) -> str:
    """The arguments of a past call as text, which is always of a JSON object.

    vLLM and llama.cpp parse it for their templates. Arguments that are none
    are quoted in an object.
    """
    return raw if _is_object(raw) else encode(_quoted(raw)).decode("utf-8")


def past_object(raw: str) -> Any:
    """The arguments of a past call as an object, with the bytes the model wrote where it wrote one."""
    return msgspec.Raw(raw.encode()) if _is_object(raw) else _quoted(raw)


def words_of(part: Part) -> str | None:
    """A part as text of a message: a program in a fence, and what has a source behind its name. None for one that has
    no words, or is no text on every wire."""
    match part:
        case TextPart(content=text, label=label):
            return text if label is None else f"[{label}]\n{text}"
        case ProsePart(content=text) | OutputPart(content=text) | ErrorPart(content=text):
            return text
        case CodePart(language=language, content=code):
            return f"```{language}\n{code}\n```"
        case _:
            return None


def system_words(request: LlmRequest) -> list[str]:
    """The system prompt and the system messages that the conversation begins with, for the one place that a wire has
    for them; none that is blank."""
    texts: list[str | None] = [request.system]
    for message in request.messages:
        if message.role is not Role.SYSTEM:
            break
        texts += map(words_of, message.parts)
    return [text for text in texts if text is not None and text.strip()]


def attached_words(data: bytes, name: str | None) -> str:
    """Attached text as words that name their source."""
    return f"[{name or 'attachment'}]\n{data.decode('utf-8', errors='replace')}"


def _is_object(raw: str) -> bool:
    try:
        return isinstance(decode_written(raw), dict)
    except msgspec.DecodeError:
        return False


def _quoted(raw: str) -> dict[str, str]:
    return {"invalid_arguments": raw}
