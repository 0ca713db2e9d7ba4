"""From files, environment and `-c` to one `Settings` (contract 08 §6.6, §6.7).

Later layers win: built-in, user file, profile, project file, environment, `-c`.
A mistake in any of them is `config_invalid` naming the place and the nearest
key; a project file may set only harmless keys, and the rest of it is ignored
with a warning.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from lash_cli.errors import ConfigError
from lash_cli.paths import Paths
from lash_cli.settings.schema import LABELS, PROJECT_KEYS, UnknownKey, check_value, find_option, is_group, parse_text
from lash_cli.settings.schema import loose_toml_value as loose
from lash_cli.settings.values import Settings, Sourced

PROJECT_FILE = os.path.join(".lash", "config.toml")
_CFG_PREFIX = "LASH_CFG__"
_ENVIRONMENT = {"LASH_MODEL": "defaults.model", "LASH_PROVIDER": "defaults.provider", "LASH_OUTPUT": "defaults.output"}
_HEADER = re.compile(r"\s*\[([^\[\]]+)\]\s*(?:#.*)?$")
_ASSIGNMENT = re.compile(
    r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*="""
)
_TOML_PLACE = re.compile(r"\(at line (\d+), column \d+\)")

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


def _read(path: str) -> tuple[str, dict[str, Any]] | None:
    try:
        with open(path, "rb") as file:
            raw = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", code="permissions_unsafe") from error
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not valid UTF-8 at byte {error.start}") from error
    return text, _parse(text, path)


def _parse(text: str, path: str) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        place = _TOML_PLACE.search(message)
        line = place[1] if place else str(text.count("\n") + 1)
        raise ConfigError(f"{path}:{line}: {_TOML_PLACE.sub('', message).strip()}") from error


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
        key = ".".join(parts)
        line = line_of(text, (*prefix, *parts))
        try:
            option, _, _ = find_option(key)
            checked = check_value(option, value)
        except UnknownKey as error:
            raise ConfigError(f"{path}:{line}: unknown key {key}{_nearest(error)}") from error
        except ValueError as error:
            raise ConfigError(f"{path}:{line}: {key}: {error}") from error
        values[key] = Sourced(checked, origin if prefix else f"{origin}:{line}")


def _apply_profiles(values: Values, profiles: Any, chosen: str | None, path: str, text: str) -> None:
    """Check every profile, so that a mistake shows before it is needed; apply the chosen one."""
    if not isinstance(profiles, dict) or not all(isinstance(table, dict) for table in profiles.values()):
        raise ConfigError(f"{path}:{line_of(text, ('profiles',))}: profiles: expected [profiles.NAME] tables")
    for name, table in profiles.items():
        _apply_document(values if name == chosen else {}, table, path, text, f"profile {name}")
    if chosen is not None and chosen not in profiles:
        import difflib

        near = difflib.get_close_matches(chosen, list(profiles), n=1)
        raise ConfigError(
            f"no profile {chosen!r} in {path}", hint=f"did you mean: --profile {near[0]}" if near else None
        )


def _apply_project(values: Values, cwd: str, paths: Paths, warnings: list[str]) -> None:
    path = find_project_file(cwd)
    if path is None or os.path.realpath(path) == os.path.realpath(paths.config_file):
        return
    loaded = _read(path)
    if loaded is None:
        return
    text, document = loaded
    allowed: dict[str, Any] = {}
    ignored: list[str] = []
    for parts, value in _walk(document):
        key = ".".join(parts)
        if key in PROJECT_KEYS or parts[0] == LABELS:
            _nest(allowed, parts, value)
        else:
            ignored.append(key)
    if ignored:
        warnings.append(f"{path}: ignored {', '.join(sorted(ignored))}: a project may not set these")
    _apply_document(values, allowed, path, text, f"project {path}")


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


def _apply_text(values: Values, key: str, text: str, origin: str, place: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ConfigError(f"{place}: the value is not valid UTF-8") from error
    try:
        option, base, inside = find_option(key)
        value = loose(text) if inside else parse_text(option, text)
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


def assignments(text: str) -> Iterator[tuple[int, tuple[str, ...], bool]]:
    """(line number from 1, full path, whether it is a table header) of every header and assignment, by lines."""
    section: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), start=1):
        header = _HEADER.match(line)
        if header is not None:
            section = split_path(header[1])
            yield number, section, True
            continue
        assignment = _ASSIGNMENT.match(line)
        if assignment is not None:
            yield number, (*section, *split_path(assignment[1])), False


def line_of(text: str, path: tuple[str, ...]) -> int:
    """The line that sets `path` or the first thing in it, else the innermost table around it, else 1."""
    best, best_length = 1, 0
    for number, found, _ in assignments(text):
        shared = min(len(found), len(path))
        if found[:shared] == path[:shared] and shared > best_length:
            best, best_length = number, shared
    return best
