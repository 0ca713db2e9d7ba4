# ruff: noqa: ASYNC230 - tests may block on their small files
"""read_file, write and edit on real files (contract 05 §6)."""

from __future__ import annotations

import asyncio
import concurrent.futures.thread  # noqa: F401 - its file may be out of reach of nobody
import errno
import gc
import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.tools import Workbench, failure_of, value_of

from lash_cli.core.content import Inline
from lash_cli.core.tools import FailureClass, NeverRetry, SafeRetry, ToolSuccess
from lash_cli.tools import edits as edits_module
from lash_cli.tools import files, writing
from lash_cli.tools.schema import ArgumentsInvalid, check_schema, validate_value

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    return Workbench(tmp_path)


def test_manifests_say_what_the_contract_says(bench: Workbench) -> None:
    by_name = {manifest.name: manifest for manifest in bench.provider.manifests()}
    assert set(by_name) == {"read_file", "write", "edit", "glob", "grep", "exec_command"}
    assert by_name["read_file"].retry_policy == SafeRetry(2, 25, 100)
    assert {by_name[name].approval for name in ("read_file", "glob", "grep")} == {"read"}
    assert {by_name[name].approval for name in ("write", "edit")} == {"write"}
    assert by_name["exec_command"].approval == "execute"
    for name in ("write", "edit", "exec_command"):
        assert by_name[name].retry_policy == NeverRetry()
    for manifest in by_name.values():
        assert manifest.id == f"builtin.{manifest.name}"
        schema = bench.provider.contract(manifest.id).input_schema
        check_schema(schema)
        assert schema["additionalProperties"] is False
        assert all("description" in field for field in schema["properties"].values()), manifest.name


def test_unknown_fields_of_an_edit_are_refused_by_the_schema(bench: Workbench) -> None:
    schema = bench.provider.contract("builtin.edit").input_schema
    validate_value({"path": "a", "edits": [{"oldText": "a", "newText": "b"}]}, schema)
    for edits in ([], [{"oldText": "", "newText": "b"}], [{"oldText": "a", "newText": "b", "all": True}]):
        with pytest.raises(ArgumentsInvalid):
            validate_value({"path": "a", "edits": edits}, schema)


async def test_lines_are_numbered(bench: Workbench) -> None:
    bench.write("a.txt", "\ufeffone\r\ntwo\n\nfour")
    assert value_of(await bench.call("read_file", path="a.txt")) == "1: one\n2: two\n3: \n4: four"


async def test_offset_and_limit_select_and_say_how_to_continue(bench: Workbench) -> None:
    bench.write("a.txt", "".join(f"l{n}\n" for n in range(1, 10)))
    value = value_of(await bench.call("read_file", path="a.txt", offset=3, limit=2))
    assert value == "3: l3\n4: l4\n(more lines follow; continue with offset=5)"
    assert value_of(await bench.call("read_file", path="a.txt", offset=8, limit=2)) == "8: l8\n9: l9"


async def test_an_offset_past_the_end_is_an_error(bench: Workbench) -> None:
    bench.write("a.txt", "one\n")
    bench.write("empty", "")
    assert "has 1 lines" in failure_of(await bench.call("read_file", path="a.txt", offset=2)).message
    assert failure_of(await bench.call("read_file", path="empty", offset=2)).code == "offset_past_end"
    assert value_of(await bench.call("read_file", path="empty")) == "(empty file)"


async def test_long_lines_are_cut_between_characters(bench: Workbench) -> None:
    bench.write("a.txt", "x" + "é" * 5000 + "\nnext\n")
    first, second = value_of(await bench.call("read_file", path="a.txt")).split("\n")
    assert first == "1: x" + "é" * 999 + "..."
    assert second == "2: next"


