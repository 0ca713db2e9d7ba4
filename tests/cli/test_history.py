"""fork, rewind, tree and turn --retry through the real entry point (contract 08 §5.1, §3 item 19)."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import pytest
from support.cli import run_lash, spawn_lash
from support.error_world import Dump, dump, told
from support.prepared import OPEN, prepare
from support.terminal import Terminal


def items(lash, session: str = "s") -> list[dict]:
    found: list[dict] = lash("tree", session, "-o", "json").json["items"]
    return found


def said(lash, session: str = "s") -> list[str]:
    return [item["text"] for item in lash("log", session, "-o", "json").json["items"]]


def run_line(line: str, home: Path) -> None:
    """Run a printed command as a person would paste it; `lash` is this one."""
    words = shlex.split(line)
    assert words[0] == "lash"
    assert run_lash(words[1:], home=home).code == 0


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """The file a turn waits for."""
    return tmp_path / "gate"


TALK = (
    ("open", "s", "--name", "notes"),
    ("turn", "s", "!text one", "--turn-id", "t-1"),
    ("turn", "s", "!text two", "--turn-id", "t-2"),
)


@pytest.fixture(scope="module")
def talked(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The ids of what is said in `talk`."""
    home = prepare(tmp_path_factory.mktemp("talked") / "home", *TALK)
    return [item["id"] for item in run_lash(("tree", "s", "-o", "json"), home=home).json["items"]]


@pytest.fixture
def talk(home: Path, talked: list[str]) -> list[str]:
    """Session `s`, called notes, with two turns."""
    prepare(home, *TALK)
    return talked


def test_a_fork_knows_its_parent_and_both_go_on_apart(lash, talk) -> None:
    done = lash("fork", "notes", "--name", "copy")
    assert (done.code, done.err) == (0, "forked notes into copy\n")
    fork = done.out.strip()
    shown = lash("show", fork, "-o", "json").json
    assert (shown["parent"], shown["turns"], shown["name"], shown["head"]["leaf_node"]) == ("s", 0, "copy", talk[-1])
    assert "parent      s" in lash("show", fork).out
    lash("turn", fork, "!text three")
    lash("turn", "s", "!text other")
    assert said(lash, fork) == ["!text one", "one", "!text two", "two", "!text three", "three"]
    assert said(lash)[-1] == "other"
    assert [row["id"] for row in lash("ls", "--parent", "s", "-o", "json").json["items"]] == [fork]


def test_a_fork_at_a_turn_or_a_node_ends_there_and_outlives_its_parent(lash, talk) -> None:
    at_turn = lash("fork", "s", "--at", "t-1", "-q").out.strip()
    at_node = lash("fork", "s", "--at", talk[0], "-o", "json").json
    assert (at_node["kind"], at_node["parent"]) == ("Session", "s")
    assert lash("rm", "s", "--yes").code == 0
    assert said(lash, at_turn) == ["!text one", "one"]
    assert said(lash, at_node["id"]) == ["!text one"]
    assert lash("turn", at_turn, "!text later").code == 0
    assert said(lash, at_turn)[-1] == "later"
    assert lash("fork", "s", "-o", "json").error["code"] == "session_deleted"


@pytest.mark.parametrize(
    ("arguments", "code", "status"),
    [
        (("fork", "s", "--at", "nowhere"), "node_not_found", 3),
        (("fork", "nobody"), "session_not_found", 3),
        (("fork", "s", "--name", "notes"), "session_name_taken", 4),
        (("fork", "s", "--name", "@last"), "usage", 2),
        (("fork", "s", "--open"), "not_a_tty", 2),
        (("rewind", "s"), "usage", 2),
        (("rewind", "s", "--to", "nowhere"), "node_not_found", 3),
        (("rewind", "s", "--to", "m", "--edit"), "not_a_tty", 2),
        (("tree", "nobody"), "session_not_found", 3),
        (("turn", "s", "more", "--retry"), "usage", 2),
        (("turn", "s", "--retry", "--key", "k"), "usage", 2),
    ],
)
def test_what_cannot_be_done_changes_nothing(lash, home, talk, arguments, code: str, status: int) -> None:
    def kept() -> Dump:
        rows = dump(home / "lash.db") or {}
        # A refused rewind has held the lane, which counts how often it was held.
        return {name: rows[name] for name in rows if name != "sessions"} | {
            "sessions": [row[:2] for row in rows["sessions"]]
        }

    before = kept()
    told(lash(*arguments, "-o", "json"), status, code)
    assert kept() == before
    (head,) = (item["id"] for item in items(lash) if item["head"])
    assert head == talk[-1]


