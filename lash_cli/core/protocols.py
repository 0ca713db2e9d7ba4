"""What the outer layers must offer: the seams between core and the world.

Effects, providers, tools and modes implement these and never import one
another; `runtime` meets them here. A seam exists only where a second
implementation does: real and manual clocks, real and scripted providers, the
SQL and the inline effect host.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import msgspec

from lash_cli.core.content import AttachmentSource
from lash_cli.core.effect import (
    EffectEnvelope,
    EffectOutcome,
    ExecutionScope,
    ToolAttemptCommand,
    ToolAttemptOutcome,
)
from lash_cli.core.lease import LeaseFence
from lash_cli.core.llm import LlmCallResult, LlmRequest, LlmResponse, StreamEvent
from lash_cli.core.tool_definition import ToolExecutionGrant
from lash_cli.core.tools import (
    ToolCall,
    ToolCallOutput,
    ToolCallRecord,
    ToolCatalogEntry,
    ToolContract,
    ToolManifest,
    ToolResult,
)
from lash_cli.core.wait import AwaitEventKey, Resolution, ResolveOutcome, WaitIdentity

if TYPE_CHECKING:
    from lash_cli.core.direct import DirectLlmCompletion, DirectRequest
    from lash_cli.core.tool_hooks import (
        AfterToolCall,
        AfterToolDirective,
        BeforeToolCall,
        BeforeToolDirective,
        ToolProjection,
    )


class Clock(Protocol):
    """Every timestamp, expiry and delay comes from here (design D18)."""

    def now_ms(self) -> int:
        """Wall time in epoch milliseconds."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Suspend the calling task."""
        ...


class Ids(Protocol):
    """Fresh identifiers and random bits."""

    def new(self, prefix: str) -> str:
        """A new sortable id such as `t_01…`."""
        ...

    def token(self) -> str:
        """An unguessable ownership token."""
        ...

    def bits(self, count: int) -> int:
        """`count` random bits, for names and jitter."""
        ...


class CancelSignal(Protocol):
    """A one-way flag that a turn, a call or a tool watches."""

    @property
    def is_set(self) -> bool:
        """Whether cancellation was requested."""
        ...

    async def wait(self) -> None:
        """Return once cancellation is requested."""
        ...


EventSink = Callable[[StreamEvent], Awaitable[None]]


class Provider(Protocol):
    """One model endpoint: one attempt per call, no retries of its own (contract 06 §3.1)."""

    @property
    def kind(self) -> str:
        """The stable id recorded with the session."""
        ...

    async def complete(self, request: LlmRequest, sink: EventSink) -> LlmResponse:
        """Run one attempt and return a terminally proved answer.

        Raises `LlmTransportError` for every failure of the endpoint or the
        wire; deltas already sent to `sink` are then retracted by the caller.
        """
        ...

    async def aclose(self) -> None:
        """Release connections."""
        ...


class ModelCaller(Protocol):
    """A provider behind its retry ladder (contract 06 §3.1): what the runtime calls. One whose attribute
    `checks_answers` is True says that each of its results is one that `core.llm.kept_result` takes, and that it returns
    soon after a cancel whatever it calls itself; of all others that is found out."""

    @property
    def provider_id(self) -> str:
        """The id a session records."""
        ...

    async def call(self, request: LlmRequest, *, sink: EventSink, cancel: CancelSignal) -> LlmCallResult:
        """Run the ladder. Never raises for a provider failure or a cancel: both are results with a record. What it
        raises all the same, and what could not be read again, is the result `provider_panicked`, and where it does not
        return soon after `cancel` was set the task that it runs in is cancelled, and left to itself if it goes on."""
        ...

    async def aclose(self) -> None:
        """Release connections."""
        ...


@runtime_checkable
class JudgesAttachments(Protocol):
    """A model caller that knows what it cannot be sent.

    Asked before an attachment enters a transcript: one that the provider
    refuses would stop this turn and every later one.
    """

    def attachment_refusal(self, source: AttachmentSource) -> str | None:
        """Why `source` cannot be sent to the provider; None when it can, as far as that is known."""
        ...


ProgressSink = Callable[[str], None]


class NestedCall(msgspec.Struct, frozen=True):
    """A call that a running tool makes: of the tool of that name, or of one that it was granted."""

    tool: str | ToolExecutionGrant
    args: dict[str, Any] = {}


