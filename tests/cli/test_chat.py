"""`lash chat` at a terminal: what is typed is used exactly once and never lost (contract 08 §7, §13)."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import sys
from functools import partial
from pathlib import Path

import pytest
from support.chat import Chat
from support.frozen import can_write, wait_until_frozen
from support.prepared import prepare
from support.terminal import Job, Terminal

PROMPT = "fjord ❯"


def test_without_a_terminal_there_is_no_chat_and_nothing_is_made(lash, home) -> None:
    result = lash("chat", "-o", "json")
    assert (result.code, result.out, result.error["code"]) == (2, "", "not_a_tty")
    assert not home.exists()


def test_an_answer_streams_into_the_scrollback_and_leaving_says_how_to_come_back(chat, lash) -> None:
    one = chat()
    one.press("!text not a shell line?\x15hello\r")
    one.wait_for("You said: hello")
    one.wait_for("│ idle")
    assert one.everything.count("you ▸ hello") == 1 and one.everything.count("You said: hello") == 1
    one.press("\x04")
    assert one.ended() == 0
    assert "session fjord (s): 1 turns" in one.text and "resume: lash chat fjord" in one.text
    assert PROMPT not in one.text and one.is_cooked
    assert one.users() == ["hello"]


@pytest.mark.parametrize("end", ["\r", ""], ids=["ended", "without an end"])
def test_a_line_that_is_entered_before_the_prompt_stands_is_sent_and_several_wait(home: Path, end: str) -> None:
    prepare(home, ("open", "s", "--name", "fjord"))
    with contextlib.closing(Chat(home, "s", ahead="hello 中 there\r")) as one:
        one.wait_for("You said: hello 中 there")
        one.wait_for("│ idle")
        one.press("\x04")
        assert one.ended() == 0
        assert one.users() == ["hello 中 there"]
    with contextlib.closing(Chat(home, "s", ahead=f"first\rsecond{end}")) as two:
        two.wait_for(lambda text: "❯ first" in text and "second" in text)
        two.press("third\r")
        two.wait_for("You said: first")
        two.wait_for("│ idle")
        two.press("\x04")
        assert two.ended() == 0
        assert two.users() == ["hello 中 there", "first\nsecond" + ("\n" if end else "") + "third"]


def test_a_paste_before_the_prompt_stands_is_one_whatever_keys_it_looks_like(home: Path) -> None:
    prepare(home, ("open", "s", "--name", "fjord"))
    text = "def f():\n\treturn '\x01/h'\n"
    with contextlib.closing(Chat(home, "s", ahead=text.replace("\n", "\r"))) as one:
        one.wait_for("❯ def f():")
        one.press("pass\r")
        one.wait_for("You said: def f")
        one.wait_for("│ idle")
        one.press("\x04")
        assert one.ended() == 0
        assert one.users() == [text + "pass"]


def test_a_line_that_the_terminal_cut_before_the_prompt_stood_is_not_sent_before_it_was_seen(home: Path) -> None:
    prepare(home, ("open", "s", "--name", "fjord"))
    with contextlib.closing(Chat(home, "s", ahead="x" * 5000 + "and the end\r")) as one:
        one.wait_for("it may be cut")
        one.wait_for("[paste #1")
        assert one.users() == []
        one.press("\r")
        one.wait_for("built-in loopback provider")
        one.wait_for("│ idle")
        one.press("\x04")
        assert one.ended() == 0
        assert one.users() == ["x" * 4095 + "\n"]


# Stands still on the way to the prompt until there is a gate.
STANDS_STILL = """
import os, time
from lash_cli.repl import keys
real = keys.{place}
def held(*args):
    done = real(*args)
    open({reached!r}, "w").close()
    while not os.path.exists({gate!r}):
        time.sleep(0.01)
    return done
