"""Completion in the prompt of a chat: slash commands, and files after `@` (contract 08 §7.3).

Files are those that `glob` would find: hidden and ignored ones are not offered.
The list of a directory is walked once in a while and in a thread, so typing
never waits for a disk.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from lash_cli.repl.slash import COMMANDS, QUEUE_WORDS, find

OFFERED = 50
WALKED_FILES = 20_000
FRESH_SECONDS = 10.0

ListFiles = Callable[[], Iterable[str]]


class ChatCompleter(Completer):
    """Completes what stands before the cursor; nothing in ordinary text."""

    def __init__(self, list_files: ListFiles) -> None:
        self._list_files = list_files
        self._files: list[str] = []
        self._walked_at = float("-inf")

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """Suggestions, best first."""
        before = document.text_before_cursor
        if before.startswith("/") and not before.startswith("//") and "\n" not in before:
            yield from _commands(before[1:])
            return
        word = before.rpartition("\n")[2].rpartition(" ")[2]
        if word.startswith("@"):
            for path in fuzzy(word[1:], self._known_files())[:OFFERED]:
                yield Completion(f"@{path}", start_position=-len(word), display=path)

    def _known_files(self) -> list[str]:
        if time.monotonic() - self._walked_at > FRESH_SECONDS:
            self._files = sorted(self._list_files())
            self._walked_at = time.monotonic()
        return self._files


def _commands(typed: str) -> Iterable[Completion]:
    word, space, rest = typed.partition(" ")
    if not space:
        for command in COMMANDS:
            for name in (command.name, *command.aliases):
                if name.startswith(word):
                    shown = f"/{name} {command.arguments}".strip()
                    yield Completion(name, start_position=-len(word), display=shown, display_meta=command.summary)
        return
    command_found = find(word)
    choices = {"queue": QUEUE_WORDS, "tool": ("on", "off")}.get(command_found.name if command_found else "", ())
    for choice in choices:
        if " " not in rest and choice.startswith(rest):
            yield Completion(choice, start_position=-len(rest))


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
    from lash_cli.tools.policy import FilePolicy
    from lash_cli.tools.search import Walk

    base = Path(directory)
    walk = Walk(FilePolicy((base,)), base, CancelToken(), WALKED_FILES)
    return [found.relative for found in walk.files()]
