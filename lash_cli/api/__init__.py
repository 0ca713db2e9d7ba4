"""The public embedding surface: `LashCore`, `LashSession` and what they hand out.

Everything a program that imports lash needs stands here; the names that the
project was founded on keep their meaning. Each name has exactly one home and is
imported only when it is used; type checkers read the same table in `__init__.pyi`.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "lash_cli.api.across": ("SessionDeleteReport",),
    "lash_cli.api.commands": ("SessionCommands",),
    "lash_cli.api.admin": ("SessionAdmin",),
    "lash_cli.api.core": ("LashCore", "OpenMode", "ParkedSession"),
    "lash_cli.api.observable": (
        "ObservableSession",
        "RemoteGap",
        "RemoteSessionObservationEventStream",
        "RemoteSessionObservationStream",
        "RemoteSubscribed",
    ),
    "lash_cli.api.provider": ("provider",),
    "lash_cli.api.queue": ("BatchSettlement", "SessionQueue"),
    "lash_cli.api.session": ("LashSession",),
    "lash_cli.api.tools": ("AdvancedToolAdmin", "ToolAdmin", "ToolSourceHandle"),
    "lash_cli.api.turns": (
        "QueuedTurnBuilder",
        "TurnActivityFanout",
        "TurnActivitySink",
        "TurnBuilder",
        "TurnStream",
    ),
    "lash_cli.core.activity": (
        "AssistantProseDelta",
        "ChildUsage",
        "Committed",
        "ErrorShown",
        "ModelAttemptReset",
        "ModelRequestStarted",
        "QueuedInputAccepted",
        "QueuedWorkStarted",
        "ReasoningShown",
        "RetryWait",
        "ToolCallCompleted",
        "ToolCallStarted",
        "ToolProgress",
        "TurnActivity",
        "TurnFinished",
        "TurnStarted",
        "UsageShown",
        "ValueShown",
    ),
    "lash_cli.core.content": ("AttachmentItem", "Message", "TextItem", "TurnInput"),
    "lash_cli.core.direct": ("DirectCompletion", "DirectLlmCompletion", "DirectRequest"),
    "lash_cli.core.context": ("CompactionContext", "ContextMoment", "ContextPlugin"),
    "lash_cli.core.history": ("TreeEntry",),
    "lash_cli.core.ingress": (
        "ActiveTurn",
        "ByInputId",
        "BySourceKey",
        "InputDraft",
        "NextTurn",
        "PendingTurnInput",
        "PendingTurnInputCancelOutcome",
        "PendingTurnInputCancelResult",
        "PendingTurnInputCancelTarget",
        "PendingTurnInputSuffixCancelOutcome",
        "TurnInputClaim",
        "TurnInputIngress",
    ),
    "lash_cli.core.lease": (
        "LeaseFence",
        "LeaseOwnerIdentity",
        "LeaseTimings",
    ),
    "lash_cli.core.llm": (
        "JsonObjectOutput",
        "JsonSchemaOutput",
        "LlmCallRecord",
        "LlmCallResult",
        "LlmRequest",
        "LlmResponse",
        "NormalizedError",
        "OutputSpec",
    ),
    "lash_cli.core.observation": (
        "ActivityObserved",
        "AgentFrameSwitched",
        "LiveReplayGap",
        "LiveReplayGapReason",
        "ProcessChanged",
        "QueueChanged",
        "ResidentChanged",
        "SessionCursor",
        "SessionObservationEvent",
        "StateCommitted",
    ),
    "lash_cli.core.outcome": (
        "AgentFrameSwitch",
        "AssistantMessage",
        "AssistantOutput",
        "ExecutionSummary",
        "FinalValue",
        "Finished",
        "Stopped",
        "TerminalCommitted",
        "TerminalFailed",
        "TurnAddress",
        "TurnCancelReceipt",
        "TurnIssue",
        "TurnCancellationEvidence",
        "TurnOutcome",
        "TurnResult",
        "TurnTerminal",
    ),
    "lash_cli.core.policy": (
        "ModelLimits",
        "ModelSpec",
        "PromptBuiltinEntry",
        "PromptContribution",
        "PromptLayer",
        "PromptSection",
        "PromptSlot",
        "PromptSlotEntry",
        "PromptTextEntry",
        "SessionConfigPatch",
        "SessionPolicy",
        "SessionSpec",
    ),
    "lash_cli.core.prompt": ("DEFAULT_TEMPLATE", "STANDARD_BUILTINS", "PromptBuiltins"),
    "lash_cli.core.queued_work": (
        "ProcessWake",
        "QueuedWorkBatch",
        "QueuedWorkBatchDraft",
        "QueuedWorkClaim",
        "QueuedWorkReceipt",
        "RefreshToolCatalog",
        "ResetSession",
        "SessionCommand",
        "SessionCommandReceipt",
    ),
    "lash_cli.core.tools": (
        "ToolCall",
        "ToolCallOutput",
        "ToolCallRecord",
        "ToolContract",
        "ToolManifest",
        "ToolState",
    ),
    "lash_cli.core.trace": ("TraceContext", "TraceLevel", "TraceRecord", "TraceSink"),
    "lash_cli.core.usage": ("SessionUsageReport", "TokenLedgerEntry", "TokenUsage"),
    "lash_cli.providers.retry": ("RetryingCaller", "RetryPolicy"),
    "lash_cli.runtime.appending": ("AppendSessionNodesRequest", "Appended", "SessionAppendNode", "StaleBranch"),
    "lash_cli.runtime.compaction": ("CompactionReport",),
    "lash_cli.runtime.frame_opening": ("OpenAgentFrameRequest", "OpenAgentFrameResult"),
    "lash_cli.runtime.history": ("HeadMove",),
    "lash_cli.runtime.state": ("RuntimeSessionState", "SessionReadView"),
    "lash_cli.runtime.drivers": (
        "Driver",
        "QueueDriver",
    ),
    "lash_cli.runtime.observing": (
        "ObservedEvent",
        "ObservedGap",
        "RecoveringStream",
        "Replayed",
        "SessionObservation",
        "Subscribed",
    ),
    "lash_cli.runtime.phases": ("TurnPhase", "TurnPhaseProbe"),
    "lash_cli.runtime.requests": (
        "DrainReason",
        "TurnOutput",
    ),
    "lash_cli.runtime.trace_sinks": ("JsonlTraceSink", "StderrTraceSink", "TeeTraceSink"),
    "lash_cli.runtime.tracing": ("Tracer",),
    "lash_cli.runtime.demand": ("SessionOpener",),
    "lash_cli.runtime.work_events": ("OnFailure", "OnWorkEvent", "WorkEvent", "WorkOptions", "WorkReport"),
    "lash_cli.runtime.worker": ("QueueWorker",),
    "lash_cli.store.sqlite.store": ("SqliteStore",),
    "lash_cli.core.protocols": (
        "ApprovalPolicy",
        "CancelSignal",
        "Clock",
        "EffectHost",
        "EventSink",
        "Ids",
        "ModelCaller",
        "ToolContext",
        "ToolProvider",
    ),
    "lash_cli.core.attachments": ("AttachmentPolicy",),
    "lash_cli.runtime.cancellation": ("CancelToken",),
    "lash_cli.runtime.host": ("ProviderResolver",),
    "lash_cli.tools.registry": ("ToolRestoreReport",),
    "lash_cli.core.remote": (
        "REMOTE_PROTOCOL_VERSION",
        "RemoteLiveReplayGap",
        "RemoteSessionCursor",
        "RemoteSessionObservation",
        "RemoteSessionObservationEvent",
        "RemoteTurnActivity",
    ),
    "lash_cli.core.remote_input": ("RemoteTurnInput",),
    "lash_cli.core.remote_turns": (
        "RemoteTurnCancelReceipt",
        "RemoteTurnCancelRequest",
        "RemoteTurnRequest",
        "RemoteTurnResult",
    ),
    "lash_cli.store.base": (
        "RuntimePersistence",
        "SessionMeta",
        "TurnRecord",
    ),
    "lash_cli.tools.function": ("FunctionTool", "FunctionToolProvider", "tool"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)  # noqa: PLE0605 - the table above is the list


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
