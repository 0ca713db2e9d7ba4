"""Reading the body of one answer, streamed or whole, up to its proof (contract 06 §5, §9).

An answer counts only with the wire's terminal proof, unless the end of the
stream is accepted in its place by data of the model or the endpoint. What had
arrived of one that failed goes with the error as evidence.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from lash_cli.core.codec import decode_json, encode
from lash_cli.core.content import ToolCallPart, ToolResultPart
from lash_cli.core.llm import LlmRequest, LlmResponse, ReasoningDelta, TerminalReason, TextDelta
from lash_cli.core.protocols import EventSink
from lash_cli.core.redaction import kept_raw
from lash_cli.errors import LlmTransportError
from lash_cli.providers.classify import classify_error_object, described_body, presentable, to_exception
from lash_cli.providers.http import HttpResponse
from lash_cli.providers.sse import SseDecoder

if TYPE_CHECKING:
    from lash_cli.providers.wire import Termination, Wire

MAX_WHOLE_ANSWER_BYTES = 32 * 1024 * 1024
#: What is read of one answer, events and all: a stream names a token in some 400 bytes, and the longest answers that
#: models give today have 128 000. One that goes on behind that would fill the memory.
MAX_ANSWER_BYTES = 128 * 1024 * 1024
#: What is looked at of a body that is not our wire: far more than is kept, so that no secret is cut unrecognised.
QUOTED_BYTES = 64 * 1024
DRAIN_SECONDS = 0.05
DONE = "[DONE]"
OUTPUT_STARTED = "output_started"
#: What the HTTP library always takes off itself.
_ENCODINGS = ("", "identity", "gzip", "deflate")
_REQUEST_ID_HEADERS = ("x-request-id", "request-id")
#: How answers end that may well come when they are asked for again: of models whose call the provider could not read
#: (Gemini, also behind the Chat Completions of others), and of servers that were short of something (vLLM, DeepSeek).
_GIVEN_UP = re.compile(
    "(?:.*[^A-Z_])?(?:MALFORMED_FUNCTION_CALL|UNEXPECTED_TOOL_CALL)|abort|error|insufficient_system_resource"
)
#: The escape of the first half of a pair at the end of a JSON string, behind any number of escaped backslashes.
_FIRST_HALF = re.compile(r'(?<!\\)((?:\\\\)*)(\\u[dD][89abAB][0-9a-fA-F]{2})(?=")')
_SECOND_HALF = re.compile(r'"(\\u[dD][c-fC-F][0-9a-fA-F]{2})')


def request_id_of(headers: Mapping[str, str]) -> str | None:
    """What the provider calls the request, which is what its support asks for."""
    return next((headers[name] for name in _REQUEST_ID_HEADERS if headers.get(name)), None)


class AnswerReader:
    """Reads the body of one 200 answer, streamed or whole."""

    def __init__(self, request: LlmRequest, wire: Wire[Any], termination: Termination, sink: EventSink) -> None:
        self._request = request
        self._wire = wire
        self._tolerates_eof = termination == "tolerate_eof"
        self._sink = sink
        self._assembler = wire.assembler(request, None)
        self._decoder = SseDecoder()
        self._has_event = False
        self._is_behind = False
        self._is_done = False
        self._unframed = bytearray()
        self._size = 0
        self._characters = _CutCharacters()
        self._last: str | bytes = b""
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
        self._assembler = self._wire.assembler(self._request, request_id_of(headers))
        try:
            async for chunk in response.body:
                await self._take_chunk(chunk)
                if self._is_done:
                    await _drain(response.body)
                    break
        except LlmTransportError as error:
            if error.partial is not None:
                raise
            if error.kind != "stream":  # what is too large has no end that could be read
                await self.take_tail()
            if not self.is_proved:
                error.partial = self.partial()
                error.protocol_position = self.position
                raise
        else:
            await self.take_tail()
        if not self._has_event:
            await self._take_whole(headers)
        return self.conclude()

    async def take_tail(self) -> None:
        """Take the event left open at the end; when it was cut in the middle, the missing proof says it better.

        Not where one before it was left, as by a time-out while the sink had it: a proof behind a gap proves nothing.
        """
        if self._is_behind:
            return
        try:
            await self._take_events(self._decoder.flush())
        except LlmTransportError as error:
            if error.code != "invalid_sse_json":
                raise
            self._tolerates_eof = False  # more was to come

    async def _take_chunk(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if self._size > MAX_ANSWER_BYTES:
            raise _too_large()
        if not self._has_event and len(self._unframed) < MAX_WHOLE_ANSWER_BYTES:
            self._unframed += chunk
        await self._take_events(self._decoder.feed(chunk))

    async def _take_events(self, events: list[str]) -> None:
        self._is_behind = True
        for data in events:
            text = data.strip()
            if not text or self._is_done:
                continue
            self._has_event = True
            self._unframed.clear()
            if text == DONE:
                self._is_done = True
                continue
            if self.is_proved and not text.startswith("{"):
                continue  # no half of a document, but another server's way to say the same
            await self._take_json(text, "invalid_sse_json", "the stream holds an event that is not JSON")
            self._is_done = self._assembler.is_finished
        self._is_behind = False

    async def _take_json(self, text: str | bytes, code: str, problem: str) -> None:
        """Feed one JSON document: a chunk, a whole answer or an error."""
        try:
            document = self._characters.decoded(text)
        except msgspec.DecodeError as error:
            # Half an object is half an answer; anything else is what a server says in words.
            said = str(error)
            if isinstance(text, str) and not text.startswith("{"):
                said = described_body(text[:QUOTED_BYTES], self._wire.secrets)
            raise self._stream_error(code, f"{problem}: {said}") from error
        self._last = text
        if not isinstance(document, dict):
            raise self._stream_error(code, f"{problem}: expected an object")
        failure = self._wire.failure_in(document)
        if failure:
            self._assembler.feed(document)  # ids and usage beside the error are evidence of the failed attempt
            verdict = classify_error_object(failure, secrets=self._wire.secrets)
            said = failure if isinstance(failure, str) else encode(failure).decode()
            raw = kept_raw(said, verdict.message, self._wire.secrets)
            raise to_exception(verdict, protocol_position=self.position, partial=self.partial(), raw=raw)
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
        encoding = headers.get("content-encoding", "identity").strip().lower()
        if body and encoding not in _ENCODINGS:
            raise LlmTransportError(
                f"the endpoint compressed its answer ({encoding}), which was not asked for and cannot be read",
                kind="http",
                code="unexpected_content_encoding",
                status=200,
                protocol_position=self.position,
                partial=self.partial(),
            )
        if not body or (media_type == "text/event-stream" and not is_page):
            return  # a stream that broke before its first event: the missing proof says so
        what = "an HTML page" if is_page else f"{media_type} that is neither an event stream nor one JSON object"
        raise LlmTransportError(
            f"the endpoint answered with {what} instead of {self._wire.answer_name}; check base_url",
            kind="http",
            code="unexpected_html" if is_page else "unexpected_content_type",
            status=200,
            protocol_position=self.position,
            partial=self.partial(),
            raw=presentable(body[:QUOTED_BYTES].decode("utf-8", errors="replace"), self._wire.secrets),
        )

    def conclude(self) -> LlmResponse:
        """The answer; raises `LlmTransportError` when it is unproved, or empty where it must not be."""
        response = self._assembler.response() if self.is_proved else self._tolerated()
        is_plain_end = response.terminal_reason in (TerminalReason.STOP, TerminalReason.TOOL_USE)
        if self._assembler.is_empty and is_plain_end and not _answers_tool_results(self._request):
            raise self._stream_error("empty_response", "the provider returned an empty answer")
        if response.terminal_reason is TerminalReason.PROVIDER_ERROR:
            ended = response.evidence.provider_finish_reason if response.evidence is not None else None
            if ended is not None and _GIVEN_UP.fullmatch(ended):
                raise self._stream_error("answer_given_up", response.terminal_diagnostic or ended)
        return response

    def _tolerated(self) -> LlmResponse:
        """An unproved answer where the end of the stream may stand for its proof, unless it was cut inside a call or
        before the first word."""
        response = self._assembler.response() if self._tolerates_eof and not self._assembler.is_empty else None
        if response is None or _is_wordless(response) or not all(_is_whole(call) for call in response.tool_calls):
            raise self._stream_error(
                self._wire.unproved_code,
                f"the answer ended before the provider said it was complete{self._last_word()}",
            )
        return response

    def _last_word(self) -> str:
        """What the server said in the place of an answer: some have words of their own for an error, under status
        200."""
        last = self._last[:QUOTED_BYTES]
        if not last or not self._assembler.is_empty:
            return ""
        text = last.decode("utf-8", errors="replace") if isinstance(last, bytes) else last
        return f"; the last it said was {described_body(text, self._wire.secrets)}"

    def _stream_error(self, code: str, message: str) -> LlmTransportError:
        return LlmTransportError(
            message,
            kind="stream",
            code=code,
            retryable=True,
            protocol_position=self.position,
            partial=self.partial(),
        )


def _too_large() -> LlmTransportError:
    """Not to be asked for again: it would only come to the same once more."""
    return LlmTransportError(
        f"the answer went on for more than {MAX_ANSWER_BYTES} bytes", kind="stream", code="answer_too_large"
    )


class _CutCharacters:
    """Reads events whose server cut a character in two: it counts in UTF-16, where an emoji is a pair.

    The first half ends the text of one event and the second begins the text of
    a later one. Neither is text on its own, so the first waits for the second.
    """

    def __init__(self) -> None:
        self._half = ""

    def decoded(self, text: str | bytes) -> Any:
        """The document in `text`; raises `msgspec.DecodeError`."""
        try:
            return decode_json(text)
        except msgspec.DecodeError:
            if isinstance(text, bytes):
                raise
            half = self._half
            whole = _SECOND_HALF.sub(lambda found: f'"{half}{found[1]}', text, count=1) if half else text
            cut = _FIRST_HALF.search(whole)
            if cut is not None:
                whole = whole[: cut.start(2)] + whole[cut.end(2) :]
            if whole == text:
                raise
            document = decode_json(whole)
            self._half = cut[2] if cut is not None else ""
            return document


def _is_wordless(response: LlmResponse) -> bool:
    """Whether there is nothing but thoughts, and the blank lines that many a model sends behind those."""
    return bool(response.parts) and not response.tool_calls and not response.full_text.strip()


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