async def test_only_the_end_of_a_line_is_left_out(bench: Workbench) -> None:
    bench.write("f", b"a\r\r\n" + b"x" * 2000 + b"\r\rmore\n")
    first, second = value_of(await bench.call("read_file", path="f")).split("\n")
    assert (first, second) == ("1: a\r", "2: " + "x" * 2000 + "...")


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
async def test_a_line_far_down_is_found_where_it_is(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setattr(files, "SKIPPED_BYTES", 7)
    lines = [f"line {'x' * (number % 11)}{number}" for number in range(1, 60)]
    bench.write("f", ("\r\n" if end == "\r\n" else "\n").join(lines) + end)
    for number in range(1, 60):
        shown = value_of(await bench.call("read_file", path="f", offset=number, limit=1))
        assert shown.split("\n")[0] == f"{number}: {lines[number - 1]}"
    refused = failure_of(await bench.call("read_file", path="f", offset=60))
    assert refused.code == "offset_past_end" and "has 59 lines" in refused.message


async def test_what_is_no_text_at_the_end_of_a_line_just_below_the_cap_is_shown_as_such(bench: Workbench) -> None:
    bench.write("a.txt", b"x" * 1997 + "é".encode()[:1])
    assert value_of(await bench.call("read_file", path="a.txt")) == f"1: {'x' * 1997}\ufffd"


async def test_text_of_exactly_the_size_cap_is_whole(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.write("a.txt", "abc\ndef\n")
    monkeypatch.setattr(files, "READ_BYTES", len("1: abc\n2: def\n"))
    assert value_of(await bench.call("read_file", path="a.txt")) == "1: abc\n2: def"


async def test_a_line_of_exactly_the_cap_is_whole(bench: Workbench) -> None:
    bench.write("a.txt", "x" * files.LINE_BYTES + "\r\nnext")
    assert value_of(await bench.call("read_file", path="a.txt")) == "1: " + "x" * files.LINE_BYTES + "\n2: next"


async def test_the_size_cap_is_kept_and_every_line_can_be_reached(bench: Workbench) -> None:
    bench.write("a.txt", "".join(f"{n} {'é' * 48}\n" for n in range(1, 1501)))
    offset, seen = 1, []
    while True:
        value = value_of(await bench.call("read_file", path="a.txt", offset=offset))
        assert len(value.encode()) < files.READ_BYTES + 100
        *lines, last = value.split("\n")
        seen += [int(line.split(":")[0]) for line in lines]
        if not last.startswith("("):
            seen.append(int(last.split(":")[0]))
            break
        offset = int(last.split("=")[1].rstrip(")"))
    assert seen == list(range(1, 1501))


async def test_a_directory_is_listed(bench: Workbench) -> None:
    bench.write("sub/b", "")
    bench.write("a", "")
    bench.write("Z", "")
    assert value_of(await bench.call("read_file", path=".")) == "Z\na\nsub/"
    (bench.root / "Z").unlink()
    assert value_of(await bench.call("read_file", path=".", limit=1)) == "a\n(1 more; continue with offset=2)"


async def test_of_a_large_directory_no_more_is_listed_than_of_a_file_is_read(bench: Workbench) -> None:
    names = sorted(f"{number:04}{'x' * 200}" for number in range(600))
    for name in names:
        bench.write(name, "")
    listed: list[str] = []
    while len(listed) < len(names):
        text = value_of(await bench.call("read_file", path=".", offset=len(listed) + 1))
        assert len(text) < files.READ_BYTES + 1000
        listed += [line for line in text.split("\n") if not line.startswith("(")]
    assert listed == names


async def test_a_name_of_several_lines_is_listed_on_one(bench: Workbench) -> None:
    bench.write("d/a\nb", "")
    bench.write("d/\x1b[31m/x", "")
    assert value_of(await bench.call("read_file", path="d")) == '"\\u001b[31m/"\n"a\\nb"'


async def test_links_that_lead_nowhere_are_listed_like_files(bench: Workbench) -> None:
    bench.write("d/e/f", "")
    (bench.root / "d" / "gone").symlink_to("nothing")
    (bench.root / "d" / "loop").symlink_to("loop")
    (bench.root / "d" / "long").symlink_to("x" * 300)
    (bench.root / "d" / "other").symlink_to("e")
    assert value_of(await bench.call("read_file", path="d")) == "e/\ngone\nlong\nloop\nother/"


class CancelledAtTheThirdLook:
    """A turn that is cancelled while a tool of it reads."""

    def __init__(self) -> None:
        self.looks = 0

    @property
    def is_set(self) -> bool:
        self.looks += 1
        return self.looks > 2

    async def wait(self) -> None:
        await asyncio.Event().wait()


@pytest.mark.parametrize("arguments", [{"path": "lines", "offset": 8}, {"path": "line"}, {"path": "."}])
async def test_reading_ends_when_nobody_wants_it_any_more(bench: Workbench, arguments: dict[str, Any]) -> None:
    bench.write("lines", "l\n" * 9)
    bench.write("line", "l" * 100_000)
    for number in range(9):
        bench.write(f"f{number}", "")
    bench.cancel = CancelledAtTheThirdLook()  # type: ignore[assignment]
    assert (await bench.call("read_file", **arguments)).status == "cancelled"


@pytest.mark.parametrize("arguments", [{"path": "endless", "offset": 9}, {"path": "endless"}, {"path": "."}])
async def test_reading_what_has_no_end_ends_in_time(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any]
) -> None:
    endless = bench.write("endless", "l\n" * 5000)
    os.truncate(endless, 2**40)
    for number in range(9):
        bench.write(f"f{number}", "")
    looked = iter(range(10**9))
    monkeypatch.setattr(bench.clock, "monotonic", lambda: float(next(looked)) * files.READ_SECONDS / 3)
    refused = failure_of(await bench.call("read_file", **arguments))
    assert (refused.code, refused.failure_class) == ("read_timeout", FailureClass.TIMEOUT)


async def test_an_image_is_attached_by_its_content(bench: Workbench) -> None:
    bench.write("picture.txt", PNG)
    output = await bench.call("read_file", path="picture.txt")
    assert isinstance(output.outcome, ToolSuccess)
    assert output.outcome.attachments == (Inline("image/png", PNG),)
    assert output.outcome.value == "picture.txt: image/png, 28 bytes, attached"


@pytest.mark.parametrize(
    ("head", "media_type"),
    [
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"GIF89a", "image/gif"),
        (b"RIFF0000WEBP", "image/webp"),
        (b"BM1234\0\0\0\0", "image/bmp"),
        (b"BMW is a car", None),
    ],
)
def test_images_are_known_by_their_first_bytes(head: bytes, media_type: str | None) -> None:
    assert files.image_type(head) == media_type


