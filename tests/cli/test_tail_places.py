"""The place a tail keeps in a file, and goes on from (contract 08 §5.1, §6.5; 04 §11)."""

from __future__ import annotations

import json
import os
import random
import resource
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from support.cli import spawn_lash
from support.prepared import OPEN, prepare
from support.tailing import GENESIS, PATIENCE_S, SILENT, foreign_epoch, payload, types

from lash_cli.cli.tail_cursor import CursorFile
from lash_cli.core.observation import SessionCursor
from lash_cli.errors import LashRuntimeError

KILLS = 4
LONGEST_LIFE_S = 0.4


def test_a_killed_and_resumed_tail_tells_what_an_unbroken_one_tells(lash, home: Path, tailing, tmp_path: Path) -> None:
    prepare(home, OPEN)
    place = tmp_path / "place"
    unbroken = tailing("s")
    moments = random.Random(20_261_126)
    told: list[Any] = []
    lash("tail", "s", "--no-follow", "--save-cursor", str(place))
    gate = tmp_path / "gate"
    words = "!text " + "word " * 60 + "\n!stream 60 0.03\n!tool glob {}"
    turn = spawn_lash(["turn", "s", f"{words}\n!then\n!wait-file {gate}\n!text last"], home=home, **SILENT)
    for number in range(KILLS + 1):
        is_over = number == KILLS
        if is_over:
            gate.touch()
            assert turn.wait(PATIENCE_S) == 0
        args = ["tail", "s", "-o", "jsonl", "--save-cursor", str(place), *(["--no-follow"] if is_over else [])]
        with spawn_lash(args, home=home, stderr=subprocess.DEVNULL) as tail:
            assert tail.stdout is not None
            out = tail.stdout.readline()
            if not is_over:
                time.sleep(moments.random() * LONGEST_LIFE_S)
                tail.kill()
            out += tail.stdout.read()
        whole = out.decode().splitlines(keepends=True)
        told.extend(json.loads(line) for line in whole if line.endswith("\n"))
    last = unbroken.until("turn_finished")
    assert told[-2]["cursor"] == last["cursor"]
    # The item that was shown last before a kill may be shown once more; it has the same cursor.
    items = {line["cursor"]: payload(line) for line in told if line["type"] not in ("stream_start", "stream_end")}
    expected = {line["cursor"]: payload(line) for line in unbroken.lines[1:]}
    assert types(told).count("stream_start") == KILLS + 1
    if "gap" not in types(told):
        assert list(items.items()) == list(expected.items())
    assert place.stat().st_mode & 0o777 == 0o600 and place.read_text() == f"{last['cursor']}\n"


def test_a_strict_tail_ends_at_a_gap_and_keeps_its_place(lash, home: Path, tmp_path: Path) -> None:
    prepare(home, OPEN)
    cursor = lash("turn", "s", "hi", "-o", "jsonl").lines[-2]["cursor"]
    place = tmp_path / "place"
    place.write_text(foreign_epoch(cursor))
    for _ in range(2):
        result = lash("tail", "s", "--save-cursor", str(place), "--strict-gap", "-o", "jsonl")
        assert types(result.lines) == ["stream_start", "gap", "snapshot", "stream_end"]
        assert result.code == result.lines[-1]["exit"] == 4 and result.error["code"] == "observation_gap"


@pytest.mark.parametrize("content", ["", "lashsc2:half", f"lashsc2:{GENESIS}:0:0:other\n"])
def test_a_cursor_file_that_is_no_place_of_this_session_is_refused(
    lash, home: Path, tmp_path: Path, content: str
) -> None:
    prepare(home, OPEN)
    place = tmp_path / "place"
    place.write_text(content)
    result = lash("tail", "s", "--save-cursor", str(place), "-o", "jsonl")
    assert (result.code, result.out, result.error["code"]) == (2, "", "cursor_invalid")
    assert place.read_text() == content
    assert lash("tail", "s", "--save-cursor", str(place), "--from", "now", "--no-follow").code == 0
    assert place.read_text().startswith("lashsc2:")


