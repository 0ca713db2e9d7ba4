"""Server-sent events, framed from bytes (contract 06 §9.5).

The invariant: how the bytes are cut into chunks never changes the events. Lines
end with LF, CRLF or CR; one leading byte order mark is dropped; only `data`
fields matter; text is decoded per event, so a character may be split over
chunks; an event without its closing blank line is delivered by `flush`.
"""

from __future__ import annotations

import re

from lash_cli.errors import LlmTransportError

MAX_EVENT_BYTES = 8 * 1024 * 1024
_LINE_END = re.compile(rb"\r\n|\r|\n")
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
        self._ended_with_cr = False
        scanned = len(self._pending)
        self._pending += chunk
        events: list[str] = []
        start = 0
        for match in _LINE_END.finditer(self._pending, scanned):
            self._take_line(bytes(self._pending[start : match.start()]), events)
            start = match.end()
        if start:
            self._ended_with_cr = start == len(self._pending) and self._pending[-1:] == b"\r"
            del self._pending[:start]
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
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))

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
