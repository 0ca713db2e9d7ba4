"""A transport that tells a tracer what goes over the wire (contract 04 §9).

It stands at the byte-level seam, so what it tells is what was sent and what
came, whatever the wire above it. It changes nothing and keeps nothing.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable

from lash_cli.providers.http import HttpRequest, HttpResponse, HttpTransport, with_body
from lash_cli.providers.sse import SseOnlooker

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
        return with_body(response, _told(response.body, self._on_event))

    async def aclose(self) -> None:
        """Close the inner transport."""
        await self._inner.aclose()


async def _told(body: AsyncIterator[bytes], on_event: OnEvent) -> AsyncGenerator[bytes, None]:
    """`body` as it is; `on_event` is told what events are in it, up to one that is too long for the wire as well."""
    onlooker = SseOnlooker()
    async for chunk in body:
        for data in onlooker.seen(chunk):
            on_event(data)
        yield chunk
    for data in onlooker.seen(None):
        on_event(data)