@pytest.mark.parametrize("begin", [(), ("--from", "now")])
@pytest.mark.parametrize("content", [b"rubbish\n", b"\n\nlash", b"SQLite format 3\0" + b"\xff" * 2_000_000])
def test_what_is_no_cursor_file_is_never_replaced(
    lash, home: Path, tmp_path: Path, content: bytes, begin: tuple[str, ...]
) -> None:
    prepare(home, OPEN)
    place = tmp_path / "place"
    place.write_bytes(content)
    result = lash("tail", "s", "--save-cursor", str(place), "--no-follow", *begin, "-o", "jsonl")
    assert (result.code, result.out, result.error["code"]) == (2, "", "cursor_invalid")
    assert place.read_bytes() == content


@pytest.mark.parametrize("kind", ["device", "pipe", "descriptor", "nameless"])
def test_a_place_is_kept_in_nothing_but_a_file(lash, home: Path, tmp_path: Path, kind: str) -> None:
    prepare(home, OPEN)
    place = tmp_path / "place"
    if kind == "device":
        place.symlink_to("/dev/null")
    elif kind == "pipe":
        os.mkfifo(place)
    before = os.lstat(place).st_mode if kind in ("device", "pipe") else None
    named = {"descriptor": "/dev/fd/1", "nameless": ""}.get(kind, str(place))
    for begin in ((), ("--from", "now")):
        result = lash("tail", "s", "--save-cursor", named, "--no-follow", *begin, "-o", "jsonl")
        assert (result.code, result.out, result.error["code"]) == (2, "", "usage")
    if before is not None:
        assert os.lstat(place).st_mode == before and stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_link_to_a_cursor_file_stays_a_link(lash, home: Path, tmp_path: Path) -> None:
    prepare(home, OPEN)
    place, link = tmp_path / "place", tmp_path / "link"
    link.symlink_to(place)
    for _ in range(2):
        assert lash("tail", "s", "--save-cursor", str(link), "--no-follow").code == 0
        assert link.is_symlink() and place.read_text().startswith("lashsc2:")


def test_a_place_that_cannot_be_kept_is_told(lash, home: Path, tailing, tmp_path: Path) -> None:
    prepare(home, OPEN)
    directory = tmp_path / "places"
    directory.mkdir()
    tail = tailing("s", "--save-cursor", str(directory / "place"))
    lash("enqueue", "s", "first")
    tail.until("queue_changed")
    directory.rename(tmp_path / "elsewhere")  # in one step, whatever the tail has just put into it
    lash("enqueue", "s", "news")
    end = tail.rest()[-1]
    assert (end["type"], end["reason"], end["exit"], tail.process.returncode) == ("stream_end", "error", 1, 1)
    assert end["error"]["code"] == "cursor_not_saved"


def test_a_full_disk_leaves_the_place_as_it_was_and_nothing_beside_it(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.write_text(f"lashsc2:{GENESIS}:0:0:s\n")
    cursors = CursorFile(str(place))
    begin = cursors.load(is_wanted=True)
    assert begin is not None
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8, hard))
    try:
        with pytest.raises(LashRuntimeError) as refused:
            cursors.save(begin.cursors["s"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert refused.value.code == "cursor_not_saved"
    assert place.read_text() == f"lashsc2:{GENESIS}:0:0:s\n" and os.listdir(tmp_path) == ["place"]


def test_the_places_of_very_many_sessions_are_all_kept(tmp_path: Path) -> None:
    place = tmp_path / "places"
    names = [f"session-{number}-{'x' * 100}" for number in range(10_000)]
    cursors = CursorFile(str(place))
    for name in names:
        cursors.note(SessionCursor(GENESIS, 0, 0, name))
    cursors.write()
    begin = CursorFile(str(place)).load(is_wanted=True)
    assert begin is not None and list(begin.cursors) == names


def test_a_tail_of_all_that_is_killed_early_loses_no_place(lash, home: Path, tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        lash("open", name)
    place = tmp_path / "places"
    lash("tail", "--all", "--save-cursor", str(place), "--no-follow")
    kept = set(place.read_text().splitlines())
    assert len(kept) == 3
    cursors = CursorFile(str(place))
    begin = cursors.load(is_wanted=True)
    assert begin is not None
    # As far as a tail comes that is killed behind the first session it begins with.
    cursors.save(begin.cursors["two"])
    assert set(place.read_text().splitlines()) == kept
    lash("rm", "one", "--yes")
    lash("tail", "--all", "--save-cursor", str(place), "--no-follow")
    assert {line.rpartition(":")[2] for line in place.read_text().splitlines()} == {"two", "three"}
