"""Records as JSON documents: what scripts read from the session verbs (contract 08 §6.1).

Every document spells out all of its keys (null when unknown), times are
RFC 3339 in UTC with milliseconds, durations end in `_ms`, and nothing here
writes: a record goes in, a plain dictionary comes out. Status words are
derived from rows, never stored, so they cannot lie. Every look at a session
comes through here, so what only turns need is in `turn_documents` (design D16).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any

import msgspec

from lash_cli.core.content import AttachmentPart, ReasoningPart, ToolCallPart, message_text
from lash_cli.core.lease import LocalProcess, is_row_live
from lash_cli.core.prompt import render_prompt
from lash_cli.views.times import rfc3339

if TYPE_CHECKING:
    from lash_cli.core.content import Message
    from lash_cli.core.frames import AgentFrame
    from lash_cli.core.lease import LeaseOwnerIdentity, LeaseRow
    from lash_cli.core.policy import SessionPolicy
    from lash_cli.core.tools import ToolManifest
    from lash_cli.core.usage import SessionUsageReport, TokenLedgerEntry, TokenUsage
    from lash_cli.store.base import SessionRow

Document = dict[str, Any]
IsDead = Callable[[LocalProcess], bool]

STATUSES = ("running", "waiting", "stuck", "closed", "queued", "parked", "idle")


def spelled_out(value: Any) -> Any:
    """`value` as plain JSON types with every field of every record present, defaults included."""
    if isinstance(value, msgspec.Struct):
        config = value.__struct_config__
        document: Document = {config.tag_field: config.tag} if config.tag_field else {}
        for name in value.__struct_fields__:
            document[name] = spelled_out(getattr(value, name))
        return document
    if isinstance(value, dict):
        return {str(key): spelled_out(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [spelled_out(item) for item in value]
    if isinstance(value, bytes):
        import base64  # no document of a look has any (design D16)

        return base64.b64encode(value).decode()
    return value.value if isinstance(value, Enum) else value


def usage_document(usage: TokenUsage) -> Document:
    """The five counts and the billable total."""
    return {**spelled_out(usage), "total_tokens": usage.total}


def ledger_document(entries: Iterable[TokenLedgerEntry]) -> list[Document]:
    """One row per `(source, model)`."""
    return [{"source": entry.source, "model": entry.model, **usage_document(entry.usage)} for entry in entries]


def usage_report_document(report: SessionUsageReport) -> Document:
    """The ledger of a session, summed three ways."""
    return {
        **usage_document(report.usage),
        "by_source": {name: usage_document(usage) for name, usage in report.by_source.items()},
        "by_model": {name: usage_document(usage) for name, usage in report.by_model.items()},
        "by_source_model": ledger_document(report.by_source_model),
    }


def is_lease_live(lease: LeaseRow, now_ms: int, is_dead: IsDead) -> bool:
    """Whether somebody really holds the lane: unexpired, and the holder is not provably dead."""
    if not is_row_live(lease, now_ms):
        return False
    liveness = lease.owner.liveness if lease.owner is not None else None
    return not (isinstance(liveness, LocalProcess) and is_dead(liveness))


def session_status(row: SessionRow, now_ms: int, is_dead: IsDead) -> str:
    """One of `STATUSES`, derived from rows: a running turn whose lane nobody holds is `stuck`, and one that waits for
    a promise which somebody outside is to keep is `waiting`."""
    if row.running_turn_id is not None:
        if not is_lease_live(row.lease, now_ms, is_dead):
            return "stuck"
        return "waiting" if row.is_waiting else "running"
    if row.meta.closed_at_ms is not None:
        return "closed"
    if row.pending_inputs or row.pending_batches:
        return "queued"
    return "parked" if row.meta.parked_at_ms is not None else "idle"


def owner_document(owner: LeaseOwnerIdentity | None) -> Document | None:
    """Who holds a lane, as far as it said so."""
    if owner is None:
        return None
    process = owner.liveness if isinstance(owner.liveness, LocalProcess) else None
    return {
        "owner_id": owner.owner_id,
        "label": owner.label or None,
        "pid": process.pid if process else None,
        "host": process.host_id if process else None,
    }


def lease_document(lease: LeaseRow, now_ms: int, is_dead: IsDead) -> Document | None:
    """The lane of a session, None while it is free. `live` is false when the holder is gone."""
    if lease.token is None:
        return None
    return {
        "holder": owner_document(lease.owner),
        "generation": lease.fencing_token,
        "claimed_at": rfc3339(lease.claimed_at_ms),
        "expires_at": rfc3339(lease.expires_at_ms),
        "expires_in_ms": max(0, lease.expires_at_ms - now_ms),
        "live": is_lease_live(lease, now_ms, is_dead),
    }


def session_document(row: SessionRow, now_ms: int, is_dead: IsDead) -> Document:
    """A session as listings show it.

    `last_activity_at` is its last commit, or its creation; `context_tokens` is
    how full its context was after the last model call.
    """
    meta = row.meta
    prompt = row.turn_state.last_prompt_usage
    return {
        "id": meta.session_id,
        "name": meta.name,
        "status": session_status(row, now_ms, is_dead),
        "provider": row.config.provider_id,
        "model": row.config.model.id,
        "turns": row.turn_state.turn_index,
        "pending_inputs": row.pending_inputs,
        "pending_batches": row.pending_batches,
        "running_turn": row.running_turn_id,
        "head_revision": row.head_revision,
        "created_at": rfc3339(meta.created_at_ms),
        "last_activity_at": rfc3339(row.last_commit_at_ms or meta.created_at_ms),
        "closed_at": rfc3339(meta.closed_at_ms),
        "parked_at": rfc3339(meta.parked_at_ms),
        "held_at": rfc3339(meta.held_at_ms),
        "hold_reason": meta.hold_reason,
        "cwd": meta.cwd,
        "parent": meta.parent_session_id,
        "labels": dict(meta.labels),
        "context_tokens": prompt.context_budget_tokens if prompt else None,
        "lease": lease_document(row.lease, now_ms, is_dead),
    }


# What only a session in full says; where nobody looked it up it is null.
_DETAIL_KEYS = (
    "policy", "head", "frames", "usage", "queue", "batches", "unfinished_turn", "warnings", "tools",
)  # fmt: skip


def bare_session_document(row: SessionRow, now_ms: int, is_dead: IsDead) -> Document:
    """A session by itself, with the keys of one in full."""
    return {**session_document(row, now_ms, is_dead), **dict.fromkeys(_DETAIL_KEYS)}


def policy_document(policy: SessionPolicy) -> Document:
    """The effective policy; `system` is the rendered prompt layer of the session, null when it has none."""
    return {
        "provider": policy.provider_id,
        "model": spelled_out(policy.model),
        "max_steps": policy.max_turns,
        "autonomous": policy.autonomous,
        "system": render_prompt((policy.prompt,)) or None,
        "generation": spelled_out(policy.generation),
    }


def frame_document(frame: AgentFrame) -> Document:
    """One frame, without what it ran under."""
    return {
        "id": frame.frame_id,
        "status": frame.status.value,
        "reason": frame.reason,
        "previous": frame.previous_frame_id,
        "created_at": rfc3339(frame.created_at_ms),
    }


def tool_document(manifest: ToolManifest) -> Document:
    """One tool a session may call."""
    return {
        "id": manifest.id,
        "name": manifest.name,
        "description": manifest.description,
        "approval": manifest.approval,
        "retry": spelled_out(manifest.retry_policy)["type"],
        "timeout_ms": manifest.timeout_ms,
    }


def _part_document(part: Any) -> Document:
    document: Document = spelled_out(part)
    if isinstance(part, ToolCallPart | ReasoningPart):
        # Replay data is opaque to everybody but the provider that made it.
        document.pop("replay", None)
    document.pop("response_meta", None)
    if isinstance(part, AttachmentPart):
        document["attachment"].pop("data", None)
    return document


def message_document(
    message: Message, *, at_ms: int | None = None, turn_id: str | None = None, frame_id: str | None = None
) -> Document:
    """One message with its parts in order."""
    return {
        "id": message.id,
        "role": message.role.value,
        "at": rfc3339(at_ms),
        "turn_id": turn_id,
        "frame": frame_id,
        "text": message_text(message),
        "origin": spelled_out(message.origin),
        "parts": [_part_document(part) for part in message.parts],
    }


def transcript_document(
    row: SessionRow, messages: Sequence[Document], frames: Iterable[AgentFrame] = (), *, cursor: str | None = None
) -> Document:
    """What `lash log -o json` prints; `cursor` is where to go on from, as far as it was looked up."""
    return {
        "session": row.meta.session_id,
        "session_name": row.meta.name,
        "head_revision": row.head_revision,
        "cursor": cursor,
        "frames": [frame_document(frame) for frame in frames],
        "items": list(messages),
    }
