"""`lash turn S -o jsonl --input jsonl`: one turn for each line of stdin, one stream (contract 08 §6.3, §6.5)."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.cli import Result, spawn_lash

FEED = ("--input", "jsonl", "-o", "jsonl")
PATIENCE_S = 60


def feed(lash: Any, *lines: Any, session: str = "s", options: tuple[str, ...] = ()) -> Result:
    text = "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)
    return lash("turn", session, *FEED, *options, input=text)


def types(done: Result) -> list[str]:
    return [line["type"] for line in done.lines]


def finished(done: Result) -> list[str | None]:
    return [line["text"] for line in done.lines if line["type"] == "turn_finished"]


def said(lash: Any) -> list[str]:
    return [item["text"] for item in lash("log", "s", "--role", "user", "-o", "json").json["items"]]


def test_every_line_is_a_turn_of_one_stream(lash: Any, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("kept")
    last = {"text": "!text two", "key": "k", "attachments": [str(tmp_path / "notes.txt")]}
    done = feed(lash, {"text": "!text one"}, "\n", last, options=("--or-open",))
    assert (done.code, finished(done)) == (0, ["one", "two"])
    kinds = types(done)
    assert (kinds[0], kinds[-1]) == ("stream_start", "stream_end")
    assert kinds.count("stream_start") == kinds.count("stream_end") == 1
    assert [line["seq"] for line in done.lines] == list(range(len(done.lines)))
    parts = lash("log", "s", "--role", "user", "-o", "json").json["items"][-1]["parts"]
    assert len(parts) == 2, "the attachment is part of what was said"
    again = feed(lash, last)
    assert (again.code, finished(again)) == (0, ["two"]), "a key answers the same and runs nothing"
    assert len(said(lash)) == 2


def test_what_is_chosen_from_a_result_is_one_document_and_no_stream(lash: Any) -> None:
    lash("open", "s")
    for choice in (("--fields", "ok"), ("--format", "{ok}")):
        refused = feed(lash, {"text": "!text one"}, options=choice)
        assert (refused.code, refused.error["code"], refused.out) == (2, "usage", "")
        assert "without --fields" in refused.error["hint"]
        quiet = lash("turn", "s", "hi", "-o", "jsonl", "--heartbeat", "1s", *choice)
        assert (quiet.code, quiet.error["code"]) == (2, "usage")
    assert said(lash) == []
    assert lash("turn", "s", "hi", "-o", "jsonl", "--fields", "ok").lines == [
        {"schema": "lash/1", "kind": "TurnResult", "ok": True}
    ]
    assert lash("work", "s", "--until-empty", "-o", "jsonl", "--fields", "turns").lines == [
        {"schema": "lash/1", "kind": "WorkReport", "turns": 0}
    ]


def test_a_program_may_wait_for_an_answer_before_it_writes_the_next_line(lash: Any, home: Path) -> None:
    lash("open", "s")
    process = spawn_lash(["turn", "s", *FEED], home=home, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdin is not None and process.stdout is not None
    with process.stdin, process.stdout:
        assert json.loads(process.stdout.readline())["type"] == "stream_start", "before anything is written to it"
        for text in ("one", "two"):
            process.stdin.write(json.dumps({"text": f"!text {text}"}).encode() + b"\n")
            process.stdin.flush()
            while (line := json.loads(process.stdout.readline()))["type"] != "turn_finished":
                assert line["type"] != "stream_end"
            assert line["text"] == text
        process.stdin.close()
        assert json.loads(process.stdout.readline())["type"] == "stream_end"
    assert process.wait(PATIENCE_S) == 0


def test_the_first_turn_that_does_not_finish_ends_the_stream(lash: Any) -> None:
    lash("open", "s")
    done = feed(lash, {"text": "!text one"}, {"text": "!fail validation"}, {"text": "!text three"})
    assert done.code == 6
    assert (done.lines[-1]["type"], done.lines[-1]["exit"]) == ("stream_end", 6)
    assert said(lash) == ["!text one", "!fail validation"]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("no json\n", "usage"),
        ('{"txt": "misspelt"}\n', "usage"),
        ('{"text": " "}\n', "empty_prompt"),
        ('{"text": "x", "attachments": ["-"]}\n', "usage"),
        ('{"text": "x", "attachments": ["/no/such/file"]}\n', "attachment_unreadable"),
    ],
)
def test_a_line_that_is_no_input_is_named_and_ends_the_stream(lash: Any, line: str, code: str) -> None:
    lash("open", "s")
    done = feed(lash, {"text": "!text one"}, line, {"text": "!text three"})
    end = done.lines[-1]
    assert (done.code, end["type"], end["exit"], end["error"]["code"]) == (2, "stream_end", 2, code)
    assert code == "attachment_unreadable" or end["error"]["details"]["line"] == 2
    assert finished(done) == ["one"] and said(lash) == ["!text one"]


def test_lines_of_a_busy_session_may_wait_in_its_queue(lash: Any, home: Path, tmp_path: Path) -> None:
    lash("open", "s")
    gate = tmp_path / "gate"
    busy = spawn_lash(["turn", "s", f"!wait-file {gate}", "-o", "jsonl"], home=home, stderr=subprocess.DEVNULL)
    assert busy.stdout is not None
    with busy.stdout:
        while json.loads(busy.stdout.readline())["type"] != "model_request_started":
            pass
        lines = ({"text": "one"}, {"text": "two", "key": "k"})
        refused = feed(lash, *lines)
        assert (refused.code, refused.lines[-1]["error"]["code"]) == (75, "session_execution_busy")
        done = feed(lash, *lines, options=("--if-busy", "enqueue", "--max-steps", "3"))
        assert (done.code, types(done)) == (0, ["stream_start", "queue_changed", "queue_changed", "stream_end"])
        assert done.err.count("--max-steps") == 1
        assert [item["preview"] for item in lash("queue", "ls", "s", "-o", "json").json["items"]] == ["one", "two"]
        gate.touch()
        busy.stdout.read()
    assert busy.wait(PATIENCE_S) == 0


def test_no_line_at_all_is_an_empty_prompt(lash: Any) -> None:
    lash("open", "s")
    done = feed(lash, "\n")
    assert (done.code, done.lines[-1]["error"]["code"]) == (2, "empty_prompt")


@pytest.mark.parametrize("text", [None, "!sleep 60"])
def test_a_signal_ends_the_stream_in_order(lash: Any, home: Path, text: str | None) -> None:
    lash("open", "s")
    process = spawn_lash(["turn", "s", *FEED], home=home, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdin is not None and process.stdout is not None
    with process.stdin, process.stdout:
        line = json.loads(process.stdout.readline())
        if text is not None:
            process.stdin.write(json.dumps({"text": text}).encode() + b"\n")
            process.stdin.flush()
            while line["type"] != "model_request_started":
                line = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGTERM)
        rest = [json.loads(line) for line in process.stdout.read().splitlines()]
    assert process.wait(PATIENCE_S) == 143
    assert (rest[-1]["type"], rest[-1]["reason"], rest[-1]["exit"]) == ("stream_end", "signal", 143)


def test_what_cannot_go_with_lines_is_refused_before_anything_is_opened(lash: Any, home: Path) -> None:
    line = '{"text": "x"}\n'
    for arguments in (
        ("s", "--input", "jsonl", "-o", "json"),
        ("s", "--input", "csv", "-o", "jsonl"),
        ("s", "text", *FEED),
        ("s", "--key", "k", *FEED),
        ("s", "--turn-id", "t", *FEED),
        ("s", "--retry", *FEED),
        ("s", "--no-stdin", *FEED),
    ):
        assert lash("turn", *arguments, "--or-open", input=line).code == 2, arguments
    assert not home.exists()
