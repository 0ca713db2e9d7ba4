"""Entering a session: taking its lane for a request, session commands first (contract 01 §5.4, 02 §6.1).

The store decides in one transaction what comes next: a turn that a crash cut
off, commands that are due, or what was asked for. Commands run here, under the
lane that was just taken, and the same request is made again after them; so it
is once the session knows the head that another process moved.
"""

from __future__ import annotations

from collections.abc import Callable

from lash_cli.core.codec import encode
from lash_cli.core.content import TurnInput
from lash_cli.core.frames import current_frame
from lash_cli.core.ingress import InputDraft
from lash_cli.core.lease import LeaseOwnerIdentity
from lash_cli.core.policy import persisted_config
from lash_cli.core.protocols import CancelSignal
from lash_cli.core.queued_work import SessionCommandReceipt
from lash_cli.errors import HeadRevisionConflict, LashError, LashRuntimeError
from lash_cli.runtime.ending import seen_through
from lash_cli.runtime.host import RuntimeHost
from lash_cli.runtime.lane import LaneGuard, LaneHolder, holds_no_more, take_lane
from lash_cli.runtime.requests import TurnRequest
from lash_cli.runtime.session import ResidentSession
from lash_cli.runtime.state import TurnPlan
from lash_cli.store.base import (
    NOT_STORED,
    DrainSelection,
    HeadPosition,
    LaneBusy,
    LaneGranted,
    LaneIdle,
    LaneRequest,
    RuntimePersistence,
    busy_error,
)

# How often in a row commands that are due may be gone as they are to be run; a store that says so for ever contradicts
# itself.
MOST_VAIN_LOOKS = 8


