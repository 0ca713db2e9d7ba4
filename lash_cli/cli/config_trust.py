"""`lash config trust` (contract 08 §6.7): let a project's file set what could send a key somewhere else.

Trust is for the file as it stands now. What it would set is listed, so that it
can be seen before and after; `--revoke` takes it back.
"""

from __future__ import annotations

import os
from typing import Annotated

import typer

from lash_cli.cli.asking import confirm
from lash_cli.cli.invocation import current
from lash_cli.cli.output import Document, emit_many, emit_one, say, tell
from lash_cli.errors import NotFoundError, UsageError
from lash_cli.paths import absolute, current_directory, only_regular
from lash_cli.settings.loading import PROJECT_FILE, find_project_file, read_project, restricted_keys


def command(
    directory: Annotated[
        str | None, typer.Argument(metavar="[DIR]", help="The project; the one around this directory otherwise.")
    ] = None,
    revoke: Annotated[bool, typer.Option("--revoke", help="Trust it no more.")] = False,
    list_all: Annotated[bool, typer.Option("--list", help="List what is trusted.")] = False,
) -> int:
    """Trust the .lash/config.toml of a project, as it stands.

    Without trust a project may set the model, the system prompt, labels and
    how the chat looks. With it, it may set everything, providers and where
    their keys are sent among it. Asks first; --yes answers. A file that changes
    has to be trusted again.
    """
    current().stand_alone()
    from lash_cli.settings.trust import distrust, read_trusted

    if list_all:
        items = [_item(one.file) for one in read_trusted(current().paths)]
        emit_many("TrustList", items, columns=("directory", "state"))
        return 0
    file = _project_file(directory)
    if revoke:
        was_trusted = distrust(current().paths, file)
        emit_one("ProjectTrust", _document(file, trusted=False, keys=[]), text="")
        say(f"{file} is {'trusted no more' if was_trusted else 'not trusted'}")
        return 0
    return _trust(file)


def _trust(file: str) -> int:
    from lash_cli.settings.redact import masked
    from lash_cli.settings.trust import trust
    from lash_cli.views.turn_text import asked_text

    text, values = read_project(file)
    keys = restricted_keys(values)
    if keys:
        tell("\n".join(f"{key} = {asked_text(masked(values[key].value))}" for key in keys))
        confirm(f"let {file} set {', '.join(keys)}?")
    trust(current().paths, file, text)
    emit_one("ProjectTrust", _document(file, trusted=True, keys=keys), text="")
    if keys:
        say(f"{file} may set {', '.join(keys)} until it changes; see: lash config show --origin")
    else:
        say(f"{file} sets nothing that needs to be trusted")
    return 0


def _project_file(directory: str | None) -> str:
    """The project file meant; it need not be there any more when its directory is named."""
    if directory is None:
        found = find_project_file(current_directory())
        if found is None:
            raise NotFoundError(
                f"there is no {PROJECT_FILE} in this directory or above it",
                code="project_file_not_found",
                hint="name the project: lash config trust DIR",
            )
        return found
    if os.path.basename(directory) == os.path.basename(PROJECT_FILE):
        raise UsageError("name the directory of the project, not its file")
    return os.path.join(absolute(os.path.expanduser(directory)), PROJECT_FILE)


def _document(file: str, *, trusted: bool, keys: list[str]) -> Document:
    directory = os.path.dirname(os.path.dirname(file))
    return {"id": directory, "directory": directory, "file": file, "trusted": trusted, "keys": keys}


def _item(file: str) -> Document:
    from lash_cli.settings.trust import standing

    directory = os.path.dirname(os.path.dirname(file))
    try:
        with open(file, encoding="utf-8", errors="replace", opener=only_regular) as opened:
            state: str = standing(current().paths, file, opened.read())
    except OSError:
        state = "absent"  # or out of reach: it is not read then either
    return {"id": directory, "directory": directory, "file": file, "state": state}
