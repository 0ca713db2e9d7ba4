"""Waiting for promises: over a store, across processes, or in the memory of one (contract 03 §3.3, §3.4).

`StoreResolver` polls the store, because a promise may be resolved by another
process; `InlineResolver` keeps everything here and forgets it at exit. Both
share `wait_for_terminal`, so a cancelled waiter and a passed deadline mean the
same: they offer a terminal, and whatever stands afterwards is the answer. Turn
control is never poisoned by a waiter.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Literal

import msgspec

from lash_cli.core.effect import ExecutionScope, scope_session_id
from lash_cli.core.protocols import AwaitEventResolver, CancelSignal, Clock
from lash_cli.core.wait import (
    AwaitEventKey,
    Resolution,
    ResolvedCancelled,
    ResolvedTimeout,
    ResolveOutcome,
    ToolCompletionWait,
    TurnCancelGateWait,
    TurnTerminalWait,
    WaitIdentity,
    WaitState,
    is_authentic,
    is_swept,
    is_turn_control,
    judge_resolve,
    mint,
    readable_resolution,
    require_wait_key,
    unknown_or_revoked,
)
from lash_cli.effects.host import MS_PER_S, first_of
from lash_cli.errors import EffectError
from lash_cli.store.base import WaitStore

FIRST_POLL_MS = 25
LAST_POLL_MS = 1000
MAX_ARCHIVED_CONTROL_KEYS = 4096
MAX_REVOKED_SESSIONS = 4096


class WaitBells:
    """Wakes the waiters of this process. Only a hint: whoever wakes looks at what stands."""

    def __init__(self) -> None:
        self._bells: dict[str, set[asyncio.Event]] = {}

    def add(self, key_id: str) -> asyncio.Event:
        """A new bell for one waiter of a key."""
        bell = asyncio.Event()
        self._bells.setdefault(key_id, set()).add(bell)
        return bell

    def remove(self, key_id: str, bell: asyncio.Event) -> None:
        """Forget a waiter's bell."""
        bells = self._bells[key_id]
        bells.discard(bell)
        if not bells:
            del self._bells[key_id]

    def ring(self, key_id: str) -> None:
        """Wake the waiters of a key."""
        for bell in self._bells.get(key_id, ()):
            bell.set()

    def ring_all(self) -> None:
        """Wake every waiter."""
        for bells in self._bells.values():
            for bell in bells:
                bell.set()


async def wait_for_terminal(
    board: AwaitEventResolver,
    key: AwaitEventKey,
    *,
    clock: Clock,
    bell: asyncio.Event,
    polls: bool,
    deadline_ms: int | None,
    cancel: CancelSignal | None,
) -> Resolution:
    """Return the terminal of a registered promise.

    `polls` is set when somebody may resolve it without ringing `bell`. Raises
    `EffectError`: `await_event_unknown_or_revoked`, or for turn control
    `turn_control_wait_cancelled` and `turn_control_wait_timeout`.
    """
    poll_ms = FIRST_POLL_MS
    while True:
        bell.clear()
        standing = await board.peek_await_event(key)
        if standing is not None:
            return standing
        if cancel is not None and cancel.is_set:
            return await _give_up(board, key, ResolvedCancelled())
        remaining_ms = None if deadline_ms is None else deadline_ms - clock.now_ms()
        if remaining_ms is not None and remaining_ms <= 0:
            return await _give_up(board, key, ResolvedTimeout())
        limits = [limit for limit in (remaining_ms, poll_ms if polls else None) if limit is not None]
        await first_of(
            bell.wait(),
            clock.sleep(min(limits) / MS_PER_S) if limits else None,
            cancel.wait() if cancel is not None else None,
        )
        poll_ms = min(2 * poll_ms, LAST_POLL_MS)


