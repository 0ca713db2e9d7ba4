"""Running a turn through the public surface: build it, then `run` it or `stream` it (contract 01 §5.2, §5.3).

A queued turn is built from what waits in the queue instead of a text. All take
the session's writer lock for the whole turn. Cancelling the task that awaits a
turn cancels the turn, lets it commit, and then re-raises.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from functools import partial
from inspect import isawaitable
from typing import Any

import msgspec

from lash_cli.api.across import require_kind, require_readable
from lash_cli.core.activity import TurnActivity
from lash_cli.core.codec import reread
from lash_cli.core.content import ProtocolTurnOptions, TurnInput, options_over
from lash_cli.core.effect import MAX_WAIT_MS
from lash_cli.core.llm import JsonSchemaOutput, OutputSpec
from lash_cli.core.policy import Generation, PromptContribution, PromptLayer, PromptSection, PromptSlot
from lash_cli.core.pricing import CostLimit
from lash_cli.core.protocols import ModelCaller
from lash_cli.errors import LashRuntimeError, UsageError
from lash_cli.runtime.cancellation import CancelCause, CancelToken
from lash_cli.runtime.ending import outlast
from lash_cli.runtime.host import require_collaborators
from lash_cli.runtime.requests import DrainReason, Sink, TurnOutput, TurnRequest

STREAM_QUEUE_ITEMS = 256
OUTPUT_NAME = "answer"

TurnActivitySink = Callable[[TurnActivity], Awaitable[None]]
# How a session runs a request: under its writer lock, until the turn's commit.
RunRequest = Callable[[TurnRequest, CancelToken, Sink], Coroutine[Any, Any, TurnOutput]]


def answering(turn_input: TurnInput, output: OutputSpec | dict[str, Any]) -> TurnInput:
    """`turn_input` that also says what its answer has to be; raises `UsageError` (`schema_invalid`)."""
    from lash_cli.core.structured import with_output
    from lash_cli.runtime.structured import check_output

    wanted = JsonSchemaOutput(OUTPUT_NAME, output) if isinstance(output, dict) else output
    if not isinstance(wanted, OutputSpec):
        raise UsageError(
            f"an output is a JSON Schema or an OutputSpec, not {type(wanted).__name__}",
            hint="that of a struct is msgspec.json.schema(Struct)",
            code="schema_invalid",
        )
    check_output(wanted)
    return msgspec.structs.replace(
        turn_input, protocol_turn_options=with_output(turn_input.protocol_turn_options, wanted)
    )


def drawn(turn_input: TurnInput, generation: Generation) -> TurnInput:
    """`turn_input` that also says how its answers are drawn; raises `UsageError` for options that cannot be read."""
    from lash_cli.core.generation import with_generation

    require_kind(generation, Generation, hint="it is made by Generation(temperature=…, …)")
    try:
        options = with_generation(turn_input.protocol_turn_options, generation)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return msgspec.structs.replace(turn_input, protocol_turn_options=options)


def require_limits(
    max_turns: int | None = None,
    cost_limit: CostLimit | None = None,
    *,
    timeout_ms: int | None = None,
    busy_wait_ms: int = 0,
) -> None:
    """Raise `UsageError` for what no turn, or the wait for its lane, can be limited by. A turn that a crash cut off is
    finished under them."""
    for wait_ms in (busy_wait_ms,) if timeout_ms is None else (busy_wait_ms, timeout_ms):
        if not (isinstance(wait_ms, int | float) and 0 <= wait_ms <= MAX_WAIT_MS):
            raise UsageError(f"a time limit is a number of milliseconds from 0 to {MAX_WAIT_MS}, not {wait_ms!r}")
    if max_turns is not None and (not isinstance(max_turns, int) or max_turns < 1):
        raise UsageError("a turn needs at least one model iteration, and a whole number of them")
    if cost_limit is not None:
        require_readable(cost_limit, CostLimit, "what a turn may cost")


def _require_contributions(*given: PromptContribution) -> None:
    for contribution in given:
        require_kind(
            contribution, PromptContribution, hint="it is made by PromptContribution(slot, text)", code="prompt_invalid"
        )


class TurnActivityFanout:
    """A sink of several sinks: each gets every activity, in their order, one after the other (contract 04 §7). A slow
    one holds up those behind it and the turn; what one raises goes to the turn."""

    def __init__(self, sinks: Iterable[TurnActivitySink | Callable[[TurnActivity], object]]) -> None:
        self._sinks = tuple(sinks)

    async def __call__(self, activity: TurnActivity) -> None:
        """Hand `activity` to every sink."""
        for sink in self._sinks:
            await _handed_on(sink, activity)


async def _handed_on(sink: Callable[[TurnActivity], object], activity: TurnActivity) -> None:
    """Hand `activity` to a sink of either kind: a plain function has done with it when it returns."""
    answer = sink(activity)
    if isawaitable(answer):
        await answer


def _tell(ended: asyncio.Future[None], work: object = None) -> None:
    """Wake who waits for `ended`, unless it was told before or waits no more."""
    if not ended.done():
        try:
            ended.set_result(None)
        except RuntimeError:
            return  # its loop was closed over it: nobody can wait there any more


def _make_room(given: weakref.ref[asyncio.Semaphore]) -> None:
    """Let in whoever waits for room, unless nobody is left to wait."""
    room = given()
    if room is not None:
        room.release()


class TurnBuilder:
    """A turn that was described but not started: refine it, then `run`, `stream_to` or `stream` it, once (contract 01
    §5.2, §5.3). What refines its prompt raises `UsageError` (`prompt_invalid`) for what could not be read again.

    Whatever runs it raises, when nothing was written, `SessionExecutionBusy` while another owner holds the session,
    `PendingTurnInputSourceKeyConflict` for a key and `RuntimeTurnCommitConflict` for a turn id of another text,
    `ConfigError` for a provider that cannot be used and `LashRuntimeError` (`llm_provider`) for another one than the
    session was recorded with, `UsageError` for an attachment that is not allowed, `SessionClosed` and `SessionDeleted`.
    Later it raises `SessionExecutionLeaseExpired` when the lane was lost on the way, `StoreError`, `ambiguous` when it
    is unknown whether the turn was committed, `EffectError` when a turn that a crash cut off cannot be replayed, and
    `LashRuntimeError` (`context_prepare_turn`, `context_compact`) when a context plugin fails; that turn is finished by
    the next one. Everything else a turn meets, a failing model and a cancel among it, is an outcome of its result.
    """

    def __init__(self, run: RunRequest, request: TurnRequest) -> None:
        self._run = run
        self._request = request
        self._token = CancelToken()

    def prompt_template(self, template: tuple[PromptSection, ...] | None) -> TurnBuilder:
        """Render this turn's system prompt by another template."""
        return self._with_prompt(PromptLayer.prompt_template, template)

    def prompt_contribution(self, contribution: PromptContribution) -> TurnBuilder:
        """Add to this turn's system prompt."""
        _require_contributions(contribution)
        return self._with_prompt(PromptLayer.prompt_contribution, contribution)

    def replace_prompt_slot(self, slot: PromptSlot, *contributions: PromptContribution) -> TurnBuilder:
        """Put `contributions` in place of what core and session have under `slot`, for this turn."""
        _require_contributions(*contributions)
        return self._with_prompt(PromptLayer.replace_prompt_slot, slot, *contributions)

    def clear_prompt_slot(self, slot: PromptSlot) -> TurnBuilder:
        """Leave `slot` out of this turn's system prompt."""
        return self._with_prompt(PromptLayer.clear_prompt_slot, slot)

    def _with_prompt(self, change: Callable[..., PromptLayer], *given: object) -> TurnBuilder:
        try:
            prompt = change(self._request.prompt, *given)
            reread(prompt, PromptLayer)
        except ValueError as error:
            raise UsageError(f"that is no prompt a turn can have: {error}", code="prompt_invalid") from error
        self._request = msgspec.structs.replace(self._request, prompt=prompt)
        return self

    def protocol_turn_options(self, options: ProtocolTurnOptions) -> TurnBuilder:
        """Ask this turn with `options`, which stand over those of its input and of its frame, key by key. They are part
        of the submission that a key or a turn id names. Raises `UsageError` for the finishing of a turn, which has its
        own, and for what could not be read again (`invalid_turn_input`)."""
        given = self._request.input
        if given is None:
            raise UsageError("a turn that was cut off is finished with the options it has")
        merged = options_over(given.protocol_turn_options or ProtocolTurnOptions(), options)
        changed = TurnInput.of(msgspec.structs.replace(given, protocol_turn_options=merged))
        self._request = msgspec.structs.replace(self._request, input=changed)
        return self

    def provider(self, caller: ModelCaller) -> TurnBuilder:
        """Have `caller` make this turn's model calls, whatever provider the session is recorded with. Nothing of it is
        stored, so a turn that a crash cuts off is finished with the session's own; who gave it closes it. Raises
        `ConfigError` for what is none."""
        require_collaborators(provider=caller)
        self._request = msgspec.structs.replace(self._request, provider=caller)
        return self

    def cancel(self, *, origin: str | None = None, reason: str | None = None) -> bool:
        """Ask this turn to stop; before its start it commits as cancelled, and while another owner holds the session it
        waits no longer: nothing is written then. May be called from any thread. False when it was asked before."""
        return self._token.trip(CancelCause.LOCAL, origin=origin, reason=reason)

    async def run(self) -> TurnOutput:
        """Run to the end and return the result with every activity. When the awaiting task is cancelled, once or more
        often, the turn is cancelled, committed as that, and then the cancellation goes on."""
        activities: list[TurnActivity] = []

        async def collect(activity: TurnActivity) -> None:
            activities.append(activity)

        output = await self._told(collect)
        return msgspec.structs.replace(output, activities=tuple(activities))

    async def stream_to(self, sink: TurnActivitySink | Callable[[TurnActivity], object]) -> TurnOutput:
        """Run to the end, handing each activity to `sink` as it happens; a slow sink slows the turn. What it returns is
        awaited if it can be. Raises `UsageError` for a sink that cannot be called."""
        if not callable(sink):
            raise UsageError(f"a sink is a function of each activity, not {type(sink).__name__}")
        return await self._told(partial(_handed_on, sink))

    async def _told(self, sink: Sink) -> TurnOutput:
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        tell = partial(_tell, ended)
        work = loop.create_task(self._work(sink, tell))
        # Of a task that is cancelled before it begins nothing else tells.
        work.add_done_callback(tell)
        try:
            await ended
        except asyncio.CancelledError:
            if not work.done():
                self._token.trip(CancelCause.LOCAL, reason="task cancelled")
                await outlast(work)
            if not work.cancelled() and (failure := work.exception()) is not None:
                raise asyncio.CancelledError from failure
            raise
        try:
            return work.result()
        finally:
            # What is raised holds this frame, which would hold the task that holds it.
            del work

    async def _work(self, sink: Sink, tell: Callable[..., None]) -> TurnOutput:
        """Run the request in a task of its own, which tells of its end as the last thing it does: its callbacks are
        called a pass of the event loop later, and wake the caller in the next one. Once it has begun it has none."""
        try:
            work = asyncio.current_task()
            assert work is not None
            work.remove_done_callback(tell)
            del work  # as in `stream_to`
            return await self._run_here(sink)
        finally:
            tell()

    def _run_here(self, sink: Sink) -> Coroutine[Any, Any, TurnOutput]:
        """Run to the end in the calling task, which nobody may cancel who wants the turn to be committed."""
        return self._run(self._request, self._token, sink)

    def stream(self) -> TurnStream:
        """The turn as an async context manager that is iterated for its activities."""
        return TurnStream(self)


