"""The shell every HTTP wire runs in: one attempt, from request bytes to a proved answer (contract 06 §5, §9).

What differs between providers is a `Wire`: where a request goes, how it is
written, and an `Assembler` that reads its answer. Everything else lives here
once: timeouts, framing, errors inside a stream, the silent end of a connection,
whole JSON answers. An answer counts only with the wire's terminal proof, unless
the end of the stream is accepted in its place by data of the model or the
endpoint. Error texts never contain a secret this provider was given.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any, Literal, NamedTuple, Protocol
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from lash_cli.core.codec import decode_json
from lash_cli.core.content import AttachmentSource, ToolCallPart, ToolResultPart
from lash_cli.core.llm import (
    DeliberateStop,
    EvidenceReported,
    ExecutionEvidence,
    LlmRequest,
    LlmResponse,
    ReasoningDelta,
    StreamEvent,
    TerminalReason,
    TextDelta,
)
from lash_cli.core.protocols import Clock, EventSink
from lash_cli.errors import ConfigError, LlmTransportError
from lash_cli.providers.attachments import CARRIED, RequestAttachments, carrying_refusal, check_own
from lash_cli.providers.classify import classify_error_object, classify_http, presentable, to_exception
from lash_cli.providers.http import HttpRequest, HttpResponse, HttpTransport, Timeouts
from lash_cli.providers.sse import SseDecoder

MAX_ERROR_BODY_BYTES = 64 * 1024
MAX_WHOLE_ANSWER_BYTES = 32 * 1024 * 1024
DRAIN_SECONDS = 0.05
ERROR_BODY_SECONDS = 10.0
DONE = "[DONE]"
OUTPUT_STARTED = "output_started"
_SECRET_HEADER = re.compile("auth|key|token|cookie|secret")
_SECRET_PARAMETER = re.compile(r"key|token|secret|password|\b(?:auth|sig|signature)\b")
_HEADER_NAME = re.compile("[a-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile("[\t -~]*")
_FRAMING_HEADERS = ("connection", "content-length", "transfer-encoding")
_REQUEST_ID_HEADERS = ("x-request-id", "request-id")

Termination = Literal["require", "tolerate_eof"]


class Assembler(Protocol):
    """Collects the JSON documents of one answer, in wire order; a whole answer is one document."""

    @property
    def is_proved(self) -> bool:
        """Whether the provider said that its answer is complete."""
        ...

    @property
    def is_finished(self) -> bool:
        """Whether nothing that counts can follow, so that reading may stop before the connection ends."""
        ...

    @property
    def is_empty(self) -> bool:
        """Whether there is no text, no reasoning and no call."""
        ...

    def feed(self, document: dict[str, Any]) -> list[StreamEvent]:
        """Take one document and return what it shows."""
        ...

    def response(self) -> LlmResponse:
        """The complete answer. Unproved, it is what a tolerated end of the stream makes of it."""
        ...

    def partial(self) -> LlmResponse:
        """What arrived of an answer that was not proved; evidence only, its calls are never run."""
        ...


class Wire(Protocol):
    """What one provider's HTTP interface looks like. Implementations hold no state of a call."""

    kind: str
    #: What an answer is called in an error message, e.g. `a chat completion`.
    answer_name: str
    #: The code of an answer that ended before its proof (contract 06 §5).
    unproved_code: str
    default_termination: Termination

    @property
    def secrets(self) -> tuple[str, ...]:
        """Values that no text may hold: keys and whatever they were written into."""
        ...

    def url(self, request: LlmRequest) -> str:
        """Where the request goes, without a key in it."""
        ...

    def headers(self, request: LlmRequest) -> Mapping[str, str]:
        """Headers of this wire, lower case, with its authentication."""
        ...

    def body(self, request: LlmRequest) -> bytes:
        """The request body. Raises `LlmTransportError` (validation or unsupported) for what the wire cannot carry."""
        ...

    def assembler(self, request: LlmRequest, provider_request_id: str | None) -> Assembler:
        """A reader for one answer to `request`."""
        ...

    def failure_in(self, document: dict[str, Any]) -> Any:
        """The error a document of the stream carries (an object or a text), or None."""
        ...


