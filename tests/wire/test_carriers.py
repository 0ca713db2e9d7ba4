"""However HTTP carries an answer it is the same, and a call that is given up leaves nothing open (contract 06 §11)."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import zlib
from collections.abc import AsyncIterator, Callable

import pytest
from support import anthropic, gemini, responses
from support.clock import ManualCancel, ManualClock
from support.sent import HTTP_KINDS, request, user
from support.wire import text_reply

from lash_cli.core.protocols import EventSink, ModelCaller
from lash_cli.providers.catalog import ProviderSettings, build_caller

pytestmark = pytest.mark.usefixtures("no_proxy")

BODIES = {
    "anthropic": anthropic.text_reply("hello").body,
    "google": gemini.streamed(gemini.document(gemini.text("hello"), finish="STOP")).body,
    "openai_chat": text_reply("hello").body,
    "openai_responses": responses.Answer(responses.message("hello")).streamed().body,
}
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"


def sized(body: bytes, *headers: bytes) -> bytes:
    return (
        HEAD + b"".join(header + b"\r\n" for header in (*headers, b"content-length: %d" % len(body))) + b"\r\n" + body
    )


def chunked(body: bytes, extension: bytes = b"", trailer: bytes = b"") -> bytes:
    chunks = (body[at : at + 7] for at in range(0, len(body), 7))
    framed = b"".join(b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
    return HEAD + b"transfer-encoding: chunked\r\n\r\n" + framed + b"0\r\n" + trailer + b"\r\n"


def raw_deflate(body: bytes) -> bytes:
    press = zlib.compressobj(wbits=-15)
    return press.compress(body) + press.flush()


CARRIERS: dict[str, Callable[[bytes], bytes]] = {
    "a length": sized,
    "no reason": lambda body: sized(body).replace(b" OK", b"", 1),
    "line feeds alone": lambda body: sized(body).replace(b"\r\n", b"\n", 4),
    "chunks": chunked,
    "chunks with extensions": lambda body: chunked(body, extension=b";name=value"),
    "chunks with a trailer": lambda body: chunked(body, trailer=b"x-checksum: 1\r\n"),
    "HTTP/1.0": lambda body: HEAD.replace(b"1.1", b"1.0") + b"\r\n" + body,
    "early hints": lambda body: b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" * 3 + sized(body),
    "a continue": lambda body: b"HTTP/1.1 100 Continue\r\n\r\n" + sized(body),
    "gzip": lambda body: sized(gzip.compress(body), b"content-encoding: gzip"),
    "gzip twice": lambda body: sized(gzip.compress(gzip.compress(body)), b"content-encoding: gzip, gzip"),
    "deflate": lambda body: sized(zlib.compress(body), b"content-encoding: deflate"),
    "deflate without a head": lambda body: sized(raw_deflate(body), b"content-encoding: deflate"),
    "a byte order mark": lambda body: sized(b"\xef\xbb\xbf" + body),
    "carriage returns": lambda body: sized(body.replace(b"\n", b"\r")),
    "both line ends": lambda body: sized(body.replace(b"\n", b"\r\n")),
}


class Server:
    """Writes the same bytes for every request of a connection, and knows which connections are open."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.address = ""
        self._open: set[asyncio.Task[None]] = set()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(asyncio.create_task(self._serve(reader, writer)))

    async def is_left(self) -> None:
        """Wait until whoever is connected has closed its end."""
        async with asyncio.timeout(10):
            while self._open:
                _, self._open = await asyncio.wait(self._open)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
                await reader.readexactly(int(length.partition(b":")[2]))
                writer.write(self.answer)
                await writer.drain()
                if self.answer.startswith(b"HTTP/1.0"):
                    break
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def serving(answer: bytes) -> AsyncIterator[Server]:
    server = Server(answer)
    async with await asyncio.start_server(server.accept, "127.0.0.1", 0) as listening:
        server.address = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        yield server
        await server.is_left()


def caller_of(kind: str, address: str) -> ModelCaller:
    options = {"max_attempts": 1, "max_concurrent_requests": 1}
    return build_caller(ProviderSettings("p", kind, address, None, options), clock=ManualClock(), ids_bits=lambda _: 0)


async def _nothing(event: object) -> None: ...


_ignored: EventSink = _nothing


@pytest.mark.parametrize("kind", HTTP_KINDS)
async def test_an_answer_is_the_same_however_http_carries_it_and_so_is_the_next(kind: str) -> None:
    for how, carried in CARRIERS.items():
        async with serving(carried(BODIES[kind])) as server:
            caller = caller_of(kind, server.address)
            for _ in range(2):
                result = await caller.call(request(user("hi")), sink=_ignored, cancel=ManualCancel())
                assert result.response is not None, (how, result.error)
                assert result.response.full_text == "hello", how
            await caller.aclose()


@pytest.mark.parametrize("how", ["signal", "task"])
async def test_a_call_that_is_given_up_at_any_moment_leaves_nothing_open_and_the_next_one_works(how: str) -> None:
    outcomes = set()
    async with serving(chunked(BODIES["openai_chat"])) as server:
        for moments in range(60):
            caller, cancel = caller_of("openai_chat", server.address), ManualCancel()
            calling = asyncio.ensure_future(caller.call(request(user("hi")), sink=_ignored, cancel=cancel))
            for _ in range(moments):
                await asyncio.sleep(0)
            if how == "signal":
                cancel.set()
            else:
                calling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await calling
            outcomes.add("cancelled" if calling.cancelled() else (calling.result().error and "failed") or "answered")
            following = await caller.call(request(user("hi")), sink=_ignored, cancel=ManualCancel())
            assert following.response is not None, (moments, following.error)
            await caller.aclose()
            await server.is_left()
    assert outcomes == {"answered", "failed" if how == "signal" else "cancelled"}
