"""What every benchmark shares: an instant model, the texts, medians, and one JSON line per figure.

A figure stands next to the figure of its baseline from the same run: read the
ratio, because absolute times belong to one machine on one day.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

from lash_cli.core.content import ProsePart, Role, ToolCallPart
from lash_cli.core.llm import AttemptRecord, LlmCallRecord, LlmCallResult, LlmRequest, LlmResponse, TerminalReason
from lash_cli.core.policy import ModelSpec
from lash_cli.core.protocols import CancelSignal, EventSink
from lash_cli.core.usage import TokenUsage

USER_CHARS, REPLY_CHARS = 200, 800
LENGTHS = (10, 100, 1_000, 10_000)
_FILL = "the quick brown fox jumps over the lazy dog and keeps a durable note of it; " * 12
REPLY = ("a000000 " + _FILL)[:REPLY_CHARS]

MODEL = ModelSpec("instant-1")


def user_text(index: int) -> str:
    """200 characters, different for each index."""
    return (f"u{index:06d} " + _FILL)[:USER_CHARS]


class InstantCaller:
    """A model that answers 800 characters at once and streams nothing."""

    provider_id = "instant"
    checks_answers = True

    def __init__(self) -> None:
        self._response = LlmResponse((ProsePart(REPLY),), TokenUsage(100, 200))

    async def call(self, request: LlmRequest, *, sink: EventSink, cancel: CancelSignal) -> LlmCallResult:
        attempt = AttemptRecord(1, 0, 0, "completed", "terminal_observed", usage=self._response.usage)
        return LlmCallResult(LlmCallRecord(request.scope.request_id, (attempt,)), response=self._response)

    async def aclose(self) -> None:
        pass


class ToolCaller(InstantCaller):
    """A model that asks for the tool `note` once and then answers as `InstantCaller` does."""

    def __init__(self) -> None:
        super().__init__()
        part = ToolCallPart("c1", "note", '{"text":"a note to keep"}')
        self._asking = LlmResponse((part,), TokenUsage(100, 20), TerminalReason.TOOL_USE)

    async def call(self, request: LlmRequest, *, sink: EventSink, cancel: CancelSignal) -> LlmCallResult:
        last = request.messages[-1]
        is_told = last.role is Role.USER and any(part.__struct_config__.tag == "tool_result" for part in last.parts)
        if is_told:
            return await super().call(request, sink=sink, cancel=cancel)
        attempt = AttemptRecord(1, 0, 0, "completed", "terminal_observed", usage=self._asking.usage)
        return LlmCallResult(LlmCallRecord(request.scope.request_id, (attempt,)), response=self._asking)


def median_us(samples: list[float]) -> float:
    """Median of seconds, in microseconds."""
    return statistics.median(samples) * 1e6


def percentile(samples: list[float], share: float) -> float:
    """The sample below which `share` of all lie."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


def emit(figure: str, value: float, unit: str, **parameters: object) -> None:
    """Print one figure."""
    print(json.dumps({"figure": figure, "value": round(value, 3), "unit": unit, **parameters}), flush=True)


def note(text: str) -> None:
    """Say something that is not a figure."""
    print(text, file=sys.stderr, flush=True)


def store_bytes(path: Path) -> int:
    """Size of a store with its side files."""
    return sum(file.stat().st_size for file in path.parent.glob(path.name + "*"))


clock = time.perf_counter
