"""`lash __complete -- WORDS…`: what may stand where the cursor is (contract 08 §10, design D16).

A shell asks at every press of a key, so this is answered before anything else of
lash is imported, from `completion_words.txt`, which `completion_build` makes of
the command table, and from rows of the database (`completion_rows`). The answer
is one `value<TAB>description` a line and a last line `:directive`: `nofiles`,
`files` or `dirs` say what else may stand there, `nospace` that the word goes on.
Whatever goes wrong is an empty answer: nobody can read an error in the middle
of a command line, and nothing is ever created.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # as in typing, whose import costs more than an answer
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Candidate = tuple[str, str]

NO_FILES, FILES, DIRECTORIES, NO_SPACE = "nofiles", "files", "dirs", "nospace"
WORDS_FILE = os.path.join(os.path.dirname(__file__), "completion_words.txt")
MOST = 50
_DESCRIPTION_LIMIT = 60

# Kinds of values that are files of the user's.
_PATHS = {"file": FILES, "dir": DIRECTORIES}
# Kinds of values that are a file behind an `@`, by what begins such a word, and text otherwise.
_MARKED_PATHS = {"text-file": "@", "setting": "system=@"}
# Kinds of which one word holds several, separated by commas.
_LISTS = ("fields", "event", "status", "by")


def main(arguments: list[str]) -> int:
    """Print the answer to `arguments`, which are those after `__complete`; always 0."""
    try:
        text = answer(arguments[1:] if arguments[:1] == ["--"] else arguments)
    except Exception:  # noqa: BLE001 - the contract of this command: no candidates instead of an error
        text = f":{NO_FILES}\n"
    try:
        encoding = sys.stdout.encoding or "utf-8"
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except (OSError, ValueError):
        _discard_output()
    return 0


def _discard_output() -> None:
    """Let what could not be written go nowhere; the interpreter would try once more at its end, and complain."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except OSError:
        return


def answer(words: list[str]) -> str:
    """The lines for `words`, those after `lash` up to the cursor; the last one is what is being typed."""
    line = CommandLine(Words.read(), words or [""])
    candidates, directive = line.complete()
    shown = "".join(f"{value}\t{_description(text)}\n" for value, text in candidates if value.isprintable())
    return f"{shown}:{directive}\n"


def _description(text: str) -> str:
    line = "".join(character if character.isprintable() else " " for character in text)
    line = " ".join(line.split())
    return line if len(line) <= _DESCRIPTION_LIMIT else line[: _DESCRIPTION_LIMIT - 1] + "…"


class Option:
    """One option: its spellings, the kind of its value (empty for a switch), and whether a value may only be glued."""

    def __init__(self, spellings: str, kind: str, description: str) -> None:
        self.spellings = spellings.split(",")
        self.is_optional = kind.startswith("?")
        self.kind = kind.lstrip("?")
        self.description = description

    @property
    def takes_next(self) -> bool:
        """Whether the next word is its value."""
        return bool(self.kind) and not self.is_optional


