"""Laws of durable waits (contract 03 §3), for any backend.

A backend's test module subclasses `WaitLaws` and provides `open_store`, which
opens one more handle of the same storage, and `clock`.
"""

from __future__ import annotations

import msgspec
import pytest

from lash_cli.core.codec import to_builtins
from lash_cli.core.effect import ProcessScope, TurnScope
from lash_cli.core.outcome import CancelRequested, CompletionSealed, TurnCancellationEvidence
from lash_cli.core.wait import (
    AwaitEventKey,
    CustomWait,
    ProcessSignalWait,
    Resolution,
    ResolvedCancelled,
    ResolvedErr,
    ResolvedOk,
    ResolvedTimeout,
    ToolCompletionWait,
    TurnCancelGateWait,
    TurnTerminalWait,
    WaitIdentity,
)
from lash_cli.errors import EffectError
from lash_cli.store.base import RuntimePersistence
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.factory import StoreLaws

SESSION = "s-waits"
SCOPE = TurnScope(SESSION, "t1")
ORDINARY: tuple[WaitIdentity, ...] = (
    ToolCompletionWait("call-1"),
    ProcessSignalWait("p1", "go", 1),
    CustomWait("approval"),
)
TERMINALS: tuple[Resolution, ...] = (
    ResolvedOk({"answer": [1, None, "x"]}),
    ResolvedErr("denied", "no", {"why": 1}),
    ResolvedTimeout(),
    ResolvedCancelled(),
)


def forgeries(key: AwaitEventKey) -> tuple[AwaitEventKey, ...]:
    """The key with each of its four parts altered."""
    flipped = "0" if key.signature[-1] != "0" else "1"
    return (
        msgspec.structs.replace(key, scope=TurnScope(SESSION, "t2")),
        msgspec.structs.replace(key, wait=CustomWait("other")),
        msgspec.structs.replace(key, key_id="0" * 64),
        msgspec.structs.replace(key, signature=key.signature[:-1] + flipped),
    )


async def refuses(store: RuntimePersistence, key: AwaitEventKey) -> None:
    """Assert that a key opens nothing."""
    assert (await store.resolve_wait(key, ResolvedOk(1), 1)).kind == "unknown_or_revoked"
    for look in (store.peek_wait(key), store.register_wait(key, None, 1)):
        with pytest.raises(EffectError) as caught:
            await look
        assert caught.value.code == "await_event_unknown_or_revoked"


