"""A transport that tells a tracer what goes over the wire (contract 04 §9, `provider_request`).

It stands at the byte-level seam, so what it tells is what was sent, whatever
the wire above it. It changes nothing and keeps nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from lash_cli.providers.http import HttpRequest, HttpResponse, HttpTransport

OnRequest = Callable[[str, bytes], None]


class TracedTransport:
    """Passes every request on; `on_request` gets its address and its exact bytes first."""

    def __init__(self, inner: HttpTransport, on_request: OnRequest) -> None:
        self._inner = inner
        self._on_request = on_request

    async def send(self, request: HttpRequest, *, start_timeout: float | None) -> HttpResponse:
        """See `HttpTransport.send`."""
        self._on_request(request.url, request.body)
        return await self._inner.send(request, start_timeout=start_timeout)

    async def aclose(self) -> None:
        """Close the inner transport."""
        await self._inner.aclose()
