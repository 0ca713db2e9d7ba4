"""Large pastes folded to one line of the draft (contract 08 §7.3).

A fold is a placeholder in the draft and the text it stands for. Whoever takes
the draft out of the editor expands it first, so a placeholder is never sent and
never written down. One that was edited is ordinary text. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

FOLD_LINES = 20
FOLD_BYTES = 2_048
# A terminal that edits lines holds no more of one, and drops what is typed beyond that without a word.
LINE_BYTES = 4_095
CUT = f"a terminal holds {LINE_BYTES} bytes of a line and drops the rest: it may be cut, and was not sent"

_PLACEHOLDER = re.compile(r"\[paste #(\d+) · \d+ lines?\]")


def is_folded(text: str) -> bool:
    """Whether a paste is large enough to be folded."""
    return text.removesuffix("\n").count("\n") >= FOLD_LINES or len(text.encode("utf-8", "surrogatepass")) > FOLD_BYTES


def normalised(text: str) -> str:
    """A paste with the line ends of a text: terminals paste carriage returns."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def placeholder(number: int, text: str) -> str:
    """What stands for paste `number` in the draft."""
    lines = len(text.splitlines()) or 1
    return f"[paste #{number} · {lines} line{'' if lines == 1 else 's'}]"


def expanded(draft: str, pastes: Mapping[int, str]) -> str:
    """The draft with every placeholder of `pastes` replaced by its text; the texts themselves are not searched."""

    def text_of(match: re.Match[str]) -> str:
        text = pastes.get(int(match[1]))
        is_ours = text is not None and match[0] == placeholder(int(match[1]), text)
        return text if is_ours and text is not None else match[0]

    return _PLACEHOLDER.sub(text_of, draft)
