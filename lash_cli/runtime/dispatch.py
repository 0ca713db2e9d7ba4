"""Running the calls of one model answer (contract 05 §3, design §3 step 4).

All calls of a batch start together and are answered in source order; every
call gets exactly one started and one completed event and one result, whatever
happens to it. A failed one is tried again as its tool allows; how one attempt
is made and recorded stands in `attempts`. A failure is a value; only journal
faults and the loss of the lane end the turn.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Iterable, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any, Literal

from lash_cli.core.activity import ToolCallCompleted, ToolCallStarted
from lash_cli.core.codec import encode
from lash_cli.core.content import Message, ToolCallPart
from lash_cli.core.effect import (
    MAX_WAIT_MS,
    ToolAttemptCommand,
    ToolAttemptOutcome,
    child_replay_key,
    iteration_replay_prefix,
    turn_replay_key,
)
from lash_cli.core.machine_rules import shown_arguments
from lash_cli.core.tools import (
    FailureClass,
    NeverRetry,
    ToolCall,
    ToolCallOutput,
    ToolCallRecord,
    ToolFailed,
    cancelled,
    exhausted,
    failure,
    project_output,
)
from lash_cli.errors import EffectError
from lash_cli.runtime.attempts import ToolAttempts, TurnServices
from lash_cli.runtime.cancellation import FAILURES
from lash_cli.runtime.foreign import CutOff
from lash_cli.runtime.nested import RequestedCall
from lash_cli.runtime.pending import PendingWait
from lash_cli.tools.faults import ToolFault
from lash_cli.tools.registry import ResolvedTool
from lash_cli.tools.schema import ArgumentsInvalid, SchemaRefused, parse_arguments

if TYPE_CHECKING:
    from lash_cli.runtime.tool_hooks import ToolHookSet

_log = logging.getLogger("lash.dispatch")


class ToolDispatcher(ToolAttempts):
    """Runs batches for one turn."""

    def __init__(self, turn: TurnServices, hooks: ToolHookSet | None) -> None:
        super().__init__(turn)
        self._told: set[str] = set()
        self._projections: dict[str, str] = {}
        self._hooks = None
        if hooks is not None or turn.is_redrive:  # what an earlier drive decided stands, whoever decided it
            from lash_cli.runtime.tool_hooks import NO_HOOKS, CallHooks

            self._hooks = CallHooks(hooks or NO_HOOKS, turn, self._with_stored_attachments)

    async def run_batch(
        self, calls: tuple[ToolCallPart, ...], *, iteration: int, effect_id: int
    ) -> tuple[ToolCallRecord, ...]:
        """Run a batch and return one record per call, in source order.

        Raises `JournalFault`, `SessionExecutionLeaseExpired` and replay
        divergences; everything a tool does wrong is a failed record.
        """
        parent = turn_replay_key(self._turn.turn_index, iteration, "tool_batch", effect_id)
        if self._hooks is not None:
            await self._hooks.begin_batch(iteration_replay_prefix(self._turn.turn_index, iteration + 1))
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
                    after = previous
                    if self._turn.effects.supports_concurrent_effects:
                        after = None if exclusive is None else last_of_group.get(exclusive)
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
                return self._turn.registry.granted(call.grant)
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
            return self._turn.registry.find(asked) if field == "name" else self._turn.registry.find_id(asked)
        except FAILURES:
            if self._turn.is_strict:
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
        for replay_key, command, attempted in await self._turn.effects.left_pending():
            await self._pending(self._asked_of(command), command.call).output(replay_key, attempted)

    def _asked_of(self, command: ToolAttemptCommand) -> ResolvedTool | None:
        """The tool that an earlier drive called, where it still is."""
        if command.grant is None:
            return self._found("id", command.call.tool_id)
        try:
            return self._turn.registry.granted(command.grant)
        except ToolFault:
            return None

    def _pending(self, resolved: ResolvedTool | None, call: ToolCall) -> PendingWait:
        return PendingWait(self._turn, resolved, call)

    def _tell_started(self, call_id: str, name: str, args: Any, parent: str | None = None) -> Awaitable[None]:
        self._told.add(call_id)
        return self._turn.emit(ToolCallStarted(call_id, name, args, parent), f"tool:{call_id}")

    def _tell_completed(self, record: ToolCallRecord, parent: str | None = None) -> Awaitable[None]:
        done = ToolCallCompleted(record.call_id, record.tool, record.args, record.output, record.duration_ms, parent)
        return self._turn.emit(done, f"tool:{record.call_id}")

    async def _answer(self, part: ToolCallPart, resolved: ResolvedTool | str, key: str) -> tuple[ToolCallOutput, int]:
        if self._turn.cancel.is_cancellation:
            return cancelled(), 0
        if isinstance(resolved, str):
            return await self._refused(FailureClass.UNAVAILABLE, "tool_unavailable", resolved, key)
        schema = self._schema_of(resolved)
        if schema is None:
            text = f"The contract of {part.tool_name} is not available."
            return await self._refused(FailureClass.UNAVAILABLE, "tool_contract_unavailable", text, key)
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
        except ArgumentsInvalid as error:
            text = f"Invalid arguments for {part.tool_name}: {error.message}"
            return await self._refused(FailureClass.INVALID_REQUEST, "invalid_tool_args", text, key)
        except SchemaRefused as error:  # no other arguments would be taken
            text = f"The contract of {part.tool_name} cannot be used: {error.message}"
            return await self._refused(FailureClass.UNAVAILABLE, "tool_contract_unavailable", text, key)
        call = ToolCall(part.tool_call_id, resolved.manifest.id, part.tool_name, args)
        return await self._attempts(call, resolved, key)

    def _schema_of(self, resolved: ResolvedTool) -> dict[str, Any] | None:
        """What the arguments of a tool are judged by; None when its source has no contract of it, whatever it does
        instead of saying so."""
        try:
            schema: object = resolved.contract().input_schema
            return schema if isinstance(schema, dict) else None
        except KeyError:
            return None
        except FAILURES:
            if self._turn.is_strict:
                raise
            _log.exception("the contract of %s could not be had", resolved.manifest.name)
            return None

    async def _refused(self, failure_class: FailureClass, code: str, text: str, key: str) -> tuple[ToolCallOutput, int]:
        """The failure of a call that cannot be made; or, when an earlier drive of the turn had made it, what that
        recorded: a finished effect is a fact, whatever became of its tool."""
        output = failure(failure_class, code, text, source="runtime")
        total_ms = 0
        decided = None if self._hooks is None else await self._hooks.recorded(child_replay_key(key, "before"))
        if decided is not None and decided.output is not None:
            return decided.output, 0
        for attempt in count(1):
            replay_key = child_replay_key(key, f"attempt:{attempt}")
            known = await self._turn.effects.recorded(replay_key)
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
            if not await self._back_off(key, call.call_id, attempt, min(delay, MAX_WAIT_MS)):
                return cancelled(), total_ms
            attempt += 1


def _first_error(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    for error in failures.exceptions:
        return _first_error(error) if isinstance(error, BaseExceptionGroup) else error
    return failures
