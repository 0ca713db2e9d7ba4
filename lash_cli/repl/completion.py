"""Completion in the prompt of a chat: slash commands with what follows them, and files after `@` (contract 08 §7.3).

Files are those that `glob` would find: hidden and ignored ones are not offered.
The list of a directory is walked once in a while and in a thread, so typing
never waits for a disk.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document

from lash_cli.repl.slash import COMMANDS, PATH_COMMANDS, QUEUE_WORDS, Command, completed_like, find
from lash_cli.views.safe_text import safe_line

OFFERED = 50
WALKED_FILES = 20_000
FRESH_SECONDS = 10.0

ListFiles = Callable[[], Iterable[str]]
# What may stand in the place of the last of some shell words, and what each is.
Candidates = Callable[[Sequence[str]], Iterable[tuple[str, str]]]


class ChatCompleter(Completer):
    """Completes what stands before the cursor; nothing in ordinary text."""

    def __init__(self, list_files: ListFiles, candidates: Candidates) -> None:
        self._list_files = list_files
        self._candidates = candidates
        self._paths = PathCompleter(expanduser=True)
        self._files: list[str] = []
        self._walked_at = float("-inf")

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """Suggestions, best first."""
        before = document.text_before_cursor
        if before.startswith("/") and not before.startswith("//") and "\n" not in before:
            word, space, rest = before[1:].partition(" ")
            if not space:
                yield from _commands(word)
            elif (command := find(word)) is not None:
                yield from self._arguments(command, rest, complete_event)
            return
        word = before.rpartition("\n")[2].rpartition(" ")[2]
        if word.startswith("@"):
            for path in fuzzy(word[1:], self._known_files())[:OFFERED]:
                yield Completion(f"@{path}", start_position=-len(word), display=path)

    def _arguments(self, command: Command, rest: str, complete_event: CompleteEvent) -> Iterable[Completion]:
        typed = rest.rpartition(" ")[2]
        if " " not in rest:
            for choice in {"queue": QUEUE_WORDS, "tool": ("on", "off")}.get(command.name, ()):
                if choice.startswith(rest):
                    yield Completion(choice, start_position=-len(rest))
        if command.name in PATH_COMMANDS and not rest.startswith("-"):
            yield from self._paths.get_completions(Document(rest), complete_event)
            return
        words = completed_like(command, rest)
        for value, description in self._candidates(words) if words else ():
            if " " not in value and value.isprintable():
                yield Completion(value, start_position=-len(typed), display_meta=safe_line(description))

    def _known_files(self) -> list[str]:
        if time.monotonic() - self._walked_at > FRESH_SECONDS:
            self._files = sorted(self._list_files())
            self._walked_at = time.monotonic()
        return self._files


def _commands(typed: str) -> Iterable[Completion]:
    for command in COMMANDS:
        for name in (command.name, *command.aliases):
            if name.startswith(typed):
                shown = f"/{name} {command.arguments}".strip()
                yield Completion(name, start_position=-len(typed), display=shown, display_meta=command.summary)


def fuzzy(typed: str, paths: Iterable[str]) -> list[str]:
    """The paths that hold the typed letters in their order, ignoring case: those whose name begins so first, then
    those that hold them in one piece, then the short ones."""
    wanted = typed.lower()
    found = []
    for path in paths:
        lowered = path.lower()
        if not _holds(lowered, wanted):
            continue
        name = lowered.rpartition("/")[2]
        rank = 0 if lowered.startswith(wanted) or name.startswith(wanted) else 1 if wanted in lowered else 2
        found.append((rank, len(path), path))
    return [path for _, _, path in sorted(found)]


def _holds(text: str, letters: str) -> bool:
    position = 0
    for letter in letters:
        position = text.find(letter, position) + 1
        if not position:
            return False
    return True


def files_below(directory: str) -> Iterable[str]:
    """What `@` offers in `directory`: at most `WALKED_FILES` entries are looked at."""
    from lash_cli.runtime.cancellation import CancelToken
    from lash_cli.system import SystemClock
    from lash_cli.tools.policy import FilePolicy
    from lash_cli.tools.search import Walk

    base = Path(directory)
    walk = Walk(FilePolicy((base,)), base, CancelToken(), SystemClock(), WALKED_FILES)
    return list(walk.files())
