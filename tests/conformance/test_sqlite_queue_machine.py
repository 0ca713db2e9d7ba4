"""The queue against an independent model: any order of ingress, claims, crashes, takeovers, commits (contract 02 §10).

The store under test is a real file reached through two handles; time is moved
by hand. After every step the second handle must show exactly what the model
says, and at the end everything that was not cancelled or parked is drained.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.made_files import lay
from support.queue_oracle import Passed, QueueOracle, Refusal, Text, Work

from lash_cli.core.commit import RuntimeCommit, Unchanged
from lash_cli.core.ingress import (
    ActiveTurn,
    ByInputId,
    BySourceKey,
    InputDraft,
    InputState,
    NextTurn,
    PendingTurnInput,
    SuffixOutcomes,
    TurnInputClaim,
    TurnInputIngress,
)
from lash_cli.core.lease import LeaseFence
from lash_cli.core.queued_work import BatchState, DeliveryPolicy, QueuedWorkBatchDraft, QueuedWorkClaim
from lash_cli.errors import LashError
from lash_cli.store.base import LaneBusy, LaneGranted, LaneIdle, LaneOutcome, LaneRequest
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.clock import ManualClock
from lash_cli.store.conformance.factory import CountingIds
from lash_cli.store.sqlite.store import SqliteStore

T = TypeVar("T")
Claim = TurnInputClaim | QueuedWorkClaim
S = make.SESSION
LIMIT = 64
names = st.sampled_from(["a", "b", "c"])
picks = st.integers(0, 9)
keys = st.sampled_from([None, None, "k1", "k2"])


@dataclass
class Driven:
    """One attempt at a turn: the fence it runs under and every claim its process knows of."""

    turn: str
    fence: LeaseFence
    claims: list[Claim] = field(default_factory=list)


class QueueMachine(RuleBasedStateMachine):
    """Ids, tokens and turn ids are counted here, so both sides speak of the same things."""

    @initialize()
    def open(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.clock = ManualClock()
        path = lay(Path(self.directory.name) / "lash.db")
        self.store = SqliteStore.open(path, self.clock, CountingIds(), synchronous="normal")
        self.other = SqliteStore.open(path, self.clock, CountingIds(), synchronous="normal")
        self.loop = asyncio.new_event_loop()
        self.oracle = QueueOracle(make.TTL_MS, LIMIT)
        self.count = 0
        self.fences: list[LeaseFence] = []
        self.driven: list[Driven] = []
        self.claims: list[Claim] = []
        # What the journal of each turn knows: the claims it took at checkpoints, by the claim id.
        self.journal: dict[str, dict[str, list[Claim]]] = {}
        self.claim_ids: set[str] = set()
        self.run(make.create(self.store, self.clock))
        self.oracle.now_ms = self.clock.now_ms()

    def teardown(self) -> None:
        if not hasattr(self, "store"):
            return
        try:
            self.drain_to_the_end()
        finally:
            self.store.close()
            self.other.close()
            self.loop.close()
            self.directory.cleanup()

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(call)

    def next(self, prefix: str) -> str:
        self.count += 1
        return f"{prefix}{self.count}"

    def both(self, call: Coroutine[Any, Any, T], model: Callable[[], object]) -> tuple[T, Any] | None:
        """Make the call on both sides; None when both refuse, alike and without changing anything."""
        before = self.snapshot()
        try:
            expected = model()
        except Refusal as refusal:
            try:
                self.run(call)
            except LashError as error:
                assert type(error).__name__ == str(refusal)
                assert self.snapshot() == before, "a refused call changes nothing"
                return None
            raise AssertionError(f"expected {refusal}") from None
        return self.run(call), expected

    def snapshot(self) -> object:
        return (
            self.run(self.other.inputs(S, pending_only=False)),
            self.run(self.other.queued_work(S, pending_only=False)),
            self.run(self.other.session_row(S)),
            self.run(self.other.turns(S, limit=100)),
        )

    def learn(self, claim: Claim | None) -> None:
        if claim is not None:
            self.claims.append(claim)

    def fresh_id(self, claim: Claim | None, prefix: str, rows: Sequence[Text | Work]) -> None:
        """A claim made outside of a checkpoint has an id nobody had before."""
        assert make.ids_of(claim) == [row.id for row in rows]
        if claim is None:
            return
        assert claim.claim_id == f"{prefix}:{rows[0].seq}:{rows[0].claims_made}"
        assert claim.fencing_token == rows[0].claims_made
        assert claim.claim_id not in self.claim_ids
        self.claim_ids.add(claim.claim_id)

    def tick(self, seconds: float) -> None:
        self.clock.tick(seconds)
        self.oracle.now_ms = self.clock.now_ms()

    @rule(name=names)
    def claim_lease(self, name: str) -> None:
        token = self.next("lease")
        lease = self.run(self.store.try_claim_lease(S, make.owner(name), ttl_ms=make.TTL_MS, token=token))
        is_granted = self.oracle.take(name)
        assert isinstance(lease, LaneBusy) is not is_granted
        if not isinstance(lease, LaneBusy):
            assert lease.fencing_token == self.oracle.generation
            self.fences.append(lease.fence())

    @rule(name=names)
    def take_over(self, name: str) -> None:
        token = self.next("lease")
        lease = self.run(
            self.store.reclaim_lease(
                S,
                make.owner(name),
                observed_fencing_token=self.oracle.generation,
                ttl_ms=make.TTL_MS,
                token=token,
            )
        )
        assert not isinstance(lease, LaneBusy)
        self.oracle.take(name, self.oracle.generation)
        self.fences.append(lease.fence())

    @precondition(lambda self: self.fences)
    @rule(pick=picks)
    def release(self, pick: int) -> None:
        fence = self.fences[-1 - pick % len(self.fences)]
        assert self.run(self.store.release_lease(fence)) is self.oracle.release(fence.fencing_token)

    @rule(seconds=st.sampled_from([0.001, 0.5, 2.0, make.TTL_MS / 1000]))
    def wait(self, seconds: float) -> None:
        self.tick(seconds)

    @rule(luck=st.integers(0, 3))
    def hold_or_let_go(self, luck: int) -> None:
        if self.oracle.is_on_hold or luck == 0:
            self.toggle_hold()

    def toggle_hold(self) -> None:
        self.oracle.is_on_hold = not self.oracle.is_on_hold
        held_at_ms = self.clock.now_ms() if self.oracle.is_on_hold else None
        assert self.run(self.other.set_queue_hold(S, held_at_ms=held_at_ms))

    def text_row(self, key: str | None, text: str, ingress: TurnInputIngress) -> tuple[InputDraft, Text]:
        input_id = self.next("i")
        row = Text(input_id, 0, self.clock.now_ms(), key, text=text)
        if isinstance(ingress, ActiveTurn):
            row.target, row.boundary = ingress.turn_id, ingress.min_boundary
            row.submitted = (ingress.turn_id, ingress.min_boundary)
        return InputDraft(S, input_id, make.text_input(text), ingress, key), row

    @rule(key=keys, text=st.sampled_from(["x", "y"]), kind=st.integers(0, 4), is_late=st.booleans())
    def enqueue(self, key: str | None, text: str, kind: int, is_late: bool) -> None:
        ingress: TurnInputIngress = NextTurn()
        if kind >= 3 and self.oracle.turns:
            known = sorted(self.oracle.turns)
            ingress = ActiveTurn(known[-1 - kind % len(known)], "before_completion" if is_late else "after_work")
        draft, row = self.text_row(key, text, ingress)
        answered = self.both(self.other.enqueue_turn_input(draft), lambda: self.oracle.enqueue(row))
        if answered is not None:
            stored, standing = answered
            if standing is row:
                row.seq = stored.enqueue_seq
            assert (stored.input_id, stored.enqueue_seq) == (standing.id, standing.seq)
            assert stored.state == state_of(standing)

    @rule(
        kind=st.sampled_from(["command", "wake", "wake", "join", "join other", "later", "shield"]),
        process=st.sampled_from(["p1", "p2"]),
        sequence=st.integers(1, 6),
    )
    def enqueue_work(self, kind: str, process: str, sequence: int) -> None:
        draft, row = self.work_row(kind, process, sequence)
        (receipt, (batch_id, is_settled)) = self.both(  # type: ignore[misc]
            self.other.enqueue_queued_work(draft), lambda: self.oracle.enqueue_work(row)
        )
        assert receipt.already_settled is is_settled
        if batch_id == "":
            stored = self.run(self.store.find_batch(receipt.batch_id))
            assert stored is not None
            row.id, row.seq = receipt.batch_id, stored.enqueue_seq
        elif batch_id is not None:
            assert receipt.batch_id == batch_id

    def work_row(self, kind: str, process: str, sequence: int) -> tuple[QueuedWorkBatchDraft, Work]:
        row = Work("", 0, self.clock.now_ms(), None)
        if kind == "command":
            draft = make.command(self.next("c"))
            row.is_command = row.waits_for_commit = True
        elif kind == "wake":
            draft = make.wake(sequence, process_id=process)
            row.wake = (process, sequence)
        else:
            name = self.next("w")
            soon = self.clock.now_ms() + 1_500 if kind == "later" else 0
            delivery = DeliveryPolicy.EARLIEST_SAFE_BOUNDARY
            if kind == "shield":
                delivery = DeliveryPolicy.AFTER_CURRENT_TURN_COMMIT
            group = "g2" if kind == "join other" else "g1"
            draft = make.work(name, delivery=delivery, merge=group, available_at_ms=soon)
            row.group, row.available_at_ms = group, soon
            row.waits_for_commit = kind == "shield"
            row.wake = (f"process-{name}", 1)
        row.key = draft.source_key
        return draft, row

    @precondition(lambda self: self.oracle.texts)
    @rule(chosen=st.lists(picks, min_size=1, max_size=3), by_key=st.booleans())
    def cancel_set(self, chosen: list[int], by_key: bool) -> None:
        rows = [self.oracle.texts[-1 - pick % len(self.oracle.texts)] for pick in chosen]
        targets = [BySourceKey(row.key) if by_key and row.key else ByInputId(row.id) for row in rows]
        targets.append(ByInputId("nothing"))
        results = self.run(self.other.cancel_turn_inputs(S, targets))
        assert [result.target for result in results] == targets
        expected = [self.oracle.cancel(row) for row in (*rows, None)]
        assert [type(result.outcome).__name__ for result in results] == expected

    @precondition(lambda self: self.oracle.texts)
    @rule(pick=picks)
    def cancel_suffix(self, pick: int) -> None:
        anchor = self.oracle.texts[-1 - pick % len(self.oracle.texts)]
        outcome = self.run(self.other.cancel_turn_input_suffix(S, ByInputId(anchor.id)))
        assert isinstance(outcome, SuffixOutcomes)
        expected = [self.oracle.cancel(row) for row in self.oracle.texts if row.seq >= anchor.seq]
        assert [type(one).__name__ for one in outcome.outcomes] == expected

    @precondition(lambda self: self.oracle.works)
    @rule(pick=picks)
    def cancel_batch(self, pick: int) -> None:
        row = self.oracle.works[-1 - pick % len(self.oracle.works)]
        cancelled = self.run(self.other.cancel_queued_work_batch(S, row.id))
        assert (cancelled is not None) is self.oracle.cancel_work(row.id)

    @precondition(lambda self: self.fences)
    @rule(pick=st.integers(0, 1))
    def claim_inputs(self, pick: int) -> None:
        fence, token = self.fences[-1 - pick % len(self.fences)], self.next("token")
        answered = self.both(
            self.store.claim_next_turn_inputs(fence, claim_token=token),
            lambda: self.oracle.claim_inputs(fence.fencing_token, token),
        )
        if answered is not None:
            claim, rows = answered
            self.fresh_id(claim, "tic", rows)
            self.learn(claim)

    @precondition(lambda self: self.fences)
    @rule(pick=st.integers(0, 1), what=st.sampled_from(["idle", "active_turn_checkpoint", "command"]))
    def claim_work(self, pick: int, what: str) -> None:
        fence, token = self.fences[-1 - pick % len(self.fences)], self.next("token")
        generation = fence.fencing_token
        if what == "command":
            answered = self.both(
                self.store.claim_leading_session_command(fence, claim_token=token),
                lambda: self.oracle.claim_command(generation, token),
            )
        else:
            answered = self.both(
                self.store.claim_ready_queued_work(fence, what, claim_token=token),  # type: ignore[arg-type]
                lambda: self.oracle.claim_work(generation, token, at_checkpoint=what != "idle"),
            )
        if answered is not None:
            claim, rows = answered
            self.fresh_id(claim, "qwc", rows)
            self.learn(claim)

    @precondition(lambda self: self.driven)
    @rule(pick=st.integers(0, 2), is_last=st.booleans(), number=st.integers(1, 3))
    def checkpoint(self, pick: int, is_last: bool, number: int) -> None:
        attempt = self.driven[-1 - pick % len(self.driven)]
        request = make.checkpoint_request(
            attempt.turn, "before_completion" if is_last else "after_work", name=f"c{number}"
        )
        answered = self.both(
            self.store.claim_checkpoint_work(attempt.fence, request),
            lambda: self.oracle.checkpoint(
                attempt.fence.fencing_token, attempt.turn, request.claim_id, request.claim_token, is_last=is_last
            ),
        )
        if answered is None:
            return
        claims, (texts, works) = answered
        assert make.ids_of(claims.inputs) == [row.id for row in texts]
        assert make.ids_of(claims.work) == [row.id for row in works]
        taken = [claim for claim in (claims.inputs, claims.work) if claim is not None]
        if taken:
            self.journal.setdefault(attempt.turn, {})[request.claim_id] = taken
            for claim in taken:
                self.learn(claim)
                if claim not in attempt.claims:
                    attempt.claims.append(claim)

    @precondition(lambda self: self.claims)
    @rule(pick=picks)
    def abandon(self, pick: int) -> None:
        claim = self.claims[-1 - pick % len(self.claims)]
        family: Sequence[Any]
        if isinstance(claim, TurnInputClaim):
            family, call = self.oracle.texts, self.other.abandon_turn_input_claims([claim])
        else:
            family, call = self.oracle.works, self.other.abandon_queued_work_claims([claim])
        given_back = self.run(call)
        expected = self.oracle.abandon(family, claim.claim_id, claim.claim_token, claim.generation, claim.turn_id)
        assert sorted(given_back) == sorted(expected)

    @precondition(lambda self: self.fences and any(isinstance(claim, QueuedWorkClaim) for claim in self.claims))
    @rule(pick=picks)
    def fail(self, pick: int) -> None:
        known = [claim for claim in self.claims if isinstance(claim, QueuedWorkClaim)]
        claim, fence = known[-1 - pick % len(known)], self.fences[-1]
        answered = self.both(
            self.store.fail_queued_work(fence, claim, "boom"),
            lambda: self.oracle.fail(fence.fencing_token, claim.claim_id, claim.claim_token, claim.turn_id),
        )
        if answered is not None:
            assert sorted(answered[0]) == sorted(answered[1])

    def open_lane(self, request: LaneRequest, model: Callable[[], Passed]) -> tuple[LaneOutcome, Passed] | None:
        answered = self.both(self.store.open_lane(request), model)
        if answered is None:
            return None
        outcome, passed = answered
        self.compare(outcome, passed)
        if isinstance(outcome, LaneGranted) and outcome.lease is not None:
            fence = outcome.lease.fence()
            assert fence.fencing_token == self.oracle.generation
            self.fences.append(fence)
            if outcome.turn is not None:
                known = [claim for taken in self.journal.get(outcome.turn.turn_id, {}).values() for claim in taken]
                founding: list[Claim] = [claim for claim in (outcome.claim, outcome.work) if claim is not None]
                self.driven.append(Driven(outcome.turn.turn_id, fence, founding + known))
                for claim in founding:
                    self.learn(claim)
        return outcome, passed

    def compare(self, outcome: LaneOutcome, passed: Passed) -> None:
        if isinstance(outcome, LaneBusy):
            assert passed.kind == "busy"
            return
        if isinstance(outcome, LaneIdle):
            assert (passed.kind, passed.reason, passed.available_at_ms) == (
                "idle",
                outcome.reason,
                outcome.available_at_ms,
            )
            return
        if outcome.committed:
            assert passed.kind == "replayed"
            return
        if outcome.commands_due:
            assert passed.kind == "commands"
            return
        assert outcome.redrive is (passed.kind == "redrive")
        assert outcome.turn is not None and outcome.turn.turn_id == passed.turn
        taken = make.ids_of(outcome.claim) + make.ids_of(outcome.work)
        assert taken == passed.ids + passed.work_ids
        founding = self.oracle.turns[passed.turn].founding
        for claim in (outcome.claim, outcome.work):
            assert claim is None or claim.claim_id in founding

    @rule(name=names, key=keys, text=st.sampled_from(["x", "y"]), is_dead=st.booleans())
    def foreground(self, name: str, key: str | None, text: str, is_dead: bool) -> None:
        turn, token = self.next("t"), self.next("token")
        draft, row = self.text_row(key, text, NextTurn())
        request = self.request(name, turn, token, is_dead)
        opened = self.open_lane(
            LaneRequest(**{**as_fields(request), "draft": draft}),
            lambda: self.oracle.open_draft(name, token, turn, row, request.dead_holder_fencing_token),
        )
        if opened is not None and row in self.oracle.texts:
            stored = self.run(self.store.turn_input(S, row.id))
            assert stored is not None
            row.seq = stored[0].enqueue_seq

    @rule(name=names, is_dead=st.booleans())
    def drain(self, name: str, is_dead: bool) -> None:
        self.drain_by(name, is_dead, ())

    @precondition(lambda self: self.oracle.works)
    @rule(name=names, chosen=st.lists(picks, min_size=1, max_size=2))
    def drain_named(self, name: str, chosen: list[int]) -> None:
        ids = tuple(self.oracle.works[-1 - pick % len(self.oracle.works)].id for pick in chosen)
        self.drain_by(name, False, ids)

    def drain_by(self, name: str, is_dead: bool, named: tuple[str, ...]) -> tuple[LaneOutcome, Passed]:
        turn, token = self.next("t"), self.next("token")
        request = self.request(name, turn, token, is_dead)
        drain = make.drain_request(self.clock, batch_ids=named).drain
        opened = self.open_lane(
            LaneRequest(**{**as_fields(request), "drain": drain}),
            lambda: self.oracle.drain(name, token, turn, named, request.dead_holder_fencing_token),
        )
        assert opened is not None
        return opened

    def request(self, name: str, turn: str, token: str, is_dead: bool) -> LaneRequest:
        return LaneRequest(
            session_id=S,
            owner=make.owner(name),
            ttl_ms=make.TTL_MS,
            now_ms=self.clock.now_ms(),
            lease_token=self.next("lease"),
            claim_token=token,
            turn_id=turn,
            dead_holder_fencing_token=self.oracle.generation if is_dead else None,
        )

    @precondition(lambda self: self.driven)
    @rule(
        pick=st.integers(0, 2),
        stale_head=st.integers(0, 5),
        omit=st.integers(0, 5),
        release=st.booleans(),
        and_command=st.booleans(),
    )
    def commit(self, pick: int, stale_head: int, omit: int, release: bool, and_command: bool) -> None:
        attempt = self.driven[-1 - pick % len(self.driven)]
        claims = attempt.claims[:-1] if omit == 0 else attempt.claims
        outbox = [make.command(self.next("c"))] if and_command else []
        expected = (self.oracle.head or 0) + 5 if stale_head == 0 else self.oracle.head
        self.commit_claims(attempt.fence, attempt.turn, claims, expected, release=release, outbox=outbox)

    @precondition(lambda self: self.claims and self.fences)
    @rule(pick=st.integers(0, 3), release=st.booleans())
    def commit_outside_of_a_turn(self, pick: int, release: bool) -> None:
        outside = [claim for claim in self.claims if claim.turn_id is None]
        if outside:
            claim = outside[-1 - pick % len(outside)]
            self.commit_claims(self.fences[-1], None, [claim], self.oracle.head, release=release)

    def commit_claims(
        self,
        fence: LeaseFence,
        turn: str | None,
        claims: Sequence[Claim],
        expected: int | None,
        *,
        release: bool,
        outbox: Sequence[QueuedWorkBatchDraft] = (),
    ) -> None:
        commit: RuntimeCommit = make.commit(
            fence,
            Unchanged(None),
            expected=expected,
            turn=None if turn is None else make.stamp(turn, f"hash of {turn}"),
            claims=[claim for claim in claims if isinstance(claim, TurnInputClaim)],
            work=[claim for claim in claims if isinstance(claim, QueuedWorkClaim)],
            outbox=outbox,
            release=release,
            defer=turn,
            now_ms=self.clock.now_ms(),
        )

        def owned(kind: type[Claim]) -> list[tuple[str, str, frozenset[str]]]:
            return [
                (claim.claim_id, claim.claim_token, frozenset(make.ids_of(claim)))
                for claim in claims
                if isinstance(claim, kind)
            ]

        answered = self.both(
            self.store.commit_runtime_state(commit),
            lambda: self.oracle.commit(
                fence.fencing_token, expected, turn, owned(TurnInputClaim), owned(QueuedWorkClaim), release=release
            ),
        )
        if answered is None:
            return
        result, is_replayed = answered
        assert result.replayed is is_replayed
        if is_replayed:
            return
        assert result.head_revision == self.oracle.head
        for draft, batch_id in zip(outbox, result.enqueued_batches, strict=True):
            row = Work(batch_id, 0, self.clock.now_ms(), draft.source_key, is_command=True, waits_for_commit=True)
            stored = self.run(self.store.find_batch(batch_id))
            assert stored is not None
            row.seq = stored.enqueue_seq
            self.oracle.enqueue_work(row)
        assert result.has_waiting is self.oracle.has_waiting()

    @rule()
    def vacuum(self) -> None:
        counts = self.run(self.other.vacuum(S))
        assert (counts["inputs"], counts["queued_work"]) == self.oracle.vacuum()

    @invariant()
    def the_store_shows_what_the_model_says(self) -> None:
        if not hasattr(self, "store"):
            return
        stored = self.run(self.other.inputs(S, pending_only=False))
        assert [(row.input_id, row.state) for row in stored] == [
            (row.id, state_of(row)) for row in sorted(self.oracle.texts, key=lambda row: row.seq)
        ]
        assert self.run(make_pending(self.other)) == [row.id for row in in_order(self.oracle.free_texts())]
        batches = self.run(self.other.queued_work(S, pending_only=False))
        unsettled = [row for row in self.oracle.works if row.state in ("pending", "dead")]
        assert [(batch.batch_id, batch.state, batch.attempts) for batch in batches] == [
            (row.id, BatchState(row.state), row.attempts) for row in in_order(unsettled)
        ]
        assert self.run(make.pending_batch_ids(self.other)) == [row.id for row in in_order(self.oracle.free_works())]

    @invariant()
    def counts_and_demand_agree_with_the_rows(self) -> None:
        if not hasattr(self, "store"):
            return
        row = self.run(self.other.session_row(S))
        assert row is not None
        assert (row.pending_inputs, row.pending_batches) == (
            len(self.oracle.free_texts()),
            len(self.oracle.free_works()),
        )
        running = self.oracle.running()
        unfinished = None if running is None else running.id
        demand = self.run(self.other.demand(S))
        later = self.oracle.first_later()
        assert (demand.has_claimable, demand.unfinished_turn_id, demand.available_at_ms, demand.is_held) == (
            self.oracle.has_claimable(),
            unfinished,
            later,
            self.oracle.is_on_hold,
        )
        is_wanted = demand.has_claimable or unfinished is not None or later is not None
        listed = self.run(self.other.sessions_with_demand(limit=1))
        assert listed == ((demand,) if is_wanted and not self.oracle.is_on_hold else ())

    @invariant()
    def nothing_is_used_twice_or_used_and_cut(self) -> None:
        if not hasattr(self, "store"):
            return
        assert len(self.oracle.used) == len(set(self.oracle.used))
        assert not set(self.oracle.used) & set(self.oracle.cut)

    @invariant()
    def nothing_is_held_when_no_turn_is_unfinished_and_no_lane_is_live(self) -> None:
        if not hasattr(self, "store") or self.oracle.running() is not None or self.oracle.is_live():
            return
        stored: tuple[PendingTurnInput, ...] = self.run(self.other.inputs(S, pending_only=False))
        settled = (InputState.COMPLETED, InputState.CANCELLED)
        waiting = [row for row in stored if row.state not in settled]
        assert list(self.run(self.other.inputs(S, pending_only=True))) == waiting
        pending = [
            batch
            for batch in self.run(self.other.queued_work(S, pending_only=False))
            if batch.state is BatchState.PENDING
        ]
        assert list(self.run(self.other.queued_work(S, pending_only=True))) == pending

    def drain_to_the_end(self) -> None:
        """A worker that comes last finds everything: what was neither cut nor parked is used, once, in order."""
        if self.oracle.is_on_hold:
            self.toggle_hold()
        self.tick(make.TTL_MS / 1000)
        for _ in range(200):
            outcome, passed = self.drain_by("last", False, ())
            if isinstance(outcome, LaneIdle):
                if outcome.available_at_ms is None:
                    break
                self.tick((outcome.available_at_ms - self.clock.now_ms()) / 1000)
                continue
            if passed.kind == "commands":
                self.claim_work(0, "command")
                self.commit_outside_of_a_turn(0, True)
                continue
            attempt = self.driven[-1]
            used = len(self.oracle.used)
            self.commit_claims(attempt.fence, attempt.turn, attempt.claims, self.oracle.head, release=True)
            assert len(self.oracle.used) > used or not passed.ids + passed.work_ids
        assert [row.id for row in self.oracle.texts if row.state == "pending"] == []
        assert [row.id for row in self.oracle.works if row.state == "pending"] == []
        self.the_store_shows_what_the_model_says()
        self.nothing_is_used_twice_or_used_and_cut()


def as_fields(request: LaneRequest) -> dict[str, Any]:
    return {name: getattr(request, name) for name in request.__struct_fields__}


def in_order(rows: Sequence[Any]) -> list[Any]:
    return sorted(rows, key=lambda row: row.seq)


def state_of(row: Text) -> InputState:
    if row.state == "pending":
        return InputState.DEFERRED_NEXT_TURN if row.target is None else InputState.PENDING_ACTIVE
    return InputState(row.state)


def make_pending(store: SqliteStore) -> Coroutine[Any, Any, list[str]]:
    return make.pending_ids(store)


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(
    max_examples=18, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
