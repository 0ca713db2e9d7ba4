"""What one streamed token costs in our code, beside the official SDKs' parsers on the same bytes.

    pip install openai anthropic        # the peers; whichever is missing is left out
    python tests/bench/tokens.py [--pieces N] [--rounds N]

An answer comes from memory, one chunk for each event, with a pass of the event
loop between them; there is no socket, so that nobody's HTTP library is
measured. Ours is a whole turn through the public API: bytes parsed, pieces
shown to the caller, written to the live log and committed. An SDK only hands
its events to a loop that does nothing. A figure is processor time per piece:
that of a long answer less that of an answer of one piece, so that connecting,
committing and importing do not count. Read the ratio.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from measuring import emit, note, user_text

from lash_cli.providers.http import HttpRequest, HttpResponse

ADDRESS = "http://memory.invalid"
KEY = "sk-bench"
MODEL = "served-model"


def _sse(document: dict[str, object], *, named: bool = False) -> bytes:
    head = f"event: {document['type']}\n" if named else ""
    return f"{head}data: {json.dumps(document)}\n\n".encode()


def chat_events(pieces: int) -> list[bytes]:
    def chunk(delta: dict[str, object], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": MODEL}
        return _sse({**head, "system_fingerprint": "fp", "choices": [choice]})

    usage = {"prompt_tokens": 10, "completion_tokens": pieces, "total_tokens": 10 + pieces}
    last = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": MODEL}
    return [
        chunk({"role": "assistant", "content": ""}),
        *(chunk({"content": f"token {index} "}) for index in range(pieces)),
        chunk({}, "stop"),
        _sse({**last, "choices": [], "usage": usage}),
        b"data: [DONE]\n\n",
    ]


def responses_events(pieces: int) -> list[bytes]:
    item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
    where = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    text = "".join(f"token {index} " for index in range(pieces))
    whole = {**item, "status": "completed", "content": [{"type": "output_text", "text": text, "annotations": []}]}
    response = {"id": "resp_1", "object": "response", "created_at": 1, "model": MODEL, "status": "in_progress",
                "output": [], "parallel_tool_calls": True, "tool_choice": "auto", "tools": []}  # fmt: skip
    usage = {"input_tokens": 10, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": pieces,
             "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 10 + pieces}  # fmt: skip
    events: list[dict[str, object]] = [
        {"type": "response.created", "response": response},
        {"type": "response.output_item.added", "output_index": 0, "item": item},
    ]
    for index in range(pieces):
        events.append({"type": "response.output_text.delta", **where, "delta": f"token {index} ", "logprobs": []})
    events += [
        {"type": "response.output_item.done", "output_index": 0, "item": whole},
        {"type": "response.completed",
         "response": {**response, "status": "completed", "output": [whole], "usage": usage}},
    ]  # fmt: skip
    return [_sse({**event, "sequence_number": number}, named=True) for number, event in enumerate(events)]


def anthropic_events(pieces: int) -> list[bytes]:
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": MODEL, "content": [],
               "stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": 10}}  # fmt: skip
    events: list[dict[str, object]] = [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    ]
    for index in range(pieces):
        delta = {"type": "text_delta", "text": f"token {index} "}
        events.append({"type": "content_block_delta", "index": 0, "delta": delta})
    events += [
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None},
         "usage": {"output_tokens": pieces}},
        {"type": "message_stop"},
    ]  # fmt: skip
    return [_sse(event, named=True) for event in events]


EVENTS = {"openai_chat": chat_events, "openai_responses": responses_events, "anthropic": anthropic_events}


def prompt(pieces: int) -> str:
    return f"pieces={pieces}; {user_text(0)}"


def asked_for(body: bytes) -> int:
    """How many pieces the last prompt of a request wants."""
    return int(body.rpartition(b"pieces=")[2].partition(b";")[0])


@functools.cache
def encoded(kind: str, pieces: int) -> list[bytes]:
    """The events of an answer, written once so that nobody's figure holds the writing."""
    return EVENTS[kind](pieces)


async def chunks(kind: str, body: bytes) -> AsyncIterator[bytes]:
    for event in encoded(kind, asked_for(body)):
        await asyncio.sleep(0)
        yield event


Ask = Callable[[int], Awaitable[None]]


