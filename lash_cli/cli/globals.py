"""The global options, hoisted from argv before any command sees it (contract 08 §5.5).

A global option is accepted anywhere before `--`, ahead of the verb or after it,
because a Typer callback would only take it ahead. What stands where an option
of the verb takes its value is that value, whatever it looks like: the table of
completion, which is read only where one looks like an option or is no text,
knows which take one. Beyond that this module imports nothing but the error
tree, so the paths that answer without Typer can use it too. A malformed option
is kept as `problem` instead of raised at once: the format the caller asked for
must be known before the error can be shown in it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from lash_cli.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lash_cli.cli.completing import CommandLine

FORMATS = ("text", "table", "json", "jsonl", "name")
COLOR_CHOICES = ("auto", "always", "never")

# Options that take a value: spelling -> attribute.
_VALUED = {
    "-o": "output",
    "--output": "output",
    "--format": "template",
    "--color": "color",
    "--profile": "profile",
    "--home": "home",
    "--db": "database",
    "--log-file": "log_file",
    "-c": "overrides",
}
# Switches: spelling -> attribute and the value they set.
_SWITCHES: dict[str, tuple[str, object]] = {
    "--json": ("output", "json"),
    "-q": ("quiet", True),
    "--quiet": ("quiet", True),
    "--no-color": ("color", "never"),
    "--plain": ("plain", True),
    "--ascii": ("ascii", True),
    "--no-pager": ("no_pager", True),
    "--no-input": ("no_input", True),
    "--no-stdin": ("no_stdin", True),
    "-y": ("yes", True),
    "--yes": ("yes", True),
    "--debug": ("debug", True),
    "-V": ("version", True),
    "--version": ("version", True),
}
_CLUSTER = "qvy"

HELP_ROWS = (
    ("-o, --output FORMAT", "text, table, json, jsonl or name; --json is -o json"),
    ("--fields A,B.C", "keep these fields; without a value list what there is"),
    ("--format TEMPLATE", "one line per item, such as '{id} {status}'"),
    ("-q, --quiet", "ids or the answer only"),
    ("-v, --verbose", "say more; repeatable"),
    ("--color WHEN", "auto, always or never; --no-color is never"),
    ("--plain, --ascii", "no redraw and no boxes; no character beyond ASCII"),
    ("--no-pager, --no-input", "never page; never ask"),
    ("--no-stdin", "leave stdin alone"),
    ("-y, --yes", "answer yes to a confirmation"),
    ("--home DIR, --db FILE", "where everything lives; where the database lives"),
    ("--profile NAME", "use a [profiles.NAME] of the configuration"),
    ("-c KEY=VALUE", "override one configuration key; repeatable"),
    ("--debug, --log-file F", "tracebacks on stderr; where the log goes"),
    ("-V, --version", "print the version"),
)


class GlobalOptions:
    """What the global options said; attributes left alone are None or False."""

    def __init__(self) -> None:
        self.output: str | None = None
        self.fields: tuple[str, ...] | None = None  # empty: list the fields
        self.template: str | None = None
        self.fields_are_known = False  # found to be what the command prints, before it began
        self.quiet = False
        self.verbose = 0
        self.color: str | None = None
        self.plain = False
        self.ascii = False
        self.no_pager = False
        self.no_input = False
        self.no_stdin = False
        self.yes = False
        self.debug = False
        self.version = False
        self.profile: str | None = None
        self.home: str | None = None
        self.database: str | None = None
        self.log_file: str | None = None
        self.overrides: list[str] = []
        self.problem: UsageError | None = None

    def places(self) -> list[str]:
        """The words that lead another command to the same home, database and profile."""
        words: list[str] = []
        for option, value in (("--home", self.home), ("--db", self.database), ("--profile", self.profile)):
            if value is not None:
                words += [option, value]
        return words

    def complain(self, message: str, hint: str | None = None) -> None:
        """Keep the first problem; later ones are usually its consequences."""
        if self.problem is None:
            self.problem = UsageError(message, hint=hint or "see: lash --help")


def hoist(argv: Sequence[str]) -> tuple[GlobalOptions, list[str]]:
    """Split `argv` into the global options and everything else, in order.

    Tokens from `--` on are never touched, nor is the value of an option of the verb. The result's `problem` is set when
    a global option is malformed.
    """
    options = GlobalOptions()
    rest: list[str] = []
    tokens = list(argv)
    position = 0
    while position < len(tokens):
        token = tokens[position]
        position += 1
        if token == "--":
            rest.append(token)
            rest.extend(tokens[position:])
            break
        if token in _SWITCHES:
            name, value = _SWITCHES[token]
            setattr(options, name, value)
        elif token in ("-v", "--verbose"):
            options.verbose += 1
        elif (joined := _joined(token)) is not None:
            letters, beyond = joined
            _apply_cluster(options, letters)
            if beyond:
                position -= 1
                tokens[position] = f"-{beyond}"
        elif token == "--fields" or token.startswith("--fields="):
            position = _take_fields(options, token, tokens, position)
        else:
            spelling, value_text = _split(token)
            if spelling not in _VALUED:
                rest.append(token)
                if position < len(tokens) and tokens[position].startswith("-") and _awaits_value(rest):
                    rest.append(tokens[position])
                    position += 1
                continue
            if value_text is None:
                if position >= len(tokens):
                    options.complain(f"option {spelling} needs a value")
                    break
                value_text = tokens[position]
                position += 1
            _set_valued(options, spelling, value_text)
    if options.problem is None:
        options.problem = _text_problem(rest)
    return options, rest


def _awaits_value(words: Sequence[str]) -> bool:
    """Whether the last of `words` is an option of the verb they name that takes the next word, known without the parser
    from the table of completion; asked only where that word looks like an option itself."""
    return words[-1].startswith("-") and _understood([*words, ""]).awaits_value


def _understood(words: list[str]) -> CommandLine:
    """A command line up to its last word, as completion has it."""
    from lash_cli.cli.completing import CommandLine, Words

    try:
        table = Words.read()
    except OSError:
        table = Words(())  # where no file can be read the command fails on it, and says so
    return CommandLine(table, words)


def _text_problem(tokens: Sequence[str]) -> UsageError | None:
    """The error for an argument that is no text, found before it could reach the store; file names may be bytes."""
    for position, token in enumerate(tokens):
        if token.isascii():
            continue
        try:
            os.fsencode(token).decode("utf-8")
        except UnicodeDecodeError as error:
            if _understood(list(tokens[: position + 1])).is_path:
                continue
            return UsageError(
                f"argument {token!a} is not valid UTF-8 at byte {error.start}; nothing was done",
                hint="convert it first, for example with iconv",
                details={"byte_offset": error.start},
            )
    return None


def _split(token: str) -> tuple[str, str | None]:
    """The spelling of an option and the value glued to it, if any."""
    if token.startswith("--"):
        spelling, equals, value = token.partition("=")
        return spelling, value if equals else None
    if len(token) > 2 and token[:2] in ("-o", "-c"):
        return token[:2], token[2:].removeprefix("=")
    return token, None


def _joined(token: str) -> tuple[str, str] | None:
    """The switches that stand together in one token, as `-qv`, and what stands behind them if that takes a value.
    None for anything else, also where a switch of the command is among them."""
    letters = token[1:]
    beyond = letters.lstrip(_CLUSTER)
    if token[:1] != "-" or beyond == letters or (beyond and f"-{beyond[0]}" not in _VALUED):
        return None
    return letters.removesuffix(beyond), beyond


def _apply_cluster(options: GlobalOptions, letters: str) -> None:
    for letter in letters:
        if letter == "v":
            options.verbose += 1
        else:
            name, value = _SWITCHES["-" + letter]
            setattr(options, name, value)


def _take_fields(options: GlobalOptions, token: str, tokens: list[str], position: int) -> int:
    """`--fields` takes the next token unless that is missing or an option; without a value it asks for the list. An
    empty value is a variable that is not set rather than a question."""
    _, equals, value = token.partition("=")
    is_given = bool(equals)
    if not equals and position < len(tokens) and not tokens[position].startswith("-"):
        value = tokens[position]
        position += 1
        is_given = True
    options.fields = tuple(name.strip() for name in value.split(",") if name.strip())
    if is_given and not options.fields:
        options.complain("option --fields got no name of a field", "leave out its value to list what there is")
    return position


def _set_valued(options: GlobalOptions, spelling: str, value: str) -> None:
    name = _VALUED[spelling]
    if name == "overrides":
        if "=" not in value:
            options.complain(f"option -c needs KEY=VALUE, got {value!r}", "for example: -c defaults.output=json")
            return
        options.overrides.append(value)
        return
    if name == "output" and value not in FORMATS:
        options.complain(f"unknown output format {value!r}", f"choose one of: {', '.join(FORMATS)}")
        return
    if name == "color" and value not in COLOR_CHOICES:
        options.complain(f"unknown colour mode {value!r}", f"choose one of: {', '.join(COLOR_CHOICES)}")
        return
    if not value:
        options.complain(f"option {spelling} needs a value")
        return
    setattr(options, name, value)


def is_set(environment: Mapping[str, str], name: str) -> bool:
    """Whether an environment switch is on: set, and neither empty, `0`, `false` nor `no`."""
    return environment.get(name, "").strip().lower() not in ("", "0", "false", "no")
