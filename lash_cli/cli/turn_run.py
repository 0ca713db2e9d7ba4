"""Driving one turn to its end: activities to the view, signals to the turn, the outcome to an exit status.

Shared by every verb that runs a turn (contract 08 §6.1–§6.5, §7.5). The turn is
committed before anything here decides what the command ends with, and a reader
that goes away, a signal or a time limit only change how it ends, never whether
it is committed.
"""

from __future__ import annotations

import asyncio
import io
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TextIO

import msgspec

from lash_cli.cli.exit_status import CLOSED_STDOUT_EXIT, interrupted_error, timeout_error, turn_error
from lash_cli.cli.invocation import current
from lash_cli.cli.out_files import write_out
from lash_cli.cli.output import SCHEMA, emit_one, safe, say, tell, to_json, warn, warn_of_raw
from lash_cli.cli.signals import SignalState, given_back, interrupted_before, turn_signals, write_at_once
from lash_cli.cli.turn_cursors import TurnCursors
from lash_cli.cli.turn_documents import turn_result_document, turn_usage_document
from lash_cli.cli.turn_stream import EventLines, OutputPump
from lash_cli.core.activity import Committed, TurnActivity, TurnFinished, TurnStarted
from lash_cli.core.outcome import ANSWER_NOT_KEPT, Stopped, TurnResult
from lash_cli.errors import LashError, LashRuntimeError, SessionExecutionBusy
from lash_cli.system import SystemClock
from lash_cli.views.answer import (
    WITHOUT_A_WORD,
    MarkdownTerminalView,
    PipeView,
    PlainTerminalView,
    QuietView,
    TurnView,
    ValueView,
)
from lash_cli.views.queue import receipt_text
from lash_cli.views.safe_text import ascii_text
from lash_cli.views.shell_words import shell_word

if TYPE_CHECKING:
    from lash_cli.api import LashSession, TurnBuilder, TurnOutput
    from lash_cli.cli.asking import TerminalAsker
    from lash_cli.cli.documents import Document
    from lash_cli.store.base import RuntimePersistence

TIMEOUT_REASON = "timeout"
INTERNAL_REQUEST = "internal:"
_SHOW_CURSOR = "\x1b[?25h"


class Showing(msgspec.Struct, frozen=True):
    """How a turn is shown: where the answer goes and what else is written."""

    out: str | None = None
    usage_file: str | None = None
    raw: bool = False
    timeout_text: str | None = None
    is_ephemeral: bool = False
    is_value: bool = False
    heartbeat_seconds: float | None = None


