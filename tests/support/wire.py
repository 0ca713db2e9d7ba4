"""A chat-completions endpoint on 127.0.0.1 that writes exactly the bytes a test scripted.

`ChatServer` runs inside the test's event loop, `ThreadedChatServer` in a thread
for tests that start processes. Both answer one scripted `Reply` per request,
in order, and record what they were asked. `ScriptedTransport` plays the same
replies without a socket, for tests that need every chunk border exact.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
import struct
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from lash_cli.errors import LlmTransportError
from lash_cli.providers.http import HttpRequest, HttpResponse

Ending = Literal["complete", "reset", "half_close", "hang"]
Framing = Literal["chunked", "close"]
STREAM_HEADERS = {"content-type": "text/event-stream", "x-request-id": "req_test"}
JSON_HEADERS = {"content-type": "application/json", "x-request-id": "req_test"}
_REASONS = {200: "OK", 302: "Found", 400: "Bad Request", 401: "Unauthorized", 429: "Too Many Requests"}


@dataclass(frozen=True)
class Reply:
    """One scripted answer.

    `ending` is what happens after the last chunk: `complete` ends the message
    properly, `half_close` ends the connection without ending the message,
    `reset` sends RST, `hang` goes silent. `framing="close"` sends no length at
    all, so that the end of the connection is the end of the body.
    `answers=False` never sends even the status line.
    """

    chunks: tuple[bytes, ...] = ()
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: dict(STREAM_HEADERS))
    ending: Ending = "complete"
    framing: Framing = "chunked"
    delay_seconds: float = 0.0
    answers: bool = True

    @property
    def body(self) -> bytes:
        """All chunks in one."""
        return b"".join(self.chunks)

    def split_at(self, *positions: int) -> Reply:
        """The same bytes cut at these positions only."""
        body, edges = self.body, [0, *positions, len(self.body)]
        pieces = (body[start:end] for start, end in itertools.pairwise(edges))
        return replace(self, chunks=tuple(piece for piece in pieces if piece))

    def dripping(self, delay_seconds: float = 0.0) -> Reply:
        """The same bytes one by one."""
        return replace(self.split_at(*range(1, len(self.body))), delay_seconds=delay_seconds)


def sse(*documents: Any, done: bool = True, line_end: str = "\n") -> bytes:
    """Documents framed as events; strings go out as they are."""
    events = [document if isinstance(document, str) else json.dumps(document) for document in documents]
    if done:
        events.append("[DONE]")
    return "".join(f"data: {event}{line_end}{line_end}" for event in events).encode()


def chunk(
    delta: dict[str, Any] | None = None, finish_reason: str | None = None, *, usage: dict[str, Any] | None = None
) -> dict[str, Any]:
    """One `chat.completion.chunk`; without a delta and a finish reason it has no choices."""
    document: dict[str, Any] = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "served-model"}
    document["choices"] = []
    if delta is not None or finish_reason is not None:
        document["choices"] = [{"index": 0, "delta": delta or {}, "finish_reason": finish_reason}]
    if usage is not None:
        document["usage"] = usage
    return document


def usage_of(prompt: int = 10, completion: int = 5, **more: Any) -> dict[str, Any]:
    """An OpenAI usage object."""
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion, **more}


def stream_reply(
    *documents: Any, done: bool = True, ending: Ending = "complete", framing: Framing = "chunked"
) -> Reply:
    """A 200 event stream with one network chunk per event."""
    chunks = [sse(document, done=False) for document in documents]
    if done:
        chunks.append(sse(done=True))
    return Reply(tuple(chunks), ending=ending, framing=framing)


def text_reply(text: str, *, usage: dict[str, Any] | None = None, finish_reason: str = "stop", words: int = 1) -> Reply:
    """An answer of `text`, streamed `words` words at a time."""
    pieces = text.split(" ")
    pieces = [f"{piece} " for piece in pieces[:-1]] + pieces[-1:]
    groups = ["".join(pieces[i : i + words]) for i in range(0, len(pieces), words)]
    return stream_reply(
        chunk({"role": "assistant", "content": ""}),
        *(chunk({"content": group}) for group in groups if group),
        chunk(finish_reason=finish_reason),
        chunk(usage=usage or usage_of()),
    )


def thoughts_reply(*thoughts: str, text: str = "") -> Reply:
    """An answer that was thought about and says no more than `text`."""
    return stream_reply(
        chunk({"role": "assistant", "content": ""}),
        *(chunk({"reasoning_content": thought}) for thought in thoughts),
        *([chunk({"content": text})] if text else []),
        chunk(finish_reason="stop"),
        chunk(usage=usage_of()),
    )


def tool_calls_reply(
    calls: Sequence[tuple[str, dict[str, Any] | str] | tuple[str, dict[str, Any] | str, str]],
    *,
    text: str = "",
    usage: dict[str, Any] | None = None,
) -> Reply:
    """An answer of tool calls `(name, arguments[, id])`, the argument text cut into two deltas per call."""
    documents = [chunk({"role": "assistant", "content": text or None})]
    for index, (name, arguments, *identity) in enumerate(calls):
        raw = arguments if isinstance(arguments, str) else json.dumps(arguments)
        head = {"index": index, "id": identity[0] if identity else f"call_{index}", "type": "function"}
        documents.append(chunk({"tool_calls": [{**head, "function": {"name": name, "arguments": ""}}]}))
        for piece in (raw[: len(raw) // 2], raw[len(raw) // 2 :]):
            documents.append(chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]}))
    return stream_reply(*documents, chunk(finish_reason="tool_calls"), chunk(usage=usage or usage_of()))


def cut_reply(text: str = "half an ans", *, ending: Ending = "reset", framing: Framing = "chunked") -> Reply:
    """A stream that shows `text` and breaks off without a finish reason.

    `ending="complete"` with `framing="close"` is the silent case: the
    connection simply ends.
    """
    return stream_reply(chunk({"role": "assistant", "content": text}), done=False, ending=ending, framing=framing)


def json_reply(document: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Reply:
    """A whole JSON body."""
    return Reply((json.dumps(document).encode(),), status, JSON_HEADERS | (headers or {}))


def error_reply(status: int, body: Any = None, headers: dict[str, str] | None = None) -> Reply:
    """A failure with an OpenAI error body, or with `body` as text or JSON."""
    if body is None:
        body = {"error": {"message": f"scripted failure {status}", "type": None, "code": None}}
    if isinstance(body, str):
        return Reply((body.encode(),), status, {"content-type": "text/plain"} | (headers or {}))
    return json_reply(body, status=status, headers=headers)


def html_reply(status: int = 200, title: str = "Welcome") -> Reply:
    """A web page where an API was expected."""
    page = f"<!doctype html><html><head><title>{title}</title></head><body>hello</body></html>"
    return Reply((page.encode(),), status, {"content-type": "text/html; charset=utf-8"})


def hang_reply(text: str | None = None) -> Reply:
    """Silence: before the status line, or, with `text`, after having shown it."""
    if text is None:
        return Reply(answers=False, ending="hang")
    return stream_reply(chunk({"content": text}), done=False, ending="hang")


@dataclass(frozen=True)
class RecordedRequest:
    """What the server was asked. Header names are lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The decoded body."""
        return json.loads(self.body)


Default = Reply | Callable[[RecordedRequest], Reply]


class ChatServer:
    """Scripted replies on a real socket; use as `async with ChatServer([...]) as server`.

    `requests` grows as requests arrive. When the script is used up, `default`
    answers, a reply or a function of the request; without one the server
    answers 500 and says why.
    """

    def __init__(self, replies: Iterable[Reply] = (), *, default: Default | None = None) -> None:
        self.replies = list(replies)
        self.default = default or error_reply(500, "no reply scripted for this request")
        self.requests: list[RecordedRequest] = []
        self.connections = 0
        self.base_url = ""
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._arrived = asyncio.Condition()

    def script(self, *replies: Reply) -> None:
        """Add replies to the end of the script."""
        self.replies.extend(replies)

    async def __aenter__(self) -> ChatServer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self.base_url = f"http://{host}:{port}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def wait_for_requests(self, count: int) -> None:
        """Return once `count` requests have arrived."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: len(self.requests) >= count)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            while (request := await _read_request(reader)) is not None:
                default = self.default
                reply = self.replies.pop(0) if self.replies else default(request) if callable(default) else default
                async with self._arrived:
                    self.requests.append(request)
                    self._arrived.notify_all()
                if not await _write_reply(writer, reply):
                    break
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()


