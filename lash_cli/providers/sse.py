"""Server-sent events, framed from bytes (contract 06 §9.5).

The invariant: how the bytes are cut into chunks never changes the events. Lines
end with LF, CRLF or CR; one leading byte order mark is dropped; only `data`
fields matter, and what llama.cpp calls `error`; text is decoded per event, so a
character may be split over chunks; an event without its closing blank line is
delivered by `flush`.
"""

from __future__ import annotations

import re

from lash_cli.errors import LlmTransportError

MAX_EVENT_BYTES = 8 * 1024 * 1024
_LINE_END = re.compile(rb"[\r\n]")
_LINE_ENDS = (b"\n", b"\r")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LF = 0x0A


class SseDecoder:
    """Turns chunks of bytes into the data of complete events."""

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max = max_event_bytes
        self._pending = bytearray()
        self._data: list[bytes] = []
        self._size = 0
        self._is_first_line = True
        self._ended_with_cr = False

    def feed(self, chunk: bytes) -> list[str]:
        """The events that `chunk` completes, in order.

        Raises `LlmTransportError` of kind stream when one event exceeds the cap.
        """
        if not chunk:
            return []
        if self._ended_with_cr and chunk[0] == _LF:
            chunk = chunk[1:]  # the second half of a CRLF whose first half ended the last chunk
        self._ended_with_cr = chunk.endswith(b"\r")
        events: list[str] = []
        if self._pending and _LINE_END.search(chunk) is None:
            # A long line in many pieces is gathered, not looked through again with every piece.
            self._pending += chunk
        else:
            lines = (bytes(self._pending) + chunk).splitlines(keepends=True)
            self._pending.clear()
            if lines and not lines[-1].endswith(_LINE_ENDS):
                self._pending += lines.pop()
            for line in lines:
                self._take_line(line.rstrip(b"\r\n"), events)
        self._check(len(self._pending))
        return events

    def flush(self) -> list[str]:
        """The event that was left open when the stream ended, if any."""
        events: list[str] = []
        if self._pending:
            line = bytes(self._pending)
            self._pending.clear()
            self._take_line(line, events)
        self._dispatch(events)
        return events

    def _take_line(self, line: bytes, events: list[str]) -> None:
        if self._is_first_line:
            self._is_first_line = False
            line = line.removeprefix(_BYTE_ORDER_MARK)
        if not line:
            self._dispatch(events)
            return
        self._check(len(line))
        self._size += len(line)
        if line.startswith(b"data:"):
            self._data.append(line[6:] if line.startswith(b"data: ") else line[5:])
        elif line == b"data":
            self._data.append(b"")
        elif line.startswith(b"error: {"):
            # How llama.cpp up to late 2025 says what it later says as `data: {"error": …}`.
            self._data.append(b'{"error":' + line[7:] + b"}")

    def _dispatch(self, events: list[str]) -> None:
        if self._data:
            events.append(b"\n".join(self._data).decode("utf-8", errors="replace"))
            self._data.clear()
        self._size = 0

    def _check(self, more: int) -> None:
        if self._size + more > self._max:
            raise LlmTransportError(
                f"one event of the stream exceeds {self._max} bytes",
                kind="stream",
                code="sse_event_too_large",
                retryable=True,
                protocol_position="response_observed",
            )


class SseOnlooker:
    """Reads along with the wire, which reports what cannot be read: behind that it sees nothing more."""

    def __init__(self) -> None:
        self._decoder: SseDecoder | None = SseDecoder()

    def seen(self, chunk: bytes | None) -> list[str]:
        """The data of the events that `chunk` completes, or with None of the one left at the end."""
        if self._decoder is None:
            return []
        try:
            return self._decoder.flush() if chunk is None else self._decoder.feed(chunk)
        except LlmTransportError:
            self._decoder = None
            return []
