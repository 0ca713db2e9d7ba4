"""Editing in `lash chat`: pastes, history, completion, the editor, commands, own keys (contract 08 §7.2, §7.3)."""

from __future__ import annotations

import base64
import os
import re
import signal
import sys
from pathlib import Path

import pytest

PROMPT = "fjord ❯"


def test_a_large_paste_is_one_line_of_the_draft_and_whole_when_it_is_sent(chat, tmp_path) -> None:
    one = chat()
    pasted = "\r".join(f"line {number}" for number in range(30))
    one.press(f"look at \x1b[200~{pasted}\x1b[201~")
    one.wait_for(f"{PROMPT} look at [paste #1 · 30 lines]")
    one.press("\r")
    one.wait_for("You said: look at line 0")
    one.wait_for("│ idle")
    assert one.users() == ["look at " + pasted.replace("\r", "\n")]
    one.press(f"\x1b[200~{pasted}\x1b[201~\x0f")
    one.wait_for("line 29")
    assert "[paste #" not in one.text


def test_the_history_is_one_for_all_sessions_and_searched_with_ctrl_r(chat, lash, home) -> None:
    one = chat()
    for text in ("alpha one", "beta two", " secret line"):
        one.press(f"{text}\r")
        one.wait_for(f"You said: {text.strip()}")
        one.wait_for("│ idle")
    one.press("\x04")
    assert one.ended() == 0
    lash("open", "other", "--name", "reef")
    two = type(one)(home, "other")
    try:
        two.wait_for("reef ❯")
        two.press("be\x1b[A")
        two.wait_for("reef ❯ beta two")
        two.press("\x12alp")
        two.wait_for("reef ❯ alpha one")
        two.press("\r")
        assert b"secret line" not in b"".join(path.read_bytes() for path in home.glob("chat.db*")), "not kept"
    finally:
        two.close()


def test_a_command_that_changes_the_session_waits_for_idle_and_keeps_the_draft(chat, gate) -> None:
    one = chat()
    one.gated(gate)
    one.press("/model other\r")
    one.wait_for("/model waits until no turn runs")
    one.wait_for(f"{PROMPT} /model other")
    one.press("\x15/queue ls\r/later and then this\r")
    one.wait_for("◇ queued for next turn · 1   ↳ and then this")
    one.press("/modle\r")
    one.wait_for("did you mean: /model")
    one.press("\x15/cancel enough\r")
    one.wait_for("turn cancelled")
    one.press("/queue cut\r")
    one.wait_for(lambda text: "◇" not in text)
    one.press("/queue release\r/model other\r")
    one.wait_for("model other")
    one.press('/search "and then" nothing\'s\r')
    one.wait_for("No closing quotation")
    one.press("\x05\x15/export out.md\r/rename reef\r")
    one.wait_for("reef ❯")
    one.press("/nothing")
    one.press("\x15/exit\r")
    assert one.ended() == 0
    assert one.lash("show", "s", "-o", "json").json["model"] == "other"
    assert "!then" in (one.home.parent / "out.md").read_text()
    assert [text for text in one.users() if text.startswith("/")] == []


def test_commands_and_files_are_completed_with_tab(chat, home: Path) -> None:
    (home.parent / "notes.md").write_text("x")
    (home.parent / ".hidden.md").write_text("x")
    one = chat()
    one.press("/sta")
    one.wait_for("head, lease, queue")
    one.press("\t")
    one.wait_for(f"{PROMPT} /status")
    one.press("\x15see @nts")
    one.wait_for(lambda text: text.count("notes.md") == 1)
    assert "hidden" not in one.text
    one.press("\t")
    one.wait_for(f"{PROMPT} see @notes.md")


# Looking for what `/status` may go on as takes until somebody opens the gate.
SLOW_SEARCH = """
import os, time
from lash_cli.repl import completion
found = completion._commands
def slowly(typed):
    while typed == "status" and not os.path.exists({gate!r}):
        time.sleep(0.01)
    yield from found(typed)
completion._commands = slowly
"""


