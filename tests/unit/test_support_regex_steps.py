"""The counter of what a pattern looks at tells the slow from the quick, and finds what `re` finds."""

from __future__ import annotations

import re

import pytest
from support.regex_steps import steps


@pytest.mark.parametrize(
    ("pattern", "text", "is_slow"),
    [
        (r"[a-z][a-z.]*://", "a.", True),
        (r"(?<=[a-z.])://", "a.", False),
        (r"<t[^>]*>(.*?)</t>", "<t>", True),
        (r"<t[^<>]*>([^<]*)</t>", "<t>", False),
        (r"\b(?:a|b)+c", "ab", False),
        (r"(?:a|b)+c", "ab", True),
        (r"(?i)X{2,}y|\Z", "x", True),
    ],
)
def test_what_grows_faster_than_the_text_is_told(pattern: str, text: str, is_slow: bool) -> None:
    compiled = re.compile(pattern)
    assert (steps(compiled, text * 200) > 3 * steps(compiled, text * 100)) is is_slow
