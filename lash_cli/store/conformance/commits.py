"""Laws of `commit_runtime_state` and the cancel gate (contract 01 §6.6, §9.2, §18)."""

from __future__ import annotations

import asyncio

import pytest

from lash_cli.core.commit import MAX_COMMIT_NODES, CheckpointComponent, ReplaceFull, Unchanged
from lash_cli.core.lease import LeaseFence
from lash_cli.core.outcome import CancelRequested, CompletionSealed
from lash_cli.core.usage import TokenLedgerEntry, TokenUsage
from lash_cli.errors import (
    ConflictError,
    HeadRevisionConflict,
    MissingCheckpointComponent,
    RuntimeTurnCommitConflict,
    SessionBindingMismatch,
    SessionExecutionLeaseExpired,
    TurnCancelWon,
    TurnInputClaimSuperseded,
)
from lash_cli.store.base import ReadScope
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.factory import StoreLaws

S = make.SESSION


class CommitLaws(StoreLaws):
    async def test_each_commit_moves_the_head_by_one_and_reads_back(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        assert await store.load_session(S, ReadScope.ACTIVE_PATH) is None
        fence = await make.fence_of(store)
        first = await store.commit_runtime_state(make.commit(fence, make.append(["m1", "m2"]), turn_index=1))
        second = await store.commit_runtime_state(
            make.commit(fence, make.append(["m3"], parent="m2"), expected=1, turn_index=2)
        )
        assert (first.head_revision, second.head_revision) == (1, 2)
        read = await self.open_store().load_session(S, ReadScope.ACTIVE_PATH)
        assert read is not None
        assert [node.node_id for node in read.nodes] == ["m1", "m2", "m3"]
        assert read.nodes == make.nodes(["m1", "m2", "m3"])
        assert (read.head_revision, read.leaf_node_id, read.turn_state.turn_index) == (2, "m3", 2)
        assert (read.config, read.frames, read.checkpoint_ref) == (make.CONFIG, make.frames(), second.checkpoint_ref)

    async def test_of_many_commits_with_one_expected_head_exactly_one_wins(self) -> None:
        stores = [self.open_store() for _ in range(4)]
        await make.create(stores[0], self.clock)
        fence = await make.fence_of(stores[0])
        outcomes = await asyncio.gather(
            *(
                store.commit_runtime_state(make.commit(fence, make.append([f"m{index}"])))
                for index, store in enumerate(stores)
            ),
            return_exceptions=True,
        )
        errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert len(errors) == 3
        assert all(isinstance(error, HeadRevisionConflict) and error.actual == 1 for error in errors)

    async def test_no_expectation_is_refused_on_an_existing_head_unless_it_is_replaced(self) -> None:
        store, fence = await make.held(self.open_store, self.clock)
        await store.commit_runtime_state(make.commit(fence, make.append(["m1"])))
        with pytest.raises(HeadRevisionConflict):
            await store.commit_runtime_state(make.commit(fence, make.append(["m2"], parent="m1")))
        replaced = await store.commit_runtime_state(make.commit(fence, ReplaceFull(make.nodes(["n1"]), "n1")))
        assert replaced.head_revision == 2
        with pytest.raises(HeadRevisionConflict):  # who names a head is held to it whatever is done to it
            await store.commit_runtime_state(make.commit(fence, ReplaceFull(make.nodes(["n2"]), "n2"), expected=1))

    async def test_parts_of_another_session_are_refused(self) -> None:
        store = await make.opened(self.open_store, self.clock, S, "s2")
        fence = await make.fence_of(store)
        foreign_fence = await make.fence_of(store, session_id="s2")
        foreign = LeaseFence("s2", fence.owner_id, fence.incarnation_id, fence.lease_token, fence.fencing_token)
        proposal = make.commit(fence, make.append(["m1"]))
        for wrong in (
            make.commit(fence, make.append(["m1"]), with_frames=make.frames("s2")),
            type(proposal)(S, foreign, proposal.config, proposal.graph, proposal.checkpoint, 1),
        ):
            with pytest.raises(SessionBindingMismatch):
                await store.commit_runtime_state(wrong)
        begun = make.commit(foreign_fence, make.append(["n1"], frame_id=make.frames("s2")[0].frame_id))
        await store.commit_runtime_state(begun)
        with pytest.raises(ConflictError) as caught:
            await store.commit_runtime_state(
                make.commit(fence, make.append(["m1"], frame_id=make.frames("s2")[0].frame_id))
            )
        assert caught.value.code == "agent_frame_unknown"

    async def test_checkpoint_components_are_kept_replaced_and_cleared(self) -> None:
        store, fence = await make.held(self.open_store, self.clock)
        first = await store.commit_runtime_state(
            make.commit(
                fence,
                make.append(["m1"]),
                components={
                    "a": CheckpointComponent(body=b"one"),
                    "b": CheckpointComponent(body=b"two"),
                    "c": CheckpointComponent(body=b"three"),
                },
            )
        )
        second = await store.commit_runtime_state(
            make.commit(
                fence,
                Unchanged("m1"),
                expected=1,
                components={
                    "a": CheckpointComponent(ref=first.component_refs["a"]),
                    "b": CheckpointComponent(body=b"new"),
                    "c": CheckpointComponent(),
                },
            )
        )
        assert set(second.component_refs) == {"a", "b"}
        assert second.component_refs["a"] == first.component_refs["a"]
        assert await store.load_component(second.component_refs["b"]) == b"new"
        third = await store.commit_runtime_state(make.commit(fence, Unchanged("m1"), expected=2))
        assert third.component_refs == second.component_refs
        earlier = {"b": CheckpointComponent(ref=first.component_refs["b"])}
        fourth = await store.commit_runtime_state(make.commit(fence, Unchanged("m1"), expected=3, components=earlier))
        assert fourth.component_refs == {name: first.component_refs[name] for name in ("a", "b")}
        with pytest.raises(MissingCheckpointComponent):
            await store.load_component("f" * 64)
        with pytest.raises(MissingCheckpointComponent):
            await store.commit_runtime_state(
                make.commit(fence, Unchanged("m1"), expected=4, components={"a": CheckpointComponent(ref="f" * 64)})
            )

    async def test_usage_rows_sum(self) -> None:
        store, fence = await make.held(self.open_store, self.clock)
        deltas = (make.usage(3), make.usage(4), make.usage(5, "child"))
        await store.commit_runtime_state(make.commit(fence, make.append(["m1"]), usage_deltas=deltas))
        await store.commit_runtime_state(
            make.commit(fence, Unchanged("m1"), expected=1, usage_deltas=(make.usage(10),))
        )
        read = await store.load_session(S, ReadScope.ACTIVE_PATH)
        assert read is not None
        assert read.token_ledger == (
            TokenLedgerEntry("child", make.MODEL.id, TokenUsage(5, 1)),
            TokenLedgerEntry("turn", make.MODEL.id, TokenUsage(17, 3)),
        )

    async def test_a_replayed_stamp_answers_without_a_lease_and_another_content_conflicts(self) -> None:
        store, fence = await make.held(self.open_store, self.clock)
        proposal = make.commit(fence, make.append(["m1"]), turn=make.stamp(), usage_deltas=(make.usage(),))
        first = await store.commit_runtime_state(proposal)
        self.clock.tick(make.TTL_MS / 1000)
        before = await make.snapshot(store)
        replayed = await self.open_store().commit_runtime_state(proposal)
        assert replayed.replayed and not first.replayed
        assert (replayed.head_revision, replayed.leaf_node_id, replayed.checkpoint_ref) == (
            first.head_revision,
            first.leaf_node_id,
            first.checkpoint_ref,
        )
        with pytest.raises(RuntimeTurnCommitConflict):
            await store.commit_runtime_state(make.commit(fence, make.append(["m9"]), turn=make.stamp("t1", "h2")))
        assert await make.snapshot(store) == before

    async def test_a_replayed_stamp_performs_the_release_but_never_a_successors(self) -> None:
        store, fence = await make.held(self.open_store, self.clock)
        await store.commit_runtime_state(make.commit(fence, make.append(["m1"]), turn=make.stamp()))
        again = make.commit(fence, make.append(["m1"]), turn=make.stamp(), release=True)
        await store.commit_runtime_state(again)
        successor = await make.fence_of(store, "b")
        await store.commit_runtime_state(again)
        row = await store.session_row(S)
        assert row is not None and row.lease.token == successor.lease_token

    async def test_a_stale_fence_cannot_commit_and_changes_nothing(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        stale = await make.fence_of(store)
        self.clock.tick(make.TTL_MS / 1000)
        before = await make.snapshot(store)
        with pytest.raises(SessionExecutionLeaseExpired):
            await store.commit_runtime_state(make.commit(stale, make.append(["m1"])))
        assert await make.snapshot(store) == before
        current = await make.fence_of(store, "b")
        with pytest.raises(SessionExecutionLeaseExpired):
            await store.commit_runtime_state(make.commit(stale, make.append(["m1"])))
        await store.commit_runtime_state(make.commit(current, make.append(["m1"])))

    async def test_any_refusal_rolls_everything_back(self) -> None:
        store, lane = await make.running(self.open_store, self.clock)
        fence = make.fence_of_lane(lane)
        before = await make.snapshot(store)
        assert lane.claim is not None
        stolen = type(lane.claim)(S, lane.claim.claim_id, "other-token", 1, "t1", lane.claim.inputs)
        partial = type(lane.claim)(S, lane.claim.claim_id, lane.claim.claim_token, 1, "t1", ())
        body = {"a": CheckpointComponent(body=b"x")}
        wrong = [
            (make.commit(fence, make.append(["m1"]), claim=stolen, components=body), TurnInputClaimSuperseded),
            (make.commit(fence, make.append(["m1"]), claim=partial, components=body), TurnInputClaimSuperseded),
            (make.commit(fence, make.append(["m1"], parent="nowhere"), claim=lane.claim), ConflictError),
            (make.commit(fence, make.append(["m1"], frame_id="nowhere"), claim=lane.claim), ConflictError),
            (make.commit(fence, make.append(["m1", "m1"]), claim=lane.claim), ConflictError),
            (make.commit(fence, Unchanged("nowhere"), claim=lane.claim, usage_deltas=(make.usage(),)), ConflictError),
        ]
        for proposal, expected_error in wrong:
            with pytest.raises(expected_error):
                await store.commit_runtime_state(proposal)
            assert await make.snapshot(store) == before

    async def test_a_commit_beyond_the_budget_is_refused(self) -> None:
        store, fence = await make.held(self.open_store, self.clock)
        too_many = [f"m{index}" for index in range(MAX_COMMIT_NODES + 1)]
        with pytest.raises(ConflictError) as caught:
            await store.commit_runtime_state(make.commit(fence, make.append(too_many)))
        assert caught.value.code == "commit_too_large"
        await store.commit_runtime_state(make.commit(fence, make.append(too_many[1:])))

    async def test_a_commit_with_release_frees_the_lane_and_keeps_the_fence(self) -> None:
        store, fence = await make.held(self.open_store, self.clock)
        await store.commit_runtime_state(make.commit(fence, make.append(["m1"]), release=True))
        row = await store.session_row(S)
        assert row is not None and row.lease.token is None
        assert row.lease.fencing_token == fence.fencing_token
        assert (await make.take(store, "b")).fencing_token == fence.fencing_token + 1

    async def test_a_commit_is_activity_and_ends_parking(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        await store.set_session_flags(S, closed_at_ms=None, parked_at_ms=9)
        fence = await make.fence_of(store)
        await store.commit_runtime_state(make.commit(fence, make.append(["m1"]), now_ms=77))
        row = await store.session_row(S)
        assert row is not None and (row.meta.parked_at_ms, row.last_commit_at_ms) == (None, 77)

    async def test_a_cancel_that_reached_the_gate_first_must_be_committed_with_its_evidence(self) -> None:
        store, fence = await make.held(self.open_store, self.clock)
        assert await self.open_store().request_turn_cancel(S, "t1", make.evidence(), 1) is None
        before = await make.snapshot(store)
        for late in (make.stamp(), make.stamp(cancellation=make.evidence("r2"))):
            with pytest.raises(TurnCancelWon) as caught:
                await store.commit_runtime_state(make.commit(fence, make.append(["m1"]), turn=late))
            assert caught.value.details["evidence"]["request_id"] == "r1"
        assert await make.snapshot(store) == before
        won = make.stamp(cancellation=make.evidence())
        await store.commit_runtime_state(make.commit(fence, make.append(["m1"]), turn=won))
        assert await store.cancel_gate(S, "t1") == CancelRequested(make.evidence())

    async def test_a_completed_turn_seals_the_gate(self) -> None:
        store, fence = await make.held(self.open_store, self.clock)
        assert await store.cancel_gate(S, "t1") is None
        await store.commit_runtime_state(make.commit(fence, make.append(["m1"]), turn=make.stamp()))
        assert await store.request_turn_cancel(S, "t1", make.evidence(), 1) == CompletionSealed()

    async def test_the_requests_of_running_turns_are_found_together_until_they_are_committed(self) -> None:
        store = self.open_store()
        lanes = {}
        for session_id in ("s1", "s2", "s3"):
            await make.create(store, self.clock, session_id)
            request = make.lane_request(self.clock, session_id=session_id, input_id=f"in-{session_id}")
            lanes[session_id] = make.granted(await store.open_lane(request))
        assert await store.cancel_requests() == ()
        await self.open_store().request_turn_cancel("s1", "t1", make.evidence(), 1)
        await store.request_turn_cancel("s3", "t1", make.evidence("r3"), 1)
        await store.request_turn_cancel("s2", "not-running", make.evidence("r4"), 1)
        asked = {("s1", "t1", make.evidence()), ("s3", "t1", make.evidence("r3"))}
        assert set(await store.cancel_requests()) == asked
        lane = lanes[S]
        won = make.stamp(cancellation=make.evidence())
        await store.commit_runtime_state(make.commit(make.fence_of_lane(lane), make.append(["m1"]), turn=won))
        assert await store.cancel_requests() == (("s3", "t1", make.evidence("r3")),)

    async def test_the_second_cancel_request_learns_the_first(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        await store.request_turn_cancel(S, "t1", make.evidence("r1"), 1)
        standing = await store.request_turn_cancel(S, "t1", make.evidence("r2"), 2)
        assert standing == CancelRequested(make.evidence("r1"))

    async def test_a_cancel_of_the_turns_own_is_recorded_with_the_commit(self) -> None:
        store, fence = await make.held(self.open_store, self.clock)
        turn = make.stamp(cancellation=make.evidence("ctrl-c"))
        await store.commit_runtime_state(make.commit(fence, make.append(["m1"]), turn=turn))
        assert await store.cancel_gate(S, "t1") == CancelRequested(make.evidence("ctrl-c"))
