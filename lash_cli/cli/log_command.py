"""`lash log`: the committed transcript of a session, nothing else (contract 08 §5.1).

The command line only: what it reads and prints is in `transcript_detail`. As
JSON every part of every message is there; the options that shorten the text
only choose what people see.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from lash_cli.cli.arguments import Raw, SessionArgument
from lash_cli.cli.transcript_detail import TextChoice, show_transcript
from lash_cli.cli.word_lists import words_of
from lash_cli.core.content import Role
from lash_cli.errors import UsageError


def command(
    session: SessionArgument = None,
    last: Annotated[int | None, typer.Option(metavar="N", min=1, help="Only the last N messages.")] = None,
    turn: Annotated[str | None, typer.Option(metavar="TURN", help="Only the messages of one turn.")] = None,
    role: Annotated[list[str] | None, typer.Option(metavar="ROLE", help="user, assistant, system or event.")] = None,
    reasoning: Annotated[bool, typer.Option("--reasoning", help="Show reasoning too.")] = False,
    tools: Annotated[bool, typer.Option("--tools", help="Show tool calls and results in full.")] = False,
    frames: Annotated[bool, typer.Option("--frames", help="The frames before the current one too.")] = False,
    raw: Raw = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is committed later.")] = False,
    since_cursor: Annotated[str | None, typer.Option(metavar="C", help="Only what was committed after it.")] = None,
) -> int:
    """Print the committed transcript of a session: what the model sees, and with --frames what a compaction left out.

    As JSON: {"schema":"lash/1","kind":"Transcript","session":…,"items":[…]}. With -o jsonl one message per line.
    --follow goes on until a signal or the end of the session; with -o jsonl it is a stream whose message lines have
    the cursor to go on from. What a running turn shows is seen with lash tail. At a terminal a long transcript opens in
    the pager of PAGER, or less.
    """
    choice = TextChoice(reasoning, tools, raw)
    if frames and (follow or since_cursor is not None or turn is not None):
        raise UsageError("--frames shows the whole path; it goes with neither --follow, --since-cursor nor --turn")
    if turn is not None and (follow or since_cursor is not None):
        raise UsageError("--turn names one turn; it goes with neither --follow nor --since-cursor")
    since = None
    if since_cursor is not None:
        from lash_cli.core.observation import SessionCursor

        since = SessionCursor.from_store_token(since_cursor)
    if follow:
        from lash_cli.cli.log_follow import FollowChoice, follow_transcript
        from lash_cli.cli.reading import run_watching

        return run_watching(follow_transcript(session, FollowChoice(since, named_roles(role), last, choice)))
    return show_transcript(
        session, turn_id=turn, roles=named_roles(role), last=last, since=since, all_frames=frames, choice=choice
    )


def named_roles(texts: Sequence[str] | None) -> frozenset[Role] | None:
    """The roles of `--role` options, each of which may name several; None for none. Raises `UsageError`."""
    if not texts:
        return None
    known = {role.value: role for role in Role}
    return frozenset(known[word] for word in words_of("--role", texts, known, "unknown role"))
