"""The state table, walked whole (contract 01 §6.3)."""

import pytest

from lash_cli.core.machine_table import TRANSITIONS, MachineEvent, TurnState, next_state
from lash_cli.errors import LashRuntimeError

ANSWERS = {
    (TurnState.WAITING_EXECUTION_ENVIRONMENT, MachineEvent.ENVIRONMENT_ANSWERED),
    (TurnState.WAITING_LLM, MachineEvent.LLM_ANSWERED),
    (TurnState.WAITING_TOOLS, MachineEvent.TOOLS_ANSWERED),
    (TurnState.WAITING_EXEC, MachineEvent.EXEC_ANSWERED),
    (TurnState.WAITING_CHECKPOINT, MachineEvent.CHECKPOINT_ANSWERED),
}
REQUESTS = {
    MachineEvent.ENVIRONMENT_REQUESTED: TurnState.WAITING_EXECUTION_ENVIRONMENT,
    MachineEvent.LLM_REQUESTED: TurnState.WAITING_LLM,
    MachineEvent.TOOLS_REQUESTED: TurnState.WAITING_TOOLS,
    MachineEvent.EXEC_REQUESTED: TurnState.WAITING_EXEC,
    MachineEvent.CHECKPOINT_REQUESTED: TurnState.WAITING_CHECKPOINT,
}


def expected(state: TurnState, event: MachineEvent) -> TurnState | None:
    """The contract's rules, written independently of the table."""
    if state is TurnState.FINISHED:
        return None
    if event is MachineEvent.FINISH:
        return TurnState.FINISHED
    if (state, event) in ANSWERS:
        return TurnState.PREPARE_ITERATION
    if state is TurnState.PREPARING_PROTOCOL:
        return {
            MachineEvent.APPEND: TurnState.PREPARING_PROTOCOL,
            MachineEvent.PROTOCOL_PREPARED: TurnState.PREPARE_ITERATION,
        }.get(event)
    if state is TurnState.PREPARE_ITERATION:
        if event in (MachineEvent.APPEND, MachineEvent.ITERATION_ADVANCED):
            return state
        return REQUESTS.get(event)
    return None


@pytest.mark.parametrize("event", list(MachineEvent))
@pytest.mark.parametrize("state", list(TurnState))
def test_every_pair_of_state_and_event_follows_the_contract_or_raises(state: TurnState, event: MachineEvent) -> None:
    wanted = expected(state, event)
    if wanted is not None:
        assert next_state(state, event) is wanted
        return
    with pytest.raises(LashRuntimeError) as raised:
        next_state(state, event)
    assert raised.value.code == "illegal_turn_transition"
    assert raised.value.details == {"state": state.value, "event": event.value}


def test_every_state_has_a_row_and_every_state_is_reachable() -> None:
    assert set(TRANSITIONS) == set(TurnState)
    reached = {TurnState.PREPARING_PROTOCOL}
    while True:
        more = reached | {target for state in reached for target in TRANSITIONS[state].values()}
        if more == reached:
            break
        reached = more
    assert reached == set(TurnState)


def test_nothing_leaves_finished_and_everything_can_reach_it() -> None:
    assert TRANSITIONS[TurnState.FINISHED] == {}
    for state in set(TurnState) - {TurnState.FINISHED}:
        assert TRANSITIONS[state][MachineEvent.FINISH] is TurnState.FINISHED


def test_state_names_are_the_snake_case_of_the_contract() -> None:
    assert [state.value for state in TurnState] == [state.name.lower() for state in TurnState]
