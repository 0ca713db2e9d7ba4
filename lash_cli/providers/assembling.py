"""What the assemblers of all wires have in common: who gave an answer, what it cost, and how that is told (contract 06
§5).

What an answer is made of, and what proves it, is each wire's own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, TypeVar

from lash_cli.core.content import ReasoningReplay
from lash_cli.core.llm import ExecutionEvidence, LlmPart, LlmResponse, StreamEvent, TerminalReason
from lash_cli.providers.reported_usage import Buckets, ReportedUsage


class Run:
    """Adjacent text or reasoning; what brings it back to its provider closes it."""

    def __init__(self, is_reasoning: bool) -> None:
        self.is_reasoning = is_reasoning
        self.pieces: list[str] = []
        self.replay: ReasoningReplay | None = None

    @property
    def text(self) -> str:
        """What it has come to."""
        return "".join(self.pieces)


Call = TypeVar("Call")


def open_run(pieces: list[Run | Call], *, is_reasoning: bool) -> Run:
    """The run that ends an answer of `pieces`, if it is of this kind and open, or a new one behind it."""
    last = pieces[-1] if pieces else None
    if isinstance(last, Run) and last.is_reasoning == is_reasoning and last.replay is None:
        return last
    run = Run(is_reasoning)
    pieces.append(run)
    return run


class AnswerAssembler(ABC):
    """Collects the JSON documents of one answer, in wire order; a whole answer is one document. `request_id` seeds
    missing call ids, `route` marks replay data."""

    #: How a wire's `usage` is read.
    buckets: Buckets

    def __init__(self, request_id: str, route: str, provider_request_id: str | None = None) -> None:
        self._request_id = request_id
        self._route = route
        self._provider_request_id = provider_request_id
        self._reported = ReportedUsage(self.buckets)
        self._served_model: str | None = None
        self._response_id: str | None = None

    @property
    @abstractmethod
    def is_proved(self) -> bool:
        """Whether the provider said that its answer is complete."""

    @property
    @abstractmethod
    def is_finished(self) -> bool:
        """Whether nothing that counts can follow, so that reading may stop before the connection ends."""

    @property
    @abstractmethod
    def is_empty(self) -> bool:
        """Whether there is no text, no reasoning and no call."""

    @abstractmethod
    def feed(self, document: dict[str, Any]) -> list[StreamEvent]:
        """Take one document and return what it shows."""

    @abstractmethod
    def response(self) -> LlmResponse:
        """The complete answer. Unproved, it is what a tolerated end of the stream makes of it."""

    @abstractmethod
    def _parts(self) -> tuple[LlmPart, ...]:
        """What has come, in order."""

    @abstractmethod
    def _end(self) -> str:
        """The provider's own word for why the answer ended, "" while it has none."""

    def partial(self) -> LlmResponse:
        """What arrived of an answer that was not proved; evidence only, its calls are never run."""
        return LlmResponse(self._parts(), self._reported.usage, TerminalReason.PROVIDER_ERROR, None, self._evidence())

    def _evidence(self) -> ExecutionEvidence:
        return ExecutionEvidence(
            served_model=self._served_model,
            provider_response_id=self._response_id,
            provider_request_id=self._provider_request_id,
            reasoning_output_tokens=self._reported.reasoning_tokens,
            provider_finish_reason=self._end() or None,
        )


def text_of(value: Any) -> str:
    """`value` if it is text, else none: fields of the wrong type count as absent."""
    return value if isinstance(value, str) else ""


def object_of(value: Any) -> dict[str, Any]:
    """`value` if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def objects_of(value: Any) -> list[dict[str, Any]]:
    """The objects in a list."""
    return [member for member in value if isinstance(member, dict)] if isinstance(value, list) else []
