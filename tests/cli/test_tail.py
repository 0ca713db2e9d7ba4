"""`lash tail` off a terminal: one process works, others watch (contract 08 §5.1, §6.5, §8; 04 §5, §11)."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.cli import spawn_lash
from support.frozen import freeze
from support.guides import blocks, reader, run_shell
from support.prepared import OPEN, prepare
from support.tailing import GENESIS, PATIENCE_S, SILENT, foreign_epoch, payload, types
from support.watching import StreamingCaller

from lash_cli.api import LashCore, ModelSpec, SqliteStore
from lash_cli.system import SystemClock, SystemIds


def test_a_tail_tells_the_documents_of_the_turn_itself(lash, home: Path, tailing) -> None:
    prepare(home, OPEN)
    tail = tailing("s", "--until", "turn")
    turn = lash("turn", "s", '!tool glob {"pattern":"*"}\n!then\n!text done', "-o", "jsonl").lines
    told = tail.rest()
    assert tail.process.returncode == 0
    assert types(told)[1:-1] == types(turn)[1:-1]
    for ours, theirs in zip(told[1:-1], turn[1:-1], strict=True):
        if ours["type"] == "turn_finished":
            assert ours.keys() == theirs.keys() and ours["outcome"] == theirs["outcome"]
            assert ours["text"] == theirs["text"] == "done" and ours["usage"] == theirs["usage"]
        else:
            assert payload(ours) == payload(theirs)
    assert all(line["cursor"] for line in told[:-1]) and len({line["cursor"] for line in told[1:-1]}) == len(told) - 2
    assert [line["seq"] for line in told] == list(range(len(told)))
    assert told[-1] == {**told[-1], "type": "stream_end", "reason": "turn", "exit": 0, "error": None}


def test_an_enqueue_of_a_third_process_is_seen(lash, home: Path, tailing) -> None:
    prepare(home, OPEN)
    tail = tailing("s")
    receipt = lash("enqueue", "s", "later", "-q").out.strip()
    assert payload(tail.until("queue_changed")) == {"kind": "enqueued", "ids": [receipt], "input": None, "reason": None}
    assert tail.end() == 143


def test_start_prints_the_transcript_first_and_then_follows(lash, home: Path, tailing) -> None:
    prepare(home, OPEN, ("turn", "s", "!text first"))
    tail = tailing("s", "--from", "start", "--until", "turn")
    snapshot = tail.next()
    assert snapshot["type"] == "snapshot" and snapshot["revision"] == 1
    assert [message["text"] for message in snapshot["messages"]] == ["!text first", "first"]
    lash("turn", "s", "!text second")
    assert types(tail.rest())[2:4] == ["turn_started", "model_request_started"]


def test_a_commit_of_no_turn_behind_a_cursor_repeats_nothing_that_was_said_before(lash, home: Path) -> None:
    prepare(home, OPEN, ("turn", "s", "!text one"))
    begun = lash("tail", "s", "--no-follow", "-o", "jsonl").lines[0]["cursor"]
    with spawn_lash(["tail", "s", "--from", begun, "--until", "turn"], home=home, stderr=subprocess.DEVNULL) as tail:
        lash("set", "s", "max_steps=9")
        caught_up = lash("tail", "s", "--from", begun, "--no-follow")
        lash("turn", "s", "!text two")
        assert tail.stdout is not None
        followed = tail.stdout.read().decode()
    assert caught_up.code == 0 and caught_up.out == ""
    assert "one" not in followed and followed.count("two") == 2
    later = lash("tail", "s", "--from", begun, "--no-follow")
    assert "one" not in later.out and later.out.count("two") == 2


@pytest.mark.parametrize("way", ["rewind", "compact"])
def test_behind_a_cursor_nothing_is_left_out_when_the_turns_after_it_are_no_part_of_the_transcript_any_more(
    lash, home: Path, way: str
) -> None:
    prepare(home, OPEN, ("turn", "s", "!text one"))
    begun = lash("tail", "s", "--no-follow", "-o", "jsonl").lines[0]["cursor"]
    last_node = lash("tree", "s", "-o", "json").json["items"][-1]["id"]
    lash("turn", "s", "!text left behind")
    assert lash(*(["rewind", "s", "--to", last_node] if way == "rewind" else ["compact", "s"])).code == 0
    lash("turn", "s", "!text two")
    told = lash("tail", "s", "--from", begun, "--no-follow").out
    assert told.count("user      !text two") == told.count("assistant two") == 1
    assert "user      !text one" not in told
    assert ("Compaction summary" in told) == (way == "compact")


def test_every_commit_names_the_node_that_is_the_head_after_it(lash, home: Path) -> None:
    prepare(home, OPEN)
    begun = lash("tail", "s", "--no-follow", "-o", "jsonl").lines[0]["cursor"]
    lash("turn", "s", "!text one")
    lash("turn", "s", "!text two")
    nodes = [item["id"] for item in lash("tree", "s", "-o", "json").json["items"]]
    assert len(nodes) == 4
    lash("rewind", "s", "--to", nodes[1])
    lash("set", "s", "model=m")
    lash("rewind", "s", "--to", "root")
    lash("rewind", "s", "--to", nodes[3])
    told = lash("tail", "s", "--from", begun, "--no-follow", "-o", "jsonl").lines
    heads = [line["head_node"] for line in told if line["type"] == "committed"]
    assert heads == [nodes[1], nodes[3], nodes[1], nodes[1], None, nodes[3]]


def test_behind_a_gap_the_lines_for_people_tell_what_was_committed_since_the_cursor(lash, home: Path) -> None:
    prepare(home, OPEN, ("turn", "s", "!text one"))
    begun = lash("tail", "s", "--no-follow", "-o", "jsonl").lines[0]["cursor"]
    lash("turn", "s", "!text two")
    with closing(sqlite3.connect(home / "lash.db", isolation_level=None)) as database:
        database.execute("UPDATE live_row SET at_ms = 0")
    told = lash("tail", "s", "--from", begun, "--no-follow").out
    assert "gap       (trimmed)" in told
    assert told.count("assistant two") == 1 and "one" not in told
    elsewhere = lash("tail", "s", "--from", foreign_epoch(begun), "--no-follow").out
    assert "gap       (unavailable)" in elsewhere and "assistant one" in elsewhere and "assistant two" in elsewhere


def test_from_the_last_commit_a_running_turn_is_told_from_its_start_and_a_settled_one_not_at_all(
    lash, home: Path, tailing, tmp_path: Path
) -> None:
    prepare(home, OPEN)
    behind_last_commit = ["tail", "s", "--from", "last-commit", "--no-follow"]
    assert types(lash(*behind_last_commit, "-o", "jsonl").lines) == ["stream_start", "stream_end"]
    lash("turn", "s", "!text first")
    watching = tailing("s")
    gate = tmp_path / "gate"
    running = f"!text shown\n!tool glob {{}}\n!then\n!wait-file {gate}\n!text second"
    with spawn_lash(["turn", "s", running], home=home, **SILENT) as turn:
        watching.until("tool_completed")
        told = lash(*behind_last_commit, "-o", "jsonl").lines
        assert told[0]["from"] == "last-commit"
        assert types(told)[1:4] == ["turn_started", "model_request_started", "text_delta"]
        assert "tool_completed" in types(told) and told[-1]["reason"] == "caught_up"
        people = lash(*behind_last_commit)
        assert "glob" in people.out and "first" not in people.out
        gate.touch()
        turn.wait(PATIENCE_S)
    settled = lash(*behind_last_commit, "-o", "jsonl").lines
    assert types(settled) == ["stream_start", "stream_end"]
    assert settled[0]["cursor"] == watching.until("turn_finished")["cursor"]
    lash("enqueue", "s", "later", "-q")
    assert types(lash(*behind_last_commit, "-o", "jsonl").lines)[1:-1] == ["queue_changed"]


def test_the_lines_for_people_show_a_retried_answer_once(lash, home: Path) -> None:
    prepare(home, OPEN)
    tail = spawn_lash(["tail", "s", "--until", "turn"], home=home)
    assert tail.stderr is not None and b"watching" in tail.stderr.readline()
    lash("turn", "s", "!fail stream_cut 1\n!text one two three four\n!stream 4 0.01")
    out, _ = tail.communicate(timeout=PATIENCE_S)
    text = out.decode()
    # Once as what the user asked for, once as the answer.
    assert text.count("one two three four") == 2 and " assistant one two three four" in text
    assert "retracted" in text and " retry " in text and "finished" in text and "\x1b" not in text


def test_the_lines_for_people_tell_of_a_rewind_and_of_nothing_else_as_one(lash, home: Path) -> None:
    prepare(home, OPEN)
    for text in ("one", "two"):
        lash("turn", "s", f"!text {text}", "-q")
    first = lash("log", "s", "-o", "json").json["items"][1]["id"]
    tail = spawn_lash(["tail", "s"], home=home)
    assert tail.stderr is not None and tail.stdout is not None and b"watching" in tail.stderr.readline()
    told: list[str] = []

    def until(what: str) -> None:
        while not told or what not in told[-1]:
            told.append(tail.stdout.readline().decode())

    lash("rewind", "s", "--to", first)
    until("rewind ")
    assert told[-1].split(maxsplit=1)[1] == f"rewind    2 messages left behind; it goes on from {first}\n"
    lash("turn", "s", "!text three", "-q")
    until("finished")
    lash("compact", "s")
    until("frame ")
    lash("turn", "s", "!text four", "-q")
    until("finished")
    lash("rewind", "s", "--to", "root")
    until("frame ")
    lash("turn", "s", "!text five", "-q")
    until("finished")
    lash("rewind", "s", "--to", "root")
    until("from the beginning")
    tail.terminate()
    tail.communicate(timeout=PATIENCE_S)
    assert sum(" rewind " in line for line in told) == 2, told


def test_text_of_the_model_is_harmless_unless_raw(lash, home: Path) -> None:
    prepare(home, OPEN)
    lash("turn", "s", '!text "a\\u001b]0;owned\\u0007b"')
    assert "\x1b" not in lash("tail", "s", "--from", "start", "--no-follow").out
    assert "\x1b]0;owned" in lash("tail", "s", "--from", "start", "--no-follow", "--raw").out


def test_only_the_types_asked_for_are_told(lash, home: Path, tailing) -> None:
    prepare(home, OPEN)
    tail = tailing("s", "--types", "committed,turn_finished", "--types", "turn_started", "--until", "turn")
    lash("turn", "s", "hi")
    assert types(tail.rest()) == ["stream_start", "turn_started", "committed", "turn_finished", "stream_end"]


def test_a_quiet_stream_tells_that_it_is_alive_only_when_that_is_asked_for(lash, home: Path, tailing) -> None:
    prepare(home, OPEN)
    tail = tailing("s", "--heartbeat", "50ms", "--types", "committed")
    beats = [tail.until("heartbeat") for _ in range(2)]
    assert [(beat["session"], beat["cursor"]) for beat in beats] == [("s", None)] * 2
    assert lash("turn", "s", "!text x").code == 0
    tail.until("committed")
    tail.until("heartbeat")
    quiet = lash("tail", "s", "--until", "300ms", "-o", "jsonl").out
    assert '"stream_end"' in quiet and "heartbeat" not in quiet
    for arguments in (("--heartbeat", "0s", "-o", "jsonl"), ("--heartbeat", "1s"), ("--heartbeat", "x", "-o", "jsonl")):
        assert lash("tail", "s", *arguments).code == 2


def test_a_turn_tells_that_it_is_alive_until_its_stream_ends(lash, home: Path) -> None:
    prepare(home, OPEN)
    done = lash("turn", "s", "!sleep 0.4\n!text x", "--heartbeat", "50ms", "-o", "jsonl")
    kinds = [json.loads(line)["type"] for line in done.out.splitlines()]
    assert done.code == 0 and kinds.count("heartbeat") >= 1
    assert (kinds[0], kinds[-1]) == ("stream_start", "stream_end")
    assert lash("turn", "s", "x", "--heartbeat", "1s").code == 2


def test_several_sessions_are_told_apart_by_their_names(lash, home: Path) -> None:
    prepare(home, ("open", "a", "--name", "alpha"), ("open", "b", "--name", "beta"))
    tail = spawn_lash(["tail", "a", "b"], home=home)
    assert tail.stderr is not None
    tail.stderr.readline()
    tail.stderr.readline()
    lash("turn", "a", "!text from a")
    lash("turn", "b", "!text from b")
    assert tail.stdout is not None
    lines = []
    while not lines or b"finished" not in lines[-1] or not lines[-1].startswith(b"beta"):
        lines.append(tail.stdout.readline())
    tail.send_signal(signal.SIGTERM)
    rest, _ = tail.communicate(timeout=PATIENCE_S)
    assert all(line.startswith((b"alpha  ", b"beta  ")) for line in lines) and not rest
    assert any(line.startswith(b"alpha") and b"from a" in line for line in lines)


def test_all_takes_in_a_session_that_is_made_later(lash, home: Path, tailing) -> None:
    prepare(home, ("open", "a"))
    tail = tailing("--all")
    lash("open", "later")
    lash("turn", "later", "!text hello")
    started = tail.until("turn_started")
    assert started["session"] == "later"
    assert tail.until("turn_finished")["text"] == "hello"
    assert tail.end() == 143


def test_a_session_that_is_made_with_a_history_misses_nothing(lash, home: Path, tailing, tmp_path: Path) -> None:
    prepare(home, OPEN, ("turn", "s", "!text first"))
    place, archive = tmp_path / "places", tmp_path / "s.json"
    lash("export", "s", "--as", "json", "--out", str(archive))
    lash("tail", "--all", "--save-cursor", str(place), "--no-follow")
    tail, words = tailing("--all", "--strict-gap"), spawn_lash(["tail", "--all"], home=home, stderr=subprocess.PIPE)
    assert words.stdout is not None and words.stderr is not None
    assert words.stderr.readline().startswith(b"watching")
    fork = lash("fork", "s", "-q").out.strip()
    snapshot = tail.next()
    assert (snapshot["type"], snapshot["session"], snapshot["revision"]) == ("snapshot", fork, 1)
    assert [message["text"] for message in snapshot["messages"]] == ["!text first", "first"]
    lash("import", str(archive), "--id", "again")
    assert (line := tail.next())["type"] == "snapshot" and line["session"] == "again"
    lash("turn", fork, "!text second")
    assert tail.until("turn_finished")["text"] == "second"
    assert tail.end() == 143
    kept = lash("tail", "--all", "--save-cursor", str(place), "--no-follow", "--strict-gap", "-o", "jsonl")
    assert kept.code == 0 and {line["session"] for line in kept.lines[1:-1]} == {fork, "again"}
    assert types(kept.lines).count("snapshot") == 1 and "turn_finished" in types(kept.lines)
    while b"watching" not in (line := words.stderr.readline()) or b"again" not in line:
        assert line
    words.send_signal(signal.SIGTERM)
    told = words.communicate()[0].decode()
    assert "second" in told and "gap" not in told and "first" not in told


MANY = 135  # more than a tail watches at the same time
FEW = 8  # more than a tail watches that does this first
WATCHES_FEW = """
import lash_cli.cli.tail_crowd, lash_cli.cli.tail_run
lash_cli.cli.tail_crowd.MAX_WATCHED = lash_cli.cli.tail_run.MAX_WATCHED = 6
"""


async def one_turn_each(home: Path, numbers: Iterable[int]) -> None:
    store = SqliteStore.open(home / "lash.db", SystemClock(), SystemIds())
    async with LashCore(provider=StreamingCaller(("well",), pause_s=0), model=ModelSpec("m"), store=store) as core:
        for number in numbers:
            async with await core.open_session(f"s{number}") as session:
                await session.turn("hi").run()


def places(lines: list[Any]) -> dict[str, list[int]]:
    """The positions that were told, by session, in the order they came."""
    found: dict[str, list[int]] = {}
    for line in lines:
        if line["type"] not in ("stream_start", "stream_end"):
            found.setdefault(line["session"], []).append(int(line["cursor"].split(":")[3]))
    return found


def test_all_misses_and_repeats_nothing_of_more_sessions_than_are_watched_at_a_time(
    lash, home: Path, tailing, tmp_path: Path
) -> None:
    prepare(home, ("open", "s0"))
    place = str(tmp_path / "places")
    tail = tailing("--all", "--save-cursor", place)
    asyncio.run(one_turn_each(home, range(MANY)))
    ended = 0
    while ended < MANY:
        ended += tail.next()["type"] == "turn_finished"
    first = places(tail.lines)
    tail.process.kill()
    assert len(Path(place).read_text().splitlines()) == MANY
    again = range(0, MANY, 5)
    asyncio.run(one_turn_each(home, again))
    resumed = lash("tail", "--all", "--save-cursor", place, "--no-follow", "-o", "jsonl")
    second = places(resumed.lines)
    assert len(first) == MANY and second.keys() >= {f"s{number}" for number in again}
    for session in first:
        told = second.get(session, first[session][-1:])
        # The item that was under way when the tail was killed may be told once more.
        told = told[1:] if told[0] == first[session][-1] else told
        whole = first[session] + told
        assert whole == list(range(1, whole[-1] + 1)), session
    assert [line["type"] for line in resumed.lines].count("turn_finished") >= len(again)


def test_until_idle_waits_for_who_works_unwatched_in_a_crowd(lash, home: Path, tailing, tmp_path: Path) -> None:
    """The session that begins to work is the one that showed least, so it was left out."""
    prepare(home, ("open", "unwatched"))
    asyncio.run(one_turn_each(home, range(FEW)))
    lash("open", "watched")
    gates = {name: tmp_path / f"go-{name}" for name in ("watched", "unwatched")}
    begun = tailing("watched", "unwatched")
    turns = [spawn_lash(["turn", "watched", f"!wait-file {gates['watched']}\n!text one"], home=home, **SILENT)]
    begun.until("model_request_started")
    place = tmp_path / "places"
    tail = tailing("--all", "--until", "idle", "--save-cursor", str(place), first=WATCHES_FEW)
    give_up_at = time.monotonic() + PATIENCE_S
    while not place.exists() or "unwatched" not in place.read_text():
        assert time.monotonic() < give_up_at
    turns.append(spawn_lash(["turn", "unwatched", f"!wait-file {gates['unwatched']}\n!text two"], home=home, **SILENT))
    begun.until("model_request_started")
    gates["watched"].touch()
    assert tail.until("turn_finished")["text"] == "one"
    # Longer than the watched ones need to be found at rest.
    assert lash("tail", "watched", "--until", "2s").code == 0
    gates["unwatched"].touch()
    assert [turn.wait(PATIENCE_S) for turn in turns] == [0, 0]
    rest = tail.rest()
    assert [line["text"] for line in rest if line["type"] == "turn_finished"][-1] == "two"
    assert rest[-1]["reason"] == "idle" and tail.process.returncode == 0


def test_a_cursor_of_a_turn_is_one_of_a_tail(lash, home: Path) -> None:
    prepare(home, OPEN)
    lines = lash("turn", "s", "hi", "-o", "jsonl").lines
    begun = lines[0]["cursor"]
    resumed = lash("tail", "s", "--from", begun, "--no-follow", "-o", "jsonl").lines
    assert types(resumed)[1:3] == types(lines)[1:3] == ["turn_started", "model_request_started"]
    assert types(resumed)[-4:-1] == types(lines)[-4:-1] == ["usage", "committed", "turn_finished"]
    committed = next(line["cursor"] for line in lines if line["type"] == "committed")
    assert types(lash("tail", "s", "--from", committed, "--no-follow", "-o", "jsonl").lines) == [
        "stream_start", "turn_finished", "stream_end",
    ]  # fmt: skip


def test_a_gap_is_told_with_the_state_to_go_on_from(lash, home: Path) -> None:
    prepare(home, OPEN)
    cursor = lash("turn", "s", "!text kept", "-o", "jsonl").lines[-2]["cursor"]
    result = lash("tail", "s", "--from", foreign_epoch(cursor), "--no-follow", "-o", "jsonl")
    _, gap, snapshot, end = result.lines
    assert gap["type"] == "gap" and gap["reason"] == "unavailable" and gap["cursor"] is None
    assert gap["latest_cursor"] == snapshot["cursor"] == cursor and snapshot["type"] == "snapshot"
    assert snapshot["messages"][-1]["text"] == "kept" and end["exit"] == result.code == 0


def test_a_stopped_tail_does_not_hold_the_turn_and_misses_nothing(lash, home: Path, tailing) -> None:
    prepare(home, OPEN)
    tail = tailing("s", "--until", "turn")
    freeze(tail.process, home / "lash.db")
    assert lash("turn", "s", "!text " + "word " * 300 + "\n!stream 300").code == 0
    tail.process.send_signal(signal.SIGCONT)
    told = tail.rest()
    assert "".join(line["text"] for line in told if line["type"] == "text_delta").split() == ["word"] * 300
    assert types(told)[-2:] == ["turn_finished", "stream_end"]


def dump(home: Path) -> list[str]:
    with closing(sqlite3.connect(f"file:{home}/lash.db?mode=ro", uri=True)) as connection:
        return [
            f"{table}:{row}"
            for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
            for row in connection.execute(f'SELECT * FROM "{table}"')
        ]


def test_a_tail_writes_nothing(lash, home: Path) -> None:
    prepare(home, OPEN, ("turn", "s", "hi"))
    before, files = dump(home), sorted(path.name for path in home.rglob("*"))
    for args in (["s", "--from", "start"], ["s"], ["--all"]):
        assert lash("tail", *args, "--no-follow").code == 0
    assert dump(home) == before
    assert {path.name for path in home.rglob("*")} <= {*files, "lash.db-wal", "lash.db-shm"}


def test_a_tail_creates_no_home(lash, home: Path) -> None:
    for args in (["s"], ["--all"]):
        result = lash("tail", *args, "-o", "jsonl")
        assert result.code == 3 and result.out == "" and result.error["code"] == "session_not_found"
    assert not home.exists()


BAD = [
    (["s", "--from", "yesterday"], 2, "cursor_invalid", "start, last-commit, now or a cursor"),
    (["s", "--cursor", "last-commit"], 2, "cursor_invalid", "lashsc2"),
    (["s", "--from", "now", "--cursor", f"lashsc2:{GENESIS}:0:0:s"], 2, "usage", "--cursor"),
    (["s", "t", "--cursor", f"lashsc2:{GENESIS}:0:0:s"], 2, "usage", "one session"),
    (["s", "--from", "lashsc1:1:2:s"], 2, "cursor_invalid", "lashsc2"),
    (["s", "--from", "lashsc2:e:x:1:s"], 2, "cursor_invalid", "revision"),
    (["s", "--from", f"lashsc2:{GENESIS}:0:0:other"], 2, "cursor_invalid", "other"),
    (["s", "t", "--from", f"lashsc2:{GENESIS}:0:0:s"], 2, "usage", "one session"),
    (["--all", "--from", f"lashsc2:{GENESIS}:0:0:s"], 2, "usage", "one session"),
    (["s", "--types", "tool_startd"], 2, "usage", "tool_started"),
    (["s", "--types", ""], 2, "usage", "names nothing"),
    (["s", "--until", "soon"], 2, "usage", "idle, turn"),
    (["s", "--until", "idle", "--no-follow"], 2, "usage", "no-follow"),
    (["s", "--all"], 2, "usage", "--all"),
    ([], 2, "usage", "SESSION"),
    (["s", "--save-cursor", "/does/not/exist"], 2, "output_unwritable", "/does/not/exist"),
    (["sesion-name"], 3, "session_not_found", "session-name"),
    (["gone"], 3, "session_deleted", "gone"),
]


@pytest.mark.parametrize(("args", "code", "name", "said"), BAD)
def test_bad_input_is_refused_before_anything_is_shown(lash, home: Path, args, code: int, name: str, said: str) -> None:
    prepare(home, ("open", "s", "--name", "session-name"), ("open", "t"), ("open", "gone"), ("rm", "gone", "--yes"))
    result = lash("tail", *args, "-o", "jsonl")
    assert (result.code, result.out, result.error["code"]) == (code, "", name)
    assert said in result.error["message"] + (result.error["hint"] or "")


@pytest.mark.parametrize("form", [["-o", "json"], ["-o", "name"], ["--fields", "type"], ["--format", "{type}"]])
def test_a_stream_is_text_or_json_lines(lash, home: Path, form: list[str]) -> None:
    prepare(home, OPEN)
    result = lash("tail", "s", *form)
    assert result.code == 2 and result.out == "" and "jsonl" in result.err


def test_the_help_begins_with_an_example(lash) -> None:
    assert "Example: lash tail" in lash("tail", "--help").out


def test_every_block_of_the_guide_runs(tmp_path: Path) -> None:
    done = run_shell("\n".join(blocks("tail", "sh")), tmp_path, reader(tmp_path))
    assert done.stdout.count('"queue_changed"') == 1, "the second tail goes on where the first one ended"