class LaneEntry:
    """The lane of one request, over all the turns it leads to: `lane` holds it until it is given back. `commands` are
    the receipts of what was applied, and `plan` is what a turn that it was taken for runs under."""

    plan: TurnPlan

    def __init__(
        self,
        host: RuntimeHost,
        store: RuntimePersistence,
        session: ResidentSession,
        owner: LeaseOwnerIdentity,
        request: TurnRequest,
        on_lost: Callable[[], object],
        cancel: CancelSignal,
    ) -> None:
        """`host` has the provider that the request was given. `cancel` ends a wait for another holder of the lane."""
        self._host = host
        self._store = store
        self._session = session
        self._owner = owner
        self._request = request
        self._input = request.input
        self._cancel = cancel
        self.lane = LaneHolder(store, host.clock, host.timings, on_lost)
        self._turn_id = request.turn_id or self._fresh_turn_id()
        self._input_id = host.ids.new("in")
        self.commands: list[SessionCommandReceipt] = []

    def drive_on(self, session: ResidentSession) -> None:
        """Have what follows begin on `session`, which stands for the same one."""
        self._session = session

    def hand_in(self, turn_input: TurnInput) -> None:
        """Put `turn_input` in the place of the request's own: the same, as it may be persisted."""
        self._input = turn_input

    @property
    def turn_id(self) -> str:
        """The id of the turn the request starts, unless an input names another."""
        return self._turn_id

    def planned(self) -> TurnPlan:
        """What a turn started now runs under."""
        request, session = self._request, self._session
        return TurnPlan(
            persisted_config(session.policy),
            request.max_turns or session.policy.max_turns,
            session.core_policy.prompt,
            session.head_revision,
            request.prompt,
            self._host.builtins,
            request.cost_limit,
            current_frame(session.frames).protocol_turn_options,
        )

    def _fresh_turn_id(self) -> str:
        """A drain id names many passes, so it only begins the id of a turn: the stamp and the gate need a new one."""
        drain_id, ids = self._request.drain_id, self._host.ids
        return f"{drain_id}:{ids.token()}" if drain_id is not None else ids.new("t")

    async def find_provider(self) -> None:
        """Raise what resolving the provider of the session raises, before a turn is begun that could not be driven. A
        request that begins none has nothing to do with it."""
        request, session, providers = self._request, self._session, self._host.providers
        if request.input is None and request.drain is None:
            return
        try:
            providers.resolve(session.policy.provider_id)
        except LashError:
            # The session may have been given another one since it was looked at.
            if not session.is_behind(await self._store.head_position(session.session_id)):
                raise
            await session.refresh()
            providers.resolve(session.policy.provider_id)

    async def enter(self) -> LaneGranted | LaneIdle | LaneBusy:
        """Take the lane for the request. `LaneIdle` and `LaneBusy` answer only a pass over the queue.

        Raises `SessionExecutionBusy` for any other request, what the store
        raises, and what `CommandRunner.run_next` raises.
        """
        outcome = await self._take(self._lane_request)
        if isinstance(outcome, LaneBusy) and self._request.drain is None:
            raise busy_error(self._session.session_id, outcome)
        return outcome

    async def leave(self) -> None:
        """Release what is still held, unless a commit's outcome is unknown."""
        try:
            await self.lane.give_back()
        finally:
            holds_no_more(self._session.session_id, self._owner)

    async def follow(self, turn_id: str, batch_id: str) -> LaneGranted | LaneIdle | LaneBusy:
        """Go on, under the lane still held, with the turn that one batch starts."""
        return await self._take(lambda: self._request_under(turn_id, drain=DrainSelection(batch_ids=(batch_id,))))

    async def _take(self, request: Callable[[], LaneRequest]) -> LaneGranted | LaneIdle | LaneBusy:
        vain = 0
        while True:
            self._host.reach("before:lane")
            outcome = await take_lane(
                self._store,
                self._host.clock,
                request(),
                busy_wait_ms=self._request.busy_wait_ms,
                cancel=self._cancel,
            )
            self._host.reach("after:lane")
            if not isinstance(outcome, LaneGranted) or outcome.committed:
                return outcome
            guard = await self.lane.take(outcome.lease)
            if outcome.commands_due:
                vain = 0 if await self._run_commands(guard) else vain + 1
                if vain == MOST_VAIN_LOOKS:
                    raise LashRuntimeError("session_command_claim", "the store says that commands are due and has none")
            elif outcome.refresh_due:
                await self._catch_up(outcome.head, guard)
            else:
                return outcome

    async def _catch_up(self, head: HeadPosition, guard: LaneGuard) -> None:
        """Load the head that another process made. Raises `HeadRevisionConflict` when there is none to load, and what
        `find_provider` raises of the provider that it names."""
        session = self._session
        if session.replaces_graph:
            await self._start_over(guard)
            return
        await session.refresh()
        if session.is_behind(head):
            raise HeadRevisionConflict(session.head_revision, head.head_revision)
        await self.find_provider()

    async def _start_over(self, guard: LaneGuard) -> None:
        """Replace what is stored by what the handle was opened with, so that the turn begins on a head that whoever
        may have to finish it can load."""
        session = self._session
        await session.catch_up()
        commit = session.commit(fence=guard.fence, now_ms=self._host.clock.now_ms(), release_lease=False)
        try:
            await seen_through(session.committed(self._store, commit))
        except LashError as error:
            if error.ambiguous:
                guard.withhold()
            raise

    async def _run_commands(self, guard: LaneGuard) -> bool:
        """Run every command at the head of the queue, younger ones too, once there is one to run; False when there is
        none after all: it cannot be read and was parked, or since the lane was taken it was cancelled or the queue
        held."""
        from lash_cli.runtime.commands import CommandRunner  # most sessions never have one

        host = self._host
        runner = CommandRunner(self._store, host.clock, host.ids, self._session, guard.fence, is_strict=host.is_strict)
        is_any = False
        try:
            while (ran := await runner.run_next()) is not None:
                is_any = True
                receipt, is_applied = ran
                if is_applied:
                    self.commands.append(receipt)
                guard.check()
        except LashError as error:
            if error.ambiguous:
                guard.withhold()
            raise
        return is_any

    def _lane_request(self) -> LaneRequest:
        request = self._request
        draft = None
        if self._input is not None:
            key = f"host:{request.source_key}" if request.source_key is not None else None
            draft = InputDraft(self._session.session_id, self._input_id, self._input, source_key=key)
        turn_id = self._turn_id if draft is not None or request.drain is not None else None
        return self._request_under(turn_id, draft, request.drain, is_new_turn=request.turn_id is None)

    def _request_under(
        self,
        turn_id: str | None,
        draft: InputDraft | None = None,
        drain: DrainSelection | None = None,
        *,
        is_new_turn: bool = False,
    ) -> LaneRequest:
        self.plan = self.planned()
        return LaneRequest(
            session_id=self._session.session_id,
            owner=self._owner,
            ttl_ms=self._host.timings.ttl_ms,
            now_ms=self._host.clock.now_ms(),
            lease_token=self._host.ids.token(),
            claim_token=self._host.ids.token(),
            turn_id=turn_id,
            draft=draft,
            drain=drain,
            plan=encode(self.plan) if turn_id is not None else None,
            is_new_turn=is_new_turn,
            origin="prompt" if drain is None else "queue",
            known_head_revision=NOT_STORED if self._session.replaces_graph else self._session.head_revision or 0,
        )
