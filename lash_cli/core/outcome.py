"""How a turn ends: with an outcome, not an exception (contract 01 §6.5, §6.6, §7).

Provider failures, tool failures, cancellation and invalid input are outcomes
and are committed. A turn is cancelled if and only if there is cancellation
evidence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from lash_cli.core.codec import Record
from lash_cli.core.llm import LlmCallRecord
from lash_cli.core.tools import ToolCallRecord
from lash_cli.core.usage import TokenLedgerEntry, TokenUsage

if TYPE_CHECKING:
    from datetime import datetime, timedelta


class AssistantMessage(Record, tag="assistant_message", tag_field="type"):
    """The model answered in prose."""

    text: str


class FinalValue(Record, tag="final_value", tag_field="type"):
    """A program finished with a value."""

    value: Any


class ToolValue(Record, tag="tool_value", tag_field="type"):
    """A tool ended the turn with a value."""

    tool_name: str
    value: Any


Finish = AssistantMessage | FinalValue | ToolValue

StopReason = Literal[
    "cancelled",
    "incomplete",
    "invalid_input",
    "max_turns",
    "max_cost",
    "tool_failure",
    "provider_error",
    "plugin_abort",
    "runtime_error",
    "submitted_error",
    "tool_error",
]


class Finished(Record, tag="finished", tag_field="type"):
    """The turn did what was asked (contract 01 §6.5)."""

    finish: Finish


class AgentFrameSwitch(Record, tag="agent_frame_switch", tag_field="type"):
    """The turn continues in another frame (contract 01 §6.5)."""

    frame_id: str
    task: str
    initial_nodes: tuple[Any, ...] = ()


class Stopped(Record, tag="stopped", tag_field="type"):
    """The turn ended early; `value` and `tool_name` are set for submitted and tool errors (contract 01 §6.5)."""

    reason: StopReason
    value: Any = None
    tool_name: str | None = None


TurnOutcome = Finished | AgentFrameSwitch | Stopped


# The code of the issue of a turn whose answer was hidden since.
ANSWER_NOT_KEPT = "answer_not_kept"


class TurnIssue(Record):
    """Something worth telling about a turn (contract 01 §7). `raw` is what the provider or the tool said itself, where
    that is more than `message`: without credentials, at most 4 096 characters (`core.redaction.kept_raw`), and never
    read by a model."""

    kind: str
    message: str
    code: str | None = None
    terminal_reason: str | None = None
    retryable: bool | None = None
    provider_failure_kind: str | None = None
    blocking: bool = True
    raw: str | None = None


class TurnAddress(Record):
    """Names one turn of one session."""

    session_id: str
    turn_id: str


class TurnCancellationEvidence(Record):
    """Proof that a cancel request won (contract 01 §6.6): who asked and why; the origin is opaque."""

    request_id: str
    origin: str | None = None
    reason: str | None = None


class TurnCancelRequest(Record):
    """A durable request to stop one turn (contract 02 §7)."""

    address: TurnAddress
    request_id: str
    origin: str | None = None
    reason: str | None = None


CancelOutcome = Literal["requested", "already_requested", "completion_won", "unknown"]


class TurnCancelReceipt(Record):
    """What became of a cancel request; `durability_tier` says whether it holds across processes (contract 01 §6.6)."""

    address: TurnAddress
    outcome: CancelOutcome
    durability_tier: Literal["inline", "durable"]
    evidence: TurnCancellationEvidence | None = None


class CancelRequested(Record, tag="cancel_requested", tag_field="state"):
    """The gate was won by a cancel request."""

    cancellation: TurnCancellationEvidence


class CompletionSealed(Record, tag="completion_sealed", tag_field="state"):
    """The gate was won by completion."""


CancelGate = CancelRequested | CompletionSealed


class TerminalCommitted(Record, tag="committed", tag_field="status"):
    """The turn committed with this outcome (contract 01 §6.6)."""

    outcome: TurnOutcome
    cancellation: TurnCancellationEvidence | None = None
    session_revision: int | None = None


class TerminalFailed(Record, tag="failed", tag_field="status"):
    """The turn raised instead of committing (contract 01 §6.6)."""

    error: str


TurnTerminal = TerminalCommitted | TerminalFailed

OutputState = Literal["usable", "empty_output", "traceback_only", "recovered_from_error"]


class AssistantOutput(Record):
    """The answer's text; `safe_text` has no control characters (contract 01 §7)."""

    safe_text: str
    raw_text: str
    state: OutputState


class ExecutionSummary(Record):
    """What kind of work a turn did and how long it took (contract 01 §7).

    `started_at_ms` is when it was begun. Of a turn that was begun, left behind
    and finished later, `duration_ms` is the time of the drive that finished it.
    """

    had_tool_calls: bool
    had_code_execution: bool
    started_at_ms: int
    duration_ms: int


class TurnResult(Record):
    """Everything a caller learns about one finished turn (contract 01 §7). `usage` is the parent's own."""

    session_id: str
    turn_id: str
    outcome: TurnOutcome
    assistant_output: AssistantOutput
    execution: ExecutionSummary
    head_revision: int | None = None
    cancellation: TurnCancellationEvidence | None = None
    usage: TokenUsage = TokenUsage()
    children_usage: tuple[TokenLedgerEntry, ...] = ()
    llm_calls: tuple[LlmCallRecord, ...] = ()
    tool_calls: tuple[ToolCallRecord, ...] = ()
    errors: tuple[TurnIssue, ...] = ()
    input_ids: tuple[str, ...] = ()

    @property
    def is_success(self) -> bool:
        """Whether the turn finished or moved on to another frame."""
        return isinstance(self.outcome, Finished | AgentFrameSwitch)

    def assistant_message(self) -> str | None:
        """The answer in prose, if that is how the turn finished."""
        match self.outcome:
            case Finished(finish=AssistantMessage(text=text)):
                return text
        return None

    @property
    def has_final_value(self) -> bool:
        """Whether the turn finished with a value of its own, such as the JSON that was asked for. The value may be
        None."""
        return isinstance(self.outcome, Finished) and isinstance(self.outcome.finish, FinalValue)

    def final_value(self) -> Any:
        """The value the turn finished with: JSON; None when it finished in another way."""
        match self.outcome:
            case Finished(finish=FinalValue(value=value)):
                return value
        return None

    def tool_value(self) -> Any:
        """The value a tool ended the turn with: JSON; None when none did."""
        match self.outcome:
            case Finished(finish=ToolValue(value=value)):
                return value
        return None

    def started_at(self) -> datetime:
        """When the turn began, in UTC."""
        from datetime import UTC, datetime  # who only reads results by their numbers needs none of it (design D16)

        return datetime.fromtimestamp(self.execution.started_at_ms / 1000, UTC)

    def duration(self) -> timedelta:
        """How long it took."""
        from datetime import timedelta

        return timedelta(milliseconds=self.execution.duration_ms)

    def total_usage(self) -> TokenUsage:
        """This turn's usage plus its children's."""
        total = self.usage
        for entry in self.children_usage:
            total = total + entry.usage
        return total
