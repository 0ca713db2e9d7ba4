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
    """One command. `target` is `module:function`; a group has none and lists its verbs instead."""

    name: str
    summary: str
    section: str
    example: str
    target: str = ""
    aliases: tuple[str, ...] = ()
    verbs: tuple[Entry, ...] = ()


_SESSIONS = "Sessions"
_TURNS = "Turns"
_QUEUE = "Queue"
_SETUP = "Setup"

# What a group of verbs lists them under.
_VERBS = "Commands"

_QUEUE_VERBS = (
    Entry("add", "put text into a queue: lash enqueue", _VERBS,
          "lash queue add notes 'And then the summary'", "lash_cli.cli.enqueue_command:command"),
    Entry("ls", "what waits in a session", _VERBS,
          "lash queue ls notes", "lash_cli.cli.queue_commands:list_queue", ("list",)),
    Entry("show", "one input in full", _VERBS,
          "lash queue show in_01", "lash_cli.cli.queue_commands:show_one"),
    Entry("cancel", "take inputs out, all at one moment", _VERBS,
          "lash queue cancel in_01 in_02", "lash_cli.cli.queue_cancel:cancel"),
    Entry("cancel-suffix", "take an input and everything behind it out", _VERBS,
          "lash queue cancel-suffix notes in_01", "lash_cli.cli.queue_cancel:cancel_suffix"),
    Entry("edit", "change, move and drop what waits", _VERBS,
          "lash queue edit in_01", "lash_cli.cli.queue_edit:command"),
    Entry("hold", "let nothing be taken from a queue", _VERBS,
          "lash queue hold notes --reason 'until Monday'", "lash_cli.cli.queue_commands:hold"),
    Entry("release", "let a held queue go on", _VERBS,
          "lash queue release notes", "lash_cli.cli.queue_commands:release"),
    Entry("batches", "background work and session commands", _VERBS,
          "lash queue batches notes", "lash_cli.cli.queue_commands:list_batches"),
    Entry("cancel-batch", "take background work out", _VERBS,
          "lash queue cancel-batch qwb:01", "lash_cli.cli.queue_cancel:cancel_batch"),
    Entry("wait-batch", "wait until background work is settled", _VERBS,
          "lash queue wait-batch qwb:01 --timeout 30s", "lash_cli.cli.queue_admin:wait_batch"),
    Entry("abandon", "give back what a dead owner's claim took", _VERBS,
          "lash queue abandon tic:7:1", "lash_cli.cli.queue_admin:abandon"),
    Entry("revoke-waits", "end every open wait of a session", _VERBS,
          "lash queue revoke-waits notes", "lash_cli.cli.queue_admin:revoke_waits"),
)  # fmt: skip

_PROVIDER_VERBS = (
    Entry("ls", "providers and where their keys come from", _VERBS,
          "lash provider ls -o json", "lash_cli.cli.provider_commands:list_providers", ("list",)),
    Entry("add", "put a provider into the configuration", _VERBS,
          "lash provider add local --base-url http://127.0.0.1:11434/v1", "lash_cli.cli.provider_commands:add"),
    Entry("test", "call a provider once and say what is served, or what is wrong", _VERBS,
          "lash provider test loopback", "lash_cli.cli.provider_test:command"),
    Entry("rm", "take a provider out of the configuration", _VERBS,
          "lash provider rm local", "lash_cli.cli.provider_commands:remove"),
)  # fmt: skip

_MODEL_VERBS = (
    Entry("ls", "aliases and the shipped catalogue", _VERBS,
          "lash model ls", "lash_cli.cli.model_commands:list_models", ("list",)),
    Entry("show", "limits, prices and reasoning of one model", _VERBS,
          "lash model show gpt-6-luna", "lash_cli.cli.model_commands:show"),
    Entry("default", "show or choose the model of new sessions", _VERBS,
          "lash model default gpt-6-luna", "lash_cli.cli.model_commands:default"),
    Entry("alias", "give a model a short name, or take it away", _VERBS,
          "lash model alias quick gpt-6-luna --variant low", "lash_cli.cli.model_commands:alias"),
)  # fmt: skip

