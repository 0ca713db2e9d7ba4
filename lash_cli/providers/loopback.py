"""The built-in provider: deterministic, offline, and plain about what it is (design D13).

It streams like a model and obeys directives in the user's message, so that
scripts and tests can play any course of a turn without a network (`lash help
loopback`). The answer depends on the request alone: which round of a turn is
due is counted from the messages, so a re-driven turn gets the same answers.
The one thing it remembers is how often a call was tried, for `!fail NAME TIMES`.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections import OrderedDict
from itertools import pairwise
from typing import Any

import msgspec

from lash_cli.core.codec import encode
from lash_cli.core.content import Message, ProsePart, Role, TextPart, ToolCallPart, ToolResultPart
from lash_cli.core.llm import (
    DeliberateStop,
    EvidenceReported,
    ExecutionEvidence,
    GenerationReceipt,
    JsonSchemaOutput,
    LlmPart,
    LlmRequest,
    LlmResponse,
    TerminalReason,
    TextDelta,
    UsageReported,
)
from lash_cli.core.policy import NO_GENERATION
from lash_cli.core.protocols import Clock, EventSink
from lash_cli.core.usage import TokenUsage
from lash_cli.errors import LlmTransportError
from lash_cli.providers.call_ids import synthetic_call_id
from lash_cli.providers.reported_usage import MAX_TOKENS

POLL_SECONDS = 0.01
WORDS_PER_CHUNK = 4
MAX_QUOTED_CHARS = 200
MAX_REMEMBERED_CALLS = 1024
MAX_CHUNKS = 100_000

INTRODUCTION = (
    "This is lash's built-in loopback provider: no model is configured, so set OPENAI_API_KEY"
    " or configure a provider with `lash provider add` to talk to a real one."
)

_SERVED = ExecutionEvidence(served_model="loopback")

FAILURES: dict[str, dict[str, Any]] = {
    "rate_limit": {"kind": "quota", "code": "rate_limit_exceeded", "status": 429, "retryable": True},
    "quota": {"kind": "quota", "code": "insufficient_quota", "status": 429},
    "auth": {"kind": "auth", "code": "invalid_api_key", "status": 401},
    "overload": {"kind": "http", "code": "overloaded_error", "status": 503, "retryable": True},
    "server": {"kind": "http", "code": "server_error", "status": 500, "retryable": True},
    "context_overflow": {
        "kind": "validation",
        "code": "context_length_exceeded",
        "status": 400,
        "terminal_reason": TerminalReason.CONTEXT_OVERFLOW.value,
    },
    "content_filter": {
        "kind": "validation",
        "code": "content_filter",
        "status": 400,
        "terminal_reason": TerminalReason.CONTENT_FILTER.value,
    },
    "timeout": {"kind": "timeout", "code": "read_timeout", "retryable": True},
    "network": {"kind": "transport", "code": "connect_error", "retryable": True},
    "stream_cut": {"kind": "stream", "code": "stream_ended_before_finish_reason", "retryable": True},
}


class Round(msgspec.Struct):
    """What one model call of a scripted turn does, in the order of its lines."""

    calls: list[tuple[str, str]] = msgspec.field(default_factory=list)
    waits: list[tuple[str, str]] = msgspec.field(default_factory=list)
    failures: list[tuple[str, float]] = msgspec.field(default_factory=list)
    text: str | None = None
    chunks: int | None = None
    chunk_delay: float = 0.0
    usage: TokenUsage | None = None

    def failure_at(self, attempt: int) -> str | None:
        """The failure of the `attempt`-th try, counted from 0."""
        for name, times in self.failures:
            if attempt < times:
                return name
            attempt -= int(times)
        return None


def parse_rounds(text: str) -> list[Round]:
    """The rounds a prompt scripts: its lines that begin with a known `!directive`, cut at `!then`.

    Raises `LlmTransportError` (`loopback_directive`) for a directive with bad
    arguments. Lines with an unknown `!word` are ordinary text.
    """
    rounds = [Round()]
    for line in text.splitlines():
        name, _, rest = line.strip().partition(" ")
        if name == "!then":
            rounds.append(Round())
        elif name in _DIRECTIVES:
            try:
                _DIRECTIVES[name](rounds[-1], rest.strip())
            except (ValueError, msgspec.DecodeError) as error:
                raise LlmTransportError(
                    f"loopback: cannot follow the line {line.strip()}: {error}",
                    kind="validation",
                    code="loopback_directive",
                ) from error
    return rounds


def _add_tool(script: Round, rest: str) -> None:
    name, _, arguments = rest.partition(" ")
    if not name:
        raise ValueError("it needs a tool name: !tool NAME {json}")
    arguments = arguments.strip() or "{}"
    if not isinstance(msgspec.json.decode(arguments), dict):
        raise ValueError("the arguments must be a JSON object; use !raw-args for anything else")
    script.calls.append((name, arguments))


def _add_raw_call(script: Round, rest: str) -> None:
    name, _, arguments = rest.partition(" ")
    if not name:
        raise ValueError("it needs a tool name: !raw-args NAME text")
    script.calls.append((name, arguments))


def _set_text(script: Round, rest: str) -> None:
    script.text = msgspec.json.decode(rest, type=str) if rest.startswith('"') and rest.endswith('"') else rest


def _set_stream(script: Round, rest: str) -> None:
    count, _, delay = rest.partition(" ")
    script.chunks = int(count)
    script.chunk_delay = _seconds(delay) if delay else 0.0
    if not 1 <= script.chunks <= MAX_CHUNKS:
        raise ValueError(f"the number of chunks must be between 1 and {MAX_CHUNKS}")


def _add_failure(script: Round, rest: str) -> None:
    name, _, times = rest.partition(" ")
    if name not in FAILURES:
        raise ValueError(f"unknown failure {name!r}; one of: {', '.join(FAILURES)}")
    count = int(times) if times else math.inf
    if count < 1:
        raise ValueError("the number of failing attempts must be above 0")
    script.failures.append((name, count))


def _set_usage(script: Round, rest: str) -> None:
    counts = [int(word) for word in rest.split()]
    if len(counts) != 2 or not all(0 <= count <= MAX_TOKENS for count in counts):
        raise ValueError(f"it needs two counts up to {MAX_TOKENS}: !usage IN OUT")
    script.usage = TokenUsage(input_tokens=counts[0], output_tokens=counts[1])


def _add_sleep(script: Round, rest: str) -> None:
    _seconds(rest)
    script.waits.append(("sleep", rest))


def _add_file_wait(script: Round, rest: str) -> None:
    if not rest:
        raise ValueError("it needs a path: !wait-file PATH")
    script.waits.append(("file", rest))


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds <= 86_400:
        raise ValueError("seconds must be between 0 and 86400")
    return seconds


_DIRECTIVES = {
    "!tool": _add_tool,
    "!raw-args": _add_raw_call,
    "!text": _set_text,
    "!stream": _set_stream,
    "!fail": _add_failure,
    "!usage": _set_usage,
    "!sleep": _add_sleep,
    "!wait-file": _add_file_wait,
}


class _Turn(msgspec.Struct):
    """The part of a conversation that matters: the user's message and what followed it."""

    user: Message | None
    later: list[Message]

    @property
    def text(self) -> str:
        """The user's text, piped text included."""
        parts = self.user.parts if self.user else ()
        return "\n".join(part.content for part in parts if isinstance(part, TextPart))

    @property
    def round_index(self) -> int:
        """How many answers this turn already has."""
        return sum(1 for message in self.later if message.role is Role.ASSISTANT)

    @property
    def last_results(self) -> list[ToolResultPart]:
        """The tool results the last answer asked for."""
        results: list[ToolResultPart] = []
        for message in reversed(self.later):
            if message.role is Role.ASSISTANT:
                break
            results[:0] = [part for part in message.parts if isinstance(part, ToolResultPart)]
        return results


