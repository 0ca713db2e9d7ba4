"""`lash enqueue`: put text into a session's queue and print the receipt (contract 08 §5.2).

The command line; what it does is in `enqueueing`.
"""

from __future__ import annotations

from typing import Annotated

import typer

from lash_cli.api.queue import source_key_of
from lash_cli.cli.arguments import Attachments, Key, Prompt, SessionArgument
from lash_cli.cli.durations import WaitCommand, duration_ms
from lash_cli.cli.enqueueing import EnqueuePlan, submit
from lash_cli.cli.stdin import read_prompt, stdin_takers
from lash_cli.core.content import TurnInput
from lash_cli.core.ingress import Boundary
from lash_cli.errors import UsageError

BOUNDARIES = ("after_work", "before_completion")

command_class = WaitCommand


def command(
    session: SessionArgument = None,
    prompt: Prompt = None,
    key: Key = None,
    attach: Attachments = None,
    now: Annotated[bool, typer.Option("--now", help="Into the turn that runs, at its next checkpoint.")] = False,
    turn: Annotated[str | None, typer.Option(metavar="TURN", help="As --now, but only into that turn.")] = None,
    boundary: Annotated[
        str | None, typer.Option(metavar="WHEN", help="after_work (default) or before_completion; with --now.")
    ] = None,
    or_next: Annotated[bool, typer.Option("--or-next", help="With --now: else into the next turn.")] = False,
    wait: Annotated[
        str | None, typer.Option(metavar="[=DUR]", help="Wait until it was used; exit as its turn does (124: not yet).")
    ] = None,
) -> int:
    """Put text into a session's queue and print its receipt.

    It is for the next full turn, unless --now or --turn says otherwise. What is
    queued waits until somebody drains the session: lash work SESSION.
    """
    plan = EnqueuePlan(
        reference=session,
        key=_checked_key(key),
        turn_id=turn,
        boundary=_boundary(boundary, is_for_running_turn=now or turn is not None, or_next=or_next),
        or_next=or_next,
        wait_ms=duration_ms(wait) if wait is not None else None,
        wait_text=wait,
        content=_content(prompt, attach),
    )
    return submit(plan)


def _content(prompt: str | None, attach: list[str] | None) -> TurnInput:
    if not attach:
        return TurnInput(items=read_prompt(prompt))
    from lash_cli.cli.attaching import read_attachments

    text = read_prompt(prompt, stdin_is_taken=stdin_takers(attach))
    return TurnInput(items=(*text, *read_attachments(attach)))


def _checked_key(key: str | None) -> str | None:
    if key is not None:
        source_key_of(key)  # raises before stdin is read
    return key


def _boundary(text: str | None, *, is_for_running_turn: bool, or_next: bool) -> Boundary | None:
    if text is not None and text not in BOUNDARIES:
        raise UsageError(f"--boundary cannot be {text!r}", hint=f"there are: {', '.join(BOUNDARIES)}")
    if not is_for_running_turn:
        for option, is_given in (("--boundary", text is not None), ("--or-next", or_next)):
            if is_given:
                raise UsageError(f"{option} is for text that enters a running turn", hint="add --now or --turn TURN")
        return None
    return "before_completion" if text == "before_completion" else "after_work"
