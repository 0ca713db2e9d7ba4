"""The state table, walked whole (contract 01 §6.3)."""

import pytest

from lash_cli.core.machine_table import TRANSITIONS, MachineEvent, MachineState, next_state
from lash_cli.errors import LashRuntimeError

ANSWERS = {
    (MachineState.WAITING_EXECUTION_ENVIRONMENT, MachineEvent.ENVIRONMENT_ANSWERED),
    (MachineState.WAITING_LLM, MachineEvent.LLM_ANSWERED),
    (MachineState.WAITING_TOOLS, MachineEvent.TOOLS_ANSWERED),
    (MachineState.WAITING_EXEC, MachineEvent.EXEC_ANSWERED),
    (MachineState.WAITING_CHECKPOINT, MachineEvent.CHECKPOINT_ANSWERED),
}
REQUESTS = {
    MachineEvent.ENVIRONMENT_REQUESTED: MachineState.WAITING_EXECUTION_ENVIRONMENT,
    MachineEvent.LLM_REQUESTED: MachineState.WAITING_LLM,
    MachineEvent.TOOLS_REQUESTED: MachineState.WAITING_TOOLS,
    MachineEvent.EXEC_REQUESTED: MachineState.WAITING_EXEC,
    MachineEvent.CHECKPOINT_REQUESTED: MachineState.WAITING_CHECKPOINT,
}


def expected(state: MachineState, event: MachineEvent) -> MachineState | None:
    """The contract's rules, written independently of the table."""
    if state is MachineState.FINISHED:
        return None
    if event is MachineEvent.FINISH:
        return MachineState.FINISHED
    if (state, event) in ANSWERS:
        return MachineState.PREPARE_ITERATION
    if state is MachineState.PREPARING_PROTOCOL:
        return {
            MachineEvent.APPEND: MachineState.PREPARING_PROTOCOL,
            MachineEvent.PROTOCOL_PREPARED: MachineState.PREPARE_ITERATION,
        }.get(event)
    if state is MachineState.PREPARE_ITERATION:
        if event in (MachineEvent.APPEND, MachineEvent.ITERATION_ADVANCED):
            return state
        return REQUESTS.get(event)
    return None


@pytest.mark.parametrize("event", list(MachineEvent))
@pytest.mark.parametrize("state", list(MachineState))
def test_every_pair_of_state_and_event_follows_the_contract_or_raises(state: MachineState, event: MachineEvent) -> None:
    wanted = expected(state, event)
    if wanted is not None:
        assert next_state(state, event) is wanted
        return
    with pytest.raises(LashRuntimeError) as raised:
        next_state(state, event)
    assert raised.value.code == "illegal_turn_transition"
    assert raised.value.details == {"state": state.value, "event": event.value}


def test_every_state_has_a_row_and_every_state_is_reachable() -> None:
    assert set(TRANSITIONS) == set(MachineState)
    reached = {MachineState.PREPARING_PROTOCOL}
    while True:
        more = reached | {target for state in reached for target in TRANSITIONS[state].values()}
        if more == reached:
            break
        reached = more
    assert reached == set(MachineState)


def test_nothing_leaves_finished_and_everything_can_reach_it() -> None:
    assert TRANSITIONS[MachineState.FINISHED] == {}
    for state in set(MachineState) - {MachineState.FINISHED}:
        assert TRANSITIONS[state][MachineEvent.FINISH] is MachineState.FINISHED


def test_state_names_are_the_snake_case_of_the_contract() -> None:
    assert [state.value for state in MachineState] == [state.name.lower() for state in MachineState]
