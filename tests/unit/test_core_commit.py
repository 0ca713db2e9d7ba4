"""A commit settles what its content came from, and its hash knows what it settled (contract 01 §9.2, 02 §5)."""

from __future__ import annotations

import msgspec
import pytest

from lash_cli.core.commit import Checkpoint, RuntimeCommit, Unchanged, require_settled, turn_content_hash
from lash_cli.core.content import Message, Part, ProsePart, Role, TextPart, ToolCallPart
from lash_cli.core.graph import (
    CausalRef,
    ConversationPayload,
    NodePayload,
    PluginPayload,
    ProtocolPayload,
    SessionNode,
)
from lash_cli.core.head_state import TurnState
from lash_cli.core.ingress import TurnInputCompletion
from lash_cli.core.lease import LeaseFence
from lash_cli.core.outcome import AssistantMessage, Finished, Stopped
from lash_cli.core.policy import ModelSpec, PersistedSessionConfig
from lash_cli.core.queued_work import QueuedWorkCompletion
from lash_cli.core.usage import TokenLedgerEntry, TokenUsage
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


SAID = Message("m1", Role.USER, (TextPart("one"), TextPart("two")))
NODE = SessionNode("m1", "root", "f1", 1, ConversationPayload(SAID))


def hash_of_said(*payloads: NodePayload, **changes) -> str:
    values = {
        "turn_id": "t",
        "outcome": Finished(AssistantMessage("x")),
        "usage_deltas": (),
        "input_ids": (),
        **changes,
    }
    nodes = tuple(msgspec.structs.replace(NODE, payload=payload) for payload in payloads or (NODE.payload,))
    return turn_content_hash(**{"nodes": nodes, **values})


def test_the_content_hash_tells_what_was_said_by_whom_and_what_it_cost() -> None:
    def said(role: Role, *parts: Part) -> ConversationPayload:
        return ConversationPayload(Message("m1", role, parts))

    different = [
        hash_of_said(),
        hash_of_said(turn_id="u"),
        hash_of_said(outcome=Finished(AssistantMessage("y"))),
        hash_of_said(outcome=Stopped("cancelled")),
        hash_of_said(usage_deltas=(TokenLedgerEntry("turn", "m", TokenUsage(1)),)),
        hash_of_said(usage_deltas=(TokenLedgerEntry("turn", "n", TokenUsage(1)),)),
        hash_of_said(NODE.payload, NODE.payload),
        hash_of_said(said(Role.ASSISTANT, *SAID.parts)),
        hash_of_said(said(Role.USER, *reversed(SAID.parts))),
        hash_of_said(said(Role.USER, ProsePart("one"), TextPart("two"))),
        hash_of_said(said(Role.ASSISTANT, ToolCallPart("c1", "look", "{}"))),
        hash_of_said(said(Role.ASSISTANT, ToolCallPart("c1", "look", '{"at": 1}'))),
        hash_of_said(PluginPayload("p", {"timestamp": 1})),
        hash_of_said(PluginPayload("p", {"timestamp": 2})),
        hash_of_said(ProtocolPayload("p", {"timestamp": 2})),
    ]
    assert len(set(different)) == len(different)


def test_the_content_hash_does_not_tell_under_which_names_and_when_it_was_said() -> None:
    other = SessionNode(
        "m2", None, "f1", 2, ConversationPayload(msgspec.structs.replace(SAID, id="m2")), CausalRef("turn", "t")
    )
    assert hash_of_said() == hash_of_said(nodes=(other,))
