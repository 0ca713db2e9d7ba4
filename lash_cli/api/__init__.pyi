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
    CodeBlockCompleted as CodeBlockCompleted,
    CodeBlockStarted as CodeBlockStarted,
    Committed as Committed,
    ErrorShown as ErrorShown,
    FinalValueShown as FinalValueShown,
    ModelAttemptReset as ModelAttemptReset,
    ModelRequestStarted as ModelRequestStarted,
    PluginCustom as PluginCustom,
    PluginRuntime as PluginRuntime,
    PluginStatus as PluginStatus,
    QueuedInputAccepted as QueuedInputAccepted,
    QueuedWorkStarted as QueuedWorkStarted,
    ReasoningShown as ReasoningShown,
    RetryWait as RetryWait,
    ToolCallCompleted as ToolCallCompleted,
    ToolCallStarted as ToolCallStarted,
    ToolProgress as ToolProgress,
    TurnActivity as TurnActivity,
    TurnEvent as TurnEvent,
    TurnFinished as TurnFinished,
    TurnStarted as TurnStarted,
    UsageShown as UsageShown,
    ValueShown as ValueShown,
)
from lash_cli.core.attachments import AttachmentPolicy as AttachmentPolicy
from lash_cli.core.commit import TurnSummary as TurnSummary
from lash_cli.core.content import (
    AttachmentItem as AttachmentItem,
    AttachmentPart as AttachmentPart,
    AttachmentSource as AttachmentSource,
    CodePart as CodePart,
    ErrorPart as ErrorPart,
    ExternalUrl as ExternalUrl,
    Inline as Inline,
    InputItem as InputItem,
    Message as Message,
    MessageOrigin as MessageOrigin,
    OutputPart as OutputPart,
    Part as Part,
    PluginOrigin as PluginOrigin,
    ProcessOrigin as ProcessOrigin,
    ProsePart as ProsePart,
    ProtocolTurnOptions as ProtocolTurnOptions,
    ProviderFile as ProviderFile,
    ReasoningPart as ReasoningPart,
    ReasoningReplay as ReasoningReplay,
    Role as Role,
    Stored as Stored,
    TextItem as TextItem,
    TextPart as TextPart,
    ToolCallPart as ToolCallPart,
    ToolResultPart as ToolResultPart,
    TurnInput as TurnInput,
    message_text as message_text,
)
from lash_cli.core.context import (
    CompactionContext as CompactionContext,
    ContextMoment as ContextMoment,
    ContextPlugin as ContextPlugin,
    Summarise as Summarise,
    SummaryRequest as SummaryRequest,
)
from lash_cli.core.direct import (
    DirectCompletion as DirectCompletion,
    DirectLlmCompletion as DirectLlmCompletion,
    DirectRequest as DirectRequest,
)
from lash_cli.core.frames import (
    AgentFrame as AgentFrame,
    FrameAssignment as FrameAssignment,
    FrameStatus as FrameStatus,
)
from lash_cli.core.graph import (
    CausalRef as CausalRef,
    ConversationPayload as ConversationPayload,
    NodePayload as NodePayload,
    ChronologicalEntry as ChronologicalEntry,
    PluginPayload as PluginPayload,
    SessionGraph as SessionGraph,
    ProtocolPayload as ProtocolPayload,
    SessionNode as SessionNode,
)
from lash_cli.core.head_state import TurnState as TurnState
from lash_cli.core.history import TreeEntry as TreeEntry
from lash_cli.core.ingress import (
    ActiveTurn as ActiveTurn,
    AlreadyCancelled as AlreadyCancelled,
    AlreadyClaimed as AlreadyClaimed,
    AlreadyCompleted as AlreadyCompleted,
    AnchorNotFound as AnchorNotFound,
    Boundary as Boundary,
    ByInputId as ByInputId,
    BySourceKey as BySourceKey,
    Cancelled as Cancelled,
    ClaimDiagnostics as ClaimDiagnostics,
    InputDraft as InputDraft,
    InputNotFound as InputNotFound,
    InputState as InputState,
    NextTurn as NextTurn,
    PendingTurnInput as PendingTurnInput,
    PendingTurnInputCancelOutcome as PendingTurnInputCancelOutcome,
    PendingTurnInputCancelResult as PendingTurnInputCancelResult,
    PendingTurnInputCancelTarget as PendingTurnInputCancelTarget,
    PendingTurnInputSuffixCancelOutcome as PendingTurnInputSuffixCancelOutcome,
    SuffixOutcomes as SuffixOutcomes,
    TurnInputClaim as TurnInputClaim,
    TurnInputIngress as TurnInputIngress,
)
from lash_cli.core.lease import (
    LeaseFence as LeaseFence,
    LeaseOwnerIdentity as LeaseOwnerIdentity,
    LeaseTimings as LeaseTimings,
    Liveness as Liveness,
    LocalProcess as LocalProcess,
    Opaque as Opaque,
)
from lash_cli.core.llm import (
    AttemptOutcome as AttemptOutcome,
    AttemptRecord as AttemptRecord,
    AttemptReset as AttemptReset,
    EvidenceReported as EvidenceReported,
    ExecutionEvidence as ExecutionEvidence,
    FetchAttachment as FetchAttachment,
    GenerationReceipt as GenerationReceipt,
    Handling as Handling,
    JsonObjectOutput as JsonObjectOutput,
    JsonSchemaOutput as JsonSchemaOutput,
    LlmCallRecord as LlmCallRecord,
    LlmCallResult as LlmCallResult,
    LlmPart as LlmPart,
    LlmRequest as LlmRequest,
    LlmResponse as LlmResponse,
    LlmScope as LlmScope,
    LlmToolSpec as LlmToolSpec,
    NormalizedError as NormalizedError,
    OutputSpec as OutputSpec,
    ProtocolPosition as ProtocolPosition,
    ReasoningDelta as ReasoningDelta,
    RetryDecision as RetryDecision,
    RetryStatus as RetryStatus,
    StreamEvent as StreamEvent,
    TerminalReason as TerminalReason,
    TextDelta as TextDelta,
    ToolChoice as ToolChoice,
    UsageReported as UsageReported,
)
from lash_cli.core.observation import (
    ActivityObserved as ActivityObserved,
    AgentFrameSwitched as AgentFrameSwitched,
    LiveReplayGap as LiveReplayGap,
    LiveReplayGapReason as LiveReplayGapReason,
    ObservationPayload as ObservationPayload,
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
    CancelOutcome as CancelOutcome,
    ExecutionSummary as ExecutionSummary,
    FinalValue as FinalValue,
    Finish as Finish,
    Finished as Finished,
    OutputState as OutputState,
    StopReason as StopReason,
    Stopped as Stopped,
    TerminalCommitted as TerminalCommitted,
    TerminalFailed as TerminalFailed,
    ToolValue as ToolValue,
    TurnAddress as TurnAddress,
    TurnCancelReceipt as TurnCancelReceipt,
    TurnCancelRequest as TurnCancelRequest,
    TurnCancellationEvidence as TurnCancellationEvidence,
    TurnIssue as TurnIssue,
    TurnOutcome as TurnOutcome,
    TurnResult as TurnResult,
    TurnTerminal as TurnTerminal,
)
from lash_cli.core.policy import (
    Generation as Generation,
    ModelCapability as ModelCapability,
    ModelLimits as ModelLimits,
    ModelSpec as ModelSpec,
    PromptBuiltinEntry as PromptBuiltinEntry,
    PromptBuiltinName as PromptBuiltinName,
    PromptContribution as PromptContribution,
    PromptEntry as PromptEntry,
    PromptLayer as PromptLayer,
    PromptSection as PromptSection,
    PromptSlot as PromptSlot,
    PromptSlotEntry as PromptSlotEntry,
    PromptSlotLayer as PromptSlotLayer,
    PromptTextEntry as PromptTextEntry,
    ProviderDefault as ProviderDefault,
    ReasoningCapability as ReasoningCapability,
    ReasoningDisabled as ReasoningDisabled,
    ReasoningEffort as ReasoningEffort,
    ReasoningSelection as ReasoningSelection,
    SessionConfigPatch as SessionConfigPatch,
    SessionPolicy as SessionPolicy,
    SessionSpec as SessionSpec,
)
from lash_cli.core.pricing import BucketPrices as BucketPrices, CostLimit as CostLimit, Prices as Prices
from lash_cli.core.prompt import (
    DEFAULT_TEMPLATE as DEFAULT_TEMPLATE,
    PromptBuiltins as PromptBuiltins,
    STANDARD_BUILTINS as STANDARD_BUILTINS,
)
from lash_cli.core.protocols import (
    AfterToolHook as AfterToolHook,
    ApprovalPolicy as ApprovalPolicy,
    BeforeToolHook as BeforeToolHook,
    CancelSignal as CancelSignal,
    CancelsExternalWork as CancelsExternalWork,
    Clock as Clock,
    EffectHost as EffectHost,
    EventSink as EventSink,
    Ids as Ids,
    ModelCaller as ModelCaller,
    NestedCall as NestedCall,
    PreparesCalls as PreparesCalls,
    Provider as Provider,
    ResolvesTools as ResolvesTools,
    RunsGrantedCalls as RunsGrantedCalls,
    ToolContext as ToolContext,
    ToolDispatch as ToolDispatch,
    ToolHook as ToolHook,
    ToolProvider as ToolProvider,
    ToolResultProjector as ToolResultProjector,
)
from lash_cli.core.queued_work import (
    AgentFrameTask as AgentFrameTask,
    BatchState as BatchState,
    CommandWork as CommandWork,
    DeliveryPolicy as DeliveryPolicy,
    MergeGroup as MergeGroup,
    MergeKey as MergeKey,
    NeverMerge as NeverMerge,
    PayloadDefault as PayloadDefault,
    ProcessWake as ProcessWake,
    QueuedWorkBatch as QueuedWorkBatch,
    QueuedWorkBatchDraft as QueuedWorkBatchDraft,
    QueuedWorkClaim as QueuedWorkClaim,
    QueuedWorkClass as QueuedWorkClass,
    QueuedWorkPayload as QueuedWorkPayload,
    QueuedWorkReceipt as QueuedWorkReceipt,
    RefreshToolCatalog as RefreshToolCatalog,
    ResetSession as ResetSession,
    SessionCommand as SessionCommand,
    SessionCommandReceipt as SessionCommandReceipt,
    SlotPolicy as SlotPolicy,
)
from lash_cli.core.remote import (
    REMOTE_PROTOCOL_VERSION as REMOTE_PROTOCOL_VERSION,
    RemoteLiveReplayGap as RemoteLiveReplayGap,
    RemoteSessionCursor as RemoteSessionCursor,
    RemoteSessionObservation as RemoteSessionObservation,
    RemoteSessionObservationEvent as RemoteSessionObservationEvent,
    RemoteTurnActivity as RemoteTurnActivity,
)
from lash_cli.core.remote_input import (
    RemoteAttachmentItem as RemoteAttachmentItem,
    RemoteAttachmentRef as RemoteAttachmentRef,
    RemoteAttachmentSource as RemoteAttachmentSource,
    RemoteExternalUrl as RemoteExternalUrl,
    RemoteInline as RemoteInline,
    RemoteProtocolTurnOptions as RemoteProtocolTurnOptions,
    RemoteProviderFile as RemoteProviderFile,
    RemoteProviderScope as RemoteProviderScope,
    RemoteStored as RemoteStored,
    RemoteTextItem as RemoteTextItem,
    RemoteTurnInput as RemoteTurnInput,
)
from lash_cli.core.remote_tools import (
    RemoteArgumentProjection as RemoteArgumentProjection,
    RemoteMaterializedArguments as RemoteMaterializedArguments,
    RemoteOutputContract as RemoteOutputContract,
    RemoteOutputFromInput as RemoteOutputFromInput,
    RemotePreservedReferences as RemotePreservedReferences,
    RemoteStaticOutput as RemoteStaticOutput,
    RemoteToolGrant as RemoteToolGrant,
    require_same_call_paths as require_same_call_paths,
    validate_tool_grants as validate_tool_grants,
)
from lash_cli.core.remote_turns import (
    RemoteCancellation as RemoteCancellation,
    RemoteTurnCancelReceipt as RemoteTurnCancelReceipt,
    RemoteTurnCancelRequest as RemoteTurnCancelRequest,
    RemoteTurnRequest as RemoteTurnRequest,
    RemoteTurnResult as RemoteTurnResult,
)
from lash_cli.core.schemas import SchemaOverride as SchemaOverride, SchemaProjection as SchemaProjection
from lash_cli.core.superseded import SupersededNodes as SupersededNodes
from lash_cli.core.tool_definition import ToolDefinition as ToolDefinition, ToolExecutionGrant as ToolExecutionGrant
from lash_cli.core.tool_hooks import (
    AbortTurn as AbortTurn,
    AfterToolCall as AfterToolCall,
    AfterToolDirective as AfterToolDirective,
    BeforeToolCall as BeforeToolCall,
    BeforeToolDirective as BeforeToolDirective,
    EmitRuntimeEvents as EmitRuntimeEvents,
    EmitTrace as EmitTrace,
    EnqueueMessages as EnqueueMessages,
    PluginMessage as PluginMessage,
    ReplaceToolArgs as ReplaceToolArgs,
    ShortCircuitTool as ShortCircuitTool,
    ToolProjection as ToolProjection,
)
from lash_cli.core.tool_shapes import (
    ArgumentProjection as ArgumentProjection,
    CompactContract as CompactContract,
    CompactField as CompactField,
    MaterializedArguments as MaterializedArguments,
    OutputContract as OutputContract,
    OutputFromInput as OutputFromInput,
    PreservedReferences as PreservedReferences,
    StaticOutput as StaticOutput,
)
from lash_cli.core.tools import (
    ApprovalClass as ApprovalClass,
    FailControl as FailControl,
    FailureClass as FailureClass,
    FinishControl as FinishControl,
    IdempotentRetry as IdempotentRetry,
    NeverRetry as NeverRetry,
    PendingCompletion as PendingCompletion,
    RetryHint as RetryHint,
    SafeRetry as SafeRetry,
    SwitchAgentFrameControl as SwitchAgentFrameControl,
    ToolCall as ToolCall,
    ToolCallOutput as ToolCallOutput,
    ToolCallRecord as ToolCallRecord,
    ToolCancellation as ToolCancellation,
    ToolCancelled as ToolCancelled,
    ToolCatalogEntry as ToolCatalogEntry,
    ToolContract as ToolContract,
    ToolControl as ToolControl,
    ToolFailed as ToolFailed,
    ToolFailure as ToolFailure,
    ToolManifest as ToolManifest,
    ToolOutcome as ToolOutcome,
    ToolResult as ToolResult,
    ToolRetryPolicy as ToolRetryPolicy,
    ToolState as ToolState,
    ToolStateEntry as ToolStateEntry,
    ToolSuccess as ToolSuccess,
    tool_error as tool_error,
)
from lash_cli.core.trace import (
    TraceContext as TraceContext,
    TraceLevel as TraceLevel,
    TraceRecord as TraceRecord,
    TraceSink as TraceSink,
)
from lash_cli.core.trace_limits import Cut as Cut
from lash_cli.core.usage import (
    PromptUsage as PromptUsage,
    SessionUsageReport as SessionUsageReport,
    TokenLedgerEntry as TokenLedgerEntry,
    TokenUsage as TokenUsage,
    diff_token_ledger as diff_token_ledger,
    diff_usage_reports as diff_usage_reports,
)
from lash_cli.core.wait import (
    AwaitEventKey as AwaitEventKey,
    Resolution as Resolution,
    ResolvedCancelled as ResolvedCancelled,
    ResolvedErr as ResolvedErr,
    ResolvedOk as ResolvedOk,
    ResolvedTimeout as ResolvedTimeout,
    ResolveOutcome as ResolveOutcome,
)
from lash_cli.providers.retry import RetryPolicy as RetryPolicy, RetryingCaller as RetryingCaller
from lash_cli.runtime.appending import (
    AppendSessionNodesRequest as AppendSessionNodesRequest,
    Appended as Appended,
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
from lash_cli.runtime.host import (
    ProviderResolver as ProviderResolver,
    ProviderStatus as ProviderStatus,
)
from lash_cli.runtime.observing import (
    LiveSubscription as LiveSubscription,
    ObservedEvent as ObservedEvent,
    ObservedGap as ObservedGap,
    RecoveringStream as RecoveringStream,
    Replayed as Replayed,
    SessionObservation as SessionObservation,
    Subscribed as Subscribed,
)
from lash_cli.runtime.pages import TranscriptPage as TranscriptPage
from lash_cli.runtime.phases import TurnPhase as TurnPhase, TurnPhaseProbe as TurnPhaseProbe
from lash_cli.runtime.replacing import ReadStateReplaced as ReadStateReplaced
from lash_cli.runtime.requests import DrainReason as DrainReason, TurnOutput as TurnOutput
from lash_cli.runtime.state import (
    Residency as Residency,
    RuntimeSessionState as RuntimeSessionState,
    SessionReadView as SessionReadView,
)
from lash_cli.runtime.trace_otel import OpenTelemetryTraceSink as OpenTelemetryTraceSink
from lash_cli.runtime.trace_sinks import (
    JsonlTraceSink as JsonlTraceSink,
    StderrTraceSink as StderrTraceSink,
    TeeTraceSink as TeeTraceSink,
)
from lash_cli.runtime.tracing import Tracer as Tracer
from lash_cli.runtime.work_events import (
    ActivityShown as ActivityShown,
    CommandsApplied as CommandsApplied,
    HeldAfterFailure as HeldAfterFailure,
    LaneGivenUp as LaneGivenUp,
    OnFailure as OnFailure,
    OnWorkEvent as OnWorkEvent,
    PassFailed as PassFailed,
    SessionLeft as SessionLeft,
    SessionTaken as SessionTaken,
    StoppedBy as StoppedBy,
    TurnEnded as TurnEnded,
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
from lash_cli.tools.faults import ToolFault as ToolFault
from lash_cli.tools.function import (
    FunctionTool as FunctionTool,
    FunctionToolProvider as FunctionToolProvider,
    ToolFunction as ToolFunction,
    tool as tool,
)
from lash_cli.tools.registry import ToolRestoreReport as ToolRestoreReport
