"""`lash chat` without redraw: words instead of pictures, each once (contract 08 §7.1 `--plain`)."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from support.cli import spawn_lash


def is_idle(text: str) -> bool:
    """Whether the last status that was told says so; an answer may be told after it."""
    return [line for line in text.splitlines() if line.startswith("status: ")][-1:] == ["status: idle"]


@pytest.mark.parametrize(("args", "env"), [(("--plain",), {}), ((), {"TERM": "dumb"})])
def test_a_terminal_without_redraw_gets_words_and_no_escape(chat, gate, args, env) -> None:
    one = chat(*args, prompt="status: idle", **env)
    one.press(f' !wait-file {gate}\\\n!tool glob {{"pattern":"*"}}\\\n!then\\\n!text done\n')
    one.wait_for("status: a turn runs")
    one.press("also this\n")
    one.wait_for("queued: 1 for this turn, 0 for the next")
    one.press("/later then that\n")
    one.wait_for("queued: 1 for this turn, 1 for the next")
    gate.touch()
    one.wait_for("user: also this")
    one.wait_for("assistant: You said: then that")
    one.wait_for(is_idle)
    one.press("\x04")
    assert one.ended() == 0
    assert b"\x1b" not in one.written and "resume: lash chat fjord" in one.text
    assert one.users()[1:] == ["also this", "then that"]


def test_what_was_put_aside_comes_back_without_redraw_too(chat, home: Path) -> None:
    one = chat("--plain", prompt="status: idle")
    one.press("half a thought\\\nand more\\\n")
    one.wait_until(lambda: one.has_saved("and more"))
    one.process.send_signal(signal.SIGINT)
    one.wait_for("put aside: half a thought")
    one.press("/back\n")
    one.wait_for("an empty line sends this draft")
    one.press("\n")
    one.wait_for("assistant: You said: half a thought")
    assert one.users() == ["half a thought\nand more"]
    assert one.written.isascii()


def test_a_draft_that_stands_beside_the_line_outlives_what_is_typed_after_it(chat, home: Path) -> None:
    one = chat("--plain", prompt="status: idle")
    one.press("old thought\\\n")
    one.wait_until(lambda: one.has_saved("old thought"))
    one.process.kill()
    one.process.wait()
    two = chat("--plain", prompt="draft: old thought")
    two.press("hello\n")
    two.wait_for("assistant: You said: hello")
    assert two.has_saved("old thought")
    two.press("new thought\\\n")
    two.wait_until(lambda: two.has_saved("new thought"))
    two.process.send_signal(signal.SIGINT)
    two.wait_for("put aside: old thought new thought")
    # Ctrl-D in a line hands on what stands in it, and behind that it leaves.
    two.press("half a line\x04")
    two.wait_until(lambda: two.has_saved("half a line"))
    two.press("\x04")
    assert two.ended() == 0
    assert two.has_saved("old thought\\nnew thought") and two.has_saved("half a line")


def test_a_text_that_waits_for_the_turn_of_another_process_is_given_back(chat, home: Path, gate: Path) -> None:
    theirs = spawn_lash(["turn", "s", f"!wait-file {gate}\n!text theirs"], home=home)
    one = chat("--plain", prompt="status: another process runs a turn")
    one.press("a thought\n")
    one.wait_for("question: fjord is busy")
    one.press("/w\n")
    one.wait_for("waiting for the other process's turn to end; Esc or /cancel gives the text back")
    one.press("/cancel\n")
    one.wait_until(lambda: one.has_saved("a thought"))
    one.press("\x04")
    assert one.ended() == 0
    gate.touch()
    assert theirs.wait(60) == 0, "their turn was not cancelled"
    assert one.users() == [f"!wait-file {gate}\n!text theirs"]


def test_what_is_asked_about_is_a_text_of_its_own_and_lost_by_nothing(chat, home: Path, gate: Path) -> None:
    theirs = spawn_lash(["turn", "s", f"!wait-file {gate}\n!text theirs"], home=home)
    one = chat("--plain", prompt="status: another process runs a turn")
    one.press("one thing\n")
    one.wait_for("question: fjord is busy")
    one.press("another\\\nthing\n")
    one.wait_for(lambda text: text.count("question: fjord is busy") == 2)
    one.press("/q\n")
    one.wait_for("queued: 0 for this turn, 1 for the next")
    one.wait_until(lambda: not one.has_saved("another"))
    assert one.has_saved("one thing")
    one.press("\x04")
    assert one.ended() == 0
    gate.touch()
    assert theirs.wait(60) == 0
    assert one.lash("work", "s", "--until-empty").code == 0
    assert one.users()[1:] == ["another\nthing"]
    two = chat("--plain", prompt="draft: one thing")
    assert two.process.poll() is None


def test_a_line_that_the_terminal_cut_is_not_sent_before_it_was_seen(chat) -> None:
    one = chat("--plain", prompt="status: idle")
    one.press("x" * 5000 + "and the end\r")
    one.wait_for("an empty line sends this draft")
    assert "it may be cut" in one.everything.replace("\n", "")
    assert one.users() == []
    one.press("\r")
    one.wait_for("built-in loopback provider")
    one.wait_until(lambda: is_idle(one.everything))  # the answer is longer than the screen
    assert one.users() == ["x" * 4095]


def test_with_ascii_every_mark_is_a_plain_character(chat, gate) -> None:
    one = chat("--ascii", prompt="fjord >")
    one.press("/help\r/keys\r")
    one.press(' !text "# Title\\n\\n* point"\r')
    one.wait_for(lambda text: "assistant >" in text and "| idle" in text)
    one.gated(gate)
    one.press("next one\t")
    one.wait_for("next: queued for next turn - 1   - next one")
    one.press("thought\x03")
    one.wait_for("draft put aside")
    one.press("\x1b")
    one.wait_for("1 queued: Enter send now - Alt-Q edit")
    assert one.written.isascii() and "\\u" not in one.everything and "\\x" not in one.everything


def test_what_waits_for_idle_names_a_way_there_that_a_line_has(chat, gate) -> None:
    one = chat("--plain", prompt="status: idle")
    one.press(f" !wait-file {gate}\n")
    one.wait_for("status: a turn runs")
    one.press("/model other\n")
    one.wait_for("hint: cancel the turn with /cancel, or try again when it ended")
    one.press("/cancel\n")
    one.wait_for(is_idle)
    one.press("/model other\n")
    one.wait_for("note: model other")
    one.press("\x04")
    assert one.ended() == 0


def test_a_tool_is_asked_about_in_a_line_and_answered_by_the_next(chat, home) -> None:
    one = chat("--plain", prompt="status: idle")
    one.press(' !tool write {"path":"made.txt","content":"x"}\\\n!then\\\n!text written\n')
    one.wait_for("answer: /y yes, once")
    # A text is no answer, whatever it says: it goes into the turn.
    one.press("y\n")
    one.wait_for("queued: 1 for this turn")
    one.press("/n not here\n")
    one.wait_for("user: y")
    one.wait_for(is_idle)
    assert "not here" in one.lash("log", "s", "--tools").out
    one.press("/nonsense\n")
    one.wait_for("unknown command /nonsense")
    one.process.send_signal(signal.SIGINT)
    one.wait_for("Ctrl-C again within 2 s to quit")
    one.press("\x04")
    assert one.ended() == 0
    assert not (home.parent / "made.txt").exists()


def test_a_verb_imports_nothing_from_the_directory_of_the_chat(chat, home) -> None:
    one = chat("--plain", prompt="status: idle")
    for name in ("queue", "lash_cli"):
        (home.parent / f"{name}.py").write_text(f"raise SystemExit('imported the {name} that lies here')\n")
    one.press("/ls\n")
    one.wait_for(lambda text: "LAST ACTIVITY" in text or "that lies here" in text)
    assert "that lies here" not in one.text
    one.press("\x04")
    assert one.ended() == 0


def test_a_question_about_a_turn_that_others_cancelled_takes_no_answer(chat, home) -> None:
    one = chat("--plain", prompt="status: idle")
    one.press(' !tool write {"path":"made.txt","content":"x"}\n')
    one.wait_for("answer: /y yes, once")
    assert one.lash("cancel", "s").code == 0
    one.wait_for("note: turn cancelled")
    one.wait_for(is_idle)
    one.press("/y\n")
    one.wait_for("unknown command /y")
    assert not (home.parent / "made.txt").exists()
