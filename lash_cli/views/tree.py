"""A message tree for people: branches indented, long stretches folded, the head marked (contract 08 §5.1 `tree`).

Pure: the Tree document of `lash tree` goes in. A stretch of messages that
follow one another stays at one level, so that a long conversation needs no
width; only where history went more than one way do levels begin, one for each
branch. Every text passes `clean`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lash_cli.views.counts import counted
from lash_cli.views.safe_text import Clean, preview

if TYPE_CHECKING:
    from rich.text import Text
    from rich.tree import Tree

Item = dict[str, Any]

# A stretch longer than this is folded to its first and last messages; branchings and the head are never folded away.
LONGEST_STRETCH = 12
KEPT_AT_START = 2
KEPT_AT_END = 8
PREVIEW_CHARS = 72
INDENT = "  "
CUT_OFF_NOTE = "cut off, because a message above is missing:"


def tree_text(document: dict[str, Any], *, clean: Clean, is_whole: bool = False) -> str:
    """The tree without lines or colours: two blanks for each level, words for the marks."""
    lines = [_title(document, clean)]
    reasons = _frame_reasons(document)
    levels: dict[str, int] = {}

    def add(items: Sequence[Item], depth: int) -> None:
        for stretch in _stretches(items):
            level = levels.get(stretch[0]["parent"], depth) + 1
            for index, entry in enumerate(_folded(stretch, is_whole)):
                blanks = INDENT * (level + (index > 0 and _is_branch(stretch)))
                if isinstance(entry, int):
                    lines.append(f"{blanks}... {counted(entry, 'message')}")
                    continue
                words = [clean(entry["id"]), *_marks(entry, reasons), _said(entry, clean)]
                lines.append(f"{blanks}{' '.join(words)}".rstrip())
            levels[stretch[-1]["id"]] = level + (len(stretch) > 1 and _is_branch(stretch))

    add(document["items"], 0)
    lines.extend(f"{INDENT}{note}" for note in _notes(document))
    if document["cut_off"]:
        lines.append(f"{INDENT}{CUT_OFF_NOTE}")
        add(document["cut_off"], 1)
    return "\n".join(lines)


def tree_picture(document: dict[str, Any], *, clean: Clean, is_whole: bool = False) -> Tree:
    """The tree with lines; what is not on the path of the head is dim."""
    from rich.text import Text
    from rich.tree import Tree

    root = Tree(Text(_title(document, clean)))
    reasons = _frame_reasons(document)
    # Where the branches below the last message of a stretch hang.
    places: dict[str, Tree] = {}

    def add(items: Sequence[Item], top: Tree) -> None:
        for stretch in _stretches(items):
            place = places.get(stretch[0]["parent"], top)
            last = place
            for index, entry in enumerate(_folded(stretch, is_whole)):
                if isinstance(entry, int):
                    place.add(Text(f"… {counted(entry, 'message')}", style="dim"))
                    continue
                last = place.add(_label(entry, reasons, clean))
                if index == 0 and _is_branch(stretch):
                    place = last
            places[stretch[-1]["id"]] = last

    add(document["items"], root)
    for note in _notes(document):
        root.add(Text(note, style="dim"))
    if document["cut_off"]:
        add(document["cut_off"], root.add(Text(CUT_OFF_NOTE, style="yellow")))
    return root


def _is_branch(stretch: Sequence[Item]) -> bool:
    """Whether a stretch is one of several at its place: then its first message opens a level for the others."""
    return bool(stretch[0]["branch"])


def _label(item: Item, reasons: Mapping[str, str], clean: Clean) -> Text:
    from rich.text import Text

    text = Text(style="" if item["active"] else "dim", no_wrap=True, overflow="ellipsis")
    text.append(clean(item["id"]), style="cyan" if item["active"] else "")
    for mark in _marks(item, reasons):
        text.append(f" {mark}", style="bold green" if mark == HEAD_MARK else "yellow")
    text.append(f" {_said(item, clean)}")
    return text


HEAD_MARK = "(head)"


def _marks(item: Item, reasons: Mapping[str, str]) -> list[str]:
    marks = [HEAD_MARK] if item["head"] else []
    if item["id"] in reasons:
        marks.append(f"({reasons[item['id']]} frame)")
    return marks


def _frame_reasons(document: dict[str, Any]) -> dict[str, str]:
    """By message before which another frame was opened: why it was."""
    items = (*document["items"], *document["cut_off"])
    frames = {item["id"]: item["frame"] for item in items}
    reasons = {frame["id"]: frame["reason"] for frame in document["frames"]}
    return {
        item["id"]: reasons.get(item["frame"], "other")
        for item in items
        if item["parent"] in frames and frames[item["parent"]] != item["frame"]
    }


def _said(item: Item, clean: Clean) -> str:
    return f"{item['role']}: {clean(preview(item['preview'], PREVIEW_CHARS))}"


def _title(document: dict[str, Any], clean: Clean) -> str:
    return f"{clean(document['session_name'])}  {document['session']}"


def _notes(document: dict[str, Any]) -> list[str]:
    hidden = counted(document["hidden"], "message") if document["hidden"] else None
    if not document["items"] and not document["cut_off"]:
        return ["nothing was said yet" if hidden is None else f"{hidden} hidden"]
    notes = [] if hidden is None else [f"{hidden} in deeper branches"]
    if document["head_node"] is None:
        notes.append("the head stands before everything")
    return notes


def _folded(stretch: Sequence[Item], is_whole: bool) -> Iterator[Item | int]:
    """The messages of a stretch, with a count in the place of those that are folded away."""
    if is_whole or len(stretch) <= LONGEST_STRETCH:
        yield from stretch
        return
    hidden = 0
    for index, item in enumerate(stretch):
        if KEPT_AT_START <= index < len(stretch) - KEPT_AT_END and not item["head"]:
            hidden += 1
            continue
        if hidden:
            yield hidden
            hidden = 0
        yield item


def _stretches(items: Sequence[Item]) -> Iterator[list[Item]]:
    """The items in stretches of messages that follow one another."""
    stretch: list[Item] = []
    for item in items:
        if stretch and (item["parent"] != stretch[-1]["id"] or stretch[-1]["children"] > 1):
            yield stretch
            stretch = []
        stretch.append(item)
    if stretch:
        yield stretch