keys.{place} = held
"""


@pytest.mark.parametrize("place", ["_is_line_ready", "store_typeahead"])
def test_a_line_is_sent_at_whatever_moment_before_the_prompt_stands_it_is_entered(
    home: Path, tmp_path: Path, gate: Path, place: str
) -> None:
    prepare(home, ("open", "s", "--name", "fjord"))
    reached = tmp_path / "reached"
    first = STANDS_STILL.format(place=place, reached=str(reached), gate=str(gate))
    with contextlib.closing(Chat(home, "s", first=first)) as one:
        one.wait_until(reached.exists)
        one.press("hello\r")
        gate.touch()
        one.wait_for("You said: hello")
        one.wait_for("│ idle")
        one.press("\x04")
        assert one.ended() == 0
        assert one.is_cooked


def test_an_enter_before_the_prompt_stands_sends_nothing_that_is_held(home: Path, lash) -> None:
    prepare(home, ("open", "s", "--name", "fjord"), ("enqueue", "s", "not yet"), ("queue", "hold", "s"))
    with contextlib.closing(Chat(home, "s", ahead="\r")) as one:
        one.wait_for("│ queue 0+1 held")
        one.press("afterwards")
        one.wait_for(f"{PROMPT} afterwards")
        one.press("\x15\x04")
        assert one.ended() == 0
        assert one.users() == []
    assert lash("show", "s", "-o", "json").json["held_at"] is not None


def test_the_end_of_a_paragraph_that_grows_beyond_the_terminal_is_seen(chat) -> None:
    one = chat(columns=40, rows=10)
    text = " ".join(str(number) for number in range(1, 400))
    one.press(f" !stream 2 600\n!text {text} the end\r")
    one.wait_for(lambda shown: "198 199 200" in shown and PROMPT in shown and "turn 1" in shown)
    one.press("\x1b")
    one.wait_for("idle")


def test_what_other_processes_do_in_the_session_appears_live(chat, lash) -> None:
    one = chat()
    lash("turn", "s", "!text from elsewhere")
    one.wait_for("from elsewhere")
    lash("enqueue", "s", "later please")
    one.wait_for("◇ queued for next turn · 1   ↳ later please")
    one.wait_for("1 queued: Enter send now")
    one.press("\r")
    one.wait_for("You said: later please")
    one.wait_for(lambda text: "│ idle" in text and "◇" not in text)
    assert one.users() == ["!text from elsewhere", "later please"]


BUSY = """
import os
from lash_cli.errors import StoreLocked
from lash_cli.store.sqlite.database import Database

def while_free(real):
    def read(self, *args):
        if os.path.exists(os.environ["BUSY_FILE"]):
            raise StoreLocked("lash.db stayed locked by another process")
        return real(self, *args)
    return read

Database.read = while_free(Database.read)
Database.peek = while_free(Database.peek)
"""


def test_a_session_that_was_not_named_is_said(home: Path, lash) -> None:
    prepare(home, ("open", "s", "--name", "fjord"))
    with contextlib.closing(Terminal(home, "chat", LASH_SESSION="s")) as one:
        one.wait_for(PROMPT)
        assert "session fjord (s) from LASH_SESSION" in one.text
        one.press("/new\r")
        one.wait_for("opened session")
        assert one.text.count("from LASH_SESSION") == 1


def test_an_empty_name_begins_no_new_session(home: Path, lash) -> None:
    prepare(home, ("open", "s", "--name", "fjord"))
    with contextlib.closing(Terminal(home, "chat", "")) as one:
        one.wait_for("no session ''")
        assert one.ended() == 3
    assert lash("ls", "-o", "name").out == "s\n"


def test_the_hint_leads_to_the_home_of_the_chat(chat, lash, home: Path) -> None:
    other = home.parent / "another home"
    lash("--home", str(other), "open", "s", "--name", "fjord")
    one = chat("--home", str(other))
    one.press("\x04")
    assert one.ended() == 0
    said = "".join(one.everything.split("\n"))
    assert f"resume: lash --home '{other}' chat fjord" in said


BROKEN = """
import os
from lash_cli.errors import StoreUnusable
from lash_cli.store.sqlite.database import Database

def while_sound(real):
    def read(self, *args):
        if os.path.exists(os.environ["BROKEN_FILE"]):
            raise StoreUnusable("the disk is on fire")
        return real(self, *args)
    return read

