"""`lash help [TOPIC]`: the guide by topic, and the help of every command (contract 08 §11).

A topic is a file of `lash_cli/docs`. A word that is a topic and a command is the
topic; the command has its `--help`.
"""

from __future__ import annotations

import shutil
from typing import Annotated

import typer

from lash_cli import docs
from lash_cli.cli.invocation import current
from lash_cli.cli.output import emit_many, emit_one, safe, say
from lash_cli.cli.paging import write_paged
from lash_cli.core.nearest import did_you_mean
from lash_cli.errors import NotFoundError

_WIDTH = 100


def command(
    topic: Annotated[
        list[str] | None, typer.Argument(metavar="[TOPIC]", help="A topic, or a command such as: queue add.")
    ] = None,
) -> int:
    """Read the guide: a topic in full, or the list of them.

    On a terminal a long text opens in a pager; elsewhere it is Markdown as it
    is written. With the name of a command it prints what --help of it prints.
    """
    current().stand_alone()
    words = topic or []
    if not words:
        items = [{"id": name, "title": title} for name, title in topics().items()]
        emit_many("TopicList", items, columns=("id", "title"))
        say("read one with: lash help TOPIC; of a command: lash COMMAND --help")
        return 0
    name = docs.ALIASES.get(words[0], words[0])
    if len(words) == 1 and name in docs.names():
        return _show(name)
    return _help_of_command(words)


def topics() -> dict[str, str]:
    """Every topic and its title, in order."""
    return {name: docs.title(name) for name in docs.names()}


def _show(name: str) -> int:
    from lash_cli.cli.table import COMMANDS, find

    text, options = docs.read(name), current().output
    if options.format == "text" and options.is_terminal and not (options.plain or options.ascii):
        _show_on_terminal(text)
    else:
        emit_one("Topic", {"id": name, "title": docs.title(name), "text": text}, text=safe(text))
    if find(COMMANDS, name) is not None:
        say(f"of the command: lash {name} --help")
    return 0


def _show_on_terminal(text: str) -> None:
    """Set for the width of the terminal, and through a pager when it is longer than that."""
    from rich.console import Console
    from rich.markdown import Markdown

    options = current().output
    columns = options.columns or shutil.get_terminal_size().columns
    console = Console(
        no_color=not options.color, force_terminal=True, highlight=False, width=min(columns, _WIDTH) or _WIDTH
    )
    with console.capture() as captured:
        console.print(Markdown(text, hyperlinks=False))
    write_paged(captured.get())


def _help_of_command(words: list[str]) -> int:
    from lash_cli.cli.table import COMMANDS, dispatch, find

    entries = COMMANDS
    for word in words:
        entry = find(entries, word)
        if entry is None:
            raise _unknown(words)
        entries = entry.verbs
    return dispatch([*words, "--help"])


def _unknown(words: list[str]) -> NotFoundError:
    from lash_cli.cli.table import COMMANDS

    name = " ".join(words)
    # One that is a topic and a command is one word to try.
    known = {*docs.names(), *docs.ALIASES, *(entry.name for entry in COMMANDS)}
    hint, nearest = did_you_mean(name, known, "list them with: lash help", before="lash help ", most=3)
    return NotFoundError(
        f"there is no topic and no command {name!r}",
        code="topic_not_found",
        hint=hint,
        details={"topic": name, "nearest": nearest},
    )
