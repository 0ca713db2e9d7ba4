"""The help of every command is pinned, so that whoever changes it sees what a person will read (contract 08 §13).

What lash says is pinned and not how the parser lays it out, which differs from
one release of it to the next. After a change that is meant, write it anew:
LASH_WRITE_GOLDEN=1 pytest tests/cli/test_help.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lash_cli.cli.globals import HELP_ROWS
from lash_cli.cli.table import COMMANDS, Entry, load

GOLDEN = Path(__file__).parent / "golden" / "help"
IS_WRITING = os.environ.get("LASH_WRITE_GOLDEN") == "1"
ROOT = "lash"


def entries() -> Iterator[tuple[str, Entry]]:
    for entry in COMMANDS:
        yield entry.name, entry
        for verb in entry.verbs:
            yield f"{entry.name} {verb.name}", verb


NAMED = dict(entries())


def rows_of(listed: tuple[Entry, ...]) -> list[str]:
    return [f"{', '.join((entry.name, *entry.aliases))}: {entry.summary}" for entry in listed]


def help_of(words: str) -> str:
    """Everything that lash itself says in the help of a command."""
    if words == ROOT:
        return "\n".join([*rows_of(COMMANDS), "", *(f"{left}: {right}" for left, right in HELP_ROWS)]) + "\n"
    entry = NAMED[words]
    command = load(entry)
    lines = [(command.help or "").replace("\b\n", ""), *rows_of(entry.verbs)]
    for parameter in command.params:
        if "--help" not in parameter.opts:
            named = ", ".join((*parameter.opts, *parameter.secondary_opts))
            metavar = f" {parameter.metavar}" if parameter.metavar else ""
            lines.append(f"{named}{metavar}: {parameter.help}")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("words", [ROOT, *NAMED])
def test_the_help_of_a_command_is_the_pinned_one(words: str) -> None:
    path = GOLDEN / f"{words.replace(' ', '-')}.txt"
    if IS_WRITING:
        path.parent.mkdir(exist_ok=True)
        path.write_text(help_of(words), encoding="utf-8")
    assert path.exists() and path.read_text(encoding="utf-8") == help_of(words), "write it anew: LASH_WRITE_GOLDEN=1"


def test_nothing_is_pinned_of_a_command_that_is_gone() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == {words.replace(" ", "-") for words in (ROOT, *NAMED)}


def test_a_topic_that_is_not_there_names_what_to_type_instead_once(lash) -> None:
    refused = lash("help", "queu")
    assert refused.code == 3
    assert "hint: did you mean: lash help queue or lash help enqueue\n" in refused.err
    assert "hint: list them with: lash help\n" in lash("help", "nothing at all").err
