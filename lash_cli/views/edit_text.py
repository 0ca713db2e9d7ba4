"""The inputs of a queue as one text for an editor, and back (contract 08 §5.3 `queue edit`).

A block is a line `--- ID ---` and the text under it. Blocks may be changed,
moved and deleted; one with an id that is not known is new. What stands above
the first block explains and is not read. A line of somebody's text that looks
like the head of a block is shown with a backslash in front, so every text comes
back as it went.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

_HEAD = re.compile(r"--- (\S+) ---\r?")
_LIKE_HEAD = re.compile(r"\\*--- \S+ ---\r?")
_ESCAPED = re.compile(r"\\+--- \S+ ---\r?")


class Block(NamedTuple):
    """One text and the input it stands for."""

    id: str
    text: str


def render_blocks(explanation: Iterable[str], blocks: Sequence[Block]) -> str:
    """The text an editor opens."""
    lines = [f"# {line}".rstrip() for line in explanation]
    for block in blocks:
        lines.extend(("", f"--- {block.id} ---", *map(_escaped, block.text.split("\n"))))
    return "\n".join(lines) + "\n"


def parse_blocks(text: str) -> list[Block]:
    """The blocks of an edited text, in order, without line feeds at their ends; empty when there is no head."""
    blocks: list[Block] = []
    head: str | None = None
    body: list[str] = []
    for line in (*text.split("\n"), None):
        found = _HEAD.fullmatch(line) if line is not None else None
        if line is not None and found is None:
            body.append(line[1:] if _ESCAPED.fullmatch(line) else line)
            continue
        if head is not None:
            blocks.append(Block(head, "\n".join(body).rstrip("\n")))
        head, body = found[1] if found is not None else None, []
    return blocks


def _escaped(line: str) -> str:
    return f"\\{line}" if _LIKE_HEAD.fullmatch(line) else line
