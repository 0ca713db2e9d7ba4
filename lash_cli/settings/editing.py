"""Values into the user's configuration file and out of it, everything else left as it stands (contract 08 §6.7).

A key is a dotted path as `schema` knows it, or `profiles.NAME.` and such a
path. An edit is by lines. The new text is parsed and checked as a whole before
it replaces the old one, in one step, so a file this cannot edit safely stays
untouched and several values are written together or not at all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import Any

from lash_cli.errors import ConfigError, NotFoundError, UsageError
from lash_cli.paths import Paths, only_regular, write_private_file
from lash_cli.settings.loading import assignments, check_document, end_of_value, lines_of, scan_line
from lash_cli.settings.one_writer import one_writer
from lash_cli.settings.redact import is_credential, redact
from lash_cli.settings.schema import (
    NAMED_SECTIONS,
    SECTIONS,
    Option,
    UnknownKey,
    find_option,
    is_group,
    parse_text,
    parse_within,
)

PROFILES = "profiles"


def _file(paths: Paths) -> str:
    """What is replaced: where a linked configuration really is."""
    return os.path.realpath(paths.config_file)


def set_value(paths: Paths, key: str, text: str, *, check: Callable[[Any], None] | None = None) -> Any:
    """Write `key = text` into the user's configuration file and return the value as it will be read.

    Raises `UsageError` for an unknown key or a value it cannot hold (a literal
    secret among them), `ConfigError` when the present file is broken or cannot
    be edited by line, as `paths.unusable_path`, and whatever
    `check` raises for a value only its reader can judge.
    """
    option, base, inside = _known(key)
    if is_credential(inside) or (base.endswith(".base_url") and redact(text) != text):
        raise UsageError(
            f"{key}: a credential is never given as an argument: others can see it in the process list",
            hint="keep the key of a provider with: lash key set NAME, or write the file with: lash config edit",
        )
    value = _checked(option, key, text, inside)
    if check is not None:
        check(value)
    set_values(paths, {key: value})
    return value


@one_writer(_file, may_begin=True)
def set_values(paths: Paths, values: Mapping[str, Any], *, instead_of: tuple[str, str] | None = None) -> None:
    """Write several values together, in place of the table `instead_of` if one is named.

    Raises as `set_value` does, with nothing written.
    """
    before = after = _present_text(paths)
    changes: dict[tuple[str, ...], Any] = {}
    if instead_of is not None:
        changes[instead_of] = None
        after = without_table(after, instead_of)
    for key, value in values.items():
        _known(key)
        changes[path := tuple(key.split("."))] = value
        after = edit(after, path, literal(value))
    try:
        check_document(after, paths.config_file)
    except ConfigError as error:
        # The file was sound before: either a value is not, or it is written in a way that lines cannot be added to.
        raise ConfigError(
            f"cannot set {', '.join(values)} by editing lines of {paths.config_file}: {error.message}",
            hint="edit the file by hand",
        ) from error
    if not _is_changed(before, after, changes):
        raise ConfigError(
            f"cannot set {', '.join(values)} by editing lines of {paths.config_file}", hint="edit the file by hand"
        )
    write_private_file(os.path.realpath(paths.config_file), after.encode("utf-8"))


@one_writer(_file, may_begin=False)
def unset_value(paths: Paths, key: str) -> None:
    """Take a key, `SECTION.NAME` or `profiles.NAME` out of the user's file.

    Raises `UsageError` for an unknown key, `NotFoundError` (`config_key_not_set`)
    when the file does not set it, `ConfigError` when the file is broken or the
    key stands in a way that lines cannot be taken from, and as `paths.unusable_path`.
    """
    parts = tuple(key.split("."))
    is_table = len(parts) == 2 and (parts[0] in NAMED_SECTIONS or parts[0] == PROFILES) and all(parts)
    if not is_table:
        _known(key)
    before = _present_text(paths)
    if _value_at(before, key) is None:
        raise NotFoundError(
            f"{paths.config_file} does not set {key}", code="config_key_not_set", hint="see: lash config show --origin"
        )
    after = _without(before, parts)
    if not _is_changed(before, after, {parts: None}):
        raise ConfigError(f"cannot take {key} out of {paths.config_file} by its lines", hint="edit the file by hand")
    check_document(after, paths.config_file)
    write_private_file(os.path.realpath(paths.config_file), after.encode("utf-8"))


def _value_at(text: str, key: str) -> Any:
    """What a sound file sets a key to, None when it does not."""
    import tomllib

    value: Any = tomllib.loads(text)
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _is_changed(before: str, after: str, changes: Mapping[tuple[str, ...], Any]) -> bool:
    """Whether `after` says what `before` says with `changes`, and nothing else; None takes away what is there."""
    import tomllib

    try:
        left = tomllib.loads(after)
    except tomllib.TOMLDecodeError:
        return False
    wanted = tomllib.loads(before)
    for path, value in changes.items():
        wanted = _with(wanted, path, value)
    return _without_empty(wanted) == _without_empty(left)


def _without_empty(table: dict[str, Any]) -> dict[str, Any]:
    """`table` without tables that hold nothing: whether their header is left makes no difference."""
    shrunk = {name: _without_empty(item) if isinstance(item, dict) else item for name, item in table.items()}
    return {name: item for name, item in shrunk.items() if item != {}}


@one_writer(_file, may_begin=False)
def remove_table(paths: Paths, section: str, name: str) -> bool:
    """Take `[SECTION.NAME]` out of the user's file; False when it is not in it.

    Raises `ConfigError` when the present file is broken or it stands in a way
    that lines cannot be taken from, and as `paths.unusable_path`.
    """
    before = _present_text(paths)
    if _value_at(before, f"{section}.{name}") is None:
        return False
    after = without_table(before, (section, name))
    if not _is_changed(before, after, {(section, name): None}):
        raise ConfigError(f"cannot take {section}.{name} out of {paths.config_file}", hint="edit the file by hand")
    write_private_file(os.path.realpath(paths.config_file), after.encode("utf-8"))
    return True


def _present_text(paths: Paths) -> str:
    """The user's file, checked; empty when there is none."""
    try:
        with open(paths.config_file, encoding="utf-8", opener=only_regular) as file:
            text = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        raise ConfigError(f"cannot read {paths.config_file}: {error.strerror}", code="permissions_unsafe") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{paths.config_file}: not valid UTF-8 at byte {error.start}") from error
    check_document(text, paths.config_file)
    return text


