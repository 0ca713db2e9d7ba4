"""`LashSession`: a handle on one session (contract 01 §4).

All handles of one opened session share a runtime behind one lock: a turn holds
it from start to end, so turns of clones queue up behind one another. Reads use
the last committed state and never wait. Two handles *opened* separately are
two owners of the lane, and the second one finds it busy.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from functools import cache, partial
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from lash_cli.api.across import require_kind
from lash_cli.api.shared import SharedSession, Within
from lash_cli.api.turns import TurnActivitySink, TurnBuilder, answering, drawn, require_limits
from lash_cli.api.verbs import QueueVerbs
from lash_cli.core.content import TurnInput
from lash_cli.core.ids import require_named
from lash_cli.core.lease import LeaseFence, LeaseOwnerIdentity
from lash_cli.core.llm import OutputSpec
from lash_cli.core.outcome import TurnAddress, TurnCancelReceipt
from lash_cli.core.policy import SessionConfigPatch, SessionPolicy
from lash_cli.core.pricing import CostLimit
from lash_cli.core.protocols import EffectHost
from lash_cli.core.usage import SessionUsageReport, TokenLedgerEntry, TokenUsage
from lash_cli.errors import (
    DirectCompletionError,
    LashError,
    LashRuntimeError,
    SessionClosed,
    SessionDeleted,
    SessionStillInUse,
)
from lash_cli.runtime.cancellation import CancelToken
from lash_cli.runtime.ending import seen_through
from lash_cli.runtime.lane import borrowed_lane
from lash_cli.runtime.requests import TurnOutput, TurnRequest
from lash_cli.runtime.session import Dirty, ResidentSession, Undo, is_refused
from lash_cli.runtime.state import RuntimeSessionState, SessionReadView
from lash_cli.store.base import DrainSelection, RuntimePersistence

if TYPE_CHECKING:
    from lash_cli.api.admin import SessionAdmin
    from lash_cli.api.core import LashCore, ParkedSession
    from lash_cli.api.observable import ObservableSession
    from lash_cli.api.tools import ToolAdmin
    from lash_cli.core.direct import DirectLlmCompletion, DirectRequest
    from lash_cli.core.policy import Generation
    from lash_cli.runtime.host import ProviderStatus, RuntimeHost
    from lash_cli.runtime.phases import TurnPhaseProbe

    RunTurn = Callable[
        [RuntimeHost, ResidentSession, LeaseOwnerIdentity, TurnRequest, CancelToken, TurnActivitySink],
        Awaitable[TurnOutput],
    ]

_log = logging.getLogger("lash.session")

DIRECT_SOURCE = "direct"
T = TypeVar("T")


@cache
def _turn_runner() -> RunTurn:
    """`run_turn`, imported at the first turn: who only looks at a session drives nothing. An import costs a turn more
    than a microsecond however often it was made before."""
    from lash_cli.runtime.turns import run_turn

    return run_turn


def _as_it_is(state: ResidentSession) -> Undo:
    """A change that only writes what memory holds already."""
    return lambda: None


class LashSession(QueueVerbs):
    """One handle on an opened session, from `LashCore.open_session` (contract 01 §4; its queue: contract 02).

    Use it as an async context manager: leaving closes the handle, and the session with the last one; where that is
    refused it raises as `close`, unless an error ends the block, which is then the one to be told. What reads, turns
    or changes it raises `SessionClosed` once the handle is closed. What waits for the session's writer lock raises
    `LashRuntimeError`: `session_in_another_loop` while another event loop uses the session, `session_in_turn` for
    what is called from inside of a turn of it.
    """

    def __init__(
        self, core: LashCore, shared: SharedSession, *, parent_session_id: str | None = None, name: str | None = None
    ) -> None:
        self._core = core
        self._shared = shared
        self._is_closed = False
        self.parent_session_id = parent_session_id
        self.name = name

    @property
    def _state(self) -> ResidentSession:
        self._check_open()
        return self._shared.state

    def _check_open(self) -> None:
        if self._is_closed or self._shared.is_gone:
            session_id = self._shared.state.session_id
            raise SessionClosed(
                f"this handle of session {session_id} is closed",
                hint="open the session again with: LashCore.open_session",
                details={"session": session_id},
            )

    @property
    def session_id(self) -> str:
        """The session's id; it never changes."""
        return self._shared.state.session_id

    @property
    def policy_snapshot(self) -> SessionPolicy:
        """The effective policy."""
        return self._state.policy

    @property
    def effect_host(self) -> EffectHost:
        """The effect host shared by the whole core."""
        return self._core.host.effects

    def provider_status(self) -> ProviderStatus:
        """Whether the provider the session is recorded with is the one that is wired, and configured: what the next
        turn would find."""
        from lash_cli.runtime.host import provider_status

        return provider_status(self._shared.host.providers, self._state.policy.provider_id)

    def read_view(self) -> SessionReadView:
        """A picture of the committed transcript as this handle knows it; cheap, and immune to later turns. What others
        committed since is in it after a `refresh`, or a turn."""
        return self._state.read_view()

    def usage_report(self) -> SessionUsageReport:
        """What the session has cost."""
        return self._state.usage_report()

    def export_state(self) -> RuntimeSessionState:
        """What memory holds of the state, for `open_with_state`; see `SessionAdmin.export_persistence_state`."""
        return self._state.export_state()

    def tools(self) -> ToolAdmin:
        """The tool surface."""
        from lash_cli.api.tools import ToolAdmin

        self._check_open()
        return ToolAdmin(self)

    def admin(self) -> SessionAdmin:
        """What changes the history of the session: moving its head, forking it, compacting its context."""
        from lash_cli.api.admin import SessionAdmin

        self._check_open()
        return SessionAdmin(self)

    def observe(self) -> ObservableSession:
        """A read-only handle for watching; it outlives this one. Without a store there is nothing left to see once
        the last handle of the session is closed."""
        return self._core._observable(self.session_id, self._state.policy, self._state.log)

    async def set_turn_phase_probe(self, probe: TurnPhaseProbe | None) -> None:
        """Have `probe` told about the phases of every later turn of this session; waits for a running one."""
        async with self._shared.lock:
            self._state.phase_probe = probe

    def turn(
        self,
        turn_input: TurnInput | str,
        *,
        turn_id: str | None = None,
        key: str | None = None,
        max_turns: int | None = None,
        busy_wait_ms: int = 0,
        timeout_ms: int | None = None,
        output: OutputSpec | dict[str, Any] | None = None,
        cost_limit: CostLimit | None = None,
        generation: Generation | None = None,
    ) -> TurnBuilder:
        """Describe a turn. `key` makes the submission idempotent: asked again, it answers the first result.

        `turn_id` is a new one unless given; one that was used answers as a key
        does. `max_turns` limits its model iterations, `cost_limit` what they
        cost together. `busy_wait_ms` is how long another holder of the lane is
        waited for, not at all unless given; `timeout_ms` cancels the turn when
        it takes longer. With `output`, a JSON Schema or a
        whole `OutputSpec`, the turn finishes with a value that fits it
        (`FinalValue`) or stops with the issue `invalid_structured_output`.
        `generation` is laid over that of the session, for this turn.
        Raises `UsageError` for a blank turn id, a key that is no printable text
        (`invalid_key`), a limit that is none, a schema that cannot be used
        (`schema_invalid`), an input that cannot be read (`invalid_turn_input`,
        `prompt_not_utf8`) or its options, and `LashRuntimeError`
        (`execution_scope_turn_id_mismatch`) for an input that names another turn.
        """
        self._check_open()
        require_named("a turn id", turn_id)
        if key is not None:
            from lash_cli.api.queue import require_key

            require_key(key)
        require_limits(max_turns, cost_limit, timeout_ms=timeout_ms, busy_wait_ms=busy_wait_ms)
        content = TurnInput.of(turn_input)
        if output is not None:
            content = answering(content, output)
        if generation is not None:
            content = drawn(content, generation)
        if turn_id is None:
            turn_id = content.trace_turn_id
        elif content.trace_turn_id is not None and content.trace_turn_id != turn_id:
            raise LashRuntimeError(
                "execution_scope_turn_id_mismatch",
                f"the input names turn {content.trace_turn_id!r}, the call {turn_id!r}",
            )
        request = TurnRequest(
            content, turn_id, key, max_turns, busy_wait_ms=busy_wait_ms, timeout_ms=timeout_ms, cost_limit=cost_limit
        )
        return TurnBuilder(self._run, request)

    def redrive(self, *, busy_wait_ms: int = 0) -> TurnBuilder:
        """Describe finishing a turn that a crash cut off; its output has no result when there is none."""
        self._check_open()
        require_limits(busy_wait_ms=busy_wait_ms)
        return TurnBuilder(self._run, TurnRequest(None, busy_wait_ms=busy_wait_ms))

    async def drain_once(self, sink: TurnActivitySink) -> TurnOutput:
        """One pass over the queue in the caller's task, with its reason when nothing was run; for drivers.

        Unlike a builder's, a pass whose task is cancelled commits nothing: its
        turn is left to whoever takes the lane next.
        """
        return await self._run(TurnRequest(None, drain=DrainSelection()), CancelToken(), sink)

    async def _run(self, request: TurnRequest, token: CancelToken, sink: TurnActivitySink) -> TurnOutput:
        self._check_open()
        shared = self._shared
        try:
            with shared.in_use(token):
                async with shared.lock:
                    state = self._state
                    with Within(shared):
                        output = await self._core._beside_driver(
                            self.session_id,
                            partial(_turn_runner(), shared.host, state, shared.owner, request, token, sink),
                        )
        except LashError as error:
            error.happened_in(self.session_id)
            raise
        if output.has_waiting:
            self._wake("turn_completed")
        return output

    def _wake(self, reason: str) -> None:
        if self._shared.notify is not None:
            self._shared.notify(self.session_id, reason)

    def cancel_running_turns(self, *, origin: str | None = None, reason: str | None = None) -> int:
        """Stop every turn started through this opened session and its clones, from any thread; returns how many were
        running.

        Each commits as cancelled and the session stays usable. Turns of other
        handles or processes are not reached: see `request_turn_cancel`.
        """
        self._shared.forget_closed_loop()
        return self._shared.cancels.cancel_all(origin=origin, reason=reason)

    async def request_turn_cancel(
        self, turn_id: str, request_id: str, *, origin: str | None = None, reason: str | None = None
    ) -> TurnCancelReceipt:
        """Ask durably for one turn to stop, wherever it runs (contract 01 §6.6)."""
        self._check_open()
        return await self._core.request_turn_cancel(
            self.session_id, turn_id=turn_id, request_id=request_id, origin=origin, reason=reason
        )

    def address(self, turn_id: str) -> TurnAddress:
        """The address of one of this session's turns."""
        return TurnAddress(self.session_id, turn_id)

    async def direct_completion(self, request: DirectRequest) -> DirectLlmCompletion:
        """One model call beside the session's turns, with its provider and model; the transcript stays as it is.

        What it cost is booked to `caused_by` and committed before the call
        returns, or raises: failed attempts cost too. While another owner holds
        the lane, and within a turn of the session itself, it is only noted and
        goes along with the next commit of this session, which is that of the
        turn, or at the latest `close`. An answer that comes when the session is
        closed is told all the same, and booked where that is still possible.
        Nothing is journalled, so a call that is cut off is asked again by
        whoever wanted it. Raises as
        `LashCore.direct_completion`, and `StoreError` when it is unknown whether
        the cost was booked.
        """
        from lash_cli.runtime.direct import complete_directly, readable_request

        request = readable_request(request)
        policy = self._state.policy
        request = msgspec.structs.replace(request, session_id=self.session_id, model=request.model or policy.model)
        try:
            completion = await complete_directly(
                self._shared.host, request, model=policy.model, provider_id=policy.provider_id
            )
        except DirectCompletionError as error:
            if error.record is not None:
                await self._book(request, error.record.usage)
            raise
        await self._book(request, completion.usage)
        return completion

    async def _book(self, request: DirectRequest, usage: TokenUsage) -> None:
        if not usage.total or request.model is None:
            return
        spent = (TokenLedgerEntry(request.caused_by or DIRECT_SOURCE, request.model.id, usage),)
        left: tuple[TokenLedgerEntry, ...] = spent

        def owe(state: ResidentSession) -> Undo:
            # Once: from then on it is owed until it is known that a commit took it along.
            nonlocal left
            state.owe(left)
            left = ()
            return _as_it_is(state)

        try:
            await self._change(owe)
        except asyncio.CancelledError:
            # Who is stopped while another has the lock has booked nothing; behind that the commit is under way.
            owe(self._shared.state)
            raise
        except LashError as error:
            # What was paid for is the caller's: an answer is not given up for a lane that somebody else has.
            if not is_refused(error):
                raise
            if self._shared.is_gone:
                await self._book_late(spent, owe)
            else:
                owe(self._shared.state)

    async def _book_late(self, spent: tuple[TokenLedgerEntry, ...], owe: Callable[[ResidentSession], Undo]) -> None:
        """Book what was under way when the session was closed; where that fails nobody is left to book it, and the
        log says so."""
        state = self._shared.state
        if self._core.host.store is None:
            return
        try:
            async with self._shared.lock:
                await self._core._beside_driver(state.session_id, lambda: self._commit_change(state, owe))
        except LashError as error:
            costs = ", ".join(f"{entry.usage.total} tokens more ({entry.source})" for entry in spent)
            _log.warning(
                "session %s was closed before it was known that it had cost %s: %s", state.session_id, costs, error
            )

    async def configure(self, patch: SessionConfigPatch) -> None:
        """Change provider, model, limits or prompt between turns; committed before the call returns.

        On failure nothing is changed. Raises `UsageError` (`policy_invalid`) for what no session could be opened under,
        and as `flush`.
        """
        require_kind(
            patch, SessionConfigPatch, hint="it is made by SessionConfigPatch(model=…, …)", code="policy_invalid"
        )

        def change(state: ResidentSession) -> Undo | None:
            before, frames, dirty = state.policy, state.frames, set(state.dirty)
            if not state.set_policy(patch.apply(state.policy)):
                return None

            def undo() -> None:
                state.policy, state.frames, state.dirty = before, frames, dirty

            return undo

        await self._change(change)

    async def _edit_tools(self, edit: Callable[[], object], *, is_for_finished: bool) -> None:
        """Change the tool surface; `is_for_finished` refuses it as `require_finished` does."""

        def change(state: ResidentSession) -> Undo | None:
            before = state.registry.surface
            edit()
            if state.registry.generation == before.generation:
                return None
            state.dirty.add(Dirty.TOOLS)
            return lambda: state.registry.roll_back(before)

        await self._change(change, is_for_finished=is_for_finished)

    async def _alone(self, work: Callable[[ResidentSession], Awaitable[T]], *, is_behind_flush: bool = False) -> T:
        """Do `work` while nobody else turns or changes the session here, what memory alone holds being written first
        if `is_behind_flush`."""
        async with self._shared.lock:
            if is_behind_flush:
                await self._flush()
            return await self._core._beside_driver(self.session_id, partial(work, self._state))

    async def _change(
        self,
        change: Callable[[ResidentSession], Undo | None],
        *,
        is_for_finished: bool = False,
    ) -> None:
        """Apply a change to the newest head and commit it before returning (design D19). A commit that was begun is
        seen through although the task is cancelled: memory has what the store has.

        `change` returns how to take it back, or None when it changed nothing. With `is_for_finished` it is refused
        while a turn that was cut off is not finished.
        """
        if self._core.host.store is not None:
            commit = partial(self._commit_change, change=change, is_for_finished=is_for_finished)
            await self._alone(commit)
            return
        async with self._shared.lock:
            if change(self._state) is not None:
                from lash_cli.runtime.ephemeral import publish_change

                publish_change(self._state)

    async def _commit_change(
        self,
        state: ResidentSession,
        change: Callable[[ResidentSession], Undo | None],
        *,
        is_for_finished: bool = False,
    ) -> None:
        host = self._core.host
        assert host.store is not None, "asked by the caller"
        async with borrowed_lane(host, host.store, self._shared.owner, state) as fence:
            if is_for_finished or state.replaces_graph:
                from lash_cli.runtime.history import require_finished  # few changes ask for it

                await require_finished(host.store, state.session_id)
            undo = change(state)
            if undo is not None:
                await seen_through(self._commit_changed(host.store, fence, state, undo))

    async def _commit_changed(
        self,
        store: RuntimePersistence,
        fence: LeaseFence,
        state: ResidentSession,
        undo: Undo,
    ) -> None:
        """Commit what was changed and take over what that established, or have it as it was."""
        try:
            commit = state.commit(fence=fence, now_ms=self._core.host.clock.now_ms())
        except BaseException:
            undo()
            raise
        try:
            result = await state.committed(store, commit, undo=undo)
        except LashError as error:
            error.happened_in(state.session_id)
            raise
        if result.has_waiting:
            self._wake("session_changed")

    async def refresh(self) -> None:
        """Take over what other processes have committed since."""
        async with self._shared.lock:
            state = self._state
            store = self._core.host.store
            if store is not None and state.is_behind(await store.head_position(state.session_id)):
                await state.refresh()

    async def flush(self) -> None:
        """Write whatever is held in memory only; nothing when the session is clean.

        Raises `SessionExecutionBusy` while another owner holds the lane, and `ConflictError` (`turn_unfinished`) where
        it would replace the history that a turn which was cut off is to be finished on.
        """
        async with self._shared.lock:
            await self._flush()

    async def _flush(self) -> None:
        """Commit what is dirty under a lane of its own."""
        if self._core.host.store is not None and self._state.is_dirty:
            await self._core._beside_driver(self.session_id, lambda: self._commit_change(self._state, _as_it_is))

    def clone(self) -> LashSession:
        """Another handle on the same runtime. It is let go of by its block or by `close_handle`; `close` and `park` are
        for the last handle."""
        self._check_open()
        self._shared.handles += 1
        return LashSession(self._core, self._shared, parent_session_id=self.parent_session_id, name=self.name)

    def _take_sole_ownership(self) -> None:
        """Raise `SessionStillInUse` while another handle or a turn shares the runtime; this handle stays usable."""
        self._check_open()
        shared = self._shared
        shared.forget_closed_loop()
        if shared.handles > 1 or shared.waiting > 0 or shared.is_locked:
            raise SessionStillInUse(
                f"session {self.session_id} is still in use",
                details={
                    "session": self.session_id,
                    "other_handles": shared.handles - 1,
                    "running_turns": shared.waiting,
                },
            )

    async def park(self) -> ParkedSession:
        """Flush, give up the runtime and return a light handle for `LashCore.resume` (contract 01 §4.3).

        Raises `SessionStillInUse` while a clone or a turn is alive,
        `LashRuntimeError` for a session without a store, and what `flush`
        raises; then the session stays usable.
        """
        from lash_cli.api.core import ParkedSession

        self._take_sole_ownership()
        if self._core.host.store is None:
            raise LashRuntimeError("session_not_persistent", "parking requires a persistent runtime")
        async with self._shared.lock:
            await self._flush()
            self._end()
        return ParkedSession(self.session_id, self._core.host.store, self._shared.state.policy)

    async def close(self) -> None:
        """Flush and give up the runtime. Idempotent; of a session that was deleted there is nothing to write any more.
        Raises as `park`."""
        if self._is_closed or self._shared.is_gone:
            return
        self._take_sole_ownership()
        async with self._shared.lock:
            with contextlib.suppress(SessionDeleted):
                await self._flush()
            self._end()

    def close_handle(self) -> None:
        """Let go of this handle only; the runtime goes when the last handle does. Nothing is flushed."""
        if not self._is_closed:
            self._is_closed = True
            self._shared.handles -= 1
            if self._shared.handles == 0:
                self._shared.let_go()

    def _end(self) -> None:
        self._is_closed = True
        self._shared.handles = 0
        self._shared.let_go()

    async def __aenter__(self) -> LashSession:
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._is_closed or self._shared.is_gone:
            return
        if self._shared.handles > 1:
            self.close_handle()
            return
        try:
            await self.close()
        except asyncio.CancelledError:
            self.close_handle()  # nobody comes back to what its block has left
            raise
        except LashError as refusal:
            if error is None:
                raise
            # What went wrong in the block is what its caller is to be told.
            _log.warning("session %s was let go without its last changes: %s", self.session_id, refusal)
            self.close_handle()
