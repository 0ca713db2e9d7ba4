"""Laws of waiting inputs: keys, order, looks and cancels, without a lane (contract 02 §1.2, §1.3, §1.7, §2)."""

from __future__ import annotations

import asyncio

import pytest

from lash_cli.core.content import TextItem, TurnInput
from lash_cli.core.ingress import (
    ActiveTurn,
    AlreadyCancelled,
    AlreadyClaimed,
    AlreadyCompleted,
    AnchorNotFound,
    ByInputId,
    BySourceKey,
    Cancelled,
    ClaimDiagnostics,
    InputDraft,
    InputState,
    NextTurn,
    PendingTurnInputCancelOutcome,
    PendingTurnInputCancelTarget,
    SuffixOutcomes,
    ingress_message_id,
)
from lash_cli.errors import (
    ConflictError,
    NotFoundError,
    PendingTurnInputSourceKeyConflict,
    SessionClosed,
    SessionDeleted,
)
from lash_cli.store.base import RuntimePersistence
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.factory import MovableClock, StoreLaws

S = make.SESSION


def kinds(outcomes: tuple[PendingTurnInputCancelOutcome, ...]) -> list[str]:
    """The outcomes by name."""
    return [type(outcome).__name__ for outcome in outcomes]


async def settle(store: RuntimePersistence, clock: MovableClock, turn_id: str = "d1") -> None:
    """Run one drain pass over everything that waits and commit it."""
    lane = make.granted(await store.open_lane(make.drain_request(clock, turn_id=turn_id)))
    await store.commit_runtime_state(make.ending(lane, make.append([f"m-{turn_id}"]), release=True))