def checked_base_url(base_url: str, *, endings: tuple[str, ...] = ()) -> str:
    """`base_url` without a trailing slash.

    `endings` are the paths the wire adds itself. Raises `ConfigError`
    (`invalid_provider_endpoint`) unless it is an http(s) address with a host
    and without credentials, query or fragment.
    """
    url = base_url.strip().rstrip("/")
    try:
        parts = urlsplit(url)
        is_sound = bool(parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0))
        problem = "" if is_sound else "it must look like https://host/v1"
        if parts.username is not None or parts.password is not None:
            problem = "credentials belong into the key, not into the address"
        elif parts.query or parts.fragment or any(c.isspace() or not c.isprintable() for c in url):
            problem = "it must have no query, fragment or white space"
        else:
            added = next((ending for ending in endings if parts.path.endswith(ending)), None)
            problem = f"leave out {added}; it is added" if added else problem
    except ValueError as error:
        problem = str(error)
    if problem:
        shown = base_url.rpartition("@")[2]
        raise ConfigError(f"base_url {shown!r} is not usable: {problem}", code="invalid_provider_endpoint")
    return url


def checked_key(api_key: str | None) -> str | None:
    """`api_key` without surrounding white space, None when blank; raises `ConfigError` when no header can carry it."""
    key = (api_key or "").strip()
    if not all("!" <= character <= "~" for character in key):
        raise ConfigError("the API key holds characters that cannot be sent; copy it again")
    return key or None


class Access(NamedTuple):
    """Where a provider lives and how it is asked; `headers` of the configuration win over a wire's own.

    `query` goes behind every path (Azure's `api-version`). `key_header` is the
    header that carries the key as it is; without one it is a bearer token.
    """

    base_url: str
    key: str | None = None
    headers: Mapping[str, str] = {}
    query: Mapping[str, str] = {}
    key_header: str | None = None

    @classmethod
    def checked(
        cls,
        base_url: str,
        key: str | None,
        headers: Mapping[str, str] | None = None,
        *,
        query: Mapping[str, str] | None = None,
        key_header: str | None = None,
        endings: tuple[str, ...] = (),
    ) -> Access:
        """Checked and normalised access. Raises `ConfigError`."""
        base_url = checked_base_url(base_url, endings=endings)
        return cls(
            base_url,
            checked_key(key),
            _checked_headers(headers or {}),
            _checked_query(query or {}),
            _checked_key_header(key_header),
        )

    @property
    def secrets(self) -> tuple[str, ...]:
        """The key and the value of every header that looks like one, also behind the word for its scheme, and each as
        an address would hold it."""
        plain = [self.key] if self.key else []
        for name, value in self.headers.items():
            if _SECRET_HEADER.search(name):
                plain += [value, value.partition(" ")[2].strip()]
        return tuple(dict.fromkeys(text for secret in plain if secret for text in (secret, quote(secret, safe=""))))

    @property
    def authentication(self) -> dict[str, str]:
        """The header that carries the key; none without a key."""
        if not self.key:
            return {}
        if self.key_header is None:
            return {"authorization": f"Bearer {self.key}"}
        return {self.key_header: self.key}

    def url(self, path: str, **query: str) -> str:
        """The address of `path`, with the configured query and what the wire itself says there."""
        asked = {**self.query, **query}
        return self.base_url + path + (f"?{urlencode(sorted(asked.items()))}" if asked else "")


def _checked_query(query: Mapping[str, str]) -> Mapping[str, str]:
    """Addresses are logged and traced, so that none may hold a credential; raises `ConfigError`."""
    for name in query:
        if _SECRET_PARAMETER.search(name.lower().replace("_", "-")):
            raise ConfigError(
                f"the query parameter {name!r} looks like a credential; give it as the key or as a header"
            )
    return dict(query)


