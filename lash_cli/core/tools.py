"""The tool contract: manifests, membership state, calls and results (contract 05 §1 and §2).

Membership is the only availability fact: a tool is in the catalogue and
callable, or it does not exist for the model. A failure is a value fed back to
the model, never an exception that ends a turn.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

import msgspec

from lash_cli.core.codec import Record, encode, reread
from lash_cli.core.content import AttachmentSource
from lash_cli.core.schemas import AUTO, SchemaProjection
from lash_cli.core.tool_shapes import MATERIALIZED, STATIC, ArgumentProjection, CompactContract, OutputContract
from lash_cli.errors import ReconfigureError

ApprovalClass = Literal["read", "write", "execute", "network"]


class NeverRetry(Record, tag="never", tag_field="type"):
    """One attempt. An attempt lost in a crash is not run again."""


class SafeRetry(Record, tag="safe", tag_field="type"):
    """May be run again; delays in milliseconds."""

    max_attempts: int
    base_delay_ms: int = 0
    max_delay_ms: int = 0


class IdempotentRetry(Record, tag="idempotent", tag_field="type"):
    """May be run again even after an observed effect; delays in milliseconds."""

    max_attempts: int
    base_delay_ms: int = 0
    max_delay_ms: int = 0


ToolRetryPolicy = NeverRetry | SafeRetry | IdempotentRetry


class ToolManifest(Record):
    """The cheap, always loaded half of a tool (contract 05 §1.1). `id` is the identity, `name` what the model sees.

    `approval` is the class of the approval policy that governs the tool;
    `timeout_ms` limits one attempt; calls of one `exclusive_group` run one
    after another in source order while other calls run beside them. A tool
    whose `activation` is `internal` is neither shown to a model nor run when
    one calls it: it is there for what the host lets call tools. `bindings` say
    how a mode calls the tool, by the name of the mode; `argument_projection`
    how it wants what code hands it; `compact_contract` is its prompt rendering,
    which `ToolDefinition.manifest` computes.
    """

    id: str
    name: str
    description: str
    retry_policy: ToolRetryPolicy = NeverRetry()
    activation: Literal["always", "internal"] = "always"
    approval: ApprovalClass = "read"
    timeout_ms: int | None = None
    exclusive_group: str | None = None
    bindings: dict[str, Any] = {}
    argument_projection: ArgumentProjection = MATERIALIZED
    compact_contract: CompactContract | None = None

    def __post_init__(self) -> None:
        if not self.id.strip() or not self.name.strip():
            raise ValueError("a tool needs a non-blank id and a non-blank name")
        policy = self.retry_policy
        if not isinstance(policy, NeverRetry) and policy.max_attempts < 1:
            raise ValueError("max_attempts must be at least 1")


def readable_manifest(manifest: ToolManifest) -> ToolManifest:
    """`manifest`, of which what is stored can be read again (`codec.reread`); raises `ValueError`."""
    try:
        reread(manifest, ToolManifest)
    except ValueError as error:
        raise ValueError(f"what it says of itself cannot be kept: {error}") from error
    return manifest


class ToolContract(Record):
    """The half resolved only for a tool that is called (contract 05 §1.1). `projection` is how `input_schema` reaches a
    provider; `output_schema` (None is unspecified), `output_contract` and `examples` say what to expect of the tool,
    and nothing is held against them."""

    input_schema: dict[str, Any] = msgspec.field(default_factory=lambda: {"type": "object"})
    output_schema: dict[str, Any] | None = None
    examples: tuple[str, ...] = ()
    projection: SchemaProjection = AUTO
    output_contract: OutputContract = STATIC


class ToolCatalogEntry(Record):
    """One callable tool as the catalogue of a session shows it (contract 05 §2.3); without a `contract` where its
    source has none at hand."""

    id: str
    name: str
    description: str
    bindings: dict[str, Any] = {}
    activation: Literal["always", "internal"] = "always"
    contract: ToolContract | None = None


class ToolStateEntry(Record):
    """One known tool: its manifest, whether it is a member, whether its source is gone."""

    manifest: ToolManifest
    orphaned: bool = False
    member: bool = True


class ToolState(Record):
    """The serialisable tool surface. Names no source: executors are process-local (contract 05 §2.1)."""

    generation: int = 0
    tools: dict[str, ToolStateEntry] = {}

    def get(self, tool_id: str) -> ToolStateEntry | None:
        """The entry of an id."""
        return self.tools.get(tool_id)

    def tool_manifests(self) -> tuple[ToolManifest, ...]:
        """Manifests of members only, ordered by id."""
        return tuple(entry.manifest for _, entry in sorted(self.tools.items()) if entry.member and not entry.orphaned)

    def set_membership(self, tool_id: str, present: bool) -> ToolState:
        """A copy with the membership of one id set; raises `ReconfigureError` `tool_unknown`."""
        return self._with(tool_id, msgspec.structs.replace(self._entry(tool_id), member=present))

    def with_manifest(self, manifest: ToolManifest) -> ToolState:
        """A copy in which the tool of that id is described so; raises `ReconfigureError` `tool_unknown`."""
        return self._with(manifest.id, msgspec.structs.replace(self._entry(manifest.id), manifest=manifest))

    def remove(self, tool_id: str) -> ToolState:
        """A copy without one tool; raises `ReconfigureError` `tool_unknown`."""
        self._entry(tool_id)
        rest = {known: entry for known, entry in self.tools.items() if known != tool_id}
        return msgspec.structs.replace(self, tools=rest)

    def _entry(self, tool_id: str) -> ToolStateEntry:
        entry = self.tools.get(tool_id)
        if entry is None:
            raise unknown_tool_id(tool_id)
        return entry

    def _with(self, tool_id: str, entry: ToolStateEntry) -> ToolState:
        return msgspec.structs.replace(self, tools={**self.tools, tool_id: entry})


def unknown_tool_id(tool_id: str) -> ReconfigureError:
    """The error of an id that no tool has."""
    return ReconfigureError(f"unknown tool id `{tool_id}`", code="tool_unknown")


class FailureClass(StrEnum):
    """What kind of failure a tool reports."""

    INVALID_REQUEST = "invalid_request"
    UNAVAILABLE = "unavailable"
    PERMISSION_DENIED = "permission_denied"
    TIMEOUT = "timeout"
    EXECUTION = "execution"
    EXTERNAL = "external"
    RESOURCE_LIMIT = "resource_limit"
    INTERNAL = "internal"


class RetryHint(Record):
    """Whether the failure itself allows another attempt: never, safe or exhausted."""

    kind: Literal["never", "safe", "exhausted"] = "never"
    after_ms: int | None = None
    attempts: int | None = None


class ToolFailure(Record):
    """Why a call failed; `message` is what the model reads, and `attachments` behind it (contract 05 §1.3, §1.4)."""

    failure_class: FailureClass
    code: str
    message: str
    source: Literal["runtime", "tool", "plugin", "policy", "cancellation"] = "tool"
    retry: RetryHint = RetryHint()
    raw: Any = None
    attachments: tuple[AttachmentSource, ...] = ()


class ToolCancellation(Record):
    """The call was cancelled."""

    message: str
    source: str = "cancellation"
    raw: Any = None
    attachments: tuple[AttachmentSource, ...] = ()


class ToolSuccess(Record, tag="success", tag_field="status"):
    """A value; any JSON. Attachments ride beside it."""

    value: Any = None
    attachments: tuple[AttachmentSource, ...] = ()


class ToolFailed(Record, tag="failure", tag_field="status"):
    """A failure."""

    failure: ToolFailure


class ToolCancelled(Record, tag="cancelled", tag_field="status"):
    """A cancellation."""

    cancellation: ToolCancellation


ToolOutcome = ToolSuccess | ToolFailed | ToolCancelled


class FinishControl(Record, tag="finish", tag_field="type"):
    """End the turn with a value."""

    value: Any


class FailControl(Record, tag="fail", tag_field="type"):
    """End the turn with a failure."""

    failure: ToolFailure


class SwitchAgentFrameControl(Record, tag="switch_agent_frame", tag_field="type"):
    """Continue in a new agent frame."""

    frame_id: str
    task: str | None = None
    initial_nodes: tuple[Any, ...] = ()


ToolControl = FinishControl | FailControl | SwitchAgentFrameControl


class ToolCallOutput(Record):
    """What one call produced (contract 05 §1.3). A control counts only on success."""

    outcome: ToolOutcome
    control: ToolControl | None = None

    @property
    def status(self) -> Literal["success", "failure", "cancelled"]:
        """The outcome's tag."""
        match self.outcome:
            case ToolSuccess():
                return "success"
            case ToolFailed():
                return "failure"
            case _:
                return "cancelled"

    @property
    def attachments(self) -> tuple[AttachmentSource, ...]:
        """What rides beside the outcome, whichever it is."""
        match self.outcome:
            case ToolSuccess(attachments=attachments):
                return attachments
            case ToolFailed(failure=reason):
                return reason.attachments
            case ToolCancelled(cancellation=reason):
                return reason.attachments

    def with_attachments(self, attachments: tuple[AttachmentSource, ...]) -> ToolCallOutput:
        """The same output with other attachments."""
        replace = msgspec.structs.replace
        match self.outcome:
            case ToolFailed(failure=reason):
                return ToolCallOutput(ToolFailed(replace(reason, attachments=attachments)), self.control)
            case ToolCancelled(cancellation=reason):
                return ToolCallOutput(ToolCancelled(replace(reason, attachments=attachments)), self.control)
            case success:
                return ToolCallOutput(replace(success, attachments=attachments), self.control)


