"""Glob patterns and .gitignore rules as pure functions (contract 05 §6).

Globs: `*` and `?` stay inside one path component, `**` as a whole component
spans any number of them, `[…]` with classes such as `[:digit:]` (of ASCII) and
`{a,b}` work as in a shell.

Ignore files: comments, `!`, trailing `/`, anchoring by an inner or leading
`/`, `**`, and escapes follow git; the last matching rule of the deepest file
wins. Read are the `.gitignore` files from the repository root down to each
directory; `.git/info/exclude` and the user's global file are not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from lash_cli.tools.faults import invalid

MAX_ALTERNATIVES = 256
# As long as the longest path: nothing that is meant is longer, and reading a pattern takes time.
MAX_PATTERN_CHARS = 4096
# Of all alternatives together.
MAX_EXPANDED_CHARS = 4 * MAX_PATTERN_CHARS

_GROUP = re.compile(r"\{([^{},]*(?:,[^{},]*)+)\}")
# In brackets first of all stands what negates them, and then a bracket is a character like any other.
_BRACKETS = re.compile(r"\[([!^]?)(\]?(?:\[:[a-z]+:\]|[^\]])*)\]")
_SPECIAL_IN_BRACKETS = re.compile(r"\[:([a-z]+):\]|[\\\[\]&~|^]")
_CLASSES = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "blank": r" \t",
    "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": r"!-/:-@\[-`{-~",
    "space": r" \t-\r",
    "upper": "A-Z",
    "xdigit": "0-9A-Fa-f",
}


def compile_glob(pattern: str) -> re.Pattern[str]:
    """A pattern for whole relative paths of files with `/`; raises `ToolFault` for a pattern that cannot be read, or
    that no such path can match."""
    if len(pattern) > MAX_PATTERN_CHARS:
        raise invalid("bad_pattern", f"the glob pattern is longer than {MAX_PATTERN_CHARS} characters")
    try:
        expanded = _expand_braces(pattern)
        for alternative in expanded:
            _check_matchable(alternative)
        alternatives = [_translate(alternative.removeprefix("./")) for alternative in expanded]
        return re.compile("|".join(f"(?:{alternative})" for alternative in alternatives), re.DOTALL)
    except re.error as error:
        raise invalid("bad_pattern", f"the glob pattern {pattern!r} cannot be read: {error}") from error


def _check_matchable(pattern: str) -> None:
    """Refuse what would be answered with "nothing found" whatever there is."""
    if pattern.startswith("/") or ".." in pattern.split("/"):
        raise invalid(
            "bad_pattern",
            f"the glob pattern {pattern!r} leads out of the directory that is searched; name the directory in path, and"
            " in the pattern what lies below it",
        )
    if any(part.startswith(".") for part in pattern.removeprefix("./").split("/")):
        raise invalid(
            "bad_pattern",
            f"hidden files are left out, and the glob pattern {pattern!r} is for such; of a hidden directory name it in"
            " path, and list it with read_file to find hidden files in it",
        )
    if pattern.endswith("/"):
        raise invalid("bad_pattern", f"the glob pattern {pattern!r} is for directories, and only files are found")


def _expand_braces(pattern: str) -> list[str]:
    """The alternatives of `{a,b}` groups, innermost groups first; braces without a comma stay literal."""
    pending, done = [pattern], []
    while pending:
        current = pending.pop()
        group = _GROUP.search(current)
        if group is None:
            done.append(current)
        else:
            before, after = current[: group.start()], current[group.end() :]
            pending += [before + choice + after for choice in group[1].split(",")]
        known = [*pending, *done]
        if len(known) > MAX_ALTERNATIVES or sum(map(len, known)) > MAX_EXPANDED_CHARS:
            raise invalid("bad_pattern", f"the glob pattern {pattern!r} has too many alternatives")
    return done


def _translate(pattern: str) -> str:
    """The regular expression source of one glob without braces.

    A wildcard that another one of its kind follows stops at the first place
    that fits, and for good: the next one can take whatever lies between. So
    what does not match is found out without trying every way to divide a path
    among the wildcards, which for a few of them takes longer than anyone waits.
    """
    # Equal neighbours mean the same as one.
    components = re.sub(r"(?:\*\*/)+", "**/", pattern).split("/")
    stretches = [""]
    for index, component in enumerate(components):
        end = "" if index == len(components) - 1 else "/"
        if component != "**":
            stretches[-1] += _translate_component(component) + end
        elif end:
            stretches.append("")
        else:
            stretches[-1] += ".+"
    return _joined(stretches, "(?:[^/]+/)")


def _joined(stretches: list[str], filler: str) -> str:
    """The stretches with any number of `filler` between two of them."""
    first, *others = stretches
    if not others:
        return first
    settled = "".join(f"(?>{filler}*?{stretch})" for stretch in others[:-1])
    return f"{first}{settled}{filler}*{others[-1]}"


def _translate_component(component: str) -> str:
    stretches = [""]
    index = 0
    while index < len(component):
        character = component[index]
        index += 1
        if character == "*":
            if len(stretches) == 1 or stretches[-1]:
                stretches.append("")
        elif character == "?":
            stretches[-1] += "[^/]"
        elif character == "[" and (found := _brackets(component, index - 1)) is not None:
            negation = "^/" if found[1] else ""
            stretches[-1] += f"[{negation}{_SPECIAL_IN_BRACKETS.sub(_in_brackets, found[2])}]"
            index = found.end()
        elif character == "\\" and index < len(component):
            stretches[-1] += re.escape(component[index])
            index += 1
        else:
            stretches[-1] += re.escape(character)
    return _joined(stretches, "[^/]")


def _brackets(component: str, index: int) -> re.Match[str] | None:
    """The brackets that begin at `index`, None where they end nowhere, and then they are a character."""
    if component.find("]", index) < 0:
        return None
    found = _BRACKETS.match(component, index)
    return found if found is not None and found[2] else None


def _in_brackets(found: re.Match[str]) -> str:
    """What a class of characters stands for, or a character that would be special in it; a dash keeps its meaning.

    Raises `re.error` for a class that is none.
    """
    name = found[1]
    if name is None:
        return f"\\{found[0]}"
    if name not in _CLASSES:
        raise re.error(f"there is no class of characters {found[0]}")
    return _CLASSES[name]


class IgnoreRule(msgspec.Struct, frozen=True):
    """One line of an ignore file, to be matched against paths relative to the file's directory."""

    pattern: re.Pattern[str]
    is_negated: bool
    only_directories: bool