def _checked_headers(headers: Mapping[str, str]) -> Mapping[str, str]:
    """`headers` by their names in lower case; raises `ConfigError`, which never repeats a value."""
    checked = {}
    for name, value in headers.items():
        lowered = name.strip().lower()
        if not _HEADER_NAME.fullmatch(lowered):
            raise ConfigError(f"{name!r} under headers is not the name of a header")
        if lowered in _FRAMING_HEADERS:
            raise ConfigError(f"the header {name!r} cannot be configured: every request has its own")
        if not _HEADER_VALUE.fullmatch(value.strip()):
            raise ConfigError(f"the value of the header {name!r} holds characters that cannot be sent")
        checked[lowered] = value.strip()
    return checked


def _checked_key_header(name: str | None) -> str | None:
    """`name` in lower case, None for the bearer header; raises `ConfigError` when it is no header name."""
    lowered = (name or "").strip().lower()
    if lowered and not _HEADER_NAME.fullmatch(lowered):
        raise ConfigError(f"key_header {name!r} is not the name of a header")
    return None if lowered in ("", "authorization") else lowered


class HttpProvider:
    """One endpoint behind one wire; implements `core.protocols.Provider`."""

    def __init__(
        self,
        wire: Wire,
        transport: HttpTransport,
        *,
        clock: Clock,
        timeouts: Timeouts | None = None,
        expose_thinking: bool = False,
        termination: Termination | None = None,
        attachments: RequestAttachments | None = None,
        credential_scope: str = "",
    ) -> None:
        """`attachments` is what the wire's encoder asks for bytes. `termination` is the endpoint's word on answers
        without proof; a model's own data wins over it. `credential_scope` names the credential whose uploaded files
        may be referred to."""
        self._wire = wire
        self._transport = transport
        self._clock = clock
        self._timeouts = timeouts or Timeouts()
        self._expose_thinking = expose_thinking
        self._attachments = attachments or RequestAttachments()
        self._credential_scope = credential_scope
        self._termination: Termination = termination or wire.default_termination

    @property
    def kind(self) -> str:
        """The stable id recorded with the session."""
        return self._wire.kind

    @property
    def secrets(self) -> tuple[str, ...]:
        """Values that no text may hold."""
        return self._wire.secrets

    async def complete(self, request: LlmRequest, sink: EventSink) -> LlmResponse:
        """Run one attempt; see `core.protocols.Provider.complete`."""
        wire = self._wire
        # First: what is refused is refused, and what it holds may have to be announced.
        check_own(request, self.kind, self._credential_scope)
        body = await self._attachments.body(wire, request)
        headers = {
            "accept": "text/event-stream, application/json",
            "accept-encoding": "identity",
            "content-type": "application/json",
            "user-agent": "lash",
            **wire.headers(request),
        }
        outgoing = HttpRequest("POST", wire.url(request), headers, body)
        termination = (request.model.capability and request.model.capability.stream_termination) or self._termination
        reader = _AnswerReader(request, wire, termination, sink if self._expose_thinking else _quiet(sink))
        try:
            async with asyncio.timeout(self._timeouts.request) as limit:
                response = await self._transport.send(outgoing, start_timeout=self._timeouts.response_start)
                try:
                    if response.status != 200:
                        raise await self._refusal(response)
                    return await reader.read(response)
                finally:
                    await response.aclose()
        except TimeoutError as error:
            if not limit.expired():
                raise
            if reader.is_proved:
                return reader.conclude()
            raise LlmTransportError(
                f"the call took longer than {self._timeouts.request:g} s",
                kind="timeout",
                code="request_timeout",
                retryable=True,
                protocol_position=reader.position,
                partial=reader.partial(),
            ) from error
        except (asyncio.CancelledError, DeliberateStop):
            # Nothing is returned from here, and yet the attempt cost something: the ledger learns who served it.
            if reader.position != "no_response":
                await sink(EvidenceReported(reader.partial().evidence or ExecutionEvidence()))
            raise
        except LlmTransportError as error:
            error.args = (presentable(error.message, self.secrets),)
            error.message = error.args[0]
            raise

    def attachment_refusal(self, source: AttachmentSource) -> str | None:
        """See `core.protocols.JudgesAttachments`."""
        carried = CARRIED.get(self.kind)
        if carried is None:
            return None
        return carrying_refusal(source, carried, provider=self.kind, credential_scope=self._credential_scope)

    async def aclose(self) -> None:
        """Close the transport."""
        await self._transport.aclose()

    async def _refusal(self, response: HttpResponse) -> LlmTransportError:
        """The error of an answer that is not a 200; a body that cannot be read, or never ends, does not hide the
        status."""
        body = bytearray()
        with contextlib.suppress(TimeoutError, LlmTransportError):
            async with asyncio.timeout(ERROR_BODY_SECONDS):
                async for chunk in response.body:
                    body += chunk
                    if len(body) >= MAX_ERROR_BODY_BYTES:
                        break
        text = bytes(body[:MAX_ERROR_BODY_BYTES]).decode("utf-8", errors="replace")
        verdict = classify_http(
            response.status, response.headers, text, now_ms=self._clock.now_ms(), secrets=self.secrets
        )
        request_id = _request_id(response.headers)
        named = LlmResponse(evidence=ExecutionEvidence(provider_request_id=request_id)) if request_id else None
        return to_exception(verdict, raw=presentable(text, self.secrets), partial=named)