Database.read = while_sound(Database.read)
Database.peek = while_sound(Database.peek)
"""


def test_a_chat_that_an_error_ends_says_how_to_come_back(chat, lash, tmp_path: Path) -> None:
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(BROKEN)
    broken = tmp_path / "broken"
    path = os.pathsep.join((str(tmp_path / "path"), str(Path(__file__).resolve().parents[2])))
    one = chat(PYTHONPATH=path, BROKEN_FILE=str(broken))
    broken.touch()
    lash("turn", "s", "!text from elsewhere")
    assert one.ended() == 9
    assert "the disk is on fire" in one.everything and "resume: lash chat fjord" in one.everything


def test_a_store_that_is_busy_is_told_once_and_waited_for(chat, lash, tmp_path: Path) -> None:
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(BUSY)
    busy = tmp_path / "busy"
    path = os.pathsep.join((str(tmp_path / "path"), str(Path(__file__).resolve().parents[2])))
    one = chat(PYTHONPATH=path, BUSY_FILE=str(busy))
    busy.touch()
    lash("turn", "s", "!text from elsewhere")
    one.wait_for("stayed locked by another process")
    lash("turn", "s", "!text and more")
    busy.unlink()
    one.wait_for("and more")
    one.wait_for("│ idle")
    assert one.everything.count("stayed locked") == 1
    assert one.everything.count("you ▸ !text from elsewhere") == one.everything.count("you ▸ !text and more") == 1
    one.press("still here\r")
    one.wait_for("You said: still here")


def test_a_stopped_chat_takes_the_terminal_again_from_the_shell_that_had_it_meanwhile(chat) -> None:
    one = chat()
    one.press("half a thought")
    one.wait_for(f"{PROMPT} half a thought")
    one.process.send_signal(signal.SIGSTOP)
    wait_until_frozen(one.process)
    one.edit_lines()
    one.process.send_signal(signal.SIGCONT)
    one.wait_until(lambda: not one.is_cooked)
    one.press("\x01not even \x05 more\r")
    one.wait_for("You said: not even half a thought more")


# Stopped in the middle of a transaction of the thread that writes, once.
STOPPED = """
import os, signal
from lash_cli.store.sqlite.writer import Writer

real = Writer._commit

def stopped(self, connection, group):
    if os.path.exists(os.environ["STOP_FILE"]):
        os.unlink(os.environ["STOP_FILE"])
        os.kill(os.getpid(), signal.SIGTSTP)
    return real(self, connection, group)

