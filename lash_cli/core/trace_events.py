"""What a trace tells: one record per kind of event (contract 04 §9).

A kind is a tagged record, its tag is the `type` of the line. New kinds and
new optional fields are additive; a renamed, removed or re-interpreted field
bumps `TRACE_SCHEMA_VERSION`. The payloads of `Custom` are opaque and never do. `JSON` fields hold plain JSON
types; whoever emits has them limited and redacted first (`core.trace_limits`).
"""

from __future__ import annotations

from typing import Any, Literal

from lash_cli.core.codec import Record
from lash_cli.core.usage import TokenUsage

JSON = Any


class SessionStarted(Record, tag="session_started", tag_field="type"):
    """A session was opened; `metadata` says under which name, provider and model and at which revision."""

    metadata: dict[str, JSON] = {}


class TurnStarted(Record, tag="turn_started", tag_field="type"):
    """A turn holds its lane; `metadata` has its origin, its inputs and whether it is a re-drive."""

    metadata: dict[str, JSON] = {}


class PromptComponent(Record):
    """One piece of what every call of a turn shares: a contribution to the system prompt, or a tool."""

    id: str
    kind: str
    hash: str
    chars: int | None = None


class PromptBuilt(Record, tag="prompt_built", tag_field="type"):
    """The system prompt and the tools of the following calls, by hash and size."""

    prompt_hash: str
    prompt_chars: int
    components: tuple[PromptComponent, ...] = ()


class LlmRequestShown(Record):
    """A model call as it was asked; `messages` begins with the system prompt.

    `messages_total` is the number of messages that were sent when `messages`
    leaves out some of the oldest. `output_spec` is the shape that was asked of the answer.
    """

    model: str
    messages: tuple[JSON, ...]
    tool_choice: str
    stream: bool
    model_variant: str | None = None
    tools: tuple[JSON, ...] = ()
    messages_total: int | None = None
    output_spec: JSON = None


class LlmCallStarted(Record, tag="llm_call_started", tag_field="type"):
    """A model call begins. A call read from the journal of a crashed turn has one too."""

    request: LlmRequestShown


class AttemptShown(Record):
    """One attempt of a model call, failed or not, and what the ladder decided after it."""

    ordinal: int
    started_at: str
    duration_ms: int
    outcome: str
    error: JSON = None
    retry: JSON = None
    usage: TokenUsage | None = None


class LlmResponseShown(Record):
    """A proved answer. `duration_ms` spans all attempts and the waits between them."""

    text: str
    duration_ms: int
    terminal_reason: str | None = None
    parts: tuple[JSON, ...] = ()


class LlmErrorShown(Record):
    """Why a call has no answer."""

    message: str
    retryable: bool
    terminal_reason: str | None = None
    code: str | None = None
    raw: JSON = None


class LlmCallCompleted(Record, tag="llm_call_completed", tag_field="type"):
    """A model call was answered. `usage` is the answer's own; what the call cost is in `token_usage`.

    `replayed` marks an answer that was read from the journal, not asked for again.
    """

    response: LlmResponseShown
    usage: TokenUsage | None = None
    attempts: tuple[AttemptShown, ...] = ()
    evidence: JSON = None
    replayed: bool = False


class LlmCallFailed(Record, tag="llm_call_failed", tag_field="type"):
    """A model call ended without an answer: the provider failed, it was cancelled, or the turn broke."""

    error: LlmErrorShown
    duration_ms: int
    attempts: tuple[AttemptShown, ...] = ()
    replayed: bool = False


class ProviderRequestShown(Record):
    """Bytes that went to a provider. Length and SHA-256 are those of the exact wire bytes."""

    provider: str
    sequence: int
    elapsed_ms: int
    endpoint: str
    body_len: int
    body_sha256: str
    body_json: JSON = None
    body_json_omitted_reason: Literal["size_limit", "invalid_json"] | None = None


class ProviderRequest(Record, tag="provider_request", tag_field="type"):
    """One HTTP request of a model call; `sequence` counts those of the call from 0. Extended level only."""

    event: ProviderRequestShown


class ProviderStreamShown(Record):
    """One event of a provider's stream. Length and SHA-256 are those of its data, exactly as it came."""

    provider: str
    sequence: int
    elapsed_ms: int
    event_name: str
    raw_len: int
    raw_sha256: str
    item_id: str | None = None
    output_index: int | None = None
    raw_json: JSON = None


class ProviderStreamEvent(Record, tag="provider_stream_event", tag_field="type"):
    """What a provider streamed; `sequence` counts the events of the call from 0, over all its attempts. `raw_json` is
    left out of a long one. Extended level only."""

    event: ProviderStreamShown


class RuntimeStreamShown(Record):
    """Something a turn showed while it ran, as previewed."""

    sequence: int
    elapsed_ms: int
    event_name: str
    visible_text: str | None = None
    detail: JSON = None


class RuntimeStreamEvent(Record, tag="runtime_stream_event", tag_field="type"):
    """One live delta, retraction or retry wait of a turn. Extended level only."""

    event: RuntimeStreamShown


class ToolCallStarted(Record, tag="tool_call_started", tag_field="type"):
    """A tool call begins; exactly one per call."""

    call_id: str
    name: str
    args: JSON
    parent_call_id: str | None = None


class ToolCallCompleted(Record, tag="tool_call_completed", tag_field="type"):
    """A tool call ended; exactly one per call. `output` is `{"outcome": {"status", …}, "control"?}`."""

    call_id: str
    name: str
    args: JSON
    output: JSON
    duration_ms: int
    parent_call_id: str | None = None


class UsageCounted(Record, tag="token_usage", tag_field="type"):
    """What one model call cost, all attempts included, and the turn so far. The book that totals are made of."""

    usage: TokenUsage
    cumulative: TokenUsage | None = None


class TurnCompleted(Record, tag="turn_completed", tag_field="type"):
    """How a turn ended. `done_reason` is the kind of finish, the reason of the stop, or the code of the error."""

    status: Literal["completed", "failed"]
    done_reason: str
    duration_ms: int | None = None
    errors: tuple[JSON, ...] = ()
    agent_frame_switch: JSON = None


class Custom(Record, tag="custom", tag_field="type"):
    """An event named by whoever emits it, such as `turn_input.claimed`."""

    name: str
    payload: JSON = None


class EnvelopeShown(Record):
    """One side of a divergence. Length and SHA-256 are those of the canonical JSON."""

    json_len: int
    sha256: str
    value: JSON = None
    omitted: Literal["size_limit"] | None = None


class EffectEnvelopeDiff(Record, tag="effect_envelope_diff", tag_field="type"):
    """A replayed effect is not the recorded one: what the journal has, and what was asked for now. Extended level
    only."""

    code: str
    stored: EnvelopeShown
    rebuilt: EnvelopeShown
    divergent_path_count: int
    first_divergent_paths: tuple[str, ...]


TraceEvent = (
    SessionStarted
    | TurnStarted
    | PromptBuilt
    | LlmCallStarted
    | LlmCallCompleted
    | LlmCallFailed
    | ProviderRequest
    | ProviderStreamEvent
    | RuntimeStreamEvent
    | ToolCallStarted
    | ToolCallCompleted
    | UsageCounted
    | TurnCompleted
    | EffectEnvelopeDiff
    | Custom
)

EXTENDED_ONLY = (ProviderRequest, ProviderStreamEvent, RuntimeStreamEvent, EffectEnvelopeDiff)
