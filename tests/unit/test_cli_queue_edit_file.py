"""The file that `lash queue edit --file` takes: its limit is in bytes, as that of any other text (contract 08 §5.2)."""

from __future__ import annotations

from pathlib import Path

import pytest

from lash_cli.cli import queue_edit
from lash_cli.errors import UsageError

TEXT = "héllo wörld"


def test_a_file_is_measured_in_bytes_of_its_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "text"
    file.write_text(TEXT, encoding="utf-8")
    size = file.stat().st_size
    monkeypatch.setattr(queue_edit, "LARGEST_FILE_BYTES", size)
    assert queue_edit._read_file(str(file)) == TEXT
    # More bytes than that, and still fewer characters.
    monkeypatch.setattr(queue_edit, "LARGEST_FILE_BYTES", size - 1)
    assert len(TEXT) < size - 1
    with pytest.raises(UsageError, match="is larger than"):
        queue_edit._read_file(str(file))


def test_what_is_cut_off_by_the_limit_is_too_large_and_not_called_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "text"
    file.write_text("é" * 20, encoding="utf-8")
    monkeypatch.setattr(queue_edit, "LARGEST_FILE_BYTES", 4)
    with pytest.raises(UsageError, match="is larger than"):
        queue_edit._read_file(str(file))


def test_the_ends_of_lines_are_left_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_bytes(b"one\r\ntwo\rthree\n")
    assert queue_edit._read_file(str(file)) == "one\r\ntwo\rthree\n"