def _known(key: str) -> tuple[Option, str, tuple[str, ...]]:
    head, _, rest = key.partition(".")
    name, _, inner = rest.partition(".")
    try:
        return find_option(inner if head == PROFILES and name and inner else key)
    except UnknownKey as error:
        raise unknown_key(error, key) from error


def unknown_key(error: UnknownKey, key: str) -> UsageError:
    """What to tell whoever named `key`, which is none: the nearest one, or what is in a table of that name."""
    parts = tuple(error.key.split("."))
    if is_group(parts):
        section = parts[0]
        names = NAMED_SECTIONS.get(section) or SECTIONS.get(section) or ("KEY",)
        table = f"{section}.NAME" if section in NAMED_SECTIONS and len(parts) == 1 else error.key
        keys = ", ".join(f"{table}.{name}" for name in names)
        return UsageError(f"{key!r} is a table and no key", hint=f"in it are: {keys}")
    hint = f"did you mean: {error.nearest}" if error.nearest else "see: lash config show"
    return UsageError(f"unknown configuration key {key!r}", hint=hint)


def _checked(option: Option, key: str, text: str, inside: tuple[str, ...]) -> Any:
    try:
        value = parse_within(option, inside, text) if inside else parse_text(option, text)
    except ValueError as error:
        hint = "store the key with: lash key set NAME" if option.kind == "key_source" else "see: lash config show"
        if not text.strip():
            hint = f"to go without it: lash config unset {key}"
        raise UsageError(f"{key}: {error}", hint=hint) from error
    return text.strip() if option.kind in ("duration", "age") else value


