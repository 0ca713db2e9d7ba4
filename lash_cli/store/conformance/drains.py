"""Laws of a drain pass: what goes first, what an empty one leaves, holds, re-drives (contract 02 §5, §6.1)."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from lash_cli.core.content import TextItem, TurnInput
from lash_cli.core.ingress import ActiveTurn, InputDraft, NextTurn
from lash_cli.core.queued_work import AgentFrameTask, frame_task_draft
from lash_cli.errors import UsageError
from lash_cli.store.base import LaneBusy, LaneGranted, RuntimePersistence
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.factory import StoreLaws

S = make.SESSION
TTL_SECONDS = make.TTL_MS / 1000


async def commit_turn(store: RuntimePersistence, lane: LaneGranted) -> None:
    """Commit the turn of a lane with all it started from, and release."""
    assert lane.turn is not None
    head = await store.head_position(S)
    await store.commit_runtime_state(
        make.ending(
            lane,
            make.append([f"m-{lane.turn.turn_id}"], parent=head.leaf_node_id),
            expected=head.head_revision,
            turn_index=lane.turn.turn_index,
            release=True,
            defer=lane.turn.turn_id,
        )
    )


class DrainLaws(StoreLaws):
    async def test_up_to_64_inputs_become_one_turn_in_order_before_any_turn_work(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        (wake,) = await make.put(store, make.wake())
        self.clock.tick(1)
        for index in range(66):
            await make.enqueue(store, f"i{index}")
        lane = make.granted(await store.open_lane(make.drain_request(self.clock)))
        assert make.ids_of(lane.claim) == [f"i{index}" for index in range(64)]
        assert lane.turn is not None and lane.claim is not None and lane.work is None
        assert (lane.turn.turn_id, lane.turn.origin, lane.turn.turn_index) == ("d1", "queue", 1)
        assert (lane.claim.turn_id, lane.claim.generation, lane.claim.claim_token) == ("d1", 1, "claim-a")
        assert lane.claim.claim_id == f"tic:{lane.claim.inputs[0].enqueue_seq}:1"
        assert await make.pending_ids(store) == ["i64", "i65"]
        await commit_turn(store, lane)
        rest = make.granted(await store.open_lane(make.drain_request(self.clock, turn_id="d2")))
        assert make.ids_of(rest.claim) == ["i64", "i65"]
        await commit_turn(store, rest)
        last = make.granted(await store.open_lane(make.drain_request(self.clock, turn_id="d3")))
        assert last.claim is None and make.ids_of(last.work) == [wake]
        assert last.turn is not None and (last.turn.origin, last.turn.turn_index) == ("wake", 3)

    async def test_turn_work_goes_as_the_group_at_the_head(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        task = frame_task_draft(S, "t0", AgentFrameTask("f2", "go on"))
        ids = await make.put(store, task, make.work("a"), make.work("b"), make.wake())
        seen = []
        for number in range(3):
            lane = make.granted(await store.open_lane(make.drain_request(self.clock, turn_id=f"d{number}")))
            assert lane.turn is not None and lane.work is not None
            seen.append((lane.turn.origin, make.ids_of(lane.work)))
            await commit_turn(store, lane)
        assert seen == [("queue", ids[:1]), ("wake", ids[1:3]), ("wake", ids[3:])]

    async def test_a_turn_of_inputs_gets_the_id_they_ask_for_while_no_turn_has_it(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        seen = []
        for number in range(2):
            await make.enqueue(store, f"plain{number}")
            traced = TurnInput((TextItem("hi"),), trace_turn_id="wanted")
            await store.enqueue_turn_input(InputDraft(S, f"traced{number}", traced))
            lane = make.granted(await store.open_lane(make.drain_request(self.clock, turn_id=f"d{number}")))
            assert lane.turn is not None and lane.claim is not None
            assert lane.claim.turn_id == lane.turn.turn_id
            seen.append(lane.turn.turn_id)
            await commit_turn(store, lane)
        assert seen == ["wanted", "d1"]

    @pytest.mark.parametrize(
        ("order", "is_command_first"),
        [("command older", True), ("tie, command first in line", False), ("input older", False), ("no input", True)],
    )
    async def test_commands_go_before_input_only_when_strictly_older(self, order: str, is_command_first: bool) -> None:
        store = await make.opened(self.open_store, self.clock)
        if order == "input older":
            await make.enqueue(store, "i1")
            self.clock.tick(0.001)
        await make.put(store, make.command())
        if order == "command older":
            self.clock.tick(0.001)
        if order.startswith(("command", "tie")):
            await make.enqueue(store, "i1")
        lane = make.granted(await store.open_lane(make.drain_request(self.clock)))
        assert lane.commands_due is is_command_first
        if is_command_first:
            assert lane.turn is None and lane.claim is None and lane.lease is not None
            assert len(await store.queued_work(S, pending_only=True)) == 1, "only the lease was taken"
        else:
            assert make.ids_of(lane.claim) == ["i1"]

    async def test_after_the_commands_the_same_request_takes_what_comes_next(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        commands = await make.put(store, make.command("a"), make.command("b"))
        self.clock.tick(1)
        await make.enqueue(store, "i1")
        request = make.drain_request(self.clock)
        lane = make.granted(await store.open_lane(request))
        fence = make.fence_of_lane(lane)
        drained = []
        while claim := await store.claim_leading_session_command(fence, claim_token="ct"):
            drained += make.ids_of(claim)
            head = await store.head_position(S)
            node = make.append([f"c{len(drained)}"], parent=head.leaf_node_id)
            await store.commit_runtime_state(make.commit(fence, node, expected=head.head_revision, work=[claim]))
        assert drained == commands
        following = make.granted(await store.open_lane(request))
        assert following.lease is not None and following.lease.fencing_token == fence.fencing_token
        assert make.ids_of(following.claim) == ["i1"]

    async def test_a_command_behind_turn_work_waits_for_it(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        wake, _ = await make.put(store, make.wake(), make.command())
        lane = make.granted(await store.open_lane(make.drain_request(self.clock)))
        assert make.ids_of(lane.work) == [wake]
        await commit_turn(store, lane)
        assert make.granted(await store.open_lane(make.drain_request(self.clock, turn_id="d2"))).commands_due

    async def test_named_batches_are_taken_and_waiting_input_is_untouched(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        await make.enqueue(store, "i1")
        _, second = await make.put(store, make.wake(1), make.wake(2))
        lane = make.granted(await store.open_lane(make.drain_request(self.clock, batch_ids=(second,))))
        assert lane.claim is None and make.ids_of(lane.work) == [second]
        assert await make.pending_ids(store) == ["i1"]

    async def test_leading_commands_go_before_named_batches(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        _, wake = await make.put(store, make.command(), make.wake())
        request = make.drain_request(self.clock, batch_ids=(wake,))
        lane = make.granted(await store.open_lane(request))
        assert lane.commands_due
        claim = await store.claim_leading_session_command(make.fence_of_lane(lane), claim_token="ct")
        await store.commit_runtime_state(make.commit(make.fence_of_lane(lane), make.append(["m1"]), work=[claim]))
        assert make.ids_of(make.granted(await store.open_lane(request)).work) == [wake]

    async def test_named_batches_that_cannot_go_say_why_and_nothing_is_written(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        soon = self.clock.now_ms() + 10_000
        first, second, later, latest, settled, cancelled = await make.put(
            store,
            make.wake(1),
            make.wake(2),
            make.work("later", available_at_ms=soon),
            make.work("latest", available_at_ms=soon + 1),
            make.wake(4),
            make.wake(5),
        )
        await commit_turn(
            store,
            make.granted(await store.open_lane(make.drain_request(self.clock, turn_id="d0", batch_ids=(settled,)))),
        )
        await store.cancel_queued_work_batch(S, cancelled)
        before = await store.session_row(S)
        mark = await store.change_mark()
        for named, reason, available_at_ms in (
            ((first, second), "unclaimable_together", None),
            ((first, "qwb:unknown"), "unclaimable_together", None),
            ((first, settled), "unclaimable_together", None),
            ((later,), "not_yet_available", soon),
            ((later, latest), "not_yet_available", soon + 1),
            ((latest, later), "not_yet_available", soon + 1),
            ((settled, cancelled), "already_satisfied", None),
        ):
            idle = make.idle(await store.open_lane(make.drain_request(self.clock, batch_ids=named)))
            assert (idle.reason, idle.available_at_ms) == (reason, available_at_ms), named
        assert await store.change_mark() == mark
        assert await store.session_row(S) == before

    async def test_a_pass_over_named_batches_sends_what_no_turn_takes_to_the_next(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        await make.enqueue(store, "steered", ingress=ActiveTurn("gone"))
        (wake,) = await make.put(store, make.wake())
        lane = make.granted(await store.open_lane(make.drain_request(self.clock, batch_ids=(wake,))))
        assert make.ids_of(lane.work) == [wake] and lane.claim is None
        (waiting,) = await store.inputs(S, pending_only=True)
        assert waiting.ingress == NextTurn()

    async def test_a_pass_that_takes_no_inputs_leaves_them_as_they_are(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        await make.enqueue(store, "next")
        await make.enqueue(store, "steered", ingress=ActiveTurn("t9"))
        mark = await store.change_mark()
        assert make.idle(await store.open_lane(make.drain_request(self.clock, max_inputs=0))).reason == "empty"
        assert await store.change_mark() == mark
        (wake,) = await make.put(store, make.wake())
        lane = make.granted(await store.open_lane(make.drain_request(self.clock, max_inputs=0)))
        assert lane.claim is None and make.ids_of(lane.work) == [wake]
        waiting = await store.inputs(S, pending_only=True)
        assert [row.ingress for row in waiting] == [NextTurn(), ActiveTurn("t9")]

    async def test_an_empty_pass_writes_nothing_and_takes_no_lease(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        mark = await store.change_mark()
        assert make.idle(await store.open_lane(make.drain_request(self.clock))).reason == "empty"
        assert await store.change_mark() == mark
        (first,) = await make.put(store, make.work("a", available_at_ms=self.clock.now_ms() + 9_000))
        await make.put(store, make.work("b", available_at_ms=self.clock.now_ms() + 5_000))
        mark = await store.change_mark()
        idle = make.idle(await store.open_lane(make.drain_request(self.clock)))
        assert (idle.reason, idle.available_at_ms) == ("not_yet_available", self.clock.now_ms() + 5_000)
        assert await store.change_mark() == mark
        row = await store.session_row(S)
        assert row is not None and (row.lease.token, row.lease.fencing_token) == (None, 0)
        self.clock.tick(9)
        assert make.ids_of(make.granted(await store.open_lane(make.drain_request(self.clock))).work)[0] == first

    async def test_a_pass_finds_its_own_claims_gone(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        await make.enqueue(store, "i1")
        await make.put(store, make.wake(), make.command())
        fence = await make.fence_of(store)
        await store.claim_next_turn_inputs(fence, claim_token="ct")
        await store.claim_ready_queued_work(fence, "idle", claim_token="ct")
        await store.claim_leading_session_command(fence, claim_token="ct")
        assert make.idle(await store.open_lane(make.drain_request(self.clock))).reason == "empty"
        row = await store.session_row(S)
        assert row is not None and row.lease.fencing_token == fence.fencing_token

    async def test_a_busy_lane_is_left_alone(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        await make.start(store, self.clock, "t1")
        await make.enqueue(store, "i1")
        mark = await store.change_mark()
        busy = await store.open_lane(make.drain_request(self.clock, "b"))
        assert isinstance(busy, LaneBusy) and busy.turn_id == "t1"
        assert await store.change_mark() == mark
        assert await make.pending_ids(store) == ["i1"]

    async def test_of_many_passes_over_one_row_one_takes_it(self) -> None:
        stores = [self.open_store() for _ in range(4)]
        await make.create(stores[0], self.clock)
        await make.enqueue(stores[0], "i1")
        outcomes = await asyncio.gather(
            *(
                store.open_lane(make.drain_request(self.clock, f"o{index}", turn_id=f"d{index}"))
                for index, store in enumerate(stores)
            )
        )
        assert sum(isinstance(outcome, LaneGranted) for outcome in outcomes) == 1
        assert len(await stores[0].unfinished_turns()) == 1

    async def test_a_pass_names_its_turn_and_brings_no_text(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        request = make.drain_request(self.clock)
        for wrong, code in (
            (msgspec.structs.replace(request, turn_id=None), "turn_id_missing"),
            (msgspec.structs.replace(request, draft=make.lane_request(self.clock).draft), "lane_request_ambiguous"),
        ):
            with pytest.raises(UsageError) as caught:
                await store.open_lane(wrong)
            assert caught.value.code == code
