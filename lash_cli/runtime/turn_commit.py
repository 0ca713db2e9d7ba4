"""The one terminal commit of a turn, built from what its drive left (contract 01 §9.2, 02 §5).

Pure but for reading the resident session: nothing is changed here, so a commit
that fails leaves no trace in memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from lash_cli.core.commit import (
    RuntimeCommit,
    RuntimeCommitResult,
    TurnStamp,
    TurnSummary,
    require_settled,
    turn_content_hash,
)
from lash_cli.core.content import AttachmentPart, Message, Stored
from lash_cli.core.graph import ConversationPayload, chain, messages_on
from lash_cli.core.head_state import TurnState
from lash_cli.core.lease import LeaseFence
from lash_cli.core.machine import DoneEffect
from lash_cli.core.outcome import AgentFrameSwitch, Stopped, TurnCancellationEvidence, TurnIssue, TurnOutcome
from lash_cli.core.queued_work import QueuedWorkBatchDraft, frame_task_draft
from lash_cli.runtime.drive import Drive, usage_of
from lash_cli.runtime.frames import FrameHandoff, plan_handoff
from lash_cli.runtime.results import summarise
from lash_cli.runtime.session import ResidentSession


class TerminalCommit(msgspec.Struct, frozen=True):
    """A commit ready for the store, and what the session adopts once it stands: the messages it adds to the current
    frame, and the frame it opens."""

    commit: RuntimeCommit
    outcome: TurnOutcome
    summary: TurnSummary
    messages: Sequence[Message]
    handoff: FrameHandoff | None = None

    def adopt(self, session: ResidentSession, result: RuntimeCommitResult) -> None:
        """Move the resident session to what the commit established."""
        session.adopt_commit(self.commit, result, self.messages)
        if self.handoff is not None and self.handoff.is_opened:
            session.enter_frame(self.handoff.frames, messages_on(self.handoff.nodes))


def terminal_commit(
    session: ResidentSession,
    drive: Drive,
    done: DoneEffect,
    outcome: TurnOutcome,
    issues: tuple[TurnIssue, ...],
    evidence: TurnCancellationEvidence | None,
    *,
    fence: LeaseFence,
    turn_state: TurnState,
    duration_ms: int,
    now_ms: int,
) -> TerminalCommit:
    """What ends the turn of `drive`. A switch to another frame keeps the lane and leaves its task in the outbox; one
    that cannot be followed ends the turn as `Stopped("runtime_error")` with the reason among its issues.

    Raises `UnsettledTurnInputClaim` and `UnsettledQueuedWorkClaim` before any store is asked.
    """
    added = nodes = chain(
        done.messages, parent_node_id=session.leaf_node_id, agent_frame_id=session.frame_id, at_ms=now_ms
    )
    handoff: FrameHandoff | None = None
    outbox: tuple[QueuedWorkBatchDraft, ...] = ()
    if isinstance(outcome, AgentFrameSwitch):
        leaf = nodes[-1].node_id if nodes else session.leaf_node_id
        planned = plan_handoff(
            session.frames,
            outcome,
            drive.chain,
            turn_id=drive.turn_id,
            leaf_node_id=leaf,
            now_ms=now_ms,
            options=drive.options,
        )
        if isinstance(planned, TurnIssue):
            outcome, issues = Stopped("runtime_error"), (*issues, planned)
        else:
            handoff = planned
            added = (*nodes, *handoff.nodes)
            outbox = (frame_task_draft(session.session_id, drive.turn_id, handoff.task),)
    opened = handoff if handoff is not None and handoff.is_opened else None
    messages = [node.payload.message for node in added if isinstance(node.payload, ConversationPayload)]
    usage, input_ids = usage_of(drive.policy, done), drive.claims.input_ids
    summary = summarise(
        outcome=outcome,
        evidence=evidence,
        issues=issues,
        done=done,
        messages=done.messages,
        started_at_ms=drive.started_at_ms,
        duration_ms=duration_ms,
        input_ids=input_ids,
    )
    content_hash = turn_content_hash(
        turn_id=drive.turn_id,
        outcome=outcome,
        nodes=added,
        usage_deltas=usage,
        input_ids=input_ids,
        batch_ids=drive.claims.batch_ids,
        outbox_keys=tuple([draft.source_key or "" for draft in outbox]),
    )
    commit = session.commit(
        fence=fence,
        now_ms=now_ms,
        nodes=added,
        turn_state=turn_state,
        usage_deltas=usage,
        release_lease=handoff is None,
    )
    commit = msgspec.structs.replace(
        commit,
        turn=TurnStamp(drive.turn_id, content_hash, summary),
        frames=commit.frames if opened is None else opened.frames,
        completed_inputs=tuple(drive.claims.inputs),
        completed_work=tuple(drive.claims.work),
        outbox=outbox,
        defer_inputs_of_turn=drive.turn_id,
        committed_attachment_ids=_attachment_refs(messages),
    )
    require_settled(commit, drive.claims.inputs, drive.claims.work)
    # What a handoff adds stands on the current frame unless it opens another one.
    said = messages if opened is None else messages[: len(nodes)]
    return TerminalCommit(commit, outcome, summary, said, handoff)


def _attachment_refs(messages: Sequence[Message]) -> tuple[str, ...]:
    refs: dict[str, None] = {}
    for message in messages:
        for part in message.parts:
            if isinstance(part, AttachmentPart) and isinstance(part.attachment, Stored):
                refs[part.attachment.attachment_ref] = None
    return tuple(refs)
