"""One write of a session: what it contains, when it is a replay, what it answers (contract 01 §9.2).

A commit is all or nothing: graph, frames, checkpoint, usage, settled claims,
turn stamp and lease release land together or not at all. `(session, turn)`
carries a content hash over an explicit projection, so a re-executed turn with
the same content is recognised and another content is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from lash_cli.core.codec import Record, canonical_hash
from lash_cli.core.frames import AgentFrame
from lash_cli.core.graph import ConversationPayload, SessionNode
from lash_cli.core.head_state import TurnState
from lash_cli.core.lease import LeaseFence
from lash_cli.core.llm import LlmCallRecord
from lash_cli.core.outcome import TurnCancellationEvidence, TurnIssue, TurnOutcome
from lash_cli.core.policy import PersistedSessionConfig
from lash_cli.core.usage import TokenLedgerEntry, TokenUsage
from lash_cli.errors import UnsettledQueuedWorkClaim, UnsettledTurnInputClaim

if TYPE_CHECKING:
    # A commit is made and never decoded, so its record needs these for the type checker only (design D16).
    from lash_cli.core.ingress import TurnInputCompletion
    from lash_cli.core.queued_work import QueuedWorkBatchDraft, QueuedWorkCompletion

# What one transaction is asked to hold. Every iteration of a turn adds two nodes, and a state that is adopted all of
# its messages: a bound within their reach would end in work that cannot be kept.
MAX_COMMIT_NODES = 64 * 1024
MAX_COMMIT_BYTES = 64 * 1024 * 1024
COMMIT_TOO_LARGE = "commit_too_large"


class CheckpointComponent(Record):
    """One component: new bytes to store, or a reference to keep. Both absent means cleared."""

    body: bytes | None = None
    ref: str | None = None


class Checkpoint(Record):
    """Turn state and named components, of which there is one so far: `tool_state`.

    A component not named in `components` is kept as it is.
    """

    turn_state: TurnState
    components: dict[str, CheckpointComponent] = {}


class Unchanged(Record, tag="unchanged", tag_field="kind"):
    """No new nodes; the leaf is `leaf_node_id`, which may be a move to another branch."""

    leaf_node_id: str | None


class Append(Record, tag="append", tag_field="kind"):
    """New nodes, each below an existing one or an earlier one of the same delta; the leaf moves."""

    nodes: tuple[SessionNode, ...]
    leaf_node_id: str


class ReplaceFull(Record, tag="replace_full", tag_field="kind"):
    """The active graph is replaced; old nodes are tombstoned and stay until `gc` (design D6)."""

    nodes: tuple[SessionNode, ...]
    leaf_node_id: str | None


GraphDelta = Unchanged | Append | ReplaceFull


class TurnSummary(Record):
    """What of a turn's result is stored with its stamp. The answer's text lives in its node, not here:
    `outcome` carries it only when no node does."""

    outcome: TurnOutcome
    started_at_ms: int
    duration_ms: int
    usage: TokenUsage = TokenUsage()
    cancellation: TurnCancellationEvidence | None = None
    llm_calls: tuple[LlmCallRecord, ...] = ()
    errors: tuple[TurnIssue, ...] = ()
    input_ids: tuple[str, ...] = ()
    tool_call_count: int = 0
    answer_node_id: str | None = None
    had_code_execution: bool = False


class TurnStamp(Record):
    """Marks a commit as the one terminal commit of a turn."""

    turn_id: str
    content_hash: str
    summary: TurnSummary


class RuntimeCommit(Record):
    """Everything one transaction writes. `expected_head_revision` None is allowed only for a head that is absent
    or being replaced. `frames` None leaves them as they are."""

    session_id: str
    fence: LeaseFence
    config: PersistedSessionConfig
    graph: GraphDelta
    checkpoint: Checkpoint
    now_ms: int
    expected_head_revision: int | None = None
    release_lease: bool = False
    frames: tuple[AgentFrame, ...] | None = None
    usage_deltas: tuple[TokenLedgerEntry, ...] = ()
    turn: TurnStamp | None = None
    completed_inputs: tuple[TurnInputCompletion, ...] = ()
    completed_work: tuple[QueuedWorkCompletion, ...] = ()
    outbox: tuple[QueuedWorkBatchDraft, ...] = ()
    defer_inputs_of_turn: str | None = None
    committed_attachment_ids: tuple[str, ...] = ()


class RuntimeCommitResult(Record):
    """What the commit established. `replayed` is set when the turn had been committed before.

    `enqueued_batches` are the ids of the outbox, in its order. `has_waiting`
    says that input or work of the session was waiting when it committed; it is
    a hint for a driver and never stored.
    """

    head_revision: int
    leaf_node_id: str | None
    checkpoint_ref: str
    component_refs: dict[str, str] = {}
    enqueued_batches: tuple[str, ...] = ()
    replayed: bool = False
    has_waiting: bool = False


def require_settled(
    commit: RuntimeCommit, inputs: Iterable[TurnInputCompletion], work: Iterable[QueuedWorkCompletion]
) -> None:
    """Check, before a store is asked, that a commit settles everything its content came from (contract 01 §9.2).

    `inputs` and `work` are what was claimed for it. Raises
    `UnsettledTurnInputClaim` and `UnsettledQueuedWorkClaim`: an engine bug,
    never a race.
    """
    for input_claim in inputs:
        if input_claim not in commit.completed_inputs:
            raise UnsettledTurnInputClaim(
                f"a commit does not settle claim {input_claim.claim_id!r}", details={"claim_id": input_claim.claim_id}
            )
    for work_claim in work:
        if work_claim not in commit.completed_work:
            raise UnsettledQueuedWorkClaim(
                f"a commit does not settle claim {work_claim.claim_id!r}", details={"claim_id": work_claim.claim_id}
            )


def turn_content_hash(
    *,
    turn_id: str,
    outcome: TurnOutcome,
    nodes: tuple[SessionNode, ...],
    usage_deltas: tuple[TokenLedgerEntry, ...],
    input_ids: tuple[str, ...],
    batch_ids: tuple[str, ...] = (),
    outbox_keys: tuple[str, ...] = (),
) -> str:
    """SHA-256 over what a turn *said*: node ids, times, revisions and lease data do not count (contract 01 §9.2)."""
    said: list[Any] = []
    for node in nodes:
        payload = node.payload
        if isinstance(payload, ConversationPayload):
            said.append((payload.message.role, payload.message.parts))
        else:
            said.append(payload)
    settled = sorted(input_ids) if not batch_ids and not outbox_keys else (sorted(input_ids), batch_ids, outbox_keys)
    return canonical_hash((turn_id, outcome, said, usage_deltas, settled))
