"""One attempt at a call of a tool: allowed, readied, made under its limits, and recorded (contract 05 §3, design §3
step 4).

An attempt is one journal entry: a recorded one is read and never made again,
and nobody is asked about it again. One that a crash cut off is made again only
when the tool's policy says that is safe, and not without end. What a tool does wrong is its result;
only journal faults and the loss of the lane are raised. Which calls there are,
and whether a failed one is tried again, is `dispatch`'s to say.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from lash_cli.core.activity import ToolProgress, TurnEvent
from lash_cli.core.attachments import DENIED
from lash_cli.core.codec import described, storable
from lash_cli.core.content import AttachmentSource
from lash_cli.core.effect import (
    MAX_WAIT_MS,
    EffectEnvelope,
    EffectInvocation,
    EffectOutcome,
    SleepCommand,
    SleepOutcome,
    ToolAttemptCommand,
    ToolAttemptOutcome,
    TurnScope,
    child_replay_key,
)
from lash_cli.core.protocols import ApprovalPolicy, AwaitEventResolver, Clock, EffectContext, ScopedEffects
from lash_cli.core.tools import (
    FailureClass,
    NeverRetry,
    PendingCompletion,
    ToolCall,
    ToolCallOutput,
    ToolCallRecord,
    ToolResult,
    cancelled,
    failure,
    interrupted,
)
from lash_cli.effects.host import MS_PER_S, first_of
from lash_cli.errors import EffectError, LashError, UsageError
from lash_cli.runtime.cancellation import CancelToken
from lash_cli.runtime.containment import MAX_RESULT_CHARS, contained, lent, prepared
from lash_cli.runtime.foreign import until_over, within_limits
from lash_cli.runtime.nested import NestedCalls, RequestedCall
from lash_cli.runtime.pending import CompletionKeys, without_key
from lash_cli.tools.context import SimpleToolContext
from lash_cli.tools.registry import ResolvedTool, ToolRegistry

if TYPE_CHECKING:
    from lash_cli.core.direct import DirectLlmCompletion, DirectRequest

    AskModel = Callable[[str, DirectRequest], Awaitable[DirectLlmCompletion]]

_log = logging.getLogger("lash.dispatch")

#: How often an attempt that is safe to make again is begun, where each time the process ends before it is over: it may
#: be what ends it.
MOST_BEGUN = 5

Emit = Callable[[TurnEvent, str], Awaitable[None]]
Note = Callable[[str, Any], None]
StoreAttachment = Callable[[AttachmentSource], Awaitable[AttachmentSource]]


class TurnServices(msgspec.Struct, frozen=True):
    """What the calls of one turn need of it. `ask_model` makes the direct completions of tools, and books them to what
    it is given; `note` writes what hooks have to say into the trace. `is_strict` lets pass what a tool, its source, the
    policy or a hook raises, `is_redrive` says that earlier drives may have made and decided something."""

    registry: ToolRegistry
    approval: ApprovalPolicy | None
    effects: ScopedEffects
    resolver: AwaitEventResolver
    clock: Clock
    scope: TurnScope
    turn_index: int
    agent_frame_id: str
    cancel: CancelToken
    emit: Emit
    store_attachment: StoreAttachment
    ask_model: AskModel | None
    note: Note | None
    is_strict: bool
    is_redrive: bool


class ToolAttempts(ABC):
    """The part of `ToolDispatcher` that makes one attempt."""

    def __init__(self, turn: TurnServices) -> None:
        self._turn = turn
        self._progress: set[asyncio.Task[None]] = set()
        self._attempts_under_way: set[tuple[str, int]] = set()

    @abstractmethod
    async def run_calls(self, parent: str, calls: Sequence[RequestedCall]) -> tuple[ToolCallRecord, ...]:
        """Run the calls that a tool makes while it runs (`nested.RunCalls`)."""

    async def _attempt(
        self, call: ToolCall, is_readied: bool, resolved: ResolvedTool, replay_key: str, attempt: int, most: int
    ) -> tuple[ToolCall, bool, ToolAttemptOutcome]:
        """One attempt, from the question whether it may be made to its recorded outcome; with the call as it is made
        from then on, and whether its source has readied it. Raises what effects raise."""
        early: ToolCallOutput | None = None
        if self._turn.approval is not None and not await self._turn.effects.is_known(replay_key):
            # A refusal is recorded like any result, so that a re-drive tells the model the same story.
            refusal = await self._decide(self._turn.approval, resolved, call)
            if self._turn.cancel.is_set:
                return call, is_readied, ToolAttemptOutcome(cancelled())
            if refusal is not None:
                early = failure(FailureClass.PERMISSION_DENIED, "tool_denied", refusal, source="policy")
        if early is None and not is_readied:
            asked = await self._turn.effects.asked(replay_key)
            if asked is not None and isinstance(asked.command, ToolAttemptCommand):
                # As an earlier drive recorded it; where that is as it was, its source answered, or changed nothing.
                is_readied = asked.command.call != call
                call = asked.command.call
            else:
                readied = await self._readied(call, resolved, attempt, most)
                if self._turn.cancel.is_set:
                    return call, False, ToolAttemptOutcome(cancelled())
                is_readied = isinstance(readied, ToolCall)
                call, early = (readied, None) if isinstance(readied, ToolCall) else (call, readied)
        return call, is_readied, await self._made(call, resolved, replay_key, attempt, most, early)

    async def _readied(
        self, call: ToolCall, resolved: ResolvedTool, attempt: int, most: int
    ) -> ToolCall | ToolCallOutput:
        """The call as its source readies it, or what it answers at once."""
        context = self._context(call, resolved, attempt, most)
        running = asyncio.ensure_future(prepared(resolved, lent(call), context, is_strict=self._turn.is_strict))
        return await within_limits(running, resolved.manifest, self._turn.cancel, self._turn.scope.session_id)

    async def _made(
        self,
        call: ToolCall,
        resolved: ResolvedTool,
        replay_key: str,
        attempt: int,
        most: int,
        early: ToolCallOutput | None,
    ) -> ToolAttemptOutcome:
        """The attempt as an effect; its outcome is `early` where it need not be made any more."""
        envelope = self._envelope(replay_key, call.call_id, ToolAttemptCommand(call, attempt, most, resolved.grant))

        async def run(context: EffectContext) -> EffectOutcome:
            if early is not None:
                return ToolAttemptOutcome(await self._with_stored_attachments(early))
            is_safe = not isinstance(resolved.manifest.retry_policy, NeverRetry) and context.attempt <= MOST_BEGUN
            if context.taken_over and not is_safe:
                return ToolAttemptOutcome(interrupted(call.tool_name))
            started = self._turn.clock.monotonic()
            keys = CompletionKeys(self._turn.resolver, self._turn.scope, call)
            result = await self._execute(call, resolved, replay_key, attempt, most, keys)
            if isinstance(result, PendingCompletion):
                if keys.is_asked:
                    return self._left_pending(result, started)
                result = without_key(call.tool_name)
            output = await self._with_stored_attachments(result)
            return ToolAttemptOutcome(output, round((self._turn.clock.monotonic() - started) * 1000))

        outcome = await self._turn.effects.execute(envelope, run)
        if not isinstance(outcome, ToolAttemptOutcome):
            raise EffectError("runtime_effect_wrong_outcome", "a tool attempt recorded another kind of outcome")
        return outcome

    def _left_pending(self, pending: PendingCompletion, started: float) -> ToolAttemptOutcome:
        """The deadline is recorded with the attempt, so that no crash moves it."""
        duration_ms = round((self._turn.clock.monotonic() - started) * 1000)
        limit_ms = pending.timeout_ms
        deadline_ms = None if limit_ms is None else self._turn.clock.now_ms() + min(limit_ms, MAX_WAIT_MS)
        return ToolAttemptOutcome(None, duration_ms, pending, deadline_ms)

    async def _decide(self, approval: ApprovalPolicy, resolved: ResolvedTool, call: ToolCall) -> str | None:
        """Why the approval policy refuses a call, None when it does not; a question that is still open when the turn is
        cancelled is withdrawn.

        A policy that fails, or answers neither, has not allowed the call, and would do so again whenever the turn is
        finished.
        """

        async def ask() -> object:
            return await approval.decide(resolved.manifest, lent(call))

        deciding = asyncio.ensure_future(ask())
        try:
            await until_over(deciding, self._turn.cancel)
            if not deciding.done():
                return None
            if not deciding.cancelled() and (error := deciding.exception()) is not None:
                if self._turn.is_strict or not isinstance(error, Exception):
                    raise error
                _log.error("the approval policy failed for %s", call.tool_name, exc_info=error)
                return f"the approval policy failed: {described(error)}"
            if deciding.cancelled():
                return "the approval policy cancelled itself"
            answer = deciding.result()
            if answer is None:
                return None
            if not isinstance(answer, str):
                return f"the approval policy answered {type(answer).__name__}, no text"
            if len(answer) > MAX_RESULT_CHARS:
                said = f"a text of {len(answer)} characters, more than the {MAX_RESULT_CHARS} that are kept"
                return f"the approval policy refused it in {said}"
            return storable(answer)
        finally:
            deciding.cancel()

    async def _execute(
        self, call: ToolCall, resolved: ResolvedTool, replay_key: str, attempt: int, most: int, keys: CompletionKeys
    ) -> ToolResult:
        """One attempt under cancellation and time limit. Never raises for what the tool does."""
        is_journalled = self._turn.effects.durability_tier == "durable"
        nested = NestedCalls(
            self.run_calls, self._turn.registry, call, attempt, replay_key, is_journalled=is_journalled
        )
        call = lent(call)
        context = self._context(call, resolved, attempt, most, keys, nested)
        running = asyncio.ensure_future(contained(resolved, call, context, is_strict=self._turn.is_strict))
        self._attempts_under_way.add((call.call_id, attempt))
        try:
            return await within_limits(running, resolved.manifest, self._turn.cancel, self._turn.scope.session_id)
        finally:
            self._attempts_under_way.discard((call.call_id, attempt))
            await nested.aclose()

    def _context(
        self,
        call: ToolCall,
        resolved: ResolvedTool,
        attempt: int,
        most: int,
        keys: CompletionKeys | None = None,
        nested: NestedCalls | None = None,
    ) -> SimpleToolContext:
        ask_model = None if self._turn.ask_model is None else partial(self._turn.ask_model, f"tool:{call.tool_name}")
        return SimpleToolContext(
            session_id=self._turn.scope.session_id,
            turn_id=self._turn.scope.turn_id,
            call_id=call.call_id,
            cancel=self._turn.cancel,
            tool_id=call.tool_id,
            attempt=attempt,
            max_attempts=most,
            agent_frame_id=self._turn.agent_frame_id,
            prepared_payload=call.prepared_payload,
            tool_execution_binding=None if resolved.grant is None else resolved.grant.execution_binding,
            on_dispatch=nested,
            on_progress=partial(self._report, asyncio.get_running_loop(), (call.call_id, attempt)),
            on_completion_key=None if keys is None else keys.ask,
            on_direct_completion=ask_model,
            on_attachment=self._turn.store_attachment,
        )

    async def _back_off(self, key: str, call_id: str, attempt: int, delay_ms: int) -> bool:
        """Sleep before the next attempt, as an effect of its own below `key`; False when the turn was cancelled
        meanwhile."""
        replay_key = child_replay_key(key, f"attempt:{attempt}:sleep")
        envelope = self._envelope(replay_key, f"{call_id}:sleep:{attempt}", SleepCommand(delay_ms))

        async def run(context: EffectContext) -> EffectOutcome:
            due = context.due_at_ms if context.due_at_ms is not None else self._turn.clock.now_ms() + delay_ms
            await self._turn.clock.sleep(max(0, due - self._turn.clock.now_ms()) / MS_PER_S)
            return SleepOutcome()

        # A wait that was recorded is waited for again where the clock was set back since.
        await first_of(self._turn.effects.execute(envelope, run), self._turn.cancel.wait())
        return not self._turn.cancel.is_set

    def _envelope(self, replay_key: str, effect_id: str, command: ToolAttemptCommand | SleepCommand) -> EffectEnvelope:
        return EffectEnvelope(EffectInvocation(self._turn.scope, effect_id, replay_key), command)

    async def _with_stored_attachments(self, output: ToolCallOutput) -> ToolCallOutput:
        """Replace attachment bytes by references: only references reach the journal and the graph. What the host does
        not allow is a failure of the call (contract 05 §1.5)."""
        if not output.attachments:
            return output
        stored: list[AttachmentSource] = []
        for source in output.attachments:
            try:
                stored.append(await self._turn.store_attachment(source))
            except LashError as error:
                if error.code == DENIED:
                    return failure(FailureClass.PERMISSION_DENIED, DENIED, error.message, source="policy")
                if isinstance(error, UsageError):
                    return failure(FailureClass.UNAVAILABLE, error.code, error.message, source="runtime")
                text = f"The attachment could not be stored: {error.message}"
                return failure(FailureClass.INTERNAL, "attachment_store_failed", text, source="runtime")
        return output.with_attachments(tuple(stored))

    def _report(self, loop: asyncio.AbstractEventLoop, attempt: tuple[str, int], text: str) -> None:
        """Show what a tool says of its progress; one that is a plain function says it in a thread of its own."""
        if _running_loop() is loop:
            self._show_progress(attempt, text)
        elif not loop.is_closed():
            loop.call_soon_threadsafe(self._show_progress, attempt, text)

    def _show_progress(self, attempt: tuple[str, int], text: str) -> None:
        """Show it, unless the attempt is over: who goes on all the same has nothing to say any more."""
        if attempt not in self._attempts_under_way:
            return
        call_id, _ = attempt

        async def show() -> None:
            await self._turn.emit(ToolProgress(call_id, storable(text)), f"tool:{call_id}")

        task = asyncio.ensure_future(show())
        self._progress.add(task)
        task.add_done_callback(self._progress.discard)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:  # a thread without one
        return None