class TurnRun:
    """One turn of this command."""

    def __init__(
        self,
        session: LashSession,
        showing: Showing,
        asker: TerminalAsker | None = None,
        enqueue: Callable[[], Awaitable[Document]] | None = None,
        store: RuntimePersistence | None = None,
    ) -> None:
        """`enqueue` queues the text when the session is busy and returns the receipt; without it busy is an error.
        `store` is where the session stands; without one the cursors of a JSONL stream are null."""
        self._session = session
        self._store = store
        self._cursors = TurnCursors(None if store is None else store.live, session.session_id)
        self._asker = asker
        self._enqueue = enqueue
        if asker is not None:
            asker.show = self.ask
        self._name = session.name
        self._showing = showing
        self._pump = OutputPump(_stdout_descriptor())
        self._file: list[str] = []
        self._lines: EventLines | None = None
        self._view = self._make_view()
        # An interrupted turn that is finished first is not the answer asked for: its text goes to stderr.
        self._earlier = PipeView(lambda text: tell(text.rstrip("\n")), tell, self._clean)
        self._earlier_ids: set[str] = set()
        self._has_begun = False
        # The id asked for, "" for any new turn, None when the interrupted turn is what was asked for.
        self._asked_for: str | None = ""

    async def drive(self, builder: TurnBuilder, *, turn_id: str | None = None, finishes_earlier: bool = False) -> int:
        """Run the turn and return the exit status of the command.

        `turn_id` is the id the caller asked for, if any; with
        `finishes_earlier` an interrupted turn is itself what was asked for.
        Raises the error the outcome stands for, after everything was written.
        """
        self._asked_for = None if finishes_earlier else (turn_id or "")

        async def turn(signals: SignalState) -> LashError | None:
            output = await self._stream_or_enqueue(builder)
            error = self._error_of(output, signals) if output is not None else None
            if output is not None:
                await self._show_end(output, error, signals)
            return error

        await self._guarded(self._cancel_for_signal, turn)
        return CLOSED_STDOUT_EXIT if self._pump.is_closed else 0

    async def _guarded(
        self, on_signal: Callable[[], object], work: Callable[[SignalState], Awaitable[LashError | None]]
    ) -> SignalState:
        """Do `work`, which writes all it has to say and returns what it amounts to: that is raised, and whatever else
        ends it, once that is written too. Which signal came, calling `on_signal`."""
        begun_at = await self._cursors.present() if self._lines is not None else None
        before_stop = None if self._store is None else self._store.finish_writes
        with turn_signals(on_signal, before_stop=before_stop) as signals, given_back(self._give_back):
            await interrupted_before()
            if self._lines is not None:
                # Handlers first: a stream whose beginning was read has an end, whatever signal comes then.
                self._lines.start("turn", begun_at)
            async with self._beating():
                try:
                    error = await work(signals)
                except Exception as failure:  # noqa: BLE001 - raised as what was told of it
                    raise await self._ended_by(failure, signals)  # noqa: B904 - it has its own cause
                finally:
                    self._view.leave()
                    self._hint()
            if error is not None:
                raise error
        return signals

    @asynccontextmanager
    async def _beating(self) -> AsyncIterator[None]:
        """Write the heartbeats that were asked for, for as long as the block takes."""
        seconds = self._showing.heartbeat_seconds
        if self._lines is None or seconds is None:
            yield
            return
        beating = asyncio.ensure_future(self._lines.beat(seconds))
        try:
            yield
        finally:
            beating.cancel()
            await asyncio.wait({beating})

    def ask(self, question: str) -> None:
        """Print a question where the answer of the turn is being printed, in order with it."""
        self._view.leave()
        if self._is_on_terminal:
            self._write(question)
        else:
            sys.stderr.write(question)
            sys.stderr.flush()

    async def _stream_or_enqueue(self, builder: TurnBuilder) -> TurnOutput | None:
        """The turn's output; None when the session was busy and the text waits for its next turn."""
        try:
            return await self._stream(builder)
        except SessionExecutionBusy as busy:
            if self._enqueue is None:
                busy.hint = "wait for it with --if-busy wait=30s"
                if busy.details["holder"]["turn_id"] is not None:
                    busy.hint += f", or stop it with: lash cancel {self._session.session_id}"
                raise
        document = await self._enqueue()
        if self._lines is not None:
            self._lines.queued(document)
        else:
            emit_one("PendingInput", document, text=receipt_text(document, clean=safe))
        await self._end_stream("queued", None)
        return None

    async def _stream(self, builder: TurnBuilder) -> TurnOutput:
        async with builder.stream() as stream:
            async for activity in stream:
                self._has_begun = True
                if self._lines is not None and isinstance(activity.event, Committed):
                    self._lines.settle(await self._cursors.settled(activity.turn_id))
                self._show(activity)
            return await stream.result()

    def _show(self, activity: TurnActivity) -> None:
        event = activity.event
        if isinstance(event, TurnStarted) and event.redriven:
            say(f"finishing interrupted turn {activity.turn_id}")
            if self._asked_for is not None and activity.turn_id != self._asked_for:
                self._earlier_ids.add(activity.turn_id)
        is_earlier = activity.turn_id in self._earlier_ids
        if isinstance(event, TurnFinished) and not is_earlier:
            return
        if self._lines is not None:
            self._lines.show(activity)
        elif not is_earlier:
            self._view.show(activity)
        else:
            self._view.leave()
            self._earlier.show(activity)
            if isinstance(event, TurnFinished):
                self._earlier.settle()
                if isinstance(event.outcome, Stopped):
                    say(f"interrupted turn {activity.turn_id} stopped: {event.outcome.reason}")

    def _cancel_for_signal(self) -> None:
        self._session.cancel_running_turns(origin="signal", reason="interrupted at the terminal")
        say("cancelling…")
        if self._asker is not None:
            self._asker.withdraw()

    def _give_back(self) -> None:
        """What draws an answer that grows hides the cursor meanwhile."""
        if isinstance(self._view, MarkdownTerminalView):
            write_at_once(sys.stdout.fileno(), _SHOW_CURSOR)

    def _error_of(self, output: TurnOutput, signals: SignalState) -> LashError | None:
        result = _result_of(output)
        if result is None:
            return None
        details = {"turn": turn_result_document(result, name=self._name, replayed=output.replayed)}
        if result.outcome == Stopped("cancelled") and not output.replayed:
            evidence = result.cancellation
            is_ours = evidence is not None and evidence.request_id.startswith(INTERNAL_REQUEST)
            if is_ours and evidence is not None and evidence.reason == TIMEOUT_REASON:
                return timeout_error(self._showing.timeout_text or "its time limit", details)
            if is_ours and signals.received is not None:
                return interrupted_error(signals.received, details)
        return turn_error(
            result,
            details,
            provider=self._session.policy_snapshot.provider_id,
            is_kept=not self._showing.is_ephemeral,
        )

    async def _show_end(self, output: TurnOutput, error: LashError | None, signals: SignalState) -> None:
        result = _result_of(output)
        if result is None:
            await self._end_stream("idle", None)
            return
        self._write_usage(result)
        self._view.finish(result, replayed=output.replayed)
        if self._lines is None and not self._is_document:
            # Without a word it would look like a turn that answered nothing; a program reads it among the errors.
            for issue in result.errors:
                if issue.code == ANSWER_NOT_KEPT:
                    warn(issue.message, ANSWER_NOT_KEPT)
            text = result.assistant_message()
            if text is not None and not text.strip() and not result.errors:
                warn(WITHOUT_A_WORD, "answer_without_text")
        reason = "turn"
        if error is not None and signals.received is not None and error.exit_status == signals.exit_status:
            reason = "signal"
        elif error is not None and error.code == "wait_timeout":
            reason = TIMEOUT_REASON
        await self._end_stream(reason, error)
        if error is None and self._is_document:
            self._emit_document(result, output.replayed)
        if self._showing.out is not None and (error is None or self._lines is not None):
            self._write_file(self._showing.out, "".join(self._file))

    async def _ended_by(self, failure: Exception, signals: SignalState) -> Exception:
        """What is raised for `failure` once all is written: of a stream, what its last line tells. A session that was
        waited for until a signal came is no failure."""
        reason = "error"
        if isinstance(failure, SessionExecutionBusy) and signals.received is not None:
            reason = "signal"
            failure = interrupted_error(signals.received, failure.details, has_begun=False)
        if self._lines is None:
            await self._pump.drained()
            return failure
        error = await self._pump.told_as(failure)
        await self._end_stream(reason, error)
        return error

    async def _end_stream(self, reason: str, error: LashError | None) -> None:
        if self._lines is not None:
            from lash_cli.cli.failure import error_document

            document = error_document(error) if error is not None else None
            self._lines.end(reason, error.exit_status if error is not None else 0, document)
        await self._pump.drained()

    def _emit_document(self, result: TurnResult, replayed: bool) -> None:
        document = turn_result_document(result, name=self._name, replayed=replayed)
        if self._showing.out is not None:
            self._file.append(to_json({"schema": SCHEMA, "kind": "TurnResult", **document}) + "\n")
        else:
            emit_one("TurnResult", document, name=result.turn_id, text=document["text"] or "")

    def _write_usage(self, result: TurnResult) -> None:
        if self._showing.usage_file is not None:
            document = {"schema": SCHEMA, "kind": "TurnUsage", **turn_usage_document(result)}
            self._write_file(self._showing.usage_file, to_json(document) + "\n")

    def _write_file(self, path: str, text: str) -> None:
        """Replace `path` by `text`, whole or not at all."""
        try:
            write_out(path, text.encode("utf-8", "backslashreplace"))
        except OSError as error:
            is_kept = not self._showing.is_ephemeral
            unwritten = LashRuntimeError(
                "output_not_written",
                f"the turn {'is committed' if is_kept else 'ended'}, but {path} could not be written: {error.strerror}",
                hint=f"what it says is kept: lash log {shell_word(self._session.session_id)}" if is_kept else None,
            )
            # Whatever the reason: who tries again without a look gets a second turn.
            unwritten.ambiguous = True
            raise unwritten from error

    def _hint(self) -> None:
        if self._has_begun and not self._showing.is_ephemeral:
            session_id = self._session.session_id
            say(f"session {session_id}" if self._name is None else f"session {self._name} ({session_id})")
            say(f'resume: lash turn {shell_word(self._name or session_id)} "…"')

    @property
    def _is_document(self) -> bool:
        """Whether the result is one document at the end instead of a text."""
        options = current().output
        return options.format in ("json", "name") or options.is_chosen_from

    @property
    def _is_on_terminal(self) -> bool:
        """Whether the answer and the notes beside it go to a terminal, and then to one writer."""
        is_text = self._lines is None and not self._is_document
        return is_text and self._showing.out is None and _is_terminal(sys.stdout) and _is_terminal(sys.stderr)

    def _clean(self, text: str) -> str:
        return text if self._showing.raw else safe(text)

    def _write(self, text: str) -> None:
        if current().output.ascii:
            text = ascii_text(text)
        if self._showing.out is not None:
            self._file.append(text)
        else:
            self._pump.write(text)

    def _make_view(self) -> TurnView:
        options = current().output
        if self._is_document:
            return QuietView(None, self._clean)
        if options.is_stream:
            self._lines = EventLines(
                self._write,
                self._session.session_id,
                session_name=self._name,
                now_ms=SystemClock().now_ms,
                ascii_only=options.ascii,
            )
            return self._lines
        if self._showing.raw and self._showing.out is None:
            warn_of_raw()
        if options.quiet:
            return QuietView(self._write, self._clean)
        told = self._tell_on_terminal if self._is_on_terminal else tell
        if self._showing.is_value:
            return ValueView(self._write, told, self._clean)
        if self._showing.out is not None or not options.is_terminal:
            return PipeView(self._write, tell, self._clean)
        if options.plain:
            return PlainTerminalView(self._write, told, self._clean)
        width = options.columns or shutil.get_terminal_size().columns
        return MarkdownTerminalView(_PumpFile(self._write), told, self._clean, color=options.color, width=width)

    def _tell_on_terminal(self, line: str) -> None:
        """Through the same writer as the answer, so that both stay in order on one screen."""
        self._write(safe(line) + "\n")


def _result_of(output: TurnOutput) -> TurnResult | None:
    """The result the command is about: of the requested turn, or of the one that was finished for `resume`."""
    result: TurnResult | None = output.result
    if result is None and output.redriven:
        result = output.redriven[-1]
    return result


class _PumpFile(io.StringIO):
    """A text file over a write function, for Rich."""

    def __init__(self, write: Callable[[str], None]) -> None:
        super().__init__()
        self._write = write

    def write(self, text: str) -> int:
        """Hand the text on."""
        self._write(text)
        return len(text)

    def isatty(self) -> bool:
        """It stands for the terminal."""
        return True


def _is_terminal(stream: TextIO | None) -> bool:
    """Whether `stream` is a terminal; one that was closed before we started is none."""
    return stream is not None and stream.isatty()


def _stdout_descriptor() -> int:
    """The descriptor behind stdout, with nothing of ours waiting in front of it."""
    sys.stdout.flush()
    return sys.stdout.fileno()
