"""From files, environment and `-c` to one `Settings` (contract 08 §6.6, §6.7).

Later layers win: built-in, user file, profile, project file, environment, `-c`.
A mistake in any of them is `config_invalid` naming the place and the nearest
key; a project file may set only harmless keys, and the rest of it is ignored
with a warning until the user trusts it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from lash_cli.errors import ConfigError, NotFoundError
from lash_cli.paths import Paths, only_regular, readable_hint
from lash_cli.settings.schema import (
    LABELS,
    NAMED_SECTIONS,
    PROJECT_KEYS,
    UnknownKey,
    check_value,
    find_option,
    is_group,
    parse_text,
    parse_within,
)
from lash_cli.settings.values import Settings, Sourced

PROJECT_FILE = os.path.join(".lash", "config.toml")
_CFG_PREFIX = "LASH_CFG__"
_ENVIRONMENT = {"LASH_MODEL": "defaults.model", "LASH_PROVIDER": "defaults.provider", "LASH_OUTPUT": "defaults.output"}
# Expressions are compiled where they are needed: most commands read no file, and a small one at most (design D16).
_HEADER = r"\s*\[([^\[\]]+)\]\s*(?:#.*)?$"
_ASSIGNMENT = r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*="""
# What decides where a value ends: texts of one line and the beginnings of longer ones, brackets, and a comment.
_PART = r'''"""|\'{3}|"(?:[^"\\]|\\.)*"|'[^']*'|[\[\]{}]|#'''
# The end of a text of several lines by its quotes, of which two may be the text's own.
_TEXT_ENDS = {'"""': r'(?:[^"\\]|\\.?|"(?!""))*+"{3,5}', "'''": ".*?'{3,5}"}
_TOML_PLACE = r"\(at line (\d+), column \d+\)"

Values = dict[str, Sourced]


def load_settings(
    paths: Paths,
    *,
    environment: Mapping[str, str],
    cwd: str,
    overrides: tuple[str, ...] = (),
    profile: str | None = None,
) -> Settings:
    """Merge every layer. Raises `ConfigError` (`config_invalid`)."""
    values: Values = {}
    warnings: list[str] = []
    user = _read(paths.config_file)
    if user is not None:
        text, document = user
        profiles = document.pop("profiles", {})
        _apply_document(values, document, paths.config_file, text, f"user {paths.config_file}")
        _apply_profiles(values, profiles, profile, paths.config_file, text)
    elif profile is not None:
        raise ConfigError(f"no profile {profile!r}: {paths.config_file} does not exist")
    _apply_project(values, cwd, paths, warnings)
    _apply_environment(values, environment)
    for override in overrides:
        key, _, text_value = override.partition("=")
        _apply_text(values, key.strip(), text_value, "-c", f"-c {key.strip()}")
    return Settings(values, tuple(warnings), profile)


def check_document(text: str, path: str) -> Values:
    """The values of a user's file, checked as loading would; raises `ConfigError`."""
    document = _parse(text, path)
    profiles = document.pop("profiles", {})
    values: Values = {}
    _apply_document(values, document, path, text, f"user {path}")
    _apply_profiles({}, profiles, None, path, text)
    return values


class Problem(NamedTuple):
    """One mistake in a file. `key` None means that the text itself is none of TOML."""

    file: str
    line: int
    key: str | None
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}"


def problems_in(text: str, path: str) -> list[Problem]:
    """Every mistake in a configuration file, in the order of its lines; loading stops at the first."""
    from lash_cli.settings.toml import parse_toml  # most have no file

    try:
        document = parse_toml(text)
    except ValueError as error:
        return [_syntax_problem(text, path, error)]
    profiles = document.pop("profiles", {})
    found = _problems(document, (), path, text)
    if not _are_profiles(profiles):
        found.append(_profiles_problem(text, path))
    else:
        for name, table in profiles.items():
            found += _problems(table, ("profiles", name), path, text)
    return sorted(found, key=lambda problem: problem.line)


