"""Text edits as a pure function: matching, kept bytes and diffs (contract 05 §6)."""

from __future__ import annotations

import subprocess
import unicodedata
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.work import at_most

from lash_cli.tools import edits
from lash_cli.tools.edits import DIFF_LINES, MARKS_TOGETHER, Replacement, apply_edits
from lash_cli.tools.faults import ToolFault


def edited(content: str, *pairs: tuple[str, str]) -> str:
    return apply_edits(content.encode(), [Replacement(*pair) for pair in pairs], "f").content.decode()


def test_an_exact_match_wins_over_a_lenient_one() -> None:
    assert edited('“a” and "a"', ('"a"', "b")) == "“a” and b"


@pytest.mark.parametrize(
    ("content", "old"),
    [
        ("say “hello” now", 'say "hello" now'),
        ("it’s", "it's"),
        ("a—b–c", "a-b-c"),
        ("a\u00a0b", "a b"),
        ("ﬁne ①", "fine 1"),
        ("cafe\u0301", "café"),
        ("one   \ntwo", "one\ntwo"),
        ("one\ntwo", "one  \ntwo"),
    ],
)
def test_a_lenient_match_ignores_how_text_looks(content: str, old: str) -> None:
    assert edited(f"before\n{content}\nafter", (old, "new")) == "before\nnew\nafter"


def test_a_lenient_match_must_be_unique_too() -> None:
    with pytest.raises(ToolFault) as caught:
        edited("it’s\nit‘s", ("it's", "x"))
    assert caught.value.code == "edit_not_unique"


def test_a_lenient_match_does_not_split_a_character() -> None:
    with pytest.raises(ToolFault) as caught:
        edited("ﬁ", ("i", "x"))
    assert caught.value.code == "edit_not_found"


def test_lines_the_edit_only_quotes_keep_their_bytes() -> None:
    content = "“top”   \nold\n“middle”\t\nold too\n“end”\n"
    old = '"top"\nold\n"middle"\nold too\n"end"'
    new = '"top"\nnew\n"middle"\nnew too\n"end"'
    assert edited(content, (old, new)) == "“top”   \nnew\n“middle”\t\nnew too\n“end”\n"


def test_mixed_line_endings_stay_where_nothing_changed() -> None:
    assert edited("a\r\nb\nc\r\nd\n", ("a\nb\nc\nd", "a\nB\nc\nd")) == "a\r\nB\nc\r\nd\n"


def test_new_lines_take_the_ending_of_what_they_replace_or_else_the_common_one() -> None:
    assert edited("a\r\nb\r\nc\n", ("b\n", "b\nb2\n")) == "a\r\nb\r\nb2\r\nc\n"
    assert edited("a\r\nb\r\nc\n", ("c", "c\nd")) == "a\r\nb\r\nc\r\nd\n"


def test_an_old_text_with_crlf_matches_a_file_without() -> None:
    assert edited("a\nb\n", ("a\r\nb", "a\r\nB")) == "a\nB\n"


def test_text_is_deleted_with_its_line_ending() -> None:
    assert edited("a\r\nb\r\nc", ("b\n", "")) == "a\r\nc"


def test_the_diff_is_capped_and_the_patch_is_not() -> None:
    before = "".join(f"{n}\n" for n in range(500))
    result = apply_edits(before.encode(), [Replacement(before, before.replace("\n", "x\n"))], "f")
    assert len(result.diff.split("\n")) == DIFF_LINES + 1
    assert result.diff.endswith("more lines")
    assert result.patch.count("\n+") == 501


def test_hunk_numbers_count_from_the_start_of_the_file() -> None:
    before = "".join(f"{n}\n" for n in range(1, 101))
    result = apply_edits(before.encode(), [Replacement("\n50\n", "\nfifty\nmore\n"), Replacement("90", "ninety")], "f")
    headers = [line for line in result.patch.split("\n") if line.startswith("@@")]
    assert headers == ["@@ -47,7 +47,8 @@", "@@ -87,7 +88,7 @@"]
    assert result.first_changed_line == 50


def test_the_patch_is_accepted_by_patch(tmp_path: Path) -> None:
    before = "".join(f"{n}\n" for n in range(30)) + "end"
    result = apply_edits(before.encode(), [Replacement("3\n4\n5\n6", "x"), Replacement("end", "END\n")], "f")
    (tmp_path / "f").write_text(before)
    command = ["git", "apply", "-p1", "-"]
    subprocess.run(command, cwd=tmp_path, input=result.patch + "\n", text=True, check=True)
    assert (tmp_path / "f").read_bytes() == result.content


