"""Laws of input rows under claims: visibility, deferral, orphan repair (contract 02 §1.4, §1.7, §1.8, §4)."""

from __future__ import annotations

import pytest

from lash_cli.core.ingress import ActiveTurn, AlreadyClaimed, ByInputId, InputState, NextTurn
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.factory import StoreLaws

S = make.SESSION
TTL_SECONDS = make.TTL_MS / 1000


class InputLaws(StoreLaws):
    @pytest.mark.parametrize("end", ["expiry", "release"])
    async def test_the_text_of_an_unfinished_turn_stays_held_whoever_holds_the_lane(self, end: str) -> None:
        store, lane = await make.running(self.open_store, self.clock)
        if end == "expiry":
            self.clock.tick(TTL_SECONDS)
        else:
            await store.release_lease(make.fence_of_lane(lane))
        assert await self.open_store().inputs(S, pending_only=True) == ()
        row = await store.session_row(S)
        assert row is not None and row.pending_inputs == 0
        (result,) = await store.cancel_turn_inputs(S, [ByInputId("in-t1")])
        assert isinstance(result.outcome, AlreadyClaimed)
        assert result.outcome.claim is not None and result.outcome.claim.turn_id == "t1"

    async def test_a_terminal_commit_defers_what_was_addressed_to_its_turn_and_not_taken(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        request = make.lane_request(self.clock, ingress=ActiveTurn("t1"))
        lane = make.granted(await store.open_lane(request))
        (row,) = await store.inputs(S, pending_only=False)
        assert (row.state, row.ingress) == (InputState.PENDING_ACTIVE, ActiveTurn("t1"))
        await store.commit_runtime_state(
            make.commit(make.fence_of_lane(lane), make.append(["m1"]), turn=make.stamp(), defer="t1")
        )
        (deferred,) = await store.inputs(S, pending_only=True)
        assert (deferred.state, deferred.ingress) == (InputState.DEFERRED_NEXT_TURN, NextTurn())
        assert deferred.enqueue_seq == row.enqueue_seq

    async def test_a_settled_input_is_not_deferred(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        lane = make.granted(await store.open_lane(make.lane_request(self.clock, ingress=ActiveTurn("t1"))))
        fence = make.fence_of_lane(lane)
        await store.commit_runtime_state(
            make.commit(fence, make.append(["m1"]), turn=make.stamp(), claim=lane.claim, defer="t1")
        )
        assert [row.state for row in await store.inputs(S, pending_only=False)] == [InputState.COMPLETED]

    async def test_a_lane_start_defers_inputs_of_turns_that_run_no_more(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        lane = make.granted(await store.open_lane(make.lane_request(self.clock, ingress=ActiveTurn("t1"), key="k")))
        await store.commit_runtime_state(
            make.commit(make.fence_of_lane(lane), make.append(["m1"]), turn=make.stamp(), release=True)
        )
        assert [row.state for row in await store.inputs(S, pending_only=True)] == [InputState.PENDING_ACTIVE]
        await store.open_lane(make.lane_request(self.clock, "b", turn_id="t2"))
        assert [row.state for row in await store.inputs(S, pending_only=True)] == [InputState.DEFERRED_NEXT_TURN]

    async def test_a_deferred_resubmission_is_still_the_same_submission(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        request = make.lane_request(self.clock, ingress=ActiveTurn("t1"), key="k")
        lane = make.granted(await store.open_lane(request))
        await store.commit_runtime_state(
            make.commit(make.fence_of_lane(lane), make.append(["m1"]), turn=make.stamp(), defer="t1", release=True)
        )
        again = make.granted(
            await store.open_lane(make.lane_request(self.clock, turn_id="t2", ingress=ActiveTurn("t1"), key="k"))
        )
        assert again.claim is not None
        assert [row.input_id for row in again.claim.inputs] == ["in-t1"]
        assert len(await store.inputs(S, pending_only=False)) == 1
