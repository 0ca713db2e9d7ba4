"""From what a turn does to trace records (contract 04 §9).

The tracer is the one place where a record gets its id, its time, its span and
its limits, and where failures of tracing end: whatever goes wrong in here is
logged and the turn goes on. A turn is traced from the activities it emits
anyway; only a model call has a hook of its own, since nothing shows a request.
A core without a tracer pays nothing.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from lash_cli.core import activity as shown
from lash_cli.core import trace_events as traced
from lash_cli.core.codec import sha256_hex, tag_of, to_builtins
from lash_cli.core.effect import EffectEnvelope, EffectOutcome, LlmCallOutcome
from lash_cli.core.llm import LlmRequest
from lash_cli.core.protocols import Clock, EffectContext, EffectExecutor, Ids
from lash_cli.core.trace import TraceContext, TraceLevel, TraceRecord, TraceSink, moment, stamped
from lash_cli.core.trace_limits import Limiter, Redact
from lash_cli.errors import EffectDiverged, LashRuntimeError
from lash_cli.runtime.cancellation import FAILURES
from lash_cli.runtime.model_calls import CallStopped
from lash_cli.runtime.trace_documents import (
    embedded,
    ended_call,
    ended_turn,
    envelope_diff,
    prompt_built,
    provider_event,
    shown_output,
    shown_request,
    stream_event,
)
from lash_cli.settings import redact as shapes
from lash_cli.system import clock_of, ids_of

if TYPE_CHECKING:
    from lash_cli.runtime.drive import Drive
    from lash_cli.runtime.session import ResidentSession

_log = logging.getLogger("lash.trace")

T = TypeVar("T")


class _Call(msgspec.Struct):
    """The model call under way in this task."""

    context: TraceContext
    started: float
    requests: int = 0
    events: int = 0


_current_call: ContextVar[_Call | None] = ContextVar("lash_trace_call", default=None)


class Tracer:
    """Turns events into records and hands them to a sink (contract 04 §9). No method but `flush` raises,
    once `let_through` was called.

    `redact` masks secrets in every text: unless given, what has the shape of a
    key or of credentials. `clock` and `ids` are those of the machine unless
    given. `context` is the host's own, under what the runtime knows. The tracer
    owns the sink and closes it.
    """

    def __init__(
        self,
        sink: TraceSink,
        *,
        clock: Clock | None = None,
        ids: Ids | None = None,
        redact: Redact | None = None,
        level: TraceLevel = TraceLevel.STANDARD,
        context: TraceContext | None = None,
    ) -> None:
        self.level = level
        self.clock = clock_of(clock)
        self._sink = sink
        self._ids = ids_of(ids)
        self._redact = redact or shapes.redact
        self._context = context or TraceContext()
        self.lost = 0  # records that the sink did not take
        self._is_strict = False

    def let_through(self) -> None:
        """Contain nothing any more of what the sink, or one behind a tee, raises: for the tests of a host (contract 05
        §3.6)."""
        from lash_cli.runtime.trace_sinks import TeeTraceSink  # needed nowhere else here

        self._is_strict = True
        if isinstance(self._sink, TeeTraceSink):
            self._sink.let_through()

    @property
    def shows_the_wire(self) -> bool:
        """Whether `provider_request` and `provider_event` record anything."""
        return self.level is TraceLevel.EXTENDED

    def emit(self, event: traced.TraceEvent, context: TraceContext | None = None) -> None:
        """Write one record, if the level admits its kind. Fields of `context` win over the host's."""
        if self.level.admits(event):
            with self.contained():
                self._sink.append(self._record(event, self._context.overlaid_by(context or TraceContext())))

    def session_opened(self, session: ResidentSession, name: str | None) -> None:
        """A session was opened; without this record its turns would hang on nothing."""
        metadata = {
            "name": name,
            "provider": session.policy.provider_id,
            "model": session.policy.model.id,
            "head_revision": session.head_revision,
            "messages": len(session.messages),
        }
        known = {key: value for key, value in metadata.items() if value is not None}
        self.emit(traced.SessionStarted(known), TraceContext(session_id=session.session_id))

    def turns_of(self, session_id: str) -> TurnTrace:
        """Traces the turns one request runs in a session."""
        return TurnTrace(self, session_id)

    def provider_request(self, provider: str, url: str, body: bytes) -> None:
        """A request goes to a provider, on behalf of the model call of the running task."""
        if not self.shows_the_wire:
            return
        with self.contained():
            call = _current_call.get() or _Call(TraceContext(), self.clock.monotonic())
            document, omitted = embedded(body)
            request = traced.ProviderRequestShown(
                provider=provider,
                sequence=call.requests,
                elapsed_ms=self.elapsed_ms(call.started),
                endpoint=_endpoint(url),
                body_len=len(body),
                body_sha256=sha256_hex(body),
                body_json=document,
                body_json_omitted_reason=omitted,
            )
            call.requests += 1
            self.emit(traced.ProviderRequest(request), call.context)

    def provider_event(self, provider: str, data: str) -> None:
        """A provider streamed an event with this data, to the model call of the running task."""
        if not self.shows_the_wire:
            return
        with self.contained():
            call = _current_call.get() or _Call(TraceContext(), self.clock.monotonic())
            streamed = provider_event(provider, data, call.events, self.elapsed_ms(call.started))
            call.events += 1
            self.emit(traced.ProviderStreamEvent(streamed), call.context)

    def elapsed_ms(self, started: float) -> int:
        """Milliseconds since a monotonic moment."""
        return round((self.clock.monotonic() - started) * 1000)

    def flush(self) -> None:
        """Make what was traced survive a power cut; raises `LashRuntimeError` (`trace_flush`) when the sink cannot."""
        try:
            self._sink.flush()
        except Exception as error:
            raise LashRuntimeError("trace_flush", f"the trace could not be flushed: {error}") from error

    def close(self) -> None:
        """Flush and close the sink; says how many records were lost, if any."""
        if self.lost > 1:
            _log.warning("%d trace records were lost", self.lost)
        with self.contained():
            self._sink.flush()
        with self.contained():
            self._sink.close()

    @contextmanager
    def contained(self) -> Iterator[None]:
        """The containment point of tracing: the first failure is a warning, the later ones are counted."""
        try:
            yield
        except FAILURES as error:
            if self._is_strict:
                raise
            self.lost += 1  # contract 04 §9: a trace never fails a turn
            level = logging.WARNING if self.lost == 1 else logging.DEBUG
            _log.log(level, "the trace is incomplete: %s: %s", type(error).__name__, error)

    def _record(self, event: traced.TraceEvent, context: TraceContext) -> TraceRecord:
        limiter = Limiter(self._redact)
        payload = msgspec.to_builtins(event, builtin_types=(bytes,))
        payload.pop("type")
        return TraceRecord(
            id=str(uuid.UUID(int=self._ids.bits(128), version=4)),
            timestamp=moment(self.clock.now_ms()),
            context=limiter.limited(to_builtins(stamped(event, context)), "context"),
            type=tag_of(event),
            payload={name: limiter.limited(value, name) for name, value in payload.items()},
            cut=limiter.cuts,
        )


