"""What somebody may have meant by a word that nobody knows: one wording and one measure of nearness for every hint."""

from __future__ import annotations

from collections.abc import Iterable

# What part of the characters of both words has to match: `idel` finds `idle`, and a short word does not find any other.
_NEAR = 0.55


def did_you_mean(
    word: str, known: Iterable[str], otherwise: str, *, before: str = "", most: int = 2
) -> tuple[str, list[str]]:
    """The hint for `word`, which is none of `known`, and those nearest to it in whatever case, best first.

    The hint offers them with what stands `before` each on a command line, at most `most` but for those that differ in
    case alone; it is `otherwise` where none is near.
    """
    import difflib  # costs more than a command that goes well

    spelled: dict[str, list[str]] = {}
    for one in dict.fromkeys(known):
        spelled.setdefault(one.lower(), []).append(one)
    matches = difflib.get_close_matches(word.lower(), spelled, n=most, cutoff=_NEAR)
    nearest = [one for match in matches for one in spelled[match]]
    return f"did you mean: {' or '.join(before + one for one in nearest)}" if nearest else otherwise, nearest
