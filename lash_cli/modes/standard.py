"""The standard protocol: the native tool loop (contract 06 §10).

Each iteration calls the model once. Calls in the answer are run as one batch,
answered in one message and followed by an after-work checkpoint; an answer
without calls opens the before-completion checkpoint and ends the turn unless
something came in. Failures of tools are fed back to the model; only a tool
control ends the turn. Pure: all memory is the transcript itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lash_cli.core.codec import encode
from lash_cli.core.content import Message, Role, ToolResultPart
from lash_cli.core.llm import LlmResponse, OutputSpec
from lash_cli.core.machine_records import (
    Append,
    ExecCompleted,
    Finish,
    ProtocolAction,
    StartCheckpoint,
    StartLlm,
    StartTools,
    TurnView,
)
from lash_cli.core.machine_rules import LLM_ISSUE, control_outcome, substantial_parts, tool_results_message
from lash_cli.core.outcome import AssistantMessage, FinalValue, Finished, Stopped, TurnIssue, TurnOutcome
from lash_cli.core.tools import ToolCallRecord
from lash_cli.errors import LashRuntimeError

if TYPE_CHECKING:
    from lash_cli.core.structured import JudgeAnswer

EMPTY_RESPONSE = "empty_response"


class StandardProtocol:
    """The driver of the standard mode. Stateless: one instance serves every turn.

    `has_grace` grants the model one iteration without calls at the turn limit;
    without it the turn stops there (the default). With an `output` the turn
    finishes with a value that `judge` accepts: an answer it does not accept is
    given back once, and the second ends the turn.
    """

    def __init__(
        self, *, has_grace: bool = False, output: OutputSpec | None = None, judge: JudgeAnswer | None = None
    ) -> None:
        self._has_grace = has_grace
        self._output = output
        self._judge = judge

    @property
    def has_grace(self) -> bool:
        """Whether the model may conclude once more at the turn limit."""
        return self._has_grace

    def prepare(self, turn: TurnView) -> Sequence[ProtocolAction]:
        """Nothing to set up."""
        return ()

    def begin_iteration(self, turn: TurnView) -> Sequence[ProtocolAction]:
        """Call the model, which may call tools unless this is the grace iteration."""
        return (StartLlm(tools_allowed=not turn.is_grace),)

    def model_answered(self, turn: TurnView, response: LlmResponse) -> Sequence[ProtocolAction]:
        """Keep the answer as one message in wire order; run its calls, or complete."""
        parts = substantial_parts(response.parts)
        if not parts:
            return self._empty_answer(turn)
        answer = Append((Message("", Role.ASSISTANT, parts),))
        calls = response.tool_calls
        if calls:
            return (answer, StartTools(calls))
        return (answer, *self._completion(turn, response.full_text))

    def tools_answered(
        self, turn: TurnView, records: tuple[ToolCallRecord, ...], projections: tuple[str, ...]
    ) -> Sequence[ProtocolAction]:
        """Feed all results back as one message; the first effective control ends the turn."""
        results = Append((tool_results_message(records, projections),))
        outcome = control_outcome(records)
        if outcome is None:
            return (results, StartCheckpoint("after_work"))
        return (results, Finish(outcome, _control_issues(outcome)))

    def exec_answered(self, turn: TurnView, completed: ExecCompleted) -> Sequence[ProtocolAction]:
        """Raises `LashRuntimeError` (`protocol_without_code`): this protocol never starts a program."""
        raise LashRuntimeError("protocol_without_code", "the standard protocol runs no programs")

    def _completion(self, turn: TurnView, text: str) -> Sequence[ProtocolAction]:
        """What follows a complete answer: prose ends the turn, and where a value is wanted, the value does."""
        if self._output is None or self._judge is None:
            return (_ending(AssistantMessage(text)),)
        from lash_cli.core.structured import (  # most turns end with prose
            FittingAnswer,
            UnfitAnswer,
            repair_message,
            unfit_issue,
            was_repaired,
        )

        match self._judge(text):
            case FittingAnswer(value=value):
                return (_ending(FinalValue(value)),)
            case UnfitAnswer(problem=problem) if was_repaired(turn.messages):
                return (Finish(Stopped("provider_error"), (unfit_issue(problem),)),)
            case UnfitAnswer(problem=problem):
                repair = Append((repair_message(self._output, problem),))
                return (repair, StartCheckpoint("after_work"))

    def _empty_answer(self, turn: TurnView) -> Sequence[ProtocolAction]:
        """An empty answer right after tool results means "nothing to add"; anywhere else the provider failed.

        No empty message is appended: wires refuse them in the next request.
        """
        last = turn.messages[-1] if turn.messages else None
        if last is not None and any(isinstance(part, ToolResultPart) for part in last.parts):
            return self._completion(turn, "")
        return (Finish(Stopped("provider_error"), (_nothing_answered(),)),)


def _ending(finish: AssistantMessage | FinalValue) -> StartCheckpoint:
    return StartCheckpoint("before_completion", on_empty=Finish(Finished(finish)))


def _nothing_answered() -> TurnIssue:
    return TurnIssue(
        LLM_ISSUE,
        "the model answered with neither text nor a tool call",
        code=EMPTY_RESPONSE,
        terminal_reason="provider_error",
        retryable=False,
    )


def _control_issues(outcome: TurnOutcome) -> tuple[TurnIssue, ...]:
    match outcome:
        case Stopped(reason="tool_error", value=value, tool_name=tool_name):
            text = value.get("message", "") if isinstance(value, dict) else str(value)
            code = value.get("code") if isinstance(value, dict) else None
            message = f"{tool_name}: {text}"
            said = _said_by_tool(value, message)
            return (TurnIssue("tool", message, code=code, retryable=False, raw=said),)
    return ()


def _said_by_tool(failure: object, message: str) -> str | None:
    """What a failing tool gave programs beside its text, as an issue keeps it."""
    raw = failure.get("raw") if isinstance(failure, dict) else None
    if raw is None:
        return None
    from lash_cli.core.redaction import kept_raw  # hardly any turn ends here

    return kept_raw(raw if isinstance(raw, str) else encode(raw).decode(), message)
