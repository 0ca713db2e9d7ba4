"""What is told beside the work at a terminal: that it goes on, once, and a long text through a pager (08 §11)."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from lash_cli.cli import invocation, paging, progress
from lash_cli.cli.globals import hoist
from lash_cli.cli.printed import lists_fields
from lash_cli.errors import UsageError


@pytest.fixture(autouse=True)
def begun(tmp_path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    invocation.begin(hoist([])[0], {"LASH_HOME": str(tmp_path)})
    yield
    monkeypatch.setattr(invocation, "_current", None)


def tellers() -> int:
    return sum(thread.name == "lash-progress" for thread in threading.enumerate())


def test_one_line_says_what_goes_on_whatever_it_is_made_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_is_watched", lambda: True)
    with progress.progress("outer"):
        with progress.progress("inner"):
            assert tellers() == 1
        assert tellers() == 1, "what is inside ends nothing of what is around it"
    assert tellers() == 0
    with progress.progress("after"):
        assert tellers() == 1


def test_what_goes_on_does_so_untold_where_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(progress, "_is_watched", lambda: True)
    monkeypatch.setattr(threading.Thread, "start", refused)
    done = []
    with progress.progress("what"):
        done.append("what")
    assert done and not progress._is_told


@pytest.mark.parametrize(("lines", "is_paged"), [(9, False), (10, True), (11, True)])
def test_a_text_is_paged_when_its_beginning_would_leave_the_screen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], lines: int, is_paged: bool
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(paging.shutil, "get_terminal_size", lambda: os.terminal_size((80, 10)))
    monkeypatch.setattr(paging, "_pager", lambda: asked.append(True))
    paging.write_paged("line\n" * lines)
    assert bool(asked) is is_paged
    assert capsys.readouterr().out == "line\n" * lines


def test_help_behind_a_double_dash_is_no_question_for_help(tmp_path) -> None:
    invocation.begin(hoist(["--fields", "nonsense"])[0], {"LASH_HOME": str(tmp_path)})
    assert not lists_fields(["turn", "s", "--help"])
    with pytest.raises(UsageError, match="nonsense"):
        lists_fields(["turn", "s", "--", "--help"])