class _Turn(msgspec.Struct):
    """What is known of a turn between its start and its end."""

    context: TraceContext
    started: float
    input_ids: tuple[str, ...] = ()
    batch_ids: tuple[str, ...] = ()
    errors: list[Any] = msgspec.field(default_factory=list)
    prompt: traced.PromptBuilt | None = None
    call: TraceContext | None = None
    shown: int = 0


class TurnTrace:
    """Traces the turns of one request: usually one, more when a crashed one is finished first."""

    def __init__(self, tracer: Tracer, session_id: str) -> None:
        self._tracer = tracer
        self._session_id = session_id
        self._open: dict[str, _Turn] = {}

    async def around(self, running: Coroutine[Any, Any, T]) -> T:
        """Await the request; turns it leaves open when it raises are recorded as failed."""
        try:
            return await running
        except BaseException as error:
            for turn in self._open.values():
                if isinstance(error, EffectDiverged):
                    with self._tracer.contained():
                        self._emit(turn, envelope_diff(error))
                self._emit(turn, ended_turn(None, self._tracer.elapsed_ms(turn.started), turn.errors, error))
            self._open.clear()
            raise

    def observe(self, drive: Drive, event: shown.TurnEvent) -> None:
        """Record what a turn shows."""
        with self._tracer.contained():
            self._observe(self._turn(drive), drive, event)

    def enqueued(self, drive: Drive, batch_ids: Sequence[str]) -> None:
        """Record what the commit of a turn left in the queue."""
        with self._tracer.contained():
            self._emit(self._turn(drive), traced.Custom("queued_work.enqueued", {"batch_ids": tuple(batch_ids)}))

    def noted(self, drive: Drive, name: str, payload: Any) -> None:
        """Record what a hook of tool calls has to say, or what became of it."""
        with self._tracer.contained():
            self._emit(self._turn(drive), traced.Custom(name, payload))

    async def model_call(
        self,
        drive: Drive,
        iteration: int,
        request: LlmRequest,
        envelope: EffectEnvelope,
        run: EffectExecutor,
    ) -> EffectOutcome:
        """Execute a model call and record its start and its one end. Returns and raises what `execute` does."""
        tracer = self._tracer
        turn = self._turn(drive)
        context = msgspec.structs.replace(
            turn.context,
            protocol_iteration=iteration,
            effect_id=envelope.invocation.effect_id,
            llm_call_id=request.scope.request_id,
        )
        call = _Call(context, tracer.clock.monotonic())
        turn.call = context
        with tracer.contained():
            self._prompt(turn, drive, request)
            tracer.emit(traced.LlmCallStarted(shown_request(request)), context)
        is_replayed = True

        async def watched(effect: EffectContext) -> EffectOutcome:
            nonlocal is_replayed
            is_replayed = False
            return await run(effect)

        outcome: EffectOutcome | BaseException | None = None
        mark = _current_call.set(call)
        try:
            outcome = await drive.effects.execute(envelope, watched)
            return outcome
        except BaseException as error:
            outcome = error
            raise
        finally:
            _current_call.reset(mark)
            turn.call = None
            with tracer.contained():
                result = outcome.result if isinstance(outcome, LlmCallOutcome | CallStopped) else outcome
                tracer.emit(ended_call(result, tracer.elapsed_ms(call.started), is_replayed), context)

    def _turn(self, drive: Drive) -> _Turn:
        turn = self._open.get(drive.turn_id)
        if turn is None:
            context = TraceContext(session_id=self._session_id, turn_id=drive.turn_id, turn_index=drive.turn_index)
            turn = self._open[drive.turn_id] = _Turn(context, self._tracer.clock.monotonic())
        return turn

    def _emit(self, turn: _Turn, event: traced.TraceEvent, *, iteration: int | None = None) -> None:
        context = turn.context
        if iteration is not None:
            context = msgspec.structs.replace(context, protocol_iteration=iteration)
        self._tracer.emit(event, context)

    def _observe(self, turn: _Turn, drive: Drive, event: shown.TurnEvent) -> None:
        match event:
            case shown.TurnStarted(origin=origin, input_ids=input_ids, redriven=redriven):
                metadata = {
                    "origin": origin,
                    "input_ids": input_ids,
                    "redriven": redriven,
                    "provider": drive.policy.provider_id,
                    "model": drive.policy.model.id,
                }
                self._emit(turn, traced.TurnStarted(metadata))
                self._claimed(turn, input_ids)
            case shown.QueuedInputAccepted(input_ids=input_ids):
                self._claimed(turn, input_ids)
            case shown.QueuedWorkStarted(batch_ids=batch_ids):
                turn.batch_ids = (*turn.batch_ids, *batch_ids)
                self._emit(turn, traced.Custom("queued_work.claimed", {"batch_ids": batch_ids}))
            case shown.ToolCallStarted(call_id=call_id, name=name, args=args, parent_call_id=parent):
                self._emit(turn, traced.ToolCallStarted(call_id, name, args, parent))
            case shown.ToolCallCompleted(call_id=call_id, name=name, args=args, output=output, duration_ms=took_ms):
                parent = event.parent_call_id
                self._emit(turn, traced.ToolCallCompleted(call_id, name, args, shown_output(output), took_ms, parent))
            case shown.UsageShown(protocol_iteration=iteration, usage=usage, cumulative=cumulative):
                self._emit(turn, traced.UsageCounted(usage, cumulative), iteration=iteration)
            case shown.ErrorShown(issue=issue):
                turn.errors.append(to_builtins(issue))
            case shown.Committed(revision=revision):
                if turn.input_ids:
                    payload = {"input_ids": turn.input_ids, "revision": revision}
                    self._emit(turn, traced.Custom("turn_input.completed", payload))
                if turn.batch_ids:
                    settled = {"batch_ids": turn.batch_ids, "revision": revision}
                    self._emit(turn, traced.Custom("queued_work.completed", settled))
            case shown.TurnFinished(outcome=outcome):
                self._emit(turn, ended_turn(outcome, self._tracer.elapsed_ms(turn.started), turn.errors, None))
                del self._open[drive.turn_id]
            case _ if self._tracer.level is TraceLevel.EXTENDED:
                self._stream(turn, event)

    def _claimed(self, turn: _Turn, input_ids: tuple[str, ...]) -> None:
        if input_ids:
            turn.input_ids = (*turn.input_ids, *input_ids)
            self._emit(turn, traced.Custom("turn_input.claimed", {"input_ids": input_ids}))

    def _stream(self, turn: _Turn, event: shown.TurnEvent) -> None:
        described = stream_event(event, turn.shown, self._tracer.elapsed_ms(turn.started))
        if described is not None:
            turn.shown += 1
            context = turn.call or turn.context
            if isinstance(event, shown.ToolProgress):
                context = msgspec.structs.replace(context, parent_graph_node_id=f"tool:{event.call_id}")
            self._tracer.emit(described, context)

    def _prompt(self, turn: _Turn, drive: Drive, request: LlmRequest) -> None:
        """Record what the calls of a turn share: with the first one, and again when it changed."""
        built = prompt_built(request, drive.core_prompt, drive.policy.prompt, drive.turn_prompt)
        if built != turn.prompt:
            turn.prompt = built
            self._emit(turn, built)


def _endpoint(url: str) -> str:
    """Where a request goes, without credentials and without the query: some providers put the key there."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"
