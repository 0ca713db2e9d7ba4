"""Slash commands: which there are, when they may run, and what a line means (contract 08 §7.2).

A command that only looks may run at any time; one that changes the session, its
tools or its model waits for idle, and is refused with the draft restored. Most
are the shell verb of the same meaning, run for this session. A line that begins
with a slash is never sent to the model by accident. Pure.
"""

from __future__ import annotations

import shlex
from typing import NamedTuple

from lash_cli.core.nearest import did_you_mean
from lash_cli.errors import UsageError

SESSION = "{session}"


class Command(NamedTuple):
    """One slash command. `verb` is the shell verb behind it, with `SESSION` where the id goes; empty for what the chat
    does itself. An interactive one gets the terminal. What follows one that has no verb is completed as the last of
    the shell words `like`."""

    name: str
    summary: str
    any_time: bool = False
    arguments: str = ""
    aliases: tuple[str, ...] = ()
    verb: tuple[str, ...] = ()
    is_interactive: bool = False
    like: tuple[str, ...] = ()


COMMANDS: tuple[Command, ...] = (
    Command("help", "this list", True, aliases=("?",)),
    Command("keys", "which key does what", True),
    Command("status", "head, lease, queue and usage of this session", True, verb=("show", SESSION)),
    Command("info", "its policy and tools", True, verb=("show", SESSION, "--policy", "--tools")),
    Command("queue", "look at the queue, cut it, edit it, hold it", True, "[ls|edit|cancel IN|cut IN|hold|release]"),
    Command("later", "queue TEXT for the next turn", True, "TEXT"),
    Command("back", "take your newest queued text, or what was put aside last, back into the draft", True),
    Command("cancel", "cancel the running turn", True, "[REASON]"),
    Command("usage", "what the session cost", True, verb=("usage", SESSION)),
    Command("tree", "every message, branches included", True, verb=("tree", SESSION)),
    Command("btw", "ask something aside: no tools, nothing recorded", True, "QUESTION"),
    Command("log", "the committed transcript", True, "[OPTION...]", verb=("log", SESSION)),
    Command("ls", "all sessions", True, "[OPTION...]", verb=("ls",)),
    Command("search", "find what was said, in every session", True, "WORDS", verb=("search",)),
    Command("export", "write this session as Markdown, or as the ending of FILE says", True, "[FILE]"),
    Command("tail", "the live view of this session; q comes back", True, verb=("tail", SESSION), is_interactive=True),
    Command("copy", "copy the last answer, or the Nth last", True, "[N]"),
    Command("note", "write TEXT on this screen only", True, "TEXT"),
    Command("exit", "leave the chat", True, aliases=("quit",)),
    Command("new", "begin another session", aliases=("clear",)),
    Command("switch", "go on in another session", arguments="SESSION", aliases=("resume", "continue"), like=("show",)),
    Command(
        "fork",
        "a new session that goes on from here, or from NODE",
        arguments="[NODE]",
        like=("fork", SESSION, "--at"),
    ),
    Command("rewind", "go back to before your Nth last message; it becomes the draft", arguments="[N|?]"),
    Command("retry", "say your last message again, beside its answer"),
    Command("edit", "edit your last message and say it beside the old one"),
    Command("model", "show or change the model", arguments="[MODEL]", like=("open", "--model")),
    Command("attach", "send FILE or URL with the next text; none takes all away", True, "[FILE|URL|none]"),
    Command(
        "compact", "summarise the conversation and go on from that", arguments="[FOCUS]", verb=("compact", SESSION)
    ),
    Command("rename", "give this session another name", arguments="NAME", verb=("rename", SESSION)),
    Command("set", "change what it runs under", arguments="K=V...", verb=("set", SESSION)),
    Command("label", "set labels, or take them away", arguments="K=V...|K-...", verb=("label", SESSION)),
    Command("system", "show or change the system prompt of this session", arguments="[TEXT]"),
    Command("tool", "switch a tool on or off", arguments="on|off NAME"),
    Command("park", "write everything down, release the session and leave", verb=("park", SESSION)),
    Command("close", "close the session durably and leave", verb=("close", SESSION)),
)

QUEUE_WORDS = ("ls", "edit", "cancel", "cut", "hold", "release")


class Words(NamedTuple):
    """Ordinary text for the model."""

    text: str


class Call(NamedTuple):
    """A slash command and what follows it."""

    command: Command
    rest: str


class Shell(NamedTuple):
    """A command for the local shell; None repeats the last one and attaches its output."""

    line: str | None


