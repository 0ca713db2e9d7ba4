"""`lash tail`: watch sessions live from any process, read-only (contract 08 §5.1, §8)."""

from __future__ import annotations

from typing import Annotated

import typer

from lash_cli.cli.arguments import AnySessions, Heartbeat
from lash_cli.cli.durations import duration_ms, heartbeat_seconds
from lash_cli.cli.reading import run_watching
from lash_cli.cli.word_lists import words_of
from lash_cli.errors import UsageError


def command(
    sessions: AnySessions = None,
    every: Annotated[bool, typer.Option("--all", help="Every session, those made later too.")] = False,
    begin: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="WHERE",
            help="now (default), start (the transcript first), last-commit (what runs, whole), or a cursor.",
        ),
    ] = None,
    cursor: Annotated[str | None, typer.Option(metavar="C", help="Go on from a cursor: --from C.")] = None,
    until: Annotated[
        str | None,
        typer.Option(metavar="WHEN", help="End when idle, after a turn, when committed, or after a duration."),
    ] = None,
    types: Annotated[
        list[str] | None, typer.Option("--types", metavar="A,B", help="Only events of these types; repeatable.")
    ] = None,
    save_cursor: Annotated[
        str | None, typer.Option(metavar="FILE", help="Keep the place in FILE, and go on from it the next time.")
    ] = None,
    strict_gap: Annotated[bool, typer.Option("--strict-gap", help="End with exit 4 when events were missed.")] = False,
    no_follow: Annotated[bool, typer.Option("--no-follow", help="Show what is there and end.")] = False,
    heartbeat: Heartbeat = None,
    raw: Annotated[bool, typer.Option("--raw", help="Show the text as it is, terminal escapes included.")] = False,
) -> int:
    """Watch sessions live, whichever process works on them.

    Nothing is written, no turn is slowed and no key is needed. On a terminal it
    is a live view; elsewhere lines, or JSON lines with -o jsonl, each with the
    cursor to go on from. What cannot be proven complete is shown as a gap.
    Keys of the live view: q quits, space pauses, e expands, c copies the
    command that cancels the running turn.
    With --until idle or turn the exit status is that of the last turn: 0, 6
    when it stopped, 7 when it was cancelled, and 75 when its writer died and
    nobody finishes it.
    """
    from lash_cli.cli.following import require_stream_format
    from lash_cli.cli.tail_cursor import NOW, Begin, CursorFile, parse_cursor, parse_from
    from lash_cli.cli.tail_plan import TailPlan, is_terminal
    from lash_cli.cli.tail_run import Tail

    is_json = require_stream_format("lash tail")
    references: tuple[str | None, ...] = tuple(sessions or ())
    if references and every:
        raise UsageError("--all and named sessions contradict each other", hint="give one or the other")
    if not references and not every:
        references = (None,)  # LASH_SESSION, or the error that says so
    if no_follow and until is not None:
        raise UsageError("--no-follow ends at once, --until later", hint="give one or the other")
    word, seconds = _until(until)
    if begin is not None and cursor is not None:
        raise UsageError("--from and --cursor both say where to begin", hint="give one or the other")
    asked = parse_from(begin) if begin is not None else parse_cursor(cursor) if cursor is not None else None
    if asked is not None and asked.cursors and (every or len(references) > 1):
        raise UsageError("a cursor belongs to one session", hint="name that session, or use --save-cursor")
    cursor_file = CursorFile(save_cursor) if save_cursor is not None else None
    kept = cursor_file.load(is_wanted=asked is None) if cursor_file is not None else None
    plan = TailPlan(
        references=references,
        is_all=every,
        begin=asked or kept or Begin(NOW, {}),
        until=word,
        seconds=seconds,
        types=_types(types),
        cursor_file=cursor_file,
        is_strict=strict_gap,
        follows=not no_follow,
        raw=raw,
        heartbeat_seconds=heartbeat_seconds(heartbeat, is_stream=is_json),
    )
    return run_watching(Tail(plan, is_json=is_json, is_live=not is_json and is_terminal()).run())


def _until(text: str | None) -> tuple[str | None, float | None]:
    """The condition and the seconds of `--until`."""
    if text is None or text in ("idle", "turn", "committed"):
        return text, None
    try:
        return None, duration_ms(text) / 1000
    except UsageError as error:
        raise UsageError(
            f"--until cannot be {text!r}", hint="it takes idle, turn, committed, or a duration such as 30s"
        ) from error


def _types(texts: list[str] | None) -> frozenset[str] | None:
    """The types of `--types`; raises `UsageError` naming the nearest for one that does not exist."""
    if texts is None:
        return None
    from lash_cli.cli.tail_stream import EVENT_TYPES, FRAMING

    return frozenset(words_of("--types", texts, EVENT_TYPES, "no event type", silent=FRAMING))
