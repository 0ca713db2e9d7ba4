"""Running the calls of one model answer (contract 05 §3, design §3 step 4).

All calls of a batch start together and are answered in source order; every
call gets exactly one started and one completed event and one result, whatever
happens to it. One attempt is one journal entry: a recorded attempt is read,
never run again, and an attempt that a crash cut off is run again only when the
tool's policy says that is safe. A failure is a value; only journal faults and
the loss of the lane end the turn.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Literal

from lash_cli.core.activity import ToolCallCompleted, ToolCallStarted, ToolProgress, TurnEvent
from lash_cli.core.attachments import DENIED
from lash_cli.core.codec import encode, storable
from lash_cli.core.content import AttachmentSource, Message, ToolCallPart
from lash_cli.core.effect import (
    EffectEnvelope,
    EffectInvocation,
    EffectOutcome,
    SleepCommand,
    SleepOutcome,
    ToolAttemptCommand,
    ToolAttemptOutcome,
    TurnScope,
    child_replay_key,
    iteration_replay_prefix,
    turn_replay_key,
)
from lash_cli.core.machine_rules import shown_arguments
from lash_cli.core.protocols import (
    ApprovalPolicy,
    AwaitEventResolver,
    Clock,
    EffectContext,
    ScopedEffects,
)
from lash_cli.core.tools import (
    FailureClass,
    NeverRetry,
    PendingCompletion,
    ToolCall,
    ToolCallOutput,
    ToolCallRecord,
    ToolFailed,
    ToolResult,
    cancelled,
    exhausted,
    failure,
    interrupted,
    project_output,
)
from lash_cli.effects.host import MS_PER_S, first_of
from lash_cli.errors import EffectError, LashError, UsageError
from lash_cli.runtime.cancellation import CancelToken
from lash_cli.runtime.containment import contained, prepared
from lash_cli.runtime.foreign import CutOff, until_over, within_limits
from lash_cli.runtime.nested import NestedCalls, RequestedCall
from lash_cli.runtime.pending import CompletionKeys, PendingWait, without_key
from lash_cli.tools.context import SimpleToolContext
from lash_cli.tools.faults import ToolFault
from lash_cli.tools.registry import ResolvedTool, ToolRegistry
from lash_cli.tools.schema import ArgumentsInvalid, SchemaRefused, parse_arguments

if TYPE_CHECKING:
    from lash_cli.core.direct import DirectLlmCompletion, DirectRequest
    from lash_cli.runtime.tool_hooks import Note, ToolHookSet

    AskModel = Callable[[str, DirectRequest], Awaitable[DirectLlmCompletion]]

_log = logging.getLogger("lash.dispatch")

Emit = Callable[[TurnEvent, str], Awaitable[None]]
StoreAttachment = Callable[[AttachmentSource], Awaitable[AttachmentSource]]


class ToolDispatcher:
    """Runs batches for one turn."""

    def __init__(
        self,
        *,
        registry: ToolRegistry,
        approval: ApprovalPolicy | None,
        effects: ScopedEffects,
        resolver: AwaitEventResolver,
        clock: Clock,
        scope: TurnScope,
        turn_index: int,
        agent_frame_id: str,
        cancel: CancelToken,
        emit: Emit,
        store_attachment: StoreAttachment,
        ask_model: AskModel | None = None,
        is_strict: bool = False,
        hooks: ToolHookSet | None = None,
        note: Note | None = None,
        is_redrive: bool = False,
    ) -> None:
        """`ask_model` makes the direct completions of tools, and books them to what it is given. `is_strict` lets pass
        what a tool, its source, the policy or a hook raises. `note` writes what hooks have to say into the trace."""
        self._registry = registry
        self._approval = approval
        self._effects = effects
        self._resolver = resolver
        self._clock = clock
        self._scope = scope
        self._turn_index = turn_index
        self._agent_frame_id = agent_frame_id
        self._cancel = cancel
        self._emit = emit
        self._store_attachment = store_attachment
        self._ask_model = ask_model
        self._is_strict = is_strict
        self._progress: set[asyncio.Task[None]] = set()
        self._attempts_under_way: set[tuple[str, int]] = set()
        self._told: set[str] = set()
        self._hooks = None
        self._projections: dict[str, str] = {}
        if hooks is not None or is_redrive:  # what an earlier drive decided stands, whoever decided it
            from lash_cli.runtime.tool_hooks import NO_HOOKS, CallHooks

            self._hooks = CallHooks(
                hooks or NO_HOOKS,
                effects,
                scope,
                cancel,
                emit,
                self._with_stored_attachments,
                note=note,
                is_redrive=is_redrive,
                is_strict=is_strict,
            )

    async def run_batch(
        self, calls: tuple[ToolCallPart, ...], *, iteration: int, effect_id: int
    ) -> tuple[ToolCallRecord, ...]:
        """Run a batch and return one record per call, in source order.

        Raises `JournalFault`, `SessionExecutionLeaseExpired` and replay
        divergences; everything a tool does wrong is a failed record.
        """
        parent = turn_replay_key(self._turn_index, iteration, "tool_batch", effect_id)
        if self._hooks is not None:
            await self._hooks.begin_batch(iteration_replay_prefix(self._turn_index, iteration + 1))
        return await self.run_calls(parent, [RequestedCall(call) for call in calls])

    async def run_calls(self, parent: str, calls: Sequence[RequestedCall]) -> tuple[ToolCallRecord, ...]:
        """Run calls of the model, of a running tool or under grants beside one another; their effects are keyed below
        `parent`, which has to be the same whenever the turn comes here again. Returns and raises as `run_batch`."""
        if len(calls) == 1:
            # Nothing runs beside it, so it needs no task of its own.
            (call,) = calls
            key = child_replay_key(parent, f"child:0:{call.part.tool_call_id}")
            return (await self._run_call(call, self._resolved(call), key, None),)
        work: list[asyncio.Task[ToolCallRecord]] = []
        try:
            async with asyncio.TaskGroup() as group:
                previous: asyncio.Task[ToolCallRecord] | None = None
                last_of_group: dict[str, asyncio.Task[ToolCallRecord]] = {}
                for index, call in enumerate(calls):
                    resolved = self._resolved(call)
                    exclusive = resolved.manifest.exclusive_group if isinstance(resolved, ResolvedTool) else None
                    after = previous if not self._effects.supports_concurrent_effects else None
                    if exclusive is not None:
                        after = last_of_group.get(exclusive, after)
                    key = child_replay_key(parent, f"child:{index}:{call.part.tool_call_id}")
                    task = group.create_task(self._run_call(call, resolved, key, after))
                    work.append(task)
                    previous = task
                    if exclusive is not None:
                        last_of_group[exclusive] = task
        except BaseExceptionGroup as failures:
            raise _first_error(failures) from failures
        return tuple(task.result() for task in work)

    def projections(self, records: tuple[ToolCallRecord, ...]) -> tuple[str, ...]:
        """What the model reads of the records of a batch; empty where that is the usual text of each (contract 05
        §1.4)."""
        if not self._projections:
            return ()
        return tuple(
            project_output(record.output) if (text := self._projections.get(record.call_id)) is None else text
            for record in records
        )

    def take_enqueued(self, records: tuple[ToolCallRecord, ...]) -> tuple[Message, ...]:
        """What hooks have the model read behind the batch of these records, once (contract 05 §4.3)."""
        return () if self._hooks is None else self._hooks.take_enqueued(records)

    def _resolved(self, call: RequestedCall) -> ResolvedTool | str:
        """The tool of a call, or why it cannot be called."""
        name = call.part.tool_name
        if call.grant is not None:
            try:
                return self._registry.granted(call.grant)
            except ToolFault as fault:
                return fault.message
        resolved = self._found("name", name)
        if resolved is None or (resolved.manifest.activation == "internal" and call.parent_call_id is None):
            # What no model was shown does not exist for one that guesses its name.
            return f"There is no tool named {name!r}."
        return resolved

    def _found(self, field: Literal["id", "name"], asked: str) -> ResolvedTool | None:
        """The tool of the catalogue; what a source cannot say of one is not there."""
        try:
            return self._registry.find(asked) if field == "name" else self._registry.find_id(asked)
        except Exception:
            if self._is_strict:
                raise
            _log.exception("the sources of tools could not be asked for %s", asked)
            return None

    async def _run_call(
        self,
        call: RequestedCall,
        resolved: ResolvedTool | str,
        key: str,
        after: asyncio.Task[ToolCallRecord] | None,
    ) -> ToolCallRecord:
        if after is not None:
            await asyncio.wait({after})
        part, parent = call.part, call.parent_call_id
        args = shown_arguments(part)
        await self._tell_started(part.tool_call_id, part.tool_name, args, parent)
        try:
            output, duration_ms = await self._answer(part, resolved, key)
        except asyncio.CancelledError:
            if parent is not None:
                # The attempt that made it is over, and its turn goes on.
                await self._tell_completed(ToolCallRecord(part.tool_call_id, part.tool_name, args, cancelled()), parent)
            raise
        record = ToolCallRecord(part.tool_call_id, part.tool_name, args, output, duration_ms)
        if self._hooks is not None and parent is None:  # no model reads what another tool asked for
            text = await self._hooks.projected(record, key)
            if text is not None:
                self._projections[record.call_id] = text
        await self._tell_completed(record, parent)
        return record

    async def show_untold(self, records: Iterable[ToolCallRecord]) -> None:
        """Tell of the calls of a turn that were answered without having come here, because it had to stop before."""
        for record in records:
            if record.call_id not in self._told:
                await self._tell_started(record.call_id, record.tool, record.args)
                await self._tell_completed(record)

    async def end_pending(self) -> None:
        """End what earlier drives of a turn left pending, as the turn is cancelled: who completes it later learns that
        it is over, and its source hears of it (contract 05 §1.7). Raises what effects raise."""
        for replay_key, command, attempted in await self._effects.left_pending():
            await self._pending(self._asked_of(command), command.call).output(replay_key, attempted)

    def _asked_of(self, command: ToolAttemptCommand) -> ResolvedTool | None:
        """The tool that an earlier drive called, where it still is."""
        if command.grant is None:
            return self._found("id", command.call.tool_id)
        try:
            return self._registry.granted(command.grant)
        except ToolFault:
            return None

    def _pending(self, resolved: ResolvedTool | None, call: ToolCall) -> PendingWait:
        return PendingWait(
            self._effects,
            self._resolver,
            self._scope,
            self._cancel,
            resolved,
            call,
            is_strict=self._is_strict,
        )

    def _tell_started(self, call_id: str, name: str, args: Any, parent: str | None = None) -> Awaitable[None]:
        self._told.add(call_id)
        return self._emit(ToolCallStarted(call_id, name, args, parent), f"tool:{call_id}")

    def _tell_completed(self, record: ToolCallRecord, parent: str | None = None) -> Awaitable[None]:
        done = ToolCallCompleted(record.call_id, record.tool, record.args, record.output, record.duration_ms, parent)
        return self._emit(done, f"tool:{record.call_id}")

    async def _answer(self, part: ToolCallPart, resolved: ResolvedTool | str, key: str) -> tuple[ToolCallOutput, int]:
        if self._cancel.is_cancellation:
            return cancelled(), 0
        if isinstance(resolved, str):
            return await self._refused(FailureClass.UNAVAILABLE, "tool_unavailable", resolved, part, key)
        schema = self._schema_of(resolved)
        if schema is None:
            text = f"The contract of {part.tool_name} is not available."
            return await self._refused(FailureClass.UNAVAILABLE, "tool_contract_unavailable", text, part, key)
        written = part.input_json
        if self._hooks is not None:
            try:
                decided = await self._hooks.before(part.tool_call_id, resolved.manifest, shown_arguments(part), key)
            except CutOff:
                return cancelled(), 0
            if decided is not None and decided.output is not None:
                return decided.output, 0
            if decided is not None and decided.args is not None:
                written = encode(decided.args).decode()
        try:
            args = parse_arguments(written, schema)
        except (ArgumentsInvalid, SchemaRefused) as error:
            text = f"Invalid arguments for {part.tool_name}: {error.message}"
            return await self._refused(FailureClass.INVALID_REQUEST, "invalid_tool_args", text, part, key)
        call = ToolCall(part.tool_call_id, resolved.manifest.id, part.tool_name, args)
        return await self._attempts(call, resolved, key)

    def _schema_of(self, resolved: ResolvedTool) -> dict[str, Any] | None:
        """What the arguments of a tool are judged by; None when its source has no contract of it, whatever it does
        instead of saying so."""
        try:
            return resolved.contract().input_schema
        except KeyError:
            return None
        except Exception:
            if self._is_strict:
                raise
            _log.exception("the contract of %s could not be had", resolved.manifest.name)
            return None

    async def _refused(
        self, failure_class: FailureClass, code: str, text: str, part: ToolCallPart, key: str
    ) -> tuple[ToolCallOutput, int]:
        """The failure of a call that cannot be made; or, when an earlier drive of the turn had made it, what that
        recorded: a finished effect is a fact, whatever became of its tool."""
        output = failure(failure_class, code, text, source="runtime")
        total_ms = 0
        decided = None if self._hooks is None else await self._hooks.recorded(child_replay_key(key, "before"))
        if decided is not None and decided.output is not None:
            return decided.output, 0
        for attempt in count(1):
            replay_key = child_replay_key(key, f"attempt:{attempt}")
            known = await self._effects.recorded(replay_key)
            if known is None:
                break
            envelope, attempted = known
            command = envelope.command
            if not isinstance(command, ToolAttemptCommand) or not isinstance(attempted, ToolAttemptOutcome):
                raise EffectError("runtime_effect_wrong_outcome", "the attempts of a call have a row of another kind")
            total_ms += attempted.duration_ms
            answered = attempted.output
            if answered is None:
                answered = await self._pending(None, command.call).output(replay_key, attempted)
            if self._hooks is not None:
                took_ms = attempted.duration_ms
                answered = await self._hooks.after(command.call, replay_key, attempt, answered, took_ms)
            output = answered
            if attempted.output is None:
                return output, total_ms
            if attempt == command.max_attempts:
                output = exhausted(output, attempt)
        return output, total_ms

    async def _attempts(self, call: ToolCall, resolved: ResolvedTool, key: str) -> tuple[ToolCallOutput, int]:
        policy = resolved.manifest.retry_policy
        most = 1 if isinstance(policy, NeverRetry) else policy.max_attempts
        is_readied = not resolved.prepares_calls
        total_ms = 0
        attempt = 1
        while True:
            replay_key = child_replay_key(key, f"attempt:{attempt}")
            call, is_readied, attempted = await self._attempt(call, is_readied, resolved, replay_key, attempt, most)
            total_ms += attempted.duration_ms
            output = attempted.output
            is_pending = output is None
            if output is None:
                output = await self._pending(resolved, call).output(replay_key, attempted)
            if self._hooks is not None:
                took_ms = attempted.duration_ms
                output = await self._hooks.after(call, replay_key, attempt, output, took_ms)
            if is_pending:
                # Whoever completes it answers for the attempt; there is no retry behind it.
                return output, total_ms
            outcome = output.outcome
            if not isinstance(outcome, ToolFailed) or outcome.failure.retry.kind != "safe":
                return output, total_ms
            if isinstance(policy, NeverRetry) or attempt >= most:
                return exhausted(output, attempt), total_ms
            delay = outcome.failure.retry.after_ms
            if delay is None:
                delay = policy.base_delay_ms * 2 ** (attempt - 1)
            if policy.max_delay_ms > 0:
                delay = min(delay, policy.max_delay_ms)
            if not await self._back_off(key, call.call_id, attempt, delay):
                return cancelled(), total_ms
            attempt += 1

    async def _attempt(
        self, call: ToolCall, is_readied: bool, resolved: ResolvedTool, replay_key: str, attempt: int, most: int
    ) -> tuple[ToolCall, bool, ToolAttemptOutcome]:
        """One attempt; with the call as it is made from then on, and whether its source has readied it."""
        early: ToolCallOutput | None = None
        if self._approval is not None and not await self._effects.is_known(replay_key):
            # A refusal is recorded like any result, so that a re-drive tells the model the same story.
            refusal = await self._decide(self._approval, resolved, call)
            if self._cancel.is_set:
                return call, is_readied, ToolAttemptOutcome(cancelled())
            if refusal is not None:
                early = failure(FailureClass.PERMISSION_DENIED, "tool_denied", refusal, source="policy")
        if early is None and not is_readied:
            asked = await self._effects.asked(replay_key)
            if asked is not None and isinstance(asked.command, ToolAttemptCommand):
                # As an earlier drive recorded it; where that is as it was, its source answered, or changed nothing.
                is_readied = asked.command.call != call
                call = asked.command.call
            else:
                readied = await self._readied(call, resolved, attempt, most)
                if self._cancel.is_set:
                    return call, False, ToolAttemptOutcome(cancelled())
                is_readied = isinstance(readied, ToolCall)
                call, early = (readied, None) if isinstance(readied, ToolCall) else (call, readied)
        return call, is_readied, await self._made(call, resolved, replay_key, attempt, most, early)

    async def _readied(
        self, call: ToolCall, resolved: ResolvedTool, attempt: int, most: int
    ) -> ToolCall | ToolCallOutput:
        """The call as its source readies it, or what it answers at once."""
        context = self._context(call, resolved, attempt, most)
        running = asyncio.ensure_future(prepared(resolved, call, context, is_strict=self._is_strict))
        return await within_limits(running, resolved.manifest, self._cancel, self._scope.session_id)

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
            if context.taken_over and isinstance(resolved.manifest.retry_policy, NeverRetry):
                return ToolAttemptOutcome(interrupted(call.tool_name))
            started = self._clock.monotonic()
            keys = CompletionKeys(self._resolver, self._scope, call)
            result = await self._execute(call, resolved, replay_key, attempt, most, keys)
            if isinstance(result, PendingCompletion):
                if keys.is_asked:
                    return self._left_pending(result, started)
                result = without_key(call.tool_name)
            output = await self._with_stored_attachments(result)
            return ToolAttemptOutcome(output, round((self._clock.monotonic() - started) * 1000))

        outcome = await self._effects.execute(envelope, run)
        if not isinstance(outcome, ToolAttemptOutcome):
            raise EffectError("runtime_effect_wrong_outcome", "a tool attempt recorded another kind of outcome")
        return outcome

    def _left_pending(self, pending: PendingCompletion, started: float) -> ToolAttemptOutcome:
        """The deadline is recorded with the attempt, so that no crash moves it."""
        duration_ms = round((self._clock.monotonic() - started) * 1000)
        deadline_ms = None if pending.timeout_ms is None else self._clock.now_ms() + pending.timeout_ms
        return ToolAttemptOutcome(None, duration_ms, pending, deadline_ms)

    async def _decide(self, approval: ApprovalPolicy, resolved: ResolvedTool, call: ToolCall) -> str | None:
        """What the approval policy says; a question that is still open when the turn is cancelled is withdrawn.

        A policy that fails has not allowed the call, and would fail again whenever the turn is finished.
        """
        deciding = asyncio.ensure_future(approval.decide(resolved.manifest, call))
        try:
            await until_over(deciding, self._cancel)
            if not deciding.done():
                return None
            if not deciding.cancelled() and (error := deciding.exception()) is not None:
                if self._is_strict or not isinstance(error, Exception):
                    raise error
                _log.error("the approval policy failed for %s", call.tool_name, exc_info=error)
                return f"the approval policy failed: {type(error).__name__}: {error}"
            return "the approval policy cancelled itself" if deciding.cancelled() else deciding.result()
        finally:
            deciding.cancel()

    async def _execute(
        self, call: ToolCall, resolved: ResolvedTool, replay_key: str, attempt: int, most: int, keys: CompletionKeys
    ) -> ToolResult:
        """One attempt under cancellation and time limit. Never raises for what the tool does."""
        is_journalled = self._effects.durability_tier == "durable"
        nested = NestedCalls(self.run_calls, self._registry, call, attempt, replay_key, is_journalled=is_journalled)
        context = self._context(call, resolved, attempt, most, keys, nested)
        running = asyncio.ensure_future(contained(resolved, call, context, is_strict=self._is_strict))
        self._attempts_under_way.add((call.call_id, attempt))
        try:
            return await within_limits(running, resolved.manifest, self._cancel, self._scope.session_id)
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
        ask_model = None if self._ask_model is None else partial(self._ask_model, f"tool:{call.tool_name}")
        return SimpleToolContext(
            session_id=self._scope.session_id,
            turn_id=self._scope.turn_id,
            call_id=call.call_id,
            cancel=self._cancel,
            tool_id=call.tool_id,
            attempt=attempt,
            max_attempts=most,
            agent_frame_id=self._agent_frame_id,
            prepared_payload=call.prepared_payload,
            tool_execution_binding=None if resolved.grant is None else resolved.grant.execution_binding,
            on_dispatch=nested,
            on_progress=partial(self._report, asyncio.get_running_loop(), (call.call_id, attempt)),
            on_completion_key=None if keys is None else keys.ask,
            on_direct_completion=ask_model,
            on_attachment=self._store_attachment,
        )

    async def _back_off(self, key: str, call_id: str, attempt: int, delay_ms: int) -> bool:
        """Sleep before the next attempt, as an effect of its own; False when the turn was cancelled meanwhile."""
        replay_key = child_replay_key(key, f"attempt:{attempt}:sleep")
        envelope = self._envelope(replay_key, f"{call_id}:sleep:{attempt}", SleepCommand(delay_ms))

        async def run(context: EffectContext) -> EffectOutcome:
            due = context.due_at_ms if context.due_at_ms is not None else self._clock.now_ms() + delay_ms
            left_ms = max(0, due - self._clock.now_ms())
            await first_of(self._clock.sleep(left_ms / MS_PER_S), self._cancel.wait())
            return SleepOutcome()

        await self._effects.execute(envelope, run)
        return not self._cancel.is_set

    def _envelope(self, replay_key: str, effect_id: str, command: ToolAttemptCommand | SleepCommand) -> EffectEnvelope:
        return EffectEnvelope(EffectInvocation(self._scope, effect_id, replay_key), command)

    async def _with_stored_attachments(self, output: ToolCallOutput) -> ToolCallOutput:
        """Replace attachment bytes by references: only references reach the journal and the graph. What the host does
        not allow is a failure of the call (contract 05 §1.5)."""
        if not output.attachments:
            return output
        stored: list[AttachmentSource] = []
        for source in output.attachments:
            try:
                stored.append(await self._store_attachment(source))
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
            await self._emit(ToolProgress(call_id, storable(text)), f"tool:{call_id}")

        task = asyncio.ensure_future(show())
        self._progress.add(task)
        task.add_done_callback(self._progress.discard)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:  # a thread without one
        return None


def _first_error(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    for error in failures.exceptions:
        return _first_error(error) if isinstance(error, BaseExceptionGroup) else error
    return failures
