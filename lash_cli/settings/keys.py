"""Keys: where they are kept and how one is fetched when a provider is built (contract 08 §6.8).

`keys.toml` is 0600 in the configuration directory and is refused when others
can read it. With the extra `[keyring]` new keys go into the system's keyring;
its names stand in the same file, since a keyring cannot be listed. A key is
fetched from its source only at the moment it is used, is known to the redactor
from then on, and is never part of an error.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple

from lash_cli.errors import ConfigError, NotFoundError, UsageError
from lash_cli.paths import Paths, only_regular, readable_hint, shared_bits, write_private_file
from lash_cli.settings.editing import quoted
from lash_cli.settings.one_writer import one_writer
from lash_cli.settings.redact import redact, remember
from lash_cli.settings.toml import parse_toml

if TYPE_CHECKING:
    import subprocess

KEY_COMMAND_TIMEOUT_SECONDS = 10.0
_LONGEST_KEY_BYTES = 64 * 1024
_POLL_SECONDS = 0.05
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_TAIL_SHOWN = 4
_MINIMUM_TO_SHOW_TAIL = 12
_KEYRING_SERVICE = "lash"
_KEYRING_EXTRA = "install the extra: pip install 'lash-cli[keyring]'"

Place = Literal["file", "keyring"]


def _file(paths: Paths) -> str:
    return paths.keys_file


class StoredKeys(NamedTuple):
    """What `keys.toml` holds: keys by name, and the names of those in the keyring."""

    in_file: dict[str, str]
    in_keyring: tuple[str, ...]

    def source(self, name: str) -> str | None:
        """Where the key of a name is kept, None when there is none."""
        if name in self.in_file:
            return f"keys:{name}"
        return f"keyring:{name}" if name in self.in_keyring else None


def read_keys(paths: Paths) -> dict[str, str]:
    """The keys in the file by name; see `read_stored`."""
    return read_stored(paths).in_file


def read_stored(paths: Paths) -> StoredKeys:
    """What is stored; nothing when there is no file.

    Raises `ConfigError`: `permissions_unsafe` when others can read the file,
    `config_invalid` when it is no table of texts.
    """
    path = paths.keys_file
    if shared_bits(path):
        raise unsafe_file(path)
    try:
        with open(path, "rb", opener=only_regular) as file:
            document = parse_toml(file.read().decode("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return StoredKeys({}, ())
    except OSError as error:
        message = f"cannot read {path}: {error.strerror}"
        raise ConfigError(message, code="permissions_unsafe", hint=readable_hint(path)) from error
    except ValueError:
        raise ConfigError(f"{path} is not valid TOML", hint="repair it, or remove it and set the keys again") from None
    keys = document.get("keys", {})
    if not isinstance(keys, dict) or not all(isinstance(value, str) for value in keys.values()):
        raise ConfigError(f"{path}: expected a [keys] table of texts")
    table = document.get("keyring", {})
    names = table.get("names", []) if isinstance(table, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{path}: expected a [keyring] table with a list of names")
    for value in keys.values():
        remember(value)
    return StoredKeys(dict(keys), tuple(names))


def unsafe_file(path: str) -> ConfigError:
    """The error for a file with a secret that others can read."""
    return ConfigError(
        f"others can read {path}", code="permissions_unsafe", hint=f"chmod 600 {path}", details={"path": path}
    )


@one_writer(_file, may_begin=True)
def store_key(paths: Paths, name: str, value: str, *, place: Place | None = None) -> str:
    """Add or replace a key and return its source.

    Without a `place` a key stays where one of its name is, and a new one goes
    into the keyring if there is one that works, else into the file. Raises
    `UsageError` for a bad name or an empty or multi-line value, `ConfigError`
    (`keyring_unavailable`) when the keyring is asked for and does not work.
    """
    check_name(name)
    key = value.strip()
    remember(key)
    if not key:
        raise UsageError("the key is empty; nothing was stored")
    if not key.isprintable() or " " in key:
        raise UsageError("a key is one line of printable characters without spaces; nothing was stored")
    stored = read_stored(paths)
    if place is None:
        known = stored.source(name)
        place = "keyring" if (known or "").startswith("keyring:") or (known is None and has_keyring()) else "file"
    in_file = {known: text for known, text in stored.in_file.items() if known != name}
    in_keyring = {known for known in stored.in_keyring if known != name}
    if place == "keyring":
        _into_keyring(name, key)
        in_keyring.add(name)
    else:
        in_file[name] = key
    _write(paths, in_file, in_keyring)
    if place == "file" and name in stored.in_keyring:
        try:
            _out_of_keyring(name)
        except ConfigError as error:
            message = f"the key is in {paths.keys_file} now, but the old one is not gone: {error.message}"
            raise ConfigError(message, code=error.code, hint=error.hint) from None
    return f"keyring:{name}" if place == "keyring" else f"keys:{name}"


@one_writer(_file, may_begin=False)
def forget_key(paths: Paths, name: str) -> str:
    """Remove a key and return its source. Raises `NotFoundError` (`key_not_found`) when there is none of that name."""
    stored = read_stored(paths)
    source = stored.source(name)
    if source is None:
        raise NotFoundError(f"no stored key {name!r}", code="key_not_found", hint="list them with: lash key ls")
    if name in stored.in_keyring:
        _out_of_keyring(name)
    in_file = {known: text for known, text in stored.in_file.items() if known != name}
    _write(paths, in_file, {known for known in stored.in_keyring if known != name})
    return source


def _write(paths: Paths, in_file: Mapping[str, str], in_keyring: Collection[str]) -> None:
    lines = ["# Written by `lash key`. Keep it readable by its owner only.", "[keys]"]
    lines += [f"{name} = {quoted(value)}" for name, value in sorted(in_file.items())]
    if in_keyring:
        lines += ["", "[keyring]", f"names = [{', '.join(quoted(name) for name in sorted(in_keyring))}]"]
    write_private_file(paths.keys_file, ("\n".join(lines) + "\n").encode("utf-8"))


def check_name(name: str) -> None:
    """Raises `UsageError` unless `name` may name a key. The text is not repeated: it may be the key itself."""
    hint = "for example: lash key set openai"
    if _NAME.fullmatch(name) is None:
        raise UsageError("a key name is 1 to 64 letters, digits, - or _", hint=hint)
    if redact(name) != name:
        remember(name)
        raise UsageError("that looks like the key itself; what is wanted is a name for it", hint=hint)


def last_four(value: str) -> str:
    """The end of a key for recognising it, or only dots when that would be too much of it."""
    return f"…{value[-_TAIL_SHOWN:]}" if len(value) >= _MINIMUM_TO_SHOW_TAIL else "…"


def fetch_key(source: str, paths: Paths, environment: Mapping[str, str], *, wanted_by: str) -> str:
    """The key behind `keys:NAME`, `env:NAME`, `file:PATH`, `cmd:COMMAND` or `keyring:NAME`.

    Raises `ConfigError`: `key_missing`, or `permissions_unsafe` for a file
    others can read.
    """
    scheme, _, rest = source.partition(":")
    rest = rest.strip()
    match scheme:
        case "keys":
            value = read_keys(paths).get(rest)
        case "env":
            value = environment.get(rest)
        case "file":
            value = _from_file(os.path.expanduser(rest), wanted_by)
        case "cmd":
            value = _from_command(rest, wanted_by)
        case "keyring":
            value = _from_keyring(rest, wanted_by)
        case _:
            raise ConfigError(f"{wanted_by}: unknown key source {scheme!r}")
    if value is None or not value.strip():
        raise _missing(wanted_by, source, _advice(scheme, rest))
    key = value.strip()
    remember(key)
    return key


def _advice(scheme: str, rest: str) -> str:
    if scheme == "keys":
        return f"store it with: lash key set {rest}"
    if scheme == "env":
        return f"set {rest} in the environment"
    return "the source gave nothing"


def _missing(wanted_by: str, source: str, hint: str) -> ConfigError:
    return ConfigError(f"no key for {wanted_by} in {source}", code="key_missing", hint=hint)


def _from_file(path: str, wanted_by: str) -> str | None:
    if shared_bits(path):
        raise unsafe_file(path)
    try:
        with open(path, encoding="utf-8", opener=only_regular) as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise _missing(wanted_by, f"file:{path}", f"cannot read it: {reason}") from error


def _from_command(command: str, wanted_by: str) -> str | None:
    """The first line a command prints; its output is never shown, whatever it says."""
    import shlex
    import subprocess

    try:
        with subprocess.Popen(
            shlex.split(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            try:
                line, status = _first_line(process)
            except BaseException:
                process.kill()
                raise
    except subprocess.TimeoutExpired:
        hint = f"the command took longer than {KEY_COMMAND_TIMEOUT_SECONDS:g} s"
        raise _missing(wanted_by, "the key command", hint) from None
    except (OSError, ValueError) as error:
        raise _missing(wanted_by, "the key command", f"it cannot be run: {type(error).__name__}") from None
    if status != 0:
        raise _missing(wanted_by, "the key command", f"it ended with status {status}")
    return line.decode("utf-8", "replace")


def _first_line(process: subprocess.Popen[bytes]) -> tuple[bytes, int]:
    """The first line of a program, cut where no key is that long, and its exit status.

    What follows is read and forgotten, so that a program that prints more does
    not fail; and a helper it leaves running, which may hold the pipe open, is
    not waited for. Raises `subprocess.TimeoutExpired`.
    """
    import select
    import time

    assert process.stdout is not None
    deadline = time.monotonic() + KEY_COMMAND_TIMEOUT_SECONDS
    pipe, kept = process.stdout.fileno(), b""
    while time.monotonic() < deadline:
        has_ended = process.poll() is not None
        if select.select([pipe], [], [], 0 if has_ended else _POLL_SECONDS)[0]:
            chunk = os.read(pipe, _LONGEST_KEY_BYTES)
            if b"\n" not in kept and len(kept) < _LONGEST_KEY_BYTES:
                kept += chunk
            if chunk:
                continue
            break
        if has_ended:
            break
    status = process.wait(max(0.0, deadline - time.monotonic()))
    return kept.partition(b"\n")[0], status


def _from_keyring(name: str, wanted_by: str) -> str | None:
    try:
        import keyring
    except ImportError:
        raise _missing(wanted_by, f"keyring:{name}", _KEYRING_EXTRA) from None
    try:
        value: str | None = keyring.get_password(_KEYRING_SERVICE, name)
    except Exception as error:  # noqa: BLE001 - backends raise whatever their system raises
        raise _missing(wanted_by, f"keyring:{name}", f"the keyring failed: {type(error).__name__}") from None
    return value


def has_keyring() -> bool:
    """Whether the extra is installed and found a keyring of the system that works."""
    try:
        import keyring
    except ImportError:
        return False
    try:
        return float(keyring.get_keyring().priority) > 0  # the backend that only fails has 0
    except Exception:  # noqa: BLE001 - a backend that cannot say so does not work
        return False


def _into_keyring(name: str, key: str) -> None:
    try:
        import keyring
    except ImportError:
        raise ConfigError("there is no keyring", code="keyring_unavailable", hint=_KEYRING_EXTRA) from None
    try:
        keyring.set_password(_KEYRING_SERVICE, name, key)
    except Exception as error:  # noqa: BLE001 - backends raise whatever their system raises
        raise ConfigError(
            f"the keyring did not take the key: {type(error).__name__}",
            code="keyring_unavailable",
            hint=f"keep it in a file only you can read: lash key set {name} --in file",
        ) from None


def _out_of_keyring(name: str) -> None:
    """Remove a key; one that is not there any more is gone already."""
    try:
        import keyring
    except ImportError:
        raise ConfigError("there is no keyring", code="keyring_unavailable", hint=_KEYRING_EXTRA) from None
    try:
        if keyring.get_password(_KEYRING_SERVICE, name) is not None:
            keyring.delete_password(_KEYRING_SERVICE, name)
    except Exception as error:  # noqa: BLE001 - backends raise whatever their system raises
        raise ConfigError(
            f"the keyring did not give the key up: {type(error).__name__}",
            code="keyring_unavailable",
            hint="remove it with the program of your system, then try again",
        ) from None