async def test_a_binary_file_is_refused_clearly_and_what_is_asked_for_is_attached(bench: Workbench) -> None:
    bench.write("a.pdf", b"%PDF-1.7\n")
    bench.write("a.bin", b"abc\0def")
    assert failure_of(await bench.call("read_file", path="a.bin")).code == "binary_file"
    output = await bench.call("read_file", path="a.pdf", attach_as="Application/PDF")
    assert output.outcome.attachments == (Inline("application/pdf", b"%PDF-1.7\n"),)  # type: ignore[union-attr]
    assert failure_of(await bench.call("read_file", path="a.pdf", attach_as="pdf")).code == "invalid_media_type"


@pytest.mark.parametrize("wanted", ["image/png", "image/jpeg", "image/gif", "image/webp", "application/pdf"])
async def test_nothing_is_attached_as_what_it_is_not(bench: Workbench, wanted: str) -> None:
    """Every provider refuses a conversation with such an attachment, for as long as the session lives."""
    bench.write("words", "these are words\n")
    bench.write("clip", b"\x1aE\xdf\xa3")
    bench.write("empty", "")
    bench.write("mail", b"\r\n%PDF-1.7\n")
    for path in ("words", "clip", "empty"):
        fault = failure_of(await bench.call("read_file", path=path, attach_as=wanted))
        assert (fault.failure_class, fault.code) == (FailureClass.INVALID_REQUEST, "wrong_media_type"), path
    assert failure_of(await bench.call("read_file", path="empty", attach_as="text/plain")).code == "wrong_media_type"
    own = (("words", "text/x-notes"), ("clip", "video/webm"), ("clip", "application/x-own"), ("mail", files.PDF))
    for path, kind in own:
        assert (await bench.call("read_file", path=path, attach_as=kind)).status == "success"


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("absent", "not_found"),
        ("fifo", "wrong_file_type"),
        ("socket", "wrong_file_type"),
        ("circle", "wrong_file_type"),
        ("../x", "path_outside_roots"),
    ],
)
async def test_what_cannot_be_read_says_why(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch, path: str, code: str
) -> None:
    monkeypatch.chdir(bench.root)  # a socket has a short path
    os.mkfifo("fifo")
    os.symlink("circle", "circle")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        opened = os.listdir("/dev/fd")
        assert failure_of(await bench.call("read_file", path=path)).code == code
        assert os.listdir("/dev/fd") == opened
        if path != "absent":
            assert failure_of(await bench.call("write", path=path, content="x")).code == code


