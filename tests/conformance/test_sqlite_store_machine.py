"""Lease and commit against a small oracle: every sequence of claims, expiries and commits (contract 01 §9.2, §13)."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from support.made_files import lay

from lash_cli.core.commit import Unchanged
from lash_cli.core.lease import LeaseFence
from lash_cli.errors import HeadRevisionConflict, SessionExecutionLeaseExpired
from lash_cli.store.base import LaneBusy
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.clock import ManualClock
from lash_cli.store.conformance.factory import CountingIds
from lash_cli.store.sqlite.store import SqliteStore

OWNERS = ("a", "b", "c")
owners = st.sampled_from(OWNERS)
S = make.SESSION


class LeaseMachine(RuleBasedStateMachine):
    """The oracle knows who holds the lane until when, the generation and the head; fences are kept for ever."""

    @initialize()
    def open(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.clock = ManualClock()
        path = Path(self.directory.name) / "lash.db"
        self.store = SqliteStore.open(lay(path), self.clock, CountingIds(), synchronous="normal")
        self.loop = asyncio.new_event_loop()
        self.holder: str | None = None
        self.expires_at = 0
        self.generation = 0
        self.revision: int | None = None
        self.known: list[tuple[str, LeaseFence]] = []
        self.loop.run_until_complete(make.create(self.store, self.clock))

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            self.loop.close()
            self.directory.cleanup()

    def is_live(self) -> bool:
        return self.holder is not None and self.clock.now_ms() < self.expires_at

    def is_current(self, fence: LeaseFence) -> bool:
        return self.is_live() and fence.fencing_token == self.generation

    def granted(self, name: str, fence: LeaseFence) -> None:
        self.generation += 1
        assert fence.fencing_token == self.generation
        self.holder, self.expires_at = name, self.clock.now_ms() + make.TTL_MS
        self.known.append((name, fence))

    @rule(name=owners)
    def claim(self, name: str) -> None:
        token = f"{name}-{len(self.known)}"
        outcome = self.loop.run_until_complete(
            self.store.try_claim_lease(S, make.owner(name), ttl_ms=make.TTL_MS, token=token)
        )
        if self.is_live() and self.holder != name:
            assert isinstance(outcome, LaneBusy) and outcome.holder == make.owner(self.holder or "")
        elif self.is_live():
            assert not isinstance(outcome, LaneBusy) and outcome.fencing_token == self.generation
            self.expires_at = self.clock.now_ms() + make.TTL_MS
        else:
            assert not isinstance(outcome, LaneBusy)
            self.granted(name, outcome.fence())

    @rule(name=owners, behind=st.integers(0, 2))
    def reclaim(self, name: str, behind: int) -> None:
        observed = self.generation - behind
        outcome = self.loop.run_until_complete(
            self.store.reclaim_lease(
                S,
                make.owner(name),
                observed_fencing_token=observed,
                ttl_ms=make.TTL_MS,
                token=f"{name}-{len(self.known)}",
            )
        )
        if isinstance(outcome, LaneBusy):
            assert self.is_live() and behind > 0 and self.holder != name
        elif self.is_live() and self.holder == name:
            self.expires_at = self.clock.now_ms() + make.TTL_MS
        else:
            assert not self.is_live() or behind == 0
            self.granted(name, outcome.fence())

    @rule(pick=st.integers(0, 20))
    def renew(self, pick: int) -> None:
        if not self.known:
            return
        _, fence = self.known[-1 - pick % len(self.known)]
        try:
            self.loop.run_until_complete(self.store.renew_lease(fence, ttl_ms=make.TTL_MS))
        except SessionExecutionLeaseExpired:
            assert not self.is_current(fence)
        else:
            assert self.is_current(fence)
            self.expires_at = self.clock.now_ms() + make.TTL_MS

    @rule(pick=st.integers(0, 20))
    def release(self, pick: int) -> None:
        if not self.known:
            return
        _, fence = self.known[-1 - pick % len(self.known)]
        released = self.loop.run_until_complete(self.store.release_lease(fence))
        assert released == (self.holder is not None and fence.fencing_token == self.generation)
        if released:
            self.holder = None

    @rule(seconds=st.sampled_from([0.001, 1.0, make.TTL_MS / 1000 - 0.001, make.TTL_MS / 1000]))
    def wait(self, seconds: float) -> None:
        self.clock.tick(seconds)

    @rule(pick=st.integers(0, 20), stale_head=st.booleans(), and_release=st.booleans())
    def commit(self, pick: int, stale_head: bool, and_release: bool) -> None:
        if not self.known:
            return
        _, fence = self.known[-1 - pick % len(self.known)]
        expected = (self.revision or 0) + 5 if stale_head else self.revision
        proposal = make.commit(fence, Unchanged(None), expected=expected, release=and_release)
        try:
            result = self.loop.run_until_complete(self.store.commit_runtime_state(proposal))
        except SessionExecutionLeaseExpired:
            assert not self.is_current(fence)
        except HeadRevisionConflict as conflict:
            assert self.is_current(fence) and stale_head and conflict.actual == self.revision
        else:
            assert self.is_current(fence) and not stale_head
            self.revision = (self.revision or 0) + 1
            assert result.head_revision == self.revision
            if and_release:
                self.holder = None

    @invariant()
    def the_store_agrees_with_the_oracle(self) -> None:
        if not hasattr(self, "store"):
            return
        row = self.loop.run_until_complete(self.store.session_row(S))
        assert row is not None
        assert (row.head_revision, row.lease.fencing_token) == (self.revision, self.generation)
        held_by = None if row.lease.owner is None else row.lease.owner.owner_id
        assert held_by == self.holder


TestLeaseMachine = LeaseMachine.TestCase
TestLeaseMachine.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
