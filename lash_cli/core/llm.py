"""How a model call is described, answered and recorded (contract 06 §1–§3).

Everything is data: a request can be hashed, a call record can be journalled,
and what was asked is never evidence of what ran.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from operator import eq
from typing import Any, Literal, TypeVar

import msgspec

from lash_cli.core.codec import Record, reread
from lash_cli.core.content import Message, ProsePart, ReasoningPart, Stored, ToolCallPart
from lash_cli.core.policy import NO_GENERATION, Generation, ModelSpec
from lash_cli.core.schemas import AUTO, SchemaProjection
from lash_cli.core.usage import NO_USAGE, TokenUsage

T = TypeVar("T")


class TerminalReason(StrEnum):
    """Why a model call ended."""

    STOP = "stop"
    TOOL_USE = "tool_use"
    OUTPUT_LIMIT = "output_limit"
    CONTEXT_OVERFLOW = "context_overflow"
    CONTENT_FILTER = "content_filter"
    PROVIDER_ERROR = "provider_error"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"


class ToolChoice(StrEnum):
    """Whether the model may, must not or must call a tool."""

    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"


class LlmToolSpec(Record):
    """A tool as the model sees it."""

    name: str
    description: str
    input_schema: dict[str, Any]
    projection: SchemaProjection = AUTO


class MessageSequence(Sequence[Message]):
    """An immutable view: the first `length` messages of an append-only list, then a tail.

    The list only ever grows at its end, so the view stays true while later
    turns append; a request over 10 000 messages copies nothing (design D21).
    `shared` and `length` are public so that a wire can cache the encoding of
    the shared prefix by the identity of its messages. Views are
    equal that show the same, and what is copied or pickled is what is shown.
    """

    __slots__ = ("length", "shared", "tail")

    def __init__(self, shared: list[Message], length: int, tail: tuple[Message, ...] = ()) -> None:
        self.shared = shared
        self.length = length
        self.tail = tail

    def __len__(self) -> int:
        return self.length + len(self.tail)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        size = len(self)
        if index < 0:
            index += size
        if not 0 <= index < size:
            raise IndexError(index)
        return self.shared[index] if index < self.length else self.tail[index - self.length]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MessageSequence):
            return NotImplemented
        if self.shared is other.shared and self.length == other.length:
            return self.tail == other.tail
        return len(self) == len(other) and all(map(eq, self, other))

    def __hash__(self) -> int:
        return hash((len(self), self[-1].id if len(self) else None))

    def __copy__(self) -> MessageSequence:
        return self

    def __reduce__(self) -> tuple[type[MessageSequence], tuple[list[Message], int]]:
        return MessageSequence, (list(self), len(self))

    def with_tail(self, tail: tuple[Message, ...]) -> MessageSequence:
        """The same prefix followed by `tail`."""
        return MessageSequence(self.shared, self.length, tail)


class JsonObjectOutput(Record, tag="json_object", tag_field="type"):
    """The answer is to be one JSON object."""


class JsonSchemaOutput(Record, tag="json_schema", tag_field="type"):
    """The answer is to be one JSON value that fits `schema`, the canonical one; wires project it (contract 06 §8)."""

    name: str
    schema: dict[str, Any]
    strict: bool = True
    projection: SchemaProjection = AUTO


OutputSpec = JsonObjectOutput | JsonSchemaOutput


class LlmScope(Record):
    """Who asks; `request_id` is stable over attempts and re-drives."""

    session_id: str
    request_id: str
    agent_frame_id: str | None = None


FetchAttachment = Callable[[Stored], Awaitable[bytes]]


class LlmRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One model call (contract 06 §1). `messages` is the conversation without the system prompt; `system` is rendered
    text.

    `cache_breakpoint` is how many of the messages the next call will repeat, for
    the provider's prompt cache; None leaves it to the wire. `fetch` reads the
    bytes of an attachment in the messages when a wire writes it for the first
    time; it is no part of what is asked. Where it `is_shown`, somebody may see
    the answer while it comes; what nobody sees can be asked for again.
    """

    model: ModelSpec
    messages: Sequence[Message]
    scope: LlmScope
    system: str = ""
    tools: tuple[LlmToolSpec, ...] = ()
    tool_choice: ToolChoice = ToolChoice.AUTO
    output_token_cap: int | None = None
    generation: Generation = NO_GENERATION
    output_spec: OutputSpec | None = None
    cache_breakpoint: int | None = None
    stream: bool = True
    fetch: FetchAttachment | None = None
    is_shown: bool = True


#: What became of one option: it was sent as it is, left out, or sent as far as the wire goes.
Handling = Literal["applied", "omitted", "clamped"]


class GenerationReceipt(Record):
    """What became of each option of a request's `Generation` (contract 06 §4); None for one that was not asked for.

    What a wire has no words for is left out, and this tells it.
    """

    temperature: Handling | None = None
    seed: Handling | None = None
    stop_sequences: Handling | None = None


class ExecutionEvidence(Record):
    """Only what the provider reported about itself; absent differs from zero (contract 06 §2)."""

    served_model: str | None = None
    provider_response_id: str | None = None
    provider_request_id: str | None = None
    reasoning_output_tokens: int | None = None
    provider_finish_reason: str | None = None


LlmPart = ProsePart | ReasoningPart | ToolCallPart


