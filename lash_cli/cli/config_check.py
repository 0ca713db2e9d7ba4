"""`lash config validate` (contract 08 §6.7): every mistake at once, each with file, line and the nearest valid key.

Beyond what loading checks, every model, provider and key binding is made as it
would be when it is used. Nothing is called and no key is fetched.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial
from typing import Annotated

import typer

from lash_cli.cli.invocation import current
from lash_cli.cli.output import Document, emit_one, warn
from lash_cli.errors import ConfigError, LashError, NotFoundError
from lash_cli.paths import absolute, current_directory, only_regular
from lash_cli.settings.loading import Problem, check_document, find_project_file, problems_in
from lash_cli.settings.values import Settings

_PLACE = re.compile(r"(?:user|project) (.+):(\d+)")


def command(
    file: Annotated[
        str | None, typer.Argument(metavar="[FILE]", help="A file to check; the ones in force otherwise.")
    ] = None,
) -> int:
    """Check configuration files and name every mistake in them, with its line.

    Without FILE that is the user's file, the project's, the environment and
    -c. Whether the models, providers and keys they describe can be made is
    checked too; nobody is called.
    """
    files = [_named(file)] if file is not None else _in_force()
    problems = [
        problem for one in files if one["exists"] for problem in problems_in(_text_of(one["path"]), one["path"])
    ]
    if not problems:
        problems = what_cannot_be_made(current().settings if file is None else _settings_of(files[0]["path"]))
    if problems:
        raise ConfigError(
            "\n".join(str(problem) for problem in problems),
            hint="see what there is: lash config show, lash config schema",
            details={"problems": [problem._asdict() for problem in problems]},
        )
    document: Document = {"id": files[0]["path"], "valid": True, "files": files}
    emit_one("ConfigCheck", document, text=_report(files))
    return 0


def _named(path: str) -> Document:
    if not os.path.isfile(path):
        raise NotFoundError(f"there is no file {path}", code="config_file_not_found", details={"path": path})
    return {"path": absolute(path), "role": "named", "exists": True}


def _settings_of(path: str) -> Settings:
    """What a file says by itself, read as the user's."""
    return Settings(check_document(_text_of(path), path))


def _in_force() -> list[Document]:
    user = current().paths.config_file
    files: list[Document] = [{"path": user, "role": "user", "exists": os.path.isfile(user)}]
    project = find_project_file(current_directory())
    if project is not None and os.path.realpath(project) != os.path.realpath(user):
        files.append({"path": project, "role": "project", "exists": True})
    return files


def _text_of(path: str) -> str:
    try:
        with open(path, encoding="utf-8", opener=only_regular) as file:
            return file.read()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", code="permissions_unsafe") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not valid UTF-8 at byte {error.start}") from error


def what_cannot_be_made(settings: Settings) -> list[Problem]:
    """The models, providers and key bindings that would fail when they are used."""
    from lash_cli.settings.providers import LOOPBACK, require_provider
    from lash_cli.wiring import model_spec

    environment = current().environment
    found: list[Problem] = []

    def attempt(key: str, make: Callable[[], object]) -> None:
        try:
            make()
        except LashError as error:
            hint = f" ({error.hint})" if error.hint else ""
            found.append(_problem(settings, key, f"{key}: {error.message}{hint}"))

    for name in settings.names("models"):
        attempt(f"models.{name}", partial(model_spec, settings, name))
    for name in settings.names("providers"):
        if name != LOOPBACK:
            attempt(f"providers.{name}", partial(_make_provider, settings, name))
    if settings.default_provider is not None:
        attempt("defaults.provider", partial(require_provider, settings, environment, settings.default_provider))
    keys = settings.get("repl.keys")
    if keys:
        from lash_cli.repl.bindings import check_keys  # only then: it knows the keys of a terminal (design D16)

        attempt("repl.keys", partial(check_keys, keys))
    if settings.retention_max_age is not None and settings.retention_max_age < settings.retention_min_age:
        found.append(_problem(settings, "retention.max_age", "retention.max_age: it is less than retention.min_age"))
    return found


def _make_provider(settings: Settings, name: str) -> None:
    from lash_cli.cli.provider_commands import check_provider
    from lash_cli.settings.providers import available_provider

    provider = available_provider(settings, current().environment, name)
    check_provider(provider.name, provider.kind, provider.base_url, dict(provider.options))


def _problem(settings: Settings, key: str, message: str) -> Problem:
    """A problem at the place where the first value at or below `key` was set."""
    origins = [origin for name, _, origin in settings.rows() if name == key or name.startswith(f"{key}.")]
    place = next((match for origin in origins if (match := _PLACE.fullmatch(origin))), None)
    if place is None:
        return Problem(origins[0] if origins else "built-in", 1, key, message)
    return Problem(place[1], int(place[2]), key, message)


def _report(files: list[Document]) -> str:
    from lash_cli.views.tables import columns

    missing = [one["path"] for one in files if not one["exists"]]
    if missing and len(missing) == len(files):
        warn(f"there is no {missing[0]}; everything is as it is built in")
    return columns(
        ("FILE", "ROLE", "STATE"), [(one["path"], one["role"], "valid" if one["exists"] else "absent") for one in files]
    )