def _request_id(headers: Mapping[str, str]) -> str | None:
    """What the provider calls the request, which is what its support asks for."""
    return next((headers[name] for name in _REQUEST_ID_HEADERS if headers.get(name)), None)


def _quiet(sink: EventSink) -> EventSink:
    """`sink` without reasoning: it is kept in the response but not shown."""

    async def forward(event: StreamEvent) -> None:
        if not isinstance(event, ReasoningDelta):
            await sink(event)

    return forward


class _AnswerReader:
    """Reads the body of one 200 answer, streamed or whole."""

    def __init__(self, request: LlmRequest, wire: Wire, termination: str, sink: EventSink) -> None:
        self._request = request
        self._wire = wire
        self._tolerates_eof = termination == "tolerate_eof"
        self._sink = sink
        self._assembler = wire.assembler(request, None)
        self._has_event = False
        self._is_done = False
        self._unframed = bytearray()
        self.position = "no_response"

    @property
    def is_proved(self) -> bool:
        """Whether the provider said that its answer is complete; what fails after that does not matter."""
        return self._assembler.is_proved

    def partial(self) -> LlmResponse:
        """What arrived so far."""
        return self._assembler.partial()

    async def read(self, response: HttpResponse) -> LlmResponse:
        """The proved answer; raises `LlmTransportError` with the partial one otherwise."""
        self.position = "response_observed"
        headers = response.headers
        self._assembler = self._wire.assembler(self._request, _request_id(headers))
        decoder = SseDecoder()
        try:
            async for chunk in response.body:
                await self._take_chunk(chunk, decoder)
                if self._is_done:
                    await _drain(response.body)
                    break
        except LlmTransportError as error:
            if error.kind not in ("transport", "timeout"):
                raise
            await self._take_tail(decoder)
            if not self.is_proved:
                error.partial = self.partial()
                error.protocol_position = self.position
                raise
        else:
            await self._take_tail(decoder)
        if not self._has_event:
            await self._take_whole(headers)
        return self.conclude()

    async def _take_tail(self, decoder: SseDecoder) -> None:
        """The event left open at the end; when it was cut in the middle, the missing proof says it better."""
        try:
            await self._take_events(decoder.flush())
        except LlmTransportError as error:
            if error.code != "invalid_sse_json":
                raise

    async def _take_chunk(self, chunk: bytes, decoder: SseDecoder) -> None:
        if not self._has_event and len(self._unframed) < MAX_WHOLE_ANSWER_BYTES:
            self._unframed += chunk
        await self._take_events(decoder.feed(chunk))

    async def _take_events(self, events: list[str]) -> None:
        for data in events:
            text = data.strip()
            if not text or self._is_done:
                continue
            self._has_event = True
            self._unframed.clear()
            if text == DONE:
                self._is_done = True
                continue
            await self._take_json(text, "invalid_sse_json", "the stream holds an event that is not JSON")
            self._is_done = self._assembler.is_finished

    async def _take_json(self, text: str | bytes, code: str, problem: str) -> None:
        """Feed one JSON document: a chunk, a whole answer or an error."""
        try:
            document = decode_json(text)
        except msgspec.DecodeError as error:
            raise self._stream_error(code, f"{problem}: {error}") from error
        if not isinstance(document, dict):
            raise self._stream_error(code, f"{problem}: expected an object")
        failure = self._wire.failure_in(document)
        if failure:
            self._assembler.feed(document)  # ids and usage beside the error are evidence of the failed attempt
            verdict = classify_error_object(failure, secrets=self._wire.secrets)
            raise to_exception(verdict, protocol_position=self.position, partial=self.partial())
        for event in self._assembler.feed(document):
            if self.position != OUTPUT_STARTED and (
                isinstance(event, ReasoningDelta | TextDelta) or not self._assembler.is_empty
            ):
                self.position = OUTPUT_STARTED
            await self._sink(event)

    async def _take_whole(self, headers: Mapping[str, str]) -> None:
        """A body without events: an answer to a request that did not stream, or not our wire at all."""
        body = bytes(self._unframed).strip().removeprefix(b"\xef\xbb\xbf")
        if body.startswith(b"{"):
            await self._take_json(body, "invalid_json", "the answer is not valid JSON")
            return
        media_type = headers.get("content-type", "no content type").partition(";")[0]
        is_page = body.startswith(b"<")
        if not body or (media_type == "text/event-stream" and not is_page):
            return  # a stream that broke before its first event: the missing proof says so
        what = "an HTML page" if is_page else f"{media_type} that is neither an event stream nor JSON"
        raise LlmTransportError(
            f"the endpoint answered with {what} instead of {self._wire.answer_name}; check base_url",
            kind="http",
            code="unexpected_html" if is_page else "unexpected_content_type",
            status=200,
            protocol_position=self.position,
            partial=self.partial(),
            raw=presentable(body[:400].decode("utf-8", errors="replace"), self._wire.secrets),
        )

    def conclude(self) -> LlmResponse:
        """The answer; raises `LlmTransportError` when it is unproved, or empty where it must not be."""
        response = self._assembler.response() if self.is_proved else self._tolerated()
        is_plain_end = response.terminal_reason in (TerminalReason.STOP, TerminalReason.TOOL_USE)
        if self._assembler.is_empty and is_plain_end and not _answers_tool_results(self._request):
            raise self._stream_error("empty_response", "the provider returned an empty answer")
        return response

    def _tolerated(self) -> LlmResponse:
        """An unproved answer where the end of the stream may stand for its proof, unless it was cut inside a call."""
        response = self._assembler.response() if self._tolerates_eof and not self._assembler.is_empty else None
        if response is None or not all(_is_whole(call) for call in response.tool_calls):
            raise self._stream_error(
                self._wire.unproved_code, "the answer ended before the provider said it was complete"
            )
        return response

    def _stream_error(self, code: str, message: str) -> LlmTransportError:
        return LlmTransportError(
            message,
            kind="stream",
            code=code,
            retryable=True,
            protocol_position=self.position,
            partial=self.partial(),
        )


def _is_whole(call: ToolCallPart) -> bool:
    """Whether the arguments of a call are complete JSON."""
    try:
        decode_json(call.input_json)
    except msgspec.DecodeError:
        return False
    return True


def _answers_tool_results(request: LlmRequest) -> bool:
    """Whether the conversation ends with tool results: then nothing more to say is an answer."""
    messages = request.messages
    return bool(messages) and any(isinstance(part, ToolResultPart) for part in messages[-1].parts)


async def _drain(body: AsyncIterator[bytes]) -> None:
    """Read the end of a finished body, so that its connection can be used again; give up soon."""
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            async for _ in body:
                pass
    except (TimeoutError, LlmTransportError):
        pass
