"""The byte-level seam between a wire and the network (contract 06 §11, design D12).

A wire builds an `HttpRequest` and reads an `HttpResponse`; tests put a scripted
transport in between. `Httpx2Transport` is the only place that knows the HTTP
library. It follows no redirects, keeps no cookies, never retries, and turns every
failure of the library into an `LlmTransportError`, so nothing above it catches
foreign errors.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

import msgspec

from lash_cli.core.codec import Record
from lash_cli.errors import LlmTransportError

if TYPE_CHECKING:
    import ssl

    import httpx2

CONNECT_TIMEOUT_SECONDS = 10.0
MAX_IDLE_CONNECTIONS = 20
_PROXIES = ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY")
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
#: What OpenSSL says of a certificate whose issuer is not at hand: X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT and its kin.
_UNKNOWN_AUTHORITY = (2, 18, 19, 20, 21)
#: The status that a server behind no proxy never gives.
PROXY_REFUSED = 407
#: The code of an environment that nothing can be sent with.
SETUP_INVALID = "network_setup_invalid"


class Timeouts(Record):
    """Seconds a model call may take (contract 06 §3.2); `request=None` disables the total."""

    request: float | None = 300.0
    chunk: float = 120.0
    connect: float = CONNECT_TIMEOUT_SECONDS

    def __post_init__(self) -> None:
        for name in ("request", "chunk", "connect"):
            seconds = getattr(self, name)
            if seconds is not None and not seconds > 0:
                raise ValueError(f"{name}_timeout_seconds must be above 0, got {seconds:g}; inf is no limit")

    @property
    def response_start(self) -> float:
        """How long to wait for the status line: the shorter of the two limits."""
        return self.chunk if self.request is None else min(self.request, self.chunk)


class HttpRequest(msgspec.Struct, frozen=True):
    """One request, complete: the body is bytes so that it can be compared and replayed."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes

    def __repr__(self) -> str:
        return f"HttpRequest({self.method} {self.url}, headers={sorted(self.headers)}, {len(self.body)} bytes)"


class HttpResponse(msgspec.Struct, frozen=True):
    """An answer whose body is still on the wire. Header names are lower case. Always `aclose` it."""

    status: int
    headers: Mapping[str, str]
    body: AsyncIterator[bytes]
    aclose: Callable[[], Awaitable[None]]


def with_body(response: HttpResponse, body: AsyncGenerator[bytes, None]) -> HttpResponse:
    """`response` with a body that reads its own, and is closed before it."""

    async def aclose() -> None:
        await body.aclose()
        await response.aclose()

    return HttpResponse(response.status, response.headers, body, aclose)


class HttpTransport(Protocol):
    """Sends one request."""

    async def send(self, request: HttpRequest, *, start_timeout: float | None) -> HttpResponse:
        """Send and wait up to `start_timeout` seconds for the status and headers.

        Raises `LlmTransportError` of kind transport, timeout or validation.
        Iterating the body raises the same.
        """
        ...

    async def aclose(self) -> None:
        """Close idle connections."""
        ...


