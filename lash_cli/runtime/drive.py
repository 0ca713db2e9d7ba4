"""Driving the turn machine: the loop that feeds it until it is done (design §3 step 4).

The machine asks, this answers: model calls and tool batches through the
effects of the turn's scope, everything shown through the sink. Nothing here
writes a conversation; how a turn begins and ends is the subclasses' matter.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from lash_cli.core.activity import TurnActivity, TurnEvent
from lash_cli.core.codec import encode
from lash_cli.core.content import (
    AttachmentItem,
    AttachmentSource,
    Message,
    ProtocolTurnOptions,
    TextItem,
    TurnInput,
    message_text,
)
from lash_cli.core.delivery import TurnClaims
from lash_cli.core.effect import (
    EffectEnvelope,
    EffectInvocation,
    EffectOutcome,
    LlmCallOutcome,
    TurnScope,
    turn_replay_key,
)
from lash_cli.core.head_state import TurnState
from lash_cli.core.lease import lane_lost
from lash_cli.core.llm import LlmCallResult, OutputSpec
from lash_cli.core.machine import TurnMachine
from lash_cli.core.machine_records import (
    CheckpointDelivery,
    CheckpointEffect,
    DoneEffect,
    EmitEffect,
    ExecCodeEffect,
    ExecCompleted,
    LlmCallEffect,
    LlmComplete,
    MachineConfig,
    MachineResponse,
    ProgressEffect,
    SyncEnvironmentEffect,
    ToolCallsEffect,
    ToolResults,
)
from lash_cli.core.outcome import TurnIssue
from lash_cli.core.policy import NO_LAYER, Generation, PromptLayer, SessionPolicy
from lash_cli.core.pricing import CostLimit
from lash_cli.core.prompt import NO_BUILTINS, PromptBuiltins
from lash_cli.core.protocols import EffectContext, ModelCaller, ScopedEffects
from lash_cli.core.usage import TokenLedgerEntry, TokenUsage, prompt_usage
from lash_cli.errors import (
    DirectCompletionError,
    EffectError,
    LashRuntimeError,
    NotFoundError,
    UsageError,
)
from lash_cli.modes.standard import StandardProtocol
from lash_cli.runtime.asking import PROVIDER_PANICKED, asked, refusal_of
from lash_cli.runtime.attachments import kept_source, reader_of
from lash_cli.runtime.cancellation import CancelCause, CancelToken
from lash_cli.runtime.context import ShownConversation, shown_conversation
from lash_cli.runtime.frames import FrameChain
from lash_cli.runtime.host import RuntimeHost
from lash_cli.runtime.model_calls import CallStopped, ModelCall, ModelEnvironment, is_stopped
from lash_cli.runtime.phases import TurnPhase, in_phase
from lash_cli.runtime.requests import Sink, TurnOutput, TurnRequest, unseen
from lash_cli.runtime.session import ResidentSession

if TYPE_CHECKING:
    from lash_cli.core.direct import DirectLlmCompletion, DirectRequest
    from lash_cli.runtime.dispatch import ToolDispatcher

UNSUPPORTED_ATTACHMENT = "unsupported_attachment_capability"
# Says what was said, to whoever turns it on: nobody does by having a log (contract 08 §6.7 `privacy.log_prompts`).
_prompts = logging.getLogger("lash.prompts")
if _prompts.level == logging.NOTSET:
    _prompts.setLevel(logging.CRITICAL + 1)
_WITHOUT_LIMIT: Final = contextlib.nullcontext()
_WITHOUT_OUTPUT: Final = StandardProtocol()


class Drive(msgspec.Struct, frozen=True):
    """One physical drive of one turn: everything about it that does not change while it runs, and what it took.
    Without a `caller` it is to stop before it asks one."""

    turn_id: str
    turn_index: int
    policy: SessionPolicy
    core_prompt: PromptLayer
    max_turns: int | None
    cost_limit: CostLimit | None
    claims: TurnClaims
    chain: FrameChain
    effects: ScopedEffects
    caller: ModelCaller | None
    is_redrive: bool
    started_at_ms: int
    started_monotonic: float
    options: ProtocolTurnOptions | None = None
    turn_prompt: PromptLayer = NO_LAYER
    builtins: PromptBuiltins = NO_BUILTINS


class Previews(Protocol):
    """Shows the activities of a turn to whoever watches its session; never raises and never waits."""

    def publish(self, activity: TurnActivity) -> None:
        """Show one activity."""
        ...


class TurnDriver(ABC):
    """Driving the machine; how a turn begins and ends is the subclasses' matter."""

    def __init__(
        self, host: RuntimeHost, session: ResidentSession, request: TurnRequest, token: CancelToken, sink: Sink
    ) -> None:
        self.host = host.calling(request.provider)
        self.session = session
        self.request = request
        self.token = token
        self.sink = sink
        self.previews: Previews | None = None
        # Activities are numbered under one id of their own: an id drawn for each costs more than showing it.
        self._series = host.ids.new("a")
        self._numbers = itertools.count(1)
        self._fetch = None if host.store is None else reader_of(host.store, session.session_id)
        self.trace = host.tracer.turns_of(session.session_id) if host.tracer is not None else None

    @abstractmethod
    async def run(self) -> TurnOutput:
        """Serve the request."""

    def run_traced(self) -> Awaitable[TurnOutput]:
        """`run`; a turn that it leaves open when it raises is closed in the trace, if there is one."""
        return self.run() if self.trace is None else self.trace.around(self.run())

    def emit(self, drive: Drive, event: TurnEvent, correlation: str, activity_id: str | None = None) -> Awaitable[None]:
        """Show one event of a drive: to the trace and to observers now, to the caller when the result is awaited."""
        if self.trace is not None:
            self.trace.observe(drive, event)
        activity = TurnActivity(
            self.session.session_id,
            drive.turn_id,
            correlation,
            event,
            self.host.clock.now_ms(),
            activity_id or f"{self._series}.{next(self._numbers)}",
        )
        if self.previews is not None:
            self.previews.publish(activity)
        return self.sink(activity)

    async def normalised(self, turn_input: TurnInput, drive: Drive) -> TurnInput | TurnIssue:
        """The input with attachment bytes replaced by references, or why it cannot be used (contract 01 §5.1). Raises
        what the store raises for other reasons: the input is used once that has passed."""
        items = turn_input.items
        for index, item in enumerate(items):
            if isinstance(item, AttachmentItem):
                try:
                    item = AttachmentItem(await self.stored(item.attachment, drive))
                except (UsageError, NotFoundError) as error:  # what the store suffers from is no fault of the input
                    return TurnIssue("input_validation", error.message, "invalid_turn_input")
                items = (*items[:index], item, *items[index + 1 :])
        return turn_input if items is turn_input.items else msgspec.structs.replace(turn_input, items=items)

    async def stored(self, source: AttachmentSource, drive: Drive) -> AttachmentSource:
        """An attachment as it may be persisted; raises `UsageError` for one that the host or the model's provider
        refuses, and `NotFoundError` for one that the session has not: in the transcript it would stop every later turn
        too."""
        self.host.attachments.check(source)
        caller = drive.caller
        refusal = None if caller is None else refusal_of(caller, source, is_strict=self.host.is_strict)
        if refusal is not None:
            raise UsageError(refusal, code=UNSUPPORTED_ATTACHMENT)
        now_ms = self.host.clock.now_ms()
        return await kept_source(self.host.store, self.session.session_id, source, turn_id=drive.turn_id, now_ms=now_ms)

    async def pass_checkpoint(self, drive: Drive, effect: CheckpointEffect) -> CheckpointDelivery:
        """What enters the turn at a checkpoint; nothing where there is no queue."""
        return CheckpointDelivery()

    async def drive_machine(self, drive: Drive, opening: tuple[Message, ...]) -> DoneEffect:
        """Feed the machine until it is done. Raises only what must end the turn without an outcome."""
        environment = ModelEnvironment.of(
            self.session, drive.policy, drive.core_prompt, drive.turn_prompt, drive.builtins
        )
        shown: ShownConversation | None = None
        if not self.token.is_set:  # a turn that is to stop can be ended whatever becomes of its context
            with in_phase(self.session.phase_probe, TurnPhase.CONTEXT_TRANSFORM):
                shown = shown_conversation(self.host, self.session, drive.policy)
        digests: list[str] = []
        counter = 0
        dispatcher: ToolDispatcher | None = None
        enqueued: tuple[Message, ...] = ()
        config = MachineConfig(
            drive.turn_id,
            drive.max_turns,
            drive.policy.model.limits.context_window_tokens,
            cost_limit=drive.cost_limit,
        )
        self._log_texts(drive, opening)
        output = _wanted_output(drive)
        machine = TurnMachine(config, self._protocol(output), opening, self.session.earlier_call_ids)
        while True:
            if self.token.is_set:
                self._stop(machine)
            effect = machine.poll()
            answer: MachineResponse
            if isinstance(effect, EmitEffect):
                counter += 1
                await self.emit(drive, effect.event, f"{drive.turn_id}:{counter}")
                continue
            elif isinstance(effect, SyncEnvironmentEffect):
                with in_phase(self.session.phase_probe, TurnPhase.PROMPT_BUILD):
                    answer = environment.synced(is_strict=self.host.is_strict)
            elif isinstance(effect, LlmCallEffect):
                assert shown is not None, "a machine that was stopped before it began calls no model"
                answer = LlmComplete(await self._call_model(drive, environment, effect, output, shown, digests))
            elif isinstance(effect, CheckpointEffect):
                answer = await self.pass_checkpoint(drive, effect)
                if enqueued:  # a batch has its checkpoint right behind it
                    answer = msgspec.structs.replace(answer, messages=(*answer.messages, *enqueued))
                    enqueued = ()
                self._log_texts(drive, answer.messages)
            elif isinstance(effect, ToolCallsEffect):
                dispatcher = dispatcher or self._dispatcher(drive)
                records = await dispatcher.run_batch(
                    effect.calls, iteration=effect.iteration, effect_id=effect.effect_id
                )
                answer = ToolResults(records, dispatcher.projections(records))
                enqueued = dispatcher.take_enqueued(records)
            elif isinstance(effect, DoneEffect):
                if drive.is_redrive and self.token.is_cancellation:
                    dispatcher = dispatcher or self._dispatcher(drive)
                    await dispatcher.end_pending()
                if effect.tool_calls:
                    dispatcher = dispatcher or self._dispatcher(drive)
                    await dispatcher.show_untold(effect.tool_calls)
                return effect
            elif isinstance(effect, ProgressEffect):
                continue
            else:
                assert isinstance(effect, ExecCodeEffect), "every effect was answered, so there is a next one"
                answer = ExecCompleted(error="this session's mode runs no code")
            machine.respond(effect.effect_id, answer)

    def _log_texts(self, drive: Drive, messages: Iterable[Message]) -> None:
        """Tell the log what entered the turn, each text on one line, where somebody wants that."""
        if _prompts.isEnabledFor(logging.INFO):
            for message in messages:
                text = encode(message_text(message)).decode()
                _prompts.info("turn %s of session %s: %s", drive.turn_id, self.session.session_id, text)

    def _dispatcher(self, drive: Drive) -> ToolDispatcher:
        """What runs the tools of a turn; many a turn calls none."""
        from lash_cli.runtime.attempts import TurnServices
        from lash_cli.runtime.dispatch import ToolDispatcher

        services = TurnServices(
            registry=self.session.registry,
            approval=self.host.approval,
            effects=drive.effects,
            resolver=self.host.effects,
            clock=self.host.clock,
            scope=TurnScope(self.session.session_id, drive.turn_id),
            turn_index=drive.turn_index,
            agent_frame_id=self.session.frame_id,
            cancel=self.token,
            emit=partial(self.emit, drive),
            store_attachment=lambda source: self.stored(source, drive),
            ask_model=partial(self._ask_model, drive),
            note=None if self.trace is None else partial(self.trace.noted, drive),
            is_strict=self.host.is_strict,
            is_redrive=drive.is_redrive,
        )
        return ToolDispatcher(services, self.host.tool_hooks)

    async def _ask_model(self, drive: Drive, cause: str, request: DirectRequest) -> DirectLlmCompletion:
        """A completion beside the turn; what it cost goes along with the next commit, which is that of the turn."""
        from lash_cli.runtime.direct import complete_directly

        session, policy = self.session, drive.policy
        model = request.model or policy.model
        request = msgspec.structs.replace(request, session_id=session.session_id, model=model)
        usage = TokenUsage()
        try:
            completion = await complete_directly(self.host, request, model=model, provider_id=policy.provider_id)
            usage = completion.usage
        except DirectCompletionError as error:
            usage = usage if error.record is None else error.record.usage
            raise
        finally:
            if usage.total:
                session.owe((TokenLedgerEntry(request.caused_by or cause, model.id, usage),))
        return completion

    def _protocol(self, output: OutputSpec | None) -> StandardProtocol:
        if output is None:
            return _WITHOUT_OUTPUT
        from lash_cli.runtime.structured import judge_of

        return StandardProtocol(output=output, judge=judge_of(output))

    def _stop(self, machine: TurnMachine) -> None:
        if not self.token.is_cancellation:
            raise lane_lost(self.session.session_id)
        machine.cancel(self.token.reason or "")

    async def _call_model(
        self,
        drive: Drive,
        environment: ModelEnvironment,
        effect: LlmCallEffect,
        output: OutputSpec | None,
        shown: ShownConversation,
        digests: list[str],
    ) -> LlmCallResult:
        """One call. `digests` are those of the tail so far, which only grows."""
        call = ModelCall(
            self.session,
            drive.policy,
            environment,
            turn_id=drive.turn_id,
            iteration=effect.iteration,
            tail=effect.tail,
            tools_allowed=effect.tools_allowed,
            emit=partial(self.emit, drive),
            output=output,
            generation=_generation(drive),
            fetch=self._fetch,
            is_shown=self.previews is not None or self.sink is not unseen,
            shown=shown,
            digests=digests,
        )
        key = turn_replay_key(drive.turn_index, effect.iteration, "llm_call", effect.effect_id)
        envelope = EffectEnvelope(EffectInvocation(drive.effects.scope, str(effect.effect_id), key), call.command)

        async def run(context: EffectContext) -> EffectOutcome:
            assert drive.caller is not None, "a machine that was stopped before it began calls no model"
            result = await asked(
                drive.caller, call.request, sink=call.sink, cancel=self.token, is_strict=self.host.is_strict
            )
            if self.token.cause is CancelCause.LEASE_LOST:
                raise lane_lost(self.session.session_id)
            if self.host.is_strict and result.error is not None and result.error.code == PROVIDER_PANICKED:
                raise LashRuntimeError(PROVIDER_PANICKED, result.error.message)
            if is_stopped(result):
                raise CallStopped(result)
            return LlmCallOutcome(result)

        try:
            if self.trace is None:
                outcome = await drive.effects.execute(envelope, run)
            else:
                outcome = await self.trace.model_call(drive, effect.iteration, call.request, envelope, run)
        except CallStopped as stopped:
            return stopped.result
        if not isinstance(outcome, LlmCallOutcome):
            raise EffectError("runtime_effect_wrong_outcome", "a model call recorded another kind of outcome")
        if outcome.result.text_streamed != call.streamed:
            # Read from the journal: nobody has seen the text of this attempt yet.
            return msgspec.structs.replace(outcome.result, text_streamed=call.streamed)
        return outcome.result

    def turn_state(self, drive: Drive, done: DoneEffect) -> TurnState:
        """The checkpoint's turn state after this turn."""
        before = self.session.turn_state
        if not done.last_usage.total:
            return msgspec.structs.replace(before, turn_index=drive.turn_index)
        return TurnState(drive.turn_index, done.last_usage, prompt_usage(done.last_usage), before.protocol_turn_options)

    def elapsed_ms(self, drive: Drive) -> int:
        """Milliseconds since the drive began."""
        return round((self.host.clock.monotonic() - drive.started_monotonic) * 1000)