class PendingCompletion(Record):
    """What a tool answers whose result comes from outside (contract 05 §1.7).

    The tool asked for its `completion_key` and handed it on; whoever resolves
    that key gives the result. `timeout_ms` counts from the end of the attempt,
    None waits without end; when it has passed the call fails and the model is
    told (`error_as_result`), or the turn stops (`fail_turn`). When the turn is
    cancelled, or the session's waits are, the source of the tool is told to
    `cancel_external_work`, or it is left alone (`ignore`).
    """

    timeout_ms: int | None = None
    on_timeout: Literal["error_as_result", "fail_turn"] = "error_as_result"
    on_cancel: Literal["cancel_external_work", "ignore"] = "cancel_external_work"

    def __post_init__(self) -> None:
        if self.timeout_ms is not None and self.timeout_ms < 0:
            raise ValueError("timeout_ms must not be negative")


ToolResult = ToolCallOutput | PendingCompletion


class ToolCall(Record):
    """A call as dispatch hands it on (contract 05 §1.6): the arguments are parsed and validated. `prepared_payload` is
    what its source minted for it, the same JSON for all attempts, also behind a crash."""

    call_id: str
    tool_id: str
    tool_name: str
    args: dict[str, Any]
    prepared_payload: Any = None


class ToolCallRecord(Record):
    """One finished call of a turn."""

    call_id: str
    tool: str
    args: Any
    output: ToolCallOutput
    duration_ms: int = 0