async def _give_up(
    board: AwaitEventResolver, key: AwaitEventKey, terminal: ResolvedCancelled | ResolvedTimeout
) -> Resolution:
    """Offer the waiter's own terminal; somebody may have been faster, and then theirs is the answer."""
    if is_turn_control(key.wait):
        what = "cancelled" if isinstance(terminal, ResolvedCancelled) else "timeout"
        raise EffectError(f"turn_control_wait_{what}", "the waiter gave up; the turn decides for itself")
    outcome = await board.resolve_await_event(key, terminal)
    match outcome.kind:
        case "accepted":
            return terminal
        case "already_resolved" if outcome.terminal is not None:
            return outcome.terminal
        case _:
            raise unknown_or_revoked()


class StoreResolver:
    """Promises kept by a store: any process that opens it can resolve or await them."""

    def __init__(self, waits: WaitStore, clock: Clock) -> None:
        self._waits = waits
        self._clock = clock
        self._bells = WaitBells()

    @property
    def durability_tier(self) -> Literal["inline", "durable"]:
        """Rows survive this process."""
        return "durable"

    @property
    def allows_process_lifetime_completion_keys(self) -> bool:
        """Keys of a store never die with a process, so the question does not arise."""
        return False

    async def await_event_key(self, scope: ExecutionScope, wait: WaitIdentity) -> AwaitEventKey:
        """See `AwaitEventResolver`."""
        return await self._waits.wait_key(scope, wait)

    async def resolve_await_event(self, key: AwaitEventKey, resolution: Resolution) -> ResolveOutcome:
        """See `AwaitEventResolver`."""
        require_wait_key(key)
        outcome = await self._waits.resolve_wait(key, readable_resolution(resolution), self._clock.now_ms())
        self._bells.ring(key.key_id)
        return outcome

    async def peek_await_event(self, key: AwaitEventKey) -> Resolution | None:
        """See `AwaitEventResolver`."""
        return await self._waits.peek_wait(key)

    async def await_await_event(
        self, key: AwaitEventKey, deadline_ms: int | None = None, cancel: CancelSignal | None = None
    ) -> Resolution:
        """See `AwaitEventResolver`. The pending row keeps the first deadline across crashes."""
        standing = await self._waits.register_wait(key, deadline_ms, self._clock.now_ms())
        if standing is not None:
            return standing
        first_deadline_ms = deadline_ms if is_turn_control(key.wait) else await self._waits.wait_deadline(key)
        bell = self._bells.add(key.key_id)
        try:
            return await wait_for_terminal(
                self, key, clock=self._clock, bell=bell, polls=True, deadline_ms=first_deadline_ms, cancel=cancel
            )
        finally:
            self._bells.remove(key.key_id, bell)

    async def cancel_await_events_for_session(self, session_id: str) -> int:
        """See `AwaitEventResolver`."""
        count = await self._waits.cancel_session_waits(session_id)
        self._bells.ring_all()
        return count

    async def revoke_await_events_for_session(self, session_id: str) -> None:
        """See `AwaitEventResolver`."""
        await self._waits.revoke_session_waits(session_id, self._clock.now_ms())
        self._bells.ring_all()


class _Promise(msgspec.Struct):
    """One promise of this process."""

    key: AwaitEventKey
    state: WaitState
    resolution: Resolution | None = None
    deadline_ms: int | None = None


