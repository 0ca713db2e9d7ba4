"""The codec: whatever cannot be read is one kind of error, for our records and for what others wrote (design D2)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from support.nesting import nested

from lash_cli.core.codec import (
    MAX_KEPT_DEPTH,
    MAX_WRITTEN_DEPTH,
    decode,
    decode_any,
    decode_json,
    decode_written,
    described,
    reread,
)
from lash_cli.core.content import TurnInput

DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"\xff", b'{"items":[],"x":"\xff"}', DEEP, b'{"items":' + DEEP + b"}", b'"\\udc00"', '"\ud800"'],
    ids=["empty", "open", "no text", "no UTF-8", "deep", "deep inside", "half a pair", "half a pair as text"],
)
def test_what_cannot_be_read_is_a_decode_error_whoever_asks(data: bytes | str) -> None:
    for read in (decode_json, lambda text: decode(text, TurnInput), lambda text: decode_any(text, tuple[Any, ...])):
        with pytest.raises(msgspec.DecodeError):
            read(data)


@pytest.mark.parametrize(("start", "end"), [("[", "]"), ('{"a":', "}")])
def test_what_a_model_wrote_is_followed_to_a_depth_that_does_not_depend_on_the_stack(start: str, end: str) -> None:
    def written(depth: int) -> str:
        return start * depth + "0" * (start != "[") + end * depth

    decode_written(f"[{written(MAX_WRITTEN_DEPTH - 1)},{written(2)}]")
    with pytest.raises(msgspec.DecodeError, match="nested deeper than 128 levels"):
        decode_written(f"[{written(2)},{written(MAX_WRITTEN_DEPTH)}]")


def test_what_a_program_hands_in_is_kept_to_a_depth_that_does_not_depend_on_the_stack() -> None:
    wide = [[]] * MAX_KEPT_DEPTH
    assert reread([wide, nested(MAX_KEPT_DEPTH - 1)], list[Any])[1] == nested(MAX_KEPT_DEPTH - 1)
    for depth in (MAX_KEPT_DEPTH, 100_000):
        with pytest.raises(ValueError):
            reread([wide, nested(depth)], list[Any])


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("no such thing"), "ValueError: no such thing"),
        (KeyError(), "KeyError"),
        (OSError("file \udcff"), "OSError: file \\udcff"),
        (ValueError("12345678"), "ValueError: 12345678"),
        (ValueError("123456789"), "ValueError: 12345678…"),
    ],
    ids=["a text", "no text", "no UTF-8", "as long as may be", "longer"],
)
def test_an_exception_is_described_by_its_kind_and_as_much_of_its_text_as_is_asked_for(error, said: str) -> None:
    assert described(error, 20 if "file" in said or "such" in said else 8) == said


def test_a_group_of_exceptions_is_described_by_the_first_of_them() -> None:
    """As a task group raises it, whose own text only counts them."""
    inner = ExceptionGroup("inside", [ValueError("no such city"), KeyError("b")])
    said = "ExceptionGroup: inside (2 sub-exceptions): ValueError: no such city"
    assert described(inner) == said
    assert described(ExceptionGroup("outside", [inner])) == f"ExceptionGroup: outside (1 sub-exception): {said}"
    assert len(described(inner, 10)) < 40