def test_the_line_that_is_completed_is_seen_on_a_terminal_with_few_lines(chat) -> None:
    one = chat(columns=40, rows=6)
    one.press("/qu")
    one.wait_for(lambda text: "fjord ❯ /qu" in text and "/queue" in text.replace("fjord ❯ /qu", ""))


def test_a_line_that_took_the_place_of_one_still_searched_for_is_completed_too(chat, home: Path, gate: Path) -> None:
    (home.parent / "notes.md").write_text("x")
    one = chat(first=SLOW_SEARCH.format(gate=str(gate)))
    one.press("/sta")
    one.wait_for("head, lease, queue")
    one.press("\t")
    one.wait_for(f"{PROMPT} /status")
    one.press("\x15see @nts")
    one.wait_for(f"{PROMPT} see @nts")
    gate.touch()
    one.wait_for("notes.md")
    one.press("\t")
    one.wait_for(f"{PROMPT} see @notes.md")


COMPLETED = [
    ("/switch del", "idle, other", "/switch delta"),
    ("/resume oth", "idle, delta", "/resume other"),
    ("/model swi", "of the configuration", "/model swift"),
    ("/set max_s", "max_steps", "/set max_steps="),
    ("/tool off exec", "Run a shell command", "/tool off exec_command"),
    ("/queue cut in_", "in_", "/queue cut in_"),
    ("/fork m_", "user", "/fork m_ingress"),
    ("/ls --sta", "--status", "/ls --status"),
    ("/log --rol", "--role", "/log --role"),
    ("/attach no", "notes.md", "/attach notes.md"),
    ("/export --red", "--redact", "/export --redact"),
]


def test_what_follows_a_command_is_completed_too(chat, lash, home: Path) -> None:
    lash("open", "other", "--name", "delta")
    lash("config", "set", "models.swift.id", "loopback")
    lash("turn", "s", "!text something to fork at")
    lash("enqueue", "s", "later")
    (home.parent / "notes.md").write_text("x")
    one = chat()
    for typed, offered, completed in COMPLETED:
        one.press(typed)
        one.wait_for(lambda text, offered=offered: offered in text.partition(PROMPT)[2].partition("\n")[2])
        one.press("\t")
        one.wait_for(f"{PROMPT} {completed}")
        one.press("\x05\x15")
        one.wait_for(lambda text: [line.rstrip() for line in text.splitlines() if PROMPT in line] == [PROMPT])
    assert one.users() == ["!text something to fork at"]


def test_a_command_of_which_nothing_can_be_made_keeps_the_draft_and_its_hint_works(chat, lash) -> None:
    one = chat()
    one.press("/tool without grep\r")
    one.wait_for("/tool cannot 'without grep'")
    one.wait_for(f"{PROMPT} /tool without grep")
    one.press(f"\x15{one.text.partition('hint: for example: ')[2].splitlines()[0]}\r")
    one.wait_for("is off")
    for line in ("/edit what I meant", "/retry and be brief", "/new about cats"):
        one.press(f"{line}\r")
        one.wait_for(f"{line.partition(' ')[0]} takes nothing behind it")
        one.wait_for(f"{PROMPT} {line}")
        one.press("\x15")
    one.press("/system Be brief.\r")
    one.wait_for("  Be brief.")
    assert "Be brief." in lash("show", "s", "--policy").out
    one.press("\x04")
    assert one.ended() == 0


def test_answers_are_copied_those_from_before_the_chat_too(chat, lash, gate: Path) -> None:
    lash("turn", "s", "!text the oldest")
    lash("turn", "s", '!text look\n!tool glob {"pattern": "*.md"}\n!then\n!text the old one')
    one = chat("--replay", "0")

    def copied(text: str) -> bool:
        return f"\x1b]52;c;{base64.b64encode(text.encode()).decode()}".encode() in one.written

    one.press("/copy\r")
    one.wait_until(lambda: copied("the old one"))
    one.press(" !text the new one\r")
    one.wait_for("assistant ▸")
    one.wait_for("│ idle")
    one.gated(gate)
    one.press("/copy\r")
    one.wait_until(lambda: copied("the new one"))
    one.press("/copy 3\r")
    one.wait_until(lambda: copied("the oldest"))
    assert not copied("look")
    one.press("/copy 4\r")
    one.wait_for("there are 3 answers to copy")