def _generation(drive: Drive) -> Generation:
    """How the answers of a turn are drawn: as the session says, and over that the turn."""
    if drive.options is None:
        return drive.policy.generation
    from lash_cli.core.generation import generation_of

    return drive.policy.generation.overlaid_by(generation_of(drive.options))


def _wanted_output(drive: Drive) -> OutputSpec | None:
    """What the answer has to fit, None for prose; raises `ValueError` for options that cannot be read."""
    if drive.options is None:
        return None
    from lash_cli.core.structured import output_of

    return output_of(drive.options)


def usage_of(session: ResidentSession, policy: SessionPolicy, done: DoneEffect) -> tuple[TokenLedgerEntry, ...]:
    """What a turn in the current frame of `session` adds to the ledger."""
    if not done.usage.total:
        return ()
    return (TokenLedgerEntry(session.usage_source, policy.model.id, done.usage),)


def text_only(turn_input: TurnInput) -> TurnInput:
    """What of an unusable input can stand in a transcript."""
    return TurnInput(items=tuple(item for item in turn_input.items if isinstance(item, TextItem)))


def time_limit(timeout_ms: int | None, token: CancelToken) -> AbstractContextManager[None]:
    """Trip the token as a local cancel with reason `timeout` when the caller's limit passes; None is without end."""
    return _WITHOUT_LIMIT if timeout_ms is None else _limited(timeout_ms, token)


@contextlib.contextmanager
def _limited(timeout_ms: int, token: CancelToken) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    handle = loop.call_later(timeout_ms / 1000, lambda: token.trip(CancelCause.LOCAL, reason="timeout"))
    try:
        yield
    finally:
        handle.cancel()
