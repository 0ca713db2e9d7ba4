"""Calls whose result comes from outside: the key a tool hands on, and the wait for who resolves it (contract 05 §1.7).

The key is a function of turn and call, so every attempt and every re-drive means the same promise. The wait is an
effect of its own, behind the attempt that left the call pending: after a crash the tool is not run again, and the
deadline is the one that was recorded with its attempt. A lane that is lost ends the wait and leaves the promise alone.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from lash_cli.core.codec import to_builtins
from lash_cli.core.effect import (
    AwaitEventCommand,
    EffectEnvelope,
    EffectInvocation,
    EffectOutcome,
    ToolAttemptOutcome,
    TurnScope,
    ValueOutcome,
    child_replay_key,
)
from lash_cli.core.lease import lane_lost
from lash_cli.core.protocols import AwaitEventResolver, CancelsExternalWork, EffectContext
from lash_cli.core.tools import (
    FailControl,
    FailureClass,
    PendingCompletion,
    ToolCall,
    ToolCallOutput,
    ToolFailure,
    ToolSuccess,
    cancelled,
    failure,
    success,
)
from lash_cli.core.wait import (
    AwaitEventKey,
    Resolution,
    ResolvedCancelled,
    ResolvedErr,
    ResolvedOk,
    ResolvedTimeout,
    ToolCompletionWait,
)
from lash_cli.effects.host import resolution_of
from lash_cli.errors import EffectError
from lash_cli.runtime.cancellation import CancelToken
from lash_cli.runtime.containment import kept_output
from lash_cli.tools.faults import ToolFault
from lash_cli.tools.registry import ResolvedTool

if TYPE_CHECKING:
    from lash_cli.runtime.attempts import TurnServices

_log = logging.getLogger("lash.dispatch")

# How long the source of a tool may take to end outside what nobody waits for any more: the turn waits for it.
CANCEL_HOOK_S = 3.0
CANCELLED_TEXT = "pending tool completion cancelled"


class CompletionKeys:
    """The completion key of one call, and whether its tool asked for it."""

    def __init__(self, resolver: AwaitEventResolver, scope: TurnScope, call: ToolCall) -> None:
        self._resolver = resolver
        self._scope = scope
        self._call = call
        self.is_asked = False

    async def ask(self) -> AwaitEventKey:
        """The key, for the tool; raises `ToolFault` with the code of what stands against it."""
        self.is_asked = True
        try:
            return await self.key()
        except EffectError as error:
            raise ToolFault(FailureClass.INTERNAL, error.code, error.message) from error

    async def key(self) -> AwaitEventKey:
        """The key; raises `EffectError`."""
        if not self._call.call_id.strip():
            raise EffectError("tool_completion_key_missing_call_id", "a completion key needs the id of its call")
        return await self._resolver.await_event_key(self._scope, ToolCompletionWait(self._call.call_id))


def without_key(tool_name: str) -> ToolCallOutput:
    """The result of a tool that left its call pending and has no key by which anybody could complete it."""
    text = f"{tool_name} left the call pending without having asked for its completion key."
    return failure(FailureClass.INTERNAL, "pending_tool_missing_completion_key", text, source="runtime")


class _AskedToStop:
    """The cancel token of the turn as a waiter of a promise may see it: the loss of the lane is no cancellation, and
    must not end a promise that the next owner of the lane will wait for."""

    def __init__(self, token: CancelToken) -> None:
        self._token = token

    @property
    def is_set(self) -> bool:
        return self._token.is_cancellation

    async def wait(self) -> None:
        await self._token.wait()
        if not self._token.is_cancellation:
            await asyncio.get_running_loop().create_future()


def completed(name: str, resolution: Resolution, pending: PendingCompletion) -> ToolCallOutput:
    """The result of a call of the tool `name` that was left pending, once what it waited for has ended."""
    match resolution:
        case ResolvedOk(payload=value):
            return kept_output(name, success(value))
        case ResolvedErr(code=code, message=message, raw=raw):
            return kept_output(name, failure(FailureClass.EXECUTION, code, message, raw=raw))
        case ResolvedTimeout():
            text = f"{name} was not completed within {pending.timeout_ms} ms."
            late = ToolFailure(FailureClass.TIMEOUT, "tool_completion_timeout", text, source="runtime")
            if pending.on_timeout == "fail_turn":
                # Controls count on success only; the model never reads this.
                return ToolCallOutput(ToolSuccess(text), FailControl(late))
            return failure(FailureClass.TIMEOUT, "tool_completion_timeout", text, source="runtime")
        case ResolvedCancelled():
            return cancelled(CANCELLED_TEXT)


class PendingWait:
    """One pending call: waits once, as far as anybody can observe, and says what became of it. `resolved` is None when
    its tool is gone."""

    def __init__(self, turn: TurnServices, resolved: ResolvedTool | None, call: ToolCall) -> None:
        self._turn = turn
        self._resolved = resolved
        self._call = call

    async def output(self, attempt_key: str, attempted: ToolAttemptOutcome) -> ToolCallOutput:
        """Wait as an effect below the one of the attempt; raises what effects raise."""
        pending = attempted.pending
        if pending is None:
            raise EffectError("runtime_effect_wrong_outcome", "a tool attempt was recorded without a result")
        key = await CompletionKeys(self._turn.resolver, self._turn.scope, self._call).key()
        invocation = EffectInvocation(
            self._turn.scope, f"{self._call.call_id}:await", child_replay_key(attempt_key, "await"), attempt_key
        )

        async def run(context: EffectContext) -> EffectOutcome:
            resolution = await self._resolution(key, attempted.deadline_ms)
            if isinstance(resolution, ResolvedCancelled) and pending.on_cancel == "cancel_external_work":
                await self._tell_source(key)
            return ValueOutcome(to_builtins(resolution))

        outcome = await self._turn.effects.execute(EffectEnvelope(invocation, AwaitEventCommand(key.key_id)), run)
        resolution = resolution_of(outcome)
        if resolution is None:
            raise EffectError("runtime_effect_wrong_outcome", "a wait for a completion was recorded without one")
        return completed(self._call.tool_name, resolution, pending)

    async def _resolution(self, key: AwaitEventKey, deadline_ms: int | None) -> Resolution:
        waiting = asyncio.ensure_future(
            self._turn.resolver.await_await_event(key, deadline_ms, _AskedToStop(self._turn.cancel))
        )
        stopped = asyncio.ensure_future(self._turn.cancel.wait())
        try:
            await asyncio.wait({waiting, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done() and not self._turn.cancel.is_cancellation:
                raise lane_lost(self._turn.scope.session_id)
            return await waiting
        finally:
            for task in (waiting, stopped):
                task.cancel()
            await asyncio.gather(waiting, stopped, return_exceptions=True)

    async def _tell_source(self, key: AwaitEventKey) -> None:
        if self._resolved is None:
            return
        source = self._resolved.provider
        if not isinstance(source, CancelsExternalWork):
            return
        try:
            async with asyncio.timeout(CANCEL_HOOK_S):
                await source.cancel_external_work(self._call, key)
        except Exception:
            if self._turn.is_strict:
                raise
            # The call is cancelled all the same, and who wrote the source reads the log.
            _log.exception("what %s left pending could not be cancelled", self._call.tool_name)
