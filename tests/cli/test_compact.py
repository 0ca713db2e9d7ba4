"""`lash compact`, and agent frames in `show`, `log` and `tree`, through the real entry point (contract 08 §5.1)."""

from __future__ import annotations

import signal

import pytest
from support.cli import spawn_lash
from support.wire import ThreadedChatServer, thoughts_reply

SUMMARY = "Compaction summary:\n\nthe gist"


@pytest.fixture
def talk(lash):
    """Session `s`, called notes, with two turns."""
    lash("open", "s", "--name", "notes")
    lash("turn", "s", "!text one")
    lash("turn", "s", "!text two")


def said(lash, *options: str) -> list[str]:
    return [item["text"] for item in lash("log", "s", *options, "-o", "json").json["items"]]


def test_a_compaction_makes_room_and_prints_the_way_back(lash, talk) -> None:
    before = lash("show", "s", "-o", "json").json
    done = lash("compact", "notes", "!text the gist")
    assert done.code == 0
    first, undo = done.out.splitlines()
    assert first == "compacted notes: 4 messages became a summary and 2 more"
    assert undo == f"undo: lash rewind s --to {before['head']['leaf_node']}"
    assert said(lash) == [SUMMARY, "!text two", "two"]
    assert lash("turn", "s", "!text three").out == "three\n"
    usage = {row["source"] for row in lash("usage", "s", "-o", "json").json["by_source_model"]}
    assert usage == {"turn", "compaction"}
    lash(*undo.removeprefix("undo: lash ").split())
    assert said(lash) == ["!text one", "one", "!text two", "two"]


def test_frames_are_shown_and_the_old_one_is_read_on_request(lash, talk) -> None:
    frame = lash("compact", "s", "!text the gist", "-o", "json").json["frame"]
    shown = lash("show", "s").out
    assert "frames      initial  superseded" in shown and "compaction  current" in shown
    assert [row["reason"] for row in lash("show", "s", "-o", "json").json["frames"]] == ["initial", "compaction"]
    assert lash("log", "s").out.startswith(f"frame: compaction  {frame}\n\nuser:\n    Compaction summary:\n")
    document = lash("log", "s", "--frames", "-o", "json").json
    assert [item["text"] for item in document["items"]] == [
        "!text one", "one", "!text two", "two", SUMMARY, "!text two", "two",
    ]  # fmt: skip
    assert [item["frame"] for item in document["items"]] == ["s:frame:initial"] * 4 + [frame] * 3
    assert [row["id"] for row in document["frames"]] == ["s:frame:initial", frame]
    whole = lash("log", "s", "--frames").out
    assert whole.index("one") < whole.index(f"frame: compaction  {frame}") < whole.index("Compaction summary")
    assert "(compaction frame)" in lash("tree", "s").out
    assert lash("log", "s", "--frames", "--follow", "-o", "json").error["code"] == "usage"


def test_there_may_be_nothing_to_compact(lash) -> None:
    lash("open", "s", "--name", "notes")
    assert lash("compact", "s").out == "notes has nothing to summarise\n"
    document = lash("compact", "s", "-o", "json").json
    assert (document["kind"], document["compacted"], document["reason"]) == ("Compaction", False, "nothing_to_compact")
    assert (document["frame"], document["undo"]) == (None, None)


@pytest.mark.parametrize(("focus", "code", "status"), [("!fail auth", "key_rejected", 5), ("!text", "usage", None)])
def test_a_model_that_gives_no_summary_leaves_the_session_as_it_was(lash, talk, focus, code, status) -> None:
    done = lash("compact", "s", focus, "-o", "json")
    assert done.code == (status if status is not None else done.code) != 0
    assert done.out == ""
    if status is not None:
        assert done.error["code"] == code
    assert said(lash) == ["!text one", "one", "!text two", "two"]
    assert lash("show", "s", "-o", "json").json["lease"] is None


def test_a_model_that_only_thinks_stops_a_compaction_like_one_that_says_nothing(lash, talk) -> None:
    with ThreadedChatServer([thoughts_reply("what a talk")]) as server:
        url = {"LASH_CFG__providers__chat__base_url": server.base_url}
        env = {"LASH_CFG__providers__chat__kind": "openai_chat", **url}
        assert lash("set", "s", "provider=chat", "model=m-1", env=env).code == 0
        done = lash("compact", "s", "-o", "json", env=env)
    assert (done.code, done.out, done.error["code"]) == (6, "", "compaction_empty")
    assert done.error["hint"] == "the session is as it was; try again with: lash compact s"
    assert done.error["details"]["usage"]["total_tokens"] > 0
    assert said(lash) == ["!text one", "one", "!text two", "two"]


def test_an_interrupted_compaction_leaves_the_session_as_it_was(lash, home, tmp_path, talk) -> None:
    gate = tmp_path / "gate"
    with spawn_lash(["compact", "s", f"!wait-file {gate}\n!text late"], home=home) as process:
        assert process.stderr is not None and process.stdout is not None
        assert b"summarising notes: 4 messages" in process.stderr.readline()
        busy = lash("turn", "s", "hi", "-o", "json")
        while busy.code == 0:  # the model is not asked yet
            busy = lash("turn", "s", "hi", "-o", "json")
        beside = lash("compact", "s", "-o", "json")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (busy.code, busy.error["code"]) == (75, "session_execution_busy")
    hints = [refused.error["hint"] for refused in (busy, beside)]
    assert hints == ["wait for it with --if-busy wait=30s", "wait for its end: lash wait s"], (
        "there is no turn to cancel"
    )
    assert (process.returncode, out) == (130, b"")
    assert b"SIGINT" in err
    assert SUMMARY not in said(lash)
    assert lash("show", "s", "-o", "json").json["lease"] is None
    assert lash("compact", "s", "!text the gist").code == 0


def test_a_running_turn_is_not_compacted_away(lash, home, tmp_path, talk) -> None:
    gate = tmp_path / "gate"
    with spawn_lash(["turn", "s", f"!wait-file {gate}\n!text late", "-o", "jsonl"], home=home) as process:
        assert process.stdout is not None
        assert any(b"model_request_started" in line for line in process.stdout)
        refused = lash("compact", "s", "-o", "json")
        gate.touch()
        process.communicate()
    assert (refused.code, refused.error["code"]) == (75, "session_execution_busy")
    assert said(lash)[-1] == "late"
