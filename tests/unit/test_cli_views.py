"""Safe text, plain tables and times (contract 08 §6.1, §6.8)."""

from __future__ import annotations

import json
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lash_cli.views import tables
from lash_cli.views.safe_text import safe_json, safe_line, safe_text
from lash_cli.views.times import age, duration, rfc3339

BIDI = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c")


@given(st.text())
def test_nothing_a_terminal_obeys_survives(text):
    for character in safe_text(text):
        assert character in "\n\t" or (unicodedata.category(character) not in ("Cc", "Cs") and character not in BIDI)


@given(st.text())
def test_a_line_stays_one_line(text):
    assert len(safe_line(text).splitlines()) <= 1


@given(st.text(st.characters(exclude_categories=["Cc", "Cf", "Cs", "Zl", "Zp"])))
def test_ordinary_text_is_untouched(text):
    assert safe_text(text) == text


@given(st.text())
def test_safe_json_decodes_to_the_same_value(text):
    shown = safe_json(json.dumps(text, ensure_ascii=False))
    assert json.loads(shown) == text
    assert not set(shown) & BIDI


@pytest.mark.parametrize("make_safe", [safe_text, safe_line, safe_json])
def test_a_character_is_shown_alone_as_it_is_among_others(make_safe):
    # Planes 4 to 13 have no characters and are all alike: the first of them stands for the rest.
    every = [chr(code) for code in (*range(0x5_0000), *range(0xE_0000, sys.maxunicode + 1))]
    assert make_safe("".join(every)) == "".join(make_safe(character) for character in every)


def test_escape_sequences_become_visible():
    assert safe_text("\x1b[31mred\x1b]0;title\x07\x9b\u202eabc") == "\\x1b[31mred\\x1b]0;title\\x07\\x9b\\u202eabc"
    assert safe_text("a\tb\r\nc\rd") == "a\tb\nc\\rd"
    assert safe_line("a\tb\nc") == "a\\tb\\nc"


def test_columns_are_aligned_by_terminal_cells():
    assert tables.columns(("A", "B"), [("日本", "x"), ("abcdef", "y")]) == "A       B\n日本    x\nabcdef  y"


@pytest.mark.parametrize("text", ["กำลัง", "हिन्दी", "e\u0301", "✔\ufe0e"])
def test_a_mark_that_stands_on_another_character_takes_no_cell(text):
    marks = sum(unicodedata.category(character) == "Mn" for character in text)
    assert marks and tables.display_width(text) == len(text) - marks


@given(st.lists(st.tuples(st.text(), st.text(), st.text()), max_size=5), st.integers(20, 60))
def test_a_table_never_exceeds_the_terminal(rows, width):
    text = tables.columns(("ONE", "TWO", "THREE"), rows, width=width)
    assert all(tables.display_width(line) <= width for line in text.split("\n"))


@pytest.mark.parametrize("code", [
    *range(0x20), *range(0x7F, 0xA0), 0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0xD800,
])  # fmt: skip
def test_every_character_that_steers_or_reorders_is_escaped_wherever_it_stands(code):
    character = chr(code)
    if character not in "\t\n":
        assert character not in safe_text(f"a{character}b")
    assert character not in safe_line(f"a{character}b")


def test_a_column_stays_wide_enough_to_be_told_from_another():
    assert tables.columns(("NAME", "STATUS"), [("abcdefgh", "running")], width=3) == "NAME  STA…\nabc…  run…"


def test_without_a_width_nothing_is_cut():
    assert "x" * 500 in tables.columns(("A",), [("x" * 500,)])


def test_columns_stay_aligned_where_characters_beyond_ascii_become_escapes():
    rows = [("é", "x"), ("日本", "y"), ("plain", "z")]
    aligned = "A             B\n\\xe9          x\n\\u65e5\\u672c  y\nplain         z"
    assert tables.columns(("A", "B"), rows, ascii_only=True) == aligned
    assert (
        tables.columns(("A", "B"), rows, ascii_only=True, width=11)
        == "A         B\n\\xe9      x\n\\u65e...  y\nplain     z"
    )


def test_a_moment_is_told_in_utc_and_a_span_in_its_two_largest_units():
    assert rfc3339(0) == "1970-01-01T00:00:00.000Z"
    assert rfc3339(1_700_000_000_123) == "2023-11-14T22:13:20.123Z"
    assert rfc3339(None) is None
    assert [duration(ms) for ms in (8, 1200, 200_000, 7_500_000, 349_200_000)] == [
        "8ms",
        "1.2s",
        "3m 20s",
        "2h 5m",
        "4d 1h",
    ]
    assert [age(at, 100_000_000) for at in (None, 100_000_000, 100_000_001, 99_990_000, 90_000_000, 0)] == [
        "-",
        "now",
        "now",
        "10s ago",
        "2h ago",
        "1d ago",
    ]
