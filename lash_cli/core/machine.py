"""The sans-IO turn machine: effects out, responses in, one outcome at the end (contract 01 §6).

`poll` hands out the next effect and `respond` takes the answer of the awaited
one; the machine itself has no clock, no I/O and no randomness, so equal
answers always produce equal effects, ids included. That is what lets a killed
turn be driven again from its journal. At most one awaited effect is
outstanding; a late, foreign or mistyped answer changes nothing. Whatever
happens, the messages of `DoneEffect` are safe to resume.

The legal moves stand in `machine_table`, judgements about content in
`machine_rules`, the vocabulary in `machine_records`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, Final, Literal

from lash_cli.core.activity import (
    AssistantProseDelta,
    ErrorShown,
    FinalValueShown,
    ModelRequestStarted,
    TurnEvent,
    UsageShown,
    ValueShown,
)
from lash_cli.core.content import Message, ToolCallPart
from lash_cli.core.llm import LlmCallRecord, LlmResponse, TerminalReason
from lash_cli.core.machine_records import (
    Append,
    AwaitedEffect,
    CheckpointDelivery,
    CheckpointEffect,
    DoneEffect,
    Emit,
    EmitEffect,
    EnvironmentSynced,
    ExecCodeEffect,
    ExecCompleted,
    Finish,
    LlmCallEffect,
    LlmComplete,
    MachineConfig,
    MachineEffect,
    MachineResponse,
    ProgressEffect,
    ProtocolAction,
    ProtocolDriver,
    StartCheckpoint,
    StartExec,
    StartLlm,
    StartTools,
    SyncEnvironmentEffect,
    ToolCallsEffect,
    ToolResults,
    TurnView,
)
from lash_cli.core.machine_rules import (
    cost_limit_message,
    effective_reason,
    ordered_results,
    provider_issue,
    record_of,
    stop_of_reason,
    terminal_issue,
    tool_results_message,
    truncated_message,
    turn_limit_message,
    with_unique_call_ids,
    without_calls,
)
from lash_cli.core.machine_table import MachineEvent, MachineState, next_state
from lash_cli.core.machine_tail import TurnTail
from lash_cli.core.outcome import FinalValue, Finished, Stopped, ToolValue, TurnIssue, TurnOutcome
from lash_cli.core.pricing import CostLimit
from lash_cli.core.tools import ToolCallRecord, interrupted
from lash_cli.core.usage import NO_USAGE
from lash_cli.errors import LashRuntimeError

if TYPE_CHECKING:
    from lash_cli.core.machine_checkpoint import TurnCheckpoint

PROTOCOL_STALLED = "protocol_stalled"


class TurnMachine:
    """One turn. `opening` holds its user messages and the like, with their ids.

    Drive it so: poll until `DoneEffect`; show or record the fire-and-forget
    effects; run each awaited effect and `respond` with its id. Tool events are
    dispatch's to emit and the final `TurnFinished` is the runtime's: the
    machine emits neither.

    `finished` tells whether the outcome stands; the last effects, `DoneEffect` among them, may still wait to be polled.

    `earlier_ids` tells what ids the calls of the conversation have that the turn goes on from: no call of the turn has
    one of them.

    Raises `ValueError` when `opening` has a repeated or empty id or an open call.
    """

    def __init__(
        self,
        config: MachineConfig,
        driver: ProtocolDriver,
        opening: tuple[Message, ...],
        earlier_ids: Callable[[], AbstractSet[str]] = frozenset,
    ) -> None:
        self._config = config
        self._earlier_ids = earlier_ids
        self._driver = driver
        self.finished = False
        self._state = MachineState.PREPARING_PROTOCOL
        self._tail = TurnTail(config.turn_id, opening)
        self._queue: deque[MachineEffect] = deque()
        self._awaited: AwaitedEffect | None = None  # it stands in the queue until it is handed out
        self._last_effect_id = 0
        self._iteration = config.run_offset
        self._iterations = 0
        self._is_grace = False
        self._tools_allowed = True
        self._calls: tuple[ToolCallPart, ...] = ()  # the batch being awaited
        self._had_code_execution = False
        self._on_empty: Literal["continue"] | Finish = "continue"  # what follows the checkpoint without messages
        self._tool_calls: list[ToolCallRecord] = []
        self._llm_calls: list[LlmCallRecord] = []
        self._usage = NO_USAGE
        self._last_usage = NO_USAGE
        self._spent: int | None = 0  # of the cost limit, if there is one

    @classmethod
    def restore(
        cls,
        checkpoint: TurnCheckpoint,
        driver: ProtocolDriver,
        earlier_ids: Callable[[], AbstractSet[str]] = frozenset,
    ) -> TurnMachine:
        """The turn that `checkpoint` was taken of, under the protocol it ran under (contract 01 §6.2, §6.3).

        It goes on as that one would have: the awaited effect that was handed
        out is handed out again, under the same id and before anything else.
        `earlier_ids` is no part of a checkpoint and is given again.
        Raises `ValueError` for a checkpoint that no turn can have left.
        """
        from lash_cli.core.machine_checkpoint import awaited_of  # no turn of lash itself is ever frozen

        machine = cls(checkpoint.config, driver, (), earlier_ids)
        machine._awaited = awaited_of(checkpoint)
        machine._tail = TurnTail.restored(
            checkpoint.config.turn_id, checkpoint.messages, checkpoint.next_synthetic_message_id
        )
        machine.finished = checkpoint.state is MachineState.FINISHED
        machine._state = checkpoint.state
        machine._queue.extend(checkpoint.pending_effects)
        machine._last_effect_id = checkpoint.next_effect_id - 1
        machine._iteration = checkpoint.protocol_iteration
        machine._iterations = checkpoint.iterations
        machine._is_grace = checkpoint.is_grace
        machine._tools_allowed = checkpoint.tools_allowed
        machine._calls = machine._awaited.calls if isinstance(machine._awaited, ToolCallsEffect) else ()
        machine._had_code_execution = checkpoint.had_code_execution
        machine._on_empty = checkpoint.on_empty
        machine._tool_calls.extend(checkpoint.tool_calls)
        machine._llm_calls.extend(checkpoint.llm_calls)
        machine._usage = checkpoint.cumulative_usage
        machine._last_usage = checkpoint.last_usage
        machine._spent = checkpoint.spent
        return machine

    def checkpoint(self) -> TurnCheckpoint:
        """All that the turn has come to, for `restore`; the turn itself goes on untouched."""
        from lash_cli.core.machine_checkpoint import TurnCheckpoint

        pending: tuple[MachineEffect, ...] = tuple(self._queue)
        if self._awaited is not None and self._awaited not in self._queue:
            pending = (self._awaited, *pending)
        return TurnCheckpoint(
            self._config,
            self._state,
            self._tail.messages,
            pending,
            self._last_effect_id + 1,
            self._tail.next_number,
            self._iteration,
            self._iterations,
            self._is_grace,
            self._tools_allowed,
            self._had_code_execution,
            self._on_empty,
            tuple(self._tool_calls),
            tuple(self._llm_calls),
            self._usage,
            self._last_usage,
            self._spent,
        )

    @property
    def state(self) -> MachineState:
        """What the turn is waiting for."""
        return self._state

    @property
    def messages(self) -> tuple[Message, ...]:
        """The tail so far, opening included. While tools run it ends in unanswered calls."""
        return self._tail.messages

    def poll(self) -> MachineEffect | None:
        """The next effect, each handed out once; None while an answer is awaited and after `DoneEffect`."""
        while not self._queue:
            step = _STEPS.get(self._state)
            if step is None:
                return None
            step(self)
        return self._queue.popleft()

    def respond(self, effect_id: int, response: MachineResponse) -> bool:
        """Take the answer of the outstanding effect.

        Returns False, and changes nothing, when `effect_id` is not the effect
        now awaited or `response` is not the kind of answer it takes.
        """
        awaited = self._awaited
        if awaited is None or effect_id != awaited.effect_id or awaited in self._queue:
            return False
        kind, event, take_in = _ANSWERS[self._state]
        if not isinstance(response, kind):
            return False
        self._awaited = None
        self._state = next_state(self._state, event)
        take_in(self, response)
        return True

    def cancel(self, reason: str = "") -> None:
        """Finish as `Stopped("cancelled")` from any state; after the outcome stands it changes nothing.

        An awaited effect that was not handed out is dropped; the answer of one
        that was is ignored. Calls without a result get a cancelled one that
        names `reason`. To keep the cost of a call under way, answer it with
        the ladder's cancelled result instead: that ends the turn the same way.
        """
        if not self.finished:
            self._finish(Stopped("cancelled"), cancel_reason=reason)

    def _prepare(self) -> None:
        self._apply(self._driver.prepare(self._view()))
        if not self.finished:
            self._state = next_state(self._state, MachineEvent.PROTOCOL_PREPARED)
            self._enter_iteration(self._config.run_offset)

    def _begin_iteration(self) -> None:
        self._iterations += 1
        self._state = next_state(self._state, MachineEvent.ENVIRONMENT_REQUESTED)
        self._ask(SyncEnvironmentEffect(self._last_effect_id + 1, self._iteration))

    def _environment_answered(self, synced: EnvironmentSynced) -> None:
        if synced.error is not None:
            self._fail("reconfigure_failed", synced.error)
        else:
            self._decide(self._driver.begin_iteration(self._view()))

    def _llm_answered(self, complete: LlmComplete) -> None:
        result = complete.result
        usage = result.record.usage
        self._llm_calls.append(result.record)
        self._usage += usage
        if self._config.cost_limit is not None:
            requests = (attempt.usage for attempt in result.record.attempts)
            self._spent = self._config.cost_limit.after(self._spent, requests)
        self._emit(UsageShown(self._iteration, usage, self._usage))
        response, error = result.response, result.error
        if response is not None and error is None:
            self._judge(response, text_streamed=result.text_streamed)
        elif error is None or response is not None:
            self._fail("llm_result_invalid", "a model call must have either a response or an error")
        elif error.terminal_reason is TerminalReason.CANCELLED:
            self._finish(Stopped("cancelled"))
        else:
            self._finish(Stopped("provider_error"), (provider_issue(error, result.raw),))

    def _judge(self, response: LlmResponse, *, text_streamed: bool) -> None:
        """Terminal reasons are judged here, before any protocol sees the response (contract 06 §10)."""
        if response.usage.total:
            self._last_usage = response.usage
        if not text_streamed and (text := response.full_text):
            self._emit(AssistantProseDelta(text))
        reason = effective_reason(response, self._config.context_window_tokens)
        stop = stop_of_reason(reason)
        if stop is None:
            if response.tool_calls:
                response = self._with_sound_calls(response)
            self._decide(self._driver.model_answered(self._view(), response))
            return
        kept = truncated_message(response) if reason is TerminalReason.OUTPUT_LIMIT else None
        if kept is not None:
            self._tail.append((kept,))
        issue = terminal_issue(reason, response)
        self._finish(Stopped(stop), (issue,) if issue is not None else ())

    def _with_sound_calls(self, response: LlmResponse) -> LlmResponse:
        """The response with calls that can be run: under ids of their own, or none when none were allowed."""
        if not self._tools_allowed:
            return without_calls(response)
        taken = (self._tail.call_ids, self._earlier_ids())
        return with_unique_call_ids(response, taken, f"{self._config.turn_id}.i{self._iteration}")

    def _tools_answered(self, results: ToolResults) -> None:
        calls, self._calls = self._calls, ()
        ordered = ordered_results(calls, results.records, results.projections)
        if ordered is None:
            # Keep what is known to have happened; the rest may have happened too, and says so.
            known = {record.call_id: record for record in results.records}
            records = tuple(
                known.get(call.tool_call_id) or record_of(call, interrupted(call.tool_name)) for call in calls
            )
            self._tool_calls += records
            self._tail.append((tool_results_message(records),))
            self._fail("tool_results_mismatch", "the results of a tool batch do not answer its calls")
            return
        records, projections = ordered
        self._tool_calls += records
        self._decide(self._driver.tools_answered(self._view(), records, projections))

    def _exec_answered(self, completed: ExecCompleted) -> None:
        self._tool_calls += completed.tool_calls
        self._decide(self._driver.exec_answered(self._view(), completed))

    def _checkpoint_answered(self, delivery: CheckpointDelivery) -> None:
        fresh = self._tail.undelivered(delivery.messages) if delivery.messages else ()
        if fresh:
            if not self._tail.admits(fresh):
                self._fail("checkpoint_delivery_invalid", "a checkpoint delivered messages with open tool calls")
                return
            self._tail.append(fresh)
        if delivery.abort is not None:
            self._finish(Stopped("plugin_abort"), (delivery.abort,))
        elif not fresh and isinstance(self._on_empty, Finish):
            self._finish(self._on_empty.outcome, self._on_empty.issues)
        else:
            self._advance()

    def _decide(self, actions: Sequence[ProtocolAction]) -> None:
        """Apply a batch that must lead somewhere: into a wait, to another iteration or to the end."""
        before = self._iteration
        self._apply(actions)
        if self._awaited is None and self._iteration == before and not self.finished:
            raise LashRuntimeError(PROTOCOL_STALLED, "the turn protocol decided nothing")

    def _apply(self, actions: Sequence[ProtocolAction]) -> None:
        for action in actions:
            if self.finished:
                return
            _ACTIONS[type(action)](self, action)

    def _append(self, action: Append) -> None:
        self._state = next_state(self._state, MachineEvent.APPEND)
        self._tail.append(action.messages)

    def _start_llm(self, action: StartLlm) -> None:
        self._state = next_state(self._state, MachineEvent.LLM_REQUESTED)
        self._tools_allowed = allowed = action.tools_allowed
        self._emit(ModelRequestStarted(self._iteration))
        self._ask(LlmCallEffect(self._last_effect_id + 1, self._iteration, self._tail.messages, allowed))

    def _start_tools(self, action: StartTools) -> None:
        self._state = next_state(self._state, MachineEvent.TOOLS_REQUESTED)
        self._calls = action.calls
        self._ask(ToolCallsEffect(self._last_effect_id + 1, self._iteration, action.calls))

    def _start_exec(self, action: StartExec) -> None:
        self._state = next_state(self._state, MachineEvent.EXEC_REQUESTED)
        self._had_code_execution = True
        self._ask(ExecCodeEffect(self._last_effect_id + 1, self._iteration, action.language, action.code))

    def _start_checkpoint(self, action: StartCheckpoint) -> None:
        """Open a checkpoint, unless the turn would stop right after it: then nothing is taken in."""
        if not isinstance(action.on_empty, Finish) and not self._is_granted(self._iteration + 1):
            self._advance()
            return
        self._state = next_state(self._state, MachineEvent.CHECKPOINT_REQUESTED)
        self._on_empty = action.on_empty
        self._ask(CheckpointEffect(self._last_effect_id + 1, self._iteration, action.kind))

    def _is_beyond_limit(self, iteration: int) -> bool:
        limit = self._config.max_turns
        return limit is not None and iteration >= self._config.run_offset + limit

    def _reached_cost(self) -> CostLimit | None:
        """The cost limit, once it is reached."""
        limit = self._config.cost_limit
        return limit if limit is not None and limit.is_reached(self._spent) else None

    def _is_granted(self, iteration: int) -> bool:
        """Whether an iteration may run: within the limits, or the one grace iteration beyond that of iterations."""
        if self._reached_cost() is not None:
            return False
        return not self._is_beyond_limit(iteration) or (self._driver.has_grace and not self._is_grace)

    def _advance(self) -> None:
        self._state = next_state(self._state, MachineEvent.ITERATION_ADVANCED)
        if self._is_granted(self._iteration + 1):
            self._queue.append(ProgressEffect(self._iteration))
        self._enter_iteration(self._iteration + 1)

    def _enter_iteration(self, iteration: int) -> None:
        """Begin `iteration`, as a grace iteration if it is the first beyond the limit, or stop."""
        if (cost_limit := self._reached_cost()) is not None:
            self._tail.append((cost_limit_message(cost_limit),))
            self._finish(Stopped("max_cost"))
            return
        if self._is_beyond_limit(iteration):
            is_granted = self._is_granted(iteration)
            if not self._is_grace:
                self._tail.append((turn_limit_message(self._config.max_turns or 0, is_grace=is_granted),))
                self._is_grace = is_granted
            if not is_granted:
                self._finish(Stopped("max_turns"))
                return
        self._iteration = iteration

    def _view(self) -> TurnView:
        return TurnView(self._config.turn_id, self._iteration, self._tail.messages, self._is_grace)

    def _ask(self, effect: AwaitedEffect) -> None:
        self._awaited = effect
        self._last_effect_id = effect.effect_id
        self._queue.append(effect)

    def _emit(self, event: TurnEvent) -> None:
        self._queue.append(EmitEffect(event))

    def _fail(self, code: str, text: str) -> None:
        """End the turn for a fault of the engine: an outcome, so that its claims are settled."""
        self._finish(Stopped("runtime_error"), (TurnIssue("runtime", text, code=code, retryable=False),))

    def _finish(self, outcome: TurnOutcome, issues: Sequence[TurnIssue] = (), *, cancel_reason: str = "") -> None:
        """Close open calls, drop what was asked but not handed out, and queue progress, outcome and `DoneEffect`."""
        self._state = next_state(self._state, MachineEvent.FINISH)
        self.finished = True
        if self._awaited is not None:
            self._queue = deque(effect for effect in self._queue if effect is not self._awaited)
            self._awaited = None
        self._tool_calls += self._tail.close(cancel_reason)
        self._queue.append(ProgressEffect(self._iteration))
        for issue in issues:
            self._emit(ErrorShown(issue))
        finish = outcome.finish if isinstance(outcome, Finished) else None
        if isinstance(finish, ToolValue):
            self._emit(ValueShown(finish.tool_name, finish.value))
        elif isinstance(finish, FinalValue):
            self._emit(FinalValueShown(finish.value))
        self._queue.append(
            DoneEffect(
                outcome,
                self._tail.messages,
                tuple(issues),
                tuple(self._tool_calls),
                tuple(self._llm_calls),
                self._usage,
                self._last_usage,
                self._iterations,
                self._had_code_execution,
            )
        )


# What a turn does that waits for nothing.
_STEPS: Final[dict[MachineState, Callable[[TurnMachine], None]]] = {
    MachineState.PREPARING_PROTOCOL: TurnMachine._prepare,
    MachineState.PREPARE_ITERATION: TurnMachine._begin_iteration,
}

# What each wait takes: the kind of answer, the move it makes, and who takes it in.
_ANSWERS: Final[dict[MachineState, tuple[type[MachineResponse], MachineEvent, Callable[[TurnMachine, Any], None]]]] = {
    MachineState.WAITING_EXECUTION_ENVIRONMENT: (
        EnvironmentSynced,
        MachineEvent.ENVIRONMENT_ANSWERED,
        TurnMachine._environment_answered,
    ),
    MachineState.WAITING_LLM: (LlmComplete, MachineEvent.LLM_ANSWERED, TurnMachine._llm_answered),
    MachineState.WAITING_TOOLS: (ToolResults, MachineEvent.TOOLS_ANSWERED, TurnMachine._tools_answered),
    MachineState.WAITING_EXEC: (ExecCompleted, MachineEvent.EXEC_ANSWERED, TurnMachine._exec_answered),
    MachineState.WAITING_CHECKPOINT: (
        CheckpointDelivery,
        MachineEvent.CHECKPOINT_ANSWERED,
        TurnMachine._checkpoint_answered,
    ),
}

# What a protocol may decide.
_ACTIONS: Final[dict[type[ProtocolAction], Callable[[TurnMachine, Any], None]]] = {
    Append: TurnMachine._append,
    Emit: lambda machine, action: machine._emit(action.event),
    Finish: lambda machine, action: machine._finish(action.outcome, action.issues),
    StartLlm: TurnMachine._start_llm,
    StartTools: TurnMachine._start_tools,
    StartExec: TurnMachine._start_exec,
    StartCheckpoint: TurnMachine._start_checkpoint,
}