def test_without_osc_52_nothing_is_copied(chat, lash) -> None:
    lash("turn", "s", "!text the answer")
    one = chat(LASH_NO_OSC52="1")
    one.press("/copy\r")
    one.wait_for("switched off by LASH_NO_OSC52")
    assert b"\x1b]52" not in one.written


def test_what_ends_the_chat_is_about_its_own_session_only(chat, lash) -> None:
    lash("open", "other", "--name", "delta")
    one = chat()
    one.press("/close delta\r")
    one.wait_for("/close is about this session")
    one.wait_for(f"{PROMPT} /close delta")
    assert {row["status"] for row in lash("ls", "-o", "json").json["items"]} == {"idle"}


def test_a_session_that_is_closed_is_not_gone_on_in_and_the_chat_stays(chat, lash) -> None:
    lash("open", "other", "--name", "delta")
    lash("close", "other")
    one = chat()
    one.press("/switch delta\r")
    one.wait_for("session delta is closed")
    one.wait_for("hint: reopen it with: !lash resume delta")
    one.press("still here\r")
    one.wait_for("You said: still here")
    one.wait_for("│ idle")
    assert one.users() == ["still here"]


def test_the_editor_gets_the_draft_and_one_that_fails_leaves_it(chat, tmp_path: Path) -> None:
    script = tmp_path / "edit.py"
    script.write_text("import sys; p = sys.argv[1]; t = open(p).read(); open(p, 'w').write(t + ' and more')\n")
    one = chat(EDITOR=f"{sys.executable} {script}")
    one.press("some words\x18\x05")
    one.wait_for(f"{PROMPT} some words and more")
    script.write_text("raise SystemExit(3)\n")
    one.press("\x07")
    one.wait_for("ended with status 3; the draft is unchanged")
    one.wait_for(f"{PROMPT} some words and more")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, -2), (signal.SIGQUIT, -3)])
def test_what_ends_a_program_at_the_terminal_does_not_end_the_chat(chat, tmp_path: Path, number, status) -> None:
    one = chat()
    begun, program = tmp_path / "begun", tmp_path / "program.py"
    # It says itself that it is there: a shell that has begun may not have it yet, and not every shell ends by a signal.
    program.write_text(
        f"import signal, time\nsignal.signal({number:d}, signal.SIG_DFL)\nopen({str(begun)!r}, 'w')\ntime.sleep(600)\n"
    )
    one.press(f"!exec {sys.executable} {program}\r")
    one.wait_until(begun.exists)
    os.killpg(one.process.pid, number)  # as the terminal does for Ctrl-C and for Ctrl-\
    one.wait_for(f"ended with status {status}")
    one.press("hello\r")
    one.wait_for("You said: hello")


def test_vi_leaves_insert_mode_with_esc_and_cancels_with_the_next(chat, gate) -> None:
    one = chat("--vi")
    one.gated(gate)
    one.press("word\x1b")
    one.press("0Xwas a \x1b")
    one.press("\x1b")
    one.wait_for("cancel requested")
    one.wait_for("turn cancelled")


def test_a_key_of_the_configuration_that_does_not_exist_is_an_error_that_names_the_nearest(chat, lash) -> None:
    from support.terminal import Terminal

    one = chat(LASH_CFG__repl__keys='{queue_next = ["c-t"], submit = ["enter"]}')
    one.press("/keys\r")
    one.wait_for("c-t")
    bad = Terminal(one.home, "chat", "s", LASH_CFG__repl__keys='{queue_nxt = ["tab"]}')
    try:
        bad.wait_for("did you mean: queue_next")
        assert bad.ended() == 5
    finally:
        bad.close()