class FromMemory:
    """Answers every request of ours with the bytes of its kind."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    async def send(self, request: HttpRequest, *, start_timeout: float | None) -> HttpResponse:
        body = chunks(self._kind, request.body)
        return HttpResponse(200, {"content-type": "text/event-stream"}, body, body.aclose)  # type: ignore[attr-defined]

    async def aclose(self) -> None:
        pass


async def ours(kind: str, directory: Path) -> tuple[Ask, Callable[[], Awaitable[None]]]:
    from lash_cli.api import LashCore, SqliteStore
    from lash_cli.core.activity import AssistantProseDelta
    from lash_cli.core.policy import ModelSpec
    from lash_cli.providers.catalog import ProviderSettings, build_caller
    from lash_cli.system import SystemClock, SystemIds

    settings = ProviderSettings(name="bench", kind=kind, base_url=ADDRESS, key=KEY)
    store = SqliteStore.open(directory / f"{kind}.db", clock=SystemClock(), ids=SystemIds())
    caller = build_caller(settings, clock=SystemClock(), ids_bits=SystemIds().bits, transport=FromMemory(kind))
    core = LashCore(provider=caller, model=ModelSpec(MODEL), store=store)
    session = await core.open_session("s")

    async def ask(pieces: int) -> None:
        shown = ""
        async with session.turn(prompt(pieces)).stream() as stream:
            async for activity in stream:
                if isinstance(activity.event, AssistantProseDelta):
                    shown += activity.event.text
        assert shown.endswith(f"token {pieces - 1} ")

    async def close() -> None:
        await session.close()
        await core.aclose()
        await store.aclose()

    return ask, close


def from_memory(kind: str) -> Any:
    """The HTTP client of an SDK, answering from memory."""
    import httpx2

    class Stream(httpx2.AsyncByteStream):
        def __init__(self, body: bytes) -> None:
            self._body = body

        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for chunk in chunks(kind, self._body):
                yield chunk

    async def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=Stream(request.content))

    return httpx2.AsyncClient(transport=httpx2.MockTransport(answer))


def openai_sdk(kind: str) -> Ask:
    import openai

    client = openai.AsyncOpenAI(api_key=KEY, base_url=ADDRESS, max_retries=0, http_client=from_memory(kind))

    async def chat(pieces: int) -> None:
        messages = [{"role": "user", "content": prompt(pieces)}]
        stream = await client.chat.completions.create(model=MODEL, messages=messages, stream=True)
        async for _ in stream:
            pass

    async def responses(pieces: int) -> None:
        stream = await client.responses.create(model=MODEL, input=prompt(pieces), stream=True)
        async for _ in stream:
            pass

    return chat if kind == "openai_chat" else responses


def anthropic_sdk() -> Ask:
    import anthropic

    client = anthropic.AsyncAnthropic(
        api_key=KEY, base_url=ADDRESS, max_retries=0, http_client=from_memory("anthropic")
    )

    async def messages(pieces: int) -> None:
        said = [{"role": "user", "content": prompt(pieces)}]
        stream = await client.messages.create(model=MODEL, messages=said, max_tokens=99_999, stream=True)
        async for _ in stream:
            pass

    return messages


async def measured(ask: Ask, pieces: int) -> float:
    """Microseconds of processor time per piece."""

    async def cost(count: int) -> float:
        before = time.process_time()
        await ask(count)
        return time.process_time() - before

    short = await cost(1)
    return (await cost(pieces) - short) / (pieces - 1) * 1e6


async def compare(pieces: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        for kind in EVENTS:
            ask, close = await ours(kind, Path(directory))
            peers: dict[str, Ask] = {"lash": ask}
            try:
                name = "anthropic" if kind == "anthropic" else "openai"
                peers[f"{name}-sdk"] = anthropic_sdk() if kind == "anthropic" else openai_sdk(kind)
            except ImportError:
                note(f"the {name} SDK is not installed")
            figures: dict[str, list[float]] = {peer: [] for peer in peers}
            for peer_ask in peers.values():
                await peer_ask(1)
                await peer_ask(pieces)
            for _ in range(rounds):
                for peer, peer_ask in peers.items():
                    figures[peer].append(await measured(peer_ask, pieces))
            await close()
            medians = {peer: statistics.median(samples) for peer, samples in figures.items()}
            for peer, median in medians.items():
                emit("streamed_piece_us", median, "us", wire=kind, peer=peer)
                if peer != "lash":
                    emit("streamed_piece_to_sdk", medians["lash"] / median, "ratio", wire=kind, peer=peer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pieces", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    asyncio.run(compare(options.pieces, options.rounds))


if __name__ == "__main__":
    main()
