"""A transport that tells a tracer what goes over the wire (contract 04 §9).

It stands at the byte-level seam, so what it tells is what was sent and what
came, whatever the wire above it. It changes nothing and keeps nothing.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable

import msgspec

from lash_cli.errors import LlmTransportError
from lash_cli.providers.http import HttpRequest, HttpResponse, HttpTransport
from lash_cli.providers.sse import SseDecoder

OnRequest = Callable[[str, bytes], None]
OnEvent = Callable[[str], None]


class TracedTransport:
    """Passes every request on; `on_request` gets its address and its exact bytes first, `on_event` the data of each
    event of a streamed answer, before the wire reads it."""

    def __init__(self, inner: HttpTransport, on_request: OnRequest, on_event: OnEvent | None = None) -> None:
        self._inner = inner
        self._on_request = on_request
        self._on_event = on_event

    async def send(self, request: HttpRequest, *, start_timeout: float | None) -> HttpResponse:
        """See `HttpTransport.send`."""
        self._on_request(request.url, request.body)
        response = await self._inner.send(request, start_timeout=start_timeout)
        if self._on_event is None:
            return response
        body = _told(response.body, self._on_event)

        async def aclose() -> None:
            await body.aclose()
            await response.aclose()

        return msgspec.structs.replace(response, body=body, aclose=aclose)

    async def aclose(self) -> None:
        """Close the inner transport."""
        await self._inner.aclose()


async def _told(body: AsyncIterator[bytes], on_event: OnEvent) -> AsyncGenerator[bytes, None]:
    """`body` as it is; `on_event` is told what events are in it, up to one that is too long for the wire as well."""
    decoder: SseDecoder | None = SseDecoder()
    async for chunk in body:
        decoder = _tell(decoder, chunk, on_event)
        yield chunk
    _tell(decoder, None, on_event)


def _tell(decoder: SseDecoder | None, chunk: bytes | None, on_event: OnEvent) -> SseDecoder | None:
    """Tell the events that `chunk` completes, or with None those left at the end. None once nothing can be told."""
    if decoder is None:
        return None
    try:
        events = decoder.flush() if chunk is None else decoder.feed(chunk)
    except LlmTransportError:
        return None
    for data in events:
        on_event(data)
    return decoder