def _problems(document: dict[str, Any], prefix: tuple[str, ...], path: str, text: str) -> list[Problem]:
    checked = (_check_leaf(parts, value, prefix, path, text) for parts, value in _walk(document))
    return [problem for problem in checked if isinstance(problem, Problem)]


def _check_leaf(parts: tuple[str, ...], value: Any, prefix: tuple[str, ...], path: str, text: str) -> Sourced | Problem:
    """The value of a key with the line it is on as its origin, or what is wrong with it."""
    key = ".".join(parts)
    line = line_of(text, (*prefix, *parts))
    try:
        option, _, _ = find_option(key)
        return Sourced(check_value(option, value), str(line))
    except UnknownKey as error:
        if parts[0] in NAMED_SECTIONS and len(parts) == 2 and isinstance(value, dict):
            return Problem(path, line, key, f"{key}: the name of a table is letters, digits, - and _, not {parts[1]!r}")
        return Problem(path, line, key, f"unknown key {key}{_nearest(error)}")
    except ValueError as error:
        return Problem(path, line, key, f"{key}: {error}")


def _are_profiles(profiles: Any) -> bool:
    return isinstance(profiles, dict) and all(isinstance(table, dict) for table in profiles.values())


def _profiles_problem(text: str, path: str) -> Problem:
    line = line_of(text, ("profiles",))
    return Problem(path, line, "profiles", "profiles: expected [profiles.NAME] tables")


def _read(path: str) -> tuple[str, dict[str, Any]] | None:
    try:
        with open(path, "rb", opener=only_regular) as file:
            raw = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        message = f"cannot read {path}: {error.strerror}"
        raise ConfigError(message, code="permissions_unsafe", hint=readable_hint(path)) from error
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not valid UTF-8 at byte {error.start}") from error
    return text, _parse(text, path)


def _parse(text: str, path: str) -> dict[str, Any]:
    from lash_cli.settings.toml import parse_toml

    try:
        return parse_toml(text)
    except ValueError as error:
        raise ConfigError(str(_syntax_problem(text, path, error))) from error


def _syntax_problem(text: str, path: str, error: ValueError) -> Problem:
    message = str(error)
    place = re.search(_TOML_PLACE, message)
    line = int(place[1]) if place else text.count("\n") + 1
    return Problem(path, line, None, re.sub(_TOML_PLACE, "", message).strip())


