"""Recording real exchanges as wire scripts, with nothing in them that must not be kept (contract 06 §16).

`RecordingTransport` passes everything on unchanged and writes one script per
exchange, `<prefix>.001.json` and so on. A request body is never kept. A
response is held back until its end, because a secret may be cut by a chunk
border, and is redacted before the first byte is written. What cannot be made
safe is refused: a body that is no UTF-8, and a secret that a stream spells out
over several events. A file enters the repository only after someone has read it.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import msgspec
from support.wire_matching import REDACTED, redacted_headers
from support.wire_script import (
    SCHEMA,
    Chunk,
    Disconnect,
    End,
    Endpoint,
    HeaderRule,
    HttpError,
    Provenance,
    RequestMatch,
    ResponseStart,
    TimedOut,
    TimelineEvent,
    TransportError,
    WireScript,
)

from lash_cli.core.codec import encode
from lash_cli.core.protocols import Clock
from lash_cli.errors import LlmTransportError
from lash_cli.providers.http import HttpRequest, HttpResponse, HttpTransport
from lash_cli.providers.sse import SseDecoder

#: What the notes of a new file say; a file of the repository says `redaction reviewed` in their place.
REVIEW = "redaction not reviewed"
MIN_SECRET_CHARS = 4
_SENSITIVE = re.compile(r"(?i)auth|api[-_]?key|token$|secret|password|cookie|session[-_]?id|email|phone")
# A member of a JSON object whose name says that its text is nobody's business, in text of any nesting.
_SENSITIVE_MEMBER = re.compile(
    r'"(?P<name>[^"\\]{1,60})"(?P<colon>\s*:\s*)"(?P<value>(?:[^"\\]|\\.)*)"',
    re.DOTALL,
)
_KEY_SHAPED = re.compile(r"\b(?:(?:sk|pk|gsk|xai)-[A-Za-z0-9_*.-]{6,}|AIza[A-Za-z0-9_-]{20,})")
_BEARER = re.compile(r"\bbearer\s+[A-Za-z0-9._~+/-]{6,}=*", re.IGNORECASE)


class RecordingRefused(Exception):
    """An exchange that cannot be written without keeping what must not be kept."""


class RecordingTransport:
    """An `HttpTransport` around a real one; implements `providers.http.HttpTransport`.

    `secrets` and `user_markers` (a name, an address, a path) are taken out
    wherever they show up. The reader gets every chunk as it comes; what is
    refused is refused when the exchange ends, and nothing of it is written.
    """

    def __init__(
        self,
        inner: HttpTransport,
        prefix: Path,
        *,
        provider_kind: str,
        source: str,
        clock: Clock,
        captured_at: str,
        secrets: tuple[str, ...] = (),
        user_markers: tuple[str, ...] = (),
    ) -> None:
        """Raises `ValueError` for a secret too short to be told from ordinary text."""
        for secret in (*secrets, *user_markers):
            if len(secret) < MIN_SECRET_CHARS:
                raise ValueError(f"a secret of {len(secret)} characters cannot be redacted")
        self._inner = inner
        self._prefix = prefix
        self._provider_kind = provider_kind
        self._provenance = Provenance("captured_live", source, captured_at, REVIEW)
        self._clock = clock
        self._secrets = (*secrets, *user_markers)
        self._numbers = itertools.count(1)

    async def send(self, request: HttpRequest, *, start_timeout: float | None) -> HttpResponse:
        """Pass the request on; what goes wrong on the way is recorded and raised."""
        recording = _Recording(self._clock, (*self._secrets, *_credentials(request)))
        path = self._prefix.with_name(f"{self._prefix.name}.{next(self._numbers):03}.json")
        try:
            response = await self._inner.send(request, start_timeout=start_timeout)
        except LlmTransportError as error:
            event: TimelineEvent = TransportError(recording.now(), recording.redact(error.message), error.retryable)
            if error.kind == "timeout":
                event = TimedOut(recording.now(), recording.redact(error.message))
            self._write(path, request, recording, (event,))
            raise
        recording.start(response)

        async def body() -> AsyncIterator[bytes]:
            ending: TimelineEvent | None = None
            try:
                async for chunk in response.body:
                    recording.take(chunk)
                    yield chunk
                ending = End(recording.now())
            except LlmTransportError as error:
                message = recording.redact(error.message)
                ending = Disconnect(recording.now(), message, error.retryable)
                if error.kind == "timeout":
                    ending = TimedOut(recording.now(), message)
                raise
            finally:
                ending = ending or Disconnect(recording.now(), "the reader had seen enough")
                self._write(path, request, recording, recording.timeline(ending))

        stream = body()

        async def aclose() -> None:
            await stream.aclose()  # type: ignore[attr-defined]
            await response.aclose()

        return HttpResponse(response.status, response.headers, stream, aclose)

    async def aclose(self) -> None:
        """Close the inner transport."""
        await self._inner.aclose()

    def _write(
        self, path: Path, request: HttpRequest, recording: _Recording, timeline: tuple[TimelineEvent, ...]
    ) -> None:
        names = {name.lower() for name in request.headers} - {"user-agent", "content-length", "host"}
        script = WireScript(
            schema=SCHEMA,
            name=path.stem,
            provider_kind=self._provider_kind,
            endpoint=Endpoint(request.method, recording.redact(_path_without_secrets(request.url))),
            request_match=RequestMatch(headers={name: HeaderRule(present=True) for name in sorted(names)}),
            timeline=timeline,
            provenance=self._provenance,
        )
        written = json.dumps(json.loads(encode(script)), indent=2, ensure_ascii=False) + "\n"
        recording.assert_clean(written)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(written)


class _Recording:
    """One exchange in the making: everything it holds is still raw."""

    def __init__(self, clock: Clock, secrets: tuple[str, ...]) -> None:
        self._clock = clock
        self._started = clock.monotonic()
        self._pattern = _pattern_of(secrets)
        self._head = ResponseStart(0, 0)
        self._body = bytearray()
        self._marks: list[tuple[int, int]] = []

    def now(self) -> int:
        """Milliseconds since the request."""
        return round((self._clock.monotonic() - self._started) * 1000)

    def start(self, response: HttpResponse) -> None:
        """Take status and headers."""
        headers = {name: self.redact(value) for name, value in redacted_headers(response.headers).items()}
        self._head = ResponseStart(self.now(), response.status, headers)

    def take(self, chunk: bytes) -> None:
        """Take one chunk and when it came."""
        self._body += chunk
        self._marks.append((len(self._body), self.now()))

    def redact(self, text: str) -> str:
        """`text` without anything that must not be kept."""
        return "".join(piece if is_kept else REDACTED for piece, is_kept in self._pieces(text))

    def timeline(self, ending: TimelineEvent) -> tuple[TimelineEvent, ...]:
        """The redacted events; raises `RecordingRefused`."""
        try:
            text = self._body.decode("utf-8")
        except UnicodeDecodeError as error:
            raise RecordingRefused("the body is not UTF-8") from error
        if self._head.status != 200 and isinstance(ending, End):
            self._refuse_spelt_out(self.redact(text))
            return (HttpError(ending.at, self._head.status, self._head.headers, self.redact(text)),)
        redacted, borders = self._redacted_with_borders(text)
        self._refuse_spelt_out(redacted.decode())
        chunks: list[TimelineEvent] = []
        at = 0
        for border, moment in borders:
            piece = redacted[at:border]
            at = border
            if piece:
                chunks.append(_chunk(moment, piece))
        return (self._head, *chunks, ending)

    def assert_clean(self, written: str) -> None:
        """The last gate: no secret in the file, whatever way JSON may write it. Raises `RecordingRefused`."""
        for text in (written, *_texts(json.loads(written))):
            if self._pattern is not None and self._pattern.search(text):
                raise RecordingRefused("a secret would have been written")

    def _redacted_with_borders(self, text: str) -> tuple[bytes, list[tuple[int, int]]]:
        """The redacted body, and the chunk borders in it: one inside a redacted piece moves behind it."""
        redacted = bytearray()
        borders: list[tuple[int, int]] = []
        marks = iter(self._marks)
        mark = next(marks, None)
        raw = 0
        for piece, is_kept in self._pieces(text):
            data = piece.encode()
            out = data if is_kept else REDACTED.encode()
            while mark is not None and mark[0] <= raw + len(data):
                inside = mark[0] - raw if is_kept else len(out)
                borders.append((len(redacted) + inside, mark[1]))
                mark = next(marks, None)
            raw += len(data)
            redacted += out
        return bytes(redacted), borders

    def _pieces(self, text: str) -> Iterator[tuple[str, bool]]:
        """`text` in pieces, each with whether it is kept."""
        at = 0
        for start, end in _merged(sorted(self._spans(text))):
            if start > at:
                yield text[at:start], True
            yield text[start:end], False
            at = end
        if at < len(text):
            yield text[at:], True

    def _spans(self, text: str) -> Iterator[tuple[int, int]]:
        for pattern in (self._pattern, _KEY_SHAPED, _BEARER):
            if pattern is not None:
                yield from (match.span() for match in pattern.finditer(text))
        for match in _SENSITIVE_MEMBER.finditer(text):
            if _SENSITIVE.search(match["name"]) and match["value"]:
                yield match.span("value")

    def _refuse_spelt_out(self, text: str) -> None:
        """A stream that spells a secret over several events is not written: no event alone would show it."""
        spelt: dict[str, list[str]] = {}
        decoder = SseDecoder()
        for data in (*decoder.feed(text.encode()), *decoder.flush()):
            try:
                event = json.loads(data)
            except ValueError:
                continue
            for place, value in _places(event):
                spelt.setdefault(place, []).append(value)
        for place, values in spelt.items():
            whole = "".join(values)
            if _KEY_SHAPED.search(whole) or (self._pattern is not None and self._pattern.search(whole)):
                raise RecordingRefused(f"the stream spells a secret over several events, at {place}")


def _credentials(request: HttpRequest) -> tuple[str, ...]:
    """What a response could echo of a request's authentication: the values, and a bearer's bare token."""
    found: list[str] = []
    for name, value in request.headers.items():
        if redacted_headers({name: value})[name.lower()] == REDACTED:
            found += [value, value.rpartition(" ")[2]]
    found += [value for name, value in parse_qsl(urlsplit(request.url).query) if _is_sensitive_parameter(name)]
    return tuple(value for value in found if len(value) >= MIN_SECRET_CHARS)


def _is_sensitive_parameter(name: str) -> bool:
    return bool(_SENSITIVE.search(name)) or name.lower() in ("key", "sig", "signature")


def _path_without_secrets(url: str) -> str:
    parts = urlsplit(url)
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    query = urlencode(
        [(name, REDACTED if _is_sensitive_parameter(name) else value) for name, value in pairs], safe="[]"
    )
    return parts.path + (f"?{query}" if query else "")


def _pattern_of(secrets: tuple[str, ...]) -> re.Pattern[str] | None:
    """A pattern of every way a secret may be written: plain, as JSON text, with escaped slashes, in an address."""
    ways: set[str] = set()
    for secret in secrets:
        for inner in (secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]):
            ways |= {inner, inner.replace("/", "\\/"), json.dumps(inner)[1:-1]}
        ways |= {quote(secret), quote(secret, safe="")}
    longest_first = sorted(ways, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)), re.IGNORECASE) if longest_first else None


def _merged(spans: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Spans in order, overlapping ones as one."""
    current: tuple[int, int] | None = None
    for start, end in spans:
        if current is not None and start <= current[1]:
            current = (current[0], max(current[1], end))
            continue
        if current is not None:
            yield current
        current = (start, end)
    if current is not None:
        yield current


def _chunk(at: int, data: bytes) -> Chunk:
    """A chunk as text, or as bytes where its border falls into a character."""
    try:
        return Chunk(at, data=data.decode())
    except UnicodeDecodeError:
        return Chunk(at, raw=data)


def _places(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Every text inside `value` with where it stands."""
    match value:
        case dict():
            for name, member in value.items():
                yield from _places(member, f"{place}/{name}")
        case list():
            for index, member in enumerate(value):
                yield from _places(member, f"{place}/{index}")
        case str():
            yield place, value


def _texts(value: Any) -> Iterator[str]:
    """Every text inside a script, chunks in base64 read as text, and the body of all chunks in one."""
    body = bytearray()
    for event in value["timeline"]:
        if event["type"] == "chunk":
            body += event["data"].encode() if "data" in event else msgspec.convert(event["bytes"], bytes)
    yield body.decode("utf-8", errors="replace")
    for _, text in _places(value):
        yield text
