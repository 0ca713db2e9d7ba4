"""Turns as they cross a wire: request, result, cancel (contract 04 §6.3).

As in `core.remote`: the version is matched exactly and looked at first, absent
optionals are left out, and whatever is not such an envelope raises a
`RemoteProtocolError`. A remote side never names a model, and what a tool does
to its turn never crosses. A result says in two ways how the turn ended, and
both must agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from lash_cli.core.codec import from_builtins, from_builtins_any
from lash_cli.core.outcome import (
    AgentFrameSwitch,
    AssistantMessage,
    FinalValue,
    Finished,
    Stopped,
    ToolValue,
    TurnAddress,
    TurnCancellationEvidence,
    TurnCancelReceipt,
    TurnCancelRequest,
    TurnIssue,
    TurnOutcome,
    TurnResult,
)
from lash_cli.core.remote import (
    REMOTE_PROTOCOL_VERSION,
    RemoteEnvelope,
    RemoteTurnActivity,
    output_document,
    plain,
    remote_usage,
    require_text,
)
from lash_cli.core.remote_checks import require_keys, require_tool_call, require_usage
from lash_cli.core.remote_input import RemotePart, RemoteTurnInput
from lash_cli.core.remote_tools import RemoteToolGrant, validate_tool_grants
from lash_cli.core.tools import ToolCallRecord
from lash_cli.core.usage import TokenUsage
from lash_cli.errors import (
    InvalidEnvelope,
    MismatchedNestedProtocolVersion,
    MissingRequiredField,
)

_STATES: Final = ("usable", "empty_output", "traceback_only", "recovered_from_error")
_RECEIPT_WORDS: Final = {
    "requested": "requested",
    "already_requested": "already_requested",
    "completion_won": "completion_won_race",
    "unknown": "unknown_or_revoked",
}


class RemoteTurnRequest(RemoteEnvelope, frozen=True, kw_only=True):
    """A turn that somebody wants (contract 04 §6.3). `idempotency_key` makes the submission happen once;
    `tool_grants` are tools that the peer lends to it."""

    session_id: str
    turn_id: str
    input: RemoteTurnInput
    idempotency_key: str | None = None
    tool_grants: tuple[RemoteToolGrant, ...] = ()
    metadata: dict[str, Any] = {}

    def _validate_fields(self) -> None:
        require_text(self, "session_id", "turn_id")
        if self.idempotency_key is not None:
            require_text(self, "idempotency_key")
        _require_same_version(self, "RemoteTurnInput", self.input.protocol_version)
        self.input.validate()
        for grant in self.tool_grants:
            _require_same_version(self, "RemoteToolGrant", grant.protocol_version)
        validate_tool_grants(self.tool_grants)


class RemoteCancellation(RemotePart, frozen=True, kw_only=True):
    """The request that cancelled a turn."""

    request_id: str
    origin: str | None = None
    reason: str | None = None

    @classmethod
    def of(cls, evidence: TurnCancellationEvidence) -> RemoteCancellation:
        """That of a core record."""
        return cls(request_id=evidence.request_id, origin=evidence.origin, reason=evidence.reason)

    def to_core(self) -> TurnCancellationEvidence:
        """The core record."""
        return TurnCancellationEvidence(self.request_id, self.origin, self.reason)


class RemoteTurnResult(RemoteEnvelope, frozen=True, kw_only=True):
    """How a turn ended (contract 04 §6.3). `status` follows from `outcome`; `cancellation` is there if and only if it
    was cancelled."""

    session_id: str
    turn_id: str
    status: str
    outcome: dict[str, Any]
    assistant_output: dict[str, str]
    usage: dict[str, Any]
    execution: dict[str, Any]
    cancellation: RemoteCancellation | None = None
    tool_calls: tuple[dict[str, Any], ...] = ()
    issues: tuple[dict[str, Any], ...] = ()
    llm_calls: tuple[dict[str, Any], ...] = ()
    activities: tuple[dict[str, Any], ...] = ()
    metadata: dict[str, Any] = {}

    def _validate_fields(self) -> None:
        name = type(self).__name__
        require_text(self, "session_id", "turn_id")
        expected = _status_of(self.to_outcome())
        if self.status != expected:
            raise InvalidEnvelope(name, f"status {self.status!r} contradicts the outcome, which is {expected}")
        if (self.cancellation is not None) != (expected == "cancelled"):
            raise InvalidEnvelope(name, "there is a cancellation if and only if the turn was cancelled")
        if self.cancellation is not None and not self.cancellation.request_id.strip():
            raise MissingRequiredField("RemoteCancellation", "request_id")
        require_keys(f"{name}.assistant_output", self.assistant_output, "safe_text", "raw_text", "state")
        if self.assistant_output["state"] not in _STATES:
            raise InvalidEnvelope(name, f"unknown state {self.assistant_output['state']!r}")
        require_keys(f"{name}.usage", self.usage, "parent", "total")
        children = self.usage.get("children", [])
        if not isinstance(children, list | tuple):
            raise InvalidEnvelope(name, "usage.children is no list")
        for entry in children:
            require_keys("RemoteTokenLedgerEntry", entry, "source", "model", "usage")
        for usage in (self.usage["parent"], self.usage["total"], *(entry["usage"] for entry in children)):
            require_usage(usage)
        require_keys(
            f"{name}.execution", self.execution, "had_tool_calls", "had_code_execution", "started_at_ms", "duration_ms"
        )
        for call in self.tool_calls:
            require_tool_call(call)
        for issue in self.issues:
            require_keys("RemoteIssue", issue, "kind", "message")
        ids = [call.get("call_id") for call in self.llm_calls]
        if len(set(ids)) != len(ids) or None in ids:
            raise InvalidEnvelope(name, "every model call has an id of its own")
        for activity in self.activities:
            _require_same_version(self, "RemoteTurnActivity", activity.get("protocol_version"))
            RemoteTurnActivity.from_document(activity)

    @classmethod
    def of(
        cls,
        result: TurnResult,
        *,
        activities: tuple[RemoteTurnActivity, ...] = (),
        metadata: Mapping[str, Any] | None = None,
    ) -> RemoteTurnResult:
        """The envelope of a result."""
        evidence = result.cancellation if result.outcome == Stopped("cancelled") else None
        children = [{"source": entry.source, "model": entry.model, "usage": remote_usage(entry.usage)}
                    for entry in result.children_usage]  # fmt: skip
        usage: dict[str, Any] = {"parent": remote_usage(result.usage), "total": remote_usage(result.total_usage())}
        return cls(
            protocol_version=REMOTE_PROTOCOL_VERSION,
            session_id=result.session_id,
            turn_id=result.turn_id,
            status=_status_of(result.outcome),
            outcome=_outcome_document(result.outcome),
            assistant_output=plain(msgspec.structs.asdict(result.assistant_output)),
            usage={**usage, "children": children} if children else usage,
            execution=plain(msgspec.structs.asdict(result.execution)),
            cancellation=None if evidence is None else RemoteCancellation.of(evidence),
            tool_calls=tuple(_call_document(record) for record in result.tool_calls),
            issues=tuple(_issue_document(issue) for issue in result.errors),
            llm_calls=tuple(plain(call) for call in result.llm_calls),
            activities=tuple(activity.document() for activity in activities),
            metadata=dict(metadata or {}),
        )

    def to_outcome(self) -> TurnOutcome:
        """The outcome as a core record. Raises `InvalidEnvelope`."""
        try:
            return _outcome_of(self.outcome)
        except (KeyError, TypeError, msgspec.ValidationError) as error:
            raise InvalidEnvelope(type(self).__name__, f"the outcome is malformed: {error}") from error

    def to_usage(self) -> TokenUsage:
        """What the turn itself cost, without its children."""
        return from_builtins(self.usage["parent"], TokenUsage)


def _status_of(outcome: TurnOutcome) -> str:
    if not isinstance(outcome, Stopped):
        return "completed"
    return "cancelled" if outcome.reason == "cancelled" else "failed"


def _outcome_document(outcome: TurnOutcome) -> dict[str, Any]:
    match outcome:
        case Finished(finish=finish):
            return {"type": "finished", "finish": plain(finish)}
        case AgentFrameSwitch(frame_id=frame_id, task=task):
            return {"type": "agent_frame_switch", "frame_id": frame_id, "task": task}
        case Stopped(reason="submitted_error", value=value):
            stop = {"type": "submitted_error", "value": plain(value)}
        case Stopped(reason="tool_error", value=value, tool_name=tool_name):
            stop = {"type": "tool_error", "tool_name": tool_name, "value": plain(value)}
        case Stopped(reason=reason):
            stop = {"type": reason}
    return {"type": "stopped", "stop": stop}


def _outcome_of(document: Mapping[str, Any]) -> TurnOutcome:
    match document["type"]:
        case "finished":
            return Finished(from_builtins_any(document["finish"], AssistantMessage | FinalValue | ToolValue))
        case "agent_frame_switch":
            return AgentFrameSwitch(document["frame_id"], document["task"])
        case "stopped":
            stop = document["stop"]
            fields = {"reason": stop["type"], "value": stop.get("value"), "tool_name": stop.get("tool_name")}
            return from_builtins({"type": "stopped", **fields}, Stopped)
    raise TypeError(f"unknown type {document['type']!r}")


def _call_document(record: ToolCallRecord) -> dict[str, Any]:
    return {
        "call_id": record.call_id,
        "tool_name": record.tool,
        "args": plain(record.args),
        "outcome": output_document(record.output)["outcome"],
        "duration_ms": record.duration_ms,
    }


def _issue_document(issue: TurnIssue) -> dict[str, Any]:
    fields = ("kind", "code", "terminal_reason", "message", "raw", "retryable", "provider_failure_kind")
    return {name: value for name in fields if (value := getattr(issue, name)) is not None}


class RemoteTurnCancelRequest(RemoteEnvelope, frozen=True, kw_only=True):
    """A request to stop one turn (contract 04 §6.3)."""

    session_id: str
    turn_id: str
    request_id: str
    origin: str | None = None
    reason: str | None = None

    def _validate_fields(self) -> None:
        require_text(self, "session_id", "turn_id", "request_id")

    @classmethod
    def of(cls, request: TurnCancelRequest) -> RemoteTurnCancelRequest:
        """The envelope of a request."""
        return cls(
            protocol_version=REMOTE_PROTOCOL_VERSION,
            session_id=request.address.session_id,
            turn_id=request.address.turn_id,
            request_id=request.request_id,
            origin=request.origin,
            reason=request.reason,
        )

    def to_core(self) -> TurnCancelRequest:
        """The request. Raises as `validate`."""
        self.validate()
        address = TurnAddress(self.session_id, self.turn_id)
        return TurnCancelRequest(address, self.request_id, self.origin, self.reason)


class RemoteTurnCancelReceipt(RemoteEnvelope, frozen=True, kw_only=True):
    """What became of a request (contract 04 §6.3). `outcome` is tagged by `outcome` and has the cancellation that won,
    if one did."""

    session_id: str
    turn_id: str
    request_id: str
    durability_tier: str
    outcome: dict[str, Any]
    origin: str | None = None
    reason: str | None = None

    def _validate_fields(self) -> None:
        name = type(self).__name__
        require_text(self, "session_id", "turn_id", "request_id")
        if self.durability_tier not in ("inline", "durable"):
            raise InvalidEnvelope(name, f"unknown durability tier {self.durability_tier!r}")
        word = self.outcome.get("outcome")
        if word not in _RECEIPT_WORDS.values():
            raise InvalidEnvelope(name, f"unknown outcome {word!r}")
        if ("cancellation" in self.outcome) != (word in ("requested", "already_requested")):
            raise InvalidEnvelope(name, f"{word} and its cancellation contradict each other")

    @classmethod
    def of(cls, request: TurnCancelRequest, receipt: TurnCancelReceipt) -> RemoteTurnCancelReceipt:
        """The envelope of the answer to `request`."""
        outcome: dict[str, Any] = {"outcome": _RECEIPT_WORDS[receipt.outcome]}
        if receipt.outcome in ("requested", "already_requested"):
            own = TurnCancellationEvidence(request.request_id, request.origin, request.reason)
            outcome["cancellation"] = plain(RemoteCancellation.of(receipt.evidence or own))
        return cls(
            protocol_version=REMOTE_PROTOCOL_VERSION,
            session_id=receipt.address.session_id,
            turn_id=receipt.address.turn_id,
            request_id=request.request_id,
            durability_tier=receipt.durability_tier,
            outcome=outcome,
            origin=request.origin,
            reason=request.reason,
        )


def _require_same_version(parent: RemoteEnvelope, child: str, version: object) -> None:
    if version != parent.protocol_version:
        raise MismatchedNestedProtocolVersion(type(parent).__name__, child, parent.protocol_version, version)
