"""Glob patterns and .gitignore rules as pure functions (contract 05 §6).

Globs: `*` and `?` stay inside one path component, `**` as a whole component
spans any number of them, `[…]` and `{a,b}` work as in a shell.

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


def compile_glob(pattern: str) -> re.Pattern[str]:
    """A pattern for whole relative paths with `/`; raises `ToolFault` for a pattern that cannot be read."""
    try:
        alternatives = [_translate(alternative.removeprefix("./")) for alternative in _expand_braces(pattern)]
        return re.compile("|".join(f"(?:{alternative})" for alternative in alternatives), re.DOTALL)
    except re.error as error:
        raise invalid("bad_pattern", f"the glob pattern {pattern!r} cannot be read: {error}") from error


def _expand_braces(pattern: str) -> list[str]:
    """The alternatives of `{a,b}` groups, innermost groups first; braces without a comma stay literal."""
    pending, done = [pattern], []
    while pending:
        current = pending.pop()
        group = re.search(r"\{([^{}]*,[^{}]*)\}", current)
        if group is None:
            done.append(current)
        else:
            before, after = current[: group.start()], current[group.end() :]
            pending += [before + choice + after for choice in group[1].split(",")]
        if len(pending) + len(done) > MAX_ALTERNATIVES:
            raise invalid("bad_pattern", f"the glob pattern {pattern!r} has too many alternatives")
    return done


def _translate(pattern: str) -> str:
    """The regular expression source of one glob without braces."""
    # Equal neighbours mean the same as one and would only make matching slow.
    components = re.sub(r"(?:\*\*/)+", "**/", pattern).split("/")
    pieces = []
    for index, component in enumerate(components):
        is_last = index == len(components) - 1
        if component == "**":
            pieces.append(".+" if is_last else "(?:[^/]+/)*")
        else:
            pieces.append(_translate_component(component) + ("" if is_last else "/"))
    return "".join(pieces)


def _translate_component(component: str) -> str:
    result: list[str] = []
    index = 0
    while index < len(component):
        character = component[index]
        index += 1
        if character == "*":
            if not result or result[-1] != "[^/]*":
                result.append("[^/]*")
        elif character == "?":
            result.append("[^/]")
        elif character == "[" and (end := component.find("]", index + 1 + component[index : index + 1].count("!"))) > 0:
            inner = component[index:end]
            negation = "^/" if inner[:1] in ("!", "^") else ""
            # Only `\`, `[` and set operators are special inside of a class; a dash keeps its meaning.
            body = re.sub(r"([\\\[&~|^])", r"\\\1", inner[1:] if negation else inner)
            result.append(f"[{negation}{body}]")
            index = end + 1
        elif character == "\\" and index < len(component):
            result.append(re.escape(component[index]))
            index += 1
        else:
            result.append(re.escape(character))
    return "".join(result)


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
    pattern = re.sub(r"(?<!\\)[ \t]+$", "", line)
    if not pattern or pattern.startswith("#"):
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
