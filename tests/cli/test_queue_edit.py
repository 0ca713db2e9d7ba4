"""`lash queue edit`: the rest of a queue out, changed, and back; nothing is ever lost (contract 08 §5.3)."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.cli import Result, program, spawn_lash
from support.error_world import told
from support.processes import wait_until
from support.queued import QueuedHome


@pytest.fixture
def world(home: Path) -> QueuedHome:
    return QueuedHome(home)


@pytest.fixture
def editor(tmp_path: Path) -> Editor:
    return Editor(tmp_path)


_EDITOR = """#!{python}
import os, signal, subprocess, sys, time
path = sys.argv[1]
lines = open(path).read().split("\\n")
open({seen!r}, "w").write("\\n".join(lines))

def save():
    open(path, "w").write("\\n".join(lines))

def lash(*arguments):
    return subprocess.run([{lash!r}, *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout

{code}
{save}
"""


class Editor:
    """A program that edits: Python code with the file's path in `path` and its lines in `lines`."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "editor"
        self.seen = directory / "seen"
        self.lash = directory / "lash"
        program(self.lash)

    def does(self, code: str, *, saves: bool = True) -> dict[str, str]:
        """The environment that makes `lash` run it. It keeps a copy of what it was given in `seen`."""
        save = "save()" if saves else ""
        words = {"python": sys.executable, "lash": str(self.lash), "seen": str(self.seen)}
        self.path.write_text(_EDITOR.format(**words, code=code, save=save))
        self.path.chmod(0o700)
        return {"VISUAL": str(self.path)}


def edit(world: QueuedHome, *args: str, env: dict[str, str], on_start: Any = None) -> Result:
    """Run `lash queue edit` at a terminal, with stdout apart."""
    ours, theirs = pty.openpty()
    try:
        process = spawn_lash(
            ["queue", "edit", *args],
            home=world.home,
            env={"TERM": "xterm", **env},
            stdin=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        if on_start is not None:
            on_start(process)
        assert process.stdout is not None
        out = process.stdout.read().decode()
        shown = b""
        while chunk := _read(ours):
            shown += chunk
        process.stdout.close()
        return Result(process.wait(60), out, shown.decode().replace("\r\n", "\n"))
    finally:
        os.close(ours)


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:
        return b""


def leftovers(world: QueuedHome) -> list[str]:
    directory = world.home / "edits"
    return sorted(path.name for path in directory.iterdir()) if directory.exists() else []


def test_the_editor_gets_one_block_per_input_and_what_it_leaves_is_queued(world: QueuedHome, editor: Editor) -> None:
    world.add("stays before")
    one, two, three = (world.add(text) for text in ("first\nline", "second", "third"))
    change = f"""
at = lines.index('--- {two} ---')
lines[at + 1] = 'second, changed'
"""
    done = edit(world, one, "-o", "json", env=editor.does(change))
    assert done.code == 0, done.err
    document = done.json
    assert (document["kind"], document["session"], document["changed"], document["dropped"]) == (
        "QueueEdit", "s", True, [],
    )  # fmt: skip
    assert document["cancelled"] == [one, two, three]
    assert [item["items"][0]["text"] for item in document["items"]] == ["first\nline", "second, changed", "third"]
    assert len({item["id"] for item in document["items"]} | {one, two, three}) == 6, "fresh inputs"
    assert world.waiting() == ["stays before", "first\nline", "second, changed", "third"]
    assert leftovers(world) == []
    seen = editor.seen.read_text()
    assert seen.startswith("# The queue of work (s)") and "stays before" not in seen


def test_blocks_are_moved_dropped_and_added(world: QueuedHome, editor: Editor) -> None:
    one, two, three = (world.add(text) for text in ("a", "b", "c"))
    blocks = f"lines[:] = ['--- {three} ---', 'c', '--- new ---', 'brand new', '--- {one} ---', 'a']"
    done = edit(world, one, "-o", "json", env=editor.does(blocks))
    assert done.json["dropped"] == [two]
    assert world.waiting() == ["c", "brand new", "a"]
    assert edit(world, done.json["items"][0]["id"], env=editor.does("")).out.count("in_") == 3


def test_an_unchanged_file_puts_everything_back_in_order(world: QueuedHome, editor: Editor) -> None:
    one = world.add("trailing newlines stay\n\n\n")
    world.add("piped beside", "--key", "k")
    done = edit(world, one, env=editor.does(""))
    assert done.code == 0 and "nothing was changed" in done.err
    assert world.waiting() == ["trailing newlines stay\n\n\n", "piped beside"]
    assert leftovers(world) == []


def test_text_that_looks_like_a_block_comes_back_as_it_went(world: QueuedHome, editor: Editor) -> None:
    text = "before\n--- in_fake ---\n\\--- in_fake ---\n# no comment\n\nafter"
    one = world.add(text)
    assert edit(world, one, env=editor.does("lines.append('')")).code == 0
    assert world.waiting() == [text]


def test_piped_text_is_kept_when_the_typed_text_changes(world: QueuedHome, editor: Editor, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("milk, tea")
    with (tmp_path / "list").open("rb") as file:
        one = world.lash("enqueue", "s", "what is on the list", "-q", stdin=file).out.strip()
    done = edit(world, one, "-o", "json", env=editor.does("lines[-2] = 'how long is the list'"))
    assert [(item["text"], item["label"]) for item in done.json["items"][0]["items"]] == [
        ("how long is the list", None),
        ("milk, tea", "stdin"),
    ]


def test_what_is_in_use_is_shown_and_not_edited(world: QueuedHome, editor: Editor) -> None:
    used = world.add("in use")
    world.take(turn_id="t_1")
    free = world.add("free")
    done = edit(world, used, "-o", "json", env=editor.does(""))
    assert (done.json["in_use"], done.json["cancelled"]) == ([used], [free])
    assert f"#     {used}  in use" in editor.seen.read_text()
    assert (world.waiting(), world.states()["in use"]) == (["free"], "deferred_next_turn")


def test_nothing_can_be_claimed_while_it_is_edited(world: QueuedHome, editor: Editor) -> None:
    one = world.add("!text edited")
    during = """
report = lash('work', 's', '--until-empty', '-o', 'json')
lines[:] = lines if '"turns":0' in report else ['--- new ---', 'claimed: ' + report]
"""
    assert edit(world, one, env=editor.does(during)).code == 0
    assert world.waiting() == ["!text edited"]


def test_text_for_a_running_turn_goes_back_to_that_turn(world: QueuedHome, editor: Editor) -> None:
    world.add("start")
    world.take(turn_id="t_1")
    one = world.add("into the turn", "--now")
    done = edit(world, one, "-o", "json", env=editor.does(""))
    assert done.json["items"][0]["ingress"]["turn_id"] == "t_1"


def test_the_file_is_private(world: QueuedHome, editor: Editor) -> None:
    one = world.add("secret")
    modes = """
modes = [oct(os.stat(place).st_mode) for place in (path, os.path.dirname(path))]
lines.extend(['--- new ---', *modes])
"""
    assert edit(world, one, env=editor.does(modes)).code == 0
    assert world.waiting()[1].split() == ["0o100600", "0o40700"]


@pytest.mark.parametrize(
    ("code", "saves", "expected"),
    [
        ("lines.extend(['--- new ---', 'typed']); save(); sys.exit(3)", False, "editor_failed"),
        ("sys.exit(3)", False, "editor_failed"),
        ("lines[:] = []", True, "queue_edit_invalid"),
        ("lines[:] = ['text without any block']", True, "queue_edit_invalid"),
        ("os.unlink(path)", False, "queue_edit_invalid"),
        ("open(path, 'wb').write(b'--- new ---\\n\\xff\\xfe')", False, "queue_edit_invalid"),
        ("os.kill(os.getpid(), signal.SIGKILL)", False, "editor_failed"),
    ],
    ids=["fails", "leaves", "empties", "no-block", "removes", "not-text", "dies"],
)  # fmt: skip
def test_a_failed_edit_puts_the_originals_back_and_keeps_what_was_typed(
    world: QueuedHome, editor: Editor, code: str, saves: bool, expected: str
) -> None:
    one = world.add("a")
    world.add("b")
    done = edit(world, one, "-o", "json", env=editor.does(code, saves=saves))
    error = done.error
    assert (done.out, error["code"], done.code != 0) == ("", expected, True)
    assert world.waiting() == ["a", "b"]
    kept = world.lash("doctor", "-o", "json").json
    assert kept["unfinished_edits"] == []
    is_kept = "unlink" not in code and "kill" not in code and code != "sys.exit(3)"  # else nothing was typed
    assert ("queue_edit_kept" in [finding["code"] for finding in kept["findings"]]) is is_kept
    assert error["hint"].startswith("everything is back in the queue as it was")
    assert ("what you typed is in" in error["hint"]) is is_kept
    if is_kept:
        assert error["details"]["file"] in error["hint"]
        assert Path(error["details"]["file"]).exists()
    assert world.lash("queue", "edit", "--recover", "-o", "json").json["items"] == []
    assert world.waiting() == ["a", "b"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_editor_and_puts_the_originals_back(
    world: QueuedHome, editor: Editor, number: signal.Signals
) -> None:
    one = world.add("a")

    def interrupt(process: subprocess.Popen[bytes]) -> None:
        wait_until(editor.seen.exists, process)
        os.kill(process.pid, number)

    done = edit(world, one, "-o", "json", env=editor.does("time.sleep(600)"), on_start=interrupt)
    assert (done.code, done.error["code"]) == (128 + number, "edit_interrupted")
    assert world.waiting() == ["a"]


def test_ctrl_c_belongs_to_the_editor(world: QueuedHome, editor: Editor) -> None:
    one = world.add("a")
    stopped = "os.kill(os.getppid(), signal.SIGINT); lines[-2] = 'edited all the same'"
    assert edit(world, one, env=editor.does(stopped)).code == 0
    assert world.waiting() == ["edited all the same"]


def test_a_session_that_is_closed_meanwhile_keeps_the_texts_for_recovery(world: QueuedHome, editor: Editor) -> None:
    one = world.add("a")
    close = """
lash('close', 's')
lines[-2] = 'edited'
"""
    done = edit(world, one, "-o", "json", env=editor.does(close))
    assert (done.code, done.error["code"]) == (4, "session_closed")
    assert "lash queue edit --recover" in done.error["hint"]
    told(world.lash("queue", "edit", "--recover", "-o", "json"), 4, "session_closed")
    assert world.lash("resume", "s").code == 0
    (row,) = world.lash("queue", "edit", "--recover", "-o", "json").json["items"]
    assert (row["outcome"], len(row["inputs"])) == ("put_back", 1)
    assert world.waiting() == ["edited"]


def test_a_session_that_is_deleted_meanwhile_leaves_its_texts_in_a_file(world: QueuedHome, editor: Editor) -> None:
    one = world.add("a")
    delete = """
lash('rm', 's', '--yes')
lines[-2] = 'edited'
"""
    done = edit(world, one, "-o", "json", env=editor.does(delete))
    assert (done.code, done.error["code"]) == (3, "session_deleted")
    (row,) = world.lash("queue", "edit", "--recover", "-o", "json").json["items"]
    assert row["outcome"] == "session_gone" and "edited" in Path(row["file"]).read_text()
    assert world.lash("queue", "edit", "--recover", "-o", "json").json["items"] == []


def test_without_a_terminal_and_a_file_the_store_is_not_touched(world: QueuedHome, editor: Editor) -> None:
    one = world.add("a")
    before = world.states()
    told(world.lash("queue", "edit", one, "-o", "json", env=editor.does("")), 2, "not_a_tty")
    told(world.lash("queue", "edit", "in_nope", "-o", "json", env=editor.does("")), 2, "not_a_tty")
    done = edit(world, one, "--no-input", "-o", "json", env=editor.does(""))
    assert done.error["code"] == "not_a_tty"
    missing = edit(world, one, "-o", "json", env={"VISUAL": "/no/such/editor"})
    assert (missing.code, missing.error["code"]) == (5, "editor_missing")
    assert world.states() == before and leftovers(world) == []


def test_a_file_without_blocks_is_the_new_text_of_the_named_input(world: QueuedHome, tmp_path: Path) -> None:
    world.add("a")
    two = world.add("b")
    world.add("c")
    (tmp_path / "new").write_text("b, edited\nin two lines\n")
    done = world.lash("queue", "edit", two, "--file", str(tmp_path / "new"), "-o", "json")
    assert (done.code, done.json["changed"], done.json["dropped"]) == (0, True, [])
    assert world.waiting() == ["a", "b, edited\nin two lines\n", "c"]


def test_a_file_with_blocks_is_what_an_editor_would_have_left(world: QueuedHome, tmp_path: Path) -> None:
    one, two = world.add("a"), world.add("b")
    (tmp_path / "new").write_text(f"--- {two} ---\nb\n\n--- x ---\nadded\n")
    done = world.lash("queue", "edit", one, "--file", str(tmp_path / "new"), "-o", "json")
    assert done.json["dropped"] == [one]
    assert world.waiting() == ["b", "added"]


def test_a_used_text_that_does_not_decode_keeps_nobody_from_an_edit(world: QueuedHome, tmp_path: Path) -> None:
    used = world.add("used")
    assert world.lash("work", "s", "--until-empty").code == 0
    world.garble(used)
    (tmp_path / "new").write_text("changed")
    assert world.lash("queue", "edit", world.add("first"), "--file", str(tmp_path / "new")).code == 0
    assert world.waiting() == ["changed"]


def test_what_cannot_be_edited_is_refused_and_nothing_changes(world: QueuedHome, tmp_path: Path) -> None:
    new, empty, binary = tmp_path / "new", tmp_path / "empty", tmp_path / "binary"
    new.write_text("changed")
    empty.write_text(" \n")
    binary.write_bytes(b"ab\xff")
    one = world.add("a")
    for file, code in ((tmp_path / "nope", "usage"), (empty, "empty_prompt"), (binary, "usage"), (tmp_path, "usage")):
        told(world.lash("queue", "edit", one, "--file", str(file), "-o", "json"), 2, code)
    told(world.lash("queue", "edit", "-o", "json"), 2, "usage")
    told(world.lash("queue", "edit", one, "--recover", "-o", "json"), 2, "usage")
    told(world.lash("queue", "edit", "in_nope", "--file", str(new), "-o", "json"), 3, "input_not_found")
    world.take(turn_id="t_1", is_alive=False)
    told(world.lash("queue", "edit", one, "--file", str(new), "-o", "json"), 4, "input_already_claimed")
    world.add("behind")
    told(world.lash("queue", "edit", one, "--file", str(new), "-o", "json"), 4, "input_already_claimed")
    assert world.waiting() == ["behind"]
    assert world.lash("resume", "s", "-q").code == 0
    told(world.lash("queue", "edit", one, "--file", str(new), "-o", "json"), 4, "input_already_completed")
    assert world.waiting() == ["behind"]
    assert leftovers(world) == []


def test_a_closed_session_is_not_edited(world: QueuedHome, tmp_path: Path) -> None:
    (tmp_path / "new").write_text("changed")
    one = world.add("a")
    assert world.lash("close", "s").code == 0
    told(world.lash("queue", "edit", one, "--file", str(tmp_path / "new"), "-o", "json"), 4, "session_closed")
    assert world.states() == {"a": "deferred_next_turn"}


KILLED = """
import os, signal
from lash_cli.api.queue import SessionQueue
from lash_cli.cli import edit_rows, queue_edit
from lash_cli.cli.edit_journal import EditJournal
from lash_cli.store.sqlite import enqueueing

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def before(owner, name, at=1):
    real = getattr(owner, name)
    calls = []
    def dying(*args, **options):
        calls.append(1)
        if len(calls) == at:
            die()
        return real(*args, **options)
    setattr(owner, name, dying)

if point == "before-journal":
    before(EditJournal, "create")
elif point == "before-cancel":
    before(SessionQueue, "cancel_inputs")
elif point == "after-cancel":
    before(EditJournal, "record_taken")
elif point == "before-deciding":
    before(EditJournal, "decide")
elif point == "before-first":
    before(SessionQueue, "enqueue_all")
elif point == "after-first":
    before(enqueueing, "enqueue", 2)
elif point == "after-last":
    before(EditJournal, "finish")
elif point == "after-forgetting":
    before(queue_edit, "forget_text")
"""
POINTS = {
    "before-journal": ["a", "b", "c"],
    "before-cancel": ["a", "b", "c"],
    "after-cancel": ["a", "b", "c"],
    "before-deciding": ["a", "b", "c"],
    "before-first": ["c", "B", "a"],
    "after-first": ["c", "B", "a"],
    "after-last": ["c", "B", "a"],
    "after-forgetting": ["c", "B", "a"],
}


def kill_edit(world: QueuedHome, tmp_path: Path, point: str, input_id: str) -> None:
    """Edit from the file `new` and die at `point`."""
    command = ("queue", "edit", input_id, "--file", str(tmp_path / "new"))
    with world.spawn(*command, first=f"point = {point!r}\n{KILLED}") as killed:
        _, err = killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL, err


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_any_point_loses_no_text_and_doubles_none(world: QueuedHome, tmp_path: Path, point: str) -> None:
    one, two, three = (world.add(text) for text in ("a", "b", "c"))
    (tmp_path / "new").write_text(f"--- {three} ---\nc\n--- {two} ---\nB\n--- {one} ---\na\n")
    kill_edit(world, tmp_path, point, one)
    if point not in ("before-journal", "after-forgetting"):
        shown = world.lash("queue", "ls", "s")
        assert "lash queue edit --recover" in shown.err
        doctor = world.lash("doctor", "-o", "json").json
        assert [edit["session"] for edit in doctor["unfinished_edits"]] == ["s"]
        assert "queue_edit_unfinished" in [finding["code"] for finding in doctor["findings"]]
    for _ in range(2):
        assert world.lash("queue", "edit", "--recover").code == 0
        assert world.waiting() == POINTS[point]
    assert world.lash("doctor", "-o", "json").json["unfinished_edits"] == []
    assert [name for name in leftovers(world) if not name.endswith(".txt")] == []


def test_a_kill_while_the_editor_is_open_keeps_what_was_typed_beside_the_originals(
    world: QueuedHome, editor: Editor
) -> None:
    one = world.add("a")
    world.add("b")
    kill = (
        "lines[-2] = 'typed and saved'; open(path, 'w').write('\\n'.join(lines)); os.kill(os.getppid(), signal.SIGKILL)"
    )
    done = edit(world, one, env=editor.does(kill, saves=False))
    assert done.code == -signal.SIGKILL
    assert world.waiting() == []
    (row,) = world.lash("queue", "edit", "--recover", "-o", "json").json["items"]
    assert (row["outcome"], len(row["inputs"])) == ("put_back", 2)
    assert "typed and saved" in Path(row["file"]).read_text()
    assert stat.S_IMODE(os.stat(row["file"]).st_mode) == 0o600
    assert world.waiting() == ["a", "b"]


def test_what_was_typed_into_an_edit_that_was_killed_is_kept_where_the_session_is_deleted(
    world: QueuedHome, editor: Editor
) -> None:
    one = world.add("a")
    kill = (
        "lines[-2] = 'typed and saved'; open(path, 'w').write('\\n'.join(lines)); os.kill(os.getppid(), signal.SIGKILL)"
    )
    assert edit(world, one, env=editor.does(kill, saves=False)).code == -signal.SIGKILL
    assert world.lash("rm", "s", "--yes").code == 0
    (row,) = world.lash("queue", "edit", "--recover", "-o", "json").json["items"]
    assert row["outcome"] == "session_gone"
    kept = Path(row["file"]).read_text()
    assert f"--- {one} ---\na\n" in kept and f"--- {one} ---\ntyped and saved\n" in kept
    assert stat.S_IMODE(os.stat(row["file"]).st_mode) == 0o600


def test_a_journal_without_its_name_goes_with_the_next_edit_unless_somebody_is_just_naming_it(
    world: QueuedHome, home: Path, tmp_path: Path
) -> None:
    one = world.add("a")
    (tmp_path / "new").write_text(f"--- {one} ---\nb\n")
    dead, living = home / "edits" / "dead.journal.new", home / "edits" / "living.journal.new"
    dead.parent.mkdir(0o700)
    dead.touch()
    with living.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert world.lash("queue", "edit", one, "--file", str(tmp_path / "new")).code == 0
    assert (dead.exists(), living.exists(), world.waiting()) == (False, True, ["b"])
    assert world.lash("queue", "edit", "--recover").code == 0
    assert not living.exists()


def test_an_edit_that_somebody_is_busy_with_is_not_recovered(world: QueuedHome, editor: Editor) -> None:
    one = world.add("a")
    recover = "lines[-2] = lash('queue', 'edit', '--recover', '-o', 'json')"
    assert edit(world, one, env=editor.does(recover)).code == 0
    (text,) = world.waiting()
    assert '"items":[]' in text


def test_an_edit_killed_before_its_cancel_puts_nothing_back(world: QueuedHome, tmp_path: Path) -> None:
    one = world.add("a")
    (tmp_path / "new").write_text("changed")
    kill_edit(world, tmp_path, "before-cancel", one)
    (row,) = world.lash("queue", "edit", "--recover", "-o", "json").json["items"]
    assert row["inputs"] == [] and world.waiting() == ["a"]


@pytest.mark.parametrize("other", ["cancel", "edit"])
def test_what_others_take_out_after_an_edit_was_killed_before_its_cancel_stays_theirs(
    world: QueuedHome, tmp_path: Path, other: str
) -> None:
    one = world.add("a")
    (tmp_path / "new").write_text("changed")
    kill_edit(world, tmp_path, "before-cancel", one)
    if other == "cancel":
        assert world.lash("queue", "cancel", one).code == 0
    else:
        assert world.lash("queue", "edit", one, "--file", str(tmp_path / "new")).code == 0
    expected = [] if other == "cancel" else ["changed"]
    (row,) = world.lash("queue", "edit", "--recover", "-o", "json").json["items"]
    assert row["inputs"] == [] and world.waiting() == expected


def test_the_journal_of_an_older_program_puts_back_what_is_cancelled(world: QueuedHome, tmp_path: Path) -> None:
    one = world.add("a")
    (tmp_path / "new").write_text("changed")
    kill_edit(world, tmp_path, "before-cancel", one)
    (journal,) = (path for path in (world.home / "edits").iterdir() if path.suffix == ".journal")
    text = journal.read_text()
    assert ',"is_signed":true' in text
    journal.write_text(text.replace(',"is_signed":true', ""))
    assert world.lash("queue", "cancel", one).code == 0
    assert world.lash("queue", "edit", "--recover").code == 0
    assert world.waiting() == ["a"]


def test_a_text_whose_cancelled_row_was_vacuumed_before_the_recovery_goes_back(
    world: QueuedHome, tmp_path: Path
) -> None:
    one = world.add("a")
    (tmp_path / "new").write_text("changed")
    kill_edit(world, tmp_path, "after-cancel", one)
    world.store(lambda store: store.vacuum("s"))
    assert world.states() == {}
    assert world.lash("queue", "edit", "--recover").code == 0
    assert world.waiting() == ["a"]
