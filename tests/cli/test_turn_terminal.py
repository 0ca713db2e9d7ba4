"""`lash turn` and `lash rm` at a terminal: Markdown, questions and their answers, in a pseudo-terminal."""

from __future__ import annotations

import os
import pty
import re
import sys
import termios
from pathlib import Path

import pexpect
import pytest
from pexpect import fdpexpect
from support.cli import COMMAND, environment, spawn_lash
from support.prepared import OPEN, prepare

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
TOOL = '!tool exec_command {"cmd":"echo ran"}\n!then\n!text done'
SIZE = (24, 80)
QUESTION = r"\[n\]o: "


class Shown(fdpexpect.fdspawn):
    """What a command shows at a terminal that is not its own to be interrupted by, and types there."""

    def __init__(self, home: Path, args: tuple[str, ...], env: dict[str, str]) -> None:
        ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, SIZE)
        streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
        self.process = spawn_lash(args, home=home, env=env, start_new_session=True, **streams)
        os.close(theirs)
        super().__init__(ours, encoding="utf-8", timeout=30)

    def close(self) -> None:
        super().close()
        self.exitstatus = self.process.wait(30)


def at_terminal(home: Path, *args: str, **env: str) -> pexpect.spawnbase.SpawnBase:
    return Shown(home, args, {"TERM": "xterm-256color", **env})


def at_its_own_terminal(home: Path, *args: str, **env: str) -> pexpect.spawn:
    """As a shell starts it: Ctrl-C at the terminal is a signal for it."""
    return pexpect.spawn(
        COMMAND[0],
        [*COMMAND[1:], *args],
        env=environment(home, {"TERM": "xterm-256color", **env}),
        cwd=str(home.parent),
        dimensions=SIZE,
        encoding="utf-8",
        timeout=30,
    )


def rest(child: pexpect.spawnbase.SpawnBase) -> tuple[int | None, str]:
    child.expect(pexpect.EOF)
    child.close()
    return child.exitstatus, ESCAPES.sub("", child.before)


def test_a_terminal_gets_markdown_and_no_escape_of_the_model(lash, home: Path) -> None:
    prepare(home, OPEN)
    child = at_terminal(home, "turn", "s", '!text "some **bold** words\\n\\n- item\\n\\n\\u001b]0;owned\\u0007"')
    child.expect(pexpect.EOF)
    shown = child.before
    assert "\x1b[1mbold" in shown and "**" not in ESCAPES.sub("", shown).splitlines()[-3]
    assert "\x1b]0" not in shown and "\\x1b]0;owned" in shown


@pytest.mark.parametrize(("typed", "shown"), [("y", "done"), ("", "refused")])
def test_ctrl_d_hands_over_an_answer_as_enter_does(lash, home: Path, typed: str, shown: str) -> None:
    prepare(home, OPEN)
    child = at_terminal(home, "turn", "s", TOOL)
    child.expect(QUESTION)
    child.send(f"{typed}\x04")
    child.expect(shown)
    assert rest(child)[0] == 0


@pytest.mark.parametrize(
    ("answer", "called", "reason"), [("y", True, ""), ("n", False, "refused"), ("not now", False, "not now")]
)
def test_a_tool_that_needs_approval_asks_and_obeys(lash, home: Path, answer, called, reason) -> None:
    prepare(home, OPEN)
    child = at_terminal(home, "turn", "s", TOOL)
    child.expect(QUESTION)
    assert "exec_command" in child.before and "echo ran" in child.before
    child.sendline(answer)
    status, shown = rest(child)
    assert status == 0 and "done" in shown
    results = [
        part
        for item in lash("log", "s", "-o", "json").json["items"]
        for part in item["parts"]
        if part["kind"] == "tool_result"
    ]
    assert (results[0]["status"] == "success") is called
    assert reason in results[0]["content"]


def test_always_is_asked_once_per_command(lash, home: Path) -> None:
    prepare(home, OPEN)
    child = at_terminal(home, "turn", "s", '!tool exec_command {"cmd":"true"}\n!then\n' + TOOL)
    child.expect(QUESTION)
    child.sendline("a")
    status, shown = rest(child)
    assert status == 0 and "[n]o:" not in shown


def test_nobody_is_asked_with_no_input(lash, home: Path) -> None:
    prepare(home, OPEN)
    status, shown = rest(at_terminal(home, "turn", "s", TOOL, "--no-input"))
    assert status == 0 and "[n]o:" not in shown and "needs approval" in shown


