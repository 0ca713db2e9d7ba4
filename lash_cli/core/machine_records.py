"""The vocabulary of the turn machine: effects out, responses in, actions of a protocol (contract 01 §6.2).

All of it is data, so an effect can be journalled and a response replayed. The
conversation before this turn is not here: the machine holds only the *tail*,
the messages of its own turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec

from lash_cli.core.activity import TurnEvent
from lash_cli.core.codec import Record
from lash_cli.core.content import Message, ToolCallPart
from lash_cli.core.ingress import Boundary
from lash_cli.core.llm import LlmCallRecord, LlmCallResult, LlmResponse
from lash_cli.core.outcome import TurnIssue, TurnOutcome
from lash_cli.core.pricing import CostLimit
from lash_cli.core.tools import ToolCallRecord
from lash_cli.core.usage import TokenUsage


class MachineConfig(Record):
    """What bounds one turn.

    `max_turns` limits the model iterations of this turn; iterations are
    numbered from `run_offset`. `context_window_tokens` is what the zero-output
    rule compares with; None means unknown and switches that rule off.
    `cost_limit` bounds what its model calls cost together.
    """

    turn_id: str
    max_turns: int | None = None
    context_window_tokens: int | None = None
    run_offset: int = 0
    cost_limit: CostLimit | None = None


class LlmCallEffect(Record, tag="llm_call", tag_field="effect"):
    """Call the model with the conversation so far and `tail`; answered by `LlmComplete`."""

    effect_id: int
    iteration: int
    tail: tuple[Message, ...]
    tools_allowed: bool = True


class ToolCallsEffect(Record, tag="tool_calls", tag_field="effect"):
    """Run one batch; answered by `ToolResults`."""

    effect_id: int
    iteration: int
    calls: tuple[ToolCallPart, ...]


class ExecCodeEffect(Record, tag="exec_code", tag_field="effect"):
    """Run one program of the code mode; answered by `ExecCompleted`."""

    effect_id: int
    iteration: int
    language: str
    code: str


class CheckpointEffect(Record, tag="checkpoint", tag_field="effect"):
    """Offer queued input a place in this turn; answered by `CheckpointDelivery`."""

    effect_id: int
    iteration: int
    checkpoint: Boundary


class SyncEnvironmentEffect(Record, tag="sync_environment", tag_field="effect"):
    """Bring tools, prompt and limits up to date; once per iteration; answered by `EnvironmentSynced`."""

    effect_id: int
    iteration: int


class EmitEffect(Record, tag="emit", tag_field="effect"):
    """Show an event; nothing is awaited."""

    event: TurnEvent


class ProgressEffect(Record, tag="progress", tag_field="effect"):
    """An iteration ended; nothing is awaited."""

    iteration: int


class DoneEffect(Record, tag="done", tag_field="effect"):
    """The turn is over. Always the last effect, and its `messages` are always safe to resume.

    `messages` is the whole tail, opening and transient messages included;
    `usage` is the cost of all attempts of all calls, `last_usage` what the
    last call that reported tokens said about the context.
    """

    outcome: TurnOutcome
    messages: tuple[Message, ...] = ()
    issues: tuple[TurnIssue, ...] = ()
    tool_calls: tuple[ToolCallRecord, ...] = ()
    llm_calls: tuple[LlmCallRecord, ...] = ()
    usage: TokenUsage = TokenUsage()
    last_usage: TokenUsage = TokenUsage()
    iterations: int = 0
    had_code_execution: bool = False


AwaitedEffect = LlmCallEffect | ToolCallsEffect | ExecCodeEffect | CheckpointEffect | SyncEnvironmentEffect
MachineEffect = AwaitedEffect | EmitEffect | ProgressEffect | DoneEffect


class EnvironmentSynced(Record):
    """The environment is current, or `error` says why it cannot be."""

    error: str | None = None


class LlmComplete(Record):
    """What the retry ladder returned."""

    result: LlmCallResult


class ToolResults(Record):
    """One record per call. `projections` is the text the model reads, per record; empty means the default text."""

    records: tuple[ToolCallRecord, ...]
    projections: tuple[str, ...] = ()


class ExecCompleted(Record):
    """What a program did: its output, its error, an outcome it chose, and the calls it made."""

    output: str = ""
    error: str | None = None
    outcome: TurnOutcome | None = None
    tool_calls: tuple[ToolCallRecord, ...] = ()


class CheckpointDelivery(Record):
    """What entered at a checkpoint, in order: user inputs, plugin messages, transient ones, causes.

    `abort` is a plugin's veto: the turn stops after the messages were taken in.
    """

    messages: tuple[Message, ...] = ()
    abort: TurnIssue | None = None


MachineResponse = EnvironmentSynced | LlmComplete | ToolResults | ExecCompleted | CheckpointDelivery


class Append(Record):
    """Add messages to the tail. A message with an empty id is given the turn's next id."""

    messages: tuple[Message, ...]


class Emit(Record):
    """Show an event."""

    event: TurnEvent


class Finish(Record):
    """End the turn; later actions of the same batch are dropped."""

    outcome: TurnOutcome
    issues: tuple[TurnIssue, ...] = ()


class StartLlm(Record):
    """Call the model."""

    tools_allowed: bool = True


class StartTools(Record):
    """Run a batch of calls the tail already holds."""

    calls: tuple[ToolCallPart, ...]


class StartExec(Record):
    """Run a program."""

    code: str
    language: str = "lua"


class StartCheckpoint(Record):
    """Open a checkpoint. Messages lead to another iteration; without any, `on_empty` decides."""

    kind: Boundary
    on_empty: Literal["continue"] | Finish = "continue"


ProtocolAction = Append | Emit | Finish | StartLlm | StartTools | StartExec | StartCheckpoint


class TurnView(msgspec.Struct, frozen=True):
    """What a protocol may look at. `is_grace` marks the one iteration granted beyond the limit."""

    turn_id: str
    iteration: int
    messages: tuple[Message, ...]
    is_grace: bool = False


class ProtocolDriver(Protocol):
    """A turn protocol: pure functions from what happened to what comes next.

    Every decision but `prepare` must end in a start action or `Finish`; the
    machine refuses a batch that leads nowhere. A response reaches the protocol
    only if its terminal reason is stop, tool_use or unknown.
    """

    @property
    def has_grace(self) -> bool:
        """Whether one more iteration is granted at the turn limit, to let the model conclude."""
        ...

    def prepare(self, turn: TurnView) -> Sequence[ProtocolAction]:
        """Before the first iteration: append, emit or finish only."""
        ...

    def begin_iteration(self, turn: TurnView) -> Sequence[ProtocolAction]:
        """The environment is in sync; usually starts the model call."""
        ...

    def model_answered(self, turn: TurnView, response: LlmResponse) -> Sequence[ProtocolAction]:
        """A complete answer whose calls have unique non-blank ids."""
        ...

    def tools_answered(
        self, turn: TurnView, records: tuple[ToolCallRecord, ...], projections: tuple[str, ...]
    ) -> Sequence[ProtocolAction]:
        """Every call of the batch has its record, in source order."""
        ...

    def exec_answered(self, turn: TurnView, completed: ExecCompleted) -> Sequence[ProtocolAction]:
        """A program ended."""
        ...