class QueuedTurnBuilder:
    """One pass over a session's queue that was described but not started (contract 02 §6.1). What runs it may be called
    once and raises as `TurnBuilder` says, except that a busy lane is an answer: `idle_reason` is `lane_busy`."""

    def __init__(self, run: RunRequest, request: TurnRequest) -> None:
        self._turn = TurnBuilder(run, request)
        self._idle: DrainReason | None = None

    @property
    def idle_reason(self) -> DrainReason | None:
        """Why the pass ran no turn; None before it ended and when it ran one."""
        return self._idle

    def cancel(self, *, origin: str | None = None, reason: str | None = None) -> bool:
        """Ask the turn to stop; see `TurnBuilder.cancel`."""
        return self._turn.cancel(origin=origin, reason=reason)

    async def run(self) -> TurnOutput | None:
        """Run what stands first in the queue to its end; None when there was nothing to run, or the lane was busy."""
        output = await self._turn.run()
        self._idle = output.idle
        return output if output.turns else None

    async def stream_to(self, sink: TurnActivitySink | Callable[[TurnActivity], object]) -> TurnOutput | None:
        """As `run`, handing each activity to `sink` as `TurnBuilder.stream_to` does."""
        output = await self._turn.stream_to(sink)
        self._idle = output.idle
        return output if output.turns else None

    def stream(self) -> TurnStream:
        """The pass as an async context manager that is iterated for its activities; its result is an output also when
        nothing was run, and then `idle` says why."""
        return self._turn.stream()