def test_no_escape_of_a_model_reaches_the_terminal(chat) -> None:
    one = chat()
    one.press(' !text "a\\u001b]0;owned\\u0007b"\r')
    one.wait_for("\\x1b]0;owned")
    assert b"\x1b]0;owned" not in one.written


def test_a_mark_that_reorders_text_is_seen_in_the_draft_and_sent_as_it_is(chat) -> None:
    one = chat()
    one.press("\x1b[200~left \u202eright\u2066\x1b[201~")
    one.wait_for(f"{PROMPT} left \\u202eright\\u2066")
    one.press("\r")
    one.wait_for("You said: left")
    one.wait_for("│ idle")
    assert "\u202e".encode() not in one.written
    assert one.users() == ["left \u202eright\u2066"]


def test_what_a_tool_said_is_shown_on_demand_and_more_of_it_on_more(chat, home: Path) -> None:
    (home.parent / "long.txt").write_text("".join(f"row {number}\n" for number in range(60)))
    one = chat()
    one.press("\x0f")
    one.wait_for("no tool was called yet")
    one.press(' !tool read_file {"path":"long.txt"}\n!then\n!text read\r')
    one.wait_for("▸ read_file  ")
    one.wait_for("│ idle")
    one.press("\x0f")
    one.wait_for("more lines: Alt-O shows all")
    assert "row 59" not in one.everything
    one.press("\x1bo")
    one.wait_for("row 59")


def test_page_up_opens_the_transcript_in_the_pager_and_the_draft_stays(chat, tmp_path: Path) -> None:
    pager = tmp_path / "pager"
    pager.write_text("#!/bin/sh\nsed 's/^/paged: /'\n")
    pager.chmod(0o700)
    one = chat(PAGER=str(pager))
    one.press(" !text what was answered\r")
    one.wait_for(lambda text: text.count("what was answered") == 2 and "│ idle" in text)
    one.press("half a draft\x1b[5~")
    one.wait_for("paged:     what was answered")
    one.wait_for("fjord ❯ half a draft")
    one.press("\x15" + "/keys\r")
    one.wait_for("read what was said so far in $PAGER")


def test_a_pager_that_fails_is_told(chat) -> None:
    one = chat(PAGER="no-such-pager-here")
    one.press("\x1b[5~")
    one.wait_for("the pager ended with status 127: no-such-pager-here")


def test_an_attachment_goes_with_the_next_text_only_and_survives_the_chat(chat, home: Path) -> None:
    (home.parent / "plan.txt").write_text("the plan")
    one = chat()
    one.press("/attach nothing.txt\r")
    one.wait_for("cannot read the attachment")
    one.press("\x05\x15/attach @plan.txt\r")
    one.wait_for("+ plan.txt")
    one.process.kill()
    one.process.wait()
    two = chat()
    two.wait_for("+ plan.txt")
    two.press("look at this\r")
    two.wait_for("You said: look at this")
    two.wait_for("│ idle")
    two.press("and now\r")
    two.wait_for("You said: and now")
    two.wait_for("│ idle")
    first, second = (
        message["parts"] for message in two.lash("log", "s", "-o", "json").json["items"] if message["role"] == "user"
    )
    assert [part["kind"] for part in first] == ["text", "attachment"]
    assert [part["kind"] for part in second] == ["text"] and "+ plan.txt" not in two.text


