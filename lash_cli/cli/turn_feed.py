"""`lash turn SESSION -o jsonl --input jsonl`: a turn for each line of stdin, one after another (contract 08 §6.3).

A line is `{"text": …, "key": …?, "attachments": […]?}`. All turns are one stream
of events, begun before the first line is read, so that a program can write a
line, read until its `turn_finished`, and write the next. The first turn that
does not end well ends the stream with its error, and what follows is not read:
it may have counted on the answer. Lines wait as long as it takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from lash_cli.cli.exit_status import CLOSED_STDOUT_EXIT
from lash_cli.cli.invocation import current
from lash_cli.cli.output import warn_once
from lash_cli.cli.signals import SignalState
from lash_cli.cli.stdin import STDIN_MARK, StdinKind, stdin_kind
from lash_cli.cli.turn_run import TIMEOUT_REASON, TurnRun
from lash_cli.core.codec import decode
from lash_cli.core.content import InputItem, TextItem
from lash_cli.errors import LashError, SessionExecutionBusy, UsageError
from lash_cli.remote.lines import LineReader

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from lash_cli.api import LashCore, LashSession, TurnBuilder
    from lash_cli.cli.documents import Document
    from lash_cli.cli.turn_command import TurnPlan

_STDIN = 0


class FedLine(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A line of the input. `attachments` are paths and addresses, as `--attach` takes them."""

    text: str
    key: str | None = None
    attachments: list[str] = []


def check_input(how: str, contradicting: dict[str, object]) -> None:
    """Raise what stands against `--input HOW`, before anything is opened; `contradicting` are options by name."""
    if how != "jsonl":
        raise UsageError(f"--input cannot be {how!r}", hint="there is: jsonl")
    if not current().output.is_stream:
        raise UsageError(
            "--input jsonl answers with a stream of events", hint="use -o jsonl, without --fields and --format"
        )
    given = [name for name, value in contradicting.items() if value is not None]
    if given:
        raise UsageError(
            f"--input jsonl brings the texts; it does not go with {', '.join(given)}",
            hint='a line is {"text": "…", "key": "…", "attachments": ["…"]}, and only text is needed',
        )
    if current().no_stdin or stdin_kind() not in (StdinKind.FILE, StdinKind.FIFO):
        reason = "stdin is not read" if current().no_stdin else "stdin is neither a file nor a pipe"
        raise UsageError(f"--input jsonl needs lines, but {reason}", code="empty_prompt", hint="pipe them in")


class FedTurns(TurnRun):
    """The turns of one input, as one stream."""

    async def drive_lines(
        self,
        build: Callable[[tuple[InputItem, ...], str | None], TurnBuilder],
        enqueue: Callable[[tuple[InputItem, ...], str | None], Awaitable[Document]] | None,
    ) -> int:
        """Run a turn for each line and return the exit status; raises the error of the first that did not end well.

        `enqueue` queues the text of a line when the session is busy.
        """
        reader = LineReader(_STDIN)

        def stop() -> None:
            self._cancel_for_signal()
            reader.stop()

        async def turns(signals: SignalState) -> LashError | None:
            error = await self._each(reader, signals, build, enqueue)
            await self._end(error, signals)
            return error

        signals = await self._guarded(stop, turns)
        return CLOSED_STDOUT_EXIT if self._pump.is_closed else signals.exit_status or 0

    async def _each(
        self,
        reader: LineReader,
        signals: SignalState,
        build: Callable[[tuple[InputItem, ...], str | None], TurnBuilder],
        enqueue: Callable[[tuple[InputItem, ...], str | None], Awaitable[Document]] | None,
    ) -> LashError | None:
        """The error of the first turn that did not end well."""
        assert self._lines is not None
        number = turns = 0
        async for line in reader.lines():
            number += 1
            if signals.received is not None or self._pump.is_closed:
                break
            if isinstance(line, LashError):
                raise line
            if not line.strip():
                continue
            items, key = _items(line, number)
            turns += 1
            try:
                output = await self._stream(build(items, key))
            except SessionExecutionBusy:
                if enqueue is None:
                    raise
                self._lines.queued(await enqueue(items, key))
                continue
            assert output.result is not None, "a turn that was given a text has a result"
            self._lines.finish(output.result, replayed=output.replayed)
            error = self._error_of(output, signals)
            if error is not None:
                return error
        await asyncio.sleep(0)  # who ends us often closes our stdin at the same moment, and the signal tells why
        if not turns and signals.received is None and not self._pump.is_closed:
            raise UsageError("stdin held no line; nothing was sent", code="empty_prompt")
        return None

    async def _end(self, error: LashError | None, signals: SignalState) -> None:
        """Write the last line: of a signal that came between two turns, too."""
        assert self._lines is not None
        if error is None and signals.exit_status is not None:
            self._lines.end("signal", signals.exit_status, None)
        is_signal = error is not None and error.exit_status == signals.exit_status
        is_timeout = error is not None and error.code == "wait_timeout"
        await self._end_stream("signal" if is_signal else TIMEOUT_REASON if is_timeout else "turn", error)


def _items(line: bytes, number: int) -> tuple[tuple[InputItem, ...], str | None]:
    """What a line says; raises `UsageError` naming its number."""
    from lash_cli.cli.attaching import read_attachments

    where = {"line": number}
    try:
        asked = decode(line.decode("utf-8"), FedLine)
    except UnicodeDecodeError as error:
        message = f"line {number} of stdin is not valid UTF-8 at byte {error.start}"
        raise UsageError(message, code="prompt_not_utf8", details={**where, "byte_offset": error.start}) from error
    except msgspec.DecodeError as error:
        hint = 'a line is {"text": "…", "key": "…", "attachments": ["…"]}, and only text is needed'
        raise UsageError(f"line {number} of stdin is no input: {error}", hint=hint, details=where) from error
    if not asked.text.strip():
        raise UsageError(f"the text of line {number} of stdin is empty", code="empty_prompt", details=where)
    if STDIN_MARK in asked.attachments:
        raise UsageError(f"line {number} attaches stdin, which brings the lines", details=where)
    return (TextItem(asked.text), *read_attachments(asked.attachments)), asked.key


async def run_fed_turns(
    core: LashCore, session: LashSession, plan: TurnPlan, make_builder: Callable[[TurnPlan], TurnBuilder]
) -> int:
    """Run the turns of stdin in an opened session under the options of `plan`."""
    from lash_cli.cli.enqueueing import enqueue_instead

    def saying(items: tuple[InputItem, ...], key: str | None) -> TurnPlan:
        return msgspec.structs.replace(plan, items=items, key=key)

    async def enqueue(items: tuple[InputItem, ...], key: str | None) -> Document:
        receipt = await enqueue_instead(core.store, session.session_id, saying(items, key).content, key)
        if plan.own_options:
            warn_once(f"texts were queued without {', '.join(plan.own_options)}, which are for a turn that runs now")
        return receipt

    run = FedTurns(session, plan.showing, store=core.host.store)
    return await run.drive_lines(
        lambda items, key: make_builder(saying(items, key)), enqueue if plan.if_busy.enqueues else None
    )
