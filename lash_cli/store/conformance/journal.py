"""Laws of the effect journal (contract 03 §2.6), for any backend. Needs the fixtures that `factory` describes."""

from __future__ import annotations

from typing import Literal, Protocol

import pytest

from lash_cli.core.codec import sha256_hex
from lash_cli.core.effect import CanonicalEnvelope, TurnScope, scope_key
from lash_cli.core.lease import LeaseFence, LeaseOwnerIdentity, SessionExecutionLease
from lash_cli.core.protocols import Clock
from lash_cli.errors import SessionExecutionLeaseExpired
from lash_cli.store.base import JournalClaim, JournalPrepared, JournalRow, LaneBusy, RuntimePersistence
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance import factory
from lash_cli.store.conformance.factory import StoreLaws

TTL_MS = 30_000
SESSION = "s-journal"
SCOPE = scope_key(TurnScope(SESSION, "t1"))


class MovableClock(factory.MovableClock, Protocol):
    """A clock a test moves while tasks sleep by it."""

    async def advance(self, seconds: float) -> None:
        """Move time and let tasks see every moment on the way."""
        ...

    async def wait_for_sleepers(self, count: int = 1) -> None:
        """Return once so many tasks sleep."""
        ...


def envelope_of(text: bytes = b'{"command":1}') -> CanonicalEnvelope:
    """A canonical envelope with these bytes."""
    return CanonicalEnvelope(text, sha256_hex(text))


def claim_of(
    clock: Clock,
    token: str,
    *,
    replay_key: str = "k1",
    scope: str = SCOPE,
    envelope: CanonicalEnvelope | None = None,
    due_at_ms: int | None = None,
    fence: LeaseFence | None = None,
) -> JournalClaim:
    """A claim of 30 seconds."""
    return JournalClaim(
        scope_key=scope,
        session_id=SESSION,
        replay_key=replay_key,
        envelope=envelope or envelope_of(),
        owner=f"owner-{token}",
        token=token,
        ttl_ms=TTL_MS,
        now_ms=clock.now_ms(),
        due_at_ms=due_at_ms,
        fence=fence,
    )


async def take_lane(
    store: RuntimePersistence, incarnation: str, session_id: str = SESSION, ttl_ms: int = TTL_MS
) -> LeaseFence:
    """The fence of a lane taken by one incarnation; the lane must be free."""
    owner = LeaseOwnerIdentity("owner", incarnation)
    lease = await store.try_claim_lease(session_id, owner, ttl_ms=ttl_ms, token=f"lane-{incarnation}")
    assert not isinstance(lease, LaneBusy)
    assert isinstance(lease, SessionExecutionLease)
    return lease.fence()


def stands(
    prepared: JournalPrepared, status: Literal["in_progress", "completed", "failed"] = "completed"
) -> JournalRow:
    """The finished row of an answer."""
    assert prepared.kind == "recorded"
    assert prepared.row is not None
    assert prepared.row.status == status
    return prepared.row


