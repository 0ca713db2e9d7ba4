"""Arguments and options that several commands take, each said once: they mean the same everywhere (contract 08 §5)."""

from __future__ import annotations

from typing import Annotated

import typer

OneSession = Annotated[str, typer.Argument(metavar="SESSION", help="Id, name, @last or @any.")]
# Without it the one that LASH_SESSION names.
SessionArgument = Annotated[str | None, typer.Argument(metavar="SESSION", help="Id, name, @last or @any.")]
OfSession = Annotated[
    str | None, typer.Option("--session", metavar="SESSION", help="Only if it belongs to this session.")
]
SomeSessions = Annotated[list[str], typer.Argument(metavar="SESSION...", help="Ids or names.")]
AnySessions = Annotated[list[str] | None, typer.Argument(metavar="[SESSION...]", help="Ids or names.")]
Prompt = Annotated[str | None, typer.Argument(metavar="[PROMPT]", help="The text; - or nothing: stdin.")]
Attachments = Annotated[
    list[str] | None,
    typer.Option("--attach", "-a", metavar="PATH|URL|-", help="An image, PDF or text; repeatable."),
]
Key = Annotated[str | None, typer.Option(help="Submit once under this key; a repeat answers the same.")]
IfBusyText = Annotated[str | None, typer.Option(metavar="HOW", help="fail, wait, wait=DUR or enqueue.")]
Approvals = Annotated[list[str] | None, typer.Option(metavar="CLASS=MODE", help="As for lash turn.")]
Heartbeat = Annotated[str | None, typer.Option(metavar="DUR", help="With -o jsonl: a line at least so often.")]
Raw = Annotated[bool, typer.Option("--raw", help="Do not make terminal escapes harmless.")]