def edit(text: str, path: tuple[str, ...], value: str) -> str:
    """`text` with the assignment of `path` replaced or added in its section; comments stay.

    A profile is one table with dotted keys, unless the file has a table for the
    section in it. Raises `ConfigError` when the present value spans several
    lines, or `path` leads through a value that is no table.
    """
    import tomllib

    around = _inline_table(text, path)
    if around is not None:
        whole, table = around
        changed = _with(table, path[len(whole) :], tomllib.loads(f"value = {value}")["value"])
        if tomllib.loads(f"value = {literal(changed)}")["value"] != changed:
            raise ConfigError(f"{_dotted(whole)} holds what cannot be written again", hint="edit the file by hand")
        return edit(text, whole, literal(changed))
    lines = lines_of(text)
    section = path[:-1]
    last_of: dict[tuple[str, ...], int] = {}
    current: tuple[str, ...] = ()
    for number, found, is_header in assignments(text):
        if not is_header and found == path:
            lines[number - 1] = _replaced(lines[number - 1], value)
            return "\n".join(lines) + "\n"
        current = found if is_header else current
        last_of[current] = number
    if section not in last_of and path[0] == PROFILES:
        section = path[:2]
    addition = f"{_dotted(path[len(section) :])} = {value}"
    if section in last_of:
        lines.insert(end_of_value(lines, last_of[section]), addition)
    else:
        if lines and lines[-1].strip():
            lines.append("")
        lines += [f"[{_dotted(section)}]", addition]
    return "\n".join(lines) + "\n"


def _inline_table(text: str, path: tuple[str, ...]) -> tuple[tuple[str, ...], Any] | None:
    """The assignment of a table in braces that `path` leads into, and what it holds; None when there is none."""
    import tomllib

    for _, found, is_header in assignments(text):
        if not is_header and len(found) < len(path) and path[: len(found)] == found:
            value: Any = tomllib.loads(text)
            for part in found:
                value = value[part]
            return found, value
    return None


def _with(table: Any, path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """A copy of `table` with `value` at `path`; None takes away what is there."""
    if not isinstance(table, dict):
        raise ConfigError(f"what stands above {path[0]} is a value and no table", hint="edit the file by hand")
    changed = dict(table)
    if len(path) > 1:
        changed[path[0]] = _with(changed.get(path[0], {}), path[1:], value)
    elif value is None:
        changed.pop(path[0], None)
    else:
        changed[path[0]] = value
    return changed


def _without(text: str, path: tuple[str, ...]) -> str:
    """`text` without `path`, which may stand in a table in braces."""
    around = _inline_table(text, path)
    if around is None:
        return without_table(text, path)
    whole, table = around
    left = _without_empty(_with(table, path[len(whole) :], None))
    return edit(text, whole, literal(left)) if left else without_table(text, whole)


def without_table(text: str, path: tuple[str, ...]) -> str:
    """`text` without every header and assignment at or below `path`.

    Comments between them go too; those above the first and below the last stay.
    """
    lines = lines_of(text)
    gone: set[int] = set()
    inside_since: int | None = None  # the first line after what was removed last, while nothing else came between
    for number, found, is_header in assignments(text):
        if found[: len(path)] != path:
            inside_since = None
            continue
        end = number if is_header else end_of_value(lines, number)
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
    left_open = scan_line(line)
    if left_open.goes_on:
        raise ConfigError("the present value spans several lines", hint="edit the file by hand")
    head, _, rest = line.partition("=")
    spacing = rest[: len(rest) - len(rest.lstrip())] or " "
    comment = "" if left_open.comment is None else f"  {line[left_open.comment :]}"
    return f"{head}={spacing}{value}{comment}"


def _dotted(path: tuple[str, ...]) -> str:
    return ".".join(_bare(part) for part in path)


def _bare(name: str) -> str:
    is_bare = name.isascii() and name.replace("-", "a").replace("_", "a").isalnum()
    return name if is_bare else quoted(name)


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
