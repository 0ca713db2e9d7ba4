"""Watching the cancel gates of running turns, so that a request of any process reaches them (contract 02 §7).

One look serves every turn that runs on an event loop over one store, so what
watching costs does not grow with the number of turns, and a turn that is over
before the next look pays for an entry in a table.
"""

from __future__ import annotations

import asyncio
import contextlib
from contextvars import Context
from weakref import WeakKeyDictionary

import msgspec

from lash_cli.core.outcome import (
    CancelRequested,
    TurnCancellationEvidence,
)
from lash_cli.core.protocols import Clock
from lash_cli.errors import LashError, StoreError
from lash_cli.runtime.cancellation import CancelCause, CancelToken
from lash_cli.runtime.ending import end, outlast
from lash_cli.store.base import RuntimePersistence

GATE_POLL_S = 0.05
# Before the second and the third attempt to read the gate of a turn that begins (contract 01 §6.6).
GATE_BACKOFF_S = (0.025, 1.0)

# A running turn: its session's id and its own.
Address = tuple[str, str]


class GateKeeper:
    """The running turns of one loop and store, and the timer that looks at their gates while there are any. Who enters
    a turn leaves it, however it ends."""

    def __init__(self, store: RuntimePersistence) -> None:
        self.store = store
        self.tokens: dict[Address, CancelToken] = {}
        # Not the timer itself: it holds its loop, and one that is closed before it rings would stay in the table.
        self._is_timed = False
        self._look: asyncio.Task[None] | None = None

    def enter(self, address: Address, token: CancelToken) -> None:
        """Trip `token` soon after a cancel request comes to the turn's gate."""
        self.tokens[address] = token
        if not self._is_timed:
            self._set_timer()

    async def look(self, address: Address, token: CancelToken) -> None:
        """Trip `token` now when a cancel request stands at the turn's gate. Raises `StoreError` when it cannot be read,
        having tried three times."""
        for wait_s in GATE_BACKOFF_S:
            try:
                gate = await self.store.cancel_gate(*address)
                break
            except StoreError as error:
                if error.terminal:
                    raise
                await asyncio.sleep(wait_s)
        else:
            gate = await self.store.cancel_gate(*address)
        if isinstance(gate, CancelRequested):
            _trip(token, gate.cancellation)

    async def leave(self, address: Address, token: CancelToken) -> None:
        """Forget a turn, unless another drive of it has entered since: the lane of this one was lost then. The last one
        ends the look that may be under way. The timer finds nobody and stops."""
        if self.tokens.get(address) is token:
            del self.tokens[address]
        if not self.tokens and self._look is not None:
            look, self._look = self._look, None
            await end(look)

    def _set_timer(self) -> None:
        # For all turns, so in the context of none: that would be kept for as long as any turn runs.
        asyncio.get_running_loop().call_later(GATE_POLL_S, self._tick, context=Context())
        self._is_timed = True

    def _tick(self) -> None:
        self._is_timed = False
        if not self.tokens:
            _forget(self)
            return
        self._set_timer()
        if self._look is None or self._look.done():
            self._look = asyncio.get_running_loop().create_task(self._look_at_all())

    async def _look_at_all(self) -> None:
        with contextlib.suppress(LashError):  # the next tick looks again, and the commit asks the gate in any case
            for session_id, turn_id, evidence in await self.store.cancel_requests():
                token = self.tokens.get((session_id, turn_id))
                if token is not None:
                    _trip(token, evidence)


class LocalCancel(msgspec.Struct, eq=False):
    """Puts a cancel that was asked for in this process at the gate of its turn, as it is asked for: whoever finishes
    the turn of a process that dies on its way to stop ends it as cancelled (contract 01 §6.6)."""

    store: RuntimePersistence
    address: Address
    token: CancelToken
    clock: Clock
    _writing: asyncio.Task[None] | None = None

    def record(self) -> None:
        """What `CancelToken.telling` calls. A request is at the gate already, and a lost lane is no cancel."""
        if self.token.cause is CancelCause.LOCAL and self._writing is None:
            self._writing = asyncio.get_running_loop().create_task(self._write())

    async def _write(self) -> None:
        evidence = self.token.evidence_for(self.address[1])
        with contextlib.suppress(LashError):  # the turn is cancelled without it, unless the process dies first
            await self.store.request_turn_cancel(*self.address, evidence, self.clock.now_ms())

    async def settle(self) -> None:
        """Wait until it stands there, if it was asked for."""
        if self._writing is not None and (interruption := await outlast(self._writing)) is not None:
            raise interruption


_KEEPERS: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[int, GateKeeper]] = WeakKeyDictionary()


def keeper_of(store: RuntimePersistence) -> GateKeeper:
    """Who looks after the turns that run in this loop over `store`."""
    loop = asyncio.get_running_loop()
    keepers = _KEEPERS.setdefault(loop, {})
    keeper = keepers.get(id(store))
    if keeper is None:
        keeper = keepers[id(store)] = GateKeeper(store)
    return keeper


def _forget(keeper: GateKeeper) -> None:
    """A keeper lives as long as its turns, so that it does not hold its store."""
    _KEEPERS.get(asyncio.get_running_loop(), {}).pop(id(keeper.store), None)


def _trip(token: CancelToken, evidence: TurnCancellationEvidence) -> None:
    token.trip(CancelCause.REQUESTED, evidence=evidence, reason=evidence.reason)
