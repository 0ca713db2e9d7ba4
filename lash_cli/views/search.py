"""What a search found, as text (contract 08 §5.1 `search`).

Pure: SearchHit documents go in, one string comes out. Everything that was said
passes `clean`, which makes terminal escapes visible; `mark` shows the words
that matched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lash_cli.views.safe_text import Clean, preview
from lash_cli.views.times import age

NEAR_PREVIEW_CHARS = 100
_INDENT = "    "


def search_text(
    hits: Sequence[dict[str, Any]], *, clean: Clean, mark: Callable[[str], str], now_ms: int, at_ms: Sequence[int]
) -> str:
    """One block for each hit, a blank line between them; `at_ms` are their times."""
    return "\n\n".join(_block(hit, clean, mark, age(moment, now_ms)) for hit, moment in zip(hits, at_ms, strict=True))


def _block(hit: dict[str, Any], clean: Clean, mark: Callable[[str], str], when: str) -> str:
    left = "" if hit["on_path"] else "  left behind"
    lines = [f"{clean(hit['session_name'])}  {hit['session']}  {hit['role']}  {when}  {clean(hit['id'])}{left}"]
    lines += [_near(message, clean) for message in hit["before"]]
    lines.append(_INDENT + _marked(hit["snippet"], hit["matches"], clean, mark))
    lines += [_near(message, clean) for message in hit["after"]]
    return "\n".join(lines)


def _near(message: dict[str, Any], clean: Clean) -> str:
    return f"  {message['role']}: {clean(preview(message['text'], NEAR_PREVIEW_CHARS))}"


def _marked(snippet: str, matches: Sequence[Sequence[int]], clean: Clean, mark: Callable[[str], str]) -> str:
    pieces: list[str] = []
    position = 0
    for start, end in matches:
        pieces += [_line(snippet[position:start], clean), mark(_line(snippet[start:end], clean))]
        position = end
    return "".join([*pieces, _line(snippet[position:], clean)]).strip()


def _line(text: str, clean: Clean) -> str:
    """`text` on one line; every run of white space is one space."""
    words = " ".join(text.split())
    before = " " if text[:1].isspace() else ""
    after = " " if text[-1:].isspace() and words else ""
    return clean(before + words + after)