async def test_write_creates_a_file_and_its_parents_with_the_modes_a_program_of_this_umask_gives(
    bench: Workbench,
) -> None:
    before = os.umask(0o027)
    try:
        value = value_of(await bench.call("write", path="a/b/c.txt", content="é\n"))
    finally:
        os.umask(before)
    path = bench.root / "a/b/c.txt"
    assert value == {"summary": "Created a/b/c.txt (3 bytes)", "path": str(path), "bytes": 3}
    assert path.read_bytes() == "é\n".encode()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o750


async def test_write_replaces_and_keeps_the_mode_and_the_link(bench: Workbench) -> None:
    path = bench.write("run.sh", "old")
    path.chmod(0o750)
    (bench.root / "link").symlink_to("run.sh")
    assert "Replaced" in value_of(await bench.call("write", path="link", content="new"))["summary"]
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o750
    assert (bench.root / "link").is_symlink()
    assert sorted(os.listdir(bench.root)) == ["link", "run.sh"]


async def test_a_write_that_fails_half_way_leaves_the_old_file_and_nothing_else(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bench.write("a.txt", "old")

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing.os, "fsync", full_disk)
    fault = failure_of(await bench.call("write", path="a.txt", content="new"))
    assert "No space left" in fault.message
    assert path.read_text() == "old"
    assert os.listdir(bench.root) == ["a.txt"]


async def test_directories_and_write_protected_files_are_not_replaced(bench: Workbench) -> None:
    (bench.root / "dir").mkdir()
    bench.write("locked", "old").chmod(0o444)
    bench.write("file", "")
    assert failure_of(await bench.call("write", path="dir", content="")).code == "wrong_file_type"
    assert failure_of(await bench.call("write", path="file/below", content="")).code == "wrong_file_type"
    assert failure_of(await bench.call("write", path="new/", content="")).code == "wrong_file_type"
    assert not (bench.root / "new").exists()
    fault = failure_of(await bench.call("write", path="locked", content="new"))
    assert fault.failure_class is FailureClass.PERMISSION_DENIED
    assert (bench.root / "locked").read_text() == "old"


async def test_a_file_that_may_not_be_written_is_not_replaced(nobodys_bench: Workbench) -> None:
    path = nobodys_bench.write("file", "old")
    path.chmod(0o464)  # the others may, its owner may not
    assert failure_of(await nobodys_bench.call("write", path="file", content="new")).code == "permission_denied"
    assert failure_of(await edit(nobodys_bench, "file", ("old", "new"))).code == "permission_denied"
    assert path.read_text() == "old"
    path.chmod(0o664)
    assert "Replaced" in value_of(await nobodys_bench.call("write", path="file", content="new"))["summary"]


async def test_of_somebody_elses_file_the_group_is_kept_and_no_right_to_become_its_owner(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []

    def fchown(_: int, owner: int, group: int) -> None:
        asked.append((owner, group))
        if owner != -1:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    path = bench.write("file", "old")
    path.chmod(0o6775)
    status = path.stat()
    monkeypatch.setattr(os, "fchown", fchown)
    value_of(await bench.call("write", path="file", content="new"))
    assert asked == [(status.st_uid, status.st_gid), (-1, status.st_gid)]
    assert stat.S_IMODE(path.stat().st_mode) == 0o775


async def test_what_is_written_is_reported_so_although_its_directory_cannot_be_synced(
    nobodys_bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    (nobodys_bench.root / "d").mkdir(mode=0o300)
    assert "Created" in value_of(await nobodys_bench.call("write", path="d/file", content="new"))["summary"]
    assert (nobodys_bench.root / "d" / "file").read_text() == "new"
    (nobodys_bench.root / "d").chmod(0o700)
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            asked.append((nobodys_bench.root / "d" / "file").read_text())
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        sync(descriptor)

    monkeypatch.setattr(writing.os, "fsync", fsync)
    asked: list[str] = []
    assert "Replaced" in value_of(await nobodys_bench.call("write", path="d/file", content="newer"))["summary"]
    assert asked == ["newer"]


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("read_file", {}),
        ("write", {"content": ""}),
        ("edit", {"edits": [{"oldText": "a", "newText": "b"}]}),
        ("glob", {"pattern": "*"}),
        ("grep", {"pattern": "a"}),
        ("exec_command", {"cmd": "true"}),
    ],
)
async def test_a_name_too_long_for_the_file_system_is_said_and_no_crash(
    bench: Workbench, tool: str, arguments: dict[str, Any]
) -> None:
    place = "workdir" if tool == "exec_command" else "path"
    failure = failure_of(await bench.call(tool, **{place: "x" * 300}, **arguments))
    assert failure.code == "io_error"
    assert failure.message.endswith("File name too long")