class IgnoreFile(msgspec.Struct, frozen=True):
    """The rules of one .gitignore; `base` is its directory relative to the repository root, "" or ending in `/`."""

    base: str
    rules: tuple[IgnoreRule, ...]


def parse_ignore_file(text: str, base: str) -> IgnoreFile:
    """The rules of an ignore file; lines that cannot be read are skipped, as git does."""
    return IgnoreFile(base, tuple(rule for line in text.splitlines() if (rule := _parse_rule(line)) is not None))


def _parse_rule(line: str) -> IgnoreRule | None:
    pattern = line.rstrip(" \t")
    if pattern.endswith("\\"):
        pattern += line[len(pattern) :][:1]  # an escaped space belongs to the name
    if not pattern or pattern.startswith("#") or len(pattern) > MAX_PATTERN_CHARS:
        return None
    is_negated = pattern.startswith("!")
    pattern = pattern[is_negated:]
    only_directories = pattern.endswith("/")
    pattern = pattern.rstrip("/")
    if not pattern:
        return None
    is_anchored = "/" in pattern
    pattern = pattern.removeprefix("/")
    try:
        compiled = re.compile(_translate(pattern if is_anchored else f"**/{pattern}"), re.DOTALL)
    except re.error:
        return None
    return IgnoreRule(compiled, is_negated, only_directories)


def is_ignored(path: str, is_directory: bool, files: Iterable[IgnoreFile]) -> bool:
    """Whether a path relative to the repository root is ignored; `files` from the root downwards.

    The caller does not descend into ignored directories, which is why nothing
    below one can be included again, as in git.
    """
    verdict = False
    for file in files:
        relative = path.removeprefix(file.base)
        for rule in file.rules:
            if (is_directory or not rule.only_directories) and rule.pattern.fullmatch(relative):
                verdict = not rule.is_negated
    return verdict