Writer._commit = stopped
"""


class ChatJob(Job, Chat):
    """A chat that a shell started."""


def test_a_chat_that_is_stopped_holds_up_nobody_at_the_store(home: Path, tmp_path: Path) -> None:
    prepare(home, ("open", "s", "--name", "fjord"))
    stop = tmp_path / "stop"
    with contextlib.closing(ChatJob(home, "s", first=STOPPED, STOP_FILE=str(stop))) as one:
        one.wait_for(PROMPT)
        stop.touch()
        one.press("hello\r")
        wait_until_frozen(one.process)
        assert can_write(home / "lash.db")
        assert one.is_cooked
        one.process.send_signal(signal.SIGCONT)
        one.wait_for("You said: hello")
        # What Ctrl-Z is at a prompt that takes every key, pressed once more than needed.
        one.press("a draft\x1a\x1a")
        wait_until_frozen(one.process)
        assert one.is_cooked
        one.process.send_signal(signal.SIGCONT)
        one.wait_for(f"{PROMPT} a draft")
        one.wait_until(lambda: not one.is_cooked)


def test_ctrl_z_while_a_turn_runs_says_that_it_stands_still_and_it_goes_on(home: Path, gate: Path) -> None:
    prepare(home, ("open", "s", "--name", "fjord"))
    with contextlib.closing(ChatJob(home, "s")) as one:
        one.wait_for(PROMPT)
        one.gated(gate)
        one.press("a draft\x1a")
        wait_until_frozen(one.process)
        one.wait_for("suspended: the running turn stands still")
        assert one.is_cooked and PROMPT not in one.text
        gate.touch()
        one.process.send_signal(signal.SIGCONT)
        one.wait_for("all is well")
        one.wait_for(lambda text: f"{PROMPT} a draft" in text and "│ idle" in text)


def test_enter_enters_the_running_turn_once_and_tab_the_next_one_once(chat, gate) -> None:
    one = chat()
    one.gated(gate)
    one.press("also windows paths\r")
    one.wait_for("◆ will send in this turn · 1   ↳ also windows paths")
    one.press("then the changelog\t")
    one.wait_for("◇ queued for next turn · 1   ↳ then the changelog")
    gate.touch()
    one.wait_for("You said: then the changelog")
    one.wait_for("│ idle")
    users = one.users()
    assert users.count("also windows paths") == users.count("then the changelog") == 1
    first, injected, queued = (one.turn_of(text) for text in users)
    assert first == injected != queued
    assert one.everything.count("you ▸ also windows paths") == one.everything.count("you ▸ then the changelog") == 1


def test_esc_holds_what_waits_and_it_is_delivered_once(chat, gate) -> None:
    one = chat()
    one.gated(gate)
    one.press("also this\r")
    one.wait_for("◆ will send in this turn · 1")
    one.press("then that\t")
    one.wait_for("◇ queued for next turn · 1")
    one.press("half a thought")
    # Nothing is typed behind it: a bare Esc acts on its own.
    one.press("\x1b")
    one.wait_for("cancel requested: turn t_")
    one.wait_for("2 queued: Enter send now")
    one.wait_for(lambda text: f"{PROMPT} half a thought" in text and "held" in text)
    assert one.users() == one.users()[:1]
    one.press("\x15\r")
    one.wait_for("You said:")
    one.wait_for(lambda text: "│ idle" in text and "◇" not in text)
    assert sorted(text for text in "\n".join(one.users()[1:]).split("\n")) == ["also this", "then that"]


def test_ctrl_c_with_a_draft_puts_it_aside_and_without_one_cancels(chat, gate) -> None:
    one = chat()
    one.gated(gate)
    one.press("precious words\x03")
    one.wait_for("draft put aside")
    assert "cancel" not in one.text.replace("cancel the turn", "")
    one.press("\x03")
    one.wait_for("cancel requested: turn t_")
    one.wait_for("turn cancelled")
    one.wait_for("│ idle")
    one.press("\x1b[A")
    one.wait_for(f"{PROMPT} precious words")
    one.press("\x03")
    one.wait_for(f"{PROMPT}\n")
    # In one piece: two seconds between them would be a matter of the machine.
    one.press("\x03\x03")
    assert one.ended() == 0
    assert "Ctrl-C again within 2 s to quit" in one.text


@pytest.mark.parametrize("newline", ["\x1b\r", "\x1b[13;2u", "\x1b[27;2;13~", "\n"])
def test_every_newline_key_makes_a_line_and_cancels_nothing(chat, gate, newline) -> None:
    one = chat()
    one.gated(gate)
    # A sequence nobody knows is no Esc either.
    one.press(f"first{newline}second\x1b[57441;1u\r")
    one.wait_for("◆ will send in this turn · 1   ↳ first second")
    gate.touch()
    one.wait_for("You said: first")
    one.wait_for("│ idle")
    assert "cancel requested" not in one.everything
    assert one.users()[1] == "first\nsecond"


def test_pulling_back_restores_only_what_is_cancelled(chat, lash, gate) -> None:
    one = chat()
    one.gated(gate)
    for count, text in enumerate(("keep me", "take me back"), start=1):
        one.press(f"{text}\t")
        one.wait_for(f"◇ queued for next turn · {count}")
    one.press("\x1b[A")
    one.wait_for(f"{PROMPT} take me back")
    one.wait_for("◇ queued for next turn · 1   ↳ keep me")
    one.press("\x15")
    (kept,) = lash("queue", "ls", "s", "-o", "json").json["items"]
    lash("queue", "cancel", kept["id"])
    one.wait_for(lambda text: "◇" not in text)
    one.press("\x1b\x1b[A")
    one.wait_for("nothing of yours waits")
    gate.touch()
    one.wait_for("│ idle")
    assert len(one.users()) == 1


def test_a_killed_chat_gives_draft_queue_and_turn_to_the_next_one(chat, home, gate, lash) -> None:
    one = chat()
    one.gated(gate)
    one.press("for the next turn\t")
    one.wait_for("◇ queued for next turn · 1")
    one.press("not sent yet")
    one.wait_for("not sent yet")
    one.wait_until(lambda: one.has_saved("not sent yet"))
    one.process.kill()
    one.process.wait()
    gate.touch()
    two = chat()
    two.wait_for(f"{PROMPT} not sent yet")
    two.wait_for("was cut off")
    two.wait_for("◇ queued for next turn · 1   ↳ for the next turn")
    two.press("\x15\r")
    two.wait_for("all is well")
    two.wait_for("You said: for the next turn")
    two.wait_for("│ idle")
    assert [text.split("\n")[-1] for text in two.users()] == ["!text all is well", "for the next turn"]


@pytest.mark.parametrize("way", ["signal", "closed terminal"])
def test_a_hang_up_in_mid_turn_loses_nothing_and_everything_stored_is_private(chat, home, lash, gate, way) -> None:
    one = chat()
    one.gated(gate)
    one.press("queued before the end\t")
    one.wait_for("◇ queued for next turn · 1")
    one.press("draft before the end")
    one.wait_for("draft before the end")
    if way == "signal":
        one.process.send_signal(signal.SIGHUP)
    else:
        one.hang_up()
    assert one.process.wait(60) == 129
    shown = lash("show", "s", "-o", "json").json
    assert (shown["running_turn"], shown["pending_inputs"]) == (None, 1)
    two = chat()
    two.wait_for(f"{PROMPT} draft before the end")
    two.wait_for("queued before the end")
    for path in [home, *home.rglob("*")]:
        wanted = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == wanted or path.is_socket(), path


@pytest.mark.parametrize("plain", [False, True])
def test_a_signal_while_an_editor_has_the_terminal_gives_it_back_and_keeps_what_was_saved(
    chat, home: Path, tmp_path: Path, plain: bool
) -> None:
    script, begun = tmp_path / "edit.py", tmp_path / "begun"
    script.write_text(
        "import sys, time\n"
        "open(sys.argv[1], 'w').write('saved in the editor')\n"
        f"open({str(begun)!r}, 'w').close()\n"
        "time.sleep(600)\n"
    )
    chat_of = partial(chat, *(["--plain"] if plain else []), prompt="status: idle" if plain else PROMPT)
    one = chat_of(EDITOR=f"{sys.executable} {script}")
    if plain:
        one.lash("turn", "s", "!text said before")
        one.press("/edit\r")
    else:
        one.press("a draft\x07")
    one.wait_until(begun.exists)
    one.process.send_signal(signal.SIGTERM)
    assert one.ended() == 143
    assert one.is_cooked
    chat_of().wait_for("saved in the editor")


def test_a_failed_turn_holds_what_waits_until_it_is_sent(chat, lash, gate) -> None:
    one = chat(LASH_CFG__repl__after_interrupt="continue")
    one.gated(gate, then="!fail auth")
    one.press("for later\t")
    one.wait_for("◇ queued for next turn · 1")
    gate.touch()
    one.wait_for("error: loopback: scripted failure auth")
    one.wait_for("1 queued: Enter send now")
    one.wait_for("held")
    assert "held" in lash("work", "s", "--until-empty").err
    one.press("\r")
    one.wait_for("You said: for later")
    one.wait_for("│ idle")
    assert one.users()[1:] == ["for later"]


def test_a_hold_of_the_chat_ends_with_the_last_text_it_kept_back(chat, lash, gate: Path) -> None:
    one = chat()
    one.gated(gate)
    one.press("not this\t")
    one.wait_for("next turn · 1")
    one.press("\x1b")
    one.wait_for("│ queue 0+1 held")
    one.press("/queue cut\r")
    one.wait_for(lambda text: "│ idle" in text and "held" not in text.rpartition(PROMPT)[2])
    assert lash("show", "s", "-o", "json").json["held_at"] is None
    second = gate.with_name("second")
    one.gated(second)
    one.press("but this\t")
    one.wait_for("next turn · 1")
    second.touch()
    one.wait_for("You said: but this")
    assert "not this" not in one.users()
    lash("queue", "hold", "s", "--reason", "mine")
    one.wait_for(lambda text: "held" in text.rpartition(PROMPT)[2])
    one.press("/queue\r")
    one.wait_for("nothing waits")
    assert lash("show", "s", "-o", "json").json["held_at"] is not None


def test_a_queue_that_goes_on_after_a_cancel_is_delivered_once(chat, gate) -> None:
    one = chat(LASH_CFG__repl__after_interrupt="continue")
    one.gated(gate)
    one.press("go on with this\t")
    one.wait_for("◇ queued for next turn · 1")
    one.press("\x1b")
    one.wait_for("You said: go on with this")
    one.wait_for(lambda text: "│ idle" in text and "◇" not in text)
    assert one.users()[1:] == ["go on with this"]


def test_a_draft_outlives_its_session_in_the_history(chat, lash, home) -> None:
    one = chat()
    one.press("words of mine\x03and a draft")
    one.wait_for(f"{PROMPT} and a draft")
    assert lash("rm", "s", "--yes").code == 0
    assert one.ended() == 3
    assert "was deleted" in one.text and "is in the history" in one.text and one.is_cooked
    assert "resume:" not in one.everything
    lash("open", "other", "--name", "next")
    with contextlib.closing(Chat(home, "other")) as two:
        two.wait_for("next ❯")
        two.press("\x1b[A")
        two.wait_for("next ❯ and a draft")
        two.press("\x1b[A")
        two.wait_for("next ❯ words of mine")
