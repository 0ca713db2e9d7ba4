"""`lash serve --stdio`: sessions for a program that started this one, as JSON lines (contract 08 §1.1, §5.4).

Ends when the peer closes stdin (what runs ends by itself first), on `shutdown`
and on a signal (running turns are cancelled and committed first), and when the
peer reads no more (running turns end by themselves; status 141). A second
signal kills; the turn is finished by whoever takes the session next.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from lash_cli.cli.exit_status import CLOSED_STDOUT_EXIT
from lash_cli.cli.invocation import current
from lash_cli.cli.reading import run_async
from lash_cli.errors import UsageError

_LOOK_SECONDS = 0.25


def command(
    session: Annotated[str | None, typer.Argument(metavar="[SESSION]", help="Meant when a request names none.")] = None,
    stdio: Annotated[bool, typer.Option("--stdio", help="Requests on stdin, answers on stdout.")] = False,
    approve: Annotated[
        list[str] | None, typer.Option(metavar="CLASS=MODE", help="As for lash turn; nobody is asked here.")
    ] = None,
) -> int:
    """Answer requests of a program, one JSON object per line, until stdin ends.

    The first line is "ready" with the methods. A request is
    {"id": 1, "method": "prompt", "params": {"session": "notes", "text": "Hi"}};
    it gets its events and one response, whose error is that of the command.
    See: lash help serve
    """
    from lash_cli.cli.turn_command import approvals

    if not stdio:
        raise UsageError("a way to be reached is needed", hint="lash serve --stdio")
    if current().options.output is None:
        current().options.output = "jsonl"  # for warnings on stderr: a program reads them
    return run_async(_serve(session, approvals(approve)))


async def _serve(session: str | None, approve: dict[str, str]) -> int:
    from lash_cli.cli.failure import failure_document
    from lash_cli.cli.serving import Verbs
    from lash_cli.cli.signals import turn_signals
    from lash_cli.remote.lines import LineReader, LineWriter
    from lash_cli.remote.rpc import RpcServer

    reader = LineReader(sys.stdin.fileno())

    def abandon() -> None:
        reader.stop()
        verbs.tails.stop_all()

    def shut_down(is_draining: bool) -> None:
        abandon()
        if not is_draining:
            verbs.end("the server was shut down")

    writer = LineWriter(sys.stdout.fileno(), on_closed=abandon)

    verbs = Verbs(session, approve, shut_down)
    server = RpcServer(verbs.methods(), write=writer.write, flush=writer.flush, describe=failure_document)
    with turn_signals(lambda: shut_down(False)) as signals:
        server.ready()
        await server.serve(reader.lines())
        verbs.tails.stop_endless()
        while not await server.finish(_LOOK_SECONDS):
            verbs.cancel_if_over()
        await writer.close()
    if signals.exit_status is not None:
        return signals.exit_status
    return CLOSED_STDOUT_EXIT if writer.is_closed else 0
