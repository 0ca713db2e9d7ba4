"""The message tree as people see it: levels, folds, marks, and nothing a terminal obeys (contract 08 §5.1 `tree`)."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from lash_cli.views.safe_text import safe_text
from lash_cli.views.tree import LONGEST_STRETCH, tree_picture, tree_text


def item(name: str, parent: str | None, *, branch: int = 0, children: int = 1, **changed: Any) -> dict[str, Any]:
    return {
        "id": name,
        "parent": parent,
        "frame": "f1",
        "role": "user",
        "at": "2026-01-01T00:00:00.000Z",
        "preview": f"text of {name}",
        "branch": branch,
        "children": children,
        "active": True,
        "head": False,
        **changed,
    }


def document(items: list[dict[str, Any]], **changed: Any) -> dict[str, Any]:
    frames = [{"id": "f1", "reason": "initial"}, {"id": "f2", "reason": "compaction"}]
    head = {"session": "s", "session_name": "notes", "head_node": "x"}
    return {**head, "frames": frames, "hidden": 0, "items": items, "cut_off": [], **changed}


def picture(shown: dict[str, Any], **options: Any) -> list[str]:
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(tree_picture(shown, clean=safe_text, **options))
        return [line.rstrip() for line in console.export_text().splitlines()]


def line(length: int) -> list[dict[str, Any]]:
    return [item(f"m{n}", f"m{n - 1}" if n else None, children=int(n < length - 1)) for n in range(length)]


BRANCHED = [
    item("a", None, children=2),
    item("b", "a", branch=1, active=False),
    item("c", "b", branch=1, children=0, active=False),
    item("d", "a", branch=1, children=2),
    item("e", "d", branch=2, children=0, active=False),
    item("g", "d", branch=2, children=0, head=True),
]


def test_each_branch_has_a_level_of_its_own() -> None:
    assert picture(document(BRANCHED)) == [
        "notes  s",
        "└── a user: text of a",
        "    ├── b user: text of b",
        "    │   └── c user: text of c",
        "    └── d user: text of d",
        "        ├── e user: text of e",
        "        └── g (head) user: text of g",
    ]
    assert tree_text(document(BRANCHED), clean=safe_text).splitlines() == [
        "notes  s",
        "  a user: text of a",
        "    b user: text of b",
        "      c user: text of c",
        "    d user: text of d",
        "      e user: text of e",
        "      g (head) user: text of g",
    ]


def test_a_straight_conversation_needs_one_level_however_long_it_is() -> None:
    shown = document(line(500))
    for lines in (picture(shown, is_whole=True), tree_text(shown, clean=safe_text, is_whole=True).splitlines()):
        assert len(lines) == 501
        assert {len(text) - len(text.lstrip(" ├└─")) for text in lines[1:]} in ({4}, {2})


def test_a_long_stretch_is_folded_but_never_its_head() -> None:
    items = line(30)
    items[15]["head"] = True
    lines = tree_text(document(items), clean=safe_text).splitlines()
    assert [text.strip() for text in lines if "..." in text] == ["... 13 messages", "... 6 messages"]
    assert any("m15 (head)" in text for text in lines)
    assert not any("..." in text for text in tree_text(document(line(LONGEST_STRETCH)), clean=safe_text).splitlines())


def test_frames_notes_and_emptiness_are_said() -> None:
    items = line(3)
    items[2]["frame"] = "f2"
    assert "m2 (compaction frame) user:" in tree_text(document(items), clean=safe_text)
    assert "nothing was said yet" in tree_text(document([], head_node=None), clean=safe_text)
    assert "the head stands before everything" in tree_text(document(items, head_node=None), clean=safe_text)
    assert "1 message in deeper branches" in tree_text(document(items, hidden=1), clean=safe_text)


def test_nothing_a_terminal_obeys_is_shown() -> None:
    items = [item("m\x1b]0;x\x07", None, preview="red \x1b[31m", children=0)]
    shown = document(items, session_name="n\x1b[2J")
    assert "\x1b" not in tree_text(shown, clean=safe_text)
    assert "\x1b" not in "\n".join(picture(shown))


def test_what_is_cut_off_stands_behind_everything_under_a_word_that_says_so() -> None:
    lost = [
        item("x", None, branch=1, children=0, active=False),
        item("y", None, branch=1, active=False),
        item("z", "y", branch=1, children=0, active=False, frame="f2"),
    ]
    shown = document([item("a", None, children=0, head=True)], cut_off=lost)
    assert picture(shown) == [
        "notes  s",
        "├── a (head) user: text of a",
        "└── cut off, because a message above is missing:",
        "    ├── x user: text of x",
        "    └── y user: text of y",
        "        └── z (compaction frame) user: text of z",
    ]
    assert tree_text(shown, clean=safe_text).splitlines() == [
        "notes  s",
        "  a (head) user: text of a",
        "  cut off, because a message above is missing:",
        "    x user: text of x",
        "    y user: text of y",
        "      z (compaction frame) user: text of z",
    ]
    only = tree_text(document([], cut_off=lost, head_node=None), clean=safe_text)
    assert "nothing was said" not in only and "the head stands before everything" in only