async def _read_request(reader: asyncio.StreamReader) -> RecordedRequest | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    first, *lines = head.rstrip("\r\n").split("\r\n")
    method, path, _ = first.split(" ", 2)
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return RecordedRequest(method, path, headers, body)


async def _write_reply(writer: asyncio.StreamWriter, reply: Reply) -> bool:
    """Write one reply; whether the connection can serve another request."""
    if not reply.answers:
        await asyncio.Event().wait()
    framing = {"transfer-encoding": "chunked"} if reply.framing == "chunked" else {"connection": "close"}
    lines = [f"HTTP/1.1 {reply.status} {_REASONS.get(reply.status, 'Status')}"]
    lines += [f"{name}: {value}" for name, value in (reply.headers | framing).items()]
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
    for piece in reply.chunks:
        writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if reply.framing == "chunked" else piece)
        await writer.drain()
        if reply.delay_seconds or len(reply.chunks) > 1:
            await asyncio.sleep(reply.delay_seconds)
    match reply.ending:
        case "hang":
            await asyncio.Event().wait()
        case "reset":
            # The peer must have read what was sent, or RST discards it: wait for its ACK by a short pause.
            await asyncio.sleep(0.05)
            connection = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            return False
        case "half_close":
            return False
        case "complete" if reply.framing == "chunked":
            writer.write(b"0\r\n\r\n")
            await writer.drain()
            return True
    return False


