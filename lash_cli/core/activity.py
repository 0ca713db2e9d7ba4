"""What a turn shows while it runs: preview, never history (contract 04 §7, 01 §7.4).

Items are grouped by correlation id, so that the text of a retried attempt can
be retracted exactly. `Committed` is the only event that makes text permanent.
"""

from __future__ import annotations

from typing import Any, Literal

from lash_cli.core.codec import Record
from lash_cli.core.graph import CausalRef
from lash_cli.core.outcome import TurnIssue, TurnOutcome
from lash_cli.core.tools import ToolCallOutput
from lash_cli.core.usage import TokenUsage


class TurnStarted(Record, tag="turn_started", tag_field="type"):
    """The turn holds its lane; `input_ids` are the inputs it claimed. `redriven` marks a turn resumed after a crash."""

    origin: Literal["prompt", "queue", "wake"]
    input_ids: tuple[str, ...] = ()
    redriven: bool = False


class ModelRequestStarted(Record, tag="model_request_started", tag_field="type"):
    """A model call begins; iterations count from 0."""

    protocol_iteration: int


class AssistantProseDelta(Record, tag="assistant_prose_delta", tag_field="type"):
    """Visible text; never empty."""

    text: str


class ReasoningShown(Record, tag="reasoning_delta", tag_field="type"):
    """Reasoning text."""

    text: str


class ModelAttemptReset(Record, tag="model_attempt_reset", tag_field="type"):
    """Retracts the text of the named correlation ids; empty lists mark an attempt boundary only."""

    assistant_prose_correlation_ids: tuple[str, ...] = ()
    reasoning_correlation_ids: tuple[str, ...] = ()


class RetryWait(Record, tag="retry_status", tag_field="type"):
    """The ladder waits before another attempt."""

    wait_ms: int
    attempt: int
    max_attempts: int
    reason: str


class ToolCallStarted(Record, tag="tool_call_started", tag_field="type"):
    """A call begins; emitted exactly once per call."""

    call_id: str
    name: str
    args: Any
    parent_call_id: str | None = None


class ToolProgress(Record, tag="tool_progress", tag_field="type"):
    """Output of a running tool; best effort."""

    call_id: str
    text: str


class ToolCallCompleted(Record, tag="tool_call_completed", tag_field="type"):
    """A call ended; emitted exactly once per call, also for cancelled ones."""

    call_id: str
    name: str
    args: Any
    output: ToolCallOutput
    duration_ms: int
    parent_call_id: str | None = None


class UsageShown(Record, tag="usage", tag_field="type"):
    """Tokens of one model call and of the turn so far."""

    protocol_iteration: int
    usage: TokenUsage
    cumulative: TokenUsage


class ChildUsage(Record, tag="child_usage", tag_field="type"):
    """Tokens of a child turn, relayed while it runs. `usage` is what came on top; an empty one is not shown."""

    session_id: str
    source: str
    model: str
    protocol_iteration: int
    usage: TokenUsage
    cumulative: TokenUsage


class CodeBlockStarted(Record, tag="code_block_started", tag_field="type"):
    """A block of code begins to run; correlated as `code:<effect id>`."""

    language: str
    code: str
    graph_key: str | None = None


class CodeBlockCompleted(Record, tag="code_block_completed", tag_field="type"):
    """A block of code ended; `tool_call_ids` are the calls it made."""

    language: str
    output: str
    success: bool
    duration_ms: int
    error: str | None = None
    tool_call_ids: tuple[str, ...] = ()
    graph_key: str | None = None


class PluginStatus(Record, tag="status", tag_field="kind"):
    """A line of status under a plugin's own key; the latest of a key replaces the earlier ones."""

    key: str
    label: str
    detail: str | None = None


class PluginCustom(Record, tag="custom", tag_field="kind"):
    """Whatever a plugin wants its own view to know."""

    name: str
    payload: Any = None


class PluginRuntime(Record, tag="plugin_runtime", tag_field="type"):
    """A plugin shows something."""

    plugin_id: str
    event: PluginStatus | PluginCustom


class FinalValueShown(Record, tag="final_value", tag_field="type"):
    """The turn ended with a value of its own."""

    value: Any


class QueuedInputAccepted(Record, tag="queued_input_accepted", tag_field="type"):
    """A checkpoint took queued inputs into the running turn."""

    checkpoint: Literal["after_work", "before_completion"]
    input_ids: tuple[str, ...]


class QueuedWorkStarted(Record, tag="queued_work_started", tag_field="type"):
    """A turn took queued work: at its start (`idle`), or at a checkpoint. `causes` are what the work came from."""

    boundary: Literal["active_turn_checkpoint", "idle"]
    batch_ids: tuple[str, ...]
    causes: tuple[CausalRef, ...] = ()


class ValueShown(Record, tag="tool_value", tag_field="type"):
    """The turn ended with a tool's value."""

    tool_name: str
    value: Any


class ErrorShown(Record, tag="error", tag_field="type"):
    """Something went wrong that the turn reports."""

    issue: TurnIssue


class Committed(Record, tag="committed", tag_field="type"):
    """The turn's commit is durable."""

    revision: int
    leaf_node_id: str | None


class TurnFinished(Record, tag="turn_finished", tag_field="type"):
    """How the turn ended; always the last activity of a turn that committed."""

    outcome: TurnOutcome


TurnEvent = (
    TurnStarted
    | ModelRequestStarted
    | AssistantProseDelta
    | ReasoningShown
    | ModelAttemptReset
    | RetryWait
    | ToolCallStarted
    | ToolProgress
    | ToolCallCompleted
    | UsageShown
    | ChildUsage
    | CodeBlockStarted
    | CodeBlockCompleted
    | PluginRuntime
    | FinalValueShown
    | QueuedInputAccepted
    | QueuedWorkStarted
    | ValueShown
    | ErrorShown
    | Committed
    | TurnFinished
)


def finished_id(turn_id: str) -> str:
    """The id of the activity that tells how a turn ended: one and the same wherever it is shown."""
    return f"{turn_id}:finished"


class TurnActivity(Record):
    """One item of a turn's live stream (contract 01 §7.4, 04 §7): `id` is its own, `correlation_id` groups the items of
    one logical row, such as the pieces of one text; `at_ms` is when it was shown, in epoch milliseconds.

    A stream begins with `TurnStarted` and ends with `TurnFinished`, before which `Committed` stands where there is
    a store; a turn that raises ends it without both. Between them stand, for each model call,
    `ModelRequestStarted`, its text (`AssistantProseDelta`, `ReasoningShown`), what takes text back
    (`ModelAttemptReset`), `RetryWait` and `UsageShown`, and for each call of a tool `ToolCallStarted`,
    `ToolProgress` and `ToolCallCompleted`. A turn that finishes with a value shows it before its commit
    (`FinalValueShown`, `ValueShown`).
    """

    session_id: str
    turn_id: str
    correlation_id: str
    event: TurnEvent
    at_ms: int = 0
    id: str = ""