def test_an_interrupt_at_a_question_cancels_the_turn(lash, home: Path) -> None:
    prepare(home, OPEN)
    child = at_its_own_terminal(home, "turn", "s", TOOL)
    child.expect(QUESTION)
    child.sendintr()
    status, _ = rest(child)
    assert status == 130
    assert lash("show", "s", "-o", "json").json["status"] == "idle"


def test_rm_asks_at_a_terminal_and_takes_no_for_an_answer(lash, home: Path) -> None:
    prepare(home, OPEN)
    child = at_terminal(home, "rm", "s")
    child.expect(r"\[y/N\] ")
    child.sendline("n")
    assert rest(child)[0] == 2
    child = at_terminal(home, "rm", "s")
    child.expect(r"\[y/N\] ")
    child.sendline("y")
    assert rest(child)[0] == 0
    assert lash("ls", "-o", "json").json["items"] == []


def test_plain_output_has_no_escape_sequence_at_all(lash, home: Path) -> None:
    prepare(home, OPEN)
    child = at_terminal(home, "turn", "s", '!text "# Title\\n\\nsome *text*"', "--plain")
    child.expect(pexpect.EOF)
    assert "\x1b" not in child.before and "# Title" in child.before


def editor(tmp_path: Path, body: str) -> dict[str, str]:
    script = tmp_path / "editor"
    script.write_text(f"#!{sys.executable}\nimport sys\npath = sys.argv[1]\n{body}\n")
    script.chmod(0o700)
    return {"VISUAL": str(script)}


def test_a_text_is_written_in_an_editor_only_when_that_is_asked_for(lash, home: Path, tmp_path: Path) -> None:
    prepare(home, OPEN)
    env = editor(tmp_path, "open(path, 'a').write('!text written\\n')")
    status, shown = rest(at_terminal(home, "turn", "s", **env))
    assert status == 2 and "a PROMPT is needed" in shown and "lash turn S -e" in shown
    status, shown = rest(at_terminal(home, "turn", "s", "-e", **env))
    assert status == 0 and "written" in shown
    status, shown = rest(at_terminal(home, "turn", "s", "--edit", "to begin with\n", **env))
    assert status == 0
    said = [item["parts"][0]["content"] for item in lash("log", "s", "--role", "user", "-o", "json").json["items"]]
    assert said == ["!text written", "to begin with\n!text written"]
    assert not [name for name in os.listdir(home / "edits") if name.endswith(".txt")]


@pytest.mark.parametrize(
    ("body", "expected", "told"),
    [
        ("open(path, 'w').write('typed'); sys.exit(3)", 1, "nothing was sent; what you typed is in"),
        ("sys.exit(3)", 1, "ended with status 3"),
        ("", 2, "the edited text is empty"),
    ],
)
def test_an_editor_that_fails_or_leaves_nothing_sends_nothing(
    lash, home: Path, tmp_path: Path, body: str, expected: int, told: str
) -> None:
    prepare(home, OPEN)
    status, shown = rest(at_terminal(home, "turn", "s", "-e", **editor(tmp_path, body)))
    assert status == expected and told in " ".join(shown.split()) and "nothing was sent" in " ".join(shown.split())
    assert lash("log", "s", "-o", "json").json["items"] == []
    is_typed = "typed" in body
    assert (len([name for name in os.listdir(home / "edits") if name.endswith(".txt")]) == 1) is is_typed
    assert ("what you typed" in " ".join(shown.split())) is is_typed


def test_no_editor_opens_for_a_session_that_is_not_there_or_without_a_terminal(lash, home, tmp_path: Path) -> None:
    prepare(home, OPEN)
    marker = tmp_path / "edited"
    env = editor(tmp_path, f"open({str(marker)!r}, 'w').close()")
    status, shown = rest(at_terminal(home, "turn", "nowhere", "-e", **env))
    assert status == 3 and "no session" in shown
    for arguments in (("s", "-e", "-"), ("s", "-e", "--retry")):
        assert rest(at_terminal(home, "turn", *arguments, **env))[0] == 2
    done = lash("turn", "s", "-e", "-o", "json", env=env)
    assert (done.code, done.error["code"]) == (2, "not_a_tty")
    assert not marker.exists()
