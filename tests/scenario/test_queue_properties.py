"""Random lives of a session's queue, through runtime and store, against an independent oracle (contract 02 §10).

A turn is stepped by hand: each model call waits until a rule answers it, so
text, wakes, commands, cancels, claims of a host, crashes, take-overs and late
owners can come at every boundary. After each step the store must say exactly
what the oracle says.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.clock import ManualClock
from support.drive_oracle import Boundary, Goal, Input, Oracle, Reached, Row, Work
from support.driving import Crash, S, later_wake, said, unseen, wake
from support.made_files import lay
from support.scripted import SteppedCaller, calls, text

from lash_cli.api import (
    ActiveTurn,
    ByInputId,
    FunctionToolProvider,
    LashCore,
    LashSession,
    ModelSpec,
    NextTurn,
    RefreshToolCatalog,
    ResetSession,
    SessionQueue,
    SessionSpec,
    SqliteStore,
    Stopped,
    TurnInput,
    TurnOutput,
    tool,
)
from lash_cli.core.commit import Checkpoint, RuntimeCommit, Unchanged
from lash_cli.core.content import is_safe_to_resume
from lash_cli.core.graph import ConversationPayload
from lash_cli.core.ingress import InputState, SuffixOutcomes, TurnInputClaim, completion_of
from lash_cli.core.lease import LeaseFence, LeaseOwnerIdentity
from lash_cli.core.llm import LlmRequest
from lash_cli.core.queued_work import BatchState, QueuedWorkClaim, command_draft, work_completion_of
from lash_cli.core.tools import SafeRetry
from lash_cli.errors import (
    QueuedWorkClaimSuperseded,
    SessionExecutionBusy,
    SessionExecutionLeaseExpired,
    TurnInputClaimSuperseded,
)
from lash_cli.runtime.cancellation import CancelToken
from lash_cli.runtime.requests import TurnRequest
from lash_cli.store.base import DrainSelection, ReadScope
from lash_cli.system import SystemIds

T = TypeVar("T")
PAST_THE_LEASE_S = 31
HOST = LeaseOwnerIdentity("host", "1")
CRASHES = (
    "before:checkpoint_claimed",
    "after:checkpoint_claimed",
    "after:checkpoint_recorded",
    "before:commit",
    "after:commit",
)
INPUT_STATES = {
    "pending": {InputState.PENDING_ACTIVE, InputState.DEFERRED_NEXT_TURN},
    "done": {InputState.COMPLETED},
    "cancelled": {InputState.CANCELLED},
}
BATCH_STATES = {"pending": BatchState.PENDING, "done": BatchState.COMPLETED, "cancelled": BatchState.CANCELLED}

boundaries = st.sampled_from(("after_work", "before_completion"))
picks = st.integers(0, 9)
ticks = st.sampled_from((0.0, 0.001))
crashes = st.none() | st.sampled_from(CRASHES)
arrivals = st.sampled_from((None, None, "text", "wake"))


class Empty(msgspec.Struct):
    """No arguments."""


@tool(name="noop", retry=SafeRetry(2, 0, 0))
async def noop(args: Empty, context: Any) -> str:
    """Does nothing, and may be repeated."""
    return "done"


class AskedCaller(SteppedCaller):
    """Knows what was said in the call that waits."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    async def call(self, request: LlmRequest, *, sink: Any, cancel: Any) -> Any:
        self.asked = said(request.messages)
        return await super().call(request, sink=sink, cancel=cancel)


class Process:
    """One core with one handle, its caller, and the drive under way in it."""

    def __init__(self, store: SqliteStore, clock: ManualClock) -> None:
        self.caller = AskedCaller()
        self.armed: str | None = None
        self.core = LashCore(
            provider=self.caller,
            model=ModelSpec("m"),
            store=store,
            tools=[FunctionToolProvider([noop])],
            clock=clock,
            crash_point=self._reach,
            queue_driver="none",
        )
        self.session: LashSession | None = None
        self.drive: asyncio.Task[TurnOutput] | None = None
        self.goal = Goal()

    def _reach(self, point: str) -> None:
        if point == self.armed:
            self.armed = None
            raise Crash(point)


