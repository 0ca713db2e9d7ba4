"""The cursors of `turn -o jsonl` resume exactly where their lines stand (contract 04 §1, 08 §6.5)."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from support.cli import COMMAND, environment, spawn_lash

from lash_cli.core.codec import tag_of
from lash_cli.core.observation import MAX_AGE_MS, QueueChanged, SessionCursor
from lash_cli.store.sqlite.store import SqliteStore
from lash_cli.system import SystemClock, SystemIds

MAY_HAVE_ONE = {"stream_start", "committed", "turn_finished"}


def events_after(home: Path, token: str):
    async def read():
        store = SqliteStore.open(home / "lash.db", SystemClock(), SystemIds())
        try:
            return await store.live.replay(SessionCursor.from_store_token(token))
        finally:
            await store.aclose()

    found = asyncio.run(read())
    assert found.gap is None
    return found.events


def cursors(lines):
    return {line["type"]: line["cursor"] for line in lines if line["cursor"] is not None}


def test_a_stream_can_be_resumed_before_its_turn_at_its_commit_and_behind_it(lash, home: Path) -> None:
    lash("open", "s")
    lash("turn", "s", "!text before", "-q")
    lines = lash("turn", "s", "!text one", "--turn-id", "t_1", "-o", "jsonl").lines
    found = cursors(lines)
    assert set(found) == MAY_HAVE_ONE
    assert {event.turn_id for event in events_after(home, found["stream_start"])} == {"t_1"}
    rest = [tag_of(event.payload) for event in events_after(home, found["committed"])]
    assert rest == ["turn_activity"]
    assert events_after(home, found["turn_finished"]) == ()


def test_what_others_do_right_behind_a_commit_is_never_skipped(lash, home: Path) -> None:
    lash("open", "s")
    lines = lash("turn", "s", "!text one", "-o", "jsonl").lines
    lash("enqueue", "s", "more")
    after = events_after(home, cursors(lines)["turn_finished"])
    assert [type(event.payload) for event in after] == [QueueChanged]
    kinds = [tag_of(event.payload) for event in events_after(home, cursors(lines)["committed"])]
    assert kinds == ["turn_activity", "queue_changed"]


def test_an_interrupted_turn_that_is_finished_first_has_cursors_of_its_own(lash, home: Path) -> None:
    lash("open", "s")
    arguments = ["turn", "s", "!sleep 60", "--turn-id", "t_old", "-o", "jsonl"]
    process = spawn_lash(arguments, home=home, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    while b"model_request_started" not in process.stdout.readline():
        pass
    process.kill()
    process.wait()
    process.stdout.close()
    lash("cancel", "s", "--turn", "t_old")
    lines = lash("turn", "s", "!text new", "--turn-id", "t_new", "-o", "jsonl").lines
    ends = {line["turn"]: line["cursor"] for line in lines if line["type"] == "turn_finished"}
    assert set(ends) == {"t_old", "t_new"} and None not in ends.values()
    assert {event.turn_id for event in events_after(home, ends["t_old"])} == {"t_new", None} - {None}


def test_what_stands_before_a_turn_may_be_older_than_the_log_is_kept(lash, home: Path) -> None:
    lash("open", "s")
    lash("turn", "s", "!text long ago", "-q")
    with closing(sqlite3.connect(home / "lash.db")) as connection, connection:
        connection.execute("UPDATE live_row SET at_ms = at_ms - ?", (2 * MAX_AGE_MS,))
    found = cursors(lash("turn", "s", "!text now", "--turn-id", "t_1", "-o", "jsonl").lines)
    assert set(found) == MAY_HAVE_ONE
    assert [tag_of(event.payload) for event in events_after(home, found["committed"])] == ["turn_activity"]
    assert events_after(home, found["turn_finished"]) == ()


def test_without_a_store_there_is_nothing_to_resume(lash) -> None:
    assert cursors(lash("turn", "--ephemeral", "!text hi", "-o", "jsonl").lines) == {}


def test_a_replayed_turn_ends_with_no_cursor_of_another_one(lash) -> None:
    lash("open", "s")
    lash("turn", "s", "!text hi", "--key", "k", "-q")
    lash("turn", "s", "!text later", "-q")
    lines = lash("turn", "s", "!text hi", "--key", "k", "-o", "jsonl").lines
    assert set(cursors(lines)) == {"stream_start"} and lines[-2]["replayed"] is True


@pytest.mark.parametrize("count", ["1", "3"])
def test_head_takes_its_lines_and_the_turn_is_committed(lash, home: Path, count: str) -> None:
    lash("open", "s")
    # The turn says something only when head is gone: what is said before might all fit into the pipe.
    script = f'"$@" 2>err | {{ head -{count}; exec <&-; touch gone; }}; echo "${{PIPESTATUS[0]}}"'
    command = ["bash", "-c", script, "-", *COMMAND, "turn", "s", "!wait-file gone\n!text hello", "-o", "jsonl"]
    done = subprocess.run(command, env=environment(home), cwd=home.parent, capture_output=True, text=True, timeout=60)
    *shown, status = done.stdout.splitlines()
    assert (len(shown), status) == (int(count), "141")
    assert "Traceback" not in (home.parent / "err").read_text()
    assert lash("show", "s", "-o", "json").json["turns"] == 1


def test_a_worker_tells_the_places_of_its_turns_in_the_logs_of_their_sessions(lash, home: Path) -> None:
    for session in ("s1", "s2"):
        lash("open", session)
        lash("enqueue", session, "!text from the queue")
    lines = lash("work", "--all", "--until-empty", "--concurrency", "2", "-o", "jsonl").lines
    told = [line for line in lines if line["type"] in ("committed", "turn_finished")]
    assert len(told) == 4 and {line["session"] for line in told} == {"s1", "s2"}
    assert all(line["cursor"] is None for line in lines if line not in told)
    for session in ("s1", "s2"):
        committed, finished = (line for line in told if line["session"] == session)
        assert SessionCursor.from_store_token(committed["cursor"]).session_id == session
        (end,) = events_after(home, committed["cursor"])
        assert (tag_of(end.payload), end.turn_id) == ("turn_activity", committed["turn"])
        assert events_after(home, finished["cursor"]) == ()
        resumed = lash("tail", session, "--from", committed["cursor"], "--no-follow", "-o", "jsonl").lines
        assert [line["type"] for line in resumed] == ["stream_start", "turn_finished", "stream_end"]
        assert resumed[1]["cursor"] == finished["cursor"]