def _walk(document: dict[str, Any], parents: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every leaf of a document with its path; tables that are no group of keys are leaves."""
    for name, value in document.items():
        path = (*parents, name)
        if isinstance(value, dict) and is_group(path):
            yield from _walk(value, path)
        else:
            yield path, value


def _apply_document(values: Values, document: dict[str, Any], path: str, text: str, origin: str) -> None:
    prefix = ("profiles", origin.removeprefix("profile ")) if origin.startswith("profile ") else ()
    for parts, value in _walk(document):
        checked = _check_leaf(parts, value, prefix, path, text)
        if isinstance(checked, Problem):
            raise ConfigError(str(checked))
        values[".".join(parts)] = Sourced(checked.value, origin if prefix else f"{origin}:{checked.origin}")


def _apply_profiles(values: Values, profiles: Any, chosen: str | None, path: str, text: str) -> None:
    """Check every profile, so that a mistake shows before it is needed; apply the chosen one."""
    if not _are_profiles(profiles):
        raise ConfigError(str(_profiles_problem(text, path)))
    for name, table in profiles.items():
        _apply_document(values if name == chosen else {}, table, path, text, f"profile {name}")
    if chosen is not None and chosen not in profiles:
        from lash_cli.core.nearest import did_you_mean

        hint, _ = did_you_mean(chosen, profiles, "", before="--profile ")
        raise ConfigError(f"no profile {chosen!r} in {path}", hint=hint or None)


def _apply_project(values: Values, cwd: str, paths: Paths, warnings: list[str]) -> None:
    path = find_project_file(cwd)
    if path is None or os.path.realpath(path) == os.path.realpath(paths.config_file):
        return
    loaded = _read(path)
    if loaded is None:
        return
    text, document = loaded
    if document.pop("profiles", None) is not None:
        warnings.append(f"{path}: ignored profiles: they are the user's own")
    # The whole file is checked, trusted or not: a typo is a mistake, not something to be trusted.
    found: Values = {}
    _apply_document(found, document, path, text, f"project {path}")
    restricted = restricted_keys(found)
    if restricted:
        from lash_cli.settings.trust import standing  # costs a hash, which few projects need

        stands = standing(paths, path, text)
        if stands != "trusted":
            why = (
                "it changed since you trusted it: look at it, then"
                if stands == "changed"
                else "until you trust it with"
            )
            directory = os.path.dirname(os.path.dirname(path))
            warnings.append(f"{path}: ignored {', '.join(restricted)}; {why}: lash config trust {directory}")
            for key in restricted:
                del found[key]
    values.update(found)


def restricted_keys(values: Values) -> list[str]:
    """The keys that a project file may set only when it is trusted, sorted."""
    return sorted(key for key in values if key not in PROJECT_KEYS and not key.startswith(f"{LABELS}."))


def read_project(path: str) -> tuple[str, Values]:
    """The text of a project file and every value in it, trusted or not; raises `ConfigError`, `NotFoundError`."""
    loaded = _read(path)
    if loaded is None:
        raise NotFoundError(f"there is no {path}", code="project_file_not_found", details={"path": path})
    text, document = loaded
    document.pop("profiles", None)
    values: Values = {}
    _apply_document(values, document, path, text, f"project {path}")
    return text, values


def find_project_file(cwd: str) -> str | None:
    """The nearest `.lash/config.toml` in `cwd` or above it, not above the user's home directory."""
    directory = os.path.abspath(cwd)
    home = os.path.expanduser("~")
    while True:
        candidate = os.path.join(directory, PROJECT_FILE)
        if os.path.isfile(candidate):
            return candidate
        parent = os.path.dirname(directory)
        if parent == directory or directory == home:
            return None
        directory = parent


def _apply_environment(values: Values, environment: Mapping[str, str]) -> None:
    for variable, key in _ENVIRONMENT.items():
        if environment.get(variable):
            _apply_text(values, key, environment[variable], f"env {variable}", variable)
    for variable in sorted(environment):
        if variable.startswith(_CFG_PREFIX):
            key = variable.removeprefix(_CFG_PREFIX).replace("__", ".")
            _apply_text(values, key, environment[variable], f"env {variable}", variable)


def _refuse_credential(inside: tuple[str, ...]) -> None:
    """Raises `ValueError` for an option whose value must not stand on a command line."""
    from lash_cli.settings.redact import is_credential  # commands asked often never get here

    if is_credential(inside):
        raise ValueError("a credential is never given as an argument: others can see it in the process list")


def _apply_text(values: Values, key: str, text: str, origin: str, place: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ConfigError(f"{place}: the value is not valid UTF-8") from error
    try:
        option, base, inside = find_option(key)
        if origin == "-c" and inside:
            _refuse_credential(inside)
        value = parse_within(option, inside, text) if inside else parse_text(option, text)
    except UnknownKey as error:
        raise ConfigError(f"{place}: unknown key {key}{_nearest(error)}") from error
    except ValueError as error:
        raise ConfigError(f"{place}: {key}: {error}") from error
    if inside:
        present = values.get(base)
        table: dict[str, Any] = _copy(present.value) if present is not None else {}
        _nest(table, inside, value)
        try:
            value = check_value(option, table)
        except ValueError as error:
            raise ConfigError(f"{place}: {key}: {error}") from error
    values[base] = Sourced(value, origin)


def _copy(table: dict[str, Any]) -> dict[str, Any]:
    return {name: _copy(item) if isinstance(item, dict) else item for name, item in table.items()}


def _nest(table: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    *parents, last = path
    for parent in parents:
        inner = table.setdefault(parent, {})
        table = inner if isinstance(inner, dict) else {}
    table[last] = value


def _nearest(error: UnknownKey) -> str:
    return f"; did you mean {error.nearest}?" if error.nearest else ""


def split_path(text: str) -> tuple[str, ...]:
    """The parts of a bare or quoted dotted TOML key."""
    return tuple(part.strip().strip("\"'") for part in re.findall(r"\"[^\"]*\"|'[^']*'|[^.\s]+", text))


def lines_of(text: str) -> list[str]:
    """The lines of a file. Nothing but a line feed ends one: what else divides lines may stand inside of a text."""
    lines = text.split("\n")
    return lines if lines[-1] else lines[:-1]


@lru_cache(maxsize=4)
def assignments(text: str) -> tuple[tuple[int, tuple[str, ...], bool], ...]:
    """(line number from 1, full path, whether it is a table header) of every header and assignment. Lines inside of a
    value are none, whatever they look like."""
    found: list[tuple[int, tuple[str, ...], bool]] = []
    section: tuple[str, ...] = ()
    lines, end = lines_of(text), 0
    for number, line in enumerate(lines, start=1):
        if number <= end:
            continue
        header = re.match(_HEADER, line)
        if header is not None:
            section = split_path(header[1])
            found.append((number, section, True))
            continue
        assignment = re.match(_ASSIGNMENT, line)
        if assignment is not None:
            found.append((number, (*section, *split_path(assignment[1])), False))
            end = end_of_value(lines, number)
    return tuple(found)


def end_of_value(lines: list[str], start: int) -> int:
    """The index after the assignment on line `start` (from 1), which may go on over several lines."""
    open_part = OpenPart()
    for end in range(start, len(lines) + 1):
        open_part = scan_line(lines[end - 1], open_part)
        if not open_part.goes_on:
            return end
    return start


class OpenPart(NamedTuple):
    """What a line of a sound file leaves open: so many brackets and braces, and a text of several lines by its quotes.
    `comment` is where the comment of the line begins."""

    depth: int = 0
    quotes: str = ""
    comment: int | None = None

    @property
    def goes_on(self) -> bool:
        """Whether the next line belongs to the same value."""
        return bool(self.depth or self.quotes)


def scan_line(line: str, before: OpenPart = OpenPart()) -> OpenPart:  # noqa: B008 - it is immutable
    """What is open behind `line` when `before` was open in front of it."""
    depth, quotes, position = before.depth, before.quotes, 0
    while True:
        found = (
            re.compile(_TEXT_ENDS[quotes]).match(line, position) if quotes else re.compile(_PART).search(line, position)
        )
        if found is None:
            return OpenPart(depth, quotes)
        part, position = found[0], found.end()
        if quotes:
            quotes = ""
        elif part in _TEXT_ENDS:
            quotes = part
        elif part[0] == "#":
            return OpenPart(depth, quotes, found.start())
        else:
            depth += (part in "[{") - (part in "]}")


@lru_cache(maxsize=4)
def _lines_by_path(text: str) -> tuple[dict[tuple[str, ...], int], dict[tuple[str, ...], int]]:
    """The line of every header and assignment by its path, and the first at or below each path."""
    exact: dict[tuple[str, ...], int] = {}
    below: dict[tuple[str, ...], int] = {}
    for number, found, _ in assignments(text):
        exact.setdefault(found, number)
        for length in range(1, len(found) + 1):
            below.setdefault(found[:length], number)
    return exact, below


def line_of(text: str, path: tuple[str, ...]) -> int:
    """The line that sets `path` or the first thing in it, else the innermost table around it, else 1."""
    exact, below = _lines_by_path(text)
    if path in below:
        return below[path]
    return next((exact[around] for end in range(len(path) - 1, 0, -1) if (around := path[:end]) in exact), 1)