_DB_VERBS = (
    Entry("path", "where the database is", _VERBS, "lash db path", "lash_cli.cli.db_commands:path"),
    Entry("info", "its size, schema and tables", _VERBS, "lash db info", "lash_cli.cli.db_commands:info"),
    Entry("check", "read all of it and say whether it is sound", _VERBS,
          "lash db check", "lash_cli.cli.db_commands:check"),
    Entry("backup", "copy all of it into one file, while it is in use", _VERBS,
          "lash db backup --out before.db", "lash_cli.cli.db_files:backup"),
    Entry("restore", "put a copy back; what is there now is kept", _VERBS,
          "lash db restore before.db", "lash_cli.cli.db_files:restore"),
    Entry("vacuum", "make the file smaller", _VERBS, "lash db vacuum", "lash_cli.cli.db_commands:vacuum"),
    Entry("migrate", "bring it up to date, after a copy was made", _VERBS,
          "lash db migrate --dry-run", "lash_cli.cli.db_commands:migrate"),
    Entry("scan", "find keys and passwords that were said", _VERBS,
          "lash db scan", "lash_cli.cli.db_secrets:scan"),
    Entry("scrub", "take keys and passwords out of what was said", _VERBS,
          "lash db scrub --dry-run", "lash_cli.cli.db_secrets:scrub"),
    Entry("purge", "erase every session for ever", _VERBS,
          "lash db purge --confirm lash.db", "lash_cli.cli.db_files:purge"),
)  # fmt: skip

_TOOL_VERBS = (
    Entry("ls", "the tools of a session, and which are on", _VERBS,
          "lash tool ls notes", "lash_cli.cli.tool_commands:list_tools", ("list",)),
    Entry("on", "let a session call tools", _VERBS,
          "lash tool on notes exec_command", "lash_cli.cli.tool_commands:on"),
    Entry("off", "offer tools to the model no more", _VERBS,
          "lash tool off notes exec_command write", "lash_cli.cli.tool_commands:off"),
)  # fmt: skip