class InlineResolver:
    """Promises in memory. Finished turn control and revoked sessions are remembered up to a bound."""

    def __init__(self, clock: Clock, secret: bytes, *, allow_process_lifetime_completion_keys: bool = False) -> None:
        """`secret` signs the keys of this instance; two instances never accept each other's keys."""
        self._clock = clock
        self._secret = secret
        self._allows_completion_keys = allow_process_lifetime_completion_keys
        self._promises: dict[str, _Promise] = {}
        self._archive: OrderedDict[str, Resolution] = OrderedDict()
        self._revoked: OrderedDict[str, None] = OrderedDict()
        self._bells = WaitBells()

    @property
    def durability_tier(self) -> Literal["inline", "durable"]:
        """Nothing outlives this process."""
        return "inline"

    @property
    def allows_process_lifetime_completion_keys(self) -> bool:
        """See `AwaitEventResolver`."""
        return self._allows_completion_keys

    async def await_event_key(self, scope: ExecutionScope, wait: WaitIdentity) -> AwaitEventKey:
        """See `AwaitEventResolver`. Raises `tool_completion_key_process_lifetime` unless such keys are allowed."""
        if isinstance(wait, ToolCompletionWait) and not self._allows_completion_keys:
            raise EffectError(
                "tool_completion_key_process_lifetime", "a completion key of an inline host would die with its process"
            )
        key = mint(self._secret, scope, wait)
        if scope_session_id(scope) in self._revoked:
            raise unknown_or_revoked()
        return key

    async def resolve_await_event(self, key: AwaitEventKey, resolution: Resolution) -> ResolveOutcome:
        """See `AwaitEventResolver`."""
        require_wait_key(key)
        resolution = readable_resolution(resolution)
        state, stored = self._look(key)
        outcome = judge_resolve(state, stored)
        if outcome.kind == "accepted":
            self._settle(key, resolution)
        return outcome

    async def peek_await_event(self, key: AwaitEventKey) -> Resolution | None:
        """See `AwaitEventResolver`."""
        state, stored = self._look(key)
        if state is WaitState.REVOKED:
            raise unknown_or_revoked()
        return stored

    async def await_await_event(
        self, key: AwaitEventKey, deadline_ms: int | None = None, cancel: CancelSignal | None = None
    ) -> Resolution:
        """See `AwaitEventResolver`."""
        state, stored = self._look(key)
        if stored is not None:
            return stored
        if state is WaitState.REVOKED:
            raise unknown_or_revoked()
        promise = self._promises.setdefault(key.key_id, _Promise(key, WaitState.PENDING))
        if promise.deadline_ms is None and not is_turn_control(key.wait):
            promise.deadline_ms = deadline_ms
        limit_ms = deadline_ms if is_turn_control(key.wait) else promise.deadline_ms
        bell = self._bells.add(key.key_id)
        try:
            return await wait_for_terminal(
                self, key, clock=self._clock, bell=bell, polls=False, deadline_ms=limit_ms, cancel=cancel
            )
        finally:
            self._bells.remove(key.key_id, bell)

    async def cancel_await_events_for_session(self, session_id: str) -> int:
        """See `AwaitEventResolver`."""
        swept = [
            promise
            for promise in self._promises.values()
            if scope_session_id(promise.key.scope) == session_id and is_swept(promise.key.wait, promise.state)
        ]
        for promise in swept:
            self._settle(promise.key, ResolvedCancelled())
        return len(swept)

    async def revoke_await_events_for_session(self, session_id: str) -> None:
        """See `AwaitEventResolver`."""
        self._revoked[session_id] = None
        while len(self._revoked) > MAX_REVOKED_SESSIONS:
            self._revoked.popitem(last=False)
        for key_id, promise in list(self._promises.items()):
            if scope_session_id(promise.key.scope) == session_id:
                del self._promises[key_id]
        self._bells.ring_all()

    def _look(self, key: AwaitEventKey) -> tuple[WaitState, Resolution | None]:
        if not is_authentic(self._secret, key) or scope_session_id(key.scope) in self._revoked:
            return WaitState.REVOKED, None
        if key.key_id in self._archive:
            return WaitState.RESOLVED, self._archive[key.key_id]
        promise = self._promises.get(key.key_id)
        return (WaitState.MISSING, None) if promise is None else (promise.state, promise.resolution)

    def _settle(self, key: AwaitEventKey, resolution: Resolution) -> None:
        promise = self._promises.setdefault(key.key_id, _Promise(key, WaitState.PENDING))
        promise.state, promise.resolution = WaitState.RESOLVED, resolution
        if isinstance(key.wait, TurnTerminalWait):
            # The turn is over: nobody changes its control promises any more, late readers still ask.
            self._archive_key(key)
            self._archive_key(mint(self._secret, key.scope, TurnCancelGateWait()))
        self._bells.ring(key.key_id)

    def _archive_key(self, key: AwaitEventKey) -> None:
        promise = self._promises.pop(key.key_id, None)
        if promise is None or promise.resolution is None:
            return
        self._archive[key.key_id] = promise.resolution
        while len(self._archive) > MAX_ARCHIVED_CONTROL_KEYS:
            self._archive.popitem(last=False)
