"""Laws of what a lane gives first: holds, commands before text, unfinished turns (contract 02 §5, §6.1; design §3)."""

from __future__ import annotations

import msgspec
import pytest

from lash_cli.core.ingress import ActiveTurn
from lash_cli.core.queued_work import SlotPolicy
from lash_cli.errors import QueuedWorkClaimSuperseded, SessionClosed, TurnInputClaimSuperseded
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.drains import commit_turn
from lash_cli.store.conformance.factory import StoreLaws

S = make.SESSION
TTL_SECONDS = make.TTL_MS / 1000


class LaneOrderLaws(StoreLaws):
    async def test_a_held_queue_gives_nothing_not_even_an_unfinished_turn(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        await make.start(store, self.clock, "t1")
        self.clock.tick(TTL_SECONDS)
        await make.enqueue(store, "i1")
        await make.put(store, make.command(), make.wake())
        assert await store.set_queue_hold(S, held_at_ms=7, reason="editing")
        assert not await self.open_store().set_queue_hold(S, held_at_ms=8, reason="again")
        row = await store.session_row(S)
        assert row is not None and (row.meta.held_at_ms, row.meta.hold_reason) == (7, "editing"), "the first stands"
        mark = await store.change_mark()
        assert make.idle(await store.open_lane(make.drain_request(self.clock, "b"))).reason == "held"
        assert await store.change_mark() == mark
        assert await store.set_queue_hold(S, held_at_ms=None)
        assert not await store.set_queue_hold(S, held_at_ms=None)
        row = await store.session_row(S)
        assert row is not None and (row.meta.held_at_ms, row.meta.hold_reason) == (None, None)
        lane = make.granted(await store.open_lane(make.drain_request(self.clock, "b")))
        assert lane.redrive

    async def test_a_held_queue_gives_a_running_turn_and_a_host_nothing(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        fence = make.fence_of_lane(await make.start(store, self.clock, "t1"))
        await make.enqueue(store, "taken", ingress=ActiveTurn("t1"))
        taken = await store.claim_checkpoint_work(fence, make.checkpoint_request(name="c1"))
        await make.enqueue(store, "steer", ingress=ActiveTurn("t1"))
        await make.enqueue(store, "next")
        (command,) = await make.put(store, make.command())
        await store.set_queue_hold(S, held_at_ms=7)
        mark = await store.change_mark()
        assert (await store.claim_checkpoint_work(fence, make.checkpoint_request(name="c2"))).inputs is None
        assert await store.claim_next_turn_inputs(fence, claim_token="ct") is None
        assert await store.claim_leading_session_command(fence, claim_token="ct") is None
        assert await store.claim_ready_queued_work(fence, "idle", claim_token="ct") is None
        assert await store.change_mark() == mark
        assert await store.claim_checkpoint_work(fence, make.checkpoint_request(name="c1")) == taken
        assert await make.pending_ids(store) == ["steer", "next"], "what is held can still be seen and cut"
        assert await make.pending_batch_ids(store) == [command]

    async def test_a_foreground_turn_runs_on_a_held_queue_and_leaves_its_commands(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        await make.put(store, make.command())
        await store.set_queue_hold(S, held_at_ms=7)
        lane = await make.start(store, self.clock)
        assert not lane.commands_due and make.ids_of(lane.claim) == ["in-t1"]

    async def test_a_closed_session_offers_no_pass(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        await make.enqueue(store, "i1")
        await store.set_session_flags(S, closed_at_ms=3, parked_at_ms=None)
        with pytest.raises(SessionClosed):
            await store.open_lane(make.drain_request(self.clock))

    async def test_commands_that_lead_go_before_the_text_of_a_foreground_turn(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        await make.enqueue(store, "older")
        self.clock.tick(1)
        await make.put(store, make.command())
        request = make.lane_request(self.clock)
        lane = make.granted(await store.open_lane(request))
        assert lane.commands_due and lane.turn is None and lane.lease is not None
        assert await store.find_input("in-t1") is None
        claim = await store.claim_leading_session_command(make.fence_of_lane(lane), claim_token="ct")
        await store.commit_runtime_state(make.commit(make.fence_of_lane(lane), make.append(["m1"]), work=[claim]))
        following = make.granted(await store.open_lane(request))
        assert make.ids_of(following.claim) == ["in-t1"], "its own text, not what waited before"

    @pytest.mark.parametrize("known", [0, 2])
    @pytest.mark.parametrize("is_drain", [False, True])
    async def test_a_turn_is_begun_only_on_the_head_its_request_was_made_from(self, known: int, is_drain: bool) -> None:
        store = await make.opened(self.open_store, self.clock)
        await commit_turn(store, await make.start(store, self.clock))
        if is_drain:
            await make.enqueue(store, "in-t2")
        before = await make.pending_ids(store)
        plain = make.drain_request(self.clock) if is_drain else make.lane_request(self.clock, turn_id="t2")
        moved = msgspec.structs.replace(plain, known_head_revision=known)
        lane = make.granted(await store.open_lane(moved))
        assert lane.refresh_due and lane.head.head_revision == 1 and lane.lease is not None
        assert lane.turn is None and lane.claim is None and await make.pending_ids(store) == before
        following = make.granted(await store.open_lane(msgspec.structs.replace(plain, known_head_revision=1)))
        assert not following.refresh_due and make.ids_of(following.claim) == ["in-t2"]

    async def test_a_command_whose_next_attempt_is_due_leads_again(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        await make.put(store, make.command())
        fence = await make.fence_of(store)
        claim = await store.claim_leading_session_command(fence, claim_token="ct")
        assert claim is not None
        await store.fail_queued_work(fence, claim, "boom")
        await store.release_lease(fence)
        lane = await make.start(store, self.clock)
        assert not lane.commands_due
        await commit_turn(store, lane)
        self.clock.tick(1)
        assert make.granted(await store.open_lane(make.lane_request(self.clock, turn_id="t2"))).commands_due

    async def test_turn_work_that_leads_leaves_a_foreground_turn_alone(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        await make.put(store, make.wake(), make.command())
        lane = await make.start(store, self.clock)
        assert not lane.commands_due and make.ids_of(lane.claim) == ["in-t1"]

    async def test_a_foreground_turn_takes_up_its_own_key_from_the_queue(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        await make.enqueue(store, "i1", "hi", key="k")
        lane = make.granted(await store.open_lane(make.lane_request(self.clock, key="k")))
        assert make.ids_of(lane.claim) == ["i1"]
        assert len(await store.inputs(S, pending_only=False)) == 1

    @pytest.mark.parametrize("family", ["inputs", "work"])
    async def test_an_unfinished_pass_is_driven_again_with_its_claims_under_a_new_token(self, family: str) -> None:
        store = await make.opened(self.open_store, self.clock)
        if family == "inputs":
            await make.enqueue(store, "i1")
            await make.enqueue(store, "i2")
        else:
            await make.put(store, make.work("a"), make.work("b"))
        dead = make.granted(await store.open_lane(make.drain_request(self.clock)))
        self.clock.tick(TTL_SECONDS)
        await make.enqueue(store, "newer")
        lane = make.granted(await self.open_store().open_lane(make.drain_request(self.clock, "b", turn_id="d2")))
        assert lane.redrive and lane.turn is not None and dead.turn is not None
        assert (lane.turn.turn_id, lane.turn.generation, lane.turn.origin) == ("d1", 2, dead.turn.origin)
        old, new = (dead.claim, lane.claim) if family == "inputs" else (dead.work, lane.work)
        assert old is not None and new is not None
        assert (make.ids_of(new), new.claim_id) == (make.ids_of(old), old.claim_id)
        assert (new.claim_token, new.generation) == ("claim-b", 2)
        error = TurnInputClaimSuperseded if family == "inputs" else QueuedWorkClaimSuperseded
        stale = make.commit(
            make.fence_of_lane(lane),
            make.append(["m1"]),
            turn=make.stamp("d1"),
            claim=dead.claim,
            work=[dead.work],
        )
        with pytest.raises(error):
            await store.commit_runtime_state(stale)
        await commit_turn(store, lane)
        assert await make.pending_ids(store) == ["newer"]

    async def test_named_batches_are_driven_again_in_the_order_they_were_named(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        first, second, third = await make.put(store, make.work("a"), make.work("b"), make.work("c"))
        named = (third, first, second)
        await store.open_lane(make.drain_request(self.clock, batch_ids=named))
        self.clock.tick(TTL_SECONDS)
        lane = make.granted(await store.open_lane(make.drain_request(self.clock, "b", turn_id="d2")))
        assert tuple(make.ids_of(lane.work)) == named

    async def test_work_taken_at_a_checkpoint_stays_with_its_turn_and_keeps_its_token(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        fence = make.fence_of_lane(await make.start(store, self.clock, "t1"))
        (wake,) = await make.put(store, make.work("a", slot=SlotPolicy.EXCLUSIVE))
        taken = await store.claim_checkpoint_work(fence, make.checkpoint_request())
        self.clock.tick(TTL_SECONDS)
        assert await make.pending_batch_ids(store) == []
        assert await store.cancel_queued_work_batch(S, wake) is None
        lane = make.granted(await store.open_lane(make.drain_request(self.clock, "b")))
        assert lane.redrive and lane.work is None, "it was not started from that work"
        again = await store.claim_checkpoint_work(make.fence_of_lane(lane), make.checkpoint_request())
        assert taken.work is not None and again.work is not None
        assert (again.work.claim_token, again.work.generation) == (taken.work.claim_token, 2)
        await store.commit_runtime_state(make.ending(lane, work=[taken.work], release=True))
        assert await store.queued_work(S, pending_only=False) == ()