async def test_a_cancelled_write_does_not_happen(bench: Workbench) -> None:
    bench.cancel.set()
    assert (await bench.call("write", path="a", content="x")).status == "cancelled"
    assert os.listdir(bench.root) == []


async def test_a_call_cancelled_while_it_looks_at_the_file_writes_nothing(bench: Workbench) -> None:
    path = bench.write("f", "old")
    bench.cancel = CancelledAtTheThirdLook()  # type: ignore[assignment]
    assert (await edit(bench, "f", ("old", "new"))).status == "cancelled"
    assert path.read_text() == "old"


async def test_a_cut_write_still_ends_before_the_lock_is_free(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    entered, written = asyncio.Event(), []
    original = writing.os.fsync

    def slow(descriptor: int) -> None:
        loop.call_soon_threadsafe(entered.set)
        original(descriptor)
        written.append(descriptor)

    monkeypatch.setattr(writing.os, "fsync", slow)
    call = asyncio.ensure_future(bench.call("write", path="a", content="x"))
    await entered.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert written
    assert (bench.root / "a").read_text() == "x"


async def test_a_cut_write_that_fails_afterwards_is_nobodys_any_more(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    entered, go_on, complaints = asyncio.Event(), threading.Event(), []
    loop.set_exception_handler(lambda _, context: complaints.append(context))

    def full_disk(_: int) -> None:
        loop.call_soon_threadsafe(entered.set)
        go_on.wait()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(writing.os, "fsync", full_disk)
    call = asyncio.ensure_future(bench.call("write", path="a", content="x"))
    await entered.wait()
    call.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await call
    del call
    await asyncio.to_thread(lambda: None)  # the thread forgets what it did last
    gc.collect()
    assert complaints == []


async def edit(bench: Workbench, path: str, *pairs: tuple[str, str]) -> Any:
    return await bench.call("edit", path=path, edits=[{"oldText": old, "newText": new} for old, new in pairs])


async def test_edits_all_apply_to_the_original_and_the_diff_shows_them(bench: Workbench) -> None:
    path = bench.write("a.txt", "one\ntwo\nthree\n")
    value = value_of(await edit(bench, "a.txt", ("three", "two"), ("two", "2")))
    assert path.read_text() == "one\n2\ntwo\n"
    assert value["firstChangedLine"] == 2
    assert value["diff"] == "@@ -1,3 +1,3 @@\n one\n-two\n+2\n-three\n+two"
    assert value["patch"].startswith("--- a/a.txt\n+++ b/a.txt\n@@ ")


async def test_a_second_failing_edit_leaves_the_file_untouched(bench: Workbench) -> None:
    path = bench.write("a.txt", "one\ntwo\n")
    before = path.stat()
    assert failure_of(await edit(bench, "a.txt", ("one", "1"), ("absent", "x"))).code == "edit_not_found"
    after = path.stat()
    assert (path.read_text(), after.st_ino, after.st_mtime_ns) == ("one\ntwo\n", before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize(
    ("content", "pairs", "code"),
    [
        ("a a", [("a", "b")], "edit_not_unique"),
        ("aaa", [("aa", "b")], "edit_not_unique"),
        ("abc", [("ab", "x"), ("bc", "y")], "edit_overlap"),
        ("abc", [("abc", "abc")], "edit_no_change"),
        ("a\0b", [("a", "b")], "binary_file"),
        (b"caf\xe9", [("caf", "x")], "not_utf8"),
    ],
)
async def test_edits_that_cannot_be_meant_are_refused(
    bench: Workbench, content: Any, pairs: list[tuple[str, str]], code: str
) -> None:
    path = bench.write("a.txt", content)
    before = path.read_bytes()
    fault = failure_of(await edit(bench, "a.txt", *pairs))
    assert (fault.code, fault.failure_class) == (code, FailureClass.INVALID_REQUEST)
    assert path.read_bytes() == before


async def test_mark_and_line_endings_are_kept(bench: Workbench) -> None:
    path = bench.write("a.txt", b"\xef\xbb\xbfone\r\ntwo\r\nthree\r\n")
    await edit(bench, "a.txt", ("one\ntwo", "one\n2\n2b"))
    assert path.read_bytes() == b"\xef\xbb\xbfone\r\n2\r\n2b\r\nthree\r\n"


async def test_of_many_edits_no_more_are_looked_for_than_somebody_waits_for(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bench.write("a.txt", "".join(f"line {n};\n" for n in range(100)))
    before = path.read_bytes()
    looked_for: list[str] = []
    occurrences = edits_module._occurrences

    def cancelled_meanwhile(text: str, wanted: str) -> Iterator[tuple[int, int]]:
        looked_for.append(wanted)
        bench.cancel.set()
        return occurrences(text, wanted)

    monkeypatch.setattr(edits_module, "_occurrences", cancelled_meanwhile)
    output = await edit(bench, "a.txt", *((f"line {n};", f"changed {n};") for n in range(100)))
    assert (output.status, looked_for) == ("cancelled", ["line 0;"])
    assert path.read_bytes() == before


async def test_the_mode_is_kept(bench: Workbench) -> None:
    path = bench.write("a.sh", "one")
    path.chmod(0o755)
    await edit(bench, "a.sh", ("one", "two"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o755


@pytest.mark.parametrize("content", ["one, by somebody else\n", "one\nand more\n"])
async def test_a_file_changed_by_somebody_else_meanwhile_is_not_overwritten(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    path = bench.write("a.txt", "one\n")
    original = files.apply_edits

    def meddling(*arguments: Any) -> Any:
        edited = original(*arguments)
        path.write_text(content)
        return edited

    monkeypatch.setattr(files, "apply_edits", meddling)
    assert failure_of(await edit(bench, "a.txt", ("one", "1"))).code == "file_changed"
    assert path.read_text() == content
    assert os.listdir(bench.root) == ["a.txt"]


async def test_concurrent_edits_of_one_file_all_count(bench: Workbench) -> None:
    path = bench.write("a.txt", "".join(f"<{n}>\n" for n in range(20)))
    (bench.root / "alias").symlink_to("a.txt")
    outputs = await asyncio.gather(
        *(edit(bench, "alias" if n % 2 else "a.txt", (f"<{n}>", f"[{n}]")) for n in range(20))
    )
    assert [output.status for output in outputs] == ["success"] * 20
    assert path.read_text() == "".join(f"[{n}]\n" for n in range(20))


async def test_a_file_too_large_to_edit_is_a_resource_limit(bench: Workbench) -> None:
    with open(bench.root / "big", "wb") as file:
        file.truncate(files.EDIT_BYTES + 1)
    assert failure_of(await edit(bench, "big", ("a", "b"))).failure_class is FailureClass.RESOURCE_LIMIT


async def test_no_more_is_read_of_a_file_that_is_larger_than_it_says_than_may_be_edited(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bench.write("log", "old\n")
    monkeypatch.setattr(files, "EDIT_BYTES", 2**20)
    status = path.stat()  # of some files the system says nothing else
    path.write_text("old\n" + "more\n" * 2**18)
    monkeypatch.setattr(os, "fstat", lambda _: status)
    fault = failure_of(await edit(bench, "log", ("old", "new")))
    assert (fault.code, fault.message) == ("file_too_large", "log is larger than 1 MiB")
    assert path.read_text().startswith("old\n")


async def test_a_file_too_large_to_attach_is_a_resource_limit(bench: Workbench) -> None:
    with open(bench.write("big", PNG), "ab") as file:
        file.truncate(files.ATTACHMENT_BYTES)
        assert (await bench.call("read_file", path="big")).attachments
        file.truncate(files.ATTACHMENT_BYTES + 1)
    assert failure_of(await bench.call("read_file", path="big")).code == "file_too_large"