class JournalLaws(StoreLaws):
    """The table of contract 03 §2.6, row by row."""

    async def test_a_missing_row_is_claimed_once_and_held_while_its_lease_lives(self) -> None:
        first, second = self.open_store(), self.open_store()
        assert (await first.journal_prepare(claim_of(self.clock, "a"))).kind == "claimed"
        assert (await second.journal_prepare(claim_of(self.clock, "b"))).kind == "held"
        self.clock.tick(TTL_MS / 1000 - 0.001)
        held = await second.journal_prepare(claim_of(self.clock, "b"))
        assert held.kind == "held"
        assert held.row is not None
        assert held.row.lease_owner == "owner-a"

    @pytest.mark.parametrize("size", [0, 1, 511, 512, 200_000])
    async def test_a_recorded_outcome_is_answered_byte_for_byte_by_every_handle(self, size: int) -> None:
        outcome = bytes(index * 7 % 251 for index in range(size))
        store = self.open_store()
        await store.journal_prepare(claim_of(self.clock, "a"))
        assert await store.journal_finish(SCOPE, "k1", "a", outcome=outcome, error=None)
        row = stands(await self.open_store().journal_prepare(claim_of(self.clock, "b")))
        assert (row.outcome, row.error, row.attempt) == (outcome, None, 1)
        assert [found.outcome for found in await self.open_store().journal_rows(SCOPE)] == [outcome]

    async def test_a_recorded_error_is_answered_as_failed(self) -> None:
        store = self.open_store()
        await store.journal_prepare(claim_of(self.clock, "a"))
        assert await store.journal_finish(SCOPE, "k1", "a", outcome=None, error=b"no")
        assert stands(await store.journal_prepare(claim_of(self.clock, "b")), "failed").error == b"no"

    async def test_an_expired_claim_is_taken_over_with_its_due_time_and_one_more_attempt(self) -> None:
        store, due = self.open_store(), self.clock.now_ms() + 90_000
        claimed = await store.journal_prepare(claim_of(self.clock, "a", due_at_ms=due))
        assert (claimed.kind, claimed.taken_over, claimed.due_at_ms) == ("claimed", False, due)
        self.clock.tick(TTL_MS / 1000)
        taken = await self.open_store().journal_prepare(claim_of(self.clock, "b", due_at_ms=due + 30_000))
        assert (taken.kind, taken.taken_over, taken.due_at_ms) == ("claimed", True, due)
        assert taken.row is not None
        assert taken.row.attempt == 2

    async def test_a_result_of_a_lost_claim_is_discarded(self) -> None:
        store = self.open_store()
        await store.journal_prepare(claim_of(self.clock, "a"))
        self.clock.tick(TTL_MS / 1000)
        await store.journal_prepare(claim_of(self.clock, "b"))
        assert not await store.journal_finish(SCOPE, "k1", "a", outcome=b"late", error=None)
        assert await store.journal_finish(SCOPE, "k1", "b", outcome=b"ours", error=None)
        assert not await store.journal_finish(SCOPE, "k1", "b", outcome=b"again", error=None)
        assert stands(await store.journal_prepare(claim_of(self.clock, "c"))).outcome == b"ours"

    async def test_nothing_is_recorded_at_or_after_the_moment_of_expiry(self) -> None:
        store = self.open_store()
        await store.journal_prepare(claim_of(self.clock, "a"))
        self.clock.tick(TTL_MS / 1000)
        assert not await store.journal_finish(SCOPE, "k1", "a", outcome=b"late", error=None)
        assert (await store.journal_rows(SCOPE))[0].status == "in_progress"

    async def test_a_renewed_claim_outlives_its_first_lease_and_an_expired_one_is_not_revived(self) -> None:
        store = self.open_store()
        await store.journal_prepare(claim_of(self.clock, "a"))
        self.clock.tick(20)
        assert await store.journal_renew(SCOPE, "k1", "a", self.clock.now_ms() + TTL_MS)
        assert not await store.journal_renew(SCOPE, "k1", "b", self.clock.now_ms() + TTL_MS)
        self.clock.tick(20)
        assert (await store.journal_prepare(claim_of(self.clock, "b"))).kind == "held"
        self.clock.tick(10)
        assert not await store.journal_renew(SCOPE, "k1", "a", self.clock.now_ms() + TTL_MS)

    async def test_a_released_claim_is_taken_over_at_once_as_a_cut_off_attempt(self) -> None:
        store = self.open_store()
        elsewhere = scope_key(TurnScope("beside", "t1"))
        others = (("k2", SCOPE), ("k1", elsewhere))
        for replay_key, scope in (("k1", SCOPE), *others):
            await store.journal_prepare(claim_of(self.clock, "a", replay_key=replay_key, scope=scope))
        await store.journal_prepare(claim_of(self.clock, "a", replay_key="done"))
        assert await store.journal_finish(SCOPE, "done", "a", outcome=b"1", error=None)
        for replay_key, token in (("k1", "other"), ("done", "a")):
            await store.journal_release(SCOPE, replay_key, token)
        assert (await store.journal_prepare(claim_of(self.clock, "b"))).kind == "held"
        await store.journal_release(SCOPE, "k1", "a")
        taken = await store.journal_prepare(claim_of(self.clock, "b"))
        assert (taken.kind, taken.taken_over) == ("claimed", True)
        for replay_key, scope in others:
            claim = claim_of(self.clock, "b", replay_key=replay_key, scope=scope)
            assert (await store.journal_prepare(claim)).kind == "held"
        assert stands(await store.journal_prepare(claim_of(self.clock, "b", replay_key="done"))).outcome == b"1"

    async def test_a_claim_released_before_it_began_is_evidence_of_earlier_attempts_only(self) -> None:
        store = self.open_store()
        await store.journal_prepare(claim_of(self.clock, "a"))
        await store.journal_release(SCOPE, "k1", "other", has_begun=False)
        assert (await store.journal_prepare(claim_of(self.clock, "b"))).kind == "held"
        await store.journal_release(SCOPE, "k1", "a", has_begun=False)
        assert await store.journal_rows(SCOPE) == ()
        first = await store.journal_prepare(claim_of(self.clock, "b"))
        assert (first.kind, first.taken_over) == ("claimed", False)
        await store.journal_release(SCOPE, "k1", "b")
        await store.journal_prepare(claim_of(self.clock, "c"))
        await store.journal_release(SCOPE, "k1", "c", has_begun=False)
        taken = await store.journal_prepare(claim_of(self.clock, "d"))
        assert (taken.kind, taken.taken_over) == ("claimed", True)

    async def test_a_diverging_envelope_gets_the_stored_row_and_changes_nothing(self) -> None:
        store = self.open_store()
        await store.journal_prepare(claim_of(self.clock, "a"))
        before = await store.journal_rows(SCOPE)
        self.clock.tick(TTL_MS / 1000)
        other = await store.journal_prepare(claim_of(self.clock, "b", envelope=envelope_of(b'{"command":2}')))
        assert stands(other, "in_progress").envelope == envelope_of()
        assert await store.journal_rows(SCOPE) == before

    async def test_a_record_without_a_claim_is_inserted_once(self) -> None:
        store = self.open_store()
        assert await make.record(store, claim_of(self.clock, "a"), b"first")
        assert not await make.record(store, claim_of(self.clock, "b"), b"second")
        assert stands(await store.journal_prepare(claim_of(self.clock, "c"))).outcome == b"first"

    async def test_equal_turn_ids_of_two_sessions_are_two_journals(self) -> None:
        store, other = self.open_store(), scope_key(TurnScope("s-other", "t1"))
        await make.record(store, claim_of(self.clock, "a"), b"mine")
        assert (await store.journal_prepare(claim_of(self.clock, "b", scope=other))).kind == "claimed"
        assert len(await store.journal_rows(SCOPE)) == 1

    async def test_the_lane_holder_takes_over_what_an_earlier_generation_left_without_waiting(self) -> None:
        store = await make.opened(self.open_store, self.clock, SESSION)
        old = await take_lane(store, "one")
        await store.journal_prepare(claim_of(self.clock, "a", fence=old))
        assert (await store.journal_prepare(claim_of(self.clock, "b", fence=old))).kind == "held"
        await store.release_lease(old)
        new = await take_lane(store, "two")
        taken = await store.journal_prepare(claim_of(self.clock, "b", fence=new))
        assert (taken.kind, taken.taken_over) == ("claimed", True)

    async def test_a_dead_fence_can_neither_claim_nor_record_nor_finish(self) -> None:
        store = await make.opened(self.open_store, self.clock, SESSION)
        old = await take_lane(store, "one")
        await store.journal_prepare(claim_of(self.clock, "a", fence=old))
        await store.release_lease(old)
        await take_lane(store, "two")
        before = await store.journal_rows(SCOPE)
        with pytest.raises(SessionExecutionLeaseExpired):
            await store.journal_prepare(claim_of(self.clock, "b", replay_key="k2", fence=old))
        with pytest.raises(SessionExecutionLeaseExpired):
            await make.record(store, claim_of(self.clock, "b", replay_key="k3", fence=old), b"x")
        with pytest.raises(SessionExecutionLeaseExpired):
            await store.journal_finish(SCOPE, "k1", "a", outcome=b"x", error=None, fence=old)
        assert await store.journal_rows(SCOPE) == before

    async def test_a_fence_dies_at_the_moment_its_lease_expires(self) -> None:
        store = await make.opened(self.open_store, self.clock, SESSION)
        fence = await take_lane(store, "one")
        self.clock.tick(TTL_MS / 1000)
        with pytest.raises(SessionExecutionLeaseExpired):
            await make.record(store, claim_of(self.clock, "a", fence=fence), b"x")