def test_a_rewind_keeps_every_node_and_prints_the_way_back(lash, home, talk) -> None:
    done = lash("rewind", "notes", "--to", talk[1])
    assert done.code == 0
    assert done.out == f"the head of notes is now {talk[1]}, and was {talk[3]}\nundo: lash rewind s --to {talk[3]}\n"
    lash("turn", "s", "!text instead")
    assert said(lash) == ["!text one", "one", "!text instead", "instead"]
    assert len(items(lash)) == 6
    run_line(done.out.splitlines()[1].removeprefix("undo: "), home)
    assert said(lash) == ["!text one", "one", "!text two", "two"]
    again = lash("rewind", "s", "--to", talk[3])
    assert again.out == f"the head of notes is {talk[3]} already\n"


def test_a_rewind_to_the_root_starts_beside_everything_and_names_the_home_it_was_given(lash, home, talk) -> None:
    done = lash("--home", str(home), "rewind", "s", "--to", "root", "-o", "json")
    moved = done.json
    assert (moved["kind"], moved["moved"], moved["node"], moved["previous_node"]) == ("Rewind", True, None, talk[3])
    assert moved["undo"] == f"lash --home {shlex.quote(str(home))} rewind s --to {talk[3]}"
    assert said(lash) == []
    assert "the head stands before everything" in lash("tree", "s").out
    lash("turn", "s", "!text anew")
    assert said(lash) == ["!text anew", "anew"]
    run_line(moved["undo"], home)
    assert said(lash)[-1] == "two"


def test_a_running_turn_is_not_moved_away_from(lash, home, gate, talk) -> None:
    with spawn_lash(["turn", "s", f"!wait-file {gate}\n!text late", "-o", "jsonl"], home=home) as process:
        assert process.stdout is not None
        assert any(b"model_request_started" in line for line in process.stdout)
        refused = lash("rewind", "s", "--to", talk[1], "-o", "json")
        forked = lash("fork", "s", "-q")
        gate.touch()
        process.communicate()
    assert (refused.code, refused.error["code"]) == (75, "session_execution_busy")
    assert refused.error["hint"] == "wait for its end: lash wait s, or stop it: lash cancel s --wait"
    assert said(lash, forked.out.strip())[-1] == "two"
    assert said(lash)[-1] == "late"


def test_calls_without_results_are_no_head_and_the_error_names_one_that_is(lash, talk) -> None:
    lash("turn", "s", '!tool exec_command {"cmd":"echo hi"}\n!then\n!text done', "--approve", "execute=auto")
    calls = next(item for item in items(lash) if "[call exec_command]" in item["preview"])
    done = lash("rewind", "s", "--to", calls["id"], "-o", "json")
    assert (done.code, done.error["code"]) == (4, "node_not_resumable")
    assert lash("rewind", "s", "--to", done.error["details"]["before"]).code == 0


def editor(tmp_path: Path, body: str) -> dict[str, str]:
    script = tmp_path / "editor"
    script.write_text(f"#!{sys.executable}\nimport sys\npath = sys.argv[1]\ntext = open(path).read()\n{body}\n")
    script.chmod(0o700)
    return {"VISUAL": str(script)}


def at_terminal(home: Path, *args: str, **env: str) -> tuple[int, str]:
    terminal = Terminal(home, *args, columns=200, **env)
    try:
        status = terminal.ended()
        return status, terminal.everything
    finally:
        terminal.close()


