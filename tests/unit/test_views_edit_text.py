"""Blocks of an edit: whatever a text holds, it comes back as it went (contract 08 §5.3)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lash_cli.views.edit_text import Block, parse_blocks, render_blocks

# Lines that look like heads are what could go wrong, so they are drawn often.
LINES = st.one_of(
    st.sampled_from(
        ["--- in_1 ---", "\\--- in_1 ---", "\\\\--- x ---", "--- a b ---", "---", "", "# note", "--- in_1 ---\r"]
    ),
    st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\n"), max_size=20),
)
TEXTS = st.lists(LINES, min_size=1, max_size=6).map("\n".join)
IDS = st.integers(1, 99).map(lambda number: f"in_{number}")


@given(st.lists(st.tuples(IDS, TEXTS), max_size=5), st.lists(LINES.filter(str.isprintable), max_size=3))
def test_what_is_rendered_is_parsed_back(blocks: list[tuple[str, str]], explanation: list[str]) -> None:
    rendered = render_blocks(explanation, [Block(*block) for block in blocks])
    assert parse_blocks(rendered) == [Block(key, text.rstrip("\n")) for key, text in blocks]


def test_what_stands_above_the_first_block_is_not_read() -> None:
    assert parse_blocks("# notes\nfree text\n\n--- a ---\nx\ny\n\n\n--- b ---\nz") == [
        Block("a", "x\ny"),
        Block("b", "z"),
    ]
    assert parse_blocks("no head at all\n") == []
    assert parse_blocks("") == []


def test_a_head_may_come_from_an_editor_with_other_line_ends() -> None:
    assert parse_blocks("--- a ---\r\nx\r\n") == [Block("a", "x\r")]


def test_an_explanation_never_looks_like_a_block() -> None:
    assert parse_blocks(render_blocks(["--- a ---"], [])) == []