class WaitLaws(StoreLaws):
    """The table of contract 03 §3.3, and what it means across handles."""

    async def test_minting_is_pure_and_equal_on_every_handle(self) -> None:
        keys = [await self.open_store().wait_key(SCOPE, CustomWait("x")) for _ in range(2)]
        assert keys[0] == keys[1]
        assert await self.open_store().peek_wait(keys[0]) is None
        assert keys[0] != await self.open_store().wait_key(SCOPE, CustomWait("y"))

    @pytest.mark.parametrize("terminal", TERMINALS, ids=lambda terminal: type(terminal).__name__)
    @pytest.mark.parametrize("wait", ORDINARY, ids=lambda wait: type(wait).__name__)
    async def test_a_resolution_that_comes_first_is_kept_for_the_waiter(
        self, wait: WaitIdentity, terminal: Resolution
    ) -> None:
        key = await self.open_store().wait_key(SCOPE, wait)
        assert (await self.open_store().resolve_wait(key, terminal, self.clock.now_ms())).kind == "accepted"
        assert await self.open_store().register_wait(key, None, self.clock.now_ms()) == terminal
        assert await self.open_store().peek_wait(key) == terminal

    async def test_the_first_resolution_stands_and_later_ones_learn_it(self) -> None:
        store = self.open_store()
        key = await store.wait_key(SCOPE, CustomWait("x"))
        assert await store.register_wait(key, None, self.clock.now_ms()) is None
        assert (await store.resolve_wait(key, ResolvedOk("first"), self.clock.now_ms())).kind == "accepted"
        loser = await self.open_store().resolve_wait(key, ResolvedOk("second"), self.clock.now_ms())
        assert (loser.kind, loser.terminal) == ("already_resolved", ResolvedOk("first"))
        assert await store.peek_wait(key) == ResolvedOk("first")

    async def test_a_pending_wait_keeps_the_deadline_it_got_first(self) -> None:
        key = await self.open_store().wait_key(SCOPE, CustomWait("x"))
        await self.open_store().register_wait(key, None, self.clock.now_ms())
        assert await self.open_store().wait_deadline(key) is None
        await self.open_store().register_wait(key, 500, self.clock.now_ms())
        await self.open_store().register_wait(key, 900, self.clock.now_ms())
        assert await self.open_store().wait_deadline(key) == 500

    @pytest.mark.parametrize("part", range(4), ids=["scope", "wait", "key_id", "signature"])
    async def test_a_key_altered_in_any_part_is_unknown(self, part: int) -> None:
        store = self.open_store()
        key = await store.wait_key(SCOPE, CustomWait("x"))
        await refuses(store, forgeries(key)[part])
        assert await store.peek_wait(key) is None

    async def test_the_cancel_sweep_ends_pending_waits_only_and_the_session_stays_usable(self) -> None:
        store, now_ms = self.open_store(), self.clock.now_ms()
        pending, buffered, later, elsewhere = [
            await store.wait_key(scope, CustomWait(name))
            for scope, name in ((SCOPE, "p"), (SCOPE, "b"), (SCOPE, "l"), (ProcessScope("p1"), "e"))
        ]
        await store.register_wait(pending, None, now_ms)
        await store.register_wait(elsewhere, None, now_ms)
        await store.resolve_wait(buffered, ResolvedOk(1), now_ms)
        assert await store.cancel_session_waits(SESSION) == 1
        assert await store.cancel_session_waits(SESSION) == 0
        late = await self.open_store().resolve_wait(pending, ResolvedOk(2), now_ms)
        assert (late.kind, late.terminal) == ("already_resolved", ResolvedCancelled())
        assert await store.peek_wait(buffered) == ResolvedOk(1)
        assert await store.peek_wait(elsewhere) is None
        assert (await store.resolve_wait(later, ResolvedOk(3), now_ms)).kind == "accepted"

    async def test_revocation_ends_every_key_of_the_session_on_every_handle(self) -> None:
        store, now_ms = self.open_store(), self.clock.now_ms()
        pending = await store.wait_key(SCOPE, CustomWait("p"))
        missing = await store.wait_key(SCOPE, CustomWait("m"))
        resolved = await store.wait_key(SCOPE, CustomWait("r"))
        elsewhere = await store.wait_key(TurnScope("s-other", "t1"), CustomWait("p"))
        await store.register_wait(pending, None, now_ms)
        await store.resolve_wait(resolved, ResolvedOk(1), now_ms)
        for _ in range(2):
            await store.revoke_session_waits(SESSION, now_ms)
        for key in (pending, missing, resolved):
            await refuses(self.open_store(), key)
        with pytest.raises(EffectError):
            await self.open_store().wait_key(SCOPE, CustomWait("new"))
        assert (await store.resolve_wait(elsewhere, ResolvedOk(1), now_ms)).kind == "accepted"

    async def test_deleting_a_session_revokes_its_waits(self) -> None:
        store = await make.opened(self.open_store, self.clock, SESSION)
        key = await store.wait_key(SCOPE, CustomWait("p"))
        await store.register_wait(key, None, self.clock.now_ms())
        assert await store.delete_session(SESSION, self.clock.now_ms())
        await refuses(self.open_store(), key)

    async def test_a_cancel_request_put_by_key_stands_at_the_gate_of_the_turn(self) -> None:
        store = await make.opened(self.open_store, self.clock, SESSION)
        gate = await store.wait_key(SCOPE, TurnCancelGateWait())
        request = CancelRequested(TurnCancellationEvidence("r1", "cli", "stop"))
        assert await store.register_wait(gate, None, self.clock.now_ms()) is None
        first = await store.resolve_wait(gate, ResolvedOk(to_builtins(request)), self.clock.now_ms())
        assert first.kind == "accepted"
        assert await self.open_store().cancel_gate(SESSION, "t1") == request
        second = CancelRequested(TurnCancellationEvidence("r2"))
        loser = await self.open_store().resolve_wait(gate, ResolvedOk(to_builtins(second)), self.clock.now_ms())
        assert (loser.kind, loser.terminal) == ("already_resolved", ResolvedOk(to_builtins(request)))
        assert await self.open_store().peek_wait(gate) == ResolvedOk(to_builtins(request))

    @pytest.mark.parametrize("wait", [TurnCancelGateWait(), TurnTerminalWait()], ids=["gate", "terminal"])
    async def test_only_the_commit_seals_a_turn(self, wait: WaitIdentity) -> None:
        store = await make.opened(self.open_store, self.clock, SESSION)
        key = await store.wait_key(SCOPE, wait)
        with pytest.raises(EffectError) as caught:
            await store.resolve_wait(key, ResolvedOk(to_builtins(CompletionSealed())), self.clock.now_ms())
        assert caught.value.code == "turn_control_resolved_by_commit"
        assert await store.peek_wait(key) is None

    async def test_the_sweep_spares_turn_control(self) -> None:
        store = await make.opened(self.open_store, self.clock, SESSION)
        keys = [await store.wait_key(SCOPE, wait) for wait in (TurnCancelGateWait(), TurnTerminalWait())]
        for key in keys:
            await store.register_wait(key, 1, self.clock.now_ms())
        assert await store.cancel_session_waits(SESSION) == 0
        assert [await store.peek_wait(key) for key in keys] == [None, None]

    async def test_turn_control_of_an_unknown_session_is_unknown(self) -> None:
        store = self.open_store()
        key = await store.wait_key(SCOPE, TurnCancelGateWait())
        request = CancelRequested(TurnCancellationEvidence("r1"))
        outcome = await store.resolve_wait(key, ResolvedOk(to_builtins(request)), self.clock.now_ms())
        assert outcome.kind == "unknown_or_revoked"
