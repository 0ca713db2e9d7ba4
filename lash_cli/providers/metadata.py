"""Parts of responses a host wants kept with each attempt (contract 06 §2): an allow-list, nothing else.

An entry is `header:<lower-case name>` or `body:<json pointer>`. Headers are
read at the byte seam, whatever the wire above it; for a pointer the JSON
documents of the answer are decoded once more as they pass, which costs
something only where a pointer is configured. Whoever runs an attempt says
where to put what is found (`Capture`); outside of that nothing is kept.
Values are redacted, and large ones are left out.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextvars import ContextVar, Token
from typing import Any

import msgspec

from lash_cli.core.codec import Record, decode_json, encode
from lash_cli.core.redaction import redact
from lash_cli.providers.http import HttpRequest, HttpResponse, HttpTransport, with_body
from lash_cli.providers.sse import SseOnlooker

MAX_VALUE_CHARS = 1024
MAX_WHOLE_BODY_BYTES = 1024 * 1024
_HEADER, _BODY = "header:", "body:"
_SECRET_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key"})


class AllowList(Record):
    """What to keep: names of headers, and pointers into the answer's JSON documents as their steps."""

    headers: tuple[str, ...] = ()
    pointers: tuple[tuple[str, tuple[str, ...]], ...] = ()


def parse_allow_list(entries: Sequence[str]) -> AllowList:
    """The allow-list of its written form; raises `ValueError` naming the entry that is not one."""
    headers: list[str] = []
    pointers: list[tuple[str, tuple[str, ...]]] = []
    for entry in entries:
        name, pointer = entry.removeprefix(_HEADER), entry.removeprefix(_BODY)
        if name != entry and name and name == name.lower() and not any(c.isspace() for c in name):
            if name in _SECRET_HEADERS:
                raise ValueError(f"response_metadata {entry!r} is a credential and is never kept")
            headers.append(name)
        elif pointer != entry and pointer.startswith("/"):
            steps = pointer[1:].split("/")
            pointers.append((entry, tuple(step.replace("~1", "/").replace("~0", "~") for step in steps)))
        else:
            raise ValueError(f"response_metadata {entry!r} must be header:<lower-case name> or body:/<json pointer>")
    return AllowList(tuple(headers), tuple(pointers))


class Capture:
    """What was kept of one attempt, by allow-list entry; the last value of a pointer stands.

    As a context manager it makes itself the one that is kept in, in this task.
    """

    __slots__ = ("_secrets", "_token", "values")

    def __init__(self, secrets: tuple[str, ...] = ()) -> None:
        self.values: dict[str, Any] = {}
        self._secrets = secrets
        self._token: Token[Capture | None] | None = None

    def __enter__(self) -> Capture:
        self._token = _current.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._token is not None
        _current.reset(self._token)

    def keep(self, entry: str, value: Any) -> None:
        """Keep `value` without secrets, unless it is too large to stand in a record."""
        text = value if isinstance(value, str) else encode(value).decode()
        if len(text) > MAX_VALUE_CHARS:
            return
        clean = redact(text, self._secrets)
        # What a redaction leaves may not be JSON any more, so a value that held a secret is kept as text.
        self.values[entry] = value if clean == text else clean


_current: ContextVar[Capture | None] = ContextVar("lash_response_capture", default=None)


class CapturingTransport:
    """Passes everything on unchanged and keeps what the allow-list names; implements `http.HttpTransport`."""

    def __init__(self, inner: HttpTransport, allowed: AllowList) -> None:
        self._inner = inner
        self._allowed = allowed

    async def send(self, request: HttpRequest, *, start_timeout: float | None) -> HttpResponse:
        """See `HttpTransport.send`."""
        response = await self._inner.send(request, start_timeout=start_timeout)
        capture = _current.get()
        if capture is None:
            return response
        for name in self._allowed.headers:
            if name in response.headers:
                capture.keep(_HEADER + name, response.headers[name])
        if not self._allowed.pointers:
            return response
        return with_body(response, _read_along(response.body, _Pointers(self._allowed.pointers, capture)))

    async def aclose(self) -> None:
        """Close the inner transport."""
        await self._inner.aclose()


class _Pointers:
    """Finds the pointers in the documents of one body: events of a stream, or one whole document."""

    def __init__(self, pointers: Sequence[tuple[str, tuple[str, ...]]], capture: Capture) -> None:
        self._pointers = pointers
        self._capture = capture
        self._onlooker = SseOnlooker()
        self._whole = bytearray()
        self._has_event = False

    def feed(self, chunk: bytes) -> None:
        """Look at the next bytes."""
        if not self._has_event and len(self._whole) <= MAX_WHOLE_BODY_BYTES:
            self._whole += chunk
        self._take(self._onlooker.seen(chunk))

    def end(self) -> None:
        """The body ended: its last event, or the whole of it."""
        self._take(self._onlooker.seen(None))
        if not self._has_event and len(self._whole) <= MAX_WHOLE_BODY_BYTES:
            self._look_in(bytes(self._whole))

    def _take(self, events: list[str]) -> None:
        for data in events:
            self._has_event = True
            self._whole.clear()
            self._look_in(data)

    def _look_in(self, text: str | bytes) -> None:
        try:
            document = decode_json(text)
        except msgspec.DecodeError:
            return  # not a document, such as the mark at the end of a stream
        for entry, steps in self._pointers:
            found = _resolved(document, steps)
            if found is not None:
                self._capture.keep(entry, found)


async def _read_along(body: AsyncIterator[bytes], pointers: _Pointers) -> AsyncGenerator[bytes, None]:
    async for chunk in body:
        pointers.feed(chunk)
        yield chunk
    pointers.end()


def _resolved(document: Any, steps: tuple[str, ...]) -> Any:
    """What a pointer names, None when there is no such thing."""
    here = document
    for step in steps:
        if isinstance(here, Mapping):
            here = here.get(step)
        elif isinstance(here, list) and step.isdecimal() and int(step) < len(here):
            here = here[int(step)]
        else:
            return None
    return here
