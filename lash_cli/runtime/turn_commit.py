"""The one terminal commit of a turn, built from what its drive left (contract 01 §9.2, 02 §5).

Pure but for reading the resident session: nothing is changed here, so a commit
that fails leaves no trace in memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from lash_cli.core.commit import (
    COMMIT_TOO_LARGE,
    MAX_COMMIT_BYTES,
    MAX_COMMIT_NODES,
    RuntimeCommit,
    RuntimeCommitResult,
    TurnStamp,
    TurnSummary,
    require_settled,
    turn_content_hash,
)
from lash_cli.core.content import Message, Role, TextPart, ToolResultPart
from lash_cli.core.graph import ConversationPayload, chain, messages_on
from lash_cli.core.head_state import TurnState
from lash_cli.core.lease import LeaseFence
from lash_cli.core.machine_records import DoneEffect
from lash_cli.core.outcome import AgentFrameSwitch, Stopped, TurnCancellationEvidence, TurnIssue, TurnOutcome
from lash_cli.core.queued_work import QueuedWorkBatchDraft, frame_task_draft
from lash_cli.runtime.drive import Drive, usage_of
from lash_cli.runtime.frames import FrameHandoff, plan_handoff
from lash_cli.runtime.results import summarise
from lash_cli.runtime.session import ResidentSession

# Of a text that is given to a turn that cannot be kept.
_KEPT_CHARS = 64 * 1024


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


def what_fits(done: DoneEffect) -> DoneEffect:
    """The end of a turn that said more than a commit holds: what it was given, long texts cut, and why no more.

    Without it the turn could neither be finished nor passed by: whoever drives it again gets the same.
    """
    given = [_cut(message) for message in done.messages if _is_given(message)]
    issue = TurnIssue(
        "runtime",
        f"the turn was not kept: all it said is more than {MAX_COMMIT_BYTES} bytes or {MAX_COMMIT_NODES} messages",
        code=COMMIT_TOO_LARGE,
        retryable=False,
    )
    return msgspec.structs.replace(
        done, outcome=Stopped("runtime_error"), messages=tuple(given), issues=(*done.issues, issue)
    )


def is_cut(done: DoneEffect) -> bool:
    """Whether `done` is what `what_fits` made of an end."""
    return any(issue.code == COMMIT_TOO_LARGE for issue in done.issues)


def _is_given(message: Message) -> bool:
    is_answer = any(isinstance(part, ToolResultPart) for part in message.parts)
    return message.role in (Role.USER, Role.EVENT) and not is_answer


def _cut(message: Message) -> Message:
    parts = tuple(
        TextPart(f"{part.content[:_KEPT_CHARS]}\n[{len(part.content) - _KEPT_CHARS} more characters]", part.label)
        if isinstance(part, TextPart) and len(part.content) > _KEPT_CHARS
        else part
        for part in message.parts
    )
    return msgspec.structs.replace(message, parts=parts)


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
    usage, input_ids = usage_of(session, drive.policy, done), drive.claims.input_ids
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
        turn_state=turn_state if opened is None else turn_state.elsewhere(),
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
    )
    require_settled(commit, drive.claims.inputs, drive.claims.work)
    # What a handoff adds stands on the current frame unless it opens another one.
    said = messages if opened is None else messages[: len(nodes)]
    return TerminalCommit(commit, outcome, summary, said, handoff)
