"""Every command in one static table, and the Typer group that loads them one at a time (contract 08 §5, §9).

A command module is imported only when its command runs, so the root help and
every other command stay fast and work when an optional dependency is missing.
A command module offers a plain function with Typer annotations; its docstring
is its help, and the example of the table stands above it. `command_class`, if
the module has one, is the `TyperCommand` subclass to parse with.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from importlib import import_module
from inspect import getdoc
from typing import Any, NamedTuple

from typer.core import TyperGroup

from lash_cli.cli.globals import HELP_ROWS
from lash_cli.errors import UsageError

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Entry(NamedTuple):
    """One command. `target` is the module beside this one, and `:function` unless that is `command`; without it the
    module is `NAME_command`. A group lists its verbs instead."""

    name: str
    summary: str
    example: str
    target: str = ""
    aliases: tuple[str, ...] = ()
    verbs: tuple[Entry, ...] = ()


# By the heading they stand under in the help.
_SECTIONS: dict[str, tuple[Entry, ...]] = {
    "Sessions": (
        Entry("open", "create a session, or reopen one; prints its id", "lash open notes --model gpt-6-luna"),
        Entry("ls", "sessions, newest commit first", "lash ls --here -o json", aliases=("list",)),
        Entry("show", "head, policy, lease and usage of one session", "lash show @last", aliases=("describe",)),
        Entry("search", "find what was said, in every session", "lash search separator --since 7d"),
        Entry("usage", "tokens and money of a session, or of all by day, model, session or source",
              "lash usage --by day,model --since 30d"),
        Entry("log", "the committed transcript of a session", "lash log @last --last 5"),
        Entry("tail", "watch sessions live, from any process", "lash tail notes --from start"),
        Entry("fork", "a new session that goes on from another, or from one of its nodes",
              "lash fork notes --at t_01 --name notes-2"),
        Entry("rewind", "move the head of a session to another node; nothing is lost", "lash rewind notes --to m_01"),
        Entry("tree", "every message of a session, branches included", "lash tree notes"),
        Entry("set", "change what a session runs under", "lash set notes max_steps=20", "set_command:set_values"),
        Entry("rename", "give a session another name", "lash rename notes minutes", "set_command:rename"),
        Entry("label", "set labels of a session, or take them away",
              "lash label notes area=billing draft-", "set_command:label"),
        Entry("tool", "which tools a session may call", "lash tool ls notes", verbs=(
            Entry("ls", "the tools of a session, and which are on",
                  "lash tool ls notes", "tool_commands:list_tools", ("list",)),
            Entry("on", "let a session call tools", "lash tool on notes exec_command", "tool_commands:on"),
            Entry("off", "offer tools to the model no more",
                  "lash tool off notes exec_command write", "tool_commands:off"),
        )),
        Entry("export", "sessions as Markdown, a page, or JSON to import again",
              "lash export notes --as json --out notes.json"),
        Entry("import", "make a session again from an export", "lash import notes.json --id notes-2"),
        Entry("compact", "summarise what was said, to make room", "lash compact notes 'the open questions'"),
        Entry("park", "write everything down and release a session", "lash park notes"),
        Entry("resume", "reopen a parked or interrupted session", "lash resume notes"),
        Entry("close", "close sessions durably", "lash close notes"),
        Entry("rm", "delete sessions; their ids are never used again", "lash rm notes --dry-run"),
    ),
    "Turns": (
        Entry("turn", "run one turn now and stream the answer",
              "lash turn notes 'What is left to do?'", aliases=("run", "ask")),
        Entry("chat", "talk in a session at a terminal", "lash chat notes"),
        Entry("cancel", "ask the running turn of a session to stop", "lash cancel notes --wait=10s"),
    ),
    "Queue": (
        Entry("enqueue", "put text into a session's queue; prints the receipt",
              "lash enqueue notes 'And then the summary' --key summary-1"),
        Entry("queue", "look at a queue, cut it, edit it, hold it", "lash queue ls notes", verbs=(
            Entry("add", "put text into a queue: lash enqueue",
                  "lash queue add notes 'And then the summary'", "enqueue_command"),
            Entry("ls", "what waits in a session", "lash queue ls notes", "queue_commands:list_queue", ("list",)),
            Entry("show", "one input in full", "lash queue show in_01", "queue_commands:show_one"),
            Entry("cancel", "take inputs out, all at one moment",
                  "lash queue cancel in_01 in_02", "queue_cancel:cancel"),
            Entry("cancel-suffix", "take an input and everything behind it out",
                  "lash queue cancel-suffix notes in_01", "queue_cancel:cancel_suffix"),
            Entry("edit", "change, move and drop what waits", "lash queue edit in_01", "queue_edit"),
            Entry("hold", "let nothing be taken from a queue",
                  "lash queue hold notes --reason 'until Monday'", "queue_commands:hold"),
            Entry("release", "let a held queue go on", "lash queue release notes", "queue_commands:release"),
            Entry("batches", "background work and session commands",
                  "lash queue batches notes", "queue_commands:list_batches"),
            Entry("cancel-batch", "take background work out",
                  "lash queue cancel-batch qwb:01", "queue_cancel:cancel_batch"),
            Entry("wait-batch", "wait until background work is settled",
                  "lash queue wait-batch qwb:01 --timeout 30s", "queue_admin:wait_batch"),
            Entry("abandon", "give back what a dead owner's claim took",
                  "lash queue abandon tic:7:1", "queue_admin:abandon"),
            Entry("revoke-waits", "end every open wait of a session",
                  "lash queue revoke-waits notes", "queue_admin:revoke_waits"),
        )),
        Entry("cancel-suffix", "take an input and everything behind it out of a queue",
              "lash cancel-suffix notes in_01", "queue_cancel:cancel_suffix"),
        Entry("work", "drain queues: run what waits in sessions", "lash work notes --until-empty"),
        Entry("wait", "wait until a session is idle, a turn ended or an input used",
              "lash wait notes --for queue-empty --timeout 5m"),
    ),
    "Setup": (
        Entry("config", "show and change the configuration", "lash config show --origin", verbs=(
            Entry("show", "the effective values", "lash config show --origin", "config_commands:show"),
            Entry("get", "one value", "lash config get defaults.model", "config_commands:get"),
            Entry("set", "write one value into the user's file",
                  "lash config set defaults.model gpt-6-luna", "config_commands:set_value"),
            Entry("unset", "take one value out of the user's file",
                  "lash config unset defaults.model", "config_commands:unset"),
            Entry("edit", "edit the user's file", "lash config edit", "config_edit"),
            Entry("path", "where the files are", "lash config path", "config_commands:path"),
            Entry("validate", "name every mistake, with file and line", "lash config validate", "config_check"),
            Entry("schema", "JSON Schema of the file", "lash config schema", "config_commands:schema"),
            Entry("trust", "let a project's file set everything", "lash config trust .", "config_trust"),
        )),
        Entry("provider", "which models are called where, and with which key", "lash provider ls", verbs=(
            Entry("ls", "providers and where their keys come from",
                  "lash provider ls -o json", "provider_commands:list_providers", ("list",)),
            Entry("add", "put a provider into the configuration",
                  "lash provider add local --base-url http://127.0.0.1:11434/v1", "provider_commands:add"),
            Entry("test", "call a provider once and say what is served, or what is wrong",
                  "lash provider test loopback", "provider_test"),
            Entry("rm", "take a provider out of the configuration",
                  "lash provider rm local", "provider_commands:remove"),
        )),
        Entry("model", "what is known about models, and short names for them", "lash model ls", verbs=(
            Entry("ls", "aliases and the shipped catalogue", "lash model ls", "model_commands:list_models", ("list",)),
            Entry("show", "limits, prices and reasoning of one model",
                  "lash model show gpt-6-luna", "model_commands:show"),
            Entry("default", "show or choose the model of new sessions",
                  "lash model default gpt-6-luna", "model_commands:default"),
            Entry("alias", "give a model a short name, or take it away",
                  "lash model alias quick gpt-6-luna --variant low", "model_commands:alias"),
        )),
        Entry("key", "keep API keys", "lash key set openai", verbs=(
            Entry("set", "store a key from a hidden prompt or stdin",
                  "lash key set openai --stdin < key.txt", "key_commands:set_key"),
            Entry("ls", "names, sources and last four characters", "lash key ls", "key_commands:list_keys", ("list",)),
            Entry("rm", "forget a key", "lash key rm openai", "key_commands:remove_key"),
            Entry("test", "fetch a key from where it is kept", "lash key test openai", "key_commands:test"),
            Entry("path", "the file they are in", "lash key path", "key_commands:path"),
        )),
        Entry("trace", "read what turns did, from a trace file", "lash trace html run.jsonl", verbs=(
            Entry("html", "make one self-contained page of a trace",
                  "lash trace html run.jsonl --out run.html", "trace_commands:html"),
        )),
        Entry("gc", "remove what nothing needs any more", "lash gc --dry-run"),
        Entry("db", "look after the database: copies, checks, secrets", "lash db check", verbs=(
            Entry("path", "where the database is", "lash db path", "db_commands:path"),
            Entry("info", "its size, schema and tables", "lash db info", "db_commands:info"),
            Entry("check", "read all of it and say whether it is sound", "lash db check", "db_commands:check"),
            Entry("backup", "copy all of it into one file, while it is in use",
                  "lash db backup --out before.db", "db_files:backup"),
            Entry("restore", "put a copy back; what is there now is kept",
                  "lash db restore before.db", "db_files:restore"),
            Entry("vacuum", "make the file smaller", "lash db vacuum", "db_commands:vacuum"),
            Entry("migrate", "bring it up to date, after a copy was made",
                  "lash db migrate --dry-run", "db_commands:migrate"),
            Entry("scan", "find keys and passwords that were said", "lash db scan", "db_secrets:scan"),
            Entry("scrub", "take keys and passwords out of what was said",
                  "lash db scrub --dry-run", "db_secrets:scrub"),
            Entry("purge", "erase every session for ever", "lash db purge --confirm lash.db", "db_files:purge"),
        )),
        Entry("doctor", "check paths, permissions, the database and what is unfinished",
              "lash doctor -o json", "doctor"),
        Entry("schema", "JSON Schema of everything lash prints as JSON", "lash schema Session"),
        Entry("serve", "let a program run turns, as JSON lines on stdin and stdout", "lash serve --stdio"),
        Entry("completion", "make your shell complete lash", "lash completion bash --install"),
        Entry("help", "read the guide, topic by topic", "lash help quickstart"),
        Entry("version", "versions of lash, Python and SQLite", "lash version -o json"),
    ),
}  # fmt: skip
COMMANDS: tuple[Entry, ...] = tuple(entry for entries in _SECTIONS.values() for entry in entries)


def find(entries: Sequence[Entry], name: str) -> Entry | None:
    """The entry called `name` or one of its aliases, or None."""
    return next((entry for entry in entries if name == entry.name or name in entry.aliases), None)


class LazyGroup(TyperGroup):
    """A group whose commands come from the table. Nothing is imported to list them."""

    entries: tuple[Entry, ...] = ()

    def list_commands(self, ctx: Any) -> list[str]:
        """The canonical names in table order."""
        return [entry.name for entry in self.entries]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command, imported now; None when there is none of that name."""
        entry = find(self.entries, cmd_name)
        return None if entry is None else load(entry)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As the parser does it, but an unknown verb names the nearest ones and never becomes a prompt."""
        if args and find(self.entries, args[0]) is None:
            raise unknown_command(self.entries, args[0], ctx.command_path)
        resolved = super().resolve_command(ctx, args)
        if not isinstance(resolved[1], LazyGroup):
            # The command is about to begin: from here on garbage is collected, but never looked for in what was
            # imported, which stays until the end.
            gc.freeze()
            gc.enable()
        return resolved

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The table by section; the stock method would import every command to ask for its help."""
        sections = _SECTIONS if self.entries is COMMANDS else {"Commands": self.entries}
        for section, entries in sections.items():
            with formatter.section(section):
                formatter.write_dl([(", ".join((entry.name, *entry.aliases)), entry.summary) for entry in entries])

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """At the root, the global options follow the commands; they are hoisted before the parser sees them."""
        super().format_options(ctx, formatter)
        if ctx.parent is None:
            with formatter.section("Options of every command"):
                formatter.write_dl(list(HELP_ROWS))


