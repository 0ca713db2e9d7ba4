"""Laws of claimed work: the head of the line, groups, gates, names, generations (contract 02 §3.3, §3.4, §4)."""

from __future__ import annotations

import asyncio

import pytest

from lash_cli.core.ingress import ActiveTurn
from lash_cli.core.lease import LeaseFence
from lash_cli.core.queued_work import DeliveryPolicy, QueuedWorkClaimBoundary, SlotPolicy
from lash_cli.store.base import RuntimePersistence
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.factory import StoreLaws
from lash_cli.store.conformance.input_claims import end

S = make.SESSION
AFTER_COMMIT = DeliveryPolicy.AFTER_CURRENT_TURN_COMMIT
EXCLUSIVE = SlotPolicy.EXCLUSIVE
TTL_SECONDS = make.TTL_MS / 1000


class WorkClaimLaws(StoreLaws):
    async def test_a_command_at_the_head_gates_turn_work(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        fence = make.fence_of_lane(await make.start(store, self.clock, "t1"))
        command, wake = await make.put(store, make.command(), make.wake())
        assert await self._claim(store, fence, "idle") == []
        assert await self._claim(store, fence, "active_turn_checkpoint") == []
        assert (await store.claim_checkpoint_work(fence, make.checkpoint_request())).work is None
        claim = await store.claim_leading_session_command(fence, claim_token="ct")
        assert claim is not None and make.ids_of(claim) == [command] and claim.turn_id is None
        assert await self._claim(store, fence, "idle") == [wake], "an own claim on the head does not gate"

    async def test_a_later_command_does_not_jump_earlier_turn_work(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        wake, command = await make.put(store, make.wake(), make.command())
        fence = await make.fence_of(store)
        assert await store.claim_leading_session_command(fence, claim_token="ct") is None
        assert await self._claim(store, fence, "idle") == [wake]
        assert make.ids_of(await store.claim_leading_session_command(fence, claim_token="ct")) == [command]
        assert await store.claim_leading_session_command(fence, claim_token="ct") is None

    async def test_leading_commands_are_claimed_one_at_a_time(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        ids = await make.put(store, make.command("a"), make.command("b"))
        fence = await make.fence_of(store)
        claims = [await store.claim_leading_session_command(fence, claim_token="ct") for _ in range(3)]
        assert [make.ids_of(claim) for claim in claims] == [[ids[0]], [ids[1]], []]

    async def test_a_head_that_waits_for_the_commit_shields_a_checkpoint(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        head, behind = await make.put(store, make.work("a", delivery=AFTER_COMMIT, slot=EXCLUSIVE), make.wake())
        fence = make.fence_of_lane(await make.start(store, self.clock, "t1"))
        mark = await store.change_mark()
        assert (await store.claim_checkpoint_work(fence, make.checkpoint_request())).work is None
        assert await self._claim(store, fence, "active_turn_checkpoint") == []
        assert await store.change_mark() == mark, "a shielded look writes nothing"
        assert await self._claim(store, fence, "idle") == [head]
        claims = await store.claim_checkpoint_work(fence, make.checkpoint_request())
        assert make.ids_of(claims.work) == [behind], "an own claim on the head does not shield"

    async def test_a_checkpoint_takes_both_families_once_per_generation(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        fence = make.fence_of_lane(await make.start(store, self.clock, "t1"))
        await make.enqueue(store, "i1", ingress=ActiveTurn("t1"))
        (wake,) = await make.put(store, make.wake())
        claims = await store.claim_checkpoint_work(fence, make.checkpoint_request())
        assert (make.ids_of(claims.inputs), make.ids_of(claims.work)) == (["i1"], [wake])
        assert claims.work is not None
        assert (claims.work.claim_id, claims.work.claim_token, claims.work.turn_id) == ("tic:t1:c1", "token-c1", "t1")
        nothing = await store.claim_checkpoint_work(fence, make.checkpoint_request(name="c2"))
        assert nothing.inputs is None and nothing.work is None
        assert await store.queued_work(S, pending_only=True) == ()
        assert [batch.batch_id for batch in await store.queued_work(S, pending_only=False)] == [wake]
        row = await store.session_row(S)
        assert row is not None and (row.pending_inputs, row.pending_batches) == (0, 0)

    async def test_a_turn_driven_again_has_what_it_took_under_the_token_it_took_it_with(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        (founding,) = await make.put(store, make.wake(1))
        lane = make.granted(await store.open_lane(make.drain_request(self.clock, turn_id="t1")))
        assert make.ids_of(lane.work) == [founding]
        await make.put(store, make.wake(2))
        taken = await store.claim_checkpoint_work(make.fence_of_lane(lane), make.checkpoint_request())
        assert lane.work is not None and taken.work is not None
        self.clock.tick(make.TTL_MS / 1000)
        again = make.granted(await store.open_lane(make.drain_request(self.clock, "b")))
        assert again.redrive and make.ids_of(again.work) == [founding]
        repeated = await store.claim_checkpoint_work(make.fence_of_lane(again), make.checkpoint_request())
        assert repeated.work is not None and make.ids_of(repeated.work) == make.ids_of(taken.work)
        assert repeated.work.claim_token == taken.work.claim_token, "the journal knows this token"
        assert again.work is not None and again.work.claim_token not in (lane.work.claim_token, taken.work.claim_token)

    async def test_joining_batches_go_together_while_policy_and_key_are_equal(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        drafts = [
            make.work("a"),
            make.work("b"),
            make.work("c", merge="other"),
            make.work("d", merge="other", delivery=AFTER_COMMIT),
            make.work("e", merge=None),
            make.work("f", merge=None),
            make.work("g"),
            make.work("h", slot=EXCLUSIVE),
            make.work("i"),
            make.work("j"),
        ]
        ids = await make.put(store, *drafts)
        (command,) = await make.put(store, make.command())
        ids += await make.put(store, make.work("k"))
        fence = await make.fence_of(store)
        groups = []
        while group := await self._claim(store, fence, "idle"):
            groups.append("".join("abcdefghijk"[ids.index(batch_id)] for batch_id in group))
        assert groups == ["ab", "c", "d", "e", "f", "g", "h", "ij"]
        assert make.ids_of(await store.claim_leading_session_command(fence, claim_token="ct")) == [command]
        assert await self._claim(store, fence, "idle") == [ids[-1]]

    async def test_a_group_is_cut_at_the_limit(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        ids = await make.put(store, *(make.work(f"w{index}") for index in range(70)))
        fence = await make.fence_of(store)

        async def taken(limit: int) -> list[str]:
            return make.ids_of(await store.claim_ready_queued_work(fence, "idle", claim_token="ct", max_batches=limit))

        assert await taken(0) == []
        assert await taken(1) == ids[:1]
        assert await taken(3) == ids[1:4]
        assert await taken(1000) == ids[4:68], "no more than 64, whoever asks"
        assert await taken(64) == ids[68:]

    async def test_what_waits_for_its_time_is_skipped_and_joins_at_its_old_place(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        soon = self.clock.now_ms() + 10_000
        later, first, second = await make.put(
            store, make.work("a", slot=EXCLUSIVE, available_at_ms=soon), make.wake(1), make.wake(2)
        )
        fence = await make.fence_of(store)
        assert await self._claim(store, fence, "idle") == [first]
        self.clock.tick(9.999)
        assert (await store.demand(S)).available_at_ms == soon
        self.clock.tick(0.001)
        demand = await store.demand(S)
        assert (demand.has_claimable, demand.available_at_ms) == (True, None)
        assert await self._claim(store, fence, "idle") == [later]
        assert await self._claim(store, fence, "idle") == [second]

    async def test_sessions_do_not_see_each_others_work(self) -> None:
        store = await make.opened(self.open_store, self.clock, S, "s2")
        (foreign,) = await make.put(store, make.work("b", session_id="s2"))
        (own,) = await make.put(store, make.work("a"))
        fence = await make.fence_of(store)
        assert await self._named(store, fence, [foreign]) is None
        assert await self._claim(store, fence, "idle") == [own]
        assert await self._claim(store, fence, "idle") == []
        assert await make.pending_batch_ids(store, "s2") == [foreign]

    async def test_named_batches_may_go_out_of_order_even_past_a_command(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        ids = await make.put(store, make.wake(), make.command(), make.work("a"), make.work("b"))
        fence = await make.fence_of(store)
        assert await self._named(store, fence, [ids[3], ids[2]]) == [ids[3], ids[2]], "in the caller's order"
        assert await make.pending_batch_ids(store) == ids[:2]

    async def test_named_batches_go_all_together_or_not_at_all(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        exclusive, other, command, joining, alike, different, never = await make.put(
            store,
            make.wake(1),
            make.wake(2),
            make.command(),
            make.work("a"),
            make.work("b"),
            make.work("c", merge="other"),
            make.work("d", merge=None),
        )
        (later,) = await make.put(store, make.work("e", available_at_ms=self.clock.now_ms() + 1))
        (settled,) = await make.put(store, make.work("f"))
        await store.cancel_queued_work_batch(S, settled)
        fence = await make.fence_of(store)
        mark = await store.change_mark()
        for refused in (
            [exclusive, other],
            [exclusive, joining],
            [joining, different],
            [never, joining],
            [joining, joining],
            [command],
            [joining, later],
            [joining, settled],
            [joining, "qwb:unknown"],
        ):
            assert await self._named(store, fence, refused) is None, refused
        assert await store.change_mark() == mark
        assert await self._named(store, fence, [joining, alike]) == [joining, alike]
        assert await self._named(store, fence, [alike]) is None, "held already"
        assert await self._named(store, fence, [exclusive]) == [exclusive]

    async def test_a_named_batch_is_claimed_once_its_time_has_come_and_waits_no_more(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        (batch,) = await make.put(store, make.work("a", available_at_ms=self.clock.now_ms() + 1))
        fence = await make.fence_of(store)
        assert await self._named(store, fence, [batch]) is None
        self.clock.tick(0.001)
        assert await self._named(store, fence, [batch]) == [batch]
        assert await make.pending_batch_ids(store) == []
        row = await store.session_row(S)
        assert row is not None and row.pending_batches == 0

    async def test_named_batches_keep_the_gate_of_the_boundary(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        (batch,) = await make.put(store, make.work("a", delivery=AFTER_COMMIT))
        fence = await make.fence_of(store)
        assert await self._named(store, fence, [batch], "active_turn_checkpoint") is None
        assert await self._named(store, fence, [batch], "idle") == [batch]

    async def test_of_two_claimants_under_one_fence_one_gets_the_batch(self) -> None:
        stores = [self.open_store() for _ in range(4)]
        await make.create(stores[0], self.clock)
        await make.put(stores[0], make.wake())
        fence = await make.fence_of(stores[0])
        claims = await asyncio.gather(
            *(
                store.claim_ready_queued_work(fence, "idle", claim_token=f"ct{index}")
                for index, store in enumerate(stores)
            )
        )
        assert sum(claim is not None for claim in claims) == 1

    async def test_a_generation_never_gets_its_own_batches_back(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        work, command = await make.put(store, make.wake(), make.command())
        fence = await make.fence_of(store)
        assert await self._claim(store, fence, "idle") == [work]
        assert make.ids_of(await store.claim_leading_session_command(fence, claim_token="ct")) == [command]
        for _ in range(3):
            self.clock.tick(TTL_SECONDS - 1)
            await store.renew_lease(fence, ttl_ms=make.TTL_MS)
            assert await self._claim(store, fence, "idle") == []
            assert await self._named(store, fence, [work]) is None
            assert await store.claim_leading_session_command(fence, claim_token="ct") is None
            assert await make.pending_batch_ids(store) == []

    @pytest.mark.parametrize("how", ["release", "expiry", "takeover"])
    async def test_the_end_of_a_generation_frees_its_batches_at_once(self, how: str) -> None:
        store = await make.opened(self.open_store, self.clock)
        work, command = await make.put(store, make.wake(), make.command())
        fence = await make.fence_of(store)
        old = await store.claim_ready_queued_work(fence, "idle", claim_token="ct1")
        await store.claim_leading_session_command(fence, claim_token="ct1")
        successor = await end(store, self.clock, fence, how)
        assert await make.pending_batch_ids(self.open_store()) == [work, command]
        new = await store.claim_ready_queued_work(successor, "idle", claim_token="ct2")
        assert old is not None and new is not None and make.ids_of(new) == [work]
        assert (new.fencing_token, new.claim_id) == (2, f"qwc:{new.batches[0].enqueue_seq}:2")
        assert await store.abandon_queued_work_claims([old]) == ()
        assert await store.abandon_queued_work_claims([new]) == (work,)

    @pytest.mark.parametrize("family", ["work", "commands"])
    async def test_34_own_claims_do_not_hide_batch_35(self, family: str) -> None:
        store, fence = await make.held(self.open_store, self.clock)
        seen: list[str] = []
        ids: list[str] = []
        for index in range(35):
            if family == "work":
                ids += await make.put(store, make.wake(index + 1))
                seen += await self._claim(store, fence, "idle")
            else:
                ids += await make.put(store, make.command(f"k{index}"))
                seen += make.ids_of(await store.claim_leading_session_command(fence, claim_token="ct"))
        assert seen == ids

    async def test_an_open_work_claim_is_found_by_its_id(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        await make.put(store, make.work("a"), make.work("b"))
        lane = make.granted(await store.open_lane(make.drain_request(self.clock)))
        assert lane.work is not None and len(lane.work.batches) == 2
        assert await self.open_store().find_claim(lane.work.claim_id) == lane.work
        assert await store.abandon_queued_work_claims([lane.work]) == tuple(make.ids_of(lane.work))
        assert await store.find_claim(lane.work.claim_id) is None
        assert await store.unfinished_turns(S) == ()

    async def _claim(
        self, store: RuntimePersistence, fence: LeaseFence, boundary: QueuedWorkClaimBoundary
    ) -> list[str]:
        return make.ids_of(await store.claim_ready_queued_work(fence, boundary, claim_token="ct"))

    async def _named(
        self,
        store: RuntimePersistence,
        fence: LeaseFence,
        batch_ids: list[str],
        boundary: QueuedWorkClaimBoundary = "idle",
    ) -> list[str] | None:
        claim = await store.claim_ready_queued_work(fence, boundary, claim_token="ct", batch_ids=batch_ids)
        return None if claim is None else make.ids_of(claim)
