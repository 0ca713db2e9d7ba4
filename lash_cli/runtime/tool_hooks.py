"""Asking the hooks of tool calls and the projector of their results, once as far as anybody can observe (contract 05
§1.4, §3.1 steps 3, 9 and 10, §4.4).

What they decide at one point of a call is an effect of its own, recorded before
anything follows from it: a re-drive is told the same story without asking, also
in a core that has other hooks or none. A hook that was added in between is not
asked about what the turn has gone past. The attempt is recorded before the
hooks behind it are asked, so a crash of theirs never costs the result of a tool.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, TypeVar

import msgspec

from lash_cli.core.codec import decode, decode_json, described, encode, reread, storable, to_builtins
from lash_cli.core.content import Message
from lash_cli.core.effect import (
    EffectEnvelope,
    EffectInvocation,
    EffectOutcome,
    ToolHookCommand,
    ToolHookOutcome,
    child_replay_key,
)
from lash_cli.core.protocols import (
    AfterToolHook,
    BeforeToolHook,
    EffectContext,
    EffectExecutor,
    ToolHook,
    ToolResultProjector,
)
from lash_cli.core.tool_hooks import (
    AFTER,
    BEFORE,
    AbortTurn,
    AfterToolCall,
    BeforeToolCall,
    EmitRuntimeEvents,
    EmitTrace,
    EnqueueMessages,
    ForbiddenDirective,
    HookPoint,
    ReplaceToolArgs,
    ShortCircuitTool,
    ToolHookVerdict,
    ToolProjection,
    after_verdict,
    before_verdict,
    hook_failure,
)
from lash_cli.core.tools import (
    FailControl,
    ToolCall,
    ToolCallOutput,
    ToolCallRecord,
    ToolManifest,
    cancelled,
    project_output,
)
from lash_cli.errors import EffectError, PluginRegistrationError
from lash_cli.runtime.containment import MAX_RESULT_CHARS, kept_output
from lash_cli.runtime.foreign import CutOff, within_turn

if TYPE_CHECKING:
    from lash_cli.runtime.attempts import TurnServices

_log = logging.getLogger("lash.dispatch")

_DIRECTIVES: Final = (AbortTurn, ReplaceToolArgs, ShortCircuitTool, EnqueueMessages, EmitRuntimeEvents, EmitTrace)
PROJECTION_FAILED = "[Tool result projection failed]\n"

Point = Literal["before", "after", "project"]
T = TypeVar("T")


class ToolHookSet(msgspec.Struct, frozen=True):
    """The hooks of a core by the point they are asked at, in the order they are asked, and its projector."""

    before: tuple[BeforeToolHook, ...] = ()
    after: tuple[AfterToolHook, ...] = ()
    projector: ToolResultProjector | None = None


NO_HOOKS: Final = ToolHookSet()


def tool_hook_set(hooks: Iterable[ToolHook], projector: ToolResultProjector | None) -> ToolHookSet:
    """The hooks a host plugs in; raises `PluginRegistrationError` for one of another shape or an id that is taken."""
    known: dict[str, ToolHook] = {}
    if not isinstance(hooks, Iterable):
        raise PluginRegistrationError(f"tool hooks are a list of them, not one {type(hooks).__name__}")
    for hook in hooks:
        hook_id = getattr(hook, "hook_id", None)
        if not isinstance(hook_id, str) or not hook_id.strip() or storable(hook_id) != hook_id:
            raise PluginRegistrationError(f"a tool hook needs a non-blank text as its hook_id, not {hook_id!r}")
        if hook_id in known:
            raise PluginRegistrationError(f"there are two tool hooks {hook_id!r}")
        if not _has(hook, "before_tool_call") and not _has(hook, "after_tool_call"):
            raise PluginRegistrationError(f"the tool hook {hook_id!r} has neither before_tool_call nor after_tool_call")
        known[hook_id] = hook
    if projector is not None and not _has(projector, "project"):
        raise PluginRegistrationError("a tool result projector needs a method project")
    return ToolHookSet(
        tuple(hook for hook in known.values() if isinstance(hook, BeforeToolHook) and _has(hook, "before_tool_call")),
        tuple(hook for hook in known.values() if isinstance(hook, AfterToolHook) and _has(hook, "after_tool_call")),
        projector,
    )


def _has(plugged: object, method: str) -> bool:
    return callable(getattr(plugged, method, None))


class _Failed(Exception):
    """A hook raised, or answered what cannot be used."""


class CallHooks:
    """The hooks of the calls of one turn."""

    def __init__(
        self, hooks: ToolHookSet, turn: TurnServices, store: Callable[[ToolCallOutput], Awaitable[ToolCallOutput]]
    ) -> None:
        """`store` puts references in place of the attachment bytes of an output."""
        self._hooks = hooks
        self._turn = turn
        self._store = store
        self._is_past = False
        self._enqueued: dict[str, tuple[Message, ...]] = {}

    async def begin_batch(self, following: str) -> None:
        """A batch begins; `following` is what the keys of the iteration after it begin with. Once that was there the
        model has been told of the batch, and nobody who was not asked then may change the story."""
        self._is_past = self._turn.is_redrive and await self._turn.effects.has_any(following)

    def take_enqueued(self, records: Iterable[ToolCallRecord]) -> tuple[Message, ...]:
        """What the model is to read behind the batch of these records, in their order; once."""
        taken, self._enqueued = self._enqueued, {}
        own = [message for record in records for message in taken.pop(record.call_id, ())]
        return (*own, *(message for messages in taken.values() for message in messages))

    async def recorded(self, replay_key: str) -> ToolHookOutcome | None:
        """What earlier drives decided under a key, None when nothing; raises what effects raise."""
        known = await self._turn.effects.recorded(replay_key) if self._turn.is_redrive else None
        return None if known is None else _outcome_of(known[1])

    async def before(self, call_id: str, manifest: ToolManifest, args: Any, key: str) -> ToolHookOutcome | None:
        """What is decided of a call before it is made. Raises `CutOff`, and what effects raise."""
        decide = partial(self._decide_before, call_id, manifest, args) if self._hooks.before else None
        return await self._outcome("before", key, child_replay_key(key, "attempt:1"), call_id, manifest.name, decide)

    async def after(
        self, call: ToolCall, key: str, attempt: int, output: ToolCallOutput, duration_ms: int
    ) -> ToolCallOutput:
        """What the hooks leave of the result of an attempt, whose key is `key`; raises what effects raise.

        A turn that is cancelled before they had their say goes without the
        result: none of them agreed to what its transcript would keep.
        """
        if _ends_turn(output) or (self._turn.cancel.is_set and output.status == "cancelled"):
            return output
        decide = partial(self._decide_after, call, attempt, output, duration_ms) if self._hooks.after else None
        try:
            outcome = await self._outcome(
                "after", key, child_replay_key(key, "sleep"), call.call_id, call.tool_name, decide
            )
        except CutOff:
            return cancelled()
        if outcome is None:
            return output
        if outcome.messages:
            self._enqueued[call.call_id] = (*self._enqueued.get(call.call_id, ()), *outcome.messages)
        return output if outcome.output is None else outcome.output

    async def projected(self, record: ToolCallRecord, key: str) -> str | None:
        """What the model reads of a call, None where that is the usual text; raises what effects raise."""
        decide = partial(self._project, record) if self._hooks.projector is not None else None
        try:
            outcome = await self._outcome("project", key, None, record.call_id, record.tool, decide)
        except CutOff:
            return f"{PROJECTION_FAILED}The turn was cancelled before it was done."
        return None if outcome is None else outcome.projection

    async def _outcome(
        self,
        point: Point,
        key: str,
        later: str | None,
        call_id: str,
        tool_name: str,
        decide: Callable[[], Awaitable[ToolHookOutcome]] | None,
    ) -> ToolHookOutcome | None:
        """The decision at a point; `later` begins the keys of what only comes after it."""
        replay_key = child_replay_key(key, point)
        if decide is None or (self._turn.is_redrive and await self._is_passed(replay_key, later)):
            outcome = await self.recorded(replay_key)
        else:
            invocation = EffectInvocation(self._turn.scope, f"{call_id}:{point}", replay_key)
            envelope = EffectEnvelope(invocation, ToolHookCommand(point, call_id, tool_name))
            outcome = _outcome_of(await self._turn.effects.execute(envelope, _executor(decide)))
        for event in () if outcome is None else outcome.events:
            await self._turn.emit(event, f"tool:{call_id}")
        return outcome

    async def _is_passed(self, replay_key: str, later: str | None) -> bool:
        """Whether earlier drives have gone past a point without anybody having been asked there."""
        if await self._turn.effects.is_known(replay_key):
            return False
        return self._is_past or (later is not None and await self._turn.effects.has_any(later))

    async def _decide_before(self, call_id: str, manifest: ToolManifest, args: Any) -> ToolHookOutcome:
        hooks = self._hooks.before
        rounds = before_verdict([hook.hook_id for hook in hooks], args)
        try:
            question = next(rounds)
            while True:
                # Each has arguments of its own, so none changes what the others are shown.
                shown = decode_json(encode(question.args))
                call = BeforeToolCall(
                    self._turn.scope.session_id,
                    self._turn.scope.turn_id,
                    call_id,
                    manifest,
                    shown,
                    question.is_inspection,
                )
                hook = hooks[question.index]
                directives = await self._asked(BEFORE, hook.hook_id, manifest.name, hook.before_tool_call, call)
                question = rounds.send(directives)
        except StopIteration as end:
            return await self._decided(BEFORE, call_id, manifest.name, end.value)
        except _HookFault as fault:
            return ToolHookOutcome(output=fault.output)
        except ForbiddenDirective as error:
            return ToolHookOutcome(output=self._forbidden(BEFORE, error))

    async def _decide_after(
        self, call: ToolCall, attempt: int, output: ToolCallOutput, duration_ms: int
    ) -> ToolHookOutcome:
        answers: list[tuple[str, Sequence[object]]] = []
        args, result = encode(call.args), encode(output)
        try:
            for hook in self._hooks.after:
                shown = AfterToolCall(
                    self._turn.scope.session_id,
                    self._turn.scope.turn_id,
                    call.call_id,
                    call.tool_id,
                    call.tool_name,
                    decode_json(args),
                    decode(result, ToolCallOutput),
                    duration_ms,
                    attempt,
                )
                directives = await self._asked(AFTER, hook.hook_id, call.tool_name, hook.after_tool_call, shown)
                answers.append((hook.hook_id, directives))
            verdict = after_verdict(answers)
        except _HookFault as fault:
            return ToolHookOutcome(output=fault.output)
        except ForbiddenDirective as error:
            return ToolHookOutcome(output=self._forbidden(AFTER, error))
        return await self._decided(AFTER, call.call_id, call.tool_name, verdict)

    async def _decided(
        self, point: HookPoint, call_id: str, tool_name: str, verdict: ToolHookVerdict
    ) -> ToolHookOutcome:
        """A verdict as it is recorded. Traces are written now and never again: nothing takes them back."""
        if self._turn.note is not None:
            for trace in verdict.traces:
                self._turn.note(trace.name, trace.payload)
            for conflict in verdict.conflicts:
                self._turn.note(
                    f"{point}.directive_conflict", {"call_id": call_id, "tool": tool_name, **to_builtins(conflict)}
                )
        output = None if verdict.output is None else await self._store(kept_output(tool_name, verdict.output))
        return ToolHookOutcome(verdict.args, output, messages=verdict.messages, events=verdict.events)

    async def _project(self, record: ToolCallRecord) -> ToolHookOutcome:
        projector = self._hooks.projector
        assert projector is not None
        shown = ToolProjection(
            self._turn.scope.session_id,
            self._turn.scope.turn_id,
            record.call_id,
            record.tool,
            decode_json(encode(record.args)),
            decode(encode(record.output), ToolCallOutput),
            project_output(record.output),
        )
        try:
            text = await self._answer(f"projector of {record.tool}", partial(projector.project, shown), _text)
        except _Failed as error:
            text = f"{PROJECTION_FAILED}{error}"
        return ToolHookOutcome(projection=text)

    async def _asked(
        self, point: HookPoint, hook_id: str, tool_name: str, ask: Callable[[Any], Awaitable[object]], call: object
    ) -> Sequence[object]:
        """The directives of one hook; raises `_HookFault` when it failed, and `CutOff`."""
        try:
            return await self._answer(f"hook {hook_id} of {tool_name}", partial(ask, call), _directives)
        except _Failed as error:
            raise _HookFault(hook_failure(point, hook_id, str(error))) from None

    def _forbidden(self, point: HookPoint, error: ForbiddenDirective) -> ToolCallOutput:
        if self._turn.is_strict:
            raise error
        _log.error("the hook %s: %s", error.hook_id, error)
        return hook_failure(point, error.hook_id, str(error))

    async def _answer(self, what: str, ask: Callable[[], Awaitable[object]], read: Callable[[object], T]) -> T:
        """What foreign code answers, as `read` takes it; raises `_Failed` for what it raises, and `CutOff`."""

        async def contained() -> T:
            try:
                return read(await ask())
            except asyncio.CancelledError:
                raise _Failed("it cancelled itself") from None
            except Exception as error:
                if self._turn.is_strict:
                    raise
                _log.exception("the %s raised", what)
                raise _Failed(described(error)) from error

        return await within_turn(
            asyncio.ensure_future(contained()), what, self._turn.cancel, self._turn.scope.session_id
        )


class _HookFault(Exception):
    """A hook failed, and `output` is what becomes of its call: none of what was asked for at its point happens."""

    def __init__(self, output: ToolCallOutput) -> None:
        super().__init__()
        self.output = output


def _executor(decide: Callable[[], Awaitable[ToolHookOutcome]]) -> EffectExecutor:
    async def run(context: EffectContext) -> EffectOutcome:
        return await decide()

    return run


def _outcome_of(outcome: EffectOutcome) -> ToolHookOutcome:
    if not isinstance(outcome, ToolHookOutcome):
        raise EffectError("runtime_effect_wrong_outcome", "the hooks of a call recorded another kind of outcome")
    return outcome


def _directives(answer: object) -> Sequence[object]:
    """The directives of an answer, each as JSON will have it; raises for what is none."""
    if answer is None:
        return ()
    if not isinstance(answer, list | tuple):
        _refuse(f"it answered {type(answer).__name__}, no list of directives")
    return [reread(item, type(item)) if isinstance(item, _DIRECTIVES) else item for item in answer]


def _text(answer: object) -> str:
    """The text of a projector; raises for what is none."""
    if not isinstance(answer, str):
        _refuse(f"it answered {type(answer).__name__}, no text")
    if len(answer) > MAX_RESULT_CHARS:
        _refuse(f"its text of {len(answer)} characters is more than the {MAX_RESULT_CHARS} that are kept")
    return storable(answer)


def _refuse(text: str) -> NoReturn:
    raise TypeError(text)


def _ends_turn(output: ToolCallOutput) -> bool:
    """Whether it stands for a wait whose time is up and that was to stop the turn: that is not a hook's to undo."""
    control = output.control
    return (
        isinstance(control, FailControl)
        and control.failure.source == "runtime"
        and control.failure.code == "tool_completion_timeout"
    )
