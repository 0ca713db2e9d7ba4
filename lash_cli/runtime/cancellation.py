"""Stopping a turn: the token it watches and why it was tripped (contract 01 §6.6, 02 §7).

A tripped token is not yet a cancellation: only evidence that won the gate is.
A token tripped because the lane was lost says so, and the fenced commit
arbitrates.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from enum import StrEnum
from typing import Final

import msgspec

from lash_cli.core.codec import storable
from lash_cli.core.outcome import TurnCancellationEvidence

# What code that is not ours fails with where it is called and not awaited: nobody can be cancelled meanwhile, so a
# cancellation it raises is its own.
FAILURES: Final = (Exception, asyncio.CancelledError)


class CancelCause(StrEnum):
    """Why a token was tripped."""

    LOCAL = "local"
    REQUESTED = "requested"
    LEASE_LOST = "lease_lost"


class CancelToken:
    """A one-way flag (`is_set`) with its first cause (contract 01 §6.6). It is waited for in one event loop, and may be
    tripped from any thread: who waits and who is told learn of it in their loop, and not when that is closed."""

    __slots__ = ("_calls", "_event", "_loop", "cause", "evidence", "is_set", "origin", "reason")

    def __init__(self) -> None:
        self._event: asyncio.Event | None = None
        # That of those who wait and those who are told, once there are any.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._calls: list[Callable[[], object]] = []
        self.is_set = False
        self.cause: CancelCause | None = None
        self.evidence: TurnCancellationEvidence | None = None
        self.origin: str | None = None
        self.reason: str | None = None

    @property
    def is_cancellation(self) -> bool:
        """Whether somebody asked for the stop, as opposed to the lane having been lost."""
        return self.is_set and self.cause is not CancelCause.LEASE_LOST

    def trip(
        self,
        cause: CancelCause,
        *,
        evidence: TurnCancellationEvidence | None = None,
        origin: str | None = None,
        reason: str | None = None,
    ) -> bool:
        """Trip the token; False when it was tripped before, and the first cause stands. A lane that is lost behind a
        cancel is found out by its guard as the turn is to be committed."""
        if self.is_set:
            return False
        self.cause, self.evidence = cause, evidence
        # They are committed with the turn, which must not fail for a word.
        self.origin = None if origin is None else storable(origin)
        self.reason = None if reason is None else storable(reason)
        self.is_set = True
        loop = self._loop
        if loop is None or loop is asyncio._get_running_loop():
            self._ring()
        else:
            with suppress(RuntimeError):  # it is closed, with all who waited in it
                loop.call_soon_threadsafe(self._ring)
        return True

    def _ring(self) -> None:
        if self._event is not None:
            self._event.set()
        for call in self._calls:
            call()

    async def wait(self) -> None:
        """Return once the token is tripped."""
        self._loop = asyncio.get_running_loop()
        if self._event is None:
            self._event = asyncio.Event()
        # Asked last: whoever trips it from now on rings.
        if not self.is_set:
            await self._event.wait()

    def telling(self, call: Callable[[], object]) -> AbstractContextManager[None]:
        """Make `call`, which must not raise, when the token is tripped inside the block, or has been: `wait` for who
        waits for something else as well and needs no task for it."""
        return _Telling(self, call)

    def tell(self, call: Callable[[], object]) -> None:
        """As `telling`, until `tell_no_more`. One that is tripped from another thread meanwhile may tell twice."""
        self._loop = asyncio._get_running_loop()
        self._calls.append(call)
        if self.is_set:
            call()

    def tell_no_more(self, call: Callable[[], object]) -> None:
        """Forget a `call` that is told."""
        self._calls.remove(call)

    def forget_request(self) -> None:
        """Arm the token again after a request that was addressed to another turn of the same call."""
        if self.cause is CancelCause.REQUESTED:
            self.is_set = False
            self.cause = self.evidence = self.origin = self.reason = None
            self._event = None

    def evidence_for(self, turn_id: str) -> TurnCancellationEvidence:
        """The evidence a cancelled commit carries: the request's own, or an internal one for a local cancel."""
        if self.evidence is not None:
            return self.evidence
        return TurnCancellationEvidence(f"internal:{turn_id}", self.origin, self.reason)


class _Telling(msgspec.Struct, eq=False):
    """The block of `CancelToken.telling`."""

    _token: CancelToken
    _call: Callable[[], object]

    def __enter__(self) -> None:
        self._token.tell(self._call)

    def __exit__(self, *_: object) -> None:
        self._token.tell_no_more(self._call)


class TurnCancelRegistry:
    """The tokens of turns started through one opened session and its clones."""

    def __init__(self) -> None:
        self._tokens: set[CancelToken] = set()

    def register(self, token: CancelToken) -> None:
        """Count a turn as running."""
        self._tokens.add(token)

    def unregister(self, token: CancelToken) -> None:
        """Stop counting it."""
        self._tokens.discard(token)

    def __len__(self) -> int:
        return len(self._tokens)

    def cancel_all(self, *, origin: str | None = None, reason: str | None = None) -> int:
        """Trip every registered token; returns how many turns were running. The first origin wins."""
        tokens = tuple(self._tokens)
        for token in tokens:
            token.trip(CancelCause.LOCAL, origin=origin, reason=reason)
        return len(tokens)
