"""A commit settles what its content came from, and its hash knows what it settled (contract 01 §9.2, 02 §5)."""

from __future__ import annotations

import pytest

from lash_cli.core.commit import Checkpoint, RuntimeCommit, Unchanged, require_settled, turn_content_hash
from lash_cli.core.head_state import TurnState
from lash_cli.core.ingress import TurnInputCompletion
from lash_cli.core.lease import LeaseFence
from lash_cli.core.outcome import AssistantMessage, Finished
from lash_cli.core.policy import ModelSpec, PersistedSessionConfig
from lash_cli.core.queued_work import QueuedWorkCompletion
from lash_cli.errors import UnsettledQueuedWorkClaim, UnsettledTurnInputClaim

INPUT = TurnInputCompletion("tic:1", "token", ("in1",))
WORK = QueuedWorkCompletion("qwc:1", "token", ("b1",))


def commit(inputs: tuple[TurnInputCompletion, ...] = (), work: tuple[QueuedWorkCompletion, ...] = ()) -> RuntimeCommit:
    return RuntimeCommit(
        "s1",
        LeaseFence("s1", "o", "i", "t", 1),
        PersistedSessionConfig("p", ModelSpec("m")),
        Unchanged(None),
        Checkpoint(TurnState()),
        0,
        completed_inputs=inputs,
        completed_work=work,
    )


def test_a_commit_that_settles_every_claim_passes() -> None:
    require_settled(commit((INPUT,), (WORK,)), [INPUT], [WORK])
    require_settled(commit((INPUT,)), [], [])


@pytest.mark.parametrize(
    ("settled", "error"),
    [
        (commit((), (WORK,)), UnsettledTurnInputClaim),
        (commit((INPUT,)), UnsettledQueuedWorkClaim),
        (commit((TurnInputCompletion("tic:1", "token", ("in1", "in2")),), (WORK,)), UnsettledTurnInputClaim),
        (commit((INPUT,), (QueuedWorkCompletion("qwc:1", "other", ("b1",)),)), UnsettledQueuedWorkClaim),
    ],
    ids=["input omitted", "work omitted", "other inputs", "other token"],
)
def test_a_commit_that_omits_a_claim_is_refused_before_any_store_is_asked(settled, error) -> None:
    with pytest.raises(error) as raised:
        require_settled(settled, [INPUT], [WORK])
    assert not raised.value.ambiguous


def test_the_content_hash_tells_what_was_settled_and_handed_on() -> None:
    def hash_of(**changes) -> str:
        values = {"input_ids": ("a", "b"), **changes}
        return turn_content_hash(
            turn_id="t", outcome=Finished(AssistantMessage("x")), nodes=(), usage_deltas=(), **values
        )

    assert hash_of() == hash_of(input_ids=("b", "a"))
    different = [hash_of(), hash_of(input_ids=("a",)), hash_of(batch_ids=("w",)), hash_of(outbox_keys=("k",))]
    assert len(set(different)) == 4
