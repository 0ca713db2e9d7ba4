"""What one run of `lash` was asked for: global options, places, settings and output form (contract 08 §5.5, §6.6).

Settings are read on first use, so that a command which needs none works with a
broken configuration and every error can still be shown in the format asked for.
There is exactly one invocation per process; `current()` returns it.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Literal, cast

from lash_cli.cli.globals import FORMATS, GlobalOptions, is_set
from lash_cli.errors import LashError
from lash_cli.paths import Paths, current_directory_or_root, resolve_paths

if TYPE_CHECKING:
    from lash_cli.settings import Settings

Format = Literal["text", "table", "json", "jsonl", "name"]
# What LASH_FORCE_TTY says beyond yes.
_FEWEST_COLUMNS = 10
MACHINE_FORMATS = frozenset({"json", "jsonl", "name"})
# A command in a text for people, up to its verb, or quoted words, which are somebody's. A command begins the text or
# follows a sign or one of these words: names and paths may hold `lash` too. Help is the same everywhere.
# Compiled where it is first needed, like every expression that a plain command comes by (design D16).
_NAMED_COMMAND = (
    r"""(?<![^\s'"])(?:'[^']*'|"[^"]*")"""
    r"""|(?:^|(?<=[:;,.|] )|(?<=[(\n])|(?<=\bor )|(?<=\band )|(?<=\bsee ))"""
    r"""lash (?=[a-z])(?!help\b|(?:[a-z-]+ ){1,2}--help)"""
)


def is_ascii_wanted(options: GlobalOptions, environment: Mapping[str, str]) -> bool:
    """Whether nothing beyond ASCII may be printed: `--ascii` or `LASH_ASCII`, whatever the configuration says."""
    return options.ascii or is_set(environment, "LASH_ASCII")


def _stdout_is_terminal(environment: Mapping[str, str]) -> tuple[bool, int | None]:
    """Whether text goes to a terminal, or is to look so (`LASH_FORCE_TTY`), and the columns that one says."""
    forced = environment.get("LASH_FORCE_TTY", "").strip()
    if is_set(environment, "LASH_FORCE_TTY"):
        return True, int(forced) if forced.isdecimal() and int(forced) >= _FEWEST_COLUMNS else None
    return sys.stdout is not None and sys.stdout.isatty(), None


class OutputOptions:
    """How results are shown. `format` is resolved; `quiet` turns lists and things into ids."""

    def __init__(self, options: GlobalOptions, output_format: Format, environment: Mapping[str, str]) -> None:
        self.format: Format = output_format
        self.fields = options.fields  # None: all; empty: list the names
        self.template = options.template
        self.quiet = options.quiet
        self.verbose = options.verbose
        # Whether the text is for a terminal, of so many columns if that is said and not asked.
        self.is_terminal, self.columns = _stdout_is_terminal(environment)
        dumb = environment.get("TERM") == "dumb"
        self.plain = options.plain or is_set(environment, "LASH_PLAIN") or dumb
        self.ascii = is_ascii_wanted(options, environment)
        self.color = self._color(options.color, environment, dumb, self.is_terminal)
        self.no_pager = options.no_pager

    @staticmethod
    def _color(asked: str | None, environment: Mapping[str, str], dumb: bool, is_terminal: bool) -> bool:
        """Whether stdout gets colour: the option, then NO_COLOR, FORCE_COLOR, CLICOLOR_FORCE, then the terminal."""
        if asked in ("always", "never"):
            return asked == "always"
        if environment.get("NO_COLOR"):
            return False
        if is_set(environment, "FORCE_COLOR") or is_set(environment, "CLICOLOR_FORCE"):
            return True
        if dumb or environment.get("CLICOLOR") == "0":
            return False
        return is_terminal

    @property
    def is_machine(self) -> bool:
        """Whether a program reads the result: json, jsonl or name."""
        return self.format in MACHINE_FORMATS

    @property
    def is_chosen_from(self) -> bool:
        """Whether a part of what there is was asked for, by `--fields` or `--format`."""
        return self.fields is not None or self.template is not None

    @property
    def is_stream(self) -> bool:
        """Whether what happens is told line by line as JSON; one chooses from the result, which is one document."""
        return self.format == "jsonl" and not self.is_chosen_from


class Invocation:
    """One run of the command line."""

    def __init__(self, options: GlobalOptions, environment: Mapping[str, str]) -> None:
        self.options = options
        self.environment = environment
        self.no_input = options.no_input or is_set(environment, "LASH_NO_INPUT")
        self.no_stdin = options.no_stdin or is_set(environment, "LASH_NO_STDIN")
        self.yes = options.yes
        self.debug = options.debug
        self.request_id = "r_" + os.urandom(8).hex()
        # What was warned of and need not be said again.
        self.told: set[str] = set()
        # By source: what was asked for to see whether a session can be begun.
        self.fetched_keys: dict[str, str] = {}
        self._stands_alone = False

    def take_fetched_keys(self) -> dict[str, str]:
        """The keys in `fetched_keys`, which are for one core and are asked for again by the next."""
        taken, self.fetched_keys = self.fetched_keys, {}
        return taken

    @cached_property
    def paths(self) -> Paths:
        """Where everything lives; raises as `resolve_paths`."""
        options = self.options
        return resolve_paths(self.environment, home=options.home, database=options.database, log_file=options.log_file)

    @cached_property
    def settings(self) -> Settings:
        """The merged settings; raises `ConfigError` (`config_invalid`) when a file or an override is wrong."""
        from lash_cli.settings import load_settings

        settings = load_settings(
            self.paths,
            environment=self.environment,
            cwd=current_directory_or_root(),
            overrides=tuple(self.options.overrides),
            profile=self.options.profile or self.environment.get("LASH_PROFILE"),
        )
        self.__dict__["settings"] = settings  # known before the warnings, which are shown in its format
        for warning in settings.warnings:
            from lash_cli.cli.output import warn

            warn(warning)
        return settings

    def commands_here(self, text: str, *, before: str = "") -> str:
        """`text` with every command it names made one of the home, database and profile of this invocation, so that it
        works when it is pasted (contract 08 §6.2), with `before` before it. What names them already, what is quoted,
        and what says none stays as it is."""
        places = self.options.places()
        if not places and not before:
            return text
        from lash_cli.views.shell_words import shell_word

        here = " ".join([f"{before}lash", *map(shell_word, places), ""])
        return re.sub(_NAMED_COMMAND, lambda found: here if found[0] == "lash " else found[0], text)

    @property
    def wants_ascii(self) -> bool:
        """See `is_ascii_wanted`."""
        return is_ascii_wanted(self.options, self.environment)

    def stand_alone(self) -> None:
        """Let a broken configuration not stop this command: it is one that explains or mends it."""
        self._stands_alone = True

    @cached_property
    def output(self) -> OutputOptions:
        """How to show results: `-o`, then `-q`, then settings (which include `LASH_OUTPUT`), then text.

        `-c` and `--profile` are checked here where nothing else reads the settings: what is said of the configuration
        on a command line is never passed over.
        """
        if not self._stands_alone and (self.options.overrides or self.options.profile):
            _ = self.settings
        chosen = self.notice_format if self._stands_alone else self.options.output or self.settings.output
        if self.options.quiet and self.options.output is None:
            # Asked for here and now, where the settings only say what is usual.
            chosen = "text"
        return OutputOptions(self.options, cast(Format, chosen), self.environment)

    @property
    def notice_format(self) -> Format:
        """The format for errors and notices: as for results, but a broken configuration cannot get in its way."""
        if self.options.output is not None:
            return cast(Format, self.options.output)
        try:
            return cast(Format, self.settings.output)
        except LashError:
            chosen = self.environment.get("LASH_OUTPUT")
            return cast(Format, chosen) if chosen in FORMATS else "text"

    @property
    def can_ask(self) -> bool:
        """Whether a question may be put to a person: a terminal on both sides and no `--no-input`."""
        return not self.no_input and sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


_current: Invocation | None = None


def begin(options: GlobalOptions, environment: Mapping[str, str] | None = None) -> Invocation:
    """Make the invocation of this process and return it."""
    global _current
    _current = Invocation(options, os.environ if environment is None else environment)
    return _current


def current() -> Invocation:
    """The invocation of this process; one without options when none was begun (library use, tests)."""
    return _current if _current is not None else begin(GlobalOptions())