class LlmResponse(Record):
    """A complete, terminally proved answer (contract 06 §1). `parts` are in wire order; `generation` says what became
    of the request's intent, None when it had none or the provider does not tell."""

    parts: tuple[LlmPart, ...] = ()
    usage: TokenUsage = TokenUsage()
    terminal_reason: TerminalReason = TerminalReason.STOP
    terminal_diagnostic: str | None = None
    evidence: ExecutionEvidence | None = None
    generation: GenerationReceipt | None = None

    @property
    def full_text(self) -> str:
        """The concatenated text parts."""
        return "".join([part.content for part in self.parts if isinstance(part, ProsePart)])

    @property
    def tool_calls(self) -> tuple[ToolCallPart, ...]:
        """The calls in source order."""
        return tuple([part for part in self.parts if isinstance(part, ToolCallPart)])


class NormalizedError(Record):
    """A provider failure, redacted of secrets and cut to 1 024 characters (contract 06 §3.3)."""

    kind: str
    message: str
    code: str | None = None
    status: int | None = None
    retryable: bool = False
    terminal_reason: TerminalReason = TerminalReason.PROVIDER_ERROR
    retry_after_ms: int | None = None


class RetryDecision(Record):
    """What the ladder decided after a failed attempt."""

    scheduled: bool
    reason: str
    delay_ms: int = 0


AttemptOutcome = Literal["completed", "failed", "aborted", "interrupted"]
ProtocolPosition = Literal["no_response", "response_observed", "output_started", "terminal_observed"]


class AttemptRecord(Record):
    """One attempt of a model call (contract 01 §7.2, 06 §2).

    `aborted` was cancelled, `interrupted` was ended on purpose because what had
    arrived was enough. `response_metadata` holds what the provider's allow-list
    names and nothing else; `generation` is the answer's receipt. The defaults are those of an attempt that succeeded,
    so that such a one is stored in a few bytes.
    """

    ordinal: int
    started_at_ms: int
    duration_ms: int
    outcome: AttemptOutcome = "completed"
    protocol_position: ProtocolPosition = "terminal_observed"
    retry_budget_consumed: bool = True
    retry_decision: RetryDecision | None = None
    error: NormalizedError | None = None
    evidence: ExecutionEvidence | None = None
    usage: TokenUsage = TokenUsage()
    response_metadata: dict[str, Any] = {}
    generation: GenerationReceipt | None = None


class LlmCallRecord(Record):
    """Every attempt of one call; travels inside the journalled result, success or failure (contract 06 §2)."""

    call_id: str
    attempts: tuple[AttemptRecord, ...] = ()
    label: str | None = None

    @property
    def usage(self) -> TokenUsage:
        """Tokens of all attempts: failed ones cost too."""
        total = NO_USAGE
        for attempt in self.attempts:
            total = total + attempt.usage
        return total


class LlmCallResult(Record):
    """The outcome of the retry ladder (contract 06 §3.1): exactly one of `response` and `error` is set. `raw` is what
    the provider said itself, where that is more than the message of `error`: see `core.redaction.kept_raw`."""

    record: LlmCallRecord
    response: LlmResponse | None = None
    error: NormalizedError | None = None
    text_streamed: bool = False
    raw: str | None = None


def kept_response(response: object) -> LlmResponse:
    """What a provider answered, as a transcript will have it: one of a program's own may answer anything, such as a
    text that no UTF-8 can hold, or tokens that are no number. Raises `ValueError`."""
    if not isinstance(response, LlmResponse):
        raise ValueError(f"answered {type(response).__name__}, no LlmResponse")
    kept = _kept(response, LlmResponse)
    if not kept.usage.is_countable:
        raise ValueError(_UNCOUNTABLE)
    return kept


def kept_result(result: object) -> LlmCallResult:
    """As `kept_response`, of what a model caller answered, which also tells of attempts."""
    if not isinstance(result, LlmCallResult) or (result.response is None) is (result.error is None):
        raise ValueError(f"answered {type(result).__name__}, no LlmCallResult with either a response or an error")
    kept = _kept(result, LlmCallResult)
    if kept.response is not None:
        kept_response(kept.response)
    if not all(attempt.usage.is_countable for attempt in kept.record.attempts):
        raise ValueError(_UNCOUNTABLE)
    return kept


_UNCOUNTABLE = "answered what cannot be kept: a number of tokens that nobody can have used"


def _kept(answer: T, kind: type[T]) -> T:
    try:
        kept: T = reread(answer, kind)
    except ValueError as error:
        raise ValueError(f"answered what cannot be kept: {error}") from error
    return kept


class TextDelta(Record, tag="text_delta", tag_field="type"):
    """Visible text; never empty."""

    text: str
    item_id: str | None = None


class ReasoningDelta(Record, tag="reasoning_delta", tag_field="type"):
    """Reasoning text, only when the provider is told to expose it."""

    text: str
    item_id: str | None = None


class AttemptReset(Record, tag="attempt_reset", tag_field="type"):
    """Everything shown by the current attempt is retracted; a retry follows."""


class RetryStatus(Record, tag="retry", tag_field="type"):
    """A wait before attempt `attempt` of `max_attempts`."""

    wait_ms: int
    attempt: int
    max_attempts: int
    reason: str


class UsageReported(Record, tag="usage", tag_field="type"):
    """Cumulative usage of the running call."""

    usage: TokenUsage


class EvidenceReported(Record, tag="evidence", tag_field="type"):
    """What the provider has said about itself so far. The ladder keeps it for an attempt that never answers and shows
    it to nobody."""

    evidence: ExecutionEvidence


StreamEvent = TextDelta | ReasoningDelta | AttemptReset | RetryStatus | UsageReported | EvidenceReported


class DeliberateStop(Exception):
    """Raised by a sink that has seen enough: the attempt is cut, recorded as `interrupted`, and what it showed is the
    answer (contract 06 §13.2)."""
