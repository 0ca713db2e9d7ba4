"""The keys of the prompt as prompt_toolkit wants them (contract 08 §7.4). Which key means what says `keymap`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from prompt_toolkit.filters import Condition, FilterOrBool, has_focus, vi_insert_mode
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys

from lash_cli.errors import ConfigError
from lash_cli.repl import rules
from lash_cli.repl.keymap import Action, key_table

if TYPE_CHECKING:
    from lash_cli.repl.terminal import PromptFace

_LETTERS = "aceilnqswy123456789"


def check_keys(configured: Mapping[str, Any]) -> None:
    """Raise what `key_table` raises, and `ConfigError` (`config_invalid`) for a key that does not exist."""
    table = KeyBindings()
    for action, sequences in key_table(configured).items():
        for sequence in sequences:
            _bind(table, action, sequence, _nothing, True)


def _nothing(event: KeyPressEvent) -> None:
    """What a key does that is only looked at."""


def _bind(
    table: KeyBindings,
    action: Action,
    sequence: tuple[str, ...],
    handler: Callable[[KeyPressEvent], None],
    where: FilterOrBool,
) -> None:
    try:
        table.add(*sequence, filter=where)(handler)
    except ValueError as error:
        raise ConfigError(
            f"repl.keys.{action.value}: there is no key {' '.join(sequence)!r}", code="config_invalid"
        ) from error


def bindings(face: PromptFace) -> KeyBindings:
    """The bindings of a face. Raises `ConfigError` (`config_invalid`) for a key that does not exist."""
    table = KeyBindings()
    typing = has_focus(face.buffer)
    actions = _actions(face)
    for action, sequences in face.options.keys.items():
        where: FilterOrBool = typing
        if action in (Action.CANCEL_TURN, Action.REWIND):
            # In vi's insert mode Esc leaves that mode first.
            where = typing & ~vi_insert_mode
        for sequence in sequences:
            _bind(table, action, sequence, _handler(actions[action]), where)
    table.add(Keys.BracketedPaste, filter=typing)(lambda event: face.paste(event.data))
    table.add("up", filter=typing & Condition(lambda: face.buffer.document.cursor_position_row == 0))(_handler(face.up))
    for letter in _LETTERS:
        is_answer = Condition(partial(face.questions.takes, letter))
        table.add(letter, filter=typing & is_answer, eager=True)(_handler(partial(face.questions.answer, letter)))
    return table


def _actions(face: PromptFace) -> dict[Action, Callable[[], None]]:
    client = face.client
    return {
        Action.SUBMIT: face.submit,
        Action.QUEUE_NEXT: lambda: face.act(rules.on_queue_next(face.moment())),
        Action.NEWLINE: lambda: face.buffer.insert_text("\n"),
        Action.CANCEL_TURN: lambda: face.act(rules.on_escape(face.moment())),
        Action.INTERRUPT: face.interrupt,
        Action.LEAVE: lambda: face.act(rules.on_leave(face.moment())),
        Action.PULL_BACK: client.pull_back,
        Action.EDIT_QUEUE: face.edit_queue,
        Action.EDITOR: lambda: client.asides.call(face.edit(), "the editor", has_terminal=True),
        Action.EXPAND: face.expand,
        Action.EXPAND_FULL: lambda: face.show_tool(None),
        Action.PAGER: lambda: client.asides.call(face.page(), "the pager", has_terminal=True),
        Action.REWIND: face.pick_rewind,
        Action.REDRAW: face.redraw,
        Action.SUSPEND: face.suspend,
    }


def _handler(act: Callable[[], object]) -> Callable[[KeyPressEvent], None]:
    def handle(event: KeyPressEvent) -> None:
        act()

    return handle