class TurnStream:
    """A running turn: `async with builder.stream() as stream`. Iterate it for activities, then await `result` (contract
    01 §5.3).

    Up to 256 activities wait for the reader, then the turn waits, too, unless it is to stop. A stream is entered once.

    Leaving the block early cancels the turn and waits for its commit. What the
    turn raised is raised once, where it is looked for first: at the end of the
    iteration, by `result`, or as the block is left.
    """

    def __init__(self, builder: TurnBuilder) -> None:
        self._builder = builder
        self._queue: asyncio.Queue[TurnActivity | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(STREAM_QUEUE_ITEMS)
        self._task: asyncio.Task[TurnOutput] | None = None
        self._is_draining = False
        self._is_told = False

    async def __aenter__(self) -> TurnStream:
        if self._task is not None:
            raise LashRuntimeError("turn_stream_join", "the stream was entered before; ask its turn for another one")
        self._task = asyncio.get_running_loop().create_task(self._run())
        return self

    async def _run(self) -> TurnOutput:
        loop = asyncio.get_running_loop()
        try:
            # A turn that is to stop does not wait for a reader, who may be waiting for its end. Its token is in the
            # hands of others, and holds nothing that a stream which is left behind has.
            with self._builder._token.telling(partial(_make_room, weakref.ref(self._room))):
                return await self._builder._run_here(self._put)
        finally:
            if not loop.is_closed():  # else nobody can read there any more
                await self._put(None)

    async def _put(self, activity: TurnActivity | None) -> None:
        if not self._is_draining:
            await self._room.acquire()
            if self._builder._token.is_set:
                self._room.release()  # for whoever comes next
            self._keep(activity)

    def _keep(self, activity: TurnActivity | None) -> None:
        """Hand an activity on to the reader. Without one its room goes to the next who waits for some: a tool that
        reports its progress may have any number of them waiting."""
        if self._is_draining:
            self._room.release()
        else:
            self._queue.put_nowait(activity)

    def _drain(self) -> None:
        """Stop keeping activities, and wake whoever waits for room, or for an activity."""
        self._is_draining = True
        while not self._queue.empty():
            self._queue.get_nowait()
            self._room.release()
        self._queue.put_nowait(None)

    def __aiter__(self) -> TurnStream:
        return self

    async def __anext__(self) -> TurnActivity:
        if self._is_draining:
            raise StopAsyncIteration
        if self._task is None:
            raise LashRuntimeError("turn_stream_join", "the stream was not entered; use: async with turn.stream() as …")
        activity = await self._queue.get()
        if activity is None:
            self._is_draining = True
            self._queue.put_nowait(None)  # for who else reads
            if not self._task.done():
                await asyncio.wait({self._task})
            self._raise_failure(self._task)
            raise StopAsyncIteration
        self._room.release()
        return activity

    def _raise_failure(self, task: asyncio.Task[TurnOutput]) -> None:
        """Raise what the turn raised, unless somebody was told."""
        if not self._is_told and not task.cancelled() and (failure := task.exception()) is not None:
            self._is_told = True
            raise failure

    async def result(self) -> TurnOutput:
        """The turn's output; activities not yet read are dropped. Raises what the turn raised."""
        if self._task is None:
            raise LashRuntimeError("turn_stream_join", "the stream was not entered")
        self._drain()
        self._is_told = True
        return await asyncio.shield(self._task)

    def cancel(self, *, origin: str | None = None, reason: str | None = None) -> bool:
        """Ask the running turn to stop."""
        return self._builder.cancel(origin=origin, reason=reason)

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._task is None:
            return
        interruption: asyncio.CancelledError | None = None
        if not self._task.done():
            self.cancel(reason="stream closed")
            self._drain()
            interruption = await outlast(self._task)
        if kind is not None or interruption is not None:
            self._is_told = True
            if not self._task.cancelled():
                self._task.exception()  # seen: the exception of the block goes first, and so does a cancellation
        if interruption is not None:
            raise interruption
        self._raise_failure(self._task)
