"""Which keys do what in `lash chat`, as a table the user may change (contract 08 §6.7, §7.3, §7.4).

Keys are spelled as in the configuration: `enter`, `c-j` (Ctrl), `m-enter`
(Alt, or Esc before the key), and several after one another with a space.
What an action does at which moment is said in `rules`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NamedTuple

from lash_cli.core.nearest import did_you_mean
from lash_cli.errors import ConfigError


class Action(StrEnum):
    """What a key may be bound to; the values are the names in `[repl.keys]`."""

    SUBMIT = "submit"
    QUEUE_NEXT = "queue_next"
    NEWLINE = "newline"
    CANCEL_TURN = "cancel_turn"
    INTERRUPT = "interrupt"
    LEAVE = "leave"
    PULL_BACK = "pull_back"
    EDIT_QUEUE = "edit_queue"
    EDITOR = "editor"
    EXPAND = "expand"
    EXPAND_FULL = "expand_full"
    PAGER = "pager"
    REWIND = "rewind"
    REDRAW = "redraw"
    SUSPEND = "suspend"


class Binding(NamedTuple):
    """The usual keys of an action and what they do, in words."""

    keys: tuple[str, ...]
    idle: str
    running: str


KEYMAP: dict[Action, Binding] = {
    Action.SUBMIT: Binding(("enter",), "send", "send into the running turn (◆)"),
    Action.QUEUE_NEXT: Binding(("tab",), "accept the suggestion, else send", "queue for the next turn (◇)"),
    Action.NEWLINE: Binding(("c-j", "m-enter"), "new line; Shift+Enter where the terminal reports it", "the same"),
    Action.CANCEL_TURN: Binding(("escape",), "close what is open", "close what is open, else cancel the turn"),
    Action.INTERRUPT: Binding(
        ("c-c",), "put the draft aside; again within 2 s: quit", "put the draft aside, else cancel the turn"
    ),
    Action.LEAVE: Binding(("c-d",), "quit when the draft is empty", "ask what becomes of the turn"),
    Action.PULL_BACK: Binding(("m-up",), "take back your newest queued text", "the same; also Up on an empty draft"),
    Action.EDIT_QUEUE: Binding(("m-q",), "edit what waits in $EDITOR", "the same"),
    Action.EDITOR: Binding(("c-x c-e", "c-g"), "edit the draft in $EDITOR", "the same"),
    Action.EXPAND: Binding(("c-o",), "expand folded pastes, else show what the last tool said", "the same"),
    Action.EXPAND_FULL: Binding(("m-o",), "show all of what the last tool said", "the same"),
    Action.PAGER: Binding(("pageup",), "read what was said so far in $PAGER", "the same"),
    Action.REWIND: Binding(("escape escape",), "go back to an earlier message", "as one Esc"),
    Action.REDRAW: Binding(("c-l",), "redraw", "the same"),
    Action.SUSPEND: Binding(("c-z",), "suspend", "suspend; the turn stands still meanwhile"),
}

_META = "m-"


def key_table(configured: Mapping[str, Any]) -> dict[Action, tuple[tuple[str, ...], ...]]:
    """The key sequences of every action; an action with an empty list has none.

    Raises `ConfigError` (`config_invalid`) for an unknown action or for a
    value that is no list of keys.
    """
    table = {action: tuple(map(sequence, binding.keys)) for action, binding in KEYMAP.items()}
    for name, keys in configured.items():
        if name not in set(Action):
            hint, _ = did_you_mean(name, Action, f"there are: {', '.join(Action)}")
            raise ConfigError(f"[repl.keys] has no action {name!r}", code="config_invalid", hint=hint)
        if not isinstance(keys, list) or not all(isinstance(key, str) and key.strip() for key in keys):
            raise ConfigError(
                f"repl.keys.{name} has to be a list of keys, got {keys!r}",
                code="config_invalid",
                hint=f"for example: repl.keys.{name} = {list(KEYMAP[Action(name)].keys)!r}",
            )
        table[Action(name)] = tuple(map(sequence, keys))
    return table


def sequence(key: str) -> tuple[str, ...]:
    """The keys of one binding in the order they arrive; Alt is Esc before the key."""
    arriving: list[str] = []
    for word in key.split():
        if word.startswith(_META):
            arriving += ["escape", word.removeprefix(_META)]
        else:
            arriving.append(word)
    return tuple(arriving)


def keys_text(configured: Mapping[str, Any]) -> str:
    """The table for `/keys`."""
    table = key_table(configured)
    spelled = {action: ", ".join(configured.get(action.value, KEYMAP[action].keys)) or "-" for action in table}
    width = max(map(len, spelled.values()))
    lines = []
    for action, keys in spelled.items():
        binding = KEYMAP[action]
        running = "" if binding.running == "the same" else f"; while a turn runs: {binding.running}"
        lines.append(f"{keys:<{width}}  {binding.idle}{running}")
    return "\n".join(lines)