def test_an_edited_message_is_said_anew_beside_the_old_one(lash, home, tmp_path, talk) -> None:
    env = editor(
        tmp_path, "assert text == '!text two', text\nopen(path, 'w').write(text.replace('two', 'zwei') + chr(10))"
    )
    status, shown = at_terminal(home, "rewind", "s", "--to", talk[2], "--edit", **env)
    assert status == 0 and "zwei" in shown
    assert f"lash rewind s --to {talk[3]}" in shown
    assert said(lash) == ["!text one", "one", "!text zwei", "zwei"]
    branches = [(item["preview"], item["active"]) for item in items(lash) if item["branch"] == 1]
    assert branches == [("!text two", False), ("two", False), ("!text zwei", True), ("zwei", True)]
    assert not [name for name in os.listdir(home / "edits") if name.endswith(".txt")]


@pytest.mark.parametrize("body", ["sys.exit(3)", "open(path, 'w').write('  ')"])
def test_an_editor_that_fails_or_leaves_nothing_leaves_the_session_alone(lash, home, tmp_path, talk, body) -> None:
    before = lash("tree", "s", "-o", "json").out
    status, shown = at_terminal(home, "rewind", "s", "--to", talk[2], "--edit", **editor(tmp_path, body))
    assert status != 0
    assert "the session is as it was" in shown
    assert lash("tree", "s", "-o", "json").out == before


def test_only_a_message_of_the_user_is_edited(lash, home, tmp_path, talk) -> None:
    marker = tmp_path / "edited"
    env = editor(tmp_path, f"open({str(marker)!r}, 'w').close()")
    status, shown = at_terminal(home, "rewind", "s", "--to", talk[3], "--edit", **env)
    assert status == 4 and "is not a message of yours" in shown
    assert not marker.exists()


def test_a_retry_says_the_last_text_again_and_keeps_the_old_answer(lash, home, talk) -> None:
    done = lash("turn", "s", "--retry")
    assert (done.code, done.out) == (0, "two\n")
    undo = next(line for line in done.err.splitlines() if "lash rewind" in line).partition(": ")[2]
    assert said(lash) == ["!text one", "one", "!text two", "two"]
    tree = items(lash)
    assert len(tree) == 6 and [item["id"] for item in tree if item["head"]] != [talk[3]]
    run_line(undo, home)
    assert [item["id"] for item in items(lash) if item["head"]] == [talk[3]]


def test_a_retry_that_was_cut_off_before_its_turn_is_retried_with_the_same_text(lash, talk) -> None:
    lash("rewind", "s", "--to", talk[1])  # where a killed retry leaves the head
    assert lash("turn", "s", "--retry").out == "two\n"
    assert said(lash) == ["!text one", "one", "!text two", "two"]
    lash("rewind", "s", "--to", talk[1])
    lash("turn", "s", "!text three")
    lash("rewind", "s", "--to", talk[1])
    lash("rewind", "s", "--to", talk[3])
    assert lash("turn", "s", "--retry").out == "two\n"


@pytest.mark.parametrize("options", [("--provider", "nowhere"), ("--model", "")])
def test_a_retry_that_cannot_run_moves_nothing(lash, talk, options) -> None:
    lash(
        "provider", "add", "far", "--kind", "openai_chat", "--base-url", "https://far.invalid/v1", "--key", "env:NO_KEY"
    )
    before = lash("tree", "s", "-o", "json").out
    assert lash("turn", "s", "--retry", *options, "-o", "json").code != 0
    assert (
        lash("turn", "s", "--retry", "--provider", "far", "--model", "m", "-o", "json").error["code"] == "key_missing"
    )
    assert lash("tree", "s", "-o", "json").out == before


