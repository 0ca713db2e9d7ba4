"""A file a command was told to write and cannot: one code and one status for each reason, whichever verb it is
(contract 08 §6.2, §6.4), and nothing is left behind. A full disk is in `test_full_disk`."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from support.cli import run_lash
from support.unprivileged import run_unprivileged

from lash_cli.cli.chat_record import ChatRecording
from lash_cli.cli.out_files import check_writable, write_out
from lash_cli.errors import LashError
from lash_cli.paths import unusable_path, unwritten_file

# Every verb and option with which somebody names a file to be written; `chat --record` needs a terminal and is below.
WRITES = (
    "export s --out {place}",
    "export s --as json --replace --out {place}",
    "trace html {trace} --out {place}",
    "db backup --out {place}",
    "turn s again --out {place}",
    "turn s again --usage-file {place}",
    "turn s again --trace {place}",
    "tail s --no-follow --save-cursor {place}",
)
# A directory in its place, and below a file. `turn --trace` alone makes the directories that are missing.
PLACES = ("directory", "file/below", "missing/below")


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a home of one session, the trace of its turn, a directory and a file."""
    place = tmp_path_factory.mktemp("unwritable")
    assert run_lash(("turn", "s", "--or-open", "hi", "--trace", str(place / "trace")), home=place / "home").code == 0
    (place / "directory").mkdir()
    (place / "file").write_text("kept")
    return place


def named(seeded: Path, command: str, place: str) -> tuple[str, ...]:
    form = "jsonl" if command.startswith("tail") else "json"
    return tuple(word.format(place=seeded / place, trace=seeded / "trace") for word in (*command.split(), "-o", form))


@pytest.mark.parametrize("command", WRITES)
def test_what_lash_itself_keeps_is_replaced_by_no_verb(seeded: Path, command: str) -> None:
    for ours in ("config.toml", "keys.toml"):
        (seeded / "home" / ours).touch(0o600)
    (seeded / "link").symlink_to(seeded / "home" / "lash.db")
    try:
        for place in ("home/lash.db", "home/lash.db-wal", "home/config.toml", "home/keys.toml", "link"):
            before = (seeded / place).read_bytes() if (seeded / place).exists() else None
            done = run_lash(named(seeded, command, place), home=seeded / "home")
            assert (done.code, done.out, done.error["code"]) == (2, "", "output_unwritable"), (place, done.err)
            assert before == ((seeded / place).read_bytes() if (seeded / place).exists() else None)
    finally:
        (seeded / "link").unlink()
    assert run_lash(("show", "s", "-o", "json"), home=seeded / "home").json["turns"] == 1, "nothing was sent"


@pytest.mark.parametrize("command", WRITES)
def test_a_place_that_cannot_take_a_file_is_told_alike_by_every_verb(seeded: Path, command: str) -> None:
    for place in PLACES:
        if place == "missing/below" and "--trace" in command:
            continue
        done = run_lash(named(seeded, command, place), home=seeded / "home")
        assert (done.code, done.out, done.error["code"]) == (2, "", "output_unwritable"), (place, done.err)
        assert str(seeded / place) in done.error["message"] and "directory" in done.error["hint"]
        assert (done.error["ambiguous"], done.error["details"]) == (False, {"path": str(seeded / place)})
    assert sorted(path.name for path in seeded.iterdir()) == ["directory", "file", "home", "trace"]
    assert list((seeded / "directory").iterdir()) == [] and (seeded / "file").read_text() == "kept"
    assert run_lash(("show", "s", "-o", "json"), home=seeded / "home").json["turns"] == 1, "nothing was sent"


# A process of its own each: one for each way in which the verbs look or write.
@pytest.mark.parametrize("command", [WRITES[0], WRITES[2], *WRITES[6:]])
def test_a_place_of_somebody_else_is_a_matter_of_permissions_for_every_verb(seeded: Path, command: str) -> None:
    (seeded / "directory").chmod(0o500)
    try:
        done = run_unprivileged(*named(seeded, command, "directory/file"), home=seeded / "home")
    finally:
        (seeded / "directory").chmod(0o700)
    assert (done.code, done.out, done.error["code"]) == (5, "", "permissions_unsafe"), done.err
    assert done.error["hint"].startswith("name a file where you may write")


def test_a_copy_that_its_place_does_not_take_after_all_is_named_another_one(seeded: Path) -> None:
    """No mode says of this place that it takes no file."""
    done = run_lash(("db", "backup", "--out", "/proc/copy.db", "-o", "json"), home=seeded / "home")
    assert done.code != 0 and done.error["hint"].startswith("name a"), done.err


def test_a_disk_that_is_only_read_is_told_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = os.statvfs(tmp_path)
    read_only = os.statvfs_result((*disk[:8], disk.f_flag | os.ST_RDONLY, disk[9]))
    monkeypatch.setattr(os, "statvfs", lambda _: read_only)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(LashError) as caught:
        check_writable(str(tmp_path / "answer"))
    assert (caught.value.code, os.strerror(errno.EROFS) in caught.value.message) == ("permissions_unsafe", True)


def test_a_recording_is_refused_like_any_other_file(seeded: Path) -> None:
    for place in PLACES:
        with pytest.raises(LashError) as caught:
            ChatRecording(str(seeded / place))
        assert (caught.value.exit_status, caught.value.code) == (2, "output_unwritable")


@pytest.mark.parametrize(
    ("number", "status", "code"),
    [
        *((number, 2, "output_unwritable") for number in (errno.ENOENT, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)),
        *((number, 5, "permissions_unsafe") for number in (errno.EACCES, errno.EPERM, errno.EROFS)),
        *((number, 1, "output_not_written") for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)),
    ],
)
def test_why_a_file_was_not_written_decides_the_status(number: int, status: int, code: str) -> None:
    told = unwritten_file("file", OSError(number, "why"))
    assert (told.exit_status, told.code, told.message) == (status, code, "cannot write file: why")
    assert ("make room" in told.hint) == (number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


@pytest.mark.parametrize(
    ("number", "status", "code", "next_step"),
    [
        *((number, 5, "permissions_unsafe", "--home DIR") for number in (errno.EACCES, errno.EROFS, errno.ENOTDIR)),
        *((number, 1, "output_not_written", "make room") for number in (errno.ENOSPC, errno.EDQUOT)),
        (errno.EIO, 1, "output_not_written", "that disk"),
    ],
)
def test_a_file_of_lash_itself_is_a_matter_of_permissions_only_where_it_is(
    number: int, status: int, code: str, next_step: str
) -> None:
    told = unusable_path("file", OSError(number, "why"), "write")
    assert (told.exit_status, told.code, told.message) == (status, code, "cannot write file: why")
    assert next_step in (told.hint or "")


def test_what_a_killed_process_of_the_same_number_left_is_in_nobodys_way(tmp_path: Path) -> None:
    """In a container every process may have the same number."""
    (tmp_path / f"answer.txt.{os.getpid()}.new").touch()
    write_out(str(tmp_path / "answer.txt"), b"done")
    assert (tmp_path / "answer.txt").read_bytes() == b"done"