def _current_turn(request: LlmRequest) -> _Turn:
    """Walk back to the last message a user wrote; the cost does not grow with the conversation."""
    later: list[Message] = []
    messages = request.messages
    for position in range(len(messages) - 1, -1, -1):
        message: Message = messages[position]
        has_results = any(isinstance(part, ToolResultPart) for part in message.parts)
        if message.role is Role.USER and not has_results and not message.is_transient:
            return _Turn(message, later[::-1])
        later.append(message)
    return _Turn(None, later[::-1])


class Loopback:
    """The loopback provider; implements `core.protocols.Provider`."""

    kind = "loopback"

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tries: OrderedDict[str, int] = OrderedDict()

    async def complete(self, request: LlmRequest, sink: EventSink) -> LlmResponse:
        """Play the round that is due; see `core.protocols.Provider.complete`."""
        turn = _current_turn(request)
        rounds = parse_rounds(turn.text)
        index = turn.round_index
        script = rounds[index] if index < len(rounds) else Round()
        for what, argument in script.waits:
            await self._wait(what, argument)
        failure = script.failure_at(self._count_try(request.scope.request_id)) if script.failures else None
        if failure is not None and failure != "stream_cut":
            raise _failure(failure)
        text = _shaped(request, script) or _answer(turn, script, is_scripted_turn=_is_scripted(rounds))
        chunks = _chunks(text, script.chunks)
        usage = script.usage or TokenUsage(_input_words(request, turn), len(text.split()) + _call_words(script))
        if failure is not None:
            await self._cut(chunks, script, sink, usage)
        await self._stream(chunks, script, sink)
        await sink(UsageReported(usage))
        parts: list[LlmPart] = [ProsePart(text)] if text else []
        for position, (name, arguments) in enumerate(script.calls):
            parts.append(ToolCallPart(synthetic_call_id(request.scope.request_id, position), name, arguments))
        reason = TerminalReason.TOOL_USE if script.calls else TerminalReason.STOP
        evidence = msgspec.structs.replace(_SERVED, provider_finish_reason=reason.value)
        return LlmResponse(tuple(parts), usage, reason, None, evidence, _receipt(request))

    async def aclose(self) -> None:
        """Nothing is open."""

    async def _wait(self, what: str, argument: str) -> None:
        if what == "sleep":
            await self._clock.sleep(float(argument))
            return
        while not _exists(argument):
            await self._clock.sleep(POLL_SECONDS)

    async def _stream(self, chunks: list[str], script: Round, sink: EventSink) -> None:
        try:
            for chunk in chunks:
                await sink(TextDelta(chunk))
                if script.chunk_delay:
                    await self._clock.sleep(script.chunk_delay)
                else:
                    await asyncio.sleep(0)  # a long answer can be cancelled between two chunks
        except (asyncio.CancelledError, DeliberateStop):
            await sink(EvidenceReported(_SERVED))
            raise

    async def _cut(self, chunks: list[str], script: Round, sink: EventSink, usage: TokenUsage) -> None:
        """Show the first half of the answer, then fail like a broken stream."""
        shown = chunks[: max(1, len(chunks) // 2)]
        await self._stream(shown, script, sink)
        error = _failure("stream_cut")
        error.protocol_position = "output_started"
        error.partial = LlmResponse((ProsePart("".join(shown)),), usage, TerminalReason.PROVIDER_ERROR, None, _SERVED)
        raise error

    def _count_try(self, request_id: str) -> int:
        """How often this call was tried before."""
        tries = self._tries.pop(request_id, 0)
        self._tries[request_id] = tries + 1
        if len(self._tries) > MAX_REMEMBERED_CALLS:
            self._tries.popitem(last=False)
        return tries


def _exists(path: str) -> bool:
    return os.path.exists(path)


def _failure(name: str) -> LlmTransportError:
    fields = FAILURES[name]
    position = "response_observed" if "status" in fields else "no_response"
    return LlmTransportError(f"loopback: scripted failure {name}", protocol_position=position, **fields)


def _is_scripted(rounds: list[Round]) -> bool:
    return len(rounds) > 1 or rounds[0] != Round()


def _receipt(request: LlmRequest) -> GenerationReceipt | None:
    """It draws nothing, so that whatever is asked for about that is left out."""
    if request.generation == NO_GENERATION:
        return None
    from lash_cli.providers.generation import GenerationWords, spoken

    return spoken(request.generation, GenerationWords(), {}).receipt


def _shaped(request: LlmRequest, script: Round) -> str | None:
    """The example a request for a JSON value is answered with, unless this round says what to answer."""
    if request.output_spec is None or script.text is not None or script.calls:
        return None
    from lash_cli.providers.loopback_value import example_of

    spec = request.output_spec
    value = example_of(spec.schema, spec.schema) if isinstance(spec, JsonSchemaOutput) else {}
    return encode(value).decode("utf-8")


def _answer(turn: _Turn, script: Round, *, is_scripted_turn: bool) -> str:
    """The text of this round."""
    if script.text is not None:
        return script.text
    if script.calls:
        return ""
    if script.chunks is not None:
        return " ".join(str(number) for number in range(1, script.chunks + 1))
    results = turn.last_results
    if results:
        return "\n".join(["Tool results:", *(_quoted(result) for result in results)])
    if is_scripted_turn:
        return "Done."
    said = turn.text.strip()
    return f"You said: {said}\n\n{INTRODUCTION}" if said else INTRODUCTION


def _quoted(result: ToolResultPart) -> str:
    text = " ".join(result.content.split())
    short = text if len(text) <= MAX_QUOTED_CHARS else text[: MAX_QUOTED_CHARS - 1] + "…"
    status = "" if result.status == "success" else f" ({result.status})"
    return f"- {result.tool_name}{status}: {short}"


def _chunks(text: str, count: int | None) -> list[str]:
    """`text` cut at word ends into `count` chunks (fewer when it has fewer words), or into chunks of a few words."""
    words = text.split(" ")
    words = [f"{word} " for word in words[:-1]] + words[-1:]
    if count is None:
        groups = [words[i : i + WORDS_PER_CHUNK] for i in range(0, len(words), WORDS_PER_CHUNK)]
    else:
        count = min(count, len(words))
        edges = [round(i * len(words) / count) for i in range(count + 1)]
        groups = [words[start:end] for start, end in pairwise(edges)]
    return [chunk for group in groups if (chunk := "".join(group))]


def _input_words(request: LlmRequest, turn: _Turn) -> int:
    """Words of the system prompt and of this turn: older turns are not counted again."""
    texts = [request.system]
    for message in (turn.user, *turn.later):
        for part in message.parts if message else ():
            texts.append(part.input_json if isinstance(part, ToolCallPart) else getattr(part, "content", ""))
    return sum(len(text.split()) for text in texts)


def _call_words(script: Round) -> int:
    return sum(1 + len(arguments.split()) for _, arguments in script.calls)
