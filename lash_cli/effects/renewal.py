"""Keeping the claim on an effect alive while the effect runs (contract 03 §2.6)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from lash_cli.alarms import Alarm, alarm_after
from lash_cli.core.effect import EffectOutcome
from lash_cli.core.lease import LeaseTimings
from lash_cli.core.protocols import Clock, EffectContext, EffectExecutor
from lash_cli.effects.host import MS_PER_S
from lash_cli.errors import LashError
from lash_cli.store.base import JournalClaim, JournalStore


class Renewal:
    """Keeps one claim alive while its effect runs, and cuts the effect off when the claim is lost.

    Nothing is started for an effect that ends within the renew interval: an
    alarm is set (about a microsecond) and taken back. The
    effect runs in the caller's task, as `asyncio.timeout` does it.
    """

    def __init__(
        self,
        store: JournalStore,
        clock: Clock,
        timings: LeaseTimings,
        claim: JournalClaim,
        lost: Callable[[], LashError],
    ) -> None:
        """`lost` makes the error that says so."""
        self._store = store
        self._clock = clock
        self._timings = timings
        self._claim = claim
        self._lost = lost
        self._interval_s = timings.renew_interval_ms / MS_PER_S
        self._renewer: asyncio.Task[None] | None = None
        self._effect: asyncio.Task[object] | None = None
        self._is_lost = False

    async def keep(self, run: EffectExecutor, context: EffectContext) -> EffectOutcome:
        """Run the effect; raises the error of a lost claim when it was cut off."""
        self._effect = asyncio.current_task()
        assert self._effect is not None
        already_cancelling = self._effect.cancelling()
        alarm = alarm_after(self._interval_s, self._start)
        try:
            outcome = await run(context)
        except BaseException as error:
            await self._stop(alarm)
            # Our own cancellation becomes the fault; one by somebody else on top of it stays a cancellation.
            if self._is_lost and self._effect.uncancel() <= already_cancelling:
                raise self._lost() from error
            raise
        await self._stop(alarm)
        if self._is_lost:
            self._effect.uncancel()
            raise self._lost()
        return outcome

    async def _stop(self, alarm: Alarm) -> None:
        alarm.cancel()
        if self._renewer is not None:
            self._renewer.cancel()
            await asyncio.gather(self._renewer, return_exceptions=True)

    def _start(self) -> None:
        self._renewer = asyncio.get_running_loop().create_task(self._renew())

    async def _renew(self) -> None:
        claim = self._claim
        while True:
            expires_at_ms = self._clock.now_ms() + self._timings.ttl_ms
            try:
                is_ours = await self._store.journal_renew(claim.scope_key, claim.replay_key, claim.token, expires_at_ms)
            except LashError:
                # A busy store is not a lost claim: two missed renewals are survived.
                is_ours = True
            if not is_ours:
                self._is_lost = True
                assert self._effect is not None
                self._effect.cancel()
                return
            await self._clock.sleep(self._interval_s)
