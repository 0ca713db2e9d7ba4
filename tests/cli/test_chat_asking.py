"""What `lash chat` asks, and that only an answer answers (contract 08 §7.1, §7.4)."""

from __future__ import annotations

import time

import pytest
from support.cli import spawn_lash

from lash_cli.repl.panels import GUARD_SECONDS

PROMPT = "fjord ❯"
WRITE = ' !tool write {"path":"made.txt","content":"x"}\n!then\n!text written\r'


def test_only_an_answer_to_what_was_seen_allows_a_tool(chat, home) -> None:
    one = chat()
    # Typed ahead, in the same breath: goes into the draft, and answers nothing.
    one.press(WRITE + "yes ")
    one.wait_for("allow ")
    one.wait_for("Ctrl-C puts the draft aside; then it can be answered")
    one.wait_for(f"{PROMPT} yes")
    # Somebody who writes a text gives no answer with its letters, however long the thought takes.
    time.sleep(2 * GUARD_SECONDS)
    one.press("a")
    one.wait_for(f"{PROMPT} yes a")
    one.press("\x03")
    one.wait_for("[y] yes, once")
    assert not (home.parent / "made.txt").exists()
    one.press("e")
    one.wait_for("reason ❯")
    one.press("not in this directory\r")
    one.wait_for("written")
    one.wait_for("│ idle")
    assert not (home.parent / "made.txt").exists()
    assert "not in this directory" in one.lash("log", "s", "--tools").out
    one.press("\x1b[A")
    one.wait_for(f"{PROMPT} ")
    one.press("\x05\x15" + WRITE)
    one.wait_for("[y] yes, once")
    one.press("y")
    one.wait_until((home.parent / "made.txt").exists)
    one.wait_for("│ idle")


def test_a_long_call_is_shown_whole_above_the_question(chat, home) -> None:
    one = chat(rows=10)
    command = f"echo {'x' * 2000}; touch made.txt; echo the end"
    one.press(f' !tool exec_command {{"cmd": "{command}", "login": false}}\n!then\n!text all is well\r')
    one.wait_for("allow exec_command (execute)?")
    one.wait_for("[y] yes, once")
    assert 'touch made.txt; echo the end","login":false}' in one.everything.replace("\n", "")
    one.press("n")
    one.wait_for("│ idle")
    assert not (home.parent / "made.txt").exists()


@pytest.mark.parametrize(("columns", "rows"), [(45, 12), (40, 10), (30, 8), (30, 6)])
def test_a_question_is_seen_with_its_answers_on_a_small_terminal(chat, columns: int, rows: int) -> None:
    one = chat(columns=columns, rows=rows)
    command = f"echo {'word ' * 30}"
    one.press(f' !tool exec_command {{"cmd": "{command}", "login": false}}\n!then\n!text all is well\r')
    one.wait_for("[y] yes, once")
    assert all(answer in one.text for answer in ("[a] always", "[n] no", "[e] no")), one.text
    one.press("n")
    one.wait_for("idle")


def test_a_question_is_withdrawn_when_the_turn_is_cancelled(chat, home) -> None:
    one = chat()
    one.press(WRITE)
    one.wait_for("[y] yes, once")
    one.press("\x1b")
    one.wait_for("turn cancelled")
    one.wait_for(lambda text: "allow" not in text)
    assert not (home.parent / "made.txt").exists()


def test_another_process_s_turn_is_a_question_and_the_text_runs_once(chat, home, gate) -> None:
    theirs = spawn_lash(["turn", "s", f"!wait-file {gate}\n!text theirs"], home=home)
    one = chat()
    one.wait_for(f"pid {theirs.pid} (turn)")
    one.press("mine\r")
    one.wait_for("[q] queue it (Enter)")
    one.wait_for(f"{PROMPT} mine")
    one.press("\x1b")
    one.wait_for(lambda text: "is busy" not in text)
    one.wait_for(f"{PROMPT} mine")
    assert not one.lash("queue", "ls", "s", "-o", "json").json["items"]
    one.press("\r")
    one.wait_for("[w] wait, then send")
    one.press("w")
    one.wait_for("waiting for the other process")
    gate.touch()
    assert theirs.wait(60) == 0
    one.wait_for("You said: mine")
    one.wait_for("│ idle")
    assert one.users()[1:] == ["mine"]


