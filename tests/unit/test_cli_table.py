"""The command table: every command loads, its help begins with an example, and every example parses."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import pytest

from lash_cli.cli.globals import hoist
from lash_cli.cli.table import COMMANDS, Entry, dispatch, find, load
from lash_cli.errors import UsageError


def commands() -> Iterator[tuple[str, Entry]]:
    """Every command that does something, by the words that call it."""
    for entry in COMMANDS:
        if not entry.verbs:
            yield entry.name, entry
        for verb in entry.verbs:
            yield f"{entry.name} {verb.name}", verb


NAMED = dict(commands())


@pytest.mark.parametrize("words", NAMED)
def test_help_begins_with_an_example_and_then_says_what_it_does(words: str) -> None:
    text = load(NAMED[words]).help or ""
    head, _, rest = text.partition("\n\n")
    assert head == f"\b\nExample: {NAMED[words].example}" and rest.strip()
    assert all(parameter.help for parameter in load(NAMED[words]).params if parameter.name != "help"), "say what it is"


@pytest.mark.parametrize("words", NAMED)
def test_every_example_parses_and_calls_its_command(words: str) -> None:
    program, *arguments = shlex.split(NAMED[words].example.partition(" < ")[0])
    options, rest = hoist(arguments)
    assert (program, options.problem) == ("lash", None)
    called = find(COMMANDS, rest[0])
    assert called is not None
    if called.verbs:
        rest = rest[1:]
        called = find(called.verbs, rest[0])
    assert called is NAMED[words]
    load(called).make_context(called.name, rest[1:])


def test_names_and_aliases_are_told_apart() -> None:
    for entries in (COMMANDS, *(entry.verbs for entry in COMMANDS if entry.verbs)):
        names = [name for entry in entries for name in (entry.name, *entry.aliases)]
        assert len(names) == len(set(names))


@pytest.mark.parametrize("text", ["1_0", "１０", " 10 ", "1e3", "0x1", ""])
def test_every_option_that_takes_a_whole_number_takes_plain_digits_only(text: str) -> None:
    numbered = [
        (words, parameter)
        for words, entry in NAMED.items()
        for parameter in load(entry).params
        if isinstance(getattr(parameter.type, "min", None), int)
    ]
    assert len(numbered) > 8
    for words, parameter in numbered:
        assert parameter.type_cast_value(None, "10") == 10
        with pytest.raises(UsageError, match="is not a whole number"):
            dispatch([*words.split(), f"{max(parameter.opts, key=len)}={text}"])
