"""A turn frozen between two steps, from `TurnMachine.checkpoint` and for `TurnMachine.restore` (contract 01 §6.3).

Pure data that survives JSON, so a host that journals no effects can keep it and
finish the turn elsewhere. lash itself keeps none: it drives a turn again from
the recorded outcomes of its effects (design D4). What the contract lists
besides has no place here: causes are messages of the tail, events are handed
out as they come, and whether an iteration is in sync is what `state` says.
"""

from __future__ import annotations

from typing import Final, Literal

from lash_cli.core.codec import Record
from lash_cli.core.content import Message
from lash_cli.core.llm import LlmCallRecord
from lash_cli.core.machine_records import (
    AwaitedEffect,
    CheckpointEffect,
    DoneEffect,
    ExecCodeEffect,
    Finish,
    LlmCallEffect,
    MachineConfig,
    MachineEffect,
    SyncEnvironmentEffect,
    ToolCallsEffect,
)
from lash_cli.core.machine_table import MachineState
from lash_cli.core.tools import ToolCallRecord
from lash_cli.core.usage import NO_USAGE, TokenUsage


class TurnCheckpoint(Record):
    """One turn between two steps. `pending_effects` are those to hand out, the awaited one among them also where it was
    handed out before; `messages` is the tail, which ends in unanswered calls while tools run. `spent` is what counts
    towards the cost limit, None once that is unknown."""

    config: MachineConfig
    state: MachineState
    messages: tuple[Message, ...]
    pending_effects: tuple[MachineEffect, ...]
    next_effect_id: int
    next_synthetic_message_id: int
    protocol_iteration: int
    iterations: int = 0
    is_grace: bool = False
    tools_allowed: bool = True
    had_code_execution: bool = False
    on_empty: Literal["continue"] | Finish = "continue"
    tool_calls: tuple[ToolCallRecord, ...] = ()
    llm_calls: tuple[LlmCallRecord, ...] = ()
    cumulative_usage: TokenUsage = NO_USAGE
    last_usage: TokenUsage = NO_USAGE
    spent: int | None = 0


# What each wait waits for.
_AWAITED: Final[dict[MachineState, type[AwaitedEffect]]] = {
    MachineState.WAITING_EXECUTION_ENVIRONMENT: SyncEnvironmentEffect,
    MachineState.WAITING_LLM: LlmCallEffect,
    MachineState.WAITING_TOOLS: ToolCallsEffect,
    MachineState.WAITING_EXEC: ExecCodeEffect,
    MachineState.WAITING_CHECKPOINT: CheckpointEffect,
}


def awaited_of(checkpoint: TurnCheckpoint) -> AwaitedEffect | None:
    """The effect whose answer the turn waits for, None where it waits for none.

    Raises `ValueError` for a checkpoint that no turn can have left: a wait without its own effect, an effect that
    nobody waits for, one whose id is not the newest, or a `DoneEffect` that is not the last one of a finished turn.
    """
    pending = checkpoint.pending_effects
    awaited = [effect for effect in pending if isinstance(effect, AwaitedEffect)]
    kind = _AWAITED.get(checkpoint.state)
    if [type(effect) for effect in awaited] != ([] if kind is None else [kind]):
        raise ValueError(f"a turn that is {checkpoint.state.value} does not wait for {awaited}")
    if awaited and awaited[0].effect_id != checkpoint.next_effect_id - 1:
        raise ValueError(f"the awaited effect {awaited[0].effect_id} is not the newest of the turn")
    if any(isinstance(effect, DoneEffect) for effect in pending[:-1]) or (
        bool(pending) and isinstance(pending[-1], DoneEffect) is not (checkpoint.state is MachineState.FINISHED)
    ):
        raise ValueError("a turn is done with its last effect, and only then")
    return awaited[0] if awaited else None
