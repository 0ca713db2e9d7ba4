"""The public names as type checkers and editors see them; at run time they are imported when they are used."""

from lash_cli.api.across import SessionDeleteReport as SessionDeleteReport
from lash_cli.api.admin import SessionAdmin as SessionAdmin
from lash_cli.api.commands import SessionCommands as SessionCommands
from lash_cli.api.core import LashCore as LashCore, OpenMode as OpenMode, ParkedSession as ParkedSession
from lash_cli.api.observable import (
    ObservableSession as ObservableSession,
    RemoteGap as RemoteGap,
    RemoteSessionObservationEventStream as RemoteSessionObservationEventStream,
    RemoteSessionObservationStream as RemoteSessionObservationStream,
    RemoteSubscribed as RemoteSubscribed,
)
from lash_cli.api.provider import provider as provider
from lash_cli.api.queue import BatchSettlement as BatchSettlement, SessionQueue as SessionQueue
from lash_cli.api.session import LashSession as LashSession
from lash_cli.api.tools import (
    AdvancedToolAdmin as AdvancedToolAdmin,
    ToolAdmin as ToolAdmin,
    ToolSourceHandle as ToolSourceHandle,
)
from lash_cli.api.turns import (
    QueuedTurnBuilder as QueuedTurnBuilder,
    TurnActivityFanout as TurnActivityFanout,
    TurnActivitySink as TurnActivitySink,
    TurnBuilder as TurnBuilder,
    TurnStream as TurnStream,
)
from lash_cli.core.activity import (
    AssistantProseDelta as AssistantProseDelta,
    ChildUsage as ChildUsage,
    Committed as Committed,
    ErrorShown as ErrorShown,
    ModelAttemptReset as ModelAttemptReset,
    ModelRequestStarted as ModelRequestStarted,
    QueuedInputAccepted as QueuedInputAccepted,
    QueuedWorkStarted as QueuedWorkStarted,
    ReasoningShown as ReasoningShown,
    RetryWait as RetryWait,
    ToolCallCompleted as ToolCallCompleted,
    ToolCallStarted as ToolCallStarted,
    ToolProgress as ToolProgress,
    TurnActivity as TurnActivity,
    TurnFinished as TurnFinished,
    TurnStarted as TurnStarted,
    UsageShown as UsageShown,
    ValueShown as ValueShown,
)
from lash_cli.core.attachments import AttachmentPolicy as AttachmentPolicy
from lash_cli.core.content import (
    AttachmentItem as AttachmentItem,
    Message as Message,
    TextItem as TextItem,
    TurnInput as TurnInput,
)
from lash_cli.core.context import (
    CompactionContext as CompactionContext,
    ContextMoment as ContextMoment,
    ContextPlugin as ContextPlugin,
)
from lash_cli.core.direct import (
    DirectCompletion as DirectCompletion,
    DirectLlmCompletion as DirectLlmCompletion,
    DirectRequest as DirectRequest,
)
from lash_cli.core.history import TreeEntry as TreeEntry
from lash_cli.core.ingress import (
    ActiveTurn as ActiveTurn,
    ByInputId as ByInputId,
    BySourceKey as BySourceKey,
    InputDraft as InputDraft,
    NextTurn as NextTurn,
    PendingTurnInput as PendingTurnInput,
    PendingTurnInputCancelOutcome as PendingTurnInputCancelOutcome,
    PendingTurnInputCancelResult as PendingTurnInputCancelResult,
    PendingTurnInputCancelTarget as PendingTurnInputCancelTarget,
    PendingTurnInputSuffixCancelOutcome as PendingTurnInputSuffixCancelOutcome,
    TurnInputClaim as TurnInputClaim,
    TurnInputIngress as TurnInputIngress,
)
from lash_cli.core.lease import (
    LeaseFence as LeaseFence,
    LeaseOwnerIdentity as LeaseOwnerIdentity,
    LeaseTimings as LeaseTimings,
)
from lash_cli.core.llm import (
    JsonObjectOutput as JsonObjectOutput,
    JsonSchemaOutput as JsonSchemaOutput,
    LlmCallRecord as LlmCallRecord,
    LlmCallResult as LlmCallResult,
    LlmRequest as LlmRequest,
    LlmResponse as LlmResponse,
    NormalizedError as NormalizedError,
    OutputSpec as OutputSpec,
)
from lash_cli.core.observation import (
    ActivityObserved as ActivityObserved,
    AgentFrameSwitched as AgentFrameSwitched,
    LiveReplayGap as LiveReplayGap,
    LiveReplayGapReason as LiveReplayGapReason,
    ProcessChanged as ProcessChanged,
    QueueChanged as QueueChanged,
    ResidentChanged as ResidentChanged,
    SessionCursor as SessionCursor,
    SessionObservationEvent as SessionObservationEvent,
    StateCommitted as StateCommitted,
)
from lash_cli.core.outcome import (
    AgentFrameSwitch as AgentFrameSwitch,
    AssistantMessage as AssistantMessage,
    AssistantOutput as AssistantOutput,
    ExecutionSummary as ExecutionSummary,
    FinalValue as FinalValue,
    Finished as Finished,
    Stopped as Stopped,
    TerminalCommitted as TerminalCommitted,
    TerminalFailed as TerminalFailed,
    TurnAddress as TurnAddress,
    TurnCancellationEvidence as TurnCancellationEvidence,
    TurnCancelReceipt as TurnCancelReceipt,
    TurnIssue as TurnIssue,
    TurnOutcome as TurnOutcome,
    TurnResult as TurnResult,
    TurnTerminal as TurnTerminal,
)
from lash_cli.core.policy import (
    ModelLimits as ModelLimits,
    ModelSpec as ModelSpec,
    PromptBuiltinEntry as PromptBuiltinEntry,
    PromptContribution as PromptContribution,
    PromptLayer as PromptLayer,
    PromptSection as PromptSection,
    PromptSlot as PromptSlot,
    PromptSlotEntry as PromptSlotEntry,
    PromptTextEntry as PromptTextEntry,
    SessionConfigPatch as SessionConfigPatch,
    SessionPolicy as SessionPolicy,
    SessionSpec as SessionSpec,
)
from lash_cli.core.prompt import (
    DEFAULT_TEMPLATE as DEFAULT_TEMPLATE,
    STANDARD_BUILTINS as STANDARD_BUILTINS,
    PromptBuiltins as PromptBuiltins,
)
from lash_cli.core.protocols import (
    ApprovalPolicy as ApprovalPolicy,
    CancelSignal as CancelSignal,
    Clock as Clock,
    EffectHost as EffectHost,
    EventSink as EventSink,
    Ids as Ids,
    ModelCaller as ModelCaller,
    ToolContext as ToolContext,
    ToolProvider as ToolProvider,
)
from lash_cli.core.queued_work import (
    ProcessWake as ProcessWake,
    QueuedWorkBatch as QueuedWorkBatch,
    QueuedWorkBatchDraft as QueuedWorkBatchDraft,
    QueuedWorkClaim as QueuedWorkClaim,
    QueuedWorkReceipt as QueuedWorkReceipt,
    RefreshToolCatalog as RefreshToolCatalog,
    ResetSession as ResetSession,
    SessionCommand as SessionCommand,
    SessionCommandReceipt as SessionCommandReceipt,
)
from lash_cli.core.remote import (
    REMOTE_PROTOCOL_VERSION as REMOTE_PROTOCOL_VERSION,
    RemoteLiveReplayGap as RemoteLiveReplayGap,
    RemoteSessionCursor as RemoteSessionCursor,
    RemoteSessionObservation as RemoteSessionObservation,
    RemoteSessionObservationEvent as RemoteSessionObservationEvent,
    RemoteTurnActivity as RemoteTurnActivity,
)
from lash_cli.core.remote_input import RemoteTurnInput as RemoteTurnInput
from lash_cli.core.remote_turns import (
    RemoteTurnCancelReceipt as RemoteTurnCancelReceipt,
    RemoteTurnCancelRequest as RemoteTurnCancelRequest,
    RemoteTurnRequest as RemoteTurnRequest,
    RemoteTurnResult as RemoteTurnResult,
)
from lash_cli.core.tools import (
    ToolCall as ToolCall,
    ToolCallOutput as ToolCallOutput,
    ToolCallRecord as ToolCallRecord,
    ToolContract as ToolContract,
    ToolManifest as ToolManifest,
    ToolState as ToolState,
)
from lash_cli.core.trace import (
    TraceContext as TraceContext,
    TraceLevel as TraceLevel,
    TraceRecord as TraceRecord,
    TraceSink as TraceSink,
)
from lash_cli.core.usage import (
    SessionUsageReport as SessionUsageReport,
    TokenLedgerEntry as TokenLedgerEntry,
    TokenUsage as TokenUsage,
)
from lash_cli.providers.retry import RetryingCaller as RetryingCaller, RetryPolicy as RetryPolicy
from lash_cli.runtime.appending import (
    Appended as Appended,
    AppendSessionNodesRequest as AppendSessionNodesRequest,
    SessionAppendNode as SessionAppendNode,
    StaleBranch as StaleBranch,
)
from lash_cli.runtime.cancellation import CancelToken as CancelToken
from lash_cli.runtime.compaction import CompactionReport as CompactionReport
from lash_cli.runtime.demand import SessionOpener as SessionOpener
from lash_cli.runtime.drivers import Driver as Driver, QueueDriver as QueueDriver
from lash_cli.runtime.frame_opening import (
    OpenAgentFrameRequest as OpenAgentFrameRequest,
    OpenAgentFrameResult as OpenAgentFrameResult,
)
from lash_cli.runtime.history import HeadMove as HeadMove
from lash_cli.runtime.host import ProviderResolver as ProviderResolver
from lash_cli.runtime.observing import (
    ObservedEvent as ObservedEvent,
    ObservedGap as ObservedGap,
    RecoveringStream as RecoveringStream,
    Replayed as Replayed,
    SessionObservation as SessionObservation,
    Subscribed as Subscribed,
)
from lash_cli.runtime.phases import TurnPhase as TurnPhase, TurnPhaseProbe as TurnPhaseProbe
from lash_cli.runtime.requests import DrainReason as DrainReason, TurnOutput as TurnOutput
from lash_cli.runtime.state import RuntimeSessionState as RuntimeSessionState, SessionReadView as SessionReadView
from lash_cli.runtime.trace_sinks import (
    JsonlTraceSink as JsonlTraceSink,
    StderrTraceSink as StderrTraceSink,
    TeeTraceSink as TeeTraceSink,
)
from lash_cli.runtime.tracing import Tracer as Tracer
from lash_cli.runtime.work_events import (
    OnFailure as OnFailure,
    OnWorkEvent as OnWorkEvent,
    WorkEvent as WorkEvent,
    WorkOptions as WorkOptions,
    WorkReport as WorkReport,
)
from lash_cli.runtime.worker import QueueWorker as QueueWorker
from lash_cli.store.base import (
    RuntimePersistence as RuntimePersistence,
    SessionMeta as SessionMeta,
    TurnRecord as TurnRecord,
)
from lash_cli.store.sqlite.store import SqliteStore as SqliteStore
from lash_cli.tools.function import (
    FunctionTool as FunctionTool,
    FunctionToolProvider as FunctionToolProvider,
    tool as tool,
)
from lash_cli.tools.registry import ToolRestoreReport as ToolRestoreReport
