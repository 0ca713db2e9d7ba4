"""Shapes of the lines of JSONL streams: `turn`, `work`, `tail`, `log --follow`, `ls --watch` (contract 08 §6.5).

Every line has the keys of `Line` and those of its type, whichever stream it is
in. Unknown types must be skipped by readers.
"""

from __future__ import annotations

from typing import Any

from lash_cli.cli.schemas.queue import PendingInput
from lash_cli.cli.schemas.sessions import (
    LedgerEntry,
    ModelCall,
    Outcome,
    SessionItem,
    ToolCall,
    Usage,
)
from lash_cli.cli.schemas.setup import Error
from lash_cli.cli.schemas.shape import Count, Shape, Time
from lash_cli.cli.schemas.transcripts import MessageItem
from lash_cli.core.graph import CausalRef
from lash_cli.core.outcome import TurnCancellationEvidence, TurnIssue
from lash_cli.core.tools import ToolCancelled, ToolFailed, ToolSuccess


class Line(Shape):
    """What every line has. `v`: version; `seq` counts the lines of the stream; `cursor` is where a reader of the line
    goes on from, null where that is not known."""

    v: int
    seq: Count
    t: Time
    session: str | None
    turn: str | None
    cursor: str | None


class NamedSession(Shape):
    """A session of a stream of several."""

    id: str
    name: str


class StreamStart(Shape, rename={"begun": "from"}):
    """The first line. `mode`: turn, work, tail, chat, log or ls; `from` is where the stream was asked to begin."""

    protocol_version: int
    mode: str
    begun: str | None
    session_name: str | None
    sessions: list[NamedSession] | None


class StreamError(Error):
    """The error a stream ended with."""

    schema: str
    kind: str


class StreamEnd(Shape):
    """The last line. `reason`: turn, idle, queued, signal, timeout, error, or why a worker or a tail stopped."""

    reason: str
    exit: int
    error: StreamError | None


class TurnStarted(Shape):
    """A turn holds its lane. `origin`: prompt, queue or wake; `redriven` marks one resumed after a crash."""

    origin: str
    input_ids: list[str]
    redriven: bool


class TurnFinished(Shape):
    """How a turn ended; null where a stream does not know it."""

    turn_id: str | None
    ok: bool
    replayed: bool | None
    outcome: Outcome
    text: str | None
    partial_text: str | None
    usage: Usage | None
    children_usage: list[LedgerEntry] | None
    total_usage: Usage | None
    tool_calls: list[ToolCall] | None
    errors: list[TurnIssue] | None
    model_calls: list[ModelCall] | None
    cancellation: TurnCancellationEvidence | None
    head_revision: int | None
    input_ids: list[str] | None
    started_at: Time | None
    duration_ms: Count | None


class ModelRequestStarted(Shape):
    """A model call begins; iterations count from 0."""

    iteration: Count


class Retry(Shape):
    """A wait before attempt `attempt` of `max`."""

    wait_s: float
    wait_ms: Count
    attempt: int
    max: int
    reason: str


class TextDelta(Shape):
    """Text of the answer, a preview until `committed`; an `attempt_reset` may retract it by its id."""

    correlation_id: str
    text: str


class ReasoningDelta(Shape):
    """Reasoning, as `text_delta`."""

    correlation_id: str
    text: str


class AttemptReset(Shape):
    """Text and reasoning with these ids are retracted; empty lists only mark the boundary of an attempt."""

    text_ids: list[str]
    reasoning_ids: list[str]


class ToolStarted(Shape):
    """A call begins."""

    call_id: str
    name: str
    args: Any
    parent_call_id: str | None


class ToolProgress(Shape):
    """Output of a running tool; best effort."""

    call_id: str
    text: str


class ToolCompleted(Shape):
    """A call ended. `status`: ok, error or cancelled."""

    call_id: str
    name: str
    args: Any
    status: str
    output: ToolSuccess | ToolFailed | ToolCancelled
    duration_ms: Count
    parent_call_id: str | None


class CodeStarted(Shape):
    """A block of code begins to run."""

    language: str
    code: str
    graph_key: str | None


class CodeCompleted(Shape):
    """A block of code ended."""

    language: str
    output: str
    success: bool
    duration_ms: Count
    error: str | None
    tool_call_ids: list[str]
    graph_key: str | None


class FinalValue(Shape):
    """The turn ended with a value of its own."""

    value: Any


class ToolValue(Shape):
    """The turn ended with a tool's value."""

    tool_name: str
    value: Any


class UsageLine(Shape):
    """Tokens of one model call and of the turn so far."""

    iteration: Count
    usage: Usage
    cumulative: Usage


class ChildUsage(Shape):
    """Tokens of a child turn."""

    child_session: str
    source: str
    model: str
    iteration: Count
    usage: Usage
    cumulative: Usage


class InputAccepted(Shape):
    """A checkpoint took queued inputs into the running turn."""

    checkpoint: str
    input_ids: list[str]


class WorkStarted(Shape):
    """A turn took queued work."""

    boundary: str
    batch_ids: list[str]
    causes: list[CausalRef]


class QueueChanged(Shape):
    """A queue changed. `kind`: enqueued, cancelled, applied or held; `input` is the receipt of a text that this
    command queued, `reason` that of a hold. Fetch the queue again."""

    kind: str
    ids: list[str]
    input: PendingInput | None
    reason: str | None


class ProcessChanged(Shape):
    """Background processes were started or cancelled."""

    kind: str
    ids: list[str]


class FrameSwitched(Shape):
    """The commit that follows makes `frame_id` the current frame."""

    frame_id: str


class ResidentChanged(Shape):
    """The session was closed, parked, opened again, held or released: nothing was committed, so look at it again and
    settle no preview."""


class Committed(Shape):
    """The only line that makes text permanent."""

    revision: int
    head_node: str | None


class Gap(Shape):
    """Events may be missing: start again from the `snapshot` that follows, or from the transcript."""

    reason: str
    requested_cursor: str
    latest_cursor: str
    latest_revision: int


class Snapshot(Shape):
    """The committed state a reader replaces its own by."""

    revision: int | None
    head_node: str | None
    turns: Count
    usage: Usage
    messages: list[MessageItem]


class MessageLine(Shape):
    """A committed message (`log --follow`). The last one of a commit has its cursor."""

    message: MessageItem


class SessionLine(Shape):
    """A session that came, changed or went (`ls --watch`). `change`: added, changed or removed."""

    change: str
    item: SessionItem


class ErrorLine(Shape):
    """Something went wrong that the turn reports."""

    issue: TurnIssue


class WarningLine(Shape):
    """A worker left something: a pass failed, or a lane is busy."""

    code: str
    message: str
    retry_in_ms: Count | None


class Heartbeat(Shape):
    """The stream is alive; only with `--heartbeat DUR`."""


class Plugin(Shape):
    """A plugin shows something."""

    plugin_id: str
    event: Any