def test_edits_that_touch_are_two_edits() -> None:
    assert edited("abc", ("a", "x"), ("b", "y")) == "xyc"


def test_a_new_line_ends_as_most_lines_of_a_mixed_file_do() -> None:
    assert edited("a\r\nb\nc\nd", ("d", "d\ne")) == "a\r\nb\nc\nd\ne"
    assert edited("a\r\nb\r\nc\nd", ("d", "d\ne")) == "a\r\nb\r\nc\nd\r\ne"


def test_space_of_another_look_is_not_any_space() -> None:
    with pytest.raises(ToolFault) as caught:
        edited("a b", ("\u00a0", ""))
    assert caught.value.code == "edit_not_found"


@pytest.mark.parametrize(("second", "hunks"), [(11, 1), (12, 2)])
def test_hunks_whose_contexts_touch_are_one(second: int, hunks: int) -> None:
    content = "".join(f"<{number}>\n" for number in range(20)).encode()
    changed = apply_edits(content, [Replacement("<4>", "x"), Replacement(f"<{second}>", "y")], "f")
    assert changed.diff.count("@@ -") == hunks


def test_an_empty_result_still_names_a_line() -> None:
    result = apply_edits(b"all", [Replacement("all", "")], "f")
    assert (result.content, result.first_changed_line) == (b"", 1)
    assert result.diff == "@@ -1,1 +0,0 @@\n-all\n\\ No newline at end of file"


lines = st.lists(st.text(alphabet="ab“é \t", max_size=4), min_size=1, max_size=8)


@given(lines, st.sampled_from(["\n", "\r\n"]), st.data())
def test_replacing_one_unique_line_changes_nothing_else(content: list[str], ending: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(content)))
    before, after = ending.join([*content[:at], ""]), ending.join(["", *content[at:]])
    result = edited(f"{before}<unique>{after}", ("<unique>", "<x>\n<y>"))
    default = ending if before + after else "\n"
    assert result == f"{before}<x>{default}<y>{after}"


def patched(before: str, patch: str) -> str:
    """`before` after the hunks of `patch`, every line and number of which must fit."""
    old = before.splitlines(keepends=True)
    rows: list[str] = []
    for row in patch.split("\n")[2:]:
        if row.startswith("\\"):
            rows[-1] = rows[-1].removesuffix("\n")
        else:
            rows.append(f"{row}\n")
    result: list[str] = []
    position = 0
    for row in rows:
        mark, line = row[0], row[1:]
        if mark == "@":
            (old_start, old_count), (new_start, new_count) = (
                map(int, part[1:].split(",")) for part in row.split()[1:3]
            )
            start = old_start - (old_count > 0)
            result += old[position:start]
            position = start
            assert len(result) == new_start - (new_count > 0)
            continue
        if mark in " -":
            assert old[position] == line
            position += 1
        if mark in " +":
            result.append(line)
    return "".join([*result, *old[position:]])


pieces = st.text(alphabet="ab\n", max_size=6)


@given(st.lists(st.tuples(pieces, st.text(alphabet="xy\n", min_size=1, max_size=6)), min_size=1, max_size=4), st.data())
def test_the_patch_says_exactly_what_was_written(stretches: list[tuple[str, str]], data: st.DataObject) -> None:
    before = "".join(kept + replaced for kept, replaced in stretches) + data.draw(pieces)
    replacements = [Replacement(replaced, data.draw(pieces)) for _, replaced in stretches]
    try:
        result = apply_edits(before.encode(), replacements, "f")
    except ToolFault:
        assume(False)  # not unique, overlapping or without effect
    assert patched(before, result.patch) == result.content.decode()


def test_a_file_of_many_equal_lines_is_edited_at_once() -> None:
    before = "".join(f'{{\n"a": {n}\n}},\n' for n in range(1200))
    after = before.replace('"a"', '"b"')
    with at_most(100_000):
        edited = apply_edits(before.encode(), [Replacement(before, after)], "f")
    assert edited.content.decode() == after