def unknown_command(entries: Sequence[Entry], name: str, path: str) -> UsageError:
    """The error for a verb that does not exist, with the nearest ones that do."""
    from lash_cli.core.nearest import did_you_mean

    names = [known for entry in entries for known in (entry.name, *entry.aliases)]
    hint, nearest = did_you_mean(name, names, f"see: {path} --help", before=f"{path} ")
    return UsageError(f"unknown command {name!r}", hint=hint, details={"command": name, "nearest": nearest})


def load(entry: Entry) -> Any:
    """The parser command of a table entry."""
    if entry.verbs:
        return build_group(entry.name, entry.verbs, help_text=f"{_example(entry)}{_sentence(entry.summary)}")
    import typer
    from typer.main import get_command

    module, _, function_name = (entry.target or f"{entry.name}_command").partition(":")
    loaded = import_module(f"lash_cli.cli.{module}")
    function = getattr(loaded, function_name or "command")
    description = getdoc(function) or _sentence(entry.summary)
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(
        name=entry.name,
        cls=getattr(loaded, "command_class", None),
        help=f"{_example(entry)}{description}",
        context_settings=_CONTEXT,
    )(function)
    command = get_command(app)
    for parameter in command.params:
        if isinstance(getattr(parameter.type, "min", None), int):
            from lash_cli.cli.numbers import read_plainly

            read_plainly(parameter.type)
    return command