class Words:
    """The table of words. A line is `path<TAB>what<TAB>…`, with the path of a command, `*` for all of them, or the
    kind of a value:

        queue cancel<TAB>option<TAB>--key,-k<TAB>kind<TAB>description
        queue<TAB>verb<TAB>cancel<TAB>alias,alias<TAB>summary
        queue cancel<TAB>argument<TAB>kind<TAB>+ when it may be repeated
        status<TAB>word<TAB>idle<TAB>description
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self._rows: dict[tuple[str, str], list[list[str]]] = {}
        for line in lines:
            path, what, *rest = line.rstrip("\n").split("\t")
            self._rows.setdefault((path, what), []).append(rest)

    @classmethod
    def read(cls) -> Words:
        """The table that belongs to this lash; a process reads it once."""
        global _table
        if _table is None:
            with open(WORDS_FILE, encoding="utf-8") as file:
                _table = cls(file)
        return _table

    def verbs(self, path: str) -> list[list[str]]:
        """`[name, aliases, summary]` of every verb of a group, the root being the empty path."""
        return self._rows.get((path, "verb"), [])

    def verb(self, path: str, word: str) -> str | None:
        """The path of the verb that `word` names, by its name or an alias."""
        for name, aliases, _ in self.verbs(path):
            if word == name or word in aliases.split(","):
                return f"{path} {name}".strip()
        return None

    def options(self, path: str) -> list[Option]:
        """The options of a command and those of every command."""
        return [Option(*row) for owner in (path, "*") for row in self._rows.get((owner, "option"), [])]

    def argument(self, path: str, position: int) -> str:
        """The kind of the argument at `position`, empty when there is none."""
        rows = self._rows.get((path, "argument"), [])
        if position < len(rows):
            return rows[position][0]
        return rows[-1][0] if rows and rows[-1][1] else ""

    def of_kind(self, kind: str) -> list[Candidate]:
        """The fixed words of a kind."""
        return [(value, text) for value, text in self._rows.get((kind, "word"), [])]


_table: Words | None = None


class CommandLine:
    """The words before the cursor, understood as far as that is possible."""

    def __init__(self, table: Words, words: list[str]) -> None:
        self._table = table
        self._current = words[-1]
        self.path = ""
        self.arguments: list[str] = []
        self.given: dict[str, str] = {}  # the last value of each option, by its first spelling
        self._is_group = True
        self._is_known = True
        self._only_arguments = False
        self._awaited: Option | None = None
        for word in words[:-1]:
            self._take(word)

    def _take(self, word: str) -> None:
        if self._awaited is not None:
            self.given[self._awaited.spellings[0]] = word
            self._awaited = None
        elif word == "--" and not self._only_arguments:
            self._only_arguments = True
        elif word.startswith("-") and len(word) > 1 and not self._only_arguments:
            option, value = self._taken_apart(word)
            if option is not None and value is not None:
                self.given[option.spellings[0]] = value
            elif option is not None and option.takes_next:
                self._awaited = option
        elif self._is_group:
            path = self._table.verb(self.path, word)
            self._is_known = path is not None
            self.path = path or self.path
            self._is_group = self._is_known and bool(self._table.verbs(self.path))
        else:
            self.arguments.append(word)

    def _taken_apart(self, word: str) -> tuple[Option | None, str | None]:
        """The option that `word` is, and the value that is glued to it if any: `--key=V`, `-kV`, of a global one
        `-k=V`. Of short switches in one word it is the last: `-qoV`."""
        if word.startswith("--"):
            spelling, equals, value = word.partition("=")
            return self._option(spelling), value if equals else None
        spelling, glued = word[:2], word[2:]
        option = self._option(spelling)
        if glued and option is not None and not option.kind:
            return self._taken_apart(f"-{glued}")
        if not glued:
            return option, None
        return option, glued.removeprefix("=") if spelling in ("-o", "-c") else glued

    def _option(self, spelling: str) -> Option | None:
        return next((option for option in self._table.options(self.path) if spelling in option.spellings), None)

    @property
    def awaits_value(self) -> bool:
        """Whether the word being typed is the value of the option before it."""
        return self._awaited is not None

    @property
    def is_path(self) -> bool:
        """Whether the word being typed names a file or a directory."""
        kind, typed, _ = self._value()
        return kind in _PATHS or (kind in _MARKED_PATHS and typed.startswith(_MARKED_PATHS[kind]))

    def complete(self) -> tuple[list[Candidate], str]:
        """The candidates for the word being typed, and the directive."""
        if not self._is_known:
            return [], NO_FILES
        if self._awaited is None:
            if self._is_option:
                if self._taken_apart(self._current)[1] is None:
                    return self._spellings(), NO_FILES
            elif self._is_group:
                verbs = [(name, text) for name, _, text in self._table.verbs(self.path)]
                return list(_matching(verbs, self._current)), NO_FILES
        return self._values(*self._value())

    @property
    def _is_option(self) -> bool:
        return self._current.startswith("-") and not self._only_arguments

    def _value(self) -> tuple[str, str, str]:
        """The kind of value that is being typed, empty for none; what of it is there, and what stands before it in the
        same word."""
        if self._awaited is not None:
            return self._awaited.kind, self._current, ""
        if self._is_option:
            option, value = self._taken_apart(self._current)
            typed = value or ""
            return "" if option is None else option.kind, typed, self._current.removesuffix(typed)
        kind = "" if self._is_group else self._table.argument(self.path, len(self.arguments))
        return kind, self._current, ""

    def _spellings(self) -> list[Candidate]:
        """Options by their long name, and by the short one when there is no other."""
        found = [
            (next((name for name in option.spellings if name.startswith("--")), option.spellings[0]), option)
            for option in self._table.options(self.path)
        ]
        return list(_matching([(name, option.description) for name, option in found], self._current))

    def _values(self, kind: str, typed: str, glued: str) -> tuple[list[Candidate], str]:
        """The values of a kind that begin with `typed`; `glued` is what stands before it in the same word."""
        if kind in _PATHS:
            return [], _PATHS[kind]
        if kind in _LISTS:
            done, comma, typed = typed.rpartition(",")
            glued += done + comma
        if kind == "fields":
            kind = f"fields of {self.path}"
        if kind == "config-value":
            kind = f"value of {self.arguments[0] if self.arguments else ''}"
        words = [*_matching(self._table.of_kind(kind), typed), *self._rows(kind, typed)]
        candidates = [(glued + value, text) for value, text in words]
        goes_on = bool(words) and (kind.startswith(_LISTS) or all(value.endswith(("=", ".")) for value, _ in words))
        return candidates, NO_SPACE if goes_on else NO_FILES

    def _rows(self, kind: str, typed: str) -> list[Candidate]:
        """What the database and the configuration know of a kind."""
        from lash_cli.cli.completion_rows import KINDS, Sources

        if kind not in KINDS:
            return []
        sources = Sources(os.environ, home=self.given.get("--home"), database=self.given.get("--db"))
        session = self.given.get("--session") or (
            self.arguments[0] if self.arguments and self._table.argument(self.path, 0) == "session" else None
        )
        return KINDS[kind](sources, typed, session)


def _matching(candidates: Iterable[Candidate], typed: str) -> Iterator[Candidate]:
    return ((value, text) for value, text in candidates if value.startswith(typed))