class ToolDispatch(Protocol):
    """What a running tool may ask of the dispatch of its turn (contract 05 §1.6)."""

    def manifest(self, name: str) -> ToolManifest | None:
        """The tool that may be called by that name; None for one that is hidden, switched off or gone."""
        ...

    def catalog(self) -> tuple[ToolCatalogEntry, ...]:
        """All tools that may be called so, with what they take, ordered by id. Raises what a source of tools raises."""
        ...

    async def batch(self, calls: Sequence[NestedCall]) -> tuple[ToolCallRecord, ...]:
        """Make calls beside one another, each as a model's: judged, validated, tried again, shown, below the call that
        is running. Their records, in the order of `calls`; what a tool does wrong is a failed one.

        They are part of the attempt: none outlives it, and an attempt that is made again makes them again. For that
        reason they are refused where attempts are journalled, which is every session with a store
        (`nested_tool_batch_refused`, contract 05 §3.2): raises `ToolFault`, as it does once the attempt is over. Raises
        `TypeError` for arguments that are no JSON.
        """
        ...


class ToolContext(Protocol):
    """What a running tool may see (contract 05 §1.6); all of it bound to one session."""

    @property
    def session_id(self) -> str:
        """The session the call is made in."""
        ...

    @property
    def turn_id(self) -> str:
        """The turn the call is made in."""
        ...

    @property
    def agent_frame_id(self) -> str:
        """The agent frame the turn belongs to."""
        ...

    @property
    def call_id(self) -> str:
        """The call; unique in its turn."""
        ...

    @property
    def attempt(self) -> int:
        """From 1."""
        ...

    @property
    def max_attempts(self) -> int:
        """The most attempts the tool's policy allows, at least 1."""
        ...

    @property
    def replay_key(self) -> str:
        """Equal for all attempts of a call, and for no other call: the idempotency key towards the outside."""
        ...

    @property
    def cancel(self) -> CancelSignal:
        """Set once the turn is to stop; who goes on after that is soon abandoned."""
        ...

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables a child process gets on top of its scrubbed environment: `LASH_SESSION`, `LASH_TURN`."""
        ...

    @property
    def prepared_payload(self) -> Any:
        """What the source of the tool minted for the call before its first attempt, None when nothing was: equal for
        all attempts, also behind a crash."""
        ...

    @property
    def tool_execution_binding(self) -> Any:
        """The `execution_binding` of the grant that the call is made under; None for a tool of the catalogue."""
        ...

    @property
    def dispatch(self) -> ToolDispatch:
        """Other tools of the session. Raises `ToolFault` (`tool_context_unavailable`) where no attempt is running."""
        ...

    async def completion_key(self) -> AwaitEventKey:
        """The key that completes this call from outside, equal for all attempts: for a tool that hands it on and
        answers `PendingCompletion`. Raises what becomes the failed result of the call
        (`tool_completion_key_process_lifetime`) where keys die with the process, as in a core without a store."""
        ...

    async def direct_completion(self, request: DirectRequest) -> DirectLlmCompletion:
        """One model call beside the turn, with its provider and model unless the request names others; booked to the
        session, as `tool:NAME` unless the request says for what.

        It belongs to the attempt: nothing of it is journalled, so an attempt that is made again asks again. Raises as
        `LashCore.direct_completion`.
        """
        ...

    async def put_attachment(self, source: AttachmentSource) -> AttachmentSource:
        """Keep bytes in the session and get the reference that stands for them, to be named in a result; a source that
        is no bytes stays as it is. Raises `LashError` for one that the host, the provider or the store refuses."""
        ...

    def progress(self, text: str) -> None:
        """Show output while running; best effort, never part of the result."""
        ...


class ToolProvider(Protocol):
    """A source of tools (contract 05 §1.6)."""

    def manifests(self) -> Sequence[ToolManifest]:
        """The tools on offer; cheap."""
        ...

    def contract(self, tool_id: str) -> ToolContract:
        """The contract of one tool; raises `KeyError` when unknown."""
        ...

    async def execute(self, call: ToolCall, context: ToolContext) -> ToolResult:
        """Run one attempt. Ordinary failures are outputs; an exception is contained by dispatch."""
        ...

    async def aclose(self) -> None:
        """End everything still running on behalf of this source."""
        ...


@runtime_checkable
class ResolvesTools(Protocol):
    """A source of tools that has more of them than it advertises (contract 05 §1.6, §2.2): one that is called is known
    from then on. Both are cheap and a function of their argument as long as the source offers the tool."""

    def resolve_manifest(self, name: str) -> ToolManifest | None:
        """The tool of that name, None when there is none."""
        ...

    def resolve_manifest_by_id(self, tool_id: str) -> ToolManifest | None:
        """The tool of that id, None when there is none."""
        ...


@runtime_checkable
class PreparesCalls(Protocol):
    """A source of tools that readies a call before its first attempt (contract 05 §1.6, §3.1)."""

    async def prepare_tool_call(self, call: ToolCall, context: ToolContext) -> ToolCall | ToolCallOutput:
        """The call as it is to be made, with what is minted once, such as the id of a child, as its
        `prepared_payload`; or at once its result.

        Asked when the call was validated and allowed. What it returns is recorded with the first attempt, so that
        whoever goes on behind a crash does not ask again. An exception is contained by dispatch.
        """
        ...


@runtime_checkable
class RunsGrantedCalls(Protocol):
    """A source of tools that runs some which are in no catalogue, for who holds a grant (contract 05 §1.6, §1.8). A
    source without it runs none."""

    async def prepare_granted_tool_call(
        self, grant: ToolExecutionGrant, call: ToolCall, context: ToolContext
    ) -> ToolCall | ToolCallOutput:
        """As `PreparesCalls.prepare_tool_call`; one that has nothing to mint returns `call`."""
        ...

    async def execute_granted(self, grant: ToolExecutionGrant, call: ToolCall, context: ToolContext) -> ToolResult:
        """As `ToolProvider.execute`, of the tool of the grant; the binding of the grant is in the context too."""
        ...


@runtime_checkable
class CancelsExternalWork(Protocol):
    """A source of tools that hears when nobody waits any more for what one of them left pending."""

    async def cancel_external_work(self, call: ToolCall, key: AwaitEventKey) -> None:
        """The call was cancelled while it waited for `key`. May be told more than once; best effort."""
        ...


class ApprovalPolicy(Protocol):
    """Decides whether a call may run (contract 05 §3.1)."""

    async def decide(self, manifest: ToolManifest, call: ToolCall) -> str | None:
        """None to allow, else the reason of the refusal shown to the model."""
        ...


class ToolHook(Protocol):
    """Whoever decides on tool calls beside the policy (contract 05 §4.3): a `BeforeToolHook`, an `AfterToolHook`, or
    both."""

    @property
    def hook_id(self) -> str:
        """Names the hook in failures, events and traces, and settles ties; unique in its core, not blank."""
        ...


@runtime_checkable
class BeforeToolHook(ToolHook, Protocol):
    """A hook that is asked before a call is made."""

    async def before_tool_call(self, call: BeforeToolCall) -> Sequence[BeforeToolDirective] | None:
        """What it asks for; None and nothing are the same.

        Asked once for a call, and once more where a later hook puts other
        arguments in place. Its answer is recorded, so that whoever goes on
        behind a crash does not ask again. An exception fails the call
        (`before_tool_call_failed`). When the turn is cancelled so is the hook.
        """
        ...


@runtime_checkable
class AfterToolHook(ToolHook, Protocol):
    """A hook that is asked after every attempt of a call."""

    async def after_tool_call(self, call: AfterToolCall) -> Sequence[AfterToolDirective] | None:
        """What it asks for; None and nothing are the same.

        Asked once an attempt has its result, which is also what the policy or
        the source of the tool answered instead of it; of a call that is
        completed from outside, when it is. Whether the call is tried again
        depends on what the hooks leave. Recorded, contained (with
        `after_tool_call_failed`) and cancelled like `BeforeToolHook`.
        """
        ...


class ToolResultProjector(Protocol):
    """Shortens, or says otherwise, what the model reads of results (contract 05 §1.4); a core has at most one."""

    async def project(self, result: ToolProjection) -> str:
        """The text the model reads. The record of the call keeps the whole result.

        Asked once for every finished call; its answer is recorded. The text of
        an exception is what the model reads instead.
        """
        ...


class EffectContext(msgspec.Struct, frozen=True):
    """What a local executor learns about its run.

    `taken_over` says that an earlier attempt was cut off: its outside effects
    are unknown. `attempt` counts runs from 1. `due_at_ms` is when a sleep is
    over, kept across crashes.
    """

    attempt: int = 1
    taken_over: bool = False
    due_at_ms: int | None = None


EffectExecutor = Callable[[EffectContext], Awaitable[EffectOutcome]]


class ScopedEffects(Protocol):
    """Runs the effects of one scope, each at most once as far as anybody can observe (contract 03 §2)."""

    @property
    def scope(self) -> ExecutionScope:
        """What the effects belong to."""
        ...

    @property
    def durability_tier(self) -> Literal["inline", "durable"]:
        """Whether outcomes outlive this process."""
        ...

    @property
    def supports_concurrent_effects(self) -> bool:
        """False makes every coordinator issue its effects one after another."""
        ...

    async def settle(self) -> None:
        """Wait until every outcome handed out stands in the journal."""
        ...

    def superseded(self) -> AbstractContextManager[None]:
        """A block that writes the terminal commit of the scope.

        Outcomes not yet written need no row once that commit stands, so they are withdrawn; when the block raises, they
        are written after all, for whoever drives the scope again.
        """
        ...

    async def is_known(self, replay_key: str) -> bool:
        """Whether the journal holds a row of this key, finished or not. Always False where nothing is journalled."""
        ...

    async def recorded(self, replay_key: str) -> tuple[EffectEnvelope, EffectOutcome] | None:
        """What an earlier drive asked for under a key and was answered, for who can no longer ask for it; None when
        there is no such outcome. Raises `JournalFault` for a row that cannot be read."""
        ...

    async def asked(self, replay_key: str) -> EffectEnvelope | None:
        """What an earlier drive asked for under a key, finished or not; None when nothing, and where nothing is
        journalled. Raises `JournalFault` for a row that cannot be read."""
        ...

    async def left_pending(self) -> tuple[tuple[str, ToolAttemptCommand, ToolAttemptOutcome], ...]:
        """The attempts of earlier drives whose calls somebody outside was to complete, with their replay keys.

        For who ends the scope without going through its calls again, which must be possible: a row that cannot be read
        is left out, and logged. Empty where nothing is journalled.
        """
        ...

    async def has_any(self, key_prefix: str) -> bool:
        """Whether the journal holds a row whose key begins so, finished or not: how a re-drive knows that the turn
        was there before. Always False where nothing is journalled."""
        ...

    async def execute(self, envelope: EffectEnvelope, run: EffectExecutor) -> EffectOutcome:
        """Answer from the journal, or run and record.

        Raises the `EffectError` the executor raised, now and on every replay;
        `EffectError` for an invalid or diverging envelope; `JournalFault` when
        the outcome could not be recorded; `SessionExecutionLeaseExpired` when
        the lane is lost. Whatever else the executor raises passes through and
        is not recorded.
        """
        ...


class AwaitEventResolver(Protocol):
    """Promises with one terminal each, the first (contract 03 §3)."""

    @property
    def durability_tier(self) -> Literal["inline", "durable"]:
        """Whether promises outlive this process."""
        ...

    @property
    def allows_process_lifetime_completion_keys(self) -> bool:
        """Whether a tool-completion key may die with this process."""
        ...

    async def await_event_key(self, scope: ExecutionScope, wait: WaitIdentity) -> AwaitEventKey:
        """Mint a key. Pure: equal arguments give the equal key. Raises `EffectError` for a revoked session."""
        ...

    async def resolve_await_event(self, key: AwaitEventKey, resolution: Resolution) -> ResolveOutcome:
        """Offer a resolution; losers are told what stands. A forged key is `unknown_or_revoked`. Raises `UsageError`
        (`invalid_await_event_resolution`) for what no waiter could read."""
        ...

    async def peek_await_event(self, key: AwaitEventKey) -> Resolution | None:
        """What stands. Raises `EffectError` (`await_event_unknown_or_revoked`) when forged or revoked."""
        ...

    async def await_await_event(
        self, key: AwaitEventKey, deadline_ms: int | None = None, cancel: CancelSignal | None = None
    ) -> Resolution:
        """Wait for the terminal. A cancel or the deadline (epoch ms; the first one registered counts) resolves the
        promise itself, except turn control, which raises `EffectError` and stays pending."""
        ...

    async def cancel_await_events_for_session(self, session_id: str) -> int:
        """Resolve every pending wait of a session as cancelled, except turn control; the number of them."""
        ...

    async def revoke_await_events_for_session(self, session_id: str) -> None:
        """End every wait of a session for ever: waiters fail, and no key of it works again."""
        ...


class EffectHost(AwaitEventResolver, Protocol):
    """A factory of scoped effects, and the resolver of their promises (contract 03 §2.1)."""

    def scoped(self, scope: ExecutionScope, *, fence: LeaseFence | None = None, fresh: bool = False) -> ScopedEffects:
        """Effects of one scope. `fence` says the caller holds the session lane; `fresh` that it starts a turn whose
        journal is known to be empty. Raises `EffectError` (`missing_execution_scope_id`)."""
        ...
