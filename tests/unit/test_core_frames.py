"""Agent frames (contract 01 §11)."""

import msgspec
import pytest

from lash_cli.core.content import ProtocolTurnOptions
from lash_cli.core.frames import (
    AgentFrame,
    FrameStatus,
    current_frame,
    initial_frame,
    initial_frame_id,
    open_frame,
    with_policy,
)
from lash_cli.core.graph import CausalRef
from lash_cli.core.policy import ModelSpec, SessionPolicy
from lash_cli.errors import ConflictError

POLICY = SessionPolicy(ModelSpec("m"), "p")
FIRST = (initial_frame("s", POLICY, 1),)


def test_a_session_begins_in_its_initial_frame() -> None:
    assert initial_frame_id("s") == "s:frame:initial"
    frame = current_frame(FIRST)
    assert (frame.frame_id, frame.reason, frame.assignment.policy) == ("s:frame:initial", "initial", POLICY)


def test_opening_supersedes_the_current_frame_and_inherits_what_it_ran_under() -> None:
    options = ProtocolTurnOptions(payload={"x": 1})
    before = (msgspec.structs.replace(FIRST[0], protocol_turn_options=options, execution_state_ref="blob"),)
    cause = CausalRef("turn", "t1")
    frames, opened = open_frame(before, "f2", "continue_as", 5, cause)
    assert opened
    assert [frame.status for frame in frames] == [FrameStatus.SUPERSEDED, FrameStatus.ACTIVE]
    new = current_frame(frames)
    assert (new.frame_id, new.previous_frame_id, new.created_at_ms) == ("f2", "s:frame:initial", 5)
    assert (new.assignment, new.protocol_turn_options, new.caused_by) == (before[0].assignment, options, cause)
    assert new.execution_state_ref is None


@pytest.mark.parametrize("frame_id", ["", "  ", "s:frame:initial"])
def test_opening_a_blank_or_current_id_changes_nothing(frame_id: str) -> None:
    assert open_frame(FIRST, frame_id, "x", 5) == (FIRST, False)


def test_the_id_of_an_older_frame_is_refused() -> None:
    frames, _ = open_frame(FIRST, "f2", "x", 5)
    with pytest.raises(ConflictError) as raised:
        open_frame(frames, "s:frame:initial", "x", 6)
    assert raised.value.code == "agent_frame_reused"


def test_a_new_policy_reaches_the_current_frame_only() -> None:
    frames, _ = open_frame(FIRST, "f2", "x", 5)
    other = SessionPolicy(ModelSpec("m2"), "p")
    changed = with_policy(frames, other)
    assert [frame.assignment.policy for frame in changed] == [POLICY, other]


@pytest.mark.parametrize("frames", [(), FIRST * 2])
def test_a_session_without_exactly_one_active_frame_is_refused(frames: tuple[AgentFrame, ...]) -> None:
    with pytest.raises(ValueError, match="exactly one active frame"):
        current_frame(frames)
