"""Which project files the user trusts (contract 08 §6.7): a cloned repository must not be able to redirect a key.

Trust is given to a file as it stands: it is kept as the hash of the content
under the file's real path, in a private file of the state directory. A file
that changes, by a pull for example, is not trusted any more until the user has
looked at it again.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import Literal, NamedTuple

from lash_cli.errors import ConfigError
from lash_cli.paths import Paths, only_regular, shared_bits, write_private_file
from lash_cli.settings.one_writer import one_writer

_FILE = "trusted.json"
_VERSION = 1

Standing = Literal["trusted", "changed", "unknown"]


class Trusted(NamedTuple):
    """A project file that was trusted, and the SHA-256 of what it said then."""

    file: str
    sha256: str


def trust_file(paths: Paths) -> str:
    """Where it is kept."""
    return os.path.join(paths.state_dir, _FILE)


def read_trusted(paths: Paths) -> list[Trusted]:
    """Every trusted file, sorted. Raises `ConfigError`: `permissions_unsafe` when others can write the list,
    `config_invalid` when it is damaged."""
    path = trust_file(paths)
    if shared_bits(path) & 0o022:
        raise ConfigError(
            f"others can write {path}", code="permissions_unsafe", hint=f"chmod 600 {path}", details={"path": path}
        )
    try:
        with open(path, "rb", opener=only_regular) as file:
            document = json.load(file)
        files = document["files"]
        if document["version"] != _VERSION or not isinstance(files, dict):
            raise ValueError("not a list of trusted files")
        return sorted(Trusted(str(name), str(sha256)) for name, sha256 in files.items())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", code="permissions_unsafe") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is damaged", hint="remove it and trust what you need again") from error


def standing(paths: Paths, file: str, text: str) -> Standing:
    """Whether a project file with that content is trusted; `changed` when another content was."""
    known = {one.file: one.sha256 for one in read_trusted(paths)}.get(os.path.realpath(file))
    if known is None:
        return "unknown"
    return "trusted" if known == _hash(text) else "changed"


@one_writer(trust_file, may_begin=True)
def trust(paths: Paths, file: str, text: str) -> None:
    """Trust `file` as long as it says `text`. Raises as `read_trusted` and `paths.unusable_path`."""
    known = {one.file: one.sha256 for one in read_trusted(paths)}
    known[os.path.realpath(file)] = _hash(text)
    _write(paths, known)


@one_writer(trust_file, may_begin=False)
def distrust(paths: Paths, file: str) -> bool:
    """Trust `file` no more; False when it was not trusted."""
    known = {one.file: one.sha256 for one in read_trusted(paths)}
    was_known = known.pop(os.path.realpath(file), None) is not None
    if was_known:
        _write(paths, known)
    return was_known


def _write(paths: Paths, known: dict[str, str]) -> None:
    document = {"version": _VERSION, "files": dict(sorted(known.items()))}
    write_private_file(trust_file(paths), (json.dumps(document, indent=1) + "\n").encode("utf-8"))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
