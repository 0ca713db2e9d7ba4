"""Going back in `lash chat`: nothing is deleted, and what was typed is kept (contract 08 §7.2)."""

from __future__ import annotations

import sys
from pathlib import Path

PROMPT = "fjord ❯"


def test_a_rewind_makes_the_message_a_draft_and_a_retry_says_the_last_one_again(chat, lash) -> None:
    one = chat()
    for text in ("first thing", "second thing"):
        one.press(f"{text}\r")
        one.wait_for(f"You said: {text}")
        one.wait_for("│ idle")
    one.press("/rewind 3\r")
    one.wait_for("/rewind 3 goes back too far")
    for number in ("²", "9" * 12):
        one.press(f"\x15/rewind {number}\r")
        one.wait_for(f"/rewind cannot go back '{number}'")
    one.press("\x15/copy ²\r")
    one.wait_for("/copy cannot take '²'")
    one.press("\x15")
    # With a draft it is one Esc, which does nothing.
    one.press("half a thought\x1b\x1b")
    one.press("\x03")
    one.wait_for("draft put aside")
    one.press("\x1b\x1b")
    one.wait_for("[2] first thing")
    one.press("2")
    one.wait_for(f"{PROMPT} first thing")
    one.wait_for("back to it: !lash rewind s --to ")
    one.press(" but better\r")
    one.wait_for("You said: first thing but better")
    one.wait_for("│ idle")
    assert one.users() == ["first thing but better"]
    one.press("/retry\r")
    one.wait_until(lambda: one.everything.count("You said: first thing but better") == 2)
    one.wait_for("│ idle")
    assert one.users() == ["first thing but better"]
    one.press("/tree\r")
    one.wait_for("second thing")
    one.press("/fork\r")
    one.wait_for("forked into ")
    assert len(lash("ls", "-o", "json").json["items"]) == 2


def test_an_edit_moves_nothing_until_the_editor_ended_well(chat, tmp_path: Path) -> None:
    script = tmp_path / "edit.py"
    script.write_text("raise SystemExit(3)\n")
    one = chat(EDITOR=f"{sys.executable} {script}")
    one.press("as it was\r")
    one.wait_for("You said: as it was")
    one.wait_for("│ idle")
    one.press("/edit\r")
    one.wait_for("ended with status 3")
    assert one.users() == ["as it was"]
    script.write_text("import sys; open(sys.argv[1], 'w').write('as it should be\\n')\n")
    one.press("/edit\r")
    one.wait_for("You said: as it should be")
    one.wait_for("│ idle")
    assert one.users() == ["as it should be"]


def test_a_side_question_is_answered_while_a_turn_runs_and_recorded_nowhere(chat, gate) -> None:
    one = chat()
    one.gated(gate)
    one.press("/btw what is the time\r")
    one.wait_for("not recorded): You said: what is the time")
    gate.touch()
    one.wait_for("│ idle")
    assert len(one.users()) == 1


def test_a_head_that_others_move_is_told_and_one_of_ones_own_once(chat, lash) -> None:
    for text in ("one", "two", "three"):
        lash("turn", "s", f"!text {text}")
    one = chat()
    nodes = lash("tree", "s", "-o", "json").json["items"]
    lash("rewind", "s", "--to", nodes[1]["id"])
    one.wait_for("the head was moved: what is said next follows assistant: one")
    lash("rewind", "s", "--to", nodes[-1]["id"])
    one.wait_for("follows assistant: three")
    lash("compact", "s")
    one.wait_for("the conversation was compacted")
    nodes = lash("tree", "s", "-o", "json").json["items"]
    lash("rewind", "s", "--to", nodes[-2]["id"])
    one.wait_for("follows user: !text three")
    told = one.everything.count("the head was moved"), one.everything.count("was compacted:")
    for text in ("four", "five"):
        lash("turn", "s", f"!text {text}")
        one.wait_for(f"assistant ▸\n  {text}")
    one.press("/compact\r")
    one.wait_for("undo: lash rewind")
    one.press("/rewind\r")
    one.wait_for("the old branch is kept")
    one.press("\x15")
    one.press("/note done\r")
    one.wait_for(lambda text: "  done" in text)
    assert (one.everything.count("the head was moved"), one.everything.count("was compacted:")) == told == (3, 1)
