"""Values into the user's configuration file and out of it, everything else left as it stands (contract 08 §6.7).

An edit is by lines. The new text is parsed and checked as a whole before it
replaces the old one, in one step, so a file this cannot edit safely stays
untouched and several values are written together or not at all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from lash_cli.errors import ConfigError, UsageError
from lash_cli.paths import Paths, write_private_file
from lash_cli.settings.loading import assignments, check_document
from lash_cli.settings.schema import Option, UnknownKey, find_option, loose_toml_value, parse_text


def set_value(paths: Paths, key: str, text: str) -> Any:
    """Write `key = text` into the user's configuration file and return the value as it will be read.

    Raises `UsageError` for an unknown key or a value it cannot hold (a literal
    secret among them), `ConfigError` when the present file is broken or cannot
    be edited by line, `StoreReadOnly` when it cannot be written.
    """
    option, _, inside = _known(key)
    value = _checked(option, key, text, has_path_inside=bool(inside))
    set_values(paths, {key: value})
    return value


def set_values(paths: Paths, values: Mapping[str, Any], *, instead_of: tuple[str, str] | None = None) -> None:
    """Write several values together, in place of the table `instead_of` if one is named.

    Raises as `set_value` does, with nothing written.
    """
    after = _present_text(paths)
    if instead_of is not None:
        after = without_table(after, instead_of)
    for key, value in values.items():
        _known(key)
        after = edit(after, tuple(key.split(".")), literal(value))
    try:
        stored = check_document(after, paths.config_file)
    except ConfigError as error:
        # The file was sound before: either a value is not, or it is written in a way that lines cannot be added to.
        raise ConfigError(
            f"cannot set {', '.join(values)} by editing lines of {paths.config_file}: {error.message}",
            hint="edit the file by hand",
        ) from error
    for key in values:
        if stored.get(_known(key)[1]) is None:
            raise ConfigError(f"cannot set {key} by editing lines of {paths.config_file}", hint="edit the file by hand")
    write_private_file(os.path.realpath(paths.config_file), after.encode("utf-8"))


def remove_table(paths: Paths, section: str, name: str) -> bool:
    """Take `[SECTION.NAME]` out of the user's file; False when it is not in it.

    Raises `ConfigError` when the present file is broken or it stands in a way
    that lines cannot be taken from, `StoreReadOnly` when it cannot be written.
    """
    before = _present_text(paths)
    prefix = f"{section}.{name}."
    if not any(key.startswith(prefix) for key in check_document(before, paths.config_file)):
        return False
    after = without_table(before, (section, name))
    try:
        left = check_document(after, paths.config_file)
    except ConfigError as error:
        raise _by_hand(section, name, paths) from error
    if any(key.startswith(prefix) for key in left):
        raise _by_hand(section, name, paths)
    write_private_file(os.path.realpath(paths.config_file), after.encode("utf-8"))
    return True


def _by_hand(section: str, name: str, paths: Paths) -> ConfigError:
    return ConfigError(f"cannot take {section}.{name} out of {paths.config_file}", hint="edit the file by hand")


def _present_text(paths: Paths) -> str:
    """The user's file, checked; empty when there is none."""
    try:
        with open(paths.config_file, encoding="utf-8") as file:
            text = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {paths.config_file}: {error}") from error
    check_document(text, paths.config_file)
    return text


def _known(key: str) -> tuple[Option, str, tuple[str, ...]]:
    try:
        return find_option(key)
    except UnknownKey as error:
        hint = f"did you mean: {error.nearest}" if error.nearest else "see: lash config show"
        raise UsageError(f"unknown configuration key {key!r}", hint=hint) from error


def _checked(option: Option, key: str, text: str, *, has_path_inside: bool) -> Any:
    if has_path_inside:
        return loose_toml_value(text)
    try:
        value = parse_text(option, text)
    except ValueError as error:
        hint = "store the key with: lash key set NAME" if option.kind == "key_source" else "see: lash config show"
        raise UsageError(f"{key}: {error}", hint=hint) from error
    return text.strip() if option.kind in ("duration", "age") else value


def edit(text: str, path: tuple[str, ...], value: str) -> str:
    """`text` with the assignment of `path` replaced or added in its section; comments stay.

    Raises `ConfigError` when the present value spans several lines.
    """
    lines = text.splitlines()
    section, name = path[:-1], path[-1]
    last_of_section: int | None = None
    current: tuple[str, ...] = ()
    for number, found, is_header in assignments(text):
        if not is_header and found == path:
            lines[number - 1] = _replaced(lines[number - 1], value)
            return "\n".join(lines) + "\n"
        current = found if is_header else current
        if current == section:
            last_of_section = number
    addition = f"{_bare(name)} = {value}"
    if last_of_section is not None:
        lines.insert(_end_of_value(lines, last_of_section), addition)
    else:
        if lines and lines[-1].strip():
            lines.append("")
        lines += [f"[{'.'.join(_bare(part) for part in section)}]", addition]
    return "\n".join(lines) + "\n"


def without_table(text: str, path: tuple[str, ...]) -> str:
    """`text` without every header and assignment at or below `path`.

    Comments between them go too; those above the first and below the last stay.
    """
    lines = text.splitlines()
    places = list(assignments(text))
    gone: set[int] = set()
    inside_since: int | None = None  # the first line after what was removed last, while nothing else came between
    for number, found, is_header in places:
        if found[: len(path)] != path:
            inside_since = None
            continue
        end = number if is_header else _end_of_value(lines, number)
        gone.update(range(number if inside_since is None else inside_since, end + 1))
        inside_since = end + 1
    kept: list[str] = []
    for number, line in enumerate(lines, start=1):
        was_cut = number - 1 in gone
        if number in gone or (was_cut and not line.strip() and (not kept or not kept[-1].strip())):
            continue
        kept.append(line)
    while kept and not kept[-1].strip():
        kept.pop()
    return "\n".join(kept) + "\n" if kept else ""


def _replaced(line: str, value: str) -> str:
    """The assignment with a new value; its indentation, its spacing and its comment stay."""
    import tomllib

    head, _, rest = line.partition("=")
    spacing = rest[: len(rest) - len(rest.lstrip())] or " "
    positions = [index for index, character in enumerate(line) if character == "#"]
    for end in (*positions, len(line)):
        try:
            tomllib.loads(line[:end])
        except tomllib.TOMLDecodeError:
            continue
        comment = f"  {line[end:]}" if end < len(line) else ""
        return f"{head}={spacing}{value}{comment}"
    raise ConfigError("the present value spans several lines", hint="edit the file by hand")


def _end_of_value(lines: list[str], start: int) -> int:
    """The index after the assignment on line `start` (from 1), which may go on over several lines."""
    import tomllib

    for end in range(start, len(lines) + 1):
        try:
            tomllib.loads("\n".join(lines[start - 1 : end]))
        except tomllib.TOMLDecodeError:
            continue
        return end
    return start


def _bare(name: str) -> str:
    is_bare = name.isascii() and all(character.isalnum() or character in "_-" for character in name)
    return name if is_bare else json.dumps(name)


def literal(value: Any) -> str:
    """`value` as a TOML literal on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return "[" + ", ".join(literal(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_bare(name)} = {literal(item)}" for name, item in value.items()) + " }"
    return quoted(str(value))


def quoted(text: str) -> str:
    """A TOML basic string; JSON escapes are valid in it except for DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