def test_a_turn_that_failed_is_retried_with_its_stdin_and_files(lash, home, tmp_path) -> None:
    (tmp_path / "a.txt").write_text("attached")
    prepare(home, OPEN)
    once = ("-c", "providers.loopback.options={max_attempts = 1}")
    failed = lash("turn", "s", "!fail server", "-a", str(tmp_path / "a.txt"), *once, input="piped")
    assert failed.code != 0
    again = lash("turn", "s", "--retry", "-o", "json", *once)
    assert again.code == failed.code
    first, second = (item for item in lash("tree", "s", "-o", "json").json["items"] if item["role"] == "user")
    assert first["preview"] == second["preview"] and first["parent"] == second["parent"]
    parts = [item["parts"] for item in lash("log", "s", "-o", "json").json["items"] if item["role"] == "user"]
    assert [[part["kind"] for part in message] for message in parts] == [["text", "text", "attachment"]]


def test_a_fork_is_retried_too_and_an_empty_session_has_nothing_to_retry(lash, talk) -> None:
    fork = lash("fork", "s", "-q").out.strip()
    assert lash("turn", fork, "--retry").out == "two\n"
    assert [item["preview"] for item in items(lash, fork) if item["role"] == "user"] == [
        "!text one",
        "!text two",
        "!text two",
    ]
    assert len(items(lash)) == 4
    lash("open", "empty")
    assert lash("turn", "empty", "--retry", "-o", "json").error["code"] == "nothing_to_retry"


def test_the_tree_marks_the_head_and_indents_branches_only(lash, talk) -> None:
    lash("rewind", "s", "--to", talk[1])
    lash("turn", "s", "!text instead")
    tree = items(lash)
    new = [item["id"] for item in tree][-2:]
    assert lash("tree", "s", "--plain").out.splitlines() == [
        "notes  s",
        f"  {talk[0]} user: !text one",
        f"  {talk[1]} assistant: one",
        f"    {talk[2]} user: !text two",
        f"      {talk[3]} assistant: two",
        f"    {new[0]} user: !text instead",
        f"      {new[1]} (head) assistant: instead",
    ]
    assert [item["parent"] for item in tree] == [None, talk[0], talk[1], talk[2], talk[1], new[0]]
    shallow = lash("tree", "s", "--depth", "0", "-o", "json").json
    assert (len(shallow["items"]), shallow["hidden"]) == (2, 4)
    assert "4 messages in deeper branches" in lash("tree", "s", "--depth", "0").out
    assert lash("tree", "s", "-q").out.split() == [item["id"] for item in tree]


def test_a_long_stretch_is_folded_for_people_and_whole_for_scripts(lash, home) -> None:
    prepare(home, OPEN)
    for number in range(9):
        lash("turn", "s", f"!text answer {number}")
    folded, whole = lash("tree", "s").out, lash("tree", "s", "-v").out
    assert "8 messages" in folded and "answer 0" in folded and "answer 8" in folded and "answer 3" not in folded
    assert "answer 3" in whole
    assert len(items(lash)) == 18


def test_a_tree_cannot_steer_the_terminal(lash, home) -> None:
    prepare(home, OPEN)
    lash("turn", "s", "red \x1b[31m text")
    for options in ((), ("--plain",), ("-o", "json")):
        assert "\x1b" not in lash("tree", "s", *options).out


def test_a_fork_can_be_talked_in_at_once(lash, home, talk) -> None:
    terminal = Terminal(home, "fork", "s", "--name", "copy", "--open")
    try:
        terminal.wait_for("copy ❯")
        terminal.press("\x04")
        assert terminal.ended() == 0
    finally:
        terminal.close()
    assert [row["name"] for row in lash("ls", "--parent", "s", "-o", "json").json["items"]] == ["copy"]


def test_a_closed_session_is_forked_but_not_rewound(lash, talk) -> None:
    lash("close", "s")
    assert lash("rewind", "s", "--to", talk[0], "-o", "json").error["code"] == "session_closed"
    assert lash("compact", "s", "-o", "json").error["code"] == "session_closed"
    assert lash("turn", lash("fork", "s", "-q").out.strip(), "!text on").out == "on\n"