class Httpx2Transport:
    """The network through httpx2: HTTP/1.1, proxies from the environment, one client per event loop."""

    def __init__(self, timeouts: Timeouts | None = None) -> None:
        self._timeouts = timeouts or Timeouts()
        #: A loop makes, uses and closes its own, and no other one's connections.
        self._clients: dict[asyncio.AbstractEventLoop, httpx2.AsyncClient] = {}
        #: Reading the certificates takes longer than anything else of a client, and they are the same for all.
        self._certificates: ssl.SSLContext | None = None

    async def send(self, request: HttpRequest, *, start_timeout: float | None) -> HttpResponse:
        """See `HttpTransport.send`."""
        client = self._client_of_this_loop()
        try:
            async with _library_faults("no_response", request.url), asyncio.timeout(start_timeout):
                outgoing = client.build_request(
                    request.method, request.url, headers=dict(request.headers), content=request.body
                )
                response = await client.send(outgoing, stream=True)
        except TimeoutError as error:
            limit = "chunk" if start_timeout == self._timeouts.chunk else "request"
            raise LlmTransportError(
                f"the provider did not answer within {start_timeout:g} s ({limit}_timeout_seconds of the provider)"
                f"{_proxy_hint(request.url)}",
                kind="timeout",
                code="response_start_timeout",
                retryable=True,
            ) from error
        if response.status_code == PROXY_REFUSED:
            await response.aclose()
            raise _proxy_refusal(str(PROXY_REFUSED), "response_observed")
        headers = {name.lower(): value for name, value in response.headers.items()}
        body = _body(response)

        async def aclose() -> None:
            await body.aclose()
            await response.aclose()

        return HttpResponse(response.status_code, headers, body, aclose)

    async def aclose(self) -> None:
        """Close the client of this loop; the next `send` makes a new one."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()

    def _client_of_this_loop(self) -> httpx2.AsyncClient:
        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is None:
            for closed in [known for known in tuple(self._clients) if known.is_closed()]:
                self._clients.pop(closed, None)  # its connections cannot be used or closed any more
            client = self._clients[loop] = self._new_client()
        return client

    def _new_client(self) -> httpx2.AsyncClient:
        from http.cookiejar import CookieJar, DefaultCookiePolicy

        import httpx2

        timeouts = self._timeouts
        try:
            self._certificates = self._certificates or httpx2.create_ssl_context()
            # How many calls run at a time is the limiter's to say: a pool of its own would fail those that wait.
            return httpx2.AsyncClient(
                http2=False,
                follow_redirects=False,
                trust_env=True,
                # What a server asks to be told with every later request is in no `HttpRequest`, and grows without end.
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
                verify=self._certificates,
                limits=httpx2.Limits(max_connections=None, max_keepalive_connections=MAX_IDLE_CONNECTIONS),
                timeout=httpx2.Timeout(timeouts.chunk, connect=timeouts.connect),
            )
        except (httpx2.InvalidURL, ImportError, OSError, ValueError) as error:
            # Without the cause, whose text may hold the password of a proxy.
            raise LlmTransportError(_unusable_environment(error), kind="validation", code=SETUP_INVALID) from None


def address_refusal(url: str) -> str | None:
    """Why `url` could never be called, None when it could be."""
    import httpx2

    try:
        httpx2.URL(url)
    except httpx2.InvalidURL as error:
        return str(error)
    return None


def _unusable_environment(error: Exception) -> str:
    """What of the environment the network cannot be set up with; names variables and no value."""
    names: tuple[str, ...] = _PROXIES
    problem = "the address of a proxy cannot be used"
    if isinstance(error, ImportError):
        problem = "the proxy is a SOCKS proxy, which needs another package (pip install socksio)"
    elif isinstance(error, OSError):
        names = _CERTIFICATES
        problem = "the certificates cannot be read"
    return f"the network cannot be set up: {problem}; check {_set_names(names)}"


def _set_names(names: tuple[str, ...]) -> str:
    """Those of the variables that are set, in words; all of them when none is."""
    present = [name for name in names if os.environ.get(name) or os.environ.get(name.lower())]
    return " and ".join(present or names)


async def _body(response: httpx2.Response) -> AsyncGenerator[bytes, None]:
    async with _library_faults("response_observed"):
        async for chunk in response.aiter_bytes():
            yield chunk


@asynccontextmanager
async def _library_faults(position: str, url: str | None = None) -> AsyncIterator[None]:
    """Turn what the HTTP library raises into `LlmTransportError`; everything else passes. `url` is what is asked while
    there is no answer, for which a proxy may be at fault."""
    import httpx2

    try:
        yield
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol, httpx2.LocalProtocolError) as error:
        raise LlmTransportError(
            f"the request cannot be sent: {error}",
            kind="validation",
            code="invalid_request",
            protocol_position=position,
        ) from error
    except httpx2.TimeoutException as error:
        raise LlmTransportError(
            f"{_timeout_text(error)}{_proxy_hint(url)}",
            kind="timeout",
            code=_snake(error),
            retryable=True,
            protocol_position=position,
        ) from error
    except httpx2.ProxyError as error:
        raise _proxy_refusal(str(error), position) from None
    except ExceptionGroup as error:
        if error.subgroup(OverflowError) is None:
            raise
        # A proxy at a port that there is none of: that of an address is looked at where it is set.
        raise LlmTransportError(_unusable_environment(error), kind="validation", code=SETUP_INVALID) from None
    except (httpx2.HTTPError, httpx2.StreamError) as error:
        said = _tls_problem(error) or f"{str(error) or _unsaid(error)}{_proxy_hint(url)}"
        raise LlmTransportError(
            f"the connection to the provider failed: {said}",
            kind="transport",
            code=_snake(error),
            retryable=True,
            protocol_position=position,
        ) from error


def _proxy_refusal(said: str, position: str) -> LlmTransportError:
    """Only the number: the words are the proxy's own, and it knows a password that nobody here would recognise."""
    status = re.match("[0-9]{3}", said)
    # It wants a password, which the next request would not bring either.
    is_passing = status is None or int(status[0]) != PROXY_REFUSED
    return LlmTransportError(
        f"the proxy refused to connect{f' ({status[0]})' if status else ''}; check {_set_names(_PROXIES)}",
        kind="transport" if is_passing else "validation",
        code="proxy_error" if is_passing else SETUP_INVALID,
        retryable=is_passing,
        protocol_position=position,
    )


def _proxy_hint(url: str | None) -> str:
    """What to look at where nobody answers who is asked for `url`: the library does not say that it was a proxy."""
    if url is None:
        return ""
    from urllib.request import getproxies_environment, proxy_bypass

    parts = urlsplit(url)
    is_proxied = {parts.scheme, "all"} & getproxies_environment().keys() and not proxy_bypass(parts.hostname or "")
    return f"; a proxy is set, check {_set_names(_PROXIES)}" if is_proxied else ""


def _unsaid(error: Exception) -> str:
    return {"ReadError": "it broke off in the answer", "WriteError": "it broke off in the request"}.get(
        type(error).__name__, "it broke off"
    )


def _tls_problem(error: BaseException) -> str | None:
    """What of TLS the user can do something about, in words; the library says it in those of its C source."""
    import ssl

    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        reason = cause.verify_message.rstrip(".")
        if cause.verify_code not in _UNKNOWN_AUTHORITY:
            return f"its certificate is not valid ({reason})"
        return f"its certificate is not trusted ({reason}); an authority of your own goes into SSL_CERT_FILE"
    if cause is not None and cause.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"):
        return "it does not speak TLS there; should the address begin with http:// and not with https://?"
    return None


def _timeout_text(error: Exception) -> str:
    return {
        "ConnectTimeout": "connecting to the provider took too long",
        "ReadTimeout": "the provider sent nothing for too long (chunk_timeout_seconds of the provider)",
        "WriteTimeout": "the provider stopped reading the request",
    }.get(type(error).__name__, "the provider took too long")


def _snake(error: Exception) -> str:
    """`ReadTimeout` as `read_timeout`: a code that does not depend on the library's wording."""
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in type(error).__name__).lstrip("_")
