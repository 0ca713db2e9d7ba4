"""Laws of what is given back: abandoned claims, dropped turns, deferred and orphaned input (contract 02 §1.4, §1.8)."""

from __future__ import annotations

import msgspec
import pytest

from lash_cli.core.codec import sha256_hex
from lash_cli.core.effect import CanonicalEnvelope, TurnScope, scope_key
from lash_cli.core.ingress import (
    ActiveTurn,
    ByInputId,
    Cancelled,
    InputState,
    NextTurn,
)
from lash_cli.core.wait import ResolvedOk, ToolCompletionWait
from lash_cli.errors import TurnInputClaimSuperseded
from lash_cli.store.base import JournalClaim
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.factory import StoreLaws
from lash_cli.store.conformance.input_claims import end

S = make.SESSION


class GivenBackLaws(StoreLaws):
    async def test_an_abandoned_claim_can_be_cancelled_and_abandoning_again_is_nothing(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        await make.enqueue(store, "i1")
        fence = await make.fence_of(store)
        claim = await store.claim_next_turn_inputs(fence, claim_token="ct")
        assert claim is not None
        stolen = msgspec.structs.replace(claim, claim_token="forged")
        assert await store.abandon_turn_input_claims([stolen]) == ()
        assert await self.open_store().abandon_turn_input_claims([stolen, claim, claim]) == ("i1",)
        assert await store.abandon_turn_input_claims([claim]) == ()
        (result,) = await store.cancel_turn_inputs(S, [ByInputId("i1")])
        assert isinstance(result.outcome, Cancelled)

    async def test_abandoning_a_superseded_claim_leaves_the_successor_alone(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        await make.enqueue(store, "i1")
        fence = await make.fence_of(store)
        old = await store.claim_next_turn_inputs(fence, claim_token="ct1")
        successor = await end(store, self.clock, fence, "release")
        new = await store.claim_next_turn_inputs(successor, claim_token="ct2")
        assert old is not None and new is not None
        assert await store.abandon_turn_input_claims([old]) == ()
        assert await make.pending_ids(store) == []
        assert await store.abandon_turn_input_claims([new]) == ("i1",)

    async def test_abandoning_what_a_checkpoint_took_drops_the_turn_it_was_delivered_into(self) -> None:
        store, lane = await make.running(self.open_store, self.clock)
        fence = make.fence_of_lane(lane)
        await make.enqueue(store, "i1", ingress=ActiveTurn("t1"))
        taken = await store.claim_checkpoint_work(fence, make.checkpoint_request())
        assert taken.inputs is not None
        assert await store.abandon_turn_input_claims([taken.inputs]) == ("i1", "in-t1")
        founding, row = await store.inputs(S, pending_only=True)
        assert (row.state, row.ingress) == (InputState.PENDING_ACTIVE, ActiveTurn("t1"))
        assert await store.unfinished_turns(S) == ()
        with pytest.raises(TurnInputClaimSuperseded):
            await store.commit_runtime_state(
                make.commit(fence, make.append(["m1"]), turn=make.stamp(), claim=lane.claim, claims=[taken.inputs])
            )
        await store.release_lease(fence)
        following = make.granted(await store.open_lane(make.drain_request(self.clock, "b")))
        assert make.ids_of(following.claim) == [founding.input_id, "i1"]

    async def test_a_dead_process_cannot_give_back_what_its_successor_drives_again(self) -> None:
        store, lane = await make.running(self.open_store, self.clock)
        await make.enqueue(store, "i1", ingress=ActiveTurn("t1"))
        await make.put(store, make.wake())
        taken = await store.claim_checkpoint_work(make.fence_of_lane(lane), make.checkpoint_request())
        assert lane.claim is not None and taken.inputs is not None and taken.work is not None
        self.clock.tick(make.TTL_MS / 1000)
        successor = make.granted(await store.open_lane(make.drain_request(self.clock, "b")))
        assert successor.redrive
        assert await store.abandon_turn_input_claims([lane.claim, taken.inputs]) == ()
        assert await store.abandon_queued_work_claims([taken.work]) == ()
        await store.commit_runtime_state(make.ending(successor, claims=[taken.inputs], work=[taken.work]))

    async def test_a_claim_of_work_gives_back_what_it_holds_itself_and_only_to_who_has_its_token(self) -> None:
        store = self.open_store()
        of_turns, idle = [], []
        for session_id in (S, "beside"):
            await make.create(store, self.clock, session_id)
            request = make.lane_request(self.clock, session_id=session_id, input_id=f"i-{session_id}")
            fence = make.fence_of_lane(make.granted(await store.open_lane(request)))
            await make.put(store, make.wake(session_id=session_id))
            of_turns.append((await store.claim_checkpoint_work(fence, make.checkpoint_request())).work)
        await make.create(store, self.clock, "idle")
        fence = await make.fence_of(store, session_id="idle")
        batches = await make.put(store, *(make.wake(number, session_id="idle") for number in (1, 2)))
        for _ in batches:
            idle.append(await store.claim_ready_queued_work(fence, "idle", claim_token="ct"))
        first, alike = of_turns
        assert first is not None and alike is not None and idle[0] is not None
        assert msgspec.structs.replace(alike, session_id=S, batches=first.batches) == first, "but for the session"
        for claim in (first, idle[0]):
            assert await store.abandon_queued_work_claims([msgspec.structs.replace(claim, claim_token="forged")]) == ()
        assert await store.abandon_queued_work_claims([idle[0]]) == tuple(batches[:1])
        assert set(await store.abandon_queued_work_claims([first])) == {*make.ids_of(first), f"i-{S}"}
        assert await make.pending_batch_ids(store, "beside") == []
        assert await store.abandon_queued_work_claims([alike]) == (*make.ids_of(alike), "i-beside")

    async def test_abandoning_what_a_turn_started_from_drops_it_with_all_it_took(self) -> None:
        store, lane = await make.running(self.open_store, self.clock)
        await make.enqueue(store, "i1", ingress=ActiveTurn("t1"))
        (batch,) = await make.put(store, make.wake())
        await store.claim_checkpoint_work(make.fence_of_lane(lane), make.checkpoint_request())
        await store.request_turn_cancel(S, "t1", make.evidence(), 1)
        assert lane.claim is not None
        assert set(await store.abandon_turn_input_claims([lane.claim])) == {"in-t1", "i1", batch}
        assert await store.turn(S, "t1") is None
        assert await store.cancel_gate(S, "t1") is None
        assert await make.pending_ids(store) == ["in-t1", "i1"]
        assert await make.pending_batch_ids(store) == [batch]
        await store.release_lease(make.fence_of_lane(lane))
        following = make.granted(await store.open_lane(make.drain_request(self.clock, "b")))
        assert not following.redrive and make.ids_of(following.claim) == ["in-t1", "i1"]

    async def test_a_turn_that_is_dropped_takes_its_journal_along(self) -> None:
        store, lane = await make.running(self.open_store, self.clock)
        scopes = [scope_key(TurnScope(S, turn_id)) for turn_id in ("t1", "t2")]
        for scope in scopes:
            effect = JournalClaim(
                scope_key=scope,
                session_id=S,
                replay_key="k",
                envelope=CanonicalEnvelope(b"{}", sha256_hex(b"{}")),
                owner="o",
                token="t",
                ttl_ms=make.TTL_MS,
                now_ms=self.clock.now_ms(),
            )
            assert await make.record(store, effect, b"{}")
        assert lane.claim is not None
        await store.abandon_turn_input_claims([lane.claim])
        left = [len(await store.journal_rows(scope)) for scope in scopes]
        assert left == [0, 1], "another turn of the same id must not find these effects"

    async def test_a_turn_that_is_dropped_takes_its_promises_along(self) -> None:
        store, lane = await make.running(self.open_store, self.clock)
        keys = [await store.wait_key(TurnScope(S, turn_id), ToolCompletionWait("c1")) for turn_id in ("t1", "t2")]
        for key in keys:
            await store.resolve_wait(key, ResolvedOk(1), self.clock.now_ms())
        assert lane.claim is not None
        await store.abandon_turn_input_claims([lane.claim])
        left = [await store.peek_wait(key) for key in keys]
        assert left == [None, ResolvedOk(1)], "another turn of the same id must not find what completed a call of this"

    async def test_a_claim_of_a_committed_turn_gives_nothing_back(self) -> None:
        store, lane = await make.running(self.open_store, self.clock)
        await store.commit_runtime_state(make.ending(lane))
        assert lane.claim is not None
        assert await store.abandon_turn_input_claims([lane.claim]) == ()
        turn = await store.turn(S, "t1")
        assert turn is not None and turn.state == "committed"

    async def test_abandoning_in_a_session_that_is_gone_is_nothing(self) -> None:
        store = await make.opened(self.open_store, self.clock, S, "s2")
        for session_id in (S, "s2"):
            await make.enqueue(store, f"i-{session_id}", session_id=session_id)
        fences = [await make.fence_of(store, session_id=session_id) for session_id in (S, "s2")]
        claims = [await store.claim_next_turn_inputs(fence, claim_token="ct") for fence in fences]
        await store.release_lease(fences[0])
        await store.delete_session(S, 1)
        assert await store.abandon_turn_input_claims([one for one in claims if one is not None]) == ("i-s2",)

    async def test_an_open_claim_is_found_by_its_id_and_a_settled_one_is_not(self) -> None:
        store = await make.opened(self.open_store, self.clock, S, "s2")
        await make.enqueue(store, "i1", session_id="s2")
        lane = make.granted(await store.open_lane(make.drain_request(self.clock, session_id="s2")))
        assert lane.claim is not None
        assert await store.find_claim(lane.claim.claim_id) == lane.claim
        assert await store.find_claim("tic:0:0") is None
        initial = "s2:frame:initial"
        await store.commit_runtime_state(make.ending(lane, make.append(["m1"], frame_id=initial)))
        assert await store.find_claim(lane.claim.claim_id) is None

    async def test_turns_of_one_id_in_two_sessions_have_claims_of_two_ids(self) -> None:
        store = await make.opened(self.open_store, self.clock, S, "s2")
        claims = []
        for session_id in (S, "s2"):
            request = make.lane_request(self.clock, session_id=session_id, input_id=f"in-{session_id}")
            claims.append(make.granted(await store.open_lane(request)).claim)
        assert None not in claims
        assert [await store.find_claim(claim.claim_id) for claim in claims if claim is not None] == claims

    async def test_the_commit_of_a_turn_defers_once_what_it_did_not_take(self) -> None:
        store, lane = await make.running(self.open_store, self.clock)
        fence = make.fence_of_lane(lane)
        await make.enqueue(store, "taken", ingress=ActiveTurn("t1"))
        claims = await store.claim_checkpoint_work(fence, make.checkpoint_request())
        missed = await make.enqueue(store, "missed", ingress=ActiveTurn("t1"))
        await make.enqueue(store, "cancelled", ingress=ActiveTurn("t1"))
        await store.cancel_turn_inputs(S, [ByInputId("cancelled")])
        await make.enqueue(store, "others", ingress=ActiveTurn("t2"))
        await make.enqueue(store, "next")
        commit = make.commit(
            fence, make.append(["m1"]), turn=make.stamp(), claim=lane.claim, claims=[claims.inputs], defer="t1"
        )
        result = await store.commit_runtime_state(commit)
        assert result.has_waiting
        states = {row.input_id: (row.state, row.ingress) for row in await store.inputs(S, pending_only=False)}
        assert states["taken"][0] is InputState.COMPLETED
        assert states["missed"] == (InputState.DEFERRED_NEXT_TURN, NextTurn())
        assert states["cancelled"] == (InputState.CANCELLED, ActiveTurn("t1"))
        assert states["others"] == (InputState.PENDING_ACTIVE, ActiveTurn("t2"))
        listed = await store.inputs(S, pending_only=True)
        assert [row.input_id for row in listed] == ["missed", "others", "next"]
        assert listed[0].enqueue_seq == missed.enqueue_seq
        assert (await store.commit_runtime_state(commit)).replayed
        assert await store.inputs(S, pending_only=True) == listed

    async def test_a_commit_that_settles_nothing_gives_back_all_its_turn_took(self) -> None:
        store, lane = await make.running(self.open_store, self.clock)
        (batch,) = await make.put(store, make.wake())
        await store.claim_checkpoint_work(make.fence_of_lane(lane), make.checkpoint_request())
        result = await store.commit_runtime_state(
            make.commit(make.fence_of_lane(lane), make.append(["m1"]), turn=make.stamp())
        )
        assert result.has_waiting
        assert await make.pending_ids(store) == ["in-t1"]
        assert await make.pending_batch_ids(store) == [batch]

    async def test_a_drain_takes_up_text_addressed_to_turns_that_run_no_more(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        orphan = await make.enqueue(store, "orphan", ingress=ActiveTurn("t0", "before_completion"))
        await make.enqueue(store, "next")
        lane = make.granted(await store.open_lane(make.drain_request(self.clock)))
        assert lane.claim is not None and make.ids_of(lane.claim) == ["orphan", "next"]
        first = lane.claim.inputs[0]
        assert (first.enqueue_seq, first.state, first.ingress) == (
            orphan.enqueue_seq,
            InputState.DEFERRED_NEXT_TURN,
            NextTurn(),
        )

    async def test_orphans_are_deferred_of_one_turn_or_of_all_that_do_not_run(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        fence = make.fence_of_lane(await make.start(store, self.clock, "t1"))
        for turn_id in ("t0", "t1", "t2", "t3"):
            await make.enqueue(store, f"for-{turn_id}", ingress=ActiveTurn(turn_id))
        assert await store.defer_orphaned_active_turn_inputs(fence, turn_id="t2") == 1
        assert await store.defer_orphaned_active_turn_inputs(fence) == 2
        assert await store.defer_orphaned_active_turn_inputs(fence) == 0
        waiting = {row.input_id: row.state for row in await store.inputs(S, pending_only=True)}
        assert waiting.pop("for-t1") is InputState.PENDING_ACTIVE
        assert set(waiting.values()) == {InputState.DEFERRED_NEXT_TURN}