def success(value: Any) -> ToolCallOutput:
    """A successful output."""
    return ToolCallOutput(ToolSuccess(value))


def failure(
    failure_class: FailureClass,
    code: str,
    message: str,
    *,
    source: Literal["runtime", "tool", "plugin", "policy", "cancellation"] = "tool",
    retry: RetryHint | None = None,
    raw: Any = None,
    attachments: tuple[AttachmentSource, ...] = (),
) -> ToolCallOutput:
    """A failed output."""
    hint = retry or RetryHint()
    reason = ToolFailure(failure_class, code, message, source=source, retry=hint, raw=raw, attachments=attachments)
    return ToolCallOutput(ToolFailed(reason))


def tool_error(value: Any) -> ToolCallOutput:
    """The failed output of a tool that has nothing more precise to say: the model reads `value`, text as it is and
    other JSON compact, and a program finds it under `raw`. Raises `TypeError` for what is no JSON."""
    text = value if isinstance(value, str) else encode(value).decode()
    return failure(FailureClass.EXECUTION, "tool_error", text, raw=value)


def cancelled(message: str = "tool call cancelled") -> ToolCallOutput:
    """A cancelled output."""
    return ToolCallOutput(ToolCancelled(ToolCancellation(message)))


INTERRUPTED_CODE = "tool_interrupted"


def interrupted(tool_name: str) -> ToolCallOutput:
    """The honest result of an attempt that a crash cut off: its effects are unknown and it was not run again."""
    return failure(
        FailureClass.INTERNAL,
        INTERRUPTED_CODE,
        f"The process running {tool_name} was interrupted before it finished. Its effects are unknown and it was"
        " not run again; check the current state before repeating it.",
        source="runtime",
    )


def exhausted(output: ToolCallOutput, attempts: int) -> ToolCallOutput:
    """The output of the last of `attempts`: where it failed in a way that could be tried again it says that its retries
    are used up, if there were any."""
    outcome = output.outcome
    if attempts == 1 or not isinstance(outcome, ToolFailed) or outcome.failure.retry.kind != "safe":
        return output
    spent = msgspec.structs.replace(outcome.failure, retry=RetryHint("exhausted", attempts=attempts))
    return ToolCallOutput(ToolFailed(spent), output.control)


_FAILED_LABEL = "[Tool execution failed]\n"
_CANCELLED_LABEL = "[Tool execution cancelled]\n"


def project_output(output: ToolCallOutput) -> str:
    """What the model reads (contract 05 §1.4): text verbatim, other JSON compact, failures and cancels labelled."""
    match output.outcome:
        case ToolSuccess(value=str() as text):
            return text
        case ToolSuccess(value=value):
            return msgspec.json.encode(value).decode()
        case ToolFailed(failure=reason):
            return f"{_FAILED_LABEL}{reason.message}"
        case ToolCancelled(cancellation=reason):
            return f"{_CANCELLED_LABEL}{reason.message}"


def output_as_told(status: str, text: str, attachments: tuple[AttachmentSource, ...] = ()) -> ToolCallOutput:
    """What is left of an output of which only the status and what the model read are known: the text of its value, or
    the message of its failure or cancellation."""
    match status:
        case "success":
            return ToolCallOutput(ToolSuccess(text, attachments))
        case "cancelled":
            return cancelled(text.removeprefix(_CANCELLED_LABEL)).with_attachments(attachments)
        case _:
            message = text.removeprefix(_FAILED_LABEL)
            return failure(FailureClass.EXECUTION, "tool_error", message, attachments=attachments)