class QueueLife(RuleBasedStateMachine):
    """One session, the process that serves it, one that lost its lane, and a host that claims by hand."""

    @initialize()
    def begin(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name) / "lash.db"
        self.loop = asyncio.new_event_loop()
        self.clock = ManualClock()
        self.oracle = Oracle()
        self.count = 0
        self.alive: list[Process] = []
        self.late: Process | None = None
        self.fence: LeaseFence | None = None
        self.claims: list[tuple[TurnInputClaim | QueuedWorkClaim, list[Row]]] = []
        self.store = self._store()
        self.queue = SessionQueue(self.store, self.clock, SystemIds(), S)
        self._serve()
        self._drive(Goal(text="begin"), None)
        self._answer("begun", None)

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        for process in list(self.alive):
            self._end(process)
        self._do(self.store.aclose())
        self.loop.close()
        self.directory.cleanup()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def _store(self) -> SqliteStore:
        return SqliteStore.open(lay(self.path), clock=self.clock, ids=SystemIds(), synchronous="normal")

    def _serve(self) -> None:
        self.process = Process(self._store(), self.clock)
        self.alive.append(self.process)
        self.process.session = self._do(self.process.core.open_session(S, spec=SessionSpec(inherit="stored")))

    def _end(self, process: Process) -> None:
        """Nothing of a process runs on; what it had handed to the store is written, and its lane is free."""
        if process.drive is not None:
            process.drive.cancel()
            self._do(asyncio.wait({process.drive}))
            process.drive = None
        self._do(process.core.aclose())
        self.alive.remove(process)

    def _name(self, kind: str) -> str:
        self.count += 1
        return f"{kind} {self.count}"

    async def _until_paused(self, process: Process) -> None:
        """Let a drive go on until a model call waits or it is over."""
        assert process.drive is not None
        parked = asyncio.ensure_future(process.caller.parked.wait())
        await asyncio.wait({process.drive, parked}, return_when=asyncio.FIRST_COMPLETED)
        parked.cancel()

    def _drive(self, goal: Goal, crash: str | None) -> None:
        """Start a request in the serving process and follow it to its first pause."""
        session = self.process.session
        assert session is not None
        request = TurnRequest(None if goal.text is None else TurnInput.text(goal.text))
        if goal.is_drain:
            request = TurnRequest(None, drain=DrainSelection(batch_ids=tuple(row.row_id for row in goal.named)))
        self.process.goal = goal
        # Not through a builder: a task of its own that is cancelled stands for a process that dies.
        self.process.drive = self.loop.create_task(session._run(request, CancelToken(), unseen))
        self._compare(self.oracle.drive(goal, crash), crash)

    def _answer(self, words: str | None, crash: str | None) -> None:
        """Answer the waiting call; a turn that ends so leads on to what the request still wants."""
        reached = self.oracle.answer(words, crash)
        if reached == "committed":
            goal = self.process.goal
            reached = self.oracle.drive(goal, crash) if goal.goes_on else "over"
        self._reply(self.process, words)
        self._compare(reached, crash)

    def _reply(self, process: Process, words: str | None) -> None:
        assert process.caller.reply is not None
        process.caller.parked.clear()
        process.caller.reply.set_result(text(words) if words else calls((self._name("call"), "noop", "{}")))

    def _compare(self, expected: Reached, crash: str | None) -> None:
        """Run the real drive to its next pause and hold it against what the oracle expects."""
        process = self.process
        process.armed = crash
        self._do(self._until_paused(process))
        process.armed = None
        drive = process.drive
        assert drive is not None
        self._name_rows()
        if not drive.done():
            assert expected == "call"
            running = self._do(process.core.running_turn(S))
            turn = self.oracle.running
            assert running is not None and turn.turn_id in ("", running.turn_id), "a turn keeps its id"
            turn.turn_id = running.turn_id
            assert process.caller.asked == [*self.oracle.transcript, *turn.tail]
            return
        process.drive = None
        error = drive.exception()
        if error is not None:
            assert isinstance(error, Crash) and expected == "crashed", error
            unfinished = self._do(process.core.running_turn(S))
            if self.oracle.turn is not None and unfinished is not None:
                self.oracle.turn.turn_id = unfinished.turn_id
            self._end(process)
            self._serve()
            return
        output = drive.result()
        assert expected == "over", (expected, output)
        assert (output.idle, len(output.commands)) == (process.goal.idle, process.goal.commands)

    def _name_rows(self) -> None:
        """Typed text is an input row too; its id is the only thing taken from the store."""
        rows = self._do(self.store.inputs(S, pending_only=False))
        for known, row in zip(self.oracle.inputs, rows, strict=True):
            assert known.row_id in ("", row.input_id)
            known.row_id = row.input_id

    @rule(tick=ticks)
    def text_for_the_next_turn(self, tick: float) -> None:
        self.clock.tick(tick)
        words = self._name("next")
        row = self._do(self.queue.enqueue(words, ingress=NextTurn()))
        self.oracle.inputs.append(Input(row.input_id, words, self.clock.now_ms()))

    @rule(boundary=boundaries, is_misaddressed=st.booleans(), tick=ticks)
    def text_for_a_running_turn(self, boundary: Boundary, is_misaddressed: bool, tick: float) -> None:
        self.clock.tick(tick)
        words = self._name("active")
        turn = self.oracle.turn
        turn_id = "t_other" if turn is None or is_misaddressed else turn.turn_id
        row = self._do(self.queue.enqueue(words, ingress=ActiveTurn(turn_id, boundary)))
        self.oracle.inputs.append(Input(row.input_id, words, self.clock.now_ms(), turn_id=turn_id, boundary=boundary))

    @rule(is_later=st.booleans(), tick=ticks)
    def a_wake(self, is_later: bool, tick: float) -> None:
        self.clock.tick(tick)
        process_id = self._name("p").replace(" ", "")
        receipt = self._do(self.queue.enqueue_work(later_wake(1, process_id) if is_later else wake(1, process_id)))
        words = f"Background process wake\nprocess: {process_id}\nevent: done #1\ninput: 1"
        kind = "later" if is_later else "wake"
        self.oracle.work.append(Work(receipt.batch_id, words, self.clock.now_ms(), kind=kind))

    @rule(is_reset=st.booleans(), tick=ticks)
    def a_command(self, is_reset: bool, tick: float) -> None:
        self.clock.tick(tick)
        name = self._name("command")
        command = ResetSession(name) if is_reset else RefreshToolCatalog(name)
        receipt = self._do(self.queue.enqueue_work(command_draft(S, command, name)))
        kind = "reset" if is_reset else "refresh"
        self.oracle.work.append(Work(receipt.batch_id, "", self.clock.now_ms(), kind=kind))

    def _arrive(self, what: str | None) -> None:
        """Something comes in right before a step: what is interesting happens at the boundaries."""
        if what == "text":
            self.text_for_a_running_turn("after_work", False, 0.001)
        elif what == "wake":
            self.a_wake(False, 0.001)

    @precondition(lambda self: not self.oracle.is_busy)
    @rule(arrives=arrivals, crash=crashes)
    def a_turn_of_a_person(self, arrives: str | None, crash: str | None) -> None:
        self._arrive(arrives)
        self._drive(Goal(text=self._name("typed")), crash)

    @precondition(lambda self: not self.oracle.is_busy)
    @rule(arrives=arrivals, crash=crashes)
    def a_pass_over_the_queue(self, arrives: str | None, crash: str | None) -> None:
        self._arrive(arrives)
        self._drive(Goal(is_drain=True), crash)

    @precondition(lambda self: not self.oracle.is_busy and any(not row.is_command for row in self.oracle.work))
    @rule(pick=picks, crash=crashes)
    def a_pass_over_a_named_batch(self, pick: int, crash: str | None) -> None:
        rows = [row for row in self.oracle.work if not row.is_command]
        self._drive(Goal(is_drain=True, named=(rows[pick % len(rows)],)), crash)

    @precondition(lambda self: not self.oracle.is_busy)
    @rule(arrives=arrivals, crash=crashes)
    def a_redrive(self, arrives: str | None, crash: str | None) -> None:
        self._arrive(arrives)
        self._drive(Goal(), crash)

    @precondition(lambda self: self.oracle.is_driving)
    @rule(is_text=st.booleans(), arrives=arrivals, crash=crashes)
    def the_model_answers(self, is_text: bool, arrives: str | None, crash: str | None) -> None:
        """In words, or with a call."""
        self._arrive(arrives)
        self._answer(self._name("answer") if is_text else None, crash)

    @precondition(lambda self: self.oracle.is_driving)
    @rule()
    def the_process_dies_in_mid_call(self) -> None:
        self._end(self.process)
        self.oracle.is_driving = False
        self._serve()

    @precondition(lambda self: self.oracle.is_driving)
    @rule()
    def the_turn_is_cancelled(self) -> None:
        """A local cancel stays set: what the request still wanted is begun and cancelled at once."""
        session, drive, goal = self.process.session, self.process.drive, self.process.goal
        assert session is not None and drive is not None
        self.oracle.commit()
        if goal.goes_on and self.oracle.drive(goal) == "call":
            self.oracle.commit()
        assert session.cancel_running_turns() == 1
        output = self._do(drive)
        self.process.drive = None
        self._name_rows()
        assert output.turns[-1].outcome == Stopped("cancelled")
        assert (output.idle, len(output.commands)) == (goal.idle, goal.commands)

    @precondition(lambda self: self.oracle.turn is not None and not self.oracle.is_driving)
    @rule()
    def a_cut_off_turn_is_cancelled_from_afar(self) -> None:
        self._do(self.process.core.request_turn_cancel(S))
        self.oracle.running.is_cancelled = True

    @precondition(lambda self: self.oracle.is_busy)
    @rule()
    def somebody_else_comes_to_a_busy_lane(self) -> None:
        visitor = self._do(self.process.core.open_session(S, spec=SessionSpec(inherit="stored")))
        builder = visitor.queued_turn()
        assert self._do(builder.run()) is None
        assert builder.idle_reason == ("held" if self.oracle.is_held else "lane_busy")
        with pytest.raises(SessionExecutionBusy):
            self._do(visitor.turn("now").run())
        visitor.close_handle()

    @precondition(lambda self: self.oracle.is_driving and self.late is None)
    @rule()
    def the_process_stalls_beyond_its_lease(self) -> None:
        self.late = self.process
        self.clock.tick(PAST_THE_LEASE_S)
        self.oracle.is_driving = False
        self._serve()

    @precondition(lambda self: self.late is not None)
    @rule(is_text=st.booleans())
    def the_late_process_goes_on(self, is_text: bool) -> None:
        """Whatever it still does, it does under a dead fence.

        One that heard of the request which ended its turn elsewhere asks for the
        very commit that stands, and is answered with it (contract 01 §9.2 step 2).
        """
        late, self.late = self.late, None
        assert late is not None and late.drive is not None
        self._reply(late, "too late" if is_text else None)
        try:
            output = self._do(late.drive)
        except SessionExecutionLeaseExpired:
            pass
        else:
            told = output.turns[-1]
            stands = self._do(self.store.turn(S, told.turn_id))
            assert told.outcome == Stopped("cancelled") and stands is not None and stands.state == "committed"
            assert stands.summary is not None and stands.summary.cancellation == told.cancellation is not None
        late.drive = None
        self._end(late)

    @precondition(lambda self: not self.oracle.is_busy)
    @rule()
    def a_host_takes_the_lane(self) -> None:
        lease = self._do(self.store.try_claim_lease(S, HOST, ttl_ms=600_000, token=self._name("lease")))
        self.fence = lease.fence()
        self.oracle.host_generation = lease.fencing_token

    @precondition(lambda self: self.fence is not None)
    @rule(what=st.sampled_from(("inputs", "work", "command")))
    def a_host_claims(self, what: Any) -> None:
        assert self.fence is not None
        token = self._name("token")
        claiming = {
            "inputs": lambda fence: self.store.claim_next_turn_inputs(fence, claim_token=token),
            "work": lambda fence: self.store.claim_ready_queued_work(fence, "idle", claim_token=token),
            "command": lambda fence: self.store.claim_leading_session_command(fence, claim_token=token),
        }[what]
        if self.oracle.host_generation is None:
            # Misaligned: the lane was given back, so its fence claims nothing, whatever waits.
            rows = self.oracle.claimable(what)
            if rows:
                with pytest.raises(SessionExecutionLeaseExpired):
                    self._do(claiming(self.fence))
            return
        claim = self._do(claiming(self.fence))
        rows = self.oracle.claimable(what)
        assert (claim is None) == (rows == [])
        if claim is not None:
            taken = claim.inputs if isinstance(claim, TurnInputClaim) else claim.batches
            ids = [getattr(row, "input_id", None) or row.batch_id for row in taken]
            assert ids == [row.row_id for row in rows]
            self.oracle.claim(rows, claim.claim_id)
            self.claims.append((claim, rows))

    @precondition(lambda self: self.claims)
    @rule(pick=picks)
    def a_host_commits(self, pick: int) -> None:
        """Under its own lane, or under one it gave back; its own claim, or one that somebody took over."""
        assert self.fence is not None
        claim, rows = self.claims.pop(pick % len(self.claims))
        work = self._do(self._commit(self.fence, claim))
        if self.oracle.host_generation is None:
            assert work is SessionExecutionLeaseExpired
        elif self.oracle.owns(claim.claim_id, rows):
            assert work is None
            for row in rows:
                row.state = "done"
        else:
            assert work in (TurnInputClaimSuperseded, QueuedWorkClaimSuperseded)

    async def _commit(self, fence: LeaseFence, claim: TurnInputClaim | QueuedWorkClaim) -> type[Exception] | None:
        read = await self.store.load_session(S, ReadScope.HEAD)
        assert read is not None
        commit = RuntimeCommit(
            session_id=S,
            fence=fence,
            config=read.config,
            graph=Unchanged(read.leaf_node_id),
            checkpoint=Checkpoint(read.turn_state),
            now_ms=self.clock.now_ms(),
            expected_head_revision=read.head_revision,
            completed_inputs=(completion_of(claim),) if isinstance(claim, TurnInputClaim) else (),
            completed_work=(work_completion_of(claim),) if isinstance(claim, QueuedWorkClaim) else (),
        )
        try:
            await self.store.commit_runtime_state(commit)
        except (SessionExecutionLeaseExpired, TurnInputClaimSuperseded, QueuedWorkClaimSuperseded) as error:
            return type(error)
        return None

    @precondition(lambda self: self.claims)
    @rule(pick=picks)
    def a_host_gives_a_claim_back(self, pick: int) -> None:
        claim, rows = self.claims.pop(pick % len(self.claims))
        owned = [row for row in rows if self.oracle.owns(claim.claim_id, [row])]
        if isinstance(claim, TurnInputClaim):
            ids = self._do(self.queue.abandon_inputs(claim))
        else:
            ids = self._do(self.queue.abandon_work(claim))
        assert sorted(ids) == sorted(row.row_id for row in owned)
        for row in owned:
            row.claim_id = row.generation = None

    @precondition(lambda self: self.oracle.host_generation is not None)
    @rule()
    def a_host_gives_the_lane_back(self) -> None:
        assert self.fence is not None
        assert self._do(self.store.release_lease(self.fence))
        self.oracle.host_generation = None

    @precondition(lambda self: self.oracle.inputs)
    @rule(pick=picks)
    def an_input_is_cancelled(self, pick: int) -> None:
        row = self.oracle.inputs[pick % len(self.oracle.inputs)]
        outcome = self._do(self.queue.cancel_input(row.row_id))
        assert outcome.__struct_config__.tag == self.oracle.cancel(row)

    @precondition(lambda self: self.oracle.inputs)
    @rule(pick=picks)
    def a_suffix_is_cancelled(self, pick: int) -> None:
        at = pick % len(self.oracle.inputs)
        anchor = ByInputId(self.oracle.inputs[at].row_id)
        outcome = self._do(self.queue.cancel_suffix(anchor))
        assert isinstance(outcome, SuffixOutcomes)
        told = [one.__struct_config__.tag for one in outcome.outcomes]
        assert told == [self.oracle.cancel(row) for row in self.oracle.inputs[at:]]

    @precondition(lambda self: self.oracle.work)
    @rule(pick=picks)
    def a_batch_is_cancelled(self, pick: int) -> None:
        row = self.oracle.work[pick % len(self.oracle.work)]
        was_open = self.oracle.is_open(row)
        assert (self._do(self.queue.cancel_batch(row.row_id)) is not None) == was_open
        if was_open:
            row.state = "cancelled"

    @rule(is_held=st.booleans())
    def the_queue_is_held_or_released(self, is_held: bool) -> None:
        changed = self._do(self.queue.hold("why") if is_held else self.queue.release())
        assert changed == (is_held != self.oracle.is_held)
        self.oracle.is_held = is_held

    @invariant()
    def the_queue_is_what_the_oracle_says(self) -> None:
        if not hasattr(self, "store"):
            return
        oracle = self.oracle
        pending = self._do(self.queue.pending_inputs())
        assert [row.input_id for row in pending] == [row.row_id for row in oracle.open_inputs()]
        addressed = [row.ingress.turn_id if isinstance(row.ingress, ActiveTurn) else None for row in pending]
        assert addressed == [row.turn_id for row in oracle.open_inputs()]
        batches = self._do(self.queue.pending_batches())
        assert [row.batch_id for row in batches] == [row.row_id for row in oracle.open_work()]
        rows = {row.input_id: row.state for row in self._do(self.store.inputs(S, pending_only=False))}
        for known in oracle.inputs:
            assert rows[known.row_id] in INPUT_STATES[known.state]
        for known in oracle.work:
            batch = self._do(self.store.queued_work_batch(S, known.row_id))
            assert batch is not None and batch.state is BATCH_STATES[known.state]

    @invariant()
    def a_look_never_misses_what_waits(self) -> None:
        if not hasattr(self, "store"):
            return
        demand = self._do(self.store.demand(S))
        waits = bool(self.oracle.next_inputs() or self.oracle.open_work())
        if waits or not self.oracle.open_inputs():
            assert demand.has_claimable == waits
        turn = self.oracle.turn
        assert demand.unfinished_turn_id == (None if turn is None else turn.turn_id)
        assert demand.is_held == self.oracle.is_held

    @invariant()
    def the_transcript_says_everything_once(self) -> None:
        if not hasattr(self, "store"):
            return
        read = self._do(self.store.load_session(S, ReadScope.ACTIVE_PATH))
        nodes = [] if read is None else read.nodes
        messages = [node.payload.message for node in nodes if isinstance(node.payload, ConversationPayload)]
        assert said(messages) == self.oracle.transcript
        assert is_safe_to_resume(messages)


TestQueueLife = QueueLife.TestCase
TestQueueLife.settings = settings(
    max_examples=24, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
