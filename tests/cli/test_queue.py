"""Looking at a queue, holding it, and looking after its batches and claims (contract 08 §5.2, 02 §3.4, 03 §3.3)."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import pytest
from support.error_world import told
from support.queued import QueuedHome
from support.terminal import Terminal

from lash_cli.core.effect import TurnScope
from lash_cli.core.lease import LeaseOwnerIdentity
from lash_cli.core.queued_work import RefreshToolCatalog
from lash_cli.core.wait import CustomWait, ResolvedCancelled
from lash_cli.system import SystemClock, this_process


@pytest.fixture
def world(home: Path) -> QueuedHome:
    return QueuedHome(home)


def ids(world: QueuedHome, *options: str) -> list[str]:
    return world.lash("queue", "ls", "s", *options, "-o", "name").out.split()


def test_the_three_kinds_of_demand_are_told_apart(world: QueuedHome) -> None:
    world.add("start")
    world.take(turn_id="t_1")
    following = world.add("then this")
    batch = world.add_wake(7)
    now = world.add("also this", "--now")
    document = world.lash("queue", "ls", "s", "-o", "json").json
    assert (document["kind"], document["next"]) == ("QueueList", None)
    assert [(item["id"], item["type"], item["delivery"], item["state"]) for item in document["items"]] == [
        (now, "input", "this_turn", "pending_active"),
        (following, "input", "next_turn", "deferred_next_turn"),
        (batch, "batch", "background", "pending"),
    ]
    keys = [tuple(item) for item in document["items"]]
    assert len(set(keys)) == 1, "every item has the same keys"
    text = world.lash("queue", "list", "work").out
    sections = [block.splitlines() for block in text.strip().split("\n\n")]
    assert [section[0] for section in sections] == ["enters turn t_1, which runs", "next turn", "background work"]
    assert now in sections[0][1] and sections[1][1].endswith("then this")
    assert "wake of process p_1: done (event 7)" in sections[2][1]
    assert ids(world) == [now, following, batch]


def test_all_lists_what_is_in_use_and_what_is_settled(world: QueuedHome) -> None:
    gone = world.add("cut")
    assert world.lash("queue", "cancel", gone).code == 0
    used = world.add("in use")
    world.take(turn_id="t_1")
    waiting = world.add("waits")
    assert ids(world) == [waiting]
    items = {item["id"]: item for item in world.lash("queue", "ls", "s", "--all", "-o", "json").json["items"]}
    assert [(items[key]["state"], items[key]["turn_id"]) for key in (gone, used, waiting)] == [
        ("cancelled", None),
        ("accepted", "t_1"),
        ("deferred_next_turn", None),
    ]
    text = world.lash("queue", "ls", "s", "--all").out
    assert "in use by turn t_1" in text and "cancelled  cut" in text


def test_all_tells_which_turn_used_an_input(world: QueuedHome) -> None:
    used, turns = [], []
    for text in ("first", "second"):
        used.append(world.add(text))
        assert world.lash("work", "s", "--until-empty", "-q").code == 0
        shown = world.lash("queue", "show", used[-1], "-o", "json").json
        turns.append(shown["turn_id"])
        assert shown["state"] == "completed" and shown["turn_id"]
    waiting = world.add("waits")
    items = {item["id"]: item for item in world.lash("queue", "ls", "s", "--all", "-o", "json").json["items"]}
    assert [items[key]["turn_id"] for key in (*used, waiting)] == [*turns, None] and turns[0] != turns[1]


def test_an_empty_queue_is_an_answer(world: QueuedHome) -> None:
    empty = world.lash("queue", "ls", "s")
    assert (empty.code, empty.out) == (0, "") and "nothing waits in work" in empty.err
    assert world.lash("queue", "ls", "s", "-o", "json").json["items"] == []
    assert world.lash("queue", "ls", "s", "-o", "jsonl").out == ""
    told(world.lash("queue", "ls", "-o", "json"), 2, "usage")
    assert world.lash("queue", "ls", env={"LASH_SESSION": "s"}).code == 0


def test_a_table_has_fixed_columns_and_fields_choose_them(world: QueuedHome) -> None:
    one = world.add("a text")
    table = world.lash("queue", "ls", "s", "-o", "table").out.splitlines()
    assert table[0].split() == ["ID", "TYPE", "DELIVERY", "STATE", "ENQUEUED", "AT", "PREVIEW"]
    assert table[1].split()[:4] == [one, "input", "next_turn", "deferred_next_turn"]
    assert world.lash("queue", "ls", "s", "--fields", "id,preview").out.split("\n")[1].split() == [one, "a", "text"]
    told(world.lash("queue", "ls", "s", "--fields", "nope", "-o", "json"), 2, "usage")


def test_what_a_text_holds_cannot_steer_the_terminal(world: QueuedHome) -> None:
    one = world.add("evil \x1b]0;title\x07 \u202e text")
    for arguments in (("queue", "ls", "s"), ("queue", "show", one), ("queue", "ls", "s", "-o", "table")):
        shown = world.lash(*arguments)
        assert shown.code == 0 and not set("\x1b\x07\u202e") & set(shown.out), arguments
        assert "\\x1b]0;title" in shown.out


def test_show_tells_one_input_wherever_it_is(world: QueuedHome) -> None:
    one = world.add("line one\nline two", "--key", "k")
    shown = world.lash("queue", "show", one)
    assert shown.code == 0 and shown.out.endswith("line one\nline two\n") and "next turn" in shown.out
    document = world.lash("queue", "show", one, "-o", "json").json
    assert (document["kind"], document["id"], document["state"], document["key"]) == (
        "QueueItem", one, "deferred_next_turn", "k",
    )  # fmt: skip
    world.take(turn_id="t_1")
    document = world.lash("queue", "show", one, "-o", "json").json
    assert (document["state"], document["turn_id"]) == ("accepted", "t_1")


def test_an_input_of_another_session_is_not_found_in_this_one(world: QueuedHome) -> None:
    assert world.lash("open", "other").code == 0
    one = world.add("theirs", session="other")
    assert world.lash("queue", "show", one, "--session", "other").code == 0
    for arguments in (
        ("queue", "show", one, "--session", "s"),
        ("queue", "show", "in_nope"),
        ("queue", "cancel", one, "--session", "s"),
        ("cancel-suffix", "s", one),
        ("wait", "s", "--for", f"input={one}"),
        ("queue", "edit", one, "--session", "s", "--file", __file__),
    ):
        told(world.lash(*arguments, "-o", "json"), 3, "input_not_found")
    assert world.waiting("other") == ["theirs"]


def test_a_held_queue_says_so_until_it_is_released(world: QueuedHome) -> None:
    world.add("waits")
    held = world.lash("queue", "hold", "work", "--reason", "until Monday", "-o", "json").json
    assert (held["kind"], held["held"], held["changed"], held["hold_reason"]) == (
        "QueueHold",
        True,
        True,
        "until Monday",
    )
    again = world.lash("queue", "hold", "s", "--reason", "another", "-o", "json").json
    assert (again["changed"], again["hold_reason"], again["held_at"]) == (False, "until Monday", held["held_at"])
    listed = world.lash("ls", "-o", "json").json["items"][0]
    assert (listed["held_at"], listed["hold_reason"]) == (held["held_at"], "until Monday")
    assert (listed["pending_inputs"], listed["pending_batches"], listed["status"]) == (1, 0, "queued")
    shown = world.lash("show", "s")
    assert "1 input waiting, held since" in shown.out and "lash queue release work" in shown.out
    assert "until Monday" in world.lash("queue", "ls", "s").err
    doctor = world.lash("doctor", "-o", "json").json
    assert doctor["held_queues"][0]["reason"] == "until Monday"
    assert "queue_held" in [finding["code"] for finding in doctor["findings"]]
    released = world.lash("queue", "release", "s", "-o", "json").json
    assert (released["held"], released["changed"], released["held_at"], released["hold_reason"]) == (
        False, True, None, None,
    )  # fmt: skip
    assert world.lash("queue", "release", "s", "-o", "json").json["changed"] is False
    assert "lash work work --until-empty" in world.lash("show", "s").out


def test_hold_and_release_need_a_session_that_is_there(world: QueuedHome) -> None:
    for verb in ("hold", "release", "batches", "ls", "revoke-waits"):
        told(world.lash("queue", verb, "nowhere", "-o", "json", "--yes"), 3, "session_not_found")


def test_batches_are_listed_with_what_became_of_them(world: QueuedHome) -> None:
    later = round(time.time() * 1000) + 3_600_000
    command = world.queue(lambda queue: queue.submit_command(RefreshToolCatalog("a new tool"), "k1")).batch_id
    task, waiting = world.add_task("tidy up"), world.add_task("later", available_at_ms=later)
    document = world.lash("queue", "batches", "s", "-o", "json").json
    assert document["kind"] == "BatchList"
    assert [(item["id"], item["class"], item["state"]) for item in document["items"]] == [
        (command, "session_command", "pending"),
        (task, "turn_work", "pending"),
        (waiting, "turn_work", "pending"),
    ]
    assert document["items"][2]["available_at"] is not None
    assert [item["attempts"] for item in document["items"]] == [0, 0, 0]
    table = world.lash("queue", "batches", "s").out.splitlines()
    assert table[0].split()[:3] == ["ID", "STATE", "CLASS"]
    assert "refresh_tool_catalog: a new tool" in table[1] and "task of a frame: tidy up" in table[2]
    assert world.lash("queue", "batches", "s", "-o", "name").out.split() == [command, task, waiting]
    assert world.lash("show", "s", "-o", "json").json["batches"][0]["id"] == command


def test_a_batch_is_cancelled_once(world: QueuedHome) -> None:
    task = world.add_task()
    first = world.lash("queue", "cancel-batch", task, "-o", "json").json
    assert (first["kind"], first["outcome"], first["id"]) == ("BatchCancel", "cancelled", task)
    assert first["payloads"][0]["task"] == "tidy up", "what was cancelled is told as it was"
    assert world.lash("queue", "cancel-batch", task, "-o", "json").json["outcome"] == "already_cancelled"
    told(world.lash("queue", "cancel-batch", "qwb:nope", "-o", "json"), 3, "batch_not_found")
    assert world.lash("open", "other").code == 0
    mine = world.add_task()
    told(world.lash("queue", "cancel-batch", mine, "--session", "other", "-o", "json"), 3, "batch_not_found")
    world.take(turn_id="t_1")
    told(world.lash("queue", "cancel-batch", mine, "-o", "json"), 4, "batch_already_claimed")
    assert world.lash("queue", "batches", "s", "-o", "name").out == ""
    assert [item["state"] for item in world.lash("queue", "batches", "s", "--all", "-o", "json").json["items"]] == [
        "accepted"
    ]


def test_a_batch_that_was_done_can_be_cancelled_no_more(world: QueuedHome) -> None:
    command = world.queue(lambda queue: queue.submit_command(RefreshToolCatalog("a new tool"), "k1")).batch_id
    assert world.lash("work", "s", "--until-empty").code == 0
    error = told(world.lash("queue", "cancel-batch", command, "-o", "json"), 4, "batch_already_completed")
    assert error["details"]["batch"]["state"] == "completed"


def test_waiting_for_a_batch_ends_when_it_is_settled(world: QueuedHome) -> None:
    task = world.add_task()
    told(world.lash("queue", "wait-batch", task, "--timeout", "100ms", "-o", "json"), 124, "wait_timeout")
    told(world.lash("queue", "wait-batch", "qwb:nope", "-o", "json"), 3, "batch_not_found")
    waiting = world.spawn("queue", "wait-batch", task, "-o", "json")
    assert world.lash("queue", "cancel-batch", task).code == 0
    done = world.ended(waiting)
    assert (done.code, done.json["kind"], done.json["state"]) == (0, "Batch", "cancelled")
    assert world.lash("queue", "wait-batch", task).out.startswith("cancelled  ")


def spoil(world: QueuedHome, batch_id: str) -> None:
    """Make the payloads of a batch undecodable, as a newer program might have written them."""
    connection = sqlite3.connect(world.home / "lash.db")
    with connection:
        changed = connection.execute(
            'UPDATE queued_work SET payloads = \'[{"type":"of_tomorrow"}]\' WHERE batch_id = ?', (batch_id,)
        )
        assert changed.rowcount == 1
    connection.close()


def test_a_look_at_a_session_counts_what_waits_and_reads_it_only_for_who_asks(world: QueuedHome) -> None:
    one = world.add("x")
    world.garble(one)
    assert "1 input waiting" in world.lash("show", "s").out
    for asked in (("-o", "json"), ("--fields", "queue"), ("--format", "{queue}")):
        error = world.lash("show", "s", *asked, env={"LASH_OUTPUT": "text"})
        assert error.code == 9 and one in error.err


def test_a_batch_nobody_can_read_is_parked_and_blocks_nothing(world: QueuedHome) -> None:
    dead = world.add_task("unreadable")
    behind = world.add_task("!text behind it")
    spoil(world, dead)
    done = world.lash("work", "s", "--until-empty", "-o", "json")
    assert (done.code, done.json["turns"]) == (0, 1), done.err
    assert world.lash("queue", "wait-batch", behind).code == 0
    (row,) = world.lash("queue", "batches", "s", "-o", "json").json["items"]
    assert (row["id"], row["state"]) == (dead, "dead") and row["last_error"]
    assert dead in world.lash("queue", "batches", "s").out
    assert world.lash("queue", "ls", "s", "-o", "name").out == "", "a dead batch waits for no worker"
    assert "dead, waits for you" in world.lash("queue", "ls", "s", "--all").out
    error = told(world.lash("queue", "wait-batch", dead, "-o", "json"), 4, "batch_dead")
    assert f"lash queue cancel-batch {dead}" in error["hint"]
    doctor = world.lash("doctor", "-o", "json").json
    assert [batch["id"] for batch in doctor["dead_batches"]] == [dead]
    assert "batch_dead" in [finding["code"] for finding in doctor["findings"]]
    assert world.lash("wait", "s", "--for", "queue-empty", "--timeout", "1s").code == 0
    assert world.lash("queue", "cancel-batch", dead, "-o", "json").json["outcome"] == "cancelled"
    assert world.lash("doctor", "-o", "json").json["dead_batches"] == []


def test_a_claim_in_use_is_not_abandoned(world: QueuedHome) -> None:
    world.add("in use")
    claim = world.take(turn_id="t_1")
    error = told(world.lash("queue", "abandon", claim, "-o", "json"), 4, "claim_is_live")
    assert error["details"]["turn_id"] == "t_1" and error["details"]["lease"]["live"]
    told(world.lash("queue", "abandon", "tic:999:1", "-o", "json"), 3, "claim_not_found")
    assert world.waiting() == []


def test_the_claim_of_a_dead_turn_gives_its_text_back_and_says_that_the_turn_is_dropped(world: QueuedHome) -> None:
    one = world.add("given back")
    claim = world.take(turn_id="t_1", is_alive=False)
    told_claim = world.lash("queue", "cancel", one, "-o", "json").error["details"]["items"][0]["claim"]
    assert told_claim.pop("owner")["owner_id"]
    assert told_claim == {
        "claim_id": claim,
        "generation": 1,
        "turn_id": "t_1",
        "fencing_token": 1,
        "state": "deferred_next_turn",
    }
    done = world.lash("queue", "abandon", claim, "-o", "json")
    assert done.code == 0
    assert (done.json["released"], done.json["dropped_turn"], done.json["family"]) == ([one], "t_1", "input")
    assert "t_1" in done.error["message"], "a warning tells of the turn"
    assert world.waiting() == ["given back"]
    told(world.lash("queue", "abandon", claim, "-o", "json"), 3, "claim_not_found")
    assert world.lash("show", "s", "-o", "json").json["unfinished_turn"] is None


def test_the_claim_of_dead_work_gives_its_batch_back(world: QueuedHome) -> None:
    task = world.add_task()
    claim = world.take(turn_id="t_1", is_alive=False)
    done = world.lash("queue", "abandon", claim, "-o", "json").json
    assert (done["released"], done["family"]) == ([task], "batch")
    assert world.lash("queue", "batches", "s", "-o", "name").out.split() == [task]


def test_revoking_ends_every_open_wait_and_leaves_the_session_usable(world: QueuedHome) -> None:
    async def register(store):
        key = await store.wait_key(TurnScope("s", "t_1"), CustomWait("k"))
        assert await store.register_wait(key, None, SystemClock().now_ms()) is None
        return key

    key = world.store(register)
    told(world.lash("queue", "revoke-waits", "s", "-o", "json"), 2, "confirmation_required")
    assert world.store(lambda store: store.peek_wait(key)) is None
    done = world.lash("queue", "revoke-waits", "work", "--yes", "-o", "json").json
    assert (done["kind"], done["id"], done["revoked"]) == ("WaitsRevoked", "s", 1)
    assert world.store(lambda store: store.peek_wait(key)) == ResolvedCancelled()
    assert "ended 0 waits" in world.lash("queue", "revoke-waits", "s", "--yes").out
    assert world.lash("turn", "s", "still here", "-q").code == 0


def test_the_waits_that_are_revoked_are_those_of_the_session_that_was_asked_about(world: QueuedHome) -> None:
    async def register(store):
        key = await store.wait_key(TurnScope("s", "t_1"), CustomWait("k"))
        assert await store.register_wait(key, None, SystemClock().now_ms()) is None
        return key

    key = world.store(register)
    asked = Terminal(world.home, "queue", "revoke-waits", "work")
    try:
        asked.wait_for("end every open wait of work")
        assert world.lash("rename", "s", "play").code == 0
        assert world.lash("open", "other", "--name", "work").code == 0
        asked.press("y\r")
        assert asked.ended() == 0
    finally:
        asked.close()
    assert world.store(lambda store: store.peek_wait(key)) == ResolvedCancelled()


def test_a_session_is_waiting_while_its_turn_waits_for_somebody_outside(world: QueuedHome) -> None:
    def statuses() -> tuple[str, str, str, str]:
        listed = world.lash("ls", "-o", "json").json["items"]
        filtered = world.lash("ls", "--status", "waiting", "-o", "json").json["items"]
        shown = world.lash("show", "s", "-o", "json").json["status"]
        return listed[0]["status"], " ".join(item["id"] for item in filtered), shown, world.lash("ls", "--here").out

    def register(turn_id: str) -> None:
        async def work(store):
            key = await store.wait_key(TurnScope("s", turn_id), CustomWait("k"))
            await store.register_wait(key, None, SystemClock().now_ms())

        world.store(work)

    register("t_1")
    register("t_2")
    assert statuses()[:3] == ("idle", "", "idle"), "no turn waits"
    world.add("x")
    world.take(turn_id="t_3")
    assert statuses()[:3] == ("running", "", "running"), "what earlier turns waited for is not its matter"
    register("t_3")
    listed, filtered, shown, text = statuses()
    assert (listed, filtered, shown) == ("waiting", "s", "waiting") and "waiting" in text
    assert world.lash("queue", "revoke-waits", "s", "--yes", "-q").code == 0
    assert statuses()[:3] == ("running", "", "running")


def test_a_claim_made_outside_of_a_turn_hides_its_text_while_its_owner_holds_the_lane(world: QueuedHome) -> None:
    one = world.add("taken by a host")

    async def claim(store):
        owner = LeaseOwnerIdentity("o", "i", this_process(), "host")
        lease = await store.try_claim_lease("s", owner, ttl_ms=600_000, token="t")
        return (await store.claim_next_turn_inputs(lease.fence(), claim_token="ct")).claim_id

    claimed = world.store(claim)
    assert ids(world) == []
    assert world.lash("queue", "show", one, "-o", "json").json["state"] == "accepted"
    told(world.lash("queue", "abandon", claimed, "-o", "json"), 4, "claim_is_live")
