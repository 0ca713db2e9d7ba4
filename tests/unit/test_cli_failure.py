"""Every way a command ends becomes one exit status and at most one message (contract 08 §6.2, §6.4)."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lash_cli.cli import failure, invocation
from lash_cli.cli.globals import hoist
from lash_cli.errors import LashError


@pytest.fixture(autouse=True)
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    options, _ = hoist(["-o", "json"])
    invocation.begin(options, {"LASH_HOME": str(tmp_path)})
    yield
    monkeypatch.setattr(invocation, "_current", None)


def raising(error: BaseException) -> int:
    def command() -> int:
        raise error

    return failure.run(command)


@pytest.mark.parametrize(("code", "status"), [(None, 0), (0, 0), (3, 3), ("gone wrong", 1)])
def test_an_exit_of_somebody_elses_code_has_the_status_python_gives_it(
    code: object, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert raising(SystemExit(code)) == status
    assert capsys.readouterr().err == ""


def test_a_disk_that_is_full_is_told_of_stdout_only_where_no_other_file_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failure, "_discard_stdout", lambda: None)
    assert raising(OSError(errno.ENOSPC, "No space left on device")) == 1
    error = json.loads(capsys.readouterr().err)
    assert (error["code"], error["ambiguous"]) == ("output_not_written", True)
    assert raising(OSError(errno.ENOSPC, "No space left on device", "/some/file")) == 1
    assert json.loads(capsys.readouterr().err)["code"] == "internal"


def test_an_interrupt_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert raising(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == ""


def test_the_middle_of_a_long_message_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert raising(LashError("a" * 1_500 + "b" * 1_500)) == 1
    message = json.loads(capsys.readouterr().err)["message"]
    assert message == "a" * 1_000 + " … " + "b" * 1_000
    assert raising(LashError("c" * failure.MESSAGE_CHARS)) == 1
    assert json.loads(capsys.readouterr().err)["message"] == "c" * failure.MESSAGE_CHARS


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a directory that somebody is in may stay")
def test_what_was_not_expected_is_told_where_no_log_can_be_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    options, _ = hoist(["-o", "json", "--home", "relative"])
    invocation.begin(options, {})
    assert raising(ZeroDivisionError("no")) == 1
    error = json.loads(capsys.readouterr().err)
    assert error["code"] == "internal" and error["details"] == {"type": "ZeroDivisionError"}
    assert not os.listdir(tmp_path)