class ThreadedChatServer:
    """A `ChatServer` in a thread of its own; use as `with ThreadedChatServer([...]) as server`.

    `script` and `requests` may be used from the test's thread at any time.
    """

    def __init__(self, replies: Iterable[Reply] = (), *, default: Default | None = None) -> None:
        self._server = ChatServer(replies, default=default)
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None

    @property
    def base_url(self) -> str:
        """The address to configure, ending in `/v1`."""
        return self._server.base_url

    @property
    def requests(self) -> list[RecordedRequest]:
        """What was asked so far."""
        return list(self._server.requests)

    @property
    def connections(self) -> int:
        """How many were made so far."""
        return self._server.connections

    @property
    def default(self) -> Default:
        """What answers when the script is used up; may be set at any time."""
        return self._server.default

    @default.setter
    def default(self, default: Default) -> None:
        self._server.default = default

    def script(self, *replies: Reply) -> None:
        """Add replies to the end of the script."""
        self._server.script(*replies)

    def wait_for_requests(self, count: int, timeout: float = 30.0) -> None:
        """Block until `count` requests have arrived; raises `TimeoutError`."""
        assert self._loop is not None
        waiting = asyncio.run_coroutine_threadsafe(self._server.wait_for_requests(count), self._loop)
        try:
            waiting.result(timeout)
        except TimeoutError:
            waiting.cancel()
            raise

    def __enter__(self) -> ThreadedChatServer:
        self._thread.start()
        assert self._started.wait(30), "the scripted server did not start"
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop is not None and self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        async with self._server:
            self._started.set()
            await self._stop.wait()


def chat_provider(server: ThreadedChatServer) -> dict[str, str]:
    """The environment of a command that makes the server its provider `chat`, and `m-1` its model."""
    return {
        "LASH_CFG__providers__chat__kind": "openai_chat",
        "LASH_CFG__providers__chat__base_url": server.base_url,
        "LASH_CFG__defaults__provider": "chat",
        "LASH_CFG__defaults__model": "m-1",
    }


class ScriptedTransport:
    """An `HttpTransport` that plays replies from memory with exact chunk borders. Records requests."""

    def __init__(self, *replies: Reply | LlmTransportError) -> None:
        self.replies: list[Reply | LlmTransportError] = list(replies)
        self.requests: list[HttpRequest] = []

    async def send(self, request: HttpRequest, *, start_timeout: float | None) -> HttpResponse:
        """Play the next reply, or raise it when it is an error."""
        self.requests.append(request)
        reply = self.replies.pop(0)
        if isinstance(reply, LlmTransportError):
            raise reply
        return HttpResponse(reply.status, reply.headers, _play(reply), _nothing)

    async def aclose(self) -> None:
        """Nothing is open."""


async def _nothing() -> None:
    return None


async def _play(reply: Reply) -> AsyncIterator[bytes]:
    for piece in reply.chunks:
        yield piece
    if reply.ending == "hang":
        await asyncio.Event().wait()
    if reply.ending != "complete":
        raise LlmTransportError(
            "the connection to the provider failed: scripted", kind="transport", code="read_error", retryable=True
        )
