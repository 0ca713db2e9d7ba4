"""The wire encoding of a conversation, kept between calls (design D21).

Committed messages are immutable and their list only grows, so their bytes are
computed once: a request over 10 000 committed messages encodes the new ones
and copies the rest. The invariant: the same messages always yield the same
bytes, and a longer conversation begins with the bytes of the shorter one.
Marks for a provider's prompt cache are not part of what is kept: they are
spliced in while a request is put together, so a mark that moves on leaves the
bytes before it as they were (contract 06 §6).
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

from lash_cli.core.content import Message
from lash_cli.core.llm import MessageSequence

MAX_CONVERSATIONS = 8
MAX_ENCODINGS = 4

Key = TypeVar("Key", bound=Hashable)


class Piece(NamedTuple):
    """The encoding of one message.

    `data` is its items, each behind a comma, or nothing. `text_end` and
    `block_end` say where in `data` a mark of its last text and of its last
    markable item goes, 0 where there is none. `role` is who speaks, on a wire
    that has a `Frame`. A piece that is `told_apart` is left out where only such
    pieces precede it, because the wire says them elsewhere.
    """

    data: bytes
    text_end: int = 0
    block_end: int = 0
    role: str = ""
    told_apart: bool = False


class Frame(NamedTuple):
    """What stands around the items of neighbours of one role, which share one wire message."""

    opening: bytes
    closing: Mapping[str, bytes]


class Marks(NamedTuple):
    """What to splice in: at the last text, and at the last markable item if that comes later.

    Only the first `reach` messages are looked at; None looks at all.
    """

    text: bytes = b""
    block: bytes = b""
    reach: int | None = None


NO_MARKS = Marks()


class _State(NamedTuple):
    """Where an encoding stands after a message; `role` is None while nothing but told-apart pieces was seen."""

    end: int = 0
    text_end: int = 0
    block_end: int = 0
    role: str | None = None


_START = _State()


class _Conversation:
    """The encoding of one shared list; holding the list keeps its identity from being reused."""

    __slots__ = ("block_ends", "data", "ends", "roles", "shared", "tail", "text_ends")

    def __init__(self, shared: list[Message]) -> None:
        self.shared = shared
        self.data = bytearray()
        self.ends = array("Q")
        self.text_ends = array("Q")
        self.block_ends = array("Q")
        self.roles: list[str | None] = []
        self.tail: dict[int, tuple[Message, Piece]] = {}

    def state(self, length: int) -> _State:
        """Where the encoding stands after `length` messages."""
        if not length:
            return _START
        at = length - 1
        return _State(self.ends[at], self.text_ends[at], self.block_ends[at], self.roles[at])

    def append(self, data: bytes, state: _State) -> None:
        """Add the bytes of one message, after which the encoding stands at `state`."""
        self.data += data
        self.ends.append(state.end)
        self.text_ends.append(state.text_end)
        self.block_ends.append(state.block_end)
        self.roles.append(state.role)


class PrefixCache:
    """Encodes messages through `encode`, which returns a `Piece` or just its bytes.

    Without a `frame` the pieces of all messages stand side by side in one list.
    """

    def __init__(self, encode: Callable[[Message], Piece | bytes], *, frame: Frame | None = None) -> None:
        self._encode = encode
        self._frame = frame
        self._conversations: OrderedDict[int, _Conversation] = OrderedDict()

    def join(self, head: bytes, messages: Sequence[Message], foot: bytes, marks: Marks = NO_MARKS) -> bytes:
        """`head`, the items of `messages` separated by commas, `foot`.

        A head that ends with `[` opens the list: the first comma is dropped then.
        Raises what `encode` raises; the cache then holds only whole messages.
        """
        if isinstance(messages, MessageSequence):
            conversation = self._conversation(messages.shared)
            self._extend(conversation, messages.length)
            start = conversation.state(messages.length)
            pieces = self._encode_tail(conversation, messages.tail)
        else:
            conversation, start = _Conversation([]), _START
            pieces = [self._piece(message) for message in messages]
        state, states, tail = start, [], []
        for piece in pieces:
            data, state = self._step(state, piece)
            tail.append(data)
            states.append(state)
        reach = len(messages) if marks.reach is None else min(marks.reach, len(messages))
        known = len(messages) - len(pieces)
        marked = conversation.state(reach) if reach <= known else states[reach - known - 1]
        closing = self._frame.closing[state.role] if self._frame and state.role else b""
        with memoryview(conversation.data) as whole:
            return _assemble(head, whole, start.end, b"".join(tail), _splices(marked, marks), closing + foot)

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
            piece = cached[1] if cached else self._piece(message)
            conversation.append(*self._step(conversation.state(position), piece))

    def _encode_tail(self, conversation: _Conversation, tail: tuple[Message, ...]) -> list[Piece]:
        """The tail grows with every iteration of a turn: keep what the last call encoded, drop the rest."""
        known = conversation.tail
        kept: dict[int, tuple[Message, Piece]] = {}
        for message in tail:
            kept[id(message)] = known.get(id(message)) or (message, self._piece(message))
        conversation.tail = kept
        return [kept[id(message)][1] for message in tail]

    def _piece(self, message: Message) -> Piece:
        encoded = self._encode(message)
        return encoded if isinstance(encoded, Piece) else Piece(encoded)

    def _step(self, state: _State, piece: Piece) -> tuple[bytes, _State]:
        """The bytes a piece adds behind `state`, and where the encoding stands then."""
        if piece.told_apart and state.role is None:
            return b"", state
        if not piece.data:
            return b"", state._replace(role=state.role or "")
        data = piece.data
        if self._frame is not None and piece.role != state.role:
            closing = self._frame.closing[state.role] if state.role else b""
            data = closing + self._frame.opening + data[1:]
        end = state.end + len(data)
        shift = end - len(piece.data)
        return data, _State(
            end,
            shift + piece.text_end if piece.text_end else state.text_end,
            shift + piece.block_end if piece.block_end else state.block_end,
            piece.role,
        )


class PrefixCaches(Generic[Key]):
    """A `PrefixCache` for each way in which an encoder writes messages, such as for one route; the one that was used
    least lately goes."""

    def __init__(self, encoding: Callable[[Key], Callable[[Message], Piece | bytes]]) -> None:
        self._encoding = encoding
        self._caches: OrderedDict[Key, PrefixCache] = OrderedDict()

    def of(self, key: Key) -> PrefixCache:
        """The cache of one way."""
        found = self._caches.get(key)
        if found is None:
            found = self._caches[key] = PrefixCache(self._encoding(key))
            if len(self._caches) > MAX_ENCODINGS:
                self._caches.popitem(last=False)
        self._caches.move_to_end(key)
        return found


def _splices(state: _State, marks: Marks) -> list[tuple[int, bytes]]:
    """Where marks go, in order of place."""
    splices = []
    if state.text_end and marks.text:
        splices.append((state.text_end, marks.text))
    if state.block_end > state.text_end and marks.block:
        splices.append((state.block_end, marks.block))
    return splices


def _assemble(
    head: bytes, whole: memoryview, known: int, tail: bytes, splices: list[tuple[int, bytes]], foot: bytes
) -> bytes:
    """`head`, the first `known` bytes of `whole` and `tail` with `splices` in them, `foot`."""
    total = known + len(tail)
    parts: list[bytes | memoryview] = [head]
    at = 1 if head.endswith(b"[") else 0
    for place, mark in (*splices, (total, b"")):
        if at < known:
            parts.append(whole[at : min(place, known)])
        if place > known:
            parts.append(tail[max(at, known) - known : place - known])
        parts.append(mark)
        at = place
    parts.append(foot)
    return b"".join(parts)
