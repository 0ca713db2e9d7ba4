"""What is at the bottom of a failure, when that is a process without a free file descriptor."""

from __future__ import annotations

import errno

import pytest

from lash_cli.errors import LashError, TooManyOpenFiles


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


FULL = OSError(errno.EMFILE, "Too many open files", "/a/file")


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (FULL, True),
        (caused(LashError("cannot read it"), FULL), True),
        (ImportError("libx.so: cannot open shared object file: Too many open files"), True),
        (OSError(errno.ENOENT, "No such file"), False),
        (LashError("something else"), False),
    ],
)
def test_a_failure_is_one_of_too_many_files_when_that_is_at_the_bottom_of_it(error: Exception, is_one: bool) -> None:
    told = TooManyOpenFiles.behind(error)
    assert (told is not None) == is_one
    assert told is None or (told.code == "too_many_open_files" and told.__cause__ is error)


def test_what_is_raised_again_because_of_itself_has_a_bottom_too() -> None:
    itself = LashError("again")
    other = caused(LashError("of another"), itself)
    assert TooManyOpenFiles.behind(caused(itself, itself)) is None
    assert TooManyOpenFiles.behind(caused(itself, other)) is None
