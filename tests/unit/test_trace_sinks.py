"""Trace sinks: private files, whole lines between processes, and failures that stay where they are (contract 04 §9)."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import stat
from pathlib import Path

import pytest

from lash_cli.core.trace import TraceRecord
from lash_cli.runtime.trace_sinks import JsonlTraceSink, StderrTraceSink, TeeTraceSink

WRITERS = 4
RECORDS_EACH = 150


def record(number: int = 0, text: str = "x") -> TraceRecord:
    return TraceRecord(str(number), "2026-01-01T00:00:00.000Z", {}, "custom", {"name": text})


class Broken:
    """A sink that fails at everything."""

    def append(self, record: TraceRecord) -> None:
        raise OSError("no room")

    def flush(self) -> None:
        raise OSError("no disk")

    def close(self) -> None:
        raise OSError("no handle")


class Kept:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def append(self, record: TraceRecord) -> None:
        self.seen.append(record.id)

    def flush(self) -> None:
        self.seen.append("flush")

    def close(self) -> None:
        self.seen.append("close")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_file_is_private_and_so_is_every_directory_it_needed(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        sink = JsonlTraceSink(tmp_path / "a" / "b" / "t.jsonl")
        sink.append(record())
        sink.close()
    finally:
        os.umask(before)
    assert mode(tmp_path / "a") == mode(tmp_path / "a" / "b") == 0o700
    assert mode(tmp_path / "a" / "b" / "t.jsonl") == 0o600


def test_a_file_that_others_can_read_keeps_its_mode_and_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "t.jsonl"
    path.touch()
    path.chmod(0o644)
    with caplog.at_level(logging.WARNING, "lash.trace"):
        sink = JsonlTraceSink(path)
        sink.append(record())
        sink.close()
    assert mode(path) == 0o644
    assert [str(path) in entry.getMessage() for entry in caplog.records] == [True]


def test_a_file_that_got_no_record_is_not_created_by_a_flush(tmp_path: Path) -> None:
    sink = JsonlTraceSink(tmp_path / "t.jsonl")
    sink.flush()
    sink.close()
    assert not (tmp_path / "t.jsonl").exists()


def test_a_record_can_be_read_before_any_flush_and_later_ones_follow_it(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    for number in range(2):
        sink = JsonlTraceSink(path)
        sink.append(record(number))
        assert json.loads(path.read_text().splitlines()[-1])["id"] == str(number)
        sink.close()
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["0", "1"]


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_trace_that_was_moved_away_or_removed_goes_on_under_its_name(tmp_path: Path, is_kept: bool) -> None:
    path, moved = tmp_path / "t.jsonl", tmp_path / "t.jsonl.1"
    sink = JsonlTraceSink(path)
    sink.append(record(1))
    path.rename(moved)
    if not is_kept:
        moved.unlink()
    sink.append(record(2))
    sink.append(record(3))
    sink.close()
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["2", "3"]
    assert mode(path) == 0o600
    if is_kept:
        assert [json.loads(line)["id"] for line in moved.read_text().splitlines()] == ["1"]


def test_a_trace_stays_where_it_began_when_its_program_goes_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    sink = JsonlTraceSink("t.jsonl")
    sink.append(record(1))
    monkeypatch.chdir(tmp_path / "elsewhere")
    sink.append(record(2))
    sink.close()
    assert len((tmp_path / "t.jsonl").read_text().splitlines()) == 2
    assert not list((tmp_path / "elsewhere").iterdir())


def test_every_record_is_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    sink = JsonlTraceSink(tmp_path / "t.jsonl")
    monkeypatch.setattr(os, "write", lambda _, data: written.append(data) or len(data))
    sink.append(record(1, "y" * 100_000))
    monkeypatch.undo()
    sink.close()
    assert len(written) == 1 and written[0].endswith(b"\n")


def test_a_line_cut_by_a_full_disk_does_not_swallow_the_next_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.jsonl"
    sink = JsonlTraceSink(path)
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:10]))
    with pytest.raises(OSError, match="only 10 of"):
        sink.append(record(1))
    monkeypatch.undo()
    sink.append(record(2))
    sink.close()
    torn, whole = path.read_bytes().splitlines()
    assert len(torn) == 10
    assert json.loads(whole)["id"] == "2"


def test_a_pipe_that_cannot_be_synced_is_no_failure(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reading = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    sink = JsonlTraceSink(tmp_path / "pipe")
    sink.append(record(1))
    sink.flush()
    sink.close()
    assert json.loads(os.read(reading, 10_000))["id"] == "1"
    os.close(reading)


@pytest.mark.parametrize("content", [b"[theme]\ncolour = 1\n", b"SQLite format 3\0", b'{"name": "notes"}\n', b"{}"])
def test_what_is_no_trace_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes"
    path.write_bytes(content)
    with pytest.raises(FileExistsError, match="no trace"):
        JsonlTraceSink(path).append(record())
    assert path.read_bytes() == content


def test_a_descriptor_takes_a_trace_behind_whatever_is_in_the_file_it_leads_to(tmp_path: Path) -> None:
    with open(tmp_path / "log", "a+b") as log:
        log.write(b"a job began\n")
        log.flush()
        sink = JsonlTraceSink(f"/dev/fd/{log.fileno()}")
        sink.append(record(1))
        sink.close()
    told, line = (tmp_path / "log").read_bytes().splitlines()
    assert told == b"a job began" and json.loads(line)["id"] == "1"


@pytest.mark.parametrize("content", [b"", b"\n", b'\n {"schema_version":1,"x":2}\n', b'{"sche'])
def test_a_trace_of_any_version_and_one_that_broke_off_at_once_go_on(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(content)
    sink = JsonlTraceSink(path)
    sink.append(record(7))
    sink.close()
    assert path.read_bytes().startswith(content)
    assert json.loads(path.read_bytes().splitlines()[-1])["id"] == "7"


def test_a_line_that_another_process_left_unfinished_does_not_swallow_the_next_record(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(record(0).line() + b"\n" + record(3).line()[:30])
    path.chmod(0o600)
    for number in (1, 2):
        sink = JsonlTraceSink(path)
        sink.append(record(number))
        sink.close()
    first, torn, *whole = path.read_text().splitlines()
    assert json.loads(first)["id"] == "0" and torn.encode() == record(3).line()[:30]
    assert [json.loads(line)["id"] for line in whole] == ["1", "2"]


def test_a_pipe_nobody_reads_fails_instead_of_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError):
        JsonlTraceSink(tmp_path / "pipe").append(record())


def _write_many(path: str, writer: int, start: object) -> None:
    start.wait()  # type: ignore[attr-defined]
    for number in range(RECORDS_EACH):
        sink = JsonlTraceSink(path)
        sink.append(record(writer * RECORDS_EACH + number, "z" * (number * 977 % 60_000)))
        sink.close()


def test_several_processes_share_a_file_without_a_torn_or_a_lost_line(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start = context.Event()
    path = tmp_path / "shared.jsonl"
    writers = [context.Process(target=_write_many, args=(str(path), number, start)) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    start.set()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    ids = [int(json.loads(line)["id"]) for line in path.read_text().splitlines()]
    assert sorted(ids) == list(range(WRITERS * RECORDS_EACH))


def test_stderr_gets_one_line_per_record(capsys: pytest.CaptureFixture[str]) -> None:
    sink = StderrTraceSink()
    sink.append(record(1))
    sink.append(record(2))
    sink.flush()
    sink.close()
    captured = capsys.readouterr()
    assert [json.loads(line)["id"] for line in captured.err.splitlines()] == ["1", "2"]
    assert captured.out == ""


def test_a_tee_tries_every_sink_in_order_and_logs_the_failing_one_once(caplog: pytest.LogCaptureFixture) -> None:
    first, last = Kept(), Kept()
    tee = TeeTraceSink([first, Broken(), last])
    with caplog.at_level(logging.WARNING, "lash.trace"):
        tee.append(record(1))
        tee.append(record(2))
        tee.flush()
        tee.close()
    assert first.seen == last.seen == ["1", "2", "flush", "close"]
    assert [entry.getMessage() for entry in caplog.records] == ["trace sink Broken failed to append: no room"]