def test_a_very_long_edit_is_made_at_once_and_keeps_the_lines_around_what_it_changes() -> None:
    ends = [f"“end {number}”\r\n" for number in range(3)]
    old, new = ([f"{number * step % 101}\n" for number in range(20_000)] for step in (1, 7))
    quoted = ["".join(ends).replace("\r\n", "\n").replace("“", '"').replace("”", '"')]
    content = "".join([*ends, *old, *ends])
    change = Replacement("".join([*quoted, *old, *quoted]), "".join([*quoted, *new, *quoted]))
    with at_most(1_000_000):
        edited = apply_edits(content.encode(), [change], "p")
    assert edited.content.decode() == "".join([*ends, *new, *ends])


@pytest.mark.parametrize("base", ["a", "ﬁ"], ids=["a plain character", "one that is compared as something else"])
def test_marks_without_number_are_put_in_order_few_at_a_time(monkeypatch: pytest.MonkeyPatch, base: str) -> None:
    marked = base + "\u0301\u0323" * 100_000
    normalize = unicodedata.normalize

    def watched(form: Literal["NFKC"], text: str) -> str:
        assert len(text) <= 1 + MARKS_TOGETHER, "all of them together would take minutes"
        return normalize(form, text)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(unicodedata, "normalize", watched)
        edited = apply_edits(f"“x”{marked}\n".encode(), [Replacement(f'"x"{marked}', "y")], "p")
    assert edited.content == b"y\n"


def test_places_are_counted_only_as_far_as_a_count_says_something() -> None:
    with pytest.raises(ToolFault, match="oldText occurs more than 1000 times") as caught:
        apply_edits(b"a" * 100_000, [Replacement("a" * 1000, "b")], "p")
    assert caught.value.code == "edit_not_unique"


ODD_TEXT = "ab \t\r\n'\"é“”’–\u00a0\u0301\u0308\u0323ﬁ，漢가\u1100\u1161ั\u0e48\ufdfa\u212b\u2028\u0085٠ẛ"


@given(st.text(ODD_TEXT, max_size=20))
def test_a_lenient_form_is_made_of_characters_with_the_marks_that_follow_them(text: str) -> None:
    lines, origins, position = [], [], 0
    for line in text.split("\n"):
        starts = [at for at, character in enumerate(line) if at == 0 or not unicodedata.combining(character)]
        converted = [
            (character, position + at)
            for at, end in pairwise([*starts, len(line)])
            for character in as_compared(line[at:end])
        ]
        kept = "".join(character for character, _ in converted).rstrip(" \t\r")
        lines.append(kept)
        position += len(line) + 1
        origins += [*(origin for _, origin in converted[: len(kept)]), position - 1]
    made, came_from = edits._lenient(text)
    assert (made, list(came_from)) == ("\n".join(lines), origins)


def as_compared(cluster: str) -> str:
    looks = str.maketrans({"“": '"', "”": '"', "’": "'", "–": "-", "\u00a0": " "})
    return cluster if cluster.isascii() else unicodedata.normalize("NFKC", cluster.translate(looks)).translate(looks)


def test_a_text_that_is_not_ascii_is_not_compared_character_by_character(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def normalize(form: str, text: str) -> str:
        asked.append(text)
        return unicodedata.normalize(form, text)

    monkeypatch.setattr(edits, "unicodedata", SimpleNamespace(normalize=normalize, combining=unicodedata.combining))
    with pytest.raises(ToolFault, match="oldText was not found"):
        apply_edits("„Größe“ – 漢字、cafe\u0301\n".encode() * 5_000, [Replacement("Kleine", "x")], "f")
    assert len(asked) < 100


def test_the_comparable_form_of_a_file_is_made_once_for_all_edits(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    lenient = edits._lenient
    monkeypatch.setattr(edits, "_lenient", lambda text: made.append(text) or lenient(text))
    content = "".join(f"“line {number}”\n" for number in range(10))
    changes = [Replacement(f'"line {number}"', "x") for number in range(10)]
    assert apply_edits(content.encode(), changes, "f").content == b"x\n" * 10
    assert made.count(content) == 1


@pytest.mark.parametrize("old", ["xf", "iy", "f", "i"])
def test_no_match_ends_or_begins_within_what_one_character_is_compared_as(old: str) -> None:
    with pytest.raises(ToolFault) as caught:
        apply_edits("xﬁy".encode(), [Replacement(old, "z")], "f")
    assert caught.value.code == "edit_not_found"
