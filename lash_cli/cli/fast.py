"""What programs ask many times, told apart before the command-line parser is imported (contract 08 §9, design D16).

A status bar, a prompt or a script asks many times; the parser alone costs as
much as everything such an answer needs. `ls` for a program is answered with the
standard library; `show`, `log`, `queue ls` and `enqueue` run what their
commands run, only without the parser in front. Whatever is not plain — a
filter, another option, a database that does not answer at once — is left to
the real command. Tests compare both ways word for word.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lash_cli.cli.globals import GlobalOptions
from lash_cli.errors import ConfigError
from lash_cli.paths import resolve_paths
from lash_cli.views.safe_text import safe_json
from lash_cli.views.times import rfc3339

if TYPE_CHECKING:
    from lash_cli.store.sqlite.listing import ListedSession

DEFAULT_LIMIT = 20
# As many digits as any count of messages has; longer numbers are the parser's.
_MAX_DIGITS = 9
_FORMATS = ("json", "jsonl", "name")


def plain_run(rest: list[str]) -> Callable[[], int] | None:
    """What a plain `show`, `log`, `queue ls` or `enqueue` does, None when `rest` says more than that.

    The result prints and returns the exit status; it raises what the command raises.
    """
    verb, arguments = rest[0], rest[1:]
    if verb == "queue" and arguments:
        verb, arguments = f"queue {arguments[0]}", arguments[1:]
    if verb not in _PLAIN:
        return None
    run, most_words, option = _PLAIN[verb]
    words: list[str] = []
    value: str | None = None
    tokens = iter(arguments)
    for token in tokens:
        spelling, equals, glued = token.partition("=")
        if option is not None and spelling == option:
            value = glued if equals else next(tokens, None)
            if value is None:
                return None
        elif token == "" or token.startswith("-"):
            return None
        else:
            words.append(token)
    if len(words) > most_words or (option == "--last" and value is not None and _count(value) is None):
        return None

    def plainly() -> int:
        with _lightly():
            return run(words, value)

    return plainly


def _show(words: list[str], _: str | None) -> int:
    from lash_cli.cli.session_detail import show_session

    return show_session(*words)


def _log(words: list[str], last: str | None) -> int:
    from lash_cli.cli.transcript_detail import show_transcript

    return show_transcript(*words, last=None if last is None else _count(last))


def _queue(words: list[str], _: str | None) -> int:
    from lash_cli.cli.queue_detail import show_queue

    return show_queue(*words)


def _enqueue(words: list[str], key: str | None) -> int:
    from lash_cli.api.queue import source_key_of
    from lash_cli.cli.enqueueing import EnqueuePlan, submit
    from lash_cli.cli.stdin import read_prompt
    from lash_cli.core.content import TurnInput

    if key is not None:
        source_key_of(key)
    reference, prompt = (*words, None, None)[:2]
    return submit(EnqueuePlan(reference, TurnInput(items=read_prompt(prompt)), key))


# By verb: what it does with the words and the value of its option, how many words there may be, and that option.
_PLAIN: dict[str, tuple[Callable[[list[str], str | None], int], int, str | None]] = {
    "show": (_show, 1, None),
    "describe": (_show, 1, None),
    "log": (_log, 1, "--last"),
    "queue ls": (_queue, 1, None),
    "queue list": (_queue, 1, None),
    "queue add": (_enqueue, 2, "--key"),
    "enqueue": (_enqueue, 2, "--key"),
}


class _System:
    """All that `uuid` wants of `platform`."""

    @staticmethod
    def system() -> str:
        return os.uname().sysname


@contextmanager
def _lightly() -> Iterator[None]:
    """Spend nothing on what a process of one look never uses.

    Importing makes many objects and no garbage, so the collector rests meanwhile. msgspec takes three names from
    typing_extensions and is content with `typing` where that is not installed; it stands in nobody's way here, but
    it brings the source tools of the standard library with it, more than the whole reading of a session costs. And it
    takes `uuid`, which asks `platform` for the name of the system, and that compiles nine expressions for other ones.
    """
    gc.disable()
    try:
        if "msgspec" not in sys.modules:
            stand_ins: dict[str, Any] = {"typing_extensions": None, "platform": _System}
            stand_ins = {name: module for name, module in stand_ins.items() if name not in sys.modules}
            sys.modules.update(stand_ins)
            try:
                import msgspec  # noqa: F401
            finally:
                for name in stand_ins:
                    del sys.modules[name]
        yield
    finally:
        gc.enable()


def _count(text: str) -> int | None:
    """A count of at least one in plain digits, None for everything the parser judges."""
    if not (text.isascii() and text.isdigit()) or len(text) > _MAX_DIGITS:
        return None
    return int(text) or None


def serve(options: GlobalOptions, rest: list[str]) -> str | None:
    """What `ls` prints for this command line, or None when the real command must answer it."""
    limit = _plain_limit(options, rest)
    if limit is None:
        return None
    try:
        paths = resolve_paths(os.environ, home=options.home, database=options.database, log_file=options.log_file)
    except ConfigError:
        return None
    now_ms = time.time_ns() // 1_000_000
    rows: list[ListedSession] | None = []
    try:
        is_there = bool(os.stat(paths.database))
    except FileNotFoundError:
        is_there = False
    except OSError:
        return None  # not to be taken for none: the real command says why
    if is_there:
        from lash_cli.store.sqlite.listing import first_page

        # One row more than asked for tells whether there is a next page.
        rows = first_page(paths.database, limit=limit + 1, now_ms=now_ms)
    elif not os.path.isdir(os.path.dirname(paths.database)) and os.path.lexists(os.path.dirname(paths.database)):
        return None
    if rows is None:
        return None
    following = None
    if len(rows) > limit:
        rows = rows[:limit]
        following = rows[-1].cursor
    try:
        return _render(options, rows, now_ms, following)
    except (ValueError, LookupError, TypeError, AttributeError):
        return None  # a damaged record: the real command says which code and what to do


def _plain_limit(options: GlobalOptions, rest: list[str]) -> int | None:
    """How many to list, None unless the command line is a plain listing for a program."""
    is_plain = (
        options.output in _FORMATS
        and options.problem is None
        and options.fields is None
        and options.template is None
        and not (options.debug or options.version or options.ascii or options.profile or options.overrides)
        and not os.environ.get("LASH_ASCII")
    )
    if not is_plain or not rest or rest[0] not in ("ls", "list"):
        return None
    if len(rest) == 1:
        return DEFAULT_LIMIT
    if len(rest) == 3 and rest[1] in ("-n", "--limit"):
        return _count(rest[2])
    return None


def _render(options: GlobalOptions, rows: list[ListedSession], now_ms: int, following: str | None) -> str:
    if options.output == "name":
        return "".join(f"{row.session_id}\n" for row in rows)
    items = [_document(row, now_ms) for row in rows]
    if options.output == "jsonl":
        return "".join(_json(item) for item in items)
    return _json({"schema": "lash/1", "kind": "SessionList", "items": items, "next": following})


def _json(document: object) -> str:
    import json  # of all that is told apart here only `ls` comes by this way

    return safe_json(json.dumps(document, ensure_ascii=False, separators=(",", ":"))) + "\n"


def _document(row: ListedSession, now_ms: int) -> dict[str, object]:
    """As `documents.session_document`."""
    import json

    config = json.loads(row.config)
    state = json.loads(row.turn_state)
    context = state.get("last_prompt_usage")
    lease = _lease(row, now_ms)
    return {
        "id": row.session_id,
        "name": row.name,
        "status": _status(row, lease),
        "provider": config["provider_id"],
        "model": config["model"]["id"],
        "turns": state.get("turn_index", 0),
        "pending_inputs": row.pending_inputs,
        "pending_batches": row.pending_batches,
        "running_turn": row.running_turn_id,
        "head_revision": row.head_revision,
        "created_at": rfc3339(row.created_at_ms),
        "last_activity_at": rfc3339(row.last_commit_at_ms or row.created_at_ms),
        "closed_at": rfc3339(row.closed_at_ms),
        "parked_at": rfc3339(row.parked_at_ms),
        "held_at": rfc3339(row.held_at_ms),
        "hold_reason": row.hold_reason,
        "cwd": row.cwd,
        "parent": row.parent_session_id,
        "labels": json.loads(row.labels),
        "context_tokens": context["context_budget_tokens"] if context else None,
        "lease": lease,
    }


def _status(row: ListedSession, lease: dict[str, object] | None) -> str:
    if row.running_turn_id is not None:
        if lease is None or not lease["live"]:
            return "stuck"
        return "waiting" if row.is_waiting else "running"
    if row.closed_at_ms is not None:
        return "closed"
    if row.pending_inputs or row.pending_batches:
        return "queued"
    return "parked" if row.parked_at_ms is not None else "idle"


def _lease(row: ListedSession, now_ms: int) -> dict[str, object] | None:
    if row.lease_token is None:
        return None
    import json

    owner = json.loads(row.lease_owner) if row.lease_owner else None
    process = owner.get("liveness", {}) if owner else {}
    is_process = process.get("kind") == "local_process"
    is_live = now_ms < row.lease_expires_at_ms
    if is_live and is_process:
        from lash_cli.core.lease import LocalProcess
        from lash_cli.system import is_definitely_dead

        holder = LocalProcess(process["host_id"], process["boot_id"], process["pid"], process["process_start"])
        is_live = not is_definitely_dead(holder)
    return {
        "holder": owner
        and {
            "owner_id": owner["owner_id"],
            "label": owner.get("label") or None,
            "pid": process["pid"] if is_process else None,
            "host": process["host_id"] if is_process else None,
        },
        "generation": row.lease_fencing_token,
        "claimed_at": rfc3339(row.lease_claimed_at_ms),
        "expires_at": rfc3339(row.lease_expires_at_ms),
        "expires_in_ms": max(0, row.lease_expires_at_ms - now_ms),
        "live": is_live,
    }
