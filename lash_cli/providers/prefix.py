"""The wire encoding of a conversation, kept between calls (design D21).

Committed messages are immutable and their list only grows, so their bytes are
computed once: a request over 10 000 committed messages encodes the new ones
and copies the rest. The invariant: the same messages always yield the same
bytes, and a longer conversation begins with the bytes of the shorter one.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence

from lash_cli.core.content import Message
from lash_cli.core.llm import MessageSequence

MAX_CONVERSATIONS = 8


class _Conversation:
    """The encoding of one shared list; holding the list keeps its identity from being reused."""

    __slots__ = ("data", "ends", "shared", "tail")

    def __init__(self, shared: list[Message]) -> None:
        self.shared = shared
        self.data = bytearray()
        self.ends = array("Q")
        self.tail: dict[int, tuple[Message, bytes]] = {}


class PrefixCache:
    """Encodes messages through `encode`, which returns items that each begin with a comma, or nothing."""

    def __init__(self, encode: Callable[[Message], bytes]) -> None:
        self._encode = encode
        self._conversations: OrderedDict[int, _Conversation] = OrderedDict()

    def join(self, head: bytes, messages: Sequence[Message], foot: bytes) -> bytes:
        """`head`, the items of `messages` separated by commas, `foot`.

        A head that ends with `[` opens the list: the first comma is dropped then.
        Raises what `encode` raises; the cache then holds only whole messages.
        """
        if not isinstance(messages, MessageSequence):
            return _assemble(head, memoryview(b""), b"".join(map(self._encode, messages)), foot)
        conversation = self._conversation(messages.shared)
        self._extend(conversation, messages.length)
        tail = b"".join(self._encode_tail(conversation, messages.tail))
        end = conversation.ends[messages.length - 1] if messages.length else 0
        with memoryview(conversation.data) as whole, whole[:end] as prefix:
            return _assemble(head, prefix, tail, foot)

    def _conversation(self, shared: list[Message]) -> _Conversation:
        found = self._conversations.get(id(shared))
        if found is None:
            found = self._conversations[id(shared)] = _Conversation(shared)
            if len(self._conversations) > MAX_CONVERSATIONS:
                self._conversations.popitem(last=False)
        else:
            self._conversations.move_to_end(id(shared))
        return found

    def _extend(self, conversation: _Conversation, length: int) -> None:
        known = conversation.tail
        for position in range(len(conversation.ends), length):
            message = conversation.shared[position]
            cached = known.get(id(message))
            conversation.data += cached[1] if cached else self._encode(message)
            conversation.ends.append(len(conversation.data))

    def _encode_tail(self, conversation: _Conversation, tail: tuple[Message, ...]) -> list[bytes]:
        """The tail grows with every iteration of a turn: keep what the last call encoded, drop the rest."""
        known = conversation.tail
        kept: dict[int, tuple[Message, bytes]] = {}
        for message in tail:
            kept[id(message)] = known.get(id(message)) or (message, self._encode(message))
        conversation.tail = kept
        return [kept[id(message)][1] for message in tail]


def _assemble(head: bytes, prefix: memoryview, tail: bytes, foot: bytes) -> bytes:
    if head.endswith(b"["):
        if prefix:
            prefix = prefix[1:]
        else:
            tail = tail[1:]
    return b"".join((head, prefix, tail, foot))