def test_theirs_is_cancelled_also_while_a_text_waits_for_its_end(chat, home, gate) -> None:
    theirs = spawn_lash(["turn", "s", f"!wait-file {gate}\n!text theirs"], home=home)
    one = chat()
    one.wait_for(f"pid {theirs.pid} (turn)")
    one.press("queued\t")
    one.wait_for("queued for next turn")
    one.press("first\r")
    one.wait_for("[w] wait, then send")
    one.press("w")
    one.wait_for("waiting for the other process")
    one.press("second\r")
    one.wait_for("[c] cancel theirs")
    one.press("c")
    one.wait_for("You said: queued second")
    one.wait_for("│ idle")
    assert theirs.wait(60) == 7
    # Nothing is held for a turn that was theirs.
    assert one.users()[1:] == ["first", "queued\nsecond"]


def test_leaving_a_turn_to_a_worker_lets_it_finish_elsewhere(chat, lash, gate) -> None:
    one = chat()
    one.gated(gate)
    one.press("\x04")
    one.wait_for("[l] leave it to a worker")
    one.press("\r")
    one.wait_for(lambda text: "a turn of this chat runs" not in text)
    one.press("/exit\r")
    one.wait_for("[l] leave it to a worker")
    one.press("l")
    assert one.ended() == 0
    assert "resume: lash chat fjord" in one.text and one.is_cooked
    gate.touch()
    assert lash("resume", "s").out == "all is well\n"


def test_what_becomes_of_a_turn_is_asked_once_and_not_when_it_is_over(chat, gate) -> None:
    one = chat()
    one.gated(gate)
    one.press("\x04\x04")
    one.wait_for("[s] stay")
    one.press("s")
    one.wait_for(lambda text: "a turn of this chat runs" not in text)
    one.press("\x04")
    one.wait_for("[s] stay")
    gate.touch()
    one.wait_for(lambda text: "│ idle" in text and "a turn of this chat runs" not in text)
    one.press("no answer any more\r")
    one.wait_for("You said: no answer any more")


def test_without_redraw_too_it_is_asked_once_and_not_when_the_turn_is_over(chat, gate) -> None:
    one = chat("--plain", prompt="status: idle")
    one.press(f" !wait-file {gate}\n")
    one.wait_for("status: a turn runs")
    one.press("\x04")
    one.wait_for("note: an empty line is /s")
    one.press("\x04")
    one.wait_until(lambda: one.everything.count("note: an empty line is /s") == 2)
    one.press("/s\n/s\n")
    one.wait_for("unknown command /s")
    one.press("\x04")
    one.wait_until(lambda: one.everything.count("note: an empty line is /s") == 3)
    gate.touch()
    one.wait_for(lambda text: "status: idle" in text.rpartition("status: a turn runs")[2])
    one.press("/l\n")
    one.wait_for("unknown command /l")


def test_without_redraw_the_question_that_was_asked_last_is_the_one_that_stands(chat, gate, home) -> None:
    one = chat("--plain", prompt="status: idle")
    one.press(f' !wait-file {gate}\\\n!tool write {{"path":"made.txt","content":"x"}}\n')
    one.wait_for("status: a turn runs")
    one.press("\x04")
    one.wait_for("note: an empty line is /s")
    gate.touch()
    one.wait_for("answer: /y yes, once")
    one.press("\x04")
    one.wait_until(lambda: one.everything.count("note: an empty line is /s") == 2)
    one.press("/s\n/y\n")
    one.wait_until((home.parent / "made.txt").exists)
    one.wait_for(lambda text: "status: idle" in text.rpartition("status: a turn runs")[2])
    assert "unknown command" not in one.everything


def test_a_third_ctrl_c_leaves_at_once_and_the_turn_to_recovery(chat, lash, gate) -> None:
    one = chat()
    one.gated(gate)
    # In one piece: the turn has no moment in between to end.
    one.press("\x03\x03\x03")
    assert one.ended() == 130
    assert "resume: lash chat fjord" in one.text and one.is_cooked
    gate.touch()
    lash("resume", "s")
    assert lash("show", "s", "-o", "json").json["running_turn"] is None