def read_line(text: str) -> Words | Call | Shell:
    """What a submitted text means. Raises `UsageError` for an unknown slash command, naming the nearest."""
    if text.startswith((" /", " !")):
        return Words(text[1:])
    if text.startswith("//"):
        return Words(text[1:])
    if text.startswith("!"):
        line = text[1:].strip()
        return Shell(None) if line == "!" else Shell(line)
    if text.strip() in ("quit", "exit"):
        return Call(_named("exit"), "")
    if not text.startswith("/"):
        return Words(text)
    word, _, rest = text[1:].strip().partition(" ")
    found = find(word)
    if found is None:
        raise unknown(word)
    return Call(found, rest.strip())


def find(word: str) -> Command | None:
    """The command of this name or alias."""
    return next((command for command in COMMANDS if word == command.name or word in command.aliases), None)


def _named(word: str) -> Command:
    command = find(word)
    assert command is not None, "a name of the table"
    return command


def unknown(word: str) -> UsageError:
    """The error for a slash command that does not exist."""
    names = [name for command in COMMANDS for name in (command.name, *command.aliases)]
    hint, nearest = did_you_mean(word, names, "/help lists them", before="/")
    return UsageError(
        f"unknown command /{word}",
        hint=f"{hint}; a leading space sends the line as it is",
        details={"nearest": nearest},
    )


def queue_verb(rest: str, oldest_waiting: str | None) -> tuple[tuple[str, ...], bool]:
    """The shell verb of `/queue REST`, and whether it needs the terminal; raises `UsageError`.

    What is edited or cut without a name begins with the oldest input that waits.
    """
    word, _, name = rest.strip().partition(" ")
    word, name = word or "ls", name.strip()
    if word not in QUEUE_WORDS:
        raise UsageError(f"/queue cannot {word!r}", hint=f"it takes: {', '.join(QUEUE_WORDS)}")
    if word in ("ls", "hold", "release"):
        return ("queue", word, SESSION), False
    target = name or (oldest_waiting if word != "cancel" else None)
    if target is None:
        raise UsageError(
            "/queue cancel needs the id of an input" if word == "cancel" else "nothing waits in this queue",
            hint="the ids are shown by /queue ls",
        )
    if word == "edit":
        return ("queue", "edit", target), True
    return (("queue", "cancel", target) if word == "cancel" else ("cancel-suffix", SESSION, target)), False


# What ends the chat, and so is about no other session.
ENDING_COMMANDS = ("park", "close")
# What is completed as a path.
PATH_COMMANDS = ("attach", "export")


def completed_like(command: Command, rest: str) -> tuple[str, ...]:
    """The shell words of which the last is completed as the last word of `rest` is; none where nothing is."""
    *done, typed = rest.split(" ")
    if command.name == "queue":
        return ("cancel-suffix", SESSION, typed) if len(done) == 1 and done[0] in ("edit", "cancel", "cut") else ()
    if command.name == "tool":
        return ("tool", done[0], SESSION, typed) if len(done) == 1 else ()
    if command.name == "export":
        return ("export", SESSION, *done, typed)
    if command.like:
        return (*command.like, typed) if not done else ()
    if command.name in ENDING_COMMANDS and not typed.startswith("-"):
        return ()
    return (*command.verb, *done, typed) if command.verb else ()


def words_of(rest: str) -> tuple[str, ...]:
    """What follows a command as arguments, quoted as in a shell; raises `UsageError` for a quote without its end."""
    try:
        return tuple(shlex.split(rest))
    except ValueError as error:
        hint = "close the quote, or put a backslash before it"
        raise UsageError(f"cannot read {rest!r}: {error}", hint=hint) from error


def export_verb(rest: str) -> tuple[str, ...]:
    """The shell verb of `/export REST`: a file to write to, or the options of `lash export`."""
    words = words_of(rest)
    if words and not words[0].startswith("-"):
        words = ("--out", *words)
    return ("export", SESSION, *words)


def help_text() -> str:
    """The table for `/help`; `*` marks what may run while a turn does."""
    rows = []
    for command in COMMANDS:
        names = ", ".join("/" + name for name in (command.name, *command.aliases))
        rows.append((f"{names} {command.arguments}".strip(), f"{command.summary}{'  *' if command.any_time else ''}"))
    width = max(len(left) for left, _ in rows)
    lines = [f"{left:<{width}}  {right}" for left, right in rows]
    lines.append(f"{'!COMMAND':<{width}}  run it in the local shell; !! again, with its output in the draft  *")
    return "\n".join((*lines, "", "* also while a turn runs. /keys lists the keys."))
