"""`lash config edit` (contract 08 §6.7): the user's file in the user's editor, replaced only by one that is valid.

The editor works on a private copy. A copy with a mistake is offered again or
kept, with its path in the error, and the file stays as it was; so does a file
that somebody else changed meanwhile.
"""

from __future__ import annotations

import glob
import os
import sys

from lash_cli.cli.editor import HeldSignals, editor_command, held_signals, run_editor
from lash_cli.cli.invocation import current
from lash_cli.cli.output import emit_one, safe, say, warn
from lash_cli.errors import ConfigError, ConflictError, LashError, UsageError
from lash_cli.paths import only_regular, write_private_file
from lash_cli.settings.loading import Problem, problems_in
from lash_cli.settings.one_writer import only_writer

_TEMPLATE = """\
# lash reads this file at every start. What there is: lash config show, lash config schema
# [defaults]
# model = "..."
"""
_DRAFT, _SUFFIX = "config-", ".toml"
_AGAIN = frozenset({"", "y", "yes"})


def command() -> int:
    """Edit the user's configuration file in $VISUAL or $EDITOR.

    It is checked before it replaces the old one; one with a mistake is kept
    beside it, and nothing changes.
    """
    current().stand_alone()
    if not current().can_ask:
        raise UsageError("an editor needs a terminal", code="not_a_tty", hint="use: lash config set KEY VALUE")
    paths = current().paths
    editor = editor_command(current().environment)
    before = _read(paths.config_file)
    # A name of its own: one that was kept before is never overwritten.
    draft = os.path.join(paths.state_dir, f"{_DRAFT}{os.urandom(4).hex()}{_SUFFIX}")
    write_private_file(draft, _TEMPLATE.encode() if before is None else before)
    with held_signals() as held:
        try:
            changed = _edit(editor, draft, before, held)
        except LashError as error:
            _keep(error, draft, before)
            raise
    emit_one("ConfigEdit", {"id": paths.config_file, "file": paths.config_file, "changed": changed}, text="")
    say(f"{'wrote' if changed else 'nothing was changed in'} {paths.config_file}")
    return held.exit_status


def kept_drafts() -> list[str]:
    """Texts of edits that were not put in place, for `doctor`."""
    return sorted(glob.glob(os.path.join(glob.escape(current().paths.state_dir), f"{_DRAFT}*{_SUFFIX}")))


def _edit(editor: list[str], draft: str, before: bytes | None, held: HeldSignals) -> bool:
    """Let the user edit until the copy is valid, and put it in place; whether anything changed."""
    target = os.path.realpath(current().paths.config_file)
    while True:
        run_editor(editor, draft, held)
        after = _read(draft)
        if after is None:
            raise UsageError(f"the editor left no file {safe(draft)}", hint="nothing was written")
        if after == (_TEMPLATE.encode() if before is None else before):
            os.unlink(draft)
            return False
        problems = _problems(after)
        if not problems:
            break
        for problem in problems:
            warn(f"line {problem.line}: {problem.message}", code="config_invalid")
        if not _wants_again(held):
            raise ConfigError(
                "\n".join(f"line {problem.line}: {problem.message}" for problem in problems),
                details={"problems": [problem._asdict() for problem in problems]},
            )
    with only_writer(target, may_begin=True):
        if _read(target) != before:
            raise ConflictError(f"{target} was changed by somebody else meanwhile", code="config_changed")
        write_private_file(target, after)
    os.unlink(draft)
    return True


def _problems(text: bytes) -> list[Problem]:
    path = current().paths.config_file
    try:
        return problems_in(text.decode("utf-8"), path)
    except UnicodeDecodeError as error:
        line = text[: error.start].count(b"\n") + 1
        return [Problem(path, line, None, f"not valid UTF-8 at byte {error.start}")]


def _wants_again(held: HeldSignals) -> bool:
    if held.received is not None:
        return False
    sys.stderr.write("edit it again? [Y/n] ")
    sys.stderr.flush()
    line = sys.stdin.readline()
    return bool(line) and line.strip().lower() in _AGAIN


def _keep(error: LashError, draft: str, before: bytes | None) -> None:
    """Have the error say where the text is; a copy nobody changed is no text, and goes."""
    if _read(draft) not in (before, _TEMPLATE.encode(), None):
        error.hint = f"your text is kept in {safe(draft)}; nothing was written"
        error.details["draft"] = draft
    elif os.path.exists(draft):
        os.unlink(draft)


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb", opener=only_regular) as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", code="permissions_unsafe") from error
