"""A text that the user writes in an editor and that something is done with at once (contract 08 §5.1, §11).

The editor comes first: while it is open, and when it fails, nothing has been
done. The text is in a private file until what it is for has taken it, so that
nothing typed is ever lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lash_cli.cli.edit_journal import forget_text, keep_typed, write_text
from lash_cli.cli.editor import editor_command, held_signals, run_editor
from lash_cli.cli.invocation import current
from lash_cli.cli.output import say
from lash_cli.errors import LashError, UsageError
from lash_cli.paths import only_regular
from lash_cli.system import SystemIds


@contextmanager
def written_text(begin: str, untouched: str) -> Iterator[str]:
    """What the user makes of `begin` in an editor. Its file is gone once the block has ended well, and where
    nothing was typed; else it is named.

    `untouched` says in errors that nothing was done. Raises `ConfigError`
    (`editor_missing`), `LashRuntimeError` (`editor_failed`, `edit_interrupted`)
    and `UsageError` (`empty_prompt`).
    """
    editor = editor_command(current().environment)
    edit_id = SystemIds().new("e")
    path = write_text(edit_id, begin)
    with held_signals() as held:
        try:
            run_editor(editor, path, held)
            text = _left_in(path)
        except LashError as error:
            keep_typed(error, edit_id, begin, untouched)
            raise
    if not text.strip():
        forget_text(edit_id)
        raise UsageError("the edited text is empty", code="empty_prompt", hint=untouched)
    try:
        yield text
    except BaseException:
        say(f"what you typed is in {path}")
        raise
    forget_text(edit_id)


def _left_in(path: str) -> str:
    """What the editor left, without the line feed that editors add."""
    try:
        with open(path, encoding="utf-8", newline="", opener=only_regular) as file:
            return file.read().removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the edited file cannot be read: {error}") from error
