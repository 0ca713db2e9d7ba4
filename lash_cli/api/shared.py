"""What the handles of one opened session share: its lock, who owns the lane, and the turns under way (contract 01 §4).

A session belongs to one event loop at a time, and nothing inside of a turn may
wait for that turn's own lock: here is where both are refused instead of hung.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING

import msgspec

from lash_cli.core.lease import LeaseOwnerIdentity
from lash_cli.errors import LashRuntimeError
from lash_cli.runtime.cancellation import CancelToken, TurnCancelRegistry
from lash_cli.runtime.session import ResidentSession

if TYPE_CHECKING:
    from lash_cli.api.queue import Notify
    from lash_cli.runtime.host import RuntimeHost


# How long what is called from inside of a turn that is stopped waits for its end, and the close of a core for the turns
# in the loops of other threads: longer than that waits for any code that does not stop with it. Behind that it waits
# for its caller.
OWN_TURN_S = 5.0
# How often it is looked whether a turn in the loop of another thread has ended.
ELSEWHERE_POLL_S = 0.01


class SharedSession:
    """What all handles of one opened session share. It belongs to one event loop at a time."""

    __slots__ = (
        "__weakref__",
        "_elsewhere_until",
        "_is_left_behind",
        "_lock",
        "_loop",
        "cancels",
        "handles",
        "host",
        "is_gone",
        "notify",
        "owner",
        "state",
    )

    def __init__(
        self, state: ResidentSession, host: RuntimeHost, owner: LeaseOwnerIdentity, notify: Notify | None = None
    ) -> None:
        self.state = state
        self.host = host
        self.owner = owner
        self.notify = notify
        self._lock = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        # Whether a turn or a change went with its event loop since the state was loaded.
        self._is_left_behind = False
        self.cancels = TurnCancelRegistry()
        self.handles = 1
        self.is_gone = False
        # Until when turns that were stopped are waited for in other loops.
        self._elsewhere_until = 0.0

    @property
    def is_locked(self) -> bool:
        """Whether a turn or a change is under way."""
        return self._lock.locked()

    @property
    def waiting(self) -> int:
        """How many turns run or wait for their turn."""
        return len(self.cancels)

    def forget_closed_loop(self) -> None:
        """Count nothing any more that ran in an event loop that is closed: it cannot go on, be told or end. What it has
        of the lane and of effects is left to another incarnation of its owner, who takes both over at once."""
        if self._loop is not None and self._loop.is_closed():
            self._is_left_behind |= self._lock.locked()
            self._lock, self._loop = asyncio.Lock(), None
            self.cancels = TurnCancelRegistry()
            self.owner = msgspec.structs.replace(self.owner, incarnation_id=self.host.ids.token())

    @property
    def lock(self) -> asyncio.Lock:
        """The writer's lock, for the running loop. Raises `LashRuntimeError` where waiting for it would have no end:
        `session_in_another_loop` while another loop holds it, which would not wake anybody here, and `session_in_turn`
        for what a turn itself does, such as a tool of it."""
        if self._lock.locked():
            refuse_within_turn(lambda shared: shared is self)
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self.forget_closed_loop()
            if self._lock.locked() and self._loop is not None:
                raise LashRuntimeError(
                    "session_in_another_loop",
                    f"session {self.state.session_id} is being used in another event loop",
                    hint="open the session once in each loop; one of them then turns it at a time",
                )
            self._lock, self._loop = asyncio.Lock(), loop
        if self._is_left_behind and self.state.store is not None:
            # What was under way goes on with the state it has when it is collected, and undoes what it did to it.
            # A handle whose first commit is still to replace what is stored has loaded nothing, and replaces it yet.
            if not (self.state.replaces_graph and self.state.head_revision is None):
                self.state = self.state.left_behind(self.host.clock.now_ms())
            self._is_left_behind = False
        return self._lock

    def stop(self, reason: str) -> None:
        """Begin nothing any more and cancel every turn; `stopped` waits for them."""
        self.is_gone = True
        self.forget_closed_loop()
        self.cancels.cancel_all(reason=reason)
        self._elsewhere_until = asyncio.get_running_loop().time() + OWN_TURN_S

    async def stopped(self) -> None:
        """Wait until every turn and every change has committed, and let the session go. What another loop has not ended
        in time, or does not run any more, is left to it."""
        here = asyncio.get_running_loop()
        while self.is_locked or self.waiting:
            loop = self._loop
            if loop is here:
                async with self._lock:
                    pass  # whoever came before us is done
                await asyncio.sleep(0)
            elif loop is not None and loop.is_running() and here.time() < self._elsewhere_until:
                await asyncio.sleep(ELSEWHERE_POLL_S)
            else:
                break
        self.let_go()

    def in_use(self, token: CancelToken) -> _InUse:
        """While something runs that nobody may park away and that `cancel_running_turns` reaches."""
        return _InUse(self, token)

    def let_go(self) -> None:
        """The last handle is closed: whoever watches a session without a store learns that nothing follows."""
        self.is_gone = True
        if self.state.log is not None:
            self.state.log.close()


class _InUse(msgspec.Struct, eq=False):
    """The block of `SharedSession.in_use`."""

    _shared: SharedSession
    _token: CancelToken

    def __enter__(self) -> None:
        self._shared.forget_closed_loop()
        self._shared.cancels.register(self._token)

    def __exit__(self, *_: object) -> None:
        self._shared.cancels.unregister(self._token)


class Within:
    """A running turn, as whatever it calls finds it, and the turn that was called from, as that of a session whose tool
    runs a turn of another. While its block is entered, what that calls, and the tasks that are started by it, belong to
    the turn; those that go on behind it keep nothing of its session."""

    __slots__ = ("_token", "outer", "shared")

    def __init__(self, shared: SharedSession) -> None:
        self.shared: SharedSession | None = shared
        self.outer = _WITHIN.get()

    def __enter__(self) -> None:
        self._token = _WITHIN.set(self)

    def __exit__(self, *_: object) -> None:
        self.shared = None
        # A turn whose loop was closed is collected in the context of somebody else, which has nothing of it.
        with suppress(ValueError):
            _WITHIN.reset(self._token)


_WITHIN: ContextVar[Within | None] = ContextVar("lash_turn", default=None)


def outside_of_turns(call: Callable[..., object], *args: object) -> None:
    """Make a `call` that starts what no turn waits for, so that it belongs to none."""
    if _WITHIN.get() is None:
        call(*args)
    else:
        context = copy_context()
        context.run(_WITHIN.set, None)
        context.run(call, *args)


async def stop_own_turns(is_meant: Callable[[SharedSession], bool], reason: str) -> None:
    """Cancel the turns this is called from, of sessions that are meant, and wait for their commits. Raises
    `LashRuntimeError` (`session_in_turn`) when one does not end, because it waits for what this was called from, such
    as its sink: a tool it would have left behind."""
    within = _WITHIN.get()
    while within is not None:
        shared, within = within.shared, within.outer
        if shared is not None and is_meant(shared):
            shared.stop(reason)
            try:
                async with asyncio.timeout(OWN_TURN_S):
                    await shared.stopped()
            except TimeoutError:
                session_id = shared.state.session_id
                raise LashRuntimeError(
                    "session_in_turn",
                    f"the turn of session {session_id} that this was called from waits for it, and was cancelled",
                    hint="close the core once that turn is over",
                ) from None


def refuse_within_turn(is_meant: Callable[[SharedSession], bool]) -> None:
    """Raise `LashRuntimeError` (`session_in_turn`) for what is called from a turn of a session that is meant: it would
    wait for itself."""
    within = _WITHIN.get()
    while within is not None:
        shared = within.shared
        if shared is not None and is_meant(shared):
            raise LashRuntimeError(
                "session_in_turn",
                f"session {shared.state.session_id} is in the turn this was called from, which would wait for itself",
                hint="enqueue what is to follow: it is run after the turn",
            )
        within = within.outer
