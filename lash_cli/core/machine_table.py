"""The turn's state table: every state, every event, every legal move (contract 01 §6.1, §6.3).

Theory of operation. A turn is one machine that never does anything itself: it
hands out *effects* and is fed *responses*. It is always in exactly one state,
and a state answers one question: what is the turn waiting for?

    PREPARING_PROTOCOL ──► PREPARE_ITERATION ──► WAITING_EXECUTION_ENVIRONMENT ─┐
                             ▲    │   ▲                                         │
                             │    │   └─────────────────────────────────────────┘
                             │    ├──► WAITING_LLM ─────────┐
                             │    ├──► WAITING_TOOLS ───────┤ the response brings
                             │    ├──► WAITING_EXEC ────────┤ the turn back here
                             │    └──► WAITING_CHECKPOINT ──┤
                             └──────────────────────────────┘
    every state but FINISHED ──FINISH──► FINISHED

`PREPARE_ITERATION` is the only state in which the protocol decides: nothing is
awaited there, so nothing can race with a decision. A response always leads
back to it first and the decision then leads on, so a turn cannot go from one
wait to another without the protocol having seen the answer.

Rule of this file: what depends only on (state, event) stands here and nowhere
else. What depends on content (limits, terminal reasons, controls) stands in
`machine_rules`; what a turn remembers stands in `machine`.
"""

from __future__ import annotations

from enum import StrEnum

from lash_cli.errors import LashRuntimeError


class MachineState(StrEnum):
    """What a turn is waiting for."""

    PREPARING_PROTOCOL = "preparing_protocol"
    PREPARE_ITERATION = "prepare_iteration"
    WAITING_EXECUTION_ENVIRONMENT = "waiting_execution_environment"
    WAITING_LLM = "waiting_llm"
    WAITING_TOOLS = "waiting_tools"
    WAITING_EXEC = "waiting_exec"
    WAITING_CHECKPOINT = "waiting_checkpoint"
    FINISHED = "finished"


class MachineEvent(StrEnum):
    """What moves a turn. Requests lead into a wait, answers lead out of it."""

    APPEND = "append"
    PROTOCOL_PREPARED = "protocol_prepared"
    ITERATION_ADVANCED = "iteration_advanced"
    ENVIRONMENT_REQUESTED = "environment_requested"
    ENVIRONMENT_ANSWERED = "environment_answered"
    LLM_REQUESTED = "llm_requested"
    LLM_ANSWERED = "llm_answered"
    TOOLS_REQUESTED = "tools_requested"
    TOOLS_ANSWERED = "tools_answered"
    EXEC_REQUESTED = "exec_requested"
    EXEC_ANSWERED = "exec_answered"
    CHECKPOINT_REQUESTED = "checkpoint_requested"
    CHECKPOINT_ANSWERED = "checkpoint_answered"
    FINISH = "finish"


_State, _Event = MachineState, MachineEvent

TRANSITIONS: dict[MachineState, dict[MachineEvent, MachineState]] = {
    _State.PREPARING_PROTOCOL: {
        _Event.APPEND: _State.PREPARING_PROTOCOL,
        _Event.PROTOCOL_PREPARED: _State.PREPARE_ITERATION,
        _Event.FINISH: _State.FINISHED,
    },
    _State.PREPARE_ITERATION: {
        _Event.APPEND: _State.PREPARE_ITERATION,
        _Event.ITERATION_ADVANCED: _State.PREPARE_ITERATION,
        _Event.ENVIRONMENT_REQUESTED: _State.WAITING_EXECUTION_ENVIRONMENT,
        _Event.LLM_REQUESTED: _State.WAITING_LLM,
        _Event.TOOLS_REQUESTED: _State.WAITING_TOOLS,
        _Event.EXEC_REQUESTED: _State.WAITING_EXEC,
        _Event.CHECKPOINT_REQUESTED: _State.WAITING_CHECKPOINT,
        _Event.FINISH: _State.FINISHED,
    },
    _State.WAITING_EXECUTION_ENVIRONMENT: {
        _Event.ENVIRONMENT_ANSWERED: _State.PREPARE_ITERATION,
        _Event.FINISH: _State.FINISHED,
    },
    _State.WAITING_LLM: {
        _Event.LLM_ANSWERED: _State.PREPARE_ITERATION,
        _Event.FINISH: _State.FINISHED,
    },
    _State.WAITING_TOOLS: {
        _Event.TOOLS_ANSWERED: _State.PREPARE_ITERATION,
        _Event.FINISH: _State.FINISHED,
    },
    _State.WAITING_EXEC: {
        _Event.EXEC_ANSWERED: _State.PREPARE_ITERATION,
        _Event.FINISH: _State.FINISHED,
    },
    _State.WAITING_CHECKPOINT: {
        _Event.CHECKPOINT_ANSWERED: _State.PREPARE_ITERATION,
        _Event.FINISH: _State.FINISHED,
    },
    _State.FINISHED: {},
}

ILLEGAL_TRANSITION = "illegal_turn_transition"


def next_state(state: MachineState, event: MachineEvent) -> MachineState:
    """The state after `event`.

    Raises `LashRuntimeError` (`illegal_turn_transition`) for a pair the table
    does not name: that is a fault of the protocol or of the engine, never of
    the model or of the user.
    """
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise LashRuntimeError(
            ILLEGAL_TRANSITION,
            f"a turn that is {state.value} cannot take {event.value}",
            details={"state": state.value, "event": event.value},
        ) from None
