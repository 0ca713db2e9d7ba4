"""Output items of the Responses wire while they grow (contract 06 §9.1).

A message, a reasoning item and a function call each take deltas and then the
finished item. The invariant: text that was streamed is never repeated and never
rewritten by a later event, which can only continue it; arguments of a call are
what the last word says.
"""

from __future__ import annotations

from typing import Any

from lash_cli.core.codec import encode
from lash_cli.core.content import ReasoningReplay
from lash_cli.core.llm import ReasoningDelta, StreamEvent, TextDelta
from lash_cli.providers.assembling import objects_of, text_of

PARAGRAPH = "\n\n"


class TextBlock:
    """One content block of a message: text, or the words of a refusal."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.refusal: list[str] = []
        self.annotations: list[dict[str, Any]] = []

    def fill_text(self, text: Any) -> list[StreamEvent]:
        """The finished text: what of it was not streamed."""
        rest = rest_of(self.pieces, text)
        if not rest:
            return []
        self.pieces.append(rest)
        return [TextDelta(rest)]

    def fill_refusal(self, refusal: Any) -> None:
        """The finished refusal: what of it was not streamed."""
        rest = rest_of(self.refusal, refusal)
        if rest:
            self.refusal.append(rest)


class MessageItem:
    """An output message: its blocks by index."""

    kind = "message"

    def __init__(self) -> None:
        self.id = ""
        self.phase = ""
        self.blocks: dict[int, TextBlock] = {}

    @property
    def has_content(self) -> bool:
        """Whether anything of it has arrived that can be read or run."""
        return any(block.pieces or block.refusal for block in self.blocks.values())

    def block(self, index: Any) -> TextBlock:
        """The block at an index, opened by whoever asks first."""
        return self.blocks.setdefault(index_of(index), TextBlock())

    def settle(self, item: dict[str, Any]) -> list[StreamEvent]:
        """Take the finished item: of its texts what was not streamed."""
        self.phase = text_of(item.get("phase")) or self.phase
        events: list[StreamEvent] = []
        for index, content in enumerate(objects_of(item.get("content"))):
            block = self.block(index)
            events += block.fill_text(content.get("text"))
            block.fill_refusal(content.get("refusal"))
            block.annotations = list(objects_of(content.get("annotations"))) or block.annotations
        return events


class ReasoningItem:
    """A reasoning item: summaries and open reasoning, each part a paragraph of what is shown."""

    kind = "reasoning"

    def __init__(self) -> None:
        self.id = ""
        self.encrypted = ""
        self.shown: list[str] = []
        self.summary: dict[int, list[str]] = {}
        self.content: dict[int, list[str]] = {}
        self._last: list[str] | None = None

    @property
    def has_content(self) -> bool:
        """Whether anything of it has arrived that can be read or run."""
        return bool(self.shown)

    def append(self, pieces: list[str], text: str) -> list[StreamEvent]:
        """Add `text` to one part; a part after another begins a paragraph."""
        if not text:
            return []
        pieces.append(text)
        is_new_paragraph = self._last is not None and self._last is not pieces
        self._last = pieces
        piece = PARAGRAPH + text if is_new_paragraph else text
        self.shown.append(piece)
        return [ReasoningDelta(piece)]

    def fill(self, pieces: list[str], text: Any) -> list[StreamEvent]:
        """The finished text of one part: what of it was not streamed."""
        return self.append(pieces, rest_of(pieces, text))

    def settle(self, item: dict[str, Any]) -> list[StreamEvent]:
        """Take the finished item: its replay data, and text that was not streamed."""
        self.encrypted = text_of(item.get("encrypted_content")) or self.encrypted
        events: list[StreamEvent] = []
        for parts, name in ((self.summary, "summary"), (self.content, "content")):
            for index, part in enumerate(objects_of(item.get(name))):
                events += self.fill(parts.setdefault(index, []), part.get("text"))
        return events

    def replay(self, route: str) -> ReasoningReplay | None:
        """What brings this reasoning back; without the encrypted blob there is nothing to bring back."""
        if not self.encrypted:
            return None
        summary = tuple(text for _, pieces in sorted(self.summary.items()) if (text := "".join(pieces)))
        return ReasoningReplay(route, self.id or None, self.encrypted, summary=summary)


class CallItem:
    """A function call growing by deltas."""

    kind = "function_call"

    def __init__(self) -> None:
        self.id = ""
        self.call_id = ""
        self.name = ""
        self.arguments: list[str] = []

    @property
    def has_content(self) -> bool:
        """Whether anything of it has arrived that can be read or run."""
        return bool(self.name or self.arguments)

    def note(self, item: dict[str, Any]) -> None:
        """Take who is called."""
        self.call_id = text_of(item.get("call_id")) or self.call_id
        self.name = text_of(item.get("name")) or self.name

    def settle(self, item: dict[str, Any]) -> list[StreamEvent]:
        """Take the finished item, whose arguments are the last word."""
        self.note(item)
        arguments = item.get("arguments")
        if arguments is not None and not isinstance(arguments, str):
            self.arguments = [encode(arguments).decode()]
        elif arguments:
            self.arguments = [arguments]
        return []


OutputItem = MessageItem | ReasoningItem | CallItem
ITEM_KINDS: dict[str, type[OutputItem]] = {kind.kind: kind for kind in (MessageItem, ReasoningItem, CallItem)}


def rest_of(pieces: list[str], text: Any) -> str:
    """What a finished text says beyond the pieces that came before; nothing when it says something else."""
    whole, known = text_of(text), "".join(pieces)
    return whole[len(known) :] if whole.startswith(known) else ""


def index_of(value: Any) -> int:
    """An index; 0 where there is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
