"""The wire encoding of a conversation, kept between calls (design D21).

Committed messages are immutable and their list only grows, so their bytes are
computed once: a request over 10 000 committed messages encodes the new ones
and copies the rest. The invariant: the same messages always yield the same
bytes, and a longer conversation begins with the bytes of the shorter one, up
to the end of a wire message that goes on, or is written anew because what it
holds grew beyond its frame.
Marks for a provider's prompt cache are not part of what is kept: they are
spliced in while a request is put together, so a mark that moves on leaves the
bytes before it as they were (contract 06 §6).
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

from lash_cli.core.content import Message, calls_and_results
from lash_cli.core.llm import MessageSequence
from lash_cli.providers.past import PastCalls

MAX_CONVERSATIONS = 8
MAX_ENCODINGS = 4

Key = TypeVar("Key", bound=Hashable)


class Piece(NamedTuple):
    """Part of the encoding of one message.

    `data` is items that stand for themselves, each behind a comma, or what goes into the `frame` of that name.
    `text_end` and `block_end` say where in `data` a mark of its last text and of its last markable item goes, 0 where
    there is none. A piece that is `told_apart` is left out where only such pieces precede it, because the wire says
    them elsewhere.
    """

    data: bytes
    text_end: int = 0
    block_end: int = 0
    frame: str = ""
    told_apart: bool = False


class Frame(NamedTuple):
    """What stands around the content of neighbours that share one wire message, and between them.

    Content of this frame also fits into the `wider` one of that name, inside of `held`; where it meets content that
    fits only there, all of it does. `behind` says what goes between a frame of that name and this one.
    """

    opening: bytes = b""
    closing: bytes = b""
    joint: bytes = b","
    wider: str = ""
    held: tuple[bytes, bytes] = (b"", b"")
    behind: Mapping[str, bytes] = {}


Encode = Callable[[Message], Sequence[Piece]]
Frames = Mapping[str, Frame]
_UNFRAMED = Frame()
_BARE = (b"", b"")


class Marks(NamedTuple):
    """What to splice in: at the last text, and at the last markable item if that comes later.

    Only the first `reach` messages are looked at; None looks at all.
    """

    text: bytes = b""
    block: bytes = b""
    reach: int | None = None


NO_MARKS = Marks()


class _State(NamedTuple):
    """Where an encoding stands after a piece: within the frame of that name, which began at `opened`. `frame` is None
    while nothing but told-apart pieces was seen, empty outside of all frames."""

    end: int = 0
    text_end: int = 0
    block_end: int = 0
    opened: int = 0
    frame: str | None = None


_START = _State()


class _Conversation:
    """The encoding of one shared list; holding the list keeps its identity from being reused."""

    __slots__ = ("calls", "data", "frames", "places", "said", "shared", "tail", "torn")

    def __init__(self, shared: list[Message]) -> None:
        self.shared = shared
        self.calls = PastCalls()
        #: The messages as they are sent; the last one may not be encoded, because it could not be.
        self.said: list[Message] = []
        self.data = bytearray()
        #: `end`, `text_end`, `block_end` and `opened` after each message.
        self.places = array("Q")
        self.frames: list[str | None] = []
        #: After which numbers of messages the encoding is no longer cut: what follows is written into theirs.
        self.torn: set[int] = set()
        self.tail: dict[int, tuple[Message, Sequence[Piece]]] = {}

    def state(self, length: int) -> _State:
        """Where the encoding stands after `length` messages."""
        if not length:
            return _START
        end, text_end, block_end, opened = self.places[4 * length - 4 : 4 * length]
        return _State(end, text_end, block_end, opened, self.frames[length - 1])

    def append(self, state: _State) -> None:
        """Note where the encoding stands after one more message."""
        self.places.extend(state[:4])
        self.frames.append(state.frame)


class PrefixCache:
    """Encodes messages through `encode`. Pieces of one of the `frames` share a wire message with neighbours of it."""

    def __init__(self, encode: Encode, frames: Frames | None = None) -> None:
        self._encode = encode
        self._frames = frames or {}
        self._conversations: OrderedDict[int, _Conversation] = OrderedDict()

    def join(self, head: bytes, messages: Sequence[Message], foot: bytes, marks: Marks = NO_MARKS) -> bytes:
        """`head`, the items of `messages` separated by commas, `foot`.

        A head that ends with `[` opens the list: the first comma is dropped then.
        Raises what `encode` raises; the cache then holds only whole messages.
        """
        conversation, known, encoded = self._known(messages)
        state = conversation.state(known)
        # The wire message that is open may yet be written anew, so it goes with the tail.
        copied, tail = state.opened, conversation.data[state.opened : state.end]
        states = []
        for pieces in encoded:
            for piece in pieces:
                state = self._add(tail, copied, state, piece)
            states.append(state)
        reach = len(messages) if marks.reach is None else min(marks.reach, len(messages))
        marked = conversation.state(reach) if reach <= known else states[reach - known - 1]
        closing = self._frame(state.frame).closing
        with memoryview(conversation.data) as whole:
            return _assemble(head, whole, copied, bytes(tail), _splices(marked, marks), closing + foot)

    def _known(self, messages: Sequence[Message]) -> tuple[_Conversation, int, list[Sequence[Piece]]]:
        """How many of `messages` which conversation holds the encoding of, and the pieces of the others."""
        if isinstance(messages, MessageSequence):
            conversation = self._conversation(messages.shared)
            self._extend(conversation, messages.length)
            if messages.length not in conversation.torn and not _is_overtaken(conversation, messages):
                return conversation, messages.length, self._encode_tail(conversation, messages.tail)
        calls = PastCalls()
        return _Conversation([]), 0, [self._encode(calls.sent(message)) for message in messages]

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
        for position in range(len(conversation.frames), length):
            if position == len(conversation.said):
                conversation.said.append(conversation.calls.sent(conversation.shared[position]))
            message = conversation.said[position]
            cached = known.get(id(message))
            pieces = cached[1] if cached else self._encode(message)
            before = state = conversation.state(position)
            for piece in pieces:
                state = self._add(conversation.data, 0, state, piece)
            if state.opened == before.opened and state.frame != before.frame:
                self._tear(conversation, position, before.opened)
            conversation.append(state)

    @staticmethod
    def _tear(conversation: _Conversation, position: int, opened: int) -> None:
        """Note that the wire message that began at `opened` was written anew, up to the message at `position`."""
        while position and conversation.state(position).end > opened:
            conversation.torn.add(position)
            position -= 1

    def _encode_tail(self, conversation: _Conversation, tail: tuple[Message, ...]) -> list[Sequence[Piece]]:
        """The tail grows with every iteration of a turn: keep what the last call encoded, drop the rest."""
        known = conversation.tail
        kept: dict[int, tuple[Message, Sequence[Piece]]] = {}
        calls = PastCalls(conversation.calls)
        said = [calls.sent(message) for message in tail]
        for message in said:
            kept[id(message)] = known.get(id(message)) or (message, self._encode(message))
        conversation.tail = kept
        return [kept[id(message)][1] for message in said]

    def _frame(self, name: str | None) -> Frame:
        return self._frames[name] if name else _UNFRAMED

    def _is_within(self, name: str, current: str | None) -> bool:
        """Whether content of that frame goes into the current one as it is."""
        return bool(current) and current in (name, self._frame(name).wider)

    def _add(self, data: bytearray, base: int, state: _State, piece: Piece) -> _State:
        """Write a piece behind `state` into `data`, which begins at `base`, and say where the encoding stands then."""
        if piece.told_apart and state.frame is None:
            return state
        if not piece.data and (not piece.frame or self._is_within(piece.frame, state.frame)):
            return state._replace(frame=state.frame or "")
        name, opened, (before, after) = self._placed(data, base, state, piece)
        frame = self._frame(name)
        if name and base + len(data) > opened + len(frame.opening):
            data += frame.joint
        data += before
        start = base + len(data)
        data += piece.data + after
        end = base + len(data)
        return _State(
            end,
            start + piece.text_end if piece.text_end else state.text_end,
            start + piece.block_end if piece.block_end else state.block_end,
            opened if name else end,
            name,
        )

    def _placed(self, data: bytearray, base: int, state: _State, piece: Piece) -> tuple[str, int, tuple[bytes, bytes]]:
        """Make room for a piece: the frame it goes into, where that began, and what goes around the piece there."""
        current, own = self._frame(state.frame), self._frame(piece.frame)
        if piece.frame and piece.frame == state.frame:
            return piece.frame, state.opened, _BARE
        if own.wider and own.wider == state.frame:
            return own.wider, state.opened, own.held
        if current.wider and current.wider == piece.frame:
            at = state.opened - base
            content = bytes(data[at + len(current.opening) :])
            data[at:] = own.opening + (current.held[0] + content + current.held[1] if content else b"")
            return piece.frame, state.opened, _BARE
        data += current.closing + own.behind.get(state.frame or "", b"")
        opened = base + len(data)
        data += own.opening
        return piece.frame, opened, _BARE


class PrefixCaches(Generic[Key]):
    """A `PrefixCache` for each way in which an encoder writes messages, such as for one route; the one that was used
    least lately goes."""

    def __init__(self, encoding: Callable[[Key], Encode], frames: Frames | None = None) -> None:
        self._encoding = encoding
        self._frames = frames
        self._caches: OrderedDict[Key, PrefixCache] = OrderedDict()

    def of(self, key: Key) -> PrefixCache:
        """The cache of one way."""
        found = self._caches.get(key)
        if found is None:
            found = self._caches[key] = PrefixCache(self._encoding(key), self._frames)
            if len(self._caches) > MAX_ENCODINGS:
                self._caches.popitem(last=False)
        self._caches.move_to_end(key)
        return found


def _is_overtaken(conversation: _Conversation, messages: MessageSequence) -> bool:
    """Whether calls stand in the tail of a view of less than what is known: whose ids theirs repeat is not known of."""
    return messages.length < len(conversation.said) and calls_and_results(messages.tail) != ([], [])


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