def test_what_was_saved_in_an_editor_whose_chat_was_killed_is_the_draft_of_the_next_chat(chat, home, tmp_path) -> None:
    script, begun = tmp_path / "edit.sh", tmp_path / "begun"
    script.write_text(
        f"""printf "%s, and more\\n" "$(cat "$1")" > "$1"
        echo "$$ $1" > {begun}.new
        mv {begun}.new {begun}
        exec sleep 600"""
    )
    one = chat(EDITOR=f"sh {script}")
    one.press("rough words")
    one.wait_for(f"{PROMPT} rough words")
    one.press("\x18\x05")
    one.wait_until(begun.exists)
    pid, _, path = begun.read_text().strip().partition(" ")
    try:
        assert Path(path).parent == home and Path(path).stat().st_mode & 0o777 == 0o600
        one.process.kill()
        one.process.wait()
    finally:
        os.kill(int(pid), signal.SIGKILL)
    two = type(one)(home, "s")
    try:
        two.wait_for(f"{PROMPT} rough words, and more")
        assert not Path(path).exists()
        two.press("\x15/back\r")
        two.wait_for(f"{PROMPT} rough words\n")
    finally:
        two.close()


def test_what_waits_is_edited_in_the_editor_and_a_shell_line_is_run_and_attached(chat, gate, tmp_path: Path) -> None:
    script = tmp_path / "edit.py"
    script.write_text(
        "import sys; p = sys.argv[1]; t = open(p).read(); open(p, 'w').write(t.replace('rough', 'polished'))\n"
    )
    one = chat(EDITOR=f"{sys.executable} {script}", SHELL="/bin/sh")
    one.press("\x1bq")
    one.wait_for("nothing waits in this queue")
    one.gated(gate)
    one.press("rough words\t")
    one.wait_for("◇ queued for next turn · 1   ↳ rough words")
    one.press("\x1bq")
    one.wait_for("◇ queued for next turn · 1   ↳ polished words")
    one.press("!echo from-$((40+2))\r")
    # What is typed before the prompt is back belongs to the terminal, as in every shell.
    one.wait_for("\nfrom-42\n  ◇ queued for next turn · 1")
    one.press("!!\r")
    one.wait_for(f"{PROMPT} $ echo from-$((40+2))\nfrom-42")
    gate.touch()
    one.wait_for("You said: polished words")
    one.wait_for("│ idle")
    assert one.users()[1:] == ["polished words"]


def test_the_last_messages_are_shown_on_request_and_without_colour_where_there_is_none(chat, lash) -> None:
    for text in ("one", "two"):
        lash("turn", "s", f"!text answer {text}")
    one = chat("--replay", "2", NO_COLOR="1")
    one.wait_for("2 earlier messages")
    assert "answer two" in one.everything and "answer one" not in one.everything
    one.press("three\r")
    one.wait_for("You said: three")
    one.wait_for("│ idle")
    assert re.search(rb"\x1b\[[0-9;]*[34][0-7]m|[34]8;[25];", one.written) is None


def test_bytes_that_are_no_text_are_seen_as_such_and_sent(chat) -> None:
    one = chat()
    os.write(one._master, b"!text caf\xe9 ok\x01 ")  # Latin-1 from an old clipboard; Ctrl-A and a space before it
    one.wait_for("caf\ufffd ok")
    one.press("\r")
    one.wait_for("assistant ▸")
    one.wait_for("│ idle")
    assert one.users() == ["!text caf\ufffd ok"]


@pytest.mark.parametrize(("args", "prompt"), [((), PROMPT), (("--plain",), "status: idle")])
def test_a_chat_that_was_killed_over_an_edit_of_the_queue_is_told_where_its_texts_are(
    chat, lash, tmp_path: Path, args: tuple[str, ...], prompt: str
) -> None:
    script, begun = tmp_path / "edit.py", tmp_path / "begun"
    script.write_text(f"import time\nopen({str(begun)!r}, 'w').close()\ntime.sleep(600)\n")
    one = chat(*args, prompt=prompt, EDITOR=f"{sys.executable} {script}")
    lash("enqueue", "s", "precious words")
    one.wait_for("queued")
    one.press("/queue edit\r")
    one.wait_until(begun.exists)
    os.killpg(one.process.pid, signal.SIGKILL)
    one.ended()
    two = chat(*args, prompt=prompt)
    two.wait_for("an edit of this queue was cut off; put its texts back with: !lash queue edit --recover")
    assert lash("queue", "edit", "--recover").code == 0
    two.wait_for("1 for the next" if args else "↳ precious words")
