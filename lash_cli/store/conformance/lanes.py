"""Laws of the lane transaction: nothing is lost, nothing runs twice (design §3, contract 02 §1.3, §4, §5)."""

from __future__ import annotations

import asyncio

import pytest

from lash_cli.core.ingress import InputState
from lash_cli.errors import (
    ConflictError,
    NotFoundError,
    PendingTurnInputSourceKeyConflict,
    RuntimeTurnCommitConflict,
    SessionBindingMismatch,
    SessionExecutionLeaseExpired,
    TurnInputClaimSuperseded,
)
from lash_cli.store.base import LaneBusy
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.factory import StoreLaws

S = make.SESSION
TTL_SECONDS = make.TTL_MS / 1000


class LaneLaws(StoreLaws):
    async def test_a_granted_lane_holds_the_lease_the_claimed_text_and_the_running_turn(self) -> None:
        _, lane = await make.running(self.open_store, self.clock)
        assert lane.turn is not None and lane.claim is not None and lane.lease is not None
        assert (lane.turn.state, lane.turn.turn_index, lane.redrive, lane.committed) == ("running", 1, False, False)
        assert [row.input for row in lane.claim.inputs] == [make.text_input()]
        other = self.open_store()
        assert await other.turn(S, "t1") == lane.turn
        assert await other.unfinished_turns() == (lane.turn,)
        row = await other.session_row(S)
        assert row is not None and (row.running_turn_id, row.pending_inputs) == ("t1", 0)
        assert await other.inputs(S, pending_only=True) == ()
        assert len(await other.inputs(S, pending_only=False)) == 1

    async def test_a_busy_lane_names_holder_and_turn_and_writes_nothing(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        await store.open_lane(make.lane_request(self.clock, "a", turn_id="t1"))
        before = (await store.session_row(S), await store.inputs(S, pending_only=False))
        busy = await self.open_store().open_lane(make.lane_request(self.clock, "b", turn_id="t2"))
        assert isinstance(busy, LaneBusy)
        assert (busy.holder, busy.turn_id) == (make.owner("a"), "t1")
        assert (await store.session_row(S), await store.inputs(S, pending_only=False)) == before
        assert await store.turn(S, "t2") is None

    async def test_of_many_requests_for_one_lane_one_is_granted(self) -> None:
        stores = [self.open_store() for _ in range(4)]
        await make.create(stores[0], self.clock)
        outcomes = await asyncio.gather(
            *(
                store.open_lane(make.lane_request(self.clock, f"o{index}", turn_id=f"t{index}"))
                for index, store in enumerate(stores)
            )
        )
        assert sum(not isinstance(outcome, LaneBusy) for outcome in outcomes) == 1
        assert len(await stores[0].inputs(S, pending_only=False)) == 1

    async def test_commit_settles_the_claim_and_finishes_the_turn(self) -> None:
        store, lane = await make.running(self.open_store, self.clock)
        await store.commit_runtime_state(make.ending(lane, make.append(["m1", "m2"]), turn_index=1, release=True))
        turn = await store.turn(S, "t1")
        assert turn is not None and turn.summary == make.stamp().summary
        assert (turn.state, turn.head_revision, turn.first_node_id, turn.last_node_id) == ("committed", 1, "m1", "m2")
        assert await store.unfinished_turns(S) == ()
        assert [row.state for row in await store.inputs(S, pending_only=False)] == [InputState.COMPLETED]
        following = make.granted(await store.open_lane(make.lane_request(self.clock, turn_id="t2")))
        assert following.turn is not None and following.turn.turn_index == 2
        assert [turn.turn_id for turn in await store.turns(S, limit=5)] == ["t2", "t1"]
        assert [turn.turn_id for turn in await store.turns(S, limit=5, before=2)] == ["t1"]

    async def test_spans_are_the_turns_with_nothing_but_their_nodes(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        for number in (1, 2):
            turn_id = f"t{number}"
            lane = make.granted(await store.open_lane(make.lane_request(self.clock, turn_id=turn_id)))
            await store.commit_runtime_state(
                make.ending(
                    lane,
                    make.append([f"m{number}", f"n{number}"], parent=None if number == 1 else "n1"),
                    expected=None if number == 1 else 1,
                    turn_index=number,
                    release=True,
                )
            )
        make.granted(await store.open_lane(make.lane_request(self.clock, turn_id="t3")))
        spans = await store.turn_spans(S, limit=5)
        assert [(span.turn_id, span.first_node_id, span.last_node_id) for span in spans] == [
            ("t3", None, None),
            ("t2", "m2", "n2"),
            ("t1", "m1", "n1"),
        ]
        for turn, span in zip(await store.turns(S, limit=5), spans, strict=True):
            assert (turn.turn_index, turn.head_revision) == (span.turn_index, span.head_revision)
        assert await store.turn_spans(S, limit=1) == spans[:1]
        assert await store.turn_spans(S, limit=5, before=2) == spans[2:]
        with pytest.raises(NotFoundError):
            await store.turn_spans("s-none", limit=5)

    @pytest.mark.parametrize("how", ["expiry", "proof"])
    async def test_whoever_takes_the_lane_of_a_dead_turn_finishes_that_turn_first(self, how: str) -> None:
        store = await make.opened(self.open_store, self.clock)
        dead = make.granted(await store.open_lane(make.lane_request(self.clock, "a", turn_id="t1", text="first")))
        if how == "expiry":
            self.clock.tick(TTL_SECONDS)
        successor = make.lane_request(self.clock, "b", turn_id="t2", text="second", dead=1 if how == "proof" else None)
        lane = make.granted(await self.open_store().open_lane(successor))
        assert lane.redrive and lane.turn is not None and lane.claim is not None
        assert (lane.turn.turn_id, lane.turn.turn_index, lane.turn.generation) == ("t1", 1, 2)
        assert [row.input for row in lane.claim.inputs] == [make.text_input("first")]
        assert len(await store.inputs(S, pending_only=False)) == 1
        assert await store.turn(S, "t2") is None
        with pytest.raises(SessionExecutionLeaseExpired):
            await store.commit_runtime_state(make.ending(dead))
        with pytest.raises(TurnInputClaimSuperseded):
            await store.commit_runtime_state(
                make.commit(make.fence_of_lane(lane), make.append(["m1"]), turn=make.stamp(), claim=dead.claim)
            )
        await store.commit_runtime_state(make.ending(lane))

    async def test_asking_for_the_unfinished_turn_itself_redrives_it_and_refuses_another_text(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        await store.open_lane(make.lane_request(self.clock, "a", text="first"))
        self.clock.tick(TTL_SECONDS)
        with pytest.raises(RuntimeTurnCommitConflict):
            await store.open_lane(make.lane_request(self.clock, "b", text="other", input_id="in-x"))
        lane = make.granted(await store.open_lane(make.lane_request(self.clock, "b", text="first", input_id="in-x")))
        assert lane.redrive and lane.claim is not None
        assert [row.input for row in lane.claim.inputs] == [make.text_input("first")]

    async def test_without_text_and_unfinished_turn_the_lane_is_held_and_nothing_else_written(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        lane = make.granted(await store.open_lane(make.lane_request(self.clock, turn_id=None, text=None)))
        assert lane.turn is None and lane.claim is None and not lane.redrive
        assert await store.release_lease(make.fence_of_lane(lane))
        assert await store.unfinished_turns() == ()

    async def test_a_committed_turn_id_is_answered_without_a_lane_and_refuses_another_text(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        await self._run_turn(key="k")
        # What another turn was asked, or one of that id in another session, is not what this one was.
        await make.create(store, self.clock, "beside")
        await store.open_lane(make.lane_request(self.clock, session_id="beside", input_id="i-beside", text="elsewhere"))
        lane = make.granted(await store.open_lane(make.lane_request(self.clock, turn_id="t2", text="another")))
        assert lane.turn is not None
        stamp = make.stamp("t2")
        await store.commit_runtime_state(
            make.commit(
                make.fence_of_lane(lane),
                make.append(["n2"], parent="m1"),
                expected=1,
                turn=stamp,
                turn_index=2,
                claim=lane.claim,
                release=True,
            )
        )
        again = make.granted(await store.open_lane(make.lane_request(self.clock, "b", turn_id="t1")))
        assert again.committed and again.lease is None and again.turn is not None and again.turn.summary is not None
        for text in ("whatever", "elsewhere", "another"):
            with pytest.raises(RuntimeTurnCommitConflict):
                await store.open_lane(make.lane_request(self.clock, "b", turn_id="t1", text=text))
        row = await store.session_row(S)
        assert row is not None and row.lease.token is None

    async def test_a_key_replays_its_committed_turn_and_refuses_another_text(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        await self._run_turn(key="k")
        replay = make.granted(
            await store.open_lane(make.lane_request(self.clock, "b", turn_id="t2", key="k", input_id="in-2"))
        )
        assert replay.committed and replay.turn is not None and replay.turn.turn_id == "t1"
        with pytest.raises(PendingTurnInputSourceKeyConflict):
            await store.open_lane(make.lane_request(self.clock, "b", turn_id="t2", key="k", text="other"))
        assert await store.turn(S, "t2") is None
        assert len(await store.inputs(S, pending_only=False)) == 1

    async def test_a_text_that_its_own_generation_claimed_outside_of_a_turn_starts_none(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        await make.enqueue(store, "i1", key="k")
        fence = await make.fence_of(store)
        claim = await store.claim_next_turn_inputs(fence, claim_token="ct")
        assert make.ids_of(claim) == ["i1"]
        with pytest.raises(ConflictError) as caught:
            await store.open_lane(make.lane_request(self.clock, key="k"))
        assert caught.value.code == "input_claimed"
        assert await store.unfinished_turns(make.SESSION) == ()
        await store.release_lease(fence)
        lane = make.granted(await store.open_lane(make.lane_request(self.clock, key="k")))
        assert make.ids_of(lane.claim) == ["i1"]

    async def test_an_input_id_is_used_once(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        await self._run_turn(key=None)
        with pytest.raises(ConflictError) as caught:
            await store.open_lane(make.lane_request(self.clock, turn_id="t2", input_id="in-t1"))
        assert caught.value.code == "input_exists"
        row = await store.session_row(S)
        assert row is not None and row.lease.token is None, "the refused lane left no lease behind"

    async def test_a_text_of_another_session_is_refused(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        request = make.lane_request(self.clock)
        foreign = make.lane_request(self.clock, session_id="s2")
        with pytest.raises(SessionBindingMismatch):
            await store.open_lane(
                type(request)(
                    session_id=S,
                    owner=request.owner,
                    ttl_ms=1,
                    now_ms=1,
                    lease_token="x",
                    claim_token="x",
                    turn_id="t1",
                    draft=foreign.draft,
                )
            )

    async def _run_turn(self, *, key: str | None) -> None:
        store = self.open_store()
        lane = make.granted(await store.open_lane(make.lane_request(self.clock, key=key)))
        await store.commit_runtime_state(make.ending(lane, turn_index=1, release=True))
