"""Watching the cancel gate of a running turn, so that a request of any process reaches it (contract 02 §7)."""

from __future__ import annotations

import asyncio
import contextlib

from lash_cli.core.outcome import (
    CancelRequested,
)
from lash_cli.errors import (
    LashError,
)
from lash_cli.runtime.alarms import Alarm, alarm_after
from lash_cli.runtime.cancellation import CancelCause, CancelToken
from lash_cli.store.base import RuntimePersistence

GATE_POLL_S = 0.05


class GateWatch:
    """Looks at a turn's cancel gate while the turn runs (contract 02 §7). Costs nothing for a turn under 50 ms."""

    def __init__(self, store: RuntimePersistence, session_id: str, turn_id: str, token: CancelToken) -> None:
        self._store = store
        self._session_id = session_id
        self._turn_id = turn_id
        self._token = token
        self._alarm: Alarm | None = None
        self._task: asyncio.Task[None] | None = None

    async def look(self) -> None:
        """Trip the token when a cancel request stands at the gate."""
        gate = await self._store.cancel_gate(self._session_id, self._turn_id)
        if isinstance(gate, CancelRequested):
            self._token.trip(CancelCause.REQUESTED, evidence=gate.cancellation, reason=gate.cancellation.reason)

    async def _watch(self) -> None:
        while not self._token.is_set:
            with contextlib.suppress(LashError):
                await self.look()
            await asyncio.sleep(GATE_POLL_S)

    async def __aenter__(self) -> GateWatch:
        self._alarm = alarm_after(GATE_POLL_S, self._begin)
        return self

    def _begin(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._watch())

    async def __aexit__(self, *_: object) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