def build_group(name: str, entries: tuple[Entry, ...], *, help_text: str) -> LazyGroup:
    """A lazy group over `entries`."""
    group = LazyGroup(name=name, help=help_text, rich_markup_mode=None, context_settings=_CONTEXT)
    group.entries = entries
    return group


def root() -> LazyGroup:
    """The `lash` command."""
    return build_group(
        "lash",
        COMMANDS,
        help_text=(
            "\b\nExample: lash turn \"$(lash open)\" 'Say hello'\n\n"
            "Durable sessions with language models: open one, run turns, stop at any point, resume anywhere. "
            "Without configuration the model is `loopback`, which needs no network. "
            "The guide: lash help. When something is wrong: lash doctor."
        ),
    )


def dispatch(arguments: Sequence[str]) -> int:
    """Parse what is left of argv after the global options, run the command and return its exit status.

    Raises what the command raises, and `UsageError` for what the parser does not take; `failure.run` is the boundary.
    """
    tokens = list(arguments) or ["--help"]
    group = find(COMMANDS, tokens[0])
    if len(tokens) == 1 and group is not None and group.verbs:
        tokens.append("--help")
    try:
        with root().make_context("lash", tokens) as context:
            status = context.command.invoke(context)
    except Exception as stop:
        if type(stop).__name__ == "Exit" and isinstance(status := getattr(stop, "exit_code", None), int):
            return status  # the parser printed help, or a command chose its status
        usage = _as_usage_error(stop, tokens)
        if usage is None:
            raise
        raise usage from stop
    return status if isinstance(status, int) else 0


def _as_usage_error(error: Exception, tokens: Sequence[str]) -> UsageError | None:
    """The parser's own usage error as ours, None for any other exception.

    Old and new Typer raise different classes for the same fault, so they are
    known by what they offer: an exit status and a message.
    """
    format_message = getattr(error, "format_message", None)
    if not callable(format_message) or not isinstance(getattr(error, "exit_code", None), int):
        return None
    message = str(format_message()).rstrip(".").replace("\n", " ")
    return UsageError(message[:1].lower() + message[1:], hint=f"see: {_command_path(tokens)} --help")


def _command_path(tokens: Sequence[str]) -> str:
    """The command that `tokens` name, as far as it is one, as it was typed."""
    words, entries = ["lash"], COMMANDS
    for token in tokens:
        entry = find(entries, token)
        if entry is None:
            break
        words.append(token)
        entries = entry.verbs
    return " ".join(words)


def _example(entry: Entry) -> str:
    return f"\b\nExample: {entry.example}\n\n"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."