class IngressLaws(StoreLaws):
    async def test_inputs_are_listed_in_the_order_they_came_each_session_by_itself(self) -> None:
        store = await make.opened(self.open_store, self.clock, S, "s2")
        for index in range(3):
            await make.enqueue(store, f"a{index}")
            await make.enqueue(self.open_store(), f"b{index}", session_id="s2")
        assert await make.pending_ids(store) == ["a0", "a1", "a2"]
        assert await make.pending_ids(store, "s2") == ["b0", "b1", "b2"]
        seqs = [row.enqueue_seq for row in await store.inputs(S, pending_only=False)]
        assert seqs == sorted(set(seqs))
        row = await store.session_row(S)
        assert row is not None and row.pending_inputs == 3

    async def test_an_input_keeps_what_was_submitted(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        content = TurnInput((TextItem("one"), TextItem("two")), trace_turn_id="t7")
        stored = await store.enqueue_turn_input(InputDraft(S, "i1", content, ActiveTurn("t1"), "host:k"))
        assert (stored.input, stored.ingress, stored.source_key) == (content, ActiveTurn("t1"), "host:k")
        assert (stored.state, stored.enqueued_at_ms) == (InputState.PENDING_ACTIVE, self.clock.now_ms())
        assert await self.open_store().turn_input(S, "i1") == (stored, None)
        assert await store.find_input("i1") == (stored, None)
        assert await store.session_of_input("i1") == S
        assert await store.input_of_key(S, "host:k") == "i1"
        assert await store.inputs(S, pending_only=True) == (stored,)

    async def test_an_unknown_input_or_key_is_none(self) -> None:
        store = await make.opened(self.open_store, self.clock, S, "s2")
        await make.enqueue(store, "i1", key="k")
        assert await store.turn_input("s2", "i1") is None
        assert await store.find_input("nothing") is None
        assert await store.session_of_input("nothing") is None
        assert await store.input_of_key("s2", "k") is None

    async def test_what_is_unsettled_is_listed_from_a_place_on_whoever_holds_it(self) -> None:
        store = await make.opened(self.open_store, self.clock, S, "s2")
        await make.enqueue(store, "used")
        await settle(store, self.clock)
        await make.enqueue(store, "dropped")
        await store.cancel_turn_inputs(S, [ByInputId("dropped")])
        await make.enqueue(store, "taken")
        make.granted(await store.open_lane(make.drain_request(self.clock, turn_id="t2")))
        free = await make.enqueue(store, "free")
        await make.enqueue(store, "foreign", session_id="s2")
        taken = await store.turn_input(S, "taken")
        assert taken is not None and taken[1] == "t2"
        assert await store.unsettled_inputs(S, from_seq=0) == (taken[0], free)
        assert await store.unsettled_inputs(S, from_seq=free.enqueue_seq) == (free,)

    async def test_a_replayed_key_returns_the_row_with_its_present_state(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        first = await make.enqueue(store, "i1", "text", key="k")
        self.clock.tick(5)
        assert await make.enqueue(self.open_store(), "i2", "text", key="k") == first
        assert await make.pending_ids(store) == ["i1"]
        await settle(store, self.clock)
        completed = await make.enqueue(store, "i3", "text", key="k")
        assert (completed.input_id, completed.state) == ("i1", InputState.COMPLETED)
        await make.enqueue(store, "i4", "other", key="k2")
        await store.cancel_turn_inputs(S, [ByInputId("i4")])
        assert (await make.enqueue(store, "i5", "other", key="k2")).state is InputState.CANCELLED

    async def test_a_key_of_another_submission_conflicts_and_stores_nothing(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        await make.enqueue(store, "i1", "text", key="k")
        for text, ingress in (("other", NextTurn()), ("text", ActiveTurn("t1"))):
            with pytest.raises(PendingTurnInputSourceKeyConflict) as caught:
                await make.enqueue(store, "i2", text, key="k", ingress=ingress)
            assert caught.value.details == {"session": S, "source_key": "k", "existing_input_id": "i1"}
        await store.cancel_turn_inputs(S, [ByInputId("i1")])
        with pytest.raises(PendingTurnInputSourceKeyConflict):
            await make.enqueue(store, "i2", "other", key="k")
        assert len(await store.inputs(S, pending_only=False)) == 1

    async def test_a_key_belongs_to_its_session(self) -> None:
        store = await make.opened(self.open_store, self.clock, S, "s2")
        await make.enqueue(store, "i1", "text", key="k")
        other = await make.enqueue(store, "i2", "other", key="k", session_id="s2")
        assert other.input_id == "i2"

    async def test_many_submissions_of_one_key_leave_one_row(self) -> None:
        stores = [self.open_store() for _ in range(4)]
        await make.create(stores[0], self.clock)
        rows = await asyncio.gather(
            *(make.enqueue(store, f"i{index}", "text", key="k") for index, store in enumerate(stores))
        )
        assert len({row.input_id for row in rows}) == 1
        assert len(await stores[0].inputs(S, pending_only=False)) == 1

    async def test_an_input_id_is_used_once_in_all_sessions(self) -> None:
        store = await make.opened(self.open_store, self.clock, S, "s2")
        await make.enqueue(store, "i1")
        for session_id in (S, "s2"):
            with pytest.raises(ConflictError) as caught:
                await make.enqueue(store, "i1", session_id=session_id)
            assert caught.value.code == "input_exists"

    async def test_an_input_id_that_stands_in_the_conversation_is_used_also_after_a_vacuum(self) -> None:
        """The message of another one would have the name of its own, and no turn that took it could be committed."""
        store = await make.opened(self.open_store, self.clock)
        first = await make.enqueue(store, "i1", key="k")
        lane = make.granted(await store.open_lane(make.drain_request(self.clock)))
        said = make.append([ingress_message_id("i1")])
        await store.commit_runtime_state(make.ending(lane, said, release=True))
        assert (await make.enqueue(store, "i1", key="k")).enqueue_seq == first.enqueue_seq
        await store.vacuum(S)
        with pytest.raises(ConflictError) as refused:
            await make.enqueue(store, "i1", key="k")
        assert refused.value.code == "input_exists"
        await make.enqueue(store, "i2", key="k")
        assert await make.pending_ids(store) == ["i2"]

    async def test_a_vacuum_frees_the_keys_of_settled_inputs_and_counts_them(self) -> None:
        store = await make.opened(self.open_store, self.clock, S, "s2")
        await make.enqueue(store, "i1", "text", key="k")
        await make.enqueue(store, "x1", session_id="s2")
        await store.cancel_turn_inputs("s2", [ByInputId("x1")])
        await settle(store, self.clock)
        await make.enqueue(store, "i2")
        await store.cancel_turn_inputs(S, [ByInputId("i2")])
        last = await make.enqueue(store, "i3")
        assert (await store.vacuum(S))["inputs"] == 2
        assert [row.input_id for row in await store.inputs(S, pending_only=False)] == ["i3"]
        assert len(await store.inputs("s2", pending_only=False)) == 1
        fresh = await make.enqueue(store, "i4", "other", key="k")
        assert (fresh.input_id, fresh.enqueue_seq > last.enqueue_seq) == ("i4", True)
        assert (await store.vacuum(None))["inputs"] == 1

    async def test_the_number_of_a_vacuumed_row_is_not_issued_again(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        last = await make.enqueue(store, "i1")
        await store.cancel_turn_inputs(S, [ByInputId("i1")])
        await store.vacuum(S)
        assert (await make.enqueue(store, "i2")).enqueue_seq > last.enqueue_seq

    async def test_closed_deleted_and_absent_sessions_take_nothing(self) -> None:
        store = self.open_store()
        for session_id in ("closed", "deleted"):
            await make.create(store, self.clock, session_id)
        await make.enqueue(store, "i1", session_id="closed")
        await store.set_session_flags("closed", closed_at_ms=1, parked_at_ms=None)
        await store.delete_session("deleted", 1)
        for session_id, error in (("closed", SessionClosed), ("deleted", SessionDeleted), ("no", NotFoundError)):
            with pytest.raises(error):
                await make.enqueue(store, "i2", session_id=session_id)
            with pytest.raises(error):
                await store.enqueue_queued_work(make.wake(session_id=session_id))
        assert await store.find_input("i2") is None
        (result,) = await store.cancel_turn_inputs("closed", [ByInputId("i1")])
        assert isinstance(result.outcome, Cancelled), "what waits in a closed session can still be taken out"

    async def test_a_deleted_session_takes_its_rows_along(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        await make.enqueue(store, "i1")
        (batch,) = await make.put(store, make.wake())
        await store.delete_session(S, 1)
        assert await store.find_input("i1") is None
        assert await store.find_batch(batch) is None
        assert await store.sessions_with_demand(limit=5) == ()

    async def test_a_set_is_judged_in_the_order_given_with_missing_and_repeated_targets(self) -> None:
        store = await make.opened(self.open_store, self.clock, S, "s2")
        await make.enqueue(store, "done", key="host:done")
        await settle(store, self.clock)
        await make.enqueue(store, "i1", key="host:k")
        await make.enqueue(store, "i2")
        await make.enqueue(store, "foreign", session_id="s2")
        targets: list[PendingTurnInputCancelTarget] = [
            ByInputId("i2"),
            ByInputId("nothing"),
            BySourceKey("host:k"),
            BySourceKey("k"),
            ByInputId("i2"),
            BySourceKey("host:done"),
            ByInputId("foreign"),
        ]
        results = await self.open_store().cancel_turn_inputs(S, targets)
        assert [result.target for result in results] == targets
        assert kinds(tuple(result.outcome for result in results)) == [
            "Cancelled",
            "InputNotFound",
            "Cancelled",
            "InputNotFound",
            "AlreadyCancelled",
            "AlreadyCompleted",
            "InputNotFound",
        ]
        first = results[0].outcome
        assert isinstance(first, Cancelled) and first.input.state is InputState.CANCELLED
        assert first.input.input == make.text_input()
        assert await make.pending_ids(store) == []
        assert await make.pending_ids(store, "s2") == ["foreign"]

    async def test_nothing_to_cancel_is_no_result(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        assert await store.cancel_turn_inputs(S, []) == ()

    async def test_only_what_nobody_holds_is_cancelled(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        for index in range(3):
            await make.enqueue(store, f"i{index}")
        lane = make.granted(await store.open_lane(make.drain_request(self.clock, max_inputs=2)))
        results = await store.cancel_turn_inputs(S, [ByInputId(f"i{index}") for index in range(3)])
        held, _, free = (result.outcome for result in results)
        assert isinstance(held, AlreadyClaimed) and isinstance(free, Cancelled)
        assert held.claim is not None and lane.claim is not None
        assert held.claim == ClaimDiagnostics(
            lane.claim.claim_id, 1, "d1", make.owner(), lane.claim.fencing_token, InputState.DEFERRED_NEXT_TURN
        )

    async def test_who_cancels_under_a_name_finds_what_it_took_out_and_nothing_else(self) -> None:
        store = await make.opened(self.open_store, self.clock, S, "s2")
        for name in ("a", "b", "c"):
            await make.enqueue(store, name)
        await make.enqueue(store, "foreign", session_id="s2")
        await store.cancel_turn_inputs(S, [ByInputId("a")])
        await store.cancel_turn_inputs(S, [ByInputId("a"), ByInputId("b")], by="me")
        await store.cancel_turn_inputs("s2", [ByInputId("foreign")], by="me")
        await store.cancel_turn_inputs(S, [ByInputId("b"), ByInputId("c")], by="another")
        assert await self.open_store().inputs_cancelled_by(S, "me") == {"b"}
        assert await store.inputs_cancelled_by(S, "another") == {"c"}
        assert await store.inputs_cancelled_by(S, "nobody") == set()
        assert await store.find_claim("me") is None

    async def test_several_inputs_are_queued_in_order_all_or_none(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        await make.enqueue(store, "a", key="k")
        drafts = [make.input_draft("b"), make.input_draft("again", key="k"), make.input_draft("c")]
        stored = await store.enqueue_turn_inputs(drafts)
        assert [row.input_id for row in stored] == ["b", "a", "c"]
        with pytest.raises(ConflictError):
            await store.enqueue_turn_inputs([make.input_draft("d"), make.input_draft("b")])
        assert await make.pending_ids(self.open_store()) == ["a", "b", "c"]
        assert await store.enqueue_turn_inputs([]) == ()

    async def test_a_used_input_names_its_turn(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        await make.enqueue(store, "used")
        await settle(store, self.clock, "d1")
        await make.enqueue(store, "cut")
        await store.cancel_turn_inputs(S, [ByInputId("cut")])
        await make.enqueue(store, "free")
        assert await self.open_store().turns_of_inputs(S) == {"used": "d1"}

    async def test_a_cancelled_input_enters_no_turn(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        await make.enqueue(store, "i1")
        await make.enqueue(store, "i2")
        await store.cancel_turn_inputs(S, [ByInputId("i1")])
        lane = make.granted(await store.open_lane(make.drain_request(self.clock)))
        assert make.ids_of(lane.claim) == ["i2"]

    @pytest.mark.parametrize("anchor", [ByInputId("i1"), BySourceKey("host:i1")])
    async def test_a_suffix_covers_every_row_from_the_anchor_on_and_leaves_held_ones(
        self, anchor: PendingTurnInputCancelTarget
    ) -> None:
        store = await make.opened(self.open_store, self.clock, S, "s2")
        lane = await make.start(store, self.clock, "t1")
        await make.enqueue(store, "i0")
        await make.enqueue(store, "i1", key="host:i1")
        await make.enqueue(store, "foreign", session_id="s2")
        await make.enqueue(store, "held", ingress=ActiveTurn("t1"))
        claims = await store.claim_checkpoint_work(make.fence_of_lane(lane), make.checkpoint_request())
        assert make.ids_of(claims.inputs) == ["held"]
        await make.enqueue(store, "steer", ingress=ActiveTurn("t1"))
        await make.enqueue(store, "gone")
        await store.cancel_turn_inputs(S, [ByInputId("gone")])
        outcome = await self.open_store().cancel_turn_input_suffix(S, anchor)
        assert isinstance(outcome, SuffixOutcomes) and outcome.anchor == anchor
        assert kinds(outcome.outcomes) == ["Cancelled", "AlreadyClaimed", "Cancelled", "AlreadyCancelled"]
        assert await make.pending_ids(store) == ["i0"]
        assert await make.pending_ids(store, "s2") == ["foreign"]

    async def test_the_anchor_of_a_suffix_is_only_a_place(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        await make.enqueue(store, "done")
        await settle(store, self.clock)
        await make.enqueue(store, "i1")
        outcome = await store.cancel_turn_input_suffix(S, ByInputId("done"))
        assert isinstance(outcome, SuffixOutcomes)
        assert [type(one) for one in outcome.outcomes] == [AlreadyCompleted, Cancelled]
        again = await store.cancel_turn_input_suffix(S, ByInputId("i1"))
        assert isinstance(again, SuffixOutcomes)
        assert [type(one) for one in again.outcomes] == [AlreadyCancelled]

    async def test_a_missing_or_foreign_anchor_changes_nothing(self) -> None:
        store = await make.opened(self.open_store, self.clock, S, "s2")
        await make.enqueue(store, "i1")
        await make.enqueue(store, "foreign", session_id="s2")
        mark = await store.change_mark()
        anchors: tuple[PendingTurnInputCancelTarget, ...] = (ByInputId("no"), BySourceKey("no"), ByInputId("foreign"))
        for anchor in anchors:
            assert await store.cancel_turn_input_suffix(S, anchor) == AnchorNotFound(anchor)
        assert await store.change_mark() == mark
        assert await make.pending_ids(store) == ["i1"]

    async def test_a_race_of_cancel_and_claim_has_one_winner(self) -> None:
        store, other = self.open_store(), self.open_store()
        await make.create(store, self.clock)
        for index in range(12):
            input_id = f"i{index}"
            await make.enqueue(store, input_id)
            request = make.drain_request(self.clock, turn_id=f"d{index}")
            (result,), outcome = await asyncio.gather(
                other.cancel_turn_inputs(S, [ByInputId(input_id)]), store.open_lane(request)
            )
            is_taken = isinstance(result.outcome, AlreadyClaimed)
            if not is_taken:
                assert isinstance(result.outcome, Cancelled)
                assert make.idle(outcome).reason == "empty"
                continue
            lane = make.granted(outcome)
            assert make.ids_of(lane.claim) == [input_id]
            head = await store.head_position(S)
            commit = make.ending(
                lane, make.append([f"m{index}"], parent=head.leaf_node_id), expected=head.head_revision, release=True
            )
            await store.commit_runtime_state(commit)

    async def test_a_look_at_a_mark_tells_whether_anything_changed(self) -> None:
        store, other = self.open_store(), self.open_store()
        await make.create(store, self.clock)
        mark = await store.change_mark()
        await store.inputs(S, pending_only=False)
        await other.demand(S)
        assert await store.change_mark() == mark
        await make.enqueue(other, "i1")
        changed = await store.change_mark()
        assert changed != mark
        await make.enqueue(store, "i2")
        assert await store.change_mark() != changed
