"""Builders and a driver for turn-machine tests: a script of model answers goes in, a finished run comes out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from lash_cli.core.activity import TurnEvent
from lash_cli.core.content import Message, ProsePart, ReasoningPart, Role, TextPart, ToolCallPart
from lash_cli.core.llm import (
    AttemptRecord,
    ExecutionEvidence,
    LlmCallRecord,
    LlmCallResult,
    LlmResponse,
    NormalizedError,
    TerminalReason,
)
from lash_cli.core.machine import TurnMachine
from lash_cli.core.machine_records import (
    CheckpointDelivery,
    CheckpointEffect,
    DoneEffect,
    EmitEffect,
    EnvironmentSynced,
    ExecCodeEffect,
    ExecCompleted,
    LlmCallEffect,
    LlmComplete,
    MachineConfig,
    MachineEffect,
    ProtocolDriver,
    SyncEnvironmentEffect,
    ToolCallsEffect,
    ToolResults,
)
from lash_cli.core.tools import ToolCallOutput, ToolCallRecord, success
from lash_cli.core.usage import TokenUsage
from lash_cli.modes.standard import StandardProtocol

TURN = "t_1"
OPENING = (Message("in_1", Role.USER, (TextPart("hello"),)),)


def machine(
    driver: ProtocolDriver | None = None, *, opening: tuple[Message, ...] = OPENING, **config: Any
) -> TurnMachine:
    """A machine of turn `t_1` under the standard protocol unless told otherwise."""
    return TurnMachine(MachineConfig(TURN, **config), driver or StandardProtocol(), opening)


def user(message_id: str, text: str = "more") -> Message:
    """A delivered user message."""
    return Message(message_id, Role.USER, (TextPart(text),))


def call(call_id: str = "c1", name: str = "read", args: str = "{}") -> ToolCallPart:
    """A tool call of the model."""
    return ToolCallPart(call_id, name, args)


def answer(
    *parts: str | ToolCallPart | ReasoningPart,
    reason: TerminalReason | None = None,
    usage: TokenUsage | None = None,
    streamed: bool = True,
    diagnostic: str | None = None,
    finish_reason: str | None = None,
) -> LlmComplete:
    """A complete answer; strings become prose. Its record holds one attempt with the same usage."""
    wire = tuple(ProsePart(part) if isinstance(part, str) else part for part in parts)
    has_calls = any(isinstance(part, ToolCallPart) for part in wire)
    usage = usage or TokenUsage(10, 5)
    reason = reason or (TerminalReason.TOOL_USE if has_calls else TerminalReason.STOP)
    evidence = ExecutionEvidence(provider_finish_reason=finish_reason) if finish_reason is not None else None
    response = LlmResponse(wire, usage, reason, diagnostic, evidence=evidence)
    return LlmComplete(LlmCallResult(record(usage), response, text_streamed=streamed))


def failed(
    kind: str = "http",
    *,
    reason: TerminalReason = TerminalReason.PROVIDER_ERROR,
    retryable: bool = False,
    usage: TokenUsage | None = None,
    code: str | None = None,
    raw: str | None = None,
) -> LlmComplete:
    """A call whose attempts all failed."""
    error = NormalizedError(kind, "it broke", code=code, retryable=retryable, terminal_reason=reason)
    return LlmComplete(LlmCallResult(record(usage or TokenUsage()), error=error, raw=raw))


def record(*usages: TokenUsage) -> LlmCallRecord:
    """A call record with one attempt per usage."""
    attempts = tuple(
        AttemptRecord(ordinal, 0, 1, "completed", "terminal_observed", usage=usage)
        for ordinal, usage in enumerate(usages, 1)
    )
    return LlmCallRecord("call", attempts)


def results(effect: ToolCallsEffect, *outputs: ToolCallOutput, projections: tuple[str, ...] = ()) -> ToolResults:
    """Records for a batch; the default output of a call is the text `ok <id>`."""
    records = tuple(
        ToolCallRecord(
            part.tool_call_id,
            part.tool_name,
            {},
            outputs[index] if index < len(outputs) else success(f"ok {part.tool_call_id}"),
        )
        for index, part in enumerate(effect.calls)
    )
    return ToolResults(records, projections)


@dataclass
class Run:
    """What a driven turn produced, in order."""

    effects: list[MachineEffect] = field(default_factory=list)

    @property
    def done(self) -> DoneEffect:
        """The end of the turn; fails the test unless it is the last effect and the only one."""
        assert [type(effect) for effect in self.effects].count(DoneEffect) == 1
        last = self.effects[-1]
        assert isinstance(last, DoneEffect)
        return last

    @property
    def events(self) -> list[TurnEvent]:
        """The events shown."""
        return [effect.event for effect in self.effects if isinstance(effect, EmitEffect)]

    def of(self, *kinds: type) -> list[Any]:
        """The effects of the given kinds."""
        return [effect for effect in self.effects if isinstance(effect, kinds)]

    def kinds(self) -> list[str]:
        """Names of the awaited effects, in order."""
        names = {
            SyncEnvironmentEffect: "sync",
            LlmCallEffect: "llm",
            ToolCallsEffect: "tools",
            ExecCodeEffect: "exec",
            CheckpointEffect: "checkpoint",
        }
        return [
            effect.checkpoint if isinstance(effect, CheckpointEffect) else names[type(effect)]
            for effect in self.effects
            if type(effect) in names
        ]


def drive(
    turn: TurnMachine,
    answers: Iterable[LlmComplete] = (),
    *,
    tools: Callable[[ToolCallsEffect], ToolResults] = results,
    deliveries: Iterable[CheckpointDelivery] = (),
    programs: Iterable[ExecCompleted] = (),
) -> Run:
    """Drive a turn to its end: model answers, deliveries and program results are taken from the scripts in order."""
    model, checkpoints, code = iter(answers), iter(deliveries), iter(programs)
    run = Run()
    while (effect := turn.poll()) is not None:
        run.effects.append(effect)
        match effect:
            case SyncEnvironmentEffect():
                assert turn.respond(effect.effect_id, EnvironmentSynced())
            case LlmCallEffect():
                assert turn.respond(effect.effect_id, next(model))
            case ToolCallsEffect():
                assert turn.respond(effect.effect_id, tools(effect))
            case ExecCodeEffect():
                assert turn.respond(effect.effect_id, next(code))
            case CheckpointEffect():
                assert turn.respond(effect.effect_id, next(checkpoints, CheckpointDelivery()))
    return run


def run_to(turn: TurnMachine, kind: type, answers: Iterable[LlmComplete] = ()) -> Any:
    """Drive a turn until an effect of `kind` is handed out and unanswered; returns that effect."""
    model = iter(answers)
    while (effect := turn.poll()) is not None:
        match effect:
            case _ if isinstance(effect, kind):
                return effect
            case SyncEnvironmentEffect():
                turn.respond(effect.effect_id, EnvironmentSynced())
            case LlmCallEffect():
                turn.respond(effect.effect_id, next(model))
            case ToolCallsEffect():
                turn.respond(effect.effect_id, results(effect))
            case CheckpointEffect():
                turn.respond(effect.effect_id, CheckpointDelivery())
    raise AssertionError(f"the turn never asked for {kind.__name__}")