COMMANDS: tuple[Entry, ...] = (
    Entry("open", "create a session, or reopen one; prints its id", _SESSIONS,
          "lash open notes --model gpt-6-luna", "lash_cli.cli.open_command:command"),
    Entry("ls", "sessions, newest commit first", _SESSIONS,
          "lash ls --here -o json", "lash_cli.cli.ls_command:command", ("list",)),
    Entry("show", "head, policy, lease and usage of one session", _SESSIONS,
          "lash show @last", "lash_cli.cli.show_command:command", ("describe",)),
    Entry("search", "find what was said, in every session", _SESSIONS,
          "lash search separator --since 7d", "lash_cli.cli.search_command:command"),
    Entry("usage", "tokens and money of a session, or of all by day, model, session or source", _SESSIONS,
          "lash usage --by day,model --since 30d", "lash_cli.cli.usage_command:command"),
    Entry("log", "the committed transcript of a session", _SESSIONS,
          "lash log @last --last 5", "lash_cli.cli.log_command:command"),
    Entry("tail", "watch sessions live, from any process", _SESSIONS,
          "lash tail notes --from start", "lash_cli.cli.tail_command:command"),
    Entry("fork", "a new session that goes on from another, or from one of its nodes", _SESSIONS,
          "lash fork notes --at t_01 --name notes-2", "lash_cli.cli.fork_command:command"),
    Entry("rewind", "move the head of a session to another node; nothing is lost", _SESSIONS,
          "lash rewind notes --to m_01", "lash_cli.cli.rewind_command:command"),
    Entry("tree", "every message of a session, branches included", _SESSIONS,
          "lash tree notes", "lash_cli.cli.tree_command:command"),
    Entry("set", "change what a session runs under", _SESSIONS,
          "lash set notes max_steps=20", "lash_cli.cli.set_command:set_values"),
    Entry("rename", "give a session another name", _SESSIONS,
          "lash rename notes minutes", "lash_cli.cli.set_command:rename"),
    Entry("label", "set labels of a session, or take them away", _SESSIONS,
          "lash label notes area=billing draft-", "lash_cli.cli.set_command:label"),
    Entry("tool", "which tools a session may call", _SESSIONS, "lash tool ls notes", verbs=_TOOL_VERBS),
    Entry("export", "sessions as Markdown, a page, or JSON to import again", _SESSIONS,
          "lash export notes --as json --out notes.json", "lash_cli.cli.export_command:command"),
    Entry("import", "make a session again from an export", _SESSIONS,
          "lash import notes.json --id notes-2", "lash_cli.cli.import_command:command"),
    Entry("compact", "summarise what was said, to make room", _SESSIONS,
          "lash compact notes 'the open questions'", "lash_cli.cli.compact_command:command"),
    Entry("park", "write everything down and release a session", _SESSIONS,
          "lash park notes", "lash_cli.cli.park_command:command"),
    Entry("resume", "reopen a parked or interrupted session", _SESSIONS,
          "lash resume notes", "lash_cli.cli.resume_command:command"),
    Entry("close", "close sessions durably", _SESSIONS,
          "lash close notes", "lash_cli.cli.close_command:command"),
    Entry("rm", "delete sessions; their ids are never used again", _SESSIONS,
          "lash rm notes --dry-run", "lash_cli.cli.rm_command:command"),
    Entry("turn", "run one turn now and stream the answer", _TURNS,
          "lash turn notes 'What is left to do?'", "lash_cli.cli.turn_command:command", ("run", "ask")),
    Entry("chat", "talk in a session at a terminal", _TURNS,
          "lash chat notes", "lash_cli.cli.chat_command:command"),
    Entry("cancel", "ask the running turn of a session to stop", _TURNS,
          "lash cancel notes --wait=10s", "lash_cli.cli.cancel_command:command"),
    Entry("enqueue", "put text into a session's queue; prints the receipt", _QUEUE,
          "lash enqueue notes 'And then the summary' --key summary-1", "lash_cli.cli.enqueue_command:command"),
    Entry("queue", "look at a queue, cut it, edit it, hold it", _QUEUE, "lash queue ls notes", verbs=_QUEUE_VERBS),
    Entry("cancel-suffix", "take an input and everything behind it out of a queue", _QUEUE,
          "lash cancel-suffix notes in_01", "lash_cli.cli.queue_cancel:cancel_suffix"),
    Entry("work", "drain queues: run what waits in sessions", _QUEUE,
          "lash work notes --until-empty", "lash_cli.cli.work_command:command"),
    Entry("wait", "wait until a session is idle, a turn ended or an input used", _QUEUE,
          "lash wait notes --for queue-empty --timeout 5m", "lash_cli.cli.wait_command:command"),
    Entry("config", "show and change the configuration", _SETUP, "lash config show --origin", verbs=(
        Entry("show", "the effective values", "Commands",
              "lash config show --origin", "lash_cli.cli.config_commands:show"),
        Entry("get", "one value", "Commands", "lash config get defaults.model", "lash_cli.cli.config_commands:get"),
        Entry("set", "write one value into the user's file", "Commands",
              "lash config set defaults.model gpt-6-luna", "lash_cli.cli.config_commands:set_value"),
        Entry("unset", "take one value out of the user's file", "Commands",
              "lash config unset defaults.model", "lash_cli.cli.config_commands:unset"),
        Entry("edit", "edit the user's file", "Commands", "lash config edit", "lash_cli.cli.config_edit:command"),
        Entry("path", "where the files are", "Commands", "lash config path", "lash_cli.cli.config_commands:path"),
        Entry("validate", "name every mistake, with file and line", "Commands",
              "lash config validate", "lash_cli.cli.config_check:command"),
        Entry("schema", "JSON Schema of the file", "Commands",
              "lash config schema", "lash_cli.cli.config_commands:schema"),
        Entry("trust", "let a project's file set everything", "Commands",
              "lash config trust .", "lash_cli.cli.config_trust:command"),
    )),
    Entry("provider", "which models are called where, and with which key", _SETUP,
          "lash provider ls", verbs=_PROVIDER_VERBS),
    Entry("model", "what is known about models, and short names for them", _SETUP,
          "lash model ls", verbs=_MODEL_VERBS),
    Entry("key", "keep API keys", _SETUP, "lash key set openai", verbs=(
        Entry("set", "store a key from a hidden prompt or stdin", "Commands",
              "lash key set openai --stdin < key.txt", "lash_cli.cli.key_commands:set_key"),
        Entry("ls", "names, sources and last four characters", "Commands",
              "lash key ls", "lash_cli.cli.key_commands:list_keys", ("list",)),
        Entry("rm", "forget a key", "Commands", "lash key rm openai", "lash_cli.cli.key_commands:remove_key"),
        Entry("test", "fetch a key from where it is kept", "Commands",
              "lash key test openai", "lash_cli.cli.key_commands:test"),
        Entry("path", "the file they are in", "Commands", "lash key path", "lash_cli.cli.key_commands:path"),
    )),
    Entry("trace", "read what turns did, from a trace file", _SETUP, "lash trace html run.jsonl", verbs=(
        Entry("html", "make one self-contained page of a trace", "Commands",
              "lash trace html run.jsonl --out run.html", "lash_cli.cli.trace_commands:html"),
    )),
    Entry("gc", "remove what nothing needs any more", _SETUP, "lash gc --dry-run", "lash_cli.cli.gc_command:command"),
    Entry("db", "look after the database: copies, checks, secrets", _SETUP, "lash db check", verbs=_DB_VERBS),
    Entry("doctor", "check paths, permissions, the database and what is unfinished", _SETUP,
          "lash doctor -o json", "lash_cli.cli.doctor:command"),
    Entry("schema", "JSON Schema of everything lash prints as JSON", _SETUP,
          "lash schema Session", "lash_cli.cli.schema_command:command"),
    Entry("serve", "let a program run turns, as JSON lines on stdin and stdout", _SETUP,
          "lash serve --stdio", "lash_cli.cli.serve_command:command"),
    Entry("completion", "make your shell complete lash", _SETUP,
          "lash completion bash --install", "lash_cli.cli.completion_command:command"),
    Entry("help", "read the guide, topic by topic", _SETUP,
          "lash help quickstart", "lash_cli.cli.help_command:command"),
    Entry("version", "versions of lash, Python and SQLite", _SETUP,
          "lash version -o json", "lash_cli.cli.version_command:command"),
)  # fmt: skip


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
        sections: dict[str, list[tuple[str, str]]] = {}
        for entry in self.entries:
            name = ", ".join((entry.name, *entry.aliases))
            sections.setdefault(entry.section, []).append((name, entry.summary))
        for section, rows in sections.items():
            with formatter.section(section):
                formatter.write_dl(rows)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """At the root, the global options follow the commands; they are hoisted before the parser sees them."""
        super().format_options(ctx, formatter)
        if ctx.parent is None:
            with formatter.section("Options of every command"):
                formatter.write_dl(list(HELP_ROWS))


def unknown_command(entries: Sequence[Entry], name: str, path: str) -> UsageError:
    """The error for a verb that does not exist, with the nearest ones that do."""
    import difflib

    names = [known for entry in entries for known in (entry.name, *entry.aliases)]
    nearest = difflib.get_close_matches(name, names, n=2, cutoff=0.55)
    shown = " or ".join(f"{path} {known}" for known in nearest)
    return UsageError(
        f"unknown command {name!r}",
        hint=f"did you mean: {shown}" if shown else f"see: {path} --help",
        details={"command": name, "nearest": nearest},
    )


def load(entry: Entry) -> Any:
    """The parser command of a table entry."""
    if entry.verbs:
        return build_group(entry.name, entry.verbs, help_text=f"{_example(entry)}{_sentence(entry.summary)}")
    import typer
    from typer.main import get_command

    module, _, function_name = entry.target.partition(":")
    loaded = import_module(module)
    function = getattr(loaded, function_name)
    description = getdoc(function) or _sentence(entry.summary)
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(
        name=entry.name,
        cls=getattr(loaded, "command_class", None),
        help=f"{_example(entry)}{description}",
        context_settings=_CONTEXT,
    )(function)
    return get_command(app)


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
