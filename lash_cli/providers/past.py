"""What a model did before, as providers take it back (contract 06 §9).

Providers check the whole conversation with every call, and refuse it for one
name, one id or one argument text that is not of their form. A model may write
any of these, and what is committed stays; so whatever was said is sent in a
form that is always taken, the same in every call, and says no less to the model.
"""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Iterable, MutableMapping
from typing import Any

import msgspec

from lash_cli.core.codec import decode_written, encode
from lash_cli.core.content import (
    CodePart,
    ErrorPart,
    Message,
    OutputPart,
    Part,
    ProsePart,
    Role,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from lash_cli.core.llm import LlmRequest, LlmToolSpec
from lash_cli.providers.call_ids import synthetic_call_id

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


class PastCalls:
    """The ids under which the calls of a conversation are sent, told its messages in order: their own, and another
    where an earlier one has that. Models that count their calls anew in every answer were asked before, and some
    providers refuse a conversation with an id twice. Each result has the id of its call.

    One that goes on `after` another leaves that as it is.
    """

    __slots__ = ("_times", "_unanswered")

    def __init__(self, after: PastCalls | None = None) -> None:
        self._times: MutableMapping[str, int] = {} if after is None else ChainMap({}, after._times)
        self._unanswered: MutableMapping[str, tuple[str, ...]] = (
            {} if after is None else ChainMap({}, after._unanswered)
        )

    def sent(self, message: Message) -> Message:
        """The next message as it is sent, itself where no id of it has to be another."""
        changed: dict[int, Part] = {}
        for place, part in enumerate(message.parts):
            if isinstance(part, ToolCallPart):
                identity = self._of_call(part.tool_call_id)
            elif isinstance(part, ToolResultPart):
                identity = self._of_result(part.tool_call_id)
            else:
                continue
            if identity != part.tool_call_id:
                changed[place] = msgspec.structs.replace(part, tool_call_id=identity)
        if not changed:
            return message
        parts = tuple(changed.get(place, part) for place, part in enumerate(message.parts))
        return msgspec.structs.replace(message, parts=parts)

    def _of_call(self, given: str) -> str:
        identity = given
        while identity in self._times:
            self._times[given] += 1
            identity = synthetic_call_id(given, self._times[given])
        self._times[identity] = 0
        self._unanswered[given] = (*self._unanswered.get(given, ()), identity)
        return identity

    def _of_result(self, given: str) -> str:
        waiting = self._unanswered.get(given)
        if not waiting:
            return given
        self._unanswered[given] = waiting[1:]
        return waiting[0]


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
